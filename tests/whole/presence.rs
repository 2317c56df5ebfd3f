//! Who is there over all nodes: subscribers of channels, connections of users, what back ends are told; with a real Redis, several, and without.

use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use crate::support::topology::Cluster;
use campanile::bus::redis::keys;
use campanile::bus::redis::placement::Placement;
use serde_json::{Value, json};

const RULES: &str = "presence_lease = 3\n\
                     [[channels]]\nprefix = \"room:\"\npresence = true\n\
                     [[channels]]\nprefix = \"quiet:\"\npresence = true\npresence_ask = \"nobody\"\n\
                     [[channels]]\nprefix = \"closed:\"\npresence = true\nsubscribe = \"nobody\"\n";

fn node(redis: &RedisServer) -> Server {
    let server = Launch::new(&["--shards", "2", "--redis", &redis.url()]).file(RULES).start();
    server.eventually("ready", Server::is_ready);
    server
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// None: it cannot be told now.
fn asked(server: &Server, query: &str) -> Option<u64> {
    let (status, text) = server.get(&format!("/presence?{query}"));
    let field = if query.starts_with("user") { "connections" } else { "subscribers" };
    (status == 200).then(|| parsed(&text)[field].as_u64().unwrap())
}

#[track_caller]
fn comes_to(server: &Server, query: &str, count: u64) {
    server.eventually(&format!("{query} comes to {count}"), |server| asked(server, query) == Some(count));
}

/// What a client is told.
fn told(client: &mut Client, channel: &str) -> Value {
    client.command(json!({"type": "presence", "channel": channel, "id": "p"}));
    loop {
        let event = client.event();
        if event["id"] == "p" {
            return event;
        }
    }
}

/// Names and numbers of all channels, in pages of so many.
fn census(server: &Server, limit: usize) -> Vec<(String, u64)> {
    let (mut found, mut from) = (Vec::new(), String::new());
    loop {
        let (status, text) = server.get(&format!("/channels?scope=cluster&limit={limit}{from}"));
        if status != 200 {
            return Vec::new();
        }
        let page = parsed(&text);
        let channels = page["channels"].as_array().unwrap();
        assert!(channels.len() <= limit, "{page}");
        found.extend(
            channels.iter().map(|channel| (channel["name"].as_str().unwrap().to_owned(), channel["subscribers"].as_u64().unwrap())),
        );
        match page["next"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => return found,
        }
    }
}

/// Type, name and number of each event that back ends were told.
fn events(redis: &RedisServer) -> Vec<(String, String, u64)> {
    let answer = redis.command(&["XRANGE", "notifications:{presence}:events", "-", "+"]);
    let redis::Value::Array(entries) = redis::parse_redis_value(answer.as_bytes()).unwrap() else { panic!("{answer}") };
    let text = |value: &redis::Value| match value {
        redis::Value::BulkString(text) => String::from_utf8(text.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    let event = |entry: &redis::Value| {
        let redis::Value::Array(parts) = entry else { panic!("{entry:?}") };
        let redis::Value::Array(fields) = &parts[1] else { panic!("{entry:?}") };
        let fields: Vec<String> = fields.iter().map(text).collect();
        assert_eq!((&*fields[0], &*fields[6], fields[7].len()), ("type", "node", 16), "{fields:?}");
        let names = match &*fields[1] {
            "occupied" | "vacated" => ["channel", "subscribers"],
            "connected" | "disconnected" => ["user", "connections"],
            other => panic!("{other}"),
        };
        assert_eq!([&*fields[2], &*fields[4]], names);
        (fields[1].clone(), fields[3].clone(), fields[5].parse().unwrap())
    };
    entries.iter().map(event).collect()
}

/// Types of the events of one channel or user, of which the same may have been told several times.
fn states(redis: &RedisServer, name: &str) -> Vec<String> {
    let mut states: Vec<String> = events(redis).into_iter().filter(|event| event.1 == name).map(|event| event.0).collect();
    states.dedup();
    states
}

#[track_caller]
fn is_told(server: &Server, redis: &RedisServer, name: &str, expected: &[&str]) {
    server.eventually(&format!("back ends are told of {name} that it is {expected:?}"), |_| states(redis, name) == expected);
}

#[test]
fn two_nodes_make_one_number() {
    let redis = RedisServer::start();
    let (first, second) = (node(&redis), node(&redis));
    let mut here: Vec<Client> = (0..3).map(|_| Client::subscribed(first.listen, "room:1")).collect();
    let there = Client::subscribed(second.listen, "room:1");
    let other = Client::subscribed(second.listen, "room:2");
    for server in [&first, &second] {
        comes_to(server, "channel=room:1", 4);
        comes_to(server, "channel=room:2", 1);
        assert_eq!(asked(server, "channel=room:none"), Some(0));
    }
    assert_eq!(told(&mut here[0], "room:1"), json!({"type": "presence", "id": "p", "channel": "room:1", "subscribers": 4}));
    let all = [("room:1".to_owned(), 4), ("room:2".to_owned(), 1)];
    for server in [&first, &second] {
        for limit in [1, 2, 100] {
            server.eventually("both are listed", |server| census(server, limit) == all);
        }
    }
    is_told(&first, &redis, "room:1", &["occupied"]);
    drop(here);
    comes_to(&second, "channel=room:1", 1);
    drop(there);
    comes_to(&first, "channel=room:1", 0);
    is_told(&first, &redis, "room:1", &["occupied", "vacated"]);
    is_told(&first, &redis, "room:2", &["occupied"]);
    first.eventually("one is listed", |server| census(server, 10) == all[1..]);
    assert!(first.metric("campanile_presence_answered_total", "") > 0.0);
    assert!(first.metric("campanile_bus_presence_events_total", "") + second.metric("campanile_bus_presence_events_total", "") >= 3.0);
    assert_eq!(first.metric("campanile_bus_presence_refused_total", ""), 0.0);
    drop(other);
}

/// Its numbers go with its lease, and the other one says of what it alone had that it is vacated.
#[test]
fn a_node_that_is_killed_is_not_counted_for_longer_than_its_lease() {
    let redis = RedisServer::start();
    let (first, mut second) = (node(&redis), node(&redis));
    let _here = Client::subscribed(first.listen, "room:shared");
    let _there = [Client::subscribed(second.listen, "room:shared"), Client::subscribed(second.listen, "room:lonely")];
    comes_to(&first, "channel=room:shared", 2);
    comes_to(&first, "channel=room:lonely", 1);
    is_told(&first, &redis, "room:lonely", &["occupied"]);
    second.kill();
    comes_to(&first, "channel=room:lonely", 0);
    comes_to(&first, "channel=room:shared", 1);
    is_told(&first, &redis, "room:lonely", &["occupied", "vacated"]);
    assert_eq!(states(&redis, "room:shared"), ["occupied"]);
    first.eventually("it is struck from the list", |_| redis.command(&["SCARD", "notifications:{presence}:nodes"]) == ":1\r\n");
    first.eventually("what is left is listed", |server| census(server, 10) == [("room:shared".to_owned(), 1)]);
}

/// So does a node that went while nobody else was there: the next one that comes says it.
#[test]
fn what_the_last_node_has_left_is_told_by_the_next() {
    let redis = RedisServer::start();
    let mut first = node(&redis);
    let client = Client::subscribed(first.listen, "room:1");
    is_told(&first, &redis, "room:1", &["occupied"]);
    first.kill();
    drop(client);
    let second = node(&redis);
    is_told(&second, &redis, "room:1", &["occupied", "vacated"]);
}

#[test]
fn a_node_that_ends_well_takes_its_numbers_back() {
    let redis = RedisServer::start();
    let first = node(&redis);
    let mut second = Launch::new(&["--redis", &redis.url(), "--shutdown-timeout", "0"]).file(&RULES.replace("= 3", "= 3600")).start();
    second.eventually("ready", Server::is_ready);
    let client = Client::subscribed(second.listen, "room:1");
    comes_to(&first, "channel=room:1", 1);
    second.terminate();
    assert_eq!(second.exit_code(), 0);
    // Its lease would be an hour.
    comes_to(&first, "channel=room:1", 0);
    is_told(&first, &redis, "room:1", &["occupied", "vacated"]);
    drop(client);
}

#[test]
fn numbers_come_back_with_a_redis_that_was_away() {
    let mut redis = RedisServer::start();
    let (first, second) = (node(&redis), node(&redis));
    let mut here = Client::subscribed(first.listen, "room:1");
    let gone = Client::subscribed(second.listen, "room:2");
    let _there = Client::subscribed(second.listen, "room:1");
    comes_to(&first, "channel=room:1", 2);
    comes_to(&first, "channel=room:2", 1);
    redis.kill();
    first.eventually("it notices", |server| !server.is_ready());
    first.eventually("what others have is not known", |server| server.get("/presence?channel=room:1").0 == 503);
    assert_eq!(first.get("/channels?scope=cluster").0, 503);
    let event = told(&mut here, "room:1");
    assert_eq!((&event["type"], &event["code"]), (&json!("error"), &json!("bus_unavailable")), "{event}");
    drop(gone);
    redis.restart();
    comes_to(&first, "channel=room:1", 2);
    comes_to(&first, "channel=room:2", 0);
    is_told(&first, &redis, "room:1", &["occupied"]);
    // All that there is, emptied under them.
    redis.command(&["FLUSHALL"]);
    comes_to(&second, "channel=room:1", 2);
    is_told(&second, &redis, "room:1", &["occupied"]);
}

#[test]
fn each_of_several_servers_has_the_numbers_of_its_channels() {
    let mut redis = [RedisServer::start(), RedisServer::start()];
    let urls = [redis[0].url(), redis[1].url()];
    let launch = || Launch::new(&["--shards", "1", "--redis", &urls[0], "--redis", &urls[1]]).file(RULES).start();
    let (first, second) = (launch(), launch());
    first.eventually("ready", Server::is_ready);
    second.eventually("ready", Server::is_ready);
    let names: Vec<String> = (0..20).map(|number| format!("room:{number:02}")).collect();
    let clients: Vec<Client> = names.iter().map(|name| Client::subscribed(first.listen, name)).collect();
    let _there: Vec<Client> = names[..5].iter().map(|name| Client::subscribed(second.listen, name)).collect();
    for name in &names {
        comes_to(&second, &format!("channel={name}"), if name < &names[5] { 2 } else { 1 });
    }
    let all: Vec<(String, u64)> = names.iter().map(|name| (name.clone(), if name < &names[5] { 2 } else { 1 })).collect();
    for limit in [1, 3, 7, 1000] {
        second.eventually("all of them, in the order of their names", |server| census(server, limit) == all);
    }
    let server_of = |name: &str| Placement::of(2).server_of(name).unwrap();
    for (name, at) in names.iter().map(|name| (name, server_of(name))) {
        is_told(&first, &redis[at], name, &["occupied"]);
        assert_eq!(states(&redis[1 - at], name), [""; 0]);
    }
    // What befalls one is no matter of the other's channels.
    redis[0].kill();
    second.eventually("it notices", |server| !server.is_ready());
    let [of_first, of_second] = [0, 1].map(|at| names.iter().find(|name| server_of(name) == at).unwrap());
    second.eventually("what lies there is not known", |server| asked(server, &format!("channel={of_first}")).is_none());
    assert!(asked(&second, &format!("channel={of_second}")).is_some());
    assert_eq!(second.get("/channels?scope=cluster").0, 503);
    drop(clients);
}

#[test]
fn who_may_not_ask_is_told_so_and_nonsense_is() {
    let redis = RedisServer::start();
    let server = node(&redis);
    let mut client = Client::connect(server.listen, "/ws?format=json");
    assert_eq!(client.event()["type"], "connected");
    for channel in ["plain", "quiet:1", "closed:1"] {
        let event = told(&mut client, channel);
        assert_eq!((&event["code"], &event["command"]), (&json!("not_allowed"), &json!("presence")), "{event}");
    }
    assert_eq!(told(&mut client, "a\n")["code"], "bad_channel");
    assert_eq!(told(&mut client, "room:1")["subscribers"], 0);
    // Operators are told.
    comes_to(&server, "channel=quiet:1", 0);
    for query in ["", "?channel=", "?channel=a&user=b", "?room=1", "?channel=plain", "?user=u1", "?user="] {
        let (status, text) = server.get(&format!("/presence{query}"));
        assert!(status == 400 && text.contains("channel=NAME or user=NAME"), "{query}: {status} {text}");
    }
    for query in ["scope=world", "scope=cluster&limit=0", "scope=node&from=room"] {
        let (status, text) = server.get(&format!("/channels?{query}"));
        assert!(status == 400 && text.contains("cluster"), "{query}: {status} {text}");
    }
    // Nobody is there: nothing is kept.
    assert_eq!(redis.command(&["EXISTS", "notifications:{presence}:occupied", "notifications:{presence}:events"]), ":0\r\n");
}

/// Without a word about presence nothing of it is in Redis, and there is no connection for it.
#[test]
fn what_nobody_asks_for_costs_nothing() {
    let redis = RedisServer::start();
    let server = Server::start(&["--redis", &redis.url()]);
    server.eventually("ready", Server::is_ready);
    let _client = Client::subscribed(server.listen, "room:1");
    assert_eq!(redis.command(&["DBSIZE"]), ":0\r\n");
    assert_eq!(server.get("/presence?channel=room:1").0, 400);
    assert_eq!(parsed(&server.get("/channels?scope=cluster").1)["channels"], json!(null));
}

#[test]
fn what_redis_refuses_is_told_and_tried_again() {
    let redis = RedisServer::with_arguments(&["--acllog-max-len", "0"]);
    redis.command(&["ACL", "SETUSER", "campanile", "on", ">pw", "+@all", "~*", "&*", "-hset"]);
    let url = format!("redis://campanile:pw@127.0.0.1:{}", redis.port);
    let server = Launch::new(&["--redis", &url]).file(RULES).start();
    server.eventually("ready", Server::is_ready);
    let _client = Client::subscribed(server.listen, "room:1");
    let log = server.log_when("who is there (presence) cannot be kept");
    assert!(log.contains("NOPERM") && log.contains("+hset") && log.contains("~notifications:{presence}:*"), "{log}");
    assert!(server.metric("campanile_bus_presence_refused_total", "") > 0.0);
    // Messages flow all the while, and what this node has itself is told.
    server.publish("room:1", &json!("hello"));
    comes_to(&server, "channel=room:1", 1);
    redis.command(&["ACL", "SETUSER", "campanile", "+hset"]);
    is_told(&server, &redis, "room:1", &["occupied"]);

    // Something else where the stream should be: numbers go on, and what was to be told is told when it can be.
    redis.command(&["DEL", "notifications:{presence}:events"]);
    redis.command(&["SET", "notifications:{presence}:events", "mine"]);
    let second = Client::subscribed(server.listen, "room:2");
    let log = server.log_when("WRONGTYPE");
    assert!(log.contains("~notifications:{presence}:* holds something else"), "{log}");
    server.eventually("its number is there", |_| {
        let nodes = redis.command(&["KEYS", "notifications:{presence}:channels:*"]);
        let key = nodes.lines().find(|line| line.starts_with("notifications:")).unwrap_or_default().to_owned();
        redis.command(&["HGET", &key, "room:2"]) == "$1\r\n1\r\n"
    });
    assert_eq!(redis.command(&["GET", "notifications:{presence}:events"]), "$4\r\nmine\r\n");
    redis.command(&["DEL", "notifications:{presence}:events"]);
    is_told(&server, &redis, "room:2", &["occupied"]);
    drop(second);
    is_told(&server, &redis, "room:2", &["occupied", "vacated"]);

    // What others have cannot be read.
    redis.command(&["DEL", "notifications:{presence}:nodes"]);
    redis.command(&["SET", "notifications:{presence}:nodes", "x"]);
    server.eventually("it says so", |server| server.get("/presence?channel=room:1").0 == 502);
    assert!(server.get("/presence?channel=room:1").1.contains("WRONGTYPE"));
    redis.command(&["DEL", "notifications:{presence}:nodes"]);
    comes_to(&server, "channel=room:1", 1);
}

#[test]
fn users_are_counted_and_back_ends_are_told_where_that_is_asked_for() {
    let redis = RedisServer::start();
    for (word, expected) in [("count", &[][..]), ("events", &["connected", "disconnected"][..])] {
        let launch = || {
            let text = format!("auth = \"query\"\nuser_presence = \"{word}\"\npresence_lease = 3\n");
            let server = Launch::new(&["--shards", "2", "--redis", &redis.url()]).file(&text).start();
            server.eventually("ready", Server::is_ready);
            server
        };
        let (first, second) = (launch(), launch());
        let path = |user: &str| format!("/ws?format=json&user={user}");
        let here: Vec<Client> = (0..3).map(|_| Client::connect(first.listen, &path("ann"))).collect();
        let there = [Client::connect(second.listen, &path("ann")), Client::connect(second.listen, &path("bob"))];
        for server in [&first, &second] {
            comes_to(server, "user=ann", 4);
            comes_to(server, "user=bob", 1);
            assert_eq!(asked(server, "user=carol"), Some(0));
        }
        assert_eq!(first.get("/presence?channel=room:1").0, 400);
        drop(there);
        comes_to(&first, "user=bob", 0);
        comes_to(&first, "user=ann", 3);
        is_told(&first, &redis, "bob", expected);
        assert_eq!(states(&redis, "ann"), &expected[..expected.len().min(1)]);
        drop(here);
        is_told(&first, &redis, "ann", expected);
    }
}

/// All pages of a channel's members, as a client and the control port are told; and whether there are others.
fn members(server: &Server, client: &mut Client, channel: &str, limit: usize) -> (Vec<String>, bool) {
    let (mut found, mut after) = (Vec::<String>::new(), None::<String>);
    loop {
        let mut command = json!({"type": "presence", "channel": channel, "members": true, "limit": limit, "id": "m"});
        let mut query = format!("/presence?channel={channel}&members=true&limit={limit}");
        if let Some(after) = &after {
            command["after"] = json!(after);
            query.push_str(&format!("&after={after}"));
        }
        client.command(command);
        let event = loop {
            let event = client.event();
            if event["id"] == "m" {
                break event;
            }
        };
        if event["type"] == "error" {
            return (vec![event["code"].as_str().unwrap().to_owned()], false);
        }
        let page = parsed(&server.get(&query).1);
        if (&event["members"], &event["more"]) != (&page["members"], &page["more"]) {
            // Somebody came or went in between.
            return (named(&["changing"]), false);
        }
        let names: Vec<String> = serde_json::from_value(event["members"].clone()).unwrap();
        assert!(names.len() <= limit);
        after = names.last().cloned();
        found.extend(names);
        if event["more"] == false {
            return (found, event["partial"] == true && page["partial"] == true);
        }
    }
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Each user once, of both nodes, no more than the rule says; without Redis the same of one node.
#[test]
fn members_are_listed_where_the_rule_says_so() {
    let redis = RedisServer::start();
    let text = "auth = \"query\"\npresence_lease = 3\n[[channels]]\nprefix = \"room:\"\npresence = true\npresence_members = 4\n\
                [[channels]]\nprefix = \"hall:\"\npresence = true\n";
    let launch = |flags: &[&str]| Launch::new(&[&["--shards", "2"], flags].concat()).file(text).start();
    let with_redis = ["--redis", &redis.url()];
    for flags in [&[][..], &with_redis[..]] {
        let mut nodes = vec![launch(flags)];
        nodes[0].eventually("ready", Server::is_ready);
        if !flags.is_empty() {
            nodes.push(launch(flags));
            nodes[1].eventually("ready", Server::is_ready);
        }
        let connect = |at: usize, user: &str, channel: &str| {
            let server = &nodes[at % nodes.len()];
            let mut client = Client::connect(server.listen, &format!("/ws/{channel}?format=json&user={user}"));
            while client.event()["type"] != "subscribed" {}
            client
        };
        let mut asking: Vec<Client> = nodes.iter().map(|server| Client::connect(server.listen, "/ws?format=json&user=zoe")).collect();
        let mut are = |expected: (&[&str], bool)| {
            for (server, client) in nodes.iter().zip(&mut asking) {
                let begin = std::time::Instant::now();
                for limit in [1, 2, 256] {
                    let mut told = members(server, client, "room:1", limit);
                    while told != (named(expected.0), expected.1) {
                        assert!(begin.elapsed() < crate::support::redis::PATIENCE, "{told:?}, not {expected:?}\n{}", server.log());
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        told = members(server, client, "room:1", limit);
                    }
                }
            }
        };
        are((&[], false));
        let mut clients = vec![connect(0, "bob", "room:1"), connect(1, "ann", "room:1"), connect(1, "bob", "room:1")];
        are((&["ann", "bob"], false));
        clients.extend(["dan", "eve", "flo"].map(|user| connect(1, user, "room:1")));
        are((&["ann", "bob", "dan", "eve"], true));
        clients.drain(3..);
        are((&["ann", "bob"], false));
        // Bob is still there, on the other node or by the other connection.
        clients.pop();
        are((&["ann", "bob"], false));
        clients.remove(0);
        are((&["ann"], false));
        assert_eq!(members(&nodes[0], &mut asking[0], "hall:1", 10).0, ["not_allowed"]);
        assert_eq!(nodes[0].get("/presence?channel=hall:1&members=true").0, 400);
        if !flags.is_empty() {
            // What stands in Redis is not believed blindly.
            redis.command(&["FLUSHALL"]);
            let mut clients = vec![connect(0, "carl", "room:1")];
            let begin = std::time::Instant::now();
            while members(&nodes[0], &mut asking[0], "room:1", 9).0 != ["ann", "carl"] {
                assert!(begin.elapsed() < crate::support::redis::PATIENCE);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            nodes[1].kill();
            while members(&nodes[0], &mut asking[0], "room:1", 9).0 != ["carl"] {
                assert!(begin.elapsed() < crate::support::redis::PATIENCE);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            clients.clear();
        }
    }
}

/// Without Redis there is this node alone, and nobody to be told events.
#[test]
fn one_node_without_redis_answers_the_same() {
    for shards in ["1", "2"] {
        let text = format!("auth = \"query\"\nuser_presence = \"events\"\n{RULES}");
        let server = Launch::new(&["--shards", shards]).file(&text).start();
        let connect = |channel: &str| {
            let mut client = Client::connect(server.listen, &format!("/ws/{channel}?format=json&user=ann"));
            while client.event()["type"] != "subscribed" {}
            client
        };
        let mut clients: Vec<Client> = ["room:b", "room:a", "room:a", "plain"].into_iter().map(connect).collect();
        assert_eq!((asked(&server, "channel=room:a"), asked(&server, "channel=room:b")), (Some(2), Some(1)));
        comes_to(&server, "user=ann", 4);
        assert_eq!(told(&mut clients[0], "room:a")["subscribers"], 2);
        for limit in [1, 10] {
            assert_eq!(census(&server, limit), [("room:a".to_owned(), 2), ("room:b".to_owned(), 1)]);
        }
        clients.clear();
        comes_to(&server, "channel=room:a", 0);
        comes_to(&server, "user=ann", 0);
        assert_eq!(census(&server, 10), []);
    }
}

/// Channels that are there when a rule comes into force are counted from then on, and not any more when it goes.
#[test]
fn a_reload_begins_to_count_and_ends_it() {
    let redis = RedisServer::start();
    let launch = Launch::new(&["--redis", &redis.url()]).file("reload_on_change = false\npresence_lease = 3\n");
    let file = launch.directory.join("campanile.toml");
    let server = launch.start();
    server.eventually("ready", Server::is_ready);
    let _client = Client::subscribed(server.listen, "room:1");
    let reload = |rules: &str| {
        std::fs::write(&file, format!("reload_on_change = false\npresence_lease = 3\n{rules}")).unwrap();
        let (status, answer) = server.post("/reload", "");
        assert_eq!(status, 200, "{answer}");
    };
    assert_eq!(server.get("/presence?channel=room:1").0, 400);
    reload("[[channels]]\nprefix = \"room:\"\npresence = true\n");
    comes_to(&server, "channel=room:1", 1);
    is_told(&server, &redis, "room:1", &["occupied"]);
    reload("");
    server.eventually("it is not counted any more", |server| server.get("/presence?channel=room:1").0 == 400);
    is_told(&server, &redis, "room:1", &["occupied", "vacated"]);
}

/// In a Cluster one master has all of it, and where its slot goes, it goes.
#[test]
fn a_cluster_counts_as_one() {
    let cluster = Cluster::start(3, 0, &[]);
    for pubsub in ["classic", "sharded"] {
        let node = || {
            let file = format!("redis = \"{}\"\npubsub = \"{pubsub}\"\nshards = 1\n{RULES}", cluster.url());
            let server = Launch::new(&[]).file(&file).start();
            server.eventually("ready", Server::is_ready);
            server
        };
        let (first, second) = (node(), node());
        let names: Vec<String> = (0..10).map(|number| format!("room:{number}")).collect();
        let clients: Vec<Client> = names.iter().map(|name| Client::subscribed(first.listen, name)).collect();
        let there = Client::subscribed(second.listen, "room:0");
        let count = |name: &str| 1 + u64::from(name == "room:0");
        for server in [&first, &second] {
            names.iter().for_each(|name| comes_to(server, &format!("channel={name}"), count(name)));
            let all: Vec<(String, u64)> = names.iter().map(|name| (name.clone(), count(name))).collect();
            server.eventually("all are listed", |server| census(server, 3) == all);
        }
        // One keeps it, and nobody asks another for it.
        assert!(!first.log().contains("MOVED") && !second.log().contains("MOVED"), "{}", first.log());
        let from = cluster.owner(keys::slot(b"presence"));
        cluster.move_slots(from, (from + 1) % 3, 5000);
        assert_ne!(cluster.owner(keys::slot(b"presence")), from);
        drop(there);
        comes_to(&first, "channel=room:0", 1);
        let late = Client::subscribed(second.listen, "room:9");
        for server in [&first, &second] {
            comes_to(server, "channel=room:9", 2);
            comes_to(server, "channel=room:0", 1);
        }
        drop((late, clients));
        names.iter().for_each(|name| comes_to(&second, &format!("channel={name}"), 0));
        cluster.move_slots((from + 1) % 3, from, 5000);
        for server in &cluster.servers {
            server.command(&["FLUSHALL"]);
        }
    }
}
