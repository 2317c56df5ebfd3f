//! What somebody asks of who is there: numbers of single channels and users, read for all who ask at a time; and which channels there are.

use redis::ServerError;

use super::Presence;
use super::errand::{Errand, Reply, names, sums};
use crate::bus::hub::Hub;
use crate::bus::presence::{PresenceAsked, PresenceError, Subject};
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
    pub(super) fn counted(&mut self, hub: &mut Hub, subjects: Vec<Subject>, replies: &[Reply]) {
        let (channels, users): (Vec<Subject>, Vec<Subject>) =
            subjects.into_iter().partition(|subject| matches!(subject, Subject::Channel(_)));
        // Of each kind there is an answer of each other node.
        let kinds = usize::from(!channels.is_empty()) + usize::from(!users.is_empty());
        let (of_channels, of_users) = replies.split_at(if channels.is_empty() { 0 } else { replies.len() / kinds.max(1) });
        for (subjects, replies) in [(channels, of_channels), (users, of_users)] {
            let others = sums(replies, subjects.len());
            for (subject, others) in subjects.into_iter().zip(others) {
                let result = hub.count_here(&subject).map(|here| others + u64::from(here));
                self.waiting.done(hub, &subject, &result);
            }
        }
    }

    pub(super) fn answer_refused(&mut self, hub: &mut Hub, subjects: Vec<Subject>, error: &ServerError) {
        let result = Err(self.problem(error));
        for subject in subjects {
            self.waiting.done(hub, &subject, &result);
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
