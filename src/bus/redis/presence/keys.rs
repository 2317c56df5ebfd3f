//! How the keys of who is there are called. Depends on names alone.

use super::Kind;

/// What a user of Redis must be allowed.
pub const COMMANDS: &str = "+hset +hdel +hmget +hexists +pexpire +sadd +srem +smembers +zadd +zrem +zrange +zmscore +set +del +xadd";

/// What all names begin with; in a Cluster their hash tag.
pub const TAG: &str = "presence";

#[derive(Debug)]
pub struct Keys {
    /// Of all but the stream.
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
    /// `is_cluster`: all lie in one slot.
    pub fn new(prefix: &str, node: &str, is_cluster: bool) -> Keys {
        let events = if is_cluster { format!("{prefix}{{{TAG}}}:events") } else { format!("{prefix}events") };
        let prefix = if is_cluster { format!("{prefix}{{{TAG}}}:") } else { format!("{prefix}{TAG}:") };
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
            events: events.into(),
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

    /// Of all but the stream.
    pub fn pattern(&self) -> String {
        format!("{}*", self.prefix)
    }
}
