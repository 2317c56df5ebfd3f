//! The whole server with durable channels on a real Redis: what clients miss and get, on this node and another, and what the control port says.

use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use serde_json::{Value, json};

/// Logs of the smallest kind, so that what is older comes from the stream.
fn launch(redis: &RedisServer, arguments: &[&str]) -> Launch {
    let file = format!(
        "redis = \"{}\"\nlog_bytes_per_channel = \"4k\"\npayload_bytes_max = \"4k\"\n[[channels]]\nprefix = \"feed:\"\ndurable = true\n\
         history_count = 100000\nhistory_age = 3600\nsubscribe = \"anyone\"\npublish = \"anyone\"\n",
        redis.url()
    );
    Launch::new(arguments).file(&file)
}

fn publish(server: &Server, channel: &str, data: &Value) -> Value {
    let (status, answer) = server.post("/publish", json!({"channel": channel, "data": data}).to_string());
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Its `subscribed`.
fn subscribe(client: &mut Client, command: Value) -> Value {
    client.command(command);
    loop {
        let event = client.event();
        if event["type"] != "connected" {
            return event;
        }
    }
}

fn connect(server: &Server) -> Client {
    Client::connect(server.listen, "/ws?format=json")
}

/// Entries hold several messages: whoever asks for what is in the midst of one gets that.
#[test]
fn what_was_packed_is_replayed_and_recalled_message_by_message() {
    let redis = RedisServer::start();
    let first = launch(&redis, &["--shards", "2"]).start();
    let epoch = publish(&first, "feed:a", &json!(1))["epoch"].as_u64().unwrap();
    let mut last = 1;
    for size in [32, 100, 1, 3, 63] {
        let payloads: Vec<String> = (last + 1..=last + size).map(|number: u64| number.to_string()).collect();
        let mut call = vec!["FCALL", "campanile_publish_2", "2", "notifications:{feed:a}:stream", "notifications:{feed:a}:meta"];
        call.extend(["PUBLISH", "notifications:feed:a", "1000", "3600000", "0"]);
        call.extend(payloads.iter().map(String::as_str));
        redis.command(&call);
        last += size;
    }
    assert_eq!(last, 200);
    let expected: Vec<(u64, Value)> = (1..=200).map(|number| (number, json!(number))).collect();
    let second = launch(&redis, &["--shards", "1"]).start();
    for since in [0, 1, 20, 32, 33, 96, 97, 133, 134, 199, 200] {
        let mut back = connect(&second);
        let subscribed =
            subscribe(&mut back, json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch, "seq": since}, "id": since}));
        assert_eq!((&subscribed["recovered"], &subscribed["seq"]), (&json!(true), &json!(since)), "{subscribed}");
        assert_eq!(back.messages(200 - since), expected[since..]);
    }
    let third = launch(&redis, &["--shards", "1"]).start();
    for (at, seqs) in [
        ("limit=10", 191..=200),
        ("limit=10&since=EPOCH-0", 1..=10),
        ("limit=10&since=EPOCH-40", 41..=50),
        ("limit=256&since=EPOCH-95", 96..=200),
        ("limit=10&before=EPOCH-70", 60..=69),
        ("limit=10&before=EPOCH-5", 1..=4),
    ] {
        let (status, text) = third.get(&format!("/history?channel=feed:a&{}", at.replace("EPOCH", &epoch.to_string())));
        let answer: Value = serde_json::from_str(&text).unwrap();
        let told: Vec<Value> = answer["messages"].as_array().unwrap().iter().map(|message| message["seq"].clone()).collect();
        assert_eq!((status, told), (200, seqs.map(|seq: u64| json!(seq)).collect()), "{at}: {text}");
    }
}

