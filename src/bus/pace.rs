//! How often the bus thread gets up. Many small messages a second on many channels would otherwise cost a read, a sleep and the wake of a shard
//! each; after a rest they come in one read and wake each shard once. Network cards moderate their interrupts in the same way.
//!
//! A bucket of credits: a wake, of this thread or of a shard by it, takes one, and one comes back per [`WAKE_NS`]. Whoever publishes less often than
//! that is never delayed, and no rest is longer than [`REST_NS_MAX`].

use crate::clock::MonotonicNs;

/// One wake in so long, in the long run. It costs both sides together some 10 us of CPU.
pub const WAKE_NS: u64 = 100_000;
/// So many wakes may follow each other at once.
const CREDITS_MAX: u64 = 64;
/// What a message can be delayed by.
pub const REST_NS_MAX: u64 = 1_000_000;

#[derive(Debug, Default)]
pub struct Pace {
    /// When the bucket was empty, or would be with nothing more taken out; later than now, it is overdrawn.
    empty_at: MonotonicNs,
}

impl Pace {
    pub fn spend(&mut self, wakes: u64, now: MonotonicNs) {
        let full = now.saturating_sub(CREDITS_MAX * WAKE_NS);
        self.empty_at = (self.empty_at.max(full) + wakes * WAKE_NS).min(now + REST_NS_MAX);
    }

    /// How long to rest before the thread may be woken again.
    pub fn rest_ns(&self, now: MonotonicNs) -> u64 {
        self.empty_at.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spends `wakes` `count` times, `every` nanoseconds after the rest, and says how long it rested in all.
    fn rested(pace: &mut Pace, now: &mut u64, count: u64, wakes: u64, every: u64) -> u64 {
        let mut sum = 0;
        for _ in 0..count {
            let rest = pace.rest_ns(*now);
            assert!(rest <= REST_NS_MAX);
            sum += rest;
            *now += rest + every;
            pace.spend(wakes, *now);
        }
        sum
    }

    #[test]
    fn who_comes_rarely_never_waits() {
        let (mut pace, mut now) = (Pace::default(), 1_000_000_000);
        assert_eq!(rested(&mut pace, &mut now, 1000, 1, WAKE_NS), 0);
        assert_eq!(rested(&mut pace, &mut now, 1000, 7, 7 * WAKE_NS), 0);
    }

    #[test]
    fn some_at_once_pass_and_then_as_many_as_the_period_allows() {
        let (mut pace, mut now) = (Pace::default(), 1_000_000_000);
        assert_eq!(rested(&mut pace, &mut now, CREDITS_MAX / 2, 2, 0), 0);
        let begin = now;
        rested(&mut pace, &mut now, 1000, 2, 0);
        assert!((now - begin).abs_diff(2000 * WAKE_NS) <= 2 * WAKE_NS, "{}", now - begin);
        now += 1_000_000_000;
        assert_eq!(rested(&mut pace, &mut now, CREDITS_MAX, 1, 0), 0, "a pause fills the bucket");
    }

    #[test]
    fn no_rest_is_longer_than_its_bound() {
        let (mut pace, mut now) = (Pace::default(), 1_000_000_000);
        assert!(rested(&mut pace, &mut now, 1000, 100, 1000) <= 1000 * REST_NS_MAX);
    }
}
