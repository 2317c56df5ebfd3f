//! Up to which number each user has read each channel.
//!
//! A mark never goes back. It belongs to the channel as it was then: one of a channel that was forgotten and came again with new numbers counts as none.
//! Users go whole, the one that has marked nothing for longest first: when its marks are too old, or all together take too much. Of a user's marks beyond
//! [`MARKS_PER_USER_MAX`] the one goes that was set longest ago.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use crate::limits::heap_bytes;
use crate::limits::journal::MARKS_PER_USER_MAX;

#[derive(Debug)]
pub struct Marks {
    users: Slab<User>,
    ids: HashMap<Arc<str>, u32>,
    oldest: u32,
    newest: u32,
    bytes: usize,
    bytes_max: usize,
    age_ms: u64,
}

#[derive(Debug)]
pub struct User {
    pub name: Arc<str>,
    /// The one that was set last at the end.
    pub marks: Vec<Mark>,
    /// When that was.
    at_ms: u64,
    older: u32,
    newer: u32,
}

#[derive(Debug, Clone)]
pub struct Mark {
    pub channel: Arc<str>,
    /// The channel's when it was set.
    pub epoch: u64,
    pub seq: u64,
    pub at_ms: u64,
    /// The segment in which it is said; without files 0.
    pub home: u32,
}

/// Its slot and its place in the table, both of which may be half empty, and its name.
const USER_BYTES: usize = 2 * (size_of::<User>() + size_of::<(Arc<str>, u32)>() + 1);
const NOBODY: u32 = u32::MAX;

impl User {
    fn bytes(&self) -> usize {
        let names: usize = self.marks.iter().map(|mark| heap_bytes(16 + mark.channel.len())).sum();
        USER_BYTES + heap_bytes(16 + self.name.len()) + heap_bytes(self.marks.capacity() * size_of::<Mark>()) + names
    }
}

impl Mark {
    /// What it holds of its segment.
    pub fn weight(&self, user: &str) -> u64 {
        (user.len() + self.channel.len() + 40) as u64
    }
}

impl Marks {
    pub fn new(bytes_max: usize, age_ms: u64) -> Marks {
        Marks { users: Slab::new(), ids: HashMap::new(), oldest: NOBODY, newest: NOBODY, bytes: 0, bytes_max, age_ms }
    }

    pub fn find(&self, user: &str, channel: &str) -> Option<&Mark> {
        let user = &self.users[*self.ids.get(user)? as usize];
        user.marks.iter().find(|mark| *mark.channel == *channel)
    }

    /// It is said elsewhere now.
    pub fn set_home(&mut self, user: &str, channel: &str, home: u32) {
        let Some(&id) = self.ids.get(user) else { return };
        if let Some(mark) = self.users[id as usize].marks.iter_mut().find(|mark| *mark.channel == *channel) {
            mark.home = home;
        }
    }

    /// Puts it in the place of an earlier one; returns those that go for it.
    pub fn set(&mut self, user: &str, mark: Mark) -> Vec<Mark> {
        let id = match self.ids.get(user) {
            Some(&id) => {
                self.unlink(id);
                id
            }
            None => {
                let name: Arc<str> = user.into();
                let user = User { name: name.clone(), marks: Vec::new(), at_ms: 0, older: NOBODY, newer: NOBODY };
                let id = u32::try_from(self.users.insert(user)).expect("memory ends far below 2^32 users");
                self.ids.insert(name, id);
                id
            }
        };
        let user = &mut self.users[id as usize];
        self.bytes -= if user.marks.is_empty() { 0 } else { user.bytes() };
        let mut gone = Vec::new();
        if let Some(at) = user.marks.iter().position(|other| other.channel == mark.channel) {
            gone.push(user.marks.remove(at));
        } else if user.marks.len() >= MARKS_PER_USER_MAX {
            gone.push(user.marks.remove(0));
        }
        user.at_ms = user.at_ms.max(mark.at_ms);
        user.marks.push(mark);
        self.bytes += user.bytes();
        self.link(id);
        gone
    }

    fn link(&mut self, id: u32) {
        let newest = self.newest;
        let user = &mut self.users[id as usize];
        (user.older, user.newer) = (newest, NOBODY);
        match newest {
            NOBODY => self.oldest = id,
            newest => self.users[newest as usize].newer = id,
        }
        self.newest = id;
    }

    fn unlink(&mut self, id: u32) {
        let (older, newer) = (self.users[id as usize].older, self.users[id as usize].newer);
        match older {
            NOBODY => self.oldest = newer,
            older => self.users[older as usize].newer = newer,
        }
        match newer {
            NOBODY => self.newest = older,
            newer => self.users[newer as usize].older = older,
        }
    }

    /// A user who goes now.
    pub fn pop(&mut self, now_ms: u64) -> Option<User> {
        if self.oldest == NOBODY {
            return None;
        }
        let id = self.oldest;
        let oldest = &self.users[id as usize];
        if now_ms.saturating_sub(oldest.at_ms) <= self.age_ms && self.bytes <= self.bytes_max {
            return None;
        }
        self.unlink(id);
        let user = self.users.remove(id as usize);
        self.ids.remove(&user.name);
        self.bytes -= user.bytes();
        Some(user)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(channel: &str, seq: u64, at_ms: u64) -> Mark {
        Mark { channel: channel.into(), epoch: 1, seq, at_ms, home: 0 }
    }

    #[test]
    fn whoever_has_marked_nothing_for_longest_goes_first() {
        let mut marks = Marks::new(1 << 20, 1000);
        assert!(marks.set("u1", mark("a", 5, 0)).is_empty());
        marks.set("u2", mark("a", 6, 10));
        assert_eq!(marks.set("u1", mark("a", 7, 20)).len(), 1);
        marks.set("u1", mark("b", 1, 20));
        assert_eq!(marks.find("u1", "a").map(|mark| mark.seq), Some(7));
        assert!(marks.find("u1", "c").is_none() && marks.find("u3", "a").is_none());
        assert!(marks.pop(1010).is_none());
        assert_eq!(marks.pop(1011).map(|user| user.name), Some("u2".into()));
        let last = marks.pop(1021).unwrap();
        assert_eq!((&*last.name, last.marks.len(), marks.bytes(), marks.pop(5000).is_none()), ("u1", 2, 0, true));
    }

    #[test]
    fn marks_take_no_more_than_they_may() {
        let mut marks = Marks::new(200_000, 1000);
        for number in 0..MARKS_PER_USER_MAX + 10 {
            marks.set("busy", mark(&format!("c{number}"), 1, 0));
        }
        assert!(marks.find("busy", "c9").is_none() && marks.find("busy", "c10").is_some());
        for number in 0..5000 {
            marks.set(&format!("u{number}"), mark("a", 1, 0));
            while marks.pop(0).is_some() {}
            assert!(marks.bytes() <= 200_000);
        }
        assert!(marks.find("busy", "c10").is_none() && marks.find("u4999", "a").is_some());
    }
}
