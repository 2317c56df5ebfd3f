//! Other settings while the shard runs: swapped between two turns' work, whatever is under way. What they say of connections and channels counts from the next
//! look at each; whether what clients have is still allowed is asked in the turns that follow ([`super::recheck`]).

use std::sync::Arc;

use super::Shard;
use super::net::Network;
use super::settings::ShardSettings;
use crate::auth::Gate;
use crate::auth::cache::Cache;
use crate::config::{Settings, SharedRules};

impl<N: Network> Shard<N> {
    /// Only what a reload may change is other than before. Returns what is known of tokens no more: to free it would take a turn of its own.
    pub(super) fn reload(&mut self, settings: &Settings, gate: Gate) -> Option<Cache> {
        let settings = Arc::new(ShardSettings::from(settings));
        let before = std::mem::replace(&mut self.settings, settings);
        self.deflate.set(&self.settings);
        let forgotten = self.door.replace(gate);
        self.sources.set_limits(self.settings.subscriptions_max, self.settings.commands_per_second);
        // A channel that a client had for its name alone is one like others then.
        let is_name_enough_no_more = before.auth.user_channel && !self.settings.auth.user_channel;
        if before.channels != self.settings.channels || is_name_enough_no_more {
            self.rules = Arc::new(SharedRules::new(&self.settings.channels));
            self.recheck_all(is_name_enough_no_more);
        }
        forgotten
    }
}
