//! How often the bus thread gets up. Many small messages a second on many channels would otherwise cost a read, a sleep and the wake of a shard
//! each; after a rest they come in one read and wake each shard once. Network cards moderate their interrupts in the same way.
//!
//! A bucket of credits, which fills with time. A message that was read takes what comes back in `MESSAGE_NS`, a wake, of this thread or of a shard by
//! it, what comes back in `WAKE_NS`: the larger sum counts. Whoever publishes less often than that is never delayed, and no rest is longer than
//! `bus_rest`. Once messages come faster each rest is that long, and brings what came meanwhile; half as long where that brings many.

use std::time::Duration;

use crate::clock::{MonotonicNs, nanos};

/// So many messages a second are not worth a rest. Each costs both sides some 10 us of CPU beside its `send`.
const MESSAGES_PER_SECOND: u64 = 1_900;
const MESSAGE_NS: u64 = 1_000_000_000 / MESSAGES_PER_SECOND;
/// One wake in so long, in the long run: of those that bring no messages, and of several shards by one message.
const WAKE_NS: u64 = 100_000;
/// A rest that brings more was longer than it needed to be.
const MANY: u64 = 8;
/// Time for so many messages, or for so many wakes by few messages, is kept: they may follow each other at once.
const KEPT_NS: u64 = 64 * MESSAGE_NS;

#[derive(Debug)]
pub struct Pace {
    rest_ns_max: u64,
    /// When the bucket was empty, or would be with nothing more taken out; later than now, it is overdrawn.
    empty_at: MonotonicNs,
}

impl Pace {
    /// Of a bus whose `bus_rest` this is. 0: it never rests.
    pub fn new(bus_rest: Duration) -> Pace {
        Pace { rest_ns_max: nanos(bus_rest), empty_at: 0 }
    }

    pub fn spend(&mut self, wakes: u64, messages: u64, now: MonotonicNs) {
        let full = now.saturating_sub(KEPT_NS);
        let spent = (wakes * WAKE_NS).max(messages * MESSAGE_NS);
        let rest_ns_max = if messages > MANY { self.rest_ns_max / 2 } else { self.rest_ns_max };
        self.empty_at = (self.empty_at.max(full) + spent).min(now + rest_ns_max);
    }

    /// How long to rest before the thread may be woken again.
    pub fn rest_ns(&self, now: MonotonicNs) -> u64 {
        self.empty_at.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_millis(2);

    fn pace() -> (Pace, u64) {
        (Pace::new(REST), 1_000_000_000)
    }

    /// Spends `wakes` `count` times, `every` nanoseconds after the rest, and says how long it rested in all.
    fn rested(pace: &mut Pace, now: &mut u64, count: u64, wakes: u64, every: u64) -> u64 {
        let mut sum = 0;
        for _ in 0..count {
            let rest = pace.rest_ns(*now);
            assert!(rest <= nanos(REST));
            sum += rest;
            *now += rest + every;
            pace.spend(wakes, 0, *now);
        }
        sum
    }

    /// Messages that come `every` nanoseconds, for so long: how many times the thread got up for them, and how long the one waited that waited longest.
    fn read(pace: &mut Pace, now: &mut u64, every: u64, for_ns: u64) -> (u64, u64) {
        let (begin, mut next, mut wakes, mut waited) = (*now, *now + every, 0, 0);
        while *now < begin + for_ns {
            *now = (*now + pace.rest_ns(*now)).max(next);
            waited = waited.max(*now - next);
            let came = (*now - next) / every + 1;
            next += came * every;
            wakes += 1;
            // Its own wake, and that of a shard.
            pace.spend(2, came, *now);
        }
        (wakes, waited)
    }

    #[test]
    fn who_comes_rarely_never_waits() {
        let (mut pace, mut now) = pace();
        assert_eq!(rested(&mut pace, &mut now, 1000, 1, WAKE_NS), 0);
        assert_eq!(rested(&mut pace, &mut now, 1000, 7, 7 * WAKE_NS), 0);
        let (wakes, waited) = read(&mut pace, &mut now, MESSAGE_NS, 1_000_000_000);
        assert_eq!((wakes, waited), (MESSAGES_PER_SECOND + 1, 0));
    }

    #[test]
    fn more_messages_come_by_the_rest() {
        for (per_second, times, rest) in [(2_000, 450..550, REST), (10_000, 900..1_050, REST / 2), (50_000, 900..1_050, REST / 2)] {
            let (mut pace, mut now) = pace();
            read(&mut pace, &mut now, 1_000_000_000 / per_second, 1_000_000_000);
            let (wakes, waited) = read(&mut pace, &mut now, 1_000_000_000 / per_second, 1_000_000_000);
            assert!(times.contains(&wakes), "{wakes} at {per_second}/s");
            assert!(waited <= nanos(rest));
            // And nobody waits any more once it is over.
            now += 1_000_000_000;
            assert_eq!(read(&mut pace, &mut now, MESSAGE_NS, 1_000_000_000).1, 0);
        }
    }

    #[test]
    fn some_at_once_pass_and_then_as_many_as_the_period_allows() {
        let (mut pace, mut now) = pace();
        let at_once = KEPT_NS / WAKE_NS;
        assert_eq!(rested(&mut pace, &mut now, at_once / 2, 2, 0), 0);
        let begin = now;
        rested(&mut pace, &mut now, 1000, 2, 0);
        assert!((now - begin).abs_diff(2000 * WAKE_NS) <= 3 * WAKE_NS, "{}", now - begin);
        now += 1_000_000_000;
        assert_eq!(rested(&mut pace, &mut now, at_once, 1, 0), 0, "a pause fills the bucket");
    }

    #[test]
    fn no_rest_is_longer_than_its_bound() {
        let (mut pace, mut now) = pace();
        assert!(rested(&mut pace, &mut now, 1000, 100, 1000) <= 1000 * nanos(REST));
        let mut restless = Pace::new(Duration::ZERO);
        restless.spend(1_000_000, 1_000_000, now);
        assert_eq!(restless.rest_ns(now), 0);
    }
}
