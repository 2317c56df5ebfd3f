//! What Redis answers when it is asked where a stream stands, and for its entries.

use redis::{ServerError, Value};
use smallvec::SmallVec;

use crate::bus::hub::PageEntry;
use crate::bus::question::Published;
use crate::limits::redis::durable::{ENTRY_BYTES, PACKED_BYTES_MAX, PACKED_MAX};
use crate::wire::event::GapReason;

/// The lengths of as many messages as an entry holds, of five digits.
const PACKED_LENGTHS_BYTES: usize = PACKED_MAX * 6;

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

/// The message with this number is in an entry whose id is not above this one: that of the last message in it.
pub fn id_max(seq: u64) -> u64 {
    seq.saturating_add(PACKED_MAX as u64 - 1)
}

/// What an entry takes in a reply, at most.
pub fn entry_bytes_max(payload_bytes_max: usize) -> usize {
    payload_bytes_max.max(PACKED_BYTES_MAX) + PACKED_LENGTHS_BYTES + ENTRY_BYTES
}

/// How many entries XRANGE has found.
pub fn count(value: &Value) -> usize {
    if let Value::Array(found) = value { found.len() } else { 0 }
}

/// The messages in them, in the order of the entries. One that is not ours keeps its number.
pub fn entries(value: &Value) -> Vec<Entry> {
    let Value::Array(found) = value else { return Vec::new() };
    let mut messages = Vec::with_capacity(found.len());
    for entry in found.iter().filter_map(RawEntry::read) {
        entry.messages(&mut messages);
    }
    messages
}

/// The epoch of the first entry that XRANGE has found, and the number of the first message in it.
pub fn first(value: &Value) -> Option<(u64, u64)> {
    let Value::Array(found) = value else { return None };
    let entry = RawEntry::read(found.first()?)?;
    let packed = entry.packed().map_or(1, |(lengths, _)| lengths.len() as u64);
    Some((entry.epoch, entry.seq - (packed - 1)))
}

/// An entry as it is kept: a message (`d`), or the lengths (`l`) and payloads (`p`) of several of one call, of which the last has the entry's number.
#[derive(Debug)]
struct RawEntry<'a> {
    epoch: u64,
    seq: u64,
    timestamp_ms: u64,
    payload: Option<&'a [u8]>,
    lengths: Option<&'a [u8]>,
    payloads: &'a [u8],
}

impl<'a> RawEntry<'a> {
    fn read(value: &'a Value) -> Option<RawEntry<'a>> {
        let Value::Array(parts) = value else { return None };
        let [Value::BulkString(id), fields] = parts.as_slice() else { return None };
        let (epoch, seq) = std::str::from_utf8(id).ok()?.split_once('-')?;
        let (epoch, seq) = (epoch.parse().ok()?, seq.parse().ok()?);
        let mut entry = RawEntry { epoch, seq, timestamp_ms: 0, payload: None, lengths: None, payloads: &[] };
        if let Value::Array(fields) = fields {
            for pair in fields.chunks_exact(2) {
                match pair {
                    [Value::BulkString(name), Value::BulkString(payload)] if name == b"d" => entry.payload = Some(payload),
                    [Value::BulkString(name), Value::BulkString(lengths)] if name == b"l" => entry.lengths = Some(lengths),
                    [Value::BulkString(name), Value::BulkString(payloads)] if name == b"p" => entry.payloads = payloads,
                    [Value::BulkString(name), time] if name == b"t" => entry.timestamp_ms = number(time).unwrap_or(0),
                    _ => {}
                }
            }
        }
        Some(entry)
    }

    /// The lengths of several messages, and their payloads in a row. None: they are not what the function writes.
    fn packed(&self) -> Option<(SmallVec<[usize; PACKED_MAX]>, &'a [u8])> {
        let mut lengths = SmallVec::new();
        let mut rest = self.payloads.len();
        for length in std::str::from_utf8(self.lengths?).ok()?.split(' ') {
            let length: usize = length.parse().ok()?;
            rest = rest.checked_sub(length)?;
            if lengths.len() == PACKED_MAX {
                return None;
            }
            lengths.push(length);
        }
        (rest == 0 && lengths.len() as u64 <= self.seq).then_some((lengths, self.payloads))
    }

    fn messages(&self, into: &mut Vec<Entry>) {
        let &RawEntry { seq, timestamp_ms, .. } = self;
        match (self.payload, self.packed()) {
            (Some(payload), _) => into.push(Entry { seq, timestamp_ms, payload: Ok(payload.into()) }),
            (None, Some((lengths, mut payloads))) => {
                for (number, length) in (seq + 1 - lengths.len() as u64..).zip(lengths) {
                    let (payload, others) = payloads.split_at(length);
                    payloads = others;
                    into.push(Entry { seq: number, timestamp_ms, payload: Ok(payload.into()) });
                }
            }
            (None, None) => into.push(Entry { seq, timestamp_ms, payload: Err(GapReason::Dropped) }),
        }
    }
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

    fn packed(id: &str, lengths: &str, payloads: &str) -> Value {
        let text = |text: &str| Value::BulkString(text.into());
        let fields = ["l", lengths, "p", payloads, "t", "170"].map(text).to_vec();
        Value::Array(vec![Value::Array(vec![text(id), Value::Array(fields)])])
    }

    #[test]
    fn an_entry_of_several_messages_is_read_as_each() {
        let value = packed("9-6", "2 0 3", "hi\nho");
        let message = |seq, payload: &[u8]| Entry { seq, timestamp_ms: 170, payload: Ok(payload.into()) };
        assert_eq!(entries(&value), [message(4, b"hi"), message(5, b""), message(6, b"\nho")]);
        assert_eq!((count(&value), first(&value)), (1, Some((9, 4))));
        let most = packed("9-64", &vec!["0"; PACKED_MAX].join(" "), "");
        assert_eq!((entries(&most).len(), first(&most), id_max(1)), (PACKED_MAX, Some((9, 1)), 64));
    }

    #[test]
    fn an_entry_that_does_not_hold_what_it_says_is_one_that_is_not_ours() {
        let many = vec!["0"; PACKED_MAX + 1].join(" ");
        for (id, lengths, payloads) in [
            ("9-6", "2 3", "hi\nh"),
            ("9-6", "2 3", "hi\nho!"),
            ("9-6", "2 x", "hi"),
            ("9-6", "2  0", "hi"),
            ("9-6", "-2", "hi"),
            ("9-6", "", ""),
            ("9-6", "18446744073709551615 3", "hi"),
            ("9-1", "1 1", "hi"),
            ("9-100", &many, ""),
        ] {
            let value = packed(id, lengths, payloads);
            let found = entries(&value);
            assert_eq!(found.iter().map(|entry| entry.payload.is_ok()).collect::<Vec<_>>(), [false], "{id} {lengths}");
            assert_eq!(first(&value).map(|(_, seq)| seq), Some(found[0].seq), "{id} {lengths}");
        }
    }
}
