//! What a payload from the bus is, and how a `notification` around it is written. Skeleton: signatures are fixed, bodies to come.
use super::Format;

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
pub fn classify(_payload: &[u8], _expect: Expect) -> (Kind, bool) {
    todo!()
}

/// Appends one notification as a whole WebSocket frame. `type`, `channel`, `seq`, `data`, `timestamp`; in JSON, bytes are base64 with
/// `"encoding":"base64"`. Raw: the payload alone, text frame if it is UTF-8.
pub fn encode_notification(
    _out: &mut Vec<u8>,
    _format: Format,
    _channel: &str,
    _seq: u64,
    _timestamp_ms: u64,
    _kind: Kind,
    _payload: &[u8],
) {
    todo!()
}
