//! One thread of clients: connects them, reads what comes, checks it, answers pings.
//!
//! Started by [`super::crowd`]. The thread has a descriptor table of its own, so the limit on descriptors counts for each worker, and owns its
//! clients alone; the main thread sends it commands and reads its counters. Invariant: edge-triggered readiness is always read to its
//! end, but for clients that are slow on purpose.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use campanile::shard::inbox::Inbox;
use campanile::sys;
use campanile::wire::frame::{Opcode, parse_server_header};
use crossbeam_channel::Sender;
use mio::event::Event as Readiness;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::client::{Client, Phase, Reading, UNKNOWN, Verdict};
use super::events::{self, Event};
use super::stamp::Stamp;
use super::tally::{Live, Tally};
use super::target::{self, Ready, Target};

/// The token of the command inbox; clients have their number within the worker.
pub const INBOX: Token = Token(usize::MAX);
const EVENTS_PER_WAIT: usize = 1024;
/// What one read may bring. Large, so that a burst costs few reads.
const READ_BYTES: usize = 256 * 1024;
/// An answer to the upgrade longer than this is no answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a connection that failed waits before it is tried again.
const RETRY_US: u32 = 50_000;
/// So many failures of one client mean that it will not come through.
const TRIES_MAX: u32 = 100;

/// What all workers of a crowd have in common.
#[derive(Debug)]
pub struct Plan {
    pub target: Target,
    /// Connections that may be under way at once, per worker.
    pub window: usize,
    /// Connections begun per second and worker; 0: as the window allows.
    pub connects_per_second: f64,
    /// Source addresses on the loopback network, or empty: the kernel chooses.
    pub sources: Vec<Ipv4Addr>,
    /// Messages handed to the bus so far, per channel.
    pub published: Arc<[AtomicU64]>,
    /// Keep each client's position, to resume from it.
    pub keeps_positions: bool,
    /// SO_RCVBUF of slow clients, once they are slow.
    pub slow_receive_bytes: usize,
    pub slow_read_bytes: usize,
    pub slow_pause: Duration,
    /// Payload of messages that clients send (echo).
    pub echo_bytes: usize,
}

/// What the main thread wants done.
#[derive(Debug)]
pub enum Command {
    /// Hand over what was counted since the last time. With `check_tail`, what was published and has not come counts as missing.
    Collect {
        check_tail: bool,
        reply: Sender<Tally>,
    },
    /// Clients that are slow begin to be slow.
    SlowDown,
    /// They read everything that waits for them, to learn what became of their connections.
    CatchUp,
    /// Drop every connection at once and connect again, resuming.
    Storm,
    /// Drop and replace this many connections per second; 0 ends it.
    Churn {
        per_second: f64,
    },
    /// Send this many messages per second, from all clients in turn; 0 ends it.
    Echo {
        per_second: f64,
    },
    /// Look for messages without ever sleeping, or sleep again.
    Spin(bool),
    Stop,
}

#[derive(Debug)]
pub struct Worker {
    poll: Poll,
    inbox: Inbox<Command>,
    plan: Arc<Plan>,
    live: Arc<Live>,
    clients: Vec<Client>,
    /// Number of the first client within the crowd.
    base: u32,
    tally: Tally,
    /// Slow clients begin to be slow with a command.
    is_slow_now: bool,
    /// They have been slow, and read as they can now; what they get is still counted apart.
    is_catching_up: bool,
    /// Clients below this have been started once.
    begun: usize,
    /// Clients to start again: when, and which.
    again: VecDeque<(u32, u32)>,
    epochs: HashMap<u32, u64>,
    churn: Ticker,
    churn_turn: usize,
    echo: Ticker,
    echo_turn: usize,
    slow_reads: Ticker,
    start_ns: u64,
    buffer: Vec<u8>,
    hint: usize,
    spinning: bool,
    stopping: bool,
}

/// Something that happens at a rate.
#[derive(Debug, Default)]
struct Ticker {
    per_second: f64,
    begin_ns: u64,
    done: u64,
}

impl Ticker {
    fn new(per_second: f64) -> Ticker {
        Ticker { per_second, begin_ns: sys::monotonic_ns(), done: 0 }
    }

