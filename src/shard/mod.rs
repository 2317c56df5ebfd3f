//! One shard: the sockets of one thread and everything they need, nothing shared with other shards.
//!
//! [`Shard::turn`] is the loop's body and reads like the design: named stages in order, each under a budget. The shard is
//! generic over [`net::Network`], so that the simulator drives the very same code with sockets and a clock of its own.
//!
//! The stages live in files of their own: `arrivals` (who connects, from where), `admission` (who gets in), `identify` (who that is), `read` (frames and commands), `subscribe` (subscriptions and the bus's
//! answers; `rules` says who may have which, `recheck` asks that again, `reload` puts others into force, and [`sources`] says who may have how many), `questions` (what else is asked of the bus; `marks`: how far users have read; `presence`: who is there), `logs` (what the bus sends, kept until everybody has it), `renumber` (a channel that is counted
//! anew), [`timers`] and `heartbeat`,
//! [`load`] (whether more may come in), `strangers` (who has not said yet what it wants),
//! [`behind`] (who has not been sent everything), `rests` (how soon laps follow each other), `pacing` (who wants the newest of a second), `aside` (messages without a number), `feeds` (event streams and polls), `flush` (one `writev` per due connection, of what `gather` finds; `deflate`: what of it is compressed), `close` (closing,
//! reaping), `stop`, [`depart`] (who is asked to come back elsewhere), `orders` (of the control thread). [`secured`] is a socket with TLS over it. `buffers` is the account of what connections hold for themselves.

mod admission;
mod arrivals;
mod aside;
pub mod behind;
mod buffers;
pub mod by_address;
mod close;
pub mod conn;
mod deflate;
pub mod depart;
mod feeds;
mod flush;
mod gather;
mod heartbeat;
mod identify;
mod laps;
pub mod load;
mod logs;
mod marks;
pub mod net;
mod orders;
mod pacing;
mod presence;
mod questions;
pub mod rate;
mod read;
mod recheck;
mod reload;
mod renumber;
mod replay;
mod rests;
mod rules;
pub mod run;
pub mod secured;
pub mod settings;
pub mod sockets;
pub mod sources;
mod stop;
mod strangers;
mod subscribe;
pub mod timers;
mod waiters;
pub mod wheel;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use slab::Slab;

use crate::auth::Gate;
use crate::auth::revoked::Revoked;
use crate::bus::shares::Publishers;
use crate::bus::{BusSender, ConnToken, ShardMessage};
use crate::clock::MonotonicNs;
use crate::config::SharedRules;
use crate::fanout::topics::Topics;
use crate::inbox::Inbox;
use crate::life::{Life, Stage};
use crate::limits;
use crate::metrics::{LoadCause, ShardMetrics};
use crate::wire::http::refusal::RefusalReason;
use crate::wire::http::upgrade::Upgrade;
use crate::wire::peer::Peer;
use aside::Asides;
use by_address::ByAddress;
use conn::{Conn, Flags};
use deflate::Deflate;
use depart::{Departing, Departures};
use feeds::Streams;
use identify::Door;
use laps::Laps;
use load::{HostLoad, Load};
use logs::Logs;
use marks::MarkReaders;
use net::{Network, Readiness};
use orders::Orders;
use presence::{Rosters, Users};
use rate::{Moment, Rate, moment};
use recheck::Recheck;
use replay::Replays;
use rests::Rest;
use settings::ShardSettings;
use sources::Sources;
use strangers::PlaceSearch;
use waiters::Waiters;
use wheel::{TICK_NS, Tick, Wheel};

