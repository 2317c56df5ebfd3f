//! The hub's channels that nobody hears any more: when each is to be looked at, and which goes first when room is needed for another.
//!
//! Room is taken from whoever has left the most behind: from the address with the most such channels, there from the connection with the
//! most, and of its channels from the one that would go soonest anyway. So whoever subscribes to a thousand names and leaves them
//! pushes out its own, and a crowd in which everybody leaves one behind loses the oldest. Every step costs the logarithm of the number.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Creator;
use super::registry::ChannelId;
use crate::addresses::Source;
use crate::clock::MonotonicNs;

#[derive(Debug, Default)]
pub struct Lingering {
    due: BTreeSet<(MonotonicNs, ChannelId)>,
    /// The same by creator.
    left_by: BTreeSet<(Creator, MonotonicNs, ChannelId)>,
    creators: BTreeMap<Creator, Debt>,
    sources: BTreeMap<Source, Debt>,
    /// The creators of each source, and the sources; whoever is to be taken from stands last.
    ranked_creators: BTreeSet<(Source, Debt, Creator)>,
    ranked_sources: BTreeSet<(Debt, Source)>,
}

/// How much somebody has left behind; among equals whose oldest is due first has the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Debt {
    channels: u32,
    due: Reverse<MonotonicNs>,
}

impl Lingering {
    pub fn insert(&mut self, id: ChannelId, due: MonotonicNs, creator: Creator) {
        self.due.insert((due, id));
        self.left_by.insert((creator, due, id));
        self.change(creator, 1);
    }

    pub fn remove(&mut self, id: ChannelId, due: MonotonicNs, creator: Creator) {
        let was_there = self.due.remove(&(due, id)) && self.left_by.remove(&(creator, due, id));
        debug_assert!(was_there, "removed as it was inserted");
        self.change(creator, -1);
    }

    /// What is to be looked at next, and when.
    pub fn next(&self) -> Option<(MonotonicNs, ChannelId)> {
        self.due.first().copied()
    }

    /// The channel that goes when room is needed.
    pub fn first_to_go(&self) -> Option<ChannelId> {
        let &(_, source) = self.ranked_sources.last()?;
        let creator = self.worst_of(source)?.0;
        self.oldest_of(creator).map(|(_, id)| id)
    }

    /// The creator of that source with the most.
    fn worst_of(&self, source: Source) -> Option<(Creator, Debt)> {
        let after = (source, Debt { channels: u32::MAX, due: Reverse(0) }, Creator::last_of(source));
        let &(found, debt, creator) = self.ranked_creators.range(..=after).next_back()?;
        (found == source).then_some((creator, debt))
    }

    fn oldest_of(&self, creator: Creator) -> Option<(MonotonicNs, ChannelId)> {
        let &(found, due, id) = self.left_by.range((creator, 0, 0)..).next()?;
        (found == creator).then_some((due, id))
    }

    fn change(&mut self, creator: Creator, by: i32) {
        let source = creator.source;
        let channels = |before: Option<Debt>| before.map_or(0, |debt| debt.channels).checked_add_signed(by).expect("what leaves has come");

        let before = self.creators.remove(&creator);
        if let Some(debt) = before {
            self.ranked_creators.remove(&(source, debt, creator));
        }
        if let Some((due, _)) = self.oldest_of(creator) {
            let debt = Debt { channels: channels(before), due: Reverse(due) };
            self.creators.insert(creator, debt);
            self.ranked_creators.insert((source, debt, creator));
        }

        let before = self.sources.remove(&source);
        if let Some(debt) = before {
            self.ranked_sources.remove(&(debt, source));
        }
        if let Some((_, worst)) = self.worst_of(source) {
            let debt = Debt { channels: channels(before), due: worst.due };
            self.sources.insert(source, debt);
            self.ranked_sources.insert((debt, source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creator(address: u8, connection: u32) -> Creator {
        Creator { source: Source::of(([10, 0, 0, address], 1).into()), shard: 0, connection }
    }

    /// Against a list that is searched.
    #[test]
    fn whoever_has_left_the_most_is_taken_from_and_the_oldest_goes_first() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut lingering = Lingering::default();
            let mut model: Vec<(MonotonicNs, ChannelId, Creator)> = Vec::new();
            for id in 0..400 {
                if random.u32(0..5) < 3 {
                    let creator = creator(random.u8(0..4), random.u32(0..3));
                    let due = random.u64(0..1000);
                    lingering.insert(id, due, creator);
                    model.push((due, id, creator));
                } else if !model.is_empty() {
                    let (due, id, creator) = model.swap_remove(random.usize(0..model.len()));
                    lingering.remove(id, due, creator);
                }
                assert_eq!(lingering.next(), model.iter().map(|&(due, id, _)| (due, id)).min(), "seed {seed}");
                let Some(id) = lingering.first_to_go() else {
                    assert!(model.is_empty());
                    continue;
                };
                let of_source = |source| model.iter().filter(|(.., creator)| creator.source == source).count();
                let of = |creator| model.iter().filter(|(.., other)| *other == creator).count();
                let &(due, _, goes) = model.iter().find(|(_, other, _)| *other == id).expect("it lingers");
                for &(other_due, _, other) in &model {
                    assert!(of_source(other.source) <= of_source(goes.source), "seed {seed}: another address has more");
                    assert!(other.source != goes.source || of(other) <= of(goes), "seed {seed}: another connection has more");
                    let is_equal = other.source == goes.source && of(other) == of(goes);
                    assert!(!is_equal || due <= other_due, "seed {seed}: another is older");
                }
            }
            for (due, id, creator) in model {
                lingering.remove(id, due, creator);
            }
            let Lingering { due, left_by, creators, sources, ranked_creators, ranked_sources } = lingering;
            assert!(due.is_empty() && left_by.is_empty() && creators.is_empty() && sources.is_empty(), "seed {seed}");
            assert!(ranked_creators.is_empty() && ranked_sources.is_empty(), "seed {seed}");
        }
    }

    #[test]
    fn a_crowd_that_leaves_one_each_loses_the_oldest() {
        let mut lingering = Lingering::default();
        for id in 0..100u32 {
            lingering.insert(id, 1000 + u64::from(id * 7 % 100), creator(id as u8, id));
        }
        for expected in 0..100u64 {
            let (due, next) = lingering.next().unwrap();
            assert_eq!((due, lingering.first_to_go()), (1000 + expected, Some(next)));
            lingering.remove(next, due, creator(next as u8, next));
        }
    }
}
