//! The logs of a shard's topics together: what they hold, when they are let go, and the budget over all of them. Each by itself is a
//! [`crate::fanout::log::Log`].

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::laps::Lap;
use super::net::Network;
use crate::clock::MonotonicNs;
use crate::fanout::batch::{Batch, Channel};
use crate::fanout::held::Released;
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
    appended: VecDeque<Appended>,
    /// How long `appended` may become before it is swept of what is out of date.
    sweep_at: usize,
    /// The number of the log that was made last.
    last_number: u32,
}

/// A batch in a log. The log is named by its number: one that its topic has made later may count anew.
#[derive(Debug, Clone, Copy)]
struct Appended {
    topic: u32,
    log: u32,
    end: u64,
}

impl Appended {
    /// The log, if it is still there.
    fn log(self, topics: &Topics) -> Option<&Log> {
        let topic = topics.contains(self.topic).then(|| &topics[self.topic])?;
        topic.log().filter(|_| topic.log_number() == Some(self.log))
    }
}

impl Logs {
    pub fn new(bytes_max: usize) -> Logs {
        Logs { bytes: 0, bytes_max, appended: VecDeque::new(), sweep_at: limits::APPENDED_BEFORE_SWEEP, last_number: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn change<R>(&mut self, topics: &mut Topics, index: u32, change: impl FnOnce(&mut Log) -> R) -> R {
        let topic = &mut topics[index];
        let before = topic.log().map_or(0, Log::bytes);
        let log = topic.log_mut(&mut self.last_number);
        let result = change(log);
        self.bytes = self.bytes - before + log.bytes();
        result
    }

    /// Returns how many numbers are missing before the batch, which are lost on the way. The budget is the caller's to keep.
    pub fn append(&mut self, topics: &mut Topics, token: TopicToken, batch: Arc<Batch>) -> u64 {
        let end = batch.end();
        let lost = self.change(topics, token.index, |log| log.append(batch, GapReason::Inbox));
        self.note_appended(topics, token.index, end);
        lost
    }

    /// Announces as lost what lies between the head and `next`; returns how many numbers that is. The budget is the caller's to keep.
    pub fn advance_head(&mut self, topics: &mut Topics, token: TopicToken, channel: &Arc<Channel>, next: u64, reason: GapReason) -> u64 {
        let lost = self.change(topics, token.index, |log| log.advance_head(channel, next, reason));
        self.note_appended(topics, token.index, next);
        lost
    }

    /// Takes a batch that is not to be sent yet; see [`Logs::append`].
    pub fn hold(&mut self, topics: &mut Topics, token: TopicToken, batch: Arc<Batch>) -> u64 {
        let end = batch.end();
        let lost = self.change(topics, token.index, |log| log.hold(batch, GapReason::Inbox));
        self.note_appended(topics, token.index, end);
        lost
    }

    /// The same of numbers that are lost; see [`Logs::advance_head`].
    pub fn hold_to(&mut self, topics: &mut Topics, token: TopicToken, channel: &Arc<Channel>, next: u64, reason: GapReason) -> u64 {
        let lost = self.change(topics, token.index, |log| log.hold_to(channel, next, reason));
        self.note_appended(topics, token.index, next);
        lost
    }

    /// What was held back is there for everybody. The budget is the caller's to keep.
    pub fn release(&mut self, topics: &mut Topics, index: u32) -> Released {
        let released = self.change(topics, index, Log::release);
        self.note_appended(topics, index, topics[index].head());
        released
    }

    /// Makes the log, if there is none yet: somebody is about to be behind in it.
    pub fn make(&mut self, topics: &mut Topics, index: u32) {
        self.change(topics, index, |_| ());
    }

    fn note_appended(&mut self, topics: &Topics, topic: u32, end: u64) {
        let log = topics[topic].log_number().expect("it was appended to");
        self.appended.push_back(Appended { topic, log, end });
    }

    /// What was counted before is given up, and the next message will have this number. Nobody may stand in it or lag behind it.
    pub fn renumber(&mut self, topics: &mut Topics, index: u32, channel: Arc<Channel>, head: u64) {
        self.forget(&topics[index]);
        topics[index].renumber(channel, head);
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
            let keeps_newest = topics.keeps_newest(index);
            self.change(topics, index, |log| log.retire(count, age_ns, now_ns, keeps_newest));
        }
        topics[index].rest();
    }

    /// The topic's log goes, with it or without.
    pub fn forget(&mut self, topic: &Topic) {
        self.bytes -= topic.log().map_or(0, Log::bytes);
    }

    /// Drops the oldest batches of the shard, whatever their channel, until all logs fit their budget.
    pub fn keep_budget(&mut self, topics: &mut Topics) {
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.appended.pop_front() else { break };
            if oldest.log(topics).is_some() {
                self.change(topics, oldest.topic, |log| log.drop_before(oldest.end));
            }
        }
        // Most of these batches were freed long ago, as soon as everybody had them. Twice what is still held may come before the next
        // look, so that a message costs the same however much is held.
        if self.appended.len() > self.sweep_at {
            self.appended.retain(|appended| appended.log(topics).is_some_and(|log| log.may_hold(appended.end)));
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
        if self.topics[index].is_spaced() {
            return self.on_spaced_batch(token, batch);
        }
        let lost = self.logs.append(&mut self.topics, token, batch);
        self.metrics.inbox_lost.add(lost);
        self.begin_lap(index);
        self.logs.keep_budget(&mut self.topics);
    }

    /// Batches did not fit into the inbox, and this is how far they went.
    pub(super) fn on_head(&mut self, token: TopicToken, seq: u64) {
        let Some(index) = self.topics.resolve(token) else { return };
        let Some(channel) = self.topics[index].channel().cloned() else { return };
        if seq < self.topics[index].arrived() {
            return;
        }
        if self.topics[index].is_spaced() {
            return self.on_spaced_head(token, &channel, seq);
        }
        let lost = self.logs.advance_head(&mut self.topics, token, &channel, seq + 1, GapReason::Inbox);
        self.metrics.inbox_lost.add(lost);
        self.begin_lap(index);
        self.logs.keep_budget(&mut self.topics);
    }

    /// There is news in a topic's log.
    pub(super) fn begin_lap(&mut self, index: u32) {
        if self.topics[index].begin_lap() {
            let lap = Lap { topic: self.topics.token(index), rate: None };
            self.laps.begin(lap, self.tenant(index), self.topics[index].members().len());
        }
        self.pace(index);
        // Without members there is no lap to free the log at its end.
        self.logs.retire_if_idle(&mut self.topics, index, self.now_ns);
    }
}
