//! What comes in on the subscribed connection to Redis, and what it means for the hub: messages, confirmations, refusals, pongs. Owned by [`super::server::Server`].
//!
//! Redis names and channels are the same thing but for the prefix (exact mode), or one pattern stands for all channels under the prefix.

use std::collections::HashSet;
use std::ops::Range;

use redis::ServerError;

use super::awaiting;
use super::awaiting::{Asked, Verb};
use super::cluster::Redirect;
use super::cluster::map::Node;
use super::durable::Durables;
use super::durable::envelope::{Envelope, MARK};
use super::fault::{Fault, Refusal, with_advice};
use super::keeping;
use super::link::{Answer, Link};
use super::names::Names;
use super::placement::Part;
use super::probe::{Probe, Verdict};
use super::publishes::Publishes;
use super::revocations::Revocations;
use super::subscriptions::{Readiness, Refused, Standing, Subscriptions};
use super::target::Target;
use super::timing::Timing;
use crate::bus::flow::Start;
use crate::bus::hub::{Hub, Outcome, Receipt};
use crate::bus::question::{Publish, PublishError, Published};
use crate::bus::ration::Ration;
use crate::bus::revoke;
use crate::clock::{MonotonicNs, nanos};
use crate::config::{AuthMode, PubSub, RedisSubscribe, Route, Settings};
use crate::limits::redis::{MESSAGE_BYTES, OUT_BYTES};
use crate::wire::channel_name;

/// What Redis does not take now is tried again after pauses that double so often: from 50 ms to 0.8 s.
const POSTPONED_DOUBLINGS_MAX: u32 = 5;

#[derive(Debug)]
pub struct Feed {
    /// The channels that this server has: what comes of others is none of its business.
    part: Part,
    /// How it is called in lines that are not about it alone; empty where there is one.
    at: String,
    names: Names,
    /// None: each channel is subscribed by itself.
    pattern: Option<String>,
    /// Channels that are subscribed by themselves whether anybody hears them or not: those whose messages are routed to others.
    routed: HashSet<Box<str>>,
    /// In a Cluster: something shows that the map is old, and perhaps who knows better.
    is_old: Option<Option<Node>>,
    all_routes: Vec<Route>,
    /// Of the channels of this server that are routed to others. Where there is another server, those may be its.
    routes: Vec<Route>,
    /// Their messages have ceased to come since they last came.
    has_missed_routed: bool,
    subscriptions: Subscriptions,
    /// The hub's slots with channels that were wanted when the connection came up and are still to be shown to `subscriptions`.
    unshown: Range<usize>,
    pub publishes: Publishes,
    pub durables: Durables,
    pub probe: Option<Probe>,
    /// On which nodes tell each other what users have read; None: nothing is kept of that.
    marks_channel: Option<Box<str>>,
    /// None: nobody has a token here.
    pub revocations: Option<Revocations>,
    timing: Timing,
    /// When, and after how many refusals in a row.
    retry_postponed_at: Option<MonotonicNs>,
    postponements: u32,
    retry_refused_at: Option<MonotonicNs>,
    /// How Redis last refused something.
    refusal: String,
    warnings: Ration,
}

