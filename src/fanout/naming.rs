//! A channel is known by its name until its messages flow; from then on also by its epoch.

use std::sync::Arc;

use smol_str::SmolStr;

use super::batch::Channel;

/// A channel's name as clients write it: without the Redis prefix. Up to 23 bytes lie in it, more are shared by all copies.
pub type ChannelName = SmolStr;

/// No epoch is this: they stay below 2^53.
const UNCOUNTED: u64 = u64::MAX;

/// A pointer wide: there is one in each topic and each entry of the hub.
#[derive(Debug)]
pub struct Naming(Arc<Channel>);

impl Naming {
    /// Nobody knows yet how it is counted.
    pub fn waiting(name: impl Into<ChannelName>) -> Naming {
        Naming(Arc::new(Channel { name: name.into(), epoch: UNCOUNTED, subscribers: Default::default() }))
    }

    pub fn served(channel: Arc<Channel>) -> Naming {
        debug_assert_ne!(channel.epoch, UNCOUNTED);
        Naming(channel)
    }

    pub fn name(&self) -> &ChannelName {
        &self.0.name
    }

    pub fn channel(&self) -> Option<&Arc<Channel>> {
        (self.0.epoch != UNCOUNTED).then_some(&self.0)
    }
}