#[test]
fn whoever_comes_back_gets_what_it_missed_wherever_it_comes_back() {
    let redis = RedisServer::start();
    let first = launch(&redis, &["--shards", "2"]).start();
    let mut present = connect(&first);
    assert_eq!(subscribe(&mut present, json!({"type": "subscribe", "channel": "feed:a"}))["type"], "subscribed");
    let answer = publish(&first, "feed:a", &json!(1));
    let (epoch, seq) = (answer["epoch"].as_u64().unwrap(), answer["seq"].as_u64().unwrap());
    assert_eq!(seq, 1);
    for number in 2..=500 {
        publish(&first, "feed:a", &json!(number));
    }
    let expected: Vec<(u64, Value)> = (1..=500).map(|number| (number, json!(number))).collect();
    assert_eq!(present.messages(500), expected);
    // On the same node, and on one that has never heard of the channel.
    let second = launch(&redis, &["--shards", "1"]).start();
    for server in [&first, &second] {
        for since in [0, 1, 31, 32, 33, 250, 499, 500] {
            let mut back = connect(server);
            let command = json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch, "seq": since}, "id": since});
            let subscribed = subscribe(&mut back, command);
            assert_eq!((&subscribed["recovered"], &subscribed["seq"]), (&json!(true), &json!(since)), "{subscribed}");
            assert_eq!(back.messages(500 - since), expected[since..]);
        }
    }
    // And then what is new.
    let mut back = connect(&second);
    subscribe(&mut back, json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch, "seq": 400}}));
    publish(&first, "feed:a", &json!("new"));
    assert_eq!(back.messages(101).last(), Some(&(501, json!("new"))));
    assert!(second.metric("campanile_messages_replayed_total", "") > 0.0);
    // A position of another epoch is none.
    let mut other = connect(&second);
    let subscribed = subscribe(&mut other, json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch - 1, "seq": 400}}));
    assert_eq!((&subscribed["recovered"], &subscribed["seq"]), (&json!(false), &json!(501)));
}

/// What the stream has given up is named.
#[test]
fn what_is_gone_from_the_stream_is_said() {
    let redis = RedisServer::start();
    let server = launch(&redis, &[]).start();
    let mut epoch = 0;
    for number in 1..=400 {
        epoch = publish(&server, "feed:a", &json!(number))["epoch"].as_u64().unwrap();
    }
    assert_eq!(redis.command(&["XTRIM", "notifications:{feed:a}:stream", "MINID", &format!("{epoch}-301")]), ":300\r\n");
    let mut back = connect(&server);
    let subscribed = subscribe(&mut back, json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch, "seq": 10}}));
    assert_eq!((&subscribed["recovered"], &subscribed["seq"]), (&json!(false), &json!(10)), "{subscribed}");
    let gap = back.event();
    assert_eq!((&gap["type"], &gap["from"], &gap["to"], &gap["reason"]), (&json!("gap"), &json!(11), &json!(300), &json!("expired")));
    let got = back.messages(100);
    assert_eq!((got[0].0, got[99].0), (301, 400));
}

/// A crowd that comes back at once costs Redis a reading of each page, not one for each client.
#[test]
fn a_crowd_that_comes_back_is_served_from_the_same_pages() {
    let redis = RedisServer::start();
    let server = launch(&redis, &["--shards", "2"]).start();
    let mut epoch = 0;
    for number in 1..=200 {
        epoch = publish(&server, "feed:a", &json!(number))["epoch"].as_u64().unwrap();
    }
    let mut clients: Vec<Client> = (0..200).map(|_| connect(&server)).collect();
    redis.note_commands();
    for (at, client) in clients.iter_mut().enumerate() {
        client.command(json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch, "seq": 100 + at % 50}}));
    }
    for (at, client) in clients.iter_mut().enumerate() {
        while client.event()["type"] != "subscribed" {}
        let got = client.messages(100 - at % 50);
        assert_eq!((got[0].0, got.last().unwrap().0), (101 + at as u64 % 50, 200));
    }
    assert_eq!(redis.noted("XRANGE"), 4, "readings of four pages, the last of which is not full, for two shards");
    // It is read again once there is more of it.
    publish(&server, "feed:a", &json!(201));
    let mut late = connect(&server);
    subscribe(&mut late, json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch, "seq": 150}}));
    assert_eq!(late.messages(51).last(), Some(&(201, json!(201))));
}

