//! What the bus does in a turn: reads the upstream, serves commands, passes publishes on, hands out. It has no thread of its own here: [`super::thread`]
//! gives it one, or it rides on that of the only shard (`shard/run.rs`), where messages then cost one wake instead of two.
//!
//! It never waits for a shard: Redis closes a Pub/Sub client that reads too slowly, and then everybody loses. Every stage of a
//! turn works under a budget, so that a flood of messages does not hold up joins, nor the reverse.

use std::sync::Arc;

use anyhow::Context;
use mio::event::Event;
use mio::{Registry, Waker};
use tokio::sync::oneshot;

use super::embedded::Embedded;
use super::hub::{Hub, RETRY_NS};
use super::marks::MarksError;
use super::pace::Pace;
use super::presence::{self, PresenceError};
use super::question::{Answer, PageReader, PageWanted, PublishError, Question};
use super::queue::Queue;
use super::rates::Rates;
use super::redis::RedisBus;
use super::redis::timing::Timing;
use super::registry::Request;
use super::revoke::Revocations;
use super::settings::HubSettings;
use super::upstream::{Upstream, WAKER};
use super::{BusCommand, ShardSender};
use crate::clock::{MonotonicNs, nanos};
use crate::config::Settings;
use crate::inbox::Inbox;
use crate::journal::Wake;
use crate::limits::bus::{PUBLISH_LOOK, PUBLISH_PATIENCE, TURN_COMMANDS, TURN_PUBLISH_BYTES, TURN_PUBLISHES};
use crate::metrics::BusMetrics;
use crate::sys::monotonic_ns;

/// So long after a publish of our own there is somebody who goes by the answers.
const PUBLISHER_NS: u64 = 2_000_000;

pub struct Subscriber {
    inbox: Inbox<BusCommand>,
    hub: Hub,
    upstream: Box<dyn Upstream>,
    /// Publishes on their way to the upstream.
    queue: Queue,
    rates: Rates,
    turn_publishes: usize,
    turn_publish_bytes: usize,
    look_for_overdue_at: MonotonicNs,
    /// A shard has no room for the publishes that wait: look again soon.
    is_held_up: bool,
    stop_timeout_ns: u64,
    /// To be told at the end of the turn, when what has come is handed out.
    settling: Vec<oneshot::Sender<()>>,
    pace: Pace,
    /// How many times a shard had been woken at the end of the last turn.
    wakes: u64,
    /// Messages of this turn that came from elsewhere, while nobody published through this server.
    messages_read: u64,
    published_at: MonotonicNs,
    life: Life,
    /// Work is left from the last turn: do not sleep.
    more: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Serving,
    /// This is the last turn.
    Asked,
    /// What was received is handed out, and every shard told to stop, by then.
    Stopping {
        give_up_at: MonotonicNs,
    },
    Over,
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("life", &self.life).field("more", &self.more).finish_non_exhaustive()
    }
}

