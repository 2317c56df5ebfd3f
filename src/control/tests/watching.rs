//! Who watches: the WebSocket at `/stats` and the page at `/`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::client::ClientRequestBuilder;
use tungstenite::error::Error;
use tungstenite::handshake::HandshakeError;
use tungstenite::{Message, WebSocket};

use super::{Options, PATIENCE, Server, TIMEOUTS, Timeouts, agent, answer, settings, wait_until};
use crate::bus::BusCommand;
use crate::config::Overrun;
use crate::limits::SHARDS_MAX;
use crate::limits::control::{BUSIEST_TOLD_MAX, CONNECTIONS_MAX, SNAPSHOT_BYTES_MAX, WATCHERS_MAX};
use crate::wire::close::CloseReason;

const TOKEN: &str = "token/of+the=tests~";

/// With these header fields; status and body of a refusal.
fn try_watch(server: &Server, fields: &[(&str, &str)]) -> Result<WebSocket<TcpStream>, (u16, String)> {
    let url = format!("ws://{}/stats", server.address).parse().unwrap();
    let request = fields.iter().fold(ClientRequestBuilder::new(url), |request, (name, value)| request.with_header(*name, *value));
    match tungstenite::client::client(request, server.connect()) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(Error::Http(response))) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            Err((response.status().as_u16(), body))
        }
        Err(error) => panic!("{error}"),
    }
}

fn watch(server: &Server) -> WebSocket<TcpStream> {
    try_watch(server, &[]).unwrap_or_else(|(status, body)| panic!("{status} {body}"))
}

