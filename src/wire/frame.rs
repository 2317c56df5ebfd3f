//! WebSocket frame headers, masks and close payloads (RFC 6455, section 5).
//!
//! Called by [`super::inbound`] to read what clients send, by [`super::event`], [`super::payload`] and the shards to write what the server
//! sends, and by the load generator to write as a client. Invariant: nothing here keeps state, and a frame that these functions write is
//! one that [`parse_header`] (or a conforming client) takes back unchanged.
//!
//! The header parse is ours and not tungstenite's because that one accepts lengths that are not minimal, and costs 22 ns where this costs 7.

use super::close::CloseReason;
use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
/// The reserved bit that says of a message that it is compressed, where that was agreed (RFC 7692, 6).
pub const COMPRESSED: u8 = 0x40;
const OPCODE_BITS: u8 = 0x0F;
const MASKED: u8 = 0x80;
const LENGTH_BITS: u8 = 0x7F;
/// In the seven length bits: the length follows in two bytes.
const LENGTH_IN_2: u8 = 126;
/// In the seven length bits: the length follows in eight bytes.
const LENGTH_IN_8: u8 = 127;

/// Longest header of a client frame: two bytes, eight of length, four of mask.
pub const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// Longest reason that fits a close frame beside its code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

/// Why the peer's bytes cannot be accepted. Maps to a close reason; its text is short enough for a close frame's reason and is meant for
/// whoever wrote the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("reserved bits of a frame header are set, where no extension that was agreed has any")]
    ReservedBits,
    #[error("opcode {opcode} is reserved")]
    ReservedOpcode { opcode: u8 },
    #[error("a frame from a client must be masked")]
    Unmasked,
    #[error("a frame length must be written in the fewest bytes that hold it")]
    LengthNotMinimal,
    #[error("the highest bit of a 64-bit frame length must be 0")]
    LengthTooLong,
    #[error("a control frame must not be fragmented")]
    ControlFragmented,
    #[error("a control frame must not be longer than 125 bytes")]
    ControlTooLong,
    #[error("continuation frame, but no fragmented message was begun")]
    UnexpectedContinuation,
    #[error("new message, but the fragmented one before it was not ended")]
    ExpectedContinuation,
    #[error("a close frame must be empty or begin with a code of two bytes")]
    CloseTooShort,
    #[error("close code {code} must not be sent in a close frame")]
    CloseCode { code: u16 },
    #[error("a close reason must be UTF-8")]
    CloseReasonNotUtf8,
    #[error("a text message must be UTF-8")]
    TextNotUtf8,
    #[error("a compressed message must be DEFLATE, as permessage-deflate has it")]
    NotDeflate,
    #[error("nothing may follow the request for an event stream; what is to be asked for stands in its URL")]
    BehindRequest,
    #[error("message is larger than {bytes_max} bytes")]
    MessageTooBig { bytes_max: usize },
}

