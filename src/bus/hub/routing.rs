//! Messages of a channel that has a route: each goes to the channels that it names itself ([`crate::bus::route`]), and none stays, unless `else` says so.
//!
//! Invariant: a message is routed once. What a route brings to a channel that has a route of its own stays there, so no message goes in circles.

use super::{Hub, Outcome, Receipt, Start};
use crate::bus::Creator;
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

    /// Puts a message of a channel that has a route into the channels that it is for. `creator`: who has them made that nobody listens to and whose
    /// rules ask for history; None: they are not.
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
            let found = self.find(channel);
            let opened = || creator.and_then(|creator| self.open_for_history(channel, creator, receipt.received));
            let Some(id) = found.or_else(opened) else { continue };
            if creator.is_some() {
                // One opened a moment ago flows before its `want` has come round.
                self.flowing(channel, Start::Fresh);
            }
            self.routing.spent += payload.len();
            is_wanted = true;
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
