//! The loop that deals from the seed: who comes, what clients say and read, what goes wrong.

mod bus;
mod checks;
mod clients;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use campanile::auth::cache::Cache;
use campanile::auth::rules::Access;
use campanile::auth::token::TokenReason;
use campanile::bus::marks::MarksQuestion;
use campanile::bus::order::Order;
use campanile::bus::{ConnToken, ShardMessage};
use campanile::config::{AuthMode, ChannelRule, Overrun, Settings};
use campanile::fanout::batch::{Batch, Channel};
use campanile::fanout::compressor::Compressor;
use campanile::fanout::topics::TopicToken;
use campanile::metrics::ShardMetrics;
use campanile::shard::net::Readiness;
use campanile::shard::unpack;
use campanile::wire::close::CloseReason;
use campanile::wire::frame::{Opcode, encode_masked_compressed_frame, encode_masked_frame};
use campanile::wire::framing::Encoding;
use campanile::wire::http::refusal::RefusalReason;
use fastrand::Rng;

use crate::rig::client::Client;
use crate::rig::net::{SimNet, Wires};
use crate::rig::{self, Rig};

const CHANNELS: [&str; 6] = ["cut", "skip", "latest", "kept", "slow", "dear"];
/// Of which it is kept, where there are users, what they have read.
const COUNTED: &str = "skip";
/// What the rule of `slow` says, and what clients ask for.
const SLOW_RATE: u16 = 4;
const RATES: [u16; 3] = [1, 3, 100];
/// A log's bound, and that of all logs: some seeds have little room, so that many are overrun, some so much that nobody may be.
const LOG_BYTES: [(usize, usize); 2] = [(6_000, 20_000), (1 << 20, 4 << 20)];
/// Some seeds have little room for the connections' own buffers, some much.
const BUFFER_BYTES: [usize; 2] = [5_000, 400_000];
/// What the tokens of some seeds are signed with, and whose they are.
const SECRET: &str = "the secret of the simulation, 40 bytes..";
const USERS: [&str; 2] = ["one", "two"];

/// What happened over all seeds: a simulation in which nothing goes wrong shows nothing.
pub static SEEN: Mutex<Seen> = Mutex::new(Seen { counts: BTreeMap::new() });

#[derive(Debug)]
pub struct Seen {
    counts: BTreeMap<String, u64>,
}

impl Seen {
    fn add(&mut self, metrics: &ShardMetrics, clients: &[Peer]) {
        let mut add = |name: &str, count: u64| *self.counts.entry(name.to_owned()).or_default() += count;
        for reason in CloseReason::ALL {
            add(&format!("closed {}", reason.name()), metrics.closed[reason as usize].get());
        }
        for policy in Overrun::ALL {
            add(&format!("overrun {}", policy.name()), metrics.overruns[policy as usize].get());
        }
        add("messages sent", metrics.messages_sent.get());
        add("messages skipped", metrics.messages_skipped.get());
        add("lost on the way", metrics.inbox_lost.get());
        add("writes blocked", metrics.writes_blocked.get());
        add("accept errors", metrics.accept_errors.get());
        add("command errors", metrics.command_errors.iter().map(|errors| errors.get()).sum());
        add("pings", metrics.pings_sent.get());
        let streams = clients.iter().filter(|peer| peer.is_stream && peer.client.is_upgraded());
        add("event streams", streams.clone().count() as u64);
        add(
            "positions told to event streams",
            streams.filter(|peer| !peer.client.streamed.is_empty()).map(|peer| peer.client.messages as u64).sum(),
        );
        let polls = clients.iter().map(|peer| &peer.client.polled);
        add("polls answered", polls.clone().map(|polled| polled.len() as u64).sum());
        add("polls that went on where the one before ended", clients.iter().map(|peer| peer.client.polled_on).sum());
        add("heartbeats to those who cannot be pinged", clients.iter().map(|peer| peer.client.beats as u64).sum());
        add("told that a channel is counted anew", clients.iter().map(|peer| peer.client.renumbered).sum());
        for reason in [TokenReason::Missing, TokenReason::Expired, TokenReason::Signature, TokenReason::OtherUser, TokenReason::Revoked] {
            add(&format!("token refused: {}", reason.name()), metrics.tokens_refused[reason as usize].get());
        }
        add("tokens known again", metrics.tokens_known.get());
        add("subscriptions ended by a rule", clients.iter().map(|peer| peer.client.ended.len() as u64).sum());
        add("told that its token expires", clients.iter().map(|peer| peer.client.expiring as u64).sum());
        add("tokens refreshed", clients.iter().map(|peer| peer.client.refreshed as u64).sum());
        add("marks told", metrics.marks_told.get());
        add("told how much is unread as it subscribed", clients.iter().map(|peer| peer.client.counted as u64).sum());
        add("messages sent compressed", metrics.messages_deflated.get());
        add("messages received compressed", clients.iter().map(|peer| peer.client.inflated).sum());
        add("messages received plain by those who take compressed ones", clients.iter().map(|peer| peer.client.plain).sum());
        add("messages of clients inflated", metrics.messages_inflated.get());
        add("passed over for a rate", metrics.messages_paced.get());
        add("passed over for a budget", metrics.messages_over_budget.get());
        add("refused for a broken PROXY header", metrics.refused[RefusalReason::ProxyHeader as usize].get());
        add("refused for too many connections of one address", metrics.refused[RefusalReason::ConnectionsPerAddress as usize].get());
        for reason in [RefusalReason::OverloadedLag, RefusalReason::OverloadedLogs, RefusalReason::OverloadedMemory] {
            add(&format!("refused: {}", reason.name()), metrics.refused[reason as usize].get());
        }
        add("refused for too many connections", metrics.refused[RefusalReason::ConnectionsMax as usize].get());
    }

