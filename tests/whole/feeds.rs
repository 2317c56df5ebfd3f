//! Event streams and polling of the whole server, read by clients that we did not write: the EventSource of Chromium and of npm, Python's `httpx-sse`, fetch, and HTTP by hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::support::chromium::Page;
use crate::support::languages::{node, python};
use crate::support::redis::PATIENCE;
use crate::support::server::{Launch, Server};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// Numbers go on after a restart.
const RULES: &str = "heartbeat = 3600\n[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 1000\nhistory_age = 3600\n";

/// A folder of its own, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("campanile-feeds-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn start(&self, listen: &str) -> Server {
        self.start_with(listen, RULES)
    }

    /// What is kept lies in the folder `data`.
    pub fn start_with(&self, listen: &str, rules: &str) -> Server {
        let file = format!("data_dir = \"{}\"\n{rules}", self.0.join("data").display());
        Launch::new(&["--listen", listen]).file(&file).start()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn publish(server: &Server, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let (status, answer) = server.post("/publish", json!({"channel": channel, "data": {"n": number}}).to_string());
        assert_eq!(status, 200, "{answer}");
    }
}

/// What another program prints.
pub struct Console {
    pub child: Child,
    pub lines: Receiver<String>,
}

impl Console {
    /// Of a program that has been told to write to a pipe.
    pub fn of(mut command: Command) -> Console {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (to_lines, lines) = channel();
        let printed = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || printed.lines().map_while(Result::ok).try_for_each(|line| to_lines.send(line)));
        Console { child, lines }
    }

    pub fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it prints")
    }

    /// The next line that begins so.
    pub fn next_of(&self, begin: &str) -> String {
        loop {
            let line = self.next();
            if line.starts_with(begin) {
                return line;
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prints what an EventSource says.
fn script(url: &str) -> String {
    format!(
        "globalThis.source = new EventSource('{url}'); \
         source.onopen = () => console.log('open'); \
         source.onerror = () => console.log('error', source.readyState); \
         source.onmessage = (event) => {{ const it = JSON.parse(event.data); console.log('got', it.channel, it.data.n, event.lastEventId); }}; \
         source.addEventListener('position', (event) => console.log('position', event.lastEventId)); \
         for (const kind of ['subscribed', 'gap', 'close', 'error']) \
             source.addEventListener(kind, (event) => event.data && console.log(kind, event.data));"
    )
}

/// A page of the server's own, in which an EventSource reads `target`.
fn in_chromium(server: &Server, folder: &Folder, target: &str) -> (Console, Page) {
    let url = format!("http://{}/healthz", server.listen);
    let (child, mut page, lines) = Page::open(&url, &folder.0.join("browser"));
    page.evaluate(&script(target));
    (Console { child, lines }, page)
}

/// A program that prints what it hears at `target`.
fn in_program(mut command: Command, server: &Server, target: &str) -> Console {
    command.arg(format!("http://{}{target}", server.listen));
    Console::of(command)
}

fn in_node(server: &Server, target: &str) -> Console {
    let mut command = Command::new("node");
    command.arg(node().join("feed.js"));
    in_program(command, server, target)
}

fn in_python(server: &Server, target: &str) -> Console {
    let mut command = Command::new(python().join("bin/python"));
    // No cache beside the sources, and each line at once.
    command.args(["-B", "-u"]).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python/feed.py"));
    in_program(command, server, target)
}

const ONE: &str = "/sse/feed:a";
const SEVERAL: &str = "/sse?channel=feed:a&channel=feed:b";

/// Whoever reads has all, each once and in order, over a server that is killed.
fn goes_on_after_a_crash(name: &str, target: &str, read: impl FnOnce(&Server, &Folder) -> (Console, Option<Page>)) {
    let folder = Folder::new(name);
    let is_of_one = !target.contains("feed:b");
    let mut server = folder.start("127.0.0.1:0");
    let (console, _page) = read(&server, &folder);
    let got = |channel: &str, number: u64| {
        let line = console.next_of("got ");
        assert!(line.starts_with(&format!("got {channel} {number}")), "{line} instead of {number} of {channel}");
        if is_of_one {
            assert!(line.ends_with(&format!(":{number}")), "{line}");
        }
    };
    console.next_of("subscribed");
    if !is_of_one {
        console.next_of("subscribed");
    }
    for number in 1..=3 {
        publish(&server, "feed:a", number..=number);
        got("feed:a", number);
    }
    if !is_of_one {
        publish(&server, "feed:b", 1..=1);
        got("feed:b", 1);
        // What it is told behind a message; who is cut off before that gets the message again.
        while !(console.next_of("position ").ends_with(":1")) {}
    }
    let listen = server.listen.to_string();
    server.kill();
    let server = folder.start(&listen);
    // Some before it is back, and some after.
    publish(&server, "feed:a", 4..=20);
    console.next_of("subscribed");
    publish(&server, "feed:a", 21..=22);
    (4..=22).for_each(|number| got("feed:a", number));
    if !is_of_one {
        publish(&server, "feed:b", 2..=2);
        got("feed:b", 2);
    }
}

#[test]
fn an_event_source_of_chromium_goes_on_after_a_crash() {
    goes_on_after_a_crash("chromium", ONE, |server, folder| {
        let (console, page) = in_chromium(server, folder, ONE);
        (console, Some(page))
    });
}

#[test]
fn an_event_source_of_several_channels_goes_on_in_all_of_them() {
    goes_on_after_a_crash("several", SEVERAL, |server, folder| {
        let (console, page) = in_chromium(server, folder, SEVERAL);
        (console, Some(page))
    });
}

#[test]
fn an_event_source_of_npm_goes_on_after_a_crash() {
    goes_on_after_a_crash("npm", ONE, |server, _| (in_node(server, ONE), None));
    goes_on_after_a_crash("npm-several", SEVERAL, |server, _| (in_node(server, SEVERAL), None));
}

#[test]
fn httpx_sse_goes_on_after_a_crash() {
    goes_on_after_a_crash("httpx", ONE, |server, _| (in_python(server, ONE), None));
    goes_on_after_a_crash("httpx-several", SEVERAL, |server, _| (in_python(server, SEVERAL), None));
}

/// A page sees no status of a WebSocket's refusal, and an EventSource gives up for ever on most; `fetch` may ask why.
#[test]
fn a_page_may_ask_why_and_is_asked_back() {
    let folder = Folder::new("why");
    let server = Launch::new(&["--shards", "1", "--connections-max", "1"]).file("history_count = 10\n").start();
    let (console, mut page) = in_chromium(&server, &folder, "/sse/news");
    console.next_of("subscribed");
    page.evaluate("fetch('/poll').then((answer) => console.log('status', answer.status, answer.headers.get('retry-after')))");
    let line = console.next_of("status");
    assert!(line.starts_with("status 503 ") && line["status 503 ".len()..].parse::<u64>().is_ok_and(|seconds| seconds >= 5), "{line}");
    page.evaluate("globalThis.first = source; globalThis.second = new EventSource('/sse/news'); second.addEventListener('close', (event) => console.log('close', event.data))");
    let line = console.next_of("close");
    assert!(line.contains("\"code\":503"), "{line}");
    page.evaluate("second.close(); first.close()");
    server.eventually_metric("campanile_connections", "", 0.0);
    // Somebody else is in the way no more: polls are answered, on one connection.
    page.evaluate("fetch('/poll?channel=news&wait=0').then((answer) => answer.json()).then((events) => console.log('polled', JSON.stringify(events)))");
    let line = console.next_of("polled");
    let events: Value = serde_json::from_str(&line["polled ".len()..]).expect("JSON");
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("subscribed"), &json!("position")), "{line}");
}

/// What a real browser says of a page, and what it sends with it: of the server's own origin it is let in by its cookie, of another port of the same host, which has that cookie
/// too, it is not.
#[test]
fn a_cookie_is_taken_from_a_page_of_the_same_origin() {
    let folder = Folder::new("cookie");
    let secret = "a secret of the tests: 0123456789abcdef";
    let claims = json!({"sub": "u1", "exp": 4_000_000_000_u64});
    let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
    let rules =
        format!("auth = \"jwt\"\ntoken_secret = \"{secret}\"\ntoken_cookie = \"session\"\norigins = [\"https://app.example.org\"]\n");
    let server = Launch::new(&[]).file(&rules).start();
    let (child, mut page, lines) = Page::open(&format!("http://{}/healthz", server.listen), &folder.0.join("browser"));
    let console = Console { child, lines };
    page.evaluate(&format!("document.cookie = 'session={token}'; {}", script("/sse/news")));
    let told = console.next_of("subscribed");
    assert!(told.contains("\"news\""), "{told}");
    page.evaluate("source.close(); fetch('/poll?channel=news&wait=0').then((answer) => console.log('own', answer.status))");
    assert_eq!(console.next_of("own "), "own 200");

    let url = format!("http://{}/healthz", server.control);
    let (child, mut page, lines) = Page::open(&url, &folder.0.join("other"));
    let console = Console { child, lines };
    let poll = format!("fetch('http://{}/poll?channel=news&wait=0', {{ mode: 'no-cors', credentials: 'include' }})", server.listen);
    page.evaluate(&format!(
        "document.cookie = 'session={token}'; {poll}.then(() => console.log('asked'), (error) => console.log('asked', error))"
    ));
    console.next_of("asked");
    server.eventually_metric("campanile_connections_refused_total", "reason=\"origin\"", 1.0);
    assert_eq!(server.metric("campanile_tokens_refused_total", ""), 0.0, "it had the cookie");
}

/// Asks, and gives the head and what follows it, as far as it has come when `enough` says so.
fn ask(address: SocketAddr, request: &str, enough: impl Fn(&str) -> bool) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    loop {
        if let Some((head, body)) = said.split_once("\r\n\r\n")
            && enough(body)
        {
            return (head.to_owned(), body.to_owned());
        }
        let count = stream.read(&mut buffer).unwrap_or_else(|error| panic!("{error} after {said}"));
        assert!(count > 0, "it ended after {said}");
        said += std::str::from_utf8(&buffer[..count]).unwrap();
    }
}

