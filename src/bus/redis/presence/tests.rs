//! Several nodes and one Redis, all played: commands of nodes come in between each other in any order, connections break with commands unanswered, nodes
//! die, Redis is emptied. When all is quiet, numbers, lists and the last event of each channel say what is so. By seed, which a failure prints.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::*;
use crate::bus::presence::{PresenceAsked, Subject};
use crate::bus::question::{Answer, Asker};
use crate::bus::settings::HubSettings;
use crate::config::ChannelRule;
use crate::metrics::BusMetrics;

const CHANNELS: [&str; 3] = ["a", "b", "c"];
/// In seconds of the play.
const LEASE_S: u64 = 30;

#[derive(Debug, Default)]
struct Redis {
    hashes: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// When a key goes, in seconds.
    expires: BTreeMap<Vec<u8>, u64>,
    sets: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    texts: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Type and channel, as back ends have read them: Redis need not keep them.
    events: Vec<(String, String)>,
    /// How many of them there were when Redis forgot what had been told.
    forgotten: usize,
    /// What has happened, for whoever looks for the reason of a failure.
    story: Vec<String>,
    now_s: u64,
    /// Answers whatever is written with an error.
    is_full: bool,
}

fn bulk(bytes: Option<&Vec<u8>>) -> Value {
    bytes.map_or(Value::Nil, |bytes| Value::BulkString(bytes.clone()))
}

fn error(text: &str) -> ServerError {
    let Ok(Value::ServerError(error)) = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()) else { panic!("an error") };
    error
}

impl Redis {
    fn pass(&mut self, seconds: u64) {
        self.now_s += seconds;
        let over: Vec<Vec<u8>> = self.expires.iter().filter(|(_, at)| **at <= self.now_s).map(|(key, _)| key.clone()).collect();
        for key in over {
            self.expires.remove(&key);
            self.hashes.remove(&key);
            self.texts.remove(&key);
        }
    }

    fn flush(&mut self) {
        self.story.push("flushed".to_owned());
        let (events, story) = (std::mem::take(&mut self.events), std::mem::take(&mut self.story));
        *self = Redis { now_s: self.now_s, is_full: self.is_full, forgotten: events.len(), events, story, ..Redis::default() };
    }

    fn obey(&mut self, command: &[Vec<u8>]) -> Reply {
        let text = |at: usize| String::from_utf8(command[at].clone()).unwrap();
        let rest = &command[2..];
        let key = command[1].clone();
        if self.is_full && matches!(&*text(0), "HSET" | "ZADD" | "XADD" | "SADD" | "SET") {
            return Err(error("OOM command not allowed when used memory > 'maxmemory'."));
        }
        Ok(match &*text(0) {
            "HSET" => {
                let hash = self.hashes.entry(key).or_default();
                Value::Int(rest.chunks(2).filter(|pair| hash.insert(pair[0].clone(), pair[1].clone()).is_none()).count() as i64)
            }
            "HDEL" => {
                let hash = self.hashes.get_mut(&key);
                Value::Int(hash.map_or(0, |hash| rest.iter().filter(|field| hash.remove(*field).is_some()).count() as i64))
            }
            "HMGET" => {
                let hash = self.hashes.get(&key);
                Value::Array(rest.iter().map(|field| bulk(hash.and_then(|hash| hash.get(field)))).collect())
            }
            "PTTL" if !self.hashes.contains_key(&key) => Value::Int(-2),
            "PTTL" => Value::Int(self.expires.get(&key).map_or(-1, |at| (at - self.now_s) as i64 * 1000)),
            "PEXPIRE" => {
                let is_there = self.hashes.contains_key(&key);
                if is_there {
                    self.expires.insert(key, self.now_s + text(2).parse::<u64>().unwrap() / 1000);
                }
                Value::Int(is_there.into())
            }
            "SADD" => Value::Int(self.sets.entry(key).or_default().insert(rest[0].clone()).into()),
            "SREM" => {
                let set = self.sets.entry(key).or_default();
                Value::Int(rest.iter().filter(|member| set.remove(*member)).count() as i64)
            }
            "SMEMBERS" => Value::Set(self.sets.get(&key).into_iter().flatten().map(|id| Value::BulkString(id.clone())).collect()),
            "ZADD" => {
                let set = self.sets.entry(key).or_default();
                Value::Int(rest.chunks(2).filter(|pair| set.insert(pair[1].clone())).count() as i64)
            }
            "ZREM" => {
                let set = self.sets.entry(key).or_default();
                Value::Int(rest.iter().filter(|member| set.remove(*member)).count() as i64)
            }
            "ZMSCORE" => {
                let set = self.sets.get(&key);
                let score = |member| if set.is_some_and(|set| set.contains(member)) { Value::Double(0.0) } else { Value::Nil };
                Value::Array(rest.iter().map(score).collect())
            }
            "ZRANGE" => {
                let after = rest[0].strip_prefix(b"(").unwrap_or_default();
                let found = self.sets.get(&key).into_iter().flatten().filter(|name| name.as_slice() > after);
                Value::Array(found.take(text(7).parse().unwrap()).map(|name| Value::BulkString(name.clone())).collect())
            }
            "SET" if self.texts.contains_key(&key) => Value::Nil,
            "SET" => {
                self.texts.insert(key.clone(), rest[0].clone());
                self.expires.insert(key, self.now_s + text(5).parse::<u64>().unwrap() / 1000);
                Value::Okay
            }
            "DEL" => Value::Int(i64::from(self.texts.remove(&key).is_some()) + i64::from(self.hashes.remove(&key).is_some())),
            "XADD" => {
                self.events.push((text(7), text(9)));
                Value::BulkString(b"1-1".to_vec())
            }
            other => panic!("not a command of this room: {other}"),
        })
    }
}

