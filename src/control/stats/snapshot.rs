//! The figures of one moment, and what became of them since the moment before: what the page at `/` and `campanile top` show.
//!
//! Made of counters that others write ([`Sample`]), so that it costs the data path nothing, and the same whatever the number of connections. Written as JSON,
//! and read again by `campanile top`, which may be of another version: so whatever is missing has a default, and what is not known is passed over.

use serde::{Deserialize, Serialize};

use crate::bus::busiest::Busy;
use crate::config::Overrun;
use crate::config::words::EMBEDDED;
use crate::control::State;
use crate::control::process;
use crate::limits::control::BUS_SERVERS_TOLD_MAX;
use crate::metrics::{Counter, LATENCY_BOUNDS_US, LoadCause, ShardMetrics};
use crate::sys;
use crate::wire::close::CloseReason;
use crate::wire::http::refusal::RefusalReason;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub version: String,
    pub unix_ms: u64,
    pub uptime_seconds: u64,
    /// Serving, draining or stopping.
    pub stage: String,
    /// Why messages do not flow, or nobody is taken in.
    pub not_ready: Option<String>,
    pub connections: u64,
    pub connections_max: u64,
    pub subscriptions: u64,
    pub channels: u64,
    /// Subscriptions that are behind, as their sockets take nothing.
    pub lagging: u64,
    /// Since the snapshot before; None: there was none.
    pub rates: Option<Rates>,
    /// Of the deliveries since then; None: there were none.
    pub latency: Option<Latency>,
    pub shards: Vec<Shard>,
    /// None: the bus has not said.
    pub busiest: Option<Vec<Channel>>,
    /// What was done about subscribers that a channel's log has passed.
    pub overruns: Vec<Count>,
    pub closed: Vec<Count>,
    pub refused: Vec<Count>,
    pub bus: Bus,
    pub memory: Memory,
    /// Who watches, this one among them.
    pub watchers: u64,
    /// What subscribes here, and what publishes.
    pub first_commands: Vec<String>,
}

/// In a second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// That these were counted in.
    pub seconds: f64,
    /// Messages times subscribers.
    pub deliveries: f64,
    /// That came from the bus.
    pub messages: f64,
    pub sent_bytes: f64,
    pub received_bytes: f64,
    pub accepted: f64,
    pub commands: f64,
    /// Messages that subscribers were not sent.
    pub skipped: f64,
    pub writes_blocked: f64,
}

/// In seconds, from the bus to the kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shard {
    pub connections: u64,
    pub subscriptions: u64,
    pub lagging: u64,
    /// Share of the time since the snapshot before that its loop worked.
    pub busy: f64,
    /// How long what happens waits for the loop.
    pub lag_seconds: f64,
    pub deliveries: f64,
    pub inbox_bytes: u64,
    pub log_bytes: u64,
    /// Why it takes nobody in.
    pub closed_by: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Channel {
    pub name: String,
    pub subscribers: u64,
    /// In a second.
    pub messages: f64,
    pub deliveries: f64,
}

/// How often something happened, in all and in a second. Told where it has happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    pub name: String,
    pub total: u64,
    pub rate: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bus {
    pub kind: String,
    pub is_ready: bool,
    pub servers: Vec<Server>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    pub url: String,
    pub is_ready: bool,
    /// Since a message came back that was published to try it.
    pub probe_age_seconds: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub resident_bytes: Option<u64>,
    /// The most user memory that the settings allow.
    pub bytes_max: u64,
    pub parts: Vec<Part>,
}

/// What something takes, of what it may.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    pub name: String,
    pub bytes: u64,
    pub bytes_max: u64,
}

const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;
type Buckets = [u64; BUCKETS];

/// The counters at one moment, as far as it matters how they move.
#[derive(Debug)]
pub struct Sample {
    at_ns: u64,
    bus_messages: u64,
    shards: Vec<ShardSample>,
}

#[derive(Debug)]
struct ShardSample {
    deliveries: u64,
    sent_bytes: u64,
    received_bytes: u64,
    accepted: u64,
    commands: u64,
    skipped: u64,
    writes_blocked: u64,
    busy_ns: u64,
    latency: Buckets,
    overruns: [u64; Overrun::ALL.len()],
    closed: [u64; CloseReason::ALL.len()],
    refused: [u64; RefusalReason::ALL.len()],
}

impl Sample {
    pub fn take(state: &State) -> Sample {
        let shards = state.shards.iter().map(|shard| ShardSample::take(shard)).collect();
        Sample { at_ns: sys::monotonic_ns(), bus_messages: state.bus_metrics.messages.get(), shards }
    }

    fn sum(&self, of: impl Fn(&ShardSample) -> u64) -> u64 {
        self.shards.iter().map(of).sum()
    }
}

