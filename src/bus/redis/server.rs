//! One Redis server: Pub/Sub on one connection (in a Cluster perhaps to a replica), PUBLISH (and what is revoked) on a second one that is opened when first needed, a third on which
//! streams of durable channels are read, and one each, likewise, for what is kept of users and for who is there. Owned and driven by [`super::RedisBus`], through the methods of [`Upstream`] by the same names.
//!
//! Each is a [`Link`], which knows which command an answer belongs to, and has a [`Role`]: what its answers mean is the business of the [`Feed`] (subscriptions) or the [`Outlet`] (publishes).
//! When a subscribed connection is lost, every channel that flowed gets one number for what was missed as soon as it flows again.

mod answers;
mod listening;
mod moving;
mod users;

use std::sync::Arc;

use mio::event::Event;
use mio::{Registry, Token, Waker};

use super::awaiting::Asked;
use super::durable::Durables;
use super::eviction::Eviction;
use super::fault::{Fault, FaultKind};
use super::feed::Feed;
use super::health::{Health, Trouble};
use super::keeping::Desk;
use super::link::Link;
use super::loading::Loading;
use super::outlet::Outlet;
use super::placement::Part;
use super::presence::Presence;
use super::probe::{Probe, Verdict};
use super::revocations::Revocations;
use super::subscriptions::Readiness;
use super::target::Target;
use super::timing::Timing;
use crate::bus::hub::Hub;
use crate::bus::question::{HistoryAsked, PageWanted, Publish, PublishError};
use crate::bus::ration::Ration;
use crate::bus::recall::{self, HistoryError};
use crate::bus::revoke::{self, Revoke, RevokeError};
use crate::bus::upstream::FIRST_TOKEN;
#[cfg(doc)]
use crate::bus::upstream::Upstream;
use crate::clock::MonotonicNs;
use crate::config::Settings;
use crate::limits::redis::{LINKS_MAX, TURN_BYTES, VALUE_BYTES_MIN};
use crate::metrics::Counter;
use crate::sys;

use listening::Listening;

/// Which of the servers of a bus it is.
#[derive(Debug)]
pub struct Seat {
    /// The channels that it has.
    pub part: Part,
    /// How many there are.
    pub servers: usize,
    /// Of its first link; [`LINKS_MAX`] are its own.
    pub first_token: usize,
    /// It was named as one, and is of no use if it is none.
    pub must_be_master: bool,
}

impl Seat {
    /// `number`: of the server.
    pub fn new(part: Part, servers: usize, number: usize) -> Seat {
        Seat { part, servers, first_token: FIRST_TOKEN + number * LINKS_MAX, must_be_master: false }
    }
}

#[derive(Debug)]
pub struct Server {
    /// Of its first link; each has one of its own.
    first_token: usize,
    must_be_master: bool,
    /// Messages flow.
    is_ready: bool,
    /// The first is subscribed; one to publish on follows when it is first needed.
    links: Vec<RoleLink>,
    make_link: LinkParts,
    listening: Listening,
    outlet: Outlet,
    feed: Feed,
    /// The functions of durable channels, where there may be any.
    library: Option<Loading>,
    eviction: Eviction,
    /// What it is asked about users.
    pub desk: Desk,
    presence: Presence,
    /// In a Cluster one master does.
    keeps_presence: bool,
    health: Health,
    /// Of addresses and of publishing.
    warnings: Ration,
}

/// What a connection is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Messages come in on it.
    Subscribed,
    /// What is published here goes out on it.
    Publishing,
    /// What is kept of durable channels is read on it.
    Reading,
    /// What is kept of users is read and written on it.
    Keeping,
    /// Who is there on all nodes is written and read on it.
    Presence,
}

#[derive(Debug)]
struct RoleLink {
    role: Role,
    link: Link,
    /// Why it could not connect, as last logged.
    told: Option<Fault>,
}

#[derive(Debug)]
struct LinkParts {
    target: Arc<Target>,
    registry: Arc<Registry>,
    waker: Arc<Waker>,
    timing: Timing,
    value_bytes_max: usize,
    /// Of what is kept of durable channels.
    reply_bytes_max: usize,
}