/// A node's connection.
#[derive(Debug, Default)]
struct Wire {
    sent: VecDeque<(u32, Vec<Vec<u8>>)>,
    answered: VecDeque<(u32, Reply)>,
    /// What it wants to be done in one step.
    together: Option<Vec<Vec<Vec<u8>>>>,
}

impl Ask for Wire {
    fn has_room(&self) -> bool {
        self.sent.len() < 20
    }

    fn ask(&mut self, ticket: u32, command: &[&[u8]]) {
        self.sent.push_back((ticket, command.iter().map(|part| part.to_vec()).collect()));
    }
}

impl Wire {
    fn obey(&mut self, redis: &mut Redis, command: &[Vec<u8>]) -> Reply {
        match (&mut self.together, command[0].as_slice()) {
            (None, b"MULTI") => {
                self.together = Some(Vec::new());
                Ok(Value::Okay)
            }
            (Some(_), b"EXEC") => {
                let commands = self.together.take().expect("it was begun");
                if redis.is_full {
                    return Err(error("EXECABORT Transaction discarded because of previous errors."));
                }
                Ok(Value::Array(commands.iter().map(|command| redis.obey(command).unwrap_or_else(Value::ServerError)).collect()))
            }
            (Some(commands), _) => {
                commands.push(command.to_vec());
                Ok(Value::SimpleString("QUEUED".to_owned()))
            }
            (None, _) => redis.obey(command),
        }
    }
}

struct Node {
    presence: Presence,
    hub: Hub,
    wire: Wire,
    counts: BTreeMap<&'static str, u32>,
}

impl Node {
    fn new(id: u32) -> Node {
        let settings = Settings::default().with(|settings| {
            settings.redis.presence_lease = std::time::Duration::from_secs(LEASE_S);
            settings.channels.default = ChannelRule { presence: true, ..ChannelRule::default() };
        });
        let hub = Hub::new(HubSettings::from(&settings), Arc::new(BusMetrics::default()), Vec::new());
        Node { presence: Presence::new(&settings, &format!("{id:016x}")), hub, wire: Wire::default(), counts: BTreeMap::new() }
    }

    fn write(&mut self, now: MonotonicNs) {
        self.presence.is_wanted(true);
        self.presence.write_to(&mut self.wire, &mut self.hub, now);
    }

    /// Redis obeys its next command. False: there is none.
    fn step(&mut self, redis: &mut Redis) -> bool {
        let Some((ticket, command)) = self.wire.sent.pop_front() else { return false };
        let reply = self.wire.obey(redis, &command);
        let words: Vec<_> = command.iter().map(|part| String::from_utf8_lossy(part)).collect();
        redis.story.push(format!("{} s, node {}: {}: {reply:?}", redis.now_s, self.presence.keys.node(), words.join(" ")));
        self.wire.answered.push_back((ticket, reply));
        true
    }

    /// It hears the next answer. False: there is none.
    fn hear(&mut self) -> bool {
        let Some((ticket, reply)) = self.wire.answered.pop_front() else { return false };
        self.presence.answered(&mut self.hub, ticket, reply.as_ref());
        true
    }

    /// Goes on alone, until the next that Redis gets of it is this command.
    fn go_until(&mut self, redis: &mut Redis, now: MonotonicNs, command: &str) {
        for _ in 0..1000 {
            if self.wire.sent.front().is_some_and(|(_, next)| next[0] == command.as_bytes()) {
                return;
            }
            if !(self.step(redis) | self.hear()) {
                self.write(now);
            }
        }
        panic!("it does not come to {command}");
    }

    fn count(&mut self, redis: &mut Redis, channel: &'static str, count: u32) {
        redis.story.push(format!("node {} has {count} of {channel}", self.presence.keys.node()));
        self.counts.insert(channel, count);
        self.presence.count_channel(channel, count);
    }

