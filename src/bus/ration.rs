//! How many lines the bus may write to the log about what goes on and on: a few at once, and one more now and then.

use crate::clock::MonotonicNs;

/// Lines (or outages, with the lines that belong to one) that may follow each other at once, and how often one more may come.
const BURST: u32 = 4;
const PERIOD_NS: u64 = 60_000_000_000;

/// So that one thing after the other does not fill the log.
#[derive(Debug, Default)]
pub struct Ration {
    /// When all of it will be there again.
    full_at: MonotonicNs,
    pub unsaid: u64,
}

impl Ration {
    /// Whether one more line may be written, and then how many were not.
    pub fn take(&mut self, now: MonotonicNs) -> Option<u64> {
        let full_at = self.full_at.max(now) + PERIOD_NS;
        if full_at > now + u64::from(BURST) * PERIOD_NS {
            return None;
        }
        self.full_at = full_at;
        Some(std::mem::take(&mut self.unsaid))
    }
}
