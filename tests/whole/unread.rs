//! How far users have read durable channels, with the whole server: over several nodes and Redis servers, in the journal, and while Redis is away or refuses.

use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use crate::support::topology::Cluster;
use campanile::bus::redis::keys;
use campanile::bus::redis::placement::Placement;
use serde_json::{Value, json};

const RULES: &str = "auth = \"query\"\n[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 1000\nhistory_age = 3600\n\
                     subscribe = \"anyone\"\n[[channels]]\nprefix = \"closed:\"\ndurable = true\nhistory_count = 10\nhistory_age = 3600\nsubscribe = \"nobody\"\n\
                     [[channels]]\nprefix = \"plain:\"\nsubscribe = \"anyone\"\n";

fn launch(redis: &[&RedisServer]) -> Launch {
    let urls: Vec<String> = redis.iter().map(|redis| redis.url()).collect();
    let mut arguments = vec!["--shards", "2"];
    urls.iter().for_each(|url| arguments.extend(["--redis", url]));
    Launch::new(&arguments).file(RULES)
}

fn start(redis: &[&RedisServer]) -> Server {
    let server = launch(redis).start();
    server.eventually("ready", Server::is_ready);
    server
}

/// The epoch.
fn publish(server: &Server, channel: &str, count: u64) -> u64 {
    let mut epoch = 0;
    for number in 1..=count {
        let (status, answer) = server.post("/publish", json!({"channel": channel, "data": number}).to_string());
        assert_eq!(status, 200, "{answer}");
        epoch = answer["epoch"].as_u64().expect("it is counted");
    }
    epoch
}

fn connect(server: &Server, user: &str) -> Client {
    let mut client = Client::connect(server.listen, &format!("/ws?format=json&user={user}"));
    assert_eq!(client.event()["type"], "connected");
    client
}

/// The answer to a command.
fn ask(client: &mut Client, command: Value) -> Value {
    client.command(command);
    client.event()
}

fn unread(client: &mut Client, channels: &[&str]) -> Vec<Value> {
    let answer = ask(client, json!({"type": "unread", "channels": channels, "id": "u"}));
    assert_eq!((&answer["type"], &answer["id"]), (&json!("unread"), &json!("u")), "{answer}");
    answer["channels"].as_array().unwrap().clone()
}

fn of(channel: &str, epoch: u64, last: u64, read: u64, unread: u64) -> Value {
    json!({"channel": channel, "epoch": epoch, "last": last, "read": read, "unread": unread})
}

fn nothing(channel: &str) -> Value {
    json!({"channel": channel, "last": 0, "read": 0, "unread": 0})
}

fn mark(client: &mut Client, channel: &str, seq: u64) -> Value {
    ask(client, json!({"type": "mark_read", "channel": channel, "seq": seq, "id": "m"}))
}

fn read(id: Option<&str>, channel: &str, epoch: u64, seq: u64) -> Value {
    match id {
        Some(id) => json!({"type": "read", "id": id, "channel": channel, "epoch": epoch, "seq": seq}),
        None => json!({"type": "read", "channel": channel, "epoch": epoch, "seq": seq}),
    }
}

fn code(answer: &Value) -> &str {
    assert_eq!(answer["type"], "error", "{answer}");
    answer["code"].as_str().unwrap()
}

