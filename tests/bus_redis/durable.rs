//! Channels whose messages a stream keeps: nothing is missed that it holds, whatever becomes of connections and servers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use campanile::bus::question::PublishError;
use campanile::bus::redis::durable::envelope::{Envelope, MARK};
use campanile::bus::redis::keys;
use campanile::config::routes::{FieldPath, Template};
use campanile::config::{ChannelRule, Route, Settings};
use redis::Connection;

use crate::bench::{Bench, hurried, patient, settings};
use crate::support::RedisServer;

const PREFIX: &str = "notifications:";

/// Channels that begin with `d` are durable.
fn durable(redis: &RedisServer, count: usize) -> Settings {
    settings(Some(redis.url())).with(|settings| {
        let rule = ChannelRule {
            durable: true,
            history_count: count,
            history_age: Duration::from_secs(3600),
            ..settings.channels.default.clone()
        };
        settings.channels.tables.push(("d".into(), rule));
    })
}

/// Whoever publishes from elsewhere.
struct Publisher {
    connection: Connection,
}

impl Publisher {
    fn new(redis: &RedisServer) -> Publisher {
        Publisher { connection: redis::Client::open(redis.url()).unwrap().get_connection().unwrap() }
    }

    fn command(channel: &str, count: usize, payloads: &[&str]) -> redis::Cmd {
        Publisher::call("campanile_publish_1", channel, count, payloads)
    }

    fn call(function: &str, channel: &str, count: usize, payloads: &[&str]) -> redis::Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(function).arg(2).arg(keys::stream(PREFIX, channel)).arg(keys::meta(PREFIX, channel));
        command.arg("PUBLISH").arg(format!("{PREFIX}{channel}")).arg(count).arg(3_600_000).arg(0);
        for payload in payloads {
            command.arg(payload);
        }
        command
    }

    /// Epoch and number of the last.
    fn publish(&mut self, channel: &str, payloads: &[&str]) -> (u64, u64) {
        let (epoch, _, last, _): (u64, u64, u64, u64) = Publisher::command(channel, 1000, payloads).query(&mut self.connection).unwrap();
        (epoch, last)
    }

    /// What subscribers are cut off from: they are closed, and it is published in the same breath.
    fn publish_behind_their_backs(&mut self, channel: &str, count: usize, payloads: &[String]) {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").ignore();
        for payload in payloads {
            pipe.add_command(Publisher::command(channel, count, &[payload])).ignore();
        }
        pipe.exec(&mut self.connection).unwrap();
    }

    /// The same, in one call that packs them.
    fn pack_behind_their_backs(&mut self, channel: &str, count: usize, payloads: &[String]) {
        let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").ignore();
        pipe.add_command(Publisher::call("campanile_publish_2", channel, count, &payloads)).ignore();
        pipe.exec(&mut self.connection).unwrap();
    }

    fn ask<T: redis::FromRedisValue>(&mut self, command: &str, arguments: &[&str]) -> T {
        redis::cmd(command).arg(arguments).query(&mut self.connection).unwrap()
    }
}

fn joined(redis: &RedisServer, count: usize, channel: &str) -> (Bench, Publisher) {
    let mut bench = Bench::new(durable(redis, count));
    bench.join(1, channel);
    bench.wait("the join", |bench| !bench.words(1).is_empty());
    bench.wait_ready(true);
    (bench, Publisher::new(redis))
}

