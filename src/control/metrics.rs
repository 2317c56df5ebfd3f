//! `GET /metrics`: the counters of [`crate::metrics`] under their Prometheus names. The only place where these names stand.
//!
//! Invariant: a scrape only reads. Counters are read one after the other while others write them, so figures of one scrape may be
//! a few messages apart; within a histogram, count and buckets agree.
//!
//! Names follow Prometheus's conventions (`campanile_`, base units, unit last, `_total` on counters and on nothing else); tests/metrics.rs
//! holds every family to them. Four names are older than that and stay as aliases: dashboards may have them. `ws_connections_total` counts
//! *open* connections, so it is a gauge under its full name; `redis_pubsub_messages` is a running count without the suffix, so its type
//! is `unknown`, which takes any name and works with `rate()` all the same; `ws_message_latency_ms` is in milliseconds.
//!
//! prometheus-client writes OpenMetrics, which appends `_total` to every counter. A scraper that does not accept it gets the classic text
//! format (`classic` below), where counters are named with their suffix.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{State, process};
use crate::auth::token::TokenReason;
use crate::config::Overrun;
use crate::config::routes::Unrouted;
use crate::config::words::EMBEDDED;
use crate::metrics::{BusMetrics, Counter, LATENCY_BOUNDS_US, Latency, LoadCause, ShardMetrics};
use crate::rate::Publisher;
use crate::wire::close::CloseReason;
use crate::wire::command::ErrorCode;
use crate::wire::http::refusal::RefusalReason;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Name, HELP text with the unit at its end, where the number is.
type Named<T> = (&'static str, &'static str, fn(&T) -> &Counter);

const SHARD_GAUGES: &[Named<ShardMetrics>] = &[
    ("campanile_connections", "Open WebSocket connections now. Unit: connections.", |m| &m.connections),
    ("ws_connections_total", "Alias of campanile_connections (a gauge, whatever its name says). Unit: connections.", |m| &m.connections),
    ("campanile_stage", "How far the shard has come: 0 serves, 1 drains, 2 stops. Unit: none.", |m| &m.stage),
    ("campanile_sockets", "Accepted sockets now, in whatever phase. Unit: sockets.", |m| &m.sockets),
    ("campanile_subscriptions", "Subscriptions now. Unit: subscriptions.", |m| &m.subscriptions),
    ("campanile_channels", "Channels with a subscriber on the shard now. Unit: channels.", |m| &m.channels),
    (
        "campanile_lagging_subscriptions",
        "Subscriptions behind their channel's head and blocked on their socket now. Unit: subscriptions.",
        |m| &m.lagging,
    ),
    ("campanile_inbox_depth", "Entries waiting in the shard's inbox at the start of its last turn. Unit: entries.", |m| &m.inbox_depth),
    ("campanile_inbox_bytes", "Messages waiting in the shard's inbox at the end of its last turn. Unit: bytes.", |m| &m.inbox_bytes),
    ("campanile_log_bytes", "Memory held by channel logs now. Unit: bytes.", |m| &m.log_bytes),
    ("campanile_buffer_bytes", "Memory held by split frames and unsent control frames now. Unit: bytes.", |m| &m.buffer_bytes),
];

