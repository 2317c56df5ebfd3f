//! A broadcast to everybody, and messages to single clients meanwhile, which must not wait until a lap has come round. By turns with the broadcast
//! alone, so that it is seen what they cost it; with --floor, also with a send loop that sends both, which says how long a reader takes to be woken.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::json;

use super::floor::{FloorSide, median, middle, spread, warm_rate};
use crate::args::Options;
use crate::crowd::{ChannelRange, Crowd, Habits, Subscriptions};
use crate::pick::{Pick, Spread};
use crate::publish::Schedule;
use crate::report::Report;
use crate::round::Round;
use crate::run::{Run, whole};
use crate::tally;
use crate::target::Needs;

/// Broadcasts per second, and how many in a turn, unless the options say otherwise.
const RATE: f64 = 4.0;
const MESSAGES: u64 = 20;

pub fn run(options: &Options, direct: u32, direct_per_second: f64) -> Result<Report> {
    let among = Spread { chosen: if direct == 0 { options.clients } else { direct }, clients: options.clients };
    whole("mixed", options, Needs { per_client: 2, ..(1 + among.chosen).into() }, |run| mixed(run, among, direct_per_second))
}

/// The first channel is everybody's, the others are one client's each.
fn channels_of(client: u32, among: Spread) -> Subscriptions {
    let of = 1 + among.chosen;
    Subscriptions { first: 0, further: among.place(client).map(|place| ChannelRange { first: 1 + place, count: 1, of }) }
}

fn mixed(run: &mut Run, among: Spread, direct_per_second: f64) -> Result<()> {
    let habits = Habits { has_direct: true, ..Habits::default() };
    let floor = run
        .options
        .floor
        .then(|| FloorSide::start_mixed(run, among.clients, 1 + among.chosen, &habits, |client| channels_of(client, among)))
        .transpose()?;
    let Some(crowd) = run.connect(&habits, |client| channels_of(client, among))? else { return Ok(()) };
    if !run.subscribe(&crowd)? {
        return Ok(());
    }
    run.report.row("direct channels", format!("{} of {} clients have one", among.chosen, among.clients));
    let broadcast = run.schedule(RATE, 1, MESSAGES, Pick::new(1, 0.0));
    // For as long as the broadcast goes on, its last lap included.
    let seconds = broadcast.count.div_ceil(broadcast.burst) as f64 * broadcast.burst as f64 / broadcast.rate;
    let direct = Schedule {
        rate: direct_per_second,
        burst: 1,
        count: ((direct_per_second * seconds) as u64).max(1),
        pick: Pick::InTurn { first: 1, count: among.chosen },
        ..broadcast.clone()
    };
    by_turns(run, &crowd, floor, among, &broadcast, &direct)?;
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}

/// What the turns have brought.
#[derive(Debug)]
struct Found {
    alone: Option<Round>,
    beside: Option<Round>,
    alone_p99_us: Vec<u64>,
    beside_p99_us: Vec<u64>,
    direct_p99_us: Vec<u64>,
    wake_us: Histogram<u64>,
    wake_p99_us: Vec<u64>,
    lap_us: Histogram<u64>,
}

fn by_turns(
    run: &mut Run,
    crowd: &Crowd,
    mut floor: Option<FloorSide>,
    among: Spread,
    broadcast: &Schedule,
    direct: &Schedule,
) -> Result<()> {
    let warm = Schedule { count: 2, rate: warm_rate(broadcast.rate, 2), ..broadcast.clone() };
    let warm = run.publish("warming up", crowd, warm, |_, _| {})?;
    anyhow::ensure!(
        warm.deliveries() > 0,
        "no message reached a client: does the server publish what it is given, are --subscribe and --channel right?"
    );
    let frame_bytes = warm.frame_bytes();
    if let Some(floor) = floor.as_ref().filter(|_| run.report.failures.is_empty()) {
        floor.complete(run)?;
    }
    let mut found = Found {
        alone: None,
        beside: None,
        alone_p99_us: Vec::new(),
        beside_p99_us: Vec::new(),
        direct_p99_us: Vec::new(),
        wake_us: tally::histogram(),
        wake_p99_us: Vec::new(),
        lap_us: tally::histogram(),
    };
    for pair in 1..=run.options.pairs.max(1) {
        if run.is_over_time() || !run.report.failures.is_empty() {
            break;
        }
        let alone = run.publish(&format!("alone {pair}"), crowd, broadcast.clone(), |_, _| {})?;
        if run.is_over_time() || !run.report.failures.is_empty() {
            alone.add_to(&mut found.alone);
            break;
        }
        let beside = run.publish_beside(&format!("mixed {pair}"), crowd, broadcast.clone(), Some(direct.clone()), |_, _| {})?;
        if !run.is_over_time() && run.report.failures.is_empty() {
            found.alone_p99_us.push(p99(&alone.tally.latency_us));
            found.beside_p99_us.push(p99(&beside.tally.latency_us));
            found.direct_p99_us.push(p99(&beside.tally.direct_us));
        }
        alone.add_to(&mut found.alone);
        beside.add_to(&mut found.beside);
        if let Some(floor) = &mut floor
            && !run.is_over_time()
        {
            let (laps, direct) = ((broadcast.count, broadcast.rate), (direct.count, direct.rate));
            let laps = floor.mixed(run, laps, direct, among, frame_bytes)?;
            for (sum, latency) in [(&mut found.wake_us, &laps.direct_us), (&mut found.lap_us, &laps.latency_us)] {
                latency.iter().for_each(|latency| sum.add(latency).expect("the same bounds"));
            }
            found.wake_p99_us.extend(laps.direct_us.as_ref().map(p99));
        }
    }
    found.tell(run, crowd, among);
    if let Some(floor) = floor {
        floor.end();
    }
    Ok(())
}