    /// When the next one is due.
    fn next_ns(&self) -> Option<u64> {
        (self.per_second > 0.0).then(|| self.begin_ns + (self.done as f64 * 1e9 / self.per_second) as u64)
    }

    /// Takes the next one if it is due, and tells when it was.
    fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_ns().filter(|due| *due <= now_ns)?;
        self.done += 1;
        Some(due)
    }
}

/// A client's connection is over.
enum End {
    /// The server closed it, with this code (1005: none given, 1006: no close frame).
    Closed(u16),
    Lost(io::Error),
    Refused(String),
    BadFrame(String),
}

impl Worker {
    pub fn new(poll: Poll, inbox: Inbox<Command>, plan: Arc<Plan>, live: Arc<Live>, clients: Vec<Client>, base: u32) -> Worker {
        Worker {
            poll,
            inbox,
            plan,
            live,
            clients,
            base,
            tally: Tally::default(),
            is_slow_now: false,
            is_catching_up: false,
            begun: 0,
            again: VecDeque::new(),
            epochs: HashMap::new(),
            churn: Ticker::default(),
            churn_turn: 0,
            echo: Ticker::default(),
            echo_turn: 0,
            slow_reads: Ticker::default(),
            start_ns: sys::monotonic_ns(),
            buffer: vec![0; READ_BYTES],
            hint: 0,
            spinning: false,
            stopping: false,
        }
    }

    /// The thread's body.
    pub fn run(mut self, core: Option<usize>) {
        if let Err(error) = sys::unshare_descriptors(&[self.poll.as_raw_fd(), self.inbox.wake_fd()], &[]) {
            self.tally.sample(|| format!("a worker has no descriptor table of its own ({error}); all share one limit"));
        }
        if let Some(id) = core {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        self.start_ns = sys::monotonic_ns();
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        while !self.stopping {
            self.connect();
            self.wait(&mut events);
            for event in &events {
                if event.token() != INBOX {
                    self.on_ready(event);
                }
            }
            while let Some(command) = self.inbox.try_recv() {
                self.obey(command);
            }
            self.tick();
            self.live.store(&self.tally.counts);
        }
    }

    fn now_us(&self) -> u32 {
        ((sys::monotonic_ns() - self.start_ns) / 1000) as u32
    }

    fn wait(&mut self, events: &mut Events) {
        let now_ns = sys::monotonic_ns();
        let mut until_ns = now_ns + 100_000_000;
        if self.is_connecting_due() {
            until_ns = self.next_connect_ns();
        }
        for ticker in [&self.churn, &self.echo, &self.slow_reads] {
            until_ns = until_ns.min(ticker.next_ns().unwrap_or(u64::MAX));
        }
        let mut wait_ns = until_ns.saturating_sub(now_ns);
        if self.spinning || wait_ns > 0 && !self.inbox.prepare_sleep() {
            wait_ns = 0;
        }
        // epoll counts milliseconds here, and rounds up.
        match self.poll.poll(events, Some(Duration::from_nanos(wait_ns))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            Err(error) => panic!("epoll_wait failed on an epoll of our own: {error}"),
        }
        self.inbox.awake();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Collect { check_tail, reply } => {
                if check_tail {
                    self.check_tails();
                }
                let mut counts = self.tally.counts;
                let tally = std::mem::take(&mut self.tally);
                // What counts connections as they are now goes on counting; so does what the main thread takes differences of.
                std::mem::swap(&mut self.tally.counts, &mut counts);
                let _ = reply.send(tally);
            }
            Command::SlowDown => self.slow_down(),
            Command::CatchUp => self.catch_up(),
            Command::Storm => self.storm(),
            Command::Churn { per_second } => self.churn = Ticker::new(per_second),
            Command::Echo { per_second } => self.echo = Ticker::new(per_second),
            Command::Spin(spinning) => self.spinning = spinning,
            Command::Stop => self.stopping = true,
        }
    }

    // --- connecting ---

    fn is_connecting_due(&self) -> bool {
        (self.begun < self.clients.len() || !self.again.is_empty()) && (self.tally.counts.connecting as usize) < self.plan.window
    }

