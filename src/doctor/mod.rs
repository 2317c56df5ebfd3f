//! Whether a host has what so many connections need, line by line, with what to do where it has not. Called by `campanile doctor`.
//!
//! [`host`] reads what there is; [`examine`] is pure: settings and facts in, checks out. The figures that it reckons with are named
//! below; `docs/operations.md` says where they come from.

pub mod host;

use serde::Serialize;

use crate::config::parse::show_size;
use crate::config::{Resolved, Settings, TlsSessions, fd_table, resolve_fd_table};
use crate::server::memory_bound::{memory_bound, show_bytes};
use host::Facts;

/// Kernel memory of one idle socket: structures, inode, file, epoll entry. (A pair on loopback was measured at 6.4 to 8.4 KB for both ends.)
pub const SOCKET_BYTES: u64 = 4608;
/// User memory of an idle connection with one subscription, measured. The bound reckons with the 300 B that are promised.
pub const CONNECTION_BYTES: u64 = 145;
/// And what a TLS session takes besides: compact, or rustls's own.
pub const COMPACT_SESSION_BYTES: u64 = 168;
pub const RUSTLS_SESSION_BYTES: u64 = 3700;
/// Server CPU of a message that is written by itself.
pub const SINGLE_US: f64 = 10.0;
/// And of each message that shares a write with others.
pub const SHARED_US: f64 = 0.1;
/// And of each 1000 bytes beyond those that both were measured with, copied and cut into packets.
pub const KILOBYTE_US: f64 = 0.15;
const MEASURED_BYTES: u64 = 128;
/// What is left for everything else: accepting, reading, heartbeats.
const SPARE: f64 = 0.1;
/// Bytes around a payload: JSON envelope, frame, TCP, IP and Ethernet headers.
pub const ENVELOPE_BYTES: u64 = 170;
/// A packet's payload on Ethernet, and the headers of each packet after the first.
const SEGMENT_BYTES: u64 = 1448;
const HEADER_BYTES: u64 = 90;
/// Where no card tells its speed: more than any does.
const FASTEST_CARD_MBIT: u64 = 800_000;
/// Bookkeeping of the kernel around each packet that waits for its acknowledgement.
const PACKET_BYTES: u64 = 1024;
const PAGE_BYTES: u64 = 4096;
/// Threads besides the shards: bus, control, log, main, name look-up.
const OTHER_THREADS: u64 = 5;
/// More sockets than this to a bucket make each packet's look-up slower.
const SOCKETS_PER_BUCKET: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// Worth knowing, nothing fails.
    Note,
    TooLow,
    /// The host does not tell.
    Unknown,
}

impl Verdict {
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::TooLow => "too low",
            Verdict::Unknown => "unknown",
        }
    }
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// In the unit of the figure that is compared, where there is one.
    #[serde(serialize_with = "figure")]
    pub need: Option<f64>,
    #[serde(serialize_with = "figure")]
    pub have: Option<f64>,
    pub text: String,
    /// What to type.
    pub fix: Option<String>,
}

/// What is asked about, besides the settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Messages a second, each to every connection.
    pub rate: f64,
    pub payload_bytes: u64,
}

/// All checks, in the order of the way of a connection.
pub fn examine(settings: &Settings, load: Load, facts: &Facts) -> Vec<Check> {
    let need = Need { settings, load, facts };
    let checks = [
        Some(need.descriptors()),
        need.table_size(),
        Some(need.files()),
        Some(need.epoll()),
        Some(need.backlog()),
        Some(need.syn_backlog()),
        need.conntrack(),
        Some(need.memory()),
        Some(need.memory_bound()),
        need.cgroup_memory(),
        need.overcommit(),
        need.huge_pages(),
        need.migration(),
        Some(need.tcp_memory()),
        need.buckets(),
        need.tasks(),
        Some(need.cores()),
        need.payload(),
        need.channel_log(),
        Some(need.network()),
        Some(need.ports()),
    ];
    checks.into_iter().flatten().collect()
}

