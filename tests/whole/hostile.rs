//! Bad input against the real server: readers that stall, bytes that trickle, garbage, crowds beyond the limits, a Redis that is not there.
//! Whatever one client does, the others get everything and memory stays where it was.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::crowd::{Crowd, Script};
use crate::support::frames;
use crate::support::redis::{PATIENCE, free_port};
use crate::support::server::{Launch, Server};
use serde_json::{Value, json};

const LOG_BYTES: f64 = 64.0 * 1024.0;
/// Of this size and number, messages overrun a log of [`LOG_BYTES`] and all that the kernel holds for a socket many times.
const BUSY_BYTES: usize = 16 * 1024;
const BUSY_COUNT: u64 = 500;

const BUSY_FILE: &str = "\
log_bytes_per_channel = \"64k\"
close_timeout = 30

[[channels]]
prefix = \"skip:\"
overrun = \"skip\"

[[channels]]
prefix = \"latest:\"
overrun = \"latest\"
";

/// Publishes on `channel` while a stalled reader does not read and an ordinary one, which must get everything, does.
/// Returns the stalled reader.
fn flood_a_stalled_reader(server: &Server, channel: &str) -> Client {
    let mut stalled = Client::dial_narrow(server.listen, 4096).upgrade(&format!("/ws/{channel}?format=json"));
    assert_eq!(stalled.event()["type"], "connected");
    assert_eq!(stalled.event()["type"], "subscribed");
    let mut reader = Client::subscribed(server.listen, channel);
    let mut elsewhere = Client::subscribed(server.listen, "elsewhere");
    let payload = Value::from("x".repeat(BUSY_BYTES));
    for number in 1..=BUSY_COUNT {
        assert_eq!(server.publish(channel, &payload), number);
        let event = reader.event();
        assert_eq!((&event["type"], &event["seq"]), (&json!("notification"), &json!(number)));
        assert_eq!(event["data"], payload);
        if number % 50 == 0 {
            server.publish("elsewhere", &Value::from(number));
            assert_eq!(elsewhere.event()["data"], number);
            // One log per shard that serves the channel, and what a cut frame holds on to; more only until a shard that was held up
            // has been to everybody.
            server.eventually("logs within their bound", |server| server.metric("campanile_log_bytes", "") <= 4.0 * LOG_BYTES);
            assert!(server.metric("campanile_buffer_bytes", "") <= LOG_BYTES);
        }
    }
    stalled
}

#[test]
fn a_stalled_reader_is_disconnected_and_costs_nobody_anything() {
    let server = Launch::new(&[]).file(BUSY_FILE).start();
    let mut stalled = flood_a_stalled_reader(&server, "busy");
    assert_eq!(server.metric("campanile_overruns_total", "policy=\"disconnect\""), 1.0);
    // Nothing is kept for it but the message it was cut in, as published and as JSON.
    server.eventually("the log is dropped", |server| server.metric("campanile_log_bytes", "") <= 2.2 * BUSY_BYTES as f64);
    // It wakes up: what the kernel had taken, to the end of that frame, and why.
    assert_eq!(stalled.close_code(), Some(4008));
    drop(stalled);
    server.eventually_metric("campanile_connections_closed_total", "reason=\"overrun\"", 1.0);
    server.eventually_metric("campanile_lagging_subscriptions", "", 0.0);
    server.eventually_metric("campanile_buffer_bytes", "", 0.0);
    server.eventually_metric("campanile_log_bytes", "", 0.0);
}

/// What never reads does not even get that; its connection ends all the same.
#[test]
fn a_reader_that_stalls_for_ever_is_cut_off() {
    let server = Launch::new(&["--close-timeout", "1"]).file(BUSY_FILE).start();
    let mut stalled = flood_a_stalled_reader(&server, "busy");
    server.eventually_metric("campanile_connections_closed_total", "reason=\"overrun\"", 1.0);
    server.eventually_metric("campanile_log_bytes", "", 0.0);
    server.eventually_metric("campanile_buffer_bytes", "", 0.0);
    assert!(!stalled.rest_bytes().is_empty());
}

/// Reads the stalled reader's stream to its last message. Each number is a message or in a gap, once; returns how many were in gaps.
fn catch_up(stalled: &mut Client) -> u64 {
    let (mut next, mut lost) = (1, 0);
    while next <= BUSY_COUNT {
        let event = stalled.event();
        match event["type"].as_str().unwrap() {
            "notification" => {
                assert_eq!(event["seq"], next);
                next += 1;
            }
            "gap" => {
                assert_eq!((&event["from"], &event["reason"]), (&json!(next), &json!("overrun")));
                let to = event["to"].as_u64().unwrap();
                assert!((next..BUSY_COUNT).contains(&to), "{event}");
                lost += to + 1 - next;
                next = to + 1;
            }
            _ => panic!("{event}"),
        }
    }
    lost
}

