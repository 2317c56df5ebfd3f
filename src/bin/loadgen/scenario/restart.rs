//! A server is replaced while messages flow: a second one starts beside it (`--takeover`), the first one drains, and clients come back when they are told to.
//! No connect may be refused, and the second one must get its clients no faster than `drain_rate`.
//!
//! Each server counts a channel's messages by itself, so whoever comes back is told `recovered: false`, and what it missed is counted as announced. What comes
//! between two servers is found again by numbers of the source alone.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::args::Options;
use crate::children;
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::report::Report;
use crate::run::{Run, whole};

/// The rate of arrivals is looked at over so long at a time.
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Stage {
    Before,
    /// How many connections had become ready by when.
    Moving {
        arrivals: Vec<(Instant, u64)>,
    },
    Failed(anyhow::Error),
}

pub fn run(options: &Options, drain_rate: u32) -> Result<Report> {
    let own_redis = options.redis.clone().unwrap_or_else(|| "own".to_owned());
    let serve = options.serve.as_ref().map(|arguments| format!("{arguments} --drain-rate {drain_rate}"));
    let options = Options { redis: Some(own_redis), serve, ..options.clone() };
    whole("restart", &options, 1, |run| restart(run, drain_rate))
}

fn restart(run: &mut Run, drain_rate: u32) -> Result<()> {
    run.must_be_campanile()?;
    let habits = Habits { keeps_positions: true, comes_back: true, ..Habits::default() };
    let Some(crowd) = run.connect(&habits, |_| 0)? else { return Ok(()) };
    let before = crowd.counts();
    // Messages flow for as long as it takes, and for some seconds around it.
    let seconds = f64::from(crowd.clients) / f64::from(drain_rate) + 6.0;
    let rate = run.options.rate.unwrap_or(10.0);
    let mut schedule = run.schedule(rate, 1, (rate * seconds) as u64, Pick::new(1, 0.0));
    schedule.survives = true;
    let begin_at = schedule.count / 10;
    let mut stage = Stage::Before;
    let mut old = None;
    let crowd_seen = &crowd;
    let round = run.publish("restart", &crowd, schedule, |run, sent| match &mut stage {
        Stage::Before if sent >= begin_at => {
            old = run.server.take();
            stage = match successor(run, old.as_ref()) {
                Ok(server) => {
                    run.server_id = Some(server.id());
                    run.server = Some(server);
                    Stage::Moving { arrivals: vec![(Instant::now(), crowd_seen.counts().connected)] }
                }
                Err(error) => Stage::Failed(error),
            };
        }
        Stage::Moving { arrivals } => arrivals.push((Instant::now(), crowd_seen.counts().connected)),
        Stage::Before | Stage::Failed(_) => {}
    })?;
    let all = before.connected + u64::from(crowd.clients);
    let deadline = Duration::from_secs(30);
    run.until("coming back", &crowd, Some(deadline), |counts| counts.connected >= all || counts.ended > 0);
    let after = crowd.counts().since(&before);
    run.report.round(&round);
    let arrivals = match stage {
        Stage::Moving { arrivals } => arrivals,
        Stage::Before => anyhow::bail!("the second server was never started"),
        Stage::Failed(error) => return Err(error.context("the second server did not start")),
    };
    let fastest = fastest(&arrivals);
    let moving_seconds = last_arrival(&arrivals);
    let came = after.connected;
    let ended = old.as_mut().is_none_or(children::Server::ends_soon);
    run.report
        .headline("moved", format!("{came} of {} clients in {moving_seconds:.1} s, {} connects repeated", crowd.clients, after.retries));
    run.report.headline("arrivals", format!("{fastest:.0} in the fastest second ({:.2} x drain_rate)", fastest / f64::from(drain_rate)));
    run.report.headline("missed meanwhile", format!("{} messages in all, {} clients told so", after.announced, after.unrecovered));
    run.report.set(
        "restart",
        json!({
            "drain_rate": drain_rate, "moved": came, "seconds": moving_seconds, "connects_repeated": after.retries, "refused": after.refused,
            "arrivals_per_second_max": fastest, "arrivals_ratio": fastest / f64::from(drain_rate), "missed": after.announced,
            "told": after.unrecovered, "first_server_ended": ended,
        }),
    );
    if came < u64::from(crowd.clients) {
        run.report.fail(format!("only {came} of {} clients came back", crowd.clients));
    }
    if after.retries + after.refused > 0 {
        run.report.fail(format!("{} connects failed and {} were refused", after.retries, after.refused));
    }
    if !ended {
        run.report.fail("the first server has not ended");
    }
    run.check(&crowd, &["unrecovered"])?;
    crowd.end();
    Ok(())
}

/// Starts a server at the addresses of the first one.
fn successor(run: &Run, old: Option<&children::Server>) -> Result<children::Server> {
    let old = old.ok_or_else(|| anyhow::anyhow!("there is no first one"))?;
    run.another_server(&format!("{} --takeover", run.at_the_place_of(old)))
}

/// Most arrivals within a second.
fn fastest(arrivals: &[(Instant, u64)]) -> f64 {
    let mut most: f64 = 0.0;
    let mut first = 0;
    for (at, count) in arrivals {
        while at.duration_since(arrivals[first].0) > WINDOW {
            first += 1;
        }
        // The window that ends here is a little shorter than a second, so the one before it counts as well.
        let from = first.saturating_sub(1);
        let seconds = at.duration_since(arrivals[from].0).max(WINDOW).as_secs_f64();
        most = most.max((count - arrivals[from].1) as f64 / seconds);
    }
    most
}

/// When the count last changed, from the beginning on.
fn last_arrival(arrivals: &[(Instant, u64)]) -> f64 {
    let changed = arrivals.windows(2).rev().find(|pair| pair[0].1 != pair[1].1);
    changed.map_or(0.0, |pair| pair[1].0.duration_since(arrivals[0].0).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_second_is_found_between_looks() {
        let begin = Instant::now();
        let at = |ms: u64, count: u64| (begin + Duration::from_millis(ms), count);
        let steady: Vec<_> = (0..100).map(|step| at(step * 50, step * 5)).collect();
        assert!((fastest(&steady) - 100.0).abs() < 6.0, "{}", fastest(&steady));
        assert_eq!(fastest(&[at(0, 0), at(50, 10), at(4000, 10)]), 10.0, "what came at once counts for a second");
        assert_eq!(last_arrival(&[at(0, 0), at(50, 10), at(4000, 10)]), 0.05);
        assert_eq!((fastest(&[at(0, 7)]), last_arrival(&[at(0, 7)])), (0.0, 0.0));
    }
}
