//! Publishes that a node of a Cluster has not executed, until they may be sent again or are too old. Sans-IO; owned by [`super::super::RedisBus`].
//!
//! Invariants: a channel's publishes keep their order (while one of them waits here, no other may be sent: [`Again::holds`]); each is answered once: by whoever
//! takes it at last, or here when [`REDIRECT_PATIENCE`] is over or it was sent [`REDIRECTS_MAX`] times. Their number is bounded by that of all publishes
//! under way ([`crate::bus::shares`]).

use std::collections::{HashMap, HashSet, VecDeque};

use super::Redirect;
use super::map::Node;
use crate::bus::question::{Publish, PublishError, SentAgain};
use crate::clock::{MonotonicNs, nanos};
use crate::limits::redis::cluster::{REDIRECT_PATIENCE, REDIRECT_PAUSE, REDIRECTS_MAX};

/// One that comes back from a node.
#[derive(Debug)]
pub struct Returned {
    pub publish: Publish,
    pub redirect: Redirect,
    /// What the publisher is told if nothing comes of it.
    pub error: PublishError,
}

#[derive(Debug)]
struct Waiting {
    publish: Publish,
    error: PublishError,
    not_before: MonotonicNs,
    /// With ASKING, at this node and not at the slot's.
    ask: Option<Node>,
}

/// One whose turn has come.
#[derive(Debug)]
pub struct Due {
    pub publish: Publish,
    pub ask: Option<Node>,
}

#[derive(Debug, Default)]
pub struct Again {
    waiting: VecDeque<Waiting>,
    channels: HashMap<Box<str>, usize>,
}

impl Again {
    /// Whether the channel's publishes have to wait for one of it.
    pub fn holds(&self, channel: &str) -> bool {
        !self.channels.is_empty() && self.channels.contains_key(channel)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Some: it has been tried often enough, and comes back.
    pub fn put(&mut self, returned: Returned, now: MonotonicNs) -> Option<(Publish, PublishError)> {
        let Returned { mut publish, redirect, error } = returned;
        let SentAgain { times, since } = publish.sent_again.as_deref().copied().unwrap_or(SentAgain { times: 0, since: now });
        if times >= REDIRECTS_MAX || now >= since + nanos(REDIRECT_PATIENCE) {
            return Some((publish, error));
        }
        publish.sent_again = Some(Box::new(SentAgain { times: times + 1, since }));
        let pause = nanos(REDIRECT_PAUSE) << times.min(4);
        let (ask, not_before) = match redirect {
            Redirect::Ask(Some(node)) => (Some(node), now),
            // The map is asked for anew; when it has come, it is time ([`Again::hurry`]).
            Redirect::Moved(_) | Redirect::Ask(None) | Redirect::Later => (None, now + pause),
        };
        *self.channels.entry(publish.channel.clone()).or_insert(0) += 1;
        self.waiting.push_back(Waiting { publish, error, not_before, ask });
        None
    }

    /// The map is another one.
    pub fn hurry(&mut self) {
        self.waiting.iter_mut().for_each(|waiting| waiting.not_before = 0);
    }

    /// Takes out those whose time has come and that `takes` lets go, in order; of a channel none before an earlier one.
    pub fn due(&mut self, now: MonotonicNs, mut takes: impl FnMut(&Publish, Option<&Node>) -> bool) -> Vec<Due> {
        let mut due = Vec::new();
        let mut kept = VecDeque::new();
        let mut held: HashSet<Box<str>> = HashSet::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let is_due = now >= waiting.not_before && !held.contains(&waiting.publish.channel);
            if is_due && takes(&waiting.publish, waiting.ask.as_ref()) {
                self.release(&waiting.publish.channel);
                due.push(Due { publish: waiting.publish, ask: waiting.ask });
                continue;
            }
            held.insert(waiting.publish.channel.clone());
            kept.push_back(waiting);
        }
        self.waiting = kept;
        due
    }

    /// Those that have waited for long enough, with what their publishers are told.
    pub fn overdue(&mut self, now: MonotonicNs) -> Vec<(Publish, PublishError)> {
        let is_over =
            |waiting: &Waiting| waiting.publish.sent_again.as_ref().is_some_and(|again| now >= again.since + nanos(REDIRECT_PATIENCE));
        let (over, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting).into_iter().partition(is_over);
        self.waiting = rest;
        let over: Vec<_> = over.into_iter().map(|waiting| (waiting.publish, waiting.error)).collect();
        over.iter().for_each(|(publish, _)| self.release(&publish.channel));
        over
    }

