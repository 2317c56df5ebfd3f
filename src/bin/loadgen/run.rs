//! One run: the target, the processes started for it, the clock, the record. The scenarios are written on top of this. Servers beside the first and after it
//! are in [`servers`].

mod servers;

use std::time::{Duration, Instant};

use anyhow::Context;
use campanile::wire::Format;

use super::args::{Options, Through, Transport};
use super::beside::Open;
use super::children;
use super::crowd::{Crowd, Expects, Habits, Size, Subscriptions};
use super::identity::Gate;
use super::pick::Pick;
use super::preflight;
use super::process::{self, Snapshot};
use super::progress::Progress;
use super::publish::client::{ClientRoute, TEMPLATE};
use super::publish::http::HttpRoute;
use super::publish::redis::{RedisRoute, Way};
use super::publish::replicated::ReplicatedRoute;
use super::publish::{Publisher, Route, Schedule};
use super::report::Report;
use super::report::series::Series;
use super::round::Round;
use super::stop;
use super::tally::Counts;
use super::target::{Channels, FirstMessage, Needs, OwnRedis, Ready, Target};
use super::tls::{self, certificate::Certificate};
use super::topology::Topology;

/// How often the counters are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// Publishing may go on being delivered for so long before CPU time is read: what the server does after the last message belongs to it.
const AFTER: Duration = Duration::from_millis(20);
/// How often every client is asked whether it misses something.
const ASK: Duration = Duration::from_millis(50);

/// How long memory may stay as it is before it is taken to stay so for good: longer than `linger`, and than the allocator is let alone after it.
const MEMORY_QUIET: Duration = Duration::from_secs(30);
const MEMORY_WAIT: Duration = Duration::from_secs(60);
const MEMORY_LOOK: Duration = Duration::from_millis(250);
/// What a server that was in use may keep more than one that was not, and it still counts as given back at once.
const MEMORY_SPARE_BYTES: u64 = 2_000_000;

#[derive(Debug)]
pub struct Run {
    pub options: Options,
    pub target: Target,
    pub size: Size,
    pub server: Option<children::Server>,
    /// What the server asks its clients.
    gate: Option<Gate>,
    /// Of a server that was started over TLS.
    certificate: Option<Certificate>,
    needs: Needs,
    /// Its channels are durable.
    pub is_durable: bool,
    open: Option<Open>,
    pub redis: Option<children::Redis>,
    /// Several that stand in for each other, instead of one.
    pub topology: Option<Topology>,
    pub redis_url: Option<String>,
    pub server_id: Option<u32>,
    pub report: Report,
    pub series: Series,
    progress: Progress,
    deadline: Instant,
}

/// Why waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Met,
    /// --time is over.
    Time,
    /// Nothing came for --patience.
    Silence,
    /// The server's process is gone, or all connections are.
    ServerGone,
    /// Ctrl-C.
    Interrupted,
}

/// A crowd and how it came to be.
#[derive(Debug)]
pub struct Connected {
    pub crowd: Crowd,
    pub is_complete: bool,
    pub seconds: f64,
    /// Of the server, for all of them.
    pub server_cpu_ns: Option<u64>,
}

/// One scenario, from begin to end. Whatever ends it early, what was found until then is reported.
pub fn whole(
    scenario: &'static str,
    options: &Options,
    needs: impl Into<Needs>,
    body: impl FnOnce(&mut Run) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let mut run = Run::prepare(scenario, options, needs.into())?;
    if let Err(error) = body(&mut run) {
        run.report.fail(format!("{error:#}"));
    }
    run.report.is_interrupted = stop::is_asked();
    Ok(run.finish())
}

