//! What is kept of a channel, for whoever asks (`history`, `GET /history`): which numbers those are, what is told of them, and who waits for the same.
//!
//! A channel with a history on this node is answered by the hub at once, a durable one by whatever keeps it. Invariants: of those who ask for the same while it is
//! being read all get the one answer; who waits, and what an answer holds, is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::hub::{Hub, PageEntry};
use super::question::{Answer, Asker, HistoryAsked};
use crate::limits::bus::{HISTORIES_ASKED_MAX, HISTORY_BYTES_MAX};
use crate::limits::redis::durable::{ENTRY_BYTES, PAGE_BYTES_MAX};
use crate::wire::command::Position;
use crate::wire::history::HistoryRange;

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// None: the channel has none here, because nothing of it was ever kept.
    pub epoch: Option<u64>,
    /// Oldest first.
    pub messages: Arc<[PageEntry]>,
    /// There are more that way.
    pub has_more: bool,
    /// Of messages after a position: whether none is missing between it and the first of these.
    pub is_recovered: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("too many ask for history; try again")]
    Busy,
    #[error("Redis cannot be reached, so what it keeps cannot be read; try again")]
    Unavailable,
    #[error("what is kept of the channel cannot be read: {0}")]
    Refused(String),
}

/// What is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recall {
    pub channel: Box<str>,
    pub range: HistoryRange,
    pub limit: usize,
}

/// Numbers from the first to the last, of which no more than so many are wanted: from the first on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    pub from: u64,
    pub to: u64,
}

impl Recall {
    /// Which numbers of a channel that stands there. None: there are none, whatever is kept.
    pub fn numbers(&self, newest: Position) -> Option<Numbers> {
        let limit = self.limit as u64;
        let last_ones = |to: u64| Numbers { from: (to + 1).saturating_sub(limit).max(1), to };
        let numbers = match self.range {
            HistoryRange::Newest => last_ones(newest.seq),
            HistoryRange::After(position) | HistoryRange::Before(position) if position.epoch != newest.epoch => return None,
            HistoryRange::After(position) => Numbers { from: position.seq + 1, to: newest.seq },
            HistoryRange::Before(position) => last_ones(position.seq.saturating_sub(1).min(newest.seq)),
        };
        (numbers.from <= numbers.to).then_some(numbers)
    }

    /// The answer, of what was found among those numbers.
    pub fn page(&self, newest: Position, found: Vec<PageEntry>) -> HistoryPage {
        let Some(numbers) = self.numbers(newest) else {
            let is_recovered = match self.range {
                HistoryRange::After(position) => Some(position.epoch == newest.epoch && position.seq == newest.seq),
                HistoryRange::Newest | HistoryRange::Before(_) => None,
            };
            return HistoryPage { epoch: Some(newest.epoch), is_recovered, ..HistoryPage::default() };
        };
        let mut messages: Vec<PageEntry> =
            found.into_iter().filter(|entry| (numbers.from..=numbers.to).contains(&entry.seq)).take(self.limit).collect();
        let mut bytes = 0;
        let mut fits = |entry: &PageEntry| {
            bytes += entry.payload.len() + size_of::<PageEntry>();
            bytes <= HISTORY_BYTES_MAX
        };
        // One is given whatever it takes.
        let (first, has_more, is_recovered) = match self.range {
            HistoryRange::After(position) => {
                let count = messages.iter().take_while(|entry| fits(entry)).count().max(1);
                messages.truncate(count);
                let is_recovered = messages.first().map_or(numbers.to == position.seq, |first| first.seq == position.seq + 1);
                (0, messages.last().is_some_and(|last| last.seq < numbers.to), Some(is_recovered))
            }
            HistoryRange::Newest | HistoryRange::Before(_) => {
                let count = messages.iter().rev().take_while(|entry| fits(entry)).count().max(1).min(messages.len());
                let first = messages.len() - count;
                // Where what was asked for is there from its first number on, there may be more before it.
                let is_whole = messages.first().is_some_and(|entry| entry.seq == numbers.from) && numbers.from > 1;
                (first, first > 0 || is_whole, None)
            }
        };
        HistoryPage { epoch: Some(newest.epoch), messages: messages.split_off(first).into(), has_more, is_recovered }
    }
}

/// Who waits for what.
#[derive(Debug, Default)]
pub struct Recalls {
    askers: HashMap<Recall, Vec<Asker>>,
    count: usize,
    /// Those that are to be read, with where the channel stands if that is known.
    due: VecDeque<(Recall, Option<Position>)>,
}

