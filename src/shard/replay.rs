//! What is older than the logs of durable channels: read by the bus from where it is kept, a page at a time, as the clients who asked for it come to it. A
//! page is a batch like those of a log, so all who want the same share its frames; a subscription has nothing but its cursor, and a mark that it is on pages.
//!
//! Pages begin at fixed numbers, so that however many clients come back at different places, each page is asked for once while it is here.
//! A page may go at any time; whoever still needs it asks again. So no frame of a page stays with a socket in part: what a socket has not taken of one goes to the
//! connection's outbox.
//!
//! Invariants: pages are bounded in bytes, and questions in number; a subscription on pages has the number of the next message as its cursor, at a frame's
//! begin; whoever waits for a page is visited when it comes.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use super::Shard;
use super::net::Network;
use super::waiters::Waiter;
use crate::bus::{BusCommand, ConnToken};
use crate::fanout::batch::Batch;
use crate::fanout::cursor::Cursor;
use crate::fanout::log::Slices;
use crate::fanout::policy::Lost;
use crate::fanout::topics::TopicToken;
use crate::limits;
use crate::limits::bus::PAGE_NUMBERS;
use crate::wire::event::GapReason;
use crate::wire::framing::Encoding;
use crate::wire::wish::From;

/// The topic, and the number with which the page begins.
type Place = (TopicToken, u64);

#[derive(Debug, Default)]
pub(super) struct Replays {
    pages: HashMap<Place, Page>,
    /// Those that are here, as they came.
    order: VecDeque<Place>,
    /// Those that are still to be asked for.
    wanted: VecDeque<Place>,
    asked: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Page {
    /// None: it is awaited.
    batches: Option<Vec<Arc<Batch>>>,
    bytes: usize,
    waiting: Vec<ConnToken>,
}

/// What there is for a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Frames are here.
    Here,
    /// They have been asked for.
    Awaited,
    /// The log has what follows.
    CaughtUp,
    /// Nothing follows yet.
    Done,
}

/// Where the page of a number begins.
fn page_of(seq: u64) -> u64 {
    (seq - 1) / PAGE_NUMBERS * PAGE_NUMBERS + 1
}

impl Replays {
    fn batch(&self, topic: TopicToken, seq: u64) -> Option<&Arc<Batch>> {
        let batches = self.pages.get(&(topic, page_of(seq)))?.batches.as_ref()?;
        batches.iter().find(|batch| (batch.first()..batch.end()).contains(&seq))
    }

    /// Adds the frames from this number on, as far as the page goes and `bytes_max` is not reached; returns their bytes.
    pub(super) fn gather<'a>(
        &'a self,
        topic: TopicToken,
        seq: u64,
        encoding: Encoding,
        bytes_max: usize,
        slices: &mut Slices<'a>,
    ) -> usize {
        let Some(batch) = self.batch(topic, seq) else { return 0 };
        let frames = batch.frames(encoding);
        let start = batch.frame_start(frames, seq);
        // The frame that reaches the bound is the last.
        let (last, _) = batch.place_of(frames, start.saturating_add(bytes_max).min(frames.bytes.len()));
        let end = batch.frame_start(frames, last.saturating_add(1).min(batch.end()));
        slices.push(IoSlice::new(&frames.bytes[start..end]));
        end - start
    }

    /// Where the cursor stands when so many bytes of those were taken, how many messages that were, and the rest of a frame that was taken in part.
    fn advance(&self, topic: TopicToken, seq: u64, encoding: Encoding, taken: usize) -> Option<(u64, u64, Vec<u8>)> {
        let batch = self.batch(topic, seq)?;
        let frames = batch.frames(encoding);
        let at = batch.frame_start(frames, seq) + taken;
        let (next, offset) = batch.place_of(frames, at);
        if offset == 0 {
            return Some((next, next - seq, Vec::new()));
        }
        let end = batch.frame_start(frames, next + 1);
        Some((next + 1, next + 1 - seq, frames.bytes[at..end].to_vec()))
    }

    /// Somebody waits for the page with this number.
    fn want(&mut self, topic: TopicToken, seq: u64, conn: ConnToken) {
        let place = (topic, page_of(seq));
        if self.pages.get(&place).is_some_and(|page| page.batches.is_some()) {
            // It was read before this number was given.
            self.take_out(place);
            self.order.retain(|other| *other != place);
        }
        let page = self.pages.entry(place).or_insert_with(|| {
            self.wanted.push_back(place);
            Page::default()
        });
        // Of a connection that is visited again and again the last look counts.
        if page.waiting.last() != Some(&conn) {
            page.waiting.push(conn);
        }
    }

    fn take_out(&mut self, place: Place) {
        if let Some(gone) = self.pages.remove(&place) {
            self.bytes -= gone.bytes;
        }
    }

    /// The topic is gone, or is counted anew.
    pub(super) fn forget(&mut self, topic: TopicToken) {
        if self.pages.is_empty() {
            return;
        }
        let gone: Vec<Place> = self.pages.keys().filter(|(of, _)| *of == topic).copied().collect();
        gone.into_iter().for_each(|place| self.take_out(place));
        self.order.retain(|(of, _)| *of != topic);
        self.wanted.retain(|(of, _)| *of != topic);
    }

    /// The oldest go until the rest is within the bound; the newest stays.
    fn keep_budget(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.order.len() > 1 {
            let oldest = self.order.pop_front().expect("there is more than one");
            self.take_out(oldest);
        }
    }
}

