//! The simulated bus: what it publishes, loses on the way and counts anew, and what it answers to the shard.

use std::collections::VecDeque;
use std::sync::Arc;

use campanile::auth::revoked::Revocation;
use campanile::bus::marks::{MarkNews, MarksAnswer, MarksError, Unread};
use campanile::bus::order::{Order, Who};
use campanile::bus::question::{Answer, Asker, Question, ReplyTo};
use campanile::bus::shares::Ticket;
use campanile::bus::{BusCommand, JoinRefusal, ShardMessage};
use campanile::fanout::batch::{Batch, BatchBuilder, Channel};
use campanile::wire::event::GapReason;
use campanile::wire::framing::Encoding;
use campanile::wire::payload::Kind;

use super::{CHANNELS, COUNTED, Sent, SimChannel, Simulation, USERS};
use crate::rig::client::{aside, payload};

impl Simulation {
    /// A user's tokens are honoured no more, or are again.
    pub(super) fn revoke(&mut self) {
        let user = (*self.rng.choice(USERS).unwrap()).to_owned();
        if self.rng.bool() {
            return self.rig.revoked.sweep(u64::MAX);
        }
        self.rig.revoked.enter(&Revocation::User { user, issued_before_s: 1 }, 1, false);
        let (reply, _) = crossbeam_channel::bounded(1);
        let _ = self.rig.to_shard.push(ShardMessage::Order(Order::CloseRevoked { reply }));
    }

    /// A share of the clients is to come back elsewhere.
    pub(super) fn shed(&mut self) {
        let (reply, _) = crossbeam_channel::bounded(1);
        let percent = self.rng.f64() * 60.0;
        let _ = self.rig.to_shard.push(ShardMessage::Order(Order::Shed { percent, reply }));
    }

    /// An operator has enough of somebody.
    pub(super) fn disconnect(&mut self) {
        let who = match self.rng.bool() {
            true => Who::Channel((*self.rng.choice(&CHANNELS).unwrap()).to_owned()),
            false => Who::User((*self.rng.choice(USERS).unwrap()).to_owned()),
        };
        let (reply, _) = crossbeam_channel::bounded(1);
        let _ = self.rig.to_shard.push(ShardMessage::Order(Order::Disconnect { who, reply }));
    }

    pub(super) fn publish(&mut self) {
        let name = *self.rng.choice(&CHANNELS).unwrap();
        if !self.channels.contains_key(name) {
            return;
        }
        match self.rng.u8(..60) {
            0 | 1 => return self.gap(name),
            2 => return self.renumber(name),
            _ => {}
        }
        let count = if self.rng.u8(..6) == 0 { self.rng.u64(1..40) } else { 1 };
        let big = self.rng.u8(..20) == 0;
        let (now_ns, now_unix_ms) = (self.wires.borrow().now_ns, self.wires.borrow().unix_ms());
        let known = self.channels.get_mut(name).unwrap();
        let mut builder = BatchBuilder::new(known.channel.clone(), known.seq + 1);
        for _ in 0..count {
            known.seq += 1;
            let padding = if big { self.rng.usize(..3000) } else { self.rng.usize(..60) };
            builder.push(Kind::Json, &payload(name, known.channel.epoch, known.seq, padding), now_ns, now_unix_ms);
        }
        self.hand_out(name, builder.seal());
    }

    /// Redis was away, or refuses the channel from now until something else comes.
    fn gap(&mut self, name: &str) {
        let reason = if self.rng.bool() { GapReason::Outage } else { GapReason::Refused };
        let known = self.channels.get_mut(name).unwrap();
        known.seq += 1;
        let gap = Batch::gap(&known.channel, known.seq, known.seq, reason);
        self.hand_out(name, gap);
    }

    /// The source counts anew, from anywhere.
    fn renumber(&mut self, name: &str) {
        self.epochs += 1;
        let known = self.channels.get_mut(name).unwrap();
        let channel = Channel { name: name.into(), epoch: self.epochs, subscribers: Default::default() };
        self.successors.insert(known.channel.epoch, channel.epoch);
        self.former.push(std::mem::replace(&mut known.channel, Arc::new(channel)));
        // Below, at and above the numbers that there were.
        known.seq = self.rng.u64(0..known.seq + 20);
        known.history.clear();
        (known.lost, known.renumbered) = (false, known.topic.is_some());
        if self.rng.bool() {
            self.tell_renumbered(name);
        }
    }

