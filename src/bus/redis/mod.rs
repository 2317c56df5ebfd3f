//! The bus through Redis: what it is asked goes to the [`Server`] that has the channel ([`placement`]): the one, or one of several that know nothing of each
//! other, or a master of a Cluster ([`cluster`]). Where it is, its URL says, or Sentinels do ([`sentinel`]). Invariant: what befalls one server befalls its channels
//! and no others.
//!
//! From the socket up: [`target`] (URL), [`tls`] (certificates), [`locate`] (which address next), [`socket`], [`link`] (connection), [`timing`] (its deadlines), [`resp`] (replies, of [`values`]),
//! [`awaiting`] (which command a reply answers), [`fault`] (what errors mean), [`names`], [`subscriptions`], [`publishes`], [`output_limit`]
//! (how much may come back), [`feed`] (what comes in), [`revocations`], [`outlet`] (what goes out), [`health`] (what is logged), [`server`] (the links to one
//! server). Of durable channels: [`durable`] (their numbers, and what is missing), [`keys`] (their names), [`library`] (the functions that publish),
//! [`loading`] (into this server), [`call_error`] (what their errors mean), [`eviction`] (whether it would throw them away), [`probe`] (whether they come through). Of users:
//! [`keeping`] (how far they have read). What is asked before there is a connection for it: `early`. Of all nodes: [`presence`] (who is there), [`census`] (which channels, of all servers).

pub mod awaiting;
pub mod call_error;
pub mod census;
pub mod cluster;
pub mod discovery;
pub mod durable;
mod early;
pub mod eviction;
pub mod fault;
pub mod feed;
mod following;
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
pub mod placement;
pub mod presence;
pub mod probe;
pub mod publishes;
pub mod resp;
pub mod revocations;
pub mod role;
pub mod sentinel;
pub mod server;
pub mod socket;
pub mod subscriptions;
pub mod target;
pub mod timing;
pub mod tls;
pub mod values;

use std::sync::Arc;

use mio::event::Event;
use mio::{Registry, Token, Waker};

use super::hub::Hub;
use super::marks::MarksQuestion;
use super::presence::{CensusAsked, PresenceAsked, PresenceError};
use super::question::{Answer, HistoryAsked, PageWanted, Publish, PublishError, Question};
use super::revoke::{Revocations, Revoke, RevokeError};
use super::upstream::{FIRST_TOKEN, TOKENS, Upstream};
use crate::clock::{MonotonicNs, nanos};
use crate::config::Settings;
use crate::config::redis_url::{self, Watched};
use crate::limits::bus::presence::LOOKS_PER_TURN;
use crate::limits::redis::presence::LOOK_EVERY;
use crate::limits::redis::{LINKS_MAX, SERVERS_MAX};
use crate::metrics::{Counter, ServerState};

use census::Censuses;
use early::Early;
use following::Cluster;
use keeping::Keeping;
use placement::{Part, Placement, Slots};
use presence::Census;
use sentinel::Watch;
use server::{Seat, Server};
use target::Target;
use timing::Timing;

