//! What may differ from channel to channel: the rules of `[[channels]]`, and how a channel finds its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Mismatch, Overrun};
use crate::auth::pattern::{Pattern, User};
use crate::auth::rules::Access;
use crate::wire::payload::Expect;

/// Settings of a channel, found by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelRule {
    pub subscribe: Access,
    pub publish: Access,
    /// What a client in the raw format sends that has subscribed to the channel as it connected is published there.
    pub raw_publish: bool,
    /// Of clients, all together.
    pub publishes_per_second: Option<usize>,
    pub overrun: Overrun,
    pub payload: Expect,
    pub mismatch: Mismatch,
    /// No subscription is sent more messages a second.
    pub max_rate: Option<u16>,
    /// Between two rounds of writes; the first after a quiet time begins at once.
    pub coalesce: Duration,
    /// Deliveries a second: messages times subscribers.
    pub broadcast_budget: Option<u64>,
    /// Bytes one shard's log of the channel may hold.
    pub log_bytes: usize,
    /// Messages kept for resume; 0: none.
    pub history_count: usize,
    pub history_age: Duration,
    /// Messages are numbered and kept where all nodes find them, and what was missed is read there.
    pub durable: bool,
    /// Its subscribers are counted, over all nodes.
    pub presence: bool,
    /// So many of the users who are subscribed are listed; 0: none.
    pub presence_members: usize,
    /// Which clients may ask how many they are; auto: who may subscribe.
    pub presence_ask: Access,
}

impl ChannelRule {
    /// Whether a channel's messages may have to wait for each other.
    pub fn is_spaced(&self) -> bool {
        self.broadcast_budget.is_some() || !self.coalesce.is_zero()
    }
}

/// Which channels a table of `[[channels]]` is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Those whose names begin so.
    Prefix(Box<str>),
    Pattern(Pattern),
}

impl Selector {
    /// Whether this channel is one of those, whoever asks.
    pub fn selects(&self, channel: &str) -> bool {
        match self {
            Selector::Prefix(prefix) => channel.starts_with(&**prefix),
            // The rule is the channel's, whoever asks.
            Selector::Pattern(pattern) => pattern.matches(channel, User::Any),
        }
    }

    /// As the key and the text that a file has for it.
    pub fn key(&self) -> (&'static str, &str) {
        match self {
            Selector::Prefix(prefix) => ("prefix", prefix),
            Selector::Pattern(pattern) => ("pattern", pattern.as_str()),
        }
    }

    pub fn pattern(&self) -> Option<&Pattern> {
        match self {
            Selector::Prefix(_) => None,
            Selector::Pattern(pattern) => Some(pattern),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, text) = self.key();
        write!(out, "{key} = {text:?}")
    }
}

impl From<&str> for Selector {
    fn from(prefix: &str) -> Selector {
        Selector::Prefix(prefix.into())
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChannelRules {
    pub default: ChannelRule,
    /// In the order of the file: the first that fits counts.
    pub tables: Vec<(Selector, ChannelRule)>,
}

/// A channel's rule, and for which channels it is; None: all that no table is for.
pub type Found<'r> = (Option<&'r Selector>, &'r Arc<ChannelRule>);

/// The rules as many channels refer to them: one copy of each for the thread that made this.
#[derive(Debug)]
pub struct SharedRules {
    default: Arc<ChannelRule>,
    tables: Vec<(Selector, Arc<ChannelRule>)>,
}

impl SharedRules {
    pub fn new(rules: &ChannelRules) -> SharedRules {
        let shared = |(selector, rule): &(Selector, ChannelRule)| (selector.clone(), Arc::new(rule.clone()));
        SharedRules { default: Arc::new(rules.default.clone()), tables: rules.tables.iter().map(shared).collect() }
    }

    pub fn of(&self, channel: &str) -> &Arc<ChannelRule> {
        self.find(channel).1
    }

    /// What finding a channel's rule costs at most, in comparisons with a pattern.
    pub fn find_units(&self) -> usize {
        1 + self.tables.len()
    }

    /// Also for which channels it is; None: all that no table is for.
    pub fn find(&self, channel: &str) -> Found<'_> {
        first(&self.tables, channel).map_or((None, &self.default), |at| (Some(&self.tables[at].0), &self.tables[at].1))
    }
}

fn first<R>(tables: &[(Selector, R)], channel: &str) -> Option<usize> {
    tables.iter().position(|(selector, _)| selector.selects(channel))
}

impl ChannelRules {
    /// Whether a channel may be durable.
    pub fn has_durable(&self) -> bool {
        self.default.durable || self.tables.iter().any(|(_, rule)| rule.durable)
    }

    /// Whether a channel's subscribers may be counted.
    pub fn has_presence(&self) -> bool {
        self.default.presence || self.tables.iter().any(|(_, rule)| rule.presence)
    }

    pub fn of(&self, channel: &str) -> &ChannelRule {
        self.find(channel).map_or(&self.default, |at| &self.tables[at].1)
    }

    /// The table that counts, by its place among them.
    pub fn find(&self, channel: &str) -> Option<usize> {
        first(&self.tables, channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Selector {
        Selector::Pattern(Pattern::read(text).unwrap())
    }

    #[test]
    fn the_first_table_that_fits_counts() {
        let rule = |history_count| ChannelRule { history_count, ..ChannelRule::default() };
        let tables = vec![
            (pattern("user:{sub}:inbox"), rule(1)),
            (pattern("user:{sub}"), rule(2)),
            ("room:".into(), rule(3)),
            ("room:1".into(), rule(4)),
        ];
        let rules = ChannelRules { default: rule(0), tables };
        let shared = SharedRules::new(&rules);
        for (channel, count) in
            [("user:u1:inbox", 1), ("user:u1", 2), ("user:urn:x", 2), ("user:", 0), ("room:1", 3), ("room:", 3), ("rooms", 0)]
        {
            assert_eq!((rules.of(channel).history_count, shared.of(channel).history_count), (count, count), "{channel}");
        }
    }
}
