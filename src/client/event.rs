//! What a server says: section 5 of `docs/protocol.md`, as values, and as one line of JSON however it was sent. Called by [`super::Client`].

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::named::Named;
use crate::wire::Format;
use crate::wire::command::ErrorCode;

/// One event.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    Connected(Connected),
    Subscribed(Subscribed),
    Unsubscribed(Unsubscribed),
    Notification(Notification),
    Gap(Gap),
    Error(Error),
    /// Where each channel stands. Event streams and polls have it; it is not handed on.
    Position(Vec<Standing>),
    /// The last event of a connection that is no WebSocket. It is not handed on.
    Close(Close),
    /// Of another type, or of a server that is newer.
    Other {
        kind: String,
    },
}

/// The first event of a connection.
#[derive(Debug, Clone, Deserialize)]
pub struct Connected {
    #[serde(default)]
    pub client_id: String,
    /// Seconds between the signs of life of a silent connection.
    #[serde(default)]
    pub heartbeat: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Subscribed {
    pub channel: String,
    #[serde(default)]
    pub epoch: u64,
    #[serde(default)]
    pub seq: u64,
    #[serde(default)]
    pub recovered: bool,
    #[serde(default)]
    pub max_rate: Option<u16>,
    #[serde(default)]
    pub unread: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Unsubscribed {
    pub channel: String,
    /// Why the server has ended it by itself.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A message.
#[derive(Debug, Clone, Deserialize)]
pub struct Notification {
    pub channel: String,
    /// None: it was published past the channel's stream, and has no number.
    #[serde(default)]
    pub seq: Option<u64>,
    /// The payload, in JSON. Bytes are a base64 string, and `encoding` says so.
    #[serde(default = "null")]
    pub data: Box<RawValue>,
    #[serde(default)]
    pub encoding: Option<String>,
    /// When the server received it, Unix milliseconds.
    #[serde(default)]
    pub timestamp: u64,
}

fn null() -> Box<RawValue> {
    RawValue::from_string("null".to_owned()).expect("it is JSON")
}

/// Numbers that will not come.
#[derive(Debug, Clone, Deserialize)]
pub struct Gap {
    pub channel: String,
    #[serde(default)]
    pub from: u64,
    #[serde(default)]
    pub to: u64,
    #[serde(default)]
    pub reason: String,
}

/// What was asked for is not done.
#[derive(Debug, Clone, Deserialize)]
pub struct Error {
    #[serde(default)]
    pub channel: Option<String>,
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub message: String,
}

impl Error {
    /// The same may come through on another connection.
    pub fn is_for_now(&self) -> bool {
        use ErrorCode::{BusUnavailable, Busy, RateLimited, TooManyChannels};
        matches!(ErrorCode::from_name(&self.code), Some(BusUnavailable | Busy | RateLimited | TooManyChannels))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = self.channel.as_ref().map_or(String::new(), |channel| format!(" for {channel}"));
        write!(out, "the server says {}{about}: {}", self.code, self.message)
    }
}

/// A channel's place.
#[derive(Debug, Clone, Deserialize)]
pub struct Standing {
    pub channel: String,
    pub epoch: u64,
    pub seq: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Close {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub reason: String,
}

/// An event as it came, and as one line of JSON.
#[derive(Debug, Clone)]
pub struct Received {
    pub event: Event,
    pub line: String,
}

#[derive(Deserialize)]
struct Kind {
    r#type: String,
}

#[derive(Deserialize)]
struct Standings {
    channels: Vec<Standing>,
}

impl Received {
    /// Reads one event, or says what it is instead.
    pub(super) fn read(format: Format, message: &[u8]) -> Result<Received, String> {
        let line = line(format, message)?;
        let event = event(&line).map_err(|_| format!("not understood: {}", line.chars().take(200).collect::<String>()))?;
        Ok(Received { event, line })
    }
}

fn event(line: &str) -> Result<Event, serde_json::Error> {
    fn of<T: DeserializeOwned>(line: &str, event: fn(T) -> Event) -> Result<Event, serde_json::Error> {
        serde_json::from_str(line).map(event)
    }
    let Kind { r#type: kind } = serde_json::from_str(line)?;
    match kind.as_str() {
        "connected" => of(line, Event::Connected),
        "subscribed" => of(line, Event::Subscribed),
        "unsubscribed" => of(line, Event::Unsubscribed),
        "notification" => of(line, Event::Notification),
        "gap" => of(line, Event::Gap),
        "error" => of(line, Event::Error),
        "position" => of(line, |Standings { channels }| Event::Position(channels)),
        "close" => of(line, Event::Close),
        // Newer servers may say more.
        _ => Ok(Event::Other { kind }),
    }
}

/// An event as one line of JSON. JSON events stay as they were sent, but for the line breaks that a publisher's JSON may hold between
/// values (inside strings they are escaped).
fn line(format: Format, message: &[u8]) -> Result<String, String> {
    match format {
        Format::Json | Format::Raw => Ok(String::from_utf8_lossy(message).replace(['\n', '\r'], " ")),
        Format::Msgpack => {
            let Any { value: mut event, .. } = rmp_serde::from_slice(message).map_err(|error| format!("not MessagePack: {error}"))?;
            if let Ok(BytesData { data: Any { is_bytes: true, .. } }) = rmp_serde::from_slice(message)
                && let Value::Object(fields) = &mut event
            {
                fields.insert("encoding".to_owned(), "base64".into());
            }
            Ok(event.to_string())
        }
    }
}
/// Only to see whether `data` is bytes.
#[derive(Deserialize)]
struct BytesData {
    data: Any,
}

/// Any MessagePack value as JSON: bytes as base64, keys as text.
struct Any {
    value: Value,
    is_bytes: bool,
}

impl From<Value> for Any {
    fn from(value: Value) -> Any {
        Any { value, is_bytes: false }
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Any, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a MessagePack value")
    }
    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Value::Null.into())
    }
    fn visit_bool<E>(self, on: bool) -> Result<Any, E> {
        Ok(Value::from(on).into())
    }
    fn visit_i64<E>(self, number: i64) -> Result<Any, E> {
        Ok(Value::from(number).into())
    }
    fn visit_u64<E>(self, number: u64) -> Result<Any, E> {
        Ok(Value::from(number).into())
    }
    fn visit_f64<E>(self, number: f64) -> Result<Any, E> {
        // JSON has no NaN and no infinity; they become null.
        Ok(Value::from(number).into())
    }
    fn visit_str<E>(self, text: &str) -> Result<Any, E> {
        Ok(Value::from(text).into())
    }
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Any, E> {
        Ok(Any { value: STANDARD.encode(bytes).into(), is_bytes: true })
    }
    /// An extension value: its type and its bytes.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Any, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Any, A::Error> {
        let mut array = Vec::new();
        while let Some(Any { value, .. }) = items.next_element()? {
            array.push(value);
        }
        Ok(Value::Array(array).into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Any, A::Error> {
        let mut object = Map::new();
        while let Some((Any { value: key, .. }, Any { value, .. })) = entries.next_entry()? {
            object.insert(key.as_str().map_or_else(|| key.to_string(), str::to_owned), value);
        }
        Ok(Value::Object(object).into())
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(line(Format::Json, b"{\"data\":{\n \"a\": \"x\\ny\"}}").unwrap(), r#"{"data":{  "a": "x\ny"}}"#);
    }

    #[test]
    fn events_are_values() {
        let event = |line: &str| Received::read(Format::Json, line.as_bytes()).map(|received| received.event);
        let Ok(Event::Notification(notification)) =
            event(r#"{"type":"notification","channel":"a","seq":11,"data":{"type":"x", "n": 1.0},"timestamp":5}"#)
        else {
            panic!()
        };
        assert_eq!((notification.data.get(), notification.seq, notification.timestamp), (r#"{"type":"x", "n": 1.0}"#, Some(11), 5));
        let Ok(Event::Notification(bare)) = event(r#"{"channel":"a","type":"notification","seq":null,"later":{}}"#) else { panic!() };
        assert_eq!((bare.data.get(), bare.seq), ("null", None));
        for (code, is_for_now) in [("busy", true), ("bus_unavailable", true), ("bad_channel", false), ("of_tomorrow", false)] {
            let Ok(Event::Error(error)) = event(&format!(r#"{{"type":"error","code":"{code}","message":"m","id":1}}"#)) else { panic!() };
            assert_eq!(error.is_for_now(), is_for_now, "{code}");
        }
        assert!(matches!(event(r#"{"type":"something_new","channel":5}"#), Ok(Event::Other { kind }) if kind == "something_new"));
        for line in ["no json", r#"{"type":5}"#, "[]", "", r#"{"type":"gap"}"#, r#"{"type":"subscribed","channel":"a","seq":-1}"#] {
            assert!(event(line).unwrap_err().starts_with("not understood"), "{line}");
        }
    }

    /// Whatever a server may say by the protocol is understood, in both spellings.
    #[test]
    fn every_vector_of_an_event_is_read() {
        let page = include_str!("../../docs/protocol.md");
        let mut count = 0;
        for block in page.split("```text\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let field = |name: &str| {
                let rest = block.lines().skip_while(|line| !line.starts_with(name));
                let first = rest.clone().next()?.strip_prefix(name)?.trim().to_owned();
                Some(rest.skip(1).take_while(|line| line.starts_with("  ")).fold(first, |all, line| all + " " + line.trim()))
            };
            if !block.starts_with("vector: event/") {
                continue;
            }
            let (Some(json), Some(hex)) = (field("json:"), field("msgpack:")) else { continue };
            let bytes: Vec<u8> = hex.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
            let (text, packed) = (Received::read(Format::Json, json.as_bytes()), Received::read(Format::Msgpack, &bytes));
            let (text, packed) = (text.unwrap(), packed.unwrap());
            let value = |line: &str| serde_json::from_str::<Value>(line).unwrap();
            assert_eq!(value(&text.line), value(&packed.line), "{json}");
            assert_eq!(std::mem::discriminant(&text.event), std::mem::discriminant(&packed.event), "{json}");
            count += 1;
        }
        assert!(count >= 20, "only {count} vectors were found");
    }

    #[test]
    fn msgpack_events_are_told_as_json() {
        #[derive(Serialize)]
        struct Event<'a, T: Serialize> {
            channel: &'a str,
            data: T,
        }
        let event = |data: &dyn Fn(&mut Vec<u8>)| {
            // {"channel": "c", "data": …}
            let mut bytes = vec![0x82, 0xa7];
            bytes.extend_from_slice(b"channel\xa1c\xa4data");
            data(&mut bytes);
            line(Format::Msgpack, &bytes)
        };
        assert_eq!(event(&|out| out.extend([0x93, 0x01, 0xc3, 0xc0])).unwrap(), r#"{"channel":"c","data":[1,true,null]}"#);
        assert_eq!(event(&|out| out.extend([0xc4, 2, 0xff, 0x00])).unwrap(), r#"{"channel":"c","data":"/wA=","encoding":"base64"}"#);
        assert_eq!(event(&|out| out.extend([0x81, 0x05, 0xa1, b'x'])).unwrap(), r#"{"channel":"c","data":{"5":"x"}}"#);
        assert_eq!(event(&|out| out.extend([0xd4, 0x05, 0x01])).unwrap(), r#"{"channel":"c","data":[5,"AQ=="]}"#);
        assert!(event(&|_| ()).is_err());
        let named = rmp_serde::to_vec_named(&Event { channel: "c", data: 1.5 }).unwrap();
        assert_eq!(line(Format::Msgpack, &named).unwrap(), r#"{"channel":"c","data":1.5}"#);
    }
}
