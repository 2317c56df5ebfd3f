//! Bugs that a whole shard once had, one test for each, named after what went wrong. The network is the simulation's, but nothing is left
//! to chance: every test says who reads how much, and when.

mod rig;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use campanile::addresses::Source;
use campanile::bus::question::{Answer, Asker, Published, Question, ReplyTo};
use campanile::bus::{BusCommand, JoinRefusal, ShardMessage};
use campanile::config::{Overrun, Settings};
use campanile::fanout::batch::{BatchBuilder, Channel};
use campanile::fanout::topics::TopicToken;
use campanile::limits;
use campanile::wire::Format;
use campanile::wire::close::CloseReason;
use campanile::wire::frame::{Opcode, encode_masked_frame};
use campanile::wire::payload::Kind;
use rig::Rig;
use rig::client::{Client, payload};
use rig::net::{SimNet, UNASKED, Wires, request};
use serde_json::{Value, json};

const PLENTY: usize = usize::MAX / 2;
const LOG_BYTES: usize = 1 << 20;
/// The bus has no room for this channel.
const REFUSED: &str = "refused";

fn settings() -> Settings {
    rig::settings(|settings| settings.channels.default.log_bytes = LOG_BYTES)
}

/// A shard, a bus that answers at once, and clients that check all they get.
struct Stage {
    wires: Rc<RefCell<Wires>>,
    rig: Rig<SimNet>,
    channels: BTreeMap<String, Known>,
    clients: Vec<Client>,
}

struct Known {
    channel: Arc<Channel>,
    seq: u64,
    topic: TopicToken,
}

impl Stage {
    fn new(settings: Settings) -> Stage {
        let wires = Wires::new();
        let rig = Rig::new(SimNet::of(&wires), &settings, 1 << 16);
        Stage { wires, rig, channels: BTreeMap::new(), clients: Vec::new() }
    }

    /// A client at the door; returns its number.
    fn knock(&mut self, bytes: &str, room: usize) -> usize {
        self.clients.push(Client::new(Format::Json));
        self.wires.borrow_mut().connect(bytes, room)
    }

    fn connect(&mut self, path: &str, room: usize) -> usize {
        let client = self.knock(&request(path, Format::Json), room);
        self.rig.shard.on_listener();
        client
    }

    /// Some clients of one channel, all subscribed and able to take everything.
    fn subscribers(&mut self, count: usize, channel: &str) -> Vec<usize> {
        let clients: Vec<usize> = (0..count).map(|_| self.connect(&format!("/ws/{channel}"), PLENTY)).collect();
        self.turns(3 + count / 16);
        assert!(clients.iter().all(|&client| self.clients[client].subscriptions.contains_key(channel)));
        clients
    }

    fn set_room(&mut self, client: usize, bytes: usize) {
        self.wires.borrow_mut().pipes[client].room = bytes;
    }

    fn add_room(&mut self, client: usize, bytes: usize) {
        self.wires.borrow_mut().pipes[client].room += bytes;
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        self.wires.borrow_mut().send(client, bytes);
    }

    fn text(&mut self, client: usize, text: &str) {
        self.send(client, &frame(true, Opcode::Text, text.as_bytes()));
    }

    fn publish(&mut self, name: &str, bytes: usize) {
        let (now_ns, now_unix_ms) = (self.wires.borrow().now_ns, self.wires.borrow().unix_ms());
        let known = self.channels.get_mut(name).expect("somebody has subscribed");
        known.seq += 1;
        let mut builder = BatchBuilder::new(known.channel.clone(), known.seq);
        builder.push(Kind::Json, &payload(name, known.channel.epoch, known.seq, bytes), now_ns, now_unix_ms);
        self.rig.to_shard.push(ShardMessage::Batch { topic: known.topic, batch: builder.seal() }).expect("the inbox has room");
    }

    /// The channel's source counts anew.
    fn renumber(&mut self, name: &str, epoch: u64, seq: u64) {
        let known = self.channels.get_mut(name).expect("somebody has subscribed");
        known.channel = Arc::new(Channel { name: name.into(), epoch, subscribers: Default::default() });
        known.seq = seq;
        let renumbered = ShardMessage::Renumbered { topic: known.topic, channel: known.channel.clone(), seq };
        self.rig.to_shard.push(renumbered).expect("the inbox has room");
    }

    fn renumbered(&self, clients: &[usize]) -> Vec<u64> {
        clients.iter().map(|&client| self.clients[client].renumbered).collect()
    }

    /// The end of the client's stream comes with what it sent last; it still reads.
    fn send_last(&mut self, client: usize, bytes: &[u8]) {
        self.wires.borrow_mut().send_last(client, bytes);
    }

    fn pass(&mut self, time: Duration) {
        self.wires.borrow_mut().now_ns += time.as_nanos() as u64;
    }

    /// The edges are told, the shard has its turn; what it asks of the bus is not looked at.
    fn turn_of_the_shard(&mut self) {
        let edges = self.wires.borrow_mut().edges();
        for (token, readiness) in edges {
            self.rig.shard.on_ready(token, readiness);
        }
        self.rig.shard.turn();
    }

