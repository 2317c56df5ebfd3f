//! A shard on a stage: the test holds the network, the bus and the clock.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::rig::Rig;
use crate::rig::client::{Client, aside, payload};
use crate::rig::net::{SimNet, Wires, request};
use campanile::bus::{BusCommand, JoinRefusal, ShardMessage};
use campanile::config::{Overrun, Settings};
use campanile::fanout::batch::{Batch, BatchBuilder, Channel};
use campanile::fanout::topics::TopicToken;
use campanile::wire::Format;
use campanile::wire::close::CloseReason;
use campanile::wire::event::GapReason;
use campanile::wire::frame::{Opcode, encode_masked_frame};
use campanile::wire::payload::Kind;

pub const PLENTY: usize = usize::MAX / 2;

pub const LOG_BYTES: usize = 1 << 20;

/// The bus has no room for this channel.
pub const REFUSED: &str = "refused";

pub fn settings() -> Settings {
    crate::rig::settings(|settings| settings.channels.default.log_bytes = LOG_BYTES)
}

/// A shard, a bus that answers at once, and clients that check all they get.
pub struct Stage {
    pub wires: Rc<RefCell<Wires>>,
    pub rig: Rig<SimNet>,
    pub channels: BTreeMap<String, Known>,
    pub clients: Vec<Client>,
    /// What is older than the logs, as it was asked for: topic and first number.
    pub pages_asked: Vec<(TopicToken, u64)>,
}

pub struct Known {
    pub channel: Arc<Channel>,
    pub seq: u64,
    pub topic: TopicToken,
}

impl Stage {
    pub fn new(settings: Settings) -> Stage {
        let wires = Wires::new();
        let rig = Rig::new(SimNet::of(&wires), &settings, 1 << 16);
        Stage { wires, rig, channels: BTreeMap::new(), clients: Vec::new(), pages_asked: Vec::new() }
    }

    /// A client at the door; returns its number.
    pub fn knock(&mut self, bytes: &str, room: usize) -> usize {
        self.clients.push(Client::new(Format::Json));
        self.wires.borrow_mut().connect(bytes, room)
    }

    pub fn connect(&mut self, path: &str, room: usize) -> usize {
        let client = self.knock(&request(path, Format::Json), room);
        self.rig.shard.on_listener();
        client
    }

    /// Some clients of one channel, all subscribed and able to take everything.
    pub fn subscribers(&mut self, count: usize, channel: &str) -> Vec<usize> {
        let clients: Vec<usize> = (0..count).map(|_| self.connect(&format!("/ws/{channel}"), PLENTY)).collect();
        self.turns(3 + count / 16);
        assert!(clients.iter().all(|&client| self.clients[client].subscriptions.contains_key(channel)));
        clients
    }

