//! Several servers that know nothing of each other: each has its channels, and what befalls one is no business of the others'.

use std::time::Duration;

use campanile::bus::question::PublishError;
use campanile::bus::redis::placement::hashed;
use campanile::config::routes::{FieldPath, Template};
use campanile::config::{ChannelRule, RedisSubscribe, Route, Settings};

use crate::bench::{Bench, hurried, settings};
use crate::support::RedisServer;

fn servers(count: usize) -> Vec<RedisServer> {
    (0..count).map(|_| RedisServer::start()).collect()
}

fn of_all(servers: &[RedisServer]) -> Settings {
    settings(Some(servers[0].url())).with(|settings| settings.redis.beside = servers[1..].iter().map(RedisServer::url).collect())
}

/// The first `count` of these names that this one of `servers` has.
fn names(count: usize, server: usize, servers: usize) -> Vec<String> {
    (0..).map(|number| format!("c{number}")).filter(|name| hashed(name, servers) == server).take(count).collect()
}

#[test]
fn each_channel_is_its_servers_and_no_others() {
    let redis = servers(3);
    let mut bench = Bench::new(of_all(&redis));
    let names: Vec<Vec<String>> = (0..3).map(|server| names(20, server, 3)).collect();
    for (index, name) in names.iter().flatten().enumerate() {
        bench.join(index as u32, name);
    }
    bench.wait("every join", |bench| bench.shards[0].heads.len() == 60);
    bench.wait_ready(true);
    for (server, redis) in redis.iter().enumerate() {
        assert_eq!(redis.subscribed_channels(), 20, "{server}");
        // What is published on another server is nobody's.
        for (other, names) in names.iter().enumerate() {
            redis.publisher().publish(&format!("notifications:{}", names[0]), format!("{server} to {other}").as_bytes());
        }
    }
    for server in 0..3 {
        bench.wait_for(server * 20, &["joined@0", &format!("m:{server} to {server}#1")]);
        let published = bench.publish_when_possible(&names[server as usize][1], b"ours");
        assert_eq!(published.seq, Some(1), "the number is that of the message that came back");
        bench.wait_for(server * 20 + 1, &["joined@0", "m:ours#1"]);
    }
    assert_eq!(bench.metrics.misplaced.get(), 0, "nobody has subscribed to it");
}

#[test]
fn one_that_is_killed_interrupts_its_channels_alone() {
    let mut redis = servers(2);
    let mut bench = Bench::new(of_all(&redis));
    let (dead, alive) = (names(300, 0, 2), names(300, 1, 2));
    for (index, name) in dead.iter().chain(&alive).enumerate() {
        bench.join(index as u32, name);
    }
    bench.wait("every join", |bench| bench.shards[0].heads.len() == 600);
    bench.wait_ready(true);
    redis[0].kill();
    bench.wait_ready(false);
    let told: Vec<bool> = bench.metrics.servers.all().iter().map(|server| server.is_ready).collect();
    assert_eq!(told, [false, true]);
    assert!(bench.metrics.servers.all()[0].name.ends_with(&redis[0].port.to_string()));
    // The other goes on, for those who are there and for those who come.
    redis[1].publisher().publish(&format!("notifications:{}", alive[0]), b"x");
    bench.wait_for(300, &["joined@0", "m:x#1"]);
    assert_eq!(bench.publish(&alive[1], b"y").unwrap().seq, Some(1));
    assert_eq!(bench.publish(&dead[1], b"z"), Err(PublishError::Unavailable));
    bench.join(1000, "late");
    let late = hashed("late", 2);
    redis[0].restart();
    bench.wait_ready(true);
    bench.wait_for(1000, &["joined@0"]);
    assert_eq!(redis[0].subscribed_channels(), 300 + usize::from(late == 0));
    bench.wait("a gap in each that was away", |bench| (0..300).all(|index| bench.words(index) == ["joined@0", "gap#1..2"]));
    assert!((302..600).all(|index| bench.words(index) == ["joined@0"]), "the others were not away");
}

#[test]
fn one_that_hangs_holds_up_no_publisher_of_the_others() {
    let redis = servers(2);
    // Never given up for its silence: what waits for it waits for good.
    let mut bench = Bench::new(of_all(&redis));
    let (hangs, lives) = (names(1, 0, 2).remove(0), names(1, 1, 2).remove(0));
    bench.join(0, &hangs);
    bench.join(1, &lives);
    bench.wait("both joins", |bench| bench.shards[0].heads.len() == 2);
    bench.wait_ready(true);
    bench.publish_when_possible(&hangs, b"x");
    bench.publish_when_possible(&lives, b"x");
    redis[0].pause();
    // Some that nobody answers, and then one to whoever answers.
    let waiting: Vec<_> = (0..100).map(|_| bench.publish_later(&hangs, b"y")).collect();
    assert_eq!(bench.publish(&lives, b"z").unwrap().seq, Some(2));
    redis[0].resume();
    for (number, result) in (2..).zip(waiting) {
        assert_eq!(result().unwrap().seq, Some(number));
    }
}

