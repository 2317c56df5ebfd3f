//! One channel with so many members that a lap over them takes many turns, and messages that come faster than that: what `broadcast_budget`, `coalesce` and
//! `max_rate` promise holds all the same, whoever comes, leaves, is slow, or has a busy channel beside it.

use std::time::Duration;

use campanile::bus::ShardMessage;
use campanile::config::{Overrun, Settings};
use campanile::fanout::batch::{Batch, BatchBuilder};
use campanile::wire::event::GapReason;
use campanile::wire::payload::Kind;
use fastrand::Rng;

use crate::rig;
use crate::rig::client::payload;
use crate::stage::{PLENTY, Stage};

const BIG: &str = "big";
const BESIDE: &str = "beside";
const MS: Duration = Duration::from_millis(1);
const RATES: [u16; 3] = [1, 5, 1000];

pub struct Crowd {
    rng: Rng,
    stage: Stage,
    members: Vec<Member>,
    budget: Option<u64>,
    coalesce: Duration,
    log_bytes: usize,
    /// The most messages that come at once.
    batch_max: u64,
    start_ns: u64,
    newest_message: u64,
    has_slow: bool,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    client: usize,
    is_paced: bool,
    is_slow: bool,
    /// It has left and come back, and was perhaps sent again what was kept for it.
    has_left: bool,
    /// Where it was when it left.
    away_at: Option<u64>,
    /// What it had got when it was last looked at, and how many times there was more.
    messages: u64,
    arrivals: u64,
}

