//! What flows through the node: messages get their numbers here, and go to the shards that are interested. Which channels there are is
//! the [`Registry`]'s, what is on its way to shards the [`Delivery`]'s; history is kept between both. Driven by [`super::subscriber`], fed by an
//! [`super::upstream::Upstream`].
//!
//! Invariants: numbers of a channel are handed out without holes, and every number reaches each shard that has joined, in order, as a
//! message or within a gap, unless its inbox was full (of messages or of bytes): then that is counted and a `Head` follows. No batch before its `Joined`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::busiest::Busiest;
use super::delivery::Delivery;
use super::flow::{Count, Counter, Flow, Onward, Start};
use super::history::Histories;
use super::lane::News;
use super::question::{Answer, Asker, Publish, PublishError, Published, ReplyTo};
use super::registry::{ChannelId, Entry, Interest, Registry, Request};
use super::settings::HubSettings;
use super::{ChannelInfo, ChannelPage, Creator, JoinRefusal, ShardMessage, ShardSender};
use crate::clock::MonotonicNs;
use crate::config::routes::Unrouted;
use crate::config::{ChannelRule, Mismatch};
use crate::fanout::batch::{Batch, BatchBuilder};
use crate::fanout::naming::ChannelName;
use crate::fanout::topics::TopicToken;
use crate::limits::bus::SWEEP_CHANNELS;
use crate::metrics::BusMetrics;
use crate::sys;
use crate::wire::event::GapReason;
use crate::wire::payload::{Expect, Looked};

mod asides;
mod attendance;
mod joining;
mod paging;
mod routing;
mod telling;
mod watching;

use attendance::Attendance;
pub use paging::PageEntry;
use routing::Routing;
use telling::Telling;

/// A full inbox is tried again after this long, or at the next flush.
pub const RETRY_NS: u64 = 2_000_000;
/// How often history is looked through for what is too old.
const SWEEP_NS: u64 = 250_000_000;

/// When a message came in.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    pub received: MonotonicNs,
    pub timestamp_ms: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Numbered(Published),
    /// The channel does not flow (yet).
    Unwanted,
    /// Larger than `payload_bytes_max`; a gap of one number (`dropped`) stands for it.
    TooBig,
    /// Its channel's messages go to others, and this one has, as far as they are served here.
    Routed,
    /// The same, but it names none.
    Unrouted(Unrouted),
    /// Not what `payload` says, and the rule says drop: not a message of this channel, so it gets no number and leaves no gap.
    Mismatched(Expect),
}

#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    metrics: Arc<BusMetrics>,
    registry: Registry,
    delivery: Delivery,
    /// The newest moment that a caller told.
    now: MonotonicNs,
    sweep_at: MonotonicNs,
    sweep_from: usize,
    has_history: bool,
    histories: Histories,
    routing: Routing,
    telling: Telling,
    attendance: Attendance,
    /// Only while somebody watches.
    busiest: Option<Box<Busiest>>,
}

impl Hub {
    pub fn new(settings: HubSettings, metrics: Arc<BusMetrics>, shards: Vec<ShardSender>) -> Hub {
        Hub {
            registry: Registry::new(&settings),
            delivery: Delivery::new(shards, settings.inbox_messages, settings.inbox_bytes_total),
            routing: Routing::new(&settings.routes),
            attendance: Attendance::new(settings.has_other_nodes),
            has_history: settings.has_history(),
            settings,
            metrics,
            now: 0,
            sweep_at: 0,
            sweep_from: 0,
            histories: Histories::default(),
            telling: Telling::default(),
            busiest: None,
        }
    }

    /// Other rules and bounds. Channels that are there go by them as [`Hub::take_over_rules`] comes by.
    pub fn reload(&mut self, settings: HubSettings) {
        // What was kept goes when it is too old by the new rules.
        self.has_history |= settings.has_history();
        self.registry.reload(&settings);
        self.settings = settings;
    }

    /// True: some channels still go by rules of before a reload.
    pub fn take_over_rules(&mut self) -> bool {
        let Hub { registry, attendance, .. } = self;
        registry.take_over_rules(|id, entry| attendance.note(id, entry))
    }

    /// The shards take nothing in before the bus's turn is over.
    pub fn set_in_step(&mut self) {
        self.delivery.set_in_step();
    }

    /// Whether nothing more should be taken in from the upstream in this turn: the shards it is for have to take in what is there, or what was routed has
    /// cost enough.
    #[inline]
    pub fn is_ahead(&self) -> bool {
        self.delivery.is_ahead() || self.routing.is_spent()
    }

