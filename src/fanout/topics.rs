//! The channels of one shard: name ↔ slot, members, log, and where the current lap over the members stands. No locks.
//!
//! A lap is how a topic is flushed: a circular walk over its members that visits each of them once after the newest
//! batch. A batch that arrives during a lap only sets the number of visits still due back to all, so appending costs the same
//! for one member as for a million, and whoever is visited gets everything up to the head.

use std::collections::HashMap;
use std::sync::Arc;

use super::batch::Channel;
use super::log::Log;
use super::naming::{ChannelName, Naming};
use super::paced::Paced;
use crate::by_name::{ByName, Named};
use crate::config::ChannelRule;
use crate::few::Few;

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
    /// Members of few topics, by slot, who are no members of ordinary laps.
    paced: HashMap<u32, Paced>,
}

impl Named for Topic {
    fn name(&self) -> &str {
        self.name()
    }
}

/// A channel on this shard. Most channels have one subscriber and no message most of their life: what they do not need then is not there.
#[derive(Debug)]
pub struct Topic {
    naming: Naming,
    generation: u32,
    /// The bus is not allowed to have it any more: nobody is to be told `subscribed`.
    pub is_refused: bool,
    marks: Marks,
    /// What the bus has been told.
    pub join_sent: bool,
    /// On the shard's list of topics whose interest is to be told to the bus.
    pub interest_queued: bool,
    pub rule: Arc<ChannelRule>,
    members: Few<Member>,
    /// The number the next message will have, while there is no log to know it.
    head: u64,
    /// From the first message to when the last one is not needed any more.
    active: Option<Box<Active>>,
}

/// Two answers in a byte: a third one asked at each append would make a topic larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks(u8);

/// Among the laps of its shard.
const HAS_LAP: u8 = 1;
/// What comes may have to be held back.
const IS_SPACED: u8 = 2;

impl Marks {
    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    fn set(&mut self, mark: u8, is_so: bool) {
        self.0 = if is_so { self.0 | mark } else { self.0 & !mark };
    }
}

