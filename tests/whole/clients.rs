//! End to end with clients that we did not write: Python's `websockets` (and `aiohttp`), Node's `ws` (and its own, undici), Chromium; each scenario in MessagePack and JSON, with a
//! real Redis and `redis-cli` as the publisher. The scenarios are in `tests/clients/`; their libraries are installed under `target/` once.
//! And the tests of what we did write: the clients for JavaScript (`clients/js`) and Python (`clients/python`), and the bell, `clients/bell`.

mod bell;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::chromium::{Browser, Page};
use crate::support::languages::{javascript, node, python, python_client};
use crate::support::redis::RedisServer;
use crate::support::server::{self, Launch, Server};

/// Longer than the scenarios themselves wait for anything; none takes more than some seconds where nothing else runs.
const SCENARIO: Duration = Duration::from_secs(300);

const FILE: &str = "payload_bytes_max = \"1M\"\nhistory_count = 10\n\
                    [[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 100\nhistory_age = 3600\n\
                    [[channels]]\nprefix = \"room:\"\npresence = true\npresence_members = 100\n";

#[derive(Clone, Copy)]
enum Language {
    Python,
    Node,
}

/// Runs one scenario in both formats against a server with these flags.
fn run(language: Language, scenario: &str, flags: &[&str]) {
    for format in ["json", "msgpack"] {
        run_format(language, scenario, format, flags);
    }
}

