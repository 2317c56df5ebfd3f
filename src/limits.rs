//! Every bound that is not a setting, named, unit last: of the wire and the shards here, of tokens ([`auth`]), of the [`bus`], of [`redis`], of the [`control`] port and
//! of the [`journal`] in a section each. What an operator may change stands in [`crate::config`].

use std::time::Duration;

/// By which a message is known again.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Longest channel name in bytes, as clients write it (without the Redis prefix).
pub const CHANNEL_NAME_BYTES_MAX: usize = 255;
/// Longest `id` string a client may put on a command.
pub const COMMAND_ID_BYTES_MAX: usize = 64;
/// Connections of one user on one shard that are told of its marks; more are not.
pub const MARK_READERS_PER_USER_MAX: usize = 32;
/// Longest `type` that the `error` event for an unknown one repeats.
pub const COMMAND_TYPE_BYTES_MAX: usize = 64;
/// Messages without a number that a shard may have on their way to subscribers, and bytes of them (a single larger one passes); one more is dropped.
pub const ASIDES_MAX: usize = 4096;
pub const ASIDES_BYTES_MAX: usize = 1024 * 1024;
/// Walks of one channel for them and what waits behind these; what of it has numbers does not wait then.
pub const ASIDE_QUEUE_MAX: usize = 512;
/// What of all channels waits behind them.
pub const ASIDE_HELD_MAX: usize = 1024;
pub const ASIDE_HELD_BYTES_MAX: usize = 512 * 1024;
pub const ASIDE_HOLD_NS: u64 = 20_000_000;
/// Members that such a walk has to go to because they have taken a place behind it.
pub const ASIDE_ESCAPED_MAX: usize = 256;
/// Deepest nesting accepted in a MessagePack or JSON value.
pub const VALUE_DEPTH_MAX: usize = 64;
/// Longest request head that `head_bytes_max` may allow.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Shortest: a name of a channel and what a browser sends must fit.
pub const HEAD_BYTES_MIN: usize = 1024;
/// Most header fields in a request head; more is answered 431.
pub const HEAD_FIELDS_MAX: usize = 64;
/// Most `?channel=` parameters on one upgrade request.
pub const QUERY_CHANNELS_MAX: usize = 128;
/// How long a poll waits for something to come unless it says so, and at most: proxies on the way give up after a minute.
pub const POLL_WAIT_DEFAULT: Duration = Duration::from_secs(25);
pub const POLL_WAIT_MAX: Duration = Duration::from_secs(60);
/// And how much longer for its channels to be confirmed, where the bus is slow or away.
pub const POLL_CONFIRM_WAIT: Duration = Duration::from_secs(2);
/// An answer to a poll is ended when it has this many bytes; a single larger message gets an answer of its own.
pub const POLL_ANSWER_BYTES: usize = 1024 * 1024;
/// After what time an event stream that broke off is asked for again: another one for each client.
pub const RETRY_MS_MIN: u64 = 2000;
pub const RETRY_SPREAD_MS: u64 = 3000;
/// Whoever is to be refused has this long to say what it wants.
pub const TURNED_AWAY_TIMEOUT: Duration = Duration::from_secs(2);
/// Most that `subscriptions_max` may say: a connection's subscriptions have numbers of 16 bits.
pub const SUBSCRIPTIONS_MAX: usize = 65_534;
/// Longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// Largest message on the diagnostic `/echo` path.
pub const ECHO_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A batch is sealed when its payloads reach this many bytes; a single larger message gets a batch of its own.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;
/// A longer message is not compressed: this one takes a millisecond, in which the thread serves nobody else.
pub const DEFLATE_BYTES_MAX: usize = 128 * 1024;
/// What a shard compresses in one turn; what comes beyond is sent plain, at least until the next. Half a millisecond, or a millisecond of small messages.
pub const DEFLATE_BYTES_PER_TURN: usize = 64 * 1024;
/// What a shard inflates of clients' messages in one turn, and what one read brings beyond; then it reads nobody until the next. A few bytes of a client can be 64 KiB to inflate
/// and to look through: a tenth of a millisecond.
pub const INFLATE_BYTES_PER_TURN: usize = 256 * 1024;
/// With fewer subscribers, those included that have not agreed to it, a channel's messages are not compressed. Level 2 takes about 15 us for 1,000 bytes, a delivery
/// about 3 us of the host's CPU: from here on compressing adds less than a third to it, and at 150 less than a thirtieth.
pub const DEFLATE_SUBSCRIBERS_MIN: u32 = 16;
/// Texts that `deflate_exclude` may list, and the longest.
pub const DEFLATE_EXCLUDED_MAX: usize = 64;
pub const DEFLATE_EXCLUDED_BYTES_MAX: usize = 128;
/// And when it has this many messages: of tiny payloads the envelopes are what takes room.
pub const BATCH_MESSAGES_MAX: usize = 1024;
/// Bytes asked of one read from a socket; one scratch buffer of this size per thread.
pub const READ_BYTES: usize = 256 * 1024;