impl Recalls {
    pub fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    pub fn want(&mut self, hub: &mut Hub, asked: HistoryAsked) {
        let HistoryAsked { mut recall, asker } = asked;
        // As many as may be read whatever they take: fewer are all, as there is a next page.
        recall.limit = recall.limit.min((PAGE_BYTES_MAX / (hub.payload_bytes_max() + ENTRY_BYTES)).max(1));
        if self.count >= HISTORIES_ASKED_MAX {
            return answer(hub, asker, &recall.channel, Err(HistoryError::Busy));
        }
        self.count += 1;
        match self.askers.get_mut(&recall) {
            Some(askers) => askers.push(asker),
            None => {
                self.askers.insert(recall.clone(), vec![asker]);
                self.due.push_back((recall, None));
            }
        }
    }

    pub fn take_due(&mut self) -> Option<(Recall, Option<Position>)> {
        self.due.pop_front()
    }

    /// Where its channel stands is known by now; or it could not be read yet.
    pub fn put_back(&mut self, recall: Recall, newest: Option<Position>) {
        self.due.push_front((recall, newest));
    }

    pub fn done(&mut self, hub: &mut Hub, recall: &Recall, result: Result<HistoryPage, HistoryError>) {
        for asker in self.askers.remove(recall).unwrap_or_default() {
            self.count -= 1;
            answer(hub, asker, &recall.channel, result.clone());
        }
    }

    /// Nothing can be read: everybody is told.
    pub fn give_up(&mut self, hub: &mut Hub) {
        self.due.clear();
        for (recall, askers) in std::mem::take(&mut self.askers) {
            for asker in askers {
                answer(hub, asker, &recall.channel, Err(HistoryError::Unavailable));
            }
        }
        self.count = 0;
    }
}

pub fn answer(hub: &mut Hub, asker: Asker, channel: &str, result: Result<HistoryPage, HistoryError>) {
    hub.answer(asker, Answer::History { channel: channel.into(), result });
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 7;

    fn at(seq: u64) -> Position {
        Position { epoch: EPOCH, seq }
    }

    fn entries(seqs: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<PageEntry> {
        seqs.map(|seq| PageEntry { seq, timestamp_ms: 0, payload: vec![b'x'; bytes].into() }).collect()
    }

    /// Of a channel that stands at 100 and keeps 40 to 100.
    fn page(range: HistoryRange, limit: usize, bytes: usize) -> (Vec<u64>, bool, Option<bool>) {
        let recall = Recall { channel: "c".into(), range, limit };
        let found = match recall.numbers(at(100)) {
            Some(Numbers { from, to }) => entries(from.max(40)..=to, bytes),
            None => Vec::new(),
        };
        let page = recall.page(at(100), found);
        (page.messages.iter().map(|entry| entry.seq).collect(), page.has_more, page.is_recovered)
    }

    #[test]
    fn what_is_asked_for_is_found_and_what_is_gone_is_said() {
        use HistoryRange::{After, Before, Newest};
        let seqs = |range: std::ops::RangeInclusive<u64>| range.collect::<Vec<_>>();
        assert_eq!(page(Newest, 10, 1), (seqs(91..=100), true, None));
        assert_eq!(page(Newest, 61, 1), (seqs(40..=100), true, None), "what is before is not known to be gone");
        assert_eq!(page(Newest, 100, 1), (seqs(40..=100), false, None));
        assert_eq!(page(Before(at(91)), 10, 1), (seqs(81..=90), true, None));
        assert_eq!(page(Before(at(45)), 10, 1), (seqs(40..=44), false, None));
        assert_eq!(page(Before(at(40)), 10, 1), (vec![], false, None));
        assert_eq!(page(Before(at(1)), 10, 1), (vec![], false, None));
        assert_eq!(page(Before(at(500)), 3, 1), (seqs(98..=100), true, None));
        assert_eq!(page(After(at(50)), 10, 1), (seqs(51..=60), true, Some(true)));
        assert_eq!(page(After(at(95)), 10, 1), (seqs(96..=100), false, Some(true)));
        assert_eq!(page(After(at(10)), 5, 1), (seqs(40..=44), true, Some(false)));
        assert_eq!(page(After(at(100)), 5, 1), (vec![], false, Some(true)));
        assert_eq!(page(After(at(101)), 5, 1), (vec![], false, Some(false)));
        assert_eq!(page(After(Position { epoch: 6, seq: 50 }), 5, 1), (vec![], false, Some(false)));
    }

    #[test]
    fn an_answer_is_bounded_and_has_one_message_at_least() {
        use HistoryRange::{After, Newest};
        let large = HISTORY_BYTES_MAX / 3;
        assert_eq!(page(Newest, 10, large), (vec![99, 100], true, None));
        assert_eq!(page(After(at(50)), 10, large), (vec![51, 52], true, Some(true)));
        assert_eq!(page(Newest, 10, 2 * HISTORY_BYTES_MAX), (vec![100], true, None));
        assert_eq!(page(After(at(98)), 10, 2 * HISTORY_BYTES_MAX), (vec![99], true, Some(true)));
    }
}
