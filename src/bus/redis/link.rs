//! One non-blocking connection to a Redis server on the bus thread's `Poll`: resolve, connect, TLS, log in, keep alive, back off.
//! Owned and driven by [`super::server::Server`]; it knows which command a reply answers, and nothing of what channels are.
//!
//! An address that fails before the log-in is over is followed by the next one of its name at once. After any other error the owner calls
//! [`Link::fail`]: socket, TLS session and decoder go, and a new try is due after a jittered pause.
//! An error in answer to a command is an answer; a connection ends for a missed deadline or for what is not the protocol.
//! mio is edge-triggered: `readable` and `writable` stay set until the kernel says it would block, or a short read says that a TCP socket is empty.

mod answer;
mod login;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token, Waker};
use rustls::ClientConnection;

use super::awaiting::{Asked, Awaiting};
use super::fault::{Fault, FaultKind};
use super::locate::{Locator, Place};
use super::resp::{Decoder, Filled, write_command};
use super::socket::{Socket, TlsReader, is_flow, uninterrupted};
use super::target::Target;
use super::timing::Timing;
use crate::clock::{MonotonicNs, nanos};

pub use answer::Answer;

/// A command is given up after so many times [`Timing::answer`], even if other things come in: what waits so long in Redis's buffer for us makes
/// Redis itself close the connection (`client-output-buffer-limit pubsub`, 60 s).
const ANSWERS_MAX: u32 = 12;
/// The shortest silence after which a PING is sent, whatever the server's `timeout`, of which the shortest is a second.
const PING_AFTER_MIN: Duration = Duration::from_millis(250);
/// A connection that is closed after less silence was not closed for its silence.
const SILENCE_MIN_NS: u64 = 900_000_000;

#[derive(Debug)]
enum Phase {
    Down {
        retry_at: MonotonicNs,
    },
    /// It is not known yet where the server may be.
    Locating,
    /// The next place is to be tried.
    Choosing,
    Connecting,
    Securing,
    /// Logging in.
    Greeting,
    Ready {
        since: MonotonicNs,
    },
}

pub struct Link {
    target: Arc<Target>,
    token: Token,
    registry: Arc<Registry>,
    timing: Timing,
    value_bytes_max: usize,
    phase: Phase,
    /// When the phases between Down and Ready must have ended, for this place.
    connect_deadline: MonotonicNs,
    /// Tries since the last connection that lasted.
    attempts: u32,
    locator: Locator,
    /// It hung up on HELLO lately.
    without_hello_until: MonotonicNs,
    /// It was taken: what is asked is answered on a subscribed connection as well.
    is_resp3: bool,
    /// Whether CONFIG GET is worth a try.
    asks_timeout: bool,
    /// The server is known to close connections that were silent for so long.
    silence_max: Option<Duration>,
    socket: Option<Socket>,
    tls: Option<Box<ClientConnection>>,
    decoder: Decoder,
    out: Vec<u8>,
    /// `out[..written]` is gone.
    written: usize,
    readable: bool,
    /// The server has said its last: after it comes the end, without another edge.
    ended: bool,
    writable: bool,
    last_heard: MonotonicNs,
    awaiting: Awaiting,
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
            locator: Locator::new(target.clone(), waker),
            target,
            token,
            registry,
            timing,
            value_bytes_max,
            phase: Phase::Down { retry_at: 0 },
            connect_deadline: 0,
            attempts: 0,
            without_hello_until: 0,
            is_resp3: false,
            asks_timeout: true,
            silence_max: None,
            socket: None,
            tls: None,
            decoder: Decoder::new(value_bytes_max),
            out: Vec::new(),
            written: 0,
            readable: false,
            ended: false,
            writable: false,
            last_heard: 0,
            awaiting: Awaiting::default(),
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// Whether questions may be asked on a connection that has subscribed.
    pub fn is_resp3(&self) -> bool {
        self.is_resp3
    }

    /// Failed before, and waiting for the next try.
    pub fn is_backing_off(&self) -> bool {
        matches!(self.phase, Phase::Down { .. }) && self.attempts > 0
    }

    pub fn event(&mut self, event: &Event) {
        if event.token() == self.token {
            self.ended |= event.is_read_closed() || event.is_error();
            self.readable |= event.is_readable() || self.ended;
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
            match self.advance(now) {
                Err(fault) if !self.is_ready() => self.turn_away(fault, now)?,
                result => return result,
            }
        }
    }

