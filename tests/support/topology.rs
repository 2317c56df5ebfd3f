//! Several real `redis-server`s that belong together: a master and a replica with Sentinels, and a Cluster.

#![allow(dead_code)] // each test file uses a part of it

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::redis::{PATIENCE, RedisServer, free_port, try_command_at};

/// Asks again until it holds: there is no event to wait for.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A `redis-server --sentinel`, which ends with its value.
pub struct Sentinel {
    pub port: u16,
    directory: PathBuf,
    child: Child,
}

impl Sentinel {
    pub const SERVICE: &str = "mymaster";

    /// One that watches this master; `further` lines of its configuration.
    pub fn start(master: u16, quorum: usize, further: &str) -> Sentinel {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("campanile-sentinel-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let (port, service) = (free_port(), Sentinel::SERVICE);
        let file = directory.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {service} 127.0.0.1 {master} {quorum}\n\
             sentinel down-after-milliseconds {service} 1000\nsentinel failover-timeout {service} 5000\n{further}\n",
            directory.display()
        );
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(directory.join("log")).expect("a log file");
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed (package `redis-server`)");
        let sentinel = Sentinel { port, directory, child };
        eventually("the Sentinel answers", || {
            sentinel.try_command(&["PING"]).is_ok_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
        });
        sentinel
    }

    fn try_command(&self, parts: &[&str]) -> std::io::Result<String> {
        try_command_at(self.port, None, parts)
    }

    pub fn command(&self, parts: &[&str]) -> String {
        self.try_command(parts).unwrap_or_else(|error| panic!("{parts:?}: {error}"))
    }

    /// The port of the master, as it says.
    pub fn master(&self) -> u16 {
        let answer = self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Sentinel::SERVICE]);
        answer.lines().nth(4).and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
    }

    /// It is told that the master is another.
    pub fn point_at(&self, master: u16) {
        assert_eq!(self.command(&["SENTINEL", "REMOVE", Sentinel::SERVICE]), "+OK\r\n");
        assert_eq!(self.command(&["SENTINEL", "MONITOR", Sentinel::SERVICE, "127.0.0.1", &master.to_string(), "1"]), "+OK\r\n");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A master, a replica, and three Sentinels that know of each other.
pub struct Watched {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<Sentinel>,
}

impl Watched {
    pub fn start(arguments: &[&str]) -> Watched {
        let master = RedisServer::with_arguments(arguments);
        let of = master.port.to_string();
        let replica =
            RedisServer::with_arguments(&[&["--replicaof", "127.0.0.1", &of, "--repl-diskless-sync-delay", "0"], arguments].concat());
        let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(master.port, 2, "")).collect();
        let watched = Watched { servers: vec![master, replica], sentinels };
        eventually("the replica has what the master has", || {
            watched.servers[1].command(&["INFO", "replication"]).contains("master_link_status:up")
        });
        for sentinel in &watched.sentinels {
            eventually("the Sentinels know of each other and of the replica", || {
                let state = sentinel.command(&["INFO", "sentinel"]);
                state.contains("slaves=1,sentinels=3")
            });
        }
        watched
    }

    pub fn url(&self) -> String {
        let places: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{}", places.join(","), Sentinel::SERVICE)
    }

    /// The replica becomes the master, whatever the master does. Sentinels refuse that while they are not sure of the replica, so it is asked for until they take it.
    pub fn fail_over(&self) {
        eventually("a failover is taken", || self.sentinels[0].command(&["SENTINEL", "FAILOVER", Sentinel::SERVICE]).starts_with("+OK"));
    }
}

/// Masters made into a Cluster by `redis-cli`, with a replica each if wanted.
pub struct Cluster {
    pub servers: Vec<RedisServer>,
}

impl Cluster {
    pub fn start(masters: usize, replicas: usize, arguments: &[&str]) -> Cluster {
        let servers: Vec<RedisServer> = (0..masters * (1 + replicas))
            .map(|_| {
                // Its usual place, 10,000 higher, may be taken by whoever asks for any port.
                let bus = free_port().to_string();
                let of_all = [
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    "2000",
                    "--repl-diskless-sync-delay",
                    "0",
                ];
                RedisServer::with_arguments(&[&of_all, arguments].concat())
            })
            .collect();
        let places: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&places)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .expect("redis-cli");
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let cluster = Cluster { servers };
        for server in &cluster.servers {
            eventually("the Cluster is up", || {
                let info = server.command(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{}", cluster.servers.len()))
            });
            eventually("replicas have what their masters have", || {
                let info = server.command(&["INFO", "replication"]);
                info.contains("role:master") || info.contains("master_link_status:up")
            });
        }
        cluster
    }

    pub fn url(&self) -> String {
        let places: Vec<String> = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("redis+cluster://{}", places.join(","))
    }

    /// The place among the servers of the master that has this slot.
    pub fn owner(&self, slot: u16) -> usize {
        let is_owner = |server: &RedisServer| {
            let nodes = server.command(&["CLUSTER", "NODES"]);
            let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_else(|| panic!("{nodes}")).to_owned();
            own.contains("master")
                && own.split(' ').skip(8).any(|range| {
                    let (first, last) = range.trim().split_once('-').unwrap_or((range.trim(), range.trim()));
                    matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
                })
        };
        self.servers.iter().position(|server| server.is_running() && is_owner(server)).expect("the slot has a master")
    }

    /// Gives slots of one master to another while they are in use.
    pub fn move_slots(&self, from: usize, to: usize, count: usize) {
        let id = |at: usize| self.servers[at].command(&["CLUSTER", "MYID"]).lines().nth(1).unwrap().to_owned();
        let output = Command::new("redis-cli")
            .args(["--cluster", "reshard", &format!("127.0.0.1:{}", self.servers[from].port)])
            .args(["--cluster-from", &id(from), "--cluster-to", &id(to), "--cluster-slots", &count.to_string(), "--cluster-yes"])
            .output()
            .expect("redis-cli");
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
}
