//! One non-blocking connection to a Redis server on the bus thread's `Poll`: resolve, connect, TLS, log in, keep alive, back off.
//! Owned and driven by [`super::redis`]; it knows nothing of channels.
//!
//! After an error the owner calls [`Link::fail`]: socket, TLS session and decoder go, and a new try is due after a jittered pause.
//! mio is edge-triggered: `readable` and `writable` stay set until the kernel says it would block.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};
use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token, Waker};
use redis::ServerError;
use rustls::ClientConnection;

use super::resp::{Decoder, Reply, write_command};
use super::socket::{Socket, TlsReader, is_flow, resolve, uninterrupted};
use super::target::{Address, Target};
use crate::fanout::batch::MonotonicNs;

/// Deadlines of a connection. The defaults are what production uses; tests are in more of a hurry.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From the first packet to the end of the log-in.
    pub connect: Duration,
    /// Silence after which a PING is sent.
    pub ping_after: Duration,
    /// How long any byte may take to come after a PING, or an answer after a PUBLISH.
    pub answer: Duration,
    /// The longest pause before the second try; it doubles with each further one up to `backoff_max`.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            connect: Duration::from_secs(5),
            ping_after: Duration::from_secs(5),
            answer: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// Why a connection is given up, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    pub reason: String,
    /// What came was not RESP.
    pub is_violation: bool,
}

impl Fault {
    pub fn new(reason: impl Into<String>) -> Fault {
        Fault { reason: reason.into(), is_violation: false }
    }

    /// What a server error means and what to do about it.
    pub fn refused(error: &ServerError) -> Fault {
        let text = text_of(error);
        let advice = match error.code() {
            "LOADING" => "; it is still loading its data, which ends by itself",
            "NOAUTH" => "; put the password into the URL: redis://:PASSWORD@HOST",
            "WRONGPASS" => "; check user and password in the URL",
            "NOPERM" => "; the user needs +subscribe +unsubscribe +psubscribe +publish +ping and the channels (ACL SETUSER)",
            "ERR" if is_too_many(error) => "; raise `maxclients` in its configuration or disconnect others",
            _ => "",
        };
        Fault::new(format!("Redis answers: {text}{advice}"))
    }
}

fn is_too_many(error: &ServerError) -> bool {
    error.details().is_some_and(|details| details.contains("max number of clients"))
}

pub fn text_of(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default()).trim_end().to_owned()
}

