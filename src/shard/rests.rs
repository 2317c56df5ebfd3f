//! How soon a channel's laps may follow each other: `coalesce` wants a while between two, so that a write brings more, and `broadcast_budget` wants no
//! more deliveries than that in a second. A channel that was quiet for so long has its lap at once.
//!
//! A lap that has to wait stays among those of its topic; the log grows meanwhile. What waits beyond a second's budget is passed over, the oldest first:
//! everybody who has not got it gets a gap (`budget`) and the newest after it. So a channel with a budget is never later than a second, and it is
//! nobody's fault, whatever its `overrun` says of readers who are slow.

use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::laps::Lap;
use super::net::Network;
use crate::clock::{MonotonicNs, nanos};
use crate::fanout::topics::TopicToken;

/// Between the beginning of a lap and the earliest moment of the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    generation: u32,
    /// One is to begin then.
    is_wanted: bool,
    /// The first number that no lap has begun with.
    from: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl<N: Network> Shard<N> {
    /// Something was appended from this number on, and the topic has no lap: one begins, now or when its rest is over.
    pub(super) fn enter_lap(&mut self, index: u32, from: u64) {
        let token = self.topics.token(index);
        match self.rests.get_mut(&index).filter(|rest| rest.generation == token.generation) {
            Some(rest) => rest.is_wanted = true,
            None => self.start_lap(token, from),
        }
    }

    fn start_lap(&mut self, topic: TopicToken, from: u64) {
        let index = topic.index;
        let rest_ns = self.rest_ns(index, from);
        if rest_ns > 0 {
            let rest = Rest { generation: topic.generation, is_wanted: false, from: self.topics[index].head() };
            self.rests.insert(index, rest);
            self.laps.look_at(Lap { topic, rate: None }, self.now_ns + rest_ns);
        }
        self.laps.begin(Lap { topic, rate: None }, self.tenant(index), self.topics[index].members().len());
    }

    /// How long the lap after the one that brings what was appended from this number on has to wait.
    fn rest_ns(&mut self, index: u32, from: u64) -> MonotonicNs {
        let rule = &self.topics[index].rule;
        let coalesce_ns = nanos(rule.coalesce);
        let Some(budget) = rule.broadcast_budget else { return coalesce_ns };
        // Of the host: each of its shards has a part of them, and the budget's part that goes with it.
        let subscribers = self.topics[index].channel().map_or(1, |channel| u64::from(channel.subscribers.load(Relaxed))).max(1);
        let affordable = (budget / subscribers).max(1);
        let head = self.topics[index].head();
        if head.saturating_sub(from) > affordable {
            self.logs.change(&mut self.topics, index, |log| log.pass_over(head - affordable));
        }
        let messages = head.saturating_sub(from).min(affordable);
        // A message to more than the budget allows in a second takes as many seconds as it needs.
        let budget_ns = u128::from(messages * subscribers) * u128::from(SECOND_NS) / u128::from(budget);
        coalesce_ns.max(u64::try_from(budget_ns).unwrap_or(u64::MAX))
    }

    /// The rest of a topic is over.
    pub(super) fn on_rest_over(&mut self, topic: TopicToken) {
        let Some(rest) = self.rests.get(&topic.index).copied().filter(|rest| rest.generation == topic.generation) else { return };
        self.rests.remove(&topic.index);
        if rest.is_wanted && self.topics.resolve(topic).is_some() {
            self.start_lap(topic, rest.from);
        }
    }
}
