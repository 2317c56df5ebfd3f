//! The whole server against a real Redis: a thousand clients through bursts, a Redis that is killed, paused and restarted, log-ins,
//! payloads that are not what they should be, clients that publish.

use crate::support::client::Client;
use crate::support::crowd::{Crowd, Member};
use crate::support::frames;
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use serde_json::{Value, json};

const CROWD: usize = 1000;

fn start(redis: &RedisServer, flags: &[&str]) -> Server {
    let server = Server::start(&[&["--redis", &redis.url()], flags].concat());
    server.eventually("ready", Server::is_ready);
    server
}

/// Publishes the numbers of the range as fast as Redis takes them.
fn publish_numbers(redis: &RedisServer, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    let mut publisher = redis.publisher();
    for number in numbers {
        publisher.publish(&format!("notifications:{channel}"), number.to_string().as_bytes());
    }
    publisher.settle();
}

/// Everything after `connected` and `subscribed` is notifications of these numbers, each once, in order, with consecutive `seq`.
#[track_caller]
fn assert_received(member: &Member, numbers: std::ops::RangeInclusive<u64>) {
    let found: Vec<(u64, u64)> = member.events[2..]
        .iter()
        .map(|event| {
            assert_eq!(event["type"], "notification", "{event}");
            (event["seq"].as_u64().unwrap(), event["data"].as_u64().unwrap())
        })
        .collect();
    let expected: Vec<(u64, u64)> = numbers.map(|number| (number, number)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_burst_reaches_a_thousand_clients_complete_in_order_and_once() {
    let redis = RedisServer::start();
    let server = start(&redis, &["--shards", "2", "--fd-table", "shared"]);
    let mut crowd = Crowd::subscribed(server.listen, CROWD, |_| "city".to_owned());
    assert_eq!(server.metric("ws_connections_total", ""), CROWD as f64);
    assert!(server.metric("ws_connections_total", "shard=\"0\"") > 0.0 && server.metric("ws_connections_total", "shard=\"1\"") > 0.0);
    publish_numbers(&redis, "city", 1..=100);
    crowd.wait("the burst", |member| member.events.len() >= 102);
    // What would come twice would come before this one.
    publish_numbers(&redis, "city", 101..=101);
    crowd.wait("the end", |member| member.events.last().unwrap()["data"] == 101);
    crowd.members().iter().for_each(|member| assert_received(member, 1..=101));
    server.eventually_metric("ws_messages_sent_total", "", (CROWD * 101) as f64);
    assert_eq!(server.metric("redis_pubsub_messages", ""), 101.0);
    assert_eq!(server.metric("ws_message_latency_ms_count", ""), (CROWD * 101) as f64);
    drop(crowd);
    server.eventually_metric("ws_connections_total", "", 0.0);
    server.eventually_metric("campanile_sockets", "", 0.0);
}

/// The bus rides on the thread of an only shard, which empties its inbox only when the bus has had its turn: what one read brings may be much more than
/// the inbox takes, and waits in the bus's own buffer.
#[test]
fn an_only_shard_that_carries_the_bus_loses_nothing_to_a_full_inbox() {
    let redis = RedisServer::start();
    let server = start(&redis, &["--shards", "1", "--inbox-messages", "16", "--subscriptions-max", "1000"]);
    let mut client = Client::connect(server.listen, "/ws");
    for room in 0..1000 {
        client.command(json!({"type": "subscribe", "channel": format!("room{room}")}));
    }
    server.eventually_metric("campanile_subscriptions", "", 1000.0);
    server.eventually("all of them subscribed in Redis", |_| redis.subscribed_channels() == 1000);
    let mut publisher = redis.publisher();
    for number in 0..20_000 {
        publisher.publish(&format!("notifications:room{}", number % 1000), number.to_string().as_bytes());
    }
    publisher.settle();
    let mut next = [1u64; 1000];
    for _ in 0..20_000 {
        let event = loop {
            let event = client.event();
            assert_ne!(event["type"], "gap", "{event}");
            if event["type"] == "notification" {
                break event;
            }
        };
        let room: usize = event["channel"].as_str().unwrap()["room".len()..].parse().unwrap();
        assert_eq!((event["seq"].as_u64(), event["data"].as_u64()), (Some(next[room]), Some(room as u64 + 1000 * (next[room] - 1))));
        next[room] += 1;
    }
    assert_eq!((server.metric("campanile_bus_inbox_full_total", ""), server.metric("campanile_inbox_lost_total", "")), (0.0, 0.0));
}

#[test]
fn six_shards_with_private_descriptor_tables_serve_the_same_burst_and_clients_that_come_and_go() {
    let redis = RedisServer::start();
    let server = start(&redis, &["--shards", "6", "--fd-table", "private", "--linger", "0"]);
    assert_eq!(serde_json::from_str::<Value>(&server.get("/info").1).unwrap()["fd_table"], "private");
    let mut crowd = Crowd::subscribed(server.listen, CROWD, |index| format!("room{}", index % 10));
    for shard in 0..6 {
        assert!(server.metric("ws_connections_total", &format!("shard=\"{shard}\"")) > 0.0, "shard {shard} has nobody");
    }
    for room in 0..10 {
        publish_numbers(&redis, &format!("room{room}"), 1..=100);
    }
    crowd.wait("the burst", |member| member.events.len() >= 102);
    crowd.members().iter().for_each(|member| assert_received(member, 1..=100));

    // Half of them leave, others take their places (and their descriptor numbers).
    (0..CROWD / 2).for_each(|index| crowd.drop_member(index));
    server.eventually_metric("ws_connections_total", "", (CROWD / 2) as f64);
    let mut others = Crowd::subscribed(server.listen, CROWD / 2, |index| format!("room{}", index % 10));
    for room in 0..10 {
        publish_numbers(&redis, &format!("room{room}"), 101..=110);
    }
    others.wait("their messages", |member| member.events.len() >= 12);
    crowd.wait("the messages of those who stayed", |member| member.ended || member.events.len() >= 112);
    for member in crowd.members().iter().filter(|member| !member.ended) {
        assert_received(member, 1..=110);
    }
    for member in others.members().iter() {
        assert_eq!(member.data(), (101..=110).map(Value::from).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
}

/// What everybody must have seen after an outage between message 1 and message 2.
fn assert_survived(crowd: &Crowd) {
    for member in crowd.members().iter() {
        assert!(!member.ended && member.close.is_none());
        let kinds: Vec<&str> = (2..member.events.len()).map(|event| member.kind(event)).collect();
        assert_eq!(kinds.first(), Some(&"notification"));
        assert_eq!(kinds.last(), Some(&"notification"));
        let gaps: Vec<&Value> = member.events.iter().filter(|event| event["type"] == "gap").collect();
        assert!(!gaps.is_empty(), "no gap in {kinds:?}");
        // Numbers go on without a hole, those of the gaps counted.
        let mut next = 1;
        for event in &member.events[2..] {
            match event["type"].as_str().unwrap() {
                "gap" => {
                    assert_eq!((&event["reason"], &event["from"]), (&json!("outage"), &json!(next)));
                    next = event["to"].as_u64().unwrap() + 1;
                }
                _ => {
                    assert_eq!(event["seq"], next);
                    next += 1;
                }
            }
        }
        assert_eq!(member.data(), [&json!(1), &json!(2)]);
    }
}

fn has(member: &Member, data: u64) -> bool {
    member.events.last().is_some_and(|event| event["data"] == data)
}

#[test]
fn a_redis_that_is_killed_and_restarted_costs_a_gap_and_no_connection() {
    let mut redis = RedisServer::start();
    let server = start(&redis, &["--shards", "6", "--fd-table", "private"]);
    let mut crowd = Crowd::subscribed(server.listen, CROWD, |index| format!("room{}", index % 10));
    let publish = |redis: &RedisServer, number| (0..10).for_each(|room| publish_numbers(redis, &format!("room{room}"), number..=number));
    publish(&redis, 1);
    crowd.wait("the first message", |member| has(member, 1));
    redis.kill();
    server.eventually("not ready", |server| server.get("/readyz").0 == 503);
    assert!(server.get("/readyz").1.contains("Redis"));
    assert_eq!((server.get("/healthz").0, server.get_from(server.listen, "/healthz").unwrap().0), (200, 200));
    // Whoever comes meanwhile is let in, and answered when messages flow.
    let mut late = Client::connect(server.listen, "/ws/room0?format=json");
    assert_eq!(late.event()["type"], "connected");
    redis.restart();
    server.eventually("ready again", Server::is_ready);
    assert_eq!(late.event()["type"], "subscribed");
    publish(&redis, 2);
    crowd.wait("the message after the outage", |member| has(member, 2));
    assert_survived(&crowd);
    let event = late.event();
    let event = if event["type"] == "gap" { late.event() } else { event };
    assert_eq!(event["data"], 2);
    assert_eq!(server.metric("ws_connections_total", ""), (CROWD + 1) as f64);
    // Of the connection that is subscribed, and of the one on which is published.
    assert_eq!(server.metric("campanile_bus_disconnects_total", ""), 2.0);
    server.eventually_metric("campanile_bus_connects_total", "", 4.0);
}

#[test]
fn a_redis_that_hangs_is_noticed_and_costs_a_gap_and_no_connection() {
    let redis = RedisServer::start();
    let server = start(&redis, &["--shards", "2"]);
    let mut crowd = Crowd::subscribed(server.listen, CROWD, |_| "city".to_owned());
    publish_numbers(&redis, "city", 1..=1);
    crowd.wait("the first message", |member| has(member, 1));
    redis.pause();
    server.eventually("not ready", |server| server.get("/readyz").0 == 503);
    redis.resume();
    server.eventually("ready again", Server::is_ready);
    publish_numbers(&redis, "city", 2..=2);
    crowd.wait("the message after the outage", |member| has(member, 2));
    assert_survived(&crowd);
    assert_eq!(server.metric("ws_connections_total", ""), CROWD as f64);
}

#[test]
fn a_redis_that_starts_later_than_the_server_is_found() {
    let mut redis = RedisServer::prepared(&[]);
    let server = Server::start(&["--redis", &redis.url()]);
    let mut client = Client::connect(server.listen, "/ws/early?format=json");
    assert_eq!(client.event()["type"], "connected");
    assert_eq!(server.get("/readyz").0, 503);
    redis.restart();
    server.eventually("ready", Server::is_ready);
    assert_eq!(client.event()["type"], "subscribed");
    publish_numbers(&redis, "early", 1..=1);
    assert_eq!(client.event()["data"], 1);
}

#[test]
fn pattern_mode_subscribes_once_and_counts_what_nobody_wants() {
    let redis = RedisServer::start();
    let server = start(&redis, &["--redis-subscribe", "pattern"]);
    assert_eq!(redis.command(&["PUBSUB", "NUMPAT"]), ":1\r\n");
    let mut clients = ["a", "b:c", "b"].map(|channel| Client::subscribed(server.listen, channel));
    assert!(!redis.is_subscribed("notifications:a"));
    publish_numbers(&redis, "nobody", 1..=5);
    for (channel, client) in ["a", "b:c", "b"].iter().zip(&mut clients) {
        publish_numbers(&redis, channel, 1..=3);
        for number in 1..=3 {
            let event = client.event();
            assert_eq!((&event["channel"], &event["seq"], &event["data"]), (&json!(channel), &json!(number), &json!(number)));
        }
    }
    assert_eq!(server.metric("campanile_bus_unwanted_total", ""), 5.0);
    assert_eq!(server.metric("redis_pubsub_messages", ""), 14.0);
}

#[test]
fn the_password_of_the_url_logs_in_and_a_wrong_one_is_told() {
    let redis = RedisServer::with_arguments(&["--requirepass", "secret"]);
    let server = start(&redis, &[]);
    let mut client = Client::subscribed(server.listen, "safe");
    publish_numbers(&redis, "safe", 1..=1);
    assert_eq!(client.event()["data"], 1);
    assert!(!server.log().contains("secret"), "{}", server.log());

    let wrong = Server::start(&["--redis", &redis.url().replace("secret", "guess")]);
    wrong.eventually("the reason in the log", |server| server.log().contains("check user and password in the URL"));
    assert_eq!(wrong.get("/readyz").0, 503);
    assert!(!wrong.log().contains("guess"), "{}", wrong.log());
}

#[test]
fn payloads_of_the_wrong_kind_are_opaque_or_dropped_and_counted() {
    let redis = RedisServer::start();
    let file = "payload = \"json\"\n\n[[channels]]\nprefix = \"strict:\"\npayload_mismatch = \"drop\"\n";
    let server = Launch::new(&["--redis", &redis.url(), "--payload-bytes-max", "1k"]).file(file).start();
    let mut lenient = Client::subscribed(server.listen, "lenient");
    let mut strict = Client::subscribed(server.listen, "strict:a");
    let payloads: [&[u8]; 4] = [b"{\"cut\": ", b"\x81\xa1a\x01", b"\xff\xff", b"[1]"];
    let mut publisher = redis.publisher();
    for channel in ["notifications:lenient", "notifications:strict:a"] {
        payloads.iter().for_each(|payload| publisher.publish(channel, payload));
    }
    publisher.settle();
    let data: Vec<Value> = (1..=4)
        .map(|seq| {
            let event = lenient.event();
            assert_eq!((&event["type"], &event["seq"]), (&json!("notification"), &json!(seq)));
            event["data"].clone()
        })
        .collect();
    assert_eq!(data, [json!("{\"cut\": "), json!("gaFhAQ=="), json!("//8="), json!([1])]);
    let event = strict.event();
    assert_eq!((&event["type"], &event["data"]), (&json!("notification"), &json!([1])));
    assert_eq!(server.metric("campanile_bus_mismatched_total", ""), 3.0);
    assert_eq!(server.metric("campanile_bus_dropped_total", ""), 3.0);

    // Too large: counted, and announced to those who miss it.
    publisher.publish("notifications:lenient", format!("\"{}\"", "x".repeat(1024)).as_bytes());
    publisher.publish("notifications:lenient", b"2");
    publisher.settle();
    let gap = lenient.event();
    assert_eq!((&gap["type"], &gap["from"], &gap["to"]), (&json!("gap"), &json!(5), &json!(5)));
    let event = lenient.event();
    assert_eq!((&event["seq"], &event["data"]), (&json!(6), &json!(2)));
    assert_eq!(server.metric("campanile_bus_dropped_total", ""), 4.0);
}

#[test]
fn clients_publish_through_redis_and_are_told_when_it_is_away() {
    let mut redis = RedisServer::start();
    let server = start(&redis, &["--allow-client-publish"]);
    let mut listener = Client::subscribed(server.listen, "chat");
    let mut publisher = Client::connect(server.listen, "/ws?format=json");
    assert_eq!(publisher.event()["type"], "connected");
    for number in 1..=50 {
        publisher.command(json!({"type": "publish", "channel": "chat", "data": number, "id": number}));
    }
    for number in 1..=50 {
        let event = publisher.event();
        assert_eq!((&event["type"], &event["channel"], &event["id"]), (&json!("published"), &json!("chat"), &json!(number)));
        let event = listener.event();
        assert_eq!((&event["seq"], &event["data"]), (&json!(number), &json!(number)));
    }
    assert_eq!(server.metric("campanile_bus_published_total", ""), 50.0);
    redis.kill();
    server.eventually("not ready", |server| !server.is_ready());
    publisher.command(json!({"type": "publish", "channel": "chat", "data": 51, "id": 51}));
    let event = publisher.event();
    assert_eq!((&event["type"], &event["code"], &event["id"]), (&json!("error"), &json!("bus_unavailable"), &json!(51)));
    redis.restart();
    server.eventually("ready again", Server::is_ready);
    publisher.command(json!({"type": "publish", "channel": "chat", "data": 52, "id": 52}));
    assert_eq!(publisher.event()["type"], "published");
    assert_eq!(listener.event()["reason"], "outage");
    assert_eq!(listener.event()["data"], 52);
}

#[test]
fn the_control_port_publishes_through_redis() {
    let redis = RedisServer::start();
    let server = start(&redis, &[]);
    let mut client = Client::subscribed(server.listen, "news");
    for number in 1..=10 {
        assert_eq!(server.publish("news", &json!({"n": number})), number);
        assert_eq!(client.event()["data"], json!({"n": number}));
    }
}

#[test]
fn a_channel_that_redis_refuses_is_told_to_everybody_who_counts_on_it() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bell", "on", ">ring", "allchannels", "+@all"]);
    let server = Server::start(&["--redis", &format!("redis://bell:ring@127.0.0.1:{}", redis.port), "--shards", "1"]);
    let mut listener = Client::subscribed(server.listen, "news");
    server.eventually("ready", Server::is_ready);

    redis.command(&["ACL", "SETUSER", "bell", "resetchannels"]);
    let gap = listener.event();
    assert_eq!((&gap["type"], &gap["channel"], &gap["reason"]), (&json!("gap"), &json!("news"), &json!("refused")));
    let (status, body) = server.get("/readyz");
    assert!(status == 503 && body.contains("refuses"), "{body}");
    assert_eq!(server.metric("campanile_bus_channels_refused", ""), 1.0);
    let log = server.log_when("Redis does not let us SUBSCRIBE `notifications:news`: NOPERM");
    assert!(!log.contains("every channel is subscribed again"), "{log}");
    // Whoever comes now: to the channel that is here already, to another one, by path, by command.
    for channel in ["news", "other"] {
        let mut client = Client::connect(server.listen, &format!("/ws/{channel}?format=json"));
        assert_eq!(client.event()["type"], "connected");
        let error = client.event();
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("channel_refused")));
        assert!(error["message"].as_str().unwrap().contains(channel), "{error}");
        client.command(json!({"type": "subscribe", "channel": channel, "id": 7}));
        let error = client.event();
        assert_eq!((&error["code"], &error["id"]), (&json!("channel_refused"), &json!(7)));
    }

    redis.command(&["ACL", "SETUSER", "bell", "allchannels"]);
    let gap = listener.event();
    assert_eq!((&gap["type"], &gap["from"], &gap["reason"]), (&json!("gap"), &json!(2), &json!("outage")));
    server.eventually("ready again", Server::is_ready);
    publish_numbers(&redis, "news", 1..=1);
    assert_eq!(listener.event()["data"], 1);
    let mut late = Client::subscribed(server.listen, "news");
    publish_numbers(&redis, "news", 2..=2);
    assert_eq!((listener.event()["data"].clone(), late.event()["data"].clone()), (json!(2), json!(2)));
}

/// A client that was away for longer than `linger` (0 here: the channel would go with its last subscriber) and shorter than `history_age`
/// misses nothing, wherever messages come from.
#[test]
fn history_outlives_the_linger_in_every_mode() {
    let redis = RedisServer::start();
    let url = redis.url();
    for flags in [&[][..], &["--redis", &url], &["--redis", &url, "--redis-subscribe", "pattern"]] {
        let server = Server::start(&[flags, &["--linger", "0", "--history-count", "100"]].concat());
        server.eventually("ready", Server::is_ready);
        let publish = |number: u64| match flags.is_empty() {
            true => assert_eq!(server.publish("away", &json!(number)), number),
            false => publish_numbers(&redis, "away", number..=number),
        };
        let mut client = Client::connect(server.listen, "/ws?format=json");
        client.event();
        client.command(json!({"type": "subscribe", "channel": "away"}));
        let epoch = client.event()["epoch"].clone();
        publish(1);
        assert_eq!(client.event()["seq"], 1, "{flags:?}");
        drop(client);
        server.eventually_metric("campanile_subscriptions", "", 0.0);
        server.eventually_metric("campanile_channels", "", 0.0);
        publish(2);
        // Answered after the leave by the thread that obeys it.
        assert!(server.get("/channels").1.contains("\"away\""), "{flags:?}");
        let mut client = Client::connect(server.listen, "/ws?format=json");
        client.event();
        client.command(json!({"type": "subscribe", "channel": "away", "since": {"epoch": epoch, "seq": 1}}));
        let subscribed = client.event();
        assert_eq!((&subscribed["epoch"], &subscribed["recovered"]), (&epoch, &json!(true)), "{flags:?}: {subscribed}");
        let missed = client.event();
        assert_eq!((&missed["seq"], &missed["data"]), (&json!(2), &json!(2)), "{flags:?}");
    }
}

/// First come, first served would give a client that floods all the room there is.
#[test]
fn a_client_that_floods_publishes_takes_neither_the_operators_room_nor_a_bystanders_messages() {
    let redis = RedisServer::start();
    let server = start(&redis, &["--shards", "1", "--allow-client-publish"]);
    let mut bystander = Client::subscribed(server.listen, "quiet");
    let _listener = Client::subscribed(server.listen, "flood");
    let mut flooder = Client::subscribed(server.listen, "elsewhere");
    let mut answers = flooder.stream.try_clone().unwrap();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_done = done.clone();
    // Whatever it is answered; until the end comes.
    let reader = std::thread::spawn(move || while std::io::Read::read(&mut answers, &mut [0; 65536]).is_ok_and(|count| count > 0) {});
    let writer = std::thread::spawn(move || {
        let publish = json!({"type": "publish", "channel": "flood", "data": "x".repeat(60_000)}).to_string();
        let burst = frames::frame(frames::TEXT, publish.as_bytes()).repeat(20);
        while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
            flooder.send(&burst);
        }
        flooder.stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    for number in 1..=100 {
        assert_eq!(server.publish("quiet", &json!(number)), number);
        let event = bystander.event();
        assert_eq!((&event["type"], &event["seq"], &event["data"]), (&json!("notification"), &json!(number), &json!(number)), "{event}");
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    reader.join().unwrap();
    assert!(server.metric("campanile_bus_published_total", "") > 100.0, "the flood was one");
    assert_eq!(server.metric("campanile_bus_disconnects_total", ""), 0.0);
    assert_eq!(server.metric("campanile_bus_inbox_full_total", ""), 0.0);
}
