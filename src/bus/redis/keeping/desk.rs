//! What one server is asked about users, and what it answers, on a connection of its own ([`Role::Keeping`](crate::bus::redis::server::Role::Keeping)), which is
//! opened when first needed. It knows nothing of questions: [`super::Keeping`] puts commands in and takes answers out. Sans-IO but for the commands it writes.
//!
//! Invariant: commands that are not answered, and answers that are not taken, are bounded together.

use std::collections::VecDeque;

use redis::{ServerError, Value};

use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::fault::Fault;
use crate::bus::redis::link::{Answer, Link};
use crate::bus::redis::resp::write_command;
use crate::clock::MonotonicNs;
use crate::limits::redis::OUT_BYTES;
use crate::limits::redis::keeping::COMMANDS_MAX;
use crate::metrics::BusMetrics;

/// Which of its commands that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it was asked for.
    pub number: u32,
    /// How often that had asked before: what an earlier round has asked counts no more.
    pub round: u32,
    /// Of the commands of a round.
    pub command: u16,
}

#[derive(Debug, Default)]
pub struct Desk {
    /// To be written, in this order.
    due: VecDeque<(Place, Vec<u8>)>,
    /// Written and not answered.
    unanswered: usize,
    answers: VecDeque<(Place, Result<Value, ServerError>)>,
    /// The connection was lost, with whatever was not answered.
    is_lost: bool,
}

impl Desk {
    /// A connection is needed.
    pub fn is_wanted(&self) -> bool {
        !self.due.is_empty()
    }

    /// For whatever is asked next, all of its commands.
    pub fn has_room(&self) -> bool {
        self.due.len() + self.unanswered + self.answers.len() < COMMANDS_MAX
    }

    pub fn ask(&mut self, place: Place, command: &[&[u8]]) {
        let mut bytes = Vec::new();
        write_command(&mut bytes, command.iter().copied());
        self.due.push_back((place, bytes));
    }

    pub fn take_answer(&mut self) -> Option<(Place, Result<Value, ServerError>)> {
        self.answers.pop_front()
    }

    /// Whether the connection was lost since this was last asked; nothing is due any more.
    pub fn take_loss(&mut self) -> bool {
        std::mem::take(&mut self.is_lost)
    }

    /// Something is to be taken out.
    pub fn has_news(&self) -> bool {
        self.is_lost || !self.answers.is_empty()
    }

    /// Writes what is due, as far as there is room. The connection is ready.
    pub(in crate::bus::redis) fn write(&mut self, link: &mut Link, now: MonotonicNs) {
        while link.out_bytes() < OUT_BYTES
            && let Some((place, bytes)) = self.due.pop_front()
        {
            link.out().extend_from_slice(&bytes);
            link.asked(Asked::Keeping(place), now);
            self.unanswered += 1;
        }
    }

    /// Takes what the last read of the connection has brought.
    pub(in crate::bus::redis) fn read(&mut self, link: &mut Link, metrics: &BusMetrics) -> Result<(), Fault> {
        while let Some(answer) = link.next_answer()? {
            match answer {
                Answer::Kept { place, value } => self.answered(place, Ok(value.into_owned())),
                Answer::Refused { error, .. } if error.code() == "NOAUTH" => return Err(Fault::refused(error)),
                Answer::Refused { asked: Asked::Keeping(place), error } => self.answered(place, Err(error.clone())),
                Answer::Odd { asked: Some(Asked::Keeping(_)) } => return Err(Fault::new("it answers what was not asked")),
                Answer::Pong { .. } | Answer::Nothing => {}
                _ => metrics.protocol_errors.inc(),
            }
        }
        Ok(())
    }

    fn answered(&mut self, place: Place, answer: Result<Value, ServerError>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.answers.push_back((place, answer));
    }

    pub(in crate::bus::redis) fn connection_lost(&mut self) {
        self.is_lost |= self.unanswered > 0 || !self.due.is_empty();
        (self.due, self.unanswered) = (VecDeque::new(), 0);
    }
}