/// What a shard is made with.
#[derive(Debug)]
pub struct Parts {
    pub index: u16,
    pub settings: Arc<ShardSettings>,
    pub metrics: Arc<ShardMetrics>,
    pub inbox: Inbox<ShardMessage>,
    pub bus: BusSender,
    /// Open WebSocket connections of the whole process, for `connections_max`.
    pub connections: Arc<AtomicUsize>,
    /// What addresses take of the process.
    pub addresses: Arc<ByAddress>,
    /// What is known of the host.
    pub host: Arc<HostLoad>,
    /// Whether the process serves, drains or stops.
    pub life: Arc<Life>,
    /// How fast connections are asked to go, in the whole process.
    pub departures: Arc<Departures>,
    /// Distinguishes this process in client ids.
    pub node_id: u32,
    /// How clients say who they are.
    pub gate: Gate,
    /// Whose tokens are honoured no more, in the whole process.
    pub revoked: Arc<Revoked>,
    /// Who asks for an upgrade: [`Peer::of`], but in the simulation, some of whose clients cannot be pinged.
    pub peer_of: fn(&Upgrade<'_>) -> Peer,
}

#[derive(Debug)]
pub struct Shard<N: Network> {
    net: N,
    index: u16,
    node_id: u32,
    peer_of: fn(&Upgrade<'_>) -> Peer,
    settings: Arc<ShardSettings>,
    metrics: Arc<ShardMetrics>,
    inbox: Inbox<ShardMessage>,
    bus: BusSender,
    connections: Arc<AtomicUsize>,
    addresses: Arc<ByAddress>,
    host: Arc<HostLoad>,
    load: Load,
    life: Arc<Life>,
    departures: Arc<Departures>,
    door: Door,

    conns: Slab<Conn<N::Stream>>,
    generations: u32,
    topics: Topics,
    logs: Logs,
    waiters: Waiters,
    sources: Sources,
    rules: Arc<SharedRules>,
    recheck: Recheck,
    /// What connections have under way to the bus.
    publishers: Publishers,
    mark_askers: Publishers,
    mark_readers: MarkReaders,
    /// Whose connections have become more or less since the bus was told.
    users: Users,
    rosters: Rosters,
    wheel: Wheel,

    /// Connections with something to read, each once.
    reading: VecDeque<ConnToken>,
    /// Connections whose stream has no place to begin yet.
    queued: VecDeque<ConnToken>,
    /// Connections with something to write and no lap to come by for it: replies, replays, sockets that have room again.
    ready: VecDeque<ConnToken>,
    /// Topics that have something for their members.
    laps: Laps,
    /// Messages without a number that are on their way to members.
    asides: Asides,
    /// What was read of channels beyond their logs.
    replays: Replays,
    deflate: Deflate,
    /// Topics whose first or last member came or went since the bus was told.
    interest: VecDeque<u32>,
    /// Dead connections, freed by `reap`.
    dead: Vec<u32>,
    /// Those of them that still count as open connections.
    dead_open: usize,
    orders: Orders,

    streams: Streams,
    /// Those who are refused as soon as they have said what they want, and why, by slot.
    turned_away: HashMap<u32, RefusalReason>,
    /// Those who are arriving, oldest first, and some who have arrived.
    strangers: VecDeque<ConnToken>,
    place_search: PlaceSearch,

    accept_ready: bool,
    /// The door is being closed: so many more are taken at most.
    door_accepts: Option<usize>,
    accept_retry: Option<Tick>,
    accept_warned: Option<Tick>,
    untrusted_warned: Option<Tick>,
    /// Answers to those who are refused at the door: the others are dropped.
    told: Rate,
    told_even_at: Moment,
    /// Topics that have had a lap a moment ago and whose next one has to wait, by slot.
    rests: HashMap<u32, Rest>,
    /// As far as this shard has followed `life`.
    stage: Stage,
    departing: Option<Departing>,
    /// Connections of the process when all that were left were asked to go at once.
    leaving_at_once: usize,
    /// Whoever is left then is cut.
    abandon_at_ns: Option<MonotonicNs>,

    buffer_bytes: usize,

    started_ns: u64,
    now_ns: u64,
    unix_ms: u64,
    tick: Tick,

    /// Every read lands here; what must outlive the turn is copied to the connection.
    scratch: Box<[u8]>,
    due: Vec<(ConnToken, Tick)>,
}

impl<N: Network> Shard<N> {
    pub fn new(net: N, parts: Parts) -> Shard<N> {
        let Parts { index, settings, metrics, inbox, bus, connections, addresses, host, life, departures, node_id, gate, revoked, peer_of } =
            parts;
        let (started_ns, unix_ms) = (net.now_ns(), net.unix_ms());
        let sources = Sources::new(settings.subscriptions_max, settings.commands_per_second);
        let waiters = Waiters::new(settings.waiting_bytes_max);
        let rules = Arc::new(SharedRules::new(&settings.channels));
        let logs = Logs::new(settings.log_bytes_max);
        let load = Load::new(settings.admission, started_ns);
        let door = Door::new(gate, revoked, settings.token_cache_bytes_max);
        Shard {
            net,
            index,
            node_id,
            peer_of,
            settings,
            metrics,
            inbox,
            bus,
            connections,
            addresses,
            host,
            load,
            life,
            departures,
            door,
            conns: Slab::new(),
            generations: 0,
            topics: Topics::default(),
            logs,
            waiters,
            sources,
            rules,
            recheck: Recheck::default(),
            publishers: Publishers::default(),
            mark_askers: Publishers::default(),
            mark_readers: MarkReaders::default(),
            users: Users::default(),
            rosters: Rosters::default(),
            wheel: Wheel::default(),
            reading: VecDeque::new(),
            queued: VecDeque::new(),
            ready: VecDeque::new(),
            laps: Laps::default(),
            asides: Asides::default(),
            replays: Replays::default(),
            deflate: Deflate::default(),
            interest: VecDeque::new(),
            dead: Vec::new(),
            dead_open: 0,
            orders: Orders::default(),
            streams: Streams::default(),
            turned_away: HashMap::new(),
            strangers: VecDeque::new(),
            place_search: PlaceSearch::default(),
            accept_ready: false,
            door_accepts: None,
            accept_retry: None,
            accept_warned: None,
            untrusted_warned: None,
            told: Rate::new(limits::ANSWERS_AT_THE_DOOR_PER_SECOND, limits::ANSWERS_AT_THE_DOOR_PER_SECOND),
            told_even_at: moment(started_ns),
            rests: HashMap::new(),
            stage: Stage::Serving,
            departing: None,
            leaving_at_once: 0,
            abandon_at_ns: None,
            buffer_bytes: 0,
            started_ns,
            now_ns: started_ns,
            unix_ms,
            tick: 0,
            scratch: vec![0; limits::READ_BYTES].into_boxed_slice(),
            due: Vec::new(),
        }
    }