fn event(socket: &mut WebSocket<TcpStream>) -> Value {
    loop {
        match socket.read().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The next event of this type.
fn next(socket: &mut WebSocket<TcpStream>, kind: &str) -> Value {
    loop {
        let event = event(socket);
        if event["type"] == kind {
            return event;
        }
    }
}

#[test]
fn what_counters_say_is_told_each_second_in_the_protocol_of_clients() {
    let server = Server::start(Options::default());
    let [first, second] = [&server.state.shards[0], &server.state.shards[1]];
    first.connections.set(40);
    second.connections.set(2);
    first.closed[CloseReason::Overrun as usize].add(3);
    first.overruns[Overrun::Disconnect as usize].add(3);
    let mut socket = watch(&server);
    let connected = event(&mut socket);
    assert_eq!((&connected["type"], &connected["heartbeat"]), (&json!("connected"), &json!(10)));
    let subscribed = event(&mut socket);
    assert_eq!((&subscribed["type"], &subscribed["channel"], &subscribed["seq"]), (&json!("subscribed"), &json!("$stats"), &json!(0)));
    let told = event(&mut socket);
    assert_eq!((&told["type"], &told["channel"], &told["seq"]), (&json!("notification"), &json!("$stats"), &json!(1)));
    let stats = &told["data"];
    assert_eq!((&stats["connections"], &stats["connections_max"], &stats["watchers"]), (&json!(42), &json!(1000), &json!(1)));
    assert_eq!((&stats["rates"], &stats["latency"]), (&Value::Null, &Value::Null), "there is nothing before the first");
    assert_eq!(stats["busiest"], json!([{"name": "<b>busy</b>", "subscribers": 300, "messages": 2.0, "deliveries": 600.0}]));
    assert_eq!(stats["closed"], json!([{"name": "overrun", "total": 3, "rate": 0.0}]));
    assert_eq!((&stats["overruns"][0]["name"], &stats["refused"]), (&json!("disconnect"), &json!([])));
    assert_eq!((&stats["bus"]["kind"], &stats["bus"]["is_ready"]), (&json!("embedded"), &json!(false)));
    assert!(stats["not_ready"].as_str().unwrap().contains("the embedded bus"), "{stats}");
    assert_eq!(stats["first_commands"], json!(["subscribe", "publish"]));
    let memory = &stats["memory"];
    assert!(memory["resident_bytes"].as_u64().unwrap() > 1_000_000 && memory["bytes_max"] == 1 << 30, "{memory}");

    second.messages_sent.add(500);
    second.latency.record(800, 500);
    server.state.bus_metrics.messages.add(5);
    let moved = loop {
        let told = event(&mut socket);
        if told["data"]["rates"]["deliveries"].as_f64().is_some_and(|rate| rate > 0.0) {
            break told;
        }
    };
    let (stats, seconds) = (&moved["data"], moved["data"]["rates"]["seconds"].as_f64().unwrap());
    let per_second = |count: f64, rate: &Value| (rate.as_f64().unwrap() * seconds - count).abs() < 1e-6;
    assert!(per_second(500.0, &stats["rates"]["deliveries"]) && per_second(5.0, &stats["rates"]["messages"]), "{stats}");
    assert!(per_second(500.0, &stats["shards"][1]["deliveries"]) && per_second(0.0, &stats["shards"][0]["deliveries"]), "{stats}");
    let p50 = stats["latency"]["p50"].as_f64().unwrap();
    assert!((0.0005..=0.001).contains(&p50), "{p50}");
}

#[test]
fn nothing_is_made_while_nobody_watches() {
    let server = Server::start(Options::default());
    let newest = server.state.stats.newest.subscribe();
    assert!(newest.borrow().is_none());
    let mut socket = watch(&server);
    next(&mut socket, "notification");
    assert!(newest.borrow().is_some());
    drop(socket);
    // What was made goes with the last of them.
    wait_until(|| newest.borrow().is_none());
    let made = server.state.stats.seq.load(Relaxed);
    let mut socket = watch(&server);
    let told = next(&mut socket, "notification");
    assert_eq!((&told["data"]["rates"], &told["seq"]), (&Value::Null, &json!(made + 1)), "nothing was made since, and rates begin anew");
}

#[test]
fn the_place_of_one_who_has_gone_is_free_and_the_next_one_too_many_is_told() {
    let server = Server::start(Options::default());
    let mut sockets: Vec<_> = (0..WATCHERS_MAX).map(|_| watch(&server)).collect();
    let (status, body) = try_watch(&server, &[]).unwrap_err();
    assert!(status == 503 && body.contains("watch already"), "{status} {body}");
    let page = server.get("/metrics").body;
    assert!(page.contains(&format!("\ncampanile_control_watchers {WATCHERS_MAX}\n")), "{page}");
    assert!(page.contains("\ncampanile_control_answers_total{status=\"101\"} 16\n"), "{page}");
    // A client of the port that wants something else gets its place, and those who watch keep theirs.
    let idle: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
    // By a connection of its own: the one that was kept alive has made room.
    assert_eq!(answer(agent().get(server.url("/healthz")).call()).status, 200);
    sockets.iter_mut().for_each(|socket| assert_eq!(next(socket, "notification")["channel"], "$stats"));
    drop(idle);
    drop(sockets.pop());
    wait_until(|| server.state.stats.watchers() < WATCHERS_MAX);
    next(&mut watch(&server), "notification");
}

#[test]
fn a_request_that_is_no_upgrade_is_told_what_it_is_not() {
    let server = Server::start(Options::default());
    let answer = server.get("/stats");
    assert_eq!((answer.status, answer.header("upgrade"), answer.header("sec-websocket-version")), (426, "websocket", "13"));
    assert!(answer.json()["accepted"].as_str().unwrap().contains("campanile top"));
    let head = "Host: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, status) in [
        (format!("GET /stats HTTP/1.1\r\n{head}Sec-WebSocket-Version: 8\r\n{key}\r\n"), 426),
        (format!("GET /stats HTTP/1.1\r\n{head}Sec-WebSocket-Version: 13\r\n\r\n"), 400),
        (format!("GET /stats HTTP/1.1\r\n{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bm90IDE2IGJ5dGVz\r\n\r\n"), 400),
        (format!("GET /stats HTTP/1.1\r\n{head}Sec-WebSocket-Version: 13\r\n{key}{key}\r\n"), 400),
        (format!("GET /stats HTTP/1.1\r\n{head}Sec-WebSocket-Version: 13\r\n{key}Content-Length: 3\r\n\r\nabc"), 400),
        (format!("HEAD /stats HTTP/1.1\r\n{head}Sec-WebSocket-Version: 13\r\n{key}\r\n"), 426),
        (format!("GET /stats HTTP/1.0\r\n{head}Sec-WebSocket-Version: 13\r\n{key}\r\n"), 426),
        (format!("POST /stats HTTP/1.1\r\n{head}\r\n"), 405),
    ] {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let text = super::read_to_close(&mut stream);
        assert_eq!(text.split(' ').nth(1), Some(&*status.to_string()), "{request}{text}");
    }
    assert_eq!(server.state.stats.watchers(), 0);
}

#[test]
fn a_page_of_another_origin_and_a_name_of_somebody_elses_are_refused() {
    let server = Server::start(Options::default());
    let own = format!("http://{}", server.address);
    assert!(try_watch(&server, &[("Origin", &own)]).is_ok());
    for origin in ["http://evil.example", "http://127.0.0.1:1", "null"] {
        let (status, body) = try_watch(&server, &[("Origin", origin)]).unwrap_err();
        assert!(status == 403 && body.contains("another origin"), "{origin}: {status} {body}");
    }
    assert_eq!(server.get_with("/stats", "host", "evil.example").status, 421);
}

#[test]
fn whoever_brings_the_token_watches_and_the_page_asks_for_it() {
    let settings = settings().with(|settings| settings.addresses.control_token = Some(TOKEN.into()));
    let server = Server::start(Options { settings, ..Options::default() });
    let bearer = format!("Bearer {TOKEN}");
    let offered = "campanile.v1.json, bearer.token%2Fof+the%3Dtests~";
    for fields in [&[("Authorization", &*bearer)][..], &[("Sec-WebSocket-Protocol", offered)]] {
        let mut socket = try_watch(&server, fields).unwrap_or_else(|(status, body)| panic!("{fields:?}: {status} {body}"));
        next(&mut socket, "notification");
    }
    for fields in [
        &[][..],
        &[("Authorization", "Bearer token")],
        &[("Sec-WebSocket-Protocol", "campanile.v1.json")],
        &[("Sec-WebSocket-Protocol", "campanile.v1.json, bearer.token")],
        &[("Sec-WebSocket-Protocol", "bearer.token%2Fof+the%3Dtests~, bearer.token%2Fof+the%3Dtests~")],
        &[("Authorization", &*bearer), ("Sec-WebSocket-Protocol", offered)],
        &[("Cookie", "token=token/of+the=tests~")],
    ] {
        let (status, _) = try_watch(&server, fields).unwrap_err();
        assert_eq!(status, 401, "{fields:?}");
    }
    // A subprotocol is no way in elsewhere.
    assert_eq!(server.get_with("/info", "sec-websocket-protocol", offered).status, 401);
    assert_eq!(server.get("/").status, 401, "the list of endpoints");
    let page = server.get_with("/", "accept", "text/html,*/*;q=0.8");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(!page.body.contains("1.2.3-test"), "it tells nothing of the server");
}

#[test]
fn the_page_goes_to_browsers_and_runs_what_stands_in_it_alone() {
    let server = Server::start(Options::default());
    let page = server.get_with("/", "accept", "text/html");
    assert!(page.body.starts_with("<!doctype html>") && page.header("vary") == "Accept", "{}", page.body);
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(server.get_with("/", "accept", "*/*").body.starts_with("Campanile 1.2.3-test, control port"));
}

#[test]
fn pings_are_answered_and_other_commands_refused() {
    let server = Server::start(Options::default());
    let mut socket = watch(&server);
    socket.send(Message::text(r#"{"type":"ping","id":7}"#)).unwrap();
    assert_eq!(next(&mut socket, "pong"), json!({"type": "pong", "id": 7}));
    for (command, code) in [
        (r#"{"type":"subscribe","channel":"news","id":1}"#, "not_allowed"),
        (r#"{"type":"publish","channel":"$stats","data":1,"id":1}"#, "not_allowed"),
        (r#"{"type":"dance","id":1}"#, "unknown_type"),
        ("nonsense", "bad_command"),
    ] {
        socket.send(Message::text(command)).unwrap();
        assert_eq!(next(&mut socket, "error")["code"], code, "{command}");
    }
    socket.send(Message::Ping("abc".into())).unwrap();
    while !matches!(socket.read().unwrap(), Message::Pong(payload) if payload == "abc") {}
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    wait_until(|| server.state.stats.watchers() == 0);
}

#[test]
fn bytes_that_are_no_frames_end_the_connection_with_the_reason() {
    let server = Server::start(Options::default());
    for (bytes, code) in [(&b"\x81\x03abc"[..], 1002), (b"\x81\xfe\x20\x00\x00\x00\x00\x00", 1009), (b"\x81\x81\x00\x00\x00\x00\xff", 1007)]
    {
        let mut socket = watch(&server);
        socket.get_mut().write_all(bytes).unwrap();
        let close = loop {
            if let Message::Close(close) = socket.read().unwrap() {
                break close.unwrap();
            }
        };
        assert_eq!(u16::from(close.code), code, "{close:?}");
        assert!(!close.reason.is_empty());
    }
    wait_until(|| server.state.stats.watchers() == 0);
}

#[test]
fn whoever_does_not_answer_pings_is_closed_and_so_is_whoever_takes_nothing() {
    let soon = Duration::from_millis(20);
    let timeouts = Timeouts { beat: soon, farewell: soon, ..TIMEOUTS };
    let server = Server::start(Options { timeouts, ..Options::default() });
    // It reads, and never answers.
    let mut silent = watch(&server);
    std::io::copy(silent.get_mut(), &mut std::io::sink()).unwrap();
    wait_until(|| server.state.stats.watchers() == 0);
    assert!(server.get("/metrics").body.contains("campanile_control_connections_cut_total{reason=\"silent\"} 1\n"));

    let timeouts = Timeouts { writing: Duration::from_millis(300), beat: soon, farewell: soon, ..TIMEOUTS };
    let server = Server::start(Options { timeouts, ..Options::default() });
    let mut stalled = watch(&server);
    stalled.get_ref().set_nonblocking(true).unwrap();
    // It asks and takes no answers.
    let command = [0x81, 0x80, 0, 0, 0, 0].repeat(1000);
    let begun = std::time::Instant::now();
    while server.state.stats.watchers() > 0 {
        let _ = stalled.get_mut().write(&command);
        assert!(begun.elapsed() < PATIENCE);
    }
    assert!(server.get("/metrics").body.contains("campanile_control_connections_cut_total{reason=\"unread\"} 1\n"));
}

#[test]
fn the_end_of_the_server_is_told() {
    let mut server = Server::start(Options::default());
    let mut socket = watch(&server);
    next(&mut socket, "notification");
    server.end().unwrap();
    let close = loop {
        match socket.read().unwrap() {
            Message::Close(close) => break close.unwrap(),
            Message::Text(_) | Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(u16::from(close.code), 1001);
}

/// As from a page in whose request the first frame already stood.
#[test]
fn what_comes_with_the_request_is_heard() {
    let server = Server::start(Options::default());
    let mut stream = server.connect();
    let head = "GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // An empty ping, masked with zeros.
    stream.write_all(&[head.as_bytes(), &[0x89, 0x80, 0, 0, 0, 0]].concat()).unwrap();
    let mut text = Vec::new();
    while !text.windows(2).any(|pong| pong == [0x8a, 0x00]) {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&bytes[..count]);
    }
    let text = String::from_utf8_lossy(&text);
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
}

#[test]
fn the_largest_snapshot_is_within_its_bound() {
    use crate::control::stats::snapshot::{Channel, Shard, Snapshot};
    let number = 123_456_789_012_345_u64;
    let rate = 123_456.789_012_345;
    let shard = Shard {
        connections: number,
        subscriptions: number,
        lagging: number,
        busy: rate,
        lag_seconds: rate,
        deliveries: rate,
        inbox_bytes: number,
        log_bytes: number,
        closed_by: vec!["lag".into(), "logs".into(), "memory".into()],
    };
    // Each is six characters in JSON at most.
    let name = "\u{1}".repeat(crate::limits::CHANNEL_NAME_BYTES_MAX);
    let snapshot = Snapshot {
        shards: vec![shard; SHARDS_MAX],
        busiest: Some(vec![Channel { name, subscribers: number, messages: rate, deliveries: rate }; BUSIEST_TOLD_MAX]),
        ..Snapshot::default()
    };
    let bytes = serde_json::to_vec(&snapshot).unwrap().len();
    assert!(bytes < SNAPSHOT_BYTES_MAX - 32 * 1024, "{bytes}");
}

#[test]
fn a_bus_that_does_not_answer_costs_the_channels_alone() {
    // Its inbox is always full.
    let server = Server::start(Options { inbox_capacity: 0, ..Options::default() });
    let told = next(&mut watch(&server), "notification");
    assert_eq!((&told["data"]["busiest"], &told["data"]["connections"]), (&Value::Null, &json!(0)));
    assert!(server.state.bus.send(BusCommand::Stop).is_err());
}
