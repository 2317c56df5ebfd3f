//! What an event stream says (Server-Sent Events: HTML, section 9.2): events, heartbeats, the position of a client with several channels, the farewell.
//!
//! What bites is what clients do. An id of letters outside ASCII stops one of them for ever, an id without data is lost on another, and a blank line after
//! a heartbeat is an empty message for a third; so ids are digits, what carries one has data, and a heartbeat is one line.

use super::close::{Goodbye, Reconnect, reconnect_delay_ms};
use super::command::Position;
use super::framing::Caption;
use super::json;

/// What a client asks for with `Last-Event-ID` after it was told not to come back.
pub const NEVER: &str = "never";

/// Appends one event. A body that is no text is base64, and its event says so.
pub(super) fn write(out: &mut Vec<u8>, caption: Caption, is_text: bool, write_body: impl FnOnce(&mut Vec<u8>)) {
    let event = if is_text { caption.event } else { Some(BASE64) };
    if let Some(event) = event {
        line(out, "event", event);
    }
    if let Some(position) = caption.position {
        out.extend_from_slice(b"id: ");
        write_position(out, Some(position));
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    let start = out.len();
    write_body(out);
    if !is_text {
        let body = out.split_off(start);
        json::write_base64(out, &body);
        // Without the quotes of a JSON string.
        out.remove(start);
        out.pop();
    }
    split_lines(out, start);
    out.extend_from_slice(b"\n\n");
}

const BASE64: &str = "base64";

/// Each line of a body stands in a field of its own: JSON may be spread over lines as it was published.
fn split_lines(out: &mut Vec<u8>, start: usize) {
    if !out[start..].iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return;
    }
    let body = out.split_off(start);
    let mut bytes = body.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' | b'\n' => {
                if byte == b'\r' {
                    bytes.next_if_eq(&b'\n');
                }
                out.extend_from_slice(b"\ndata: ");
            }
            byte => out.push(byte),
        }
    }
}

fn line(out: &mut Vec<u8>, field: &str, value: &str) {
    for part in [field, ": ", value, "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// `EPOCH:SEQ`, or `-` where it is not known.
fn write_position(out: &mut Vec<u8>, position: Option<Position>) {
    match position {
        Some(Position { epoch, seq }) => {
            json::write_uint(out, epoch);
            out.push(b':');
            json::write_uint(out, seq);
        }
        None => out.push(b'-'),
    }
}

/// The most that one position takes of an id, with the comma behind it: two numbers below 2^53.
pub const POSITION_BYTES_MAX: usize = 16 + 1 + 16 + 1;

/// Appends where the client stands in each of its channels, in the order in which it asked for them.
pub fn write_positions(out: &mut Vec<u8>, positions: impl Iterator<Item = Option<Position>>) {
    out.extend_from_slice(b"event: position\nid: ");
    for (at, position) in positions.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_position(out, position);
    }
    out.extend_from_slice(b"\ndata:\n\n");
}

/// Reads what [`write_positions`] has written, or the id of a client with one channel; None: it is nothing of ours.
pub fn read_positions(id: &str) -> Option<Vec<Option<Position>>> {
    id.split(',').map(|one| if one == "-" { Some(None) } else { Position::read(one).map(Some) }).collect()
}

/// The server lives.
pub(super) fn write_heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(b":\n");
}

/// How long a client waits before it connects again.
pub fn write_retry(out: &mut Vec<u8>, retry_ms: u64) {
    out.extend_from_slice(b"retry: ");
    // 0 is at once for some, and then as often as they can.
    json::write_uint(out, retry_ms.max(1));
    out.extend_from_slice(b"\n\n");
}

