//! Figures as people read them, names as a terminal may be shown them, and a snapshot as plain text. Pure.

use std::fmt::Write;

use crate::cli::output::printable;
use crate::control::stats::snapshot::{Count, Snapshot};

/// 7, 1.5, 12,345, 1.2M.
pub fn number(value: f64) -> String {
    if value < 10.0 && value.fract() >= 0.05 {
        return format!("{value:.1}");
    }
    match value {
        _ if value >= 1e9 => format!("{:.1}G", value / 1e9),
        _ if value >= 1e6 => format!("{:.1}M", value / 1e6),
        _ => grouped(value.round() as u64),
    }
}

fn grouped(value: u64) -> String {
    match value {
        0..1000 => value.to_string(),
        _ => format!("{},{:03}", grouped(value / 1000), value % 1000),
    }
}

pub fn count(value: u64) -> String {
    number(value as f64)
}

pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = value as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 || amount >= 100.0 { format!("{amount:.0} {}", UNITS[unit]) } else { format!("{amount:.1} {}", UNITS[unit]) }
}

pub fn seconds(value: f64) -> String {
    match value {
        _ if value < 1e-3 => format!("{:.0} µs", value * 1e6),
        _ if value < 0.1 => format!("{:.1} ms", value * 1e3),
        _ if value < 1.0 => format!("{:.0} ms", value * 1e3),
        _ if value < 10.0 => format!("{value:.1} s"),
        _ => format!("{value:.0} s"),
    }
}

/// How long it has run.
pub fn span(seconds: u64) -> String {
    match seconds {
        86_400.. => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
        3600.. => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        60.. => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

/// The lines above the tables, in short: what, and how much.
pub fn figures(stats: &Snapshot) -> Vec<(&'static str, String)> {
    let mut lines = vec![(
        "connections",
        format!(
            "{} of {}, {} subscriptions, {} channels",
            count(stats.connections),
            count(stats.connections_max),
            count(stats.subscriptions),
            count(stats.channels)
        ),
    )];
    let rates = stats.rates.as_ref();
    let rate = |text: Option<String>| text.unwrap_or_else(|| "not known yet".to_owned());
    lines.push((
        "deliveries",
        rate(rates.map(|rates| {
            format!("{}/s of {} messages/s, {}/s out", number(rates.deliveries), number(rates.messages), bytes(rates.sent_bytes as u64))
        })),
    ));
    let latency = stats.latency.as_ref().map(|latency| {
        let [p50, p90, p99, p999] = [latency.p50, latency.p90, latency.p99, latency.p999].map(seconds);
        format!("p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}")
    });
    lines.push(("latency", latency.unwrap_or_else(|| "nothing is delivered now".to_owned())));
    let skipped = rates.map_or_else(String::new, |rates| {
        format!(", {} messages/s skipped, {} writes/s blocked", number(rates.skipped), number(rates.writes_blocked))
    });
    lines.push(("behind", format!("{} subscriptions{skipped}", count(stats.lagging))));
    let resident = stats.memory.resident_bytes.map_or_else(|| "not known".to_owned(), bytes);
    let parts: Vec<String> = stats
        .memory
        .parts
        .iter()
        .map(|part| format!("{} {} of {}", printable(&part.name), bytes(part.bytes), bytes(part.bytes_max)))
        .collect();
    lines.push(("memory", format!("{resident}, user memory bounded by {}; {}", bytes(stats.memory.bytes_max), parts.join(", "))));
    lines.push(("bus", bus(stats)));
    lines
}

fn bus(stats: &Snapshot) -> String {
    let word = |is_ready| if is_ready { "messages flow" } else { "NO MESSAGES" };
    if stats.bus.servers.is_empty() {
        return format!("{}, {}", printable(&stats.bus.kind), word(stats.bus.is_ready));
    }
    let servers = stats.bus.servers.iter().map(|server| {
        let probe = server.probe_age_seconds.map_or_else(String::new, |age| format!(", probe came back {} ago", seconds(age)));
        format!("{} {}{probe}", printable(&server.url), word(server.is_ready))
    });
    servers.collect::<Vec<_>>().join("; ")
}

/// Why clients were refused or closed, what happens most now first.
pub fn reasons(stats: &Snapshot) -> Vec<(String, &Count)> {
    let named = |counts: &'static str, of| std::iter::repeat(counts).zip(of);
    let mut reasons: Vec<(String, &Count)> = named("refused", stats.refused.iter())
        .chain(named("closed", stats.closed.iter()))
        .chain(named("passed by the log", stats.overruns.iter()))
        .map(|(kind, count): (&str, &Count)| (format!("{kind}: {}", printable(&count.name)), count))
        .collect();
    reasons.sort_by(|(_, a), (_, b)| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
    reasons
}

/// The whole of it, as lines.
pub fn page(stats: &Snapshot) -> String {
    let mut page = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(page, "{text}").expect("a String takes everything");
    line(format_args!("campanile {}, {}, up {}", printable(&stats.version), printable(&stats.stage), span(stats.uptime_seconds)));
    if let Some(reason) = &stats.not_ready {
        line(format_args!("not ready     {}", printable(reason)));
    }
    for (name, text) in figures(stats) {
        line(format_args!("{name:<13} {text}"));
    }
    for (number_of, shard) in stats.shards.iter().enumerate() {
        let closed = if shard.closed_by.is_empty() {
            String::new()
        } else {
            format!(", takes nobody in: {}", printable(&shard.closed_by.join(", ")))
        };
        line(format_args!(
            "shard {number_of:<7} {:>3.0} % busy, lag {}, {} connections, {} deliveries/s, {} behind{closed}",
            shard.busy * 100.0,
            seconds(shard.lag_seconds),
            count(shard.connections),
            number(shard.deliveries),
            count(shard.lagging)
        ));
    }
    for channel in stats.busiest.iter().flatten() {
        line(format_args!(
            "channel       {} deliveries/s, {} messages/s, {} subscribers: {}",
            number(channel.deliveries),
            number(channel.messages),
            count(channel.subscribers),
            printable(&channel.name)
        ));
    }
    for (reason, count_of) in reasons(stats) {
        line(format_args!("{reason}: {} in all, {}/s", count(count_of.total), number(count_of.rate)));
    }
    if stats.connections == 0 && stats.not_ready.is_none() {
        line(format_args!("\nNobody is connected {}. To see a message arrive, in two terminals:", yet_or_now(stats)));
        stats.first_commands.iter().for_each(|command| line(format_args!("  {}", printable(command))));
    }
    page
}

/// For whoever sees nobody: whether somebody was there before.
pub fn yet_or_now(stats: &Snapshot) -> &'static str {
    if stats.closed.iter().any(|closed| closed.total > 0) { "now" } else { "yet" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_right() {
        let shown = [0.0, 0.04, 1.5, 9.96, 12.4, 999.6, 12_345.0, 1_234_567.0, 2.5e9].map(number);
        assert_eq!(shown, ["0", "0", "1.5", "10.0", "12", "1,000", "12,345", "1.2M", "2.5G"]);
        assert_eq!([0, 1023, 1536, 200 << 20, 3 << 40].map(bytes), ["0 B", "1023 B", "1.5 KiB", "200 MiB", "3.0 TiB"]);
        assert_eq!([42e-6, 1.25e-3, 0.25, 2.5, 30.0].map(seconds), ["42 µs", "1.2 ms", "250 ms", "2.5 s", "30 s"]);
        assert_eq!([5, 65, 7300, 100_000].map(span), ["5 s", "1 min", "2 h 1 min", "1 d 3 h"]);
    }
}
