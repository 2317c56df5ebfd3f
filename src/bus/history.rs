//! The channels' newest batches, kept on the node so that a subscriber who comes back can resume. Owned by the hub: one [`History`] per
//! channel that has one, and one [`Histories`] that holds the batches of all of them, in the order in which they came.
//!
//! Whole batches are kept or dropped: at least `count` messages of a channel stay (while they are young enough), at most one batch
//! more. All channels together take at most `history_bytes_total`: beyond it the hub drops the oldest batch, whosever it is.
//! Every step is O(1): a batch is linked to its neighbours in age, so none is ever looked for.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::registry::ChannelId;
use crate::clock::{MonotonicNs, nanos};
use crate::config::ChannelRule;
use crate::fanout::batch::{Batch, KeptFrames};

/// What one channel keeps.
#[derive(Debug, Default)]
pub struct History {
    /// Places in [`Histories`], oldest first; their batches have consecutive numbers.
    places: VecDeque<u32>,
    weight: usize,
}

impl History {
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// What all channels keep.
#[derive(Debug)]
pub struct Histories {
    kept: Slab<Kept>,
    /// [`NOWHERE`] when nothing is kept.
    oldest: u32,
    newest: u32,
    /// As [`Kept::bytes`] counts: what does not change while a batch is kept.
    bytes: usize,
    /// The rest: kept batches grow when a shard asks for a format, and history alone may hold them by then.
    frames: Arc<KeptFrames>,
}

#[derive(Debug)]
struct Kept {
    batch: Arc<Batch>,
    /// When it was handed out.
    since: MonotonicNs,
    channel: ChannelId,
    older: u32,
    newer: u32,
}

/// The slot of a batch and its number in its channel's list; both tables grow by doubling.
const KEPT_BYTES: usize = 2 * (size_of::<Option<Kept>>() + size_of::<u32>());

const NOWHERE: u32 = u32::MAX;

impl Kept {
    /// With what it costs to remember it, or a history of tiny batches would be twice its bound.
    fn bytes(&self) -> usize {
        self.batch.bytes() + KEPT_BYTES
    }
}

impl Default for Histories {
    fn default() -> Self {
        Histories { kept: Slab::new(), oldest: NOWHERE, newest: NOWHERE, bytes: 0, frames: Arc::default() }
    }
}

impl Histories {
    /// Appends a channel's newest batch and drops what the rule no longer wants.
    pub fn push(&mut self, history: &mut History, channel: ChannelId, batch: Arc<Batch>, now: MonotonicNs, rule: &ChannelRule) {
        batch.keep(&self.frames);
        history.weight += weight(&batch);
        let kept = Kept { batch, since: now, channel, older: self.newest, newer: NOWHERE };
        self.bytes += kept.bytes();
        let place = u32::try_from(self.kept.insert(kept)).expect("memory ends far below 2^32 batches");
        *self.newer_than(self.newest) = place;
        self.newest = place;
        history.places.push_back(place);
        self.prune(history, now, rule);
    }

    /// Drops what is too old, or more than asked for.
    pub fn prune(&mut self, history: &mut History, now: MonotonicNs, rule: &ChannelRule) {
        let age_ns = nanos(rule.history_age);
        while let Some(&place) = history.places.front() {
            let kept = &self.kept[place as usize];
            let is_old = now.saturating_sub(kept.since) > age_ns;
            let is_more = history.weight - weight(&kept.batch) >= rule.history_count;
            if !is_old && !is_more {
                break;
            }
            self.drop_oldest(history);
        }
    }

    /// Drops a channel's oldest batch; returns how many messages it had.
    pub fn drop_oldest(&mut self, history: &mut History) -> usize {
        let Some(place) = history.places.pop_front() else { return 0 };
        let kept = self.kept.remove(place as usize);
        *self.newer_than(kept.older) = kept.newer;
        *self.older_than(kept.newer) = kept.older;
        kept.batch.let_go();
        self.bytes -= kept.bytes();
        history.weight -= weight(&kept.batch);
        if history.places.is_empty() {
            history.places = VecDeque::new();
        }
        kept.batch.message_count()
    }

    pub fn drop_all(&mut self, history: &mut History) {
        while !history.is_empty() {
            self.drop_oldest(history);
        }
    }

    /// The channel whose oldest batch must go because all together take more than `bytes_max`.
    pub fn beyond(&self, bytes_max: usize) -> Option<ChannelId> {
        (self.bytes() > bytes_max && !self.is_empty()).then(|| self.kept[self.oldest as usize].channel)
    }