impl ShardSample {
    fn take(shard: &ShardMetrics) -> ShardSample {
        ShardSample {
            deliveries: shard.messages_sent.get(),
            sent_bytes: shard.bytes_sent.get(),
            received_bytes: shard.bytes_received.get(),
            accepted: shard.accepted.get(),
            commands: shard.commands.get(),
            skipped: shard.messages_skipped.get(),
            writes_blocked: shard.writes_blocked.get(),
            busy_ns: shard.busy_ns.get(),
            latency: shard.latency.buckets.each_ref().map(Counter::get),
            overruns: shard.overruns.each_ref().map(Counter::get),
            closed: shard.closed.each_ref().map(Counter::get),
            refused: shard.refused.each_ref().map(Counter::get),
        }
    }
}

/// From one sample to the next.
struct Span<'a> {
    before: Option<&'a Sample>,
    after: &'a Sample,
}

impl Span<'_> {
    /// None: there is no sample before.
    fn seconds(&self) -> Option<f64> {
        let ns = self.after.at_ns.saturating_sub(self.before?.at_ns);
        Some(ns as f64 / 1e9).filter(|&seconds| seconds > 0.0)
    }

    fn per_second(&self, after: u64, before: impl FnOnce(&Sample) -> u64) -> f64 {
        let Some((before, seconds)) = self.before.map(before).zip(self.seconds()) else { return 0.0 };
        after.saturating_sub(before) as f64 / seconds
    }

    fn rate(&self, of: impl Fn(&ShardSample) -> u64) -> f64 {
        self.per_second(self.after.sum(&of), |before| before.sum(&of))
    }

    fn rates(&self) -> Option<Rates> {
        Some(Rates {
            seconds: self.seconds()?,
            deliveries: self.rate(|shard| shard.deliveries),
            messages: self.per_second(self.after.bus_messages, |before| before.bus_messages),
            sent_bytes: self.rate(|shard| shard.sent_bytes),
            received_bytes: self.rate(|shard| shard.received_bytes),
            accepted: self.rate(|shard| shard.accepted),
            commands: self.rate(|shard| shard.commands),
            skipped: self.rate(|shard| shard.skipped),
            writes_blocked: self.rate(|shard| shard.writes_blocked),
        })
    }

    fn counts<const N: usize>(&self, names: [&str; N], of: impl Fn(&ShardSample) -> &[u64; N]) -> Vec<Count> {
        let count = |(at, name): (usize, &str)| Count {
            name: name.to_owned(),
            total: self.after.sum(|shard| of(shard)[at]),
            rate: self.rate(|shard| of(shard)[at]),
        };
        names.into_iter().enumerate().map(count).filter(|count| count.total > 0).collect()
    }

    fn latency(&self) -> Option<Latency> {
        let before = self.before?;
        let bucket = |at: usize| self.after.sum(|shard| shard.latency[at]).saturating_sub(before.sum(|shard| shard.latency[at]));
        percentiles(&std::array::from_fn(bucket))
    }

    fn shard(&self, number: usize, shard: &ShardMetrics) -> Shard {
        let at = |sample: &Sample, of: fn(&ShardSample) -> u64| sample.shards.get(number).map_or(0, of);
        let rate = |of: fn(&ShardSample) -> u64| self.per_second(at(self.after, of), |before| at(before, of));
        let closed = LoadCause::ALL.iter().filter(|cause| shard.admission_closed[**cause as usize].get() != 0);
        Shard {
            connections: shard.connections.get(),
            subscriptions: shard.subscriptions.get(),
            lagging: shard.lagging.get(),
            busy: (rate(|shard| shard.busy_ns) / 1e9).min(1.0),
            lag_seconds: shard.lag_ns.get() as f64 / 1e9,
            deliveries: rate(|shard| shard.deliveries),
            inbox_bytes: shard.inbox_bytes.get(),
            log_bytes: shard.log_bytes.get(),
            closed_by: closed.map(|cause| cause.name().to_owned()).collect(),
        }
    }
}

/// None: nothing was observed. Within a bucket observations count as spread evenly; what is above all bounds counts as the last of them.
fn percentiles(buckets: &Buckets) -> Option<Latency> {
    let count: u64 = buckets.iter().sum();
    let percentile = |share: f64| {
        let rank = (share * count as f64).max(1.0);
        let mut below = 0.0;
        let mut low_us = 0.0;
        for (&observations, &bound_us) in buckets.iter().zip(&LATENCY_BOUNDS_US) {
            let (observations, bound_us) = (observations as f64, bound_us as f64);
            if observations > 0.0 && below + observations >= rank {
                return (low_us + (bound_us - low_us) * (rank - below) / observations) / 1e6;
            }
            (below, low_us) = (below + observations, bound_us);
        }
        low_us / 1e6
    };
    (count > 0).then(|| Latency { p50: percentile(0.5), p90: percentile(0.9), p99: percentile(0.99), p999: percentile(0.999) })
}

