//! The bus thread against a real `redis-server`, with inboxes in place of shards: subscribe, publish, kill, pause, log in.

#[path = "support/redis.rs"]
mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use campanile::bus::link::Timing;
use campanile::bus::subscriber::spawn_with_timing;
use campanile::bus::{BusCommand, BusSender, ConnToken, Publish, PublishError, PublishReply, Published, ShardMessage, TopicToken};
use campanile::config::{ChannelRule, ChannelRules, FdTable, LogFormat, Mismatch, Overrun, Pin, RedisSubscribe, Settings};
use campanile::fanout::batch::Batch;
use campanile::metrics::BusMetrics;
use campanile::shard::inbox::{Inbox, inbox};
use campanile::wire::Format;
use campanile::wire::payload::Expect;
use mio::{Events, Poll, Token};
use support::{PATIENCE, RedisServer};

fn settings(redis: Option<String>) -> Settings {
    let rule = ChannelRule {
        overrun: Overrun::Disconnect,
        payload: Expect::Raw,
        mismatch: Mismatch::Opaque,
        log_bytes: 1 << 20,
        history_count: 0,
        history_age: Duration::from_secs(60),
    };
    Settings {
        listen: Vec::new(),
        control: ([127, 0, 0, 1], 0).into(),
        redis,
        prefix: "notifications:".into(),
        redis_channels: vec!["notifications".into()],
        redis_subscribe: RedisSubscribe::Exact,
        linger: Duration::from_millis(50),
        shards: 1,
        pin: Pin::None,
        fd_table: FdTable::Auto,
        format: Format::Json,
        coalesce: None,
        heartbeat: Duration::from_secs(30),
        pong_timeout: Duration::from_secs(10),
        handshake_timeout: Duration::from_secs(10),
        close_timeout: Duration::from_secs(5),
        shutdown_timeout: Duration::from_secs(10),
        connections_max: 1000,
        subscriptions_max: 100,
        channels_max: 200_000,
        message_bytes_max: 1 << 16,
        payload_bytes_max: 1 << 20,
        log_bytes_total: 1 << 30,
        buffer_bytes_total: 1 << 26,
        inbox_messages: 1 << 16,
        inbox_bytes_total: 1 << 28,
        history_bytes_total: 1 << 28,
        notsent_bytes: 16384,
        backlog: 1024,
        echo: false,
        allow_client_publish: false,
        log_format: LogFormat::Text,
        log_level: "info".into(),
        channels: ChannelRules { default: rule, by_prefix: Vec::new() },
    }
}

/// Looks often for a Redis that is lost, and gives a slow one all the time it needs: the machine may be busy with other tests.
fn patient() -> Timing {
    Timing {
        connect: PATIENCE,
        ping_after: PATIENCE,
        answer: PATIENCE,
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(100),
    }
}

/// Notices within half a second that a Redis hangs.
fn hurried() -> Timing {
    Timing { connect: Duration::from_secs(1), ping_after: Duration::from_millis(200), answer: Duration::from_millis(300), ..patient() }
}

/// A shard that only keeps what it is told.
struct FakeShard {
    inbox: Inbox<ShardMessage>,
    poll: Poll,
    /// By topic index, what came, in words; `m:payload#seq` for a message.
    topics: HashMap<u32, Vec<String>>,
    heads: HashMap<u32, u64>,
    published: Vec<Result<Published, PublishError>>,
    is_stopped: bool,
    /// Its inbox is too small on purpose: a hole is what a real shard then announces as a gap.
    may_lose: bool,
}

impl FakeShard {
    fn take(&mut self) -> bool {
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
                ShardMessage::Head { topic, seq } => {
                    self.topics.entry(topic.index).or_default().push(format!("head@{seq}"));
                    self.heads.insert(topic.index, seq);
                }
                ShardMessage::Published { result, .. } => self.published.push(result),
                ShardMessage::Refused { .. } => panic!("refused"),
                ShardMessage::Stop => self.is_stopped = true,
            }
        }
        any
    }
}

