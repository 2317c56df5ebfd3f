//! What Redis answers when it is asked where a stream stands, and for its entries.

use redis::{ServerError, Value};

use crate::bus::hub::PageEntry;
use crate::bus::question::Published;
use crate::limits::redis::durable::ENTRY_BYTES;
use crate::wire::event::GapReason;

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub epoch: u64,
    /// The last number that was given.
    pub last: u64,
    /// To a message of that time.
    pub timestamp_ms: Option<u64>,
}

impl Standing {
    /// Of HMGET, or of a function. None: the channel has none yet.
    pub fn read(value: &Value) -> Option<Standing> {
        let Value::Array(fields) = value else { return None };
        let [epoch, last, further @ ..] = fields.as_slice() else { return None };
        let (epoch, last) = (number(epoch)?, number(last)?);
        (epoch > 0).then_some(Standing { epoch, last, timestamp_ms: further.first().and_then(number) })
    }
}

/// What the function of publishing answers: the number of the last message, and whether it was published before.
pub fn published(value: &Value) -> Option<Published> {
    let Value::Array(fields) = value else { return None };
    let [epoch, _, last, is_repeat, ..] = fields.as_slice() else { return None };
    Some(Published { epoch: Some(number(epoch)?), seq: Some(number(last)?), is_repeat: number(is_repeat)? > 0 })
}

/// One message of the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    pub timestamp_ms: u64,
    /// Why there is none.
    pub payload: Result<Box<[u8]>, GapReason>,
}

impl Entry {
    pub fn payload_bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, |payload| payload.len())
    }

    /// As a message that is kept, if it is one.
    pub fn kept(self) -> Option<PageEntry> {
        let Entry { seq, timestamp_ms, payload } = self;
        payload.ok().map(|payload| PageEntry { seq, timestamp_ms, payload })
    }

    pub fn bytes(&self) -> usize {
        ENTRY_BYTES + self.payload_bytes()
    }
}

/// The entries that XRANGE has found. One that is not ours keeps its number.
pub fn entries(value: &Value) -> Vec<Entry> {
    let Value::Array(found) = value else { return Vec::new() };
    found.iter().filter_map(entry).collect()
}

fn entry(value: &Value) -> Option<Entry> {
    let Value::Array(parts) = value else { return None };
    let [Value::BulkString(id), fields] = parts.as_slice() else { return None };
    let (_, seq) = std::str::from_utf8(id).ok()?.split_once('-')?;
    let mut entry = Entry { seq: seq.parse().ok()?, timestamp_ms: 0, payload: Err(GapReason::Dropped) };
    if let Value::Array(fields) = fields {
        for pair in fields.chunks_exact(2) {
            match pair {
                [Value::BulkString(name), Value::BulkString(payload)] if name == b"d" => entry.payload = Ok(payload.as_slice().into()),
                [Value::BulkString(name), time] if name == b"t" => entry.timestamp_ms = number(time).unwrap_or(0),
                _ => {}
            }
        }
    }
    Some(entry)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => (*number).try_into().ok(),
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

/// Whether a server refuses because our functions are not there.
pub fn is_without_library(error: &ServerError) -> bool {
    error.details().is_some_and(|details| details.starts_with("Function not found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_standing_is_read_whoever_tells_it() {
        let standing = |timestamp_ms| Some(Standing { epoch: 1_795_659_799_162, last: 7, timestamp_ms });
        assert_eq!(Standing::read(&value("*2\r\n$13\r\n1795659799162\r\n$1\r\n7\r\n")), standing(None));
        assert_eq!(Standing::read(&value("*3\r\n:1795659799162\r\n:7\r\n:5\r\n")), standing(Some(5)));
        assert_eq!(Standing::read(&value("*3\r\n$13\r\n1795659799162\r\n$1\r\n7\r\n$-1\r\n")), standing(None));
        for none in ["*2\r\n$-1\r\n$-1\r\n", "*0\r\n", "$-1\r\n", "*2\r\n$1\r\nx\r\n:1\r\n", "*2\r\n:0\r\n:1\r\n", ":1\r\n"] {
            assert_eq!(Standing::read(&value(none)), None, "{none}");
        }
    }

    #[test]
    fn entries_keep_their_numbers_whatever_they_hold() {
        let reply = "*4\r\n*2\r\n$3\r\n9-4\r\n*4\r\n$1\r\nd\r\n$2\r\nhi\r\n$1\r\nt\r\n$3\r\n170\r\n\
                     *2\r\n$3\r\n9-5\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n*2\r\n$3\r\n9-6\r\n*-1\r\n:7\r\n";
        let found = entries(&value(reply));
        let seqs: Vec<_> = found.iter().map(|entry| (entry.seq, entry.timestamp_ms, entry.payload.is_ok())).collect();
        assert_eq!(seqs, [(4, 170, true), (5, 0, false), (6, 0, false)]);
        assert_eq!(found[0].payload.as_deref(), Ok(&b"hi"[..]));
        assert!(entries(&value("$-1\r\n")).is_empty());
    }
}
