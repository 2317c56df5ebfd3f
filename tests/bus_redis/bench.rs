//! A bus thread with shards that only keep what they are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use campanile::addresses::Source;
use campanile::bus::question::{Answer, Asker, IdempotencyKey, Publish, PublishError, Published, Question};
use campanile::bus::redis::timing::Timing;
use campanile::bus::thread::spawn_with_timing;
use campanile::bus::{BusCommand, BusSender, Creator, ShardMessage};
use campanile::config::{ChannelRule, ChannelRules, Settings};
use campanile::fanout::batch::Batch;
use campanile::fanout::topics::TopicToken;
use campanile::inbox::{Inbox, inbox};
use campanile::metrics::BusMetrics;
use campanile::wire::Format;
use campanile::wire::event::GapReason;
use campanile::wire::framing::Encoding;
use campanile::wire::payload::Expect;
use mio::{Events, Poll, Token};

use crate::support::PATIENCE;

/// The defaults, but that payloads are passed as they are and channels are let go at once.
pub fn settings(redis: Option<String>) -> Settings {
    let rule = ChannelRule { payload: Expect::Raw, ..ChannelRule::default() };
    Settings::default().with(|settings| {
        settings.redis.url = redis;
        settings.redis.linger = Duration::from_millis(50);
        settings.shards.inbox_messages = 1 << 16;
        settings.channels = ChannelRules { default: rule, tables: Vec::new() };
    })
}

/// Looks often for a Redis that is lost, and gives a slow one all the time it needs: the machine may be busy with other tests.
pub fn patient() -> Timing {
    Timing {
        connect: PATIENCE,
        ping_after: PATIENCE,
        answer: PATIENCE,
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(100),
        probe_every: Duration::from_millis(100),
        probe_patience: PATIENCE,
        // Tests of them ask for them: the others count what is subscribed.
        probes_plain: false,
        refused_retry: Duration::from_millis(50),
    }
}

/// Notices within half a second that a Redis hangs.
pub fn hurried() -> Timing {
    Timing {
        connect: Duration::from_secs(1),
        ping_after: Duration::from_millis(200),
        answer: Duration::from_millis(300),
        probe_patience: Duration::from_millis(500),
        ..patient()
    }
}

/// A shard that only keeps what it is told.
pub struct FakeShard {
    pub inbox: Inbox<ShardMessage>,
    pub poll: Poll,
    /// By topic index, what came, in words; `m:payload#seq` for a message.
    pub topics: HashMap<u32, Vec<String>>,
    pub heads: HashMap<u32, u64>,
    pub published: Vec<Result<Published, PublishError>>,
    is_stopped: bool,
    /// Its inbox is too small on purpose: a hole is what a real shard then announces as a gap.
    may_lose: bool,
}

impl FakeShard {
    pub fn take(&mut self) -> bool {
        let mut any = false;
        while let Some(message) = self.inbox.try_recv() {
            any = true;
            match message {
                ShardMessage::Joined { topic, seq, history, .. } => {
                    let words = self.topics.entry(topic.index).or_default();
                    words.push(format!("joined@{seq}"));
                    for batch in history {
                        words.extend(describe(&batch).into_iter().map(|word| format!("old:{word}")));
                    }
                    assert!(self.heads.insert(topic.index, seq).is_none(), "joined twice");
                }
                ShardMessage::Batch { topic, batch } => {
                    self.inbox.release(batch.bytes());
                    let head = self.heads.get_mut(&topic.index).expect("no batch before joined");
                    assert!(batch.first() > *head, "never twice");
                    assert!(batch.first() == *head + 1 || self.may_lose, "no hole without a gap");
                    *head = batch.end() - 1;
                    self.topics.get_mut(&topic.index).unwrap().extend(describe(&batch));
                }
                ShardMessage::Aside { topic, aside } => {
                    self.inbox.release(aside.bytes());
                    let payload = String::from_utf8_lossy(aside.payload()).into_owned();
                    self.topics.get_mut(&topic.index).expect("nothing before joined").push(format!("aside:{payload}"));
                }
                ShardMessage::Renumbered { topic, seq, .. } => {
                    self.topics.get_mut(&topic.index).expect("no other numbers before any").push(format!("renumbered@{seq}"));
                    self.heads.insert(topic.index, seq);
                }
                ShardMessage::Order(order) => panic!("the bus orders nothing: {order:?}"),
                ShardMessage::Head { topic, seq } => {
                    self.topics.entry(topic.index).or_default().push(format!("head@{seq}"));
                    self.heads.insert(topic.index, seq);
                }
                ShardMessage::Answer { answer: Answer::Published { result, .. }, .. } => self.published.push(result),
                ShardMessage::Answer { answer, .. } => panic!("nobody has asked for {answer:?}"),
                ShardMessage::Refused { topic, .. } => {
                    self.topics.entry(topic.index).or_default().push("refused".to_owned());
                    assert!(!self.heads.contains_key(&topic.index), "refused after joined");
                }
                ShardMessage::Page { .. } => panic!("nobody has asked for a page"),
                ShardMessage::Marks(_) => panic!("nobody has asked about marks"),
                ShardMessage::Stop => self.is_stopped = true,
            }
        }
        any
    }
}

