//! The most user memory that the settings allow, by what holds it. Told in the start block, checked by `campanile doctor`, held against the
//! heap by `tests/memory.rs`. Pure: settings in, bytes out.

use serde::Serialize;

use crate::auth::identity::{USER_BYTES_MAX, heap_bytes_max};
use crate::auth::revoked;
use crate::bus::redis::durable::Durables;
use crate::bus::{CONTROL_SHARE, ShardMessage};
use crate::config::{AuthMode, RedisSubscribe, Settings, TlsSessions, UserPresence};
use crate::control;
use crate::fanout::compressor::COMPRESSOR_BYTES;
use crate::limits::auth::{CACHE_BYTES_TOTAL, REFRESHES_WAITING_MAX, REVOKED_MAX};
use crate::limits::bus::{MARKS_BYTES_MAX, PAGES_KEPT_BYTES, PUBLISH_BYTES_MAX};
use crate::limits::journal;
use crate::limits::redis::WINDOW_BYTES_MAX;
use crate::limits::redis::durable::{HELD_BYTES_MAX, READ_BYTES_MAX};
use crate::limits::tls::{HANDSHAKES_UNDER_WAY_MAX, SCRATCH_BYTES};
use crate::limits::{
    APPENDED_BEFORE_SWEEP, BATCH_BYTES_MAX, BUFFER_FLOOR_BYTES, CHANNEL_NAME_BYTES_MAX, ECHO_MESSAGE_BYTES_MAX, PAGES_PART,
    WAITER_BYTES_MAX, WAITERS_FLOOR, heap_bytes,
};
use crate::tls::acceptor::ClientAuth;
use crate::wire::Format;
use crate::wire::deflate::INFLATER_BYTES;
use crate::wire::framing::Encoding;

/// User memory of an idle connection with one subscription (the aim of the design, measured as RSS).
pub(super) const CONNECTION_BYTES: u64 = 300;
// What follows is measured, and held to be enough, by tests/memory.rs.
/// A session, as many as there may be connections, in a list that may have as much room again while it grows; with rustls's own record layer. What a client has shown of itself. A handshake
/// under way.
const COMPACT_SESSION_BYTES: u64 = 2 * 168;
const RUSTLS_SESSION_BYTES: u64 = 2 * 168 + 8192;
const CLIENT_CERTIFICATE_BYTES: u64 = 1024;
const HANDSHAKE_BYTES: u64 = 24 * 1024;
/// A channel on the bus, without its name, and what is added when nobody hears it any more, or when it has a history.
const CHANNEL_BYTES: u64 = 240;
const LINGERING_BYTES: u64 = 336;
const HISTORY_BYTES: u64 = 96;
/// A channel in the journal, without its name; by what its tables hold of it.
const JOURNAL_CHANNEL_BYTES: u64 = 256;
/// What a shard has of a user whose connections it tells of marks, besides the name.
const MARK_READER_BYTES: usize = 128;
/// A channel whose subscribers are counted, besides its name; and one whose count goes to Redis. A user whose connections are.
const COUNTED_BYTES: u64 = 160;
const COUNTED_FOR_REDIS_BYTES: u64 = 128;
const COUNTED_USER_BYTES: u64 = 128;
/// A channel on one shard.
const TOPIC_BYTES: u64 = 272;
/// A channel that is subscribed in Redis, besides its name there.
const REDIS_BYTES: u64 = 112;
/// 24 in its connection's list, and 8 for its place among the channels of an event stream.
const SUBSCRIPTION_BYTES: u64 = 32;
const MEMBER_BYTES: u64 = 8;
/// A slot of a crossbeam array channel holds the message and a stamp, and is allocated at start.
const INBOX_SLOT_BYTES: u64 = size_of::<ShardMessage>() as u64 + 8;

