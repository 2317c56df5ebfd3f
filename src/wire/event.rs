//! Server events, in MessagePack or JSON, framed.
//!
//! Called by the shard for replies and by [`crate::fanout::batch`] for gaps. An event is first listed as fields, then
//! spelled, so the two formats cannot drift apart; nothing is allocated but the output, because `connected` and
//! `subscribed` are written once per socket when 100,000 of them come back at the same time.

use smallvec::SmallVec;

use super::command::{Asked, ErrorCode, Id, Position};
use super::framing::{Caption, Encoding};
use super::history::{self, Message};
use super::poll::Standing;
use super::{Format, json, msgpack};
use crate::named::named;

named! {
    /// Why messages of a channel do not come.
    GapReason {
        /// The subscriber was too slow and the channel's policy skipped for it.
        Overrun = "overrun",
        /// The bus was away; how many messages it would have brought is not known, one number stands for them.
        Outage = "outage",
        /// The server could not keep up with the bus.
        Inbox = "inbox",
        /// Asked for with `since`, but no longer kept.
        Expired = "expired",
        /// The server did not take the message: it is larger than `payload_bytes_max`.
        Dropped = "dropped",
        /// The bus does not let the server have the channel any more: whatever comes is lost until an operator changes that.
        Refused = "refused",
        /// The subscription wants no more than so many messages a second, and these were not the newest.
        MaxRate = "max_rate",
        /// The channel has more to deliver than its budget allows.
        Budget = "budget",
    }
}

/// A page of the users who are subscribed to a channel.
#[derive(Debug, Clone, Copy)]
pub struct Members<'a> {
    pub users: &'a [Box<str>],
    /// There are more behind them.
    pub has_more: bool,
    /// There are others, whom nobody lists.
    pub is_partial: bool,
}

/// Everything but `notification`, which is written by [`super::payload::encode_notification`].
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Connected {
        client_id: &'a str,
        heartbeat_seconds: u64,
    },
    Subscribed {
        id: Option<&'a Id>,
        channel: &'a str,
        epoch: u64,
        seq: u64,
        recovered: bool,
        /// Messages a second, where there are no more.
        max_rate: Option<u16>,
        /// Messages that the user has not read, where that was asked for.
        unread: Option<u64>,
    },
    /// `reason`: why the server ended the subscription by itself.
    Unsubscribed {
        id: Option<&'a Id>,
        channel: &'a str,
        reason: Option<&'a str>,
    },
    History {
        id: Option<&'a Id>,
        channel: &'a str,
        epoch: Option<u64>,
        /// Of messages after a position.
        recovered: Option<bool>,
        messages: &'a [Message<'a>],
        has_more: bool,
    },
    /// How many there are, over all nodes.
    Presence {
        id: Option<&'a Id>,
        channel: &'a str,
        subscribers: u64,
        /// Who they are, if that was asked.
        members: Option<Members<'a>>,
    },
    Published {
        id: Option<&'a Id>,
        channel: &'a str,
        seq: Option<u64>,
        /// It was published before, with the same idempotency key.
        is_repeat: bool,
    },
    /// How far the user has read a channel: in answer to a mark, or because another of its connections has set one.
    Read {
        id: Option<&'a Id>,
        channel: &'a str,
        /// None: nothing is known of it.
        epoch: Option<u64>,
        seq: u64,
    },
    Unread {
        id: Option<&'a Id>,
        channels: &'a [UnreadOf<'a>],
    },
    Pong {
        id: Option<&'a Id>,
    },
    Refreshed {
        id: Option<&'a Id>,
        expires_ms: u64,
    },
    Expiring {
        expires_ms: u64,
    },
    Gap {
        channel: &'a str,
        from: u64,
        to: u64,
        reason: GapReason,
    },
    Error {
        asked: Asked<'a>,
        code: ErrorCode,
        message: &'a str,
    },
    /// Where whoever polls stands now.
    Position {
        channels: &'a [Standing<'a>],
    },
    /// Why there will be no more, for whoever is told by no close frame.
    Close {
        code: u16,
        reason: &'a str,
    },
}

/// What a user has not read of a channel.
#[derive(Debug, Clone, Copy)]
pub struct UnreadOf<'a> {
    pub channel: &'a str,
    /// None: nothing is known of it.
    pub epoch: Option<u64>,
    /// The number of the newest message.
    pub last: u64,
    /// How far it has read.
    pub read: u64,
    /// Messages after that which are still kept.
    pub unread: u64,
}

