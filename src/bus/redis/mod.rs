//! The bus through Redis: what it is asked goes to the [`Server`] that has the channel. There is one; a bus of more has more of them, not more kinds of them.
//!
//! From the socket up: [`target`] (URL), [`locate`] (which address next), [`socket`], [`link`] (connection), [`timing`] (its deadlines), [`resp`] (replies),
//! [`awaiting`] (which command a reply answers), [`fault`] (what errors mean), [`names`], [`subscriptions`], [`publishes`], [`output_limit`]
//! (how much may come back), [`feed`] (what comes in), [`revocations`], [`outlet`] (what goes out), [`health`] (what is logged), [`server`] (the links to one
//! server). Of durable channels: [`durable`] (their numbers, and what is missing), [`keys`] (their names), [`library`] (the functions that publish),
//! [`loading`] (into this server), [`call_error`] (what their errors mean). Of users: [`keeping`] (how far they have read).

pub mod awaiting;
pub mod call_error;
pub mod durable;
pub mod fault;
pub mod feed;
pub mod health;
pub mod keeping;
pub mod keys;
pub mod library;
pub mod link;
pub mod loading;
pub mod locate;
pub mod names;
pub mod outlet;
pub mod output_limit;
pub mod publishes;
pub mod resp;
pub mod revocations;
pub mod server;
pub mod socket;
pub mod subscriptions;
pub mod target;
pub mod timing;

use std::sync::Arc;

use mio::event::Event;
use mio::{Registry, Waker};

use super::hub::Hub;
use super::marks::MarksQuestion;
use super::question::{PageWanted, Publish};
use super::revoke::{Revocations, Revoke};
use super::upstream::{FIRST_TOKEN, Upstream};
use crate::clock::MonotonicNs;
use crate::config::Settings;

use server::Server;
use timing::Timing;

#[derive(Debug)]
pub struct RedisBus {
    server: Server,
}

impl RedisBus {
    /// A URL that cannot be used is an error; a server that cannot be reached is not.
    pub fn new(
        url: &str,
        settings: &Settings,
        revocations: Revocations,
        timing: Timing,
        registry: Registry,
        waker: Arc<Waker>,
    ) -> anyhow::Result<RedisBus> {
        Ok(RedisBus { server: Server::new(url, settings, revocations, timing, (Arc::new(registry), waker), FIRST_TOKEN)? })
    }

    /// What the operator sees of it.
    fn tell(&self, hub: &Hub) {
        hub.set_ready(self.server.is_ready());
        hub.metrics().channels_refused.set(self.server.refused_count() as u64);
    }
}

impl Upstream for RedisBus {
    fn want(&mut self, hub: &mut Hub, channel: &str) {
        self.server.want(hub, channel);
    }

    fn unwant(&mut self, _: &mut Hub, channel: &str, had_come: bool) {
        self.server.unwant(channel, had_come);
    }

    fn takes(&mut self, publish: &Publish) -> bool {
        self.server.takes(publish)
    }

    fn publish(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        self.server.publish(hub, publish, now);
    }

    fn revoke(&mut self, revoke: Revoke, now: MonotonicNs) {
        self.server.revoke(revoke, now);
    }

    fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted) {
        self.server.read_page(hub, wanted);
    }

    fn marks(&mut self, _: &mut Hub, question: MarksQuestion, now: MonotonicNs) {
        self.server.marks(question, now);
    }

    fn event(&mut self, event: &Event) {
        self.server.event(event);
    }

    fn read(&mut self, hub: &mut Hub, now: MonotonicNs) -> bool {
        let has_more = self.server.read(hub, now);
        self.tell(hub);
        has_more
    }

    fn write(&mut self, hub: &mut Hub, now: MonotonicNs) {
        self.server.write(hub, now);
        self.tell(hub);
    }

    fn deadline(&self) -> Option<MonotonicNs> {
        self.server.deadline()
    }

    fn stop(&mut self, hub: &mut Hub) {
        self.server.stop(hub);
    }
}