/// What holds whatever keeps the marks. `second`: another node of the same, or the same one.
fn marks_are_the_users(first: &Server, second: &Server) {
    let epoch = publish(first, "feed:a", 20);
    let (mut here, mut there, mut other) = (connect(first, "ann"), connect(second, "ann"), connect(second, "ben"));
    for client in [&mut here, &mut there, &mut other] {
        assert_eq!(
            unread(client, &["feed:a", "feed:none", "feed:a"]),
            [of("feed:a", epoch, 20, 0, 20), nothing("feed:none"), of("feed:a", epoch, 20, 0, 20)]
        );
    }
    assert_eq!(mark(&mut here, "feed:a", 7), read(Some("m"), "feed:a", epoch, 7));
    assert_eq!(there.event(), read(None, "feed:a", epoch, 7), "the user's other connections are told");
    assert_eq!(unread(&mut there, &["feed:a"]), [of("feed:a", epoch, 20, 7, 13)]);
    assert_eq!(unread(&mut other, &["feed:a"]), [of("feed:a", epoch, 20, 0, 20)], "it is the user's");
    // It never goes back, and who marks what is marked is told how far it is.
    assert_eq!(mark(&mut there, "feed:a", 5), read(Some("m"), "feed:a", epoch, 7));
    assert_eq!(mark(&mut there, "feed:a", 0), read(Some("m"), "feed:a", epoch, 7));
    // Nor further than the channel.
    assert_eq!(mark(&mut there, "feed:a", 4_000_000), read(Some("m"), "feed:a", epoch, 20));
    assert_eq!(here.event(), read(None, "feed:a", epoch, 20), "nobody was told of what did not move");
    assert_eq!(unread(&mut here, &["feed:a"]), [of("feed:a", epoch, 20, 20, 0)]);
    // A number of another epoch is none.
    let answer = ask(&mut here, json!({"type": "mark_read", "channel": "feed:a", "epoch": epoch - 1, "seq": 3, "id": 1}));
    assert_eq!((code(&answer), &answer["command"], &answer["channel"]), ("other_epoch", &json!("mark_read"), &json!("feed:a")));
    let answer = ask(&mut here, json!({"type": "mark_read", "channel": "feed:a", "epoch": epoch, "seq": 3, "id": 2}));
    assert_eq!(answer, json!({"type": "read", "id": 2, "channel": "feed:a", "epoch": epoch, "seq": 20}));
    // A channel without a message has none that was read.
    assert_eq!(mark(&mut here, "feed:none", 3), json!({"type": "read", "id": "m", "channel": "feed:none", "seq": 0}));
    // What comes then is unread again.
    publish(second, "feed:a", 3);
    assert_eq!(unread(&mut here, &["feed:a"]), [of("feed:a", epoch, 23, 20, 3)]);

    // With a subscription, alone and among several.
    let mut late = connect(second, "ann");
    let subscribed = ask(&mut late, json!({"type": "subscribe", "channel": "feed:a", "unread": true, "id": 1}));
    assert_eq!(
        (&subscribed["type"], &subscribed["seq"], &subscribed["unread"]),
        (&json!("subscribed"), &json!(23), &json!(3)),
        "{subscribed}"
    );
    publish(first, "feed:a", 1);
    assert_eq!(late.messages(1), [(24, json!(1))], "each that follows is one more");
    let mut late = connect(first, "ann");
    let channels = json!([
        {"channel": "feed:a", "unread": true, "since": {"epoch": epoch, "seq": 22}},
        {"channel": "feed:none", "unread": true},
        {"channel": "feed:b"},
        {"channel": "plain:a", "unread": true},
    ]);
    late.command(json!({"type": "subscribe", "channels": channels, "id": 2}));
    let mut told = Vec::new();
    while told.len() < 4 {
        let event = late.event();
        if event["type"] != "notification" {
            told.push((
                event["channel"].as_str().unwrap().to_owned(),
                event["type"].clone(),
                event["seq"].clone(),
                event["unread"].clone(),
            ));
        }
    }
    told.sort_by(|one, other| one.0.cmp(&other.0));
    let subscribed = |channel: &str, seq, unread| (channel.to_owned(), json!("subscribed"), json!(seq), unread);
    assert_eq!(told[0], subscribed("feed:a", 22, json!(2)));
    assert_eq!(told[1], subscribed("feed:b", 0, Value::Null));
    assert_eq!(told[2], subscribed("feed:none", 0, json!(0)));
    assert_eq!(told[3], ("plain:a".to_owned(), json!("error"), Value::Null, Value::Null));

    // Back ends, whose marks are told to all.
    let (status, answer) = first.post("/mark_read", json!({"user": "ann", "channel": "feed:a", "seq": 21}).to_string());
    assert_eq!((status, answer), (200, json!({"user": "ann", "channel": "feed:a", "epoch": epoch, "seq": 21})));
    for client in [&mut here, &mut there] {
        assert_eq!(client.event(), read(None, "feed:a", epoch, 21));
    }
    let (status, text) = second.get("/unread?user=ann&channel=feed:a&channel=feed:never");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let none = json!({"channel": "feed:never", "epoch": null, "last": 0, "read": 0, "unread": 0});
    assert_eq!((status, answer), (200, json!({"user": "ann", "channels": [of("feed:a", epoch, 24, 21, 3), none]})));
    for (channel, status) in [("plain:a", 400), ("feed:a", 409)] {
        let body = json!({"user": "ann", "channel": channel, "seq": 1, "epoch": epoch + 1}).to_string();
        let (found, answer) = first.post("/mark_read", body);
        assert_eq!(found, status, "{answer}");
    }
    assert!(first.metric("campanile_bus_marks_set_total", "") > 0.0 && first.metric("campanile_bus_marks_counted_total", "") > 0.0);
    assert!(first.metric("campanile_marks_told_total", "") > 0.0 && first.metric("campanile_bus_marks_failed_total", "") > 0.0);
    assert_eq!(first.metric("campanile_bus_protocol_errors_total", ""), 0.0);
}

