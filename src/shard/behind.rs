//! Which of a connection's subscriptions are behind the heads of their logs, as a list through the subscriptions themselves: a visit looks
//! at what is due and not at all that is subscribed, which may be tens of thousands of channels.
//!
//! Invariants: a confirmed subscription that has not been sent everything is on the list, or a lap will still come by it. The one in the
//! middle of a frame, of which there is at most one, is the first. Whoever was behind longest comes next, so that a busy channel does
//! not starve a quiet one of the same connection.

use smallvec::SmallVec;

use super::Shard;
use super::conn::{Conn, Flags, Subscription};
use super::net::Network;
use crate::fanout::topics::Member;
use crate::limits;

/// No subscription has this number.
const NONE: u16 = u16::MAX;

const _: () = assert!(limits::SUBSCRIPTIONS_MAX < NONE as usize, "one more may be leaving");

/// A subscription's neighbours on the list, which is a circle.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    next: u16,
    previous: u16,
}

impl Links {
    pub const OFF: Links = Links { next: NONE, previous: NONE };

    pub fn is_off(self) -> bool {
        self.next == NONE
    }
}

/// The list's last member; its next is the first. What else a list needs are the links.
#[derive(Debug, Clone, Copy)]
pub struct Behind {
    last: u16,
}

impl Behind {
    pub const NOBODY: Behind = Behind { last: NONE };

    fn push(&mut self, all: &mut [Subscription], at: usize) {
        debug_assert!(all[at].links.is_off());
        let new = at as u16;
        if self.last == NONE {
            all[at].links = Links { next: new, previous: new };
        } else {
            let (last, first) = (self.last, all[self.last as usize].links.next);
            all[at].links = Links { next: first, previous: last };
            all[last as usize].links.next = new;
            all[first as usize].links.previous = new;
        }
        self.last = new;
    }

    fn remove(&mut self, all: &mut [Subscription], at: usize) {
        let Links { next, previous } = std::mem::replace(&mut all[at].links, Links::OFF);
        if next as usize == at {
            self.last = NONE;
            return;
        }
        all[previous as usize].links.next = next;
        all[next as usize].links.previous = previous;
        if self.last as usize == at {
            self.last = previous;
        }
    }

    /// The subscription now at `to` stood at `from`.
    fn renumber(&mut self, all: &mut [Subscription], from: usize, to: usize) {
        let Links { next, previous } = all[to].links;
        if next == NONE {
            return;
        }
        let new = to as u16;
        if next as usize == from {
            all[to].links = Links { next: new, previous: new };
        } else {
            all[previous as usize].links.next = new;
            all[next as usize].links.previous = new;
        }
        if self.last as usize == from {
            self.last = new;
        }
    }
}

impl<S> Conn<S> {
    /// Puts a subscription at the end of those that are behind, from wherever it was.
    pub fn push_behind(&mut self, at: usize) {
        if !self.subscriptions[at].links.is_off() {
            self.behind.remove(&mut self.subscriptions, at);
        }
        self.behind.push(&mut self.subscriptions, at);
    }

    /// Puts a subscription before all others that are behind.
    pub fn push_first_behind(&mut self, at: usize) {
        if self.first_behind() != Some(at) {
            self.push_behind(at);
            self.behind.last = self.subscriptions[at].links.previous;
        }
    }

    pub fn remove_behind(&mut self, at: usize) {
        if !self.subscriptions[at].links.is_off() {
            self.behind.remove(&mut self.subscriptions, at);
        }
    }

    pub fn first_behind(&self) -> Option<usize> {
        let last = self.subscriptions.get(self.behind.last as usize)?;
        Some(last.links.next as usize)
    }

    pub fn next_behind(&self, at: usize) -> Option<usize> {
        (at as u16 != self.behind.last).then(|| self.subscriptions[at].links.next as usize)
    }

    pub fn has_behind(&self) -> bool {
        self.behind.last != NONE
    }

