//! Counters of the data path. Each is written by one thread with a plain load and store and read by others whenever
//! they like, so counting costs no locked instruction. [`crate::control::metrics`] gives them their Prometheus names.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::auth::token::TokenReason;
use crate::clock::MonotonicNs;
use crate::config::Overrun;
use crate::config::routes::Unrouted;
use crate::named::named;
use crate::rate::Publisher;
use crate::tls::Version;
use crate::tls::fault::Fault;
use crate::wire::close::CloseReason;
use crate::wire::command::ErrorCode;
use crate::wire::http::refusal::RefusalReason;

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Must be called from the owning thread only: two writers lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }
    /// Subtracts one, for gauges.
    #[inline]
    pub fn dec(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the latency buckets in microseconds; one more bucket holds everything above.
pub const LATENCY_BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    30_000_000,
];

/// A histogram with fixed bounds, one writer.
#[derive(Debug, Default)]
pub struct Latency {
    /// Observations per bucket, not cumulated; the last one is above every bound.
    pub buckets: [Counter; LATENCY_BOUNDS_US.len() + 1],
    /// Sum of all observations in microseconds.
    pub sum_us: Counter,
}

impl Latency {
    /// Records `n` observations of `us` microseconds.
    #[inline]
    pub fn record(&self, us: u64, n: u64) {
        self.buckets[bucket(us)].add(n);
        self.sum_us.add(us.saturating_mul(n));
    }
}

/// The first bucket whose bound is not below `us`.
#[inline]
fn bucket(us: u64) -> usize {
    // Each bound is at least twice the one before, so a power of two and the next have at most one between them: one look and one
    // comparison instead of a search, for every write (and every message of a merged batch).
    let first = FIRST_BUCKETS[us.checked_ilog2().unwrap_or(0) as usize] as usize;
    first + usize::from(LATENCY_BOUNDS_US.get(first).is_some_and(|&bound| bound < us))
}

/// For each power of two the first bucket whose bound is not below it.
const FIRST_BUCKETS: [u8; 64] = {
    let mut buckets = [0; 64];
    let mut power = 0;
    while power < 64 {
        let mut bucket = 0;
        while bucket < LATENCY_BOUNDS_US.len() && LATENCY_BOUNDS_US[bucket] < 1 << power {
            bucket += 1;
        }
        buckets[power] = bucket as u8;
        power += 1;
    }
    buckets
};

const _: () = {
    let mut at = 1;
    while at < LATENCY_BOUNDS_US.len() {
        assert!(LATENCY_BOUNDS_US[at] >= 2 * LATENCY_BOUNDS_US[at - 1], "`bucket` relies on it");
        at += 1;
    }
};

named! {
    /// Why a shard takes nobody in. Each has a gauge, `campanile_admission_closed`.
    LoadCause {
        /// `admission_lag`
        Lag = "lag",
        /// `admission_logs`
        Logs = "logs",
        /// `admission_memory`
        Memory = "memory",
    }
}

