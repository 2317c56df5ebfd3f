//! Runs the test vectors of `docs/protocol.md` against the code, so that the document cannot say what the server does not do.
//!
//! A vector is a fenced block whose first line is `vector: GROUP/NAME`; then lines `key: value`, hex going on in indented lines.
//! Commands must decode to the values listed here, events must encode to exactly the bytes in the document, and no block
//! may be missing or unknown.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use campanile::named::Named;
use campanile::wire::close::{CloseReason, Reconnect};
use campanile::wire::command::{self, Asked, Body, Command, Entry, ErrorCode, Id, MemberRange, Position};
use campanile::wire::event::{self, Event, EventType, GapReason, Members, UnreadOf};
use campanile::wire::framing::Encoding;
use campanile::wire::history::{HistoryRange, Message};
use campanile::wire::http::refusal::RefusalReason;
use campanile::wire::payload::{Expect, Kind, classify, encode_notification, encode_unnumbered};
use campanile::wire::poll::Standing;
use campanile::wire::wish::{Begin, Wish};
use campanile::wire::{Format, frame, transcode};

const DOCUMENT: &str = include_str!("../docs/protocol.md");
const TIMESTAMP_MS: u64 = 1_767_225_600_000;
const EPOCH: u64 = 1_234_567_890_123_456;

fn commands() -> Vec<(&'static str, Command<'static>)> {
    let number = |number| Some(Id::Number(number));
    let text = |text: &str| Some(Id::Text(text.into()));
    let since = Some(Position { epoch: EPOCH, seq: 41 });
    let data = br#"{"title":"Ding","n":[1,-2,0.5]}"#;
    vec![
        ("subscribe", Command { id: number(1), body: Body::Subscribe { channel: "user:123".into(), wish: Wish::default() } }),
        (
            "subscribe-since",
            Command {
                id: text("resume-1"),
                body: Body::Subscribe { channel: "user:123".into(), wish: Wish { begin: Begin::of(since, false), ..Wish::default() } },
            },
        ),
        (
            "subscribe-max-rate",
            Command {
                id: number(7),
                body: Body::Subscribe { channel: "prices:eur".into(), wish: Wish { max_rate: Some(5), ..Wish::default() } },
            },
        ),
        (
            "subscribe-latest",
            Command {
                id: number(8),
                body: Body::Subscribe { channel: "prices:eur".into(), wish: Wish { begin: Begin::Newest, ..Wish::default() } },
            },
        ),
        (
            "subscribe-channels",
            Command {
                id: number(9),
                body: Body::SubscribeAll {
                    channels: vec![
                        Entry::Good { channel: "news".into(), wish: Wish::default() },
                        Entry::Good { channel: "user:123".into(), wish: Wish { begin: Begin::of(since, false), ..Wish::default() } },
                        Entry::Good { channel: "prices:eur".into(), wish: Wish { begin: Begin::Newest, max_rate: Some(5), unread: false } },
                    ],
                },
            },
        ),
        (
            "history",
            Command {
                id: number(10),
                body: Body::History { channel: "news".into(), range: HistoryRange::Before(Position { epoch: EPOCH, seq: 41 }), limit: 50 },
            },
        ),
        (
            "subscribe-unread",
            Command {
                id: number(11),
                body: Body::Subscribe { channel: "user:123".into(), wish: Wish { unread: true, ..Wish::default() } },
            },
        ),
        ("mark_read", Command { id: number(12), body: Body::MarkRead { channel: "user:123".into(), epoch: Some(EPOCH), seq: 41 } }),
        ("unread", Command { id: number(13), body: Body::Unread { channels: vec!["user:123".into(), "news".into()] } }),
        ("presence", Command { id: number(11), body: Body::Presence { channel: "room:7".into(), members: None } }),
        (
            "presence-members",
            Command {
                id: number(12),
                body: Body::Presence { channel: "room:7".into(), members: Some(MemberRange { after: Some("bob".into()), limit: 50 }) },
            },
        ),
        ("unsubscribe", Command { id: number(2), body: Body::Unsubscribe { channel: "user:123".into() } }),
        ("publish", Command { id: number(3), body: Body::Publish { channel: "news".into(), payload: data.into(), idempotency_key: None } }),
        (
            "publish-bytes",
            Command { id: None, body: Body::Publish { channel: "news".into(), payload: b"\x00\xff\x10".into(), idempotency_key: None } },
        ),
        ("refresh", Command { id: number(6), body: Body::Refresh { token: "e30.e30.e30".into() } }),
        ("ping", Command { id: number(4), body: Body::Ping }),
    ]
}

