//! What the server says about itself when it starts, and the memory bound that follows from its settings. Called by
//! `campanile serve`. Pure: settings and host in, text out; no password in it.

use std::fmt::Write;
use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::host::Host;
use super::parse::{show_cores, show_pin, show_time};
use super::{Pin, RedisSubscribe, Resolved, Settings, redis_url};
use crate::bus::redis::output_limit::WINDOW_BYTES_MAX;
use crate::bus::{CONTROL_SHARE, PUBLISH_BYTES_MAX, ShardMessage};
use crate::control;
use crate::limits::{
    APPENDED_BEFORE_SWEEP, BATCH_BYTES_MAX, BUFFER_FLOOR_BYTES, CHANNEL_NAME_BYTES_MAX, WAITER_BYTES_MAX, WAITERS_FLOOR, heap_bytes,
};
use crate::listen::{networks, reachable};
use crate::wire::Format;

/// User memory of an idle connection with one subscription (the aim of the design, measured as RSS).
const CONNECTION_BYTES: u64 = 300;
// What follows is measured, and held to be enough, by tests/memory.rs.
/// A channel on the bus, without its name, and what is added when nobody hears it any more, or when it has a history.
const CHANNEL_BYTES: u64 = 288;
const LINGERING_BYTES: u64 = 336;
const HISTORY_BYTES: u64 = 96;
/// A channel on one shard.
const TOPIC_BYTES: u64 = 272;
/// A channel that is subscribed in Redis, besides its name there.
const REDIS_BYTES: u64 = 112;
const SUBSCRIPTION_BYTES: u64 = 32;
const MEMBER_BYTES: u64 = 8;
/// A slot of a crossbeam array channel holds the message and a stamp, and is allocated at start.
const INBOX_SLOT_BYTES: u64 = size_of::<ShardMessage>() as u64 + 8;

