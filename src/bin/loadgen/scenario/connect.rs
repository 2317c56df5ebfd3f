//! Connect all clients and say how fast that went. With --floor, by turns with a server that only accepts and answers 101; with --beside-open, with one that asks nobody who it is.

use std::time::Duration;

use anyhow::Result;

use super::floor::{Pairs, floor_size, start_floor};
use super::open;
use crate::args::Options;
use crate::crowd::Habits;
use crate::process;
use crate::report::Report;
use crate::run::{Connected, Run, whole};
use crate::stop;

/// After connections are closed, until the other end has closed them too.
pub(super) fn rest(clients: u32) -> Duration {
    Duration::from_millis(300 + u64::from(clients) / 50)
}

/// Brings everybody in once, for tickets to come with the next time. Nothing of it counts.
fn for_tickets(run: &mut Run) -> Result<()> {
    let (target, size) = (run.target.clone(), run.size.clone());
    let Connected { crowd, is_complete, .. } = run.connect_to(&target, &size, &Habits::default(), |_| 0, false)?;
    crowd.end();
    stop::sleep(rest(size.clients));
    anyhow::ensure!(is_complete, "not everybody came in to get a ticket");
    Ok(())
}

pub fn run(options: &Options) -> Result<Report> {
    whole("connect", options, 1, connect)
}

fn connect(run: &mut Run) -> Result<()> {
    if run.options.has_two_servers() {
        return open::connect(run);
    }
    if run.options.tls.resume {
        for_tickets(run)?;
    }
    if !run.options.floor {
        if let Some(crowd) = run.connect(&Habits::default(), |_| 0)? {
            run.check(&crowd, &[])?;
            crowd.end();
        }
        return Ok(());
    }
    let options = run.options.clone();
    let (target, size) = (run.target.clone(), run.size.clone());
    let (floor, floor_target) = start_floor(&options, options.clients)?;
    let floor_size = floor_size(&size, size.clients);
    let (mut rates, mut cpu) = (Pairs::default(), Pairs::default());
    for pair in 0..options.pairs.max(1) {
        let Connected { crowd, is_complete, seconds, server_cpu_ns } =
            run.connect_to(&target, &size, &Habits::default(), |_| 0, pair == 0)?;
        let rate = f64::from(crowd.clients) / seconds;
        let total = crowd.collect(false)?;
        if is_complete && (pair == 0 || total.counts.refused + total.counts.closed > 0) {
            run.report.check(&total, &[]);
        }
        crowd.end();
        if !is_complete {
            break;
        }
        stop::sleep(rest(size.clients));
        if run.is_over_time() {
            break;
        }
        run.series.floor_begins();
        let before = process::process(floor.id()).map_or(0, |figures| figures.cpu_ns);
        let other = run.connect_to(&floor_target, &floor_size, &Habits::default(), |_| 0, false)?;
        let floor_cpu = process::process(floor.id()).map_or(0, |figures| figures.cpu_ns) - before;
        other.crowd.end();
        stop::sleep(rest(size.clients));
        run.series.floor_ends();
        if !other.is_complete {
            break;
        }
        rates.add_figures(rate, f64::from(size.clients) / other.seconds);
        if let Some(server_cpu_ns) = server_cpu_ns {
            cpu.add_figures(server_cpu_ns as f64 / f64::from(size.clients) / 1000.0, floor_cpu as f64 / f64::from(size.clients) / 1000.0);
        }
    }
    if options.server_pid.is_some() || options.serve.is_some() {
        cpu.report(&mut run.report, "CPU per connect", "µs");
        let figures = run.report.take("floor");
        run.report.set("floor_cpu", figures);
    }
    rates.report(&mut run.report, "connects per second", "/s");
    Ok(())
}
