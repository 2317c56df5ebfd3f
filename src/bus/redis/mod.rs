//! The bus through Redis: what it is asked goes to the [`Server`] that has the channel ([`placement`]): the one, or one of several that know nothing of each
//! other, or a master of a Cluster ([`cluster`]). Invariant: what befalls one server befalls its channels and no others.
//!
//! From the socket up: [`target`] (URL), [`locate`] (which address next), [`socket`], [`link`] (connection), [`timing`] (its deadlines), [`resp`] (replies),
//! [`awaiting`] (which command a reply answers), [`fault`] (what errors mean), [`names`], [`subscriptions`], [`publishes`], [`output_limit`]
//! (how much may come back), [`feed`] (what comes in), [`revocations`], [`outlet`] (what goes out), [`health`] (what is logged), [`server`] (the links to one
//! server). Of durable channels: [`durable`] (their numbers, and what is missing), [`keys`] (their names), [`library`] (the functions that publish),
//! [`loading`] (into this server), [`call_error`] (what their errors mean).

pub mod awaiting;
pub mod call_error;
pub mod cluster;
pub mod durable;
pub mod fault;
pub mod feed;
mod following;
pub mod health;
pub mod keys;
pub mod library;
pub mod link;
pub mod loading;
pub mod locate;
pub mod names;
pub mod outlet;
pub mod output_limit;
pub mod placement;
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
use super::question::{PageWanted, Publish, PublishError};
use super::revoke::{Revocations, Revoke, RevokeError};
use super::upstream::{FIRST_TOKEN, TOKENS, Upstream};
use crate::clock::MonotonicNs;
use crate::config::{Settings, redis_url};
use crate::limits::redis::{LINKS_MAX, SERVERS_MAX};

use following::Cluster;
use placement::{Part, Placement, Slots};
use server::{Seat, Server};
use target::Target;
use timing::Timing;

#[derive(Debug)]
pub struct RedisBus {
    /// By their numbers, which [`Placement`] gives: in the order of the settings; in a Cluster as its masters come and go.
    servers: Vec<Option<Server>>,
    placement: Arc<Placement>,
    cluster: Option<Cluster>,
    /// The one that was read first in the last turn: what a flood of it leaves of the inboxes is not always the same one's.
    first_read: usize,
    /// What was told last of each server.
    told: Vec<bool>,
}

/// Of independent servers, where what is no channel's is kept: revoked tokens.
const FIRST: usize = 0;
const _: () = assert!(SERVERS_MAX * LINKS_MAX < TOKENS);

impl RedisBus {
    /// A URL that cannot be used is an error; a server that cannot be reached is not. There is one at least.
    pub fn new(
        settings: &Settings,
        revocations: Revocations,
        timing: Timing,
        registry: Registry,
        waker: Arc<Waker>,
    ) -> anyhow::Result<RedisBus> {
        let urls: Vec<&str> = settings.redis.urls().collect();
        let make = Make { settings: settings.clone(), timing, registry: Arc::new(registry), waker };
        if let Some(seeds) = urls.first().and_then(|url| redis_url::seeds(url)) {
            let seeds = seeds.iter().map(|seed| Target::from_url(seed).map(Arc::new)).collect::<anyhow::Result<_>>()?;
            let cluster = Cluster::new(seeds, make, revocations);
            let placement = Arc::new(Placement::Slots(Slots::default()));
            return Ok(RedisBus { servers: Vec::new(), placement, cluster: Some(cluster), first_read: 0, told: Vec::new() });
        }
        let placement = Arc::new(Placement::of(urls.len()));
        let server = |(number, url): (usize, &&str)| {
            let part = Part::new(placement.clone(), number);
            let revocations = (number == FIRST).then(|| revocations.clone());
            Ok(Some(make.server(Arc::new(Target::from_url(url)?), revocations, Seat::new(part, urls.len(), number))))
        };
        let servers = urls.iter().enumerate().map(server).collect::<anyhow::Result<_>>()?;
        Ok(RedisBus { servers, placement, cluster: None, first_read: 0, told: Vec::new() })
    }

    /// The one that has the channel. None: its slot has no master now.
    fn of(&mut self, channel: &str) -> Option<&mut Server> {
        let number = self.placement.server_of(channel)?;
        self.servers[number].as_mut()
    }