const SHARD_COUNTERS: &[Named<ShardMetrics>] = &[
    ("campanile_connections_accepted", "Sockets accepted. Unit: sockets.", |m| &m.accepted),
    ("campanile_accept_errors", "Times accept failed for want of descriptors or kernel memory. Unit: failures.", |m| &m.accept_errors),
    ("ws_messages_sent", "Alias of campanile_messages_sent_total. Unit: messages.", |m| &m.messages_sent),
    ("campanile_messages_sent", "Messages whose last byte the kernel accepted, per subscriber. Unit: messages.", |m| &m.messages_sent),
    ("campanile_sent_bytes", "Bytes the kernel accepted. Unit: bytes.", |m| &m.bytes_sent),
    ("campanile_messages_received", "Messages received from clients. Unit: messages.", |m| &m.messages_received),
    ("campanile_received_bytes", "Bytes received from clients. Unit: bytes.", |m| &m.bytes_received),
    ("campanile_commands", "Commands received from clients. Unit: commands.", |m| &m.commands),
    (
        "campanile_not_allowed",
        "Subscribes and publishes refused by a channel's rule, and subscriptions ended by one after a refresh or a reload. Unit: commands.",
        |m| &m.not_allowed,
    ),
    ("campanile_token_signatures", "Tokens whose signature was checked. Unit: tokens.", |m| &m.signatures),
    ("campanile_tokens_known", "Tokens taken because they had been verified before. Unit: tokens.", |m| &m.tokens_known),
    ("campanile_commands_limited", "Commands refused because the connection sends too many a second. Unit: commands.", |m| {
        &m.commands_limited
    }),
    ("campanile_channels_limited", "Subscribes refused because the connection has channels made too fast. Unit: commands.", |m| {
        &m.channels_limited
    }),
    (
        "campanile_channels_refused",
        "Subscribes refused because the host or the address has as many channels as may be. Unit: commands.",
        |m| &m.channels_refused,
    ),
    ("campanile_writes", "Write system calls. Unit: calls.", |m| &m.writes),
    ("campanile_writes_blocked", "Writes that the kernel took only in part or not at all. Unit: calls.", |m| &m.writes_blocked),
    (
        "campanile_flush_looks",
        "Subscriptions that visits of connections looked at: what flushing costs besides its writes. Unit: subscriptions.",
        |m| &m.looks,
    ),
    ("campanile_pings_sent", "Heartbeat pings sent. Unit: frames.", |m| &m.pings_sent),
    ("campanile_messages_skipped", "Messages that subscribers were not sent and that a gap announced. Unit: messages.", |m| {
        &m.messages_skipped
    }),
    (
        "campanile_messages_paced",
        "Messages that subscriptions were not sent because they want no more than so many a second. Unit: messages.",
        |m| &m.messages_paced,
    ),
    (
        "campanile_messages_over_budget",
        "Messages that subscribers were not sent because their channel has more to deliver than its budget. Unit: messages.",
        |m| &m.messages_over_budget,
    ),
    ("campanile_inbox_lost", "Messages lost because the shard's inbox was full, announced by a gap. Unit: messages.", |m| &m.inbox_lost),
    (
        "campanile_messages_replayed",
        "Messages sent to clients that resumed beyond the log, read from where they are kept. Unit: messages.",
        |m| &m.messages_replayed,
    ),
    ("campanile_messages_recalled", "Messages sent to clients that asked for a channel's history. Unit: messages.", |m| {
        &m.messages_recalled
    }),
    ("campanile_unnumbered_sent", "Messages without a number that were sent, per subscriber. Unit: messages.", |m| &m.unnumbered_sent),
    (
        "campanile_unnumbered_skipped",
        "Messages without a number that subscriptions were not sent: their sockets took nothing, or they have a max_rate. Unit: messages.",
        |m| &m.unnumbered_skipped,
    ),
    (
        "campanile_unnumbered_dropped",
        "Messages without a number that a shard sent to nobody, as too many were under way. Unit: messages.",
        |m| &m.unnumbered_dropped,
    ),
    ("campanile_marks_told", "Marks of users that their other connections here were told. Unit: events.", |m| &m.marks_told),
    ("campanile_presence_answered", "Clients told how many subscribers a channel has (presence). Unit: answers.", |m| &m.presence_answered),
    ("campanile_loop_turns", "Turns of the shard's loop. Unit: turns.", |m| &m.turns),
];

