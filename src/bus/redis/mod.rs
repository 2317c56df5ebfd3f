//! The bus through Redis: what it is asked goes to the [`Server`] that has the channel ([`placement`]): the one, or one of several that know nothing of each
//! other. Invariant: what befalls one server befalls its channels and no others.
//!
//! From the socket up: [`target`] (URL), [`tls`] (certificates), [`locate`] (which address next), [`socket`], [`link`] (connection), [`timing`] (its deadlines), [`resp`] (replies, of [`values`]),
//! [`awaiting`] (which command a reply answers), [`fault`] (what errors mean), [`names`], [`subscriptions`], [`publishes`], [`output_limit`]
//! (how much may come back), [`feed`] (what comes in), [`revocations`], [`outlet`] (what goes out), [`health`] (what is logged), [`server`] (the links to one
//! server). Of durable channels: [`durable`] (their numbers, and what is missing), [`keys`] (their names), [`library`] (the functions that publish),
//! [`loading`] (into this server), [`call_error`] (what their errors mean), [`eviction`] (whether it would throw them away), [`probe`] (whether they come through). Of all nodes:
//! [`presence`] (who is there), [`census`] (which channels, of all servers).

pub mod awaiting;
pub mod call_error;
pub mod census;
pub mod durable;
pub mod eviction;
pub mod fault;
pub mod feed;
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
pub mod presence;
pub mod probe;
pub mod publishes;
pub mod resp;
pub mod revocations;
pub mod server;
pub mod socket;
pub mod subscriptions;
pub mod target;
pub mod timing;
pub mod tls;
pub mod values;

use std::sync::Arc;

use mio::event::Event;
use mio::{Registry, Waker};

use super::hub::Hub;
use super::presence::{CensusAsked, PresenceAsked};
use super::question::{HistoryAsked, PageWanted, Publish};
use super::revoke::{Revocations, Revoke};
use super::upstream::{FIRST_TOKEN, TOKENS, Upstream};
use crate::clock::{MonotonicNs, nanos};
use crate::config::Settings;
use crate::limits::bus::presence::LOOKS_PER_TURN;
use crate::limits::redis::presence::LOOK_EVERY;
use crate::limits::redis::{LINKS_MAX, SERVERS_MAX};

use census::Censuses;
use placement::{Part, Placement};
use presence::Census;
use server::{Seat, Server};
use timing::Timing;

#[derive(Debug)]
pub struct RedisBus {
    /// In the order of the settings, by which [`Placement`] counts them.
    servers: Vec<Server>,
    placement: Arc<Placement>,
    /// The one that was read first in the last turn: what a flood of it leaves of the inboxes is not always the same one's.
    first_read: usize,
    censuses: Censuses,
    /// What this node has of channels and users is looked at, and told to the servers, when the time has come; None: nothing is counted.
    look_at: Option<MonotonicNs>,
}

