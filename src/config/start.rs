//! What the server says about itself when it starts, and the memory bound that follows from its settings. Called by
//! `campanile serve`. Pure: settings and host in, text out; no password in it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::host::Host;
use super::parse::{show_cores, show_time};
use super::{Pin, RedisSubscribe, Settings, redis_url, resolve_fd_table};
use crate::bus::output_limit::WINDOW_BYTES_MAX;
use crate::bus::{CONTROL_SHARE, PUBLISH_BYTES_MAX, ShardMessage};
use crate::control;
use crate::limits::BATCH_BYTES_MAX;
use crate::limits::BUFFER_FLOOR_BYTES;
use crate::wire::Format;

/// User memory of an idle connection with one subscription (the aim of the design, measured as RSS).
const CONNECTION_BYTES: u64 = 300;
/// Measured: 715 B for a channel with one subscriber on one shard, bus and shard together.
const CHANNEL_BYTES: u64 = 400;
const TOPIC_BYTES: u64 = 400;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBound {
    /// `log_bytes_total`; encoded frames count in it.
    pub logs: u64,
    /// One batch per shard, as large as they come, as published and in every format, before its log has counted it.
    pub making: u64,
    pub buffers: u64,
    /// Slots, and batches as published. Frames of theirs that a faster shard has had encoded count in that shard's log, while it has them.
    pub inboxes: u64,
    pub connections: u64,
    /// `channels_max` on the bus, and on every shard as far as there are subscriptions for them.
    pub channels: u64,
    /// Of a connection beyond its first.
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
    MemoryBound {
        logs: settings.log_bytes_total as u64,
        making: shards * batch * (1 + Format::COUNT as u64),
        // Whoever holds no more than the floor is exempt from the budget over all.
        buffers: shards * settings.buffer_bytes_of_shard() as u64 + (settings.connections_max * BUFFER_FLOOR_BYTES) as u64,
        inboxes: shards * (settings.inbox_messages as u64 * INBOX_SLOT_BYTES + inbox_bytes),
        connections: settings.connections_max as u64 * CONNECTION_BYTES,
        channels: settings.channels_max as u64 * CHANNEL_BYTES
            + (settings.channels_max as u64 * shards).min((settings.connections_max * settings.subscriptions_max) as u64) * TOPIC_BYTES,
        // The list of a connection grows by doubling; a place in each channel's list of members, which does so too.
        subscriptions: match settings.subscriptions_max as u64 {
            0 | 1 => 0,
            most => settings.connections_max as u64 * (most.next_power_of_two() * SUBSCRIPTION_BYTES + most * 2 * MEMBER_BYTES),
        },
        publishes: publishes_bytes_max(settings),
        control: control::memory_bound(settings.payload_bytes_max),
        history: if rules.any(|rule| rule.history_count > 0) { settings.history_bytes_total as u64 } else { 0 },
    }
}

/// Clients and the control port each may have one larger than their share, alone. To Redis there is in writing what may come back from it,
/// which one payload may exceed; a buffer that grows holds as much again.
fn publishes_bytes_max(settings: &Settings) -> u64 {
    let payload = settings.payload_bytes_max;
    let held = (PUBLISH_BYTES_MAX - CONTROL_SHARE.bytes).max(payload) + CONTROL_SHARE.bytes.max(payload);
    let writing = if settings.redis.is_some() { 2 * payload.max(WINDOW_BYTES_MAX) } else { 0 };
    (held + writing) as u64
}

/// The largest batch: full of small messages, or one large one.
fn batch_bytes_max(settings: &Settings) -> u64 {
    settings.payload_bytes_max.max(BATCH_BYTES_MAX) as u64
}

/// The block that `campanile serve` prints once: what runs where, and what bounds it. Ends with a line break.
pub fn start_block(settings: &Settings, host: &Host) -> String {
    let mut block = format!("Campanile {}\n", version());
    let mut line = |name: &str, text: String| writeln!(block, "  {name:<12} {text}").expect("a String takes everything");

    let addresses: Vec<String> = settings.listen.iter().map(|address| format!("ws://{address}/ws")).collect();
    line("clients", addresses.join("  "));
    line("control", format!("http://{}", settings.control));
    line("shards", shards(settings, host));
    line("bus", bus(settings));

    let resolved = resolve_fd_table(settings, host.descriptors_hard);
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
    if let Some(warning) = resolved.warning {
        writeln!(block, "descriptor warning: {warning}").expect("a String takes everything");
    }
    block
}

