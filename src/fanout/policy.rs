//! What becomes of a cursor that the log's tail has passed. The shard asks at a frame boundary only: a started frame is
//! finished first (from the log's limbo) or the connection is cut.

use super::cursor::Cursor;
use super::log::Log;
use crate::config::Overrun;
use crate::wire::event::GapReason;

/// The numbers `from..=to`, which somebody will not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    pub from: u64,
    pub to: u64,
    pub reason: GapReason,
}

impl Lost {
    pub fn count(self) -> u64 {
        self.to - self.from + 1
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was lost.
    Within,
    /// Close with 4008; the client may resume.
    Disconnect,
    /// Announce the loss, then go on behind it.
    Jump(Lost),
}

/// Judges a cursor at a frame boundary.
pub fn judge(log: &Log, cursor: Cursor, policy: Overrun) -> Verdict {
    debug_assert!(!cursor.is_mid_frame());
    if cursor.seq >= log.tail() {
        return Verdict::Within;
    }
    log.assert_overrun(cursor.seq);
    let next = match policy {
        Overrun::Disconnect => return Verdict::Disconnect,
        Overrun::Skip => log.tail(),
        // And whatever gaps came after it. An empty log has nothing newer than its head.
        Overrun::Latest => log.newest(),
    };
    Verdict::Jump(Lost { from: cursor.seq, to: next - 1, reason: GapReason::Overrun })
}
