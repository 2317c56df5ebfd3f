//! `GET /info`: what this process is, how it was set up and how full it is.
//!
//! Invariant: no secret leaves. The Redis URL is shown through [`masked`] only.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{CONNECTIONS_MAX, PAGE_CHANNELS_MAX, PUBLISH_CHANNELS_MAX, State, answer};
use crate::config::redis_url::masked;
use crate::config::{ChannelRule, FdTable, Mismatch, Overrun, Pin, RedisSubscribe, Settings};
use crate::limits;
use crate::metrics::ShardMetrics;
use crate::wire::payload::Expect;

pub(super) async fn info(Shared(state): Shared<Arc<State>>) -> Response {
    let settings = &state.settings;
    let busy = state.busy.ratios(crate::sys::monotonic_ns(), &state.shards);
    let shards: Vec<_> = state.shards.iter().zip(busy).enumerate().map(|(number, (shard, busy))| shard_of(number, shard, busy)).collect();
    let body = json!({
        "version": state.facts.version,
        "started_unix_ms": state.started_unix_ms,
        "uptime_seconds": state.started.elapsed().as_secs(),
        "stopping": state.stopping(),
        "listen": state.facts.listen,
        "control": state.facts.control,
        "fd_table": fd_table_name(state.facts.fd_table),
        "bus": {
            "kind": if settings.redis.is_some() { "redis" } else { "embedded" },
            "url": settings.redis.as_deref().map(masked),
            "ready": state.bus_metrics.ready.get() != 0,
            "channels": state.bus_metrics.channels.get(),
        },
        "shards": shards,
        "settings": settings_of(settings),
        "limits": {
            "channel_name_bytes": limits::CHANNEL_NAME_BYTES_MAX,
            "value_depth": limits::VALUE_DEPTH_MAX,
            "head_bytes": limits::HEAD_BYTES_MAX,
            "query_channels": limits::QUERY_CHANNELS_MAX,
            "batch_bytes": limits::BATCH_BYTES_MAX,
            "control_connections": CONNECTIONS_MAX,
            "publish_channels": PUBLISH_CHANNELS_MAX,
            "page_channels": PAGE_CHANNELS_MAX,
        },
    });
    answer::json(StatusCode::OK, body)
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

/// Every setting that says something about this process; durations in milliseconds.
fn settings_of(settings: &Settings) -> Value {
    // Named one by one, so that a new setting is either shown or left out on purpose.
    let Settings {
        listen: _,
        control: _,
        control_hosts,
        redis: _,
        prefix,
        redis_channels,
        redis_subscribe,
        linger,
        shards,
        pin,
        fd_table,
        format,
        coalesce,
        heartbeat,
        pong_timeout,
        handshake_timeout,
        close_timeout,
        shutdown_timeout,
        connections_max,
        subscriptions_max,
        channels_max,
        channels_per_address: _,
        message_bytes_max,
        payload_bytes_max,
        log_bytes_total,
        buffer_bytes_total,
        inbox_messages,
        inbox_bytes_total,
        history_bytes_total,
        notsent_bytes,
        backlog,
        echo,
        allow_client_publish,
        log_format: _,
        log_level: _,
        channels,
    } = settings;
    json!({
        "control_hosts": control_hosts,
        "prefix": prefix,
        "redis_channels": redis_channels,
        "redis_subscribe": match redis_subscribe { RedisSubscribe::Exact => "exact", RedisSubscribe::Pattern => "pattern" },
        "linger_ms": linger.as_millis() as u64,
        "shards": shards,
        "pin": match pin { Pin::Auto => json!("auto"), Pin::None => json!("none"), Pin::List(cores) => json!(cores) },
        "fd_table": fd_table_name(*fd_table),
        "format": format.name(),
        "coalesce_ms": coalesce.map_or(0, |wait| wait.as_millis() as u64),
        "heartbeat_ms": heartbeat.as_millis() as u64,
        "pong_timeout_ms": pong_timeout.as_millis() as u64,
        "handshake_timeout_ms": handshake_timeout.as_millis() as u64,
        "close_timeout_ms": close_timeout.as_millis() as u64,
        "shutdown_timeout_ms": shutdown_timeout.as_millis() as u64,
        "connections_max": connections_max,
        "subscriptions_max": subscriptions_max,
        "channels_max": channels_max,
        // As resolved; none is no number.
        "channels_per_address": Some(settings.channels_of_address()).filter(|&channels| channels < usize::MAX),
        "message_bytes_max": message_bytes_max,
        "payload_bytes_max": payload_bytes_max,
        "log_bytes_total": log_bytes_total,
        "buffer_bytes_total": buffer_bytes_total,
        "inbox_messages": inbox_messages,
        "inbox_bytes_total": inbox_bytes_total,
        "history_bytes_total": history_bytes_total,
        "notsent_bytes": notsent_bytes,
        "backlog": backlog,
        "echo": echo,
        "allow_client_publish": allow_client_publish,
        "channel_default": rule_of(&channels.default),
        "channel_prefixes": channels.by_prefix.iter().map(|(prefix, rule)| {
            let mut shown = rule_of(rule);
            shown["prefix"] = json!(prefix);
            shown
        }).collect::<Vec<_>>(),
    })
}

fn rule_of(rule: &ChannelRule) -> Value {
    json!({
        "overrun": overrun_name(rule.overrun),
        "payload": match rule.payload {
            Expect::Auto => "auto",
            Expect::Msgpack => "msgpack",
            Expect::Json => "json",
            Expect::Raw => "raw",
        },
        "mismatch": match rule.mismatch { Mismatch::Opaque => "opaque", Mismatch::Drop => "drop" },
        "log_bytes": rule.log_bytes,
        "history_count": rule.history_count,
        "history_age_ms": rule.history_age.as_millis() as u64,
    })
}

/// Also the value of the `policy` label in the metrics.
pub(super) fn overrun_name(overrun: Overrun) -> &'static str {
    match overrun {
        Overrun::Disconnect => "disconnect",
        Overrun::Skip => "skip",
        Overrun::Latest => "latest",
    }
}

fn fd_table_name(fd_table: FdTable) -> &'static str {
    match fd_table {
        FdTable::Auto => "auto",
        FdTable::Shared => "shared",
        FdTable::Private => "private",
    }
}
