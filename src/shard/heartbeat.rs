//! Pings to whoever is silent, and the end of whoever does not answer, or never finishes a message. A peer that cannot be asked is told that the
//! server lives, and its own silence means nothing; what is awaited of it is that its socket takes what it is sent.

use super::Shard;
use super::conn::Flags;
use super::net::{Network, Stream};
use super::timers::Timer;
use super::wheel::Tick;
use crate::wire::close::CloseReason;
use crate::wire::peer::Beat;

/// So long, in heartbeats, a client may be silent while its host acknowledges what it is sent.
const ACKNOWLEDGED_INTERVALS: Tick = 4;

impl<N: Network> Shard<N> {
    /// The first heartbeat comes anywhere within the first interval, and pings whether the client has spoken or not: connections that came together,
    /// and subscribed together, would otherwise beat together for ever. Not whoever has been sent something since, at a time of its own.
    pub(super) fn start_heartbeat(&mut self, key: usize) {
        let interval = self.ticks(self.settings.clients.heartbeat);
        let spread = (self.conns[key].generation.wrapping_mul(0x9E37_79B9) >> 8) % interval;
        self.set_timer_at(key, Timer::Heartbeat, self.tick + interval - spread);
    }

    pub(super) fn heartbeat(&mut self, key: usize) {
        let (interval, patience) = (self.ticks(self.settings.clients.heartbeat), self.ticks(self.settings.clients.pong_timeout));
        let tick = self.tick;
        if self.conns[key].flags.has(Flags::PINGED) && tick.saturating_sub(self.conns[key].heard) >= patience {
            self.last_look(key);
            if !self.conns[key].is_open() {
                return;
            }
        }
        let is_first = self.conns[key].flags.raise(Flags::BEATS);
        if !is_first && self.is_message_overdue(key) {
            return self.begin_close(key, CloseReason::MessageTimeout);
        }
        let conn = &mut self.conns[key];
        let silent = tick.saturating_sub(conn.heard);
        let is_stuck = !conn.peer.answers_pings() && conn.flags.has(Flags::BLOCKED);
        if !conn.peer.answers_pings() && !is_stuck {
            conn.flags.clear(Flags::PINGED);
        }
        if conn.flags.has(Flags::PINGED) {
            // Cleared by any inbound byte; still set means that the deadline of the pong, or of room in the socket, has come.
            if silent >= patience {
                return self.kill(key, CloseReason::HeartbeatTimeout);
            }
            let next = conn.heard + patience;
            return self.set_timer_at(key, Timer::Heartbeat, next);
        }
        if silent < interval && !is_first {
            let next = conn.heard + interval;
            return self.set_timer_at(key, Timer::Heartbeat, next);
        }
        let was_sent = self.conns[key].flags.has(Flags::SENT);
        self.conns[key].flags.clear(Flags::SENT);
        // Whoever was sent nothing has acknowledged its last ping at best: the kernel need not be asked.
        if was_sent && let Some(next) = self.acknowledged_until(key, is_first) {
            return self.set_timer_at(key, Timer::Heartbeat, next);
        }
        let conn = &mut self.conns[key];
        if is_stuck {
            // Nothing is put on top of what it does not take.
            conn.flags.set(Flags::PINGED);
            return self.set_timer(key, Timer::Heartbeat, self.settings.clients.pong_timeout);
        }
        let next = match conn.say(|peer, out| peer.encode_beat(out)) {
            Beat::Asked => {
                conn.flags.set(Flags::PINGED);
                self.metrics.pings_sent.inc();
                self.settings.clients.pong_timeout
            }
            Beat::Told => self.settings.clients.heartbeat,
        };
        self.mark_ready(key);
        self.set_timer(key, Timer::Heartbeat, next);
    }

    /// Until when a connection need not be asked because its host has acknowledged what it was sent, without a word of its own: where each client gets a
    /// message now and then, a ping and its pong would cost more than the messages. A host acknowledges for an application that hangs as
    /// well, so after [`ACKNOWLEDGED_INTERVALS`] of silence that one is asked.
    fn acknowledged_until(&self, key: usize, is_first: bool) -> Option<Tick> {
        let interval = self.ticks(self.settings.clients.heartbeat);
        let conn = &self.conns[key];
        let must_speak_at = conn.heard.saturating_add(interval.saturating_mul(ACKNOWLEDGED_INTERVALS));
        if !conn.peer.answers_pings() || conn.flags.has(Flags::BLOCKED) || self.tick >= must_speak_at {
            return None;
        }
        // By quarters of a heartbeat, so that those who were sent the same message are not looked at together for ever. One that is almost as old as a
        // heartbeat would put the ping off by next to nothing: most often it is the acknowledgement of the last ping.
        let quarter = (interval / 4).max(1);
        let ago = self.ticks(conn.stream.acknowledged_ago()?);
        if is_first && ago.saturating_add(quarter) > self.tick.saturating_sub(conn.heard) {
            return None;
        }
        let quarters_ago = ago.div_ceil(quarter);
        (quarters_ago < 4).then(|| self.tick.saturating_add((4 - quarters_ago) * quarter).min(must_speak_at))
    }

    /// The timer ran out for another reason: the heartbeat comes when it would have.
    pub(super) fn put_heartbeat_back(&mut self, key: usize) {
        let is_asked = self.conns[key].flags.has(Flags::PINGED);
        let wait = self.ticks(if is_asked { self.settings.clients.pong_timeout } else { self.settings.clients.heartbeat });
        let tick = self.conns[key].heard.saturating_add(wait).max(self.tick + 1);
        self.set_timer_at(key, Timer::Heartbeat, tick);
    }

    /// The deadline of the pong stands and is looked at then, unless a heartbeat is due before it.
    pub(super) fn on_ping_answered(&mut self, key: usize) {
        if self.settings.clients.heartbeat < self.settings.clients.pong_timeout && self.conns[key].is_open() {
            self.set_timer(key, Timer::Heartbeat, self.settings.clients.heartbeat);
        }
    }

    /// Whether the message that the peer is sending in pieces was under way at the last heartbeat already. Pings between its pieces would
    /// otherwise let it hold memory for ever.
    fn is_message_overdue(&mut self, key: usize) -> bool {
        let conn = &mut self.conns[key];
        let unfinished = conn.is_open() && (conn.peer.is_message_under_way() || conn.stream.has_part(self.net.gear()));
        if unfinished {
            !conn.flags.raise(Flags::UNFINISHED)
        } else {
            conn.flags.clear(Flags::UNFINISHED);
            false
        }
    }
}
