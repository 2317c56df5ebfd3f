//! The end of a shard: from the bus's word to the last connection, or to the shutdown deadline.

use std::time::Duration;

use super::Shard;
use super::conn::Phase;
use super::net::{Accepted, Network};
use super::timers::Timer;
use crate::limits;
use crate::wire::close::CloseReason;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Serving,
    /// No more accepts; every connection gets what is due and is closed, and whoever is left at this moment is cut.
    Stopping {
        abandon_at_ns: u64,
    },
}

impl<N: Network> Shard<N> {
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.life, Life::Stopping { .. })
    }

    pub(super) fn abandon_at_ns(&self) -> Option<u64> {
        match self.life {
            Life::Serving => None,
            Life::Stopping { abandon_at_ns } => Some(abandon_at_ns),
        }
    }

    /// Nothing more will happen here: asked to stop, and every connection is gone.
    pub fn is_finished(&self) -> bool {
        self.is_stopping() && self.conns.is_empty()
    }

    /// The bus has ended: no more accepts, everybody gets what is due and then 1001.
    pub(super) fn stop(&mut self) {
        // Whoever waits at the door is told.
        for _ in 0..limits::HANDSHAKES_MIN {
            match self.net.accept() {
                Accepted::Stream { stream, peer, is_proxied } => self.arrive(stream, peer, is_proxied),
                Accepted::Gone | Accepted::Dropped => {}
                Accepted::None | Accepted::Later => break,
            }
        }
        let shutdown_ns = self.settings.clients.shutdown_timeout.as_nanos() as u64;
        self.life = Life::Stopping { abandon_at_ns: self.now_ns.saturating_add(shutdown_ns) };
        self.net.close_listeners();
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            match self.conns[key].phase {
                // The request is refused when it is here; it is not waited for long.
                Phase::Proxy | Phase::Handshake => self.set_timer(key, Timer::Handshake, Duration::from_secs(1)),
                Phase::Open => {
                    self.conns[key].enter(Phase::Finishing);
                    self.mark_ready(key);
                }
                Phase::Finishing | Phase::Closing | Phase::Ending | Phase::Shut | Phase::Dead => {}
            }
        }
    }

    /// The shutdown deadline has passed: everybody goes as they are.
    pub(super) fn abandon_overdue(&mut self) {
        if self.abandon_at_ns().is_none_or(|abandon_at_ns| self.now_ns < abandon_at_ns) {
            return;
        }
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.kill(key, CloseReason::Shutdown);
        }
    }
}