/// Written by one shard thread.
#[derive(Debug, Default)]
pub struct ShardMetrics {
    /// Open WebSocket connections now (gauge).
    pub connections: Counter,
    /// Accepted sockets now, whatever their phase (gauge).
    pub sockets: Counter,
    /// A number of [`Stage`](crate::life::Stage) (gauge).
    pub stage: Counter,
    pub accepted: Counter,
    /// Times accept failed for want of descriptors (EMFILE, ENFILE) or kernel memory.
    pub accept_errors: Counter,
    /// Messages whose last byte the kernel accepted.
    pub messages_sent: Counter,
    /// Of them, those that were older than their logs.
    pub messages_replayed: Counter,
    /// Sent in answers to `history`.
    pub messages_recalled: Counter,
    /// Messages without a number: sent, not sent to a subscription, not sent to anybody here because too many were under way.
    pub unnumbered_sent: Counter,
    pub unnumbered_skipped: Counter,
    pub unnumbered_dropped: Counter,
    /// Connections with which permessage-deflate was agreed, and those that offered it and are excluded.
    pub deflate_agreed: Counter,
    pub deflate_excluded: Counter,
    /// Messages compressed, once for all who are sent them; their frames before and after; messages that were tried and are no shorter.
    pub deflate_messages: Counter,
    pub deflate_bytes_before: Counter,
    pub deflate_bytes_after: Counter,
    pub deflate_in_vain: Counter,
    /// Of `messages_sent`, those that were sent compressed.
    pub messages_deflated: Counter,
    /// Compressed messages of clients, their payloads before and after.
    pub messages_inflated: Counter,
    pub inflated_bytes_before: Counter,
    pub inflated_bytes_after: Counter,
    /// Answers to `presence`.
    pub presence_answered: Counter,
    pub bytes_sent: Counter,
    pub bytes_received: Counter,
    pub messages_received: Counter,
    pub commands: Counter,
    /// Commands answered with an error, by its code.
    pub command_errors: [Counter; ErrorCode::ALL.len()],
    /// Event streams that were begun.
    pub event_streams: Counter,
    /// Polls that were let in.
    pub polls: Counter,
    /// Commands refused because the connection sends too many in too short a time.
    pub commands_limited: Counter,
    /// Subscribes refused because the connection has channels made too fast.
    pub channels_limited: Counter,
    /// Subscribes refused because the host, or the client's address, has as many channels as may be.
    pub channels_refused: Counter,
    pub writes: Counter,
    /// Writes that the kernel took only in part, or not at all.
    pub writes_blocked: Counter,
    /// Subscriptions that visits of connections looked at: what flushing costs besides its writes.
    pub looks: Counter,
    pub pings_sent: Counter,
    pub closed: [Counter; CloseReason::ALL.len()],
    pub refused: [Counter; RefusalReason::ALL.len()],
    pub tokens_refused: [Counter; TokenReason::ALL.len()],
    /// Subscribes and publishes that a rule refused, and subscriptions that it ended.
    pub not_allowed: Counter,
    /// Marks of users that their other connections were told.
    pub marks_told: Counter,
    /// Tokens whose signature was checked.
    pub signatures: Counter,
    /// Tokens that had been verified before.
    pub tokens_known: Counter,
    pub subscriptions: Counter,
    /// Channels with a subscriber on this shard (gauge).
    pub channels: Counter,
    /// TLS handshakes that came to their end, by version; those that took up an earlier session and those that did not.
    pub tls_full: [Counter; Version::ALL.len()],
    pub tls_resumed: [Counter; Version::ALL.len()],
    /// Sessions and handshakes that were given up, by what was wrong with them.
    pub tls_faults: [Counter; Fault::ALL.len()],
    /// Sessions now, and handshakes under way (gauges).
    pub tls_sessions: Counter,
    pub tls_under_way: Counter,
    /// Times a cursor was passed by the log's tail, by what was done.
    pub overruns: [Counter; Overrun::ALL.len()],
    /// Messages that subscribers were not sent and that a `gap` announced.
    pub messages_skipped: Counter,
    /// Messages that subscriptions were not sent because they want no more than so many a second.
    pub messages_paced: Counter,
    /// Messages that subscribers were not sent because of their channel's budget.
    pub messages_over_budget: Counter,
    /// Messages lost because this shard's inbox was full, announced by a `gap`.
    pub inbox_lost: Counter,
    /// Subscriptions that are behind the head of their channel and blocked on their socket (gauge).
    pub lagging: Counter,
    /// Messages waiting in the inbox at the start of the last turn (gauge).
    pub inbox_depth: Counter,
    /// Bytes of the batches among them (gauge).
    pub inbox_bytes: Counter,
    /// Bytes held by channel logs (gauge).
    pub log_bytes: Counter,
    /// Bytes held by per-connection buffers: split frames, unsent control frames (gauge).
    pub buffer_bytes: Counter,
    /// 1 where nobody is taken in for this cause (gauges).
    pub admission_closed: [Counter; LoadCause::ALL.len()],
    /// How long what happens waits for the loop, averaged over a second or so (gauge).
    pub lag_ns: Counter,
    pub turns: Counter,
    /// Nanoseconds spent working, that is not waiting in epoll.
    pub busy_ns: Counter,
    /// How long turns took: nobody else is served meanwhile.
    pub turn: Latency,
    /// From receipt by the bus thread to the last byte accepted by the kernel.
    pub latency: Latency,
}

