//! What is remembered from one connection to the next: how far each channel was followed. Sans-IO: events in, lines and commands out.
//! Called by [`super::connection`]. Invariant: a position only moves over what has been printed.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::named::Named;
use crate::wire::Format;
use crate::wire::command::{ErrorCode, Position, SUBSCRIBE};

#[derive(Debug)]
pub struct Resume {
    channels: Vec<(String, Option<Position>)>,
    /// Messages printed; gaps do not count.
    taken: u64,
    count: Option<u64>,
}

/// What an event asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing that a reader of stdout waits for.
    Pass,
    /// Print the event.
    Print,
    /// Print the event and end.
    Last,
    /// The first event of a connection, with the seconds between its pings.
    Connected { heartbeat_seconds: u64 },
    /// Print the event, and this on stderr: what was lost before it cannot be told in numbers.
    Anew(String),
    /// For stderr.
    Say(String),
    /// The server will not do what was asked, now or later.
    Refused(String),
    /// Not now: try again on another connection.
    Later(String),
}

/// The fields of an event that matter here; everything else is passed on unread.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Head {
    r#type: String,
    channel: String,
    epoch: u64,
    /// None: a message that has no number.
    seq: Option<u64>,
    recovered: bool,
    to: u64,
    heartbeat: u64,
    code: String,
    message: String,
}

#[derive(Debug, Serialize)]
struct Subscribe<'a> {
    r#type: &'static str,
    id: u64,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Position>,
}

