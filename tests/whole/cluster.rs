//! The whole server with a Redis Cluster: channels lie on its masters, and follow their slots when a master is lost or slots move.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::Client;
use crate::support::server::{Launch, Server};
use crate::support::topology::{Cluster, eventually};
use campanile::bus::redis::keys;
use serde_json::{Value, json};

/// `pubsub`: lines of the file about it.
fn launch(cluster: &Cluster, pubsub: &str) -> Launch {
    let file = format!(
        "redis = \"{}\"\n{pubsub}\nshards = 1\nlog_bytes_per_channel = \"64M\"\n[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 100000\n\
         history_age = 3600\nsubscribe = \"anyone\"\npublish = \"anyone\"\n",
        cluster.url()
    );
    Launch::new(&[]).file(&file)
}

const CLASSIC: &str = "pubsub = \"classic\"";
const SHARDED: &str = "pubsub = \"sharded\"";
const FROM_REPLICAS: &str = "pubsub = \"sharded\"\npubsub_from = \"replica\"";

/// Epoch, number and content.
type Message = (u64, u64, u64);

/// A client and what it was given: of each channel its epoch and messages.
struct Seen {
    client: Client,
    channels: HashMap<String, (u64, Vec<Message>)>,
    gaps: Vec<Value>,
}

impl Seen {
    fn begin(server: &Server, channels: &[String]) -> Seen {
        let client = Client::connect(server.listen, "/ws?format=json");
        let mut seen = Seen { client, channels: HashMap::new(), gaps: Vec::new() };
        for channel in channels {
            seen.client.command(json!({"type": "subscribe", "channel": channel}));
        }
        while seen.channels.len() < channels.len() {
            seen.take();
        }
        seen
    }

    fn take(&mut self) {
        let event = self.client.event();
        let channel = event["channel"].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str().unwrap() {
            "connected" => {}
            "subscribed" => self.channels.entry(channel).or_default().0 = event["epoch"].as_u64().unwrap(),
            "notification" => {
                let (epoch, of) = self.channels.get_mut(&channel).unwrap();
                let (seq, data) = (event["seq"].as_u64().unwrap(), event["data"].as_u64().unwrap());
                assert!(of.last().is_none_or(|&(before, last, _)| (before, last) < (*epoch, seq)), "{channel}: {epoch}-{seq} after {of:?}");
                of.push((*epoch, seq, data));
            }
            "gap" => self.gaps.push(event),
            other => panic!("{other}: {event}"),
        }
    }

    fn last(&self, channel: &str) -> Option<u64> {
        self.channels[channel].1.last().map(|&(_, _, data)| data)
    }

    fn read_to(&mut self, channel: &str, last: u64) {
        while self.last(channel) != Some(last) {
            self.take();
        }
    }
}

