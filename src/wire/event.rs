//! Server events, in MessagePack or JSON, as whole WebSocket frames. Skeleton: signatures are fixed, bodies to come.
use super::Format;
use super::command::{ErrorCode, Id};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// The subscriber was too slow and the channel's policy skipped for it.
    Overrun,
    /// The bus was away; how many messages it would have brought is not known, one number stands for them.
    Outage,
    /// The server could not keep up with the bus.
    Inbox,
    /// Asked for with `since`, but no longer kept.
    Expired,
}
impl GapReason {
    pub const fn name(self) -> &'static str {
        match self {
            GapReason::Overrun => "overrun",
            GapReason::Outage => "outage",
            GapReason::Inbox => "inbox",
            GapReason::Expired => "expired",
        }
    }
}

/// Everything but `notification`, which is written by [`super::payload::encode_notification`].
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Connected { client_id: &'a str, heartbeat_seconds: u64 },
    Subscribed { id: Option<&'a Id>, channel: &'a str, epoch: u64, seq: u64, recovered: bool },
    Unsubscribed { id: Option<&'a Id>, channel: &'a str },
    Published { id: Option<&'a Id>, channel: &'a str, seq: Option<u64> },
    Pong { id: Option<&'a Id> },
    Gap { channel: &'a str, from: u64, to: u64, reason: GapReason },
    Error { id: Option<&'a Id>, code: ErrorCode, message: &'a str },
}

/// Appends the event as one frame: binary for MessagePack, text for JSON, nothing for raw.
/// Field order: `type`, `id` when given, then as declared, then `timestamp` (Unix ms) for connected, subscribed, unsubscribed.
pub fn encode(_event: &Event<'_>, _format: Format, _timestamp_ms: u64, _out: &mut Vec<u8>) {
    todo!()
}