impl Feed {
    /// `revocations`: None if they are kept elsewhere. `servers`: as many have a feed. `at`: where this one is, for lines of the log.
    pub fn new(
        settings: &Settings,
        revocations: Option<revoke::Revocations>,
        timing: Timing,
        (part, servers): (Part, usize),
        at: String,
    ) -> Feed {
        let names = Names::new(&settings.redis);
        let mut subscriptions = Subscriptions::new(settings.redis.pubsub == PubSub::Sharded);
        let pattern = (settings.redis.subscribe == RedisSubscribe::Pattern).then(|| names.pattern());
        let mut routed = HashSet::new();
        if let Some(pattern) = &pattern {
            subscriptions.want_pattern(pattern);
            for name in names.beside_pattern().filter(|name| part.has(name)) {
                subscriptions.want_beside(name);
            }
        } else {
            routed = settings.routes.iter().map(|route| route.from.clone()).filter(|channel| part.has(channel)).collect();
            // They are the first to be subscribed: when any other channel flows, what is routed to it does.
            routed.iter().for_each(|channel| subscriptions.want_beside(&names.to_redis(channel)));
        }
        let mut routes = settings.routes.clone();
        routes.retain(|route| part.has(&route.from));
        let revocations =
            revocations.filter(|_| settings.auth.mode == AuthMode::Jwt).map(|revocations| Revocations::new(settings, revocations));
        if let Some(revocations) = &revocations {
            subscriptions.want_classic(revocations.channel());
        }
        let probes = settings.channels.has_durable() || timing.probes_plain;
        let probe = probes.then(|| Probe::new(settings, &names, &part, timing));
        let durables = Durables::new(settings, part.clone()).share_among(servers);
        // In pattern mode it comes with the prefix.
        if let Some(probe) = probe.as_ref().filter(|_| pattern.is_none()) {
            subscriptions.want_beside(probe.redis_channel());
        }
        let marks_channel: Option<Box<str>> = settings.channels.has_durable().then(|| keeping::channel(&settings.redis.prefix).into());
        // A Cluster brings it by every master: one is enough.
        if let Some(channel) = marks_channel.as_ref().filter(|_| pattern.is_none() && (!part.is_of_cluster() || part.has(keeping::NAME))) {
            subscriptions.want_classic(channel);
        }
        Feed {
            all_routes: settings.routes.clone(),
            is_old: None,
            part,
            at,
            names,
            pattern,
            routed,
            routes,
            has_missed_routed: false,
            subscriptions,
            unshown: 0..0,
            publishes: Publishes::default(),
            durables,
            probe,
            marks_channel,
            revocations,
            timing,
            retry_postponed_at: None,
            postponements: 0,
            retry_refused_at: None,
            refusal: String::new(),
            warnings: Ration::default(),
        }
    }

    /// In a Cluster: other channels are this server's from now on. Whoever has the bus says of each that has moved that it is wanted here, or no more. `servers`:
    /// how many there are.
    pub fn set_part(&mut self, part: Part, servers: usize) {
        self.part = part.clone();
        self.durables.set_part(part, servers);
        if let Some(probe) = self.probe.as_mut().filter(|probe| !probe.is_in(&self.part)) {
            let before = probe.redis_channel().to_owned();
            probe.move_to(&self.names, &self.part);
            if self.pattern.is_none() {
                self.subscriptions.unwant_beside(&before);
                self.subscriptions.want_beside(probe.redis_channel());
            }
        }
        if let Some(channel) = self.marks_channel.as_ref().filter(|_| self.pattern.is_none()) {
            match self.part.has(keeping::NAME) {
                true => self.subscriptions.want_classic(channel),
                false => self.subscriptions.unwant_beside(channel),
            }
        }
        self.routes.clone_from(&self.all_routes);
        self.routes.retain(|route| self.part.has(&route.from));
        if let Some(pattern) = &self.pattern {
            debug_assert!(self.names.is_covered(pattern));
            for name in self.names.beside_pattern() {
                match self.part.has(name) {
                    true => self.subscriptions.want_beside(name),
                    false => self.subscriptions.unwant_beside(name),
                }
            }
            return;
        }
        let routed: HashSet<Box<str>> = self.routes.iter().map(|route| route.from.clone()).collect();
        for gone in self.routed.difference(&routed) {
            self.subscriptions.unwant_beside(&self.names.to_redis(gone));
        }
        for new in routed.difference(&self.routed) {
            self.subscriptions.want_beside(&self.names.to_redis(new));
        }
        self.routed = routed;
    }

    /// It is at another server from now on.
    pub fn retarget(&mut self, target: &Target) {
        if !self.at.is_empty() {
            self.at = format!(" at {target}");
        }
    }

    /// What is revoked is kept elsewhere from now on.
    pub fn take_revocations(&mut self) -> Option<Revocations> {
        let mut revocations = self.revocations.take()?;
        revocations.lose();
        self.subscriptions.unwant_beside(revocations.channel());
        Some(revocations)
    }

    /// It is kept here from now on.
    pub fn give_revocations(&mut self, mut revocations: Revocations) {
        revocations.doubt();
        self.subscriptions.want_classic(revocations.channel());
        self.revocations = Some(revocations);
    }

    /// In a Cluster: whether an error shows that the map is old.
    pub fn note_moved(&mut self, error: &ServerError) {
        if let Some(Redirect::Moved(node)) = Redirect::of(error).filter(|_| self.part.is_of_cluster()) {
            self.is_old = Some(node);
        }
    }

