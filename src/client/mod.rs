//! A client of Campanile: subscribes to channels, hands on what they bring, and goes on where it was after every kind of break. Blocking, on whichever
//! thread calls it; no runtime. `campanile subscribe` is made of it.
//!
//! ```no_run
//! use campanile::client::{Client, Continuity, Event, Happening, Subscription, Transport};
//!
//! let mut client = Client::new("ws://127.0.0.1:8080/ws", Transport::WebSocket)?
//!     .subscribe(Subscription::to("news"))
//!     .subscribe(Subscription::to("prices:eur").latest().max_rate(5));
//! loop {
//!     match client.wait()? {
//!         Happening::Received(received) => match received.event {
//!             Event::Notification(message) => println!("{} brought {}", message.channel, message.data),
//!             Event::Gap(gap) => println!("{} to {} of {} will not come", gap.from, gap.to, gap.channel),
//!             _ => {}
//!         },
//!         Happening::Subscribed { subscribed, continuity: Continuity::Anew, .. } => {
//!             println!("{} counts anew: read its state again", subscribed.channel);
//!         }
//!         Happening::Broken { why, wait } => println!("{why}; connecting again in {} ms", wait.as_millis()),
//!         _ => {}
//!     }
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The same events come over each [`Transport`]. Read `connection` for what is one connection, `web_socket`, `event_stream` and `poll` for how it is spoken,
//! [`stream`] and [`tls`] for the bytes below that, [`stream_reader`] for those of an event stream, `subscriptions` for what is remembered between two connections, `broken` for what the end of one means. [`endpoint`] is any other place at which HTTP is spoken, for the commands.
#![forbid(unsafe_code)]

mod backoff;
mod broken;
mod connection;
pub mod endpoint;
mod event;
mod event_stream;
mod http;
mod poll;
pub mod stream;
pub mod stream_reader;
mod subscriptions;
mod target;
pub mod tls;
mod web_socket;

use std::time::Duration;

use crate::named::named;
use crate::wire::Format;
pub use crate::wire::command::Position;

use backoff::Backoff;
use broken::{Broken, closed, lost, refused};
use connection::Connection;
use stream::Stream;
use subscriptions::Subscriptions;
use target::Target;
use tls::Trust;

pub use broken::Refused;
pub use event::{Close, Connected, Error, Event, Gap, Notification, Received, Standing, Subscribed, Unsubscribed};
pub use subscriptions::{Continuity, Subscription};

named! {
    /// How a server is spoken to.
    Transport {
        WebSocket = "ws",
        /// Server-Sent Events. Their events are JSON.
        EventStream = "sse",
        /// Long polling. Between two answers the server keeps nothing for this client alone: what comes then is there as far as the channel has a history.
        Poll = "poll",
    }
}

impl Transport {
    /// Of the path at which it is spoken.
    const fn segment(self) -> &'static str {
        self.name()
    }
}

/// What comes of waiting.
#[derive(Debug)]
#[non_exhaustive]
pub enum Happening {
    /// There is a connection. What was asked for is asked for on it.
    Connected,
    /// A channel flows from here on.
    Subscribed {
        subscribed: Subscribed,
        continuity: Continuity,
        /// The event as one line of JSON.
        line: String,
    },
    /// Every other event.
    Received(Received),
    /// The server has sent something that is no event; it was passed over.
    Unreadable(String),
    /// The connection has ended, or could not be made. The next call waits so long, and connects again.
    Broken { why: String, wait: Duration },
}

/// A URL of no server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadUrl(String);

/// Why nobody can be believed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTrust(String);

/// Where a token comes from.
type TokenSource = Box<dyn FnMut() -> Result<String, String> + Send>;

