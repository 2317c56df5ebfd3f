//! `GET /info`: what this process is, how it was set up and how full it is.
//!
//! Invariant: no secret leaves. The Redis URL is shown through [`mask`] only.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{State, answer};
use crate::config::words::EMBEDDED;
use crate::config::{mask, print};
use crate::limits::{self, control};
use crate::listen::Listener;
use crate::metrics::ShardMetrics;

pub(super) async fn info(Shared(state): Shared<Arc<State>>) -> Response {
    let in_force = state.reload.in_force();
    let settings = &*in_force.settings;
    let busy = state.busy.ratios(crate::sys::monotonic_ns(), &state.shards);
    let shards: Vec<_> = state.shards.iter().zip(busy).enumerate().map(|(number, (shard, busy))| shard_of(number, shard, busy)).collect();
    let body = json!({
        "version": state.facts.version,
        "started_unix_ms": state.started_unix_ms,
        "uptime_seconds": state.started.elapsed().as_secs(),
        "stage": state.life.stage().name(),
        "listen": state.facts.listen.iter().map(Listener::to_string).collect::<Vec<_>>(),
        "control": state.facts.control.to_string(),
        "fd_table": state.facts.fd_table.name(),
        "bus": {
            "kind": if settings.redis.url.is_some() { "redis" } else { EMBEDDED },
            // With several, all of them are below.
            "url": settings.redis.url.as_deref().filter(|_| settings.redis.beside.is_empty()).map(mask::url),
            "servers": state.bus_metrics.servers.all().iter().map(|server| json!({"url": server.name, "ready": server.is_ready})).collect::<Vec<_>>(),
            "ready": state.bus_metrics.ready.get() != 0,
            "channels": state.bus_metrics.channels.get(),
        },
        "shards": shards,
        "reload": reload_of(&state),
        "settings": print::json(settings),
        "limits": {
            "channel_name_bytes": limits::CHANNEL_NAME_BYTES_MAX,
            "value_depth": limits::VALUE_DEPTH_MAX,
            "head_bytes": settings.bounds.head_bytes_max,
            "query_channels": limits::QUERY_CHANNELS_MAX,
            "batch_bytes": limits::BATCH_BYTES_MAX,
            "control_connections": control::CONNECTIONS_MAX,
            "publish_channels": control::PUBLISH_CHANNELS_MAX,
            "page_channels": control::PAGE_CHANNELS_MAX,
        },
    });
    answer::json(StatusCode::OK, body)
}

fn reload_of(state: &State) -> Value {
    let (reload, tally) = (&state.reload, &state.reload.tally);
    let fetched_unix_ms = Some(tally.fetched_unix_ms.load(Relaxed)).filter(|&ms| ms > 0);
    json!({
        "good_unix_ms": tally.good_unix_ms.load(Relaxed),
        "good": tally.good.load(Relaxed),
        "failed": tally.failed.load(Relaxed),
        // Of the last one.
        "error": tally.error(),
        "files": reload.files().iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
        "token_keys": reload.in_force().keys(),
        "jwks_fetched_unix_ms": fetched_unix_ms,
    })
}

fn shard_of(number: usize, shard: &ShardMetrics, busy: f64) -> Value {
    json!({
        "shard": number,
        "connections": shard.connections.get(),
        "sockets": shard.sockets.get(),
        "subscriptions": shard.subscriptions.get(),
        "channels": shard.channels.get(),
        "lagging": shard.lagging.get(),
        "log_bytes": shard.log_bytes.get(),
        "buffer_bytes": shard.buffer_bytes.get(),
        "inbox_bytes": shard.inbox_bytes.get(),
        "busy_ratio": busy,
    })
}
