//! The floor as a scenario of its own, and as the other half of a pair.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::json;

use crate::args::Options;
use crate::crowd::{Crowd, Habits, Size, Subscriptions};
use crate::floor::Floor;
use crate::floor::server::LapCost;
use crate::pick::Spread;
use crate::preflight;
use crate::publish::Schedule;
use crate::report::Report;
use crate::round::Round;
use crate::run::{Ended, Run, whole};
use crate::target::{Channels, Target};

/// Sockets that one thread's table is given at most, so that SO_REUSEPORT's uneven dealing has room.
const SOCKETS_PER_THREAD: u64 = 18_000;

/// How long a warm-up may take: at a message per minute it would take minutes otherwise.
const WARM_SECONDS: f64 = 5.0;

/// Laps that show beside a paced floor what its sends would take if they came one after the other.
const LAPS_BESIDE: u64 = 3;
const LAPS_BESIDE_PER_SECOND: f64 = 2.0;

/// The floor server with a crowd of its own beside the server's.
#[derive(Debug)]
pub struct FloorSide {
    floor: Floor,
    crowd: Crowd,
}

/// What some laps cost.
#[derive(Debug, Clone, Default)]
pub struct Laps {
    pub costs: Vec<LapCost>,
    pub latency_us: Option<Histogram<u64>>,
    /// Of what was sent to single clients meanwhile.
    pub direct_us: Option<Histogram<u64>>,
    /// They took as long as they were told to: their time says nothing.
    pub is_paced: bool,
}

impl Laps {
    pub fn cpu_per_delivery(&self) -> f64 {
        self.per_delivery(|cost| cost.cpu_ns)
    }

    /// With what it takes to sleep until the next one is due, and to wake up. None: these laps did not wait.
    pub fn whole_cpu_per_delivery(&self) -> Option<f64> {
        self.is_paced.then(|| self.per_delivery(|cost| cost.whole_cpu_ns))
    }

    /// How often a paced floor slept for one message. One sleep may be for several that were due when it ended.
    pub fn sleeps_per_delivery(&self) -> f64 {
        self.per_delivery(|cost| cost.sleeps)
    }

    fn per_delivery(&self, of: impl Fn(&LapCost) -> u64) -> f64 {
        let (cpu, deliveries) = self.costs.iter().fold((0, 0), |(cpu, sum), cost| (cpu + of(cost), sum + cost.deliveries));
        cpu as f64 / deliveries.max(1) as f64
    }

    pub fn p99_us(&self) -> u64 {
        self.latency_us.as_ref().map_or(0, |latency| latency.value_at_percentile(99.0))
    }

    /// Median wall time of a lap.
    pub fn lap_us(&self) -> f64 {
        median(&self.costs.iter().map(|cost| cost.wall_ns as f64 / 1000.0).collect::<Vec<_>>())
    }
}

/// With room for so many clients.
pub fn start_floor(options: &Options, clients: u32) -> Result<(Floor, Target)> {
    start_floor_at(options, clients, "/floor", 1)
}

fn start_floor_at(options: &Options, clients: u32, path: &str, channels: u32) -> Result<(Floor, Target)> {
    let limit = campanile::sys::raise_descriptor_limit()?.soft;
    let per_thread = SOCKETS_PER_THREAD.min(limit.saturating_sub(limit / 10 + 20));
    anyhow::ensure!(per_thread > 0, "a limit of {limit} descriptors leaves none for the floor's sockets: `ulimit -n 20000` first");
    let floor = Floor::start(u64::from(clients).div_ceil(per_thread) as usize, &options.floor_cores.0)?;
    let channels = Channels { name: "floor".to_owned(), count: channels };
    let target = Target::new(&format!("ws://{}{path}", floor.address), options.format, channels)?;
    Ok((floor, target))
}

pub fn floor_size(size: &Size, clients: u32) -> Size {
    Size { clients, sources: preflight::loopback_sources(clients), ..size.clone() }
}