fn describe(batch: &Batch) -> Vec<String> {
    if batch.is_gap() {
        return vec![format!("gap#{}..{}", batch.first(), batch.end())];
    }
    let frames = batch.frames(Format::Raw);
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

struct Bench {
    bus: BusSender,
    thread: Option<JoinHandle<()>>,
    metrics: Arc<BusMetrics>,
    shards: Vec<FakeShard>,
}

impl Bench {
    fn new(settings: Settings) -> Bench {
        Bench::with(settings, 1, patient())
    }

    fn hurried(settings: Settings) -> Bench {
        Bench::with(settings, 1, hurried())
    }

    fn with_shards(settings: Settings, count: usize) -> Bench {
        Bench::with(settings, count, patient())
    }

    fn with(settings: Settings, count: usize, timing: Timing) -> Bench {
        let metrics = Arc::new(BusMetrics::default());
        let (senders, shards) = (0..count)
            .map(|_| {
                let poll = Poll::new().unwrap();
                let (sender, inbox) = inbox(settings.inbox_messages, poll.registry(), Token(0)).unwrap();
                let shard = FakeShard {
                    inbox,
                    poll,
                    topics: HashMap::new(),
                    heads: HashMap::new(),
                    published: Vec::new(),
                    is_stopped: false,
                    may_lose: settings.inbox_messages < 100,
                };
                (sender, shard)
            })
            .unzip();
        let (bus, thread) = spawn_with_timing(Arc::new(settings), metrics.clone(), senders, timing).unwrap();
        Bench { bus, thread: Some(thread), metrics, shards }
    }

    fn join(&self, index: u32, channel: &str) {
        self.join_on(0, index, channel);
    }

    fn join_on(&self, shard: u16, index: u32, channel: &str) {
        let topic = TopicToken { index, generation: 1 };
        self.send(BusCommand::Join { shard, topic, channel: channel.into() });
    }

    fn leave(&self, index: u32, channel: &str) {
        let topic = TopicToken { index, generation: 1 };
        self.send(BusCommand::Leave { shard: 0, topic, channel: channel.into() });
    }

    fn send(&self, mut command: BusCommand) {
        let begin = Instant::now();
        while let Err(back) = self.bus.send(command) {
            command = back;
            assert!(begin.elapsed() < PATIENCE, "the bus thread takes no commands");
            std::thread::yield_now();
        }
    }

    fn publish(&self, channel: &str, payload: &[u8]) -> Result<Published, PublishError> {
        self.publish_later(channel, payload)()
    }

    fn publish_later(&self, channel: &str, payload: &[u8]) -> impl FnOnce() -> Result<Published, PublishError> + use<> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let reply = PublishReply::Control(sender);
        self.send(BusCommand::Publish(Publish { channel: channel.into(), payload: payload.into(), reply }));
        move || receiver.blocking_recv().expect("every publish is answered")
    }

    /// Publishes through the bus until it works, for after an outage.
    fn publish_when_possible(&mut self, channel: &str, payload: &[u8]) -> Published {
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
    fn wait(&mut self, what: &str, mut done: impl FnMut(&Bench) -> bool) {
        let begin = Instant::now();
        let mut events = Events::with_capacity(8);
        loop {
            for shard in &mut self.shards {
                shard.take();
            }
            if done(self) {
                return;
            }
            let some = || self.shards[0].topics.iter().take(5).collect::<Vec<_>>();
            assert!(begin.elapsed() < PATIENCE, "timed out waiting for {what}; got {:?}", some());
            let shard = &mut self.shards[0];
            if shard.inbox.prepare_sleep() {
                shard.poll.poll(&mut events, Some(Duration::from_millis(5))).unwrap();
                shard.inbox.awake();
            }
        }
    }

    fn wait_for(&mut self, index: u32, expected: &[&str]) {
        let what = format!("{expected:?}");
        self.wait(&what, |bench| bench.words(index).len() >= expected.len());
        assert_eq!(self.words(index), expected);
    }

    fn wait_ready(&mut self, ready: bool) {
        self.wait("readiness", |bench| bench.metrics.ready.get() == u64::from(ready));
    }

    fn words(&self, index: u32) -> &[String] {
        self.shards[0].topics.get(&index).map_or(&[], Vec::as_slice)
    }
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

#[test]
fn the_embedded_bus_needs_nothing() {
    let mut bench = Bench::with_shards(settings(None), 2);
    bench.wait_ready(true);
    assert_eq!(bench.publish("a", b"nobody hears"), Ok(Published { epoch: None, seq: None }));
    bench.join(1, "a");
    bench.join_on(1, 9, "a");
    bench.wait_for(1, &["joined@0"]);
    let published = bench.publish("a", b"one").unwrap();
    assert_eq!(published.seq, Some(1));
    assert_eq!(bench.publish("a", b"two").unwrap(), Published { seq: Some(2), ..published });
    let conn = ConnToken { index: 3, generation: 4 };
    let reply = PublishReply::Client { shard: 1, conn, id: None };
    bench.send(BusCommand::Publish(Publish { channel: "a".into(), payload: b"three".into(), reply }));
    bench.wait_for(1, &["joined@0", "m:one#1", "m:two#2", "m:three#3"]);
    bench.wait("the other shard", |bench| bench.shards[1].topics.get(&9).is_some_and(|words| words.len() == 4));
    assert_eq!(bench.shards[1].published, [Ok(Published { seq: Some(3), ..published })]);
    assert_eq!(bench.publish("a", &vec![0; (1 << 20) + 1]), Err(PublishError::TooBig { bytes_max: 1 << 20 }));
    let (reply, page) = tokio::sync::oneshot::channel();
    bench.send(BusCommand::ListChannels { from: 0, limit: 10, reply });
    let page = page.blocking_recv().unwrap();
    assert_eq!((page.channels.len(), page.channels[0].seq, page.next), (1, 3, None));
}

#[test]
fn exact_subscriptions_follow_the_interest() {
    let redis = RedisServer::start();
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.join(1, "user:1");
    bench.join(2, "notifications");
    bench.wait_for(1, &["joined@0"]);
    bench.wait_for(2, &["joined@0"]);
    let mut publisher = redis.publisher();
    for payload in ["one", "two", "three"] {
        publisher.publish("notifications:user:1", payload.as_bytes());
        publisher.publish("notifications:user:2", b"for nobody");
        publisher.publish("notifications", payload.as_bytes());
    }
    let expected = ["joined@0", "m:one#1", "m:two#2", "m:three#3"];
    bench.wait_for(1, &expected);
    bench.wait_for(2, &expected);
    assert_eq!((bench.metrics.messages.get(), bench.metrics.unwanted.get()), (6, 0));

    bench.leave(1, "user:1");
    bench.wait("the end of the linger", |_| !redis.is_subscribed("notifications:user:1"));
    assert_eq!(bench.metrics.channels.get(), 1);
    bench.join(3, "user:1");
    bench.wait_for(3, &["joined@0"]);
    publisher.publish("notifications:user:1", b"again");
    bench.wait_for(3, &["joined@0", "m:again#1"]);
    assert_eq!(bench.words(1), expected);
}

#[test]
fn joining_and_leaving_all_the_time_ends_where_it_should() {
    let redis = RedisServer::start();
    let mut bench = Bench::new(Settings { linger: Duration::ZERO, ..settings(Some(redis.url())) });
    for index in 0..500 {
        bench.join(index, "hectic");
        if index % 3 == 0 {
            bench.wait("joined", |bench| !bench.words(index).is_empty());
        }
        bench.leave(index, "hectic");
    }
    bench.join(1000, "hectic");
    bench.wait_for(1000, &["joined@0"]);
    redis.publisher().publish("notifications:hectic", b"x");
    bench.wait("the message", |bench| bench.words(1000).len() == 2);
    bench.leave(1000, "hectic");
    bench.wait("unsubscribed", |_| redis.subscribed_channels() == 0);
}

#[test]
fn a_pattern_brings_everything_under_the_prefix() {
    let redis = RedisServer::start();
    let prefix = "odd[x]*:".to_owned();
    let mut bench = Bench::new(Settings { redis_subscribe: RedisSubscribe::Pattern, prefix, ..settings(Some(redis.url())) });
    bench.join(1, "early");
    bench.wait_for(1, &["joined@0"]);
    bench.join(2, "notifications");
    bench.wait_for(2, &["joined@0"]);
    let mut publisher = redis.publisher();
    publisher.publish("odd[x]*:early", b"1");
    publisher.publish("odd[x]*:unwanted", b"2");
    publisher.publish("oddx-else:early", b"3");
    publisher.publish("odd[x]*:", b"a name of nothing");
    publisher.publish("odd[x]*:bad\nname", b"4");
    publisher.publish("notifications", b"5");
    publisher.publish("odd[x]*:early", b"6");
    bench.wait_for(1, &["joined@0", "m:1#1", "m:6#2"]);
    bench.wait_for(2, &["joined@0", "m:5#1"]);
    assert_eq!((bench.metrics.unwanted.get(), bench.metrics.dropped.get(), bench.metrics.messages.get()), (1, 2, 6));
    assert_eq!(bench.publish("early", b"7").unwrap().seq, Some(3));
    assert_eq!(redis.subscribed_channels(), 1, "one pattern, and `notifications`");
}

#[test]
fn an_empty_prefix_brings_nothing_twice() {
    for mode in [RedisSubscribe::Pattern, RedisSubscribe::Exact] {
        let redis = RedisServer::start();
        let mut bench = Bench::new(Settings { redis_subscribe: mode, prefix: String::new(), ..settings(Some(redis.url())) });
        bench.join(1, "notifications");
        bench.join(2, "other");
        bench.wait_for(1, &["joined@0"]);
        bench.wait_for(2, &["joined@0"]);
        let mut publisher = redis.publisher();
        publisher.publish("notifications", b"x");
        publisher.publish("other", b"y");
        bench.wait_for(2, &["joined@0", "m:y#1"]);
        assert_eq!(bench.words(1), ["joined@0", "m:x#1"]);
    }
}

#[test]
fn a_publish_learns_its_number() {
    for protocol in ["resp3", "resp2"] {
        let redis = RedisServer::start();
        let mut bench = Bench::new(settings(Some(format!("{}/?protocol={protocol}", redis.url()))));
        bench.wait_ready(true);
        assert_eq!(bench.publish("quiet", b"nobody hears"), Ok(Published { epoch: None, seq: None }));
        bench.join(1, "a");
        bench.wait_for(1, &["joined@0"]);
        redis.publisher().publish("notifications:a", b"somebody else's");
        bench.wait_for(1, &["joined@0", "m:somebody else's#1"]);
        assert_eq!(bench.publish("a", b"ours").unwrap().seq, Some(2));
        let answers: Vec<_> = (0..1000).map(|number| bench.publish_later("a", format!("{}", number % 7).as_bytes())).collect();
        for (number, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer().unwrap().seq, Some(3 + number as u64));
        }
        bench.wait("all", |bench| bench.words(1).len() == 1003);
        assert_eq!(bench.metrics.published.get(), 1002);
        assert_eq!(redis.command(&["CLIENT", "LIST"]).matches("name=campanile").count(), 2);
    }
}

#[test]
fn too_many_publishes_are_refused_not_queued() {
    let redis = RedisServer::start();
    let mut bench = Bench::hurried(settings(Some(redis.url())));
    bench.wait_ready(true);
    assert_eq!(bench.publish_when_possible("a", b"opens the connection").seq, None);
    redis.pause();
    let answers: Vec<_> = (0..5000).map(|_| bench.publish_later("a", b"x")).collect();
    let results: Vec<_> = answers.into_iter().map(|answer| answer()).collect();
    let count = |error: PublishError| results.iter().filter(|result| result.as_ref().err() == Some(&error)).count();
    // Those under way when the deadline passes may or may not be published; none is left waiting.
    assert!(count(PublishError::Busy) >= 900, "{} busy", count(PublishError::Busy));
    assert!(count(PublishError::Unavailable) >= 4000, "{} unavailable", count(PublishError::Unavailable));
    redis.resume();
    bench.publish_when_possible("a", b"later");
}

#[test]
fn ten_thousand_channels() {
    let redis = RedisServer::start();
    let mut bench = Bench::new(settings(Some(redis.url())));
    for index in 0..10_000 {
        bench.join(index, &format!("channel-{index}"));
    }
    bench.wait("every join", |bench| bench.shards[0].heads.len() == 10_000);
    assert_eq!(redis.subscribed_channels(), 10_000);
    let mut publisher = redis.publisher();
    for index in 0..10_000 {
        publisher.publish(&format!("notifications:channel-{index}"), format!("{index}").as_bytes());
    }
    publisher.settle();
    bench.wait("every message", |bench| bench.shards[0].heads.values().all(|&head| head == 1));
    for index in 0..10_000 {
        assert_eq!(bench.words(index)[1], format!("m:{index}#1"));
    }
    for index in 0..10_000 {
        bench.leave(index, &format!("channel-{index}"));
    }
    bench.wait("every unsubscription", |_| redis.subscribed_channels() == 0);
    assert_eq!(bench.metrics.channels.get(), 0);
}

#[test]
fn killed_and_restarted() {
    let mut redis = RedisServer::start();
    let mut bench = Bench::new(settings(Some(redis.url())));
    for index in 0..2000 {
        bench.join(index, &format!("c{index}"));
    }
    bench.wait("every join", |bench| bench.shards[0].heads.len() == 2000);
    bench.wait_ready(true);
    redis.publisher().publish("notifications:c7", b"before");
    bench.wait_for(7, &["joined@0", "m:before#1"]);

    redis.kill();
    bench.wait_ready(false);
    assert_eq!(bench.publish("c7", b"while it is away"), Err(PublishError::Unavailable));
    bench.join(5000, "joined-while-away");
    redis.restart();
    bench.wait_ready(true);
    assert_eq!(redis.subscribed_channels(), 2001);
    redis.publisher().publish("notifications:c7", b"after");
    bench.wait_for(7, &["joined@0", "m:before#1", "gap#2..3", "m:after#3"]);
    bench.wait_for(5000, &["joined@0"]);
    bench.wait("every gap", |bench| (0..2000).all(|index| bench.words(index).iter().any(|word| word.starts_with("gap"))));
    assert_eq!((bench.metrics.connects.get(), bench.metrics.disconnects.get()), (2, 1));
    assert_eq!(bench.publish_when_possible("c7", b"through us").seq, Some(4));
}

#[test]
fn paused_and_resumed() {
    let redis = RedisServer::start();
    let mut bench = Bench::hurried(settings(Some(redis.url())));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    bench.wait_ready(true);
    redis.pause();
    bench.wait_ready(false);
    redis.resume();
    bench.wait_ready(true);
    redis.publisher().publish("notifications:a", b"after");
    bench.wait("the message", |bench| bench.words(1).last().is_some_and(|word| word.starts_with("m:after#")));
    // One gap for each time it was found hanging, which on a busy machine may be more than once.
    let words = bench.words(1);
    assert!(words.len() >= 3 && words[1..words.len() - 1].iter().all(|word| word.starts_with("gap#")), "{words:?}");
}

#[test]
fn it_may_start_later_than_we_do() {
    let mut redis = RedisServer::prepared(&[]);
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.join(1, "a");
    redis.restart();
    bench.wait_for(1, &["joined@0"]);
    redis.publisher().publish("notifications:a", b"x");
    bench.wait_for(1, &["joined@0", "m:x#1"]);
}

#[test]
fn a_long_silence_is_not_an_outage() {
    let redis = RedisServer::start();
    let mut bench = Bench::with(settings(Some(redis.url())), 1, Timing { ping_after: Duration::from_millis(50), ..patient() });
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    let pings = || {
        let stats = redis.command(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_ping:")).unwrap_or_default().to_owned();
        line.split(['=', ',']).nth(1).map_or(0, |count| count.parse::<u32>().unwrap())
    };
    let before = pings();
    bench.wait("five pings", |_| pings() >= before + 5);
    assert_eq!((bench.metrics.connects.get(), bench.metrics.disconnects.get()), (1, 0));
    assert_eq!(bench.words(1), ["joined@0"]);
}

#[test]
fn passwords_users_and_databases_of_the_url() {
    let redis = RedisServer::with_arguments(&["--requirepass", "s3cret"]);
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "allchannels", "+@all"]);
    let urls = [
        format!("redis://:s3cret@127.0.0.1:{}/5", redis.port),
        format!("redis://bell:ring@127.0.0.1:{}/5", redis.port),
        format!("redis://bell:ring@localhost:{}/5?protocol=resp2", redis.port),
        format!("{}?pass=s3cret&db=5", redis.unix_url()),
    ];
    for url in urls {
        let mut bench = Bench::new(settings(Some(url.clone())));
        bench.join(1, "a");
        bench.wait_for(1, &["joined@0"]);
        assert_eq!(bench.publish("a", b"x").unwrap().seq, Some(1), "{url}");
        let clients = redis.command(&["CLIENT", "LIST"]);
        let ours = clients.lines().filter(|line| line.contains("name=campanile") && line.contains("db=5")).count();
        assert_eq!(ours, 2, "{clients}");
    }
}