fn describe(batch: &Batch) -> Vec<String> {
    if batch.is_gap() {
        let reason = match batch.gap_reason() {
            Some(GapReason::Outage) | None => "",
            Some(other) => other.name(),
        };
        return vec![format!("gap#{}..{}{reason}", batch.first(), batch.end())];
    }
    let frames = batch.frames(Encoding::web_socket(Format::Raw));
    (batch.first()..batch.end())
        .map(|seq| {
            let frame = &frames.bytes[batch.frame_start(frames, seq)..batch.frame_start(frames, seq + 1)];
            let mut cursor = std::io::Cursor::new(frame);
            tungstenite::protocol::frame::FrameHeader::parse(&mut cursor).unwrap().unwrap();
            let payload = &frame[cursor.position() as usize..];
            match payload.len() {
                0..=100 => format!("m:{}#{seq}", String::from_utf8_lossy(payload)),
                long => format!("m:{long} bytes#{seq}"),
            }
        })
        .collect()
}

pub struct Bench {
    pub bus: BusSender,
    thread: Option<JoinHandle<()>>,
    pub metrics: Arc<BusMetrics>,
    pub shards: Vec<FakeShard>,
}

impl Bench {
    pub fn new(settings: Settings) -> Bench {
        Bench::with(settings, 1, patient())
    }

    pub fn hurried(settings: Settings) -> Bench {
        Bench::with(settings, 1, hurried())
    }

    pub fn with_shards(settings: Settings, count: usize) -> Bench {
        Bench::with(settings, count, patient())
    }

    pub fn with(settings: Settings, count: usize, timing: Timing) -> Bench {
        let metrics = Arc::new(BusMetrics::default());
        let (senders, shards) = (0..count)
            .map(|_| {
                let poll = Poll::new().unwrap();
                let (sender, inbox) = inbox(settings.shards.inbox_messages, poll.registry(), Token(0)).unwrap();
                let shard = FakeShard {
                    inbox,
                    poll,
                    topics: HashMap::new(),
                    heads: HashMap::new(),
                    published: Vec::new(),
                    is_stopped: false,
                    may_lose: settings.shards.inbox_messages < 100,
                };
                (sender, shard)
            })
            .unzip();
        let (bus, thread) = spawn_with_timing(&settings, metrics.clone(), senders, Default::default(), timing).unwrap();
        Bench { bus, thread: Some(thread), metrics, shards }
    }

    pub fn join(&self, index: u32, channel: &str) {
        self.join_on(0, index, channel);
    }

    pub fn join_on(&self, shard: u16, index: u32, channel: &str) {
        let topic = TopicToken { index, generation: 1 };
        let creator = Creator { source: Source::of(([127, 0, 0, 1], 40_000).into()), shard, connection: topic.index };
        self.send(BusCommand::Join { shard, topic, channel: channel.into(), creator });
    }

    pub fn leave(&self, index: u32, channel: &str) {
        let topic = TopicToken { index, generation: 1 };
        self.send(BusCommand::Leave { shard: 0, topic, channel: channel.into() });
    }

