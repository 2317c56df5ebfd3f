//! One client connection, and what it has to remember.
//!
//! Owned by a worker; a million of them fit on a host. Invariant: a client owns heap only while a frame is split over reads or a write was
//! cut short.

use mio::net::TcpStream;

use super::sequence::Sequence;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No connection: not begun, or closed by us to come again.
    Idle,
    Connecting,
    /// In the TLS handshake.
    Shaking,
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
    pub channel: u32,
    /// When the connection was due, microseconds of the worker's clock.
    pub due_us: u32,
    /// Times this connection was tried again without coming through.
    pub tries: u32,
    /// Of `channel`.
    pub sequence: Sequence,
    /// The server's own number of the last message, to resume from.
    pub position: u64,
    pub spill: Option<Box<Spill>>,
}

/// 64. A debug build of mio keeps more than the descriptor in a stream; that does not count.
const CLIENT_BYTES_MAX: usize = 60 + size_of::<Option<TcpStream>>().next_multiple_of(8) - if cfg!(debug_assertions) { 0 } else { 4 };

const _: () = assert!(size_of::<Client>() <= CLIENT_BYTES_MAX, "a million clients must fit beside the server");

impl Client {
    pub fn new(channel: u32, reading: Reading) -> Client {
        Client {
            stream: None,
            phase: Phase::Idle,
            reading,
            resumes: false,
            channel,
            due_us: 0,
            tries: 0,
            sequence: Sequence::default(),
            position: 0,
            spill: None,
        }
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

    #[test]
    fn a_client_takes_64_bytes_at_most() {
        assert!(size_of::<Client>() <= CLIENT_BYTES_MAX, "{}", size_of::<Client>());
        const { assert!(cfg!(debug_assertions) || CLIENT_BYTES_MAX == 64) };
    }
}
