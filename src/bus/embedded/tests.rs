//! Unit tests of [`super::durable`]: the bus with a shard's inbox whose other end the test holds.

use std::collections::VecDeque;
use std::sync::Arc;

use mio::{Poll, Token};
use tokio::sync::oneshot;

use super::Embedded;
use crate::addresses::Source;
use crate::bus::hub::Hub;
use crate::bus::question::{Answer, Asker, IdempotencyKey, PageReader, PageWanted, Publish, PublishError, Published};
use crate::bus::registry::Request;
use crate::bus::settings::HubSettings;
use crate::bus::upstream::Upstream;
use crate::bus::{Creator, ShardMessage};
use crate::clock::MonotonicNs;
use crate::config::{Mismatch, Settings};
use crate::fanout::batch::Channel;
use crate::fanout::topics::TopicToken;
use crate::inbox::{Inbox, inbox};
use crate::journal::{AppendError, Wake};
use crate::metrics::BusMetrics;
use crate::sys::monotonic_ns;

struct Bed {
    hub: Hub,
    bus: Embedded,
    shard: Inbox<ShardMessage>,
    _poll: Poll,
    answers: VecDeque<oneshot::Receiver<Answer>>,
    now: MonotonicNs,
}

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    Settings::default().with(|settings| {
        settings.shards.count = 1;
        settings.channels.default.durable = true;
        settings.channels.default.history_count = 1000;
        change(settings);
    })
}

fn bed(settings: &Settings) -> Bed {
    let poll = Poll::new().unwrap();
    let (sender, shard) = inbox(settings.shards.inbox_messages, poll.registry(), Token(0)).unwrap();
    let hub = Hub::new(HubSettings::from(settings), Arc::<BusMetrics>::default(), vec![sender]);
    let wake: Wake = Arc::new(|| ());
    Bed { hub, bus: Embedded::new(settings, &wake).unwrap(), shard, _poll: poll, answers: VecDeque::new(), now: monotonic_ns() }
}

impl Bed {
    fn publish(&mut self, channel: &str, payload: &str, key: Option<&str>) {
        let (sender, answer) = oneshot::channel();
        let mut publish = Publish::new(channel, payload.into(), Asker::Control(sender));
        publish.idempotency_key = key.map(IdempotencyKey::boxed);
        self.bus.publish(&mut self.hub, publish, self.now);
        self.answers.push_back(answer);
    }

    fn join(&mut self, index: u32, channel: &str) {
        let creator = Creator { source: Source::of(([192, 0, 2, 1], 4000).into()), shard: 0, connection: 1 };
        self.hub.join(0, TopicToken { index, generation: 1 }, channel, creator, self.now);
        self.pass_requests();
    }

    fn pass_requests(&mut self) {
        while let Some(request) = self.hub.next_request() {
            if let Request::Want(channel) = request {
                self.bus.want(&mut self.hub, &channel);
            }
        }
    }

    fn turn(&mut self) {
        self.now += 1_000_000;
        self.bus.read(&mut self.hub, self.now);
        self.hub.flush(self.now);
        self.bus.write(&mut self.hub, self.now);
        self.hub.flush(self.now);
    }

    /// The answer to the oldest publish that has none yet.
    fn answer(&mut self) -> Result<Published, PublishError> {
        let mut awaited = self.answers.pop_front().unwrap();
        loop {
            if let Ok(answer) = awaited.try_recv() {
                let Answer::Published { result, .. } = answer else { panic!("{answer:?}") };
                return result;
            }
            self.turn();
            std::thread::yield_now();
        }
    }