    /// The bus answers, the edges are told, the shard has its turn, the clients read what has arrived.
    fn turn(&mut self) {
        while let Some(command) = self.rig.from_shard.try_recv() {
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
        for (pipe, client) in self.wires.borrow_mut().pipes.iter_mut().zip(&mut self.clients) {
            if !pipe.to_client.is_empty() {
                client.receive(&Vec::from(std::mem::take(&mut pipe.to_client)));
            }
        }
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// What the connections ended with that have ended.
    fn closed(&self) -> Vec<(&'static str, u64)> {
        let counted = |&reason: &CloseReason| (reason.name(), self.rig.metrics.closed[reason as usize].get());
        CloseReason::ALL.iter().map(counted).filter(|&(_, count)| count > 0).collect()
    }

    fn overruns(&self) -> u64 {
        self.rig.metrics.overruns.iter().map(|counter| counter.get()).sum()
    }

    fn messages(&self, clients: &[usize]) -> Vec<usize> {
        clients.iter().map(|&client| self.clients[client].messages).collect()
    }
}

/// The settings with one policy for all.
fn settings_with(overrun: Overrun) -> Settings {
    let mut settings = settings();
    settings.channels.default.overrun = overrun;
    settings
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_masked_frame(&mut bytes, fin, opcode, [1, 2, 3, 4], payload);
    bytes
}

#[test]
fn a_client_that_takes_more_than_one_visit_is_not_taken_for_slow() {
    const { assert!(10 * 50_000 > limits::FLUSH_BYTES_PER_VISIT && 10 * 50_000 < LOG_BYTES) };
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(5, "c");
    for _ in 0..10 {
        stage.publish("c", 50_000);
    }
    stage.turns(10);
    assert_eq!((stage.messages(&clients), stage.overruns()), (vec![10; 5], 0));
}

#[test]
fn a_client_that_was_blocked_may_catch_up_with_all_that_the_log_has() {
    let mut stage = Stage::new(settings());
    let client = stage.subscribers(1, "c")[0];
    stage.set_room(client, 10_000);
    for _ in 0..10 {
        stage.publish("c", 50_000);
        stage.turn();
    }
    assert_eq!(stage.rig.metrics.lagging.get(), 1);
    stage.set_room(client, PLENTY);
    stage.turns(10);
    assert_eq!((stage.clients[client].messages, stage.overruns()), (10, 0));
    assert_eq!((stage.rig.metrics.lagging.get(), stage.rig.metrics.log_bytes.get()), (0, 0), "then nothing is kept for it");
}

#[test]
fn one_overrun_does_not_disconnect_the_member_moved_into_its_place() {
    let mut stage = Stage::new(settings());
    let clients: Vec<usize> = (0..3).map(|_| stage.subscribers(1, "c")[0]).collect();
    stage.set_room(clients[1], 0);
    for _ in 0..40 {
        stage.publish("c", 50_000);
        stage.turns(3);
    }
    assert_eq!(stage.overruns(), 1, "of the one that was stalled");
    assert_eq!(stage.messages(&clients), [40, 0, 40]);
}

/// The one that was moved is visited in the next turn, before which as much may come as the log may hold.
#[test]
fn a_member_that_a_lap_has_missed_is_not_overrun_by_a_burst() {
    let mut stage = Stage::new(settings());
    let clients: Vec<usize> = (0..3).map(|_| stage.subscribers(1, "c")[0]).collect();
    stage.set_room(clients[1], 0);
    for _ in 0..8 {
        stage.publish("c", 50_000);
        stage.turn();
    }
    assert_eq!(stage.overruns(), 0);
    for turns in [1, 20] {
        for _ in 0..30 {
            stage.publish("c", 50_000);
        }
        stage.turns(turns);
    }
    assert_eq!(stage.overruns(), 1, "of the one that was stalled");
    assert_eq!(stage.messages(&clients), [68, 0, 68]);
}

/// The lap is cut into turns by its budget, so that what arrives before it has been round is more than the log may hold.
#[test]
fn a_lap_slower_than_the_channel_overruns_nobody_who_takes_everything() {
    let mut settings = settings();
    settings.channels.default.log_bytes = 4096;
    let mut stage = Stage::new(settings);
    let clients = stage.subscribers(1000, "c");
    for _ in 0..40 {
        for _ in 0..3 {
            stage.publish("c", 200);
        }
        stage.turn();
    }
    stage.turns(20);
    assert_eq!((stage.overruns(), stage.closed()), (0, vec![]));
    assert_eq!(stage.messages(&clients), vec![120; 1000]);
    assert_eq!(stage.rig.metrics.log_bytes.get(), 0);
}

/// A shard that is held up gets a whole inbox at once. Once it has been to everybody, only the one that is stalled needs it: the log must not wait for
/// the next message to come back within its bound.
#[test]
fn a_log_that_a_burst_filled_is_within_its_bound_when_everybody_has_been_visited() {
    for overrun in [Overrun::Skip, Overrun::Latest] {
        let mut settings = settings_with(overrun);
        settings.channels.default.log_bytes = 64 * 1024;
        let mut stage = Stage::new(settings);
        let clients = stage.subscribers(3, "c");
        stage.set_room(clients[1], 100);
        for _ in 0..50 {
            stage.publish("c", 16_000);
        }
        stage.turns(20);
        assert_eq!(stage.messages(&clients), [50, 0, 50], "{overrun:?}");
        let held = stage.rig.metrics.log_bytes.get();
        // And the message in the middle of which its socket is.
        assert!(held <= 3 * 64 * 1024, "{held} bytes");
        stage.set_room(clients[1], PLENTY);
        stage.turns(5);
        assert_eq!((stage.clients[clients[1]].subscriptions["c"].seq, stage.overruns()), (50, 1));
    }
}

#[test]
fn a_burst_of_more_than_a_visit_and_a_log_overruns_nobody_who_takes_everything() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(3, "c");
    for _ in 0..80 {
        stage.publish("c", 50_000);
    }
    for _ in 0..40 {
        stage.turn();
        stage.publish("c", 100);
    }
    stage.turns(20);
    assert_eq!((stage.messages(&clients), stage.overruns()), (vec![120; 3], 0));
    assert_eq!(stage.rig.metrics.log_bytes.get(), 0);
}

/// A turn sends fewer writes than it reads connections: what a thousand were answered would lie about until its turn came, and leave holes where it lay.
#[test]
fn many_replies_of_many_connections_do_not_pile_up() {
    const { assert!(limits::FLUSH_UNITS_PER_TURN / limits::FLUSH_UNITS_PER_WRITE < 200 && 200 < limits::READS_PER_TURN) };
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(200, "c");
    for &client in &clients {
        for number in 0..50 {
            let ping = json!({"type": "ping", "id": format!("{number:040}")});
            stage.text(client, &ping.to_string());
        }
    }
    stage.turn();
    assert_eq!(stage.rig.metrics.buffer_bytes.get(), 0);
    stage.turn();
    assert!(clients.iter().all(|&client| stage.clients[client].answers.len() == 50));
}

#[test]
fn a_paused_client_is_read_again_while_its_channel_keeps_it_behind() {
    let mut settings = settings();
    settings.channels.default.overrun = Overrun::Skip;
    let mut stage = Stage::new(settings);
    let client = stage.subscribers(1, "c")[0];
    stage.set_room(client, 20_000);
    // More answers than an outbox may have before its client is read no further.
    for _ in 0..1500 {
        stage.text(client, "{}");
    }
    stage.text(client, &json!({"type": "unsubscribe", "channel": "c", "id": "out"}).to_string());
    for _ in 0..200 {
        stage.add_room(client, 10_000);
        stage.publish("c", 20_000);
        stage.turn();
    }
    assert!(matches!(&stage.clients[client].answers[..], [answer] if answer["type"] == "unsubscribed" && answer["id"] == "out"));
    assert_eq!(stage.rig.metrics.subscriptions.get(), 0);
}

#[test]
fn full_buffers_do_not_refuse_clients_that_hold_nothing() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.buffer_bytes_total = 1 << 20));
    for _ in 0..60 {
        let greedy = stage.connect("/ws", 500);
        for _ in 0..2000 {
            stage.text(greedy, "{}");
        }
    }
    stage.turns(10);
    let greedy_closed = stage.rig.metrics.closed[CloseReason::Buffers as usize].get();
    assert!(greedy_closed > 0, "who fills the buffers pays for it");
    for _ in 0..600 {
        stage.knock(&request("/ws", Format::Json)[..60], 500);
    }
    stage.rig.shard.on_listener();
    stage.turns(10);
    // Many who hold little could fill what is left, so the next to come would have been over the budget.
    stage.subscribers(50, "c");
    assert_eq!(stage.rig.metrics.closed[CloseReason::Buffers as usize].get(), greedy_closed);
}

