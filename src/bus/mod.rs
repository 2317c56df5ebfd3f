//! Where messages come from: one thread (its own, or that of the only shard) reads Redis or is itself the (embedded) bus, numbers messages, groups them
//! into batches and hands them to the shards that have a subscriber. It never blocks on a shard.
//!
//! - [`subscriber`]: its turn. [`thread`]: the thread; `spawn` starts it. [`pace`]: how often it gets up.
//! - [`hub`]: messages and their numbers. [`route`]: to which channels those of one channel go. [`flow`]: whether they come, and where their numbers go on. [`history`]: the newest batches.
//! - [`registry`]: which channels there are, [`lingering`] those that nobody hears any more.
//! - [`busiest`]: which channels have the most to deliver, while somebody watches. [`delivery`]: what is on its way to shards, [`lane`]: the way to one of them, and what it is owed.
//! - [`question`]: what connections and the control port ask. [`shares`]: whose publishes may be how many, [`rates`]: in a second; [`queue`]: in which order they go on.
//! - [`marks`]: what is asked about how far users have read.
//! - [`order`]: what the control thread tells shards, past the bus; [`revoke`]: what it tells all nodes of revoked tokens.
//! - [`upstream`]: the seam behind which messages come in: [`embedded`] (no Redis; durable channels by [`crate::journal`]) or [`redis`] (one server; all that is Redis's own). [`pages`]: what is read of durable channels for those who resume; [`recall`]: for those who ask for their history; [`presence`]: who asks who is there; [`ration`]: of lines in the log.
#![forbid(unsafe_code)]

pub mod busiest;
pub mod delivery;
pub mod embedded;
pub mod flow;
pub mod history;
pub mod hub;
pub mod lane;
pub mod lingering;
pub mod marks;
pub mod order;
pub mod pace;
pub mod pages;
pub mod presence;
pub mod question;
pub mod queue;
pub mod rates;
pub mod ration;
pub mod recall;
pub mod redis;
pub mod registry;
pub mod revoke;
pub mod route;
pub mod settings;
pub mod shares;
pub mod subscriber;
pub mod thread;
pub mod upstream;

use std::ops::Deref;
use std::sync::Arc;

use crate::addresses::Source;
use marks::{MarkNews, MarksQuestion};
use order::Order;
use question::{Answer, Asker, Publish, Question, ReplyTo};
use revoke::Revoke;
use shares::{Publishers, Share, Shares, Ticket};

use crate::fanout::aside::Aside;
use crate::fanout::batch::{Batch, Channel};
use crate::fanout::naming::ChannelName;
use crate::fanout::topics::TopicToken;
use crate::inbox::InboxSender;
use crate::limits::bus::{PUBLISH_BYTES_MAX, PUBLISHES_MAX};
use crate::wire::command::Id;

/// What of both only the control port may use, and no more than that.
pub const CONTROL_SHARE: Share = Share { count: PUBLISHES_MAX / 4, bytes: PUBLISH_BYTES_MAX / 4 };

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
    fn of_publish(asker: &Asker) -> Creator {
        match asker {
            Asker::Client(ReplyTo { shard, conn, .. }) => {
                Creator { source: Source::PUBLISHERS, shard: *shard, connection: conn.generation }
            }
            Asker::Control(_) => Creator::last_of(Source::PUBLISHERS),
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
        channel: ChannelName,
        /// Who is the first.
        creator: Creator,
    },
    /// The shard has none any more. May come while the join is still unanswered.
    Leave { shard: u16, topic: TopicToken, channel: ChannelName },
    /// Answered once, by the [`Answer`] that belongs to it.
    Ask(Question),
    /// What is kept of a durable channel and older than the shard's log, from this number on. Answered by [`ShardMessage::Page`].
    ReadPage { shard: u16, topic: TopicToken, channel: Arc<Channel>, from: u64 },
    /// So many connections more, or less, these users have on a shard.
    CountUsers(Vec<(Box<str>, i32)>),
    /// Who is subscribed to a channel on a shard: all of them, or as many as are listed.
    ListMembers { shard: u16, channel: ChannelName, roster: presence::Roster },
    /// Answered when all that has come before it is handed out.
    Settle(tokio::sync::oneshot::Sender<()>),
    /// For all nodes. Answered when it stands where they find it.
    Revoke(Revoke),
    /// Up to `limit` channels from `from` on, for `GET /channels`.
    ListChannels { from: usize, limit: usize, reply: tokio::sync::oneshot::Sender<ChannelPage> },
    /// The channels that have the most to deliver, since this was last asked.
    Busiest { limit: usize, reply: tokio::sync::oneshot::Sender<busiest::Busy> },
    /// Goes by these settings from now on.
    Reload(Box<settings::HubSettings>),
    /// Hand out what has been received, then forward [`ShardMessage::Stop`] to every shard and end.
    Stop,
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
    /// None until it has flowed.
    pub epoch: Option<u64>,
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
    /// A message without a number, for whoever is subscribed now.
    Aside {
        topic: TopicToken,
        aside: Arc<Aside>,
    },
    /// The answer to a join that cannot be: nothing will follow; the topic counts as left.
    Refused {
        topic: TopicToken,
        refusal: JoinRefusal,
    },
    /// The channel is counted anew, in another epoch: messages after `seq` will follow. What was counted before has come or never will.
    Renumbered {
        topic: TopicToken,
        channel: Arc<Channel>,
        seq: u64,
    },
    /// Messages up to `seq` were lost on the way because this inbox was full; a shard that is behind announces a gap.
    /// (A shard also sees a hole by itself when the next batch arrives.)
    Head {
        topic: TopicToken,
        seq: u64,
    },
    /// The answer to [`BusCommand::ReadPage`]: consecutive numbers from that one on, or nothing, where it cannot be had.
    Page {
        topic: TopicToken,
        from: u64,
        batches: Vec<Arc<Batch>>,
    },
    /// To what one of its connections has asked, which may be gone by now.
    Answer {
        conn: ConnToken,
        id: Option<Id>,
        answer: Answer,
    },
    /// Marks that were set, of users who may have a connection here.
    Marks(Arc<[MarkNews]>),
    /// From the control thread.
    Order(Order),
    /// Send what is due, close with 1001, end.
    Stop,
}