/// Hands each event but `notification` to `check`; a closure because events borrow.
fn each_event(check: &mut dyn FnMut(&str, &Event<'_>)) {
    let resume = Id::Text("resume-1".into());
    let id = Id::Number;
    let subscribed = |id, recovered| Event::Subscribed {
        id: Some(id),
        channel: "user:123",
        epoch: EPOCH,
        seq: 41,
        recovered,
        max_rate: None,
        unread: None,
    };
    let (first, id_of_error) = (id(1), id(5));
    check("connected", &Event::Connected { client_id: "5f3a9c0e00000000002a", heartbeat_seconds: 30 });
    check("subscribed", &subscribed(&first, false));
    check("subscribed-resumed", &subscribed(&resume, true));
    let (paced, counted) = (id(7), id(11));
    let with = |id, channel, max_rate, unread| Event::Subscribed { id, channel, epoch: EPOCH, seq: 41, recovered: false, max_rate, unread };
    check("subscribed-max-rate", &with(Some(&paced), "prices:eur", Some(5), None));
    check("subscribed-unread", &with(Some(&counted), "user:123", None, Some(3)));
    check("unsubscribed", &Event::Unsubscribed { id: Some(&id(2)), channel: "user:123", reason: None });
    check("unsubscribed-not-allowed", &Event::Unsubscribed { id: None, channel: "room:7", reason: Some("not_allowed") });
    let message = |seq, payload| Message { seq, timestamp_ms: TIMESTAMP_MS, kind: Kind::Json, payload };
    let messages = [message(39, br#"{"title":"Ding"}"#), message(40, br#""Dong""#)];
    check(
        "history",
        &Event::History { id: Some(&id(10)), channel: "news", epoch: Some(EPOCH), recovered: None, messages: &messages, has_more: true },
    );
    check("read", &Event::Read { id: Some(&id(12)), channel: "user:123", epoch: Some(EPOCH), seq: 41 });
    check("read-elsewhere", &Event::Read { id: None, channel: "user:123", epoch: Some(EPOCH), seq: 42 });
    let unread = [
        UnreadOf { channel: "user:123", epoch: Some(EPOCH), last: 44, read: 41, unread: 3 },
        UnreadOf { channel: "news", epoch: None, last: 0, read: 0, unread: 0 },
    ];
    check("unread", &Event::Unread { id: Some(&id(13)), channels: &unread });
    check("presence", &Event::Presence { id: Some(&id(11)), channel: "room:7", subscribers: 70_000, members: None });
    let members = Members { users: &["carol".into(), "dave".into()], has_more: false, is_partial: false };
    check("presence-members", &Event::Presence { id: Some(&id(12)), channel: "room:7", subscribers: 3, members: Some(members) });
    check("published", &Event::Published { id: Some(&id(3)), channel: "news", seq: Some(42), is_repeat: false });
    check("published-no-seq", &Event::Published { id: None, channel: "news", seq: None, is_repeat: false });
    check("refreshed", &Event::Refreshed { id: Some(&id(6)), expires_ms: TIMESTAMP_MS + 60_000 });
    check("expiring", &Event::Expiring { expires_ms: TIMESTAMP_MS + 60_000 });
    check("pong", &Event::Pong { id: Some(&id(4)) });
    check("gap", &Event::Gap { channel: "news", from: 43, to: 70_000, reason: GapReason::Overrun });
    check("gap-expired", &Event::Gap { channel: "user:123", from: 42, to: 57, reason: GapReason::Expired });
    check("gap-max-rate", &Event::Gap { channel: "prices:eur", from: 43, to: 242, reason: GapReason::MaxRate });
    check("gap-dropped", &Event::Gap { channel: "news", from: 44, to: 44, reason: GapReason::Dropped });
    let asked = Asked::of("history", "news", Some(&id_of_error));
    check("error", &Event::Error { asked, code: ErrorCode::UnknownType, message: "no such command" });
    let at = |channel, epoch, seq| Standing { channel, position: Position { epoch, seq } };
    check("position", &Event::Position { channels: &[at("user:123", EPOCH, 41), at("news", EPOCH + 1, 0)] });
    check("close", &Event::Close { code: 1012, reason: "reconnect in 3140 ms" });
    check("error-malformed", &Event::Error { asked: Asked::default(), code: ErrorCode::BadCommand, message: "not a map" });
}

/// Groups whose vectors carry everything that is needed to check them. Without these names nothing would notice a lost block.
const INVALID: [&str; 14] = [
    "not-a-map",
    "breaks-off",
    "id-malformed",
    "no-type",
    "unknown-type",
    "id",
    "channel-type",
    "channel-name",
    "since",
    "max-rate",
    "no-data",
    "no-seq",
    "unread-channels",
    "no-token",
];
const NOTIFICATIONS: [&str; 5] = ["json", "msgpack", "text", "bytes", "what-json-lacks"];
const FRAMES: [&str; 4] = ["json", "msgpack", "raw", "longer"];

/// Fields of one vector.
type Vector = BTreeMap<String, String>;

#[derive(Debug)]
struct Vectors(BTreeMap<String, Vector>);

impl Vectors {
    fn read(document: &str) -> Vectors {
        let mut vectors = BTreeMap::new();
        for block in blocks(document) {
            let mut fields: Vec<(String, String)> = Vec::new();
            for line in block.lines() {
                match line.strip_prefix("  ") {
                    Some(more) => fields.last_mut().expect("a first line").1 += more,
                    None => {
                        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("not `key: value`: {line}"));
                        fields.push((key.into(), value.into()));
                    }
                }
            }
            let name = fields.remove(0).1;
            let fields: Vector = fields.into_iter().collect();
            assert!(vectors.insert(name.clone(), fields).is_none(), "vector {name} stands twice");
        }
        Vectors(vectors)
    }

    fn get(&self, group: &str, name: &str) -> Result<&Vector, String> {
        let name = format!("{group}/{name}");
        self.0.get(&name).ok_or_else(|| format!("vector {name} is missing"))
    }
}

/// The contents of the fenced blocks that are vectors.
fn blocks(document: &str) -> impl Iterator<Item = &str> {
    document.split("```text\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).filter(|block| block.starts_with("vector: "))
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    assert!(digits.len().is_multiple_of(2), "odd number of digits: {text}");
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hex")).collect()
}

fn same(what: &str, got: &[u8], wanted: &[u8]) -> Result<(), String> {
    if got == wanted {
        return Ok(());
    }
    let show = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
    let (got_text, wanted_text) = (String::from_utf8_lossy(got), String::from_utf8_lossy(wanted));
    Err(format!("{what}\n  got    {}\n  wanted {}\n  got    {got_text}\n  wanted {wanted_text}", show(got), show(wanted)))
}

/// A frame without its header; the header must be that of its kind and length.
fn body(frame: &[u8], opcode: frame::Opcode) -> &[u8] {
    let header_bytes = (2..=10).find(|&header| header == frame::header_len(frame.len() - header)).expect("a whole frame");
    let mut header = Vec::new();
    frame::encode_header(&mut header, opcode, frame.len() - header_bytes);
    assert_eq!(frame[..header_bytes], header);
    &frame[header_bytes..]
}

/// `json` and `msgpack` of one vector are the same value: each transcodes to the other.
fn check_spellings(name: &str, vector: &Vector) -> Result<(), String> {
    let (Some(text), Some(packed)) = (vector.get("json"), vector.get("msgpack")) else { return Ok(()) };
    let mut out = Vec::new();
    transcode::json_to_msgpack(text, &mut out).map_err(|error| format!("{name}: {error}"))?;
    same(&format!("{name}: json as msgpack"), &out, &hex(packed))?;
    out.clear();
    transcode::msgpack_to_json(&hex(packed), &mut out).map_err(|error| format!("{name}: {error}"))?;
    same(&format!("{name}: msgpack as json"), &out, text.as_bytes())
}

fn check_commands(vectors: &Vectors) -> Result<(), String> {
    for (name, expected) in commands() {
        let vector = vectors.get("command", name)?;
        check_spellings(name, vector)?;
        if let Some(text) = vector.get("json") {
            let got = command::decode(true, text.as_bytes()).map_err(|error| format!("{name}: {error:?}"))?;
            assert_eq!(got, expected, "{name} in JSON");
        }
        let packed = hex(&vector["msgpack"]);
        let got = command::decode(false, &packed).map_err(|error| format!("{name}: {error:?}"))?;
        match (got.body, &expected.body) {
            // A map goes to the bus in the spelling it came in.
            (Body::Publish { channel, payload, .. }, Body::Publish { channel: expected_channel, payload: expected_payload, .. })
                if vector.contains_key("json") =>
            {
                assert_eq!(&channel, expected_channel);
                let mut out = Vec::new();
                transcode::msgpack_to_json(&payload, &mut out).map_err(|error| format!("{name}: {error}"))?;
                same(name, &out, expected_payload)?;
            }
            (got, expected) => assert_eq!(&got, expected, "{name} in MessagePack"),
        }
        assert_eq!(got.id, expected.id, "{name}");
    }
    Ok(())
}

fn check_invalid(vectors: &Vectors) -> Result<(), String> {
    for name in INVALID {
        let vector = vectors.get("invalid", name)?;
        let packed = hex(&vector["msgpack"]);
        for (text, message) in [(true, vector["json"].as_bytes()), (false, &packed)] {
            let error = command::decode(text, message).expect_err(name);
            assert_eq!(error.code.name(), vector["code"], "{name}: {}", error.message);
            let id = error.id.map(|id| match id {
                Id::Number(number) => number.to_string(),
                Id::Text(text) => format!("\"{text}\""),
            });
            assert_eq!(id.as_ref(), vector.get("id"), "{name}");
            let quoted = |text: Option<Cow<'_, str>>| text.map(|text| format!("\"{text}\""));
            assert_eq!(quoted(error.command).as_ref(), vector.get("command"), "{name}");
            assert_eq!(quoted(error.channel).as_ref(), vector.get("channel"), "{name}");
        }
    }
    Ok(())
}

fn check_events(vectors: &Vectors) -> Result<(), String> {
    let mut result = Ok(());
    each_event(&mut |name, event| {
        result = result.clone().and_then(|()| {
            let vector = vectors.get("event", name)?;
            check_spellings(name, vector)?;
            let mut out = Vec::new();
            event::encode(event, Encoding::web_socket(Format::Json), TIMESTAMP_MS, &mut out);
            same(name, body(&out, frame::Opcode::Text), vector["json"].as_bytes())?;
            out.clear();
            event::encode(event, Encoding::web_socket(Format::Msgpack), TIMESTAMP_MS, &mut out);
            same(name, body(&out, frame::Opcode::Binary), &hex(&vector["msgpack"]))
        });
    });
    result?;
    let vector = vectors.get("event", "notification")?;
    check_spellings("notification", vector)?;
    check_notification("notification", vector, Kind::Json, br#"{"title":"Ding"}"#)?;
    let vector = vectors.get("event", UNNUMBERED)?;
    check_spellings(UNNUMBERED, vector)?;
    let unnumbered = |format| {
        let mut out = Vec::new();
        encode_unnumbered(&mut out, Encoding::web_socket(format), "news", TIMESTAMP_MS, Kind::Json, br#"{"title":"Ding"}"#);
        out
    };
    same(UNNUMBERED, body(&unnumbered(Format::Json), frame::Opcode::Text), vector["json"].as_bytes())?;
    same(UNNUMBERED, body(&unnumbered(Format::Msgpack), frame::Opcode::Binary), &hex(&vector["msgpack"]))
}

/// A notification of a message that has no number.
const UNNUMBERED: &str = "notification-unnumbered";

fn notification(format: Format, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_notification(&mut out, Encoding::web_socket(format), "news", Position { epoch: 7, seq: 42 }, TIMESTAMP_MS, kind, payload);
    out
}

fn check_notification(name: &str, vector: &Vector, kind: Kind, payload: &[u8]) -> Result<(), String> {
    let in_json = notification(Format::Json, kind, payload);
    same(name, body(&in_json, frame::Opcode::Text), vector["json"].as_bytes())?;
    let packed = notification(Format::Msgpack, kind, payload);
    same(name, body(&packed, frame::Opcode::Binary), &hex(&vector["msgpack"]))
}

fn check_notifications(vectors: &Vectors) -> Result<(), String> {
    for name in NOTIFICATIONS {
        let vector = vectors.get("notification", name)?;
        let payload = hex(&vector["published"]);
        let (kind, _) = classify(&payload, Expect::Auto);
        assert_eq!(format!("{kind:?}").to_lowercase(), vector["kind"], "{name}");
        check_notification(name, vector, kind, &payload)?;
    }
    for name in FRAMES {
        let vector = vectors.get("frame", name)?;
        let payload = hex(&vector["published"]);
        let format = Format::from_name(&vector["format"]).expect("a format");
        same(name, &notification(format, classify(&payload, Expect::Auto).0, &payload), &hex(&vector["frame"]))?;
    }
    Ok(())
}

/// Every type that the code knows has a vector, and every vector is known here.
fn check_coverage(vectors: &Vectors) -> Result<(), String> {
    let mut known: BTreeSet<String> = BTreeSet::from(["event/notification".into(), format!("event/{UNNUMBERED}")]);
    known.extend(commands().iter().map(|(name, _)| format!("command/{name}")));
    each_event(&mut |name, _| {
        known.insert(format!("event/{name}"));
    });
    for (group, names) in [("invalid", &INVALID[..]), ("notification", &NOTIFICATIONS), ("frame", &FRAMES)] {
        known.extend(names.iter().map(|name| format!("{group}/{name}")));
    }
    if let Some(unknown) = vectors.0.keys().find(|name| !known.contains(*name)) {
        return Err(format!("vector {unknown} is in the document, but nothing here checks it"));
    }
    command::TYPES.iter().try_for_each(|name| vectors.get("command", name).map(drop))?;
    EventType::ALL.iter().try_for_each(|event| vectors.get("event", event.name()).map(drop))
}

fn check(document: &str) -> Result<(), String> {
    let vectors = Vectors::read(document);
    check_coverage(&vectors)?;
    check_commands(&vectors)?;
    check_invalid(&vectors)?;
    check_events(&vectors)?;
    check_notifications(&vectors)
}

#[test]
fn the_document_is_true() {
    check(DOCUMENT).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_missing_or_strange_vector_is_noticed() {
    let blocks: Vec<&str> = blocks(DOCUMENT).collect();
    assert!(blocks.len() > 30);
    for block in blocks {
        let fenced = format!("```text\n{block}\n```");
        let without = DOCUMENT.replacen(&fenced, "", 1);
        assert_ne!(without, DOCUMENT);
        assert!(check(&without).unwrap_err().contains("is missing"), "{block}");
    }
    let strange = format!("{DOCUMENT}\n```text\nvector: event/strange\njson: {{}}\n```\n");
    assert!(check(&strange).unwrap_err().contains("event/strange"));
}

#[test]
fn a_wrong_byte_is_noticed() {
    let wrong = DOCUMENT.replacen("82 a4 74 79 70 65 a4 70 6f 6e 67", "82 a4 74 79 70 65 a4 70 6f 6e 68", 1);
    assert_ne!(wrong, DOCUMENT);
    check(&wrong).unwrap_err();
}

/// The first two columns of a section's table: what the client sees, and whether it should come back.
fn table(heading: &str) -> BTreeSet<(String, String)> {
    let at = DOCUMENT.find(&format!("# {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rows = DOCUMENT[at..].lines().skip(1).take_while(|line| !line.starts_with('#')).filter_map(|line| line.strip_prefix("| "));
    let columns = rows.skip(1).map(|row| row.split(" | ").map(|column| column.trim_matches('`').to_owned()));
    columns.map(|mut columns| (columns.next().unwrap(), columns.next().expect("a second column"))).collect()
}

fn close_codes() -> BTreeSet<(String, String)> {
    let ours = CloseReason::ALL.iter().filter_map(|reason| reason.goodbye());
    let ours = ours.map(|goodbye| (goodbye.code.to_string(), goodbye.reconnect.name().to_owned()));
    // The client's own close is answered with its own code; what ends without a close frame looks like an accident.
    let others = [("1000", Reconnect::Not), ("none (1006)", Reconnect::Later)];
    ours.chain(others.map(|(code, reconnect)| (code.to_owned(), reconnect.name().to_owned()))).collect()
}

fn refusals() -> BTreeSet<(String, String)> {
    let row = |reason: &RefusalReason| {
        let (code, phrase) = reason.status();
        (format!("{code} {phrase}"), reason.reconnect().name().to_owned())
    };
    RefusalReason::ALL.iter().map(row).collect()
}

#[test]
fn every_code_and_reason_stands_in_a_table() {
    for code in ErrorCode::ALL {
        assert!(DOCUMENT.contains(&format!("\n| `{}` | ", code.name())), "{code:?}");
    }
    for reason in GapReason::ALL {
        assert!(DOCUMENT.contains(&format!("\n| `{}` | ", reason.name())), "{reason:?}");
    }
    assert_eq!(table("11 Close codes"), close_codes());
    assert_eq!(table("2.4 Refusals"), refusals());
}