    /// Whether something has shown that the map of the Cluster is old, and who knows better.
    pub fn take_is_old(&mut self) -> Option<Option<Node>> {
        self.is_old.take().or_else(|| self.durables.take_is_old())
    }

    pub fn want(&mut self, hub: &mut Hub, channel: &str) {
        let name = self.names.to_redis(channel);
        let standing = match &self.pattern {
            None if self.routed.contains(channel) => self.subscriptions.standing(&name),
            None => self.subscriptions.want(&name),
            Some(pattern) if self.names.is_covered(&name) => self.subscriptions.standing(pattern),
            Some(_) => self.subscriptions.standing(&name),
        };
        match standing {
            Standing::Subscribed => flows(&mut self.durables, hub, channel),
            Standing::Refused => hub.refuse(channel),
            Standing::Pending => {}
        }
    }

    pub fn unwant(&mut self, channel: &str, had_come: bool) {
        // Of one whose stream is being asked where it stands nothing flows yet, though it is subscribed.
        let had_come = had_come || self.durables.has(channel);
        self.durables.forget(channel);
        if self.pattern.is_none() && !self.routed.contains(channel) {
            self.subscriptions.unwant(&self.names.to_redis(channel), had_come);
        }
    }

    /// A new connection: everything is to be subscribed.
    pub fn restart(&mut self, hub: &Hub) {
        self.unshown = 0..if self.pattern.is_none() { hub.slots() } else { 0 };
        self.subscriptions.restart(!self.unshown.is_empty());
        self.probe.iter_mut().for_each(Probe::restart);
    }

    pub fn lose(&mut self, hub: &mut Hub) {
        hub.interrupt(|channel| self.part.has(channel));
        self.has_missed_routed |= self.subscriptions.readiness() == Readiness::Ready && !self.routes.is_empty();
        // What is wanted from now on must not be taken for subscribed.
        self.subscriptions.disconnect();
        self.durables.suspend_all();
        self.unshown = 0..0;
        (self.retry_postponed_at, self.postponements, self.retry_refused_at) = (None, 0, None);
        for (publish, result) in self.publishes.subscription_lost() {
            hub.published(publish, result);
        }
    }

    /// Writes the commands that are due, as far as there is room; whether there were any.
    pub fn write(&mut self, link: &mut Link, hub: &Hub, now: MonotonicNs) -> bool {
        let mut has_written = false;
        while link.is_ready() && link.out_bytes() < OUT_BYTES {
            // Of a durable one nothing flows before it is known where its stream stands; it is subscribed all the same. Routed ones are subscribed by themselves.
            let is_meant = |channel: &str| self.part.has(channel) && !self.durables.has(channel) && !self.routed.contains(channel);
            let unshown = || hub.next_still(&mut self.unshown, is_meant).map(|channel| self.names.to_redis(channel).into());
            let Some(asked) = self.subscriptions.write_next(link.out(), unshown) else { break };
            link.asked(asked, now);
            has_written = true;
        }
        has_written
    }