struct Need<'a> {
    settings: &'a Settings,
    load: Load,
    facts: &'a Facts,
}

impl Need<'_> {
    fn connections(&self) -> u64 {
        self.settings.bounds.connections_max as u64
    }

    fn shards(&self) -> u64 {
        self.settings.shards.count as u64
    }

    /// Connections of the fullest listener, more or less.
    fn share(&self) -> u64 {
        self.connections().div_ceil(self.shards())
    }

    fn resolved(&self, limit: u64) -> Resolved {
        resolve_fd_table(self.settings, limit, self.facts.private_refused.as_ref())
    }

    fn descriptors(&self) -> Check {
        let Some(limit) = self.facts.descriptors_hard else { return unknown("descriptors", "/proc/self/limits") };
        let resolved = self.resolved(limit);
        let need = fd_table::need(self.settings, resolved.private);
        let table =
            if resolved.private { format!("each of {} private tables needs", self.shards()) } else { "one shared table needs".into() };
        let limit_text = if limit == u64::MAX { "there is no limit".into() } else { format!("the limit is {}", count(limit)) };
        let text = format!("{table} {}, {limit_text}", count(need));
        let fixes: Vec<&str> = resolved.warnings().filter_map(|warning| Some(warning.split_once("help: ")?.1)).collect();
        let fix = Some(fixes.join("; or ")).filter(|fix| !fix.is_empty());
        let text = match &self.facts.private_refused {
            Some(refusal) if resolved.refusal.is_some() => format!("{text}; shards cannot have tables of their own: {refusal}"),
            _ => text,
        };
        Check { fix, ..compare("descriptors", need, limit, text, String::new) }
    }

    /// Only where it keeps the limit from being raised.
    fn table_size(&self) -> Option<Check> {
        let largest = self.facts.nr_open?;
        let need = fd_table::need(self.settings, self.resolved(self.facts.descriptors_hard.unwrap_or(largest)).private);
        let text = format!("a table may hold {}, {} are needed", count(largest), count(need));
        Some(compare("fs.nr_open", need, largest, text, || format!("sysctl -w fs.nr_open={}, then raise the limit", round_up(need))))
    }

    fn files(&self) -> Check {
        let Some(max) = self.facts.file_max else { return unknown("fs.file-max", "/proc/sys/fs/file-max") };
        let open = self.facts.files_open.unwrap_or(0);
        let need = open + fd_table::need(self.settings, false);
        let text = format!("the whole host may open {}; {} are open, with the connections {}", count(max), count(open), count(need));
        compare("fs.file-max", need, max, text, || format!("sysctl -w fs.file-max={}", round_up(need)))
    }

    fn epoll(&self) -> Check {
        let Some(max) = self.facts.epoll_watches else { return unknown("epoll watches", "/proc/sys/fs/epoll/max_user_watches") };
        let need = self.connections() + self.shards() * 4;
        let text = format!("each connection is one, {} of this user's {}", count(need), count(max));
        compare("epoll watches", need, max, text, || format!("sysctl -w fs.epoll.max_user_watches={}", round_up(need)))
    }

    /// All clients of a listener come back at once, the worst that happens.
    fn backlog_need(&self) -> u64 {
        self.share().min(u64::from(self.settings.shards.backlog))
    }

    fn backlog(&self) -> Check {
        let Some(max) = self.facts.somaxconn else { return unknown("backlog", "/proc/sys/net/core/somaxconn") };
        let need = self.backlog_need();
        let text =
            format!("if all come back at once, {} wait on each listener; net.core.somaxconn cuts that to {}", count(need), count(max));
        let text = if max >= need { format!("{} may wait on each listener, all of a shard's clients at once", count(need)) } else { text };
        compare("backlog", need, max, text, || format!("sysctl -w net.core.somaxconn={need}; those beyond try again after 1 s, 3 s, 7 s"))
    }

    fn syn_backlog(&self) -> Check {
        match (self.facts.syn_cookies, self.facts.syn_backlog) {
            (Some(0), Some(max)) => {
                let need = self.backlog_need();
                let text = format!("SYN cookies are off, so half-open connections are dropped beyond 3/4 of {}", count(max));
                compare("SYN backlog", need, max / 4 * 3, text, || "sysctl -w net.ipv4.tcp_syncookies=1".into())
            }
            (Some(1..), _) => ok("SYN backlog", "net.ipv4.tcp_max_syn_backlog is not used: SYN cookies are on".into()),
            (None, _) | (Some(0), None) => unknown("SYN backlog", "/proc/sys/net/ipv4/tcp_syncookies"),
        }
    }

    fn conntrack(&self) -> Option<Check> {
        let max = self.facts.conntrack_max?;
        let used = self.facts.conntrack_count.unwrap_or(0);
        let need = used + self.connections();
        let text = format!("connection tracking holds {}; {} are there, with the connections {}", count(max), count(used), count(need));
        let check = compare("conntrack", need, max, text, || {
            format!("sysctl -w net.netfilter.nf_conntrack_max={}, or do not track the public port (tuning/README.md)", round_up(need))
        });
        // Loaded, but no rule asks for it: nothing is tracked, and nothing is dropped.
        let is_idle = used == 0 && check.verdict == Verdict::TooLow;
        Some(if is_idle { Check { verdict: Verdict::Note, ..check } } else { check })
    }

    /// Wherever TLS is spoken at all everybody may come that way.
    fn connection_bytes(&self) -> u64 {
        let is_tls = self.settings.addresses.listen.iter().any(|listener| listener.is_tls);
        CONNECTION_BYTES
            + match self.settings.tls.sessions {
                _ if !is_tls => 0,
                TlsSessions::Compact => COMPACT_SESSION_BYTES,
                TlsSessions::Rustls => RUSTLS_SESSION_BYTES,
            }
    }

    /// What is needed even if nobody ever lags.
    fn memory_need(&self) -> u64 {
        self.connections() * (self.connection_bytes() + SOCKET_BYTES) + self.lap_pages() * PAGE_BYTES
    }

    fn memory(&self) -> Check {
        let Some(available) = self.facts.memory_available else { return unknown("memory", "/proc/meminfo") };
        let need = self.memory_need();
        let text = format!(
            "{} of {} available: {} user ({} B each), {} sockets in the kernel, {} while a message is on its way",
            show_bytes(need),
            show_bytes(available),
            show_bytes(self.connections() * self.connection_bytes()),
            self.connection_bytes(),
            show_bytes(self.connections() * SOCKET_BYTES),
            show_bytes(self.lap_pages() * PAGE_BYTES),
        );
        compare("memory", need, available, text, || "more memory, or fewer connections on this host".into())
    }

    /// The bound that the server prints, and the kernel's part.
    fn bound(&self) -> u64 {
        memory_bound(self.settings).total() + self.connections() * SOCKET_BYTES + self.lap_pages() * PAGE_BYTES
    }

    fn memory_bound(&self) -> Check {
        let Some(available) = self.facts.memory_available else { return unknown("memory bound", "/proc/meminfo") };
        let bound = self.bound();
        let text = format!("with full logs and buffers at most {} of {} available", show_bytes(bound), show_bytes(available));
        compare("memory bound", bound, available, text, || self.smaller_logs(available))
    }

    /// What the logs may take so that the bound holds.
    fn smaller_logs(&self, available: u64) -> String {
        let others = self.bound() - self.settings.bounds.log_bytes_total as u64;
        match available.saturating_sub(others) >> 20 {
            0..64 => "more memory, or smaller bounds (--connections-max, --buffer-bytes-total, --log-bytes-total)".into(),
            mib => format!("--log-bytes-total {mib}M"),
        }
    }

    fn cgroup_memory(&self) -> Option<Check> {
        let memory = self.facts.cgroup_memory?;
        let bound = self.bound();
        let text = format!(
            "of {} that the cgroup may hold, sockets counted, {} are left; at most {} are needed",
            show_bytes(memory.limit),
            show_bytes(memory.room()),
            show_bytes(bound)
        );
        Some(compare("cgroup memory", bound, memory.room(), text, || {
            let (setting, file) = if memory.is_high { ("MemoryHigh", "memory.high") } else { ("MemoryMax", "memory.max") };
            let limit_mib = ((memory.used + bound) >> 20) + 1;
            format!("{setting}={limit_mib}M in the unit ({file}), or {}", self.smaller_logs(memory.room()))
        }))
    }

    fn overcommit(&self) -> Option<Check> {
        let (2, Some(room)) = (self.facts.overcommit?, self.facts.commit_room) else { return None };
        let need = memory_bound(self.settings).total();
        let text = format!("vm.overcommit_memory is 2: {} may still be promised, {} may be asked for", show_bytes(room), show_bytes(need));
        Some(compare("overcommit", need, room, text, || "sysctl -w vm.overcommit_memory=0, or a higher vm.overcommit_ratio".into()))
    }

    /// Of no use where no server ever takes another one's place; nothing fails without.
    fn migration(&self) -> Option<Check> {
        (self.facts.migrate_req? == 0).then(|| Check {
            verdict: Verdict::Note,
            fix: Some("sysctl -w net.ipv4.tcp_migrate_req=1".into()),
            ..ok("takeover", "when a server takes another one's place, connections in the middle of their handshake are reset".into())
        })
    }

    fn huge_pages(&self) -> Option<Check> {
        (self.facts.huge_pages.as_deref()? == "always").then(|| Check {
            verdict: Verdict::Note,
            fix: Some("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled".into()),
            ..ok("huge pages", "transparent huge pages are \"always\": memory is taken in pieces of 2 MiB, so more may be resident".into())
        })
    }

    /// A socket with something unacknowledged is charged whole pages.
    fn lap_pages(&self) -> u64 {
        self.connections() * (self.load.payload_bytes + ENVELOPE_BYTES + PACKET_BYTES).div_ceil(PAGE_BYTES)
    }

    fn tcp_memory(&self) -> Check {
        let Some([_, pressure, max]) = self.facts.tcp_mem else { return unknown("tcp_mem", "/proc/sys/net/ipv4/tcp_mem") };
        let need = self.lap_pages();
        let text = format!(
            "a message on its way to all holds {} pages; pressure from {}, no more than {}",
            count(need),
            count(pressure),
            count(max)
        );
        let fix = || format!("sysctl -w net.ipv4.tcp_mem=\"{} {} {}\"", need / 2, need, need / 2 * 3);
        let check = compare("tcp_mem", need, max, text, fix);
        if check.verdict == Verdict::Ok && need > pressure {
            return Check { verdict: Verdict::Note, fix: Some(fix()), ..check };
        }
        check
    }

    fn buckets(&self) -> Option<Check> {
        let buckets = self.facts.tcp_buckets.filter(|&buckets| buckets > 0)?;
        let each = self.connections().div_ceil(buckets);
        let text = format!("{} sockets in {} buckets of the kernel's table, {each} to each", count(self.connections()), count(buckets));
        if each <= SOCKETS_PER_BUCKET {
            return Some(ok("TCP hash", text));
        }
        let fix = format!("boot with thash_entries={}", self.connections().next_power_of_two());
        Some(Check { verdict: Verdict::Note, fix: Some(fix), ..ok("TCP hash", text + ": each packet looks longer") })
    }

    fn tasks(&self) -> Option<Check> {
        let room = self.facts.cgroup_tasks?;
        let need = self.shards() + OTHER_THREADS;
        let text = format!("{need} threads, the cgroup has room for {}", count(room));
        Some(compare("cgroup pids", need, room, text, || format!("TasksMax={} in the unit (pids.max)", need * 2)))
    }

    /// Cores that may work on connections.
    fn core_count(&self) -> f64 {
        let allowed = if self.facts.cores.is_empty() { f64::INFINITY } else { self.facts.cores.len() as f64 };
        (self.shards() as f64).min(allowed).min(self.facts.cgroup_cores.unwrap_or(f64::INFINITY))
    }

    /// CPU of one delivery for its bytes.
    fn bytes_us(&self) -> f64 {
        self.load.payload_bytes.saturating_sub(MEASURED_BYTES) as f64 / 1e3 * KILOBYTE_US
    }

    /// Cores that are busy with deliveries of so many microseconds each.
    fn busy_cores(&self, delivery_us: f64) -> f64 {
        self.connections() as f64 * self.load.rate * delivery_us / 1e6
    }

    /// Seconds between two writes to the same connection; None where they grow without end.
    fn round(&self) -> Option<f64> {
        let cores = self.core_count();
        let each = self.connections() as f64 / 1e6;
        let (single_us, shared_us) = (SINGLE_US + self.bytes_us(), SHARED_US + self.bytes_us());
        if self.busy_cores(single_us) <= cores * (1.0 - SPARE) {
            return Some(each * single_us / cores);
        }
        let free = cores * (1.0 - SPARE) - self.busy_cores(shared_us);
        (free > cores * SPARE).then(|| each * SINGLE_US / free)
    }

    fn cores(&self) -> Check {
        let cores = self.core_count();
        let connections = self.connections() as f64;
        let Load { rate, .. } = self.load;
        let (single_us, shared_us) = (SINGLE_US + self.bytes_us(), SHARED_US + self.bytes_us());
        let (alone, shared) = (self.busy_cores(single_us), self.busy_cores(shared_us));
        let of = format!("{} of {}", show_number(alone), plural(cores, "core"));
        if alone <= cores * (1.0 - SPARE) {
            let text = format!(
                "{of}: {} deliveries/s at {} us each; a round takes {}",
                count((connections * rate) as u64),
                show_number(single_us),
                time(connections * single_us / 1e6 / cores)
            );
            return Check { need: Some(alone), have: Some(cores), ..ok("cores", text) };
        }
        let Some(lap) = self.round() else {
            let need = shared / (1.0 - 2.0 * SPARE);
            let text = format!(
                "{} deliveries/s take {} even at {} us each; {} here",
                count((connections * rate) as u64),
                plural(need, "core"),
                show_number(shared_us),
                show_number(cores)
            );
            let fits = cores * (1.0 - 2.0 * SPARE) * 1e6 / (connections * shared_us);
            let fix = format!("--shards {} on as many cores, or at most {} messages/s", need.ceil(), show_number(fits));
            return Check { verdict: Verdict::TooLow, need: Some(need), have: Some(cores), fix: Some(fix), ..ok("cores", text) };
        };
        let text = format!(
            "{of} if each message went by itself ({} us); so {} share each write ({} us more each), a round takes {}",
            show_number(single_us),
            show_number(rate * lap),
            show_number(shared_us),
            time(lap)
        );
        let verdict = if lap > 1.0 { Verdict::Note } else { Verdict::Ok };
        let enough = (connections * SINGLE_US / 1e6 + shared).ceil().max(cores + 1.0);
        let fix = (lap > 1.0).then(|| format!("more cores for a shorter round: {enough} for one second"));
        Check { verdict, need: Some(alone), have: Some(cores), fix, ..ok("cores", text) }
    }

    /// Only where no message gets through at all.
    fn payload(&self) -> Option<Check> {
        let (need, max) = (self.load.payload_bytes, self.settings.bounds.payload_bytes_max as u64);
        let text = format!("a message of {} B is dropped: payload_bytes_max is {}", count(need), show_size(max));
        (need > max).then(|| compare("payload", need, max, text, || format!("--payload-bytes-max {}", show_size(need))))
    }

    /// Only where a connection that keeps up with every round is left behind.
    fn channel_log(&self) -> Option<Check> {
        let round = self.round()?;
        let bytes = self.load.payload_bytes + ENVELOPE_BYTES;
        let need = (self.load.rate * round).ceil() as u64 * bytes;
        let log = self.settings.channels.default.log_bytes as u64;
        let text = format!("a round brings {} for each connection, a channel's log holds {}", show_bytes(need), show_bytes(log));
        let fix = || format!("--log-bytes-per-channel {}, smaller payloads, a lower rate", show_size(need.next_multiple_of(1 << 20)));
        (need > log).then(|| compare("channel log", need, log, text, fix))
    }

    fn network(&self) -> Check {
        let around = ENVELOPE_BYTES + (self.load.payload_bytes + ENVELOPE_BYTES - 1) / SEGMENT_BYTES * HEADER_BYTES;
        let bytes = self.connections() as f64 * self.load.rate * (self.load.payload_bytes + around) as f64;
        let mbit = (bytes * 8.0 / 1e6).ceil() as u64;
        let text = format!("{} Mbit/s ({} B and {} B around it)", count(mbit), count(self.load.payload_bytes), count(around));
        let fix = || "a faster card, smaller payloads, a lower rate".into();
        match self.facts.network_mbit {
            Some(speed) => compare("network", mbit, speed, format!("{text}, the card does {}", count(speed)), fix),
            None if mbit > FASTEST_CARD_MBIT => {
                compare("network", mbit, FASTEST_CARD_MBIT, format!("{text}, no card does {}", count(FASTEST_CARD_MBIT)), fix)
            }
            None => Check {
                verdict: Verdict::Unknown,
                need: Some(mbit as f64),
                ..ok("network", format!("{text}; the card does not tell its speed"))
            },
        }
    }

    fn ports(&self) -> Check {
        let Some((low, high)) = self.facts.ports else { return unknown("ports", "/proc/sys/net/ipv4/ip_local_port_range") };
        let ports = (high + 1).saturating_sub(low).max(1);
        let addresses = self.connections().div_ceil(ports);
        let text = match addresses {
            1 => format!("for a load generator on this host, {} from one address suffice; the server needs none", count(ports)),
            more => {
                format!("a load generator on this host needs {more} source addresses ({} ports each); the server needs none", count(ports))
            }
        };
        Check { need: Some(self.connections() as f64), have: Some(ports as f64), ..ok("ports", text) }
    }
}

