//! All clients but some are away while messages are published to their durable channels. Then they come back at once, each asking for what it has missed; and that again.
//!
//! What that costs the server beyond connecting is held against what it cost to send them as many messages at once while they were there. Those who stayed,
//! on a channel of their own, must not feel it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::Connection;
use serde_json::json;

use super::floor::middle;
use super::outages::durable;
use crate::args::Options;
use crate::crowd::{Crowd, Habits, Rank, Size};
use crate::pick::Pick;
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
    let Some(live_cpu_ns) = live.server_cpu_ns.filter(|_| run.report.failures.is_empty()) else { return Ok(()) };
    let crowds = Crowds { leaves: &crowd, stays: &stays, connects_ns: server_cpu_ns.unwrap_or(0) as f64 };
    let mut turns = Vec::new();
    for number in 1..=run.options.pairs.max(1) {
        match turn(run, &crowds, &of_stayed, &of_missed, number)? {
            Some(turn) => turns.push(turn),
            None => {
                run.report.fail("not all clients came back with everything");
                break;
            }
        }
    }
    tell(run, &live, live_cpu_ns as f64, &turns, (crowd.clients, missed));
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

struct Crowds<'c> {
    leaves: &'c Crowd,
    stays: &'c Crowd,
    /// What it cost the server that those who leave connected in the beginning.
    connects_ns: f64,
}

/// They have been away once, and are back.
struct Turn {
    storm: Round,
    p99_us_without: f64,
    back_seconds: f64,
    /// Beyond what the connects cost, and those who stayed.
    replay_ns: f64,
    reads: usize,
}

/// None: not all came back with everything.
fn turn(run: &mut Run, crowds: &Crowds<'_>, of_stayed: &Schedule, of_missed: &Schedule, number: usize) -> Result<Option<Turn>> {
    let (crowd, stays) = (crowds.leaves, crowds.stays);
    let quiet = run.publish(&format!("without {number}"), stays, of_stayed.clone(), |_, _| {})?;
    let url = run.redis_url.clone().context("there is a Redis")?;
    let mut redis = redis::Client::open(url)?.get_connection()?;
    let begin = Instant::now();
    crowd.go_away(AWAY);
    run.until("leaving", crowd, Some(AWAY), |counts| counts.ready == 0);
    let published = Publisher::start(run.route(stays, false)?, of_missed.clone(), crowd.published.clone())?.finish();
    ensure!(published.error.is_none(), "publishing failed: {:?}", published.error);
    note_reads(&mut redis)?;
    let before = run.snapshot();
    let clients = u64::from(crowd.clients);
    let seconds = AWAY.as_secs_f64() + f64::from(crowd.clients) / BACK_PER_SECOND + 2.0;
    let beside = Schedule { count: (of_stayed.rate * seconds) as u64, ..of_stayed.clone() };
    let mut back = None;
    let look = |run: &Run, crowd: &Crowd, back: &mut Option<(Instant, Option<u64>)>| {
        if back.is_none() && crowd.counts().ready == clients && crowd.missing() == 0 {
            *back = Some((Instant::now(), cpu_since(run, &before)));
        }
    };
    let (delivered_before, mut delivered) = (stays.counts().messages, None);
    let storm = run.publish(&format!("coming back {number}"), stays, beside, |run, _| {
        look(run, crowd, &mut back);
        if back.is_some() {
            delivered.get_or_insert_with(|| stays.counts().messages);
        }
    })?;
    let patience = Instant::now();
    while back.is_none() && patience.elapsed() < Duration::from_secs_f64(run.options.patience) && !run.is_over_time() {
        stop::sleep(Duration::from_millis(20));
        look(run, crowd, &mut back);
    }
    let reads = reads(&mut redis)?;
    Ok(back.map(|(at, cpu_ns)| {
        let stayed_ns = quiet.cpu_per_delivery().unwrap_or(0.0) * delivered.unwrap_or(0).saturating_sub(delivered_before) as f64;
        Turn {
            p99_us_without: quiet.p99_us(),
            back_seconds: at.duration_since(begin + AWAY).as_secs_f64(),
            replay_ns: cpu_ns.unwrap_or(0) as f64 - crowds.connects_ns - stayed_ns,
            reads,
            storm,
        }
    }))
}

/// What the middle turn has brought, and how far the others were from it.
fn tell(run: &mut Run, live: &Round, live_cpu_ns: f64, turns: &[Turn], (clients, missed): (u32, u32)) {
    let Some(last) = turns.last() else { return };
    let report = &mut run.report;
    report.round(&last.storm);
    report.latency_of = "those who stayed, while the others came back the last time";
    let reads = turns.iter().map(|turn| turn.reads).max().unwrap_or(0);
    let (replayed, each) = (u64::from(clients) * u64::from(missed), live.cpu_per_delivery().unwrap_or(0.0));
    report.row("replayed", format!("{replayed} messages each time, by {reads} reads of Redis at most; live they cost {each:.0} ns each"));
    let of_turns = |figure: &dyn Fn(&Turn) -> f64| turns.iter().map(figure).collect::<Vec<_>>();
    let back = of_turns(&|turn| turn.back_seconds);
    let cpu = of_turns(&|turn| turn.replay_ns / live_cpu_ns.max(1.0));
    let p99 = of_turns(&|turn| turn.storm.p99_us() / turn.p99_us_without.max(1.0));
    let told = |figures: &[f64], unit: &str| {
        let (lowest, highest) =
            (figures.iter().copied().fold(f64::INFINITY, f64::min), figures.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        format!("{:.2} {unit} ({lowest:.2} to {highest:.2}, the middle one of {})", figures[middle(figures)], figures.len())
    };
    report.headline("all back with everything after", told(&back, "s"));
    report.headline("p99 of those who stayed, against before", told(&p99, "×"));
    report.headline("CPU of the replay, against sending it live", format!("{}, without the connects' own", told(&cpu, "×")));
    report.set(
        "return",
        json!({
            "clients": clients, "missed": missed, "redis_reads": reads, "live_cpu_ns": live_cpu_ns,
            "back_seconds": back[middle(&back)], "cpu_ratio": cpu[middle(&cpu)], "p99_ratio": p99[middle(&p99)],
            "all_back_seconds": back, "cpu_ratios": cpu, "p99_ratios": p99,
        }),
    );
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
