//! Messages without a number, on their way to whoever is subscribed when they come: a walk over the topic's members for those that came together, which keeps its
//! place from turn to turn ([`limits::ASIDE_UNITS_PER_TURN`]). Each member is sent what came before them, and then them, through its outbox.
//!
//! What comes of the topic while a walk is under way waits behind it, so that they stay in the order in which they came. It does not wait for long ([`limits::ASIDE_HOLD_NS`]): then, or where
//! too much waits ([`limits::ASIDE_HELD_MAX`]), it goes on, and whom the walk has not been to gets them late.
//!
//! Invariants: nobody gets one twice, and whoever was subscribed and reads what it is sent gets each once; a socket that takes nothing costs no memory, its
//! subscriptions are passed over; what is under way and what waits are bounded, and count as being in the inbox until they are done.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::Shard;
use super::conn::Flags;
use super::net::Network;
use crate::bus::{ConnToken, ShardMessage};
use crate::clock::MonotonicNs;
use crate::fanout::aside::Aside;
use crate::fanout::paced::Paced;
use crate::fanout::topics::{Member, TopicToken};
use crate::limits;
use crate::wire::framing::Encoding;

#[derive(Debug, Default)]
pub(super) struct Asides {
    queues: HashMap<TopicToken, VecDeque<Item>>,
    /// Whose turn it is, each once.
    turns: VecDeque<TopicToken>,
    /// Messages without a number that are under way.
    count: usize,
    bytes: usize,
    /// What waits behind them.
    held: usize,
    held_bytes: usize,
}

#[derive(Debug)]
enum Item {
    Walk(Walk),
    /// And since when.
    Held(ShardMessage, MonotonicNs),
}

#[derive(Debug)]
struct Walk {
    asides: Vec<Arc<Aside>>,
    bytes: usize,
    /// Places of members that it has still to go to.
    places: Range<u32>,
    /// Members that have taken a place which it has passed.
    escaped: Vec<ConnToken>,
    has_begun: bool,
}

/// Where a walk goes next.
enum Next {
    Place(u32),
    Escaped(ConnToken),
}

impl Walk {
    fn next(&mut self) -> Option<Next> {
        self.has_begun = true;
        self.escaped.pop().map(Next::Escaped).or_else(|| self.places.next().map(Next::Place))
    }

    /// The member at `place` has left, and the one at `last`, if it is another one, has taken its place. False: that one cannot be gone to any more.
    fn note_removed(&mut self, place: u32, last: u32, moved: Option<ConnToken>) -> bool {
        let (is_last_due, was_passed) = (self.places.contains(&last), place < self.places.start);
        self.places.end = self.places.end.min(last);
        self.places.start = self.places.start.min(self.places.end);
        let Some(moved) = moved.filter(|_| is_last_due && was_passed) else { return true };
        let has_room = self.escaped.len() < limits::ASIDE_ESCAPED_MAX;
        if has_room {
            self.escaped.push(moved);
        }
        has_room
    }
}

fn bytes_of(message: &ShardMessage) -> usize {
    if let ShardMessage::Batch { batch, .. } = message { batch.bytes() } else { 0 }
}

impl Asides {
    pub(super) fn is_idle(&self) -> bool {
        self.queues.is_empty()
    }

    /// None: too many are under way.
    fn push(&mut self, topic: TopicToken, aside: Arc<Aside>, members: u32) -> Option<()> {
        let bytes = aside.bytes();
        let is_full = self.count >= limits::ASIDES_MAX || (self.count > 0 && self.bytes + bytes > limits::ASIDES_BYTES_MAX);
        let queue = self.queues.get_mut(&topic);
        if is_full || queue.as_ref().is_some_and(|queue| queue.len() >= limits::ASIDE_QUEUE_MAX) {
            return None;
        }
        (self.count, self.bytes) = (self.count + 1, self.bytes + bytes);
        if queue.is_none() {
            self.turns.push_back(topic);
        }
        let queue = self.queues.entry(topic).or_default();
        match queue.back_mut() {
            Some(Item::Walk(walk)) if !walk.has_begun && walk.places == (0..members) && walk.bytes + bytes <= limits::BATCH_BYTES_MAX => {
                walk.bytes += bytes;
                walk.asides.push(aside);
            }
            Some(_) | None => {
                queue.push_back(Item::Walk(Walk { asides: vec![aside], bytes, places: 0..members, escaped: Vec::new(), has_begun: false }));
            }
        }
        Some(())
    }

    fn walk(&mut self, topic: TopicToken) -> Option<&mut Walk> {
        match self.queues.get_mut(&topic)?.front_mut()? {
            Item::Walk(walk) => Some(walk),
            Item::Held(..) => None,
        }
    }

    /// Takes off what waits first, if nothing is under way before it.
    fn pop_held(&mut self, topic: TopicToken) -> Option<ShardMessage> {
        let queue = self.queues.get_mut(&topic)?;
        let message = match queue.pop_front()? {
            Item::Held(message, _) => message,
            walk @ Item::Walk(_) => {
                queue.push_front(walk);
                return None;
            }
        };
        (self.held, self.held_bytes) = (self.held - 1, self.held_bytes - bytes_of(&message));
        Some(message)
    }

