//! A channel's newest batches, kept on the node so that a subscriber who comes back can resume. Owned by the hub.
//!
//! Whole batches are kept or dropped: at least `count` messages stay (while they are young enough), at most one batch more.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::ChannelRule;
use crate::fanout::batch::{Batch, MonotonicNs};

#[derive(Debug, Default)]
pub struct History {
    /// Oldest first, consecutive numbers; with the moment each was handed out.
    batches: VecDeque<(MonotonicNs, Arc<Batch>)>,
    messages: usize,
    bytes: usize,
}

impl History {
    /// Appends the newest batch and drops what the rule no longer wants.
    pub fn push(&mut self, batch: Arc<Batch>, now: MonotonicNs, rule: &ChannelRule) {
        self.messages += weight(&batch);
        self.bytes += batch.bytes();
        self.batches.push_back((now, batch));
        self.prune(now, rule);
    }

    /// Drops what is too old, or more than asked for.
    pub fn prune(&mut self, now: MonotonicNs, rule: &ChannelRule) {
        let age_ns = u64::try_from(rule.history_age.as_nanos()).unwrap_or(u64::MAX);
        while let Some((kept_since, batch)) = self.batches.front() {
            let is_old = now.saturating_sub(*kept_since) > age_ns;
            let is_more = self.messages - weight(batch) >= rule.history_count;
            if !is_old && !is_more {
                break;
            }
            self.messages -= weight(batch);
            self.bytes -= batch.bytes();
            self.batches.pop_front();
        }
    }

    pub fn batches(&self) -> Vec<Arc<Batch>> {
        self.batches.iter().map(|(_, batch)| batch.clone()).collect()
    }

    pub fn messages(&self) -> usize {
        self.batches.iter().map(|(_, batch)| batch.message_count()).sum()
    }

    /// As [`Batch::bytes`] counts: payloads and their index, not the frames that shards may have had encoded.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

/// A gap counts as one message, or a Redis that flaps would fill a quiet channel's history with gaps.
fn weight(batch: &Batch) -> usize {
    batch.message_count().max(1)
}
