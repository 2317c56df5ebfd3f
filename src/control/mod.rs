//! HTTP for operators: health, metrics, publishing, what is going on. Called by `main` on an ordinary, unpinned thread.
//!
//! Invariant: this thread may be slow and must never make anything else slow. It reads counters that others write, and talks
//! to the bus thread only through its bounded inbox; whatever it waits for has a deadline, whatever it holds has a bound.
//!
//! The folder: [`metrics`] names the counters, `publish` and `channels` ask the bus thread, `info` describes the process,
//! `listener` bounds connections, `room` requests, `hosts` says for whom they may be, `busy` and `process` measure, `answer` spells errors.
#![forbid(unsafe_code)]

mod answer;
mod busy;
mod channels;
mod hosts;
mod info;
mod listener;
pub mod metrics;
mod process;
mod publish;
mod room;
mod tally;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub use room::memory_bound;

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::bus::BusSender;
use crate::config::{FdTable, Settings};
use crate::metrics::{BusMetrics, ShardMetrics};
use crate::systemd::Supervision;

/// Most connections to the control port at once; a newcomer takes the place of whoever has kept it waiting longest. Scrapers and probes
/// need a handful.
pub const CONNECTIONS_MAX: usize = 256;
/// Bytes of a connection's requests that are read ahead; a head must fit. Browsers send the cookies of every port of a host.
pub const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Most channels in one `POST /publish`.
pub const PUBLISH_CHANNELS_MAX: usize = 1000;
/// Most `POST /publish` under way at once, from before the body is read until the answer is written.
pub const PUBLISHES_MAX: usize = 32;
/// Most other requests that cost something, likewise.
pub const READS_MAX: usize = 8;
/// Of each kind, how many may wait for that; the next gets 503 at once.
pub const WAITING_MAX: usize = 64;
/// What an answer to a publish may hold beyond the names of the request: a number and an epoch, or an error, for each.
pub const RESULTS_BYTES_MAX: usize = 256 * 1024;
/// The largest other answer while it is made: [`PAGE_CHANNELS_MAX`] channels of the longest name, and the page as text.
pub const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Requests that are worked at or wait for that. Fewer than there are connections, so there is always one that waits for its client.
pub const WORKING_MAX: usize = PUBLISHES_MAX + READS_MAX + 2 * WAITING_MAX;

const _: () = assert!(WORKING_MAX < CONNECTIONS_MAX);
const _: () = assert!(PAGE_CHANNELS_MAX * (crate::limits::CHANNEL_NAME_BYTES_MAX * 6 + 500) < ANSWER_BYTES_MAX);
/// Most channels on one page of `GET /channels`.
pub const PAGE_CHANNELS_MAX: usize = 1000;
/// Exit code after a second signal: 128 + SIGINT, what a shell shows for an interrupted command.
pub const EXIT_INTERRUPTED: i32 = 130;

const _: () = assert!(room::BODY_SLACK_BYTES > PUBLISH_CHANNELS_MAX * (crate::limits::CHANNEL_NAME_BYTES_MAX * 2 + 8));

/// After the end is told, how long answers under way may still take.
const FAREWELL: Duration = Duration::from_millis(500);

const ENDPOINTS: [(&str, &str); 7] = [
    ("GET /healthz", "200 while this process answers at all"),
    ("GET /readyz", "200 while messages flow, 503 with the reason while they do not"),
    ("GET /metrics", "every counter, for Prometheus (OpenMetrics if the scraper accepts it)"),
    ("GET /info", "version, addresses, shards, settings"),
    ("GET /channels", "the channels served now, ?from=N&limit=1..1000"),
    ("POST /publish", "{\"channel\": NAME, \"data\": any JSON} publishes one message"),
    ("GET /", "this page"),
];

/// What was found out or decided while starting, for `GET /info`.
#[derive(Debug, Clone)]
pub struct Facts {
    pub version: &'static str,
    /// What `auto` came to: shared or private.
    pub fd_table: FdTable,
    /// The addresses really bound (a port given as 0 has its number here).
    pub listen: Vec<SocketAddr>,
    pub control: SocketAddr,
}

/// Everything the endpoints read.
pub struct State {
    settings: Arc<Settings>,
    facts: Facts,
    shards: Vec<Arc<ShardMetrics>>,
    bus_metrics: Arc<BusMetrics>,
    bus: BusSender,
    started: Instant,
    started_unix_ms: u64,
    /// Set by the first signal and never taken back.
    stopping: AtomicBool,
    busy: busy::Window,
    hosts: hosts::Hosts,
    publishes: room::Gate,
    reads: room::Gate,
    bodies: room::Bodies,
    flow: publish::Flow,
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
    ) -> State {
        let busy = busy::Window::new(crate::sys::monotonic_ns(), &shards);
        State {
            hosts: hosts::Hosts::new(facts.control, &settings.control_hosts),
            bodies: room::Bodies::new(settings.payload_bytes_max),
            settings,
            facts,
            shards,
            bus_metrics,
            bus,
            started: Instant::now(),
            started_unix_ms: crate::sys::unix_ms(),
            stopping: AtomicBool::new(false),
            busy,
            publishes: room::Gate::new(PUBLISHES_MAX, WAITING_MAX),
            reads: room::Gate::new(READS_MAX, WAITING_MAX),
            flow: publish::Flow::default(),
            tally: Arc::default(),
            timeouts: TIMEOUTS,
        }
    }

    fn stopping(&self) -> bool {
        self.stopping.load(SeqCst)
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

    /// Why messages do not flow, if they do not.
    fn not_ready(&self) -> Option<&'static str> {
        if self.stopping() {
            Some("stopping")
        } else if self.bus_metrics.ready.get() != 0 {
            None
        } else if self.bus_metrics.channels_refused.get() > 0 {
            Some("Redis refuses everything that is to be subscribed; the log says why")
        } else if self.settings.redis.is_some() {
            Some("Redis cannot be reached, or its channels are not yet subscribed")
        } else {
            Some("the embedded bus has not started yet")
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("facts", &self.facts).field("stopping", &self.stopping).finish_non_exhaustive()
    }
}

