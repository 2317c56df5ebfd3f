//! The whole server with several Redis servers: what it says of them, and what clients see when one is gone.

use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::server::Server;
use campanile::bus::redis::placement::hashed;
use serde_json::{Value, json};

fn name_of(server: usize) -> String {
    (0..).map(|number| format!("room{number}")).find(|name| hashed(name, 2) == server).unwrap()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn one_of_two_servers_dies_and_the_other_goes_on() {
    let mut redis = [RedisServer::with_arguments(&["--requirepass", "hush"]), RedisServer::start()];
    let server = Server::start(&["--redis", &redis[0].url(), "--redis", &redis[1].url(), "--shards", "1"]);
    server.eventually("ready", Server::is_ready);
    let names = [name_of(0), name_of(1)];
    let mut clients = names.each_ref().map(|name| {
        let mut client = Client::connect(server.listen, "/ws?format=json");
        client.command(json!({"type": "subscribe", "channel": name}));
        while client.event()["type"] != "subscribed" {}
        client
    });
    redis[0].kill();
    server.eventually("it says so", |server| !server.is_ready());
    let (status, body) = server.get("/readyz");
    let reason = parsed(&body)["reason"].as_str().unwrap().to_owned();
    assert_eq!(status, 503, "{body}");
    assert!(reason.contains(&format!("redis://127.0.0.1:{} (1 of 2 servers)", redis[0].port)), "{reason}");
    assert!(!reason.contains(&redis[1].port.to_string()), "{reason}");
    let info = parsed(&server.get("/info").1);
    let ready: Vec<&Value> = info["bus"]["servers"].as_array().unwrap().iter().map(|server| &server["ready"]).collect();
    assert_eq!(ready, [&json!(false), &json!(true)], "{info}");
    assert_eq!(info["settings"]["redis"].as_array().unwrap().len(), 2, "{info}");
    assert_eq!(server.metric("campanile_bus_server_ready", &redis[0].port.to_string()), 0.0);
    assert_eq!(server.metric("campanile_bus_server_ready", &redis[1].port.to_string()), 1.0);

    let (status, answer) = server.post("/publish", json!({"channel": names[1], "data": 1}).to_string());
    assert_eq!((status, answer["seq"].as_u64()), (200, Some(1)), "{answer}");
    assert_eq!(clients[1].messages(1), [(1, json!(1))]);
    let (status, answer) = server.post("/publish", json!({"channel": names[0], "data": 1}).to_string());
    assert_eq!(status, 503, "{answer}");
    redis[0].restart();
    server.eventually("ready again", Server::is_ready);
    let gap = clients[0].event();
    assert_eq!((&gap["type"], &gap["channel"], &gap["reason"]), (&json!("gap"), &json!(names[0]), &json!("outage")), "{gap}");
    let log = server.log();
    assert!(log.contains(&format!("127.0.0.1:{}", redis[0].port)) && !log.contains("hush") && !body.contains("hush"), "{log}");

    // The command publishes where the channel is.
    let urls = ["--redis".to_owned(), redis[0].url(), "--redis".to_owned(), redis[1].url()];
    for (name, number) in names.iter().zip([2, 2]) {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_campanile")).args(["publish", name, "2"]).args(&urls).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("1 receiver"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let at = usize::from(*name == names[1]);
        assert_eq!(clients[at].messages(1), [(number, json!(2))]);
    }
}

#[test]
fn servers_that_cannot_be_meant_are_refused_before_anything_starts() {
    for (redis, words) in [
        (&["redis://127.0.0.1:1", "redis://:pw@127.0.0.1:1/2"][..], "there already"),
        (&["redis://127.0.0.1:1", "127.0.0.1:2"], "write redis://127.0.0.1:2"),
    ] {
        let flags: Vec<&str> = redis.iter().flat_map(|url| ["--redis", url]).collect();
        let (code, text) = crate::support::server::Launch::new(&flags).fails();
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(words) && !text.contains("pw@"), "{text}");
    }
    let launch = crate::support::server::Launch::new(&["--shards", "1"]);
    let launch = launch.file("redis = [\"redis://:hush@127.0.0.1:1\", \"redis://:hush@127.0.0.1:2\"]\n");
    let server = launch.start();
    let log = server.log_when("servers, each");
    assert!(log.contains("redis://:***@127.0.0.1:1, redis://:***@127.0.0.1:2 (2 servers") && !log.contains("hush"), "{log}");
}
