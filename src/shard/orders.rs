//! What the control thread has ordered: a walk over the shard's connections that keeps its place, so that a million of them are no long turn
//! ([`limits::ORDER_UNITS_PER_TURN`]). One walk after the other, in the order in which they came.
//!
//! An order is for those who are here when its walk comes by. What is to hold for those who come later must be known to the shard before.

use std::collections::VecDeque;

use super::Shard;
use super::net::Network;
use crate::bus::order::{Order, Who};
use crate::limits;
use crate::wire::close::CloseReason;

#[derive(Debug, Default)]
pub(super) struct Orders {
    walks: VecDeque<Walk>,
}

#[derive(Debug)]
struct Walk {
    order: Order,
    /// The slot that is next.
    at: usize,
    /// Connections it was about.
    count: usize,
}

impl Orders {
    pub(super) fn is_empty(&self) -> bool {
        self.walks.is_empty()
    }
}

impl<N: Network> Shard<N> {
    /// One that is too many is dropped, which whoever waits for its answer sees.
    pub(super) fn take_order(&mut self, order: Order) {
        if self.orders.walks.len() < limits::ORDERS_WAITING_MAX {
            self.orders.walks.push_back(Walk { order, at: 0, count: 0 });
        }
    }

    /// Goes on with the orders under way.
    pub(super) fn obey_orders(&mut self) {
        let mut units = limits::ORDER_UNITS_PER_TURN;
        while units > 0 {
            let Some(mut walk) = self.orders.walks.pop_front() else { break };
            // Slots are given out from the lowest on: beyond these is nobody who was here before.
            let end = self.conns.capacity();
            while units > 0 && walk.at < end {
                units = units.saturating_sub(self.step(&mut walk));
                walk.at += 1;
            }
            if walk.at < end {
                self.orders.walks.push_front(walk);
            } else {
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
        match &walk.order {
            Order::Disconnect { who, .. } => {
                let (is_meant, units) = self.is_meant(key, who);
                if !is_meant {
                    return units;
                }
                walk.count += 1;
                let leaves = self.conns[key].subscriptions.len();
                self.begin_close(key, CloseReason::Disconnected);
                units + limits::ORDER_UNITS_PER_CLOSE + leaves
            }
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
    match walk.order {
        Order::Disconnect { reply, .. } => {
            let _ = reply.try_send(walk.count);
        }
    }
}