#[test]
fn pongs_that_wait_in_the_socket_count_when_the_thread_was_held_up() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(30);
        settings.clients.pong_timeout = Duration::from_secs(40);
    }));
    let clients: Vec<usize> = (0..4 * limits::READS_PER_TURN).map(|_| stage.connect("/ws", PLENTY)).collect();
    stage.turns(20);
    for _ in 0..310 {
        stage.pass(Duration::from_millis(100));
        stage.turn();
    }
    assert!(clients.iter().all(|&client| stage.clients[client].pings == 1));
    // All but one answer at once, more than are read in a turn; then the host stands still for longer than a pong may take.
    for &client in &clients[1..] {
        stage.send(client, &frame(true, Opcode::Pong, b""));
    }
    stage.pass(Duration::from_secs(41));
    stage.turns(10);
    assert_eq!(stage.closed(), [("heartbeat_timeout", 1)]);
}

/// It is told now and then that the server lives, and has to take that, but it never says anything.
#[test]
fn a_peer_that_cannot_be_pinged_is_closed_for_what_it_does_not_take_and_not_for_its_silence() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(30);
        settings.clients.pong_timeout = Duration::from_secs(10);
    }));
    stage.connect("/ws", PLENTY);
    let unasked: Vec<usize> = (0..2).map(|_| stage.connect(&format!("/ws?{UNASKED}"), PLENTY)).collect();
    for &client in &unasked {
        stage.clients[client].unasked = true;
    }
    let pass = |stage: &mut Stage, seconds: usize| {
        for _ in 0..10 * seconds {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
    };
    pass(&mut stage, 600);
    assert_eq!(stage.closed(), [("heartbeat_timeout", 1)], "only the one that was asked and did not answer");
    for &client in &unasked {
        assert!((20..=21).contains(&stage.clients[client].beats), "{} heartbeats in ten minutes", stage.clients[client].beats);
    }
    // Both take nothing any more; one has room again when that has been noticed.
    let before: Vec<usize> = unasked.iter().map(|&client| stage.clients[client].beats).collect();
    for &client in &unasked {
        stage.set_room(client, 0);
    }
    pass(&mut stage, 31);
    assert!(stage.rig.metrics.buffer_bytes.get() > 0, "a heartbeat waits for room");
    pass(&mut stage, 4);
    stage.set_room(unasked[0], PLENTY);
    pass(&mut stage, 95);
    assert_eq!(stage.closed(), [("heartbeat_timeout", 2)]);
    let after: Vec<usize> = unasked.iter().map(|&client| stage.clients[client].beats).collect();
    assert!(after[0] >= before[0] + 3 && after[1] == before[1], "{before:?}, then {after:?}");
}

#[test]
fn connections_that_came_together_do_not_beat_together() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(30);
        settings.clients.pong_timeout = Duration::from_secs(10);
    }));
    stage.subscribers(300, "c");
    let mut before = vec![0; 300];
    for second in 0..90 {
        for _ in 0..10 {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
        let now: Vec<usize> = stage.clients.iter().map(|client| client.pings).collect();
        let asked: Vec<usize> = (0..300).filter(|&client| now[client] > before[client]).collect();
        assert!(asked.len() <= 25, "{} pings in second {second}, where 10 are even", asked.len());
        for client in asked {
            stage.send(client, &frame(true, Opcode::Pong, b""));
        }
        before = now;
    }
    assert!(before.iter().all(|pings| (2..=3).contains(pings)), "{before:?}");
}

#[test]
fn a_heartbeat_shorter_than_the_pongs_deadline_is_kept() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(2);
        settings.clients.pong_timeout = Duration::from_secs(10);
    }));
    let client = stage.connect("/ws", PLENTY);
    let mut before = 0;
    for _ in 0..200 {
        stage.pass(Duration::from_millis(100));
        stage.turn();
        if stage.clients[client].pings > before {
            before = stage.clients[client].pings;
            stage.send(client, &frame(true, Opcode::Pong, b""));
        }
    }
    assert!((9..=10).contains(&before), "{before} pings in 20 s");
}

