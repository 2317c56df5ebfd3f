//! Every client sends in its turn, and gets back what it sent: latency of the whole way, there and back.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::args::Options;
use crate::crowd::Habits;
use crate::progress::short;
use crate::report::Report;
use crate::run::{Ended, Run, whole};
use crate::stop;
use crate::target::Needs;

pub fn run(options: &Options) -> Result<Report> {
    // A channel for each client: an answer that comes to somebody else is seen.
    whole("echo", options, Needs { path: Some("/echo"), ..options.clients.into() }, echo)
}

fn echo(run: &mut Run) -> Result<()> {
    let habits = Habits { echo_bytes: run.options.payload, echo_kind: run.options.payload_kind, ..Habits::default() };
    let Some(crowd) = run.connect(&habits, |client| client)? else { return Ok(()) };
    let rate = run.options.rate.unwrap_or(1000.0).max(0.1);
    let planned = run.options.messages.unwrap_or((rate * 5.0) as u64) as f64 / rate;
    let (before, begin) = (run.snapshot(), Instant::now());
    crowd.echo(rate);
    let ended = run.pause("echo", &crowd, Duration::from_secs_f64(planned));
    crowd.echo(0.0);
    // The workers have obeyed when they have answered.
    let so_far = crowd.collect(false)?;
    let sent = so_far.counts.sent;
    run.report.total.add(&so_far);
    if ended == Ended::Met {
        run.until("echo", &crowd, None, |counts| counts.messages >= sent);
    } else {
        run.report.fail("stopped early: the server is gone, or --time is over");
    }
    let (after, seconds) = (run.snapshot(), begin.elapsed().as_secs_f64());
    let tally = crowd.collect(!stop::is_asked())?;
    run.report.headline("echoed", format!("{} of {sent} ({}/s)", tally.counts.messages, short(tally.counts.messages as f64 / seconds)));
    if let (Some(before), Some(after)) = (&before.process, &after.process) {
        let per_message = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / tally.counts.messages.max(1) as f64;
        run.report.headline("server CPU per echo", format!("{per_message:.0} ns"));
        run.report.set("server", json!({"cpu_ns_per_delivery": per_message}));
    }
    run.report.set("messages", json!({"published": sent, "delivered": tally.counts.messages, "seconds": seconds}));
    run.report.total.add(&tally);
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}
