//! What has come of a channel whose laps keep a distance (`coalesce`, `broadcast_budget`) and is not in its log yet: nobody is sent anything of it, by
//! whatever way a connection is visited, before it is released. The oldest of it may be passed over; then a gap (`budget`) takes its place in the log.
//!
//! Invariant: the batches are consecutive and end at `end`; what lies between the log's head and the first of them was passed over.

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{Batch, Channel};

#[derive(Debug)]
pub struct Held {
    channel: Arc<Channel>,
    batches: VecDeque<Entry>,
    bytes: usize,
    messages: u64,
    end: u64,
}

/// A batch and what it was counted as.
#[derive(Debug)]
struct Entry {
    batch: Arc<Batch>,
    bytes: usize,
}

/// What a release has brought into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// Numbers that a gap stands for.
    pub passed_over: u64,
    /// What each member is sent: messages and gaps.
    pub frames: u64,
}

impl Held {
    /// Of a log whose head is this.
    pub fn new(channel: Arc<Channel>, head: u64) -> Held {
        Held { channel, batches: VecDeque::new(), bytes: 0, messages: 0, end: head }
    }

    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number after the last that has come.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn push(&mut self, batch: Arc<Batch>) {
        let bytes = batch.bytes_held();
        self.end = batch.end();
        self.bytes += bytes;
        self.messages += batch.message_count() as u64;
        self.batches.push_back(Entry { batch, bytes });
    }

    /// Drops the oldest batches until the rest has no more than so many messages and bytes. A batch goes as a whole; the newest that has messages stays,
    /// however many they are, unless what came after it alone is too large.
    pub fn pass_over(&mut self, messages_max: u64, bytes_max: usize) {
        while let Some(Entry { batch, .. }) = self.batches.front() {
            let has_newest = batch.message_count() as u64 == self.messages;
            let is_too_many = self.messages > messages_max && !has_newest;
            let is_too_large = self.bytes > bytes_max && self.batches.len() > 1;
            if !is_too_many && !is_too_large {
                break;
            }
            self.pop();
        }
    }

    /// Drops every batch that ends at `end` or earlier.
    pub fn drop_before(&mut self, end: u64) {
        while self.batches.front().is_some_and(|oldest| oldest.batch.end() <= end) {
            self.pop();
        }
    }

    pub fn pop(&mut self) -> Option<Arc<Batch>> {
        let Entry { batch, bytes } = self.batches.pop_front()?;
        self.bytes -= bytes;
        self.messages -= batch.message_count() as u64;
        Some(batch)
    }

    /// Where the oldest batch begins.
    pub fn first(&self) -> u64 {
        self.batches.front().map_or(self.end, |oldest| oldest.batch.first())
    }

    /// Counts again what the batches take: others may have had them encoded.
    pub fn measure(&mut self) {
        self.batches.iter_mut().for_each(|entry| entry.bytes = entry.batch.bytes_held());
        self.bytes = self.batches.iter().map(|entry| entry.bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::batch::BatchBuilder;
    use crate::wire::event::GapReason;
    use crate::wire::payload::Kind;

    fn channel() -> Arc<Channel> {
        Arc::new(Channel { name: "a".into(), epoch: 7, subscribers: Default::default() })
    }

    fn batch(first: u64, messages: u64) -> Arc<Batch> {
        let mut builder = BatchBuilder::new(channel(), first);
        (0..messages).for_each(|_| builder.push(Kind::Text, b"m", 0, 0));
        builder.seal()
    }

    #[test]
    fn whole_batches_are_passed_over_and_the_newest_message_stays() {
        let mut held = Held::new(channel(), 1);
        (0..5).for_each(|at| held.push(batch(1 + 4 * at, 4)));
        held.pass_over(20, usize::MAX);
        assert_eq!((held.first(), held.end()), (1, 21));
        held.pass_over(10, usize::MAX);
        assert_eq!(held.first(), 13, "two batches of four");
        held.pass_over(1, usize::MAX);
        assert_eq!(held.first(), 17, "one has to stay, and is charged as what it is");
        // A gap that comes last is not the newest message.
        held.push(Batch::gap(&channel(), 21, 30, GapReason::Outage));
        held.pass_over(1, usize::MAX);
        assert_eq!((held.first(), held.end()), (17, 31));
        held.pass_over(1, 0);
        assert_eq!((held.first(), held.end()), (21, 31), "there is no room for both");
        held.drop_before(31);
        assert_eq!((held.first(), held.end(), held.bytes()), (31, 31, 0));
    }
}
