//! What a URL says: passwords, users, databases, protocols, TLS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use campanile::bus::BusCommand;
use campanile::bus::question::PublishError;
use campanile::bus::redis::timing::Timing;
use campanile::bus::thread::spawn_with_timing;
use campanile::config::RedisSubscribe;
use campanile::metrics::BusMetrics;

use crate::bench::{Bench, patient, settings};
use crate::support::{self, PATIENCE, RedisServer};

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
    let url = format!("redis://bell:ring@127.0.0.1:{}", redis.port);
    // What is refused is wanted until its linger is over.
    let mut bench = Bench::new(settings(Some(url)).with(|settings| settings.redis.linger = PATIENCE));
    for index in 0..20 {
        bench.join(index, &format!("open:{index}"));
    }
    bench.join(100, "closed");
    bench.wait("the open ones", |bench| (0..20).all(|index| !bench.words(index).is_empty()));
    bench.wait_ready(true);
    assert!(matches!(bench.publish("closed", b"x"), Err(PublishError::Refused(reason)) if reason.contains("NOPERM")));
    assert_eq!(bench.publish("open:3", b"x").unwrap().seq, Some(1));
    bench.wait_for(100, &["refused"]);
    bench.wait("the refusal", |bench| bench.metrics.channels_refused.get() == 1);
    assert_eq!((bench.metrics.ready.get(), bench.metrics.disconnects.get()), (1, 0));
}

#[test]
fn the_rights_that_the_documentation_gives_are_enough() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let command = &text[text.find("redis-cli ACL SETUSER").expect("the example")..];
    let command = command[..command.find("```").unwrap()].replace("\\\n", " ").replace("config\\|get", "config|get").replace('\'', "");
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    for mode in [RedisSubscribe::Exact, RedisSubscribe::Pattern] {
        let redis = RedisServer::start();
        assert_eq!(redis.command(&words), "+OK\r\n");
        let url = format!("redis://campanile:PASSWORD@127.0.0.1:{}/2", redis.port);
        let before = redis.errors();
        let timing = Timing { ping_after: Duration::from_millis(20), ..patient() };
        let mut bench = Bench::with(settings(Some(url)).with(|settings| settings.redis.subscribe = mode), 1, timing);
        for (index, channel) in ["a", "notifications"].into_iter().enumerate() {
            bench.join(index as u32, channel);
            bench.wait_for(index as u32, &["joined@0"]);
            assert_eq!(bench.publish(channel, b"x").unwrap().seq, Some(1));
        }
        bench.leave(0, "a");
        bench.wait("unsubscribed, and a PING", |_| {
            !redis.is_subscribed("notifications:a") && redis.command(&["INFO", "commandstats"]).contains("cmdstat_ping")
        });
        assert_eq!((redis.errors(), bench.metrics.ready.get()), (before, 1));
    }
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
fn a_wrong_url_is_an_error_at_start() {
    for url in ["localhost", "http://localhost", "redis://localhost/x"] {
        let settings = settings(Some(url.into()));
        let Err(error) = spawn_with_timing(&settings, Arc::default(), Vec::new(), Default::default(), patient()) else {
            panic!("{url} was taken")
        };
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
    let checked = settings(Some(format!("rediss://localhost:{tls_port}")));
    if let Ok((bus, thread)) = spawn_with_timing(&checked, metrics.clone(), Vec::new(), Default::default(), patient()) {
        let begin = Instant::now();
        bench.wait("a few tries", |_| begin.elapsed() > Duration::from_millis(300));
        assert_eq!((metrics.connects.get(), metrics.ready.get()), (0, 0));
        assert!(bus.send(BusCommand::Stop).is_ok());
        thread.join().unwrap();
    }
}
