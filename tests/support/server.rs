//! The real `campanile serve` as a child process on free ports: started, asked, stopped. What it wrote to stderr is shown when a test fails.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::redis::PATIENCE;

/// How the server is to be started.
#[derive(Debug)]
pub struct Launch {
    arguments: Vec<String>,
    file: Option<String>,
    shell: Option<String>,
    /// Where it runs; removed with the [`Server`], or by whoever runs the command.
    pub directory: PathBuf,
}

impl Launch {
    pub fn new(arguments: &[&str]) -> Launch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("campanile-server-{}-{number}", std::process::id()));
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        Launch { arguments, file: None, shell: None, directory }
    }

    /// A `campanile.toml` where it runs.
    pub fn file(mut self, text: &str) -> Launch {
        self.file = Some(text.to_owned());
        self
    }

    /// A shell command before the server replaces the shell: `ulimit -n 64`.
    pub fn shell(mut self, command: &str) -> Launch {
        self.shell = Some(command.to_owned());
        self
    }

    /// The command, without the environment of whoever runs the tests. Ports are free ones unless given.
    pub fn command(&self) -> Command {
        std::fs::create_dir_all(&self.directory).expect("a temporary directory");
        if let Some(file) = &self.file {
            std::fs::write(self.directory.join("campanile.toml"), file).unwrap();
        }
        let program = env!("CARGO_BIN_EXE_campanile");
        let mut command = match &self.shell {
            None => Command::new(program),
            Some(shell) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("{shell}; exec \"$@\""), "sh", program]);
                command
            }
        };
        command.arg("serve").args(&self.arguments);
        // Heartbeats are for the tests that are about them: a client that the test reads only now and then would not answer in time.
        for (flag, value) in [("--listen", "127.0.0.1:0"), ("--control", "127.0.0.1:0"), ("--heartbeat", "3600")] {
            if !self.arguments.iter().any(|argument| argument == flag) {
                command.args([flag, value]);
            }
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CAMPANILE_") {
                command.env_remove(name);
            }
        }
        command.current_dir(&self.directory).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Exit code and stderr of a server that must not start, or that ends by itself.
    pub fn fails(self) -> (i32, String) {
        let mut command = self.command();
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
        let stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
        let status = wait(&mut child, PATIENCE).unwrap_or_else(|| {
            let _ = child.kill();
            panic!("it runs instead of failing: {}", self.arguments.join(" "))
        });
        let _ = std::fs::remove_dir_all(&self.directory);
        (status.code().unwrap_or(-1), reader.join().unwrap())
    }

    /// Starts it and waits for its start block, which tells the ports.
    pub fn start(self) -> Server {
        let child = self.command().stderr(Stdio::piped()).spawn().expect("the program");
        Launch::watch(child, self.directory)
    }

    /// A server that was started in another way, with a pipe for its stderr; waits for its start block.
    pub fn adopt(child: Child) -> Server {
        Launch::watch(child, std::env::temp_dir().join("campanile-no-directory"))
    }

    fn watch(mut child: Child, directory: PathBuf) -> Server {
        let (lines, told) = channel();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                *kept.lock().unwrap() += &format!("{line}\n");
                let _ = lines.send(line);
            }
        });
        let mut server = Server::around(child, directory);
        server.log = log;
        server.listen = address(&server.told(&told, "  clients "));
        server.control = address(&server.told(&told, "  control "));
        server
    }
}

#[derive(Debug)]
pub struct Server {
    pub listen: SocketAddr,
    pub control: SocketAddr,
    child: Child,
    has_ended: bool,
    log: Arc<Mutex<String>>,
    agent: ureq::Agent,
    pub directory: PathBuf,
    /// What the control port asks for.
    pub token: Option<String>,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Server {
        Launch::new(arguments).start()
    }

    /// A server whose output nobody reads; its ports are for the caller to set.
    pub fn around(child: Child, directory: PathBuf) -> Server {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Server { listen: nowhere, control: nowhere, child, has_ended: false, log: Arc::default(), agent, directory, token: None }
    }

