//! The way from the bus thread to one shard, and what that shard is owed. Owned by [`super::delivery`], one per shard.
//!
//! Nothing here waits. A batch that does not fit, by number or by bytes, is lost, counted and remembered until its channel's `Head` is told; answers
//! (joined, refused, published, stop) are never lost: they wait here. What waits is bounded: one entry per topic of the shard,
//! and [`REPLIES_MAX`] replies, beyond which the bus thread takes no more commands. No batch before its `Joined`.

use std::collections::VecDeque;
use std::sync::Arc;

use indexmap::IndexMap;

use super::registry::ChannelId;
use super::{ShardMessage, ShardSender};
use crate::fanout::aside::Aside;
use crate::fanout::batch::Batch;
use crate::fanout::topics::TopicToken;
#[cfg(doc)]
use crate::inbox::InboxSender;
use crate::limits::bus::REPLIES_MAX;

pub struct Lane {
    sender: ShardSender,
    /// Messages that the inbox takes.
    messages_max: usize,
    /// Bytes of batches that may wait in the inbox.
    bytes_max: usize,
    /// How far the shard was ([`InboxSender::bytes_released`]) just before a batch last found no bytes left.
    full_at: Option<usize>,
    /// Something was pushed since the last wake.
    dirty: bool,
    replies: VecDeque<ShardMessage>,
    /// Topics for which there is news that could not be told yet. They get no batch before.
    untold: IndexMap<TopicToken, (ChannelId, News)>,
    /// Topics that lost batches, with the last number of the last one, until a later batch fits or a `Head` is told.
    behind: IndexMap<TopicToken, u64>,
    /// Stop is to be told after everything else.
    stopping: bool,
}

/// What a topic has to be told of its channel, as of then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Joined,
    Renumbered,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("replies", &self.replies.len()).field("untold", &self.untold).field("behind", &self.behind).finish()
    }
}

impl Lane {
    /// `bytes_max`: of batches that may wait in the inbox; a larger one passes when no other is there.
    pub fn new(sender: ShardSender, messages_max: usize, bytes_max: usize) -> Lane {
        Lane {
            sender,
            messages_max,
            bytes_max,
            full_at: None,
            dirty: false,
            replies: VecDeque::new(),
            untold: IndexMap::new(),
            behind: IndexMap::new(),
            stopping: false,
        }
    }

    /// Puts a batch in without waking the shard; its receiver must release [`Batch::bytes`]. False: there is no room for it, and its numbers are lost.
    pub fn hand_out(&mut self, topic: TopicToken, batch: &Arc<Batch>) -> bool {
        if self.untold.contains_key(&topic) {
            // What it is told then includes this.
            return true;
        }
        let is_in = self.push_batch(topic, batch);
        if is_in {
            // The shard sees a hole by itself.
            self.behind.swap_remove(&topic);
        } else {
            self.behind.insert(topic, batch.end() - 1);
        }
        is_in
    }

    fn push_batch(&mut self, topic: TopicToken, batch: &Arc<Batch>) -> bool {
        let bytes = batch.bytes();
        // Read first: if the shard gets on in between, nothing more may come that would show it.
        let released = self.sender.bytes_released();
        if !self.sender.reserve(bytes, self.bytes_max) {
            self.full_at = Some(released);
            return false;
        }
        let is_in = self.push(ShardMessage::Batch { topic, batch: batch.clone() });
        if !is_in {
            self.sender.unreserve(bytes);
        }
        is_in
    }

    /// Puts a message without a number in, as a batch is. False: there is no room for it beside what has numbers, or its topic has not joined yet, and it is lost
    /// to this shard.
    pub fn hand_out_aside(&mut self, topic: TopicToken, aside: &Arc<Aside>) -> bool {
        let bytes = aside.bytes();
        if self.untold.contains_key(&topic) || !self.has_room_for(bytes) || !self.sender.reserve(bytes, self.bytes_max) {
            return false;
        }
        let is_in = self.push(ShardMessage::Aside { topic, aside: aside.clone() });
        if !is_in {
            self.sender.unreserve(bytes);
        }
        is_in
    }

