//! Those who have connected and have not said yet what they want, in the order in which they came. There may be so many of them on a shard; beyond it the one that has taken
//! longest makes room, so that a crowd that never comes to the end of its handshake keeps nobody else out.
//!
//! Invariant: whoever is arriving is on the list; who has arrived or gone is taken off it sooner or later, and the list never becomes longer than
//! twice what the shard may have.

use std::collections::HashSet;

use super::Shard;
use super::net::{Network, Stream};
use super::wheel::Tick;
use crate::bus::ConnToken;
use crate::limits::tls::{HANDSHAKE_PATIENCE, PLACES_MADE_AT_ONCE, STRANGERS_LOOKED_AT};
use crate::wire::close::CloseReason;
use crate::wire::http::refusal::RefusalReason;

/// How far the search for those who have held a place too long has come; once a tick at most, which is by what they are judged.
#[derive(Debug, Default)]
pub(super) struct PlaceSearch {
    tick: Tick,
    from: usize,
}

impl<N: Network> Shard<N> {
    /// Whether somebody who comes now may have a place, if need be that of another one.
    pub(super) fn has_room_for_stranger(&mut self) -> bool {
        // Who is dead has given its place back, though it may take turns until it is taken out of all its channels.
        let open = (self.metrics.connections.get() as usize).saturating_sub(self.dead_open);
        let strangers = (self.conns.len() - self.dead.len()).saturating_sub(open);
        if strangers < self.settings.handshakes_max {
            return true;
        }
        while let Some(token) = self.strangers.pop_front() {
            if let Some(key) = self.resolve(token).filter(|&key| self.conns[key].is_arriving()) {
                self.metrics.refused[RefusalReason::Handshakes as usize].inc();
                self.kill(key, CloseReason::HandshakeTimeout);
                return true;
            }
        }
        false
    }

    /// Somebody waits for a place to begin in: those who have had one for longer than anybody needs give theirs, so that a crowd that never comes to the
    /// end of its handshakes keeps nobody else out.
    pub(super) fn make_places(&mut self) {
        if self.queued.is_empty() || self.net.places() > 0 || self.place_search.tick == self.tick {
            return;
        }
        // Whoever has said nothing at all may stand before them, so a part of the list is looked at each time, all of it in turn.
        let from = if self.place_search.from < self.strangers.len() { self.place_search.from } else { 0 };
        let to = self.strangers.len().min(from + STRANGERS_LOOKED_AT);
        self.place_search = PlaceSearch { tick: self.tick, from: to };
        let timeout = self.ticks(self.settings.clients.handshake_timeout);
        let patience = self.ticks(HANDSHAKE_PATIENCE);
        let has_had_time = |key: usize| {
            let conn = &self.conns[key];
            let age = self.tick.saturating_add(timeout).saturating_sub(conn.timer_tick());
            conn.is_arriving() && age >= patience && conn.stream.has_place(self.net.gear())
        };
        let keys = self.strangers.range(from..to).filter_map(|&token| self.resolve(token));
        let late: Vec<usize> = keys.filter(|&key| has_had_time(key)).take(self.queued.len().min(PLACES_MADE_AT_ONCE)).collect();
        for key in late {
            self.metrics.refused[RefusalReason::Handshakes as usize].inc();
            self.kill(key, CloseReason::HandshakeTimeout);
        }
    }

    /// Takes those off the list who have arrived or gone.
    pub(super) fn forget_strangers(&mut self) {
        let strangers = std::mem::take(&mut self.strangers);
        let is_arriving = |token: &ConnToken| self.resolve(*token).is_some_and(|key| self.conns[key].is_arriving());
        // Whoever has been answered and may ask again has come to the end of the list once more.
        let mut seen = HashSet::new();
        self.strangers = strangers.into_iter().filter(|token| is_arriving(token) && seen.insert(*token)).collect();
    }

    pub(super) fn note_stranger(&mut self, token: ConnToken) {
        if self.strangers.len() >= 2 * self.settings.handshakes_max {
            self.forget_strangers();
        }
        // As a rule whoever came first has arrived.
        while let Some(&first) = self.strangers.front() {
            if self.resolve(first).is_some_and(|key| self.conns[key].is_arriving()) {
                break;
            }
            self.strangers.pop_front();
        }
        self.strangers.push_back(token);
    }
}