    pub fn take(&mut self, hub: &mut Hub, answer: Answer<'_>, receipt: Receipt) -> Result<(), Fault> {
        match answer {
            Answer::Message { channel, payload } => self.message(hub, channel, payload, receipt),
            Answer::Confirmed { verb: Verb::Subscribe | Verb::PatternSubscribe, name, was_asked } => {
                if let Some(revocations) = self.revocations.as_mut().filter(|revocations| revocations.channel() == name) {
                    revocations.doubt();
                }
                if self.subscriptions.subscribed(name, was_asked) {
                    self.tell(hub, name, flows);
                }
                if self.has_missed_routed && self.subscriptions.readiness() == Readiness::Ready {
                    self.has_missed_routed = false;
                    self.tell_missed_routed(hub);
                }
            }
            Answer::Confirmed { verb: Verb::Unsubscribe, name, was_asked } => {
                if !was_asked && self.part.is_of_cluster() {
                    // Its slot has gone.
                    self.is_old = Some(None);
                }
                let had_come = self.names.to_channel(name).is_some_and(|channel| hub.comes(&channel) || self.durables.has(&channel));
                if self.subscriptions.unsubscribed(name, was_asked, had_come) {
                    self.tell(hub, name, |durables, hub, channel| {
                        durables.suspend(channel);
                        hub.interrupt_channel(channel);
                    });
                }
            }
            Answer::Pong { number, lost } => {
                for asked in lost {
                    self.lost(hub, asked);
                }
                if self.probe.as_ref().is_some_and(|probe| probe.is_lost(number)) {
                    hub.metrics().probes_lost.inc();
                    return Err(Fault::new("a message that it has published for us did not come: the subscription is of no use"));
                }
                while let Some((publish, result)) = self.publishes.pong(number) {
                    hub.published(publish, result);
                }
            }
            // Only another log-in helps.
            Answer::Refused { error, .. } if error.code() == "NOAUTH" => return Err(Fault::refused(error)),
            Answer::Refused { asked: Asked::Channels(verb, names), error } => {
                let is_elsewhere = self.part.is_of_cluster() && Redirect::of(error).is_some();
                let refusal = if is_elsewhere { Refusal::ForNow } else { Refusal::of(error) };
                self.note_moved(error);
                self.refused(hub, verb, &names, refusal, &with_advice(error));
            }
            Answer::Odd { asked } => {
                hub.metrics().protocol_errors.inc();
                asked.into_iter().for_each(|asked| self.lost(hub, asked));
            }
            Answer::Refused { .. }
            | Answer::Published { .. }
            | Answer::OutputLimit(_)
            | Answer::Revocations { .. }
            | Answer::Topology { .. }
            | Answer::Role { .. }
            | Answer::Waited { .. }
            | Answer::Durable { .. }
            | Answer::Kept { .. }
            | Answer::Presence { .. }
            | Answer::Library { .. }
            | Answer::Memory { .. }
            | Answer::Probed => hub.metrics().protocol_errors.inc(),
            Answer::Nothing => {}
        }
        Ok(())
    }

    /// What has waited for room in the shards' inboxes goes on.
    pub fn go_on(&mut self, hub: &mut Hub) {
        self.durables.go_on(hub);
    }

    #[inline]
    fn message(&mut self, hub: &mut Hub, redis_channel: &[u8], payload: &[u8], receipt: Receipt) {
        if let Some(revocations) = &self.revocations
            && revocations.channel().as_bytes() == redis_channel
        {
            return revocations.told(payload);
        }
        if let Some(probe) = &mut self.probe
            && probe.redis_channel().as_bytes() == redis_channel
        {
            return probe.came(payload, hub.metrics(), receipt.received);
        }
        if let Some(channel) = &self.marks_channel
            && channel.as_bytes() == redis_channel
        {
            return match keeping::news(payload) {
                Some(news) => hub.mark_told(news),
                None => hub.metrics().protocol_errors.inc(),
            };
        }
        let channel = std::str::from_utf8(redis_channel).ok().and_then(|name| self.names.to_channel(name));
        let channel = channel.as_deref();
        if channel.is_some_and(|channel| !self.part.has(channel)) {
            // In a Cluster it has moved a moment ago, or a pattern brings it by every node.
            return if self.part.is_of_cluster() { hub.count_received(payload.len()) } else { hub.count_misplaced(payload.len()) };
        }
        if payload.first() == Some(&MARK)
            && let Some(channel) = channel
            && let Some(Ok(envelope)) = Envelope::read(payload)
            && !self.durables.has(channel)
        {
            // From a function of ours, on a channel whose rule here does not say so: the numbers are of no use.
            return envelope.payloads().for_each(|payload| self.plain(hub, Some(channel), payload, receipt));
        }
        match channel {
            Some(channel) if self.durables.has(channel) => self.durables.message(hub, channel, payload, receipt),
            channel => self.plain(hub, channel, payload, receipt),
        }
    }

    #[inline]
    fn plain(&mut self, hub: &mut Hub, channel: Option<&str>, payload: &[u8], receipt: Receipt) {
        match channel.map(|channel| (channel, hub.find(channel))) {
            Some((channel, _)) if hub.is_routed(channel) => {
                hub.route(channel, payload, receipt, None);
                self.seen(hub, channel, payload, Published::NOWHERE);
            }
            Some((channel, Some(id))) => {
                if let Outcome::Numbered(published) = hub.message(id, payload, receipt) {
                    self.seen(hub, channel, payload, published);
                }
            }
            Some((channel, None)) if channel_name::check(channel).is_ok() => hub.count_unwanted(payload.len()),
            _ => hub.count_misnamed(payload.len()),
        }
    }

