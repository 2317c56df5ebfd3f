//! Reload, against the real server: by SIGHUP, by `POST /reload`, and because a file has changed; what comes into force, and what stays when it cannot.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::Client;
use crate::support::crowd::{Crowd, Script};
use crate::support::frames;
use crate::support::server::{Launch, Server};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const SECRET: &str = "a secret of the tests: 0123456789abcdef";
const KEYS: [(&str, &str); 2] = [
    (include_str!("../keys/p256.private.pem"), include_str!("../keys/p256.public.pem")),
    (include_str!("../keys/other.private.pem"), include_str!("../keys/other.public.pem")),
];

/// A server with a file of its own, and the file.
fn start(text: &str) -> (Server, std::path::PathBuf) {
    let launch = Launch::new(&[]).file(text);
    let file = launch.directory.join("campanile.toml");
    (launch.start(), file)
}

/// Whatever else happens to it, it is not read in the middle.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Status and body.
fn post(server: &Server, path: &str, body: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent.post(format!("http://{}{path}", server.control)).send(body).expect("the control port answers");
    (response.status().as_u16(), response.body_mut().read_json().expect("JSON"))
}

fn reloads(server: &Server, result: &str) -> f64 {
    server.metric("campanile_reloads_total", &format!("result=\"{result}\""))
}

fn token(private: &str) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    encode(&Header::new(Algorithm::ES256), &json!({"sub": "u", "exp": now_s + 600}), &EncodingKey::from_ec_pem(private.as_bytes()).unwrap())
        .unwrap()
}

fn status(server: &Server, path: &str) -> u16 {
    let mut client = Client::dial(server.listen);
    client.send(frames::request(path, "").as_bytes());
    frames::status(client.head().as_bytes())
}

const OFF: &str = "reload_on_change = false\n";
const CLOSED: &str = "[[channels]]\nprefix = \"news\"\nsubscribe = \"nobody\"\n";

#[test]
fn a_hangup_reads_the_file_again_and_nobody_is_dropped() {
    let (server, file) = start(OFF);
    let mut client = Client::subscribed(server.listen, "news");
    let mut other = Client::subscribed(server.listen, "other");
    replace(&file, &format!("{OFF}subscriptions_max = 1\n{CLOSED}"));
    server.signal(libc::SIGHUP);
    let ended = client.event();
    assert_eq!((&ended["type"], &ended["channel"], &ended["reason"]), (&json!("unsubscribed"), &json!("news"), &json!("not_allowed")));
    assert!(
        server.log_when("reload (SIGHUP): subscriptions_max: 128 -> 1; [[channels]] prefix = \"news\": none -> there").contains("SIGHUP")
    );
    other.command(json!({"type": "subscribe", "channel": "third", "id": 1}));
    assert_eq!(other.event()["code"], "too_many_subscriptions");
    client.command(json!({"type": "subscribe", "channel": "news", "id": 2}));
    assert_eq!(client.event()["code"], "not_allowed");
    server.publish("other", &json!(1));
    assert_eq!(other.event()["data"], 1, "what is allowed goes on");
    assert_eq!((reloads(&server, "good"), reloads(&server, "failed")), (1.0, 0.0));
    let info: Value = serde_json::from_str(&server.get("/info").1).unwrap();
    assert_eq!(
        (&info["settings"]["subscriptions_max"], &info["reload"]["good"], &info["reload"]["error"]),
        (&json!(1), &json!(1), &json!(null))
    );
    assert_eq!(info["reload"]["files"], json!(["campanile.toml"]));
    assert_eq!(server.metric("campanile_connections", ""), 2.0);
}