#[test]
fn numbers_are_the_streams() {
    let redis = RedisServer::start();
    let (mut bench, mut publisher) = joined(&redis, 100, "d1");
    let (epoch, seq) = publisher.publish("d1", &["a"]);
    assert_eq!(seq, 1);
    publisher.publish("d1", &["b", "", "c"]);
    bench.wait_for(1, &["joined@0", "m:a#1", "m:b#2", "m:#3", "m:c#4"]);
    // By this node as well, heard here or not.
    let published = bench.publish("d1", b"mine").unwrap();
    assert_eq!((published.epoch, published.seq, published.is_repeat), (Some(epoch), Some(5), false));
    let elsewhere = bench.publish("d2", b"x").unwrap();
    assert!(elsewhere.seq == Some(1) && elsewhere.epoch >= Some(epoch));
    bench.wait("it comes back", |bench| bench.words(1).last().is_some_and(|word| word == "m:mine#5"));
    // Who comes later is told where it stands.
    bench.join(2, "d2");
    bench.wait_for(2, &["joined@1"]);
    // A message that was sent twice is published once.
    let first = bench.publish_once("d2", b"once", "k").unwrap();
    let again = bench.publish_once("d2", b"once", "k").unwrap();
    assert_eq!((first.seq, first.is_repeat, again.seq, again.is_repeat), (Some(2), false, Some(2), true));
    assert_eq!(bench.publish_once("plain", b"once", "k"), Err(PublishError::NotDurable));
    bench.wait_for(2, &["joined@1", "m:once#2"]);
    assert_eq!(bench.metrics.protocol_errors.get(), 0);
}

#[test]
fn what_is_published_while_the_subscription_is_away_comes_before_what_follows() {
    let redis = RedisServer::start();
    let (mut bench, mut publisher) = joined(&redis, 100_000, "d1");
    bench.join(2, "d2");
    bench.wait_for(2, &["joined@0"]);
    let mut expected = vec!["joined@0".to_owned()];
    for round in 0..20 {
        let missed: Vec<String> = (0..100).map(|number| format!("{round}-{number}")).collect();
        if round % 2 == 0 {
            publisher.publish_behind_their_backs("d1", 100_000, &missed);
        } else {
            publisher.pack_behind_their_backs("d1", 100_000, &missed);
        }
        publisher.publish("d1", &["live"]);
        for payload in missed.iter().map(String::as_str).chain(["live"]) {
            expected.push(format!("m:{payload}#{}", expected.len()));
        }
        if round % 5 == 4 {
            bench.wait("all of them", |bench| bench.words(1).len() >= expected.len());
        }
    }
    bench.wait("all of them", |bench| bench.words(1).len() >= expected.len());
    assert_eq!(bench.words(1), expected, "in order, each once, no gap");
    assert_eq!(bench.words(2), ["joined@0"], "nothing was said of a channel that missed nothing");
    assert!(bench.metrics.repaired.get() >= 100 && bench.metrics.repairs.get() >= 1);
}

/// What is gone is named, to the number.
#[test]
fn what_the_stream_has_given_up_is_a_gap() {
    let redis = RedisServer::start();
    let (mut bench, mut publisher) = joined(&redis, 100, "d1");
    publisher.publish("d1", &["first"]);
    bench.wait_for(1, &["joined@0", "m:first#1"]);
    let missed: Vec<String> = (2..=2000).map(|number| number.to_string()).collect();
    publisher.publish_behind_their_backs("d1", 100, &missed);
    bench.wait("the newest", |bench| bench.words(1).last().is_some_and(|word| word == "m:2000#2000"));
    let words = bench.words(1);
    let kept = words.len() - 3;
    let first_kept = 2000 - kept + 1;
    assert!((100..=400).contains(&kept), "{kept}");
    assert_eq!(words[2], format!("gap#2..{first_kept}expired"));
    assert_eq!(words[3], format!("m:{first_kept}#{first_kept}"));
    // All of them, and the stream itself.
    let _: i64 = publisher.ask("CLIENT", &["KILL", "TYPE", "pubsub"]);
    publisher.publish("d1", &["gone"]);
    let _: i64 = publisher.ask("XTRIM", &[&keys::stream(PREFIX, "d1"), "MAXLEN", "0"]);
    publisher.publish("d1", &["new"]);
    bench.wait("the new one", |bench| bench.words(1).last().is_some_and(|word| word == "m:new#2002"));
    let words = bench.words(1);
    assert!(words[words.len() - 2] == "gap#2001..2002expired" || words[words.len() - 2] == "m:gone#2001", "{:?}", words.last_chunk::<3>());
}

