//! One channel's recent batches on one shard. Subscriptions are cursors into it; nothing is queued per connection.
//!
//! Invariants: the entries are consecutive (a hole becomes a gap entry when it is noticed), `head` follows the last one, and the
//! entries take at most `bytes_max` (one batch may always stay, and what a slow lap has still to bring). Batches that were trimmed
//! while somebody was in the middle of one of their frames wait in limbo, again `bytes_max` and at most one batch more, until that
//! frame is finished.

mod settling;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use smallvec::SmallVec;

use super::batch::{Batch, Channel};
use super::cursor::Cursor;
use super::held::{Held, Released};
use crate::clock::MonotonicNs;
use crate::limits::{BATCH_BYTES_MAX, SLICES_BEFORE_MERGE, SLICES_PER_WRITE, UNSERVED_LOGS_MAX};
use crate::wire::event::GapReason;
use crate::wire::framing::Encoding;

/// A merged batch takes at most this part of its log's bound.
const MERGED_PART: usize = 8;

/// What one `writev` gets.
pub type Slices<'a> = SmallVec<[IoSlice<'a>; SLICES_PER_WRITE]>;

#[derive(Debug)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// The number the next message will have.
    head: u64,
    bytes: usize,
    bytes_max: usize,
    /// Every socket that takes bytes has been offered everything below this number; what follows is not its reader's fault.
    served: u64,
    /// Entries appended since the last merge.
    unmerged: usize,
    /// None while no socket is in the middle of a frame.
    cuts: Option<Box<Cuts>>,
    /// What has come and is not to be sent yet; None as a rule.
    held: Option<Box<Held>>,
    /// Everything below this number that is gone went because a bound was reached, this log's or that of all logs; what else is gone, everybody had.
    #[cfg(debug_assertions)]
    overrun: u64,
}

/// A batch and what it was counted as: a batch grows when an encoding is first asked for.
#[derive(Debug)]
struct Entry {
    batch: Arc<Batch>,
    bytes: usize,
}

/// Frames that some socket has taken in part, and the trimmed batches that still hold them.
#[derive(Debug, Default)]
struct Cuts {
    /// How many cursors are in the middle of the frame of this number.
    cursors: BTreeMap<u64, u32>,
    limbo: Vec<Entry>,
    limbo_bytes: usize,
}

impl Log {
    pub fn new(bytes_max: usize) -> Log {
        Log {
            entries: VecDeque::new(),
            head: 1,
            bytes: 0,
            bytes_max,
            served: u64::MAX,
            unmerged: 0,
            cuts: None,
            held: None,
            #[cfg(debug_assertions)]
            overrun: 0,
        }
    }

    fn note_overrun(&mut self) {
        #[cfg(debug_assertions)]
        {
            self.overrun = self.tail();
        }
    }

    /// Called before a reader is judged to have been too slow for this log: nobody is while no bound has been reached.
    pub fn assert_overrun(&self, _seq: u64) {
        #[cfg(debug_assertions)]
        assert!(_seq < self.overrun, "{_seq} was dropped while somebody needed it and there was room");
    }

    /// Takes effect with the next message.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Sets where numbering stands; the log must be empty.
    pub fn start_at(&mut self, head: u64) {
        assert!(self.entries.is_empty(), "a log in use cannot be renumbered");
        self.head = head;
    }

    /// Says how far every socket that takes bytes has been served.
    pub fn set_served(&mut self, served: u64) {
        self.served = served;
    }

    pub fn served(&self) -> u64 {
        self.served
    }

    /// The number the next message will have.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The oldest number that can still be read; `head` when nothing can.
    pub fn tail(&self) -> u64 {
        self.entries.front().map_or(self.head, |oldest| oldest.batch.first())
    }

    /// The number of the newest message, whatever gaps came after it; without a message the tail.
    pub fn newest(&self) -> u64 {
        self.newest_message().unwrap_or_else(|| self.tail())
    }

    /// The same. None: there is no message.
    pub fn newest_message(&self) -> Option<u64> {
        let newest = self.entries.iter().rfind(|entry| !entry.batch.is_gap());
        newest.map(|newest| newest.batch.end() - 1)
    }

    pub fn has_messages(&self) -> bool {
        self.entries.iter().rev().any(|entry| !entry.batch.is_gap())
    }

    /// How many entries there are from the one with the newest message on.
    fn newest_entries(&self) -> usize {
        self.entries.iter().rev().position(|entry| !entry.batch.is_gap()).map_or(self.entries.len(), |gaps| gaps + 1)
    }

