//! Where messages come from: one thread that reads Redis or is itself the (embedded) bus, numbers messages, groups them
//! into batches and hands them to the shards that have a subscriber. It never blocks on a shard.
//!
//! - [`subscriber`]: the thread and its turn. `spawn` starts it.
//! - [`hub`]: channels, numbers, batches, node history; [`lane`]: the way to one shard when its inbox is full; [`history`];
//!   [`lingering`]: channels that nobody hears any more;
//!   [`release`]: when their memory is given back.
//! - [`upstream`]: the seam behind which messages come in: [`embedded`] (no Redis) or [`redis`] (one server).
//! - Redis, from the socket up: [`target`] (URL), [`socket`], [`link`] (connection), [`resp`] (replies), [`awaiting`] (which command a reply
//!   answers), [`fault`] (what errors mean), [`names`], [`subscriptions`], [`publishes`], [`feed`] (what comes in), [`health`] (what is logged).
#![forbid(unsafe_code)]

pub mod awaiting;
pub mod embedded;
pub mod fault;
pub mod feed;
pub mod health;
pub mod history;
pub mod hub;
pub mod lane;
pub mod lingering;
pub mod link;
pub mod names;
pub mod pace;
pub mod publishes;
pub mod redis;
pub mod release;
pub mod resp;
pub mod socket;
pub mod subscriber;
pub mod subscriptions;
pub mod target;
pub mod upstream;

use std::sync::Arc;

use crate::addresses::Source;
use crate::fanout::batch::{Batch, Channel};
use crate::shard::inbox::InboxSender;
use crate::wire::command::Id;
use crate::wire::payload::Expect;

/// Commands that wait for the bus thread; a full inbox gives the command back to whoever sends it.
pub const COMMANDS_MAX: usize = 16 * 1024;
/// Publishes sent to Redis and not yet answered; one more is answered [`PublishError::Busy`].
pub const PUBLISHES_MAX: usize = 4096;
/// Bytes of their payloads; a single larger one is let through when nothing else is under way.
pub const PUBLISH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A topic slot of one shard: index and generation, so that a batch for a topic that is gone finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicToken {
    pub index: u32,
    pub generation: u32,
}

/// A connection slot of one shard: index and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnToken {
    pub index: u32,
    pub generation: u32,
}

/// Whose doing it is that a channel is there: a connection of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Creator {
    pub source: Source,
    pub shard: u16,
    /// Its generation, which no other connection of the shard has.
    pub connection: u32,
}

impl Creator {
    /// Nobody of this source comes after it.
    const fn last_of(source: Source) -> Creator {
        Creator { source, shard: u16::MAX, connection: u32::MAX }
    }

    /// Whoever publishes where nobody listens, and history is kept.
    fn of_publish(reply: &PublishReply) -> Creator {
        match reply {
            PublishReply::Client { shard, conn, .. } => Creator { source: Source::PUBLISHERS, shard: *shard, connection: conn.generation },
            PublishReply::Control(_) => Creator::last_of(Source::PUBLISHERS),
        }
    }
}

/// Why a shard cannot have a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JoinRefusal {
    /// The host serves `channels_max`, and somebody hears each of them.
    ChannelsMax,
    /// As many channels are there for this address as may be (`channels_per_address`). Another one may have it.
    AddressShare(Source),
    /// Redis does not let us subscribe to it, and will not before an operator changes that.
    NotAllowed,
}

/// What shards and the control thread ask of the bus thread.
#[derive(Debug)]
pub enum BusCommand {
    /// The shard has its first subscriber of this channel. Answered by [`ShardMessage::Joined`] once messages flow.
    Join {
        shard: u16,
        topic: TopicToken,
        channel: Arc<str>,
        /// Who is the first.
        creator: Creator,
    },
    /// The shard has none any more. May come while the join is still unanswered.
    Leave {
        shard: u16,
        topic: TopicToken,
        channel: Arc<str>,
    },
    Publish(Publish),
    /// Up to `limit` channels from `from` on, for `GET /channels`.
    ListChannels {
        from: usize,
        limit: usize,
        reply: tokio::sync::oneshot::Sender<ChannelPage>,
    },
    /// Hand out what has been received, then forward [`ShardMessage::Stop`] to every shard and end.
    Stop,
}

#[derive(Debug)]
pub struct Publish {
    pub channel: Box<str>,
    pub payload: Vec<u8>,
    pub reply: PublishReply,
}

#[derive(Debug)]
pub enum PublishReply {
    /// A client's `publish`: answered by [`ShardMessage::Published`].
    Client {
        shard: u16,
        conn: ConnToken,
        id: Option<Id>,
    },
    Control(tokio::sync::oneshot::Sender<Result<Published, PublishError>>),
}

/// The number is None when this node does not serve the channel (Redis has it, but nobody here listens).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    pub epoch: Option<u64>,
    pub seq: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Redis is away: the message was not sent, or it was under way when the connection was lost and may have been published.
    #[error("Redis cannot be reached; the message may not have been published")]
    Unavailable,
    #[error("too many publishes are under way; try again")]
    Busy,
    #[error("the payload is larger than {bytes_max} bytes")]
    TooBig { bytes_max: usize },
    /// Not what the channel's `payload` setting says, and its `payload_mismatch` is `drop`. Only the embedded bus knows in time.
    #[error("the payload is not {}, which the channel's `payload` setting asks for", .0.wanted())]
    Mismatch(Expect),
    #[error("Redis refused the publish: {0}")]
    Refused(String),
}

#[derive(Debug)]
pub struct ChannelPage {
    pub channels: Vec<ChannelInfo>,
    /// Pass it as `from` to get the next page; None after the last.
    pub next: Option<usize>,
}

#[derive(Debug)]
pub struct ChannelInfo {
    pub name: String,
    pub epoch: u64,
    pub seq: u64,
    pub subscribers: u32,
    pub history_messages: usize,
}

/// What the bus thread (and the control thread) tells a shard.
#[derive(Debug)]
pub enum ShardMessage {
    /// The answer to a join: messages after `seq` will follow. `history` ends at `seq` and may be empty.
    Joined {
        topic: TopicToken,
        channel: Arc<Channel>,
        seq: u64,
        history: Vec<Arc<Batch>>,
    },
    Batch {
        topic: TopicToken,
        batch: Arc<Batch>,
    },
    /// The answer to a join that cannot be: nothing will follow; the topic counts as left.
    Refused {
        topic: TopicToken,
        refusal: JoinRefusal,
    },
    /// Messages up to `seq` were lost on the way because this inbox was full; a shard that is behind announces a gap.
    /// (A shard also sees a hole by itself when the next batch arrives.)
    Head {
        topic: TopicToken,
        seq: u64,
    },
    Published {
        conn: ConnToken,
        id: Option<Id>,
        channel: Box<str>,
        result: Result<Published, PublishError>,
    },
    /// Send what is due, close with 1001, end.
    Stop,
}

pub type BusSender = InboxSender<BusCommand>;
pub type ShardSender = InboxSender<ShardMessage>;

/// Puts a publish into the bus thread's inbox without waking it, within [`PUBLISH_BYTES_MAX`]. Gives it back if there is no room.
pub fn push_publish(bus: &BusSender, publish: Publish) -> Result<(), Publish> {
    let bytes = publish.payload.len();
    if !bus.reserve(bytes, PUBLISH_BYTES_MAX) {
        return Err(publish);
    }
    bus.push(BusCommand::Publish(publish)).map_err(|command| {
        bus.unreserve(bytes);
        match command {
            BusCommand::Publish(publish) => publish,
            _ => unreachable!("what was pushed comes back"),
        }
    })
}
