//! What a connection waits for, by name: at most one timer runs at a time, and setting one ends the other. Each is an entry in the wheel.

use std::time::Duration;

use super::Shard;
use super::net::Network;
use super::wheel::{TICK_NS, Tick};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The request head must be here.
    Handshake,
    /// A ping is due, or its pong is; or something is to be done about the token.
    Heartbeat,
    /// A poll is to be answered, whatever there is.
    Poll,
    /// The peer must have closed, too.
    Close,
}

impl<N: Network> Shard<N> {
    pub(super) fn set_timer(&mut self, key: usize, timer: Timer, after: Duration) {
        let ticks = after.as_nanos().div_ceil(u128::from(TICK_NS)) as Tick;
        self.set_timer_at(key, timer, self.tick.saturating_add(ticks));
    }

    pub(super) fn set_timer_at(&mut self, key: usize, timer: Timer, tick: Tick) {
        let tick = if matches!(timer, Timer::Heartbeat | Timer::Poll) { self.beat_tick(key, tick) } else { tick };
        if self.conns[key].put_timer_off(timer, tick, self.wheel.done()) {
            return;
        }
        let token = self.token(key);
        let tick = self.wheel.insert(token, tick);
        self.conns[key].set_timer(timer, tick);
    }

    pub(super) fn expire(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.tick, &mut due);
        for (token, tick) in due.drain(..) {
            // The connection may be gone or have set another timer since.
            let Some(key) = self.resolve(token) else { continue };
            let put_off = self.conns[key].take_put_off();
            match (self.conns[key].timer_of(tick), put_off) {
                (Some(timer), _) => self.on_timer(key, timer),
                (None, Some((timer, at))) => {
                    let at = self.wheel.insert(token, at);
                    self.conns[key].set_timer(timer, at);
                }
                (None, None) => {}
            }
        }
        self.due = due;
    }

    fn on_timer(&mut self, key: usize, timer: Timer) {
        match timer {
            Timer::Handshake => self.on_handshake_overdue(key),
            Timer::Heartbeat if self.watch_token(key) => {}
            Timer::Heartbeat => self.heartbeat(key),
            Timer::Poll => self.on_poll_late(key),
            Timer::Close => self.end(key),
        }
    }

    pub(super) fn ticks(&self, duration: Duration) -> Tick {
        (duration.as_nanos() / u128::from(TICK_NS)).clamp(1, 1 << 30) as Tick
    }
}