#[test]
fn wrong_credentials_are_retried_until_they_are_right() {
    let redis = RedisServer::with_arguments(&["--requirepass", "s3cret"]);
    for login in ["", "bell:wrong@"] {
        let mut bench = Bench::new(settings(Some(format!("redis://{login}127.0.0.1:{}", redis.port))));
        bench.join(1, "a");
        let connections = || {
            let stats = redis.command(&["INFO", "stats"]);
            stats.split("total_connections_received:").nth(1).unwrap().split('\r').next().unwrap().parse::<u64>().unwrap()
        };
        let before = connections();
        bench.wait("a few tries", |_| connections() > before + 50);
        assert_eq!((bench.metrics.ready.get(), bench.words(1).len()), (0, 0));
        assert_eq!(bench.publish("a", b"x"), Err(PublishError::Unavailable));
        if login.is_empty() {
            redis.command(&["CONFIG", "SET", "requirepass", ""]);
            bench.wait_for(1, &["joined@0"]);
            redis.command(&["CONFIG", "SET", "requirepass", "s3cret"]);
        } else {
            redis.command(&["ACL", "SETUSER", "bell", "on", ">wrong", "allchannels", "+@all"]);
            bench.wait_for(1, &["joined@0"]);
        }
    }
}

#[test]
fn a_channel_that_redis_refuses_does_not_stop_the_others() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "resetchannels", "&notifications:open:*", "+@all"]);
    let mut bench = Bench::new(settings(Some(format!("redis://bell:ring@127.0.0.1:{}", redis.port))));
    for index in 0..20 {
        bench.join(index, &format!("open:{index}"));
    }
    bench.join(100, "closed");
    bench.wait("the open ones", |bench| (0..20).all(|index| !bench.words(index).is_empty()));
    bench.wait_ready(true);
    assert!(matches!(bench.publish("closed", b"x"), Err(PublishError::Refused(reason)) if reason.contains("NOPERM")));
    assert_eq!(bench.publish("open:3", b"x").unwrap().seq, Some(1));
    assert_eq!((bench.words(100).len(), bench.metrics.disconnects.get()), (0, 0));
}