impl FloorSide {
    /// Half of its clients are there; [`FloorSide::complete`] brings the others when the server's own have come. The kernel finds a connection in a
    /// chain of those whose addresses hash alike, the newest first, and each step of the way is memory that no cache holds: with 100,000 connections
    /// on either side, whichever came first would pay for it (0.98 to 1.27 times as much), and neither does when one stands in the middle of the other.
    pub fn start(run: &mut Run, clients: u32) -> Result<FloorSide> {
        let (floor, target) = start_floor(&run.options, clients)?;
        FloorSide::connect(run, clients, floor, &target, &Habits::default(), |_| 0)
    }

    /// One whose clients say who they are, so that some of them can be sent something alone.
    pub fn start_mixed<S: Into<Subscriptions>>(
        run: &mut Run,
        clients: u32,
        channels: u32,
        habits: &Habits,
        channels_of: impl Fn(u32) -> S,
    ) -> Result<FloorSide> {
        let (floor, target) = start_floor_at(&run.options, clients, "/floor/{client}", channels)?;
        FloorSide::connect(run, clients, floor, &target, habits, channels_of)
    }

    fn connect<S: Into<Subscriptions>>(
        run: &mut Run,
        clients: u32,
        floor: Floor,
        target: &Target,
        habits: &Habits,
        channels_of: impl Fn(u32) -> S,
    ) -> Result<FloorSide> {
        let size = Size { is_halved: true, ..floor_size(&run.size, clients) };
        let mut crowd = Crowd::start(target, &size, habits, channels_of)?;
        crowd.is_recorded = false;
        let floor = FloorSide { floor, crowd };
        run.series.floor_begins();
        floor.until_ready(run, floor.crowd.at_once)?;
        run.series.floor_ends();
        Ok(floor)
    }

    pub fn complete(&self, run: &mut Run) -> Result<()> {
        run.series.floor_begins();
        self.crowd.connect_rest();
        self.until_ready(run, self.crowd.clients)?;
        // Everything asleep again before anything is measured.
        run.pause("settling", &self.crowd, Duration::from_millis(run.options.settle));
        run.series.floor_ends();
        Ok(())
    }

    fn until_ready(&self, run: &mut Run, clients: u32) -> Result<()> {
        let clients = u64::from(clients);
        let ended = run.until("connecting the floor", &self.crowd, None, |counts| counts.ready + counts.ended >= clients);
        let ready = self.crowd.counts().ready;
        if ready < clients {
            let samples: Vec<String> = self.crowd.collect(false)?.samples.into_iter().collect();
            anyhow::bail!("only {ready} of the floor's {clients} clients became ready{}; {}", run.why(ended), samples.join("; "));
        }
        Ok(())
    }

    /// Runs laps and waits until everything has come.
    pub fn laps(&mut self, run: &mut Run, laps: u64, per_second: f64, burst: u64, frame_bytes: usize) -> Result<Laps> {
        let messages = laps * burst * u64::from(self.crowd.clients);
        self.measure(run, messages, false, |floor, published| {
            floor.laps(laps, per_second, burst, frame_bytes, |count| published[0].store(count, Relaxed))
        })
    }

    /// The same for one message after the other, each to one socket.
    pub fn rounds(&mut self, run: &mut Run, rounds: u64, sends_per_second: f64, frame_bytes: usize) -> Result<Laps> {
        let messages = rounds * u64::from(self.crowd.clients);
        self.measure(run, messages, true, |floor, published| {
            floor.rounds(rounds, sends_per_second, frame_bytes, |count| published[0].store(count, Relaxed))
        })
    }

    /// Laps with messages to single clients between their sends; of either how many, and how many a second.
    pub fn mixed(&mut self, run: &mut Run, laps: (u64, f64), direct: (u64, f64), among: Spread, frame_bytes: usize) -> Result<Laps> {
        let messages = laps.0 * u64::from(self.crowd.clients) + direct.0;
        self.measure(run, messages, true, |floor, published| {
            let count = |laps: u64, direct: u64| {
                published[0].store(laps, Relaxed);
                for (place, published) in (0..).zip(&published[1..]) {
                    published.store((direct + u64::from(among.chosen) - 1 - place) / u64::from(among.chosen), Relaxed);
                }
            };
            Ok(floor.mixed(laps, direct, among, frame_bytes, count)?.into_iter().collect())
        })
    }

