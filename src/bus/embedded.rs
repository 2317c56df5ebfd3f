//! The bus without Redis: one process, memory only, same semantics. A publish is a message, numbered at once.
//!
//! A channel that nobody here listens to has no number (`seq` is None, the message goes nowhere), just as with Redis. Where the
//! channel's rule asks for history, the first publish opens the channel and its history keeps it alive, so that
//! a subscriber who comes later can resume; it is forgotten, within a linger, when history holds none of its messages any more (they
//! are older than `history_age`, or gone for `history_bytes_total`).

use mio::event::Event;

use super::Creator;
use super::flow::Start;
use super::hub::{Hub, Outcome, Receipt};
use super::question::{PageWanted, Publish, PublishError, Published};
use super::revoke::Revoke;
use super::upstream::Upstream;
use crate::clock::MonotonicNs;

#[derive(Debug, Default)]
pub struct Embedded;

impl Upstream for Embedded {
    fn want(&mut self, hub: &mut Hub, channel: &str) {
        hub.flowing(channel, Start::Fresh);
    }

    fn unwant(&mut self, _: &mut Hub, _: &str, _: bool) {}

    fn takes(&mut self, _: &Publish) -> bool {
        true
    }

    fn publish(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        if publish.idempotency_key.is_some() {
            return hub.published(publish, Err(PublishError::NotDurable));
        }
        if hub.is_routed(&publish.channel) {
            let receipt = Receipt { received: now, timestamp_ms: crate::sys::unix_ms() };
            let outcome = hub.route(&publish.channel, &publish.payload, receipt, Some(Creator::of_publish(&publish.asker)));
            let result = result(hub, outcome);
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
                hub.flowing(&publish.channel, Start::Fresh);
                let outcome = hub.message(id, &publish.payload, Receipt { received: now, timestamp_ms: crate::sys::unix_ms() });
                result(hub, outcome)
            }
        };
        hub.published(publish, result);
    }

    fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted) {
        hub.page(wanted.to, wanted.from, Vec::new());
    }

    /// There is no other node.
    fn revoke(&mut self, revoke: Revoke, _: MonotonicNs) {
        revoke.answer(Ok(()));
    }

    fn event(&mut self, _: &Event) {}

    fn read(&mut self, hub: &mut Hub, _: MonotonicNs) -> bool {
        hub.set_ready(true);
        false
    }

    fn write(&mut self, _: &mut Hub, _: MonotonicNs) {}

    fn deadline(&self) -> Option<MonotonicNs> {
        None
    }

    fn stop(&mut self, _: &mut Hub) {}
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
