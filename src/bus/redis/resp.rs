//! Replies and messages out of the bytes of a Redis connection, RESP2 and RESP3 alike. Sans-IO; owned by [`super::link`].
//!
//! Messages, which are nearly all there is, are found by a scan of the read buffer and lent out of it: 20 to 30 ns where
//! `redis::Parser` takes about 1 µs. So are confirmations of subscriptions, of which a hundred thousand come together. Everything else is made a value by
//! [`super::values`], which stops at the end of one.

use std::io::{self, Read};
use std::ops::Range;

use redis::{PushKind, ServerError, Value};

use super::values::{Step, Values};
use crate::limits::READ_BYTES;

/// One thing that Redis sent.
#[derive(Debug, PartialEq)]
pub enum Reply<'a> {
    Message {
        channel: &'a [u8],
        payload: &'a [u8],
    },
    /// To a channel, sharded or not.
    Subscribed {
        name: &'a [u8],
    },
    /// From a channel, sharded or not, or from a pattern.
    Unsubscribed {
        name: &'a [u8],
    },
    PatternSubscribed {
        name: &'a [u8],
    },
    Pong,
    Okay,
    Integer(i64),
    Error(&'a ServerError),
    /// An answer of another kind.
    Other(&'a Value),
    /// Sent unasked, and nothing that we know: it answers no command.
    Push,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("Redis announced or sent a value larger than {bytes_max} bytes")]
    TooBig { bytes_max: usize },
    #[error("what came is not the Redis protocol: {0}")]
    NotRedis(String),
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    pub count: usize,
    /// There was room for more.
    pub is_short: bool,
}

pub struct Decoder {
    /// `start..end` is received and not yet taken.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    values: Values,
    /// Bytes that were taken of a value that is not complete yet; 0 between values.
    fed: usize,
    /// What the last [`Reply`] lends from, unless it was found by the scan.
    held: Value,
    value_bytes_max: usize,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("waiting", &(self.end - self.start)).field("fed", &self.fed).finish_non_exhaustive()
    }
}

impl Decoder {
    /// A value of more than `value_bytes_max` bytes is a violation.
    pub fn new(value_bytes_max: usize) -> Decoder {
        Decoder { buffer: Vec::new(), start: 0, end: 0, values: Values::default(), fed: 0, held: Value::Nil, value_bytes_max }
    }

    /// Reads once from `source` into the buffer. Bounded: what must be whole to be taken out is limited as it is announced.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<Filled> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() != READ_BYTES {
                self.buffer = vec![0; READ_BYTES];
            }
        } else if self.start > 0 && self.buffer.len() - self.end < READ_BYTES / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        let room = self.buffer.len() - self.end;
        let count = source.read(&mut self.buffer[self.end..])?;
        self.end += count;
        Ok(Filled { count, is_short: count < room })
    }

    /// The next complete value, or None until more is filled in. After a violation the connection is of no use.
    pub fn next_reply(&mut self) -> Result<Option<Reply<'_>>, Violation> {
        if self.fed == 0 {
            match scan(&self.buffer[self.start..self.end], self.value_bytes_max)? {
                Scan::Message { channel, payload, bytes } => {
                    let message = &self.buffer[self.start..self.start + bytes];
                    self.start += bytes;
                    return Ok(Some(Reply::Message { channel: &message[channel], payload: &message[payload] }));
                }
                Scan::Subscribed { name, bytes } => {
                    let confirmation = &self.buffer[self.start..self.start + bytes];
                    self.start += bytes;
                    return Ok(Some(Reply::Subscribed { name: &confirmation[name] }));
                }
                Scan::Incomplete => return Ok(None),
                Scan::Other => {}
            }
        }
        loop {
            let step = self.values.step(&self.buffer[self.start..self.end], self.value_bytes_max)?;
            let (Step::Taken(taken) | Step::Complete(taken, _)) = step else { return Ok(None) };
            self.start += taken;
            self.fed += taken;
            // Whether it came in one piece or in many.
            if self.fed > self.value_bytes_max {
                return Err(Violation::TooBig { bytes_max: self.value_bytes_max });
            }
            if let Step::Complete(_, value) = step {
                self.fed = 0;
                self.held = value;
                return Ok(Some(reply(&self.held)));
            }
        }
    }
}

enum Scan {
    Message {
        channel: Range<usize>,
        payload: Range<usize>,
        bytes: usize,
    },
    /// A subscription is confirmed.
    Subscribed {
        name: Range<usize>,
        bytes: usize,
    },
    /// It begins like one of them; more bytes are needed.
    Incomplete,
    Other,
}