/// Where what is no channel's is kept: revoked tokens.
const FIRST: usize = 0;
const _: () = assert!(SERVERS_MAX * LINKS_MAX <= TOKENS);

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
        let placement = Arc::new(Placement::of(urls.len()));
        let registry = Arc::new(registry);
        let node = format!("{:016x}", fastrand::u64(..));
        let server = |(number, url): (usize, &&str)| {
            let seat =
                Seat { part: Part::new(placement.clone(), number), servers: urls.len(), first_token: FIRST_TOKEN + number * LINKS_MAX };
            let revocations = (number == FIRST).then(|| revocations.clone());
            Server::new(url, settings, revocations, timing, (registry.clone(), waker.clone()), seat, &node)
        };
        let servers = urls.iter().enumerate().map(server).collect::<anyhow::Result<_>>()?;
        Ok(RedisBus { servers, placement, first_read: 0, censuses: Censuses::default(), look_at: None })
    }

    /// The one that has the channel.
    fn of(&mut self, channel: &str) -> &mut Server {
        &mut self.servers[self.placement.server_of(channel)]
    }

    /// What has changed of who is there on this node goes to the servers that are to keep it.
    fn count(&mut self, hub: &mut Hub, now: MonotonicNs) {
        let is_counting = hub.counts_presence() || self.servers.iter().any(Server::has_counted);
        if !is_counting {
            self.look_at = None;
            return;
        }
        if self.look_at.is_some_and(|look_at| now < look_at) {
            return;
        }
        let RedisBus { servers, placement, .. } = self;
        for (user, connections) in hub.changed_users(LOOKS_PER_TURN) {
            servers[placement.server_of(&user)].count_user(&user, connections);
        }
        for (channel, roster) in hub.changed_rosters(LOOKS_PER_TURN / 16) {
            servers[placement.server_of(&channel)].list_members(&channel, &roster);
        }
        let is_over = hub.look_at_attendance(|channel, subscribers| {
            servers[placement.server_of(channel)].count_channel(channel, subscribers);
        });
        self.look_at = Some(if is_over { now + nanos(LOOK_EVERY) } else { now });
    }

    fn gather(&mut self, hub: &mut Hub) {
        for server in &mut self.servers {
            for part in server.take_censuses() {
                self.censuses.take(hub, part);
            }
        }
    }

    /// What the operator sees of it.
    fn tell(&self, hub: &Hub) {
        hub.set_ready(self.servers.iter().all(Server::is_ready));
        hub.metrics().channels_refused.set(self.servers.iter().map(Server::refused_count).sum::<usize>() as u64);
        hub.metrics().servers.tell(self.servers.iter().map(Server::is_ready), || self.servers.iter().map(Server::name).collect());
    }
}

impl Upstream for RedisBus {
    fn want(&mut self, hub: &mut Hub, channel: &str) {
        self.of(channel).want(hub, channel);
    }

    fn unwant(&mut self, _: &mut Hub, channel: &str, had_come: bool) {
        self.of(channel).unwant(channel, had_come);
    }

    fn takes(&mut self, publish: &Publish) -> bool {
        self.of(&publish.channel).takes(publish)
    }

    fn takes_in_parts(&self) -> bool {
        self.servers.len() > 1
    }

    fn publish(&mut self, hub: &mut Hub, publish: Publish, now: MonotonicNs) {
        let server = self.placement.server_of(&publish.channel);
        self.servers[server].publish(hub, publish, now);
    }

    fn revoke(&mut self, revoke: Revoke, now: MonotonicNs) {
        self.servers[FIRST].revoke(revoke, now);
    }

    fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted) {
        let server = self.placement.server_of(&wanted.channel.name);
        self.servers[server].read_page(hub, wanted);
    }

    fn recall(&mut self, hub: &mut Hub, asked: HistoryAsked) {
        let server = self.placement.server_of(&asked.recall.channel);
        self.servers[server].recall(hub, asked);
    }

    fn presence(&mut self, hub: &mut Hub, asked: PresenceAsked) {
        let server = self.placement.server_of(asked.subject.name());
        self.servers[server].presence(hub, asked);
    }

    fn census(&mut self, hub: &mut Hub, asked: CensusAsked) {
        let number = self.censuses.begin(asked.asker, asked.limit, self.servers.len());
        for server in &mut self.servers {
            server.census(Census::new(number, asked.after.clone(), asked.limit));
        }
        self.gather(hub);
    }

    fn event(&mut self, event: &Event) {
        if let Some(server) = self.servers.get_mut((event.token().0 - FIRST_TOKEN) / LINKS_MAX) {
            server.event(event);
        }
    }

    fn read(&mut self, hub: &mut Hub, now: MonotonicNs) -> bool {
        let count = self.servers.len();
        self.first_read = (self.first_read + 1) % count;
        let mut has_more = false;
        for number in 0..count {
            has_more |= self.servers[(self.first_read + number) % count].read(hub, now);
        }
        self.gather(hub);
        self.tell(hub);
        has_more
    }

    fn write(&mut self, hub: &mut Hub, now: MonotonicNs) {
        self.count(hub, now);
        self.servers.iter_mut().for_each(|server| server.write(hub, now));
        self.gather(hub);
        self.tell(hub);
    }

    fn deadline(&self) -> Option<MonotonicNs> {
        self.servers.iter().filter_map(Server::deadline).chain(self.look_at).min()
    }

    fn stop(&mut self, hub: &mut Hub) {
        self.servers.iter_mut().for_each(|server| server.stop(hub));
        self.gather(hub);
    }
}