    /// A channel's batches, oldest first.
    pub fn batches(&self, history: &History) -> Vec<Arc<Batch>> {
        history.places.iter().map(|&place| self.kept[place as usize].batch.clone()).collect()
    }

    pub fn messages(&self, history: &History) -> usize {
        history.places.iter().map(|&place| self.kept[place as usize].batch.message_count()).sum()
    }

    /// Bytes that all channels keep, with the frames that shards have had encoded.
    pub fn bytes(&self) -> usize {
        self.bytes + self.frames.bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Where it is written which batch follows this one.
    fn newer_than(&mut self, place: u32) -> &mut u32 {
        if place == NOWHERE { &mut self.oldest } else { &mut self.kept[place as usize].newer }
    }

    fn older_than(&mut self, place: u32) -> &mut u32 {
        if place == NOWHERE { &mut self.newest } else { &mut self.kept[place as usize].older }
    }
}

/// A gap counts as one message, or a Redis that flaps would fill a quiet channel's history with gaps.
fn weight(batch: &Batch) -> usize {
    batch.message_count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::fanout::batch::{BatchBuilder, Channel};
    use crate::wire::Format;
    use crate::wire::framing::Encoding;
    use crate::wire::payload::Kind;

    const CHANNELS: usize = 5;

    /// Against a list of all that was pushed: whatever is done in whatever order, both hold the same.
    #[test]
    fn the_oldest_goes_first_whosever_it_is_and_the_account_is_exact() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let rule = ChannelRule { history_count: random.usize(1..12), ..Settings::default().channels.default };
            let age_ns = rule.history_age.as_nanos() as u64;
            let bytes_max = random.usize(1..20_000);
            let channel = Arc::new(Channel { name: "a".into(), epoch: 1, subscribers: Default::default() });
            let (mut all, mut histories) = (Histories::default(), [const { History { places: VecDeque::new(), weight: 0 } }; CHANNELS]);
            let mut model: Vec<(usize, u64, Arc<Batch>)> = Vec::new();
            let (mut now, mut seq) = (age_ns, 1);
            for _ in 0..300 {
                let id = random.usize(0..CHANNELS);
                match random.u32(0..10) {
                    0 => {
                        all.drop_all(&mut histories[id]);
                        model.retain(|(owner, ..)| *owner != id);
                    }
                    1 => {
                        now += random.u64(0..age_ns);
                        all.prune(&mut histories[id], now, &rule);
                        model.retain(|(owner, since, _)| *owner != id || now - since <= age_ns);
                    }
                    // A batch grows behind the history's back, kept or not.
                    2 | 3 if !model.is_empty() => {
                        let (.., batch) = &model[random.usize(0..model.len())];
                        batch.frames(Encoding::web_socket(Format::ALL[random.usize(0..Format::ALL.len())]));
                    }
                    _ => {
                        let mut builder = BatchBuilder::new(channel.clone(), seq);
                        builder.push(Kind::Json, &vec![b'1'; random.usize(1..2000)], now, 1);
                        seq += 1;
                        let batch = builder.seal();
                        if random.bool() {
                            batch.frames(Encoding::web_socket(Format::Json));
                        }
                        all.push(&mut histories[id], id as ChannelId, batch.clone(), now, &rule);
                        model.push((id, now, batch));
                        model.retain(|(owner, since, _)| *owner != id || now - since <= age_ns);
                        let owned = model.iter().filter(|(owner, ..)| *owner == id).count();
                        let mut more = owned.saturating_sub(rule.history_count);
                        model.retain(|(owner, ..)| {
                            let goes = *owner == id && more > 0;
                            more -= usize::from(goes);
                            !goes
                        });
                    }
                }
                while let Some(id) = all.beyond(bytes_max) {
                    assert_eq!(all.drop_oldest(&mut histories[id as usize]), 1, "seed {seed}");
                    assert_eq!(model.remove(0).0, id as usize, "seed {seed}: the oldest of all");
                }
                for (id, history) in histories.iter().enumerate() {
                    let firsts = |batches: Vec<Arc<Batch>>| batches.iter().map(|batch| batch.first()).collect::<Vec<_>>();
                    let owned = model.iter().filter(|(owner, ..)| *owner == id).map(|(.., batch)| batch.clone()).collect();
                    assert_eq!(firsts(all.batches(history)), firsts(owned), "seed {seed}");
                }
                let overhead = model.len() * KEPT_BYTES;
                let held = model.iter().map(|(.., batch)| batch.bytes_held()).sum::<usize>() + overhead;
                assert_eq!((all.bytes(), all.is_empty()), (held, model.is_empty()), "seed {seed}");
                assert!(all.bytes() <= bytes_max, "seed {seed}");
            }
        }
    }
}