/// Whatever was in the stream is another's then, and nobody takes one for the other.
#[test]
fn an_epoch_that_ends_is_told_and_the_next_is_whole() {
    let mut redis = RedisServer::start();
    let (mut bench, mut publisher) = joined(&redis, 100, "d1");
    let (epoch, _) = publisher.publish("d1", &["a", "b"]);
    bench.wait_for(1, &["joined@0", "m:a#1", "m:b#2"]);
    // Under a live subscription.
    let stream_and_meta = [&*keys::stream(PREFIX, "d1"), &*keys::meta(PREFIX, "d1")];
    let _: i64 = publisher.ask("DEL", &stream_and_meta);
    let (next, seq) = publisher.publish("d1", &["c"]);
    assert!(next > epoch && seq == 1);
    publisher.publish("d1", &["d"]);
    bench.wait_for(1, &["joined@0", "m:a#1", "m:b#2", "renumbered@0", "m:c#1", "m:d#2"]);
    // A server that comes back empty, without the functions.
    redis.kill();
    bench.wait_ready(false);
    redis.restart();
    bench.wait_ready(true);
    let published = bench.publish_when_possible("d1", b"e");
    assert!(published.epoch > Some(next) && published.seq == Some(1));
    bench.wait("the last", |bench| bench.words(1).last().is_some_and(|word| word == "m:e#1"));
    assert_eq!(bench.words(1)[6..], ["renumbered@0", "m:e#1"]);
}

/// The numbers that were given and are forgotten do not come again for others.
#[test]
fn a_stream_that_has_gone_back_gets_another_epoch() {
    let redis = RedisServer::start();
    let (mut bench, mut publisher) = joined(&redis, 100, "d1");
    publisher.publish("d1", &["a", "b", "c"]);
    bench.wait_for(1, &["joined@0", "m:a#1", "m:b#2", "m:c#3"]);
    // As another master that had not heard of the last two.
    let mut pipe = redis::pipe();
    pipe.cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").ignore();
    let (stream, meta) = (keys::stream(PREFIX, "d1"), keys::meta(PREFIX, "d1"));
    let epoch: String = publisher.ask("HGET", &[&meta, "e"]);
    pipe.cmd("HSET").arg(&meta).arg("n").arg(1).ignore();
    pipe.cmd("DEL").arg(&stream).ignore();
    pipe.cmd("XADD").arg(&stream).arg(format!("{epoch}-1")).arg("d").arg("a").ignore();
    pipe.exec(&mut publisher.connection).unwrap();
    bench.wait("another epoch", |bench| bench.words(1).last().is_some_and(|word| word == "renumbered@0"));
    let (next, seq) = publisher.publish("d1", &["d"]);
    assert!(next > epoch.parse().unwrap() && seq == 1);
    bench.wait_for(1, &["joined@0", "m:a#1", "m:b#2", "m:c#3", "renumbered@0", "m:d#1"]);
}

#[test]
fn what_only_looks_like_a_message_is_dropped_and_counted() {
    let redis = RedisServer::start();
    let (mut bench, mut publisher) = joined(&redis, 100, "d1");
    let (epoch, _) = publisher.publish("d1", &["a"]);
    let forged = |head: String, payload: &str| [&[MARK][..], head.as_bytes(), b"\n", payload.as_bytes()].concat();
    let mut raw = redis.publisher();
    for bad in [forged("1 x".into(), ""), forged(format!("1 {epoch} 2 0 9"), "short"), forged("2 1 1 0 0".into(), ""), vec![MARK]] {
        assert!(!matches!(Envelope::read(&bad), Some(Ok(_))));
        raw.publish("notifications:d1", &bad);
    }
    // Of an epoch before, once more, and from a future that has not come.
    raw.publish("notifications:d1", &forged(format!("1 {} 7 0 3", epoch - 1), "old"));
    raw.publish("notifications:d1", &forged(format!("1 {epoch} 1 0 1"), "a"));
    raw.publish("notifications:d1", &forged(format!("1 {epoch} 9 0 6"), "future"));
    raw.publish("notifications:d1", &forged(format!("1 {} 1 0 6", epoch + 1), "future"));
    raw.settle();
    publisher.publish("d1", &["b"]);
    bench.wait_for(1, &["joined@0", "m:a#1", "m:b#2"]);
    assert_eq!(
        (bench.metrics.envelopes_refused.get(), bench.metrics.stale.get()),
        (7, 1),
        "two of them had numbers that the stream has not, and one the number of another"
    );
    // The same on a channel that is not durable is what its publisher has written.
    bench.join(2, "plain");
    bench.wait_for(2, &["joined@0"]);
    raw.publish("notifications:plain", b"\xC1\x00");
    raw.publish("notifications:plain", &forged(format!("1 {epoch} 9 0 2 1"), "xyz"));
    raw.settle();
    bench.wait("three", |bench| bench.words(2).len() >= 4);
    assert_eq!(bench.words(2)[2..], ["m:xy#2", "m:z#3"]);
}