    pub fn add_subscription(&mut self, subscription: Subscription) {
        // By half and not to double: of a list that grows long, little lies idle.
        if self.subscriptions.len() == self.subscriptions.capacity() {
            self.subscriptions.reserve_exact(self.subscriptions.len().div_ceil(2));
        }
        self.subscriptions.push(subscription);
    }

    /// Takes a subscription out; the last one moves into its place.
    pub fn swap_remove_subscription(&mut self, at: usize) -> Subscription {
        let gone = self.subscriptions[at];
        self.remove_behind(at);
        self.subscriptions.swap_remove(at);
        let count = self.subscriptions.len();
        if at < count {
            self.behind.renumber(&mut self.subscriptions, count, at);
        }
        give_back(&mut self.subscriptions);
        gone
    }
}

impl<N: Network> Shard<N> {
    /// Finds out whether a subscription is behind the head of its log, and keeps it on the list if so. One that is paced is behind when its turn
    /// has come, and not before (`pacing`).
    pub(super) fn note_behind(&mut self, key: usize, at: usize) -> bool {
        let subscription = &self.conns[key].subscriptions[at];
        if subscription.waiter().is_some() || subscription.is_leaving() || subscription.is_paced() {
            return false;
        }
        let (topic, is_on_pages) = (subscription.topic, subscription.is_on_pages());
        let is_behind = subscription.cursor().seq < self.topics[topic].head();
        if is_behind && !subscription.is_lagging() {
            self.conns[key].push_behind(at);
            match is_on_pages {
                // No log has to keep anything for it.
                true => self.metrics.lagging.inc(),
                false => self.set_lagging(topic, false, false, true),
            }
        }
        is_behind
    }

    /// Takes a subscription that has reached the head of its log off the list.
    pub(super) fn note_caught_up(&mut self, key: usize, at: usize) {
        let subscription = &self.conns[key].subscriptions[at];
        if subscription.is_lagging() {
            let (topic, is_paced) = (subscription.topic, subscription.is_paced());
            self.conns[key].remove_behind(at);
            self.set_lagging(topic, is_paced, true, false);
            self.forget_left(key, at);
            self.logs.retire_if_idle(&mut self.topics, topic, self.now_ns);
        }
    }

    /// Other channels of this connection may have news whose laps have still to come by: what they have goes into the same write. Whoever has
    /// many channels is visited by each of their laps, so that a few neighbours each time come to all of them.
    pub(super) fn look_around(&mut self, key: usize, from: usize) {
        let conn = &self.conns[key];
        let count = conn.subscriptions.len();
        if count <= 1 && conn.has_behind() || !conn.is_open() {
            return;
        }
        let looks = count.min(limits::NEIGHBOURS_PER_VISIT);
        self.metrics.looks.add(looks as u64);
        for step in 0..looks {
            self.note_behind(key, (from + step) % count);
        }
    }

    /// A lap has been to this member: if it is our bound on a visit that leaves it behind, its log must not take it for slow.
    pub(super) fn note_left(&mut self, topic: u32, member: Member) {
        let Some(conn) = self.conns.get_mut(member.conn as usize).filter(|conn| !conn.flags.has(Flags::BLOCKED)) else { return };
        // It may have left in the course of the visit.
        if let Some(subscription) = conn.subscriptions.get_mut(member.subscription as usize)
            && subscription.topic == topic
            && subscription.is_lagging()
            && !subscription.is_paced()
            && !subscription.is_on_pages()
        {
            let is_new = subscription.note_left();
            self.topics[topic].note_left(subscription.cursor().seq, is_new);
        }
    }

    /// The same for all that the next write of this connection is for.
    pub(super) fn note_all_left(&mut self, key: usize) {
        let mut next = self.conns[key].first_behind();
        for _ in 0..limits::SLICES_PER_WRITE {
            let Some(at) = next else { break };
            next = self.conns[key].next_behind(at);
            let topic = self.conns[key].subscriptions[at].topic;
            self.note_left(topic, Member { conn: key as u32, subscription: at as u32 });
        }
    }