    fn lose_connection(&mut self, redis: &mut Redis) {
        redis.story.push(format!("node {} loses its connection", self.presence.keys.node()));
        self.wire = Wire::default();
        self.presence.connection_lost(&mut self.hub);
    }
}

struct Play {
    rng: fastrand::Rng,
    redis: Redis,
    nodes: Vec<Node>,
    /// Killed, with commands that may still come in.
    wires: Vec<Wire>,
    born: u32,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut play = Play { rng: fastrand::Rng::with_seed(seed), redis: Redis::default(), nodes: Vec::new(), wires: Vec::new(), born: 0 };
        (0..3).for_each(|_| play.bear());
        play
    }

    fn bear(&mut self) {
        self.born += 1;
        self.nodes.push(Node::new(self.born));
    }

    /// What it has sent may still come in.
    fn kill(&mut self, at: usize) -> Wire {
        let dead = self.nodes.swap_remove(at);
        self.redis.story.push(format!("node {} dies", dead.presence.keys.node()));
        dead.wire
    }

    /// In the nodes' clock: ahead of the real one, by which they put off what is refused.
    fn now(&self) -> MonotonicNs {
        monotonic_ns() + (3600 + self.redis.now_s) * 1_000_000_000
    }

    fn act(&mut self) {
        let (now, at) = (self.now(), self.rng.usize(..self.nodes.len()));
        let (channel, count) = (*self.rng.choice(&CHANNELS).unwrap(), self.rng.u32(..3));
        let node = &mut self.nodes[at];
        match self.rng.u8(..100) {
            0..10 => node.count(&mut self.redis, channel, count),
            10..35 => node.write(now),
            35..65 => drop(node.step(&mut self.redis)),
            65..93 => drop(node.hear()),
            93..95 => {
                // Some of what was sent has still arrived.
                for _ in 0..self.rng.usize(..4) {
                    node.step(&mut self.redis);
                }
                node.lose_connection(&mut self.redis);
            }
            95 if self.nodes.len() > 1 && self.rng.bool() => {
                let wire = self.kill(at);
                self.wires.push(wire);
                self.bear();
            }
            96 if self.rng.u8(..4) == 0 => self.redis.flush(),
            97 if self.rng.u8(..4) == 0 => self.redis.is_full = !self.redis.is_full,
            98 => self.redis.pass(self.rng.u64(1..12)),
            _ => {
                if let Some(wire) = self.wires.first_mut()
                    && let Some((_, command)) = wire.sent.pop_front()
                {
                    drop(wire.obey(&mut self.redis, &command));
                }
            }
        }
    }

    /// Nothing changes any more, and time goes by.
    fn settle(&mut self) {
        self.redis.is_full = false;
        self.wires.clear();
        for _ in 0..3 * LEASE_S {
            self.redis.pass(1);
            self.go_on(0);
        }
    }

    /// The nodes from this one on, until they have nothing to do at this moment.
    fn go_on(&mut self, from: usize) {
        let now = self.now();
        for _ in 0..100 {
            let mut is_quiet = true;
            for node in &mut self.nodes[from..] {
                node.write(now);
                is_quiet &= !(node.step(&mut self.redis) | node.hear());
            }
            if is_quiet {
                break;
            }
        }
    }

    /// The first node does nothing for as long as its lease, and the others do what they do.
    fn let_first_lapse(&mut self) {
        self.redis.pass(LEASE_S / 2);
        self.go_on(1);
        self.redis.pass(LEASE_S / 2);
    }

    fn asked(&mut self, at: usize, channel: &str) -> u64 {
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        let node = &mut self.nodes[at];
        // What this node has itself is the hub's to know, and the hub here has no channels.
        let asked = PresenceAsked { subject: Subject::Channel(channel.into()), members: None, asker: Asker::Control(reply) };
        node.presence.ask(&mut node.hub, asked);
        for _ in 0..100 {
            let now = self.now();
            let node = &mut self.nodes[at];
            node.write(now);
            node.step(&mut self.redis);
            node.hear();
        }
        match answer.try_recv().expect("it is answered") {
            Answer::Presence { result, .. } => result.expect("it is known").count,
            other => panic!("{other:?}"),
        }
    }

    fn check(&mut self, play: &str) {
        let told = self.redis.sets.get(b"notifications:{presence}:occupied".as_slice()).cloned().unwrap_or_default();
        let ids = self.redis.sets.get(b"notifications:{presence}:nodes".as_slice()).map_or(0, BTreeSet::len);
        assert_eq!(ids, self.nodes.len(), "{play}: nodes\n{}", self.redis.story.join("\n"));
        for channel in CHANNELS {
            let count = |node: &Node| u64::from(node.counts.get(channel).copied().unwrap_or(0));
            let total: u64 = self.nodes.iter().map(count).sum();
            assert_eq!(told.contains(channel.as_bytes()), total > 0, "{play}: {channel} is listed\n{}", self.redis.story.join("\n"));
            let last = self.redis.events.iter().rposition(|(_, name)| name == channel);
            // If those who had told it are gone as well, nobody knows that it is to be taken back.
            let is_forgotten = last.is_some_and(|last| last < self.redis.forgotten);
            let last = last.map(|last| &*self.redis.events[last].0);
            let is_right = match last {
                Some("occupied") => total > 0 || is_forgotten,
                Some("vacated") | None => total == 0,
                Some(other) => panic!("{other}"),
            };
            assert!(is_right, "{play}: {channel} has {total}, and the last event is {last:?}\n{}", self.redis.story.join("\n"));
            for at in 0..self.nodes.len() {
                let own = count(&self.nodes[at]);
                assert_eq!(self.asked(at, channel) + own, total, "{play}: {channel} of node {at}\n{}", self.redis.story.join("\n"));
            }
        }
    }
}

