//! What all channels keep, in the order in which it came: where each entry lies on disk, and the payloads of the newest in memory.
//!
//! Invariant: from the oldest warm entry on to the newest all have their payload in memory, and none before it has. So whatever takes too much memory
//! is found at once, and every step is O(1). Without files, an entry goes with its payload.

use std::collections::{HashMap, VecDeque};

use slab::Slab;

use super::disk::segments::Place;
use crate::limits::heap_bytes;

/// The number of a channel in its table.
pub type ChannelId = u32;

#[derive(Debug)]
pub struct Entries {
    kept: Slab<Kept>,
    /// [`NOWHERE`] when nothing is kept.
    oldest: u32,
    newest: u32,
    /// The oldest whose payload is in memory.
    warm: u32,
    payload_bytes: usize,
    /// Where entries lay that are being rewritten: read from there until what is written anew is synced.
    moved: HashMap<u32, Place>,
}

#[derive(Debug)]
pub struct Kept {
    pub seq: u64,
    pub timestamp_ms: u64,
    /// Of no meaning without files.
    pub place: Place,
    pub payload_bytes: u32,
    pub channel: ChannelId,
    /// None: it is on disk alone.
    pub payload: Option<Box<[u8]>>,
    older: u32,
    newer: u32,
}

/// The slot of an entry and its number in its channel's list; both tables grow by doubling.
pub const KEPT_BYTES: usize = 2 * (size_of::<Option<Kept>>() + size_of::<u32>());

const NOWHERE: u32 = u32::MAX;

/// Without files.
pub const NO_PLACE: Place = Place { segment: 0, offset: 0, bytes: 0 };

impl Default for Entries {
    fn default() -> Entries {
        Entries { kept: Slab::new(), oldest: NOWHERE, newest: NOWHERE, warm: NOWHERE, payload_bytes: 0, moved: HashMap::new() }
    }
}

impl Entries {
    /// Appends the newest of all; an old one that is on disk has no payload.
    pub fn push(
        &mut self,
        channel: ChannelId,
        seq: u64,
        timestamp_ms: u64,
        place: Place,
        payload_bytes: u32,
        payload: Option<Box<[u8]>>,
    ) -> u32 {
        let is_warm = payload.is_some();
        self.payload_bytes += payload.as_deref().map_or(0, payload_cost);
        let kept = Kept { seq, timestamp_ms, place, payload_bytes, channel, payload, older: self.newest, newer: NOWHERE };
        let at = u32::try_from(self.kept.insert(kept)).expect("memory ends far below 2^32 entries");
        match self.newest {
            NOWHERE => self.oldest = at,
            newest => self.kept[newest as usize].newer = at,
        }
        self.newest = at;
        if is_warm && self.warm == NOWHERE {
            self.warm = at;
        }
        at
    }

    pub fn remove(&mut self, at: u32) -> Kept {
        let kept = self.kept.remove(at as usize);
        match kept.older {
            NOWHERE => self.oldest = kept.newer,
            older => self.kept[older as usize].newer = kept.newer,
        }
        match kept.newer {
            NOWHERE => self.newest = kept.older,
            newer => self.kept[newer as usize].older = kept.older,
        }
        if self.warm == at {
            self.warm = kept.newer;
        }
        self.payload_bytes -= kept.payload.as_deref().map_or(0, payload_cost);
        if !self.moved.is_empty() {
            self.moved.remove(&at);
        }
        kept
    }

    pub fn get(&self, at: u32) -> &Kept {
        &self.kept[at as usize]
    }

    /// Where it can be read now.
    pub fn readable(&self, at: u32) -> Place {
        self.moved.get(&at).copied().unwrap_or(self.kept[at as usize].place)
    }

    /// It is written anew.
    pub fn set_place(&mut self, at: u32, place: Place) {
        let before = std::mem::replace(&mut self.kept[at as usize].place, place);
        self.moved.insert(at, before);
    }

    /// What was written anew is synced.
    pub fn forget_moved(&mut self) {
        self.moved = HashMap::new();
    }

    /// The channel that has the oldest entry of all.
    pub fn oldest_channel(&self) -> Option<ChannelId> {
        (self.oldest != NOWHERE).then(|| self.kept[self.oldest as usize].channel)
    }

    /// The oldest whose payload is in memory.
    pub fn oldest_warm(&self) -> Option<&Kept> {
        (self.warm != NOWHERE).then(|| &self.kept[self.warm as usize])
    }

    /// That one's payload leaves memory.
    pub fn cool(&mut self) {
        let kept = &mut self.kept[self.warm as usize];
        self.payload_bytes -= kept.payload.take().as_deref().map_or(0, payload_cost);
        self.warm = kept.newer;
    }

    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.kept.len() * KEPT_BYTES + self.payload_bytes
    }
}

fn payload_cost(payload: &[u8]) -> usize {
    heap_bytes(payload.len())
}

/// Where an entry with this number is, or the next one that is kept, in a channel's list.
pub fn position(entries: &Entries, list: &VecDeque<u32>, seq: u64) -> usize {
    let Some(&first) = list.front() else { return 0 };
    // Without holes it is where counting finds it.
    let guess = usize::try_from(seq.saturating_sub(entries.get(first).seq)).unwrap_or(usize::MAX);
    if list.get(guess).is_some_and(|&at| entries.get(at).seq == seq) {
        return guess;
    }
    list.partition_point(|&at| entries.get(at).seq < seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a list of all that was pushed.
    #[test]
    fn the_account_is_exact_and_the_newest_are_warm() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut entries, mut model) = (Entries::default(), Vec::<u32>::new());
            let mut cold = 0;
            for seq in 0..300 {
                match random.u8(0..6) {
                    0 | 1 if !model.is_empty() => {
                        let at = random.usize(0..model.len());
                        cold -= usize::from(at < cold);
                        entries.remove(model.remove(at));
                    }
                    2 if cold < model.len() => {
                        entries.cool();
                        cold += 1;
                    }
                    _ => {
                        let payload = vec![0; random.usize(0..100)].into_boxed_slice();
                        model.push(entries.push(7, seq, seq, NO_PLACE, payload.len() as u32, Some(payload)));
                    }
                }
                let warm: Vec<_> = model.iter().map(|&at| entries.get(at).payload.is_some()).collect();
                assert_eq!(warm, (0..model.len()).map(|at| at >= cold).collect::<Vec<_>>(), "seed {seed}");
                let payloads: usize = model.iter().filter_map(|&at| entries.get(at).payload.as_deref()).map(payload_cost).sum();
                assert_eq!((entries.len(), entries.bytes()), (model.len(), model.len() * KEPT_BYTES + payloads), "seed {seed}");
                assert_eq!(entries.oldest_warm().map(|kept| kept.seq), model.get(cold).map(|&at| entries.get(at).seq), "seed {seed}");
            }
        }
    }

    #[test]
    fn an_entry_is_found_with_and_without_holes() {
        let mut entries = Entries::default();
        let list: VecDeque<u32> = [3, 4, 5, 9, 10].into_iter().map(|seq| entries.push(0, seq, 0, NO_PLACE, 0, None)).collect();
        for (seq, at) in [(0, 0), (3, 0), (5, 2), (6, 3), (9, 3), (10, 4), (11, 5), (u64::MAX, 5)] {
            assert_eq!(position(&entries, &list, seq), at, "{seq}");
        }
        assert_eq!(position(&entries, &VecDeque::new(), 1), 0);
    }
}
