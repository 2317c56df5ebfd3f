//! What a run has found: rows for the table, values for the JSON, failures for the exit code.
//!
//! Invariant: a figure is put into the table and into the JSON by the same call.

mod chart;
pub mod html;
pub mod series;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use campanile::sys;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::args::{Cores, Options, is_stdout};
use crate::crowd::Crowd;
use crate::process::Snapshot;
use crate::progress::{short, short_bytes, short_us};
use crate::round::Round;
use crate::stop;
use crate::tally::{Counts, Tally};
use crate::target::Target;
use series::Series;

/// Percentiles that are reported, with their names in the JSON.
pub const PERCENTILES: [(f64, &str); 6] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (99.99, "p99.99"), (100.0, "max")];

#[derive(Debug)]
pub struct Report {
    pub scenario: &'static str,
    pub title: String,
    pub rows: Vec<Row>,
    json: Map<String, Value>,
    pub failures: Vec<String>,
    samples: Vec<String>,
    pub series: Series,
    /// Latency of all messages, and of all connections.
    pub total: Tally,
    /// What `total.latency_us` is of, for people.
    pub latency_of: &'static str,
    /// Somebody ended it before its end.
    pub is_interrupted: bool,
    /// Server and floor take turns: what a delivery costs is told of one pair of turns, beside the floor's.
    has_floor: bool,
    begin_unix_ms: u64,
    begin_ns: u64,
}

#[derive(Debug)]
pub struct Row {
    pub label: String,
    pub value: String,
    /// Belongs to the few figures that the page shows large.
    pub is_headline: bool,
}

impl Report {
    pub fn new(scenario: &'static str, target: &Target, options: &Options) -> Report {
        // Files with results are shown around; a password in a URL is not.
        let masked = |word: String| if word.contains("://") { campanile::config::mask::url(&word) } else { word };
        let command: Vec<String> = std::env::args().skip(1).map(masked).collect();
        let mut json = Map::new();
        json.insert("scenario".to_owned(), scenario.into());
        json.insert("command".to_owned(), json!(command));
        json.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        json.insert("target".to_owned(), json!({"url": target.url(), "serve": options.serve, "format": target.format.name()}));
        json.insert("clients".to_owned(), options.clients.into());
        json.insert("payload_bytes".to_owned(), options.payload.into());
        json.insert("machine".to_owned(), machine());
        Report {
            scenario,
            title: target.url(),
            rows: Vec::new(),
            json,
            failures: Vec::new(),
            samples: Vec::new(),
            series: Series::new(),
            total: Tally::default(),
            latency_of: "latency",
            is_interrupted: false,
            has_floor: options.floor || options.has_two_servers(),
            begin_unix_ms: sys::unix_ms(),
            begin_ns: sys::monotonic_ns(),
        }
    }