#[test]
fn a_request_that_waits_in_the_socket_counts_when_the_thread_was_held_up() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.handshake_timeout = Duration::from_secs(5)));
    let clients: Vec<usize> = (0..4 * limits::READS_PER_TURN).map(|_| stage.knock("", PLENTY)).collect();
    stage.rig.shard.on_listener();
    stage.turns(20);
    for &client in &clients {
        stage.send(client, request("/ws", Format::Json).as_bytes());
    }
    stage.pass(Duration::from_secs(6));
    stage.turns(clients.len() * limits::FLUSH_UNITS_PER_WRITE / limits::FLUSH_UNITS_PER_TURN + 4);
    assert!(clients.iter().all(|&client| stage.clients[client].is_upgraded()));
}

#[test]
fn an_outbox_that_never_runs_empty_does_not_grow() {
    let mut stage = Stage::new(settings());
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    stage.set_room(client, 0);
    let ping = frame(true, Opcode::Ping, b"are you there");
    // A pong has 15 bytes: the client always takes as many as it causes, and never the last ones.
    stage.send(client, &ping.repeat(50));
    stage.turn();
    let mut most = 0;
    for _ in 0..500 {
        stage.send(client, &ping.repeat(400));
        stage.add_room(client, 400 * 15);
        stage.turn();
        most = most.max(stage.rig.metrics.buffer_bytes.get() as usize);
    }
    assert!(stage.clients[client].echoes > 100_000);
    assert!(most < 4 * limits::OUTBOX_PAUSE_BYTES, "{most} bytes for less than 7 KB unsent");
}

#[test]
fn a_slow_reader_is_told_4008() {
    let mut settings = settings();
    settings.channels.default.log_bytes = 32 * 1024;
    let mut stage = Stage::new(settings);
    let clients = stage.subscribers(30, "c");
    let mut rng = fastrand::Rng::with_seed(1);
    for &client in &clients {
        stage.set_room(client, rng.usize(0..5_000));
    }
    // Everybody reads, at less than half the rate of the channel, so that the log passes most in the middle of a frame.
    for _ in 0..1500 {
        for &client in &clients {
            stage.add_room(client, rng.usize(0..150));
        }
        stage.publish("c", 50);
        stage.turn();
    }
    assert_eq!(stage.overruns(), 30);
    for &client in &clients {
        stage.set_room(client, PLENTY);
    }
    stage.turns(5);
    assert!(clients.iter().all(|&client| stage.clients[client].close == Some(4008)));
}

#[test]
fn a_message_that_is_never_finished_is_closed_after_two_heartbeats() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.heartbeat = Duration::from_secs(30)));
    let endless = stage.connect("/ws", PLENTY);
    let slow = stage.connect("/ws", PLENTY);
    stage.turns(3);
    stage.send(endless, &frame(false, Opcode::Text, b"{\"type\":"));
    let command = frame(true, Opcode::Text, json!({"type": "ping", "id": "slow"}).to_string().as_bytes());
    let pieces: Vec<&[u8]> = command.chunks(command.len().div_ceil(5)).collect();
    for step in 0..60 {
        // Pings between its pieces show that the connection lives, but not that the message will ever end.
        if stage.clients[endless].close.is_none() {
            stage.send(endless, &frame(true, Opcode::Ping, b"are you there"));
        }
        // The other one takes 20 s for each message, one after the other, so that one is always under way.
        stage.send(slow, pieces[step % 5]);
        for _ in 0..50 {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
        if step < 5 {
            assert_eq!(stage.clients[endless].close, None, "not before a whole heartbeat has passed");
        }
        if step == 14 {
            assert_eq!(stage.clients[endless].close, Some(1008));
        }
    }
    assert_eq!(stage.closed(), [("message_timeout", 1)]);
    assert_eq!((stage.clients[slow].close, stage.clients[slow].answers.len()), (None, 12));
}

#[test]
fn requests_at_the_door_when_the_server_stops_are_told_so() {
    let mut stage = Stage::new(settings());
    // One has been let in and has not spoken yet.
    let silent = stage.connect("", PLENTY);
    let _ = std::mem::take(&mut stage.wires.borrow_mut().pipes[silent].to_server);
    stage.turns(2);
    // Nobody has been told of the others; one of them has gone away again.
    let waiting: Vec<usize> = (0..20).map(|_| stage.knock(&request("/ws", Format::Json), PLENTY)).collect();
    stage.wires.borrow_mut().pipes[waiting[7]].reset = true;
    stage.rig.to_shard.push(ShardMessage::Stop).unwrap();
    stage.turn();
    stage.send(silent, request("/ws", Format::Json).as_bytes());
    stage.turns(3);
    for (at, &client) in waiting.iter().enumerate() {
        assert_eq!(stage.clients[client].refused, (at != 7).then_some(503), "client {at}");
    }
    assert_eq!(stage.clients[silent].refused, Some(503));
}

