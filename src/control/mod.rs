//! HTTP for operators: health, metrics, publishing, what is going on. [`crate::server`] runs it on a thread of its own, ordinary and unpinned.
//!
//! Invariant: this thread may be slow and must never make anything else slow. It reads counters that others write, and talks
//! to the bus thread and to shards only through their bounded inboxes; whatever it waits for has a deadline, whatever it holds has a bound.
//!
//! The folder: `routes` is the table of endpoints; of their handlers `health` is for probes, [`metrics`] names the counters, `publish`,
//! `channels`, `presence` and `history` ask the bus thread, `connections`, `disconnect`, `revoke` and `drain` order something of the shards by way of `orders`, `info` describes the process. [`stats`] shows it at work to whoever watches, `dashboard` is the page for that. [`reload`] puts other settings into force, when `watch` sees a file change or somebody asks for it, and [`jwks`] other keys. `listener` bounds connections, `socket` is what they come by, `room` requests, `hosts` says for whom they may
//! be and `token` from whom, `tally` counts what became of them, `busy`, `memory` and `process` measure, `body` reads bodies, `answer` spells errors. [`client`] is the other end, over `agent` where there is a unix socket, or a URL.
#![forbid(unsafe_code)]

mod agent;
mod answer;
mod body;
mod busy;
mod certificates;
mod channels;
pub mod client;
mod connections;
mod dashboard;
mod demo;
mod disconnect;
mod drain;
mod health;
mod history;
mod hosts;
mod info;
pub mod jwks;
mod listener;
mod marks;
mod memory;
pub mod metrics;
mod orders;
mod presence;
mod process;
mod publish;
pub mod reload;
mod revoke;
mod room;
mod routes;
mod socket;
pub mod stats;
mod tally;
#[cfg(test)]
mod tests;
mod token;
mod watch;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use orders::Orders;
pub use room::memory_bound;

use axum::http::StatusCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::bus::revoke::Revocations;
use crate::bus::{BusCommand, BusSender};
use crate::config::{FdTable, Settings};
use crate::life::{Life, Stage};
use crate::limits::control::{PUBLISHES_MAX, READS_MAX, SERVERS_TOLD_MAX, WAITING_MAX};
use crate::listen::{Address, ControlSocket, Listener};
use crate::metrics::{BusMetrics, ServerState, ShardMetrics};
use crate::shard::load::HostLoad;
use crate::systemd::Supervision;

use answer::Problem;

/// Exit code after a second signal: 128 + SIGINT, what a shell shows for an interrupted command.
pub const EXIT_INTERRUPTED: i32 = 130;

/// After the end is told, how long answers under way may still take.
const FAREWELL: Duration = Duration::from_millis(500);

/// What was found out or decided while starting, for `GET /info` and whoever watches.
#[derive(Debug, Clone)]
pub struct Facts {
    pub version: &'static str,
    /// What `auto` came to: shared or private.
    pub fd_table: FdTable,
    /// With the ports really bound.
    pub listen: Vec<Listener>,
    pub control: Address,
    /// The most user memory that the settings allow.
    pub memory_bytes_max: fn(&Settings) -> u64,
    /// What subscribes to a channel here, and what publishes to it: for whoever sees that nobody has.
    pub first_commands: [String; 2],
}

/// What the control thread has in common with shards and bus.
#[derive(Debug, Default)]
pub struct Shared {
    /// The way to the shards.
    pub orders: Orders,
    pub host: Arc<HostLoad>,
    pub revocations: Revocations,
    pub life: Arc<Life>,
}

/// Everything the endpoints read.
pub struct State {
    settings: Arc<Settings>,
    facts: Facts,
    shards: Vec<Arc<ShardMetrics>>,
    bus_metrics: Arc<BusMetrics>,
    bus: BusSender,
    orders: Orders,
    /// What shards are told of the host.
    host: Arc<HostLoad>,
    revocations: Revocations,
    started: Instant,
    started_unix_ms: u64,
    life: Arc<Life>,
    drain: drain::Drain,
    busy: busy::Window,
    /// What of the settings can change, and how it does.
    reload: reload::Reload,
    publishes: room::Gate,
    reads: room::Gate,
    bodies: room::Bodies,
    flow: publish::Flow,
    stats: stats::Stats,
    tally: Arc<tally::Tally>,
    timeouts: Timeouts,
}

