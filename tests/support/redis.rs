//! A real `redis-server` on a free port for integration tests: started, killed, paused, stopped. It ends with its value.

#![allow(dead_code)] // each test file uses a part of it

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start or an event to come. No test waits so long unless it fails, so it is as long as a machine that is busy
/// with other work may need.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct RedisServer {
    pub port: u16,
    /// Holds the unix socket and whatever files the test needs; removed at the end.
    pub directory: PathBuf,
    arguments: Vec<String>,
    password: Option<String>,
    child: Option<Child>,
}

impl RedisServer {
    pub fn start() -> RedisServer {
        RedisServer::with_arguments(&[])
    }

    /// With further `redis-server` arguments: `&["--requirepass", "secret"]`.
    pub fn with_arguments(arguments: &[&str]) -> RedisServer {
        let mut server = RedisServer::prepared(arguments);
        server.restart();
        server
    }

    /// A port and a directory for a server that does not run yet: [`RedisServer::restart`] starts it.
    pub fn prepared(arguments: &[&str]) -> RedisServer {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("campanile-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let password = arguments.iter().position(|argument| *argument == "--requirepass").map(|at| arguments[at + 1].to_owned());
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        RedisServer { port: free_port(), directory, arguments, password, child: None }
    }

    /// Starts it (again) on the same port and waits until it answers.
    pub fn restart(&mut self) {
        self.restart_until("+PONG");
    }

    /// The same for one whose answer to PING begins like this.
    pub fn restart_until(&mut self, pong: &str) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::create(self.directory.join("log")).expect("a log file");
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--unixsocket", self.socket_path().to_str().unwrap(), "--dir", self.directory.to_str().unwrap()])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed (package `redis-server`)");
        self.child = Some(child);
        let begin = Instant::now();
        while !self.try_command(&["PING"]).is_ok_and(|answer| answer.starts_with(pong)) {
            let log = || std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(begin.elapsed() < PATIENCE, "redis-server does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(10)); // there is no event to wait for
        }
    }

    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.socket_path().display())
    }

    fn socket_path(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    /// Sends one command on a connection of its own and returns the raw answer.
    pub fn command(&self, parts: &[&str]) -> String {
        self.try_command(parts).unwrap_or_else(|error| panic!("{parts:?}: {error}"))
    }

    fn try_command(&self, parts: &[&str]) -> std::io::Result<String> {
        try_command_at(self.port, self.password.as_deref(), parts)
    }

    /// From now on it notes what it is asked.
    pub fn note_commands(&self) {
        self.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0", "slowlog-max-len", "100000"]);
        self.command(&["SLOWLOG", "RESET"]);
    }

    /// How often it was asked this since, but by functions: those have no address.
    pub fn noted(&self, command: &str) -> usize {
        type Noted = (u64, u64, u64, Vec<Vec<u8>>, String, String);
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let noted: Vec<Noted> = redis::cmd("SLOWLOG").arg(&["GET", "-1"]).query(&mut connection).unwrap();
        noted.iter().filter(|(_, _, _, words, by, _)| words[0] == command.as_bytes() && by != "?:0").count()
    }

    /// It was not killed.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// A connection that publishes as fast as it is asked to.
    pub fn publisher(&self) -> Publisher {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("redis answers");
        let mut publisher = Publisher { stream, outstanding: 0 };
        if let Some(password) = &self.password {
            publisher.send(&[b"AUTH", password.as_bytes()]);
        }
        publisher
    }

    /// A script that runs until [`RedisServer::end_script`]; returns when others are told BUSY.
    pub fn begin_script(&self) {
        self.command(&["CONFIG", "SET", "busy-reply-threshold", "1"]);
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("redis answers");
        stream.write_all(&encoded(&["EVAL", "while true do end", "0"])).expect("redis takes it");
        let begin = Instant::now();
        while !self.try_command(&["PING"]).is_ok_and(|answer| answer.starts_with("-BUSY")) {
            assert!(begin.elapsed() < PATIENCE, "the script does not run");
            std::thread::sleep(Duration::from_millis(5)); // there is no event to wait for
        }
        // Redis goes on with the script whoever waits for it.
    }

    pub fn end_script(&self) {
        assert_eq!(self.command(&["SCRIPT", "KILL"]), "+OK\r\n");
    }

    /// How many commands were answered with an error. INFO is answered also by a Redis that loads or has lost its master.
    pub fn errors(&self) -> u64 {
        let stats = self.command(&["INFO", "errorstats"]);
        stats.lines().filter_map(|line| line.split_once(":count=")).map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum()
    }

    /// How many channels of clients are subscribed by somebody.
    pub fn subscribed_channels(&self) -> usize {
        let answer = self.command(&["PUBSUB", "CHANNELS"]);
        let own = answer.lines().filter(|line| line.contains("__campanile__")).count();
        answer[1..answer.find('\r').unwrap()].parse::<usize>().unwrap() - own
    }

    pub fn is_subscribed(&self, channel: &str) -> bool {
        self.command(&["PUBSUB", "NUMSUB", channel]).ends_with("\r\n:1\r\n")
    }

    /// SIGKILL: connections are reset, nothing is said.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        let id = self.child.as_ref().expect("it runs").id();
        // SAFETY: a signal to a child that has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(id as i32, signal) }, 0);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Sends one command on a connection of its own and returns the raw answer.
pub fn try_command_at(port: u16, password: Option<&str>, parts: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if let Some(password) = password {
        stream.write_all(&encoded(&["AUTH", password]))?;
        read_answer(&mut stream)?;
    }
    stream.write_all(&encoded(parts))?;
    read_answer(&mut stream)
}

/// Publishes over one connection, pipelined.
pub struct Publisher {
    stream: TcpStream,
    outstanding: usize,
}

impl Publisher {
    pub fn publish(&mut self, channel: &str, payload: &[u8]) {
        self.send(&[b"PUBLISH", channel.as_bytes(), payload]);
    }

    fn send(&mut self, parts: &[&[u8]]) {
        self.outstanding += 1;
        self.stream.write_all(&encoded_bytes(parts)).expect("redis takes it");
    }

    /// Waits until Redis has answered everything published so far.
    pub fn settle(&mut self) {
        let mut buffer = [0; 4096];
        while self.outstanding > 0 {
            let count = self.stream.read(&mut buffer).expect("redis answers");
            assert!(count > 0, "redis closed the connection");
            self.outstanding -= buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
        }
    }
}

pub fn encoded(parts: &[&str]) -> Vec<u8> {
    encoded_bytes(&parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>())
}

fn encoded_bytes(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend(format!("${}\r\n", part.len()).into_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// One answer, of whatever size; it ends where `redis-server` has nothing more to say.
fn read_answer(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..count]);
        match redis::parse_redis_value(&answer) {
            Err(error) if error.is_io_error() => {}
            _ => return Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    }
}

/// A port that nobody uses, and that nobody gets who asks for any port: it lies below those that Linux hands out by itself, of which tests
/// that run at the same time take thousands.
pub fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(64) + COUNT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (number % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A certificate for `localhost` and 127.0.0.1, signed by itself: (certificate, key). None: openssl is not installed.
pub fn self_signed(directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success()).then_some((certificate, key))
}
