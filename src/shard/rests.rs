//! How soon a channel's messages may follow each other: `coalesce` wants a while between two rounds of writes, so that each brings more, and
//! `broadcast_budget` wants no more deliveries than that in a second. What a channel that was quiet for so long has to say goes at once; then it rests, and what
//! comes meanwhile is held back from its log ([`crate::fanout::held`]). So whatever makes the shard visit a connection, it finds nothing there that may not
//! be sent; when a rest is over all of it is released together, and has a lap as everything has.
//!
//! What is released is paid for at once, whoever is slow to take it: a rest is as long as those deliveries are worth. The laps of those with a `max_rate` are
//! paid for as they begin, from the same account. Of what is held back only as much is kept as a second can carry: whoever has not got the rest of it gets a
//! gap (`budget`), so a channel with a budget is never later than a second (or than its newest batch alone takes), and it is nobody's fault.
//!
//! Invariants: while a channel rests there is one entry among the laps that wait at the end of its rest; nothing is held back of a channel that does
//! not rest, but for the time until that entry is looked at.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::laps::Lap;
use super::net::Network;
use crate::clock::{MonotonicNs, nanos};
use crate::config::ChannelRule;
use crate::fanout::batch::{Batch, Channel};
use crate::fanout::cursor::Cursor;
use crate::fanout::topics::TopicToken;
use crate::life::Stage;
use crate::wire::event::{Event, GapReason};

/// Of a channel that has been sent something a moment ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    generation: u32,
    began: MonotonicNs,
    /// Deliveries that it has cost this host since then, if each of its shards has had as many as its part.
    spent: u64,
    /// When it is looked at. An earlier or later entry among the laps that wait is out of date.
    look_at: MonotonicNs,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Rest {
    /// When it is over, by the rule that holds now.
    fn end(&self, rule: &ChannelRule) -> MonotonicNs {
        let worth_ns = rule.broadcast_budget.map_or(0, |budget| u128::from(self.spent) * u128::from(SECOND_NS) / u128::from(budget));
        self.began.saturating_add(nanos(rule.coalesce).max(u64::try_from(worth_ns).unwrap_or(u64::MAX)))
    }
}

impl<N: Network> Shard<N> {
    /// A batch of a channel whose messages may have to wait.
    pub(super) fn on_spaced_batch(&mut self, token: TopicToken, batch: Arc<Batch>) {
        let lost = self.logs.hold(&mut self.topics, token, batch);
        self.note_held(token, lost);
    }

    /// The same of numbers that were lost on the way.
    pub(super) fn on_spaced_head(&mut self, token: TopicToken, channel: &Arc<Channel>, seq: u64) {
        let lost = self.logs.hold_to(&mut self.topics, token, channel, seq + 1, GapReason::Inbox);
        self.note_held(token, lost);
    }

    fn note_held(&mut self, TopicToken { index, .. }: TopicToken, lost: u64) {
        self.metrics.inbox_lost.add(lost);
        let topic = &self.topics[index];
        let (log_bytes, has_budget) = (topic.rule.log_bytes, topic.rule.broadcast_budget.is_some());
        if has_budget {
            let messages_max = self.affordable(index);
            self.logs.change(&mut self.topics, index, |log| {
                if let Some(held) = log.held_mut() {
                    held.pass_over(messages_max, log_bytes);
                }
            });
        }
        // With nothing but a distance to keep, nothing is lost for it: what is too much to wait goes earlier.
        let held_bytes = self.topics[index].log().and_then(|log| log.held()).map_or(0, |held| held.bytes());
        if !self.is_resting(index) || !has_budget && held_bytes > log_bytes {
            self.release(index);
        } else {
            self.logs.keep_budget(&mut self.topics);
        }
    }

    fn rest(&self, index: u32) -> Option<&Rest> {
        self.rests.get(&index).filter(|rest| rest.generation == self.topics.token(index).generation)
    }

    fn is_resting(&self, index: u32) -> bool {
        self.rest(index).is_some_and(|rest| self.now_ns < rest.end(&self.topics[index].rule))
    }

    /// What was held back is for everybody now, and is paid for. False: nothing was.
    fn release(&mut self, index: u32) -> bool {
        if self.topics[index].log().is_none_or(|log| log.held().is_none()) {
            return false;
        }
        let released = self.logs.release(&mut self.topics, index);
        self.topics[index].settle_spaced();
        let members = self.topics[index].members().len() as u64;
        self.metrics.messages_over_budget.add(released.passed_over.saturating_mul(members));
        self.spend(index, released.frames, members);
        self.begin_lap(index);
        self.logs.keep_budget(&mut self.topics);
        true
    }

