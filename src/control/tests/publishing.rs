//! `POST /publish`: every way to say it, every way to fail.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Options, PAYLOAD_BYTES_MAX, Server, TIMEOUTS, Timeouts, answer, read_to_close, trickle, wait_until};
use crate::limits::VALUE_DEPTH_MAX;
use crate::limits::control::{BODY_SLACK_BYTES, PUBLISHES_MAX};

const SOON: Duration = Duration::from_millis(150);

fn published(server: &Server) -> Vec<(String, Vec<u8>)> {
    std::mem::take(&mut *server.published.lock().unwrap())
}

#[test]
fn one_message_gets_its_number() {
    let server = Server::start(Options::default());
    let answer = server.publish(r#"{"channel":"user:1","data":{"b" : 1, "a":[1.0]}}"#);
    assert_eq!((answer.status, answer.json()), (200, json!({ "channel": "user:1", "seq": 1, "epoch": 77 })));
    assert_eq!(published(&server), [("user:1".into(), br#"{"b" : 1, "a":[1.0]}"#.to_vec())], "to the byte as written");

    server.publish(r#"{"channel":"user:1","payload":"hé"}"#).json();
    server.publish(r#"{"channel":"user:1","payload_base64":"wQD/"}"#).json();
    server.publish(r#"{"channel":"user:1","data":null}"#).json();
    let payloads: Vec<_> = published(&server).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, ["hé".as_bytes(), b"\xc1\x00\xff", b"null"]);

    let elsewhere = server.publish(r#"{"channel":"elsewhere","data":1}"#);
    assert_eq!((elsewhere.status, elsewhere.json()), (200, json!({ "channel": "elsewhere", "seq": null, "epoch": null })));
}

#[test]
fn many_channels_get_a_result_each_in_order() {
    let server = Server::start(Options::default());
    let answer = server.publish(r#"{"channels":["a","b","elsewhere"],"payload":"x"}"#);
    assert_eq!(answer.status, 200);
    let expected = json!({ "results": [
        { "channel": "a", "seq": 1, "epoch": 77 },
        { "channel": "b", "seq": 2, "epoch": 77 },
        { "channel": "elsewhere", "seq": null, "epoch": null },
    ]});
    assert_eq!(answer.json(), expected);

    // The most there may be, more than the inbox holds at once, with names of the longest kind.
    let names: Vec<_> = (0..1000).map(|number| format!("{number:0>255}")).collect();
    let answer = server.publish(json!({ "channels": names, "payload": "x".repeat(PAYLOAD_BYTES_MAX) }).to_string());
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), 1000);
    for (name, result) in names.iter().zip(results) {
        assert_eq!((result["channel"].as_str().unwrap(), result["seq"].is_u64()), (&**name, true));
    }

    let answer = server.publish(r#"{"channels":["unavailable","busy"],"data":1}"#);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "none was published");
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 2);
}

#[test]
fn a_part_that_was_not_published_is_never_200() {
    let server = Server::start(Options::default());
    let answer = server.publish(r#"{"channels":["a","refused","b","busy"],"payload":"x"}"#);
    assert_eq!(answer.status, 502, "that of the first failure");
    let refused = "Redis refused the publish: NOPERM";
    let expected = json!({
        "results": [
            { "channel": "a", "seq": 1, "epoch": 77 },
            { "channel": "refused", "error": refused },
            { "channel": "b", "seq": 2, "epoch": 77 },
            { "channel": "busy", "error": "too many publishes are under way; try again" },
        ],
        "error": format!("2 of 4 failed, the first because: {refused}"),
    });
    assert_eq!(answer.json(), expected);
    let answer = server.publish(r#"{"channels":["a","busy"],"payload":"x"}"#);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
}

#[test]
fn data_that_would_arrive_as_a_string_is_refused() {
    let server = Server::start(Options::default());
    let nested = |depth: usize| format!("{{\"channel\":\"a\",\"data\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(server.publish(nested(VALUE_DEPTH_MAX)).status, 200);
    let answer = server.publish(nested(VALUE_DEPTH_MAX + 1));
    assert_eq!(answer.status, 400);
    let problem = answer.json();
    assert_eq!(problem["error"], "\"data\" is not accepted: it is nested deeper than 64 levels");
    assert_eq!(published(&server).len(), 1);
    // As text it is what the publisher says it is.
    let text = "[".repeat(100) + &"]".repeat(100);
    assert_eq!(server.publish(json!({ "channel": "a", "payload": text }).to_string()).status, 200);
}

#[test]
fn a_body_that_is_not_the_text_itself_is_415_or_named() {
    let server = Server::start(Options::default());
    let send = |name: &str, value: &str| {
        let request = super::agent().post(server.url("/publish")).header(name, value);
        answer(request.send(&br#"{"channel":"a","data":1}"#[..]))
    };
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-encoding", "identity, br"),
        ("content-type", "application/json; charset=utf-16"),
        ("content-type", "text/plain;charset=\"ISO-8859-1\""),
    ] {
        let answer = send(name, value);
        assert_eq!(answer.status, 415, "{value}");
        let problem = answer.json();
        assert!(problem["error"].as_str().unwrap().contains("is not taken") && problem["accepted"].is_string(), "{}", answer.body);
    }
    for (name, value) in [
        ("content-encoding", "identity"),
        ("content-type", "application/json; charset=UTF-8"),
        ("content-type", "application/x-www-form-urlencoded"),
    ] {
        assert_eq!(send(name, value).status, 200, "{value}");
    }
    let mut stream = server.connect();
    stream
        .write_all(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n0\r\n\r\n")
        .unwrap();
    let text = read_to_close(&mut stream);
    assert!(text.starts_with("HTTP/1.1 415 ") && text.contains("gzip"), "{text}");

    for (mark, named) in [(&b"\xef\xbb\xbf"[..], "EF BB BF"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")] {
        let answer = server.publish([mark, br#"{"channel":"a","data":1}"#].concat());
        assert_eq!(answer.status, 400);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains("byte order mark") && error.contains(named), "{error}");
    }
    assert_eq!(published(&server).len(), 3);
}

#[test]
fn a_body_in_chunks_is_taken_and_bounded_too() {
    let server = Server::start(Options::default());
    let send = |body: Vec<u8>| {
        let mut stream = server.connect();
        stream.write_all(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n").unwrap();
        for chunk in body.chunks(64 * 1024) {
            // The server may have answered already.
            let _ = stream.write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        let _ = stream.write_all(b"0\r\n\r\n");
        read_to_close(&mut stream)
    };
    let text = send(br#"{"channel":"a","data":1}"#.to_vec());
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let text = send(vec![b' '; 2 * PAYLOAD_BYTES_MAX + BODY_SLACK_BYTES + 1]);
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}

#[test]
fn what_is_wrong_with_a_request_is_said_and_nothing_is_published() {
    let server = Server::start(Options::default());
    let too_many = json!({ "channels": vec!["a"; 1001], "data": 1 }).to_string();
    let long_name = json!({ "channel": "n".repeat(256), "data": 1 }).to_string();
    for (body, reason) in [
        ("", "EOF"),
        ("hello", "expected value at line 1 column 1"),
        (r#" ["a",["b"],1,"x","AA"]"#, "the body is an array"),
        ("\"text\"", "invalid type: string"),
        (r#"{"channel":"a","data":1"#, "EOF"),
        (r#"{"channel":"a","data":1} x"#, "trailing characters"),
        (r#"{"channel":"a","data":{]}"#, "line 1 column"),
        (r#"{"data":1}"#, "\"channel\" is missing"),
        (r#"{"channel":"a"}"#, "\"data\" is missing"),
        (r#"{"channel":"a","data":1,"payload":"x"}"#, "more than one of"),
        (r#"{"channel":"a","payload":"x","payload_base64":"AA"}"#, "more than one of"),
        (r#"{"channel":"a","channels":["b"],"data":1}"#, "both \"channel\" and \"channels\""),
        (r#"{"channels":[],"data":1}"#, "\"channels\" is empty"),
        (&too_many, "has 1001 names"),
        (r#"{"channel":7,"data":1}"#, "invalid type: integer `7`, expected a string"),
        (r#"{"channel":null,"data":1}"#, "invalid type: null, expected a string"),
        (r#"{"channels":"a","data":1}"#, "expected a sequence"),
        (r#"{"channel":"a","payload":{"x":1}}"#, "expected a string"),
        (r#"{"channel":"a","payload_base64":"?"}"#, "not base64"),
        (r#"{"channel":"a","data":1,"data":2}"#, "duplicate field `data`"),
        (r#"{"channel":"a","date":1}"#, "unknown field `date`"),
        (r#"{"channel":"","data":1}"#, "cannot be a channel name"),
        (r#"{"channel":"a\u0000b","data":1}"#, "cannot be a channel name"),
        (&long_name, "cannot be a channel name"),
        (r#"{"channels":["good","a\nb"],"data":1}"#, "cannot be a channel name"),
    ] {
        let answer = server.publish(body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        let problem = answer.json();
        assert!(problem["error"].as_str().unwrap().contains(reason), "{body}: {}", answer.body);
        assert!(!problem["accepted"].as_str().unwrap().is_empty());
    }
    assert_eq!(server.publish(b"{\"channel\":\"a\",\"payload\":\"\xff\"}").status, 400);
    assert_eq!(published(&server), []);
}

#[test]
fn too_big_is_413() {
    let server = Server::start(Options::default());
    let of = |bytes: usize| json!({ "channel": "a", "payload": "x".repeat(bytes) }).to_string();
    assert_eq!(server.publish(of(PAYLOAD_BYTES_MAX)).status, 200);
    let error = format!("the payload is larger than {PAYLOAD_BYTES_MAX} bytes");
    let answer = server.publish(of(PAYLOAD_BYTES_MAX + 1));
    assert_eq!((answer.status, &answer.json()["error"]), (413, &Value::from(error.clone())));
    // A body beyond its own bound is not even parsed.
    let answer = server.publish(" ".repeat(2 * PAYLOAD_BYTES_MAX + BODY_SLACK_BYTES + 1));
    assert_eq!((answer.status, &answer.json()["error"]), (413, &Value::from(error)));
    assert_eq!(server.publish(r#"{"channel":"big","data":1}"#).status, 413);
}

#[test]
fn what_the_bus_says_becomes_a_status() {
    let server = Server::start(Options::default());
    for (channel, status, retry_after, reason) in [
        ("unavailable", 503, "1", "Redis cannot be reached"),
        ("busy", 503, "1", "too many publishes"),
        ("dropped", 503, "1", "stopping"),
        ("mismatched", 400, "", "not one complete JSON text"),
        ("refused", 502, "", "NOPERM"),
    ] {
        let answer = server.publish(json!({ "channel": channel, "data": 1 }).to_string());
        assert_eq!((answer.status, answer.header("retry-after")), (status, retry_after), "{channel}");
        assert!(answer.json()["error"].as_str().unwrap().contains(reason), "{}", answer.body);
    }
    let timeouts = Timeouts { bus: SOON, ..TIMEOUTS };
    let full = Server::start(Options { inbox_capacity: 0, timeouts, ..Options::default() });
    let answer = full.publish(r#"{"channel":"a","data":1}"#);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
}

#[test]
fn a_bus_that_does_not_answer_is_504() {
    let server = Server::start(Options { timeouts: Timeouts { bus: SOON, ..TIMEOUTS }, ..Options::default() });
    let answer = server.publish(r#"{"channel":"silent","data":1}"#);
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["error"], "no answer from the bus within 0.15 s; the message may still be published");

    // Where others' publishes take all the room there is, it is not tried.
    let _others = server.state.flow.take_all();
    let answer = server.publish(json!({ "channels": ["a", "b"], "data": 1 }).to_string());
    assert_eq!(answer.status, 504);
    assert!(answer.json()["results"][1]["error"].as_str().unwrap().contains("not published"), "{}", answer.body);
    assert_eq!(published(&server), []);
}

#[test]
fn a_body_that_trickles_in_is_408() {
    let server = Server::start(Options { timeouts: Timeouts { request: SOON, ..TIMEOUTS }, ..Options::default() });
    let mut stream = server.connect();
    stream.write_all(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n").unwrap();
    let text = trickle(stream, &[b' '; 1000], SOON / 10);
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("not complete within 0.15 s"), "{text}");
}

#[test]
fn publishes_beyond_the_bound_are_told_to_come_back() {
    let server = Server::start(Options { timeouts: Timeouts { permit: SOON, ..TIMEOUTS }, ..Options::default() });
    let head = b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n";
    let mut unfinished: Vec<_> = (0..PUBLISHES_MAX).map(|_| server.connect()).collect();
    unfinished.iter_mut().for_each(|stream| stream.write_all(head).unwrap());
    wait_until(|| server.state.publishes.free() == 0);
    let answer = server.publish(r#"{"channel":"a","data":1}"#);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert_eq!(server.get("/healthz").status, 200, "others are served meanwhile");
    drop(unfinished);
    wait_until(|| server.state.publishes.free() > 0);
    assert_eq!(server.publish(r#"{"channel":"a","data":1}"#).status, 200);
}

#[test]
fn a_page_of_another_site_may_not_publish() {
    let server = Server::start(Options::default());
    let from = |origin: &str| {
        let request = super::agent().post(server.url("/publish")).header("origin", origin);
        answer(request.send(r#"{"channel":"a","data":1}"#.as_bytes()))
    };
    let read = |origin: &str| server.get_with("/info", "origin", origin).status;
    assert_eq!((read("https://elsewhere.example"), read(&server.url(""))), (403, 200));
    assert_eq!(from("https://elsewhere.example").status, 403);
    assert!(from("null").json()["error"].as_str().unwrap().contains("another origin"));
    assert_eq!(published(&server), []);
    assert_eq!(from(&server.url("")).status, 200, "a page served from here may");
}
