//! Every bound that is not a setting, named, unit last. What an operator may change stands in [`crate::config`].

/// Longest channel name in bytes, as clients write it (without the Redis prefix).
pub const CHANNEL_NAME_BYTES_MAX: usize = 255;
/// Longest `id` string a client may put on a command.
pub const COMMAND_ID_BYTES_MAX: usize = 64;
/// Deepest nesting accepted in a MessagePack or JSON value.
pub const VALUE_DEPTH_MAX: usize = 64;
/// Longest request head on the public port; more is answered 431.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most header fields in a request head; more is answered 431.
pub const HEAD_FIELDS_MAX: usize = 64;
/// Most `?channel=` parameters on one upgrade request.
pub const QUERY_CHANNELS_MAX: usize = 128;
/// Longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// Largest message on the diagnostic `/echo` path.
pub const ECHO_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A batch is sealed when its payloads reach this many bytes; a single larger message gets a batch of its own.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Bytes asked of one read from a socket; one scratch buffer of this size per thread.
pub const READ_BYTES: usize = 256 * 1024;

const _: () = assert!(HEAD_BYTES_MAX <= READ_BYTES);
const _: () = assert!(CHANNEL_NAME_BYTES_MAX < HEAD_BYTES_MAX);