fn play(seed: u64) {
    let mut play = Play::new(seed);
    for _ in 0..play.rng.usize(50..1500) {
        play.act();
    }
    play.settle();
    play.check(&format!("seed {seed}"));
}

#[test]
fn whatever_befalls_nodes_and_redis_the_end_is_known_and_told() {
    let seeds = std::env::var("PRESENCE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let mut failed = Vec::new();
    for seed in 0..seeds {
        if std::panic::catch_unwind(|| play(seed)).is_err() {
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// Three nodes that know each other. The first has two subscribers of "c", which back ends were told.
fn begun() -> Play {
    let mut play = Play::new(0);
    play.go_on(0);
    play.nodes[0].count(&mut play.redis, "c", 2);
    play.go_on(0);
    assert_eq!(play.redis.events, [("occupied".to_owned(), "c".to_owned())]);
    play
}

#[test]
fn what_a_node_told_after_redis_was_emptied_is_taken_back_when_it_dies() {
    let mut play = Play::new(0);
    play.go_on(0);
    let now = play.now();
    play.nodes[0].count(&mut play.redis, "c", 2);
    play.nodes[0].go_until(&mut play.redis, now, "EXEC");
    play.redis.flush();
    play.nodes[0].step(&mut play.redis);
    play.kill(0);
    play.settle();
    play.check("emptied before it told");
}

#[test]
fn what_a_dead_node_tells_late_is_taken_back() {
    let mut play = Play::new(0);
    play.go_on(0);
    let now = play.now();
    play.nodes[0].count(&mut play.redis, "c", 2);
    play.nodes[0].go_until(&mut play.redis, now, "EXEC");
    let mut late = play.kill(0);
    play.settle();
    let (_, exec) = late.sent.pop_front().unwrap();
    late.obey(&mut play.redis, &exec).unwrap();
    play.settle();
    play.check("told when it was struck already");
}

#[test]
fn what_a_node_writes_while_the_others_bury_it_is_not_taken_for_a_living_ones() {
    let mut play = begun();
    play.let_first_lapse();
    let now = play.now();
    play.nodes[1].go_until(&mut play.redis, now, "ZRANGE");
    // It was only slow, and writes all again. Then it dies.
    play.nodes[0].go_until(&mut play.redis, now, "ZMSCORE");
    play.nodes[1].go_until(&mut play.redis, now, "ZMSCORE");
    play.kill(0);
    play.settle();
    play.check("came back while it was buried");
}

#[test]
fn what_comes_and_goes_while_it_is_looked_at_is_not_taken_to_be_there() {
    let mut play = begun();
    play.let_first_lapse();
    play.kill(0);
    let now = play.now();
    let node = play.nodes.last_mut().unwrap();
    node.go_until(&mut play.redis, now, "ZRANGE");
    node.count(&mut play.redis, "c", 1);
    while node.step(&mut play.redis) | node.hear() {}
    node.count(&mut play.redis, "c", 0);
    play.settle();
    play.check("came and went");
}

#[test]
fn a_sweep_that_is_broken_off_is_begun_again() {
    // Behind each of its commands, by a lost connection or by the death of the node that sweeps.
    for (steps, dies) in (0..60).flat_map(|steps| [(steps, false), (steps, true)]) {
        let mut play = begun();
        play.let_first_lapse();
        play.kill(0);
        let now = play.now();
        let node = play.nodes.last_mut().unwrap();
        node.go_until(&mut play.redis, now, "SET");
        for _ in 0..steps {
            node.write(now);
            node.step(&mut play.redis);
            node.hear();
        }
        if dies {
            play.kill(play.nodes.len() - 1);
        } else {
            node.lose_connection(&mut play.redis);
        }
        play.settle();
        play.check(&format!("broken off behind {steps} commands, dies: {dies}"));
    }
}
