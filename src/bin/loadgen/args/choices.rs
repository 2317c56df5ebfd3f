//! Options that take one of a few words.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Through {
    Redis,
    Http,
    Client,
}

/// How clients are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// WebSocket
    Ws,
    /// Event streams (Server-Sent Events), which a client only reads
    Sse,
}

/// By what tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// A secret
    Hs256,
    /// A key on the curve P-256
    Es256,
}

/// What breaks on the way of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Breaks {
    /// The server's subscribed connection (CLIENT KILL TYPE pubsub)
    Pubsub,
    /// Redis is killed and starts again from its append-only file
    Redis,
    /// The server is killed, and another one takes its place, to which its clients come back
    Server,
    /// A master is killed, Sentinels give its place to its replica, and it comes back as a replica
    Master,
    /// A master of a Cluster is killed, its replica takes its place, and it comes back as a replica
    Node,
}

/// How clients leave their channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Leave {
    /// The connections stay
    Unsubscribe,
    /// They do not
    Close,
}