    /// One of our own publishes may have come back.
    #[inline]
    fn seen(&mut self, hub: &mut Hub, channel: &str, payload: &[u8], published: Published) {
        if self.publishes.is_watching()
            && let Some((publish, result)) = self.publishes.seen(channel, payload, published)
        {
            hub.published(publish, result);
        }
    }

    /// A command that will not be answered any more: it is sent again.
    fn lost(&mut self, hub: &mut Hub, asked: Asked) {
        if let Asked::Channels(verb, names) = asked {
            let first = names.front().map_or("", |name| name);
            let reason = format!("{} `{first}` was not confirmed, though what was sent after it was answered", verb.name());
            self.refused(hub, verb, &names, Refusal::ForNow, &reason);
        }
    }

    fn refused(&mut self, hub: &mut Hub, verb: Verb, names: &awaiting::Names, refusal: Refusal, reason: &str) {
        reason.clone_into(&mut self.refusal);
        for Refused { name, is_news } in self.subscriptions.refused(verb, names, refusal) {
            self.tell(hub, &name, |durables, hub, channel| {
                durables.suspend(channel);
                hub.refuse(channel);
            });
            if !is_news {
                continue;
            }
            match self.warnings.take(crate::sys::monotonic_ns()) {
                None => self.warnings.unsaid += 1,
                Some(unsaid) => {
                    let before =
                        if unsaid > 0 { format!(" ({unsaid} channels before this one were too many to be told)") } else { String::new() };
                    let is_own = self.own_names().any(|own| own == &*name);
                    let follows = if is_own { "Channels of clients are not concerned" } else { "Its subscribers are told" };
                    tracing::warn!(
                        "Redis{} does not let us {} `{name}`: {reason}. {follows}; it is asked for again every {:?}{before}",
                        self.at,
                        verb.name(),
                        self.timing.refused_retry,
                    );
                }
            }
        }
    }

    /// Tells the hub what has become of the channels that a Redis name stands for.
    fn tell(&mut self, hub: &mut Hub, name: &str, change: impl Fn(&mut Durables, &mut Hub, &str)) {
        // Those are nobody's channels, whatever rule would fit their names.
        if self.own_names().any(|own| own == name) {
            return;
        }
        if self.pattern.as_deref() == Some(name) {
            let is_meant = |channel: &str| self.part.has(channel) && self.names.is_covered(&self.names.to_redis(channel));
            for channel in hub.channels().iter().filter(|channel| is_meant(channel)) {
                change(&mut self.durables, hub, channel);
            }
        } else if let Some(channel) = self.names.to_channel(name).filter(|channel| self.part.has(channel)) {
            change(&mut self.durables, hub, &channel);
        }
    }

    /// Channels of other servers may have missed what is routed to them from here; those of this one have been told of the outage itself.
    fn tell_missed_routed(&self, hub: &mut Hub) {
        let comes_to = |channel: &str, route: &Route| route.to.fits(channel) || route.otherwise.as_deref() == Some(channel);
        hub.missed_in(|channel| !self.part.has(channel) && self.routes.iter().any(|route| comes_to(channel, route)));
    }

    pub fn readiness(&self) -> Readiness {
        let revocations = self.revocations.as_ref().map(Revocations::channel);
        let refused = self.refused_among(self.own_names().chain(revocations));
        match self.subscriptions.readiness() {
            // Messages flow without.
            Readiness::RefusedForGood if refused > 0 && self.subscriptions.refused_count() == refused => Readiness::Ready,
            readiness => readiness,
        }
    }

    /// Names that are no channel's, and that no client misses.
    fn own_names(&self) -> impl Iterator<Item = &str> {
        self.probe.as_ref().map(Probe::redis_channel).into_iter().chain(self.marks_channel.as_deref())
    }