#[test]
fn a_stalled_reader_that_wakes_up_finds_a_gap_where_the_policy_skips() {
    let server = Launch::new(&[]).file(BUSY_FILE).start();
    let mut stalled = flood_a_stalled_reader(&server, "skip:busy");
    let lost = catch_up(&mut stalled);
    assert!(lost > BUSY_COUNT / 2, "{lost}");
    assert!(server.metric("campanile_overruns_total", "policy=\"skip\"") >= 1.0);
    assert_eq!(server.metric("campanile_messages_skipped_total", ""), lost as f64);
    server.publish("skip:busy", &json!("on"));
    assert_eq!(stalled.event()["data"], "on");
    server.eventually_metric("campanile_log_bytes", "", 0.0);
}

#[test]
fn a_stalled_reader_that_wakes_up_gets_the_newest_where_the_policy_says_latest() {
    let server = Launch::new(&[]).file(BUSY_FILE).start();
    let mut stalled = flood_a_stalled_reader(&server, "latest:busy");
    let lost = catch_up(&mut stalled);
    assert!(lost > BUSY_COUNT / 2, "{lost}");
    assert!(server.metric("campanile_overruns_total", "policy=\"latest\"") >= 1.0);
    server.publish("latest:busy", &json!("on"));
    assert_eq!(stalled.event()["data"], "on");
}

#[test]
fn a_head_that_trickles_is_answered_408_at_the_deadline() {
    let server = Server::start(&["--handshake-timeout", "1"]);
    let begin = Instant::now();
    let mut slow = Client::dial(server.listen);
    let mut silent = Client::dial(server.listen);
    let request = frames::request("/ws", "");
    let mut sent = 0;
    // A byte at a time until the answer comes; the deadline is that of the whole head, not of a byte.
    while slow.is_silent_for(Duration::from_millis(100)) {
        assert!(begin.elapsed() < PATIENCE && sent < request.len(), "no answer");
        slow.send(&request.as_bytes()[sent..=sent]);
        sent += 1;
    }
    let answer = slow.rest();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("within 1 s"), "{answer}");
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    let answer = silent.rest();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(server.metric("campanile_connections_refused_total", "reason=\"request_timeout\""), 2.0);
    drop((slow, silent));
    server.eventually_metric("campanile_connections_closed_total", "reason=\"handshake_timeout\"", 2.0);
    server.eventually_metric("campanile_sockets", "", 0.0);
}

/// Garbage of one kind and what becomes of it: HTTP status, close code after an upgrade, reason in the metrics.
struct Garbage {
    name: &'static str,
    first: Vec<u8>,
    then: Vec<u8>,
    status: u16,
    close: Option<u16>,
    reason: &'static str,
    refusal: Option<&'static str>,
}

