//! The whole server with Redis behind Sentinels: a failover is an outage that is repaired, and what it takes back is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use crate::support::topology::{Sentinel, Watched};
use serde_json::{Value, json};

const STREAM: &str = "notifications:{feed:a}:stream";
const META: &str = "notifications:{feed:a}:meta";

/// Logs that hold all that is published while nobody reads.
fn launch(url: &str) -> Launch {
    let file = format!(
        "redis = \"{url}\"\nshards = 1\nlog_bytes_per_channel = \"64M\"\n[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 100000\nhistory_age = 3600\n"
    );
    Launch::new(&[]).file(&file)
}

fn subscribed(server: &Server, command: Value) -> (Client, Value) {
    let mut client = Client::connect(server.listen, "/ws?format=json");
    client.command(command);
    loop {
        let event = client.event();
        if event["type"] == "subscribed" {
            return (client, event);
        }
        assert_eq!(event["type"], "connected", "{event}");
    }
}

fn position(event: &Value) -> (u64, u64) {
    (event["epoch"].as_u64().unwrap_or_else(|| panic!("{event}")), event["seq"].as_u64().unwrap_or_else(|| panic!("{event}")))
}

/// What one client was given of a channel: each message with its position.
struct Seen {
    client: Client,
    epoch: u64,
    messages: Vec<((u64, u64), u64)>,
}

impl Seen {
    fn begin(server: &Server) -> Seen {
        let (client, event) = subscribed(server, json!({"type": "subscribe", "channel": "feed:a"}));
        Seen { client, epoch: position(&event).0, messages: Vec::new() }
    }

    /// Reads until this message has come.
    fn read_to(&mut self, last: u64) {
        while self.messages.last().is_none_or(|&(_, data)| data != last) {
            let Some(event) = self.client.next_event() else {
                panic!("closed with {:?} after {:?}", self.client.close_code(), self.messages.last());
            };
            match event["type"].as_str().unwrap() {
                "notification" => self.messages.push(((self.epoch, event["seq"].as_u64().unwrap()), event["data"].as_u64().unwrap())),
                "subscribed" => self.epoch = position(&event).0,
                other => panic!("{other}: {event}"),
            }
        }
        assert!(self.messages.is_sorted_by(|(before, _), (after, _)| before < after), "numbers go back: {:?}", self.messages);
    }
}

/// The messages that a Redis has of the channel, with their positions.
fn kept(redis: &RedisServer) -> Vec<((u64, u64), u64)> {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let entries: Vec<(String, Vec<String>)> = redis::cmd("XRANGE").arg(STREAM).arg("-").arg("+").query(&mut connection).unwrap();
    let id = |id: &str| id.split_once('-').map(|(epoch, seq)| (epoch.parse().unwrap(), seq.parse().unwrap())).unwrap();
    entries.iter().map(|(entry, fields)| (id(entry), fields[1].parse().unwrap())).collect()
}

/// Publishes one number after the other until it is told to end; returns those that were acknowledged, with their positions.
fn publish_until(server: &Server, end: &AtomicBool) -> Vec<((u64, u64), u64)> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !end.load(Ordering::Relaxed) {
        number += 1;
        let (status, answer) = server.post("/publish", json!({"channel": "feed:a", "data": number}).to_string());
        if status == 200 {
            acknowledged.push((position(&answer), number));
        }
    }
    acknowledged
}

/// While messages are published the master becomes another, by this. What is then found must hold whatever was taken back.
fn fails_over(change: impl FnOnce(&mut Watched)) {
    let mut watched = Watched::start(&["--appendonly", "yes"]);
    let server = launch(&watched.url()).start();
    server.eventually("ready", Server::is_ready);
    let (mut seen, mut beside) = (Seen::begin(&server), Seen::begin(&server));
    let end = Arc::new(AtomicBool::new(false));
    let first = watched.servers[0].port;
    let acknowledged = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&server, &end));
        server.eventually("messages flow", |server| server.metric("campanile_bus_published_total", "") > 200.0);
        change(&mut watched);
        server.eventually("the new master is followed", |server| server.metric("campanile_bus_failovers_total", "") > 0.0);
        server.eventually("ready again", Server::is_ready);
        let before = server.metric("campanile_bus_published_total", "");
        server.eventually("messages flow again", |server| server.metric("campanile_bus_published_total", "") > before + 200.0);
        end.store(true, Ordering::Relaxed);
        publisher.join().unwrap()
    });
    assert_ne!(watched.sentinels[0].master(), first);
    assert!(server.log().contains(&format!("is redis://127.0.0.1:{} now", watched.servers[1].port)), "{}", server.log());
    let last = acknowledged.last().unwrap().1;
    let kept = kept(&watched.servers[1]);
    for seen in [&mut seen, &mut beside] {
        seen.read_to(last);
        // All that the new master has, and beside it perhaps what was taken back, under positions of their own.
        for message in &kept {
            // Of an epoch that was renewed, what was given again is told of by that.
            let is_over = message.0.0 < seen.epoch;
            assert!(is_over || seen.messages.contains(message), "{message:?} was kept and not delivered");
        }
        // What Redis has given again before that was noticed is of an epoch that is over, and nobody is given it under that position.
        for (position, data) in seen.messages.iter().filter(|(position, _)| position.0 == seen.epoch) {
            let other = kept.iter().find(|(kept, other)| kept == position && other != data);
            assert_eq!(other, None, "two messages under one position");
        }
    }
    // Mostly, what is acknowledged is kept.
    let lost = acknowledged.iter().filter(|message| !kept.contains(message)).count();
    assert!(acknowledged.len() - lost > 200, "{lost} of {}", acknowledged.len());
    // Whoever comes back is told whether what it has seen still holds.
    for &((epoch, seq), data) in seen.messages.iter().step_by(50) {
        let since = json!({"epoch": epoch, "seq": seq});
        let (_, event) = subscribed(&server, json!({"type": "subscribe", "channel": "feed:a", "since": since}));
        let is_of_now = position(&event).0 == epoch;
        assert_eq!(event["recovered"], json!(is_of_now), "{event}");
        assert!(!is_of_now || kept.contains(&((epoch, seq), data)), "{event}: {data} was taken back");
    }
}