    fn next_connect_ns(&self) -> u64 {
        let first = if self.begun < self.clients.len() { self.paced_ns() } else { u64::MAX };
        let again = self.again.front().map_or(u64::MAX, |(due_us, _)| self.start_ns + u64::from(*due_us) * 1000);
        first.min(again)
    }

    /// When the next new client is due by the rate.
    fn paced_ns(&self) -> u64 {
        match self.plan.connects_per_second {
            0.0 => 0,
            rate => self.start_ns + (self.begun as f64 * 1e9 / rate) as u64,
        }
    }

    fn connect(&mut self) {
        while (self.tally.counts.connecting as usize) < self.plan.window {
            let now_ns = sys::monotonic_ns();
            let now_us = self.now_us();
            if self.again.front().is_some_and(|(due_us, _)| *due_us <= now_us) {
                let (due_us, index) = self.again.pop_front().expect("looked at");
                self.launch(index as usize, due_us);
            } else if self.begun < self.clients.len() && self.paced_ns() <= now_ns {
                let due_us = if self.plan.connects_per_second > 0.0 { ((self.paced_ns() - self.start_ns) / 1000) as u32 } else { now_us };
                self.begun += 1;
                self.launch(self.begun - 1, due_us);
            } else {
                break;
            }
        }
    }

    fn launch(&mut self, index: usize, due_us: u32) {
        if self.clients[index].phase == Phase::Ended {
            return;
        }
        self.clients[index].due_us = due_us;
        match self.dial(index) {
            Ok(stream) => {
                self.clients[index].stream = Some(stream);
                self.clients[index].phase = Phase::Connecting;
                self.tally.counts.connecting += 1;
            }
            Err(error) => self.try_again(index, &error.to_string()),
        }
    }

    fn dial(&self, index: usize) -> io::Result<TcpStream> {
        let address = self.plan.target.address;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if !self.plan.sources.is_empty() {
            let source = self.plan.sources[(self.base as usize + index) % self.plan.sources.len()];
            sys::set_bind_address_no_port(&socket)?;
            socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    fn try_again(&mut self, index: usize, why: &str) {
        let due_us = self.now_us() + RETRY_US;
        let client = &mut self.clients[index];
        client.phase = Phase::Idle;
        client.tries += 1;
        self.tally.counts.retries += 1;
        if client.tries >= TRIES_MAX {
            client.phase = Phase::Ended;
            self.tally.counts.ended += 1;
            self.tally.sample(|| format!("cannot connect: {why}"));
        } else {
            // Keep the time at which it was due: waiting is part of connecting.
            self.again.push_back((due_us, index as u32));
        }
    }

    // --- readiness ---

    fn on_ready(&mut self, event: &Readiness) {
        let index = event.token().0;
        let client = &mut self.clients[index];
        let is_over = event.is_read_closed() || event.is_error();
        let result = match client.phase {
            Phase::Idle | Phase::Ended => return,
            Phase::Connecting => {
                if !event.is_writable() && !is_over {
                    return;
                }
                self.say_hello(index).and_then(|()| if event.is_readable() || is_over { self.read(index, is_over) } else { Ok(()) })
            }
            Phase::Ready if self.is_slow_now && !self.is_catching_up && client.reading != Reading::Normal => {
                if event.is_error() || event.is_write_closed() { Err(End::Closed(1006)) } else { Ok(()) }
            }
            Phase::Head | Phase::Subscribing | Phase::Ready => {
                if event.is_writable() && client.spill.is_some() {
                    self.send(index, &[]);
                }
                if event.is_readable() || is_over { self.read(index, is_over) } else { Ok(()) }
            }
        };
        if let Err(end) = result {
            self.end(index, end);
        }
    }

    fn say_hello(&mut self, index: usize) -> Result<(), End> {
        let client = &mut self.clients[index];
        let stream = client.stream.as_mut().expect("it is connecting");
        if let Some(error) = stream.take_error().ok().flatten() {
            return Err(End::Lost(error));
        }
        let request = self.plan.target.request(self.base + index as u32, client.channel, client.resumes);
        match stream.write(request.as_bytes()) {
            Ok(count) if count == request.len() => {}
            Ok(_) => return Err(End::Lost(io::Error::other("the request was not taken in one piece"))),
            Err(error) => return Err(End::Lost(error)),
        }
        client.phase = Phase::Head;
        Ok(())
    }

    /// Reads until nothing is left and takes what came.
    fn read(&mut self, index: usize, is_over: bool) -> Result<(), End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            match self.read_once(index, &mut buffer, usize::MAX) {
                // Not filled: nothing is left, and what comes now is a new edge. Unless the end was announced with it.
                Ok(ReadOnce::Drained) if !is_over => break Ok(()),
                Ok(ReadOnce::Drained | ReadOnce::Filled) => {}
                Ok(ReadOnce::Blocked) => break Ok(()),
                Err(end) => break Err(end),
            }
            if self.is_slow_now && !self.is_catching_up && self.clients[index].reading != Reading::Normal {
                break Ok(());
            }
        };
        self.buffer = buffer;
        result
    }

