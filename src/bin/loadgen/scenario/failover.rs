//! Redis is killed and comes back while messages flow. Connections must stay, what is lost must be announced by a `gap`, and everything
//! published after the recovery must arrive.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::args::{Options, Through};
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::report::Report;
use crate::run::Run;

#[derive(Debug, Clone, Copy)]
enum Stage {
    Before,
    Away { since: Instant },
    Back,
}

pub fn run(options: &Options, outage_seconds: f64) -> Result<Report> {
    ensure!(options.serve.is_some(), "failover kills the server's Redis, so it starts both: give --serve ARGS (even --serve '')");
    ensure!(
        options.redis.as_deref().is_none_or(|url| url == "own"),
        "failover starts its own Redis and kills that one: leave --redis away"
    );
    ensure!(options.through.is_none_or(|through| through == Through::Redis), "failover publishes through Redis");
    let options = Options { redis: Some("own".to_owned()), ..options.clone() };
    let mut run = Run::prepare("failover", &options, 1, None)?;
    run.must_be_campanile()?;
    let (crowd, is_complete) = run.connect(&Habits::default(), |_| 0)?;
    if !is_complete {
        crowd.end();
        return Ok(run.finish());
    }
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
    run.report.check(&round.tally, &[]);
    crowd.end();
    Ok(run.finish())
}
