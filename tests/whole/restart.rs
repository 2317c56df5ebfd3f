//! Servers that end: a drain tells each client when to come back, a part of them is shed, and a successor takes over without refusing anybody.

use super::operator::{CONTROL_TOKEN, client, subscriber};
use crate::support::client::Client;
use crate::support::frames;
use crate::support::server::{Launch, Server};
use serde_json::json;

/// The delay in a close reason.
fn delay_ms(client: &mut Client) -> u64 {
    loop {
        let frame = client.frame().expect("a close frame before the end");
        if frame.opcode == frames::CLOSE {
            assert_eq!(frame.close_code(), Some(1012));
            let text = String::from_utf8(frame.payload[2..].to_vec()).unwrap();
            let delay = text.strip_prefix("reconnect in ").and_then(|rest| rest.strip_suffix(" ms"));
            return delay.unwrap_or_else(|| panic!("no delay in {text:?}")).parse().unwrap();
        }
    }
}

#[test]
fn a_drain_serves_everybody_to_the_end_and_tells_each_when_to_come_back() {
    let mut server = Server::start(&["--shards", "2", "--drain-rate", "5", "--shutdown-timeout", "60"]);
    let mut clients: Vec<Client> = (0..10).map(|_| subscriber(&server, "/ws/news")).collect();
    let (status, answer) = server.post("/drain", "");
    assert_eq!((status, &answer["stage"], &answer["connections"]), (200, &json!("draining"), &json!(10)), "{answer}");
    assert_eq!(server.post("/drain", "{}").0, 200, "twice is once");
    assert_eq!(server.post("/drain", r#"{"now": true}"#).0, 400);
    let (status, body) = server.get("/readyz");
    assert!(status == 503 && body.contains("draining"), "{body}");
    server.eventually("closed ports", |server| std::net::TcpStream::connect(server.listen).is_err());
    // Whoever is still there gets what is published, and then its close frame.
    let number = server.publish("news", &json!("last"));
    let (mut heard, mut delays) = (0, Vec::new());
    for client in &mut clients {
        while let Some(event) = client.next_event() {
            heard += usize::from(event["seq"] == number);
        }
        delays.push(delay_ms(client));
    }
    assert!(heard >= 1, "nobody was there any more after a moment, at 5 a second");
    assert!(delays.iter().all(|&delay| delay < 1000) && delays.iter().any(|&delay| delay != delays[0]), "{delays:?}");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn whoever_is_left_at_the_deadline_goes_at_once_and_comes_back_spread() {
    let mut server = Server::start(&["--drain-rate", "1", "--shutdown-timeout", "1"]);
    let mut clients: Vec<Client> = (0..40).map(|_| client(&server, "/ws").0).collect();
    server.terminate();
    let delays: Vec<u64> = clients.iter_mut().map(delay_ms).collect();
    assert!(delays.iter().any(|&delay| delay > 10_000), "as if one had gone in a second: {delays:?}");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn a_share_is_shed_and_the_others_stay() {
    let mut server = Server::start(&["--shards", "2"]);
    let mut clients: Vec<Client> = (0..100).map(|_| client(&server, "/ws").0).collect();
    for body in ["", "{}", r#"{"percent": 0}"#, r#"{"percent": 101}"#, r#"{"percent": -1}"#, r#"{"percent": "all"}"#] {
        assert_eq!(server.post("/shed", body).0, 400, "{body}");
    }
    let (status, answer) = server.post("/shed", r#"{"percent": 30}"#);
    // Each shard rounds its own share.
    assert!(status == 200 && matches!(answer["shedding"].as_u64(), Some(29..=31)), "{status} {answer}");
    server.eventually("some to go", |server| server.metric("campanile_connections_closed_total", "reason=\"restart\"") >= 5.0);
    assert!(server.is_ready());
    let (status, _) = server.post("/shed", r#"{"percent": 100}"#);
    assert_eq!(status, 200);
    for client in &mut clients {
        delay_ms(client);
    }
    // It does not answer its close frame, so the server is still there for what is asked next.
    let silent = client(&server, "/ws");
    server.post("/drain", "");
    assert_eq!(server.post("/shed", r#"{"percent": 1}"#).0, 409);
    drop(silent);
    // A signal beside the drain would be the second one, which ends at once.
    assert_eq!(server.exit_code(), 0);
}

/// Whether a request is answered with 101. That it cannot be made is an error; it may be reset.
fn knock(address: std::net::SocketAddr) -> bool {
    use std::io::{Read, Write};
    let mut stream = match std::net::TcpStream::connect(address) {
        Ok(stream) => stream,
        // It was let in, and reset before this was told so.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return false,
        Err(error) => panic!("no connect is refused: {error}"),
    };
    let mut head = [0; 12];
    stream.write_all(frames::request("/ws", "").as_bytes()).is_ok() && stream.read_exact(&mut head).is_ok() && head == *b"HTTP/1.1 101"
}

/// Connects without a pause while one server takes another one's place, with one shard and with two.
#[test]
fn a_restart_refuses_nobody() {
    for shards in ["1", "2"] {
        let first = Server::start(&["--shards", shards, "--control-token", CONTROL_TOKEN]);
        let (listen, control) = (first.listen.to_string(), first.control.to_string());
        let arguments = ["--shards", shards, "--listen", &listen, "--control", &control, "--control-token", CONTROL_TOKEN];
        let (code, told) = Launch::new(&arguments).fails();
        assert!(code == 1 && told.contains("--takeover"), "a plain second start: {told}");
        let mut stays = subscriber(&first, "/ws/news");
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let (second, (upgrades, resets)) = std::thread::scope(|scope| {
            let knocking = scope.spawn(|| {
                let mut answers = (0, 0);
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    match knock(first.listen) {
                        true => answers.0 += 1,
                        false => answers.1 += 1,
                    }
                }
                answers
            });
            let second = Launch::new(&[&arguments[..], &["--takeover"]].concat()).start();
            assert_eq!((second.listen, second.control), (first.listen, first.control));
            delay_ms(&mut stays);
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            (second, knocking.join().expect("every client is let in"))
        });
        // The kernel moves what waits at a door that is closed, where it is told to.
        let moves = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1");
        assert!(upgrades > 0 && resets <= if moves { 0 } else { 2 }, "{upgrades} let in, {resets} reset");
        let mut first = first;
        assert_eq!(first.exit_code(), 0);
        let mut second = second;
        second.token = Some(CONTROL_TOKEN.to_owned());
        assert!(second.is_ready() && second.metric("campanile_connections_accepted_total", "") >= 1.0);
        subscriber(&second, "/ws/news");
    }
}

/// The public port of a server that drains is free, and its control port goes to whoever comes.
#[test]
fn a_server_that_drains_lets_its_successor_in() {
    let mut first = Server::start(&["--drain-rate", "1", "--shutdown-timeout", "60"]);
    let _clients: Vec<Client> = (0..5).map(|_| client(&first, "/ws").0).collect();
    let (listen, control) = (first.listen.to_string(), first.control.to_string());
    first.terminate();
    first.eventually("closed ports", |server| std::net::TcpStream::connect(server.listen).is_err());
    let second = Launch::new(&["--listen", &listen, "--control", &control]).start();
    assert!(second.is_ready());
    assert!(first.is_running(), "it goes on with its own clients");
    subscriber(&second, "/ws/news");
    first.terminate();
    assert_eq!(first.exit_code(), 0);
}

#[test]
fn unix_sockets_change_hands_too() {
    let directory = std::env::temp_dir().join(format!("campanile-takeover-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (public, control) = (directory.join("public"), directory.join("control"));
    let addresses = [format!("unix://{}", public.display()), format!("unix://{}", control.display())];
    let arguments = ["--listen", &addresses[0], "--control", &addresses[1]];
    let mut first = Server::start(&arguments);
    let mut old = Client::dial_unix(&public).upgrade("/ws");
    let second = Launch::new(&[&arguments[..], &["--takeover"]].concat()).start();
    delay_ms(&mut old);
    assert_eq!(first.exit_code(), 0);
    let mut new = Client::dial_unix(&public).upgrade("/ws");
    assert_eq!(new.event()["type"], "connected");
    assert!(control.exists(), "the first one has left the file of the second alone");
    drop(second);
    let _ = std::fs::remove_dir_all(&directory);
}

#[test]
fn a_takeover_that_cannot_be_leaves_all_as_it_was() {
    let directory = std::env::temp_dir().join(format!("campanile-no-takeover-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let public = directory.join("public");
    let listen = format!("unix://{}", public.display());
    let first = Server::start(&["--listen", &listen, "--control-token", CONTROL_TOKEN]);
    let control = first.control.to_string();
    // Somebody listens there and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    for (control, token, words) in
        [(&control, "another-token-of-the-tests-0123", "does not give its place up (401"), (&silent_at, CONTROL_TOKEN, "does not answer")]
    {
        let (code, told) = Launch::new(&["--listen", &listen, "--control", control, "--control-token", token, "--takeover"]).fails();
        assert!(code == 1 && told.contains(words), "{told}");
        assert_eq!(Client::dial_unix(&public).upgrade("/ws").event()["type"], "connected");
        assert!(first.is_ready());
    }
    drop(first);
    let _ = std::fs::remove_dir_all(&directory);
}