    /// Bytes held, limbo and what is not released included.
    pub fn bytes(&self) -> usize {
        let limbo_bytes = self.cuts.as_ref().map_or(0, |cuts| cuts.limbo_bytes);
        self.bytes + limbo_bytes + self.held.as_ref().map_or(0, |held| held.bytes())
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Nothing is held, for anybody.
    pub fn is_bare(&self) -> bool {
        self.entries.is_empty() && self.cuts.is_none() && self.held.is_none()
    }

    /// Appends what the bus sent. A hole before it becomes a gap entry, for this reason; returns how many numbers the hole had. A batch
    /// that the log already has is ignored.
    pub fn append(&mut self, batch: Arc<Batch>, hole: GapReason) -> u64 {
        if batch.end() <= self.head {
            return 0;
        }
        assert!(batch.first() >= self.head, "batches never overlap the log in part");
        let lost = self.advance_head(batch.channel(), batch.first(), hole);
        self.push(batch);
        self.trim(self.bytes_max);
        lost
    }

    /// Announces as lost what lies between the head and `next`, the number the next message will have.
    pub fn advance_head(&mut self, channel: &Arc<Channel>, next: u64, reason: GapReason) -> u64 {
        let lost = next.saturating_sub(self.head);
        if lost > 0 {
            self.push(Batch::gap(channel, self.head, next - 1, reason));
        }
        lost
    }

    fn push(&mut self, batch: Arc<Batch>) {
        let bytes = batch.bytes_held();
        self.head = batch.end();
        self.bytes += bytes;
        self.unmerged += 1;
        self.entries.push_back(Entry { batch, bytes });
    }

    /// Drops the oldest entries until the rest takes at most `bytes_max`; the newest stays. What the current lap has still to bring to
    /// readers who are not slow stays too, up to [`UNSERVED_LOGS_MAX`] times as much: a host that falls behind makes larger writes
    /// instead of cutting everybody off.
    fn trim(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.entries.len() > 1 {
            let is_served = self.entries[0].batch.end() <= self.served;
            if !is_served && self.bytes <= bytes_max.saturating_mul(UNSERVED_LOGS_MAX) {
                break;
            }
            self.drop_oldest();
            self.note_overrun();
        }
    }

    // What is held back.

    /// The number after the last that has come, held back or not.
    pub fn arrived(&self) -> u64 {
        self.held.as_ref().map_or(self.head, |held| held.end())
    }

    /// Takes what the bus sent without showing it to anybody. A hole before it becomes a gap, as in [`Log::append`].
    pub fn hold(&mut self, batch: Arc<Batch>, hole: GapReason) -> u64 {
        if batch.end() <= self.arrived() {
            return 0;
        }
        assert!(batch.first() >= self.arrived(), "batches never overlap in part");
        let lost = self.hold_to(&batch.channel().clone(), batch.first(), hole);
        self.held.as_mut().expect("it was made").push(batch);
        lost
    }

    /// What lies between the last that has come and `next` is lost, which is not told yet, either; see [`Log::advance_head`].
    pub fn hold_to(&mut self, channel: &Arc<Channel>, next: u64, reason: GapReason) -> u64 {
        let held = self.held.get_or_insert_with(|| Box::new(Held::new(channel.clone(), self.head)));
        let lost = next.saturating_sub(held.end());
        if lost > 0 {
            held.push(Batch::gap(channel, held.end(), next - 1, reason));
        }
        lost
    }

    pub fn held(&self) -> Option<&Held> {
        self.held.as_deref()
    }

    pub fn held_mut(&mut self) -> Option<&mut Held> {
        self.held.as_deref_mut()
    }

    /// From now on what was held back is in the log, like all else.
    pub fn release(&mut self) -> Released {
        let Some(mut held) = self.held.take() else { return Released { passed_over: 0, frames: 0 } };
        let passed_over = self.advance_head(&held.channel().clone(), held.first(), GapReason::Budget);
        let mut frames = u64::from(passed_over > 0);
        while let Some(batch) = held.pop() {
            frames += batch.message_count().max(1) as u64;
            self.push(batch);
        }
        self.trim(self.bytes_max);
        Released { passed_over, frames }
    }

    /// Counts again what the batches hold, now that more encodings may have been asked for, and trims.
    pub fn measure(&mut self) {
        for entry in &mut self.entries {
            entry.bytes = entry.batch.bytes_held();
        }
        self.bytes = self.entries.iter().map(|entry| entry.bytes).sum();
        if let Some(held) = &mut self.held {
            held.measure();
        }
        self.trim(self.bytes_max);
    }

    /// Drops every batch that ends at `end` or earlier, in limbo too: whoever is in the middle of one of its frames is cut off.
    pub fn drop_before(&mut self, end: u64) {
        while self.entries.front().is_some_and(|oldest| oldest.batch.end() <= end) {
            self.pop_oldest();
            self.note_overrun();
        }
        if let Some(cuts) = &mut self.cuts {
            cuts.limbo.retain(|entry| entry.batch.end() > end);
            cuts.limbo_bytes = cuts.limbo.iter().map(|entry| entry.bytes).sum();
        }
        if let Some(held) = &mut self.held {
            held.drop_before(end);
        }
    }

    /// Whether a batch that ends at `end` may still be held here.
    pub fn may_hold(&self, end: u64) -> bool {
        self.tail() < end || self.cuts.as_ref().is_some_and(|cuts| cuts.limbo.iter().any(|entry| entry.batch.end() >= end))
    }

    /// Drops entries that nobody needs any more: all but the newest `count` messages that are younger than `age_ns`. Called when every
    /// cursor has reached the head. `keeps_newest`: somebody will be sent the newest message, and what came after it, whatever else is
    /// needed.
    pub fn retire(&mut self, count: usize, age_ns: u64, now: MonotonicNs, keeps_newest: bool) {
        let kept = if keeps_newest { self.newest_entries() } else { 0 };
        if count == 0 {
            while self.entries.len() > kept {
                self.drop_oldest();
            }
            return;
        }
        let mut messages: usize = self.entries.iter().map(|entry| entry.batch.message_count()).sum();
        while self.entries.len() > kept
            && let Some(Entry { batch: oldest, .. }) = self.entries.front()
        {
            let rest = messages - oldest.message_count();
            // A gap has no age of its own; at the front it goes with the messages behind it.
            let received = self.entries.iter().find_map(|entry| entry.batch.received());
            let is_old = received.is_some_and(|received| now.saturating_sub(received) >= age_ns);
            if rest < count && !is_old {
                break;
            }
            messages = rest;
            self.drop_oldest();
        }
    }

    /// A frame that somebody is in the middle of goes to limbo.
    fn drop_oldest(&mut self) {
        let Some(entry) = self.pop_oldest() else { return };
        if let Some(cuts) = &mut self.cuts
            && cuts.is_needed(&entry.batch)
            && cuts.limbo_bytes <= self.bytes_max
        {
            cuts.limbo_bytes += entry.bytes;
            cuts.limbo.push(entry);
        }
    }

    fn pop_oldest(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes;
        self.unmerged = self.unmerged.min(self.entries.len());
        if self.entries.is_empty() {
            // A channel that is quiet now holds nothing, or a hundred thousand of them would hold the most that each ever had.
            self.entries = VecDeque::new();
        }
        Some(entry)
    }

    /// A cursor stopped in the middle of a frame, or went on from there: both ends are told so that limbo is exact.
    pub fn cursor_moved(&mut self, from: Cursor, to: Cursor) {
        if from.is_mid_frame() == to.is_mid_frame() && from.seq == to.seq {
            return;
        }
        if to.is_mid_frame() {
            let cuts = self.cuts.get_or_insert_default();
            *cuts.cursors.entry(to.seq).or_insert(0) += 1;
        }
        if from.is_mid_frame() {
            let cuts = self.cuts.as_mut().expect("a cursor leaves only a frame it was in");
            cuts.leave(from.seq);
            if cuts.cursors.is_empty() {
                self.cuts = None;
            }
        }
    }

    /// The batch that holds `seq`, in the entries or in limbo.
    fn find(&self, seq: u64) -> Option<&Arc<Batch>> {
        if seq >= self.tail() {
            return self.entries.get(self.index_of(seq)).map(|entry| &entry.batch);
        }
        self.cuts.as_ref()?.limbo.iter().map(|entry| &entry.batch).find(|batch| (batch.first()..batch.end()).contains(&seq))
    }

    /// Which entry holds `seq`, which is not before the tail; the number of entries for the head.
    fn index_of(&self, seq: u64) -> usize {
        self.entries.partition_point(|entry| entry.batch.end() <= seq)
    }

    /// The first number at or after `seq` at which a cursor may stand: one inside a gap would have the whole gap announced again.
    pub fn boundary_at(&self, seq: u64) -> u64 {
        match self.find(seq) {
            Some(batch) if batch.is_gap() && batch.first() < seq => batch.end(),
            _ => seq,
        }
    }

    /// Whether there is something from the cursor on, and no message.
    pub fn has_gaps_alone(&self, cursor: Cursor) -> bool {
        (self.tail()..self.head).contains(&cursor.seq) && self.entries.range(self.index_of(cursor.seq)..).all(|entry| entry.batch.is_gap())
    }

    /// Where a gap ends that this number lies within and does not begin, and why there is one.
    pub fn gap_around(&self, seq: u64) -> Option<(u64, GapReason)> {
        let batch = self.find(seq).filter(|batch| batch.first() < seq)?;
        Some((batch.end(), batch.gap_reason()?))
    }

    /// Whether the rest of a started frame can still be read.
    pub fn has_frame(&self, cursor: Cursor) -> bool {
        self.find(cursor.seq).is_some()
    }

    /// Adds the rest of the frame in whose middle the cursor stands; returns its bytes. None when the log has lost it.
    pub fn gather_frame_rest<'a>(&'a self, cursor: Cursor, encoding: Encoding, slices: &mut Slices<'a>) -> Option<usize> {
        let batch = self.find(cursor.seq)?;
        let frames = batch.settled(cursor.encoding(encoding)).expect("it was when the frame was begun");
        let start = batch.frame_start(frames, cursor.seq);
        let next = if batch.is_gap() { batch.end() } else { cursor.seq + 1 };
        let rest = &frames.bytes[start + cursor.offset as usize..batch.frame_start(frames, next)];
        slices.push(IoSlice::new(rest));
        Some(rest.len())
    }

