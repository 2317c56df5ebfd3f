//! Messages that have come to a channel past its source, which counts it: a plain `PUBLISH` to a durable channel, or what a route brings there. A number of
//! the stream's is not theirs to take, so they have none. Whoever is subscribed gets them beside the log, in the order in which they came.

use super::{Hub, Receipt};
use crate::bus::registry::ChannelId;
use crate::config::Mismatch;
use crate::fanout::aside::Aside;
use crate::wire::payload::Looked;

impl Hub {
    /// Hands one to the shards.
    pub fn aside(&mut self, name: &str, payload: &[u8], receipt: Receipt) {
        match self.find(name) {
            None => self.count_unwanted(payload.len()),
            Some(id) => {
                self.count(payload.len());
                self.put_aside(id, payload, receipt, &mut Looked::default());
            }
        }
    }

    /// The same with one that is counted.
    pub(super) fn put_aside(&mut self, id: ChannelId, payload: &[u8], receipt: Receipt, looked: &mut Looked) {
        let entry = &self.registry[id];
        let Some(channel) = entry.channel().cloned() else { return self.metrics.unwanted.inc() };
        self.metrics.unnumbered.inc();
        if payload.len() > self.settings.payload_bytes_max {
            return self.metrics.dropped.inc();
        }
        let (kind, is_expected) = looked.at(payload, entry.rule.payload);
        if !is_expected {
            match entry.rule.mismatch {
                Mismatch::Opaque => self.metrics.mismatched.inc(),
                Mismatch::Drop => return self.metrics.dropped.inc(),
            }
        }
        // What came before it goes before it.
        self.seal(id, receipt.received);
        let aside = Aside::new(channel, kind, payload, receipt.timestamp_ms);
        let dropped = self.delivery.hand_out_aside(&self.registry[id].interest, &aside);
        self.metrics.unnumbered_dropped.add(dropped);
    }
}
