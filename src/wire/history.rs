//! What a client asks of the past of a channel, and how that is told: the command `history` and its event. Read by [`super::command`], written by
//! [`super::event`], answered by the bus.

use super::command::Position;
use super::payload::{Kind, write_json_data, write_msgpack_data};
use super::{json, msgpack};

/// Which messages, of those that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistoryRange {
    /// The newest.
    Newest,
    /// Those that follow this position, oldest first.
    After(Position),
    /// The last ones before this position.
    Before(Position),
}

/// A message of the past.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub seq: u64,
    pub timestamp_ms: u64,
    pub kind: Kind,
    pub payload: &'a [u8],
}

pub(super) fn write_msgpack(messages: &[Message<'_>], out: &mut Vec<u8>) {
    rmp::encode::write_array_len(out, messages.len() as u32).expect("a Vec takes every write");
    for message in messages {
        out.extend_from_slice(b"\x83\xa3seq");
        msgpack::write_uint(out, message.seq);
        out.extend_from_slice(b"\xa4data");
        write_msgpack_data(message.kind, message.payload, out);
        out.extend_from_slice(b"\xa9timestamp");
        msgpack::write_uint(out, message.timestamp_ms);
    }
}

/// Also for the control port.
pub fn write_json(messages: &[Message<'_>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (place, message) in messages.iter().enumerate() {
        out.extend_from_slice(if place == 0 { b"{\"seq\":" } else { b",{\"seq\":" });
        json::write_uint(out, message.seq);
        out.extend_from_slice(b",\"data\":");
        write_json_data(message.kind, message.payload, out);
        out.extend_from_slice(b",\"timestamp\":");
        json::write_uint(out, message.timestamp_ms);
        out.push(b'}');
    }
    out.push(b']');
}
