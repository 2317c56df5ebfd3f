//! The bus through one Redis server: Pub/Sub on one connection, PUBLISH on a second one that is opened when first needed.
//!
//! Both are a [`Link`], which knows which command an answer belongs to; what answers mean for channels is the [`Feed`]'s business.
//! When the subscribed connection is lost, every channel that flowed gets one number for what was missed as soon as it flows again.
//!
//! From the socket up: [`target`] (URL), [`socket`], [`link`] (connection), [`resp`] (replies), [`awaiting`] (which command a reply answers),
//! [`fault`] (what errors mean), [`names`], [`subscriptions`], [`publishes`], [`output_limit`] (how much may come back), [`feed`] (what comes
//! in), [`health`] (what is logged).

pub mod awaiting;
pub mod fault;
pub mod feed;
pub mod health;
pub mod link;
pub mod names;
pub mod output_limit;
pub mod publishes;
pub mod resp;
pub mod socket;
pub mod subscriptions;
pub mod target;

use std::sync::Arc;

use mio::event::Event;
use mio::{Registry, Token, Waker};

use super::hub::{Hub, Receipt};
use super::upstream::{FIRST_TOKEN, Upstream};
use super::{PUBLISHES_MAX, Publish, PublishError};
use crate::clock::MonotonicNs;
use crate::config::Settings;
use crate::fanout::batch::Channel;
use crate::sys;

use awaiting::Asked;
use fault::{Fault, text_of};
use feed::Feed;
use health::{Health, Ration, Trouble};
use link::{Answer as Reply, Link, Timing};
use output_limit::OutputLimit;
use publishes::{Answer, Publishes};
use subscriptions::Readiness;
use target::Target;

/// Bytes read in one turn before they are handed out and commands are served.
const TURN_BYTES: usize = 1024 * 1024;
/// The largest value taken from Redis, whatever `payload_bytes_max` says: larger payloads are read, dropped and announced.
const VALUE_BYTES_MIN: usize = 64 * 1024 * 1024;

#[derive(Debug)]
pub struct RedisBus {
    link: Link,
    /// None until the first publish.
    publisher: Option<Link>,
    make_publisher: LinkParts,
    /// Why it could not connect, as last logged.
    publisher_fault: Option<Fault>,
    outlet: Outlet,
    feed: Feed,
    health: Health,
    /// Of addresses and of the publisher.
    warnings: Ration,
}

/// How much may be published at once.
#[derive(Debug)]
struct Outlet {
    limit: OutputLimit,
    /// Redis was asked for it, or cannot be asked.
    was_asked: bool,
    /// And has not answered.
    is_due: bool,
    /// Under way at once. What comes back goes into the shards' inboxes: at most half of one ([`super::lane::Lane::has_room_for`] leaves it free).
    publishes_max: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct LinkParts {
    target: Arc<Target>,
    registry: Arc<Registry>,
    waker: Arc<Waker>,
    timing: Timing,
    value_bytes_max: usize,
}

impl RedisBus {
    /// A URL that cannot be used is an error; a server that cannot be reached is not.
    pub fn new(url: &str, settings: &Settings, timing: Timing, registry: Registry, waker: Arc<Waker>) -> anyhow::Result<RedisBus> {
        let target = Arc::new(Target::from_url(url)?);
        let value_bytes_max = settings.bounds.payload_bytes_max.saturating_add(64 * 1024).max(VALUE_BYTES_MIN);
        let parts = LinkParts { target, registry: Arc::new(registry), waker, timing, value_bytes_max };
        let health = Health::new(parts.target.to_string(), sys::monotonic_ns());
        Ok(RedisBus {
            link: parts.link(0),
            publisher: None,
            make_publisher: parts,
            publisher_fault: None,
            outlet: Outlet {
                limit: OutputLimit::default(),
                was_asked: false,
                is_due: false,
                publishes_max: PUBLISHES_MAX.min(settings.shards.inbox_messages / 2).max(1),
                bytes_max: settings.bounds.inbox_bytes_total / settings.shards.count / 2,
            },
            feed: Feed::new(settings, timing)?,
            health,
            warnings: Ration::default(),
        })
    }

    // The subscribed connection.

    fn read_subscription(&mut self, hub: &mut Hub, now: MonotonicNs) -> Result<(), Fault> {
        if self.link.drive(now)? {
            self.connected(hub, now);
        }
        if !self.link.is_ready() {
            return Ok(());
        }
        let mut bytes = 0;
        loop {
            // Before the first read: what came together with the answer to the log-in.
            let receipt = Receipt { received: sys::monotonic_ns(), timestamp_ms: sys::unix_ms() };
            while let Some(answer) = self.link.next_answer()? {
                self.feed.take(hub, answer, receipt)?;
            }
            if bytes >= TURN_BYTES {
                break;
            }
            let Some(count) = self.link.fill(now)? else { break };
            bytes += count;
        }
        self.feed.retry(now);
        self.judge(hub, now);
        Ok(())
    }

