//! Rows about how messages come from Redis.

use super::ROW;
use crate::config::parse;
use crate::config::table::{Section, Setting, Shown, Value};
use crate::config::{PubSub, PubSubFrom, RedisSubscribe};
use crate::named::Named;

pub(super) const REDIS_SUBSCRIBE: Setting = Setting {
    key: "redis_subscribe",
    section: Section::Redis,
    placeholder: "HOW",
    help: "How Redis is subscribed to. exact takes the channels that have subscribers here; pattern takes the whole prefix with one PSUBSCRIBE, for hosts that serve few channels to many.",
    ..word!(redis.subscribe: RedisSubscribe)
};

pub(super) const PUBSUB: Setting = Setting {
    key: "pubsub",
    section: Section::Redis,
    placeholder: "KIND",
    help: "Which Pub/Sub of Redis carries the messages. classic: PUBLISH; in a Cluster each message goes to every node. sharded (Redis 7): SPUBLISH to PREFIX{CHANNEL}, which costs the nodes of one slot only.",
    ..word!(redis.pubsub: PubSub)
};

pub(super) const PUBSUB_FROM: Setting = Setting {
    key: "pubsub_from",
    section: Section::Redis,
    placeholder: "NODE",
    help: "Which nodes of a Redis Cluster bring the messages. master: those that have the channels; replica: one of the replicas of each, where it has any, so that a message for many nodes is not sent to all of them by its master.",
    ..word!(redis.pubsub_from: PubSubFrom)
};
