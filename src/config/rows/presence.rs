//! Rows about who is there: which channels' subscribers are counted, and whose connections.

use super::{HOUR_S, ROW, seconds, show_seconds};
use crate::auth::rules::Access;
use crate::config::UserPresence;
use crate::config::parse;
use crate::config::table::{Section, Setting, Shown, Value};
use crate::limits::bus::presence::MEMBERS_MAX;
use crate::named::Named;

const _: () = assert!(MEMBERS_MAX == 1000, "the row below says so");

pub(super) const PRESENCE: Setting = Setting {
    key: "presence",
    section: Section::Channels,
    placeholder: "BOOL",
    help: "Counts the subscribers of a channel, with Redis over all nodes, for clients (presence), for GET /presence and GET /channels?scope=cluster; and tells back ends by a stream in Redis when the first comes and the last has gone.",
    accepted: "true, false",
    value: rule!("presence", presence, text => parse::boolean(text), value => Shown::Switch(*value)),
    ..ROW
};

pub(super) const PRESENCE_ASK: Setting = Setting {
    key: "presence_ask",
    section: Section::Channels,
    placeholder: "WHO",
    help: "Which clients may ask how many subscribers a channel has, where they are counted. auto is who may subscribe; token is whose claim channels names the channel.",
    ..word_rule!("presence_ask", presence_ask: Access)
};

pub(super) const PRESENCE_MEMBERS: Setting = Setting {
    key: "presence_members",
    section: Section::Channels,
    placeholder: "N",
    help: "How many of the users who are subscribed to a channel are listed, where subscribers are counted, for whoever may ask; for small rooms. 0: nobody.",
    accepted: "0 to 1000",
    value: rule!("presence_members", presence_members, text => parse::count(text, 0, MEMBERS_MAX), value => Shown::Number(*value as u64)),
    ..ROW
};

pub(super) const USER_PRESENCE: Setting = Setting {
    key: "user_presence",
    section: Section::Clients,
    placeholder: "WHAT",
    help: "Whether the connections of each user (auth) are counted, with Redis over all nodes: count does, for GET /presence; events also tells back ends by a stream in Redis when the first comes and the last has gone.",
    ..word!(clients.user_presence: UserPresence)
};

pub(super) const PRESENCE_LEASE: Setting = Setting {
    key: "presence_lease",
    section: Section::Redis,
    placeholder: "SECONDS",
    help: "How long what a node has counted (presence) holds when it says nothing any more: a node that died counts for so long.",
    accepted: "3 to 3600 seconds, or with a unit: 5s, 1m",
    value: one!(redis.presence_lease, text => seconds(text, 3, HOUR_S), value => show_seconds(*value)),
    ..ROW
};
