//! What Redis refuses: each error is told apart, nothing is written, and no number is used up.

use campanile::bus::redis::call_error::CallError;
use campanile::bus::redis::library;
use redis::Connection;

use crate::support::redis::{PATIENCE, RedisServer};
use crate::{Channel, ask, connect, connect_to, eventually, server, server_with};

/// What a publisher needs, as `docs/durable.md` has it.
const RIGHTS: &[&str] = &[
    "+fcall",
    "+time",
    "+hmget",
    "+hset",
    "+xadd",
    "+xrange",
    "+xtrim",
    "+xinfo|stream",
    "+pexpireat",
    "+publish",
    "+spublish",
    "+get",
    "+set",
];

/// Logged in as a user with these rights alone.
fn user(server: &RedisServer, rights: &[&str]) -> Connection {
    let mut admin = connect(server);
    ask(&mut admin, &[&["ACL", "SETUSER", "somebody", "reset", "on", ">pw"], rights].concat()).unwrap();
    connect_to(&server.url().replace("redis://", "redis://somebody:pw@"))
}

const KEYS: &str = "~n:*";
const CHANNELS: &str = "&n:*";

/// Calls of every kind, in one of the ways that a channel can be when it is published to.
fn refused_or_taken(server: &RedisServer, user: &mut Connection, stage: &str) -> Option<String> {
    let mut admin = connect(server);
    ask(&mut admin, &["FLUSHALL"]).unwrap();
    let news = Channel { once: (stage == "once").then_some(("k", 600_000)), ..Channel::new("news") };
    let epoch = (stage != "new").then(|| Channel::new("news").say(&mut admin, "a").epoch);
    match (stage, epoch) {
        ("foreign", Some(epoch)) => drop(ask(&mut admin, &["XADD", &news.stream(), &format!("{epoch}-50"), "d", "x"]).unwrap()),
        ("old", Some(_)) => {
            ask(&mut admin, &["XADD", "n:{old}:stream", "1-1", "d", "x"]).unwrap();
            ask(&mut admin, &["DEL", &news.stream()]).unwrap();
            ask(&mut admin, &["XADD", &news.stream(), &format!("{}-1", epoch.unwrap()), "d", "x", "t", "1"]).unwrap();
        }
        _ => {}
    }
    let before = news.state(&mut admin);
    let count = if stage == "64th" || stage == "old" { 64 } else { 1 };
    let result = news.publish(user, &vec![b"x".as_slice(); count]);
    if result.is_err() {
        assert_eq!(news.state(&mut admin), before, "{stage}: {result:?}");
    } else {
        assert_ne!(news.state(&mut admin), before, "{stage}");
    }
    result.err()
}

const STAGES: &[&str] = &["new", "going", "64th", "once", "foreign", "old"];

#[test]
fn a_right_that_is_missing_is_found_out_before_anything_is_written() {
    let server = server();
    let mut whole = user(&server, &[RIGHTS, &[KEYS, CHANNELS]].concat());
    for stage in STAGES {
        assert_eq!(refused_or_taken(&server, &mut whole, stage), None, "{stage}: these rights are enough");
    }
    for missing in RIGHTS.iter().filter(|right| **right != "+spublish") {
        let rights: Vec<&str> = RIGHTS.iter().copied().filter(|right| right != missing).chain([KEYS, CHANNELS]).collect();
        let mut user = user(&server, &rights);
        let errors: Vec<String> = STAGES.iter().filter_map(|stage| refused_or_taken(&server, &mut user, stage)).collect();
        assert!(!errors.is_empty(), "{missing} is not needed");
        for error in errors {
            assert_eq!(CallError::of(&error), CallError::Forbidden, "{missing}: {error}");
        }
    }
    for (keys, channels) in [(KEYS, "&n:other"), (KEYS, "resetchannels"), ("~n:{news}:stream", CHANNELS), ("~n:other:*", CHANNELS)] {
        let mut user = user(&server, &[RIGHTS, &[keys, channels]].concat());
        for stage in STAGES {
            let error = refused_or_taken(&server, &mut user, stage).expect("neither key nor channel is allowed");
            assert_eq!(CallError::of(&error), CallError::Forbidden, "{keys} {channels}: {error}");
        }
    }
}