    fn measure(
        &mut self,
        run: &mut Run,
        messages: u64,
        is_paced: bool,
        send: impl FnOnce(&mut Floor, &[AtomicU64]) -> Result<Vec<LapCost>>,
    ) -> Result<Laps> {
        run.series.floor_begins();
        let laps = self.measured(run, messages, is_paced, send);
        run.series.floor_ends();
        laps
    }

    fn measured(
        &mut self,
        run: &mut Run,
        messages: u64,
        is_paced: bool,
        send: impl FnOnce(&mut Floor, &[AtomicU64]) -> Result<Vec<LapCost>>,
    ) -> Result<Laps> {
        let before = self.crowd.collect(false)?.counts;
        self.crowd.spin(run.options.spin);
        let published = self.crowd.published.clone();
        self.floor.deadline = Some(run.deadline());
        let costs = send(&mut self.floor, &published)?;
        let expected = before.messages + messages;
        let ended = run.until("floor", &self.crowd, None, |counts| counts.messages >= expected);
        if matches!(ended, Ended::ServerGone | Ended::Time | Ended::Interrupted) {
            run.report.fail(format!("stopped early, in the floor's turn{}", run.why(ended)));
            return Ok(Laps { costs, ..Laps::default() });
        }
        // As long as the server's half takes to end.
        std::thread::sleep(Duration::from_millis(20));
        self.crowd.spin(false);
        let tally = self.crowd.collect(true)?;
        let counts = tally.counts.since(&before);
        if counts.lost + counts.duplicates + counts.reordered + counts.closed > 0 || tally.counts.messages != expected {
            run.report.fail(format!("the floor's own messages did not arrive: a fault of this host or of the load generator ({counts:?})"));
            run.report.samples(&tally);
        }
        Ok(Laps { costs, latency_us: Some(tally.latency_us), direct_us: Some(tally.direct_us), is_paced })
    }

    pub fn end(self) {
        self.crowd.end();
    }
}

/// Server and floor by turns, or two servers.
#[derive(Debug, Default)]
pub struct Pairs {
    other: Beside,
    server: Vec<f64>,
    floor: Vec<f64>,
    floor_whole: Vec<f64>,
    floor_sleeps: Vec<f64>,
    /// What a send takes that is one of a lap's, where the floor is paced.
    lap_send: Option<f64>,
    /// Of the server and of another one.
    p50_us: Vec<(f64, f64)>,
    frame_bytes: Vec<(usize, usize)>,
    server_p99_us: Vec<f64>,
    floor_p99_us: Vec<f64>,
    floor_lap_us: Vec<f64>,
}

/// Who has the other turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Beside {
    #[default]
    Floor,
    /// The same server, where nobody is asked who it is.
    Open,
    /// The same server, where clients of event streams are WebSockets.
    WebSockets,
    /// The same server, without TLS.
    Plain,
}

impl Beside {
    /// What stands beside the server, if it is another server.
    pub fn of(options: &Options) -> Beside {
        match (options.beside_ws, options.tls.beside_plain) {
            (true, _) => Beside::WebSockets,
            (false, true) => Beside::Plain,
            (false, false) => Beside::Open,
        }
    }

    /// In the JSON, and before its figures.
    pub fn name(self) -> &'static str {
        match self {
            Beside::Floor => "floor",
            Beside::Open => "open",
            Beside::WebSockets => "ws",
            Beside::Plain => "plain",
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Beside::Floor => "the floor",
            Beside::Open => "an open server",
            Beside::WebSockets => "a server of WebSockets",
            Beside::Plain => "a server in the clear",
        }
    }
}

impl Pairs {
    pub fn beside(other: Beside) -> Pairs {
        Pairs { other, ..Pairs::default() }
    }

    /// Of two servers.
    pub fn add_latencies(&mut self, server: &Histogram<u64>, other: &Histogram<u64>) {
        let at = |histogram: &Histogram<u64>, percentile: f64| histogram.value_at_percentile(percentile) as f64;
        self.p50_us.push((at(server, 50.0), at(other, 50.0)));
        self.server_p99_us.push(at(server, 99.0));
        self.floor_p99_us.push(at(other, 99.0));
    }

