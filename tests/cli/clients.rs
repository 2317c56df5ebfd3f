//! `campanile publish` and `campanile subscribe`, against servers that are and are not there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread::JoinHandle;

use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

use super::{assert_contains, campanile, run};

#[test]
fn publish_tells_who_is_missing() {
    let closed = closed_port();
    let control = format!("127.0.0.1:{closed}");
    let (code, _, stderr) = run(campanile("absent").args(["publish", "news", "hi", "--control", &control]));
    assert_eq!(code, 1);
    assert_contains(&stderr, &["is `campanile serve` running?", &format!("control address {control}")]);

    let redis = format!("redis://:secret@127.0.0.1:{closed}");
    let (code, _, stderr) = run(campanile("absent").args(["publish", "news", "hi", "--redis", &redis]));
    assert_eq!(code, 1);
    assert_contains(&stderr, &["Redis cannot be reached", "is it running"]);
    assert!(!stderr.contains("secret"), "{stderr}");
}

#[test]
fn publish_posts_to_control_and_prints_the_number() {
    let (address, server) = http_server(vec![
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\nconnection: close\r\n\r\n{\"epoch\":1,\"seq\":7}"[..]
            .replace("18", "19"),
    ]);
    // As the start block shows it.
    let address = format!("http://{address}");
    let (code, stdout, stderr) = run(campanile("control").args(["publish", "news", "{\"a\": 1}", "--control", &address]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "published to news: seq 7\n");
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with("POST /publish HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].ends_with("{\"channel\":\"news\",\"data\":{\"a\": 1}}"), "{}", requests[0]);
}

#[test]
fn publish_sends_every_line_and_tells_a_refusal() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: close\r\n\r\n{\"seq\":null}".to_owned();
    let no = "HTTP/1.1 400 Bad Request\r\ncontent-length: 23\r\nconnection: close\r\n\r\n{\"error\":\"bad channel\"}".to_owned();
    let (address, server) = http_server(vec![ok, no]);
    let mut command = campanile("lines");
    let command = command.args(["publish", "news", "-", "--lines", "--control", &address]).write_stdin("one\r\n{\"two\":2}\nthree\n");
    let (code, stdout, stderr) = run(command);
    assert_eq!(code, 1);
    assert_eq!(stdout, "published to news; no seq: most likely nobody on that server listens to it\n");
    assert_contains(&stderr, &["refused the message (400 Bad Request): bad channel"]);
    let requests = server.join().unwrap();
    assert!(requests[0].ends_with("{\"channel\":\"news\",\"payload\":\"one\"}"), "{}", requests[0]);
    assert!(requests[1].ends_with("{\"channel\":\"news\",\"data\":{\"two\":2}}"), "{}", requests[1]);
}

#[test]
fn subscribe_takes_only_what_it_can() {
    for (url, part) in [
        ("https://127.0.0.1/ws", "socket is wss://127.0.0.1/ws"),
        ("http://127.0.0.1/ws", "socket is ws://127.0.0.1/ws"),
        ("nowhere", "accepted: ws://"),
    ] {
        let (code, _, stderr) = run(campanile("urls").args(["subscribe", "a", "--url", url]));
        assert_eq!(code, 2, "{url}");
        assert_contains(&stderr, &[part]);
    }
}

/// A server that drops the client in every way in turn, and what the client prints of it.
#[test]
fn subscribe_resumes_after_every_break() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut commands = Vec::new();
        for round in 0..3 {
            let mut socket = accept(&listener);
            commands.push(socket.read().unwrap().into_text().unwrap().to_string());
            let subscribed =
                format!(r#"{{"type":"subscribed","id":1,"channel":"news","epoch":5,"seq":{round},"recovered":{}}}"#, round > 0);
            let next = round + 1;
            let notification =
                format!("{{\"type\":\"notification\",\"channel\":\"news\",\"seq\":{next},\"data\":{{\n\"round\":{round}}}}}");
            for text in [CONNECTED.to_owned(), subscribed, notification] {
                socket.send(Message::text(text)).unwrap();
            }
            match round {
                // The connection breaks without a word.
                0 => drop(socket),
                1 => {
                    let frame = CloseFrame { code: 4008.into(), reason: "".into() };
                    socket.close(Some(frame)).unwrap();
                    while socket.read().is_ok() {}
                }
                _ => while socket.read().is_ok() {},
            }
        }
        commands
    });
    let (code, stdout, stderr) = run(campanile("resume").args(["subscribe", "news", "--url", &url, "--count", "3"]));
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<String> = (0..3)
        .map(|round| format!("{{\"type\":\"notification\",\"channel\":\"news\",\"seq\":{},\"data\":{{ \"round\":{round}}}}}", round + 1))
        .collect();
    assert_eq!(stdout.lines().collect::<Vec<_>>(), lines);
    assert_contains(
        &stderr,
        &["connected to ws://", "the connection was lost", "reconnecting in", "too slow (4008), reconnecting in 0 ms"],
    );
    let commands = server.join().unwrap();
    assert_eq!(commands[0], r#"{"type":"subscribe","id":1,"channel":"news"}"#);
    assert_eq!(commands[1], r#"{"type":"subscribe","id":1,"channel":"news","since":{"epoch":5,"seq":1}}"#);
    assert_eq!(commands[2], r#"{"type":"subscribe","id":1,"channel":"news","since":{"epoch":5,"seq":2}}"#);
}

/// Whoever reads stdout alone must learn that messages are missing.
#[test]
fn a_server_that_counts_anew_is_an_event_on_stdout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        for epoch in [5, 6] {
            let mut socket = accept(&listener);
            socket.read().unwrap();
            let subscribed = format!(r#"{{"type":"subscribed","channel":"news","epoch":{epoch},"seq":0,"recovered":false}}"#);
            let notification = format!(r#"{{"type":"notification","channel":"news","seq":1,"data":{epoch}}}"#);
            for text in [CONNECTED.to_owned(), subscribed, notification] {
                socket.send(Message::text(text)).unwrap();
            }
            if epoch == 6 {
                while socket.read().is_ok() {}
            }
        }
    });
    let (code, stdout, stderr) = run(campanile("anew").args(["subscribe", "news", "--url", &url, "--count", "2"]));
    assert_eq!(code, 0, "{stderr}");
    server.join().unwrap();
    let kinds: Vec<(String, u64)> = stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| (event["type"].as_str().unwrap().to_owned(), event["epoch"].as_u64().unwrap_or(0)))
        .collect();
    let notification = ("notification".to_owned(), 0);
    assert_eq!(kinds, [notification.clone(), ("subscribed".to_owned(), 6), notification], "{stdout}");
    assert_contains(&stderr, &["the server counts anew"]);
}

#[test]
fn a_pattern_is_said_to_be_one_name() {
    let mut child = spawn(&["subscribe", "user:*", "--url", &format!("ws://127.0.0.1:{}/ws", closed_port())]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_contains(&lines.next().unwrap(), &["user:* is taken for the name of one channel"]);
    assert_contains(&lines.next().unwrap(), &["reconnecting in"]);
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn subscribe_ends_cleanly_on_a_signal_while_it_waits_to_reconnect() {
    let mut child = spawn_subscribe(&format!("ws://127.0.0.1:{}/ws", closed_port()), "json");
    let mut first = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
    assert_contains(&first, &["is `campanile serve` running?), reconnecting in"]);
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn subscribe_says_goodbye_on_a_signal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = spawn_subscribe(&format!("ws://{}/ws", listener.local_addr().unwrap()), "msgpack");
    let mut socket = accept(&listener);
    // {"type":"subscribe","id":1,"channel":"news"}
    assert_eq!(socket.read().unwrap().into_data(), &b"\x83\xa4type\xa9subscribe\xa2id\x01\xa7channel\xa4news"[..]);
    // {"type":"notification","channel":"news","seq":1,"data":bin(ff)}
    let event = b"\x84\xa4type\xacnotification\xa7channel\xa4news\xa3seq\x01\xa4data\xc4\x01\xff";
    socket.send(Message::binary(event.to_vec())).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    let expected = serde_json::json!({"type": "notification", "channel": "news", "seq": 1, "data": "/w==", "encoding": "base64"});
    assert_eq!(event, expected);
    interrupt(&child);
    let close = socket.read().unwrap();
    assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1000), "{close:?}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn subscribe_ends_quietly_when_nobody_reads_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = spawn_subscribe(&format!("ws://{}/ws", listener.local_addr().unwrap()), "json");
    drop(child.stdout.take());
    let mut socket = accept(&listener);
    socket.send(Message::text(r#"{"type":"notification","channel":"news","seq":1,"data":1}"#)).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(!stderr.contains("error") && !stderr.contains("panic"), "{stderr}");
}

#[test]
fn publish_goes_through_a_real_redis() {
    let port = closed_port();
    let mut redis = std::process::Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", "secret"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-server is needed; scripts/test installs it");
    let mut log = BufReader::new(redis.stdout.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("Ready to accept connections")), "redis-server did not start");
    let publish = |url: &str, channel: &str| run(campanile("redis").args(["publish", channel, "hi", "--redis", url]));
    let url = format!("redis://:secret@127.0.0.1:{port}");
    let found = [publish(&url, "news"), publish(&url, "notifications"), publish(&url.replace("secret", "other-secret"), "news")];
    redis.kill().unwrap();
    redis.wait().unwrap();
    assert_eq!(found[0].1, "published to news (Redis channel notifications:news): 0 receivers\n");
    assert_eq!(found[1].1, "published to notifications (Redis channel notifications): 0 receivers\n");
    assert_eq!(found[2].0, 1);
    assert_contains(&found[2].2, &["redis://:***@127.0.0.1", "AuthenticationFailed"]);
}

const CONNECTED: &str = r#"{"type":"connected","client_id":"c","heartbeat":30,"timestamp":1}"#;

/// Takes the next client and whatever subprotocol it asks for.
fn accept(listener: &TcpListener) -> WebSocket<TcpStream> {
    #[expect(clippy::result_large_err, reason = "tungstenite's trait has this type")]
    let callback = |request: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", request.headers()["sec-websocket-protocol"].clone());
        Ok(response)
    };
    tungstenite::accept_hdr(listener.accept().unwrap().0, callback).unwrap()
}

fn spawn_subscribe(url: &str, format: &str) -> std::process::Child {
    spawn(&["subscribe", "news", "--url", url, "--format", format])
}

fn spawn(arguments: &[&str]) -> std::process::Child {
    std::process::Command::new(env!("CARGO_BIN_EXE_campanile"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn interrupt(child: &std::process::Child) {
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
}

/// A port of this host that nobody listens on.
pub fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Gives each connection the next answer; the handle gives the requests.
pub fn http_server(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let handle = std::thread::spawn(move || answers.into_iter().map(|answer| serve_once(listener.accept().unwrap().0, &answer)).collect());
    (address, handle)
}

fn serve_once(mut stream: TcpStream, answer: &str) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let start = request.len();
        reader.read_line(&mut request).unwrap();
        let line = request[start..].to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(answer.as_bytes()).unwrap();
    request + &String::from_utf8(body).unwrap()
}
