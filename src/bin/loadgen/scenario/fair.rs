//! Ten tenants, each with a tenth of the clients. One of them takes its share, then ten times that; the others must not feel it. By turns in one run.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::json;

use super::floor::{median, middle, spread};
use crate::args::Options;
use crate::crowd::{ChannelRange, Habits, Subscriptions};
use crate::pick::Pick;
use crate::progress::short_us;
use crate::publish::Schedule;
use crate::report::Report;
use crate::run::{Run, whole};
use crate::target::Needs;

const TENANTS: u32 = 10;
/// Messages a second of all tenants that take their share, and how many in a turn, unless the options say otherwise.
const RATE: f64 = 2000.0;
const MESSAGES: u64 = 20_000;

pub fn run(options: &Options) -> Result<Report> {
    anyhow::ensure!(options.clients >= TENANTS, "there are {TENANTS} tenants, so there must be as many clients");
    // One channel for each client, and one that is silent.
    whole("fair", options, Needs { per_client: 2, ..(options.clients + 1).into() }, fair)
}

/// Each has a channel of its own. To tell them apart, that of the tenant that takes more is a further one, beside the silent channel.
fn channels_of(client: u32, clients: u32) -> Subscriptions {
    let greedy = ChannelRange { first: client, count: 1, of: clients + 1 };
    if client < others(clients) {
        Subscriptions { first: client, further: None }
    } else {
        Subscriptions { first: clients, further: Some(greedy) }
    }
}

/// Clients of the tenants that never take more than their share.
fn others(clients: u32) -> u32 {
    clients - clients / TENANTS
}

fn fair(run: &mut Run) -> Result<()> {
    let clients = run.options.clients;
    let habits = Habits { has_direct: true, ..Habits::default() };
    let Some(crowd) = run.connect(&habits, |client| channels_of(client, clients))? else { return Ok(()) };
    if !run.subscribe(&crowd)? {
        return Ok(());
    }
    let all = run.schedule(RATE, 1, MESSAGES, Pick::new(1, 0.0));
    let share = 1.0 / f64::from(TENANTS);
    let part = |first: u32, count: u32, part: f64| Schedule {
        rate: all.rate * part,
        count: ((all.count as f64 * part) as u64).max(1),
        pick: Pick::InTurn { first, count },
        ..all.clone()
    };
    let of_others = part(0, others(clients), 1.0 - share);
    let of_one = |times: f64| part(others(clients), clients - others(clients), share * times);
    run.publish_beside(
        "warming up",
        &crowd,
        Schedule { count: 100, ..of_others.clone() },
        Some(Schedule { count: 10, ..of_one(1.0) }),
        |_, _| {},
    )?;
    let p99 = |histogram: &Histogram<u64>| histogram.value_at_percentile(99.0) as f64;
    let (mut modest, mut greedy, mut its_own, mut last) = (Vec::new(), Vec::new(), Vec::new(), None);
    for pair in 1..=run.options.pairs.max(1) {
        for (times, found) in [(1.0, &mut modest), (10.0, &mut greedy)] {
            if run.is_over_time() || !run.report.failures.is_empty() {
                break;
            }
            let label = if times == 1.0 { "its share" } else { "ten times its share" };
            let round = run.publish_beside(&format!("{label} {pair}"), &crowd, of_others.clone(), Some(of_one(times)), |_, _| {})?;
            found.push(p99(&round.tally.latency_us));
            if times > 1.0 {
                its_own.push(p99(&round.tally.direct_us));
                last = Some(round);
            }
        }
    }
    let of_pairs: Vec<f64> = greedy.iter().zip(&modest).map(|(greedy, modest)| greedy / modest.max(1.0)).collect();
    if let (Some(round), Some(ratio)) = (last, of_pairs.get(middle(&of_pairs))) {
        run.report.round(&round);
        run.report.latency_of = "the others, beside one that takes ten times its share";
        let (lowest, highest) = spread(&of_pairs);
        let text = format!("{ratio:.2} × ({lowest:.2} to {highest:.2}, the middle one of {} pairs)", of_pairs.len());
        run.report.headline("the others' p99, against when all take their share", text);
        let of_turns =
            format!("{} and {}; the greedy one's {}", short_us(median(&modest)), short_us(median(&greedy)), short_us(median(&its_own)));
        run.report.row("p99 of the others, without and with", of_turns);
        let figures = json!({
            "tenants": TENANTS, "p99_us_modest": modest, "p99_us_greedy": greedy, "p99_us_of_the_greedy": its_own,
            "p99_ratio": {"median": ratio, "min": lowest, "max": highest},
        });
        run.report.set("fair", figures);
    }
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_clients_is_the_greedy_tenants() {
        let greedy: Vec<u32> = (0..1000).filter(|&client| channels_of(client, 1000).further.is_some()).collect();
        assert_eq!(greedy, (900..1000).collect::<Vec<_>>());
        assert!((0..1000).all(|client| channels_of(client, 1000).first == if client < 900 { client } else { 1000 }));
    }
}
