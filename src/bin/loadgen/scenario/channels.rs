//! Many channels: one for each client, or as many as asked for, by Zipf's law or in turn.

use anyhow::Result;
use serde_json::json;

use crate::args::Options;
use crate::crowd::Habits;
use crate::pick::Pick;
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
        let round = run.publish("publishing", &crowd, schedule, |_, _| {})?;
        run.report.round(&round);
        run.report.check(&round.tally, &[]);
    }
    crowd.end();
    Ok(run.finish())
}