impl Violation {
    pub const fn close_reason(&self) -> CloseReason {
        match self {
            Violation::BehindRequest
            | Violation::ReservedBits
            | Violation::ReservedOpcode { .. }
            | Violation::Unmasked
            | Violation::LengthNotMinimal
            | Violation::LengthTooLong
            | Violation::ControlFragmented
            | Violation::ControlTooLong
            | Violation::UnexpectedContinuation
            | Violation::ExpectedContinuation
            | Violation::CloseTooShort
            | Violation::CloseCode { .. } => CloseReason::ProtocolError,
            Violation::CloseReasonNotUtf8 | Violation::TextNotUtf8 => CloseReason::InvalidUtf8,
            Violation::NotDeflate => CloseReason::InvalidDeflate,
            Violation::MessageTooBig { .. } => CloseReason::MessageTooBig,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    /// The opcode of the low four bits of a frame's first byte; None for those that RFC 6455 reserves.
    pub const fn from_bits(bits: u8) -> Option<Opcode> {
        match bits {
            0x0 => Some(Opcode::Continuation),
            0x1 => Some(Opcode::Text),
            0x2 => Some(Opcode::Binary),
            0x8 => Some(Opcode::Close),
            0x9 => Some(Opcode::Ping),
            0xA => Some(Opcode::Pong),
            _ => None,
        }
    }

    /// Close, ping and pong: never fragmented, short, allowed between the fragments of a message.
    pub const fn is_control(self) -> bool {
        (self as u8) & 0x8 != 0
    }
}

/// The header of a frame from a client, checked by every rule that needs no more than the header itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub fin: bool,
    /// Of the first frame of a message: it is compressed.
    pub compressed: bool,
    pub opcode: Opcode,
    pub mask: [u8; 4],
    /// Below 2⁶³; at most 125 for control frames. Announced, not received: never reserve memory for it.
    pub payload_len: u64,
    /// Bytes of the header itself, 6 to 14.
    pub header_len: u8,
}

/// Reads the header at the start of `bytes`, which come from a client. `Ok(None)` means more bytes are needed; a violation is reported
/// with the first byte that shows it, so a peer that is wrong does not get to send the rest.
#[inline]
pub fn parse_header(bytes: &[u8]) -> Result<Option<Header>, Violation> {
    parse_agreed_header(bytes, false)
}

/// The same from a client with whom permessage-deflate was agreed, if so.
#[inline]
pub fn parse_agreed_header(bytes: &[u8], is_deflate_agreed: bool) -> Result<Option<Header>, Violation> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    if first & RESERVED_BITS != 0 && !(is_deflate_agreed && may_be_compressed(first)) {
        return Err(Violation::ReservedBits);
    }
    let Some(opcode) = Opcode::from_bits(first & OPCODE_BITS) else {
        return Err(Violation::ReservedOpcode { opcode: first & OPCODE_BITS });
    };
    let fin = first & FIN != 0;
    if opcode.is_control() && !fin {
        return Err(Violation::ControlFragmented);
    }

    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if second & MASKED == 0 {
        return Err(Violation::Unmasked);
    }
    let short_length = second & LENGTH_BITS;
    if opcode.is_control() && short_length as usize > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(Violation::ControlTooLong);
    }

    let (payload_len, mask_at) = match short_length {
        LENGTH_IN_2 => {
            let Some(length) = bytes[2..].first_chunk::<2>() else { return Ok(None) };
            let length = u64::from(u16::from_be_bytes(*length));
            if length < u64::from(LENGTH_IN_2) {
                return Err(Violation::LengthNotMinimal);
            }
            (length, 4)
        }
        LENGTH_IN_8 => {
            let Some(length) = bytes[2..].first_chunk::<8>() else { return Ok(None) };
            let length = u64::from_be_bytes(*length);
            if length > i64::MAX as u64 {
                return Err(Violation::LengthTooLong);
            }
            if length <= u64::from(u16::MAX) {
                return Err(Violation::LengthNotMinimal);
            }
            (length, 10)
        }
        length => (u64::from(length), 2),
    };
    let Some(&mask) = bytes[mask_at..].first_chunk::<4>() else { return Ok(None) };
    Ok(Some(Header { fin, compressed: first & COMPRESSED != 0, opcode, mask, payload_len, header_len: mask_at as u8 + 4 }))
}

/// Of the reserved bits a frame's first byte has the one for compression alone, and it is the first frame of a message.
fn may_be_compressed(first: u8) -> bool {
    first & RESERVED_BITS == COMPRESSED && matches!(Opcode::from_bits(first & OPCODE_BITS), Some(Opcode::Text | Opcode::Binary))
}

/// The header of a frame from a server, as a client reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerHeader {
    pub fin: bool,
    /// Of the first frame of a message: it is compressed.
    pub compressed: bool,
    pub opcode: Opcode,
    /// Announced, not received: never reserve memory for it.
    pub payload_len: u64,
    /// Bytes of the header itself: 2, 4 or 10.
    pub header_len: u8,
}

/// Why a server's bytes are not a frame. A client has no close code to answer with that would help anybody: it drops the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadServerFrame {
    #[error("reserved bits of a frame header are set, where no extension that was agreed has any")]
    ReservedBits,
    #[error("opcode {opcode} is reserved")]
    ReservedOpcode { opcode: u8 },
    #[error("a frame from a server must not be masked")]
    Masked,
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    #[error("the highest bit of a 64-bit frame length must be 0")]
    LengthTooLong,
}

/// Reads the header at the start of `bytes`, which come from a server. `Ok(None)` means more bytes are needed. Called by the load
/// generator; lengths that are not minimal pass, because others' servers are its targets too.
#[inline]
pub fn parse_server_header(bytes: &[u8]) -> Result<Option<ServerHeader>, BadServerFrame> {
    parse_agreed_server_header(bytes, false)
}

