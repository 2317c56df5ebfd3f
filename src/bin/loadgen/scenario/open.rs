//! The same server by turns with and without what it asks of its clients (--beside-open): what tokens, rules and limits cost. Or with clients of event
//! streams and of WebSockets (--beside-ws), over TLS and in the clear (--beside-plain).
//!
//! As with the floor, the two crowds stand in the middle of each other, so that neither is nearer to the front of the kernel's chains.

use anyhow::Result;
use serde_json::json;

use super::floor::{Beside, Pairs, median, spread};
use crate::beside::Open;
use crate::crowd::{Crowd, Habits, Size};
use crate::publish::Schedule;
use crate::round::Round;
use crate::run::{Connected, Run};
use crate::stop;

/// Connects by turns. The first turn of either counts for nothing: from it on, tokens are known, unless each turn has new ones.
pub fn connect(run: &mut Run) -> Result<()> {
    let mut open = run.take_open()?;
    let size = run.size.clone();
    let beside = Beside::of(&run.options);
    let (mut rates, mut cpu) = (Pairs::beside(beside), Pairs::beside(beside));
    let mut differences = Vec::new();
    for pair in 0..=run.options.pairs.max(1) {
        if pair > 0 && run.options.new_tokens {
            run.renew_tokens()?;
        }
        let Some(server) = turn(run, &size, pair == 1)? else { break };
        run.change_sides(&mut open);
        let other = turn(run, &size, false);
        run.change_sides(&mut open);
        let Some(other) = other? else { break };
        if pair > 0 {
            rates.add_figures(server.0, other.0);
            cpu.add_figures(server.1, other.1);
            differences.push(server.1 - other.1);
        }
    }
    cpu.report(&mut run.report, "CPU per connect", "µs");
    let figures = run.report.take(beside.name());
    run.report.set(&format!("{}_cpu", beside.name()), figures);
    if beside == Beside::Plain && !differences.is_empty() {
        let ((lowest, highest), median) = (spread(&differences), median(&differences));
        let resumed = if run.options.tls.resume { "resumed" } else { "full" };
        let told = format!("{median:.1} µs ({lowest:.1} to {highest:.1}): what a connect costs more than in the clear, {resumed}");
        run.report.headline("server CPU per TLS handshake", told);
        run.report.set("tls_handshake_cpu_us", json!(differences));
    }
    rates.report(&mut run.report, "connects per second", "/s");
    Ok(())
}

/// Connects per second, and the server's microseconds for each. None: it did not come to its end.
fn turn(run: &mut Run, size: &Size, counts: bool) -> Result<Option<(f64, f64)>> {
    if run.is_over_time() {
        return Ok(None);
    }
    let target = run.target.clone();
    let Connected { crowd, is_complete, seconds, server_cpu_ns } = run.connect_to(&target, size, &Habits::default(), |_| 0, counts)?;
    let clients = f64::from(crowd.clients);
    let total = crowd.collect(false)?;
    if is_complete && (counts || total.counts.refused + total.counts.closed > 0) {
        run.report.check(&total, &[]);
    }
    crowd.end();
    stop::sleep(super::connect::rest(size.clients));
    Ok(is_complete.then(|| (clients / seconds, server_cpu_ns.unwrap_or_default() as f64 / clients / 1000.0)))
}

/// Publishes the same by turns to both.
pub fn broadcast(run: &mut Run, schedule: &Schedule) -> Result<()> {
    let mut open = run.take_open()?;
    let size = Size { is_halved: true, ..run.size.clone() };
    let mut crowd = Crowd::start(&open.target, &size, &Habits::default(), |_| 0)?;
    crowd.is_recorded = false;
    wait_for(run, &crowd, crowd.at_once)?;
    let Some(ours) = run.connect(&Habits::default(), |_| 0)? else { return Ok(()) };
    crowd.connect_rest();
    wait_for(run, &crowd, crowd.clients)?;
    let mut pairs = Pairs::beside(Beside::of(&run.options));
    let mut all = None::<Round>;
    // The first pair warms both up.
    for pair in 0..=run.options.pairs.max(1) {
        let round = run.publish(&format!("server {pair}"), &ours, schedule.clone(), |_, _| {})?;
        let other = other_turn(run, &mut open, &crowd, schedule)?;
        if run.is_over_time() || !run.report.failures.is_empty() {
            break;
        }
        if pair == 0 {
            continue;
        }
        if run.options.deflate && round.counts.compressed == 0 {
            run.report.fail("nothing came compressed: --serve must say --deflate, and messages be long enough".to_owned());
        }
        if let Some((ours, other)) = round.cpu_per_delivery().zip(other.cpu_per_delivery()) {
            pairs.add_figures(ours, other);
        }
        pairs.add_frame_bytes(round.frame_bytes(), other.frame_bytes());
        pairs.add_latencies(&round.tally.latency_us, &other.tally.latency_us);
        match &mut all {
            Some(all) => all.add(&round),
            None => all = Some(round),
        }
    }
    if let Some(all) = &all {
        run.report.round(all);
    }
    pairs.report(&mut run.report, "CPU per delivery", "ns");
    run.check(&ours, &[])?;
    ours.end();
    crowd.end();
    Ok(())
}

fn other_turn(run: &mut Run, open: &mut Open, crowd: &Crowd, schedule: &Schedule) -> Result<Round> {
    run.series.floor_begins();
    run.change_sides(open);
    let words = Beside::of(&run.options).words();
    let round = run.publish(words, crowd, schedule.clone(), |_, _| {});
    run.change_sides(open);
    run.series.floor_ends();
    let round = round?;
    let counts = &round.counts;
    if counts.lost + counts.duplicates + counts.reordered + counts.closed > 0 {
        run.report.fail(format!("messages of {words} did not arrive ({counts:?})"));
    }
    Ok(round)
}

fn wait_for(run: &mut Run, crowd: &Crowd, clients: u32) -> Result<()> {
    let clients = u64::from(clients);
    let words = Beside::of(&run.options).words();
    run.until(&format!("connecting to {words}"), crowd, None, |counts| counts.ready + counts.ended >= clients);
    let ready = crowd.counts().ready;
    anyhow::ensure!(ready == clients, "only {ready} of {clients} clients of {words} became ready");
    Ok(())
}