#[test]
fn two_nodes_on_a_redis_know_the_same() {
    let redis = RedisServer::start();
    let (first, second) = (start(&[&redis]), start(&[&redis]));
    marks_are_the_users(&first, &second);
    // They stand where the documents say, and go by themselves.
    let age: i64 = redis.command(&["PTTL", "notifications:{ann}:marks"]).trim().trim_start_matches(':').parse().unwrap();
    assert!(age > 89 * 24 * 3_600_000, "{age}");
    assert!(redis.command(&["ZRANGE", "notifications:{ann}:marks", "0", "-1"]).contains(":feed:a\r\n"));
    // Redis is not asked for more than is needed: one connection for it, opened by a question.
    let third = start(&[&redis]);
    let connects = third.metric("campanile_bus_connects_total", "");
    let mut client = connect(&third, "eve");
    unread(&mut client, &["feed:a"]);
    unread(&mut client, &["feed:a"]);
    assert_eq!(third.metric("campanile_bus_connects_total", ""), connects + 1.0);
}

#[test]
fn in_pattern_mode_too() {
    let redis = RedisServer::start();
    let text = format!("redis = \"{}\"\nredis_subscribe = \"pattern\"\n{RULES}", redis.url());
    let launch = || Launch::new(&["--shards", "1"]).file(&text).start();
    let (first, second) = (launch(), launch());
    [&first, &second].into_iter().for_each(|server| server.eventually("ready", Server::is_ready));
    marks_are_the_users(&first, &second);
}

/// Of which some have the user and others the channels.
#[test]
fn several_redis_servers_are_asked_for_what_each_has() {
    let redis = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let all: Vec<&RedisServer> = redis.iter().collect();
    let (first, second) = (start(&all), start(&all));
    marks_are_the_users(&first, &second);
    let placement = Placement::of(3);
    let named = |prefix: &str, server: usize| {
        (0..).map(|number| format!("{prefix}{number}")).find(|name| placement.server_of(name) == Some(server)).unwrap()
    };
    let channels: Vec<String> = (0..3).map(|server| named("feed:", server)).collect();
    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
    let epochs: Vec<u64> = names.iter().map(|name| publish(&first, name, 5)).collect();
    for server in 0..3 {
        let user = named("user", server);
        let mut client = connect(&second, &user);
        for (name, &epoch) in names.iter().zip(&epochs) {
            assert_eq!(mark(&mut client, name, 3), read(Some("m"), name, epoch, 3));
        }
        let expected: Vec<Value> = names.iter().zip(&epochs).map(|(name, &epoch)| of(name, epoch, 5, 3, 2)).collect();
        assert_eq!(unread(&mut client, &names), expected);
        let key = format!("notifications:{{{user}}}:marks");
        for (other, redis) in redis.iter().enumerate() {
            assert_eq!(redis.command(&["ZCARD", &key]), if other == server { ":3\r\n" } else { ":0\r\n" });
        }
    }
}

