//! Which channels the node has: by whom each is heard, for how long it stays when nobody hears it any more, whose quota it counts in, and
//! what the upstream is to be told of it. Owned by the hub, which knows what flows through them.
//!
//! Invariant: a channel lingers, with one time at which it is looked at, exactly while nobody is interested in it.

use std::collections::{HashMap, VecDeque};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::delivery::OpenAt;
use super::flow::{Count, Counter, Flow};
use super::history::History;
use super::lingering::Lingering;
use super::settings::HubSettings;
use super::{Creator, JoinRefusal};
use crate::addresses::Source;
use crate::by_name::{ByName, Named};
use crate::clock::{MonotonicNs, nanos};
use crate::config::{ChannelRule, SharedRules};
use crate::fanout::batch::Channel;
use crate::fanout::naming::{ChannelName, Naming};
use crate::fanout::topics::TopicToken;
use crate::few::Few;
use crate::limits::QUEUE_KEPT;
use crate::limits::bus::RERULE_UNITS_PER_TURN;
use crate::release::Release;

/// What the upstream is to be told, in this order.
#[derive(Debug)]
pub enum Request {
    Want(ChannelName),
    /// `had_come`: its messages came until now.
    Unwant {
        channel: ChannelName,
        had_come: bool,
    },
}

/// A channel's place in the registry; valid until the channel is forgotten.
pub type ChannelId = u32;

#[derive(Debug)]
pub struct Registry {
    rules: SharedRules,
    linger_ns: u64,
    channels_max: usize,
    /// Of them, how many may be heard on behalf of one address.
    channels_of_address: usize,
    entries: ByName<Entry>,
    /// How many channels somebody hears on behalf of each address that has any.
    pub(super) heard_by: HashMap<Source, usize>,
    /// The channel of the last look-up: messages of one channel come in runs.
    last_found: Option<ChannelId>,
    requests: VecDeque<Request>,
    /// After a reload: the slot from which on channels still go by the rules of before.
    old_from: Option<usize>,
    /// Channels without a listener, by when they are to be looked at ([`Attention::LookedAt`]).
    lingering: Lingering,
    release: Release,
}

#[derive(Debug)]
pub struct Entry {
    pub naming: Naming,
    /// Who brought it into being: whoever comes later does not answer for what lingers.
    creator: Creator,
    attention: Attention,
    pub rule: Arc<ChannelRule>,
    pub flow: Flow,
    counter: Counter,
    /// Last number handed out.
    pub seq: u64,
    /// Last number in a sealed batch; behind `seq` while a batch is open.
    pub sealed: u64,
    pub open: OpenAt,
    pub interest: Few<Interest>,
    /// Somebody was interested once: for that long after the last one left, the channel stays as it is.
    was_heard: bool,
    pub history: Option<Box<History>>,
}

/// Bytes that may lie anywhere, as those of a [`Source`]: there is one in each entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attention {
    /// It has just been made.
    New,
    /// Somebody hears it, on behalf of whoever was the first.
    HeardFor(Source),
    /// Nobody does; when to look whether it is still to be kept.
    LookedAt([u8; 8]),
}

impl Attention {
    fn looked_at(due: MonotonicNs) -> Attention {
        Attention::LookedAt(due.to_ne_bytes())
    }

    fn due(self) -> Option<MonotonicNs> {
        match self {
            Attention::LookedAt(due) => Some(MonotonicNs::from_ne_bytes(due)),
            Attention::New | Attention::HeardFor(_) => None,
        }
    }
}

/// A shard that has subscribers of a channel.
#[derive(Debug)]
pub struct Interest {
    pub shard: u16,
    pub topic: TopicToken,
    /// The channel has flowed since the shard asked: it was told so, or its lane owes it that.
    pub is_answered: bool,
}

impl Named for Entry {
    fn name(&self) -> &str {
        self.name()
    }
}

impl Entry {
    pub fn name(&self) -> &ChannelName {
        self.naming.name()
    }

    /// None until it has flowed: only then it is known how it is counted.
    pub fn channel(&self) -> Option<&Arc<Channel>> {
        self.naming.channel()
    }

    pub fn count(&self) -> Option<Count> {
        self.channel().map(|channel| Count { epoch: channel.epoch, seq: self.seq, by: self.counter })
    }

