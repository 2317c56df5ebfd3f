//! How the counters of shards and of the bus are called on `/metrics`, and what is said of them.

use crate::metrics::{BusMetrics, Counter, ShardMetrics};

/// Name, HELP text with the unit at its end, where the number is.
pub(super) type Named<T> = (&'static str, &'static str, fn(&T) -> &Counter);

pub(super) const SHARD_GAUGES: &[Named<ShardMetrics>] = &[
    ("campanile_connections", "Open WebSocket connections now. Unit: connections.", |m| &m.connections),
    ("ws_connections_total", "Alias of campanile_connections (a gauge, whatever its name says). Unit: connections.", |m| &m.connections),
    ("campanile_stage", "How far the shard has come: 0 serves, 1 drains, 2 stops. Unit: none.", |m| &m.stage),
    ("campanile_sockets", "Accepted sockets now, in whatever phase. Unit: sockets.", |m| &m.sockets),
    ("campanile_subscriptions", "Subscriptions now. Unit: subscriptions.", |m| &m.subscriptions),
    ("campanile_channels", "Channels with a subscriber on the shard now. Unit: channels.", |m| &m.channels),
    (
        "campanile_lagging_subscriptions",
        "Subscriptions behind their channel's head and blocked on their socket now. Unit: subscriptions.",
        |m| &m.lagging,
    ),
    ("campanile_inbox_depth", "Entries waiting in the shard's inbox at the start of its last turn. Unit: entries.", |m| &m.inbox_depth),
    ("campanile_inbox_bytes", "Messages waiting in the shard's inbox at the end of its last turn. Unit: bytes.", |m| &m.inbox_bytes),
    ("campanile_tls_sessions", "TLS sessions now. Unit: sessions.", |m| &m.tls_sessions),
    ("campanile_tls_handshakes_under_way", "TLS handshakes begun and not ended now. Unit: handshakes.", |m| &m.tls_under_way),
    ("campanile_log_bytes", "Memory held by channel logs now. Unit: bytes.", |m| &m.log_bytes),
    ("campanile_buffer_bytes", "Memory held by split frames and unsent control frames now. Unit: bytes.", |m| &m.buffer_bytes),
];