/// What befalls one server befalls the questions that need it.
#[test]
fn a_server_that_hangs_or_dies_holds_up_no_others_questions() {
    let mut redis = [RedisServer::start(), RedisServer::start()];
    let server = start(&[&redis[0], &redis[1]]);
    let placement = Placement::of(2);
    let named = |prefix: &str, server: usize| {
        (0..).map(|number| format!("{prefix}{number}")).find(|name| placement.server_of(name) == Some(server)).unwrap()
    };
    let (held, free) = (named("feed:", 0), named("feed:", 1));
    let epoch = publish(&server, &free, 5);
    publish(&server, &held, 5);
    let (mut stuck, mut lively) = (connect(&server, &named("user", 1)), connect(&server, &named("user", 1)));
    assert_eq!(unread(&mut stuck, &[&held, &free])[1], of(&free, epoch, 5, 0, 5));
    redis[0].pause();
    stuck.command(json!({"type": "unread", "channels": [held, free], "id": "stuck"}));
    for _ in 0..20 {
        assert_eq!(unread(&mut lively, &[&free]), [of(&free, epoch, 5, 0, 5)]);
    }
    let answer = stuck.event();
    assert_eq!((code(&answer), &answer["id"]), ("bus_unavailable", &json!("stuck")));
    assert!(answer["message"].as_str().unwrap().contains("within 4 seconds: it did not answer"), "{answer}");
    redis[0].resume();
    server.eventually("ready again", Server::is_ready);
    redis[0].kill();
    server.eventually("it notices", |server| !server.is_ready());
    let answer = ask(&mut stuck, json!({"type": "unread", "channels": [free, held], "id": "away"}));
    assert_eq!(code(&answer), "bus_unavailable");
    assert!(answer["message"].as_str().unwrap().contains("cannot be reached"), "{answer}");
    assert_eq!(unread(&mut lively, &[&free]), [of(&free, epoch, 5, 0, 5)]);
    redis[0].restart();
    server.eventually("ready again", Server::is_ready);
    assert_eq!(unread(&mut stuck, &[&held, &free]), [nothing(&held), of(&free, epoch, 5, 0, 5)], "it has lost what it had");
}

#[test]
fn without_redis_the_journal_keeps_marks() {
    for has_folder in [false, true] {
        let text = if has_folder { format!("data_dir = \"data\"\n{RULES}") } else { RULES.to_owned() };
        let launch = Launch::new(&["--shards", "2"]).file(&text);
        let directory = launch.directory.clone();
        let mut server = launch.start();
        marks_are_the_users(&server, &server);
        if !has_folder {
            continue;
        }
        let known = unread(&mut connect(&server, "ann"), &["feed:a"]);
        assert_eq!((&known[0]["last"], &known[0]["read"]), (&json!(24), &json!(21)));
        server.kill();
        let mut launch = Launch::new(&["--shards", "1"]);
        launch.directory = directory;
        let again = launch.file(&text).start();
        assert_eq!(unread(&mut connect(&again, "ann"), &["feed:a"]), known);
        assert_eq!(mark(&mut connect(&again, "ann"), "feed:a", 3)["seq"], 21, "nor does it go back then");
    }
}

#[test]
fn a_mark_of_an_epoch_that_is_over_counts_no_more() {
    let redis = RedisServer::start();
    let (first, second) = (start(&[&redis]), start(&[&redis]));
    let before = publish(&first, "feed:a", 10);
    let mut client = connect(&second, "ann");
    assert_eq!(mark(&mut client, "feed:a", 9), read(Some("m"), "feed:a", before, 9));
    redis.command(&["DEL", "notifications:{feed:a}:stream", "notifications:{feed:a}:meta"]);
    let epoch = publish(&first, "feed:a", 4);
    assert!(epoch > before);
    assert_eq!(unread(&mut client, &["feed:a"]), [of("feed:a", epoch, 4, 0, 4)]);
    let answer = ask(&mut client, json!({"type": "mark_read", "channel": "feed:a", "epoch": before, "seq": 10, "id": 1}));
    assert_eq!(code(&answer), "other_epoch");
    assert_eq!(mark(&mut client, "feed:a", 2), read(Some("m"), "feed:a", epoch, 2));
    // What is gone from the stream is not counted.
    redis.command(&["XTRIM", "notifications:{feed:a}:stream", "MAXLEN", "1"]);
    assert_eq!(unread(&mut client, &["feed:a"]), [of("feed:a", epoch, 4, 2, 1)]);
    redis.command(&["DEL", "notifications:{feed:a}:stream"]);
    assert_eq!(unread(&mut client, &["feed:a"]), [of("feed:a", epoch, 4, 2, 0)]);
}