    pub fn add(&mut self, server: Option<f64>, floor: Option<f64>, server_p99_us: u64, laps: &Laps) {
        if let (Some(server), Some(floor)) = (server, floor) {
            self.server.push(server);
            self.floor.push(floor);
            self.floor_whole.extend(laps.whole_cpu_per_delivery());
            self.floor_sleeps.extend(laps.is_paced.then(|| laps.sleeps_per_delivery()));
        }
        self.server_p99_us.push(server_p99_us as f64);
        self.floor_p99_us.push(laps.p99_us() as f64);
        if !laps.is_paced {
            self.floor_lap_us.push(laps.lap_us());
        }
    }

    /// Sizes of frames, of two servers.
    pub fn add_frame_bytes(&mut self, server: usize, other: usize) {
        self.frame_bytes.push((server, other));
    }

    pub fn add_figures(&mut self, server: f64, floor: f64) {
        self.server.push(server);
        self.floor.push(floor);
    }

    pub fn report(&self, report: &mut Report, what: &str, unit: &str) {
        if self.server.is_empty() {
            // The floor's figures are there as soon as a pair is; the server's need its process.
            let is_begun = !self.floor_p99_us.is_empty();
            report.row(
                &format!("against {}", self.other.words()),
                if is_begun { "not known: the server's process is (--server-pid)" } else { "no pair of turns was finished" },
            );
        } else {
            let ratios: Vec<f64> = self.server.iter().zip(&self.floor).map(|(server, floor)| server / floor).collect();
            let (lowest, highest) = spread(&ratios);
            // Of one pair, so that the two figures and the ratio agree: the median of the ratios is not the ratio of the medians.
            let at = middle(&ratios);
            let (server, floor) = (digits(self.server[at]), digits(self.floor[at]));
            let ratio = ratio_of(&server, &floor);
            report.row(&format!("server {what}"), format!("{server} {unit}"));
            report.row(&format!("{} {what}", self.other.name()), format!("{floor} {unit}"));
            let spread = format!("{lowest:.2} to {highest:.2}, the middle one of {}", count(ratios.len(), "pair"));
            report.headline(&format!("{what}, against {}", self.other.words()), format!("{ratio} × ({spread})"));
            let whole: Vec<f64> = self.server.iter().zip(&self.floor_whole).map(|(server, floor)| server / floor).collect();
            if !whole.is_empty() {
                let (lowest, highest) = self::spread(&whole);
                let (at, floor) = (middle(&whole), &self.floor_whole);
                let ratio = format!("{:.2} × ({lowest:.2} to {highest:.2})", whole[at]);
                let text = format!("{ratio}, that one takes {} {unit} and {:.2} sleeps", digits(floor[at]), self.floor_sleeps[at]);
                report.row("against a floor that pays for its sleep", text);
            }
            if let Some(lap_send) = self.lap_send {
                report.row("a floor's send among a lap's others", format!("{} {unit}", digits(lap_send)));
            }
            report.set(
                self.other.name(),
                json!({
                    "floor_sleeps": self.floor_sleeps, "lap_send": self.lap_send,
                    "floor_whole": self.floor_whole, "whole_ratio_median": whole.get(middle(&whole)),
                    "what": what, "unit": unit, "server": self.server, self.other.name(): self.floor, "ratios": ratios, "ratio_median": ratios[at], "ratio_min": lowest, "ratio_max": highest,
                    "frame_bytes": self.frame_bytes, "p50_us": self.p50_us, "server_p99_us": self.server_p99_us, "floor_p99_us": self.floor_p99_us, "floor_lap_us": self.floor_lap_us,
                }),
            );
        }
        let text = crate::progress::short_us;
        if !self.p50_us.is_empty() {
            let ratios: Vec<f64> = self.p50_us.iter().map(|(server, other)| server / other.max(1.0)).collect();
            let (lowest, highest) = spread(&ratios);
            let at = middle(&ratios);
            let (server, other) = self.p50_us[at];
            let ratio = format!("{:.2} × ({lowest:.2} to {highest:.2}): {}, {}", ratios[at], text(server), text(other));
            report.headline(&format!("p50, against {}", self.other.words()), ratio);
        }
        if !self.floor_p99_us.is_empty() {
            report.row(
                &format!("p99: server, {}", self.other.name()),
                format!("{}, {} (medians)", text(median(&self.server_p99_us)), text(median(&self.floor_p99_us))),
            );
        }
        if !self.floor_lap_us.is_empty() {
            let of_laps: Vec<f64> = self.server_p99_us.iter().zip(&self.floor_lap_us).map(|(p99, lap)| p99 / lap).collect();
            let (lowest, highest) = spread(&of_laps);
            let at = middle(&of_laps);
            let (p99, lap) = (digits(self.server_p99_us[at] / 1000.0), digits(self.floor_lap_us[at] / 1000.0));
            let ratio = format!("{} × ({lowest:.2} to {highest:.2}): {p99} ms, a lap takes {lap} ms", ratio_of(&p99, &lap));
            report.row("p99, against a floor's lap", ratio);
        }
    }
}

