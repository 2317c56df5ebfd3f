//! `campanile subscribe` over event streams and polls: servers that answer in every way in turn, and a real one that is killed and started again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use campanile::client::{Client, Event, Happening, Position, Subscription, Transport};
use serde_json::{Value, json};

use super::support::redis::PATIENCE;
use super::support::server::{Launch, Server};
use super::{assert_contains, campanile, run};

/// What a server does with one request.
enum Act {
    /// Answers it, and closes the connection.
    Last(String),
    /// Answers it, and keeps the connection.
    Keep(String),
    /// Closes the connection without a word.
    Hang,
}

/// Takes requests one after the other and does what it is told; the handle gives the requests' first lines.
fn server(acts: Vec<Act>) -> (String, JoinHandle<Vec<String>>) {
    let (address, requests) = whole_server(acts);
    let first_line = |request: String| request.lines().next().unwrap_or_default().to_owned();
    (address, std::thread::spawn(move || requests.join().unwrap().into_iter().map(first_line).collect()))
}

/// The same with whole requests.
fn whole_server(acts: Vec<Act>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let handle = std::thread::spawn(move || {
        let mut kept: Option<BufReader<TcpStream>> = None;
        acts.into_iter()
            .map(|act| {
                let mut reader = kept.take().unwrap_or_else(|| BufReader::new(listener.accept().unwrap().0));
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") {
                    assert!(reader.read_line(&mut request).unwrap() > 0, "half a request: {request}");
                }
                match act {
                    Act::Last(answer) => reader.get_mut().write_all(answer.as_bytes()).unwrap(),
                    Act::Keep(answer) => {
                        reader.get_mut().write_all(answer.as_bytes()).unwrap();
                        kept = Some(reader);
                    }
                    Act::Hang => {}
                }
                request
            })
            .collect()
    });
    (address, handle)
}

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
const CONNECTED: &str = "retry: 1\n\nevent: connected\ndata: {\"type\":\"connected\",\"client_id\":\"c\",\"heartbeat\":30}\n\n";

