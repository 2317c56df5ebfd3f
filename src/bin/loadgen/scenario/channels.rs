//! Many channels: one or more for each client, or as many as asked for, by Zipf's law or in turn; with --leave, until all are given up. With --floor (one channel per client), by turns with
//! the kernel's own price for so many sends a second, each to another socket.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::floor::{FloorSide, by_turns, warm_rate};
use crate::args::{Leave, Options};
use crate::crowd::{ChannelRange, Crowd, Habits, Subscriptions};
use crate::pick::Pick;
use crate::progress::{short, short_bytes};
use crate::report::Report;
use crate::run::{Run, whole};
use crate::target::Needs;

/// How channels are dealt out.
#[derive(Debug, Clone, Copy)]
pub struct Dealt {
    /// 0: as many as clients have together.
    pub channels: u32,
    pub per_client: u32,
    pub zipf: f64,
}

pub fn run(options: &Options, dealt: Dealt, leave: Option<Leave>) -> Result<Report> {
    let count = if dealt.channels == 0 { options.clients * dealt.per_client } else { dealt.channels };
    whole("channels", options, Needs { per_client: dealt.per_client, ..count.into() }, |run| spread(run, count, dealt, leave))
}

fn spread(run: &mut Run, count: u32, dealt: Dealt, leave: Option<Leave>) -> Result<()> {
    let Dealt { per_client, zipf, .. } = dealt;
    let pick = Pick::new(count, zipf);
    let channels_of = |client: u32| {
        // Of their own: one set after the other.
        let first = if dealt.channels == 0 { client * per_client } else { pick.channel(u64::from(client)) };
        let further = ChannelRange { first: (first + 1) % count, count: per_client - 1, of: count };
        Subscriptions { first, further: (per_client > 1).then_some(further) }
    };
    let memory_before = run.snapshot().process.map(|process| process.anonymous_bytes);
    let floor = run.options.floor.then(|| FloorSide::start(run, run.options.clients)).transpose()?;
    let Some(crowd) = run.connect(&Habits::default(), channels_of)? else { return Ok(()) };
    if crowd.further_subscriptions > 0 && !run.subscribe(&crowd)? {
        return Ok(());
    }
    let pick = if per_client > 1 && zipf == 0.0 { Pick::Scattered { count } } else { pick };
    let most = crowd.subscribers.iter().max().copied().unwrap_or(0);
    run.report.row("channels", format!("{count}, the largest with {most} clients"));
    run.report.set("channels", json!({"count": count, "zipf": zipf, "largest": most}));
    let mut schedule = run.schedule(1000.0, 1, 5000, pick);
    if let Some(floor) = floor {
        // The floor goes whole rounds; the server has as many messages, to as many sockets.
        let clients = u64::from(crowd.clients);
        let (rate, rounds) = (schedule.rate, schedule.count.div_ceil(clients));
        schedule.count = rounds * clients;
        by_turns(run, &crowd, floor, &schedule, clients, |floor, run, is_warm, frame_bytes| {
            let (rounds, rate) = if is_warm { (rounds, rate) } else { (1, warm_rate(rate, clients)) };
            floor.rounds(run, rounds, rate, frame_bytes)
        })?;
    } else if schedule.count > 0 {
        let round = run.publish("publishing", &crowd, schedule, |_, _| {})?;
        run.report.round(&round);
    }
    match leave.filter(|_| run.report.failures.is_empty()) {
        Some(leave) => self::leave(run, crowd, leave, memory_before.unwrap_or(0)),
        None => {
            run.check(&crowd, &[])?;
            crowd.end();
            Ok(())
        }
    }
}

/// Everybody gives up everything, and the server its memory.
fn leave(run: &mut Run, crowd: Crowd, leave: Leave, memory_before: u64) -> Result<()> {
    let held = run.snapshot().process.map(|process| process.anonymous_bytes);
    let all = u64::from(crowd.clients) + crowd.further_subscriptions;
    let begin = Instant::now();
    let crowd = match leave {
        Leave::Close => {
            run.check(&crowd, &[])?;
            crowd.end();
            None
        }
        Leave::Unsubscribe => {
            crowd.unsubscribe();
            let ended = run.until("unsubscribing", &crowd, None, |counts| counts.unsubscribed >= all || counts.errors > 0);
            let counts = crowd.counts();
            if counts.unsubscribed < all {
                let why = run.why(ended);
                run.report.fail(format!("only {} of {all} subscriptions were given up{why}", counts.unsubscribed));
            }
            Some(crowd)
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    run.report.headline("given up", format!("{all} ({seconds:.2} s, {}/s)", short(all as f64 / seconds)));
    let mut figures = json!({"count": all, "seconds": seconds, "per_second": all as f64 / seconds});
    if let Some((held, (after, waited))) = held.zip(run.until_memory_is_back(memory_before)) {
        let bytes = |bytes: u64| short_bytes(bytes as f64);
        let text = format!("{} after {waited:.0} s; {} held, {} before", bytes(after), bytes(held), bytes(memory_before));
        run.report.headline("server memory when all have left", text);
        figures["memory_bytes_before"] = memory_before.into();
        figures["memory_bytes_held"] = held.into();
        figures["memory_bytes_after"] = after.into();
        figures["memory_seconds"] = json!(waited);
    }
    run.report.set("left", figures);
    if let Some(crowd) = crowd {
        // Nobody may have been closed meanwhile.
        run.check(&crowd, &[])?;
        crowd.end();
    }
    Ok(())
}