    /// All of them: nothing more is sent.
    pub fn end(&mut self) -> Vec<(Publish, PublishError)> {
        self.channels.clear();
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| (waiting.publish, waiting.error)).collect()
    }

    /// When to look again.
    pub fn deadline(&self) -> Option<MonotonicNs> {
        self.waiting.iter().map(|waiting| waiting.not_before.max(1)).min()
    }

    fn release(&mut self, channel: &str) {
        let count = self.channels.get_mut(channel).expect("counted when it was put in");
        *count -= 1;
        if *count == 0 {
            self.channels.remove(channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::question::Asker;

    const PAUSE_NS: u64 = REDIRECT_PAUSE.as_nanos() as u64;

    fn returned(channel: &str, payload: &str, redirect: Redirect, sent_again: Option<SentAgain>) -> Returned {
        let mut publish = Publish::new(channel, payload.into(), Asker::Control(tokio::sync::oneshot::channel().0));
        publish.sent_again = sent_again.map(Box::new);
        Returned { publish, redirect, error: PublishError::Refused("MOVED".to_owned()) }
    }

    fn due(again: &mut Again, now: MonotonicNs) -> Vec<(String, Option<Node>)> {
        let due = again.due(now, |_, _| true);
        due.into_iter().map(|due| (String::from_utf8(due.publish.payload.to_vec()).unwrap(), due.ask)).collect()
    }

    #[test]
    fn what_moved_waits_for_the_map_and_keeps_its_order() {
        let mut again = Again::default();
        for (channel, payload) in [("a", "1"), ("b", "2"), ("a", "3")] {
            assert!(again.put(returned(channel, payload, Redirect::Moved(None), None), 1).is_none());
        }
        assert!(again.holds("a") && again.holds("b") && !again.holds("c"));
        assert!(due(&mut again, 1).is_empty());
        again.hurry();
        // The server of `a` takes nothing yet: the second of `a` waits for the first.
        let mut asked = Vec::new();
        let taken = again.due(2, |publish, _| {
            asked.push(publish.payload.to_vec());
            &*publish.channel == "b"
        });
        assert_eq!((taken.len(), asked), (1, vec![b"1".to_vec(), b"2".to_vec()]));
        assert!(again.holds("a") && !again.holds("b"));
        assert_eq!(due(&mut again, 2), [("1".to_owned(), None), ("3".to_owned(), None)]);
        assert!(again.is_empty() && !again.holds("a") && again.deadline().is_none());
    }

    #[test]
    fn a_node_that_is_to_be_asked_is_asked_at_once() {
        let mut again = Again::default();
        let node = Node { host: "h".to_owned(), port: 1 };
        assert!(again.put(returned("a", "1", Redirect::Ask(Some(node.clone())), None), 7).is_none());
        assert!(again.put(returned("b", "2", Redirect::Later, None), 7).is_none());
        assert_eq!(due(&mut again, 7), [("1".to_owned(), Some(node))]);
        assert_eq!(again.deadline(), Some(7 + PAUSE_NS));
        assert_eq!(due(&mut again, 7 + PAUSE_NS), [("2".to_owned(), None)]);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut again = Again::default();
        let often = Some(SentAgain { times: REDIRECTS_MAX, since: 0 });
        assert!(again.put(returned("a", "1", Redirect::Moved(None), often), 1).is_some());
        let long = nanos(REDIRECT_PATIENCE);
        assert!(again.put(returned("a", "1", Redirect::Later, Some(SentAgain { times: 1, since: 0 })), long).is_some());
        assert!(again.put(returned("a", "1", Redirect::Later, Some(SentAgain { times: 1, since: 0 })), long - 1).is_none());
        assert!(again.put(returned("a", "2", Redirect::Later, Some(SentAgain { times: 1, since: 5 })), long - 1).is_none());
        assert_eq!(again.overdue(long).len(), 1);
        assert!(again.holds("a"));
        assert_eq!(again.end().len(), 1);
        assert!(!again.holds("a") && again.is_empty());
    }
}