fn subscribed(seq: u64, recovered: bool) -> String {
    format!(r#"{{"type":"subscribed","channel":"news","epoch":5,"seq":{seq},"recovered":{recovered}}}"#)
}

fn notification(seq: u64) -> String {
    format!(r#"{{"type":"notification","channel":"news","seq":{seq},"data":{seq}}}"#)
}

fn farewell(retry_ms: u64, code: u16, reason: &str) -> String {
    format!("retry: {retry_ms}\n\nevent: close\ndata: {{\"type\":\"close\",\"code\":{code},\"reason\":\"{reason}\"}}\n\n")
}

fn polled(events: &[String], keeps: bool) -> String {
    let body = format!("[{}]\n", events.join(","));
    let connection = if keeps { "" } else { "Connection: close\r\n" };
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{connection}\r\n{body}", body.len())
}

fn position(seq: u64) -> String {
    format!(r#"{{"type":"position","channels":[{{"channel":"news","epoch":5,"seq":{seq}}}]}}"#)
}

/// As one chunk after another, as a proxy passes a stream on.
fn chunked(parts: &[&str]) -> String {
    let chunks: String = parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

fn subscribe(test: &str, address: &str, transport: &str, further: &[&str]) -> (i32, String, String) {
    let url = format!("ws://{address}/ws");
    run(campanile(test).args(["subscribe", "news", "--url", &url, "--transport", transport]).args(further))
}

/// Neither the message of a publisher nor the words of a server are obeyed by a terminal.
#[test]
fn what_others_have_chosen_steers_no_terminal() {
    let hostile = "\u{9b}31m\u{7f}\u{202e}evil\u{2066} 👩\u{200d}🚒";
    let begun = format!("event: subscribed\nid: 5:0\ndata: {}\n\n", subscribed(0, false));
    let message = json!({"type": "notification", "channel": "news", "seq": 1, "data": {hostile: hostile}});
    let error = json!({"type": "error", "channel": "news", "code": format!("not_allowed\x1b[31m{hostile}"), "message": format!("no\x1b]0;owned\x07{hostile}")});
    let nonsense = format!("data: \x1b[31m{hostile}\n\n");
    let (address, server) = server(vec![Act::Last(
        [STREAM, CONNECTED, &begun, &format!("id: 5:1\ndata: {message}\n\n"), &nonsense, &format!("data: {error}\n\n")].concat(),
    )]);
    let (code, stdout, stderr) = subscribe("hostile", &address, "sse", &[]);
    server.join().unwrap();
    assert_eq!(code, 1, "{stderr}");
    let steers =
        |letter: char| letter != '\n' && (letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
    assert!(!stdout.contains(steers) && !stderr.contains(steers), "{stdout:?} {stderr:?}");
    assert_eq!(serde_json::from_str::<Value>(stdout.trim()).unwrap(), message, "it is the same value");
    assert_contains(&stderr, &["not understood: ", "error: the server says not_allowed", "]0;owned", "evil"]);
}

#[test]
fn an_event_stream_resumes_after_every_break() {
    let begun = format!("event: subscribed\nid: 5:0\ndata: {}\n\n", subscribed(0, false));
    let again = |seq| format!("event: subscribed\nid: 5:{seq}\ndata: {}\n\n", subscribed(seq, true));
    let message = |seq| format!(":\nid: 5:{seq}\ndata: {}\n\n", notification(seq));
    let (address, server) = server(vec![
        // It ends in the middle of an event, which is none then.
        Act::Last([STREAM, CONNECTED, &begun, &message(1), "id: 5:2\ndata: {\"type\":\"notif"].concat()),
        Act::Last([STREAM, &farewell(1, 503, "the server has as many connections as it may")].concat()),
        Act::Last("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\nbusy".to_owned()),
        Act::Hang,
        Act::Last(chunked(&[CONNECTED, &again(1), &message(2), &farewell(2, 1012, "reconnect in 3 ms")])),
        Act::Last(
            [STREAM, CONNECTED, &again(2), "data: {\"type\":\"notification\",\"channel\":\"news\",\ndata: \"seq\":3,\"data\":3}\n\n"]
                .concat(),
        ),
    ]);
    let (code, stdout, stderr) = subscribe("stream", &address, "sse", &["--count", "3"]);
    assert_eq!(code, 0, "{stderr}");
    let third = r#"{"type":"notification","channel":"news", "seq":3,"data":3}"#;
    assert_eq!(stdout.lines().collect::<Vec<_>>(), [&notification(1), &notification(2), third]);
    assert_contains(
        &stderr,
        &[
            &format!("connected to http://{address}/sse\n"),
            "subscribed to news at 0\n",
            "the event stream has ended, reconnecting in 1 ms",
            "answered 503 Service Unavailable: the server has as many connections as it may, reconnecting in",
            "answered 503 Service Unavailable: busy, reconnecting in",
            "the server closed the connection without an answer, reconnecting in",
            "going on where it was",
            "the server restarts (1012), reconnecting in 3 ms",
        ],
    );
    let request = |since: &str| format!("GET /sse?format=json&channel=news{since} HTTP/1.1");
    let expected = ["", "&since=5:1", "&since=5:1", "&since=5:1", "&since=5:1", "&since=5:2"].map(request);
    assert_eq!(server.join().unwrap(), expected);
}

#[test]
fn a_poll_is_asked_again_where_the_last_one_ended() {
    let gap = r#"{"type":"gap","channel":"news","from":4,"to":6,"reason":"expired"}"#.to_owned();
    let (address, server) = server(vec![
        Act::Keep(polled(&[subscribed(0, false), position(0)], true)),
        Act::Keep(polled(&[subscribed(0, true), notification(1), position(1)], true)),
        // What is asked on a connection that the server gives up is asked again on another one.
        Act::Hang,
        Act::Last(polled(&[subscribed(1, true), notification(2), position(2)], false)),
        Act::Last("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\nslow".to_owned()),
        Act::Keep(polled(&[subscribed(2, true), notification(3), position(3)], true)),
        Act::Keep(polled(&[subscribed(6, false), gap.clone(), position(6)], true)),
        Act::Last(polled(&[subscribed(6, true), notification(7), position(7)], true)),
    ]);
    let (code, stdout, stderr) = subscribe("poll", &address, "poll", &["--count", "4"]);
    assert_eq!(code, 0, "{stderr}");
    let lines = [&notification(1), &notification(2), &notification(3), &gap, &notification(7)];
    assert_eq!(stdout.lines().collect::<Vec<_>>(), lines);
    let remarks: Vec<&str> = stderr.lines().map(|line| line.split(", reconnecting").next().unwrap()).collect();
    let connected = format!("connected to http://{address}/poll");
    let slow = format!("http://{address}/poll answered 429 Too Many Requests: slow");
    let (begun, again) = ("subscribed to news at 0", "subscribed to news at 2, going on where it was");
    let in_part = "subscribed to news at 6, but what came in between is lost in part";
    assert_eq!(remarks, [&*connected, begun, &slow, &connected, again, in_part]);
    let request = |wait: u32, since: &str| format!("GET /poll?format=json&wait={wait}&channel=news{since} HTTP/1.1");
    let expected = [
        request(1, ""),
        request(25, "&since=5:0"),
        request(25, "&since=5:1"),
        request(25, "&since=5:1"),
        request(25, "&since=5:2"),
        request(1, "&since=5:2"),
        request(25, "&since=5:3"),
        request(25, "&since=5:6"),
    ];
    assert_eq!(server.join().unwrap(), expected);
}

#[test]
fn what_would_end_the_same_way_ends_the_command() {
    let page = |status: &str, fields: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    };
    let unauthorized = page("401 Unauthorized", "", "No token. (missing)\n");
    let refused = [
        STREAM,
        CONNECTED,
        "event: error\ndata: {\"type\":\"error\",\"channel\":\"news\",\"code\":\"not_allowed\",\"message\":\"no\"}\n\n",
    ];
    let operator =
        [STREAM, CONNECTED, "id: never\nevent: close\ndata: {\"type\":\"close\",\"code\":4002,\"reason\":\"by the operator\"}\n\n"];
    for (transport, answer, words) in [
        ("sse", unauthorized.clone(), "answered 401 Unauthorized: No token. (missing) Give --token"),
        ("poll", unauthorized, "answered 401 Unauthorized: No token. (missing) Give --token"),
        ("sse", "HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "not to come back (204)"),
        ("sse", page("200 OK", "Content-Type: text/html\r\n", "<html>"), "\"text/html\", which is no event stream"),
        ("poll", page("200 OK", "Content-Type: text/html\r\n", "<html>"), "\"text/html\" and not with application/json"),
        ("poll", page("307 Temporary Redirect", "Location: https://h/poll\r\n", ""), "it is at https://h/poll now"),
        ("sse", refused.concat(), "the server says not_allowed for news: no"),
        ("sse", operator.concat(), "(4002: by the operator)"),
        (
            "poll",
            polled(&[r#"{"type":"error","channel":"news","code":"bad_channel","message":"no"}"#.to_owned()], true),
            "bad_channel for news",
        ),
    ] {
        let (address, server) = server(vec![Act::Last(answer)]);
        let (code, stdout, stderr) = subscribe("ends", &address, transport, &[]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert_contains(&stderr, &[words]);
        server.join().unwrap();
    }
    for (arguments, words) in [
        (&["--transport", "sse", "--format", "msgpack"][..], "an event stream is text"),
        (&["--transport", "sse", "--url", "https://127.0.0.1/feed"], "let it end with /sse"),
        (&["--transport", "poll", "--url", "http://127.0.0.1/feed"], "let it end with /poll"),
    ] {
        let (code, _, stderr) = run(campanile("ends").args(["subscribe", "news"]).args(arguments));
        assert_eq!(code, 2, "{stderr}");
        assert_contains(&stderr, &[words]);
    }
}

/// Each costs this client one connection, and no more memory than an answer may have.
#[test]
fn an_answer_without_end_or_sense_is_a_break() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for (transport, answer, words) in [
        ("sse", format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000)), "its head has more than"),
        ("sse", "220 mail.example ready\r\n".repeat(4), "not HTTP as this client reads it"),
        ("sse", [STREAM, CONNECTED].concat().replace("Connection: close", "Content-Encoding: gzip"), "compressed (gzip)"),
        ("sse", chunked(&[CONNECTED]).replace("0\r\n\r\n", "zz\r\n"), "a chunk begins with no size"),
        ("poll", format!("{head}Content-Length: 99999999999\r\n\r\n["), "it has more than 67108864 bytes"),
        ("poll", format!("{head}Content-Length: 10\r\n\r\n["), "broke off in the middle"),
        ("poll", format!("{head}Content-Length: 3\r\n\r\n{{}}\n"), "no list of events"),
        ("poll", format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n[]"), "Content-Length: 5, 6"),
    ] {
        let (address, server) = server(vec![Act::Last(answer)]);
        let mut follower = Follower::start(&format!("ws://{address}/ws"), "news", transport, &[]);
        let remark = follower.remark("reconnecting in");
        assert_contains(&remark, &[words]);
        server.join().unwrap();
    }
}

/// As a program of somebody else uses the library: wishes, a new token for each connection, and where it stands.
#[test]
fn the_client_of_the_library_asks_for_what_it_is_told_to() {
    let expired = "retry: 1\n\nevent: close\ndata: {\"type\":\"close\",\"code\":4001,\"reason\":\"the token has expired\"}\n\n";
    let not_allowed = r#"{"type":"error","command":"subscribe","channel":"prices:eur","code":"not_allowed","message":"no"}"#;
    let refusal = format!("event: error\ndata: {not_allowed}\n\n");
    let again = format!("event: subscribed\ndata: {}\n\ndata: {}\n\n", subscribed(41, true), notification(42));
    let (address, server) = whole_server(vec![
        Act::Last([STREAM, CONNECTED, &again, &refusal, expired].concat()),
        Act::Last(
            [STREAM, CONNECTED, "event: error\ndata: {\"type\":\"error\",\"channel\":\"news\",\"code\":\"bad_channel\"}\n\n"].concat(),
        ),
    ]);
    let mut count = 0;
    let tokens = move || {
        count += 1;
        Ok(format!("token-{count}"))
    };
    let mut client = Client::new(&format!("http://{address}"), Transport::EventStream)
        .unwrap()
        .with_tokens(tokens)
        .subscribe(Subscription::to("news").since(Position { epoch: 5, seq: 41 }))
        .subscribe(Subscription::to("prices:eur").latest().max_rate(5));
    let mut happened = Vec::new();
    let refused = loop {
        happened.push(match client.wait() {
            Err(refused) => break refused,
            Ok(Happening::Connected) => "connected".to_owned(),
            Ok(Happening::Subscribed { subscribed, continuity, .. }) => format!("{} {continuity:?}", subscribed.channel),
            Ok(Happening::Received(received)) => match received.event {
                Event::Connected(_) => continue,
                Event::Notification(message) => format!("{} {}", message.seq.unwrap(), message.data),
                Event::Error(error) => error.to_string(),
                other => panic!("{other:?}"),
            },
            Ok(Happening::Broken { why, .. }) => why,
            other => panic!("{other:?}"),
        });
        if happened.last().unwrap().starts_with("42") {
            let known: Vec<_> = client.positions().map(|(channel, position)| (channel.to_owned(), position)).collect();
            assert_eq!(known, [("news".to_owned(), Some(Position { epoch: 5, seq: 42 })), ("prices:eur".to_owned(), None)]);
        }
    };
    let expected = [
        "connected",
        "news Recovered",
        "42 42",
        "the server says not_allowed for prices:eur: no",
        "the server closed the connection (4001: the token has expired)",
        "connected",
        "the server says bad_channel for news: ",
    ];
    assert_eq!(happened, expected);
    assert!(refused.why.contains("no channel is left"), "{refused}");
    let requests = server.join().unwrap();
    let wishes = ["channel=news&since=5:41&channel=prices:eur&latest=true&max_rate=5 HTTP", "channel=news&since=5:42 HTTP"];
    for ((request, wish), number) in requests.iter().zip(wishes).zip(1..) {
        assert_contains(request, &[wish, &format!("\r\nAuthorization: Bearer token-{number}\r\n")]);
    }
}

/// `campanile subscribe` as it runs, killed at the end.
pub struct Follower {
    pub child: Child,
    remarks: Receiver<String>,
    lines: Receiver<String>,
}

impl Follower {
    pub fn start(url: &str, channel: &str, transport: &str, further: &[&str]) -> Follower {
        let mut child = Command::new(env!("CARGO_BIN_EXE_campanile"))
            .args(["subscribe", channel, "--url", url, "--transport", transport])
            .args(further)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, remarks) = (read_lines(child.stdout.take().unwrap()), read_lines(child.stderr.take().unwrap()));
        Follower { child, remarks, lines }
    }

    /// The next line on stderr that has these words.
    #[track_caller]
    pub fn remark(&mut self, words: &str) -> String {
        loop {
            let line = self.remarks.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it never said {words:?}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// The next line on stdout.
    #[track_caller]
    pub fn event(&mut self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("a line on stdout");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

/// Whatever was published while nobody was connected comes once, in order, over each transport and a unix socket.
#[test]
fn a_server_that_is_killed_and_started_again_loses_nothing_for_anybody() {
    let folder = std::env::temp_dir().join(format!("campanile-cli-transports-{}", std::process::id()));
    let socket = folder.join("c.sock");
    std::fs::create_dir_all(&folder).unwrap();
    let file = format!(
        "data_dir = \"{}\"\n[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 1000\nsubscribe = \"anyone\"\n",
        folder.join("data").display()
    );
    let start = |listen: &str| -> Server {
        let by_path = format!("unix://{}", socket.display());
        Launch::new(&["--shards", "1", "--fsync", "always", "--listen", listen, "--listen", &by_path]).file(&file).start()
    };
    let mut first = start("127.0.0.1:0");
    let (address, socket_url) = (first.listen.to_string(), format!("unix://{}", socket.display()));
    let url = format!("ws://{address}/ws");
    let transports = [
        (&url, "ws", "json"),
        (&url, "sse", "json"),
        (&url, "poll", "json"),
        (&url, "poll", "msgpack"),
        (&socket_url, "sse", "json"),
        (&socket_url, "poll", "json"),
    ];
    let follow =
        |(url, transport, format): (&String, &str, &str)| Follower::start(url, "feed:a", transport, &["--format", format, "--count", "3"]);
    let mut followers: Vec<Follower> = transports.map(follow).into();
    for follower in &mut followers {
        follower.remark("connected to");
        follower.remark("subscribed to feed:a at 0");
    }
    assert_eq!(first.publish("feed:a", &json!({"n": 1})), 1);
    for follower in &mut followers {
        let event = follower.event();
        assert_eq!((&event["seq"], &event["data"]), (&json!(1), &json!({"n": 1})), "{event}");
    }
    first.kill();
    let second = start(&address);
    assert_eq!((second.publish("feed:a", &json!("2")), second.publish("feed:a", &json!(null))), (2, 3));
    for (follower, (_, transport, _)) in followers.iter_mut().zip(transports) {
        // Whoever polls may have been between two requests, and noticed nothing.
        if transport != "poll" {
            follower.remark("reconnecting in");
            follower.remark("going on where it was");
        }
        let (two, three) = (follower.event(), follower.event());
        assert_eq!((&two["seq"], &two["data"], &three["seq"], &three["data"]), (&json!(2), &json!("2"), &json!(3), &json!(null)));
        assert!(follower.child.wait().unwrap().success());
    }
    drop(second);
    let _ = std::fs::remove_dir_all(&folder);
}