#[derive(Debug)]
enum Phase {
    Down {
        retry_at: MonotonicNs,
    },
    /// A helper thread asks the name server.
    Resolving,
    Connecting,
    Securing,
    /// Logging in: what the next replies answer.
    Greeting(VecDeque<Step>),
    Ready {
        since: MonotonicNs,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Hello,
    Auth,
    SetName,
    Select,
}

pub struct Link {
    target: Arc<Target>,
    token: Token,
    registry: Arc<Registry>,
    waker: Arc<Waker>,
    timing: Timing,
    value_bytes_max: usize,
    phase: Phase,
    /// When the phases between Down and Ready must have ended.
    connect_deadline: MonotonicNs,
    /// Tries since the last connection that lasted.
    attempts: u32,
    /// Outlives a try that it was too slow for, so that there is never more than one helper thread.
    resolver: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
    /// Not tried yet.
    addresses: VecDeque<SocketAddr>,
    socket: Option<Socket>,
    tls: Option<Box<ClientConnection>>,
    decoder: Decoder,
    out: Vec<u8>,
    /// `out[..written]` is gone.
    written: usize,
    readable: bool,
    writable: bool,
    last_heard: MonotonicNs,
    /// When a PING was sent, if nothing at all has come since: any byte is life.
    pinged: Option<MonotonicNs>,
    pings: u64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("target", &self.target).field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Link {
    /// The first try is due at once.
    pub fn new(
        target: Arc<Target>,
        token: Token,
        registry: Arc<Registry>,
        waker: Arc<Waker>,
        timing: Timing,
        value_bytes_max: usize,
    ) -> Link {
        Link {
            target,
            token,
            registry,
            waker,
            timing,
            value_bytes_max,
            phase: Phase::Down { retry_at: 0 },
            connect_deadline: 0,
            attempts: 0,
            resolver: None,
            addresses: VecDeque::new(),
            socket: None,
            tls: None,
            decoder: Decoder::new(value_bytes_max),
            out: Vec::new(),
            written: 0,
            readable: false,
            writable: false,
            last_heard: 0,
            pinged: None,
            pings: 0,
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// Failed before, and waiting for the next try.
    pub fn is_backing_off(&self) -> bool {
        matches!(self.phase, Phase::Down { .. }) && self.attempts > 0
    }

    pub fn event(&mut self, event: &Event) {
        if event.token() == self.token {
            self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        }
    }

    /// There may be something to read without waiting for another event.
    pub fn is_readable(&self) -> bool {
        self.readable && self.is_ready()
    }

    /// Takes the connection as far towards Ready as it goes without waiting, and watches its deadlines. True: it has just become ready.
    pub fn drive(&mut self, now: MonotonicNs) -> Result<bool, Fault> {
        loop {
            match &mut self.phase {
                Phase::Down { retry_at } if now < *retry_at => return Ok(false),
                Phase::Down { .. } => {
                    self.attempts = self.attempts.saturating_add(1);
                    self.connect_deadline = now + nanos(self.timing.connect);
                    self.begin()?;
                }
                Phase::Ready { .. } => return self.keep_alive(now).map(|()| false),
                // A host that swallows packets must not keep the others of its name from being tried.
                Phase::Connecting if now >= self.connect_deadline && !self.addresses.is_empty() => {
                    self.connect_deadline = now + nanos(self.timing.connect);
                    self.connect_next(self.too_slow())?;
                }
                _ if now >= self.connect_deadline => return Err(self.too_slow()),
                Phase::Resolving => match self.resolver.as_ref().map(Receiver::try_recv) {
                    Some(Err(TryRecvError::Empty)) => return Ok(false),
                    Some(Ok(Ok(addresses))) => {
                        self.resolver = None;
                        self.addresses = addresses.into();
                        self.connect_next(Fault::new("its name has no address"))?;
                    }
                    Some(Ok(Err(error))) => {
                        self.resolver = None;
                        return Err(Fault::new(format!("its name cannot be resolved: {error}")));
                    }
                    None | Some(Err(TryRecvError::Disconnected)) => {
                        self.resolver = None;
                        return Err(Fault::new("its name cannot be resolved"));
                    }
                },
                Phase::Connecting => match self.socket.as_ref().expect("connecting means a socket").connected() {
                    Ok(false) => return Ok(false),
                    Ok(true) => self.connected()?,
                    Err(error) => self.connect_next(Fault::new(format!("cannot connect: {error}")))?,
                },
                Phase::Securing => {
                    if !self.shake_hands()? {
                        return Ok(false);
                    }
                    self.greet();
                }
                Phase::Greeting(_) => {
                    self.flush()?;
                    if !self.take_greeting_replies(now)? {
                        return Ok(false);
                    }
                    self.phase = Phase::Ready { since: now };
                    return Ok(true);
                }
            }
        }
    }

    /// Closes, and schedules the next try.
    pub fn fail(&mut self, now: MonotonicNs) {
        // A connection that lasted was a success; one that was lost right away must not be retried in a tight loop.
        if matches!(self.phase, Phase::Ready { since } if now - since >= nanos(self.timing.backoff_max)) {
            self.attempts = 0;
        }
        let ceiling =
            nanos(self.timing.backoff_min).saturating_mul(1 << self.attempts.saturating_sub(1).min(20)).min(nanos(self.timing.backoff_max));
        // Full jitter: a thousand nodes that lost the same Redis do not come back at the same moment.
        self.phase = Phase::Down { retry_at: now + fastrand::u64(0..=ceiling) };
        self.attempts = self.attempts.max(1);
        self.close();
        self.addresses.clear();
    }

    /// Shortens the pause: there is a sign that the server is back.
    pub fn retry_at_once(&mut self, now: MonotonicNs) {
        if let Phase::Down { retry_at } = &mut self.phase {
            *retry_at = now;
        }
    }

    fn close(&mut self) {
        if let Some(mut socket) = self.socket.take() {
            // Closing takes the descriptor out of epoll anyway.
            let _ = self.registry.deregister(socket.source());
        }
        self.tls = None;
        self.decoder = Decoder::new(self.value_bytes_max);
        self.out = Vec::new();
        self.written = 0;
        (self.readable, self.writable) = (false, false);
        self.pinged = None;
        self.pings = 0;
    }

    fn too_slow(&self) -> Fault {
        let doing = match self.phase {
            Phase::Resolving => "its name was not resolved",
            Phase::Connecting => "no connection",
            Phase::Securing => "no end of the TLS handshake",
            Phase::Down { .. } | Phase::Greeting(_) | Phase::Ready { .. } => "it accepts connections, but no answer to the log-in",
        };
        Fault::new(format!("{doing} within {:?}", self.timing.connect))
    }

    /// When [`Link::drive`] must be called even without an event.
    pub fn deadline(&self) -> MonotonicNs {
        match self.phase {
            Phase::Down { retry_at } => retry_at,
            Phase::Resolving | Phase::Connecting | Phase::Securing | Phase::Greeting(_) => self.connect_deadline,
            Phase::Ready { .. } => match self.pinged {
                Some(sent) => sent + nanos(self.timing.answer),
                None => self.last_heard + nanos(self.timing.ping_after),
            },
        }
    }

    // Towards Ready.

    fn begin(&mut self) -> Result<(), Fault> {
        match &self.target.address {
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).map_err(|error| Fault::new(format!("cannot connect: {error}")))?;
                self.adopt(Socket::Unix(socket))
            }
            Address::Tcp { host, port, .. } => {
                if let Ok(address) = host.parse().map(|ip| SocketAddr::new(ip, *port)) {
                    self.addresses = VecDeque::from([address]);
                    return self.connect_next(Fault::new("unreachable"));
                }
                self.phase = Phase::Resolving;
                if self.resolver.is_none() {
                    self.resolver = Some(resolve(host.clone(), *port, self.waker.clone()));
                }
                Ok(())
            }
        }
    }

    /// Tries the next address; `fault` is why there has to be one.
    fn connect_next(&mut self, mut fault: Fault) -> Result<(), Fault> {
        self.close();
        while let Some(address) = self.addresses.pop_front() {
            match TcpStream::connect(address) {
                Ok(socket) => return self.adopt(Socket::Tcp(socket)),
                Err(error) => fault = Fault::new(format!("cannot connect: {error}")),
            }
        }
        Err(fault)
    }

    fn adopt(&mut self, mut socket: Socket) -> Result<(), Fault> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = self.registry.register(socket.source(), self.token, both);
        registered.map_err(|error| Fault::new(format!("cannot watch the socket: {error}")))?;
        self.socket = Some(socket);
        self.phase = Phase::Connecting;
        Ok(())
    }