/// How long things may take. Fixed, but tests cannot wait that long.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// From a command in the bus thread's inbox to its reply.
    bus: Duration,
    /// For a request to be let in, where too many are.
    permit: Duration,
    /// From a request's head to the end of its body.
    request: Duration,
    /// From a connection to its first byte. A probe sends at once; whoever does not keeps a place from others.
    first_byte: Duration,
    /// From a request's first byte to the end of its head.
    head: Duration,
    /// Without any progress in writing an answer.
    writing: Duration,
    /// From an answer to the first byte of the next request.
    idle: Duration,
    /// Between two pings of one who watches.
    beat: Duration,
    /// From the end of our side of a connection to the end of the client's. Whoever takes that long keeps no place from others.
    farewell: Duration,
}

const TIMEOUTS: Timeouts = Timeouts {
    bus: Duration::from_secs(5),
    permit: Duration::from_secs(2),
    request: Duration::from_secs(10),
    first_byte: Duration::from_secs(2),
    head: Duration::from_secs(5),
    writing: Duration::from_secs(10),
    // Longer than the usual scrape interval of 60 s, so that a scraper's connection lasts.
    idle: Duration::from_secs(75),
    beat: Duration::from_secs(10),
    farewell: Duration::from_secs(5),
};

impl State {
    /// `shards` in the order of their numbers; `bus` reaches the bus thread.
    pub fn new(
        settings: Arc<Settings>,
        facts: Facts,
        shards: Vec<Arc<ShardMetrics>>,
        bus_metrics: Arc<BusMetrics>,
        bus: BusSender,
        shared: Shared,
        origin: reload::Origin,
    ) -> State {
        let busy = busy::Window::new(crate::sys::monotonic_ns(), &shards);
        State {
            reload: reload::Reload::new(origin, &facts.control),
            bodies: room::Bodies::new(settings.bounds.payload_bytes_max),
            settings,
            facts,
            shards,
            bus_metrics,
            bus,
            orders: shared.orders,
            host: shared.host,
            revocations: shared.revocations,
            started: Instant::now(),
            started_unix_ms: crate::sys::unix_ms(),
            life: shared.life,
            drain: drain::Drain::default(),
            busy,
            publishes: room::Gate::new(PUBLISHES_MAX, WAITING_MAX),
            reads: room::Gate::new(READS_MAX, WAITING_MAX),
            flow: publish::Flow::default(),
            stats: stats::Stats::default(),
            tally: Arc::default(),
            timeouts: TIMEOUTS,
        }
    }

    /// It takes nothing more in.
    fn stopping(&self) -> bool {
        self.life.is_at(Stage::Stopping)
    }

    /// One line for `systemctl status`.
    fn status(&self) -> String {
        let connections: u64 = self.shards.iter().map(|shard| shard.connections.get()).sum();
        let channels = self.bus_metrics.channels.get();
        match self.not_ready() {
            None => format!("{connections} connections, {channels} channels"),
            Some(reason) => format!("{connections} connections, {channels} channels, not ready: {reason}"),
        }
    }

    fn takes_nobody_in(&self) -> bool {
        self.host.is_short_of_memory() || self.shards.iter().flat_map(|shard| &shard.admission_closed).any(|closed| closed.get() != 0)
    }