/// Subscriptions, and the connection that brings them, again and again.
pub struct Client {
    target: Target,
    transport: Transport,
    format: Format,
    token: Option<TokenSource>,
    subscriptions: Subscriptions,
    connection: Option<Connection>,
    backoff: Backoff,
    /// Since the last break a message has come, or a gap.
    has_brought: bool,
    /// Before the next try to connect.
    pause: Duration,
    /// Why the last channel is gone: nothing will come any more.
    deserted: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the token.
        out.debug_struct("Client").field("target", &self.target.shown()).field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl Client {
    /// Of the server at `ws://HOST:PORT/ws` (or `http://`, where the transport is no WebSocket) or `unix:///PATH`; over TLS at `wss://` (`https://`). Nothing
    /// is connected before [`Client::wait`] is called.
    pub fn new(url: &str, transport: Transport) -> Result<Client, BadUrl> {
        Ok(Client {
            target: Target::read(url, transport).map_err(BadUrl)?,
            transport,
            format: Format::Json,
            token: None,
            subscriptions: Subscriptions::default(),
            connection: None,
            backoff: Backoff::default(),
            has_brought: false,
            pause: Duration::ZERO,
            deserted: None,
        })
    }

    /// The server sends MessagePack, where the transport has it. What is handed on is the same.
    pub fn with_msgpack(self) -> Client {
        let format = if self.transport == Transport::EventStream { Format::Json } else { Format::Msgpack };
        Client { format, ..self }
    }

    /// Whom to believe at the other end of `wss://`.
    ///
    /// # Errors
    /// A file that cannot be read, a name that can be nobody's, or a URL without TLS.
    pub fn with_trust(mut self, trust: Trust) -> Result<Client, BadTrust> {
        self.target.believe(trust).map_err(BadTrust)?;
        Ok(self)
    }

    /// Who it is that connects.
    pub fn with_token(self, token: impl Into<String>) -> Client {
        let token = token.into();
        self.with_tokens(move || Ok(token.clone()))
    }

    /// The same by a token that is asked for before each connection. An error is a break like any other: it is asked for again.
    pub fn with_tokens(self, source: impl FnMut() -> Result<String, String> + Send + 'static) -> Client {
        Client { token: Some(Box::new(source)), ..self }
    }

    /// One channel more, or another wish for one that is there; before the first call of [`Client::wait`].
    pub fn subscribe(mut self, subscription: Subscription) -> Client {
        self.subscriptions.add(subscription);
        self
    }

    /// The server as it may be shown.
    pub fn shown(&self) -> &str {
        self.target.shown()
    }

    /// Where each channel stands: what a [`Subscription::since`] goes on from.
    pub fn positions(&self) -> impl Iterator<Item = (&str, Option<Position>)> {
        self.subscriptions.iter().map(|(subscription, position)| (&*subscription.channel, position))
    }

    /// The connection that is open now, if any.
    pub fn stream(&self) -> Option<&Stream> {
        self.connection.as_ref().map(Connection::stream)
    }

    /// Waits until something happens. An error: nothing will come any more, however often it is tried.
    pub fn wait(&mut self) -> Result<Happening, Refused> {
        std::thread::sleep(std::mem::take(&mut self.pause));
        if let Some(why) = &self.deserted {
            return Err(Refused { why: format!("no channel is left ({why})"), status: None });
        }
        let Some(mut connection) = self.connection.take() else {
            return match self.connect() {
                Ok(connection) => {
                    self.connection = Some(connection);
                    Ok(Happening::Connected)
                }
                Err(broken) => self.broken(broken),
            };
        };
        match self.advance(&mut connection) {
            Ok(happening) => {
                self.connection = Some(connection);
                Ok(happening)
            }
            Err(broken) => {
                drop(connection);
                self.broken(broken)
            }
        }
    }

    fn connect(&mut self) -> Result<Connection, Broken> {
        let token = match &mut self.token {
            Some(source) => Some(source().map_err(|why| lost(format!("there is no token ({why})")))?),
            None => None,
        };
        if token.as_ref().is_some_and(|token| token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(refused("a token has letters, digits, dots, - and _ alone"));
        }
        self.target.prepare().map_err(refused)?;
        Connection::open(&self.target, self.transport, self.format, &self.subscriptions, token.as_deref())
    }

    fn advance(&mut self, connection: &mut Connection) -> Result<Happening, Broken> {
        loop {
            let raw = connection.next(&self.target, &self.subscriptions)?;
            let Received { event, line } = match Received::read(raw.format, &raw.bytes) {
                Ok(received) => received,
                Err(why) => return Ok(Happening::Unreadable(why)),
            };
            let continuity = self.subscriptions.take(&event);
            match &event {
                Event::Connected(connected) => connection.set_heartbeat(connected.heartbeat),
                Event::Notification(_) | Event::Gap(_) => self.has_brought = true,
                Event::Error(error) if error.is_for_now() => return Err(lost(error.to_string())),
                Event::Error(error) => {
                    // It would be refused again.
                    if let Some(channel) = error.channel.as_deref().filter(|channel| self.subscriptions.has(channel)) {
                        self.subscriptions.remove(channel);
                        self.deserted = self.subscriptions.is_empty().then(|| error.to_string());
                    }
                }
                Event::Close(close) => return Err(closed(close.code, &close.reason, None)),
                Event::Position(_) => continue,
                Event::Subscribed(_) | Event::Unsubscribed(_) | Event::Other { .. } => {}
            }
            return Ok(match (event, continuity) {
                (Event::Subscribed(_), Some(Continuity::Recovered)) if connection.is_asking_again() => continue,
                (Event::Subscribed(subscribed), Some(continuity)) => Happening::Subscribed { subscribed, continuity, line },
                (event, _) => Happening::Received(Received { event, line }),
            });
        }
    }

    fn broken(&mut self, broken: Broken) -> Result<Happening, Refused> {
        let has_brought = std::mem::take(&mut self.has_brought);
        if has_brought {
            self.backoff = Backoff::default();
        }
        let (why, retry_after) = match broken {
            Broken::Refused(refused) => return Err(refused),
            // At once only if the last connection brought something: a client that is too slow even so must not spin.
            Broken::Overrun { retry_after } => {
                let why = "the server dropped this client, which was too slow (4008)".to_owned();
                (why, retry_after.or(has_brought.then_some(Duration::ZERO)))
            }
            Broken::Lost { why, retry_after } => (why, retry_after),
        };
        self.pause = match retry_after {
            Some(time) if has_brought => time,
            // The longer of both: a server that asks for next to nothing, again and again, does not get it.
            Some(time) => time.max(self.backoff.next()),
            None => self.backoff.next(),
        };
        Ok(Happening::Broken { why, wait: self.pause })
    }

    /// Ends the connection, if there is one. The next call of [`Client::wait`] makes another.
    pub fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
    }
}
