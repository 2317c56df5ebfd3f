//! What connections, and the control port, ask of the bus, and what it answers: each once, however long that takes. Whoever has asked may be gone
//! by then.
//!
//! A new question is a variant of [`Question`], taken up in [`super::subscriber`], and one of [`Answer`], told in `shard/questions.rs`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::ConnToken;
use super::marks::{MarksAnswer, MarksQuestion};
use super::presence::{CensusAsked, CensusPage, PresenceAsked, PresenceError, Present, Subject};
use super::rates::TooMany;
use super::recall::{HistoryError, HistoryPage, Recall};
use super::shares::Ticket;
use crate::auth::identity::Identity;
use crate::clock::MonotonicNs;
use crate::config::routes::Unrouted;
use crate::fanout::batch::Channel;
use crate::fanout::topics::TopicToken;
use crate::journal::AppendError;
use crate::rate::Publisher;
use crate::wire::command::Id;
use crate::wire::payload::Expect;

/// Which connection has asked, and what it calls its question.
#[derive(Debug, Clone)]
pub struct ReplyTo {
    pub shard: u16,
    pub conn: ConnToken,
    pub id: Option<Id>,
}

/// Who has asked.
#[derive(Debug)]
pub enum Asker {
    /// Answered by [`ShardMessage::Answer`](super::ShardMessage::Answer).
    Client(ReplyTo),
    Control(oneshot::Sender<Answer>),
}

/// Each names its [`Asker`].
#[derive(Debug)]
pub enum Question {
    Publish(Publish),
    History(HistoryAsked),
    Marks(Box<MarksQuestion>),
    Presence(PresenceAsked),
    Census(CensusAsked),
}

/// To each question its own.
#[derive(Debug)]
pub enum Answer {
    Published { channel: Box<str>, result: Result<Published, PublishError> },
    History { channel: Box<str>, result: Result<HistoryPage, HistoryError> },
    Marks(Box<MarksAnswer>),
    Presence { subject: Subject, result: Result<Present, PresenceError> },
    Census { result: Result<CensusPage, PresenceError> },
}

/// It goes in through [`BusSender::publish`](super::BusSender::publish) or [`BusSender::publish_from`](super::BusSender::publish_from).
#[derive(Debug)]
pub struct Publish {
    pub channel: Box<str>,
    pub payload: Box<[u8]>,
    pub asker: Asker,
    /// Who has sent it, where that is known.
    pub client: Option<Arc<Identity>>,
    /// Of a durable channel: a message with the same one is published once.
    pub idempotency_key: Option<Box<IdempotencyKey>>,
    /// By a bus that passes it on. None: it was not sent again.
    pub sent_again: Option<Box<SentAgain>>,
    /// Its part of what may be under way.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) ticket: Ticket,
}

impl Publish {
    pub fn new(channel: impl Into<Box<str>>, payload: Vec<u8>, asker: Asker) -> Publish {
        Publish {
            channel: channel.into(),
            payload: payload.into(),
            asker,
            client: None,
            idempotency_key: None,
            sent_again: None,
            ticket: Ticket::default(),
        }
    }

    /// The same, sent by this client.
    pub fn by(self, client: Option<Arc<Identity>>) -> Publish {
        Publish { client, ..self }
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_given_up(&self) -> bool {
        matches!(&self.asker, Asker::Control(sender) if sender.is_closed())
    }
}

/// What is kept of a channel.
#[derive(Debug)]
pub struct HistoryAsked {
    pub recall: Recall,
    pub asker: Asker,
}

/// How often a publish had to be sent again, because whom it was sent to had not executed it, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentAgain {
    pub times: u32,
    pub since: MonotonicNs,
}

/// A page of what is kept of a channel.
#[derive(Debug)]
pub struct PageWanted {
    /// With the epoch that is meant.
    pub channel: Arc<Channel>,
    pub from: u64,
    pub to: PageReader,
}

/// Who is to get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageReader {
    pub shard: u16,
    pub topic: TopicToken,
}

/// By which a message that is published to a durable channel is known again. Seldom given: a box of its own keeps a [`Publish`] small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(Box<str>);

impl IdempotencyKey {
    pub fn boxed(text: &str) -> Box<IdempotencyKey> {
        Box::new(IdempotencyKey(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The number is None when this node does not serve the channel (Redis has it, but nobody here listens).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    pub epoch: Option<u64>,
    pub seq: Option<u64>,
    /// It was published before, with the same idempotency key; this is the number that it got then.
    pub is_repeat: bool,
}

impl Published {
    /// In no channel of this node by its own name.
    pub const NOWHERE: Published = Published { epoch: None, seq: None, is_repeat: false };

    pub const fn at(epoch: u64, seq: u64) -> Published {
        Published { epoch: Some(epoch), seq: Some(seq), is_repeat: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Redis is away: the message was not sent, or it was under way when the connection was lost and may have been published.
    #[error("Redis cannot be reached; the message may not have been published")]
    Unavailable,
    #[error("too many publishes are under way; try again")]
    Busy,
    /// It was never sent.
    #[error("Redis, the disk or this server itself is too slow to take it; nothing was published within {} s, try again", .0.as_secs())]
    Late(Duration),
    #[error("the payload is larger than {bytes_max} bytes")]
    TooBig { bytes_max: usize },
    #[error(
        "the payload is larger than {bytes_max} bytes: Redis would cut off everybody who subscribes rather than keep it for them \
         (half of its client-output-buffer-limit pubsub)"
    )]
    TooBigForRedis { bytes_max: usize },
    /// Not what the channel's `payload` setting says, and its `payload_mismatch` is `drop`. Only the embedded bus knows in time.
    #[error("the payload is not {}, which the channel's `payload` setting asks for", .0.wanted())]
    Mismatch(Expect),
    /// The channel's messages are routed, and this one went nowhere. Only the embedded bus knows in time.
    #[error("the channel's messages go to others by a field of theirs (campanile config --explain tells which); this one {}", .0.text())]
    Unrouted(Unrouted),
    /// Its publishers send too many.
    #[error("{} more than {} messages a second; nothing was published", who(.0.of), .0.per_second)]
    RateLimited(TooMany),
    /// Redis has been restarted empty, or its functions were taken away: they are loaded again.
    #[error("the functions of durable channels are not there yet; nothing was published. Try again, or run campanile redis install")]
    NoLibrary,
    /// Only durable channels know a message again.
    #[error("an idempotency key is for durable channels, and this is none; nothing was published")]
    NotDurable,
    /// Of a durable channel without Redis.
    #[error("the message cannot be kept, so nothing was published: {0}")]
    NotKept(AppendError),
    #[error("the server stopped before the disk had the message; it may be there when it starts again")]
    Unsettled,
    #[error("Redis refused the publish: {0}")]
    Refused(String),
    /// It is there, and may be lost with its master.
    #[error(
        "the message is published, but {replicas} of {wanted} replicas (durable_wait) had it within a second, so a failover may lose it; \
         publish it again with its idempotency key"
    )]
    NotReplicated { replicas: usize, wanted: usize },
}

fn who(of: Publisher) -> &'static str {
    match of {
        Publisher::Connection => "this connection publishes",
        Publisher::User => "all connections of this user together publish",
        Publisher::Channel => "all clients together publish to this channel",
    }
}