/// The version and, where the build was told it, the commit.
pub fn version() -> String {
    match option_env!("CAMPANILE_COMMIT") {
        Some(commit) if !commit.is_empty() => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        _ => env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The most user memory that the settings allow, by what holds it, in bytes. Kernel memory (sockets) comes on top. A batch that several
/// hold (inbox, log, history) counts for each: whichever lets go last has room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryBound {
    /// `log_bytes_total`; encoded frames count in it.
    pub logs: u64,
    /// One batch per shard, as large as they come, as published and in every format, before its log has counted it.
    pub making: u64,
    pub buffers: u64,
    /// Slots, and batches as published. Frames of theirs that a faster shard has had encoded count in that shard's log, while it has them.
    pub inboxes: u64,
    pub connections: u64,
    /// `channels_max` on the bus, those included that nobody hears any more, and on every shard as far as there are subscriptions for them;
    /// each with the longest name.
    pub channels: u64,
    /// Of a connection beyond its first; and what is remembered of those that wait for the bus.
    pub subscriptions: u64,
    /// From when they are accepted until they are answered, and once more what is being written to Redis.
    pub publishes: u64,
    /// Requests on the control port: heads, bodies, answers.
    pub control: u64,
    /// `history_bytes_total` where any channel has a history.
    pub history: u64,
}

impl MemoryBound {
    pub fn total(&self) -> u64 {
        let MemoryBound { logs, making, buffers, inboxes, connections, channels, subscriptions, publishes, control, history } = self;
        logs + making + buffers + inboxes + connections + channels + subscriptions + publishes + control + history
    }
}

pub fn memory_bound(settings: &Settings) -> MemoryBound {
    let shards = settings.shards as u64;
    let batch = batch_bytes_max(settings);
    // An inbox takes one batch of any size.
    let inbox_bytes = (settings.inbox_bytes_total as u64 / shards).max(batch);
    let mut rules = std::iter::once(&settings.channels.default).chain(settings.channels.by_prefix.iter().map(|(_, rule)| rule));
    let has_history = rules.any(|rule| rule.history_count > 0);
    MemoryBound {
        // And the list of what was appended, as long as it may become before it is looked through.
        logs: settings.log_bytes_total as u64 + shards * 2 * 16 * APPENDED_BEFORE_SWEEP as u64,
        making: shards * batch * (1 + Format::COUNT as u64),
        // Whoever holds no more than the floor is exempt from the budget over all.
        buffers: shards * settings.buffer_bytes_of_shard() as u64 + (settings.connections_max * BUFFER_FLOOR_BYTES) as u64,
        inboxes: shards * (settings.inbox_messages as u64 * INBOX_SLOT_BYTES + inbox_bytes),
        connections: settings.connections_max as u64 * CONNECTION_BYTES,
        channels: channels_bound(settings, has_history),
        subscriptions: subscriptions_bound(settings),
        publishes: publishes_bytes_max(settings),
        control: control::memory_bound(settings.payload_bytes_max),
        history: if has_history { settings.history_bytes_total as u64 } else { 0 },
    }
}

fn channels_bound(settings: &Settings, has_history: bool) -> u64 {
    let (channels, shards) = (settings.channels_max as u64, settings.shards as u64);
    let name = |bytes: usize| heap_bytes(16 + bytes) as u64;
    let mut on_bus = CHANNEL_BYTES + name(CHANNEL_NAME_BYTES_MAX);
    if has_history {
        on_bus += HISTORY_BYTES;
    }
    if settings.redis.is_some() && settings.redis_subscribe == RedisSubscribe::Exact {
        on_bus += REDIS_BYTES + name(settings.prefix.len() + CHANNEL_NAME_BYTES_MAX);
    }
    let on_shards = (channels * shards).min((settings.connections_max * settings.subscriptions_max) as u64);
    // While the bus has not answered, each shard has a name of its own, one of which will be the bus's.
    let topics = on_shards * TOPIC_BYTES + (on_shards - on_shards / shards) * name(CHANNEL_NAME_BYTES_MAX);
    // Either somebody hears a channel, or it lingers.
    let lingering = |heard: u64| (channels - heard) * LINGERING_BYTES;
    channels * on_bus + lingering(0).max(topics + lingering(on_shards / shards))
}

/// Clients and the control port each may have one larger than their share, alone. To Redis there is in writing what may come back from it,
/// which one payload may exceed; a buffer that grows holds as much again.
fn publishes_bytes_max(settings: &Settings) -> u64 {
    let payload = settings.payload_bytes_max;
    let held = (PUBLISH_BYTES_MAX - CONTROL_SHARE.bytes).max(payload) + CONTROL_SHARE.bytes.max(payload);
    let writing = if settings.redis.is_some() { 2 * payload.max(WINDOW_BYTES_MAX) } else { 0 };
    (held + writing) as u64
}

/// The list of a connection grows by doubling; a place in each channel's list of members, which does so too.
fn subscriptions_bound(settings: &Settings) -> u64 {
    let lists = match settings.subscriptions_max as u64 {
        0 | 1 => 0,
        most => {
            let list = heap_bytes((most.next_power_of_two() * SUBSCRIPTION_BYTES) as usize) as u64;
            settings.connections_max as u64 * (list + most * 2 * MEMBER_BYTES)
        }
    };
    let floor = WAITERS_FLOOR * WAITER_BYTES_MAX;
    lists + (settings.shards * settings.waiting_bytes_of_shard().max(floor)) as u64
}

/// The largest batch: full of small messages, or one large one.
fn batch_bytes_max(settings: &Settings) -> u64 {
    settings.payload_bytes_max.max(BATCH_BYTES_MAX) as u64
}

/// What the settings came to on this host, with the addresses really bound.
#[derive(Debug)]
pub struct Started<'a> {
    pub settings: &'a Settings,
    pub host: &'a Host,
    pub table: &'a Resolved,
    /// Those of `listen` that are IPv6 alone.
    pub ipv6_alone: &'a [SocketAddr],
}

