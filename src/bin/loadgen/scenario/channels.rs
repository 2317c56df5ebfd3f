//! Many channels: one for each client, or as many as asked for, by Zipf's law or in turn. With --floor (one channel per client), by turns with
//! the kernel's own price for so many sends a second, each to another socket.

use anyhow::Result;
use serde_json::json;

use super::floor::by_turns;
use crate::args::Options;
use crate::crowd::{Crowd, Habits};
use crate::pick::Pick;
use crate::publish::Schedule;
use crate::report::Report;
use crate::run::Run;

pub fn run(options: &Options, channels: u32, zipf: f64) -> Result<Report> {
    let count = if channels == 0 { options.clients } else { channels };
    let mut run = Run::prepare("channels", options, count, None)?;
    let pick = Pick::new(count, zipf);
    let (crowd, is_complete) = run.connect(&Habits::default(), |client| pick.channel(u64::from(client)))?;
    if is_complete {
        let most = crowd.subscribers.iter().max().copied().unwrap_or(0);
        run.report.row("channels", format!("{count}, the largest with {most} clients"));
        run.report.set("channels", json!({"count": count, "zipf": zipf, "largest": most}));
        let schedule = run.schedule(1000.0, 1, 5000, pick);
        if options.floor {
            beside_the_floor(&mut run, &crowd, &schedule, most)?;
        } else {
            let round = run.publish("publishing", &crowd, schedule, |_, _| {})?;
            run.report.round(&round);
            run.report.check(&round.tally, &[]);
        }
    }
    crowd.end();
    Ok(run.finish())
}

fn beside_the_floor(run: &mut Run, crowd: &Crowd, schedule: &Schedule, most: u32) -> Result<()> {
    anyhow::ensure!(most == 1, "--floor stands beside channels of one client each: leave --channels and --zipf out");
    let (rate, rounds) = (schedule.rate, schedule.count.div_ceil(u64::from(crowd.clients)));
    let warm = u64::from(crowd.clients);
    by_turns(run, crowd, schedule, warm, |floor, run, is_warm, frame_bytes| {
        floor.rounds(run, if is_warm { rounds } else { 1 }, rate, frame_bytes)
    })
}
