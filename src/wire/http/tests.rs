//! Whole heads and their answers.

use super::answer::AllowOrigin;
use super::refusal::RefusalReason::{self, *};
use super::*;
use crate::limits::{CHANNEL_NAME_BYTES_MAX, HEAD_FIELDS_MAX, QUERY_CHANNELS_MAX};
use crate::wire::Format;

/// As it is unless set.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const RULES: Rules = Rules { echo: true, head_bytes_max: HEAD_BYTES_MAX };
/// The key and answer of RFC 6455, 1.3.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn head(request_line: &str, fields: &[&str]) -> Vec<u8> {
    format!("{request_line}\r\n{}\r\n", fields.iter().map(|field| format!("{field}\r\n")).collect::<String>()).into_bytes()
}

/// A proper upgrade request for `target`, with more fields.
fn upgrade_head(target: &str, more: &[&str]) -> Vec<u8> {
    let mut fields = vec!["Host: h", "Upgrade: websocket", "Connection: Upgrade", KEY, "Sec-WebSocket-Version: 13"];
    fields.extend(more);
    head(&format!("GET {target} HTTP/1.1"), &fields)
}

/// The same request without the field of this name.
fn upgrade_head_without(name: &str, more: &[&str]) -> Vec<u8> {
    let mut fields = vec!["Host: h", "Upgrade: websocket", "Connection: Upgrade", KEY, "Sec-WebSocket-Version: 13"];
    fields.retain(|field| !field.starts_with(&format!("{name}:")));
    fields.extend(more);
    head("GET /ws HTTP/1.1", &fields)
}

/// What came of an upgrade that was accepted.
#[derive(Debug, PartialEq, Eq)]
struct Accepted {
    echo: bool,
    channels: Vec<String>,
    format: Option<Format>,
    subprotocol: Option<String>,
    answer: String,
}

fn accepted(bytes: &[u8]) -> Accepted {
    match parse(bytes, &mut FieldRoom::empty(), RULES) {
        Outcome::Upgrade(upgrade) => {
            assert_eq!(upgrade.head.bytes, bytes.len());
            let mut out = b"before".to_vec();
            answer::switch_protocols(&mut out, &upgrade);
            let answer = String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned();
            let Upgrade { echo, channels, format, subprotocol, .. } = upgrade;
            Accepted { echo, channels, format, subprotocol, answer }
        }
        other => panic!("{other:?} for {}", String::from_utf8_lossy(bytes)),
    }
}

fn refused(bytes: &[u8], rules: Rules) -> Refusal {
    match parse(bytes, &mut FieldRoom::empty(), rules) {
        Outcome::Refuse(refusal) => refusal,
        other => panic!("{other:?} for {}", String::from_utf8_lossy(bytes)),
    }
}

fn answer(refusal: &Refusal) -> String {
    let mut out = Vec::new();
    answer::refuse(&mut out, refusal, &AllowOrigin::Nobody);
    String::from_utf8(out).unwrap()
}

#[test]
fn an_upgrade_is_answered_as_rfc_6455_shows_it() {
    let plain = accepted(&upgrade_head("/ws", &[]));
    let answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
    assert_eq!(plain, Accepted { echo: false, channels: vec![], format: None, subprotocol: None, answer });

    let chosen = accepted(&upgrade_head("/ws", &["Sec-WebSocket-Protocol: campanile.v1.json"]));
    assert!(chosen.answer.ends_with("\r\nSec-WebSocket-Protocol: campanile.v1.json\r\n\r\n"));
    assert!(accepted(&upgrade_head("/echo?channel=%FF", &[])).echo);
}

/// Who the client is, and where its page came from, is decided by others: they read it here, not from the bytes again.
#[test]
fn an_upgrade_hands_its_head_on() {
    let bytes = upgrade_head(
        "/ws?token=T",
        &[
            "Origin: https://a.example",
            "authorization: Bearer x.y.z",
            "Cookie: a=1",
            "Cookie: b=2",
            "Sec-WebSocket-Protocol: bearer.T, chat",
        ],
    );
    let mut room = FieldRoom::empty();
    let Outcome::Upgrade(Upgrade { head, .. }) = parse(&bytes, &mut room, RULES) else { panic!("a proper upgrade") };
    assert_eq!((head.target, head.fields.only("origin")), ("/ws?token=T", Some(&b"https://a.example"[..])));
    assert_eq!(head.fields.only("authorization"), Some(&b"Bearer x.y.z"[..]));
    assert_eq!((head.fields.only("cookie"), head.fields.values("cookie").count()), (None, 2));
    assert_eq!(head.fields.elements("sec-websocket-protocol").next(), Some(&b"bearer.T"[..]));
    // Lent, not copied.
    assert!(bytes.as_ptr_range().contains(&head.target.as_ptr()));
}

