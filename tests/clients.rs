//! End to end with clients that we did not write: Python's `websockets` and Node's `ws`, each scenario in MessagePack and JSON, with a
//! real Redis and `redis-cli` as the publisher. The scenarios are in `tests/clients/`; their libraries are installed under `target/` once.
//! And the tests of the clients that we did write, for JavaScript (`clients/js`) and Python (`clients/python`).

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::languages::{javascript, node, python, python_client};
use support::redis::RedisServer;
use support::server::{self, Launch};

/// Longer than the scenarios themselves wait for anything; none takes more than some seconds where nothing else runs.
const SCENARIO: Duration = Duration::from_secs(300);

const FILE: &str = "payload_bytes_max = \"1M\"\nhistory_count = 10\n";

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
            // The libraries are looked for from the script upwards.
            let mut command = Command::new("node");
            command.arg(node().join("scenarios.js"));
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
}

/// Builds it, weighs it, and runs its tests in Node and in Chromium, which start servers of this program.
#[test]
fn the_javascript_client() {
    let mut command = Command::new("npm");
    command.arg("test").current_dir(javascript());
    command.env("CAMPANILE_PROTOCOL", Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md"));
    passes(&mut command);
}

/// Builds it, installs what was built into an empty place, and runs its tests there, which start servers of this program.
#[test]
fn the_python_client() {
    let mut command = Command::new(python_client().join("bin/python"));
    command.args(["-B", "-m", "unittest", "discover", "--start-directory"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/tests"));
    passes(&mut command);
}

fn passes(command: &mut Command) {
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
