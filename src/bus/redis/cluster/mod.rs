//! What a bus through a Cluster knows beside its servers: who the masters are ([`map`], asked for by [`super::discovery`]), and which publishes have to be sent again ([`again`]).
//! Owned by [`super::RedisBus`], which makes a [`super::server::Server`] of each master.
//!
//! The map is asked for every half minute, and soon whenever something says that it is old: MOVED, a subscription that has ended unasked, a master that is lost.

pub mod again;
pub mod map;

use redis::ServerError;

use map::Node;

/// Why a node of a Cluster has not done what it was asked to, and what to do about it. Nothing was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// The slot is another's, for good. None: it does not say where that is.
    Moved(Option<Node>),
    /// The slot is about to move, and these keys have.
    Ask(Option<Node>),
    /// It may be done in a while: a slot moves, a master is being replaced.
    Later,
}

impl Redirect {
    /// None: it is about something else.
    pub fn of(error: &ServerError) -> Option<Redirect> {
        let node = || error.details().and_then(|details| details.split(' ').nth(1)).and_then(Node::read);
        match error.code() {
            "MOVED" => Some(Redirect::Moved(node())),
            "ASK" => Some(Redirect::Ask(node())),
            "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "LOADING" | "READONLY" => Some(Redirect::Later),
            _ => None,
        }
    }

    /// Whether it shows that the map is old.
    pub fn is_news(&self) -> bool {
        matches!(self, Redirect::Moved(_))
    }
}
