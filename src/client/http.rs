//! HTTP/1.1 as a client speaks it: a request goes out, the head of its answer is read, its body as it comes. Called by [`super::event_stream`] and
//! [`super::poll`].
//!
//! [`Body`] is sans-IO; [`Exchange`] has the socket. Invariant: nothing that a server announces is believed to be there before it is: heads, chunks and
//! bodies are bounded by [`crate::limits::client`], and whoever waits has a deadline.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use tungstenite::http::StatusCode;

use super::broken::{Broken, Refused, lost, refused};
use super::stream::Stream;
use super::target::Target;
use super::tls::complaint;
use crate::limits::client::{
    ANSWER_TIMEOUT, BODY_TIMEOUT, CHUNK_LINE_BYTES_MAX, HEAD_BYTES_MAX, HEAD_FIELDS_MAX, READ_BYTES, REFUSAL_BYTES_MAX, RETRY_AFTER_MAX,
    TRAILER_BYTES_MAX,
};

/// What is wrong with an answer, or with the way to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the connection was lost ({0})")]
    Io(std::io::Error),
    #[error("the server fell silent")]
    Silent,
    /// With nothing of the answer read.
    #[error("the server closed the connection without an answer")]
    Ended,
    #[error("the server broke off in the middle of its answer")]
    Truncated,
    #[error("the answer is not HTTP as this client reads it: {0}")]
    Malformed(String),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Broken {
        match &fault {
            Fault::Io(error) => {
                complaint(error).map_or_else(|| lost(fault.to_string()), |complaint| refused(format!("the server {complaint}")))
            }
            Fault::Silent | Fault::Ended | Fault::Truncated | Fault::Malformed(_) => lost(fault.to_string()),
        }
    }
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(what.into()))
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub status: u16,
    pub body: Body,
    /// The same connection takes another request when the body is over.
    pub keeps_alive: bool,
    fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// The first field of that name, as text.
    pub fn field<'h>(&'h self, name: &'h str) -> Option<&'h str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.fields.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    /// Words of a list, in lower case.
    fn words(&self, name: &str) -> Vec<String> {
        let text: Vec<String> = self.values(name).map(|value| String::from_utf8_lossy(value).to_ascii_lowercase()).collect();
        text.join(",").split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    }

    /// What the body is, without parameters, in lower case.
    pub fn content_type(&self) -> String {
        let text = self.field("content-type").unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// Reads the first head in `bytes`, and its length. None: it is not whole.
    fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Fault> {
        let mut room = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut room);
        let length = match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return malformed(format!("its head has more than {HEAD_BYTES_MAX} bytes")),
            Err(error) => return malformed(error.to_string()),
        };
        let status = answer.code.unwrap_or_default();
        let is_old = answer.version == Some(0);
        let fields = answer.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
        let mut head = Head { status, body: Body::Nothing, keeps_alive: false, fields };
        head.body = head.find_body()?;
        head.keeps_alive = !is_old && head.body != Body::UntilEnd && !head.words("connection").contains(&"close".to_owned());
        Ok(Some((head, length)))
    }

    /// RFC 9112, 6.3.
    fn find_body(&self) -> Result<Body, Fault> {
        if matches!(self.status, 100..200 | 204 | 304) {
            return Ok(Body::Nothing);
        }
        let codings: Vec<String> = self.words("content-encoding").into_iter().filter(|coding| coding != "identity").collect();
        if !codings.is_empty() {
            return malformed(format!("it is compressed ({}), which was not asked for", codings.join(", ")));
        }
        match &self.words("transfer-encoding")[..] {
            [] => {}
            [only] if only == "chunked" => return Ok(Body::Chunked(Chunk::Size)),
            others => return malformed(format!("Transfer-Encoding: {}", others.join(", "))),
        }
        let mut lengths = self.words("content-length");
        lengths.dedup();
        match &lengths[..] {
            [] => Ok(Body::UntilEnd),
            [only] if only.bytes().all(|byte| byte.is_ascii_digit()) => match only.parse() {
                Ok(length) => Ok(Body::Length(length)),
                Err(_) => malformed(format!("Content-Length: {only}")),
            },
            others => malformed(format!("Content-Length: {}", others.join(", "))),
        }
    }
}

/// What is still to come of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Nothing,
    Length(u64),
    Chunked(Chunk),
    /// It ends with the connection.
    UntilEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The line with the size of the next one.
    Size,
    /// So many bytes of it.
    Data(u64),
    /// The end of its last line.
    DataEnd,
    /// Fields behind the last one, of which so many bytes were read.
    Trailer(usize),
}

impl Body {
    /// Whether nothing more comes of it.
    pub fn is_over(&self) -> bool {
        matches!(self, Body::Nothing | Body::Length(0))
    }

    /// How much is announced, if it is.
    fn announced(&self) -> u64 {
        match self {
            Body::Nothing | Body::UntilEnd => 0,
            Body::Length(length) | Body::Chunked(Chunk::Data(length)) => *length,
            Body::Chunked(Chunk::Size | Chunk::DataEnd | Chunk::Trailer(_)) => 0,
        }
    }