/// What to type to see a message arrive, in the words that fit these settings.
pub fn next_steps(settings: &Settings, program: &str) -> String {
    let default = Settings::default();
    let subscribe = match settings.listen.first() {
        Some(listen) if settings.listen != default.listen => format!("{program} subscribe news --url ws://{}/ws", reachable(*listen)),
        _ => format!("{program} subscribe news"),
    };
    let publish = match &settings.redis {
        Some(url) => format!("{} publish {}news '{{\"hello\":\"world\"}}'", redis_cli(url), settings.prefix),
        None if settings.control == default.control => format!("{program} publish news '{{\"hello\":\"world\"}}'"),
        None => format!("{program} publish news '{{\"hello\":\"world\"}}' --control {}", reachable(settings.control)),
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

/// Where a listener is reached from this host.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
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
    use crate::config::ChannelRule;

    fn host(hard: u64) -> Host {
        Host { cores: vec![0, 1, 2, 3], descriptors_soft: 1024, descriptors_hard: hard }
    }

    #[test]
    fn the_bound_is_the_sum_of_its_parts() {
        let settings = Settings { shards: 2, ..Settings::default() };
        let bound = memory_bound(&settings);
        assert_eq!(bound.logs, 1 << 30);
        assert_eq!(bound.making, 8 << 20);
        assert_eq!(bound.buffers, (256 << 20) + 100_000 * 4096);
        assert_eq!(bound.inboxes, (256 << 20) + 2 * 16384 * INBOX_SLOT_BYTES);
        assert_eq!(bound.connections, 30_000_000);
        assert_eq!(bound.history, 0, "no channel has one");
        assert_eq!(bound.channels, 200_000 * 400 + 2 * 200_000 * 400);
        assert_eq!(bound.subscriptions, 100_000 * (128 * 32 + 128 * 16));
        assert_eq!(bound.publishes, 64 << 20);
        assert_eq!(bound.control, (16 << 20) + (64 << 20) + (8 << 20) + (16 << 20));
        let parts = bound.logs + bound.making + bound.buffers + bound.inboxes + bound.connections;
        assert_eq!(bound.total(), parts + bound.channels + bound.subscriptions + bound.publishes + bound.control);
        let larger = memory_bound(&Settings { log_bytes_total: 2 << 30, connections_max: 200_000, ..settings.clone() });
        assert_eq!(larger.total() - bound.total(), (1 << 30) + 30_000_000 + 100_000 * (4096 + 128 * 48));

        let mut remembering = settings.clone();
        remembering.channels.by_prefix = vec![("a".to_owned(), ChannelRule { history_count: 1, ..ChannelRule::default() })];
        assert_eq!(memory_bound(&remembering).total() - bound.total(), 256 << 20);
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
            let block = start_block(&settings, &host(1 << 20));
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
        let block = start_block(&settings, &host(1 << 20));
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
    fn the_next_steps_can_be_typed() {
        let steps = next_steps(&Settings::default(), "campanile");
        assert!(steps.contains("\n  campanile subscribe news\n  campanile publish news '{\"hello\":\"world\"}'\n"), "{steps}");
        let other = Settings { listen: vec!["0.0.0.0:80".parse().unwrap()], control: "[::]:81".parse().unwrap(), ..Settings::default() };
        let steps = next_steps(&other, "campanile");
        assert!(steps.contains("--url ws://127.0.0.1:80/ws") && steps.contains("--control [::1]:81"), "{steps}");
        let redis = Settings { redis: Some("redis://h".to_owned()), prefix: "p:".to_owned(), ..Settings::default() };
        assert!(next_steps(&redis, "campanile").contains("redis-cli -u redis://h publish p:news"));
    }

    #[test]
    fn a_low_limit_is_a_warning_in_the_block() {
        let settings = Settings { shards: 2, ..Settings::default() };
        assert!(start_block(&settings, &host(20_000)).contains("\ndescriptor warning: a limit of 20000 descriptors"));
        let block = start_block(&Settings { shards: 6, ..settings }, &host(20_000));
        assert!(block.contains("a private table per shard") && !block.contains("warning"), "{block}");
        assert!(block.contains("embedded"), "{block}");
    }
}