impl Resume {
    pub fn new(channels: Vec<String>, count: Option<u64>) -> Resume {
        Resume { channels: channels.into_iter().map(|channel| (channel, None)).collect(), taken: 0, count }
    }

    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The subscribe commands of a new connection.
    pub fn commands(&self, format: Format) -> Vec<Vec<u8>> {
        let commands = self.channels.iter().zip(1..);
        let commands = commands.map(|((channel, since), id)| Subscribe { r#type: SUBSCRIBE, id, channel, since: *since });
        commands
            .map(|command| match format {
                Format::Msgpack => rmp_serde::to_vec_named(&command).expect("texts and numbers can always be written"),
                Format::Json | Format::Raw => serde_json::to_vec(&command).expect("texts and numbers can always be written"),
            })
            .collect()
    }

    /// Takes one event as a line of JSON.
    pub fn take(&mut self, line: &str) -> Step {
        let Ok(head) = serde_json::from_str::<Head>(line) else {
            return Step::Say(format!("not understood: {}", line.chars().take(200).collect::<String>()));
        };
        let known = self.channels.iter_mut().find(|(channel, _)| *channel == head.channel).map(|(_, position)| position);
        match (head.r#type.as_str(), known) {
            ("connected", _) => Step::Connected { heartbeat_seconds: head.heartbeat },
            ("subscribed", Some(position)) => {
                let seq = head.seq.unwrap_or_default();
                // What was missed comes after this event, so a recovered channel stands where it stood.
                let before = *position;
                if !head.recovered || position.is_none() {
                    *position = Some(Position { epoch: head.epoch, seq });
                }
                let text = format!("subscribed to {} at {seq}", head.channel);
                match before {
                    None => Step::Say(text),
                    Some(_) if head.recovered => Step::Say(text + ", going on where it was"),
                    // The server follows with a gap.
                    Some(before) if before.epoch == head.epoch && before.seq <= seq => {
                        Step::Say(text + ", but what came in between is lost in part")
                    }
                    Some(_) => Step::Anew(text + ", but what came in between is lost: the server counts anew"),
                }
            }
            ("notification", Some(position)) => {
                // One without a number moves no position.
                if let (Some(position), Some(seq)) = (position, head.seq) {
                    position.seq = seq;
                }
                self.taken += 1;
                if self.count == Some(self.taken) { Step::Last } else { Step::Print }
            }
            ("gap", Some(position)) => {
                if let Some(position) = position {
                    position.seq = position.seq.max(head.to);
                }
                Step::Print
            }
            ("error", _) => {
                let about = if head.channel.is_empty() { String::new() } else { format!(" for {}", head.channel) };
                let text = format!("the server says {}{about}: {}", head.code, head.message);
                match ErrorCode::from_name(&head.code) {
                    Some(ErrorCode::BusUnavailable | ErrorCode::Busy | ErrorCode::RateLimited | ErrorCode::TooManyChannels) => {
                        Step::Later(text)
                    }
                    _ => Step::Refused(text),
                }
            }
            // Newer servers may say more.
            _ => Step::Pass,
        }
    }
}

/// An event as one line of JSON. JSON events stay as they were sent, but for the line breaks that a publisher's JSON may hold between
/// values (inside strings they are escaped).
pub fn line(format: Format, message: &[u8]) -> Result<String, String> {
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
    use super::*;

    fn commands(resume: &Resume) -> Vec<String> {
        resume.commands(Format::Json).into_iter().map(|command| String::from_utf8(command).unwrap()).collect()
    }

    #[test]
    fn a_new_connection_goes_on_where_the_old_one_was() {
        let mut resume = Resume::new(vec!["a".to_owned(), "b".to_owned()], None);
        assert_eq!(commands(&resume), [r#"{"type":"subscribe","id":1,"channel":"a"}"#, r#"{"type":"subscribe","id":2,"channel":"b"}"#]);
        assert_eq!(resume.take(r#"{"type":"connected","client_id":"x","heartbeat":30}"#), Step::Connected { heartbeat_seconds: 30 });
        resume.take(r#"{"type":"subscribed","channel":"a","epoch":7,"seq":10,"recovered":false}"#);
        assert_eq!(resume.take(r#"{"type":"notification","channel":"a","seq":11,"data":{"type":"x"}}"#), Step::Print);
        assert_eq!(commands(&resume)[0], r#"{"type":"subscribe","id":1,"channel":"a","since":{"epoch":7,"seq":11}}"#);
        assert_eq!(commands(&resume)[1], r#"{"type":"subscribe","id":2,"channel":"b"}"#);
        assert_eq!(resume.take(r#"{"type":"notification","channel":"a","data":"without a number"}"#), Step::Print);
        assert!(commands(&resume)[0].contains(r#""seq":11"#));
        // Recovered: 12 and 13 are still to come, whatever head the reply names.
        resume.take(r#"{"type":"subscribed","channel":"a","epoch":7,"seq":13,"recovered":true}"#);
        assert!(commands(&resume)[0].contains(r#""seq":11"#));
        assert_eq!(resume.take(r#"{"type":"gap","channel":"a","from":12,"to":15,"reason":"overrun"}"#), Step::Print);
        assert!(commands(&resume)[0].contains(r#""seq":15"#));
        // Another epoch: begin anew.
        let Step::Anew(said) = resume.take(r#"{"type":"subscribed","channel":"a","epoch":8,"seq":2,"recovered":false}"#) else { panic!() };
        assert!(said.contains("lost"), "{said}");
        assert!(commands(&resume)[0].contains(r#"{"epoch":8,"seq":2}"#));
        // The same epoch: a gap follows, which is printed. Unless it has gone back.
        let same = |seq: u64| format!(r#"{{"type":"subscribed","channel":"a","epoch":8,"seq":{seq},"recovered":false}}"#);
        assert!(matches!(resume.take(&same(9)), Step::Say(_)));
        assert!(matches!(resume.take(&same(3)), Step::Anew(_)));
    }

    #[test]
    fn the_count_is_of_messages_and_not_of_gaps() {
        let mut resume = Resume::new(vec!["a".to_owned()], Some(2));
        let notification = r#"{"type":"notification","channel":"a","seq":1,"data":null}"#;
        assert_eq!(resume.take(notification), Step::Print);
        assert_eq!(resume.take(r#"{"type":"gap","channel":"a","from":2,"to":3}"#), Step::Print);
        assert_eq!(resume.take(notification), Step::Last);
    }

    #[test]
    fn errors_end_or_postpone() {
        let mut resume = Resume::new(vec!["a".to_owned()], None);
        assert!(matches!(resume.take(r#"{"type":"error","code":"bad_channel","message":"m","id":1}"#), Step::Refused(_)));
        assert!(matches!(resume.take(r#"{"type":"error","code":"bus_unavailable","message":"m"}"#), Step::Later(_)));
        assert_eq!(resume.take(r#"{"type":"something_new"}"#), Step::Pass);
        assert!(matches!(resume.take("no json"), Step::Say(_)));
        assert!(matches!(resume.take(r#"{"type":5}"#), Step::Say(_)));
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(line(Format::Json, b"{\"data\":{\n \"a\": \"x\\ny\"}}").unwrap(), r#"{"data":{  "a": "x\ny"}}"#);
    }

    #[test]
    fn msgpack_events_are_printed_as_json() {
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
