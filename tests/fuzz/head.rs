//! Request heads, and what is read out of them.

use campanile::auth::identity::Identity;
use campanile::wire::http::answer::{self, AllowOrigin};
use campanile::wire::http::credentials::{self, Given};
use campanile::wire::http::forwarded::forwarded_for;
use campanile::wire::http::head::FieldRoom;
use campanile::wire::http::origin::{AllowedOrigin, is_allowed};
use campanile::wire::http::refusal::RefusalReason;
use campanile::wire::http::{self, Outcome, Rules};

use crate::mutate::{Mutated, mutated};
use crate::seeds::texts;

const HEAD_BYTES_MAX: usize = 2048;
const RULES: Rules = Rules { echo: true, head_bytes_max: HEAD_BYTES_MAX };

fn upgrade(target: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .into_bytes()
}

fn heads() -> Mutated {
    let seeds = [
        upgrade("/ws", ""),
        upgrade("/ws/news?channel=a&channel=b%20c&format=json", "Sec-WebSocket-Protocol: campanile.v1.json, bearer.a.b.c\r\n"),
        upgrade("/ws?token=a.b.c&user=u%31+x", "Authorization: Bearer a.b.c\r\nCookie: t=\"a.b.c\"; u=v\r\n"),
        upgrade("http://example.org/ws", "Origin: https://app.example.org:443\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.1\r\n"),
        upgrade("/echo", "X-Forwarded-For: [2001:db8::1]:4711\r\nX-Forwarded-For: ::ffff:10.0.0.1\r\n\r\n\x01\x02"),
        b"GET /healthz HTTP/1.0\r\n\r\n".to_vec(),
        b"GET /sse/news?since=7:42&channel=a%20b&latest=true&max_rate=5&format=raw HTTP/1.1\r\nHost: h\r\nLast-Event-ID: 7:42,-\r\n\r\n"
            .to_vec(),
        b"GET /poll?channel=a&since=7:1&wait=0 HTTP/1.1\r\nHost: h\r\nAccept: application/msgpack\r\nOrigin: http://a.example\r\n\r\n"
            .to_vec(),
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"HEAD //healthz/ HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"POST /ws HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
    ];
    let words: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b": ",
        b"\r\n ",
        b"\r\n\t",
        b"Host: h\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 7\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Upgrade: h2c\r\n",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"%00",
        b"%ff",
        b"%",
        b"&token=x",
        b"Origin: null\r\n",
        b"Cookie: t=x\r\n",
        b"Authorization: Bearer x\r\n",
        b",",
        b"PROXY ",
        b"GET ",
        b"&since=",
        b"&channel=",
        b"Last-Event-ID: never\r\n",
    ];
    mutated(seeds, words)
}

/// What an outcome says, as far as it can be compared.
fn told(outcome: &Outcome<'_>) -> String {
    match outcome {
        Outcome::Partial => "partial".to_owned(),
        Outcome::Upgrade(upgrade) => format!("upgrade {} {:?} {:?} {}", upgrade.head.bytes, upgrade.channels, upgrade.format, upgrade.echo),
        Outcome::Refuse(refusal) => format!("{} {}", refusal.reason.status().0, refusal.message),
        Outcome::Health { head_only, .. } => format!("health {head_only}"),
        Outcome::Options { methods, .. } => format!("options {methods}"),
        Outcome::Feed(feed) => format!("feed {} {:?} {:?} {:?} {:?}", feed.head.bytes, feed.kind, feed.channels, feed.format, feed.resume),
    }
}

fn parse(bytes: &[u8]) -> String {
    told(&http::parse(bytes, &mut FieldRoom::empty(), RULES))
}

