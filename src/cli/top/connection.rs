//! The way to a server's statistics: the WebSocket at `/stats` of its control port. Blocking, on a thread of the command's own.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde::Deserialize;
use tungstenite::client::ClientRequestBuilder;
use tungstenite::error::Error;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::StatusCode;
use tungstenite::{Message, WebSocket};

use crate::client::endpoint::Endpoint;
use crate::client::stream::Stream;
use crate::control::stats::CHANNEL;
use crate::control::stats::snapshot::Snapshot;
use crate::listen::{Address, Listener};
use crate::wire::Format;
use crate::wire::http::upgrade::subprotocol;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot comes each second, and pings beside them.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Whose statistics, and by which token.
#[derive(Debug, Clone)]
pub struct Target {
    way: Way,
    token: Option<String>,
}

#[derive(Debug, Clone)]
enum Way {
    Control(Address),
    /// Through whatever stands before a control port.
    Url(Endpoint),
}

#[derive(Debug)]
pub struct Connection {
    socket: WebSocket<Stream>,
}

/// A message of the server, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    channel: Option<String>,
    data: Option<Snapshot>,
}

impl Target {
    pub fn new(control: &Address, token: Option<String>) -> Target {
        Target { way: Way::Control(Listener::at(control.clone()).reachable().address), token }
    }

    pub fn at(endpoint: Endpoint, token: Option<String>) -> Target {
        Target { way: Way::Url(endpoint), token }
    }

    pub fn place(&self) -> String {
        match &self.way {
            Way::Control(address) => address.place(),
            Way::Url(endpoint) => endpoint.shown().to_owned(),
        }
    }

    fn dial(&self) -> anyhow::Result<Stream> {
        let place = self.place();
        let socket = match &self.way {
            Way::Control(Address::Ip(address)) => TcpStream::connect_timeout(address, CONNECT_TIMEOUT),
            // What is read, written and shut is the same.
            Way::Control(Address::Unix(unix)) => UnixStream::connect(&unix.path).map(|stream| TcpStream::from(OwnedFd::from(stream))),
            Way::Url(endpoint) => return endpoint.dial(SILENCE_MAX).map_err(|why| anyhow!("{place} {why}")),
        };
        let socket = socket.map_err(|error| {
            anyhow!(
                "the control port {place} cannot be reached ({error}); is `campanile serve` running there? Another one: --control ADDRESS"
            )
        })?;
        let _ = socket.set_nodelay(true);
        let _ = socket.set_read_timeout(Some(SILENCE_MAX));
        let _ = socket.set_write_timeout(Some(SILENCE_MAX));
        Ok(Stream::plain(socket))
    }

    fn url(&self) -> String {
        match &self.way {
            Way::Control(Address::Ip(address)) => format!("ws://{address}/stats"),
            // No host is named.
            Way::Control(Address::Unix(_)) => "ws://localhost/stats".to_owned(),
            Way::Url(endpoint) => endpoint.url("ws", "/stats"),
        }
    }

    /// The error says what to do.
    pub fn connect(&self) -> anyhow::Result<Connection> {
        let place = self.place();
        let stream = self.dial()?;
        let url = self.url().parse().expect("an address makes a URL");
        let mut request = ClientRequestBuilder::new(url).with_sub_protocol(subprotocol(Format::Json));
        if let Some(token) = &self.token {
            request = request.with_header("Authorization", format!("Bearer {token}"));
        }
        match tungstenite::client::client(request, stream) {
            Ok((socket, _)) => Ok(Connection { socket }),
            Err(HandshakeError::Failure(Error::Http(response))) => {
                let status = response.status();
                let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                let why: String = body.trim().chars().filter(|letter| !letter.is_control()).take(300).collect();
                match status {
                    StatusCode::UNAUTHORIZED => {
                        bail!("{place} answered {status}: {why} Give it in CAMPANILE_CONTROL_TOKEN, or --control-token TOKEN")
                    }
                    StatusCode::NOT_FOUND => bail!("{place} has no statistics: it is another port than control, or of an earlier version"),
                    _ => bail!("{place} answered {status}: {why}"),
                }
            }
            Err(error) => bail!("{place} did not take the connection ({error}); is it the control port of a Campanile?"),
        }
    }
}

impl Connection {
    /// The next snapshot. An error says why there is none.
    pub fn next(&mut self) -> Result<Snapshot, String> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let told: Told = serde_json::from_str(&text).map_err(|error| format!("what came is no event: {error}"))?;
                    match told {
                        Told { kind, channel: Some(channel), data: Some(snapshot) } if kind == "notification" && channel == CHANNEL => {
                            return Ok(snapshot);
                        }
                        _ => {}
                    }
                }
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed) => return Err("the server has closed the connection".to_owned()),
                Ok(_) => {}
                // Another signal than those that end this.
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err("the server has fallen silent".to_owned());
                }
                Err(error) => return Err(format!("the connection was lost ({error})")),
            }
        }
    }
}

/// So that the server knows at once.
impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
        self.socket.get_mut().say_goodbye();
        let _ = self.socket.get_ref().socket().shutdown(Shutdown::Both);
    }
}