    /// What comes on this pipe is its log.
    pub fn read_log(&mut self, stderr: std::process::ChildStderr) {
        let kept = self.log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *kept.lock().unwrap() += &format!("{line}\n");
            }
        });
    }

    fn told(&self, lines: &Receiver<String>, name: &str) -> String {
        let begin = Instant::now();
        while let Ok(line) = lines.recv_timeout(PATIENCE.saturating_sub(begin.elapsed())) {
            if let Some(text) = line.strip_prefix(name) {
                return text.trim().to_owned();
            }
        }
        panic!("the server does not start:\n{}", self.log());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The same, once it contains `text`.
    pub fn log_when(&self, text: &str) -> String {
        self.eventually(text, |server| server.log().contains(text));
        self.log()
    }

    /// Status and body of a GET on the control port.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.get_from(self.control, path).unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log()))
    }

    pub fn get_from(&self, address: SocketAddr, path: &str) -> Result<(u16, String), ureq::Error> {
        let request = self.agent.get(format!("http://{address}{path}"));
        let mut response = match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")).call()?,
            None => request.call()?,
        };
        let body = response.body_mut().read_to_string()?;
        Ok((response.status().as_u16(), body))
    }

    /// Status and body of a POST on the control port.
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> (u16, Value) {
        let request = self.agent.post(format!("http://{}{path}", self.control));
        let sent = match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")).send(body.as_ref()),
            None => request.send(body.as_ref()),
        };
        let mut response = sent.unwrap_or_else(|error| panic!("POST {path}: {error}\n{}", self.log()));
        let text = response.body_mut().read_to_string().expect("a body");
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// Publishes through the control port; returns the sequence number.
    pub fn publish(&self, channel: &str, data: &Value) -> u64 {
        let url = format!("http://{}/publish", self.control);
        let mut response = self.agent.post(url).send_json(json!({"channel": channel, "data": data})).expect("the control port answers");
        let answer: Value = response.body_mut().read_json().expect("JSON");
        assert_eq!(response.status(), 200, "{answer}");
        answer["seq"].as_u64().unwrap_or_else(|| panic!("no number in {answer}"))
    }

    /// The sum of a metric's samples whose labels contain `label` (`reason="overrun"`; "" takes all).
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200, "{page}");
        let is_named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let samples: Vec<f64> = page
            .lines()
            .filter(is_named)
            .filter(|line| line.contains(label))
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(!samples.is_empty(), "there is no metric {name} with {label:?}");
        samples.iter().sum()
    }

    pub fn is_ready(&self) -> bool {
        self.get("/readyz").0 == 200
    }

    /// Asks again and again until it holds: HTTP has no event to wait for.
    #[track_caller]
    pub fn eventually(&self, what: &str, condition: impl Fn(&Server) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn eventually_metric(&self, name: &str, label: &str, expected: f64) {
        let begin = Instant::now();
        loop {
            let found = self.metric(name, label);
            if found == expected {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{name} {label} is {found}, not {expected}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> f64 {
        self.metric("process_resident_memory_bytes", "")
    }

    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    pub fn signal(&self, number: i32) {
        // SAFETY: a signal to a child that has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, number) }, 0);
    }

    /// Its exit code, once it has ended by itself.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let status = wait(&mut self.child, PATIENCE).unwrap_or_else(|| panic!("it does not end:\n{}", self.log()));
        self.has_ended = true;
        status.code().unwrap_or_else(|| panic!("killed by signal {:?}:\n{}", status.signal(), self.log()))
    }

    /// As a crash ends it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.has_ended = true;
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }
}

/// Ends the server; a test passes only if it went on to the end and then ended well.
impl Drop for Server {
    fn drop(&mut self) {
        let mut status = None;
        let ran = !self.has_ended && self.is_running();
        if !self.has_ended {
            if ran {
                self.terminate();
            }
            status = wait(&mut self.child, PATIENCE);
            if status.is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        let _ = std::fs::remove_dir_all(&self.directory);
        let log = self.log();
        if std::thread::panicking() {
            let end = if ran { "stopped by the test" } else { "ended by itself" };
            eprintln!("--- stderr of the server ({end}, {status:?})\n{log}---");
            return;
        }
        assert!(self.has_ended || status.is_some_and(|status| status.success()), "ended with {status:?}:\n{log}");
        assert!(!log.contains("panicked at"), "a thread of the server panicked:\n{log}");
    }
}

/// Of a URL as the start block shows it, with what it stands for behind it. A unix socket has none.
fn address(shown: &str) -> SocketAddr {
    if shown.starts_with("unix://") {
        return SocketAddr::from(([127, 0, 0, 1], 0));
    }
    let bare = shown.split("://").nth(1).unwrap_or(shown);
    bare.split(['/', ' ']).next().and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {shown}"))
}

/// None: it still runs after that time.
pub fn wait(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return Some(status);
        }
        if begin.elapsed() > time {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5)); // a child's end is no event that std can wait for with a limit
    }
}
