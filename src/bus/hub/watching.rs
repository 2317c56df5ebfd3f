//! The channels that have the most to deliver, as long as somebody asks for them again and again.

use super::Hub;
use crate::bus::busiest::{Busiest, Busy};
use crate::clock::MonotonicNs;
use crate::fanout::batch::Batch;

impl Hub {
    /// Those since it was last asked. The first time nothing has been counted yet.
    pub fn busiest(&mut self, limit: usize) -> Busy {
        let now = self.now;
        self.busiest.get_or_insert_with(|| Box::new(Busiest::new(now))).take(limit, now)
    }

    #[inline]
    pub(super) fn note_busy(&mut self, batch: &Batch) {
        if let Some(busiest) = &mut self.busiest {
            busiest.count(batch.channel(), batch.message_count() as u64);
        }
    }

    pub(super) fn end_watching(&mut self, now: MonotonicNs) {
        self.busiest.take_if(|busiest| busiest.is_over(now));
    }
}
