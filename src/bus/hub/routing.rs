//! Messages of a channel that has a route: each goes to the channels that it names itself ([`crate::bus::route`]), and none stays, unless `else` says so.
//!
//! Invariant: a message is routed once. What a route brings to a channel that has a route of its own stays there, so no message goes in circles.

use super::{Hub, Outcome, Receipt};
use crate::bus::Creator;
use crate::bus::flow::Counter;
use crate::bus::ration::Ration;
use crate::bus::route::Routes;
use crate::config::Route;
use crate::limits::bus::{ROUTE_COST_BYTES, TURN_ROUTE_BYTES};
use crate::wire::payload::{Expect, Looked};

#[derive(Debug, Default)]
pub(super) struct Routing {
    routes: Routes,
    /// What the messages of this turn have cost.
    spent: usize,
    /// Durable channels that the last message is for, where whoever routes it numbers theirs.
    to_durable: Vec<String>,
    warnings: Ration,
}

impl Routing {
    pub fn new(routes: &[Route]) -> Routing {
        Routing { routes: Routes::new(routes), ..Routing::default() }
    }

    pub fn is_spent(&self) -> bool {
        self.spent >= TURN_ROUTE_BYTES
    }

    pub fn begin_turn(&mut self) {
        self.spent = 0;
    }
}

impl Hub {
    /// Whether messages of this channel go to others: [`Hub::route`] takes them.
    #[inline]
    pub fn is_routed(&self, name: &str) -> bool {
        self.routing.routes.takes(name)
    }

    /// Whether what was routed in this turn has cost enough.
    pub fn has_routed_enough(&self) -> bool {
        self.routing.is_spent()
    }

    /// A message for whom it may concern: whoever publishes it waits until every shard has room.
    pub(super) fn has_room_for_routed(&self, payload_bytes: usize) -> bool {
        self.delivery.has_room_everywhere(payload_bytes)
    }

    /// The durable channels that the message is for which was routed last.
    pub fn take_routed_to_durable(&mut self) -> Vec<String> {
        std::mem::take(&mut self.routing.to_durable)
    }

    /// Puts a message of a channel that has a route into the channels that it is for. `creator`: who has them made that nobody listens to and whose
    /// rules ask for history; None: they are not. With one, durable channels are left to the caller ([`Hub::take_routed_to_durable`]).
    pub fn route(&mut self, name: &str, payload: &[u8], receipt: Receipt, creator: Option<Creator>) -> Outcome {
        self.count(payload.len());
        self.routing.spent += ROUTE_COST_BYTES + payload.len();
        if payload.len() > self.settings.payload_bytes_max {
            self.metrics.dropped.inc();
            return Outcome::TooBig;
        }
        let mut looked = Looked::default();
        let (kind, _) = looked.at(payload, Expect::Auto);
        let channels = match self.routing.routes.channels(name, kind, payload) {
            Ok(channels) => channels,
            Err(reason) => {
                self.metrics.unrouted[reason as usize].inc();
                match self.routing.warnings.take(receipt.received) {
                    Some(0) => tracing::warn!("a message of the channel {name}, which has a route, went nowhere: it {}", reason.text()),
                    Some(unsaid) => tracing::warn!(
                        "a message of the channel {name}, which has a route, went nowhere: it {} ({unsaid} before it did, too)",
                        reason.text()
                    ),
                    None => self.routing.warnings.unsaid += 1,
                }
                return Outcome::Unrouted(reason);
            }
        };
        let mut is_wanted = false;
        for channel in &channels {
            self.routing.spent += ROUTE_COST_BYTES;
            if creator.is_some() && self.registry.rule_of(channel).durable {
                self.routing.spent += payload.len();
                self.routing.to_durable.push(channel.clone());
                is_wanted = true;
                continue;
            }
            let found = self.find(channel);
            let opened = || creator.and_then(|creator| self.open_for_history(channel, creator, receipt.received));
            let Some(id) = found.or_else(opened) else { continue };
            if creator.is_some() {
                // One opened a moment ago flows before its `want` has come round.
                self.flowing_fresh(channel);
            }
            self.routing.spent += payload.len();
            is_wanted = true;
            if self.registry[id].count().is_some_and(|count| count.by == Counter::Source) {
                // The numbers of a durable channel are its stream's: one that is spent here would be another message's there.
                self.put_aside(id, payload, receipt, &mut looked);
                self.metrics.routed.inc();
                continue;
            }
            if let Outcome::Numbered(_) = self.put(id, payload, receipt, &mut looked) {
                self.metrics.routed.inc();
            }
        }
        if !is_wanted {
            self.metrics.unwanted.inc();
        }
        Outcome::Routed
    }
}
