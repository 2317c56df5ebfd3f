//! Connect all clients and hold them: nobody may be closed, and what does it cost to keep them? With --messages, each must still get those in the end.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::args::{Options, Transport};
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::report::Report;
use crate::run::{Ended, Run, whole};

pub fn run(options: &Options, seconds: f64) -> Result<Report> {
    whole("hold", options, 1, |run| hold(run, seconds))
}

fn hold(run: &mut Run, seconds: f64) -> Result<()> {
    let Some(crowd) = run.connect(&Habits::default(), |_| 0)? else { return Ok(()) };
    let before = run.snapshot();
    let pings_before = crowd.counts().pings;
    let begin = Instant::now();
    match run.pause("holding", &crowd, Duration::from_secs_f64(seconds)) {
        Ended::Met => {}
        Ended::Interrupted => {}
        Ended::ServerGone => run.report.fail("the server is gone"),
        Ended::Time | Ended::Silence => run.report.fail("--time is over before --hold: give more"),
    }
    let seconds = begin.elapsed().as_secs_f64();
    let after = run.snapshot();
    let counts = crowd.counts();
    let pings = counts.pings - pings_before;
    run.report.row("held", format!("{} for {seconds:.0} s", counts.ready));
    let beats = if run.options.transport == Transport::Sse { "heartbeats read" } else { "pings answered" };
    run.report.row(beats, pings.to_string());
    if let (Some(before), Some(after)) = (&before.process, &after.process) {
        let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns) as f64;
        run.report.headline("server CPU while idle", format!("{:.2} % of one core", cpu_ns / seconds / 1e7));
        run.report.set("hold", json!({"seconds": seconds, "pings": pings, "server_cpu_ns": cpu_ns}));
    } else {
        run.report.set("hold", json!({"seconds": seconds, "pings": pings}));
    }
    let schedule = run.schedule(0.2, 1, 0, Pick::new(1, 0.0));
    if schedule.count > 0 && run.report.failures.is_empty() {
        let round = run.publish("publishing", &crowd, schedule, |_, _| {})?;
        run.report.round(&round);
    }
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}
