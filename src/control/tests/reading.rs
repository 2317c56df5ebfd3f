//! Everything that is read with GET, unknown paths, wrong methods, and clients that do not finish.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::exposition::{Dialect, parse};
use super::{Options, Server, TIMEOUTS, Timeouts, agent, answer, read_to_close, settings, trickle};
use crate::config::Overrun;
use crate::limits::control::CONNECTIONS_MAX;
use crate::wire::close::CloseReason;
use crate::wire::http::refusal::RefusalReason;

#[test]
fn the_index_names_every_endpoint_and_each_of_them_answers() {
    let server = Server::start(Options::default());
    let index = server.get("/");
    assert_eq!((index.status, index.header("content-type")), (200, "text/plain; charset=utf-8"));
    assert!(index.body.starts_with("Campanile 1.2.3-test"), "{}", index.body);
    for endpoint in crate::control::routes::endpoints() {
        assert!(index.body.contains(&endpoint));
        let (method, path) = endpoint.split_once(' ').unwrap();
        let status = if method == "GET" { server.get(path).status } else { server.publish("").status };
        assert!(![404, 405].contains(&status), "{endpoint}: {status}");
    }
}

#[test]
fn healthz_says_ok() {
    let server = Server::start(Options::default());
    let health = server.get("/healthz");
    assert_eq!((health.status, &*health.body), (200, "ok\n"));
}

#[test]
fn the_demo_page_runs_nothing_but_its_own() {
    let server = Server::start(Options::default());
    let page = server.get("/demo");
    assert_eq!((page.status, page.header("content-type"), page.header("cache-control")), (200, "text/html; charset=utf-8", "no-store"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.ends_with("connect-src 'self' ws://*:8080 http://*:8080"), "the public port and this one: {policy}");
    assert!(page.body.contains("\"redis\":null") && page.body.contains("\"auth\":\"none\""));
}

#[test]
fn an_unknown_path_is_told_what_there_is() {
    let server = Server::start(Options::default());
    for path in ["/nowhere", "/metrics/", "/channels/x", "//"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 404);
        let body = answer.json();
        assert_eq!(body["error"], format!("there is no {path} on the control port"));
        assert!(body["endpoints"].as_array().unwrap().contains(&json!("POST /publish")));
    }
}

#[test]
fn a_wrong_method_is_told_the_right_one() {
    let server = Server::start(Options::default());
    let answer = server.get("/publish");
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    assert_eq!(answer.json()["error"], "GET is not served at /publish");
    for path in ["/", "/healthz", "/readyz", "/metrics", "/info", "/channels"] {
        let answer = server.delete(path);
        assert_eq!((answer.status, answer.header("allow")), (405, "GET,HEAD"), "{path}");
        assert!(answer.json()["endpoints"].is_array());
    }
}

#[test]
fn readyz_follows_the_bus() {
    let server = Server::start(Options::default());
    let answer = server.get("/readyz");
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert_eq!(answer.json(), json!({ "ready": false, "reason": "the embedded bus has not started yet" }));
    server.state.bus_metrics.ready.set(1);
    let answer = server.get("/readyz");
    assert_eq!((answer.status, answer.json()), (200, json!({ "ready": true })));

    let settings = settings().with(|settings| settings.redis.url = Some("redis://127.0.0.1".into()));
    let server = Server::start(Options { settings, ..Options::default() });
    let answer = server.get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.json()["reason"].as_str().unwrap().contains("Redis cannot be reached"));
}

#[test]
fn channels_come_in_pages() {
    let server = Server::start(Options::default());
    let page = server.get("/channels").json();
    assert_eq!((page["channels"].as_array().unwrap().len(), &page["next"]), (100, &json!(100)));
    assert_eq!(page["channels"][0]["epoch"], json!(null), "it has not flowed yet");
    assert_eq!(page["channels"][2], json!({ "name": "room:2", "epoch": 77, "seq": 2, "subscribers": 3, "history_messages": 5 }));

    let mut names = Vec::new();
    let mut next = json!(0);
    while let Some(from) = next.as_u64() {
        let page = server.get(&format!("/channels?limit=60&from={from}")).json();
        names.extend(page["channels"].as_array().unwrap().iter().map(|channel| channel["name"].as_str().unwrap().to_owned()));
        next = page["next"].clone();
    }
    assert_eq!(names, (0..250).map(|number| format!("room:{number}")).collect::<Vec<_>>());
    assert_eq!(server.get("/channels?limit=1000").json()["next"], json!(null));
    assert_eq!(server.get("/channels?from=999999").json(), json!({ "channels": [], "next": null }));
}