/// The rate at which so many messages take no longer than a warm-up may.
pub fn warm_rate(rate: f64, messages: u64) -> f64 {
    rate.max(messages as f64 / WARM_SECONDS)
}

/// Publishes by the schedule and has the floor send the same, --pairs times in turn, and reports both. `lap` is the floor's half; its third argument
/// is false for one that only warms up.
pub fn by_turns(
    run: &mut Run,
    crowd: &Crowd,
    mut floor: FloorSide,
    schedule: &Schedule,
    warm_messages: u64,
    lap: impl Fn(&mut FloorSide, &mut Run, bool, usize) -> Result<Laps>,
) -> Result<()> {
    // The frame's size is known when the first messages have come; they do not count, and are not waited for as those that do.
    let warm = Schedule { count: warm_messages, rate: warm_rate(schedule.rate, warm_messages), ..schedule.clone() };
    let warm = run.publish("warming up", crowd, warm, |_, _| {})?;
    if warm.deliveries() == 0 || !run.report.failures.is_empty() {
        run.report.round(&warm);
        anyhow::ensure!(
            warm.deliveries() > 0,
            "no message reached a client: does the server publish what it is given, are --subscribe and --channel right?"
        );
        return Ok(());
    }
    let frame_bytes = warm.frame_bytes();
    floor.complete(run)?;
    lap(&mut floor, run, false, frame_bytes)?;
    let (mut pairs, mut all) = (Pairs::default(), None::<Round>);
    for pair in 0..run.options.pairs.max(1) {
        let round = run.publish(&format!("server {}", pair + 1), crowd, schedule.clone(), |_, _| {})?;
        if run.is_over_time() || !run.report.failures.is_empty() {
            all.get_or_insert(round);
            break;
        }
        let laps = lap(&mut floor, run, true, frame_bytes)?;
        if run.is_over_time() {
            all.get_or_insert(round);
            break;
        }
        pairs.add(round.cpu_per_delivery(), Some(laps.cpu_per_delivery()), round.tally.latency_us.value_at_percentile(99.0), &laps);
        match &mut all {
            Some(all) => all.add(&round),
            None => all = Some(round),
        }
        if !run.report.failures.is_empty() {
            break;
        }
    }
    if let Some(all) = &all {
        run.report.round(all);
    }
    if !pairs.floor_whole.is_empty() && !run.is_over_time() && run.report.failures.is_empty() {
        pairs.lap_send = Some(floor.laps(run, LAPS_BESIDE, LAPS_BESIDE_PER_SECOND, 1, frame_bytes)?.cpu_per_delivery());
    }
    pairs.report(&mut run.report, "CPU per delivery", "ns");
    run.report.set("frame_bytes", json!(frame_bytes));
    floor.end();
    Ok(())
}

