//! The processes that a run starts for itself: the server (`--serve`) and a Redis (`--redis own`). They end with the run.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use campanile::sys;

use super::identity::Gate;
use super::target::Needs;
use super::tls::certificate::Certificate;

/// How long a child may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// The last lines of a server's log that are shown when it dies.
const LOG_LINES: usize = 12;

#[derive(Debug)]
pub struct Server {
    child: Child,
    /// It was waited for.
    has_ended: bool,
    pub clients: SocketAddr,
    pub control: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts `campanile serve ARGUMENTS` beside this program, on free ports, and waits for its start block.
    pub fn start(
        arguments: &str,
        redis: Option<&str>,
        clients: u32,
        needs: &Needs,
        gate: Option<&Gate>,
        certificate: Option<&Certificate>,
    ) -> anyhow::Result<Server> {
        let program = std::env::current_exe()?.with_file_name("campanile");
        if !program.exists() {
            bail!("--serve needs {} beside this program: cargo build builds both", program.display());
        }
        let mut command = Command::new(&program);
        command.arg("serve");
        // It is started elsewhere (below), and the path is typed here.
        let mut is_path = false;
        for word in arguments.split_whitespace() {
            if is_path {
                command.arg(std::path::absolute(word)?)
            } else {
                command.arg(word)
            };
            is_path = word == "--config";
        }
        let mut default = |flag: &str, value: &str| {
            if !arguments.split_whitespace().any(|word| word == flag || word.starts_with(&format!("{flag}="))) {
                command.args([flag, value]);
            }
        };
        default("--listen", if certificate.is_some() { "tls://127.0.0.1:0" } else { "127.0.0.1:0" });
        default("--control", "127.0.0.1:0");
        default("--connections-max", &(clients + 1000).to_string());
        default("--channels-max", &(clients.max(needs.channels) + 1000).max(200_000).to_string());
        if needs.per_client > 1 {
            default("--subscriptions-max", &needs.per_client.max(128).to_string());
            // All of them come from few addresses.
            default("--channels-per-address", "none");
        }
        if let Some(url) = redis {
            default("--redis", url);
        }
        // A campanile.toml or variables of whoever measures would change what is measured.
        command.current_dir(std::env::temp_dir());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CAMPANILE_") {
                command.env_remove(name);
            }
        }
        if let Some(gate) = gate {
            gate.hand_to(&mut command);
        }
        if let Some(certificate) = certificate {
            certificate.hand_to(&mut command);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        sys::end_with_caller(&mut command);
        // Ctrl-C is for the load generator, which then ends what it has started.
        command.process_group(0);
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = log.clone();
        let (lines_in, lines) = crossbeam_channel::unbounded();
        std::thread::Builder::new().name("server-log".to_owned()).spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Ok(mut kept) = kept.lock() {
                    if kept.len() == 10 * LOG_LINES {
                        kept.drain(..9 * LOG_LINES);
                    }
                    kept.push(line.clone());
                }
                let _ = lines_in.send(line);
            }
        })?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { child, has_ended: false, clients: nowhere, control: nowhere, log };
        let begin = Instant::now();
        while server.control == nowhere {
            let Ok(line) = lines.recv_timeout(PATIENCE.saturating_sub(begin.elapsed())) else {
                bail!("campanile serve did not start:\n{}", server.last_words());
            };
            let address = |name: &str, scheme: &str| {
                let text = line.strip_prefix(name)?.trim().strip_prefix(scheme)?;
                text.split(['/', ' ']).next()?.parse::<SocketAddr>().ok()
            };
            let clients = ["ws://", "wss://", "tls://"].iter().find_map(|scheme| address("  clients ", scheme));
            server.clients = clients.unwrap_or(server.clients);
            server.control = address("  control ", "http://").unwrap_or(server.control);
        }
        Ok(server)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ends by itself within a while.
    pub fn ends_soon(&mut self) -> bool {
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begin.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.has_ended = true;
        true
    }

    /// SIGKILL: nothing is said to anybody.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.has_ended = true;
    }

    pub fn last_words(&self) -> String {
        let log = self.log.lock().map(|log| log[log.len().saturating_sub(LOG_LINES)..].join("\n"));
        log.unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let _ = sys::terminate(&self.child);
        end(&mut self.child);
    }
}

