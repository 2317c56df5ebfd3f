//! A shard without a server: the other ends of its inboxes, a network of the test's own, and what a client makes of what it is sent. The
//! simulation, the scenarios and the bench of a lap each use a part of it.

#![allow(dead_code)]

pub mod client;
pub mod net;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use campanile::auth::revoked::Revoked;
use campanile::bus::{BusCommand, BusSender, ShardMessage};
use campanile::config::Settings;
use campanile::inbox::{Inbox, InboxSender, inbox};
use campanile::life::Life;
use campanile::metrics::ShardMetrics;
use campanile::shard::by_address::ByAddress;
use campanile::shard::depart::Departures;
use campanile::shard::load::HostLoad;
use campanile::shard::net::Network;
use campanile::shard::settings::ShardSettings;
use campanile::shard::{Parts, Shard};

/// Of the channels of tests, which have few.
pub const DEFLATE_SUBSCRIBERS_MIN: u32 = 2;

/// A shard, with all that it is wired to.
pub struct Rig<N: Network> {
    pub shard: Shard<N>,
    pub metrics: Arc<ShardMetrics>,
    pub addresses: Arc<ByAddress>,
    pub host: Arc<HostLoad>,
    pub revoked: Arc<Revoked>,
    pub life: Arc<Life>,
    pub to_shard: InboxSender<ShardMessage>,
    pub from_shard: Inbox<BusCommand>,
    /// What the inboxes' wakers are registered with; nobody sleeps on them.
    polls: [mio::Poll; 2],
}

impl<N: Network> Rig<N> {
    pub fn new(net: N, settings: &Settings, inbox_messages: usize) -> Rig<N> {
        let polls = [mio::Poll::new().unwrap(), mio::Poll::new().unwrap()];
        let (to_shard, shard_inbox) = inbox(inbox_messages, polls[0].registry(), mio::Token(0)).unwrap();
        let (to_bus, from_shard) = inbox(inbox_messages, polls[1].registry(), mio::Token(0)).unwrap();
        let metrics = Arc::new(ShardMetrics::default());
        let life = Arc::new(Life::default());
        let revoked = Arc::new(Revoked::default());
        let addresses = Arc::new(ByAddress::new(&settings.bounds));
        let host: Arc<HostLoad> = Arc::default();
        let parts = Parts {
            index: 0,
            settings: Arc::new(ShardSettings { deflate_subscribers_min: DEFLATE_SUBSCRIBERS_MIN, ..ShardSettings::from(settings) }),
            metrics: metrics.clone(),
            inbox: shard_inbox,
            bus: BusSender::new(to_bus, inbox_messages),
            connections: Arc::new(AtomicUsize::new(0)),
            addresses: addresses.clone(),
            host: host.clone(),
            life: life.clone(),
            departures: Arc::new(Departures::new(settings.clients.drain_rate)),
            node_id: 1,
            gate: settings.auth.gate().unwrap(),
            revoked: revoked.clone(),
            peer_of: net::peer_of,
        };
        Rig { shard: Shard::new(net, parts), metrics, addresses, host, revoked, life, to_shard, from_shard, polls }
    }
}

/// The defaults for a server of one shard, so that no bound is divided, with a change.
pub fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    Settings::default().with(|settings| settings.shards.count = 1).with(change)
}
