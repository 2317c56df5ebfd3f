//! The last message of a channel that was handed out, as far as it can be told from another under the same number. A failover may take back what was acknowledged
//! and give its numbers again: whatever stands in the stream then under a number that was handed out is compared with this.

use super::reading::Entry;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    pub epoch: u64,
    pub seq: u64,
    timestamp_ms: u64,
    /// None: it was published before anybody here subscribed, so only its time is known.
    sum: Option<u32>,
}

impl Newest {
    pub fn of_message(epoch: u64, seq: u64, timestamp_ms: u64, payload: &[u8]) -> Newest {
        Newest { epoch, seq, timestamp_ms, sum: Some(crc32c::crc32c(payload)) }
    }

    /// As the meta hash has it.
    pub fn of_standing(epoch: u64, seq: u64, timestamp_ms: u64) -> Newest {
        Newest { epoch, seq, timestamp_ms, sum: None }
    }

    /// Whether this stands in the stream under its number. One that cannot be read is not known to be another.
    pub fn is(&self, entry: &Entry) -> bool {
        let is_payload = |payload: &[u8]| self.sum.is_none_or(|sum| sum == crc32c::crc32c(payload));
        entry.seq == self.seq
            && entry.payload.as_ref().map_or(true, |payload| entry.timestamp_ms == self.timestamp_ms && is_payload(payload))
    }

    /// Whether this message has its number and is another one.
    pub fn is_another(&self, epoch: u64, seq: u64, timestamp_ms: u64, payload: &[u8]) -> bool {
        (epoch, seq) == (self.epoch, self.seq)
            && (timestamp_ms != self.timestamp_ms || self.sum.is_some_and(|sum| sum != crc32c::crc32c(payload)))
    }

    /// Whether the last message that the meta hash knows of, which has this one's number, may be this one.
    pub fn is_of_time(&self, timestamp_ms: u64) -> bool {
        self.timestamp_ms == timestamp_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::event::GapReason;

    #[test]
    fn another_message_under_its_number_is_noticed() {
        let newest = Newest::of_message(9, 4, 170, b"hi");
        let entry = |seq, timestamp_ms, payload: &[u8]| Entry { seq, timestamp_ms, payload: Ok(payload.into()) };
        assert!(newest.is(&entry(4, 170, b"hi")));
        for other in [entry(5, 170, b"hi"), entry(4, 171, b"hi"), entry(4, 170, b"ho"), entry(4, 170, b"")] {
            assert!(!newest.is(&other), "{other:?}");
        }
        assert!(newest.is(&Entry { seq: 4, timestamp_ms: 0, payload: Err(GapReason::Dropped) }));
        let unseen = Newest::of_standing(9, 4, 170);
        assert!(unseen.is(&entry(4, 170, b"ho")) && !unseen.is(&entry(4, 171, b"ho")));
        assert!(unseen.is_of_time(170) && !unseen.is_of_time(169));
        assert!(!newest.is_another(9, 4, 170, b"hi") && !newest.is_another(9, 3, 0, b"ho") && !newest.is_another(8, 4, 0, b"ho"));
        assert!(newest.is_another(9, 4, 171, b"hi") && newest.is_another(9, 4, 170, b"ho") && !unseen.is_another(9, 4, 170, b"ho"));
    }
}
