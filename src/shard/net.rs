//! What a shard needs of the world: sockets and a clock. [`crate::shard::sockets`] is the real one, the simulator's the other.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::MonotonicNs;
use crate::tls::acceptor::Acceptor;
use crate::tls::certificate::ClientCertificate;

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
        /// Who connects: the other end of the TCP connection; None: a unix socket.
        peer: Option<SocketAddr>,
        /// It came by a listener whose connections begin with a PROXY header.
        is_proxied: bool,
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
    /// What the streams have in common.
    fn gear(&self) -> &<Self::Stream as Stream>::Gear;
    fn gear_mut(&mut self) -> &mut <Self::Stream as Stream>::Gear;
    /// A turn begins: what streams may cost in one is theirs again, so many steps of handshakes among it.
    fn begin_turn(&mut self, _now_ns: u64, _handshakes: usize) {}
    /// Whether this turn had no steps of handshakes left: there may be more to do.
    fn is_shaking(&self) -> bool {
        false
    }
    /// How many streams that were told to wait ([`Received::Queued`]) may come now.
    fn places(&self) -> usize {
        usize::MAX
    }
    /// How sessions are begun from now on.
    fn set_acceptor(&mut self, _acceptor: Option<Arc<Acceptor>>) {}
    fn accept(&mut self) -> Accepted<Self::Stream>;
    /// Registers the socket for reading and writing, once for its life.
    fn register(&mut self, stream: &mut Self::Stream, token: usize) -> io::Result<()>;
    fn close_listeners(&mut self);
    /// The clock that never steps: all that is due after a time, or too old, goes by it.
    fn now_ns(&self) -> MonotonicNs;
    /// The clock on the wall, which may step either way at any time: for what people read and nothing else.
    fn unix_ms(&self) -> u64;
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes; none: there were none. `drained`: the socket had no more, and an edge will tell when it has.
    Bytes { count: usize, drained: bool },
    /// Bytes were taken off the socket, and come to nothing yet. As it is no sign that there were none, the end of the stream may lie right behind them.
    Part { drained: bool },
    /// The peer's stream is at its end.
    End,
    /// This turn has no time left for it: read it again in the next.
    Later,
    /// There is no place for what it begins with: read it again when [`Network::places`] says so.
    Queued,
    /// What lies between was broken by the peer, and has said so. Nothing will come any more, and nothing can be sent.
    Broken,
}

/// A non-blocking byte stream: a socket, and whatever lies between it and the connection's bytes (TLS keeps records that have come or gone in part).
/// What is true of a bare socket need not be true here, and the shard relies on none of it: that a short read has emptied the socket, that what a
/// write took is with the kernel, that every byte to read was announced by an edge.
pub trait Stream {
    /// What all streams of a shard share, so that each is as small as it can be. Lent to every call.
    type Gear;

    /// Brings bytes. `at_most` are taken off the socket; what the stream has kept of earlier ones comes on top of them, and has room in `buffer`.
    fn read(&mut self, gear: &mut Self::Gear, buffer: &mut [u8], at_most: usize) -> io::Result<Received>;

    /// Whether the stream holds bytes that the next read will bring and no edge will tell of.
    fn has_pending(&self, _gear: &Self::Gear) -> bool {
        false
    }

    /// Whether something has come in part, and the peer has to send the rest before the shard sees any of it.
    fn has_part(&self, _gear: &Self::Gear) -> bool {
        false
    }

    /// The bytes so far were not for it: it begins with these, if it is one that does. The next read brings what they come to.
    fn begin(&mut self, _gear: &mut Self::Gear, _input: &[u8]) -> bool {
        false
    }

    /// How long it has held a place ([`Network::places`]); None: it has none.
    fn has_place_for(&self, _gear: &Self::Gear) -> Option<Duration> {
        None
    }

    /// What the peer has shown of itself, and was believed.
    fn certificate(&self, _gear: &Self::Gear) -> Option<Arc<ClientCertificate>> {
        None
    }

    /// Takes bytes over; how many, or WouldBlock. Not called while [`Stream::wants_write`].
    fn write(&mut self, gear: &mut Self::Gear, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Whether something that was taken, or that the stream has to say itself, is not with the kernel. After a write or a flush that is because
    /// the socket is full, and its edge will come; after a read it may be because nobody has tried.
    fn wants_write(&self, _gear: &Self::Gear) -> bool {
        false
    }

    /// Tries to get rid of what [`Stream::wants_write`] is about.
    fn flush(&mut self, _gear: &mut Self::Gear) -> io::Result<()> {
        Ok(())
    }

    /// How long ago the peer's host last acknowledged anything; None: nobody knows. The application at its end may hang all the same.
    fn acknowledged_ago(&self) -> Option<Duration> {
        None
    }

    /// Ends our side, once everything that was taken is with the kernel.
    fn shutdown_write(&mut self, gear: &mut Self::Gear);

    /// Heap bytes that the stream holds now.
    fn buffer_bytes(&self, _gear: &Self::Gear) -> usize {
        0
    }

    /// The connection has ended: what the gear holds for it is free again. Called once, before the stream is dropped.
    fn release(&mut self, _gear: &mut Self::Gear) {}
}
