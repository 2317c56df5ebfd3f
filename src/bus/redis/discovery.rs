//! Who the masters are, where the URL does not say it: asked of one of those that know after the other until one tells, and of that one again and again: the nodes
//! of a Cluster ([`super::cluster::map`]), or Sentinels ([`super::sentinel`]). It has a connection of its own, so that a question never waits behind messages.

use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Registry, Token, Waker};

use super::cluster::map::Node;
use super::fault::Fault;
use super::link::{Answer, Link};
use super::target::Target;
use super::timing::Timing;
use crate::bus::ration::Ration;
use crate::clock::{MonotonicNs, nanos};
use crate::limits::redis::MAP_BYTES_MAX;

/// What is asked, and what the answer is.
pub trait Question: std::fmt::Debug {
    type News;

    /// How often.
    const EVERY: Duration;
    /// What cannot be had when nobody answers, for the log.
    const WHAT: &str;

    /// A connection stands: what may be told unasked is asked for once.
    fn begin(&mut self, _: &mut Link, _: MonotonicNs) {}

    fn ask(&mut self, link: &mut Link, now: MonotonicNs);

    /// What came, from there. An answer to anything else is [`Heard::Nothing`].
    fn take(&mut self, answer: &Answer<'_>, target: &Target) -> Result<Heard<Self::News>, Fault>;

    /// Who else could be asked next time.
    fn others(_: &Self::News) -> Vec<Node> {
        Vec::new()
    }
}

#[derive(Debug)]
pub enum Heard<News> {
    /// It is the answer.
    News(News),
    /// It has become another one: it is to be asked for.
    Changed,
    Nothing,
}

#[derive(Debug)]
pub struct Discovery<Q: Question> {
    question: Q,
    /// Of the URL: how one logs in there, and who is asked first.
    seeds: Vec<Arc<Target>>,
    /// Others that were named, asked when the seeds are of no use.
    known: Vec<Node>,
    /// Who is said to know better, asked before all others.
    told: Option<Node>,
    /// The place of the next one to be asked, of seeds and known ones.
    next: usize,
    /// Of no use, in a row.
    failures: u32,
    link: Option<(Link, Arc<Target>)>,
    is_asked: bool,
    /// When the next question is due, or the next node.
    due: MonotonicNs,
    asked_at: MonotonicNs,
    /// What was wrong last, which is said once.
    trouble: Option<String>,
    warnings: Ration,
    token: Token,
    registry: Arc<Registry>,
    waker: Arc<Waker>,
    timing: Timing,
}

impl<Q: Question> Discovery<Q> {
    pub fn new(
        question: Q,
        seeds: Vec<Arc<Target>>,
        token: Token,
        (registry, waker): (Arc<Registry>, Arc<Waker>),
        timing: Timing,
    ) -> Discovery<Q> {
        Discovery {
            question,
            seeds,
            known: Vec::new(),
            told: None,
            next: 0,
            failures: 0,
            link: None,
            is_asked: false,
            due: 0,
            asked_at: 0,
            trouble: None,
            warnings: Ration::default(),
            token,
            registry,
            waker,
            timing,
        }
    }

    /// How one logs in at this node.
    pub fn target(&self, node: &Node) -> Result<Arc<Target>, String> {
        self.seeds[0].at(&node.host, node.port).map(Arc::new).map_err(|error| format!("{error:#}"))
    }

    /// Something has changed, or may have: it is asked again this long after it was asked last. `by`: who knows.
    pub fn ask_within(&mut self, pause: Duration, by: Option<Node>) {
        // Where nobody answers, it is not for want of asking.
        if self.failures == 0 {
            self.due = self.due.min(self.asked_at + nanos(pause));
        }
        if let Some(node) = by
            && self.link.as_ref().is_none_or(|(_, target)| !target.is_at(&node.host, node.port))
        {
            self.told = Some(node);
        }
    }