named! {
    /// Every value of `type` that a client can receive.
    EventType {
        Connected = "connected",
        Subscribed = "subscribed",
        Unsubscribed = "unsubscribed",
        History = "history",
        Presence = "presence",
        Published = "published",
        Read = "read",
        Unread = "unread",
        Pong = "pong",
        Refreshed = "refreshed",
        Expiring = "expiring",
        Gap = "gap",
        Error = "error",
        Position = "position",
        Close = "close",
        Notification = "notification",
    }
}

impl Event<'_> {
    pub const fn event_type(&self) -> EventType {
        match self {
            Event::Connected { .. } => EventType::Connected,
            Event::Subscribed { .. } => EventType::Subscribed,
            Event::Unsubscribed { .. } => EventType::Unsubscribed,
            Event::History { .. } => EventType::History,
            Event::Presence { .. } => EventType::Presence,
            Event::Published { .. } => EventType::Published,
            Event::Read { .. } => EventType::Read,
            Event::Unread { .. } => EventType::Unread,
            Event::Pong { .. } => EventType::Pong,
            Event::Refreshed { .. } => EventType::Refreshed,
            Event::Expiring { .. } => EventType::Expiring,
            Event::Gap { .. } => EventType::Gap,
            Event::Error { .. } => EventType::Error,
            Event::Position { .. } => EventType::Position,
            Event::Close { .. } => EventType::Close,
        }
    }

    /// Where in its channel a client stands that has got it.
    fn position(&self) -> Option<Position> {
        match *self {
            Event::Subscribed { epoch, seq, .. } => Some(Position { epoch, seq }),
            _ => None,
        }
    }
}

/// Appends the event: binary for MessagePack, text for JSON, nothing for raw.
/// Field order: `type`, `id` when given, then as declared, then `timestamp` (Unix ms) for connected, subscribed, unsubscribed.
pub fn encode(event: &Event<'_>, encoding: Encoding, timestamp_ms: u64, out: &mut Vec<u8>) {
    encode_at(event, event.position(), encoding, timestamp_ms, out);
}

/// The same of an event that stands at a position of its channel.
pub fn encode_at(event: &Event<'_>, position: Option<Position>, encoding: Encoding, timestamp_ms: u64, out: &mut Vec<u8>) {
    let fields = fields(event, timestamp_ms);
    let Encoding { format, framing } = encoding;
    let caption = Caption { event: Some(event.event_type().name()), position };
    match format {
        Format::Msgpack => framing.write(out, caption, false, BODY_BYTES_GUESS, |out| write_msgpack(&fields, out)),
        Format::Json => framing.write(out, caption, true, BODY_BYTES_GUESS, |out| write_json(&fields, out)),
        Format::Raw => {}
    }
}

/// Most events are this long or shorter, and so keep the two-byte header that is written first.
const BODY_BYTES_GUESS: usize = 100;

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Number(u64),
    Flag(bool),
    Messages(&'a [Message<'a>]),
    Unread(&'a [UnreadOf<'a>]),
    Standings(&'a [Standing<'a>]),
    Texts(&'a [Box<str>]),
}

/// `error` has six fields, `subscribed` with an id seven, and one more each where it has a rate or a count of what is unread.
type Fields<'a> = SmallVec<[(&'static str, Value<'a>); 9]>;

