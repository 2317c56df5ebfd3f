//! When the memory of what is gone is given back to the kernel: of channels (asked by the hub), of connections (by the control thread). It knows nothing
//! but their number.
//!
//! It takes the allocator some ten milliseconds for a hundred thousand of them, during which no thread gets memory from the heap that is being
//! looked through: so only after a flood has gone, and not before everybody has let go of it.

use crate::clock::MonotonicNs;

/// Fewer than this (some ten megabytes) are not worth it.
const COUNT_MIN: usize = 16 * 1024;
const AFTER_NS: u64 = 10_000_000_000;

#[derive(Debug, Default)]
pub struct Release {
    /// The most there were since the last time.
    peak: usize,
    due: Option<MonotonicNs>,
}

impl Release {
    /// There are so many now.
    pub fn note(&mut self, count: usize, now: MonotonicNs) {
        self.peak = self.peak.max(count);
        if self.due.is_none() && self.peak >= COUNT_MIN && count < self.peak / 4 {
            self.due = Some(now.saturating_add(AFTER_NS));
        }
    }

    pub fn due(&self) -> Option<MonotonicNs> {
        self.due
    }

    /// Whether to do it now; says so once.
    pub fn take(&mut self, count: usize, now: MonotonicNs) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            (self.peak, self.due) = (count, None);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_a_flood() {
        let mut release = Release::default();
        let mut told = Vec::new();
        let mut step = |count, now| {
            release.note(count, now);
            if release.take(count, now) {
                told.push(now);
            }
            assert!(release.due().is_none_or(|due| due > now), "a deadline that has passed would spin");
        };
        for round in 0..3 {
            let begin = round * 10 * AFTER_NS;
            [10, 100_000, 20_000, 10].into_iter().for_each(|count| step(count, begin));
            step(10, begin + AFTER_NS - 1);
            step(10, begin + AFTER_NS);
            step(10, begin + 3 * AFTER_NS);
            // Nobody misses what a few hold.
            step(COUNT_MIN - 1, begin + 4 * AFTER_NS);
            step(0, begin + 5 * AFTER_NS);
        }
        assert_eq!(told, [AFTER_NS, 11 * AFTER_NS, 21 * AFTER_NS]);
    }
}