    /// One turn. The events since the last one have been told by [`Shard::on_listener`] and [`Shard::on_ready`].
    pub fn turn(&mut self) {
        self.read_clock();
        let handshakes = self.handshakes_in_turn();
        self.net.begin_turn(self.now_ns, handshakes);
        self.follow_life();
        self.accept();
        self.verify_waiting();
        self.make_places();
        self.call_queued();
        self.read_ready();
        self.drain_inbox();
        self.obey_orders();
        self.depart();
        self.recheck();
        self.expire();
        self.abandon_overdue();
        self.send_asides();
        self.flush_ready();
        self.tell_interest();
        self.ask_for_pages();
        self.reap();
        self.tell_users();
        self.tell_members();
        self.publish_gauges();
    }

    /// How long the loop was away, for this turn and all that went before it. Said after each turn by whoever drives the shard.
    pub fn note_turn(&mut self, took_ns: u64) {
        self.load.note_turn(took_ns, self.now_ns + took_ns);
        self.metrics.lag_ns.set(self.load.lag_ns());
    }

    /// The listener has connections waiting.
    pub fn on_listener(&mut self) {
        self.accept_ready = true;
    }

    /// A socket's edge. A token of a connection that is gone finds nothing.
    pub fn on_ready(&mut self, token: ConnToken, readiness: Readiness) {
        let Some(conn) = self.conns.get_mut(token.index as usize).filter(|conn| conn.generation == token.generation) else { return };
        if readiness.closed {
            conn.flags.set(Flags::PEER_CLOSED);
        }
        if (readiness.readable || readiness.closed) && conn.flags.raise(Flags::READING) {
            self.reading.push_back(token);
        }
        if readiness.writable && conn.flags.has(Flags::BLOCKED) {
            conn.flags.clear(Flags::BLOCKED);
            // Room in the socket means that the peer has taken something: it lives.
            // The turn has not read the clock yet, and may have slept long.
            conn.heard = tick_at(self.net.now_ns(), self.started_ns);
            self.mark_ready(token.index as usize);
        }
    }

    /// In a storm of handshakes no turn waits for anything: whoever else is to run on this core, another shard with messages to send or the bus, would get it
    /// only when the slice is used up, some milliseconds later.
    pub fn lets_others_go_first(&self) -> bool {
        self.laps.is_empty() && self.net.is_shaking()
    }

