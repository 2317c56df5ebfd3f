//! Subscriptions that the bus has not confirmed yet and that are to be answered with an `id`, or from a position on. While Redis is away there
//! may be many: they have an account, and beyond it a subscribe is answered `busy`.

use slab::Slab;

use crate::limits;
use crate::wire::command::{Id, Position};
use crate::wire::wish::Begin;

const _: () = assert!(
    2 * size_of::<Option<Waiter>>() + limits::heap_bytes(limits::COMMAND_ID_BYTES_MAX) + limits::heap_bytes(size_of::<Counted>())
        <= limits::WAITER_BYTES_MAX
);

/// What a subscription that the bus has not confirmed yet will be answered with.
#[derive(Debug)]
pub(super) struct Waiter {
    pub id: Option<Id>,
    pub begin: Begin,
    /// Seldom asked for, so it lies by itself.
    counted: Option<Box<Counted>>,
}

/// What the answer says of what its user has not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Counted {
    /// Nothing: it was not asked for, or cannot be found out.
    #[default]
    Not,
    /// The bus was asked, and the subscription waits for what it says.
    Awaited,
    /// How many messages came after this position.
    After(Position),
}

impl Counted {
    /// Of what lies up to this position, how many messages the user has not read.
    pub fn up_to(self, epoch: u64, seq: u64) -> Option<u64> {
        match self {
            Counted::Not | Counted::Awaited => None,
            Counted::After(after) if after.epoch == epoch => Some(seq.saturating_sub(after.seq)),
            // What was marked in an epoch before is no mark in this one.
            Counted::After(_) => Some(seq),
        }
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
    pub fn new(id: Option<Id>, begin: Begin, counted: Counted) -> Waiter {
        Waiter { id, begin, counted: (counted != Counted::Not).then(|| Box::new(counted)) }
    }

    pub fn counted(&self) -> Counted {
        self.counted.as_deref().copied().unwrap_or_default()
    }

    /// It waits no more for that.
    pub fn uncounted(self) -> Waiter {
        Waiter { counted: None, ..self }
    }

    /// It is answered without more ado.
    pub fn idle() -> Waiter {
        Waiter::new(None, Begin::Live, Counted::Not)
    }

    fn is_needed(&self) -> bool {
        self.id.is_some() || self.begin != Begin::Live || self.counted.is_some()
    }

    /// With the slot that the table keeps free when it has just grown.
    fn bytes(&self) -> usize {
        let text = if let Some(Id::Text(text)) = &self.id { limits::heap_bytes(text.len()) } else { 0 };
        let counted = self.counted.as_ref().map_or(0, |_| limits::heap_bytes(size_of::<Counted>()));
        2 * size_of::<Option<Waiter>>() + text + counted
    }
}

impl Waiters {
    pub fn new(bytes_max: usize) -> Waiters {
        Waiters { waiting: Slab::new(), bytes: 0, bytes_max }
    }

    /// Its number. If there is no room for it, it comes back.
    pub fn insert(&mut self, waiter: Waiter) -> Result<u32, Waiter> {
        if !waiter.is_needed() {
            return Ok(NO_WAITER);
        }
        let bytes = waiter.bytes();
        if self.waiting.len() >= limits::WAITERS_FLOOR && self.bytes + bytes > self.bytes_max {
            return Err(waiter);
        }
        self.bytes += bytes;
        Ok(self.waiting.insert(waiter) as u32)
    }

    /// With what the subscription will begin.
    pub fn begin(&self, number: u32) -> Begin {
        self.waiting.get(number as usize).map_or(Begin::Live, |waiter| waiter.begin)
    }

    /// Whether it waits for the bus to say what the user has not read.
    pub fn awaits_count(&self, number: u32) -> bool {
        self.waiting.get(number as usize).is_some_and(|waiter| waiter.counted() == Counted::Awaited)
    }

    /// The bus has said it.
    pub fn set_counted(&mut self, number: u32, counted: Counted) {
        // In its place: the account is of what lies there.
        if let Some(place) = &mut self.waiting[number as usize].counted {
            **place = counted;
        }
    }

    pub fn remove(&mut self, number: u32) -> Waiter {
        if number == NO_WAITER {
            return Waiter::idle();
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
    fn what_is_unread_is_counted_up_to_where_a_subscription_begins() {
        let counted = Counted::After(Position { epoch: 5, seq: 90 });
        assert_eq!([counted.up_to(5, 100), counted.up_to(5, 80), counted.up_to(6, 3)], [Some(10), Some(0), Some(3)]);
        assert_eq!([Counted::Not, Counted::Awaited].map(|counted| counted.up_to(5, 100)), [None, None]);
    }

    #[test]
    fn waiters_have_an_account_that_comes_to_nothing_again() {
        let mut waiters = Waiters::new(100_000);
        let text = |number: usize| Waiter { id: Some(Id::Text("x".repeat(number % 65).into())), ..Waiter::idle() };
        let mut numbers = Vec::new();
        while let Ok(number) = waiters.insert(text(numbers.len())) {
            numbers.push(number);
        }
        assert!(numbers.len() > limits::WAITERS_FLOOR && waiters.bytes <= 100_000);
        assert_eq!(waiters.insert(Waiter::idle()).unwrap(), NO_WAITER, "nothing to remember takes no room");
        for number in numbers {
            waiters.remove(number);
        }
        waiters.remove(NO_WAITER);
        assert_eq!((waiters.bytes, waiters.waiting.capacity()), (0, 0));
        let mut narrow = Waiters::new(0);
        assert_eq!((0..1000).filter(|&number| narrow.insert(text(number)).is_ok()).count(), limits::WAITERS_FLOOR);
    }
}