const BUS_COUNTERS: &[Named<BusMetrics>] = &[
    ("campanile_bus_messages", "Messages received from the bus (Redis, or the embedded one). Unit: messages.", |m| &m.messages),
    ("campanile_bus_received_bytes", "Payload bytes received from the bus. Unit: bytes.", |m| &m.bytes),
    ("campanile_bus_failovers", "Masters that took the place of another, as Sentinels or a Cluster say. Unit: masters.", |m| &m.failovers),
    (
        "campanile_bus_redirected",
        "Publishes that a node of a Cluster did not execute, because their slot was another's or was moving; they are sent again. Unit: messages.",
        |m| &m.redirected,
    ),
    (
        "campanile_bus_misplaced",
        "Messages dropped because they came by a Redis that, of several, does not have their channel. Unit: messages.",
        |m| &m.misplaced,
    ),
    ("campanile_bus_unwanted", "Messages received for channels that nobody here listens to. Unit: messages.", |m| &m.unwanted),
    ("campanile_bus_dropped", "Messages dropped: wrong payload kind, too large, or no valid channel name. Unit: messages.", |m| &m.dropped),
    ("campanile_bus_mismatched", "Payloads not of the kind set for their channel, passed on as opaque. Unit: messages.", |m| &m.mismatched),
    ("campanile_bus_routed", "Messages that routes put into channels served here, one for each channel. Unit: messages.", |m| &m.routed),
    ("campanile_bus_repairs", "Times that numbers of a durable channel were missing and were read from its stream. Unit: times.", |m| {
        &m.repairs
    }),
    ("campanile_bus_repaired", "Messages of durable channels that were read from their streams. Unit: messages.", |m| &m.repaired),
    (
        "campanile_bus_repairs_overflowed",
        "Times that more came during a repair than could be held, so that it was read from the stream once more. Unit: times.",
        |m| &m.repairs_overflowed,
    ),
    (
        "campanile_bus_probes_good",
        "Messages published to a channel of the node's own that came back, every 5 s where there are durable channels. Unit: messages.",
        |m| &m.probes_good,
    ),
    (
        "campanile_bus_probes_lost",
        "Those that Redis has taken and that did not come back, after which the subscribed connection is made anew. Unit: messages.",
        |m| &m.probes_lost,
    ),
    ("campanile_bus_probes_refused", "Those that Redis has not taken. Unit: messages.", |m| &m.probes_refused),
    ("campanile_bus_repeated", "Messages of durable channels that came once more. Unit: messages.", |m| &m.repeated),
    ("campanile_bus_stale", "Messages of durable channels that were of an epoch before. Unit: messages.", |m| &m.stale),
    (
        "campanile_bus_unnumbered",
        "Messages that were published to a durable channel without a number of its stream, by a plain PUBLISH. Unit: messages.",
        |m| &m.unnumbered,
    ),
    (
        "campanile_bus_unnumbered_dropped",
        "Those that were not handed to a shard, or not kept during a repair, for want of room. Unit: messages.",
        |m| &m.unnumbered_dropped,
    ),
    (
        "campanile_bus_envelopes_refused",
        "Messages of durable channels that were cut short, forged, or of another version. Unit: messages.",
        |m| &m.envelopes_refused,
    ),
    ("campanile_bus_batches", "Batches made. Unit: batches.", |m| &m.batches),
    ("campanile_bus_inbox_full", "Messages not handed to a shard because its inbox was full. Unit: messages.", |m| &m.inbox_full),
    (
        "campanile_bus_channels_evicted",
        "Channels that nobody heard any more and that made room for others before their time. Unit: channels.",
        |m| &m.channels_evicted,
    ),
    (
        "campanile_bus_history_dropped",
        "Messages dropped from the node's history because all histories together were full. Unit: messages.",
        |m| &m.history_dropped,
    ),
    ("campanile_bus_published", "Messages published through this process. Unit: messages.", |m| &m.published),
    ("campanile_bus_publish_errors", "Publishes that failed. Unit: messages.", |m| &m.publish_errors),
    (
        "campanile_bus_journal_refused",
        "Messages for durable channels that were refused because they could not be kept. Unit: messages.",
        |m| &m.journal_refused,
    ),
    ("campanile_bus_marks_set", "Marks of how far users have read that were set through this process. Unit: marks.", |m| &m.marks_set),
    ("campanile_bus_marks_counted", "Questions of how much users have not read that were answered. Unit: questions.", |m| &m.marks_counted),
    ("campanile_bus_marks_failed", "Marks and questions of how much is unread that failed. Unit: questions.", |m| &m.marks_failed),
    (
        "campanile_bus_mark_news_dropped",
        "Marks of which the user's other connections here were not told, as too many came at once. Unit: marks.",
        |m| &m.mark_news_dropped,
    ),
    (
        "campanile_bus_presence_events",
        "Events of who is there (occupied, vacated, connected, disconnected) written to the stream in Redis. Unit: events.",
        |m| &m.presence_events,
    ),
    (
        "campanile_bus_presence_refused",
        "Times that Redis refused for good what is kept there of who is there (presence). Unit: times.",
        |m| &m.presence_refused,
    ),
    ("campanile_bus_connects", "Connections made to Redis. Unit: connections.", |m| &m.connects),
    ("campanile_bus_disconnects", "Connections to Redis lost. Unit: connections.", |m| &m.disconnects),
    ("campanile_bus_turns", "Turns of the bus thread's loop. Unit: turns.", |m| &m.turns),
    ("campanile_bus_protocol_errors", "Replies from Redis that could not be understood. Unit: replies.", |m| &m.protocol_errors),
];

