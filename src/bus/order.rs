//! What the control thread orders every shard to do, beside the messages that the bus thread hands out. The bus has no part in it: an order goes
//! from thread to thread by the shard's inbox ([`crate::control`] sends it, `src/shard/orders.rs` obeys).

use std::sync::Arc;

use crate::addresses::Source;
use crate::auth::Gate;
use crate::auth::cache::Cache;
use crate::config::Settings;
use crate::tls::acceptor::Acceptor;
use crate::wire::Format;
use crate::wire::client_id::ClientId;

/// How a shard answers. Whoever asks must look for it and not sleep on it: a shard with a descriptor table of its own cannot wake another thread, as the
/// number by which that is woken means something else there.
pub type Reply<T> = crossbeam_channel::Sender<T>;

/// Each is answered once, most when it has been obeyed for all connections that were there when it came. Without an answer the shard has too many of them
/// to take another, or has ended.
#[derive(Debug)]
pub enum Order {
    /// Closes those whom `who` names, and answers with how many that were.
    Disconnect { who: Who, reply: Reply<usize> },
    /// Closes those whose tokens have been revoked, and answers with how many that were.
    CloseRevoked { reply: Reply<usize> },
    /// Asks so many of a hundred connections to go and come back elsewhere, as fast as the rate says. Answered at once with about how many that are.
    Shed { percent: f64, reply: Reply<usize> },
    /// Asks all connections to go, as fast as the rate says: the process drains. Answered at once.
    Depart { reply: Reply<()> },
    /// Tells of connections from slot `from` on, of those that `who` names or of all, until the page is full.
    List { who: Option<Who>, from: usize, limit: usize, reply: Reply<Listed> },
    /// Goes by these settings from now on, asks clients by this gate who they are, and begins TLS sessions so. Answered at once; what clients may not have any more ends in the turns
    /// that follow. The answer is what the shard has no use for any more, and no time to free.
    Reload { settings: Arc<Settings>, gate: Gate, acceptor: Option<Arc<Acceptor>>, reply: Reply<Option<Cache>> },
}

/// Which connections are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    User(String),
    Client(ClientId),
    /// Those that came with the token of this id (`jti`), or have refreshed theirs with it.
    Token(String),
    /// Those that are subscribed to it.
    Channel(String),
}

/// A page of a shard's connections.
#[derive(Debug, Default)]
pub struct Listed {
    pub connections: Vec<Seen>,
    /// The slot with which the next page begins; None after the last.
    pub next: Option<usize>,
    /// What the texts take: a page has a bound in bytes, too.
    pub text_bytes: usize,
}

/// A connection as operators see it.
#[derive(Debug)]
pub struct Seen {
    pub client: ClientId,
    /// None where nobody is asked.
    pub bearer: Option<Bearer>,
    pub source: Source,
    /// Unix milliseconds, to the second.
    pub since_unix_ms: u64,
    pub subscriptions: usize,
    pub format: Format,
}

#[derive(Debug)]
pub struct Bearer {
    pub user: String,
    /// Empty: the token has none.
    pub token_id: String,
    pub expires_s: Option<u64>,
}
