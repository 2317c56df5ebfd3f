//! What a shard needs of the world: sockets and a clock. [`crate::shard::sockets`] is the real one, the simulator's the other.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use crate::fanout::batch::MonotonicNs;

/// A readiness event of one registered socket (edge-triggered: it comes once).
#[derive(Debug, Clone, Copy, Default)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The peer has closed its sending side, or the socket has failed: read to the end to learn which.
    pub closed: bool,
}

/// What one accept brought.
#[derive(Debug)]
pub enum Accepted<S> {
    Stream {
        stream: S,
        /// Who connects: the other end of the TCP connection.
        peer: SocketAddr,
    },
    /// A connection was taken and dropped for want of descriptors.
    Dropped,
    /// A connection ended while it waited; there may be others.
    Gone,
    /// Nothing is waiting.
    None,
    /// Accept fails for now (descriptors, kernel memory); try again in a while.
    Later,
}

pub trait Network {
    type Stream: Stream;
    fn accept(&mut self) -> Accepted<Self::Stream>;
    /// Registers the socket for reading and writing, once for its life.
    fn register(&mut self, stream: &mut Self::Stream, token: usize) -> io::Result<()>;
    fn close_listeners(&mut self);
    /// The clock that never steps: all that is due after a time, or too old, goes by it.
    fn now_ns(&self) -> MonotonicNs;
    /// The clock on the wall, which may step either way at any time: for what people read and nothing else.
    fn unix_ms(&self) -> u64;
}

/// A non-blocking byte stream.
pub trait Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    fn shutdown_write(&mut self);
}
