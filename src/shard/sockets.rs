//! The real network of a shard: mio sockets, SO_REUSEPORT listeners, the monotonic clock.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::Socket;

use super::net::{Accepted, Network, Received, Stream};
use super::secured::{Gear, Secured};
use super::settings::ShardSettings;
use crate::clock::MonotonicNs;
use crate::listen::{Address, Listener};
use crate::tls::acceptor::Acceptor;
use crate::{limits, sys};

/// The shard's listener number `i` has the token `LISTENER_TOKEN - i`.
pub const LISTENER_TOKEN: usize = usize::MAX - 1;

#[derive(Debug)]
pub struct Sockets {
    registry: Registry,
    open: Vec<Open>,
    /// Where the next accept looks first, so that no address starves another.
    turn: usize,
    /// A descriptor kept free: given up for a moment, it lets a connection be taken and dropped when the table is full.
    reserve: Option<File>,
    /// Clients get descriptors below this alone. The kernel hands out the lowest free number, so whoever would get a higher one came when the table
    /// was all but full.
    descriptors_below: RawFd,
    gear: Gear,
}

/// A listener that this shard accepts from.
#[derive(Debug)]
struct Open {
    listener: Listener,
    socket: Door,
    token: Token,
    /// Other shards accept from the same socket.
    is_shared: bool,
    /// A connection was taken from it since this shard last went to the end of the queue of those who share it.
    has_taken: bool,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    /// A connection, and who connects.
    ///
    /// A unix socket is a `TcpStream` from here on: a descriptor that is read, written and shut by calls that are the same for both, so that nothing on
    /// the way of a message has to ask which it is. What is TCP's alone is never asked of an accepted socket.
    fn accept(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        match self {
            Door::Tcp(socket) => socket.accept().map(|(stream, peer)| (stream, Some(peer))),
            Door::Unix(socket) => {
                let (stream, _) = socket.accept()?;
                Ok((TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(stream))), None))
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Door::Tcp(socket) => socket,
            Door::Unix(socket) => socket,
        }
    }
}

impl AsRawFd for Door {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Door::Tcp(socket) => socket.as_raw_fd(),
            Door::Unix(socket) => socket.as_raw_fd(),
        }
    }
}

impl Open {
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
        if self.is_shared {
            registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()))
        } else {
            registry.deregister(self.socket.source())
        }
    }
}

impl Sockets {
    /// Without a listener yet. `gear`: what its TLS connections have in common.
    pub fn new(registry: Registry, gear: Gear) -> Sockets {
        Sockets { registry, open: Vec::new(), turn: 0, reserve: File::open("/dev/null").ok(), descriptors_below: RawFd::MAX, gear }
    }

    /// Opens a listener on the calling thread, in its descriptor table. Other shards open the same: the kernel spreads new connections over them.
    pub fn bind(&mut self, listener: Listener, settings: &ShardSettings) -> io::Result<()> {
        let explain = |error: io::Error| listener.explain(&error);
        let (socket, address) = listener.unbound()?;
        socket.set_reuse_port(true)?;
        set_options(&socket, settings)?;
        socket.bind(&address.into()).map_err(explain)?;
        socket.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX)).map_err(explain)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address).into();
        self.watch(Listener { address, ..listener }, socket, false)
    }

    /// Takes a listener that somebody else has opened. `is_shared`: other shards accept from it too.
    pub fn take(&mut self, listener: Listener, socket: OwnedFd, is_shared: bool, settings: &ShardSettings) -> io::Result<()> {
        let socket = Socket::from(socket);
        if listener.address.ip().is_some() {
            set_options(&socket, settings)?;
        }
        self.watch(listener, socket, is_shared)
    }

    fn watch(&mut self, listener: Listener, socket: Socket, is_shared: bool) -> io::Result<()> {
        let mut socket = match listener.address {
            Address::Ip(_) => Door::Tcp(TcpListener::from_std(socket.into())),
            Address::Unix(_) => Door::Unix(UnixListener::from_std(socket.into())),
        };
        let token = Token(LISTENER_TOKEN - self.open.len());
        if is_shared {
            sys::epoll_add_exclusive(&self.registry, &socket, token.0)?;
        } else {
            self.registry.register(socket.source(), token, Interest::READABLE)?;
        }
        self.open.push(Open { listener, socket, token, is_shared, has_taken: false });
        Ok(())
    }

    /// In a table that others use too, keeps some descriptors of it for them: the control port must answer and the bus come back to Redis
    /// however many clients there are.
    pub fn leave_some_free(&mut self) {
        if let Ok(limit) = sys::raise_descriptor_limit() {
            let below = limit.soft - limits::DESCRIPTORS_KEPT_FREE.min(limit.soft / 4);
            self.descriptors_below = RawFd::try_from(below).unwrap_or(RawFd::MAX);
        }
    }

    /// What is accepted from, with the ports really bound.
    pub fn listeners(&self) -> Vec<Listener> {
        self.open.iter().map(|open| open.listener.clone()).collect()
    }

    /// The table is full: takes one connection and drops it, so that its client learns at once instead of hanging in the backlog.
    fn drop_one(&mut self) -> Accepted<Secured<TcpStream>> {
        if self.reserve.take().is_none() {
            self.reserve = File::open("/dev/null").ok();
            return Accepted::Later;
        }
        let dropped = self.open.iter().any(|open| open.socket.accept().is_ok());
        self.reserve = File::open("/dev/null").ok();
        if dropped { Accepted::Dropped } else { Accepted::Later }
    }
}

