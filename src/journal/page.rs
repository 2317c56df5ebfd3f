//! What a read brings: some entries of a channel, in the order of their numbers, behind each other in one allocation.

/// Names a read that is answered later.
pub type ReadId = u64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the channel has no durable numbers")]
    Unknown,
    /// What was asked for is of another epoch.
    #[error("the channel's epoch is {epoch}")]
    OtherEpoch { epoch: u64 },
    #[error("too much is being read; try again")]
    Busy,
    /// The message is lost; whoever reads goes on behind it.
    #[error("message {seq} is damaged on disk")]
    Damaged { seq: u64 },
    #[error("message {seq} cannot be read: {error}")]
    Failed { seq: u64, error: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEntry<'a> {
    pub seq: u64,
    pub timestamp_ms: u64,
    pub payload: &'a [u8],
}

/// Consecutive entries, but for numbers that damage or trimming has taken. The next page begins behind the last one's number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    payloads: Vec<u8>,
    entries: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    seq: u64,
    timestamp_ms: u64,
    /// Where its payload ends.
    end: usize,
}

impl Page {
    pub fn push(&mut self, seq: u64, timestamp_ms: u64, payload: &[u8]) {
        self.payloads.extend_from_slice(payload);
        self.entries.push(Slot { seq, timestamp_ms, end: self.payloads.len() });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = PageEntry<'_>> {
        let mut begin = 0;
        self.entries.iter().map(move |slot| {
            let payload = &self.payloads[std::mem::replace(&mut begin, slot.end)..slot.end];
            PageEntry { seq: slot.seq, timestamp_ms: slot.timestamp_ms, payload }
        })
    }
}
