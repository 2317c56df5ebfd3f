//! The part of the settings that a shard reads, with each total divided by the number of shards. Made by [`crate::server`], once for all of them.

use super::load::Thresholds;
use crate::addresses::Networks;
use crate::config::{Auth, ChannelRules, Clients, Settings};
use crate::limits::DEFLATE_SUBSCRIBERS_MIN;
use crate::limits::auth::CACHE_BYTES_TOTAL;

#[derive(Debug, Clone)]
pub struct ShardSettings {
    pub clients: Clients,
    /// What is asked of requests; the keys are the gate's.
    pub auth: Auth,
    pub channels: ChannelRules,
    /// Of the process: the count of connections is one for all shards.
    pub connections_max: usize,
    /// Connections of this shard that have not been let in: they have not said yet what they want, or are being told that they do not get it.
    pub handshakes_max: usize,
    pub subscriptions_max: usize,
    /// Of the process.
    pub channels_max: usize,
    pub channels_of_address: usize,
    pub message_bytes_max: usize,
    pub head_bytes_max: usize,
    /// Of each connection; None: no limit.
    pub commands_per_second: Option<usize>,
    pub trusted_proxies: Networks,
    /// Channels with fewer are not worth compressing for; a constant, but in the simulation.
    pub deflate_subscribers_min: u32,
    /// When nobody is taken in any more.
    pub admission: Thresholds,
    /// What this shard's logs, the buffers of its connections, and what it remembers of subscriptions that wait for the bus may hold together.
    pub log_bytes_max: usize,
    pub buffer_bytes_max: usize,
    pub waiting_bytes_max: usize,
    /// And what it remembers of tokens that were verified before.
    pub token_cache_bytes_max: usize,
    /// Of each listener and socket.
    pub backlog: u32,
    pub notsent_bytes: u32,
}

impl From<&Settings> for ShardSettings {
    fn from(settings: &Settings) -> Self {
        ShardSettings {
            clients: settings.clients.clone(),
            auth: Auth { secret: None, ..settings.auth.clone() },
            channels: settings.channels.clone(),
            connections_max: settings.bounds.connections_max,
            handshakes_max: settings.handshakes_of_shard(),
            subscriptions_max: settings.bounds.subscriptions_max,
            channels_max: settings.bounds.channels_max,
            channels_of_address: settings.bounds.channels_of_address(),
            message_bytes_max: settings.bounds.message_bytes_max,
            head_bytes_max: settings.bounds.head_bytes_max,
            commands_per_second: settings.bounds.commands_per_second,
            deflate_subscribers_min: DEFLATE_SUBSCRIBERS_MIN,
            admission: Thresholds {
                lag: settings.bounds.admission_lag,
                logs: settings.bounds.admission_logs,
                memory: settings.bounds.admission_memory,
            },
            trusted_proxies: settings.addresses.trusted_proxies.clone(),
            log_bytes_max: settings.log_bytes_of_shard(),
            buffer_bytes_max: settings.buffer_bytes_of_shard(),
            waiting_bytes_max: settings.waiting_bytes_of_shard(),
            token_cache_bytes_max: CACHE_BYTES_TOTAL / settings.shards.count,
            backlog: settings.shards.backlog,
            notsent_bytes: settings.shards.notsent_bytes,
        }
    }
}
