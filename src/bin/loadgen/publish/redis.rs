//! Through Redis, as any Redis client would: PUBLISH, or the function of durable channels, pipelined.

use std::borrow::Borrow;
use std::time::Duration;

use anyhow::Context;
use campanile::bus::redis::keys;
use redis::{Connection, ConnectionLike};

use super::{Message, Route};
use crate::target::Channels;

const TIMEOUT: Duration = Duration::from_secs(5);
/// What streams of durable channels keep; the server's rule says the same.
pub const KEPT_MESSAGES: u32 = 20_000;
pub const KEPT_MS: u32 = 3_600_000;
/// A message that is sent again is known again for so long.
const ONCE_MS: u32 = 600_000;

/// How a message is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Plain,
    /// By the function. `is_once`: with a key of its own, so that it may be sent again when no answer came.
    Durable {
        is_once: bool,
    },
}

/// How messages are written for Redis.
pub struct Call {
    pub way: Way,
    /// What stands before the channel's name in Redis.
    pub prefix: String,
    pub channels: Channels,
}

impl Call {
    /// All of one channel, in one call where that can be.
    pub fn pack<M: Borrow<Message>>(&self, messages: &[M], packed: &mut Vec<u8>) {
        let Some(first) = messages.first().map(M::borrow) else { return };
        let name = self.channels.name(first.channel);
        let redis_channel = format!("{}{name}", self.prefix);
        let mut command = match self.way {
            Way::Plain => redis::cmd("PUBLISH"),
            Way::Durable { is_once } => {
                let mut command = redis::cmd("FCALL");
                command.arg("campanile_publish_1").arg(if is_once { 3 } else { 2 });
                command.arg(keys::stream(&self.prefix, &name)).arg(keys::meta(&self.prefix, &name));
                if is_once {
                    // Of this process: the Redis may have seen others.
                    let key = format!("loadgen-{}-{}", std::process::id(), first.seq);
                    command.arg(keys::once(&self.prefix, &name, &key));
                }
                command.arg("PUBLISH");
                command
            }
        };
        command.arg(redis_channel);
        if let Way::Durable { is_once } = self.way {
            command.arg(KEPT_MESSAGES).arg(KEPT_MS).arg(if is_once { ONCE_MS } else { 0 });
        }
        for message in messages {
            command.arg(&message.borrow().payload[..]);
        }
        command.write_packed_command(packed);
    }

    /// A key of the load generator's own, beside those of the channel.
    pub fn own_key(&self, channel: u32) -> String {
        format!("{}:loadgen", keys::sharded_channel(&self.prefix, &self.channels.name(channel)))
    }
}

pub struct RedisRoute {
    call: Call,
    url: String,
    connection: Connection,
    packed: Vec<u8>,
}

impl RedisRoute {
    /// `prefix` stands before the channel's name in Redis.
    pub fn connect(url: &str, way: Way, prefix: &str, channels: Channels) -> anyhow::Result<RedisRoute> {
        let connection = open(url)?;
        let call = Call { way, prefix: prefix.to_owned(), channels };
        Ok(RedisRoute { call, url: url.to_owned(), connection, packed: Vec::new() })
    }

    /// Whether somebody is subscribed to the channel in Redis, by its name.
    pub fn is_heard(&mut self, channel: u32) -> anyhow::Result<bool> {
        let name = format!("{}{}", self.call.prefix, self.call.channels.name(channel));
        let (_, subscribers): (String, u64) = redis::cmd("PUBSUB").arg("NUMSUB").arg(name).query(&mut self.connection)?;
        let patterns: u64 = redis::cmd("PUBSUB").arg("NUMPAT").query(&mut self.connection)?;
        Ok(subscribers + patterns > 0)
    }

    /// Cuts all subscriptions and publishes, as one step, with a call for each channel: its messages follow each other.
    pub fn publish_unheard(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        self.packed.clear();
        redis::cmd("MULTI").write_packed_command(&mut self.packed);
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).write_packed_command(&mut self.packed);
        let calls = messages.chunk_by(|one, next| one.channel == next.channel);
        let count = calls.map(|of_channel| self.call.pack(of_channel, &mut self.packed)).count();
        redis::cmd("EXEC").write_packed_command(&mut self.packed);
        let answers = self.connection.req_packed_commands(&self.packed, 0, count + 3).context("Redis broke off")?;
        for answer in answers {
            answer.extract_error().context("Redis did not take a message")?;
        }
        Ok(())
    }
}

impl Route for RedisRoute {
    fn publish(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        self.packed.clear();
        messages.chunks(1).for_each(|message| self.call.pack(message, &mut self.packed));
        let answers = self.connection.req_packed_commands(&self.packed, 0, messages.len()).context("Redis broke off")?;
        for answer in answers {
            answer.extract_error().context("Redis did not take a message")?;
        }
        Ok(())
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        self.connection = open(&self.url)?;
        // It may still load what it has kept.
        redis::cmd("PING").exec(&mut self.connection)?;
        Ok(())
    }

    fn is_repeatable(&self) -> bool {
        self.call.way == Way::Durable { is_once: true }
    }
}

/// Whether it is there, before anything is started that needs it.
pub fn probe(url: &str) -> anyhow::Result<()> {
    open(url).map(drop)
}

fn open(url: &str) -> anyhow::Result<Connection> {
    if url.starts_with("rediss://") {
        // An error says that the program has one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let shown = campanile::config::mask::url(url);
    let connection = redis::Client::open(url)
        .and_then(|client| client.get_connection_with_timeout(TIMEOUT))
        .with_context(|| format!("Redis cannot be reached at {shown}: is it running, is the URL right?"))?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    Ok(connection)
}
