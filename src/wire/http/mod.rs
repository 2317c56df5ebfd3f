//! Request heads on the public port (RFC 9112, RFC 6455 section 4.2): which resource, may it be upgraded, and the answers.
//!
//! Called by a shard with what a new socket has sent so far, again from the start after each read until the outcome is not `Partial`;
//! the shard bounds the time. Invariants: nothing is kept between calls, so a pending handshake costs only the bytes it sent; an outcome
//! does not change when more bytes follow; and a refusal always says what would have been accepted.
//!
//! httparse reads the syntax and tungstenite derives the accept key. The checks between them are ours, because tungstenite's handshake
//! holds 8 KB per pending socket and answers nothing but an upgrade.

use crate::limits::{CHANNEL_NAME_BYTES_MAX, HEAD_BYTES_MAX, HEAD_FIELDS_MAX, QUERY_CHANNELS_MAX};
use crate::named::named;
use crate::wire::Format;
use crate::wire::close::Reconnect::{self, Later, Not};
use base64::Engine as _;
use std::borrow::Cow;
use std::mem::MaybeUninit;

/// What a 503 asks a client to wait. Long enough to be a relief, short enough that a restart is not felt as an outage.
pub const RETRY_AFTER_SECONDS: u32 = 5;

/// What the server allows, checked while the head is read.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `/echo` is served.
    pub echo: bool,
}

