//! What may differ from channel to channel: the rules of `[[channels]]`, and how a channel finds its own.

use std::sync::Arc;
use std::time::Duration;

use super::{Mismatch, Overrun};
use crate::wire::payload::Expect;

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

#[derive(Debug, Clone, PartialEq, Default)]
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