impl Server {
    /// `node`: what this process is called among the nodes.
    pub fn new(
        target: Arc<Target>,
        settings: &Settings,
        revocations: Option<revoke::Revocations>,
        timing: Timing,
        (registry, waker): (Arc<Registry>, Arc<Waker>),
        Seat { part, servers, first_token, must_be_master }: Seat,
        node: &str,
    ) -> Server {
        let value_bytes_max = settings.bounds.payload_bytes_max.saturating_add(64 * 1024).max(VALUE_BYTES_MIN);
        let health = Health::new(target.to_string(), sys::monotonic_ns());
        let is_cluster = part.is_of_cluster();
        let at = if servers > 1 || is_cluster { format!(" at {target}") } else { String::new() };
        let library = settings.channels.has_durable().then(|| Loading::new(at.clone()));
        let mut server = Server {
            first_token,
            must_be_master,
            is_ready: false,
            links: Vec::new(),
            make_link: LinkParts {
                target,
                registry,
                waker,
                timing,
                value_bytes_max,
                reply_bytes_max: Durables::reply_bytes_max(settings.bounds.payload_bytes_max),
            },
            listening: Listening::default(),
            outlet: Outlet::new(settings, servers, is_cluster),
            feed: Feed::new(settings, revocations, timing, (part, servers), at),
            library,
            eviction: Eviction::default(),
            desk: Desk::default(),
            presence: Presence::new(settings, node),
            keeps_presence: !is_cluster,
            health,
            warnings: Ration::default(),
        };
        server.open(Role::Subscribed);
        server
    }

    // The links.

    fn open(&mut self, role: Role) -> &mut Link {
        let token = Token(self.first_token + self.links.len());
        self.links.push(RoleLink { role, link: self.make_link.link(token, role), told: None });
        &mut self.links.last_mut().expect("it was pushed").link
    }

    /// One for this, where there is none yet.
    fn open_beside(&mut self, role: Role) {
        if self.link(role).is_none() && self.is_subscribed() {
            self.open(role);
            let [subscribed, .., beside] = self.links.as_mut_slice() else { unreachable!("the first is subscribed") };
            beside.link.learn_from(&subscribed.link);
        }
    }

    fn link(&self, role: Role) -> Option<&Link> {
        self.links.iter().find(|link| link.role == role).map(|found| &found.link)
    }