impl Subscriber {
    /// Its sockets go to this registry, under the tokens of [`super::upstream`]. `shards[n]` is the inbox of shard `n`. A URL or a `data_dir` that cannot be used is an
    /// error here; a Redis that is away is not: it is looked for until it is there.
    pub fn new(
        settings: &Settings,
        metrics: Arc<BusMetrics>,
        shards: Vec<ShardSender>,
        revocations: Revocations,
        inbox: Inbox<BusCommand>,
        registry: &Registry,
        timing: Timing,
    ) -> anyhow::Result<Subscriber> {
        let upstream: Box<dyn Upstream> = match &settings.redis.url {
            None => {
                let waker = Waker::new(registry, WAKER).context("the bus needs an eventfd; raise `ulimit -n`")?;
                // Nothing is lost if it fails: the journal gets a turn once a second.
                let wake: Wake = Arc::new(move || drop(waker.wake()));
                Box::new(Embedded::new(settings, &wake).context("data_dir")?)
            }
            Some(_) => {
                let waker = Waker::new(registry, WAKER).context("the bus needs an eventfd; raise `ulimit -n`")?;
                let registry = registry.try_clone().context("the bus needs a descriptor; raise `ulimit -n`")?;
                Box::new(RedisBus::new(settings, revocations, timing, registry, Arc::new(waker))?)
            }
        };
        Ok(Subscriber {
            inbox,
            hub: Hub::new(HubSettings::from(settings), metrics, shards),
            upstream,
            queue: Queue::default(),
            rates: Rates::new(settings.bounds.publishes_per_connection, settings.bounds.publishes_per_user),
            // A quarter of an inbox: publishes go on while half of it is free.
            turn_publishes: TURN_PUBLISHES.min(settings.shards.inbox_messages / 4).max(1),
            turn_publish_bytes: TURN_PUBLISH_BYTES.min(settings.bounds.inbox_bytes_total / settings.shards.count / 4),
            look_for_overdue_at: 0,
            is_held_up: false,
            settling: Vec::new(),
            pace: Pace::new(settings.redis.bus_rest),
            wakes: 0,
            messages_read: 0,
            published_at: 0,
            stop_timeout_ns: nanos(settings.clients.shutdown_timeout),
            life: Life::Serving,
            more: true, // the first turn starts the upstream
        })
    }

    /// The shard is served by the same thread, turn by turn: it takes nothing in before this turn is over.
    pub fn in_step(mut self) -> Subscriber {
        self.hub.set_in_step();
        self
    }

    /// One turn. What the sockets are ready for has been told by [`Subscriber::event`].
    pub fn turn(&mut self) {
        let mut now = monotonic_ns();
        match self.life {
            Life::Serving | Life::Asked => {}
            Life::Stopping { give_up_at } => return self.end(now, give_up_at),
            Life::Over => return,
        }
        let messages_before = self.hub.metrics().messages.get();
        self.more = self.upstream.read(&mut self.hub, now);
        // Who waits for the answer to one message before he publishes the next is not to wait for a rest as well.
        if now.saturating_sub(self.published_at) > PUBLISHER_NS {
            self.messages_read += self.hub.metrics().messages.get() - messages_before;
        }
        self.hub.flush(now); // before commands: a join should not wait for what came before it
        self.drain_inbox(now);
        self.pass_publishes(now);
        now = monotonic_ns();
        self.hub.expire(now);
        self.more |= self.hub.take_over_rules();
        self.pass_requests();
        self.upstream.write(&mut self.hub, now);
        self.hub.flush(now);
        for reply in self.settling.drain(..) {
            let _ = reply.send(());
        }
        self.hub.metrics().turns.inc();
        if self.life == Life::Asked {
            self.stop(now);
        }
    }

    /// Remembers what a socket of its own is ready for.
    pub fn event(&mut self, event: &Event) {
        if event.token() != WAKER {
            self.upstream.event(event);
        }
    }

    /// How long the next turn may be put off: None until something happens, 0 while work remains.
    pub fn wait_ns(&self, now: MonotonicNs) -> Option<u64> {
        match self.life {
            Life::Serving if self.more => return Some(0),
            Life::Serving | Life::Asked => {}
            Life::Stopping { .. } => return Some(RETRY_NS),
            Life::Over => return None,
        }
        let held_up = self.is_held_up.then_some(now + RETRY_NS);
        let overdue = (!self.queue.is_empty()).then_some(self.look_for_overdue_at);
        let due = [self.hub.deadline(now), self.upstream.deadline(), held_up, overdue].into_iter().flatten().min();
        due.map(|due| due.saturating_sub(now))
    }

    /// Announces that the thread is about to sleep. False: a command is waiting, do not sleep. One that cannot be served now does not count.
    pub fn prepare_sleep(&self) -> bool {
        self.life != Life::Serving || self.hub.is_clogged() || self.inbox.prepare_sleep()
    }

