//! Publishing on schedule: what is due, when, on which channel; and the ways a message can take.
//!
//! One thread per run. Invariant: the schedule does not wait for anybody. A publisher that falls behind sends what is overdue at once, each message
//! with the time at which it was due, so that its lateness shows in the latency (no coordinated omission).

pub mod client;
pub mod http;
pub mod redis;
pub mod replicated;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use campanile::sys;
use hdrhistogram::Histogram;

use super::payload::PayloadKind;
use super::pick::Pick;
use super::stamp::Stamp;
use super::tally;

/// So many messages are handed over at once if they are due.
const BATCH_MESSAGES: usize = 1000;

/// A way to the server. `publish` hands over some messages and waits until they were taken.
pub trait Route: Send {
    fn publish(&mut self, messages: &[Message]) -> anyhow::Result<()>;

    /// Called now and then while nothing is due.
    fn idle(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// After a failure: ready to try again? Only where a failure is expected.
    fn restore(&mut self) -> anyhow::Result<()> {
        anyhow::bail!("this way cannot be restored")
    }

    /// Whether what may have been published can be published again, and is there once.
    fn is_repeatable(&self) -> bool {
        false
    }
}

#[derive(Debug)]
pub struct Message {
    pub channel: u32,
    /// Its number on that channel.
    pub seq: u64,
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Schedule {
    /// Real-time priority of the publisher.
    pub priority: Option<i32>,
    /// Messages per second, all channels together.
    pub rate: f64,
    /// Messages that are due at the same moment.
    pub burst: u64,
    /// Messages in all.
    pub count: u64,
    pub bytes: usize,
    pub kind: PayloadKind,
    pub pick: Pick,
    /// A route that breaks is restored. What was under way may be lost, or is sent again where that is safe.
    pub survives: bool,
}

#[derive(Debug, Default)]
pub struct Progress {
    pub sent: AtomicU64,
    pub is_over: AtomicBool,
    /// Set to end early.
    pub stop: AtomicBool,
}

#[derive(Debug, Clone)]
pub struct Published {
    pub messages: u64,
    pub seconds: f64,
    /// How late messages were handed over: what is to blame on the load generator, or on the core that it runs on.
    pub late_us: Histogram<u64>,
    /// How often the route broke with a batch under way. Its fate is unknown, unless it was sent again.
    pub broken: u64,
    pub error: Option<String>,
}

impl Default for Published {
    fn default() -> Published {
        Published { messages: 0, seconds: 0.0, late_us: tally::histogram(), broken: 0, error: None }
    }
}

impl Published {
    /// The most that a message was handed over late.
    pub fn late_us_max(&self) -> u64 {
        self.late_us.max()
    }

    /// Takes in what went the same way at another time.
    pub fn add(&mut self, other: &Published) {
        self.messages += other.messages;
        self.seconds += other.seconds;
        self.late_us.add(&other.late_us).expect("the same bounds");
    }
}

#[derive(Debug)]
pub struct Publisher {
    pub progress: Arc<Progress>,
    thread: JoinHandle<Published>,
}

impl Publisher {
    /// Starts publishing now. `published` counts per channel what was handed over, and gives each message its number.
    pub fn start(route: Box<dyn Route>, schedule: Schedule, published: Arc<[AtomicU64]>) -> anyhow::Result<Publisher> {
        let progress = Arc::new(Progress::default());
        let shared = progress.clone();
        let thread = std::thread::Builder::new().name("publisher".to_owned()).spawn(move || {
            let result = run(route, &schedule, &published, &shared);
            shared.is_over.store(true, Relaxed);
            result
        })?;
        Ok(Publisher { progress, thread })
    }

    pub fn is_over(&self) -> bool {
        self.progress.is_over.load(Relaxed)
    }

    pub fn stop(&self) {
        self.progress.stop.store(true, Relaxed);
    }

    /// Waits for its end.
    pub fn finish(self) -> Published {
        self.thread.join().unwrap_or_else(|_| Published { error: Some("the publisher panicked".to_owned()), ..Published::default() })
    }
}

fn run(mut route: Box<dyn Route>, schedule: &Schedule, published: &[AtomicU64], progress: &Progress) -> Published {
    let _ = schedule.priority.map(|priority| sys::run_first(0, priority));
    let begin_ns = sys::monotonic_ns();
    let due_ns = |number: u64| begin_ns + ((number / schedule.burst * schedule.burst) as f64 * 1e9 / schedule.rate) as u64;
    let mut result = Published::default();
    let mut batch = Vec::new();
    let mut number = 0;
    while number < schedule.count && !progress.stop.load(Relaxed) {
        let now_ns = sys::monotonic_ns();
        let wait_ns = due_ns(number).saturating_sub(now_ns);
        if wait_ns > 0 {
            std::thread::sleep(Duration::from_nanos(wait_ns.min(100_000_000)));
            if wait_ns > 100_000_000
                && !schedule.survives
                && let Err(error) = route.idle()
            {
                result.error = Some(format!("{error:#}"));
                break;
            }
            continue;
        }
        while number < schedule.count && batch.len() < BATCH_MESSAGES && due_ns(number) <= now_ns {
            let channel = schedule.pick.channel(number);
            // Counted before it is sent: whoever becomes ready from now on need not get it.
            let seq = published[channel as usize].fetch_add(1, Relaxed);
            result.late_us.saturating_record((now_ns - due_ns(number)) / 1000);
            let mut payload = Vec::with_capacity(schedule.bytes);
            schedule.kind.write(Stamp { channel, seq, intended_ns: due_ns(number) }, schedule.bytes, &mut payload);
            batch.push(Message { channel, seq, payload });
            number += 1;
        }
        while let Err(error) = route.publish(&batch) {
            if !schedule.survives {
                result.error = Some(format!("{error:#}"));
                break;
            }
            result.broken += 1;
            while !progress.stop.load(Relaxed) && route.restore().is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
            if !route.is_repeatable() || progress.stop.load(Relaxed) {
                break;
            }
        }
        if result.error.is_some() {
            break;
        }
        result.messages += batch.len() as u64;
        progress.sent.fetch_add(batch.len() as u64, Relaxed);
        batch.clear();
    }
    result.seconds = (sys::monotonic_ns() - begin_ns) as f64 / 1e9;
    result
}