fn every_kind_of_garbage() -> Vec<Garbage> {
    let refused = |name, first: &[u8], status, refusal| Garbage {
        name,
        first: first.to_vec(),
        then: Vec::new(),
        status,
        close: None,
        reason: "refused",
        refusal: Some(refusal),
    };
    let violation = |name, then: Vec<u8>, code, reason| Garbage {
        name,
        first: frames::request("/ws", "").into_bytes(),
        then,
        status: 101,
        close: Some(code),
        reason,
        refusal: None,
    };
    let protocol = |name, then| violation(name, then, 1002, "protocol_error");
    let request = frames::request("/ws", "");
    let cut = |from: &str, to: &str| request.replace(from, to).into_bytes();
    let fields = format!("GET /ws HTTP/1.1\r\n{}\r\n", (0..80).map(|n| format!("X-{n}: y\r\n")).collect::<String>());
    vec![
        refused("binary noise", &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03], 400, "bad_request"),
        refused("another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        refused("not an upgrade", b"GET /ws HTTP/1.1\r\nHost: test\r\n\r\n", 426, "upgrade_required"),
        refused("no key", &cut("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, "bad_request"),
        refused("a short key", &cut("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), 400, "bad_request"),
        refused("an old version", &cut("Version: 13", "Version: 8"), 426, "upgrade_required"),
        refused("an unknown format", &cut("/ws ", "/ws?format=xml "), 400, "bad_request"),
        refused("a bad channel", &cut("/ws ", "/ws/a%0Ab "), 400, "bad_request"),
        refused("no such path", &cut("/ws ", "/admin "), 404, "not_found"),
        refused("echo is off", &cut("/ws ", "/echo "), 404, "not_found"),
        refused("another method", b"DELETE /ws HTTP/1.1\r\nHost: test\r\n\r\n", 405, "method_not_allowed"),
        refused("a body", b"GET /ws HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n0123456789", 413, "body_not_allowed"),
        refused("a long head", format!("GET /ws HTTP/1.1\r\nX: {}", "y".repeat(9000)).as_bytes(), 431, "head_too_big"),
        refused("many fields", fields.as_bytes(), 431, "head_too_big"),
        protocol("an unmasked frame", b"\x81\x05hello".to_vec()),
        protocol("a reserved bit", frames::frame_with(0xC1, b"x")),
        protocol("all reserved bits", frames::frame_with(0xF2, b"x")),
        protocol("a reserved opcode", frames::frame_with(0x83, b"x")),
        protocol("a reserved control opcode", frames::frame_with(0x8B, b"")),
        protocol("a fragmented ping", frames::frame_with(0x09, b"x")),
        protocol("a long ping", frames::frame(frames::PING, &[0; 126])),
        protocol("a continuation of nothing", frames::frame(frames::CONTINUATION, b"x")),
        protocol("a message within a message", [frames::frame_with(0x01, b"a"), frames::frame(frames::TEXT, b"b")].concat()),
        protocol("a wasteful length", b"\x81\xFE\x00\x05\0\0\0\0hello".to_vec()),
        protocol("a negative length", b"\x82\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0".to_vec()),
        protocol("half a close code", frames::frame(frames::CLOSE, &[3])),
        protocol("a forbidden close code", frames::close(1006, "")),
        violation("text that is not UTF-8", frames::frame(frames::TEXT, b"\xC3\x28"), 1007, "invalid_utf8"),
        violation("text that ends within a character", frames::frame(frames::TEXT, b"\xE2\x82"), 1007, "invalid_utf8"),
        violation("a close reason that is not UTF-8", frames::frame(frames::CLOSE, b"\x03\xE8\xFF"), 1007, "invalid_utf8"),
        violation("a message of 64 KiB and a byte", frames::frame(frames::BINARY, &[0; (64 << 10) + 1]), 1009, "message_too_big"),
        violation("a message of an exabyte, announced", b"\x82\xFF\x10\0\0\0\0\0\0\0\0\0\0\0".to_vec(), 1009, "message_too_big"),
    ]
}

#[test]
fn garbage_is_answered_with_the_right_code_and_leaves_nothing_behind() {
    let kinds = every_kind_of_garbage();
    let server = Server::start(&["--close-timeout", "10"]);
    let mut witness = Client::subscribed(server.listen, "calm");
    let wave = |count: usize| {
        let script =
            |index: usize| Script { first: kinds[index % kinds.len()].first.clone(), then: kinds[index % kinds.len()].then.clone() };
        let mut crowd = Crowd::new(server.listen, (0..count).map(script));
        crowd.wait("the end of everybody", |member| member.ended);
        for (index, member) in crowd.members().iter().enumerate() {
            let kind = &kinds[index % kinds.len()];
            assert_eq!((member.status, member.close), (Some(kind.status), kind.close.map(Some)), "{}", kind.name);
        }
    };
    // The first wave warms up what the allocator keeps for good.
    let (warm, storm) = (50 * kinds.len(), 300 * kinds.len());
    wave(warm);
    server.eventually_metric("campanile_sockets", "", 1.0);
    let before = server.resident_bytes();
    wave(storm);
    server.eventually_metric("campanile_sockets", "", 1.0);
    assert_eq!(server.metric("ws_connections_total", ""), 1.0);
    assert_eq!(server.metric("campanile_buffer_bytes", ""), 0.0);
    let after = server.resident_bytes();
    assert!(after - before < 4e6, "{before} bytes before, {after} after");

    let total = (warm + storm) as f64;
    let per_kind = total / kinds.len() as f64;
    assert_eq!(server.metric("campanile_connections_accepted_total", ""), total + 1.0);
    assert_eq!(server.metric("campanile_connections_closed_total", ""), total);
    for reason in ["refused", "protocol_error", "invalid_utf8", "message_too_big"] {
        let expected = kinds.iter().filter(|kind| kind.reason == reason).count() as f64 * per_kind;
        assert_eq!(server.metric("campanile_connections_closed_total", &format!("reason=\"{reason}\"")), expected, "{reason}");
    }
    for refusal in kinds.iter().filter_map(|kind| kind.refusal) {
        let expected = kinds.iter().filter(|kind| kind.refusal == Some(refusal)).count() as f64 * per_kind;
        assert_eq!(server.metric("campanile_connections_refused_total", &format!("reason=\"{refusal}\"")), expected, "{refusal}");
    }
    server.publish("calm", &json!(1));
    assert_eq!(witness.event()["data"], 1);
    assert!(!server.log().contains("WARN") && !server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn frames_cut_anywhere_and_dropped_connections_leave_nothing_behind() {
    let server = Server::start(&[]);
    let whole = [frames::request("/ws?channel=a", "").into_bytes(), frames::frame(frames::TEXT, &[b'x'; 200])].concat();
    for cut in (0..whole.len()).step_by(3) {
        let mut client = Client::dial(server.listen);
        client.send(&whole[..cut]);
    }
    server.eventually_metric("campanile_connections_accepted_total", "", whole.len().div_ceil(3) as f64);
    server.eventually_metric("campanile_sockets", "", 0.0);
    assert_eq!(server.metric("ws_connections_total", ""), 0.0);
    assert_eq!(server.metric("campanile_subscriptions", ""), 0.0);
    assert_eq!(server.metric("campanile_buffer_bytes", ""), 0.0);
}

#[test]
fn the_connection_limit_is_answered_503_and_makes_room_again() {
    let server = Server::start(&["--connections-max", "10"]);
    let mut crowd = Crowd::new(server.listen, (0..30).map(|_| Script::upgrade("/ws")));
    crowd.wait("an answer for everybody", |member| member.status.is_some());
    let admitted: Vec<usize> = (0..30).filter(|&index| crowd.members()[index].status == Some(101)).collect();
    assert_eq!(admitted.len(), 10);
    assert!(crowd.members().iter().all(|member| matches!(member.status, Some(101 | 503))));
    assert_eq!(server.metric("campanile_connections_refused_total", "reason=\"connections_max\""), 20.0);
    let mut refused = Client::dial(server.listen);
    refused.send(frames::request("/ws", "").as_bytes());
    assert!(refused.rest().to_lowercase().contains("\r\nretry-after: "));
    admitted[..3].iter().for_each(|&index| crowd.drop_member(index));
    server.eventually_metric("ws_connections_total", "", 7.0);
    let mut again = Crowd::new(server.listen, (0..5).map(|_| Script::upgrade("/ws")));
    again.wait("an answer for everybody", |member| member.status.is_some());
    assert_eq!(again.open(), 3);
    assert_eq!(crowd.open(), 7);
}

/// Where all memory is asked for, there is never enough.
#[test]
fn a_host_without_memory_is_answered_503_and_is_not_ready_where_that_is_wanted() {
    let server = Server::start(&["--admission-memory", "100", "--admission-unready"]);
    server.eventually("the host is looked at", |server| server.get("/readyz").0 == 503);
    let (_, told) = server.get("/readyz");
    assert!(told.contains("overloaded"), "{told}");
    let mut refused = Client::dial(server.listen);
    refused.send(frames::request("/ws", "").as_bytes());
    let answer = refused.rest();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("short of memory") && answer.contains("\r\nRetry-After: "), "{answer}");
    assert_eq!(server.metric("campanile_connections_refused_total", "reason=\"overloaded_memory\""), 1.0);
    server.eventually("the gauge says so", |server| server.metric("campanile_admission_closed", "cause=\"memory\"") >= 1.0);
    // Probes of the public port are answered; with no such threshold, all are.
    assert_eq!(server.get_from(server.listen, "/healthz").unwrap().0, 200);
    let open = Server::start(&["--admission-memory", "none", "--admission-lag", "none"]);
    assert_eq!(open.get("/readyz").0, 200);
    assert_eq!(Client::connect(open.listen, "/ws?format=json").event()["type"], "connected");
}

#[test]
fn a_redis_that_is_not_there_is_told_and_looked_for() {
    let port = free_port();
    let server = Server::start(&["--redis", &format!("redis://127.0.0.1:{port}")]);
    server
        .eventually("the reason in the log", |server| server.log().contains(&format!("127.0.0.1:{port}")) && server.log().contains("WARN"));
    assert_eq!(server.get("/readyz").0, 503);
    assert_eq!(server.get("/healthz").0, 200);
    let client = Client::connect(server.listen, "/ws");
    drop(client);
}

#[test]
fn heartbeats_close_whoever_never_answers_and_nobody_else() {
    // The deadline is long enough for those who answer, on a machine that is busy.
    let server = Server::start(&["--heartbeat", "1", "--pong-timeout", "5"]);
    let mut dead = Client::connect(server.listen, "/ws?format=json");
    assert_eq!(dead.event()["heartbeat"], json!(1));
    let mut alive = Crowd::new(server.listen, (0..10).map(|_| Script::upgrade("/ws?format=json")));
    alive.wait("three pings", |member| member.pings >= 3);
    assert_eq!(dead.frame().expect("a ping").opcode, frames::PING);
    assert_eq!(dead.close_code(), None);
    server.eventually_metric("campanile_connections_closed_total", "reason=\"heartbeat_timeout\"", 1.0);
    assert_eq!((alive.open(), server.metric("ws_connections_total", "")), (10, 10.0));
}

/// The tests' own clients once did so only while the test waited for them, and were closed where it was busy elsewhere for long enough.
#[test]
fn a_crowd_answers_pings_while_its_test_is_busy_elsewhere() {
    // Nobody is pinged twice who has not answered the first time, and the deadline for that never comes.
    let server = Server::start(&["--heartbeat", "1", "--pong-timeout", "3600"]);
    let crowd = Crowd::subscribed(server.listen, 20, |_| "quiet".to_owned());
    server.eventually("three pings each", |server| server.metric("campanile_pings_sent_total", "") >= 60.0);
    assert_eq!(crowd.open(), 20);
}

#[test]
fn echo_returns_messages_of_every_size_unchanged() {
    let server = Server::start(&["--echo"]);
    let mut client = Client::connect(server.listen, "/echo");
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20, 16 << 20] {
        for opcode in [frames::TEXT, frames::BINARY] {
            // Text of ASCII and of two-byte characters; bytes of every value.
            let payload: Vec<u8> = match opcode {
                frames::TEXT => "aé€".bytes().cycle().take(length - length % 6).chain(std::iter::repeat_n(b'z', length % 6)).collect(),
                _ => (0..length).map(|at| (at * 7 + at / 256) as u8).collect(),
            };
            client.send(&frames::frame(opcode, &payload));
            let back = client.frame().expect("the echo");
            assert!(back.opcode == opcode && back.payload == payload, "{length} bytes of opcode {opcode} came back otherwise");
        }
    }
    // In fragments of all sizes, with a ping among them.
    let payload: Vec<u8> = (0..300_000).map(|at| at as u8).collect();
    client.send(&frames::frame_with(frames::BINARY, &payload[..1]));
    client.send(&frames::frame_with(frames::CONTINUATION, &payload[1..70_000]));
    client.send(&frames::frame(frames::PING, b"now"));
    client.send(&frames::frame_with(frames::CONTINUATION, b""));
    client.send(&frames::frame(frames::CONTINUATION, &payload[70_000..]));
    assert_eq!(client.frame(), Some(frames::Frame { opcode: frames::PONG, payload: b"now".to_vec() }));
    assert!(client.frame().unwrap().payload == payload);

    client.send(b"\x82\xFF\0\0\0\0\x01\0\0\x01\0\0\0\0");
    assert_eq!(client.close_code(), Some(1009));
    drop(client);
    let mut fragmented = Client::connect(server.listen, "/echo");
    fragmented.send(&frames::frame_with(frames::BINARY, &vec![0; 16 << 20]));
    fragmented.send(&frames::frame(frames::CONTINUATION, b"x"));
    assert_eq!(fragmented.close_code(), Some(1009));
    drop(fragmented);
    server.eventually_metric("campanile_buffer_bytes", "", 0.0);
    server.eventually_metric("campanile_sockets", "", 0.0);
}

#[test]
fn an_echo_that_is_not_read_pauses_its_sender_and_holds_little() {
    let server = Server::start(&["--echo"]);
    let mut greedy = Client::dial_narrow(server.listen, 4096).upgrade("/echo");
    greedy.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let message = frames::frame(frames::BINARY, &vec![7; 100_000]);
    let mut accepted = 0;
    // Until the kernel's buffers are full: the server does not read on while its answers are not taken.
    while accepted < 1000 && greedy.stream.write_all(&message).is_ok() {
        accepted += 1;
    }
    assert!(accepted < 1000, "the server takes everything");
    let held = server.metric("campanile_buffer_bytes", "");
    assert!(held < 2e6, "{held} bytes are held for one connection");
    drop(greedy);
    server.eventually_metric("campanile_buffer_bytes", "", 0.0);
}

#[test]
fn healthz_answers_on_both_ports_and_head_requests_too() {
    let server = Server::start(&[]);
    for address in [server.listen, server.control] {
        let (status, body) = server.get_from(address, "/healthz").unwrap();
        assert_eq!((status, body.trim()), (200, "ok"));
        let mut client = Client::dial(address);
        client.send(b"HEAD /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let answer = client.rest();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
    assert_eq!(server.get_from(server.listen, "/metrics").unwrap().0, 404);
}
