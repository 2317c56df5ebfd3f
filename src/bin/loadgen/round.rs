//! A round of publishing, as it is told. Made by [`mod@super::run`], for scenarios and the report.

use super::publish::Published;
use super::tally::{Counts, Tally};

/// What one round of publishing led to.
#[derive(Debug)]
pub struct Round {
    pub published: Published,
    /// By the schedule beside it.
    pub published_beside: Published,
    pub tally: Tally,
    pub counts: Counts,
    pub server_cpu_ns: Option<u64>,
    /// How often a thread of the server has fallen asleep.
    pub server_sleeps: Option<u64>,
    pub seconds: f64,
}

impl Round {
    pub fn deliveries(&self) -> u64 {
        self.counts.messages + self.counts.slow_messages
    }

    /// Takes another round of the same kind in.
    pub fn add(&mut self, other: &Round) {
        self.published.add(&other.published);
        self.published_beside.add(&other.published_beside);
        self.tally.add(&other.tally);
        self.counts.add(&other.counts);
        self.server_cpu_ns = self.server_cpu_ns.zip(other.server_cpu_ns).map(|(one, other)| one + other);
        self.server_sleeps = self.server_sleeps.zip(other.server_sleeps).map(|(one, other)| one + other);
        self.seconds += other.seconds;
    }

    /// The same, where there may be none so far.
    pub fn add_to(self, sum: &mut Option<Round>) {
        match sum {
            Some(sum) => sum.add(&self),
            None => *sum = Some(self),
        }
    }

    /// Of its latencies, microseconds.
    pub fn p99_us(&self) -> f64 {
        self.tally.latency_us.value_at_percentile(99.0) as f64
    }

    /// CPU of the server for one delivery, nanoseconds.
    pub fn cpu_per_delivery(&self) -> Option<f64> {
        self.server_cpu_ns.filter(|_| self.deliveries() > 0).map(|cpu| cpu as f64 / self.deliveries() as f64)
    }

    /// Size of a frame as it came, header included.
    pub fn frame_bytes(&self) -> usize {
        (self.counts.bytes as f64 / self.deliveries().max(1) as f64).round() as usize
    }
}
