//! The engine's heart, sans-IO: batches that are encoded once, a log of them per channel and shard, and cursors into it; and messages beside it, that have no number.
#![forbid(unsafe_code)]

pub mod aside;
pub mod batch;
pub mod compressor;
pub mod cursor;
pub mod encoded;
pub mod held;
pub mod log;
pub mod naming;
pub mod paced;
pub mod policy;
pub mod topics;
