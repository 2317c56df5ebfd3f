//! One channel, every client subscribed: one message at a time, or bursts. With --floor, by turns with the kernel's own price.

use anyhow::Result;
use serde_json::json;

use super::floor::{FloorSide, Pairs};
use crate::args::Options;
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::report::Report;
use crate::run::{Round, Run};

/// `burst`, `rate` and `messages` unless the options say otherwise.
pub fn run(name: &'static str, options: &Options, burst: u64, rate: f64, messages: u64) -> Result<Report> {
    let mut run = Run::prepare(name, options, 1, None)?;
    let (crowd, is_complete) = run.connect(&Habits::default(), |_| 0)?;
    if !is_complete {
        crowd.end();
        return Ok(run.finish());
    }
    let schedule = run.schedule(rate, burst, messages, Pick::new(1, 0.0));
    if !options.floor {
        let round = run.publish("publishing", &crowd, schedule, |_, _| {})?;
        run.report.round(&round);
        let total = run.report.total.clone();
        run.report.check(&total, &[]);
        crowd.end();
        return Ok(run.finish());
    }

    // The frame's size is known when the first messages have come; they warm both up and do not count.
    let warm = crate::publish::Schedule { count: schedule.burst.max(2), ..schedule.clone() };
    let frame_bytes = run.publish("warming up", &crowd, warm, |_, _| {})?.frame_bytes();
    let mut floor = FloorSide::start(&mut run)?;
    floor.laps(&mut run, 2, schedule.rate / schedule.burst as f64, schedule.burst, frame_bytes)?;
    let mut pairs = Pairs::default();
    let mut all: Option<Round> = None;
    let laps = schedule.count.div_ceil(schedule.burst);
    for pair in 0..options.pairs.max(1) {
        let round = run.publish(&format!("server {}", pair + 1), &crowd, schedule.clone(), |_, _| {})?;
        let lap = floor.laps(&mut run, laps, schedule.rate / schedule.burst as f64, schedule.burst, frame_bytes)?;
        pairs.add(round.cpu_per_delivery(), Some(lap.cpu_per_delivery()), round.tally.latency_us.value_at_percentile(99.0), &lap);
        match &mut all {
            Some(all) => all.add(&round),
            None => all = Some(round),
        }
        if !run.report.failures.is_empty() {
            break;
        }
    }
    if let Some(all) = &all {
        run.report.round(all);
    }
    pairs.report(&mut run.report, "CPU per delivery", "ns");
    // Counts go on over all rounds: the newest are the sum.
    let mut total = run.report.total.clone();
    total.counts = crowd.counts();
    run.report.check(&total, &[]);
    run.report.set("frame_bytes", json!(frame_bytes));
    floor.end();
    crowd.end();
    Ok(run.finish())
}
