//! Whoever watches a real server: its page in a real browser, and `campanile top`.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::chromium::{self, Page};
use crate::support::client::Client;
use crate::support::redis::PATIENCE;
use crate::support::server::{Launch, Server};

const TOKEN: &str = "a/token=of+the~tests";

/// A browser with one page, which ends with the test.
struct Browser {
    _process: chromium::Browser,
    page: Page,
    console: std::sync::mpsc::Receiver<String>,
}

impl Browser {
    fn open(server: &Server) -> Browser {
        std::fs::create_dir_all(&server.directory).unwrap();
        let (child, page, console) = Page::open(&format!("http://{}/", server.control), &server.directory.join("browser"));
        Browser { _process: chromium::Browser(child), page, console }
    }

    /// Asks the page again and again until it says this: what it shows changes once a second.
    #[track_caller]
    fn eventually(&mut self, script: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let value = self.page.evaluate(script);
            if is_it(&value) {
                return value;
            }
            assert!(begin.elapsed() < PATIENCE, "{script} stays {value}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn text(&mut self, id: &str) -> String {
        self.page.evaluate(&format!("document.getElementById({id:?}).textContent")).as_str().unwrap().to_owned()
    }
}

#[test]
fn the_page_shows_what_happens_and_runs_nothing_that_a_channel_is_called() {
    let server = Server::start(&["--shards", "2"]);
    let mut browser = Browser::open(&server);
    // It tells what to type as long as nobody is there.
    browser.eventually("document.getElementById('state-text').textContent", |text| text == "serving");
    assert_eq!(browser.page.evaluate("document.getElementById('story').hidden"), false);
    assert!(browser.text("first-subscribe").contains(&server.listen.to_string()), "{}", browser.text("first-subscribe"));
    assert!(browser.text("first-publish").contains(&server.control.to_string()), "{}", browser.text("first-publish"));

    let hostile = "<img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>";
    let mut client = Client::subscribed(server.listen, hostile);
    browser.eventually("document.getElementById('connections').textContent", |text| text == "1");
    assert_eq!(browser.page.evaluate("document.getElementById('story').hidden"), true);
    let publishing = Instant::now();
    let cell = "document.querySelector('#busiest td.name')?.textContent";
    while browser.page.evaluate(cell) != hostile {
        server.publish(hostile, &json!("hello"));
        assert_eq!(client.event()["data"], "hello");
        assert!(publishing.elapsed() < PATIENCE, "the channel is not shown");
    }
    browser.eventually("document.getElementById('deliveries').textContent", |text| text != "–");
    assert_eq!(browser.page.evaluate("[window.owned, document.querySelectorAll('td img, td script').length].join()"), ",0");

    // A page of another origin, here that of another server, gets no connection; its own does.
    let other = Server::start(&[]);
    let tried = |address| {
        format!(
            "window.tried = new Promise(done => {{ const socket = new WebSocket('ws://{address}/stats'); \
             socket.onerror = () => done('refused'); socket.onmessage = () => done('watches'); }}).then(said => window.said = said), ''"
        )
    };
    for (address, said) in [(other.control, "refused"), (server.control, "watches")] {
        browser.page.evaluate(&tried(address));
        browser.eventually("window.said", |value| value == said);
    }
    let refused = browser.console.try_iter().collect::<Vec<_>>();
    assert!(refused.iter().all(|line| line.contains(&other.control.to_string())), "{refused:?}");
}

#[test]
fn the_page_of_a_port_with_a_token_asks_for_it() {
    let server = Launch::new(&[]).file(&format!("control_token = \"{TOKEN}\"")).start();
    let mut browser = Browser::open(&server);
    browser.eventually("document.getElementById('login').hidden", |hidden| hidden == false);
    let enter = |token: &str| {
        format!(
            "document.getElementById('token').value = {token:?}; \
             document.getElementById('login').dispatchEvent(new Event('submit', {{cancelable: true}})), ''"
        )
    };
    browser.page.evaluate(&enter("a-wrong-token-of-the-tests"));
    browser.eventually("document.getElementById('login-why').textContent", |why| why.as_str().unwrap().contains("not taken"));
    assert_eq!(browser.text("connections"), "–");
    browser.page.evaluate(&enter(TOKEN));
    browser.eventually("document.getElementById('connections').textContent", |text| text == "0");
    assert_eq!(browser.page.evaluate("document.getElementById('login').hidden"), true);
}

fn top(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_campanile"));
    command.arg("top").args(arguments).args(["--control", &server.control.to_string()]);
    command.env_remove("CAMPANILE_CONTROL_TOKEN").current_dir(Path::new(env!("CARGO_TARGET_TMPDIR")));
    command.output().unwrap()
}

#[test]
fn top_prints_a_second_of_it_where_there_is_no_terminal() {
    let server = Launch::new(&["--shards", "2"]).file(&format!("control_token = \"{TOKEN}\"")).start();
    let refused = top(&server, &[]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && why.contains("401") && why.contains("CAMPANILE_CONTROL_TOKEN"), "{why}");

    let _client = Client::subscribed(server.listen, "news");
    for arguments in [&["--control-token", TOKEN][..], &["--control-token", TOKEN, "--once"]] {
        let shown = top(&server, arguments);
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.status.success(), "{text}");
        for part in ["campanile 0.", "serving", "connections   1 of ", "shard 1 ", "embedded, messages flow"] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    let shown = top(&server, &["--control-token", TOKEN, "--json", "--once"]);
    let stats: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&stats["connections"], stats["shards"].as_array().unwrap().len()), (&json!(1), 2));
    assert!(stats["rates"]["seconds"].as_f64().unwrap() > 0.0, "{stats}");
}

#[test]
fn top_says_what_to_do_when_it_finds_no_server() {
    let server = Server::start(&[]);
    let public = Command::new(env!("CARGO_BIN_EXE_campanile")).args(["top", "--control", &server.listen.to_string()]).output().unwrap();
    let why = String::from_utf8(public.stderr).unwrap();
    assert!(public.status.code() == Some(1) && why.contains("another port than control"), "{why}");
    let nobody = Command::new(env!("CARGO_BIN_EXE_campanile")).args(["top", "--control", "127.0.0.1:1"]).output().unwrap();
    let why = String::from_utf8(nobody.stderr).unwrap();
    assert!(nobody.status.code() == Some(1) && why.contains("is `campanile serve` running there?"), "{why}");
}