/// The most user memory that the settings allow, by what holds it, in bytes. Kernel memory (sockets) comes on top. A batch that several
/// hold (inbox, log, history) counts for each: whichever lets go last has room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryBound {
    /// `log_bytes_total`; encoded frames count in it.
    pub logs: u64,
    /// One batch per shard, as large as they come, as published and in every encoding, before its log has counted it. Shards that make the same
    /// encoding of it at once hold one each for a moment.
    pub making: u64,
    pub buffers: u64,
    /// Slots, and batches as published. Frames of theirs that a faster shard has had encoded count in that shard's log, while it has them.
    pub inboxes: u64,
    /// With `deflate`: what each shard compresses and inflates with, and what it inflates a message to.
    pub deflate: u64,
    /// Those that have not been let in yet are among them.
    pub connections: u64,
    /// Where a listener speaks TLS: sessions, handshakes under way, and what a shard seals into.
    pub tls: u64,
    /// `channels_max` on the bus, those included that nobody hears any more, and on every shard as far as there are subscriptions for them;
    /// each with the longest name.
    pub channels: u64,
    /// Of a connection beyond its first; and what is remembered of those that wait for the bus.
    pub subscriptions: u64,
    /// From when they are accepted until they are answered, and once more what is being written to Redis.
    pub publishes: u64,
    /// Requests on the control port: heads, bodies, answers.
    pub control: u64,
    /// `history_bytes_total` where any channel has a history; and what is read from the streams of durable ones, and asked about who has read them.
    pub history: u64,
    /// Durable channels without Redis: those that are known, as much as `history_bytes_total` of their messages, idempotency keys, marks of what is read, and what is on its way to
    /// the disk and back.
    pub journal: u64,
    /// What is known of who is connected, and of the bearers of tokens that were verified before.
    pub tokens: u64,
    /// Who is there, where that is counted or listed.
    pub presence: u64,
}

impl MemoryBound {
    pub fn total(&self) -> u64 {
        let MemoryBound {
            logs,
            making,
            buffers,
            inboxes,
            deflate,
            connections,
            tls,
            channels,
            subscriptions,
            publishes,
            control,
            history,
            journal,
            tokens,
            presence,
        } = self;
        let first = logs + making + buffers + inboxes + deflate + connections + tls + channels + subscriptions;
        first + publishes + control + history + journal + tokens + presence
    }
}

pub fn memory_bound(settings: &Settings) -> MemoryBound {
    let shards = settings.shards.count as u64;
    let batch = batch_bytes_max(settings);
    // An inbox takes one batch of any size.
    let inbox_bytes = (settings.bounds.inbox_bytes_total as u64 / shards).max(batch);
    let sockets = settings.bounds.connections_max as u64 + shards * settings.handshakes_of_shard() as u64;
    let mut rules = std::iter::once(&settings.channels.default).chain(settings.channels.tables.iter().map(|(_, rule)| rule));
    let has_history = rules.any(|rule| rule.history_count > 0);
    MemoryBound {
        // And the list of what was appended, as long as it may become before it is looked through.
        logs: settings.bounds.log_bytes_total as u64 + shards * 2 * 16 * APPENDED_BEFORE_SWEEP as u64,
        making: shards * batch * (1 + encodings(settings)),
        // Whoever holds no more than the floor is exempt from the budget over all.
        buffers: shards * settings.buffer_bytes_of_shard() as u64 + sockets * BUFFER_FLOOR_BYTES as u64,
        inboxes: shards * (settings.shards.inbox_messages as u64 * INBOX_SLOT_BYTES + inbox_bytes),
        deflate: shards * deflate_bytes(settings),
        connections: sockets * CONNECTION_BYTES,
        tls: tls_bound(settings, sockets),
        channels: channels_bound(settings, has_history),
        subscriptions: subscriptions_bound(settings),
        publishes: publishes_bytes_max(settings),
        control: control::memory_bound(settings.bounds.payload_bytes_max),
        journal: journal_bound(settings),
        history: if has_history { settings.bounds.history_bytes_total as u64 } else { 0 }
            + durables_bound(settings)
            + marks_bound(settings),
        tokens: tokens_bound(settings),
        presence: presence_bound(settings),
    }
}

/// Those that a batch may be asked for.
pub(super) fn encodings(settings: &Settings) -> u64 {
    let compressed = if settings.clients.deflate { 0 } else { Format::ALL.len() };
    (Encoding::COUNT - compressed) as u64
}