/// Through pauses, drained outboxes and frames that the socket takes in pieces.
#[test]
fn commands_are_answered_in_their_order() {
    let mut settings = settings();
    settings.channels.default.overrun = Overrun::Skip;
    settings.channels.default.log_bytes = 16 * 1024;
    let mut stage = Stage::new(settings);
    stage.subscribers(1, "c");
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    stage.set_room(client, 0);
    let mut commands = (0..3000).map(|id| match id % 10 {
        2 => (json!({"type": "subscribe", "channel": "c", "id": id}), id, "subscribed"),
        8 => (json!({"type": "unsubscribe", "channel": "c", "id": id}), id, "unsubscribed"),
        5 => (json!({"type": "nonsense", "id": id}), id, "error"),
        _ => (json!({"type": "ping", "id": id}), id, "pong"),
    });
    let mut expected = Vec::new();
    let mut rng = fastrand::Rng::with_seed(1);
    for turn in 0..=1000 {
        // A thousand at once, more than are read before the first have been answered; then two by two.
        for (command, id, answer) in commands.by_ref().take(if turn == 0 { 1000 } else { 2 }) {
            stage.text(client, &command.to_string());
            expected.push((id, answer));
        }
        stage.add_room(client, rng.usize(0..1500));
        stage.publish("c", 300);
        stage.turn();
    }
    stage.set_room(client, PLENTY);
    stage.turns(20);
    let client = &stage.clients[client];
    let answers: Vec<(i64, &str)> =
        client.answers.iter().map(|answer| (answer["id"].as_i64().unwrap(), answer["type"].as_str().unwrap())).collect();
    assert_eq!(answers, expected);
    assert!(client.messages > 100, "with messages between them");
}

/// The log of the second channel is as good as empty, whatever the socket is full of.
#[test]
fn a_blocked_client_is_not_overrun_by_a_log_that_has_room() {
    for overrun in [Overrun::Disconnect, Overrun::Skip, Overrun::Latest] {
        for full_of_pongs in [false, true] {
            let mut stage = Stage::new(settings_with(overrun));
            let client = stage.connect("/ws?channel=a&channel=other", PLENTY);
            stage.turns(3);
            stage.set_room(client, 5_000);
            if full_of_pongs {
                stage.send(client, &frame(true, Opcode::Ping, b"are you there").repeat(600));
            } else {
                stage.publish("a", 600_000);
            }
            stage.turns(3);
            for _ in 0..5 {
                stage.publish("other", 10);
                stage.turns(3);
            }
            stage.set_room(client, PLENTY);
            stage.turns(10);
            let messages = if full_of_pongs { 5 } else { 6 };
            assert_eq!((stage.overruns(), stage.closed(), stage.clients[client].gaps), (0, vec![], 0), "{overrun:?}");
            assert_eq!(stage.clients[client].messages, messages);
            assert_eq!((stage.rig.metrics.lagging.get(), stage.rig.metrics.log_bytes.get()), (0, 0), "then nothing is kept for it");
        }
    }
}

#[test]
fn unsubscribing_in_the_middle_of_a_frame_ends_that_subscription_and_nothing_else() {
    for overrun in [Overrun::Disconnect, Overrun::Skip, Overrun::Latest] {
        let mut stage = Stage::new(settings_with(overrun).with(|settings| settings.bounds.subscriptions_max = 2));
        let client = stage.connect("/ws?channel=a&channel=b", PLENTY);
        stage.turns(3);
        stage.set_room(client, 5_000);
        stage.publish("a", 20_000);
        stage.turn();
        assert!(stage.clients[client].is_mid_frame());
        stage.text(client, &json!({"type": "unsubscribe", "channel": "a", "id": 1}).to_string());
        // What is being left does not count any more, and the same channel can be subscribed to again.
        stage.text(client, &json!({"type": "subscribe", "channel": "c", "id": 2}).to_string());
        stage.text(client, &json!({"type": "unsubscribe", "channel": "b", "id": 3}).to_string());
        stage.text(client, &json!({"type": "subscribe", "channel": "a", "id": 4}).to_string());
        for _ in 0..5 {
            stage.publish("a", 100);
            stage.turns(2);
            stage.publish("c", 100);
            stage.turns(2);
        }
        stage.set_room(client, PLENTY);
        stage.turns(5);
        let mut answers: Vec<(i64, &str)> =
            stage.clients[client].answers.iter().map(|answer| (answer["id"].as_i64().unwrap(), answer["type"].as_str().unwrap())).collect();
        answers.sort_unstable();
        assert_eq!(answers, [(1, "unsubscribed"), (2, "subscribed"), (3, "unsubscribed"), (4, "subscribed")], "{overrun:?}");
        assert_eq!((stage.overruns(), stage.closed(), stage.clients[client].gaps), (0, vec![], 0), "{overrun:?}");
        // The one that was cut, and five of each of the two channels.
        assert_eq!(stage.clients[client].messages, 11, "{overrun:?}");
        assert_eq!((stage.rig.metrics.subscriptions.get(), stage.rig.metrics.log_bytes.get()), (2, 0));
    }
}

#[test]
fn answers_are_not_lost_when_the_end_of_the_stream_comes_with_the_request() {
    let mut stage = Stage::new(settings());
    let tls_hello = "\u{16}\u{3}\u{1}\u{1}\u{0}";
    let requests = [
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        ("POST /ws HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("nonsense\r\n\r\n", 400),
        (tls_hello, 400),
        ("GET /healthz HTT", 400),
    ];
    for room in [PLENTY, 10] {
        for (request, status) in requests {
            let client = stage.knock("", room);
            stage.send_last(client, request.as_bytes());
            stage.rig.shard.on_listener();
            for _ in 0..100 {
                stage.turn();
                stage.add_room(client, 10);
            }
            assert_eq!(stage.clients[client].refused, Some(status), "{request:?} with room for {room}");
            assert!(stage.wires.borrow().pipes[client].server_gone, "and then it is over");
        }
    }
}

#[test]
fn pongs_and_the_close_frame_are_not_lost_when_the_end_of_the_stream_comes_with_them() {
    for room in [PLENTY, 3] {
        for says_goodbye in [true, false] {
            let mut stage = Stage::new(settings());
            let client = stage.subscribers(1, "c")[0];
            stage.set_room(client, room);
            stage.publish("c", 2_000);
            stage.turn();
            let mut last = frame(true, Opcode::Ping, b"are you there");
            last.extend(frame(true, Opcode::Text, json!({"type": "ping", "id": "last"}).to_string().as_bytes()));
            if says_goodbye {
                last.extend(frame(true, Opcode::Close, &1000u16.to_be_bytes()));
            }
            stage.send_last(client, &last);
            for _ in 0..40 {
                stage.turn();
                stage.add_room(client, 100);
            }
            let (pipes, client_view) = (&stage.wires.borrow().pipes, &stage.clients[client]);
            assert_eq!((client_view.echoes, client_view.answers.len(), client_view.messages), (1, 1, 1), "room for {room}");
            assert_eq!(client_view.close, says_goodbye.then_some(1000));
            assert!(pipes[client].server_gone && !client_view.is_mid_frame());
            assert_eq!(stage.closed(), [(if says_goodbye { "client" } else { "gone" }, 1)]);
        }
    }
}

#[test]
fn pings_that_are_cut_at_each_heartbeat_are_no_message_that_is_never_finished() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.heartbeat = Duration::from_secs(5)));
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    let ping = frame(true, Opcode::Ping, b"are you there");
    // Within a fragmented message that is finished, too.
    let (begin, end) = (frame(false, Opcode::Text, b"{\"type\":\"ping\""), frame(true, Opcode::Continuation, b",\"id\":1}"));
    for round in 0..40 {
        let message = round % 8 == 7;
        if message {
            stage.send(client, &begin);
        }
        let cut = 1 + round % (ping.len() - 1);
        stage.send(client, &ping[..cut]);
        for _ in 0..50 {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
        stage.send(client, &ping[cut..]);
        if message {
            stage.send(client, &end);
        }
        stage.turn();
    }
    assert_eq!((stage.clients[client].close, stage.closed()), (None, vec![]));
    assert_eq!((stage.clients[client].echoes, stage.clients[client].answers.len()), (40, 5));
}