    /// Whether messages flow, for `/readyz`, and what the operator is to hear of it.
    fn judge(&mut self, hub: &Hub, now: MonotonicNs) {
        let readiness = self.feed.readiness();
        hub.set_ready(readiness == Readiness::Ready);
        hub.metrics().channels_refused.set(self.feed.refused_count() as u64);
        match readiness {
            Readiness::Ready => {
                if let Some(line) = self.health.well(self.feed.refused_count(), now) {
                    tracing::info!("{line}");
                }
            }
            Readiness::Recovering => {}
            Readiness::RefusedForNow => warn(self.health.trouble(Trouble::RefusesForNow, self.feed.refusal(), now)),
            Readiness::RefusedForGood => warn(self.health.trouble(Trouble::RefusesEverything, self.feed.refusal(), now)),
        }
    }

    fn connected(&mut self, hub: &mut Hub, now: MonotonicNs) {
        hub.metrics().connects.inc();
        for (place, fault) in self.link.passed_over() {
            if self.warnings.take(now).is_none() {
                break;
            }
            tracing::warn!("{} of {} is of no use: {fault}. Using another address of that name", place, self.make_publisher.target);
        }
        self.feed.restart();
        let Some(publisher) = &mut self.publisher else { return };
        // Two addresses of one name need not be one server: what is published on another may never come back.
        if publisher.is_ready() && publisher.address() != self.link.address() {
            self.lose_publisher(hub, &Fault::new("its messages would not come back: we subscribe elsewhere now"), now);
        }
        if let Some(publisher) = &mut self.publisher {
            publisher.learn_from(&self.link);
            publisher.retry_at_once(now);
        }
        // It may have been lost because the limit was lowered.
        self.outlet.was_asked = false;
    }

    fn lose_subscription(&mut self, hub: &mut Hub, fault: &Fault, now: MonotonicNs) {
        if self.link.is_ready() {
            hub.metrics().disconnects.inc();
        }
        if fault.is_violation() {
            hub.metrics().protocol_errors.inc();
        }
        warn(self.health.trouble(Trouble::Away, &fault.reason, now));
        hub.set_ready(false);
        hub.interrupt();
        self.link.fail(fault, now);
        self.feed.lose(hub);
        hub.metrics().channels_refused.set(0);
    }

    fn write_subscription(&mut self, now: MonotonicNs) -> Result<(), Fault> {
        loop {
            let has_written = self.feed.write(&mut self.link, now);
            self.link.flush()?;
            if !has_written || self.link.out_bytes() > 0 {
                return Ok(());
            }
        }
    }

    // The publishing connection.

    fn read_publisher(&mut self, hub: &mut Hub, now: MonotonicNs) -> Result<(), Fault> {
        let Some(publisher) = &mut self.publisher else { return Ok(()) };
        if publisher.drive(now)? {
            hub.metrics().connects.inc();
            self.publisher_fault = None;
            self.outlet.ask(publisher, now);
        }
        if !publisher.is_ready() {
            return Ok(());
        }
        // One PING serves all publishes that were answered before it is sent.
        let mut fence = None;
        let mut bytes = 0;
        loop {
            while let Some(reply) = publisher.next_answer()? {
                let refusal = match reply {
                    Reply::OutputLimit(limit) => {
                        (self.outlet.limit, self.outlet.is_due) = (limit, false);
                        continue;
                    }
                    Reply::Published => None,
                    Reply::Refused { error, .. } if error.code() == "NOAUTH" => return Err(Fault::refused(error)),
                    Reply::Refused { error, .. } => Some(text_of(error)),
                    Reply::Pong { .. } | Reply::Nothing => continue,
                    Reply::Odd { asked: None } => {
                        hub.metrics().protocol_errors.inc();
                        continue;
                    }
                    Reply::Odd { .. } | Reply::Message { .. } | Reply::Confirmed { .. } => {
                        return Err(Fault::new("it answers what was not asked"));
                    }
                };
                let Some(Answer { done, needs_fence }) = self.feed.publishes.answered(refusal, self.link.is_ready()) else {
                    return Err(Fault::new("it answers what was not asked"));
                };
                if let Some((publish, result)) = done {
                    hub.answer(publish.reply, publish.channel, result);
                }
                if let Some(fenced) = needs_fence {
                    let ping = *fence.get_or_insert_with(|| self.link.ping(now));
                    self.feed.publishes.fence(fenced, ping);
                }
            }
            if bytes >= TURN_BYTES {
                break;
            }
            let Some(count) = publisher.fill(now)? else { break };
            bytes += count;
        }
        Ok(())
    }

    fn lose_publisher(&mut self, hub: &mut Hub, fault: &Fault, now: MonotonicNs) {
        let Some(publisher) = &mut self.publisher else { return };
        if publisher.is_ready() {
            hub.metrics().disconnects.inc();
        }
        if fault.is_violation() {
            hub.metrics().protocol_errors.inc();
        }
        // When Redis itself is away, the subscribed connection says so; this is for when only publishing fails.
        if !publisher.is_ready()
            && self.link.is_ready()
            && self.publisher_fault.as_ref() != Some(fault)
            && self.warnings.take(now).is_some()
        {
            tracing::warn!("publishing through {} does not work: {fault}. Trying again until it does", self.make_publisher.target);
            self.publisher_fault = Some(fault.clone());
        }
        publisher.fail(fault, now);
        self.outlet.is_due = false;
        for (publish, result) in self.feed.publishes.connection_lost() {
            hub.answer(publish.reply, publish.channel, result);
        }
    }