fn tls_bound(settings: &Settings, sockets: u64) -> u64 {
    if !settings.addresses.listen.iter().any(|listener| listener.is_tls) {
        return 0;
    }
    let session = match settings.tls.sessions {
        TlsSessions::Compact => COMPACT_SESSION_BYTES,
        TlsSessions::Rustls => RUSTLS_SESSION_BYTES,
    };
    let certificates = if settings.tls.client_auth == ClientAuth::No { 0 } else { CLIENT_CERTIFICATE_BYTES };
    let under_way = HANDSHAKES_UNDER_WAY_MAX as u64 * HANDSHAKE_BYTES + SCRATCH_BYTES as u64;
    sockets * (session + certificates) + settings.shards.count as u64 * under_way
}

/// Of one shard. What was inflated lies in room that may be twice as large while it grows.
fn deflate_bytes(settings: &Settings) -> u64 {
    if !settings.clients.deflate {
        return 0;
    }
    let message = if settings.clients.echo { ECHO_MESSAGE_BYTES_MAX } else { settings.bounds.message_bytes_max };
    (COMPRESSOR_BYTES + INFLATER_BYTES + 2 * message) as u64
}

/// Messages that are held back, entries that wait for room, one reply more of each server, and pages on the bus and on shards.
fn durables_bound(settings: &Settings) -> u64 {
    if settings.redis.url.is_none() || !settings.channels.has_durable() {
        return 0;
    }
    let reply = Durables::reply_bytes_max(settings.bounds.payload_bytes_max);
    let on_shards = settings.bounds.log_bytes_total / PAGES_PART + settings.shards.count * reply;
    let servers = settings.redis.urls().count();
    (HELD_BYTES_MAX + READ_BYTES_MAX + servers * (PAGES_KEPT_BYTES + 2 * reply) + on_shards) as u64
}

/// The names in questions about marks: in the question, in the answer, and in commands and replies of a Redis; and whose connections shards tell.
fn marks_bound(settings: &Settings) -> u64 {
    if !settings.channels.has_durable() {
        return 0;
    }
    let users = if settings.auth.mode == AuthMode::None { 0 } else { settings.bounds.connections_max };
    (4 * MARKS_BYTES_MAX + users * (heap_bytes(USER_BYTES_MAX) + MARK_READER_BYTES)) as u64
}

fn journal_bound(settings: &Settings) -> u64 {
    let mut rules = std::iter::once(&settings.channels.default).chain(settings.channels.tables.iter().map(|(_, rule)| rule));
    if settings.redis.url.is_some() || !rules.any(|rule| rule.durable) {
        return 0;
    }
    let channels = 2 * settings.bounds.channels_max as u64 * (JOURNAL_CHANNEL_BYTES + heap_bytes(16 + CHANNEL_NAME_BYTES_MAX) as u64);
    let on_its_way = match settings.journal.data_dir {
        None => 0,
        Some(_) => journal::UNSYNCED_BYTES_MAX + journal::READ_BYTES_MAX + 2 * journal::SEGMENT_BYTES,
    };
    let kept = crate::journal::Settings::default();
    channels + (settings.bounds.history_bytes_total + kept.keys_bytes + kept.marks_bytes + on_its_way) as u64
}

/// Each connection may have a token of its own, and some may have another one that waits to be verified.
fn tokens_bound(settings: &Settings) -> u64 {
    let connections = settings.bounds.connections_max;
    let bytes_max = settings.auth.token_bytes_max;
    let bound = match settings.auth.mode {
        AuthMode::None => 0,
        AuthMode::Query => connections * heap_bytes_max(USER_BYTES_MAX * 4 / 3),
        // It may have many units.
        AuthMode::Certificate => connections * heap_bytes_max(CLIENT_CERTIFICATE_BYTES as usize),
        AuthMode::Jwt => {
            let waiting = settings.shards.count * REFRESHES_WAITING_MAX * heap_bytes(bytes_max);
            connections * heap_bytes_max(bytes_max) + CACHE_BYTES_TOTAL + waiting + REVOKED_MAX * revoked::ENTRY_BYTES_MAX
        }
    };
    bound as u64
}