#[test]
fn a_request_half_sent_when_the_server_stops_is_told_503() {
    let mut stage = Stage::new(settings());
    let half = stage.connect("", PLENTY);
    let _ = std::mem::take(&mut stage.wires.borrow_mut().pipes[half].to_server);
    stage.send(half, &request("/ws", Format::Json).as_bytes()[..30]);
    stage.turns(2);
    stage.rig.to_shard.push(ShardMessage::Stop).unwrap();
    stage.turn();
    stage.pass(Duration::from_secs(2));
    stage.turns(2);
    assert_eq!(stage.clients[half].refused, Some(503));
}

/// Every visit once walked all subscriptions several times: 20,000 channels and one outage kept the neighbours waiting for 12 s.
#[test]
fn news_on_many_channels_of_one_connection_cost_what_is_due_and_not_what_is_subscribed() {
    const COUNT: usize = 5_000;
    let mut stage = Stage::new(settings().with(|settings| {
        settings.bounds.subscriptions_max = COUNT;
        settings.bounds.channels_max = 2 * COUNT;
    }));
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    for channel in 0..COUNT {
        stage.text(client, &json!({"type": "subscribe", "channel": format!("c{channel}")}).to_string());
        stage.turns(2);
    }
    stage.turns(10);
    assert_eq!(stage.clients[client].subscriptions.len(), COUNT);
    for room in [PLENTY, 0] {
        let (looks, writes) = (stage.rig.metrics.looks.get(), stage.rig.metrics.writes.get());
        stage.set_room(client, room);
        for channel in 0..COUNT {
            stage.publish(&format!("c{channel}"), 10);
        }
        stage.turns(300);
        stage.set_room(client, PLENTY);
        stage.turns(300);
        let (looks, writes) = (stage.rig.metrics.looks.get() - looks, stage.rig.metrics.writes.get() - writes);
        assert!(looks < 3 * COUNT as u64, "{looks} looks for {COUNT} messages");
        assert!(writes < COUNT as u64 / 8, "{writes} writes: neighbours share them");
    }
    assert_eq!((stage.clients[client].messages, stage.overruns(), stage.closed()), (2 * COUNT, 0, vec![]));
    // One more message costs no more than with few channels.
    let looks = stage.rig.metrics.looks.get();
    stage.publish("c77", 10);
    stage.turns(2);
    assert!(stage.rig.metrics.looks.get() - looks <= 2 * limits::NEIGHBOURS_PER_VISIT as u64);
}

/// A busy channel of the same connection does not keep a quiet one waiting, however little its socket takes.
#[test]
fn a_quiet_channel_has_its_turn_beside_busy_ones() {
    let mut stage = Stage::new(settings_with(Overrun::Skip).with(|settings| settings.bounds.subscriptions_max = 100));
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    for channel in 0..65 {
        stage.text(client, &json!({"type": "subscribe", "channel": format!("c{channel}")}).to_string());
    }
    stage.turns(10);
    stage.set_room(client, 0);
    for round in 0..400 {
        for channel in (0..64).filter(|channel| round > 0 || channel % 2 == 0) {
            stage.publish(&format!("c{channel}"), 3_000);
        }
        if round == 1 {
            stage.publish("c64", 10);
        }
        stage.add_room(client, 3_500);
        stage.turn();
        if stage.clients[client].subscriptions["c64"].seq == 1 {
            assert!(round < 200, "round {round}");
            return;
        }
    }
    panic!("the quiet channel starves");
}