    /// Tells a topic news of its channel, now or, as of then, when there is room.
    pub fn tell(&mut self, topic: TopicToken, channel: ChannelId, news: News, message: ShardMessage) {
        // What was lost on the way lies before the news.
        self.behind.swap_remove(&topic);
        // If something waits to be told already, it is told with this.
        if !self.untold.contains_key(&topic) && !self.push(message) {
            self.untold.insert(topic, (channel, news));
        }
    }

    /// Whether a topic has joined and was not told so yet.
    pub fn owes_join(&self, topic: TopicToken) -> bool {
        matches!(self.untold.get(&topic), Some((_, News::Joined)))
    }

    /// The topic has left, or is refused.
    pub fn forget(&mut self, topic: TopicToken) {
        self.untold.swap_remove(&topic);
        self.behind.swap_remove(&topic);
    }

    /// Whether a publish may go on to this shard: while it is no more than half full. The other half is for what is on its way already, and
    /// for what others send. A large payload waits for an inbox without any.
    pub fn has_room_for(&self, payload_bytes: usize) -> bool {
        let bytes = self.sender.bytes();
        self.sender.len() <= self.messages_max / 2 && (bytes == 0 || bytes.saturating_add(payload_bytes) <= self.bytes_max / 2)
    }

    /// Whether it is less than half full, with so many batches more on their way to it.
    pub fn has_room_beside(&self, batches: usize, bytes: usize) -> bool {
        self.sender.len() + batches < self.messages_max / 2 && self.sender.bytes().saturating_add(bytes) < self.bytes_max / 2
    }

    /// Whether to tell heads: not while a shard that is full of bytes takes nothing, or each loss would have its own head (and the
    /// client its own gap) and the heads would fill what is kept free for answers. It holds a batch, so it does get on some time.
    fn may_tell_heads(&self) -> bool {
        self.stopping || self.full_at != Some(self.sender.bytes_released())
    }

    /// Puts anything but a batch in without waking the shard. False: it is full.
    fn push(&mut self, message: ShardMessage) -> bool {
        let is_in = self.sender.push(message).is_ok();
        self.dirty |= is_in;
        is_in
    }

    /// Puts an answer in, now or as soon as there is room. Answers keep their order.
    pub fn reply(&mut self, message: ShardMessage) {
        self.replies.push_back(message);
        self.push_replies();
    }

    /// Stop follows when nothing else waits.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// False: the shard is full.
    fn push_replies(&mut self) -> bool {
        while let Some(message) = self.replies.pop_front() {
            match self.sender.push(message) {
                Ok(()) => self.dirty = true,
                Err(message) => {
                    self.replies.push_front(message);
                    return false;
                }
            }
        }
        true
    }

    /// Tells what is owed, as far as there is room. `message` says where a channel stands now.
    pub fn retry(&mut self, mut message: impl FnMut(ChannelId, TopicToken, News) -> ShardMessage) {
        if !self.has_backlog() || !self.push_replies() {
            return;
        }
        // From the end, and no further than there is room: a shard that is full for long may have a hundred thousand of them.
        while let Some((&topic, &(channel, news))) = self.untold.last() {
            if !self.push(message(channel, topic, news)) {
                break;
            }
            self.untold.pop();
        }
        while self.untold.is_empty()
            && self.may_tell_heads()
            && let Some((&topic, &seq)) = self.behind.last()
        {
            if !self.push(ShardMessage::Head { topic, seq }) {
                break;
            }
            self.behind.pop();
        }
        if self.stopping && self.replies.is_empty() && self.untold.is_empty() && self.push(ShardMessage::Stop) {
            self.stopping = false;
        }
    }

    /// Whether something waits that the shard must be told.
    pub fn has_backlog(&self) -> bool {
        !self.replies.is_empty() || !self.untold.is_empty() || !self.behind.is_empty() || self.stopping
    }

    pub fn is_clogged(&self) -> bool {
        self.replies.len() >= REPLIES_MAX
    }

    /// Wakes the shard if it sleeps and anything was put in since the last time; whether it did.
    pub fn wake(&mut self) -> bool {
        std::mem::take(&mut self.dirty) && self.sender.wake()
    }
}