/// The channel goes on where it was when what stood in the way is gone.
fn goes_on(redis: &mut Connection, channel: &Channel, before: crate::Published) {
    let after = channel.say(redis, "after");
    assert_eq!((after.epoch, after.first), (before.epoch, before.last + 1));
}

#[test]
fn keys_of_another_type() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel { once: Some(("k", 600_000)), ..Channel::new("news") };
    let other = Channel { once: None, ..news };
    let before = other.say(&mut redis, "a");
    // One that stands in the place of a key, which comes back afterwards.
    for (key, is_refused_to_others) in [(news.stream(), true), (news.meta(), true), ("n:{news}:once:k".to_owned(), false)] {
        let kept: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query(&mut redis).unwrap();
        for foreign in [&["SET", &key, "x"][..], &["LPUSH", &key, "x"], &["XADD", &key, "1-1", "a", "b"], &["HSET", &key, "a", "b"]] {
            ask(&mut redis, &["DEL", &key]).unwrap();
            ask(&mut redis, foreign).unwrap();
            let is_its_own_type = (foreign[0] == "XADD" && key == news.stream()) || (foreign[0] == "HSET" && key == news.meta());
            if is_its_own_type {
                continue;
            }
            let state = news.state(&mut redis);
            let error = news.publish(&mut redis, &[b"b", b"c"]).unwrap_err();
            let expected = if key.contains(":once:") && foreign[0] == "SET" { CallError::ForeignOnce } else { CallError::WrongType };
            assert_eq!(CallError::of(&error), expected, "{foreign:?}: {error}");
            assert_eq!(other.publish(&mut redis, &[b"b"]).is_err(), is_refused_to_others, "{foreign:?}");
            if is_refused_to_others {
                assert_eq!(news.state(&mut redis), state);
            }
        }
        ask(&mut redis, &["DEL", &key]).unwrap();
        if let Some(kept) = kept {
            redis::cmd("RESTORE").arg(&key).arg(0).arg(kept).exec(&mut redis).unwrap();
            goes_on(&mut redis, &other, before);
            ask(&mut redis, &["FLUSHALL"]).unwrap();
            let anew = other.say(&mut redis, "a");
            assert!(anew.epoch > before.epoch);
            return_to(&mut redis, &other, before);
        }
    }
}

/// Puts the channel back to one message of that epoch.
fn return_to(redis: &mut Connection, channel: &Channel, before: crate::Published) {
    ask(redis, &["DEL", &channel.stream()]).unwrap();
    ask(redis, &["XADD", &channel.stream(), &format!("{}-1", before.epoch), "d", "a", "t", "1"]).unwrap();
    ask(redis, &["HSET", &channel.meta(), "e", &before.epoch.to_string(), "n", "1"]).unwrap();
}

#[test]
fn a_stream_of_another_type_leaves_a_new_channel_unbegun() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    ask(&mut redis, &["SET", &news.stream(), "x"]).unwrap();
    let before = news.state(&mut redis);
    assert_eq!(CallError::of(&news.publish(&mut redis, &[b"a"]).unwrap_err()), CallError::WrongType);
    assert_eq!(CallError::of(&news.open(&mut redis).unwrap_err()), CallError::WrongType);
    assert_eq!(CallError::of(&news.renew(&mut redis, 1).unwrap_err()), CallError::WrongType);
    assert_eq!(news.state(&mut redis), before);
}

