//! A Redis that answers with errors: to PING, to SUBSCRIBE, to the log-in. An error is an answer; what it is an answer to decides what it means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use campanile::bus::redis::timing::Timing;
use campanile::config::RedisSubscribe;

use crate::bench::{Bench, patient, settings};
use crate::fake::{Act, message, say, serve};
use crate::support::{PATIENCE, RedisServer};

/// Pings as soon as it is silent for a moment.
fn pinging() -> Timing {
    Timing { ping_after: Duration::from_millis(20), ..patient() }
}

fn bench(url: String) -> Bench {
    Bench::with(settings(Some(url)), 1, pinging())
}

#[test]
fn a_refused_ping_is_an_answer_and_no_outage() {
    let start = |arguments: &[&str], pong: &str| {
        let mut redis = RedisServer::prepared(arguments);
        redis.restart_until(pong);
        redis
    };
    let limited = RedisServer::start();
    limited.command(&["ACL", "SETUSER", "bell", "on", ">ring", "allchannels", "+@pubsub", "+hello"]);
    let cases = [
        (limited, "bell:ring@"),
        (start(&["--rename-command", "PING", ""], "-ERR unknown command"), ""),
        (start(&["--replicaof", "127.0.0.1 1", "--replica-serve-stale-data", "no"], "-MASTERDOWN"), ""),
    ];
    for (redis, login) in &cases {
        for protocol in ["resp3", "resp2"] {
            let mut bench = bench(format!("redis://{login}127.0.0.1:{}/?protocol={protocol}", redis.port));
            let before = redis.errors();
            // Pings and subscriptions under way together: each answer must find its own command.
            for index in 0..200 {
                bench.join(index, &format!("c{index}"));
                if index % 50 == 0 {
                    bench.wait_for(index, &["joined@0"]);
                }
            }
            bench.wait("every join", |bench| bench.shards[0].heads.len() == 200);
            bench.wait("refused pings", |_| redis.errors() >= before + 10);
            bench.wait_ready(true);
            // The answer to a PING also fences a publish whose message does not come back.
            assert_eq!(bench.publish("c7", b"x").unwrap().seq, Some(1));
            bench.wait_for(7, &["joined@0", "m:x#1"]);
            let metrics = &bench.metrics;
            assert_eq!((metrics.disconnects.get(), metrics.protocol_errors.get()), (0, 0), "{login} {protocol}");
        }
    }
}

#[test]
fn a_redis_that_loads_its_data_is_no_outage() {
    // 50 ms for each key, and others are served in between: as long as the test wants it.
    let slow = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no"];
    let mut redis = RedisServer::with_arguments(&slow);
    assert_eq!(redis.command(&["EVAL", "for i = 1, 2000 do redis.call('SET', i, string.rep('x', 2000)) end", "0"]), "$-1\r\n");
    assert_eq!(redis.command(&["SAVE"]), "+OK\r\n");
    let mut bench = bench(redis.url());
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    redis.kill();
    bench.wait_ready(false);
    redis.restart_until("-LOADING");
    // It takes subscriptions and publishes meanwhile.
    bench.wait_ready(true);
    let before = redis.errors();
    bench.wait("refused pings", |_| redis.errors() >= before + 10);
    redis.publisher().publish("notifications:a", b"while it loads");
    bench.wait_for(1, &["joined@0", "gap#1..2", "m:while it loads#2"]);
    assert_eq!((bench.metrics.ready.get(), bench.metrics.disconnects.get()), (1, 1));
    redis.command(&["CONFIG", "SET", "key-load-delay", "0"]);
}

