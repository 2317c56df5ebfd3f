//! The whole server in an operator's hand: who may use the control port, and what it does to connections.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::Client;
use crate::support::frames;
use crate::support::redis::RedisServer;
use crate::support::server::{Launch, Server};
use crate::support::topology::Cluster;
use campanile::bus::redis::keys;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

pub(super) const CONTROL_TOKEN: &str = "a-token-of-the-tests-0123456789";

pub(super) fn client(server: &Server, path: &str) -> (Client, Value) {
    let mut client = Client::connect(server.listen, path);
    let connected = client.event();
    assert_eq!(connected["type"], "connected");
    (client, connected)
}

/// A connection that is subscribed by its path.
pub(super) fn subscriber(server: &Server, path: &str) -> Client {
    let (mut client, _) = client(server, path);
    assert_eq!(client.event()["type"], "subscribed");
    client
}

#[test]
fn an_operator_ends_connections_by_user_client_and_channel() {
    let server = Launch::new(&["--auth", "query", "--shards", "2"]).start();
    let mut by_user: Vec<Client> = (0..4).map(|_| client(&server, "/ws?user=u1").0).collect();
    let (mut by_id, connected) = client(&server, "/ws?user=u2");
    let mut by_channel = subscriber(&server, "/ws/news?user=u3");
    let mut stays = subscriber(&server, "/ws/other?user=u4");

    assert_eq!(server.post("/disconnect", r#"{"user": "u1"}"#), (200, json!({"disconnected": 4})));
    by_user.iter_mut().for_each(|client| assert_eq!(client.close_code(), Some(4002)));
    assert_eq!(server.post("/disconnect", r#"{"user": "u1"}"#), (200, json!({"disconnected": 0})));
    let named = json!({"client": connected["client_id"]}).to_string();
    assert_eq!(server.post("/disconnect", named), (200, json!({"disconnected": 1})));
    assert_eq!(by_id.close_code(), Some(4002));
    assert_eq!(server.post("/disconnect", r#"{"channel": "news"}"#), (200, json!({"disconnected": 1})));
    assert_eq!(by_channel.close_code(), Some(4002));

    server.publish("other", &json!("still here"));
    assert_eq!(stays.event()["data"], "still here");
    server.eventually_metric("campanile_connections_closed_total", "reason=\"disconnected\"", 6.0);
}

/// The pages of `/connections`, one behind the other.
fn listed(server: &Server, query: &str, limit: usize) -> Vec<Value> {
    let mut found = Vec::new();
    let mut from = String::new();
    loop {
        let (status, text) = server.get(&format!("/connections?limit={limit}{query}{from}"));
        assert_eq!(status, 200, "{text}");
        let mut page: Value = serde_json::from_str(&text).unwrap();
        let connections = page["connections"].as_array_mut().unwrap();
        assert!(connections.len() <= limit);
        found.append(connections);
        match page["next"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => return found,
        }
    }
}

#[test]
fn an_operator_sees_who_is_connected_a_page_at_a_time() {
    let server = Launch::new(&["--auth", "query", "--shards", "2"]).start();
    let clients: Vec<(Client, Value)> = (0..25).map(|number| client(&server, &format!("/ws/news?user=u{}", number % 5))).collect();
    for limit in [1, 4, 1000] {
        let mut ids: Vec<Value> = listed(&server, "", limit).into_iter().map(|seen| seen["client"].clone()).collect();
        let mut connected: Vec<Value> = clients.iter().map(|(_, connected)| connected["client_id"].clone()).collect();
        let text = |id: &Value| id.as_str().unwrap().to_owned();
        ids.sort_by_key(text);
        connected.sort_by_key(text);
        assert_eq!(ids, connected, "each once, with pages of {limit}");
    }
    let of_user = listed(&server, "&user=u3", 2);
    assert_eq!(of_user.len(), 5);
    for seen in &of_user {
        assert_eq!((&seen["user"], &seen["address"], &seen["format"]), (&json!("u3"), &json!("127.0.0.1"), &json!("json")), "{seen}");
        assert!(seen["since_unix_ms"].as_u64().unwrap() > 1_700_000_000_000 && seen["token"].is_null(), "{seen}");
    }
    assert_eq!(listed(&server, "&channel=news", 10).len(), 25);
    assert_eq!(listed(&server, "&channel=nowhere", 10).len() + listed(&server, "&user=nobody", 10).len(), 0);
    for (query, words) in [
        ("user=a&channel=b", "more than one"),
        ("limit=0", "out of range"),
        ("limit=1001", "out of range"),
        ("from=here", "no place"),
        ("users=a", "unknown field"),
    ] {
        let (status, text) = server.get(&format!("/connections?{query}"));
        assert!(status == 400 && text.contains(words), "{query}: {text}");
    }
    assert_eq!(server.get("/connections?from=7.0").0, 200, "beyond the last shard is nobody");
}

#[test]
fn orders_that_name_nobody_or_nonsense_are_refused() {
    let server = Launch::new(&["--auth", "query"]).start();
    let (mut stays, _) = client(&server, "/ws?user=u1");
    for (body, words) in [
        ("", "nobody is named"),
        ("{}", "nobody is named"),
        (r#"{"user": "a", "token": "b"}"#, "more than one"),
        (r#"{"user": ""}"#, "empty"),
        (r#"{"token": ""}"#, "empty"),
        (r#"{"user": 7}"#, "not what is accepted"),
        (r#"{"users": "a"}"#, "unknown field"),
        (r#"{"client": "u1"}"#, "20 digits"),
        (r#"{"channel": "a\u0000b"}"#, "cannot be a channel name"),
        (r#"["a"]"#, "an array"),
        ("{", "not what is accepted"),
        ("\u{feff}{}", "not what is accepted"),
    ] {
        let (status, answer) = server.post("/disconnect", body);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(status == 400 && error.contains(words) && answer["accepted"].is_string(), "{body}: {status} {answer}");
    }
    let (status, answer) = server.post("/disconnect", format!(r#"{{"user": "{}"}}"#, "x".repeat(20_000)));
    assert_eq!(status, 413, "{answer}");
    assert_eq!(server.get("/disconnect").0, 405);
    stays.command(json!({"type": "ping"}));
    assert_eq!(stays.event()["type"], "pong");
}

/// What is announced is not made room for before it is known to be taken.
#[test]
fn a_body_that_is_announced_larger_than_memory_is_too_large() {
    let server = Launch::new(&[]).start();
    for path in ["/publish", "/disconnect"] {
        for announced in [1_u64 << 40, i64::MAX as u64, u64::MAX - 2] {
            let mut raw = Client::dial(server.control);
            raw.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {announced}\r\n\r\n").as_bytes());
            let head = raw.head();
            assert!(head.starts_with("HTTP/1.1 413 "), "{path}, {announced}: {head}");
        }
    }
    assert_eq!(server.get("/readyz").0, 200);
}

#[test]
fn a_control_port_with_a_token_answers_nobody_else_but_probes() {
    let mut server = Launch::new(&["--control", "0.0.0.0:0"]).file(&format!("control_token = \"{CONTROL_TOKEN}\"")).start();
    server.control.set_ip([127, 0, 0, 1].into());
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/", 401),
        ("/metrics", 401),
        ("/info", 401),
        ("/channels", 401),
        ("/nowhere", 401),
        ("/demo", 200),
    ] {
        assert_eq!(server.get(path).0, status, "{path}");
    }
    let (status, answer) = server.post("/publish", r#"{"channel": "a", "data": 1}"#);
    assert!(status == 401 && answer["accepted"].as_str().unwrap().contains("CAMPANILE_CONTROL_TOKEN"), "{answer}");
    let mut raw = Client::dial(server.control);
    raw.send(b"GET /info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\nConnection: close\r\n\r\n");
    let head = raw.head().to_lowercase();
    assert!(head.starts_with("http/1.1 401 ") && head.contains("\r\nwww-authenticate: bearer realm=\"campanile\"\r\n"), "{head}");

    server.token = Some(CONTROL_TOKEN.to_owned());
    assert_eq!(server.get("/info").0, 200);
    assert_eq!(server.metric("campanile_control_answers_total", "status=\"401\""), 7.0);
}

#[test]
fn a_control_port_for_the_network_without_a_token_is_an_error() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let (code, told) = Launch::new(&["--control", address]).fails();
        assert_eq!(code, 2, "{told}");
        assert!(told.contains("error: --control: whoever reaches") && told.contains("set CAMPANILE_CONTROL_TOKEN"), "{told}");
    }
    let (code, told) = Launch::new(&[]).file("control_token = \"hush-hush\"").fails();
    assert!(code == 2 && told.contains("it has 9 bytes") && !told.contains("hush"), "{told}");
}

#[test]
fn the_command_brings_the_token() {
    let launch = Launch::new(&[]).file(&format!("control_token = \"{CONTROL_TOKEN}\""));
    let mut server = launch.start();
    server.token = Some(CONTROL_TOKEN.to_owned());
    let publish = |token: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_campanile"));
        command.args(["publish", "news", "1", "--control", &server.control.to_string()]).env_remove("CAMPANILE_CONTROL_TOKEN");
        if let Some(token) = token {
            command.env("CAMPANILE_CONTROL_TOKEN", token);
        }
        let output = command.current_dir("/").output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (is_done, told) = publish(Some(CONTROL_TOKEN));
    assert!(is_done && told.starts_with("published to news"), "{told}");
    for token in [None, Some("another-token-0123456789")] {
        let (is_done, told) = publish(token);
        assert!(!is_done && told.contains("asks for its token: set CAMPANILE_CONTROL_TOKEN"), "{told}");
    }
}

/// Every secret there is, in every place where settings are told: log, start block, `/info`, `/metrics`, errors, the process's arguments.
#[test]
fn no_secret_is_told_anywhere() {
    const PASSWORD: &str = "hush1hush1hush1";
    const SIGNING: &str = "hush2hush2hush2hush2hush2hush2hush2";
    let redis = format!("redis://:{PASSWORD}@127.0.0.1:1");
    for log_format in ["text", "json"] {
        let arguments = [
            "--redis",
            &redis,
            "--control-token",
            "hush3hush3hush3hush3",
            "--auth",
            "jwt",
            "--token-secret",
            SIGNING,
            "--log-format",
            log_format,
            "--log-level",
            "trace",
        ];
        let launch = Launch::new(&arguments);
        let mut server = if log_format == "text" { launch.start() } else { started_as_json(launch) };
        server.log_when("Redis");
        let arguments = std::fs::read(format!("/proc/{}/cmdline", server.id())).unwrap();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        assert!(arguments.contains("--token-secret\0***"), "{arguments}");
        let mut told = vec![arguments, server.log()];
        told.extend(["/info", "/metrics"].map(|path| server.get(path).1));
        server.token = Some("hush3hush3hush3hush3".to_owned());
        told.extend(["/", "/demo", "/info", "/metrics", "/readyz", "/channels", "/nowhere"].map(|path| server.get(path).1));
        told.push(server.post("/publish", r#"{"channel": "a", "data": 1}"#).1.to_string());
        let mut refused = Client::dial(server.listen);
        refused.send(frames::request("/ws?token=hush4.hush4.hush4", "").as_bytes());
        told.push(refused.head() + &refused.rest());
        told.push(server.log());
        for text in told {
            assert!(!text.contains("hush"), "{text}");
        }
    }
    for file in [
        format!("redis = \"{redis}\"\ntoken_secret = \"{SIGNING}"),
        format!("token_secret = \"{SIGNING}\"\nshards = nonsense"),
        "control_token = \"hush hush hush hush hush\"".to_owned(),
        "control_tokn = \"hush3hush3hush3hush3\"".to_owned(),
    ] {
        let (_, told) = Launch::new(&[]).file(&file).fails();
        assert!(told.contains("error") && !told.contains("hush"), "{told}");
    }
}

/// Whoever subscribes is there for long, and everybody on the host reads what was typed.
#[test]
fn no_token_stays_where_everybody_on_the_host_reads() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let by_url = format!("ws://{address}/ws?token=hush.hush.hush");
    let plain = format!("ws://{address}/ws");
    for arguments in [["--url", &by_url, "a"].as_slice(), &["--url", &plain, "--token", "hush.hush.hush", "a"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_campanile"));
        command.arg("subscribe").args(arguments).stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        // Before it does anything else they are gone.
        let _connection = port.accept().unwrap();
        let told = String::from_utf8_lossy(&std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap()).into_owned();
        child.kill().and_then(|()| child.wait()).unwrap();
        assert!(told.contains("***") && !told.contains("hush"), "{told}");
    }
}

/// The start block as a line of JSON tells the ports otherwise.
fn started_as_json(launch: Launch) -> Server {
    let mut command = launch.command();
    let child = command.stderr(std::process::Stdio::piped()).spawn().expect("the program");
    let mut child = child;
    let stderr = child.stderr.take().unwrap();
    let mut server = Server::around(child, launch.directory.clone());
    server.read_log(stderr);
    let line = server.log_when("\"control\":");
    let mut lines = line.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].take());
    let started = lines.find(|fields| fields["control"].is_string()).expect("its start block");
    let port = |url: &str| url.split("://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    server.control = port(started["control"].as_str().unwrap());
    server.listen = port(started["clients"][0].as_str().unwrap());
    server
}

const SECRET: &str = "a secret of the tests: 0123456789abcdef";

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token(user: &str, id: &str, issued_s: u64) -> String {
    let claims = json!({"sub": user, "exp": now_s() + 600, "iat": issued_s, "jti": id});
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

fn asking_for_tokens(arguments: &[&str]) -> Server {
    Launch::new(arguments).file(&format!("auth = \"jwt\"\ntoken_secret = \"{SECRET}\"")).start()
}

/// What an upgrade with this token is answered.
fn status(server: &Server, token: &str) -> u16 {
    let mut client = Client::dial(server.listen);
    client.send(frames::request(&format!("/ws?token={token}"), "").as_bytes());
    frames::status(client.head().as_bytes())
}

#[test]
fn a_revoked_token_ends_its_connections_and_is_refused_from_then_on() {
    let server = asking_for_tokens(&["--shards", "2"]);
    let (one, other) = (token("u1", "t1", now_s() - 10), token("u1", "t2", now_s() - 10));
    let mut ended: Vec<Client> = (0..4).map(|_| client(&server, &format!("/ws?token={one}")).0).collect();
    let (mut second, _) = client(&server, &format!("/ws?token={other}"));
    let (status_of, answer) = server.post("/revoke", r#"{"token": "t1", "ttl": 600}"#);
    assert_eq!((status_of, &answer["disconnected"]), (200, &json!(4)), "{answer}");
    assert!(answer["until"].as_u64().unwrap() >= now_s() + 590, "{answer}");
    ended.iter_mut().for_each(|client| assert_eq!(client.close_code(), Some(4001)));
    assert_eq!((status(&server, &one), status(&server, &other)), (401, 101));
    second.command(json!({"type": "refresh", "token": one, "id": 1}));
    let error = second.event();
    assert_eq!((&error["code"], &error["id"]), (&json!("token_invalid"), &json!(1)), "{error}");
    assert!(error["message"].as_str().unwrap().contains("revoked"), "{error}");
    assert!(server.metric("campanile_tokens_refused_total", "reason=\"revoked\"") >= 2.0);

    let (status_of, answer) = server.post("/revoke", r#"{"user": "u1"}"#);
    assert!(status_of == 200 && answer["disconnected"].as_u64().unwrap() >= 1, "{answer}");
    assert_eq!(second.close_code(), Some(4001));
    assert_eq!((status(&server, &other), status(&server, &token("u1", "t3", now_s() + 5))), (401, 101), "what is issued later is good");
    assert_eq!(server.metric("campanile_revocations", ""), 2.0);
}

#[test]
fn revocations_that_name_nobody_or_nonsense_are_refused() {
    let server = asking_for_tokens(&[]);
    let future = format!(r#"{{"user": "a", "issued_before": {}}}"#, now_s() + 1000);
    let long = format!(r#"{{"token": "{}"}}"#, "x".repeat(257));
    for (body, words) in [
        ("{}", "nobody is named"),
        (r#"{"issued_before": 7}"#, "nobody is named"),
        (r#"{"token": "a", "user": "b"}"#, "both"),
        (r#"{"token": "a", "issued_before": 7}"#, "for a user"),
        (&future, "in the future"),
        (r#"{"token": ""}"#, "cannot be a name"),
        (&long, "cannot be a name"),
        (r#"{"user": "a\u0000"}"#, "cannot be a name"),
        (r#"{"token": "a", "ttl": 0}"#, "out of range"),
        (r#"{"token": "a", "ttl": 99999999999}"#, "out of range"),
        (r#"{"token": "a", "ttl": -1}"#, "not what is accepted"),
        (r#"{"jti": "a"}"#, "unknown field"),
    ] {
        let (status, answer) = server.post("/revoke", body);
        assert!(status == 400 && answer["error"].as_str().unwrap().contains(words), "{body}: {status} {answer}");
    }
    let open = Server::start(&[]);
    let (status, answer) = open.post("/revoke", r#"{"token": "a"}"#);
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("no client is asked"), "{answer}");
}

/// In a Cluster they are kept where their slot is, and found there again when that has moved.
#[test]
fn a_cluster_keeps_what_is_revoked() {
    let cluster = Cluster::start(3, 0, &[]);
    for pubsub in ["classic", "sharded"] {
        let start = || {
            let server = asking_for_tokens(&["--redis", &cluster.url(), "--pubsub", pubsub]);
            server.eventually("readiness", Server::is_ready);
            server
        };
        let (first, second) = (start(), start());
        let tokens = ["t1", "t2"].map(|id| token("u1", &format!("{pubsub}-{id}"), now_s()));
        let (mut on_second, _) = client(&second, &format!("/ws?token={}", tokens[0]));
        let (answered, answer) = first.post("/revoke", format!(r#"{{"token": "{pubsub}-t1"}}"#));
        assert_eq!(answered, 200, "{answer}");
        assert_eq!(on_second.close_code(), Some(4001), "by the other node");
        let at = cluster.owner(keys::slot(b"__campanile__:revoked:notifications:"));
        cluster.move_slots(at, (at + 1) % 3, 5000);
        let mut on_second = client(&second, &format!("/ws?token={}", tokens[1])).0;
        first.eventually("it is kept where the slot is now", |first| {
            first.post("/revoke", format!(r#"{{"token": "{pubsub}-t2"}}"#)).0 == 200
        });
        assert_eq!(on_second.close_code(), Some(4001), "by the other node");
        let third = start();
        third.eventually("all that was revoked", |third| tokens.iter().all(|token| status(third, token) == 401));
        cluster.move_slots((at + 1) % 3, at, 5000);
    }
}

/// Two nodes and a third that starts later; then Redis is killed, and comes back with nothing.
#[test]
fn every_node_honours_a_revocation_also_one_that_was_made_while_redis_was_away() {
    let mut redis = RedisServer::start();
    let url = format!("redis://127.0.0.1:{}", redis.port);
    let start = || {
        let server = asking_for_tokens(&["--redis", &url]);
        server.eventually("readiness", Server::is_ready);
        server
    };
    let (first, second) = (start(), start());
    let (one, other) = (token("u1", "t1", now_s()), token("u2", "t2", now_s()));
    let (mut on_second, _) = client(&second, &format!("/ws?token={one}"));
    let (mut stays, _) = client(&second, &format!("/ws?token={other}"));
    let (answered, answer) = first.post("/revoke", r#"{"token": "t1"}"#);
    assert_eq!((answered, &answer["disconnected"]), (200, &json!(0)), "{answer}");
    assert_eq!(on_second.close_code(), Some(4001), "by the other node");
    assert_eq!((status(&first, &one), status(&second, &one), status(&second, &other)), (401, 401, 101));
    let third = start();
    third.eventually("what was revoked before it started", |third| status(third, &one) == 401);

    redis.kill();
    second.eventually("the outage", |second| !second.is_ready());
    let (mut on_first, _) = client(&first, &format!("/ws?token={other}"));
    let (answered, answer) = first.post("/revoke", r#"{"token": "t2"}"#);
    let error = answer["error"].as_str().unwrap();
    assert!(
        answered == 503 && error.contains("this node honours it already (1 disconnected)") && error.contains("tried again"),
        "{answer}"
    );
    assert_eq!(on_first.close_code(), Some(4001));
    assert_eq!((status(&first, &other), status(&second, &other)), (401, 101), "the other node cannot know it");
    redis.restart();
    assert_eq!(stays.close_code(), Some(4001), "as soon as Redis is back");
    second.eventually("the revocation", |second| status(second, &other) == 401);
    // Redis has kept nothing; what it was told before it is told again by whoever had told it.
    let fourth = start();
    fourth.eventually("both revocations", |fourth| status(fourth, &one) == 401 && status(fourth, &other) == 401);
}
