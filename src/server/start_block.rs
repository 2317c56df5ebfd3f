//! What the server says about itself when it starts. Called by `campanile serve`. Pure: settings and host in, text out; no password in it.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::memory_bound::{CONNECTION_BYTES, batch_bytes_max, encodings, memory_bound, show_bytes};
use crate::bus::redis::names::Names;
use crate::bus::redis::placement;
use crate::config::parse::{show_cores, show_pin};
use crate::config::words::EMBEDDED;
use crate::config::{AuthMode, Host, Pin, RedisSubscribe, Resolved, Settings, mask, redis_url};
use crate::listen::Listener;
use crate::tls::acceptor::ClientAuth;

/// The version and, where the build was told it, the commit.
pub fn version() -> String {
    match option_env!("CAMPANILE_COMMIT") {
        Some(commit) if !commit.is_empty() => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        _ => env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// What the settings came to on this host, with the addresses really bound.
#[derive(Debug)]
pub struct Started<'a> {
    pub settings: &'a Settings,
    pub host: &'a Host,
    pub table: &'a Resolved,
    /// The file that a flag or a variable has named.
    pub config: Option<&'a Path>,
}

/// What is listened on, and what it stands for.
fn shown(listener: &Listener, url: String) -> String {
    listener.remarks().map_or_else(|| url.clone(), |remarks| format!("{url} ({remarks})"))
}

/// The block that `campanile serve` prints once: what runs where, and what bounds it. Ends with a line break.
pub fn start_block(started: &Started<'_>) -> String {
    let Started { settings, host, table: resolved, .. } = *started;
    let mut block = format!("Campanile {}\n", version());
    let mut line = |name: &str, text: String| writeln!(block, "  {name:<12} {text}").expect("a String takes everything");

    let listeners: Vec<String> = settings.addresses.listen.iter().map(|listener| shown(listener, listener.url())).collect();
    line("clients", listeners.join("  "));
    if !settings.tls.certs.is_empty() && settings.addresses.listen.iter().any(|listener| listener.is_tls) {
        line("TLS", tls(settings));
    }
    let control = &settings.addresses.control;
    line("control", shown(&Listener::at(control.clone()), control.url("http")));
    let browsable = Listener::at(control.clone()).reachable().address;
    if browsable.ip().is_some() {
        line("demo", format!("{}/demo", browsable.url("http")));
    }
    if let Some(identity) = identity(settings) {
        line("identity", identity);
    }
    line("shards", shards(settings, host));
    line("bus", bus(settings));

    let table = if resolved.private { "a private table per shard" } else { "one shared table" };
    let limits = format!("limit {} soft, {} hard", show_limit(host.descriptors_soft), show_limit(host.descriptors_hard));
    line("descriptors", format!("{limits}; {table} for {} connections", settings.bounds.connections_max));

    let bound = memory_bound(settings);
    line("memory", format!("at most {} of user memory, that is", show_bytes(bound.total())));
    line(
        "",
        format!(
            "logs {} + batches {} ({} x {}, as published and in {} formats) + buffers {}",
            show_bytes(bound.logs),
            show_bytes(bound.making),
            settings.shards.count,
            show_bytes(batch_bytes_max(settings)),
            encodings(settings),
            show_bytes(bound.buffers)
        ),
    );
    line(
        "",
        format!(
            "+ inboxes {} ({} x {} slots, and what they hold) + connections {} ({} x {CONNECTION_BYTES} B)",
            show_bytes(bound.inboxes),
            settings.shards.count,
            settings.shards.inbox_messages,
            show_bytes(bound.connections),
            settings.bounds.connections_max + settings.shards.count * settings.handshakes_of_shard()
        ),
    );
    line(
        "",
        format!(
            "+ channels {} ({}) + subscriptions {} ({} each) + publishes {} + control port {}",
            show_bytes(bound.channels),
            settings.bounds.channels_max,
            show_bytes(bound.subscriptions),
            settings.bounds.subscriptions_max,
            show_bytes(bound.publishes),
            show_bytes(bound.control)
        ),
    );
    if bound.tls > 0 {
        line("", format!("+ TLS {}", show_bytes(bound.tls)));
    }
    if bound.deflate > 0 {
        line("", format!("+ deflate {}", show_bytes(bound.deflate)));
    }
    if bound.history > 0 {
        line("", format!("+ history {}", show_bytes(bound.history)));
    }
    if bound.journal > 0 {
        line("", format!("+ durable channels {}", show_bytes(bound.journal)));
    }
    if bound.tokens > 0 {
        line("", format!("+ tokens {}", show_bytes(bound.tokens)));
    }
    if bound.presence > 0 {
        line("", format!("+ who is there {}", show_bytes(bound.presence)));
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
        "clients": settings.addresses.listen.iter().map(Listener::url).collect::<Vec<_>>(),
        "control": settings.addresses.control.url("http"),
        "auth": settings.auth.mode.name(),
        "shards": settings.shards.count,
        "pin": show_pin(&settings.shards.pin),
        "bus": match settings.redis.url {
            None => EMBEDDED.to_owned(),
            Some(_) => shown_urls(settings),
        },
        "descriptors_soft": limit(host.descriptors_soft),
        "descriptors_hard": limit(host.descriptors_hard),
        "fd_table": table.table().name(),
        "connections_max": settings.bounds.connections_max,
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
    let [subscribe, publish] = first_commands(started.settings, started.config, program);
    format!("To see a message arrive, in two other terminals:\n  {subscribe}\n  {publish}\n")
}

/// What subscribes to a channel, and what publishes to it.
pub fn first_commands(settings: &Settings, config: Option<&Path>, program: &str) -> [String; 2] {
    let default = Settings::default();
    let subscribe = match settings.addresses.listen.iter().find(|listener| listener.is_plain()) {
        Some(listener) if settings.addresses.listen != default.addresses.listen || settings.auth.mode == AuthMode::Query => {
            format!("{program} subscribe news --url {}", with_user(settings, listener.reachable().url()))
        }
        Some(_) => format!("{program} subscribe news"),
        None => match settings.addresses.listen.iter().find(|listener| !listener.is_proxied) {
            Some(listener) => format!("{program} subscribe news --url {}", listener.url()),
            None => format!("{program} subscribe news"),
        },
    };
    let subscribe = match settings.auth.mode {
        AuthMode::Jwt => format!("{subscribe} --token \"$({})\"", token_command(settings, config, program)),
        AuthMode::None | AuthMode::Query | AuthMode::Certificate => subscribe,
    };
    let publish = match settings.redis.urls().nth(placement::hashed("news", settings.redis.urls().count())) {
        // It finds the master.
        Some(url) if redis_url::watched(url).is_some() => {
            format!("{program} publish news '{{\"hello\":\"world\"}}' --redis '{}'", mask::url(url))
        }
        Some(url) => {
            let names = Names::new(&settings.redis);
            let command = String::from_utf8_lossy(names.publish_command()).to_lowercase();
            let channel = names.to_redis("news");
            let channel = if channel.contains('{') { format!("'{channel}'") } else { channel };
            format!("{} {command} {channel} '{{\"hello\":\"world\"}}'", redis_cli(url))
        }
        None if settings.addresses.control == default.addresses.control => format!("{program} publish news '{{\"hello\":\"world\"}}'"),
        None => {
            let control = Listener::at(settings.addresses.control.clone()).reachable();
            // What a shell would read otherwise.
            let address = control.address.to_string();
            let address = if address.contains('?') { format!("'{address}'") } else { address };
            format!("{program} publish news '{{\"hello\":\"world\"}}' --control {address}")
        }
    };
    [subscribe, publish]
}

/// Where it is asked for, somebody's name.
fn with_user(settings: &Settings, url: String) -> String {
    if settings.auth.mode == AuthMode::Query { format!("'{url}?user=me'") } else { url }
}

/// What makes a token that this server takes. Of files with public keys nobody here knows the private ones.
fn token_command(settings: &Settings, config: Option<&Path>, program: &str) -> String {
    let key = if settings.auth.secret.is_some() { "" } else { " --key PRIVATE.pem" };
    let config = config.map_or(String::new(), |path| format!(" --config '{}'", path.display()));
    format!("{program} token --sub me{config}{key}")
}

/// How redis-cli reaches that server; a password has to be put in by hand.
fn redis_cli(url: &str) -> String {
    if let Some(seed) = redis_url::seeds(url).and_then(|seeds| seeds.into_iter().next()) {
        return format!("redis-cli -c -u {}", mask::url(&seed));
    }
    match url.split_once("unix://") {
        Some((_, path)) => format!("redis-cli -s {}", path.split('?').next().unwrap_or(path)),
        None => format!("redis-cli -u {}", mask::url(url)),
    }
}

fn shards(settings: &Settings, host: &Host) -> String {
    let cores = match &settings.shards.pin {
        Pin::Auto => format!("pinned to cores {}", show_cores(&host.cores[..host.cores.len().min(settings.shards.count)])),
        Pin::List(cores) => format!("pinned to cores {}", show_cores(cores)),
        Pin::None => format!("not pinned, on cores {}", show_cores(&host.cores)),
    };
    format!("{}, {cores}", settings.shards.count)
}

/// Which certificates, and what else is not usual.
fn tls(settings: &Settings) -> String {
    let tls = &settings.tls;
    let files: Vec<String> = tls.certs.iter().map(|file| file.display().to_string()).collect();
    let clients = match tls.client_auth {
        ClientAuth::No => "",
        ClientAuth::IfGiven => ", clients may show their own",
        ClientAuth::Required => ", clients must show their own",
    };
    format!("{} and later, {}{clients}", tls.min_version.name(), files.join(", "))
}

/// How clients say who they are, where they are asked.
fn identity(settings: &Settings) -> Option<String> {
    let auth = &settings.auth;
    match auth.mode {
        AuthMode::None => None,
        AuthMode::Query => Some("?user= is believed: whoever reaches the port may be anybody".to_owned()),
        AuthMode::Certificate => {
            let roots = settings.tls.client_ca.as_ref().map_or_else(String::new, |file| format!(" from {}", file.display()));
            Some(format!("certificates{roots}"))
        }
        AuthMode::Jwt => {
            let secret = auth.secret.as_ref().map(|_| "token_secret".to_owned());
            let files = auth.key_files.iter().map(|file| file.display().to_string());
            let by: Vec<String> = secret.into_iter().chain(files).chain(auth.jwks_url.as_deref().map(mask::url)).collect();
            Some(format!("tokens, verified by {}", by.join(", ")))
        }
    }
}

fn bus(settings: &Settings) -> String {
    if settings.redis.url.is_none() {
        let kept = settings
            .journal
            .data_dir
            .as_ref()
            .map_or(String::new(), |path| format!("; durable channels in {}, fsync {}", path.display(), settings.journal.fsync.name()));
        return format!("{EMBEDDED}: this process only; --redis URL joins hosts{kept}");
    }
    let how = match settings.redis.subscribe {
        RedisSubscribe::Exact => "subscribing to channels in use",
        RedisSubscribe::Pattern => "subscribing to the whole prefix",
    };
    let mut names = vec![format!("{}*", settings.redis.prefix)];
    names.extend(settings.redis.channels.iter().cloned());
    let parts = match settings.redis.beside.len() {
        0 => String::new(),
        others => format!(" ({} servers, each with a part of the channels)", others + 1),
    };
    format!("{}{parts}, channels {}, {how}", shown_urls(settings), names.join(" "))
}

fn shown_urls(settings: &Settings) -> String {
    settings.redis.urls().map(mask::url).collect::<Vec<_>>().join(", ")
}

fn show_limit(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listen_url::listener;
    use crate::config::resolve_fd_table;
    use crate::listen::listed;

    fn host(hard: u64) -> Host {
        Host { cores: vec![0, 1, 2, 3], descriptors_soft: 1024, descriptors_hard: hard, private_refused: None }
    }

    fn with_started<T>(settings: &Settings, host: &Host, show: impl Fn(&Started<'_>) -> T) -> T {
        let table = resolve_fd_table(settings, host.descriptors_hard, host.private_refused.as_ref());
        show(&Started { settings, host, table: &table, config: None })
    }

    fn block(settings: &Settings, host: &Host) -> String {
        with_started(settings, host, start_block)
    }

    fn steps(settings: &Settings) -> String {
        with_started(settings, &host(1 << 20), |started| next_steps(started, "campanile"))
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
        let mut remembering = Settings::default().with(|settings| {
            settings.shards.count = 3;
            settings.bounds.payload_bytes_max = 5 << 20;
        });
        remembering.channels.default.history_count = 10;
        let asking = remembering.clone().with(|settings| settings.auth.mode = AuthMode::Jwt);
        for (settings, parts) in [(Settings::default().with(|settings| settings.shards.count = 2), 9), (remembering, 10), (asking, 11)] {
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
    fn the_block_tells_what_runs_where() {
        let settings = Settings::default().with(|settings| {
            settings.shards.count = 2;
            settings.redis.url = Some("redis://u:secret@host:6379/1".to_owned());
        });
        let block = self::block(&settings, &host(1 << 20));
        for part in [
            env!("CARGO_PKG_VERSION"),
            "ws://127.0.0.1:8080/ws",
            "http://127.0.0.1:9090",
            "2, pinned to cores 0-1",
            "redis://u:***@host:6379/1, channels notifications:* notifications",
            "limit 1024 soft, 1048576 hard; one shared table",
            "logs 1.0 GiB + batches 20.0 MiB (2 x 1.0 MiB, as published and in 9 formats) + buffers 744 MiB",
        ] {
            assert!(block.contains(part), "{part} is missing in\n{block}");
        }
        assert!(!block.contains("secret") && !block.contains("warning") && !block.contains("history"));
    }

    #[test]
    fn who_is_believed_is_told() {
        let with = |change: &dyn Fn(&mut crate::config::Auth)| {
            block(&Settings::default().with(|settings| change(&mut settings.auth)), &host(1 << 20))
        };
        assert!(!with(&|_| ()).contains("identity"));
        assert!(with(&|auth| auth.mode = AuthMode::Query).contains("\n  identity     ?user= is believed: whoever reaches the port"));
        let jwt = with(&|auth| {
            (auth.mode, auth.secret) = (AuthMode::Jwt, Some("0123456789abcdef0123456789abcdef".to_owned()));
            auth.key_files = vec!["keys/a.pem".into()];
        });
        assert!(jwt.contains("\n  identity     tokens, verified by token_secret, keys/a.pem\n") && !jwt.contains("0123456"), "{jwt}");
    }

    #[test]
    fn what_an_address_stands_for_is_told() {
        let settings = Settings::default().with(|settings| {
            settings.addresses.listen = listed(&["[::]:80", "127.0.0.1:81"]);
            settings.addresses.control = listed(&["0.0.0.0:82"]).remove(0).address;
        });
        let block = self::block(&settings, &host(1 << 20));
        assert!(block.contains(" ws://[::]:80/ws (every address of this host, IPv4 and IPv6)  ws://127.0.0.1:81/ws\n"), "{block}");
        assert!(block.contains(" http://0.0.0.0:82 (every IPv4 address of this host)\n"), "{block}");
        let both = settings.with(|settings| settings.addresses.listen = listed(&["[::]:80", "0.0.0.0:80"]));
        assert!(self::block(&both, &host(1 << 20)).contains("ws://[::]:80/ws (every IPv6 address of this host)"));
    }

    #[test]
    fn the_fields_hold_what_the_block_tells() {
        let settings = Settings::default().with(|settings| {
            settings.shards.count = 2;
            settings.redis.url = Some("redis://:secret@h".to_owned());
        });
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
        let other = Settings::default().with(|settings| {
            settings.addresses.listen = listed(&["0.0.0.0:80"]);
            settings.addresses.control = listed(&["[::]:81"]).remove(0).address;
        });
        let steps = self::steps(&other);
        assert!(steps.contains("--url ws://127.0.0.1:80/ws") && steps.contains("--control 127.0.0.1:81"), "{steps}");
        let alone = other.with(|settings| settings.addresses.listen = listed(&["[::]:80", "0.0.0.0:80"]));
        assert!(self::steps(&alone).contains("--url ws://[::1]:80/ws"));
        let redis = Settings::default().with(|settings| {
            settings.redis.url = Some("redis://h".to_owned());
            settings.redis.prefix = "p:".to_owned();
        });
        assert!(self::steps(&redis).contains("redis-cli -u redis://h publish p:news"));
    }

    #[test]
    fn the_next_steps_say_who_you_are_where_that_is_asked() {
        let asking = |mode: AuthMode| {
            Settings::default().with(|settings| (settings.auth.mode, settings.auth.secret) = (mode, Some("a secret".to_owned())))
        };
        let [subscribe, _] = first_commands(&asking(AuthMode::Jwt), Some(Path::new("a b.toml")), "campanile");
        assert!(subscribe.ends_with("--token \"$(campanile token --sub me --config 'a b.toml')\""), "{subscribe}");
        let steps = self::steps(&asking(AuthMode::Jwt));
        assert!(
            steps.contains("\n  campanile subscribe news --token \"$(campanile token --sub me)\"\n") && !steps.contains("a secret"),
            "{steps}"
        );
        let keys = asking(AuthMode::Jwt).with(|settings| (settings.auth.secret, settings.auth.key_files) = (None, vec!["k.pem".into()]));
        assert!(self::steps(&keys).contains("token --sub me --key PRIVATE.pem)\""));
        let query = self::steps(&asking(AuthMode::Query));
        assert!(query.contains("\n  campanile subscribe news --url 'ws://127.0.0.1:8080/ws?user=me'\n"), "{query}");
        let unix = Settings::default().with(|settings| settings.addresses.listen = vec![listener("unix:///run/c.sock").unwrap()]);
        assert!(self::steps(&unix).contains("\n  campanile subscribe news --url unix:///run/c.sock\n"), "{}", self::steps(&unix));
    }

    #[test]
    fn a_low_limit_is_a_warning_in_the_block() {
        let settings = Settings::default().with(|settings| settings.shards.count = 2);
        assert!(block(&settings, &host(20_000)).contains("\ndescriptor warning: a limit of 20000 descriptors"));
        let block = self::block(&settings.with(|settings| settings.shards.count = 6), &host(20_000));
        assert!(block.contains("a private table per shard") && !block.contains("warning"), "{block}");
        assert!(block.contains("embedded"), "{block}");
    }
}
