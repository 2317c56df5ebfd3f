//! Client commands, in MessagePack or JSON: one whole message in, one [`Command`] or one answerable error out.
//!
//! Called by the shard for every text and binary message of a connection. Whatever the bytes are, the result is a value:
//! nothing here panics, recurses deeper than [`crate::limits::VALUE_DEPTH_MAX`] or allocates by an announced length.
//! What a client may send is written down in `docs/protocol.md`, whose test vectors run against this file.

use std::borrow::Cow;

use serde::Serialize;

use super::history::HistoryRange;
use super::malformed::Malformed;
use super::spelled::Spelled;
use super::wish::{Begin, Wish};
use super::{channel_name, json};
use crate::limits::bus::HISTORY_MESSAGES_MAX;
use crate::limits::{
    CHANNEL_NAME_BYTES_MAX, COMMAND_ID_BYTES_MAX, COMMAND_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, MAX_RATE_MAX, SUBSCRIBE_CHANNELS_MAX,
    UNREAD_CHANNELS_MAX,
};
use crate::named::named;

/// The client's `id`, echoed in the reply: an unsigned integer or a string of at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    Number(u64),
    Text(Box<str>),
}

/// A message's place in its channel's history. Both fit 53 bits, so that every JSON reader gets them exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Position {
    pub epoch: u64,
    pub seq: u64,
}

impl Position {
    /// Reads `EPOCH:SEQ`, as it stands in URLs and in the ids of event streams.
    pub fn read(text: &str) -> Option<Position> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|&number: &u64| is_number && number < 1 << 53)
        };
        let (epoch, seq) = text.split_once(':')?;
        Some(Position { epoch: number(epoch)?, seq: number(seq)? })
    }
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
        wish: Wish,
    },
    /// Several at once; each is answered by itself, also one that is refused.
    SubscribeAll {
        channels: Vec<Entry<'a>>,
    },
    Unsubscribe {
        channel: Cow<'a, str>,
    },
    /// What is kept of a channel.
    History {
        channel: Cow<'a, str>,
        range: HistoryRange,
        limit: usize,
    },
    /// How many subscribers a channel has, over all nodes.
    Presence {
        channel: Cow<'a, str>,
        /// Also who they are.
        members: Option<MemberRange<'a>>,
    },
    /// `payload` is what goes to the bus ([`Spelled::payload`] of `data`).
    Publish {
        channel: Cow<'a, str>,
        payload: Cow<'a, [u8]>,
        /// By which a durable channel knows it again.
        idempotency_key: Option<Cow<'a, str>>,
    },
    /// The user has read the channel up to this number.
    MarkRead {
        channel: Cow<'a, str>,
        /// Which one the number is of, if the client says.
        epoch: Option<u64>,
        seq: u64,
    },
    /// How many messages of each the user has not read.
    Unread {
        channels: Vec<Cow<'a, str>>,
    },
    /// Another token in place of the present one.
    Refresh {
        token: Cow<'a, str>,
    },
    Ping,
}

/// Which of those who are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRange<'a> {
    /// Those behind this name.
    pub after: Option<Cow<'a, str>>,
    pub limit: usize,
}

/// One of several channels to subscribe to.
#[derive(Debug, PartialEq)]
pub enum Entry<'a> {
    Good {
        channel: Cow<'a, str>,
        wish: Wish,
    },
    /// Also one that is no valid name.
    Bad {
        channel: Option<Cow<'a, str>>,
        code: ErrorCode,
        message: Cow<'static, str>,
    },
}

