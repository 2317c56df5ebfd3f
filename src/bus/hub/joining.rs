//! Which shards hear a channel, and which channels there are because of that: made when somebody is to hear one, kept for a while, forgotten.

use super::{ChannelId, Creator, Flow, Hub, Interest, JoinRefusal, ShardMessage};
use crate::clock::MonotonicNs;
use crate::fanout::naming::ChannelName;
use crate::fanout::topics::TopicToken;

impl Hub {
    /// A shard has its first subscriber of a channel. `Joined` (or `Refused`) follows.
    pub fn join(&mut self, shard: u16, topic: TopicToken, name: impl Into<ChannelName>, creator: Creator, now: MonotonicNs) {
        self.now = now;
        let id = match self.heard(name.into(), creator) {
            Ok(id) => id,
            Err(refusal) => return self.delivery.reply(shard, ShardMessage::Refused { topic, refusal }),
        };
        let entry = &mut self.registry[id];
        entry.interest.push(Interest { shard, topic, is_answered: false });
        if entry.flow == Flow::Flowing {
            self.tell_joined(id);
        }
    }

    /// The channel of this name, which somebody is to hear from now on; made if need be.
    fn heard(&mut self, name: ChannelName, creator: Creator) -> Result<ChannelId, JoinRefusal> {
        let found = self.find(&name);
        if let Some(id) = found {
            if self.registry[id].flow == Flow::Refused {
                return Err(JoinRefusal::NotAllowed);
            }
            if !self.registry[id].interest.is_empty() {
                return Ok(id);
            }
        }
        self.registry.may_hear(creator.source)?;
        let id = match found {
            Some(id) => id,
            None => self.create(name, creator).ok_or(JoinRefusal::ChannelsMax)?,
        };
        self.registry.hear(id, creator.source);
        Ok(id)
    }

    /// A shard has no subscriber any more. Unknown tokens are ignored: the join was refused.
    pub fn leave(&mut self, shard: u16, topic: TopicToken, name: &str, now: MonotonicNs) {
        self.now = now;
        let Some(id) = self.find(name) else { return };
        let interest = &mut self.registry[id].interest;
        let Some(index) = interest.iter().position(|interest| interest.shard == shard && interest.topic == topic) else { return };
        interest.swap_remove(index);
        let is_last = interest.is_empty();
        self.delivery.forget(shard, topic);
        if is_last {
            self.registry.unhear(id, now);
        }
    }

    /// Opens a channel for a message that nobody listens to, if its rule asks for history.
    pub fn open_for_history(&mut self, name: &str, creator: Creator, now: MonotonicNs) -> Option<ChannelId> {
        self.now = now;
        if self.settings.rules.of(name).history_count == 0 {
            return None;
        }
        let id = self.create(name.into(), creator)?;
        self.registry.set_idle(id, now);
        Some(id)
    }

    /// None: `channels_max` is reached and none of them only lingers.
    pub(super) fn create(&mut self, name: ChannelName, creator: Creator) -> Option<ChannelId> {
        while self.registry.is_full() {
            let id = self.registry.first_to_go()?;
            self.metrics.channels_evicted.inc();
            self.forget(id);
        }
        let id = self.registry.insert(name, creator, self.now);
        self.attendance.note(id, &self.registry[id]);
        self.metrics.channels.set(self.registry.len() as u64);
        Some(id)
    }

    pub(super) fn forget(&mut self, id: ChannelId) {
        self.seal(id, self.now);
        let mut entry = self.registry.remove(id, self.now);
        self.attendance.forget(entry.name());
        if let Some(history) = &mut entry.history {
            self.histories.drop_all(history);
            self.keep_history_budget();
        }
        self.metrics.channels.set(self.registry.len() as u64);
    }
}