#[test]
fn an_old_redis_speaks_resp2() {
    let redis = RedisServer::with_arguments(&["--rename-command", "HELLO", "", "--requirepass", "s3cret"]);
    let mut bench = Bench::new(settings(Some(format!("{}/2", redis.url()))));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    assert_eq!(bench.publish("a", b"x").unwrap().seq, Some(1));
    bench.leave(1, "a");
    bench.wait("the end of the linger", |_| redis.subscribed_channels() == 0);
    bench.join(2, "a");
    bench.wait_for(2, &["joined@0"]);
    let clients = redis.command(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().filter(|line| line.contains("name=campanile") && line.contains("resp=2")).count(), 2, "{clients}");
}

#[test]
fn large_payloads_come_whole_and_too_large_ones_are_a_gap() {
    let redis = RedisServer::start();
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    let mut publisher = redis.publisher();
    publisher.publish("notifications:a", &vec![b'x'; 1 << 20]);
    publisher.publish("notifications:a", &vec![b'y'; (1 << 20) + 1]);
    publisher.publish("notifications:a", b"end");
    bench.wait_for(1, &["joined@0", "m:1048576 bytes#1", "gap#2..3", "m:end#3"]);
    assert_eq!(bench.metrics.dropped.get(), 1);
}

#[test]
fn history_is_told_to_those_who_come_later() {
    let redis = RedisServer::start();
    let mut settings = settings(Some(redis.url()));
    settings.channels.default.history_count = 3;
    let mut bench = Bench::with_shards(settings, 2);
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    for number in 1..=5 {
        assert_eq!(bench.publish("a", format!("{number}").as_bytes()).unwrap().seq, Some(number));
    }
    bench.join_on(1, 2, "a");
    bench.wait("history", |bench| bench.shards[1].topics.contains_key(&2));
    assert_eq!(bench.shards[1].topics[&2], ["joined@5", "old:m:3#3", "old:m:4#4", "old:m:5#5"]);
}