#[test]
fn who_is_there_is_told_of_channels_and_users() {
    let server = Server::start(Options::default());
    assert_eq!(server.get("/presence?channel=room:1").json(), json!({"channel": "room:1", "subscribers": 3}));
    assert_eq!(server.get("/presence?user=u1").json(), json!({"user": "u1", "connections": 3}));
    let page = server.get("/presence?channel=room:1&members=true&after=ann&limit=7").json();
    assert_eq!(page, json!({"channel": "room:1", "subscribers": 3, "members": ["ann"], "more": false, "partial": false}));
    for (name, status) in [("uncounted", 400), ("unavailable", 503), ("refused", 502)] {
        let answer = server.get(&format!("/presence?channel={name}"));
        assert_eq!(answer.status, status, "{name}");
    }
    for query in ["", "?channel=", "?channel=a&user=b", "?user=", "?channel=a&limit=0", "?channel=%0A", "?channel=a&from=3"] {
        let answer = server.get(&format!("/presence{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["accepted"].as_str().unwrap().contains("channel=NAME"), "{query}");
    }
    let first = server.get("/channels?scope=cluster&limit=7").json();
    assert_eq!(first, json!({"channels": [{"name": "a", "subscribers": 7}], "next": "z"}));
    let next = server.get("/channels?scope=cluster&from=z").json();
    assert_eq!(next["channels"][0], json!({"name": "z", "subscribers": 100}));
}

#[test]
fn a_bad_page_is_told_what_is_accepted() {
    let server = Server::start(Options::default());
    for query in ["limit=0", "limit=1001", "limit=x", "from=-1", "from=", "form=1", "scope=", "scope=all", "limit=1&limit=2"] {
        let answer = server.get(&format!("/channels?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["accepted"].as_str().unwrap().contains("limit=1..1000"), "{query}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty());
    }
}

#[test]
fn channels_need_the_bus() {
    let server = Server::start(Options { inbox_capacity: 0, ..Options::default() });
    let answer = server.get("/channels");
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert!(answer.json()["error"].as_str().unwrap().contains("try again"));
}

#[test]
fn info_says_what_runs_and_hides_the_password() {
    let settings = settings().with(|settings| settings.redis.url = Some("redis://app:hunter2@127.0.0.1:6379/0".into()));
    let server = Server::start(Options { settings, ..Options::default() });
    server.state.shards[1].connections.set(12);
    server.state.shards[1].subscriptions.set(34);
    server.state.shards[1].channels.set(5);
    let answer = server.get("/info");
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("hunter2"), "{}", answer.body);
    let info = answer.json();
    assert_eq!(info["version"], "1.2.3-test");
    assert_eq!(info["fd_table"], "private");
    assert_eq!(info["listen"], json!(["127.0.0.1:8080"]));
    assert_eq!(info["control"], server.address.to_string());
    assert_eq!(
        info["bus"],
        json!({ "kind": "redis", "url": "redis://app:***@127.0.0.1:6379/0", "servers": [], "ready": false, "channels": 0 })
    );
    assert_eq!(info["shards"].as_array().unwrap().len(), 2);
    assert_eq!((&info["shards"][1]["connections"], &info["shards"][1]["subscriptions"]), (&json!(12), &json!(34)));
    assert_eq!((&info["shards"][0]["channels"], &info["shards"][1]["channels"]), (&json!(0), &json!(5)));
    assert!(info["uptime_seconds"].as_u64().unwrap() < 60);
    assert!(info["started_unix_ms"].as_u64().unwrap() <= crate::sys::unix_ms());
    assert_eq!(info["settings"]["heartbeat_ms"], 30_000);
    assert_eq!(info["settings"]["pin"], json!([0, 1]));
    assert_eq!(info["settings"]["channel_tables"][0]["prefix"], "ticker:");
    assert_eq!(info["settings"]["channel_tables"][0]["overrun"], "latest");
    assert_eq!(info["limits"]["publish_channels"], 1000);

    let embedded = Server::start(Options::default()).get("/info").json();
    assert_eq!((&embedded["bus"]["kind"], &embedded["bus"]["url"]), (&json!("embedded"), &json!(null)));
}

#[test]
fn metrics_are_read_by_a_strict_reader_in_both_formats() {
    let server = Server::start(Options::default());
    let shards = &server.state.shards;
    shards[0].connections.set(41);
    shards[1].connections.set(1);
    shards[1].messages_sent.add(1_000_000);
    shards[1].bytes_sent.add(9);
    shards[0].closed[CloseReason::Overrun as usize].add(3);
    shards[0].refused[RefusalReason::HeadTooBig as usize].add(4);
    shards[0].overruns[Overrun::Latest as usize].add(5);
    shards[0].busy_ns.add(1_500_000_000);
    shards[1].latency.record(50, 2);
    shards[1].latency.record(51, 1);
    shards[1].latency.record(40_000_000, 1);
    server.state.bus_metrics.messages.add(123);

    let accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, dialect, content_type) in [
        (accept, Dialect::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("*/*", Dialect::Classic, "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let answer = server.get_with("/metrics", "accept", accept);
        assert_eq!((answer.status, answer.header("content-type")), (200, content_type));
        let page = parse(&answer.body, dialect).unwrap_or_else(|error| panic!("{error}\n{}", answer.body));
        for (name, family) in &page.families {
            assert!(family.help.contains(" Unit: ") && family.help.ends_with('.'), "{name}: {}", family.help);
        }

        let (shard0, shard1) = (("shard", "0"), ("shard", "1"));
        assert_eq!(page.families["ws_connections_total"].kind, "gauge");
        assert_eq!(page.value("ws_connections_total", &[shard0]), 41.0);
        assert_eq!(page.value("ws_connections_total", &[shard1]), 1.0);
        assert_eq!(page.value("ws_messages_sent_total", &[shard1]), 1e6);
        assert_eq!(page.value("campanile_sent_bytes_total", &[shard1]), 9.0);
        assert_eq!(page.value("campanile_connections_closed_total", &[shard0, ("reason", "overrun")]), 3.0);
        assert_eq!(page.value("campanile_connections_closed_total", &[shard1, ("reason", "overrun")]), 0.0);
        assert_eq!(page.value("campanile_connections_refused_total", &[shard0, ("reason", "head_too_big")]), 4.0);
        assert_eq!(page.value("campanile_overruns_total", &[shard0, ("policy", "latest")]), 5.0);
        assert_eq!(page.value("redis_pubsub_messages", &[]), 123.0);
        assert_eq!(page.value("campanile_bus_messages_total", &[]), 123.0);
        assert_eq!(page.value("campanile_connections", &[shard0]), 41.0);
        assert_eq!(page.value("campanile_loop_busy_seconds_total", &[shard0]), 1.5);
        assert!((0.0..=1.0).contains(&page.value("campanile_loop_busy_ratio", &[shard0])));
        assert_eq!(page.value("campanile_build_info", &[("version", "1.2.3-test")]), 1.0);
        assert!(page.value("process_resident_memory_bytes", &[]) > 100_000.0);
        for name in [
            "campanile_connections_accepted_total",
            "campanile_messages_skipped_total",
            "campanile_lagging_subscriptions",
            "campanile_subscriptions",
            "campanile_channels",
            "campanile_inbox_depth",
            "campanile_inbox_bytes",
            "campanile_inbox_lost_total",
            "campanile_log_bytes",
            "campanile_buffer_bytes",
        ] {
            assert_eq!(page.value(name, &[shard1]), 0.0);
        }
        for name in [
            "process_open_fds",
            "process_start_time_seconds",
            "process_cpu_seconds_total",
            "campanile_bus_ready",
            "campanile_bus_history_dropped_total",
        ] {
            assert!(page.value(name, &[]) >= 0.0);
        }

        let seconds = |bound| page.value("campanile_message_latency_seconds_bucket", &[shard1, ("le", bound)]);
        assert_eq!([seconds("0.00005"), seconds("0.0001"), seconds("30.0"), seconds("+Inf")], [2.0, 3.0, 3.0, 4.0]);
        assert_eq!(page.value("campanile_message_latency_seconds_sum", &[shard1]), 40.000151);
        let bucket = |bound| page.value("ws_message_latency_ms_bucket", &[shard1, ("le", bound)]);
        assert_eq!(page.families["ws_message_latency_ms"].kind, "histogram");
        assert_eq!([bucket("0.05"), bucket("0.1"), bucket("30000.0"), bucket("+Inf")], [2.0, 3.0, 3.0, 4.0]);
        assert_eq!(page.value("ws_message_latency_ms_count", &[shard1]), 4.0);
        assert_eq!(page.value("ws_message_latency_ms_sum", &[shard1]), 40_000.151);
        let running_count = if dialect == Dialect::OpenMetrics { "unknown" } else { "untyped" };
        assert_eq!(page.families["redis_pubsub_messages"].kind, running_count);
    }
}

/// Deadlines a test can wait for. Each test shortens the one it is about.
const PATIENT: Timeouts = TIMEOUTS;
const SOON: Duration = Duration::from_millis(150);

#[test]
fn a_silent_connection_and_a_trickling_head_are_closed() {
    let server = Server::start(Options { timeouts: Timeouts { first_byte: SOON, head: SOON, ..PATIENT }, ..Options::default() });
    let begun = Instant::now();
    assert_eq!(read_to_close(&mut server.connect()), "");
    assert!(begun.elapsed() >= SOON);

    // Each byte comes well within the deadline; the head never does.
    let head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n".to_owned() + &"X: y\r\n".repeat(1000);
    let text = trickle(server.connect(), head.as_bytes(), SOON / 10);
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("the head was not complete within 0.15 s"), "{text}");
}

#[test]
fn an_idle_connection_is_kept_for_a_while_and_then_closed() {
    let server = Server::start(Options { timeouts: Timeouts { idle: SOON, ..PATIENT }, ..Options::default() });
    let mut stream = server.connect();
    let begun = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let text = read_to_close(&mut stream);
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok\n"), "{text}");
    assert!(begun.elapsed() >= SOON, "it was kept open for the next request");
}

/// Whose deadlines no test lives to see.
const FOR_EVER: Timeouts = Timeouts {
    first_byte: Duration::from_secs(3600),
    head: Duration::from_secs(3600),
    writing: Duration::from_secs(3600),
    idle: Duration::from_secs(3600),
    ..TIMEOUTS
};

#[test]
fn connections_that_say_nothing_do_not_keep_a_probe_out() {
    let server = Server::start(Options { timeouts: FOR_EVER, ..Options::default() });
    let silent: Vec<_> = (0..2 * CONNECTIONS_MAX).map(|_| server.connect()).collect();
    for _ in 0..10 {
        assert_eq!(agent().get(server.url("/healthz")).call().unwrap().status(), 200);
    }
    drop(silent);
    let mut unfinished: Vec<_> = (0..2 * CONNECTIONS_MAX).map(|_| server.connect()).collect();
    for stream in &mut unfinished {
        // One that had to go already is gone.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n");
    }
    for _ in 0..10 {
        assert_eq!(agent().get(server.url("/healthz")).call().unwrap().status(), 200);
    }
}

#[test]
fn a_newcomer_takes_the_place_of_an_idle_connection_and_of_no_other() {
    let server = Server::start(Options { timeouts: FOR_EVER, ..Options::default() });
    let healthz = |mut stream: TcpStream| {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        read_until(&mut stream, "ok\n");
        stream
    };
    let mut half = server.connect();
    half.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let mut kept: Vec<_> = (1..CONNECTIONS_MAX).map(|_| healthz(server.connect())).collect();
    let _newcomers: Vec<_> = (0..10).map(|_| healthz(server.connect())).collect();
    // Those that were idle for longest went.
    for stream in &mut kept[..10] {
        assert_eq!(read_to_close(stream), "");
    }
    assert!(server.state.tally.cuts().eq([("displaced", 10), ("silent", 0), ("head", 0), ("bad_head", 0), ("unread", 0)]));
    half.write_all(b"Host: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let text = read_to_close(&mut half);
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

fn read_until(stream: &mut TcpStream, end: &str) {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "{:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&bytes[..count]);
    }
}

/// Request and end of stream in one segment.
fn send_with_end(server: &Server, request: &[u8]) -> String {
    let mut stream = server.connect();
    let socket = socket2::SockRef::from(&stream);
    assert_eq!(socket.send_with_flags(request, libc::MSG_MORE).unwrap(), request.len());
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    read_to_close(&mut stream)
}

#[test]
fn a_client_that_has_nothing_more_to_say_still_gets_its_answer() {
    let server = Server::start(Options::default());
    let publish = "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 24\r\n\r\n{\"channel\":\"a\",\"data\":1}";
    for _ in 0..50 {
        for (request, status) in [
            ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
            ("GET /healthz HTTP/1.0\r\n\r\n", "200"),
            ("GET /channels HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
            (publish, "200"),
            ("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            ("GET /channels?limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
            ("no request\r\n\r\n", "400"),
        ] {
            let text = send_with_end(&server, request.as_bytes());
            let answers: Vec<_> = text.matches("HTTP/1.").collect();
            assert!(answers.len() == 1 && text.split(' ').nth(1) == Some(status), "{request:?}: {text:?}");
        }
    }
    // Two of them, and then the end.
    let both = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    assert_eq!(send_with_end(&server, both.as_bytes()).matches("HTTP/1.1 200").count(), 2);
}

#[test]
fn a_refusal_is_delivered_before_all_is_read() {
    let server = Server::start(Options::default());
    // A TLS hello, and more than the server takes of it.
    let hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 100_000]].concat();
    let large = [&b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "[..], &[b'x'; 300_000]].concat();
    let body = b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n";
    let body = [&body[..], &[b' '; 500_000]].concat();
    for (request, status) in [(hello, "400"), (large, "431"), (body, "413")] {
        for _ in 0..20 {
            let mut stream = server.connect();
            let _ = stream.write_all(&request);
            let mut text = Vec::new();
            stream.read_to_end(&mut text).expect("an end and no reset");
            let text = String::from_utf8(text).unwrap();
            assert_eq!(text.split(' ').nth(1), Some(status), "{text:?}");
        }
    }
}

#[test]
fn a_name_that_somebody_else_may_own_is_421_everywhere_but_at_healthz() {
    let settings = settings().with(|settings| settings.addresses.control_hosts = vec!["ops.example".into()]);
    let server = Server::start(Options { settings, ..Options::default() });
    server.state.bus_metrics.ready.set(1);
    for path in ["/", "/readyz", "/metrics", "/info", "/channels", "/nowhere"] {
        let answer = server.get_with(path, "host", "evil.example");
        assert_eq!(answer.status, 421, "{path}");
        assert!(answer.json()["accepted"].as_str().unwrap().contains("control_hosts"), "{}", answer.body);
        for host in ["localhost:9090", "ops.example", "[::1]", "127.0.0.1"] {
            assert_ne!(server.get_with(path, "host", host).status, 421, "{path} for {host}");
        }
    }
    assert_eq!(server.get_with("/healthz", "host", "evil.example").status, 200);
    let request = agent().post(server.url("/publish")).header("host", "evil.example").header("origin", "http://evil.example");
    assert_eq!(answer(request.send(&br#"{"channel":"a","data":1}"#[..])).status, 421);
    assert!(server.published.lock().unwrap().is_empty());
    let page = server.get("/metrics").body;
    assert!(page.contains("\ncampanile_control_answers_total{status=\"421\"} 7\n"), "{page}");
}
