//! The real network of a shard: mio sockets, SO_REUSEPORT listeners, the monotonic clock.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::Socket;

use super::net::{Accepted, Network, Received, Stream};
use super::settings::ShardSettings;
use crate::clock::MonotonicNs;
use crate::{limits, sys};

/// The listener of address `i` has the token `LISTENER_TOKEN - i`.
pub const LISTENER_TOKEN: usize = usize::MAX - 1;

#[derive(Debug)]
pub struct Sockets {
    registry: Registry,
    listeners: Vec<Listener>,
    /// Where the next accept looks first, so that no address starves another.
    turn: usize,
    /// A descriptor kept free: given up for a moment, it lets a connection be taken and dropped when the table is full.
    reserve: Option<File>,
    /// Clients get descriptors below this alone. The kernel hands out the lowest free number, so whoever would get a higher one came when the table
    /// was all but full.
    descriptors_below: RawFd,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    token: Token,
    /// Other shards accept from the same socket.
    is_shared: bool,
    /// A connection was taken from it since this shard last went to the end of the queue of those who share it.
    has_taken: bool,
}

impl Listener {
    /// A shared listener wakes one shard, always the first of those asleep. Without this one shard would get nearly every connection of
    /// a quiet hour, and keep it: with it, whoever has taken one is asked last. Two system calls for each time a shared listener is
    /// emptied, which is each connection in a quiet hour and one in a hundred in a storm.
    fn rotate(&mut self, registry: &Registry) {
        if self.is_shared && self.has_taken {
            self.has_taken = false;
            // What has come in between is an event at once.
            let result = self.unregister(registry).and_then(|()| sys::epoll_add_exclusive(registry, &self.socket, self.token.0));
            if let Err(error) = result {
                panic!("epoll_ctl failed on a listener of our own: {error}");
            }
        }
    }

    /// Must be done before a shared one is closed: an epoll watches the socket, not the descriptor, and the socket lives on.
    fn unregister(&mut self, registry: &Registry) -> io::Result<()> {
        if self.is_shared { registry.deregister(&mut SourceFd(&self.socket.as_raw_fd())) } else { registry.deregister(&mut self.socket) }
    }
}

impl Sockets {
    /// Binds one listener per address on the calling thread, in its descriptor table.
    pub fn bind(registry: Registry, addresses: &[SocketAddr], settings: &ShardSettings) -> io::Result<Sockets> {
        let mut listeners = Vec::new();
        for (index, &address) in addresses.iter().enumerate() {
            let mut listener = listen(address, addresses, settings)?;
            registry.register(&mut listener, Token(LISTENER_TOKEN - index), Interest::READABLE)?;
            listeners.push(Listener { socket: listener, token: Token(LISTENER_TOKEN - index), is_shared: false, has_taken: false });
        }
        Ok(Sockets::with(registry, listeners))
    }

    /// Takes listeners that somebody else has bound, each with whether other shards accept from it too.
    pub fn given(registry: Registry, given: impl IntoIterator<Item = (OwnedFd, bool)>, settings: &ShardSettings) -> io::Result<Sockets> {
        let mut listeners = Vec::new();
        for (index, (socket, is_shared)) in given.into_iter().enumerate() {
            let socket = Socket::from(socket);
            set_options(&socket, settings)?;
            let mut socket = TcpListener::from_std(socket.into());
            let token = Token(LISTENER_TOKEN - index);
            if is_shared {
                sys::epoll_add_exclusive(&registry, &socket, token.0)?;
            } else {
                registry.register(&mut socket, token, Interest::READABLE)?;
            }
            listeners.push(Listener { socket, token, is_shared, has_taken: false });
        }
        Ok(Sockets::with(registry, listeners))
    }

    fn with(registry: Registry, listeners: Vec<Listener>) -> Sockets {
        Sockets { registry, listeners, turn: 0, reserve: File::open("/dev/null").ok(), descriptors_below: RawFd::MAX }
    }

    /// In a table that others use too, keeps some descriptors of it for them: the control port must answer and the bus come back to Redis
    /// however many clients there are.
    pub fn leave_some_free(&mut self) {
        if let Ok(limit) = sys::raise_descriptor_limit() {
            let below = limit.soft - limits::DESCRIPTORS_KEPT_FREE.min(limit.soft / 4);
            self.descriptors_below = RawFd::try_from(below).unwrap_or(RawFd::MAX);
        }
    }

    /// The addresses really bound (a port given as 0 has become one).
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect()
    }

    /// The table is full: takes one connection and drops it, so that its client learns at once instead of hanging in the backlog.
    fn drop_one(&mut self) -> Accepted<TcpStream> {
        if self.reserve.take().is_none() {
            self.reserve = File::open("/dev/null").ok();
            return Accepted::Later;
        }
        let dropped = self.listeners.iter().any(|listener| listener.socket.accept().is_ok());
        self.reserve = File::open("/dev/null").ok();
        if dropped { Accepted::Dropped } else { Accepted::Later }
    }
}

