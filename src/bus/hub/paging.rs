//! Pages of what is kept of durable channels, for shards whose clients go on beyond the logs: made as batches are, of what has been read elsewhere.

use std::ops::Range;
use std::sync::Arc;

use super::Hub;
use crate::bus::ShardMessage;
use crate::bus::question::PageReader;
use crate::config::Mismatch;
use crate::fanout::batch::{Batch, BatchBuilder, Channel};
use crate::wire::event::GapReason;
use crate::wire::payload::Looked;

/// A message that is kept somewhere.
#[derive(Debug, Clone)]
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
