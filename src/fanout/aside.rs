//! A message that has no number: one that was published to a durable channel past its stream. It has no place in a log, whose entries are found by their
//! numbers; it goes to whoever is subscribed when it comes, beside the log.
//!
//! Made by the bus thread, read by the shards. Immutable, shared, and encoded once per encoding, like a [`super::batch::Batch`].

use std::sync::Arc;

use smallvec::SmallVec;

use super::batch::Channel;
use super::encoded::{Encoded, Frames};
use crate::limits::heap_bytes;
use crate::wire::framing::Encoding;
use crate::wire::payload::{Kind, encode_unnumbered, notification_bytes_guess};

#[derive(Debug)]
pub struct Aside {
    channel: Arc<Channel>,
    kind: Kind,
    payload: Box<[u8]>,
    timestamp_ms: u64,
    encoded: Encoded,
}

impl Aside {
    pub fn new(channel: Arc<Channel>, kind: Kind, payload: &[u8], timestamp_ms: u64) -> Arc<Aside> {
        Arc::new(Aside { channel, kind, payload: payload.into(), timestamp_ms, encoded: Encoded::default() })
    }

    /// What it takes of the heap before anything is encoded.
    pub fn bytes(&self) -> usize {
        heap_bytes(16 + size_of::<Aside>()) + heap_bytes(self.payload.len())
    }

    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Its frame in one encoding, made by whoever asks first. It is not compressed.
    pub fn frame(&self, encoding: Encoding) -> &[u8] {
        let encoding = encoding.plain();
        let frames = self.encoded.get(encoding).unwrap_or_else(|| self.encoded.keep(encoding, self.encode(encoding)).0);
        &frames.bytes
    }

    fn encode(&self, encoding: Encoding) -> Frames {
        let name = &*self.channel.name;
        let mut out = Vec::with_capacity(notification_bytes_guess(encoding.format, name, self.payload.len()));
        encode_unnumbered(&mut out, encoding, name, self.timestamp_ms, self.kind, &self.payload);
        Frames { ends: SmallVec::from_slice(&[out.len() as u32]), bytes: out.into_boxed_slice() }
    }
}
