//! Deadlines of all connections of a shard, in ticks of 100 ms.
//!
//! A hashed wheel of plain vectors. Setting a deadline adds an entry and never looks for the old one; an entry counts only if
//! its connection still lives and still has that very deadline (the caller checks), so a connection that moves its
//! deadline costs one stale entry at most. Deadlines beyond one turn of the wheel are put back when their slot comes by.

use crate::bus::ConnToken;

/// Ticks since the shard began.
pub type Tick = u32;

pub const TICK_NS: u64 = 100_000_000;
pub const TICKS_PER_SECOND: u32 = (1_000_000_000 / TICK_NS) as u32;
const SLOTS: usize = 512;

#[derive(Debug)]
pub struct Wheel {
    slots: Vec<Vec<(ConnToken, Tick)>>,
    /// Every slot up to this tick has been emptied.
    done: Tick,
    entries: usize,
}

impl Default for Wheel {
    fn default() -> Wheel {
        Wheel { slots: vec![Vec::new(); SLOTS], done: 0, entries: 0 }
    }
}

impl Wheel {
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// What was due by this tick has come.
    pub fn done(&self) -> Tick {
        self.done
    }

    /// Returns the tick at which the entry will come: `deadline`, or the next tick if that has passed.
    pub fn insert(&mut self, token: ConnToken, deadline: Tick) -> Tick {
        let deadline = deadline.max(self.done + 1);
        self.slots[deadline as usize % SLOTS].push((token, deadline));
        self.entries += 1;
        deadline
    }

    /// The tick at which [`Wheel::expire`] has something to look at; None while nothing is set.
    pub fn next(&self) -> Option<Tick> {
        if self.is_empty() {
            return None;
        }
        (self.done + 1..=self.done + SLOTS as Tick).find(|&tick| !self.slots[tick as usize % SLOTS].is_empty())
    }

    /// Moves every entry whose deadline is `now` or earlier to `due`.
    pub fn expire(&mut self, now: Tick, due: &mut Vec<(ConnToken, Tick)>) {
        let last = now.min(self.done.saturating_add(SLOTS as Tick));
        while self.done < last {
            self.done += 1;
            let slot = &mut self.slots[self.done as usize % SLOTS];
            let before = slot.len();
            slot.retain(|&(token, deadline)| {
                let later = deadline > now;
                if !later {
                    due.push((token, deadline));
                }
                later
            });
            self.entries -= before - slot.len();
            // Ten thousand handshakes that began together should not hold their slot's memory for good.
            if slot.capacity() > 64 && slot.len() * 4 < slot.capacity() {
                slot.shrink_to(slot.len() * 2);
            }
        }
        self.done = now.max(self.done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(index: u32) -> ConnToken {
        ConnToken { index, generation: 1 }
    }

    #[test]
    fn every_deadline_comes_once_and_never_early() {
        let mut wheel = Wheel::default();
        let deadlines = [1, 2, 2, 511, 512, 513, 1024, 1500, 5000];
        for (index, &deadline) in deadlines.iter().enumerate() {
            wheel.insert(token(index as u32), deadline);
        }
        let mut seen = Vec::new();
        let mut now = 0;
        while let Some(next) = wheel.next() {
            assert!(next > now, "the wheel must move on");
            now = next;
            let mut due = Vec::new();
            wheel.expire(now, &mut due);
            for (token, deadline) in due {
                assert!(deadline <= now);
                seen.push(deadlines[token.index as usize]);
            }
        }
        assert_eq!(seen, deadlines);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_long_sleep_misses_nothing() {
        let mut wheel = Wheel::default();
        for deadline in 1..2000 {
            wheel.insert(token(deadline), deadline);
        }
        let mut due = Vec::new();
        wheel.expire(10_000, &mut due);
        assert_eq!(due.len(), 1999);
        assert_eq!(wheel.next(), None);
        wheel.insert(token(1), 5);
        assert_eq!(wheel.next(), Some(10_001), "a deadline in the past comes at the next tick");
    }
}
