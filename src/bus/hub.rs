//! What the node knows of channels: numbers, batches under construction, interest of the shards, node history. Sans-IO but for the
//! shards' inboxes, which never block; driven by [`super::subscriber`], fed by an [`super::upstream::Upstream`].
//!
//! Invariants: numbers of a channel are handed out without holes, and every number reaches each shard that has joined, in order, as a
//! message or within a gap, unless its inbox was full (of messages or of bytes): then that is counted and a `Head` follows. No batch before its `Joined`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use smallvec::SmallVec;

use super::history::{Histories, History};
use super::lane::Lane;
use super::lingering::Lingering;
use super::release::Release;
use super::{ChannelInfo, ChannelPage, Creator, JoinRefusal, PublishError, PublishReply, Published, ShardMessage, ShardSender};
use crate::addresses::Source;
use crate::by_name::{ByName, Named};
use crate::clock::{MonotonicNs, nanos};
use crate::config::{ChannelRule, ChannelRules, Mismatch, Settings, SharedRules};
use crate::fanout::batch::{Batch, BatchBuilder, Channel};
use crate::fanout::topics::TopicToken;
use crate::limits::QUEUE_KEPT;
use crate::metrics::BusMetrics;
use crate::sys;
use crate::wire::event::GapReason;
use crate::wire::payload::{Expect, classify};

/// A full inbox is tried again after this long, or at the next flush.
pub const RETRY_NS: u64 = 2_000_000;
/// How often history is looked through for what is too old, and how many channels at a time.
const SWEEP_NS: u64 = 250_000_000;
const SWEEP_CHANNELS: usize = 4096;

const NOT_OPEN: u32 = u32::MAX;

/// A channel's place in the hub; valid until the channel is forgotten.
pub type ChannelId = u32;

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
    /// Not what `payload` says, and the rule says drop: not a message of this channel, so it gets no number and leaves no gap.
    Mismatched(Expect),
}

/// What the upstream is to be told, in this order.
#[derive(Debug)]
pub enum Request {
    Want(Arc<Channel>),
    Unwant(Arc<Channel>),
}

/// The part of the settings that the hub reads.
#[derive(Debug, Clone)]
pub struct HubSettings {
    pub rules: ChannelRules,
    pub linger_ns: u64,
    pub channels_max: usize,
    /// Of them, how many may be heard on behalf of one address.
    pub channels_of_address: usize,
    pub payload_bytes_max: usize,
    /// What a shard's inbox takes.
    pub inbox_messages: usize,
    /// Batches in the inboxes of all shards together.
    pub inbox_bytes_total: usize,
    /// Histories of all channels together.
    pub history_bytes_total: usize,
    /// A channel without listeners lives as long as anything is in its history (embedded bus).
    pub history_keeps_channels: bool,
}

impl From<&Settings> for HubSettings {
    fn from(settings: &Settings) -> Self {
        HubSettings {
            rules: settings.channels.clone(),
            linger_ns: nanos(settings.linger),
            channels_max: settings.channels_max,
            channels_of_address: settings.channels_of_address(),
            payload_bytes_max: settings.payload_bytes_max,
            inbox_messages: settings.inbox_messages,
            inbox_bytes_total: settings.inbox_bytes_total,
            history_bytes_total: settings.history_bytes_total,
            history_keeps_channels: settings.redis.is_none(),
        }
    }
}

#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    rules: SharedRules,
    metrics: Arc<BusMetrics>,
    entries: ByName<Entry>,
    /// How many channels somebody hears on behalf of each address that has any.
    heard_by: HashMap<Source, usize>,
    /// The channel of the last look-up: messages of one channel come in runs.
    last_found: Option<ChannelId>,
    lanes: Vec<Lane>,
    wakes: u64,
    release: Release,
    /// Batches under construction; None: sealed meanwhile.
    open: Vec<Option<(ChannelId, BatchBuilder)>>,
    requests: VecDeque<Request>,
    /// Channels without a listener, by when they are to be looked at ([`Entry::looked_at`]).
    lingering: Lingering,
    /// The newest moment that a caller told.
    now: MonotonicNs,
    sweep_at: MonotonicNs,
    sweep_from: usize,
    has_history: bool,
    histories: Histories,
}

