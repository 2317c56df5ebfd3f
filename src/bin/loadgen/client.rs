//! One client connection: what it has to remember, and the check of what it receives.
//!
//! Owned by a worker; a million of them fit on a host. Invariant: a client owns heap only while a frame is split over reads or a write was
//! cut short, and a number that is missing is either announced by a `gap` or counted as lost.

use mio::net::TcpStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No connection: not begun, or closed by us to come again.
    Idle,
    Connecting,
    /// The request is sent, the answer's head is awaited.
    Head,
    /// Upgraded; what says that messages flow has not come yet.
    Subscribing,
    Ready,
    /// Over for good: refused, closed by the server, or lost.
    Ended,
}

/// How a client reads once everybody is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Normal,
    /// A few bytes now and then.
    Slow,
    Never,
}

/// Bytes that did not come or go in one piece.
#[derive(Debug, Default)]
pub struct Spill {
    pub incoming: Vec<u8>,
    pub outgoing: Vec<u8>,
}

#[derive(Debug)]
pub struct Client {
    pub stream: Option<TcpStream>,
    pub phase: Phase,
    pub reading: Reading,
    /// Connects with `since`: it was ready before.
    pub resumes: bool,
    /// Has seen a message: before the first one, an earlier number is no repetition.
    begun: bool,
    pub channel: u32,
    /// When the connection was due, microseconds of the worker's clock.
    pub due_us: u32,
    /// Messages that gaps since the last message have announced as lost; [`UNKNOWN`] for an outage.
    announced: u32,
    /// Times this connection was tried again without coming through.
    pub tries: u32,
    /// The number expected next.
    pub next: u64,
    /// Which of the 64 numbers before `next` have come; bit 0 is `next - 1`.
    window: u64,
    /// The server's own number of the last message, to resume from.
    pub position: u64,
    pub spill: Option<Box<Spill>>,
}

/// Announced: some messages are lost, nobody knows how many.
pub const UNKNOWN: u32 = u32::MAX;

/// 64. A debug build of mio keeps more than the descriptor in a stream; that does not count.
const CLIENT_BYTES_MAX: usize = 60 + size_of::<Option<TcpStream>>().next_multiple_of(8) - if cfg!(debug_assertions) { 0 } else { 4 };

const _: () = assert!(size_of::<Client>() <= CLIENT_BYTES_MAX, "a million clients must fit beside the server");

/// What a message means for the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    InOrder,
    /// Numbers before this one are missing.
    Hole {
        lost: u64,
        announced: u64,
    },
    /// One that was counted as missing comes late.
    Late,
    Duplicate,
}

impl Client {
    pub fn new(channel: u32, reading: Reading) -> Client {
        Client {
            stream: None,
            phase: Phase::Idle,
            reading,
            resumes: false,
            begun: false,
            channel,
            due_us: 0,
            announced: 0,
            tries: 0,
            next: 0,
            window: u64::MAX,
            position: 0,
            spill: None,
        }
    }

    /// From now on every message that is published must arrive; `published` were handed to the bus before, and may arrive or not.
    pub fn expect_from(&mut self, published: u64) {
        self.next = published;
        self.window = u64::MAX;
        self.begun = false;
        self.announced = 0;
    }

    /// A gap announces that this many messages are lost.
    pub fn announce(&mut self, count: u32) {
        self.announced = self.announced.saturating_add(count);
    }

    #[inline]
    pub fn take(&mut self, seq: u64) -> Verdict {
        if !self.begun {
            self.begun = true;
            // Published before this client was ready, delivered after: allowed, and what follows must follow it.
            self.next = self.next.min(seq);
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

    pub fn spill(&mut self) -> &mut Spill {
        self.spill.get_or_insert_default()
    }

    /// Gives the heap back as soon as nothing is split any more.
    pub fn drop_empty_spill(&mut self) {
        if self.spill.as_ref().is_some_and(|spill| spill.incoming.is_empty() && spill.outgoing.is_empty()) {
            self.spill = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(published: u64) -> Client {
        let mut client = Client::new(0, Reading::Normal);
        client.expect_from(published);
        client
    }

    #[test]
    fn a_client_takes_64_bytes_at_most() {
        assert!(size_of::<Client>() <= CLIENT_BYTES_MAX, "{}", size_of::<Client>());
        const { assert!(cfg!(debug_assertions) || CLIENT_BYTES_MAX == 64) };
    }

    #[test]
    fn loss_repetition_and_order_are_told_apart() {
        let mut client = fresh(0);
        assert_eq!(client.take(0), Verdict::InOrder);
        assert_eq!(client.take(3), Verdict::Hole { lost: 2, announced: 0 });
        assert_eq!(client.take(2), Verdict::Late);
        assert_eq!(client.take(2), Verdict::Duplicate);
        assert_eq!(client.take(3), Verdict::Duplicate);
        assert_eq!(client.take(4), Verdict::InOrder);
        assert_eq!(client.tail(5), (0, 0));
        assert_eq!(client.tail(7), (2, 0));
    }

    #[test]
    fn the_first_messages_must_come_too() {
        assert_eq!(fresh(0).take(1), Verdict::Hole { lost: 1, announced: 0 });
        // 0 to 9 were published before it was ready.
        assert_eq!(fresh(10).take(8), Verdict::InOrder);
        assert_eq!(fresh(10).take(10), Verdict::InOrder);
        assert_eq!(fresh(10).take(11), Verdict::Hole { lost: 1, announced: 0 });
        assert_eq!(fresh(10).tail(12), (2, 0));
        let mut client = fresh(10);
        assert_eq!(client.take(8), Verdict::InOrder);
        assert_eq!(client.take(10), Verdict::Hole { lost: 1, announced: 0 });
    }

    #[test]
    fn a_gap_covers_as_much_as_it_announced() {
        let mut client = fresh(0);
        client.announce(2);
        assert_eq!(client.take(3), Verdict::Hole { lost: 1, announced: 2 });
        assert_eq!(client.take(5), Verdict::Hole { lost: 1, announced: 0 });
        client.announce(UNKNOWN);
        client.announce(1);
        assert_eq!(client.tail(100), (0, 94));
        assert_eq!(client.take(100), Verdict::Hole { lost: 0, announced: 94 });
        assert_eq!(client.take(102), Verdict::Hole { lost: 1, announced: 0 });
    }

    #[test]
    fn a_hole_wider_than_the_window_keeps_no_memory_of_it() {
        let mut client = fresh(0);
        assert_eq!(client.take(0), Verdict::InOrder);
        assert_eq!(client.take(1000), Verdict::Hole { lost: 999, announced: 0 });
        assert_eq!(client.take(999), Verdict::Late);
        assert_eq!(client.take(5), Verdict::Duplicate);
    }
}