    pub fn metrics(&self) -> &BusMetrics {
        &self.metrics
    }

    pub fn payload_bytes_max(&self) -> usize {
        self.settings.payload_bytes_max
    }

    pub fn set_ready(&self, is_ready: bool) {
        self.metrics.ready.set(u64::from(is_ready));
    }

    // Interest.

    /// How many messages a second clients may publish to a channel.
    pub fn publishes_per_second(&self, name: &str) -> Option<usize> {
        self.registry.rule_of(name).publishes_per_second
    }

    /// What the upstream is to be told next.
    pub fn next_request(&mut self) -> Option<Request> {
        self.registry.next_request()
    }

    // Flow.

    #[inline]
    pub fn find(&mut self, name: &str) -> Option<ChannelId> {
        self.registry.find(name)
    }

    /// How far it has been counted; None: it has not flowed.
    pub fn count_of(&mut self, name: &str) -> Option<Count> {
        self.find(name).and_then(|id| self.registry[id].count())
    }

    /// The rule of a channel, whether it is here or not.
    pub fn rule_of(&self, name: &str) -> &ChannelRule {
        self.registry.rule_of(name)
    }

    /// Whether messages of this channel are numbered as they come.
    pub fn is_flowing(&mut self, name: &str) -> bool {
        self.find(name).is_some_and(|id| self.registry[id].flow == Flow::Flowing)
    }

    /// Whether its messages come at all, as they are or held back behind those that were missed.
    pub fn comes(&mut self, name: &str) -> bool {
        self.find(name).is_some_and(|id| self.registry[id].flow.takes_messages())
    }

    /// More than the highest slot of a channel.
    pub fn slots(&self) -> usize {
        self.registry.slots()
    }

    /// The next channel in these slots whose messages do not come, of those that are meant; the range goes on behind it.
    pub fn next_still(&self, slots: &mut Range<usize>, is_meant: impl Fn(&str) -> bool) -> Option<&str> {
        let next = |slot| self.registry.get(slot).filter(|entry| !entry.flow.takes_messages() && is_meant(entry.name()));
        slots.find_map(next).map(|entry| &**entry.name())
    }

    /// The upstream confirms that messages of the channel come from now on, and says where its numbers go on. Answers the joins that wait; whoever
    /// has the channel is told what was missed: nothing, if the source counts and has given no other number meanwhile.
    pub fn flowing(&mut self, name: &str, start: Start) {
        let Some(id) = self.find(name) else { return };
        let entry = &mut self.registry[id];
        if std::mem::replace(&mut entry.flow, Flow::Flowing) == Flow::Flowing && start == Start::Fresh {
            return;
        }
        match start.onward(entry.count()) {
            Onward::Next => {}
            Onward::Behind { to } => self.announce_lost(id, to, GapReason::Outage, self.now),
            Onward::Anew(count) => self.renumber(id, count),
        }
        self.tell_joined(id);
    }

    /// The same where nobody but the hub counts, whoever did before: numbers of a channel that was durable until a reload are not ours to go on with.
    pub fn flowing_fresh(&mut self, name: &str) {
        if let Some(Count { by: Counter::Source, .. }) = self.count_of(name) {
            self.interrupt_channel(name);
        }
        self.flowing(name, Start::Fresh);
    }

    /// The upstream is catching up with a channel: it will say [`Hub::flowing`] when it has, and hands in what was missed before.
    pub fn repairing(&mut self, name: &str) {
        if let Some(id) = self.find(name) {
            self.registry[id].flow = Flow::Repairing;
        }
    }

    /// Of a channel whose source counts, the numbers up to `to` will not come: those that its source has no more.
    pub fn lose(&mut self, name: &str, to: u64, reason: GapReason) {
        if let Some(id) = self.find(name)
            && let Some(Count { seq, by: Counter::Source, .. }) = self.registry[id].count()
            && seq < to
        {
            self.announce_lost(id, to, reason, self.now);
        }
    }

    /// The channel is counted otherwise from now on. What was counted before is no use to anybody.
    fn renumber(&mut self, id: ChannelId, count: Count) {
        self.seal(id, self.now);
        let entry = &mut self.registry[id];
        if let Some(history) = &mut entry.history {
            self.histories.drop_all(history);
            self.keep_history_budget();
        }
        let entry = &mut self.registry[id];
        self.attendance.renumber(entry.channel());
        entry.set_count(count);
        for interest in entry.interest.iter().filter(|interest| interest.is_answered) {
            let message = entry.message(News::Renumbered, interest.topic, &self.histories);
            self.delivery.tell(interest.shard, interest.topic, id, News::Renumbered, message);
        }
    }

