//! The way to durable channels breaks again and again while messages flow: the server's subscriptions are cut, or a Redis is killed, or the server itself. What
//! the publisher has no answer to it sends again, under the same key. Everybody must have every message once, in order, and hear of no gap; connections stay,
//! unless it is the server that goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::args::{Breaks, Options};
use crate::crowd::Habits;
use crate::pick::Pick;
use crate::report::Report;
use crate::run::{Run, whole};
use crate::target::{Needs, OwnRedis};

/// With channels that are durable, and a Redis of its own.
pub fn durable(options: &Options) -> Options {
    Options { redis: Some("own".to_owned()), durable: true, ..options.clone() }
}

pub fn run(options: &Options, breaks: Breaks, every_seconds: f64, channels: u32) -> Result<Report> {
    let redis = match breaks {
        Breaks::Pubsub | Breaks::Redis | Breaks::Server => OwnRedis::Kept,
        Breaks::Master => OwnRedis::Watched,
        Breaks::Node => OwnRedis::Cluster,
    };
    let needs = Needs { redis, ..channels.into() };
    whole("outages", &durable(options), needs, |run| outages(run, breaks, Duration::from_secs_f64(every_seconds)))
}

fn outages(run: &mut Run, breaks: Breaks, every: Duration) -> Result<()> {
    run.must_be_campanile()?;
    let channels = run.target.channels.count;
    let habits = Habits { keeps_positions: true, returns: breaks == Breaks::Server, ..Habits::default() };
    let Some(crowd) = run.connect(&habits, |client| client % channels)? else { return Ok(()) };
    let mut schedule = run.schedule(2000.0, 1, 120_000, Pick::new(channels, 0.0));
    schedule.survives = true;
    let (mut due, mut count, mut problem) = (Instant::now() + every, 0, None);
    let round = run.publish("outages", &crowd, schedule, |run, _| {
        if problem.is_none() && Instant::now() >= due {
            // By the clock: some of it takes a while until all is whole again.
            due = Instant::now() + every;
            problem = break_once(run, breaks).err();
            count += 1;
        }
    })?;
    let all = u64::from(crowd.clients);
    run.until("coming back", &crowd, None, |counts| counts.ready + counts.ended >= all);
    if let Some(error) = problem {
        run.report.fail(format!("what was broken did not come back: {error:#}"));
    }
    run.report.round(&round);
    let counts = crowd.counts();
    let what = match breaks {
        Breaks::Pubsub => "the subscribed connection",
        Breaks::Redis => "Redis",
        Breaks::Server => "the server",
        Breaks::Master => "the master",
        Breaks::Node => "a master of the Cluster",
    };
    run.report.headline("outages", format!("{count} of {what}, {} batches sent again", round.published.broken));
    run.report.set(
        "outages",
        json!({"what": format!("{breaks:?}").to_lowercase(), "count": count, "sent_again": round.published.broken, "gaps": counts.gaps}),
    );
    if count == 0 {
        run.report.fail("nothing was broken: give more --messages, or a smaller --every");
    }
    if counts.gaps + counts.announced > 0 {
        run.report.fail(format!("durable channels lose nothing, but {} gaps announced {} messages", counts.gaps, counts.announced));
    }
    // What a master has given to servers, and not yet to its replica, is taken back when it is killed. Nobody has acknowledged it; the server tells of it.
    if counts.renewed > 0 && !matches!(breaks, Breaks::Master | Breaks::Node) {
        run.report.fail(format!("{} clients were told of a new epoch, though nothing was taken back", counts.renewed));
    }
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}

fn break_once(run: &mut Run, breaks: Breaks) -> Result<()> {
    match breaks {
        Breaks::Pubsub => {
            let url = run.redis_url.as_deref().context("there is a Redis")?;
            let mut connection = redis::Client::open(url)?.get_connection()?;
            redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).exec(&mut connection)?;
            Ok(())
        }
        Breaks::Redis => {
            let redis = run.redis.as_mut().context("there is a Redis")?;
            redis.kill();
            redis.restart()
        }
        Breaks::Server => run.replace_server(),
        Breaks::Master | Breaks::Node => run.topology.as_mut().context("there are several servers")?.replace_master(),
    }
}
