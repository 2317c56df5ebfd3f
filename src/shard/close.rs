//! The end of connections: closing, deadlines, reaping. Only `reap` frees one.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Shard;
use super::conn::{Flags, Phase};
use super::net::{Accepted, Network, Stream};
use super::wheel::{TICK_NS, Tick};
use crate::limits;
use crate::wire::close::{CloseReason, Goodbye};
use crate::wire::frame::{self, Opcode, Violation};
use crate::wire::http::answer;
use crate::wire::http::refusal::{Refusal, RefusalReason};

impl<N: Network> Shard<N> {
    /// Sends a close frame at the next frame boundary and awaits the peer's; what was due on its subscriptions is not sent.
    pub(super) fn begin_close(&mut self, key: usize, reason: CloseReason) {
        self.begin_close_with(key, reason, goodbye(reason).text);
    }

    /// The same, with words of the occasion.
    pub(super) fn begin_close_with(&mut self, key: usize, reason: CloseReason, text: &str) {
        if !matches!(self.conns[key].phase, Phase::Open(_)) {
            return;
        }
        if !self.enter_closing(key, reason) {
            return;
        }
        let conn = &mut self.conns[key];
        frame::encode_close(conn.outbox(), goodbye(reason).code, text);
        let Phase::Open(inbound) = std::mem::replace(&mut conn.phase, Phase::Dead) else { unreachable!("checked above") };
        conn.phase = Phase::Closing(inbound);
        self.mark_ready(key);
    }

    /// The peer broke the protocol: it gets a close frame, and nothing it says any more is read.
    pub(super) fn fail(&mut self, key: usize, violation: &Violation) {
        self.end_with_close(key, violation.close_reason(), &violation.to_string());
    }

    /// The peer has sent a close frame: echoes it (an empty one with an empty one) and ends.
    pub(super) fn echo_close(&mut self, key: usize, code: Option<u16>, text: &str) {
        match code {
            Some(code) => self.end_with_frame(key, CloseReason::Client, |out| frame::encode_close(out, code, text)),
            None => self.end_with_frame(key, CloseReason::Client, |out| frame::encode_frame(out, Opcode::Close, b"")),
        }
    }

    /// Sends a close frame at the next frame boundary, then ends without awaiting the peer's (it has sent its own, or cannot be understood).
    fn end_with_close(&mut self, key: usize, reason: CloseReason, text: &str) {
        self.end_with_frame(key, reason, |out| frame::encode_close(out, goodbye(reason).code, text));
    }

    fn end_with_frame(&mut self, key: usize, reason: CloseReason, encode: impl FnOnce(&mut Vec<u8>)) {
        if !self.enter_closing(key, reason) {
            return;
        }
        let conn = &mut self.conns[key];
        encode(conn.outbox());
        conn.phase = Phase::Ending;
        self.mark_ready(key);
    }

    /// Answers a request that is not served, then ends.
    pub(super) fn refuse(&mut self, key: usize, refusal: &Refusal) {
        self.metrics.refused[refusal.reason as usize].inc();
        let mut answer = Vec::new();
        answer::refuse(&mut answer, refusal);
        let reason = if refusal.reason == RefusalReason::RequestTimeout { CloseReason::HandshakeTimeout } else { CloseReason::Refused };
        self.end_with_answer(key, &answer, reason);
    }

    pub(super) fn end_with_answer(&mut self, key: usize, answer: &[u8], reason: CloseReason) {
        let conn = &mut self.conns[key];
        conn.reason = reason;
        conn.outbox().extend_from_slice(answer);
        conn.phase = Phase::Ending;
        self.set_deadline(key, self.settings.close_timeout);
        self.mark_ready(key);
    }

    /// Leaves every subscription but one whose frame must be finished, and starts the close deadline. False: the frame cannot be
    /// finished, the connection is dead.
    pub(super) fn enter_closing(&mut self, key: usize, reason: CloseReason) -> bool {
        self.conns[key].reason = reason;
        if let Some(at) = self.conns[key].mid_frame() {
            let subscription = self.conns[key].subscriptions[at];
            if !self.topics[subscription.topic].log.has_frame(subscription.cursor()) {
                self.kill(key, reason);
                return false;
            }
        }
        let mut at = self.conns[key].subscriptions.len();
        while at > 0 {
            at -= 1;
            self.leave(key, at);
        }
        self.set_deadline(key, self.settings.close_timeout);
        true
    }

    /// Marks a connection to be reaped at the end of the turn; the socket is closed as it is.
    pub(super) fn kill(&mut self, key: usize, reason: CloseReason) {
        let conn = &mut self.conns[key];
        if conn.is_dead() {
            return;
        }
        conn.reason = reason;
        self.end(key);
    }

