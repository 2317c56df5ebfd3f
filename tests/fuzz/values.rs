//! JSON and MessagePack: commands of clients, payloads of publishers, and each turned into the other.

use campanile::wire::command::{self, Body, Position};
use campanile::wire::event::{self, Event};
use campanile::wire::framing::{Encoding, Framing};
use campanile::wire::payload::{Expect, Kind, classify, encode_notification};
use campanile::wire::{Format, frame, json, msgpack, transcode};
use serde::de::{Deserialize as _, IgnoredAny};
use serde_json::Value;

use crate::mutate::{Mutated, mutated};
use crate::seeds::{texts, vectors};

const JSON_WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"null",
    b"true",
    b"\\u0000",
    b"\\ud800",
    b"\\ud83d\\ude00",
    b"\\",
    b"1e5",
    b"-0",
    b"0.1",
    b" ",
    b"\"type\":",
    b"\"id\":",
    b"\"channel\":",
    b"\"since\":{\"epoch\":1,\"seq\":2},",
    b"\xff",
    b"\xed\xa0\x80",
    b"\x1f",
];
const MSGPACK_WORDS: &[&[u8]] = &[
    b"\x80",
    b"\x81",
    b"\x90",
    b"\x91",
    b"\xa0",
    b"\xc0",
    b"\xc1",
    b"\xc2",
    b"\xc4\x01",
    b"\xc7\x01\x05",
    b"\xca",
    b"\xcb",
    b"\xcf",
    b"\xd3",
    b"\xd4",
    b"\xd9",
    b"\xdb\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xde\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xa4type",
    b"\xa2id",
    b"\xa7channel",
];

fn json_values() -> Mutated {
    let mut seeds = vectors(&["command", "event", "invalid", "notification"], "json");
    seeds.extend(texts(&[
        "0",
        "-0.0e-0",
        "\"\\u00e9\\ud83d\\ude00\\n\"",
        "[[[[[[]]]]]]",
        "{\"a\":{\"a\":{\"b\":[1,2.5,null,true,false]}}}",
        " [ 1 , \"x\" ] ",
        "18446744073709551615",
        "-9223372036854775808",
        "1e400",
        "0.1e-7",
        "{\"\":\"\",\"\\u0000\":0}",
    ]));
    mutated(seeds, JSON_WORDS)
}

fn msgpack_values() -> Mutated {
    let mut seeds = vectors(&["command", "event", "invalid", "notification"], "msgpack");
    seeds.extend([
        b"\x93\x01\xcb\x3f\xe0\0\0\0\0\0\0\xc0".to_vec(),
        b"\x82\x01\xc4\x02\0\xff\xc0\x81\xa1k\xd4\x05\x01".to_vec(),
        b"\xc7\x03\x05abc".to_vec(),
        b"\xdc\0\x01\xdb\0\0\0\x01x".to_vec(),
        b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\xd3\x80\0\0\0\0\0\0\0".to_vec(),
        b"\xcb\x7f\xf8\0\0\0\0\0\0".to_vec(),
    ]);
    mutated(seeds, MSGPACK_WORDS)
}

/// Deeper than serde_json and rmp-serde are asked to go.
fn depth(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| matches!(byte, b'{' | b'[')).count()
}

#[test]
fn json_is_what_others_call_json() {
    bolero::check!().with_generator(json_values()).for_each(|bytes: &Vec<u8>| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let ours = json::check(text).is_ok();
        let theirs = serde_json::from_str::<IgnoredAny>(text).is_ok();
        // Nested deeper than 64 is refused by us alone.
        assert!(ours == theirs || theirs && depth(bytes) > 64, "{text:?}: we say {ours}");
        let mut out = Vec::new();
        assert_eq!(transcode::json_to_msgpack(text, &mut out).is_ok(), ours, "{text:?}");
        if !ours {
            return;
        }
        msgpack::check(&out).unwrap_or_else(|error| panic!("{text:?} became no MessagePack: {error:?}"));
        let mut back = Vec::new();
        transcode::msgpack_to_json(&out, &mut back).expect("what is complete has a JSON spelling");
        let back = String::from_utf8(back).expect("JSON is UTF-8");
        let mut again = Vec::new();
        transcode::json_to_msgpack(&back, &mut again).unwrap_or_else(|error| panic!("{text:?} came back as {back:?}: {error:?}"));
        // But for numbers beyond every double, which become infinite, and null in JSON.
        let mut back_again = Vec::new();
        transcode::msgpack_to_json(&again, &mut back_again).expect("complete");
        assert_eq!(String::from_utf8(back_again).expect("JSON"), back, "{text:?}");
        assert!(again == out || back.contains("null"), "{text:?} came back as {back:?}");
        // And it means the same to others. Half a surrogate pair is no text to them; numbers that no double holds are none.
        if let Ok(meant) = serde_json::from_str::<Value>(text) {
            let heard: Value = rmp_serde::from_slice(&out).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(is_same(&meant, &heard), "{text:?}: {meant} became {heard}");
        }
    });
}

