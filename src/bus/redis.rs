//! The bus through one Redis server: Pub/Sub on one connection, PUBLISH on a second one that is opened when first needed.
//!
//! Names: a Redis channel listed in `redis_channels` is a channel of the same name; all others carry the prefix, which clients do not see.
//! When the subscribed connection is lost, every channel that flowed gets one number for what was missed as soon as it flows again.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::bail;
use mio::event::Event;
use mio::{Registry, Token, Waker};

use super::hub::{Hub, Outcome, Receipt};
use super::link::{Fault, Link, Timing, nanos, text_of};
use super::output_limit::{self, OutputLimit};
use super::publishes::{Answer, Publishes};
use super::resp::{Reply, write_command};
use super::subscriptions::Subscriptions;
use super::target::Target;
use super::upstream::{FIRST_TOKEN, Upstream};
use super::{PUBLISHES_MAX, Publish, PublishError};
use crate::config::{RedisSubscribe, Settings};
use crate::fanout::batch::{Channel, MonotonicNs};
use crate::sys;
use crate::wire::upgrade::check_channel_name;

/// Bytes read in one turn before they are handed out and commands are served.
const TURN_BYTES: usize = 1024 * 1024;
/// Commands are written only while fewer bytes wait to leave.
const OUT_BYTES: usize = 64 * 1024;
/// The largest value taken from Redis, whatever `payload_bytes_max` says: larger payloads are read, dropped and announced.
const VALUE_BYTES_MIN: usize = 64 * 1024 * 1024;
/// How often channels that Redis refused are asked for again.
const REFUSED_RETRY_NS: u64 = 5_000_000_000;

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
    timing: Timing,
    retry_refused_at: Option<MonotonicNs>,
}

#[derive(Debug)]
struct LinkParts {
    target: Arc<Target>,
    registry: Arc<Registry>,
    waker: Arc<Waker>,
    timing: Timing,
    value_bytes_max: usize,
}

/// How much may be published at once.
#[derive(Debug)]
struct Outlet {
    limit: OutputLimit,
    /// Redis was asked for it, or cannot be asked.
    was_asked: bool,
    /// Its answer is the next one on the publishing connection.
    is_due: bool,
    /// Under way at once. What comes back goes into the shards' inboxes: at most half of one ([`super::lane::Lane::has_room_for`] leaves it free).
    publishes_max: usize,
    bytes_max: usize,
}

/// What the replies on the subscribed connection are about.
#[derive(Debug)]
struct Feed {
    names: Names,
    mode: Mode,
    publishes: Publishes,
    /// Pongs received on this connection.
    pongs: u64,
    has_warned_of_refusal: bool,
}

#[derive(Debug)]
enum Mode {
    Exact(Subscriptions),
    /// Commands that are not confirmed yet; None while there is no connection.
    Pattern {
        unconfirmed: Option<usize>,
    },
}

/// How Redis channels and channels are named after each other.
#[derive(Debug)]
struct Names {
    prefix: String,
    redis_channels: HashSet<String>,
}

/// For the log: one line when the connection is lost, one when it is back, one for each new reason in between.
#[derive(Debug)]
struct Health {
    down_since: Option<MonotonicNs>,
    was_ever_up: bool,
    reasons: Vec<String>,
}

