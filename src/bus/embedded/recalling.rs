//! What somebody wants of the past of a durable channel, read from the journal: from memory at once, from files later.

use super::Durables;
use crate::bus::hub::{Hub, PageEntry};
use crate::bus::question::HistoryAsked;
use crate::bus::recall::{HistoryError, HistoryPage, Numbers, Recall};
use crate::journal::page::{Page, ReadError};
use crate::journal::{Range, Reading};
use crate::limits::bus::HISTORY_BYTES_MAX;
use crate::wire::command::Position;
use crate::wire::history::HistoryRange;

/// One that is not whole yet.
#[derive(Debug)]
pub(super) struct Recalling {
    recall: Recall,
    /// Where the channel stood when it was begun.
    newest: Position,
    /// The number with which the reading goes on.
    next: u64,
    found: Vec<PageEntry>,
    bytes: usize,
}

impl Durables {
    pub fn recall(&mut self, hub: &mut Hub, asked: HistoryAsked) {
        self.recalls.want(hub, asked);
        self.read_recalls(hub);
    }

    pub(super) fn read_recalls(&mut self, hub: &mut Hub) {
        while let Some((recall, _)) = self.recalls.take_due() {
            let Some(newest) = self.shown(hub, &recall.channel) else {
                self.recalls.done(hub, &recall, Ok(HistoryPage::default()));
                continue;
            };
            let next = recall.numbers(newest).map_or(u64::MAX, |numbers| numbers.from);
            if !self.go_on_recalling(hub, Recalling { recall, newest, next, found: Vec::new(), bytes: 0 }) {
                return;
            }
        }
    }

    /// The newest message of a channel that was shown to anybody: what is not settled is not. None: nothing was ever kept of it.
    fn shown(&mut self, hub: &mut Hub, channel: &str) -> Option<Position> {
        let journal = self.journal.as_ref()?;
        let (epoch, last) = journal.peek(channel)?;
        let waits = |waiting: &super::Waiting| waiting.what.number_of(channel);
        let first_waiting = self.waiting.iter().find_map(waits);
        let _ = hub;
        Some(Position { epoch, seq: first_waiting.map_or(last, |first| first - 1) })
    }

    /// Reads the rest, as far as it is in memory. False: too much is being read.
    fn go_on_recalling(&mut self, hub: &mut Hub, mut recalling: Recalling) -> bool {
        while let Some(Numbers { to, .. }) = recalling.recall.numbers(recalling.newest) {
            let left = recalling.recall.limit - recalling.found.len();
            // Of the last ones before a number all must be read to know which are the last that fit.
            let is_full = recalling.bytes > HISTORY_BYTES_MAX && matches!(recalling.recall.range, HistoryRange::After(_));
            if recalling.next > to || left == 0 || is_full {
                break;
            }
            let Some(journal) = &mut self.journal else { break };
            let range = Range {
                channel: &recalling.recall.channel,
                epoch: recalling.newest.epoch,
                from_seq: recalling.next,
                count_max: left,
                bytes_max: HISTORY_BYTES_MAX,
            };
            match journal.read(&range) {
                Ok(Reading::Page(page)) if page.is_empty() => break,
                Ok(Reading::Page(page)) => recalling.add(&page),
                Ok(Reading::Later(id)) => {
                    self.recalling.insert(id, recalling);
                    return true;
                }
                Err(ReadError::Busy) => {
                    self.recalls.put_back(recalling.recall, None);
                    return false;
                }
                Err(ReadError::Damaged { seq } | ReadError::Failed { seq, .. }) => recalling.next = recalling.next.max(seq + 1),
                Err(ReadError::Unknown | ReadError::OtherEpoch { .. }) => break,
            }
        }
        let page = recalling.recall.page(recalling.newest, recalling.found);
        self.recalls.done(hub, &recalling.recall, Ok(page));
        true
    }

    /// A part of one came from files.
    pub(super) fn recall_read(&mut self, hub: &mut Hub, mut recalling: Recalling, page: Result<Page, ReadError>) {
        match page {
            Ok(page) if page.is_empty() => recalling.next = u64::MAX,
            Ok(page) => recalling.add(&page),
            Err(ReadError::Damaged { seq } | ReadError::Failed { seq, .. }) => recalling.next = recalling.next.max(seq + 1),
            Err(error @ (ReadError::Unknown | ReadError::OtherEpoch { .. } | ReadError::Busy)) => {
                return self.recalls.done(hub, &recalling.recall, Err(HistoryError::Refused(error.to_string())));
            }
        }
        self.go_on_recalling(hub, recalling);
    }
}

impl Recalling {
    fn add(&mut self, page: &Page) {
        for entry in page.iter() {
            self.bytes += entry.payload.len();
            self.found.push(PageEntry { seq: entry.seq, timestamp_ms: entry.timestamp_ms, payload: entry.payload.into() });
        }
        self.next = self.found.last().map_or(self.next, |last| last.seq + 1);
    }
}