/// Written by the bus thread.
#[derive(Debug, Default)]
pub struct BusMetrics {
    /// Messages received from Redis (or the embedded bus).
    pub messages: Counter,
    pub bytes: Counter,
    /// Messages for channels that nobody here listens to (pattern mode).
    pub unwanted: Counter,
    /// Messages dropped: not what `payload` says, or larger than the limit, or a channel name that is not valid.
    pub dropped: Counter,
    /// Payloads that were not what `payload` says and were passed on as opaque.
    pub mismatched: Counter,
    /// What routes put into channels: a message for several counts in each.
    pub routed: Counter,
    /// Messages that a route took and that went nowhere.
    pub unrouted: [Counter; Unrouted::ALL.len()],
    /// Times that numbers of a durable channel were missing and were read from its stream.
    pub repairs: Counter,
    /// Messages that came in that way.
    pub repaired: Counter,
    /// Times that more came meanwhile than could be held, so that it was read from the stream again.
    pub repairs_overflowed: Counter,
    /// Messages of durable channels that came once more.
    pub repeated: Counter,
    /// Messages of an epoch before.
    pub stale: Counter,
    /// Messages on durable channels that were published without a number.
    pub unnumbered: Counter,
    /// Times that one of them was not handed to a shard, for want of room.
    pub unnumbered_dropped: Counter,
    /// Messages that begin as those of durable channels do and are none.
    pub envelopes_refused: Counter,
    pub batches: Counter,
    /// Messages not handed to a shard because its inbox was full.
    pub inbox_full: Counter,
    pub published: Counter,
    pub publish_errors: Counter,
    /// Marks set and counts of what is unread, for clients and for the control port; and those of both that failed.
    pub marks_set: Counter,
    pub marks_counted: Counter,
    pub marks_failed: Counter,
    /// Marks whose users' other connections were not told.
    pub mark_news_dropped: Counter,
    /// Publishes of clients that were one too many in a second.
    pub publishes_limited: [Counter; Publisher::ALL.len()],
    /// Messages that were published to try whether they come back: that did, that did not, that Redis has not taken.
    pub probes_good: Counter,
    pub probes_lost: Counter,
    pub probes_refused: Counter,
    /// Events of who is there that back ends were told, and times that Redis refused what is kept of it.
    pub presence_events: Counter,
    pub presence_refused: Counter,
    pub connects: Counter,
    pub disconnects: Counter,
    /// Replies from Redis that could not be understood.
    pub protocol_errors: Counter,
    /// Channels known (gauge).
    pub channels: Counter,
    /// Redis channels and patterns that we want and that Redis does not allow us (gauge).
    pub channels_refused: Counter,
    /// Channels that nobody heard any more and that made room for others before their time.
    pub channels_evicted: Counter,
    /// Bytes held by the node's history (gauge).
    pub history_bytes: Counter,
    /// Messages that history gave up for `history_bytes_total`, before their count or age said so.
    pub history_dropped: Counter,
    /// Of durable channels without Redis: messages kept, what they take in memory (with idempotency keys) and in files, what is not synced yet, and 1 while
    /// the disk takes nothing (gauges).
    pub journal_messages: Counter,
    pub journal_memory_bytes: Counter,
    pub journal_disk_bytes: Counter,
    pub journal_unsynced_bytes: Counter,
    pub journal_failing: Counter,
    /// Publishes to durable channels that could not be kept.
    pub journal_refused: Counter,
    /// Masters that have taken the place of another.
    pub failovers: Counter,
    /// Publishes that a node of a Cluster has not executed.
    pub redirected: Counter,
    /// Messages that came by a server that does not have their channel.
    pub misplaced: Counter,
    /// 1 while messages flow: connected and every wanted channel subscribed (gauge).
    pub ready: Counter,
    pub turns: Counter,
    /// How it stands with each Redis.
    pub servers: Servers,
}

/// Where messages come from. The bus writes it when it changes, others read it when they are asked: nothing on the way of a message touches it.
#[derive(Debug, Default)]
pub struct Servers(Mutex<Vec<ServerState>>);

#[derive(Debug, Clone)]
pub struct ServerState {
    /// Where it is, without its password.
    pub name: String,
    /// The messages of its channels flow.
    pub is_ready: bool,
    /// When a message that was published to try it came back last; 0: none has, or that cannot be tried.
    pub probed_ns: Arc<Counter>,
}

impl ServerState {
    /// Since a message came back that was published to try it.
    pub fn probe_age_ns(&self, now: MonotonicNs) -> Option<u64> {
        Some(self.probed_ns.get()).filter(|&at| at > 0).map(|at| now.saturating_sub(at))
    }
}

impl Servers {
    /// Call it from the owning thread only.
    pub fn tell(&self, states: impl Iterator<Item = ServerState>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = states.collect();
    }

    pub fn all(&self) -> Vec<ServerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_finds_its_bucket() {
        let around = |us: u64| [us.saturating_sub(1), us, us.saturating_add(1)];
        let powers = (0..64).flat_map(|power| around(1 << power));
        for us in LATENCY_BOUNDS_US.into_iter().flat_map(around).chain(powers).chain([u64::MAX]).chain(0..3000) {
            assert_eq!(bucket(us), LATENCY_BOUNDS_US.partition_point(|&bound| bound < us), "{us}");
        }
    }
}
