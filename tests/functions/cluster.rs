//! Three masters made into a Cluster by `redis-cli`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use campanile::bus::redis::call_error::CallError;
use campanile::bus::redis::{keys, library};
use redis::{Connection, Value};

use crate::support::redis::{RedisServer, encoded, free_port};
use crate::{Channel, PREFIX, ask, connect, eventually, opened};

fn cluster() -> Vec<RedisServer> {
    let servers: Vec<RedisServer> = (0..3)
        .map(|_| {
            // Its usual place, 10,000 higher, may be taken by whoever asks for any port.
            let bus = free_port().to_string();
            RedisServer::with_arguments(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "5000"])
        })
        .collect();
    let places: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let output = Command::new("redis-cli").args(["--cluster", "create"]).args(&places).arg("--cluster-yes").output().expect("redis-cli");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for server in &servers {
        let mut redis = connect(server);
        eventually("the cluster is up", || {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut redis).unwrap();
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        });
    }
    servers
}

fn install(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_campanile")).args(["redis", "install"]).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

/// The channel's server among them, as Redis says.
fn owner<'a>(servers: &'a mut [Connection], channel: &Channel) -> &'a mut Connection {
    let stream = channel.stream();
    let mut is_owner = |redis: &mut Connection| {
        let slot = crate::number(&ask(redis, &["CLUSTER", "KEYSLOT", &stream]).unwrap());
        assert_eq!(slot, u64::from(keys::slot(stream.as_bytes())), "{stream}");
        !ask(redis, &["EXISTS", &stream]).is_err_and(|error| error.starts_with("MOVED "))
    };
    let at = servers.iter_mut().position(&mut is_owner).expect("every slot has a server");
    &mut servers[at]
}

#[test]
fn every_master_is_given_the_functions_and_publishes_what_is_its() {
    let servers = cluster();
    let url = servers[1].url();
    let (code, text) = install(&["--redis", &url, "--check"]);
    assert_eq!((code, text.matches("  none    ").count()), (1, 3), "{text}");
    let (code, text) = install(&["--redis", &url]);
    assert_eq!((code, text.matches("  loaded    ").count()), (0, 3), "{text}");
    for server in &servers {
        assert!(text.contains(&server.url()), "{} is missing in\n{text}", server.url());
    }
    assert!(text.ends_with("\n3 servers ready for durable channels\n"), "{text}");

    // One that lost them, found by another's name; and that all three were named changes nothing.
    let mut connections: Vec<Connection> = servers.iter().map(connect).collect();
    ask(&mut connections[2], &["FUNCTION", "FLUSH"]).unwrap();
    let urls: Vec<String> = servers.iter().flat_map(|server| ["--redis".to_owned(), server.url()]).collect();
    let (code, text) = install(&urls.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((code, text.matches("  is there  ").count(), text.matches("  loaded    ").count()), (0, 2, 1), "{text}");

    let mut owners = std::collections::HashSet::new();
    for name in ["news", "a{b}c", "}", "{}", "user:1", "user:2", "%", "user:3", "room:9"] {
        let channel = Channel::new(name);
        let redis = owner(&mut connections, &channel);
        assert_eq!(channel.say(redis, "x").first, 1, "{name}");
        let once = Channel { once: Some(("{other}", 1000)), ..channel };
        assert_eq!(once.say(redis, "y").first, 2, "{name}");
        owners.insert(ask(redis, &["CLUSTER", "MYID"]).map(|id| format!("{id:?}")).unwrap());
        for other in &mut connections {
            if let Err(error) = channel.publish(other, &[b"z"]) {
                assert_eq!(CallError::of(&error), CallError::Moved, "{error}");
            }
        }
    }
    assert_eq!(owners.len(), 3, "the channels lie on all of them");
}

#[test]
fn sharded_messages_come_to_the_channel_of_the_keys() {
    let servers = cluster();
    assert_eq!(install(&["--redis", &servers[0].url()]).0, 0);
    let mut connections: Vec<Connection> = servers.iter().map(connect).collect();
    for name in ["news", "a{b}c", "}"] {
        let channel = Channel::new(name);
        let sharded = keys::sharded_channel(PREFIX, name);
        let redis = owner(&mut connections, &channel);
        let port: u16 = redis::cmd("CONFIG").arg("GET").arg("port").query::<Vec<String>>(redis).unwrap()[1].parse().unwrap();
        let mut listener = TcpStream::connect(("127.0.0.1", port)).unwrap();
        listener.set_read_timeout(Some(crate::PATIENCE)).unwrap();
        listener.write_all(&encoded(&["SSUBSCRIBE", &sharded])).unwrap();
        let mut read = vec![0; 1000];
        assert!(listener.read(&mut read).unwrap() > 0);
        assert!(read.starts_with(b"*3\r\n$10\r\nssubscribe\r\n"), "{}", String::from_utf8_lossy(&read));
        let publish = |redis: &mut Connection, command: &str, channel_name: &str| {
            let words =
                ["campanile_publish_1", "2", &channel.stream(), &channel.meta(), command, channel_name, "10", "1000", "0", "sharded"];
            ask(redis, &[&["FCALL"], &words[..]].concat())
        };
        publish(redis, "SPUBLISH", &sharded).unwrap();
        let mut message = Vec::new();
        while !message.ends_with(b"sharded\r\n") {
            let count = listener.read(&mut read).unwrap();
            assert!(count > 0);
            message.extend_from_slice(&read[..count]);
        }
        let begin = message.iter().position(|&byte| byte == 0xC1).expect("an envelope");
        let envelope = opened(&message[begin..message.len() - 2]);
        assert_eq!((envelope.first, envelope.payloads), (1, vec![b"sharded".to_vec()]));
        // A name of another slot would be refused by Redis when the entry is written already.
        let before = channel.state(redis);
        for wrong in ["n:{other}", "n:news", name, "n:{a}"] {
            let error = publish(redis, "SPUBLISH", wrong).unwrap_err();
            assert!(error.starts_with("BADCHANNEL "), "{error}");
        }
        assert_eq!(channel.state(redis), before);
    }
    assert!(
        matches!(ask(&mut connections[0], &["FCALL", "campanile_version", "0"]), Ok(Value::Int(version)) if version == library::VERSION)
    );
}

#[test]
fn a_master_that_is_away_is_told_about_with_the_others() {
    let mut servers = cluster();
    let gone = servers.pop().unwrap();
    let name = gone.url();
    drop(gone);
    let (code, text) = install(&["--redis", &servers[0].url()]);
    assert_eq!((code, text.matches("  loaded    ").count()), (1, 2), "{text}");
    let line = text.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
    assert!(line.contains("  failed    it cannot be reached"), "{line}");
}