#[test]
fn what_follows_the_head_is_left_for_the_frames() {
    let mut bytes = upgrade_head("/ws", &[]);
    let length = bytes.len();
    bytes.extend_from_slice(&vec![0x81; 3 * HEAD_BYTES_MAX]);
    assert!(matches!(parse(&bytes, &mut FieldRoom::empty(), RULES), Outcome::Upgrade(upgrade) if upgrade.head.bytes == length));
}

#[test]
fn headers_may_be_spelled_and_spread_as_http_allows() {
    for (without, fields) in [
        ("Connection", &["Connection: keep-alive", "connection: Foo , uPGRADE"][..]),
        ("Connection", &["Connection:keep-alive,Upgrade"]),
        ("Upgrade", &["UPGRADE:   WebSocket  "]),
        ("Upgrade", &["Upgrade: h2c", "Upgrade: foo, websocket"]),
        ("Sec-WebSocket-Version", &["sec-websocket-version:13"]),
        ("Host", &["host:"]),
        ("-", &["Content-Length: 0"]),
        ("-", &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]),
    ] {
        assert!(accepted(&upgrade_head_without(without, fields)).answer.contains(ACCEPT), "{fields:?}");
    }
    accepted(&[b"\r\n", &upgrade_head("/ws", &[])[..]].concat());
    for target in ["http://h/ws", "ws://h:80/ws?x=1", "HTTPS://h/ws/a"] {
        accepted(&upgrade_head(target, &[]));
    }
}

#[test]
fn channels_of_path_and_query() {
    let long = "x".repeat(CHANNEL_NAME_BYTES_MAX);
    for (target, channels) in [
        ("/ws/news", &["news"][..]),
        ("/ws/user:1/posts", &["user:1/posts"]),
        ("/ws/a%20b+c%2F%E2%82%AC", &["a b+c/€"]),
        ("/ws/caf\u{e9}", &["café"]),
        ("/ws?channel=a&channel=b&channel=a", &["a", "b"]),
        ("/ws/b?&x&channel=a+b%2Bc&channel=b&y=channel&", &["b", "a b+c"]),
        ("/ws?channel=a=b", &["a=b"]),
        ("/ws?channel=100%", &["100%"]),
        (&format!("/ws?channel={long}"), &[&long]),
    ] {
        assert_eq!(accepted(&upgrade_head(target, &[])).channels, channels, "{target}");
    }
    let most = vec!["channel=a"; QUERY_CHANNELS_MAX].join("&");
    assert_eq!(accepted(&upgrade_head(&format!("/ws/b?{most}"), &[])).channels, ["b", "a"]);
}

/// `location /live/ { proxy_pass http://campanile/ws/; }` and its like.
#[test]
fn slashes_that_a_proxy_leaves_behind_name_no_channel() {
    for target in ["/ws", "/ws/", "/ws//", "//ws", "//ws//", "http://h/ws/", "http://h//ws"] {
        assert_eq!(accepted(&upgrade_head(target, &[])).channels, [""; 0], "{target}");
    }
    for target in ["/ws/?channel=x", "/ws//?channel=x", "//ws?channel=x", "/ws/x", "/ws//x", "//ws///x", "/ws/x?channel=x"] {
        assert_eq!(accepted(&upgrade_head(target, &[])).channels, ["x"], "{target}");
    }
    // Within a name, at its end, and where they are escaped, they belong to it.
    for (target, channel) in [("/ws/a//b", "a//b"), ("/ws/a/", "a/"), ("/ws/%2Fa", "/a"), ("/ws?channel=/a", "/a")] {
        assert_eq!(accepted(&upgrade_head(target, &[])).channels, [channel], "{target}");
    }
    assert!(accepted(&upgrade_head("/echo/", &[])).echo && accepted(&upgrade_head("//echo", &[])).echo);
    for target in ["/healthz/", "//healthz", "/healthz/?probe=1"] {
        let request = head(&format!("GET {target} HTTP/1.1"), &["Host: h"]);
        assert!(matches!(parse(&request, &mut FieldRoom::empty(), RULES), Outcome::Health { head_only: false, .. }), "{target}");
    }
}

