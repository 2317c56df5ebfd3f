//! Publishes through the bus: what they may not do to the feed, to each other, and to shards that are slow.

use campanile::bus::question::{Asker, Publish, PublishError, Published};
use campanile::config::RedisSubscribe;

use crate::bench::{Bench, settings};
use crate::support::RedisServer;

const MESSAGES: u64 = 600;

/// Publishes so many on a channel, as many at once as may be.
fn flood(bench: &mut Bench, channel: &str, payload: &[u8]) -> Vec<Result<Published, PublishError>> {
    let mut answers = Vec::new();
    while answers.len() < MESSAGES as usize {
        match bench.try_publish_later(channel, payload) {
            Ok(answer) => answers.push(answer),
            // The shard takes what has come, or the flood would wait for it.
            Err(_) => bench.shards.iter_mut().for_each(|shard| {
                shard.take();
            }),
        }
    }
    let answers = std::thread::spawn(move || answers.into_iter().map(|answer| answer()).collect());
    bench.wait("every answer", |_| answers.is_finished());
    answers.join().unwrap()
}

/// Redis closes the connection of a subscriber for which it has to keep too much; everybody on the node then hears of an outage.
#[test]
fn a_flood_of_our_own_publishes_does_not_come_back_as_more_than_redis_keeps_for_us() {
    let limits: [&[&str]; 2] = [&[], &["--client-output-buffer-limit", "pubsub 2200kb 1mb 60"]];
    for arguments in limits {
        let redis = RedisServer::with_arguments(arguments);
        let mut bench = Bench::new(settings(Some(redis.url())));
        bench.join(1, "flood");
        bench.join(2, "quiet");
        bench.wait_for(1, &["joined@0"]);
        bench.wait_for(2, &["joined@0"]);
        let results = flood(&mut bench, "flood", &vec![b'x'; 1 << 20]);
        for (number, result) in results.into_iter().enumerate() {
            assert_eq!(result.unwrap().seq, Some(number as u64 + 1));
        }
        assert_eq!(bench.publish("quiet", b"still here").unwrap().seq, Some(1));
        bench.wait_for(2, &["joined@0", "m:still here#1"]);
        bench.wait("all of them", |bench| bench.words(1).len() == 1 + MESSAGES as usize);
        assert_eq!(bench.metrics.disconnects.get(), 0);
    }
}

/// The pattern brings what nobody here listens to as well, so that counts too.
#[test]
fn nor_does_a_flood_on_a_channel_that_only_the_pattern_brings() {
    let redis = RedisServer::with_arguments(&["--client-output-buffer-limit", "pubsub 2200kb 1mb 60"]);
    let settings = settings(Some(redis.url())).with(|settings| settings.redis.subscribe = RedisSubscribe::Pattern);
    let mut bench = Bench::new(settings);
    bench.join(2, "quiet");
    bench.wait_for(2, &["joined@0"]);
    for result in flood(&mut bench, "nobody listens", &vec![b'x'; 1 << 20]) {
        assert_eq!(result, Ok(Published::NOWHERE));
    }
    assert_eq!(bench.publish("quiet", b"still here").unwrap().seq, Some(1));
    bench.wait_for(2, &["joined@0", "m:still here#1"]);
    assert_eq!(bench.metrics.unwanted.get(), MESSAGES);
    assert_eq!(bench.metrics.disconnects.get(), 0);
}

#[test]
fn a_payload_that_redis_would_cut_subscribers_off_for_is_refused() {
    let redis = RedisServer::with_arguments(&["--client-output-buffer-limit", "pubsub 200kb 0 0"]);
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    let bytes_max = 100 << 10;
    assert_eq!(bench.publish("a", &vec![b'x'; bytes_max + 1]), Err(PublishError::TooBigForRedis { bytes_max }));
    assert_eq!(bench.publish("a", &vec![b'x'; bytes_max]).unwrap().seq, Some(1));
    assert_eq!(bench.metrics.disconnects.get(), 0);
}

#[test]
fn a_redis_that_keeps_its_configuration_to_itself_is_published_to_all_the_same() {
    let redis = RedisServer::with_arguments(&["--rename-command", "CONFIG", ""]);
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    for number in 1..=100 {
        assert_eq!(bench.publish("a", b"x").unwrap().seq, Some(number));
    }
    assert_eq!((bench.metrics.disconnects.get(), bench.metrics.protocol_errors.get()), (0, 0));
}

