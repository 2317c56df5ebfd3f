//! Several `redis-server`s of the run's own that stand in for each other: a master and a replica with Sentinels, or a Cluster. A master is killed again and
//! again; another one takes its place, and the killed one comes back as its replica.
//!
//! Invariant: before a master is killed, its replica has all that the master had a moment before. So what was acknowledged outlives it, if the publisher
//! waits for replicas while there are any ([`crate::publish::replicated`]).

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::children::Redis;
use super::publish::replicated::{SERVICE, Seeds};
use super::stop;
use super::target::OwnRedis;

const LOOK: Duration = Duration::from_millis(20);
/// Failovers that take longer have failed.
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Topology {
    servers: Vec<Redis>,
    /// None: the servers are a Cluster.
    sentinels: Vec<Redis>,
    /// The server that was killed last.
    last: usize,
    /// It is away, so that its heir has no replica. Else a master without one is about to be replaced, or cut off.
    pub is_short: Arc<AtomicBool>,
}

impl Topology {
    /// None: what is asked for is one server.
    pub fn start(what: OwnRedis) -> Result<Option<Topology>> {
        match what {
            OwnRedis::One | OwnRedis::Kept => Ok(None),
            OwnRedis::Watched => Topology::watched().map(Some),
            OwnRedis::Cluster => Topology::cluster().map(Some),
        }
    }

    fn watched() -> Result<Topology> {
        let master = Redis::replicated(&[])?;
        let of = master.port();
        let replica = Redis::replicated(&["--replicaof", "127.0.0.1", &of.to_string()])?;
        let sentinels = (0..3).map(|_| Redis::sentinel(SERVICE, of)).collect::<Result<Vec<_>>>()?;
        let topology = Topology { servers: vec![master, replica], sentinels, last: 1, is_short: Arc::default() };
        topology.until_whole()?;
        Ok(topology)
    }