    /// Since when something has waited behind what is under way.
    fn held_since(&self, topic: TopicToken) -> Option<MonotonicNs> {
        let since = |item: &Item| if let Item::Held(_, since) = item { Some(*since) } else { None };
        self.queues.get(&topic)?.iter().find_map(since)
    }

    /// What waits goes, in its order.
    fn take_held(&mut self, topic: TopicToken) -> Vec<ShardMessage> {
        let (mut held, mut walks) = (Vec::new(), VecDeque::new());
        let Some(queue) = self.queues.get_mut(&topic) else { return held };
        for item in queue.drain(..) {
            match item {
                Item::Held(message, _) => held.push(message),
                walk @ Item::Walk(_) => walks.push_back(walk),
            }
        }
        *queue = walks;
        (self.held, self.held_bytes) = (self.held - held.len(), self.held_bytes - held.iter().map(bytes_of).sum::<usize>());
        held
    }

    /// The walk that was first is over. Returns what it has held of the inbox.
    fn end_walk(&mut self, topic: TopicToken) -> usize {
        let Some(Item::Walk(walk)) = self.queues.get_mut(&topic).and_then(VecDeque::pop_front) else { return 0 };
        (self.count, self.bytes) = (self.count - walk.asides.len(), self.bytes - walk.bytes);
        walk.bytes
    }
}

impl<N: Network> Shard<N> {
    pub(super) fn on_aside(&mut self, topic: TopicToken, aside: Arc<Aside>) {
        let bytes = aside.bytes();
        let Some(index) = self.topics.resolve(topic).filter(|&index| self.topics[index].channel().is_some()) else {
            return self.inbox.release(bytes);
        };
        // They have asked for the newest of a second, and what has no number has no place among those.
        let paced = self.topics.paced(index).map_or(0, Paced::member_count);
        let members = self.topics[index].members().len() as u32;
        self.metrics.unnumbered_skipped.add(paced as u64);
        if self.asides.push(topic, aside, members).is_none() {
            self.metrics.unnumbered_dropped.inc();
            self.inbox.release(bytes);
        }
    }

    /// Holds back what must not overtake messages without a number. What comes back is to be obeyed now.
    pub(super) fn hold_behind_asides(&mut self, message: ShardMessage) -> Option<ShardMessage> {
        if self.asides.is_idle() {
            return Some(message);
        }
        let topic = match &message {
            ShardMessage::Batch { topic, .. } | ShardMessage::Head { topic, .. } | ShardMessage::Renumbered { topic, .. } => *topic,
            ShardMessage::Stop => {
                self.end_asides();
                return Some(message);
            }
            ShardMessage::Aside { .. }
            | ShardMessage::Joined { .. }
            | ShardMessage::Refused { .. }
            | ShardMessage::Page { .. }
            | ShardMessage::Answer { .. }
            | ShardMessage::Marks(_)
            | ShardMessage::Order(_) => return Some(message),
        };
        let Some(queue) = self.asides.queues.get_mut(&topic) else { return Some(message) };
        let bytes = bytes_of(&message);
        if self.asides.held >= limits::ASIDE_HELD_MAX || self.asides.held_bytes + bytes > limits::ASIDE_HELD_BYTES_MAX {
            self.let_held_go(topic);
            return Some(message);
        }
        queue.push_back(Item::Held(message, self.now_ns));
        (self.asides.held, self.asides.held_bytes) = (self.asides.held + 1, self.asides.held_bytes + bytes);
        None
    }

    fn let_held_go(&mut self, topic: TopicToken) {
        for message in self.asides.take_held(topic) {
            self.obey_bus(message);
        }
    }

    /// Goes on with the walks under way.
    pub(super) fn send_asides(&mut self) {
        let mut units = limits::ASIDE_UNITS_PER_TURN;
        while units > 0 {
            let Some(topic) = self.asides.turns.pop_front() else { break };
            units = units.saturating_sub(self.send_asides_of(topic));
            if self.asides.queues.get(&topic).is_some_and(VecDeque::is_empty) {
                self.asides.queues.remove(&topic);
            } else {
                self.asides.turns.push_back(topic);
            }
        }
        if self.asides.is_idle() && self.asides.queues.capacity() > limits::QUEUE_KEPT {
            self.asides = Asides::default();
        }
    }

    /// One topic's quantum; returns the units it cost.
    fn send_asides_of(&mut self, topic: TopicToken) -> usize {
        let mut units = 1;
        if self.asides.held_since(topic).is_some_and(|since| self.now_ns >= since + limits::ASIDE_HOLD_NS) {
            self.let_held_go(topic);
        }
        for _ in 0..limits::FLUSH_VISITS_PER_TOPIC {
            if units >= limits::ASIDE_UNITS_PER_TURN {
                break;
            }
            if let Some(message) = self.asides.pop_held(topic) {
                self.obey_bus(message);
                units += 1;
                continue;
            }
            let index = self.topics.resolve(topic);
            let Some(walk) = self.asides.walk(topic) else { break };
            let Some((index, next)) = index.and_then(|index| Some((index, walk.next()?))) else {
                let bytes = self.asides.end_walk(topic);
                self.inbox.release(bytes);
                continue;
            };
            let asides = std::mem::take(&mut walk.asides);
            let member = match next {
                Next::Place(place) => Some(self.topics[index].members()[place as usize]),
                Next::Escaped(token) => self.resolve(token).and_then(|key| {
                    let subscription = self.find_subscription(key, index)? as u32;
                    Some(Member { conn: key as u32, subscription })
                }),
            };
            units += member.map_or(1, |member| self.give_asides(index, member, &asides));
            self.asides.walk(topic).expect("it goes on").asides = asides;
        }
        units
    }