    /// From now on it is counted so. No batch may be open.
    pub fn set_count(&mut self, count: Count) {
        debug_assert_eq!(self.open, OpenAt::NOWHERE);
        let channel = Channel { name: self.name().clone(), epoch: count.epoch, subscribers: Default::default() };
        self.naming = Naming::served(Arc::new(channel));
        (self.seq, self.sealed, self.counter) = (count.seq, count.seq, count.by);
    }
}

impl Index<ChannelId> for Registry {
    type Output = Entry;

    fn index(&self, id: ChannelId) -> &Entry {
        &self.entries[id as usize]
    }
}

impl IndexMut<ChannelId> for Registry {
    fn index_mut(&mut self, id: ChannelId) -> &mut Entry {
        &mut self.entries[id as usize]
    }
}

impl Registry {
    pub fn new(settings: &HubSettings) -> Registry {
        Registry {
            rules: SharedRules::new(&settings.rules),
            linger_ns: settings.linger_ns,
            channels_max: settings.channels_max,
            channels_of_address: settings.channels_of_address,
            entries: ByName::default(),
            heard_by: HashMap::new(),
            last_found: None,
            requests: VecDeque::new(),
            old_from: None,
            lingering: Lingering::default(),
            release: Release::default(),
        }
    }

    /// From now on channels go by these, those that are there by and by.
    pub fn reload(&mut self, settings: &HubSettings) {
        self.rules = SharedRules::new(&settings.rules);
        (self.linger_ns, self.channels_max, self.channels_of_address) =
            (settings.linger_ns, settings.channels_max, settings.channels_of_address);
        self.old_from = Some(0);
    }

