//! All clients but some are away while messages are published to their durable channels. Then they come back at once, each asking for what it has missed.
//!
//! What that costs the server beyond connecting is held against what it cost to send them as many messages at once while they were there. Those who stayed,
//! on a channel of their own, must not feel it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::Connection;
use serde_json::json;

use super::outages::durable;
use crate::args::Options;
use crate::crowd::{Crowd, Habits, Rank, Size};
use crate::pick::Pick;
use crate::progress::short_us;
use crate::publish::{Publisher, Schedule};
use crate::report::Report;
use crate::round::Round;
use crate::run::{Connected, Run, whole};
use crate::stop;

/// How long they are away, at least.
const AWAY: Duration = Duration::from_secs(3);
/// Messages a second to those who stay, unless the options say otherwise. Few: they are there to feel what the others do, not to keep the host busy.
const RATE: f64 = 5.0;
/// So many are taken to come back in a second, to know how long those who stay are to have messages.
const BACK_PER_SECOND: f64 = 5000.0;
/// Commands that Redis notes, at most: some hundred come meanwhile.
const NOTED_MAX: &str = "100000";

pub fn run(options: &Options, channels: u32, missed: u32, stay: u32) -> Result<Report> {
    whole("return", &durable(options), channels + 1, |run| coming_back(run, missed, stay))
}

fn coming_back(run: &mut Run, missed: u32, stay: u32) -> Result<()> {
    run.must_be_campanile()?;
    let (target, channels) = (run.target.clone(), run.target.channels.count - 1);
    let sized = |clients: u32| Size { clients, ..run.size.clone() };
    // Where those who stay go first, the crowd that comes back gives way: its threads are many, and on this host they would keep the server from its cores.
    let rank = if run.options.realtime { Rank::Later } else { Rank::Usual };
    let (leaving, staying) = (Size { rank, ..sized(run.size.clients - stay) }, sized(stay));
    let habits = Habits { keeps_positions: true, ..Habits::default() };
    let Connected { crowd, is_complete, server_cpu_ns, .. } =
        run.connect_to(&target, &leaving, &habits, |client| client % channels, true)?;
    let connected = run.connect_to(&target, &staying, &Habits::default(), |_| channels, false)?;
    if !is_complete || !connected.is_complete {
        return Ok(());
    }
    let stays = connected.crowd;
    let of_stayed = run.schedule(RATE, 1, 100, Pick::InTurn { first: channels, count: 1 });
    let all = u64::from(missed) * u64::from(channels);
    let of_missed = Schedule { rate: 1e9, burst: all, count: all, pick: Pick::InTurn { first: 0, count: channels }, ..of_stayed.clone() };

    let live = run.publish("live", &crowd, of_missed.clone(), |_, _| {})?;
    let quiet = run.publish("without", &stays, of_stayed.clone(), |_, _| {})?;

    let url = run.redis_url.clone().context("there is a Redis")?;
    let mut redis = redis::Client::open(url)?.get_connection()?;
    let begin = Instant::now();
    crowd.go_away(AWAY);
    run.until("leaving", &crowd, Some(AWAY), |counts| counts.ready == 0);
    let published = Publisher::start(run.route(&stays, false)?, of_missed, crowd.published.clone())?.finish();
    ensure!(published.error.is_none(), "publishing failed: {:?}", published.error);
    note_reads(&mut redis)?;
    let before = run.snapshot();
    let clients = u64::from(crowd.clients);
    let seconds = AWAY.as_secs_f64() + f64::from(crowd.clients) / BACK_PER_SECOND + 2.0;
    let beside = Schedule { count: (of_stayed.rate * seconds) as u64, ..of_stayed };
    let mut back = None;
    let look = |run: &Run, crowd: &Crowd, back: &mut Option<(Instant, Option<u64>)>| {
        if back.is_none() && crowd.counts().ready == clients && crowd.missing() == 0 {
            *back = Some((Instant::now(), cpu_since(run, &before)));
        }
    };
    let mut delivered = None;
    let storm = run.publish("coming back", &stays, beside, |run, _| {
        look(run, &crowd, &mut back);
        if back.is_some() {
            delivered.get_or_insert_with(|| stays.counts().messages);
        }
    })?;
    let patience = Instant::now();
    while back.is_none() && patience.elapsed() < Duration::from_secs_f64(run.options.patience) && !run.is_over_time() {
        stop::sleep(Duration::from_millis(20));
        look(run, &crowd, &mut back);
    }
    let reads = reads(&mut redis)?;
    tell(run, &live, [&quiet, &storm], all * clients / u64::from(channels), reads);
    let cost = |round: &Round| round.cpu_per_delivery().unwrap_or(0.0);
    match back {
        Some((at, cpu_ns)) => {
            let back_seconds = at.duration_since(begin + AWAY).as_secs_f64();
            let connects_ns = server_cpu_ns.unwrap_or(0);
            let stayed_ns = cost(&quiet) * delivered.unwrap_or(0).saturating_sub(quiet.counts.messages) as f64;
            let replay_ns = cpu_ns.unwrap_or(0) as f64 - connects_ns as f64 - stayed_ns;
            let ratio = replay_ns / live.server_cpu_ns.unwrap_or(1).max(1) as f64;
            run.report.headline("all back with everything after", format!("{back_seconds:.2} s"));
            run.report.headline("CPU of the replay, against sending it live", format!("{ratio:.2} ×, without the connects' own"));
            run.report.set(
                "return",
                json!({
                    "back_seconds": back_seconds, "clients": clients, "missed": missed, "replay_cpu_ns": replay_ns, "connects_cpu_ns": connects_ns,
                    "live_cpu_ns": live.server_cpu_ns, "cpu_ratio": ratio, "redis_reads": reads,
                    "p99_us_without": quiet.p99_us(), "p99_us_with": storm.p99_us(),
                }),
            );
        }
        None => run.report.fail("not all clients came back with everything"),
    }
    // How late what they have missed is says nothing.
    let mut missed = crowd.collect(!stop::is_asked())?;
    missed.latency_us.reset();
    run.report.total.add(&missed);
    run.check(&crowd, &[])?;
    let stayed = stays.collect(false)?.counts;
    if stayed.lost + stayed.duplicates + stayed.reordered + stayed.announced + stayed.closed > 0 {
        run.report.fail(format!("those who stayed did not get everything ({stayed:?})"));
    }
    crowd.end();
    stays.end();
    Ok(())
}