impl<N: Network> Shard<N> {
    /// Whether what follows this position is older than the log, and may be kept elsewhere.
    pub(super) fn is_on_pages(&self, topic: u32, from: From) -> Option<u64> {
        let since = from.position()?;
        let found = &self.topics[topic];
        let is_kept = found.rule.durable && found.channel().is_some_and(|channel| channel.epoch == since.epoch);
        (is_kept && since.seq + 1 < found.tail()).then_some(since.seq + 1)
    }

    /// A subscription that begins on pages waits for the first of them. False: it need not, or cannot; then `waiter` comes back.
    pub(super) fn waits_for_page(&mut self, key: usize, at: usize, waiter: Waiter) -> Result<(), Waiter> {
        let topic = self.conns[key].subscriptions[at].topic;
        if self.conns[key].subscriptions[at].is_paced() {
            return Err(waiter);
        }
        let Some(seq) = self.is_on_pages(topic, self.from(topic, waiter.begin)) else { return Err(waiter) };
        let token = self.topics.token(topic);
        if self.replays.batch(token, seq).is_some() {
            return Err(waiter);
        }
        // Where too many wait, what is gone from the log is said to be gone.
        let number = self.waiters.insert(waiter)?;
        self.conns[key].subscriptions[at].forget_waiter(number);
        self.replays.want(token, seq, self.token(key));
        Ok(())
    }

    /// Where a subscription begins whose first page is here: the number of the first message, and what before it is lost.
    pub(super) fn first_on_page(&self, topic: u32, from: From) -> Option<(u64, Option<Lost>)> {
        let seq = self.is_on_pages(topic, from)?;
        let batch = self.replays.batch(self.topics.token(topic), seq)?;
        Some(match batch.gap_reason() {
            None => (seq, None),
            Some(_) => (batch.end(), Some(Lost { from: seq, to: batch.end() - 1, reason: GapReason::Expired })),
        })
    }

    /// What there is for a subscription that is on pages. What is lost there it is told.
    pub(super) fn step_on_pages(&mut self, key: usize, at: usize) -> Step {
        loop {
            let subscription = &self.conns[key].subscriptions[at];
            let (index, seq) = (subscription.topic, subscription.cursor().seq);
            if seq >= self.topics[index].tail() {
                self.step_off_pages(key, at);
                return if self.note_behind(key, at) { Step::CaughtUp } else { Step::Done };
            }
            let token = self.topics.token(index);
            let Some(batch) = self.replays.batch(token, seq) else {
                self.replays.want(token, seq, self.token(key));
                return Step::Awaited;
            };
            if !batch.is_gap() {
                return Step::Here;
            }
            let to = batch.end() - 1;
            let name = self.topics[index].name().clone();
            self.tell_lost(key, &name, Lost { from: seq, to, reason: GapReason::Expired });
            self.conns[key].subscriptions[at].set_cursor(Cursor::at(to + 1));
        }
    }

    /// What it is sent next is in the log, or it is about to go.
    pub(super) fn step_off_pages(&mut self, key: usize, at: usize) {
        let subscription = &mut self.conns[key].subscriptions[at];
        if !subscription.is_on_pages() {
            return;
        }
        subscription.set_on_pages(false);
        if subscription.is_lagging() {
            self.metrics.lagging.dec();
            self.conns[key].remove_behind(at);
        }
    }

