//! A channel is known by its name until its messages flow; from then on also by its epoch.

use std::sync::Arc;

use super::batch::Channel;

#[derive(Debug)]
pub enum Naming {
    /// Nobody knows yet how it is counted.
    Waiting(Arc<str>),
    Served(Arc<Channel>),
}

impl Naming {
    pub fn name(&self) -> &Arc<str> {
        match self {
            Naming::Waiting(name) => name,
            Naming::Served(channel) => &channel.name,
        }
    }

    pub fn channel(&self) -> Option<&Arc<Channel>> {
        match self {
            Naming::Waiting(_) => None,
            Naming::Served(channel) => Some(channel),
        }
    }
}
