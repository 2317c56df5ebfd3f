//! The part of the settings that the hub and its registry read.

use crate::clock::nanos;
use crate::config::{ChannelRules, Route, Settings, UserPresence};

#[derive(Debug, Clone)]
pub struct HubSettings {
    pub rules: ChannelRules,
    pub routes: Vec<Route>,
    pub linger_ns: u64,
    pub channels_max: usize,
    /// Of them, how many may be heard on behalf of one address.
    pub channels_of_address: usize,
    pub payload_bytes_max: usize,
    /// Of a client, in a second.
    pub publishes_per_connection: Option<usize>,
    pub publishes_per_user: Option<usize>,
    /// What a shard's inbox takes.
    pub inbox_messages: usize,
    /// Batches in the inboxes of all shards together.
    pub inbox_bytes_total: usize,
    /// Histories of all channels together.
    pub history_bytes_total: usize,
    /// A channel without listeners lives as long as anything is in its history (embedded bus).
    pub history_keeps_channels: bool,
    /// Whose connections are counted.
    pub user_presence: UserPresence,
    /// What this node counts is told to others.
    pub has_other_nodes: bool,
}

impl HubSettings {
    /// Whether any channel is to have one.
    pub fn has_history(&self) -> bool {
        self.rules.default.history_count > 0 || self.rules.tables.iter().any(|(_, rule)| rule.history_count > 0)
    }
}

impl From<&Settings> for HubSettings {
    fn from(settings: &Settings) -> Self {
        HubSettings {
            rules: settings.channels.clone(),
            routes: settings.routes.clone(),
            linger_ns: nanos(settings.redis.linger),
            channels_max: settings.bounds.channels_max,
            channels_of_address: settings.bounds.channels_of_address(),
            payload_bytes_max: settings.bounds.payload_bytes_max,
            publishes_per_connection: settings.bounds.publishes_per_connection,
            publishes_per_user: settings.bounds.publishes_per_user,
            inbox_messages: settings.shards.inbox_messages,
            inbox_bytes_total: settings.bounds.inbox_bytes_total,
            history_bytes_total: settings.bounds.history_bytes_total,
            history_keeps_channels: settings.redis.url.is_none(),
            user_presence: settings.clients.user_presence,
            has_other_nodes: settings.redis.url.is_some(),
        }
    }
}