impl Crowd {
    pub fn new(seed: u64) -> Crowd {
        let mut rng = Rng::with_seed(seed);
        let count = rng.u64(150..300);
        let budget = (rng.u8(..3) > 0).then(|| count * *rng.choice(&[2, 10, 40]).unwrap());
        let coalesce = if budget.is_none() || rng.u8(..4) == 0 { rng.u32(20..80) * MS } else { Duration::ZERO };
        let log_bytes = *rng.choice(&[20_000, 1 << 20]).unwrap();
        let history_count = *rng.choice(&[0, 0, 1000]).unwrap();
        let settings: Settings = rig::settings(|settings| {
            (settings.clients.heartbeat, settings.clients.pong_timeout) = (Duration::from_secs(3600), Duration::from_secs(3600));
            let mut rule = settings.channels.default.clone();
            (rule.overrun, rule.log_bytes) = (Overrun::Disconnect, log_bytes);
            settings.channels.default = rule.clone();
            (rule.broadcast_budget, rule.coalesce, rule.history_count) = (budget, coalesce, history_count);
            settings.channels.tables = vec![(BIG.into(), rule)];
        });
        let mut stage = Stage::new(settings);
        // All of them in some seeds, nobody in others.
        let paced_percent = *rng.choice(&[0, 0, 30, 100]).unwrap();
        let has_slow = rng.bool();
        let members: Vec<Member> = (0..count)
            .map(|_| {
                let is_paced = rng.u8(..100) < paced_percent;
                let client = stage.connect("/ws", PLENTY);
                let is_slow = has_slow && rng.u8(..20) == 0;
                Member { client, is_paced, is_slow, has_left: false, away_at: None, messages: 0, arrivals: 0 }
            })
            .collect();
        stage.turns(20);
        let start_ns = stage.wires.borrow().now_ns;
        let batch_max = *rng.choice(&[1, 4, 30]).unwrap();
        let mut crowd = Crowd { rng, stage, members, budget, coalesce, log_bytes, batch_max, start_ns, newest_message: 0, has_slow };
        for at in 0..crowd.members.len() {
            crowd.subscribe(at, "");
            if crowd.rng.bool() {
                let client = crowd.members[at].client;
                crowd.stage.text(client, r#"{"type":"subscribe","channel":"beside"}"#);
            }
        }
        crowd.stage.turns(20);
        crowd
    }

    fn subscribe(&mut self, at: usize, more: &str) {
        let Member { client, is_paced, .. } = self.members[at];
        let mut more = more.to_owned();
        if is_paced {
            let rate = *self.rng.choice(&RATES).unwrap();
            more += &format!(r#","max_rate":{rate}"#);
            let now_ns = self.stage.wires.borrow().now_ns;
            self.stage.clients[client].pace(BIG, rate, now_ns);
        }
        self.stage.text(client, &format!(r#"{{"type":"subscribe","channel":"{BIG}"{more}}}"#));
    }

    pub fn run(mut self) {
        for _ in 0..self.rng.usize(150..400) {
            match self.rng.u8(..100) {
                0..70 => self.publish(),
                70..74 => self.gap(),
                74..84 if self.stage.channels.contains_key(BESIDE) => self.stage.publish(BESIDE, 100),
                84..90 => self.come_or_go(),
                90..95 => self.stall_or_go_on(),
                _ => {}
            }
            let ms = self.rng.u32(0..20);
            self.step(ms * MS);
        }
        for at in 0..self.members.len() {
            let client = self.members[at].client;
            if self.members[at].is_slow {
                self.stage.add_room(client, PLENTY);
            }
        }
        self.publish();
        if self.rng.bool() {
            // The newest message is not the last that comes.
            self.gap();
        }
        if self.rng.u8(..3) == 0 { self.stop() } else { self.settle() }
    }

    fn step(&mut self, time: Duration) {
        self.stage.pass(time);
        self.stage.turn();
        self.check();
    }

    fn publish(&mut self) {
        let now_ns = self.stage.wires.borrow().now_ns;
        let known = self.stage.channels.get_mut(BIG).expect("somebody has it");
        let mut builder = BatchBuilder::new(known.channel.clone(), known.seq + 1);
        for _ in 0..self.rng.u64(1..=self.batch_max) {
            known.seq += 1;
            builder.push(Kind::Json, &payload(BIG, known.channel.epoch, known.seq, 20), now_ns, 0);
        }
        self.newest_message = known.seq;
        let batch = ShardMessage::Batch { topic: known.topic, batch: builder.seal() };
        self.stage.rig.to_shard.push(batch).expect("the inbox has room");
    }

    fn gap(&mut self) {
        let known = self.stage.channels.get_mut(BIG).expect("somebody has it");
        let from = known.seq + 1;
        known.seq += self.rng.u64(1..5);
        let batch = Batch::gap(&known.channel, from, known.seq, GapReason::Outage);
        self.stage.rig.to_shard.push(ShardMessage::Batch { topic: known.topic, batch }).expect("the inbox has room");
    }

    fn come_or_go(&mut self) {
        // The first stays, so that the channel does.
        let at = self.rng.usize(1..self.members.len());
        let client = self.members[at].client;
        if self.members[at].is_slow || self.stage.clients[client].close.is_some() {
            return;
        }
        if let Some(seq) = self.members[at].away_at.take() {
            let since = if self.rng.bool() { format!(r#","since":{{"epoch":7,"seq":{seq}}}"#) } else { String::new() };
            self.subscribe(at, &since);
        } else if let Some(view) = self.stage.clients[client].subscriptions.get(BIG).copied() {
            // Now and then it has had more, elsewhere.
            let more = self.rng.u64(0..=self.stage.channels[BIG].seq - view.seq);
            (self.members[at].away_at, self.members[at].has_left) = (Some(view.seq + if self.rng.bool() { more } else { 0 }), true);
            self.stage.text(client, &format!(r#"{{"type":"unsubscribe","channel":"{BIG}"}}"#));
        }
    }

    fn stall_or_go_on(&mut self) {
        let Member { client, is_slow, .. } = *self.rng.choice(&self.members).unwrap();
        if is_slow {
            let room = if self.rng.bool() { 0 } else { self.rng.usize(..5000) };
            self.stage.set_room(client, room);
        }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.stage.wires.borrow().now_ns - self.start_ns)
    }

    fn check(&mut self) {
        let elapsed = self.elapsed();
        let count = self.members.len() as u64;
        let mut delivered = 0;
        for member in &mut self.members {
            let messages = self.stage.clients[member.client].got.get(BIG).map_or(0, |&(messages, _)| messages);
            member.arrivals += u64::from(messages > member.messages);
            member.messages = messages;
            delivered += if member.has_left { 0 } else { messages };
            let most = elapsed.as_nanos() / self.coalesce.as_nanos().max(1) + 2;
            // A log without room for what waits is sent earlier.
            let is_exact = self.log_bytes > 100_000 && !member.is_slow && !member.has_left;
            assert!(!is_exact || u128::from(member.arrivals) <= most, "{} arrivals in {elapsed:?}: {member:?}", member.arrivals);
        }
        if let Some(budget) = self.budget {
            // Beyond it at most what is paid for afterwards: a second's worth or the newest batch, and a lap to all who are paced.
            let most = (elapsed.as_secs_f64() * budget as f64) as u64 + budget.max(self.batch_max * count) + 2 * count;
            assert!(delivered <= most, "{delivered} deliveries in {elapsed:?}, with a budget of {budget}");
        }
        if !self.has_slow {
            assert_eq!((self.stage.closed(), self.stage.overruns()), (vec![], 0), "nobody is slow");
            let log_bytes = self.stage.rig.metrics.log_bytes.get() as usize;
            assert!(self.members.iter().any(|member| !member.is_paced) || log_bytes < 3 * self.log_bytes, "{log_bytes} bytes");
        }
    }

    fn is_here(&self, member: &Member) -> bool {
        let client = &self.stage.clients[member.client];
        member.away_at.is_none() && client.close.is_none() && client.subscriptions.contains_key(BIG)
    }

    /// In the end the newest message has come to everybody, and all else was announced.
    fn settle(&mut self) {
        // What is waited for longest: the newest batch to all, after another one like it, from a small budget; and a second for whoever wants one in that.
        for _ in 0..700 {
            self.step(60 * MS);
        }
        let here: Vec<Member> = self.members.iter().copied().filter(|member| self.is_here(member)).collect();
        assert!(self.has_slow || here.len() > self.members.len() / 2, "{} are left", here.len());
        for member in here {
            let client = &self.stage.clients[member.client];
            assert_eq!(client.subscriptions[BIG].seq, self.stage.channels[BIG].seq, "{member:?}");
            let last = client.got.get(BIG).map(|&(_, last)| last);
            assert!(member.has_left || last == Some(self.newest_message), "the newest message did not come: {last:?} of {member:?}");
        }
        assert_eq!(self.stage.rig.metrics.lagging.get(), 0);
    }

    /// Everybody is told the end, after all that was due.
    fn stop(&mut self) {
        self.stage.turn();
        self.stage.rig.to_shard.send(ShardMessage::Stop).expect("the inbox has room");
        for _ in 0..200 {
            self.stage.turn();
        }
        for member in self.members.iter().filter(|member| !member.is_paced && member.away_at.is_none()) {
            let client = &self.stage.clients[member.client];
            let has_all = client.subscriptions.get(BIG).is_none_or(|view| view.seq == self.stage.channels[BIG].seq);
            assert!(has_all || client.close != Some(1001), "told the end before {}: {member:?}", self.stage.channels[BIG].seq);
        }
        assert!(self.members.iter().any(|member| self.stage.clients[member.client].close == Some(1001)));
    }
}
