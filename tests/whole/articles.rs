//! The four articles that Campanile comes from each show a server and its clients. Here are those clients, with the messages that they send and expect,
//! against the real server (and a real Redis where the article has one), set up as its documents say.

use crate::support::client::Client;
use crate::support::frames::{self, BINARY, TEXT};
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use serde_json::{Value, json};

fn start(redis: &RedisServer, file: &str) -> Server {
    let server = Launch::new(&["--redis", &redis.url()]).file(file).start();
    server.eventually("ready", Server::is_ready);
    server
}

/// What comes next, as the bytes of a message.
fn payload(client: &mut Client) -> Vec<u8> {
    let frame = client.frame().expect("a message, not the end");
    assert!(matches!(frame.opcode, TEXT | BINARY), "{frame:?}");
    frame.payload
}

fn text(client: &mut Client) -> String {
    String::from_utf8(payload(client)).unwrap()
}

/// Clients that have so many subscriptions together before anything is published.
fn listeners(server: &Server, paths: &[&str], subscriptions: usize) -> Vec<Client> {
    let before = server.metric("campanile_subscriptions", "");
    let clients: Vec<Client> = paths.iter().map(|path| Client::connect(server.listen, path)).collect();
    server.eventually_metric("campanile_subscriptions", "", before + subscriptions as f64);
    // A subscription counts from when it is made; that its channel flows is told by the bus.
    server.eventually("the channels flow", |server| {
        let (_, page) = server.get("/channels?limit=1000");
        let page: Value = serde_json::from_str(&page).unwrap();
        let heard: u64 = page["channels"].as_array().unwrap().iter().map(|channel| channel["subscribers"].as_u64().unwrap()).sum();
        heard as f64 == before + subscriptions as f64
    });
    clients
}