/// But for the last digit of a double, which serde_json does not always get right.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other
                || one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| (one - other).abs() <= one.abs() * 1e-15 || one == other)
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| is_same(one, other)))
        }
        _ => one == other,
    }
}

#[test]
fn msgpack_is_what_others_call_msgpack() {
    bolero::check!().with_generator(msgpack_values()).for_each(|bytes: &Vec<u8>| {
        let ours = msgpack::check(bytes).is_ok();
        let mut json = Vec::new();
        assert_eq!(transcode::msgpack_to_json(bytes, &mut json).is_ok(), ours);
        if !ours {
            return;
        }
        let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
        IgnoredAny::deserialize(&mut reader).unwrap_or_else(|error| panic!("taken by us alone: {error}"));
        let json = String::from_utf8(json).expect("JSON is UTF-8");
        json::check(&json).unwrap_or_else(|error| panic!("it became {json:?}: {error:?}"));
        // What JSON lacks is lost the first time, and nothing after it.
        let mut out = Vec::new();
        transcode::json_to_msgpack(&json, &mut out).expect("checked");
        let mut again = Vec::new();
        transcode::msgpack_to_json(&out, &mut again).expect("complete");
        assert_eq!(String::from_utf8(again).expect("JSON"), json);
    });
}

/// Everything that a client says may come back to it, in an event.
fn check_answer(command: &command::CommandError<'_>) {
    for format in [Format::Json, Format::Msgpack] {
        let mut out = Vec::new();
        let error = Event::Error { asked: command.asked(), code: command.code, message: &command.message };
        event::encode(&error, Encoding { format, framing: Framing::WebSocket }, 1_767_225_600_000, &mut out);
        let header = frame::parse_server_header(&out).expect("a frame").expect("a whole one");
        let payload = &out[usize::from(header.header_len)..];
        assert_eq!(payload.len() as u64, header.payload_len as u64);
        match format {
            Format::Json => json::check(std::str::from_utf8(payload).expect("UTF-8")).expect("an event is JSON"),
            _ => msgpack::check(payload).expect("an event is MessagePack"),
        }
    }
}

#[test]
fn commands_in_json() {
    bolero::check!().with_generator(json_values()).for_each(|bytes: &Vec<u8>| match command::decode(true, bytes) {
        Err(error) => check_answer(&error),
        Ok(read) => {
            // The same in the other spelling is the same command.
            let text = std::str::from_utf8(bytes).expect("it was read as text");
            let mut other = Vec::new();
            transcode::json_to_msgpack(text, &mut other).expect("it was read");
            let other = command::decode(false, &other).unwrap_or_else(|error| panic!("{text:?} is refused as MessagePack: {error:?}"));
            assert_eq!(read.id, other.id);
            match (&read.body, &other.body) {
                (Body::Publish { channel: one, .. }, Body::Publish { channel: other, .. }) => assert_eq!(one, other),
                (one, other) => assert_eq!(one, other),
            }
        }
    });
}

#[test]
fn commands_in_msgpack() {
    bolero::check!().with_generator(msgpack_values()).for_each(|bytes: &Vec<u8>| match command::decode(false, bytes) {
        Err(error) => check_answer(&error),
        Ok(read) => {
            if let Body::Subscribe { channel, .. } | Body::Unsubscribe { channel } | Body::Publish { channel, .. } = &read.body {
                campanile::wire::channel_name::check(channel).expect("a command names a channel");
            }
        }
    });
}

#[test]
fn payloads_of_publishers() {
    let mut seeds = vectors(&["notification"], "published");
    seeds.extend(texts(&["plain text", "{\"user_id\":\"u1\"}", "[1]", "\u{700}\u{7c0}"]));
    seeds.extend(vectors(&["command"], "msgpack"));
    let words = [JSON_WORDS, MSGPACK_WORDS].concat();
    bolero::check!().with_generator(mutated(seeds, &words)).for_each(|payload: &Vec<u8>| {
        for expect in Expect::ALL {
            let (kind, is_as_expected) = classify(payload, expect);
            assert!(is_as_expected || matches!(kind, Kind::Text | Kind::Bytes));
            for format in Format::ALL {
                let mut out = Vec::new();
                encode_notification(
                    &mut out,
                    Encoding { format, framing: Framing::WebSocket },
                    "news",
                    Position { epoch: 7, seq: 7 },
                    1_767_225_600_000,
                    kind,
                    payload,
                );
                let header = frame::parse_server_header(&out).expect("a frame").expect("a whole one");
                let body = &out[usize::from(header.header_len)..];
                match format {
                    Format::Json => json::check(std::str::from_utf8(body).expect("UTF-8")).expect("JSON"),
                    Format::Msgpack => msgpack::check(body).expect("MessagePack"),
                    Format::Raw => assert!(header.opcode == frame::Opcode::Binary || std::str::from_utf8(body).is_ok()),
                }
            }
        }
    });
}
