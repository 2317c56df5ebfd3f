//! Pages of what is kept of durable channels, for shards whose clients go on beyond the logs: made as batches are, of what has been read elsewhere.

use std::ops::Range;
use std::sync::Arc;

use super::{ChannelId, Hub};
use crate::bus::ShardMessage;
use crate::bus::question::{HistoryAsked, PageReader};
use crate::bus::recall::{self, HistoryPage, Numbers, Recall};
use crate::config::Mismatch;
use crate::fanout::batch::{Batch, BatchBuilder, Channel};
use crate::wire::command::Position;
use crate::wire::event::GapReason;
use crate::wire::payload::Looked;

/// A message that is kept somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageEntry {
    pub seq: u64,
    pub timestamp_ms: u64,
    pub payload: Box<[u8]>,
}

impl Hub {
    /// A page that a shard has asked for: consecutive numbers, or nothing.
    pub fn page(&mut self, to: PageReader, from: u64, batches: Vec<Arc<Batch>>) {
        self.delivery.reply(to.shard, ShardMessage::Page { topic: to.topic, from, batches });
    }

    /// What this node keeps of a channel, for somebody who asks for its history.
    pub fn recall(&mut self, HistoryAsked { recall, asker }: HistoryAsked) {
        let page = self.find(&recall.channel).and_then(|id| self.recalled(id, &recall));
        recall::answer(self, asker, &recall.channel, Ok(page.unwrap_or_default()));
    }

    /// None: nothing of it was ever counted.
    fn recalled(&self, id: ChannelId, recall: &Recall) -> Option<HistoryPage> {
        let entry = &self.registry[id];
        let newest = Position { epoch: entry.channel()?.epoch, seq: entry.sealed };
        let batches = entry.history.as_ref().map_or_else(Vec::new, |history| self.histories.batches(history));
        let Numbers { from, to } = recall.numbers(newest).unwrap_or(Numbers { from: 1, to: 0 });
        let near = batches.iter().filter(|batch| batch.first() <= to && batch.end() > from);
        let kept = |(seq, timestamp_ms, payload): (u64, u64, &[u8])| PageEntry { seq, timestamp_ms, payload: payload.into() };
        let found = near.flat_map(|batch| batch.entries()).filter(|(seq, ..)| (from..=to).contains(seq)).take(recall.limit).map(kept);
        Some(recall.page(newest, found.collect()))
    }

    /// What is read as one page of a channel: these entries, and for numbers without one that they are gone.
    pub fn paged(&self, channel: &Arc<Channel>, numbers: Range<u64>, entries: Vec<PageEntry>) -> Vec<Arc<Batch>> {
        let rule = self.registry.rule_of(&channel.name);
        let mut batches = Vec::new();
        let mut open: Option<BatchBuilder> = None;
        let mut next = numbers.start;
        let gap = |from: u64, to: u64| Batch::gap(channel, from, to, GapReason::Expired);
        for PageEntry { seq, timestamp_ms, payload } in entries.into_iter().filter(|entry| numbers.contains(&entry.seq)) {
            if seq < next {
                continue;
            }
            let (kind, is_expected) = Looked::default().at(&payload, rule.payload);
            let is_dropped = (!is_expected && rule.mismatch == Mismatch::Drop) || payload.len() > self.settings.payload_bytes_max;
            if seq > next || is_dropped {
                batches.extend(open.take().map(BatchBuilder::seal));
                let to = if is_dropped { seq } else { seq - 1 };
                batches.push(gap(next, to));
                next = to + 1;
            }
            if !is_dropped {
                open.get_or_insert_with(|| BatchBuilder::new(channel.clone(), seq)).push(kind, &payload, self.now, timestamp_ms);
                next = seq + 1;
            }
        }
        batches.extend(open.take().map(BatchBuilder::seal));
        if next < numbers.end {
            batches.push(gap(next, numbers.end - 1));
        }
        batches
    }
}