#[test]
fn a_redis_that_runs_a_script_takes_no_new_subscriptions_and_costs_the_others_nothing() {
    let redis = RedisServer::start();
    let mut bench = bench(redis.url());
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    bench.wait_ready(true);
    redis.begin_script();
    bench.join(2, "b");
    bench.wait_ready(false);
    assert!(bench.words(2).is_empty());
    redis.end_script();
    bench.wait_for(2, &["joined@0"]);
    bench.wait_ready(true);
    redis.publisher().publish("notifications:a", b"x");
    bench.wait_for(1, &["joined@0", "m:x#1"]);
    assert_eq!((bench.metrics.disconnects.get(), bench.metrics.channels_refused.get()), (0, 0));
}

#[test]
fn subscriptions_refused_for_now_are_not_ready_and_are_tried_again() {
    for error in ["BUSY Redis is busy", "LOADING Redis is loading", "MASTERDOWN Link is down", "READONLY You can't"] {
        let (is_over, refusals) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (over, counter) = (is_over.clone(), refusals.clone());
        let port = serve(move |session| match session.command().starts_with("SUBSCRIBE") && !over.load(Relaxed) {
            true => {
                counter.fetch_add(1, Relaxed);
                say(&format!("-{error}"))
            }
            false => Act::Obey,
        });
        let mut bench = Bench::new(settings(Some(format!("redis://127.0.0.1:{port}"))));
        bench.join(1, "a");
        // Asked for once more: the first refusal has been taken note of. (Before the join is obeyed nothing is wanted, and all is ready.)
        bench.wait("another try", |_| refusals.load(Relaxed) >= 2);
        assert_eq!((bench.metrics.ready.get(), bench.words(1).len()), (0, 0), "{error}");
        is_over.store(true, Relaxed);
        bench.wait_for(1, &["joined@0"]);
        bench.wait_ready(true);
        assert_eq!((bench.metrics.disconnects.get(), bench.metrics.channels_refused.get()), (0, 0), "{error}");
    }
}

#[test]
fn rights_that_are_taken_away_are_told_and_rights_that_come_back_are_found() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "allchannels", "+@all"]);
    let mut bench = bench(format!("redis://bell:ring@127.0.0.1:{}", redis.port));
    for index in 0..1000 {
        bench.join(index, &format!("c{index}"));
    }
    bench.wait("every join", |bench| bench.shards[0].heads.len() == 1000);
    bench.wait_ready(true);
    // Redis closes the connections of those who have what they may not have any more.
    redis.command(&["ACL", "SETUSER", "bell", "resetchannels"]);
    bench.wait("every refusal", |bench| bench.metrics.channels_refused.get() == 1000);
    assert_eq!(bench.metrics.ready.get(), 0);
    bench.wait("every gap", |bench| (0..1000).all(|index| bench.words(index) == ["joined@0", "gap#1..2refused"]));
    bench.join(2000, "c7");
    bench.wait_for(2000, &["refused"]);

    redis.command(&["ACL", "SETUSER", "bell", "allchannels"]);
    bench.wait_ready(true);
    bench.wait("every gap", |bench| (0..1000).all(|index| bench.words(index) == ["joined@0", "gap#1..2refused", "gap#2..3"]));
    assert_eq!((bench.metrics.channels_refused.get(), bench.metrics.disconnects.get()), (0, 1));
    redis.publisher().publish("notifications:c7", b"x");
    bench.wait("the message", |bench| bench.words(7).last().unwrap() == "m:x#3");
}

#[test]
fn nothing_is_ready_for_a_user_who_may_not_subscribe() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "allchannels", "+@all", "-subscribe"]);
    let url = format!("redis://bell:ring@127.0.0.1:{}", redis.port);
    // What is refused is wanted until its linger is over.
    let mut bench = Bench::with(settings(Some(url)).with(|settings| settings.redis.linger = PATIENCE), 1, pinging());
    for index in 0..3 {
        bench.join(index, &format!("c{index}"));
    }
    for index in 0..3 {
        bench.wait_for(index, &["refused"]);
    }
    bench.wait("the refusals", |bench| bench.metrics.channels_refused.get() == 3);
    assert_eq!((bench.metrics.ready.get(), bench.metrics.disconnects.get()), (0, 0));
    redis.command(&["ACL", "SETUSER", "bell", "+subscribe"]);
    bench.wait_ready(true);
    bench.join(9, "c9");
    bench.wait_for(9, &["joined@0"]);
}