    /// The upstream does not let us have the channel, and will not before an operator changes that. Whoever waits for it is told so; whoever has
    /// it gets one number for what will be missed, if numbers are ours to spend, and goes on when it flows again.
    pub fn refuse(&mut self, name: &str) {
        let Some(id) = self.find(name) else { return };
        let entry = &mut self.registry[id];
        if std::mem::replace(&mut entry.flow, Flow::Refused) == Flow::Refused {
            return;
        }
        if let Some(Count { seq, by: Counter::Hub, .. }) = entry.count() {
            self.announce_lost(id, seq + 1, GapReason::Refused, self.now);
        }
        let (entry, delivery) = (&mut self.registry[id], &mut self.delivery);
        let was_heard = !entry.interest.is_empty();
        entry.interest.retain(|interest| {
            let has_joined = delivery.has_joined(interest);
            if !has_joined {
                delivery.forget(interest.shard, interest.topic);
                delivery.reply(interest.shard, ShardMessage::Refused { topic: interest.topic, refusal: JoinRefusal::NotAllowed });
            }
            has_joined
        });
        if was_heard && entry.interest.is_empty() {
            self.registry.unhear(id, self.now);
        }
    }

    /// Their names.
    pub fn channels(&self) -> Vec<ChannelName> {
        self.registry.iter().map(|entry| entry.name().clone()).collect()
    }

    /// The upstream is lost: nothing flows of the channels that are meant. What came in before is handed out at the next flush.
    pub fn interrupt(&mut self, is_meant: impl Fn(&str) -> bool) {
        for entry in self.registry.iter_mut() {
            if entry.flow.takes_messages() && is_meant(entry.name()) {
                entry.flow = Flow::Awaited;
            }
        }
    }

    /// Of the channels that are meant something may have been missed that comes to them another way than their own. Where it flows and numbers are ours to
    /// spend, one stands for it.
    pub fn missed_in(&mut self, is_meant: impl Fn(&str) -> bool) {
        for slot in 0..self.registry.slots() {
            let Some(entry) = self.registry.get(slot) else { continue };
            if let Some(Count { seq, by: Counter::Hub, .. }) = entry.count()
                && entry.flow == Flow::Flowing
                && is_meant(entry.name())
            {
                self.announce_lost(slot as ChannelId, seq + 1, GapReason::Outage, self.now);
            }
        }
    }

    /// [`Hub::interrupt`] for one channel.
    pub fn interrupt_channel(&mut self, name: &str) {
        if let Some(id) = self.find(name)
            && let entry = &mut self.registry[id]
            && entry.flow.takes_messages()
        {
            entry.flow = Flow::Awaited;
        }
    }

    /// A message came in that no channel here wants.
    pub fn count_unwanted(&self, payload_bytes: usize) {
        self.count(payload_bytes);
        self.metrics.unwanted.inc();
    }

    /// A message came in that comes another way as well.
    pub fn count_received(&self, payload_bytes: usize) {
        self.count(payload_bytes);
    }

    /// A message came in by a server that does not have its channel.
    pub fn count_misplaced(&self, payload_bytes: usize) {
        self.count(payload_bytes);
        self.metrics.misplaced.inc();
    }

    /// A message came in on a channel whose name no client could write.
    pub fn count_misnamed(&self, payload_bytes: usize) {
        self.count(payload_bytes);
        self.metrics.dropped.inc();
    }

    fn count(&self, payload_bytes: usize) {
        self.metrics.messages.inc();
        self.metrics.bytes.add(payload_bytes as u64);
    }

    /// Numbers a message and puts it into the channel's open batch.
    pub fn message(&mut self, id: ChannelId, payload: &[u8], receipt: Receipt) -> Outcome {
        self.count(payload.len());
        self.put(id, payload, receipt, &mut Looked::default())
    }

