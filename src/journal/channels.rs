//! The durable channels by their names: epoch, last number, and which entries they keep.
//!
//! A channel without entries is quiet. It keeps its epoch and its last number for `channel_age` after it was last asked for, so that whoever comes back
//! to it goes on where it was; when there are too many channels, the quiet one goes that has not been asked for for longest.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use super::entries::ChannelId;
use super::record::Numbers;

#[derive(Debug)]
pub struct Channel {
    pub name: Arc<str>,
    pub numbers: Numbers,
    /// Places in [`super::entries::Entries`], by number.
    pub entries: VecDeque<u32>,
    /// The segment in which its numbers are said last; without files 0.
    pub home: u32,
    used_ms: u64,
    /// Neighbours among the quiet ones.
    older: u32,
    newer: u32,
    is_quiet: bool,
}

#[derive(Debug)]
pub struct Channels {
    all: Slab<Channel>,
    ids: HashTable<ChannelId>,
    /// Keyed: names come from clients.
    hasher: RandomState,
    oldest: u32,
    newest: u32,
}

const NOBODY: u32 = u32::MAX;

impl Default for Channels {
    fn default() -> Channels {
        Channels { all: Slab::new(), ids: HashTable::new(), hasher: RandomState::new(), oldest: NOBODY, newest: NOBODY }
    }
}

impl std::ops::Index<ChannelId> for Channels {
    type Output = Channel;
    fn index(&self, id: ChannelId) -> &Channel {
        &self.all[id as usize]
    }
}

impl std::ops::IndexMut<ChannelId> for Channels {
    fn index_mut(&mut self, id: ChannelId) -> &mut Channel {
        &mut self.all[id as usize]
    }
}

impl Channels {
    pub fn find(&self, name: &str) -> Option<ChannelId> {
        self.ids.find(self.hasher.hash_one(name), |&id| &*self[id].name == name).copied()
    }

    /// A new one, quiet for now; its name must not be there yet.
    pub fn insert(&mut self, name: &str, numbers: Numbers, home: u32, now_ms: u64) -> ChannelId {
        let channel = Channel {
            name: name.into(),
            numbers,
            entries: VecDeque::new(),
            home,
            used_ms: now_ms,
            older: NOBODY,
            newer: NOBODY,
            is_quiet: false,
        };
        let id = u32::try_from(self.all.insert(channel)).expect("memory ends far below 2^32 channels");
        let Channels { all, ids, hasher, .. } = self;
        ids.insert_unique(hasher.hash_one(name), id, |&id| hasher.hash_one(&*all[id as usize].name));
        self.hush(id, now_ms);
        id
    }

    /// It has lost its last entry, or never had one.
    pub fn hush(&mut self, id: ChannelId, now_ms: u64) {
        debug_assert!(!self[id].is_quiet && self[id].entries.is_empty());
        let newest = self.newest;
        let channel = &mut self[id];
        (channel.is_quiet, channel.older, channel.newer, channel.used_ms) = (true, newest, NOBODY, now_ms);
        match newest {
            NOBODY => self.oldest = id,
            newest => self[newest].newer = id,
        }
        self.newest = id;
    }

    /// It gets an entry.
    pub fn rouse(&mut self, id: ChannelId) {
        if !std::mem::take(&mut self[id].is_quiet) {
            return;
        }
        let (older, newer) = (self[id].older, self[id].newer);
        match older {
            NOBODY => self.oldest = newer,
            older => self[older].newer = newer,
        }
        match newer {
            NOBODY => self.newest = older,
            newer => self[newer].older = older,
        }
    }

    /// It is asked for.
    pub fn touch(&mut self, id: ChannelId, now_ms: u64) {
        if self[id].is_quiet {
            self.rouse(id);
            self.hush(id, now_ms);
        }
    }

    /// The quiet one that was not asked for for longest, and since when.
    pub fn quietest(&self) -> Option<(ChannelId, u64)> {
        (self.oldest != NOBODY).then(|| (self.oldest, self[self.oldest].used_ms))
    }

    /// # Panics
    /// If it has entries.
    pub fn remove(&mut self, id: ChannelId) -> Channel {
        assert!(self[id].entries.is_empty(), "entries go before their channel");
        self.rouse(id);
        let channel = self.all.remove(id as usize);
        if let Ok(found) = self.ids.find_entry(self.hasher.hash_one(&*channel.name), |&other| other == id) {
            found.remove();
        }
        channel
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn get(&self, id: ChannelId) -> Option<&Channel> {
        self.all.get(id as usize)
    }

    /// More than the highest number in use, for whoever walks over them.
    pub fn end(&self) -> ChannelId {
        self.all.capacity() as ChannelId
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quiet_one_that_was_not_asked_for_for_longest_goes_first() {
        let mut channels = Channels::default();
        let ids: Vec<_> = (0..5).map(|at| channels.insert(&format!("c{at}"), Numbers::default(), 0, at)).collect();
        assert_eq!((channels.quietest(), channels.find("c3"), channels.find("c5")), (Some((ids[0], 0)), Some(ids[3]), None));
        channels.touch(ids[0], 10);
        channels.rouse(ids[1]);
        channels.touch(ids[1], 11);
        assert_eq!(channels.quietest(), Some((ids[2], 2)), "one that is not quiet is not among them");
        assert_eq!(&*channels.remove(ids[2]).name, "c2");
        channels.remove(ids[3]);
        channels.hush(ids[1], 12);
        let mut order = Vec::new();
        while let Some((id, used_ms)) = channels.quietest() {
            order.push((id, used_ms));
            channels.remove(id);
        }
        assert_eq!(order, [(ids[4], 4), (ids[0], 10), (ids[1], 12)]);
        assert_eq!((channels.len(), channels.find("c1")), (0, None));
    }
}
