//! Messages of the size that all our measurements use, in batches.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use campanile::fanout::batch::{Batch, BatchBuilder, Channel};
use campanile::wire::payload::Kind;

pub const PAYLOAD_BYTES: usize = 128;
const TIMESTAMP_MS: u64 = 1_700_000_000_000;

pub fn channel() -> Arc<Channel> {
    Arc::new(Channel { name: "bench".into(), epoch: 1, subscribers: AtomicU32::new(0) })
}

/// 128 bytes of JSON with a number in it.
pub fn json_payload(number: u64) -> Vec<u8> {
    let head = format!(r#"{{"id":{number},"from":"user:123","kind":"comment","unread":7,"ok":true,"text":""#);
    let rest = PAYLOAD_BYTES - head.len() - 2;
    format!("{head}{}\"}}", "x".repeat(rest)).into_bytes()
}

/// `count` messages with the numbers from `first` on, received at `received_ns`.
pub fn batch(channel: &Arc<Channel>, first: u64, count: u64, kind: Kind, payload: &[u8], received_ns: u64) -> Arc<Batch> {
    let mut builder = BatchBuilder::new(channel.clone(), first);
    for _ in 0..count {
        builder.push(kind, payload, received_ns, TIMESTAMP_MS);
    }
    builder.seal()
}