    /// The same with one that is counted. `looked`: what is known of its payload.
    fn put(&mut self, id: ChannelId, payload: &[u8], receipt: Receipt, looked: &mut Looked) -> Outcome {
        let entry = &mut self.registry[id];
        if entry.channel().is_none() || !entry.flow.takes_messages() {
            self.metrics.unwanted.inc();
            return Outcome::Unwanted;
        }
        if payload.len() > self.settings.payload_bytes_max {
            self.metrics.dropped.inc();
            let number = entry.seq + 1;
            self.announce_lost(id, number, GapReason::Dropped, receipt.received);
            return Outcome::TooBig;
        }
        let (kind, is_expected) = looked.at(payload, entry.rule.payload);
        if !is_expected {
            match entry.rule.mismatch {
                Mismatch::Opaque => self.metrics.mismatched.inc(),
                Mismatch::Drop => {
                    self.metrics.dropped.inc();
                    return Outcome::Mismatched(entry.rule.payload);
                }
            }
        }
        if self.delivery.is_full_for(entry.open, payload.len()) {
            self.seal(id, receipt.received);
        }
        let Entry { naming, open, seq, .. } = &mut self.registry[id];
        let channel = naming.channel().expect("it takes messages");
        let batch = self.delivery.open(open, id, payload.len(), || BatchBuilder::new(channel.clone(), *seq + 1));
        batch.push(kind, payload, receipt.received, receipt.timestamp_ms);
        *seq += 1;
        Outcome::Numbered(Published::at(channel.epoch, *seq))
    }

    /// The numbers up to `to` stand for messages that are lost, so that nobody takes the channel for complete.
    fn announce_lost(&mut self, id: ChannelId, to: u64, reason: GapReason, now: MonotonicNs) {
        self.seal(id, now);
        let entry = &mut self.registry[id];
        let from = entry.seq + 1;
        entry.seq = to;
        let gap = Batch::gap(entry.channel().expect("it has numbers"), from, to, reason);
        self.deliver(id, gap, now);
    }

    // Delivery.

    /// Hands out everything, tries again what did not fit before, and wakes each shard that got something once.
    pub fn flush(&mut self, now: MonotonicNs) {
        self.now = now;
        // Answers first, or a shard whose inbox the batches keep full would never hear them.
        let (registry, histories) = (&self.registry, &self.histories);
        self.delivery.retry(|id, topic, news| registry[id].message(news, topic, histories));
        let mut place = 0;
        while let Some((next, id)) = self.delivery.next_open(place) {
            self.seal(id, now);
            place = next + 1;
        }
        self.delivery.sealed_all();
        self.delivery.wake();
        self.routing.begin_turn();
    }

    /// How many times a shard was woken, ever.
    pub fn wakes(&self) -> u64 {
        self.delivery.wakes()
    }

    /// Hands out the channel's open batch, if it has one.
    fn seal(&mut self, id: ChannelId, now: MonotonicNs) {
        if let Some(batch) = self.delivery.seal(&mut self.registry[id].open) {
            self.deliver(id, batch, now);
        }
    }

    fn deliver(&mut self, id: ChannelId, batch: Arc<Batch>, now: MonotonicNs) {
        self.note_busy(&batch);
        let entry = &mut self.registry[id];
        entry.sealed = batch.end() - 1;
        self.metrics.batches.inc();
        self.metrics.inbox_full.add(self.delivery.hand_out(&entry.interest, &batch));
        // What the journal keeps need not be kept twice, and need not keep the channel.
        if entry.rule.history_count > 0 && !(entry.rule.durable && self.settings.history_keeps_channels) {
            self.histories.push(entry.history.get_or_insert_default(), id, batch, now, &entry.rule);
            self.keep_history_budget();
        }
    }

    /// Drops the oldest batches of all until the histories fit their bound, and sets the gauge. To be called after every change.
    fn keep_history_budget(&mut self) {
        while let Some(id) = self.histories.beyond(self.settings.history_bytes_total) {
            let history = self.registry[id].history.as_mut().expect("what is kept belongs to a channel");
            let messages = self.histories.drop_oldest(history);
            self.metrics.history_dropped.add(messages as u64);
        }
        self.metrics.history_bytes.set(self.histories.bytes() as u64);
    }

    /// Tells every shard that waits for this channel, or notes it for when there is room.
    fn tell_joined(&mut self, id: ChannelId) {
        let entry = &mut self.registry[id];
        if let Some(history) = &mut entry.history {
            self.histories.prune(history, self.now, &entry.rule);
            self.keep_history_budget();
        }
        let entry = &mut self.registry[id];
        for index in 0..entry.interest.len() {
            let interest = &mut entry.interest[index];
            if !std::mem::replace(&mut interest.is_answered, true) {
                let (shard, topic) = (interest.shard, interest.topic);
                self.delivery.tell(shard, topic, id, News::Joined, entry.message(News::Joined, topic, &self.histories));
            }
        }
    }

    // Time.