/// A message that is sent again is published once, by whichever way.
#[test]
fn a_repeat_is_known() {
    let redis = RedisServer::start();
    let server = launch(&redis, &[]).start();
    let body = |channel: &str| json!({"channel": channel, "data": 1, "idempotency_key": "order-7"}).to_string();
    let (_, first) = server.post("/publish", body("feed:a"));
    let (_, again) = server.post("/publish", body("feed:a"));
    assert_eq!((&first["seq"], &first["repeated"], &again["seq"], &again["repeated"]), (&json!(1), &json!(false), &json!(1), &json!(true)));
    let mut client = connect(&server);
    let published =
        subscribe(&mut client, json!({"type": "publish", "channel": "feed:a", "data": 1, "idempotency_key": "order-7", "id": 1}));
    assert_eq!(published, json!({"type": "published", "id": 1, "channel": "feed:a", "seq": 1, "repeated": true}));
    assert_eq!(server.post("/publish", body("plain")).0, 400);
    client.command(json!({"type": "publish", "channel": "feed:a", "data": 1, "idempotency_key": ""}));
    assert_eq!(client.event()["code"], "bad_command");
}

#[test]
fn settings_that_cannot_be_are_an_error() {
    for (file, words) in [
        ("redis = \"redis://127.0.0.1:1\"\n[[channels]]\nprefix = \"a\"\ndurable = true\n", "history_count = 0"),
        ("redis = \"redis://127.0.0.1:1\"\nprefix = \"a{b\"\nhistory_count = 5\ndurable = true\n", "holds a {"),
    ] {
        let (code, told) = Launch::new(&[]).file(file).fails();
        assert!(code == 2 && told.contains(words), "{code} {told}");
    }
}

/// The newest message of a durable channel is in its stream, whether anybody has heard the channel here or not.
#[test]
fn the_newest_message_comes_at_once_on_any_node() {
    let redis = RedisServer::start();
    let first = launch(&redis, &["--shards", "2"]).start();
    for number in 1..=100 {
        publish(&first, "feed:a", &json!(number));
    }
    let second = launch(&redis, &["--shards", "1"]).start();
    for server in [&first, &second] {
        let mut client = connect(server);
        let entries = json!([{"channel": "feed:a", "latest": true}, {"channel": "feed:none", "latest": true}]);
        client.command(json!({"type": "subscribe", "channels": entries, "id": 1}));
        let mut subscribed = Vec::new();
        while subscribed.len() < 2 {
            let event = client.event();
            match event["type"].as_str() {
                Some("subscribed") => subscribed.push((event["channel"].clone(), event["seq"].clone(), event["recovered"].clone())),
                Some("connected") => {}
                _ => assert_eq!((&event["channel"], &event["data"]), (&json!("feed:a"), &json!(100)), "{event}"),
            }
        }
        subscribed.sort_by_key(|(channel, ..)| channel.to_string());
        assert_eq!(subscribed[0], (json!("feed:a"), json!(99), json!(false)));
        assert_eq!((&subscribed[1].0, &subscribed[1].2), (&json!("feed:none"), &json!(false)));
    }
    let mut client = connect(&second);
    subscribe(&mut client, json!({"type": "subscribe", "channel": "feed:a", "latest": true}));
    publish(&first, "feed:a", &json!("next"));
    assert_eq!(client.messages(2), [(100, json!(100)), (101, json!("next"))]);
}