/// Forwards to a Redis; while `waits` is set, who asks about streams gets no answers, and subscribers get their messages.
fn waiting_proxy(redis_port: u16, waits: Arc<AtomicBool>) -> u16 {
    type Look = Box<dyn FnMut(&[u8]) + Send>;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let forward = |mut from: TcpStream, mut to: TcpStream, mut look: Look| {
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                look(&buffer[..count]);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", redis_port)) else { continue };
            let asks = Arc::new(AtomicBool::new(false));
            let (is_asking, waits) = (asks.clone(), waits.clone());
            let sees = move |bytes: &[u8]| {
                if bytes.windows(5).any(|word| word == b"HMGET") {
                    asks.store(true, Relaxed);
                }
            };
            let holds = move |_: &[u8]| {
                while is_asking.load(Relaxed) && waits.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            forward(client.try_clone().unwrap(), server.try_clone().unwrap(), Box::new(sees));
            forward(server, client, Box::new(holds));
        }
    });
    port
}

/// It begins anew from the stream, and nothing is skipped.
#[test]
fn what_cannot_be_held_while_a_channel_is_repaired_is_read_again() {
    const BYTES: usize = 500_000;
    let redis = RedisServer::start();
    let waits = Arc::new(AtomicBool::new(false));
    let url = format!("redis://127.0.0.1:{}", waiting_proxy(redis.port, waits.clone()));
    let mut bench = Bench::new(durable(&redis, 1000).with(|settings| settings.redis.url = Some(url)));
    bench.join(1, "d1");
    bench.wait("the join", |bench| !bench.words(1).is_empty());
    let mut publisher = Publisher::new(&redis);
    let payload = "x".repeat(BYTES);
    publisher.publish("d1", &[&payload]);
    bench.wait("the first", |bench| bench.words(1).len() == 2);
    waits.store(true, Relaxed);
    publisher.publish_behind_their_backs("d1", 1000, std::slice::from_ref(&payload));
    let mut sent = 2;
    let metrics = bench.metrics.clone();
    bench.wait("more than can be held", |_| {
        if metrics.repairs_overflowed.get() == 0 && sent < 500 {
            publisher.publish("d1", &[&payload]);
            sent += 1;
        }
        metrics.repairs_overflowed.get() > 0
    });
    assert_eq!(bench.words(1).len(), 2, "nothing is handed on before what is missing");
    waits.store(false, Relaxed);
    bench.wait("all", |bench| bench.words(1).len() > sent);
    let all: Vec<String> = (1..=sent).map(|seq| format!("m:{BYTES} bytes#{seq}")).collect();
    assert_eq!(bench.words(1)[1..], all);
}