impl Started<'_> {
    fn is_ipv6_alone(&self, address: SocketAddr) -> bool {
        self.ipv6_alone.contains(&address)
    }

    /// The address as it is listened on, and what it stands for.
    fn url(&self, scheme: &str, address: SocketAddr, path: &str) -> String {
        match networks(address, self.is_ipv6_alone(address)) {
            Some(networks) => format!("{scheme}://{address}{path} ({networks})"),
            None => format!("{scheme}://{address}{path}"),
        }
    }
}

/// The block that `campanile serve` prints once: what runs where, and what bounds it. Ends with a line break.
pub fn start_block(started: &Started<'_>) -> String {
    let Started { settings, host, table: resolved, .. } = *started;
    let mut block = format!("Campanile {}\n", version());
    let mut line = |name: &str, text: String| writeln!(block, "  {name:<12} {text}").expect("a String takes everything");

    let addresses: Vec<String> = settings.listen.iter().map(|&address| started.url("ws", address, "/ws")).collect();
    line("clients", addresses.join("  "));
    line("control", started.url("http", settings.control, ""));
    line("shards", shards(settings, host));
    line("bus", bus(settings));

    let table = if resolved.private { "a private table per shard" } else { "one shared table" };
    let limits = format!("limit {} soft, {} hard", show_limit(host.descriptors_soft), show_limit(host.descriptors_hard));
    line("descriptors", format!("{limits}; {table} for {} connections", settings.connections_max));

    let bound = memory_bound(settings);
    line("memory", format!("at most {} of user memory, that is", show_bytes(bound.total())));
    line(
        "",
        format!(
            "logs {} + batches {} ({} x {}, as published and in {} formats) + buffers {}",
            show_bytes(bound.logs),
            show_bytes(bound.making),
            settings.shards,
            show_bytes(batch_bytes_max(settings)),
            Format::COUNT,
            show_bytes(bound.buffers)
        ),
    );
    line(
        "",
        format!(
            "+ inboxes {} ({} x {} slots, and what they hold) + connections {} ({} x {CONNECTION_BYTES} B)",
            show_bytes(bound.inboxes),
            settings.shards,
            settings.inbox_messages,
            show_bytes(bound.connections),
            settings.connections_max
        ),
    );
    line(
        "",
        format!(
            "+ channels {} ({}) + subscriptions {} ({} each) + publishes {} + control port {}",
            show_bytes(bound.channels),
            settings.channels_max,
            show_bytes(bound.subscriptions),
            settings.subscriptions_max,
            show_bytes(bound.publishes),
            show_bytes(bound.control)
        ),
    );
    if bound.history > 0 {
        line("", format!("+ history {}", show_bytes(bound.history)));
    }
    for warning in resolved.warnings() {
        writeln!(block, "descriptor warning: {warning}").expect("a String takes everything");
    }
    block
}