    /// Files that cannot be written are told before the run, not after it.
    pub fn check_files(options: &Options) -> anyhow::Result<()> {
        for path in [&options.json, &options.html].into_iter().flatten().filter(|path| !is_stdout(path)) {
            let is_new = !path.exists();
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            opened.with_context(|| format!("{} cannot be written", path.display()))?;
            if is_new {
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(())
    }

    pub fn row(&mut self, label: &str, value: impl Into<String>) {
        self.rows.push(Row { label: label.to_owned(), value: value.into(), is_headline: false });
    }

    pub fn headline(&mut self, label: &str, value: impl Into<String>) {
        self.rows.push(Row { label: label.to_owned(), value: value.into(), is_headline: true });
    }

    pub fn set(&mut self, key: &str, value: Value) {
        self.json.insert(key.to_owned(), value);
    }

    /// Takes a value out again, to put it elsewhere.
    pub fn take(&mut self, key: &str) -> Value {
        self.json.remove(key).unwrap_or_default()
    }

    /// Something is not as the scenario wants it. Of a run that somebody has ended that says nothing; what [`Report::check`] finds does.
    pub fn fail(&mut self, why: impl Into<String>) {
        if !stop::is_asked() {
            self.failures.push(why.into());
        }
    }

    pub fn samples(&mut self, tally: &Tally) {
        for sample in &tally.samples {
            if self.samples.len() < 12 && !self.samples.contains(sample) {
                self.samples.push(sample.clone());
            }
        }
    }

    /// How connecting went, and what the connections cost in memory.
    pub fn connected(&mut self, crowd: &Crowd, counts: &Counts, seconds: f64, before: &Snapshot, after: &Snapshot) {
        let rate = counts.connected as f64 / seconds;
        self.headline("connected", format!("{} of {} ({seconds:.2} s, {}/s)", counts.ready, crowd.clients, short(rate)));
        if counts.retries > 0 {
            self.row("connects repeated", counts.retries.to_string());
        }
        self.handshakes("tls", counts, seconds);
        let is_secure = counts.tls_full + counts.tls_resumed > 0;
        let connections = counts.ready.max(1) as f64;
        let mut memory = Map::new();
        if let (Some(before), Some(after)) = (&before.process, &after.process) {
            let user = (after.anonymous_bytes as f64 - before.anonymous_bytes as f64) / connections;
            let cpu_us = (after.cpu_ns.saturating_sub(before.cpu_ns)) as f64 / 1000.0 / connections;
            self.headline("user memory per connection", format!("{user:.0} B"));
            if !self.has_floor || self.scenario != "connect" {
                let and_all = if is_secure { ", with its TLS handshake" } else { "" };
                self.row(&format!("server CPU per connection{and_all}"), format!("{cpu_us:.1} µs"));
            }
            memory.insert("user_bytes_per_connection".to_owned(), json!(user));
            memory.insert("server_anonymous_bytes".to_owned(), after.anonymous_bytes.into());
            memory.insert("server_cpu_us_per_connect".to_owned(), json!(cpu_us));
        }
        let (tcp, slab) = (
            after.kernel.tcp_buffer_bytes as f64 - before.kernel.tcp_buffer_bytes as f64,
            after.kernel.slab_bytes as f64 - before.kernel.slab_bytes as f64,
        );
        let kernel = (after.kernel.socket_bytes() as f64 - before.kernel.socket_bytes() as f64) / connections;
        self.row("kernel memory per connection", format!("{kernel:.0} B, both ends if both are on this host"));
        memory.insert("kernel_bytes_per_connection".to_owned(), json!(kernel));
        memory.insert("kernel_tcp_buffer_bytes".to_owned(), json!(tcp));
        memory.insert("kernel_slab_bytes".to_owned(), json!(slab));
        self.set("memory", Value::Object(memory));
        self.set(
            "connect",
            json!({"ready": counts.ready, "seconds": seconds, "per_second": rate, "retries": counts.retries, "refused": counts.refused}),
        );
    }

    /// TLS handshakes that were done in so many seconds, if any were.
    pub fn handshakes(&mut self, key: &str, counts: &Counts, seconds: f64) {
        let (full, resumed) = (counts.tls_full, counts.tls_resumed);
        if full + resumed == 0 {
            return;
        }
        let rate = |count: u64| count as f64 / seconds.max(1e-9);
        let told = |count: u64, what: &str| format!("{count} {what} ({}/s)", short(rate(count)));
        self.headline("TLS handshakes", format!("{}, {}", told(full, "full"), told(resumed, "resumed")));
        self.set(key, json!({"full": full, "resumed": resumed, "full_per_second": rate(full), "resumed_per_second": rate(resumed)}));
    }

    /// How subscribing beyond each client's first channel went, and what it cost.
    pub fn subscribed(&mut self, counts: &Counts, seconds: f64, before: &Snapshot, after: &Snapshot) {
        let (count, rate) = (counts.subscribed.max(1) as f64, counts.subscribed as f64 / seconds);
        let again = if counts.asked_again > 0 { format!(", {} asked again", counts.asked_again) } else { String::new() };
        self.headline("subscribed to more", format!("{} ({seconds:.2} s, {}/s{again})", counts.subscribed, short(rate)));
        let mut figures = json!({"count": counts.subscribed, "seconds": seconds, "per_second": rate, "asked_again": counts.asked_again});
        if let (Some(before), Some(after)) = (&before.process, &after.process) {
            let user = (after.anonymous_bytes as f64 - before.anonymous_bytes as f64) / count;
            let cpu_us = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1000.0 / count;
            self.headline("user memory per subscription", format!("{user:.0} B"));
            self.row("server CPU per subscription", format!("{cpu_us:.1} µs"));
            figures["user_bytes_per_subscription"] = json!(user);
            figures["server_cpu_us_per_subscription"] = json!(cpu_us);
            figures["server_anonymous_bytes"] = after.anonymous_bytes.into();
        }
        self.set("subscriptions", figures);
    }

    /// CPU of the server by thread, in one round.
    pub fn threads(&mut self, before: &Snapshot, after: &Snapshot) {
        if let (Some(before), Some(after)) = (&before.process, &after.process) {
            let threads: Map<String, Value> = after
                .cpu_ns_by_thread
                .iter()
                .map(|(name, cpu)| (name.clone(), cpu.saturating_sub(before.cpu_ns_by_thread.get(name).copied().unwrap_or(0)).into()))
                .collect();
            self.set("server_cpu_ns_by_thread", Value::Object(threads));
        }
    }

    /// A round of messages: what was published, what came, what it cost.
    pub fn round(&mut self, round: &Round) {
        let published = &round.published;
        self.row(
            "published",
            format!(
                "{} in {:.2} s ({}/s), at most {} late",
                published.messages,
                published.seconds,
                short(published.messages as f64 / published.seconds.max(1e-9)),
                short_us(published.late_us_max() as f64)
            ),
        );
        let rate = round.deliveries() as f64 / round.seconds;
        self.headline(
            "delivered",
            format!("{} ({}/s), {} received", round.deliveries(), short(rate), short_bytes(round.counts.bytes as f64)),
        );
        self.row("frame", format!("{} B", round.frame_bytes()));
        let mut server = Map::new();
        if let (Some(cpu), Some(per_delivery)) = (round.server_cpu_ns, round.cpu_per_delivery()) {
            if !self.has_floor {
                self.headline("server CPU per delivery", format!("{per_delivery:.0} ns"));
            }
            self.row(
                if self.has_floor { "server CPU, all turns" } else { "server CPU" },
                format!("{:.2} s, {:.0} % of one core", cpu as f64 / 1e9, cpu as f64 / round.seconds / 1e7),
            );
            let sleeps = round.server_sleeps.unwrap_or(0) as f64 / round.deliveries().max(1) as f64;
            if sleeps >= 0.1 {
                self.row("server fell asleep", format!("{sleeps:.2} times per delivery, all threads together"));
            }
            server.insert("sleeps_per_delivery".to_owned(), json!(sleeps));
            server.insert("cpu_ns".to_owned(), cpu.into());
            server.insert("cpu_ns_per_delivery".to_owned(), json!(per_delivery));
        }
        self.set("server", Value::Object(server));
        self.set(
            "messages",
            json!({
                "published": published.messages, "publish_seconds": published.seconds, "late_us_max": published.late_us_max(),
                "broken_batches": published.broken, "delivered": round.deliveries(), "seconds": round.seconds,
                "delivered_per_second": rate, "bytes": round.counts.bytes, "frame_bytes": round.frame_bytes(),
            }),
        );
        self.total.add(&round.tally);
    }

    /// Everything that must not have happened; `forgiven` names what this scenario brings about on purpose.
    pub fn check(&mut self, tally: &Tally, forgiven: &[&str]) {
        let counts = &tally.counts;
        let checks = [
            ("lost", counts.lost, "messages were lost without a gap"),
            ("duplicates", counts.duplicates, "messages came twice"),
            ("reordered", counts.reordered, "messages came after a later one"),
            ("misrouted", counts.misrouted, "messages came on a channel that was not asked for"),
            ("closed", counts.closed, "connections were closed by the server"),
            ("refused", counts.refused, "connections were refused"),
            ("bad_frames", counts.bad_frames, "connections brought bytes that are no WebSocket frames"),
            ("errors", counts.errors, "error events came"),
            ("unrecovered", counts.unrecovered, "connections came back and were told recovered: false"),
            ("announced", counts.announced, "messages were lost and announced by a gap"),
        ];
        let mut found = Map::new();
        for (name, count, what) in checks {
            found.insert(name.to_owned(), count.into());
            if count > 0 && !forgiven.contains(&name) && name != "announced" {
                self.failures.push(format!("{count} {what}"));
            }
        }
        found.insert("gaps".to_owned(), counts.gaps.into());
        found.insert("again".to_owned(), counts.again.into());
        found.insert("renewed".to_owned(), counts.renewed.into());
        found.insert("foreign".to_owned(), counts.foreign.into());
        found.insert("pings".to_owned(), counts.pings.into());
        found.insert("slow_messages".to_owned(), counts.slow_messages.into());
        found.insert("slow_closed".to_owned(), counts.slow_closed.into());
        let codes: Map<String, Value> = tally.close_codes.iter().map(|(code, count)| (code.to_string(), (*count).into())).collect();
        found.insert("close_codes".to_owned(), Value::Object(codes));
        self.set("checks", Value::Object(found));
        self.row("lost / twice / out of order", format!("{} / {} / {}", counts.lost, counts.duplicates, counts.reordered));
        if counts.gaps + counts.announced > 0 {
            self.row("announced", format!("{} messages by {} gaps", counts.announced, counts.gaps));
        }
        if counts.renewed > 0 {
            self.row("told of a new epoch", format!("{} times, {} messages came again after it", counts.renewed, counts.again));
        }
        if !tally.close_codes.is_empty() {
            let codes: Vec<String> = tally.close_codes.iter().map(|(code, count)| format!("{count} with {code}")).collect();
            self.row("closed by the server", codes.join(", "));
        }
        self.samples(tally);
    }

    /// A distribution, as a row and in the JSON.
    pub fn latency(&mut self, label: &str, key: &str, histogram: &Histogram<u64>) {
        if histogram.is_empty() {
            return;
        }
        let at = |percentile| histogram.value_at_percentile(percentile);
        let row: Vec<String> =
            PERCENTILES.iter().map(|(percentile, name)| format!("{name} {}", short_us(at(*percentile) as f64))).collect();
        self.rows.push(Row { label: label.to_owned(), value: row.join("  "), is_headline: false });
        let mut values: Map<String, Value> =
            PERCENTILES.iter().map(|(percentile, name)| ((*name).to_owned(), at(*percentile).into())).collect();
        values.insert("mean".to_owned(), json!(histogram.mean()));
        values.insert("count".to_owned(), histogram.len().into());
        self.set(key, Value::Object(values));
    }

    /// Prints the table, writes the files, and tells the exit code.
    pub fn finish(mut self, options: &Options) -> anyhow::Result<ExitCode> {
        if !self.total.latency_us.is_empty() {
            let histogram = self.total.latency_us.clone();
            self.latency(self.latency_of, "latency_us", &histogram);
        }
        if !self.total.direct_us.is_empty() {
            let histogram = self.total.direct_us.clone();
            self.latency("direct messages", "direct_latency_us", &histogram);
        }
        if !self.total.connect_us.is_empty() {
            let histogram = self.total.connect_us.clone();
            self.latency("connect latency", "connect_latency_us", &histogram);
        }
        // Where a file goes to stdout, that is all that goes there.
        let is_stdout_taken = [&options.json, &options.html].into_iter().flatten().any(|path| is_stdout(path));
        let table = self.table();
        if is_stdout_taken {
            eprint!("{table}")
        } else {
            print!("{table}")
        }
        let seconds = (sys::monotonic_ns() - self.begin_ns) as f64 / 1e9;
        self.set("result", self.result().into());
        self.set("failures", json!(self.failures));
        self.set("samples", json!(self.samples));
        self.set("begin_unix_ms", self.begin_unix_ms.into());
        self.set("seconds", json!(seconds));
        let points: Vec<Value> = self
            .series
            .points
            .iter()
            .map(|point| json!([point.seconds, point.ready, point.messages, point.bytes, point.connected, point.published]))
            .collect();
        let columns = ["seconds", "ready", "messages", "bytes", "connected", "published"];
        self.set("series", json!({"columns": columns, "points": points, "floor_turns": self.series.floor_turns}));
        let buckets: Vec<Value> = self
            .total
            .latency_us
            .iter_recorded()
            .map(|bucket| json!([bucket.value_iterated_to(), bucket.count_since_last_iteration()]))
            .collect();
        self.set("latency_us_buckets", json!(buckets));
        let json = serde_json::to_string_pretty(&self.json)? + "\n";
        let write = |path: &Option<PathBuf>, text: String| match path {
            Some(path) if is_stdout(path) => std::io::stdout().write_all(text.as_bytes()).context("stdout cannot be written"),
            Some(path) => std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display())),
            None => Ok(()),
        };
        // One that fails does not keep the other from being written.
        let (json, html) = (write(&options.json, json), write(&options.html, html::page(&self)));
        json.and(html)?;
        Ok(match self.result() {
            "ok" => ExitCode::SUCCESS,
            "interrupted" => ExitCode::from(stop::EXIT_CODE),
            _ => ExitCode::FAILURE,
        })
    }