    /// The thread is awake again.
    pub fn awake(&self) {
        self.inbox.awake();
    }

    /// Takes account of a turn, for which the thread may have `slept` until `now`.
    pub fn spend(&mut self, slept: bool, now: MonotonicNs) {
        let wakes = self.hub.wakes();
        let shards = wakes - std::mem::replace(&mut self.wakes, wakes);
        self.pace.spend(u64::from(slept) + shards, std::mem::take(&mut self.messages_read), now);
    }

    /// How long the thread is to rest before it may be woken again, so that more comes at once.
    pub fn rest_ns(&self, now: MonotonicNs) -> u64 {
        self.pace.rest_ns(now)
    }

    /// Every shard was told to stop, or given up.
    pub fn is_over(&self) -> bool {
        self.life == Life::Over
    }

    fn drain_inbox(&mut self, now: u64) {
        for _ in 0..TURN_COMMANDS {
            // A shard that does not take its replies gets no further ones; its own inbox into this thread then fills and tells it so.
            if self.hub.is_clogged() {
                return;
            }
            let Some(command) = self.inbox.try_recv() else { return };
            match command {
                BusCommand::Join { shard, topic, channel, creator } => self.hub.join(shard, topic, channel, creator, now),
                BusCommand::Leave { shard, topic, channel } => self.hub.leave(shard, topic, &channel, now),
                BusCommand::Ask(question) => self.take_up(question, now),
                BusCommand::ReadPage { shard, topic, channel, from } => {
                    self.upstream.read_page(&mut self.hub, PageWanted { channel, from, to: PageReader { shard, topic } });
                }
                BusCommand::CountUsers(changes) => self.hub.count_users(changes),
                BusCommand::ListMembers { shard, channel, roster } => self.hub.list_members(shard, channel, roster),
                BusCommand::Settle(reply) => self.settling.push(reply),
                BusCommand::Revoke(revoke) => self.upstream.revoke(revoke, now),
                // The request may have been given up; then nobody wants to know.
                BusCommand::ListChannels { from, limit, reply } => drop(reply.send(self.hub.list(from, limit))),
                BusCommand::Busiest { limit, reply } => drop(reply.send(self.hub.busiest(limit))),
                BusCommand::Reload(settings) => {
                    self.rates.set_limits(settings.publishes_per_connection, settings.publishes_per_user);
                    self.hub.reload(*settings);
                }
                BusCommand::Stop => {
                    self.life = Life::Asked;
                    return;
                }
            }
            self.pass_requests();
        }
        self.more = true;
    }

    fn take_up(&mut self, question: Question, now: u64) {
        match question {
            Question::History(asked) if self.hub.rule_of(&asked.recall.channel).durable => self.upstream.recall(&mut self.hub, asked),
            Question::History(asked) => self.hub.recall(asked),
            Question::Presence(asked) => match self.hub.may_ask(&asked) {
                Ok(()) => self.upstream.presence(&mut self.hub, asked),
                Err(error) => presence::answer(&mut self.hub, asked.asker, asked.subject, Err(error)),
            },
            Question::Census(asked) if self.hub.counts_channels() => self.upstream.census(&mut self.hub, asked),
            Question::Census(asked) => self.hub.answer(asked.asker, Answer::Census { result: Err(PresenceError::ChannelsNotCounted) }),
            Question::Publish(publish) => {
                let bytes_max = self.hub.payload_bytes_max();
                let per_channel = self.hub.publishes_per_second(&publish.channel);
                if let Err(too_many) = self.rates.take(&publish, per_channel, now) {
                    self.hub.metrics().publishes_limited[too_many.of as usize].inc();
                    self.hub.published(publish, Err(PublishError::RateLimited(too_many)));
                } else if publish.payload.len() > bytes_max {
                    self.hub.published(publish, Err(PublishError::TooBig { bytes_max }));
                } else {
                    self.queue.push(publish, now);
                }
            }
            Question::Marks(question) => {
                self.hub.note_marks_asked(&question);
                match self.hub.not_durable(&question.wanted) {
                    Some(channel) => {
                        let error = MarksError::NotDurable { channel: channel.into() };
                        self.hub.answer_marks(*question, Err(error));
                    }
                    None => self.upstream.marks(&mut self.hub, question, now),
                }
            }
        }
    }