    pub fn assert_everything_happened(&self) {
        println!("{:#?}", self.counts);
        // No message of these clients is text that is not UTF-8 or too big, and they do not flood; tests/whole/hostile.rs and tests/whole/bad_input.rs do.
        let never = ["closed invalid_utf8", "closed message_too_big", "closed flooding"];
        for (what, count) in &self.counts {
            assert!(*count > 0 || never.contains(&what.as_str()), "{what} never happened in any seed");
        }
    }
}

/// The bus's side of one channel.
#[derive(Debug)]
struct SimChannel {
    channel: Arc<Channel>,
    seq: u64,
    /// Where the shard was told numbering stands, once it has joined.
    topic: Option<TopicToken>,
    history: VecDeque<Arc<Batch>>,
    /// The shard was not sent something: it must be told the head before silence.
    lost: bool,
    /// It is counted anew, and the shard could not be told yet: nothing is handed out before.
    renumbered: bool,
}

/// A batch as the bus has handed it out.
#[derive(Debug)]
struct Sent {
    epoch: u64,
    end: u64,
    /// The most that it can take in a log, whatever formats it is asked for.
    bytes_max: usize,
    /// What all logs held before it.
    held_before: usize,
}

struct Peer {
    pipe: usize,
    client: Client,
    /// Never reads again.
    stalled: bool,
    /// Its socket has room for ever.
    takes_all: bool,
    /// Answers pings.
    polite: bool,
    /// Says nothing any more: what it said last is not finished.
    mute: bool,
    /// It reads an event stream, and says nothing but its request.
    is_stream: bool,
    /// It polls.
    poll: Option<Poll>,
    /// Said what no client may say: the server has stopped reading, and its close frame may still be on its way.
    broke_protocol: bool,
    pings_sent: usize,
    ended: bool,
    /// When it said its last, and the end of its stream with it.
    last_said_ns: Option<u64>,
}

struct Poll {
    channels: Vec<String>,
    /// How many answers it had when it last asked.
    answered: usize,
}

impl Peer {
    fn new(pipe: usize, client: Client) -> Peer {
        Peer {
            pipe,
            client,
            stalled: false,
            takes_all: false,
            polite: true,
            mute: false,
            is_stream: false,
            poll: None,
            broke_protocol: false,
            pings_sent: 0,
            ended: false,
            last_said_ns: None,
        }
    }

