//! The bus without Redis: one process, same semantics. A publish is a message, numbered at once; that of a durable channel by the journal, and shown when
//! the journal has it ([`durable`]).
//!
//! A channel that nobody here listens to has no number (`seq` is None, the message goes nowhere), just as with Redis. Where the
//! channel's rule asks for history, the first publish opens the channel and its history keeps it alive, so that
//! a subscriber who comes later can resume; it is forgotten, within a linger, when history holds none of its messages any more (they
//! are older than `history_age`, or gone for `history_bytes_total`).

pub mod durable;
mod marks;
#[cfg(test)]
mod tests;

use mio::event::Event;

use self::durable::Durables;
use super::Creator;
use super::hub::{Hub, Outcome, Receipt};
use super::marks::MarksQuestion;
use super::presence::{self, CensusAsked, PresenceAsked};
use super::question::{Answer, HistoryAsked, PageWanted, Publish, PublishError, Published};
use super::revoke::Revoke;
use super::upstream::Upstream;
use crate::clock::MonotonicNs;
use crate::config::Settings;
use crate::journal::{OpenError, Wake};

#[derive(Debug)]
pub struct Embedded {
    durables: Durables,
}

impl Embedded {
    /// Reads what `data_dir` has. `wake` gives the bus a turn.
    pub fn new(settings: &Settings, wake: &Wake) -> Result<Embedded, OpenError> {
        Ok(Embedded { durables: Durables::open(settings, wake)? })
    }
}

impl Upstream for Embedded {
    fn want(&mut self, hub: &mut Hub, channel: &str) {
        if hub.rule_of(channel).durable {
            return self.durables.want(channel);
        }
        hub.flowing_fresh(channel);
    }

    fn unwant(&mut self, _: &mut Hub, _: &str, _: bool) {}

    fn takes(&mut self, publish: &Publish) -> bool {
        self.durables.takes(publish.payload.len())
    }

    fn publish(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        let receipt = Receipt { received: now, timestamp_ms: crate::sys::unix_ms() };
        let is_routed = hub.is_routed(&publish.channel);
        if !is_routed && hub.rule_of(&publish.channel).durable {
            return self.durables.publish(hub, publish, receipt);
        }
        if publish.idempotency_key.is_some() {
            return hub.published(publish, Err(PublishError::NotDurable));
        }
        if is_routed {
            let outcome = hub.route(&publish.channel, &publish.payload, receipt, Some(Creator::of_publish(&publish.asker)));
            let (result, to_durable) = (result(hub, outcome), hub.take_routed_to_durable());
            if !to_durable.is_empty() {
                return self.durables.publish_routed(hub, publish, to_durable, receipt, result);
            }
            return hub.published(publish, result);
        }
        let id = hub.find(&publish.channel).or_else(|| hub.open_for_history(&publish.channel, Creator::of_publish(&publish.asker), now));
        let result = match id {
            None => {
                hub.count_unwanted(publish.payload.len());
                Ok(Published::NOWHERE)
            }
            Some(id) => {
                // A channel opened a moment ago flows before its `want` has come round.
                hub.flowing_fresh(&publish.channel);
                let outcome = hub.message(id, &publish.payload, receipt);
                result(hub, outcome)
            }
        };
        hub.published(publish, result);
    }

    fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted) {
        self.durables.read_page(hub, wanted);
    }

    fn recall(&mut self, hub: &mut Hub, asked: HistoryAsked) {
        self.durables.recall(hub, asked);
    }

    /// There is no other node.
    fn presence(&mut self, hub: &mut Hub, asked: PresenceAsked) {
        let result = hub.found_here(&asked.subject, asked.members.is_some());
        let result = result.map(|found| found.for_whom(asked.members.as_ref()));
        presence::answer(hub, asked.asker, asked.subject, result);
    }

    fn census(&mut self, hub: &mut Hub, asked: CensusAsked) {
        let page = hub.census_here(asked.after.as_deref(), asked.limit);
        hub.answer(asked.asker, Answer::Census { result: Ok(page) });
    }

    fn revoke(&mut self, revoke: Revoke, _: MonotonicNs) {
        revoke.answer(Ok(()));
    }

    fn marks(&mut self, hub: &mut Hub, question: Box<MarksQuestion>, now: MonotonicNs) {
        self.durables.marks(hub, question, now);
    }

    fn event(&mut self, _: &Event) {}

    fn read(&mut self, hub: &mut Hub, now: MonotonicNs) -> bool {
        hub.set_ready(true);
        self.durables.begin_turn(hub, now)
    }

    fn write(&mut self, hub: &mut Hub, now: MonotonicNs) {
        self.durables.end_turn(hub, now);
    }

    fn deadline(&self) -> Option<MonotonicNs> {
        self.durables.deadline()
    }

    fn stop(&mut self, hub: &mut Hub) {
        self.durables.close(hub);
    }
}

/// What its publisher is told.
fn result(hub: &Hub, outcome: Outcome) -> Result<Published, PublishError> {
    match outcome {
        Outcome::Numbered(published) => Ok(published),
        Outcome::Unwanted | Outcome::Routed => Ok(Published::NOWHERE),
        Outcome::TooBig => Err(PublishError::TooBig { bytes_max: hub.payload_bytes_max() }),
        Outcome::Mismatched(wanted) => Err(PublishError::Mismatch(wanted)),
        Outcome::Unrouted(reason) => Err(PublishError::Unrouted(reason)),
    }
}