#[test]
fn pattern_mode_with_an_acl_for_the_prefix_alone_is_ready() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "resetchannels", "&notifications:*", "+@all"]);
    let url = format!("redis://bell:ring@127.0.0.1:{}", redis.port);
    let mut bench = Bench::with(settings(Some(url)).with(|settings| settings.redis.subscribe = RedisSubscribe::Pattern), 1, pinging());
    bench.wait_ready(true);
    bench.join(1, "early");
    bench.wait_for(1, &["joined@0"]);
    bench.join(2, "notifications");
    bench.wait_for(2, &["refused"]);
    redis.publisher().publish("notifications:early", b"x");
    bench.wait_for(1, &["joined@0", "m:x#1"]);
    bench.wait("the refusal", |bench| bench.metrics.channels_refused.get() == 1);
    assert_eq!((bench.metrics.ready.get(), bench.metrics.disconnects.get()), (1, 0));

    // Without the pattern nothing is ready, whatever else is allowed.
    redis.command(&["ACL", "SETUSER", "bell", "resetchannels", "&notifications"]);
    bench.wait_for(1, &["joined@0", "m:x#1", "gap#2..3refused"]);
    bench.wait_ready(false);
    bench.join(3, "other");
    bench.wait_for(3, &["refused"]);
    redis.command(&["ACL", "SETUSER", "bell", "allchannels"]);
    bench.wait_for(1, &["joined@0", "m:x#1", "gap#2..3refused", "gap#3..4"]);
    bench.wait_ready(true);
}

#[test]
fn a_lost_subscribe_is_noticed_by_what_is_answered_behind_it_and_sent_again() {
    let port = serve(|session| match session.command().as_str() {
        // Neither the first time nor the second.
        "SUBSCRIBE notifications:b" if session.count("SUBSCRIBE notifications:b") <= 2 => Act::Say(String::new()),
        // Bytes keep coming meanwhile.
        "PING" => Act::Say(message("notifications:a", "x") + "+PONG\r\n"),
        _ => Act::Obey,
    });
    let mut bench = bench(format!("redis://127.0.0.1:{port}"));
    bench.join(1, "a");
    bench.wait("the join", |bench| !bench.words(1).is_empty());
    bench.join(2, "b");
    bench.wait_ready(false);
    bench.wait_for(2, &["joined@0"]);
    bench.wait_ready(true);
    assert_eq!(bench.metrics.disconnects.get(), 0);
    assert!(bench.words(1)[1..].iter().all(|word| word.starts_with("m:x#")), "the others lost nothing");
}

