//! The clients of thirty lines in `docs/protocol.md` are run as they stand there, over a server that is killed: every message comes once and in order, and what
//! is lost for good is said.

use std::process::Command;

use crate::feeds::{Console, Folder, publish};
use crate::support::chromium::Page;
use crate::support::server::Server;
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/protocol.md");
/// Numbers go on after a restart, and little is kept.
const RULES: &str = "heartbeat = 3600\n[[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 10\nhistory_age = 3600\n";

/// The example in this language.
fn example(language: &str) -> &'static str {
    let (_, section) = PAGE.split_once("\n## 18 Clients of thirty lines\n").expect("a section of its own");
    let mut blocks = section.split("\n```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    let example = blocks.next().unwrap_or_else(|| panic!("an example in {language}"));
    assert!(example.lines().count() <= 30, "{language} has {} lines", example.lines().count());
    example
}

/// What `follow` is to do with what it gets, in JavaScript.
fn javascript(server: &Server) -> String {
    format!(
        "{}\nfollow('ws://{}/ws', 'feed:a', ({{ n }}) => console.log('got ' + n), (event) => console.log('lost ' + JSON.stringify(event)));",
        example("js"),
        server.listen
    )
}

/// The number of the message that is printed next.
fn got(console: &Console) -> u64 {
    let line = next(console);
    line.strip_prefix("got ").unwrap_or_else(|| panic!("{line} instead of a message")).parse().unwrap()
}

fn lost(console: &Console) -> Value {
    let line = next(console);
    serde_json::from_str(line.strip_prefix("lost ").unwrap_or_else(|| panic!("{line} instead of a loss"))).unwrap()
}

/// A browser prints by itself that a server is not there.
fn next(console: &Console) -> String {
    loop {
        let line = console.next();
        if !line.starts_with("error: ") {
            return line;
        }
    }
}

fn follows(name: &str, follow: impl FnOnce(&Server, &Folder) -> (Console, Option<Page>)) {
    let folder = Folder::new(name);
    let mut server = folder.start_with("127.0.0.1:0", RULES);
    let listen = server.listen.to_string();
    let (console, _page) = follow(&server, &folder);
    server.eventually_metric("campanile_subscriptions", "", 1.0);
    for number in 1..=3 {
        publish(&server, "feed:a", number..=number);
        assert_eq!(got(&console), number);
    }

    // What comes before it is back is kept.
    server.kill();
    server = folder.start_with(&listen, RULES);
    publish(&server, "feed:a", 4..=10);
    (4..=10).for_each(|number| assert_eq!(got(&console), number));
    publish(&server, "feed:a", 11..=12);
    (11..=12).for_each(|number| assert_eq!(got(&console), number));

    // More than is kept, where it does not find the server.
    server.kill();
    server = folder.start_with("127.0.0.1:0", RULES);
    publish(&server, "feed:a", 13..=60);
    server.kill();
    server = folder.start_with(&listen, RULES);
    let answer = lost(&console);
    assert_eq!((&answer["type"], &answer["recovered"]), (&json!("subscribed"), &json!(false)), "{answer}");
    let gap = lost(&console);
    assert_eq!((&gap["type"], &gap["from"], &gap["reason"]), (&json!("gap"), &json!(13), &json!("expired")), "{gap}");
    let first = gap["to"].as_u64().unwrap() + 1;
    assert!(first <= 51, "the last ten are kept: {gap}");
    (first..=60).for_each(|number| assert_eq!(got(&console), number));

    // Numbers begin anew.
    server.kill();
    std::fs::remove_dir_all(folder.0.join("data")).unwrap();
    server = folder.start_with(&listen, RULES);
    let answer = lost(&console);
    assert_eq!((&answer["type"], &answer["recovered"]), (&json!("subscribed"), &json!(false)), "{answer}");
    publish(&server, "feed:a", 61..=63);
    (61..=63).for_each(|number| assert_eq!(got(&console), number));
}

#[test]
fn thirty_lines_of_javascript_in_chromium() {
    follows("thirty-chromium", |server, folder| {
        let (child, mut page, lines) = Page::open(&format!("http://{}/healthz", server.listen), &folder.0.join("browser"));
        page.evaluate(&javascript(server));
        (Console { child, lines }, Some(page))
    });
}

#[test]
fn thirty_lines_of_javascript_in_node() {
    follows("thirty-node", |server, _| {
        let mut command = Command::new("node");
        // Node 20 has it behind a flag.
        command.args(["--experimental-websocket", "--eval", &javascript(server)]);
        (Console::of(command), None)
    });
}

#[test]
fn thirty_lines_of_python() {
    follows("thirty-python", |server, _| {
        let mut command = Command::new("python3");
        // Nobody on the way, whatever whoever runs the tests has set.
        command.env("no_proxy", "*").args(["-u", "-c"]).arg(format!(
            "{}\nfollow('http://{}', 'feed:a', lambda data: print('got', data['n']), lambda event: print('lost', json.dumps(event)))",
            example("python"),
            server.listen
        ));
        (Console::of(command), None)
    });
}