    /// It has its answer, and nothing says that it is not to come again on this connection.
    fn may_ask_next(&self, wires: &Wires) -> bool {
        let has_answer = self.poll.as_ref().is_some_and(|poll| self.client.answered.len() > poll.answered);
        let pipe = &wires.pipes[self.pipe];
        has_answer
            && self.client.refused.is_none()
            && self.client.close.is_none()
            && !pipe.server_gone
            && !pipe.server_shut
            && !pipe.client_closed
    }
}

pub struct Simulation {
    rng: Rng,
    wires: Rc<RefCell<Wires>>,
    rig: Rig<SimNet>,
    channels: BTreeMap<String, SimChannel>,
    joins: Vec<(String, TopicToken)>,
    /// What was asked about marks, and which pages, and is not answered.
    questions: Vec<MarksQuestion>,
    pages: Vec<(TopicToken, u64)>,
    peers: Vec<Peer>,
    epochs: u64,
    /// Messages without a number.
    asides: u64,
    /// Which epoch came after this one of the same channel.
    successors: BTreeMap<u64, u64>,
    /// Channels as they were before they were counted anew.
    former: Vec<Arc<Channel>>,
    /// Another shard of the same bus: what it compresses with, and what it is in the middle of compressing.
    other: Compressor,
    settling: Vec<(Arc<Batch>, Encoding)>,
    /// All that was published, oldest first.
    sent: Vec<Sent>,
    log_bytes: usize,
    log_bytes_total: usize,
    buffer_bytes: usize,
    digest: DefaultHasher,
    /// Deals the steps of the clock on the wall, which must change nothing else; None: it goes like the other one.
    wall: Option<Rng>,
    /// As the shard has them: a reload may forbid channels, and allow them again.
    settings: Settings,
    /// What is still to be answered of them.
    reloads: Vec<crossbeam_channel::Receiver<Option<Cache>>>,
    /// Clients bring tokens. They expire by the clock on the wall, so nobody sets it then.
    has_tokens: bool,
    /// Deals who speaks TLS; None: nobody does.
    tls: Option<Rng>,
}

impl Simulation {
    pub fn new(seed: u64) -> Simulation {
        let mut rng = Rng::with_seed(seed);
        let settings = settings(&mut rng);
        let buffer_bytes = settings.buffer_bytes_of_shard();
        let has_tokens = settings.auth.mode == AuthMode::Jwt;
        let (log_bytes, log_bytes_total) = (settings.channels.of("cut").log_bytes, settings.bounds.log_bytes_total);
        let wires = Wires::new();
        let rig = Rig::new(SimNet::of(&wires), &settings, 64);
        // Half of the seeds have bare sockets, half streams that keep something back in both directions.
        wires.borrow_mut().tricks = rng.bool().then(|| rng.fork());
        // And in half of them a host that acknowledges can be told from one that does not.
        wires.borrow_mut().acknowledges = rng.bool();
        Simulation {
            rng,
            wires,
            rig,
            channels: BTreeMap::new(),
            joins: Vec::new(),
            questions: Vec::new(),
            pages: Vec::new(),
            peers: Vec::new(),
            epochs: 0,
            asides: 0,
            successors: BTreeMap::new(),
            former: Vec::new(),
            other: Compressor::new(6, 0).with_subscribers_min(0),
            settling: Vec::new(),
            sent: Vec::new(),
            log_bytes,
            log_bytes_total,
            buffer_bytes,
            digest: DefaultHasher::new(),
            // How short a message gets depends on the time that it tells.
            wall: Some(Rng::with_seed(!seed)).filter(|_| !has_tokens && !settings.clients.deflate),
            settings,
            reloads: Vec::new(),
            has_tokens,
            // A tenth of the seeds: the handshakes take time.
            tls: Some(Rng::with_seed(seed ^ 0x5EC0)).filter(|_| seed % 10 == 7),
        }
    }

    /// The same, with a wall clock that nobody sets.
    pub fn with_a_steady_wall_clock(seed: u64) -> Simulation {
        Simulation { wall: None, ..Simulation::new(seed) }
    }

