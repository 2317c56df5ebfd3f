//! Rows about how much is published, how much of a channel is delivered, and how often.

use std::time::Duration;

use super::{ROW, show_limit};
use crate::config::parse::{self, MILLISECOND};
use crate::config::table::{Section, Setting, Shown, Value};
use crate::limits::{MAX_RATE_MAX, RATE_PER_SECOND_MAX};

pub(super) const MAX_RATE: Setting = Setting {
    key: "max_rate",
    section: Section::Channels,
    placeholder: "N",
    help: "No subscription gets more messages a second than this, the newest of them; a gap (max_rate) says what it was not sent. A client may ask for less by itself.",
    accepted: "none, or 1 to 1000",
    value: rule!("max_rate", max_rate, text => parse::limit(text, MAX_RATE_MAX.into()).map(|rate| rate.map(|rate| rate as u16)), value => show_limit(*value)),
    live: true,
    ..ROW
};

pub(super) const BUS_REST: Setting = Setting {
    key: "bus_rest",
    section: Section::Redis,
    placeholder: "MS",
    help: "While more than 1,900 messages a second come from Redis, the bus reads once in this time, or twice from some 4,000 a second on: each message comes up to so much later, and many that have a channel each cost less CPU. Fewer a second, bursts of up to 64, and whoever publishes through this server wait for nothing. 0 reads as they come.",
    accepted: "0 to 100 milliseconds, or with a unit: 1ms, 20ms",
    value: one!(redis.bus_rest, text => parse::duration(text, MILLISECOND, Duration::ZERO, Duration::from_millis(100)), value => Shown::Time { time: *value, unit: MILLISECOND }),
    ..ROW
};

pub(super) const COALESCE: Setting = Setting {
    key: "coalesce",
    section: Section::Channels,
    placeholder: "MS",
    help: "How long after a round of writes the next one begins, so that it brings more: latency for CPU. After a quiet time of that length a message is sent at once. 0 writes as messages come; `bus_rest` is about messages of all channels together.",
    accepted: "0 to 100 milliseconds, or with a unit: 2ms, 100ms",
    value: rule!("coalesce", coalesce, text => parse::duration(text, MILLISECOND, Duration::ZERO, Duration::from_millis(100)), value => Shown::Time { time: *value, unit: MILLISECOND }),
    live: true,
    ..ROW
};

pub(super) const BROADCAST_BUDGET: Setting = Setting {
    key: "broadcast_budget",
    section: Section::Channels,
    placeholder: "N",
    help: "Deliveries a second (messages times subscribers) that a channel may cost this host. Beyond it, its rounds of writes wait, a second at most; what does not fit in then is passed over, the oldest first, and a gap (budget) says so.",
    accepted: "none, or 1 to 1000000000",
    value: rule!("broadcast_budget", broadcast_budget, text => parse::limit(text, 1_000_000_000).map(|budget| budget.map(|budget| budget as u64)), value => show_limit(*value)),
    live: true,
    ..ROW
};

pub(super) const PUBLISHES_PER_SECOND: Setting = Setting {
    key: "publishes_per_second",
    section: Section::Channels,
    placeholder: "N",
    help: "Messages that all clients together may publish to a channel in a second, as many at once after a rest. The next one is answered with the error rate_limited. What Redis and operators publish is not limited.",
    accepted: "none, or 1 to 10000",
    value: rule!("publishes_per_second", publishes_per_second, text => parse::limit(text, RATE_PER_SECOND_MAX), value => show_limit(*value)),
    live: true,
    ..ROW
};

pub(super) const PUBLISHES_PER_CONNECTION: Setting = Setting {
    key: "publishes_per_connection",
    section: Section::Bounds,
    placeholder: "N",
    help: "Messages that one connection may publish in a second, as many at once after a rest. The next one is answered with the error rate_limited.",
    accepted: "none, or 1 to 10000",
    value: one!(bounds.publishes_per_connection, text => parse::limit(text, RATE_PER_SECOND_MAX), value => show_limit(*value)),
    live: true,
    ..ROW
};

pub(super) const PUBLISHES_PER_USER: Setting = Setting {
    key: "publishes_per_user",
    section: Section::Bounds,
    placeholder: "N",
    help: "Messages that all connections of one user may publish through this server in a second, as many at once after a rest. The next one is answered with the error rate_limited.",
    accepted: "none, or 1 to 10000",
    value: one!(bounds.publishes_per_user, text => parse::limit(text, RATE_PER_SECOND_MAX), value => show_limit(*value)),
    live: true,
    ..ROW
};
