//! Some clients read slowly or not at all: the others must not feel it, and the server's memory must not grow with them.
//!
//! Two rounds in one run, the same messages: everybody reads, then some stop.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::args::Options;
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::progress::{short_bytes, short_us};
use crate::report::Report;
use crate::round::Round;
use crate::run::{Run, whole};

/// A small window, so that a client that does not read is felt soon.
const RECEIVE_BYTES: usize = 4096;
/// Slow clients read in the end until nothing has come for so long: the server's close timeout and some more.
const CATCH_UP_SECONDS: f64 = 2.0;

pub fn habits(slow_percent: f64, never_percent: f64, read_bytes: usize, pause_ms: u64) -> Habits {
    Habits {
        slow_share: slow_percent / 100.0,
        never_share: never_percent / 100.0,
        slow_read_bytes: read_bytes,
        slow_pause: Duration::from_millis(pause_ms),
        slow_receive_bytes: RECEIVE_BYTES,
        ..Habits::default()
    }
}

pub fn run(options: &Options, habits: &Habits) -> Result<Report> {
    whole("slow", options, 1, |run| slow(run, habits))
}

fn slow(run: &mut Run, habits: &Habits) -> Result<()> {
    let Some(mut crowd) = run.connect(habits, |_| 0)? else { return Ok(()) };
    let schedule = run.schedule(20.0, 1, 200, Pick::new(1, 0.0));
    let all_read = run.publish("all read", &crowd, schedule.clone(), |_, _| {})?;
    let memory_before = run.snapshot().process.map(|process| process.anonymous_bytes);
    crowd.slow_down();
    let some_stopped = run.publish("some do not", &crowd, schedule, |_, _| {})?;
    let memory_after = run.snapshot().process.map(|process| process.anonymous_bytes);
    // A connection that the server has given up is known to be closed when what was sent before has been read.
    crowd.catch_up();
    let patience = std::mem::replace(&mut run.options.patience, CATCH_UP_SECONDS);
    let slow_clients = u64::from(crowd.slow_clients);
    run.until("catching up", &crowd, None, |counts| counts.slow_closed >= slow_clients);
    run.options.patience = patience;

    run.report.round(&some_stopped);
    run.report.total.add(&all_read.tally);
    let p99 = |round: &Round| round.tally.latency_us.value_at_percentile(99.0) as f64;
    let (before, after) = (p99(&all_read), p99(&some_stopped));
    run.report.row("clients that do not keep up", format!("{} of {}", crowd.slow_clients, crowd.clients));
    run.report.headline(
        "p99 of the others",
        format!("{} with them, {} without: {:.2} ×", short_us(after), short_us(before), after / before.max(1.0)),
    );
    let mut figures = json!({
        "slow_clients": crowd.slow_clients, "p99_us_all_read": before, "p99_us_others": after, "p99_ratio": after / before.max(1.0),
    });
    if let (Some(before), Some(after)) = (memory_before, memory_after) {
        run.report.headline("server memory", format!("{} before, {} after", short_bytes(before as f64), short_bytes(after as f64)));
        figures["memory_bytes_before"] = before.into();
        figures["memory_bytes_after"] = after.into();
    }
    let counts = crowd.counts();
    run.report.row("of them", format!("{} closed by the server, {} messages read in the end", counts.slow_closed, counts.slow_messages));
    run.report.set("slow", figures);
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}