/// The same from a server with which permessage-deflate was agreed, if so.
#[inline]
pub fn parse_agreed_server_header(bytes: &[u8], is_deflate_agreed: bool) -> Result<Option<ServerHeader>, BadServerFrame> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & RESERVED_BITS != 0 && !(is_deflate_agreed && may_be_compressed(*first)) {
        return Err(BadServerFrame::ReservedBits);
    }
    let Some(opcode) = Opcode::from_bits(first & OPCODE_BITS) else {
        return Err(BadServerFrame::ReservedOpcode { opcode: first & OPCODE_BITS });
    };
    if second & MASKED != 0 {
        return Err(BadServerFrame::Masked);
    }
    let fin = first & FIN != 0;
    let short_length = second & LENGTH_BITS;
    if opcode.is_control() && (!fin || short_length as usize > CONTROL_PAYLOAD_BYTES_MAX) {
        return Err(BadServerFrame::Control);
    }
    let (payload_len, header_len) = match short_length {
        LENGTH_IN_2 => {
            let Some(length) = rest.first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*length)), 4)
        }
        LENGTH_IN_8 => {
            let Some(length) = rest.first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*length), 10)
        }
        length => (u64::from(length), 2),
    };
    if payload_len > i64::MAX as u64 {
        return Err(BadServerFrame::LengthTooLong);
    }
    Ok(Some(ServerHeader { fin, compressed: first & COMPRESSED != 0, opcode, payload_len, header_len }))
}

/// Applies `mask` to `buf`, whose first byte is byte number `phase` of the frame's payload. Masking and unmasking are the same operation.
///
/// Eight bytes at a time: the compiler turns the loop into vector instructions, and a call costs about a nanosecond for a short command.
#[inline]
pub fn unmask(buf: &mut [u8], mask: [u8; 4], phase: usize) {
    let mut mask = mask;
    mask.rotate_left(phase % 4);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);

    let (words, rest) = buf.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

/// Whether an endpoint may send this code in a close frame: RFC 6455, section 7.4, with what IANA registered since (1012 to 1014).
/// 1004 to 1006 and 1015 stand for "no code"; below 1000 and 1016 to 2999 mean nothing.
pub const fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads an unmasked close payload. None when it is empty, which is allowed; the reason is valid UTF-8.
pub fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::CloseTooShort) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_close_code(code) {
        return Err(Violation::CloseCode { code });
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok(Some((code, reason))),
        Err(_) => Err(Violation::CloseReasonNotUtf8),
    }
}

/// Appends the header of an unfragmented, unmasked server frame.
#[inline]
pub fn encode_header(out: &mut Vec<u8>, opcode: Opcode, payload_len: usize) {
    push_header(out, FIN | opcode as u8, 0, payload_len);
}

/// The same of a compressed message.
pub fn encode_compressed_header(out: &mut Vec<u8>, opcode: Opcode, payload_len: usize) {
    push_header(out, FIN | COMPRESSED | opcode as u8, 0, payload_len);
}

/// Appends a whole unmasked frame.
#[inline]
pub fn encode_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    debug_assert!(!opcode.is_control() || payload.len() <= CONTROL_PAYLOAD_BYTES_MAX);
    encode_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a close frame; `reason` is cut at a character boundary to fit a control frame.
pub fn encode_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    debug_assert!(is_close_code(code), "{code} must not go on the wire");
    let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    encode_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a frame as a client sends it, masked. For tests and the load generator; `fin` and `opcode` are taken as given, so that
/// fragments, and frames that no client should send, can be written too.
pub fn encode_masked_frame(out: &mut Vec<u8>, fin: bool, opcode: Opcode, mask: [u8; 4], payload: &[u8]) {
    push_masked_frame(out, if fin { FIN } else { 0 } | opcode as u8, mask, payload);
}

/// The same of a message, or its first fragment, that is compressed.
pub fn encode_masked_compressed_frame(out: &mut Vec<u8>, fin: bool, opcode: Opcode, mask: [u8; 4], payload: &[u8]) {
    push_masked_frame(out, if fin { FIN } else { 0 } | COMPRESSED | opcode as u8, mask, payload);
}

fn push_masked_frame(out: &mut Vec<u8>, first: u8, mask: [u8; 4], payload: &[u8]) {
    push_header(out, first, MASKED, payload.len());
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], mask, 0);
}

#[inline]
fn push_header(out: &mut Vec<u8>, first: u8, masked: u8, payload_len: usize) {
    if payload_len < LENGTH_IN_2 as usize {
        out.extend_from_slice(&[first, masked | payload_len as u8]);
    } else if let Ok(length) = u16::try_from(payload_len) {
        let [high, low] = length.to_be_bytes();
        out.extend_from_slice(&[first, masked | LENGTH_IN_2, high, low]);
    } else {
        out.extend_from_slice(&[first, masked | LENGTH_IN_8]);
        out.extend_from_slice(&(payload_len as u64).to_be_bytes());
    }
}