/// A crowd of channels, a server that hangs, one that is killed and has kept its file.
#[test]
fn whatever_happens_to_the_server_nothing_that_it_has_kept_is_missing() {
    const CHANNELS: u32 = 200;
    let mut redis = RedisServer::with_arguments(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let mut bench = Bench::with(durable(&redis, 10_000), 2, hurried());
    for index in 0..CHANNELS {
        bench.join(index, &format!("d{index}"));
    }
    bench.wait("every join", |bench| bench.shards[0].heads.len() == CHANNELS as usize);
    let mut sent = 0;
    let mut publish_all = |redis: &RedisServer, count: usize| {
        let mut publisher = Publisher::new(redis);
        let mut pipe = redis::pipe();
        for _ in 0..count {
            sent += 1;
            for index in 0..CHANNELS {
                pipe.add_command(Publisher::command(&format!("d{index}"), 10_000, &[&sent.to_string()])).ignore();
            }
        }
        pipe.exec(&mut publisher.connection).unwrap();
        sent
    };
    publish_all(&redis, 5);
    redis.pause();
    bench.wait_ready(false);
    redis.resume();
    publish_all(&redis, 5);
    redis.kill();
    bench.wait_ready(false);
    redis.restart_until("+PONG");
    let sent = publish_all(&redis, 5);
    let whole = |bench: &Bench, index| bench.words(index).last().is_some_and(|word| *word == format!("m:{sent}#{sent}"));
    bench.wait("all of them", |bench| (0..CHANNELS).all(|index| whole(bench, index)));
    for index in 0..CHANNELS {
        let expected: Vec<String> = (1..=sent).map(|number| format!("m:{number}#{number}")).collect();
        assert_eq!(bench.words(index)[1..], expected, "d{index}");
    }
}

/// Shards that take their time: what finds no room waits, and costs nobody a gap.
#[test]
fn whoever_is_slow_to_take_it_loses_nothing() {
    let redis = RedisServer::start();
    let settings = durable(&redis, 100_000).with(|settings| settings.bounds.inbox_bytes_total = 64 * 1024);
    let mut bench = Bench::with(settings, 1, patient());
    bench.join(1, "d1");
    bench.wait_for(1, &["joined@0"]);
    let mut publisher = Publisher::new(&redis);
    let long = "x".repeat(10_000);
    let payloads: Vec<&str> = vec![&long; 200];
    for chunk in payloads.chunks(10) {
        publisher.publish("d1", chunk);
    }
    // Nothing was taken meanwhile.
    bench.wait("all of them", |bench| bench.words(1).len() >= 201);
    assert!(bench.words(1)[1..].iter().enumerate().all(|(at, word)| *word == format!("m:10000 bytes#{}", at + 1)), "{:?}", bench.words(1));
}

/// A key that holds something else: those who publish are told, and those who subscribe get what comes.
#[test]
fn keys_of_another_type_are_an_error_for_whoever_publishes() {
    let redis = RedisServer::start();
    let mut publisher = Publisher::new(&redis);
    let _: String = publisher.ask("SET", &[&keys::stream(PREFIX, "d1"), "x"]);
    let _: String = publisher.ask("SET", &[&keys::meta(PREFIX, "d2"), "x"]);
    let mut bench = Bench::new(durable(&redis, 100));
    bench.join(1, "d1");
    bench.join(2, "d2");
    bench.wait("both", |bench| !bench.words(1).is_empty() && !bench.words(2).is_empty());
    bench.wait_ready(true);
    for channel in ["d1", "d2"] {
        let refused = bench.publish(channel, b"x");
        assert!(matches!(&refused, Err(PublishError::Refused(reason)) if reason.contains("WRONGTYPE")), "{refused:?}");
    }
    assert_eq!(bench.publish("d3", b"x").unwrap().seq, Some(1), "the others go on");
    // Once it is deleted the stream counts, whether something is published or not; and nothing is lost any more.
    let _: i64 = publisher.ask("DEL", &[&keys::meta(PREFIX, "d2")]);
    bench.wait("the stream's numbers", |bench| bench.words(2).last().is_some_and(|word| word == "renumbered@0"));
    let before = bench.words(2).len();
    publisher.publish("d2", &["one"]);
    publisher.publish_behind_their_backs("d2", 100, &["two".into(), "three".into()]);
    bench.wait("all", |bench| bench.words(2).len() >= before + 3);
    assert_eq!(bench.words(2)[before..], ["m:one#1", "m:two#2", "m:three#3"]);
}

/// What came under numbers of the hub's own does not come again, and nothing that comes later is skipped.
#[test]
fn a_right_that_was_missing_is_noticed() {
    let redis = RedisServer::start();
    let mut publisher = Publisher::new(&redis);
    let _: String = publisher.ask("ACL", &["SETUSER", "node", "on", ">pass", "~*", "&*", "+@all", "-fcall"]);
    let url = format!("redis://node:pass@127.0.0.1:{}", redis.port);
    let mut bench = Bench::new(durable(&redis, 100).with(|settings| settings.redis.url = Some(url)));
    bench.join(1, "d1");
    bench.wait("the join", |bench| !bench.words(1).is_empty());
    let _: String = publisher.ask("ACL", &["SETUSER", "node", "+fcall"]);
    let has = |bench: &Bench, sign: &str| bench.words(1).iter().any(|word| word.starts_with(sign));
    let mut sent = 0;
    bench.wait("the stream's numbers", |bench| {
        // One after the other comes, whoever counts.
        if sent == 0 || has(bench, &format!("m:{sent}#")) {
            sent += 1;
            publisher.publish("d1", &[&sent.to_string()]);
        }
        has(bench, "renumbered@")
    });
    publisher.publish("d1", &["last"]);
    bench.wait("the last", |bench| has(bench, "m:last#"));
    let told = bench.words(1).iter().filter_map(|word| word.strip_prefix("m:")?.split('#').next()).collect::<Vec<_>>();
    let all: Vec<String> = (1..=sent).map(|number| number.to_string()).chain(["last".to_owned()]).collect();
    assert_eq!(told, all);
}

/// Whoever may publish to the Redis channel can forge the next number. Then it is counted anew, and nobody has two messages under one position.
#[test]
fn a_forged_next_number_is_noticed_when_the_real_one_comes() {
    let redis = RedisServer::start();
    let (mut bench, mut publisher) = joined(&redis, 100, "d1");
    let (epoch, _) = publisher.publish("d1", &["a"]);
    bench.wait_for(1, &["joined@0", "m:a#1"]);
    let mut raw = redis.publisher();
    raw.publish("notifications:d1", &[&[MARK][..], format!("1 {epoch} 2 0 6\nforged").as_bytes()].concat());
    raw.settle();
    bench.wait_for(1, &["joined@0", "m:a#1", "m:forged#2"]);
    publisher.publish("d1", &["real"]);
    bench.wait("another epoch", |bench| bench.words(1).last().is_some_and(|word| word.starts_with("renumbered@")));
    assert_eq!(bench.metrics.envelopes_refused.get(), 1);
    let before = bench.words(1).len();
    let (renewed, seq) = publisher.publish("d1", &["b"]);
    bench.wait("what comes then", |bench| bench.words(1).len() > before);
    assert!(renewed > epoch);
    assert_eq!(bench.words(1)[before..], [format!("m:b#{seq}")]);
}

/// A number that was spent on something else would be missing for the message that the stream gives it to.
#[test]
fn what_has_no_number_takes_none() {
    let redis = RedisServer::start();
    let settings = durable(&redis, 100).with(|settings| {
        let route =
            Route { from: "orders".into(), field: FieldPath::read("to").unwrap(), to: Template::read("{}").unwrap(), otherwise: None };
        settings.routes.push(route);
    });
    let mut bench = Bench::new(settings);
    bench.join(1, "d1");
    bench.join(2, "plain");
    bench.wait("both", |bench| !bench.words(1).is_empty() && !bench.words(2).is_empty());
    bench.wait_ready(true);
    let mut raw = redis.publisher();
    raw.publish("notifications:d1", b"plain");
    raw.publish("notifications:orders", br#"{"to":["d1","plain"]}"#);
    raw.settle();
    Publisher::new(&redis).publish("d1", &["numbered"]);
    let routed = r#"aside:{"to":["d1","plain"]}"#;
    bench.wait_for(1, &["joined@0", "aside:plain", routed, "m:numbered#1"]);
    assert_eq!((bench.words(2).len(), bench.metrics.unnumbered.get(), bench.metrics.unnumbered_dropped.get()), (2, 2, 0));
}
