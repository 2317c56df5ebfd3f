//! Subscriptions that the bus has not confirmed yet and that are to be answered with an `id`, or from a position on. While Redis is away there
//! may be many: they have an account, and beyond it a subscribe is answered `busy`.

use slab::Slab;

use crate::limits;
use crate::wire::command::{Id, Position};

const _: () = assert!(2 * size_of::<Option<Waiter>>() + limits::heap_bytes(limits::COMMAND_ID_BYTES_MAX) <= limits::WAITER_BYTES_MAX);

/// What a subscription that the bus has not confirmed yet will be answered with.
#[derive(Debug)]
pub(super) struct Waiter {
    pub id: Option<Id>,
    pub begin: Beginning,
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Beginning {
    /// After this position.
    pub since: Option<Position>,
    /// What the user has not read counts from here; None: nobody wants to know.
    pub counted: Option<Position>,
}

impl Beginning {
    pub fn is_needed(&self) -> bool {
        self.since.is_some() || self.counted.is_some()
    }

    /// How much of what lies up to this position the user has not read.
    pub fn unread(&self, epoch: u64, seq: u64) -> Option<u64> {
        let counted = self.counted?;
        // What was marked in an epoch before is no mark in this one.
        Some(if counted.epoch == epoch { seq.saturating_sub(counted.seq) } else { seq })
    }
}

/// A waiter's number for a subscription with neither id nor position: nothing to remember.
pub(super) const NO_WAITER: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Waiters {
    waiting: Slab<Waiter>,
    bytes: usize,
    bytes_max: usize,
}

impl Waiter {
    pub fn new(id: Option<Id>, begin: Beginning) -> Waiter {
        Waiter { id, begin }
    }

    fn is_needed(&self) -> bool {
        self.id.is_some() || self.begin.is_needed()
    }

    /// With the slot that the table keeps free when it has just grown.
    fn bytes(&self) -> usize {
        let text = if let Some(Id::Text(text)) = &self.id { limits::heap_bytes(text.len()) } else { 0 };
        2 * size_of::<Option<Waiter>>() + text
    }
}

impl Waiters {
    pub fn new(bytes_max: usize) -> Waiters {
        Waiters { waiting: Slab::new(), bytes: 0, bytes_max }
    }

    /// Its number. None: there is no room for it.
    pub fn insert(&mut self, waiter: Waiter) -> Option<u32> {
        if !waiter.is_needed() {
            return Some(NO_WAITER);
        }
        let bytes = waiter.bytes();
        if self.waiting.len() >= limits::WAITERS_FLOOR && self.bytes + bytes > self.bytes_max {
            return None;
        }
        self.bytes += bytes;
        Some(self.waiting.insert(waiter) as u32)
    }

    pub fn remove(&mut self, number: u32) -> Waiter {
        if number == NO_WAITER {
            return Waiter::new(None, Beginning::default());
        }
        let waiter = self.waiting.remove(number as usize);
        self.bytes -= waiter.bytes();
        if self.waiting.is_empty() {
            // What an outage has made large goes with it.
            self.waiting = Slab::new();
        }
        waiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unread_counts_up_to_where_a_subscription_begins() {
        let counted = Some(Position { epoch: 5, seq: 90 });
        let begin = Beginning { since: None, counted };
        assert_eq!([begin.unread(5, 100), begin.unread(5, 80), begin.unread(6, 3)], [Some(10), Some(0), Some(3)]);
        assert_eq!(Beginning::default().unread(5, 100), None);
    }

    #[test]
    fn waiters_have_an_account_that_comes_to_nothing_again() {
        let mut waiters = Waiters::new(100_000);
        let text = |number: usize| Waiter::new(Some(Id::Text("x".repeat(number % 65).into())), Beginning::default());
        let mut numbers = Vec::new();
        while let Some(number) = waiters.insert(text(numbers.len())) {
            numbers.push(number);
        }
        assert!(numbers.len() > limits::WAITERS_FLOOR && waiters.bytes <= 100_000);
        assert_eq!(waiters.insert(Waiter::new(None, Beginning::default())), Some(NO_WAITER), "nothing to remember takes no room");
        for number in numbers {
            waiters.remove(number);
        }
        waiters.remove(NO_WAITER);
        assert_eq!((waiters.bytes, waiters.waiting.capacity()), (0, 0));
        let mut narrow = Waiters::new(0);
        assert_eq!((0..1000).filter(|&number| narrow.insert(text(number)).is_some()).count(), limits::WAITERS_FLOOR);
    }
}