/// How messages begin in RESP3 and RESP2, and how many strings follow; the last two are channel and payload.
const MESSAGE_HEADS: [(&[u8], usize); 6] = [
    (b">3\r\n$7\r\nmessage\r\n", 2),
    (b"*3\r\n$7\r\nmessage\r\n", 2),
    (b">4\r\n$8\r\npmessage\r\n", 3),
    (b"*4\r\n$8\r\npmessage\r\n", 3),
    (b">3\r\n$8\r\nsmessage\r\n", 2),
    (b"*3\r\n$8\r\nsmessage\r\n", 2),
];

fn scan(input: &[u8], value_bytes_max: usize) -> Result<Scan, Violation> {
    for (head, strings) in MESSAGE_HEADS {
        if !input.starts_with(head) {
            if head.starts_with(input) {
                return Ok(Scan::Incomplete);
            }
            continue;
        }
        let (mut at, mut channel, mut payload) = (head.len(), 0..0, 0..0);
        for _ in 0..strings {
            match bulk_string(input, at) {
                Bulk::At { content, .. } if content.end > value_bytes_max => return Err(Violation::TooBig { bytes_max: value_bytes_max }),
                Bulk::At { content, is_complete: true } => {
                    at = content.end + 2;
                    channel = std::mem::replace(&mut payload, content);
                }
                Bulk::At { is_complete: false, .. } | Bulk::Incomplete => return Ok(Scan::Incomplete),
                Bulk::Other => return Ok(Scan::Other),
            }
        }
        return Ok(Scan::Message { channel, payload, bytes: at });
    }
    for head in CONFIRMATION_HEADS {
        if input.starts_with(head) {
            return scan_confirmation(input, head.len());
        }
        if head.starts_with(input) {
            return Ok(Scan::Incomplete);
        }
    }
    Ok(Scan::Other)
}

/// How confirmations begin; a name and a count follow.
const CONFIRMATION_HEADS: [&[u8]; 2] = [b">3\r\n$9\r\nsubscribe\r\n", b"*3\r\n$9\r\nsubscribe\r\n"];
/// A count, with its line's end. It is a number of 64 bits for whoever reads it, so what may be none is left to the parser.
const COUNT_BYTES_MAX: usize = 1 + 18 + 2;

fn scan_confirmation(input: &[u8], at: usize) -> Result<Scan, Violation> {
    let name = match bulk_string(input, at) {
        Bulk::At { content, is_complete: true } => content,
        // It is found out there whether it ever can be.
        Bulk::At { is_complete: false, .. } | Bulk::Other => return Ok(Scan::Other),
        Bulk::Incomplete => return Ok(Scan::Incomplete),
    };
    let rest = &input[name.end + 2..];
    match rest.iter().take(COUNT_BYTES_MAX).position(|&byte| byte == b'\n') {
        Some(end) if rest[0] == b':' && end > 2 && rest[end - 1] == b'\r' && rest[1..end - 1].iter().all(u8::is_ascii_digit) => {
            Ok(Scan::Subscribed { bytes: name.end + 2 + end + 1, name })
        }
        None if rest.len() < COUNT_BYTES_MAX => Ok(Scan::Incomplete),
        Some(_) | None => Ok(Scan::Other),
    }
}

enum Bulk {
    At {
        content: Range<usize>,
        is_complete: bool,
    },
    Incomplete,
    /// Not a bulk string: the parser knows what it is, or why it is wrong.
    Other,
}

/// `$<length>\r\n<content>\r\n` at `at`.
fn bulk_string(input: &[u8], at: usize) -> Bulk {
    match input.get(at) {
        None => return Bulk::Incomplete,
        Some(b'$') => {}
        Some(_) => return Bulk::Other,
    }
    let mut length = 0usize;
    // Redis itself allows 512 MB; twelve digits are enough to call anything too big, and cannot overflow.
    for (digits, index) in (at + 1..).enumerate() {
        match input.get(index) {
            None => return Bulk::Incomplete,
            Some(digit @ b'0'..=b'9') if digits < 12 => length = length * 10 + usize::from(digit - b'0'),
            Some(b'\r') if digits > 0 => {
                let Some(&newline) = input.get(index + 1) else { return Bulk::Incomplete };
                if newline != b'\n' {
                    return Bulk::Other;
                }
                let content = index + 2..index + 2 + length;
                let is_complete = input.len() >= content.end + 2;
                if is_complete && input[content.end..content.end + 2] != *b"\r\n" {
                    return Bulk::Other;
                }
                return Bulk::At { content, is_complete };
            }
            Some(_) => return Bulk::Other,
        }
    }
    unreachable!("the loop ends with the input")
}