    /// Where the cursor stands after `written` bytes of what [`Log::gather_frame_rest`] gave were taken.
    pub fn advance_frame_rest(&self, cursor: Cursor, encoding: Encoding, written: usize, mut sent: impl FnMut(u64, MonotonicNs)) -> Cursor {
        let batch = self.find(cursor.seq).expect("the frame was gathered from this batch");
        let frames = batch.settled(cursor.encoding(encoding)).expect("it was when the frame was begun");
        let next = if batch.is_gap() { batch.end() } else { cursor.seq + 1 };
        let offset = cursor.offset as usize + written;
        if batch.frame_start(frames, cursor.seq) + offset < batch.frame_start(frames, next) {
            return Cursor { offset: offset as u32, ..cursor };
        }
        report(batch, cursor.seq, next, &mut sent);
        Cursor::at(next)
    }

    /// The frame boundary after the frame in whose middle the cursor stands.
    pub fn boundary_after(&self, cursor: Cursor) -> Cursor {
        Cursor::at(self.find(cursor.seq).filter(|batch| batch.is_gap()).map_or(cursor.seq + 1, |gap| gap.end()))
    }

    /// Adds everything from the cursor (which must not be before the tail) to the head, as long as there is room in `slices` and
    /// `bytes_max` is not reached; returns the bytes added. Of an encoding that may be compressed it goes as far as that is settled.
    pub fn gather<'a>(&'a self, cursor: Cursor, encoding: Encoding, bytes_max: usize, slices: &mut Slices<'a>) -> usize {
        debug_assert!(cursor.seq >= self.tail());
        let (mut cursor, mut bytes) = (cursor, 0);
        for Entry { batch, .. } in self.entries.range(self.index_of(cursor.seq)..) {
            if bytes >= bytes_max || slices.len() == SLICES_PER_WRITE {
                break;
            }
            let Some(frames) = batch.settled(encoding) else { break };
            let rest = &frames.bytes[batch.frame_start(frames, cursor.seq) + cursor.offset as usize..];
            if !rest.is_empty() {
                slices.push(IoSlice::new(rest));
                bytes += rest.len();
            }
            cursor = Cursor::at(batch.end());
        }
        bytes
    }

    /// Where the cursor stands after `written` more bytes of what [`Log::gather`] gave were taken. `sent` is told of each run of
    /// messages whose last byte was among them.
    pub fn advance(&self, cursor: Cursor, encoding: Encoding, written: usize, mut sent: impl FnMut(u64, MonotonicNs)) -> Cursor {
        debug_assert!(cursor.seq >= self.tail());
        let (mut cursor, mut written) = (cursor, written);
        for Entry { batch, .. } in self.entries.range(self.index_of(cursor.seq)..) {
            let Some(frames) = batch.settled(encoding) else { break };
            let start = batch.frame_start(frames, cursor.seq) + cursor.offset as usize;
            let rest = frames.bytes.len() - start;
            let next = if written >= rest {
                Cursor::at(batch.end())
            } else if written == 0 {
                return cursor;
            } else {
                let (seq, offset) = batch.place_of(frames, start + written);
                Cursor { seq, offset: offset as u32, is_settled: encoding.is_deflate() && offset > 0 }
            };
            let is_behind = written < rest;
            written -= written.min(rest);
            report(batch, cursor.seq, next.seq, &mut sent);
            cursor = next;
            if is_behind {
                break;
            }
        }
        debug_assert_eq!(written, 0, "more was written than the log had");
        cursor
    }

    /// Whether a write may need many slices: a `writev` of 100 slices costs a fifth more than one of 10.
    pub fn is_scattered(&self) -> bool {
        self.unmerged > SLICES_BEFORE_MERGE
    }

    /// Joins small neighbours. Cursors need no change: they count messages, not batches. A small log stays in several batches: it is
    /// trimmed by whole ones. What is joined counts as its parts did until the next [`Log::measure`], for this happens between visits.
    pub fn merge(&mut self) {
        let bytes_max = BATCH_BYTES_MAX.min(self.bytes_max / MERGED_PART);
        self.unmerged = 0;
        let mut merged = VecDeque::with_capacity(self.entries.len() / 2 + 1);
        let mut run: Vec<Entry> = Vec::new();
        let mut run_bytes = 0;
        for entry in std::mem::take(&mut self.entries) {
            let is_gap = entry.batch.is_gap();
            if is_gap || run_bytes + entry.batch.bytes() > bytes_max {
                join(&mut run, &mut merged);
                run_bytes = 0;
            }
            run_bytes += entry.batch.bytes();
            run.push(entry);
            if is_gap {
                join(&mut run, &mut merged);
                run_bytes = 0;
            }
        }
        join(&mut run, &mut merged);
        self.entries = merged;
    }
}

