//! The bounds that the start block prints, one by one: each line is filled by what it is about, with the longest names and the smallest
//! messages, and what the heap holds then is counted, as glibc's malloc lays it out. The hub and a shard are the real ones, on one
//! thread, with a network that takes no memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use campanile::addresses::Source;
use campanile::bus::flow::Start;
use campanile::bus::hub::{Hub, Receipt};
use campanile::bus::redis::subscriptions::Subscriptions;
use campanile::bus::registry::Request;
use campanile::bus::settings::HubSettings;
use campanile::bus::{BusCommand, Creator, ShardMessage};
use campanile::config::{Overrun, Settings};
use campanile::fanout::compressor::Compressor;
use campanile::fanout::topics::TopicToken;
use campanile::inbox::{Inbox, inbox};
use campanile::limits::{self, CHANNEL_NAME_BYTES_MAX, COMMAND_ID_BYTES_MAX};
use campanile::metrics::{BusMetrics, ShardMetrics};
use campanile::server::memory_bound::memory_bound;
use campanile::shard::by_address::ByAddress;
use campanile::shard::depart::Departures;
use campanile::shard::net::{Accepted, Network, Readiness, Received, Stream};
use campanile::shard::settings::ShardSettings;
use campanile::shard::{Parts, Shard, unpack};
use campanile::sys;
use campanile::wire::deflate::Inflater;
use campanile::wire::frame::{Opcode, Violation, encode_masked_frame};
use campanile::wire::peer::Peer;
use mio::{Poll, Token};

/// Counts what each thread holds: the tests run side by side.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// 8 bytes before it, in steps of 16, 32 at least.
fn chunk(bytes: usize) -> isize {
    ((bytes + 8).next_multiple_of(16)).max(32) as isize
}

fn count(bytes: isize) {
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: the system's allocator does it all; this one only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(chunk(layout.size()));
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-chunk(layout.size()));
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(chunk(size) - chunk(layout.size()));
        // SAFETY: as the caller has promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> u64 {
    HELD.with(Cell::get) as u64
}

/// What does not grow: wheel slots, tables of a size of their own, the first blocks of trees.
const FIXED_BYTES: u64 = 64 * 1024;

#[track_caller]
fn assert_within(what: &str, before: u64, bound: u64, count: usize) {
    let grown = held() - before;
    let each = |bytes: u64| bytes / count as u64;
    println!("{what}: {grown} of {bound} bytes, {} of {} each", each(grown), each(bound));
    assert!(grown <= bound + FIXED_BYTES, "{what}: {grown} bytes, {} each; the bound is {bound}, {} each", each(grown), each(bound));
}

/// As long as names may be, and distinct from the first byte to the last.
fn name(number: usize) -> String {
    format!("{number:0>width$}", width = CHANNEL_NAME_BYTES_MAX)
}

fn creator(number: usize) -> Creator {
    // An address and a connection of its own for each.
    let peer = ([10, (number >> 16) as u8, (number >> 8) as u8, number as u8], 4000).into();
    Creator { source: Source::of(peer), shard: 0, connection: number as u32 }
}

/// Just beyond where tables of this many have grown, and just before.
const COUNTS: [usize; 3] = [7_200, 16_385, 28_673];

/// A server of one shard, all on this thread.
struct Node {
    hub: Hub,
    shard: Shard<Quiet>,
    from_shard: Inbox<BusCommand>,
    /// Does the bus answer?
    answers: bool,
    now: u64,
    _polls: [Poll; 2],
}

/// Clients that send a request, then the commands of the [`SCRIPT`], and read everything.
#[derive(Default)]
struct Quiet {
    waiting: u32,
    accepted: u32,
    tokens: Vec<usize>,
    gear: (),
}

/// As large as a descriptor: the number of the client, and in the last bits how much it has said.
struct QuietStream(u32);

const SAID_BITS: u32 = 8;

#[derive(Clone, Copy)]
struct Script {
    commands: u32,
    /// What this client says as the command of this number.
    command: fn(u32, u32) -> String,
    /// Whoever has said all takes nothing any more.
    blocks: bool,
}

thread_local! {
    static SCRIPT: Cell<Script> = const { Cell::new(Script { commands: 0, command: subscribe_to_one, blocks: false }) };
}