    fn link_mut(&mut self, role: Role) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.role == role).map(|found| &mut found.link)
    }

    /// Whether messages can come in.
    fn is_subscribed(&self) -> bool {
        self.link(Role::Subscribed).is_some_and(Link::is_ready)
    }

    /// Does something with one link; whatever goes wrong with it ends the connection, and no other.
    fn with(&mut self, at: usize, hub: &mut Hub, now: MonotonicNs, work: fn(&mut Self, usize, &mut Hub, MonotonicNs) -> Result<(), Fault>) {
        if let Err(fault) = work(self, at, hub, now) {
            self.lose_link(at, hub, &fault, now);
        }
    }

    fn read_link(&mut self, at: usize, hub: &mut Hub, now: MonotonicNs) -> Result<(), Fault> {
        if self.links[at].link.drive(now)? {
            self.connected(at, hub, now);
        }
        if !self.links[at].link.is_ready() {
            return Ok(());
        }
        let mut bytes = 0;
        loop {
            // Before the first read: what came together with the answer to the log-in.
            self.take_answers(at, hub, now)?;
            let is_full = self.links[at].role == Role::Reading && !self.feed.durables.has_room();
            if bytes >= TURN_BYTES || hub.is_ahead() || is_full {
                break;
            }
            let Some(count) = self.links[at].link.fill(now)? else { break };
            bytes += count;
        }
        if self.links[at].role == Role::Subscribed {
            self.feed.durables.go_on(hub);
            self.feed.retry(now);
            if let Some(probe) = self.feed.probe.as_mut().filter(|probe| probe.needs_fence(now)) {
                probe.fence(self.links[at].link.ping(now));
            }
            self.fence_late(now);
            self.judge(now);
        }
        Ok(())
    }

    fn connected(&mut self, at: usize, hub: &mut Hub, now: MonotonicNs) {
        hub.metrics().connects.inc();
        let is_at_replica = self.is_at_replica();
        let RoleLink { role, link, told } = &mut self.links[at];
        match role {
            Role::Subscribed => {
                for (place, fault) in link.passed_over() {
                    if self.warnings.take(now).is_none() {
                        break;
                    }
                    tracing::warn!("{} of {} is of no use: {fault}. Using another address of that name", place, self.make_link.target);
                }
                if is_at_replica {
                    tracing::info!("what {} publishes comes from its replica {}", self.make_link.target, link.target());
                }
                if self.must_be_master {
                    link.ask(Asked::Role, &[b"ROLE"], now);
                }
                self.feed.restart(hub);
                self.follow(at, hub, now);
                self.outlet.doubt();
            }
            Role::Reading => {
                *told = None;
                link.ask(Asked::Memory, &[b"INFO", b"memory"], now);
                self.library.iter_mut().for_each(Loading::restart);
            }
            Role::Keeping => *told = None,
            Role::Presence => *told = None,
            Role::Publishing => {
                *told = None;
                self.outlet.ask(link, now);
                self.feed.revocations.iter_mut().for_each(Revocations::doubt);
            }
        }
    }

    /// The publishing connections go where the subscribed one is.
    fn follow(&mut self, subscribed: usize, hub: &mut Hub, now: MonotonicNs) {
        let is_at_replica = self.is_at_replica();
        for at in (0..self.links.len()).filter(|&at| at != subscribed) {
            // Two addresses of one name need not be one server: what is published on another may never come back.
            if !is_at_replica && self.links[at].link.is_ready() && self.links[at].link.address() != self.links[subscribed].link.address() {
                self.lose_link(at, hub, &Fault::new("its messages would not come back: we subscribe elsewhere now"), now);
            }
            let [publishing, subscribed] = self.links.get_disjoint_mut([at, subscribed]).expect("two different links");
            publishing.link.learn_from(&subscribed.link);
            publishing.link.retry_at_once(now);
        }
    }

    fn lose_link(&mut self, at: usize, hub: &mut Hub, fault: &Fault, now: MonotonicNs) {
        let is_subscribed = self.is_subscribed();
        let RoleLink { role, link, told } = &mut self.links[at];
        let was_ready = link.is_ready();
        if was_ready {
            hub.metrics().disconnects.inc();
        }
        if fault.is_violation() {
            hub.metrics().protocol_errors.inc();
        }
        link.fail(fault, now);
        match role {
            Role::Subscribed => {
                warn(self.health.trouble(Trouble::Away, &fault.reason, now));
                self.is_ready = false;
                self.give_late_up();
                self.feed.lose(hub);
                self.listen_elsewhere(was_ready, fault);
            }
            Role::Reading => {
                self.library.iter_mut().for_each(Loading::restart);
                self.feed.durables.connection_lost(hub);
                self.feed.probe.iter_mut().filter(|probe| !probe.is_plain()).for_each(Probe::connection_lost);
            }
            Role::Keeping => {
                // One that was closed is made anew, and nobody has lost anything.
                let is_news = told.as_ref() != Some(fault) && (!was_ready || fault.kind != FaultKind::Closed);
                if is_news && is_subscribed && self.warnings.take(now).is_some() {
                    tracing::warn!("{} cannot be asked what users have read: {fault}. Trying again until it can", self.make_link.target);
                    *told = Some(fault.clone());
                }
                self.desk.connection_lost();
            }
            Role::Presence => self.presence.connection_lost(hub),
            Role::Publishing => {
                // When Redis itself is away, the subscribed connection says so; this is for when only publishing fails.
                if !was_ready && is_subscribed && told.as_ref() != Some(fault) && self.warnings.take(now).is_some() {
                    tracing::warn!("publishing through {} does not work: {fault}. Trying again until it does", self.make_link.target);
                    *told = Some(fault.clone());
                }
                self.outlet.lose(&mut self.feed.publishes, hub);
                self.feed.revocations.iter_mut().for_each(Revocations::lose);
                self.feed.probe.iter_mut().filter(|probe| probe.is_plain()).for_each(Probe::connection_lost);
            }
        }
    }

    fn write_link(&mut self, at: usize, hub: &mut Hub, now: MonotonicNs) -> Result<(), Fault> {
        match self.links[at].role {
            Role::Subscribed => {
                let link = &mut self.links[at].link;
                loop {
                    let has_written = self.feed.write(link, hub, now);
                    link.flush()?;
                    if !has_written || link.out_bytes() > 0 {
                        break;
                    }
                }
                // What was asked of us since may have changed it.
                if link.is_ready() {
                    self.judge(now);
                }
                Ok(())
            }
            Role::Reading => {
                if !self.links[at].link.is_ready() {
                    self.read_link(at, hub, now)?;
                }
                let link = &mut self.links[at].link;
                if link.is_ready() {
                    self.library.iter_mut().for_each(|library| library.write(link, now));
                    self.feed.durables.write(link, hub, now);
                    if self.library.as_ref().is_some_and(Loading::is_settled) {
                        self.feed.write_probe(link, now);
                    }
                }
                link.flush()
            }
            Role::Keeping => {
                if !self.links[at].link.is_ready() {
                    self.read_link(at, hub, now)?;
                }
                let link = &mut self.links[at].link;
                if link.is_ready() {
                    self.desk.write(link, now);
                }
                link.flush()
            }
            Role::Presence => {
                if !self.links[at].link.is_ready() {
                    self.read_link(at, hub, now)?;
                }
                let link = &mut self.links[at].link;
                if link.is_ready() && self.keeps_presence {
                    self.presence.write(link, hub, now);
                }
                link.flush()
            }
            Role::Publishing => {
                // One that was opened for a publish of this turn sets out at once.
                if !self.links[at].link.is_ready() {
                    self.read_link(at, hub, now)?;
                }
                let link = &mut self.links[at].link;
                self.outlet.ask_anew(link, now);
                self.outlet.write_wait(link, now);
                if link.is_ready() {
                    self.feed.revocations.iter_mut().for_each(|revocations| revocations.read(link, now));
                    if self.feed.has_plain_probe() {
                        self.feed.write_probe(link, now);
                    }
                }
                link.flush()
            }
        }
    }

    /// Whether messages flow, for `/readyz`, and what the operator is to hear of it.
    fn judge(&mut self, now: MonotonicNs) {
        let readiness = self.feed.readiness();
        self.is_ready = readiness == Readiness::Ready;
        let trouble = if self.feed.has_plain_probe() { Trouble::IsNotForPublishing } else { Trouble::TakesNoMessages };
        if self.is_ready
            && let Some(verdict) = self.feed.probed(now)
        {
            match verdict {
                Verdict::Well | Verdict::NotAllowed => {}
                Verdict::Unknown => {
                    self.is_ready = false;
                    return;
                }
                Verdict::Refused(why) => {
                    self.is_ready = false;
                    return warn(self.health.trouble(trouble, why, now));
                }
            }
        }
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
}