#[test]
fn too_many_publishes_are_refused_and_none_is_left_waiting() {
    let redis = RedisServer::start();
    let mut bench = Bench::hurried(settings(Some(redis.url())));
    bench.wait_ready(true);
    assert_eq!(bench.publish_when_possible("a", b"opens the connection").seq, None);
    redis.pause();
    let answers: Vec<_> = std::iter::from_fn(|| bench.try_publish_later("a", b"x").ok()).take(5000).collect();
    assert!((1000..=1024).contains(&answers.len()), "{} were taken", answers.len());
    for answer in answers {
        // Those under way when the deadline passes may or may not be published.
        assert_eq!(answer(), Err(PublishError::Unavailable));
    }
    redis.resume();
    bench.publish_when_possible("a", b"later");
}

/// A shard that takes nothing for a while must not lose its other channels' messages for it.
#[test]
fn publishes_wait_for_a_shard_that_is_slow_instead_of_costing_it_gaps() {
    let redis = RedisServer::start();
    for url in [None, Some(redis.url())] {
        let mut bench = Bench::new(settings(url).with(|settings| settings.shards.inbox_messages = 64));
        let channels: Vec<String> = (0..16).map(|number| format!("c{number}")).collect();
        for (index, channel) in channels.iter().enumerate() {
            bench.join(index as u32, channel);
        }
        bench.wait("every join", |bench| bench.shards[0].heads.len() == channels.len());
        // Each in a batch of its own, many times what the inbox holds. Nobody takes anything out meanwhile.
        let answers: Vec<_> = (0..50)
            .flat_map(|number| channels.iter().map(move |channel| (channel, number)))
            .map(|(channel, number)| bench.publish_later(channel, format!("{number}").as_bytes()))
            .collect();
        // The bus thread goes as far as it can; each of its turns could take some of them further.
        let turns = bench.metrics.turns.get();
        while bench.metrics.turns.get() < turns + 200 {
            std::thread::yield_now();
        }
        bench.wait("every message", |bench| bench.shards[0].heads.values().all(|&head| head == 50));
        assert!(answers.into_iter().all(|answer| answer().is_ok()));
        assert_eq!(bench.metrics.inbox_full.get(), 0, "nothing was lost");
        for index in 0..channels.len() {
            let expected: Vec<String> =
                std::iter::once("joined@0".to_owned()).chain((0..50).map(|number| format!("m:{number}#{}", number + 1))).collect();
            assert_eq!(bench.words(index as u32), expected);
        }
    }
}

/// Whoever asked has been told that it may still be published, and may have sent it again.
#[test]
fn a_publish_that_nobody_waits_for_any_more_is_not_published_late() {
    let redis = RedisServer::start();
    let mut bench = Bench::new(settings(Some(redis.url())).with(|settings| settings.shards.inbox_messages = 64));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    // The shard is full: further publishes wait in the bus thread.
    let answers: Vec<_> = (0..200).map(|_| bench.publish_later("a", &[b'x'; 4000])).collect();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    bench.bus.publish(Publish::new("a", b"given up".into(), Asker::Control(sender))).unwrap();
    drop(receiver);
    let last = bench.publish_later("a", b"last");
    let done = std::thread::spawn(move || answers.into_iter().all(|answer| answer().is_ok()) && last().is_ok());
    bench.wait("the last", |bench| bench.words(1).last().is_some_and(|word| word.starts_with("m:last")));
    assert!(done.join().unwrap());
    assert!(!bench.words(1).iter().any(|word| word.starts_with("m:given up")));
}

/// A Redis that takes nothing keeps nobody waiting for ever: what was not sent is refused, and what was sent is answered when it is.
#[test]
fn who_waits_for_a_slow_redis_is_told_in_time() {
    let redis = RedisServer::start();
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.wait_ready(true);
    assert!(bench.publish("c", b"x").is_ok());
    redis.pause();
    // More than may be under way at once.
    let mut waiting: Vec<_> = (0..30).map(|_| bench.publish_later("c", &[b'x'; 100_000])).collect();
    let last: Vec<_> = waiting.split_off(15).into_iter().map(|result| result()).collect();
    assert!(last.iter().all(|result| matches!(result, Err(PublishError::Late(_)))), "{last:?}");
    redis.resume();
    let first: Vec<_> = waiting.into_iter().map(|result| result()).collect();
    assert!(first[0].is_ok(), "{first:?}");
    assert!(first.iter().all(|result| matches!(result, Ok(_) | Err(PublishError::Late(_)))), "{first:?}");
    assert!(bench.publish("c", b"x").is_ok());
}
