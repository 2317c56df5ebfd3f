//! The logs of a shard's topics together: what they hold, when they are let go, and the budget over all of them. Each by itself is a
//! [`crate::fanout::log::Log`].

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::net::Network;
use crate::clock::MonotonicNs;
use crate::fanout::batch::{Batch, Channel};
use crate::fanout::log::Log;
use crate::fanout::topics::{Topic, TopicToken, Topics};
use crate::limits;
use crate::wire::event::GapReason;

#[derive(Debug)]
pub(super) struct Logs {
    /// Of all logs. Every change goes through [`Logs::change`], which keeps it.
    bytes: usize,
    bytes_max: usize,
    /// What was appended, oldest first; entries may be out of date.
    appended: VecDeque<(TopicToken, u64)>,
    /// How long `appended` may become before it is swept of what is out of date.
    sweep_at: usize,
}

impl Logs {
    pub fn new(bytes_max: usize) -> Logs {
        Logs { bytes: 0, bytes_max, appended: VecDeque::new(), sweep_at: limits::APPENDED_BEFORE_SWEEP }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn change<R>(&mut self, topics: &mut Topics, index: u32, change: impl FnOnce(&mut Log) -> R) -> R {
        let topic = &mut topics[index];
        let before = topic.log().map_or(0, Log::bytes);
        let log = topic.log_mut();
        let result = change(log);
        self.bytes = self.bytes - before + log.bytes();
        result
    }

    /// Returns how many numbers are missing before the batch, which are lost on the way. The budget is the caller's to keep.
    pub fn append(&mut self, topics: &mut Topics, token: TopicToken, batch: Arc<Batch>) -> u64 {
        self.appended.push_back((token, batch.end()));
        self.change(topics, token.index, |log| log.append(batch, GapReason::Inbox))
    }

    /// Announces as lost what lies between the head and `next`; returns how many numbers that is. The budget is the caller's to keep.
    pub fn advance_head(&mut self, topics: &mut Topics, token: TopicToken, channel: &Arc<Channel>, next: u64, reason: GapReason) -> u64 {
        self.appended.push_back((token, next));
        self.change(topics, token.index, |log| log.advance_head(channel, next, reason))
    }

    /// Counts again what a log holds: the visits may have had formats encoded for the first time.
    pub fn measure(&mut self, topics: &mut Topics, index: u32) {
        self.change(topics, index, Log::measure);
        self.keep_budget(topics);
    }

    /// Frees what nobody waits for any more: every member has been visited and none is behind.
    pub fn retire_if_idle(&mut self, topics: &mut Topics, index: u32, now_ns: MonotonicNs) {
        let Some(topic) = topics.contains(index).then(|| &topics[index]) else { return };
        let Some(log) = topic.log().filter(|_| topic.is_done()) else { return };
        if !log.is_empty() {
            let (count, age_ns) = (topic.rule.history_count, topic.rule.history_age.as_nanos() as u64);
            self.change(topics, index, |log| log.retire(count, age_ns, now_ns));
        }
        topics[index].rest();
    }

    /// A topic has gone, and its log with it.
    pub fn forget(&mut self, topic: &Topic) {
        self.bytes -= topic.log().map_or(0, Log::bytes);
    }

    /// Drops the oldest batches of the shard, whatever their channel, until all logs fit their budget.
    pub fn keep_budget(&mut self, topics: &mut Topics) {
        while self.bytes > self.bytes_max {
            let Some((token, end)) = self.appended.pop_front() else { break };
            if let Some(index) = topics.resolve(token)
                && topics[index].log().is_some()
            {
                self.change(topics, index, |log| log.drop_before(end));
            }
        }
        // Most of these batches were freed long ago, as soon as everybody had them. Twice what is still held may come before the next
        // look, so that a message costs the same however much is held.
        if self.appended.len() > self.sweep_at {
            self.appended.retain(|&(token, end)| {
                topics.resolve(token).is_some_and(|index| topics[index].log().is_some_and(|log| log.may_hold(end)))
            });
            self.sweep_at = limits::APPENDED_BEFORE_SWEEP.max(2 * self.appended.len());
        }
    }
}

impl<N: Network> Shard<N> {
    pub(super) fn on_batch(&mut self, token: TopicToken, batch: Arc<Batch>) {
        let Some(index) = self.topics.resolve(token) else { return };
        if self.topics[index].channel().is_none() {
            return;
        }
        self.topics[index].is_refused = batch.gap_reason() == Some(GapReason::Refused);
        let lost = self.logs.append(&mut self.topics, token, batch);
        self.metrics.inbox_lost.add(lost);
        self.begin_lap(index);
        self.logs.keep_budget(&mut self.topics);
    }

    /// Batches did not fit into the inbox, and this is how far they went.
    pub(super) fn on_head(&mut self, token: TopicToken, seq: u64) {
        let Some(index) = self.topics.resolve(token) else { return };
        let Some(channel) = self.topics[index].channel().cloned() else { return };
        if seq < self.topics[index].head() {
            return;
        }
        let lost = self.logs.advance_head(&mut self.topics, token, &channel, seq + 1, GapReason::Inbox);
        self.metrics.inbox_lost.add(lost);
        self.begin_lap(index);
        self.logs.keep_budget(&mut self.topics);
    }

    fn begin_lap(&mut self, index: u32) {
        if self.ring.is_empty()
            && let Some(coalesce) = self.settings.coalesce
        {
            self.lap_not_before_ns = self.now_ns + coalesce.as_nanos() as u64;
        }
        if self.topics[index].begin_lap() {
            self.ring.push_back(self.topics.token(index));
        }
        // Without members there is no lap to free the log at its end.
        self.logs.retire_if_idle(&mut self.topics, index, self.now_ns);
    }
}