named! {
    /// Stable codes of the `error` event.
    ErrorCode {
        /// Not a map, not parseable, or a field of the wrong type.
        BadCommand = "bad_command",
        UnknownType = "unknown_type",
        BadChannel = "bad_channel",
        AlreadySubscribed = "already_subscribed",
        NotSubscribed = "not_subscribed",
        TooManySubscriptions = "too_many_subscriptions",
        /// The host serves as many channels as it may, or as many for the client's address.
        TooManyChannels = "too_many_channels",
        /// The bus does not let this server have the channel.
        ChannelRefused = "channel_refused",
        /// The token of a `refresh` is not taken.
        TokenInvalid = "token_invalid",
        /// The channel's rule does not let this client do that.
        NotAllowed = "not_allowed",
        PayloadTooBig = "payload_too_big",
        /// Not what the channel's `payload` setting says.
        BadPayload = "bad_payload",
        /// Only of durable channels it is kept who has read what.
        NotDurable = "not_durable",
        /// The connection is nobody's.
        NoUser = "no_user",
        /// The number is of another epoch than the channel's.
        OtherEpoch = "other_epoch",
        /// The bus is away (Redis not reachable); try again later.
        BusUnavailable = "bus_unavailable",
        /// Too much is under way; try again.
        Busy = "busy",
        /// The connection asks for too much in too short a time.
        RateLimited = "rate_limited",
    }
}

/// A command that cannot be carried out as written; answered with an `error` event that echoes what it is about.
#[derive(Debug, PartialEq)]
pub struct CommandError<'a> {
    pub id: Option<Id>,
    /// `type` as the client wrote it.
    pub command: Option<Cow<'a, str>>,
    /// Also one that is no valid name.
    pub channel: Option<Cow<'a, str>>,
    pub code: ErrorCode,
    pub message: Cow<'static, str>,
}

/// The command that an `error` event answers: what tells the client which of its commands failed, also without `id`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    pub id: Option<&'a Id>,
    pub command: Option<&'a str>,
    pub channel: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// `command` is one of [`TYPES`].
    pub const fn of(command: &'a str, channel: &'a str, id: Option<&'a Id>) -> Asked<'a> {
        Asked { id, command: Some(command), channel: Some(channel) }
    }
}

impl Command<'_> {
    pub fn asked(&self) -> Asked<'_> {
        let (command, channel) = match &self.body {
            Body::Subscribe { channel, .. } => (SUBSCRIBE, Some(channel)),
            Body::SubscribeAll { .. } => (SUBSCRIBE, None),
            Body::Unsubscribe { channel } => (UNSUBSCRIBE, Some(channel)),
            Body::History { channel, .. } => (HISTORY, Some(channel)),
            Body::Presence { channel, .. } => (PRESENCE, Some(channel)),
            Body::Publish { channel, .. } => (PUBLISH, Some(channel)),
            Body::MarkRead { channel, .. } => (MARK_READ, Some(channel)),
            Body::Unread { .. } => (UNREAD, None),
            Body::Refresh { .. } => (REFRESH, None),
            Body::Ping => (PING, None),
        };
        Asked { id: self.id.as_ref(), command: Some(command), channel: channel.map(|channel| channel.as_ref()) }
    }
}

impl CommandError<'_> {
    pub fn asked(&self) -> Asked<'_> {
        Asked { id: self.id.as_ref(), command: self.command.as_deref(), channel: self.channel.as_deref() }
    }
}

pub const SUBSCRIBE: &str = "subscribe";
pub const UNSUBSCRIBE: &str = "unsubscribe";
pub const HISTORY: &str = "history";
pub const PRESENCE: &str = "presence";
pub const PUBLISH: &str = "publish";
pub const MARK_READ: &str = "mark_read";
pub const UNREAD: &str = "unread";
pub const REFRESH: &str = "refresh";
pub const PING: &str = "ping";

/// Every value of `type` that [`decode`] takes.
pub const TYPES: [&str; 9] = [SUBSCRIBE, UNSUBSCRIBE, HISTORY, PRESENCE, PUBLISH, MARK_READ, UNREAD, REFRESH, PING];

