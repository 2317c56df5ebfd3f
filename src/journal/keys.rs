//! Idempotency keys: which number the message got that was published with one, for as long as the window is.
//!
//! Keys go in the order in which they came: when the window is over, or earlier when there are too many or they take too much; how many went early is
//! counted, for a repeat of one of those is published again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use crate::limits::heap_bytes;

#[derive(Debug)]
pub struct Keys {
    /// Oldest first.
    all: VecDeque<Key>,
    /// The ordinal of the first in `all`.
    first: u64,
    ordinals: HashTable<(u64, u64)>,
    /// Keyed: keys come from clients.
    hasher: RandomState,
    bytes: usize,
    bytes_max: usize,
    window_ms: u64,
    forgotten_early: u64,
}

#[derive(Debug)]
pub struct Key {
    pub channel: Arc<str>,
    pub key: Box<str>,
    /// Of the channel: a key of one that was forgotten says nothing.
    pub born: u64,
    pub seq: u64,
    pub at_ms: u64,
    /// The segment in which it is said; without files 0.
    pub home: u32,
}

/// Its slot, its place in the table, and both may be half empty.
const KEY_BYTES: usize = 2 * (size_of::<Key>() + size_of::<(u64, u64)>() + 1);

impl Key {
    /// The name is the channel's own, but it may outlive it.
    fn bytes(&self) -> usize {
        KEY_BYTES + heap_bytes(self.key.len()) + heap_bytes(16 + self.channel.len())
    }

    /// What it holds of its segment.
    pub fn weight(&self) -> u64 {
        (self.channel.len() + self.key.len() + 40) as u64
    }
}

impl Keys {
    pub fn new(bytes_max: usize, window_ms: u64) -> Keys {
        Keys {
            all: VecDeque::new(),
            first: 0,
            ordinals: HashTable::new(),
            hasher: RandomState::new(),
            bytes: 0,
            bytes_max,
            window_ms,
            forgotten_early: 0,
        }
    }

    pub fn find(&self, channel: &str, key: &str) -> Option<&Key> {
        let ordinal = self.ordinal(channel, key)?;
        Some(&self.all[(ordinal - self.first) as usize])
    }

    pub fn find_mut(&mut self, channel: &str, key: &str) -> Option<&mut Key> {
        let ordinal = self.ordinal(channel, key)?;
        Some(&mut self.all[(ordinal - self.first) as usize])
    }

    fn ordinal(&self, channel: &str, key: &str) -> Option<u64> {
        let is_it = |&(_, ordinal): &(u64, u64)| {
            let found = &self.all[(ordinal - self.first) as usize];
            *found.key == *key && *found.channel == *channel
        };
        self.ordinals.find(self.hasher.hash_one((channel, key)), is_it).map(|(_, ordinal)| *ordinal)
    }

    /// The newest; it may have been there before, and counts from now on.
    pub fn push(&mut self, key: Key) {
        let hash = self.hasher.hash_one((&*key.channel, &*key.key));
        let before = self.ordinal(&key.channel, &key.key);
        if let Ok(found) = self.ordinals.find_entry(hash, |&(_, ordinal)| Some(ordinal) == before) {
            found.remove();
        }
        let ordinal = self.first + self.all.len() as u64;
        self.bytes += key.bytes();
        self.all.push_back(key);
        self.ordinals.insert_unique(hash, (hash, ordinal), |(hash, _)| *hash);
    }

    /// One that goes now.
    pub fn pop(&mut self, now_ms: u64) -> Option<Key> {
        let oldest = self.all.front()?;
        let is_over = now_ms.saturating_sub(oldest.at_ms) > self.window_ms;
        if !is_over && self.bytes <= self.bytes_max {
            return None;
        }
        let key = self.all.pop_front()?;
        let hash = self.hasher.hash_one((&*key.channel, &*key.key));
        let ordinal = self.first;
        self.first += 1;
        self.bytes -= key.bytes();
        // Unless it came again later.
        if let Ok(found) = self.ordinals.find_entry(hash, |&(_, other)| other == ordinal) {
            found.remove();
            self.forgotten_early += u64::from(!is_over);
        }
        Some(key)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, seq: u64, at_ms: u64) -> Key {
        Key { channel: "news".into(), key: text.into(), born: 1, seq, at_ms, home: 0 }
    }

    #[test]
    fn a_key_is_known_until_its_window_is_over() {
        let mut keys = Keys::new(1 << 20, 1000);
        keys.push(key("a", 1, 0));
        keys.push(key("b", 2, 500));
        let seq = |keys: &Keys, text: &str| keys.find("news", text).map(|key| key.seq);
        assert_eq!((seq(&keys, "a"), seq(&keys, "b"), seq(&keys, "c")), (Some(1), Some(2), None));
        assert!(keys.find("other", "a").is_none() && keys.pop(1000).is_none());
        assert_eq!(keys.pop(1001).map(|key| key.seq), Some(1));
        assert_eq!((seq(&keys, "a"), seq(&keys, "b"), keys.forgotten_early()), (None, Some(2), 0));
        keys.push(key("b", 3, 1400));
        assert_eq!(keys.pop(1501).map(|key| key.seq), Some(2));
        assert_eq!((seq(&keys, "b"), keys.len()), (Some(3), 1), "it came again");
    }

    #[test]
    fn too_many_keys_cost_the_oldest_and_are_counted() {
        let mut keys = Keys::new(100_000, 1000);
        for seq in 0..10_000 {
            keys.push(key(&format!("key {seq}"), seq, 0));
            while keys.pop(0).is_some() {}
            assert!(keys.bytes() <= 100_000);
        }
        assert!(keys.len() > 100 && keys.find("news", "key 9999").is_some() && keys.find("news", "key 0").is_none());
        assert_eq!(keys.forgotten_early(), 10_000 - keys.len() as u64);
    }
}
