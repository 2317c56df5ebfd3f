//! Whether a Redis that answers also works is tried: a message of this node's own must come back.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use campanile::bus::redis::timing::Timing;
use campanile::config::{ChannelRule, RedisSubscribe, Settings};

use crate::bench::{Bench, hurried, patient, settings};
use crate::support::RedisServer;

fn durable(url: String) -> Settings {
    settings(Some(url)).with(|settings| {
        let rule =
            ChannelRule { durable: true, history_count: 100, history_age: Duration::from_secs(3600), ..settings.channels.default.clone() };
        settings.channels.tables.push(("d".into(), rule));
    })
}

/// Forwards to a Redis; while `swallows` is set, messages to subscribers go nowhere, and everything else does.
fn swallowing_proxy(redis_port: u16, swallows: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let forward = |mut from: TcpStream, mut to: TcpStream, swallows: Option<Arc<AtomicBool>>| {
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let is_message =
                    [&b">3\r\n$7\r\nmessage"[..], b">4\r\n$8\r\npmessage"].iter().any(|head| buffer[..count].starts_with(head));
                let goes = !(is_message && swallows.as_ref().is_some_and(|swallows| swallows.load(Relaxed)));
                if goes && to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", redis_port)) else { continue };
            forward(client.try_clone().unwrap(), server.try_clone().unwrap(), None);
            forward(server, client, Some(swallows.clone()));
        }
    });
    port
}

/// Without durable channels, where messages are published by PUBLISH.
fn plain(url: String) -> Settings {
    settings(Some(url))
}

fn probing(timing: Timing) -> Timing {
    Timing { probes_plain: true, ..timing }
}

#[test]
fn a_subscription_that_died_without_a_word_is_made_anew() {
    let ways: [fn(String) -> Settings; 2] = [durable, plain];
    for (subscribe, way) in
        [RedisSubscribe::Exact, RedisSubscribe::Pattern].into_iter().flat_map(|subscribe| ways.map(|way| (subscribe, way)))
    {
        let redis = RedisServer::start();
        let swallows = Arc::new(AtomicBool::new(false));
        let url = format!("redis://127.0.0.1:{}", swallowing_proxy(redis.port, swallows.clone()));
        let mut bench = Bench::with(way(url).with(|settings| settings.redis.subscribe = subscribe), 1, probing(hurried()));
        bench.wait_ready(true);
        bench.wait("probes", |bench| bench.metrics.probes_good.get() >= 3);
        assert_eq!((bench.metrics.disconnects.get(), bench.metrics.probes_lost.get()), (0, 0));
        // PING is answered all the while.
        swallows.store(true, Relaxed);
        bench.wait("the loss", |bench| bench.metrics.probes_lost.get() > 0 && bench.metrics.ready.get() == 0);
        swallows.store(false, Relaxed);
        bench.wait_ready(true);
    }
}

#[test]
fn a_replica_is_no_redis_to_publish_to() {
    for settings in [durable, plain] {
        let redis = RedisServer::start();
        let mut bench = Bench::with(settings(redis.url()), 1, probing(patient()));
        bench.wait_ready(true);
        redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
        bench.wait_ready(false);
        assert!(bench.metrics.probes_refused.get() > 0);
        redis.command(&["REPLICAOF", "NO", "ONE"]);
        bench.wait_ready(true);
    }
}

/// What Redis answers while it cannot serve, and that all is well again when it can.
#[test]
fn a_redis_that_is_busy_or_wants_replicas_is_not_ready() {
    let redis = RedisServer::start();
    let mut bench = Bench::with(durable(redis.url()), 1, patient());
    bench.wait_ready(true);
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    bench.wait_ready(false);
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    bench.wait_ready(true);
    redis.begin_script();
    bench.wait_ready(false);
    redis.end_script();
    bench.wait_ready(true);
    assert_eq!(bench.metrics.disconnects.get(), 0);
}

