//! What the clients connect to: an address, and what each client says there. Any WebSocket server can be one.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail};
use campanile::client::tls::Tls;
use campanile::wire::Format;
use campanile::wire::frame::{Opcode, encode_masked_frame};
use tungstenite::http::Uri;

use super::args::Transport;
use super::identity::Tokens;

/// The nonce of RFC 6455's example. One key for all: nothing is cached on the way, and the answer can be compared with a constant.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What a server makes of [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A mask of zeros is a mask: the bytes go out as they are, and cost nothing.
const MASK: [u8; 4] = [0; 4];

/// What a scenario asks of its target.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    pub channels: u32,
    /// Channels of one client.
    pub per_client: u32,
    /// Of a Campanile, instead of `/ws`.
    pub path: Option<&'static str>,
    /// What a Redis of the run's own is.
    pub redis: OwnRedis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnRedis {
    /// One server, without files.
    One,
    /// One that has again what it had when it is killed.
    Kept,
    /// A master and a replica, with Sentinels.
    Watched,
    /// Three masters with a replica each.
    Cluster,
}

impl From<u32> for Needs {
    fn from(channels: u32) -> Needs {
        Needs { channels, per_client: 1, path: None, redis: OwnRedis::One }
    }
}

/// What says that a connection has its messages from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// The answer 101 itself.
    Upgrade,
    /// Campanile's `subscribed` event.
    Subscribed,
    /// A message that holds these bytes.
    Message(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstMessage {
    pub is_text: bool,
    /// With `{channel}` and `{client}` still in it, if it is text.
    pub bytes: Vec<u8>,
}

impl FirstMessage {
    /// `hex:82a474…` is a binary message, everything else a text.
    pub fn parse(text: &str) -> Result<FirstMessage, String> {
        let Some(digits) = text.strip_prefix("hex:") else {
            return Ok(FirstMessage { is_text: true, bytes: text.as_bytes().to_vec() });
        };
        let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        bytes.map(|bytes| FirstMessage { is_text: false, bytes }).ok_or_else(|| "after hex: pairs of hex digits are expected".to_owned())
    }
}

/// The channels that clients subscribe to and publishers publish on, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channels {
    pub name: String,
    pub count: u32,
}

impl Channels {
    /// One channel has the name itself, many have a number after it, with as many digits as the last one needs: all names are equally long.
    pub fn name(&self, channel: u32) -> String {
        let digits = self.count.saturating_sub(1).max(1).ilog10() as usize + 1;
        if self.count == 1 { self.name.clone() } else { format!("{}{channel:0digits$}", self.name) }
    }

    /// The other way round.
    pub fn number(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(&self.name)?;
        if self.count == 1 { digits.is_empty().then_some(0) } else { digits.parse().ok().filter(|channel| *channel < self.count) }
    }
}

#[derive(Debug, Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// As its URL names it.
    host: String,
    /// Its URL is one of TLS: [`Target::with_tls`] says how.
    pub is_secure: bool,
    pub tls: Option<Tls>,
    path: String,
    subprotocol: Option<String>,
    first: Option<FirstMessage>,
    /// Its clients offer permessage-deflate.
    pub deflate: bool,
    /// What its clients bring.
    tokens: Option<Tokens>,
    pub ready: Ready,
    pub channels: Channels,
    pub format: Format,
    pub transport: Transport,
    pub is_campanile: bool,
}

