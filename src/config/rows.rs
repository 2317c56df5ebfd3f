//! The table of settings: one row each, in the order in which `--help` and the file show them. Read through [`super::table`].

use std::time::Duration;

use serde_json::json;

use super::defaults::shards_auto;
use super::listen_url;
use super::parse::{self, SECOND};
use super::table::{Section, Setting, Shown, Value};
use super::words::{AUTO, NONE};
use super::{FdTable, LogFilter, LogFormat, Mismatch, Overrun, Pin, mask, redis_url};
use crate::auth::rules::Access;
use crate::limits::{CONNECTIONS_MAX, PAYLOAD_BYTES_MAX, SHARDS_MAX, SUBSCRIPTIONS_MAX};
use crate::named::Named;
use crate::wire::Format;
use crate::wire::payload::Expect;

/// A row with a single value: how to read it, how to show it.
macro_rules! one {
    ($section:ident.$field:ident, $text:ident => $parse:expr, $value:ident => $show:expr) => {
        Value::One {
            parse: |settings, $text| {
                settings.$section.$field = $parse?;
                Ok(())
            },
            show: |settings| {
                let $value = &settings.$section.$field;
                $show
            },
        }
    };
}

/// A row that is also a key of `[[channels]]`.
macro_rules! rule {
    ($key:literal, $field:ident, $text:ident => $parse:expr, $value:ident => $show:expr) => {
        Value::Rule {
            rule_key: $key,
            parse: |rule, $text| {
                rule.$field = $parse?;
                Ok(())
            },
            show: |rule| {
                let $value = &rule.$field;
                $show
            },
        }
    };
}

/// What a row with one of a few words has in place of [`ROW`].
macro_rules! word {
    ($section:ident.$field:ident: $type:ty) => {
        Setting {
            accepted: <$type>::NAMES,
            value: one!($section.$field, text => parse::word::<$type>(text), value => Shown::word(*value)),
            ..ROW
        }
    };
}

/// The same of a row that is also a key of `[[channels]]`.
macro_rules! word_rule {
    ($key:literal, $field:ident: $type:ty) => {
        Setting {
            accepted: <$type>::NAMES,
            value: rule!($key, $field, text => parse::word::<$type>(text), value => Shown::word(*value)),
            ..ROW
        }
    };
}

mod tokens;

/// Seconds, with a fraction only as milliseconds.
fn seconds(text: &str, min_s: u64, max_s: u64) -> Result<Duration, String> {
    parse::duration(text, SECOND, Duration::from_secs(min_s), Duration::from_secs(max_s))
}

fn show_seconds(time: Duration) -> Shown {
    Shown::Time { time, unit: SECOND }
}

fn size(text: &str, min: u64, max: u64) -> Result<usize, String> {
    parse::size(text, min, max).map(|bytes| bytes as usize)
}

const NAMED_TWICE: &str = "it is named twice";

fn push_distinct<T: PartialEq>(list: &mut Vec<T>, item: T) -> Result<(), String> {
    if list.contains(&item) {
        return Err(NAMED_TWICE.to_owned());
    }
    list.push(item);
    Ok(())
}

fn show_pin(pin: &Pin) -> Shown {
    match pin {
        Pin::List(cores) => Shown::Both { text: parse::show_cores(cores), json: json!(cores) },
        Pin::Auto | Pin::None => Shown::Text(parse::show_pin(pin)),
    }
}

/// Programs are told null where there is none.
fn show_limit<T: Copy + ToString + Into<serde_json::Value>>(limit: Option<T>) -> Shown {
    Shown::Both {
        text: limit.map_or_else(|| NONE.to_owned(), |limit| limit.to_string()),
        json: limit.map_or(serde_json::Value::Null, Into::into),
    }
}

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 86_400;
const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const T: u64 = 1 << 40;

