//! What the bytes mean. Sans-IO: slices and `now` in, events and bytes out; no socket, no clock, no thread.
#![forbid(unsafe_code)]

pub mod channel_name;
pub mod close;
pub mod command;
pub mod event;
pub mod frame;
pub mod http;
pub mod inbound;
pub mod json;
pub mod malformed;
pub mod msgpack;
pub mod payload;
pub mod transcode;

/// How events are spelled on one connection, and so how a message is encoded for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Format {
    /// MessagePack maps in binary frames.
    Msgpack = 0,
    /// JSON objects in text frames.
    Json = 1,
    /// The payload as published, nothing else: a text frame if it is UTF-8, else binary.
    Raw = 2,
}

impl Format {
    pub const COUNT: usize = 3;
    pub const ALL: [Format; Format::COUNT] = [Format::Msgpack, Format::Json, Format::Raw];

    pub const fn name(self) -> &'static str {
        match self {
            Format::Msgpack => "msgpack",
            Format::Json => "json",
            Format::Raw => "raw",
        }
    }

    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }
}