const _: () = assert!(HEAD_BYTES_MAX <= READ_BYTES);
const _: () = assert!(CHANNEL_NAME_BYTES_MAX < HEAD_BYTES_MIN);
/// A log may take this many times its bound while a lap that is slower than the channel has not been to everybody.
pub const UNSERVED_LOGS_MAX: usize = 16;
/// Slices handed to one `writev`; the kernel takes up to 1024, but beyond a few tens more syscalls are no cheaper than more slices.
pub const SLICES_PER_WRITE: usize = 32;
/// A log with more unmerged batches than this joins its small ones before the next write.
pub const SLICES_BEFORE_MERGE: usize = 8;
/// Room that a queue keeps when it has run empty; what a flood has made larger is given back.
pub const QUEUE_KEPT: usize = 1024;
pub const EVENTS_PER_WAIT: usize = 1024;
/// Accepts per turn and shard.
pub const ACCEPTS_PER_TURN: usize = 128;
/// The same while messages are being sent: a lap of some thousand takes many turns, and each would be longer by that.
pub const ACCEPTS_PER_TURN_OF_LAPS: usize = 16;
/// Replies of one connection that wait for the turn to send them; more are sent as soon as it has been read. So a crowd that subscribes to many
/// channels each does not leave a heap full of holes where its replies were.
pub const REPLIES_HELD_BYTES: usize = 2048;
/// Connections read per turn and shard.
pub const READS_PER_TURN: usize = 256;
/// The same while messages are being sent.
pub const READS_PER_TURN_OF_LAPS: usize = 64;
/// Reads from one connection per turn; whoever has more to say waits for the next.
pub const READ_ROUNDS_PER_TURN: usize = 4;
/// Bytes asked of one read from an ordinary client. Bounds how many replies one read can cause: the shortest frame that is answered
/// with an error takes 8 bytes, the answer about 200.
pub const CLIENT_READ_BYTES: usize = 2 * 1024;
/// Messages taken from the inbox per turn.
pub const INBOX_MESSAGES_PER_TURN: usize = 4096;
/// What orders of the control thread may cost in a turn, in connections looked at: some hundred microseconds.
pub const ORDER_UNITS_PER_TURN: usize = 2048;
/// Texts of users and tokens on one page of connections; the page ends with the one that goes beyond.
pub const PAGE_TEXT_BYTES_MAX: usize = 128 * 1024;
/// What closing one costs (or telling of it), besides a unit for each of its subscriptions.
pub const ORDER_UNITS_PER_CLOSE: usize = 8;
/// Connections taken from a door that is about to be closed for good.
pub const DOOR_ACCEPTS_MAX: usize = 64 * 1024;
/// How long whoever is left at the end of a drain has for its close frame.
pub const FAREWELL_AFTER_DRAIN: std::time::Duration = std::time::Duration::from_secs(2);
/// Orders that a shard has not obeyed yet; another one is dropped.
pub const ORDERS_WAITING_MAX: usize = 64;
/// What asking again whether subscriptions are allowed may cost in one turn, in comparisons with a pattern (a tenth of a microsecond to half of one): half a
/// millisecond at the worst.
pub const RECHECK_UNITS_PER_TURN: usize = 1024;
/// Pages of what is older than its logs that a shard may have asked for and not got.
pub const PAGES_ASKED_MAX: usize = 16;
/// What part of its logs' bound such pages may take besides.
pub const PAGES_PART: usize = 4;
/// Room for connections that a shard keeps when they have gone.
pub const SLOTS_KEPT: usize = 4096;
/// Subscriptions of dead connections that a turn takes out of their channels.
pub const LEAVES_PER_TURN: usize = 4096;
/// A connection may have this many channels made at once, or as many as two sets of subscriptions if that is more.
pub const CHANNELS_AT_ONCE_MIN: usize = 64;
/// And this many a second in the long run, or one set of subscriptions in [`RESUBSCRIBE_ALL_SECONDS`] if that is more. A thousand times
/// as fast, one connection keeps the bus busy with nothing else.
pub const CHANNELS_PER_SECOND_MIN: usize = 16;
pub const RESUBSCRIBE_ALL_SECONDS: usize = 8;
/// So many subscriptions of a shard may always wait for the bus.
pub const WAITERS_FLOOR: usize = 256;
/// The most that one of them takes, with the longest `id`.
pub const WAITER_BYTES_MAX: usize = 224;
/// Channels of one `subscribe`.
pub const SUBSCRIBE_CHANNELS_MAX: usize = 128;
/// Channels of one `unread`.
pub const UNREAD_CHANNELS_MAX: usize = SUBSCRIBE_CHANNELS_MAX;
/// Work units of one flush stage; a visit that writes nothing costs 1, a write [`FLUSH_UNITS_PER_WRITE`].
/// What comes meanwhile waits for so long: some hundred microseconds.
pub const FLUSH_UNITS_PER_TURN: usize = 1024;
pub const FLUSH_UNITS_PER_WRITE: usize = 16;
/// The same for messages without a number.
pub const ASIDE_UNITS_PER_TURN: usize = FLUSH_UNITS_PER_TURN / 2;
/// A lap to no more than this many is short, and goes before the others.
pub const SHORT_LAP_MEMBERS: usize = 8;
/// Visits of one topic's lap before the next topic has its turn.
pub const FLUSH_VISITS_PER_TOPIC: usize = 64;
/// Laps that had to wait which begin in one turn: what one holds back is released then, a second's worth at most.
pub const LAPS_BEGUN_PER_TURN: usize = 256;
/// Bytes written that cost one more unit.
pub const FLUSH_BYTES_PER_UNIT: usize = 4 * 1024;
/// Subscriptions of a connection that a visit looks at for news whose lap has still to come by.
pub const NEIGHBOURS_PER_VISIT: usize = 16;
/// Bytes offered to one socket per visit.
pub const FLUSH_BYTES_PER_VISIT: usize = 256 * 1024;
/// A connection that holds no more than this in buffers of its own is never closed because all of them together hold too much.
pub const BUFFER_FLOOR_BYTES: usize = 4 * 1024;
/// A connection with more unsent replies than this is not read until they are gone.
pub const OUTBOX_PAUSE_BYTES: usize = 16 * 1024;
/// Descriptors of a shared table that clients do not get (a quarter of a table that is smaller than four times as many).
pub const DESCRIPTORS_KEPT_FREE: u64 = 32;
/// Tries to accept again this many ticks (100 ms) after running out of descriptors.
pub const ACCEPT_RETRY_TICKS: u32 = 1;