/// What accepted sockets inherit.
fn set_options(listener: &Socket, settings: &ShardSettings) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    sys::set_notsent_lowat(listener, settings.notsent_bytes)
        .map_err(|error| io::Error::new(error.kind(), format!("notsent_bytes cannot be had: setsockopt(TCP_NOTSENT_LOWAT): {error}")))
}

impl Network for Sockets {
    type Stream = Secured<TcpStream>;

    fn gear(&self) -> &Gear {
        &self.gear
    }

    fn gear_mut(&mut self) -> &mut Gear {
        &mut self.gear
    }

    fn begin_turn(&mut self, now_ns: u64, handshakes: usize) {
        self.gear.begin_turn(now_ns, handshakes);
    }

    fn is_shaking(&self) -> bool {
        self.gear.is_shaking()
    }

    fn places(&self) -> usize {
        self.gear.places()
    }

    fn set_acceptor(&mut self, acceptor: Option<Arc<Acceptor>>) {
        self.gear.set_acceptor(acceptor);
    }

    fn accept(&mut self) -> Accepted<Secured<TcpStream>> {
        for _ in 0..self.open.len() {
            let index = self.turn % self.open.len();
            let open = &mut self.open[index];
            match open.socket.accept() {
                Ok((stream, peer)) => {
                    open.has_taken = true;
                    if stream.as_raw_fd() >= self.descriptors_below {
                        return Accepted::Dropped;
                    }
                    let Listener { is_tls, is_proxied, .. } = open.listener;
                    let stream = if is_tls { Secured::tls(stream, is_proxied) } else { Secured::plain(stream) };
                    return Accepted::Stream { stream, peer, is_proxied };
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => return self.drop_one(),
                    Some(libc::ENOBUFS | libc::ENOMEM) => return Accepted::Later,
                    // Nothing waits here: the next address. Anything else went away while it waited: the edge stays, come again.
                    _ if error.kind() == io::ErrorKind::WouldBlock => {
                        open.rotate(&self.registry);
                        self.turn += 1;
                    }
                    _ => return Accepted::Gone,
                },
            }
        }
        Accepted::None
    }

    fn register(&mut self, stream: &mut Secured<TcpStream>, token: usize) -> io::Result<()> {
        self.registry.register(stream.socket_mut(), Token(token), Interest::READABLE | Interest::WRITABLE)
    }

