//! Sending: one `writev` per due connection, straight from the logs.
//!
//! Two lists say who is due. The ring of topics holds the laps: each topic with news has its members visited in a circle,
//! a quantum at a time, and keeps its place between turns. The ready list holds connections that are due by themselves.
//! Whoever is visited gets everything it is due, from all its channels, so that the busier the host, the larger the writes.

use std::io::{ErrorKind, IoSlice};

use smallvec::SmallVec;

use super::Shard;
use super::close::code;
use super::conn::{Flags, Phase};
use super::net::{Network, Stream};
use crate::config::Overrun;
use crate::fanout::cursor::Cursor;
use crate::fanout::log::Slices;
use crate::fanout::policy::{Verdict, judge};
use crate::limits;
use crate::metrics::CloseReason;
use crate::wire::event::{Event, GapReason};

/// Where a slice of a write came from, in the order in which they were gathered.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The rest of the frame that the socket has taken in part, by subscription.
    FrameRest(usize),
    Outbox,
    /// Whole frames from a subscription's cursor on.
    Log(usize),
}

type Plan = SmallVec<[(Source, usize); 8]>;

/// What a visit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    /// Nothing was due, or nothing can be written now.
    Idle,
    /// Something was written, or at least offered.
    Wrote { bytes: usize },
}

impl<N: Network> Shard<N> {
    pub(super) fn flush_ready(&mut self) {
        let mut units = limits::FLUSH_UNITS_PER_TURN;
        // Half of the turn belongs to the laps, so that a crowd on the ready list does not keep the channels waiting.
        let for_laps = if self.ring.is_empty() { 0 } else { units / 2 };
        units -= for_laps;
        for _ in 0..self.ready.len() {
            if units == 0 {
                break;
            }
            let Some(token) = self.ready.pop_front() else { break };
            let Some(key) = self.resolve(token) else { continue };
            self.conns[key].flags.clear(Flags::READY);
            units = units.saturating_sub(self.visit(key));
        }
        if self.ring.is_empty() || self.now_ns < self.lap_not_before_ns {
            return;
        }
        units += for_laps;
        while units > 0 {
            let Some(token) = self.ring.pop_front() else { break };
            let Some(topic) = self.topics.resolve(token) else { continue };
            units = units.saturating_sub(self.lap(topic));
            if !self.topics[topic].lap_is_over() {
                self.ring.push_back(token);
                continue;
            }
            self.topics[topic].end_lap();
            self.retire_if_idle(topic);
        }
    }

    /// One topic's quantum; returns the units it cost.
    fn lap(&mut self, topic: u32) -> usize {
        let mut units = 1;
        let mut visits = 0;
        while visits < limits::FLUSH_VISITS_PER_TOPIC && units < limits::FLUSH_UNITS_PER_TURN {
            let Some(member) = self.topics[topic].next_visit() else { break };
            visits += 1;
            units += self.visit(member.conn as usize);
        }
        let has_written = units > visits + 1;
        if has_written && (self.topics[topic].lagging > 0 || !self.topics[topic].lap_is_over()) {
            // The visits may have had formats encoded for the first time.
            self.with_log(topic, |log| log.measure());
            self.keep_log_budget();
        }
        units
    }

    fn visit(&mut self, key: usize) -> usize {
        match self.flush(key) {
            Visit::Idle => 1,
            Visit::Wrote { bytes } => limits::FLUSH_UNITS_PER_WRITE + bytes / limits::FLUSH_BYTES_PER_UNIT,
        }
    }

