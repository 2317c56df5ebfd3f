//! The simulated network and clock. A socket has as much room as the test gives it and tells of each edge
//! once, as epoll does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use campanile::bus::ConnToken;
use campanile::shard::net::{Accepted, Network, Readiness, Received, Stream};
use campanile::shard::secured::{Gear, Secured};
use campanile::shard::unpack;
use campanile::wire::Format;
use campanile::wire::http::upgrade::{Upgrade, subprotocol};
use campanile::wire::peer::Peer;
use fastrand::Rng;

use super::tls::{self, Tls};

/// More than any turn has, or the handshakes of a crowd take.
const END_UNREAD_MAX: u32 = 100;

/// One socket's two directions.
#[derive(Debug, Default)]
pub struct Pipe {
    /// Where the client connects from.
    pub peer: Option<SocketAddr>,
    /// A PROXY header comes first.
    pub is_proxied: bool,
    pub token: Option<usize>,
    pub to_server: VecDeque<u8>,
    pub to_client: VecDeque<u8>,
    /// Bytes the socket takes before it blocks.
    pub room: usize,
    /// A write was refused, so room is an edge.
    pub blocked: bool,
    /// Something readable has come since the last edge.
    pub readable_edge: bool,
    pub client_closed: bool,
    pub reset: bool,
    /// The edge of either has been told.
    end_told: bool,
    end_read: bool,
    /// Turns in which it could have been.
    end_unread: u32,
    pub server_shut: bool,
    pub server_gone: bool,
    /// Read off the socket and not given to the shard: no edge tells of it.
    held_in: VecDeque<u8>,
    /// Taken from the shard, and more than the socket had room for.
    held_out: VecDeque<u8>,
    /// What the stream has to say itself. It takes room and means nothing to the client.
    own_out: usize,
    shut_asked: bool,
    /// The client speaks TLS.
    pub tls: Option<Box<Tls>>,
    /// Its host is gone, though there is room: nothing is acknowledged.
    pub is_cut: bool,
    /// When the client's host last took something, for those who ask.
    acknowledged_ns: Option<u64>,
}

impl Pipe {
    fn holds(&self) -> usize {
        self.held_out.len() + self.own_out
    }

    /// Puts what is held into the socket, as far as there is room.
    fn push(&mut self, now_ns: u64) {
        let own = self.own_out.min(self.room);
        self.own_out -= own;
        self.room -= own;
        let count = self.held_out.len().min(self.room);
        self.room -= count;
        match &mut self.tls {
            None => self.to_client.extend(self.held_out.drain(..count)),
            Some(tls) => {
                let bytes: Vec<u8> = self.held_out.drain(..count).collect();
                let before = (self.to_client.len(), self.to_server.len());
                tls.receive(&bytes, self.is_proxied, &mut self.to_client, &mut self.to_server);
                self.readable_edge |= self.to_server.len() > before.1;
                // What lies between takes no room of the client's.
                self.room = (self.room + count).saturating_sub(self.to_client.len() - before.0);
            }
        }
        if own + count > 0 && !self.is_cut {
            self.acknowledged_ns = Some(now_ns);
        }
        self.blocked |= self.holds() > 0;
        self.server_shut = self.shut_asked && self.holds() == 0;
    }
}

#[derive(Debug)]
pub struct Wires {
    pub pipes: Vec<Pipe>,
    /// Connections that have not been accepted.
    pub waiting: VecDeque<usize>,
    pub now_ns: u64,
    /// How far the clock on the wall was set forward (or back) since the start.
    pub wall_steps_ms: i64,
    pub listening: bool,
    /// The process is short of descriptors for now.
    pub short: bool,
    /// Streams that are more than a bare socket (reads that leave bytes behind, writes that are with the kernel later), dealt from here.
    pub tricks: Option<Rng>,
    /// The server can ask when a client's host last took something.
    pub acknowledges: bool,
}

impl Wires {
    /// Nobody has connected yet.
    pub fn new() -> Rc<RefCell<Wires>> {
        Rc::new(RefCell::new(Wires {
            pipes: Vec::new(),
            waiting: VecDeque::new(),
            now_ns: 1_000_000_000,
            wall_steps_ms: 0,
            listening: true,
            short: false,
            tricks: None,
            acknowledges: true,
        }))
    }

    pub fn unix_ms(&self) -> u64 {
        unix_ms(self.now_ns).checked_add_signed(self.wall_steps_ms).expect("not before 1970")
    }

    /// A client that has sent these bytes waits at the door.
    pub fn connect(&mut self, request: &str, room: usize) -> usize {
        self.connect_from(SocketAddr::from(([127, 0, 0, 1], 40_000)), request, room)
    }

    pub fn connect_from(&mut self, peer: SocketAddr, request: &str, room: usize) -> usize {
        let pipe = self.pipes.len();
        let to_server = request.bytes().collect();
        self.pipes.push(Pipe { peer: Some(peer), room, to_server, readable_edge: true, ..Pipe::default() });
        self.waiting.push_back(pipe);
        pipe
    }

