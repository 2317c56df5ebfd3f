//! Pages of durable channels for shards whose clients go on beyond the logs: which are to be read, who is to get each, and those read last. Owned by whatever
//! keeps the channels: [`super::redis::durable`], [`super::embedded`].
//!
//! Invariants: of those who ask for a page while it is under way all get the one answer; what is kept is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::bus::hub::{Hub, PageEntry};
use crate::bus::question::{PageReader, PageWanted};
use crate::fanout::batch::{Batch, Channel};
use crate::limits::bus::{PAGE_NUMBERS, PAGES_KEPT_BYTES, PAGES_KEPT_MAX};

#[derive(Debug, Default)]
pub struct Pages {
    /// By channel (as it is counted now) and first number.
    readers: HashMap<Key, Vec<PageReader>>,
    due: VecDeque<(Arc<Channel>, u64)>,
    /// Newest last.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
}

/// The address stands for the channel and its epoch while somebody has it.
type Key = (usize, u64);

#[derive(Debug)]
struct Kept {
    channel: Arc<Channel>,
    from: u64,
    batches: Vec<Arc<Batch>>,
    bytes: usize,
}

impl Kept {
    /// The number after its last.
    fn end(&self) -> u64 {
        self.batches.last().map_or(self.from, |last| last.end())
    }

    /// No message can come to it any more.
    fn is_whole(&self) -> bool {
        self.end() >= self.from + PAGE_NUMBERS
    }
}

fn key(channel: &Arc<Channel>, from: u64) -> Key {
    (Arc::as_ptr(channel) as usize, from)
}

impl Pages {
    pub fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    /// Somebody wants one: it is here, or is to be read.
    pub fn want(&mut self, hub: &mut Hub, wanted: PageWanted) {
        let PageWanted { channel, from, to } = wanted;
        if let Some(at) = self.kept.iter().position(|kept| kept.from == from && Arc::ptr_eq(&kept.channel, &channel)) {
            let kept = &self.kept[at];
            if kept.is_whole() || hub.count_of(&channel.name).is_some_and(|count| count.seq < kept.end()) {
                return hub.page(to, from, kept.batches.clone());
            }
            // Messages have come to it since.
            self.let_go(at);
        }
        let readers = self.readers.entry(key(&channel, from)).or_insert_with(|| {
            self.due.push_back((channel.clone(), from));
            Vec::new()
        });
        readers.push(to);
    }

    /// The next to be read.
    pub fn take_due(&mut self) -> Option<(Arc<Channel>, u64)> {
        self.due.pop_front()
    }

    /// Takes out those that wait to be read of other channels than these, with whoever wants them.
    pub fn take_due_but(&mut self, is_ours: impl Fn(&Channel) -> bool) -> Vec<PageWanted> {
        if self.due.iter().all(|(channel, _)| is_ours(channel)) {
            return Vec::new();
        }
        let (ours, others): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.due).into_iter().partition(|(channel, _)| is_ours(channel));
        self.due = ours;
        let mut wanted = Vec::new();
        for (channel, from) in others {
            let readers = self.readers.remove(&key(&channel, from)).unwrap_or_default();
            wanted.extend(readers.into_iter().map(|to| PageWanted { channel: channel.clone(), from, to }));
        }
        wanted
    }

    /// It could not be read yet.
    pub fn put_back(&mut self, channel: Arc<Channel>, from: u64) {
        self.due.push_front((channel, from));
    }

    /// What is kept from this number on has been read. It is a page as far as the channel has come (`last`), and no number in it is missing but what is gone.
    pub fn read(&mut self, hub: &mut Hub, channel: Arc<Channel>, from: u64, last: u64, entries: Vec<PageEntry>) {
        let end = match entries.first() {
            Some(first) if first.seq < from + PAGE_NUMBERS => (from + PAGE_NUMBERS).min(last + 1),
            // Nothing of the page is left: what is there next says how much is gone.
            first => first.map_or(last + 1, |first| first.seq.min(last + 1)).max(from + 1),
        };
        let batches = hub.paged(&channel, from..end, entries);
        self.done(hub, channel, from, batches);
    }

    /// One is read, or cannot be.
    pub fn done(&mut self, hub: &mut Hub, channel: Arc<Channel>, from: u64, batches: Vec<Arc<Batch>>) {
        for reader in self.readers.remove(&key(&channel, from)).unwrap_or_default() {
            hub.page(reader, from, batches.clone());
        }
        if !batches.is_empty() {
            let bytes = batches.iter().map(|batch| batch.bytes()).sum();
            self.kept_bytes += bytes;
            self.kept.push_back(Kept { channel, from, batches, bytes });
        }
        while self.kept.len() > PAGES_KEPT_MAX || self.kept_bytes > PAGES_KEPT_BYTES {
            self.let_go(0);
        }
    }

    fn let_go(&mut self, at: usize) {
        self.kept_bytes -= self.kept.remove(at).map_or(0, |gone| gone.bytes);
    }
}