#[derive(Debug)]
pub enum Outcome {
    /// More bytes are needed.
    Partial,
    /// A valid upgrade. `consumed` bytes were the head; what follows are already frames.
    Upgrade { consumed: usize, upgrade: Upgrade },
    /// Answer with [`Refusal::encode`] and close.
    Refuse(Refusal),
    /// `GET` or `HEAD /healthz`: answer with [`encode_healthz`] and close.
    Health { head_only: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The diagnostic echo path.
    pub echo: bool,
    /// Channels of `/ws/NAME` and `?channel=NAME`, in order, without doubles, each a valid channel name.
    pub channels: Vec<String>,
    /// From the subprotocol, else `?format=`; None leaves the choice to the first command.
    pub format: Option<Format>,
    /// The subprotocol to confirm in the answer.
    pub subprotocol: Option<&'static str>,
    /// Value of `Sec-WebSocket-Accept`.
    pub accept_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// One sentence for the person who reads the answer: what was wrong and what is accepted.
    pub message: String,
    /// For 405: what the resource accepts.
    allow: &'static str,
    /// The answer to a HEAD request has no body.
    head_only: bool,
}

macro_rules! refusal_reasons {
    ($($(#[$meta:meta])* $variant:ident = $name:literal, $code:literal $phrase:literal, $reconnect:expr, $text:literal;)*) => {
        named! {
            /// Why a request was refused. Each is counted in `campanile_connections_refused_total`.
            RefusalReason { $($(#[$meta])* $variant = $name,)* }
        }

        impl RefusalReason {
            /// The status code and its phrase.
            pub const fn status(self) -> (u16, &'static str) {
                match self { $(RefusalReason::$variant => ($code, $phrase),)* }
            }

            pub const fn reconnect(self) -> Reconnect {
                match self { $(RefusalReason::$variant => $reconnect,)* }
            }

            /// The sentence of the answer; empty where only the occasion has the words.
            pub const fn text(self) -> &'static str {
                match self { $(RefusalReason::$variant => $text,)* }
            }
        }
    };
}

// A new reason is one row here and one in section 2.4 of `docs/protocol.md`.
refusal_reasons! {
    BadRequest = "bad_request", 400 "Bad Request", Not, "";
    NotFound = "not_found", 404 "Not Found", Not,
        "Nothing is served here; WebSocket clients connect to /ws or /ws/CHANNEL.";
    MethodNotAllowed = "method_not_allowed", 405 "Method Not Allowed", Not, "";
    RequestTimeout = "request_timeout", 408 "Request Timeout", Later, "";
    BodyNotAllowed = "body_not_allowed", 413 "Content Too Large", Not, "The request must not have a body.";
    UpgradeRequired = "upgrade_required", 426 "Upgrade Required", Not, "";
    HeadTooBig = "head_too_big", 431 "Request Header Fields Too Large", Not, "";
    /// `connections_max` is reached.
    ConnectionsMax = "connections_max", 503 "Service Unavailable", Later,
        "this server has as many connections as it may; try another or later";
    /// The descriptor limit is reached; the connection was closed without an answer.
    Descriptors = "descriptors", 503 "Service Unavailable", Later, "";
    /// The server is stopping.
    Stopping = "stopping", 503 "Service Unavailable", Later, "the server is stopping";
}

/// Reads a request head from the start. `head` is everything the peer has sent.
pub fn parse(head: &[u8], rules: Rules) -> Outcome {
    let mut fields = [const { MaybeUninit::uninit() }; HEAD_FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let window = &head[..head.len().min(HEAD_BYTES_MAX)];
    let refusal = match request.parse_with_uninit_headers(window, &mut fields) {
        Ok(httparse::Status::Complete(consumed)) => match decide(&request, consumed, rules) {
            Ok(outcome) => return outcome,
            Err(refusal) => Refusal { head_only: request.method == Some("HEAD"), ..refusal },
        },
        Ok(httparse::Status::Partial) if window.len() < HEAD_BYTES_MAX => return Outcome::Partial,
        Ok(httparse::Status::Partial) => {
            Refusal::new(RefusalReason::HeadTooBig, format!("The request head must not be longer than {HEAD_BYTES_MAX} bytes."))
        }
        Err(httparse::Error::TooManyHeaders) => {
            Refusal::new(RefusalReason::HeadTooBig, format!("The request must not have more than {HEAD_FIELDS_MAX} header fields."))
        }
        Err(error) => bad(format!("This is not an HTTP/1.1 request ({error}).")),
    };
    Outcome::Refuse(refusal)
}

/// What a path names.
enum Resource<'p> {
    Health,
    Echo,
    /// `/ws`, or `/ws/NAME` with the name as it was written.
    Ws(Option<&'p str>),
}

impl<'p> Resource<'p> {
    /// A slash at the end, and several for one before the resource or the name, are what a proxy makes of `location /live/` in front
    /// of `/ws` or `/ws/`. A name that begins with a slash is written `%2F`.
    fn at(path: &'p str, rules: Rules) -> Result<Resource<'p>, Refusal> {
        let path = path.trim_start_matches('/');
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        match (first, rest.trim_start_matches('/')) {
            ("healthz", "") => Ok(Resource::Health),
            ("echo", "") if rules.echo => Ok(Resource::Echo),
            ("ws", "") => Ok(Resource::Ws(None)),
            ("ws", name) => Ok(Resource::Ws(Some(name))),
            _ => Err(RefusalReason::NotFound.into()),
        }
    }
}

/// The rules of a complete head, in the order in which their answers help most: where, how, with what.
fn decide(request: &httparse::Request<'_, '_>, consumed: usize, rules: Rules) -> Result<Outcome, Refusal> {
    let target = origin_form(request.path.unwrap_or_default())?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let resource = Resource::at(path, rules)?;

    let head_only = match (request.method, &resource) {
        (Some("GET"), _) => false,
        (Some("HEAD"), Resource::Health) => true,
        (_, Resource::Health) => return Err(method_not_allowed("GET, HEAD")),
        (_, Resource::Echo | Resource::Ws(_)) => return Err(method_not_allowed("GET")),
    };
    let fields = Fields(request.headers);
    check_no_body(&fields)?;
    let http_1_1 = request.version == Some(1);
    match fields.values("host").count() {
        1 => {}
        // Allowed in HTTP/1.0, and old health checkers do it.
        0 if !http_1_1 => {}
        _ => return Err(bad("The request must have exactly one Host header.")),
    }

    let (echo, Query { channels, format }) = match resource {
        Resource::Health => return Ok(Outcome::Health { head_only }),
        Resource::Echo => (true, Query::default()),
        Resource::Ws(name) => (false, Query::read(name, query)?),
    };
    let key = websocket_key(&fields, http_1_1)?;
    let chosen = subprotocol_offered(&fields);
    let upgrade = Upgrade {
        echo,
        channels,
        format: chosen.or(format),
        subprotocol: chosen.map(subprotocol),
        accept_key: tungstenite::handshake::derive_accept_key(key),
    };
    Ok(Outcome::Upgrade { consumed, upgrade })
}

/// The target from its path on; `http://host/ws` (RFC 9112, 3.2.2) is the same as `/ws`.
fn origin_form(target: &str) -> Result<&str, Refusal> {
    if target.starts_with('/') {
        return Ok(target);
    }
    let after_scheme = target.split_once("://").and_then(|(scheme, rest)| {
        let known = ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        known.then_some(rest)
    });
    match after_scheme.map(|rest| (rest, rest.find(['/', '?']).unwrap_or(rest.len()))) {
        None | Some((_, 0)) => Err(bad("The request target must be a path like /ws, or a URL with a host.")),
        Some((rest, at)) if rest[at..].starts_with('/') => Ok(&rest[at..]),
        Some(_) => Ok("/"),
    }
}

/// Header fields by name.
struct Fields<'h>(&'h [httparse::Header<'h>]);

impl<'h> Fields<'h> {
    /// The values of every field of this name, without the space around them.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'h [u8]> + use<'h> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.trim_ascii())
    }

    /// The elements of a comma-separated list, which may be spread over several fields (RFC 9110, 5.3).
    fn elements(&self, name: &'static str) -> impl Iterator<Item = &'h [u8]> + use<'h> {
        self.values(name).flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
    }

    fn contains_token(&self, name: &'static str, token: &str) -> bool {
        self.elements(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The value of a field that must not occur twice; None when it does, or does not at all.
    fn only(&self, name: &'static str) -> Option<&'h [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }
}

/// A body would be read as frames, or as the next request: neither path takes one.
fn check_no_body(fields: &Fields<'_>) -> Result<(), Refusal> {
    let mut body = fields.values("transfer-encoding").next().is_some();
    for length in fields.elements("content-length") {
        if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
            return Err(bad("Content-Length must be a number."));
        }
        body |= length.iter().any(|&digit| digit != b'0');
    }
    if body {
        return Err(RefusalReason::BodyNotAllowed.into());
    }
    Ok(())
}

/// The checks of RFC 6455, 4.2.1; the client's key if they pass.
fn websocket_key<'h>(fields: &Fields<'h>, http_1_1: bool) -> Result<&'h [u8], Refusal> {
    let upgrade_required = |message: &str| Err(Refusal::new(RefusalReason::UpgradeRequired, message));
    if !http_1_1 {
        return upgrade_required("WebSocket needs HTTP/1.1; a proxy on the way may speak HTTP/1.0.");
    }
    if !fields.contains_token("upgrade", "websocket") {
        return upgrade_required("This is a WebSocket endpoint; the request must have the header Upgrade: websocket.");
    }
    if fields.only("sec-websocket-version") != Some(b"13") {
        return upgrade_required("Sec-WebSocket-Version must be 13.");
    }
    if !fields.contains_token("connection", "upgrade") {
        return Err(bad("The Connection header must contain Upgrade; a proxy on the way may have removed it."));
    }
    let key_problem = "The request must have exactly one Sec-WebSocket-Key: 16 bytes in base64, which are 24 characters.";
    let key = fields.only("sec-websocket-key").ok_or_else(|| bad(key_problem))?;
    // Three bytes for each four characters, before the padding is known.
    let mut decoded = [0; 18];
    match base64::engine::general_purpose::STANDARD.decode_slice(key, &mut decoded) {
        Ok(16) if key.len() == 24 => Ok(key),
        Ok(_) | Err(_) => Err(bad(key_problem)),
    }
}

/// The subprotocol that stands for a format.
pub const fn subprotocol(format: Format) -> &'static str {
    match format {
        Format::Msgpack => "campanile.v1.msgpack",
        Format::Json => "campanile.v1.json",
        Format::Raw => "campanile.v1.raw",
    }
}

/// The client lists its subprotocols by preference, so the first one that we know wins. Knowing none is no reason to refuse: the answer
/// then names none, and the client decides (RFC 6455, 4.2.2).
fn subprotocol_offered(fields: &Fields<'_>) -> Option<Format> {
    fields
        .elements("sec-websocket-protocol")
        .find_map(|offered| Format::ALL.into_iter().find(|&format| subprotocol(format).as_bytes() == offered))
}

/// What a `/ws` target asks for.
#[derive(Default)]
struct Query {
    channels: Vec<String>,
    format: Option<Format>,
}

impl Query {
    fn read(path_name: Option<&str>, query: &str) -> Result<Query, Refusal> {
        let mut read = Query::default();
        if let Some(name) = path_name {
            read.add_channel(decoded(name))?;
        }
        let mut query_channels = 0;
        for pair in query.split('&') {
            // Only in a query does a plus sign stand for a space.
            let pair = pair.replace('+', " ");
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            let value = || decoded(value);
            match decoded(name).as_deref() {
                Some("channel") => {
                    query_channels += 1;
                    if query_channels > QUERY_CHANNELS_MAX {
                        return Err(bad(format!(
                            "At most {QUERY_CHANNELS_MAX} channel parameters are accepted; subscribe to the rest later."
                        )));
                    }
                    read.add_channel(value())?;
                }
                Some("format") => {
                    let format = value().as_deref().and_then(Format::from_name);
                    read.format.get_or_insert(format.ok_or_else(|| bad("The format parameter must be msgpack, json or raw."))?);
                }
                // Also a name that is not UTF-8: whoever it is for, it is not for us.
                Some(_) | None => {}
            }
        }
        Ok(read)
    }

    fn add_channel(&mut self, name: Option<Cow<'_, str>>) -> Result<(), Refusal> {
        let name = name.ok_or_else(|| bad("A channel name must be UTF-8."))?;
        check_channel_name(&name).map_err(bad)?;
        if !self.channels.iter().any(|known| *known == name) {
            self.channels.push(name.into_owned());
        }
        Ok(())
    }
}

/// Percent-decoded; None: not UTF-8.
fn decoded(encoded: &str) -> Option<Cow<'_, str>> {
    percent_encoding::percent_decode_str(encoded).decode_utf8().ok()
}

/// Checks a channel name as clients write it: 1 to 255 bytes, no control characters. The error says what is accepted.
pub fn check_channel_name(name: &str) -> Result<(), &'static str> {
    const _: () = assert!(CHANNEL_NAME_BYTES_MAX == 255, "the messages below name it");
    if name.is_empty() || name.len() > CHANNEL_NAME_BYTES_MAX {
        return Err("A channel name must have 1 to 255 bytes.");
    }
    if name.chars().any(char::is_control) {
        return Err("A channel name must not contain control characters.");
    }
    Ok(())
}

impl Upgrade {
    /// Appends the `101 Switching Protocols` answer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
        out.extend_from_slice(start);
        out.extend_from_slice(self.accept_key.as_bytes());
        if let Some(subprotocol) = self.subprotocol {
            out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            out.extend_from_slice(subprotocol.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalReason::BadRequest, message)
}

fn method_not_allowed(allow: &'static str) -> Refusal {
    Refusal { allow, ..Refusal::new(RefusalReason::MethodNotAllowed, format!("Accepted methods here: {allow}.")) }
}

/// With the words that always do.
impl From<RefusalReason> for Refusal {
    fn from(reason: RefusalReason) -> Refusal {
        debug_assert!(!reason.text().is_empty(), "{reason:?} must say what was wrong");
        Refusal::new(reason, reason.text())
    }
}

impl Refusal {
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Refusal {
        Refusal { reason, message: message.into(), allow: "GET", head_only: false }
    }

    /// Appends the whole HTTP answer (`Connection: close`, plain text body, `Allow`, `Sec-WebSocket-Version`, `Retry-After` where due).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (code, phrase) = self.reason.status();
        let particular = match self.reason {
            RefusalReason::MethodNotAllowed => format!("Allow: {}\r\nConnection: close\r\n", self.allow),
            // Whoever sends Upgrade must list it under Connection too (RFC 9110, 7.8).
            RefusalReason::UpgradeRequired => {
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: close, Upgrade\r\n".to_owned()
            }
            RefusalReason::ConnectionsMax | RefusalReason::Descriptors | RefusalReason::Stopping => {
                format!("Retry-After: {RETRY_AFTER_SECONDS}\r\nConnection: close\r\n")
            }
            RefusalReason::BadRequest
            | RefusalReason::NotFound
            | RefusalReason::RequestTimeout
            | RefusalReason::BodyNotAllowed
            | RefusalReason::HeadTooBig => "Connection: close\r\n".to_owned(),
        };
        let body = format!("{}\n", self.message);
        encode_answer(out, &format!("{code} {phrase}"), &particular, &body, self.head_only);
    }
}

/// Appends the answer to a health check: this process accepts and answers.
pub fn encode_healthz(out: &mut Vec<u8>, head_only: bool) {
    encode_answer(out, "200 OK", "Cache-Control: no-store\r\nConnection: close\r\n", "ok\n", head_only);
}

/// Appends a plain text answer. `particular` are whole header lines; the answer to a HEAD request announces the body that GET would get.
fn encode_answer(out: &mut Vec<u8>, status: &str, particular: &str, body: &str, head_only: bool) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n{particular}\r\n");
    out.extend_from_slice(head.as_bytes());
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RefusalReason::*;

    const RULES: Rules = Rules { echo: true };
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

    fn accepted(bytes: &[u8]) -> Upgrade {
        match parse(bytes, RULES) {
            Outcome::Upgrade { consumed, upgrade } => {
                assert_eq!(consumed, bytes.len());
                upgrade
            }
            other => panic!("{other:?} for {}", String::from_utf8_lossy(bytes)),
        }
    }

    fn refused(bytes: &[u8], rules: Rules) -> Refusal {
        match parse(bytes, rules) {
            Outcome::Refuse(refusal) => refusal,
            other => panic!("{other:?} for {}", String::from_utf8_lossy(bytes)),
        }
    }

    fn answer(refusal: &Refusal) -> String {
        let mut out = Vec::new();
        refusal.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_upgrade_is_answered_as_rfc_6455_shows_it() {
        let upgrade = accepted(&upgrade_head("/ws", &[]));
        let plain = Upgrade { echo: false, channels: vec![], format: None, subprotocol: None, accept_key: ACCEPT.into() };
        assert_eq!(upgrade, plain);
        let mut out = b"before".to_vec();
        upgrade.encode(&mut out);
        let expected = format!(
            "beforeHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        let mut out = Vec::new();
        accepted(&upgrade_head("/ws", &["Sec-WebSocket-Protocol: campanile.v1.json"])).encode(&mut out);
        assert!(out.ends_with(b"\r\nSec-WebSocket-Protocol: campanile.v1.json\r\n\r\n"));
        assert!(accepted(&upgrade_head("/echo?channel=%FF", &[])).echo);
    }

    #[test]
    fn what_follows_the_head_is_left_for_the_frames() {
        let mut bytes = upgrade_head("/ws", &[]);
        let length = bytes.len();
        bytes.extend_from_slice(&vec![0x81; 3 * HEAD_BYTES_MAX]);
        assert!(matches!(parse(&bytes, RULES), Outcome::Upgrade { consumed, .. } if consumed == length));
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
            assert_eq!(accepted(&upgrade_head_without(without, fields)).accept_key, ACCEPT);
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
            assert!(matches!(parse(&request, RULES), Outcome::Health { head_only: false }), "{target}");
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
            assert_eq!((upgrade.format, upgrade.subprotocol), (format, subprotocol), "{target} {fields:?}");
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
            (head("OPTIONS * HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
            (head("CONNECT h:80 HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
            (head("GET http:///ws HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
            (head("GET ftp://h/ws HTTP/1.1", &["Host: h"]), BadRequest, "request target"),
            (head("GET / HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
            (head("GET http://h?/ws HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
            (head("GET /wsx HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
            (head("GET /healthz/x HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
            (head("GET /echo/x HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
            (head("GET /x/ws HTTP/1.1", &["Host: h"]), NotFound, "/ws"),
            (head("POST /ws/ HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET\r\n"),
            (head("POST /ws HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET\r\n"),
            (head("HEAD /ws/a HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET\r\n"),
            (head("get /echo HTTP/1.1", &["Host: h"]), MethodNotAllowed, "\r\nAllow: GET\r\n"),
            (head("POST /healthz HTTP/1.1", &["Host: h", "Content-Length: 4"]), MethodNotAllowed, "\r\nAllow: GET, HEAD\r\n"),
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
        assert_eq!(refused(&upgrade_head("/echo", &[]), Rules { echo: false }).reason, NotFound);
    }

    #[test]
    fn every_head_at_every_split() {
        let mut heads: Vec<Vec<u8>> = refusals().into_iter().map(|(bytes, ..)| bytes).filter(|bytes| bytes.len() < 2000).collect();
        heads.push(upgrade_head("/ws/a?channel=b", &["Sec-WebSocket-Protocol: campanile.v1.raw"]));
        heads.push(head("GET /healthz HTTP/1.1", &["Host: h"]));
        heads.push(upgrade_head("/ws", &[]).iter().copied().filter(|&byte| byte != b'\r').collect());
        for bytes in heads {
            let whole = format!("{:?}", parse(&bytes, RULES));
            let mut decided = false;
            for split in 0..=bytes.len() {
                let outcome = format!("{:?}", parse(&bytes[..split], RULES));
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
        assert!(matches!(parse(&longest[..HEAD_BYTES_MAX - 1], RULES), Outcome::Partial));

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
            assert!(matches!(parse(&bytes, RULES), Outcome::Health { head_only } if head_only == expected_head_only));
        }
        let (mut with_body, mut without) = (Vec::new(), Vec::new());
        encode_healthz(&mut with_body, false);
        encode_healthz(&mut without, true);
        assert!(with_body.starts_with(b"HTTP/1.1 200 OK\r\n") && with_body.ends_with(b"\r\n\r\nok\n"));
        assert_eq!(without, with_body[..with_body.len() - 3]);
    }

    #[test]
    fn every_refusal_is_a_whole_answer() {
        for &reason in RefusalReason::ALL {
            let refusal = Refusal::new(reason, "Because.");
            let text = answer(&refusal);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let (code, phrase) = refusal.reason.status();
            assert!(head.starts_with(&format!("HTTP/1.1 {code} {phrase}\r\n")), "{text}");
            for line in ["Content-Type: text/plain; charset=utf-8", "Content-Length: 9", "Connection: close"] {
                assert!(head.contains(&format!("\r\n{line}")), "{text}");
            }
            assert_eq!(head.contains("Retry-After: 5"), code == 503, "{text}");
            assert_eq!(body, "Because.\n");
        }
        let to_head = answer(&refused(&head("HEAD /nowhere HTTP/1.1", &["Host: h"]), RULES));
        assert!(to_head.ends_with("\r\n\r\n"), "{to_head}");
    }

    #[test]
    fn channel_names() {
        for name in ["a", "user:123", "a b", "€", "*", &"x".repeat(255)] {
            assert_eq!(check_channel_name(name), Ok(()), "{name}");
        }
        for name in ["", "a\nb", "\0", "\u{7f}", "\u{85}", &"x".repeat(256), &"€".repeat(86)] {
            assert!(check_channel_name(name).is_err(), "{name}");
        }
    }
}