    fn all(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().flatten()
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Server> {
        self.servers.iter_mut().flatten()
    }

    /// Those that have channels.
    fn serving(&self) -> impl Iterator<Item = &Server> {
        let is_retiring = |number| self.cluster.as_ref().is_some_and(|cluster| cluster.is_retiring(number));
        self.servers.iter().enumerate().filter(move |(number, _)| !is_retiring(*number)).filter_map(|(_, server)| server.as_ref())
    }

    /// What the operator sees of it.
    fn tell(&mut self, hub: &Hub) {
        let is_well = self.cluster.as_ref().map(Cluster::is_well);
        hub.set_ready(is_well != Some(false) && self.serving().all(Server::is_ready));
        hub.metrics().channels_refused.set(self.serving().map(Server::refused_count).sum::<usize>() as u64);
        if !is_well.into_iter().chain(self.serving().map(Server::is_ready)).eq(self.told.iter().copied()) {
            let cluster = self.cluster.iter().map(|cluster| (cluster.name(), cluster.is_well()));
            hub.metrics().servers.tell(cluster.chain(self.serving().map(|server| (server.name(), server.is_ready()))));
            self.told = is_well.into_iter().chain(self.serving().map(Server::is_ready)).collect();
        }
    }
}

impl Upstream for RedisBus {
    fn want(&mut self, hub: &mut Hub, channel: &str) {
        // Where there is none, the map that brings one has it wanted there.
        if let Some(server) = self.of(channel) {
            server.want(hub, channel);
        }
    }

    fn unwant(&mut self, _: &mut Hub, channel: &str, had_come: bool) {
        if let Some(server) = self.of(channel) {
            server.unwant(channel, had_come);
        }
    }

    fn takes(&mut self, publish: &Publish) -> bool {
        // Those that wait to be sent again are not overtaken.
        if self.cluster.as_ref().is_some_and(|cluster| cluster.again.holds(&publish.channel)) {
            return false;
        }
        let is_cluster = self.cluster.is_some();
        self.of(&publish.channel).is_none_or(|server| !(is_cluster && server.is_arriving()) && server.takes(publish))
    }

    fn takes_in_parts(&self) -> bool {
        self.servers.len() > 1
    }

    fn publish(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        match self.of(&publish.channel) {
            Some(server) => server.publish(hub, publish, now),
            None => hub.published(publish, Err(PublishError::Unavailable)),
        }
    }

    fn revoke(&mut self, revoke: Revoke, now: MonotonicNs) {
        let number = self.cluster.as_ref().map_or(Some(FIRST), |cluster| cluster.revocations_at());
        match number.and_then(|number| self.servers[number].as_mut()) {
            Some(server) => server.revoke(revoke, now),
            None => revoke.answer(Err(RevokeError::Unavailable)),
        }
    }

    fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted) {
        match self.of(&wanted.channel.name) {
            Some(server) => server.read_page(hub, wanted),
            None => hub.page(wanted.to, wanted.from, Vec::new()),
        }
    }

    fn event(&mut self, event: &Event) {
        let number = (event.token().0 - FIRST_TOKEN) / LINKS_MAX;
        if let Some(Some(server)) = self.servers.get_mut(number) {
            server.event(event);
        } else if let Some(cluster) = &mut self.cluster {
            cluster.event(event);
        }
    }

    fn read(&mut self, hub: &mut Hub, now: MonotonicNs) -> bool {
        let count = self.servers.len();
        self.first_read = (self.first_read + 1) % count.max(1);
        let mut has_more = false;
        for number in 0..count {
            if let Some(server) = &mut self.servers[(self.first_read + number) % count] {
                has_more |= server.read(hub, now);
            }
        }
        self.follow(hub, now);
        self.tell(hub);
        has_more
    }

    fn write(&mut self, hub: &mut Hub, now: MonotonicNs) {
        self.send_again(hub, now);
        self.all_mut().for_each(|server| server.write(hub, now));
        self.tell(hub);
    }

    fn deadline(&self) -> Option<MonotonicNs> {
        let cluster = self.cluster.as_ref().map(Cluster::deadline);
        self.all().filter_map(Server::deadline).chain(cluster).min()
    }

    fn stop(&mut self, hub: &mut Hub) {
        self.all_mut().for_each(|server| server.stop(hub));
        if let Some(cluster) = &mut self.cluster {
            for (publish, error) in cluster.again.end() {
                hub.published(publish, Err(error));
            }
        }
    }
}

/// What every server is made of.
#[derive(Debug)]
struct Make {
    settings: Settings,
    timing: Timing,
    registry: Arc<Registry>,
    waker: Arc<Waker>,
}

impl Make {
    fn server(&self, target: Arc<Target>, revocations: Option<Revocations>, seat: Seat) -> Server {
        Server::new(target, &self.settings, revocations, self.timing, (self.registry.clone(), self.waker.clone()), seat)
    }
}