/// Waits for a child that was told to end, then insists.
fn end(child: &mut Child) {
    let begin = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if begin.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody uses, this one or a later one, below those that Linux hands out by itself: of these the clients take thousands, and while Redis is away a
/// server that tries to reach it there could even connect to itself, and keep the port.
fn free_port(first: u32) -> u16 {
    let ports = (0..20_000).map(|number| 10_000 + (first.wrapping_add(number) % 20_000) as u16);
    ports.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap_or(6380)
}

/// A `redis-server` on a free port, with a folder of its own.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    arguments: Vec<String>,
    /// Real-time priority.
    priority: Option<i32>,
    child: Option<Child>,
    directory: PathBuf,
}

impl Redis {
    /// Without files, unless it `keeps` what it has.
    pub fn start(priority: Option<i32>, keeps: bool) -> anyhow::Result<Redis> {
        Redis::with(priority, |_, _| Ok(words(&["--save", "", "--appendonly", if keeps { "yes" } else { "no" }])))
    }

    /// Part of a topology: what it has is with others too.
    pub fn replicated(further: &[&str]) -> anyhow::Result<Redis> {
        Redis::with(None, |_, _| {
            let all = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
            Ok(words(&[&all, further].concat()))
        })
    }

    /// One of a Cluster. Its usual place there, 10,000 ports higher, is among those that Linux hands out.
    pub fn of_cluster() -> anyhow::Result<Redis> {
        Redis::with(None, |port, _| {
            let bus = free_port(u32::from(port) - 10_000 + 1).to_string();
            let of_cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
            let all = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
            Ok(words(&[&of_cluster[..], &all].concat()))
        })
    }

    /// A Sentinel, of three that watch this master.
    pub fn sentinel(service: &str, master: u16) -> anyhow::Result<Redis> {
        Redis::with(None, |_, directory| {
            let file = directory.join("sentinel.conf");
            let text = format!(
                "sentinel monitor {service} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {service} 2000\nsentinel failover-timeout {service} 5000\n"
            );
            std::fs::write(&file, text)?;
            Ok(words(&[&file.display().to_string(), "--sentinel"]))
        })
    }

    fn with(priority: Option<i32>, arguments: impl FnOnce(u16, &Path) -> anyhow::Result<Vec<String>>) -> anyhow::Result<Redis> {
        let port = free_port(std::process::id().wrapping_mul(64));
        let directory = std::env::temp_dir().join(format!("loadgen-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let mut redis = Redis { port, arguments: Vec::new(), priority, child: None, directory };
        redis.arguments = arguments(port, &redis.directory)?;
        redis.restart()?;
        Ok(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// It is a replica of another one when it starts again.
    pub fn restart_as_replica_of(&mut self, master: u16) -> anyhow::Result<()> {
        if let Some(at) = self.arguments.iter().position(|word| word == "--replicaof") {
            self.arguments.drain(at..at + 3);
        }
        self.arguments.extend(words(&["--replicaof", "127.0.0.1", &master.to_string()]));
        self.restart()
    }

    /// SIGKILL: its connections are reset, nothing is said.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it (again), on the same port.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("redis-server");
        command.args(&self.arguments).args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.arg("--dir").arg(&self.directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::end_with_caller(&mut command);
        command.process_group(0);
        let child = command.spawn().context("redis-server cannot be started: is the package redis-server installed?")?;
        // Its main thread, the one that serves.
        self.priority.map(|priority| sys::run_first(child.id(), priority)).transpose().context("redis-server gets no priority")?;
        self.child = Some(child);
        let client = redis::Client::open(self.url())?;
        let begin = Instant::now();
        while client.get_connection().and_then(|mut connection| redis::cmd("PING").exec(&mut connection)).is_err() {
            if begin.elapsed() > PATIENCE {
                bail!("redis-server on port {} does not answer", self.port);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