fn ok(name: &'static str, text: String) -> Check {
    Check { name, verdict: Verdict::Ok, need: None, have: None, text, fix: None }
}

fn unknown(name: &'static str, file: &str) -> Check {
    Check { verdict: Verdict::Unknown, ..ok(name, format!("{file} cannot be read")) }
}

fn compare(name: &'static str, need: u64, have: u64, text: String, fix: impl FnOnce() -> String) -> Check {
    let (need_shown, have_shown) = (Some(need as f64), Some(have as f64));
    if need <= have {
        return Check { need: need_shown, have: have_shown, ..ok(name, text) };
    }
    Check { verdict: Verdict::TooLow, need: need_shown, have: have_shown, fix: Some(fix()), ..ok(name, text) }
}

/// Whole numbers without a point; what has no end (`u64::MAX`) as no number.
fn figure<S: serde::Serializer>(figure: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match figure {
        Some(figure) if *figure >= u64::MAX as f64 => serializer.serialize_none(),
        Some(figure) if figure.fract() == 0.0 => serializer.serialize_u64(*figure as u64),
        Some(figure) => serializer.serialize_f64(*figure),
        None => serializer.serialize_none(),
    }
}

/// A figure to type: two digits, not less than needed.
fn round_up(number: u64) -> u64 {
    let step = 10_u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    number.div_ceil(step) * step
}

/// With commas.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Two digits, three from ten on.
pub fn show_number(number: f64) -> String {
    if number >= 100.0 {
        return count(number.round() as u64);
    }
    let digits = if number >= 10.0 || number == 0.0 {
        0
    } else if number >= 1.0 {
        1
    } else {
        2
    };
    let text = format!("{number:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn plural(number: f64, word: &str) -> String {
    let number = show_number(number);
    if number == "1" { format!("1 {word}") } else { format!("{number} {word}s") }
}

fn time(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{} s", show_number(seconds)) } else { format!("{} ms", show_number(seconds * 1e3)) }
}

#[cfg(test)]
mod tests;
