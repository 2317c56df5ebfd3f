//! Which of a connection's subscriptions are behind the heads of their logs, as a list through the subscriptions themselves: a visit looks
//! at what is due and not at all that is subscribed, which may be tens of thousands of channels.
//!
//! Invariants: a confirmed subscription that has not been sent everything is on the list, or a lap will still come by it. The one in the
//! middle of a frame, of which there is at most one, is the first. Whoever was behind longest comes next, so that a busy channel does
//! not starve a quiet one of the same connection.

use smallvec::SmallVec;

use super::conn::{Conn, Subscription};

/// No subscription has this number.
const NONE: u32 = u32::MAX;

/// A subscription's neighbours on the list, which is a circle.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    next: u32,
    previous: u32,
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
    last: u32,
}

impl Behind {
    pub const NOBODY: Behind = Behind { last: NONE };

    fn push(&mut self, all: &mut [Subscription], at: usize) {
        debug_assert!(all[at].links.is_off());
        let new = at as u32;
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
        let new = to as u32;
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
        (at as u32 != self.behind.last).then(|| self.subscriptions[at].links.next as usize)
    }

    pub fn has_behind(&self) -> bool {
        self.behind.last != NONE
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