const _: () = assert!(CLIENT_READ_BYTES <= READ_BYTES);
/// So many connections of a shard may always be arriving, or be told why they are not let in.
pub const HANDSHAKES_MIN: usize = 1024;
/// Connections that a shard refuses as they come (limits of addresses, of accepts) and tells so; the others are dropped without a word. An answer keeps its
/// socket until the client has read it, for `close_timeout` at most, so a flood must not have one each.
pub const ANSWERS_AT_THE_DOOR_PER_SECOND: usize = 100;
/// A connection that has had so many commands refused for their rate, beyond those that were obeyed, is closed: it does not listen.
pub const LIMITED_COMMANDS_MAX: u32 = 5000;
/// A shard that takes nobody in looks so often whether it can again.
pub const ADMISSION_LOOK_NS: u64 = 500_000_000;
/// The list of appended batches is swept of those already freed when it is longer than this.
pub const APPENDED_BEFORE_SWEEP: usize = 4096;
/// Most messages a second that `max_rate` may ask for.
pub const MAX_RATE_MAX: u16 = 1000;
/// What a client asks for is rounded down to one of these, so that a channel has few groups of subscribers with laps of their own: each message costs a look at each.
pub const RATE_STEPS: [u16; 28] =
    [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600, 800, MAX_RATE_MAX];
const _: () = {
    let mut at = 1;
    while at < RATE_STEPS.len() {
        assert!(RATE_STEPS[at - 1] < RATE_STEPS[at]);
        at += 1;
    }
    assert!(RATE_STEPS[0] == 1, "the lowest that may be asked for");
};
/// Ticks (100 ms) between two warnings that connections cannot be accepted.
pub const ACCEPT_WARNING_TICKS: u32 = 600;

/// Most of what settings may ask for; a shard's number travels as a u16 and each costs a thread.
pub const SHARDS_MAX: usize = 1024;
pub const CONNECTIONS_MAX: usize = 1 << 24;
/// Beyond it the unit that rates are counted in is too coarse.
pub const RATE_PER_SECOND_MAX: usize = 10_000;
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Of tokens.
pub mod auth {
    /// Shortest secret that tokens are signed with: as long as what SHA-256 makes (RFC 7518, 3.2).
    pub const SECRET_BYTES_MIN: usize = 32;
    /// Largest file of keys, and most keys in all. A token that names none is tried with each that fits.
    pub const KEY_FILE_BYTES_MAX: u64 = 1024 * 1024;
    pub const KEYS_MAX: usize = 32;
    /// Names of keys that are not here and are remembered from one fetch of keys to the next.
    pub const KEY_NAMES_MAX: usize = 1024;
    /// What verifying may cost in one turn of a shard, in the units of `Signed::cost`: half a millisecond. Whoever is beyond it waits for the next turn.
    pub const VERIFY_UNITS_PER_TURN: usize = 256;
    /// Refreshes of one shard that may wait for that, each with its token.
    pub const REFRESHES_WAITING_MAX: usize = 1024;
    /// Revocations that are kept at once, of tokens and of users.
    pub const REVOKED_MAX: usize = 1 << 16;
    /// What all shards together remember of tokens that were verified before: some 290,000 of them.
    pub const CACHE_BYTES_TOTAL: usize = 64 * 1024 * 1024;
}

