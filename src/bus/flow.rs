//! Whether a channel's messages come, and where its numbers go on when they do. The hub has one [`Flow`] per channel; the upstream tells it
//! what has changed.
//!
//! ```text
//!             repairing              flowing
//!  Awaited ──────────────► Repairing ────────► Flowing ──► Repairing, when a hole is found
//!     ▲  └──────────────── flowing ──────────────►│
//!     └──────────────────── interrupt ────────────┘        from Repairing, too
//!
//!  Refused: from each of them; Repairing or Flowing may follow
//! ```
//!
//! What has come before is in the numbers: a channel that has flowed has an epoch.

/// Where the numbers of a channel go on whose messages come from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Its source counts nothing and keeps nothing. The hub counts, and nobody knows what has come since it last flowed.
    Fresh,
    /// Its source counts, and this is the last number that it has given: the next message has the one after it. Within an epoch it never goes
    /// back: a source that has to take back what it had given begins another epoch.
    At { epoch: u64, seq: u64 },
}

/// Whether a channel's messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They are wanted, for the first time or after an outage.
    Awaited,
    /// The upstream is catching up: messages come that were missed, in order, and those of now are held back until they have. The channel is
    /// neither lost nor does it flow; nothing is announced, and whoever joins it waits.
    Repairing,
    Flowing,
    /// The upstream does not let us have them.
    Refused,
}

impl Flow {
    /// Messages are numbered.
    pub fn takes_messages(self) -> bool {
        matches!(self, Flow::Flowing | Flow::Repairing)
    }
}

/// Who counts a channel's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// It may spend a number on what is lost.
    Hub,
    /// Each number is a message of its own.
    Source,
}

/// The last number handed out, and how it came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub epoch: u64,
    pub seq: u64,
    pub by: Counter,
}

/// How the numbers of a channel go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// Nothing is missing.
    Next,
    /// The numbers up to this one are lost.
    Behind { to: u64 },
    /// With others.
    Anew(Count),
}

impl Start {
    /// `before`: None if the channel has never flowed.
    pub fn onward(self, before: Option<Count>) -> Onward {
        match (self, before) {
            (Start::Fresh, Some(Count { seq, by: Counter::Hub, .. })) => Onward::Behind { to: seq + 1 },
            (Start::Fresh, _) => Onward::Anew(Count::fresh()),
            (Start::At { epoch, seq }, Some(before)) if epoch == before.epoch && before.by == Counter::Source => {
                if seq == before.seq {
                    Onward::Next
                } else if seq > before.seq {
                    Onward::Behind { to: seq }
                } else {
                    // Against its word. A number must not name two messages, so it does not count in this epoch any more.
                    Onward::Anew(Count::fresh())
                }
            }
            (Start::At { epoch, seq }, _) => Onward::Anew(Count { epoch, seq, by: Counter::Source }),
        }
    }
}

impl Count {
    /// From the beginning, in an epoch that nobody has heard of.
    fn fresh() -> Count {
        // Below 2^53, so that every JSON reader gets it exactly; drawn anew each time, so a number never names two messages.
        Count { epoch: fastrand::u64(1..1 << 53), seq: 0, by: Counter::Hub }
    }
}
