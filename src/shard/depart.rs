//! Connections that are asked to go and come back elsewhere: all of them when the process drains, a share of them when load is shed. One after the
//! other, so that whoever takes them in gets a steady stream ([`Departures`]); each is sent what is due, then close code 1012 with the delay after which it
//! should return.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::conn::Phase;
use super::net::Network;
use crate::clock::MonotonicNs;
use crate::life::Stage;
use crate::limits;
use crate::wire::close::{CloseReason, reconnect_in};

/// How many go in a second, in the process: the shards draw from the same rate.
#[derive(Debug)]
pub struct Departures {
    interval_ns: u64,
    /// When all that have gone will be as if they had gone one interval apart.
    even_at_ns: AtomicU64,
}

/// A shard that was held up for so long may make up for it.
const BURST_NS: u64 = 100_000_000;
/// Whoever has to wait for the others looks again after so long; and after a walk around, for those who came meanwhile.
const LOOK_NS: u64 = 10_000_000;
/// After a walk around that found nobody, for each slot: what is left waits for its clients, and is not to be looked at all the time.
const LOOK_NS_PER_SLOT: u64 = 100;
/// Returns are spread over so long at least.
const SPREAD_MIN_MS: u64 = 1000;

impl Departures {
    pub fn new(per_second: usize) -> Departures {
        Departures { interval_ns: 1_000_000_000 / per_second as u64, even_at_ns: AtomicU64::new(0) }
    }

    /// Whether one more may go now; if so, it counts.
    fn take(&self, now_ns: MonotonicNs) -> bool {
        let after = |even_at: u64| {
            let after = even_at.max(now_ns.saturating_sub(BURST_NS.max(self.interval_ns))) + self.interval_ns;
            (after <= now_ns).then_some(after)
        };
        self.even_at_ns.fetch_update(Relaxed, Relaxed, after).is_ok()
    }

    /// Over how many milliseconds so many come back, if they are to come as fast as they would have gone.
    fn spread_ms(&self, connections: usize) -> u64 {
        (connections as u64).saturating_mul(self.interval_ns / 1000) / 1000
    }
}

/// The walk that is under way.
#[derive(Debug)]
pub(super) struct Departing {
    /// The slot that is next.
    at: usize,
    /// How many of 2^32 are to go.
    share: u64,
    /// Deals who is among them.
    salt: u32,
    /// Somebody was, since it began at the first slot.
    has_found: bool,
    look_again_ns: MonotonicNs,
}

const ALL: u64 = 1 << 32;

impl<N: Network> Shard<N> {
    /// So many of a hundred connections are asked to go; about how many those are. Another wish takes the place of one that is under way.
    pub(super) fn shed(&mut self, percent: f64) -> usize {
        let open = self.metrics.connections.get() as f64;
        if self.stage == Stage::Serving {
            let share = (percent / 100.0 * ALL as f64) as u64;
            self.departing = Some(Departing { at: 0, share, salt: self.tick, has_found: false, look_again_ns: 0 });
        }
        (open * percent / 100.0).round() as usize
    }

    /// All connections are asked to go: the process drains, and what was on its way when it began to has come.
    pub(super) fn depart_all(&mut self) {
        if self.stage == Stage::Draining {
            self.departing = Some(Departing { at: 0, share: ALL, salt: 0, has_found: false, look_again_ns: 0 });
        }
    }

    /// A shard that sees for the first time that the process drains takes whoever waits at the door, and closes it.
    pub(super) fn follow_life(&mut self) {
        if self.stage == Stage::Serving && self.life.is_at(Stage::Draining) {
            self.stage = Stage::Draining;
            // It was for a share.
            self.departing = None;
            // They have connected; nobody else would answer them.
            self.door_accepts = Some(limits::DOOR_ACCEPTS_MAX);
            (self.accept_ready, self.accept_retry) = (true, None);
        }
    }

