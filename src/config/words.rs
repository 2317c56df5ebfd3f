//! Values that are one of a few words. A word stands here once, for settings, start block, `/info` and the labels of metrics. Two more such lists are
//! the wire's: [`crate::wire::Format`] and [`crate::wire::payload::Expect`].

use crate::named::named;

/// Of settings that are a word or a number: whatever this host has,
pub const AUTO: &str = "auto";
/// and without.
pub const NONE: &str = "none";
/// The bus without a Redis, where one is named.
pub const EMBEDDED: &str = "embedded";

named! {
    RedisSubscribe {
        Exact = "exact",
        Pattern = "pattern",
    }
}

named! {
    /// Which of Redis's two kinds of Pub/Sub carries the messages.
    PubSub {
        Classic = "classic",
        Sharded = "sharded",
    }
}

named! {
    /// Which node of a Cluster brings the messages of a slot.
    PubSubFrom {
        Master = "master",
        Replica = "replica",
    }
}

named! {
    /// When the disk has what is published to a durable channel.
    Fsync {
        /// Before its publisher is answered.
        Always = "always",
        /// Within a second.
        Interval = "interval",
    }
}

named! {
    FdTable {
        Auto = "auto",
        Shared = "shared",
        Private = "private",
    }
}

named! {
    /// How clients say who they are.
    AuthMode {
        None = "none",
        Query = "query",
        Jwt = "jwt",
        Certificate = "certificate",
    }
}

named! {
    /// What is kept of a TLS session.
    TlsSessions {
        Compact = "compact",
        Rustls = "rustls",
    }
}

named! {
    LogFormat {
        Text = "text",
        Json = "json",
    }
}

named! {
    /// What is known of how many connections each user has, over all nodes.
    UserPresence {
        None = "none",
        /// They are counted,
        Count = "count",
        /// and back ends are told of a user's first connection, and of the end of the last.
        Events = "events",
    }
}

named! {
    /// What happens to a subscriber whose cursor the log's tail has passed.
    Overrun {
        /// Close with 4008; the client resumes.
        Disconnect = "disconnect",
        /// Go on at the tail; a `gap` names what was lost.
        Skip = "skip",
        /// Go on at the newest message; a `gap` names what was lost.
        Latest = "latest",
    }
}

named! {
    /// What to do with a payload that is not what `payload` says.
    Mismatch {
        Opaque = "opaque",
        Drop = "drop",
    }
}
