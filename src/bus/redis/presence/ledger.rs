//! What this node counts, and what of it Redis has. Invariant: whatever has come to 0 stays here until Redis is known to have it so.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::clock::MonotonicNs;
use crate::limits::QUEUE_KEPT;
use crate::limits::redis::presence::LATER_MAX;

#[derive(Debug, Default)]
pub struct Ledger {
    counts: HashMap<Box<str>, Count>,
    /// Those that may have to be written, each once.
    due: VecDeque<Box<str>>,
    /// Something that was taken is still being written, looked at, or told.
    pub is_busy: bool,
    /// What could not be looked at, or told; and when it is to be.
    later: HashSet<Box<str>>,
    later_at: MonotonicNs,
}

#[derive(Debug)]
struct Count {
    now: u32,
    /// What Redis has. None: that is not known.
    written: Option<u32>,
    is_due: bool,
}

/// One that is to be written.
#[derive(Debug, Clone)]
pub struct Written {
    pub name: Box<str>,
    /// What Redis had. None: that is not known.
    pub before: Option<u32>,
    pub now: u32,
}

impl Ledger {
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// What is counted now, for whoever judges by it. If Redis does not have it yet, it will be written, and then looked at, even if it is again by then what
    /// Redis has: the judgement may be wrong then.
    pub fn look_at(&mut self, name: &str) -> u32 {
        let Some(count) = self.counts.get_mut(name) else { return 0 };
        if count.is_due && count.written != Some(count.now) {
            count.written = None;
        }
        count.now
    }

    pub fn set(&mut self, name: &str, now: u32) {
        match self.counts.get_mut(name) {
            Some(count) if count.now == now => {}
            Some(count) => {
                count.now = now;
                if !std::mem::replace(&mut count.is_due, true) {
                    self.due.push_back(name.into());
                }
            }
            None if now == 0 => {}
            None => {
                self.counts.insert(name.into(), Count { now, written: Some(0), is_due: true });
                self.due.push_back(name.into());
            }
        }
    }

    /// What Redis has is not known any more.
    pub fn doubt(&mut self) {
        for (name, count) in &mut self.counts {
            count.written = None;
            if !std::mem::replace(&mut count.is_due, true) {
                self.due.push_back(name.clone());
            }
        }
    }

    /// The next ones to be written, if none are under way and any have changed. What has come and gone meanwhile has not.
    pub fn take(&mut self, limit: usize) -> Option<Vec<Written>> {
        if self.is_busy {
            return None;
        }
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(name) = self.due.pop_front()
        {
            let Some(count) = self.counts.get_mut(&name) else { continue };
            count.is_due = false;
            if count.written != Some(count.now) {
                taken.push(Written { name, before: count.written, now: count.now });
            } else if count.now == 0 {
                self.counts.remove(&name);
            }
        }
        if self.due.is_empty() && self.due.capacity() > QUEUE_KEPT {
            self.due = VecDeque::new();
        }
        self.is_busy = !taken.is_empty();
        self.is_busy.then_some(taken)
    }

    /// Redis has it.
    pub fn confirm(&mut self, written: &Written) {
        let Some(count) = self.counts.get_mut(&written.name) else { return };
        count.written = Some(written.now);
        if count.now == 0 && written.now == 0 && !count.is_due {
            self.counts.remove(&written.name);
            if self.counts.capacity() > QUEUE_KEPT && self.counts.len() * 4 < self.counts.capacity() {
                self.counts.shrink_to(2 * self.counts.len());
            }
        }
    }

    /// It is to be looked at then; false: too many are already.
    pub fn put_off(&mut self, name: Box<str>, at: MonotonicNs) -> bool {
        if self.later.len() >= LATER_MAX {
            return false;
        }
        self.later.insert(name);
        self.later_at = at;
        true
    }

    pub fn later_at(&self) -> Option<MonotonicNs> {
        (!self.later.is_empty() && !self.is_busy).then_some(self.later_at)
    }

    /// Those that are to be looked at now, if none are under way.
    pub fn take_later(&mut self, limit: usize, now: MonotonicNs) -> Option<Vec<Box<str>>> {
        if self.later_at().is_none_or(|at| now < at) {
            return None;
        }
        let names: Vec<Box<str>> = self.later.iter().take(limit).cloned().collect();
        for name in &names {
            self.later.remove(name);
        }
        self.is_busy = true;
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ledger: &mut Ledger) -> Vec<(String, Option<u32>, u32)> {
        let taken = ledger.take(10).unwrap_or_default();
        taken.iter().for_each(|written| ledger.confirm(written));
        ledger.is_busy = false;
        taken.into_iter().map(|Written { name, before, now }| (name.into(), before, now)).collect()
    }

    #[test]
    fn what_has_changed_is_written_once_and_what_came_and_went_is_not() {
        let mut ledger = Ledger::default();
        ledger.set("a", 0);
        ledger.set("a", 2);
        ledger.set("a", 3);
        ledger.set("b", 1);
        ledger.set("b", 0);
        assert_eq!(taken(&mut ledger), [("a".to_owned(), Some(0), 3)]);
        assert_eq!(taken(&mut ledger), []);
        ledger.set("a", 0);
        ledger.set("a", 3);
        assert_eq!(taken(&mut ledger), []);
        ledger.set("a", 0);
        assert_eq!(taken(&mut ledger), [("a".to_owned(), Some(3), 0)]);
        assert!(ledger.is_empty() && ledger.later_at().is_none());
    }

    #[test]
    fn what_is_doubted_is_written_again_also_where_it_came_to_nothing() {
        let mut ledger = Ledger::default();
        ledger.set("a", 1);
        ledger.set("b", 2);
        taken(&mut ledger);
        ledger.set("a", 0);
        // Under way when the connection is lost.
        assert!(ledger.take(10).is_some() && ledger.take(10).is_none(), "one batch at a time");
        ledger.is_busy = false;
        ledger.doubt();
        let mut again = taken(&mut ledger);
        again.sort();
        assert_eq!(again, [("a".to_owned(), None, 0), ("b".to_owned(), None, 2)]);
        assert_eq!((ledger.look_at("a"), ledger.look_at("b")), (0, 2));
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_next() {
        let mut ledger = Ledger::default();
        ledger.set("a", 1);
        let batch = ledger.take(10).unwrap();
        ledger.set("a", 0);
        batch.iter().for_each(|written| ledger.confirm(written));
        ledger.is_busy = false;
        assert_eq!(taken(&mut ledger), [("a".to_owned(), Some(1), 0)]);
        assert!(ledger.is_empty());
    }

    #[test]
    fn what_was_looked_at_before_it_was_written_is_written_though_it_is_as_it_was() {
        let mut ledger = Ledger::default();
        ledger.set("a", 1);
        assert_eq!(ledger.look_at("a"), 1);
        ledger.set("a", 0);
        assert_eq!(taken(&mut ledger), [("a".to_owned(), None, 0)]);
        assert!(ledger.is_empty());
        ledger.set("a", 1);
        taken(&mut ledger);
        assert_eq!(ledger.look_at("a"), 1);
        assert_eq!(taken(&mut ledger), [], "Redis had it");
    }

    #[test]
    fn what_is_put_off_comes_when_it_is_time() {
        let mut ledger = Ledger::default();
        assert!(ledger.put_off("a".into(), 100));
        assert_eq!((ledger.take_later(10, 99), ledger.later_at()), (None, Some(100)));
        assert_eq!(ledger.take_later(10, 100), Some(vec!["a".into()]));
        assert!(ledger.is_busy && ledger.take_later(10, 200).is_none());
    }
}