    fn read_once(&mut self, index: usize, buffer: &mut Vec<u8>, bytes_max: usize) -> Result<ReadOnce, End> {
        let client = &mut self.clients[index];
        // What the last read left comes first.
        let kept = match &mut client.spill {
            Some(spill) if !spill.incoming.is_empty() => {
                let length = spill.incoming.len();
                if buffer.len() < length + READ_BYTES / 2 {
                    buffer.resize(length * 2 + READ_BYTES, 0);
                }
                buffer[..length].copy_from_slice(&spill.incoming);
                length
            }
            _ => 0,
        };
        let end = buffer.len().min(kept.saturating_add(bytes_max));
        let stream = client.stream.as_mut().expect("a client that is connected has a stream");
        let count = match stream.read(&mut buffer[kept..end]) {
            Ok(0) => return Err(End::Closed(1006)),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(ReadOnce::Blocked),
            Err(error) => return Err(End::Lost(error)),
        };
        self.tally.counts.reads += 1;
        self.tally.counts.bytes += count as u64;
        if let Some(spill) = &mut client.spill {
            spill.incoming.clear();
        }
        let filled = if kept + count == end { ReadOnce::Filled } else { ReadOnce::Drained };
        let taken = self.take(index, &buffer[..kept + count], sys::monotonic_ns())?;
        let client = &mut self.clients[index];
        if taken < kept + count {
            client.spill().incoming.extend_from_slice(&buffer[taken..kept + count]);
        }
        client.drop_empty_spill();
        Ok(filled)
    }