/// Which of them stands in the middle; of two, the lower one.
pub fn middle(numbers: &[f64]) -> usize {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|one, other| numbers[*one].total_cmp(&numbers[*other]));
    order.get(order.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Four digits, so that whoever divides what is shown comes to the ratio that is shown.
fn digits(number: f64) -> String {
    let decimals = match number {
        n if n >= 1000.0 => 0,
        n if n >= 100.0 => 1,
        n if n >= 10.0 => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

/// Of two figures as they are shown.
fn ratio_of(one: &str, other: &str) -> String {
    let number = |text: &str| text.parse::<f64>().unwrap_or(f64::NAN);
    format!("{:.2}", number(one) / number(other))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

/// The lowest and the highest.
pub fn spread(numbers: &[f64]) -> (f64, f64) {
    (numbers.iter().copied().fold(f64::INFINITY, f64::min), numbers.iter().copied().fold(0.0, f64::max))
}

/// `loadgen floor`.
pub fn run(options: &Options) -> Result<Report> {
    let (mut floor, target) = start_floor(options, options.clients)?;
    let options = Options { url: target.url(), ..options.clone() };
    whole("floor", &options, 1, |run| alone(run, &mut floor))
}

fn alone(run: &mut Run, floor: &mut Floor) -> Result<()> {
    run.server_id = Some(floor.id());
    floor.deadline = Some(run.deadline());
    let Some(crowd) = run.connect(&Habits::default(), |_| 0)? else { return Ok(()) };
    let options = run.options.clone();
    let schedule = run.schedule(3.0, 1, 15, crate::pick::Pick::new(1, 0.0));
    let laps_per_second = schedule.rate / schedule.burst as f64;
    let frame_bytes = options.payload + campanile::wire::frame::header_len(options.payload);
    let laps = schedule.count.div_ceil(schedule.burst);
    crowd.spin(options.spin);
    let before = crowd.collect(false)?.counts;
    let published = crowd.published.clone();
    let told = |count| published[0].store(count, Relaxed);
    let costs = floor.laps(laps, laps_per_second, schedule.burst, frame_bytes, told)?;
    let expected = before.messages + laps * schedule.burst * u64::from(crowd.clients);
    let ended = run.until("laps", &crowd, None, |counts| counts.messages >= expected);
    if ended != Ended::Met {
        run.report.fail(format!("stopped early{}", run.why(ended)));
    }
    let tally = crowd.collect(ended != Ended::Interrupted)?;
    let laps = Laps { costs, ..Laps::default() };
    let sends: u64 = laps.costs.iter().map(|cost| cost.sends).sum();
    let cpu: u64 = laps.costs.iter().map(|cost| cost.cpu_ns).sum();
    run.report.headline("CPU per delivery", format!("{:.0} ns", laps.cpu_per_delivery()));
    run.report.headline("CPU per send", format!("{:.0} ns", cpu as f64 / sends.max(1) as f64));
    run.report.row("one lap", crate::progress::short_us(laps.lap_us()));
    run.report.set(
        "floor",
        json!({"cpu_ns_per_delivery": laps.cpu_per_delivery(), "cpu_ns_per_send": cpu as f64 / sends.max(1) as f64, "lap_us": laps.lap_us(),
            "sends": sends, "blocked": laps.costs.iter().map(|cost| cost.blocked).sum::<u64>()}),
    );
    run.report.total.add(&tally);
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_pair_is_one_of_them() {
        assert_eq!([&[1.0][..], &[3.0, 1.0, 2.0], &[4.0, 1.0, 2.0, 3.0]].map(middle), [0, 2, 2]);
    }

    #[test]
    fn figures_are_shown_so_that_their_ratio_can_be_had_from_them() {
        assert_eq!([9548.4, 112.34, 27.456, 0.98765].map(digits), ["9548", "112.3", "27.46", "0.988"]);
        assert_eq!(ratio_of("9548", "7777"), "1.23");
    }

    #[test]
    fn a_warm_up_takes_seconds_at_any_rate() {
        for (rate, messages) in [(0.001, 2), (3.0, 2), (1000.0, 100), (10.0, 100_000)] {
            assert!(messages as f64 / warm_rate(rate, messages) <= WARM_SECONDS);
            assert!(warm_rate(rate, messages) >= rate);
        }
    }
}
