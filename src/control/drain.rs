//! The way out: `POST /drain` and signals have the process drain, `POST /shed` has a share of its connections go. The task here watches the drain
//! and ends it, when everybody has gone or the deadline has passed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use sd_notify::NotifyState;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Notify, oneshot};

use super::answer::{self, Problem};
use super::orders::NoAnswer;
use super::{State, body, disconnect, listener};
use crate::bus::BusCommand;
use crate::bus::order::Order;
use crate::life::Stage;
use crate::systemd::Notifier;

/// How often it is looked who is left.
const LOOK: Duration = Duration::from_millis(20);
/// systemd is told that much is still to come, so that its own deadline does not cut a drain short.
const SLACK: Duration = Duration::from_secs(10);

const DRAIN_ACCEPTED: &str = "nothing, or a JSON object with \"handover\": true, which gives this control port up to another process";
const SHED_ACCEPTED: &str = "a JSON object with \"percent\": above 0, up to 100";

#[derive(Debug, Default)]
pub(super) struct Drain {
    begun: Notify,
    /// There is no time left: a second signal.
    hurry: Notify,
    is_hurried: AtomicBool,
    /// The control port is to be given up.
    handover: Notify,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    handover: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    percent: f64,
}

impl Drain {
    pub(super) fn is_hurried(&self) -> bool {
        self.is_hurried.load(Relaxed)
    }
}

impl State {
    /// Has the process drain. False: it does so already.
    pub(super) fn begin_drain(&self) -> bool {
        let is_first = self.life.advance(Stage::Draining);
        if is_first {
            self.orders.wake();
            self.drain.begun.notify_one();
        }
        is_first
    }

    /// The drain is over, whoever is left.
    pub(super) fn hurry(&self) {
        self.drain.is_hurried.store(true, Relaxed);
        self.drain.hurry.notify_one();
    }

    /// When another process wants the control port.
    pub(super) async fn handed_over(&self) {
        self.drain.handover.notified().await;
    }

    fn connections(&self) -> u64 {
        self.shards.iter().map(|shard| shard.connections.get()).sum()
    }

    /// Every shard has closed its door, and nobody is left.
    fn is_drained(&self) -> bool {
        let mut shards = self.shards.iter().take(self.orders.shards());
        shards.all(|shard| shard.stage.get() >= Stage::Draining as u64 && shard.sockets.get() == 0)
    }

    /// How long so many take to go.
    fn seconds_for(&self, connections: u64) -> u64 {
        connections.div_ceil(self.settings.clients.drain_rate as u64)
    }
}

pub(super) async fn drain(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let Wanted { handover } = body::json(&state, request, DRAIN_ACCEPTED).await?;
    if state.begin_drain() {
        tracing::info!("asked to drain: {} connections go, {} a second", state.connections(), state.settings.clients.drain_rate);
    }
    if handover {
        tracing::info!("the control port goes to another process");
        state.drain.handover.notify_one();
    }
    let connections = state.connections();
    let seconds = state.seconds_for(connections).min(state.settings.clients.shutdown_timeout.as_secs());
    Ok(answer::json(StatusCode::OK, json!({ "stage": state.life.stage().name(), "connections": connections, "seconds": seconds })))
}

pub(super) async fn shed(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let Share { percent } = body::json(&state, request, SHED_ACCEPTED).await?;
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(Problem::bad_request("\"percent\" is out of range", SHED_ACCEPTED));
    }
    if state.life.stage() != Stage::Serving {
        return Err(Problem::new(StatusCode::CONFLICT, "the server drains: all of its connections go"));
    }
    let answers = state.orders.all(state.timeouts.bus, |reply| Order::Shed { percent, reply }).await;
    disconnect::counted(&state, "shedding", &answers)
}

/// Waits for a drain, then for its end; `on_stop` is called then.
pub(super) async fn attend(state: Arc<State>, on_stop: impl FnOnce() + Send + 'static, notifier: Option<Arc<Notifier>>) {
    state.drain.begun.notified().await;
    let timeout = state.settings.clients.shutdown_timeout;
    if let Some(notifier) = notifier {
        let extend = u32::try_from((timeout + SLACK).as_micros()).unwrap_or(u32::MAX);
        notifier.tell(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(extend),
            NotifyState::Status("draining: connections go one after the other"),
        ]);
    }
    let everybody_gone = async {
        // Nobody goes before what was published before has come.
        let (reply, settled) = oneshot::channel();
        if state.bus.send(BusCommand::Settle(reply)).is_ok() {
            let _ = tokio::time::timeout(state.timeouts.bus, settled).await;
        }
        while state.orders.all(state.timeouts.bus, |reply| Order::Depart { reply }).await.contains(&Err(NoAnswer::Refused)) {
            tokio::time::sleep(LOOK).await;
        }
        while !state.is_drained() {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Until then, or until somebody has lost patience.
    let hurried = pin!(state.drain.hurry.notified());
    let _ = tokio::time::timeout(timeout, listener::unless(hurried, everybody_gone)).await;
    let left = state.connections();
    if left > 0 {
        tracing::info!("the drain ends with {left} connections, which are closed at once");
    }
    state.life.advance(Stage::Stopping);
    on_stop();
}
