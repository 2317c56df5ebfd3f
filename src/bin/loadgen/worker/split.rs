//! Where one message ends and the next begins, for each transport. Called by [`super::receive`] with what a client has read; what is not whole stays there.

use std::borrow::Cow;

use campanile::client::stream_reader::{Block, Piece, StreamReader};
use campanile::wire::frame::{Opcode, parse_server_header};
use campanile::wire::json;

use super::End;
use crate::args::Transport;

/// The next thing that a server has said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'b> {
    Message {
        is_text: bool,
        payload: Cow<'b, [u8]>,
    },
    /// It wants an answer.
    Ping(&'b [u8]),
    /// It wants none.
    Heartbeat,
    /// Nothing that matters to a load generator.
    Nothing,
    Close {
        code: u16,
        reason: String,
    },
}

/// The first whole part of `bytes`, and its length. None: more bytes are needed.
#[inline]
pub(super) fn next(transport: Transport, bytes: &[u8]) -> Result<Option<(Part<'_>, usize)>, End> {
    match transport {
        Transport::Ws => frame(bytes),
        Transport::Sse => Ok(event(bytes)),
    }
}

#[inline]
fn frame(bytes: &[u8]) -> Result<Option<(Part<'_>, usize)>, End> {
    let header = match parse_server_header(bytes) {
        Ok(Some(header)) => header,
        Ok(None) => return Ok(None),
        Err(error) => return Err(End::BadFrame(error.to_string())),
    };
    let header_len = header.header_len as usize;
    let Some(payload) = usize::try_from(header.payload_len).ok().and_then(|length| bytes[header_len..].get(..length)) else {
        return Ok(None);
    };
    let part = match header.opcode {
        Opcode::Text | Opcode::Binary | Opcode::Continuation => {
            Part::Message { is_text: header.opcode == Opcode::Text, payload: Cow::Borrowed(payload) }
        }
        Opcode::Ping => Part::Ping(payload),
        Opcode::Pong => Part::Nothing,
        Opcode::Close => Part::Close {
            code: payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code)),
            reason: payload.get(2..).map_or(String::new(), |reason| String::from_utf8_lossy(reason).into_owned()),
        },
    };
    Ok(Some((part, header_len + payload.len())))
}

/// Campanile ends lines with a line feed, so nothing has to be remembered from one event to the next.
#[inline]
fn event(bytes: &[u8]) -> Option<(Part<'_>, usize)> {
    let mut input = bytes;
    let piece = StreamReader::within().next(&mut input)?;
    let part = match piece {
        Piece::Comment => Part::Heartbeat,
        Piece::Block(Block { data: None, .. } | Block { name: b"position", .. }) => Part::Nothing,
        Piece::Block(Block { name: b"close", data: Some(data), .. }) => farewell(&data),
        Piece::Block(Block { data: Some(payload), .. }) => Part::Message { is_text: true, payload },
    };
    Some((part, bytes.len() - input.len()))
}

fn farewell(data: &[u8]) -> Part<'static> {
    let (mut code, mut reason) = (1005, String::new());
    let _ = json::fields(&String::from_utf8_lossy(data), &mut |key, value| match &*key {
        "code" => code = json::unsigned(value).and_then(|code| u16::try_from(code).ok()).unwrap_or(code),
        "reason" => reason = json::text(value).map_or(String::new(), Into::into),
        _ => {}
    });
    Part::Close { code, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All parts of a stream that is cut in two in every place: each must come out the same.
    fn parts(transport: Transport, bytes: &[u8]) -> Vec<String> {
        let read = |cuts: &[usize]| {
            let (mut found, mut taken) = (Vec::new(), 0);
            for &end in cuts {
                while let Some((part, length)) = next(transport, &bytes[taken..end]).ok().expect("it is well formed") {
                    found.push(match part {
                        Part::Message { is_text, payload } => {
                            format!("{} {}", if is_text { "text" } else { "binary" }, String::from_utf8_lossy(&payload))
                        }
                        other => format!("{other:?}"),
                    });
                    taken += length;
                }
            }
            assert_eq!(taken, bytes.len(), "{cuts:?}");
            found
        };
        let whole = read(&[bytes.len()]);
        for cut in 0..bytes.len() {
            assert_eq!(read(&[cut, bytes.len()]), whole, "{cut}");
        }
        whole
    }

    #[test]
    fn frames_are_split() {
        let found = parts(Transport::Ws, b"\x81\x01a\x82\x02bc\x89\x01p\x8a\x00\x88\x05\x03\xE9bye");
        assert_eq!(found, ["text a", "binary bc", "Ping([112])", "Nothing", r#"Close { code: 1001, reason: "bye" }"#]);
        assert!(matches!(next(Transport::Ws, b"\xFF\xFF"), Err(End::BadFrame(_))));
    }

    #[test]
    fn events_are_split() {
        let stream = b"retry: 2500\n\nevent: connected\ndata: {}\n\n:\nid: 7:1\ndata: a\ndata: b\n\nevent: position\nid: 7:1,-\ndata:\n\n\
            retry: 1\n\nevent: close\ndata: {\"type\":\"close\",\"code\":1012,\"reason\":\"reconnect in 1 ms\"}\n\n";
        let close = r#"Close { code: 1012, reason: "reconnect in 1 ms" }"#;
        assert_eq!(parts(Transport::Sse, stream), ["Nothing", "text {}", "Heartbeat", "text a\nb", "Nothing", "Nothing", close]);
    }
}
