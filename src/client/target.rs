//! Where a server is, how it is dialled, over TLS or in the clear, and what is asked for there. Called by [`super::Client`] and the transports.

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tungstenite::http::Uri;

use super::Transport;
use super::broken::{Broken, lost, refused};
use super::endpoint::connect;
use super::stream::Stream;
use super::subscriptions::Subscriptions;
use super::tls::{Tls, Trust, complaint};
use crate::config::mask;
use crate::limits::client::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};

/// What stands for itself in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'/');

#[derive(Debug, Clone)]
pub(super) struct Target {
    way: Way,
    security: Security,
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

#[derive(Debug, Clone)]
enum Security {
    Clear,
    /// Over TLS, by the system's root certificates, which have not been read yet.
    Unread,
    Tls(Box<Tls>),
}

const ACCEPTED: &str = "accepted: ws://HOST[:PORT][/ws], as in ws://127.0.0.1:8080/ws, wss:// over TLS, and unix:///PATH";

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
                security: Security::Clear,
                authority: "localhost".to_owned(),
                path: format!("/{}", transport.segment()),
                query: None,
                shown: format!("unix://{path}"),
            });
        }
        // A token or a password may stand in it.
        let shown = mask::url(text);
        let uri: Uri = text.parse().map_err(|error| format!("{shown:?} is not a URL: {error}; {ACCEPTED}"))?;
        let is_secure = matches!(uri.scheme_str(), Some("wss" | "https"));
        match (uri.scheme_str(), uri.host()) {
            (Some("ws" | "wss"), Some(_)) => {}
            (Some("http" | "https"), Some(_)) if transport != Transport::WebSocket => {}
            (Some("http" | "https"), Some(_)) => {
                return Err(format!("{shown:?} is the address of a page; the socket is ws{}", &shown["http".len()..]));
            }
            // `host:port` reads as a host, or as a scheme and a path.
            (None, _) if text.contains(':') && !text.contains('/') => {
                return Err(format!("{shown:?} is an address, not a URL; write ws://{shown}/ws"));
            }
            _ => return Err(format!("{shown:?} names no WebSocket server; {ACCEPTED}")),
        }
        let host = uri.host().expect("it has been looked at");
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let authority = uri.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = path_of(uri.path(), transport).ok_or_else(|| {
            let segment = transport.segment();
            format!("the path of {shown:?} does not tell where /{segment} is: let it end with /{segment}, or with /ws")
        })?;
        let scheme = match (transport, is_secure) {
            (Transport::WebSocket, false) => "ws",
            (Transport::WebSocket, true) => "wss",
            (Transport::EventStream | Transport::Poll, false) => "http",
            (Transport::EventStream | Transport::Poll, true) => "https",
        };
        let query = uri.query().map(str::to_owned);
        let whole = format!("{scheme}://{authority}{path}{}", query.as_ref().map_or(String::new(), |query| format!("?{query}")));
        let way = Way::Tcp { host: host.trim_matches(['[', ']']).to_owned(), port };
        let security = if is_secure { Security::Unread } else { Security::Clear };
        Ok(Target { way, security, authority, path, query, shown: mask::url(&whole) })
    }

    /// Reads what `trust` names. The error says what is wrong with that, or that it is of no use here.
    pub fn believe(&mut self, trust: Trust) -> Result<(), String> {
        match (&self.security, &self.way) {
            (Security::Unread | Security::Tls(_), Way::Tcp { host, .. }) => {
                self.security = Security::Tls(Box::new(Tls::new(host, &trust)?));
                Ok(())
            }
            (Security::Clear, _) | (_, Way::Unix(_)) => {
                Err(format!("{} shows no certificate that could be believed: give the URL by wss:// (https://)", self.shown))
            }
        }
    }

    /// Before it is dialled. The error says what is missing.
    pub fn prepare(&mut self) -> Result<(), String> {
        match self.security {
            Security::Unread => self.believe(Trust::default()),
            Security::Clear | Security::Tls(_) => Ok(()),
        }
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn is_secure(&self) -> bool {
        !matches!(self.security, Security::Clear)
    }

    /// Of the WebSocket.
    pub fn uri(&self) -> Uri {
        let query = self.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
        format!("ws://{}{}{query}", self.authority, self.path).parse().expect("it is made of the parts of a URL")
    }

    /// [`Target::prepare`] comes first.
    pub fn dial(&self) -> Result<Stream, Broken> {
        let unreachable = |why: String| lost(format!("{} cannot be reached ({why}; is `campanile serve` running?)", self.shown));
        let socket = self.connect().map_err(unreachable)?;
        let _ = socket.set_nodelay(true);
        let _ = socket.set_write_timeout(Some(ANSWER_TIMEOUT));
        let stream = match &self.security {
            Security::Clear => Stream::plain(socket),
            Security::Unread => return Err(refused("the certificates to believe were not read")),
            Security::Tls(tls) => Stream::over_tls(socket, tls, ANSWER_TIMEOUT).map_err(|error| self.unshaken(&error))?,
        };
        let _ = stream.socket().set_read_timeout(Some(ANSWER_TIMEOUT));
        Ok(stream)
    }

    /// What a handshake comes to that failed.
    fn unshaken(&self, error: &std::io::Error) -> Broken {
        match complaint(error) {
            Some(complaint) => refused(format!("{} {complaint}", self.shown)),
            None if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                lost(format!("{} did not do its part of the TLS handshake in {} s", self.shown, ANSWER_TIMEOUT.as_secs()))
            }
            None => lost(format!("{} cannot be reached over TLS ({error})", self.shown)),
        }
    }

    fn connect(&self) -> Result<TcpStream, String> {
        match &self.way {
            // What is read, written and shut is the same; only who is at the other end has no address.
            Way::Unix(path) => {
                UnixStream::connect(path).map(|stream| TcpStream::from(OwnedFd::from(stream))).map_err(|error| error.to_string())
            }
            Way::Tcp { host, port } => connect(host, *port, CONNECT_TIMEOUT),
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
            ("wss://h/ws", "https://h/sse"),
            ("https://h", "https://h/sse"),
        ] {
            assert_eq!(url(text, Transport::EventStream), expected);
        }
        assert_eq!(url("ws://h/behind/a/proxy", Transport::WebSocket), "ws://h/behind/a/proxy");
        assert_eq!(url("unix:///run/c.sock?mode=660", Transport::Poll), "unix:///run/c.sock");
        assert_eq!(url("wss://h", Transport::WebSocket), "wss://h/ws");
        let port = |text| match Target::read(text, Transport::WebSocket).unwrap().way {
            Way::Tcp { port, .. } => port,
            Way::Unix(_) => panic!("{text}"),
        };
        assert_eq!(["ws://h/ws", "wss://h/ws", "wss://h:8443/ws"].map(port), [80, 443, 8443]);
    }

    #[test]
    fn trust_is_for_what_shows_a_certificate() {
        let trust = Trust { is_insecure: true, ..Trust::default() };
        let believe = |text| Target::read(text, Transport::Poll).unwrap().believe(trust.clone());
        assert_eq!((believe("wss://h"), believe("https://[::1]:1")), (Ok(()), Ok(())));
        for text in ["ws://h", "http://h", "unix:///run/c.sock"] {
            assert!(believe(text).unwrap_err().contains("wss://"), "{text}");
        }
        let missing = Trust { ca: Some("/no/such/file".into()), ..Trust::default() };
        let reason = Target::read("wss://h", Transport::WebSocket).unwrap().believe(missing).unwrap_err();
        assert!(reason.contains("--ca FILE: /no/such/file cannot be read as PEM"), "{reason}");
    }

    #[test]
    fn what_is_no_url_is_told() {
        for (text, part) in [
            ("http://h/ws", "socket is ws://h/ws"),
            ("https://h/ws", "socket is wss://h/ws"),
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
