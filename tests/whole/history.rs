//! What is kept of a channel, for whoever asks: clients by `history`, back ends by `GET /history`; from this node's memory, the journal, and Redis.

use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use serde_json::{Value, json};

const RULES: &str = "[[channels]]\nprefix = \"closed:\"\nsubscribe = \"nobody\"\ndurable = true\nhistory_count = 10\nhistory_age = 3600\n\
                     [[channels]]\nprefix = \"feed:\"\nhistory_count = 1000\nhistory_age = 3600\n";

fn publish(server: &Server, channel: &str, count: u64) -> u64 {
    let mut epoch = 0;
    for number in 1..=count {
        let (status, answer) = server.post("/publish", json!({"channel": channel, "data": {"n": number}}).to_string());
        assert_eq!(status, 200, "{answer}");
        epoch = answer["epoch"].as_u64().expect("it is counted");
    }
    epoch
}

/// Numbers and contents, whether there is more, and whether nothing is missing.
type Told = (Vec<u64>, Value, Value);

fn told(answer: &Value) -> Told {
    let messages = answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let seqs = messages.iter().map(|message| {
        let seq = message["seq"].as_u64().unwrap();
        assert_eq!(message["data"], json!({"n": seq}), "{message}");
        assert!(message["timestamp"].as_u64().unwrap() > 1_700_000_000_000, "{message}");
        seq
    });
    (seqs.collect(), answer["more"].clone(), answer["recovered"].clone())
}

/// The same of a client and of the control port, which must say the same.
fn ask(server: &Server, client: &mut Client, channel: &str, limit: u64, at: Option<(&str, u64, u64)>) -> Told {
    let mut command = json!({"type": "history", "channel": channel, "limit": limit, "id": "h"});
    let mut query = format!("/history?channel={channel}&limit={limit}");
    if let Some((name, epoch, seq)) = at {
        command[name] = json!({"epoch": epoch, "seq": seq});
        query.push_str(&format!("&{name}={epoch}-{seq}"));
    }
    client.command(command);
    let event = loop {
        let event = client.event();
        if event["type"] != "connected" {
            break event;
        }
    };
    assert_eq!((&event["type"], &event["id"], &event["channel"]), (&json!("history"), &json!("h"), &json!(channel)), "{event}");
    let (status, text) = server.get(&query);
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&answer["epoch"], told(&answer)), (event.get("epoch").unwrap_or(&Value::Null), told(&event)));
    told(&event)
}

/// 20 messages of a channel are kept.
fn twenty(server: &Server, epoch: u64) {
    let mut client = Client::connect(server.listen, "/ws?format=json");
    let seqs = |range: std::ops::RangeInclusive<u64>| range.collect::<Vec<_>>();
    let mut ask = |limit, at| ask(server, &mut client, "feed:a", limit, at);
    assert_eq!(ask(5, None), (seqs(16..=20), json!(true), Value::Null));
    assert_eq!(ask(256, None), (seqs(1..=20), json!(false), Value::Null));
    assert_eq!(ask(5, Some(("before", epoch, 16))), (seqs(11..=15), json!(true), Value::Null));
    assert_eq!(ask(5, Some(("before", epoch, 4))), (seqs(1..=3), json!(false), Value::Null));
    assert_eq!(ask(5, Some(("since", epoch, 0))), (seqs(1..=5), json!(true), json!(true)));
    assert_eq!(ask(5, Some(("since", epoch, 15))), (seqs(16..=20), json!(false), json!(true)));
    assert_eq!(ask(5, Some(("since", epoch, 20))), (vec![], json!(false), json!(true)));
    assert_eq!(ask(5, Some(("since", epoch - 1, 3))), (vec![], json!(false), json!(false)));
    assert_eq!(ask(5, Some(("before", epoch - 1, 3))), (vec![], json!(false), Value::Null));
}

#[test]
fn what_this_node_keeps_is_told() {
    let server = Launch::new(&["--shards", "2"]).file(RULES).start();
    let epoch = publish(&server, "feed:a", 20);
    twenty(&server, epoch);
    let mut client = Client::connect(server.listen, "/ws?format=json");
    assert_eq!(ask(&server, &mut client, "feed:none", 5, None), (vec![], json!(false), Value::Null));
    assert!(server.metric("campanile_messages_recalled_total", "") > 0.0);
    // Who asks makes no channels.
    let (_, channels) = server.get("/channels");
    assert!(!channels.contains("feed:none"), "{channels}");
}

#[test]
fn what_the_journal_keeps_is_told_also_after_a_restart() {
    for has_folder in [false, true] {
        let durable = RULES.replace("prefix = \"feed:\"\n", "prefix = \"feed:\"\ndurable = true\n");
        let text = if has_folder { format!("data_dir = \"data\"\nhistory_bytes_total = \"64k\"\n{durable}") } else { durable };
        let launch = Launch::new(&["--shards", "1"]).file(&text);
        let directory = launch.directory.clone();
        let mut server = launch.start();
        let epoch = publish(&server, "feed:a", 20);
        twenty(&server, epoch);
        if has_folder {
            server.kill();
            let mut launch = Launch::new(&["--shards", "1"]);
            launch.directory = directory;
            twenty(&launch.file(&text).start(), epoch);
        }
    }
}