    /// How long the next turn may be put off: None until something happens, 0 while work remains.
    pub fn wait_ns(&self, now_ns: u64) -> Option<u64> {
        let lap_wait = if self.laps.is_empty() { self.laps.due().map(|due| due.saturating_sub(now_ns)) } else { Some(0) };
        if self.door.has_waiting()
            || self.accept_ready
            || !self.reading.is_empty()
            || !self.queued.is_empty() && self.net.places() > 0
            || !self.ready.is_empty()
            || !self.dead.is_empty()
            || !self.orders.is_empty()
            || !self.recheck.is_idle()
            || !self.asides.is_idle()
            || lap_wait == Some(0)
        {
            return Some(0);
        }
        let tick = [self.wheel.next(), self.accept_retry].into_iter().flatten().min();
        let tick_wait = tick.map(|tick| (self.started_ns + u64::from(tick) * TICK_NS).saturating_sub(now_ns));
        // The bus takes interest again as soon as it has room.
        let interest_wait = (!self.interest.is_empty()).then_some(1_000_000);
        let depart_wait = self.depart_at_ns().map(|depart_at_ns| depart_at_ns.saturating_sub(now_ns));
        let stop_wait = self.abandon_at_ns().map(|abandon_at_ns| abandon_at_ns.saturating_sub(now_ns));
        let users_wait = [self.users.due(), self.rosters.due()].into_iter().flatten().min().map(|due| due.saturating_sub(now_ns));
        // A door that is closed is opened again, though nobody knocks.
        // Time passes for those who hold places.
        let queue_wait = (!self.queued.is_empty()).then_some(TICK_NS);
        let load_wait = self.load.cause().map(|_| limits::ADMISSION_LOOK_NS);
        [lap_wait, tick_wait, interest_wait, depart_wait, stop_wait, queue_wait, load_wait, users_wait].into_iter().flatten().min()
    }

    /// The inbox, for the runner that sleeps on it.
    pub fn inbox(&self) -> &Inbox<ShardMessage> {
        &self.inbox
    }

    pub fn net(&mut self) -> &mut N {
        &mut self.net
    }

    pub fn metrics(&self) -> &ShardMetrics {
        &self.metrics
    }

    /// Whether anything of this channel is kept to be sent.
    pub fn has_log(&self, channel: &str) -> bool {
        self.topics.find(channel).is_some_and(|topic| self.topics[topic].log().is_some())
    }

    fn read_clock(&mut self) {
        self.now_ns = self.net.now_ns();
        self.unix_ms = self.net.unix_ms();
        self.tick = tick_at(self.now_ns, self.started_ns);
    }

    fn token(&self, key: usize) -> ConnToken {
        ConnToken { index: key as u32, generation: self.conns[key].generation }
    }

    /// The connection's slot, if the token is not of an earlier user of it and the connection is not dead.
    fn resolve(&self, token: ConnToken) -> Option<usize> {
        let conn = self.conns.get(token.index as usize)?;
        (conn.generation == token.generation && !conn.is_dead()).then_some(token.index as usize)
    }

    /// Puts a connection on the list of those to be flushed in this turn or a later one.
    fn mark_ready(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if conn.flags.raise(Flags::READY) {
            self.ready.push_back(ConnToken { index: key as u32, generation: conn.generation });
        }
    }

    fn publish_gauges(&mut self) {
        let metrics = &self.metrics;
        metrics.turns.inc();
        // It drains when nobody can come in any more.
        metrics.stage.set(if self.door_accepts.is_some() { Stage::Serving } else { self.stage } as u64);
        metrics.inbox_bytes.set(self.inbox.bytes() as u64);
        metrics.log_bytes.set(self.logs.bytes() as u64);
        metrics.buffer_bytes.set(self.buffer_bytes as u64);
        metrics.channels.set(self.topics.len() as u64);
        self.load.note_logs(self.logs.bytes(), self.settings.log_bytes_max);
        if self.load.cause().is_some() {
            self.load.ask(self.now_ns, &self.host);
        }
        for (gauge, cause) in metrics.admission_closed.iter().zip(LoadCause::ALL) {
            gauge.set(u64::from(self.load.is_closed(cause)));
        }
    }
}

fn tick_at(now_ns: u64, started_ns: u64) -> Tick {
    ((now_ns - started_ns) / TICK_NS) as Tick
}

/// A connection's token as epoll carries it.
pub fn pack(token: ConnToken) -> usize {
    (token.generation as usize) << 32 | token.index as usize
}

pub fn unpack(token: usize) -> ConnToken {
    ConnToken { index: token as u32, generation: (token >> 32) as u32 }
}