/// RESP2 sends as arrays what RESP3 sends as pushes.
fn reply(value: &Value) -> Reply<'_> {
    match value {
        Value::Okay => Reply::Okay,
        Value::Int(number) => Reply::Integer(*number),
        Value::ServerError(error) => Reply::Error(error),
        Value::SimpleString(text) if text == "PONG" => Reply::Pong,
        Value::Push { kind: PushKind::Message | PushKind::SMessage, data } => published(data, 2),
        Value::Push { kind: PushKind::PMessage, data } => published(data, 3),
        Value::Push { kind: PushKind::Subscribe | PushKind::SSubscribe, data } => named(data, |name| Reply::Subscribed { name }),
        Value::Push { kind: PushKind::Unsubscribe | PushKind::PUnsubscribe | PushKind::SUnsubscribe, data } => {
            named(data, |name| Reply::Unsubscribed { name })
        }
        Value::Push { kind: PushKind::PSubscribe, data } => named(data, |name| Reply::PatternSubscribed { name }),
        Value::Push { .. } => Reply::Push,
        Value::Array(items) => match items.split_first() {
            Some((Value::BulkString(kind), rest)) => match kind.as_slice() {
                b"message" | b"smessage" => published(rest, 2),
                b"pmessage" => published(rest, 3),
                b"subscribe" | b"ssubscribe" => named(rest, |name| Reply::Subscribed { name }),
                b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" => named(rest, |name| Reply::Unsubscribed { name }),
                b"psubscribe" => named(rest, |name| Reply::PatternSubscribed { name }),
                b"pong" => Reply::Pong,
                _ => Reply::Other(value),
            },
            _ => Reply::Other(value),
        },
        _ => Reply::Other(value),
    }
}

fn published(data: &[Value], strings: usize) -> Reply<'_> {
    match data {
        [.., Value::BulkString(channel), Value::BulkString(payload)] if data.len() == strings => Reply::Message { channel, payload },
        _ => Reply::Push,
    }
}

fn named<'a>(data: &'a [Value], make: impl Fn(&'a [u8]) -> Reply<'a>) -> Reply<'a> {
    match data {
        [Value::BulkString(name), ..] => make(name),
        _ => Reply::Push,
    }
}

