//! The ready-ring lap: what a delivery costs in user space. The real shard with 10,000 subscribed sockets on a network that accepts every byte
//! at once, so that what remains is all that the engine adds to the kernel's `send`.
//!
//! A lap begins with the batch in the shard's inbox and ends when every socket has been offered everything. Divide its time by the sockets for
//! nanoseconds per write, and by the messages for nanoseconds per delivery. The clock is the real one, as in the server.

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use campanile::bus::{BusCommand, ShardMessage};
use campanile::fanout::batch::{Batch, Channel};
use campanile::fanout::topics::TopicToken;
use campanile::shard::net::{Accepted, Network, Readiness, Received, Stream};
use campanile::shard::unpack;
use campanile::sys;
use campanile::wire::payload::Kind;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "common/batches.rs"]
mod batches;
mod common;
#[path = "../tests/rig/mod.rs"]
mod rig;

use rig::Rig;

const REQUEST: &[u8] = b"GET /ws?channel=bench&format=raw HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Sockets that ask for the channel once and then take whatever they are sent.
#[derive(Debug, Default)]
struct NullNet {
    waiting: usize,
    registered: Vec<usize>,
    gear: (),
}

/// As small as the real one, which is a descriptor.
#[derive(Debug)]
struct NullStream {
    has_asked: bool,
}

impl Network for NullNet {
    type Stream = NullStream;
    fn gear(&self) -> &() {
        &()
    }
    fn gear_mut(&mut self) -> &mut () {
        &mut self.gear
    }
    fn accept(&mut self) -> Accepted<NullStream> {
        match self.waiting.checked_sub(1) {
            Some(rest) => {
                self.waiting = rest;
                Accepted::Stream { stream: NullStream { has_asked: false }, peer: Some(([127, 0, 0, 1], 40_000).into()), is_proxied: false }
            }
            None => Accepted::None,
        }
    }
    fn register(&mut self, _stream: &mut NullStream, token: usize) -> io::Result<()> {
        self.registered.push(token);
        Ok(())
    }
    fn close_listeners(&mut self) {}
    fn now_ns(&self) -> u64 {
        sys::monotonic_ns()
    }
    fn unix_ms(&self) -> u64 {
        sys::unix_ms()
    }
}

impl Stream for NullStream {
    type Gear = ();

    fn read(&mut self, (): &mut (), buffer: &mut [u8], _at_most: usize) -> io::Result<Received> {
        let request = if std::mem::replace(&mut self.has_asked, true) { &[][..] } else { REQUEST };
        buffer[..request.len()].copy_from_slice(request);
        Ok(Received::Bytes { count: request.len(), drained: true })
    }
    #[inline(never)]
    fn write(&mut self, (): &mut (), slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(black_box(slices).iter().map(|slice| slice.len()).sum())
    }
    fn shutdown_write(&mut self, (): &mut ()) {}
}

struct Host {
    rig: Rig<NullNet>,
    topic: TopicToken,
    channel: Arc<Channel>,
    next_seq: u64,
    sockets: u64,
}

impl Host {
    /// `sockets` connections, all subscribed to one channel.
    fn new(sockets: usize) -> Host {
        let day = Duration::from_secs(86_400);
        let settings = rig::settings(|settings| {
            settings.bounds.connections_max = sockets;
            settings.clients.heartbeat = day;
            settings.clients.pong_timeout = day;
            settings.clients.handshake_timeout = day;
        });
        let mut rig = Rig::new(NullNet { waiting: sockets, ..NullNet::default() }, &settings, 4096);
        let shard = &mut rig.shard;
        shard.on_listener();
        let channel = batches::channel();
        let mut topic = None;
        while rig.metrics.connections.get() < sockets as u64 || topic.is_none() || shard.wait_ns(sys::monotonic_ns()) == Some(0) {
            for token in std::mem::take(&mut shard.net().registered) {
                shard.on_ready(unpack(token), Readiness { readable: true, writable: true, closed: false });
            }
            shard.turn();
            if let Some(BusCommand::Join { topic: token, .. }) = rig.from_shard.try_recv() {
                topic = Some(token);
                let joined = ShardMessage::Joined { topic: token, channel: channel.clone(), seq: 0, history: Vec::new() };
                rig.to_shard.push(joined).unwrap();
            }
        }
        let topic = topic.expect("the loop ended with it");
        shard.turn();
        Host { rig, topic, channel, next_seq: 1, sockets: sockets as u64 }
    }

    /// The next `count` messages in batches of `batch_messages`.
    fn batches(&mut self, count: u64, batch_messages: u64, payload: &[u8]) -> Vec<Arc<Batch>> {
        let first = self.next_seq;
        self.next_seq += count;
        (first..self.next_seq)
            .step_by(batch_messages as usize)
            .map(|first| batches::batch(&self.channel, first, batch_messages, Kind::Json, payload, sys::monotonic_ns()))
            .collect()
    }

    /// Hands the batches over and turns until every socket has them.
    fn lap(&mut self, batches: Vec<Arc<Batch>>) {
        for batch in batches {
            self.rig.to_shard.push(ShardMessage::Batch { topic: self.topic, batch }).unwrap();
        }
        self.rig.shard.turn();
        while self.rig.shard.wait_ns(sys::monotonic_ns()) == Some(0) {
            self.rig.shard.turn();
        }
    }
}

fn lap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lap");
    let payload = batches::json_payload(1);
    for (sockets, name) in [(10_000, "10k"), (100_000, "100k")] {
        let mut host = Host::new(sockets);
        for (messages, batch_messages) in [(1, 1), (100, 100), (100, 1)] {
            group.throughput(Throughput::Elements(host.sockets));
            group.bench_function(format!("{name} sockets, {messages} messages in batches of {batch_messages}"), |bencher| {
                bencher.iter_custom(|laps| {
                    let mut spent = Duration::ZERO;
                    let before = host.rig.metrics.messages_sent.get();
                    for _ in 0..laps {
                        let batches = host.batches(messages, batch_messages, &payload);
                        let begin = Instant::now();
                        host.lap(batches);
                        spent += begin.elapsed();
                    }
                    assert_eq!(host.rig.metrics.messages_sent.get() - before, laps * messages * host.sockets, "everybody got everything");
                    spent
                });
            });
        }
    }
    group.finish();
}

/// What a visit cannot do without: the time at which its messages left.
fn clock(criterion: &mut Criterion) {
    criterion.bench_function("clock/monotonic", |bencher| bencher.iter(sys::monotonic_ns));
}

criterion_group! { name = benches; config = common::short().sample_size(20); targets = lap, clock }
criterion_main!(benches);
