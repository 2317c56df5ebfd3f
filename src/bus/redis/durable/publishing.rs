//! A message on its way to the function that numbers, keeps and publishes it.

use smallvec::{SmallVec, smallvec};

use super::Durables;
use crate::bus::question::Publish;
use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::link::Link;
use crate::bus::redis::{keys, library};
use crate::clock::MonotonicNs;
use crate::config::ChannelRule;

/// For how long a message is known again by its idempotency key.
const IDEMPOTENCY_WINDOW_MS: &[u8] = b"600000";

impl Durables {
    /// Publishes by the function that gives the message its number.
    pub fn publish(
        &self,
        link: &mut Link,
        publish: &Publish,
        (command_within, redis_channel): (&[u8], &str),
        rule: &ChannelRule,
        now: MonotonicNs,
    ) {
        let channel = &publish.channel;
        let (stream, meta) = (keys::stream(&self.prefix, channel), keys::meta(&self.prefix, channel));
        let once = publish.idempotency_key.as_deref().map(|key| keys::once(&self.prefix, channel, key.as_str()));
        let (count, age_ms) = (rule.history_count.to_string(), rule.history_age.as_millis().to_string());
        let keys: &[u8] = if once.is_some() { b"3" } else { b"2" };
        let mut command: SmallVec<[&[u8]; 12]> =
            smallvec![b"FCALL".as_slice(), library::PUBLISH.as_bytes(), keys, stream.as_bytes(), meta.as_bytes()];
        command.extend(once.as_ref().map(String::as_bytes));
        let arguments: [&[u8]; 6] =
            [command_within, redis_channel.as_bytes(), count.as_bytes(), age_ms.as_bytes(), IDEMPOTENCY_WINDOW_MS, &publish.payload];
        command.extend(arguments);
        link.ask(Asked::PublishDurable, &command, now);
    }
}