    /// Like [`Shard::kill`], for a connection whose reason stands already.
    pub(super) fn end(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if conn.is_dead() {
            return;
        }
        conn.phase = Phase::Dead;
        conn.outbox = None;
        self.charge_buffers(key);
        self.dead.push(key as u32);
    }

    /// An ending connection has sent all: shuts our side, so that the peer reads the last bytes instead of a reset. If the peer has ended before, that
    /// was all.
    pub(super) fn shut(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if conn.flags.raise(Flags::SHUT) {
            conn.stream.shutdown_write();
        }
        if conn.stream.wants_write() {
            // Its own goodbye.
            self.mark_ready(key);
        } else if conn.flags.has(Flags::ENDED) {
            self.end(key);
        }
    }

    /// Whether something of what this connection was to get is not with the kernel: replies, or the rest of a frame.
    pub(super) fn owes_bytes(&self, key: usize) -> bool {
        let conn = &self.conns[key];
        conn.outbox_unsent() > 0 || conn.mid_frame().is_some() || conn.stream.wants_write()
    }

    pub(super) fn set_deadline(&mut self, key: usize, after: Duration) {
        let ticks = after.as_nanos().div_ceil(u128::from(TICK_NS)) as Tick;
        self.set_deadline_at(key, self.tick.saturating_add(ticks));
    }

    fn set_deadline_at(&mut self, key: usize, tick: Tick) {
        let token = self.token(key);
        self.conns[key].deadline = self.wheel.insert(token, tick);
    }

    /// The first heartbeat comes anywhere within the first interval, and pings whether the client has spoken or not: connections that came together,
    /// and subscribed together, would otherwise beat together for ever.
    pub(super) fn start_heartbeat(&mut self, key: usize) {
        let interval = self.ticks(self.settings.heartbeat);
        let spread = (self.conns[key].generation.wrapping_mul(0x9E37_79B9) >> 8) % interval;
        self.set_deadline_at(key, self.tick + interval - spread);
    }

    fn ticks(&self, duration: Duration) -> Tick {
        (duration.as_nanos() / u128::from(TICK_NS)).clamp(1, 1 << 30) as Tick
    }

