//! Event streams and polling of the whole server, read by clients that we did not write: Chromium's EventSource and fetch, and HTTP by hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use crate::support::chromium::Page;
use crate::support::redis::PATIENCE;
use crate::support::server::{Launch, Server};
use serde_json::{Value, json};

/// Numbers go on after a restart.
const RULES: &str = "heartbeat = 3600\n[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 1000\nhistory_age = 3600\n";

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("campanile-feeds-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn start(&self, listen: &str) -> Server {
        let file = format!("data_dir = \"{}\"\n{RULES}", self.0.join("data").display());
        Launch::new(&["--listen", listen]).file(&file).start()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn publish(server: &Server, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let (status, answer) = server.post("/publish", json!({"channel": channel, "data": {"n": number}}).to_string());
        assert_eq!(status, 200, "{answer}");
    }
}

/// What another program prints.
struct Console {
    child: Child,
    lines: Receiver<String>,
}

impl Console {
    fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it prints")
    }

    /// The next line that begins so.
    fn next_of(&self, begin: &str) -> String {
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

/// Whoever reads has all, each once and in order, over a server that is killed.
fn goes_on_after_a_crash(name: &str, target: &str) {
    let folder = Folder::new(name);
    let is_of_one = !target.contains("feed:b");
    let mut server = folder.start("127.0.0.1:0");
    let (console, mut page) = in_chromium(&server, &folder, target);
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
    page.evaluate("source.close()");
}

#[test]
fn an_event_source_of_chromium_goes_on_after_a_crash() {
    goes_on_after_a_crash("chromium", "/sse/feed:a");
}

#[test]
fn an_event_source_of_several_channels_goes_on_in_all_of_them() {
    goes_on_after_a_crash("several", "/sse?channel=feed:a&channel=feed:b");
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

/// An example of the protocol's page: at most thirty lines, without those that are empty.
fn example(language: &str) -> String {
    let page = include_str!("../../docs/protocol.md");
    let section = page.split("\n## 18 ").nth(1).expect("the section of examples");
    let text = section.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    assert!(lines <= 30, "{lines} lines of {language}");
    text.to_owned()
}

/// What an example says of a channel over a server that is killed: each message of a durable one once and in order, and of another that it has lost some.
fn follows_over_a_crash(folder: &Folder, mut server: Server, durable: &Console, forgetful: &Console, loss: &str) {
    let got = |number: u64| {
        let line = durable.next_of("message");
        assert_eq!(line, format!("message {{\"n\": {number}}}"));
    };
    let mut number = 0;
    // It has begun when it has got something.
    while durable.lines.try_recv().is_err() || forgetful.lines.try_recv().is_err() {
        number += 1;
        publish(&server, "feed:a", number..=number);
        publish(&server, "news", number..=number);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let listen = server.listen.to_string();
    server.kill();
    server = folder.start(&listen);
    let first = number + 1;
    publish(&server, "feed:a", first..=first + 20);
    // All that came before is passed by.
    let mut line = durable.next_of("message");
    let mut last = None;
    while line != format!("message {{\"n\": {first}}}") {
        let number: u64 = line.trim_matches(|letter: char| !letter.is_ascii_digit()).parse().expect("a number");
        assert!(last.is_none_or(|last| number == last + 1), "{line} after {last:?}");
        last = Some(number);
        line = durable.next_of("message");
    }
    assert!(last.is_none_or(|last| first == last + 1), "{line} after {last:?}");
    (first + 1..=first + 20).for_each(got);
    forgetful.next_of(loss);
}

#[test]
fn a_page_of_thirty_lines_follows_over_a_crash() {
    let folder = Folder::new("thirty");
    let server = folder.start("127.0.0.1:0");
    let code = example("js");
    let follow = |channel: &str, home: &str| {
        let url = format!("http://{}/healthz", server.listen);
        let (child, mut page, lines) = Page::open(&url, &folder.0.join(home));
        page.evaluate(&format!(
            "{code} follow(`ws://${{location.host}}/ws`, '{channel}', (data) => console.log('message', JSON.stringify(data).replace(':', ': ')), \
             (what) => console.log('lost', what))"
        ));
        (Console { child, lines }, page)
    };
    let ((durable, _page), (forgetful, _other)) = (follow("feed:a", "durable"), follow("news", "forgetful"));
    follows_over_a_crash(&folder, server, &durable, &forgetful, "lost what came after");
}

#[test]
fn thirty_lines_of_python_follow_over_a_crash() {
    let folder = Folder::new("polls");
    let server = folder.start("127.0.0.1:0");
    let script = folder.0.join("follow.py");
    std::fs::write(&script, example("python")).unwrap();
    let follow = |channel: &str| {
        let mut command = Command::new("python3");
        command.arg(&script).arg(format!("http://{}", server.listen)).arg(channel).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 is needed");
        let (to, lines) = std::sync::mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| to.send(line).is_ok()));
        Console { child, lines }
    };
    let (durable, forgetful) = (follow("feed:a"), follow("news"));
    follows_over_a_crash(&folder, server, &durable, &forgetful, "lost ");
}