fn tell(run: &mut Run, live: &Round, [quiet, storm]: [&Round; 2], replayed: u64, reads: usize) {
    run.report.round(storm);
    run.report.latency_of = "those who stayed, while the others came back";
    let each = live.cpu_per_delivery().unwrap_or(0.0);
    run.report.row("replayed", format!("{replayed} messages, by {reads} reads of Redis; live they cost {each:.0} ns each"));
    let (without, with) = (quiet.p99_us(), storm.p99_us());
    let text = format!("{:.2} × ({} and {})", with / without.max(1.0), short_us(without), short_us(with));
    run.report.headline("p99 of those who stayed, against before", text);
}

fn cpu_since(run: &Run, before: &crate::process::Snapshot) -> Option<u64> {
    let after = run.snapshot();
    Some(after.process?.cpu_ns.saturating_sub(before.process.as_ref()?.cpu_ns))
}

/// From now on Redis notes what it is asked.
fn note_reads(redis: &mut Connection) -> Result<()> {
    redis::cmd("CONFIG").arg(&["SET", "slowlog-log-slower-than", "0", "slowlog-max-len", NOTED_MAX]).exec(redis)?;
    Ok(redis::cmd("SLOWLOG").arg("RESET").exec(redis)?)
}

/// How often a stream was read since, but by functions, which trim what is too old: those have no address.
fn reads(redis: &mut Connection) -> Result<usize> {
    type Noted = (u64, u64, u64, Vec<Vec<u8>>, String, String);
    let noted: Vec<Noted> = redis::cmd("SLOWLOG").arg(&["GET", "-1"]).query(redis)?;
    let is_read = |(_, _, _, command, by, _): &&Noted| command.first().is_some_and(|name| name == b"XRANGE") && by != "?:0";
    Ok(noted.iter().filter(is_read).count())
}
