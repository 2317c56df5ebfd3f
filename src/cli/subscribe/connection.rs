//! One connection of `campanile subscribe`, from dial to break. Blocking, on the command's own thread.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tungstenite::client::ClientRequestBuilder;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::http::{StatusCode, Uri, header};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::resume::{self, Resume, Step};
use super::stop::Stop;
use crate::cli::output;
use crate::config::mask;
use crate::wire::Format;
use crate::wire::close::{CloseReason, reconnect_delay_ms};
use crate::wire::http::upgrade::subprotocol;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the server has said how often it pings.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// A server that asks for patience gets this much of it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Target {
    uri: Uri,
    /// As it may be shown.
    shown: String,
    way: Way,
    token: Option<String>,
    format: Format,
}

#[derive(Debug)]
enum Way {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Target {
    pub fn tcp(uri: Uri, format: Format) -> Target {
        let host = uri.host().expect("the URL has been checked").trim_matches(['[', ']']).to_owned();
        let way = Way::Tcp { port: uri.port_u16().unwrap_or(80), host };
        Target { way, shown: mask::url(&uri.to_string()), uri, token: None, format }
    }

    /// By a unix socket; no host has a name there, and the request needs one.
    pub fn unix(path: &Path, format: Format) -> Target {
        let uri = "ws://localhost/ws".parse().expect("it is a URL");
        Target { way: Way::Unix(path.to_owned()), shown: format!("unix://{}", path.display()), uri, token: None, format }
    }

    /// Who it is that connects.
    pub fn with_token(self, token: Option<String>) -> Target {
        Target { token, ..self }
    }

    fn dial(&self) -> Result<TcpStream, String> {
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
}

/// How a connection ended.
#[derive(Debug)]
pub enum Break {
    /// As many messages as were asked for.
    Done,
    /// Trying again would end the same way.
    Refused(String),
    /// 4008: the log has left this client behind.
    Overrun,
    Lost {
        why: String,
        retry_after: Option<Duration>,
    },
}

fn lost(why: impl Into<String>) -> Break {
    Break::Lost { why: why.into(), retry_after: None }
}

/// Connects, subscribes and prints until the connection breaks. An error is one of stdout.
pub fn follow(target: &Target, resume: &mut Resume, stop: &Stop) -> anyhow::Result<Break> {
    let mut socket = match connect(target, stop) {
        Ok(socket) => socket,
        Err(broken) => return Ok(broken),
    };
    output::remark(format_args!("connected to {}", target.shown));
    let broken = converse(&mut socket, target, resume);
    // The signal handler holds a copy of the descriptor: only a shutdown ends the connection for the server.
    let _ = socket.get_ref().shutdown(Shutdown::Both);
    broken
}

/// Subscribes and prints on an open connection.
fn converse(socket: &mut WebSocket<TcpStream>, target: &Target, resume: &mut Resume) -> anyhow::Result<Break> {
    for command in resume.commands(target.format) {
        let message = match target.format {
            Format::Msgpack => Message::binary(command),
            Format::Json | Format::Raw => Message::text(String::from_utf8_lossy(&command).into_owned()),
        };
        if let Err(error) = socket.send(message) {
            return Ok(broken(error));
        }
    }
    loop {
        let message = match socket.read() {
            Ok(Message::Text(text)) => resume::line(Format::Json, text.as_bytes()),
            Ok(Message::Binary(bytes)) => resume::line(Format::Msgpack, &bytes),
            Ok(Message::Close(frame)) => {
                // Lets the answer to the close frame out; what comes of it changes nothing.
                let _ = socket.flush();
                return Ok(closed(frame.map(|frame| (frame.code, frame.reason.to_string()))));
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            // A signal: whatever is to be done about it is done by the thread that waits for signals.
            Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Ok(broken(error)),
        };
        let line = match message {
            Ok(line) => line,
            Err(why) => {
                output::remark(why);
                continue;
            }
        };
        match resume.take(&line) {
            Step::Pass => {}
            Step::Print => output::line(format_args!("{line}"))?,
            Step::Anew(text) => {
                output::line(format_args!("{line}"))?;
                output::remark(text);
            }
            Step::Last => {
                output::line(format_args!("{line}"))?;
                let _ = socket.close(None);
                let _ = socket.flush();
                return Ok(Break::Done);
            }
            Step::Connected { heartbeat_seconds } => {
                // Silence for two heartbeats and a little is the silence of a dead connection.
                let silence = Duration::from_secs(heartbeat_seconds.clamp(1, 3600) * 2 + 5);
                let _ = socket.get_ref().set_read_timeout(Some(silence));
            }
            Step::Say(text) => output::remark(text),
            Step::Refused(why) => return Ok(Break::Refused(why)),
            Step::Later(why) => return Ok(lost(why)),
        }
    }
}

fn connect(target: &Target, stop: &Stop) -> Result<WebSocket<TcpStream>, Break> {
    let unreachable = |why: String| lost(format!("{} cannot be reached ({why}; is `campanile serve` running?)", target.shown));
    let stream = target.dial().map_err(unreachable)?;
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT));
    let _ = stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT));
    let protocol = subprotocol(target.format);
    let mut request = ClientRequestBuilder::new(target.uri.clone()).with_sub_protocol(protocol.as_str());
    if let Some(token) = &target.token {
        request = request.with_header("Authorization", format!("Bearer {token}"));
    }
    match tungstenite::client::client(request, stream) {
        Ok((socket, _)) => {
            let _ = socket.get_ref().set_read_timeout(Some(SILENCE_MAX));
            stop.watch(socket.get_ref());
            Ok(socket)
        }
        Err(HandshakeError::Failure(Error::Http(response))) => {
            let status = response.status();
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let mut why = format!("{} answered {status}: {}", target.shown, body.trim().chars().take(300).collect::<String>());
            if status == StatusCode::UNAUTHORIZED && target.token.is_none() {
                why.push_str(" Give --token TOKEN, or set CAMPANILE_TOKEN; `campanile token --sub NAME` makes one");
            }
            let seconds =
                response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
            let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
            let passing = status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            Err(if passing { Break::Lost { why, retry_after } } else { Break::Refused(why) })
        }
        Err(HandshakeError::Failure(error @ Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)))) => {
            Err(Break::Refused(format!("{} does not speak {protocol}: {error}", target.shown)))
        }
        Err(HandshakeError::Failure(error)) => Err(lost(format!("{} did not complete the handshake ({error})", target.shown))),
        Err(HandshakeError::Interrupted(_)) => Err(lost(format!("{} did not answer in {} s", target.shown, HANDSHAKE_TIMEOUT.as_secs()))),
    }
}

fn closed(frame: Option<(CloseCode, String)>) -> Break {
    let Some((code, reason)) = frame else { return lost("the server closed the connection") };
    let number = u16::from(code);
    match CloseReason::of_code(number) {
        Some(CloseReason::Overrun) => Break::Overrun,
        Some(CloseReason::Restart) => Break::Lost {
            why: format!("the server restarts ({number})"),
            retry_after: reconnect_delay_ms(&reason).map(Duration::from_millis),
        },
        Some(CloseReason::Shutdown) => lost(format!("the server is stopping ({number})")),
        _ if reason.is_empty() => lost(format!("the server closed the connection ({number})")),
        _ => lost(format!("the server closed the connection ({number}: {reason})")),
    }
}

fn broken(error: Error) -> Break {
    match error {
        Error::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => lost("the server fell silent"),
        Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => lost("the connection was lost"),
        error => lost(format!("the connection was lost ({error})")),
    }
}