    /// So many bytes of a page are with the kernel.
    pub(super) fn take_off_page(&mut self, key: usize, at: usize, taken: usize) {
        let conn = &self.conns[key];
        let (topic, seq) = (self.topics.token(conn.subscriptions[at].topic), conn.subscriptions[at].cursor().seq);
        let Some((next, count, rest)) = self.replays.advance(topic, seq, conn.encoding().plain(), taken) else { return };
        self.metrics.messages_sent.add(count);
        self.metrics.messages_replayed.add(count);
        let conn = &mut self.conns[key];
        conn.subscriptions[at].set_cursor(Cursor::at(next));
        if !rest.is_empty() {
            conn.outbox.get_or_insert_default().put_first(&rest);
        }
    }

    /// Asks the bus for pages, as far as there may be questions.
    pub(super) fn ask_for_pages(&mut self) {
        let mut told = false;
        while self.replays.asked < limits::PAGES_ASKED_MAX
            && let Some(&(topic, from)) = self.replays.wanted.front()
        {
            let Some(channel) = self.topics.resolve(topic).and_then(|index| self.topics[index].channel().cloned()) else {
                self.replays.wanted.pop_front();
                self.replays.take_out((topic, from));
                continue;
            };
            if self.bus.push(BusCommand::ReadPage { shard: self.index, topic, channel, from }).is_err() {
                break;
            }
            told = true;
            self.replays.wanted.pop_front();
            self.replays.asked += 1;
        }
        if told {
            self.bus.wake();
        }
    }

    /// A page has come: those who wait for it go on.
    pub(super) fn on_page(&mut self, topic: TopicToken, from: u64, batches: Vec<Arc<Batch>>) {
        self.replays.asked = self.replays.asked.saturating_sub(1);
        let Some(page) = self.replays.pages.get_mut(&(topic, from)) else { return };
        let waiting = std::mem::take(&mut page.waiting);
        let Some(index) = self.topics.resolve(topic) else { return self.replays.take_out((topic, from)) };
        if batches.is_empty() {
            // It cannot be had: who waits goes on where the log begins.
            self.replays.take_out((topic, from));
        } else {
            page.bytes = batches.iter().map(|batch| batch.bytes()).sum();
            self.replays.bytes += page.bytes;
            page.batches = Some(batches);
            self.replays.order.push_back((topic, from));
            self.replays.keep_budget(self.settings.log_bytes_max / limits::PAGES_PART);
        }
        for conn in waiting {
            let Some(key) = self.resolve(conn).filter(|&key| self.conns[key].is_open()) else { continue };
            let Some(at) = self.find_subscription(key, index) else { continue };
            if self.conns[key].subscriptions[at].waiter().is_some() {
                let waiter = self.take_waiter(key, at);
                if self.replays.pages.contains_key(&(topic, from)) {
                    // The newest message may be another one by now, on another page.
                    self.confirm(key, at, waiter);
                } else if let Err(waiter) = self.waits_for_count(key, at, waiter) {
                    self.confirm_from(key, at, &waiter, false);
                }
            } else if self.conns[key].subscriptions[at].is_on_pages() && !self.replays.pages.contains_key(&(topic, from)) {
                self.give_pages_up(key, at);
            }
            self.mark_ready(key);
        }
    }

    /// A subscription goes on at the log, and is told what it has missed.
    fn give_pages_up(&mut self, key: usize, at: usize) {
        let subscription = &self.conns[key].subscriptions[at];
        let (index, from) = (subscription.topic, subscription.cursor().seq);
        let tail = self.topics[index].tail();
        self.step_off_pages(key, at);
        if from < tail {
            let name = self.topics[index].name().clone();
            self.tell_lost(key, &name, Lost { from, to: tail - 1, reason: GapReason::Expired });
            self.conns[key].subscriptions[at].set_cursor(Cursor::at(tail));
        }
        self.note_behind(key, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_at_fixed_numbers() {
        assert_eq!([1, 2, PAGE_NUMBERS, PAGE_NUMBERS + 1].map(page_of), [1, 1, 1, PAGE_NUMBERS + 1]);
    }
}