    fn close_listeners(&mut self) {
        for mut open in self.open.drain(..) {
            let _ = open.unregister(&self.registry);
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
    type Gear = ();

    fn read(&mut self, (): &mut (), buffer: &mut [u8], at_most: usize) -> io::Result<Received> {
        let buffer = &mut buffer[..at_most];
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

    fn write(&mut self, (): &mut (), slices: &[IoSlice<'_>]) -> io::Result<usize> {
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

    fn acknowledged_ago(&self) -> Option<Duration> {
        sys::acknowledged_ago(self).ok()
    }

    fn shutdown_write(&mut self, (): &mut ()) {
        let _ = TcpStream::shutdown(self, Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as StdStream;

    use super::*;
    use crate::config::Settings;
    use crate::listen::unix::UnixPath;

    fn option(socket: &impl AsRawFd, name: libc::c_int) -> u32 {
        sys::tcp_option(socket, name).unwrap()
    }

    fn bind(address: &str) -> (mio::Poll, Sockets) {
        let poll = mio::Poll::new().unwrap();
        let settings = ShardSettings { notsent_bytes: 12_345, ..ShardSettings::from(&Settings::default()) };
        let mut sockets = Sockets::new(poll.registry().try_clone().unwrap(), Gear::new(None, Arc::default()));
        sockets.bind(Listener::new(address.parse().unwrap()), &settings).unwrap();
        (poll, sockets)
    }

    /// Invariant 10: what a stalled socket may pin in the kernel is bounded. No setsockopt is spent on each connection for it.
    #[test]
    fn accepted_sockets_inherit_their_options() {
        let (_poll, mut sockets) = bind("127.0.0.1:0");
        let client = StdStream::connect(sockets.listeners()[0].address.ip().unwrap()).unwrap();
        let mut accepted = loop {
            match sockets.accept() {
                Accepted::Stream { stream, peer, is_proxied } => {
                    assert_eq!((peer, is_proxied), (client.local_addr().ok(), false));
                    break stream;
                }
                Accepted::None => std::thread::yield_now(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(option(accepted.socket_mut(), libc::TCP_NOTSENT_LOWAT), 12_345);
        assert_eq!(option(accepted.socket_mut(), libc::TCP_NODELAY), 1);
    }

    /// What a shard relies on of a stream holds for a unix socket under the name of a TCP one.
    #[test]
    fn a_unix_socket_is_a_stream_like_any_other() {
        let path = std::env::temp_dir().join(format!("campanile-sockets-{}", std::process::id()));
        let (socket, _file) = UnixPath::new(&path).listen(8).unwrap();
        let mut poll = mio::Poll::new().unwrap();
        let mut sockets = Sockets::new(poll.registry().try_clone().unwrap(), Gear::new(None, Arc::default()));
        let listener = Listener { is_proxied: true, ..Listener::unix(UnixPath::new(&path)) };
        sockets.take(listener, socket.into(), true, &ShardSettings::from(&Settings::default())).unwrap();
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let Accepted::Stream { mut stream, peer: None, is_proxied: true } = sockets.accept() else { panic!("one waits") };
        assert!(matches!(sockets.accept(), Accepted::None));
        sockets.register(&mut stream, 7).unwrap();
        client.write_all(b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(
            super::Stream::read(&mut stream, sockets.gear_mut(), &mut buffer, 16).unwrap(),
            Received::Bytes { count: 5, drained: true }
        );
        assert_eq!(
            super::Stream::read(&mut stream, sockets.gear_mut(), &mut buffer, 16).unwrap(),
            Received::Bytes { count: 0, drained: true }
        );
        // It takes what it can, then blocks, and an edge tells when there is room again.
        let full = vec![b'x'; 1 << 22];
        let taken = super::Stream::write(&mut stream, sockets.gear_mut(), &[IoSlice::new(&full), IoSlice::new(b"more")]).unwrap();
        assert!(taken < full.len());
        assert_eq!(
            super::Stream::write(&mut stream, sockets.gear_mut(), &[IoSlice::new(b"x")]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let mut events = mio::Events::with_capacity(8);
        poll.poll(&mut events, Some(std::time::Duration::ZERO)).unwrap();
        client.read_exact(&mut vec![0; taken]).unwrap();
        poll.poll(&mut events, Some(std::time::Duration::from_secs(10))).unwrap();
        assert!(events.iter().any(|event| event.token() == Token(7) && event.is_writable()));
        stream.shutdown_write(sockets.gear_mut());
        assert_eq!(client.read(&mut buffer).unwrap(), 0);
        drop(client);
        assert_eq!(super::Stream::read(&mut stream, sockets.gear_mut(), &mut buffer, 16).unwrap(), Received::End);
    }

    #[test]
    fn shards_share_a_port_and_a_second_server_is_told() {
        let (_poll, first) = bind("127.0.0.1:0");
        let listeners = first.listeners();
        let address = listeners[0].to_string();
        let (_other_poll, second) = bind(&address);
        assert_eq!(second.listeners(), listeners);
        let error = crate::listen::check_unused(&listeners).unwrap_err().to_string();
        assert!(error.contains("the port is in use") && error.contains(&address), "{error}");
        drop((first, second));
        crate::listen::check_unused(&listeners).unwrap();
    }
}