#[test]
fn a_planned_failover_is_followed() {
    fails_over(|watched| watched.fail_over());
}

#[test]
fn a_killed_master_is_replaced() {
    fails_over(|watched| watched.servers[0].kill());
}

/// Publishes by the function itself, on whichever server.
fn say(redis: &RedisServer, payload: &str) -> (u64, u64) {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut call = redis::cmd("FCALL");
    call.arg("campanile_publish_1").arg(2).arg(STREAM).arg(META).arg("PUBLISH").arg("notifications:feed:a");
    let (epoch, _, last, _): (u64, u64, u64, u64) = call.arg(100_000).arg(0).arg(0).arg(payload).query(&mut connection).unwrap();
    (epoch, last)
}

/// A master and one that was its replica until a moment ago, and one Sentinel that says which of them it is.
fn divided() -> ([RedisServer; 2], Sentinel, Server) {
    // A Sentinel makes what calls itself a master a replica again, ten seconds later; not these.
    let own = ["--rename-command", "SLAVEOF", "NO-SLAVEOF"];
    let master = RedisServer::with_arguments(&own);
    let of = master.port.to_string();
    let replica = RedisServer::with_arguments(&[&["--replicaof", "127.0.0.1", &of, "--repl-diskless-sync-delay", "0"], &own[..]].concat());
    let sentinel = Sentinel::start(master.port, 1, "");
    let server = launch(&format!("redis+sentinel://127.0.0.1:{}/{}", sentinel.port, Sentinel::SERVICE)).start();
    server.eventually("ready", Server::is_ready);
    ([master, replica], sentinel, server)
}

fn divide([master, replica]: &[RedisServer; 2]) {
    let epoch = |redis: &RedisServer| redis.command(&["HMGET", META, "e", "n"]);
    crate::support::topology::eventually("the replica has it all", || epoch(master) == epoch(replica) && epoch(master).contains("$13"));
    assert_eq!(replica.command(&["REPLICAOF", "NO", "ONE"]), "+OK\r\n");
}

#[test]
fn what_was_taken_back_and_given_again_has_another_epoch() {
    // How many more the new master has given since: none, so that its last number is the one that was taken back; or some.
    for more in [0, 1, 7] {
        let (servers, sentinel, server) = divided();
        let mut seen = Seen::begin(&server);
        assert_eq!(say(&servers[0], "1"), (seen.epoch, 1));
        seen.read_to(1);
        divide(&servers);
        // The master goes on, and nobody will know of it.
        let taken_back = say(&servers[0], "2");
        seen.read_to(2);
        assert_eq!(say(&servers[1], "20"), taken_back, "the same position, for another");
        for number in 0..more {
            say(&servers[1], &(21 + number).to_string());
        }
        sentinel.point_at(servers[1].port);
        server.eventually("the new master is followed", |server| server.metric("campanile_bus_failovers_total", "") == 1.0);
        let event = seen.client.event();
        assert_eq!((&event["type"], &event["recovered"]), (&json!("subscribed"), &json!(false)), "{more}: {event}");
        assert!(position(&event) > (taken_back.0, u64::MAX), "{more}: {event}");
        let since = json!({"epoch": taken_back.0, "seq": taken_back.1});
        let (_, event) = subscribed(&server, json!({"type": "subscribe", "channel": "feed:a", "since": since}));
        assert_eq!(event["recovered"], json!(false), "{event}");
    }
}