    /// Sends what is due on one connection, as far as its socket takes it.
    fn flush(&mut self, key: usize) -> Visit {
        let conn = &mut self.conns[key];
        if conn.is_dead() {
            return Visit::Idle;
        }
        if conn.flags.has(Flags::BLOCKED) {
            self.judge_blocked(key);
            return Visit::Idle;
        }
        if conn.format != conn.format_next && conn.mid_frame().is_none() {
            conn.format = conn.format_next;
        }
        let mut total = 0;
        let mut visit = Visit::Idle;
        loop {
            if matches!(self.conns[key].phase, Phase::Open(_)) {
                self.judge_overruns(key);
            }
            match self.write_once(key, limits::FLUSH_BYTES_PER_VISIT - total) {
                Written::Nothing => {
                    // A jump may have brought a cursor to the head without a byte to write (raw connections are told of no gap).
                    self.note_lag(key, false);
                    break;
                }
                Written::Some { bytes, more } => {
                    total += bytes;
                    visit = Visit::Wrote { bytes: total };
                    if !more {
                        break;
                    }
                    if total >= limits::FLUSH_BYTES_PER_VISIT {
                        self.note_lag(key, true);
                        self.note_left(key);
                        self.mark_ready(key);
                        return visit;
                    }
                }
                Written::Blocked { bytes } => return Visit::Wrote { bytes: total + bytes },
                Written::Dead => return visit,
            }
        }
        self.after_flush(key);
        visit
    }

    /// Everything due is with the kernel: what was waiting for that?
    fn after_flush(&mut self, key: usize) {
        match self.conns[key].phase {
            Phase::Ending => self.shut(key),
            Phase::Open(_) if self.conns[key].flags.has(Flags::CLOSE_WHEN_SENT) => {
                self.begin_close(key, code::GOING_AWAY, "the server is stopping; reconnect", CloseReason::Shutdown);
            }
            _ => {}
        }
    }

    /// A connection whose socket takes nothing: has a log passed it?
    fn judge_blocked(&mut self, key: usize) {
        if !matches!(self.conns[key].phase, Phase::Open(_)) {
            return;
        }
        for at in 0..self.conns[key].subscriptions.len() {
            let subscription = self.conns[key].subscriptions[at];
            let topic = &self.topics[subscription.topic];
            // The other policies decide when there is room again, so that one gap names all that was lost.
            if topic.rule.overrun == Overrun::Disconnect && subscription.cursor.seq < topic.log.tail() {
                return self.overrun_disconnect(key, at);
            }
        }
    }

    /// Applies the policies of channels whose log has passed this connection's cursors; it may be closing afterwards.
    fn judge_overruns(&mut self, key: usize) {
        for at in 0..self.conns[key].subscriptions.len() {
            let subscription = self.conns[key].subscriptions[at];
            let topic = &self.topics[subscription.topic];
            if subscription.cursor.seq >= topic.log.tail() || subscription.cursor.is_mid_frame() || subscription.waiter().is_some() {
                continue;
            }
            match judge(&topic.log, subscription.cursor, topic.rule.overrun) {
                Verdict::Within => {}
                Verdict::Disconnect => return self.overrun_disconnect(key, at),
                Verdict::Jump { from, to } => {
                    let channel = topic.channel.clone().expect("a cursor is set only once messages flow");
                    self.metrics.overruns[topic.rule.overrun as usize].inc();
                    self.metrics.messages_skipped.add(to - from + 1);
                    self.reply(key, &Event::Gap { channel: &channel.name, from, to, reason: GapReason::Overrun });
                    self.conns[key].subscriptions[at].cursor = Cursor::at(to + 1);
                }
            }
        }
    }

    fn overrun_disconnect(&mut self, key: usize, at: usize) {
        let subscription = self.conns[key].subscriptions[at];
        self.metrics.overruns[Overrun::Disconnect as usize].inc();
        let name = self.topics[subscription.topic].name.clone();
        let text = format!("too slow for channel {name}; reconnect and resume");
        self.begin_close(key, code::OVERRUN, &text, CloseReason::Overrun);
    }

