//! Those who have connected and have not said yet what they want, in the order in which they came. There may be so many of them on a shard; beyond it the one that has taken
//! longest makes room, if it has had its time: a crowd that never comes to the end of its handshake keeps nobody else out, and a crowd that would if it were let
//! does not push itself out.
//!
//! Invariant: whoever is arriving is on the list; who has arrived or gone is taken off it sooner or later, and the list never becomes longer than
//! twice what the shard may have.

use std::collections::{HashSet, VecDeque};

use super::Shard;
use super::conn::Flags;
use super::net::{Network, Stream};
use super::wheel::Tick;
use crate::bus::ConnToken;
use crate::limits::QUEUE_KEPT;
use crate::limits::tls::{HANDSHAKE_PATIENCE, HANDSHAKES_PER_TURN, HANDSHAKES_PER_TURN_OF_LAPS, PLACES_MADE_AT_ONCE, STRANGERS_LOOKED_AT};
use crate::wire::close::CloseReason;
use crate::wire::http::refusal::RefusalReason;

/// How far the search for those who have held a place too long has come; once a tick at most, which is by what they are judged.
#[derive(Debug, Default)]
pub(super) struct PlaceSearch {
    tick: Tick,
    from: usize,
}

impl<N: Network> Shard<N> {
    /// How many steps of handshakes this turn is for.
    pub(super) fn handshakes_in_turn(&self) -> usize {
        if self.laps.is_empty() { HANDSHAKES_PER_TURN } else { HANDSHAKES_PER_TURN_OF_LAPS }
    }

    fn strangers_now(&self) -> usize {
        // Who is dead has given its place back, though it may take turns until it is taken out of all its channels.
        let open = (self.metrics.connections.get() as usize).saturating_sub(self.dead_open);
        (self.conns.len() - self.dead.len()).saturating_sub(open)
    }

    /// There are as many as there may be, and the first of them has not had its time yet. Whoever comes next had better wait where it is, in the listener's
    /// queue: it would only take the place of one that comes again at once, and in a storm nobody would get through.
    pub(super) fn is_crowded(&mut self) -> bool {
        if self.strangers_now() < self.settings.handshakes_max {
            return false;
        }
        self.forget_first_strangers();
        !self.strangers.front().and_then(|&token| self.resolve(token)).is_some_and(|key| self.is_late(key))
    }

    /// Whether somebody who comes now may have a place, if need be that of another one.
    pub(super) fn has_room_for_stranger(&mut self) -> bool {
        if self.strangers_now() < self.settings.handshakes_max {
            return true;
        }
        self.forget_first_strangers();
        let Some(key) = self.strangers.pop_front().and_then(|token| self.resolve(token)) else { return false };
        self.send_away(key);
        true
    }

    fn send_away(&mut self, key: usize) {
        self.metrics.refused[RefusalReason::Handshakes as usize].inc();
        self.kill(key, CloseReason::HandshakeTimeout);
    }

    /// Whether a client that is arriving has had time enough to answer, so that its place may go to somebody who waits for one. Whatever waits for this shard is
    /// not late.
    fn is_late(&self, key: usize) -> bool {
        let conn = &self.conns[key];
        if conn.flags.has(Flags::QUEUED) || conn.flags.has(Flags::READING) {
            return false;
        }
        match conn.stream.has_place_for(self.net.gear()) {
            Some(time) => time >= HANDSHAKE_PATIENCE,
            None => {
                let timeout = self.ticks(self.settings.clients.handshake_timeout);
                self.tick.saturating_add(timeout).saturating_sub(conn.timer_tick()) >= self.ticks(HANDSHAKE_PATIENCE)
            }
        }
    }

    /// Somebody waits for a place to begin in, or outside for one on the list: those who have had one for longer than anybody needs give theirs, so that a crowd
    /// that never comes to the end of its handshakes keeps nobody else out.
    pub(super) fn make_places(&mut self) {
        if self.strangers.capacity() > QUEUE_KEPT && self.strangers_now() == 0 {
            self.end_storm();
        }
        let waits_within = !self.queued.is_empty() && self.net.places() == 0;
        if !waits_within && self.accept_retry.is_none() || self.place_search.tick == self.tick {
            return;
        }
        let is_full = self.strangers_now() >= self.settings.handshakes_max;
        // Whoever has said nothing at all may stand before them, so a part of the list is looked at each time, all of it in turn.
        let from = if self.place_search.from < self.strangers.len() { self.place_search.from } else { 0 };
        let to = self.strangers.len().min(from + STRANGERS_LOOKED_AT);
        self.place_search = PlaceSearch { tick: self.tick, from: to };
        let gives_place = |key: usize| {
            let conn = &self.conns[key];
            conn.is_arriving() && self.is_late(key) && (is_full || conn.stream.has_place_for(self.net.gear()).is_some())
        };
        let keys = self.strangers.range(from..to).filter_map(|&token| self.resolve(token));
        // How many wait outside the kernel alone knows.
        let wanted = if is_full { PLACES_MADE_AT_ONCE } else { self.queued.len().min(PLACES_MADE_AT_ONCE) };
        let late: Vec<usize> = keys.filter(|&key| gives_place(key)).take(wanted).collect();
        for key in late {
            self.send_away(key);
        }
    }

    /// All who came are in: the lists in which they stood are not needed any more.
    fn end_storm(&mut self) {
        self.strangers = VecDeque::new();
        for queue in [&mut self.ready, &mut self.reading, &mut self.queued] {
            queue.shrink_to(QUEUE_KEPT);
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
        self.forget_first_strangers();
        self.strangers.push_back(token);
    }

    fn forget_first_strangers(&mut self) {
        while let Some(&first) = self.strangers.front() {
            if self.resolve(first).is_some_and(|key| self.conns[key].is_arriving()) {
                break;
            }
            self.strangers.pop_front();
        }
    }
}