/// Subscribed is not ready: while it loads, Redis takes subscriptions and no durable messages.
#[test]
fn a_redis_that_loads_is_not_ready() {
    let mut redis = RedisServer::with_arguments(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--key-load-delay",
        "1000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let mut bench = Bench::with(durable(redis.url()), 1, patient());
    bench.wait_ready(true);
    redis.command(&["CONFIG", "SET", "key-load-delay", "0"]);
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let mut pipeline = redis::pipe();
    for number in 0..20_000 {
        pipeline.cmd("SET").arg(format!("key{number}")).arg("x".repeat(100)).ignore();
    }
    pipeline.exec(&mut connection).unwrap();
    drop(connection);
    redis.kill();
    redis.restart_until("-LOADING");
    bench.wait("it is subscribed again", |bench| bench.metrics.connects.get() >= 2);
    assert_eq!(bench.metrics.ready.get(), 0);
    redis.command(&["CONFIG", "SET", "key-load-delay", "0"]);
    bench.wait_ready(true);
}

/// Who may only subscribe is not held up by it.
#[test]
fn whoever_may_not_publish_counts_as_it_is() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "resetchannels", "&notifications:*", "&notifications", "+@all", "-publish"]);
    let mut bench = Bench::with(plain(format!("redis://bell:ring@127.0.0.1:{}", redis.port)), 1, probing(patient()));
    bench.wait_ready(true);
    bench.wait("it is refused again", |bench| bench.metrics.probes_refused.get() >= 3);
    assert_eq!((bench.metrics.ready.get(), bench.metrics.probes_good.get()), (1, 0));
}

/// Nor who may not ask what the server is.
#[test]
fn whoever_may_not_ask_for_the_role_is_answered_all_the_same() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "resetchannels", "&notifications:*", "&notifications", "+@all", "-role"]);
    let mut bench = Bench::with(plain(format!("redis://bell:ring@127.0.0.1:{}", redis.port)), 1, probing(patient()));
    bench.wait_ready(true);
    bench.wait("probes", |bench| bench.metrics.probes_good.get() >= 3);
}

/// Full, it takes no durable message; what is published otherwise comes as before.
#[test]
fn a_redis_without_memory_is_not_ready() {
    let redis = RedisServer::start();
    let mut bench = Bench::with(durable(redis.url()), 1, patient());
    bench.join(1, "plain");
    bench.wait_for(1, &["joined@0"]);
    bench.wait_ready(true);
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    bench.wait_ready(false);
    redis.publisher().publish("notifications:plain", b"x");
    bench.wait_for(1, &["joined@0", "m:x#1"]);
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    bench.wait_ready(true);
    assert_eq!(bench.metrics.disconnects.get(), 0);
}

/// Who may not try is not held up by it.
#[test]
fn without_the_right_to_probe_a_connection_counts_as_it_is() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "resetchannels", "&notifications:*", "&notifications", "+@all", "-fcall"]);
    let url = format!("redis://bell:ring@127.0.0.1:{}", redis.port);
    let mut bench = Bench::with(durable(url), 1, patient());
    bench.wait_ready(true);
    bench.wait("it is refused again", |bench| bench.metrics.probes_refused.get() >= 3);
    assert_eq!((bench.metrics.ready.get(), bench.metrics.probes_good.get()), (1, 0));
}

/// Without its functions Redis takes no durable message, and whoever may not load them asks no more often for it.
#[test]
fn functions_that_are_gone_are_not_ready_and_not_a_flood() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "allchannels", "allkeys", "+@all", "-function"]);
    let mut bench = Bench::with(durable(format!("redis://bell:ring@127.0.0.1:{}", redis.port)), 1, patient());
    bench.wait("some refusals", |bench| bench.metrics.probes_refused.get() >= 5);
    assert_eq!(bench.metrics.ready.get(), 0);
    let stats = redis.command(&["INFO", "commandstats"]);
    let calls = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:"))?.split("rejected_calls=").nth(1));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    };
    // Once for each connection and five seconds; of calls as many as were counted and one.
    assert!(calls("function|list") + calls("function|load") <= 30, "{stats}");
    assert!(bench.metrics.turns.get() < 100_000, "{}", bench.metrics.turns.get());
    // An operator loads them.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_campanile")).args(["redis", "install", "--redis", &redis.url()]).output();
    assert!(output.unwrap().status.success());
    bench.wait_ready(true);
}

/// A connection that cannot be made keeps the thread from nothing, least of all from sleeping; and what was well once does not stay so.
#[test]
fn a_reading_connection_that_does_not_come_back_is_noticed() {
    let redis = RedisServer::start();
    let timing = Timing { probe_patience: Duration::from_millis(300), ..patient() };
    let mut bench = Bench::with(durable(redis.url()), 1, timing);
    bench.wait_ready(true);
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    // Of all that it has, the subscribed one alone stays.
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "2"]).exec(&mut connection).unwrap();
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).exec(&mut connection).unwrap();
    bench.wait_ready(false);
    let before = bench.metrics.turns.get();
    let begin = std::time::Instant::now();
    bench.wait("a second", |_| begin.elapsed() > Duration::from_secs(1));
    let turns = bench.metrics.turns.get() - before;
    assert!(turns < 5000, "{turns} turns in a second");
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "100"]).exec(&mut connection).unwrap();
    bench.wait_ready(true);
}