/// The Go server (gorilla, go-redis): `/ws?user=u123` names the user, and what Redis publishes on `notifications` goes to the user that it names.
#[test]
fn go_each_notification_reaches_its_user_alone() {
    let redis = RedisServer::start();
    let server = start(
        &redis,
        "auth = \"query\"\nuser_channel = true\nformat = \"raw\"\n[[route]]\nfrom = \"notifications\"\nfield = \"user_id\"\nto = \"user:{}\"\n",
    );
    // Two windows of one user, one of another.
    let mut clients = listeners(&server, &["/ws?user=u123", "/ws?user=u123", "/ws?user=u456"], 3);
    let mut publisher = redis.publisher();
    let notification = |user: &str, title: &str| format!(r#"{{"user_id":"{user}","title":"{title}","message":"Your order has shipped"}}"#);
    for (user, title) in [("u123", "one"), ("u789", "for nobody here"), ("u123", "two"), ("u456", "three")] {
        publisher.publish("notifications", notification(user, title).as_bytes());
    }
    for client in &mut clients[..2] {
        assert_eq!((text(client), text(client)), (notification("u123", "one"), notification("u123", "two")));
    }
    assert_eq!(text(&mut clients[2]), notification("u456", "three"));
    // A user cannot have what is another's, nor all of it at once.
    let mut thief = Client::connect(server.listen, "/ws?user=u456&format=json");
    let events: Vec<Value> = (0..2).map(|_| thief.event()).collect();
    assert_eq!((&events[0]["type"], &events[1]["channel"]), (&json!("connected"), &json!("user:u456")));
    thief.command(json!({"type": "subscribe", "channel": "user:u123", "id": 1}));
    assert_eq!(thief.event()["code"], "not_allowed");
    thief.command(json!({"type": "subscribe", "channel": "notifications", "id": 2}));
    assert_eq!(thief.event()["type"], "subscribed");
    publisher.publish("notifications", notification("u123", "four").as_bytes());
    publisher.publish("notifications", notification("u456", "five").as_bytes());
    assert_eq!(thief.event()["data"]["title"], "five");
    assert_eq!(server.metric("campanile_bus_routed_total", ""), 5.0);
}

/// The same article: deliver to the relevant users or groups only.
#[test]
fn go_groups_and_lists_of_users() {
    let redis = RedisServer::start();
    let server = start(
        &redis,
        "auth = \"query\"\nuser_channel = true\nformat = \"raw\"\n\
         [[route]]\nfrom = \"notifications\"\nfield = \"user_id\"\nto = \"user:{}\"\n\
         [[route]]\nfrom = \"notifications\"\nfield = \"topic\"\nto = \"topic:{}\"\nelse = \"everybody\"\n",
    );
    let mut clients = listeners(&server, &["/ws?user=u1", "/ws?user=u2"], 2);
    let mut reader = listeners(&server, &["/ws/topic:sport?user=u3&channel=everybody"], 3).remove(0);
    let mut publisher = redis.publisher();
    for message in [
        r#"{"user_id":["u1","u2"],"n":1}"#,
        r#"{"topic":"sport","n":2}"#,
        r#"{"topic":"chess","n":3}"#,
        r#"{"n":4}"#,
        r#"{"user_id":"u2","n":5}"#,
    ] {
        publisher.publish("notifications", message.as_bytes());
    }
    assert_eq!(text(&mut clients[0]), r#"{"user_id":["u1","u2"],"n":1}"#);
    assert_eq!(
        (text(&mut clients[1]), text(&mut clients[1])),
        (r#"{"user_id":["u1","u2"],"n":1}"#.to_owned(), r#"{"user_id":"u2","n":5}"#.to_owned())
    );
    assert_eq!((text(&mut reader), text(&mut reader)), (r#"{"topic":"sport","n":2}"#.to_owned(), r#"{"n":4}"#.to_owned()));
}

const FASTAPI: &str = "[[channels]]\nprefix = \"notifications\"\npublish = \"anyone\"\nraw_publish = true\n";

/// The Python server (FastAPI): `/ws/notifications`, and what a client sends is published to Redis and reaches everyone.
#[test]
fn fastapi_what_a_client_sends_reaches_everyone() {
    let redis = RedisServer::start();
    let server = start(&redis, &format!("format = \"raw\"\n{FASTAPI}"));
    let elsewhere = start(&redis, &format!("format = \"raw\"\n{FASTAPI}"));
    let mut clients = listeners(&server, &["/ws/notifications"; 3], 3);
    clients.extend(listeners(&elsewhere, &["/ws/notifications"], 1));
    clients[0].send(&frames::frame(TEXT, b"Hello, everybody!"));
    for client in &mut clients {
        assert_eq!(text(client), "Hello, everybody!");
    }
    // Whatever it is, it is no command, and comes back as it was.
    for (opcode, message) in
        [(TEXT, &br#"{"type":"unsubscribe","channel":"notifications"}"#[..]), (BINARY, b"\xff\x00"), (TEXT, "é".as_bytes())]
    {
        clients[1].send(&frames::frame(opcode, message));
        for client in &mut clients {
            assert_eq!(client.frame(), Some(frames::Frame { opcode, payload: message.to_vec() }));
        }
    }
    redis.publisher().publish("notifications", b"from redis-cli");
    assert_eq!(text(&mut clients[3]), "from redis-cli");
}

#[test]
fn fastapi_who_may_not_publish_does_not() {
    let rules = "auth = \"query\"\nformat = \"raw\"\ncommands_per_second = 10\nsubscriptions_max = 2\n\
                 [[channels]]\npattern = \"own:{sub}\"\nsubscribe = \"anyone\"\npublish = \"owner\"\nraw_publish = true\n\
                 [[channels]]\nprefix = \"quiet\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n";
    let server = Launch::new(&[]).file(rules).start();
    let mut clients = listeners(&server, &["/ws/own:u1?user=u1", "/ws/own:u1?user=u2", "/ws/quiet?user=u1"], 3);
    clients[1].send(&frames::frame(TEXT, b"not mine"));
    server.eventually_metric("campanile_not_allowed_total", "", 1.0);
    clients[0].send(&frames::frame(TEXT, b"mine"));
    assert_eq!((text(&mut clients[0]), text(&mut clients[1])), ("mine".to_owned(), "mine".to_owned()));
    // Without raw_publish it is a command, and none that is understood.
    clients[2].send(&frames::frame(TEXT, b"lost"));
    server.eventually_metric("campanile_command_errors_total", "", 2.0);
    clients[2].send(&frames::frame(TEXT, br#"{"type":"publish","channel":"quiet","data":"found"}"#));
    assert_eq!(text(&mut clients[2]), "\"found\"");
    // Whoever sends without end is held to what a connection may send.
    let flood = frames::frame(TEXT, b"again").repeat(1000);
    clients[0].send(&flood);
    server.eventually("the limit", |server| server.metric("campanile_commands_limited_total", "") > 900.0);
}

/// The JavaScript servers (ws, ioredis) and the Java one (Spring): every client gets the raw payload of `notifications`, and sends nothing.
#[test]
fn javascript_and_java_every_client_gets_every_payload() {
    let redis = RedisServer::start();
    let server = start(&redis, "format = \"raw\"\n");
    let mut clients = listeners(&server, &["/ws/notifications"; 5], 5);
    let payloads = [r#"{"title":"New message","body":"You have a new message"}"#, "plain text", r#"{"event":"order","data":{"id":7}}"#];
    let mut publisher = redis.publisher();
    payloads.iter().for_each(|payload| publisher.publish("notifications", payload.as_bytes()));
    for client in &mut clients {
        for payload in payloads {
            let frame = client.frame().unwrap();
            assert_eq!((frame.opcode, frame.payload.as_slice()), (TEXT, payload.as_bytes()));
        }
    }
}

/// The Rust server (tokio, tungstenite, redis) with `PSUBSCRIBE notifications:*`, and its TypeScript client.
#[test]
fn rust_the_protocol_in_json() {
    let redis = RedisServer::start();
    let server = start(&redis, "redis_subscribe = \"pattern\"\n");
    let mut client = Client::connect(server.listen, "/ws");
    let connected = client.event();
    assert_eq!(connected["type"], "connected");
    assert!(connected["client_id"].as_str().is_some_and(|id| !id.is_empty()), "{connected}");
    client.command(json!({"type": "subscribe", "channel": "user:123"}));
    let subscribed = client.event();
    assert_eq!((&subscribed["type"], &subscribed["channel"]), (&json!("subscribed"), &json!("user:123")));
    let mut publisher = redis.publisher();
    let data = json!({"id": "n1", "title": "Ding", "body": "dong", "read": false});
    publisher.publish("notifications:user:123", data.to_string().as_bytes());
    publisher.publish("notifications:user:124", b"{}");
    let notification = client.event();
    assert_eq!(
        (&notification["type"], &notification["channel"], &notification["data"]),
        (&json!("notification"), &json!("user:123"), &data)
    );
    assert!(notification["timestamp"].as_u64().is_some_and(|timestamp| timestamp > 1_600_000_000_000), "{notification}");
    client.command(json!({"type": "unsubscribe", "channel": "user:123"}));
    assert_eq!(client.event()["type"], "unsubscribed");
    publisher.publish("notifications:user:123", b"{}");
    client.command(json!({"type": "ping"}));
    assert_eq!(client.event()["type"], "pong", "nothing after unsubscribed");
}