#[test]
fn what_cannot_be_used_changes_nothing_and_is_told_with_its_line() {
    let good = format!("shards = 2\n{OFF}linger = 20\n{CLOSED}");
    let (server, file) = start(&good);
    let mut failed = 0.0;
    let mut refused = |text: Option<&str>, words: &str| {
        match text {
            Some(text) => replace(&file, text),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let (status, body) = post(&server, "/reload", "");
        assert_eq!((status, &body["reloaded"]), (422, &json!(false)), "{body}");
        assert!(body["problems"].to_string().contains(words), "{words} is missing in {body}");
        failed += 1.0;
        assert_eq!((reloads(&server, "failed"), reloads(&server, "good")), (failed, 0.0));
        assert!(server.log_when("failed, all stays as it is").contains(words.replace("\\\"", "\"").as_str()), "{}", server.log());
        // The rule of before holds.
        let mut client = Client::connect(server.listen, "/ws?format=json");
        client.event();
        client.command(json!({"type": "subscribe", "channel": "news", "id": 1}));
        assert_eq!(client.event()["code"], "not_allowed");
    };
    refused(Some("heartbeat = 0\n"), "campanile.toml:1: heartbeat: 0s is less than 1s");
    refused(Some("heartbeat = \n"), "campanile.toml:1: not TOML");
    refused(
        Some("[[channels]]\nprefix = \"a\"\nsubscribe = \"owner\"\n"),
        "campanile.toml:3: channels.subscribe: nobody knows whose channel it is",
    );
    // Two settings that a reload changes and a restart changes do not fit together before the restart.
    let together = "log_bytes_per_channel = \"1G\"\nlog_bytes_total = \"8G\"\n";
    refused(Some(together), "with what only a restart changes as it is: campanile.toml:1: log_bytes_per_channel: one channel's log (1G)");
    refused(Some(""), "campanile.toml is empty now");
    refused(None, "campanile.toml is gone now");
    let error = serde_json::from_str::<Value>(&server.get("/info").1).unwrap()["reload"]["error"].clone();
    assert_eq!(error, "campanile.toml is gone now");
    replace(&file, &good.replace("20", "25"));
    let (status, body) = post(&server, "/reload", "{}");
    assert_eq!((status, &body["changes"]), (200, &json!([{"setting": "linger", "from": "20", "to": "25"}])), "{body}");
    assert_eq!(serde_json::from_str::<Value>(&server.get("/info").1).unwrap()["reload"]["error"], json!(null));
    assert_eq!(post(&server, "/reload", "{\"check\": 1}").0, 400);
    assert_eq!(post(&server, "/reload", "{\"chek\": true}").0, 400);
}

#[test]
fn what_only_a_restart_changes_is_told_and_left() {
    let (server, file) = start(&format!("{OFF}linger = 20\n"));
    replace(&file, &format!("{OFF}linger = 30\nbacklog = 100\n"));
    let (status, body) = post(&server, "/reload", "{\"check\": true}");
    let live = json!([{"setting": "linger", "from": "20", "to": "30"}]);
    let waiting = json!([{"setting": "backlog", "from": "65535", "to": "100"}]);
    assert_eq!((status, &body["reloaded"], &body["changes"], &body["needs_restart"]), (200, &json!(false), &live, &waiting), "{body}");
    assert_eq!(reloads(&server, "good"), 0.0, "nothing was done");
    let (_, body) = post(&server, "/reload", "");
    assert_eq!((&body["reloaded"], &body["changes"], &body["needs_restart"]), (&json!(true), &live, &waiting));
    server.log_when("only a restart changes backlog: 65535 -> 100");
    let (_, body) = post(&server, "/reload", "");
    assert_eq!((&body["changes"], &body["needs_restart"]), (&json!([]), &waiting), "it still waits");
    let info: Value = serde_json::from_str(&server.get("/info").1).unwrap();
    assert_eq!((&info["settings"]["linger_ms"], &info["settings"]["backlog"]), (&json!(30_000), &json!(65_535)));
}

/// Keys come and go as a file is renamed over another one, and as Kubernetes swaps links; the half of a file is no reason to lose the keys that there are.
#[test]
fn files_that_change_are_read_by_themselves() {
    let launch = Launch::new(&[]).file("auth = \"jwt\"\ntoken_keys = [\"secret/key.pem\"]\n");
    let folder = launch.directory.clone();
    for (version, (_, public)) in ["v1", "v2"].into_iter().zip(KEYS) {
        std::fs::create_dir_all(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("key.pem"), public).unwrap();
    }
    symlink("v1", folder.join("secret")).unwrap();
    let server = launch.start();
    let path = |key: usize| format!("/ws?format=json&token={}", token(KEYS[key].0));
    let mut early = Client::connect(server.listen, &path(0));
    assert_eq!(early.event()["type"], "connected");
    assert_eq!(status(&server, &path(1)), 401);
    symlink("v2", folder.join("secret.new")).unwrap();
    std::fs::rename(folder.join("secret.new"), folder.join("secret")).unwrap();
    server.eventually("the new key verifies", |server| status(server, &path(1)) == 101);
    assert!(server.log_when("reload (a file has changed): other keys").contains("other keys"));
    // The token was known; its key is gone, so it is not any more. Who came with it stays.
    assert_eq!(status(&server, &path(0)), 401);
    early.command(json!({"type": "ping", "id": 1}));
    assert_eq!(early.event()["type"], "pong");
    // Half a file, and then the rest.
    let key = folder.join("v2/key.pem");
    std::fs::write(&key, &KEYS[0].1[..60]).unwrap();
    server.eventually("the half is looked at", |server| reloads(server, "failed") == 1.0);
    assert_eq!(status(&server, &path(1)), 101, "the keys of before");
    assert!(server.log_when("its PEM block has no end").contains("key.pem"));
    std::fs::write(&key, KEYS[0].1).unwrap();
    server.eventually("the whole is taken", |server| status(server, &path(0)) == 101);
    // And the file of settings itself.
    replace(&folder.join("campanile.toml"), &format!("auth = \"jwt\"\ntoken_keys = [\"v1/key.pem\"]\ntoken_secret = \"{SECRET}\"\n"));
    server.eventually("the secret is there", |server| server.metric("campanile_token_keys", "") == 2.0);
    assert!(!server.log().contains(SECRET), "{}", server.log());
}

/// As on a network whose file server is away: whoever reads it waits, and nobody else does.
#[test]
fn a_file_that_does_not_answer_holds_up_nobody() {
    use std::os::unix::fs::OpenOptionsExt;

    let launch = Launch::new(&[]).file("auth = \"jwt\"\ntoken_keys = [\"key.pem\"]\n");
    let key = launch.directory.join("key.pem");
    std::fs::create_dir_all(&launch.directory).unwrap();
    std::fs::write(&key, KEYS[0].1).unwrap();
    let mut server = launch.start();
    let path = format!("/ws?format=json&token={}", token(KEYS[0].0));
    let mut client = Client::connect(server.listen, &path);
    assert_eq!(client.event()["type"], "connected");
    let pipe = key.with_extension("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(&pipe, &key).unwrap();
    // It can be opened so once somebody reads it; nothing is ever written.
    let writer = std::cell::OnceCell::new();
    server.eventually("it is read", |_| {
        let opened = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&key);
        opened.is_ok_and(|file| writer.set(file).is_ok())
    });
    server.signal(libc::SIGHUP);
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(status(&server, &path), 101, "the keys of before");
    client.command(json!({"type": "ping", "id": 1}));
    assert_eq!(client.event()["type"], "pong");
    assert_eq!((reloads(&server, "good"), reloads(&server, "failed")), (0.0, 0.0), "it is still being read");
    server.terminate();
    assert_eq!(server.exit_code(), 0, "{}", server.log());
}

/// However often it is asked for, one reload follows the other, and the server goes on.
#[test]
fn a_flood_of_hangups_is_a_few_reloads() {
    let (server, file) = start(OFF);
    let mut client = Client::subscribed(server.listen, "news");
    for _ in 0..2000 {
        server.signal(libc::SIGHUP);
    }
    replace(&file, &format!("{OFF}{CLOSED}"));
    server.signal(libc::SIGHUP);
    assert_eq!(client.event()["reason"], "not_allowed", "the last one counts");
    assert!(reloads(&server, "good") <= 2001.0);
    assert_eq!(reloads(&server, "failed"), 0.0);
}

#[test]
fn limits_of_addresses_and_the_control_token_change_with_a_reload() {
    let (server, file) = start(OFF);
    let _first = Client::connect(server.listen, "/ws?format=json");
    replace(&file, &format!("{OFF}connections_per_address = 1\ncontrol_token = \"0123456789abcdef\"\n"));
    assert_eq!(post(&server, "/reload", "").0, 200);
    assert_eq!(post(&server, "/reload", "").0, 401, "the token is asked for");
    // Who was there before is not counted.
    let _second = Client::connect(server.listen, "/ws?format=json");
    assert_eq!(status(&server, "/ws"), 429);
    replace(&file, OFF);
    server.signal(libc::SIGHUP);
    server.eventually("no token is asked for", |server| server.get("/metrics").0 == 200);
    assert_eq!(status(&server, "/ws"), 101);
}

/// Half of what everybody has is forbidden: nobody is closed, each is told of each, and the other half goes on.
#[test]
fn ten_thousand_connections_stay_through_a_reload() {
    const COUNT: usize = 10_000;
    campanile::sys::raise_descriptor_limit().expect("descriptors for the clients");
    let (server, file) = start(OFF);
    let channels = |client: usize| (0..5).flat_map(move |at| ["open", "half"].map(|kind| format!("{kind}:{}", (client + 7 * at) % 100)));
    let path = |client: usize| format!("/ws?format=json&channel={}", channels(client).collect::<Vec<_>>().join("&channel="));
    let mut crowd = Crowd::new(server.listen, (0..COUNT).map(|client| Script::upgrade(&path(client))));
    crowd.wait("all are subscribed", |member| member.events.len() == 11);
    replace(&file, &format!("{OFF}[[channels]]\nprefix = \"half:\"\nsubscribe = \"nobody\"\n"));
    assert_eq!(post(&server, "/reload", "").0, 200);
    crowd.wait("all are told", |member| member.events.len() == 16);
    assert_eq!((crowd.open(), server.metric("campanile_connections", "")), (COUNT, COUNT as f64));
    assert_eq!(server.metric("campanile_subscriptions", ""), 5.0 * COUNT as f64);
    for member in crowd.members().iter() {
        let is_told = |event: &Value| event["type"] == "unsubscribed" && event["channel"].as_str().unwrap().starts_with("half:");
        assert!(member.events[11..].iter().all(is_told), "{:?}", member.events);
    }
    for channel in 0..100 {
        server.publish(&format!("open:{channel}"), &json!(channel));
    }
    crowd.wait("all have their messages", |member| member.events.len() == 21);
}