    /// It is not our bound any more that leaves this subscription behind. What was kept beyond the log's bound for it alone goes.
    pub(super) fn forget_left(&mut self, key: usize, at: usize) {
        let subscription = &mut self.conns[key].subscriptions[at];
        let topic = subscription.topic;
        if subscription.forget_left() && self.topics[topic].forget_left() && self.topics[topic].lagging() > 0 {
            self.logs.measure(&mut self.topics, topic);
        }
    }

    /// A subscription of this topic is behind from now on, or no more. For one that is paced the log keeps the newest message and nothing else.
    pub(super) fn set_lagging(&mut self, topic: u32, is_paced: bool, was: bool, is: bool) {
        if was == is {
            return;
        }
        if is {
            self.metrics.lagging.inc()
        } else {
            self.metrics.lagging.dec()
        }
        match (is_paced.then(|| self.topics.paced_mut(topic)).flatten(), is) {
            (Some(paced), true) => paced.add_owed(),
            (Some(paced), false) => paced.remove_owed(),
            (None, true) => self.topics[topic].add_lagging(),
            (None, false) => self.topics[topic].remove_lagging(),
        }
    }
}

/// A connection that has left nearly all of its channels keeps no room for them.
fn give_back(subscriptions: &mut SmallVec<[Subscription; 1]>) {
    let (count, capacity) = (subscriptions.len(), subscriptions.capacity());
    if count <= 1 {
        subscriptions.shrink_to_fit();
    } else if capacity > 64 && count * 4 < capacity {
        let mut smaller = SmallVec::with_capacity(count * 2);
        smaller.extend_from_slice(subscriptions);
        *subscriptions = smaller;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::wire::Format;

    /// Against a queue of topics, which do not change their names when subscriptions change places.
    #[test]
    fn the_list_is_a_queue_whatever_moves() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let mut conn = Conn::new((), 1, Format::Json, 0);
            let mut queue: VecDeque<u32> = VecDeque::new();
            let mut topics = 0;
            for _ in 0..rng.usize(1..400) {
                let count = conn.subscriptions.len();
                match rng.u8(..6) {
                    0 | 1 => {
                        conn.subscriptions.push(Subscription::waiting(topics, 0, 0));
                        topics += 1;
                    }
                    2 if count > 0 => {
                        let gone = conn.swap_remove_subscription(rng.usize(..count));
                        queue.retain(|&topic| topic != gone.topic);
                    }
                    3 if count > 0 => {
                        let at = rng.usize(..count);
                        conn.push_behind(at);
                        queue.retain(|&topic| topic != conn.subscriptions[at].topic);
                        queue.push_back(conn.subscriptions[at].topic);
                    }
                    4 if count > 0 => {
                        let at = rng.usize(..count);
                        conn.remove_behind(at);
                        queue.retain(|&topic| topic != conn.subscriptions[at].topic);
                    }
                    5 if count > 0 => {
                        let at = rng.usize(..count);
                        conn.push_first_behind(at);
                        queue.retain(|&topic| topic != conn.subscriptions[at].topic);
                        queue.push_front(conn.subscriptions[at].topic);
                    }
                    _ => {}
                }
                let mut listed = VecDeque::new();
                let mut at = conn.first_behind();
                while let Some(here) = at {
                    listed.push_back(conn.subscriptions[here].topic);
                    at = conn.next_behind(here);
                }
                assert_eq!(listed, queue);
                assert_eq!(conn.has_behind(), !queue.is_empty());
                assert_eq!(conn.subscriptions.iter().filter(|subscription| !subscription.links.is_off()).count(), queue.len());
            }
        }
    }

    #[test]
    fn a_connection_that_has_left_its_channels_keeps_no_room_for_them() {
        let mut conn = Conn::new((), 1, Format::Json, 0);
        for topic in 0..20_000 {
            conn.subscriptions.push(Subscription::waiting(topic, 0, 0));
        }
        while conn.subscriptions.len() > 100 {
            conn.swap_remove_subscription(7);
        }
        assert!(conn.subscriptions.capacity() <= 400);
        while conn.subscriptions.len() > 1 {
            conn.swap_remove_subscription(0);
        }
        assert!(!conn.subscriptions.spilled());
    }
}