const BUS_GAUGES: &[Named<BusMetrics>] = &[
    ("campanile_bus_channels", "Channels known to the bus thread now. Unit: channels.", |m| &m.channels),
    (
        "campanile_bus_channels_refused",
        "Redis channels and patterns wanted now that Redis does not let us subscribe to. Unit: channels.",
        |m| &m.channels_refused,
    ),
    ("campanile_bus_history_bytes", "Memory held by the node's history now. Unit: bytes.", |m| &m.history_bytes),
    ("campanile_bus_journal_messages", "Messages of durable channels kept without Redis now. Unit: messages.", |m| &m.journal_messages),
    ("campanile_bus_journal_memory_bytes", "Memory held by messages and idempotency keys of durable channels now. Unit: bytes.", |m| {
        &m.journal_memory_bytes
    }),
    ("campanile_bus_journal_disk_bytes", "What the files in data_dir hold now. Unit: bytes.", |m| &m.journal_disk_bytes),
    ("campanile_bus_journal_unsynced_bytes", "What was published and is not synced to the disk now. Unit: bytes.", |m| {
        &m.journal_unsynced_bytes
    }),
    (
        "campanile_bus_journal_failing",
        "Whether data_dir cannot be written to, so that durable messages are refused: 1 if so, else 0. Unit: none.",
        |m| &m.journal_failing,
    ),
    ("campanile_bus_ready", "Whether messages flow: 1 if so, else 0. Unit: none.", |m| &m.ready),
];

pub(super) async fn metrics(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(state)));
    let mut page = String::with_capacity(64 * 1024);
    if text::encode(&mut page, &registry).is_err() {
        return super::answer::Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written").into_response();
    }
    let accepts = |value: &header::HeaderValue| value.to_str().is_ok_and(|value| value.contains("application/openmetrics-text"));
    if headers.get_all(header::ACCEPT).iter().any(accepts) {
        ([(header::CONTENT_TYPE, OPENMETRICS)], page).into_response()
    } else {
        ([(header::CONTENT_TYPE, CLASSIC)], classic(&page)).into_response()
    }
}

/// OpenMetrics as the text format 0.0.4: there, the suffix is part of a counter's (and an info's) name, `unknown` is spelled
/// `untyped`, and nothing marks the end. Sample lines are the same in both.
fn classic(openmetrics: &str) -> String {
    let mut page = String::with_capacity(openmetrics.len());
    let mut help = ("", "");
    for line in openmetrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            // Held until the type says how the name ends.
            help = text.split_once(' ').unwrap_or((text, ""));
        } else if let Some(kind) = line.strip_prefix("# TYPE ").and_then(|text| Some(text.split_once(' ')?.1)) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            let (name, text) = help;
            page.push_str(&format!("# HELP {name}{suffix} {text}\n# TYPE {name}{suffix} {kind}\n"));
        } else if line != "# EOF" {
            page.push_str(line);
            page.push('\n');
        }
    }
    page
}

/// One scrape: prometheus-client asks for the values while it writes.
#[derive(Debug)]
struct Scrape(Arc<State>);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page { encoder };
        self.shards(&mut page)?;
        self.bus(&mut page)?;
        self.control(&mut page)?;
        self.reload(&mut page)?;
        self.process(&mut page)
    }
}

