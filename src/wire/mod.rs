//! What the bytes mean. Sans-IO: slices and `now` in, events and bytes out; no socket, no clock, no thread.
#![forbid(unsafe_code)]

pub mod channel_name;
pub mod client_id;
pub mod close;
pub mod command;
pub mod event;
pub mod event_stream;
pub mod frame;
pub mod framing;
pub mod history;
pub mod http;
pub mod inbound;
pub mod json;
pub mod malformed;
pub mod msgpack;
pub mod payload;
pub mod peer;
pub mod poll;
pub mod proxy;
pub mod spelled;
pub mod transcode;
pub mod wish;

use crate::named::named;

named! {
    /// How events are spelled on one connection, and so how a message is encoded for it.
    Format {
        /// MessagePack maps in binary frames.
        Msgpack = "msgpack",
        /// JSON objects in text frames.
        Json = "json",
        /// The payload as published, nothing else: a text frame if it is UTF-8, else binary.
        Raw = "raw",
    }
}
