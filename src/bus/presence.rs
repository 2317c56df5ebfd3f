//! How many subscribers a channel has, and who they are, and how many connections a user has, over all nodes: what is asked and answered, and who waits for the same.
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

/// How many of something there are; of a channel also who, if that is wanted.
#[derive(Debug)]
pub struct PresenceAsked {
    pub subject: Subject,
    pub members: Option<MembersWanted>,
    pub asker: Asker,
}

/// A part of those who are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersWanted {
    /// Those behind this name.
    pub after: Option<Box<str>>,
    pub limit: usize,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    pub count: u64,
    /// If they were asked for.
    pub members: Option<Members>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// By name.
    pub users: Vec<Box<str>>,
    /// There are more behind them.
    pub has_more: bool,
    /// There are others, whom nobody lists.
    pub is_partial: bool,
}

/// What was found for all who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub count: u64,
    pub roster: Option<Roster>,
}

/// The users who are subscribed to a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// By name, each once.
    pub users: Vec<Box<str>>,
    /// There are others: no more are listed than the rule says.
    pub is_partial: bool,
}

impl Roster {
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && !self.is_partial
    }

    /// All of these together, of whom so many are listed.
    pub fn merged(rosters: impl IntoIterator<Item = Roster>, listed_max: usize) -> Roster {
        let mut merged = Roster::default();
        for roster in rosters {
            merged.users.extend(roster.users);
            merged.is_partial |= roster.is_partial;
        }
        merged.users.sort_unstable();
        merged.users.dedup();
        merged.is_partial |= merged.users.len() > listed_max;
        merged.users.truncate(listed_max);
        merged
    }

    pub fn page(&self, wanted: &MembersWanted) -> Members {
        let begin = wanted.after.as_ref().map_or(0, |after| self.users.partition_point(|user| user <= after));
        let users: Vec<Box<str>> = self.users[begin..].iter().take(wanted.limit).cloned().collect();
        Members { has_more: begin + users.len() < self.users.len(), users, is_partial: self.is_partial }
    }
}

impl Found {
    pub fn for_whom(&self, wanted: Option<&MembersWanted>) -> Present {
        let members = wanted.map(|wanted| self.roster.as_ref().map_or_else(Members::default, |roster| roster.page(wanted)));
        Present { count: self.count, members }
    }
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
    #[error("no rule has the members of this channel listed (presence_members)")]
    MembersNotListed,
    #[error("the connections of users are not counted here (user_presence)")]
    UsersNotCounted,
    #[error("too many ask who is there; try again")]
    Busy,
    #[error("Redis cannot be reached, so what other nodes have is not known; try again")]
    Unavailable,
    #[error("what other nodes have cannot be read: {0}")]
    Refused(String),
}

/// What is to be read: for all who ask for the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub subject: Subject,
    pub has_members: bool,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub struct Waiting {
    askers: HashMap<Wanted, Vec<(Asker, Option<MembersWanted>)>>,
    count: usize,
    /// Those that are to be read: numbers alone, and with the members.
    due: VecDeque<Wanted>,
    due_with_members: VecDeque<Wanted>,
}

impl Waiting {
    pub fn want(&mut self, hub: &mut Hub, asked: PresenceAsked) {
        let PresenceAsked { subject, members, asker } = asked;
        if self.count >= ASKED_MAX {
            return answer(hub, asker, subject, Err(PresenceError::Busy));
        }
        self.count += 1;
        let wanted = Wanted { subject, has_members: members.is_some() };
        if let Some(askers) = self.askers.get_mut(&wanted) {
            return askers.push((asker, members));
        }
        let due = if wanted.has_members { &mut self.due_with_members } else { &mut self.due };
        due.push_back(wanted.clone());
        self.askers.insert(wanted, vec![(asker, members)]);
    }

    /// The next ones of which the numbers alone are to be read.
    pub fn take_due(&mut self, limit: usize) -> Vec<Wanted> {
        let count = self.due.len().min(limit);
        self.due.drain(..count).collect()
    }

    /// And of which the members are.
    pub fn take_due_with_members(&mut self, limit: usize) -> Vec<Wanted> {
        let count = self.due_with_members.len().min(limit);
        self.due_with_members.drain(..count).collect()
    }

    pub fn done(&mut self, hub: &mut Hub, wanted: &Wanted, result: &Result<Found, PresenceError>) {
        for (asker, members) in self.askers.remove(wanted).unwrap_or_default() {
            self.count -= 1;
            let result = result.as_ref().map(|found| found.for_whom(members.as_ref())).map_err(Clone::clone);
            answer(hub, asker, wanted.subject.clone(), result);
        }
    }

    /// Nothing can be read: everybody is told.
    pub fn give_up(&mut self, hub: &mut Hub) {
        self.due.clear();
        self.due_with_members.clear();
        for (wanted, askers) in std::mem::take(&mut self.askers) {
            for (asker, _) in askers {
                answer(hub, asker, wanted.subject.clone(), Err(PresenceError::Unavailable));
            }
        }
        self.count = 0;
    }
}

pub fn answer(hub: &mut Hub, asker: Asker, subject: Subject, result: Result<Present, PresenceError>) {
    hub.answer(asker, Answer::Presence { subject, result });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(users: &[&str], is_partial: bool) -> Roster {
        Roster { users: users.iter().map(|&user| user.into()).collect(), is_partial }
    }

    #[test]
    fn rosters_are_merged_each_user_once_and_no_more_than_are_listed() {
        let merged = |listed_max| Roster::merged([roster(&["bob", "dan"], false), roster(&["ann", "bob"], false)], listed_max);
        assert_eq!(merged(3), roster(&["ann", "bob", "dan"], false));
        assert_eq!(merged(2), roster(&["ann", "bob"], true));
        assert_eq!(Roster::merged([roster(&["ann"], true), roster(&[], false)], 9), roster(&["ann"], true));
        assert!(Roster::merged([], 9).is_empty() && !roster(&[], true).is_empty());
    }

    #[test]
    fn a_roster_comes_in_pages() {
        let roster = roster(&["ann", "bob", "dan"], true);
        let page = |after: Option<&str>, limit| {
            let page = roster.page(&MembersWanted { after: after.map(Box::from), limit });
            assert!(page.is_partial);
            (page.users.join(" "), page.has_more)
        };
        assert_eq!(page(None, 2), ("ann bob".into(), true));
        assert_eq!(page(Some("bob"), 2), ("dan".into(), false));
        assert_eq!(page(Some("carl"), 2), ("dan".into(), false));
        assert_eq!(page(Some("dan"), 2), (String::new(), false));
        assert_eq!(page(None, 3), ("ann bob dan".into(), false));
    }
}
