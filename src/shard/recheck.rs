//! Whether clients may still have what they are subscribed to, asked again: of one connection when its token is another one (`refresh`), of all when the
//! rules are others (a reload).
//!
//! A connection may have tens of thousands of subscriptions, and a shard millions. So a walk has a budget in each turn
//! ([`limits::RECHECK_UNITS_PER_TURN`]) and keeps its place. It goes from the last to the first: what ends is replaced by the last, which has been looked at,
//! and what is new comes behind it, and was asked about by what holds now.

use std::collections::{HashMap, VecDeque};

use super::Shard;
use super::net::Network;
use crate::auth::rules::{Access, Action};
use crate::bus::ConnToken;
use crate::config::SharedRules;
use crate::config::rules::Found;
use crate::fanout::paced::{PaceRate, Paced};
use crate::fanout::topics::{Member, TopicToken};
use crate::limits;

/// What is still to be asked.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    /// Of these connections, how many of their subscriptions, from the first.
    connections: HashMap<ConnToken, usize>,
    /// In which order.
    queue: VecDeque<ConnToken>,
    /// Of all.
    all: Option<Walk>,
}

/// Goes through the topics, and through the members of each.
#[derive(Debug)]
struct Walk {
    slot: usize,
    /// The topic under way, and where in it.
    topic: Option<(TopicToken, Place)>,
    /// Members are asked about even where the rule of their topic says what it said before.
    is_thorough: bool,
}

/// How many of a topic's members are left, from the first: first of those that are paced, rate by rate down, then of the others.
#[derive(Debug, Clone, Copy)]
enum Place {
    Paced { rate: PaceRate, left: usize },
    Members { left: usize },
}

/// What ending a subscription costs, in units of looking at one.
const LEAVE_UNITS: usize = 8;

impl Recheck {
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.all.is_none()
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

    /// The rules are others. `is_thorough`: more has changed than they say.
    pub(super) fn recheck_all(&mut self, is_thorough: bool) {
        // Those that came in the middle of an earlier walk went by rules that their topics do not tell any more.
        let is_thorough = is_thorough || self.recheck.all.is_some();
        self.recheck.all = Some(Walk { slot: 0, topic: None, is_thorough });
    }

    pub(super) fn recheck(&mut self) {
        if self.recheck.is_idle() {
            return;
        }
        let mut budget = limits::RECHECK_UNITS_PER_TURN;
        if let Some(walk) = self.recheck.all.take() {
            // Half of it is left for connections, if there are any.
            let kept = if self.recheck.queue.is_empty() { 0 } else { budget / 2 };
            let mut share = budget - kept;
            self.recheck.all = self.walk_on(walk, &mut share);
            budget = kept + share;
        }
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
            let name = self.topics[topic].name().clone();
            spend(budget, self.look_at(key, left, &name, rules.find(&name)) + rules.find_units());
        }
        left
    }

    /// None: it has come to its end.
    fn walk_on(&mut self, mut walk: Walk, budget: &mut usize) -> Option<Walk> {
        let rules = self.rules.clone();
        while *budget > 0 {
            if walk.slot >= self.topics.numbers_end() {
                return None;
            }
            let index = walk.slot as u32;
            let place = if self.topics.contains(index) { self.walk_topic(index, &walk, &rules, budget) } else { None };
            spend(budget, 1);
            match place {
                None => (walk.slot, walk.topic) = (walk.slot + 1, None),
                Some(place) => walk.topic = Some((self.topics.token(index), place)),
            }
        }
        Some(walk)
    }

    /// Gives a topic its new rule, if it has come to it just now, and asks about its members. None: about all of them.
    fn walk_topic(&mut self, index: u32, walk: &Walk, rules: &SharedRules, budget: &mut usize) -> Option<Place> {
        spend(budget, rules.find_units());
        let name = self.topics[index].name().clone();
        let found = rules.find(&name);
        let mut place = match walk.topic {
            Some((under_way, place)) if under_way == self.topics.token(index) => place,
            Some(_) | None => {
                let topic = &mut self.topics[index];
                // Whose the channel is depends on the pattern as well.
                let is_as_before = topic.rule.subscribe == found.1.subscribe && found.1.subscribe != Access::Owner;
                let is_listed_as_before = topic.rule.presence_members == found.1.presence_members;
                topic.set_rule(found.1.clone());
                if !is_listed_as_before {
                    self.note_members(index);
                }
                if is_as_before && !walk.is_thorough {
                    return None;
                }
                self.place_below(index, None)
            }
        };
        while *budget > 0 {
            let member = self.next_member(index, &mut place, budget)?;
            let (key, at) = (member.conn as usize, member.subscription as usize);
            let units = if self.conns[key].is_open() { self.look_at(key, at, &name, found) } else { 1 };
            spend(budget, units);
        }
        Some(place)
    }

    fn next_member(&self, index: u32, place: &mut Place, budget: &mut usize) -> Option<Member> {
        loop {
            match place {
                Place::Paced { rate, left } => {
                    let members = self.topics.paced(index).map_or(&[][..], |paced| paced.members_at(*rate));
                    *left = (*left).min(members.len());
                    if *left > 0 {
                        *left -= 1;
                        return Some(members[*left]);
                    }
                    // Rates are as many as clients have thought of.
                    spend(budget, self.topics.paced(index).map_or(0, Paced::rate_count));
                    *place = self.place_below(index, Some(*rate));
                }
                Place::Members { left } => {
                    let members = self.topics[index].members();
                    *left = (*left).min(members.len());
                    *left = left.checked_sub(1)?;
                    return Some(members[*left]);
                }
            }
        }
    }

    /// Where it goes on when all of this rate have been asked about; None: where it begins.
    fn place_below(&self, index: u32, rate: Option<PaceRate>) -> Place {
        let paced = self.topics.paced(index);
        match paced.and_then(|paced| paced.rate_below(rate)) {
            Some(rate) => Place::Paced { rate, left: usize::MAX },
            None => Place::Members { left: self.topics[index].members().len() },
        }
    }

    /// Ends a subscription if its client may not have it any more. What that has cost.
    fn look_at(&mut self, key: usize, at: usize, name: &str, found: Found<'_>) -> usize {
        if self.conns[key].subscriptions[at].is_leaving() {
            return 1;
        }
        let Err(why) = self.may_by(found, key, name, Action::Subscribe) else { return self.claims_units(key) };
        if self.is_own_channel(key, name) {
            return 1;
        }
        self.end_forbidden(key, at, name, why);
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
