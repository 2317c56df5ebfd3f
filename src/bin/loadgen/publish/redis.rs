//! Through Redis, as any Redis client would: PUBLISH, pipelined.

use std::time::Duration;

use anyhow::Context;
use redis::{Connection, ConnectionLike};

use super::{Message, Route};
use crate::target::Channels;

const TIMEOUT: Duration = Duration::from_secs(5);

pub struct RedisRoute {
    url: String,
    prefix: String,
    channels: Channels,
    connection: Connection,
    packed: Vec<u8>,
}

impl RedisRoute {
    /// `prefix` stands before the channel's name in Redis.
    pub fn connect(url: &str, prefix: &str, channels: Channels) -> anyhow::Result<RedisRoute> {
        let connection = open(url)?;
        Ok(RedisRoute { url: url.to_owned(), prefix: prefix.to_owned(), channels, connection, packed: Vec::new() })
    }

    /// Whether somebody is subscribed to the channel in Redis, by its name.
    pub fn is_heard(&mut self, channel: u32) -> anyhow::Result<bool> {
        let name = format!("{}{}", self.prefix, self.channels.name(channel));
        let (_, subscribers): (String, u64) = redis::cmd("PUBSUB").arg("NUMSUB").arg(name).query(&mut self.connection)?;
        let patterns: u64 = redis::cmd("PUBSUB").arg("NUMPAT").query(&mut self.connection)?;
        Ok(subscribers + patterns > 0)
    }
}

impl Route for RedisRoute {
    fn publish(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        self.packed.clear();
        for message in messages {
            let name = format!("{}{}", self.prefix, self.channels.name(message.channel));
            redis::cmd("PUBLISH").arg(name).arg(&message.payload[..]).write_packed_command(&mut self.packed);
        }
        let answers = self.connection.req_packed_commands(&self.packed, 0, messages.len()).context("Redis broke off")?;
        for answer in answers {
            answer.extract_error().context("Redis did not take a message")?;
        }
        Ok(())
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        self.connection = open(&self.url)?;
        Ok(())
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