/// The endpoints, without a server around them.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/info", get(info::info))
        .route("/channels", get(channels::channels))
        .route_layer(from_fn_with_state(state.clone(), one_of_few))
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/publish", post(publish::publish))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.clone(), hosts::check))
        .layer(from_fn_with_state(state.clone(), tally::count))
        .with_state(state)
}

/// A thread that is ready to serve: runtime and signal handlers have their descriptors.
#[derive(Debug)]
pub struct Control {
    runtime: tokio::runtime::Runtime,
    signals: mpsc::Receiver<&'static str>,
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
        let signals = runtime.block_on(async { stop_signals().and_then(|signals| note_signals().map(|()| signals)) })?;
        Ok(Control { runtime, signals })
    }

    /// Serves on the calling thread until `ended` is fired or dropped; `main` does so when every shard has ended.
    ///
    /// The first SIGTERM or SIGINT calls `on_stop`, once, on this thread: it must not block. `/readyz` says "stopping" from then on
    /// and everything else goes on, so that the end can be watched. The second signal exits the process with [`EXIT_INTERRUPTED`].
    ///
    /// Errors: the listener is not one.
    pub fn run(
        self,
        listener: TcpListener,
        state: Arc<State>,
        supervision: Option<Supervision>,
        on_stop: impl FnOnce() + Send + 'static,
        ended: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        let Control { runtime, signals } = self;
        runtime.block_on(serve(listener, state, supervision, on_stop, signals, |code| std::process::exit(code), ended))
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

/// Signals that other servers know and that would end this one without a word: said and passed over.
fn note_signals() -> io::Result<()> {
    let hint = "the settings are read at start alone; restart for other ones";
    for (kind, name, hint) in [
        (SignalKind::hangup(), "SIGHUP", hint),
        (SignalKind::user_defined1(), "SIGUSR1", "it has no meaning here"),
        (SignalKind::user_defined2(), "SIGUSR2", "it has no meaning here"),
    ] {
        let mut arrivals = signal(kind)?;
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                tracing::info!("{name}: ignored: {hint}");
            }
        });
    }
    Ok(())
}

/// [`Control::run`] with its signals and its exit handed in, so that tests can play both.
async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    supervision: Option<Supervision>,
    on_stop: impl FnOnce() + Send + 'static,
    mut signals: mpsc::Receiver<&'static str>,
    exit: impl Fn(i32) + Send + 'static,
    ended: oneshot::Receiver<()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;

    tokio::spawn(busy::sample(state.clone()));
    let stopped = state.clone();
    let notifier = supervision.as_ref().map(Supervision::notifier);
    if let Some(supervision) = supervision {
        tokio::spawn(supervise(supervision, state.clone()));
    }
    tokio::spawn(async move {
        let Some(name) = signals.recv().await else { return };
        tracing::info!("{name}: stopping; another signal exits at once");
        stopped.stopping.store(true, SeqCst);
        on_stop();
        if let Some(notifier) = notifier {
            notifier.tell(&[NotifyState::Stopping, NotifyState::Status("stopping: sending what is due")]);
        }
        if let Some(name) = signals.recv().await {
            tracing::warn!("{name} again: exiting at once");
            exit(EXIT_INTERRUPTED);
        }
    });

    let (close, closing) = oneshot::channel::<()>();
    let server = tokio::spawn(listener::serve(listener, router(state.clone()), state.timeouts, state.tally.clone(), closing));
    let _ = ended.await;
    let _ = close.send(());
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
        if state.stopping() {
            return;
        }
        supervision.beat(state.status());
    }
}

/// Lets a request that costs something in when there is room; its place is free again when the answer is written.
async fn one_of_few(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let Some(permit) = state.reads.enter(state.timeouts.permit).await else {
        return answer::Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way; try again").into_response();
    };
    room::hold(next.run(request).await, permit)
}

async fn index(Shared(state): Shared<Arc<State>>) -> Response {
    let mut page = format!("Campanile {}, control port\n\n", state.facts.version);
    for (endpoint, what) in ENDPOINTS {
        page.push_str(&format!("  {endpoint:<14} {what}\n"));
    }
    answer::text(StatusCode::OK, page)
}

/// Says only that this thread turns. A shard asleep does not turn, so its counters prove nothing; whether messages flow is
/// the question of `/readyz`.
async fn healthz() -> Response {
    answer::text(StatusCode::OK, "ok\n")
}

async fn readyz(Shared(state): Shared<Arc<State>>) -> Response {
    let Some(reason) = state.not_ready() else {
        return answer::json(StatusCode::OK, serde_json::json!({ "ready": true }));
    };
    let body = serde_json::json!({ "ready": false, "reason": reason });
    answer::retryable(answer::json(StatusCode::SERVICE_UNAVAILABLE, body))
}

fn endpoints() -> Vec<&'static str> {
    ENDPOINTS.iter().map(|(endpoint, _)| *endpoint).collect()
}

async fn not_found(uri: Uri) -> Response {
    let error = format!("there is no {} on the control port", uri.path());
    answer::json(StatusCode::NOT_FOUND, serde_json::json!({ "error": error, "endpoints": endpoints() }))
}

/// The router adds `Allow`.
async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let error = format!("{method} is not served at {}", uri.path());
    answer::json(StatusCode::METHOD_NOT_ALLOWED, serde_json::json!({ "error": error, "endpoints": endpoints() }))
}
