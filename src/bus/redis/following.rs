//! How a bus follows what its URL does not name: the masters that Sentinels name, and those of a Cluster: a server for each, channels where their slots are, and
//! publishes sent again that were sent to the wrong one.
//!
//! Invariants: a channel is wanted of the server that [`Placement`] names, and of no other; when its slot moves it is interrupted, so that a plain one gets its
//! gap and a durable one is repaired from where it stands. A master whose slots all go to another one is followed there by its server, as after an outage.

use std::collections::HashMap;
use std::sync::Arc;

use mio::Token;
use mio::event::Event;

use super::cluster::Redirect;
use super::cluster::again::Again;
use super::cluster::map::{Map, Master, Node, WhoHasWhat};
use super::discovery::Discovery;
use super::placement::{Part, Placement, Slots};
use super::presence::TAG;
use super::revocations::{self, Revocations};
use super::server::{Seat, Server};
use super::target::Target;
use super::{Make, RedisBus, keys};
use crate::bus::hub::Hub;
use crate::bus::upstream::{FIRST_TOKEN, Upstream};
use crate::clock::{MonotonicNs, nanos};
use crate::config::{AuthMode, PubSubFrom};
use crate::limits::redis::cluster::{ASK_LOST, ASK_SOON, REDIRECT_PATIENCE};
use crate::limits::redis::{LINKS_MAX, SERVERS_MAX, sentinel};

#[derive(Debug)]
pub(super) struct Cluster {
    discovery: Discovery<WhoHasWhat>,
    /// As the operator knows it.
    name: String,
    map: Option<Map>,
    /// Every slot has a master that is served.
    is_whole: bool,
    pub again: Again,
    /// Servers without slots, and since when: what they still have to answer comes before they end.
    retiring: Vec<(usize, MonotonicNs)>,
    /// The slot of what is revoked, and who keeps it; what it knows, while that is nobody.
    revocations_slot: u16,
    revocations_at: Option<usize>,
    revocations: Option<Revocations>,
    /// Who keeps who is there.
    users_at: Option<usize>,
}