#[test]
fn what_redis_keeps_is_told_on_a_node_that_has_never_heard_of_it() {
    let redis = RedisServer::start();
    let durable = RULES.replace("prefix = \"feed:\"\n", "prefix = \"feed:\"\ndurable = true\n");
    let launch = || Launch::new(&["--shards", "2", "--redis", &redis.url()]).file(&durable).start();
    let (first, second) = (launch(), launch());
    let epoch = publish(&first, "feed:a", 20);
    twenty(&first, epoch);
    twenty(&second, epoch);
    let mut client = Client::connect(second.listen, "/ws?format=json");
    assert_eq!(ask(&second, &mut client, "feed:none", 5, None), (vec![], json!(false), Value::Null));
    // What the stream has given up is said.
    redis.command(&["XTRIM", "notifications:{feed:a}:stream", "MINID", &format!("{epoch}-11")]);
    let asked = ask(&second, &mut client, "feed:a", 4, Some(("since", epoch, 3)));
    assert_eq!(asked, ((11..=14).collect(), json!(true), json!(false)));
    assert_eq!(ask(&second, &mut client, "feed:a", 256, None), ((11..=20).collect(), json!(false), Value::Null));
}

/// However many ask for the same at once, it is read once, or a few times if they come too late for it.
#[test]
fn a_crowd_that_asks_for_the_same_is_one_reading() {
    let redis = RedisServer::start();
    let durable = RULES.replace("prefix = \"feed:\"\n", "prefix = \"feed:\"\ndurable = true\n");
    let server = Launch::new(&["--shards", "2", "--redis", &redis.url()]).file(&durable).start();
    publish(&server, "feed:a", 20);
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(server.listen, "/ws?format=json")).collect();
    redis.note_commands();
    redis.pause();
    for client in &mut clients {
        client.command(json!({"type": "history", "channel": "feed:a", "limit": 20, "id": 1}));
    }
    // All have asked when a command that each has sent behind it is answered.
    for client in &mut clients {
        client.command(json!({"type": "ping", "id": 2}));
        while client.event()["type"] != "pong" {}
    }
    redis.resume();
    for client in &mut clients {
        let event = client.event();
        assert_eq!(event["messages"].as_array().map(Vec::len), Some(20), "{event}");
    }
    assert_eq!(redis.noted("XRANGE"), 1, "a hundred have asked for the same");
}

#[test]
fn what_cannot_be_asked_or_read_is_told() {
    let mut redis = RedisServer::start();
    let durable = RULES.replace("prefix = \"feed:\"\n", "prefix = \"feed:\"\ndurable = true\n");
    let server = Launch::new(&["--shards", "1", "--redis", &redis.url()]).file(&durable).start();
    let mut client = Client::connect(server.listen, "/ws?format=json");
    assert_eq!(client.event()["type"], "connected");
    let mut refused = |command: Value| {
        client.command(command);
        let event = client.event();
        assert_eq!((&event["type"], &event["command"]), (&json!("error"), &json!("history")), "{event}");
        event["code"].as_str().unwrap().to_owned()
    };
    let asked = |channel: &str| json!({"type": "history", "channel": channel, "id": 1});
    assert_eq!(refused(asked("closed:a")), "not_allowed");
    assert_eq!(refused(asked("a\n")), "bad_channel");
    for (field, value) in [("limit", json!(0)), ("limit", json!(257)), ("before", json!(3)), ("since", json!({"epoch": 1}))] {
        let mut command = asked("feed:a");
        command[field] = value;
        assert_eq!(refused(command), "bad_command", "{field}");
    }
    for query in ["", "?channel=", "?channel=a&limit=0", "?channel=a&since=x", "?channel=a&since=1-1&before=1-2", "?channel=a&from=3"] {
        let (status, text) = server.get(&format!("/history{query}"));
        assert!(status == 400 && text.contains("channel=NAME"), "{query}: {status} {text}");
    }
    // Another type where the stream should be, and no Redis at all.
    publish(&server, "feed:a", 1);
    redis.command(&["DEL", "notifications:{feed:a}:stream"]);
    redis.command(&["SET", "notifications:{feed:a}:stream", "x"]);
    assert_eq!(refused(asked("feed:a")), "bus_unavailable");
    assert_eq!(server.get("/history?channel=feed:a").0, 502);
    redis.kill();
    server.eventually("it notices", |server| !server.is_ready());
    assert_eq!(refused(asked("feed:a")), "bus_unavailable");
    assert_eq!(server.get("/history?channel=feed:a").0, 503);
}