    /// Forgets channels whose linger is over and history that is too old; hands out what is due.
    pub fn expire(&mut self, now: MonotonicNs) {
        self.now = now;
        while let Some((due, id)) = self.registry.next_due()
            && due <= now
        {
            if self.settings.history_keeps_channels && self.registry[id].history.as_ref().is_some_and(|history| !history.is_empty()) {
                // Looked at once per linger, with a floor, or a linger of 0 would spin here.
                self.registry.look_again_at(id, now.saturating_add(self.settings.linger_ns.max(SWEEP_NS)));
            } else {
                self.forget(id);
            }
        }
        self.tell_marks(now);
        self.end_watching(now);
        if self.registry.releases_memory(now) {
            sys::release_free_memory();
        }
        if self.has_history && now >= self.sweep_at {
            self.sweep_at = now + SWEEP_NS;
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: MonotonicNs) {
        let slots = self.registry.slots();
        for _ in 0..slots.min(SWEEP_CHANNELS) {
            self.sweep_from = (self.sweep_from + 1) % slots;
            let Some(entry) = self.registry.get_mut(self.sweep_from) else { continue };
            let Some(history) = &mut entry.history else { continue };
            self.histories.prune(history, now, &entry.rule);
        }
        // Shards may have had more formats encoded since.
        self.keep_history_budget();
    }

    /// When [`Hub::flush`] and [`Hub::expire`] are to be called even if nothing comes in.
    pub fn deadline(&self, now: MonotonicNs) -> Option<MonotonicNs> {
        let retry = self.delivery.has_backlog().then_some(now + RETRY_NS);
        let linger = self.registry.next_due().map(|(due, _)| due);
        let sweep = (!self.histories.is_empty()).then_some(self.sweep_at);
        [retry, linger, sweep, self.registry.release_due(), self.telling.deadline()].into_iter().flatten().min()
    }

    // Answers.

    /// Whether every shard that listens to the channel has room for a message of one of our own publishers. Without it the publisher waits,
    /// instead of costing others a gap.
    pub fn has_room_for(&mut self, name: &str, payload_bytes: usize) -> bool {
        if self.is_routed(name) {
            return self.has_room_for_routed(payload_bytes);
        }
        let Some(id) = self.find(name) else { return true };
        self.delivery.has_room_for(&self.registry[id].interest, payload_bytes)
    }

    /// Answers a publish.
    pub fn published(&mut self, publish: Publish, result: Result<Published, PublishError>) {
        match result {
            Ok(_) => self.metrics.published.inc(),
            Err(_) => self.metrics.publish_errors.inc(),
        }
        self.answer(publish.asker, Answer::Published { channel: publish.channel, result });
    }

    /// Answers a question, once.
    pub fn answer(&mut self, asker: Asker, answer: Answer) {
        match asker {
            Asker::Client(ReplyTo { shard, conn, id }) => self.delivery.reply(shard, ShardMessage::Answer { conn, id, answer }),
            // The request may have been given up; then nobody wants to know.
            Asker::Control(sender) => drop(sender.send(answer)),
        }
    }

    /// Whether so many replies wait for a shard that no more commands should be taken.
    pub fn is_clogged(&self) -> bool {
        self.delivery.is_clogged()
    }

    /// Up to `limit` channels from slot `from` on.
    pub fn list(&self, from: usize, limit: usize) -> ChannelPage {
        let mut channels = Vec::new();
        for slot in from..self.registry.slots() {
            let Some(entry) = self.registry.get(slot) else { continue };
            if channels.len() == limit {
                return ChannelPage { channels, next: Some(slot) };
            }
            channels.push(ChannelInfo {
                name: entry.name().to_string(),
                epoch: entry.channel().map(|channel| channel.epoch),
                seq: entry.seq,
                subscribers: entry.channel().map_or(0, |channel| channel.subscribers.load(Relaxed)),
                history_messages: entry.history.as_ref().map_or(0, |history| self.histories.messages(history)),
            });
        }
        ChannelPage { channels, next: None }
    }

    /// Every shard is to be told `Stop`, after what is already on its way.
    pub fn stop(&mut self) {
        self.delivery.stop();
    }

    /// Whether every shard was told everything.
    pub fn is_drained(&self) -> bool {
        self.delivery.is_drained()
    }
}

impl Entry {
    /// As of now: batches sealed later follow, the open one among them.
    fn message(&self, news: News, topic: TopicToken, histories: &Histories) -> ShardMessage {
        let channel = self.channel().expect("there is no news of a channel that has not flowed").clone();
        match news {
            News::Joined => {
                let history = self.history.as_ref().map_or_else(Vec::new, |history| histories.batches(history));
                ShardMessage::Joined { topic, channel, seq: self.sealed, history }
            }
            News::Renumbered => ShardMessage::Renumbered { topic, channel, seq: self.sealed },
        }
    }
}

#[cfg(test)]
mod tests;
