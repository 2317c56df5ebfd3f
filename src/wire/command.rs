//! Client commands, in MessagePack or JSON. Skeleton: signatures are fixed, bodies to come.
use std::borrow::Cow;

/// The client's `id`, echoed in the reply: an unsigned integer or a string of at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    Number(u64),
    Text(Box<str>),
}

/// A message's place in its channel's history. Both fit 53 bits, so that every JSON reader gets them exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub epoch: u64,
    pub seq: u64,
}

#[derive(Debug, PartialEq)]
pub struct Command<'a> {
    pub id: Option<Id>,
    pub body: Body<'a>,
}

#[derive(Debug, PartialEq)]
pub enum Body<'a> {
    Subscribe {
        channel: Cow<'a, str>,
        since: Option<Position>,
    },
    Unsubscribe {
        channel: Cow<'a, str>,
    },
    /// `payload` is what goes to the bus: JSON text of `data` as the client wrote it, or its MessagePack bytes
    /// (a MessagePack scalar that could be mistaken is written as JSON, `bin` as its bytes).
    Publish {
        channel: Cow<'a, str>,
        payload: Cow<'a, [u8]>,
    },
    Ping,
}

/// Stable codes of the `error` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// Not a map, not parseable, or a field of the wrong type.
    BadCommand,
    UnknownType,
    BadChannel,
    AlreadySubscribed,
    NotSubscribed,
    TooManySubscriptions,
    /// The host serves as many channels as it may.
    TooManyChannels,
    PublishNotAllowed,
    PayloadTooBig,
    /// The bus is away (Redis not reachable); try again later.
    BusUnavailable,
    /// Too much is under way; try again.
    Busy,
}
impl ErrorCode {
    /// The value of `code`, snake_case: `bad_command`, …
    pub const fn name(self) -> &'static str {
        match self {
            ErrorCode::BadCommand => "bad_command",
            ErrorCode::UnknownType => "unknown_type",
            ErrorCode::BadChannel => "bad_channel",
            ErrorCode::AlreadySubscribed => "already_subscribed",
            ErrorCode::NotSubscribed => "not_subscribed",
            ErrorCode::TooManySubscriptions => "too_many_subscriptions",
            ErrorCode::TooManyChannels => "too_many_channels",
            ErrorCode::PublishNotAllowed => "publish_not_allowed",
            ErrorCode::PayloadTooBig => "payload_too_big",
            ErrorCode::BusUnavailable => "bus_unavailable",
            ErrorCode::Busy => "busy",
        }
    }
}

/// A command that cannot be carried out as written; answered with an `error` event that echoes the id where it could be read.
#[derive(Debug, PartialEq)]
pub struct CommandError {
    pub id: Option<Id>,
    pub code: ErrorCode,
    pub message: Cow<'static, str>,
}

/// Decodes a text message as JSON, a binary one as MessagePack.
pub fn decode(_text: bool, _message: &[u8]) -> Result<Command<'_>, CommandError> {
    todo!()
}
