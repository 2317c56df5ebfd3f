//! Redis is killed and comes back while messages flow. Connections must stay, what is lost must be announced by a `gap`, and everything
//! published after the recovery must arrive.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::args::Options;
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::report::Report;
use crate::run::{Run, whole};

#[derive(Debug, Clone, Copy)]
enum Stage {
    Before,
    Away { since: Instant },
    Back,
}

pub fn run(options: &Options, outage_seconds: f64) -> Result<Report> {
    let options = Options { redis: Some("own".to_owned()), ..options.clone() };
    whole("failover", &options, 1, |run| failover(run, outage_seconds))
}

fn failover(run: &mut Run, outage_seconds: f64) -> Result<()> {
    run.must_be_campanile()?;
    let Some(crowd) = run.connect(&Habits::default(), |_| 0)? else { return Ok(()) };
    let mut schedule = run.schedule(50.0, 1, 400, Pick::new(1, 0.0));
    schedule.survives = true;
    let third = schedule.count / 3;
    let mut stage = Stage::Before;
    let mut problem = None;
    let round = run.publish("failover", &crowd, schedule, |run, sent| {
        let Some(redis) = &mut run.redis else { return };
        match stage {
            Stage::Before if sent >= third => {
                redis.kill();
                stage = Stage::Away { since: Instant::now() };
            }
            Stage::Away { since } if since.elapsed() >= Duration::from_secs_f64(outage_seconds) => {
                problem = redis.restart().err();
                stage = Stage::Back;
            }
            Stage::Before | Stage::Away { .. } | Stage::Back => {}
        }
    })?;
    if let Some(error) = problem {
        run.report.fail(format!("Redis did not come back: {error:#}"));
    }
    run.report.round(&round);
    let counts = round.tally.counts;
    run.report.headline("outage", format!("{outage_seconds} s without Redis, {} gaps at {} clients", counts.gaps, crowd.clients));
    run.report.set("failover", json!({"outage_seconds": outage_seconds, "gaps": counts.gaps, "broken_batches": round.published.broken}));
    if counts.gaps < u64::from(crowd.clients) {
        run.report.fail(format!("an outage must be announced to every client, but {} gaps came to {} clients", counts.gaps, crowd.clients));
    }
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}
