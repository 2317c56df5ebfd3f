//! One thread of clients: connects them, reads what comes, checks it, answers pings.
//!
//! Started by [`super::crowd`]. The thread has a descriptor table of its own, so the limit on descriptors counts for each worker, and owns its
//! clients alone; the main thread sends it commands and reads its counters. Invariant: edge-triggered readiness is always read to its
//! end, but for clients that are slow on purpose.

mod connect;
mod further;
mod habits;
mod receive;
mod session;
mod split;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use campanile::inbox::Inbox;
use campanile::sys;
use crossbeam_channel::Sender;
use mio::{Events, Poll, Token};

pub use connect::summary;
pub use further::Further;

use super::client::Client;
use super::inflate::Inflated;
use super::payload::PayloadKind;
use super::tally::{Live, Tally};
use super::target::Target;
use session::Sessions;

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

/// Not more: at 19 a shard takes the core at each request, serves that one alone, and sleeps again; where they are as nice as the server, they keep it waiting.
const LATER: i32 = 5;

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
    /// Who is told to come back after a while does, and resumes.
    pub comes_back: bool,
    /// Whose connection is lost comes back, and resumes.
    pub returns: bool,
    /// SO_RCVBUF of slow clients, once they are slow.
    pub slow_receive_bytes: usize,
    pub slow_read_bytes: usize,
    pub slow_pause: Duration,
    /// Payload of messages that clients send (echo).
    pub echo_bytes: usize,
    pub echo_kind: PayloadKind,
    /// What comes on further channels is a direct message: its latency is told apart.
    pub has_direct: bool,
}

/// Whether a crowd's threads get a core before others that want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rank {
    #[default]
    Usual,
    /// With this real-time priority.
    First(i32),
    /// Rather after the server, where both are on one host.
    Later,
}

/// What the main thread wants done.
#[derive(Debug)]
pub enum Command {
    /// Hand over what was counted since the last time. With `check_tail`, what was published and has not come counts as missing.
    Collect {
        check_tail: bool,
        reply: Sender<Tally>,
    },
    /// How many messages have been published that ready clients must get and have not got yet.
    CountMissing {
        reply: Sender<u64>,
    },
    /// Clients that were kept back connect.
    ConnectRest,
    /// Clients subscribe to what they have beyond their first channel.
    Subscribe,
    /// Clients unsubscribe from everything.
    Unsubscribe,
    /// Clients that are slow begin to be slow.
    SlowDown,
    /// They read everything that waits for them, to learn what became of their connections.
    CatchUp,
    /// Drop every connection at once and connect again after a while, resuming.
    Storm {
        away: Duration,
    },
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
    /// Of those clients that have more than one channel.
    further: HashMap<u32, Further>,
    /// Subscriptions to ask for again: when, which client, which channel.
    ask_again: VecDeque<(u32, u32, u32)>,
    /// Number of the first client within the crowd.
    base: u32,
    tally: Tally,
    /// Slow clients begin to be slow with a command.
    is_slow_now: bool,
    /// They have been slow, and read as they can now; what they get is still counted apart.
    is_catching_up: bool,
    /// Clients below this have been started once.
    begun: usize,
    /// Clients below this may be.
    begin_max: usize,
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
    sessions: Sessions,
    /// None while one is at it.
    inflated: Option<Box<Inflated>>,
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
    /// The server asks it to come back after so many milliseconds.
    AskedBack(u64),
    Lost(io::Error),
    Refused(String),
    BadFrame(String),
}

impl Worker {
    pub fn new(poll: Poll, inbox: Inbox<Command>, plan: Arc<Plan>, live: Arc<Live>, base: u32) -> Worker {
        Worker {
            poll,
            inbox,
            plan,
            live,
            clients: Vec::new(),
            further: HashMap::new(),
            ask_again: VecDeque::new(),
            base,
            tally: Tally::default(),
            is_slow_now: false,
            is_catching_up: false,
            begun: 0,
            begin_max: 0,
            again: VecDeque::new(),
            epochs: HashMap::new(),
            churn: Ticker::default(),
            churn_turn: 0,
            echo: Ticker::default(),
            echo_turn: 0,
            slow_reads: Ticker::default(),
            start_ns: sys::monotonic_ns(),
            buffer: vec![0; READ_BYTES],
            sessions: Sessions::default(),
            inflated: None,
            hint: 0,
            spinning: false,
            stopping: false,
        }
    }

    /// Another client; before it runs.
    pub fn add(&mut self, client: Client, further: Option<Further>) {
        self.further.extend(further.map(|further| (self.clients.len() as u32, further)));
        self.clients.push(client);
        self.begin_max = self.clients.len();
    }

    /// The second half of its clients waits for a command; how many the first one has.
    pub fn keep_half_back(&mut self) -> u32 {
        self.begin_max = self.clients.len() / 2;
        self.begin_max as u32
    }

    /// The thread's body.
    pub fn run(mut self, core: Option<usize>, rank: Rank) {
        if let Err(error) = sys::unshare_descriptors(&[self.poll.as_raw_fd(), self.inbox.wake_fd()], &[]) {
            self.tally.sample(|| format!("a worker has no descriptor table of its own ({error}); all share one limit"));
        }
        if let Some(id) = core {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        // That it may was tried before the run.
        let _ = match rank {
            Rank::Usual => Ok(()),
            Rank::First(priority) => sys::run_first(0, priority),
            Rank::Later => sys::be_nice(LATER),
        };
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
            self.ask_again();
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
        if let Some((due_us, ..)) = self.ask_again.front() {
            until_ns = until_ns.min(self.start_ns + u64::from(*due_us) * 1000);
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
                // Whoever has this answer may look at those, too.
                self.live.store(&self.tally.counts);
                let mut counts = self.tally.counts;
                let tally = std::mem::take(&mut self.tally);
                // What counts connections as they are now goes on counting; so does what the main thread takes differences of.
                std::mem::swap(&mut self.tally.counts, &mut counts);
                let _ = reply.send(tally);
            }
            Command::CountMissing { reply } => drop(reply.send(self.missing())),
            Command::ConnectRest => self.begin_max = self.clients.len(),
            Command::Subscribe => self.subscribe(),
            Command::Unsubscribe => self.unsubscribe(),
            Command::SlowDown => self.slow_down(),
            Command::CatchUp => self.catch_up(),
            Command::Storm { away } => self.storm(away),
            Command::Churn { per_second } => self.churn = Ticker::new(per_second),
            Command::Echo { per_second } => self.echo = Ticker::new(per_second),
            Command::Spin(spinning) => self.spinning = spinning,
            Command::Stop => self.stopping = true,
        }
    }
}