/// The way into the bus thread. Publishes go through [`BusSender::publish`] and [`BusSender::publish_from`], all else through the inbox.
#[derive(Debug, Clone)]
pub struct BusSender {
    inbox: InboxSender<BusCommand>,
    shares: Arc<Shares>,
    marks: Arc<Shares>,
}

pub type ShardSender = InboxSender<ShardMessage>;

impl BusSender {
    /// `inbox_messages`: what a shard's inbox takes. Answers to publishes go there too and must not crowd out messages.
    pub fn new(inbox: InboxSender<BusCommand>, inbox_messages: usize) -> BusSender {
        let clients = Share {
            count: (PUBLISHES_MAX - CONTROL_SHARE.count).min(inbox_messages / 4).max(1),
            bytes: PUBLISH_BYTES_MAX - CONTROL_SHARE.bytes,
        };
        let marks = Shares::new(marks::CLIENTS_SHARE, marks::CONTROL_SHARE);
        BusSender { inbox, shares: Arc::new(Shares::new(clients, CONTROL_SHARE)), marks: Arc::new(marks) }
    }

    /// A publish of the control port, put in without waking the bus thread. Gives it back if too much is under way.
    pub fn publish(&self, publish: Publish) -> Result<(), Publish> {
        match self.shares.for_control(publish.payload.len()) {
            Some(ticket) => self.push_publish(Publish { ticket, ..publish }),
            None => Err(publish),
        }
    }

    /// A publish of one of a shard's connections, likewise.
    pub fn publish_from(&self, conn: ConnToken, publishers: &mut Publishers, publish: Publish) -> Result<(), Publish> {
        match publishers.ticket(conn, publish.payload.len(), &self.shares) {
            Some(ticket) => self.push_publish(Publish { ticket, ..publish }),
            None => Err(publish),
        }
    }

    fn push_publish(&self, publish: Publish) -> Result<(), Publish> {
        self.inbox.push(BusCommand::Ask(Question::Publish(publish))).map_err(|command| match command {
            BusCommand::Ask(Question::Publish(publish)) => Publish { ticket: Ticket::default(), ..publish },
            _ => unreachable!("what was pushed comes back"),
        })
    }

    /// A question of the control port about marks, put in without waking the bus thread. Gives it back if too much is under way.
    pub fn ask_marks(&self, question: Box<MarksQuestion>) -> Result<(), Box<MarksQuestion>> {
        match self.marks.for_control(question.bytes()) {
            Some(ticket) => self.push_marks(question, ticket),
            None => Err(question),
        }
    }

    /// One of a shard's connections, likewise.
    pub fn ask_marks_from(&self, conn: ConnToken, askers: &mut Publishers, question: Box<MarksQuestion>) -> Result<(), Box<MarksQuestion>> {
        match askers.ticket(conn, question.bytes(), &self.marks) {
            Some(ticket) => self.push_marks(question, ticket),
            None => Err(question),
        }
    }

    fn push_marks(&self, mut question: Box<MarksQuestion>, ticket: Ticket) -> Result<(), Box<MarksQuestion>> {
        question.ticket = ticket;
        self.inbox.push(BusCommand::Ask(Question::Marks(question))).map_err(|command| match command {
            BusCommand::Ask(Question::Marks(mut question)) => {
                question.ticket = Ticket::default();
                question
            }
            _ => unreachable!("what was pushed comes back"),
        })
    }

    /// What is under way of publishes.
    pub fn publishes(&self) -> Share {
        self.shares.held()
    }
}

impl Deref for BusSender {
    type Target = InboxSender<BusCommand>;

    fn deref(&self) -> &InboxSender<BusCommand> {
        &self.inbox
    }
}