fn p99(histogram: &Histogram<u64>) -> u64 {
    histogram.value_at_percentile(99.0)
}

impl Found {
    fn tell(&self, run: &mut Run, crowd: &Crowd, among: Spread) {
        let report = &mut run.report;
        let mut figures = json!({
            "direct_clients": among.chosen, "broadcast_p99_us_alone": self.alone_p99_us, "broadcast_p99_us": self.beside_p99_us,
            "direct_p99_us": self.direct_p99_us, "wake_p99_us": self.wake_p99_us,
        });
        if let Some(beside) = &self.beside {
            let counts = crowd.counts();
            report.round(beside);
            report.latency_of = "broadcast, beside direct messages";
            report.latency("direct messages, until handed over", "direct_late_us", &beside.published_beside.late_us);
            let (published, came) = (beside.published_beside.messages, beside.counts.direct);
            report.row("direct, came and lost", format!("{came} of {published} came, {} were lost", counts.direct_lost));
            figures["direct_published"] = published.into();
            figures["direct_delivered"] = came.into();
            figures["direct_lost"] = counts.direct_lost.into();
            let (published, came) = (beside.published.messages, beside.counts.messages - beside.counts.direct);
            let expected = published * u64::from(crowd.clients);
            let lost = counts.lost - counts.direct_lost;
            report.row("broadcast, came and lost", format!("{came} of {expected} came, {lost} were lost"));
            figures["broadcast_published"] = published.into();
            figures["broadcast_delivered"] = came.into();
            figures["broadcast_lost"] = lost.into();
        }
        report.latency("floor: direct messages, from send to read", "wake_latency_us", &self.wake_us);
        report.latency("floor: broadcast", "floor_latency_us", &self.lap_us);
        if let Some(alone) = &self.alone {
            report.latency("broadcast, alone", "alone_latency_us", &alone.tally.latency_us);
        }
        let of_alone: Vec<f64> =
            self.beside_p99_us.iter().zip(&self.alone_p99_us).map(|(beside, alone)| *beside as f64 / *alone as f64).collect();
        if let Some(ratio) = of_alone.get(middle(&of_alone)) {
            let (lowest, highest) = spread(&of_alone);
            let text = format!("{ratio:.2} × ({lowest:.2} to {highest:.2}, the middle one of {} pairs)", of_alone.len());
            report.headline("broadcast's p99, against alone", text);
            figures["broadcast_p99_ratio"] = json!({"median": ratio, "min": lowest, "max": highest});
        }
        if !self.direct_p99_us.is_empty() {
            let of_turns = |p99s: &[u64]| median(&p99s.iter().map(|p99| *p99 as f64).collect::<Vec<_>>());
            let (p99, wake) = (of_turns(&self.direct_p99_us), of_turns(&self.wake_p99_us));
            let short = crate::progress::short_us;
            let beside = if self.wake_p99_us.is_empty() { String::new() } else { format!(", the floor's {}", short(wake)) };
            report.headline("direct messages' p99", format!("{} in the median turn{beside}", short(p99)));
            figures["direct_p99_us_median"] = p99.into();
            figures["wake_p99_us_median"] = if self.wake_p99_us.is_empty() { json!(null) } else { wake.into() };
        }
        report.set("mixed", figures);
    }
}
