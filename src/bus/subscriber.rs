//! The bus thread: one mio loop over the upstream's sockets and the inbox of commands. Started by `serve`.
//!
//! It never waits for a shard: Redis closes a Pub/Sub client that reads too slowly, and then everybody loses. Every stage of a
//! turn works under a budget, so that a flood of messages does not hold up joins, nor the reverse.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use mio::{Events, Poll, Token, Waker};

use super::embedded::Embedded;
use super::hub::{Hub, HubSettings, Request};
use super::pace::Pace;
use super::question::{PublishError, Question};
use super::queue::Queue;
use super::redis::RedisBus;
use super::redis::timing::Timing;
use super::upstream::Upstream;
use super::{BusCommand, BusSender, COMMANDS_MAX, ShardSender};
use crate::config::Settings;
use crate::inbox::{Inbox, inbox};
use crate::metrics::BusMetrics;
use crate::sys::monotonic_ns;

/// Commands served in one turn.
const TURN_COMMANDS: usize = 1024;
/// Publishes and bytes of them that go on in one turn, if shards have as much room: what they bring is handed out before the next ones.
const TURN_PUBLISHES: usize = 1024;
const TURN_PUBLISH_BYTES: usize = 1024 * 1024;
const WAKER: Token = Token(0);

/// Starts the bus thread. `shards[n]` is the inbox of shard `n`. A URL that cannot be used is an error here; a Redis that is away is
/// not: the thread keeps trying. The thread ends after [`BusCommand::Stop`].
pub fn spawn(settings: Arc<Settings>, metrics: Arc<BusMetrics>, shards: Vec<ShardSender>) -> anyhow::Result<(BusSender, JoinHandle<()>)> {
    spawn_with_timing(settings, metrics, shards, Timing::default())
}

/// [`spawn`] with other deadlines than the usual ones, for tests.
pub fn spawn_with_timing(
    settings: Arc<Settings>,
    metrics: Arc<BusMetrics>,
    shards: Vec<ShardSender>,
    timing: Timing,
) -> anyhow::Result<(BusSender, JoinHandle<()>)> {
    let inbox_messages = settings.shards.inbox_messages;
    let poll = Poll::new().context("the bus thread needs an epoll descriptor; raise `ulimit -n`")?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER).context("the bus thread needs an eventfd; raise `ulimit -n`")?);
    let (inbox_sender, inbox) =
        inbox(COMMANDS_MAX, poll.registry(), WAKER).context("the bus thread needs an eventfd; raise `ulimit -n`")?;
    let upstream: Box<dyn Upstream> = match &settings.redis.url {
        None => Box::new(Embedded),
        Some(url) => Box::new(RedisBus::new(url, &settings, timing, poll.registry().try_clone()?, waker)?),
    };
    let mut subscriber = Subscriber {
        poll,
        inbox,
        hub: Hub::new(HubSettings::from(&*settings), metrics, shards),
        upstream,
        queue: Queue::default(),
        // A quarter of an inbox: publishes go on while half of it is free.
        turn_publishes: TURN_PUBLISHES.min(settings.shards.inbox_messages / 4).max(1),
        turn_publish_bytes: TURN_PUBLISH_BYTES.min(settings.bounds.inbox_bytes_total / settings.shards.count / 4),
        is_held_up: false,
        stop_timeout: settings.clients.shutdown_timeout,
        stopping: false,
        more: true, // the first turn starts the upstream
        pace: Pace::default(),
        wakes: 0,
    };
    let thread =
        std::thread::Builder::new().name("bus".into()).spawn(move || subscriber.run()).context("the bus thread could not be started")?;
    Ok((BusSender::new(inbox_sender, inbox_messages), thread))
}

struct Subscriber {
    poll: Poll,
    inbox: Inbox<BusCommand>,
    hub: Hub,
    upstream: Box<dyn Upstream>,
    /// Publishes on their way to the upstream.
    queue: Queue,
    turn_publishes: usize,
    turn_publish_bytes: usize,
    /// A shard has no room for the publishes that wait: look again soon.
    is_held_up: bool,
    stop_timeout: Duration,
    stopping: bool,
    /// Work is left from the last turn: do not sleep.
    more: bool,
    pace: Pace,
    /// Of shards, as far as the pace knows of them.
    wakes: u64,
}