    /// Runs the seed to its end and returns a digest of all that clients received and when, but for the times that messages carry.
    pub fn run(mut self) -> u64 {
        let steps = self.rng.usize(50..300);
        for _ in 0..steps {
            match self.rng.u8(..100) {
                0..12 => self.connect(),
                12..30 => self.client_speaks(),
                30..62 => self.publish(),
                62..66 => self.misfortune(),
                66..69 => self.stale_event(),
                69 => self.reload(),
                70..74 => self.somebody_asks_next(),
                74..78 => self.pass_time(self.rng.clone().u64(1..2_000)),
                _ => self.clients_read(),
            }
            self.step_wall_clock();
            self.bus_turn(false);
            self.turn();
            self.check();
        }
        self.settle();
        for peer in &self.peers {
            self.digest.write_u64(peer.client.digest.finish());
        }
        SEEN.lock().unwrap().add(&self.rig.metrics, &self.peers);
        self.digest.finish()
    }

    /// A record that nobody has sealed, now and then, of somebody who speaks TLS.
    fn breaks_tls(&mut self, at: usize) -> bool {
        let peer = &mut self.peers[at];
        let mut wires = self.wires.borrow_mut();
        let speaks = wires.pipes[peer.pipe].tls.is_some() && !peer.mute && peer.last_said_ns.is_none();
        if !speaks || self.tls.as_mut().is_none_or(|rng| rng.u8(..4) > 0) {
            return false;
        }
        wires.pipes[peer.pipe].tls.iter_mut().for_each(|tls| tls.is_broken = true);
        wires.send_raw(peer.pipe, &[&[0x17, 3, 3, 0, 32][..], &[0; 32]].concat());
        (peer.mute, peer.broke_protocol) = (true, true);
        true
    }

    /// Before the end of the stream, of somebody who speaks TLS: its edge is that of these bytes.
    fn leaves_half_a_record(&mut self, at: usize) {
        let peer = &self.peers[at];
        let mut wires = self.wires.borrow_mut();
        if wires.pipes[peer.pipe].tls.is_some() && peer.last_said_ns.is_none() && self.tls.as_mut().is_some_and(Rng::bool) {
            wires.send_raw(peer.pipe, &[&[0x17, 3, 3, 0x40, 0][..], &[0; 100]].concat());
        }
    }

    /// Something goes wrong.
    fn misfortune(&mut self) {
        let at = self.live_peer();
        if at.is_some_and(|at| self.breaks_tls(at)) {
            return;
        }
        match (self.rng.u8(..11), at) {
            (8, Some(at)) if !self.peers[at].is_stream => {
                // The first half of a message whose rest never comes.
                let mut bytes = Vec::new();
                encode_masked_frame(&mut bytes, true, Opcode::Text, [1; 4], &[b' '; 3000]);
                self.send_bytes(at, &bytes[..2000]);
                self.peers[at].mute = true;
            }
            (9, _) => {
                // Somebody who never finishes its request.
                let before = self.peers.len();
                self.connect();
                if let Some(peer) = self.peers.get_mut(before) {
                    peer.mute = true;
                    // Of whoever has said its last a PROXY header might be left, and nobody to answer.
                    let is_tls = self.wires.borrow().pipes[peer.pipe].tls.is_some();
                    if peer.last_said_ns.is_none() && !is_tls {
                        self.wires.borrow_mut().pipes[peer.pipe].to_server.truncate(40);
                    }
                }
            }
            (0, Some(at)) => self.wires.borrow_mut().pipes[self.peers[at].pipe].reset = true,
            (1, Some(at)) => {
                self.leaves_half_a_record(at);
                self.wires.borrow_mut().pipes[self.peers[at].pipe].client_closed = true;
            }
            (2..4, Some(at)) => self.peers[at].stalled = true,
            (4, Some(at)) if !self.peers[at].mute && !self.peers[at].is_stream => {
                self.frame(at, Opcode::Text, b"{\"type\":\"ping\"} and more")
            }
            (5, Some(at)) if !self.peers[at].mute && !self.peers[at].is_stream => {
                // Not masked, not even a frame.
                self.send_bytes(at, &[0x81, 0x05, 1, 2, 3]);
                self.peers[at].broke_protocol = true;
            }
            (7, Some(at)) if !self.peers[at].mute && self.rng.bool() => {
                // Said to be compressed, and it is not.
                let mut bytes = Vec::new();
                encode_masked_compressed_frame(&mut bytes, true, Opcode::Text, [1; 4], b"\xFF\xFF{\"type\":\"ping\"}");
                self.send_bytes(at, &bytes);
                self.peers[at].broke_protocol = true;
            }
            (10, _) if self.has_tokens && self.rng.bool() => self.revoke(),
            (10, _) if self.rng.bool() => self.shed(),
            (10, _) => self.disconnect(),
            (6, _) => {
                let mut wires = self.wires.borrow_mut();
                wires.short = !wires.short;
            }
            (_, Some(at)) if !self.peers[at].stalled && !self.peers[at].mute && !self.peers[at].is_stream => {
                // A crowd of pings without reading a single pong.
                let crowd = if self.rng.u8(..4) == 0 { 1500 } else { 40 };
                for _ in 0..crowd {
                    self.frame(at, Opcode::Ping, b"are you there");
                }
            }
            _ => {}
        }
    }

