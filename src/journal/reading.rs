//! What goes out: pages of a channel, from memory at once, from files later.

use super::Journal;
use super::disk::reader::{Order, Reply};
use super::entries::position;
use super::page::{Page, ReadError, ReadId};
use crate::limits::journal::{READ_BYTES_MAX, READS_MAX};

/// What is asked for: entries from a number on.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a> {
    pub channel: &'a str,
    pub epoch: u64,
    pub from_seq: u64,
    pub count_max: usize,
    /// Of payloads; one entry is read whatever it takes.
    pub bytes_max: usize,
}

/// A page has what lies together in memory or in files: there may be more behind it though neither bound is reached. An empty one: there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    Page(Page),
    /// [`Journal::next_page`] brings it.
    Later(ReadId),
}

/// Reads whose answers were not fetched.
#[derive(Debug, Default)]
pub struct Account {
    last: ReadId,
    count: usize,
    bytes: usize,
}

impl Journal {
    pub fn read(&mut self, range: &Range<'_>) -> Result<Reading, ReadError> {
        let id = self.channels.find(range.channel).ok_or(ReadError::Unknown)?;
        self.channels.touch(id, self.now_ms);
        let channel = &self.channels[id];
        if channel.numbers.epoch != range.epoch {
            return Err(ReadError::OtherEpoch { epoch: channel.numbers.epoch });
        }
        let begin = position(&self.entries, &channel.entries, range.from_seq);
        let mut bytes = 0;
        let entries = channel.entries.range(begin..).map(|&at| (at, self.entries.get(at))).take(range.count_max);
        let entries = entries.enumerate().take_while(|(place, (_, kept))| {
            bytes += kept.payload_bytes as usize;
            *place == 0 || bytes <= range.bytes_max
        });
        let entries: Vec<_> = entries.map(|(_, entry)| entry).collect();
        if entries.first().is_none_or(|(_, first)| first.payload.is_some()) {
            let mut page = Page::default();
            for (_, kept) in entries {
                page.push(kept.seq, kept.timestamp_ms, kept.payload.as_deref().expect("what is newer than a warm entry is warm"));
            }
            return Ok(Reading::Page(page));
        }
        let cold = entries.iter().take_while(|(_, kept)| kept.payload.is_none());
        let entries: Vec<_> = cold.map(|&(at, kept)| (kept.seq, self.entries.readable(at))).collect();
        let bytes = entries.iter().map(|(_, place)| place.bytes as usize).sum::<usize>();
        let reads = &mut self.reads;
        if reads.count >= READS_MAX || (reads.count > 0 && reads.bytes + bytes > READ_BYTES_MAX) {
            return Err(ReadError::Busy);
        }
        reads.last += 1;
        reads.count += 1;
        reads.bytes += bytes;
        let disk = self.disk.as_ref().expect("without files all are warm");
        disk.order(Order::Read { id: reads.last, entries, bytes });
        Ok(Reading::Later(reads.last))
    }

    /// The answer to a read that was to come later. Each comes once, in the order in which they were asked for.
    pub fn next_page(&mut self) -> Option<(ReadId, Result<Page, ReadError>)> {
        self.take_replies();
        let (id, page, bytes) = self.pages.pop_front()?;
        self.reads.count -= 1;
        self.reads.bytes -= bytes;
        Some((id, page))
    }

    pub(super) fn take_replies(&mut self) {
        while let Some(reply) = self.disk.as_ref().and_then(|disk| disk.reply()) {
            match reply {
                Reply::Read { id, page, bytes } => self.pages.push_back((id, page, bytes)),
                Reply::Loaded { segment, file } => self.rewrite_loaded(segment, file),
            }
        }
    }
}