    pub(super) fn expire(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.tick, &mut due);
        for (token, deadline) in due.drain(..) {
            // The connection may be gone or have moved its deadline since.
            if let Some(key) = self.resolve(token)
                && self.conns[key].deadline == deadline
            {
                self.on_deadline(key);
            }
        }
        self.due = due;
    }

    fn on_deadline(&mut self, key: usize) {
        match &self.conns[key].phase {
            Phase::Handshake(_) => {
                // If this thread was held up, the request may be here already.
                self.last_look(key);
                if !matches!(self.conns[key].phase, Phase::Handshake(_)) {
                    return;
                }
                let refusal = if self.stopping {
                    // What it would have asked for does not matter: it would have been told this.
                    Refusal::from(RefusalReason::Stopping)
                } else {
                    let seconds = self.settings.handshake_timeout.as_secs_f32();
                    let text = format!("no complete request head within {seconds} s; send the whole request at once");
                    Refusal::new(RefusalReason::RequestTimeout, text)
                };
                self.refuse(key, &refusal);
            }
            Phase::Open(_) => self.heartbeat(key),
            Phase::Closing(_) | Phase::Ending => self.end(key),
            Phase::Dead => {}
        }
    }

    /// Reads what may have come while this thread was held up: nobody is cut for silence with its answer lying in the socket.
    fn last_look(&mut self, key: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.read(key, &mut scratch);
        self.scratch = scratch;
    }

    fn heartbeat(&mut self, key: usize) {
        let (interval, patience) = (self.ticks(self.settings.heartbeat), self.ticks(self.settings.pong_timeout));
        let tick = self.tick;
        if self.conns[key].flags.has(Flags::PINGED) && tick.saturating_sub(self.conns[key].heard) >= patience {
            self.last_look(key);
            if !matches!(self.conns[key].phase, Phase::Open(_)) {
                return;
            }
        }
        let is_first = self.conns[key].flags.raise(Flags::BEATS);
        if !is_first && self.is_message_overdue(key) {
            return self.begin_close(key, CloseReason::MessageTimeout);
        }
        let conn = &mut self.conns[key];
        let silent = tick.saturating_sub(conn.heard);
        if conn.flags.has(Flags::PINGED) {
            // Cleared by any inbound byte; still set means that the deadline of the pong has come.
            if silent >= patience {
                return self.kill(key, CloseReason::HeartbeatTimeout);
            }
            let next = conn.heard + patience;
            return self.set_deadline_at(key, next);
        }
        if silent < interval && !is_first {
            let next = conn.heard + interval;
            return self.set_deadline_at(key, next);
        }
        conn.flags.set(Flags::PINGED);
        frame::encode_frame(conn.outbox(), Opcode::Ping, b"");
        self.metrics.pings_sent.inc();
        self.mark_ready(key);
        self.set_deadline(key, self.settings.pong_timeout);
    }

    /// The deadline of the pong stands and is looked at then, unless a heartbeat is due before it.
    pub(super) fn on_ping_answered(&mut self, key: usize) {
        if self.settings.heartbeat < self.settings.pong_timeout && matches!(self.conns[key].phase, Phase::Open(_)) {
            self.set_deadline(key, self.settings.heartbeat);
        }
    }

    /// Whether the message that the peer is sending in pieces was under way at the last heartbeat already. Pings between its pieces would
    /// otherwise let it hold memory for ever.
    fn is_message_overdue(&mut self, key: usize) -> bool {
        let conn = &mut self.conns[key];
        let unfinished = matches!(&conn.phase, Phase::Open(inbound) if inbound.is_message_under_way());
        if unfinished {
            !conn.flags.raise(Flags::UNFINISHED)
        } else {
            conn.flags.clear(Flags::UNFINISHED);
            false
        }
    }

    /// The bus has ended: no more accepts, everybody gets what is due and then 1001.
    pub(super) fn stop(&mut self) {
        // Whoever waits at the door is told.
        for _ in 0..limits::REFUSALS_UNDER_WAY_MAX {
            match self.net.accept() {
                Accepted::Stream { stream, peer } => self.admit(stream, peer),
                Accepted::Gone | Accepted::Dropped => {}
                Accepted::None | Accepted::Later => break,
            }
        }
        self.stopping = true;
        self.net.close_listeners();
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            match self.conns[key].phase {
                // The request is refused when it is here; it is not waited for long.
                Phase::Handshake(_) => self.set_deadline(key, Duration::from_secs(1)),
                Phase::Open(_) => {
                    self.conns[key].flags.set(Flags::CLOSE_WHEN_SENT);
                    self.mark_ready(key);
                }
                Phase::Closing(_) | Phase::Ending | Phase::Dead => {}
            }
        }
    }

    /// The shutdown deadline has passed: everybody goes as they are.
    pub fn abandon(&mut self) {
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.kill(key, CloseReason::Shutdown);
        }
        while !self.dead.is_empty() {
            self.reap();
        }
    }

    /// Takes note of what a connection's own buffers hold now. A connection that grows them past the shard's budget is closed with 1013.
    pub(super) fn account_buffers(&mut self, key: usize) {
        let grew = self.charge_buffers(key);
        let budget = self.settings.buffer_bytes_of_shard();
        let conn = &mut self.conns[key];
        // Whoever holds little is not the one who fills the buffers.
        let is_small = conn.charged_bytes as usize <= limits::BUFFER_FLOOR_BYTES;
        if !grew || is_small || self.buffer_bytes <= budget || matches!(conn.phase, Phase::Ending | Phase::Closing(_)) {
            return;
        }
        // Only where no frame is cut can it be told why.
        if conn.outbox.is_none() && matches!(conn.phase, Phase::Open(_)) {
            conn.phase = Phase::Open(Default::default());
            self.end_with_close(key, CloseReason::Buffers, goodbye(CloseReason::Buffers).text);
        } else {
            self.kill(key, CloseReason::Buffers);
        }
        self.charge_buffers(key);
    }

    /// Brings the shard's account up to date; true if the connection holds more than before.
    fn charge_buffers(&mut self, key: usize) -> bool {
        let conn = &mut self.conns[key];
        let (before, now) = (conn.charged_bytes as usize, conn.buffer_bytes());
        conn.charged_bytes = now as u32;
        self.buffer_bytes = self.buffer_bytes - before + now;
        now > before
    }

    /// The only place that frees a connection. One with tens of thousands of subscriptions takes several turns.
    pub(super) fn reap(&mut self) {
        let mut leaves = limits::LEAVES_PER_TURN;
        while let Some(&key) = self.dead.last() {
            let key = key as usize;
            debug_assert!(self.conns[key].is_dead());
            while let Some(last) = self.conns[key].subscriptions.len().checked_sub(1) {
                if leaves == 0 {
                    return;
                }
                leaves -= 1;
                self.remove_subscription(key, last);
            }
            self.dead.pop();
            let conn = self.conns.remove(key);
            self.buffer_bytes -= conn.charged_bytes as usize;
            if conn.flags.has(Flags::COUNTED) {
                self.metrics.connections.dec();
                self.connections.fetch_sub(1, Relaxed);
            }
            self.metrics.sockets.dec();
            self.metrics.closed[conn.reason as usize].inc();
        }
    }
}

/// What the close frame for this reason says.
fn goodbye(reason: CloseReason) -> Goodbye {
    reason.goodbye().expect("a reason to send a close frame has a close code")
}