    /// Other rules: who has a channel that nobody may have any more loses it.
    fn reload(&mut self) {
        let tables = &mut self.settings.channels.tables;
        let at = self.rng.usize(0..tables.len());
        let rule = &mut tables[at].1;
        rule.subscribe = if rule.subscribe == Access::Nobody { Access::Auto } else { Access::Nobody };
        let (reply, answer) = crossbeam_channel::bounded(1);
        let gate = self.settings.auth.gate().unwrap();
        let order = Order::Reload { settings: Arc::new(self.settings.clone()), gate, acceptor: None, reply };
        if self.rig.to_shard.push(ShardMessage::Order(order)).is_err() {
            // Its inbox is full, and whoever reloads tries again.
            let rule = &mut self.settings.channels.tables[at].1;
            rule.subscribe = if rule.subscribe == Access::Nobody { Access::Auto } else { Access::Nobody };
            return;
        }
        self.reloads.push(answer);
    }

    fn stale_event(&mut self) {
        let token = ConnToken { index: self.rng.u32(..30), generation: self.rng.u32(..40) };
        let real = self.wires.borrow().pipes.iter().any(|pipe| pipe.token.map(unpack) == Some(token) && !pipe.server_gone);
        if !real {
            self.rig.shard.on_ready(token, Readiness { readable: true, writable: true, closed: true });
        }
    }

    /// Now and then somebody sets the clock, by up to an hour either way.
    fn step_wall_clock(&mut self) {
        const HOUR_MS: i64 = 3_600_000;
        if let Some(rng) = &mut self.wall
            && rng.u8(..15) == 0
        {
            self.wires.borrow_mut().wall_steps_ms = rng.i64(-HOUR_MS..=HOUR_MS);
        }
    }

    fn pass_time(&mut self, ms: u64) {
        self.wires.borrow_mut().now_ns += ms * 1_000_000;
    }

    /// Clients take what has arrived, and their sockets have room again.
    fn clients_read(&mut self) {
        for at in 0..self.peers.len() {
            if self.peers[at].stalled || self.rng.u8(..4) == 0 {
                continue;
            }
            let limit = self.rng.usize(1..3000);
            self.client_reads(at, limit);
        }
    }

    fn client_reads(&mut self, at: usize, limit: usize) {
        let peer = &mut self.peers[at];
        let mut wires = self.wires.borrow_mut();
        let pipe = &mut wires.pipes[peer.pipe];
        let count = pipe.to_client.len().min(limit);
        let bytes: Vec<u8> = pipe.to_client.drain(..count).collect();
        pipe.room += count + if pipe.room < 50 { 100 } else { 0 };
        let ended = pipe.to_client.is_empty() && (pipe.server_gone || pipe.server_shut);
        if ended {
            // A client that has read the end closes its side.
            pipe.client_closed = true;
            pipe.readable_edge = true;
        }
        drop(wires);
        self.digest.write_usize(count);
        let pings = peer.client.pings;
        peer.client.now_ns = self.wires.borrow().now_ns;
        peer.client.receive(&bytes);
        let has_ended = ended && !peer.ended;
        peer.ended |= ended;
        if peer.polite && !peer.mute && peer.client.pings > pings && peer.client.close.is_none() && peer.last_said_ns.is_none() {
            self.frame(at, Opcode::Pong, b"");
        }
        self.check_overruns(at);
        if has_ended {
            self.check_end(at);
        }
    }

