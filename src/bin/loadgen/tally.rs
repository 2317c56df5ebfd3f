//! What the clients of a worker have counted: added up without sharing, shown to the main thread now and then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hdrhistogram::Histogram;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Sums over a worker's clients, or over all of them.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            pub fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
            }

            /// Counted since `earlier`.
            pub fn since(&self, earlier: &Counts) -> Counts {
                Counts { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }

        /// The same, written by one worker and read by the main thread while it runs.
        #[derive(Debug, Default)]
        pub struct Live {
            $($name: AtomicU64,)*
        }

        impl Live {
            pub fn store(&self, counts: &Counts) {
                $(self.$name.store(counts.$name, Relaxed);)*
            }

            pub fn load(&self) -> Counts {
                Counts { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Connections that are ready now.
    ready,
    /// Clients whose connection is under way now.
    connecting,
    /// TLS handshakes that came to their end, and brought a new session,
    tls_full,
    /// or took an old one up.
    tls_resumed,
    /// Connections that became ready, those that came again included.
    connected,
    /// Tries to connect that failed and were repeated.
    retries,
    /// Answered with something else than 101.
    refused,
    /// Closed or lost by the server after they were ready.
    closed,
    /// Clients that will not come back.
    ended,
    /// Messages received.
    messages,
    /// Of them, those that came compressed.
    compressed,
    /// Bytes received, frame headers included.
    bytes,
    /// Messages missing without a gap.
    lost,
    /// Messages missing, announced by a gap.
    announced,
    duplicates,
    /// Messages that came again because their epoch is over, as was said before.
    again,
    /// Subscriptions that were told of the end of their epoch.
    renewed,
    /// Messages that came after a later one.
    reordered,
    /// `gap` events.
    gaps,
    /// Messages on a channel that the client did not ask for.
    misrouted,
    /// Resumed connections that were told `recovered: false`.
    unrecovered,
    /// Bytes that are not WebSocket frames.
    bad_frames,
    /// `error` events.
    errors,
    /// Messages without a stamp: somebody else's.
    foreign,
    pings,
    /// Messages sent by clients (echo).
    sent,
    /// Reads of a socket.
    reads,
    /// Messages to clients that read slowly or never; not in `messages`.
    slow_messages,
    /// Connections of such clients that the server closed; not in `closed`.
    slow_closed,
    /// Subscriptions beyond a client's first that were confirmed.
    subscribed,
    /// Of those, how often the server was too busy and was asked again.
    asked_again,
    /// Subscriptions that were given up, as the server has confirmed.
    unsubscribed,
    /// Direct messages received; in `messages` too.
    direct,
    /// Direct messages missing without a gap; in `lost` too.
    direct_lost,
}

/// A worker's counts and distributions.
#[derive(Debug, Clone)]
pub struct Tally {
    pub counts: Counts,
    /// From the intended send time to the read that brought the message, microseconds.
    pub latency_us: Histogram<u64>,
    /// The same of direct messages; they are not in `latency_us`.
    pub direct_us: Histogram<u64>,
    /// From the due time of a connection to ready, microseconds.
    pub connect_us: Histogram<u64>,
    /// Close codes that the server sent (1005: an empty close frame, 1006: none).
    pub close_codes: BTreeMap<u16, u64>,
    /// The first few things that went wrong, in words.
    pub samples: Vec<String>,
}

const SAMPLES_MAX: usize = 8;
/// Longer than any run; a latency above counts as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Of times in microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are sound")
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            counts: Counts::default(),
            latency_us: histogram(),
            direct_us: histogram(),
            connect_us: histogram(),
            close_codes: BTreeMap::new(),
            samples: Vec::new(),
        }
    }
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.counts.add(&other.counts);
        self.latency_us.add(&other.latency_us).expect("the same bounds");
        self.direct_us.add(&other.direct_us).expect("the same bounds");
        self.connect_us.add(&other.connect_us).expect("the same bounds");
        for (code, count) in &other.close_codes {
            *self.close_codes.entry(*code).or_default() += count;
        }
        other.samples.iter().for_each(|sample| self.sample(|| sample.clone()));
    }

    pub fn sample(&mut self, text: impl FnOnce() -> String) {
        if self.samples.len() < SAMPLES_MAX {
            let text = text();
            if !self.samples.contains(&text) {
                self.samples.push(text);
            }
        }
    }
}