impl Scrape {
    fn shards(&self, page: &mut Page<'_>) -> fmt::Result {
        let shards = &self.0.shards;
        let labelled = || shards.iter().enumerate().map(|(number, shard)| ([("shard", number)], shard));
        for (name, help, read) in SHARD_GAUGES {
            page.gauges(name, help, labelled().map(|(labels, shard)| (labels, read(shard).get())))?;
        }
        for (name, help, read) in SHARD_COUNTERS {
            page.counters(name, help, labelled().map(|(labels, shard)| (labels, read(shard).get())))?;
        }
        page.counters(
            "campanile_loop_busy_seconds",
            "Time the shard's loop spent working, not waiting. Unit: seconds.",
            labelled().map(|(labels, shard)| (labels, shard.busy_ns.get() as f64 / 1e9)),
        )?;
        page.gauges(
            "campanile_loop_lag_seconds",
            "How long what happens waits for the shard's loop, averaged over a second or so; 0 where admission_lag is none. Unit: seconds.",
            labelled().map(|(labels, shard)| (labels, shard.lag_ns.get() as f64 / 1e9)),
        )?;
        page.gauges(
            "campanile_admission_closed",
            "Whether the shard takes in nobody, by what it has too much of: 1, else 0. Unit: none.",
            labelled().flat_map(|([shard], metrics)| {
                let of = move |cause: &LoadCause| (([shard], [("cause", cause.name())]), metrics.admission_closed[*cause as usize].get());
                LoadCause::ALL.iter().map(of)
            }),
        )?;
        let ratios = self.0.busy.ratios(crate::sys::monotonic_ns(), shards);
        page.gauges(
            "campanile_loop_busy_ratio",
            "Share of the last ten seconds that the shard's loop spent working. Unit: ratio, 0 to 1.",
            ratios.into_iter().enumerate().map(|(number, ratio)| ([("shard", number)], ratio)),
        )?;

        // Every reason is written even at 0: a series that appears with its first event has no increase to see.
        page.counters(
            "campanile_connections_closed",
            "Accepted connections that ended, by reason. Unit: connections.",
            labelled().flat_map(|([shard], metrics)| {
                let of = move |reason: &CloseReason| (([shard], [("reason", reason.name())]), metrics.closed[*reason as usize].get());
                CloseReason::ALL.iter().map(of)
            }),
        )?;
        page.counters(
            "campanile_connections_refused",
            "Requests refused on the public port, by reason. Unit: requests.",
            labelled().flat_map(|([shard], metrics)| {
                let of = move |reason: &RefusalReason| (([shard], [("reason", reason.name())]), metrics.refused[*reason as usize].get());
                RefusalReason::ALL.iter().map(of)
            }),
        )?;
        page.counters(
            "campanile_tokens_refused",
            "Tokens that were not taken, with a request or a refresh, by reason. Unit: tokens.",
            labelled().flat_map(|([shard], metrics)| {
                let of =
                    move |reason: &TokenReason| (([shard], [("reason", reason.name())]), metrics.tokens_refused[*reason as usize].get());
                TokenReason::ALL.iter().map(of)
            }),
        )?;
        page.counters(
            "campanile_command_errors",
            "Commands answered with an error, by its code. Unit: commands.",
            labelled().flat_map(|([shard], metrics)| {
                let of = move |code: &ErrorCode| (([shard], [("code", code.name())]), metrics.command_errors[*code as usize].get());
                ErrorCode::ALL.iter().map(of)
            }),
        )?;
        page.counters(
            "campanile_overruns",
            "Times a channel's log passed a subscriber, by what was done. Unit: subscriptions.",
            labelled().flat_map(|([shard], metrics)| {
                let of = move |policy: &Overrun| (([shard], [("policy", policy.name())]), metrics.overruns[*policy as usize].get());
                Overrun::ALL.iter().map(of)
            }),
        )?;
        page.histograms(
            "campanile_loop_turn_seconds",
            "How long a turn of the shard's loop took, in which nobody else is served. Unit: seconds.",
            1e6,
            labelled().map(|(labels, shard)| (labels, &shard.turn)),
        )?;
        page.histograms(
            "campanile_message_latency_seconds",
            "From receipt from the bus to the last byte accepted by the kernel, per delivery. Unit: seconds.",
            1e6,
            labelled().map(|(labels, shard)| (labels, &shard.latency)),
        )?;
        page.histograms(
            "ws_message_latency_ms",
            "Alias of campanile_message_latency_seconds. Unit: milliseconds.",
            1e3,
            labelled().map(|(labels, shard)| (labels, &shard.latency)),
        )
    }