/// A listener shared by all shards: the kernel spreads new connections over them. Options are set here once; accepted sockets inherit them.
fn listen(address: SocketAddr, listed: &[SocketAddr], settings: &ShardSettings) -> io::Result<TcpListener> {
    let explain = |error: io::Error| crate::listen::explain(&error, address);
    let socket = crate::listen::unbound(address, listed)?;
    socket.set_reuse_port(true)?;
    set_options(&socket, settings)?;
    socket.bind(&address.into()).map_err(explain)?;
    socket.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX)).map_err(explain)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// What accepted sockets inherit.
fn set_options(listener: &Socket, settings: &ShardSettings) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    sys::set_notsent_lowat(listener, settings.notsent_bytes)
        .map_err(|error| io::Error::new(error.kind(), format!("notsent_bytes cannot be had: setsockopt(TCP_NOTSENT_LOWAT): {error}")))
}

impl Network for Sockets {
    type Stream = TcpStream;

    fn accept(&mut self) -> Accepted<TcpStream> {
        for _ in 0..self.listeners.len() {
            let index = self.turn % self.listeners.len();
            let listener = &mut self.listeners[index];
            match listener.socket.accept() {
                Ok((stream, peer)) => {
                    listener.has_taken = true;
                    if stream.as_raw_fd() >= self.descriptors_below {
                        return Accepted::Dropped;
                    }
                    return Accepted::Stream { stream, peer };
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => return self.drop_one(),
                    Some(libc::ENOBUFS | libc::ENOMEM) => return Accepted::Later,
                    // Nothing waits here: the next address. Anything else went away while it waited: the edge stays, come again.
                    _ if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.rotate(&self.registry);
                        self.turn += 1;
                    }
                    _ => return Accepted::Gone,
                },
            }
        }
        Accepted::None
    }

    fn register(&mut self, stream: &mut TcpStream, token: usize) -> io::Result<()> {
        self.registry.register(stream, Token(token), Interest::READABLE | Interest::WRITABLE)
    }

    fn close_listeners(&mut self) {
        for mut listener in self.listeners.drain(..) {
            let _ = listener.unregister(&self.registry);
        }
    }

    fn now_ns(&self) -> MonotonicNs {
        sys::monotonic_ns()
    }

    fn unix_ms(&self) -> u64 {
        sys::unix_ms()
    }
}

impl Stream for TcpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            return match Read::read(self, buffer) {
                Ok(0) => Ok(Received::End),
                // A short read has emptied the socket.
                Ok(count) => Ok(Received::Bytes { count, drained: count < buffer.len() }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Bytes { count: 0, drained: true }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            let result = match slices {
                [one] => Write::write(self, one),
                many => Write::write_vectored(self, many),
            };
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                return result;
            }
        }
    }

    fn shutdown_write(&mut self) {
        let _ = TcpStream::shutdown(self, Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as StdStream;

    use super::*;
    use crate::config::Settings;

    fn option(socket: &impl AsRawFd, name: libc::c_int) -> u32 {
        sys::tcp_option(socket, name).unwrap()
    }

    fn bind(address: &str) -> (mio::Poll, Sockets) {
        let poll = mio::Poll::new().unwrap();
        let settings = ShardSettings { notsent_bytes: 12_345, ..ShardSettings::from(&Settings::default()) };
        let sockets = Sockets::bind(poll.registry().try_clone().unwrap(), &[address.parse().unwrap()], &settings).unwrap();
        (poll, sockets)
    }

    /// Invariant 10: what a stalled socket may pin in the kernel is bounded. No setsockopt is spent on each connection for it.
    #[test]
    fn accepted_sockets_inherit_their_options() {
        let (_poll, mut sockets) = bind("127.0.0.1:0");
        let client = StdStream::connect(sockets.addresses()[0]).unwrap();
        let accepted = loop {
            match sockets.accept() {
                Accepted::Stream { stream, peer } => {
                    assert_eq!(peer, client.local_addr().unwrap());
                    break stream;
                }
                Accepted::None => std::thread::yield_now(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(option(&accepted, libc::TCP_NOTSENT_LOWAT), 12_345);
        assert_eq!(option(&accepted, libc::TCP_NODELAY), 1);
    }

    #[test]
    fn shards_share_a_port_and_a_second_server_is_told() {
        let (_poll, first) = bind("127.0.0.1:0");
        let address = first.addresses()[0];
        let (_other_poll, second) = bind(&address.to_string());
        assert_eq!(second.addresses(), [address]);
        let error = crate::listen::check_unused(&[address]).unwrap_err().to_string();
        assert!(error.contains("the port is in use") && error.contains(&address.to_string()), "{error}");
        drop((first, second));
        crate::listen::check_unused(&[address]).unwrap();
    }
}