    /// Asks how much Redis keeps for subscribers.
    fn ask_limit(&mut self, now: MonotonicNs) {
        if let Some(publisher) = self.publisher.as_mut().filter(|publisher| publisher.is_ready())
            && !self.outlet.was_asked
            && !self.outlet.is_due
        {
            self.outlet.ask(publisher, now);
        }
    }
}

impl Outlet {
    fn ask(&mut self, publisher: &mut Link, now: MonotonicNs) {
        (self.was_asked, self.is_due) = (true, true);
        publisher.ask(Asked::OutputLimit, &[b"CONFIG", b"GET", output_limit::PARAMETER.as_bytes()], now);
    }

    fn has_room_for(&self, publishes: &Publishes, message_bytes: usize) -> bool {
        let window = self.limit.window_bytes().min(self.bytes_max);
        let returning = publishes.returning_bytes();
        !self.is_due && publishes.len() < self.publishes_max && (returning == 0 || returning + message_bytes <= window)
    }
}

impl Upstream for RedisBus {
    fn want(&mut self, hub: &mut Hub, channel: &Arc<Channel>) {
        self.feed.want(hub, &channel.name);
    }

    fn unwant(&mut self, _: &mut Hub, channel: &Arc<Channel>) {
        self.feed.unwant(&channel.name);
    }

    fn takes(&mut self, publish: &Publish) -> bool {
        if self.publisher.is_none() && self.link.is_ready() {
            let mut publisher = self.make_publisher.link(1);
            publisher.learn_from(&self.link);
            self.publisher = Some(publisher);
        }
        match &self.publisher {
            Some(publisher) if publisher.is_ready() => self.outlet.has_room_for(&self.feed.publishes, self.feed.message_bytes(publish)),
            // While it connects, publishes wait for it. Where it cannot, or Redis is away, they are told so at once.
            Some(publisher) => publisher.is_backing_off() || !self.link.is_ready(),
            None => true,
        }
    }

    fn publish(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        let bytes_max = self.outlet.limit.message_bytes_max();
        match &mut self.publisher {
            Some(_) if publish.payload.len() > bytes_max => {
                hub.answer(publish.reply, publish.channel, Err(PublishError::TooBigForRedis { bytes_max }));
            }
            Some(publisher) if publisher.is_ready() => self.feed.send(publisher, hub, publish, now),
            _ => hub.answer(publish.reply, publish.channel, Err(PublishError::Unavailable)),
        }
    }

    fn event(&mut self, event: &Event) {
        self.link.event(event);
        if let Some(publisher) = &mut self.publisher {
            publisher.event(event);
        }
    }

    fn read(&mut self, hub: &mut Hub, now: MonotonicNs) -> bool {
        if let Err(fault) = self.read_subscription(hub, now) {
            self.lose_subscription(hub, &fault, now);
        }
        if let Err(fault) = self.read_publisher(hub, now) {
            self.lose_publisher(hub, &fault, now);
        }
        self.link.is_readable() || self.publisher.as_ref().is_some_and(Link::is_readable)
    }

    fn write(&mut self, hub: &mut Hub, now: MonotonicNs) {
        // A publisher made for a publish of this turn sets out at once.
        if self.publisher.as_ref().is_some_and(|publisher| !publisher.is_ready())
            && let Err(fault) = self.read_publisher(hub, now)
        {
            self.lose_publisher(hub, &fault, now);
        }
        self.ask_limit(now);
        if let Err(fault) = self.write_subscription(now) {
            self.lose_subscription(hub, &fault, now);
        }
        // What was asked of us since may have changed it.
        if self.link.is_ready() {
            self.judge(hub, now);
        }
        if let Some(publisher) = &mut self.publisher
            && let Err(fault) = publisher.flush()
        {
            self.lose_publisher(hub, &fault, now);
        }
    }

    fn deadline(&self) -> Option<MonotonicNs> {
        let publisher = self.publisher.as_ref().map(Link::deadline);
        [Some(self.link.deadline()), publisher, self.feed.deadline()].into_iter().flatten().min()
    }

    fn stop(&mut self, hub: &mut Hub) {
        let answered = self.feed.publishes.subscription_lost();
        for (publish, result) in answered.into_iter().chain(self.feed.publishes.connection_lost()) {
            hub.answer(publish.reply, publish.channel, result);
        }
    }
}

fn warn(line: Option<String>) {
    if let Some(line) = line {
        tracing::warn!("{line}");
    }
}

impl LinkParts {
    fn link(&self, number: usize) -> Link {
        let token = Token(FIRST_TOKEN + number);
        Link::new(self.target.clone(), token, self.registry.clone(), self.waker.clone(), self.timing, self.value_bytes_max)
    }
}
