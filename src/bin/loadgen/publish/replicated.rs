//! To durable channels through whichever servers are their masters now. A message counts as taken when a replica has it too, so that the master may be killed;
//! while its replica is known to be away, when the master has it. A master that lost its replica otherwise may be none any more, and not know it yet.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use campanile::bus::redis::keys;
use redis::{Connection, ConnectionLike, Value};

use super::redis::{Call, Way};
use super::{Message, Route};
use crate::target::Channels;

/// What the Sentinels call their master.
pub const SERVICE: &str = "loadgen";
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a replica may take until it has a batch. After it the batch is sent again.
const WAIT_MS: &str = "1000";

/// Who is asked for the masters; all on this host, by their ports.
#[derive(Debug, Clone)]
pub enum Seeds {
    Sentinels(Vec<u16>),
    Cluster(Vec<u16>),
}

/// A master, and which slots it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    pub port: u16,
    slots: RangeInclusive<u16>,
}

impl Seeds {
    /// As the first one says that answers.
    pub fn masters(&self) -> Result<Vec<Master>> {
        let (Seeds::Sentinels(ports) | Seeds::Cluster(ports)) = self;
        let mut connections = ports.iter().filter_map(|port| open(*port).ok());
        let mut connection = connections.next().context("nobody who knows the masters can be reached")?;
        match self {
            Seeds::Sentinels(_) => {
                let (_, port): (String, String) =
                    redis::cmd("SENTINEL").arg(&["GET-MASTER-ADDR-BY-NAME", SERVICE]).query(&mut connection)?;
                Ok(vec![Master { port: port.parse()?, slots: 0..=keys::SLOTS - 1 }])
            }
            Seeds::Cluster(_) => {
                let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query(&mut connection)?;
                ranges.into_iter().map(master_of_range).collect()
            }
        }
    }
}

/// First and last slot, the master, its replicas.
fn master_of_range(range: Vec<Value>) -> Result<Master> {
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &range[..] else { bail!("no range of slots: {range:?}") };
    let Some(Value::Int(port)) = master.get(1) else { bail!("no port: {master:?}") };
    Ok(Master { port: u16::try_from(*port)?, slots: u16::try_from(*first)?..=u16::try_from(*last)? })
}

pub struct ReplicatedRoute {
    seeds: Seeds,
    /// Of [`crate::topology::Topology`].
    is_short: Arc<AtomicBool>,
    call: Call,
    /// Of each channel its slot.
    slots: Vec<u16>,
    masters: Vec<(Master, Connection)>,
}

impl ReplicatedRoute {
    pub fn connect(seeds: Seeds, is_short: Arc<AtomicBool>, prefix: &str, channels: Channels) -> Result<ReplicatedRoute> {
        let slots = (0..channels.count).map(|channel| keys::slot(keys::stream(prefix, &channels.name(channel)).as_bytes())).collect();
        let call = Call { way: Way::Durable { is_once: true }, prefix: prefix.to_owned(), channels };
        let mut route = ReplicatedRoute { seeds, is_short, call, slots, masters: Vec::new() };
        route.restore()?;
        Ok(route)
    }
}

impl Route for ReplicatedRoute {
    fn publish(&mut self, messages: &[Message]) -> Result<()> {
        // A call for each channel: what a master takes of a batch has the order that it was sent in, even if it refused the begin of it.
        let mut sorted: Vec<&Message> = messages.iter().collect();
        sorted.sort_by_key(|message| message.channel);
        for (master, connection) in &mut self.masters {
            let slots = &self.slots;
            let calls = sorted.chunk_by(|one, next| one.channel == next.channel);
            let own: Vec<&[&Message]> = calls.filter(|call| master.slots.contains(&slots[call[0].channel as usize])).collect();
            if own.is_empty() {
                continue;
            }
            publish_to(connection, &self.call, &own, &self.is_short).with_context(|| format!("the master on port {}", master.port))?;
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        self.masters.clear();
        for master in self.seeds.masters()? {
            let mut connection = open(master.port)?;
            let info: String = redis::cmd("INFO").query(&mut connection)?;
            ensure!(info.contains("role:master"), "{} is no master", master.port);
            ensure!(has_replica(&info) || self.is_short.load(Relaxed), "{} has no replica", master.port);
            if info.contains("cluster_enabled:1") {
                let state: String = redis::cmd("CLUSTER").arg("INFO").query(&mut connection)?;
                ensure!(state.contains("cluster_state:ok"), "the Cluster is down");
            }
            self.masters.push((master, connection));
        }
        let has_master = |slot: &u16| self.masters.iter().any(|(master, _)| master.slots.contains(slot));
        ensure!(self.slots.iter().all(has_master), "a slot has no master");
        Ok(())
    }

    fn is_repeatable(&self) -> bool {
        true
    }
}

/// A call for each channel, and the answer when a replica has all of it, if there is one.
fn publish_to(connection: &mut Connection, call: &Call, of_channels: &[&[&Message]], is_short: &AtomicBool) -> Result<()> {
    let mut packed = Vec::new();
    for messages in of_channels {
        call.pack(messages, &mut packed);
    }
    // WAIT is about what this connection has written, which is nothing where all was there before.
    let first = of_channels[0][0].channel;
    redis::cmd("SET").arg(call.own_key(first)).arg("").write_packed_command(&mut packed);
    redis::cmd("INFO").arg("replication").write_packed_command(&mut packed);
    let answers = connection.req_packed_commands(&packed, 0, of_channels.len() + 2)?;
    let mut info = None;
    for answer in answers {
        info = Some(answer.extract_error()?);
    }
    let info: String = redis::from_redis_value(info.context("an answer")?)?;
    if !has_replica(&info) {
        ensure!(is_short.load(Relaxed), "it has lost its replica");
        return Ok(());
    }
    let replicas: u32 = redis::cmd("WAIT").arg(&["1", WAIT_MS]).query(connection)?;
    ensure!(replicas > 0, "no replica has it");
    Ok(())
}

fn has_replica(info: &str) -> bool {
    info.contains("state=online")
}

fn open(port: u16) -> Result<Connection> {
    let connection = redis::Client::open(format!("redis://127.0.0.1:{port}"))?.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    Ok(connection)
}