impl Snapshot {
    /// `busy`: what the bus has counted meanwhile.
    pub fn of(state: &State, before: Option<&Sample>, after: &Sample, busy: Option<Busy>) -> Snapshot {
        let span = Span { before, after };
        let in_force = state.reload.in_force();
        let sum = |of: fn(&ShardMetrics) -> &Counter| state.shards.iter().map(|shard| of(shard).get()).sum::<u64>();
        Snapshot {
            version: state.facts.version.to_owned(),
            unix_ms: sys::unix_ms(),
            uptime_seconds: state.started.elapsed().as_secs(),
            stage: state.life.stage().name().to_owned(),
            not_ready: state.not_ready().map(|reason| reason.into_owned()),
            connections: sum(|shard| &shard.connections),
            connections_max: in_force.settings.bounds.connections_max as u64,
            subscriptions: sum(|shard| &shard.subscriptions),
            channels: state.bus_metrics.channels.get(),
            lagging: sum(|shard| &shard.lagging),
            rates: span.rates(),
            latency: span.latency(),
            shards: state.shards.iter().enumerate().map(|(number, shard)| span.shard(number, shard)).collect(),
            busiest: busy.map(channels),
            overruns: span.counts(Overrun::ALL.map(Overrun::name), |shard| &shard.overruns),
            closed: span.counts(CloseReason::ALL.map(CloseReason::name), |shard| &shard.closed),
            refused: span.counts(RefusalReason::ALL.map(RefusalReason::name), |shard| &shard.refused),
            bus: bus(state),
            memory: memory(state),
            watchers: state.stats.watchers() as u64,
            first_commands: state.facts.first_commands.to_vec(),
        }
    }
}

fn channels(busy: Busy) -> Vec<Channel> {
    let seconds = busy.ns as f64 / 1e9;
    let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let channel = |channel: crate::bus::busiest::BusyChannel| Channel {
        name: channel.name,
        subscribers: channel.subscribers.into(),
        messages: rate(channel.messages),
        deliveries: rate(channel.deliveries),
    };
    busy.channels.into_iter().map(channel).collect()
}

fn bus(state: &State) -> Bus {
    let now = sys::monotonic_ns();
    let servers = state.bus_metrics.servers.all().into_iter().take(BUS_SERVERS_TOLD_MAX).map(|server| Server {
        probe_age_seconds: server.probe_age_ns(now).map(|ns| ns as f64 / 1e9),
        url: server.name,
        is_ready: server.is_ready,
    });
    let kind = if state.settings.redis.url.is_some() { "redis" } else { EMBEDDED };
    Bus { kind: kind.to_owned(), is_ready: state.bus_metrics.ready.get() != 0, servers: servers.collect() }
}

fn memory(state: &State) -> Memory {
    let in_force = state.reload.in_force();
    let bounds = &in_force.settings.bounds;
    let of_shards = |of: fn(&ShardMetrics) -> &Counter| state.shards.iter().map(|shard| of(shard).get()).sum::<u64>();
    let part = |name: &str, bytes, bytes_max: usize| Part { name: name.to_owned(), bytes, bytes_max: bytes_max as u64 };
    let parts = vec![
        part("logs", of_shards(|shard| &shard.log_bytes), bounds.log_bytes_total),
        part("buffers", of_shards(|shard| &shard.buffer_bytes), bounds.buffer_bytes_total),
        part("inboxes", of_shards(|shard| &shard.inbox_bytes), bounds.inbox_bytes_total),
        part("history", state.bus_metrics.history_bytes.get(), bounds.history_bytes_total),
    ];
    let bytes_max = (state.facts.memory_bytes_max)(&in_force.settings);
    Memory { resident_bytes: process::resident_bytes(), bytes_max, parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(counts: &[(usize, u64)]) -> Buckets {
        let mut buckets = [0; BUCKETS];
        counts.iter().for_each(|&(at, count)| buckets[at] = count);
        buckets
    }

    #[test]
    fn percentiles_lie_in_the_bucket_that_holds_them() {
        assert_eq!(percentiles(&buckets(&[])), None);
        // 90 of up to 50 us, 9 of up to 1 ms, one above all bounds.
        let latency = percentiles(&buckets(&[(0, 90), (4, 9), (BUCKETS - 1, 1)])).unwrap();
        assert!((latency.p50 - 50e-6 * 50.0 / 90.0).abs() < 1e-12, "{latency:?}");
        assert!((latency.p90 - 50e-6).abs() < 1e-12 && (latency.p99 - 1e-3).abs() < 1e-12, "{latency:?}");
        assert_eq!(latency.p999, 30.0);
        let one = percentiles(&buckets(&[(5, 1)])).unwrap();
        assert!((one.p50 - 2.5e-3).abs() < 1e-12 && one.p50 == one.p999, "{one:?}");
    }

    #[test]
    fn what_another_version_says_is_read_as_far_as_it_is_known() {
        let said = r#"{"connections":7,"rates":{"deliveries":2.5},"something":{"new":[1]},"shards":[{"busy":0.5}],"busiest":null}"#;
        let snapshot: Snapshot = serde_json::from_str(said).unwrap();
        assert_eq!((snapshot.connections, snapshot.shards[0].busy, snapshot.rates.unwrap().deliveries), (7, 0.5, 2.5));
        assert_eq!((snapshot.busiest, snapshot.memory), (None, Memory::default()));
    }
}