impl Cluster {
    pub fn new(seeds: Vec<Arc<Target>>, make: &Make) -> Cluster {
        let scheme = if seeds[0].tls().is_some() { "rediss" } else { "redis" };
        let places: Vec<String> = seeds.iter().map(|seed| seed.to_string().split("://").nth(1).unwrap_or_default().to_owned()).collect();
        let settings = &make.settings;
        let revocations = (settings.auth.mode == AuthMode::Jwt).then(|| Revocations::new(settings, make.revocations.clone()));
        Cluster {
            name: format!("{scheme}+cluster://{}", places.join(",")),
            revocations_slot: keys::slot(format!("{}{}", revocations::NAME, settings.redis.prefix).as_bytes()),
            discovery: Discovery::new(WhoHasWhat, seeds, Token(FIRST_TOKEN + SERVERS_MAX * LINKS_MAX), make.wakers(), make.timing),
            map: None,
            is_whole: false,
            again: Again::default(),
            retiring: Vec::new(),
            revocations_at: None,
            users_at: None,
            revocations,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// It is known who the masters are, and each slot has one.
    pub fn is_well(&self) -> bool {
        self.is_whole
    }

    /// No node has told yet who the masters are, and not each has been asked in vain.
    pub fn is_being_found(&self) -> bool {
        self.map.is_none() && self.discovery.is_at_first_round()
    }

    pub fn is_retiring(&self, number: usize) -> bool {
        self.retiring.iter().any(|&(retiring, _)| retiring == number)
    }

    pub fn users_at(&self) -> Option<usize> {
        self.users_at
    }

    pub fn revocations_at(&self) -> Option<usize> {
        self.revocations_at
    }

    pub fn event(&mut self, event: &Event) {
        self.discovery.event(event);
    }

    pub fn deadline(&self) -> MonotonicNs {
        let retirement = self.retiring.iter().map(|(_, since)| since + nanos(REDIRECT_PATIENCE));
        let again = self.again.deadline();
        retirement.chain(again).chain([self.discovery.deadline()]).min().unwrap_or(u64::MAX)
    }
}

impl RedisBus {
    /// Servers go where their Sentinels say that the masters are. What was acknowledged by one that is none any more may be thrown away, so its connections are
    /// closed at once.
    pub(super) fn follow_sentinels(&mut self, hub: &mut Hub, now: MonotonicNs) {
        for number in 0..self.watches.len() {
            let Some(watch) = &mut self.watches[number] else { continue };
            if self.servers[number].as_ref().is_none_or(Server::is_away) {
                watch.ask_within(sentinel::ASK_LOST);
            }
            let target = match watch.drive(now) {
                None => continue,
                Some(Ok(target)) => Arc::new(target),
                Some(Err(reason)) => {
                    tracing::warn!("the master of {} cannot be used: {reason}", watch.name());
                    continue;
                }
            };
            let name = watch.name().to_owned();
            match &mut self.servers[number] {
                Some(server) if server.target().is_where(&target) => {}
                Some(server) => {
                    tracing::warn!("the master of {name} is {target} now, and no more {}", server.name());
                    hub.metrics().failovers.inc();
                    server.retarget(target, hub, now);
                    self.told.clear();
                }
                None => {
                    tracing::info!("the master of {name} is {target}");
                    self.servers[number] = Some(self.independent(number, target));
                    self.told.clear();
                }
            }
        }
    }

    /// Takes in what servers have noticed of their Cluster, and its map if there is a new one.
    pub(super) fn follow(&mut self, hub: &mut Hub, now: MonotonicNs) {
        let Some(cluster) = &mut self.cluster else { return };
        let mut pages = Vec::new();
        for (number, server) in self.servers.iter_mut().enumerate() {
            let Some(server) = server else { continue };
            if let Some(by) = server.take_is_old() {
                cluster.discovery.ask_within(ASK_SOON, by);
            }
            if server.is_away() && !cluster.retiring.iter().any(|&(retiring, _)| retiring == number) {
                cluster.discovery.ask_within(ASK_LOST, None);
            }
            for returned in server.take_returned() {
                match &returned.redirect {
                    Redirect::Moved(node) => cluster.discovery.ask_within(ASK_SOON, node.clone()),
                    Redirect::Ask(_) => {}
                    Redirect::Later => cluster.discovery.ask_within(ASK_LOST, None),
                }
                hub.metrics().redirected.inc();
                if let Some((publish, error)) = cluster.again.put(returned, now) {
                    hub.published(publish, Err(error));
                }
            }
            pages.extend(server.take_foreign_pages());
        }
        if let Some(by) = self.keeping.take_is_old() {
            cluster.discovery.ask_within(ASK_SOON, by);
        }
        if let Some(map) = cluster.discovery.drive(now) {
            match &mut cluster.map {
                Some(known) if *known == map => {}
                Some(known) if known.is_divided_as(&map) => {
                    *known = map;
                    self.place_listeners(hub, now);
                }
                _ => self.take_map(map, hub, now),
            }
        }
        for wanted in pages {
            self.read_page(hub, wanted);
        }
        self.retire(hub, now);
    }

    fn take_map(&mut self, map: Map, hub: &mut Hub, now: MonotonicNs) {
        let Some(cluster) = &mut self.cluster else { return };
        let is_first = cluster.map.is_none();
        let Placement::Slots(before) = &*self.placement else { unreachable!("a Cluster's channels lie by slots") };
        let before = before.clone();
        let numbers = self.numbers(&map, &before, hub, now);
        let mut slots = Slots::default();
        for (Master { slots: ranges, .. }, number) in map.masters.iter().zip(&numbers) {
            if let Some(number) = number {
                slots.set(ranges.iter().cloned().flatten(), *number);
            }
        }
        let Some(cluster) = &mut self.cluster else { return };
        cluster.is_whole = slots.is_whole();
        let count = map.masters.len();
        if is_first {
            tracing::info!("the Cluster at {} has {count} masters", cluster.name);
        } else {
            tracing::info!("the Cluster at {} is divided otherwise now, among {count} masters", cluster.name);
        }
        if !cluster.is_whole {
            tracing::warn!("there are slots of the Cluster at {} that no master serves: their channels bring nothing", cluster.name);
        }
        cluster.map = Some(map);
        cluster.again.hurry();
        // Channels that have moved, before anybody forgets where they were.
        let moves = Moves { before, after: slots.clone() };
        self.placement = Arc::new(Placement::Slots(slots));
        self.keeping.set_placement(self.placement.clone());
        for (number, server) in self.servers.iter_mut().enumerate() {
            if let Some(server) = server {
                server.set_part(Part::new(self.placement.clone(), number), count);
            }
        }
        moves.carry_out(&mut self.servers, hub);
        self.place_listeners(hub, now);
        self.place_revocations();
        self.place_users(hub, now);
        for number in 0..self.servers.len() {
            let Some(cluster) = &mut self.cluster else { return };
            if self.servers[number].is_some() && !numbers.contains(&Some(number)) && !cluster.is_retiring(number) {
                cluster.retiring.push((number, now));
            }
        }
        self.told.clear();
    }

    /// The servers of these masters, made where there are none. None: there are too many.
    fn numbers(&mut self, map: &Map, before: &Slots, hub: &mut Hub, now: MonotonicNs) -> Vec<Option<usize>> {
        let Some(cluster) = &mut self.cluster else { return Vec::new() };
        let (servers, make) = (&mut self.servers, &self.make);
        let at = |servers: &[Option<Server>], node: &Node| {
            servers.iter().position(|server| server.as_ref().is_some_and(|server| server.target().is_at(&node.host, node.port)))
        };
        let mut numbers: Vec<Option<usize>> = map.masters.iter().map(|master| at(servers, &master.node)).collect();
        let mut sizes: HashMap<usize, usize> = HashMap::new();
        (0..keys::SLOTS).filter_map(|slot| before.server_of(slot)).for_each(|server| *sizes.entry(server).or_insert(0) += 1);
        for (at, master) in map.masters.iter().enumerate() {
            if numbers[at].is_some() {
                continue;
            }
            let target = match cluster.discovery.target(&master.node) {
                Ok(target) => target,
                Err(reason) => {
                    tracing::warn!("the master {} of the Cluster at {} cannot be used: {reason}", master.node, cluster.name);
                    continue;
                }
            };
            // Whose place it takes: of most of whose slots it has.
            let mut taken: HashMap<usize, usize> = HashMap::new();
            let slots = master.slots.iter().cloned().flatten();
            slots.filter_map(|slot| before.server_of(slot)).for_each(|server| *taken.entry(server).or_insert(0) += 1);
            let predecessor = taken.into_iter().find(|(server, count)| 2 * count > sizes[server] && !numbers.contains(&Some(*server)));
            if let Some((number, _)) = predecessor
                && let Some(server) = &mut servers[number]
            {
                tracing::info!("{} takes the place of {} in the Cluster", target, server.name());
                hub.metrics().failovers.inc();
                server.retarget(target, hub, now);
                numbers[at] = Some(number);
                continue;
            }
            let free = servers.iter().position(Option::is_none).unwrap_or(servers.len());
            if free >= SERVERS_MAX {
                tracing::error!("the Cluster at {} has more than {SERVERS_MAX} masters: {} is left out", cluster.name, master.node);
                continue;
            }
            // What it has follows when all are there.
            let part = Part::new(self.placement.clone(), free);
            let server = make.server(target, None, Seat::new(part, map.masters.len(), free));
            if free == servers.len() {
                servers.push(None);
            }
            servers[free] = Some(server);
            numbers[at] = Some(free);
        }
        cluster.retiring.retain(|(number, _)| !numbers.contains(&Some(*number)));
        numbers
    }

    /// Each server is told which replicas its master has, where those are to bring the messages.
    fn place_listeners(&mut self, hub: &mut Hub, now: MonotonicNs) {
        let Some(Cluster { discovery, map: Some(map), .. }) = &self.cluster else { return };
        if self.make.settings.redis.pubsub_from == PubSubFrom::Master {
            return;
        }
        for Master { node, replicas, .. } in &map.masters {
            // One that cannot be used is passed over.
            let replicas = replicas.iter().filter_map(|replica| discovery.target(replica).ok()).collect();
            if let Some(server) = self.servers.iter_mut().flatten().find(|server| server.target().is_at(&node.host, node.port)) {
                server.listen_at(replicas, hub, now);
            }
        }
    }

    /// What is revoked is kept by whoever has its slot.
    fn place_revocations(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        let Placement::Slots(slots) = &*self.placement else { return };
        let owner = slots.server_of(cluster.revocations_slot);
        if owner == cluster.revocations_at {
            return;
        }
        if let Some(server) = cluster.revocations_at.take().and_then(|number| self.servers[number].as_mut()) {
            cluster.revocations = server.take_revocations();
        }
        if let Some(number) = owner
            && let Some(server) = &mut self.servers[number]
            && let Some(revocations) = cluster.revocations.take()
        {
            server.give_revocations(revocations);
            cluster.revocations_at = Some(number);
        }
    }

    /// Who is there is kept by whoever has its slot.
    fn place_users(&mut self, hub: &mut Hub, now: MonotonicNs) {
        let Some(cluster) = &mut self.cluster else { return };
        let Placement::Slots(slots) = &*self.placement else { return };
        // Where nobody has it, it stays with whom it was last.
        let Some(owner) = slots.server_of(keys::slot(TAG.as_bytes())) else { return };
        if let Some(before) = cluster.users_at.replace(owner).filter(|&before| before != owner)
            && let Ok([Some(before), Some(after)]) = self.servers.get_disjoint_mut([before, owner])
        {
            before.hand_presence_to(after, hub, now);
        }
        if let Some(server) = &mut self.servers[owner] {
            server.keep_presence();
        }
    }

    /// Servers that have had no slots for long enough end.
    fn retire(&mut self, hub: &mut Hub, now: MonotonicNs) {
        let Some(cluster) = &mut self.cluster else { return };
        let (over, rest) =
            std::mem::take(&mut cluster.retiring).into_iter().partition(|(_, since)| now >= since + nanos(REDIRECT_PATIENCE));
        cluster.retiring = rest;
        let over: Vec<(usize, MonotonicNs)> = over;
        for (number, _) in over {
            if let Some(mut server) = self.servers[number].take() {
                server.stop(hub);
                self.told.clear();
            }
        }
    }

    /// Publishes whose time has come go to whoever has their slot by now.
    pub(super) fn send_again(&mut self, hub: &mut Hub, now: MonotonicNs) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.again.is_empty() {
            return;
        }
        for (publish, error) in cluster.again.overdue(now) {
            hub.published(publish, Err(error));
        }
        let (servers, placement) = (&mut self.servers, &self.placement);
        let number = |servers: &[Option<Server>], channel: &str, ask: Option<&Node>| {
            let is_at =
                |server: &Option<Server>, node: &Node| server.as_ref().is_some_and(|server| server.target().is_at(&node.host, node.port));
            ask.and_then(|node| servers.iter().position(|server| is_at(server, node))).or_else(|| placement.server_of(channel))
        };
        let due = cluster.again.due(now, |publish, ask| {
            let server = number(servers, &publish.channel, ask).and_then(|number| servers[number].as_mut());
            server.is_some_and(|server| server.is_open_for(publish))
        });
        for due in due {
            let number = number(servers, &due.publish.channel, due.ask.as_ref());
            let server = number.and_then(|number| servers[number].as_mut()).expect("it was open a moment ago");
            match due.ask {
                Some(node) if server.target().is_at(&node.host, node.port) => server.publish_asking(hub, due.publish, now),
                Some(_) | None => server.publish(hub, due.publish, now),
            }
        }
    }
}

/// What slots were whose, and whose they are.
struct Moves {
    before: Slots,
    after: Slots,
}

impl Moves {
    fn carry_out(&self, servers: &mut [Option<Server>], hub: &mut Hub) {
        for channel in hub.channels() {
            let slot = keys::slot_of(&channel);
            let (before, after) = (self.before.server_of(slot), self.after.server_of(slot));
            if before == after {
                continue;
            }
            if let Some(server) = before.and_then(|number| servers[number].as_mut()) {
                server.unwant(&channel, hub.comes(&channel));
            }
            hub.interrupt_channel(&channel);
            if let Some(server) = after.and_then(|number| servers[number].as_mut()) {
                server.want(hub, &channel);
            }
        }
    }
}