    /// Takes what is complete and says how much that was.
    fn take(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> Result<usize, End> {
        let mut taken = 0;
        if self.clients[index].phase == Phase::Head {
            let Some(length) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
                return if bytes.len() > HEAD_BYTES_MAX { Err(End::Refused("an endless answer".to_owned())) } else { Ok(0) };
            };
            let head = &bytes[..length];
            let accepted =
                head.starts_with(b"HTTP/1.1 101 ") && head.windows(target::ACCEPT.len()).any(|window| window == target::ACCEPT.as_bytes());
            if !accepted {
                return Err(End::Refused(summary(bytes)));
            }
            taken = length;
            self.upgraded(index)?;
        }
        loop {
            let rest = &bytes[taken..];
            let header = match parse_server_header(rest) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(taken),
                Err(error) => return Err(End::BadFrame(error.to_string())),
            };
            let header_len = header.header_len as usize;
            let Some(payload) = usize::try_from(header.payload_len).ok().and_then(|length| rest[header_len..].get(..length)) else {
                return Ok(taken);
            };
            taken += header_len + payload.len();
            match header.opcode {
                Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                    self.message(index, header.opcode == Opcode::Text, payload, now_ns)?;
                }
                Opcode::Ping => {
                    self.tally.counts.pings += 1;
                    self.send(index, &target::frame(Opcode::Pong, payload));
                }
                Opcode::Pong => {}
                Opcode::Close => {
                    let code = payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                    return Err(End::Closed(code));
                }
            }
        }
    }

    fn upgraded(&mut self, index: usize) -> Result<(), End> {
        let plan = self.plan.clone();
        let client = &mut self.clients[index];
        client.phase = Phase::Subscribing;
        let (channel, position) = (client.channel, client.position);
        if client.resumes {
            let epoch = self.epochs.get(&channel).copied().unwrap_or_default();
            self.send(index, &plan.target.resume_frame(channel, epoch, position));
            return Ok(());
        }
        if let Some(frame) = plan.target.first_frame(self.base + index as u32, channel) {
            self.send(index, &frame);
        }
        if plan.target.ready == Ready::Upgrade {
            self.is_ready(index);
        }
        Ok(())
    }

    fn is_ready(&mut self, index: usize) {
        let now_us = self.now_us();
        let client = &mut self.clients[index];
        if client.phase == Phase::Ready {
            return;
        }
        client.phase = Phase::Ready;
        client.tries = 0;
        if !client.resumes {
            client.expect_from(self.plan.published[client.channel as usize].load(Relaxed));
        }
        self.tally.counts.connecting -= 1;
        self.tally.counts.ready += 1;
        self.tally.counts.connected += 1;
        self.tally.connect_us.saturating_record(u64::from(now_us.saturating_sub(client.due_us)));
    }

    #[inline]
    fn message(&mut self, index: usize, is_text: bool, payload: &[u8], now_ns: u64) -> Result<(), End> {
        let Some((stamp, at)) = Stamp::find(payload, &mut self.hint) else {
            self.event(index, is_text, payload);
            return Ok(());
        };
        let client = &mut self.clients[index];
        let counts = &mut self.tally.counts;
        if stamp.channel != client.channel {
            counts.misrouted += 1;
            return Ok(());
        }
        if self.plan.keeps_positions
            && let Some(seq) = events::seq_before(is_text, &payload[..at])
        {
            client.position = seq;
        }
        let is_slow = self.is_slow_now && client.reading != Reading::Normal;
        if is_slow {
            counts.slow_messages += 1;
        } else {
            counts.messages += 1;
            self.tally.latency_us.saturating_record(now_ns.saturating_sub(stamp.intended_ns) / 1000);
        }
        let expected = client.next;
        match client.take(stamp.seq) {
            Verdict::InOrder => {}
            Verdict::Hole { lost, announced } => {
                counts.lost += lost;
                counts.announced += announced;
                if lost > 0 {
                    let (client, channel) = (self.base + index as u32, stamp.channel);
                    self.tally.sample(|| format!("client {client}, channel {channel}: expected {expected}, got {}", stamp.seq));
                }
            }
            Verdict::Late => {
                counts.lost = counts.lost.saturating_sub(1);
                counts.reordered += 1;
                self.tally.sample(|| format!("channel {}: {} came after {}", stamp.channel, stamp.seq, expected - 1));
            }
            Verdict::Duplicate => {
                counts.duplicates += 1;
                self.tally.sample(|| format!("channel {}: {} came twice", stamp.channel, stamp.seq));
            }
        }
        Ok(())
    }

    fn event(&mut self, index: usize, is_text: bool, payload: &[u8]) {
        let plan = self.plan.clone();
        let client = &mut self.clients[index];
        let is_awaited = client.phase == Phase::Subscribing;
        if let Ready::Message(sign) = &plan.target.ready {
            if is_awaited && payload.windows(sign.len()).any(|window| window == sign) {
                self.is_ready(index);
            } else if !is_awaited {
                self.tally.counts.foreign += 1;
            }
            return;
        }
        match events::read(is_text, payload) {
            Event::Subscribed { epoch, seq, recovered } if is_awaited => {
                if client.resumes && !recovered {
                    self.tally.counts.unrecovered += 1;
                    // It is said that something may be missing, though not what.
                    client.announce(UNKNOWN);
                }
                client.position = seq;
                self.epochs.insert(client.channel, epoch);
                self.is_ready(index);
            }
            Event::Gap { count, is_outage } => {
                self.tally.counts.gaps += 1;
                client.announce(if is_outage { UNKNOWN } else { u32::try_from(count).unwrap_or(UNKNOWN) });
            }
            Event::Error { text } => {
                self.tally.counts.errors += 1;
                self.tally.sample(|| format!("the server says {text}"));
            }
            Event::Subscribed { .. } | Event::Other => self.tally.counts.foreign += u64::from(!is_awaited),
        }
    }

    /// Sends, after what could not be sent before. What the socket does not take waits.
    fn send(&mut self, index: usize, bytes: &[u8]) {
        let client = &mut self.clients[index];
        let Some(stream) = &mut client.stream else { return };
        let mut waiting = client.spill.as_mut().map(|spill| std::mem::take(&mut spill.outgoing)).unwrap_or_default();
        let all = if waiting.is_empty() {
            bytes
        } else {
            waiting.extend_from_slice(bytes);
            &waiting
        };
        if all.is_empty() {
            return;
        }
        // A write that fails is seen by the read that follows.
        let written = stream.write(all).unwrap_or(0);
        if written < all.len() {
            let rest = all[written..].to_vec();
            client.spill().outgoing = rest;
        }
        client.drop_empty_spill();
    }

    // --- the end of a connection ---

    fn end(&mut self, index: usize, end: End) {
        let phase = self.clients[index].phase;
        let is_slow = self.is_slow_now && self.clients[index].reading != Reading::Normal;
        self.drop_stream(index);
        let counts = &mut self.tally.counts;
        match (phase, end) {
            (Phase::Ready, End::BadFrame(why)) => {
                counts.bad_frames += 1;
                self.tally.sample(|| format!("not a WebSocket frame: {why}"));
                self.gone(index);
            }
            (Phase::Ready, end) => {
                let code = match end {
                    End::Closed(code) => code,
                    _ => 1006,
                };
                *self.tally.close_codes.entry(code).or_default() += 1;
                if is_slow {
                    counts.slow_closed += 1;
                } else {
                    counts.closed += 1;
                    self.tally.sample(|| format!("the server closed a connection ({code})"));
                }
                self.gone(index);
            }
            (_, End::Refused(why)) => {
                counts.refused += 1;
                self.tally.sample(|| format!("refused: {why}"));
                // In a storm a refusal may be meant to pass.
                if self.clients[index].resumes { self.try_again(index, &why) } else { self.gone(index) }
            }
            (_, End::BadFrame(why)) => {
                counts.bad_frames += 1;
                self.tally.sample(|| format!("not a WebSocket frame: {why}"));
                self.gone(index);
            }
            (_, End::Closed(code)) => self.try_again(index, &format!("closed before it was ready ({code})")),
            (_, End::Lost(error)) => self.try_again(index, &error.to_string()),
        }
    }

    fn gone(&mut self, index: usize) {
        self.clients[index].phase = Phase::Ended;
        self.tally.counts.ended += 1;
    }

    /// Closes the socket, if there is one, and counts it out.
    fn drop_stream(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.stream = None;
        client.spill = None;
        match client.phase {
            Phase::Connecting | Phase::Head | Phase::Subscribing => self.tally.counts.connecting -= 1,
            Phase::Ready => self.tally.counts.ready -= 1,
            Phase::Idle | Phase::Ended => {}
        }
        client.phase = Phase::Idle;
    }

    // --- what scenarios ask for ---

    fn tick(&mut self) {
        let now_ns = sys::monotonic_ns();
        while self.churn.take(now_ns).is_some() {
            self.replace_one();
        }
        while let Some(due_ns) = self.echo.take(now_ns) {
            self.echo_one(due_ns);
        }
        if self.slow_reads.take(now_ns).is_some() {
            self.read_slowly();
            self.slow_reads = Ticker { begin_ns: now_ns, done: 1, ..self.slow_reads };
        }
    }

    /// One client leaves, another takes its place: it need not have what was sent in between.
    fn replace_one(&mut self) {
        for _ in 0..self.clients.len() {
            // A step that visits all and jumps about.
            self.churn_turn = (self.churn_turn + 7919) % self.clients.len();
            if self.clients[self.churn_turn].phase == Phase::Ready {
                self.drop_stream(self.churn_turn);
                self.again.push_back((self.now_us(), self.churn_turn as u32));
                return;
            }
            self.churn_turn += 1;
        }
    }

    fn echo_one(&mut self, due_ns: u64) {
        self.echo_turn = (self.echo_turn + 1) % self.clients.len();
        let client = &mut self.clients[self.echo_turn];
        if client.phase != Phase::Ready {
            return;
        }
        // Numbered by how many this client has sent; `position` counts nothing else on an echo server.
        let stamp = Stamp { channel: client.channel, seq: client.position, intended_ns: due_ns };
        client.position += 1;
        let mut payload = Vec::with_capacity(self.plan.echo_bytes);
        stamp.write(self.plan.echo_bytes, &mut payload);
        self.tally.counts.sent += 1;
        self.send(self.echo_turn, &target::frame(Opcode::Text, &payload));
    }

    fn slow_down(&mut self) {
        self.is_slow_now = true;
        self.slow_reads = Ticker::new(1.0 / self.plan.slow_pause.as_secs_f64().max(0.001));
        let Worker { clients, poll, plan, .. } = self;
        for (index, client) in clients.iter_mut().enumerate() {
            // Whoever reads nothing needs no events but the end.
            if client.reading != Reading::Normal
                && let Some(stream) = &mut client.stream
            {
                let _ = poll.registry().reregister(stream, Token(index), Interest::PRIORITY);
                // Not before: with a small window even a client that reads at once is slow.
                let _ = SockRef::from(&*stream).set_recv_buffer_size(plan.slow_receive_bytes);
            }
        }
    }

    fn catch_up(&mut self) {
        self.is_catching_up = true;
        self.slow_reads = Ticker::default();
        let Worker { clients, poll, .. } = self;
        for (index, client) in clients.iter_mut().enumerate() {
            if client.reading != Reading::Normal
                && let Some(stream) = &mut client.stream
            {
                let _ = SockRef::from(&*stream).set_recv_buffer_size(READ_BYTES);
                // Registered anew, what waits already is an edge.
                let _ = poll.registry().reregister(stream, Token(index), Interest::READABLE | Interest::WRITABLE);
            }
        }
    }

    fn read_slowly(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.reading == Reading::Slow
                && client.phase == Phase::Ready
                && let Err(end) = self.read_once(index, &mut buffer, self.plan.slow_read_bytes)
            {
                self.end(index, end);
            }
        }
        self.buffer = buffer;
    }

    fn storm(&mut self) {
        let now_us = self.now_us();
        for index in 0..self.clients.len() {
            if self.clients[index].phase == Phase::Ready {
                self.drop_stream(index);
                self.clients[index].resumes = true;
                self.again.push_back((now_us, index as u32));
            }
        }
        self.live.store(&self.tally.counts);
    }

    fn check_tails(&mut self) {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            let is_slow = self.is_slow_now && client.reading != Reading::Normal;
            if is_slow || client.phase != Phase::Ready {
                continue;
            }
            let published = match self.plan.echo_bytes {
                0 => self.plan.published[client.channel as usize].load(Relaxed),
                _ => client.position,
            };
            let (lost, announced) = client.tail(published);
            self.tally.counts.lost += lost;
            self.tally.counts.announced += announced;
            if lost > 0 {
                let (next, channel, number) = (client.next, client.channel, self.base + index as u32);
                self.tally.sample(|| format!("client {number}, channel {channel}: {next} to {} never came", published - 1));
            }
            client.expect_from(published);
        }
    }
}

enum ReadOnce {
    /// As much as asked for: more may wait.
    Filled,
    /// Less: nothing waits.
    Drained,
    Blocked,
}

/// The status line and the begin of the body of an HTTP answer.
pub fn summary(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.lines().next().unwrap_or_default().trim();
    if status.starts_with("HTTP/1.1 101") {
        return format!("{status}, but with a wrong Sec-WebSocket-Accept");
    }
    let body: String = body.trim().chars().filter(|character| !character.is_control()).take(200).collect();
    if body.is_empty() { status.to_owned() } else { format!("{status}: {body}") }
}
