//! What connections hold for themselves alone, messages received in part and replies not yet sent, and the budget over all of it.

use super::Shard;
use super::close::goodbye;
use super::conn::Phase;
use super::net::Network;
use crate::limits;
use crate::wire::close::CloseReason;

impl<N: Network> Shard<N> {
    /// Takes note of what a connection's own buffers hold now. A connection that grows them past the shard's budget is closed with 1013.
    pub(super) fn account_buffers(&mut self, key: usize) {
        let grew = self.charge_buffers(key);
        let budget = self.settings.buffer_bytes_max;
        let conn = &mut self.conns[key];
        // Whoever holds little is not the one who fills the buffers.
        let is_small = conn.charged_bytes as usize <= limits::BUFFER_FLOOR_BYTES;
        if !grew || is_small || self.buffer_bytes <= budget || matches!(conn.phase, Phase::Ending | Phase::Shut | Phase::Closing) {
            return;
        }
        // Only where no frame is cut can it be told why.
        if conn.outbox.is_none() && conn.is_open() {
            conn.peer.forget();
            self.end_with_close(key, CloseReason::Buffers, goodbye(CloseReason::Buffers).text);
        } else {
            self.kill(key, CloseReason::Buffers);
        }
        self.charge_buffers(key);
    }

    /// Brings the shard's account up to date; true if the connection holds more than before.
    pub(super) fn charge_buffers(&mut self, key: usize) -> bool {
        let conn = &mut self.conns[key];
        let (before, now) = (conn.charged_bytes as usize, conn.buffer_bytes(self.net.gear()));
        conn.charged_bytes = now as u32;
        self.buffer_bytes = self.buffer_bytes - before + now;
        now > before
    }
}