/// Decodes a text message as JSON, a binary one as MessagePack.
///
/// Unknown fields are ignored; of a field given twice the last one counts; `id` and `since` may be null for absent. Of a
/// message that is not well-formed nothing is believed: what looks like its id may be the first part of something else
/// (`07` begins like the number 0), and an answer with another command's id would be taken for that command's.
pub fn decode(text: bool, message: &[u8]) -> Result<Command<'_>, CommandError<'_>> {
    let fields = Spelled::message(text, message).and_then(Fields::collect).map_err(|malformed| {
        let (code, message) = not_a_map(text, malformed);
        CommandError { id: None, command: None, channel: None, code, message }
    })?;
    let id = fields.id();
    let body = match id {
        Ok(_) => fields.body(),
        Err(_) => Err(bad(BAD_ID)),
    };
    match body {
        Ok(body) => Ok(Command { id: id.unwrap_or_default(), body }),
        Err((code, message)) => {
            let (command, channel) = fields.echo();
            Err(CommandError { id: id.unwrap_or_default(), command, channel, code, message })
        }
    }
}

/// Of `history`, where no `limit` is given.
pub const HISTORY_MESSAGES_DEFAULT: usize = 100;

const BAD_ID: &str = "`id` must be an unsigned integer or a string of at most 64 bytes";
const BAD_TYPE: &str =
    "`type` must be given, as a string: subscribe, unsubscribe, history, presence, publish, mark_read, unread, refresh or ping";
const UNKNOWN_TYPE: &str =
    "this `type` is not known here: subscribe, unsubscribe, history, presence, publish, mark_read, unread, refresh and ping are";
const BAD_CHANNEL: &str = "`channel` must be given, as a string";
const BAD_CHANNELS: &str = "`channels` must be a list of 1 to 128 maps, each with a `channel`; then `channel` stands in them alone";
const BAD_ENTRY: &str = "each of `channels` must be a map with a `channel`, a string";
const BAD_BEFORE: &str = "`before` must be a map with `epoch` and `seq`, both unsigned integers below 2^53, and not beside `since`";
const BAD_LIMIT: &str = "`limit` must be a whole number from 1 to 256";
const BAD_MEMBERS: &str = "`members` must be true or false";
const BAD_AFTER: &str = "`after` must be a string: the last name of the page before";
const BAD_LATEST: &str = "`latest` must be true or false";
const BAD_SINCE: &str = "`since` must be a map with `epoch` and `seq`, both unsigned integers below 2^53";
const BAD_MAX_RATE: &str = "`max_rate` must be a whole number of messages a second from 1 to 1000";
const BAD_UNREAD: &str = "`unread` must be true or false";
const BAD_UNREAD_CHANNELS: &str = "`channels` must be a list of 1 to 128 names of channels, each a string";
const BAD_SEQ: &str = "`seq` must be given, as an unsigned integer below 2^53";
const BAD_EPOCH: &str = "`epoch` must be an unsigned integer below 2^53";
const BAD_TOKEN: &str = "`token` must be given, as a string";
const BAD_IDEMPOTENCY_KEY: &str = "`idempotency_key` must be a string of 1 to 256 bytes";
const NO_DATA: &str = "`data` must be given; it may be any value, null too";

const _: () = assert!(
    COMMAND_ID_BYTES_MAX == 64
        && MAX_RATE_MAX == 1000
        && IDEMPOTENCY_KEY_BYTES_MAX == 256
        && SUBSCRIBE_CHANNELS_MAX == 128
        && UNREAD_CHANNELS_MAX == 128
        && HISTORY_MESSAGES_MAX == 256,
    "the messages above say so"
);

