//! What is asked of a server that has just been started, while its first connection to Redis is being made: it waits for that, and is not told that Redis is away.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use crate::support::topology::{Cluster, Sentinel};
use serde_json::{Value, json};

const RULES: &str =
    "[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 100\nhistory_age = 3600\npresence = true\npublish = \"anyone\"\n";

/// So long nobody answers at the gate. Whatever is asked later finds it open: then the test shows less, and does not fail.
const CLOSED: Duration = Duration::from_millis(400);

/// A port whose connections are taken in by the kernel and answered by nobody, until it is opened.
struct Gate {
    listener: TcpListener,
    behind: u16,
}

impl Gate {
    fn before(behind: u16) -> Gate {
        Gate { listener: TcpListener::bind("127.0.0.1:0").unwrap(), behind }
    }

    fn place(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    fn open(self) {
        let pass = |mut from: TcpStream, mut to: TcpStream| {
            std::thread::spawn(move || {
                let _ = copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            })
        };
        std::thread::spawn(move || {
            for client in self.listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", self.behind)).unwrap();
                pass(client.try_clone().unwrap(), server.try_clone().unwrap());
                pass(server, client);
            }
        });
    }
}

/// Everything that there is to ask, through this URL, of which the gate is a part.
fn everything_is_answered(url: &str, gate: Gate) {
    let server = Launch::new(&["--shards", "1", "--redis", url]).file(RULES).start();
    let mut client = Client::connect(server.listen, "/ws?format=json");
    let questions: [(&str, Option<Value>); 6] = [
        ("/history?channel=feed:a", None),
        ("/presence?channel=feed:a", None),
        ("/channels?scope=cluster", None),
        ("/mark_read", Some(json!({"user": "ann", "channel": "feed:a", "seq": 1}))),
        ("/publish", Some(json!({"channel": "feed:a", "data": 1}))),
        ("/publish", Some(json!({"channel": "plain", "data": 1}))),
    ];
    std::thread::scope(|scope| {
        let ask = |path: &'static str, body: &Option<Value>| match body {
            None => server.get(path),
            Some(body) => {
                let (status, answer) = server.post(path, body.to_string());
                (status, answer.to_string())
            }
        };
        let asked: Vec<_> = questions.iter().map(|(path, body)| (path, scope.spawn(move || ask(path, body)))).collect();
        client.command(json!({"type": "history", "channel": "feed:a", "id": 1}));
        std::thread::sleep(CLOSED);
        gate.open();
        for (path, asked) in asked {
            let (status, answer) = asked.join().unwrap();
            assert_eq!(status, 200, "{path}: {answer}");
        }
    });
    let history = loop {
        let event = client.event();
        if event["id"] == 1 {
            break event;
        }
    };
    assert_eq!(history["type"], "history", "{history}");
    server.eventually("ready", Server::is_ready);
}

#[test]
fn a_server_that_has_just_been_started_answers_everything() {
    let redis = RedisServer::start();
    let gate = Gate::before(redis.port);
    everything_is_answered(&format!("redis://{}", gate.place()), gate);
}

#[test]
fn one_that_asks_a_sentinel_first_does_so_too() {
    let redis = RedisServer::start();
    let sentinel = Sentinel::start(redis.port, 1, "");
    let gate = Gate::before(sentinel.port);
    everything_is_answered(&format!("redis+sentinel://{}/{}", gate.place(), Sentinel::SERVICE), gate);
}

#[test]
fn and_one_that_asks_who_the_masters_of_a_cluster_are() {
    let cluster = Cluster::start(3, 0, &[]);
    let gate = Gate::before(cluster.servers[0].port);
    everything_is_answered(&format!("redis+cluster://{}", gate.place()), gate);
}
