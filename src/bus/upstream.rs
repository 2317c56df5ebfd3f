//! The seam behind which messages come in. The bus thread drives one [`Upstream`]; what it receives it puts into the [`Hub`].
//!
//! An upstream may own many sockets in the `Poll` of the thread that drives it (Sentinel, Cluster, several servers), under tokens from
//! [`FIRST_TOKEN`] on. It must not block, and must work in bounded pieces: the thread has shards to serve in between.

use mio::Token;
use mio::event::Event;

#[cfg(doc)]
use super::flow::Start;
use super::hub::Hub;
use super::marks::MarksQuestion;
use super::presence::{CensusAsked, PresenceAsked};
use super::question::{HistoryAsked, PageWanted, Publish};
use super::revoke::Revoke;
use crate::clock::MonotonicNs;

/// Of the bus's inbox and of whatever else only has to wake its thread. Far above all tokens of connections, for the bus may share a shard's `Poll`, and
/// below those of the shard's own.
pub const WAKER: Token = Token(usize::MAX - 4096);
/// Of an upstream's sockets; so many of them are the bus's.
pub const FIRST_TOKEN: usize = WAKER.0 + 1;
pub(super) const TOKENS: usize = 1024;

/// Whether an event with this token is the bus's.
pub fn is_ours(token: Token) -> bool {
    (WAKER.0..FIRST_TOKEN + TOKENS).contains(&token.0)
}

pub trait Upstream: Send {
    /// A channel is wanted from now on. [`Hub::flowing`] must be called once its messages arrive, with the [`Start`] of its numbers.
    fn want(&mut self, hub: &mut Hub, channel: &str);

    /// Nobody wants the channel any more; the hub has forgotten it. `had_come`: its messages came until now.
    fn unwant(&mut self, hub: &mut Hub, channel: &str, had_come: bool);

    /// Whether this publish would be sent (or answered) at once. If not, it is asked again in the next turn and nothing overtakes it.
    fn takes(&mut self, publish: &Publish) -> bool;

    /// Whether another publish may be taken while one is not: it goes elsewhere.
    fn takes_in_parts(&self) -> bool {
        false
    }

    /// One that it takes. [`Hub::published`] must be called for each, at once or later.
    fn publish(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs);

    /// Stores what is revoked where all nodes find it, and tells them. It is answered at once or later.
    fn revoke(&mut self, revoke: Revoke, now: MonotonicNs);

    /// Reads what is kept of a channel. [`Hub::page`] must be called for each, at once or later.
    fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted);

    /// Reads what is kept of a durable channel, for somebody who asks for its history. Each must be answered ([`super::recall::answer`]), at once or later.
    fn recall(&mut self, hub: &mut Hub, asked: HistoryAsked);

    /// What is kept of how far users have read. [`Hub::answer_marks`] must be called for each, at once or later.
    fn marks(&mut self, hub: &mut Hub, question: Box<MarksQuestion>, now: MonotonicNs);
    /// How many there are, on all nodes, of what the hub counts. Each must be answered ([`super::presence::answer`]), at once or later.
    fn presence(&mut self, hub: &mut Hub, asked: PresenceAsked);

    /// Which channels have subscribers on any node. Each must be answered, at once or later.
    fn census(&mut self, hub: &mut Hub, asked: CensusAsked);

    /// Remembers what a socket is ready for; the work is done in [`Upstream::read`] and [`Upstream::write`].
    fn event(&mut self, event: &Event);

    /// Takes in what has arrived, up to a budget, and looks at deadlines. True: there is more to take in at once.
    fn read(&mut self, hub: &mut Hub, now: MonotonicNs) -> bool;

    /// Sends what is due.
    fn write(&mut self, hub: &mut Hub, now: MonotonicNs);

    /// When [`Upstream::read`] must be called even if no socket is ready.
    fn deadline(&self) -> Option<MonotonicNs>;

    /// Answers what is still under way; nothing is called after this.
    fn stop(&mut self, hub: &mut Hub);
}
