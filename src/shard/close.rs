//! The end of connections: closing, shutting, reaping. Only `reap` frees one.

use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::conn::{Flags, Phase};
use super::net::{Network, Stream};
use super::timers::Timer;
use crate::limits;
use crate::wire::close::{CloseReason, Goodbye};
use crate::wire::frame::Violation;
use crate::wire::peer::Peer;

impl<N: Network> Shard<N> {
    /// Sends a close frame at the next frame boundary and awaits the peer's; what was due on its subscriptions is not sent.
    pub(super) fn begin_close(&mut self, key: usize, reason: CloseReason) {
        self.begin_close_with(key, reason, goodbye(reason).text);
    }

    /// The same, with words of the occasion.
    pub(super) fn begin_close_with(&mut self, key: usize, reason: CloseReason, text: &str) {
        if !self.conns[key].is_open() {
            return;
        }
        if !self.enter_closing(key, reason) {
            return;
        }
        let conn = &mut self.conns[key];
        conn.say(|peer, out| peer.encode_close(goodbye(reason), text, out));
        let next = if conn.peer.answers_close() { Phase::Closing } else { Phase::Ending };
        self.wrap_last(key);
        self.enter_unless_dead(key, next);
    }

    /// The peer broke the protocol: it gets a close frame, and nothing it says any more is read.
    pub(super) fn fail(&mut self, key: usize, violation: &Violation) {
        self.end_with_close(key, violation.close_reason(), &violation.to_string());
    }

    /// The peer has sent a close frame: echoes it and ends.
    pub(super) fn echo_close(&mut self, key: usize, code: Option<u16>, text: &str) {
        self.end_with_frame(key, CloseReason::Client, |peer, out| peer.encode_close_echo(code, text, out));
    }

    /// Sends a close frame at the next frame boundary, then ends without awaiting the peer's (it has sent its own, or cannot be understood).
    pub(super) fn end_with_close(&mut self, key: usize, reason: CloseReason, text: &str) {
        self.end_with_frame(key, reason, |peer, out| peer.encode_close(goodbye(reason), text, out));
    }

    fn end_with_frame(&mut self, key: usize, reason: CloseReason, encode: impl FnOnce(&Peer, &mut Vec<u8>)) {
        if !self.enter_closing(key, reason) {
            return;
        }
        let conn = &mut self.conns[key];
        conn.say(encode);
        self.wrap_last(key);
        self.enter_unless_dead(key, Phase::Ending);
    }

    /// What was to be said may have been more than the buffers hold.
    fn enter_unless_dead(&mut self, key: usize, next: Phase) {
        if !self.conns[key].is_dead() {
            self.conns[key].enter(next);
            self.mark_ready(key);
        }
    }

    /// Leaves every subscription but one whose frame must be finished, and starts the close deadline. False: the frame cannot be
    /// finished, the connection is dead.
    pub(super) fn enter_closing(&mut self, key: usize, reason: CloseReason) -> bool {
        self.conns[key].reason = reason;
        if let Some(at) = self.conns[key].mid_frame() {
            let subscription = self.conns[key].subscriptions[at];
            if !self.topics[subscription.topic].log().is_some_and(|log| log.has_frame(subscription.cursor())) {
                self.kill(key, reason);
                return false;
            }
        }
        let mut at = self.conns[key].subscriptions.len();
        while at > 0 {
            at -= 1;
            self.leave(key, at);
        }
        self.set_timer(key, Timer::Close, self.settings.clients.close_timeout);
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
        conn.enter(Phase::Dead);
        conn.outbox = None;
        self.dead_open += usize::from(conn.flags.has(Flags::COUNTED));
        self.charge_buffers(key);
        self.dead.push(key as u32);
    }

    /// An ending connection has sent all: shuts our side, so that the peer reads the last bytes instead of a reset. If the peer has ended before, that
    /// was all.
    pub(super) fn shut(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if conn.phase == Phase::Ending {
            conn.enter(Phase::Shut);
            conn.stream.shutdown_write(self.net.gear_mut());
        }
        if conn.stream.wants_write(self.net.gear()) {
            // Its own goodbye.
            self.mark_ready(key);
        } else if conn.flags.has(Flags::ENDED) {
            self.end(key);
        }
    }

    /// Whether something of what this connection was to get is not with the kernel: replies, or the rest of a frame.
    pub(super) fn owes_bytes(&self, key: usize) -> bool {
        let conn = &self.conns[key];
        conn.outbox_unsent() > 0 || conn.mid_frame().is_some() || conn.stream.wants_write(self.net.gear())
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
            if self.conns[key].flags.has(Flags::COUNTED) {
                self.count_user(key, -1);
            }
            self.count_out(self.sources.source(key), self.sources.standing(key));
            self.turned_away.remove(&(key as u32));
            self.streams.forget(key);
            let token = self.token(key);
            let mut conn = self.conns.remove(key);
            conn.stream.release(self.net.gear_mut());
            self.mark_readers.remove(conn.identity.as_ref(), token);
            self.buffer_bytes -= conn.charged_bytes as usize;
            if conn.flags.has(Flags::COUNTED) {
                self.dead_open -= 1;
                self.metrics.connections.dec();
                self.connections.fetch_sub(1, Relaxed);
            }
            self.metrics.sockets.dec();
            self.metrics.closed[conn.reason as usize].inc();
        }
        if self.conns.capacity() > limits::SLOTS_KEPT && self.conns.len() < self.conns.capacity() / 4 {
            self.give_places_back();
        }
    }

    /// After a flood of connections. Who is left may have one of the last places; then all of them stay.
    fn give_places_back(&mut self) {
        let before = self.conns.capacity();
        self.conns.shrink_to_fit();
        let places = self.conns.capacity();
        if places == before {
            return;
        }
        self.sources.keep(places);
        self.forget_strangers();
        self.dead.shrink_to(limits::QUEUE_KEPT);
        for queue in [&mut self.ready, &mut self.reading, &mut self.queued] {
            queue.shrink_to(limits::QUEUE_KEPT);
        }
    }
}

/// What the close frame for this reason says.
pub(super) fn goodbye(reason: CloseReason) -> Goodbye {
    reason.goodbye().expect("a reason to send a close frame has a close code")
}