/// A client that sends no ids must know which of its commands failed.
#[test]
fn an_error_without_an_id_says_what_it_answers() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.subscriptions_max = 2));
    stage.subscribers(1, "a");
    let client = stage.connect("/ws?channel=a&channel=b&channel=full", PLENTY);
    stage.turns(3);
    for command in [
        json!({"type": "subscribe", "channel": "a"}),
        json!({"type": "subscribe", "channel": "c"}),
        json!({"type": "unsubscribe", "channel": "c"}),
        json!({"type": "publish", "channel": "p", "data": 1}),
        json!({"type": "subscribe", "channel": ""}),
        json!({"type": "subscribe", "channel": "s", "since": 1}),
        json!({"type": "nonsense", "channel": "n"}),
    ] {
        stage.text(client, &command.to_string());
    }
    stage.text(client, r#"{"type":"subscribe","channel":"x","id":1"#);
    stage.turns(3);
    let late = stage.connect(&format!("/ws/{REFUSED}"), PLENTY);
    stage.turns(4);
    let named = |client: usize| -> Vec<String> {
        let text = |event: &Value, field: &str| event[field].as_str().map_or_else(|| "-".to_owned(), |text| format!("{text:?}"));
        stage.clients[client]
            .errors
            .iter()
            .map(|event| format!("{} {} {}", text(event, "code"), text(event, "command"), text(event, "channel")).replace('"', ""))
            .collect()
    };
    assert_eq!(
        named(client),
        [
            "too_many_subscriptions subscribe full",
            "already_subscribed subscribe a",
            "too_many_subscriptions subscribe c",
            "not_subscribed unsubscribe c",
            "publish_not_allowed publish p",
            "bad_channel subscribe ",
            "bad_command subscribe s",
            "unknown_type nonsense n",
            "bad_command - -",
        ]
    );
    assert_eq!(named(late), ["too_many_channels subscribe refused"]);
    assert!(stage.clients[client].answers.is_empty(), "no id was given");
}

/// NTP, an operator, a machine that was asleep: the wall clock steps by an hour, and history is neither thrown away nor kept too long.
#[test]
fn history_keeps_its_age_when_the_wall_clock_steps() {
    const AGE: Duration = Duration::from_secs(60);
    for step_ms in [3_600_000, -3_600_000] {
        let mut settings = settings();
        (settings.channels.default.history_count, settings.channels.default.history_age) = (100, AGE);
        let mut stage = Stage::new(settings);
        let member = stage.subscribers(1, "c")[0];
        stage.publish("c", 100);
        stage.turns(2);
        assert_eq!(stage.messages(&[member]), [1]);
        let resume = |stage: &mut Stage| {
            let late = stage.connect("/ws", PLENTY);
            stage.turns(2);
            stage.text(late, r#"{"type":"subscribe","channel":"c","since":{"epoch":7,"seq":0},"id":1}"#);
            stage.turns(2);
            stage.clients[late].answers[0]["recovered"].as_bool().expect("it has asked for the past")
        };

        stage.wires.borrow_mut().wall_steps_ms = step_ms;
        stage.pass(AGE / 2);
        assert!(resume(&mut stage), "{step_ms} ms: half of its age has passed");
        stage.pass(AGE / 2);
        assert!(!resume(&mut stage), "{step_ms} ms: all of it has");
    }
}

/// A connection that subscribes to a new name as often as it can keeps the bus busy with nothing else.
#[test]
fn a_connection_that_subscribes_to_ever_new_names_is_slowed_down() {
    let mut stage = Stage::new(settings());
    let flood = stage.connect("/ws", PLENTY);
    stage.turns(2);
    let mut name = 0;
    let mut attempts = |stage: &mut Stage, count: usize| -> (usize, usize) {
        let before = stage.clients[flood].answers.len();
        for _ in 0..count {
            name += 1;
            stage.text(flood, &json!({"type": "subscribe", "channel": format!("n{name}"), "id": name}).to_string());
            stage.turns(2);
            stage.text(flood, &json!({"type": "unsubscribe", "channel": format!("n{name}"), "id": name}).to_string());
            stage.turns(2);
        }
        let answers = &stage.clients[flood].answers[before..];
        let counted = |what: &str| answers.iter().filter(|answer| answer["type"] == what || answer["code"] == what).count();
        (counted("subscribed"), counted("rate_limited"))
    };
    assert_eq!(attempts(&mut stage, 300), (256, 44), "two sets of 128 subscriptions at once");
    stage.pass(Duration::from_secs(1));
    assert_eq!(attempts(&mut stage, 300), (16, 284));
    assert_eq!(stage.rig.metrics.channels_limited.get(), 44 + 284);
    // A channel that somebody has is nobody's burden, and other connections are not concerned.
    stage.subscribers(1, "there");
    stage.text(flood, r#"{"type":"subscribe","channel":"there","id":"there"}"#);
    stage.turns(2);
    assert_eq!(stage.clients[flood].answers.last().unwrap()["type"], "subscribed");
}

/// Two clients wait for the same channel. The first one's address has its share; the other must have it all the same.
#[test]
fn the_share_of_one_address_is_not_held_against_another_that_waits_for_the_same_channel() {
    let mut stage = Stage::new(settings());
    let connect = |stage: &mut Stage, address: u8| {
        stage.clients.push(Client::new(Format::Json));
        let peer = ([192, 0, 2, address], 4000).into();
        let client = stage.wires.borrow_mut().connect_from(peer, &request("/ws", Format::Json), PLENTY);
        stage.rig.shard.on_listener();
        client
    };
    let (greedy, again, other) = (connect(&mut stage, 1), connect(&mut stage, 1), connect(&mut stage, 2));
    stage.turns(2);
    for client in [greedy, again, other] {
        stage.text(client, r#"{"type":"subscribe","channel":"c","id":1}"#);
    }
    stage.turn_of_the_shard();
    let Some(BusCommand::Join { topic, creator, .. }) = stage.rig.from_shard.try_recv() else { panic!("it asks the bus") };
    let of = |address: u8| Source::of(([192, 0, 2, address], 1).into());
    // Edges come in no order: whoever was first is refused.
    let (refused, served) = if creator.source == of(1) { (&[greedy, again][..], other) } else { (&[other][..], greedy) };
    let refusal = JoinRefusal::AddressShare(creator.source);
    stage.rig.to_shard.push(ShardMessage::Refused { topic, refusal }).unwrap();
    stage.turns(3);
    for &client in refused {
        assert_eq!(stage.clients[client].answers[0]["code"], "too_many_channels");
    }
    assert_eq!(stage.clients[served].answers[0]["type"], "subscribed");
    assert_eq!(stage.rig.metrics.channels_refused.get(), refused.len() as u64);
}

/// The bus takes its time, and the connection's slot has another user by then.
#[test]
fn an_answer_finds_whoever_has_asked_and_nobody_else() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.allow_client_publish = true));
    let asks = |stage: &mut Stage| {
        let client = stage.connect("/ws", PLENTY);
        stage.turns(2);
        stage.text(client, r#"{"type":"publish","channel":"c","data":1,"id":"mine"}"#);
        stage.turn_of_the_shard();
        let Some(BusCommand::Ask(Question::Publish(publish))) = stage.rig.from_shard.try_recv() else { panic!("it asks the bus") };
        let Asker::Client(reply_to) = publish.asker else { panic!("it is a client") };
        (client, reply_to)
    };
    let answer = |stage: &mut Stage, ReplyTo { conn, id, .. }: ReplyTo| {
        let answer = Answer::Published { channel: "c".into(), result: Ok(Published { epoch: Some(7), seq: Some(1) }) };
        stage.rig.to_shard.push(ShardMessage::Answer { conn, id, answer }).unwrap();
        stage.turns(2);
    };
    let (gone, to_gone) = asks(&mut stage);
    stage.wires.borrow_mut().pipes[gone].reset = true;
    stage.turns(2);
    let (stays, to_stays) = asks(&mut stage);
    assert_eq!(to_gone.conn.index, to_stays.conn.index, "the slot is used again");
    answer(&mut stage, to_gone);
    assert!(stage.clients[stays].answers.is_empty(), "it is not for this one");
    answer(&mut stage, to_stays);
    assert_eq!(stage.clients[stays].answers, [json!({"type": "published", "id": "mine", "channel": "c", "seq": 1})]);
}

#[test]
fn a_frame_that_was_begun_is_finished_though_its_channel_is_counted_anew() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(2, "c");
    stage.set_room(clients[0], 500);
    stage.publish("c", 3000);
    stage.publish("c", 10);
    stage.turn();
    // The same numbers again, in the middle of which one of them stands.
    stage.renumber("c", 8, 0);
    stage.publish("c", 10);
    stage.publish("c", 10);
    stage.turns(2);
    assert_eq!((stage.messages(&clients), stage.renumbered(&clients)), (vec![0, 4], vec![0, 1]));
    stage.text(clients[0], r#"{"type":"ping","id":"reply"}"#);
    stage.set_room(clients[0], PLENTY);
    stage.turns(3);
    assert_eq!(
        (stage.messages(&clients), stage.renumbered(&clients)),
        (vec![3, 4], vec![1, 1]),
        "and the rest of the old ones never comes"
    );
    assert_eq!(stage.clients[clients[0]].answers.len(), 1);
    let metrics = &stage.rig.metrics;
    assert_eq!((metrics.lagging.get(), metrics.log_bytes.get(), metrics.buffer_bytes.get()), (0, 0, 0));
    assert_eq!((stage.overruns(), stage.closed()), (0, vec![]));
}

#[test]
fn a_topic_that_is_counted_anew_keeps_no_log_when_everybody_has_been_told() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(3, "c");
    stage.set_room(clients[1], 0);
    stage.publish("c", 10);
    stage.turns(2);
    stage.renumber("c", 8, 40);
    stage.turns(2);
    assert_eq!(stage.renumbered(&clients), [1, 0, 1]);
    assert!(stage.rig.shard.has_log("c"), "one is behind");
    assert_eq!(stage.rig.metrics.buffer_bytes.get(), 0, "which costs nothing");
    stage.set_room(clients[1], PLENTY);
    stage.turns(2);
    assert_eq!(stage.renumbered(&clients), [1, 1, 1]);
    assert!(!stage.rig.shard.has_log("c") && stage.rig.metrics.lagging.get() == 0);
    stage.publish("c", 10);
    stage.turns(2);
    assert_eq!(stage.messages(&clients), [2, 1, 2]);
    // Nobody is left to be told.
    for &client in &clients {
        stage.wires.borrow_mut().pipes[client].reset = true;
    }
    stage.renumber("c", 9, 0);
    stage.turns(2);
    assert!(!stage.rig.shard.has_log("c"));
}

