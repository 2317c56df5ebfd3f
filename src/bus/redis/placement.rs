//! Which of several servers has a channel. Depends on names, and in a Cluster on its map; `docs/operations.md` says it for whoever publishes from elsewhere.
//!
//! Invariant: of independent servers, whoever counts the servers alike gives the same answer, whatever the language: FNV-1a of 64 bits over the
//! channel's name as clients write it, then a jump hash. One server more at the end of the list takes its part of the channels from the others, and moves no other.

use std::sync::Arc;

use super::keys::{self, SLOTS};

/// How channels lie on the servers of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// On the only one.
    One,
    /// By a hash of their names, on so many.
    Hashed { servers: usize },
    /// By hash slot, on the masters of a Cluster.
    Slots(Slots),
}

/// The number of the server that has each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots(Box<[u16]>);

/// Of a slot that no server has.
const NOBODY: u16 = u16::MAX;

impl Default for Slots {
    fn default() -> Slots {
        Slots(vec![NOBODY; usize::from(SLOTS)].into())
    }
}

impl Slots {
    pub fn set(&mut self, slots: impl Iterator<Item = u16>, server: usize) {
        slots.for_each(|slot| self.0[usize::from(slot)] = server as u16);
    }

    #[inline]
    pub fn server_of(&self, slot: u16) -> Option<usize> {
        Some(self.0[usize::from(slot)]).filter(|&server| server != NOBODY).map(usize::from)
    }

    pub fn is_whole(&self) -> bool {
        !self.0.contains(&NOBODY)
    }
}

impl Placement {
    pub fn of(servers: usize) -> Placement {
        if servers > 1 { Placement::Hashed { servers } } else { Placement::One }
    }

    /// The number of the server that has this channel. None: its slot has no master.
    #[inline]
    pub fn server_of(&self, channel: &str) -> Option<usize> {
        match self {
            Placement::One => Some(0),
            Placement::Hashed { servers } => Some(hashed(channel, *servers)),
            Placement::Slots(slots) => slots.server_of(keys::slot_of(channel)),
        }
    }

    /// What comes to one server comes to all of them, too.
    pub fn is_cluster(&self) -> bool {
        matches!(self, Placement::Slots(_))
    }
}

/// The channels that one of the servers has.
#[derive(Debug, Clone)]
pub struct Part {
    placement: Arc<Placement>,
    server: usize,
}

impl Part {
    pub fn new(placement: Arc<Placement>, server: usize) -> Part {
        Part { placement, server }
    }

    #[inline]
    pub fn has(&self, channel: &str) -> bool {
        self.placement.server_of(channel) == Some(self.server)
    }

    /// No channel can be its own: a master without slots.
    pub fn is_empty(&self) -> bool {
        match &*self.placement {
            Placement::Slots(slots) => (0..SLOTS).all(|slot| slots.server_of(slot) != Some(self.server)),
            Placement::One | Placement::Hashed { .. } => false,
        }
    }

    pub fn is_of_cluster(&self) -> bool {
        self.placement.is_cluster()
    }
}

/// The place of the one of so many independent servers that has this channel.
pub fn hashed(channel: &str, servers: usize) -> usize {
    jump(fnv1a(channel.as_bytes()), servers)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// "A Fast, Minimal Memory, Consistent Hash Algorithm" (Lamping, Veach).
fn jump(mut key: u64, buckets: usize) -> usize {
    let (mut bucket, mut next) = (0, 0);
    while next < buckets as u64 {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as u64;
    }
    bucket as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: [(&str, usize, usize, usize); 8] = [
        ("news", 1, 2, 3),
        ("user:1", 0, 0, 5),
        ("user:2", 0, 2, 7),
        ("orders:7", 1, 1, 8),
        ("room 9", 1, 1, 1),
        ("", 1, 1, 1),
        ("größe", 0, 0, 0),
        ("a{b}c", 0, 0, 5),
    ];

    /// As `docs/operations.md` has them, where Python reckons them too.
    #[test]
    fn a_channel_has_the_server_that_the_page_says() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        for (channel, of_2, of_3, of_10) in VECTORS {
            let found = [2, 3, 10].map(|servers| Placement::of(servers).server_of(channel));
            assert_eq!(found, [of_2, of_3, of_10].map(Some), "{channel}");
        }
        assert_eq!(Placement::of(1).server_of("news"), Some(0));
    }

    #[test]
    fn a_slot_without_a_master_is_nobodys() {
        let mut slots = Slots::default();
        slots.set(0..=8191, 3);
        assert!(!slots.is_whole());
        // `a` has slot 15495, `b` 3300.
        let placement = Placement::Slots(slots.clone());
        assert_eq!((placement.server_of("b"), placement.server_of("a")), (Some(3), None));
        slots.set(8192..=16_383, 0);
        assert!(slots.is_whole());
        assert_eq!(Placement::Slots(slots).server_of("a"), Some(0));
    }

    #[test]
    fn channels_lie_evenly_and_a_server_more_takes_its_part_alone() {
        let names: Vec<String> = (0..30_000).map(|number| format!("user:{number}")).collect();
        let (three, four) = (Placement::of(3), Placement::of(4));
        let mut counts = [0; 4];
        for name in &names {
            let (before, after) = (three.server_of(name).unwrap(), four.server_of(name).unwrap());
            assert!(before == after || after == 3, "{name} goes from {before} to {after}");
            counts[after] += 1;
        }
        assert!(counts.iter().all(|count| (7_000..8_000).contains(count)), "{counts:?}");
    }
}