/// The last event: why the stream ends, and when to come back, if at all.
pub fn write_farewell(out: &mut Vec<u8>, code: u16, reason: &str, retry_ms: Option<u64>) {
    match retry_ms {
        Some(retry_ms) => write_retry(out, retry_ms),
        None => line(out, "id", NEVER),
    }
    out.extend_from_slice(b"event: close\ndata: {\"type\":\"close\",\"code\":");
    json::write_uint(out, code.into());
    out.extend_from_slice(b",\"reason\":");
    json::write_str(out, reason);
    out.extend_from_slice(b"}\n\n");
}

/// When a client that is sent away so is to come back.
pub(super) fn retry_after(goodbye: Goodbye, text: &str) -> Option<u64> {
    match goodbye.reconnect {
        Reconnect::Not => None,
        Reconnect::AtOnce => Some(RETRY_AT_ONCE_MS),
        Reconnect::Later => Some(reconnect_delay_ms(text).unwrap_or(RETRY_LATER_MS)),
    }
}

const RETRY_AT_ONCE_MS: u64 = 500;
const RETRY_LATER_MS: u64 = 5000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::close::CloseReason;

    fn written(caption: Caption, is_text: bool, body: &[u8]) -> String {
        let mut out = b"before".to_vec();
        write(&mut out, caption, is_text, |out| out.extend_from_slice(body));
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    #[test]
    fn an_event_is_told_line_by_line() {
        let at = |event, position| Caption { event, position };
        let position = Some(Position { epoch: 7, seq: 42 });
        assert_eq!(written(at(None, None), true, b"{}"), "data: {}\n\n");
        assert_eq!(written(at(None, position), true, b"{}"), "id: 7:42\ndata: {}\n\n");
        assert_eq!(written(at(Some("gap"), position), true, b"{}"), "event: gap\nid: 7:42\ndata: {}\n\n");
        assert_eq!(written(at(None, None), true, b"a\nb\r\n\rc\n"), "data: a\ndata: b\ndata: \ndata: c\ndata: \n\n");
        assert_eq!(written(at(None, position), false, b"\xff\xfe"), "event: base64\nid: 7:42\ndata: //4=\n\n");
        assert_eq!(written(at(None, None), true, b""), "data: \n\n");
    }

    #[test]
    fn positions_are_read_as_they_are_written() {
        let most = Position { epoch: (1 << 53) - 1, seq: (1 << 53) - 1 };
        for positions in [vec![Some(most)], vec![Some(most), None, Some(Position { epoch: 0, seq: 0 })], vec![None, None]] {
            let mut out = Vec::new();
            write_positions(&mut out, positions.iter().copied());
            let text = String::from_utf8(out).unwrap();
            let id = text.strip_prefix("event: position\nid: ").unwrap().strip_suffix("\ndata:\n\n").unwrap();
            assert!(id.len() < positions.len() * POSITION_BYTES_MAX);
            assert_eq!(read_positions(id).unwrap(), positions);
        }
        for id in ["", "7", "7:", ":7", "7:1,", "a:1", "7:-1", "9007199254740992:1", "7:1 ", "+7:1", "never", "7:1;8:1"] {
            assert_eq!(read_positions(id), None, "{id:?}");
        }
    }

    #[test]
    fn a_farewell_says_when_to_come_back() {
        let farewell = |reason: CloseReason, text: &str| {
            let goodbye = reason.goodbye().unwrap();
            let mut out = Vec::new();
            write_farewell(&mut out, goodbye.code, text, retry_after(goodbye, text));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            farewell(CloseReason::Restart, "reconnect in 0 ms"),
            "retry: 1\n\nevent: close\ndata: {\"type\":\"close\",\"code\":1012,\"reason\":\"reconnect in 0 ms\"}\n\n"
        );
        assert!(farewell(CloseReason::Overrun, "too slow").starts_with("retry: 500\n\n"));
        assert!(farewell(CloseReason::Shutdown, "").starts_with("retry: 5000\n\n"));
        assert!(farewell(CloseReason::Disconnected, "\"\n").starts_with("id: never\nevent: close\ndata: {"));
    }
}