/// Of the bus thread.
pub mod bus {
    /// Numbers on a page of what is older than the logs.
    pub const PAGE_NUMBERS: u64 = 32;
    /// How long a publish waits until Redis (or the disk, or a shard) takes it, before it is refused.
    pub const PUBLISH_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
    /// How often it is looked whether some have waited for so long.
    pub const PUBLISH_LOOK: std::time::Duration = std::time::Duration::from_millis(100);
    /// Messages of one answer to `history`; fewer where they are large.
    pub const HISTORY_MESSAGES_MAX: usize = 256;
    /// Payloads of one such answer, unless the first alone is larger.
    pub const HISTORY_BYTES_MAX: usize = 256 * 1024;
    /// Such answers under way; the next is refused.
    pub const HISTORIES_ASKED_MAX: usize = 256;
    /// Pages that were read for shards and are kept for the next that asks.
    pub const PAGES_KEPT_MAX: usize = 256;
    pub const PAGES_KEPT_BYTES: usize = 16 * 1024 * 1024;
    /// For how long a message of a durable channel is known again by its idempotency key.
    pub const IDEMPOTENCY_WINDOW: std::time::Duration = std::time::Duration::from_secs(600);
    /// Channels that are counted while somebody watches which have the most to deliver, and how long after the last question.
    pub const BUSIEST_PLACES: usize = 128;
    pub const BUSIEST_KEPT: std::time::Duration = std::time::Duration::from_secs(5);
    /// Commands that wait for the bus thread; a full inbox gives the command back to whoever sends it. Publishes and marks cannot fill it: joins and
    /// leaves have more than half to themselves.
    pub const COMMANDS_MAX: usize = 16 * 1024;
    /// Publishes from when they are accepted until they are answered; one more is answered `busy`.
    pub const PUBLISHES_MAX: usize = 4096;
    /// Bytes of their payloads; a single larger one is let through when nothing else is under way.
    pub const PUBLISH_BYTES_MAX: usize = 64 * 1024 * 1024;
    /// Questions about marks from when they are accepted until they are answered, and bytes of the names in them; one more is answered `busy`.
    pub const MARKS_MAX: usize = 2048;
    pub const MARKS_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// For how long one of them may wait for Redis. The control port waits a little longer.
    pub const MARKS_WAIT: std::time::Duration = std::time::Duration::from_secs(4);
    /// Marks whose users' connections are still to be told, one for each user and channel, and how often they are.
    pub const MARK_NEWS_MAX: usize = 4096;
    pub const MARK_NEWS_EVERY: std::time::Duration = std::time::Duration::from_millis(100);
    /// Replies that may wait for one shard before the bus thread stops taking commands.
    pub const REPLIES_MAX: usize = 16 * 1024;
    /// Commands served in one turn.
    pub const TURN_COMMANDS: usize = 1024;
    /// Publishes and bytes of them that go on in one turn, if shards have as much room: what they bring is handed out before the next ones.
    pub const TURN_PUBLISHES: usize = 1024;
    pub const TURN_PUBLISH_BYTES: usize = 1024 * 1024;
    /// Bytes that a source may send per turn; what it leaves of them it keeps while it has more to send.
    pub const SOURCE_TURN_BYTES: usize = 64 * 1024;
    /// What a publish costs beside its bytes.
    pub const PUBLISH_COST_BYTES: usize = 256;
    /// Channels that one message may be routed to, and bytes of the copies of it that are made for them; it may always go to one.
    pub const ROUTE_CHANNELS_MAX: usize = 1000;
    pub const ROUTE_BYTES_MAX: usize = 16 * 1024 * 1024;
    /// Bytes of copies, and channels that are looked for, after which no more messages are routed in this turn.
    pub const TURN_ROUTE_BYTES: usize = 1024 * 1024;
    pub const ROUTE_COST_BYTES: usize = 256;
    /// What giving channels the rules of a reload may cost in one turn, in comparisons of a name with a rule: half a millisecond.
    pub const RERULE_UNITS_PER_TURN: usize = 2048;
    /// Channels whose history is looked through for what is too old, at a time.
    pub const SWEEP_CHANNELS: usize = 4096;