#[test]
fn a_shard_that_is_too_slow_holds_nobody_up_and_hears_of_it() {
    let redis = RedisServer::start();
    let mut bench = Bench::with_shards(Settings { inbox_messages: 4, ..settings(Some(redis.url())) }, 2);
    bench.join(1, "a");
    bench.join_on(1, 1, "b");
    bench.wait("both joins", |bench| bench.shards.iter().all(|shard| shard.heads.len() == 1));
    let mut publisher = redis.publisher();
    for _ in 0..50 {
        for _ in 0..100 {
            publisher.publish("notifications:a", b"x");
        }
        publisher.settle(); // each time another read, and so another batch, of the bus thread
    }
    // Shard 0 has taken nothing; shard 1 still gets its message.
    publisher.publish("notifications:b", b"y");
    let begin = Instant::now();
    while bench.shards[1].heads[&1] == 0 {
        bench.shards[1].take();
        assert!(begin.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert!(bench.metrics.inbox_full.get() > 0);
    bench.wait("the head", |bench| bench.shards[0].heads[&1] == 5000);
    let received = bench.words(1).iter().filter(|word| word.starts_with("m:")).count() as u64;
    assert_eq!(received + bench.metrics.inbox_full.get(), 5000, "what did not arrive was counted");
}

/// A server that logs everybody in, says `text` and waits for the end of the connection, again and again.
fn fake_server(text: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer);
                let _ = stream.write_all(text);
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            });
        }
    });
    port
}

