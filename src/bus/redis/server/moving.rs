//! A server whose place or channels change: a master of a Cluster, or one that Sentinels name.

use std::sync::Arc;

use super::{Role, Server};
use crate::bus::hub::Hub;
use crate::bus::question::{PageWanted, Publish};
use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::cluster::again::Returned;
use crate::bus::redis::cluster::map::Node;
use crate::bus::redis::fault::Fault;
use crate::bus::redis::link::Link;
use crate::bus::redis::placement::Part;
use crate::bus::redis::revocations::Revocations;
use crate::bus::redis::target::Target;
use crate::clock::MonotonicNs;

impl Server {
    /// Where it is.
    pub fn target(&self) -> &Target {
        &self.make_link.target
    }

    /// Its slots have a new master: what was done there is done here from now on, as after an outage.
    pub fn retarget(&mut self, target: Arc<Target>, hub: &mut Hub, now: MonotonicNs) {
        self.forget_replicas();
        for at in 0..self.links.len() {
            self.lose_link(at, hub, &Fault::new(format!("the master is {target} now")), now);
            let link = &mut self.links[at].link;
            link.retarget(target.clone());
            link.retry_at_once(now);
        }
        self.health.retarget(target.to_string());
        self.feed.retarget(&target);
        self.library.iter_mut().for_each(|library| library.retarget(&target));
        self.make_link.target = target;
        self.feed.durables.doubt(now);
    }

    /// It is not subscribed, for whatever reason.
    pub fn is_away(&self) -> bool {
        !self.is_subscribed()
    }

    /// It is about to be connected, and has not failed to be.
    pub fn is_arriving(&self) -> bool {
        self.link(Role::Subscribed).is_some_and(|link| !link.is_ready() && !link.is_backing_off())
    }

    /// It has just been made, and may be there in a moment.
    pub fn is_at_first_try(&self) -> bool {
        self.link(Role::Subscribed).is_some_and(Link::is_at_first_try)
    }

    /// A publish that has time would be sent at once.
    pub fn is_open_for(&mut self, publish: &Publish) -> bool {
        self.takes(publish) && self.link(Role::Publishing).is_some_and(Link::is_ready)
    }

    /// Other channels are its own from now on ([`super::Feed::set_part`]).
    pub fn set_part(&mut self, part: Part, servers: usize) {
        self.outlet.share_among(servers);
        self.feed.set_part(part, servers);
    }

    /// Whether something shows that the map is old, and who knows better.
    pub fn take_is_old(&mut self) -> Option<Option<Node>> {
        self.feed.take_is_old()
    }

    /// Publishes that it has not executed.
    pub fn take_returned(&mut self) -> Vec<Returned> {
        self.outlet.take_returned()
    }

    pub fn take_foreign_pages(&mut self) -> Vec<PageWanted> {
        self.feed.durables.take_foreign_pages()
    }

    /// In a Cluster: who is there is kept here.
    pub fn keep_presence(&mut self) {
        self.keeps_presence = true;
    }

    /// Who is there is kept by the other one from now on, where it is to be written anew.
    pub fn hand_presence_to(&mut self, other: &mut Server, hub: &mut Hub, now: MonotonicNs) {
        for server in [&mut *self, &mut *other] {
            for at in (0..server.links.len()).filter(|&at| server.links[at].role == Role::Presence).collect::<Vec<_>>() {
                server.lose_link(at, hub, &Fault::new("its slot is another master's now"), now);
            }
        }
        std::mem::swap(&mut self.presence, &mut other.presence);
        self.keeps_presence = false;
    }

    pub fn take_revocations(&mut self) -> Option<Revocations> {
        self.feed.take_revocations()
    }

    pub fn give_revocations(&mut self, revocations: Revocations) {
        self.feed.give_revocations(revocations);
    }

    /// One that it has to be asked to take, as its slot is not its own yet.
    pub fn publish_asking(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        if let Some(link) = self.link_mut(Role::Publishing).filter(|link| link.is_ready()) {
            link.ask(Asked::Asking, &[b"ASKING"], now);
        }
        self.publish(hub, publish, now);
    }
}