fn fields<'a>(event: &Event<'a>, timestamp_ms: u64) -> Fields<'a> {
    let mut fields = Fields::new();
    fields.push(("type", Value::Text(event.event_type().name())));
    match *event {
        Event::Connected { client_id, heartbeat_seconds } => {
            fields.push(("client_id", Value::Text(client_id)));
            fields.push(("heartbeat", Value::Number(heartbeat_seconds)));
            fields.push(("timestamp", Value::Number(timestamp_ms)));
        }
        Event::Subscribed { id, channel, epoch, seq, recovered, max_rate, unread } => {
            fields.extend(id_field(id));
            fields.push(("channel", Value::Text(channel)));
            fields.push(("epoch", Value::Number(epoch)));
            fields.push(("seq", Value::Number(seq)));
            fields.push(("recovered", Value::Flag(recovered)));
            fields.extend(max_rate.map(|rate| ("max_rate", Value::Number(rate.into()))));
            fields.extend(unread.map(|unread| ("unread", Value::Number(unread))));
            fields.push(("timestamp", Value::Number(timestamp_ms)));
        }
        Event::Unsubscribed { id, channel, reason } => {
            fields.extend(id_field(id));
            fields.push(("channel", Value::Text(channel)));
            fields.extend(reason.map(|reason| ("reason", Value::Text(reason))));
            fields.push(("timestamp", Value::Number(timestamp_ms)));
        }
        Event::History { id, channel, epoch, recovered, messages, has_more } => {
            fields.extend(id_field(id));
            fields.push(("channel", Value::Text(channel)));
            fields.extend(epoch.map(|epoch| ("epoch", Value::Number(epoch))));
            fields.extend(recovered.map(|recovered| ("recovered", Value::Flag(recovered))));
            fields.push(("messages", Value::Messages(messages)));
            fields.push(("more", Value::Flag(has_more)));
        }
        Event::Presence { id, channel, subscribers, members } => {
            fields.extend(id_field(id));
            fields.push(("channel", Value::Text(channel)));
            fields.push(("subscribers", Value::Number(subscribers)));
            if let Some(Members { users, has_more, is_partial }) = members {
                fields.push(("members", Value::Texts(users)));
                fields.push(("more", Value::Flag(has_more)));
                fields.extend(is_partial.then_some(("partial", Value::Flag(true))));
            }
        }
        Event::Published { id, channel, seq, is_repeat } => {
            fields.extend(id_field(id));
            fields.push(("channel", Value::Text(channel)));
            fields.extend(seq.map(|seq| ("seq", Value::Number(seq))));
            fields.extend(is_repeat.then_some(("repeated", Value::Flag(true))));
        }
        Event::Read { id, channel, epoch, seq } => {
            fields.extend(id_field(id));
            fields.push(("channel", Value::Text(channel)));
            fields.extend(epoch.map(|epoch| ("epoch", Value::Number(epoch))));
            fields.push(("seq", Value::Number(seq)));
        }
        Event::Unread { id, channels } => {
            fields.extend(id_field(id));
            fields.push(("channels", Value::Unread(channels)));
        }
        Event::Pong { id } => fields.extend(id_field(id)),
        Event::Refreshed { id, expires_ms } => {
            fields.extend(id_field(id));
            fields.push(("expires", Value::Number(expires_ms)));
        }
        Event::Expiring { expires_ms } => fields.push(("expires", Value::Number(expires_ms))),
        Event::Gap { channel, from, to, reason } => {
            fields.push(("channel", Value::Text(channel)));
            fields.push(("from", Value::Number(from)));
            fields.push(("to", Value::Number(to)));
            fields.push(("reason", Value::Text(reason.name())));
        }
        Event::Error { asked, code, message } => {
            fields.extend(id_field(asked.id));
            fields.extend(asked.command.map(|command| ("command", Value::Text(command))));
            fields.extend(asked.channel.map(|channel| ("channel", Value::Text(channel))));
            fields.push(("code", Value::Text(code.name())));
            fields.push(("message", Value::Text(message)));
        }
        Event::Position { channels } => fields.push(("channels", Value::Standings(channels))),
        Event::Close { code, reason } => {
            fields.push(("code", Value::Number(code.into())));
            fields.push(("reason", Value::Text(reason)));
        }
    }
    fields
}

fn standing_fields<'a>(of: &Standing<'a>) -> Fields<'a> {
    let mut fields = Fields::new();
    fields.push(("channel", Value::Text(of.channel)));
    fields.extend([("epoch", Value::Number(of.position.epoch)), ("seq", Value::Number(of.position.seq))]);
    fields
}

fn unread_fields<'a>(of: &UnreadOf<'a>) -> Fields<'a> {
    let mut fields = Fields::new();
    fields.push(("channel", Value::Text(of.channel)));
    fields.extend(of.epoch.map(|epoch| ("epoch", Value::Number(epoch))));
    fields.extend([("last", Value::Number(of.last)), ("read", Value::Number(of.read)), ("unread", Value::Number(of.unread))]);
    fields
}

fn id_field(id: Option<&Id>) -> Option<(&'static str, Value<'_>)> {
    id.map(|id| match id {
        Id::Number(number) => ("id", Value::Number(*number)),
        Id::Text(text) => ("id", Value::Text(text)),
    })
}