impl Server {
    /// Whether messages flow.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// How it is called, without its password.
    pub fn name(&self) -> String {
        self.make_link.target.to_string()
    }

    /// When a message that was published to try it came back last.
    pub fn probed(&self) -> Arc<Counter> {
        self.feed.probe.as_ref().map_or_else(Arc::default, |probe| probe.well_at().clone())
    }

    /// How many Redis names it refuses for good.
    pub fn refused_count(&self) -> usize {
        if self.is_subscribed() { self.feed.refused_count() } else { 0 }
    }

    pub fn want(&mut self, hub: &mut Hub, channel: &str) {
        self.feed.want(hub, channel);
    }

    pub fn unwant(&mut self, channel: &str, had_come: bool) {
        self.feed.unwant(channel, had_come);
    }

    pub fn takes(&mut self, publish: &Publish) -> bool {
        self.open_beside(Role::Publishing);
        match self.link(Role::Publishing) {
            Some(link) if link.is_ready() => {
                !self.is_loading()
                    && !self.feed.durables.is_doubtful(&publish.channel, sys::monotonic_ns())
                    && self.outlet.has_room_for(&self.feed.publishes, self.feed.message_bytes(publish))
            }
            // While it connects, publishes wait for it. Where it cannot, or Redis is away, they are told so at once.
            Some(link) => link.is_backing_off() || !self.is_subscribed(),
            None => true,
        }
    }

    /// Whether the functions of durable channels are on their way into Redis: what is published before them is refused.
    fn is_loading(&self) -> bool {
        let is_settled = self.library.as_ref().is_none_or(Loading::is_settled);
        !is_settled && self.link(Role::Reading).is_some_and(|link| !link.is_backing_off())
    }