#[test]
fn who_may_not_is_told_why() {
    let server = Launch::new(&["--shards", "1"]).file(RULES).start();
    let mut client = connect(&server, "ann");
    let open = Launch::new(&["--shards", "1"]).file(&RULES.replace("auth = \"query\"\n", "")).start();
    let mut nobody = Client::connect(open.listen, "/ws?format=json");
    assert_eq!(nobody.event()["type"], "connected");
    let commands = |channel: &str| {
        [
            json!({"type": "mark_read", "channel": channel, "seq": 1, "id": 1}),
            json!({"type": "unread", "channels": ["feed:a", channel], "id": 1}),
            json!({"type": "subscribe", "channel": channel, "unread": true, "id": 1}),
        ]
    };
    for (channel, expected) in [("plain:a", "not_durable"), ("closed:a", "not_allowed")] {
        for command in commands(channel) {
            let answer = ask(&mut client, command);
            assert_eq!((code(&answer), &answer["channel"], &answer["id"]), (expected, &json!(channel), &json!(1)), "{answer}");
        }
    }
    for command in commands("feed:b") {
        assert_eq!(code(&ask(&mut nobody, command)), "no_user");
    }
    let subscribed = ask(&mut nobody, json!({"type": "subscribe", "channel": "feed:b"}));
    assert_eq!((&subscribed["type"], subscribed.get("unread")), (&json!("subscribed"), None));
    // A connection that has asked is told nothing of channels that it may not have.
    unread(&mut client, &["feed:a"]);
    assert_eq!(server.post("/mark_read", json!({"user": "ann", "channel": "closed:a", "seq": 1}).to_string()).0, 200);
    publish(&server, "closed:a", 3);
    assert_eq!(server.post("/mark_read", json!({"user": "ann", "channel": "closed:a", "seq": 2}).to_string()).1["seq"], 2);
    publish(&server, "feed:a", 3);
    assert_eq!(server.post("/mark_read", json!({"user": "ann", "channel": "feed:a", "seq": 3}).to_string()).1["seq"], 3);
    let told = client.event();
    assert_eq!((&told["type"], &told["channel"], &told["seq"]), (&json!("read"), &json!("feed:a"), &json!(3)));
}

/// Commands that are sent together are obeyed in their order, however long the count takes.
#[test]
fn a_subscription_that_waits_for_its_count_is_one() {
    let redis = RedisServer::start();
    let server = start(&[&redis]);
    let epoch = publish(&server, "feed:a", 5);
    let mut present = connect(&server, "carl");
    assert_eq!(ask(&mut present, json!({"type": "subscribe", "channel": "feed:a"}))["type"], "subscribed");
    let mut client = connect(&server, "ann");
    redis.pause();
    for command in [
        json!({"type": "subscribe", "channel": "feed:a", "unread": true, "id": 1}),
        json!({"type": "subscribe", "channel": "feed:a", "id": 2}),
        json!({"type": "unsubscribe", "channel": "feed:a", "id": 3}),
        json!({"type": "unsubscribe", "channel": "feed:a", "id": 4}),
        json!({"type": "subscribe", "channel": "feed:a", "since": {"epoch": epoch, "seq": 2}, "unread": true, "id": 5}),
        json!({"type": "ping", "id": 6}),
    ] {
        client.command(command);
    }
    assert_eq!(code(&client.event()), "already_subscribed");
    assert_eq!(client.event()["type"], "unsubscribed");
    assert_eq!(code(&client.event()), "not_subscribed");
    assert_eq!(client.event(), json!({"type": "pong", "id": 6}));
    redis.resume();
    let subscribed = client.event();
    assert_eq!((&subscribed["id"], &subscribed["seq"], &subscribed["unread"]), (&json!(5), &json!(2), &json!(2)), "{subscribed}");
    assert_eq!(client.messages(3), [(3, json!(3)), (4, json!(4)), (5, json!(5))]);
    publish(&server, "feed:a", 1);
    assert_eq!(client.messages(1), [(6, json!(1))]);
    assert_eq!(present.messages(1), [(6, json!(1))]);
    // Where it cannot be counted the subscription begins without.
    redis.command(&["SET", "notifications:{ben}:marks", "x"]);
    let mut other = connect(&server, "ben");
    let subscribed = ask(&mut other, json!({"type": "subscribe", "channel": "feed:a", "unread": true, "id": 1}));
    assert_eq!(
        (&subscribed["type"], &subscribed["seq"], subscribed.get("unread")),
        (&json!("subscribed"), &json!(6), None),
        "{subscribed}"
    );
}