/// Durable channels on each of the masters.
fn names(cluster: &Cluster, of_each: usize) -> Vec<String> {
    let mut found: HashMap<usize, Vec<String>> = HashMap::new();
    let masters = cluster.servers.iter().filter(|server| server.command(&["ROLE"]).contains("master")).count();
    for number in 0.. {
        let name = format!("feed:{number}");
        let of = found.entry(cluster.owner(keys::slot_of(&name))).or_default();
        if of.len() < of_each {
            of.push(name);
        }
        if found.len() == masters && found.values().all(|names| names.len() == of_each) {
            break;
        }
    }
    found.into_values().flatten().collect()
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Publishes one number after the other to all of them until it is told to end. Returns of each which were acknowledged, with their numbers.
fn publish_until(server: &Server, names: &[String], end: &AtomicBool) -> HashMap<String, Vec<Message>> {
    let mut acknowledged: HashMap<String, Vec<Message>> = HashMap::new();
    let mut number = 0;
    while !end.load(Ordering::Relaxed) {
        number += 1;
        for name in names {
            let (status, answer) = server.post("/publish", json!({"channel": name, "data": number}).to_string());
            if status == 200 {
                acknowledged.entry(name.clone()).or_default().push((
                    answer["epoch"].as_u64().unwrap(),
                    answer["seq"].as_u64().unwrap(),
                    number,
                ));
            }
        }
    }
    acknowledged
}

#[test]
fn channels_lie_on_all_masters_plain_and_durable_classic_and_sharded() {
    let cluster = Cluster::start(3, 0, &[]);
    for pubsub in [CLASSIC, SHARDED] {
        let server = launch(&cluster, pubsub).start();
        server.eventually("ready", Server::is_ready);
        let mut names = names(&cluster, 2);
        names.extend(names.clone().iter().map(|name| name.replace("feed:", "plain{%}:")));
        let mut seen = Seen::begin(&server, &names);
        for name in &names {
            for number in 1..=3 {
                let (status, answer) = server.post("/publish", json!({"channel": name, "data": number}).to_string());
                assert_eq!(status, 200, "{answer}");
            }
            seen.read_to(name, 3);
            let (epoch, messages) = &seen.channels[name];
            assert_eq!(*messages, [(*epoch, 1, 1), (*epoch, 2, 2), (*epoch, 3, 3)], "{pubsub} {name}");
            seen.channels.get_mut(name).unwrap().1.clear();
        }
        // Whoever publishes from elsewhere.
        for name in &names {
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_campanile"))
                .args(["publish", name, "4", "--config"])
                .arg(server.directory.join("campanile.toml"))
                .args(["--redis", &cluster.url()])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{text}");
            seen.read_to(name, 4);
        }
        assert_eq!(seen.gaps, [] as [Value; 0]);
        for server in &cluster.servers {
            server.command(&["FLUSHALL"]);
        }
    }
}

/// While messages are published something happens to the Cluster. No durable message is lost that was acknowledged and kept, and all come in order.
fn goes_on_through(pubsub: &str, replicas: usize, change: impl FnOnce(&mut Cluster, &Server)) {
    let mut cluster = Cluster::start(3, replicas, &["--appendonly", "yes"]);
    if replicas > 0 {
        replicas_are_known(&cluster);
    }
    let server = launch(&cluster, pubsub).start();
    server.eventually("ready", Server::is_ready);
    let names = names(&cluster, 3);
    let mut seen = Seen::begin(&server, &names);
    let end = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&server, &names, &end));
        // Also when what follows fails: the thread is waited for.
        let ending = Ends(&end);
        server.eventually("messages flow", |server| server.metric("campanile_bus_published_total", "") > 200.0);
        change(&mut cluster, &server);
        server.eventually("ready again", Server::is_ready);
        let before = server.metric("campanile_bus_published_total", "");
        server.eventually("messages flow again", |server| server.metric("campanile_bus_published_total", "") > before + 200.0);
        drop(ending);
        publisher.join().unwrap()
    });
    for name in &names {
        let acknowledged = &acknowledged[name];
        seen.read_to(name, acknowledged.last().unwrap().2);
        let kept = kept(&cluster, name);
        let (now, messages) = &seen.channels[name];
        for message in &kept {
            // A replica that takes its master's place may not have had its last messages, and give their numbers again: then the epoch is another.
            let is_over = message.0 < *now;
            assert!(is_over || messages.contains(message), "{name}: {message:?} was kept and not delivered");
        }
        for &(epoch, seq, data) in messages.iter().filter(|message| message.0 == *now) {
            let other = kept.iter().find(|kept| (kept.0, kept.1) == (epoch, seq) && kept.2 != data);
            assert_eq!(other, None, "{name}: two messages under one position");
        }
        assert!(messages.len() > 20, "{name}");
    }
    assert!(seen.gaps.is_empty(), "{:?}", seen.gaps);
}

/// What the stream has, by number.
fn kept(cluster: &Cluster, name: &str) -> Vec<Message> {
    let owner = &cluster.servers[cluster.owner(keys::slot_of(name))];
    let mut connection = redis::Client::open(owner.url()).unwrap().get_connection().unwrap();
    let stream = keys::stream("notifications:", name);
    let entries: Vec<(String, Vec<String>)> = redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query(&mut connection).unwrap();
    let id = |id: &str| id.split_once('-').map(|(epoch, seq)| (epoch.parse().unwrap(), seq.parse().unwrap())).unwrap();
    entries.iter().map(|(entry, fields)| (id(entry).0, id(entry).1, fields[1].parse().unwrap())).collect()
}

#[test]
fn slots_move_under_load() {
    for pubsub in [CLASSIC, SHARDED] {
        goes_on_through(pubsub, 0, |cluster, _| {
            cluster.move_slots(0, 1, 4000);
            cluster.move_slots(2, 0, 3000);
        });
    }
}