fn write_msgpack(fields: &Fields<'_>, out: &mut Vec<u8>) {
    rmp::encode::write_map_len(out, fields.len() as u32).expect("a Vec takes every write");
    for (key, value) in fields {
        msgpack::write_str(out, key);
        match *value {
            Value::Text(text) => msgpack::write_str(out, text),
            Value::Number(number) => msgpack::write_uint(out, number),
            Value::Flag(flag) => msgpack::write_bool(out, flag),
            Value::Messages(messages) => history::write_msgpack(messages, out),
            Value::Unread(channels) => {
                rmp::encode::write_array_len(out, channels.len() as u32).expect("a Vec takes every write");
                channels.iter().for_each(|of| write_msgpack(&unread_fields(of), out));
            }
            Value::Standings(standings) => {
                rmp::encode::write_array_len(out, standings.len() as u32).expect("a Vec takes every write");
                standings.iter().for_each(|of| write_msgpack(&standing_fields(of), out));
            }
            Value::Texts(texts) => {
                rmp::encode::write_array_len(out, texts.len() as u32).expect("a Vec takes every write");
                texts.iter().for_each(|text| msgpack::write_str(out, text));
            }
        }
    }
}

fn write_json(fields: &Fields<'_>, out: &mut Vec<u8>) {
    for (index, (key, value)) in fields.iter().enumerate() {
        // Keys are ours: no character of them needs an escape.
        out.extend_from_slice(if index == 0 { b"{\"" } else { b",\"" });
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\":");
        match *value {
            Value::Text(text) => json::write_str(out, text),
            Value::Number(number) => json::write_uint(out, number),
            Value::Flag(flag) => json::write_bool(out, flag),
            Value::Messages(messages) => history::write_json(messages, out),
            Value::Unread(channels) => write_list(channels, out, |of, out| write_json(&unread_fields(of), out)),
            Value::Standings(standings) => write_list(standings, out, |of, out| write_json(&standing_fields(of), out)),
            Value::Texts(texts) => write_list(texts, out, |text, out| json::write_str(out, text)),
        }
    }
    out.push(b'}');
}

