//! What a payload from the bus is, and how a `notification` around it is written.
//!
//! The bus thread calls [`classify`] once per message, up to 300,000 times a second; [`crate::fanout::batch`] calls
//! [`encode_notification`] once per message and format, whatever the number of subscribers. A kind is a promise about
//! the bytes: JSON is spliced into JSON frames and MessagePack into MessagePack frames without a second look.

use super::frame::{Opcode, encode_header, header_len};
use super::{Format, json, msgpack};

/// What the bytes of one payload were found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One complete MessagePack value.
    Msgpack,
    /// One complete JSON text.
    Json,
    /// Other UTF-8: a string.
    Text,
    /// Other bytes.
    Bytes,
}

/// The setting `payload`: what a channel's publishers promise to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Auto,
    Msgpack,
    Json,
    Raw,
}

/// `Auto`: a complete MessagePack map or array, else a complete JSON text, else UTF-8, else bytes. `Msgpack`/`Json`: any one
/// complete value of that kind. `Raw`: Text or Bytes, never looked into. The bool is false when the payload is not what `expect` says
/// (kind is then Text or Bytes).
///
/// A value nested deeper than [`crate::limits::VALUE_DEPTH_MAX`] and a MessagePack string that is not UTF-8 do not count as complete.
pub fn classify(payload: &[u8], expect: Expect) -> (Kind, bool) {
    match expect {
        Expect::Auto => {
            // No UTF-8 text begins with 0x80..=0x9f, and one that begins with 0xdc..=0xdf (Syriac, Thaana, N'Ko) announces, read
            // as MessagePack, 32,768 elements or more: a shorter text is refused at its length.
            if msgpack::is_container(payload) && msgpack::check(payload).is_ok() {
                return (Kind::Msgpack, true);
            }
            match std::str::from_utf8(payload) {
                Ok(text) if json::check(text).is_ok() => (Kind::Json, true),
                Ok(_) => (Kind::Text, true),
                Err(_) => (Kind::Bytes, true),
            }
        }
        Expect::Msgpack if msgpack::check(payload).is_ok() => (Kind::Msgpack, true),
        Expect::Msgpack => (opaque(payload), false),
        Expect::Json => match std::str::from_utf8(payload) {
            Ok(text) if json::check(text).is_ok() => (Kind::Json, true),
            Ok(_) => (Kind::Text, false),
            Err(_) => (Kind::Bytes, false),
        },
        Expect::Raw => (opaque(payload), true),
    }
}

fn opaque(payload: &[u8]) -> Kind {
    if std::str::from_utf8(payload).is_ok() { Kind::Text } else { Kind::Bytes }
}

/// Appends one notification as a whole WebSocket frame. `type`, `channel`, `seq`, `data`, `timestamp`; in JSON, bytes are base64 with
/// `"encoding":"base64"`. Raw: the payload alone, text frame if it is UTF-8.
pub fn encode_notification(out: &mut Vec<u8>, format: Format, channel: &str, seq: u64, timestamp_ms: u64, kind: Kind, payload: &[u8]) {
    let body_bytes_guess = ENVELOPE_BYTES_GUESS + channel.len() + payload.len();
    match format {
        Format::Msgpack => write_frame(out, Opcode::Binary, body_bytes_guess, |out| {
            out.extend_from_slice(b"\x85\xa4type\xacnotification\xa7channel");
            msgpack::write_str(out, channel);
            out.extend_from_slice(b"\xa3seq");
            msgpack::write_uint(out, seq);
            out.extend_from_slice(b"\xa4data");
            write_msgpack_data(kind, payload, out);
            out.extend_from_slice(b"\xa9timestamp");
            msgpack::write_uint(out, timestamp_ms);
        }),
        Format::Json => write_frame(out, Opcode::Text, body_bytes_guess, |out| {
            out.extend_from_slice(b"{\"type\":\"notification\",\"channel\":");
            json::write_str(out, channel);
            out.extend_from_slice(b",\"seq\":");
            json::write_uint(out, seq);
            out.extend_from_slice(b",\"data\":");
            write_json_data(kind, payload, out);
            out.extend_from_slice(b",\"timestamp\":");
            json::write_uint(out, timestamp_ms);
            out.push(b'}');
        }),
        Format::Raw => {
            let is_text = match kind {
                Kind::Json | Kind::Text => true,
                Kind::Msgpack | Kind::Bytes => std::str::from_utf8(payload).is_ok(),
            };
            encode_header(out, if is_text { Opcode::Text } else { Opcode::Binary }, payload.len());
            out.extend_from_slice(payload);
        }
    }
}

/// What stands around channel and payload: 54 bytes in MessagePack, 80 in JSON, for numbers of usual size.
const ENVELOPE_BYTES_GUESS: usize = 72;

fn write_msgpack_data(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    match kind {
        Kind::Msgpack => out.extend_from_slice(payload),
        Kind::Json => {
            let start = out.len();
            let transcoded = std::str::from_utf8(payload).is_ok_and(|text| json::to_msgpack(text, out).is_ok());
            if !transcoded {
                out.truncate(start);
                write_msgpack_data(opaque(payload), payload, out);
            }
        }
        Kind::Text => msgpack::write_str_bytes(out, payload),
        Kind::Bytes => msgpack::write_bin(out, payload),
    }
}

fn write_json_data(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    match kind {
        Kind::Json => out.extend_from_slice(payload),
        Kind::Msgpack => {
            let start = out.len();
            if msgpack::to_json(payload, out).is_err() {
                out.truncate(start);
                write_json_data(opaque(payload), payload, out);
            }
        }
        Kind::Text => match std::str::from_utf8(payload) {
            Ok(text) => json::write_str(out, text),
            Err(_) => write_json_data(Kind::Bytes, payload, out),
        },
        Kind::Bytes => {
            json::write_base64(out, payload);
            out.extend_from_slice(b",\"encoding\":\"base64\"");
        }
    }
}

/// Appends a frame whose body is written in place by `write_body`, once. The header is first written for
/// `body_bytes_guess` and then corrected; the body moves only if the header's own size was guessed wrong.
pub(super) fn write_frame(out: &mut Vec<u8>, opcode: Opcode, body_bytes_guess: usize, write_body: impl FnOnce(&mut Vec<u8>)) {
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
