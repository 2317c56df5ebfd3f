//! What Redis keeps of users: how far each has read which durable channel. Sans-IO but for the commands it writes, on a connection of its own
//! ([`Role::Keeping`](super::server::Role::Keeping)); owned by [`super::server::Server`].
//!
//! A question is asked in steps ([`marks`]), each a few commands in one piece. What Redis does not take now is asked again, and so is all that was under way when a
//! connection is lost: a mark never goes back (`ZADD GT`), so it may be set twice. When a mark was set the other nodes are told, on a channel like that of
//! [`super::revocations`].
//!
//! Invariants: each question is answered once, within [`MARKS_WAIT`]; what is unanswered is bounded by the tickets of the questions, and by [`QUESTIONS_MAX`] here.
//! A key that holds something else is left as it is: nothing is written to it but by a command that refuses it.

mod marks;
mod news;

pub use news::{channel, news};

use std::collections::{HashMap, VecDeque};

use redis::{ServerError, Value};

use self::marks::{Errand, Job, Next};
use super::awaiting::Asked;
use super::fault::{Refusal, text_of};
use super::link::Link;
use crate::bus::hub::Hub;
use crate::bus::marks::{MarksError, MarksQuestion};
use crate::bus::ration::Ration;
use crate::clock::{MonotonicNs, nanos};
use crate::config::Settings;
use crate::limits::bus::MARKS_WAIT;
use crate::limits::redis::OUT_BYTES;
use crate::limits::redis::keeping::QUESTIONS_MAX;
use crate::sys::monotonic_ns;

/// What Redis does not answer now is asked again after this long.
const RETRY_NS: u64 = 100_000_000;

#[derive(Debug)]
pub struct Keeping {
    prefix: Box<str>,
    /// On which the other nodes are told.
    channel: Box<str>,
    /// To be asked, in this order.
    waiting: VecDeque<Job>,
    /// What is to be done besides, and nobody waits for.
    errands: VecDeque<Errand>,
    asked: HashMap<u32, UnderWay>,
    next_ticket: u32,
    retry_at: Option<MonotonicNs>,
    /// When a question may have waited for too long.
    look_at: Option<MonotonicNs>,
    /// How Redis last refused for good, which is said once.
    refusal: String,
    warnings: Ration,
}

#[derive(Debug)]
enum UnderWay {
    Job(Job),
    Errand(Errand),
}

impl Keeping {
    pub fn new(settings: &Settings) -> Keeping {
        Keeping {
            prefix: settings.redis.prefix.as_str().into(),
            channel: channel(&settings.redis.prefix).into(),
            waiting: VecDeque::new(),
            errands: VecDeque::new(),
            asked: HashMap::new(),
            next_ticket: 0,
            retry_at: None,
            look_at: None,
            refusal: String::new(),
            warnings: Ration::default(),
        }
    }

    pub fn take(&mut self, question: MarksQuestion, now: MonotonicNs) {
        let give_up_at = now + nanos(MARKS_WAIT);
        self.look_at.get_or_insert(give_up_at);
        self.waiting.push_back(Job::new(question, give_up_at));
    }

    /// Whether a connection is needed.
    pub fn is_wanted(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When [`Keeping::expire`] and [`Keeping::write`] are to be called though nothing comes in.
    pub fn deadline(&self) -> Option<MonotonicNs> {
        let retry = self.retry_at.filter(|_| self.has_work());
        [retry, self.look_at].into_iter().flatten().min()
    }

    fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.errands.is_empty()
    }

    /// Answers those who have waited for too long. What they asked may still be done.
    pub fn expire(&mut self, hub: &mut Hub, now: MonotonicNs) {
        if self.look_at.is_none_or(|look_at| now < look_at) {
            return;
        }
        let (over, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|job| job.give_up_at <= now);
        self.waiting = waiting;
        let mut over: VecDeque<Job> = over;
        let is_over = |under_way: &mut UnderWay| matches!(under_way, UnderWay::Job(job) if job.give_up_at <= now);
        over.extend(self.asked.extract_if(|_, under_way| is_over(under_way)).filter_map(|(_, under_way)| under_way.job()));
        for job in over {
            hub.answer_marks(job.question, Err(MarksError::Unavailable));
        }
        let under_way = self.asked.values().filter_map(|under_way| match under_way {
            UnderWay::Job(job) => Some(job.give_up_at),
            UnderWay::Errand(_) => None,
        });
        self.look_at = self.waiting.iter().map(|job| job.give_up_at).chain(under_way).min();
    }