#[test]
fn garbage_from_the_server_resets_the_connection() {
    let texts: [&'static [u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"%0\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$9999999999\r\n",
        b"%0\r\n>3\r\n$7\r\nmessage\r\n$-1\r\n:x\r\n",
        b"%0\r\n\x00\x01\x02\r\n",
        b"-ERR max number of clients reached\r\n",
    ];
    for (number, text) in texts.into_iter().enumerate() {
        let port = fake_server(text);
        let mut bench = Bench::new(settings(Some(format!("redis://127.0.0.1:{port}"))));
        bench.join(1, "a");
        let is_garbage = number < 4;
        bench.wait(&format!("a few resets after text {number}"), |bench| !is_garbage || bench.metrics.protocol_errors.get() >= 5);
        assert!(bench.words(1).is_empty());
    }
}

#[test]
fn a_server_that_says_nothing_is_left() {
    let port = fake_server(b"");
    let mut bench = Bench::hurried(settings(Some(format!("redis://127.0.0.1:{port}"))));
    let begin = Instant::now();
    bench.wait("the deadline", |_| begin.elapsed() > Duration::from_millis(1500));
    assert_eq!((bench.metrics.ready.get(), bench.metrics.connects.get()), (0, 0));
}

#[test]
fn a_wrong_url_is_an_error_at_start() {
    for (url, prefix) in [("localhost", "p:"), ("http://localhost", "p:"), ("redis://localhost/x", "p:"), ("redis://localhost", "notif")] {
        let settings = Settings { prefix: prefix.into(), ..settings(Some(url.into())) };
        let Err(error) = spawn_with_timing(Arc::new(settings), Arc::default(), Vec::new(), patient()) else { panic!("{url} was taken") };
        assert!(format!("{error:#}").len() > 40, "{error:#}");
    }
}