    /// Not each of the seeds has been of no use yet.
    pub fn is_at_first_round(&self) -> bool {
        (self.failures as usize) < self.seeds.len()
    }

    /// What kept an answer from being had, until one is.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn candidate(&mut self) -> Arc<Target> {
        if let Some(target) = self.told.take().and_then(|node| self.target(&node).ok()) {
            return target;
        }
        let at = self.next % (self.seeds.len() + self.known.len());
        self.next = at + 1;
        match self.seeds.get(at) {
            Some(seed) => seed.clone(),
            None => self.target(&self.known[at - self.seeds.len()].clone()).unwrap_or_else(|_| self.seeds[0].clone()),
        }
    }

    /// Goes on as far as it goes without waiting. Some: one has told, whether it is news or not.
    pub fn drive(&mut self, now: MonotonicNs) -> Option<Q::News> {
        // Who knows better is asked instead of whoever is asked now, unless that one is about to answer.
        if self.told.is_some() && now >= self.due && !self.is_asked {
            self.link = None;
        }
        if self.link.is_none() {
            if now < self.due {
                return None;
            }
            let target = self.candidate();
            let link = Link::new(target.clone(), self.token, self.registry.clone(), self.waker.clone(), self.timing, MAP_BYTES_MAX);
            (self.link, self.is_asked) = (Some((link, target)), false);
        }
        match self.talk(now) {
            Ok(None) => None,
            Ok(Some(news)) => {
                self.known = Q::others(&news);
                self.due = now + nanos(Q::EVERY);
                (self.failures, self.trouble) = (0, None);
                Some(news)
            }
            Err(fault) => {
                self.give_up(&fault, now);
                None
            }
        }
    }

    fn talk(&mut self, now: MonotonicNs) -> Result<Option<Q::News>, Fault> {
        let (link, target) = self.link.as_mut().expect("it is made before");
        if link.drive(now)? {
            self.question.begin(link, now);
        }
        let mut news = None;
        while link.is_ready() {
            while let Some(answer) = link.next_answer()? {
                match self.question.take(&answer, target)? {
                    Heard::News(told) => (self.is_asked, news) = (false, Some(told)),
                    // What was told of it before holds no more.
                    Heard::Changed => (self.is_asked, self.due, news) = (false, now, None),
                    Heard::Nothing => {}
                }
            }
            if !self.is_asked && news.is_none() && now >= self.due {
                (self.is_asked, self.asked_at) = (true, now);
                self.question.ask(link, now);
            }
            link.flush()?;
            if link.fill(now)?.is_none() {
                break;
            }
        }
        Ok(news)
    }

    fn give_up(&mut self, fault: &Fault, now: MonotonicNs) {
        let (link, target) = self.link.take().expect("it is its fault");
        let was_quiet = link.is_ready() && !self.is_asked && self.trouble.is_none() && self.failures == 0;
        self.is_asked = false;
        self.failures = self.failures.saturating_add(1);
        let all = (self.seeds.len() + self.known.len()) as u32;
        // Each at once, once; then all of them again, by and by.
        self.due = if self.failures.is_multiple_of(all) { now + self.timing.pause_ns(self.failures / all) } else { now };
        let trouble = format!("{target}: {fault}");
        // That one of them has hung up while nothing was asked is no trouble yet.
        if !was_quiet && self.trouble.as_ref() != Some(&trouble) && self.warnings.take(now).is_some() {
            tracing::warn!("{} cannot be had from {trouble}. Asking others", Q::WHAT);
        }
        self.trouble = Some(trouble);
    }

    pub fn event(&mut self, event: &Event) {
        if let Some((link, _)) = &mut self.link {
            link.event(event);
        }
    }

    /// When [`Discovery::drive`] is to be called though nothing comes.
    pub fn deadline(&self) -> MonotonicNs {
        match &self.link {
            None => self.due,
            Some((link, _)) if self.is_asked || !link.is_ready() => link.deadline(),
            Some((link, _)) => link.deadline().min(self.due),
        }
    }
}