    pub fn send(&self, mut command: BusCommand) {
        let begin = Instant::now();
        let push = |command| match command {
            BusCommand::Ask(Question::Publish(publish)) => {
                self.bus.publish(publish).map_err(|publish| BusCommand::Ask(Question::Publish(publish)))
            }
            other => self.bus.push(other),
        };
        while let Err(back) = push(command) {
            command = back;
            assert!(begin.elapsed() < PATIENCE, "the bus thread takes no commands");
            std::thread::yield_now();
        }
        self.bus.wake();
    }

    pub fn publish(&self, channel: &str, payload: &[u8]) -> Result<Published, PublishError> {
        self.publish_later(channel, payload)()
    }

    /// A message that is published once, however often it is sent.
    pub fn publish_once(&self, channel: &str, payload: &[u8], key: &str) -> Result<Published, PublishError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut publish = Publish::new(channel, payload.into(), Asker::Control(sender));
        publish.idempotency_key = Some(IdempotencyKey::boxed(key));
        self.send(BusCommand::Ask(Question::Publish(publish)));
        result(receiver)
    }

    pub fn publish_later(&self, channel: &str, payload: &[u8]) -> impl FnOnce() -> Result<Published, PublishError> + use<> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.send(BusCommand::Ask(Question::Publish(Publish::new(channel, payload.into(), Asker::Control(sender)))));
        move || result(receiver)
    }

    /// Err: too much is under way.
    pub fn try_publish_later(
        &self,
        channel: &str,
        payload: &[u8],
    ) -> Result<impl FnOnce() -> Result<Published, PublishError> + use<>, Publish> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.bus.publish(Publish::new(channel, payload.into(), Asker::Control(sender)))?;
        self.bus.wake();
        Ok(move || result(receiver))
    }

    /// Publishes through the bus until it works, for after an outage.
    pub fn publish_when_possible(&mut self, channel: &str, payload: &[u8]) -> Published {
        let begin = Instant::now();
        loop {
            match self.publish(channel, payload) {
                Ok(published) => return published,
                Err(PublishError::Unavailable) => assert!(begin.elapsed() < PATIENCE, "publishing does not resume"),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Takes what the shards are told until `done`; sleeps only in epoll, in short steps for conditions that have no event.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&Bench) -> bool) {
        let begin = Instant::now();
        let mut events = Events::with_capacity(8);
        loop {
            for shard in &mut self.shards {
                shard.take();
            }
            if done(self) {
                return;
            }
            let newest = |words: &Vec<String>| words[words.len().saturating_sub(20)..].to_vec();
            let some = || self.shards[0].topics.iter().take(5).map(|(topic, words)| (*topic, newest(words))).collect::<Vec<_>>();
            assert!(begin.elapsed() < PATIENCE, "timed out waiting for {what}; got {:?}", some());
            let shard = &mut self.shards[0];
            if shard.inbox.prepare_sleep() {
                shard.poll.poll(&mut events, Some(Duration::from_millis(5))).unwrap();
                shard.inbox.awake();
            }
        }
    }

    pub fn wait_for(&mut self, index: u32, expected: &[&str]) {
        let what = format!("{expected:?}");
        self.wait(&what, |bench| bench.words(index).len() >= expected.len());
        assert_eq!(self.words(index), expected);
    }

    pub fn wait_ready(&mut self, ready: bool) {
        self.wait("readiness", |bench| bench.metrics.ready.get() == u64::from(ready));
    }

    pub fn words(&self, index: u32) -> &[String] {
        self.shards[0].topics.get(&index).map_or(&[], Vec::as_slice)
    }
}

fn result(receiver: tokio::sync::oneshot::Receiver<Answer>) -> Result<Published, PublishError> {
    let answer = receiver.blocking_recv().expect("every publish is answered");
    let Answer::Published { result, .. } = answer else { panic!("{answer:?}") };
    result
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.send(BusCommand::Stop);
        self.wait("stop", |bench| bench.shards.iter().all(|shard| shard.is_stopped));
        self.thread.take().unwrap().join().unwrap();
    }
}
