//! A Redis that dies, hangs, comes late, or is none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use campanile::bus::question::PublishError;
use campanile::bus::redis::timing::Timing;

use crate::bench::{Bench, patient, settings};
use crate::support::RedisServer;

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
    // On a busy machine it may be found hanging once more, and what is published meanwhile comes to nobody.
    let mut publisher = redis.publisher();
    bench.wait("the message", |bench| {
        publisher.publish("notifications:a", b"after");
        publisher.settle();
        bench.words(1).last().is_some_and(|word| word.starts_with("m:after#"))
    });
    let words = bench.words(1);
    assert!(words[1].starts_with("gap#"), "{words:?}");
    assert!(words[2..].iter().all(|word| word.starts_with("gap#") || word.starts_with("m:after#")), "{words:?}");
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
