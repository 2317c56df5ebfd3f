//! Settings: as typed (file, environment, flags), then checked.
//!
//! [`crate::cli`] calls [`load`] once at start; everybody else only reads the [`Settings`] it gives. Invariant: what `load` gives
//! back has passed every check of [`table`] (each value alone) and of [`mod@check`] (values together), so readers need no checks.
//!
//! The way of a value: [`table`] knows its names, its default and how its text is read; [`layers`] lays file ([`mod@file`]), environment and
//! flags over the defaults; [`problem`] says what is wrong and where; [`mod@print`] writes the table out; [`host`] and [`fd_table`] hold
//! the settings against the host.

pub mod check;
mod defaults;
pub mod fd_table;
pub mod file;
pub mod host;
pub mod layers;
pub mod log_filter;
pub mod parse;
pub mod print;
pub mod problem;
pub mod redis_url;
mod rows;
pub mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use crate::wire::Format;
use crate::wire::payload::Expect;

pub use fd_table::{Resolved, resolve_fd_table};
pub use host::Host;
pub use layers::{FileChoice, Loaded, Sources, load};
pub use log_filter::LogFilter;

/// All settings, checked: what the rest of the program reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub listen: Vec<SocketAddr>,
    pub control: SocketAddr,
    /// Names, in lower case, that a request to the control port may be for.
    pub control_hosts: Vec<String>,
    /// None: the embedded bus.
    pub redis: Option<String>,
    pub prefix: String,
    pub redis_channels: Vec<String>,
    pub redis_subscribe: RedisSubscribe,
    /// How long a channel without subscribers stays subscribed.
    pub linger: Duration,
    pub shards: usize,
    pub pin: Pin,
    pub fd_table: FdTable,
    pub format: Format,
    /// None: laps start at once.
    pub coalesce: Option<Duration>,
    pub heartbeat: Duration,
    /// After a ping, how long any byte may take to come back.
    pub pong_timeout: Duration,
    pub handshake_timeout: Duration,
    pub close_timeout: Duration,
    pub shutdown_timeout: Duration,
    pub connections_max: usize,
    pub subscriptions_max: usize,
    /// Distinct channels served at once, whole process.
    pub channels_max: usize,
    /// How many of them may be heard on behalf of one address; see [`Settings::channels_of_address`].
    pub channels_per_address: Share,
    /// Largest message a client may send.
    pub message_bytes_max: usize,
    /// Largest payload taken from the bus or from a publisher.
    pub payload_bytes_max: usize,
    /// All channel logs of the process together.
    pub log_bytes_total: usize,
    /// Split frames and unsent control frames of all connections together.
    pub buffer_bytes_total: usize,
    /// Messages an inbox of a shard holds.
    pub inbox_messages: usize,
    /// Batches that wait in the inboxes of all shards together, in bytes.
    pub inbox_bytes_total: usize,
    /// The node's history of all channels together, in bytes.
    pub history_bytes_total: usize,
    /// TCP_NOTSENT_LOWAT.
    pub notsent_bytes: u32,
    pub backlog: u32,
    pub echo: bool,
    pub allow_client_publish: bool,
    pub log_format: LogFormat,
    pub log_level: LogFilter,
    pub channels: ChannelRules,
}

impl Settings {
    /// How many channels may be heard on behalf of one address.
    pub fn channels_of_address(&self) -> usize {
        match self.channels_per_address {
            // So that no single host can take all; one connection may always have what it may have.
            Share::Auto => (self.channels_max / 2).max(self.subscriptions_max),
            Share::None => usize::MAX,
            Share::Count(count) => count,
        }
    }

    /// What the logs of one shard may hold together.
    pub fn log_bytes_of_shard(&self) -> usize {
        self.log_bytes_total / self.shards
    }

    /// What may be remembered of subscriptions that wait for the bus, on one shard: as much again as half of the buffers.
    pub fn waiting_bytes_of_shard(&self) -> usize {
        self.buffer_bytes_total / self.shards / 2
    }

    /// What the buffers of one shard's connections may hold together: the shard's part, but one message at least.
    pub fn buffer_bytes_of_shard(&self) -> usize {
        let message = match self.echo {
            // The answer lies in a buffer of its own when more is read already.
            true => limits::ECHO_MESSAGE_BYTES_MAX.max(self.message_bytes_max) + 2 * limits::READ_BYTES,
            false => self.message_bytes_max + limits::BUFFER_FLOOR_BYTES,
        };
        message.max(self.buffer_bytes_total / self.shards)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisSubscribe {
    Exact,
    Pattern,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdTable {
    Auto,
    Shared,
    Private,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// What happens to a subscriber whose cursor the log's tail has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Overrun {
    /// Close with 4008; the client resumes.
    Disconnect = 0,
    /// Go on at the tail; a `gap` names what was lost.
    Skip = 1,
    /// Go on at the newest message; a `gap` names what was lost.
    Latest = 2,
}

/// What to do with a payload that is not what `payload` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    Opaque,
    Drop,
}

/// Settings of a channel, found by the longest prefix of its name.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelRule {
    pub overrun: Overrun,
    pub payload: Expect,
    pub mismatch: Mismatch,
    /// Bytes one shard's log of the channel may hold.
    pub log_bytes: usize,
    /// Messages kept for resume; 0: none.
    pub history_count: usize,
    pub history_age: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ChannelRules {
    pub default: ChannelRule,
    /// By prefix, longest first.
    pub by_prefix: Vec<(String, ChannelRule)>,
}

/// The rules as many channels refer to them: one copy of each for the thread that made this.
#[derive(Debug)]
pub struct SharedRules {
    default: Arc<ChannelRule>,
    by_prefix: Vec<(String, Arc<ChannelRule>)>,
}

impl SharedRules {
    pub fn new(rules: &ChannelRules) -> SharedRules {
        let shared = |(prefix, rule): &(String, ChannelRule)| (prefix.clone(), Arc::new(rule.clone()));
        SharedRules { default: Arc::new(rules.default.clone()), by_prefix: rules.by_prefix.iter().map(shared).collect() }
    }

    pub fn of(&self, channel: &str) -> &Arc<ChannelRule> {
        longest(&self.by_prefix, channel).unwrap_or(&self.default)
    }
}

/// The rule of the longest prefix; they come longest first.
fn longest<'a, R>(by_prefix: &'a [(String, R)], channel: &str) -> Option<&'a R> {
    by_prefix.iter().find(|(prefix, _)| channel.starts_with(prefix.as_str())).map(|(_, rule)| rule)
}

impl ChannelRules {
    pub fn of(&self, channel: &str) -> &ChannelRule {
        longest(&self.by_prefix, channel).unwrap_or(&self.default)
    }
}