#[test]
fn names_of_parameters_are_decoded_like_their_values() {
    for (target, channels, format) in [
        ("/ws?ch%61nnel=a&%63hannel=b", &["a", "b"][..], None),
        ("/ws?%63%68%61%6e%6e%65%6C=%61", &["a"], None),
        ("/ws?format=%6Ason", &[], Some(Format::Json)),
        ("/ws?f%6Frmat=raw&format=json", &[], Some(Format::Raw)),
        ("/ws?channel+=a&+channel=b&channel%20=c&channel%3Da&%FF=1&channel%5B%5D=d", &[], None),
        ("/ws?channel=a%26b%3Dc%23", &["a&b=c#"], None),
        ("/ws?channel=a%2Bb+c%252B", &["a+b c%2B"], None),
    ] {
        let upgrade = accepted(&upgrade_head(target, &[]));
        assert_eq!(
            (&upgrade.channels[..], upgrade.format),
            (&channels.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()[..], format),
            "{target}"
        );
    }
}

#[test]
fn the_format_comes_from_the_subprotocol_else_from_the_query() {
    let json = "Sec-WebSocket-Protocol: campanile.v1.json";
    for (target, fields, format, subprotocol) in [
        ("/ws", &[][..], None, None),
        ("/ws?format=msgpack", &[], Some(Format::Msgpack), None),
        ("/ws?format=json&format=raw", &[], Some(Format::Json), None),
        ("/ws?format=raw", &[json], Some(Format::Json), Some("campanile.v1.json")),
        ("/ws?format=raw", &["Sec-WebSocket-Protocol: chat, CAMPANILE.V1.JSON"], Some(Format::Raw), None),
        ("/ws", &["Sec-WebSocket-Protocol: chat,campanile.v1.raw , campanile.v1.json"], Some(Format::Raw), Some("campanile.v1.raw")),
        (
            "/ws",
            &["Sec-WebSocket-Protocol: chat", "sec-websocket-protocol: campanile.v1.msgpack", json],
            Some(Format::Msgpack),
            Some("campanile.v1.msgpack"),
        ),
    ] {
        let upgrade = accepted(&upgrade_head(target, fields));
        assert_eq!((upgrade.format, upgrade.subprotocol.as_deref()), (format, subprotocol), "{target} {fields:?}");
    }
}