#[derive(Debug)]
pub struct RedisBus {
    /// By their numbers, which [`Placement`] gives: in the order of the settings; in a Cluster as its masters come and go.
    servers: Vec<Option<Server>>,
    placement: Arc<Placement>,
    make: Make,
    cluster: Option<Cluster>,
    /// By the numbers of their servers: of those that Sentinels know the place of.
    watches: Vec<Option<Watch>>,
    /// What they keep of users.
    keeping: Keeping,
    /// The one that was read first in the last turn: what a flood of it leaves of the inboxes is not always the same one's.
    first_read: usize,
    /// What was told last of each server.
    told: Vec<bool>,
    censuses: Censuses,
    early: Early,
    /// What this node has of channels and users is looked at, and told to the servers, when the time has come; None: nothing is counted.
    look_at: Option<MonotonicNs>,
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
        let files = settings.redis.tls();
        let target = |url: &str| Target::new(url, &files).map(Arc::new);
        let targets = |urls: &[String]| urls.iter().map(|url| target(url)).collect::<anyhow::Result<Vec<_>>>();
        let make = Make {
            settings: settings.clone(),
            revocations,
            timing,
            registry: Arc::new(registry),
            waker,
            node: format!("{:016x}", fastrand::u64(..)).into(),
        };
        let cluster = match urls.first().and_then(|url| redis_url::seeds(url)) {
            Some(seeds) => Some(Cluster::new(targets(&seeds)?, &make)),
            None => None,
        };
        let placement = if cluster.is_some() { Placement::Slots(Slots::default()) } else { Placement::of(urls.len()) };
        let placement = Arc::new(placement);
        let mut bus = RedisBus {
            servers: Vec::new(),
            keeping: Keeping::new(settings, placement.clone()),
            placement,
            make,
            cluster,
            watches: Vec::new(),
            first_read: 0,
            told: Vec::new(),
            censuses: Censuses::default(),
            early: Early::default(),
            look_at: None,
        };
        if bus.cluster.is_none() {
            for (number, url) in urls.iter().enumerate() {
                let watched = redis_url::watched(url);
                let server = if watched.is_none() { Some(bus.independent(number, target(url)?)) } else { None };
                let watch = match watched {
                    Some(Watched { sentinels, login, service }) => {
                        let named = (targets(&sentinels)?, Target::new(&login, &files)?, service);
                        // The last token of its server.
                        let token = Token(FIRST_TOKEN + (number + 1) * LINKS_MAX - 1);
                        Some(Watch::new(named, token, bus.make.wakers(), timing))
                    }
                    None => None,
                };
                bus.servers.push(server);
                bus.watches.push(watch);
            }
        }
        Ok(bus)
    }

    /// One of several that know nothing of each other, or the only one.
    fn independent(&self, number: usize, target: Arc<Target>) -> Server {
        let servers = self.make.settings.redis.urls().count();
        let revocations = (number == FIRST).then(|| self.make.revocations.clone());
        let must_be_master = self.make.settings.redis.urls().nth(number).is_some_and(|url| redis_url::watched(url).is_some());
        let seat = Seat { must_be_master, ..Seat::new(Part::new(self.placement.clone(), number), servers, number) };
        self.make.server(target, revocations, seat)
    }

    /// The one that has the channel. None: its slot has no master now.
    fn of(&mut self, channel: &str) -> Option<&mut Server> {
        let number = self.placement.server_of(channel)?;
        self.servers[number].as_mut()
    }

    /// The number of the one that keeps what is counted of this name. In a Cluster one keeps it all.
    fn users_at(&self, name: &str) -> Option<usize> {
        match &self.cluster {
            Some(cluster) => cluster.users_at(),
            None => self.placement.server_of(name),
        }
    }

    fn of_users(&mut self, name: &str) -> Option<&mut Server> {
        let number = self.users_at(name)?;
        self.servers[number].as_mut()
    }

    /// Those that keep what is counted of channels; None for one that is not known yet.
    fn counting(&self) -> Vec<Option<usize>> {
        match &self.cluster {
            Some(cluster) => vec![cluster.users_at()],
            None => (0..self.servers.len()).map(Some).collect(),
        }
    }

    fn count_channels(&mut self, hub: &mut Hub, CensusAsked { after, limit, asker }: CensusAsked) {
        let counting: Vec<usize> = self.counting().into_iter().flatten().collect();
        if counting.is_empty() {
            return hub.answer(asker, Answer::Census { result: Err(PresenceError::Unavailable) });
        }
        let census = self.censuses.begin(asker, limit, counting.len());
        for number in counting {
            match &mut self.servers[number] {
                Some(server) => server.census(Census::new(census, after.clone(), limit)),
                None => self.censuses.take(hub, Census::failed(census, PresenceError::Unavailable)),
            }
        }
        self.gather(hub);
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

    /// Takes what the servers have answered about users.
    fn collect(&mut self, hub: &mut Hub, now: MonotonicNs) {
        for (number, server) in self.servers.iter_mut().enumerate() {
            if let Some(server) = server.as_mut().filter(|server| server.desk.has_news()) {
                self.keeping.collect(number, &mut server.desk, hub, now);
            }
        }
    }

    /// What has changed of who is there on this node goes to the servers that are to keep it.
    fn count(&mut self, hub: &mut Hub, now: MonotonicNs) {
        let is_counting = hub.counts_presence() || self.all().any(Server::has_counted);
        if !is_counting {
            self.look_at = None;
            return;
        }
        if self.look_at.is_some_and(|look_at| now < look_at) {
            return;
        }
        // Until it is known who keeps it, what changes waits where it is.
        if self.cluster.as_ref().is_some_and(|cluster| cluster.users_at().is_none())
            || self.servers.iter().any(Option::is_none) && self.cluster.is_none()
        {
            self.look_at = Some(now + nanos(LOOK_EVERY));
            return;
        }
        for (user, connections) in hub.changed_users(LOOKS_PER_TURN) {
            self.of_users(&user).into_iter().for_each(|server| server.count_user(&user, connections));
        }
        for (channel, roster) in hub.changed_rosters(LOOKS_PER_TURN / 16) {
            self.of_users(&channel).into_iter().for_each(|server| server.list_members(&channel, &roster));
        }
        let is_over = hub.look_at_attendance(|channel, subscribers| {
            self.of_users(channel).into_iter().for_each(|server| server.count_channel(channel, subscribers));
        });
        self.look_at = Some(if is_over { now + nanos(LOOK_EVERY) } else { now });
    }

    fn gather(&mut self, hub: &mut Hub) {
        for server in self.servers.iter_mut().flatten() {
            for part in server.take_censuses() {
                self.censuses.take(hub, part);
            }
        }
    }

    /// What the operator sees of it.
    fn tell(&mut self, hub: &Hub) {
        hub.set_ready(self.states().all(|(_, is_ready)| is_ready));
        hub.metrics().channels_refused.set(self.serving().map(Server::refused_count).sum::<usize>() as u64);
        if !self.states().map(|(_, is_ready)| is_ready).eq(self.told.iter().copied()) {
            let state = |(named, is_ready): (Named<'_>, bool)| ServerState { name: named.text(), is_ready, probed_ns: named.probed() };
            hub.metrics().servers.tell(self.states().map(state));
            self.told = self.states().map(|(_, is_ready)| is_ready).collect();
        }
    }

    /// Whether each of the servers is ready, and whether it is known which those are.
    fn states(&self) -> impl Iterator<Item = (Named<'_>, bool)> {
        let cluster = self.cluster.iter().map(|cluster| (Named::Text(cluster.name()), cluster.is_well()));
        let unknown = self.watches.iter().zip(&self.servers).filter(|(_, server)| server.is_none());
        let unknown = unknown.filter_map(|(watch, _)| watch.as_ref()).map(|watch| (Named::Text(watch.name()), false));
        cluster.chain(unknown).chain(self.serving().map(|server| (Named::Server(server), server.is_ready())))
    }
}

/// What has a name, which is made when it is told.
enum Named<'a> {
    Text(&'a str),
    Server(&'a Server),
}

impl Named<'_> {
    fn text(&self) -> String {
        match self {
            Named::Text(text) => (*text).to_owned(),
            Named::Server(server) => server.name(),
        }
    }

    /// When a probe came back last. A Cluster's are those of its masters.
    fn probed(&self) -> Arc<Counter> {
        match self {
            Named::Text(_) => Arc::default(),
            Named::Server(server) => server.probed(),
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
        let number = self.placement.server_of(&publish.channel);
        if self.may_come(number) {
            return false;
        }
        number.and_then(|number| self.servers[number].as_mut()).is_none_or(|server| server.takes(publish))
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

    fn recall(&mut self, hub: &mut Hub, asked: HistoryAsked) {
        self.ask(hub, Question::History(asked));
    }

    fn marks(&mut self, hub: &mut Hub, question: Box<MarksQuestion>, _: MonotonicNs) {
        self.ask(hub, Question::Marks(question));
    }

    fn presence(&mut self, hub: &mut Hub, asked: PresenceAsked) {
        self.ask(hub, Question::Presence(asked));
    }

    fn census(&mut self, hub: &mut Hub, asked: CensusAsked) {
        self.ask(hub, Question::Census(asked));
    }

    fn event(&mut self, event: &Event) {
        let number = (event.token().0 - FIRST_TOKEN) / LINKS_MAX;
        if let Some(Some(server)) = self.servers.get_mut(number) {
            server.event(event);
        }
        if let Some(Some(watch)) = self.watches.get_mut(number) {
            watch.event(event);
        }
        if let Some(cluster) = &mut self.cluster {
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
        self.follow_sentinels(hub, now);
        self.collect(hub, now);
        self.gather(hub);
        self.tell(hub);
        has_more
    }

    fn write(&mut self, hub: &mut Hub, now: MonotonicNs) {
        self.ask_early(hub, now);
        self.send_again(hub, now);
        self.keeping.expire(hub, now);
        self.count(hub, now);
        for (number, server) in self.servers.iter_mut().enumerate() {
            if let Some(server) = server {
                self.keeping.give(number, &mut server.desk);
                server.write(hub, now);
            }
        }
        // A connection that could not be written to has lost what it was given.
        self.collect(hub, now);
        self.gather(hub);
        self.tell(hub);
    }

    fn deadline(&self) -> Option<MonotonicNs> {
        let cluster = self.cluster.as_ref().map(Cluster::deadline);
        let watches = self.watches.iter().flatten().map(Watch::deadline);
        self.all()
            .filter_map(Server::deadline)
            .chain(cluster)
            .chain(watches)
            .chain(self.keeping.deadline())
            .chain(self.look_at)
            .chain(self.early.deadline())
            .min()
    }

    fn stop(&mut self, hub: &mut Hub) {
        self.end_early(hub);
        self.all_mut().for_each(|server| server.stop(hub));
        self.keeping.stop(hub);
        self.gather(hub);
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
    revocations: Revocations,
    timing: Timing,
    registry: Arc<Registry>,
    waker: Arc<Waker>,
    /// What this process is called among the nodes.
    node: Box<str>,
}

impl Make {
    fn server(&self, target: Arc<Target>, revocations: Option<Revocations>, seat: Seat) -> Server {
        Server::new(target, &self.settings, revocations, self.timing, self.wakers(), seat, &self.node)
    }

    fn wakers(&self) -> (Arc<Registry>, Arc<Waker>) {
        (self.registry.clone(), self.waker.clone())
    }
}
