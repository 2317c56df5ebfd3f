//! Connect all clients and hold them: nobody may be closed, and what does it cost to keep them? With --watched, what does it cost that somebody looks on? With
//! --messages, each must still get those in the end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::args::{Options, Transport};
use crate::crowd::{Crowd, Habits};
use crate::pick::Pick;
use crate::process::Snapshot;
use crate::report::Report;
use crate::run::{Ended, Run, whole};
use crate::watcher::Watcher;

pub fn run(options: &Options, seconds: f64, is_watched: bool) -> Result<Report> {
    whole("hold", options, 1, |run| hold(run, seconds, is_watched))
}

fn hold(run: &mut Run, seconds: f64, is_watched: bool) -> Result<()> {
    let Some(crowd) = run.connect(&Habits::default(), |_| 0)? else { return Ok(()) };
    let before = run.snapshot();
    let pings_before = crowd.counts().pings;
    let begin = Instant::now();
    let time = Duration::from_secs_f64(seconds);
    match run.pause("holding", &crowd, time) {
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
    if is_watched && run.report.failures.is_empty() {
        watch(run, &crowd, time)?;
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

/// By turns without and with somebody who looks at the dashboard: what does the server do more?
fn watch(run: &mut Run, crowd: &Crowd, time: Duration) -> Result<()> {
    let control = run.options.control.context("--watched asks for --serve, or --control and --server-pid")?;
    let (mut more, mut events) = (Vec::new(), 0);
    for _ in 0..run.options.pairs {
        let mut shares = [0.0; 2];
        for (label, share) in ["alone", "watched"].into_iter().zip(&mut shares) {
            let watcher = if label == "watched" { Some(Watcher::open(control)?) } else { None };
            let (before, begin) = (run.snapshot(), Instant::now());
            let ended = run.pause(label, crowd, time);
            let (after, seconds) = (run.snapshot(), begin.elapsed().as_secs_f64());
            events += watcher.map_or(0, Watcher::close);
            if !matches!(ended, Ended::Met) {
                run.report.fail("it was not held and watched as long as it was to be: the server is gone, or --time is over");
                return Ok(());
            }
            let cpu_ns =
                |snapshot: Snapshot| snapshot.process.map(|process| process.cpu_ns as f64).context("whose CPU time? (--server-pid)");
            *share = (cpu_ns(after)? - cpu_ns(before)?) / seconds / 1e9;
        }
        more.push(shares[1] - shares[0]);
    }
    more.sort_by(f64::total_cmp);
    let [lowest, middle, highest] = [0, more.len() / 2, more.len() - 1].map(|at| 100.0 * more[at]);
    let text =
        format!("{middle:.2} % of one core more ({lowest:.2} to {highest:.2}, the middle one of {} pairs), {events} events", more.len());
    run.report.headline("somebody looks at the dashboard", text);
    run.report.set("watched", json!({"cores_more": more, "events": events}));
    Ok(())
}
