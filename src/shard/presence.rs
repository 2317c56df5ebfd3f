//! Who is there: the command `presence`, and what this shard tells the bus of how many connections users have, and who is subscribed to channels whose members are
//! listed.
//!
//! Changes are told a few times a second, of each user the sum: a crowd that comes and goes, or comes back, is one number each.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Shard;
use super::net::Network;
use crate::bus::BusCommand;
use crate::bus::presence::{Members, MembersWanted, PresenceAsked, PresenceError, Present, Roster, Subject};
use crate::bus::question::{Asker, Question};
use crate::clock::MonotonicNs;
use crate::config::UserPresence;
use crate::fanout::naming::ChannelName;
use crate::limits::QUEUE_KEPT;
use crate::limits::bus::presence::{MEMBER_LOOKS, USERS_PER_COMMAND};
use crate::wire::command::{self, Asked, ErrorCode, Id, MemberRange};
use crate::wire::event::{self, Event};

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

/// Channels whose members have changed since the bus was told who they are.
#[derive(Debug, Default)]
pub(super) struct Rosters {
    changed: HashSet<ChannelName>,
    due: Option<MonotonicNs>,
}

impl Rosters {
    /// When the bus is to be told.
    pub(super) fn due(&self) -> Option<MonotonicNs> {
        self.due
    }
}

impl<N: Network> Shard<N> {
    /// Whoever may know asks how many subscribers a channel has.
    pub(super) fn ask_presence(&mut self, key: usize, channel: &str, members: Option<MemberRange<'_>>, id: Option<Id>) {
        if !self.may_ask_presence(key, channel, members.is_some(), id.as_ref()) {
            return;
        }
        let reply_to = self.reply_to(key, id);
        let id = reply_to.id.clone();
        let wanted = |MemberRange { after, limit }: MemberRange<'_>| MembersWanted { after: after.as_deref().map(Box::from), limit };
        let asker = Asker::Client(reply_to);
        let asked = PresenceAsked { subject: Subject::Channel(channel.into()), members: members.map(wanted), asker };
        if self.bus.push(BusCommand::Ask(Question::Presence(asked))).is_err() {
            let asked = Asked::of(command::PRESENCE, channel, id.as_ref());
            return self.reply_error(key, asked, ErrorCode::Busy, "the bus has too much to do; try again");
        }
        self.bus.wake();
    }

    pub(super) fn on_presence(&mut self, key: usize, id: Option<&Id>, channel: &str, result: Result<Present, PresenceError>) {
        match result {
            Ok(Present { count: subscribers, members }) => {
                self.metrics.presence_answered.inc();
                let members = members.as_ref().map(|Members { users, has_more, is_partial }| event::Members {
                    users,
                    has_more: *has_more,
                    is_partial: *is_partial,
                });
                self.reply(key, &Event::Presence { id, channel, subscribers, members });
                self.after_reply(key);
            }
            Err(error) => {
                let code = match error {
                    // By rules that the bus had before this shard.
                    PresenceError::ChannelNotCounted
                    | PresenceError::ChannelsNotCounted
                    | PresenceError::MembersNotListed
                    | PresenceError::UsersNotCounted => ErrorCode::NotAllowed,
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

    /// Somebody has subscribed to a topic, or is not subscribed any more, or its rule is another one.
    pub(super) fn note_members(&mut self, topic: u32) {
        let topic = &self.topics[topic];
        self.rosters.changed.insert(topic.name().clone());
        self.rosters.due.get_or_insert(self.now_ns + TELL_AFTER_NS);
    }

    /// The same where its members are listed.
    pub(super) fn note_member(&mut self, topic: u32) {
        if self.topics[topic].rule.presence_members > 0 {
            self.note_members(topic);
        }
    }

    /// Tells the bus who they are, as far as it has room and the turn has time.
    pub(super) fn tell_members(&mut self) {
        if self.rosters.due.is_none_or(|due| self.now_ns < due) {
            return;
        }
        self.rosters.due = None;
        let mut looks = MEMBER_LOOKS;
        while looks > 0
            && let Some(channel) = self.rosters.changed.iter().next().cloned()
        {
            let (roster, cost) = self.roster(&channel);
            looks = looks.saturating_sub(cost);
            if self.bus.push(BusCommand::ListMembers { shard: self.index, channel: channel.clone(), roster }).is_err() {
                break;
            }
            self.rosters.changed.remove(&channel);
        }
        self.bus.wake();
        if !self.rosters.changed.is_empty() {
            self.rosters.due = Some(self.now_ns + 1_000_000);
        } else if self.rosters.changed.capacity() > QUEUE_KEPT {
            self.rosters.changed = HashSet::new();
        }
    }

    /// The users who are subscribed to a channel here, and what it cost to find out.
    fn roster(&self, channel: &str) -> (Roster, usize) {
        let Some(topic) = self.topics.find(channel) else { return (Roster::default(), 1) };
        let listed_max = self.topics[topic].rule.presence_members;
        let (mut users, mut is_partial, mut looks) = (BTreeSet::new(), false, 1);
        for member in self.topics.all_members(topic) {
            if listed_max == 0 {
                break;
            }
            looks += 1;
            if looks > MEMBER_LOOKS {
                is_partial = true;
                break;
            }
            let conn = &self.conns[member.conn as usize];
            let subscription = &conn.subscriptions[member.subscription as usize];
            if subscription.waiter().is_some() || subscription.is_leaving() {
                continue;
            }
            if let Some(identity) = &conn.identity {
                users.insert(identity.user());
                if users.len() > listed_max {
                    users.pop_last();
                    is_partial = true;
                }
            }
        }
        (Roster { users: users.into_iter().map(Box::from).collect(), is_partial }, looks)
    }
}