    /// The same, each of which wants no more than so many messages a second.
    pub fn paced_subscribers(&mut self, count: usize, channel: &str, rate: u16) -> Vec<usize> {
        let clients: Vec<usize> = (0..count).map(|_| self.connect("/ws", PLENTY)).collect();
        self.turns(3 + count / 16);
        let now_ns = self.wires.borrow().now_ns;
        for &client in &clients {
            self.clients[client].pace(channel, rate, now_ns);
            self.text(client, &format!(r#"{{"type":"subscribe","channel":"{channel}","max_rate":{rate},"id":1}}"#));
        }
        self.turns(3 + count / 16);
        assert!(clients.iter().all(|&client| self.clients[client].answers[0]["max_rate"] == rate));
        clients
    }

    pub fn set_room(&mut self, client: usize, bytes: usize) {
        self.wires.borrow_mut().pipes[client].room = bytes;
    }

    pub fn add_room(&mut self, client: usize, bytes: usize) {
        self.wires.borrow_mut().pipes[client].room += bytes;
    }

    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        self.wires.borrow_mut().send(client, bytes);
    }

    pub fn text(&mut self, client: usize, text: &str) {
        self.send(client, &frame(true, Opcode::Text, text.as_bytes()));
    }

    pub fn publish(&mut self, name: &str, bytes: usize) {
        let (now_ns, now_unix_ms) = (self.wires.borrow().now_ns, self.wires.borrow().unix_ms());
        let known = self.channels.get_mut(name).expect("somebody has subscribed");
        known.seq += 1;
        let mut builder = BatchBuilder::new(known.channel.clone(), known.seq);
        builder.push(Kind::Json, &payload(name, known.channel.epoch, known.seq, bytes), now_ns, now_unix_ms);
        self.rig.to_shard.push(ShardMessage::Batch { topic: known.topic, batch: builder.seal() }).expect("the inbox has room");
    }

    /// A message without a number; it has one of its own, by which it is known.
    pub fn aside(&mut self, name: &str, number: u64, bytes: usize) {
        let known = &self.channels[name];
        let aside = aside(&known.channel, number, bytes);
        self.rig.to_shard.push(ShardMessage::Aside { topic: known.topic, aside }).expect("the inbox has room");
    }

    /// So many numbers of a channel are lost before they come here.
    pub fn lose(&mut self, name: &str, count: u64) {
        let known = self.channels.get_mut(name).expect("somebody has subscribed");
        let from = known.seq + 1;
        known.seq += count;
        let batch = Batch::gap(&known.channel, from, known.seq, GapReason::Outage);
        self.rig.to_shard.push(ShardMessage::Batch { topic: known.topic, batch }).expect("the inbox has room");
    }

    /// A page that was asked for; with nothing on it, it cannot be had.
    pub fn bring_page(&mut self, topic: TopicToken, from: u64, batches: Vec<Arc<Batch>>) {
        self.rig.to_shard.push(ShardMessage::Page { topic, from, batches }).expect("the inbox has room");
    }

    /// The channel's source counts anew.
    pub fn renumber(&mut self, name: &str, epoch: u64, seq: u64) {
        let known = self.channels.get_mut(name).expect("somebody has subscribed");
        known.channel = Arc::new(Channel { name: name.into(), epoch, subscribers: Default::default() });
        known.seq = seq;
        let renumbered = ShardMessage::Renumbered { topic: known.topic, channel: known.channel.clone(), seq };
        self.rig.to_shard.push(renumbered).expect("the inbox has room");
    }

    pub fn renumbered(&self, clients: &[usize]) -> Vec<u64> {
        clients.iter().map(|&client| self.clients[client].renumbered).collect()
    }

    /// The end of the client's stream comes with what it sent last; it still reads.
    pub fn send_last(&mut self, client: usize, bytes: &[u8]) {
        self.wires.borrow_mut().send_last(client, bytes);
    }

    pub fn pass(&mut self, time: Duration) {
        self.wires.borrow_mut().now_ns += time.as_nanos() as u64;
    }

    /// The edges are told, the shard has its turn; what it asks of the bus is not looked at.
    pub fn turn_of_the_shard(&mut self) {
        let edges = self.wires.borrow_mut().edges();
        for (token, readiness) in edges {
            self.rig.shard.on_ready(token, readiness);
        }
        self.rig.shard.turn();
    }

    /// The bus answers, the edges are told, the shard has its turn, the clients read what has arrived.
    pub fn turn(&mut self) {
        while let Some(command) = self.rig.from_shard.try_recv() {
            if let BusCommand::ReadPage { topic, from, .. } = command {
                self.pages_asked.push((topic, from));
                continue;
            }
            let BusCommand::Join { topic, channel, .. } = command else { continue };
            if &*channel == REFUSED {
                self.rig.to_shard.push(ShardMessage::Refused { topic, refusal: JoinRefusal::ChannelsMax }).expect("the inbox has room");
                continue;
            }
            let known = self.channels.entry(channel.to_string()).or_insert_with(|| {
                let channel = Arc::new(Channel { name: channel, epoch: 7, subscribers: Default::default() });
                Known { channel, seq: 0, topic }
            });
            known.topic = topic;
            let joined = ShardMessage::Joined { topic, channel: known.channel.clone(), seq: known.seq, history: Vec::new() };
            self.rig.to_shard.push(joined).expect("the inbox has room");
        }
        self.turn_of_the_shard();
        let now_ns = self.wires.borrow().now_ns;
        for (pipe, client) in self.wires.borrow_mut().pipes.iter_mut().zip(&mut self.clients) {
            client.now_ns = now_ns;
            if !pipe.to_client.is_empty() {
                client.receive(&Vec::from(std::mem::take(&mut pipe.to_client)));
            }
        }
    }

    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// Whether the shard has something to do within a second, though nothing comes.
    pub fn has_something_due(&self) -> bool {
        self.rig.shard.wait_ns(self.wires.borrow().now_ns).is_some_and(|wait_ns| wait_ns < 1_000_000_000)
    }

    /// What the connections ended with that have ended.
    pub fn closed(&self) -> Vec<(&'static str, u64)> {
        let counted = |&reason: &CloseReason| (reason.name(), self.rig.metrics.closed[reason as usize].get());
        CloseReason::ALL.iter().map(counted).filter(|&(_, count)| count > 0).collect()
    }

    pub fn overruns(&self) -> u64 {
        self.rig.metrics.overruns.iter().map(|counter| counter.get()).sum()
    }

    pub fn messages(&self, clients: &[usize]) -> Vec<usize> {
        clients.iter().map(|&client| self.clients[client].messages).collect()
    }
}

/// The settings with one policy for all.
pub fn settings_with(overrun: Overrun) -> Settings {
    let mut settings = settings();
    settings.channels.default.overrun = overrun;
    settings
}

pub fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_masked_frame(&mut bytes, fin, opcode, [1, 2, 3, 4], payload);
    bytes
}
