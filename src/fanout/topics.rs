//! The channels of one shard: name ↔ slot, members, log, and where the current lap over the members stands. No locks.
//!
//! A lap is how a topic is flushed: a circular walk over its members that visits each of them once after the newest
//! batch. A batch that arrives during a lap only sets the number of visits still due back to all, so appending costs the same
//! for one member as for a million, and whoever is visited gets everything up to the head.

use std::sync::Arc;

use smallvec::SmallVec;

use super::batch::Channel;
use super::log::Log;
use crate::by_name::{ByName, Named};
use crate::config::ChannelRule;

/// A topic slot of a shard: index and generation, so that a batch for a topic that is gone finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicToken {
    pub index: u32,
    pub generation: u32,
}

#[derive(Debug, Default)]
pub struct Topics {
    slots: ByName<Topic>,
    generations: u32,
}

impl Named for Topic {
    fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Debug)]
pub struct Topic {
    /// The hub's copy, once it has answered.
    pub name: Arc<str>,
    generation: u32,
    /// None until the bus has answered the join.
    pub channel: Option<Arc<Channel>>,
    /// The bus is not allowed to have it any more: nobody is to be told `subscribed`.
    pub is_refused: bool,
    pub log: Log,
    pub rule: Arc<ChannelRule>,
    /// Most channels have one or two, which lie here.
    members: SmallVec<[Member; 2]>,
    /// Index of the member to visit next.
    lap_position: u32,
    /// Visits still due; 0: every member has been visited since the newest batch.
    lap_remaining: u32,
    /// The log's head when the walk last passed the end of the members.
    lap_head: u64,
    /// The lowest number since then at which somebody was left whose socket takes more.
    lap_left: u64,
    /// The same for the round before.
    left_before: u64,
    /// How many were left so and have not caught up.
    left: u32,
    /// On the shard's ring of topics with a lap under way.
    pub in_ring: bool,
    /// Members that were left behind the head because their socket took no more.
    pub lagging: u32,
    /// What the bus has been told.
    pub join_sent: bool,
    /// On the shard's list of topics whose interest is to be told to the bus.
    pub interest_queued: bool,
}

/// A subscription seen from its topic: which connection, and which of its subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub conn: u32,
    pub subscription: u32,
}

impl Topics {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn find(&self, name: &str) -> Option<u32> {
        self.slots.find(name)
    }

    /// A new topic; the name must not be there yet.
    pub fn insert(&mut self, name: &str, rule: Arc<ChannelRule>) -> u32 {
        self.generations = self.generations.wrapping_add(1);
        self.slots.insert(Topic {
            name: name.into(),
            generation: self.generations,
            channel: None,
            is_refused: false,
            log: Log::new(rule.log_bytes),
            rule,
            members: SmallVec::new(),
            lap_position: 0,
            lap_remaining: 0,
            lap_head: 0,
            lap_left: u64::MAX,
            left_before: u64::MAX,
            left: 0,
            in_ring: false,
            lagging: 0,
            join_sent: false,
            interest_queued: false,
        })
    }

    /// Frees a topic without members.
    pub fn remove(&mut self, index: u32) -> Topic {
        let topic = self.slots.remove(index);
        assert!(topic.members.is_empty(), "a topic with members cannot go");
        topic
    }

    pub fn token(&self, index: u32) -> TopicToken {
        TopicToken { index, generation: self[index].generation }
    }

    /// The topic's slot, if the token is not of an earlier user of it.
    pub fn resolve(&self, token: TopicToken) -> Option<u32> {
        let topic = self.slots.get(token.index as usize)?;
        (topic.generation == token.generation).then_some(token.index)
    }

    pub fn contains(&self, index: u32) -> bool {
        self.slots.contains(index as usize)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Topic)> {
        self.slots.iter().map(|(index, topic)| (index as u32, topic))
    }
}

impl std::ops::Index<u32> for Topics {
    type Output = Topic;
    fn index(&self, index: u32) -> &Topic {
        &self.slots[index as usize]
    }
}

impl std::ops::IndexMut<u32> for Topics {
    fn index_mut(&mut self, index: u32) -> &mut Topic {
        &mut self.slots[index as usize]
    }
}

impl Topic {
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the member's place. Whoever subscribes is flushed by itself, but a lap that has still to wrap round the end passes the
    /// new place on its way and needs one visit more.
    pub fn add_member(&mut self, member: Member) -> u32 {
        self.lap_remaining += u32::from((self.lap_position + self.lap_remaining) as usize > self.members.len());
        self.members.push(member);
        (self.members.len() - 1) as u32
    }

    /// Takes a member out. The last one moves into its place and is returned with it, so that its subscription can be told; it may
    /// thereby have escaped the current lap, and must be flushed by itself.
    pub fn remove_member(&mut self, place: u32) -> Option<Member> {
        self.members.swap_remove(place as usize);
        if self.members.capacity() > 64 && self.members.len() * 4 < self.members.capacity() {
            let mut fewer = SmallVec::with_capacity(self.members.len() * 2);
            fewer.extend_from_slice(&self.members);
            self.members = fewer;
        }
        if self.lap_position as usize >= self.members.len() {
            self.lap_position = 0;
        }
        self.lap_remaining = self.lap_remaining.min(self.members.len() as u32);
        self.members.get(place as usize).copied()
    }

    /// The subscription of the member at this place has moved within its connection.
    pub fn renumber_member(&mut self, place: u32, subscription: u32) {
        self.members[place as usize].subscription = subscription;
    }

    /// Something was appended: every member is due a visit. True if the topic must be put on the ring.
    pub fn begin_lap(&mut self) -> bool {
        self.lap_remaining = self.members.len() as u32;
        let enter = !self.in_ring && self.lap_remaining > 0;
        self.in_ring |= enter;
        enter
    }

    /// The next member to visit in this lap.
    pub fn next_visit(&mut self) -> Option<Member> {
        self.lap_remaining = self.lap_remaining.checked_sub(1)?;
        let member = self.members[self.lap_position as usize];
        self.lap_position += 1;
        if self.lap_position as usize == self.members.len() {
            self.lap_position = 0;
            // Everybody has been visited since the last time the walk was here.
            self.log.set_served(self.lap_head.min(self.lap_left));
            (self.lap_head, self.left_before, self.lap_left) = (self.log.head(), self.lap_left, u64::MAX);
        }
        Some(member)
    }

    /// Everybody has been visited since the newest batch, in the part of a round that the walk has passed and the part before.
    pub fn end_lap(&mut self) {
        self.in_ring = false;
        self.lap_head = self.log.head();
        self.log.set_served(self.lap_head.min(self.lap_left).min(self.left_before));
    }

    /// The walk has left somebody behind at this number whose socket would take more: what follows has not been offered to everybody. `is_new`:
    /// it was not left before.
    pub fn note_left(&mut self, seq: u64, is_new: bool) {
        self.left += u32::from(is_new);
        self.lap_left = self.lap_left.min(seq);
    }

    /// One that was left has caught up, or is behind by its own fault now. True: it was the last one, and everybody has been offered everything.
    pub fn forget_left(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        (self.lap_left, self.left_before) = (u64::MAX, u64::MAX);
        let is_over = self.lap_is_over();
        if is_over {
            self.log.set_served(self.log.head());
        }
        is_over
    }

    pub fn lap_is_over(&self) -> bool {
        self.lap_remaining == 0
    }
}
