//! WebSocket frame headers, masks and close payloads (RFC 6455, section 5). Skeleton: signatures are fixed, bodies to come.

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

/// Appends the header of an unfragmented, unmasked server frame.
pub fn encode_header(_out: &mut Vec<u8>, _opcode: Opcode, _payload_len: usize) {
    todo!()
}
/// Appends a whole unmasked frame.
pub fn encode_frame(_out: &mut Vec<u8>, _opcode: Opcode, _payload: &[u8]) {
    todo!()
}
/// Appends a close frame; `reason` is cut at a character boundary to fit a control frame.
pub fn encode_close(_out: &mut Vec<u8>, _code: u16, _reason: &str) {
    todo!()
}
/// Bytes of a server frame header for a payload of this length: 2, 4 or 10.
pub const fn header_len(payload_len: usize) -> usize {
    if payload_len < 126 {
        2
    } else if payload_len <= 0xFFFF {
        4
    } else {
        10
    }
}
