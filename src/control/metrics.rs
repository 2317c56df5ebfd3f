//! `GET /metrics`: the counters of [`crate::metrics`] under their Prometheus names. The only place where these names stand (`names` has most of them).
//!
//! Invariant: a scrape only reads. Counters are read one after the other while others write them, so figures of one scrape may be
//! a few messages apart; within a histogram, count and buckets agree.
//!
//! Names follow Prometheus's conventions (`campanile_`, base units, unit last, `_total` on counters and on nothing else); tests/whole/metrics.rs
//! holds every family to them. Four names are older than that and stay as aliases: dashboards may have them. `ws_connections_total` counts
//! *open* connections, so it is a gauge under its full name; `redis_pubsub_messages` is a running count without the suffix, so its type
//! is `unknown`, which takes any name and works with `rate()` all the same; `ws_message_latency_ms` is in milliseconds.
//!
//! prometheus-client writes OpenMetrics, which appends `_total` to every counter. A scraper that does not accept it gets the classic text
//! format (`classic` below), where counters are named with their suffix.

mod names;

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

use self::names::{BUS_COUNTERS, BUS_GAUGES, SHARD_COUNTERS, SHARD_GAUGES};
use super::{State, process};
use crate::auth::token::TokenReason;
use crate::config::Overrun;
use crate::config::routes::Unrouted;
use crate::config::words::EMBEDDED;
use crate::metrics::{Counter, LATENCY_BOUNDS_US, Latency, LoadCause, ServerState};
use crate::rate::Publisher;
use crate::tls::Version;
use crate::tls::fault::Fault;
use crate::wire::close::CloseReason;
use crate::wire::command::ErrorCode;
use crate::wire::http::refusal::RefusalReason;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

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
            "campanile_tls_handshakes",
            "TLS handshakes that came to their end, by version, and by whether an earlier session was taken up. Unit: handshakes.",
            labelled().flat_map(|([shard], metrics)| {
                let of = move |version: &Version, resumed: &'static str, counters: &[Counter]| {
                    (([shard], [("version", version.name()), ("resumed", resumed)]), counters[*version as usize].get())
                };
                Version::ALL
                    .iter()
                    .flat_map(move |version| [of(version, "no", &metrics.tls_full), of(version, "yes", &metrics.tls_resumed)])
            }),
        )?;
        page.counters(
            "campanile_tls_faults",
            "TLS sessions and handshakes that were given up, by what was wrong with them. Unit: connections.",
            labelled().flat_map(|([shard], metrics)| {
                let of = move |fault: &Fault| (([shard], [("reason", fault.name())]), metrics.tls_faults[*fault as usize].get());
                Fault::ALL.iter().map(of)
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
        let now = crate::sys::monotonic_ns();
        let state = |server: ServerState| {
            let age_seconds = server.probe_age_ns(now).map_or(0.0, |ns| ns as f64 / 1e9);
            (server.name, u64::from(server.is_ready), age_seconds)
        };
        let mut servers: Vec<(String, u64, f64)> = bus.servers.all().into_iter().map(state).collect();
        if servers.is_empty() {
            // The embedded bus has none.
            servers.push((EMBEDDED.to_owned(), bus.ready.get(), 0.0));
        }
        page.gauges(
            "campanile_bus_probe_age_seconds",
            "Since a message came back that was published to try it, for each Redis; 0 before the first, and where none may be sent. Unit: seconds.",
            servers.iter().map(|(url, _, age_seconds)| ([("url", url.clone())], *age_seconds)),
        )?;
        page.gauges(
            "campanile_bus_server_ready",
            "Whether the messages of its channels flow, for each Redis, or for the embedded bus: 1 if so, else 0. Unit: none.",
            servers.into_iter().map(|(url, is_ready, _)| ([("url", url)], is_ready)),
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
        let in_force = self.0.reload.in_force();
        page.gauge(
            "campanile_memory_bound_bytes",
            "The most user memory that the settings allow; sockets take kernel memory besides. Unit: bytes.",
            (self.0.facts.memory_bytes_max)(&in_force.settings),
        )?;
        page.gauge(
            "campanile_connections_bound",
            "The most connections that the settings allow. Unit: connections.",
            in_force.settings.bounds.connections_max as u64,
        )?;
        page.gauge(
            "campanile_control_watchers",
            "Who watches the statistics at /stats now. Unit: connections.",
            self.0.stats.watchers() as u64,
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
        let certificates = in_force.acceptor.iter().flat_map(|acceptor| acceptor.certificates());
        let expiries: Vec<_> =
            certificates.map(|certificate| ([("file", certificate.file.display().to_string())], certificate.not_after)).collect();
        // Without a sample it would be no family.
        if !expiries.is_empty() {
            page.gauges(
                "campanile_tls_certificate_expiry_timestamp_seconds",
                "Until when each certificate that is shown is good. Unit: seconds since 1970-01-01 UTC.",
                expiries.into_iter(),
            )?;
        }
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

    use super::names::Named;
    use super::*;
    use crate::metrics::{BusMetrics, ShardMetrics};

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
        let of_tls = size_of_val(&shard.tls_full) + size_of_val(&shard.tls_resumed) + size_of_val(&shard.tls_faults);
        let by_label: usize =
            by_label.into_iter().sum::<usize>() + of_tls + size_of_val(&shard.admission_closed) + size_of_val(&shard.command_errors);
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