impl RedisBus {
    /// A URL that cannot be used is an error; a server that cannot be reached is not.
    pub fn new(url: &str, settings: &Settings, timing: Timing, registry: Registry, waker: Arc<Waker>) -> anyhow::Result<RedisBus> {
        let target = Arc::new(Target::from_url(url)?);
        let names = Names::new(settings)?;
        let value_bytes_max = settings.payload_bytes_max.saturating_add(64 * 1024).max(VALUE_BYTES_MIN);
        let parts = LinkParts { target, registry: Arc::new(registry), waker, timing, value_bytes_max };
        let mode = match settings.redis_subscribe {
            RedisSubscribe::Exact => Mode::Exact(Subscriptions::default()),
            RedisSubscribe::Pattern => Mode::Pattern { unconfirmed: None },
        };
        Ok(RedisBus {
            link: parts.link(0),
            publisher: None,
            make_publisher: parts,
            publisher_fault: None,
            outlet: Outlet {
                limit: OutputLimit::default(),
                was_asked: false,
                is_due: false,
                publishes_max: PUBLISHES_MAX.min(settings.inbox_messages / 2).max(1),
                bytes_max: settings.inbox_bytes_total / settings.shards / 2,
            },
            feed: Feed { names, mode, publishes: Publishes::default(), pongs: 0, has_warned_of_refusal: false },
            health: Health { down_since: Some(sys::monotonic_ns()), was_ever_up: false, reasons: Vec::new() },
            timing,
            retry_refused_at: None,
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
            while let Some(reply) = self.link.next_reply()? {
                self.feed.take(hub, reply, receipt)?;
            }
            if bytes >= TURN_BYTES {
                break;
            }
            let Some(count) = self.link.fill(now)? else { break };
            bytes += count;
        }
        if let Mode::Exact(subscriptions) = &mut self.feed.mode {
            match self.retry_refused_at {
                None if subscriptions.has_refused() => self.retry_refused_at = Some(now + REFUSED_RETRY_NS),
                Some(due) if due <= now => {
                    subscriptions.retry_refused();
                    self.retry_refused_at = None;
                }
                _ => {}
            }
        }
        if self.health.down_since.is_some() && self.feed.is_complete() {
            self.health.up(&self.make_publisher.target, now);
            hub.set_ready(true);
        }
        Ok(())
    }

    fn connected(&mut self, hub: &Hub, now: MonotonicNs) {
        hub.metrics().connects.inc();
        self.feed.restart(self.link.out());
        if let Some(publisher) = &mut self.publisher {
            publisher.retry_at_once(now);
        }
        // It may have been lost because the limit was lowered.
        self.outlet.was_asked = false;
    }

    fn lose_subscription(&mut self, hub: &mut Hub, fault: &Fault, now: MonotonicNs) {
        if self.link.is_ready() {
            hub.metrics().disconnects.inc();
        }
        if fault.is_violation {
            hub.metrics().protocol_errors.inc();
        }
        self.health.down(&self.make_publisher.target, &fault.reason, now);
        hub.set_ready(false);
        hub.interrupt();
        self.link.fail(now);
        self.feed.lose(hub);
        self.retry_refused_at = None;
    }

    fn write_subscription(&mut self) -> Result<(), Fault> {
        loop {
            let mut has_written = false;
            if let Mode::Exact(subscriptions) = &mut self.feed.mode
                && self.link.is_ready()
            {
                while self.link.out_bytes() < OUT_BYTES && subscriptions.write_next(self.link.out()) {
                    has_written = true;
                }
            }
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
            self.outlet.ask(publisher);
        }
        if !publisher.is_ready() {
            return Ok(());
        }
        // One PING serves all publishes that were answered before it is sent.
        let mut fence = None;
        let mut bytes = 0;
        loop {
            while let Some(reply) = publisher.next_reply()? {
                if std::mem::take(&mut self.outlet.is_due) {
                    self.outlet.learn(&reply);
                    continue;
                }
                let refusal = match reply {
                    Reply::Integer(_) => None,
                    Reply::Error(error) => Some(text_of(error)),
                    _ => continue,
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
        if self.feed.publishes.oldest().is_some_and(|sent| now >= sent + nanos(self.timing.answer)) && !publisher.is_readable() {
            return Err(Fault::new(format!("no answer to PUBLISH within {:?}", self.timing.answer)));
        }
        Ok(())
    }

    fn lose_publisher(&mut self, hub: &mut Hub, fault: &Fault, now: MonotonicNs) {
        let Some(publisher) = &mut self.publisher else { return };
        if publisher.is_ready() {
            hub.metrics().disconnects.inc();
        }
        if fault.is_violation {
            hub.metrics().protocol_errors.inc();
        }
        // When Redis itself is away, the subscribed connection says so; this is for when only publishing fails.
        if !publisher.is_ready() && self.link.is_ready() && self.publisher_fault.as_ref() != Some(fault) {
            tracing::warn!("publishing through {} does not work: {fault}. Trying again until it does", self.make_publisher.target);
            self.publisher_fault = Some(fault.clone());
        }
        publisher.fail(now);
        self.outlet.is_due = false;
        for (publish, result) in self.feed.publishes.connection_lost() {
            hub.answer(publish.reply, publish.channel, result);
        }
    }

    /// Asks how much Redis keeps for subscribers, while nothing else is to be answered.
    fn ask_limit(&mut self) {
        if let Some(publisher) = &mut self.publisher
            && publisher.is_ready()
            && !self.outlet.was_asked
            && !self.outlet.is_due
            && !self.feed.publishes.awaits_answer()
        {
            self.outlet.ask(publisher);
        }
    }
}

impl Outlet {
    fn ask(&mut self, publisher: &mut Link) {
        (self.was_asked, self.is_due) = (true, true);
        write_command(publisher.out(), [&b"CONFIG"[..], b"GET", output_limit::PARAMETER.as_bytes()].into_iter());
    }

    /// An error is an answer too: many a server keeps its configuration to itself.
    fn learn(&mut self, reply: &Reply<'_>) {
        self.limit = match reply {
            Reply::Other(answer) => OutputLimit::read(answer).unwrap_or_default(),
            _ => OutputLimit::default(),
        };
    }

    fn has_room_for(&self, publishes: &Publishes, message_bytes: usize) -> bool {
        let window = self.limit.window_bytes().min(self.bytes_max);
        let returning = publishes.returning_bytes();
        !self.is_due && publishes.len() < self.publishes_max && (returning == 0 || returning + message_bytes <= window)
    }
}

impl Upstream for RedisBus {
    fn want(&mut self, hub: &mut Hub, channel: &Arc<Channel>) {
        let is_flowing = match &mut self.feed.mode {
            Mode::Exact(subscriptions) => subscriptions.want(&self.feed.names.to_redis(&channel.name)),
            Mode::Pattern { unconfirmed } => *unconfirmed == Some(0),
        };
        if is_flowing {
            hub.flowing(&channel.name);
        }
    }

    fn unwant(&mut self, _: &mut Hub, channel: &Arc<Channel>) {
        if let Mode::Exact(subscriptions) = &mut self.feed.mode {
            subscriptions.unwant(&self.feed.names.to_redis(&channel.name));
        }
    }

    fn takes(&mut self, publish: &Publish) -> bool {
        if self.publisher.is_none() && self.link.is_ready() {
            self.publisher = Some(self.make_publisher.link(1));
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
        self.ask_limit();
        if let Err(fault) = self.write_subscription() {
            self.lose_subscription(hub, &fault, now);
        }
        if let Some(publisher) = &mut self.publisher
            && let Err(fault) = publisher.flush()
        {
            self.lose_publisher(hub, &fault, now);
        }
    }

    fn deadline(&self) -> Option<MonotonicNs> {
        let publisher = self.publisher.as_ref().map(Link::deadline);
        let answer = self.feed.publishes.oldest().map(|sent| sent + nanos(self.timing.answer));
        [Some(self.link.deadline()), publisher, answer, self.retry_refused_at].into_iter().flatten().min()
    }

    fn stop(&mut self, hub: &mut Hub) {
        let answered = self.feed.publishes.subscription_lost();
        for (publish, result) in answered.into_iter().chain(self.feed.publishes.connection_lost()) {
            hub.answer(publish.reply, publish.channel, result);
        }
    }
}

impl Feed {
    fn take(&mut self, hub: &mut Hub, reply: Reply<'_>, receipt: Receipt) -> Result<(), Fault> {
        match reply {
            Reply::Message { channel, payload } => self.message(hub, channel, payload, receipt),
            Reply::Subscribed { name } => match &mut self.mode {
                Mode::Exact(subscriptions) => {
                    if let Ok(name) = std::str::from_utf8(name)
                        && subscriptions.subscribed(name)
                        && let Some(channel) = self.names.to_channel(name)
                    {
                        hub.flowing(channel);
                    }
                }
                Mode::Pattern { .. } => self.confirm_pattern(hub),
            },
            Reply::PatternSubscribed => self.confirm_pattern(hub),
            Reply::Unsubscribed { name } => {
                if let Mode::Exact(subscriptions) = &mut self.mode
                    && let Ok(name) = std::str::from_utf8(name)
                {
                    subscriptions.unsubscribed(name);
                }
            }
            Reply::Pong => {
                self.pongs += 1;
                while let Some((publish, result)) = self.publishes.pong(self.pongs) {
                    hub.answer(publish.reply, publish.channel, result);
                }
            }
            Reply::Error(error) => {
                let Mode::Exact(subscriptions) = &mut self.mode else { return Err(Fault::refused(error)) };
                let Some(name) = subscriptions.refused() else { return Err(Fault::refused(error)) };
                if let Some(name) = name
                    && !std::mem::replace(&mut self.has_warned_of_refusal, true)
                {
                    tracing::warn!(
                        "Redis does not let us subscribe `{name}`: {}. Its subscribers get nothing until it does; others are not logged",
                        Fault::refused(error)
                    );
                }
            }
            Reply::Okay | Reply::Integer(_) | Reply::Other(_) => hub.metrics().protocol_errors.inc(),
        }
        Ok(())
    }

    #[inline]
    fn message(&mut self, hub: &mut Hub, redis_channel: &[u8], payload: &[u8], receipt: Receipt) {
        let channel = std::str::from_utf8(redis_channel).ok().and_then(|name| self.names.to_channel(name));
        match channel.map(|channel| (channel, hub.find(channel))) {
            Some((channel, Some(id))) => {
                if let Outcome::Numbered(published) = hub.message(id, payload, receipt)
                    && self.publishes.is_watching()
                    && let Some((publish, result)) = self.publishes.seen(channel, payload, published)
                {
                    hub.answer(publish.reply, publish.channel, result);
                }
            }
            Some((channel, None)) if check_channel_name(channel).is_ok() => hub.count_unwanted(payload.len()),
            _ => hub.count_misnamed(payload.len()),
        }
    }

    fn confirm_pattern(&mut self, hub: &mut Hub) {
        if let Mode::Pattern { unconfirmed: Some(unconfirmed) } = &mut self.mode {
            *unconfirmed = unconfirmed.saturating_sub(1);
            if *unconfirmed == 0 {
                hub.all_flowing();
            }
        }
    }

    /// A new connection.
    fn restart(&mut self, out: &mut Vec<u8>) {
        self.pongs = 0;
        self.has_warned_of_refusal = false;
        match &mut self.mode {
            Mode::Exact(subscriptions) => subscriptions.restart(),
            Mode::Pattern { unconfirmed } => {
                let pattern = format!("{}*", glob_escaped(&self.names.prefix));
                write_command(out, [b"PSUBSCRIBE".as_slice(), pattern.as_bytes()].into_iter());
                // An empty prefix covers them: they would come twice.
                let others = self.names.redis_channels.iter().filter(|name| !name.starts_with(&self.names.prefix));
                let names: Vec<&[u8]> = std::iter::once("SUBSCRIBE").chain(others.map(String::as_str)).map(str::as_bytes).collect();
                *unconfirmed = Some(names.len());
                if names.len() > 1 {
                    write_command(out, names.into_iter());
                }
            }
        }
    }

    fn lose(&mut self, hub: &mut Hub) {
        match &mut self.mode {
            // What is wanted from now on must not be taken for subscribed.
            Mode::Exact(subscriptions) => subscriptions.restart(),
            Mode::Pattern { unconfirmed } => *unconfirmed = None,
        }
        for (publish, result) in self.publishes.subscription_lost() {
            hub.answer(publish.reply, publish.channel, result);
        }
    }

    /// Whether everything that was wanted when the connection came up flows.
    fn is_complete(&self) -> bool {
        match &self.mode {
            Mode::Exact(subscriptions) => subscriptions.is_recovered(),
            Mode::Pattern { unconfirmed } => *unconfirmed == Some(0),
        }
    }

    fn send(&mut self, publisher: &mut Link, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        let name = self.names.to_redis(&publish.channel);
        write_command(publisher.out(), [b"PUBLISH".as_slice(), name.as_bytes(), &publish.payload].into_iter());
        let is_flowing = hub.is_flowing(&publish.channel);
        let message_bytes = self.message_bytes(&publish);
        self.publishes.sent(publish, message_bytes, is_flowing, now);
    }

    /// What Redis has to keep for each subscriber.
    fn message_bytes(&self, publish: &Publish) -> usize {
        self.names.prefix.len() + publish.channel.len() + publish.payload.len() + output_limit::MESSAGE_BYTES
    }
}

impl LinkParts {
    fn link(&self, number: usize) -> Link {
        let token = Token(FIRST_TOKEN + number);
        Link::new(self.target.clone(), token, self.registry.clone(), self.waker.clone(), self.timing, self.value_bytes_max)
    }
}

impl Names {
    fn new(settings: &Settings) -> anyhow::Result<Names> {
        let prefix = &settings.prefix;
        if let Some(name) = settings.redis_channels.iter().find(|name| !prefix.is_empty() && name.starts_with(prefix.as_str())) {
            bail!(
                "the Redis channel `{name}` (redis_channels) lies within the prefix `{prefix}`, so it would have two names; \
                 leave it out: clients reach it as `{}`",
                &name[prefix.len()..]
            );
        }
        Ok(Names { prefix: prefix.clone(), redis_channels: settings.redis_channels.iter().cloned().collect() })
    }

    fn to_redis(&self, channel: &str) -> String {
        if self.redis_channels.contains(channel) { channel.to_owned() } else { format!("{}{channel}", self.prefix) }
    }

    /// None: of no channel here. With prefix `n:` and `n` among `redis_channels`, a client's channel `n` is the Redis channel `n` alone: the pattern brings
    /// `n:n` as well, which is none.
    #[inline]
    fn to_channel<'a>(&self, redis_channel: &'a str) -> Option<&'a str> {
        let is_listed = |name: &str| self.redis_channels.contains(name);
        match redis_channel.strip_prefix(self.prefix.as_str()) {
            Some(channel) if self.prefix.is_empty() || !is_listed(channel) => Some(channel),
            Some(_) => None,
            None => is_listed(redis_channel).then_some(redis_channel),
        }
    }
}

impl Health {
    fn down(&mut self, target: &Target, reason: &str, now: MonotonicNs) {
        let is_lost = self.down_since.is_none();
        self.down_since.get_or_insert(now);
        if self.reasons.iter().any(|known| known == reason) {
            return;
        }
        // A handful of reasons is all there is; should they vary without end, the log still does not.
        if self.reasons.len() < 8 {
            self.reasons.push(reason.to_owned());
            let state = if is_lost { "Redis is lost" } else { "Redis cannot be reached" };
            tracing::warn!("{state} ({target}): {reason}. Trying again until it is back");
        }
    }

    fn up(&mut self, target: &Target, now: MonotonicNs) {
        self.reasons.clear();
        let Some(since) = self.down_since.take() else { return };
        if std::mem::replace(&mut self.was_ever_up, true) {
            tracing::info!("Redis is back ({target}) after {:.1} s; every channel is subscribed again", (now - since) as f64 / 1e9);
        } else {
            tracing::info!("connected to {target}");
        }
    }
}

/// The prefix as a glob pattern that matches nothing else.
fn glob_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let names = |prefix: &str| Names { prefix: prefix.into(), redis_channels: ["notifications".to_owned()].into() };
        let prefixed = names("notifications:");
        assert_eq!(prefixed.to_redis("user:1"), "notifications:user:1");
        assert_eq!(prefixed.to_redis("notifications"), "notifications");
        assert_eq!(prefixed.to_channel("notifications:user:1"), Some("user:1"));
        assert_eq!(prefixed.to_channel("notifications"), Some("notifications"));
        assert_eq!(prefixed.to_channel("other"), None);
        assert_eq!(prefixed.to_channel("notifications:notifications"), None, "it would be a second source of one channel");
        let bare = names("");
        assert_eq!(bare.to_redis("a"), "a");
        assert_eq!(bare.to_channel("notifications"), Some("notifications"));
    }

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(glob_escaped("a*b?[c]\\d:"), "a\\*b\\?\\[c\\]\\\\d:");
    }
}