/// Bytes of a server frame header for a payload of this length: 2, 4 or 10.
pub const fn header_len(payload_len: usize) -> usize {
    if payload_len < LENGTH_IN_2 as usize {
        2
    } else if payload_len <= u16::MAX as usize {
        4
    } else {
        10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    #[test]
    fn a_client_reads_what_the_server_writes_at_every_split() {
        for length in LENGTHS {
            let mut out = Vec::new();
            encode_frame(&mut out, Opcode::Binary, &vec![7; length]);
            let expected = ServerHeader {
                fin: true,
                compressed: false,
                opcode: Opcode::Binary,
                payload_len: length as u64,
                header_len: header_len(length) as u8,
            };
            for end in 0..=header_len(length) {
                let found = parse_server_header(&out[..end]).unwrap();
                assert_eq!(found, (end == header_len(length)).then_some(expected), "{length} bytes, cut at {end}");
            }
        }
    }

    #[test]
    fn a_client_refuses_what_no_server_may_write() {
        use BadServerFrame::*;
        for (bytes, expected) in [
            (&[0xC1, 0][..], ReservedBits),
            (&[0x83, 0], ReservedOpcode { opcode: 3 }),
            (&[0x81, 0x80], Masked),
            (&[0x09, 0], Control),
            (&[0x89, 126], Control),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], LengthTooLong),
        ] {
            assert_eq!(parse_server_header(bytes), Err(expected));
        }
    }

    /// On both sides of each change of the header's length.
    const LENGTHS: [usize; 9] = [0, 1, 125, 126, 127, 65_534, 65_535, 65_536, 70_000];

    #[test]
    fn a_masked_frame_is_read_back_at_every_split_of_its_header() {
        for length in LENGTHS {
            for (fin, opcode) in [(true, Opcode::Text), (false, Opcode::Binary), (true, Opcode::Continuation)] {
                let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
                let mut bytes = Vec::new();
                encode_masked_frame(&mut bytes, fin, opcode, MASK, &payload);
                let header_len = header_len(length) + 4;
                for split in 0..header_len {
                    assert_eq!(parse_header(&bytes[..split]), Ok(None), "length {length}, split {split}");
                }
                let expected =
                    Header { fin, compressed: false, opcode, mask: MASK, payload_len: length as u64, header_len: header_len as u8 };
                assert_eq!(parse_header(&bytes[..header_len]), Ok(Some(expected)));
                assert_eq!(parse_header(&bytes), Ok(Some(expected)));
                let body = &mut bytes[header_len..];
                unmask(body, MASK, 0);
                assert_eq!(body, payload);
            }
        }
    }

    #[test]
    fn server_frames_have_the_announced_header_length_and_tungstenite_reads_them() {
        use tungstenite::protocol::frame::{FrameHeader, coding};
        for length in LENGTHS {
            let mut bytes = b"before".to_vec();
            encode_frame(&mut bytes, Opcode::Binary, &vec![7; length]);
            assert_eq!(bytes.len(), 6 + header_len(length) + length);
            let mut cursor = std::io::Cursor::new(&bytes[6..]);
            let (header, payload_len) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert_eq!((payload_len, cursor.position()), (length as u64, header_len(length) as u64));
            assert_eq!((header.is_final, header.opcode, header.mask), (true, coding::OpCode::Data(coding::Data::Binary), None));
        }
    }

    #[test]
    fn each_broken_header_is_named_with_the_first_byte_that_shows_it() {
        let m = [1, 2, 3, 4];
        let with_mask = |head: &[u8]| [head, &m].concat();
        let cases = [
            (with_mask(&[0xC1, 0x80]), 1, Violation::ReservedBits),
            (with_mask(&[0xA1, 0x80]), 1, Violation::ReservedBits),
            (with_mask(&[0x91, 0x80]), 1, Violation::ReservedBits),
            (with_mask(&[0x83, 0x80]), 1, Violation::ReservedOpcode { opcode: 3 }),
            (with_mask(&[0x87, 0x80]), 1, Violation::ReservedOpcode { opcode: 7 }),
            (with_mask(&[0x8B, 0x80]), 1, Violation::ReservedOpcode { opcode: 11 }),
            (with_mask(&[0x8F, 0x80]), 1, Violation::ReservedOpcode { opcode: 15 }),
            (with_mask(&[0x08, 0x80]), 1, Violation::ControlFragmented),
            (with_mask(&[0x09, 0x80]), 1, Violation::ControlFragmented),
            (with_mask(&[0x0A, 0x80]), 1, Violation::ControlFragmented),
            (with_mask(&[0x81, 0x05]), 2, Violation::Unmasked),
            (with_mask(&[0x88, 0x80 | 126, 0, 126]), 2, Violation::ControlTooLong),
            (with_mask(&[0x89, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0]), 2, Violation::ControlTooLong),
            (with_mask(&[0x81, 0x80 | 126, 0, 125]), 4, Violation::LengthNotMinimal),
            (with_mask(&[0x81, 0x80 | 126, 0, 0]), 4, Violation::LengthNotMinimal),
            (with_mask(&[0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), 10, Violation::LengthNotMinimal),
            (with_mask(&[0x82, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0]), 10, Violation::LengthTooLong),
        ];
        for (bytes, shown_by, violation) in cases {
            for split in 0..shown_by {
                assert_eq!(parse_header(&bytes[..split]), Ok(None), "{violation:?} at {split}");
            }
            for split in shown_by..=bytes.len() {
                assert_eq!(parse_header(&bytes[..split]), Err(violation.clone()), "at {split}");
            }
        }
    }

    #[test]
    fn a_message_may_be_compressed_where_that_was_agreed_and_nothing_else_may() {
        for first in 0..=u8::MAX {
            let opcode = first & OPCODE_BITS;
            // 0x40 alone, on text or binary.
            let may = first & RESERVED_BITS == 0x40 && matches!(opcode, 1 | 2);
            let client = [first, 0x80, 1, 2, 3, 4];
            let server = [first, 0];
            if first & RESERVED_BITS == 0 {
                assert_eq!(parse_agreed_header(&client, true), parse_header(&client));
                assert_eq!(parse_agreed_server_header(&server, true), parse_server_header(&server));
                continue;
            }
            assert_eq!(parse_header(&client), Err(Violation::ReservedBits));
            assert_eq!(parse_server_header(&server), Err(BadServerFrame::ReservedBits));
            if may {
                assert!(parse_agreed_header(&client, true).unwrap().unwrap().compressed);
                assert!(parse_agreed_server_header(&server, true).unwrap().unwrap().compressed);
            } else {
                assert_eq!(parse_agreed_header(&client, true), Err(Violation::ReservedBits));
                assert_eq!(parse_agreed_server_header(&server, true), Err(BadServerFrame::ReservedBits));
            }
        }
    }

    #[test]
    fn the_longest_length_that_rfc_6455_allows_is_read() {
        let bytes = [0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4];
        assert_eq!(bytes.len(), CLIENT_HEADER_BYTES_MAX);
        assert_eq!(parse_header(&bytes).unwrap().unwrap().payload_len, i64::MAX as u64);
    }

    #[test]
    fn unmask_agrees_with_the_definition_for_every_length_phase_and_split() {
        for length in 0..40 {
            let plain: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            for phase in 0..9 {
                let expected: Vec<u8> = plain.iter().enumerate().map(|(at, byte)| byte ^ MASK[(at + phase) % 4]).collect();
                for split in 0..=length {
                    let mut bytes = plain.clone();
                    let (head, tail) = bytes.split_at_mut(split);
                    unmask(head, MASK, phase);
                    unmask(tail, MASK, phase + split);
                    assert_eq!(bytes, expected, "length {length}, phase {phase}, split {split}");
                }
            }
        }
    }

    #[test]
    fn close_payloads() {
        assert_eq!(parse_close(b""), Ok(None));
        assert_eq!(parse_close(&[3]), Err(Violation::CloseTooShort));
        assert_eq!(parse_close(&[3, 0xE8]), Ok(Some((1000, ""))));
        assert_eq!(parse_close(b"\x0F\xA8slow \xE2\x82\xAC"), Ok(Some((4008, "slow €"))));
        assert_eq!(parse_close(b"\x03\xE8\xE2\x82"), Err(Violation::CloseReasonNotUtf8));
        assert_eq!(parse_close(b"\x03\xED"), Err(Violation::CloseCode { code: 1005 }));
    }

    #[test]
    fn close_codes_that_may_be_sent() {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(is_close_code(code), "{code}");
        }
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            assert!(!is_close_code(code), "{code}");
        }
    }

    #[test]
    fn a_close_reason_is_cut_at_a_character() {
        let mut bytes = Vec::new();
        encode_close(&mut bytes, 1001, "");
        assert_eq!(bytes, [0x88, 2, 0x03, 0xE9]);

        for (reason, kept) in [("x".repeat(123), 123), ("x".repeat(200), 123), ("€".repeat(41), 123), ("x€".repeat(60), 121)] {
            let mut bytes = Vec::new();
            encode_close(&mut bytes, 4008, &reason);
            assert_eq!(bytes.len(), 2 + 2 + kept);
            assert_eq!(parse_close(&bytes[2..]), Ok(Some((4008, &reason[..kept]))));
        }
    }
}
