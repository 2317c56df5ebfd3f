//! What one client has to remember of one channel, and the check of what it receives there.
//!
//! Invariant: a number that is missing is either announced by a `gap` or counted as lost.

#[derive(Debug, Clone)]
pub struct Sequence {
    /// The number expected next.
    pub next: u64,
    /// Which of the 64 numbers before `next` have come; bit 0 is `next - 1`.
    window: u64,
    /// Messages that gaps since the last message have announced as lost; [`UNKNOWN`] for an outage.
    announced: u32,
    /// Has seen a message: before the first one, an earlier number is no repetition.
    begun: bool,
    /// The epoch is over: what follows may go back, once.
    renewed: bool,
}

/// Announced: some messages are lost, nobody knows how many.
pub const UNKNOWN: u32 = u32::MAX;

/// What a message means for the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    InOrder,
    /// Numbers before this one are missing.
    Hole {
        lost: u64,
        announced: u64,
    },
    /// In order again, from an earlier number on: so many come twice, as the end of an epoch has announced.
    Again {
        count: u64,
    },
    /// One that was counted as missing comes late.
    Late,
    Duplicate,
}

impl Default for Sequence {
    fn default() -> Sequence {
        Sequence { next: 0, window: u64::MAX, announced: 0, begun: false, renewed: false }
    }
}

impl Sequence {
    /// From now on every message that is published must arrive; `published` were handed to the bus before, and may arrive or not.
    pub fn expect_from(&mut self, published: u64) {
        *self = Sequence { next: published, ..Sequence::default() };
    }

    /// A gap announces that this many messages are lost.
    pub fn announce(&mut self, count: u32) {
        self.announced = self.announced.saturating_add(count);
    }

    /// The channel has begun a new epoch: what Redis has taken back may come again.
    pub fn renew(&mut self) {
        self.renewed = true;
    }

    #[inline]
    pub fn take(&mut self, seq: u64) -> Verdict {
        if !self.begun {
            self.begun = true;
            // Published before this client was ready, delivered after: allowed, and what follows must follow it.
            self.next = self.next.min(seq);
        }
        if std::mem::take(&mut self.renewed) && seq < self.next {
            let count = self.next - seq;
            *self = Sequence { next: seq + 1, begun: true, ..Sequence::default() };
            return Verdict::Again { count };
        }
        if seq == self.next {
            self.next += 1;
            self.window = self.window << 1 | 1;
            self.announced = 0;
            return Verdict::InOrder;
        }
        if seq > self.next {
            let hole = seq - self.next;
            self.window = if hole >= 63 { 1 } else { self.window << (hole + 1) | 1 };
            self.next = seq + 1;
            let announced = self.covered(hole);
            self.announced = 0;
            return Verdict::Hole { lost: hole - announced, announced };
        }
        let age = self.next - 1 - seq;
        if age < 64 && self.window & (1 << age) == 0 {
            self.window |= 1 << age;
            return Verdict::Late;
        }
        Verdict::Duplicate
    }

    /// (lost, announced) of the messages up to `published` that have not come.
    pub fn tail(&self, published: u64) -> (u64, u64) {
        let missing = published.saturating_sub(self.next);
        let announced = self.covered(missing);
        (missing - announced, announced)
    }

    fn covered(&self, missing: u64) -> u64 {
        if self.announced == UNKNOWN { missing } else { missing.min(u64::from(self.announced)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(published: u64) -> Sequence {
        let mut sequence = Sequence::default();
        sequence.expect_from(published);
        sequence
    }

    #[test]
    fn loss_repetition_and_order_are_told_apart() {
        let mut sequence = fresh(0);
        assert_eq!(sequence.take(0), Verdict::InOrder);
        assert_eq!(sequence.take(3), Verdict::Hole { lost: 2, announced: 0 });
        assert_eq!(sequence.take(2), Verdict::Late);
        assert_eq!(sequence.take(2), Verdict::Duplicate);
        assert_eq!(sequence.take(3), Verdict::Duplicate);
        assert_eq!(sequence.take(4), Verdict::InOrder);
        assert_eq!(sequence.tail(5), (0, 0));
        assert_eq!(sequence.tail(7), (2, 0));
    }

    #[test]
    fn the_first_messages_must_come_too() {
        assert_eq!(fresh(0).take(1), Verdict::Hole { lost: 1, announced: 0 });
        // 0 to 9 were published before it was ready.
        assert_eq!(fresh(10).take(8), Verdict::InOrder);
        assert_eq!(fresh(10).take(10), Verdict::InOrder);
        assert_eq!(fresh(10).take(11), Verdict::Hole { lost: 1, announced: 0 });
        assert_eq!(fresh(10).tail(12), (2, 0));
        let mut sequence = fresh(10);
        assert_eq!(sequence.take(8), Verdict::InOrder);
        assert_eq!(sequence.take(10), Verdict::Hole { lost: 1, announced: 0 });
    }

    #[test]
    fn a_gap_covers_as_much_as_it_announced() {
        let mut sequence = fresh(0);
        sequence.announce(2);
        assert_eq!(sequence.take(3), Verdict::Hole { lost: 1, announced: 2 });
        assert_eq!(sequence.take(5), Verdict::Hole { lost: 1, announced: 0 });
        sequence.announce(UNKNOWN);
        sequence.announce(1);
        assert_eq!(sequence.tail(100), (0, 94));
        assert_eq!(sequence.take(100), Verdict::Hole { lost: 0, announced: 94 });
        assert_eq!(sequence.take(102), Verdict::Hole { lost: 1, announced: 0 });
    }

    #[test]
    fn a_new_epoch_may_go_back_once() {
        let mut sequence = fresh(0);
        (0..9).for_each(|seq| assert_eq!(sequence.take(seq), Verdict::InOrder));
        sequence.renew();
        assert_eq!(sequence.take(7), Verdict::Again { count: 2 });
        // All that follows has to come too.
        assert_eq!(sequence.tail(9), (1, 0));
        assert_eq!([sequence.take(8), sequence.take(9), sequence.take(8)], [Verdict::InOrder, Verdict::InOrder, Verdict::Duplicate]);
        sequence.renew();
        assert_eq!([sequence.take(10), sequence.take(9)], [Verdict::InOrder, Verdict::Duplicate]);
    }

    #[test]
    fn a_hole_wider_than_the_window_keeps_no_memory_of_it() {
        let mut sequence = fresh(0);
        assert_eq!(sequence.take(0), Verdict::InOrder);
        assert_eq!(sequence.take(1000), Verdict::Hole { lost: 999, announced: 0 });
        assert_eq!(sequence.take(999), Verdict::Late);
        assert_eq!(sequence.take(5), Verdict::Duplicate);
    }
}