#[test]
fn a_master_is_lost_and_its_replica_takes_its_place() {
    for pubsub in [CLASSIC, SHARDED, FROM_REPLICAS] {
        goes_on_through(pubsub, 1, |cluster, server| {
            let lost = cluster.owner(keys::slot_of("feed:0"));
            cluster.servers[lost].kill();
            server.eventually("it is noticed", |server| !server.is_ready());
            eventually("a replica is promoted", || {
                let up = cluster.servers.iter().filter(|server| server.is_running());
                up.filter(|server| server.command(&["ROLE"]).contains("master")).count() == 3
            });
        });
    }
}

/// Of each server whether it is a master, and how many connections have subscribed there.
fn subscribed_at(cluster: &Cluster) -> Vec<(bool, usize)> {
    let up = cluster.servers.iter().filter(|server| server.is_running());
    up.map(|server| {
        let clients = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]);
        (server.command(&["ROLE"]).contains("master"), clients.matches(" addr=").count())
    })
    .collect()
}

/// Nodes of a Cluster know of each other's replicas only once those have answered.
fn replicas_are_known(cluster: &Cluster) {
    let is_named = |map: &str| cluster.servers.iter().filter(|server| map.contains(&format!(":{}\r\n", server.port))).count() == 6;
    eventually("each node names all replicas", || cluster.servers.iter().all(|server| is_named(&server.command(&["CLUSTER", "SLOTS"]))));
}

#[test]
fn replicas_bring_what_their_masters_publish() {
    let cluster = Cluster::start(3, 1, &[]);
    replicas_are_known(&cluster);
    for pubsub in ["pubsub_from = \"replica\"", FROM_REPLICAS] {
        let server = launch(&cluster, pubsub).start();
        server.eventually("ready", Server::is_ready);
        server.log_when("comes from its replica");
        for (is_master, subscribed) in subscribed_at(&cluster) {
            assert_eq!(subscribed, usize::from(!is_master), "{:?}", subscribed_at(&cluster));
        }
        let mut names = names(&cluster, 2);
        names.extend(names.clone().iter().map(|name| name.replace("feed:", "plain:")));
        let mut seen = Seen::begin(&server, &names);
        for name in &names {
            for number in 1..=3 {
                let (status, answer) = server.post("/publish", json!({"channel": name, "data": number}).to_string());
                assert_eq!(
                    (status, &answer["seq"]),
                    (200, &json!(number)),
                    "{name}: the number of its message, which comes later: {answer}"
                );
            }
            seen.read_to(name, 3);
            assert_eq!(seen.channels[name].1.iter().map(|message| message.2).collect::<Vec<_>>(), [1, 2, 3], "{pubsub} {name}");
        }
        // What nobody here has subscribed to does not come, and its publisher is answered.
        let (status, answer) = server.post("/publish", json!({"channel": "plain:unheard", "data": 1}).to_string());
        assert_eq!((status, &answer["seq"]), (200, &Value::Null), "{answer}");
        assert_eq!(seen.gaps, [] as [Value; 0]);
        for server in &cluster.servers {
            if server.command(&["ROLE"]).contains("master") {
                server.command(&["FLUSHALL"]);
            }
        }
    }
}

/// Whoever has listened at one that is lost listens at the master, where there is no other.
#[test]
fn a_replica_is_lost_that_brings_messages() {
    goes_on_through(FROM_REPLICAS, 1, |cluster, server| {
        let lost = cluster.servers.iter().position(|server| server.command(&["ROLE"]).contains("slave")).unwrap();
        cluster.servers[lost].kill();
        eventually("its master has a listener", || subscribed_at(cluster).iter().filter(|&&at| at == (true, 1)).count() == 1);
        server.eventually("ready", Server::is_ready);
    });
}

#[test]
fn what_no_node_can_tell_is_said() {
    let cluster = Cluster::start(3, 0, &[]);
    let url = format!("redis+cluster://127.0.0.1:1,127.0.0.1:{}", cluster.servers[0].port);
    let server = Launch::new(&["--redis", &url, "--shards", "1"]).start();
    server.eventually("another node tells", Server::is_ready);
    let alone = crate::support::redis::RedisServer::start();
    let url = format!("redis+cluster://127.0.0.1:{}", alone.port);
    let server = Launch::new(&["--redis", &url, "--shards", "1"]).start();
    server.log_when("cluster support disabled");
    assert!(!server.is_ready());
    assert_eq!(server.metric("campanile_bus_server_ready", "redis+cluster://127.0.0.1"), 0.0);
}
