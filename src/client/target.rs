//! Where a server is, how it is dialled, and what is asked for there. Called by [`super::Client`] and the transports.

use std::fmt::Write;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tungstenite::http::Uri;

use super::Transport;
use super::broken::{Broken, lost};
use super::subscriptions::Subscriptions;
use crate::config::mask;
use crate::limits::client::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};

/// What stands for itself in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'/');

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    way: Way,
    /// Host and port, as a request names them.
    authority: String,
    path: String,
    query: Option<String>,
    /// As it may be shown.
    shown: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Way {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

const ACCEPTED: &str = "accepted: ws://HOST[:PORT][/ws], as in ws://127.0.0.1:8080/ws, and unix:///PATH";

impl Target {
    /// Reads a URL, or says what is wrong with it. Whatever the transport is, the URL may be that of the WebSocket.
    pub fn read(text: &str, transport: Transport) -> Result<Target, String> {
        if let Some(rest) = text.strip_prefix("unix://") {
            // As in the settings, where it may say who may connect.
            let path = rest.split('?').next().unwrap_or_default();
            if !path.starts_with('/') {
                return Err(format!("the path in {text:?} is not absolute; three slashes, as in unix:///run/campanile.sock"));
            }
            // No host has a name there, and a request needs one.
            return Ok(Target {
                way: Way::Unix(path.into()),
                authority: "localhost".to_owned(),
                path: format!("/{}", transport.segment()),
                query: None,
                shown: format!("unix://{path}"),
            });
        }
        // A token or a password may stand in it.
        let shown = mask::url(text);
        let uri: Uri = text.parse().map_err(|error| format!("{shown:?} is not a URL: {error}; {ACCEPTED}"))?;
        match (uri.scheme_str(), uri.host()) {
            (Some("ws"), Some(_)) => {}
            (Some("http"), Some(_)) if transport != Transport::WebSocket => {}
            (Some("wss" | "https"), _) => {
                return Err(format!(
                    "TLS ({}) is not supported by this client yet; {ACCEPTED}, or a TLS proxy in between",
                    &shown[..shown.find(':').unwrap_or(0)]
                ));
            }
            (Some("http"), Some(_)) => return Err(format!("{shown:?} is the address of a page; the socket is ws{}", &shown[4..])),
            // `host:port` reads as a host, or as a scheme and a path.
            (None, _) if text.contains(':') && !text.contains('/') => {
                return Err(format!("{shown:?} is an address, not a URL; write ws://{shown}/ws"));
            }
            _ => return Err(format!("{shown:?} names no WebSocket server; {ACCEPTED}")),
        }
        let host = uri.host().expect("it has been looked at");
        let port = uri.port_u16().unwrap_or(80);
        let authority = uri.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = path_of(uri.path(), transport).ok_or_else(|| {
            let segment = transport.segment();
            format!("the path of {shown:?} does not tell where /{segment} is: let it end with /{segment}, or with /ws")
        })?;
        let scheme = if transport == Transport::WebSocket { "ws" } else { "http" };
        let query = uri.query().map(str::to_owned);
        let whole = format!("{scheme}://{authority}{path}{}", query.as_ref().map_or(String::new(), |query| format!("?{query}")));
        let way = Way::Tcp { host: host.trim_matches(['[', ']']).to_owned(), port };
        Ok(Target { way, authority, path, query, shown: mask::url(&whole) })
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Of the WebSocket.
    pub fn uri(&self) -> Uri {
        let query = self.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
        format!("ws://{}{}{query}", self.authority, self.path).parse().expect("it is made of the parts of a URL")
    }

    pub fn dial(&self) -> Result<TcpStream, Broken> {
        let unreachable = |why: String| lost(format!("{} cannot be reached ({why}; is `campanile serve` running?)", self.shown));
        let stream = self.connect().map_err(unreachable)?;
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(ANSWER_TIMEOUT));
        let _ = stream.set_write_timeout(Some(ANSWER_TIMEOUT));
        Ok(stream)
    }

    fn connect(&self) -> Result<TcpStream, String> {
        match &self.way {
            // What is read, written and shut is the same; only who is at the other end has no address.
            Way::Unix(path) => {
                UnixStream::connect(path).map(|stream| TcpStream::from(OwnedFd::from(stream))).map_err(|error| error.to_string())
            }
            Way::Tcp { host, port } => {
                let mut why = "the name has no address".to_owned();
                for address in (host.as_str(), *port).to_socket_addrs().map_err(|error| error.to_string())? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                        Ok(stream) => return Ok(stream),
                        Err(error) => why = error.to_string(),
                    }
                }
                Err(why)
            }
        }
    }

    /// A request for what the subscriptions bring, from where each stands. `first`: parameters before all others, of which the first counts.
    pub fn request(&self, first: &str, subscriptions: &Subscriptions, accept: &str, token: Option<&str>) -> String {
        let mut text = format!("GET {}?{first}", self.path);
        if let Some(query) = self.query.as_ref().filter(|query| !query.is_empty()) {
            text.push('&');
            text.push_str(query);
        }
        for (subscription, position) in subscriptions.iter() {
            let _ = write!(text, "&channel={}", utf8_percent_encode(&subscription.channel, QUERY));
            if let Some(position) = position {
                let _ = write!(text, "&since={}:{}", position.epoch, position.seq);
            }
            if subscription.latest {
                text.push_str("&latest=true");
            }
            if let Some(rate) = subscription.max_rate {
                let _ = write!(text, "&max_rate={rate}");
            }
        }
        let authorization = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let _ = write!(text, " HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nCache-Control: no-store\r\n{authorization}\r\n", self.authority);
        text
    }
}