#[test]
fn over_tls() {
    let files = RedisServer::prepared(&[]);
    let probe = std::process::Command::new("redis-server").args(["--tls-port", "0", "--no-such-option", "1"]).output().unwrap();
    if format!("{probe:?}").contains("'tls-port") {
        eprintln!("SKIPPED over_tls: this redis-server was built without TLS");
        return;
    }
    let Some((certificate, key)) = support::self_signed(&files.directory) else {
        eprintln!("SKIPPED over_tls: openssl is not installed");
        return;
    };
    let tls_port = support::free_port();
    let mut redis = RedisServer::with_arguments(&[
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
    ]);
    let mut bench = Bench::new(settings(Some(format!("rediss://127.0.0.1:{tls_port}/#insecure"))));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    let mut publisher = redis.publisher();
    for _ in 0..20 {
        publisher.publish("notifications:a", &vec![b'x'; 300_000]);
    }
    bench.wait("large messages", |bench| bench.words(1).len() == 21);
    assert_eq!(bench.publish("a", &vec![b'y'; 500_000]).unwrap().seq, Some(21));
    redis.kill();
    bench.wait_ready(false);
    redis.restart();
    bench.wait_ready(true);

    // Without #insecure nobody vouches for this certificate: at start where there are no root certificates at all, else at each try.
    let metrics = Arc::new(BusMetrics::default());
    let checked = Arc::new(settings(Some(format!("rediss://localhost:{tls_port}"))));
    if let Ok((bus, thread)) = spawn_with_timing(checked, metrics.clone(), Vec::new(), patient()) {
        let begin = Instant::now();
        bench.wait("a few tries", |_| begin.elapsed() > Duration::from_millis(300));
        assert_eq!((metrics.connects.get(), metrics.ready.get()), (0, 0));
        assert!(bus.send(BusCommand::Stop).is_ok());
        thread.join().unwrap();
    }
}