#[test]
fn a_full_server_refuses_and_goes_on_when_it_has_room() {
    let server = server_with(&["--maxmemory-policy", "noeviction"]);
    let mut redis = connect(&server);
    let news = Channel::new("news");
    let before = news.say(&mut redis, "a");
    ask(&mut redis, &["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let state = news.state(&mut redis);
    for _ in 0..3 {
        let error = news.publish(&mut redis, &[b"b".as_slice(); 3]).unwrap_err();
        assert_eq!(CallError::of(&error), CallError::OutOfMemory, "{error}");
    }
    assert_eq!(news.state(&mut redis), state);
    ask(&mut redis, &["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    goes_on(&mut redis, &news, before);
}

#[test]
fn a_replica_refuses_and_so_does_one_that_has_lost_its_master() {
    let mut master = server_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::with_arguments(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let mut redis = connect(&replica);
    eventually("the functions are on the replica", || {
        ask(&mut redis, &["FCALL", "campanile_version", "0"]) == Ok(redis::Value::Int(library::VERSION))
    });
    let news = Channel::new("news");
    assert_eq!(CallError::of(&news.publish(&mut redis, &[b"a"]).unwrap_err()), CallError::ReadOnly);
    assert_eq!(CallError::of(&news.open(&mut redis).unwrap_err()), CallError::ReadOnly);

    // WAIT is for what the same connection has written.
    let mut publisher = connect(&master);
    let before = news.say(&mut publisher, "a");
    assert_eq!(ask(&mut publisher, &["WAIT", "1", &PATIENCE.as_millis().to_string()]), Ok(redis::Value::Int(1)));
    ask(&mut redis, &["CONFIG", "SET", "replica-serve-stale-data", "no"]).unwrap();
    master.kill();
    // Whoever reads there is told so; whoever writes, what he would have been told before.
    let read = |redis: &mut Connection| ask(redis, &["HGET", &news.meta(), "e"]);
    eventually("the replica has lost its master", || read(&mut redis).is_err_and(|error| CallError::of(&error) == CallError::MasterDown));
    assert_eq!(CallError::of(&news.publish(&mut redis, &[b"b"]).unwrap_err()), CallError::ReadOnly);
    assert_eq!(ask(&mut redis, &["FCALL", "campanile_version", "0"]), Ok(redis::Value::Int(library::VERSION)));
    // Promoted, it goes on.
    ask(&mut redis, &["REPLICAOF", "NO", "ONE"]).unwrap();
    goes_on(&mut redis, &news, before);
}

#[test]
fn too_few_replicas() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    let before = news.say(&mut redis, "a");
    let state = news.state(&mut redis);
    ask(&mut redis, &["CONFIG", "SET", "min-replicas-to-write", "1"]).unwrap();
    assert_eq!(CallError::of(&news.publish(&mut redis, &[b"b"]).unwrap_err()), CallError::NoReplicas);
    assert_eq!(news.state(&mut redis), state);
    ask(&mut redis, &["CONFIG", "SET", "min-replicas-to-write", "0"]).unwrap();
    goes_on(&mut redis, &news, before);
}

#[test]
fn a_server_that_runs_a_script() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    let before = news.say(&mut redis, "a");
    server.begin_script();
    let error = news.publish(&mut redis, &[b"b"]).unwrap_err();
    assert_eq!(CallError::of(&error), CallError::Busy, "{error}");
    server.end_script();
    // It takes its time to end.
    eventually("the script has ended", || ask(&mut redis, &["PING"]).is_ok());
    goes_on(&mut redis, &news, before);
}

#[test]
fn nobody_is_logged_in() {
    let server = RedisServer::with_arguments(&["--requirepass", "secret"]);
    let mut stranger = connect_to(&format!("redis://127.0.0.1:{}", server.port));
    assert_eq!(CallError::of(&Channel::new("news").publish(&mut stranger, &[b"a"]).unwrap_err()), CallError::LoggedOut);
}

#[test]
fn a_server_without_the_functions() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    for error in
        [news.publish(&mut redis, &[b"a"]).unwrap_err(), news.open(&mut redis).unwrap_err(), news.renew(&mut redis, 1).unwrap_err()]
    {
        assert_eq!(CallError::of(&error), CallError::NoFunction, "{error}");
    }
}

#[test]
fn a_server_that_loads() {
    // 50 ms for each key, and others are served in between: as long as the test wants it.
    let slow = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no"];
    let mut server = server_with(&slow);
    let mut redis = connect(&server);
    let news = Channel::new("news");
    let before = news.say(&mut redis, "a");
    ask(&mut redis, &["EVAL", "for i = 1, 2000 do redis.call('SET', i, string.rep('x', 2000)) end", "0"]).unwrap();
    ask(&mut redis, &["SAVE"]).unwrap();
    server.kill();
    server.restart_until("-LOADING");
    let mut redis = connect(&server);
    let error = news.publish(&mut redis, &[b"b"]).unwrap_err();
    assert_eq!(CallError::of(&error), CallError::Loading, "{error}");
    ask(&mut redis, &["CONFIG", "SET", "key-load-delay", "0"]).unwrap();
    eventually("it has loaded", || ask(&mut redis, &["PING"]).is_ok());
    goes_on(&mut redis, &news, before);
}