    fn bus(&self, page: &mut Page<'_>) -> fmt::Result {
        let bus = &self.0.bus_metrics;
        page.encoder
            .encode_descriptor(
                "redis_pubsub_messages",
                "Alias of campanile_bus_messages_total, a running count. Unit: messages.",
                None,
                MetricType::Unknown,
            )?
            .encode_gauge(&bus.messages.get())?;
        for (name, help, read) in BUS_COUNTERS {
            page.counter(name, help, read(bus).get())?;
        }
        let mut servers: Vec<(String, u64)> =
            bus.servers.all().into_iter().map(|server| (server.name, u64::from(server.is_ready))).collect();
        if servers.is_empty() {
            // The embedded bus has none.
            servers.push((EMBEDDED.to_owned(), bus.ready.get()));
        }
        page.gauges(
            "campanile_bus_server_ready",
            "Whether the messages of its channels flow, for each Redis, or for the embedded bus: 1 if so, else 0. Unit: none.",
            servers.into_iter().map(|(url, is_ready)| ([("url", url)], is_ready)),
        )?;
        page.counters(
            "campanile_bus_unrouted",
            "Messages of routed channels that went nowhere, by reason. Unit: messages.",
            Unrouted::ALL.iter().map(|reason| ([("reason", reason.name())], bus.unrouted[*reason as usize].get())),
        )?;
        page.counters(
            "campanile_publishes_limited",
            "Publishes of clients refused because there are too many a second, by who has too many. Unit: messages.",
            Publisher::ALL.iter().map(|of| ([("of", of.name())], bus.publishes_limited[*of as usize].get())),
        )?;
        for (name, help, read) in BUS_GAUGES {
            page.gauge(name, help, read(bus).get())?;
        }
        page.gauge("campanile_bus_inbox_depth", "Commands waiting in the bus thread's inbox now. Unit: commands.", self.0.bus.len())
    }

