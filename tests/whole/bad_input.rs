//! What an attacker sends, kind by kind, against the real server: each is refused with a status or a code that stays, in words that say what to do, and is counted under its
//! reason on /metrics; and whoever behaves is served all the while. What readers and crowds do is in `hostile.rs`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::Client;
use crate::support::frames;
use crate::support::server::{Launch, Server};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const SECRET: &str = "a secret of the tests: 0123456789abcdef";
const PUBLIC: &str = include_str!("../keys/p256.public.pem");
const PRIVATE: &str = include_str!("../keys/p256.private.pem");

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({"sub": "u1", "exp": now_s() + 600, "aud": "campanile"})
}

fn signed(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    encode(header, claims, key).unwrap()
}

/// By the secret.
fn token(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = claims();
    change(&mut claims);
    signed(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn guarded() -> Server {
    let keys = std::env::temp_dir().join(format!("campanile-bad-input-{}.pem", std::process::id()));
    std::fs::write(&keys, PUBLIC).unwrap();
    let file = format!(
        "auth = \"jwt\"\ntoken_secret = \"{SECRET}\"\ntoken_keys = [\"{}\"]\ntoken_audience = \"campanile\"\ntoken_leeway = 0\n\
         token_cookie = \"session\"\norigins = [\"https://app.example.org\", \"https://*.example.com\"]\n",
        keys.display()
    );
    Launch::new(&[]).file(&file).start()
}

/// The status and everything that a request is answered with.
fn answer(server: &Server, request: &[u8]) -> (u16, String) {
    let mut client = Client::dial(server.listen);
    client.send(request);
    let head = client.head();
    let status = frames::status(head.as_bytes());
    (status, if status == 101 { head } else { head + &client.rest() })
}

/// A request, what it is answered with, and the metric that counts it.
struct Case {
    what: &'static str,
    request: Vec<u8>,
    status: u16,
    words: &'static str,
    metric: (&'static str, String),
}

fn refused(what: &'static str, request: impl Into<Vec<u8>>, status: u16, words: &'static str, reason: &str) -> Case {
    Case { what, request: request.into(), status, words, metric: ("campanile_connections_refused_total", format!("reason=\"{reason}\"")) }
}

/// Each case is answered and counted once, and nothing of it stays.
#[track_caller]
fn check(server: &Server, cases: &[Case]) {
    for Case { what, request, status, words, metric: (name, label) } in cases {
        let before = server.metric(name, label);
        let (code, text) = answer(server, request);
        assert_eq!(code, *status, "{what}: {text}");
        assert!(text.contains(words), "{what}: {text}");
        assert_eq!(server.metric(name, label), before + 1.0, "{what} is counted as {name} {label}");
    }
    server.eventually_metric("campanile_sockets", "", 0.0);
    assert_eq!(server.metric("campanile_buffer_bytes", ""), 0.0);
}

#[test]
fn tokens() {
    let server = guarded();
    let bearer = |token: &str| frames::request("/ws", &format!("Authorization: Bearer {token}\r\n")).into_bytes();
    let refused = |what, token: &str, words, reason: &str| Case {
        what,
        request: bearer(token),
        status: 401,
        words,
        metric: ("campanile_tokens_refused_total", format!("reason=\"{reason}\"")),
    };
    let good = token(|_| ());
    assert_eq!(answer(&server, &bearer(&good)).0, 101);
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let at = good.len() - 5;
    let forged = format!("{}{}{}", &good[..at], if good.as_bytes()[at] == b'A' { 'B' } else { 'A' }, &good[at + 1..]);
    let base64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let unsigned = format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(&claims().to_string()));
    let by_public_key = signed(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(PUBLIC.as_bytes()));
    let elliptic = signed(&Header::new(Algorithm::ES256), &claims(), &EncodingKey::from_ec_pem(PRIVATE.as_bytes()).unwrap());
    let (message, signature) = elliptic.rsplit_once('.').unwrap();
    // The signature of ES256 under a header that says RS256, for which there is no key.
    let other_alg = format!("{}.{}.{signature}", base64(r#"{"alg":"RS256"}"#), message.split_once('.').unwrap().1);
    let unknown_kid = Header { kid: Some("nobody's".to_owned()), ..Header::new(Algorithm::HS256) };
    assert_eq!(answer(&server, &bearer(&elliptic)).0, 101);
    // Keys without a name are tried for every name; the signature decides.
    assert_eq!(answer(&server, &bearer(&signed(&unknown_kid, &claims(), &secret))).0, 101);
    check(
        &server,
        &[
            Case { request: frames::request("/ws", "").into_bytes(), ..refused("none", "", "asks for a token", "missing") },
            refused("expired", &token(|claims| claims["exp"] = (now_s() - 1).into()), "has expired", "expired"),
            refused("from the future", &token(|claims| claims["nbf"] = (now_s() + 300).into()), "not valid yet", "not_yet_valid"),
            refused("wrongly signed", &forged, "signature", "signature"),
            refused("signed with the public key", &by_public_key, "signature", "signature"),
            refused("alg none", &unsigned, "`alg`", "algorithm"),
            refused("another alg than the key's", &other_alg, "`alg`", "algorithm"),
            refused("for somebody else", &token(|claims| claims["aud"] = "other".into()), "`aud`", "audience"),
            refused("for nobody in particular", &token(|claims| drop(claims.as_object_mut().unwrap().remove("aud"))), "`aud`", "audience"),
            refused("without an end", &token(|claims| drop(claims.as_object_mut().unwrap().remove("exp"))), "`exp`", "claim"),
            refused("truncated", &good[..good.len() / 2], "three parts", "malformed"),
            refused("without its last character", &good[..good.len() - 1], "signature", "signature"),
            refused("5 KB", &"x".repeat(5000), "longer than", "too_long"),
            Case {
                request: frames::request(&format!("/ws?token={good}"), &format!("Authorization: Bearer {good}\r\n")).into_bytes(),
                ..refused("two at once", "", "more than one token", "several")
            },
            Case {
                request: frames::request("/ws", &format!("Authorization: Bearer {good}\r\nCookie: session={good}\r\n")).into_bytes(),
                ..refused("one as a cookie too", "", "more than one token", "several")
            },
            self::refused("64 KB", bearer(&"x".repeat(64 << 10)), 431, "8192 bytes", "head_too_big"),
        ],
    );
    let log = server.log();
    assert!(!log.contains(&good) && !log.contains("eyJ"), "tokens are not logged: {log}");
}

/// A key that has a name, and a crowd of tokens with other names: each costs a look, and no signature.
#[test]
fn a_flood_of_unknown_kids_costs_no_signatures() {
    let launch = Launch::new(&["--auth", "jwt", "--token-keys", "keys.json"]);
    std::fs::create_dir_all(&launch.directory).unwrap();
    let keys = json!({"keys": [{"kty": "oct", "kid": "k1", "k": URL_SAFE_NO_PAD.encode(SECRET)}]});
    std::fs::write(launch.directory.join("keys.json"), keys.to_string()).unwrap();
    let server = launch.start();
    let named = |kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        let claims = json!({"sub": "u1", "exp": now_s() + 600});
        frames::request(
            "/ws",
            &format!("Authorization: Bearer {}\r\n", signed(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes()))),
        )
    };
    for number in 0..200 {
        let (status, text) = answer(&server, named(&format!("k-{number}")).as_bytes());
        assert!(status == 401 && text.contains("(unknown_key)"), "{text}");
    }
    assert_eq!(server.metric("campanile_tokens_refused_total", "reason=\"unknown_key\""), 200.0);
    assert_eq!(server.metric("campanile_token_signatures_total", ""), 0.0);
    assert_eq!(answer(&server, named("k1").as_bytes()).0, 101);
}

#[test]
fn request_heads() {
    let server = Server::start(&[]);
    let with = |more: &str| frames::request("/ws", more);
    let bad = |what, request: String, words| refused(what, request, 400, words, "bad_request");
    check(
        &server,
        &[
            refused("64 KB", with(&format!("X-Long: {}\r\n", "y".repeat(64 << 10))), 431, "8192 bytes", "head_too_big"),
            refused("100 fields", with(&"X-Many: 1\r\n".repeat(100)), 431, "64 header fields", "head_too_big"),
            bad("Host twice", with("Host: other\r\n"), "exactly one Host"),
            bad("its key twice", with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "exactly one Sec-WebSocket-Key"),
            refused("its version twice", with("Sec-WebSocket-Version: 13\r\n"), 426, "must be 13", "upgrade_required"),
            bad("folded", with("X-Folded: a\r\n b\r\n"), "not an HTTP/1.1 request"),
            bad("folded in its first field", with("").replacen("\r\n", "\r\n X: y\r\n", 1), "not an HTTP/1.1 request"),
            refused(
                "smuggled",
                with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
                413,
                "must not have a body",
                "body_not_allowed",
            ),
            refused(
                "a length of 0 beside chunks",
                with("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
                413,
                "body",
                "body_not_allowed",
            ),
            refused("two lengths", with("Content-Length: 0\r\nContent-Length: 5\r\n"), 413, "body", "body_not_allowed"),
            bad("a length that is none", with("Content-Length: +0\r\n"), "must be a number"),
            bad("a space before the colon", with("Transfer-Encoding : chunked\r\n"), "not an HTTP/1.1 request"),
            bad("a bare CR in a value", with("X-Bare: a\rb\r\n"), "not an HTTP/1.1 request"),
            bad("a bare CR for a line's end", with("X-Bare: a\rX-Next: b\r\n"), "not an HTTP/1.1 request"),
            bad("a NUL in a value", with("X-Nul: a\0b\r\n"), "not an HTTP/1.1 request"),
            bad("a NUL in a name", with("X-\0: a\r\n"), "not an HTTP/1.1 request"),
            bad("a NUL in its target", with("").replacen("/ws", "/w\0s", 1), "not an HTTP/1.1 request"),
            bad("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "not an HTTP/1.1 request"),
            bad("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".to_owned(), "not an HTTP/1.1 request"),
            refused("to pass it on", "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 400, "must be a path", "bad_request"),
        ],
    );
}

#[test]
fn origins() {
    let server = guarded();
    let good = token(|_| ());
    let from = |origin: &str| frames::request("/ws", &format!("Cookie: session={good}\r\nOrigin: {origin}\r\n"));
    for origin in ["https://app.example.org", "https://APP.example.org:443", "https://a.example.com", "https://a.b.example.com"] {
        assert_eq!(answer(&server, from(origin).as_bytes()).0, 101, "{origin}");
    }
    let refused = |what, request: String| refused(what, request, 403, "pages of this Origin", "origin");
    check(
        &server,
        &[
            refused("null", from("null")),
            refused("another scheme", from("http://app.example.org")),
            refused("another port", from("https://app.example.org:444")),
            refused("a suffix", from("https://app.example.org.evil.example")),
            refused("a prefix", from("https://evilapp.example.org")),
            refused("the end of a name", from("https://evilexample.com")),
            refused("the wildcard's own name", from("https://example.com")),
            refused("in its user", from("https://app.example.org@evil.example")),
            refused("in its path", from("https://evil.example/.example.com")),
            refused("in its query", from("https://evil.example?.example.com")),
            refused("behind a backslash", from("https://evil.example\\.example.com")),
            refused("a star", from("https://*.example.com")),
            refused("several in one", from("https://app.example.org https://evil.example")),
            refused("no scheme", from("app.example.org")),
            refused("nothing", from("")),
            refused("not UTF-8, in effect", from("https://\u{fffd}.example.org")),
            refused("twice", from("https://app.example.org\r\nOrigin: https://evil.example")),
            // What a browser sends by itself needs a page to be named.
            refused("none, with a cookie", frames::request("/ws", &format!("Cookie: session={good}\r\n"))),
        ],
    );
    // In a header whoever made the request has put it.
    assert_eq!(answer(&server, frames::request("/ws", &format!("Authorization: Bearer {good}\r\n")).as_bytes()).0, 101);
}

/// A page of the server's own origin sends no `Origin` with a GET. What its browser says instead counts for feeds, word for word.
#[test]
fn a_cookie_without_origin_on_a_feed() {
    let server = guarded();
    let good = token(|_| ());
    let get =
        |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nCookie: session={good}\r\n{fields}\r\n");
    let own = "Sec-Fetch-Site: same-origin\r\n";
    let (status, polled) = answer(&server, get("/poll?channel=news&wait=0", own).as_bytes());
    assert!(status == 200 && polled.contains("\"type\":\"subscribed\""), "{polled}");
    let mut stream = Client::dial(server.listen);
    stream.send(get("/sse/news", own).as_bytes());
    assert_eq!(frames::status(stream.head().as_bytes()), 200);
    drop(stream);
    // It says where the page is, not whose token it is.
    let forged = get("/poll?channel=news&wait=0", own).replace(&good, &good[..good.len() - 5]);
    let refused = |what, request: String| refused(what, request, 403, "pages of this Origin", "origin");
    check(
        &server,
        &[
            Case {
                what: "a forged one",
                request: forged.into_bytes(),
                status: 401,
                words: "signature",
                metric: ("campanile_tokens_refused_total", "reason=\"signature\"".to_owned()),
            },
            refused("another site", get("/sse/news", "Sec-Fetch-Site: cross-site\r\n")),
            refused("another host of the site", get("/sse/news", "Sec-Fetch-Site: same-site\r\n")),
            refused("typed by somebody", get("/poll?channel=news", "Sec-Fetch-Site: none\r\n")),
            refused("in capitals", get("/poll?channel=news", "Sec-Fetch-Site: Same-Origin\r\n")),
            refused("with more", get("/poll?channel=news", "Sec-Fetch-Site: same-origin, cross-site\r\n")),
            refused("twice", get("/poll?channel=news", "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: same-origin\r\n")),
            refused("not at all", get("/poll?channel=news", "")),
            refused("with an Origin that is not listed", get("/sse/news", &format!("{own}Origin: https://evil.example\r\n"))),
            refused("for a WebSocket", frames::request("/ws", &format!("Cookie: session={good}\r\n{own}"))),
        ],
    );
}

/// Where every page may connect, one that says who it is by a link may not be anybody's.
#[test]
fn a_page_without_origin_and_a_token_in_a_link() {
    let server = Launch::new(&[]).file(&format!("auth = \"jwt\"\ntoken_secret = \"{SECRET}\"\n")).start();
    let good = token(|claims| drop(claims.as_object_mut().unwrap().remove("aud")));
    let link = format!("/ws?token={good}");
    check(&server, &[refused("null", frames::request(&link, "Origin: null\r\n"), 403, "pages of this Origin", "origin")]);
    assert_eq!(answer(&server, frames::request(&link, "Origin: https://anywhere.example\r\n").as_bytes()).0, 101);
    assert_eq!(answer(&server, frames::request("/ws", &format!("Origin: null\r\nAuthorization: Bearer {good}\r\n")).as_bytes()).0, 101);
}

#[test]
fn names_of_channels() {
    let server = Server::start(&[]);
    let bad = |what, path: &str, words| refused(what, frames::request(path, ""), 400, words, "bad_request");
    check(
        &server,
        &[
            bad("a line's end", "/ws/a%0d%0ab", "control characters"),
            bad("NUL", "/ws?channel=%00", "control characters"),
            bad("DEL", "/ws/a%7f", "control characters"),
            bad("a control character beyond ASCII", "/ws/a%c2%85b", "control characters"),
            bad("not UTF-8", "/ws/%ff", "must be UTF-8"),
            bad("half a character", "/ws?channel=%e2%82", "must be UTF-8"),
            bad("300 bytes", &format!("/ws/{}", "x".repeat(300)), "1 to 255 bytes"),
            bad("empty", "/ws?channel=", "1 to 255 bytes"),
            bad("the servers' own", "/ws/__campanile__:revoked:", "the servers' own"),
            refused("10 KB", frames::request(&format!("/ws/{}", "x".repeat(10 << 10)), ""), 431, "8192 bytes", "head_too_big"),
        ],
    );
    let mut client = Client::connect(server.listen, "/ws?format=json");
    client.event();
    let errors = |code: &str| server.metric("campanile_command_errors_total", &format!("code=\"{code}\""));
    for (number, name) in ["", "a\nb", "a\u{0}b", "\u{85}", &"x".repeat(10 << 10), "__campanile__:revoked:"].iter().enumerate() {
        client.command(json!({"type": "subscribe", "channel": name, "id": number}));
        let error = client.event();
        assert_eq!((&error["code"], &error["id"]), (&json!("bad_channel"), &json!(number)), "{name:?}: {error}");
    }
    assert_eq!(errors("bad_channel"), 6.0);
    // As MessagePack: a text that is none.
    client.send(&frames::frame(frames::BINARY, b"\x82\xa4type\xa9subscribe\xa7channel\xa2\xff\xfe"));
    assert_eq!(client.event()["code"], "bad_command");
    assert_eq!(errors("bad_command"), 1.0);
    // As JSON: no text at all, so no WebSocket text either (RFC 6455, 8.1).
    client.send(&frames::frame(frames::TEXT, b"{\"type\":\"subscribe\",\"channel\":\"\xff\"}"));
    assert_eq!(client.close_code(), Some(1007));
    server.eventually_metric("campanile_connections_closed_total", "reason=\"invalid_utf8\"", 1.0);
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0x50, 0x01, 0xBB];

fn v2(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, kind], &(block.len() as u16).to_be_bytes(), block].concat()
}

#[test]
fn proxy_headers() {
    let server = Launch::new(&["--listen", "proxy+tcp://127.0.0.1:0", "--trusted-proxies", "127.0.0.1"]).start();
    let request = frames::request("/ws", "").into_bytes();
    let header = |what, bytes: &[u8], words| refused(what, [bytes, &request].concat(), 400, words, "proxy_header");
    let good = v2(0x21, 0x11, &IPV4);
    check(
        &server,
        &[
            header("none", b"", "there is none"),
            header("over 536 bytes", &v2(0x21, 0x11, &[&IPV4[..], &[0; 510]].concat()), "longer than 536 bytes"),
            header("64 KB announced", &[SIGNATURE, &[0x21, 0x11, 0xFF, 0xFF]].concat(), "longer than 536 bytes"),
            header("a line without end", &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(), "within 107 bytes"),
            header("a bad checksum", &v2(0x21, 0x11, &[&IPV4[..], &[3, 0, 4, 1, 2, 3, 4]].concat()), "CRC32c is wrong"),
            header("too short for its addresses", &v2(0x21, 0x21, &IPV4), "do not fit its length"),
            header("an unknown version", &v2(0x31, 0x11, &IPV4), "not known"),
            refused("twice", [&good[..], &good, &request].concat(), 400, "or only one", "proxy_unexpected"),
            refused(
                "twice, in both versions",
                [&good[..], b"PROXY UNKNOWN\r\n", &request].concat(),
                400,
                "or only one",
                "proxy_unexpected",
            ),
        ],
    );
    // Truncated: the rest never comes.
    for cut in [5, 15, 20, good.len() - 1] {
        let mut client = Client::dial(server.listen);
        client.send(&good[..cut]);
        client.end_sending();
        let answer = client.rest();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("the PROXY header ended"), "cut at {cut}: {answer}");
    }
    assert_eq!(server.metric("campanile_connections_refused_total", "reason=\"bad_request\""), 0.0);
    // One byte at a time is slow, and right.
    let mut client = Client::dial(server.listen);
    for byte in good.iter().chain(&request) {
        client.send(&[*byte]);
    }
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    // From where nobody is believed.
    let strict = Launch::new(&["--listen", "proxy+tcp://127.0.0.1:0", "--trusted-proxies", "10.0.0.0/8"]).start();
    let mut client = Client::dial(strict.listen);
    assert_eq!(client.rest_bytes(), b"");
    strict.eventually_metric("campanile_connections_refused_total", "reason=\"proxy_untrusted\"", 1.0);
}

/// Reads answers until one is of this code; how many came before it.
fn until_refused(client: &mut Client, code: &str, most: usize, mut ask: impl FnMut(&mut Client, usize)) -> usize {
    for count in 0..most {
        ask(client, count);
        let answer = client.event();
        if answer["type"] == "error" {
            assert_eq!(answer["code"], code, "{answer}");
            return count;
        }
    }
    panic!("never refused in {most}");
}

#[test]
fn a_client_that_never_stops_asking() {
    let server = Launch::new(&["--subscriptions-max", "8", "--commands-per-second", "10", "--close-timeout", "1"]).start();
    let limited = |name: &str| server.metric(name, "");
    // Subscribes and unsubscribes as fast as it can.
    let mut client = Client::connect(server.listen, "/ws?format=json");
    client.event();
    let taken = until_refused(&mut client, "rate_limited", 10_000, |client, count| {
        let command = if count % 2 == 0 { "subscribe" } else { "unsubscribe" };
        client.command(json!({"type": command, "channel": "news"}));
    });
    assert!(taken >= 10, "{taken}");
    assert!(limited("campanile_commands_limited_total") >= 1.0);
    assert!(server.metric("campanile_command_errors_total", "code=\"rate_limited\"") >= 1.0);
    // It is still there, and so are others.
    client.send(&frames::frame(frames::PING, b"x"));
    assert_eq!(Client::connect(server.listen, "/ws?format=json").event()["type"], "connected");

    // Whoever goes on all the same costs more than it is told, and is closed.
    let more = frames::frame(frames::TEXT, br#"{"type":"ping"}"#).repeat(100);
    let mut flooder = Client::connect(server.listen, "/ws?format=json");
    let reader = flooder.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || while std::io::Write::write_all(&mut &reader, &more).is_ok() {});
    assert_eq!(flooder.close_code(), Some(4029));
    drop(flooder);
    writer.join().unwrap();
    server.eventually_metric("campanile_connections_closed_total", "reason=\"flooding\"", 1.0);

    // Makes channels without end.
    let open = Launch::new(&["--subscriptions-max", "8", "--commands-per-second", "none"]).start();
    let mut client = Client::connect(open.listen, "/ws?format=json");
    client.event();
    let taken = until_refused(&mut client, "rate_limited", 10_000, |client, count| {
        if count > 0 {
            client.command(json!({"type": "unsubscribe", "channel": format!("c{}", count - 1)}));
            assert_eq!(client.event()["type"], "unsubscribed");
        }
        client.command(json!({"type": "subscribe", "channel": format!("c{count}")}));
    });
    assert!(taken >= 32, "{taken}");
    assert!(open.metric("campanile_channels_limited_total", "") >= 1.0);
}

#[test]
fn a_client_that_never_stops_refreshing() {
    let file = format!("auth = \"jwt\"\ntoken_secret = \"{SECRET}\"\ncommands_per_second = 10\nsubscriptions_max = 8\n");
    let server = Launch::new(&[]).file(&file).start();
    let of = |number: u64| token(|claims| *claims = json!({"sub": "u1", "exp": now_s() + 600, "jti": number.to_string()}));
    let mut client = Client::connect(server.listen, &format!("/ws?format=json&token={}", of(0)));
    client.event();
    let taken = until_refused(&mut client, "rate_limited", 10_000, |client, count| {
        client.command(json!({"type": "refresh", "token": of(count as u64 + 1)}));
    });
    let signatures = server.metric("campanile_token_signatures_total", "");
    assert!(taken >= 10 && signatures <= taken as f64 + 1.0, "no signature is looked at beyond the limit: {taken}, {signatures}");
    assert!(server.metric("campanile_commands_limited_total", "") >= 1.0);
    // Broken ones are refused as such, and the connection goes on with what it has.
    let mut other = Client::connect(server.listen, &format!("/ws?format=json&token={}", of(0)));
    other.event();
    for (number, token) in ["", "x", "a.b.c", &"x".repeat(60 << 10), &of(1)[..40]].iter().enumerate() {
        other.command(json!({"type": "refresh", "token": token, "id": number}));
        let error = other.event();
        assert_eq!((&error["code"], &error["id"]), (&json!("token_invalid"), &json!(number)), "{error}");
        assert!(token.len() < 20 || !error.to_string().contains(&token[..20]), "nothing of it is quoted: {error}");
    }
    assert_eq!(server.metric("campanile_command_errors_total", "code=\"token_invalid\""), 5.0);
    other.command(json!({"type": "ping", "id": 9}));
    assert_eq!(other.event()["type"], "pong");
}