    /// Why messages do not flow, or nobody is taken in, if that is so.
    fn not_ready(&self) -> Option<Cow<'static, str>> {
        let servers = self.bus_metrics.servers.all();
        if servers.len() > 1 && self.bus_metrics.ready.get() == 0 && !self.life.is_at(Stage::Draining) {
            return Some(without(&servers).into());
        }
        self.why_not_ready().map(Cow::Borrowed)
    }

    /// The same where there is one server.
    fn why_not_ready(&self) -> Option<&'static str> {
        if self.life.is_at(Stage::Draining) {
            Some(self.life.stage().name())
        } else if self.settings.bounds.admission_unready && self.takes_nobody_in() {
            Some("overloaded: a shard takes nobody in; campanile_admission_closed says why")
        } else if self.bus_metrics.ready.get() != 0 {
            self.reload.not_ready()
        } else if self.bus_metrics.channels_refused.get() > 0 {
            Some("Redis refuses everything that is to be subscribed; the log says why")
        } else if self.settings.redis.url.is_some() {
            Some("Redis cannot be reached, or its channels are not yet subscribed")
        } else {
            Some("the embedded bus has not started yet")
        }
    }

    /// What the bus answers a question; `command` makes it of what takes the answer.
    async fn ask_bus<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> BusCommand) -> Result<T, Problem> {
        let unavailable = |error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
        let (reply, answered) = oneshot::channel();
        self.bus.send(command(reply)).map_err(|_| unavailable("the bus has too much to do; try again"))?;
        self.answer_of_bus(answered).await
    }

    async fn answer_of_bus<T>(&self, answered: oneshot::Receiver<T>) -> Result<T, Problem> {
        let unavailable = |error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
        match tokio::time::timeout(self.timeouts.bus, answered).await {
            Ok(answer) => answer.map_err(|_| unavailable("the bus has ended: the server is stopping")),
            Err(_) => {
                let error = format!("no answer from the bus within {} s", self.timeouts.bus.as_secs_f64());
                Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, error))
            }
        }
    }
}

/// Which of several servers bring nothing.
fn without(servers: &[ServerState]) -> String {
    let away: Vec<&str> = servers.iter().filter(|server| !server.is_ready).map(|server| server.name.as_str()).collect();
    let told: Vec<&str> = away.iter().copied().take(SERVERS_TOLD_MAX).collect();
    let more = if away.len() > told.len() { " and others" } else { "" };
    format!(
        "Redis at {}{more} ({} of {} servers) cannot be reached, or its channels are not yet subscribed, or refused; the log says why",
        told.join(", "),
        away.len(),
        servers.len()
    )
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("facts", &self.facts).field("life", &self.life).finish_non_exhaustive()
    }
}

/// A thread that is ready to serve: runtime and signal handlers have their descriptors.
#[derive(Debug)]
pub struct Control {
    runtime: tokio::runtime::Runtime,
    signals: mpsc::Receiver<&'static str>,
    hangups: Arc<Notify>,
}

impl Control {
    /// Call it on the thread that will [`Control::run`], before any shard accepts: in one descriptor table with theirs, a rush of clients
    /// takes every descriptor that is left. From here on SIGTERM and SIGINT wait to be obeyed, and some others are said and ignored.
    ///
    /// **Threads with a private descriptor table must block all of them** ([`crate::sys::block_signals`]): the handler runs on whichever thread the kernel picks
    /// and writes one byte to a descriptor *number* of the main table, which there is somebody else's socket or nothing.
    ///
    /// Errors: the runtime or the signal handlers could not be set up.
    pub fn prepare() -> io::Result<Control> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (signals, hangups) = runtime.block_on(async {
            note_signals()?;
            io::Result::Ok((stop_signals()?, hangups()?))
        })?;
        Ok(Control { runtime, signals, hangups })
    }

    /// Serves on the calling thread until `ended` is fired or dropped, which is when every shard has ended.
    ///
    /// The first SIGTERM or SIGINT, or `POST /drain`, has the process drain: `/readyz` says so and everything else goes on, so that it can be watched. When
    /// that is over, or at a second signal, `on_stop` is called, once, on this thread: it must not block. A signal after that exits the process with
    /// [`EXIT_INTERRUPTED`].
    ///
    /// Errors: the listener is not one.
    pub fn run(
        self,
        listener: ControlSocket,
        state: Arc<State>,
        supervision: Option<Supervision>,
        on_stop: impl FnOnce() + Send + 'static,
        ended: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        let Control { runtime, signals, hangups } = self;
        let outcome = runtime.block_on(async {
            tokio::spawn(reload::obey_hangups(state.clone(), hangups));
            tokio::spawn(watch::watch(state.clone()));
            tokio::spawn(jwks::keep(state.clone()));
            serve(listener, state, supervision, on_stop, signals, |code| std::process::exit(code), ended).await
        });
        // A fetch of keys that is under way is not waited for.
        runtime.shutdown_background();
        outcome
    }
}