    /// One `writev` of as much as is due and fits.
    fn write_once(&mut self, key: usize, bytes_max: usize) -> Written {
        if self.conns[key].is_dead() {
            return Written::Dead;
        }
        self.merge_scattered_logs(key);
        let conn = &mut self.conns[key];
        let is_open = matches!(conn.phase, Phase::Open(_));
        let format = conn.format;
        let mut slices = Slices::new();
        let mut plan = Plan::new();
        let mut total = 0;

        let mid_frame = conn.mid_frame();
        if let Some(at) = mid_frame {
            let subscription = &conn.subscriptions[at];
            match self.topics[subscription.topic].log.gather_frame_rest(subscription.cursor, format, &mut slices) {
                Some(bytes) => {
                    plan.push((Source::FrameRest(at), bytes));
                    total += bytes;
                }
                None => {
                    let policy = self.topics[subscription.topic].rule.overrun;
                    drop(slices);
                    self.metrics.overruns[policy as usize].inc();
                    self.kill(key, CloseReason::Overrun);
                    return Written::Dead;
                }
            }
        }
        if let Some(outbox) = &conn.outbox
            && !outbox.unsent().is_empty()
        {
            slices.push(IoSlice::new(outbox.unsent()));
            plan.push((Source::Outbox, outbox.unsent().len()));
            total += outbox.unsent().len();
        }
        // A format that waits for a frame boundary begins with the first frame after it.
        let format_settled = conn.format == conn.format_next;
        if is_open && (format_settled || mid_frame.is_none()) {
            for (at, subscription) in conn.subscriptions.iter().enumerate() {
                let log = &self.topics[subscription.topic].log;
                let cursor = if mid_frame == Some(at) { log.boundary_after(subscription.cursor) } else { subscription.cursor };
                let is_due = (log.tail()..log.head()).contains(&cursor.seq) && !subscription.leaving;
                if is_due && total < bytes_max && slices.len() < limits::SLICES_PER_WRITE {
                    let bytes = log.gather(cursor, format, bytes_max - total, &mut slices);
                    plan.push((Source::Log(at), bytes));
                    total += bytes;
                }
            }
        }
        if plan.is_empty() {
            return Written::Nothing;
        }
        let written = if total == 0 {
            // Entries that have no frame in this format: the cursor moves, the socket is left alone.
            0
        } else {
            self.metrics.writes.inc();
            match conn.stream.write(&slices) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => {
                    drop(slices);
                    match self.conns[key].phase {
                        Phase::Open(_) | Phase::Handshake(_) => self.kill(key, CloseReason::Reset),
                        Phase::Closing(_) | Phase::Ending | Phase::Dead => self.end(key),
                    }
                    return Written::Dead;
                }
            }
        };
        drop(slices);
        self.metrics.bytes_sent.add(written as u64);
        self.take_off(key, &plan, written);
        if written < total {
            self.metrics.writes_blocked.inc();
            self.conns[key].flags.set(Flags::BLOCKED);
            self.note_lag(key, true);
            // What could not be sent stays for a while: now it counts.
            self.account_buffers(key);
            return Written::Blocked { bytes: written };
        }
        let more = self.is_due(key);
        self.note_lag(key, more);
        Written::Some { bytes: total, more }
    }

    /// Moves the cursors past what was written.
    fn take_off(&mut self, key: usize, plan: &Plan, written: usize) {
        let now_ns = self.net.now_ns();
        let mut rest = written;
        let mut left_at = None;
        for &(source, bytes) in plan {
            let taken = rest.min(bytes);
            rest -= taken;
            let conn = &mut self.conns[key];
            let format = conn.format;
            match source {
                Source::Outbox => {
                    let outbox = conn.outbox.as_mut().expect("it was gathered");
                    outbox.take_off(taken);
                    if outbox.unsent().is_empty() {
                        conn.outbox = None;
                        self.resume_reading(key);
                    }
                    if self.conns[key].charged_bytes > 0 {
                        self.account_buffers(key);
                    }
                }
                Source::FrameRest(at) | Source::Log(at) => {
                    let metrics = &*self.metrics;
                    let sent = |count: u64, received: u64| {
                        metrics.messages_sent.add(count);
                        metrics.latency.record(now_ns.saturating_sub(received) / 1000, count);
                    };
                    let subscription = &mut conn.subscriptions[at];
                    let log = &self.topics[subscription.topic].log;
                    let from = subscription.cursor;
                    let to = match source {
                        Source::FrameRest(_) => log.advance_frame_rest(from, format, taken, sent),
                        // Nothing of it was taken because something before it was not, perhaps the rest of a frame that only limbo has.
                        _ if taken == 0 && (bytes > 0 || from.is_mid_frame()) => from,
                        _ => log.advance(from, format, taken, sent),
                    };
                    subscription.cursor = to;
                    if subscription.leaving && !to.is_mid_frame() {
                        left_at = Some(at);
                    }
                    let topic = subscription.topic;
                    if from.is_mid_frame() || to.is_mid_frame() {
                        self.with_log(topic, |log| log.cursor_moved(from, to));
                    }
                }
            }
        }
        if let Some(at) = left_at {
            self.remove_subscription(key, at);
        }
        let conn = &mut self.conns[key];
        if conn.format != conn.format_next && conn.mid_frame().is_none() {
            conn.format = conn.format_next;
        }
    }

    /// The replies are gone: whoever was not read because of them is read again, whatever its channels still have for it.
    fn resume_reading(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if conn.flags.has(Flags::PAUSED) {
            conn.flags.clear(Flags::PAUSED);
            if conn.flags.raise(Flags::READING) {
                let token = self.token(key);
                self.reading.push_back(token);
            }
        }
    }

    /// Keeps the topics' counts of members that were left behind. `behind`: not everything that was due has been sent. Who lags does so until it
    /// has reached the head: a log that was dropped when the rest of a cut frame was out would leave it nothing to go on with.
    pub(super) fn note_lag(&mut self, key: usize, behind: bool) {
        for at in 0..self.conns[key].subscriptions.len() {
            let subscription = self.conns[key].subscriptions[at];
            let was = subscription.lagging;
            if !behind && !was {
                continue;
            }
            let head = self.topics[subscription.topic].log.head();
            let is = subscription.waiter().is_none() && !subscription.leaving && subscription.cursor.seq < head;
            if was != is {
                self.conns[key].subscriptions[at].lagging = is;
                self.set_lagging(subscription.topic, was, is);
                if was {
                    self.retire_if_idle(subscription.topic);
                }
            }
        }
    }

    /// It is our bound on a visit, or a lap that misses it, that leaves this connection behind: its logs must not take it for slow.
    pub(super) fn note_left(&mut self, key: usize) {
        let conn = &self.conns[key];
        if conn.flags.has(Flags::BLOCKED) {
            return;
        }
        for subscription in &conn.subscriptions {
            let topic = &mut self.topics[subscription.topic];
            if subscription.waiter().is_none() && subscription.cursor.seq < topic.log.head() {
                topic.note_left(subscription.cursor.seq);
            }
        }
    }

    fn is_due(&self, key: usize) -> bool {
        let conn = &self.conns[key];
        let open = matches!(conn.phase, Phase::Open(_));
        conn.outbox_unsent() > 0
            || conn.subscriptions.iter().any(|subscription| {
                subscription.is_mid_frame()
                    || (open && subscription.waiter().is_none() && subscription.cursor.seq < self.topics[subscription.topic].log.head())
            })
    }

    fn merge_scattered_logs(&mut self, key: usize) {
        for at in 0..self.conns[key].subscriptions.len() {
            let subscription = self.conns[key].subscriptions[at];
            let log = &self.topics[subscription.topic].log;
            if log.is_scattered() && subscription.cursor.seq < log.head() {
                self.with_log(subscription.topic, |log| log.merge());
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Written {
    Nothing,
    Some {
        bytes: usize,
        more: bool,
    },
    /// The socket took less than was offered; its edge will come.
    Blocked {
        bytes: usize,
    },
    Dead,
}
