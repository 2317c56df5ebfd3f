//! Client commands, in MessagePack or JSON: one whole message in, one [`Command`] or one answerable error out.
//!
//! Called by the shard for every text and binary message of a connection. Whatever the bytes are, the result is a value:
//! nothing here panics, recurses deeper than [`crate::limits::VALUE_DEPTH_MAX`] or allocates by an announced length.
//! What a client may send is written down in `docs/protocol.md`, whose test vectors run against this file.

use std::borrow::Cow;

use super::json;
use super::msgpack::{self, Malformed};
use super::upgrade::check_channel_name;
use crate::limits::COMMAND_ID_BYTES_MAX;

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
    pub const ALL: [ErrorCode; 11] = [
        ErrorCode::BadCommand,
        ErrorCode::UnknownType,
        ErrorCode::BadChannel,
        ErrorCode::AlreadySubscribed,
        ErrorCode::NotSubscribed,
        ErrorCode::TooManySubscriptions,
        ErrorCode::TooManyChannels,
        ErrorCode::PublishNotAllowed,
        ErrorCode::PayloadTooBig,
        ErrorCode::BusUnavailable,
        ErrorCode::Busy,
    ];

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

/// Every value of `type` that [`decode`] takes.
pub const TYPES: [&str; 4] = ["subscribe", "unsubscribe", "publish", "ping"];

/// Decodes a text message as JSON, a binary one as MessagePack.
///
/// Unknown fields are ignored; of a field given twice the last one counts; `id` and `since` may be null for absent.
pub fn decode(text: bool, message: &[u8]) -> Result<Command<'_>, CommandError> {
    let (fields, complete) = Fields::collect(text, message);
    let (id, id_valid) = match fields.id.filter(|id| !id.is_null()) {
        None => (None, true),
        Some(raw) => {
            let id = raw.id();
            let valid = id.is_some();
            (id, valid)
        }
    };
    let body = match complete {
        Err(malformed) => Err(not_a_map(text, malformed)),
        Ok(()) if !id_valid => Err(bad(BAD_ID)),
        Ok(()) => fields.body(),
    };
    match body {
        Ok(body) => Ok(Command { id, body }),
        Err((code, message)) => Err(CommandError { id, code, message }),
    }
}

const BAD_ID: &str = "`id` must be an unsigned integer or a string of at most 64 bytes";
const BAD_TYPE: &str = "`type` must be given, as a string: subscribe, unsubscribe, publish or ping";
const UNKNOWN_TYPE: &str = "this `type` is not known here: subscribe, unsubscribe, publish and ping are";
const BAD_CHANNEL: &str = "`channel` must be given, as a string";
const BAD_SINCE: &str = "`since` must be a map with `epoch` and `seq`, both unsigned integers below 2^53";
const NO_DATA: &str = "`data` must be given; it may be any value, null too";

const _: () = assert!(COMMAND_ID_BYTES_MAX == 64, "the message above says 64");