    /// Takes off `input` what can be taken, and appends what of it is content. What is left is part of a line, or behind the body.
    pub fn take(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        loop {
            match self {
                Body::Nothing | Body::Length(0) => return Ok(()),
                Body::UntilEnd => {
                    out.extend_from_slice(input);
                    *input = &[];
                    return Ok(());
                }
                Body::Length(left) => {
                    take_up_to(left, input, out);
                    return Ok(());
                }
                Body::Chunked(Chunk::Data(0)) => *self = Body::Chunked(Chunk::DataEnd),
                Body::Chunked(Chunk::Data(left)) => {
                    if input.is_empty() {
                        return Ok(());
                    }
                    take_up_to(left, input, out);
                }
                Body::Chunked(Chunk::Size) => match httparse::parse_chunk_size(input) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        *input = &input[length..];
                        *self = Body::Chunked(if size == 0 { Chunk::Trailer(0) } else { Chunk::Data(size) });
                    }
                    Ok(httparse::Status::Partial) if input.len() < CHUNK_LINE_BYTES_MAX => return Ok(()),
                    _ => return malformed("a chunk begins with no size"),
                },
                Body::Chunked(Chunk::DataEnd) => match input {
                    [b'\r', b'\n', rest @ ..] => {
                        *input = rest;
                        *self = Body::Chunked(Chunk::Size);
                    }
                    [] | [b'\r'] => return Ok(()),
                    _ => return malformed("a chunk is longer than its size"),
                },
                Body::Chunked(Chunk::Trailer(read)) => {
                    let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else {
                        return if *read + input.len() <= TRAILER_BYTES_MAX { Ok(()) } else { malformed("an endless trailer") };
                    };
                    *read += end + 2;
                    if *read > TRAILER_BYTES_MAX {
                        return malformed("an endless trailer");
                    }
                    *input = &input[end + 2..];
                    if end == 0 {
                        *self = Body::Nothing;
                    }
                }
            }
        }
    }
}

fn take_up_to(left: &mut u64, input: &mut &[u8], out: &mut Vec<u8>) {
    let (taken, rest) = input.split_at(usize::try_from(*left).unwrap_or(usize::MAX).min(input.len()));
    out.extend_from_slice(taken);
    *left -= taken.len() as u64;
    *input = rest;
}

/// A connection on which requests are answered one after the other.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: Stream,
    /// Read, and not taken.
    incoming: Vec<u8>,
    room: Box<[u8]>,
}

impl Exchange {
    pub fn dial(target: &Target) -> Result<Exchange, Broken> {
        let stream = target.dial()?;
        Ok(Exchange { stream, incoming: Vec::new(), room: vec![0; READ_BYTES].into() })
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn send(&mut self, request: &[u8]) -> Result<(), Fault> {
        self.stream.write_all(request).map_err(Fault::Io)
    }

    /// The head of the answer, behind those that only say that it comes.
    pub fn head(&mut self, patience: Duration) -> Result<Head, Fault> {
        let deadline = Instant::now() + patience;
        loop {
            while let Some((head, length)) = Head::parse(&self.incoming)? {
                self.incoming.drain(..length);
                if !matches!(head.status, 100 | 102..200) {
                    return Ok(head);
                }
            }
            let is_begun = !self.incoming.is_empty();
            match self.read(Some(deadline))? {
                0 if is_begun => return Err(Fault::Truncated),
                0 => return Err(Fault::Ended),
                _ => {}
            }
        }
    }

    /// Reads once, up to the deadline, or with the timeout that the socket has. 0: it is the end.
    fn read(&mut self, deadline: Option<Instant>) -> Result<usize, Fault> {
        loop {
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Fault::Silent);
                }
                let _ = self.stream.socket().set_read_timeout(Some(left));
            }
            match self.stream.read(&mut self.room) {
                Ok(count) => {
                    self.incoming.extend_from_slice(&self.room[..count]);
                    return Ok(count);
                }
                // A signal: whatever is to be done about it is done by the thread that waits for signals.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(Fault::Silent),
                Err(error) => return Err(Fault::Io(error)),
            }
        }
    }

    /// Appends more of a body to `content`. False: it is over.
    pub fn more(&mut self, body: &mut Body, content: &mut Vec<u8>, deadline: Option<Instant>) -> Result<bool, Fault> {
        loop {
            let before = content.len();
            let mut input = &self.incoming[..];
            body.take(&mut input, content)?;
            let taken = self.incoming.len() - input.len();
            self.incoming.drain(..taken);
            if content.len() > before {
                return Ok(true);
            }
            if body.is_over() {
                return Ok(false);
            }
            if self.read(deadline)? == 0 {
                return if *body == Body::UntilEnd { Ok(false) } else { Err(Fault::Truncated) };
            }
        }
    }

    /// The whole of a body, which may have so many bytes.
    pub fn whole(&mut self, mut body: Body, bytes_max: usize) -> Result<Vec<u8>, Fault> {
        let deadline = Instant::now() + BODY_TIMEOUT;
        let mut content = Vec::new();
        loop {
            if (content.len() as u64).saturating_add(body.announced()) > bytes_max as u64 {
                return malformed(format!("it has more than {bytes_max} bytes"));
            }
            if !self.more(&mut body, &mut content, Some(deadline))? {
                return Ok(content);
            }
        }
    }

    /// Why the request was refused, in the server's words.
    pub fn refused(&mut self, target: &Target, mut head: Head) -> Broken {
        let (status, mut text) = (head.status, Vec::new());
        if let (300..400, Some(place)) = (status, head.field("location")) {
            let place = shown_text(place.as_bytes());
            let why = format!("{} answered {status}: it is at {place} now; give that address", target.shown());
            return Broken::Refused(Refused { why, status: Some(status) });
        }
        let deadline = Some(Instant::now() + ANSWER_TIMEOUT);
        // What cannot be read of it is not told.
        while text.len() < REFUSAL_BYTES_MAX && matches!(self.more(&mut head.body, &mut text, deadline), Ok(true)) {}
        refusal(target, status, head.field("retry-after"), &text)
    }
}

