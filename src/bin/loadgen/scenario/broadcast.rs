//! One channel, every client subscribed: one message at a time, or bursts. With --floor, by turns with the kernel's own price; with --beside-open,
//! with a server that asks nobody who it is.

use anyhow::Result;

use super::floor::{FloorSide, by_turns, warm_rate};
use super::open;
use crate::args::Options;
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::report::Report;
use crate::run::{Run, whole};

/// `burst`, `rate` and `messages` unless the options say otherwise.
pub fn run(name: &'static str, options: &Options, burst: u64, rate: f64, messages: u64) -> Result<Report> {
    whole(name, options, 1, |run| broadcast(run, burst, rate, messages))
}

fn broadcast(run: &mut Run, burst: u64, rate: f64, messages: u64) -> Result<()> {
    let schedule = run.schedule(rate, burst, messages, Pick::new(1, 0.0));
    if run.options.has_two_servers() {
        return open::broadcast(run, &schedule);
    }
    let floor = run.options.floor.then(|| FloorSide::start(run, run.options.clients)).transpose()?;
    let Some(crowd) = run.connect(&Habits::default(), |_| 0)? else { return Ok(()) };
    if let Some(floor) = floor {
        let (burst, laps) = (schedule.burst, schedule.count.div_ceil(schedule.burst));
        let per_second = schedule.rate / burst as f64;
        by_turns(run, &crowd, floor, &schedule, burst.max(2), |floor, run, is_warm, frame_bytes| {
            let (laps, per_second) = if is_warm { (laps, per_second) } else { (2, warm_rate(per_second, 2)) };
            floor.laps(run, laps, per_second, burst, frame_bytes)
        })?;
    } else {
        let round = run.publish("publishing", &crowd, schedule, |_, _| {})?;
        run.report.round(&round);
    }
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}
