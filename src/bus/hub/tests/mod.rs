//! Unit tests of [`super`]: the hub with inboxes whose other end the test holds.

use std::time::Duration;

use mio::{Poll, Token};

use super::*;
use crate::addresses::Source;
use crate::bus::ConnToken;
use crate::bus::embedded::Embedded;
use crate::bus::upstream::Upstream;
use crate::config::{ChannelRule, ChannelRules, Overrun};
use crate::inbox::{Inbox, inbox};
use crate::limits::BATCH_BYTES_MAX;
use crate::wire::Format;
use crate::wire::framing::Encoding;
use crate::wire::payload::Expect;

mod asides;
mod attending;
mod delivering;
mod keeping;
mod numbering;
mod telling;

const LINGER_NS: u64 = 1_000_000_000;
const T0: MonotonicNs = 1_000_000_000_000;

struct Shard {
    inbox: Inbox<ShardMessage>,
    _poll: Poll,
}

struct Bed {
    hub: Hub,
    shards: Vec<Shard>,
    metrics: Arc<BusMetrics>,
}

fn rule() -> ChannelRule {
    ChannelRule {
        overrun: Overrun::Disconnect,
        payload: Expect::Raw,
        mismatch: Mismatch::Opaque,
        log_bytes: 1 << 20,
        history_count: 0,
        history_age: Duration::from_secs(3600),
        ..ChannelRule::default()
    }
}

fn settings_of(rule: ChannelRule, channels_max: usize) -> HubSettings {
    HubSettings {
        inbox_messages: 1024,
        rules: ChannelRules { default: rule, tables: Vec::new() },
        routes: Vec::new(),
        linger_ns: LINGER_NS,
        channels_max,
        channels_of_address: usize::MAX,
        payload_bytes_max: 100_000,
        publishes_per_connection: None,
        publishes_per_user: None,
        inbox_bytes_total: 1 << 30,
        history_bytes_total: 1 << 30,
        history_keeps_channels: false,
        user_presence: crate::config::UserPresence::None,
        has_other_nodes: true,
    }
}

fn bed_of(rule: ChannelRule, capacities: &[usize], channels_max: usize) -> Bed {
    bed_with(settings_of(rule, channels_max), capacities)
}

fn bed_with(settings: HubSettings, capacities: &[usize]) -> Bed {
    let (senders, shards) = capacities
        .iter()
        .map(|&capacity| {
            let poll = Poll::new().unwrap();
            let (sender, inbox) = inbox(capacity, poll.registry(), Token(0)).unwrap();
            (sender, Shard { inbox, _poll: poll })
        })
        .unzip();
    let metrics = Arc::new(BusMetrics::default());
    Bed { hub: Hub::new(settings, metrics.clone(), senders), shards, metrics }
}

fn bed(capacities: &[usize]) -> Bed {
    bed_of(rule(), capacities, 1000)
}

fn topic(index: u32) -> TopicToken {
    TopicToken { index, generation: 1 }
}

fn creator(address: u8, connection: u32) -> Creator {
    Creator { source: Source::of(([192, 0, 2, address], 4000).into()), shard: 0, connection }
}

/// In memory.
fn embedded() -> Embedded {
    let wake: crate::journal::Wake = Arc::new(|| ());
    Embedded::new(&crate::config::Settings::default(), &wake).unwrap()
}

fn somebody() -> Creator {
    creator(1, 1)
}

impl Bed {
    fn join(&mut self, shard: u16, index: u32, name: &str) {
        self.hub.join(shard, topic(index), name, somebody(), T0);
        self.hub.flowing(name, Start::Fresh);
        self.hub.flush(T0);
    }

    fn message(&mut self, name: &str, payload: &[u8]) -> Outcome {
        let id = self.hub.find(name).unwrap();
        self.hub.message(id, payload, Receipt { received: T0, timestamp_ms: 7 })
    }

    fn messages(&mut self, name: &str, count: usize) {
        for _ in 0..count {
            self.message(name, b"x");
        }
        self.hub.flush(T0);
    }

    /// The shard takes one message.
    fn take(&mut self, shard: usize) -> Option<ShardMessage> {
        let inbox = &self.shards[shard].inbox;
        let message = inbox.try_recv();
        if let Some(ShardMessage::Batch { batch, .. }) = &message {
            inbox.release(batch.bytes());
        }
        if let Some(ShardMessage::Aside { aside, .. }) = &message {
            inbox.release(aside.bytes());
        }
        message
    }

    /// What the shard has got, in words.
    fn got(&mut self, shard: usize) -> Vec<String> {
        std::iter::from_fn(|| self.take(shard))
            .map(|message| match message {
                ShardMessage::Joined { topic, seq, history, .. } => {
                    let history: Vec<_> = history.iter().map(|batch| format!("{}..{}", batch.first(), batch.end())).collect();
                    format!("joined {} at {seq} {}", topic.index, history.join(" ")).trim_end().to_owned()
                }
                ShardMessage::Batch { topic, batch } if batch.is_gap() => {
                    let frame = String::from_utf8_lossy(&batch.frames(Encoding::web_socket(Format::Json)).bytes).into_owned();
                    let reason = GapReason::ALL.iter().find(|reason| frame.contains(&format!("\"reason\":\"{}\"", reason.name())));
                    format!("gap {} {}..{} {}", topic.index, batch.first(), batch.end(), reason.unwrap().name())
                }
                ShardMessage::Batch { topic, batch } => format!("batch {} {}..{}", topic.index, batch.first(), batch.end()),
                ShardMessage::Aside { topic, aside } => format!("aside {} {}", topic.index, String::from_utf8_lossy(aside.payload())),
                ShardMessage::Renumbered { topic, seq, .. } => format!("renumbered {} at {seq}", topic.index),
                ShardMessage::Head { topic, seq } => format!("head {} {seq}", topic.index),
                ShardMessage::Refused { topic, refusal: JoinRefusal::ChannelsMax } => format!("refused {}", topic.index),
                ShardMessage::Refused { topic, refusal: JoinRefusal::AddressShare(_) } => format!("refused {} for its share", topic.index),
                ShardMessage::Refused { topic, refusal: JoinRefusal::NotAllowed } => format!("refused {} for good", topic.index),
                ShardMessage::Answer { answer: Answer::Published { result, .. }, .. } => {
                    format!("published {:?}", result.map(|published| published.seq))
                }
                ShardMessage::Answer { answer, .. } => panic!("nobody has asked for {answer:?}"),
                ShardMessage::Order(order) => panic!("the bus orders nothing: {order:?}"),
                ShardMessage::Page { .. } => panic!("nobody has asked for a page"),
                ShardMessage::Marks(_) => panic!("nobody has asked about marks"),
                ShardMessage::Stop => "stop".into(),
            })
            .collect()
    }
}