/// What a topic needs while there is something to send.
#[derive(Debug)]
struct Active {
    log: Log,
    /// Names this log among all that the shard has made.
    number: u32,
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
    /// Members that were left behind the head because their socket took no more.
    lagging: u32,
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
        let marks = Marks(if rule.is_spaced() { IS_SPACED } else { 0 });
        self.slots.insert(Topic {
            naming: Naming::waiting(name),
            generation: self.generations,
            is_refused: false,
            marks,
            join_sent: false,
            interest_queued: false,
            rule,
            members: Few::Nobody,
            head: 1,
            active: None,
        })
    }

    /// Frees a topic without members.
    pub fn remove(&mut self, index: u32) -> Topic {
        assert!(!self.has_members(index), "a topic with members cannot go");
        self.paced.remove(&index);
        self.slots.remove(index)
    }

    // Whoever is a member, in ordinary laps or paced.

    pub fn has_members(&self, index: u32) -> bool {
        !self[index].members().is_empty() || self.paced(index).is_some_and(|paced| paced.member_count() > 0)
    }

    pub fn all_members(&self, index: u32) -> impl Iterator<Item = Member> {
        self[index].members().iter().copied().chain(self.paced(index).into_iter().flat_map(Paced::members))
    }

    pub fn member_count(&self, index: u32) -> usize {
        self[index].members().len() + self.paced(index).map_or(0, Paced::member_count)
    }

    /// Whether anybody anywhere is paced.
    pub fn has_paced(&self) -> bool {
        !self.paced.is_empty()
    }

    pub fn paced(&self, index: u32) -> Option<&Paced> {
        if self.paced.is_empty() { None } else { self.paced.get(&index) }
    }

    pub fn paced_mut(&mut self, index: u32) -> Option<&mut Paced> {
        if self.paced.is_empty() { None } else { self.paced.get_mut(&index) }
    }

    /// The paced members of a topic, none until now.
    pub fn make_paced(&mut self, index: u32) -> &mut Paced {
        self.paced.entry(index).or_default()
    }

    /// Forgets what is over.
    pub fn rest_paced(&mut self, index: u32) {
        if self.paced(index).is_some_and(Paced::is_over) {
            self.paced.remove(&index);
        }
    }

    /// Whether somebody is to get the newest message when it is time, so that the log must keep it.
    pub fn keeps_newest(&self, index: u32) -> bool {
        self.paced(index).is_some_and(Paced::is_pending)
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

    /// One more than the highest slot in use.
    pub fn numbers_end(&self) -> usize {
        self.slots.numbers_end()
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
    pub fn name(&self) -> &ChannelName {
        self.naming.name()
    }

    /// None until the bus has answered the join.
    pub fn channel(&self) -> Option<&Arc<Channel>> {
        self.naming.channel()
    }

    /// From now on the channel goes by this rule. A log that holds more than it allows has that dropped with the next message.
    pub fn set_rule(&mut self, rule: Arc<ChannelRule>) {
        if let Some(active) = &mut self.active {
            active.log.set_bytes_max(rule.log_bytes);
        }
        self.rule = rule;
        self.settle_spaced();
    }

    /// Whether its laps keep a distance, or something that was held back when they did has still to go before all that comes.
    pub fn is_spaced(&self) -> bool {
        self.marks.has(IS_SPACED)
    }

    /// The rule is another one, or what was held back is released.
    pub fn settle_spaced(&mut self) {
        let is_spaced = self.rule.is_spaced() || self.log().is_some_and(|log| log.held().is_some());
        self.marks.set(IS_SPACED, is_spaced);
    }

    /// The bus has answered the join: messages will come, the first of this number.
    pub fn serve(&mut self, channel: Arc<Channel>, head: u64) {
        assert!(self.active.is_none(), "a topic in use is served already");
        self.renumber(channel, head);
    }

    /// The next message will have this number, in whatever epoch the channel says. What the log has is given up: no member may stand in one of its
    /// frames, or lag behind it.
    pub fn renumber(&mut self, channel: Arc<Channel>, head: u64) {
        debug_assert_eq!(**self.name(), *channel.name);
        debug_assert_eq!(self.lagging(), 0);
        self.naming = Naming::served(channel);
        self.head = head;
        self.active = None;
        self.settle_spaced();
    }

    /// None while nothing is to be sent or kept.
    pub fn log(&self) -> Option<&Log> {
        self.active.as_ref().map(|active| &active.log)
    }

    /// What the log is called while there is one: another one, made later, has another number.
    pub fn log_number(&self) -> Option<u32> {
        self.active.as_ref().map(|active| active.number)
    }

    /// The log, made if need be and called by the next number; [`Topic::rest`] is to follow some time.
    pub fn log_mut(&mut self, last_number: &mut u32) -> &mut Log {
        let (bytes_max, head) = (self.rule.log_bytes, self.head);
        let count = self.members.len() as u64;
        let active = self.active.get_or_insert_with(|| {
            let mut log = Log::new(bytes_max);
            log.start_at(head);
            // Everybody has everything.
            log.set_served(head);
            *last_number = last_number.wrapping_add(1);
            Box::new(Active {
                log,
                number: *last_number,
                // Anywhere, or the same member would always be the first.
                lap_position: ((head.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % count.max(1)) as u32,
                lap_remaining: 0,
                lap_head: head,
                lap_left: u64::MAX,
                left_before: u64::MAX,
                left: 0,
                lagging: 0,
            })
        });
        &mut active.log
    }

    /// The number the next message will have.
    pub fn head(&self) -> u64 {
        self.active.as_ref().map_or(self.head, |active| active.log.head())
    }

    /// The number after the last that has come, which may be held back.
    pub fn arrived(&self) -> u64 {
        self.active.as_ref().map_or(self.head, |active| active.log.arrived())
    }

    /// The oldest number that can still be read; the head when nothing can.
    pub fn tail(&self) -> u64 {
        self.active.as_ref().map_or(self.head, |active| active.log.tail())
    }

    /// See [`Log::newest`]; the head when the log has nothing.
    pub fn newest(&self) -> u64 {
        self.active.as_ref().map_or(self.head, |active| active.log.newest())
    }

    /// Whether the log has any, and not gaps alone.
    pub fn has_messages(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.log.has_messages())
    }

    /// See [`Log::boundary_at`].
    pub fn boundary_at(&self, seq: u64) -> u64 {
        self.active.as_ref().map_or(seq, |active| active.log.boundary_at(seq))
    }

    /// Every member has been visited, and none is behind: of what the log has only history is still of use.
    pub fn is_done(&self) -> bool {
        self.active.as_ref().is_none_or(|active| active.lagging == 0 && active.lap_remaining == 0)
    }

    /// Gives up what is not needed any more.
    pub fn rest(&mut self) {
        if let Some(active) = &self.active
            && self.is_done()
            && active.log.is_bare()
        {
            debug_assert_eq!(active.left, 0, "whoever was left is behind");
            self.head = active.log.head();
            self.active = None;
        }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the member's place. Whoever subscribes is flushed by itself, but a lap that has still to wrap round the end passes the
    /// new place on its way and needs one visit more.
    pub fn add_member(&mut self, member: Member) -> u32 {
        let count = self.members().len();
        if let Some(active) = &mut self.active {
            active.lap_remaining += u32::from((active.lap_position + active.lap_remaining) as usize > count);
        }
        self.members.push(member);
        count as u32
    }

    /// Takes a member out. The last one moves into its place and is returned with it, so that its subscription can be told; it may
    /// thereby have escaped the current lap, and must be flushed by itself.
    pub fn remove_member(&mut self, place: u32) -> Option<Member> {
        self.members.swap_remove(place as usize);
        let count = self.members().len();
        if let Some(active) = &mut self.active {
            if active.lap_position as usize >= count {
                active.lap_position = 0;
            }
            active.lap_remaining = active.lap_remaining.min(count as u32);
        }
        self.members().get(place as usize).copied()
    }

    /// The subscription of the member at this place has moved within its connection.
    pub fn renumber_member(&mut self, place: u32, subscription: u32) {
        self.members[place as usize].subscription = subscription;
    }

    /// Something was appended: every member is due a visit. True if the topic must be put among the laps.
    pub fn begin_lap(&mut self) -> bool {
        let count = self.members().len() as u32;
        let active = self.active.as_mut().expect("something was appended");
        active.lap_remaining = count;
        if count == 0 {
            // Nobody whom a lap would have to come to: of those that are paced none needs more than the newest.
            active.log.set_served(active.log.head());
        }
        let enter = !self.marks.has(HAS_LAP) && count > 0;
        if enter {
            self.marks.set(HAS_LAP, true);
        }
        enter
    }

    /// The next member to visit in this lap.
    pub fn next_visit(&mut self) -> Option<Member> {
        let members = &self.members;
        let active = self.active.as_mut()?;
        active.lap_remaining = active.lap_remaining.checked_sub(1)?;
        let member = members[active.lap_position as usize];
        active.lap_position += 1;
        if active.lap_position as usize == members.len() {
            active.lap_position = 0;
            // Everybody has been visited since the last time the walk was here.
            active.log.set_served(active.lap_head.min(active.lap_left));
            (active.lap_head, active.left_before, active.lap_left) = (active.log.head(), active.lap_left, u64::MAX);
        }
        Some(member)
    }

    /// Everybody has been visited since the newest batch, in the part of a round that the walk has passed and the part before.
    pub fn end_lap(&mut self) {
        self.marks.set(HAS_LAP, false);
        if let Some(active) = &mut self.active {
            active.lap_head = active.log.head();
            active.log.set_served(active.lap_head.min(active.lap_left).min(active.left_before));
        }
    }

    /// Somebody is behind at this number whose socket would take more, left there by the walk or subscribed from there: what follows has not been
    /// offered to everybody. `is_new`: it was not left before.
    pub fn note_left(&mut self, seq: u64, is_new: bool) {
        let active = self.active.as_mut().expect("whoever is behind is behind in a log");
        active.left += u32::from(is_new);
        active.lap_left = active.lap_left.min(seq);
        active.log.set_served(active.log.served().min(seq));
    }

    /// One that was left has caught up, or is behind by its own fault now. True: it was the last one, and everybody has been offered everything.
    pub fn forget_left(&mut self) -> bool {
        let active = self.active.as_mut().expect("whoever was left is behind in a log");
        active.left -= 1;
        if active.left > 0 {
            return false;
        }
        (active.lap_left, active.left_before) = (u64::MAX, u64::MAX);
        let is_over = active.lap_remaining == 0;
        if is_over {
            active.log.set_served(active.log.head());
        }
        is_over
    }

    /// How many members are behind the head because their socket took no more.
    pub fn lagging(&self) -> u32 {
        self.active.as_ref().map_or(0, |active| active.lagging)
    }

    pub fn add_lagging(&mut self) {
        self.active.as_mut().expect("whoever is behind is behind in a log").lagging += 1;
    }

    pub fn remove_lagging(&mut self) {
        self.active.as_mut().expect("whoever was behind was behind in a log").lagging -= 1;
    }

    pub fn lap_is_over(&self) -> bool {
        self.active.as_ref().is_none_or(|active| active.lap_remaining == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a channel costs a shard that has nothing to send on it, besides its name and its place in the table.
    #[test]
    fn an_idle_topic_fits_a_cache_line() {
        assert_eq!(size_of::<Topic>(), 56);
        assert_eq!(size_of::<Option<Topic>>(), 56, "its place in the table adds nothing");
    }
}