    /// Gives some channels the rules of the last reload. True: there are more.
    pub fn take_over_rules(&mut self, mut note: impl FnMut(ChannelId, &Entry)) -> bool {
        let Some(mut slot) = self.old_from else { return false };
        let end = self.entries.numbers_end();
        let mut budget = RERULE_UNITS_PER_TURN;
        while budget > 0 && slot < end {
            if let Some(entry) = self.entries.get_mut(slot) {
                entry.rule = self.rules.of(entry.naming.name()).clone();
                note(slot as ChannelId, entry);
                budget = budget.saturating_sub(self.rules.find_units());
            }
            budget = budget.saturating_sub(1);
            slot += 1;
        }
        self.old_from = (slot < end).then_some(slot);
        self.old_from.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_full(&self) -> bool {
        self.len() >= self.channels_max
    }

    #[inline]
    pub fn find(&mut self, name: &str) -> Option<ChannelId> {
        if let Some(id) = self.last_found
            && **self.entries[id as usize].name() == *name
        {
            return Some(id);
        }
        let found = self.entries.find(name);
        self.last_found = found.or(self.last_found);
        found
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().map(|(_, entry)| entry)
    }

    /// One more than the highest slot in use.
    pub fn slots(&self) -> usize {
        self.entries.numbers_end()
    }

    pub fn get(&self, slot: usize) -> Option<&Entry> {
        self.entries.get(slot)
    }

    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Entry> {
        self.entries.get_mut(slot)
    }

    /// The rule of a channel, whether it is there or not.
    pub fn rule_of(&self, name: &str) -> &Arc<ChannelRule> {
        self.rules.of(name)
    }

    // Coming and going.

    /// There must be room for it, and none of this name. It is wanted of the upstream; somebody must hear it or it must be set idle.
    pub fn insert(&mut self, name: ChannelName, creator: Creator, now: MonotonicNs) -> ChannelId {
        let rule = self.rules.of(&name).clone();
        let id = self.entries.insert(Entry {
            naming: Naming::waiting(name.clone()),
            creator,
            attention: Attention::New,
            rule,
            flow: Flow::Awaited,
            counter: Counter::Hub,
            seq: 0,
            sealed: 0,
            open: OpenAt::NOWHERE,
            interest: Few::Nobody,
            was_heard: false,
            history: None,
        });
        self.requests.push_back(Request::Want(name));
        self.release.note(self.len(), now);
        id
    }

    /// Nobody may hear it, and its batch must be sealed. Its history is for the caller to drop.
    pub fn remove(&mut self, id: ChannelId, now: MonotonicNs) -> Entry {
        let entry = self.entries.remove(id);
        debug_assert!(entry.interest.is_empty() && entry.open == OpenAt::NOWHERE);
        if let Some(due) = entry.attention.due() {
            self.lingering.remove(id, due, entry.creator);
        }
        self.last_found = None;
        self.requests.push_back(Request::Unwant { channel: entry.name().clone(), had_come: entry.flow.takes_messages() });
        self.release.note(self.len(), now);
        entry
    }

    /// What the upstream is to be told next.
    pub fn next_request(&mut self) -> Option<Request> {
        let request = self.requests.pop_front();
        if request.is_none() && self.requests.capacity() > QUEUE_KEPT {
            self.requests = VecDeque::new();
        }
        request
    }

    // Who hears it.

    /// Whether a channel that nobody hears may be heard on behalf of this address.
    pub fn may_hear(&self, source: Source) -> Result<(), JoinRefusal> {
        match self.heard_by.get(&source) {
            Some(&channels) if channels >= self.channels_of_address => Err(JoinRefusal::AddressShare(source)),
            _ => Ok(()),
        }
    }

    /// Somebody is to hear a channel that nobody heard.
    pub fn hear(&mut self, id: ChannelId, source: Source) {
        *self.heard_by.entry(source).or_insert(0) += 1;
        let entry = &mut self.entries[id as usize];
        let before = std::mem::replace(&mut entry.attention, Attention::HeardFor(source));
        entry.was_heard = true;
        if let Some(due) = before.due() {
            self.lingering.remove(id, due, entry.creator);
        }
    }

    /// The last one who heard it is gone.
    pub fn unhear(&mut self, id: ChannelId, now: MonotonicNs) {
        let Attention::HeardFor(source) = self.entries[id as usize].attention else { unreachable!("somebody has heard it") };
        let channels = self.heard_by.get_mut(&source).expect("counted when it was first heard");
        *channels -= 1;
        if *channels == 0 {
            self.heard_by.remove(&source);
            if self.heard_by.capacity() > 64 && self.heard_by.len() * 4 < self.heard_by.capacity() {
                self.heard_by.shrink_to(2 * self.heard_by.len());
            }
        }
        self.set_idle(id, now);
    }

    // Lingering.

    /// Nobody hears it.
    pub fn set_idle(&mut self, id: ChannelId, now: MonotonicNs) {
        let kept_ns = self.kept_ns(&self.entries[id as usize]);
        self.look_at(id, now.saturating_add(kept_ns));
    }

    /// How long a channel that nobody hears stays. One with a history must outlast it, and go on being numbered meanwhile: a client that
    /// is away for that long is promised what it missed, also what comes after it has left.
    fn kept_ns(&self, entry: &Entry) -> u64 {
        if entry.was_heard && entry.rule.history_count > 0 { self.linger_ns.max(nanos(entry.rule.history_age)) } else { self.linger_ns }
    }

    /// It is kept for longer, and looked at again then.
    pub fn look_again_at(&mut self, id: ChannelId, due: MonotonicNs) {
        let entry = &mut self.entries[id as usize];
        if let Some(before) = std::mem::replace(&mut entry.attention, Attention::New).due() {
            self.lingering.remove(id, before, entry.creator);
        }
        self.look_at(id, due);
    }

    fn look_at(&mut self, id: ChannelId, due: MonotonicNs) {
        let entry = &mut self.entries[id as usize];
        debug_assert_eq!(entry.attention.due(), None, "in the list at most once");
        entry.attention = Attention::looked_at(due);
        self.lingering.insert(id, due, entry.creator);
    }

    /// A channel that nobody hears and that is to be looked at next, and when.
    pub fn next_due(&self) -> Option<(MonotonicNs, ChannelId)> {
        self.lingering.next()
    }

    /// Which of those goes when room is needed.
    pub fn first_to_go(&self) -> Option<ChannelId> {
        self.lingering.first_to_go()
    }

    /// When to ask [`Registry::releases_memory`].
    pub fn release_due(&self) -> Option<MonotonicNs> {
        self.release.due()
    }

    /// Whether the allocator should give back now what many channels held; says so once.
    pub fn releases_memory(&mut self, now: MonotonicNs) -> bool {
        self.release.take(self.entries.len(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_is_not_used_takes_little() {
        assert_eq!(size_of::<Entry>(), 88);
    }
}
