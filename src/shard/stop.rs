//! The end of a shard: from the bus's word to the last connection, or to the shutdown deadline. What comes before, while the process drains, is in `depart`.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Shard;
use super::conn::Phase;
use super::net::{Accepted, Network};
use super::timers::Timer;
use crate::clock::MonotonicNs;
use crate::life::Stage;
use crate::limits;
use crate::wire::close::CloseReason;

impl<N: Network> Shard<N> {
    pub(super) fn is_stopping(&self) -> bool {
        self.stage == Stage::Stopping
    }

    pub(super) fn abandon_at_ns(&self) -> Option<MonotonicNs> {
        self.abandon_at_ns
    }

    /// Nothing more will happen here: asked to stop, and every connection is gone.
    pub fn is_finished(&self) -> bool {
        self.is_stopping() && self.conns.is_empty()
    }

    /// The bus has ended: no more accepts, everybody gets what is due and then a close frame. Who is left of a drain is told 1012 like the others before.
    pub(super) fn stop(&mut self) {
        if self.stage == Stage::Serving || self.door_accepts.is_some() {
            // Whoever waits at the door is told.
            self.close_doors(limits::HANDSHAKES_MIN);
        }
        let (reason, patience) = match self.stage {
            // What is due had its time.
            Stage::Draining => (CloseReason::Restart, self.settings.clients.shutdown_timeout.min(limits::FAREWELL_AFTER_DRAIN)),
            Stage::Serving | Stage::Stopping => (CloseReason::Shutdown, self.settings.clients.shutdown_timeout),
        };
        self.stage = Stage::Stopping;
        self.departing = None;
        self.leaving_at_once = self.connections.load(Relaxed);
        self.abandon_at_ns = Some(self.now_ns.saturating_add(patience.as_nanos() as u64));
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            match self.conns[key].phase {
                // The request is refused when it is here; it is not waited for long.
                Phase::Proxy | Phase::Handshake => self.set_timer(key, Timer::Handshake, Duration::from_secs(1)),
                Phase::Open => self.finish(key, reason),
                Phase::Finishing | Phase::Closing | Phase::Ending | Phase::Shut | Phase::Dead => {}
            }
        }
    }

    /// Takes whoever waits, so many at most, and nobody after that.
    fn close_doors(&mut self, accepts_max: usize) {
        for _ in 0..accepts_max {
            match self.net.accept() {
                Accepted::Stream { stream, peer, is_proxied } => self.arrive(stream, peer, is_proxied),
                Accepted::Gone | Accepted::Dropped => {}
                Accepted::None | Accepted::Later => break,
            }
        }
        self.shut_doors();
    }

    pub(super) fn shut_doors(&mut self) {
        self.net.close_listeners();
        (self.accept_ready, self.accept_retry, self.door_accepts) = (false, None, None);
    }

    /// The shutdown deadline has passed: everybody goes as they are.
    pub(super) fn abandon_overdue(&mut self) {
        if self.abandon_at_ns.is_none_or(|abandon_at_ns| self.now_ns < abandon_at_ns) {
            return;
        }
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.kill(key, CloseReason::Shutdown);
        }
    }
}