    /// What the shard has got: where each channel begins, and numbers.
    fn got(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.shard.try_recv())
            .map(|message| match message {
                ShardMessage::Joined { topic, seq, history, .. } => format!("joined {} at {seq} {}", topic.index, history.len()),
                ShardMessage::Batch { topic, batch } => {
                    self.shard.release(batch.bytes());
                    format!("{} {}..{}", topic.index, batch.first(), batch.end())
                }
                ShardMessage::Renumbered { topic, seq, .. } => format!("renumbered {} at {seq}", topic.index),
                ShardMessage::Page { from, batches, .. } => {
                    let parts: Vec<_> = batches
                        .iter()
                        .map(|batch| format!("{}{}..{}", if batch.is_gap() { "gap " } else { "" }, batch.first(), batch.end()))
                        .collect();
                    format!("page {from}: {}", parts.join(" "))
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

#[test]
fn a_join_is_answered_between_the_messages_that_it_came_between() {
    let folder = std::env::temp_dir().join(format!("campanile-durables-{}", std::process::id()));
    for data_dir in [None, Some(folder.clone())] {
        let settings = settings(|settings| settings.journal.data_dir = data_dir.clone());
        let mut bed = bed(&settings);
        for payload in ["a", "b"] {
            bed.publish("c", payload, None);
        }
        bed.join(1, "c");
        bed.publish("c", "c", Some("key"));
        bed.publish("c", "again", Some("key"));
        assert_eq!(bed.got(), [""; 0], "nothing is shown before its turn has ended");
        let answers: Vec<_> = (0..4).map(|_| bed.answer().unwrap()).collect();
        assert_eq!(
            answers.iter().map(|published| (published.seq, published.is_repeat)).collect::<Vec<_>>(),
            [(Some(1), false), (Some(2), false), (Some(3), false), (Some(3), true)]
        );
        assert_eq!(bed.got(), ["joined 1 at 2 0", "1 3..4"]);
        let channel = Arc::new(Channel { name: "c".into(), epoch: answers[0].epoch.unwrap(), subscribers: Default::default() });
        let to = PageReader { shard: 0, topic: TopicToken { index: 1, generation: 1 } };
        bed.bus.read_page(&mut bed.hub, PageWanted { channel: channel.clone(), from: 1, to });
        bed.turn();
        assert_eq!(bed.got(), ["page 1: 1..4"]);
        bed.publish("c", "d", None);
        bed.answer().unwrap();
        assert_eq!(bed.got(), ["1 4..5"]);
        bed.bus.read_page(&mut bed.hub, PageWanted { channel, from: 1, to });
        bed.turn();
        assert_eq!(bed.got(), ["page 1: 1..5"], "what was kept of the page was not all of it any more");
        bed.bus.stop(&mut bed.hub);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_under_way_at_the_end_is_answered() {
    let folder = std::env::temp_dir().join(format!("campanile-durables-end-{}", std::process::id()));
    let settings = settings(|settings| settings.journal.data_dir = Some(folder.clone()));
    for round in 0..2 {
        let mut bed = bed(&settings);
        (0..100).for_each(|_| bed.publish("c", "x", None));
        bed.bus.stop(&mut bed.hub);
        for number in 1..=100 {
            let Ok(Answer::Published { result, .. }) = bed.answers.pop_front().unwrap().try_recv() else { panic!("no answer") };
            assert_eq!(result.unwrap().seq, Some(round * 100 + number));
        }
        bed.publish("c", "x", None);
        assert!(matches!(bed.answer(), Err(PublishError::NotKept(AppendError::Failing(_)))));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_message_of_the_channel_gets_no_number() {
    let settings = settings(|settings| {
        settings.channels.default.payload = crate::wire::payload::Expect::Json;
        settings.channels.default.mismatch = Mismatch::Drop;
    });
    let mut bed = bed(&settings);
    for payload in ["1", "{", "2"] {
        bed.publish("c", payload, None);
    }
    assert_eq!(bed.answer().unwrap().seq, Some(1));
    assert!(matches!(bed.answer(), Err(PublishError::Mismatch(_))));
    assert_eq!(bed.answer().unwrap().seq, Some(2));
}

#[test]
fn a_reload_that_makes_a_channel_durable_or_not_begins_an_epoch() {
    let durable = settings(|_| ());
    let plain = settings(|settings| settings.channels.default.durable = false);
    let mut bed = bed(&durable);
    bed.join(1, "c");
    bed.publish("c", "x", None);
    let first = bed.answer().unwrap();
    bed.got();
    for (settings, seq) in [(&plain, 1), (&durable, 2)] {
        bed.hub.reload(HubSettings::from(settings));
        while bed.hub.take_over_rules() {}
        bed.publish("c", "x", None);
        let published = bed.answer().unwrap();
        assert_eq!((published.seq, published.epoch == first.epoch), (Some(seq), seq == 2));
        bed.turn();
        assert_eq!(bed.got(), [format!("renumbered 1 at {}", seq - 1), format!("1 {seq}..{}", seq + 1)]);
    }
}