/// Puts a run of neighbours, as one batch, at the end of `merged`.
fn join(run: &mut Vec<Entry>, merged: &mut VecDeque<Entry>) {
    if run.len() < 2 {
        merged.extend(run.pop());
        return;
    }
    let bytes = run.iter().map(|entry| entry.bytes).sum();
    let batches: Vec<_> = run.drain(..).map(|entry| entry.batch).collect();
    merged.push_back(Entry { batch: Batch::merge(&batches), bytes });
}

/// Tells `sent` of the runs of messages in `from..to` of a batch.
fn report(batch: &Batch, from: u64, to: u64, sent: &mut impl FnMut(u64, MonotonicNs)) {
    let runs = batch.runs();
    let mut from = from;
    for run in &runs[runs.partition_point(|run| run.end_seq <= from)..] {
        if from >= to {
            break;
        }
        let end = run.end_seq.min(to);
        sent(end - from, run.received);
        from = end;
    }
}

impl Cuts {
    fn is_needed(&self, batch: &Batch) -> bool {
        self.cursors.range(batch.first()..batch.end()).next().is_some()
    }

    fn leave(&mut self, seq: u64) {
        let count = self.cursors.get_mut(&seq).expect("a cursor leaves only a frame it was in");
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.cursors.remove(&seq);
        if let Some(index) = self.limbo.iter().position(|entry| (entry.batch.first()..entry.batch.end()).contains(&seq))
            && !self.is_needed(&self.limbo[index].batch)
        {
            self.limbo_bytes -= self.limbo.swap_remove(index).bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::batch::BatchBuilder;
    use crate::wire::payload::Kind;

    #[test]
    fn history_age_holds_behind_a_leading_gap() {
        let channel = Arc::new(Channel { name: "a".into(), epoch: 7, subscribers: Default::default() });
        let mut log = Log::new(1 << 20);
        let message = |seq, received| {
            let mut builder = BatchBuilder::new(channel.clone(), seq);
            builder.push(Kind::Text, b"m", received, 0);
            builder.seal()
        };
        log.append(message(3, 1000), GapReason::Inbox);
        log.append(message(4, 2000), GapReason::Inbox);
        log.retire(10, 100, 1099, false);
        assert_eq!(log.tail(), 1, "nothing is old");
        log.retire(10, 100, 1100, false);
        assert_eq!(log.tail(), 4);
        assert_eq!(log.newest(), 4);
        log.retire(10, 100, 2100, true);
        log.retire(0, 100, 2100, true);
        assert_eq!((log.tail(), log.newest()), (4, 4));
        log.retire(10, 100, 2100, false);
        assert!(log.is_empty());
        log.advance_head(&channel, 8, GapReason::Inbox);
        assert_eq!((log.newest(), log.head()), (5, 8), "a gap is told in its place");
        // However many come after it: the newest message is what it was.
        log.append(message(8, 3000), GapReason::Inbox);
        for next in 10..=12 {
            log.advance_head(&channel, next, GapReason::Outage);
        }
        log.retire(0, 100, 3000, true);
        assert_eq!((log.newest(), log.tail(), log.head()), (8, 8, 12));
    }
}
