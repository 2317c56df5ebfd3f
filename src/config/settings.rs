//! All settings as values, in the sections that `--help` and the file show them in. Made by [`super::load`]; the rest of the program reads them.

use std::path::PathBuf;
use std::time::Duration;

use super::{
    AuthMode, ChannelRules, FdTable, Fsync, LogFilter, LogFormat, PubSub, PubSubFrom, RedisSubscribe, Route, TlsSessions, UserPresence,
};
use crate::addresses::Networks;
use crate::limits;
use crate::listen::{Address, Listener};
use crate::tls::Version;
use crate::tls::acceptor::ClientAuth;
use crate::wire::Format;
use crate::wire::http::origin::AllowedOrigin;

/// What a section's settings are called in the file, and what they do, stands in the rows of [`super::table`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    pub addresses: Addresses,
    pub tls: Tls,
    pub redis: Redis,
    pub journal: Journal,
    pub shards: Shards,
    pub clients: Clients,
    pub auth: Auth,
    pub channels: ChannelRules,
    /// In the order of the file.
    pub routes: Vec<Route>,
    pub bounds: Bounds,
    pub logging: Logging,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Addresses {
    pub listen: Vec<Listener>,
    /// Whose word is taken for where clients come from.
    pub trusted_proxies: Networks,
    pub control: Address,
    /// What every request to it must bring, but for probes.
    pub control_token: Option<String>,
    /// Files of settings and keys are read again when they have changed.
    pub reload_on_change: bool,
    /// Names, in lower case, that a request to the control port may be for.
    pub control_hosts: Vec<String>,
}

/// Of listeners that speak it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    pub certs: Vec<PathBuf>,
    /// One for each.
    pub keys: Vec<PathBuf>,
    pub min_version: Version,
    /// By their names; none: the usual ones.
    pub suites: Vec<String>,
    pub client_auth: ClientAuth,
    pub client_ca: Option<PathBuf>,
    /// What several nodes make the keys of tickets from.
    pub ticket_keys: Option<PathBuf>,
    pub sessions: TlsSessions,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Redis {
    /// None: the embedded bus.
    pub url: Option<String>,
    /// Of further servers, each with a part of the channels. There are none without a first.
    pub beside: Vec<String>,
    /// See [`RedisTls`].
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub prefix: String,
    /// Outside of the prefix.
    pub channels: Vec<String>,
    pub subscribe: RedisSubscribe,
    pub pubsub: PubSub,
    pub pubsub_from: PubSubFrom,
    /// Replicas that must have a durable message before it is acknowledged.
    pub durable_wait: usize,
    /// How long a channel without subscribers stays subscribed.
    pub linger: Duration,
    /// How long the bus may rest between two reads while many messages come ([`crate::bus::pace`]).
    pub bus_rest: Duration,
    /// After which silence a node counts as gone, and all that it has counted.
    pub presence_lease: Duration,
}

/// Files in PEM, for a Redis over TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Who vouches for the server, or its own certificate. None: the system's root certificates.
    pub ca: Option<PathBuf>,
    /// As whom this server shows itself.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl Redis {
    /// Of all servers, in their order.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.url.iter().chain(&self.beside).map(String::as_str)
    }

    pub fn tls(&self) -> RedisTls {
        RedisTls { ca: self.tls_ca.clone(), cert: self.tls_cert.clone(), key: self.tls_key.clone() }
    }
}