    fn cluster() -> Result<Topology> {
        let servers = (0..6).map(|_| Redis::of_cluster()).collect::<Result<Vec<_>>>()?;
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]).args(servers.iter().map(|server| format!("127.0.0.1:{}", server.port())));
        command.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = command.output().context("redis-cli cannot be started: is the package redis-tools installed?")?;
        let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "redis-cli makes no Cluster: {}", said());
        let last = servers.len() - 1;
        let topology = Topology { servers, sentinels: Vec::new(), last, is_short: Arc::default() };
        topology.until_whole()?;
        Ok(topology)
    }

    /// As the server is told it.
    pub fn url(&self) -> String {
        let places = |servers: &[Redis]| servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect::<Vec<_>>().join(",");
        match &self.sentinels[..] {
            [] => format!("redis+cluster://{}", places(&self.servers)),
            sentinels => format!("redis+sentinel://{}/{SERVICE}", places(sentinels)),
        }
    }

    /// As whoever publishes is told it.
    pub fn seeds(&self) -> Seeds {
        let ports = |servers: &[Redis]| servers.iter().map(Redis::port).collect();
        match &self.sentinels[..] {
            [] => Seeds::Cluster(ports(&self.servers)),
            sentinels => Seeds::Sentinels(ports(sentinels)),
        }
    }

    /// Whoever is subscribed is so no more, at every server.
    pub fn cut_subscriptions(&self) -> Result<()> {
        self.servers.iter().try_for_each(|server| server.query(&["CLIENT", "KILL", "TYPE", "pubsub"]).map(drop))
    }

    /// SIGKILL for a master, the next one in turn. When its replica has its place, it starts again, and is the replica.
    pub fn replace_master(&mut self) -> Result<()> {
        self.until_whole()?;
        let count = self.servers.len();
        let in_turn = (1..=count).map(|step| (self.last + step) % count);
        let killed = in_turn.into_iter().find(|at| self.servers[*at].is_master()).context("no server is a master")?;
        let id = self.servers[killed].replica()?;
        let heir = self.servers.iter().position(|server| server.port() == id).context("its replica is none of the servers")?;
        self.servers[killed].until_replicated()?;
        self.servers[killed].kill();
        self.last = killed;
        self.is_short.store(true, Relaxed);
        until("a replica takes the place of its master", || self.servers[heir].is_master() && self.is_followed(heir))?;
        self.is_short.store(false, Relaxed);
        if self.sentinels.is_empty() {
            self.servers[killed].restart()?;
        } else {
            let master = self.servers[heir].port();
            self.servers[killed].restart_as_replica_of(master)?;
        }
        self.until_whole()
    }

    /// Whoever asks is told of the new master.
    fn is_followed(&self, master: usize) -> bool {
        match &self.sentinels[..] {
            [] => self
                .servers
                .iter()
                .filter(|server| server.is_running())
                .all(|server| server.ask("CLUSTER", "INFO").contains("cluster_state:ok")),
            _ => self.seeds().masters().is_ok_and(|masters| masters.iter().any(|found| found.port == self.servers[master].port())),
        }
    }

    /// Every master has its replica, and everybody who decides knows of it: else the next failover would not be one.
    fn until_whole(&self) -> Result<()> {
        let is_whole = |server: &Redis| {
            let info = server.ask("INFO", "replication");
            if info.contains("role:master") { info.contains("state=online") } else { info.contains("master_link_status:up") }
        };
        let knows = |sentinel: &Redis| {
            let found = sentinel
                .query(&["SENTINEL", "REPLICAS", SERVICE])
                .and_then(|answer| Ok(redis::from_redis_value::<Vec<Vec<String>>>(answer)?));
            let value = |replica: &[String], name: &str| replica.iter().skip_while(|word| *word != name).nth(1).cloned();
            let is_fit = |replica: &Vec<String>| {
                value(replica, "flags").as_deref() == Some("slave") && value(replica, "master-link-status").as_deref() == Some("ok")
            };
            found.is_ok_and(|replicas| replicas.len() == 1 && replicas.iter().all(is_fit))
                && sentinel.ask("INFO", "sentinel").contains("sentinels=3")
        };
        let agrees = |server: &Redis| {
            let (info, nodes) = (server.ask("CLUSTER", "INFO"), server.ask("CLUSTER", "NODES"));
            info.contains("cluster_state:ok") && nodes.matches("connected").count() == self.servers.len() && !nodes.contains("fail")
        };
        until("every master has a replica again, and all agree on it", || {
            let is_known = if self.sentinels.is_empty() { self.servers.iter().all(agrees) } else { self.sentinels.iter().all(knows) };
            is_known && self.servers.iter().all(is_whole)
        })
    }
}

impl Redis {
    fn query(&self, words: &[&str]) -> Result<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_connection_with_timeout(ANSWER)?;
        connection.set_read_timeout(Some(ANSWER))?;
        Ok(redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)?)
    }

    /// Nothing, if it does not answer.
    fn ask(&self, command: &str, about: &str) -> String {
        self.query(&[command, about]).ok().and_then(|answer| redis::from_redis_value(answer).ok()).unwrap_or_default()
    }

    fn is_master(&self) -> bool {
        self.ask("INFO", "replication").contains("role:master")
    }

    /// The port of its replica.
    fn replica(&self) -> Result<u16> {
        let info = self.ask("INFO", "replication");
        let port = info.split_once("slave0:").and_then(|(_, rest)| rest.split_once("port=")?.1.split(',').next()?.parse().ok());
        port.with_context(|| format!("a master has no replica: {info}"))
    }

    /// Its replica has what it has now.
    fn until_replicated(&self) -> Result<()> {
        let number = |info: &str, name: &str| {
            let digits: String = info.split_once(name)?.1.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        };
        let written = number(&self.ask("INFO", "replication"), "master_repl_offset:").context("a master says how much was written")?;
        until("a replica has what its master has", || {
            let info = self.ask("INFO", "replication");
            info.contains("state=online") && number(&info, ",offset=").is_some_and(|has| has >= written)
        })
    }
}

/// Asks again until it holds: there is no event to wait for.
fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !holds() {
        if begin.elapsed() > PATIENCE || stop::is_asked() {
            bail!("not within {} s: {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