    fn advance(&mut self, now: MonotonicNs) -> Result<bool, Fault> {
        loop {
            match &mut self.phase {
                Phase::Down { retry_at } if now < *retry_at => return Ok(false),
                Phase::Down { .. } => {
                    self.attempts = self.attempts.saturating_add(1);
                    self.connect_deadline = now + nanos(self.timing.connect);
                    self.locator.begin();
                    self.phase = Phase::Locating;
                }
                Phase::Ready { .. } => return self.keep_alive(now).map(|()| false),
                _ if now >= self.connect_deadline => return Err(self.too_slow()),
                Phase::Locating => {
                    if !self.locator.has_found()? {
                        return Ok(false);
                    }
                    self.phase = Phase::Choosing;
                }
                Phase::Choosing => self.connect_next()?,
                Phase::Connecting => match self.socket.as_ref().expect("connecting means a socket").connected() {
                    Ok(false) => return Ok(false),
                    Ok(true) => self.connected(now)?,
                    Err(error) => return Err(Fault::new(format!("cannot connect: {error}"))),
                },
                Phase::Securing => {
                    if !self.shake_hands()? {
                        return Ok(false);
                    }
                    self.greet(now);
                }
                Phase::Greeting => {
                    self.flush()?;
                    if !self.take_greeting_replies(now)? {
                        return Ok(false);
                    }
                    self.phase = Phase::Ready { since: now };
                    self.locator.prefer();
                    return Ok(true);
                }
            }
        }
    }

    /// Closes, and schedules the next try.
    pub fn fail(&mut self, fault: &Fault, now: MonotonicNs) {
        // A connection that lasted was a success; one that was lost right away must not be retried in a tight loop.
        if matches!(self.phase, Phase::Ready { since } if now - since >= self.timing.lasted_ns()) {
            self.attempts = 0;
        }
        if self.is_ready() && fault.kind == FaultKind::Closed {
            self.learn_from_end(now);
        }
        self.phase = Phase::Down { retry_at: now + self.timing.pause_ns(self.attempts) };
        self.attempts = self.attempts.max(1);
        self.close();
        self.locator.leave();
    }

    /// The server hung up. If all was silent, and for long, it was for that (Redis's `timeout`, or that of something in between): there shall not be so
    /// much silence again. A mere restart may look the same; a few more PINGs are all that a wrong guess costs.
    fn learn_from_end(&mut self, now: MonotonicNs) {
        let silence_ns = now.saturating_sub(self.last_heard);
        if matches!(self.awaiting.oldest(), Some((Asked::Timeout, _))) {
            // There are proxies that hang up on a command that they do not know.
            self.asks_timeout = false;
        } else if silence_ns >= SILENCE_MIN_NS && self.awaiting.is_empty() {
            self.limit_silence(Duration::from_nanos(silence_ns));
        }
    }

    fn limit_silence(&mut self, silence: Duration) {
        self.silence_max = Some(self.silence_max.map_or(silence, |known| known.min(silence)));
    }

    /// Silence after which a PING is sent: half of what the server bears.
    fn ping_after_ns(&self) -> u64 {
        let bearable = self.silence_max.map_or(Duration::MAX, |silence| (silence / 2).max(PING_AFTER_MIN));
        nanos(self.timing.ping_after.min(bearable))
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
        (self.readable, self.ended, self.writable) = (false, false, false);
        self.awaiting = Awaiting::default();
    }

    fn too_slow(&self) -> Fault {
        let doing = match self.phase {
            Phase::Locating => "its name was not resolved",
            Phase::Choosing | Phase::Connecting => "no connection",
            Phase::Securing => "no end of the TLS handshake",
            Phase::Down { .. } | Phase::Greeting | Phase::Ready { .. } => "it accepts connections, but no answer to the log-in",
        };
        Fault::new(format!("{doing} within {:?}", self.timing.connect))
    }

    /// When [`Link::drive`] must be called even without an event.
    pub fn deadline(&self) -> MonotonicNs {
        match self.phase {
            Phase::Down { retry_at } => retry_at,
            Phase::Locating | Phase::Choosing | Phase::Connecting | Phase::Securing | Phase::Greeting => self.connect_deadline,
            Phase::Ready { .. } => {
                let ping_at = if self.awaiting.has_ping() { None } else { Some(self.ping_due()) };
                [self.answer_due(), ping_at].into_iter().flatten().min().unwrap_or(u64::MAX)
            }
        }
    }

    /// Once ready: which addresses of the name were passed over, and why.
    pub fn passed_over(&mut self) -> Vec<(String, Fault)> {
        self.locator.passed_over()
    }

    /// Of the server that is connected or being tried.
    pub fn address(&self) -> Option<SocketAddr> {
        self.locator.address()
    }

    /// Where it is connected, or will be.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// It has not failed yet, and not been ready.
    pub fn is_at_first_try(&self) -> bool {
        self.attempts <= 1 && !self.is_ready() && !self.is_backing_off()
    }

    /// Nothing is tried at the moment.
    pub fn is_down(&self) -> bool {
        matches!(self.phase, Phase::Down { .. })
    }

    /// It goes to another server from now on. It must be down.
    pub fn retarget(&mut self, target: Arc<Target>) {
        debug_assert!(!self.is_ready());
        self.locator.retarget(target.clone());
        self.target = target;
        (self.without_hello_until, self.silence_max) = (0, None);
    }

    /// Takes over what another connection has learned: how it wants to be treated, and where it is, if it is one to the same server.
    pub fn learn_from(&mut self, other: &Link) {
        if Arc::ptr_eq(&self.target, &other.target) || self.target.is_where(&other.target) {
            self.locator.learn_from(&other.locator);
        }
        self.without_hello_until = other.without_hello_until;
        self.asks_timeout = other.asks_timeout;
        self.silence_max = other.silence_max;
    }

