//! Who is there: the command `presence`, and what this shard tells the bus of how many connections users have.
//!
//! Changes are told a few times a second, of each user the sum: a crowd that comes and goes, or comes back, is one number each.

use std::collections::HashMap;

use super::Shard;
use super::net::Network;
use crate::bus::BusCommand;
use crate::bus::presence::{PresenceAsked, PresenceError, Subject};
use crate::bus::question::{Asker, Question};
use crate::clock::MonotonicNs;
use crate::config::UserPresence;
use crate::limits::QUEUE_KEPT;
use crate::limits::bus::presence::USERS_PER_COMMAND;
use crate::wire::command::{self, Asked, ErrorCode, Id};
use crate::wire::event::Event;

/// How soon the bus is told.
const TELL_AFTER_NS: u64 = 250_000_000;

#[derive(Debug, Default)]
pub(super) struct Users {
    changes: HashMap<Box<str>, i32>,
    due: Option<MonotonicNs>,
}

impl Users {
    /// When the bus is to be told of changes.
    pub(super) fn due(&self) -> Option<MonotonicNs> {
        self.due
    }

    fn note(&mut self, user: &str, change: i32, now: MonotonicNs) {
        match self.changes.get_mut(user) {
            Some(sum) => *sum += change,
            None => drop(self.changes.insert(user.into(), change)),
        }
        self.due.get_or_insert(now + TELL_AFTER_NS);
    }

    /// The next ones of them; those that have come to nothing go.
    fn take(&mut self, limit: usize) -> Vec<(Box<str>, i32)> {
        self.changes.extract_if(|_, _| true).filter(|(_, change)| *change != 0).take(limit).collect()
    }

    fn put_back(&mut self, changes: Vec<(Box<str>, i32)>) {
        self.changes.extend(changes);
    }
}

impl<N: Network> Shard<N> {
    /// Whoever may know asks how many subscribers a channel has.
    pub(super) fn ask_presence(&mut self, key: usize, channel: &str, id: Option<Id>) {
        if !self.may_ask_presence(key, channel, id.as_ref()) {
            return;
        }
        let reply_to = self.reply_to(key, id);
        let id = reply_to.id.clone();
        let asked = PresenceAsked { subject: Subject::Channel(channel.into()), asker: Asker::Client(reply_to) };
        if self.bus.push(BusCommand::Ask(Question::Presence(asked))).is_err() {
            let asked = Asked::of(command::PRESENCE, channel, id.as_ref());
            return self.reply_error(key, asked, ErrorCode::Busy, "the bus has too much to do; try again");
        }
        self.bus.wake();
    }

    pub(super) fn on_presence(&mut self, key: usize, id: Option<&Id>, channel: &str, result: Result<u64, PresenceError>) {
        match result {
            Ok(subscribers) => {
                self.metrics.presence_answered.inc();
                self.reply(key, &Event::Presence { id, channel, subscribers });
                self.after_reply(key);
            }
            Err(error) => {
                let code = match error {
                    // By rules that the bus had before this shard.
                    PresenceError::ChannelNotCounted | PresenceError::ChannelsNotCounted | PresenceError::UsersNotCounted => {
                        ErrorCode::NotAllowed
                    }
                    PresenceError::Busy => ErrorCode::Busy,
                    PresenceError::Unavailable | PresenceError::Refused(_) => ErrorCode::BusUnavailable,
                };
                self.reply_error(key, Asked::of(command::PRESENCE, channel, id), code, &error.to_string());
            }
        }
    }

    /// A connection has come, or gone.
    pub(super) fn count_user(&mut self, key: usize, change: i32) {
        if self.settings.clients.user_presence == UserPresence::None {
            return;
        }
        if let Some(identity) = &self.conns[key].identity {
            self.users.note(identity.user(), change, self.now_ns);
        }
    }

    /// Tells the bus what has changed, as far as it has room.
    pub(super) fn tell_users(&mut self) {
        if self.users.due.is_none_or(|due| self.now_ns < due) {
            return;
        }
        self.users.due = None;
        let changes = self.users.take(USERS_PER_COMMAND);
        if !changes.is_empty() {
            match self.bus.push(BusCommand::CountUsers(changes)) {
                Ok(()) => {
                    self.bus.wake();
                }
                Err(BusCommand::CountUsers(changes)) => self.users.put_back(changes),
                Err(_) => unreachable!("what was pushed comes back"),
            }
        }
        if !self.users.changes.is_empty() {
            // In the next turn, which is soon, or when the bus has taken something.
            self.users.due = Some(self.now_ns + 1_000_000);
        } else if self.users.changes.capacity() > QUEUE_KEPT {
            self.users.changes = HashMap::new();
        }
    }
}
