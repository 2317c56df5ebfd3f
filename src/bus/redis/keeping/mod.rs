//! What Redis keeps of users: how far each has read which durable channel. Owned by [`super::RedisBus`], for all of its servers: a user's marks lie where the
//! user's name does, and each channel with its own, so that one question may be several servers' to answer. It writes and reads through their [`Desk`]s.
//!
//! A question is asked in rounds (`job`). What Redis does not take now is asked again, and so is all that was under way when a connection is lost: a mark
//! never goes back (`ZADD GT`), so it may be set twice. When a mark was set the other nodes are told (`errand`, `news`).
//!
//! Invariants: each question is answered once, within [`MARKS_WAIT`]; what is under way is bounded by the tickets of the questions, and what is with a server by
//! its desk. A key that holds something else is left as it is: nothing is written to it but by a command that refuses it. What befalls a server befalls the
//! questions that need it, and no others.

mod desk;
mod errand;
mod job;
mod news;

pub use desk::{Desk, Place};
pub use news::{NAME, channel, news};

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use redis::{ServerError, Value};
use smallvec::SmallVec;

use self::errand::Errand;
use self::job::{Job, Next};
use super::cluster::Redirect;
use super::cluster::map::Node;
use super::fault::{Refusal, text_of};
use super::placement::Placement;
use crate::bus::hub::Hub;
use crate::bus::marks::{MarksError, MarksQuestion};
use crate::bus::ration::Ration;
use crate::clock::{MonotonicNs, nanos};
use crate::config::Settings;
use crate::limits::bus::MARKS_WAIT;
use crate::limits::redis::keeping::{ERRANDS_MAX, RETRY_AFTER};

#[derive(Debug)]
pub struct Keeping {
    prefix: Box<str>,
    /// On which the other nodes are told.
    channel: Box<str>,
    placement: Arc<Placement>,
    under_way: HashMap<u32, UnderWay>,
    next_number: u32,
    errands: usize,
    /// One of them finds out which marks of a user are too many, or drops them: a list of a thousand names is enough at a time.
    is_trimming: bool,
    /// By server: whose commands it is to be given, and of which round, in this order.
    due: Vec<VecDeque<(u32, u32)>>,
    /// In a Cluster: what was asked is not where it was asked for, and perhaps where it is.
    is_old: Option<Option<Node>>,
    /// Asked again then.
    postponed: VecDeque<(MonotonicNs, u32)>,
    /// When a question has waited for too long; some are answered by then.
    overdue: VecDeque<(MonotonicNs, u32)>,
    /// How Redis last refused for good, which is said once.
    refusal: String,
    warnings: Ration,
}