#[derive(Debug)]
struct Entry {
    channel: Arc<Channel>,
    /// Who brought it into being: whoever comes later does not answer for what lingers.
    creator: Creator,
    /// On whose behalf it is heard, while anybody hears it: who was the first.
    heard_for: Source,
    rule: Arc<ChannelRule>,
    flow: Flow,
    /// Last number handed out.
    seq: u64,
    /// Last number in a sealed batch; behind `seq` while a batch is open.
    sealed: u64,
    /// Its place in [`Hub::open`], or [`NOT_OPEN`].
    open: u32,
    interest: SmallVec<[Interest; 1]>,
    /// Somebody was interested once: for that long after the last one left, the channel stays as it is.
    was_heard: bool,
    /// When to look whether it is still to be kept; None while somebody is interested.
    looked_at: Option<MonotonicNs>,
    history: Option<Box<History>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Wanted, never confirmed.
    Wanted,
    Flowing,
    /// It flowed until the upstream was lost.
    Interrupted,
    /// The upstream does not let us have it. `has_flowed`: before, so that there are who count on it.
    Refused {
        has_flowed: bool,
    },
}

#[derive(Debug)]
struct Interest {
    shard: u16,
    topic: TopicToken,
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The channel does not flow yet.
    Waiting,
    /// It flows; `Joined` waits in the shard's lane for room.
    Due,
    /// `lost_to`: last number of a batch that did not fit, until a later one fits or a `Head` is told; 0: none.
    Joined { lost_to: u64 },
}