/// The same for a program that reads it.
pub fn start_fields(started: &Started<'_>) -> Map<String, Value> {
    let Started { settings, host, table, .. } = *started;
    let bound = memory_bound(settings);
    let limit = |limit: u64| if limit == u64::MAX { Value::Null } else { limit.into() };
    let fields = json!({
        "version": version(),
        "clients": settings.listen.iter().map(|address| format!("ws://{address}/ws")).collect::<Vec<_>>(),
        "control": format!("http://{}", settings.control),
        "shards": settings.shards,
        "pin": show_pin(&settings.pin),
        "bus": settings.redis.as_deref().map_or_else(|| "embedded".to_owned(), redis_url::masked),
        "descriptors_soft": limit(host.descriptors_soft),
        "descriptors_hard": limit(host.descriptors_hard),
        "fd_table": if table.private { "private" } else { "shared" },
        "connections_max": settings.connections_max,
        "memory_bytes_max": bound.total(),
        "memory_bytes": bound,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => unreachable!("an object was written down"),
    }
}

/// What to type to see a message arrive, in the words that fit these settings.
pub fn next_steps(started: &Started<'_>, program: &str) -> String {
    let settings = started.settings;
    let default = Settings::default();
    let subscribe = match settings.listen.first() {
        Some(listen) if settings.listen != default.listen => {
            format!("{program} subscribe news --url ws://{}/ws", reachable(*listen, started.is_ipv6_alone(*listen)))
        }
        _ => format!("{program} subscribe news"),
    };
    let publish = match &settings.redis {
        Some(url) => format!("{} publish {}news '{{\"hello\":\"world\"}}'", redis_cli(url), settings.prefix),
        None if settings.control == default.control => format!("{program} publish news '{{\"hello\":\"world\"}}'"),
        None => format!("{program} publish news '{{\"hello\":\"world\"}}' --control {}", reachable(settings.control, false)),
    };
    format!("To see a message arrive, in two other terminals:\n  {subscribe}\n  {publish}\n")
}

/// How redis-cli reaches that server; a password has to be put in by hand.
fn redis_cli(url: &str) -> String {
    match url.split_once("unix://") {
        Some((_, path)) => format!("redis-cli -s {}", path.split('?').next().unwrap_or(path)),
        None => format!("redis-cli -u {}", redis_url::masked(url)),
    }
}

fn shards(settings: &Settings, host: &Host) -> String {
    let cores = match &settings.pin {
        Pin::Auto => format!("pinned to cores {}", show_cores(&host.cores[..host.cores.len().min(settings.shards)])),
        Pin::List(cores) => format!("pinned to cores {}", show_cores(cores)),
        Pin::None => format!("not pinned, on cores {}", show_cores(&host.cores)),
    };
    let coalesce = settings.coalesce.map_or(String::new(), |delay| format!(", coalescing for {}", show_time(delay)));
    format!("{}, {cores}{coalesce}", settings.shards)
}

fn bus(settings: &Settings) -> String {
    let Some(url) = &settings.redis else {
        return "embedded: this process only; --redis URL joins hosts".to_owned();
    };
    let how = match settings.redis_subscribe {
        RedisSubscribe::Exact => "subscribing to channels in use",
        RedisSubscribe::Pattern => "subscribing to the whole prefix",
    };
    let mut names = vec![format!("{}*", settings.prefix)];
    names.extend(settings.redis_channels.iter().cloned());
    format!("{}, channels {}, {how}", redis_url::masked(url), names.join(" "))
}

fn show_limit(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

/// For people: three digits and a binary unit.
pub fn show_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = "B";
    for larger in units {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    let digits = if unit == "B" || amount >= 100.0 { 0 } else { 1 };
    format!("{amount:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ChannelRule, resolve_fd_table};
    use crate::listen::is_ipv6_alone;

    fn host(hard: u64) -> Host {
        Host { cores: vec![0, 1, 2, 3], descriptors_soft: 1024, descriptors_hard: hard, private_refused: None }
    }

    fn with_started<T>(settings: &Settings, host: &Host, show: impl Fn(&Started<'_>) -> T) -> T {
        let table = resolve_fd_table(settings, host.descriptors_hard, host.private_refused.as_ref());
        let listed = &settings.listen;
        let ipv6_alone: Vec<SocketAddr> = listed.iter().copied().filter(|&address| is_ipv6_alone(address, listed)).collect();
        show(&Started { settings, host, table: &table, ipv6_alone: &ipv6_alone })
    }

    fn block(settings: &Settings, host: &Host) -> String {
        with_started(settings, host, start_block)
    }

    fn steps(settings: &Settings) -> String {
        with_started(settings, &host(1 << 20), |started| next_steps(started, "campanile"))
    }

    #[test]
    fn the_bound_is_the_sum_of_its_parts() {
        let settings = Settings { shards: 2, ..Settings::default() };
        let bound = memory_bound(&settings);
        assert_eq!(bound.logs, (1 << 30) + 2 * (128 << 10));
        assert_eq!(bound.making, 8 << 20);
        assert_eq!(bound.buffers, (256 << 20) + 100_000 * 4096);
        assert_eq!(bound.inboxes, (256 << 20) + 2 * 16384 * INBOX_SLOT_BYTES);
        assert_eq!(bound.connections, 30_000_000);
        assert_eq!(bound.history, 0, "no channel has one");
        assert_eq!(bound.channels, 200_000 * (288 + 288) + 2 * 200_000 * 272 + 200_000 * 288);
        assert_eq!(bound.subscriptions, 100_000 * (128 * 32 + 16 + 128 * 16) + (128 << 20));
        assert_eq!(bound.publishes, 64 << 20);
        assert_eq!(bound.control, (16 << 20) + (64 << 20) + (8 << 20) + (16 << 20));
        let parts = bound.logs + bound.making + bound.buffers + bound.inboxes + bound.connections;
        assert_eq!(bound.total(), parts + bound.channels + bound.subscriptions + bound.publishes + bound.control);
        let larger = memory_bound(&Settings { log_bytes_total: 2 << 30, connections_max: 200_000, ..settings.clone() });
        assert_eq!(larger.total() - bound.total(), (1 << 30) + 30_000_000 + 100_000 * (4096 + 128 * 48 + 16));

        let mut remembering = settings.clone();
        remembering.channels.by_prefix = vec![("a".to_owned(), ChannelRule { history_count: 1, ..ChannelRule::default() })];
        assert_eq!(memory_bound(&remembering).total() - bound.total(), (256 << 20) + 200_000 * 96);
        let redis = Settings { redis: Some("redis://host".to_owned()), ..settings.clone() };
        assert_eq!(memory_bound(&redis).channels - bound.channels, 200_000 * (112 + 304));
        let one = Settings { shards: 1, subscriptions_max: 1, connections_max: 10, ..settings.clone() };
        assert_eq!(memory_bound(&one).channels, 200_000 * (288 + 288 + 336), "what lingers takes more than the few that are heard");
        let narrow = memory_bound(&Settings { inbox_bytes_total: 1 << 20, ..settings });
        assert_eq!(narrow.inboxes, 2 * ((1 << 20) + 16384 * INBOX_SLOT_BYTES), "each takes one payload, however small its share");
    }

    /// The amounts that the block prints, in the order in which it does.
    fn printed(block: &str) -> Vec<f64> {
        let memory = block.lines().skip_while(|line| !line.contains("of user memory")).take_while(|line| !line.contains("warning"));
        let text = memory.collect::<Vec<_>>().join(" ");
        // What stands in brackets explains an amount; the first is the total.
        let plain: String = text.split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect();
        let words: Vec<&str> = plain.split_whitespace().collect();
        let scale = |unit: &str| ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|known| *known == unit);
        let amount = |pair: &[&str]| Some(pair[0].parse::<f64>().ok()? * 1024f64.powi(scale(pair[1])? as i32));
        words.windows(2).filter_map(amount).collect()
    }

    #[test]
    fn the_printed_total_is_the_sum_of_what_is_printed() {
        let mut remembering = Settings { shards: 3, payload_bytes_max: 5 << 20, ..Settings::default() };
        remembering.channels.default.history_count = 10;
        for (settings, parts) in [(Settings { shards: 2, ..Settings::default() }, 9), (remembering, 10)] {
            let block = self::block(&settings, &host(1 << 20));
            let amounts = printed(&block);
            assert_eq!(amounts.len(), 1 + parts, "{block}");
            let sum: f64 = amounts[1..].iter().sum();
            // Each is rounded to half of its last digit; the total has one decimal of a GiB.
            assert!((amounts[0] - sum).abs() < 0.06 * f64::from(1 << 30), "{sum}\n{block}");
            assert_eq!(
                show_bytes(memory_bound(&settings).total()),
                block.split("at most ").nth(1).unwrap().split(" of user").next().unwrap()
            );
        }
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(show_bytes(300), "300 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(256 << 20), "256 MiB");
        assert_eq!(show_bytes(4 << 30), "4.0 GiB");
    }

    #[test]
    fn the_block_tells_what_runs_where() {
        let settings = Settings { shards: 2, redis: Some("redis://u:secret@host:6379/1".to_owned()), ..Settings::default() };
        let block = self::block(&settings, &host(1 << 20));
        for part in [
            env!("CARGO_PKG_VERSION"),
            "ws://127.0.0.1:8080/ws",
            "http://127.0.0.1:9090",
            "2, pinned to cores 0-1",
            "redis://u:***@host:6379/1, channels notifications:* notifications",
            "limit 1024 soft, 1048576 hard; one shared table",
            "logs 1.0 GiB + batches 8.0 MiB (2 x 1.0 MiB, as published and in 3 formats) + buffers 647 MiB",
        ] {
            assert!(block.contains(part), "{part} is missing in\n{block}");
        }
        assert!(!block.contains("secret") && !block.contains("warning") && !block.contains("history"));
    }

    #[test]
    fn what_an_address_stands_for_is_told() {
        let settings = Settings {
            listen: ["[::]:80", "127.0.0.1:81"].map(|text| text.parse().unwrap()).to_vec(),
            control: "0.0.0.0:82".parse().unwrap(),
            ..Settings::default()
        };
        let block = self::block(&settings, &host(1 << 20));
        assert!(block.contains(" ws://[::]:80/ws (every address of this host, IPv4 and IPv6)  ws://127.0.0.1:81/ws\n"), "{block}");
        assert!(block.contains(" http://0.0.0.0:82 (every IPv4 address of this host)\n"), "{block}");
        let both = Settings { listen: ["[::]:80", "0.0.0.0:80"].map(|text| text.parse().unwrap()).to_vec(), ..settings };
        assert!(self::block(&both, &host(1 << 20)).contains("ws://[::]:80/ws (every IPv6 address of this host)"));
    }

    #[test]
    fn the_fields_hold_what_the_block_tells() {
        let settings = Settings { shards: 2, redis: Some("redis://:secret@h".to_owned()), ..Settings::default() };
        let fields = Value::from(with_started(&settings, &host(u64::MAX), start_fields));
        assert_eq!(fields["clients"], json!(["ws://127.0.0.1:8080/ws"]));
        assert_eq!((&fields["control"], &fields["bus"]), (&json!("http://127.0.0.1:9090"), &json!("redis://:***@h")));
        assert_eq!((&fields["descriptors_hard"], &fields["fd_table"]), (&Value::Null, &json!("shared")));
        let sum: u64 = fields["memory_bytes"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
        assert_eq!(fields["memory_bytes_max"], sum);
    }

    #[test]
    fn the_next_steps_can_be_typed() {
        let steps = self::steps(&Settings::default());
        assert!(steps.contains("\n  campanile subscribe news\n  campanile publish news '{\"hello\":\"world\"}'\n"), "{steps}");
        let other = Settings { listen: vec!["0.0.0.0:80".parse().unwrap()], control: "[::]:81".parse().unwrap(), ..Settings::default() };
        let steps = self::steps(&other);
        assert!(steps.contains("--url ws://127.0.0.1:80/ws") && steps.contains("--control 127.0.0.1:81"), "{steps}");
        let alone = Settings { listen: ["[::]:80", "0.0.0.0:80"].map(|text| text.parse().unwrap()).to_vec(), ..other };
        assert!(self::steps(&alone).contains("--url ws://[::1]:80/ws"));
        let redis = Settings { redis: Some("redis://h".to_owned()), prefix: "p:".to_owned(), ..Settings::default() };
        assert!(self::steps(&redis).contains("redis-cli -u redis://h publish p:news"));
    }

    #[test]
    fn a_low_limit_is_a_warning_in_the_block() {
        let settings = Settings { shards: 2, ..Settings::default() };
        assert!(block(&settings, &host(20_000)).contains("\ndescriptor warning: a limit of 20000 descriptors"));
        let block = self::block(&Settings { shards: 6, ..settings }, &host(20_000));
        assert!(block.contains("a private table per shard") && !block.contains("warning"), "{block}");
        assert!(block.contains("embedded"), "{block}");
    }
}
