//! What a payload from the bus is, and how a `notification` around it is written.
//!
//! The bus thread calls [`classify`] once per message, up to 300,000 times a second; [`crate::fanout::batch`] calls
//! [`encode_notification`] once per message and encoding, whatever the number of subscribers. A kind is a promise about
//! the bytes: JSON is spliced into JSON frames and MessagePack into MessagePack frames without a second look.

use super::command::Position;
use super::framing::{Caption, Encoding};
use super::{Format, json, msgpack, transcode};
use crate::named::named;

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

named! {
    /// The setting `payload`: what a channel's publishers promise to send.
    Expect {
        Auto = "auto",
        Msgpack = "msgpack",
        Json = "json",
        Raw = "raw",
    }
}

impl Expect {
    /// What a payload has to be, for whoever sent something else. `Auto` and `Raw` take everything.
    pub const fn wanted(self) -> &'static str {
        match self {
            Expect::Auto | Expect::Raw => "any bytes",
            Expect::Msgpack => "one complete MessagePack value",
            Expect::Json => "one complete JSON text",
        }
    }
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

/// What one payload was found to be, so that it is looked through once, however many channels it is for.
#[derive(Debug, Default)]
pub struct Looked(Option<(Expect, (Kind, bool))>);

impl Looked {
    /// [`classify`], always with the same payload.
    #[inline]
    pub fn at(&mut self, payload: &[u8], expect: Expect) -> (Kind, bool) {
        match self.0 {
            Some((before, found)) if before == expect => found,
            _ => self.0.insert((expect, classify(payload, expect))).1,
        }
    }
}

fn opaque(payload: &[u8]) -> Kind {
    if std::str::from_utf8(payload).is_ok() { Kind::Text } else { Kind::Bytes }
}

/// Appends one notification, framed. `type`, `channel`, `seq`, `data`, `timestamp`; in JSON, bytes are base64 with
/// `"encoding":"base64"`. Raw: the payload alone, text if it is UTF-8.
pub fn encode_notification(
    out: &mut Vec<u8>,
    encoding: Encoding,
    channel: &str,
    position: Position,
    timestamp_ms: u64,
    kind: Kind,
    payload: &[u8],
) {
    encode(out, encoding, channel, Some(position), timestamp_ms, kind, payload);
}

/// The same of a message that has no number: without `seq`.
pub fn encode_unnumbered(out: &mut Vec<u8>, encoding: Encoding, channel: &str, timestamp_ms: u64, kind: Kind, payload: &[u8]) {
    encode(out, encoding, channel, None, timestamp_ms, kind, payload);
}