    pub fn publish(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        let bytes_max = self.outlet.message_bytes_max();
        match self.links.iter_mut().find(|link| link.role == Role::Publishing).map(|found| &mut found.link) {
            Some(_) if publish.payload.len() > bytes_max => {
                hub.published(publish, Err(PublishError::TooBigForRedis { bytes_max }));
            }
            Some(link) if link.is_ready() => {
                if hub.rule_of(&publish.channel).durable {
                    self.outlet.sent_durable();
                }
                self.feed.send(link, hub, publish, now);
            }
            _ => hub.published(publish, Err(PublishError::Unavailable)),
        }
    }

    pub fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted) {
        self.feed.durables.read_page(hub, wanted);
    }

    pub fn recall(&mut self, hub: &mut Hub, asked: HistoryAsked) {
        match self.link(Role::Reading) {
            Some(link) if link.is_ready() => self.feed.durables.recall(hub, asked),
            _ => recall::answer(hub, asked.asker, &asked.recall.channel, Err(HistoryError::Unavailable)),
        }
    }

    pub fn event(&mut self, event: &Event) {
        self.links.iter_mut().for_each(|link| link.link.event(event));
    }

    pub fn read(&mut self, hub: &mut Hub, now: MonotonicNs) -> bool {
        self.feed.durables.begin_turn();
        (0..self.links.len()).for_each(|at| self.with(at, hub, now, Self::read_link));
        hub.is_ahead() || self.feed.durables.is_spent() || self.links.iter().any(|link| link.link.is_readable())
    }

    pub fn revoke(&mut self, revoke: Revoke, now: MonotonicNs) {
        let link = self.links.iter_mut().find(|link| link.role == Role::Publishing && link.link.is_ready());
        match (&mut self.feed.revocations, link) {
            (Some(revocations), Some(found)) => revocations.send(&mut found.link, revoke, now),
            _ => revoke.answer(Err(RevokeError::Unavailable)),
        }
    }

    pub fn write(&mut self, hub: &mut Hub, now: MonotonicNs) {
        if self.feed.revocations.is_some() || self.feed.has_plain_probe() {
            // By it they are read.
            self.open_beside(Role::Publishing);
        }
        if self.library.is_some() {
            self.open_beside(Role::Reading);
        }
        if self.desk.is_wanted() {
            self.open_beside(Role::Keeping);
        }
        if self.keeps_presence && self.presence.is_wanted(hub.counts_presence()) {
            self.open_beside(Role::Presence);
        }
        (0..self.links.len()).for_each(|at| self.with(at, hub, now, Self::write_link));
    }

    pub fn deadline(&self) -> Option<MonotonicNs> {
        let library = self.library.as_ref().and_then(Loading::deadline);
        let probing = if self.feed.has_plain_probe() { Role::Publishing } else { Role::Reading };
        let is_probing = self.library.as_ref().is_none_or(Loading::is_settled) && self.link(probing).is_some_and(Link::is_ready);
        let probe = self.feed.probe_deadline(is_probing);
        let presence = self.link(Role::Presence).filter(|link| link.is_ready()).and_then(|_| self.presence.deadline());
        self.links
            .iter()
            .map(|link| link.link.deadline())
            .chain(self.feed.deadline())
            .chain(library)
            .chain(probe)
            .chain(presence)
            .chain(self.late_due())
            .min()
    }

    pub fn stop(&mut self, hub: &mut Hub) {
        self.give_late_up();
        for (publish, result) in self.feed.publishes.subscription_lost() {
            hub.published(publish, result);
        }
        self.outlet.lose(&mut self.feed.publishes, hub);
        self.feed.revocations.iter_mut().for_each(Revocations::lose);
        if let Some(found) = self.links.iter_mut().find(|link| link.role == Role::Presence && link.link.is_ready()) {
            self.presence.leave(&mut found.link, sys::monotonic_ns());
            // If Redis does not take it now, the lease ends by itself.
            let _ = found.link.flush();
        }
        self.presence.connection_lost(hub);
    }
}

fn warn(line: Option<String>) {
    if let Some(line) = line {
        tracing::warn!("{line}");
    }
}

impl LinkParts {
    fn link(&self, token: Token, role: Role) -> Link {
        let value_bytes_max = match role {
            Role::Subscribed | Role::Publishing | Role::Keeping | Role::Presence => self.value_bytes_max,
            Role::Reading => self.value_bytes_max.max(self.reply_bytes_max),
        };
        Link::new(self.target.clone(), token, self.registry.clone(), self.waker.clone(), self.timing, value_bytes_max)
    }
}