    fn connected(&mut self) -> Result<(), Fault> {
        if let Some(Socket::Tcp(socket)) = &self.socket {
            // Only latency hangs on it.
            let _ = socket.set_nodelay(true);
        }
        (self.readable, self.writable) = (true, true);
        match &self.target.address {
            Address::Tcp { tls: Some(tls), .. } => {
                let session = ClientConnection::new(tls.config.clone(), tls.name.clone());
                self.tls = Some(Box::new(session.map_err(|error| Fault::new(format!("TLS: {error}")))?));
                self.phase = Phase::Securing;
            }
            Address::Tcp { tls: None, .. } | Address::Unix(_) => self.greet(),
        }
        Ok(())
    }

    /// Goes on with the TLS handshake; true when it is over.
    fn shake_hands(&mut self) -> Result<bool, Fault> {
        let (Some(session), Some(socket)) = (&mut self.tls, &mut self.socket) else { unreachable!("securing means a TLS session") };
        loop {
            while session.wants_write() {
                match uninterrupted(|| session.write_tls(socket)) {
                    Ok(_) => {}
                    Err(error) if is_flow(&error) => break,
                    Err(error) => return Err(Fault::new(format!("TLS: {error}"))),
                }
            }
            if !session.is_handshaking() {
                return Ok(true);
            }
            match uninterrupted(|| session.read_tls(socket)) {
                Ok(0) => return Err(Fault::new("the connection was closed in the TLS handshake; does this port speak TLS?")),
                Ok(_) => {
                    session.process_new_packets().map_err(|error| Fault::new(format!("TLS: {error}")))?;
                }
                Err(error) if is_flow(&error) => return Ok(false),
                Err(error) => return Err(Fault::new(format!("TLS: {error}"))),
            }
        }
    }

    fn greet(&mut self) {
        if self.target.resp2_only {
            return self.greet_in_resp2();
        }
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &self.target.password {
            let user = self.target.username.as_deref().unwrap_or("default");
            hello.extend([b"AUTH".as_slice(), user.as_bytes(), password.as_bytes()]);
        }
        hello.extend([b"SETNAME".as_slice(), b"campanile"]);
        write_command(&mut self.out, hello.into_iter());
        self.phase = Phase::Greeting(VecDeque::from([Step::Hello]));
    }

    fn greet_in_resp2(&mut self) {
        let mut steps = VecDeque::new();
        if let Some(password) = &self.target.password {
            let login = self.target.username.iter().chain([password]).map(String::as_bytes);
            let auth: Vec<&[u8]> = std::iter::once(b"AUTH".as_slice()).chain(login).collect();
            write_command(&mut self.out, auth.into_iter());
            steps.push_back(Step::Auth);
        }
        write_command(&mut self.out, [b"CLIENT".as_slice(), b"SETNAME", b"campanile"].into_iter());
        steps.push_back(Step::SetName);
        self.phase = Phase::Greeting(steps);
        self.select();
    }

