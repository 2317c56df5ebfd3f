//! What each file of the journal still holds that is wanted, in bytes: which may go, and which is worth rewriting.
//!
//! Invariant: a segment goes only when nothing in it is wanted any more and whatever replaces what it held is synced; the one that is written to
//! never goes.

use std::collections::VecDeque;

use crate::limits::journal::HOLLOW_DIVISOR;

/// Bytes of the journal that were ever written by this process, up to a point.
pub type Ticket = u64;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
    pub bytes: u32,
}

#[derive(Debug, Default)]
pub struct Segments {
    /// The number of the first in `all`.
    first: u32,
    all: VecDeque<Option<Segment>>,
    live: u64,
    bytes: u64,
    /// Sealed, and nothing in them is wanted; each once.
    emptied: Vec<u32>,
}

#[derive(Debug)]
struct Segment {
    /// Before its first byte; of no meaning for one from an earlier process.
    begin: Ticket,
    bytes: u64,
    live: u64,
    /// It may go when so much is synced: what replaces its records.
    free_after: Ticket,
    /// Its last byte; None: it is written to.
    end: Option<Ticket>,
    /// It has a damaged place: rewritten first, so that the next start does not see it again.
    is_damaged: bool,
    /// Rewriting it did not get at all that is wanted.
    is_stuck: bool,
}

impl Segments {
    /// One from an earlier process; in the order of their numbers.
    pub fn insert_old(&mut self, number: u32, bytes: u64, is_damaged: bool) {
        self.insert(number, Segment { begin: 0, bytes, live: 0, free_after: 0, end: Some(0), is_damaged, is_stuck: false });
    }

    /// The one that is written to from now on.
    pub fn begin(&mut self, number: u32, begin: Ticket) {
        self.insert(number, Segment { begin, bytes: 0, live: 0, free_after: 0, end: None, is_damaged: false, is_stuck: false });
    }

    fn insert(&mut self, number: u32, segment: Segment) {
        if self.all.is_empty() {
            self.first = number;
        }
        while self.first as usize + self.all.len() < number as usize {
            self.all.push_back(None);
        }
        self.bytes += segment.bytes;
        self.all.push_back(Some(segment));
    }

    fn get(&mut self, number: u32) -> &mut Segment {
        self.all[(number - self.first) as usize].as_mut().expect("what is wanted keeps its segment")
    }

    pub fn grow(&mut self, number: u32, bytes: u64) {
        self.get(number).bytes += bytes;
        self.bytes += bytes;
    }

    /// No more is written to it.
    pub fn seal(&mut self, number: u32, end: Ticket) {
        let segment = self.get(number);
        segment.end = Some(end);
        if segment.live == 0 {
            self.emptied.push(number);
        }
    }

    /// After all that is wanted of old segments has been added.
    pub fn note_old_empty(&mut self) {
        let first = self.first;
        let empty = |(at, segment): (usize, &Option<Segment>)| {
            segment.as_ref().is_some_and(|segment| segment.live == 0 && segment.end.is_some()).then_some(first + at as u32)
        };
        self.emptied = self.all.iter().enumerate().filter_map(empty).collect();
    }

    pub fn add(&mut self, number: u32, bytes: u64) {
        self.get(number).live += bytes;
        self.live += bytes;
    }

    /// So many bytes of it are not wanted any more, because of what is synced with `cause` (0: of nothing).
    pub fn remove(&mut self, number: u32, bytes: u64, cause: Ticket) {
        let segment = self.get(number);
        segment.live -= bytes;
        segment.free_after = segment.free_after.max(cause);
        let is_emptied = segment.live == 0 && segment.end.is_some();
        self.live -= bytes;
        if is_emptied {
            self.emptied.push(number);
        }
    }

    /// 0: it may have gone.
    pub fn live_of(&self, number: u32) -> u64 {
        let at = number.checked_sub(self.first).and_then(|at| self.all.get(at as usize));
        at.and_then(Option::as_ref).map_or(0, |segment| segment.live)
    }