/// SIGTERM and SIGINT by name, in the order they come.
fn stop_signals() -> io::Result<mpsc::Receiver<&'static str>> {
    let (sender, signals) = mpsc::channel(4);
    for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
        let mut arrivals = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move { while arrivals.recv().await.is_some() && sender.send(name).await.is_ok() {} });
    }
    Ok(signals)
}

/// SIGHUP, however often it came since it was last obeyed.
fn hangups() -> io::Result<Arc<Notify>> {
    let hangups = Arc::new(Notify::new());
    let mut arrivals = signal(SignalKind::hangup())?;
    let noted = hangups.clone();
    tokio::spawn(async move {
        while arrivals.recv().await.is_some() {
            noted.notify_one();
        }
    });
    Ok(hangups)
}

/// Signals that other servers know and that would end this one without a word: said and passed over.
fn note_signals() -> io::Result<()> {
    for (kind, name) in [(SignalKind::user_defined1(), "SIGUSR1"), (SignalKind::user_defined2(), "SIGUSR2")] {
        let mut arrivals = signal(kind)?;
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                tracing::info!("{name}: ignored: it has no meaning here");
            }
        });
    }
    Ok(())
}

/// [`Control::run`] with its signals and its exit handed in, so that tests can play both.
async fn serve(
    listener: ControlSocket,
    state: Arc<State>,
    supervision: Option<Supervision>,
    on_stop: impl FnOnce() + Send + 'static,
    mut signals: mpsc::Receiver<&'static str>,
    exit: impl Fn(i32) + Send + 'static,
    ended: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = socket::Door::new(listener)?;

    tokio::spawn(busy::sample(state.clone()));
    tokio::spawn(stats::keep(state.clone()));
    tokio::spawn(memory::watch(state.clone()));
    tokio::spawn(memory::give_back(state.clone()));
    tokio::spawn(certificates::keep(state.clone()));
    revoke::keep(&state);
    let notifier = supervision.as_ref().map(Supervision::notifier);
    if let Some(notifier) = &notifier {
        state.reload.tell_systemd(notifier.clone());
    }
    if let Some(supervision) = supervision {
        tokio::spawn(supervise(supervision, state.clone()));
    }
    tokio::spawn(drain::attend(state.clone(), on_stop, notifier));
    let signalled = state.clone();
    tokio::spawn(async move {
        while let Some(name) = signals.recv().await {
            if signalled.begin_drain() {
                let rate = signalled.settings.clients.drain_rate;
                tracing::info!("{name}: draining, {rate} connections a second; another signal closes all at once");
            } else if !signalled.stopping() && !signalled.drain.is_hurried() {
                tracing::warn!("{name} again: stopping; another signal exits at once");
                signalled.hurry();
            } else {
                tracing::warn!("{name} again: exiting at once");
                exit(EXIT_INTERRUPTED);
            }
        }
    });

    let (close, closing) = oneshot::channel::<()>();
    let server = tokio::spawn(listener::serve(listener, routes::router(state.clone()), state.timeouts, state.tally.clone(), closing));
    let mut ended = pin!(ended);
    // Another process may take the port over before everything has ended; then it is closed, and nothing else is.
    if listener::unless(ended.as_mut(), state.handed_over()).await.is_some() {
        let _ = close.send(());
        let _ = ended.await;
    } else {
        let _ = close.send(());
    }
    match tokio::time::timeout(FAREWELL, server).await {
        Ok(joined) => joined.map_err(io::Error::other),
        // What is left are clients that do not finish; the process ends without them.
        Err(_) => Ok(()),
    }
}

/// Tells systemd that all is up, and from then on how it is, until the stop: from there on systemd waits for no sign of life, and shards
/// that have nothing left to do end.
async fn supervise(mut supervision: Supervision, state: Arc<State>) {
    supervision.ready(state.status());
    loop {
        tokio::time::sleep(supervision.interval()).await;
        if state.life.is_at(Stage::Draining) {
            return;
        }
        supervision.beat(state.status());
    }
}