fn run_format(language: Language, scenario: &str, format: &str, flags: &[&str]) {
    let redis = RedisServer::start();
    let server = Launch::new(&[&["--redis", &redis.url()], flags].concat()).file(FILE).start();
    server.eventually("ready", |server| server.is_ready());
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = match language {
        Language::Python => {
            let mut command = Command::new(python().join("bin/python"));
            // No cache beside the sources.
            command.arg("-B").arg(sources.join("python/scenarios.py"));
            command
        }
        Language::Node => {
            // The libraries are looked for from the script upwards. Node's own WebSocket is behind a flag in 20.
            let mut command = Command::new("node");
            command.arg("--experimental-websocket").arg(node().join("scenarios.js"));
            command
        }
    };
    let mut child = command
        .args([scenario, format, &server.listen.to_string(), &redis.port.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 and node are needed");
    let stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
    let status = server::wait(&mut child, SCENARIO);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let told = reader.join().unwrap();
    assert!(status.is_some_and(|status| status.success()), "{scenario} {format}: {status:?}\n{told}");
    if flags.contains(&"--deflate") {
        let (sent, deflated) = (server.metric("campanile_messages_sent_total", ""), server.metric("campanile_messages_deflated_total", ""));
        assert!(deflated > 0.0 && deflated < sent, "some of both: {deflated} of {sent} were compressed");
    }
}

/// One test per scenario and language; the name is the scenario's.
macro_rules! scenarios {
    ($($name:ident $flags:expr;)*) => {
        mod python_websockets {
            use super::*;
            $(#[test] fn $name() { run(Language::Python, stringify!($name), $flags); })*
        }
        mod node_ws {
            use super::*;
            $(#[test] fn $name() { run(Language::Node, stringify!($name), $flags); })*
        }
    };
}

scenarios! {
    three_ways_to_subscribe &[];
    payloads_of_every_kind &[];
    many_messages_in_order &[];
    ids_and_unsubscribe &[];
    pings_of_both_levels &["--heartbeat", "1", "--pong-timeout", "60"];
    errors_have_their_codes &["--subscriptions-max", "2"];
    resume_after_a_reconnect &["--linger", "3600"];
    subprotocols_are_negotiated &[];
    the_first_command_chooses &[];
    close_frames_are_answered &[];
    fragmented_commands_are_joined &[];
    clients_may_publish &["--allow-client-publish", "--payload-bytes-max", "1k"];
    raw_is_payloads_alone &[];
    compressed_and_plain_are_read &["--deflate", "--deflate-min-bytes", "300"];
    marks_stay_in_step &["--auth", "query", "--allow-client-publish"];
    who_is_there &["--auth", "query"];
}

/// Compressed, plain and long messages by turns, and commands of its own, which it compresses.
#[test]
fn chromium_reads_compressed_and_plain() {
    let server = Server::start(&["--shards", "1", "--deflate", "--deflate-min-bytes", "300"]);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-chromium");
    let _ = std::fs::remove_dir_all(&directory);
    let (browser, mut page, console) = Page::open(&format!("http://{}/healthz", server.control), &directory);
    let _browser = Browser(browser);
    page.evaluate(&format!(
        "const sockets = Array.from({{length: 16}}, () => new WebSocket('ws://{}/ws/mixed?format=json'));
         sockets.forEach((ws, n) => ws.onmessage = ({{data}}) => {{
             const event = JSON.parse(data);
             if (event.type === 'subscribed') console.log('subscribed ' + ws.extensions.split(';')[0]);
             if (event.type === 'notification') console.log(n + ' got ' + event.seq + ' ' + JSON.stringify(event.data).length);
             if (event.type === 'pong') console.log('pong ' + event.id.length);
         }}); 0",
        server.listen
    ));
    let next = || console.recv_timeout(SCENARIO).expect("the console prints");
    for _ in 0..16 {
        assert_eq!(next(), "subscribed permessage-deflate");
    }
    let rows: Vec<_> = (0..60).map(|n| serde_json::json!({"id": n, "title": format!("notification {n}"), "read": false})).collect();
    let payloads =
        [serde_json::json!(rows), serde_json::json!("short"), serde_json::json!("y".repeat(200_000)), serde_json::json!(rows[..20])];
    for (payload, seq) in payloads.iter().cycle().take(12).zip(1..) {
        server.publish("mixed", payload);
        let mut told: Vec<String> = (0..16).map(|_| next()).collect();
        told.sort();
        let mut expected: Vec<String> = (0..16).map(|n| format!("{n} got {seq} {}", payload.to_string().len())).collect();
        expected.sort();
        assert_eq!(told, expected);
    }
    page.evaluate("sockets[0].send(JSON.stringify({type: 'ping', id: 'abcd'.repeat(16)})); 0");
    assert_eq!(next(), "pong 64");
    assert_eq!(server.metric("campanile_messages_deflated_total", ""), 16.0 * 6.0);
    assert!(server.metric("campanile_messages_inflated_total", "") >= 1.0);
}

/// Builds it, weighs it, and runs its tests in Node and in Chromium, which start servers of this program.
#[test]
fn the_javascript_client() {
    let mut command = Command::new("npm");
    command.arg("test").current_dir(javascript());
    command.env("CAMPANILE_PROTOCOL", Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md"));
    must_succeed(command);
}

/// Builds it, installs what was built into an empty place, and runs its tests there, which start servers of this program.
#[test]
fn the_python_client() {
    let mut command = Command::new(python_client().join("bin/python"));
    command.args(["-B", "-m", "unittest", "discover", "--start-directory"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/tests"));
    must_succeed(command);
}

/// Runs tests that start servers of this program, to their end.
fn must_succeed(mut command: Command) {
    let (mut output, output_end) = std::io::pipe().expect("a pipe");
    command.env("CAMPANILE_BIN", env!("CARGO_BIN_EXE_campanile")).process_group(0).stdin(Stdio::null());
    command.stdout(output_end.try_clone().unwrap()).stderr(output_end);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // The ends of the pipe that are ours.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let reader = std::thread::spawn(move || std::io::read_to_string(&mut output).unwrap_or_default());
    let status = server::wait(&mut child, SCENARIO);
    if status.is_none() {
        // With all that it has started, which else would keep the pipe open.
        // SAFETY: a signal to the group of a child that has not been waited for, so the id is still its own.
        unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
        let _ = child.wait();
    }
    let told = reader.join().unwrap();
    assert!(status.is_some_and(|status| status.success()), "{command:?}: {status:?}\n{told}");
}
