//! What the server says about itself when it starts, and the memory bound that follows from its settings. Called by
//! `campanile serve`. Pure: settings and host in, text out; no password in it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::host::Host;
use super::parse::{show_cores, show_time};
use super::{Pin, RedisSubscribe, Settings, redis_url, resolve_fd_table};
use crate::bus::ShardMessage;
use crate::wire::Format;

/// User memory of an idle connection with one subscription (the aim of the design, measured as RSS).
const CONNECTION_BYTES: u64 = 300;
/// A slot of a crossbeam array channel holds the message and a stamp, and is allocated at start.
const INBOX_SLOT_BYTES: u64 = size_of::<ShardMessage>() as u64 + 8;

/// The version and, where the build was told it, the commit.
pub fn version() -> String {
    match option_env!("CAMPANILE_COMMIT") {
        Some(commit) if !commit.is_empty() => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        _ => env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The most user memory that the settings allow, by what holds it, in bytes. Kernel memory (sockets) comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBound {
    /// `log_bytes_total`, once as published and once more for each format that somebody asks for.
    pub logs: u64,
    pub buffers: u64,
    /// The slots; the batches in them are those of the logs.
    pub inboxes: u64,
    pub connections: u64,
}

impl MemoryBound {
    pub fn total(&self) -> u64 {
        self.logs + self.buffers + self.inboxes + self.connections
    }
}

pub fn memory_bound(settings: &Settings) -> MemoryBound {
    MemoryBound {
        logs: settings.log_bytes_total as u64 * (1 + Format::COUNT as u64),
        buffers: settings.buffer_bytes_total as u64,
        inboxes: settings.shards as u64 * settings.inbox_messages as u64 * INBOX_SLOT_BYTES,
        connections: settings.connections_max as u64 * CONNECTION_BYTES,
    }
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
    let copies = 1 + Format::COUNT as u64;
    line("memory", format!("at most {} of user memory, that is", show_bytes(bound.total())));
    line(
        "",
        format!(
            "logs {} ({copies} x {}, as published and in {} formats) + buffers {}",
            show_bytes(bound.logs),
            show_bytes(settings.log_bytes_total as u64),
            Format::COUNT,
            show_bytes(bound.buffers)
        ),
    );
    line(
        "",
        format!(
            "+ inboxes {} ({} x {} slots) + connections {} ({} x {CONNECTION_BYTES} B)",
            show_bytes(bound.inboxes),
            settings.shards,
            settings.inbox_messages,
            show_bytes(bound.connections),
            settings.connections_max
        ),
    );
    if std::iter::once(&settings.channels.default)
        .chain(settings.channels.by_prefix.iter().map(|(_, rule)| rule))
        .any(|rule| rule.history_count > 0)
    {
        line("", "+ history: history_count messages of every channel that has one".to_owned());
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

    fn host(hard: u64) -> Host {
        Host { cores: vec![0, 1, 2, 3], descriptors_soft: 1024, descriptors_hard: hard }
    }

    #[test]
    fn the_bound_is_the_sum_of_its_parts() {
        let settings = Settings { shards: 2, ..Settings::default() };
        let bound = memory_bound(&settings);
        assert_eq!(bound.logs, 4 << 30);
        assert_eq!(bound.buffers, 256 << 20);
        assert_eq!(bound.inboxes, 2 * 16384 * INBOX_SLOT_BYTES);
        assert_eq!(bound.connections, 30_000_000);
        assert_eq!(bound.total(), bound.logs + bound.buffers + bound.inboxes + bound.connections);
        let larger = memory_bound(&Settings { log_bytes_total: 2 << 30, connections_max: 200_000, ..settings });
        assert_eq!(larger.total() - bound.total(), (4 << 30) + 30_000_000);
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
            "logs 4.0 GiB (4 x 1.0 GiB",
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