type Refusal = (ErrorCode, Cow<'static, str>);

fn bad(message: &'static str) -> Refusal {
    (ErrorCode::BadCommand, Cow::Borrowed(message))
}

fn not_a_map(text: bool, malformed: Malformed) -> Refusal {
    let wanted = if text { "a text message must be one JSON object" } else { "a binary message must be one MessagePack map" };
    (ErrorCode::BadCommand, Cow::Owned(format!("{wanted}: {malformed}")))
}

/// The fields of one command that mean something, not interpreted yet.
#[derive(Debug, Default)]
struct Fields<'a> {
    kind: Option<Raw<'a>>,
    id: Option<Raw<'a>>,
    channel: Option<Raw<'a>>,
    data: Option<Raw<'a>>,
    since: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    /// Also of a message that turns out not to be complete, so that the error can carry the id.
    fn collect(text: bool, message: &'a [u8]) -> (Fields<'a>, Result<(), Malformed>) {
        let mut fields = Fields::default();
        let raw = match std::str::from_utf8(message) {
            _ if !text => Raw::Msgpack(message),
            Ok(message) => Raw::Json(message),
            Err(error) => return (fields, Err(Malformed::NotUtf8 { at: error.valid_up_to() })),
        };
        let complete = raw.fields(&mut |key, value| match &*key {
            "type" => fields.kind = Some(value),
            "id" => fields.id = Some(value),
            "channel" => fields.channel = Some(value),
            "data" => fields.data = Some(value),
            "since" => fields.since = Some(value),
            _ => {}
        });
        (fields, complete)
    }

    fn body(&self) -> Result<Body<'a>, Refusal> {
        let kind = self.kind.and_then(Raw::text).ok_or_else(|| bad(BAD_TYPE))?;
        Ok(match &*kind {
            "subscribe" => Body::Subscribe { channel: self.channel()?, since: self.since()? },
            "unsubscribe" => Body::Unsubscribe { channel: self.channel()? },
            "publish" => Body::Publish { channel: self.channel()?, payload: self.data.ok_or_else(|| bad(NO_DATA))?.payload() },
            "ping" => Body::Ping,
            _ => return Err((ErrorCode::UnknownType, Cow::Borrowed(UNKNOWN_TYPE))),
        })
    }

    fn channel(&self) -> Result<Cow<'a, str>, Refusal> {
        let channel = self.channel.and_then(Raw::text).ok_or_else(|| bad(BAD_CHANNEL))?;
        check_channel_name(&channel).map_err(|message| (ErrorCode::BadChannel, Cow::Borrowed(message)))?;
        Ok(channel)
    }

    fn since(&self) -> Result<Option<Position>, Refusal> {
        let Some(since) = self.since.filter(|since| !since.is_null()) else { return Ok(None) };
        let (mut epoch, mut seq) = (None, None);
        let complete = since.fields(&mut |key, value| match &*key {
            "epoch" => epoch = value.unsigned(),
            "seq" => seq = value.unsigned(),
            _ => {}
        });
        let in_range = |number: Option<u64>| number.filter(|&number| number <= json::INTEGER_MAX);
        match (complete, in_range(epoch), in_range(seq)) {
            (Ok(()), Some(epoch), Some(seq)) => Ok(Some(Position { epoch, seq })),
            _ => Err(bad(BAD_SINCE)),
        }
    }
}

/// One complete value in the spelling it came in.
#[derive(Debug, Clone, Copy)]
enum Raw<'a> {
    Json(&'a str),
    Msgpack(&'a [u8]),
}

impl<'a> Raw<'a> {
    fn fields(self, visit: &mut dyn FnMut(Cow<'a, str>, Raw<'a>)) -> Result<(), Malformed> {
        match self {
            Raw::Json(value) => json::fields(value, &mut |key, value| visit(key, Raw::Json(value))),
            Raw::Msgpack(value) => msgpack::fields(value, &mut |key, value| visit(key, Raw::Msgpack(value))),
        }
    }

    fn is_null(&self) -> bool {
        match self {
            Raw::Json(value) => json::is_null(value),
            Raw::Msgpack(value) => msgpack::is_nil(value),
        }
    }

    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Raw::Json(value) => json::text(value),
            Raw::Msgpack(value) => msgpack::text(value).map(Cow::Borrowed),
        }
    }

    fn unsigned(self) -> Option<u64> {
        match self {
            Raw::Json(value) => json::unsigned(value),
            Raw::Msgpack(value) => msgpack::unsigned(value),
        }
    }

    fn id(self) -> Option<Id> {
        match self.text() {
            Some(text) => (text.len() <= COMMAND_ID_BYTES_MAX).then(|| Id::Text(text.into())),
            None => self.unsigned().map(Id::Number),
        }
    }

    /// The value as the bus carries it; see [`Body::Publish`]. MessagePack scalars become JSON because their bytes could be
    /// read as something else: 0x31 is the number 49 and the text "1".
    fn payload(self) -> Cow<'a, [u8]> {
        match self {
            Raw::Json(value) => Cow::Borrowed(value.as_bytes()),
            Raw::Msgpack(value) if msgpack::is_container(value) => Cow::Borrowed(value),
            Raw::Msgpack(value) => msgpack::bytes(value).map_or_else(|| Cow::Owned(scalar_as_json(value)), Cow::Borrowed),
        }
    }
}

fn scalar_as_json(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    msgpack::to_json(value, &mut out).expect("the value was sliced as complete");
    out
}