impl Target {
    /// A target by its URL. Without a path it is a Campanile, whose clients subscribe by their path.
    pub fn new(url: &str, format: Format, channels: Channels) -> anyhow::Result<Target> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL; it should look like ws://127.0.0.1:8080/ws"))?;
        match uri.scheme_str() {
            Some("ws" | "wss") => {}
            _ => bail!("{url} is no WebSocket URL; it should look like ws://127.0.0.1:8080/ws"),
        }
        let authority = uri.authority().with_context(|| format!("{url} names no host"))?;
        let is_secure = uri.scheme_str() == Some("wss");
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let address = (authority.host().trim_matches(['[', ']']), port)
            .to_socket_addrs()
            .with_context(|| format!("{url}: the host cannot be resolved"))?
            .next()
            .with_context(|| format!("{url}: the host has no address"))?;
        // The parser takes no braces in a path, so it is taken from the text.
        let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned()));
        let target = Target {
            address,
            host: authority.to_string(),
            is_secure,
            tls: None,
            path: String::new(),
            subprotocol: None,
            first: None,
            deflate: false,
            tokens: None,
            ready: Ready::Upgrade,
            channels,
            format,
            transport: Transport::Ws,
            is_campanile: false,
        };
        Ok(match path.as_deref() {
            None | Some("/") => target.campanile(),
            Some(path) => Target { path: path.to_owned(), ..target },
        })
    }

    /// Clients subscribe to their channel by their path, and are ready when told so. In the raw format nothing is told.
    fn campanile(self) -> Target {
        let ready = if self.format == Format::Raw { Ready::Upgrade } else { Ready::Subscribed };
        Target { path: format!("/ws?format={}&channel={{channel}}", self.format.name()), ready, is_campanile: true, ..self }
    }

    /// The same over event streams, whose clients ask for their channel in the request. All is JSON there.
    pub fn over_event_stream(self) -> Target {
        let path = "/sse?format=json&channel={channel}".to_owned();
        Target { path, ready: Ready::Subscribed, format: Format::Json, transport: Transport::Sse, ..self }
    }

    /// The same over WebSocket, with the same JSON.
    pub fn over_web_socket(self) -> Target {
        Target { transport: Transport::Ws, ..self }.campanile()
    }

    pub fn with_path(self, path: String) -> Target {
        Target { path, ready: Ready::Upgrade, is_campanile: false, ..self }
    }

    pub fn with_words(self, subprotocol: Option<String>, first: Option<FirstMessage>, ready: Option<Ready>) -> Target {
        let ready = ready.unwrap_or(self.ready.clone());
        Target { subprotocol, first, ready, ..self }
    }

    /// The same at another address.
    pub fn at(self, address: SocketAddr) -> Target {
        Target { address, host: address.to_string(), ..self }
    }

    pub fn with_deflate(self, deflate: bool) -> Target {
        Target { deflate, ..self }
    }

    /// None: in the clear.
    pub fn with_tls(self, tls: Option<Tls>) -> Target {
        Target { is_secure: tls.is_some(), tls, ..self }
    }

    /// The host of its URL, without its port.
    pub fn host_name(&self) -> &str {
        self.host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())).map_or(&*self.host, |(host, _)| host)
    }

    pub fn with_tokens(self, tokens: Option<Tokens>) -> Target {
        Target { tokens, ..self }
    }

    /// Clients of a Campanile subscribe by a command, which asks for no more than that.
    pub fn with_max_rate(self, rate: u16) -> Target {
        if self.transport == Transport::Sse {
            return Target { path: format!("{}&max_rate={rate}", self.path), ..self };
        }
        let bytes = format!(r#"{{"type":"subscribe","channel":"{{channel}}","max_rate":{rate}}}"#).into_bytes();
        let path = format!("/ws?format={}", self.format.name());
        Target { path, first: Some(FirstMessage { is_text: true, bytes }), ..self }
    }

    /// Where it is, for people.
    pub fn url(&self) -> String {
        let scheme = match (self.transport, self.is_secure) {
            (Transport::Ws, false) => "ws",
            (Transport::Ws, true) => "wss",
            (Transport::Sse, false) => "http",
            (Transport::Sse, true) => "https",
        };
        format!("{scheme}://{}{}", self.host, self.path)
    }

    fn fill(&self, text: &str, client: u32, channel: u32) -> String {
        if !text.contains('{') {
            return text.to_owned();
        }
        text.replace("{channel}", &self.channels.name(channel)).replace("{client}", &client.to_string())
    }

    /// The upgrade request of one client. One that resumes names its channel later, in a command.
    pub fn request(&self, client: u32, channel: u32, resumes: bool) -> String {
        let path = if resumes { format!("/ws?format={}", self.format.name()) } else { self.fill(&self.path, client, channel) };
        let subprotocol = self.subprotocol.as_ref().map_or(String::new(), |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
        let authorization = self.tokens.as_ref().map_or(String::new(), |tokens| format!("Authorization: Bearer {}\r\n", tokens.of(client)));
        if self.transport == Transport::Sse {
            return format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{authorization}\r\n", self.host);
        }
        let offer = if self.deflate { "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" } else { "" };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{subprotocol}{authorization}{offer}\r\n",
            self.host
        )
    }

    /// Whether the head of an answer is what the request asked for.
    pub fn is_accepted(&self, head: &[u8]) -> bool {
        let has = |sign: &[u8]| head.windows(sign.len()).any(|window| window == sign);
        match self.transport {
            Transport::Ws => head.starts_with(b"HTTP/1.1 101 ") && has(ACCEPT.as_bytes()),
            Transport::Sse => head.starts_with(b"HTTP/1.1 200 ") && has(b"Content-Type: text/event-stream"),
        }
    }

    /// The frame that a client sends after the upgrade, if any.
    pub fn first_frame(&self, client: u32, channel: u32) -> Option<Vec<u8>> {
        self.first.as_ref().map(|first| match first.is_text {
            true => frame(Opcode::Text, self.fill(&String::from_utf8_lossy(&first.bytes), client, channel).as_bytes()),
            false => frame(Opcode::Binary, &first.bytes),
        })
    }

    /// Whether a client can be told to subscribe to a channel after it was upgraded.
    pub fn takes_subscriptions(&self) -> bool {
        self.first.is_some() || self.is_campanile && self.format != Format::Raw
    }

    /// Subscribes to one channel more. A Campanile's answer bears the channel's number; others are told again what they are told first.
    pub fn subscribe_frame(&self, client: u32, channel: u32) -> Vec<u8> {
        self.first_frame(client, channel).unwrap_or_else(|| {
            let name = serde_json::Value::from(self.channels.name(channel));
            frame(Opcode::Text, format!(r#"{{"type":"subscribe","channel":{name},"id":{channel}}}"#).as_bytes())
        })
    }

    /// Leaves a channel of a Campanile.
    pub fn unsubscribe_frame(&self, channel: u32) -> Vec<u8> {
        let name = serde_json::Value::from(self.channels.name(channel));
        frame(Opcode::Text, format!(r#"{{"type":"unsubscribe","channel":{name}}}"#).as_bytes())
    }

    /// The command that resumes after a position.
    pub fn resume_frame(&self, channel: u32, epoch: u64, seq: u64) -> Vec<u8> {
        let name = serde_json::Value::from(self.channels.name(channel));
        let command = format!(r#"{{"type":"subscribe","channel":{name},"since":{{"epoch":{epoch},"seq":{seq}}}}}"#);
        frame(Opcode::Text, command.as_bytes())
    }
}

/// A whole message in one masked frame.
pub fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    encode_masked_frame(&mut out, true, opcode, MASK, payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(count: u32) -> Channels {
        Channels { name: "bench".to_owned(), count }
    }

    #[test]
    fn without_a_path_it_is_a_campanile() {
        let target = Target::new("ws://127.0.0.1:8080", Format::Msgpack, channels(2)).unwrap();
        assert!(target.request(7, 1, false).starts_with("GET /ws?format=msgpack&channel=bench1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"));
        assert!(target.request(7, 1, true).starts_with("GET /ws?format=msgpack HTTP/1.1\r\n"));
        assert_eq!(target.ready, Ready::Subscribed);
        let offering = target.clone().with_deflate(true).request(7, 1, false);
        assert!(offering.ends_with("\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"));
        assert_eq!(Target::new("ws://127.0.0.1:8080/", Format::Raw, channels(1)).unwrap().ready, Ready::Upgrade);
    }

    #[test]
    fn names_of_channels_are_equally_long() {
        let names = |count: u32| -> Vec<String> { [0, count - 1].map(|channel| channels(count).name(channel)).to_vec() };
        assert_eq!(names(1), ["bench", "bench"]);
        assert_eq!(names(10), ["bench0", "bench9"]);
        assert_eq!(names(11), ["bench00", "bench10"]);
        for count in [1, 10, 11, 100_000] {
            assert_eq!(names(count).iter().map(|name| channels(count).number(name)).collect::<Vec<_>>(), [Some(0), Some(count - 1)]);
        }
        assert_eq!(["bench11", "other01", "bench"].map(|name| channels(11).number(name)), [None; 3]);
    }

    #[test]
    fn a_path_is_a_template() {
        let target = Target::new("ws://127.0.0.1/room/{channel}?user={client}", Format::Json, channels(1)).unwrap();
        assert!(target.request(7, 0, false).starts_with("GET /room/bench?user=7 HTTP/1.1\r\n"));
        assert_eq!((target.ready, target.address.port()), (Ready::Upgrade, 80));
    }

    #[test]
    fn a_first_message_is_text_or_hex() {
        let target = Target::new("ws://127.0.0.1/", Format::Json, channels(3)).unwrap();
        let first = |text| FirstMessage::parse(text).unwrap();
        let paced = target.clone().with_max_rate(5);
        assert!(paced.ready == Ready::Subscribed && paced.request(5, 2, false).starts_with("GET /ws?format=json HTTP"));
        assert!(
            String::from_utf8_lossy(&paced.first_frame(5, 2).unwrap()).ends_with(r#"{"type":"subscribe","channel":"bench2","max_rate":5}"#)
        );
        let with = |text| target.clone().with_words(None, Some(first(text)), None).first_frame(5, 2).unwrap();
        assert_eq!(&with("join {channel} {client}")[6..], b"join bench2 5");
        assert_eq!(with("hex:00 fF7b")[..], [0x82, 0x83, 0, 0, 0, 0, 0, 0xFF, 0x7B]);
        assert!(FirstMessage::parse("hex:0").is_err() && FirstMessage::parse("hex:0g").is_err());
    }

    #[test]
    fn an_event_stream_is_asked_for_in_the_request() {
        let target = Target::new("ws://127.0.0.1:8080", Format::Msgpack, channels(2)).unwrap().over_event_stream();
        let request = "GET /sse?format=json&channel=bench1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: text/event-stream\r\n\r\n";
        assert_eq!(target.request(7, 1, false), request);
        assert!(target.clone().with_max_rate(5).request(7, 1, false).starts_with("GET /sse?format=json&channel=bench1&max_rate=5 HTTP"));
        assert!(target.is_accepted(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"));
        assert!(!target.is_accepted(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"));
        let beside = target.over_web_socket();
        assert!(beside.request(7, 1, false).starts_with("GET /ws?format=json&channel=bench1 HTTP/1.1\r\n"));
        assert!(!beside.is_accepted(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"));
    }

    #[test]
    fn a_url_of_tls_has_a_port_and_a_name_of_its_own() {
        let target = |url| Target::new(url, Format::Json, channels(1)).unwrap();
        let secure = target("wss://127.0.0.1");
        assert_eq!((secure.address.port(), secure.host_name(), secure.is_secure), (443, "127.0.0.1", true));
        assert!(secure.url().starts_with("wss://127.0.0.1/ws?") && secure.clone().with_tls(None).url().starts_with("ws://"));
        assert!(secure.over_event_stream().url().starts_with("https://127.0.0.1/sse?"));
        assert_eq!(
            ["wss://[::1]:8443", "wss://[::1]", "ws://localhost:1"].map(|url| target(url).host_name().to_owned()),
            ["[::1]", "[::1]", "localhost"]
        );
    }

    #[test]
    fn what_is_no_websocket_url_is_refused() {
        for url in ["127.0.0.1:8080", "http://127.0.0.1/", "wss:///x", "ws:///x", ""] {
            assert!(Target::new(url, Format::Json, channels(1)).is_err(), "{url}");
        }
    }
}