    /// Hands publishes to the upstream, in turns, as far as it takes them and the shards that will get them have room.
    fn pass_publishes(&mut self, now: u64) {
        if !self.queue.is_empty() && now >= self.look_for_overdue_at {
            self.look_for_overdue_at = now + nanos(PUBLISH_LOOK);
            for publish in self.queue.overdue(now.saturating_sub(nanos(PUBLISH_PATIENCE))) {
                self.hub.published(publish, Err(PublishError::Late(PUBLISH_PATIENCE)));
            }
        }
        let (mut count, mut bytes, mut held_up, mut passed) = (0, 0, 0, 0);
        while let Some(publish) = self.queue.front() {
            let payload_bytes = publish.payload.len();
            if publish.is_given_up() {
                // Its answer would have said that it may still be published; that it is not is better.
                self.queue.pop();
                continue;
            }
            // A shard that does not take its answers gets no more of them.
            if self.hub.is_clogged() {
                break;
            }
            if !self.upstream.takes(publish) {
                passed += 1;
                // What is for another server need not wait for this one: as with shards, everybody is met once, or in the next turn.
                if !self.upstream.takes_in_parts() || passed > (2 * self.queue.sources()).min(TURN_PUBLISHES) {
                    break;
                }
                self.queue.pass();
                continue;
            }
            if self.hub.has_routed_enough()
                || count == self.turn_publishes
                || (count > 0 && bytes + payload_bytes > self.turn_publish_bytes)
            {
                self.more = true;
                break;
            }
            if !self.hub.has_room_for(&publish.channel, payload_bytes) {
                held_up += 1;
                // Turn by turn everybody is met once, the control port once for each of the others.
                if held_up > 2 * self.queue.sources() {
                    break;
                }
                self.queue.pass();
                continue;
            }
            (count, bytes, held_up) = (count + 1, bytes + payload_bytes, 0);
            let publish = self.queue.pop().expect("it was shown");
            self.published_at = now;
            self.upstream.publish(&mut self.hub, publish, now);
            // A channel that was opened for its history is wanted now.
            self.pass_requests();
        }
        self.is_held_up = held_up > 0;
    }

    fn pass_requests(&mut self) {
        while let Some(request) = self.hub.next_request() {
            match request {
                Request::Want(channel) => self.upstream.want(&mut self.hub, &channel),
                Request::Unwant { channel, had_come } => self.upstream.unwant(&mut self.hub, &channel, had_come),
            }
        }
    }

    /// Hands out what there is and tells every shard to stop; a shard that takes nothing is given up after `shutdown_timeout`.
    fn stop(&mut self, now: MonotonicNs) {
        let give_up_at = now.saturating_add(self.stop_timeout_ns);
        self.life = Life::Stopping { give_up_at };
        self.hub.set_ready(false);
        while let Some(publish) = self.queue.pop() {
            if self.upstream.takes(&publish) {
                self.upstream.publish(&mut self.hub, publish, now);
            } else {
                self.hub.published(publish, Err(PublishError::Unavailable));
            }
        }
        self.upstream.stop(&mut self.hub);
        self.hub.flush(now);
        self.hub.stop();
        self.end(now, give_up_at);
    }

    fn end(&mut self, now: MonotonicNs, give_up_at: MonotonicNs) {
        self.hub.flush(now);
        if !self.hub.is_drained() {
            if now < give_up_at {
                return;
            }
            let timeout = std::time::Duration::from_nanos(self.stop_timeout_ns);
            tracing::warn!("a shard did not take its last messages within {timeout:?}; stopping without it");
        }
        self.life = Life::Over;
    }
}
