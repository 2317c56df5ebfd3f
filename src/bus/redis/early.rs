//! What is asked before there is a connection to ask it on: it waits for the attempt that is under way, as a publish does, and is asked then. Where nothing is under way,
//! or it fails, whoever asks is told so at once, by whatever he has asked of. Without this, a server that has just been started, or is asked something for the first
//! time, would say that Redis is away.

use std::collections::VecDeque;

use super::RedisBus;
use super::server::{Role, Server};
use crate::bus::hub::Hub;
use crate::bus::presence::{self, PresenceError};
use crate::bus::question::Question;
use crate::bus::recall::{self, HistoryError};
use crate::bus::upstream::Upstream;
use crate::clock::{MonotonicNs, nanos};
use crate::limits::redis::{EARLY_LOOK, EARLY_MAX, EARLY_WAIT};
use crate::sys::monotonic_ns;

/// Questions that wait, in their order, and until when each does.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: VecDeque<(Question, MonotonicNs)>,
    look_at: MonotonicNs,
}

impl Early {
    pub fn deadline(&self) -> Option<MonotonicNs> {
        (!self.waiting.is_empty()).then_some(self.look_at)
    }
}

impl RedisBus {
    pub(super) fn ask(&mut self, hub: &mut Hub, question: Question) {
        if self.early.waiting.len() < EARLY_MAX && self.is_coming(&question) {
            self.wait_with(question, monotonic_ns() + nanos(EARLY_WAIT));
        } else {
            self.put(hub, question);
        }
    }

    fn wait_with(&mut self, question: Question, until: MonotonicNs) {
        self.early.look_at = monotonic_ns() + nanos(EARLY_LOOK);
        self.early.waiting.push_back((question, until));
    }

    /// Asks what waited for a connection that is there now, or will not be.
    pub(super) fn ask_early(&mut self, hub: &mut Hub, now: MonotonicNs) {
        for (question, until) in std::mem::take(&mut self.early.waiting) {
            if now < until && self.is_coming(&question) {
                self.wait_with(question, until);
            } else {
                self.put(hub, question);
            }
        }
    }

    /// Nothing waits any longer.
    pub(super) fn end_early(&mut self, hub: &mut Hub) {
        for (question, _) in std::mem::take(&mut self.early.waiting) {
            self.put(hub, question);
        }
    }

    fn put(&mut self, hub: &mut Hub, question: Question) {
        match question {
            Question::Publish(publish) => self.publish(hub, publish, monotonic_ns()),
            Question::History(asked) => match self.of(&asked.recall.channel) {
                Some(server) => server.recall(hub, asked),
                None => recall::answer(hub, asked.asker, &asked.recall.channel, Err(HistoryError::Unavailable)),
            },
            Question::Marks(question) => {
                let can_keep = |server: usize| self.servers[server].as_ref().is_some_and(Server::can_keep);
                self.keeping.take(hub, question, can_keep, monotonic_ns());
            }
            Question::Presence(asked) => match self.of_users(asked.subject.name()) {
                Some(server) => server.presence(hub, asked),
                None => presence::answer(hub, asked.asker, asked.subject, Err(PresenceError::Unavailable)),
            },
            Question::Census(asked) => self.count_channels(hub, asked),
        }
    }

    /// Whether this server may be there in a moment: what is published waits for it.
    pub(super) fn may_come(&mut self, number: Option<usize>) -> bool {
        let is_cluster = self.cluster.is_some();
        self.comes(number, |server| if is_cluster { server.is_arriving() } else { server.is_at_first_try() })
    }

    fn is_coming(&mut self, question: &Question) -> bool {
        match question {
            Question::Publish(publish) => self.may_come(self.placement.server_of(&publish.channel)),
            Question::History(asked) => {
                let number = self.placement.server_of(&asked.recall.channel);
                self.comes(number, |server| server.is_coming(Role::Reading))
            }
            // Its commands wait for their own connection.
            Question::Marks(question) => {
                let names = question.wanted.channels().chain([&*question.user]);
                let numbers: Vec<Option<usize>> = names.map(|name| self.placement.server_of(name)).collect();
                numbers.into_iter().any(|number| self.comes(number, |server| server.is_at_first_try()))
            }
            Question::Presence(asked) => {
                let number = self.users_at(asked.subject.name());
                self.comes(number, |server| server.is_coming(Role::Presence))
            }
            Question::Census(_) => self.counting().into_iter().any(|number| self.comes(number, |server| server.is_coming(Role::Presence))),
        }
    }

    fn comes(&mut self, number: Option<usize>, is_coming: impl Fn(&mut Server) -> bool) -> bool {
        match (number.and_then(|number| self.servers[number].as_mut()), number, &self.cluster) {
            (Some(server), ..) => is_coming(server),
            // Who knows where it is has not been asked in vain yet.
            (None, _, Some(cluster)) => cluster.is_being_found(),
            (None, Some(number), None) => self.watches[number].as_ref().is_some_and(|watch| watch.is_at_first_round()),
            (None, None, None) => false,
        }
    }
}