    /// Of who is there.
    pub mod presence {
        /// Who may wait for an answer; the next is refused.
        pub const ASKED_MAX: usize = 4096;
        /// Channels whose subscribers are counted, and users whose connections have changed, in one turn: some hundred microseconds.
        pub const LOOKS_PER_TURN: usize = 4096;
        /// Users of whom a shard tells at a time.
        pub const USERS_PER_COMMAND: usize = 1024;
        /// Most users that may be listed of a channel.
        pub const MEMBERS_MAX: usize = 1000;
        /// Subscriptions of a channel that a shard looks at for its users; beyond it, it tells that there are others. And of all channels in a turn.
        pub const MEMBER_LOOKS: usize = 4096;
    }

    const _: () = assert!(PUBLISHES_MAX + MARKS_MAX < COMMANDS_MAX / 2);
}

/// Of the connections to Redis.
pub mod redis {
    /// Servers of one bus.
    pub const SERVERS_MAX: usize = 64;
    /// Nodes of a Cluster, or Sentinels, that a URL names.
    pub const SEEDS_MAX: usize = 64;
    /// Questions that wait for the connection that they are asked on to be made, and for how long; and how often it is looked whether it is.
    pub const EARLY_MAX: usize = 1024;
    pub const EARLY_WAIT: std::time::Duration = std::time::Duration::from_secs(1);
    pub const EARLY_LOOK: std::time::Duration = std::time::Duration::from_millis(10);
    /// Connections to one of them.
    pub const LINKS_MAX: usize = 8;
    /// What a Cluster tells of its masters: a thousand nodes, and ranges of slots by the thousand.
    pub const MAP_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// Bytes read in one turn, of each connection, before they are handed out and commands are served.
    pub const TURN_BYTES: usize = 1024 * 1024;
    /// The largest value taken from Redis, whatever `payload_bytes_max` says: larger payloads are read, dropped and announced.
    pub const VALUE_BYTES_MIN: usize = 64 * 1024 * 1024;
    /// Commands are written only while fewer bytes wait to leave.
    pub const OUT_BYTES: usize = 64 * 1024;
    /// Names in one command: its replies come in one piece, and Redis serves nobody else meanwhile.
    pub const COMMAND_NAMES_MAX: usize = 512;
    /// Names that may be unanswered: the confirmations must stay far below Redis's output buffer limit for subscribers (8 to 32 MB).
    pub const UNANSWERED_MAX: usize = 8192;
    /// Names that were refused for good and are asked for again at a time, each alone. If one is allowed now, all are asked for.
    pub const REFUSED_RETRIES_MAX: usize = 64;
    /// Most of our own publishes that may be on their way back at once. More gains nothing: a quarter of this under way keeps a link of a millisecond busy at 2 Gbit/s. And whatever lies before others' messages
    /// delays them.
    pub const WINDOW_BYTES_MAX: usize = 1024 * 1024;
    /// What Redis adds to a message of ours: `>3`, `message`, lengths and line ends.
    pub const MESSAGE_BYTES: usize = 64;

    /// Of Sentinels.
    pub mod sentinel {
        use std::time::Duration;

        /// How often it is asked where the master is; and how soon while that one is lost.
        pub const ASK_AGAIN: Duration = Duration::from_secs(1);
        pub const ASK_LOST: Duration = Duration::from_millis(250);
    }

    /// Of a Cluster.
    pub mod cluster {
        use std::time::Duration;

        /// How often it is asked who its masters are; and how soon, when something says that they are others.
        pub const ASK_AGAIN: Duration = Duration::from_secs(30);
        pub const ASK_SOON: Duration = Duration::from_millis(100);
        /// The same while one of them is lost: a replica takes its place some seconds later.
        pub const ASK_LOST: Duration = Duration::from_millis(250);
        /// How long a message that its master has taken may be on its way to a replica before it counts as not coming.
        pub const REPLICA_LAG: Duration = Duration::from_millis(250);
        /// For how long a publish is sent again that a node has not executed.
        pub const REDIRECT_PATIENCE: Duration = Duration::from_secs(10);
        /// How often, at most.
        pub const REDIRECTS_MAX: u32 = 64;
        /// How soon; twice as long each time, four times.
        pub const REDIRECT_PAUSE: Duration = Duration::from_millis(50);
    }

    /// Of what is kept of users.
    pub mod keeping {
        use std::time::Duration;

