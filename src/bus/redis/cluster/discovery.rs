//! Who the masters of a Cluster are, and which slots each has: asked of one node after the other until one tells, and of that one again and again. Owned by
//! [`super::Cluster`]; it has a connection of its own, so that a question never waits behind messages.

use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Registry, Token, Waker};

use super::map::{Map, Node};
use crate::bus::ration::Ration;
use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::fault::{Fault, with_advice};
use crate::bus::redis::link::{Answer, Link};
use crate::bus::redis::target::Target;
use crate::bus::redis::timing::Timing;
use crate::clock::{MonotonicNs, nanos};
use crate::limits::redis::MAP_BYTES_MAX;
use crate::limits::redis::cluster::ASK_AGAIN;

#[derive(Debug)]
pub struct Discovery {
    /// Of the URL: how one logs in at any node, and who is asked first.
    seeds: Vec<Arc<Target>>,
    /// Masters of the last map, asked when the seeds are of no use.
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

impl Discovery {
    pub fn new(seeds: Vec<Arc<Target>>, token: Token, registry: Arc<Registry>, waker: Arc<Waker>, timing: Timing) -> Discovery {
        Discovery {
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

    /// What kept a map from being had, until one is.
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

    /// Goes on as far as it goes without waiting. Some: a node has told, whether it is news or not.
    pub fn drive(&mut self, now: MonotonicNs) -> Option<Map> {
        // Who knows better is asked instead of whoever is asked now, unless that one is about to answer.
        if self.told.is_some() && now >= self.due && !self.is_asked {
            self.link = None;
        }
        if self.link.is_none() {
            if now < self.due {
                return None;
            }
            let target = self.candidate();
            let link =
                Link::new(target.clone(), self.token, self.registry.clone(), self.waker.clone(), self.timing, MAP_BYTES_MAX);
            (self.link, self.is_asked) = (Some((link, target)), false);
        }
        match self.talk(now) {
            Ok(None) => None,
            Ok(Some(map)) => {
                self.known = map.masters.iter().map(|master| master.node.clone()).collect();
                self.due = now + nanos(ASK_AGAIN);
                (self.failures, self.trouble) = (0, None);
                Some(map)
            }
            Err(fault) => {
                self.give_up(&fault, now);
                None
            }
        }
    }

    fn talk(&mut self, now: MonotonicNs) -> Result<Option<Map>, Fault> {
        let (link, target) = self.link.as_mut().expect("it is made before");
        link.drive(now)?;
        let mut map = None;
        while link.is_ready() {
            while let Some(answer) = link.next_answer()? {
                match answer {
                    Answer::Slots { value } => {
                        self.is_asked = false;
                        let read = Map::read(value, target.host());
                        map = Some(read.ok_or_else(|| Fault::new("it knows of no master that has slots: is it a part of the Cluster?"))?);
                    }
                    Answer::Refused { asked: Asked::Slots, error } => return Err(Fault::new(with_advice(error))),
                    Answer::Refused { .. } | Answer::Pong { .. } | Answer::Nothing => {}
                    _ => return Err(Fault::new("it answers what was not asked")),
                }
            }
            if !self.is_asked && map.is_none() && now >= self.due {
                (self.is_asked, self.asked_at) = (true, now);
                link.ask(Asked::Slots, &[b"CLUSTER", b"SLOTS"], now);
            }
            link.flush()?;
            if link.fill(now)?.is_none() {
                break;
            }
        }
        Ok(map)
    }

    fn give_up(&mut self, fault: &Fault, now: MonotonicNs) {
        let (link, target) = self.link.take().expect("it is its fault");
        let was_quiet = link.is_ready() && !self.is_asked && self.trouble.is_none() && self.failures == 0;
        self.is_asked = false;
        self.failures = self.failures.saturating_add(1);
        let all = (self.seeds.len() + self.known.len()) as u32;
        // Each at once, once; then all of them again, by and by.
        self.due = if self.failures % all == 0 { now + self.timing.pause_ns(self.failures / all) } else { now };
        let trouble = format!("{target}: {fault}");
        // That one of them has hung up while nothing was asked is no trouble yet.
        if !was_quiet && self.trouble.as_ref() != Some(&trouble) && self.warnings.take(now).is_some() {
            tracing::warn!("the map of the Cluster cannot be had from {trouble}. Asking other nodes");
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