/// Names are kept once on the bus, and once more for Redis, where they may also wait to be written. Whoever is listed stands in the list of each shard that it is on,
/// and in what is written.
fn presence_bound(settings: &Settings) -> u64 {
    let has_redis = settings.redis.url.is_some();
    let name = |bytes: usize| heap_bytes(bytes) as u64;
    let (channels, connections) = (settings.bounds.channels_max as u64, settings.bounds.connections_max as u64);
    let counted = match (settings.channels.has_presence(), has_redis) {
        (false, _) => 0,
        (true, false) => channels * COUNTED_BYTES,
        (true, true) => channels * (COUNTED_BYTES + COUNTED_FOR_REDIS_BYTES + 2 * name(CHANNEL_NAME_BYTES_MAX)),
    };
    let names_of_user = if has_redis { 4 } else { 2 };
    let users = match settings.clients.user_presence {
        UserPresence::None => 0,
        UserPresence::Count | UserPresence::Events => connections * (COUNTED_USER_BYTES + names_of_user * name(USER_BYTES_MAX)),
    };
    let rules = std::iter::once(&settings.channels.default).chain(settings.channels.tables.iter().map(|(_, rule)| rule));
    let listed_max = rules.map(|rule| rule.presence_members as u64).max().unwrap_or(0);
    let listed = (channels * settings.shards.count as u64 * listed_max).min(connections * settings.bounds.subscriptions_max as u64);
    counted + users + listed * 2 * (16 + name(USER_BYTES_MAX))
}

fn channels_bound(settings: &Settings, has_history: bool) -> u64 {
    let (channels, shards) = (settings.bounds.channels_max as u64, settings.shards.count as u64);
    let name = |bytes: usize| heap_bytes(16 + bytes) as u64;
    let mut on_bus = CHANNEL_BYTES + name(CHANNEL_NAME_BYTES_MAX);
    if has_history {
        on_bus += HISTORY_BYTES;
    }
    if settings.redis.url.is_some() && settings.redis.subscribe == RedisSubscribe::Exact {
        on_bus += REDIS_BYTES + name(settings.redis.prefix.len() + CHANNEL_NAME_BYTES_MAX);
    }
    let on_shards = (channels * shards).min((settings.bounds.connections_max * settings.bounds.subscriptions_max) as u64);
    // While the bus has not answered, each shard has a name of its own, one of which will be the bus's.
    let topics = on_shards * TOPIC_BYTES + (on_shards - on_shards / shards) * name(CHANNEL_NAME_BYTES_MAX);
    // Either somebody hears a channel, or it lingers.
    let lingering = |heard: u64| (channels - heard) * LINGERING_BYTES;
    channels * on_bus + lingering(0).max(topics + lingering(on_shards / shards))
}

/// Clients and the control port each may have one larger than their share, alone. To Redis there is in writing what may come back from it,
/// which one payload may exceed; a buffer that grows holds as much again.
fn publishes_bytes_max(settings: &Settings) -> u64 {
    let payload = settings.bounds.payload_bytes_max;
    let held = (PUBLISH_BYTES_MAX - CONTROL_SHARE.bytes).max(payload) + CONTROL_SHARE.bytes.max(payload);
    let writing = settings.redis.urls().count() * 2 * payload.max(WINDOW_BYTES_MAX);
    (held + writing) as u64
}

/// The list of a connection grows by doubling; a place in each channel's list of members, which does so too.
fn subscriptions_bound(settings: &Settings) -> u64 {
    let lists = match settings.bounds.subscriptions_max as u64 {
        0 | 1 => 0,
        most => {
            let list = heap_bytes((most.next_power_of_two() * SUBSCRIPTION_BYTES) as usize) as u64;
            settings.bounds.connections_max as u64 * (list + most * 2 * MEMBER_BYTES)
        }
    };
    let floor = WAITERS_FLOOR * WAITER_BYTES_MAX;
    lists + (settings.shards.count * settings.waiting_bytes_of_shard().max(floor)) as u64
}

/// The largest batch: full of small messages, or one large one.
pub(super) fn batch_bytes_max(settings: &Settings) -> u64 {
    settings.bounds.payload_bytes_max.max(BATCH_BYTES_MAX) as u64
}