    /// Of what is read, now or later; and of pages that none can be had.
    fn answer_marks(&mut self, eager: bool) {
        for question in std::mem::take(&mut self.questions) {
            let Asker::Client(ReplyTo { conn, id, .. }) = &question.asker else { panic!("there is no control port") };
            let of = |channel: &str| {
                let Some(known) = self.channels.get(channel) else { return Unread::default() };
                let read = known.seq / 2;
                Unread { epoch: Some(known.channel.epoch), last: known.seq, read, unread: known.seq - read }
            };
            let result = match self.rng.u8(..5) {
                0 => Err(MarksError::Unavailable),
                _ => Ok(question.wanted.channels().map(of).collect()),
            };
            let answer = MarksAnswer { wanted: question.wanted.clone(), result, ticket: Ticket::default() };
            let message = ShardMessage::Answer { conn: *conn, id: id.clone(), answer: Answer::Marks(Box::new(answer)) };
            if (!eager && self.rng.u8(..3) == 0) || self.rig.to_shard.push(message).is_err() {
                self.questions.push(question);
            }
        }
        for (topic, from) in std::mem::take(&mut self.pages) {
            let page = ShardMessage::Page { topic, from, batches: Vec::new() };
            if (!eager && self.rng.u8(..3) == 0) || self.rig.to_shard.push(page).is_err() {
                self.pages.push((topic, from));
            }
        }
        if !eager && self.has_tokens && self.rng.u8(..10) == 0 {
            let user = (*self.rng.choice(USERS).unwrap()).into();
            let news = MarkNews { user, channel: COUNTED.into(), epoch: 1, seq: self.rng.u64(..9), by: None };
            let _ = self.rig.to_shard.push(ShardMessage::Marks([news].into()));
        }
    }

    fn tell_renumbered(&mut self, name: &str) {
        let Some(known) = self.channels.get_mut(name) else { return };
        if let Some(topic) = known.topic.filter(|_| known.renumbered) {
            let renumbered = ShardMessage::Renumbered { topic, channel: known.channel.clone(), seq: known.seq };
            known.renumbered = self.rig.to_shard.push(renumbered).is_err();
        }
    }

    fn hand_out(&mut self, name: &str, batch: Arc<Batch>) {
        let lose = self.rng.u8(..40) == 0;
        let known = self.channels.get_mut(name).unwrap();
        let messages = (batch.end() - batch.first()) as usize;
        // Payloads and the envelopes of three formats around them.
        let bytes_max = batch.bytes_held() + Encoding::COUNT * (batch.bytes() + 300 * messages);
        let held_before = self.rig.metrics.log_bytes.get() as usize;
        self.sent.push(Sent { epoch: known.channel.epoch, end: batch.end(), bytes_max, held_before });
        if name == "kept" {
            known.history.push_back(batch.clone());
            if known.history.len() > 5 {
                known.history.pop_front();
            }
        }
        if let Some(topic) = known.topic.filter(|_| !known.renumbered && self.rng.u8(..4) == 0) {
            self.asides += 1;
            let aside = aside(&known.channel, self.asides, self.rng.usize(..400));
            let _ = self.rig.to_shard.push(ShardMessage::Aside { topic, aside });
        }
        // What it is told of the new numbers then includes this.
        let Some(topic) = known.topic.filter(|_| !known.renumbered) else { return };
        if lose || self.rig.to_shard.push(ShardMessage::Batch { topic, batch }).is_err() {
            known.lost = true;
        }
    }

    /// Answers joins, now or later; tells of lost heads when there is room.
    pub(super) fn bus_turn(&mut self, eager: bool) {
        while let Some(command) = self.rig.from_shard.try_recv() {
            match command {
                BusCommand::Join { topic, channel, .. } => self.joins.push((channel.to_string(), topic)),
                BusCommand::Leave { topic, channel, .. } => {
                    self.joins.retain(|(_, waiting)| *waiting != topic);
                    let gone = self.channels.get(&*channel).is_some_and(|known| known.topic == Some(topic));
                    if gone {
                        self.channels.get_mut(&*channel).unwrap().topic = None;
                        // Sometimes nobody came back within the linger: numbering starts again.
                        if self.rng.bool() {
                            self.channels.remove(&*channel);
                        }
                    }
                }
                BusCommand::Ask(Question::Marks(question)) => self.questions.push(*question),
                BusCommand::ReadPage { topic, from, .. } => self.pages.push((topic, from)),
                other => panic!("not sent in this simulation: {other:?}"),
            }
        }
        self.answer_marks(eager);
        let mut waiting = std::mem::take(&mut self.joins);
        waiting.retain(|(name, topic)| {
            if !eager && self.rng.u8(..3) == 0 {
                return true;
            }
            if self.rng.u8(..20) == 0 {
                let refused = ShardMessage::Refused { topic: *topic, refusal: JoinRefusal::NotAllowed };
                return self.rig.to_shard.push(refused).is_err();
            }
            self.epochs += 1;
            let epoch = self.epochs;
            let known = self.channels.entry(name.clone()).or_insert_with(|| SimChannel {
                channel: Arc::new(Channel { name: name.as_str().into(), epoch, subscribers: Default::default() }),
                seq: 0,
                topic: None,
                history: VecDeque::new(),
                lost: false,
                renumbered: false,
            });
            let joined = ShardMessage::Joined {
                topic: *topic,
                channel: known.channel.clone(),
                seq: known.seq,
                history: known.history.iter().cloned().collect(),
            };
            if self.rig.to_shard.push(joined).is_err() {
                return true;
            }
            (known.topic, known.lost, known.renumbered) = (Some(*topic), false, false);
            false
        });
        self.joins.extend(waiting);
        for name in CHANNELS {
            if eager || self.rng.u8(..3) == 0 {
                self.tell_renumbered(name);
            }
        }
        for known in self.channels.values_mut() {
            if let Some(topic) = known.topic.filter(|_| known.lost && (eager || self.rng.u8(..3) == 0)) {
                known.lost = self.rig.to_shard.push(ShardMessage::Head { topic, seq: known.seq }).is_err();
            }
        }
    }
}
