//! Which node of a Cluster brings the messages of a master's channels: that master, or one of its replicas, to which a Cluster takes every message as well.
//! Few channels that many nodes want cost one master then no more than a message for each of its replicas.
//!
//! Invariants: what a replica brings is its master's, which alone is published to and read from; where no replica can be had, the master brings it. A message
//! takes its way to a replica through the nodes, so it may come after what was asked of the master meanwhile: nobody concludes from an answer that it will
//! not come before [`REPLICA_LAG`] has passed.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Role, Server};
use crate::bus::hub::Hub;
use crate::bus::redis::fault::{Fault, FaultKind};
use crate::bus::redis::link::Link;
use crate::bus::redis::publishes::Fenced;
use crate::bus::redis::target::Target;
use crate::clock::{MonotonicNs, nanos};
use crate::limits::redis::cluster::REPLICA_LAG;

#[derive(Debug)]
pub(super) struct Listening {
    /// None: it listens at its master.
    replicas: Vec<Arc<Target>>,
    /// Which of them is the first to be tried: each node has its own, so that all together are spread over them.
    first: usize,
    /// How many were tried before the one that is now; as many as there are: it is the master.
    turn: usize,
    /// Answered publishes whose messages may still be on their way to the replica, and until when.
    late: VecDeque<(MonotonicNs, Fenced)>,
}

impl Default for Listening {
    fn default() -> Listening {
        Listening { replicas: Vec::new(), first: fastrand::u16(..).into(), turn: 0, late: VecDeque::new() }
    }
}

impl Listening {
    fn place_of(&self, target: &Target) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.is_where(target))
    }
}

impl Server {
    fn listener(&self) -> &Link {
        self.link(Role::Subscribed).expect("it is the first")
    }

    /// Whether messages come from another node than they are published to.
    pub(super) fn is_at_replica(&self) -> bool {
        !Arc::ptr_eq(self.listener().target(), &self.make_link.target)
    }

    /// Its master has these replicas, and one of them is to bring its messages. Whoever listens already goes on where it is, if that is one of them or the master.
    pub fn listen_at(&mut self, mut replicas: Vec<Arc<Target>>, hub: &mut Hub, now: MonotonicNs) {
        let (count, is_down) = (replicas.len(), self.listener().is_down());
        replicas.rotate_left(self.listening.first % count.max(1));
        self.listening.replicas = replicas;
        let here = self.listener().target().clone();
        match self.listening.place_of(&here) {
            Some(place) => self.listening.turn = place,
            None if self.is_at_replica() || (is_down && count > 0) => {
                if !is_down {
                    self.lose_link(0, hub, &Fault::new(format!("{here} is no replica of {} any more", self.make_link.target)), now);
                }
                self.listening.turn = 0;
                self.go_to_turn();
            }
            None => self.listening.turn = count,
        }
    }

    /// The subscribed connection has ended for this reason, or none came about: who is tried next.
    pub(super) fn listen_elsewhere(&mut self, was_ready: bool, fault: &Fault) {
        let count = self.listening.replicas.len();
        if count == 0 || (was_ready && fault.kind == FaultKind::Closed && self.is_at_replica()) {
            return;
        }
        self.listening.turn = (self.listening.turn + 1) % (count + 1);
        self.go_to_turn();
    }

    fn go_to_turn(&mut self) {
        let target = self.listening.replicas.get(self.listening.turn).unwrap_or(&self.make_link.target).clone();
        self.links[0].link.retarget(target);
    }

    /// A PING on the subscribed connection has to tell of these, which are answered, that their messages do not come.
    pub(super) fn fence(&mut self, fenced: Vec<Fenced>, now: MonotonicNs) {
        if fenced.is_empty() {
            return;
        }
        if self.is_at_replica() {
            let due = now + nanos(REPLICA_LAG);
            return self.listening.late.extend(fenced.into_iter().map(|fenced| (due, fenced)));
        }
        // One serves all of them.
        let ping = self.links[0].link.ping(now);
        fenced.into_iter().for_each(|fenced| self.feed.publishes.fence(fenced, ping));
    }

    /// The same of those that have had their time.
    pub(super) fn fence_late(&mut self, now: MonotonicNs) {
        if self.late_due().is_none_or(|due| now < due) {
            return;
        }
        let ping = self.links[0].link.ping(now);
        while self.late_due().is_some_and(|due| now >= due)
            && let Some((_, fenced)) = self.listening.late.pop_front()
        {
            self.feed.publishes.fence(fenced, ping);
        }
    }

    pub(super) fn late_due(&self) -> Option<MonotonicNs> {
        self.listening.late.front().map(|&(due, _)| due)
    }

    /// The subscribed connection is lost: there is nothing to wait for.
    pub(super) fn give_late_up(&mut self) {
        for (_, fenced) in self.listening.late.drain(..) {
            self.feed.publishes.fence(fenced, 0);
        }
    }

    /// It is another master: whose replicas those were is over.
    pub(super) fn forget_replicas(&mut self) {
        (self.listening.replicas, self.listening.turn) = (Vec::new(), 0);
    }
}