#[test]
fn request_heads() {
    bolero::check!().with_generator(heads()).for_each(|bytes: &Vec<u8>| {
        let whole = parse(bytes);
        // What has been decided does not change with what follows, and nothing is decided before there is reason to.
        let longer = [&bytes[..], b"more"].concat();
        if whole != "partial" {
            assert_eq!(parse(&longer), whole);
        } else {
            assert!(bytes.len() < HEAD_BYTES_MAX);
        }
        let half = parse(&bytes[..bytes.len() / 2]);
        assert!(half == "partial" || half == whole, "{half}, then {whole}");

        let mut room = FieldRoom::empty();
        match http::parse(bytes, &mut room, RULES) {
            Outcome::Partial => {}
            Outcome::Health { head, .. } | Outcome::Options { head, .. } => assert!(head.bytes <= bytes.len().min(HEAD_BYTES_MAX)),
            Outcome::Feed(feed) => {
                assert!(feed.head.bytes <= bytes.len().min(HEAD_BYTES_MAX));
                assert!(feed.channels.iter().all(|entry| campanile::wire::channel_name::check(&entry.channel).is_ok()));
                credentials_of(&feed.head);
            }
            Outcome::Refuse(refusal) => {
                let mut out = Vec::new();
                answer::refuse(&mut out, &refusal, &AllowOrigin::Nobody);
                let answer = String::from_utf8(out).expect("an answer is text");
                assert!(answer.starts_with(&format!("HTTP/1.1 {} ", refusal.reason.status().0)), "{answer}");
                // Nothing that a client says gets into the head of its answer.
                let (head, _) = answer.split_once("\r\n\r\n").expect("a head");
                assert!(head.split("\r\n").all(|line| !line.contains(['\r', '\n', '\0'])), "{head}");
            }
            Outcome::Upgrade(upgrade) => {
                assert!(upgrade.head.bytes <= bytes.len().min(HEAD_BYTES_MAX));
                let head = &bytes[..upgrade.head.bytes];
                assert!(!head.contains(&0), "a NUL in a head that was taken");
                let text = String::from_utf8_lossy(head).to_ascii_lowercase();
                let is_of_a_body = |line: &str| line.split(':').next().is_some_and(|name| name.trim() == "transfer-encoding");
                assert!(!text.lines().any(is_of_a_body), "taken with Transfer-Encoding");
                assert!(!text.replace("\r\n", "").contains('\r'), "a bare CR in a head that was taken");
                assert!(upgrade.channels.iter().all(|name| campanile::wire::channel_name::check(name).is_ok()));
                let mut out = Vec::new();
                answer::switch_protocols(&mut out, &upgrade);
                assert!(out.starts_with(b"HTTP/1.1 101 ") && !out.windows(7).any(|window| window == b"bearer."));
                credentials_of(&upgrade.head);
            }
        }
    });
}

fn credentials_of(head: &http::head::Head<'_>) {
    for cookie in [None, Some("t")] {
        if let Given::One { token, .. } = credentials::token(head, cookie) {
            assert!(!token.is_empty());
        }
    }
    if let Some(user) = credentials::user(head) {
        let _ = Identity::of_user(&user);
    }
    // Whoever is named by somebody who is believed is no proxy, unless all are.
    let is_trusted = |ip: std::net::IpAddr| matches!(ip, std::net::IpAddr::V4(ip) if ip.octets()[0] == 10);
    if let Some(ip) = forwarded_for(&head.fields, is_trusted) {
        assert_eq!(ip, ip.to_canonical());
    }
    assert_eq!(forwarded_for(&head.fields, |_| false), forwarded_for(&head.fields, |_| false));
}

#[test]
fn origins() {
    let allowed: Vec<AllowedOrigin> =
        ["https://app.example.org", "https://*.example.com", "http://127.0.0.1:3000"].map(|text| AllowedOrigin::read(text).unwrap()).into();
    let seeds = texts(&[
        "https://app.example.org",
        "https://app.example.org:443",
        "https://a.example.com",
        "https://A.B.EXAMPLE.com",
        "null",
        "http://127.0.0.1:3000",
        "https://example.com",
        "https://evil.example",
        "https://app.example.org.evil.example",
        "https://[::1]:8443",
    ]);
    let words: &[&[u8]] = &[b".example.com", b"https://", b"@", b":443", b"/", b"#", b"?", b"\\", b"%2e", b".", b"*", b"null", b" "];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|bytes: &Vec<u8>| {
        if is_allowed(bytes, &allowed) {
            // As the URL parser of another crate reads it, the host is one of those.
            let text = std::str::from_utf8(bytes).expect("only text is allowed");
            let uri: tungstenite::http::Uri = text.parse().unwrap_or_else(|error| panic!("{text:?} was let in, and is no URL: {error}"));
            let host = uri.host().expect("a host").to_ascii_lowercase();
            assert!(host == "app.example.org" || host == "127.0.0.1" || host.ends_with(".example.com"), "{text:?} is of {host}");
            assert!(!text.contains(['/', '@']) || text.matches('/').count() == 2, "{text:?}");
        }
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Ok(entry) = AllowedOrigin::read(text)
        {
            assert_eq!(AllowedOrigin::read(&entry.to_string()).as_ref(), Ok(&entry), "{text:?} is shown as {entry}");
        }
    });
}

/// Each reason can be told.
#[test]
fn every_refusal_has_an_answer() {
    for reason in RefusalReason::ALL.into_iter().filter(|reason| !reason.text().is_empty()) {
        let mut out = Vec::new();
        answer::refuse(&mut out, &reason.into(), &AllowOrigin::Nobody);
        assert!(out.starts_with(format!("HTTP/1.1 {} ", reason.status().0).as_bytes()));
    }
}
