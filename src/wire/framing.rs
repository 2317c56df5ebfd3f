//! What stands around each message of a stream, so that its reader finds where one ends and the next begins; and with the spelling, the whole
//! of what makes one connection's bytes differ from another's.
//!
//! Called by [`super::payload`] and [`super::event`], which spell what stands in between. [`crate::fanout::batch`] keeps what it has encoded by
//! [`Encoding`], once for all connections that have the same.

use super::Format;
use super::command::Position;
use super::frame::{Opcode, encode_header, header_len};
use super::{event_stream, poll};

/// How the ends of messages are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Framing {
    /// Each message is one WebSocket frame without a mask (RFC 6455, 5.2), text or binary.
    WebSocket = 0,
    /// Each message is one event of an event stream, without a position: whoever has several channels is told theirs by itself.
    EventStream = 1,
    /// The same of a client with one channel: what has a position carries it.
    EventStreamOfOne = 2,
    /// Each message is an element of the array that answers a poll.
    Poll = 3,
}

/// What a framing may say of a message beside its body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caption {
    /// The event's type; None: a notification.
    pub event: Option<&'static str>,
    /// Where in its channel a client stands that has got it.
    pub position: Option<Position>,
}

/// How a message becomes bytes for a connection: its spelling, and what stands around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encoding {
    pub format: Format,
    pub framing: Framing,
}

impl Framing {
    /// Appends one message, whose body `write_body` writes in place, once. `is_text`: the body is UTF-8.
    #[inline]
    pub(super) fn write(
        self,
        out: &mut Vec<u8>,
        caption: Caption,
        is_text: bool,
        body_bytes_guess: usize,
        write_body: impl FnOnce(&mut Vec<u8>),
    ) {
        match self {
            Framing::WebSocket => write_frame(out, if is_text { Opcode::Text } else { Opcode::Binary }, body_bytes_guess, write_body),
            Framing::EventStream => event_stream::write(out, Caption { position: None, ..caption }, is_text, write_body),
            Framing::EventStreamOfOne => event_stream::write(out, caption, is_text, write_body),
            Framing::Poll => poll::write(out, is_text, write_body),
        }
    }
}

impl Encoding {
    /// How many there are; a batch may be asked for all of them. An event stream is JSON or raw, for clients with one channel or several; an answer to a poll
    /// is JSON or MessagePack.
    pub const COUNT: usize = Format::ALL.len() + 2 * 2 + 2;

    pub const fn web_socket(format: Format) -> Encoding {
        Encoding { format, framing: Framing::WebSocket }
    }
}

/// The header is first written for `body_bytes_guess` and then corrected; the body moves only if the header's own size was guessed wrong.
fn write_frame(out: &mut Vec<u8>, opcode: Opcode, body_bytes_guess: usize, write_body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.reserve(body_bytes_guess + header_len(body_bytes_guess));
    encode_header(out, opcode, body_bytes_guess);
    let body_start = out.len();
    write_body(out);
    let body_end = out.len();
    let body_len = body_end - body_start;
    if body_len == body_bytes_guess {
        return;
    }
    // The header is made at the end, where there is room, and copied to its place.
    encode_header(out, opcode, body_len);
    let mut header = [0; 10];
    let header = &mut header[..out.len() - body_end];
    header.copy_from_slice(&out[body_end..]);
    out.truncate(body_end);
    let body_to = start + header.len();
    if body_to != body_start {
        out.resize(body_end.max(body_to + body_len), 0);
        out.copy_within(body_start..body_end, body_to);
        out.truncate(body_to + body_len);
    }
    out[start..start + header.len()].copy_from_slice(header);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Opcode, payload and what follows the first frame, by RFC 6455, 5.2; independent of the code under test.
    pub(crate) fn split_frame(frame: &[u8]) -> (u8, &[u8], &[u8]) {
        assert_eq!(frame[0] & 0xf0, 0x80, "one unfragmented frame without extensions");
        let (len, header) = match frame[1] {
            126 => (u16::from_be_bytes(frame[2..4].try_into().unwrap()).into(), 4),
            127 => (u64::from_be_bytes(frame[2..10].try_into().unwrap()) as usize, 10),
            len @ 0..126 => (len.into(), 2),
            _ => panic!("a server frame has no mask"),
        };
        assert_eq!(header, header_len(len), "the shortest header");
        (frame[0] & 0xf, &frame[header..header + len], &frame[header + len..])
    }

    #[test]
    fn a_header_guessed_too_long_or_too_short_is_corrected() {
        for guess in [0, 125, 126, 65_535, 65_536] {
            for len in [0, 125, 126, 65_535, 65_536] {
                let body: Vec<u8> = (0..len).map(|at| at as u8).collect();
                let mut out = vec![1, 2, 3];
                write_frame(&mut out, Opcode::Binary, guess, |out| out.extend_from_slice(&body));
                assert_eq!(&out[..3], [1, 2, 3]);
                assert_eq!(split_frame(&out[3..]), (Opcode::Binary as u8, &*body, &b""[..]), "{guess} {len}");
            }
        }
    }
}