/// For people: three digits and a binary unit.
pub fn show_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = "B";
    for larger in units {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    let digits = if unit == "B" || amount >= 100.0 { 0 } else { 1 };
    format!("{amount:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ChannelRule;
    use crate::limits::control::{SNAPSHOT_BYTES_MAX, WATCHERS_MAX};

    #[test]
    fn the_bound_is_the_sum_of_its_parts() {
        let settings = Settings::default().with(|settings| settings.shards.count = 2);
        let bound = memory_bound(&settings);
        assert_eq!(bound.logs, (1 << 30) + 2 * (128 << 10));
        assert_eq!(bound.making, 20 << 20);
        // A quarter as many may be arriving.
        assert_eq!(bound.buffers, (256 << 20) + 125_000 * 4096);
        assert_eq!(bound.inboxes, (256 << 20) + 2 * 16384 * INBOX_SLOT_BYTES);
        assert_eq!(bound.connections, 37_500_000);
        assert_eq!((bound.history, bound.tokens, bound.presence), (0, 0, 0), "no channel has one, and nobody is asked for one");
        assert_eq!(bound.deflate, 0, "nobody is agreed with");
        let compressing = memory_bound(&settings.clone().with(|settings| settings.clients.deflate = true));
        assert_eq!(compressing.deflate, 2 * (COMPRESSOR_BYTES + INFLATER_BYTES + (128 << 10)) as u64);
        assert_eq!(compressing.total() - bound.total(), compressing.deflate + 2 * 3 * (1 << 20), "and batches in three more encodings");
        let counting = settings.clone().with(|settings| {
            settings.clients.user_presence = UserPresence::Count;
            (settings.channels.default.presence, settings.channels.default.presence_members) = (true, 10);
        });
        let listed = 200_000 * 2 * 10 * 2 * (16 + 272);
        assert_eq!(memory_bound(&counting).total() - bound.total(), 200_000 * 160 + 100_000 * (128 + 2 * 272) + listed);
        let asked = settings.clone().with(|settings| settings.auth.mode = AuthMode::Jwt);
        let tokens = memory_bound(&asked).total() - bound.total();
        assert_eq!(tokens, 100_000 * (3088 + 64) + (64 << 20) + 2 * 1024 * 4112 + ((1 << 16) * revoked::ENTRY_BYTES_MAX) as u64);
        assert_eq!(bound.channels, 200_000 * (240 + 288) + 2 * 200_000 * 272 + 200_000 * 288);
        assert_eq!(bound.subscriptions, 100_000 * (128 * 32 + 16 + 128 * 16) + (128 << 20));
        assert_eq!(bound.publishes, 64 << 20);
        let watchers = (WATCHERS_MAX + 3) * SNAPSHOT_BYTES_MAX;
        assert_eq!(bound.control, (16 << 20) + (64 << 20) + (8 << 20) + (16 << 20) + watchers as u64);
        let parts = bound.logs + bound.making + bound.buffers + bound.inboxes + bound.connections;
        assert_eq!(bound.total(), parts + bound.channels + bound.subscriptions + bound.publishes + bound.control);
        let larger = memory_bound(&settings.clone().with(|settings| {
            settings.bounds.log_bytes_total = 2 << 30;
            settings.bounds.connections_max = 200_000;
        }));
        assert_eq!(larger.total() - bound.total(), (1 << 30) + 125_000 * (300 + 4096) + 100_000 * (128 * 48 + 16));

        let mut remembering = settings.clone();
        remembering.channels.tables = vec![("a".into(), ChannelRule { history_count: 1, ..ChannelRule::default() })];
        assert_eq!(memory_bound(&remembering).total() - bound.total(), (256 << 20) + 200_000 * 96);
        let redis = settings.clone().with(|settings| settings.redis.url = Some("redis://host".to_owned()));
        assert_eq!(memory_bound(&redis).channels - bound.channels, 200_000 * (112 + 304));
        let one = settings.clone().with(|settings| {
            settings.shards.count = 1;
            settings.bounds.subscriptions_max = 1;
            settings.bounds.connections_max = 10;
        });
        assert_eq!(memory_bound(&one).channels, 200_000 * (240 + 288 + 336), "what lingers takes more than the few that are heard");
        let narrow = memory_bound(&settings.with(|settings| settings.bounds.inbox_bytes_total = 1 << 20));
        assert_eq!(narrow.inboxes, 2 * ((1 << 20) + 16384 * INBOX_SLOT_BYTES), "each takes one payload, however small its share");
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(show_bytes(300), "300 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(256 << 20), "256 MiB");
        assert_eq!(show_bytes(4 << 30), "4.0 GiB");
    }
}