    /// Goes on with the walk, as far as the rate lets it.
    pub(super) fn depart(&mut self) {
        let Some(mut walk) = self.departing.take_if(|walk| walk.look_again_ns <= self.now_ns) else { return };
        let mut units = limits::ORDER_UNITS_PER_TURN;
        let end = self.conns.capacity();
        walk.look_again_ns = 0;
        while walk.at < end && units > 0 {
            units -= 1;
            if self.goes(walk.at, &walk) {
                if !self.departures.take(self.now_ns) {
                    walk.look_again_ns = self.now_ns + LOOK_NS;
                    break;
                }
                walk.has_found = true;
                units = units.saturating_sub(limits::ORDER_UNITS_PER_CLOSE + self.conns[walk.at].subscriptions.len());
                self.finish(walk.at, CloseReason::Restart);
            }
            walk.at += 1;
        }
        if walk.at >= end {
            if self.stage == Stage::Serving {
                // It was for those who were here.
                return;
            }
            let pause_ns = if walk.has_found { LOOK_NS } else { LOOK_NS.max(LOOK_NS_PER_SLOT * end as u64) };
            (walk.at, walk.has_found, walk.look_again_ns) = (0, false, self.now_ns + pause_ns);
        }
        self.departing = Some(walk);
    }

    fn goes(&self, key: usize, walk: &Departing) -> bool {
        let Some(conn) = self.conns.get(key).filter(|conn| conn.phase == Phase::Open) else { return false };
        let dealt = conn.generation.wrapping_mul(0x9E37_79B9).wrapping_add(walk.salt).wrapping_mul(0x85EB_CA6B);
        u64::from(dealt ^ dealt >> 15) < walk.share
    }

    /// It is sent what is due, then closed for this reason.
    pub(super) fn finish(&mut self, key: usize, reason: CloseReason) {
        self.conns[key].reason = reason;
        self.conns[key].enter(Phase::Finishing);
        if self.topics.has_paced() {
            self.owe_all(key);
        }
        // Also those whose laps have not come by: it is closed as soon as nothing is known to be due.
        for at in 0..self.conns[key].subscriptions.len() {
            self.note_behind(key, at);
        }
        self.mark_ready(key);
    }

    /// All that was due is sent.
    pub(super) fn say_goodbye(&mut self, key: usize) {
        let reason = self.conns[key].reason;
        if reason != CloseReason::Restart {
            return self.begin_close(key, reason);
        }
        // When everybody is told at once, they must not come back at once.
        let left = if self.stage == Stage::Stopping { self.leaving_at_once } else { 0 };
        let spread_ms = self.departures.spread_ms(left).max(SPREAD_MIN_MS);
        let drawn = u64::from(self.conns[key].generation.wrapping_mul(0x9E37_79B9) >> 8);
        self.begin_close_with(key, reason, &reconnect_in(drawn % spread_ms));
    }

    /// When the walk is to go on, if there is one.
    pub(super) fn depart_at_ns(&self) -> Option<MonotonicNs> {
        self.departing.as_ref().map(|walk| walk.look_again_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn so_many_go_in_a_second_however_often_it_is_asked() {
        let departures = Departures::new(100);
        let start = 1000 * SECOND;
        let gone = |from: u64, steps: u64, step_ns: u64| {
            (1..=steps).map(|step| (0..1000).filter(|_| departures.take(from + step * step_ns)).count()).sum::<usize>()
        };
        assert_eq!(gone(start - 1, 1, 1), 10, "a tenth of a second may be made up for");
        assert_eq!(gone(start, 100, SECOND / 100), 100);
        assert_eq!(gone(start + SECOND, 10, SECOND / 10), 100);
        assert_eq!(gone(start + 2 * SECOND, 1, 60 * SECOND), 10, "and no more for a long rest");
        let slow = Departures::new(2);
        let gone = (0..40).filter(|step| slow.take(start + step * SECOND / 8)).count();
        assert_eq!(gone, 10, "also where one takes longer than may be made up for");
    }

    #[test]
    fn whoever_goes_at_once_comes_back_as_if_it_had_not() {
        let departures = Departures::new(2000);
        assert_eq!((departures.spread_ms(0), departures.spread_ms(2000), departures.spread_ms(20_000)), (0, 1000, 10_000));
        assert_eq!(Departures::new(1_000_000).spread_ms(1_000_000), 1000);
        assert_eq!(Departures::new(1).spread_ms(3), 3000);
    }
}
