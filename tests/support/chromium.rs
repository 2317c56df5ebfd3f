//! A real Chromium without a window: a page is opened, lines are typed into its console, and what the console prints is read. Spoken to over
//! a pipe in the DevTools protocol.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use serde_json::{Value, json};

use super::redis::PATIENCE;

/// What distributions call it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
/// No window, no sandbox (the tests may run as root), and nothing that asks the network by itself.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
];
/// Where `--remote-debugging-pipe` reads and writes, by its own convention.
const PIPE: [i32; 2] = [3, 4];

/// Ended with all its processes.
#[derive(Debug)]
pub struct Browser(pub Child);

impl Drop for Browser {
    fn drop(&mut self) {
        // SAFETY: kill takes numbers alone; the group is the browser's own, which has not been waited for.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// An open page. Whoever holds the child ends it.
#[derive(Debug)]
pub struct Page {
    commands: File,
    answers: Receiver<Value>,
    session: Value,
    last_id: u64,
}

impl Page {
    /// Starts a browser with a fresh profile in `directory`, which is its home as well, and opens `url`. Gives the browser, the page, and what its console prints,
    /// errors of the network among it.
    pub fn open(url: &str, directory: &Path) -> (Child, Page, Receiver<String>) {
        let (commands_end, commands) = io::pipe().expect("a pipe");
        let (events, events_end) = io::pipe().expect("a pipe");
        let child = spawn(directory, [OwnedFd::from(commands_end), OwnedFd::from(events_end)]);
        let (to_answers, answers) = channel();
        let (to_console, console) = channel();
        std::thread::spawn(move || read(BufReader::new(events), &to_answers, &to_console));

        let mut page = Page { commands: OwnedFd::from(commands).into(), answers, session: Value::Null, last_id: 0 };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].take();
        page.session = page.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}))["sessionId"].take();
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            page.call(domain, json!({}));
        }
        let answer = page.call("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url} cannot be opened: {answer}");
        // The document is there when it runs scripts of its own address.
        let begin = Instant::now();
        while page.evaluate("document.readyState + location.href") != json!(format!("complete{url}")) {
            assert!(begin.elapsed() < PATIENCE, "{url} does not load");
            std::thread::yield_now();
        }
        (child, page, console)
    }

    /// Types into the console, where `const` lasts from one line to the next, and gives the value.
    pub fn evaluate(&mut self, script: &str) -> Value {
        let mut answer = self.call("Runtime.evaluate", json!({"expression": script, "replMode": true, "userGesture": true}));
        assert!(answer["exceptionDetails"].is_null(), "{script}: {answer}");
        answer["result"]["value"].take()
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": parameters});
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).expect("the browser reads");
        loop {
            let mut answer =
                self.answers.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("the browser does not answer {method}: {error}"));
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }
}

fn spawn(directory: &Path, pipe: [OwnedFd; 2]) -> Child {
    let mut command = Command::new(program());
    command.args(FLAGS).arg(format!("--user-data-dir={}", directory.display())).arg("about:blank").env("HOME", directory);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let numbers = pipe.each_ref().map(AsRawFd::as_raw_fd);
    let place = move || {
        // Copies high up first: a number that is to be set may be one of the pipes themselves.
        // SAFETY: fcntl and dup2 are async-signal-safe and take numbers alone.
        let results = unsafe {
            let high = numbers.map(|number| libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 100));
            [libc::dup2(high[0], PIPE[0]), libc::dup2(high[1], PIPE[1])]
        };
        if results == PIPE { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it copies descriptors and allocates nothing.
    unsafe { command.pre_exec(place) };
    command.spawn().unwrap_or_else(|error| panic!("{:?} cannot be started: {error}", command.get_program()))
}

/// Has a browser that is opened in this directory later believe a CA, as its user would.
pub fn trust(directory: &Path, ca: &str) {
    let store = directory.join(".pki/nssdb");
    std::fs::create_dir_all(&store).unwrap();
    let store = format!("sql:{}", store.display());
    for arguments in [&["-N", "--empty-password"][..], &["-A", "-t", "C,,", "-n", "test", "-i", ca]] {
        let output = Command::new("certutil").args(["-d", &store]).args(arguments).output();
        let output = output.expect("this test needs certutil; scripts/test installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = NAMES.iter().flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    candidates.into_iter().find(|program| program.is_file()).expect("this test needs Chromium; scripts/test installs it")
}

fn read(events: impl BufRead, answers: &Sender<Value>, console: &Sender<String>) {
    for message in events.split(0).map_while(Result::ok) {
        let message: Value = serde_json::from_slice(&message).expect("the browser writes JSON");
        let parameters = &message["params"];
        let _ = match message["method"].as_str() {
            Some("Runtime.consoleAPICalled") => {
                let shown = parameters["args"].as_array().into_iter().flatten().map(|value| match &value["value"] {
                    Value::String(text) => text.clone(),
                    Value::Null => value["description"].to_string(),
                    other => other.to_string(),
                });
                console.send(shown.collect::<Vec<_>>().join(" ")).is_ok()
            }
            // That a script may not reach something is told here. Nobody has a picture for the tab.
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" && !is_picture(&parameters["entry"]["url"]) => {
                console.send(format!("error: {}", parameters["entry"]["text"].as_str().unwrap_or_default())).is_ok()
            }
            Some(_) => true,
            None => answers.send(message).is_ok(),
        };
    }
}

fn is_picture(url: &Value) -> bool {
    url.as_str().is_some_and(|url| url.ends_with("/favicon.ico"))
}