type Refusal = (ErrorCode, Cow<'static, str>);

fn bad(message: &'static str) -> Refusal {
    (ErrorCode::BadCommand, Cow::Borrowed(message))
}

fn not_a_map(text: bool, malformed: Malformed) -> Refusal {
    let wanted = if text { "a text message must be one JSON object" } else { "a binary message must be one MessagePack map" };
    (ErrorCode::BadCommand, Cow::Owned(format!("{wanted}: {malformed}")))
}

/// `id` was given and is none.
#[derive(Debug)]
struct NoId;

/// The fields of one command that mean something, not interpreted yet.
#[derive(Debug, Default)]
struct Fields<'a> {
    kind: Option<Spelled<'a>>,
    id: Option<Spelled<'a>>,
    channel: Option<Spelled<'a>>,
    channels: Option<Spelled<'a>>,
    data: Option<Spelled<'a>>,
    since: Option<Spelled<'a>>,
    before: Option<Spelled<'a>>,
    limit: Option<Spelled<'a>>,
    latest: Option<Spelled<'a>>,
    members: Option<Spelled<'a>>,
    after: Option<Spelled<'a>>,
    max_rate: Option<Spelled<'a>>,
    unread: Option<Spelled<'a>>,
    epoch: Option<Spelled<'a>>,
    seq: Option<Spelled<'a>>,
    token: Option<Spelled<'a>>,
    idempotency_key: Option<Spelled<'a>>,
}

impl<'a> Fields<'a> {
    fn collect(message: Spelled<'a>) -> Result<Fields<'a>, Malformed> {
        let mut fields = Fields::default();
        message.fields(&mut |key, value| match &*key {
            "type" => fields.kind = Some(value),
            "id" => fields.id = Some(value),
            "channel" => fields.channel = Some(value),
            "channels" => fields.channels = Some(value),
            "data" => fields.data = Some(value),
            "since" => fields.since = Some(value),
            "before" => fields.before = Some(value),
            "limit" => fields.limit = Some(value),
            "latest" => fields.latest = Some(value),
            "members" => fields.members = Some(value),
            "after" => fields.after = Some(value),
            "max_rate" => fields.max_rate = Some(value),
            "unread" => fields.unread = Some(value),
            "epoch" => fields.epoch = Some(value),
            "seq" => fields.seq = Some(value),
            "token" => fields.token = Some(value),
            "idempotency_key" => fields.idempotency_key = Some(value),
            _ => {}
        })?;
        Ok(fields)
    }

    fn id(&self) -> Result<Option<Id>, NoId> {
        let Some(raw) = self.id.filter(|id| !id.is_null()) else { return Ok(None) };
        id_of(raw).map(Some).ok_or(NoId)
    }

    /// `type` and `channel` for the answer to a command that is refused, where they are strings and no longer than one that is accepted
    /// may be: an answer stays small whatever it answers.
    fn echo(&self) -> (Option<Cow<'a, str>>, Option<Cow<'a, str>>) {
        let short = |raw: Option<Spelled<'a>>, bytes_max: usize| raw.and_then(Spelled::text).filter(|text| text.len() <= bytes_max);
        (short(self.kind, COMMAND_TYPE_BYTES_MAX), short(self.channel, CHANNEL_NAME_BYTES_MAX))
    }

    fn body(&self) -> Result<Body<'a>, Refusal> {
        let kind = self.kind.and_then(Spelled::text).ok_or_else(|| bad(BAD_TYPE))?;
        Ok(match &*kind {
            SUBSCRIBE => match self.channels.filter(|channels| !channels.is_null()) {
                None => Body::Subscribe { channel: self.channel()?, wish: self.wish()? },
                Some(channels) => Body::SubscribeAll { channels: self.entries(channels)? },
            },
            UNSUBSCRIBE => Body::Unsubscribe { channel: self.channel()? },
            HISTORY => Body::History { channel: self.channel()?, range: self.range()?, limit: self.limit()? },
            PRESENCE => Body::Presence { channel: self.channel()?, members: self.members()? },
            PUBLISH => Body::Publish {
                channel: self.channel()?,
                payload: self.data.ok_or_else(|| bad(NO_DATA))?.payload(),
                idempotency_key: self.idempotency_key()?,
            },
            MARK_READ => Body::MarkRead { channel: self.channel()?, epoch: self.epoch()?, seq: self.seq()? },
            UNREAD => Body::Unread { channels: self.names()? },
            REFRESH => Body::Refresh { token: self.token.and_then(Spelled::text).ok_or_else(|| bad(BAD_TOKEN))? },
            PING => Body::Ping,
            _ => return Err((ErrorCode::UnknownType, Cow::Borrowed(UNKNOWN_TYPE))),
        })
    }