pub(super) const SHARD_COUNTERS: &[Named<ShardMetrics>] = &[
    ("campanile_connections_accepted", "Sockets accepted. Unit: sockets.", |m| &m.accepted),
    ("campanile_accept_errors", "Times accept failed for want of descriptors or kernel memory. Unit: failures.", |m| &m.accept_errors),
    ("ws_messages_sent", "Alias of campanile_messages_sent_total. Unit: messages.", |m| &m.messages_sent),
    ("campanile_messages_sent", "Messages whose last byte the kernel accepted, per subscriber. Unit: messages.", |m| &m.messages_sent),
    ("campanile_sent_bytes", "Bytes the kernel accepted. Unit: bytes.", |m| &m.bytes_sent),
    ("campanile_messages_received", "Messages received from clients. Unit: messages.", |m| &m.messages_received),
    ("campanile_received_bytes", "Bytes received from clients. Unit: bytes.", |m| &m.bytes_received),
    ("campanile_commands", "Commands received from clients. Unit: commands.", |m| &m.commands),
    (
        "campanile_not_allowed",
        "Subscribes and publishes refused by a channel's rule, and subscriptions ended by one after a refresh or a reload. Unit: commands.",
        |m| &m.not_allowed,
    ),
    ("campanile_token_signatures", "Tokens whose signature was checked. Unit: tokens.", |m| &m.signatures),
    ("campanile_tokens_known", "Tokens taken because they had been verified before. Unit: tokens.", |m| &m.tokens_known),
    ("campanile_event_streams", "Event streams that were begun. Unit: requests.", |m| &m.event_streams),
    ("campanile_polls", "Polls that were let in. Unit: requests.", |m| &m.polls),
    ("campanile_commands_limited", "Commands refused because the connection sends too many a second. Unit: commands.", |m| {
        &m.commands_limited
    }),
    ("campanile_channels_limited", "Subscribes refused because the connection has channels made too fast. Unit: commands.", |m| {
        &m.channels_limited
    }),
    (
        "campanile_channels_refused",
        "Subscribes refused because the host or the address has as many channels as may be. Unit: commands.",
        |m| &m.channels_refused,
    ),
    ("campanile_writes", "Write system calls. Unit: calls.", |m| &m.writes),
    ("campanile_writes_blocked", "Writes that the kernel took only in part or not at all. Unit: calls.", |m| &m.writes_blocked),
    (
        "campanile_flush_looks",
        "Subscriptions that visits of connections looked at: what flushing costs besides its writes. Unit: subscriptions.",
        |m| &m.looks,
    ),
    ("campanile_pings_sent", "Heartbeat pings sent. Unit: frames.", |m| &m.pings_sent),
    ("campanile_messages_skipped", "Messages that subscribers were not sent and that a gap announced. Unit: messages.", |m| {
        &m.messages_skipped
    }),
    (
        "campanile_messages_paced",
        "Messages that subscriptions were not sent because they want no more than so many a second. Unit: messages.",
        |m| &m.messages_paced,
    ),
    (
        "campanile_messages_over_budget",
        "Messages that subscribers were not sent because their channel has more to deliver than its budget. Unit: messages.",
        |m| &m.messages_over_budget,
    ),
    ("campanile_inbox_lost", "Messages lost because the shard's inbox was full, announced by a gap. Unit: messages.", |m| &m.inbox_lost),
    (
        "campanile_messages_replayed",
        "Messages sent to clients that resumed beyond the log, read from where they are kept. Unit: messages.",
        |m| &m.messages_replayed,
    ),
    ("campanile_messages_recalled", "Messages sent to clients that asked for a channel's history. Unit: messages.", |m| {
        &m.messages_recalled
    }),
    ("campanile_unnumbered_sent", "Messages without a number that were sent, per subscriber. Unit: messages.", |m| &m.unnumbered_sent),
    (
        "campanile_unnumbered_skipped",
        "Messages without a number that subscriptions were not sent: their sockets took nothing, or they have a max_rate. Unit: messages.",
        |m| &m.unnumbered_skipped,
    ),
    (
        "campanile_unnumbered_dropped",
        "Messages without a number that a shard sent to nobody, as too many were under way. Unit: messages.",
        |m| &m.unnumbered_dropped,
    ),
    (
        "campanile_deflate_agreed",
        "Connections with which it was agreed to compress messages (permessage-deflate). Unit: connections.",
        |m| &m.deflate_agreed,
    ),
    ("campanile_deflate_excluded", "Connections that offered to and are excluded by their User-Agent. Unit: connections.", |m| {
        &m.deflate_excluded
    }),
    ("campanile_messages_deflated", "Messages that were sent compressed, per subscriber. Unit: messages.", |m| &m.messages_deflated),
    ("campanile_deflate_messages", "Messages compressed, once for all who are sent them. Unit: messages.", |m| &m.deflate_messages),
    ("campanile_deflate_before_bytes", "What these messages had before. Unit: bytes.", |m| &m.deflate_bytes_before),
    ("campanile_deflate_after_bytes", "What these messages have, compressed. Unit: bytes.", |m| &m.deflate_bytes_after),
    ("campanile_deflate_in_vain", "Messages that compressing made no shorter, and that are sent plain. Unit: messages.", |m| {
        &m.deflate_in_vain
    }),
    ("campanile_messages_inflated", "Compressed messages received from clients. Unit: messages.", |m| &m.messages_inflated),
    ("campanile_inflate_before_bytes", "What clients sent compressed, as it came. Unit: bytes.", |m| &m.inflated_bytes_before),
    ("campanile_inflate_after_bytes", "What clients sent compressed, once inflated. Unit: bytes.", |m| &m.inflated_bytes_after),
    ("campanile_marks_told", "Marks of users that their other connections here were told. Unit: events.", |m| &m.marks_told),
    ("campanile_presence_answered", "Clients told how many subscribers a channel has (presence). Unit: answers.", |m| &m.presence_answered),
    ("campanile_loop_turns", "Turns of the shard's loop. Unit: turns.", |m| &m.turns),
];