    pub fn send(&mut self, pipe: usize, bytes: &[u8]) {
        let pipe = &mut self.pipes[pipe];
        match &mut pipe.tls {
            None => pipe.to_server.extend(bytes),
            Some(tls) => tls.send(bytes, &mut pipe.to_server),
        }
        pipe.readable_edge = true;
    }

    /// Below TLS.
    pub fn send_raw(&mut self, pipe: usize, bytes: &[u8]) {
        let pipe = &mut self.pipes[pipe];
        pipe.to_server.extend(bytes);
        pipe.readable_edge = true;
    }

    /// From here on the client speaks TLS: what it has said so far is said in it.
    pub fn secure(&mut self, pipe: usize) {
        let pipe = &mut self.pipes[pipe];
        let said: Vec<u8> = pipe.to_server.drain(..).collect();
        let mut tls = Tls::new(&mut pipe.to_server);
        tls.send(&said, &mut pipe.to_server);
        pipe.tls = Some(Box::new(tls));
    }

    /// The end of the client's stream comes with what it sent last. It still reads.
    pub fn send_last(&mut self, pipe: usize, bytes: &[u8]) {
        self.send(pipe, bytes);
        self.pipes[pipe].client_closed = true;
    }

    /// The edges since the last call, each once.
    pub fn edges(&mut self) -> Vec<(ConnToken, Readiness)> {
        let mut edges = Vec::new();
        for pipe in &mut self.pipes {
            let Some(token) = pipe.token.filter(|_| !pipe.server_gone) else { continue };
            let closed = pipe.client_closed || pipe.reset;
            let has_come = pipe.to_server.is_empty() && pipe.held_in.is_empty() && !pipe.blocked;
            pipe.end_unread += u32::from(pipe.end_told && !pipe.end_read && !pipe.reset && has_come);
            assert!(pipe.end_unread < END_UNREAD_MAX, "whoever has read all that came reads the end, which has no edge of its own");
            let end_edge = closed && !pipe.end_told;
            let writable = pipe.blocked && pipe.room > 0 || pipe.reset && end_edge;
            if pipe.readable_edge || writable || end_edge {
                edges.push((unpack(token), Readiness { readable: pipe.readable_edge, writable, closed }));
                pipe.readable_edge = false;
                pipe.end_told = closed;
                pipe.blocked &= !writable;
            }
        }
        edges
    }
}

/// The wall clock at this time of the monotonic one, if nobody sets it.
pub fn unix_ms(now_ns: u64) -> u64 {
    1_700_000_000_000 + now_ns / 1_000_000
}

pub fn request(path: &str, format: Format) -> String {
    request_with(path, format, "")
}

/// With these lines in the head.
pub fn request_with(path: &str, format: Format, lines: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {}\r\n{lines}\r\n",
        subprotocol(format)
    )
}

/// As browsers offer it.
pub const DEFLATE_OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// Clients that say so cannot be asked whether they live.
pub fn peer_of(upgrade: &Upgrade<'_>) -> Peer {
    match Peer::of(upgrade) {
        Peer::WebSocket { inbound, deflate, .. } => {
            Peer::WebSocket { inbound, answers_pings: !upgrade.head.target.contains(UNASKED), deflate }
        }
        other => other,
    }
}

/// In a request's query.
pub const UNASKED: &str = "unasked";

#[derive(Debug)]
pub struct SimNet {
    wires: Rc<RefCell<Wires>>,
    gear: Gear,
}

#[derive(Debug)]
pub struct SimStream {
    wires: Rc<RefCell<Wires>>,
    pipe: usize,
}

impl SimNet {
    /// The server's side of them.
    pub fn of(wires: &Rc<RefCell<Wires>>) -> SimNet {
        SimNet { wires: wires.clone(), gear: Gear::new(Some(tls::acceptor()), Arc::default()) }
    }
}

impl Network for SimNet {
    type Stream = Secured<SimStream>;
    fn gear(&self) -> &Gear {
        &self.gear
    }
    fn gear_mut(&mut self) -> &mut Gear {
        &mut self.gear
    }
    fn begin_turn(&mut self, now_ns: u64, handshakes: usize) {
        self.gear.begin_turn(now_ns, handshakes);
    }
    fn places(&self) -> usize {
        self.gear.places()
    }
    fn accept(&mut self) -> Accepted<Secured<SimStream>> {
        let mut wires = self.wires.borrow_mut();
        assert!(wires.listening, "no accept after the listeners are closed");
        if wires.short {
            return Accepted::Later;
        }
        match wires.waiting.pop_front() {
            Some(pipe) if wires.pipes[pipe].reset => Accepted::Gone,
            Some(pipe) => {
                let Pipe { peer, is_proxied, ref tls, .. } = wires.pipes[pipe];
                let stream = SimStream { wires: self.wires.clone(), pipe };
                let stream = if tls.is_some() { Secured::tls(stream, is_proxied) } else { Secured::plain(stream) };
                Accepted::Stream { stream, peer, is_proxied }
            }
            None => Accepted::None,
        }
    }
    fn register(&mut self, stream: &mut Secured<SimStream>, token: usize) -> io::Result<()> {
        let pipe = &mut self.wires.borrow_mut().pipes[stream.socket_mut().pipe];
        assert_eq!(pipe.token, None, "registered once for its life");
        (pipe.token, pipe.readable_edge) = (Some(token), true);
        Ok(())
    }
    fn close_listeners(&mut self) {
        self.wires.borrow_mut().listening = false;
    }
    fn now_ns(&self) -> u64 {
        self.wires.borrow().now_ns
    }
    fn unix_ms(&self) -> u64 {
        self.wires.borrow().unix_ms()
    }
}