impl Subscriber {
    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        while !self.stopping {
            let mut now = self.wait(&mut events);
            self.more = self.upstream.read(&mut self.hub, now);
            self.hub.flush(now); // before commands: a join should not wait for what came before it
            self.drain_inbox(now);
            self.pass_publishes(now);
            now = monotonic_ns();
            self.hub.expire(now);
            self.pass_requests();
            self.upstream.write(&mut self.hub, now);
            self.hub.flush(now);
            self.hub.metrics().turns.inc();
        }
        self.finish();
    }

    fn wait(&mut self, events: &mut Events) -> u64 {
        let mut now = monotonic_ns();
        let rest_ns = if self.more { 0 } else { self.pace.rest_ns(now) };
        if rest_ns > 0 {
            std::thread::sleep(Duration::from_nanos(rest_ns));
            now = monotonic_ns();
        }
        let may_sleep = !self.more && (self.hub.is_clogged() || self.inbox.prepare_sleep());
        let timeout = if may_sleep {
            let held_up = self.is_held_up.then_some(now + super::hub::RETRY_NS);
            let due = [self.hub.deadline(now), self.upstream.deadline(), held_up].into_iter().flatten().min();
            due.map(|due| Duration::from_nanos(due.saturating_sub(now)))
        } else {
            Some(Duration::ZERO)
        };
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            panic!("epoll_wait on our own descriptor: {error}");
        }
        self.inbox.awake();
        now = monotonic_ns();
        self.pace.spend(u64::from(may_sleep) + self.hub.wakes() - std::mem::replace(&mut self.wakes, self.hub.wakes()), now);
        for event in events.iter().filter(|event| event.token() != WAKER) {
            self.upstream.event(event);
        }
        now
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
                BusCommand::Ask(question) => self.take_up(question),
                // The request may have been given up; then nobody wants to know.
                BusCommand::ListChannels { from, limit, reply } => drop(reply.send(self.hub.list(from, limit))),
                BusCommand::Stop => {
                    self.stopping = true;
                    return;
                }
            }
            self.pass_requests();
        }
        self.more = true;
    }

    fn take_up(&mut self, question: Question) {
        match question {
            Question::Publish(publish) => {
                let bytes_max = self.hub.payload_bytes_max();
                if publish.payload.len() > bytes_max {
                    self.hub.published(publish, Err(PublishError::TooBig { bytes_max }));
                } else {
                    self.queue.push(publish);
                }
            }
        }
    }

    /// Hands publishes to the upstream, in turns, as far as it takes them and the shards that will get them have room.
    fn pass_publishes(&mut self, now: u64) {
        let (mut count, mut bytes, mut held_up) = (0, 0, 0);
        while let Some(publish) = self.queue.front() {
            let payload_bytes = publish.payload.len();
            if publish.is_given_up() {
                // Its answer would have said that it may still be published; that it is not is better.
                self.queue.pop();
                continue;
            }
            // A shard that does not take its answers gets no more of them.
            if self.hub.is_clogged() || !self.upstream.takes(publish) {
                break;
            }
            if count == self.turn_publishes || (count > 0 && bytes + payload_bytes > self.turn_publish_bytes) {
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
                Request::Unwant(channel) => self.upstream.unwant(&mut self.hub, &channel),
            }
        }
    }

    /// Hands out what there is and tells every shard to stop; a shard that takes nothing is given up after `stop_timeout`.
    fn finish(&mut self) {
        let now = monotonic_ns();
        self.hub.set_ready(false);
        while let Some(publish) = self.queue.pop() {
            if self.upstream.takes(&publish) {
                self.upstream.publish(&mut self.hub, publish, now);
            } else {
                self.hub.published(publish, Err(PublishError::Unavailable));
            }
        }
        self.upstream.stop(&mut self.hub);
        self.hub.flush(monotonic_ns());
        self.hub.stop();
        let give_up_at = std::time::Instant::now() + self.stop_timeout;
        loop {
            self.hub.flush(monotonic_ns());
            if self.hub.is_drained() {
                return;
            }
            if std::time::Instant::now() >= give_up_at {
                tracing::warn!("a shard did not take its last messages within {:?}; stopping without it", self.stop_timeout);
                return;
            }
            std::thread::sleep(Duration::from_nanos(super::hub::RETRY_NS));
        }
    }
}