/// Every refusal that a head can get: the request, the reason, and words that its answer must contain.
fn refusals() -> Vec<(Vec<u8>, RefusalReason, &'static str)> {
    let too_long = format!("/ws/{}", "x".repeat(CHANNEL_NAME_BYTES_MAX + 1));
    let too_many = format!("/ws?{}", vec!["channel=a"; QUERY_CHANNELS_MAX + 1].join("&"));
    let fields: Vec<String> = (0..=HEAD_FIELDS_MAX).map(|at| format!("X-{at}: y")).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let big = format!("X: {}", "y".repeat(HEAD_BYTES_MAX));
    let get = |fields: &[&str]| head("GET /ws HTTP/1.1", fields);
    let instead = upgrade_head_without;
    vec![
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(), BadRequest, "not an HTTP/1.1 request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), BadRequest, "not an HTTP/1.1 request"),
        (head("GET /ws\x01 HTTP/1.1", &["Host: h"]), BadRequest, "not an HTTP/1.1 request"),
        (get(&["Host : h"]), BadRequest, "not an HTTP/1.1 request"),
        (get(&["Host: h", " folded"]), BadRequest, "not an HTTP/1.1 request"),
        (head("GET ws HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
        (head("PATCH * HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
        (head("CONNECT h:80 HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
        (head("GET http:///ws HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
        (head("GET ftp://h/ws HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
        (head("GET / HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
        (head("GET http://h?/ws HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
        (head("GET /wsx HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
        (head("GET /healthz/x HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
        (head("GET /echo/x HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
        (head("GET /x/ws HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
        (head("POST /ws/ HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET, OPTIONS\r\n"),
        (head("POST /ws HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET, OPTIONS\r\n"),
        (head("HEAD /ws/a HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET, OPTIONS\r\n"),
        (head("HEAD /sse/a HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET, OPTIONS\r\n"),
        (head("HEAD /poll HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET, OPTIONS\r\n"),
        (head("get /echo HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET, OPTIONS\r\n"),
        (head("POST /healthz HTTP/1.1", &["Host: h", "Content-Length: 4"]), MethodNotAllowed, "\r\nAllow: GET, HEAD, OPTIONS\r\n"),
        (upgrade_head("/ws", &["Content-Length: 1"]), BodyNotAllowed, "body"),
        (upgrade_head("/ws", &["Content-Length: 99999999999999999999999"]), BodyNotAllowed, "body"),
        (upgrade_head("/ws", &["Content-Length: 0", "Content-Length: 5"]), BodyNotAllowed, "body"),
        (upgrade_head("/ws", &["Transfer-Encoding: chunked"]), BodyNotAllowed, "body"),
        (head("GET /healthz HTTP/1.1", &["Host: h", "Content-Length: 10"]), BodyNotAllowed, "body"),
        (upgrade_head("/ws", &["Content-Length: -1"]), BadRequest, "Content-Length"),
        (upgrade_head("/ws", &["Content-Length:"]), BadRequest, "Content-Length"),
        (instead("Host", &[]), BadRequest, "Host"),
        (upgrade_head("/ws", &["Host: other"]), BadRequest, "Host"),
        (head("GET /healthz HTTP/1.1", &[]), BadRequest, "Host"),
        (head("GET /ws HTTP/1.0", &["Upgrade: websocket", "Connection: Upgrade"]), UpgradeRequired, "HTTP/1.1"),
        (get(&["Host: h"]), UpgradeRequired, "\r\nUpgrade: websocket\r\n"),
        (instead("Upgrade", &["Upgrade: h2c"]), UpgradeRequired, "\r\nUpgrade: websocket\r\n"),
        (instead("Sec-WebSocket-Version", &[]), UpgradeRequired, "\r\nSec-WebSocket-Version: 13\r\n"),
        (instead("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 8"]), UpgradeRequired, "\r\nSec-WebSocket-Version: 13\r\n"),
        (upgrade_head("/ws", &["Sec-WebSocket-Version: 13"]), UpgradeRequired, "\r\nSec-WebSocket-Version: 13\r\n"),
        (instead("Connection", &[]), BadRequest, "Connection header"),
        (instead("Connection", &["Connection: keep-alive", "Connection: upgraded"]), BadRequest, "Connection header"),
        (instead("Sec-WebSocket-Key", &[]), BadRequest, "Sec-WebSocket-Key"),
        (upgrade_head("/ws", &[KEY]), BadRequest, "Sec-WebSocket-Key"),
        (instead("Sec-WebSocket-Key", &["Sec-WebSocket-Key: SGVsbG8sIHdvcmxkIQ=="]), BadRequest, "24 characters"),
        (instead("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"]), BadRequest, "24 characters"),
        (instead("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="]), BadRequest, "24 characters"),
        (instead("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWFh"]), BadRequest, "24 characters"),
        (instead("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhb*BsZSBub25jZQ=="]), BadRequest, "24 characters"),
        (upgrade_head("/ws?format=xml", &[]), BadRequest, "msgpack, json or raw"),
        (upgrade_head("/ws?format=JSON", &[]), BadRequest, "msgpack, json or raw"),
        (upgrade_head("/ws?format", &[]), BadRequest, "msgpack, json or raw"),
        (upgrade_head("/ws?form%61t=xml", &[]), BadRequest, "msgpack, json or raw"),
        (upgrade_head("/ws?format=%FF", &[]), BadRequest, "msgpack, json or raw"),
        (upgrade_head("/ws?channel=", &[]), BadRequest, "1 to 255 bytes"),
        (upgrade_head("/ws/?channel", &[]), BadRequest, "1 to 255 bytes"),
        (upgrade_head(&too_long, &[]), BadRequest, "1 to 255 bytes"),
        (upgrade_head("/ws?channel=a%0Ab", &[]), BadRequest, "control characters"),
        (upgrade_head("/ws/%C2%85", &[]), BadRequest, "control characters"),
        (upgrade_head("/ws/%FF", &[]), BadRequest, "UTF-8"),
        (upgrade_head("/ws/?ch%61nnel=%FF", &[]), BadRequest, "UTF-8"),
        (upgrade_head(&too_many, &[]), BadRequest, "128 channel parameters"),
        (get(&fields), HeadTooBig, "64 header fields"),
        (get(&[&big]), HeadTooBig, "8192 bytes"),
    ]
}

#[test]
fn each_refusal_and_its_answer() {
    for (bytes, reason, words) in refusals() {
        let refusal = refused(&bytes, RULES);
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(refusal.reason, reason, "{refusal:?} for {shown}");
        assert!(answer(&refusal).contains(words), "{refusal:?} for {shown}");
    }
    assert_eq!(refused(&upgrade_head("/echo", &[]), Rules { echo: false, ..RULES }).reason, NotFound);
}

#[test]
fn every_head_at_every_split() {
    let mut heads: Vec<Vec<u8>> = refusals().into_iter().map(|(bytes, ..)| bytes).filter(|bytes| bytes.len() < 2000).collect();
    heads.push(upgrade_head("/ws/a?channel=b", &["Sec-WebSocket-Protocol: campanile.v1.raw"]));
    heads.push(head("GET /healthz HTTP/1.1", &["Host: h"]));
    heads.push(upgrade_head("/ws", &[]).iter().copied().filter(|&byte| byte != b'\r').collect());
    for bytes in heads {
        let whole = format!("{:?}", parse(&bytes, &mut FieldRoom::empty(), RULES));
        let mut decided = false;
        for split in 0..=bytes.len() {
            let outcome = format!("{:?}", parse(&bytes[..split], &mut FieldRoom::empty(), RULES));
            assert!(outcome == whole || (outcome == "Partial" && !decided), "{outcome}, then {whole}, at {split}");
            decided = outcome != "Partial";
        }
        assert!(decided);
    }
}

#[test]
fn the_longest_head_is_read_and_one_byte_more_is_refused() {
    let padding = HEAD_BYTES_MAX - upgrade_head("/ws", &["X: "]).len();
    let longest = upgrade_head("/ws", &[&format!("X: {}", "y".repeat(padding))]);
    assert_eq!(longest.len(), HEAD_BYTES_MAX);
    accepted(&longest);
    assert!(matches!(parse(&longest[..HEAD_BYTES_MAX - 1], &mut FieldRoom::empty(), RULES), Outcome::Partial));

    let longer = upgrade_head("/ws", &[&format!("X: {}", "y".repeat(padding + 1))]);
    for split in HEAD_BYTES_MAX..=longer.len() {
        assert_eq!(refused(&longer[..split], RULES).reason, HeadTooBig);
    }
    let most = vec!["X: y"; HEAD_FIELDS_MAX - 5];
    accepted(&upgrade_head("/ws", &most));
}

#[test]
fn health_checks() {
    for (bytes, expected_head_only) in [
        (head("GET /healthz HTTP/1.1", &["Host: h"]), false),
        (head("GET /healthz?probe=1 HTTP/1.0", &[]), false),
        (head("HEAD /healthz HTTP/1.1", &["Host: h"]), true),
    ] {
        assert!(
            matches!(parse(&bytes, &mut FieldRoom::empty(), RULES), Outcome::Health { head_only, .. } if head_only == expected_head_only)
        );
    }
    let (mut with_body, mut without) = (Vec::new(), Vec::new());
    answer::health(&mut with_body, false, false, &AllowOrigin::Nobody);
    answer::health(&mut without, true, false, &AllowOrigin::Nobody);
    assert!(with_body.starts_with(b"HTTP/1.1 200 OK\r\n") && with_body.ends_with(b"\r\n\r\nok\n"));
    assert_eq!(without, with_body[..with_body.len() - 3]);
}

#[test]
fn every_refusal_is_a_whole_answer() {
    for reason in RefusalReason::ALL {
        let refusal = Refusal::new(reason, "Because.");
        let text = answer(&refusal);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let (code, phrase) = refusal.reason.status();
        assert!(head.starts_with(&format!("HTTP/1.1 {code} {phrase}\r\n")), "{text}");
        for line in ["Content-Type: text/plain; charset=utf-8", "Content-Length: 9", "Connection: close"] {
            assert!(head.contains(&format!("\r\n{line}")), "{text}");
        }
        assert_eq!(head.contains("Retry-After: 5"), matches!(code, 429 | 503), "{text}");
        assert_eq!(body, "Because.\n");
    }
    let to_head = answer(&refused(&head("HEAD /nowhere HTTP/1.1", &["Host: h"]), RULES));
    assert!(to_head.ends_with("\r\n\r\n"), "{to_head}");
}
