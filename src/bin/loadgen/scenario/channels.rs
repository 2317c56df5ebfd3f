//! Many channels: one for each client, or as many as asked for, by Zipf's law or in turn. With --floor (one channel per client), by turns with
//! the kernel's own price for so many sends a second, each to another socket.

use anyhow::Result;
use serde_json::json;

use super::floor::{by_turns, warm_rate};
use crate::args::Options;
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::report::Report;
use crate::run::{Run, whole};

pub fn run(options: &Options, channels: u32, zipf: f64) -> Result<Report> {
    let count = if channels == 0 { options.clients } else { channels };
    whole("channels", options, count, None, |run| spread(run, count, zipf))
}

fn spread(run: &mut Run, count: u32, zipf: f64) -> Result<()> {
    let pick = Pick::new(count, zipf);
    let Some(crowd) = run.connect(&Habits::default(), |client| pick.channel(u64::from(client)))? else { return Ok(()) };
    let most = crowd.subscribers.iter().max().copied().unwrap_or(0);
    run.report.row("channels", format!("{count}, the largest with {most} clients"));
    run.report.set("channels", json!({"count": count, "zipf": zipf, "largest": most}));
    let mut schedule = run.schedule(1000.0, 1, 5000, pick);
    if run.options.floor {
        // The floor goes whole rounds; the server has as many messages, to as many sockets.
        let clients = u64::from(crowd.clients);
        let (rate, rounds) = (schedule.rate, schedule.count.div_ceil(clients));
        schedule.count = rounds * clients;
        by_turns(run, &crowd, &schedule, clients, |floor, run, is_warm, frame_bytes| {
            let (rounds, rate) = if is_warm { (rounds, rate) } else { (1, warm_rate(rate, clients)) };
            floor.rounds(run, rounds, rate, frame_bytes)
        })?;
    } else {
        let round = run.publish("publishing", &crowd, schedule, |_, _| {})?;
        run.report.round(&round);
    }
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}