    /// Behind a record of this process.
    pub fn end_of(&self, place: Place) -> Ticket {
        let segment = self.all[(place.segment - self.first) as usize].as_ref().expect("what is wanted keeps its segment");
        segment.begin + u64::from(place.offset) + u64::from(place.bytes)
    }

    /// Bytes of all files, and what is wanted of them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn live(&self) -> u64 {
        self.live
    }

    /// One that goes now, but for one that is `held`: whoever asks removes its file.
    pub fn take_free(&mut self, synced: Ticket, held: Option<u32>) -> Option<u32> {
        let first = self.first;
        let is_free = |number: &u32| {
            let segment = self.all[(number - first) as usize].as_ref().filter(|_| held != Some(*number));
            segment.is_some_and(|segment| segment.free_after <= synced && segment.end.is_some_and(|end| end <= synced))
        };
        let at = self.emptied.iter().position(is_free)?;
        let number = self.emptied.swap_remove(at);
        let gone = self.all[(number - first) as usize].take().expect("it is there until it goes");
        self.bytes -= gone.bytes;
        while let Some(None) = self.all.front() {
            self.all.pop_front();
            self.first += 1;
        }
        Some(number)
    }

    /// The one whose rewriting frees most, if it is worth it: files take more than twice what is wanted (and two of them), or one is damaged.
    pub fn hollow(&self, synced: Ticket, segment_bytes: u64) -> Option<u32> {
        let is_worth_it = self.bytes > HOLLOW_DIVISOR * self.live + 2 * segment_bytes;
        let candidates = self.all.iter().enumerate().filter_map(|(at, segment)| {
            let segment = segment.as_ref()?;
            let is_synced = segment.end.is_some_and(|end| end <= synced);
            let is_hollow = is_worth_it && segment.live <= segment.bytes / HOLLOW_DIVISOR;
            let takes = is_synced && !segment.is_stuck && segment.live > 0 && (is_hollow || segment.is_damaged);
            takes.then_some((!segment.is_damaged, segment.live, self.first + at as u32))
        });
        candidates.min().map(|(.., number)| number)
    }

    /// It is not tried again.
    pub fn note_stuck(&mut self, number: u32) {
        if self.live_of(number) > 0 {
            self.get(number).is_stuck = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_goes_when_what_replaces_it_is_synced() {
        let mut segments = Segments::default();
        segments.begin(1, 0);
        segments.grow(1, 100);
        segments.add(1, 60);
        segments.remove(1, 60, 90);
        assert_eq!(segments.take_free(1000, None), None, "it is written to");
        segments.seal(1, 100);
        segments.begin(2, 0);
        assert_eq!((segments.take_free(99, None), segments.take_free(100, None), segments.take_free(100, None)), (None, Some(1), None));
        assert_eq!((segments.bytes(), segments.live()), (0, 0));
        segments.add(2, 10);
        segments.seal(2, 110);
        segments.begin(3, 0);
        segments.remove(2, 10, 300);
        assert_eq!((segments.take_free(299, None), segments.take_free(300, None)), (None, Some(2)));
    }

    #[test]
    fn the_hollowest_is_rewritten_and_a_damaged_one_before_it() {
        let mut segments = Segments::default();
        segments.insert_old(4, 1000, false);
        segments.insert_old(7, 1000, false);
        segments.insert_old(8, 1000, true);
        segments.begin(9, 0);
        for (number, live) in [(4, 400), (7, 10), (8, 900)] {
            segments.add(number, live);
        }
        segments.note_old_empty();
        assert_eq!(segments.take_free(0, None), None);
        assert_eq!(segments.hollow(0, 100), Some(8));
        segments.note_stuck(8);
        assert_eq!(segments.hollow(0, 100), Some(7));
        segments.remove(7, 10, 0);
        assert_eq!((segments.hollow(0, 100), segments.hollow(0, 1000)), (Some(4), None));
        assert_eq!(segments.take_free(0, None), Some(7));
        segments.note_stuck(4);
        assert_eq!((segments.hollow(0, 100), segments.bytes()), (None, 2000));
    }
}
