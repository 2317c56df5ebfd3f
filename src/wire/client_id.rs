//! What a client is told to be known as (`client_id` of the event `connected`): which process, which of its shards, which connection of that.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId {
    /// Drawn by each process when it starts.
    pub node: u32,
    pub shard: u16,
    /// Its generation, which no other connection of the shard has.
    pub connection: u32,
}

impl fmt::Display for ClientId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:08x}{:04x}{:08x}", self.node, self.shard, self.connection)
    }
}

/// It is not 20 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client id has 20 digits, 0 to 9 and a to f, as the event `connected` tells it")]
pub struct NoClientId;

impl FromStr for ClientId {
    type Err = NoClientId;

    fn from_str(text: &str) -> Result<ClientId, NoClientId> {
        let is_written_so = text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let part = |range| text.get(range).and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or(NoClientId);
        if !is_written_so {
            return Err(NoClientId);
        }
        Ok(ClientId { node: part(0..8)?, shard: part(8..12)? as u16, connection: part(12..20)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        for (node, shard, connection) in [(0, 0, 0), (0xdead_beef, 7, 1), (u32::MAX, u16::MAX, u32::MAX)] {
            let id = ClientId { node, shard, connection };
            assert_eq!(id.to_string().len(), 20);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "0",
            "0000000000000000000",
            "000000000000000000000",
            "0000000000000000000g",
            "DEADBEEF000000000000",
            "+000000000000000000é",
        ] {
            assert_eq!(text.parse::<ClientId>(), Err(NoClientId), "{text}");
        }
    }
}