impl Hub {
    pub fn new(settings: HubSettings, metrics: Arc<BusMetrics>, shards: Vec<ShardSender>) -> Hub {
        let has_history =
            settings.rules.default.history_count > 0 || settings.rules.by_prefix.iter().any(|(_, rule)| rule.history_count > 0);
        let inbox_bytes_max = settings.inbox_bytes_total / shards.len().max(1);
        let inbox_messages = settings.inbox_messages;
        Hub {
            rules: SharedRules::new(&settings.rules),
            settings,
            metrics,
            entries: ByName::default(),
            heard_by: HashMap::new(),
            last_found: None,
            lanes: shards.into_iter().map(|sender| Lane::new(sender, inbox_messages, inbox_bytes_max)).collect(),
            wakes: 0,
            release: Release::default(),
            open: Vec::new(),
            requests: VecDeque::new(),
            lingering: Lingering::default(),
            now: 0,
            sweep_at: 0,
            sweep_from: 0,
            has_history,
            histories: Histories::default(),
        }
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

    /// A shard has its first subscriber of a channel. `Joined` (or `Refused`) follows.
    pub fn join(&mut self, shard: u16, topic: TopicToken, name: impl Into<Arc<str>>, creator: Creator, now: MonotonicNs) {
        self.now = now;
        let name = name.into();
        if self.find(&name).is_some_and(|id| matches!(self.entries[id as usize].flow, Flow::Refused { .. })) {
            return self.lanes[usize::from(shard)].reply(ShardMessage::Refused { topic, refusal: JoinRefusal::NotAllowed });
        }
        let id = match self.heard(name, creator, now) {
            Ok(id) => id,
            Err(refusal) => return self.lanes[usize::from(shard)].reply(ShardMessage::Refused { topic, refusal }),
        };
        let entry = &mut self.entries[id as usize];
        entry.interest.push(Interest { shard, topic, told: Told::Waiting });
        if entry.flow == Flow::Flowing {
            self.tell_joined(id);
        }
    }

    /// The channel of this name, which somebody is to hear from now on; made if need be.
    fn heard(&mut self, name: Arc<str>, creator: Creator, now: MonotonicNs) -> Result<ChannelId, JoinRefusal> {
        let found = self.find(&name);
        if let Some(id) = found
            && !self.entries[id as usize].interest.is_empty()
        {
            return Ok(id);
        }
        let source = creator.source;
        if self.heard_by.get(&source).is_some_and(|&channels| channels >= self.settings.channels_of_address) {
            return Err(JoinRefusal::AddressShare(source));
        }
        let id = match found {
            Some(id) => id,
            None => self.create(name, creator, now).ok_or(JoinRefusal::ChannelsMax)?,
        };
        *self.heard_by.entry(source).or_insert(0) += 1;
        let entry = &mut self.entries[id as usize];
        (entry.heard_for, entry.was_heard) = (source, true);
        if let Some(due) = entry.looked_at.take() {
            self.lingering.remove(id, due, entry.creator);
        }
        Ok(id)
    }

    /// A shard has no subscriber any more. Unknown tokens are ignored: the join was refused.
    pub fn leave(&mut self, shard: u16, topic: TopicToken, name: &str, now: MonotonicNs) {
        let Some(id) = self.find(name) else { return };
        let entry = &mut self.entries[id as usize];
        let Some(index) = entry.interest.iter().position(|interest| interest.shard == shard && interest.topic == topic) else { return };
        entry.interest.swap_remove(index);
        let lane = &mut self.lanes[usize::from(shard)];
        lane.joins.swap_remove(&topic);
        lane.behind.swap_remove(&topic);
        if entry.interest.is_empty() {
            self.unheard(id);
            self.set_idle(id, now);
        }
    }

    fn unheard(&mut self, id: ChannelId) {
        let source = self.entries[id as usize].heard_for;
        let channels = self.heard_by.get_mut(&source).expect("counted when it was first heard");
        *channels -= 1;
        if *channels == 0 {
            self.heard_by.remove(&source);
            if self.heard_by.capacity() > 64 && self.heard_by.len() * 4 < self.heard_by.capacity() {
                self.heard_by.shrink_to(2 * self.heard_by.len());
            }
        }
    }

    fn set_idle(&mut self, id: ChannelId, now: MonotonicNs) {
        let kept_ns = self.kept_ns(&self.entries[id as usize]);
        self.look_at(id, now.saturating_add(kept_ns));
    }

    /// How long a channel that nobody hears stays. One with a history must outlast it, and go on being numbered meanwhile: a client that
    /// is away for that long is promised what it missed, also what comes after it has left.
    fn kept_ns(&self, entry: &Entry) -> u64 {
        let linger_ns = self.settings.linger_ns;
        if entry.was_heard && entry.rule.history_count > 0 { linger_ns.max(nanos(entry.rule.history_age)) } else { linger_ns }
    }

    fn look_at(&mut self, id: ChannelId, due: MonotonicNs) {
        let entry = &mut self.entries[id as usize];
        let before = entry.looked_at.replace(due);
        debug_assert_eq!(before, None, "in the list at most once");
        self.lingering.insert(id, due, entry.creator);
    }

    /// Opens a channel for a message that nobody listens to, if its rule asks for history.
    pub fn open_for_history(&mut self, name: &str, creator: Creator, now: MonotonicNs) -> Option<ChannelId> {
        if self.settings.rules.of(name).history_count == 0 {
            return None;
        }
        let id = self.create(name.into(), creator, now)?;
        self.set_idle(id, now);
        Some(id)
    }

    /// None: `channels_max` is reached and none of them only lingers.
    fn create(&mut self, name: Arc<str>, creator: Creator, now: MonotonicNs) -> Option<ChannelId> {
        while self.entries.len() >= self.settings.channels_max {
            let id = self.lingering.first_to_go()?;
            self.metrics.channels_evicted.inc();
            self.seal(id, now);
            self.forget(id);
        }
        // Below 2^53, so that every JSON reader gets it exactly; drawn anew each time, so a number never names two messages.
        let epoch = fastrand::u64(1..1 << 53);
        let rule = self.rules.of(&name).clone();
        let channel = Arc::new(Channel { name, epoch, subscribers: AtomicU32::new(0) });
        let id = self.entries.insert(Entry {
            channel: channel.clone(),
            creator,
            heard_for: creator.source,
            rule,
            flow: Flow::Wanted,
            seq: 0,
            sealed: 0,
            open: NOT_OPEN,
            interest: SmallVec::new(),
            was_heard: false,
            looked_at: None,
            history: None,
        });
        self.requests.push_back(Request::Want(channel));
        self.count_channels();
        Some(id)
    }

    fn forget(&mut self, id: ChannelId) {
        let mut entry = self.entries.remove(id);
        debug_assert!(entry.interest.is_empty() && entry.open == NOT_OPEN);
        if let Some(due) = entry.looked_at {
            self.lingering.remove(id, due, entry.creator);
        }
        self.last_found = None;
        if let Some(history) = &mut entry.history {
            self.histories.drop_all(history);
            self.keep_history_budget();
        }
        self.requests.push_back(Request::Unwant(entry.channel));
        self.count_channels();
    }

    fn count_channels(&mut self) {
        self.metrics.channels.set(self.entries.len() as u64);
        self.release.note(self.entries.len(), self.now);
    }

    /// What the upstream is to be told next.
    pub fn next_request(&mut self) -> Option<Request> {
        let request = self.requests.pop_front();
        if request.is_none() && self.requests.capacity() > QUEUE_KEPT {
            self.requests = VecDeque::new();
        }
        request
    }

    // Flow.

    #[inline]
    pub fn find(&mut self, name: &str) -> Option<ChannelId> {
        if let Some(id) = self.last_found
            && *self.entries[id as usize].channel.name == *name
        {
            return Some(id);
        }
        let found = self.entries.find(name);
        self.last_found = found.or(self.last_found);
        found
    }

    /// Whether messages of this channel are numbered at the moment.
    pub fn is_flowing(&mut self, name: &str) -> bool {
        self.find(name).is_some_and(|id| self.entries[id as usize].flow == Flow::Flowing)
    }

    /// The upstream confirms that messages of the channel arrive from now on. Answers the joins that wait. After an outage one number
    /// stands for whatever was missed.
    pub fn flowing(&mut self, name: &str) {
        let Some(id) = self.find(name) else { return };
        let entry = &mut self.entries[id as usize];
        match entry.flow {
            Flow::Flowing => return,
            Flow::Wanted | Flow::Refused { has_flowed: false } => entry.flow = Flow::Flowing,
            Flow::Interrupted | Flow::Refused { has_flowed: true } => {
                entry.flow = Flow::Flowing;
                self.announce_gap(id, GapReason::Outage, self.now);
            }
        }
        self.tell_joined(id);
    }

    /// The upstream does not let us have the channel, and will not before an operator changes that. Whoever waits for it is told so; whoever has
    /// it gets one number for what will be missed, and goes on when it flows again.
    pub fn refuse(&mut self, name: &str) {
        let Some(id) = self.find(name) else { return };
        let entry = &mut self.entries[id as usize];
        let has_flowed = match entry.flow {
            Flow::Refused { .. } => return,
            Flow::Wanted => false,
            Flow::Flowing | Flow::Interrupted => true,
        };
        entry.flow = Flow::Refused { has_flowed };
        if has_flowed {
            self.announce_gap(id, GapReason::Refused, self.now);
        }
        let (entry, lanes) = (&mut self.entries[id as usize], &mut self.lanes);
        let was_heard = !entry.interest.is_empty();
        entry.interest.retain(|interest| {
            let lane = &mut lanes[usize::from(interest.shard)];
            let is_told = matches!(interest.told, Told::Joined { .. });
            if !is_told {
                lane.joins.swap_remove(&interest.topic);
                lane.reply(ShardMessage::Refused { topic: interest.topic, refusal: JoinRefusal::NotAllowed });
            }
            is_told
        });
        if was_heard && entry.interest.is_empty() {
            self.unheard(id);
            self.set_idle(id, self.now);
        }
    }

    pub fn channels(&self) -> Vec<Arc<Channel>> {
        self.entries.iter().map(|(_, entry)| entry.channel.clone()).collect()
    }

    /// The upstream is lost: nothing flows. What came in before is handed out at the next flush.
    pub fn interrupt(&mut self) {
        for (_, entry) in self.entries.iter_mut() {
            if entry.flow == Flow::Flowing {
                entry.flow = Flow::Interrupted;
            }
        }
    }

    /// The same for one channel.
    pub fn interrupt_channel(&mut self, name: &str) {
        if let Some(id) = self.find(name)
            && let entry = &mut self.entries[id as usize]
            && entry.flow == Flow::Flowing
        {
            entry.flow = Flow::Interrupted;
        }
    }

    /// A message came in that no channel here wants.
    pub fn count_unwanted(&self, payload_bytes: usize) {
        self.count(payload_bytes);
        self.metrics.unwanted.inc();
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
        let entry = &mut self.entries[id as usize];
        if entry.flow != Flow::Flowing {
            self.metrics.unwanted.inc();
            return Outcome::Unwanted;
        }
        if payload.len() > self.settings.payload_bytes_max {
            self.metrics.dropped.inc();
            self.announce_gap(id, GapReason::Dropped, receipt.received);
            return Outcome::TooBig;
        }
        let (kind, is_expected) = classify(payload, entry.rule.payload);
        if !is_expected {
            match entry.rule.mismatch {
                Mismatch::Opaque => self.metrics.mismatched.inc(),
                Mismatch::Drop => {
                    self.metrics.dropped.inc();
                    return Outcome::Mismatched(entry.rule.payload);
                }
            }
        }
        if let Some(Some((_, open))) = self.open.get(entry.open as usize)
            && open.is_full_for(payload.len())
        {
            self.seal(id, receipt.received);
        }
        let entry = &mut self.entries[id as usize];
        if entry.open == NOT_OPEN {
            entry.open = self.open.len() as u32;
            self.open.push(Some((id, BatchBuilder::new(entry.channel.clone(), entry.seq + 1))));
        }
        let Some((_, open)) = &mut self.open[entry.open as usize] else { unreachable!("a batch that is sealed is not open") };
        open.push(kind, payload, receipt.received, receipt.timestamp_ms);
        entry.seq += 1;
        Outcome::Numbered(Published { epoch: Some(entry.channel.epoch), seq: Some(entry.seq) })
    }

    /// Spends one number on messages that are lost, so that nobody takes the channel for complete.
    fn announce_gap(&mut self, id: ChannelId, reason: GapReason, now: MonotonicNs) {
        self.seal(id, now);
        let entry = &mut self.entries[id as usize];
        entry.seq += 1;
        let gap = Batch::gap(&entry.channel, entry.seq, entry.seq, reason);
        self.deliver(id, gap, now);
    }

    // Delivery.

    /// Hands out everything, tries again what did not fit before, and wakes each shard that got something once.
    pub fn flush(&mut self, now: MonotonicNs) {
        self.now = now;
        // Answers first, or a shard whose inbox the batches keep full would never hear them.
        self.retry();
        for place in 0..self.open.len() {
            if let Some((id, _)) = self.open[place] {
                self.seal(id, now);
            }
        }
        self.open.clear();
        self.open.shrink_to(QUEUE_KEPT);
        self.wakes += self.lanes.iter_mut().map(|lane| u64::from(lane.wake())).sum::<u64>();
    }

    /// How many times a shard was woken, ever.
    pub fn wakes(&self) -> u64 {
        self.wakes
    }

    /// Hands out the channel's open batch, if it has one.
    fn seal(&mut self, id: ChannelId, now: MonotonicNs) {
        let place = std::mem::replace(&mut self.entries[id as usize].open, NOT_OPEN);
        if let Some((_, open)) = self.open.get_mut(place as usize).and_then(Option::take) {
            self.deliver(id, open.seal(), now);
        }
    }

    fn deliver(&mut self, id: ChannelId, batch: Arc<Batch>, now: MonotonicNs) {
        let entry = &mut self.entries[id as usize];
        entry.sealed = batch.end() - 1;
        self.metrics.batches.inc();
        for interest in &mut entry.interest {
            let Told::Joined { lost_to } = &mut interest.told else { continue };
            let lane = &mut self.lanes[usize::from(interest.shard)];
            if lane.push_batch(interest.topic, &batch) {
                if std::mem::take(lost_to) != 0 {
                    // The shard sees the hole by itself.
                    lane.behind.swap_remove(&interest.topic);
                }
            } else {
                self.metrics.inbox_full.add(batch.message_count().max(1) as u64);
                *lost_to = entry.sealed;
                lane.behind.insert(interest.topic, id);
            }
        }
        if entry.rule.history_count > 0 {
            self.histories.push(entry.history.get_or_insert_default(), id, batch, now, &entry.rule);
            self.keep_history_budget();
        }
    }

    /// Drops the oldest batches of all until the histories fit their bound, and sets the gauge. To be called after every change.
    fn keep_history_budget(&mut self) {
        while let Some(id) = self.histories.beyond(self.settings.history_bytes_total) {
            let history = self.entries[id as usize].history.as_mut().expect("what is kept belongs to a channel");
            let messages = self.histories.drop_oldest(history);
            self.metrics.history_dropped.add(messages as u64);
        }
        self.metrics.history_bytes.set(self.histories.bytes() as u64);
    }

    /// Tells every shard that waits for this channel, or notes it for when there is room.
    fn tell_joined(&mut self, id: ChannelId) {
        let entry = &mut self.entries[id as usize];
        if let Some(history) = &mut entry.history {
            self.histories.prune(history, self.now, &entry.rule);
            self.keep_history_budget();
        }
        let entry = &mut self.entries[id as usize];
        for index in 0..entry.interest.len() {
            let Interest { shard, topic, told: Told::Waiting } = entry.interest[index] else { continue };
            let lane = &mut self.lanes[usize::from(shard)];
            entry.interest[index].told = if lane.push(entry.joined(topic, &self.histories)) {
                Told::Joined { lost_to: 0 }
            } else {
                lane.joins.insert(topic, id);
                Told::Due
            };
        }
    }

    fn retry(&mut self) {
        for (shard, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.has_backlog() || !lane.push_replies() {
                continue;
            }
            let (entries, histories) = (&mut self.entries, &self.histories);
            // From the end, and no further than there is room: a shard that is full for long may have a hundred thousand of them.
            while let Some((&topic, &id)) = lane.joins.last() {
                let entry = &mut entries[id as usize];
                if !lane.push(entry.joined(topic, histories)) {
                    break;
                }
                entry.interest_of(shard, topic).told = Told::Joined { lost_to: 0 };
                lane.joins.pop();
            }
            while lane.joins.is_empty()
                && lane.may_tell_heads()
                && let Some((&topic, &id)) = lane.behind.last()
            {
                if let Told::Joined { lost_to } = &mut entries[id as usize].interest_of(shard, topic).told {
                    if !lane.push(ShardMessage::Head { topic, seq: *lost_to }) {
                        break;
                    }
                    *lost_to = 0;
                }
                lane.behind.pop();
            }
            lane.push_stop();
        }
    }

    // Time.

    /// Forgets channels whose linger is over and history that is too old.
    pub fn expire(&mut self, now: MonotonicNs) {
        self.now = now;
        while let Some((due, id)) = self.lingering.next()
            && due <= now
        {
            let entry = &mut self.entries[id as usize];
            if self.settings.history_keeps_channels && entry.history.as_ref().is_some_and(|history| !history.is_empty()) {
                entry.looked_at = None;
                self.lingering.remove(id, due, entry.creator);
                // Looked at once per linger, with a floor, or a linger of 0 would spin here.
                self.look_at(id, now.saturating_add(self.settings.linger_ns.max(SWEEP_NS)));
            } else {
                self.seal(id, now);
                self.forget(id);
            }
        }
        if self.release.take(self.entries.len(), now) {
            sys::release_free_memory();
        }
        if self.has_history && now >= self.sweep_at {
            self.sweep_at = now + SWEEP_NS;
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: MonotonicNs) {
        let slots = self.entries.numbers_end();
        for _ in 0..slots.min(SWEEP_CHANNELS) {
            self.sweep_from = (self.sweep_from + 1) % slots;
            let Some(entry) = self.entries.get_mut(self.sweep_from) else { continue };
            let Some(history) = &mut entry.history else { continue };
            self.histories.prune(history, now, &entry.rule);
        }
        // Shards may have had more formats encoded since.
        self.keep_history_budget();
    }

    /// When [`Hub::flush`] and [`Hub::expire`] are to be called even if nothing comes in.
    pub fn deadline(&self, now: MonotonicNs) -> Option<MonotonicNs> {
        let retry = self.lanes.iter().any(Lane::has_backlog).then_some(now + RETRY_NS);
        let linger = self.lingering.next().map(|(due, _)| due);
        let sweep = (!self.histories.is_empty()).then_some(self.sweep_at);
        [retry, linger, sweep, self.release.due()].into_iter().flatten().min()
    }

    // Answers.

    /// Whether every shard that listens to the channel has room for a message of one of our own publishers. Without it the publisher waits,
    /// instead of costing others a gap.
    pub fn has_room_for(&mut self, name: &str, payload_bytes: usize) -> bool {
        let Some(id) = self.find(name) else { return true };
        self.entries[id as usize].interest.iter().all(|interest| self.lanes[usize::from(interest.shard)].has_room_for(payload_bytes))
    }

    /// Answers a publish.
    pub fn answer(&mut self, reply: PublishReply, channel: Box<str>, result: Result<Published, PublishError>) {
        match result {
            Ok(_) => self.metrics.published.inc(),
            Err(_) => self.metrics.publish_errors.inc(),
        }
        match reply {
            PublishReply::Client { shard, conn, id } => {
                self.lanes[usize::from(shard)].reply(ShardMessage::Published { conn, id, channel, result });
            }
            // The request may have been given up; then nobody wants to know.
            PublishReply::Control(sender) => drop(sender.send(result)),
        }
    }

    /// Whether so many replies wait for a shard that no more commands should be taken.
    pub fn is_clogged(&self) -> bool {
        self.lanes.iter().any(Lane::is_clogged)
    }

    /// Up to `limit` channels from slot `from` on.
    pub fn list(&self, from: usize, limit: usize) -> ChannelPage {
        let mut channels = Vec::new();
        for slot in from..self.entries.numbers_end() {
            let Some(entry) = self.entries.get(slot) else { continue };
            if channels.len() == limit {
                return ChannelPage { channels, next: Some(slot) };
            }
            channels.push(ChannelInfo {
                name: entry.channel.name.to_string(),
                epoch: entry.channel.epoch,
                seq: entry.seq,
                subscribers: entry.channel.subscribers.load(Relaxed),
                history_messages: entry.history.as_ref().map_or(0, |history| self.histories.messages(history)),
            });
        }
        ChannelPage { channels, next: None }
    }

    /// Every shard is to be told `Stop`, after what is already on its way.
    pub fn stop(&mut self) {
        for lane in &mut self.lanes {
            lane.stop();
        }
    }

    /// Whether every shard was told everything.
    pub fn is_drained(&self) -> bool {
        self.open.is_empty() && !self.lanes.iter().any(Lane::has_backlog)
    }
}

impl Named for Entry {
    fn name(&self) -> &str {
        &self.channel.name
    }
}

impl Entry {
    /// As of now: batches sealed later follow, the open one among them.
    fn joined(&self, topic: TopicToken, histories: &Histories) -> ShardMessage {
        let history = self.history.as_ref().map_or_else(Vec::new, |history| histories.batches(history));
        ShardMessage::Joined { topic, channel: self.channel.clone(), seq: self.sealed, history }
    }

    /// A lane's lists name only topics that are interested: `leave` takes them out.
    fn interest_of(&mut self, shard: usize, topic: TopicToken) -> &mut Interest {
        let found = self.interest.iter_mut().find(|interest| usize::from(interest.shard) == shard && interest.topic == topic);
        found.expect("a lane's lists name only topics that are interested")
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