impl Run {
    /// Checks, starts what is to be started, and sees that the target answers.
    fn prepare(scenario: &'static str, options: &Options, needs: Needs) -> anyhow::Result<Run> {
        let mut options = options.clone();
        Report::check_files(&options)?;
        if options.realtime {
            preflight::check_realtime()?;
        }
        let priority = options.realtime.then_some(preflight::REDIS_FIRST);
        let is_own = options.redis.as_deref() == Some("own");
        let topology = if is_own { Topology::start(needs.redis)? } else { None };
        let keeps = needs.redis == OwnRedis::Kept;
        let redis = (is_own && topology.is_none()).then(|| children::Redis::start(priority, keeps)).transpose()?;
        if let Some(url) = options.redis.as_deref().filter(|_| !is_own) {
            super::publish::redis::probe(url)?;
        }
        let own_url = redis.as_ref().map(children::Redis::url).or_else(|| topology.as_ref().map(Topology::url));
        let redis_url = own_url.or_else(|| options.redis.clone());
        let mut gate = Gate::of(&options)?;
        let certificate = options.tls.tls.then(Certificate::make).transpose()?;
        let server = options
            .serve
            .as_ref()
            .map(|arguments| {
                children::Server::start(arguments, redis_url.as_deref(), options.clients, &needs, gate.as_ref(), certificate.as_ref())
            })
            .transpose()?;
        if let Some(server) = &server {
            options.url = format!("{}://{}", if certificate.is_some() { "wss" } else { "ws" }, server.clients);
            options.control.get_or_insert(server.control);
        }
        let server_id = server.as_ref().map(children::Server::id).or(options.server_pid);
        if let Some(id) = server_id {
            anyhow::ensure!(process::is_alive(id), "there is no process {id} (--server-pid)");
        }
        let channels = Channels { name: options.channel.clone(), count: needs.channels };
        let mut target = Target::new(&options.url, options.format, channels)?;
        if target.is_secure {
            let ca = certificate.as_ref().map(Certificate::ca);
            let tls = tls::of(&options, target.host_name(), ca.as_deref())?;
            target = target.with_tls(Some(tls));
        }
        if let Some(path) = needs.path.filter(|_| target.is_campanile) {
            target = target.with_path(path.to_owned());
        }
        let first =
            options.subscribe.as_deref().map(FirstMessage::parse).transpose().map_err(|why| anyhow::anyhow!("--subscribe: {why}"))?;
        let ready = options.ready.as_ref().map(|text| Ready::Message(text.clone().into_bytes()));
        let tokens = gate.as_mut().map(Gate::tokens).transpose()?.flatten();
        let mut target = target.with_words(options.subprotocol.clone(), first, ready).with_tokens(tokens).with_deflate(options.deflate);
        if options.transport == Transport::Sse {
            anyhow::ensure!(target.is_campanile, "--transport sse is asked of a Campanile: leave the path out of --url");
            target = target.over_event_stream();
        }
        if let Some(rate) = options.max_rate {
            anyhow::ensure!(target.takes_subscriptions(), "--max-rate is asked of a Campanile, in a format in which it can be");
            target = target.with_max_rate(rate);
        }
        let size = preflight::size(&options, &target)?;
        preflight::probe(&target)?;
        // Before this thread takes its core: whatever is started later inherits that.
        let beside = certificate.as_ref().filter(|_| !options.tls.beside_plain);
        let open = options.has_two_servers().then(|| Open::start(&options, &target, &needs, beside)).transpose()?;
        let report = Report::new(scenario, &target, &options);
        let is_durable = options.durable;
        // Its own polling must not run where the server does; whatever is started from here on inherits this.
        if let Some(&id) = options.cores.0.first() {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        Ok(Run {
            progress: Progress::new(options.quiet),
            deadline: Instant::now() + Duration::from_secs_f64(options.time),
            series: Series::new(),
            options,
            target,
            size,
            server,
            gate,
            certificate,
            needs,
            is_durable,
            open,
            redis,
            topology,
            redis_url,
            server_id,
            report,
        })
    }

    pub fn through(&self) -> Through {
        self.options.through.unwrap_or(if self.redis_url.is_some() { Through::Redis } else { Through::Http })
    }

    /// The way messages take, ready to be used.
    pub fn route(&self, crowd: &Crowd, survives: bool) -> anyhow::Result<Box<dyn Route>> {
        // One that has subscribers: with Zipf's law the last ones may have none.
        let heard = crowd.subscribers.iter().rposition(|subscribers| *subscribers > 0).unwrap_or(0) as u32;
        let channels = self.target.channels.clone();
        if let Some(topology) = &self.topology {
            return Ok(Box::new(ReplicatedRoute::connect(topology.seeds(), topology.is_short.clone(), &self.options.prefix, channels)?));
        }
        Ok(match self.through() {
            Through::Redis => {
                let url = self.redis_url.as_deref().context("--through redis needs --redis URL or --redis own")?;
                let way = if self.is_durable { Way::Durable { is_once: survives } } else { Way::Plain };
                let mut route = RedisRoute::connect(url, way, &self.options.prefix, channels.clone())?;
                let begin = Instant::now();
                while !route.is_heard(heard)? && !stop::is_asked() {
                    anyhow::ensure!(
                        begin.elapsed() < Duration::from_secs(10) && !self.is_over_time(),
                        "nobody is subscribed to {}{} in Redis at {}: does the server use this Redis, is --prefix right?",
                        self.options.prefix,
                        channels.name(heard),
                        campanile::config::mask::url(url)
                    );
                    stop::sleep(Duration::from_millis(20));
                }
                Box::new(route)
            }
            Through::Http => Box::new(HttpRoute::new(self.options.control.unwrap_or(([127, 0, 0, 1], 9090).into()), channels)),
            Through::Client => Box::new(ClientRoute::connect(&self.target, self.options.publish_text.as_deref().unwrap_or(TEMPLATE))?),
        })
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { process: self.server_id.and_then(process::process), kernel: process::kernel() }
    }

    /// Nothing more is to be begun.
    pub fn is_over_time(&self) -> bool {
        stop::is_asked() || Instant::now() >= self.deadline
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_server_gone(&self) -> bool {
        self.server_id.is_some_and(|id| !process::is_alive(id))
    }

    /// Waits, and keeps the record meanwhile. `is_met` also tells whether there was progress, by a number that changes.
    pub fn until(&mut self, label: &str, crowd: &Crowd, most: Option<Duration>, mut is_met: impl FnMut(&Counts) -> bool) -> Ended {
        let begin = Instant::now();
        let mut last_progress = (0, Instant::now());
        let mut last_look_at_server = Instant::now();
        loop {
            let counts = crowd.counts();
            if crowd.is_recorded {
                self.series.look(&counts);
            }
            self.progress.show(label, crowd.clients, &counts);
            if is_met(&counts) {
                return Ended::Met;
            }
            if stop::is_asked() {
                return Ended::Interrupted;
            }
            let moved = counts.messages
                + counts.slow_messages
                + counts.connected
                + counts.announced
                + counts.sent
                + counts.subscribed
                + counts.unsubscribed;
            if moved != last_progress.0 {
                last_progress = (moved, Instant::now());
            }
            let now = Instant::now();
            if now >= self.deadline || most.is_some_and(|most| begin.elapsed() >= most) {
                return Ended::Time;
            }
            if counts.ended >= u64::from(crowd.clients) {
                return Ended::ServerGone;
            }
            if last_look_at_server.elapsed() > Duration::from_millis(250) {
                last_look_at_server = now;
                if self.is_server_gone() {
                    // What is still in the sockets counts.
                    std::thread::sleep(Duration::from_millis(100));
                    return Ended::ServerGone;
                }
            }
            if most.is_none() && last_progress.1.elapsed().as_secs_f64() > self.options.patience {
                return Ended::Silence;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits a while, keeping the record.
    pub fn pause(&mut self, label: &str, crowd: &Crowd, time: Duration) -> Ended {
        match self.until(label, crowd, Some(time), |_| false) {
            Ended::Time if Instant::now() < self.deadline => Ended::Met,
            ended => ended,
        }
    }

    /// Starts the clients and waits until all are ready. Says in the report how that went. None: not all came through, which is a failure.
    pub fn connect<S: Into<Subscriptions>>(&mut self, habits: &Habits, channels_of: impl Fn(u32) -> S) -> anyhow::Result<Option<Crowd>> {
        let (target, size) = (self.target.clone(), self.size.clone());
        let Connected { crowd, is_complete, .. } = self.connect_to(&target, &size, habits, channels_of, true)?;
        if is_complete {
            return Ok(Some(crowd));
        }
        crowd.end();
        Ok(None)
    }

    /// Holds all that has happened to a crowd against what must not happen.
    pub fn check(&mut self, crowd: &Crowd, forgiven: &[&str]) -> anyhow::Result<()> {
        let last = crowd.collect(false)?;
        let mut total = self.report.total.clone();
        total.add(&last);
        // These go on over all rounds: the newest are the sum.
        total.counts = last.counts;
        self.report.check(&total, forgiven);
        Ok(())
    }

    /// The same, to any target. Unless it `counts`, nothing of it goes into the report.
    pub fn connect_to<S: Into<Subscriptions>>(
        &mut self,
        target: &Target,
        size: &Size,
        habits: &Habits,
        channels_of: impl Fn(u32) -> S,
        counts: bool,
    ) -> anyhow::Result<Connected> {
        let before = self.snapshot();
        let begin = Instant::now();
        let mut crowd = Crowd::start(target, size, habits, channels_of)?;
        crowd.is_recorded = counts;
        let all = u64::from(crowd.clients);
        let ended = self.until("connecting", &crowd, None, |counts| counts.ready + counts.ended >= all);
        let seconds = begin.elapsed().as_secs_f64();
        let after = self.snapshot();
        let found = crowd.counts();
        if counts {
            self.report.connected(&crowd, &found, seconds, &before, &after);
        }
        let is_complete = found.ready == all;
        if !is_complete {
            let tally = crowd.collect(false)?;
            let unready = if ended == Ended::Silence { self.unready() } else { String::new() };
            self.report.fail(format!("only {} of {all} clients became ready{}{unready}", found.ready, self.why(ended)));
            if counts {
                self.report.check(&tally, &[]);
            } else {
                self.report.samples(&tally);
            }
        } else {
            // Everything asleep again, and readers of raw feeds subscribed, before anything is measured.
            let settle = Duration::from_millis(self.options.settle);
            self.pause("settling", &crowd, settle);
            let connects = crowd.collect(false)?.connect_us;
            if counts {
                self.report.total.connect_us.add(&connects)?;
            }
        }
        let server_cpu_ns = cpu_between(&before, &after);
        Ok(Connected { crowd, is_complete, seconds, server_cpu_ns })
    }

    /// What a Campanile says of itself when clients wait for its `subscribed` in vain: that its Redis is away, most likely.
    fn unready(&self) -> String {
        let Some(control) = self.options.control.filter(|_| self.target.is_campanile) else { return String::new() };
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).http_status_as_error(false).proxy(None);
        let agent: ureq::Agent = config.build().into();
        let answer = agent.get(format!("http://{control}/readyz")).call().ok().filter(|answer| answer.status() == 503);
        let text = answer.and_then(|mut answer| answer.body_mut().read_to_string().ok());
        text.map_or(String::new(), |text| format!("; http://{control}/readyz says {}", text.trim()))
    }

    /// What to add to "stopped early".
    pub fn why(&self, ended: Ended) -> String {
        match ended {
            Ended::Met | Ended::Interrupted => String::new(),
            Ended::Time => format!(": --time {} is over", self.options.time),
            Ended::Silence => format!(": nothing came for {} s", self.options.patience),
            Ended::ServerGone => match &self.server {
                Some(server) if self.is_server_gone() => format!(": the server died; its last words:\n{}", server.last_words()),
                _ if self.is_server_gone() => ": the server's process is gone".to_owned(),
                _ => ": the server closed all connections".to_owned(),
            },
        }
    }

    pub fn schedule(&self, rate: f64, burst: u64, count: u64, pick: Pick) -> Schedule {
        Schedule {
            priority: self.options.realtime.then_some(preflight::PUBLISHERS_FIRST),
            rate: self.options.rate.unwrap_or(rate).max(0.001),
            burst: self.options.burst.unwrap_or(burst).max(1),
            count: self.options.messages.unwrap_or(count),
            bytes: self.options.payload,
            kind: self.options.payload_kind,
            pick,
            survives: false,
        }
    }

    /// Has the clients subscribe to what they have beyond their first channel, waits until everything is confirmed, and says in the report how that
    /// went. False: it is not all confirmed, which is a failure.
    pub fn subscribe(&mut self, crowd: &Crowd) -> anyhow::Result<bool> {
        anyhow::ensure!(
            self.target.takes_subscriptions(),
            "a client with several channels needs a target that can be told of them: a Campanile with --format msgpack or json, or --subscribe"
        );
        let all = crowd.further_subscriptions;
        let before = self.snapshot();
        let begin = Instant::now();
        crowd.subscribe();
        let ended = self.until("subscribing", crowd, None, |counts| counts.subscribed >= all || counts.errors > 0);
        let seconds = begin.elapsed().as_secs_f64();
        let counts = crowd.counts();
        if counts.subscribed < all {
            self.report.fail(format!("only {} of {all} subscriptions were confirmed{}", counts.subscribed, self.why(ended)));
            self.check(crowd, &[])?;
            return Ok(false);
        }
        self.pause("settling", crowd, Duration::from_millis(self.options.settle));
        let after = self.snapshot();
        self.report.subscribed(&counts, seconds, &before, &after);
        Ok(true)
    }

    /// Waits until the server's memory is what it was `before` clients came, or has not fallen for a while, and says how long that took.
    pub fn until_memory_is_back(&mut self, before: u64) -> Option<(u64, f64)> {
        let begin = Instant::now();
        let mut bytes = self.snapshot().process?.anonymous_bytes;
        let enough = before + ((bytes.saturating_sub(before)) / 100).max(MEMORY_SPARE_BYTES);
        let (mut lowest, mut fell) = (bytes, Duration::ZERO);
        while bytes > enough && begin.elapsed() - fell < MEMORY_QUIET && begin.elapsed() < MEMORY_WAIT && !self.is_over_time() {
            stop::sleep(MEMORY_LOOK);
            bytes = self.snapshot().process?.anonymous_bytes;
            if bytes + bytes / 100 < lowest {
                (lowest, fell) = (bytes, begin.elapsed());
            }
        }
        Some((bytes, fell.as_secs_f64()))
    }

    /// Publishes by the schedule and waits until everything has come. `meanwhile` is called again and again.
    pub fn publish(
        &mut self,
        label: &str,
        crowd: &Crowd,
        schedule: Schedule,
        meanwhile: impl FnMut(&mut Run, u64),
    ) -> anyhow::Result<Round> {
        self.publish_beside(label, crowd, schedule, None, meanwhile)
    }

    /// The same by two schedules at a time, which do not wait for each other.
    pub fn publish_beside(
        &mut self,
        label: &str,
        crowd: &Crowd,
        schedule: Schedule,
        beside: Option<Schedule>,
        mut meanwhile: impl FnMut(&mut Run, u64),
    ) -> anyhow::Result<Round> {
        let route = self.route(crowd, schedule.survives)?;
        let beside = beside.map(|schedule| Ok::<_, anyhow::Error>((self.route(crowd, schedule.survives)?, schedule))).transpose()?;
        // Forget what connecting brought; frames and bytes of this round alone count.
        let counts_before = crowd.collect(false)?.counts;
        crowd.spin(self.options.spin);
        let before = self.snapshot();
        let begin = Instant::now();
        let expected_before = crowd.expected();
        let mut publishers = vec![Publisher::start(route, schedule, crowd.published.clone())?];
        if let Some((route, schedule)) = beside {
            publishers.push(Publisher::start(route, schedule, crowd.published.clone())?);
        }
        let mut ended;
        loop {
            ended = self.until(label, crowd, Some(Duration::from_millis(50)), |_| publishers.iter().all(Publisher::is_over));
            let sent = publishers.iter().map(|publisher| publisher.progress.sent.load(std::sync::atomic::Ordering::Relaxed)).sum();
            self.series.published(sent);
            meanwhile(self, sent);
            match ended {
                Ended::Time if Instant::now() < self.deadline => {}
                _ => break,
            }
        }
        publishers.iter().for_each(Publisher::stop);
        let mut published = publishers.into_iter().map(Publisher::finish);
        let (published, published_beside) = (published.next().unwrap_or_default(), published.next().unwrap_or_default());
        let mut silence = 0.0;
        if ended == Ended::Met {
            if crowd.expects == Expects::Each {
                crowd.churn(0.0);
            }
            let mut asked = Instant::now();
            ended = self.until(label, crowd, None, |counts| {
                let counts = counts.since(&counts_before);
                match crowd.expects {
                    Expects::All => counts.messages + counts.announced >= crowd.expected() - expected_before + counts.again,
                    Expects::Readers => counts.messages >= crowd.expected() - expected_before,
                    Expects::Each if asked.elapsed() < ASK => false,
                    Expects::Each => {
                        asked = Instant::now();
                        crowd.missing() == 0
                    }
                }
            });
            // Waiting for what does not come is no part of the round.
            silence = if ended == Ended::Silence { self.options.patience } else { 0.0 };
        }
        let seconds = (begin.elapsed().as_secs_f64() - silence).max(1e-9);
        std::thread::sleep(AFTER);
        crowd.spin(false);
        let after = self.snapshot();
        // What is still under way when somebody ends the run is not lost.
        let tally = crowd.collect(ended != Ended::Interrupted)?;
        let counts = tally.counts.since(&counts_before);
        if ended == Ended::ServerGone || ended == Ended::Time {
            self.report.fail(format!("stopped early{}", self.why(ended)));
        }
        for error in [&published.error, &published_beside.error].into_iter().flatten() {
            self.report.fail(format!("publishing failed: {error}"));
        }
        let server_cpu_ns = cpu_between(&before, &after);
        let server_sleeps =
            before.process.as_ref().zip(after.process.as_ref()).map(|(before, after)| after.sleeps.saturating_sub(before.sleeps));
        self.report.threads(&before, &after);
        Ok(Round { published, published_beside, tally, counts, server_cpu_ns, server_sleeps, seconds })
    }

    /// For scenarios that need gaps, positions or resume.
    pub fn must_be_campanile(&self) -> anyhow::Result<()> {
        let speaks = self.target.is_campanile && self.target.format != Format::Raw;
        anyhow::ensure!(speaks, "this scenario needs Campanile's protocol: leave the path out of --url, and take --format msgpack or json");
        Ok(())
    }

    /// Ends the progress line; the report may be printed.
    pub fn finish(self) -> Report {
        self.progress.end();
        let Run { mut report, series, .. } = self;
        report.series = series;
        report
    }
}

/// CPU of the server between two moments.
fn cpu_between(before: &Snapshot, after: &Snapshot) -> Option<u64> {
    let (before, after) = (before.process.as_ref()?, after.process.as_ref()?);
    Some(after.cpu_ns.saturating_sub(before.cpu_ns))
}