#[test]
fn a_stream_is_the_same_for_http_1_0_and_1_1() {
    let server = Launch::new(&[]).start();
    for version in ["1.0", "1.1"] {
        let request = format!("GET /sse/news HTTP/{version}\r\nHost: h\r\nOrigin: http://a.example\r\n\r\n");
        let (head, body) = ask(server.listen, &request, |body| body.contains("event: subscribed"));
        for line in [
            "HTTP/1.1 200 OK",
            "Content-Type: text/event-stream",
            "X-Accel-Buffering: no",
            "Connection: close",
            "Access-Control-Allow-Origin: *",
        ] {
            assert!(head.lines().any(|told| told == line), "{line} in {head}");
        }
        assert!(!head.contains("Content-Length") && !head.contains("Transfer-Encoding"), "{head}");
        assert!(body.starts_with("retry: "), "{body}");
    }
}

#[test]
fn a_poll_waits_and_goes_on() {
    let server = Launch::new(&[]).file("history_count = 100\n").start();
    let agent = ureq::Agent::new_with_defaults();
    let poll = |query: &str| -> Value {
        let text = agent.get(format!("http://{}/poll?{query}", server.listen)).call().unwrap().body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let begun = poll("channel=news&wait=0");
    let position = |events: &Value| {
        let last = &events.as_array().unwrap().last().unwrap()["channels"][0];
        format!("channel=news&since={}:{}", last["epoch"], last["seq"])
    };
    let mut next = position(&begun);
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        let server = &server;
        scope.spawn(move || (1..=50).for_each(|number| publish(server, "news", number..=number)));
        while got.len() < 50 {
            let events = poll(&next);
            next = position(&events);
            let numbers = events.as_array().unwrap().iter().filter(|event| event["type"] == "notification");
            got.extend(numbers.map(|event| event["data"]["n"].as_u64().unwrap()));
        }
    });
    assert_eq!(got, (1..=50).collect::<Vec<u64>>());
    // The same in MessagePack.
    let answer = agent.get(format!("http://{}/poll?channel=news&since={}:48&format=msgpack", server.listen, begun[0]["epoch"]));
    let mut answer = answer.call().unwrap();
    assert_eq!(answer.headers()["content-type"], "application/msgpack");
    let bytes = answer.body_mut().read_to_vec().unwrap();
    let events: Vec<Value> = rmp_serde::from_slice(&bytes).unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["subscribed", "notification", "notification", "position"]);
}
