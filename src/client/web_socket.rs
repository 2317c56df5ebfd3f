//! A connection over WebSocket, from the upgrade to the close. Called by [`super::connection`].

use std::io::ErrorKind;

use tungstenite::client::ClientRequestBuilder;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::http::header;
use tungstenite::{Message, WebSocket};

use super::broken::{Broken, closed, lost, refused};
use super::connection::Raw;
use super::http::refusal;
use super::stream::Stream;
use super::subscriptions::Subscriptions;
use super::target::Target;
use super::tls::complaint;
use crate::limits::client::{ANSWER_TIMEOUT, SILENCE_MAX};
use crate::wire::Format;
use crate::wire::http::upgrade::subprotocol;

/// Connects and asks for everything.
pub(super) fn open(
    target: &Target,
    format: Format,
    subscriptions: &Subscriptions,
    token: Option<&str>,
) -> Result<WebSocket<Stream>, Broken> {
    let stream = target.dial()?;
    let protocol = subprotocol(format);
    let mut request = ClientRequestBuilder::new(target.uri()).with_sub_protocol(protocol.as_str());
    if let Some(token) = token {
        request = request.with_header("Authorization", format!("Bearer {token}"));
    }
    let mut socket = match tungstenite::client::client(request, stream) {
        Ok((socket, _)) => socket,
        Err(HandshakeError::Failure(Error::Http(response))) => {
            let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let text = response.body().as_deref().unwrap_or_default();
            return Err(refusal(target, response.status().as_u16(), retry_after, text));
        }
        Err(HandshakeError::Failure(error @ Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)))) => {
            return Err(refused(format!("{} does not speak {protocol}: {error}", target.shown())));
        }
        Err(HandshakeError::Failure(error)) => {
            if let Error::Io(error) = &error
                && let Some(complaint) = complaint(error)
            {
                return Err(refused(format!("{} {complaint}", target.shown())));
            }
            return Err(lost(format!("{} did not complete the handshake ({error})", target.shown())));
        }
        Err(HandshakeError::Interrupted(_)) => {
            return Err(lost(format!("{} did not answer in {} s", target.shown(), ANSWER_TIMEOUT.as_secs())));
        }
    };
    let _ = socket.get_ref().socket().set_read_timeout(Some(SILENCE_MAX));
    for command in subscriptions.commands(format) {
        let message = match format {
            Format::Msgpack => Message::binary(command),
            Format::Json | Format::Raw => Message::text(String::from_utf8_lossy(&command).into_owned()),
        };
        socket.send(message).map_err(broken)?;
    }
    Ok(socket)
}

/// Waits for the next message.
pub(super) fn next(socket: &mut WebSocket<Stream>) -> Result<Raw, Broken> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return Ok(Raw { format: Format::Json, bytes: text.as_bytes().to_vec() }),
            Ok(Message::Binary(bytes)) => return Ok(Raw { format: Format::Msgpack, bytes: bytes.to_vec() }),
            Ok(Message::Close(frame)) => {
                // Lets the answer to the close frame out; what comes of it changes nothing.
                let _ = socket.flush();
                return Err(match frame {
                    Some(frame) => closed(frame.code.into(), &frame.reason, None),
                    None => lost("the server closed the connection"),
                });
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            // A signal: whatever is to be done about it is done by the thread that waits for signals.
            Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
}

fn broken(error: Error) -> Broken {
    match error {
        Error::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => lost("the server fell silent"),
        Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => lost("the connection was lost"),
        error => lost(format!("the connection was lost ({error})")),
    }
}
