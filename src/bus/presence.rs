//! How many subscribers a channel has, and how many connections a user, over all nodes: what is asked and answered, and who waits for the same.
//!
//! What this node counts is the hub's ([`super::hub`]); of the other nodes Redis knows it ([`super::redis::presence`]). Without Redis there are none. Invariants: of
//! those who ask for the same while it is being read all get the one answer; who waits is bounded.

use std::collections::{HashMap, VecDeque};

use super::hub::Hub;
use super::question::{Answer, Asker};
use crate::limits::bus::presence::ASKED_MAX;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Its subscribers.
    Channel(Box<str>),
    /// Its connections.
    User(Box<str>),
}

impl Subject {
    pub fn name(&self) -> &str {
        match self {
            Subject::Channel(name) | Subject::User(name) => name,
        }
    }
}

/// How many of something there are.
#[derive(Debug)]
pub struct PresenceAsked {
    pub subject: Subject,
    pub asker: Asker,
}

/// Which channels have subscribers anywhere, a page at a time, in the order of their names.
#[derive(Debug)]
pub struct CensusAsked {
    /// Those behind this name.
    pub after: Option<Box<str>>,
    pub limit: usize,
    pub asker: Asker,
}

/// A page of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CensusPage {
    pub channels: Vec<(Box<str>, u64)>,
    /// There may be more behind this name.
    pub next: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PresenceError {
    #[error("no rule has the subscribers of this channel counted (presence)")]
    ChannelNotCounted,
    #[error("no rule has the subscribers of any channel counted (presence)")]
    ChannelsNotCounted,
    #[error("the connections of users are not counted here (user_presence)")]
    UsersNotCounted,
    #[error("too many ask who is there; try again")]
    Busy,
    #[error("Redis cannot be reached, so what other nodes have is not known; try again")]
    Unavailable,
    #[error("what other nodes have cannot be read: {0}")]
    Refused(String),
}

/// Who waits for what.
#[derive(Debug, Default)]
pub struct Waiting {
    askers: HashMap<Subject, Vec<Asker>>,
    count: usize,
    /// Those that are to be read.
    due: VecDeque<Subject>,
}

impl Waiting {
    pub fn want(&mut self, hub: &mut Hub, asked: PresenceAsked) {
        let PresenceAsked { subject, asker } = asked;
        if self.count >= ASKED_MAX {
            return answer(hub, asker, subject, Err(PresenceError::Busy));
        }
        self.count += 1;
        match self.askers.get_mut(&subject) {
            Some(askers) => askers.push(asker),
            None => {
                self.askers.insert(subject.clone(), vec![asker]);
                self.due.push_back(subject);
            }
        }
    }

    /// The next ones that are to be read.
    pub fn take_due(&mut self, limit: usize) -> Vec<Subject> {
        let count = self.due.len().min(limit);
        self.due.drain(..count).collect()
    }

    pub fn done(&mut self, hub: &mut Hub, subject: &Subject, result: &Result<u64, PresenceError>) {
        for asker in self.askers.remove(subject).unwrap_or_default() {
            self.count -= 1;
            answer(hub, asker, subject.clone(), result.clone());
        }
    }

    /// Nothing can be read: everybody is told.
    pub fn give_up(&mut self, hub: &mut Hub) {
        self.due.clear();
        for (subject, askers) in std::mem::take(&mut self.askers) {
            for asker in askers {
                answer(hub, asker, subject.clone(), Err(PresenceError::Unavailable));
            }
        }
        self.count = 0;
    }
}

pub fn answer(hub: &mut Hub, asker: Asker, subject: Subject, result: Result<u64, PresenceError>) {
    hub.answer(asker, Answer::Presence { subject, result });
}
