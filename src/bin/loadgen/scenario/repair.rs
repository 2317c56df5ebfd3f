//! The server's subscriptions are lost at once, and while they are, messages are published to its durable channels: how soon every client has them all. With
//! --missed 0: how soon everything is subscribed again.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use campanile::sys;
use serde_json::json;

use super::outages::durable;
use crate::args::Options;
use crate::crowd::{ChannelRange, Crowd, Habits, Subscriptions};
use crate::publish::Message;
use crate::publish::redis::{RedisRoute, Way};
use crate::report::Report;
use crate::run::{Run, whole};
use crate::stamp::Stamp;
use crate::stop;
use crate::target::Needs;

/// How often the server is asked whether it is ready.
const LOOK: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(options: &Options, needs: Needs, missed: u32) -> Result<Report> {
    whole("repair", &durable(options), needs, |run| repair(run, needs.per_client, missed))
}

fn repair(run: &mut Run, per_client: u32, missed: u32) -> Result<()> {
    run.must_be_campanile()?;
    let channels = run.target.channels.count;
    let channels_of = |client: u32| {
        let first = (u64::from(client) * u64::from(per_client) % u64::from(channels)) as u32;
        let further = ChannelRange { first: (first + 1) % channels, count: per_client - 1, of: channels };
        Subscriptions { first, further: (per_client > 1).then_some(further) }
    };
    let Some(crowd) = run.connect(&Habits::default(), channels_of)? else { return Ok(()) };
    if crowd.further_subscriptions > 0 && !run.subscribe(&crowd)? {
        return Ok(());
    }
    let (mut took, mut subscribed) = (Vec::new(), Vec::new());
    for turn in 1..=run.options.pairs.max(1) {
        if run.is_over_time() || !run.report.failures.is_empty() {
            break;
        }
        let (all, again) = lose_once(run, &crowd, missed, turn)?;
        took.extend(all);
        subscribed.extend(again);
    }
    let middle = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    };
    let spread = |times: &[f64]| format!("{:.3} to {:.3} s", times.first().unwrap_or(&0.0), times.last().unwrap_or(&0.0));
    if let Some(seconds) = middle(&mut subscribed) {
        let text = format!("{channels} channels in {seconds:.3} s ({}, the middle one of {} times)", spread(&subscribed), subscribed.len());
        run.report.headline("subscribed again", text);
    }
    let messages = u64::from(channels) * u64::from(missed);
    if let Some(seconds) = middle(&mut took).filter(|_| missed > 0) {
        let text = format!("{messages} messages of {channels} channels in {seconds:.3} s ({})", spread(&took));
        run.report.headline("repaired", text);
    }
    run.report.set("repair", json!({"channels": channels, "missed": missed, "repaired_seconds": took, "subscribed_seconds": subscribed}));
    let counts = crowd.counts();
    if counts.gaps + counts.announced > 0 {
        run.report.fail(format!("durable channels lose nothing, but {} gaps announced {} messages", counts.gaps, counts.announced));
    }
    run.report.total.add(&crowd.collect(!stop::is_asked())?);
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}

/// Seconds from when messages could come again until all had come, and until the server was ready.
fn lose_once(run: &mut Run, crowd: &Crowd, missed: u32, turn: usize) -> Result<(Option<f64>, Option<f64>)> {
    let control = run.options.control.context("the server's control address")?;
    let channels = run.target.channels.clone();
    let before = crowd.counts().messages;
    let expected_before = crowd.expected();
    let mut messages = Vec::new();
    for channel in 0..channels.count {
        for number in 0..u64::from(missed) {
            let seq = crowd.published[channel as usize].load(Relaxed) + number;
            let mut payload = Vec::with_capacity(run.options.payload);
            run.options.payload_kind.write(Stamp { channel, seq, intended_ns: sys::monotonic_ns() }, run.options.payload, &mut payload);
            messages.push(Message { channel, seq, payload });
        }
    }
    for published in crowd.published.iter() {
        published.fetch_add(u64::from(missed), Relaxed);
    }
    let asking = move || std::thread::spawn(move || ready_again(&format!("http://{control}/readyz")));
    let (asking, begin) = if let Some(topology) = &run.topology {
        let asking = asking();
        topology.cut_subscriptions()?;
        (asking, Instant::now())
    } else {
        let url = run.redis_url.as_deref().context("there is a Redis")?;
        let mut route = RedisRoute::connect(url, Way::Durable { is_once: false }, &run.options.prefix, channels.clone())?;
        let asking = asking();
        // As one step: nobody can subscribe again before all of it is published.
        route.publish_unheard(&messages)?;
        (asking, Instant::now())
    };
    let mut all = None;
    if missed > 0 {
        let ended = run.until(&format!("repair {turn}"), crowd, None, |counts| {
            counts.messages + counts.announced - before >= crowd.expected() - expected_before
        });
        all = Some(begin.elapsed().as_secs_f64());
        let came = crowd.counts().messages - before;
        if came < crowd.expected() - expected_before {
            let why = run.why(ended);
            run.report.fail(format!("only {came} of {} messages came{why}", crowd.expected() - expected_before));
        }
    }
    let again = asking.join().ok().flatten();
    if again.is_none() {
        run.report.fail("the server was not ready again, or never noticed");
    }
    Ok((all, again.map(|at| at.saturating_duration_since(begin).as_secs_f64())))
}

/// When the server was ready after it had not been.
fn ready_again(url: &str) -> Option<Instant> {
    let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).proxy(None);
    let agent: ureq::Agent = config.build().into();
    let begin = Instant::now();
    let mut was_away = false;
    while begin.elapsed() < PATIENCE && !stop::is_asked() {
        match agent.get(url).call().ok().map(|answer| answer.status().as_u16()) {
            Some(200) if was_away => return Some(Instant::now()),
            Some(200) | None => {}
            Some(_) => was_away = true,
        }
        std::thread::sleep(LOOK);
    }
    None
}