        /// Commands that are with one server; whatever is asked of it next may go beyond with its own, [`UNREAD_CHANNELS_MAX`](crate::limits::UNREAD_CHANNELS_MAX)
        /// times two.
        pub const COMMANDS_MAX: usize = 1024;
        /// What is to be done besides, of which nobody waits for the answer; beyond it other nodes are not told.
        pub const ERRANDS_MAX: usize = 2048;
        /// What Redis does not take now is asked again after this long.
        pub const RETRY_AFTER: Duration = Duration::from_millis(500);
        /// Marks of a user; beyond it those of epochs that are over go, then the lowest numbers.
        pub const MARKS_PER_USER_MAX: usize = 1000;
        /// So many more go then, so that it does not happen with each mark.
        pub const MARKS_TRIMMED_MORE: usize = 50;
        /// A user's marks go when none was set or asked for in so long.
        pub const MARKS_AGE: Duration = Duration::from_secs(90 * 24 * 3600);
    }

    /// Of who is there on all nodes.
    pub mod presence {
        /// How often what has changed is written: what comes and goes meanwhile is not.
        pub const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
        /// Channels or users in one command: some hundred microseconds for Redis, in which it serves nobody else.
        pub const NAMES_MAX: usize = 512;
        /// Bytes of lists of members that are written at a time, one list at least; and channels whose lists are read at a time.
        pub const ROSTER_BYTES: usize = 256 * 1024;
        pub const ROSTERS_MAX: usize = 8;
        /// Nodes that are asked beside this one.
        pub const NODES_MAX: usize = 1024;
        /// Channels, and users, of whom Redis has not taken what back ends are to be told.
        pub const LATER_MAX: usize = 64 * 1024;
        /// Events that the stream keeps, about.
        pub const EVENTS_KEPT: usize = 100_000;
    }

    /// Of channels whose messages a stream keeps.
    pub mod durable {
        /// What an entry takes beside its payload, in a reply and here.
        pub const ENTRY_BYTES: usize = 128;
        /// The largest reply that is asked for.
        pub const PAGE_BYTES_MAX: usize = 40 * 1024 * 1024;
        /// Entries of a stream that are asked for at a time: some hundred microseconds for Redis, in which it serves nobody else.
        pub const PAGE_ENTRIES_MAX: usize = 256;
        /// Messages of one call of the function that an entry holds, and bytes of them, unless one alone is larger.
        pub const PACKED_MAX: usize = 64;
        pub const PACKED_BYTES_MAX: usize = 16 * 1024;
        /// For how long publishes wait, after a change of master, until the newest entries of their channel are compared.
        pub const DOUBT_MAX: std::time::Duration = std::time::Duration::from_secs(2);
        /// Questions that may be unanswered.
        pub const QUESTIONS_MAX: usize = 1024;
        /// Messages that came before those that are missing, of all channels. Beyond it they are read from their streams once more.
        pub const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
        /// What was read and waits for room in the shards' inboxes; beyond it, and one reply more, nothing is read.
        pub const READ_BYTES_MAX: usize = 32 * 1024 * 1024;
    }
}

/// Of the control port.
pub mod control {
    use super::CHANNEL_NAME_BYTES_MAX;

    /// Most connections at once; a newcomer takes the place of whoever has kept it waiting longest. Scrapers and probes need a handful.
    pub const CONNECTIONS_MAX: usize = 256;
    /// Bytes of a connection's requests that are read ahead; a head must fit. Browsers send the cookies of every port of a host.
    pub const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;
    /// The body of a request that orders something: a name or two.
    pub const COMMAND_BYTES_MAX: usize = 16 * 1024;
    /// Most channels in one `POST /publish`.
    pub const PUBLISH_CHANNELS_MAX: usize = 1000;
    /// Most `POST /publish` under way at once, from before the body is read until the answer is written.
    pub const PUBLISHES_MAX: usize = 32;
    /// Most other requests that cost something, likewise.
    pub const READS_MAX: usize = 8;
    /// Of each kind, how many may wait for that; the next gets 503 at once.
    pub const WAITING_MAX: usize = 64;
    /// What an answer to a publish may hold beyond the names of the request: a number and an epoch, or an error, for each.
    pub const RESULTS_BYTES_MAX: usize = 256 * 1024;
    /// Redis servers that `/readyz` names.
    pub const SERVERS_TOLD_MAX: usize = 8;
    /// Most channels on one page of `GET /channels`.
    pub const PAGE_CHANNELS_MAX: usize = 1000;
    /// Most connections on one page of `GET /connections`.
    pub const PAGE_CONNECTIONS_MAX: usize = 1000;
    /// The largest other answer while it is made: [`PAGE_CHANNELS_MAX`] channels of the longest name, and the page as text.
    pub const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;
    /// Requests that are worked at or wait for that. Fewer than there are connections, so there is always one that waits for its client.
    pub const WORKING_MAX: usize = PUBLISHES_MAX + READS_MAX + 2 * WAITING_MAX;
    /// Who watches the statistics at once: browsers and terminals of operators.
    pub const WATCHERS_MAX: usize = 16;
    /// The largest message of one of them: a command that is answered by a pong or an error.
    pub const WATCHER_MESSAGE_BYTES_MAX: usize = 4 * 1024;
    /// Channels, and Redis servers, that a snapshot of the statistics names.
    pub const BUSIEST_TOLD_MAX: usize = 20;
    pub const BUS_SERVERS_TOLD_MAX: usize = super::redis::SERVERS_MAX;
    /// What a snapshot takes at most: its shards, its channels with the longest names, and what else there is.
    pub const SNAPSHOT_BYTES_MAX: usize = super::SHARDS_MAX * 400 + BUSIEST_TOLD_MAX * (CHANNEL_NAME_BYTES_MAX * 6 + 120) + 64 * 1024;
    /// Bytes of all bodies together, each counted twice; a single larger one is taken when there is no other.
    pub const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
    /// A body beyond twice the largest payload (in base64, or with its quotes escaped): room for the names of the longest kind, quoted and
    /// escaped.
    pub const BODY_SLACK_BYTES: usize = 512 * 1024;