/// Appends one command, as Redis wants commands: an array of bulk strings.
pub fn write_command<'a>(out: &mut Vec<u8>, parts: impl ExactSizeIterator<Item = &'a [u8]>) {
    use std::io::Write;
    let _ = write!(out, "*{}\r\n", parts.len());
    for part in parts {
        let _ = write!(out, "${}\r\n", part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `redis::Parser` alone makes of `bytes`.
    fn parsed(bytes: &[u8]) -> Vec<String> {
        let (mut parser, mut line) = (redis::Parser::new(), crate::bus::redis::values::Line(bytes));
        let mut found = Vec::new();
        while let Ok(value) = parser.parse_value(&mut line) {
            found.push(format!("{:?}", reply(&value)));
        }
        found
    }

    /// Everything the decoder finds in `bytes`, which arrive cut at `cuts`.
    fn decode(mut decoder: Decoder, bytes: &[u8], cuts: &[usize]) -> Result<Vec<String>, Violation> {
        let mut found = Vec::new();
        let mut start = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            let mut part = &bytes[start..cut];
            start = cut;
            while !part.is_empty() {
                decoder.fill(&mut part).unwrap();
                while let Some(reply) = decoder.next_reply()? {
                    found.push(format!("{reply:?}"));
                }
            }
        }
        Ok(found)
    }

    fn stream() -> Vec<u8> {
        let mut stream = Vec::new();
        for mark in [">", "*"] {
            for text in [
                "3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
                "3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhe\r\no\r\n",
                "3\r\n$7\r\nmessage\r\n$1\r\na\r\n$0\r\n\r\n",
                "4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$3\r\n\n\n\n\r\n",
                "3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n",
                "3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n",
                "1\r\n$7\r\nmessage\r\n",
                "3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n",
                "3\r\n$8\r\nsmessage\r\n$1\r\na\r\n$5\r\nhe\r\no\r\n",
                "3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n",
            ] {
                stream.extend_from_slice(format!("{mark}{text}").as_bytes());
            }
        }
        stream.extend_from_slice(
            b"+OK\r\n+PONG\r\n:42\r\n-ERR no\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n$-1\r\n",
        );
        // A page of a stream; and one of everything, in arrays and out of them.
        let page = b"*2\r\n*2\r\n$3\r\n9-4\r\n*4\r\n$1\r\nd\r\n$4\r\nh\r\ni\r\n$1\r\nt\r\n$3\r\n170\r\n*2\r\n$3\r\n9-5\r\n*-1\r\n";
        stream.extend_from_slice(page);
        stream.extend_from_slice(
            b"*7\r\n%1\r\n+a\r\n*1\r\n:1\r\n-ERR in it\r\n*0\r\n_\r\n,1.5\r\n=7\r\ntxt:a\r\n\r\n*1\r\n~1\r\n$2\r\n\r\n\r\n",
        );
        stream
    }

    #[test]
    fn every_split_gives_what_the_parser_gives() {
        let stream = stream();
        let whole = parsed(&stream);
        assert_eq!(whole.len(), 29);
        assert_eq!(decode(Decoder::new(1000), &stream, &[]).unwrap(), whole);
        for first in 0..stream.len() {
            assert_eq!(decode(Decoder::new(1000), &stream, &[first]).unwrap(), whole, "cut at {first}");
            let second = first + (stream.len() - first) / 3;
            assert_eq!(decode(Decoder::new(1000), &stream, &[first, second]).unwrap(), whole, "cut at {first} and {second}");
        }
        let bytewise: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(decode(Decoder::new(1000), &stream, &bytewise).unwrap(), whole);
    }

    #[test]
    fn messages_of_any_size_come_through_the_buffer() {
        let mut stream = Vec::new();
        let sizes = [0, 1, 100, READ_BYTES - 1, READ_BYTES, 3 * READ_BYTES, 7, 1_000_000];
        for size in sizes.iter().cycle().take(40) {
            write_command(&mut stream, [b"message".as_slice(), b"a", &vec![b'x'; *size]].into_iter());
        }
        let mut decoder = Decoder::new(2_000_000);
        let mut source = stream.as_slice();
        let mut found = Vec::new();
        while decoder.fill(&mut source).unwrap().count > 0 {
            while let Some(reply) = decoder.next_reply().unwrap() {
                let Reply::Message { channel: b"a", payload } = reply else { panic!("{reply:?}") };
                found.push(payload.len());
            }
        }
        assert_eq!(found, sizes.iter().cycle().take(40).copied().collect::<Vec<_>>());
        decoder.fill(&mut io::empty()).unwrap();
        assert_eq!(decoder.buffer.len(), READ_BYTES, "what a large message needed was given back");
    }

    #[test]
    fn announced_sizes_are_not_believed() {
        for text in [
            &b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$9999999999\r\n"[..],
            b"*3\r\n$7\r\nmessage\r\n$999999999999\r\n",
            b">4\r\n$8\r\npmessage\r\n$1001\r\n",
        ] {
            assert_eq!(decode(Decoder::new(1000), text, &[]), Err(Violation::TooBig { bytes_max: 1000 }));
        }
        assert_eq!(decode(Decoder::new(1000), b"$9999999999\r\n", &[]), Err(Violation::TooBig { bytes_max: 1000 }));
        // Of what is no string it is waited for what was announced, room made only for what comes, and it is cut off at the limit.
        for head in ["*999999999\r\n", "%999999999\r\n", ">999999999\r\n", "=999999999\r\n", "|9223372036854775807\r\n"] {
            let mut stream = head.as_bytes().to_vec();
            assert_eq!(decode(Decoder::new(1000), &stream, &[]), Ok(vec![]), "{head}");
            stream.extend(b":1\r\n".repeat(300));
            assert_eq!(decode(Decoder::new(1000), &stream, &[]), Err(Violation::TooBig { bytes_max: 1000 }), "{head}");
        }
    }

    /// Found by tests/fuzz: in one piece it was a confirmation, in several a violation.
    #[test]
    fn a_count_beyond_64_bits_is_refused_however_it_comes() {
        for (count, is_good) in [("1", true), ("999999999999999999", true), ("9223372036854775807", true), ("18446744073709551616", false)]
        {
            let text = format!(">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:{count}\r\n").into_bytes();
            for cuts in [vec![], (1..text.len()).collect()] {
                assert_eq!(decode(Decoder::new(1000), &text, &cuts).is_ok(), is_good, "{count}");
            }
        }
    }

    #[test]
    fn garbage_is_a_violation_not_a_panic() {
        for text in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"\r\n\r\n",
            b"\0\0\0\0\r\n",
            b"*3\r\n$7\r\nmessage\r\n$x\r\n",
            b"*3\r\n$7\r\nmessage\r\n$1\r\nabc\r\n",
            b"*3\r\n$7\r\nmessage\r\n$9999999999999999\r\n\r\n$1\r\na\r\n",
            b":nonsense\r\n",
            b"%-1\r\n",
            b"=-7\r\n:",
            b"*-9223372036854775808\r\n:x\r\n",
        ] {
            let result = decode(Decoder::new(1000), text, &[]);
            assert!(result.is_err() || !result.unwrap().iter().any(|reply| reply.contains("Message")), "{}", text.escape_ascii());
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let mut text = stream();
            for _ in 0..3 {
                let at = random.usize(..text.len());
                text[at] = random.u8(..);
            }
            let _ = decode(Decoder::new(1000), &text, &[]);
        }
    }
}