/// It knows nothing of the new numbers, so a gap would mean nothing to it.
#[test]
fn whoever_has_not_heard_of_the_new_numbers_is_told_them_instead_of_a_gap_in_them() {
    let mut stage = Stage::new(settings_with(Overrun::Skip));
    let client = stage.subscribers(1, "c")[0];
    stage.set_room(client, 0);
    stage.publish("c", 10);
    stage.turn();
    stage.renumber("c", 8, 40);
    for _ in 0..4 {
        stage.publish("c", LOG_BYTES / 2);
        stage.turn();
    }
    stage.set_room(client, PLENTY);
    stage.turns(3);
    assert_eq!((stage.renumbered(&[client]), stage.clients[client].gaps, stage.overruns()), (vec![1], 0, 1));
    assert_eq!(stage.clients[client].subscriptions["c"].seq, 44);
}

/// Somebody who takes nothing cannot be told, and the others do not wait for it beyond the deadline; nor does the thread sleep past it.
#[test]
fn whoever_takes_nothing_is_cut_when_the_time_to_stop_is_over() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.shutdown_timeout = Duration::from_secs(3)));
    let clients = stage.subscribers(2, "a");
    stage.set_room(clients[0], 0);
    stage.publish("a", 100);
    stage.turns(3);
    stage.rig.to_shard.push(ShardMessage::Stop).unwrap();
    stage.turns(3);
    assert_eq!(stage.clients[clients[1]].close, Some(1001));
    assert!(!stage.rig.shard.is_finished());
    let now_ns = stage.wires.borrow().now_ns;
    assert!(stage.rig.shard.wait_ns(now_ns).is_some_and(|wait_ns| wait_ns <= 3_000_000_000));
    stage.pass(Duration::from_secs(3));
    stage.turns(2);
    assert!(stage.rig.shard.is_finished());
    assert_eq!(stage.closed(), [("shutdown", 2)]);
}