/// What most rows have not.
const ROW: Setting = Setting {
    key: "",
    section: Section::Addresses,
    placeholder: "",
    help: "",
    accepted: "",
    value: Value::Switch { set: |_, _| (), get: |_| false },
    default_text: None,
    secret: None,
    live: false,
};

/// Who comes in, from where, and how often. Here for the macros above.
mod admission;
mod arrivals;
mod deflate;
/// How much of a channel is delivered, and how often.
mod delivery;
/// What is kept of it, and where.
mod keeping;
/// Who is there.
mod presence;
/// How messages come from Redis.
mod redis;
mod tls;

pub static SETTINGS: &[Setting] = &[
    arrivals::LISTEN,
    arrivals::TRUSTED_PROXIES,
    Setting {
        key: "control",
        section: Section::Addresses,
        placeholder: "ADDR",
        help: "Address for operators, or unix socket: metrics, health, publish. Keep it away from the public.",
        accepted: "an IP address and a port, as in 127.0.0.1:9090, http://127.0.0.1:9090. 0.0.0.0 is every IPv4 address of the host, [::] IPv4 and IPv6. Or unix:///PATH, with ?mode=660&group=NAME behind it where others than the server's user may connect",
        value: one!(addresses.control, text => listen_url::control(text), value => Shown::Text(value.to_string())),
        ..ROW
    },
    arrivals::CONTROL_TOKEN,
    arrivals::CONTROL_HOSTS,
    arrivals::RELOAD_ON_CHANGE,
    tls::CERT,
    tls::KEY,
    tls::MIN_VERSION,
    tls::SUITES,
    tls::CLIENT_AUTH,
    tls::CLIENT_CA,
    tls::TICKET_KEYS,
    tls::SESSIONS,
    Setting {
        key: "redis",
        section: Section::Redis,
        placeholder: "URL",
        help: "The Redis that messages come from. Without one, the embedded bus: same semantics, this process only. May be given more than once, for servers that know nothing of each other: each has a part of the channels, by a hash of their names.",
        accepted: redis_url::ACCEPTED,
        value: Value::OneOrMore {
            clear: |settings| (settings.redis.url, settings.redis.beside) = (None, Vec::new()),
            push: |settings, text| redis_url::push(&mut settings.redis, text),
            split: redis_url::split,
            show: |settings| settings.redis.urls().map(str::to_owned).collect(),
        },
        secret: Some(mask::url),
        ..ROW
    },
    keeping::REDIS_CA,
    keeping::REDIS_CERT,
    keeping::REDIS_KEY,
    Setting {
        key: "prefix",
        section: Section::Redis,
        placeholder: "PREFIX",
        help: "Redis channels that begin with this are served; clients name them without it.",
        accepted: "up to 255 bytes without control characters; \"\" serves every Redis channel",
        value: one!(redis.prefix, text => parse::prefix(text), value => Shown::Text(value.clone())),
        ..ROW
    },
    Setting {
        key: "redis_channel",
        section: Section::Redis,
        placeholder: "NAME",
        help: "A Redis channel outside the prefix that clients know by the same name. May be given more than once.",
        accepted: "names of 1 to 255 bytes without control characters",
        value: Value::Many {
            clear: |settings| settings.redis.channels.clear(),
            push: |settings, text| push_distinct(&mut settings.redis.channels, parse::channel_text(text, false)?),
            show: |settings| settings.redis.channels.clone(),
        },
        ..ROW
    },
    redis::REDIS_SUBSCRIBE,
    redis::PUBSUB,
    redis::PUBSUB_FROM,
    keeping::DURABLE_WAIT,
    Setting {
        key: "linger",
        section: Section::Redis,
        placeholder: "SECONDS",
        help: "How long a channel without subscribers stays subscribed. A client that comes back meanwhile costs Redis nothing. A channel with a history stays for history_age if that is longer.",
        accepted: "0 to 86400 seconds, or with a unit: 500ms, 10s, 5m, 1h",
        value: one!(redis.linger, text => seconds(text, 0, DAY_S), value => show_seconds(*value)),
        live: true,
        ..ROW
    },
    delivery::BUS_REST,
    presence::PRESENCE_LEASE,
    keeping::DATA_DIR,
    keeping::FSYNC,
    Setting {
        key: "shards",
        section: Section::Shards,
        placeholder: "N",
        help: "Threads that own sockets. The default is one per allowed core.",
        accepted: "auto, or 1 to 1024",
        value: one!(shards.count, text => if text == AUTO { Ok(shards_auto()) } else { parse::count(text, 1, SHARDS_MAX) }, value => Shown::Number(*value as u64)),
        default_text: Some(AUTO),
        ..ROW
    },
    Setting {
        key: "pin",
        section: Section::Shards,
        placeholder: "CORES",
        help: "Which cores the shards are pinned to. They are taken in order and around again; auto takes every allowed core, none leaves it to the scheduler.",
        accepted: "auto, none, or cores as in 0,2-3",
        value: one!(shards.pin, text => parse::pin(text), value => show_pin(value)),
        ..ROW
    },
    Setting {
        key: "fd_table",
        section: Section::Shards,
        placeholder: "TABLE",
        help: "One descriptor table for all shards, or one for each. With private tables the descriptor limit applies to each shard; auto goes private when one table would not hold connections_max and the system calls for it are allowed.",
        ..word!(shards.fd_table: FdTable)
    },
    Setting {
        key: "inbox_messages",
        section: Section::Shards,
        placeholder: "N",
        help: "Messages that may wait for one shard. What finds it full is a counted, announced gap.",
        accepted: "16 to 16777216",
        value: one!(shards.inbox_messages, text => parse::count(text, 16, 1 << 24), value => Shown::Number(*value as u64)),
        ..ROW
    },
    Setting {
        key: "backlog",
        section: Section::Shards,
        placeholder: "N",
        help: "Connections that may wait to be accepted on each listener. The kernel takes at most net.core.somaxconn.",
        accepted: "1 to 65535",
        value: one!(shards.backlog, text => parse::number(text, 1, 65_535).map(|number| number as u32), value => Shown::Number(u64::from(*value))),
        ..ROW
    },
    Setting {
        key: "notsent_bytes",
        section: Section::Shards,
        placeholder: "SIZE",
        help: "TCP_NOTSENT_LOWAT: what a stalled socket may hold unsent in the kernel. The rest stays in the log.",
        accepted: "1k to 16M, as in 16384, 16k",
        value: one!(shards.notsent_bytes, text => size(text, K, 16 * M).map(|bytes| bytes as u32), value => Shown::Bytes(u64::from(*value))),
        ..ROW
    },
    Setting {
        key: "format",
        section: Section::Clients,
        placeholder: "FORMAT",
        help: "How events are spelled on connections that choose nothing.",
        live: true,
        ..word!(clients.format: Format)
    },
    Setting {
        key: "heartbeat",
        section: Section::Clients,
        placeholder: "SECONDS",
        help: "A silent connection is pinged this often; one whose host acknowledges what it is sent, a quarter as often.",
        accepted: "1 to 3600, whole seconds",
        value: one!(clients.heartbeat, text => parse::whole_seconds(text, 1, HOUR_S), value => show_seconds(*value)),
        live: true,
        ..ROW
    },
    Setting {
        key: "pong_timeout",
        section: Section::Clients,
        placeholder: "SECONDS",
        help: "After a ping, any byte must come back within this time, or the connection is closed.",
        accepted: "1 to 3600 seconds, or with a unit: 1500ms, 10s, 5m",
        value: one!(clients.pong_timeout, text => seconds(text, 1, HOUR_S), value => show_seconds(*value)),
        live: true,
        ..ROW
    },
    Setting {
        key: "handshake_timeout",
        section: Section::Clients,
        placeholder: "SECONDS",
        help: "A new connection must have sent its whole request head within this time.",
        accepted: "1 to 3600 seconds, or with a unit: 1500ms, 10s, 5m",
        value: one!(clients.handshake_timeout, text => seconds(text, 1, HOUR_S), value => show_seconds(*value)),
        live: true,
        ..ROW
    },
    Setting {
        key: "close_timeout",
        section: Section::Clients,
        placeholder: "SECONDS",
        help: "How long the answer to a close frame is waited for.",
        accepted: "1 to 3600 seconds, or with a unit: 1500ms, 10s, 5m",
        value: one!(clients.close_timeout, text => seconds(text, 1, HOUR_S), value => show_seconds(*value)),
        live: true,
        ..ROW
    },
    Setting {
        key: "shutdown_timeout",
        section: Section::Clients,
        placeholder: "SECONDS",
        help: "On SIGTERM, SIGINT or POST /drain, how long connections may take to go (drain_rate). Whoever is left then is closed at once, with a delay before it comes back.",
        accepted: "0 to 3600 seconds, or with a unit: 500ms, 10s, 5m",
        value: one!(clients.shutdown_timeout, text => seconds(text, 0, HOUR_S), value => show_seconds(*value)),
        ..ROW
    },
    Setting {
        key: "drain_rate",
        section: Section::Clients,
        placeholder: "N",
        help: "Connections that are closed in a second when the server drains or sheds load: what whoever takes them in gets. Each is told when to come back (close code 1012).",
        accepted: "1 to 1000000",
        value: one!(clients.drain_rate, text => parse::count(text, 1, 1_000_000), value => Shown::Number(*value as u64)),
        ..ROW
    },
    Setting {
        key: "echo",
        section: Section::Clients,
        placeholder: "BOOL",
        help: "Turns on the diagnostic path /echo, which returns every message unchanged.",
        accepted: "true, false",
        value: Value::Switch { set: |settings, on| settings.clients.echo = on, get: |settings| settings.clients.echo },
        ..ROW
    },
    deflate::DEFLATE,
    deflate::DEFLATE_MIN_BYTES,
    deflate::DEFLATE_LEVEL,
    deflate::DEFLATE_EXCLUDE,
    Setting {
        key: "allow_client_publish",
        section: Section::Clients,
        placeholder: "BOOL",
        help: "Lets every client publish, where no rule of the channel says otherwise (publish). Off, a publish command is answered with an error.",
        accepted: "true, false",
        value: Value::Switch {
            set: |settings, on| settings.clients.allow_client_publish = on,
            get: |settings| settings.clients.allow_client_publish,
        },
        live: true,
        ..ROW
    },
    tokens::AUTH,
    tokens::TOKEN_SECRET,
    tokens::TOKEN_KEYS,
    tokens::JWKS_URL,
    tokens::TOKEN_ISSUER,
    tokens::TOKEN_AUDIENCE,
    tokens::TOKEN_LEEWAY,
    tokens::TOKEN_WARNING,
    tokens::TOKEN_BYTES_MAX,
    tokens::TOKEN_COOKIE,
    tokens::ORIGINS,
    tokens::USER_CHANNEL,
    presence::USER_PRESENCE,
    Setting {
        key: "subscribe",
        section: Section::Channels,
        placeholder: "WHO",
        help: "Who may subscribe. auto is everybody where nobody is asked who it is (auth); else user:SUB is for that user, group:NAME for those in the group, and every other channel for everybody who is somebody. owner is the user at {sub} in the pattern, token whose claim channels names the channel.",
        ..word_rule!("subscribe", subscribe: Access)
    },
    Setting {
        key: "publish",
        section: Section::Channels,
        placeholder: "WHO",
        help: "Which clients may publish. auto is nobody, unless allow_client_publish is set; token is whose claim publish names the channel.",
        ..word_rule!("publish", publish: Access)
    },
    Setting {
        key: "raw_publish",
        section: Section::Channels,
        placeholder: "BOOL",
        help: "What a client in the raw format sends is published to the channel in its path (/ws/NAME?format=raw), where it may publish, and is no command.",
        accepted: "true, false",
        value: rule!("raw_publish", raw_publish, text => parse::boolean(text), value => Shown::Switch(*value)),
        live: true,
        ..ROW
    },
    delivery::PUBLISHES_PER_SECOND,
    Setting {
        key: "payload",
        section: Section::Channels,
        placeholder: "KIND",
        help: "What publishers send. auto looks at each payload: MessagePack map or array, JSON text, UTF-8, bytes.",
        ..word_rule!("payload", payload: Expect)
    },
    Setting {
        key: "payload_mismatch",
        section: Section::Channels,
        placeholder: "WHAT",
        help: "What becomes of a payload that is not what payload says. opaque delivers it as text or bytes; drop counts it and takes it for no message of the channel, without number or gap.",
        ..word_rule!("payload_mismatch", mismatch: Mismatch)
    },
    Setting {
        key: "overrun",
        section: Section::Channels,
        placeholder: "POLICY",
        help: "What becomes of a subscriber that the log has left behind. disconnect closes it with 4008 and it resumes, skip goes on after a gap, latest jumps to the newest message.",
        ..word_rule!("overrun", overrun: Overrun)
    },
    delivery::MAX_RATE,
    delivery::COALESCE,
    delivery::BROADCAST_BUDGET,
    Setting {
        key: "log_bytes_per_channel",
        section: Section::Channels,
        placeholder: "SIZE",
        help: "How much of a channel each shard keeps for subscribers that are behind. In [[channels]]: log_bytes.",
        accepted: "4k to 1G, as in 262144, 256k, 1M",
        value: rule!("log_bytes", log_bytes, text => size(text, 4 * K, G), value => Shown::Bytes(*value as u64)),
        ..ROW
    },
    keeping::HISTORY_COUNT,
    keeping::HISTORY_AGE,
    keeping::DURABLE,
    presence::PRESENCE,
    presence::PRESENCE_ASK,
    presence::PRESENCE_MEMBERS,
    Setting {
        key: "connections_max",
        section: Section::Bounds,
        placeholder: "N",
        help: "Open connections. The next one is answered 503.",
        accepted: "1 to 16777216",
        value: one!(bounds.connections_max, text => parse::count(text, 1, CONNECTIONS_MAX), value => Shown::Number(*value as u64)),
        live: true,
        ..ROW
    },
    arrivals::CONNECTIONS_PER_ADDRESS,
    arrivals::ACCEPTS_PER_ADDRESS,
    arrivals::ACCEPTS_PER_SECOND,
    admission::ADMISSION_LAG,
    admission::ADMISSION_LOGS,
    admission::ADMISSION_MEMORY,
    admission::ADMISSION_UNREADY,
    arrivals::HEAD_BYTES_MAX,
    arrivals::COMMANDS_PER_SECOND,
    delivery::PUBLISHES_PER_CONNECTION,
    delivery::PUBLISHES_PER_USER,
    Setting {
        key: "subscriptions_max",
        section: Section::Bounds,
        placeholder: "N",
        help: "Channels that one connection may subscribe to.",
        accepted: "1 to 65534",
        value: one!(bounds.subscriptions_max, text => parse::count(text, 1, SUBSCRIPTIONS_MAX), value => Shown::Number(*value as u64)),
        live: true,
        ..ROW
    },
    Setting {
        key: "channels_max",
        section: Section::Bounds,
        placeholder: "N",
        help: "Distinct channels served at once by the whole process.",
        accepted: "1 to 100000000",
        value: one!(bounds.channels_max, text => parse::count(text, 1, 100_000_000), value => Shown::Number(*value as u64)),
        live: true,
        ..ROW
    },
    Setting {
        key: "channels_per_address",
        section: Section::Bounds,
        placeholder: "N",
        help: "How many of them one address (an IPv6 /64) may be the first to subscribe to. auto is half of channels_max. Behind a proxy that does not say who they are (trusted_proxies) all clients share its address: none switches it off.",
        accepted: "auto, none, or 1 to 100000000",
        value: Value::One {
            parse: |settings, text| {
                settings.bounds.channels_per_address = parse::share(text, 100_000_000)?;
                Ok(())
            },
            // Programs are told what it comes to; none is no number.
            show: |settings| Shown::Both {
                text: parse::show_share(settings.bounds.channels_per_address),
                json: Some(settings.bounds.channels_of_address()).filter(|&channels| channels < usize::MAX).into(),
            },
        },
        live: true,
        ..ROW
    },
    Setting {
        key: "message_bytes_max",
        section: Section::Bounds,
        placeholder: "SIZE",
        help: "Largest message a client may send. A larger one is closed with 1009.",
        accepted: "1k to 16M, as in 65536, 64k",
        value: one!(bounds.message_bytes_max, text => size(text, K, 16 * M), value => Shown::Bytes(*value as u64)),
        live: true,
        ..ROW
    },
    Setting {
        key: "payload_bytes_max",
        section: Section::Bounds,
        placeholder: "SIZE",
        help: "Largest payload taken from the bus or a publisher. A larger one is dropped, counted and announced as a gap; a publisher of this server is told.",
        accepted: "1k to 64M, as in 1048576, 1M",
        value: one!(bounds.payload_bytes_max, text => size(text, K, PAYLOAD_BYTES_MAX as u64), value => Shown::Bytes(*value as u64)),
        ..ROW
    },
    Setting {
        key: "log_bytes_total",
        section: Section::Bounds,
        placeholder: "SIZE",
        help: "All channel logs of the process together.",
        accepted: "64k to 1T, as in 512M, 1G",
        value: one!(bounds.log_bytes_total, text => size(text, 64 * K, T), value => Shown::Bytes(*value as u64)),
        ..ROW
    },
    Setting {
        key: "inbox_bytes_total",
        section: Section::Bounds,
        placeholder: "SIZE",
        help: "Messages that wait for the shards, all together; each shard has its share. What finds it full is a counted, announced gap.",
        accepted: "64k to 1T, as in 256M, 1G",
        value: one!(bounds.inbox_bytes_total, text => size(text, 64 * K, T), value => Shown::Bytes(*value as u64)),
        ..ROW
    },
    Setting {
        key: "history_bytes_total",
        section: Section::Bounds,
        placeholder: "SIZE",
        help: "Histories of all channels together. Beyond it the oldest messages go first, whatever their channel.",
        accepted: "64k to 1T, as in 256M, 1G",
        value: one!(bounds.history_bytes_total, text => size(text, 64 * K, T), value => Shown::Bytes(*value as u64)),
        ..ROW
    },
    Setting {
        key: "buffer_bytes_total",
        section: Section::Bounds,
        placeholder: "SIZE",
        help: "Split frames and unsent control frames of all connections together. A connection that needs more is closed with 1013.",
        accepted: "64k to 1T, as in 256M, 1G",
        value: one!(bounds.buffer_bytes_total, text => size(text, 64 * K, T), value => Shown::Bytes(*value as u64)),
        ..ROW
    },
    Setting {
        key: "log_format",
        section: Section::Logging,
        placeholder: "FORMAT",
        help: "How log lines are written to stderr.",
        ..word!(logging.format: LogFormat)
    },
    Setting {
        key: "log_level",
        section: Section::Logging,
        placeholder: "FILTER",
        help: "Which log lines are written: a level, or levels for modules, which leave the others at info. debug and trace exist in debug builds only.",
        accepted: "off, error, warn, info, debug, trace, or with modules as in warn,campanile::bus=info",
        value: one!(logging.level, text => LogFilter::parse(text), value => Shown::Text(value.to_string())),
        ..ROW
    },
];
