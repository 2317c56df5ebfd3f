//! All clients drop at once and come back, resuming where they were, while messages flow. Nothing may be missing, and the server must
//! go on answering /healthz.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::args::Options;
use crate::crowd::{Crowd, Habits};
use crate::pick::Pick;
use crate::progress::short_us;
use crate::publish::client::dial;
use crate::report::Report;
use crate::run::{Run, whole};
use crate::stop;
use crate::target::Target;

/// How often /healthz is asked.
const HEALTH_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) answers: u64,
    pub(super) failures: u64,
    pub(super) slowest: Duration,
}

pub fn run(options: &Options) -> Result<Report> {
    whole("storm", options, 1, storm)
}

fn storm(run: &mut Run) -> Result<()> {
    run.must_be_campanile()?;
    let habits = Habits { keeps_positions: true, ..Habits::default() };
    let Some(crowd) = run.connect(&habits, |_| 0)? else { return Ok(()) };
    let first = crowd.counts();
    let schedule = run.schedule(10.0, 1, 100, Pick::new(1, 0.0));
    let first_part = Duration::from_secs_f64(schedule.count as f64 / schedule.rate / 3.0);
    let target = run.target.clone();
    let is_over = AtomicBool::new(false);
    let (round, back, health) = std::thread::scope(|scope| {
        let health = scope.spawn(|| watch_health(&target, &is_over));
        let back = scope.spawn(|| storm_after(first_part, &crowd, &is_over));
        let round = run.publish("storm", &crowd, schedule, |_, _| {});
        let all = u64::from(crowd.clients);
        run.until("coming back", &crowd, None, |counts| counts.ready + counts.ended >= all);
        is_over.store(true, Relaxed);
        (round, back.join().unwrap_or_default(), health.join().unwrap_or_default())
    });
    let round = round?;
    run.report.round(&round);
    match back {
        Some(time) => {
            run.report.headline("all back after", format!("{:.2} s", time.as_secs_f64()));
            run.report.handshakes("storm_tls", &crowd.counts().since(&first), time.as_secs_f64());
        }
        None => run.report.fail("not all clients came back"),
    }
    run.report.headline(
        "/healthz meanwhile",
        format!("{} answers, {} failures, slowest {}", health.answers, health.failures, short_us(health.slowest.as_micros() as f64)),
    );
    if health.failures > 0 || health.answers == 0 {
        run.report.fail(format!("/healthz did not answer {} times", health.failures));
    }
    run.report.set(
        "storm",
        json!({
            "back_seconds": back.map(|time| time.as_secs_f64()), "healthz_answers": health.answers, "healthz_failures": health.failures,
            "healthz_slowest_us": health.slowest.as_micros() as u64,
        }),
    );
    let last = crowd.collect(!stop::is_asked())?;
    if last.counts.unrecovered > 0 {
        run.report.row("hint", "a Campanile keeps messages for those who come back with --history-count N");
    }
    run.report.total.add(&last);
    // Who is refused in a storm comes again; who never gets through is a failure above.
    run.check(&crowd, &["refused"])?;
    crowd.end();
    Ok(())
}

/// Drops everybody after a while, and measures until all are back.
fn storm_after(wait: Duration, crowd: &Crowd, is_over: &AtomicBool) -> Option<Duration> {
    let begin = Instant::now();
    while begin.elapsed() < wait {
        if is_over.load(Relaxed) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let connected_before = crowd.counts().connected;
    let begin = Instant::now();
    crowd.storm();
    while !is_over.load(Relaxed) {
        if crowd.counts().connected >= connected_before + u64::from(crowd.clients) {
            return Some(begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    (crowd.counts().connected >= connected_before + u64::from(crowd.clients)).then(|| begin.elapsed())
}

pub(super) fn watch_health(target: &Target, is_over: &AtomicBool) -> Health {
    let mut health = Health::default();
    while !is_over.load(Relaxed) {
        let begin = Instant::now();
        match is_healthy(target) {
            Ok(true) => health.answers += 1,
            Ok(false) | Err(_) => health.failures += 1,
        }
        health.slowest = health.slowest.max(begin.elapsed());
        std::thread::sleep(HEALTH_PAUSE);
    }
    health
}

/// By a new connection each time, as a load balancer makes it: it has to come through the same storm.
fn is_healthy(target: &Target) -> Result<bool> {
    let mut stream = dial(target)?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.address);
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut room) = (Vec::new(), [0; 1024]);
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut room)? {
            0 => return Ok(false),
            count => answer.extend_from_slice(&room[..count]),
        }
    }
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