    fn control(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "campanile_revocations",
            "Revocations kept now, of tokens and of users. Unit: revocations.",
            self.0.revocations.table.len() as u64,
        )?;
        let tally = &self.0.tally;
        page.counters(
            "campanile_control_answers",
            "Answers of the control port, by status. Unit: answers.",
            tally.answers().map(|(status, count)| ([("status", status)], count)),
        )?;
        page.counters(
            "campanile_control_connections_cut",
            "Connections of the control port that were ended before their clients ended them, by reason. Unit: connections.",
            tally.cuts().map(|(reason, count)| ([("reason", reason)], count)),
        )
    }

    fn reload(&self, page: &mut Page<'_>) -> fmt::Result {
        let (reload, in_force) = (&self.0.reload, self.0.reload.in_force());
        let tally = &reload.tally;
        let results = |good: &AtomicU64, failed: &AtomicU64| {
            [("good", good.load(Relaxed)), ("failed", failed.load(Relaxed))]
                .map(|(result, count)| ([("result", result)], count))
                .into_iter()
        };
        page.counters(
            "campanile_reloads",
            "Reloads, by whether they came into force. Unit: reloads.",
            results(&tally.good, &tally.failed),
        )?;
        page.gauge(
            "campanile_reload_good_timestamp_seconds",
            "When the settings in force were read. Unit: seconds since 1970-01-01 UTC.",
            tally.good_unix_ms.load(Relaxed) as f64 / 1e3,
        )?;
        page.gauge("campanile_token_keys", "Keys that tokens are verified by now. Unit: keys.", in_force.keys() as u64)?;
        let help = "Fetches of keys from jwks_url, by whether there were any. Unit: fetches.";
        page.counters("campanile_jwks_fetches", help, results(&tally.fetched, &tally.fetch_failed))?;
        let fetched_unix_ms = tally.fetched_unix_ms.load(Relaxed);
        let age_ms = if fetched_unix_ms == 0 { 0 } else { crate::sys::unix_ms().saturating_sub(fetched_unix_ms) };
        page.gauge("campanile_jwks_age_seconds", "Since the last fetch that brought keys; 0 before it. Unit: seconds.", age_ms as f64 / 1e3)
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let process = process::read();
        if let Some(bytes) = process.resident_bytes {
            page.gauge("process_resident_memory_bytes", "Resident memory. Unit: bytes.", bytes)?;
        }
        if let Some(bytes) = process.virtual_bytes {
            page.gauge("process_virtual_memory_bytes", "Virtual memory. Unit: bytes.", bytes)?;
        }
        if let Some(threads) = process.threads {
            page.gauge("process_threads", "Threads. Unit: threads.", threads)?;
        }
        if let Some(open) = process.open_fds {
            let help =
                "Open descriptors of the main table; shards with private tables have their own (campanile_sockets). Unit: descriptors.";
            page.gauge("process_open_fds", help, open)?;
        }
        if let Some(max) = process.max_fds {
            page.gauge("process_max_fds", "Most open descriptors per table. Unit: descriptors.", max)?;
        }
        if let Some(seconds) = process.cpu_seconds {
            page.counter("process_cpu_seconds", "User and system CPU time. Unit: seconds.", seconds)?;
        }
        if let Some(seconds) = process.start_unix_seconds {
            page.gauge("process_start_time_seconds", "When the process started. Unit: seconds since 1970-01-01 UTC.", seconds)?;
        }
        page.encoder
            .encode_descriptor("campanile_build", "What is running; always 1. Unit: none.", None, MetricType::Info)?
            .encode_info(&[("version", self.0.facts.version)])
    }
}

/// Writes whole families: a name, its help, one sample per label set.
struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    /// Microseconds and buckets of their own in, units of `unit_us` microseconds out; the encoder cumulates the buckets.
    fn histograms<'m, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit_us: f64,
        samples: impl Iterator<Item = (L, &'m Latency)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let bounds = LATENCY_BOUNDS_US.iter().map(|&us| us as f64 / unit_us).chain([f64::INFINITY]);
        for (labels, latency) in samples {
            let buckets: Vec<(f64, u64)> = bounds.clone().zip(latency.buckets.iter().map(Counter::get)).collect();
            let count = buckets.iter().map(|(_, observations)| observations).sum();
            let sum = latency.sum_us.get() as f64 / unit_us;
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ptr;

    use super::*;

    /// Where the counters stand that this list has a name for.
    fn addresses<T>(named: &[&[Named<T>]], metrics: &T) -> BTreeSet<usize> {
        named.iter().copied().flatten().map(|(_, _, read)| ptr::from_ref(read(metrics)).addr()).collect()
    }

    #[test]
    fn every_counter_has_a_name() {
        let shard = ShardMetrics::default();
        let named = addresses(&[SHARD_GAUGES, SHARD_COUNTERS], &shard).len() * size_of::<Counter>();
        let by_label =
            [size_of_val(&shard.closed), size_of_val(&shard.refused), size_of_val(&shard.tokens_refused), size_of_val(&shard.overruns)];
        let by_label: usize =
            by_label.into_iter().sum::<usize>() + size_of_val(&shard.admission_closed) + size_of_val(&shard.command_errors);
        let in_other_units =
            size_of_val(&shard.busy_ns) + size_of_val(&shard.lag_ns) + size_of_val(&shard.latency) + size_of_val(&shard.turn);
        assert_eq!(named + by_label + in_other_units, size_of::<ShardMetrics>(), "a counter of shards has no row here");
        let bus = BusMetrics::default();
        let named = addresses(&[BUS_GAUGES, BUS_COUNTERS], &bus).len() * size_of::<Counter>();
        assert_eq!(
            named + size_of_val(&bus.unrouted) + size_of_val(&bus.publishes_limited) + size_of_val(&bus.servers),
            size_of::<BusMetrics>(),
            "a counter of the bus has no row here"
        );
    }
}