#[inline]
fn encode(out: &mut Vec<u8>, encoding: Encoding, channel: &str, position: Option<Position>, timestamp_ms: u64, kind: Kind, payload: &[u8]) {
    let Encoding { format, framing } = encoding;
    let (caption, seq) = (Caption { event: None, position }, position.map(|position| position.seq));
    let body_bytes_guess = body_bytes_guess(format, channel, payload.len());
    match format {
        Format::Msgpack => framing.write(out, caption, false, body_bytes_guess, |out| {
            out.push(if seq.is_some() { 0x85 } else { 0x84 });
            out.extend_from_slice(b"\xa4type\xacnotification\xa7channel");
            msgpack::write_str(out, channel);
            if let Some(seq) = seq {
                out.extend_from_slice(b"\xa3seq");
                msgpack::write_uint(out, seq);
            }
            out.extend_from_slice(b"\xa4data");
            write_msgpack_data(kind, payload, out);
            out.extend_from_slice(b"\xa9timestamp");
            msgpack::write_uint(out, timestamp_ms);
        }),
        Format::Json => framing.write(out, caption, true, body_bytes_guess, |out| {
            out.extend_from_slice(b"{\"type\":\"notification\",\"channel\":");
            json::write_str(out, channel);
            if let Some(seq) = seq {
                out.extend_from_slice(b",\"seq\":");
                json::write_uint(out, seq);
            }
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
            framing.write(out, caption, is_text, body_bytes_guess, |out| out.extend_from_slice(payload));
        }
    }
}

/// Envelope, channel and payload together, if numbers are of usual size and the payload keeps its spelling.
const fn body_bytes_guess(format: Format, channel: &str, payload_bytes: usize) -> usize {
    match format {
        Format::Msgpack => 58 + channel.len() + payload_bytes,
        Format::Json => 80 + channel.len() + payload_bytes,
        Format::Raw => payload_bytes,
    }
}

/// Memory for a framed notification: enough for most, and nearly all of it used, which spares a second allocation.
pub const fn notification_bytes_guess(format: Format, channel: &str, payload_bytes: usize) -> usize {
    /// A frame's header, and numbers that are longer than usual.
    const SPARE: usize = 16;
    body_bytes_guess(format, channel, payload_bytes) + SPARE
}

pub(super) fn write_msgpack_data(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    match kind {
        Kind::Msgpack => out.extend_from_slice(payload),
        Kind::Json => {
            let start = out.len();
            let transcoded = std::str::from_utf8(payload).is_ok_and(|text| transcode::json_to_msgpack(text, out).is_ok());
            if !transcoded {
                out.truncate(start);
                write_msgpack_data(opaque(payload), payload, out);
            }
        }
        Kind::Text => msgpack::write_str_bytes(out, payload),
        Kind::Bytes => msgpack::write_bin(out, payload),
    }
}

pub(super) fn write_json_data(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    match kind {
        Kind::Json => out.extend_from_slice(payload),
        Kind::Msgpack => {
            let start = out.len();
            if transcode::msgpack_to_json(payload, out).is_err() {
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

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::frame::Opcode;
    use super::super::framing::tests::split_frame;
    use super::super::json::tests::any_value;
    use super::*;
    use crate::limits::VALUE_DEPTH_MAX;

    fn at(seq: u64) -> Position {
        Position { epoch: 7, seq }
    }

    /// One notification on `user:é"`, seq 300, decoded.
    fn notification(format: Format, kind: Kind, payload: &[u8]) -> Value {
        let mut out = b"before".to_vec();
        encode_notification(&mut out, Encoding::web_socket(format), "user:é\"", at(300), 1_700_000_000_000, kind, payload);
        let (opcode, body, rest) = split_frame(&out[6..]);
        assert_eq!((&out[..6], rest), (&b"before"[..], &b""[..]));
        let value: Value = match format {
            Format::Msgpack => {
                assert_eq!(opcode, Opcode::Binary as u8);
                rmp_serde::from_slice(body).unwrap()
            }
            Format::Json => {
                assert_eq!(opcode, Opcode::Text as u8);
                serde_json::from_slice(body).unwrap()
            }
            Format::Raw => unreachable!(),
        };
        assert_eq!(
            (&value["type"], &value["channel"], &value["seq"], &value["timestamp"]),
            (&json!("notification"), &json!("user:é\""), &json!(300), &json!(1_700_000_000_000u64))
        );
        value
    }

    /// The bytes of `data` in a MessagePack notification; for `bin`, which serde_json's values cannot hold.
    fn msgpack_data(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_notification(&mut out, Encoding::web_socket(Format::Msgpack), "a", at(1), 2, kind, payload);
        let mut data = None;
        msgpack::fields(split_frame(&out).1, &mut |key, value| data = data.take().or((key == "data").then(|| value.to_vec()))).unwrap();
        data.unwrap()
    }

    #[test]
    fn auto_tells_the_kinds_apart() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        for (payload, kind) in [
            (&b""[..], Kind::Text),
            (b"hello", Kind::Text),
            (b"{\"a\":1", Kind::Text),
            (b"{\"a\":1}", Kind::Json),
            (b" [1,\n2] ", Kind::Json),
            (b"1", Kind::Json),
            (b"\"x\"", Kind::Json),
            (b"null", Kind::Json),
            (b"\x81\xa1a\x01", Kind::Msgpack),
            (b"\x90", Kind::Msgpack),
            (b"\x80", Kind::Msgpack),
            (b"\x81\xa1a\x01\x02", Kind::Bytes),
            (b"\x81\xa1a", Kind::Bytes),
            (b"\x81\xa1\xff\x01", Kind::Bytes),
            (b"\xc4\x01\x00", Kind::Bytes),
            (b"\xff\xfe", Kind::Bytes),
            (b"\xc1\x01", Kind::Bytes),
            ("ߊߋߌ".as_bytes(), Kind::Text),
            (deep(VALUE_DEPTH_MAX).as_bytes(), Kind::Json),
            (deep(VALUE_DEPTH_MAX + 1).as_bytes(), Kind::Text),
            (&[&[0x91; VALUE_DEPTH_MAX][..], &[0]].concat(), Kind::Msgpack),
            (&[&[0x91; VALUE_DEPTH_MAX + 1][..], &[0]].concat(), Kind::Bytes),
        ] {
            assert_eq!(classify(payload, Expect::Auto), (kind, true), "{payload:?}");
        }
    }

    #[test]
    fn a_promise_is_checked() {
        for (payload, expect, result) in [
            (&b"\x05"[..], Expect::Msgpack, (Kind::Msgpack, true)),
            (b"\x91\x05", Expect::Msgpack, (Kind::Msgpack, true)),
            (b"\x05\x05", Expect::Msgpack, (Kind::Text, false)),
            (b"\x91", Expect::Msgpack, (Kind::Bytes, false)),
            (b"", Expect::Msgpack, (Kind::Text, false)),
            (b"{}", Expect::Json, (Kind::Json, true)),
            (b"{", Expect::Json, (Kind::Text, false)),
            (b"\x91\x05", Expect::Json, (Kind::Bytes, false)),
            (b"{}", Expect::Raw, (Kind::Text, true)),
            (b"\x91\x05", Expect::Raw, (Kind::Bytes, true)),
        ] {
            assert_eq!(classify(payload, expect), result, "{payload:?} {expect:?}");
        }
    }

    /// One guess for two spellings cost a second allocation for each batch of one message.
    #[test]
    fn memory_for_a_notification_is_guessed_closely() {
        for (format, kind) in [(Format::Msgpack, Kind::Msgpack), (Format::Json, Kind::Json), (Format::Raw, Kind::Text)] {
            for (seq, payload_bytes) in [(1, 20), (300, 128), (70_000, 1000), (10_000_000, 70_000)] {
                let (channel, mut out) = ("user:123456", Vec::new());
                let payload = vec![b'1'; payload_bytes];
                encode_notification(&mut out, Encoding::web_socket(format), channel, at(seq), 1_700_000_000_000, kind, &payload);
                let spare = notification_bytes_guess(format, channel, payload_bytes).checked_sub(out.len());
                assert!(spare.is_some_and(|spare| spare < 32), "{format:?}, {payload_bytes} bytes: {spare:?} bytes are left over");
            }
        }
    }

    #[test]
    fn each_kind_reaches_each_format() {
        let fields = |data: Value| json!({"type": "notification", "channel": "user:é\"", "seq": 300, "data": data, "timestamp": 1_700_000_000_000u64});
        for (kind, payload, data) in [
            (Kind::Json, &b" {\"a\":\n[1,2]} "[..], json!({"a": [1, 2]})),
            (Kind::Msgpack, b"\x81\xa1a\x92\x01\x02", json!({"a": [1, 2]})),
            (Kind::Text, "a \"é\"".as_bytes(), json!("a \"é\"")),
        ] {
            assert_eq!(notification(Format::Json, kind, payload), fields(data.clone()));
            assert_eq!(notification(Format::Msgpack, kind, payload), fields(data));
        }
        let mut expected = fields(json!("//4="));
        expected["encoding"] = json!("base64");
        assert_eq!(notification(Format::Json, Kind::Bytes, b"\xff\xfe"), expected);
        assert_eq!(msgpack_data(Kind::Bytes, b"\xff\xfe"), b"\xc4\x02\xff\xfe");
    }

    #[test]
    fn json_is_spliced_as_it_was_written() {
        let mut out = Vec::new();
        encode_notification(&mut out, Encoding::web_socket(Format::Json), "a", at(1), 2, Kind::Json, b"[1.0, \"\\u00e9\"]");
        let expected = br#"{"type":"notification","channel":"a","seq":1,"data":[1.0, "\u00e9"],"timestamp":2}"#;
        assert_eq!(&out[2..], expected);
    }

    #[test]
    fn raw_is_the_payload_alone() {
        for (kind, payload, opcode) in [
            (Kind::Json, &b"{}"[..], Opcode::Text),
            (Kind::Text, b"", Opcode::Text),
            (Kind::Msgpack, b"\x90", Opcode::Binary),
            (Kind::Msgpack, b"\x05", Opcode::Text),
            (Kind::Bytes, b"\xff", Opcode::Binary),
        ] {
            let mut out = Vec::new();
            encode_notification(&mut out, Encoding::web_socket(Format::Raw), "a", at(1), 2, kind, payload);
            assert_eq!(split_frame(&out), (opcode as u8, payload, &b""[..]));
        }
    }

    #[test]
    fn every_header_size_is_right() {
        for len in (0..300).chain(65_200..65_700).chain([200_000]) {
            let text = "t".repeat(len);
            assert_eq!(notification(Format::Json, Kind::Text, text.as_bytes())["data"], text);
            assert_eq!(notification(Format::Msgpack, Kind::Text, text.as_bytes())["data"], text);
        }
    }

    #[test]
    fn a_kind_that_is_not_true_still_gives_a_whole_frame() {
        assert_eq!(notification(Format::Msgpack, Kind::Json, b"[1,2")["data"], "[1,2");
        assert_eq!(msgpack_data(Kind::Json, b"\xff"), b"\xc4\x01\xff");
        assert_eq!(notification(Format::Json, Kind::Msgpack, b"\x92abc")["data"], "kmFiYw==");
        assert_eq!(notification(Format::Json, Kind::Msgpack, b"\x92abc")["encoding"], "base64");
        assert_eq!(notification(Format::Json, Kind::Msgpack, b"abc")["data"], "abc");
        assert_eq!(notification(Format::Json, Kind::Text, b"\xff")["encoding"], "base64");
    }

    const KINDS: [Kind; 4] = [Kind::Msgpack, Kind::Json, Kind::Text, Kind::Bytes];

    proptest! {
        #[test]
        fn any_value_is_the_same_for_every_client(value in any_value()) {
            let value = json!([value]);
            for (kind, payload) in [(Kind::Json, value.to_string().into_bytes()), (Kind::Msgpack, rmp_serde::to_vec(&value).unwrap())] {
                prop_assert_eq!(classify(&payload, Expect::Auto), (kind, true));
                prop_assert_eq!(&notification(Format::Msgpack, kind, &payload)["data"], &value);
                // serde_json rounds the last digit of some floats when it reads, so texts are compared.
                let mut out = Vec::new();
                encode_notification(&mut out, Encoding::web_socket(Format::Json), "a", at(1), 2, kind, &payload);
                let expected = format!(r#"{{"type":"notification","channel":"a","seq":1,"data":{value},"timestamp":2}}"#);
                prop_assert_eq!(std::str::from_utf8(split_frame(&out).1).unwrap(), expected);
            }
        }

        #[test]
        fn random_payloads_give_readable_frames(payload in prop::collection::vec(any::<u8>(), 0..300), auto in any::<bool>()) {
            let (kind, _) = classify(&payload, if auto { Expect::Auto } else { Expect::Msgpack });
            notification(Format::Json, kind, &payload);
            let mut out = Vec::new();
            encode_notification(&mut out, Encoding::web_socket(Format::Msgpack), "a", at(1), 2, kind, &payload);
            prop_assert_eq!(msgpack::check(split_frame(&out).1), Ok(()));
        }

        #[test]
        fn a_kind_that_is_not_true_never_panics(payload in prop::collection::vec(any::<u8>(), 0..300), kind in prop::sample::select(&KINDS[..])) {
            for format in Format::ALL {
                let mut out = Vec::new();
                encode_notification(&mut out, Encoding::web_socket(format), "a", at(1), 2, kind, &payload);
                prop_assert_eq!(split_frame(&out).2, b"");
            }
        }
    }
}