#[test]
fn a_pattern_is_subscribed_on_each_and_brings_what_is_its() {
    let redis = servers(2);
    let mut bench = Bench::new(of_all(&redis).with(|settings| settings.redis.subscribe = RedisSubscribe::Pattern));
    let names = [names(1, 0, 2).remove(0), names(1, 1, 2).remove(0)];
    for (index, name) in names.iter().enumerate() {
        bench.join(index as u32, name);
    }
    bench.wait("both joins", |bench| bench.shards[0].heads.len() == 2);
    bench.wait_ready(true);
    for (server, redis) in redis.iter().enumerate() {
        for name in &names {
            redis.publisher().publish(&format!("notifications:{name}"), format!("{server}").as_bytes());
        }
    }
    bench.wait_for(0, &["joined@0", "m:0#1"]);
    bench.wait_for(1, &["joined@0", "m:1#1"]);
    bench.wait("two that are misplaced", |bench| bench.metrics.misplaced.get() == 2);
}

#[test]
fn what_is_routed_to_another_servers_channel_is_missed_there() {
    let mut redis = servers(2);
    let source = names(1, 0, 2).remove(0);
    let target = (0..).map(|number| format!("user:{number}")).find(|name| hashed(name, 2) == 1).unwrap();
    let settings = of_all(&redis).with(|settings| {
        let (field, to) = (FieldPath::read("id").unwrap(), Template::read("user:{}").unwrap());
        settings.routes = vec![Route { from: source.clone().into(), field, to, otherwise: None }];
    });
    let mut bench = Bench::new(settings);
    let other = names(2, 1, 2).remove(1);
    bench.join(0, &target);
    bench.join(1, &other);
    bench.wait("both joins", |bench| bench.shards[0].heads.len() == 2);
    bench.wait_ready(true);
    let payload = format!("{{\"id\":\"{}\"}}", &target["user:".len()..]);
    redis[0].publisher().publish(&format!("notifications:{source}"), payload.as_bytes());
    bench.wait_for(0, &["joined@0", &format!("m:{payload}#1")]);
    redis[0].kill();
    bench.wait_ready(false);
    redis[0].restart();
    bench.wait_for(0, &["joined@0", &format!("m:{payload}#1"), "gap#2..3"]);
    bench.wait_ready(true);
    assert_eq!(bench.words(1), ["joined@0"], "nothing is routed to it");
}

#[test]
fn durable_channels_are_kept_and_repaired_by_their_own_server() {
    let redis = servers(2);
    let settings = of_all(&redis).with(|settings| {
        let rule =
            ChannelRule { durable: true, history_count: 1000, history_age: Duration::from_secs(3600), ..settings.channels.default.clone() };
        settings.channels.default = rule;
    });
    let mut bench = Bench::with(settings, 1, hurried());
    let names = [names(1, 0, 2).remove(0), names(1, 1, 2).remove(0)];
    for (index, name) in names.iter().enumerate() {
        bench.join(index as u32, name);
    }
    bench.wait("both joins", |bench| bench.shards[0].heads.len() == 2);
    bench.wait_ready(true);
    for number in 1..=3 {
        for name in &names {
            assert_eq!(bench.publish_when_possible(name, format!("{number}").as_bytes()).seq, Some(number));
        }
        // Whatever is lost with it is in the stream.
        redis[number as usize % 2].command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }
    for index in 0..2 {
        bench.wait_for(index, &["joined@0", "m:1#1", "m:2#2", "m:3#3"]);
        let [here, there] = [index as usize, 1 - index as usize].map(|server| redis[server].command(&["KEYS", "*:stream"]));
        let key = format!("notifications:{{{}}}:stream", names[index as usize]);
        assert!(here.contains(&key) && !there.contains(&key), "{here} {there}");
    }
}

/// A channel whose stream is being asked where it stands is subscribed, though nothing flows of it yet.
#[test]
fn a_durable_channel_that_is_left_while_its_stream_is_asked_is_unsubscribed() {
    let redis = RedisServer::start();
    let settings = settings(Some(redis.url())).with(|settings| {
        settings.channels.default.durable = true;
        settings.channels.default.history_count = 10;
        settings.channels.default.history_age = Duration::from_millis(1);
        // What it needs to ask is not allowed, for now.
        settings.redis.linger = Duration::from_millis(1);
    });
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut bench = Bench::new(settings);
    bench.join(1, "a");
    bench.wait("the subscription", |_| redis.is_subscribed("notifications:a"));
    assert!(bench.words(1).is_empty(), "{:?}", bench.words(1));
    bench.leave(1, "a");
    bench.wait("its end", |_| !redis.is_subscribed("notifications:a"));
}
