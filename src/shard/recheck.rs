//! Whether a client may still have what it is subscribed to, asked again when its token is another one (`refresh`).
//!
//! A connection may have tens of thousands of subscriptions. So the walk over them has a budget in each turn
//! ([`limits::RECHECK_UNITS_PER_TURN`]) and keeps its place. It goes from the last to the first: what ends is replaced by the last, which has been looked at,
//! and what is new comes behind it, and was asked about by what holds now.

use std::collections::{HashMap, VecDeque};

use super::Shard;
use super::net::Network;
use crate::auth::rules::Action;
use crate::bus::ConnToken;
use crate::config::SharedRules;
use crate::limits;

/// What is still to be asked.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    /// Of these connections, how many of their subscriptions, from the first.
    connections: HashMap<ConnToken, usize>,
    /// In which order.
    queue: VecDeque<ConnToken>,
}

/// What ending a subscription costs, in units of looking at one.
const LEAVE_UNITS: usize = 8;

impl Recheck {
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }
}

impl<N: Network> Shard<N> {
    /// Its token is another one: subscriptions that go with the old one alone are to end.
    pub(super) fn recheck_connection(&mut self, key: usize) {
        let token = self.token(key);
        if self.recheck.connections.insert(token, self.conns[key].subscriptions.len()).is_none() {
            self.recheck.queue.push_back(token);
        }
    }

    pub(super) fn recheck(&mut self) {
        if self.recheck.is_idle() {
            return;
        }
        let mut budget = limits::RECHECK_UNITS_PER_TURN;
        while budget > 0
            && let Some(token) = self.recheck.queue.pop_front()
        {
            let left = self.recheck.connections.remove(&token).expect("what is in the queue has a place");
            let left = self.resolve(token).map_or(0, |key| self.look_at_connection(key, left, &mut budget));
            if left > 0 {
                self.recheck.connections.insert(token, left);
                self.recheck.queue.push_back(token);
            }
        }
        if self.recheck.queue.is_empty() && self.recheck.queue.capacity() > limits::QUEUE_KEPT {
            (self.recheck.queue, self.recheck.connections) = Default::default();
        }
    }

    /// How many of its subscriptions are left.
    fn look_at_connection(&mut self, key: usize, mut left: usize, budget: &mut usize) -> usize {
        let rules = self.rules.clone();
        while *budget > 0 {
            left = left.min(self.conns[key].subscriptions.len());
            if left == 0 || !self.conns[key].is_open() {
                return 0;
            }
            left -= 1;
            let topic = self.conns[key].subscriptions[left].topic;
            spend(budget, self.look_at(key, left, topic, &rules) + rules.find_units());
        }
        left
    }

    /// Ends a subscription if its client may not have it any more. What that has cost.
    fn look_at(&mut self, key: usize, at: usize, topic: u32, rules: &SharedRules) -> usize {
        if self.conns[key].subscriptions[at].is_leaving() {
            return 1;
        }
        let name = self.topics[topic].name().clone();
        let Err(why) = self.may_by(rules, key, &name, Action::Subscribe) else { return self.claims_units(key) };
        if self.is_own_channel(key, &name) {
            return 1;
        }
        self.end_forbidden(key, at, &name, why);
        LEAVE_UNITS + self.claims_units(key)
    }

    /// A token may name very many channels, and each is compared.
    fn claims_units(&self, key: usize) -> usize {
        1 + self.conns[key].identity.as_ref().map_or(0, |identity| identity.patterns())
    }
}

fn spend(budget: &mut usize, units: usize) {
    *budget = budget.saturating_sub(units);
}