    /// Deals the edges, each once, then one turn of the shard.
    fn turn(&mut self) {
        let mut edges = self.wires.borrow_mut().edges();
        self.rng.shuffle(&mut edges);
        for (token, readiness) in edges {
            self.rig.shard.on_ready(token, readiness);
        }
        // A host that has too much to do, or no memory, for a while; who is there already is served on.
        match self.rng.u8(..60) {
            0 => self.rig.host.note_memory(0.0, ADMISSION_PERCENT),
            1..=9 => self.rig.host.note_memory(100.0, ADMISSION_PERCENT),
            _ => {}
        }
        let (before, is_short) = (self.rig.metrics.connections.get(), self.rig.host.is_short_of_memory());
        self.rig.shard.turn();
        if is_short {
            assert!(self.rig.metrics.connections.get() <= before, "nobody is taken in where there is no memory");
        }
        let took_ms = if self.rng.u8(..20) == 0 { 3000 } else { 0 };
        self.rig.shard.note_turn(took_ms * 1_000_000);
    }
}

/// Of the host's memory that must be available.
const ADMISSION_PERCENT: usize = 5;

fn settings(rng: &mut Rng) -> Settings {
    let (log_bytes, log_bytes_total) = *rng.choice(&LOG_BYTES).unwrap();
    rig::settings(|settings| {
        settings.channels.default.coalesce = if rng.bool() { Duration::from_millis(2) } else { Duration::ZERO };
        settings.bounds.connections_max = 20;
        settings.bounds.subscriptions_max = CHANNELS.len();
        // Whoever comes by a proxy is limited, the proxy is not.
        settings.addresses.trusted_proxies.add("127.0.0.1/32".parse().unwrap());
        settings.bounds.connections_per_address = Some(3);
        settings.bounds.log_bytes_total = log_bytes_total;
        settings.bounds.buffer_bytes_total = *rng.choice(&BUFFER_BYTES).unwrap();
        // A share of the buffers holds one message at least, so little room needs small ones.
        settings.bounds.message_bytes_max = 3000;
        if rng.u8(..3) == 0 {
            settings.auth.mode = AuthMode::Jwt;
            settings.auth.secret = Some(SECRET.to_owned());
            settings.auth.leeway = Duration::from_secs(1);
            settings.auth.warning = Duration::from_secs(3);
        }
        settings.bounds.admission_memory = Some(ADMISSION_PERCENT);
        settings.bounds.admission_lag = (rng.u8(..4) == 0).then_some(Duration::from_millis(500));
        settings.bounds.admission_logs = (rng.u8(..4) == 0).then_some(60);
        settings.clients.deflate = rng.u8(..3) == 0;
        settings.clients.deflate_min_bytes = rng.choice([0, 130, 200]).unwrap();
        settings.clients.deflate_level = rng.u32(1..7);
        settings.clients.heartbeat = Duration::from_secs(5);
        settings.clients.pong_timeout = Duration::from_secs(3);
        settings.clients.handshake_timeout = Duration::from_secs(3);
        settings.clients.close_timeout = Duration::from_secs(2);
        let rule = ChannelRule { overrun: Overrun::Disconnect, log_bytes, history_count: 0, ..settings.channels.default.clone() };
        settings.channels.tables = vec![
            ("slow".into(), ChannelRule { max_rate: Some(SLOW_RATE), ..rule.clone() }),
            // A hundredth of a second for each delivery: messages to several wait, and some are passed over.
            ("dear".into(), ChannelRule { broadcast_budget: Some(100), ..rule.clone() }),
            ("latest".into(), ChannelRule { overrun: Overrun::Latest, ..rule.clone() }),
            // Where there are users it is kept what they have read of it.
            (COUNTED.into(), ChannelRule { overrun: Overrun::Skip, durable: settings.auth.mode == AuthMode::Jwt, ..rule.clone() }),
            (
                "kept".into(),
                ChannelRule { overrun: Overrun::Skip, history_count: 20, history_age: Duration::from_secs(60), ..rule.clone() },
            ),
            ("cut".into(), rule),
        ];
    })
}