/// Where this transport is spoken, if the path is that of any.
fn path_of(path: &str, transport: Transport) -> Option<String> {
    let segment = transport.segment();
    if matches!(path, "" | "/") {
        return Some(format!("/{segment}"));
    }
    let is_ours = |part: &&str| Transport::ALL.iter().any(|transport| transport.segment() == *part);
    let mut parts: Vec<&str> = path.split('/').collect();
    match parts.iter().position(is_ours) {
        Some(at) => parts[at] = segment,
        // A proxy may have it anywhere.
        None if transport == Transport::WebSocket => {}
        None => return None,
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Subscription;
    use crate::wire::command::Position;

    #[test]
    fn urls() {
        let url = |text, transport| Target::read(text, transport).unwrap().shown;
        for (text, expected) in
            [("ws://h:1/ws", "ws://h:1/ws"), ("ws://h:1", "ws://h:1/ws"), ("ws://[::1]:1/?a=b", "ws://[::1]:1/ws?a=***")]
        {
            assert_eq!(url(text, Transport::WebSocket), expected);
        }
        assert_eq!(Target::read("ws://[::1]:1/?a=b", Transport::WebSocket).unwrap().uri(), "ws://[::1]:1/ws?a=b");
        for (text, expected) in [
            ("ws://h:1", "http://h:1/sse"),
            ("http://h/", "http://h/sse"),
            ("ws://h/feed/ws/news", "http://h/feed/sse/news"),
            ("http://h/poll", "http://h/sse"),
        ] {
            assert_eq!(url(text, Transport::EventStream), expected);
        }
        assert_eq!(url("ws://h/behind/a/proxy", Transport::WebSocket), "ws://h/behind/a/proxy");
        assert_eq!(url("unix:///run/c.sock?mode=660", Transport::Poll), "unix:///run/c.sock");
    }

    #[test]
    fn what_is_no_url_is_told() {
        for (text, part) in [
            ("wss://h/ws", "not supported"),
            ("https://h/ws", "not supported"),
            ("http://h/ws", "ws://h/ws"),
            ("h:1", "write ws://h:1/ws"),
            ("/ws", "accepted"),
            ("unix://run/c.sock", "three slashes"),
            ("ws://", "accepted"),
        ] {
            let reason = Target::read(text, Transport::WebSocket).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
        let reason = Target::read("http://h/feed", Transport::Poll).unwrap_err();
        assert!(reason.contains("/poll"), "{reason}");
    }

    #[test]
    fn a_request_says_where_each_channel_stands() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(Subscription::to("a&b=ü c").since(Position { epoch: 7, seq: 41 }));
        subscriptions.add(Subscription::to("user:1").latest().max_rate(5));
        let target = Target::read("ws://h:1/ws?user=me", Transport::EventStream).unwrap();
        assert_eq!(
            target.request("format=json", &subscriptions, "text/event-stream", Some("t")),
            "GET /sse?format=json&user=me&channel=a%26b%3D%C3%BC%20c&since=7:41&channel=user:1&latest=true&max_rate=5 HTTP/1.1\r\n\
             Host: h:1\r\nAccept: text/event-stream\r\nCache-Control: no-store\r\nAuthorization: Bearer t\r\n\r\n"
        );
    }
}