pub(super) const BUS_COUNTERS: &[Named<BusMetrics>] = &[
    ("campanile_bus_messages", "Messages received from the bus (Redis, or the embedded one). Unit: messages.", |m| &m.messages),
    ("campanile_bus_received_bytes", "Payload bytes received from the bus. Unit: bytes.", |m| &m.bytes),
    ("campanile_bus_failovers", "Masters that took the place of another, as Sentinels or a Cluster say. Unit: masters.", |m| &m.failovers),
    (
        "campanile_bus_redirected",
        "Publishes that a node of a Cluster did not execute, because their slot was another's or was moving; they are sent again. Unit: messages.",
        |m| &m.redirected,
    ),
    (
        "campanile_bus_misplaced",
        "Messages dropped because they came by a Redis that, of several, does not have their channel. Unit: messages.",
        |m| &m.misplaced,
    ),
    ("campanile_bus_unwanted", "Messages received for channels that nobody here listens to. Unit: messages.", |m| &m.unwanted),
    ("campanile_bus_dropped", "Messages dropped: wrong payload kind, too large, or no valid channel name. Unit: messages.", |m| &m.dropped),
    ("campanile_bus_mismatched", "Payloads not of the kind set for their channel, passed on as opaque. Unit: messages.", |m| &m.mismatched),
    ("campanile_bus_routed", "Messages that routes put into channels served here, one for each channel. Unit: messages.", |m| &m.routed),
    ("campanile_bus_repairs", "Times that numbers of a durable channel were missing and were read from its stream. Unit: times.", |m| {
        &m.repairs
    }),
    ("campanile_bus_repaired", "Messages of durable channels that were read from their streams. Unit: messages.", |m| &m.repaired),
    (
        "campanile_bus_repairs_overflowed",
        "Times that more came during a repair than could be held, so that it was read from the stream once more. Unit: times.",
        |m| &m.repairs_overflowed,
    ),
    (
        "campanile_bus_probes_good",
        "Messages published to a channel of the node's own that came back, every 5 s where there are durable channels. Unit: messages.",
        |m| &m.probes_good,
    ),
    (
        "campanile_bus_probes_lost",
        "Those that Redis has taken and that did not come back, after which the subscribed connection is made anew. Unit: messages.",
        |m| &m.probes_lost,
    ),
    ("campanile_bus_probes_refused", "Those that Redis has not taken. Unit: messages.", |m| &m.probes_refused),
    ("campanile_bus_repeated", "Messages of durable channels that came once more. Unit: messages.", |m| &m.repeated),
    ("campanile_bus_stale", "Messages of durable channels that were of an epoch before. Unit: messages.", |m| &m.stale),
    (
        "campanile_bus_unnumbered",
        "Messages that were published to a durable channel without a number of its stream, by a plain PUBLISH. Unit: messages.",
        |m| &m.unnumbered,
    ),
    (
        "campanile_bus_unnumbered_dropped",
        "Those that were not handed to a shard, or not kept during a repair, for want of room. Unit: messages.",
        |m| &m.unnumbered_dropped,
    ),
    (
        "campanile_bus_envelopes_refused",
        "Messages of durable channels that were cut short, forged, or of another version. Unit: messages.",
        |m| &m.envelopes_refused,
    ),
    ("campanile_bus_batches", "Batches made. Unit: batches.", |m| &m.batches),
    ("campanile_bus_inbox_full", "Messages not handed to a shard because its inbox was full. Unit: messages.", |m| &m.inbox_full),
    (
        "campanile_bus_channels_evicted",
        "Channels that nobody heard any more and that made room for others before their time. Unit: channels.",
        |m| &m.channels_evicted,
    ),
    (
        "campanile_bus_history_dropped",
        "Messages dropped from the node's history because all histories together were full. Unit: messages.",
        |m| &m.history_dropped,
    ),
    ("campanile_bus_published", "Messages published through this process. Unit: messages.", |m| &m.published),
    ("campanile_bus_publish_errors", "Publishes that failed. Unit: messages.", |m| &m.publish_errors),
    (
        "campanile_bus_journal_refused",
        "Messages for durable channels that were refused because they could not be kept. Unit: messages.",
        |m| &m.journal_refused,
    ),
    ("campanile_bus_marks_set", "Marks of how far users have read that were set through this process. Unit: marks.", |m| &m.marks_set),
    ("campanile_bus_marks_counted", "Questions of how much users have not read that were answered. Unit: questions.", |m| &m.marks_counted),
    ("campanile_bus_marks_failed", "Marks and questions of how much is unread that failed. Unit: questions.", |m| &m.marks_failed),
    (
        "campanile_bus_mark_news_dropped",
        "Marks of which the user's other connections here were not told, as too many came at once. Unit: marks.",
        |m| &m.mark_news_dropped,
    ),
    (
        "campanile_bus_presence_events",
        "Events of who is there (occupied, vacated, connected, disconnected) written to the stream in Redis. Unit: events.",
        |m| &m.presence_events,
    ),
    (
        "campanile_bus_presence_refused",
        "Times that Redis refused for good what is kept there of who is there (presence). Unit: times.",
        |m| &m.presence_refused,
    ),
    ("campanile_bus_connects", "Connections made to Redis. Unit: connections.", |m| &m.connects),
    ("campanile_bus_disconnects", "Connections to Redis lost. Unit: connections.", |m| &m.disconnects),
    ("campanile_bus_turns", "Turns of the bus thread's loop. Unit: turns.", |m| &m.turns),
    ("campanile_bus_protocol_errors", "Replies from Redis that could not be understood. Unit: replies.", |m| &m.protocol_errors),
];

pub(super) const BUS_GAUGES: &[Named<BusMetrics>] = &[
    ("campanile_bus_channels", "Channels known to the bus thread now. Unit: channels.", |m| &m.channels),
    (
        "campanile_bus_channels_refused",
        "Redis channels and patterns wanted now that Redis does not let us subscribe to. Unit: channels.",
        |m| &m.channels_refused,
    ),
    ("campanile_bus_history_bytes", "Memory held by the node's history now. Unit: bytes.", |m| &m.history_bytes),
    ("campanile_bus_journal_messages", "Messages of durable channels kept without Redis now. Unit: messages.", |m| &m.journal_messages),
    ("campanile_bus_journal_memory_bytes", "Memory held by messages and idempotency keys of durable channels now. Unit: bytes.", |m| {
        &m.journal_memory_bytes
    }),
    ("campanile_bus_journal_disk_bytes", "What the files in data_dir hold now. Unit: bytes.", |m| &m.journal_disk_bytes),
    ("campanile_bus_journal_unsynced_bytes", "What was published and is not synced to the disk now. Unit: bytes.", |m| {
        &m.journal_unsynced_bytes
    }),
    (
        "campanile_bus_journal_failing",
        "Whether data_dir cannot be written to, so that durable messages are refused: 1 if so, else 0. Unit: none.",
        |m| &m.journal_failing,
    ),
    ("campanile_bus_ready", "Whether messages flow: 1 if so, else 0. Unit: none.", |m| &m.ready),
];