impl Network for Quiet {
    type Stream = QuietStream;
    fn gear(&self) -> &() {
        &()
    }
    fn gear_mut(&mut self) -> &mut () {
        &mut self.gear
    }
    fn accept(&mut self) -> Accepted<QuietStream> {
        if self.waiting == 0 {
            return Accepted::None;
        }
        self.waiting -= 1;
        self.accepted += 1;
        let number = self.accepted - 1;
        let stream = QuietStream(number << SAID_BITS);
        let [a, b, c, d] = number.to_be_bytes();
        Accepted::Stream { stream, peer: Some(([10 + a, b, c, d], 4000).into()), is_proxied: false }
    }
    fn register(&mut self, _: &mut QuietStream, token: usize) -> io::Result<()> {
        self.tokens.push(token);
        Ok(())
    }
    fn close_listeners(&mut self) {}
    fn now_ns(&self) -> u64 {
        sys::monotonic_ns()
    }
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

const REQUEST: &[u8] = b"GET /ws?format=json HTTP/1.1\r\nHost: memory\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl Stream for QuietStream {
    type Gear = ();

    fn read(&mut self, (): &mut (), buffer: &mut [u8], _at_most: usize) -> io::Result<Received> {
        let script = SCRIPT.get();
        let (number, said) = (self.0 >> SAID_BITS, self.0 % (1 << SAID_BITS));
        let mut bytes = Vec::new();
        if said <= script.commands {
            self.0 += 1;
            match said {
                0 => bytes.extend_from_slice(REQUEST),
                _ => encode_masked_frame(&mut bytes, true, Opcode::Text, [1, 2, 3, 4], (script.command)(number, said - 1).as_bytes()),
            }
        }
        buffer[..bytes.len()].copy_from_slice(&bytes);
        // There is more to read as long as anything came.
        Ok(Received::Bytes { count: bytes.len(), drained: bytes.is_empty() })
    }
    fn write(&mut self, (): &mut (), slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let script = SCRIPT.get();
        if script.blocks && self.0 % (1 << SAID_BITS) > script.commands {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
    fn shutdown_write(&mut self, (): &mut ()) {}
}

impl Node {
    fn new(settings: &Settings, commands: u32, command: fn(u32, u32) -> String) -> Node {
        SCRIPT.set(Script { commands, command, blocks: false });
        let polls = [Poll::new().unwrap(), Poll::new().unwrap()];
        let (to_shard, shard_inbox) = inbox(settings.shards.inbox_messages, polls[0].registry(), Token(0)).unwrap();
        let (to_bus, from_shard) = inbox(16 * 1024, polls[1].registry(), Token(0)).unwrap();
        let hub = Hub::new(HubSettings::from(settings), Arc::new(BusMetrics::default()), vec![to_shard]);
        let parts = Parts {
            index: 0,
            settings: Arc::new(ShardSettings::from(settings)),
            metrics: Arc::new(ShardMetrics::default()),
            inbox: shard_inbox,
            bus: campanile::bus::BusSender::new(to_bus, settings.shards.inbox_messages),
            connections: Arc::new(AtomicUsize::new(0)),
            addresses: Arc::new(ByAddress::new(&settings.bounds)),
            host: Arc::default(),
            life: Arc::default(),
            departures: Arc::new(Departures::new(settings.clients.drain_rate)),
            node_id: 1,
            gate: settings.auth.gate().unwrap(),
            revoked: Arc::default(),
            peer_of: Peer::of,
        };
        let tokens = Vec::with_capacity(settings.bounds.connections_max);
        let net = Quiet { tokens, ..Quiet::default() };
        Node { hub, shard: Shard::new(net, parts), from_shard, answers: true, now: sys::monotonic_ns(), _polls: polls }
    }

    /// So many clients connect and say all that they have to.
    fn connect(&mut self, count: usize) {
        // No more at a time than may be arriving, each with its head.
        let mut left = count;
        while left > 0 {
            let some = left.min(limits::HANDSHAKES_MIN);
            left -= some;
            let first = self.shard.net().tokens.len();
            self.shard.net().waiting = some as u32;
            self.shard.on_listener();
            while self.shard.net().waiting > 0 {
                self.turn();
            }
            for at in first..self.shard.net().tokens.len() {
                let token = unpack(self.shard.net().tokens[at]);
                self.shard.on_ready(token, Readiness { readable: true, writable: false, closed: false });
            }
            for _ in 0..some / limits::READS_PER_TURN + 4 {
                self.turn();
            }
        }
        let rounds = SCRIPT.get().commands + 2;
        for _ in 0..rounds {
            for at in 0..self.shard.net().tokens.len() {
                let token = unpack(self.shard.net().tokens[at]);
                self.shard.on_ready(token, Readiness { readable: true, writable: false, closed: false });
                if at % 128 == 127 {
                    self.turn();
                }
            }
            for _ in 0..4 {
                self.turn();
            }
            while self.shard.wait_ns(sys::monotonic_ns()) == Some(0) || !self.from_shard.is_empty() && self.answers {
                self.turn();
            }
        }
    }

    /// Until the clients have so many messages.
    fn deliver(&mut self, messages: u64) {
        while self.shard.metrics().messages_sent.get() < messages {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.shard.turn();
        while let Some(command) = if self.answers { self.from_shard.try_recv() } else { None } {
            match command {
                BusCommand::Join { shard, topic, channel, creator } => self.hub.join(shard, topic, channel, creator, self.now),
                BusCommand::Leave { shard, topic, channel } => self.hub.leave(shard, topic, &channel, self.now),
                other => panic!("{other:?}"),
            }
        }
        while let Some(request) = self.hub.next_request() {
            if let Request::Want(channel) = request {
                self.hub.flowing(&channel, Start::Fresh);
            }
        }
        self.hub.flush(self.now);
    }
}

/// One shard, and room for this many of everything.
fn settings(count: usize) -> Settings {
    Settings::default().with(|settings| {
        settings.shards.count = 1;
        settings.bounds.connections_max = count;
        settings.bounds.channels_max = count;
        settings.bounds.subscriptions_max = 1;
    })
}

fn subscribe_to_one(_: u32, _: u32) -> String {
    r#"{"type":"subscribe","channel":"one"}"#.to_owned()
}

fn subscribe_to_own(client: u32, _: u32) -> String {
    format!(r#"{{"type":"subscribe","channel":"{}"}}"#, name(client as usize))
}

#[test]
fn an_idle_connection_takes_what_the_line_says() {
    for count in COUNTS {
        let settings = settings(count);
        let mut node = Node::new(&settings, 1, subscribe_to_one);
        let before = held();
        node.connect(count);
        assert_eq!(node.shard.metrics().subscriptions.get(), count as u64);
        assert_within("connections", before, memory_bound(&settings).connections, count);
    }
}

#[test]
fn channels_take_what_the_line_says() {
    for count in COUNTS {
        let settings = settings(count);
        let bound = memory_bound(&settings);
        let mut node = Node::new(&settings, 1, subscribe_to_one);
        let before = held();
        node.connect(count);
        let connections = held() - before;
        drop(node);

        let mut node = Node::new(&settings, 1, subscribe_to_own);
        let before = held();
        node.connect(count);
        assert_eq!(node.shard.metrics().channels.get(), count as u64);
        // A message on each, so that what a log keeps when it is empty again is there.
        for number in 0..count {
            let id = node.hub.find(&name(number)).expect("subscribed");
            node.hub.message(id, b"1", Receipt { received: 1, timestamp_ms: 1 });
            if number % 1000 == 999 {
                node.deliver(number as u64 + 1);
            }
        }
        node.deliver(count as u64);
        assert_within("channels", before + connections, bound.channels, count);
    }
}

/// Channels that nobody hears any more, each made by another address, as the bus keeps them: no shard has a share in them.
#[test]
fn channels_that_linger_take_what_the_line_says() {
    for count in COUNTS {
        let settings = settings(count).with(|settings| {
            settings.bounds.connections_max = 1;
            settings.bounds.history_bytes_total = 0;
        });
        let (to_shard, inbox) = inbox(64, Poll::new().unwrap().registry(), Token(0)).unwrap();
        let mut hub = Hub::new(HubSettings::from(&settings), Arc::new(BusMetrics::default()), vec![to_shard]);
        let before = held();
        for number in 0..count {
            let topic = TopicToken { index: 0, generation: number as u32 };
            hub.join(0, topic, name(number), creator(number), 1);
            hub.flowing(&name(number), Start::Fresh);
            if std::env::var("HEARD").is_err() {
                hub.leave(0, topic, &name(number), number as u64);
            }
            while hub.next_request().is_some() || inbox.try_recv().is_some() {}
        }
        assert_within("channels that linger", before, memory_bound(&settings).channels, count);
    }
}

/// What the bus remembers of subscriptions in Redis, where names have their prefix: the most while Redis does not answer, nothing when it has.
#[test]
fn channels_subscribed_in_redis_take_what_the_line_adds() {
    for count in COUNTS {
        let embedded = settings(count);
        let settings = embedded.clone().with(|settings| {
            settings.redis.url = Some("redis://127.0.0.1".to_owned());
            settings.redis.prefix = "p".repeat(255);
        });
        let mut subscriptions = Subscriptions::default();
        subscriptions.restart(false);
        let before = held();
        let mut out = Vec::new();
        for number in 0..count {
            subscriptions.want(&format!("{}{}", settings.redis.prefix, name(number)));
            // Redis answers at once, or not until all are wanted.
            if count % 2 == 0 && number % 512 == 511 {
                confirm(&mut subscriptions, &mut out, settings.redis.prefix.len());
            }
        }
        let bound = memory_bound(&settings).channels - memory_bound(&embedded).channels;
        if count % 2 != 0 {
            assert_within("in Redis", before, bound, count);
        }
        confirm(&mut subscriptions, &mut out, settings.redis.prefix.len());
        drop(out);
        assert!(held() - before < 64 * 1024, "{} bytes are left", held() - before);
    }
}

/// Redis confirms all that it is asked.
fn confirm(subscriptions: &mut Subscriptions, out: &mut Vec<u8>, prefix_bytes: usize) {
    while subscriptions.write_next(out, || None).is_some() {
        let name_bytes = prefix_bytes + CHANNEL_NAME_BYTES_MAX;
        let text = String::from_utf8(std::mem::take(out)).unwrap();
        for name in text.split("\r\n").filter(|word| word.len() == name_bytes) {
            subscriptions.subscribed(name, true);
        }
    }
}

const SUBSCRIPTIONS: u32 = 100;

/// To channels that all have, with the longest id, from a position on.
fn subscribe_and_resume(client: u32, number: u32) -> String {
    let id = format!("{client}-{number:0>width$}", width = COMMAND_ID_BYTES_MAX - 1 - client.to_string().len());
    format!(r#"{{"type":"subscribe","channel":"c{number}","id":"{id}","since":{{"epoch":1,"seq":1}}}}"#)
}

/// They wait for a Redis that is away, and are served in the end.
#[test]
fn subscriptions_that_wait_take_what_the_line_says() {
    for count in [300, 513] {
        let settings = settings(count).with(|settings| {
            settings.bounds.subscriptions_max = SUBSCRIPTIONS as usize;
            // For what waits; some of it must find no room.
            settings.bounds.buffer_bytes_total = 2 << 20;
        });
        let bound = memory_bound(&settings);
        let mut node = Node::new(&settings, 0, subscribe_and_resume);
        let before = held();
        node.connect(count);
        let connections = held() - before;
        drop(node);

        let mut node = Node::new(&settings, SUBSCRIPTIONS, subscribe_and_resume);
        node.answers = false;
        let before = held();
        node.connect(count);
        let waiting = node.shard.metrics().subscriptions.get() as usize;
        let refused = node.shard.metrics().command_errors.iter().map(|errors| errors.get()).sum::<u64>() as usize;
        assert_eq!(waiting + refused, count * SUBSCRIPTIONS as usize);
        assert!(waiting > 5000 && refused > 5000, "{waiting} wait, {refused} found no room");
        assert_within("subscriptions", before + connections, bound.subscriptions, waiting);
        node.answers = true;
        for _ in 0..10 {
            node.turn();
        }
        assert_within("subscriptions that were served", before + connections, bound.subscriptions, waiting);
    }
}

/// Of the smallest messages, a batch and a channel for each, or many in one channel.
#[test]
fn histories_take_what_the_line_says() {
    for (channels, messages) in [(4097, 4), (1, 9000)] {
        let mut settings = settings(channels).with(|settings| settings.bounds.history_bytes_total = 1 << 20);
        settings.channels.default.history_count = 1_000_000;
        let (to_shard, inbox) = inbox(64, Poll::new().unwrap().registry(), Token(0)).unwrap();
        let mut hub = Hub::new(HubSettings::from(&settings), Arc::new(BusMetrics::default()), vec![to_shard]);
        let before = held();
        for number in 0..channels {
            let name = name(number);
            hub.join(0, TopicToken { index: 0, generation: number as u32 }, name.as_str(), creator(number), 1);
            hub.flowing(&name, Start::Fresh);
            while hub.next_request().is_some() || inbox.try_recv().is_some() {}
        }
        for _ in 0..messages {
            for number in 0..channels {
                let id = hub.find(&name(number)).unwrap();
                hub.message(id, b"1", Receipt { received: 1, timestamp_ms: 1 });
                hub.flush(1);
                while let Some(message) = inbox.try_recv() {
                    if let ShardMessage::Batch { batch, .. } = message {
                        inbox.release(batch.bytes());
                    }
                }
            }
        }
        assert!(hub.metrics().history_dropped.get() > 0, "the history is full");
        let bound = memory_bound(&settings);
        assert_within("history", before, bound.history + bound.channels, 1);
    }
}

/// Of the smallest messages, for a client that takes none.
#[test]
fn logs_take_what_the_line_says() {
    let mut settings = settings(1).with(|settings| settings.bounds.log_bytes_total = 1 << 20);
    (settings.channels.default.overrun, settings.channels.default.log_bytes) = (Overrun::Skip, 1 << 20);
    let mut node = Node::new(&settings, 1, subscribe_to_one);
    node.connect(1);
    SCRIPT.set(Script { blocks: true, ..SCRIPT.get() });
    let before = held();
    let id = node.hub.find("one").unwrap();
    while node.shard.metrics().log_bytes.get() < (1 << 20) * 9 / 10 {
        node.hub.message(id, b"1", Receipt { received: 1, timestamp_ms: 1 });
        node.turn();
        node.turn();
    }
    for _ in 0..5000 {
        node.hub.message(id, b"1", Receipt { received: 1, timestamp_ms: 1 });
        node.turn();
        node.turn();
    }
    assert_within("logs", before, memory_bound(&settings).logs, 1);
}

/// The slots are there from the start; the batches come until there is no room.
#[test]
fn inboxes_take_what_the_line_says() {
    let settings = settings(1).with(|settings| {
        settings.shards.inbox_messages = 4096;
        settings.bounds.inbox_bytes_total = 1 << 20;
    });
    let before = held();
    let (to_shard, inbox) = inbox(settings.shards.inbox_messages, Poll::new().unwrap().registry(), Token(0)).unwrap();
    let mut hub = Hub::new(HubSettings::from(&settings), Arc::new(BusMetrics::default()), vec![to_shard]);
    hub.join(0, TopicToken { index: 0, generation: 1 }, "one", creator(1), 1);
    hub.flowing("one", Start::Fresh);
    let id = hub.find("one").unwrap();
    while hub.metrics().inbox_full.get() < 100 {
        hub.message(id, b"1", Receipt { received: 1, timestamp_ms: 1 });
        hub.flush(1);
    }
    assert!(inbox.len() > 1000);
    assert_within("inboxes", before, memory_bound(&settings).inboxes, 1);
}

/// Whatever the level, and with the longest messages there may be.
#[test]
fn what_compresses_and_inflates_takes_what_the_line_says() {
    let settings = settings(1).with(|settings| settings.clients.deflate = true);
    let bound = memory_bound(&settings).deflate;
    let text: Vec<u8> = (0..limits::DEFLATE_BYTES_MAX).map(|at| b"abcdefgh"[at * at % 8]).collect();
    for level in 1..=9 {
        let before = held();
        let (mut compressor, mut inflater) = (Compressor::new(level, 0), Inflater::default());
        let compressed = compressor.deflater().deflate(&text).expect("it is shorter").to_vec();
        let most = settings.bounds.message_bytes_max;
        assert_eq!(inflater.inflate(&compressed, most), Err(Violation::MessageTooBig { bytes_max: most }));
        drop(compressed);
        assert!(held() - before > 200_000, "what zlib takes is counted");
        assert_within("deflate", before, bound, 1);
    }
}