/// Not a test: messages per second from Redis to a shard. `cargo test --release --test bus_redis -- --ignored --nocapture rate`
#[test]
#[ignore = "a measurement"]
fn rate() {
    let redis = RedisServer::start();
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    const MESSAGES: u64 = 3_000_000;
    let port = redis.port;
    let publisher = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut answers = stream.try_clone().unwrap();
        let chunk = support::encoded(&["PUBLISH", "notifications:a", "0123456789abcdef0123456789abcdef"]).repeat(500);
        let reader = std::thread::spawn(move || {
            let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
            while bytes < 4 * MESSAGES as usize {
                bytes += answers.read(&mut buffer).unwrap();
            }
        });
        for _ in 0..MESSAGES / 500 {
            stream.write_all(&chunk).unwrap();
        }
        reader.join().unwrap();
    });
    let begin = Instant::now();
    let (mut messages, mut batches, mut head) = (0, 0, 0);
    let mut events = Events::with_capacity(8);
    let shard = &mut bench.shards[0];
    while head < MESSAGES {
        while let Some(message) = shard.inbox.try_recv() {
            match message {
                ShardMessage::Batch { batch, .. } => {
                    shard.inbox.release(batch.bytes());
                    messages += batch.message_count();
                    batches += 1;
                    head = batch.end() - 1;
                }
                ShardMessage::Head { seq, .. } => head = seq,
                other => panic!("{other:?}"),
            }
        }
        if head < MESSAGES && shard.inbox.prepare_sleep() {
            shard.poll.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
            shard.inbox.awake();
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    publisher.join().unwrap();
    println!(
        "{:.0} messages/s, {messages} received, {} lost, {:.1} per batch",
        MESSAGES as f64 / seconds,
        MESSAGES as usize - messages,
        messages as f64 / batches as f64
    );
    bench.shards[0].heads.insert(1, MESSAGES);
}