    /// So many messages go to so many members of this shard: until they are worth their time, no more of the channel.
    fn spend(&mut self, index: u32, messages: u64, members: u64) {
        let token = self.topics.token(index);
        let (subscribers, of_shard) = self.shares(index);
        let spent = u128::from(messages) * u128::from(members) * u128::from(subscribers) / u128::from(of_shard);
        let spent = u64::try_from(spent).unwrap_or(u64::MAX);
        let now_ns = self.now_ns;
        let rule = &self.topics[index].rule;
        let before = self.rests.get(&index).filter(|rest| rest.generation == token.generation && now_ns < rest.end(rule));
        // One that is not over goes on, and is looked at when it would have been.
        let rest = match before {
            Some(&before) => Rest { spent: before.spent.saturating_add(spent), ..before },
            None => Rest { generation: token.generation, began: now_ns, spent, look_at: 0 },
        };
        let end = rest.end(rule);
        if end <= now_ns {
            // What is held back has its time now, whatever came between its end and the look at it.
            if self.topics[index].log().is_some_and(|log| log.held().is_some()) {
                self.laps.look_at(Lap { topic: token, rate: None }, now_ns);
                self.rests.insert(index, Rest { look_at: now_ns, ..rest });
            } else {
                self.rests.remove(&index);
            }
            return;
        }
        let look_at = if rest.look_at > now_ns { rest.look_at } else { end };
        if look_at != rest.look_at {
            self.laps.look_at(Lap { topic: token, rate: None }, look_at);
        }
        self.rests.insert(index, Rest { look_at, ..rest });
    }

    /// A lap to so many of those with a `max_rate` begins: of a channel with a budget it is paid for like any other.
    pub(super) fn spend_on_paced(&mut self, index: u32, members: usize) {
        if self.topics[index].rule.broadcast_budget.is_some() {
            self.spend(index, 1, members as u64);
        }
    }

    /// A channel's subscribers on this host, and those of them that are this shard's, which has the same part of the budget.
    fn shares(&self, index: u32) -> (u64, u64) {
        let subscribers = self.topics[index].channel().map_or(1, |channel| u64::from(channel.subscribers.load(Relaxed)));
        (subscribers.max(1), self.topics.member_count(index).max(1) as u64)
    }

    /// How many messages a second can carry to all members but those with a `max_rate`, for whom one is enough.
    fn affordable(&self, index: u32) -> u64 {
        let topic = &self.topics[index];
        let members = topic.members().len() as u128;
        let Some(budget) = topic.rule.broadcast_budget.filter(|_| members > 0) else { return 1 };
        let (subscribers, of_shard) = self.shares(index);
        let affordable = u128::from(budget) * u128::from(of_shard) / (members * u128::from(subscribers));
        u64::try_from(affordable).unwrap_or(u64::MAX).max(1)
    }

    /// An entry for the end of a topic's rest has come up.
    pub(super) fn on_rest_over(&mut self, topic: TopicToken) {
        let Some(rest) = self.rests.get_mut(&topic.index).filter(|rest| rest.generation == topic.generation && rest.look_at <= self.now_ns)
        else {
            return;
        };
        if self.topics.resolve(topic).is_none() {
            self.rests.remove(&topic.index);
            return;
        }
        let end = rest.end(&self.topics[topic.index].rule);
        if end > self.now_ns {
            // More was spent meanwhile.
            rest.look_at = end;
            return self.laps.look_at(Lap { topic, rate: None }, end);
        }
        self.rests.remove(&topic.index);
        self.release(topic.index);
    }

    /// A subscription that began behind what was held back is about to be sent what followed. Of a gap that began before it did it is told its own part.
    /// False: that was all.
    pub(super) fn join_in(&mut self, key: usize, at: usize) -> bool {
        let subscription = &mut self.conns[key].subscriptions[at];
        subscription.set_ahead(false);
        if subscription.is_untold() {
            return true;
        }
        let (topic, from) = (&self.topics[subscription.topic], subscription.cursor().seq);
        let (head, name) = (topic.head(), topic.name().clone());
        let gap = topic.log().and_then(|log| log.gap_around(from));
        let next = gap.map_or(from, |(end, _)| end);
        subscription.set_cursor(Cursor::at(next));
        subscription.set_owed(subscription.is_owed() && next < head);
        if let Some((_, reason)) = gap {
            self.append(key, &Event::Gap { channel: &name, from, to: next - 1, reason });
        }
        next < head
    }

    /// A connection has been sent all that was due and is about to be told goodbye. What a channel holds back for the sake of larger writes alone is due, too,
    /// and what it cannot afford yet is when everybody goes. False: nothing more comes.
    pub(super) fn bring_held(&mut self, key: usize) -> bool {
        if self.rests.is_empty() {
            return false;
        }
        let mut is_behind = false;
        for at in 0..self.conns[key].subscriptions.len() {
            let topic = self.conns[key].subscriptions[at].topic;
            if self.topics[topic].rule.broadcast_budget.is_none() || self.stage == Stage::Stopping {
                is_behind |= self.release(topic) && self.note_behind(key, at);
            }
        }
        if is_behind {
            self.mark_ready(key);
        }
        is_behind
    }
}
