//! Many clients arrive at once while others receive: those must not feel it, and when it is over the server must hold no more for each newcomer than if
//! they had come in peace.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::connect::rest;
use super::floor::{median, spread};
use crate::args::Options;
use crate::crowd::{Crowd, Habits, Rank, Size};
use crate::pick::Pick;
use crate::progress::short_us;
use crate::publish::Schedule;
use crate::report::Report;
use crate::round::Round;
use crate::run::{Connected, Run, whole};
use crate::stop;

/// Messages a second to those who receive, unless the options say otherwise.
const RATE: f64 = 20.0;
/// Of a round without newcomers.
const MESSAGES: u64 = 100;
/// Beside them messages go out in rounds as short as this, so that hardly one goes out when all are in.
const BESIDE: Duration = Duration::from_millis(200);
/// After the last handshake, until the allocator has given back what it took.
const SETTLE: Duration = Duration::from_secs(3);

pub fn run(options: &Options, stay: u32) -> Result<Report> {
    whole("arrivals", options, 2, |run| arrivals(run, stay))
}

/// One turn: without newcomers, and while they come.
struct Turn {
    alone_p99_us: f64,
    beside_p99_us: f64,
    seconds: f64,
}

fn arrivals(run: &mut Run, stay: u32) -> Result<()> {
    let target = run.target.clone();
    let staying = Size { clients: stay, ..run.size.clone() };
    // All at once; and a storm's own wish for a core must not keep those who stay from theirs.
    let clients = run.size.clients - stay;
    let arriving = Size { clients, window: clients as usize, rank: Rank::Usual, ..run.size.clone() };
    let Connected { crowd: stays, is_complete, .. } = run.connect_to(&target, &staying, &Habits::default(), |_| 0, false)?;
    if !is_complete {
        return Ok(());
    }
    let mut turns = Vec::new();
    let mut beside: Option<Round> = None;
    for turn in 1..=run.options.pairs.max(1) {
        let alone_schedule = run.schedule(RATE, 1, MESSAGES, Pick::new(1, 0.0));
        let alone = run.publish(&format!("alone {turn}"), &stays, alone_schedule, |_, _| {})?;
        let Some((round, crowd, seconds)) = arrive(run, turn, &stays, &arriving)? else { break };
        turns.push(Turn { alone_p99_us: alone.p99_us(), beside_p99_us: round.p99_us(), seconds });
        run.report.total.add(&alone.tally);
        round.add_to(&mut beside);
        crowd.end();
        if run.is_over_time() || !run.report.failures.is_empty() {
            break;
        }
        stop::sleep(rest(clients));
    }
    if let Some(beside) = &beside {
        run.report.round(beside);
        run.report.latency_of = "those who were there, while the others came";
        tell(run, &turns);
    }
    run.check(&stays, &[])?;
    stays.end();
    Ok(())
}

/// The newcomers, and what those who stay have received until all were in. None: not all came in, which is a failure.
fn arrive(run: &mut Run, turn: usize, stays: &Crowd, size: &Size) -> Result<Option<(Round, Crowd, f64)>> {
    let label = format!("arriving {turn}");
    let short = run.schedule(RATE, 1, 1, Pick::new(1, 0.0));
    let count = (short.rate * BESIDE.as_secs_f64()).ceil().max(1.0) as u64;
    let before = run.snapshot();
    let begin = Instant::now();
    let crowd = Crowd::start(&run.target.clone(), size, &Habits::default(), |_| 1)?;
    let all = u64::from(crowd.clients);
    let mut is_in = None;
    let mut whole: Option<Round> = None;
    while is_in.is_none() && !run.is_over_time() && run.report.failures.is_empty() {
        let schedule = Schedule { count, ..short.clone() };
        let round = run.publish(&label, stays, schedule, |_, _| {
            let counts = crowd.counts();
            if is_in.is_none() && counts.ready + counts.ended >= all {
                is_in = Some(begin.elapsed());
            }
        })?;
        round.add_to(&mut whole);
    }
    let found = crowd.counts();
    let (Some(whole), Some(is_in)) = (whole, is_in.filter(|_| found.ready == all)) else {
        let tally = crowd.collect(false)?;
        run.report.fail(format!("only {} of {all} newcomers became ready", found.ready));
        run.report.check(&tally, &[]);
        crowd.end();
        return Ok(None);
    };
    // Of the first turn, whose server had held nobody but those who stay.
    if turn == 1 {
        run.pause("settling", stays, SETTLE);
        let after = run.snapshot();
        run.report.connected(&crowd, &found, is_in.as_secs_f64(), &before, &after);
        run.report.total.connect_us.add(&crowd.collect(false)?.connect_us)?;
    }
    Ok(Some((whole, crowd, is_in.as_secs_f64())))
}

fn tell(run: &mut Run, turns: &[Turn]) {
    let of = |figure: fn(&Turn) -> f64| turns.iter().map(figure).collect::<Vec<f64>>();
    let ratios = of(|turn| turn.beside_p99_us / turn.alone_p99_us.max(1.0));
    let (alone, beside, seconds) = (of(|turn| turn.alone_p99_us), of(|turn| turn.beside_p99_us), of(|turn| turn.seconds));
    let (lowest, highest) = spread(&ratios);
    let text = format!(
        "{} with newcomers, {} without: {:.2} × ({lowest:.2} to {highest:.2})",
        short_us(median(&beside)),
        short_us(median(&alone)),
        median(&ratios)
    );
    run.report.headline("p99 of those who were there", text);
    run.report.headline("all newcomers in after", format!("{:.2} s", median(&seconds)));
    run.report.set("arrivals", json!({"p99_ratio": {"median": median(&ratios), "min": lowest, "max": highest}, "p99_us_alone": alone, "p99_us_beside": beside, "seconds": seconds}));
}
