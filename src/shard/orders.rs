//! What the control thread has ordered: a walk over the shard's connections that keeps its place, so that a million of them are no long turn
//! ([`limits::ORDER_UNITS_PER_TURN`]). One walk after the other, in the order in which they came.
//!
//! An order is for those who are here when its walk comes by. What is to hold for those who come later must be known to the shard before.

use std::collections::VecDeque;

use super::Shard;
use super::net::Network;
use super::wheel::TICKS_PER_SECOND;
use crate::bus::order::{Bearer, Listed, Order, Reply, Seen, Who};
use crate::limits;
use crate::wire::close::CloseReason;

#[derive(Debug, Default)]
pub(super) struct Orders {
    walks: VecDeque<Walk>,
}

/// What takes a walk.
#[derive(Debug)]
enum Task {
    Disconnect { who: Who, reply: Reply<usize> },
    CloseRevoked { reply: Reply<usize> },
    List { who: Option<Who>, limit: usize, reply: Reply<Listed> },
}

#[derive(Debug)]
struct Walk {
    task: Task,
    /// The slot that is next.
    at: usize,
    /// Connections it was about.
    count: usize,
    listed: Listed,
}

impl Walk {
    fn new(task: Task, at: usize) -> Walk {
        Walk { task, at, count: 0, listed: Listed::default() }
    }

    /// It needs to go no further.
    fn is_full(&self) -> bool {
        match &self.task {
            Task::List { limit, .. } => self.count >= *limit || self.listed.text_bytes >= limits::PAGE_TEXT_BYTES_MAX,
            Task::Disconnect { .. } | Task::CloseRevoked { .. } => false,
        }
    }
}

impl Orders {
    pub(super) fn is_empty(&self) -> bool {
        self.walks.is_empty()
    }
}

impl<N: Network> Shard<N> {
    pub(super) fn take_order(&mut self, order: Order) {
        match order {
            Order::Shed { percent, reply } => {
                let _ = reply.try_send(self.shed(percent));
            }
            Order::Reload { settings, gate, acceptor, reply } => {
                self.net.set_acceptor(acceptor);
                let _ = reply.try_send(self.reload(&settings, gate));
            }
            Order::Depart { reply } => {
                self.follow_life();
                self.depart_all();
                let _ = reply.try_send(());
            }
            Order::Disconnect { who, reply } => self.begin_walk(Task::Disconnect { who, reply }, 0),
            Order::CloseRevoked { reply } => self.begin_walk(Task::CloseRevoked { reply }, 0),
            Order::List { who, from, limit, reply } => self.begin_walk(Task::List { who, limit, reply }, from),
        }
    }

    /// One that is too many is dropped, which whoever waits for its answer sees.
    fn begin_walk(&mut self, task: Task, at: usize) {
        if self.orders.walks.len() < limits::ORDERS_WAITING_MAX {
            self.orders.walks.push_back(Walk::new(task, at));
        }
    }

    /// Goes on with the orders under way.
    pub(super) fn obey_orders(&mut self) {
        let mut units = limits::ORDER_UNITS_PER_TURN;
        while units > 0 {
            let Some(mut walk) = self.orders.walks.pop_front() else { break };
            // Slots are given out from the lowest on: beyond these is nobody who was here before.
            let end = self.conns.capacity();
            while units > 0 && walk.at < end && !walk.is_full() {
                units = units.saturating_sub(self.step(&mut walk));
                walk.at += 1;
            }
            if walk.at < end && !walk.is_full() {
                self.orders.walks.push_front(walk);
            } else {
                walk.listed.next = Some(walk.at).filter(|&at| at < end);
                answer(walk);
            }
        }
    }

    /// One slot; returns the units it cost.
    fn step(&mut self, walk: &mut Walk) -> usize {
        let key = walk.at;
        if self.conns.get(key).is_none_or(|conn| !conn.is_open()) {
            return 1;
        }
        match &walk.task {
            Task::Disconnect { who, .. } => {
                let (is_meant, units) = self.is_meant(key, who);
                if !is_meant {
                    return units;
                }
                walk.count += 1;
                units + self.close_by_order(key, CloseReason::Disconnected)
            }
            Task::CloseRevoked { .. } => {
                let is_revoked = self.conns[key].identity.as_deref().is_some_and(|identity| self.door.has_revoked(identity));
                if !is_revoked {
                    return 1;
                }
                walk.count += 1;
                1 + self.close_by_order(key, CloseReason::TokenRevoked)
            }
            Task::List { who, .. } => {
                let (is_meant, units) = who.as_ref().map_or((true, 1), |who| self.is_meant(key, who));
                if is_meant {
                    let seen = self.seen(key);
                    let text_bytes = seen.bearer.as_ref().map_or(0, |bearer| bearer.user.len() + bearer.token_id.len());
                    walk.listed.text_bytes += text_bytes;
                    walk.listed.connections.push(seen);
                    walk.count += 1;
                }
                units + usize::from(is_meant) * (limits::ORDER_UNITS_PER_CLOSE + self.conns[key].subscriptions.len() / 16)
            }
        }
    }

    /// Returns the units that it cost.
    fn close_by_order(&mut self, key: usize, reason: CloseReason) -> usize {
        let leaves = self.conns[key].subscriptions.len();
        self.begin_close(key, reason);
        limits::ORDER_UNITS_PER_CLOSE + leaves
    }

    fn seen(&self, key: usize) -> Seen {
        let conn = &self.conns[key];
        let bearer = conn.identity.as_ref().map(|identity| Bearer {
            user: identity.user().to_owned(),
            token_id: identity.token_id().to_owned(),
            expires_s: identity.expires_s(),
        });
        let age_s = (self.tick / TICKS_PER_SECOND).saturating_sub(self.sources.since_s(key));
        Seen {
            client: self.client_id(key),
            bearer,
            source: self.sources.source(key),
            since_unix_ms: self.unix_ms.saturating_sub(u64::from(age_s) * 1000),
            subscriptions: conn.subscriptions.iter().filter(|subscription| !subscription.is_leaving()).count(),
            format: conn.formats.next(),
        }
    }

    /// Whether an open connection is one of them, and the units that it cost to find out.
    fn is_meant(&self, key: usize, who: &Who) -> (bool, usize) {
        let conn = &self.conns[key];
        let identity = conn.identity.as_deref();
        match who {
            Who::User(user) => (identity.is_some_and(|identity| identity.user() == user), 1),
            Who::Token(token_id) => (identity.is_some_and(|identity| identity.token_id() == token_id), 1),
            Who::Client(id) => (self.client_id(key) == *id, 1),
            Who::Channel(channel) => {
                let topic = self.topics.find(channel);
                let has = |topic| conn.subscriptions.iter().any(|subscription| subscription.topic == topic && !subscription.is_leaving());
                (topic.is_some_and(has), 1 + conn.subscriptions.len() / 16)
            }
        }
    }
}

/// Nobody need be there any more to hear it.
fn answer(walk: Walk) {
    match walk.task {
        Task::Disconnect { reply, .. } | Task::CloseRevoked { reply } => {
            let _ = reply.try_send(walk.count);
        }
        Task::List { reply, .. } => {
            let _ = reply.try_send(walk.listed);
        }
    }
}