/// Of durable channels on the embedded bus.
#[derive(Debug, Clone, PartialEq)]
pub struct Journal {
    /// None: in memory.
    pub data_dir: Option<PathBuf>,
    pub fsync: Fsync,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Shards {
    pub count: usize,
    pub pin: Pin,
    pub fd_table: FdTable,
    /// Messages an inbox of a shard holds.
    pub inbox_messages: usize,
    pub backlog: u32,
    /// TCP_NOTSENT_LOWAT.
    pub notsent_bytes: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Clients {
    pub format: Format,
    pub heartbeat: Duration,
    /// After a ping, how long any byte may take to come back.
    pub pong_timeout: Duration,
    pub handshake_timeout: Duration,
    pub close_timeout: Duration,
    pub shutdown_timeout: Duration,
    /// Connections that are asked to go in a second, by a drain or a shed.
    pub drain_rate: usize,
    pub echo: bool,
    /// permessage-deflate is agreed to.
    pub deflate: bool,
    /// Shorter messages are not compressed.
    pub deflate_min_bytes: usize,
    /// 1 to 9.
    pub deflate_level: u32,
    /// Parts of the User-Agent of clients that do not get it.
    pub deflate_exclude: Vec<String>,
    pub allow_client_publish: bool,
    pub user_presence: UserPresence,
}

/// How clients say who they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    pub mode: AuthMode,
    /// Of HMAC.
    pub secret: Option<String>,
    /// PEM or JWKS.
    pub key_files: Vec<PathBuf>,
    /// Where a JWKS document is fetched from.
    pub jwks_url: Option<String>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    pub leeway: Duration,
    /// How long before a token expires its bearer is told; zero: never.
    pub warning: Duration,
    pub token_bytes_max: usize,
    /// The name of a cookie that may hold a token.
    pub cookie: Option<String>,
    /// From where pages may connect; empty: from everywhere.
    pub origins: Vec<AllowedOrigin>,
    /// Clients are subscribed to `user:SUB` on open.
    pub user_channel: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    pub connections_max: usize,
    /// Of one address, as the next; None: no limit.
    pub connections_per_address: Option<usize>,
    pub accepts_per_address: Option<usize>,
    /// Of all addresses together.
    pub accepts_per_second: Option<usize>,
    /// From when on nobody is taken in any more: lateness of a shard's loop, percent of its logs' bound, percent of the host's memory that are available.
    pub admission_lag: Option<Duration>,
    pub admission_logs: Option<usize>,
    pub admission_memory: Option<usize>,
    /// `/readyz` says so then.
    pub admission_unready: bool,
    /// Longest request head.
    pub head_bytes_max: usize,
    /// Of one connection.
    pub commands_per_second: Option<usize>,
    pub publishes_per_connection: Option<usize>,
    /// Of all connections of one user.
    pub publishes_per_user: Option<usize>,
    pub subscriptions_max: usize,
    /// Distinct channels served at once, whole process.
    pub channels_max: usize,
    /// How many of them may be heard on behalf of one address; see [`Bounds::channels_of_address`].
    pub channels_per_address: Share,
    /// Largest message a client may send.
    pub message_bytes_max: usize,
    /// Largest payload taken from the bus or from a publisher.
    pub payload_bytes_max: usize,
    /// All channel logs of the process together.
    pub log_bytes_total: usize,
    /// Split frames and unsent control frames of all connections together.
    pub buffer_bytes_total: usize,
    /// Batches that wait in the inboxes of all shards together, in bytes.
    pub inbox_bytes_total: usize,
    /// The node's history of all channels together, in bytes.
    pub history_bytes_total: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Logging {
    pub format: LogFormat,
    pub level: LogFilter,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    Auto,
    None,
    List(Vec<usize>),
}

/// How much of something that all share one of them may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Auto,
    /// All of it.
    None,
    Count(usize),
}

impl Settings {
    /// The same with a change.
    pub fn with(mut self, change: impl FnOnce(&mut Settings)) -> Settings {
        change(&mut self);
        self
    }

    /// What the logs of one shard may hold together.
    pub fn log_bytes_of_shard(&self) -> usize {
        self.bounds.log_bytes_total / self.shards.count
    }

    /// What may be remembered of subscriptions that wait for the bus, on one shard: as much again as half of the buffers.
    pub fn waiting_bytes_of_shard(&self) -> usize {
        self.bounds.buffer_bytes_total / self.shards.count / 2
    }

    /// Connections of one shard that have not been let in: a quarter of what may be open, all shards together.
    pub fn handshakes_of_shard(&self) -> usize {
        (self.bounds.connections_max / 4 / self.shards.count).max(limits::HANDSHAKES_MIN)
    }

    /// What the buffers of one shard's connections may hold together: the shard's part, but one message at least.
    pub fn buffer_bytes_of_shard(&self) -> usize {
        let message = match self.clients.echo {
            // The answer lies in a buffer of its own when more is read already.
            true => limits::ECHO_MESSAGE_BYTES_MAX.max(self.bounds.message_bytes_max) + 2 * limits::READ_BYTES,
            false => self.bounds.message_bytes_max + limits::BUFFER_FLOOR_BYTES,
        };
        message.max(self.bounds.buffer_bytes_total / self.shards.count)
    }
}

impl Bounds {
    /// How many channels may be heard on behalf of one address.
    pub fn channels_of_address(&self) -> usize {
        match self.channels_per_address {
            // So that no single host can take all; one connection may always have what it may have.
            Share::Auto => (self.channels_max / 2).max(self.subscriptions_max),
            Share::None => usize::MAX,
            Share::Count(count) => count,
        }
    }
}
