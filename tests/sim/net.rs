//! The simulated network and clock, and a shard wired to them. A socket has as much room as the test gives it and tells of each edge
//! once, as epoll does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use campanile::bus::{BusCommand, BusSender, ConnToken, ShardMessage};
use campanile::config::Settings;
use campanile::metrics::ShardMetrics;
use campanile::shard::inbox::{Inbox, InboxSender, inbox};
use campanile::shard::net::{Accepted, Network, Readiness, Stream};
use campanile::shard::{Parts, Shard, unpack};
use campanile::wire::Format;

/// One socket's two directions.
#[derive(Debug, Default)]
pub struct Pipe {
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
    pub server_shut: bool,
    pub server_gone: bool,
}

#[derive(Debug)]
pub struct Wires {
    pub pipes: Vec<Pipe>,
    /// Connections that have not been accepted.
    pub waiting: VecDeque<usize>,
    pub now_ns: u64,
    pub listening: bool,
    /// The process is short of descriptors for now.
    pub short: bool,
}

impl Wires {
    /// A client that has sent these bytes waits at the door.
    pub fn connect(&mut self, request: &str, room: usize) -> usize {
        let pipe = self.pipes.len();
        self.pipes.push(Pipe { room, to_server: request.bytes().collect(), readable_edge: true, ..Pipe::default() });
        self.waiting.push_back(pipe);
        pipe
    }

    pub fn send(&mut self, pipe: usize, bytes: &[u8]) {
        let pipe = &mut self.pipes[pipe];
        pipe.to_server.extend(bytes);
        pipe.readable_edge = true;
    }

    /// The edges since the last call, each once.
    pub fn edges(&mut self) -> Vec<(ConnToken, Readiness)> {
        let mut edges = Vec::new();
        for pipe in &mut self.pipes {
            let Some(token) = pipe.token.filter(|_| !pipe.server_gone) else { continue };
            let writable = pipe.blocked && pipe.room > 0 || pipe.reset;
            let closed = pipe.client_closed || pipe.reset;
            if pipe.readable_edge || writable || closed {
                edges.push((unpack(token), Readiness { readable: pipe.readable_edge, writable, closed }));
                pipe.readable_edge = false;
                pipe.blocked &= !writable;
            }
        }
        edges
    }
}

/// The wall clock at this time of the monotonic one.
pub fn unix_ms(now_ns: u64) -> u64 {
    1_700_000_000_000 + now_ns / 1_000_000
}

pub fn request(path: &str, format: Format) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: campanile.v1.{}\r\n\r\n",
        format.name()
    )
}

#[derive(Debug, Clone)]
pub struct SimNet(Rc<RefCell<Wires>>);

#[derive(Debug)]
pub struct SimStream {
    wires: Rc<RefCell<Wires>>,
    pipe: usize,
}

impl Network for SimNet {
    type Stream = SimStream;
    fn accept(&mut self) -> Accepted<SimStream> {
        let mut wires = self.0.borrow_mut();
        assert!(wires.listening, "no accept after the listeners are closed");
        if wires.short {
            return Accepted::Later;
        }
        match wires.waiting.pop_front() {
            Some(pipe) if wires.pipes[pipe].reset => Accepted::Gone,
            Some(pipe) => Accepted::Stream(SimStream { wires: self.0.clone(), pipe }),
            None => Accepted::None,
        }
    }
    fn register(&mut self, stream: &mut SimStream, token: usize) -> io::Result<()> {
        let pipe = &mut self.0.borrow_mut().pipes[stream.pipe];
        assert_eq!(pipe.token, None, "registered once for its life");
        (pipe.token, pipe.readable_edge) = (Some(token), true);
        Ok(())
    }
    fn close_listeners(&mut self) {
        self.0.borrow_mut().listening = false;
    }
    fn now_ns(&self) -> u64 {
        self.0.borrow().now_ns
    }
    fn unix_ms(&self) -> u64 {
        unix_ms(self.now_ns())
    }
}

impl Stream for SimStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wires = &mut *self.wires.borrow_mut();
        let pipe = &mut wires.pipes[self.pipe];
        if pipe.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if pipe.to_server.is_empty() {
            return if pipe.client_closed { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        // A read returns what is there up to the buffer: short only when the socket is empty, as on Linux.
        let count = pipe.to_server.len().min(buffer.len());
        for (slot, byte) in buffer.iter_mut().zip(pipe.to_server.drain(..count)) {
            *slot = byte;
        }
        Ok(count)
    }
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let wires = &mut *self.wires.borrow_mut();
        let pipe = &mut wires.pipes[self.pipe];
        assert!(!pipe.server_shut, "nothing is written after the shutdown");
        if pipe.reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(total > 0, "an empty write is a wasted system call");
        let taken = total.min(pipe.room);
        pipe.room -= taken;
        pipe.to_client.extend(slices.iter().flat_map(|slice| slice.iter()).take(taken));
        if taken < total {
            pipe.blocked = true;
        }
        if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }
    fn shutdown_write(&mut self) {
        self.wires.borrow_mut().pipes[self.pipe].server_shut = true;
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.wires.borrow_mut().pipes[self.pipe].server_gone = true;
    }
}

/// A shard on the simulated network, with the other ends of all that it holds.
#[derive(Debug)]
pub struct Rig {
    pub wires: Rc<RefCell<Wires>>,
    pub shard: Shard<SimNet>,
    pub metrics: Arc<ShardMetrics>,
    pub to_shard: InboxSender<ShardMessage>,
    pub from_shard: Inbox<BusCommand>,
    /// What the inboxes' wakers are registered with; nobody sleeps on them.
    pub polls: (mio::Poll, mio::Poll),
}

impl Rig {
    pub fn new(settings: Settings, inbox_messages: usize) -> Rig {
        let wires = Wires { pipes: Vec::new(), waiting: VecDeque::new(), now_ns: 1_000_000_000, listening: true, short: false };
        let wires = Rc::new(RefCell::new(wires));
        let polls = (mio::Poll::new().unwrap(), mio::Poll::new().unwrap());
        let (to_shard, shard_inbox) = inbox(inbox_messages, polls.0.registry(), mio::Token(0)).unwrap();
        let (to_bus, from_shard) = inbox(inbox_messages, polls.1.registry(), mio::Token(0)).unwrap();
        let bus = BusSender::new(to_bus, inbox_messages);
        let metrics = Arc::new(ShardMetrics::default());
        let parts = Parts {
            index: 0,
            settings: Arc::new(settings),
            metrics: metrics.clone(),
            inbox: shard_inbox,
            bus,
            connections: Arc::new(AtomicUsize::new(0)),
            node_id: 1,
        };
        let shard = Shard::new(SimNet(wires.clone()), parts);
        Rig { wires, shard, metrics, to_shard, from_shard, polls }
    }
}
