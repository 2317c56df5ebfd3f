//! `GET /stats`: the figures of this server, once a second, for whoever watches: the page at `/`, and `campanile top`.
//!
//! It is a WebSocket of the control port and not a channel of the public one. It speaks the client protocol (docs/protocol.md) with one channel, `$stats`, that
//! nobody can reach another way: what a `$stats` of the public port brings is whatever is published there. So who may watch is asked as for every other request
//! here (`hosts`, `token`), and no rule of channels can give it away.
//!
//! Invariants: while nobody watches nothing is counted, made or woken; a snapshot is made once for all; who watches is bounded
//! ([`WATCHERS_MAX`]), and nobody waits for whoever takes nothing.

pub mod snapshot;
pub(super) mod watcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::State;
use super::answer::Problem;
use super::listener::Peer;
use crate::bus::BusCommand;
use crate::bus::busiest::Busy;
use crate::limits::control::{BUSIEST_TOLD_MAX, SNAPSHOT_BYTES_MAX, WATCHERS_MAX};
use crate::wire::Format;
use crate::wire::command::Position;
use crate::wire::framing::Encoding;
use crate::wire::http::upgrade::subprotocol;
use crate::wire::payload::{Kind, encode_notification};
use snapshot::{Sample, Snapshot};
use watcher::Watcher;

/// The one channel.
pub const CHANNEL: &str = "$stats";

const EVERY: Duration = Duration::from_secs(1);
/// For so long the bus may keep a snapshot waiting; then it is made without the channels.
const BUS_PATIENCE: Duration = Duration::from_millis(300);

const ACCEPTED: &str = "a WebSocket upgrade (RFC 6455), as the page at / and `campanile top` ask for it";

/// A notification of the channel, framed; shared by all who watch.
type Frame = Arc<[u8]>;

#[derive(Debug)]
pub(super) struct Stats {
    places: Arc<Semaphore>,
    wanted: Notify,
    /// None while nobody watches.
    pub(super) newest: watch::Sender<Option<Frame>>,
    epoch: u64,
    /// Of the last snapshot that was made.
    pub(super) seq: AtomicU64,
}

impl Default for Stats {
    fn default() -> Stats {
        // Below 2^53, as all epochs are.
        let epoch = fastrand::u64(1..1 << 53);
        let (newest, _) = watch::channel(None);
        Stats { places: Arc::new(Semaphore::new(WATCHERS_MAX)), wanted: Notify::new(), newest, epoch, seq: AtomicU64::new(0) }
    }
}

impl Stats {
    pub(super) fn watchers(&self) -> usize {
        WATCHERS_MAX - self.places.available_permits()
    }

    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        self.wanted.notify_one();
        Some(place)
    }

    fn tell(&self, snapshot: &Snapshot) {
        let seq = self.seq.fetch_add(1, Relaxed) + 1;
        let json = serde_json::to_vec(snapshot).expect("figures and texts can be written");
        let mut frame = Vec::with_capacity(json.len() + 128);
        encode_notification(
            &mut frame,
            Encoding::web_socket(Format::Json),
            CHANNEL,
            Position { epoch: self.epoch, seq },
            snapshot.unix_ms,
            Kind::Json,
            &json,
        );
        debug_assert!(frame.len() <= SNAPSHOT_BYTES_MAX, "{} bytes", frame.len());
        self.newest.send_replace(Some(frame.into()));
    }
}

/// Makes a snapshot each second while somebody watches. Runs as long as the control thread.
pub(super) async fn keep(state: Arc<State>) {
    loop {
        state.stats.wanted.notified().await;
        let mut before = None;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while state.stats.watchers() > 0 {
            ticks.tick().await;
            let busy = busiest(&state).await;
            let sample = Sample::take(&state);
            state.stats.tell(&Snapshot::of(&state, before.as_ref(), &sample, busy));
            before = Some(sample);
        }
        // Whoever comes next is not to see what was.
        state.stats.newest.send_replace(None);
    }
}

async fn busiest(state: &State) -> Option<Busy> {
    let (reply, answered) = oneshot::channel();
    state.bus.send(BusCommand::Busiest { limit: BUSIEST_TOLD_MAX, reply }).ok()?;
    tokio::time::timeout(BUS_PATIENCE, answered).await.ok()?.ok()
}

pub(super) async fn stats(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    match upgrade(&state, &head, &body) {
        Ok(response) => response,
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UPGRADE_REQUIRED {
                response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            response
        }
    }
}

/// The answer that ends HTTP on this connection; `listener` then hands it to the watcher that the peer has.
fn upgrade(state: &State, head: &Parts, body: &Body) -> Result<Response, Problem> {
    let key = websocket_key(head)?;
    if !body.is_end_stream() {
        return Err(Problem::bad_request("a WebSocket upgrade has no body", ACCEPTED));
    }
    let Some(peer) = head.extensions.get::<Peer>() else { unreachable!("the listener gives every request its peer") };
    let Some(place) = state.stats.enter() else {
        let error = format!("{WATCHERS_MAX} watch already; close a page or a `campanile top`, or look at /metrics");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error));
    };
    peer.hand_over(Watcher::new(&state.stats, place));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).expect("base64"));
    let json = subprotocol(Format::Json);
    if elements(&head.headers, header::SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == json) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&json).expect("a token"));
    }
    Ok(response)
}

/// The checks of RFC 6455, 4.2.1; the client's key if they pass.
fn websocket_key(head: &Parts) -> Result<&str, Problem> {
    let headers = &head.headers;
    let has = |name, wanted: &str| elements(headers, name).any(|element| element.eq_ignore_ascii_case(wanted));
    let is_upgrade = head.method == Method::GET && head.version == Version::HTTP_11 && has(header::UPGRADE, "websocket");
    if !is_upgrade || !has(header::CONNECTION, "upgrade") {
        return Err(Problem::with_accepted(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket", ACCEPTED));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Problem::with_accepted(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version is not 13", ACCEPTED));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter();
    let key = keys.next().filter(|_| keys.next().is_none()).and_then(|key| key.to_str().ok());
    key.filter(|key| key.len() == 24 && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16))
        .ok_or_else(|| Problem::bad_request("there is not exactly one Sec-WebSocket-Key with 16 bytes in base64", ACCEPTED))
}

/// The elements of a list that may be spread over several fields (RFC 9110, 5.3).
pub(super) fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}
