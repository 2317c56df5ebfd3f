//! How the keys of who is there are called. Depends on names alone.
//!
//! All have one hash tag, and so one slot in a Cluster: what is told and that it was told are one step.

use super::Kind;

/// What a user of Redis must be allowed.
pub const COMMANDS: &str =
    "+hset +hdel +hmget +pexpire +pttl +sadd +srem +smembers +zadd +zrem +zrange +zmscore +set +del +xadd +multi +exec";

/// The hash tag of all names.
pub const TAG: &str = "presence";

#[derive(Debug)]
pub struct Keys {
    prefix: Box<str>,
    node: Box<str>,
    pub nodes: Box<str>,
    own_channels: Box<str>,
    own_users: Box<str>,
    pub own_members: Box<str>,
    occupied: Box<str>,
    connected: Box<str>,
    pub sweeper: Box<str>,
    events: Box<str>,
}

impl Keys {
    pub fn new(prefix: &str, node: &str) -> Keys {
        let prefix = format!("{prefix}{{{TAG}}}:");
        let key = |name: &str| format!("{prefix}{name}").into_boxed_str();
        Keys {
            prefix: prefix.as_str().into(),
            node: node.into(),
            nodes: key("nodes"),
            own_channels: key(&format!("channels:{node}")),
            own_users: key(&format!("users:{node}")),
            own_members: key(&format!("members:{node}")),
            occupied: key("occupied"),
            connected: key("connected"),
            sweeper: key("sweeper"),
            events: key("events"),
        }
    }

    /// What this node is called.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What this node counts.
    pub fn own(&self, kind: Kind) -> &str {
        match kind {
            Kind::Channels => &self.own_channels,
            Kind::Users => &self.own_users,
        }
    }

    /// What another one does.
    pub fn of(&self, kind: Kind, node: &str) -> String {
        let kind = match kind {
            Kind::Channels => "channels",
            Kind::Users => "users",
        };
        format!("{}{kind}:{node}", self.prefix)
    }

    /// Whom another one lists.
    pub fn members_of(&self, node: &str) -> String {
        format!("{}members:{node}", self.prefix)
    }

    /// Of what back ends were told that it is there.
    pub fn told(&self, kind: Kind) -> &str {
        match kind {
            Kind::Channels => &self.occupied,
            Kind::Users => &self.connected,
        }
    }

    pub fn events(&self) -> &str {
        &self.events
    }

    /// Of all of them, for an ACL.
    pub fn patterns(&self) -> String {
        format!("~{}*", self.prefix)
    }
}