    const _: () = assert!(WORKING_MAX + WATCHERS_MAX < CONNECTIONS_MAX);
    const _: () = assert!(PAGE_CONNECTIONS_MAX * 500 + 2 * super::PAGE_TEXT_BYTES_MAX < ANSWER_BYTES_MAX);
    const _: () = assert!(PAGE_CHANNELS_MAX * (CHANNEL_NAME_BYTES_MAX * 6 + 500) < ANSWER_BYTES_MAX);
    const _: () = assert!(BODY_SLACK_BYTES > PUBLISH_CHANNELS_MAX * (CHANNEL_NAME_BYTES_MAX * 2 + 8));
}

/// Of the journal of durable channels.
pub mod journal {
    use std::time::Duration;

    /// A file is sealed when it has so many bytes; a single larger record gets one of its own. Rewriting one takes as much memory for a moment.
    pub const SEGMENT_BYTES: usize = 32 * 1024 * 1024;
    /// Records that are not synced yet, in the queue and kept until they are; no more is taken.
    pub const UNSYNCED_BYTES_MAX: usize = 64 * 1024 * 1024;
    /// So many are synced before the interval is over.
    pub const SYNC_BYTES: usize = UNSYNCED_BYTES_MAX / 4;
    /// Records that are handed to the writer in one piece, and pieces that may wait for it.
    pub const BUFFER_BYTES: usize = 256 * 1024;
    pub const JOBS_MAX: usize = 1024;
    /// Buffers that are kept to be filled again.
    pub const SPARE_BUFFERS_MAX: usize = 64;
    /// With `fsync = "interval"`.
    pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);
    /// What a server that stops waits for its disk.
    pub const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
    /// After a failure the writer tries again so often.
    pub const RETRY_AFTER: Duration = Duration::from_millis(200);
    /// Files may take so many times what is wanted of them, and two files.
    pub const HOLLOW_DIVISOR: u64 = 2;
    /// Bytes of a file that are looked through in one turn while it is rewritten: half a millisecond.
    pub const REWRITE_BYTES_PER_TURN: usize = 256 * 1024;
    /// Channels that are looked through for what is too old in one turn, messages that go then or for one that comes, and how often all are looked through.
    pub const SWEEP_CHANNELS: u32 = 4096;
    pub const SWEEP_MESSAGES: usize = 4096;
    pub const SWEEP_EVERY_MS: u64 = 1000;
    /// Reads that wait for the disk, and bytes of what they will bring; a single larger one is let through when there is no other.
    pub const READS_MAX: usize = 1024;
    pub const READ_BYTES_MAX: usize = 64 * 1024 * 1024;
    /// Longest idempotency key.
    pub const KEY_BYTES_MAX: usize = 255;
    pub const MARKS_PER_USER_MAX: usize = 1000;
    /// More epochs than may have been given within the last interval before a host crashed.
    pub const EPOCHS_SKIPPED: u64 = 1 << 22;

    const _: () = assert!(SEGMENT_BYTES + super::PAYLOAD_BYTES_MAX < 1 << 31);
}