/// Whose key a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose<'a> {
    User(&'a str),
    Channel(&'a str),
}

#[derive(Debug)]
struct UnderWay {
    work: Work,
    round: u32,
    /// Answers that are still to come, of these servers.
    left: SmallVec<[(u16, u16); 2]>,
    /// The first error among them, and what it is about.
    refusal: Option<(ServerError, String)>,
}

#[derive(Debug)]
enum Work {
    Job(Box<Job>),
    Errand(Errand),
}

impl Keeping {
    pub fn new(settings: &Settings, placement: Arc<Placement>) -> Keeping {
        Keeping {
            prefix: settings.redis.prefix.as_str().into(),
            channel: channel(&settings.redis.prefix).into(),
            placement,
            under_way: HashMap::new(),
            next_number: 0,
            errands: 0,
            is_trimming: false,
            due: Vec::new(),
            is_old: None,
            postponed: VecDeque::new(),
            overdue: VecDeque::new(),
            refusal: String::new(),
            warnings: Ration::default(),
        }
    }

    /// A question. `answers`: whether a server can be asked.
    pub fn take(&mut self, hub: &mut Hub, question: Box<MarksQuestion>, answers: impl Fn(usize) -> bool, now: MonotonicNs) {
        let channels = question.wanted.channels().map(Whose::Channel);
        if !channels.chain([Whose::User(&question.user)]).all(|whose| self.placement.server_of(whose.name()).is_some_and(&answers)) {
            return hub.answer_marks(*question, Err(MarksError::Unavailable));
        }
        let job = Job::new(question, hub);
        let number = self.begin(Work::Job(Box::new(job)));
        self.overdue.push_back((now + nanos(MARKS_WAIT), number));
        // Where one server holds up its questions, the others' are gone long before.
        if self.overdue.len() > 2 * (self.under_way.len() + ERRANDS_MAX) {
            let under_way = &self.under_way;
            self.overdue.retain(|(_, number)| under_way.contains_key(number));
        }
    }

    fn begin(&mut self, work: Work) -> u32 {
        while self.under_way.contains_key(&self.next_number) {
            self.next_number = self.next_number.wrapping_add(1);
        }
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.ask(number, UnderWay { work, round: 0, left: SmallVec::new(), refusal: None });
        number
    }

    /// A round begins: each server that has something of it is to be given that.
    fn ask(&mut self, number: u32, mut asked: UnderWay) {
        asked.round = asked.round.wrapping_add(1);
        asked.refusal = None;
        asked.left = SmallVec::new();
        let mut is_nowhere = false;
        for whose in asked.work.commands() {
            let Some(server) = self.placement.server_of(whose.name()) else {
                is_nowhere = true;
                continue;
            };
            let server = server as u16;
            match asked.left.iter_mut().find(|(other, _)| *other == server) {
                Some((_, count)) => *count += 1,
                None => asked.left.push((server, 1)),
            }
        }
        for &(server, _) in asked.left.iter().filter(|_| !is_nowhere) {
            self.due_at(server.into()).push_back((number, asked.round));
        }
        // Where a slot has no master, the next map begins it anew.
        self.under_way.insert(number, asked);
    }

    fn due_at(&mut self, server: usize) -> &mut VecDeque<(u32, u32)> {
        if self.due.len() <= server {
            self.due.resize(server + 1, VecDeque::new());
        }
        &mut self.due[server]
    }

    /// In a Cluster: names lie elsewhere. What is under way is asked there, from its beginning.
    pub fn set_placement(&mut self, placement: Arc<Placement>) {
        self.placement = placement;
        self.due.clear();
        self.postponed.clear();
        let mut numbers: Vec<u32> = self.under_way.keys().copied().collect();
        numbers.sort_by_key(|number| number.wrapping_sub(self.next_number));
        numbers.into_iter().for_each(|number| self.begin_anew(number));
    }

    /// Whether something has shown that the map of the Cluster is old, and who knows better.
    pub fn take_is_old(&mut self) -> Option<Option<Node>> {
        self.is_old.take()
    }

    /// Gives a server what it is to be asked, as far as its desk has room.
    pub fn give(&mut self, server: usize, desk: &mut Desk) {
        while desk.has_room()
            && let Some((number, round)) = self.due_at(server).pop_front()
        {
            // One that has waited for too long is gone, and one that has begun anew has another round.
            let Some(UnderWay { work, .. }) = self.under_way.get(&number).filter(|asked| asked.round == round) else { continue };
            for (place, whose) in work.commands().into_iter().enumerate() {
                if self.placement.server_of(whose.name()) == Some(server) {
                    let command = Place { number, round, command: place as u16 };
                    work.write(place, &self.prefix, &self.channel, &mut |parts| desk.ask(command, parts));
                }
            }
        }
    }

    /// Takes what a server has answered.
    pub fn collect(&mut self, server: usize, desk: &mut Desk, hub: &mut Hub, now: MonotonicNs) {
        while let Some((place, answer)) = desk.take_answer() {
            self.answered(hub, server as u16, place, answer, now);
        }
        if desk.take_loss() {
            self.connection_lost(server as u16);
        }
    }

    fn answered(&mut self, hub: &mut Hub, server: u16, place: Place, answer: Result<Value, ServerError>, now: MonotonicNs) {
        let Some(asked) = self.under_way.get_mut(&place.number).filter(|asked| asked.round == place.round) else { return };
        let command = usize::from(place.command);
        match answer {
            Ok(value) => asked.work.take(command, &value),
            Err(error) if asked.refusal.is_none() => asked.refusal = Some((error, asked.work.about(command))),
            Err(_) => {}
        }
        if let Some((_, count)) = asked.left.iter_mut().find(|(other, _)| *other == server) {
            *count = count.saturating_sub(1);
        }
        if asked.left.iter().all(|(_, count)| *count == 0) {
            self.go_on(hub, place.number, now);
        }
    }

    /// All answers of a round are there.
    fn go_on(&mut self, hub: &mut Hub, number: u32, now: MonotonicNs) {
        let Some(UnderWay { work, round, left, refusal }) = self.under_way.remove(&number) else { return };
        let redirect = refusal.as_ref().and_then(|(error, _)| Redirect::of(error)).filter(|_| self.placement.is_cluster());
        if let Some(Redirect::Moved(node)) = &redirect {
            self.is_old = Some(node.clone());
        }
        match (work, refusal) {
            (work @ Work::Job(_), Some((error, about))) if redirect.is_some() || Refusal::of(&error) == Refusal::ForNow => {
                self.under_way.insert(number, UnderWay { work, round, left, refusal: Some((error, about)) });
                self.postponed.push_back((now + nanos(RETRY_AFTER), number));
            }
            (work, Some((error, about))) => {
                let text = self.advice(&error, &about);
                self.warn(&text, now);
                match work {
                    Work::Job(job) => hub.answer_marks(*job.question, Err(MarksError::Refused(text))),
                    Work::Errand(errand) => self.end(&errand),
                }
            }
            (Work::Job(mut job), None) => match job.next() {
                Next::Ask => self.ask(number, UnderWay { work: Work::Job(job), round, left, refusal: None }),
                Next::Done(result, errands) => {
                    self.refusal.clear();
                    hub.answer_marks(*job.question, result);
                    errands.into_iter().for_each(|errand| self.run(hub, errand));
                }
            },
            (Work::Errand(errand), None) => {
                self.end(&errand);
                if let Some(next) = errand.next() {
                    self.run(hub, next);
                }
            }
        }
    }

    fn run(&mut self, hub: &mut Hub, errand: Errand) {
        match &errand {
            Errand::Tell(_) if self.errands >= ERRANDS_MAX => return hub.metrics().mark_news_dropped.inc(),
            // The user's next mark finds them.
            Errand::Look { .. } | Errand::Drop { .. } if self.is_trimming => return,
            Errand::Look { .. } | Errand::Drop { .. } => self.is_trimming = true,
            Errand::Tell(_) => {}
        }
        self.errands += 1;
        self.begin(Work::Errand(errand));
    }

    /// It is done, or refused for good.
    fn end(&mut self, errand: &Errand) {
        self.errands -= 1;
        self.is_trimming &= matches!(errand, Errand::Tell(_));
    }

    fn advice(&self, error: &ServerError, about: &str) -> String {
        let advice = match error.code() {
            "NOPERM" => format!(
                "; the user needs +hmget +xrange +zadd +zscore +zmscore +zcard +zrange +zrem +pexpire ~{0}* and +publish &{0}*",
                self.prefix
            ),
            "WRONGTYPE" => "; something else stands in that key. Delete it, or have whoever writes it use another".to_owned(),
            _ => String::new(),
        };
        format!("{}{about}{advice}", text_of(error))
    }

    fn warn(&mut self, refusal: &str, now: MonotonicNs) {
        if self.refusal != refusal && self.warnings.take(now).is_some() {
            tracing::warn!("what users have read cannot be kept in Redis, or not be told to other nodes: {refusal}. Whoever asks is told");
            refusal.clone_into(&mut self.refusal);
        }
    }

    /// What the server has not answered is asked again.
    fn connection_lost(&mut self, server: u16) {
        let is_concerned = |asked: &UnderWay| asked.left.iter().any(|&(other, count)| other == server && count > 0);
        let mut lost: Vec<u32> = self.under_way.iter().filter(|(_, asked)| is_concerned(asked)).map(|(&number, _)| number).collect();
        // As they were asked: numbers go round once in four billion.
        lost.sort_by_key(|number| number.wrapping_sub(self.next_number));
        lost.into_iter().for_each(|number| self.begin_anew(number));
    }

    fn begin_anew(&mut self, number: u32) {
        let Some(mut asked) = self.under_way.remove(&number) else { return };
        if let Work::Job(job) = &mut asked.work {
            job.begin_anew();
        }
        self.ask(number, asked);
    }

    /// Answers those who have waited for too long, though what they asked may still be done; and asks again what is due.
    pub fn expire(&mut self, hub: &mut Hub, now: MonotonicNs) {
        while let Some(&(due, number)) = self.overdue.front()
            && (due <= now || !self.under_way.contains_key(&number))
        {
            self.overdue.pop_front();
            if let Some(UnderWay { work: Work::Job(job), refusal, .. }) = self.under_way.remove(&number) {
                let why = refusal.map_or_else(|| "it did not answer".to_owned(), |(error, about)| self.advice(&error, &about));
                hub.answer_marks(*job.question, Err(MarksError::Late(why)));
            }
        }
        while let Some(&(due, number)) = self.postponed.front()
            && due <= now
        {
            self.postponed.pop_front();
            self.begin_anew(number);
        }
    }

    /// When [`Keeping::expire`] is to be called though nothing comes in.
    pub fn deadline(&self) -> Option<MonotonicNs> {
        [self.postponed.front(), self.overdue.front()].into_iter().flatten().map(|&(due, _)| due).min()
    }

    /// Answers what is under way; nothing is called after this.
    pub fn stop(&mut self, hub: &mut Hub) {
        for (_, asked) in std::mem::take(&mut self.under_way) {
            if let Work::Job(job) = asked.work {
                hub.answer_marks(*job.question, Err(MarksError::Stopping));
            }
        }
    }
}

impl<'a> Whose<'a> {
    /// By which the server is found that has its keys.
    fn name(self) -> &'a str {
        match self {
            Whose::User(name) | Whose::Channel(name) => name,
        }
    }
}

impl Work {
    fn commands(&self) -> Vec<Whose<'_>> {
        match self {
            Work::Job(job) => job.commands(),
            Work::Errand(errand) => vec![Whose::User(errand.user())],
        }
    }

    fn write(&self, place: usize, prefix: &str, channel: &str, ask: &mut dyn FnMut(&[&[u8]])) {
        match self {
            Work::Job(job) => job.write(place, prefix, ask),
            Work::Errand(errand) => errand.write(prefix, channel, ask),
        }
    }

    fn take(&mut self, place: usize, value: &Value) {
        match self {
            Work::Job(job) => job.take(place, value),
            Work::Errand(errand) => errand.take(value),
        }
    }

    fn about(&self, place: usize) -> String {
        match self {
            Work::Job(job) => job.about(place),
            Work::Errand(_) => String::new(),
        }
    }
}