/// What may be shown of a text that somebody else has written.
pub(super) fn shown_text(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().chars().filter(|character| !character.is_control()).take(300).collect()
}

/// What an HTTP status other than the one that was hoped for comes to.
pub(super) fn refusal(target: &Target, status: u16, retry_after: Option<&str>, text: &[u8]) -> Broken {
    let named = StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |status| status.to_string());
    let said = shown_text(text);
    // As Campanile and nginx say it of a request in the clear.
    let is_for_tls = status == 400 && !target.is_secure() && ["speaks TLS", "sent to HTTPS port"].iter().any(|words| said.contains(words));
    let advice = if is_for_tls { "; give it by wss:// (https://)" } else { "" };
    let why = format!("{} answered {named}: {said}{advice}", target.shown());
    if status >= 500 || matches!(status, 408 | 429) {
        let seconds = retry_after.and_then(|text| text.trim().parse().ok());
        Broken::Lost { why, retry_after: seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)) }
    } else {
        Broken::Refused(Refused { why, status: Some(status) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        Head::parse(text.as_bytes()).unwrap().unwrap().0
    }

    /// The content of a body that comes in these parts, and what is left behind it.
    fn content(body: &Body, parts: &[&[u8]]) -> Result<(Body, Vec<u8>, Vec<u8>), Fault> {
        let (mut body, mut kept, mut out) = (body.clone(), Vec::new(), Vec::new());
        for part in parts {
            kept.extend_from_slice(part);
            let mut input = &kept[..];
            body.take(&mut input, &mut out)?;
            kept = input.to_vec();
        }
        Ok((body, out, kept))
    }

    #[track_caller]
    fn assert_content(body: &Body, bytes: &[u8], expected: &[u8], left: &[u8]) {
        for at in 0..=bytes.len() {
            let (body, out, kept) = content(body, &[&bytes[..at], &bytes[at..]]).unwrap();
            assert!(body.is_over(), "{at}: {body:?}");
            assert_eq!((&*out, &*kept), (expected, left), "{at}");
        }
    }

    #[test]
    fn a_body_is_found_by_its_head_and_taken_at_every_split() {
        let chunked = head("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert!(chunked.keeps_alive);
        assert_content(&chunked.body, b"3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nnext", b"abc0123456789", b"next");
        assert_content(&chunked.body, b"0\r\n\r\n", b"", b"");
        let length = head("HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n");
        assert_content(&length.body, b"12345next", b"12345", b"next");
        assert_eq!(head("HTTP/1.1 204 No Content\r\n\r\n").body, Body::Nothing);
        let until_end = head("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n");
        assert!(until_end.body == Body::UntilEnd && !until_end.keeps_alive);
        assert_eq!(content(&until_end.body, &[b"ab", b"cd"]).unwrap().1, b"abcd");
        assert!(!head("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n").keeps_alive);
        assert!(!head("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").keeps_alive);
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_told() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: -1",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: gzip, chunked",
            "Content-Encoding: gzip",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            assert!(matches!(Head::parse(text.as_bytes()), Err(Fault::Malformed(_))), "{fields}");
        }
        for text in ["220 mail ready\r\n\r\n", "HTTP/2 200\r\n\r\n", &format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_BYTES_MAX))] {
            assert!(matches!(Head::parse(text.as_bytes()), Err(Fault::Malformed(_))), "{text:.30}");
        }
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\nX: 1\r\n").unwrap().is_none());
        for bytes in [&b"x\r\n"[..], b"3\r\nabcd\r\n", b"fffffffffffffffff\r\n", &[b'0'; CHUNK_LINE_BYTES_MAX + 1]] {
            assert!(content(&Body::Chunked(Chunk::Size), &[bytes]).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
        let endless = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1)].concat();
        assert!(content(&Body::Chunked(Chunk::Size), &[&endless]).is_err());
    }
}