#[test]
fn what_redis_refuses_is_told_with_its_cure() {
    let mut redis = RedisServer::start();
    let server = start(&[&redis]);
    publish(&server, "feed:a", 5);
    publish(&server, "feed:b", 5);
    let mut client = connect(&server, "ann");
    // Something else where the marks, and where a channel's numbers should be.
    redis.command(&["SET", "notifications:{ann}:marks", "x"]);
    for command in [json!({"type": "mark_read", "channel": "feed:a", "seq": 1}), json!({"type": "unread", "channels": ["feed:a"]})] {
        let answer = ask(&mut client, command);
        let message = answer["message"].as_str().unwrap();
        assert!(code(&answer) == "bus_unavailable" && message.contains("WRONGTYPE") && message.contains("Delete it"), "{answer}");
    }
    assert_eq!(redis.command(&["GET", "notifications:{ann}:marks"]), "$1\r\nx\r\n", "it is left as it is");
    assert_eq!(server.get("/unread?user=ann&channel=feed:a").0, 502);
    redis.command(&["DEL", "notifications:{ann}:marks"]);
    redis.command(&["DEL", "notifications:{feed:b}:meta"]);
    redis.command(&["SET", "notifications:{feed:b}:meta", "x"]);
    let answer = ask(&mut client, json!({"type": "unread", "channels": ["feed:a", "feed:b"]}));
    assert!(answer["message"].as_str().unwrap().contains("(of the channel feed:b)"), "{answer}");
    assert_eq!(mark(&mut client, "feed:a", 3)["seq"], 3, "what is wrong with one key is no matter of others");
    server.log_when("what users have read cannot be kept in Redis");

    // A user that may not.
    let rights = ["ACL", "SETUSER", "app", "on", ">pw", "allkeys", "allchannels", "+@all", "-zadd"];
    redis.command(&rights);
    let url = redis.url().replace("redis://", "redis://app:pw@");
    let poor = Launch::new(&["--shards", "1", "--redis", &url]).file(RULES).start();
    poor.eventually("ready", Server::is_ready);
    let mut client = connect(&poor, "ann");
    let answer = mark(&mut client, "feed:a", 4);
    assert!(code(&answer) == "bus_unavailable" && answer["message"].as_str().unwrap().contains("+zadd"), "{answer}");
    assert_eq!(unread(&mut client, &["feed:a"])[0]["read"], 3, "what it may it can");
    redis.command(&["ACL", "SETUSER", "app", "+zadd", "resetchannels", "&notifications:feed:*", "&notifications"]);
    // Redis cuts off whoever had what is not allowed any more.
    poor.log_when("Redis is back");
    assert_eq!(mark(&mut client, "feed:a", 4)["seq"], 4, "though others cannot be told");

    // One that takes no writes now, and one that is away.
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let answer = mark(&mut client, "feed:a", 5);
    let message = answer["message"].as_str().unwrap();
    assert!(code(&answer) == "bus_unavailable" && message.contains("within 4 seconds: OOM"), "{answer}");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(mark(&mut client, "feed:a", 5)["seq"], 5);
    redis.pause();
    let begin = std::time::Instant::now();
    let answer = mark(&mut client, "feed:a", 5);
    assert!(code(&answer) == "bus_unavailable" && begin.elapsed().as_secs() >= 3, "{answer}");
    redis.resume();
    assert_eq!(mark(&mut client, "feed:a", 5)["seq"], 5);
    redis.kill();
    poor.eventually("it notices", |server| !server.is_ready());
    assert_eq!(code(&mark(&mut client, "feed:a", 5)), "bus_unavailable");
    assert_eq!(poor.get("/unread?user=ann&channel=feed:a").0, 503);
}

