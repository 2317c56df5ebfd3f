//! Sending: one `writev` per due connection, straight from the logs.
//!
//! Two lists say who is due. The laps: each topic with news has its members visited in a circle, a quantum at a time, and keeps its place between
//! turns, those with few members before the others. The ready list holds connections that are due by themselves.
//! Whoever is visited gets everything it is due, from all its channels, so that the busier the host, the larger the writes.

use std::io::ErrorKind;

use super::Shard;
use super::conn::{Flags, Phase};
use super::deflate::count_deflated;
use super::gather::{Due, Picked, Plan, Source};
use super::laps::{Lap, Tenant};
use super::net::{Network, Stream};
use super::replay::Step;
use crate::config::Overrun;
use crate::fanout::cursor::Cursor;
use crate::fanout::log::{Log, Slices};
use crate::fanout::policy::{Verdict, judge};
use crate::limits;
use crate::wire::close::CloseReason;
use crate::wire::event::GapReason;
use crate::wire::peer::Peer;

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
        self.deflate.begin_turn();
        self.begin_due_laps();
        let mut units = limits::FLUSH_UNITS_PER_TURN;
        // Half of the turn belongs to the laps, so that a crowd on the ready list does not keep the channels waiting.
        let for_laps = if self.laps.is_empty() { 0 } else { units / 2 };
        units -= for_laps;
        for _ in 0..self.ready.len() {
            if units == 0 {
                break;
            }
            let Some(token) = self.ready.pop_front() else { break };
            let Some(key) = self.resolve(token) else { continue };
            self.conns[key].flags.clear(Flags::READY);
            units = units.saturating_sub(self.visit(key, None));
        }
        units += for_laps;
        let for_long = units / 2;
        while units > 0 {
            let Some(lap) = self.laps.next(units > for_long) else { break };
            let Some(topic) = self.topics.resolve(lap.topic) else { continue };
            if let Some(rate) = lap.rate {
                units = units.saturating_sub(self.paced_lap(topic, rate));
                if self.paced_lap_is_over(topic, rate) {
                    self.end_paced_lap(topic, rate);
                } else {
                    self.laps.go_on(lap, self.tenant(topic));
                }
                continue;
            }
            units = units.saturating_sub(self.lap(topic));
            if !self.topics[topic].lap_is_over() {
                self.laps.go_on(lap, self.tenant(topic));
                continue;
            }
            self.topics[topic].end_lap();
            if self.topics[topic].lagging() > 0 {
                // What the lap was still to bring need not be kept beyond the bound any more.
                self.logs.measure(&mut self.topics, topic);
            }
            self.logs.retire_if_idle(&mut self.topics, topic, self.now_ns);
        }
    }

    /// Whose turn a topic's laps are part of.
    pub(super) fn tenant(&self, topic: u32) -> Tenant {
        Tenant::of(&self.topics[topic].rule)
    }

    /// Laps that had to wait begin.
    fn begin_due_laps(&mut self) {
        for _ in 0..limits::LAPS_BEGUN_PER_TURN {
            let Some(Lap { topic, rate }) = self.laps.next_due(self.now_ns) else { break };
            match rate {
                Some(rate) => self.on_paced_due(topic, rate),
                None => self.on_rest_over(topic),
            }
        }
    }

    /// One topic's quantum; returns the units it cost.
    fn lap(&mut self, topic: u32) -> usize {
        let mut units = 1;
        let mut visits = 0;
        while visits < limits::FLUSH_VISITS_PER_TOPIC && units < limits::FLUSH_UNITS_PER_TURN {
            let Some(member) = self.topics[topic].next_visit() else { break };
            visits += 1;
            units += self.visit(member.conn as usize, Some(member.subscription as usize));
            self.note_left(topic, member);
        }
        let has_written = units > visits + 1;
        if has_written && (self.topics[topic].lagging() > 0 || !self.topics[topic].lap_is_over()) {
            self.logs.measure(&mut self.topics, topic);
        }
        units
    }

    /// `news`: the subscription by which a lap has come here.
    pub(super) fn visit(&mut self, key: usize, news: Option<usize>) -> usize {
        match self.flush(key, news) {
            Visit::Idle => 1,
            Visit::Wrote { bytes } => limits::FLUSH_UNITS_PER_WRITE + bytes / limits::FLUSH_BYTES_PER_UNIT,
        }
    }

    /// Sends what is due on one connection, as far as its socket takes it.
    fn flush(&mut self, key: usize, news: Option<usize>) -> Visit {
        if self.conns[key].is_dead() {
            return Visit::Idle;
        }
        // Before anything else: whatever keeps this connection from writing now, its log must know that somebody still needs it.
        let has_news = news.is_some_and(|at| self.note_behind(key, at));
        let conn = &mut self.conns[key];
        if conn.flags.has(Flags::BLOCKED) {
            if let Some(at) = news.filter(|_| has_news) {
                self.forget_left(key, at);
                self.judge_blocked(key, at);
            }
            return Visit::Idle;
        }
        if news.is_some() && !conn.has_behind() && conn.outbox.is_none() {
            // An earlier visit has brought what this lap is for.
            return Visit::Idle;
        }
        if conn.stream.wants_write(self.net.gear()) && !self.flush_stream(key) {
            return Visit::Idle;
        }
        self.look_around(key, news.unwrap_or(0));
        let mut total = 0;
        let mut visit = Visit::Idle;
        loop {
            match self.write_once(key, limits::FLUSH_BYTES_PER_VISIT - total) {
                Written::Nothing if self.append_positions(key) => {}
                Written::Nothing => break,
                Written::Some { bytes, more } => {
                    total += bytes;
                    visit = Visit::Wrote { bytes: total };
                    if !more && !self.append_positions(key) {
                        break;
                    }
                    if total >= limits::FLUSH_BYTES_PER_VISIT {
                        self.append_positions(key);
                        self.note_all_left(key);
                        self.mark_ready(key);
                        return visit;
                    }
                }
                Written::Blocked { bytes } => {
                    self.append_positions(key);
                    return Visit::Wrote { bytes: total + bytes };
                }
                Written::Dead => return visit,
            }
        }
        self.after_flush(key);
        visit
    }

    /// What the stream has taken, or has to say itself, goes before anything else; false if the socket does not take it all now.
    fn flush_stream(&mut self, key: usize) -> bool {
        let conn = &mut self.conns[key];
        if conn.stream.flush(self.net.gear_mut()).is_err() {
            self.lose(key, CloseReason::Reset);
            return false;
        }
        if conn.stream.wants_write(self.net.gear()) {
            conn.flags.set(Flags::BLOCKED);
            return false;
        }
        if conn.charged_bytes > 0 {
            self.account_buffers(key);
        }
        true
    }

    /// Everything due is with the kernel: what was waiting for that?
    fn after_flush(&mut self, key: usize) {
        match self.conns[key].phase {
            Phase::Ending | Phase::Shut => self.shut(key),
            Phase::Finishing => {
                if !self.bring_held(key) {
                    self.say_goodbye(key);
                }
            }
            Phase::Open => self.after_answer(key),
            Phase::Handshake => self.read_next_request(key),
            Phase::Proxy | Phase::Closing | Phase::Dead => {}
        }
    }

    /// A connection whose socket takes nothing: has this log passed it? Policies other than to disconnect are asked when there is room again, so
    /// that one gap names all that was lost.
    fn judge_blocked(&mut self, key: usize, at: usize) {
        // What is on pages no log passes.
        if !self.conns[key].is_open() || self.conns[key].subscriptions[at].is_on_pages() {
            return;
        }
        if self.judge(key, at) == Verdict::Disconnect {
            self.overrun_disconnect(key, at);
        }
    }

    /// What its channel's policy says of a subscription. What the socket has begun to take is finished in any case.
    fn judge(&self, key: usize, at: usize) -> Verdict {
        let subscription = &self.conns[key].subscriptions[at];
        let topic = &self.topics[subscription.topic];
        let log = topic.log().expect("whoever is behind is behind in a log");
        let cursor = match subscription.cursor() {
            // What it was counted at has no number.
            before if subscription.is_untold() => Cursor::at(before.seq + 1),
            cut if cut.is_mid_frame() => log.boundary_after(cut),
            whole => whole,
        };
        judge(log, cursor, topic.rule.overrun)
    }

    /// Picks the subscriptions that the next write is for, those that have waited longest, and applies the policies of channels whose log has
    /// passed them. None: the connection is closing now.
    pub(super) fn pick(&mut self, key: usize) -> Option<Picked> {
        let mut picked = Picked::new();
        let mut next = self.conns[key].first_behind();
        while let Some(at) = next
            && picked.len() < limits::SLICES_PER_WRITE
        {
            next = self.conns[key].next_behind(at);
            let subscription = &self.conns[key].subscriptions[at];
            let topic = subscription.topic;
            if subscription.is_on_pages() {
                match self.step_on_pages(key, at) {
                    Step::Here => {
                        picked.push(at as u32);
                        continue;
                    }
                    Step::Awaited | Step::Done => continue,
                    Step::CaughtUp => {}
                }
            }
            let subscription = &self.conns[key].subscriptions[at];
            if subscription.is_apart() && !subscription.is_mid_frame() {
                if subscription.is_ahead() {
                    if self.join_in(key, at) {
                        // Like any other from now on.
                        next = Some(at);
                    } else {
                        self.note_caught_up(key, at);
                    }
                    continue;
                }
                if self.go_to_newest(key, at) {
                    picked.push(at as u32);
                } else {
                    self.conns[key].subscriptions[at].set_owed(false);
                    self.note_caught_up(key, at);
                }
                continue;
            }
            // Of the one that the socket is in the middle of the rest of the frame is sent first.
            let verdict = if subscription.is_mid_frame() { Verdict::Within } else { self.judge(key, at) };
            let is_untold = subscription.is_untold();
            let from = match verdict {
                Verdict::Within if is_untold => Some(subscription.cursor().seq + 1),
                Verdict::Within => None,
                Verdict::Disconnect => {
                    self.overrun_disconnect(key, at);
                    return None;
                }
                Verdict::Jump(lost) => {
                    if lost.reason == GapReason::Overrun {
                        self.metrics.overruns[self.topics[topic].rule.overrun as usize].inc();
                    }
                    if !is_untold {
                        let name = self.topics[topic].name().clone();
                        self.tell_lost(key, &name, lost);
                    }
                    Some(lost.to + 1)
                }
            };
            if let Some(next) = from {
                self.conns[key].subscriptions[at].set_cursor(Cursor::at(next));
                if is_untold {
                    self.tell_renumbered(key, at);
                }
                if !self.note_behind(key, at) {
                    self.note_caught_up(key, at);
                    continue;
                }
            }
            if self.topics[topic].log().is_some_and(Log::is_scattered) {
                self.settle_all(topic);
                self.logs.change(&mut self.topics, topic, |log| log.merge());
            }
            picked.push(at as u32);
        }
        self.metrics.looks.add(picked.len() as u64);
        Some(picked)
    }

    fn overrun_disconnect(&mut self, key: usize, at: usize) {
        let subscription = self.conns[key].subscriptions[at];
        self.metrics.overruns[Overrun::Disconnect as usize].inc();
        let name = self.topics[subscription.topic].name().clone();
        let text = format!("too slow for channel {name}; reconnect and resume");
        self.begin_close_with(key, CloseReason::Overrun, &text);
    }

    /// One `writev` of as much as is due and fits.
    fn write_once(&mut self, key: usize, bytes_max: usize) -> Written {
        let mut picked = Picked::new();
        if self.conns[key].peer.is_waiting_poll() && !self.answer_poll(key) {
            return Written::Nothing;
        }
        if self.conns[key].is_open() {
            picked = self.pick(key).unwrap_or_default();
        }
        let conn = &mut self.conns[key];
        if conn.is_dead() {
            return Written::Dead;
        }
        conn.settle_format();
        if conn.encoding().is_deflate() {
            self.settle_picked(key, &picked, bytes_max);
        }
        let conn = &mut self.conns[key];
        let due = Due {
            outbox: conn.outbox.as_ref().map_or(&[], |outbox| outbox.unsent()),
            subscriptions: &conn.subscriptions,
            picked: &picked,
            mid_frame: conn.mid_frame(),
            encoding: conn.encoding(),
            encoding_ends: conn.formats.is_changing(),
        };
        if let Some(at) = due.lost_frame(&self.topics) {
            let policy = self.topics[due.subscriptions[at].topic].rule.overrun;
            self.metrics.overruns[policy as usize].inc();
            self.kill(key, CloseReason::Overrun);
            return Written::Dead;
        }
        let (mut slices, mut plan) = (Slices::new(), Plan::new());
        let total = due.gather(&self.topics, &self.replays, bytes_max, &mut slices, &mut plan);
        if plan.is_empty() {
            return Written::Nothing;
        }
        let written = if total == 0 {
            // Entries that have no frame in this encoding: the cursor moves, the socket is left alone.
            0
        } else {
            self.metrics.writes.inc();
            match conn.stream.write(self.net.gear_mut(), &slices) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => {
                    drop(slices);
                    self.lose(key, CloseReason::Reset);
                    return Written::Dead;
                }
            }
        };
        drop(slices);
        self.metrics.bytes_sent.add(written as u64);
        self.take_off(key, &plan, written);
        if matches!(self.conns[key].peer, Peer::EventStream { is_of_one: false })
            && plan.iter().any(|(source, _)| *source != Source::Outbox)
        {
            self.streams.note_sent(key);
        }
        if written < total || self.conns[key].stream.wants_write(self.net.gear()) {
            self.metrics.writes_blocked.inc();
            self.conns[key].flags.set(Flags::BLOCKED);
            // What could not be sent stays for a while: now it counts.
            self.account_buffers(key);
            return Written::Blocked { bytes: written };
        }
        let conn = &self.conns[key];
        let more = self.owes_bytes(key) || conn.is_open() && conn.has_behind();
        Written::Some { bytes: total, more }
    }

    /// Moves the cursors past what was written.
    pub(super) fn take_off(&mut self, key: usize, plan: &Plan, written: usize) {
        let now_ns = self.net.now_ns();
        let mut rest = written;
        for &(source, bytes) in plan {
            let taken = rest.min(bytes);
            rest -= taken;
            let conn = &mut self.conns[key];
            let encoding = conn.encoding();
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
                Source::Page(at) if taken > 0 || bytes == 0 => {
                    conn.flags.set(Flags::SENT);
                    self.take_off_page(key, at, taken);
                }
                Source::Page(_) => {}
                Source::FrameRest(at) | Source::Log(at, _) => {
                    let metrics = &*self.metrics;
                    let sent = |count: u64, received: u64| {
                        metrics.messages_sent.add(count);
                        metrics.latency.record(now_ns.saturating_sub(received) / 1000, count);
                    };
                    conn.flags.set(Flags::SENT);
                    let subscription = &mut conn.subscriptions[at];
                    let log = self.topics[subscription.topic].log().expect("it was gathered");
                    let from = subscription.cursor();
                    let encoding = if let Source::Log(_, gathered) = source { gathered } else { encoding };
                    let to = match source {
                        // Of the form that the cursor says.
                        Source::FrameRest(_) => log.advance_frame_rest(from, encoding, taken, sent),
                        // Nothing of it was taken because something before it was not, perhaps the rest of a frame that only limbo has.
                        _ if taken == 0 && (bytes > 0 || from.is_mid_frame()) => from,
                        _ => log.advance(from, encoding, taken, sent),
                    };
                    subscription.set_cursor(to);
                    let topic = subscription.topic;
                    if encoding.is_deflate() && to.seq > from.seq {
                        metrics.messages_deflated.add(count_deflated(log, from, to, encoding));
                    }
                    if from.is_mid_frame() || to.is_mid_frame() {
                        self.logs.change(&mut self.topics, topic, |log| log.cursor_moved(from, to));
                    }
                }
            }
        }
        self.keep_order(key, plan, written);
    }

    /// The cursors have moved: whoever is at the head leaves the list, whoever was given something goes to the end of it, and the one whose frame the
    /// socket has taken in part comes first.
    fn keep_order(&mut self, key: usize, plan: &Plan, written: usize) {
        let mut rest = written;
        let (mut left, mut cut) = (None, None);
        for &(source, bytes) in plan {
            let was_given = rest > 0;
            rest = rest.saturating_sub(bytes);
            if let Source::Page(at) = source {
                if was_given {
                    self.conns[key].push_behind(at);
                }
                continue;
            }
            let (Source::FrameRest(at) | Source::Log(at, _)) = source else { continue };
            let subscription = &self.conns[key].subscriptions[at];
            let (is_mid_frame, is_paced, is_leaving) = (subscription.is_mid_frame(), subscription.is_paced(), subscription.is_leaving());
            if is_paced && was_given && matches!(source, Source::Log(..)) {
                self.end_turn(key, at);
            }
            if is_mid_frame {
                cut = Some(at);
            } else if is_leaving {
                left = Some(at);
            } else if is_paced && self.conns[key].subscriptions[at].is_owed() {
                self.conns[key].push_behind(at);
            } else if !self.note_behind(key, at) {
                self.note_caught_up(key, at);
            } else if was_given {
                self.conns[key].push_behind(at);
            }
        }
        if let Some(at) = cut {
            self.conns[key].push_first_behind(at);
        }
        if let Some(at) = left {
            self.remove_subscription(key, at);
        }
    }

    /// The replies are gone: whoever was not read because of them is read again, whatever its channels still have for it.
    pub(super) fn resume_reading(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if conn.flags.has(Flags::PAUSED) {
            conn.flags.clear(Flags::PAUSED);
            if conn.flags.raise(Flags::READING) {
                let token = self.token(key);
                self.reading.push_back(token);
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