    fn select(&mut self) {
        let Phase::Greeting(steps) = &mut self.phase else { unreachable!("only while greeting") };
        if self.target.db != 0 {
            write_command(&mut self.out, [b"SELECT".as_slice(), self.target.db.to_string().as_bytes()].into_iter());
            steps.push_back(Step::Select);
        }
    }

    /// True when nothing of the log-in is unanswered.
    fn take_greeting_replies(&mut self, now: MonotonicNs) -> Result<bool, Fault> {
        loop {
            let Phase::Greeting(steps) = &mut self.phase else { unreachable!("only while greeting") };
            let Some(step) = steps.pop_front() else { return Ok(true) };
            let reply = self.decoder.next_reply().map_err(violation)?;
            match (step, reply) {
                (_, None) => {
                    steps.push_front(step);
                    if self.fill(now)?.is_none() {
                        return Ok(false);
                    }
                }
                // Too old for HELLO, or it was renamed or forbidden.
                (Step::Hello, Some(Reply::Error(error))) if matches!(error.code(), "ERR" | "NOPROTO" | "NOPERM") && !is_too_many(error) => {
                    self.greet_in_resp2();
                    self.flush()?;
                }
                (Step::SetName, Some(Reply::Error(error))) if !is_too_many(error) && error.code() != "NOAUTH" => {}
                (_, Some(Reply::Error(error))) => return Err(Fault::refused(error)),
                (Step::Hello, Some(_)) => {
                    self.select();
                    self.flush()?;
                }
                (Step::Auth | Step::SetName | Step::Select, Some(_)) => {}
            }
        }
    }

    fn keep_alive(&mut self, now: MonotonicNs) -> Result<(), Fault> {
        match self.pinged {
            // What has arrived but is not read yet is life too.
            Some(sent) if now >= sent + nanos(self.timing.answer) && !self.readable => {
                return Err(Fault::new(format!("no answer to PING within {:?}; it hangs, or the network is cut", self.timing.answer)));
            }
            Some(_) => {}
            None if now >= self.last_heard + nanos(self.timing.ping_after) => {
                self.ping(now);
            }
            None => {}
        }
        Ok(())
    }

    // Ready.

    /// Sends a PING and returns its number, from 1 on, on this connection; the pongs come in the same order.
    pub fn ping(&mut self, now: MonotonicNs) -> u64 {
        write_command(&mut self.out, [b"PING".as_slice()].into_iter());
        self.pinged.get_or_insert(now);
        self.pings += 1;
        self.pings
    }

    /// Where commands are written; they leave at the next [`Link::flush`].
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    pub fn out_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// One read. None: nothing is there.
    pub fn fill(&mut self, now: MonotonicNs) -> Result<Option<usize>, Fault> {
        let Some(socket) = &mut self.socket else { return Ok(None) };
        if !self.readable {
            return Ok(None);
        }
        let result = uninterrupted(|| match &mut self.tls {
            None => self.decoder.fill(socket),
            Some(session) => self.decoder.fill(&mut TlsReader { session, socket }),
        });
        match result {
            Ok(0) => Err(Fault::new("Redis closed the connection")),
            Ok(count) => {
                self.last_heard = now;
                self.pinged = None;
                Ok(Some(count))
            }
            Err(error) if is_flow(&error) => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(Fault::new(format!("reading failed: {error}"))),
        }
    }

    /// What the last [`Link::fill`] brought, one by one.
    pub fn next_reply(&mut self) -> Result<Option<Reply<'_>>, Fault> {
        self.decoder.next_reply().map_err(violation)
    }

    /// Writes as much as the kernel takes.
    pub fn flush(&mut self) -> Result<(), Fault> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        while self.writable {
            let result = match &mut self.tls {
                None if self.written == self.out.len() => break,
                None => uninterrupted(|| socket.write(&self.out[self.written..])).inspect(|&count| self.written += count),
                Some(session) => {
                    // The session takes what fits its own bounded buffer.
                    self.written += session.writer().write(&self.out[self.written..]).unwrap_or(0);
                    if !session.wants_write() {
                        break;
                    }
                    uninterrupted(|| session.write_tls(socket))
                }
            };
            match result {
                Ok(_) => {}
                Err(error) if is_flow(&error) => self.writable = false,
                Err(error) => return Err(Fault::new(format!("writing failed: {error}"))),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.out.shrink_to(64 * 1024);
            self.written = 0;
        }
        Ok(())
    }
}

fn violation(violation: super::resp::Violation) -> Fault {
    Fault { reason: violation.to_string(), is_violation: true }
}

pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
