//! Joins, messages, publishes, history: what comes when nothing is wrong but the amount.

use std::time::{Duration, Instant};

use campanile::bus::question::{Asker, Publish, PublishError, Published, Question, ReplyTo};
use campanile::bus::{BusCommand, ConnToken};
use campanile::config::RedisSubscribe;

use crate::bench::{Bench, settings};
use crate::support::{PATIENCE, RedisServer};

#[test]
fn the_embedded_bus_needs_nothing() {
    let mut bench = Bench::with_shards(settings(None), 2);
    bench.wait_ready(true);
    assert_eq!(bench.publish("a", b"nobody hears"), Ok(Published::NOWHERE));
    bench.join(1, "a");
    bench.join_on(1, 9, "a");
    bench.wait_for(1, &["joined@0"]);
    let published = bench.publish("a", b"one").unwrap();
    assert_eq!(published.seq, Some(1));
    assert_eq!(bench.publish("a", b"two").unwrap(), Published { seq: Some(2), ..published });
    let conn = ConnToken { index: 3, generation: 4 };
    let asker = Asker::Client(ReplyTo { shard: 1, conn, id: None });
    bench.send(BusCommand::Ask(Question::Publish(Publish::new("a", b"three".into(), asker))));
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
    let mut bench = Bench::new(settings(Some(redis.url())).with(|settings| settings.redis.linger = Duration::ZERO));
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
    let mut bench = Bench::new(settings(Some(redis.url())).with(|settings| {
        settings.redis.subscribe = RedisSubscribe::Pattern;
        settings.redis.prefix = prefix;
    }));
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
        let mut bench = Bench::new(settings(Some(redis.url())).with(|settings| {
            settings.redis.subscribe = mode;
            settings.redis.prefix = String::new();
        }));
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
        assert_eq!(bench.publish("quiet", b"nobody hears"), Ok(Published::NOWHERE));
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
fn large_payloads_come_whole_and_too_large_ones_are_a_gap() {
    let redis = RedisServer::start();
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    let mut publisher = redis.publisher();
    publisher.publish("notifications:a", &vec![b'x'; 1 << 20]);
    publisher.publish("notifications:a", &vec![b'y'; (1 << 20) + 1]);
    publisher.publish("notifications:a", b"end");
    bench.wait_for(1, &["joined@0", "m:1048576 bytes#1", "gap#2..3dropped", "m:end#3"]);
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
    let mut bench = Bench::with_shards(settings(Some(redis.url())).with(|settings| settings.shards.inbox_messages = 4), 2);
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
