//! Up to where users have read durable channels: what connections and the control port ask about that, and what they are told. The upstream keeps the marks
//! ([`super::redis::keeping`], or the journal); a mark is a number of one epoch and counts for nothing in another.
//!
//! Invariant: each question is answered once, with what was asked; its [`Ticket`] goes with it, so that those under way are bounded.

use super::question::Asker;
use super::shares::{Share, Ticket};
use crate::journal::AppendError;
use crate::limits::bus::{MARKS_BYTES_MAX, MARKS_MAX, MARKS_WAIT};
use crate::wire::client_id::ClientId;
use crate::wire::command::Position;

/// What of it only the control port may use, and what clients may.
pub const CONTROL_SHARE: Share = Share { count: MARKS_MAX / 4, bytes: MARKS_BYTES_MAX / 4 };
pub const CLIENTS_SHARE: Share = Share { count: MARKS_MAX - CONTROL_SHARE.count, bytes: MARKS_BYTES_MAX - CONTROL_SHARE.bytes };

/// It goes in through [`BusSender::ask_marks`](super::BusSender::ask_marks) or [`BusSender::ask_marks_from`](super::BusSender::ask_marks_from).
#[derive(Debug)]
pub struct MarksQuestion {
    pub asker: Asker,
    pub user: Box<str>,
    pub wanted: MarksWanted,
    /// The connection that asks: it need not be told what it does.
    pub by: Option<ClientId>,
    /// Its part of what may be under way.
    pub(super) ticket: Ticket,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarksWanted {
    /// The user has read the channel up to this number, or up to the last if that is less.
    Read { channel: Box<str>, epoch: Option<u64>, seq: u64 },
    /// What it has not read of each.
    Unread { channels: Vec<Box<str>> },
    /// The same of channels whose subscriptions begin when the answer is there.
    Begin { channels: Vec<Box<str>> },
}

impl MarksQuestion {
    pub fn boxed(asker: Asker, user: &str, wanted: MarksWanted) -> Box<MarksQuestion> {
        Box::new(MarksQuestion { asker, user: user.into(), wanted, by: None, ticket: Ticket::default() })
    }

    /// The names in it, each with what lies around it.
    pub(super) fn bytes(&self) -> usize {
        const NAME_BYTES: usize = 64;
        self.user.len() + NAME_BYTES + self.wanted.channels().map(|channel| channel.len() + NAME_BYTES).sum::<usize>()
    }
}

impl MarksWanted {
    /// The channels that it is about, in their order.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match self {
            MarksWanted::Read { channel, .. } => (Some(channel), &[][..]),
            MarksWanted::Unread { channels } | MarksWanted::Begin { channels } => (None, channels.as_slice()),
        };
        one.into_iter().chain(many).map(|channel| &**channel)
    }
}

/// What a user has read of a channel. The default is that of one without a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unread {
    pub epoch: Option<u64>,
    /// The number of the newest message.
    pub last: u64,
    /// How far it has read.
    pub read: u64,
    /// Messages after that which are still kept. Not counted where a mark is set.
    pub unread: u64,
}

impl Unread {
    /// Up to here there is nothing unread. Of a channel without a message that is a position before all others.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch.unwrap_or(0), seq: self.last - self.unread }
    }
}

/// What was asked comes back, and holds its part of what may be under way until it is taken.
#[derive(Debug)]
pub struct MarksAnswer {
    pub wanted: MarksWanted,
    pub result: MarksResult,
    pub ticket: Ticket,
}

/// For each channel that was asked about, in the same order.
pub type MarksResult = Result<Vec<Unread>, MarksError>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarksError {
    #[error("the channel {channel} is not durable: only of those that are it is kept who has read what")]
    NotDurable { channel: Box<str> },
    #[error("the number is of epoch {asked}, but the channel's messages are numbered in epoch {epoch} now; nothing was marked")]
    OtherEpoch { asked: u64, epoch: u64 },
    #[error("Redis cannot be reached; nothing was marked, try again")]
    Unavailable,
    #[error("Redis could not be asked within 4 seconds: {0}. If something was to be marked, it may have been; try again")]
    Late(String),
    #[error("too many questions about what is read are under way; try again")]
    Busy,
    #[error("Redis refused it: {0}")]
    Refused(String),
    #[error(
        "the disk takes nothing, and within 4 seconds has not what would be told. If something was to be marked, it may have been; try again"
    )]
    Unsettled,
    #[error("what is read cannot be kept: {0}")]
    NotKept(AppendError),
    #[error("the server is stopping")]
    Stopping,
}

const _: () = assert!(MARKS_WAIT.as_secs() == 4, "the messages above say so");

/// A mark that was set, for the other connections of its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkNews {
    pub user: Box<str>,
    pub channel: Box<str>,
    pub epoch: u64,
    pub seq: u64,
    /// The connection that has set it and knows.
    pub by: Option<ClientId>,
}