    /// ok, failed, or interrupted.
    pub fn result(&self) -> &'static str {
        match (self.failures.is_empty(), self.is_interrupted) {
            (true, false) => "ok",
            (true, true) => "interrupted",
            (false, _) => "failed",
        }
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
        let mut table = format!("{} against {}\n", self.scenario, self.title);
        for row in &self.rows {
            let _ = writeln!(table, "  {:<width$}  {}", row.label, row.value);
        }
        let result = match self.result() {
            "interrupted" => "interrupted: these are the figures until then",
            "failed" => "FAILED",
            ok => ok,
        };
        let _ = writeln!(table, "  {:<width$}  {result}", "result");
        if !self.failures.is_empty() {
            for failure in &self.failures {
                let _ = writeln!(table, "    - {}", failure.replace('\n', "\n      "));
            }
            for sample in &self.samples {
                let _ = writeln!(table, "      e.g. {sample}");
            }
        }
        table
    }

    pub fn machine(&self) -> &Value {
        &self.json["machine"]
    }

    pub fn command(&self) -> String {
        let words = self.json["command"].as_array().cloned().unwrap_or_default();
        let quoted =
            words.iter().filter_map(Value::as_str).map(|word| match word.is_empty() || word.contains([' ', '{', '\'', '"', '&', '?']) {
                true => format!("'{word}'"),
                false => word.to_owned(),
            });
        format!("loadgen {}", quoted.collect::<Vec<_>>().join(" "))
    }

    pub fn begin_unix_ms(&self) -> u64 {
        self.begin_unix_ms
    }
}

/// How many cores the host has online, whichever of them this process may use. A kernel writes them like 0-3,8.
fn cores() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    match online.trim().parse::<Cores>() {
        Ok(Cores(cores)) if !cores.is_empty() => cores.len(),
        _ => std::thread::available_parallelism().map_or(0, usize::from),
    }
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": after(&read("/proc/cpuinfo"), "model name"),
        "cores": cores(),
        "memory": after(&read("/proc/meminfo"), "MemTotal"),
        "load_average": read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
    })
}
