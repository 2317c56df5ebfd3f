//! The answer to a poll: one array of the events that a WebSocket would have been sent, in JSON or MessagePack. Elements are encoded like every other message,
//! once for all who poll; what stands around them is made when the answer goes.

use super::command::Position;
use super::event::Event;
use super::framing::{Encoding, Framing};
use super::http::answer::{self, AllowOrigin};
use super::{Format, event, msgpack};

/// A request that waits for its answer, or whose answer is being sent.
#[derive(Debug)]
pub struct Poll {
    pub format: Format,
    /// The same connection may ask again.
    pub keeps_alive: bool,
    pub allow_origin: AllowOrigin,
    /// Something has come that it is answered for.
    pub has_news: bool,
    /// It has waited as long as it wants to, and is answered when all its channels have been confirmed.
    pub is_late: bool,
    /// It is answered now, whatever there is.
    pub is_overdue: bool,
    pub is_answered: bool,
    /// What came behind its request.
    pub next: Vec<u8>,
}

/// Where a client stands in a channel.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    pub channel: &'a str,
    pub position: Position,
}

/// Appends one element. In JSON a comma follows each; in MessagePack nothing.
pub(super) fn write(out: &mut Vec<u8>, is_text: bool, write_body: impl FnOnce(&mut Vec<u8>)) {
    write_body(out);
    if is_text {
        out.push(b',');
    }
}

/// What an event becomes as an element.
pub(super) fn encode(event: &Event<'_>, format: Format, unix_ms: u64, out: &mut Vec<u8>) {
    event::encode(event, Encoding { format, framing: Framing::Poll }, unix_ms, out);
}

impl Poll {
    pub fn is_waiting(&self) -> bool {
        !self.is_answered
    }

    /// Makes an answer of the elements that have come together in `out`.
    pub fn wrap(&mut self, out: &mut Vec<u8>) {
        let elements = std::mem::take(out);
        let mut begin = Vec::new();
        let (elements, end): (&[u8], &[u8]) = match self.format {
            Format::Msgpack => {
                let count = msgpack::count(&elements).expect("each was written by us");
                rmp::encode::write_array_len(&mut begin, count).expect("a Vec takes every write");
                (&elements, b"")
            }
            Format::Json | Format::Raw => {
                begin.push(b'[');
                (elements.strip_suffix(b",").unwrap_or(&elements), b"]\n")
            }
        };
        let length = begin.len() + elements.len() + end.len();
        answer::events(out, self.format, length, self.keeps_alive, &self.allow_origin);
        for part in [&begin, elements, end] {
            out.extend_from_slice(part);
        }
        self.is_answered = true;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn answered(format: Format, events: &[Event<'_>]) -> (String, Value) {
        let mut poll = Poll {
            format,
            keeps_alive: true,
            allow_origin: AllowOrigin::Nobody,
            has_news: false,
            is_late: false,
            is_overdue: false,
            is_answered: false,
            next: Vec::new(),
        };
        let mut out = Vec::new();
        for event in events {
            encode(event, format, 0, &mut out);
        }
        poll.wrap(&mut out);
        assert!(!poll.is_waiting());
        let at = out.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let (head, body) = (String::from_utf8(out[..at].to_vec()).unwrap(), &out[at..]);
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        let value = match format {
            Format::Msgpack => rmp_serde::from_slice(body).unwrap(),
            _ => serde_json::from_slice(body).unwrap(),
        };
        (head, value)
    }

    #[test]
    fn an_answer_is_one_array_however_many_events_it_has() {
        let standings = [Standing { channel: "news", position: Position { epoch: 7, seq: 42 } }];
        let events = [Event::Pong { id: None }, Event::Position { channels: &standings }];
        for format in [Format::Json, Format::Msgpack] {
            for count in 0..=events.len() {
                let (_, value) = answered(format, &events[..count]);
                assert_eq!(value.as_array().unwrap().len(), count, "{value}");
            }
            let (head, value) = answered(format, &events);
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains(&format!("application/{}", format.name())), "{head}");
            assert_eq!(value[1], serde_json::json!({"type": "position", "channels": [{"channel": "news", "epoch": 7, "seq": 42}]}));
        }
    }
}
