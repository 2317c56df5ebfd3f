//! How often something may happen: the generic cell rate algorithm, in which one number stands for the bucket.

use crate::clock::MonotonicNs;
use crate::limits::RATE_PER_SECOND_MAX;
use crate::named::named;

named! {
    /// Whose publishes are counted, of those that are limited.
    Publisher {
        Connection = "connection",
        User = "user",
        /// All clients that publish to a channel.
        Channel = "channel",
    }
}

/// A count of 16 microseconds, which goes round in 19 hours.
pub type Moment = u32;

/// So that now is a shift.
const UNIT_SHIFT: u32 = 14;

pub fn moment(now_ns: MonotonicNs) -> Moment {
    (now_ns >> UNIT_SHIFT) as Moment
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval: Moment,
    /// How far ahead of now the bucket may be.
    most: Moment,
}

impl Rate {
    /// So many a second in the long run, and `burst` at once after a rest.
    pub fn new(per_second: usize, burst: usize) -> Rate {
        debug_assert!((1..=RATE_PER_SECOND_MAX).contains(&per_second));
        let interval = ((1_000_000_000u64 >> UNIT_SHIFT) / per_second as u64).max(1);
        // A quarter of the circle, so that past and future are told apart.
        let most = (interval * burst.max(1) as u64).min(1 << 30).max(interval);
        Rate { interval: interval as Moment, most: most as Moment }
    }

    /// Whether it may happen now; if so, it counts. `even_at`: when all that has happened will be as if it had come one interval apart.
    pub fn take(&self, even_at: &mut Moment, now: Moment) -> bool {
        let may = self.may(*even_at, now);
        if may {
            *even_at = now.wrapping_add(self.ahead(*even_at, now) + self.interval);
        }
        may
    }

    /// Whether it may; nothing counts.
    pub fn may(&self, even_at: Moment, now: Moment) -> bool {
        self.ahead(even_at, now) + self.interval <= self.most
    }

    /// Whether nothing of what has happened matters any more.
    pub fn is_even(&self, even_at: Moment, now: Moment) -> bool {
        self.ahead(even_at, now) == 0
    }

    fn ahead(&self, even_at: Moment, now: Moment) -> Moment {
        let ahead = even_at.wrapping_sub(now);
        // More than that is the past.
        if ahead > self.most { 0 } else { ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        for (per_second, burst) in [(1, 1), (10, 10), (100, 612), (1000, 1512), (10_000, 10_000)] {
            let rate = Rate::new(per_second, burst);
            // The clock goes round on the way.
            let start = (u64::from(u32::MAX) << UNIT_SHIFT) - SECOND / 2;
            let mut even_at = moment(start);
            let taken = |even_at: &mut Moment, now_ns| (0..100_000).filter(|_| rate.take(even_at, moment(now_ns))).count();
            assert_eq!(taken(&mut even_at, start), burst);
            let tenth = taken(&mut even_at, start + 10 * SECOND).min(burst);
            let expected = (10 * per_second).min(burst);
            assert!(tenth.abs_diff(expected) <= expected / 50 + 1, "{per_second}: {tenth}");
            assert!(!rate.is_even(even_at, moment(start + 10 * SECOND)));
            assert_eq!(taken(&mut even_at, start + 4000 * SECOND), burst, "after a rest, and no more for a long one");
        }
    }
}