fn write_list<T>(list: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (place, element) in list.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(element, out);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::frame::Opcode;
    use super::super::framing::tests::split_frame;
    use super::*;

    fn decoded(event: &Event<'_>, format: Format) -> Json {
        // Something stands before it: an event is appended, never written from the start.
        let mut out = b"before".to_vec();
        encode(event, Encoding::web_socket(format), 1_700_000_000_000, &mut out);
        let (opcode, body, rest) = split_frame(&out[6..]);
        assert_eq!((&out[..6], rest), (&b"before"[..], &b""[..]));
        match format {
            Format::Msgpack => {
                assert_eq!(opcode, Opcode::Binary as u8);
                msgpack::check(body).unwrap();
                rmp_serde::from_slice(body).unwrap()
            }
            Format::Json => {
                assert_eq!(opcode, Opcode::Text as u8);
                serde_json::from_slice(body).unwrap()
            }
            Format::Raw => unreachable!(),
        }
    }

    #[test]
    fn every_event_decodes_back() {
        let (number, text) = (Id::Number(u64::MAX), Id::Text("a\"\n".into()));
        let timestamp = 1_700_000_000_000u64;
        let subscribed =
            |id| Event::Subscribed {
                id, channel: "user:é\"", epoch: (1 << 53) - 1, seq: 0, recovered: true, max_rate: None, unread: None
            };
        let unread = [
            UnreadOf { channel: "a\n", epoch: Some(5), last: 9, read: 7, unread: 2 },
            UnreadOf { channel: "b", epoch: None, last: 0, read: 0, unread: 0 },
        ];
        let error = |asked| Event::Error { asked, code: ErrorCode::BadChannel, message: "a \"b\"" };
        for (event, expected) in [
            (
                Event::Connected { client_id: "c-1", heartbeat_seconds: 30 },
                json!({"type": "connected", "client_id": "c-1", "heartbeat": 30, "timestamp": timestamp}),
            ),
            (
                subscribed(Some(&text)),
                json!({"type": "subscribed", "id": "a\"\n", "channel": "user:é\"", "epoch": 9007199254740991u64, "seq": 0,
                    "recovered": true, "timestamp": timestamp}),
            ),
            (
                subscribed(None),
                json!({"type": "subscribed", "channel": "user:é\"", "epoch": 9007199254740991u64, "seq": 0, "recovered": true,
                    "timestamp": timestamp}),
            ),
            (
                Event::Unsubscribed { id: Some(&number), channel: "a", reason: None },
                json!({"type": "unsubscribed", "id": u64::MAX, "channel": "a", "timestamp": timestamp}),
            ),
            (
                Event::Published { id: None, channel: "a", seq: Some(5), is_repeat: false },
                json!({"type": "published", "channel": "a", "seq": 5}),
            ),
            (Event::Published { id: None, channel: "a", seq: None, is_repeat: false }, json!({"type": "published", "channel": "a"})),
            (
                Event::Read { id: Some(&number), channel: "a\"", epoch: Some(5), seq: 7 },
                json!({"type": "read", "id": u64::MAX, "channel": "a\"", "epoch": 5, "seq": 7}),
            ),
            (Event::Read { id: None, channel: "a", epoch: None, seq: 0 }, json!({"type": "read", "channel": "a", "seq": 0})),
            (
                Event::Unread { id: None, channels: &unread },
                json!({"type": "unread", "channels": [{"channel": "a\n", "epoch": 5, "last": 9, "read": 7, "unread": 2},
                    {"channel": "b", "last": 0, "read": 0, "unread": 0}]}),
            ),
            (Event::Unread { id: None, channels: &[] }, json!({"type": "unread", "channels": []})),
            (
                Event::Presence { id: Some(&number), channel: "a", subscribers: 70_000, members: None },
                json!({"type": "presence", "id": u64::MAX, "channel": "a", "subscribers": 70_000}),
            ),
            (
                Event::Presence {
                    id: None,
                    channel: "a",
                    subscribers: 3,
                    members: Some(Members { users: &["ann".into(), "b\"ö".into()], has_more: true, is_partial: true }),
                },
                json!({"type": "presence", "channel": "a", "subscribers": 3, "members": ["ann", "b\"ö"], "more": true, "partial": true}),
            ),
            (
                Event::Presence {
                    id: None,
                    channel: "a",
                    subscribers: 0,
                    members: Some(Members { users: &[], has_more: false, is_partial: false }),
                },
                json!({"type": "presence", "channel": "a", "subscribers": 0, "members": [], "more": false}),
            ),
            (Event::Pong { id: None }, json!({"type": "pong"})),
            (Event::Pong { id: Some(&number) }, json!({"type": "pong", "id": u64::MAX})),
            (
                Event::Refreshed { id: Some(&number), expires_ms: timestamp },
                json!({"type": "refreshed", "id": u64::MAX, "expires": timestamp}),
            ),
            (Event::Expiring { expires_ms: timestamp }, json!({"type": "expiring", "expires": timestamp})),
            (
                Event::Gap { channel: "a", from: 1, to: 70_000, reason: GapReason::Inbox },
                json!({"type": "gap", "channel": "a", "from": 1, "to": 70_000, "reason": "inbox"}),
            ),
            (
                error(Asked::of("subscribe", "a\n", Some(&text))),
                json!({"type": "error", "id": "a\"\n", "command": "subscribe", "channel": "a\n", "code": "bad_channel",
                    "message": "a \"b\""}),
            ),
            (
                error(Asked { command: Some("x"), ..Asked::default() }),
                json!({"type": "error", "command": "x", "code": "bad_channel", "message": "a \"b\""}),
            ),
            (error(Asked::default()), json!({"type": "error", "code": "bad_channel", "message": "a \"b\""})),
        ] {
            assert_eq!(decoded(&event, Format::Msgpack), expected);
            assert_eq!(decoded(&event, Format::Json), expected);
            let mut out = Vec::new();
            encode(&event, Encoding::web_socket(Format::Raw), timestamp, &mut out);
            assert!(out.is_empty());
        }
    }

    #[test]
    fn fields_stand_in_the_documented_order() {
        let mut out = Vec::new();
        let id = Id::Number(1);
        let subscribed =
            Event::Subscribed { id: Some(&id), channel: "a", epoch: 2, seq: 3, recovered: false, max_rate: Some(5), unread: Some(6) };
        encode(&subscribed, Encoding::web_socket(Format::Json), 4, &mut out);
        let expected =
            br#"{"type":"subscribed","id":1,"channel":"a","epoch":2,"seq":3,"recovered":false,"max_rate":5,"unread":6,"timestamp":4}"#;
        assert_eq!(&out[2..], expected);
    }

    #[test]
    fn every_header_size_is_right() {
        for len in (0..300).chain(65_400..65_600) {
            let message = "m".repeat(len);
            let event = Event::Error { asked: Asked::default(), code: ErrorCode::Busy, message: &message };
            assert_eq!(decoded(&event, Format::Json)["message"], message);
            assert_eq!(decoded(&event, Format::Msgpack)["message"], message);
        }
    }

    #[test]
    fn the_fields_of_an_event_need_no_heap() {
        let id = Id::Number(1);
        let longest =
            Event::Subscribed { id: Some(&id), channel: "a", epoch: 2, seq: 3, recovered: false, max_rate: Some(5), unread: Some(6) };
        assert!(!fields(&longest, 0).spilled());
    }
}