impl Stream for SimStream {
    type Gear = ();

    fn read(&mut self, (): &mut (), buffer: &mut [u8], at_most: usize) -> io::Result<Received> {
        let buffer = &mut buffer[..at_most];
        let Wires { pipes, tricks, .. } = &mut *self.wires.borrow_mut();
        let pipe = &mut pipes[self.pipe];
        if pipe.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if pipe.held_in.is_empty() && pipe.to_server.is_empty() {
            pipe.end_read |= pipe.client_closed;
            return Ok(if pipe.client_closed { Received::End } else { Received::Bytes { count: 0, drained: true } });
        }
        let Some(rng) = tricks else {
            // A read returns what is there up to the buffer: short only when the socket is empty, as on Linux.
            let count = take(&mut pipe.to_server, buffer, usize::MAX);
            return Ok(Received::Bytes { count, drained: count < buffer.len() });
        };
        if pipe.held_in.is_empty() {
            let count = rng.usize(0..=pipe.to_server.len());
            pipe.held_in.extend(pipe.to_server.drain(..count));
            // As TLS does, which answers a change of keys.
            pipe.own_out += if rng.u8(..20) == 0 { 5 } else { 0 };
        }
        let most = if rng.bool() { usize::MAX } else { rng.usize(0..4) };
        let count = take(&mut pipe.held_in, buffer, most);
        Ok(Received::Bytes { count, drained: pipe.to_server.is_empty() })
    }

    fn has_pending(&self, (): &()) -> bool {
        !self.wires.borrow().pipes[self.pipe].held_in.is_empty()
    }

    fn write(&mut self, (): &mut (), slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Wires { pipes, tricks, now_ns, .. } = &mut *self.wires.borrow_mut();
        let pipe = &mut pipes[self.pipe];
        assert!(!pipe.shut_asked, "nothing is written after the shutdown");
        assert_eq!(pipe.holds(), 0, "nothing is written before what was taken is with the kernel");
        if pipe.reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(total > 0, "an empty write is a wasted system call");
        // A stream that writes whole records takes the rest of the last one.
        let beyond = tricks.as_mut().map_or(0, |rng| rng.usize(0..200));
        let taken = if pipe.room == 0 { 0 } else { total.min(pipe.room.saturating_add(beyond)) };
        pipe.held_out.extend(slices.iter().flat_map(|slice| slice.iter()).take(taken));
        pipe.push(*now_ns);
        pipe.blocked |= taken < total;
        if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn wants_write(&self, (): &()) -> bool {
        self.wires.borrow().pipes[self.pipe].holds() > 0
    }

    fn flush(&mut self, (): &mut ()) -> io::Result<()> {
        let Wires { pipes, now_ns, .. } = &mut *self.wires.borrow_mut();
        let pipe = &mut pipes[self.pipe];
        if pipe.reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        pipe.push(*now_ns);
        Ok(())
    }

    fn shutdown_write(&mut self, (): &mut ()) {
        let Wires { pipes, tricks, now_ns, .. } = &mut *self.wires.borrow_mut();
        let pipe = &mut pipes[self.pipe];
        pipe.shut_asked = true;
        pipe.own_out += if tricks.is_some() { 24 } else { 0 };
        pipe.push(*now_ns);
    }

    fn acknowledged_ago(&self) -> Option<Duration> {
        let wires = self.wires.borrow();
        wires.acknowledges.then(|| wires.pipes[self.pipe].acknowledged_ns).flatten().map(|at| Duration::from_nanos(wires.now_ns - at))
    }

    fn buffer_bytes(&self, (): &()) -> usize {
        let pipe = &self.wires.borrow().pipes[self.pipe];
        pipe.holds() + pipe.held_in.len()
    }
}

/// Moves bytes into the buffer, `most` at most; how many.
fn take(from: &mut VecDeque<u8>, buffer: &mut [u8], most: usize) -> usize {
    let count = from.len().min(buffer.len()).min(most);
    for (slot, byte) in buffer.iter_mut().zip(from.drain(..count)) {
        *slot = byte;
    }
    count
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.wires.borrow_mut().pipes[self.pipe].server_gone = true;
    }
}
