//! Very many connections that never come to the end of their handshake, while others are served: those must not feel it, newcomers must get in, and the
//! server's memory must be bounded, and back when they have gone.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::storm::watch_health;
use crate::args::Options;
use crate::crowd::Habits;
use crate::holders::{Holders, Plan};
use crate::pick::Pick;
use crate::progress::{short_bytes, short_us};
use crate::report::Report;
use crate::run::{Ended, Run, whole};
use crate::tls;

/// Descriptors of a holder's thread that are no connections.
const DESCRIPTORS_SPARE: u64 = 64;

/// What the others do.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub connections: u32,
    pub per_second: f64,
    pub head_bytes: usize,
}

pub fn run(options: &Options, held: Held) -> Result<Report> {
    whole("handshakes", options, 1, |run| handshakes(run, held))
}

fn handshakes(run: &mut Run, held: Held) -> Result<()> {
    let Some(crowd) = run.connect(&Habits::default(), |_| 0)? else { return Ok(()) };
    let schedule = run.schedule(20.0, 1, 200, Pick::new(1, 0.0));
    let memory = |run: &Run| run.snapshot().process.map(|process| process.anonymous_bytes);
    let before = run.publish("alone", &crowd, schedule.clone(), |_, _| {})?;
    let memory_before = memory(run);

    let mut head = run.target.request(0, 0, false).trim_end().as_bytes().to_vec();
    head.extend_from_slice(b"\r\nX-Slow: ");
    head.resize(held.head_bytes.max(head.len()), b'x');
    if let Some(tls) = &run.target.tls {
        // All but its end, here too.
        head = tls::client_hello(tls)?;
        head.pop();
    }
    let per_thread = campanile::sys::raise_descriptor_limit()?.soft.saturating_sub(DESCRIPTORS_SPARE).max(1);
    let plan = Plan {
        address: run.target.address,
        connections: held.connections,
        per_second: held.per_second,
        head: head.into(),
        per_thread: u32::try_from(per_thread).unwrap_or(u32::MAX),
    };
    let holders = Holders::start(&plan)?;
    let counts = holders.counts.clone();
    let seconds = f64::from(held.connections) / held.per_second;
    run.until("handshakes", &crowd, Some(Duration::from_secs_f64(2.0 * seconds + 5.0)), |_| {
        counts.open.load(Relaxed) >= u64::from(held.connections)
    });
    let open = counts.open.load(Relaxed);
    let target = run.target.clone();
    let is_over = AtomicBool::new(false);
    let mut memory_most = memory(run);
    let (beside, health) = std::thread::scope(|scope| {
        let health = scope.spawn(|| watch_health(&target, &is_over));
        let round = run.publish("beside handshakes", &crowd, schedule.clone(), |run, _| memory_most = memory_most.max(memory(run)));
        is_over.store(true, Relaxed);
        (round, health.join().unwrap_or_default())
    });
    let beside = beside?;
    holders.end();
    let back = memory_before.and_then(|before| run.until_memory_is_back(before));
    let after = match run.pause("settling", &crowd, Duration::from_secs(1)) {
        Ended::Met => run.publish("alone again", &crowd, schedule, |_, _| {})?,
        _ => return Ok(()),
    };

    run.report.round(&beside);
    run.report.total.add(&before.tally);
    run.report.total.add(&after.tally);
    // On either side of them, so that a host that warms up or slows down favours neither.
    let alone = (before.p99_us() + after.p99_us()) / 2.0;
    let ratio = beside.p99_us() / alone.max(1.0);
    let number = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
    let (begun, closed, answered, failed) =
        (number(&counts.begun), number(&counts.closed), number(&counts.answered), number(&counts.failed));
    run.report
        .row("handshakes under way", format!("{open} of {}, {begun} begun, {closed} closed, {answered} with an answer", held.connections));
    run.report.headline("p99 of the others", format!("{} with them, {} without: {ratio:.2} ×", short_us(beside.p99_us()), short_us(alone)));
    run.report.headline(
        "newcomers meanwhile",
        format!(
            "{} answers of /healthz, {} failures, slowest {}",
            health.answers,
            health.failures,
            short_us(health.slowest.as_micros() as f64)
        ),
    );
    let mut figures = json!({
        "open": open, "begun": begun, "closed": closed, "answered": answered, "failed": failed, "p99_us_alone": alone,
        "p99_us_others": beside.p99_us(), "p99_ratio": ratio, "healthz_answers": health.answers, "healthz_failures": health.failures,
        "healthz_slowest_us": health.slowest.as_micros() as u64,
    });
    if let (Some(before), Some(most), Some((after, seconds))) = (memory_before, memory_most, back) {
        run.report.headline(
            "server memory",
            format!(
                "{} before, {} with them, {} after {seconds:.0} s",
                short_bytes(before as f64),
                short_bytes(most as f64),
                short_bytes(after as f64)
            ),
        );
        figures["memory_bytes_before"] = before.into();
        figures["memory_bytes_most"] = most.into();
        figures["memory_bytes_after"] = after.into();
    }
    run.report.set("handshakes", figures);
    if health.answers == 0 {
        run.report.fail("no newcomer was answered while the handshakes were under way");
    }
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}