    /// Asks what is due, as far as there is room. The connection is ready.
    pub fn write(&mut self, link: &mut Link, hub: &mut Hub, now: MonotonicNs) {
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        self.retry_at = None;
        while link.out_bytes() < OUT_BYTES {
            let ticket = self.next_ticket;
            let mut ask = |command: &[&[u8]]| link.ask(Asked::Keeping(ticket), command, now);
            if let Some(mut errand) = self.errands.pop_front() {
                errand.write(&self.prefix, &self.channel, &mut ask);
                self.asked.insert(ticket, UnderWay::Errand(errand));
            } else if self.asked.len() < QUESTIONS_MAX
                && let Some(mut job) = self.waiting.pop_front()
            {
                job.write(hub, &self.prefix, &mut ask);
                self.asked.insert(ticket, UnderWay::Job(job));
            } else {
                return;
            }
            self.next_ticket = ticket.wrapping_add(1);
        }
    }

    /// Redis has answered one of the commands with this number.
    pub fn answered(&mut self, hub: &mut Hub, ticket: u32, answer: Result<&Value, &ServerError>) {
        // One that has waited for too long is gone.
        let Some(under_way) = self.asked.get_mut(&ticket) else { return };
        let is_last = match under_way {
            UnderWay::Job(job) => job.take(answer),
            UnderWay::Errand(errand) => errand.take(answer),
        };
        if !is_last {
            return;
        }
        match self.asked.remove(&ticket) {
            Some(UnderWay::Job(job)) => self.go_on(hub, job),
            Some(UnderWay::Errand(errand)) => match errand.refusal() {
                Some(error) => {
                    let text = self.advice(error, "");
                    self.warn(&text);
                }
                None => self.errands.extend(errand.next()),
            },
            None => {}
        }
    }

    fn go_on(&mut self, hub: &mut Hub, mut job: Job) {
        if let Some((error, about)) = job.refusal.take() {
            if Refusal::of(&error) == Refusal::ForNow {
                self.retry_at = Some(monotonic_ns() + RETRY_NS);
                job.begin_anew();
                return self.waiting.push_front(job);
            }
            let text = self.advice(&error, &about);
            self.warn(&text);
            return hub.answer_marks(job.question, Err(MarksError::Refused(text)));
        }
        match job.next() {
            Next::Ask => self.waiting.push_front(job),
            Next::Done(result, errands) => {
                if result.is_ok() {
                    self.refusal.clear();
                }
                self.errands.extend(errands);
                hub.answer_marks(job.question, result);
            }
        }
    }

    fn advice(&self, error: &ServerError, about: &str) -> String {
        let advice = match error.code() {
            "NOPERM" => format!(
                "; the user needs +hmget +xlen +zadd +zscore +zmscore +zcard +zrange +zrem +pexpire ~{}* and +publish &{}",
                self.prefix, self.channel
            ),
            "WRONGTYPE" => "; something else stands in that key. Delete it, or have whoever writes it use another".to_owned(),
            _ => String::new(),
        };
        format!("{}{about}{advice}", text_of(error))
    }

    fn warn(&mut self, refusal: &str) {
        if self.refusal != refusal && self.warnings.take(monotonic_ns()).is_some() {
            tracing::warn!("what users have read cannot be kept in Redis, or not be told to other nodes: {refusal}. Whoever asks is told");
            refusal.clone_into(&mut self.refusal);
        }
    }

    /// The connection is lost: all that it has not answered is asked again.
    pub fn connection_lost(&mut self) {
        self.retry_at = None;
        let mut lost: Vec<(u32, UnderWay)> = self.asked.drain().collect();
        // As they were asked: numbers go round once in four billion.
        lost.sort_by_key(|(ticket, _)| ticket.wrapping_sub(self.next_ticket));
        for (_, under_way) in lost.into_iter().rev() {
            match under_way {
                UnderWay::Job(mut job) => {
                    job.begin_anew();
                    self.waiting.push_front(job);
                }
                UnderWay::Errand(errand) => self.errands.push_front(errand),
            }
        }
    }

    /// Answers what is under way; nothing is called after this.
    pub fn stop(&mut self, hub: &mut Hub) {
        let under_way = std::mem::take(&mut self.asked).into_values().filter_map(UnderWay::job);
        for job in std::mem::take(&mut self.waiting).into_iter().chain(under_way) {
            hub.answer_marks(job.question, Err(MarksError::Stopping));
        }
    }
}

impl UnderWay {
    fn job(self) -> Option<Job> {
        match self {
            UnderWay::Job(job) => Some(job),
            UnderWay::Errand(_) => None,
        }
    }
}
