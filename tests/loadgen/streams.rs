//! Clients of event streams: against the real server, by turns with WebSockets, and against one that loses and doubles messages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::{Ran, run};

#[test]
fn a_broadcast_to_event_streams_stands_beside_one_to_web_sockets() {
    let arguments = ["broadcast", "--serve", "--shards 1", "-n", "100", "--transport", "sse", "--beside-ws", "--redis", "own"];
    let json = run(&[&arguments[..], &["--pairs", "2", "--rate", "100", "--messages", "20"]].concat()).passes();
    assert_eq!(json["messages"]["delivered"], 2 * 20 * 100);
    assert_eq!(json["ws"]["ratios"].as_array().unwrap().len(), 2, "{}", json["ws"]);
    assert!(json["target"]["url"].as_str().unwrap().contains("/sse?"), "{}", json["target"]);
    let connect = ["connect", "--serve", "--shards 1", "-n", "200", "--transport", "sse", "--beside-ws", "--pairs", "1"];
    assert_eq!(run(&connect).passes()["ws_cpu"]["server"].as_array().unwrap().len(), 1);
}

#[test]
fn event_streams_are_held_and_get_what_is_published_in_the_end() {
    let arguments = ["hold", "--serve", "--shards 2 --heartbeat 1", "-n", "200", "--hold", "2.5", "--transport", "sse"];
    let json = run(&[&arguments[..], &["--messages", "3", "--rate", "100", "--payload", "5000"]].concat()).passes();
    assert_eq!(json["messages"]["delivered"], 600);
    assert!(json["hold"]["pings"].as_u64().unwrap() >= 200, "{}", json["hold"]);
    assert!(json["memory"]["user_bytes_per_connection"].is_number());
    // More events at once than one read brings.
    let burst = ["burst", "--serve", "--shards 1", "-n", "50", "--transport", "sse", "--payload", "9000"];
    let json = run(&[&burst[..], &["--burst", "100", "--messages", "200", "--rate", "1000"]].concat()).passes();
    assert_eq!(json["messages"]["delivered"], 10_000);
}

#[test]
fn what_event_streams_cannot_do_is_a_mistake() {
    let mistakes: [&[&str]; 6] = [
        &["echo", "--transport", "sse"],
        &["storm", "--transport", "sse"],
        &["hold", "--transport", "sse", "--subscribe", "x"],
        &["broadcast", "--transport", "sse", "--floor"],
        &["broadcast", "--beside-ws", "--serve", ""],
        &["hold", "--transport", "sse", "--beside-ws", "--serve", ""],
    ];
    for arguments in mistakes {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

/// Streams what is published to it, but does something wrong with the sixth message.
fn fake(sixth: fn(&str) -> String) -> (SocketAddr, SocketAddr) {
    let (clients, control) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let addresses = (clients.local_addr().unwrap(), control.local_addr().unwrap());
    let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let held = streams.clone();
    std::thread::spawn(move || {
        for stream in clients.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            request(&mut reader);
            let mut stream = reader.into_inner();
            let subscribed = r#"{"type":"subscribed","channel":"bench","epoch":1,"seq":0,"recovered":false}"#;
            // Cut where it hurts: the client has to put it together.
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 2000\n\nevent: subscribed\ndata: {subscribed}\n");
            // A client that has looked and gone.
            if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(b"\n")).is_ok() {
                held.lock().unwrap().push(stream);
            }
        }
    });
    std::thread::spawn(move || {
        let mut count = 0;
        for stream in control.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            while let Some(body) = request(&mut reader) {
                let at = body.find("~cn1").expect("a stamp");
                let payload = body[at..].split('"').next().unwrap();
                let event = format!("data: {{\"type\":\"notification\",\"channel\":\"bench\",\"data\":\"{payload}\"}}\n\n");
                count += 1;
                let event = if count == 6 { sixth(&event) } else { event };
                streams.lock().unwrap().retain_mut(|stream| stream.write_all(event.as_bytes()).is_ok());
                reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
            }
        }
    });
    addresses
}

/// The body of the next request; None: there is none.
fn request(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

fn run_against_fake(sixth: fn(&str) -> String) -> Ran {
    let (clients, control) = fake(sixth);
    let (url, control) = (format!("ws://{clients}"), control.to_string());
    let arguments = ["broadcast", "--url", &url, "--control", &control, "-n", "5", "--transport", "sse"];
    run(&[&arguments[..], &["--rate", "100", "--messages", "20", "--patience", "5"]].concat())
}

#[test]
fn what_a_stream_loses_doubles_or_ends_is_found() {
    assert_eq!(run_against_fake(str::to_owned).passes()["messages"]["delivered"], 100);
    run_against_fake(|_| String::new()).fails("5 messages were lost without a gap");
    run_against_fake(|event| event.repeat(2)).fails("5 messages came twice");
    let announced =
        |_: &str| "event: gap\ndata: {\"type\":\"gap\",\"channel\":\"bench\",\"from\":6,\"to\":6,\"reason\":\"overrun\"}\n\n".to_owned();
    assert_eq!(run_against_fake(announced).passes()["checks"]["announced"], 5);
    let farewell = |_: &str| "retry: 1\n\nevent: close\ndata: {\"type\":\"close\",\"code\":4008,\"reason\":\"bench\"}\n\n".to_owned();
    let ran = run_against_fake(farewell);
    ran.fails("connections were closed by the server");
    assert_eq!(ran.json["checks"]["closed"], 5);
}