/// What a connection that is lost has not answered is asked again.
#[test]
fn a_connection_that_is_cut_costs_no_answer() {
    let redis = RedisServer::start();
    let server = start(&[&redis]);
    publish(&server, "feed:a", 100);
    let mut client = connect(&server, "ann");
    assert_eq!(mark(&mut client, "feed:a", 1)["seq"], 1);
    for number in 2..=60 {
        client.command(json!({"type": "mark_read", "channel": "feed:a", "seq": number, "id": number}));
        if number % 20 == 0 {
            redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        }
    }
    for number in 2..=60 {
        let answer = client.event();
        assert_eq!((&answer["type"], &answer["id"]), (&json!("read"), &json!(number)), "{answer}");
        assert!(answer["seq"].as_u64().unwrap() >= number, "{answer}");
    }
    assert_eq!(unread(&mut client, &["feed:a"])[0]["read"], 60);
}

/// Marks beyond a thousand go, those of epochs that are over first.
#[test]
fn marks_of_a_user_are_bounded() {
    let redis = RedisServer::start();
    let server = start(&[&redis]);
    let epoch = publish(&server, "feed:a", 5);
    let key = "notifications:{ann}:marks";
    for number in 0..600 {
        redis.command(&["ZADD", key, "9", &format!("{epoch}:feed:{number}")]);
        redis.command(&["ZADD", key, "9", &format!("{}:feed:{number}", epoch - 1)]);
    }
    let mut client = connect(&server, "ann");
    assert_eq!(mark(&mut client, "feed:a", 3)["seq"], 3);
    server.eventually("those of the epoch before are gone", |_| redis.command(&["ZCARD", key]) == ":601\r\n");
    assert_eq!(unread(&mut client, &["feed:a"]), [of("feed:a", epoch, 5, 3, 2)]);
}

/// What one connection has under way leaves room for others, and each question is answered.
#[test]
fn whoever_floods_is_told_busy_and_others_are_not() {
    let redis = RedisServer::start();
    let server = launch(&[&redis]).file(&format!("commands_per_second = 10000\n{RULES}")).start();
    server.eventually("ready", Server::is_ready);
    publish(&server, "feed:a", 5);
    let (mut flood, mut other) = (connect(&server, "ann"), connect(&server, "ben"));
    assert_eq!(mark(&mut other, "feed:a", 1)["seq"], 1);
    redis.pause();
    const COUNT: u64 = 3000;
    for number in 0..COUNT {
        flood.command(json!({"type": "mark_read", "channel": "feed:a", "seq": number % 6, "id": number}));
    }
    flood.command(json!({"type": "ping", "id": "behind"}));
    let mut answers = std::collections::HashMap::new();
    let mut busy = 0;
    loop {
        let event = flood.event();
        match event["type"].as_str() {
            Some("pong") => break,
            Some("error") if event["code"] == "busy" => busy += 1,
            _ => panic!("{event}"),
        }
        *answers.entry(event["id"].to_string()).or_insert(0) += 1;
    }
    assert!(busy > COUNT / 2, "{busy}");
    other.command(json!({"type": "unread", "channels": ["feed:a"], "id": "u"}));
    redis.resume();
    assert_eq!(other.event()["channels"][0]["read"], 1, "there was room for it");
    while answers.len() < COUNT as usize {
        let event = flood.event();
        assert!(event["type"] == "read" || event["code"] == "bus_unavailable", "{event}");
        *answers.entry(event["id"].to_string()).or_insert(0) += 1;
    }
    assert!(answers.values().all(|&count| count == 1), "each is answered once");
    assert_eq!(unread(&mut flood, &["feed:a"])[0]["read"], 5);
}