#[test]
fn a_command_that_is_never_answered_ends_the_connection_though_messages_keep_coming() {
    let port = serve(|session| match session.command().as_str() {
        "PING" => {
            let mut stream = session.stream.try_clone().unwrap();
            std::thread::spawn(move || {
                use std::io::Write;
                while stream.write_all(message("notifications:a", "x").as_bytes()).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            Act::Say(String::new())
        }
        _ => Act::Obey,
    });
    let timing = Timing { answer: Duration::from_millis(20), ..pinging() };
    let mut bench = Bench::with(settings(Some(format!("redis://127.0.0.1:{port}"))), 1, timing);
    bench.join(1, "a");
    bench.wait("the join", |bench| !bench.words(1).is_empty());
    bench.wait("the end of the connection", |bench| bench.metrics.disconnects.get() >= 1);
    bench.wait("the gap", |bench| bench.words(1).iter().any(|word| word.starts_with("gap#")));
}

#[test]
fn a_subscription_that_the_server_ends_is_made_again_with_a_gap() {
    let port = serve(|session| match session.command().as_str() {
        "PING" if session.count("SUBSCRIBE") == 1 => {
            Act::Say(">3\r\n$11\r\nunsubscribe\r\n$15\r\nnotifications:a\r\n:0\r\n+PONG\r\n".into())
        }
        _ => Act::Obey,
    });
    let mut bench = bench(format!("redis://127.0.0.1:{port}"));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0", "gap#1..2"]);
    bench.wait_ready(true);
    assert_eq!(bench.metrics.disconnects.get(), 0);
}

#[test]
fn a_pattern_that_the_server_ends_is_asked_for_again() {
    let is_due = Arc::new(AtomicBool::new(false));
    let due = is_due.clone();
    let port = serve(move |session| match session.command().as_str() {
        "PING" if due.swap(false, Relaxed) => Act::Say(">3\r\n$12\r\npunsubscribe\r\n$15\r\nnotifications:*\r\n:0\r\n+PONG\r\n".into()),
        _ => Act::Obey,
    });
    let url = format!("redis://127.0.0.1:{port}");
    let mut bench = Bench::with(settings(Some(url)).with(|settings| settings.redis.subscribe = RedisSubscribe::Pattern), 1, pinging());
    for (index, channel) in [(1, "a"), (2, "notifications")] {
        bench.join(index, channel);
        bench.wait_for(index, &["joined@0"]);
    }
    is_due.store(true, Relaxed);
    bench.wait_for(1, &["joined@0", "gap#1..2"]);
    bench.wait_ready(true);
    assert_eq!((bench.words(2), bench.metrics.disconnects.get()), (&["joined@0".to_owned()][..], 0));
}

#[test]
fn hello_may_be_refused_in_any_words_or_none() {
    let hellos: [fn() -> Act; 6] = [
        || say("-unsupported command"),
        || say("-ERR unknown command `HELLO`, with args beginning with: `3`"),
        || say("-NOPROTO unsupported protocol version"),
        || say("-NOAUTH Authentication required."),
        || say("-Error: command not supported by this proxy"),
        || Act::HangUp,
    ];
    // Whoever names the default user must get in where AUTH takes the password alone, too.
    for (number, hello) in hellos.into_iter().enumerate() {
        for login in [":pw@", "default:pw@"] {
            let port = serve(move |session| match session.command().as_str() {
                command if command.starts_with("HELLO") => hello(),
                "AUTH pw" => say("+OK"),
                command if command.starts_with("AUTH") => say("-ERR wrong number of arguments for 'auth' command"),
                _ if session.count("AUTH pw") == 0 => say("-NOAUTH Authentication required."),
                command if command.starts_with("SUBSCRIBE ") => {
                    say(&format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{}\r\n:1", command.len() - 10, &command[10..]))
                }
                "PING" => say("*2\r\n$4\r\npong\r\n$0\r\n"),
                _ => Act::Obey,
            });
            let mut bench = bench(format!("redis://{login}127.0.0.1:{port}/3"));
            bench.join(1, "a");
            bench.wait_for(1, &["joined@0"]);
            bench.wait_ready(true);
            assert_eq!(bench.publish("other", b"x").unwrap().seq, None, "HELLO {number}, {login}");
            assert_eq!((bench.metrics.connects.get(), bench.metrics.disconnects.get()), (2, 0), "HELLO {number}, {login}");
        }
    }
}

#[test]
fn a_session_that_is_logged_out_logs_in_again() {
    let port = serve(|session| match session.command().as_str() {
        "SUBSCRIBE notifications:b" if session.number == 0 => say("-NOAUTH Authentication required."),
        _ => Act::Obey,
    });
    let mut bench = bench(format!("redis://:pw@127.0.0.1:{port}"));
    bench.join(1, "a");
    bench.wait_for(1, &["joined@0"]);
    bench.join(2, "b");
    bench.wait_for(2, &["joined@0"]);
    assert_eq!((bench.metrics.disconnects.get(), bench.metrics.channels_refused.get()), (1, 0));
}