/// Of the client (`src/client/`): what a server may make it wait for and hold.
pub mod client {
    use std::time::Duration;

    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// For the answer to a request, beyond what was asked to be waited; and for a server to take what is sent.
    pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
    /// For the body of an answer, however little of it comes at a time.
    pub const BODY_TIMEOUT: Duration = Duration::from_secs(120);
    /// How long a server may be silent that has not said how often it speaks.
    pub const SILENCE_MAX: Duration = Duration::from_secs(90);
    /// Longest heartbeat that is believed.
    pub const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);
    /// A server that asks for patience gets this much of it.
    pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
    /// What a poll waits for while it is not known where a channel stands: only then is it told.
    pub const POLL_WAIT_FIRST: Duration = Duration::from_secs(1);
    /// Polls follow each other no sooner than this, whatever the answers are.
    pub const POLL_PACE: Duration = Duration::from_millis(20);
    /// Longest head of an answer, and most fields of it.
    pub const HEAD_BYTES_MAX: usize = 16 * 1024;
    pub const HEAD_FIELDS_MAX: usize = 100;
    /// Longest line that tells the size of a chunk, and longest trailer.
    pub const CHUNK_LINE_BYTES_MAX: usize = 1024;
    pub const TRAILER_BYTES_MAX: usize = 16 * 1024;
    /// Largest event, and largest answer to a poll: what tungstenite takes for a message.
    pub const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;
    /// What is read of the body of a refusal.
    pub const REFUSAL_BYTES_MAX: usize = 4096;
    /// Bytes asked of one read from a socket.
    pub const READ_BYTES: usize = 64 * 1024;
}

/// TLS towards clients.
pub mod tls {
    /// The longest record: its head, 16 KiB of content, and what sealing adds (RFC 8446, 5.2).
    pub const RECORD_BYTES_MAX: usize = 5 + CONTENT_BYTES + 256;
    /// Of one record that we seal.
    pub const CONTENT_BYTES: usize = 16 * 1024;
    /// Of one that is sealed for a socket which took only a part of the last: the rest of one record is what such a connection keeps.
    pub const CONTENT_BYTES_WHEN_BLOCKED: usize = 4 * 1024;
    /// Steps of handshakes in one turn; a full one has two, of which the first costs a tenth of a millisecond.
    pub const HANDSHAKES_PER_TURN: usize = 8;
    /// The same while messages are being sent.
    pub const HANDSHAKES_PER_TURN_OF_LAPS: usize = 1;
    /// Handshakes that a shard has begun and not ended; each takes some 4 KB. Whoever comes beyond waits, with its first words in the socket.
    pub const HANDSHAKES_UNDER_WAY_MAX: usize = 512;
    /// After which a handshake gives its place to somebody who waits for one: its client answers within a round trip.
    pub const HANDSHAKE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
    /// So many give theirs at once at most: closing each takes some microseconds. And so many of those who are arriving are looked at for it.
    pub const PLACES_MADE_AT_ONCE: usize = 256;
    pub const STRANGERS_LOOKED_AT: usize = 4096;
    /// What a shard seals into before it writes: a few records.
    pub const SCRATCH_BYTES: usize = 4 * RECORD_BYTES_MAX;
    /// Bytes asked of one read while shaking hands.
    pub const READ_BYTES_IN_HANDSHAKE: usize = 4 * 1024;
    const _: () = assert!(2 * RECORD_BYTES_MAX + super::CLIENT_READ_BYTES <= super::READ_BYTES);

    /// What a handshake may keep of what has come: a ClientHello, or a chain of certificates, of 16 KiB, and what follows.
    pub const HANDSHAKE_BYTES_MAX: usize = 20 * 1024;
    /// Records that a peer's part of a handshake may come in; a dozen are usual.
    pub const HANDSHAKE_RECORDS_MAX: u8 = 64;
    /// KeyUpdates and empty records between data, warnings of a session: as rustls has it.
    pub const KEY_UPDATES_MAX: u8 = 32;
    pub const EMPTY_RECORDS_MAX: u8 = 32;
    pub const WARNINGS_MAX: u8 = 4;
    /// How long keys make tickets; they are honoured for as long again.
    pub const TICKET_KEY_SECONDS: u64 = 6 * 60 * 60;
    /// Largest ticket that is looked at: it may hold a client's certificates.
    pub const TICKET_BYTES_MAX: usize = 16 * 1024;
    /// Largest file of certificates or of a key.
    pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
    /// Of a file of ticket keys: each line, and how many.
    pub const TICKET_SECRET_BYTES_MIN: usize = 32;
    pub const TICKET_SECRETS_MAX: usize = 8;
    /// Subject and names of a client's certificate.
    pub const IDENTITY_BYTES_MAX: usize = 4096;
}

/// What an allocation of so many bytes takes of the heap: 8 bytes before it, steps of 16, 32 at least (glibc's malloc).
pub const fn heap_bytes(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=24 => 32,
        _ => (bytes + 8).next_multiple_of(16),
    }
}