/// Names of users and channels as they may be, and as many channels as may be.
#[test]
fn names_are_taken_as_they_are() {
    let redis = RedisServer::start();
    let (first, second) = (start(&[&redis]), start(&[&redis]));
    let channels: Vec<String> = (0..128).map(|number| format!("feed:{{}}% é {number}\u{2028}")).collect();
    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
    let epoch = publish(&first, names[0], 3);
    let user = "a{b}%25 c:é*";
    let encoded: String = user.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let (mut here, mut there) = (connect(&first, &encoded), connect(&second, &encoded));
    unread(&mut there, &names[..1]);
    assert_eq!(mark(&mut here, names[0], 2), read(Some("m"), names[0], epoch, 2));
    assert_eq!(there.event(), read(None, names[0], epoch, 2));
    assert!(redis.command(&["EXISTS", "notifications:{a%7Bb%7D%2525 c:é*}:marks"]).starts_with(":1"));
    let found = unread(&mut there, &names);
    assert_eq!((found.len(), &found[0], &found[127]), (128, &of(names[0], epoch, 3, 2, 1), &nothing(names[127])));
    let answer = ask(&mut here, json!({"type": "unread", "channels": vec!["feed:a"; 129]}));
    assert_eq!(code(&answer), "bad_command");
    // Each of them counts as a command.
    let slow = launch(&[&redis]).file(&format!("commands_per_second = 1\nsubscriptions_max = 1\n{RULES}")).start();
    slow.eventually("ready", Server::is_ready);
    let answer = ask(&mut connect(&slow, "ann"), json!({"type": "unread", "channels": names, "id": 1}));
    assert_eq!((code(&answer), &answer["command"], &answer["id"]), ("rate_limited", &json!("unread"), &json!(1)));
}

/// A user's marks and the channels lie on whichever master has their slots, also when those move.
#[test]
fn marks_lie_where_their_slots_are() {
    let cluster = Cluster::start(3, 0, &[]);
    for pubsub in ["classic", "sharded"] {
        let start = || {
            let file = format!("redis = \"{}\"\npubsub = \"{pubsub}\"\n{RULES}", cluster.url());
            let server = Launch::new(&["--shards", "1"]).file(&file).start();
            server.eventually("ready", Server::is_ready);
            server
        };
        let (first, second) = (start(), start());
        marks_are_the_users(&first, &second);
        // Channels of all masters in one question.
        let names: Vec<String> = (0..20).map(|number| format!("feed:{pubsub}:{number}")).collect();
        let epochs: Vec<u64> = names.iter().map(|name| publish(&first, name, 3)).collect();
        let channels: Vec<&str> = names.iter().map(String::as_str).collect();
        let expected = |read| names.iter().zip(&epochs).map(|(name, &epoch)| of(name, epoch, 3, read, 3 - read)).collect::<Vec<_>>();
        let mut client = connect(&second, "cleo");
        assert_eq!(unread(&mut client, &channels), expected(0));
        for name in &names {
            mark(&mut client, name, 2);
        }
        assert_eq!(unread(&mut client, &channels), expected(2));
        let of_user = cluster.owner(keys::slot_of("cleo"));
        cluster.move_slots(of_user, (of_user + 1) % 3, 5000);
        assert_ne!(cluster.owner(keys::slot_of("cleo")), of_user);
        // Whoever asks first finds out.
        assert_eq!(unread(&mut client, &channels), expected(2));
        assert_eq!(unread(&mut connect(&first, "cleo"), &channels), expected(2));
        cluster.move_slots((of_user + 1) % 3, of_user, 5000);
        for server in &cluster.servers {
            server.command(&["FLUSHALL"]);
        }
    }
}