    fn refused_among<'n>(&self, names: impl Iterator<Item = &'n str>) -> usize {
        names.filter(|name| self.subscriptions.standing(name) == Standing::Refused).count()
    }

    /// What a probe has told, where one can be sent: its own channel must come.
    pub fn probed(&mut self, now: MonotonicNs) -> Option<&Verdict> {
        let is_refused = self.standing_of_probe(self.probe.as_ref()?) == Standing::Refused;
        self.probe.as_mut().filter(|_| !is_refused).map(|probe| probe.verdict(now))
    }

    /// When the next one is to be sent, or the last one looked at. `is_sendable`: the connection for it stands.
    pub fn probe_deadline(&self, is_sendable: bool) -> Option<MonotonicNs> {
        let probe = self.probe.as_ref()?;
        probe.deadline(is_sendable && self.standing_of_probe(probe) == Standing::Subscribed)
    }

    fn standing_of_probe(&self, probe: &Probe) -> Standing {
        self.subscriptions.standing(self.pattern.as_deref().unwrap_or(probe.redis_channel()))
    }

    /// Sends a probe when it is time, on the connection on which streams are read.
    pub fn write_probe(&mut self, link: &mut Link, now: MonotonicNs) {
        let is_subscribed = self.probe.as_ref().is_some_and(|probe| self.standing_of_probe(probe) == Standing::Subscribed);
        if is_subscribed && let Some(probe) = &mut self.probe {
            probe.write(link, now);
        }
    }

    /// Whether one is sent on the connection of publishes.
    pub fn has_plain_probe(&self) -> bool {
        self.probe.as_ref().is_some_and(Probe::is_plain)
    }

    /// How many Redis names are refused for good that somebody misses.
    pub fn refused_count(&self) -> usize {
        self.subscriptions.refused_count() - self.refused_among(self.own_names())
    }

    /// How Redis last refused something.
    pub fn refusal(&self) -> &str {
        &self.refusal
    }

    /// Asks again for what was refused, when it is time: soon for what will pass by itself, slowly for what an operator has to change.
    pub fn retry(&mut self, now: MonotonicNs) {
        if !self.subscriptions.has_postponed() {
            (self.retry_postponed_at, self.postponements) = (None, 0);
        } else if self.retry_postponed_at.is_none_or(|due| now >= due) {
            if self.retry_postponed_at.is_some() {
                self.subscriptions.retry_postponed();
            }
            self.postponements = POSTPONED_DOUBLINGS_MAX.min(self.postponements + 1);
            self.retry_postponed_at = Some(now + self.timing.pause_ns(self.postponements));
        }
        if self.subscriptions.refused_count() == 0 {
            self.retry_refused_at = None;
        } else if self.retry_refused_at.is_none_or(|due| now >= due) {
            if self.retry_refused_at.is_some() {
                self.subscriptions.retry_refused();
            }
            self.retry_refused_at = Some(now + nanos(self.timing.refused_retry));
        }
    }

    pub fn deadline(&self) -> Option<MonotonicNs> {
        let durables = self.durables.deadline();
        let revocations = self.revocations.as_ref().and_then(Revocations::deadline);
        [self.retry_postponed_at, self.retry_refused_at, revocations, durables].into_iter().flatten().min()
    }

    pub fn send(&mut self, publisher: &mut Link, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        let name = self.names.to_redis(&publish.channel);
        let rule = hub.rule_of(&publish.channel);
        let is_durable = rule.durable;
        if is_durable {
            self.durables.publish(publisher, &publish, (self.names.publish_command(), &name), rule, now);
        } else if publish.idempotency_key.is_some() {
            return hub.published(publish, Err(PublishError::NotDurable));
        } else {
            publisher.ask(Asked::Publish, &[self.names.publish_command(), name.as_bytes(), &publish.payload], now);
        }
        // One that gets its number from Redis need not be watched for.
        let is_flowing = !is_durable && hub.is_flowing(&publish.channel);
        let message_bytes = self.message_bytes(&publish);
        self.publishes.sent(publish, message_bytes, is_flowing);
    }

    /// What Redis has to keep for each subscriber.
    pub fn message_bytes(&self, publish: &Publish) -> usize {
        self.names.redis_bytes_max(&publish.channel) + publish.payload.len() + MESSAGE_BYTES
    }
}

/// Its messages come. Where its rule says so, a stream counts them; Pub/Sub counts nothing.
fn flows(durables: &mut Durables, hub: &mut Hub, channel: &str) {
    if hub.rule_of(channel).durable {
        durables.begin(hub, channel);
    } else {
        hub.flowing(channel, Start::Fresh);
    }
}
