//! End to end with clients that we did not write: Python's `websockets` and Node's `ws`, each scenario in MessagePack and JSON, with a
//! real Redis and `redis-cli` as the publisher. The scenarios are in `tests/clients/`; their libraries are installed under `target/` once.

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

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

/// A virtual environment with the pinned libraries.
fn python() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        installed("python", &["requirements.txt"], |home, sources| {
            must(Command::new("python3").args(["-m", "venv", "--clear"]).arg(home), "python3 with venv (package `python3-venv`)");
            let requirements = sources.join("requirements.txt");
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
            must(Command::new(home.join("bin/python")).args(pip).arg(requirements), "pip and the libraries of requirements.txt");
        })
    })
}

/// A directory with the script and `node_modules`.
fn node() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        installed("node", &["package.json", "package-lock.json", "scenarios.js"], |home, sources| {
            fs::create_dir_all(home).unwrap();
            for name in ["package.json", "package-lock.json", "scenarios.js"] {
                fs::copy(sources.join(name), home.join(name)).unwrap();
            }
            let npm = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
            must(Command::new("npm").args(npm).current_dir(home), "npm (package `npm`) and the libraries of package-lock.json");
        })
    })
}

/// The directory where `install` has put what these files ask for; done again only when one of them has changed.
fn installed(language: &str, files: &[&str], install: impl FnOnce(&Path, &Path)) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(language);
    let asked: String = files.iter().map(|name| fs::read_to_string(sources.join(name)).unwrap()).collect();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{language}"));
    // Another test process may be doing the same.
    let lock = File::create(home.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let done = home.join("installed");
    if !fs::read_to_string(&done).is_ok_and(|text| text == asked) {
        let _ = fs::remove_dir_all(&home);
        install(&home, &sources);
        fs::write(done, asked).unwrap();
    }
    home
}

/// Not installed is a failure that says what is missing, not a test that was skipped.
fn must(command: &mut Command, needed: &str) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {needed}: {command:?}: {error}; scripts/test installs it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "this test needs {needed}: {command:?} failed; without a package registry, set up a mirror for pip and npm\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
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