    #[cfg(test)]
    pub(super) fn locator(&mut self) -> &mut Locator {
        &mut self.locator
    }

    // Towards Ready.

    fn connect_next(&mut self) -> Result<(), Fault> {
        let socket = match self.locator.next_place()? {
            Place::Tcp(address) => TcpStream::connect(*address).map(Socket::Tcp),
            Place::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
        };
        let mut socket = socket.map_err(|error| Fault::new(format!("cannot connect: {error}")))?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = self.registry.register(socket.source(), self.token, both);
        registered.map_err(|error| Fault::new(format!("cannot watch the socket: {error}")))?;
        self.socket = Some(socket);
        self.phase = Phase::Connecting;
        Ok(())
    }

    /// A place is of no use. There may be another way to log in there, or there is the next place.
    fn turn_away(&mut self, fault: Fault, now: MonotonicNs) -> Result<(), Fault> {
        if !self.locator.is_somewhere() {
            return Err(fault);
        }
        if fault.kind == FaultKind::Closed && self.leaves_hello_out(now) {
            self.locator.try_again();
        } else {
            // It was not HELLO, then, or not HELLO alone.
            self.without_hello_until = 0;
            self.locator.turn_away(fault)?;
        }
        self.close();
        self.connect_deadline = now + nanos(self.timing.connect);
        self.phase = Phase::Choosing;
        Ok(())
    }

    fn connected(&mut self, now: MonotonicNs) -> Result<(), Fault> {
        if let Some(Socket::Tcp(socket)) = &self.socket {
            // Only latency hangs on it.
            let _ = socket.set_nodelay(true);
        }
        (self.readable, self.writable) = (true, true);
        match self.target.tls() {
            Some(tls) => {
                let session = ClientConnection::new(tls.config.clone(), tls.name.clone());
                self.tls = Some(Box::new(session.map_err(|error| Fault::new(format!("TLS: {error}")))?));
                self.phase = Phase::Securing;
            }
            None => self.greet(now),
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

    // Ready.

    /// When the oldest unanswered command counts as never to be answered: any byte is life, but not for ever.
    fn answer_due(&self) -> Option<MonotonicNs> {
        let (_, sent_at) = self.awaiting.oldest()?;
        let answer_ns = nanos(self.timing.answer);
        Some((sent_at.max(self.last_heard) + answer_ns).min(sent_at + answer_ns.saturating_mul(ANSWERS_MAX.into())))
    }

    /// When a PING is due that shows whether the server lives, or whether it has lost a command.
    fn ping_due(&self) -> MonotonicNs {
        let since = self.awaiting.oldest().map_or(self.last_heard, |(_, sent_at)| sent_at.min(self.last_heard));
        since + self.ping_after_ns()
    }

    fn keep_alive(&mut self, now: MonotonicNs) -> Result<(), Fault> {
        // What has arrived but is not read yet is life too.
        if self.answer_due().is_some_and(|due| now >= due)
            && !self.readable
            && let Some((asked, _)) = self.awaiting.oldest()
        {
            return Err(Fault::new(format!(
                "no answer to {} within {:?}; it hangs, or the network is cut",
                asked.name(),
                self.timing.answer
            )));
        }
        if !self.awaiting.has_ping() && now >= self.ping_due() {
            self.ping(now);
        }
        Ok(())
    }

    /// Sends a PING and returns its number, from 1 on, on this connection; the pongs come in the same order.
    pub fn ping(&mut self, now: MonotonicNs) -> u64 {
        write_command(&mut self.out, [b"PING".as_slice()].into_iter());
        self.awaiting.sent_ping(now)
    }

    /// Sends a command whose answer is to be told apart.
    pub fn ask(&mut self, asked: Asked, command: &[&[u8]], now: MonotonicNs) {
        write_command(&mut self.out, command.iter().copied());
        self.awaiting.sent(asked, now);
    }

    /// Where the owner writes commands of its own; each is to be followed by [`Link::asked`].
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    pub fn asked(&mut self, asked: Asked, now: MonotonicNs) {
        self.awaiting.sent(asked, now);
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
        // Whatever comes after a short read of one is another edge.
        let has_edges = self.tls.is_none() && matches!(socket, Socket::Tcp(_)) && !self.ended;
        let result = uninterrupted(|| match &mut self.tls {
            None => self.decoder.fill(socket),
            Some(session) => self.decoder.fill(&mut TlsReader { session, socket }),
        });
        match result {
            Ok(Filled { count: 0, .. }) => Err(Fault::closed("Redis closed the connection")),
            Ok(Filled { count, is_short }) => {
                self.last_heard = now;
                self.readable = !(is_short && has_edges);
                Ok(Some(count))
            }
            Err(error) if is_flow(&error) => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(broken("reading failed", &error)),
        }
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
                Err(error) => return Err(broken("writing failed", &error)),
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

/// A reset is a way to hang up.
fn broken(what: &str, error: &io::Error) -> Fault {
    let reason = format!("{what}: {error}");
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => Fault::closed(reason),
        _ => Fault::new(reason),
    }
}