    fn channel(&self) -> Result<Cow<'a, str>, Refusal> {
        let channel = self.channel.and_then(Spelled::text).ok_or_else(|| bad(BAD_CHANNEL))?;
        channel_name::check(&channel).map_err(|bad| (ErrorCode::BadChannel, Cow::Borrowed(bad.accepted())))?;
        Ok(channel)
    }

    /// Several channels. What is wrong with one is its own matter.
    fn entries(&self, channels: Spelled<'a>) -> Result<Vec<Entry<'a>>, Refusal> {
        if self.channel.is_some() {
            return Err(bad(BAD_CHANNELS));
        }
        let (mut entries, mut count) = (Vec::new(), 0);
        let is_list = channels.elements(&mut |entry| {
            count += 1;
            if count <= SUBSCRIBE_CHANNELS_MAX {
                entries.push(Fields::collect(entry).map_or_else(|_| Entry::refused(None, bad(BAD_ENTRY)), |fields| fields.entry()));
            }
        });
        match is_list {
            Ok(()) if (1..=SUBSCRIBE_CHANNELS_MAX).contains(&count) => Ok(entries),
            Ok(()) | Err(_) => Err(bad(BAD_CHANNELS)),
        }
    }

    fn entry(&self) -> Entry<'a> {
        match self.channel().and_then(|channel| Ok((channel, self.wish()?))) {
            Ok((channel, wish)) => Entry::Good { channel, wish },
            Err(refusal) => Entry::refused(self.echo().1, refusal),
        }
    }

    fn wish(&self) -> Result<Wish, Refusal> {
        Ok(Wish { begin: Begin::of(self.since()?, self.latest()?), max_rate: self.max_rate()?, unread: self.unread()? })
    }

    fn unread(&self) -> Result<bool, Refusal> {
        let Some(unread) = self.unread.filter(|unread| !unread.is_null()) else { return Ok(false) };
        unread.flag().ok_or_else(|| bad(BAD_UNREAD))
    }

    fn epoch(&self) -> Result<Option<u64>, Refusal> {
        let Some(epoch) = self.epoch.filter(|epoch| !epoch.is_null()) else { return Ok(None) };
        in_range(epoch.unsigned()).map(Some).ok_or_else(|| bad(BAD_EPOCH))
    }

    fn seq(&self) -> Result<u64, Refusal> {
        in_range(self.seq.and_then(Spelled::unsigned)).ok_or_else(|| bad(BAD_SEQ))
    }

    /// Several channels, of which nothing is said but their names. One that is none is the fault of the whole.
    fn names(&self) -> Result<Vec<Cow<'a, str>>, Refusal> {
        let (mut names, mut count, mut refusal) = (Vec::new(), 0, None);
        let is_list = self.channels.ok_or_else(|| bad(BAD_UNREAD_CHANNELS))?.elements(&mut |element| {
            count += 1;
            if count > UNREAD_CHANNELS_MAX || refusal.is_some() {
                return;
            }
            match element.text().map(|name| (channel_name::check(&name), name)) {
                Some((Ok(()), name)) => names.push(name),
                Some((Err(bad), _)) => refusal = Some((ErrorCode::BadChannel, Cow::Borrowed(bad.accepted()))),
                None => refusal = Some(bad(BAD_UNREAD_CHANNELS)),
            }
        });
        match (is_list, refusal) {
            (Ok(()), Some(refusal)) if count <= UNREAD_CHANNELS_MAX => Err(refusal),
            (Ok(()), None) if (1..=UNREAD_CHANNELS_MAX).contains(&count) => Ok(names),
            (Ok(()) | Err(_), _) => Err(bad(BAD_UNREAD_CHANNELS)),
        }
    }

    fn latest(&self) -> Result<bool, Refusal> {
        let Some(latest) = self.latest.filter(|latest| !latest.is_null()) else { return Ok(false) };
        latest.flag().ok_or_else(|| bad(BAD_LATEST))
    }

    fn max_rate(&self) -> Result<Option<u16>, Refusal> {
        let Some(rate) = self.max_rate.filter(|rate| !rate.is_null()) else { return Ok(None) };
        let rate = rate.unsigned().and_then(|rate| u16::try_from(rate).ok());
        rate.filter(|rate| (1..=MAX_RATE_MAX).contains(rate)).map(Some).ok_or_else(|| bad(BAD_MAX_RATE))
    }

    fn idempotency_key(&self) -> Result<Option<Cow<'a, str>>, Refusal> {
        let Some(key) = self.idempotency_key.filter(|key| !key.is_null()) else { return Ok(None) };
        let key = key.text().filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()));
        key.map(Some).ok_or_else(|| bad(BAD_IDEMPOTENCY_KEY))
    }

    fn range(&self) -> Result<HistoryRange, Refusal> {
        match (self.since()?, position(self.before, BAD_BEFORE)?) {
            (None, None) => Ok(HistoryRange::Newest),
            (Some(since), None) => Ok(HistoryRange::After(since)),
            (None, Some(before)) => Ok(HistoryRange::Before(before)),
            (Some(_), Some(_)) => Err(bad(BAD_BEFORE)),
        }
    }

    fn members(&self) -> Result<Option<MemberRange<'a>>, Refusal> {
        let Some(members) = self.members.filter(|members| !members.is_null()) else { return Ok(None) };
        if !members.flag().ok_or_else(|| bad(BAD_MEMBERS))? {
            return Ok(None);
        }
        let after = self.after.filter(|after| !after.is_null()).map(|after| after.text().ok_or_else(|| bad(BAD_AFTER))).transpose()?;
        Ok(Some(MemberRange { after, limit: self.limit()? }))
    }

    fn limit(&self) -> Result<usize, Refusal> {
        let Some(limit) = self.limit.filter(|limit| !limit.is_null()) else { return Ok(HISTORY_MESSAGES_DEFAULT) };
        let limit = limit.unsigned().and_then(|limit| usize::try_from(limit).ok());
        limit.filter(|limit| (1..=HISTORY_MESSAGES_MAX).contains(limit)).ok_or_else(|| bad(BAD_LIMIT))
    }

    fn since(&self) -> Result<Option<Position>, Refusal> {
        position(self.since, BAD_SINCE)
    }
}