/// The command publishes as a back end does: through the function where the file says that the channel is durable.
#[test]
fn the_command_publishes_to_durable_channels() {
    let redis = RedisServer::start();
    let server = launch(&redis, &["--shards", "1"]).start();
    let mut client = connect(&server);
    subscribe(&mut client, json!({"type": "subscribe", "channel": "feed:a"}));
    let directory = redis.directory.join("command");
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("campanile.toml");
    std::fs::write(&file, "[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 100\nhistory_age = 3600\n").unwrap();
    let publish = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_campanile"));
        let output = command.arg("publish").args(arguments).args(["--config", file.to_str().unwrap()]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (url, control) = (redis.url(), server.control.to_string());
    let (code, said, _) = publish(&["feed:a", "1", "--redis", &url]);
    let epoch = said.strip_prefix("published to feed:a: epoch ").and_then(|rest| rest.strip_suffix(", seq 1\n")).expect("its number");
    assert!(code == Some(0) && epoch.parse::<u64>().is_ok(), "{said}");
    for (way, more) in [(["--redis", &url], ""), (["--redis", &url], ", published before"), (["--control", &control], ", published before")]
    {
        let (code, said, wrong) = publish(&["feed:a", "2", "--idempotency-key", "two", way[0], way[1]]);
        assert_eq!((code, said), (Some(0), format!("published to feed:a: epoch {epoch}, seq 2{more}\n")), "{wrong}");
    }
    assert_eq!(client.messages(2), [(1, json!(1)), (2, json!(2))]);
    let (code, _, wrong) = publish(&["news", "x", "--idempotency-key", "k", "--redis", &url]);
    assert!(code == Some(2) && wrong.contains("is for durable channels"), "{wrong}");
    redis.command(&["FUNCTION", "FLUSH"]);
    let (code, _, wrong) = publish(&["feed:a", "3", "--redis", &url]);
    assert!(code == Some(1) && wrong.contains("run campanile redis install"), "{wrong}");
}

/// Streams that go by themselves when memory is short are no place for what must not be lost.
#[test]
fn a_redis_that_throws_streams_away_is_warned_of() {
    let redis = RedisServer::with_arguments(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let server = launch(&redis, &["--shards", "1"]).start();
    assert!(server.log_when("maxmemory-policy allkeys-lru").contains("noeviction"));
}

/// A publish that replicas do not have is not acknowledged, and what others publish meanwhile is.
#[test]
fn replicas_are_waited_for() {
    let redis = RedisServer::start();
    let server = launch(&redis, &["--durable-wait", "1", "--shards", "1"]).start();
    let mut client = connect(&server);
    subscribe(&mut client, json!({"type": "subscribe", "channel": "feed:a"}));
    let body = json!({"channel": "feed:a", "data": 1, "idempotency_key": "k"}).to_string();
    let (status, answer) = server.post("/publish", &body);
    assert_eq!(status, 503, "{answer}");
    assert!(answer["error"].to_string().contains("0 of 1 replicas") || answer.to_string().contains("0 of 1 replicas"), "{answer}");
    // It is there all the same, once.
    assert_eq!(client.messages(1), [(1, json!(1))]);
    assert_eq!(server.post("/publish", json!({"channel": "plain", "data": 1}).to_string()).0, 200, "a plain one waits for nobody");
    let replica = RedisServer::with_arguments(&["--replicaof", "127.0.0.1", &redis.port.to_string(), "--repl-diskless-sync-delay", "0"]);
    server.eventually("the replica is there", |_| replica.command(&["INFO", "replication"]).contains("master_link_status:up"));
    // Redis counts a replica when it has reported back, which takes it up to a second.
    server.eventually("it is taken", |server| server.post("/publish", &body).0 == 200);
    let (_, answer) = server.post("/publish", &body);
    assert_eq!((&answer["seq"], &answer["repeated"]), (&json!(1), &json!(true)), "{answer}");
    for number in 2..=50 {
        assert_eq!(publish(&server, "feed:a", &json!(number))["seq"], json!(number));
    }
    replica.pause();
    let (status, answer) = server.post("/publish", json!({"channel": "feed:a", "data": 51}).to_string());
    assert_eq!(status, 503, "{answer}");
    replica.resume();
    server.eventually("it is taken again", |server| server.post("/publish", &body).0 == 200);
}

/// Number and payload of each event, None where it has none.
fn taken(client: &mut Client, count: usize) -> Vec<(Option<u64>, Value)> {
    let take = |_| {
        let event = client.event();
        assert_eq!((&event["type"], &event["channel"]), (&json!("notification"), &json!("feed:a")), "{event}");
        (event["seq"].as_u64(), event["data"].clone())
    };
    (0..count).map(take).collect()
}

/// Programs that publish past the stream go on as before: whoever is there gets it, and no number is touched.
#[test]
fn a_plain_publish_comes_without_a_number() {
    for (pubsub, command, redis_channel) in
        [("classic", "PUBLISH", "notifications:feed:a"), ("sharded", "SPUBLISH", "notifications:{feed:a}")]
    {
        let redis = RedisServer::start();
        let server = launch(&redis, &["--shards", "2", "--pubsub", pubsub]).start();
        let mut clients: Vec<Client> = (0..8).map(|_| Client::subscribed(server.listen, "feed:a")).collect();
        let mut packed = Client::connect(server.listen, "/ws/feed:a?format=msgpack");
        let mut raw = Client::connect(server.listen, "/ws/feed:a?format=raw");
        server.eventually("all are subscribed", |server| server.metric("campanile_subscriptions", "") == 10.0);
        let plain = |text: &str| redis.command(&[command, redis_channel, &json!(text).to_string()]);
        let mut epoch = 0;
        for number in 1..=3 {
            epoch = publish(&server, "feed:a", &json!(number))["epoch"].as_u64().unwrap();
            plain("one");
            plain("two");
        }
        let numbered = |number: u64| [(Some(number), json!(number)), (None, json!("one")), (None, json!("two"))];
        let expected: Vec<(Option<u64>, Value)> = (1..=3).flat_map(numbered).collect();
        for client in &mut clients {
            assert_eq!(taken(client, 9), expected, "{pubsub}");
        }
        let mut of_packed = Vec::new();
        while of_packed.len() < 9 {
            let event: Value = rmp_serde::from_slice(&packed.frame().unwrap().payload).unwrap();
            if event["type"] == "notification" {
                of_packed.push((event["seq"].as_u64(), event["data"].clone()));
            }
        }
        assert_eq!(of_packed, expected);
        let of_raw: Vec<Value> = (0..9).map(|_| serde_json::from_slice(&raw.frame().unwrap().payload).unwrap()).collect();
        assert_eq!(of_raw, expected.iter().map(|(_, data)| data.clone()).collect::<Vec<_>>());
        // What comes while the server is not subscribed is gone, and what comes after that is not.
        let before = server.metric("campanile_bus_disconnects_total", "");
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        server.eventually("it has noticed", |server| server.metric("campanile_bus_disconnects_total", "") > before);
        server.eventually("it is back", |server| server.metric("campanile_bus_ready", "") == 1.0);
        plain("after");
        publish(&server, "feed:a", &json!(4));
        for client in &mut clients {
            assert_eq!(taken(client, 2), [(None, json!("after")), (Some(4), json!(4))], "{pubsub}");
        }
        // Whoever resumes gets the numbers.
        let mut back = connect(&server);
        let subscribed = subscribe(&mut back, json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch, "seq": 1}}));
        assert_eq!((&subscribed["recovered"], &subscribed["seq"]), (&json!(true), &json!(1)));
        assert_eq!(back.messages(3), [(2, json!(2)), (3, json!(3)), (4, json!(4))]);
        assert_eq!(server.metric("campanile_bus_unnumbered_total", ""), 7.0);
        assert_eq!(server.metric("campanile_unnumbered_skipped_total", ""), 0.0);
    }
}

#[test]
fn a_stalled_client_costs_nothing_for_what_has_no_number() {
    let redis = RedisServer::start();
    let server = launch(&redis, &["--shards", "1"]).start();
    let _stalled = Client::dial_narrow(server.listen, 4096).upgrade("/ws/feed:a?format=json");
    server.eventually("it is subscribed", |server| server.metric("campanile_subscriptions", "") == 1.0);
    let payload = format!("\"{}\"", "x".repeat(4000));
    server.eventually("it is passed over", |server| {
        let mut publisher = redis.publisher();
        (0..100).for_each(|_| publisher.publish("notifications:feed:a", payload.as_bytes()));
        publisher.settle();
        server.metric("campanile_unnumbered_skipped_total", "") > 500.0
    });
    assert!(server.metric("campanile_buffer_bytes", "") < 64.0 * 1024.0);
    assert_eq!(server.metric("campanile_subscriptions", ""), 1.0);
    let mut reader = Client::subscribed(server.listen, "feed:a");
    redis.publisher().publish("notifications:feed:a", b"1");
    assert_eq!(taken(&mut reader, 1), [(None, json!(1))]);
}
