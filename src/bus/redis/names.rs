//! How Redis channels and channels are named after each other: a Redis channel listed in `redis_channel` is a channel of the same name; all others
//! carry the prefix, which clients do not see. With sharded Pub/Sub it is `PREFIX{CHANNEL}`, so that it has the slot of the channel's keys.

use std::borrow::Cow;
use std::collections::HashSet;

use super::keys;
use crate::config::PubSub;
use crate::config::settings::Redis;

#[derive(Debug)]
pub struct Names {
    prefix: String,
    redis_channels: HashSet<String>,
    is_sharded: bool,
}

impl Names {
    /// No Redis channel that is listed lies within the prefix, or it would have two names: the settings are checked for that.
    pub fn new(settings: &Redis) -> Names {
        Names {
            prefix: settings.prefix.clone(),
            redis_channels: settings.channels.iter().cloned().collect(),
            is_sharded: settings.pubsub == PubSub::Sharded,
        }
    }

    /// How long the name of this channel is in Redis, at most.
    pub fn redis_bytes_max(&self, channel: &str) -> usize {
        // A brace may take three bytes.
        self.prefix.len() + if self.is_sharded { 3 * channel.len() + 2 } else { channel.len() }
    }

    pub fn to_redis(&self, channel: &str) -> String {
        match self.redis_channels.contains(channel) {
            true => channel.to_owned(),
            false if self.is_sharded => keys::sharded_channel(&self.prefix, channel),
            false => format!("{}{channel}", self.prefix),
        }
    }

    /// None: of no channel here. With prefix `n:` and `n` listed, a client's channel `n` is the Redis channel `n` alone: the pattern brings
    /// `n:n` as well, which is none.
    #[inline]
    pub fn to_channel<'a>(&self, redis_channel: &'a str) -> Option<Cow<'a, str>> {
        let is_listed = |name: &str| self.redis_channels.contains(name);
        if self.is_sharded {
            return match keys::channel_of_sharded(&self.prefix, redis_channel) {
                Some(channel) => (!is_listed(&channel)).then_some(channel),
                None => is_listed(redis_channel).then_some(Cow::Borrowed(redis_channel)),
            };
        }
        match redis_channel.strip_prefix(self.prefix.as_str()) {
            Some(channel) if self.prefix.is_empty() || !is_listed(channel) => Some(Cow::Borrowed(channel)),
            Some(_) => None,
            None => is_listed(redis_channel).then_some(Cow::Borrowed(redis_channel)),
        }
    }

    /// PUBLISH, or its like.
    pub fn publish_command(&self) -> &'static [u8] {
        if self.is_sharded { b"SPUBLISH" } else { b"PUBLISH" }
    }

    /// The pattern that covers the prefix.
    pub fn pattern(&self) -> String {
        format!("{}*", glob_escaped(&self.prefix))
    }

    /// The Redis channels that the pattern does not cover. An empty prefix covers all: they would come twice.
    pub fn beside_pattern(&self) -> impl Iterator<Item = &str> {
        self.redis_channels.iter().map(String::as_str).filter(|name| !self.is_covered(name))
    }

    /// Whether the pattern brings the messages of this Redis channel.
    pub fn is_covered(&self, redis_channel: &str) -> bool {
        redis_channel.starts_with(&self.prefix)
    }
}

/// The prefix as a glob pattern that matches nothing else.
fn glob_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let names = |prefix: &str| Names { prefix: prefix.into(), redis_channels: ["notifications".to_owned()].into(), is_sharded: false };
        let prefixed = names("notifications:");
        assert_eq!(prefixed.to_redis("user:1"), "notifications:user:1");
        assert_eq!(prefixed.to_redis("notifications"), "notifications");
        assert_eq!(prefixed.to_channel("notifications:user:1").as_deref(), Some("user:1"));
        assert_eq!(prefixed.to_channel("notifications").as_deref(), Some("notifications"));
        assert_eq!(prefixed.to_channel("other"), None);
        assert_eq!(prefixed.to_channel("notifications:notifications"), None, "it would be a second source of one channel");
        let bare = names("");
        assert_eq!(bare.to_redis("a"), "a");
        assert_eq!(bare.to_channel("notifications").as_deref(), Some("notifications"));
        let sharded = Names { is_sharded: true, ..names("n:") };
        for (channel, name) in [("user:1", "n:{user:1}"), ("a{b}", "n:{a%7Bb%7D}"), ("notifications", "notifications")] {
            assert_eq!(sharded.to_redis(channel), name);
            assert_eq!(sharded.to_channel(name).as_deref(), Some(channel));
            assert!(name.len() <= sharded.redis_bytes_max(channel));
        }
        for other in ["n:user:1", "n:{notifications}", "n:{}", "other"] {
            assert_eq!(sharded.to_channel(other), None, "{other}");
        }
    }

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(glob_escaped("a*b?[c]\\d:"), "a\\*b\\?\\[c\\]\\\\d:");
    }
}