/// None: it is not given.
fn position(raw: Option<Spelled<'_>>, message: &'static str) -> Result<Option<Position>, Refusal> {
    let Some(raw) = raw.filter(|raw| !raw.is_null()) else { return Ok(None) };
    let (mut epoch, mut seq) = (None, None);
    let complete = raw.fields(&mut |key, value| match &*key {
        "epoch" => epoch = value.unsigned(),
        "seq" => seq = value.unsigned(),
        _ => {}
    });
    match (complete, in_range(epoch), in_range(seq)) {
        (Ok(()), Some(epoch), Some(seq)) => Ok(Some(Position { epoch, seq })),
        _ => Err(bad(message)),
    }
}

fn in_range(number: Option<u64>) -> Option<u64> {
    number.filter(|&number| number <= json::INTEGER_MAX)
}

impl Entry<'_> {
    fn refused(channel: Option<Cow<'_, str>>, (code, message): Refusal) -> Entry<'_> {
        Entry::Bad { channel, code, message }
    }
}

/// None: it is neither a number nor a short string.
fn id_of(raw: Spelled<'_>) -> Option<Id> {
    match raw.text() {
        Some(text) => (text.len() <= COMMAND_ID_BYTES_MAX).then(|| Id::Text(text.into())),
        None => raw.unsigned().map(Id::Number),
    }
}

#[cfg(test)]
mod tests;
