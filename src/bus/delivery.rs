//! What is on its way to the shards: the batches under construction, and a [`Lane`] to each shard, which knows what that shard is owed.
//! Owned by the hub; knows channels by their id alone. Sans-IO but for the inboxes, which never block.

use std::sync::Arc;

use super::lane::{Lane, News};
use super::registry::{ChannelId, Interest};
use super::{ShardMessage, ShardSender};
use crate::fanout::aside::Aside;
use crate::fanout::batch::{Batch, BatchBuilder};
use crate::fanout::topics::TopicToken;
use crate::limits::QUEUE_KEPT;

#[derive(Debug)]
pub struct Delivery {
    lanes: Vec<Lane>,
    /// The shards take nothing in before the bus's turn is over: it has to leave them room.
    in_step: bool,
    /// Batches under construction; None: sealed meanwhile.
    open: Vec<Option<(ChannelId, BatchBuilder)>>,
    /// Payload bytes of what was put into them.
    open_bytes: usize,
    /// How many times a shard was woken, ever.
    wakes: u64,
}

/// Where a channel's open batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenAt(u32);

impl OpenAt {
    pub const NOWHERE: OpenAt = OpenAt(u32::MAX);
}

impl Delivery {
    /// `inbox_bytes_total`: of batches in the inboxes of all shards together.
    pub fn new(shards: Vec<ShardSender>, inbox_messages: usize, inbox_bytes_total: usize) -> Delivery {
        let inbox_bytes_max = inbox_bytes_total / shards.len().max(1);
        let lanes = shards.into_iter().map(|sender| Lane::new(sender, inbox_messages, inbox_bytes_max)).collect();
        Delivery { lanes, in_step: false, open: Vec::new(), open_bytes: 0, wakes: 0 }
    }

    pub fn set_in_step(&mut self) {
        self.in_step = true;
    }

    /// Whether nothing more should come in before the shards have taken in what is there.
    pub fn is_ahead(&self) -> bool {
        self.in_step && !self.lanes.iter().all(|lane| lane.has_room_beside(self.open.len(), self.open_bytes))
    }

    // Batches under construction.

    /// The open batch, made if there is none, for a payload of so many bytes.
    pub fn open(&mut self, at: &mut OpenAt, id: ChannelId, payload_bytes: usize, make: impl FnOnce() -> BatchBuilder) -> &mut BatchBuilder {
        self.open_bytes += payload_bytes;
        if *at == OpenAt::NOWHERE {
            *at = OpenAt(self.open.len() as u32);
            self.open.push(Some((id, make())));
        }
        let Some((_, open)) = &mut self.open[at.0 as usize] else { unreachable!("a batch that is sealed is not open") };
        open
    }

    /// Whether there is one that should be sealed before this payload.
    pub fn is_full_for(&self, at: OpenAt, payload_bytes: usize) -> bool {
        matches!(self.open.get(at.0 as usize), Some(Some((_, open))) if open.is_full_for(payload_bytes))
    }

    /// The open batch, if there is one, is done.
    pub fn seal(&mut self, at: &mut OpenAt) -> Option<Arc<Batch>> {
        let place = std::mem::replace(at, OpenAt::NOWHERE).0;
        let (_, open) = self.open.get_mut(place as usize)?.take()?;
        Some(open.seal())
    }

    /// A channel with an open batch.
    pub fn next_open(&self, from: usize) -> Option<(usize, ChannelId)> {
        (from..self.open.len()).find_map(|place| self.open[place].as_ref().map(|(id, _)| (place, *id)))
    }

    /// All of them are sealed.
    pub fn sealed_all(&mut self) {
        debug_assert!(self.open.iter().all(Option::is_none));
        self.open.clear();
        self.open_bytes = 0;
        self.open.shrink_to(QUEUE_KEPT);
    }

    // To the shards.

    /// Hands a batch to all who have joined its channel. Returns how many numbers found an inbox full, over all shards.
    pub fn hand_out(&mut self, interest: &[Interest], batch: &Arc<Batch>) -> u64 {
        let mut lost = 0;
        for interest in interest.iter().filter(|interest| interest.is_answered) {
            if !self.lanes[usize::from(interest.shard)].hand_out(interest.topic, batch) {
                lost += batch.message_count().max(1) as u64;
            }
        }
        lost
    }

    /// Hands a message without a number to all who have joined its channel. Returns how many shards had no room for it.
    pub fn hand_out_aside(&mut self, interest: &[Interest], aside: &Arc<Aside>) -> u64 {
        let joined = interest.iter().filter(|interest| interest.is_answered);
        joined.filter(|interest| !self.lanes[usize::from(interest.shard)].hand_out_aside(interest.topic, aside)).count() as u64
    }

    /// Tells a shard news of a channel, now or as soon as there is room: as of then.
    pub fn tell(&mut self, shard: u16, topic: TopicToken, id: ChannelId, news: News, message: ShardMessage) {
        self.lanes[usize::from(shard)].tell(topic, id, news, message);
    }

    /// Whether a shard was told that it has joined; not while its lane owes it that.
    pub fn has_joined(&self, interest: &Interest) -> bool {
        interest.is_answered && !self.lanes[usize::from(interest.shard)].owes_join(interest.topic)
    }

    /// Nothing is owed to a topic any more.
    pub fn forget(&mut self, shard: u16, topic: TopicToken) {
        self.lanes[usize::from(shard)].forget(topic);
    }

    /// Puts an answer in, now or as soon as there is room. Answers to one shard keep their order.
    pub fn reply(&mut self, shard: u16, message: ShardMessage) {
        self.lanes[usize::from(shard)].reply(message);
    }

    /// Tries again what did not fit before. `message` says where a channel stands now.
    pub fn retry(&mut self, mut message: impl FnMut(ChannelId, TopicToken, News) -> ShardMessage) {
        for lane in &mut self.lanes {
            lane.retry(&mut message);
        }
    }

    /// Wakes each shard that got something, once.
    pub fn wake(&mut self) {
        self.wakes += self.lanes.iter_mut().map(|lane| u64::from(lane.wake())).sum::<u64>();
    }

    pub fn wakes(&self) -> u64 {
        self.wakes
    }

    /// Whether every shard that listens has room for a message of one of our own publishers.
    pub fn has_room_for(&self, interest: &[Interest], payload_bytes: usize) -> bool {
        interest.iter().all(|interest| self.lanes[usize::from(interest.shard)].has_room_for(payload_bytes))
    }

    /// The same of all shards.
    pub fn has_room_everywhere(&self, payload_bytes: usize) -> bool {
        self.lanes.iter().all(|lane| lane.has_room_for(payload_bytes))
    }

    /// Whether so many replies wait for a shard that no more commands should be taken.
    pub fn is_clogged(&self) -> bool {
        self.lanes.iter().any(Lane::is_clogged)
    }

    /// Whether a shard is owed something.
    pub fn has_backlog(&self) -> bool {
        self.lanes.iter().any(Lane::has_backlog)
    }

    /// Whether every shard was told everything.
    pub fn is_drained(&self) -> bool {
        self.open.is_empty() && !self.has_backlog()
    }

    /// Every shard is to be told `Stop`, after what is already on its way.
    pub fn stop(&mut self) {
        self.lanes.iter_mut().for_each(Lane::stop);
    }
}
