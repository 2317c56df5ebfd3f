//! What somebody asks of who is there: numbers of single channels and users, read for all who ask at a time; and which channels there are.

use redis::{ServerError, Value};

use super::errand::{Errand, Groups, Reply, names, sums};
use super::{Presence, rosters};
use crate::bus::hub::Hub;
use crate::bus::presence::{Found, PresenceAsked, PresenceError, Roster, Subject, Wanted};
use crate::bus::redis::fault::Refusal;

/// A page of the channels of this server that have subscribers on any node.
#[derive(Debug)]
pub struct Census {
    /// What whoever asks calls it.
    pub number: u64,
    pub after: Option<Box<str>>,
    pub limit: usize,
    /// By name; some may have none any more.
    pub channels: Vec<(Box<str>, u64)>,
    /// There may be more behind them.
    pub has_more: bool,
    pub error: Option<PresenceError>,
}

impl Census {
    pub fn new(number: u64, after: Option<Box<str>>, limit: usize) -> Census {
        Census { number, after, limit, channels: Vec::new(), has_more: false, error: None }
    }

    /// It cannot be read.
    pub fn failed(number: u64, error: PresenceError) -> Census {
        Census { error: Some(error), ..Census::new(number, None, 0) }
    }
}

impl Presence {
    /// The connection is ready.
    pub fn ask(&mut self, hub: &mut Hub, asked: PresenceAsked) {
        self.waiting.want(hub, asked);
    }

    /// The same; what comes of it goes to [`Presence::censuses`].
    pub fn ask_census(&mut self, census: Census) {
        self.questions.push_back(Errand::Names(census));
    }

    /// What the others have is known.
    pub(super) fn counted(&mut self, hub: &mut Hub, wanted: Vec<Wanted>, replies: &[Reply]) {
        let groups = Groups::of(&wanted);
        // Of each group there is an answer of each other node.
        let others = replies.len() / groups.count().max(1);
        let mut left = replies;
        let mut next = |group: &[&str]| {
            let (answers, rest) = left.split_at(if group.is_empty() { 0 } else { others });
            left = rest;
            answers
        };
        let mut channels = sums(next(&groups.channels), groups.channels.len()).into_iter();
        let mut users = sums(next(&groups.users), groups.users.len()).into_iter();
        let listed = next(&groups.listed);
        let mut place = 0;
        for wanted in &wanted {
            let others = match wanted.subject {
                Subject::Channel(_) => channels.next(),
                Subject::User(_) => users.next(),
            };
            let result = hub.found_here(&wanted.subject, wanted.has_members).map(|here| Found {
                count: here.count + others.unwrap_or(0),
                roster: here.roster.map(|roster| {
                    let listed_max = hub.rule_of(wanted.subject.name()).presence_members;
                    Roster::merged(rosters_at(listed, place).chain([roster]), listed_max)
                }),
            });
            place += usize::from(wanted.has_members);
            self.waiting.done(hub, wanted, &result);
        }
        self.is_listing &= groups.listed.is_empty();
    }

    pub(super) fn answer_refused(&mut self, hub: &mut Hub, wanted: &[Wanted], error: &ServerError) {
        let result = Err(self.problem(error));
        for wanted in wanted {
            self.is_listing &= !wanted.has_members;
            self.waiting.done(hub, wanted, &result);
        }
    }

    fn problem(&self, error: &ServerError) -> PresenceError {
        match Refusal::of(error) {
            Refusal::ForNow => PresenceError::Unavailable,
            Refusal::ForGood => PresenceError::Refused(self.advice(error)),
        }
    }

    /// Which there are is known.
    pub(super) fn named(&mut self, hub: &mut Hub, mut census: Census, replies: &[Reply]) {
        let names = names(replies.get(1));
        census.has_more = names.len() == census.limit;
        census.channels = names.into_iter().map(|name| (name, 0)).collect();
        if census.channels.is_empty() || self.others.is_empty() {
            return self.census_counted(hub, census, &[]);
        }
        self.questions.push_back(Errand::Counts(census));
    }

    pub(super) fn census_counted(&mut self, hub: &mut Hub, mut census: Census, replies: &[Reply]) {
        let others = sums(replies, census.channels.len());
        for ((name, count), others) in census.channels.iter_mut().zip(others) {
            let here = hub.count_here(&Subject::Channel(name.clone())).unwrap_or(0);
            *count = others + u64::from(here);
        }
        self.censuses.push(census);
    }

    pub(super) fn census_refused(&mut self, census: Census, error: &ServerError) {
        let problem = self.problem(error);
        self.censuses.push(Census::failed(census.number, problem));
    }
}

/// What each of the others lists of the channel at this place.
fn rosters_at(replies: &[Reply], place: usize) -> impl Iterator<Item = Roster> {
    replies.iter().filter_map(move |reply| match reply {
        Ok(Value::Array(texts)) => match texts.get(place) {
            Some(Value::BulkString(text)) => Some(rosters::read(text)),
            _ => None,
        },
        _ => None,
    })
}