/// Nobody is told a position by the new master that the one before has given to another message, also in the moments before that is noticed.
#[test]
fn whoever_publishes_while_the_master_changes_is_told_no_position_twice() {
    let (servers, sentinel, server) = divided();
    let mut seen = Seen::begin(&server);
    assert_eq!(say(&servers[0], "1"), (seen.epoch, 1));
    divide(&servers);
    // The new master will go on from 2, and clients have all of these.
    for number in 2..=300 {
        say(&servers[0], &(1_000_000 + number).to_string());
    }
    seen.read_to(1_000_300);
    let end = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..8).map(|_| scope.spawn(|| publish_until(&server, &end))).collect();
        sentinel.point_at(servers[1].port);
        server.eventually("the new master is followed", |server| server.metric("campanile_bus_failovers_total", "") == 1.0);
        server.eventually("ready again", Server::is_ready);
        let before = server.metric("campanile_bus_published_total", "");
        server.eventually("messages flow again", |server| server.metric("campanile_bus_published_total", "") > before + 100.0);
        end.store(true, Ordering::Relaxed);
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect::<Vec<_>>()
    });
    let by_the_one_before = kept(&servers[0]);
    let newer = acknowledged.iter().filter(|((epoch, _), _)| *epoch > seen.epoch).count();
    assert!(newer > 50, "{newer} of {}", acknowledged.len());
    for message in acknowledged.iter().filter(|((epoch, _), _)| *epoch == seen.epoch) {
        assert!(by_the_one_before.contains(message), "{message:?} is told under a position of another message");
    }
}

#[test]
fn what_holds_keeps_its_epoch_and_what_was_missed_comes() {
    for more in [0, 3] {
        let (servers, sentinel, server) = divided();
        let mut seen = Seen::begin(&server);
        let (epoch, _) = say(&servers[0], "1");
        seen.read_to(1);
        divide(&servers);
        for number in 0..more {
            say(&servers[1], &(2 + number).to_string());
        }
        sentinel.point_at(servers[1].port);
        server.eventually("the new master is followed", |server| server.metric("campanile_bus_failovers_total", "") == 1.0);
        server.eventually("ready again", Server::is_ready);
        assert_eq!(say(&servers[1], "9"), (epoch, 2 + more));
        seen.read_to(9);
        let seqs: Vec<_> = seen.messages.iter().map(|(position, _)| *position).collect();
        assert_eq!(seqs, (1..=2 + more).map(|seq| (epoch, seq)).collect::<Vec<_>>());
    }
}

#[test]
fn a_sentinel_that_names_a_replica_or_nothing_is_told_about() {
    let master = RedisServer::start();
    let replica = RedisServer::with_arguments(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let sentinel = Sentinel::start(master.port, 1, "");
    let unknown = launch(&format!("redis+sentinel://127.0.0.1:{}/other", sentinel.port)).start();
    unknown.log_when("it knows of no master called other");
    assert!(!unknown.is_ready());
    assert_eq!(unknown.metric("campanile_bus_server_ready", "redis+sentinel://127.0.0.1"), 0.0);

    let server = launch(&format!("redis+sentinel://127.0.0.1:{}/{}", sentinel.port, Sentinel::SERVICE)).start();
    server.eventually("ready", Server::is_ready);
    // Sentinels do so for a moment when an old master has come back as a replica.
    sentinel.point_at(replica.port);
    server.log_when(&format!("it is a replica of 127.0.0.1:{}", master.port));
    assert!(!server.is_ready());
    sentinel.point_at(master.port);
    server.eventually("ready again", Server::is_ready);
}

fn run(arguments: &[&str]) -> (i32, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_campanile")).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[test]
fn both_have_passwords_and_nobody_sees_them() {
    let master = RedisServer::with_arguments(&["--requirepass", "hush"]);
    let sentinel = Sentinel::start(master.port, 1, "sentinel auth-pass mymaster hush\nrequirepass sesame");
    let url = |password: &str| format!("redis+sentinel://:hush@127.0.0.1:{}/mymaster?sentinel_password={password}", sentinel.port);
    let server = launch(&url("sesame")).start();
    server.eventually("ready", Server::is_ready);
    let (mut client, _) = subscribed(&server, json!({"type": "subscribe", "channel": "plain"}));
    let (code, text) = run(&["redis", "install", "--redis", &url("sesame")]);
    assert!(code == 0 && text.contains(&format!("127.0.0.1:{}", master.port)), "{text}");
    let (code, text) = run(&["publish", "plain", "7", "--redis", &url("sesame")]);
    assert!(code == 0 && text.contains("1 receiver"), "{text}");
    assert_eq!(client.event()["data"], json!(7));
    for told in [server.log(), server.get("/info").1, server.get("/metrics").1] {
        assert!(!told.contains("hush") && !told.contains("sesame"), "{told}");
    }
    for (command, word) in [(&["redis", "install", "--redis"][..], "password"), (&["publish", "plain", "7", "--redis"], "no master now")] {
        let wrong = url("wrong");
        let (code, text) = run(&[command, &[wrong.as_str()]].concat());
        assert!(code == 1 && text.contains(word) && !text.contains("wrong"), "{text}");
    }
    let shut_out = launch(&url("wrong")).start();
    shut_out.log_when("WRONGPASS");
    assert!(!shut_out.is_ready());
}
