//! One connection over any of the transports, from dial to break. Held by [`super::Client`], which does not ask which one it is.

use std::net::Shutdown;
use std::time::Duration;

use tungstenite::WebSocket;

use super::Transport;
use super::broken::Broken;
use super::event_stream::EventStream;
use super::poll::Poll;
use super::stream::Stream;
use super::subscriptions::Subscriptions;
use super::target::Target;
use super::web_socket;
use crate::limits::client::HEARTBEAT_MAX;
use crate::wire::Format;

/// An event as it came.
#[derive(Debug)]
pub(super) struct Raw {
    pub format: Format,
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
pub(super) enum Connection {
    WebSocket(Box<WebSocket<Stream>>),
    EventStream(EventStream),
    Poll(Poll),
}

impl Connection {
    pub fn open(
        target: &Target,
        transport: Transport,
        format: Format,
        subscriptions: &Subscriptions,
        token: Option<&str>,
    ) -> Result<Connection, Broken> {
        match transport {
            Transport::WebSocket => {
                web_socket::open(target, format, subscriptions, token).map(|socket| Connection::WebSocket(Box::new(socket)))
            }
            Transport::EventStream => EventStream::open(target, subscriptions, token).map(Connection::EventStream),
            Transport::Poll => Poll::open(target, format, subscriptions, token).map(Connection::Poll),
        }
    }

    /// Waits for the next event.
    pub fn next(&mut self, target: &Target, subscriptions: &Subscriptions) -> Result<Raw, Broken> {
        match self {
            Connection::WebSocket(socket) => web_socket::next(socket),
            Connection::EventStream(stream) => stream.next(target),
            Connection::Poll(poll) => poll.next(target, subscriptions),
        }
    }

    /// The server has said how often it gives a sign of life. Silence for two heartbeats and a little is the silence of a dead connection.
    pub fn set_heartbeat(&self, seconds: u64) {
        let heartbeat = Duration::from_secs(seconds.max(1)).min(HEARTBEAT_MAX);
        let silence = heartbeat * 2 + Duration::from_secs(5);
        match self {
            Connection::WebSocket(socket) => drop(socket.get_ref().socket().set_read_timeout(Some(silence))),
            Connection::EventStream(stream) => stream.set_silence(silence),
            // Its requests have a deadline each.
            Connection::Poll(_) => {}
        }
    }

    /// Whether a `subscribed` of a channel that goes on is only part of asking again.
    pub fn is_asking_again(&self) -> bool {
        match self {
            Connection::WebSocket(_) | Connection::EventStream(_) => false,
            Connection::Poll(poll) => poll.is_asking_again(),
        }
    }

    pub fn stream(&self) -> &Stream {
        match self {
            Connection::WebSocket(socket) => socket.get_ref(),
            Connection::EventStream(stream) => stream.stream(),
            Connection::Poll(poll) => poll.stream(),
        }
    }

    /// Says goodbye, where there are words for it.
    pub fn close(mut self) {
        if let Connection::WebSocket(socket) = &mut self {
            let _ = socket.close(None);
            let _ = socket.flush();
            socket.get_mut().say_goodbye();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Somebody may hold a copy of the descriptor: only a shutdown ends the connection for the server.
        let _ = self.stream().socket().shutdown(Shutdown::Both);
    }
}