    /// Sends them to one member, behind what it is due. Returns the units it cost.
    fn give_asides(&mut self, topic: u32, member: Member, asides: &[Arc<Aside>]) -> usize {
        let (key, at) = (member.conn as usize, member.subscription as usize);
        let subscription = &self.conns[key].subscriptions[at];
        if !self.conns[key].is_open() || subscription.waiter().is_some() || subscription.is_leaving() {
            return 1;
        }
        let mut units = 1;
        if !self.conns[key].flags.has(Flags::BLOCKED) && self.note_behind(key, at) {
            units += self.visit(key, Some(at));
            self.note_left(topic, member);
        }
        for (given, aside) in asides.iter().enumerate() {
            if self.conns[key].outbox_unsent() > limits::OUTBOX_PAUSE_BYTES {
                units += self.visit(key, None);
            }
            let conn = &mut self.conns[key];
            if !conn.is_open() {
                return units;
            }
            let frame = aside.frame(Encoding { format: conn.formats.next(), framing: conn.peer.framing() });
            // Of what connections may hold for themselves these take half: nobody is closed for them alone.
            let is_too_much = self.buffer_bytes + frame.len() > self.settings.buffer_bytes_max / 2;
            if is_too_much || conn.flags.has(Flags::BLOCKED) || conn.outbox_unsent() > limits::OUTBOX_PAUSE_BYTES {
                self.metrics.unnumbered_skipped.add((asides.len() - given) as u64);
                break;
            }
            conn.outbox().extend_from_slice(frame);
            conn.peer.note_news();
            self.metrics.unnumbered_sent.inc();
        }
        units + self.visit(key, None)
    }

    /// A member of a topic has left its place to another one, or to nobody.
    pub(super) fn note_removed(&mut self, index: u32, place: u32, moved: Option<Member>) {
        if self.asides.is_idle() {
            return;
        }
        let (topic, last) = (self.topics.token(index), self.topics[index].members().len() as u32);
        let moved = moved.map(|member| self.token(member.conn as usize));
        for item in self.asides.queues.get_mut(&topic).into_iter().flatten() {
            if let Item::Walk(walk) = item
                && !walk.note_removed(place, last, moved)
            {
                self.metrics.unnumbered_skipped.add(walk.asides.len() as u64);
            }
        }
    }

    /// The bus has ended: what has numbers is sent, and the others are given up.
    fn end_asides(&mut self) {
        for topic in std::mem::take(&mut self.asides.turns) {
            self.let_held_go(topic);
            while let Some(walk) = self.asides.walk(topic) {
                self.metrics.unnumbered_dropped.add(walk.asides.len() as u64);
                let bytes = self.asides.end_walk(topic);
                self.inbox.release(bytes);
            }
        }
        self.asides = Asides::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn token(index: u32) -> ConnToken {
        ConnToken { index, generation: 1 }
    }

    proptest! {
        /// Whoever was there when it came and is there at its end was gone to once, whoever has come and left meanwhile.
        #[test]
        fn nobody_is_passed_over_or_gone_to_twice(steps in prop::collection::vec((0..4u8, any::<u32>()), 0..200), count in 0..40u32) {
            let mut members: Vec<u32> = (0..count).collect();
            let mut walk = Walk { asides: Vec::new(), bytes: 0, places: 0..count, escaped: Vec::new(), has_begun: false };
            let mut newest = count;
            let mut gone_to = HashSet::new();
            let mut go = |walk: &mut Walk, members: &[u32]| {
                let Some(next) = walk.next() else { return false };
                let member = match next {
                    Next::Place(place) => Some(members[place as usize]),
                    Next::Escaped(token) => members.iter().copied().find(|&member| member == token.index),
                };
                assert!(member.is_none_or(|member| gone_to.insert(member)), "{member:?} twice");
                true
            };
            for (step, pick) in steps {
                match step {
                    0 => {
                        members.push(newest);
                        newest += 1;
                    }
                    1 | 2 if !members.is_empty() => {
                        let place = pick % members.len() as u32;
                        members.swap_remove(place as usize);
                        let moved = members.get(place as usize).map(|&member| token(member));
                        assert!(walk.note_removed(place, members.len() as u32, moved));
                    }
                    _ => drop(go(&mut walk, &members)),
                }
            }
            while go(&mut walk, &members) {}
            for member in members.iter().filter(|member| **member < count) {
                prop_assert!(gone_to.contains(member), "{member} was passed over");
            }
        }
    }
}
