//! Subscriptions that the bus has not confirmed yet and that are to be answered with an `id`, or from a position on. While Redis is away there
//! may be many: they have an account, and beyond it a subscribe is answered `busy`.

use slab::Slab;

use crate::limits;
use crate::wire::command::Id;
use crate::wire::wish::Begin;

const _: () = assert!(2 * size_of::<Option<Waiter>>() + limits::heap_bytes(limits::COMMAND_ID_BYTES_MAX) <= limits::WAITER_BYTES_MAX);

/// What a subscription that the bus has not confirmed yet will be answered with.
#[derive(Debug)]
pub(super) struct Waiter {
    pub id: Option<Id>,
    pub begin: Begin,
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
    pub fn new(id: Option<Id>, begin: Begin) -> Waiter {
        Waiter { id, begin }
    }

    fn is_needed(&self) -> bool {
        self.id.is_some() || self.begin != Begin::Live
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
            return Waiter::new(None, Begin::Live);
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
    fn waiters_have_an_account_that_comes_to_nothing_again() {
        let mut waiters = Waiters::new(100_000);
        let text = |number: usize| Waiter::new(Some(Id::Text("x".repeat(number % 65).into())), Begin::Live);
        let mut numbers = Vec::new();
        while let Some(number) = waiters.insert(text(numbers.len())) {
            numbers.push(number);
        }
        assert!(numbers.len() > limits::WAITERS_FLOOR && waiters.bytes <= 100_000);
        assert_eq!(waiters.insert(Waiter::new(None, Begin::Live)), Some(NO_WAITER), "nothing to remember takes no room");
        for number in numbers {
            waiters.remove(number);
        }
        waiters.remove(NO_WAITER);
        assert_eq!((waiters.bytes, waiters.waiting.capacity()), (0, 0));
        let mut narrow = Waiters::new(0);
        assert_eq!((0..1000).filter(|&number| narrow.insert(text(number)).is_some()).count(), limits::WAITERS_FLOOR);
    }
}
