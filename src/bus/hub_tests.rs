//! Unit tests of [`super`]: the hub with inboxes whose other end the test holds.

use std::time::Duration;

use mio::{Poll, Token};

use super::super::ConnToken;
use super::super::embedded::Embedded;
use super::super::upstream::Upstream;
use super::*;
use crate::addresses::Source;
use crate::config::{ChannelRule, Overrun};
use crate::inbox::{Inbox, inbox};
use crate::limits::BATCH_BYTES_MAX;
use crate::wire::Format;
use crate::wire::framing::Encoding;
use crate::wire::payload::Expect;

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
    }
}

fn settings_of(rule: ChannelRule, channels_max: usize) -> HubSettings {
    HubSettings {
        inbox_messages: 1024,
        rules: ChannelRules { default: rule, by_prefix: Vec::new() },
        linger_ns: LINGER_NS,
        channels_max,
        channels_of_address: usize::MAX,
        payload_bytes_max: 100_000,
        inbox_bytes_total: 1 << 30,
        history_bytes_total: 1 << 30,
        history_keeps_channels: false,
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
                ShardMessage::Renumbered { topic, seq, .. } => format!("renumbered {} at {seq}", topic.index),
                ShardMessage::Head { topic, seq } => format!("head {} {seq}", topic.index),
                ShardMessage::Refused { topic, refusal: JoinRefusal::ChannelsMax } => format!("refused {}", topic.index),
                ShardMessage::Refused { topic, refusal: JoinRefusal::AddressShare(_) } => format!("refused {} for its share", topic.index),
                ShardMessage::Refused { topic, refusal: JoinRefusal::NotAllowed } => format!("refused {} for good", topic.index),
                ShardMessage::Answer { answer: Answer::Published { result, .. }, .. } => {
                    format!("published {:?}", result.map(|published| published.seq))
                }
                ShardMessage::Stop => "stop".into(),
            })
            .collect()
    }
}

#[test]
fn one_read_becomes_one_batch_for_each_shard_that_joined() {
    let mut bed = bed(&[100, 100, 100]);
    bed.join(0, 5, "a");
    bed.join(2, 6, "a");
    bed.join(1, 7, "b");
    bed.messages("a", 3);
    bed.messages("a", 2);
    bed.messages("b", 1);
    assert_eq!(bed.got(0), ["joined 5 at 0", "batch 5 1..4", "batch 5 4..6"]);
    assert_eq!(bed.got(2), ["joined 6 at 0", "batch 6 1..4", "batch 6 4..6"]);
    assert_eq!(bed.got(1), ["joined 7 at 0", "batch 7 1..2"]);
    assert_eq!((bed.metrics.messages.get(), bed.metrics.bytes.get(), bed.metrics.batches.get()), (6, 6, 3));
    bed.join(1, 8, "a");
    assert_eq!(bed.got(1), ["joined 8 at 5"]);
}

#[test]
fn a_join_between_two_messages_of_one_read_misses_and_doubles_nothing() {
    let mut bed = bed(&[100, 100]);
    bed.join(0, 1, "a");
    bed.message("a", b"1");
    bed.hub.join(1, topic(2), "a", somebody(), T0);
    bed.message("a", b"2");
    bed.hub.flush(T0);
    // The open batch is delivered whole: what it holds counts as published after the join.
    assert_eq!(bed.got(1), ["joined 2 at 0", "batch 2 1..3"]);
    assert_eq!(bed.got(0), ["joined 1 at 0", "batch 1 1..3"]);
}

#[test]
fn a_full_inbox_is_counted_and_announced_by_a_head() {
    let mut bed = bed(&[2, 100]);
    bed.join(0, 1, "a");
    bed.join(1, 2, "a");
    for _ in 0..4 {
        bed.messages("a", 10);
    }
    assert_eq!(bed.metrics.inbox_full.get(), 30);
    assert_eq!(bed.hub.deadline(T0), Some(T0 + RETRY_NS), "it is tried again though nothing comes in");
    assert_eq!(bed.got(0), ["joined 1 at 0", "batch 1 1..11"]);
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["head 1 40"]);
    assert_eq!(bed.hub.deadline(T0), None);
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["batch 1 41..42"]);
    assert_eq!(bed.got(1).len(), 6, "the other shard is not concerned");
}

#[test]
fn an_inbox_full_of_bytes_takes_answers_and_one_head() {
    let settings = HubSettings { inbox_bytes_total: 2 * 50_000, ..settings_of(rule(), 1000) };
    let mut bed = bed_with(settings, &[100, 100]);
    bed.join(0, 1, "a");
    bed.join(0, 2, "b");
    for _ in 0..5 {
        bed.message("a", &[b'x'; 20_000]);
        bed.hub.flush(T0);
        bed.message("b", b"small enough for what is left");
        bed.hub.flush(T0);
    }
    assert_eq!(bed.metrics.inbox_full.get(), 3, "half of the bytes are this shard's: two large batches fit");
    assert!(bed.shards[0].inbox.bytes() <= 50_000);
    bed.join(0, 3, "c");
    assert_eq!(bed.hub.deadline(T0), Some(T0 + RETRY_NS), "the head waits until the shard takes something");
    let got = bed.got(0);
    assert_eq!(got.iter().filter(|word| word.starts_with("batch 1")).collect::<Vec<_>>(), ["batch 1 1..2", "batch 1 2..3"]);
    assert_eq!(got.iter().filter(|word| word.starts_with("batch 2")).count(), 5);
    assert_eq!((got.len(), got.last().unwrap().as_str()), (10, "joined 3 at 0"));
    assert_eq!(bed.shards[0].inbox.bytes(), 0);
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["head 1 5"], "one for all three");
    assert!(bed.hub.is_drained());

    for _ in 0..3 {
        bed.message("a", &[b'x'; 20_000]);
        bed.hub.flush(T0);
    }
    bed.hub.stop();
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["batch 1 6..7", "batch 1 7..8", "head 1 8", "stop"], "at the end it does not wait");
}

#[test]
fn a_payload_larger_than_the_inbox_may_hold_passes_alone() {
    let settings = HubSettings { inbox_bytes_total: 1000, ..settings_of(rule(), 1000) };
    let mut bed = bed_with(settings, &[2]);
    bed.join(0, 1, "a");
    assert_eq!(bed.got(0), ["joined 1 at 0"]);
    for _ in 0..2 {
        bed.message("a", &[b'x'; 90_000]);
        bed.hub.flush(T0);
    }
    assert_eq!(bed.got(0), ["batch 1 1..2"]);
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["head 1 2"]);
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["batch 1 3..4"]);
    assert_eq!(bed.metrics.inbox_full.get(), 1);
}

#[test]
fn a_batch_that_found_no_slot_holds_no_bytes() {
    let mut bed = bed(&[1]);
    bed.join(0, 1, "a");
    for _ in 0..3 {
        bed.messages("a", 1);
    }
    assert_eq!((bed.shards[0].inbox.bytes(), bed.metrics.inbox_full.get()), (0, 3), "the one slot holds the join");
}

#[test]
fn a_batch_that_gets_through_says_it_too() {
    let mut bed = bed(&[1]);
    bed.join(0, 1, "a");
    assert_eq!(bed.got(0), ["joined 1 at 0"]);
    bed.messages("a", 1);
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["batch 1 1..2"]);
    // Behind by message 2; the channel is busy: the open batch finds the room before the next retry does.
    bed.message("a", b"3");
    let id = bed.hub.find("a").unwrap();
    bed.hub.seal(id, T0);
    assert_eq!(bed.got(0), ["batch 1 3..4"]);
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), [""; 0]);
}

#[test]
fn joined_is_never_lost_and_comes_before_the_batches() {
    let mut bed = bed(&[1]);
    bed.join(0, 1, "a");
    bed.join(0, 2, "b");
    bed.join(0, 3, "c");
    bed.messages("b", 4);
    bed.hub.leave(0, topic(3), "c", T0);
    assert_eq!(bed.metrics.inbox_full.get(), 0, "b has not joined: nothing of it is lost");
    assert_eq!(bed.got(0), ["joined 1 at 0"]);
    bed.messages("b", 1);
    assert_eq!(bed.got(0), ["joined 2 at 4"], "as of the moment it is told");
    assert_eq!(bed.metrics.inbox_full.get(), 1, "message 5 found the inbox full with that");
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["head 2 5"]);
    assert!(bed.hub.is_drained());
}

#[test]
fn replies_and_stop_wait_for_room_in_order() {
    let mut bed = bed(&[1]);
    let conn = ConnToken { index: 0, generation: 0 };
    for seq in 1..=3 {
        let publish = Publish::new("a", b"x".into(), Asker::Client(ReplyTo { shard: 0, conn, id: None }));
        bed.hub.published(publish, Ok(Published { epoch: Some(1), seq: Some(seq) }));
    }
    bed.hub.stop();
    let mut got = Vec::new();
    while !bed.hub.is_drained() {
        bed.hub.flush(T0);
        got.extend(bed.got(0));
    }
    bed.hub.flush(T0);
    got.extend(bed.got(0));
    assert_eq!(got, ["published Ok(Some(1))", "published Ok(Some(2))", "published Ok(Some(3))", "stop"]);
}

#[test]
fn nothing_flows_before_it_is_confirmed() {
    let mut bed = bed(&[100]);
    bed.hub.join(0, topic(1), "a", somebody(), T0);
    assert_eq!(bed.message("a", b"early"), Outcome::Unwanted);
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), [""; 0]);
    assert_eq!(bed.metrics.unwanted.get(), 1);
    bed.hub.flowing("a", Start::Fresh);
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["joined 1 at 0", "batch 1 1..2"]);
}

#[test]
fn an_outage_takes_one_number_from_channels_that_flowed() {
    let mut bed = bed(&[100]);
    bed.join(0, 1, "a");
    bed.messages("a", 2);
    bed.hub.join(0, topic(2), "never-confirmed", somebody(), T0);
    bed.message("a", b"in the same read as the end");
    bed.hub.interrupt();
    bed.hub.flush(T0);
    bed.hub.join(0, topic(3), "a", somebody(), T0);
    assert_eq!(bed.got(0), ["joined 1 at 0", "batch 1 1..3", "batch 1 3..4"]);
    bed.hub.interrupt(); // a second failure on the way back is still the same outage
    bed.hub.flowing("a", Start::Fresh);
    bed.hub.flowing("a", Start::Fresh);
    bed.hub.flowing("never-confirmed", Start::Fresh);
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["gap 1 4..5 outage", "joined 3 at 4", "joined 2 at 0", "batch 1 5..6", "batch 3 5..6"]);
}

#[test]
fn a_channel_that_is_refused_for_good_is_told_to_those_who_have_it_and_to_those_who_wait() {
    let mut bed = bed(&[100, 100]);
    bed.join(0, 1, "a");
    bed.messages("a", 2);
    bed.hub.interrupt();
    bed.hub.join(1, topic(2), "a", somebody(), T0);
    bed.hub.join(1, topic(3), "new", somebody(), T0);
    for name in ["a", "a", "new", "unknown"] {
        bed.hub.refuse(name);
    }
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["joined 1 at 0", "batch 1 1..3", "gap 1 3..4 refused"]);
    assert_eq!(bed.got(1), ["refused 2 for good", "refused 3 for good"]);
    assert_eq!(bed.message("a", b"x"), Outcome::Unwanted);
    // An outage changes nothing; who asks now is answered at once.
    bed.hub.interrupt();
    bed.hub.join(1, topic(4), "a", somebody(), T0);
    assert_eq!(bed.got(1), ["refused 4 for good"]);
    // It is mended: whoever kept it goes on, with a number for what was missed.
    bed.hub.flowing("a", Start::Fresh);
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["gap 1 4..5 outage", "batch 1 5..6"]);
    bed.join(1, 5, "new");
    assert_eq!(bed.got(1), ["refused 5 for good"], "nobody has asked Redis anew");
    bed.hub.expire(T0 + LINGER_NS);
    bed.join(1, 6, "new");
    assert_eq!(bed.got(1), ["joined 6 at 0"]);
}

#[test]
fn an_answered_join_that_waits_for_room_is_refused_all_the_same() {
    let mut bed = bed(&[1]);
    bed.join(0, 1, "a");
    bed.join(0, 2, "b"); // does not fit, now or at the next flush
    bed.hub.refuse("b");
    assert_eq!(bed.got(0), ["joined 1 at 0"]);
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["refused 2 for good"]);
    bed.hub.flush(T0);
    assert!(bed.got(0).is_empty() && bed.hub.is_drained());
}

#[test]
fn a_channel_lingers_and_comes_back_as_another() {
    let mut bed = bed(&[100]);
    bed.join(0, 1, "a");
    bed.messages("a", 5);
    let epoch = bed.hub.list(0, 10).channels[0].epoch;
    while bed.hub.next_request().is_some() {}
    bed.hub.leave(0, topic(1), "a", T0);
    bed.hub.expire(T0 + LINGER_NS - 1);
    bed.hub.join(0, topic(2), "a", somebody(), T0 + LINGER_NS - 1);
    bed.hub.expire(T0 + LINGER_NS);
    assert!(bed.hub.next_request().is_none());
    assert_eq!(bed.got(0).last().unwrap(), "joined 2 at 5", "still the same numbers");

    bed.hub.leave(0, topic(2), "a", T0 + LINGER_NS);
    assert_eq!(bed.hub.deadline(T0 + LINGER_NS), Some(T0 + 2 * LINGER_NS));
    bed.messages("a", 1); // nobody listens, but it is numbered
    bed.hub.expire(T0 + 2 * LINGER_NS);
    assert!(matches!(bed.hub.next_request(), Some(Request::Unwant { channel, had_come: true }) if *channel == *"a"));
    assert_eq!((bed.metrics.channels.get(), bed.hub.find("a"), bed.hub.deadline(T0)), (0, None, None));
    bed.join(0, 3, "a");
    assert_eq!(bed.got(0), ["joined 3 at 0"]);
    assert_ne!(bed.hub.list(0, 10).channels[0].epoch, epoch);
}

/// Whoever is away for less than `history_age` misses nothing, whenever it was published and however short the linger.
#[test]
fn history_outlives_the_linger_of_its_channel() {
    const AGE_NS: u64 = 14 * LINGER_NS;
    for keeps_channels in [false, true] {
        let rule = ChannelRule { history_count: 100, history_age: Duration::from_nanos(AGE_NS), ..rule() };
        let mut bed = bed_with(HubSettings { history_keeps_channels: keeps_channels, ..settings_of(rule, 1000) }, &[100]);
        bed.join(0, 1, "heard");
        bed.join(0, 2, "silent");
        bed.messages("heard", 1);
        bed.hub.leave(0, topic(1), "heard", T0);
        bed.hub.leave(0, topic(2), "silent", T0);
        while bed.hub.next_request().is_some() {}
        bed.got(0);
        let away = T0 + AGE_NS - 1;
        bed.hub.expire(away);
        assert!(bed.hub.next_request().is_none(), "both stay subscribed");
        // Nothing had been published on this one: what comes now is missed all the same.
        bed.messages("silent", 1);
        bed.hub.join(0, topic(3), "heard", somebody(), away);
        bed.hub.join(0, topic(4), "silent", somebody(), away);
        assert_eq!(bed.got(0), ["joined 3 at 1 1..2", "joined 4 at 1 1..2"], "the same numbers, and what was missed");

        bed.hub.leave(0, topic(3), "heard", away);
        bed.hub.leave(0, topic(4), "silent", away);
        assert_eq!(bed.hub.deadline(away).map(|due| due <= away + AGE_NS), Some(true));
        bed.hub.expire(away + AGE_NS);
        bed.hub.expire(away + AGE_NS + LINGER_NS);
        bed.hub.expire(away + AGE_NS + 2 * LINGER_NS);
        assert_eq!(bed.metrics.channels.get(), 0, "and not for ever");
    }
}

/// Channels that only their history keeps are no more than `channels_max` allows, with those in use.
#[test]
fn channels_kept_for_their_history_make_room() {
    let mut bed = bed_of(ChannelRule { history_count: 100, ..rule() }, &[100], 10);
    for index in 0..50 {
        let (name, now) = (format!("c{index}"), T0 + u64::from(index));
        bed.hub.join(0, topic(index), name.as_str(), somebody(), now);
        bed.hub.leave(0, topic(index), &name, now);
        assert!(bed.metrics.channels.get() <= 10);
    }
    let names: Vec<String> = bed.hub.list(0, 100).channels.into_iter().map(|channel| channel.name).collect();
    assert_eq!(names.len(), 10);
    assert!((40..50).all(|index| names.contains(&format!("c{index}"))), "the oldest went: {names:?}");
}

#[test]
fn history_is_bounded_by_count_and_age() {
    let age = Duration::from_secs(10);
    let mut bed = bed_of(ChannelRule { history_count: 5, history_age: age, ..rule() }, &[100], 1000);
    bed.join(0, 1, "a");
    for _ in 0..4 {
        bed.messages("a", 2);
    }
    bed.join(0, 2, "a");
    let joined = bed.got(0).pop().unwrap();
    assert_eq!(joined, "joined 2 at 8 3..5 5..7 7..9", "whole batches, at least 5 messages");
    assert!(bed.metrics.history_bytes.get() > 0);
    assert_eq!(bed.hub.list(0, 1).channels[0].history_messages, 6);
    let later = T0 + 10_000_000_000;
    let id = bed.hub.find("a").unwrap();
    bed.hub.message(id, b"young", Receipt { received: later, timestamp_ms: 8 });
    bed.hub.flush(later);
    bed.hub.expire(later + 1);
    assert_eq!(bed.hub.list(0, 1).channels[0].history_messages, 1, "the sweep found the old ones though nobody joined");
    bed.hub.leave(0, topic(1), "a", later);
    bed.hub.leave(0, topic(2), "a", later);
    bed.hub.expire(later + 10_000_000_000);
    assert_eq!((bed.metrics.history_bytes.get(), bed.metrics.channels.get()), (0, 0));
}

#[test]
fn all_histories_together_are_bounded_and_the_oldest_go_first() {
    let settings = HubSettings { history_bytes_total: 100_000, ..settings_of(ChannelRule { history_count: 1000, ..rule() }, 1000) };
    let mut bed = bed_with(settings, &[100]);
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        bed.join(0, index as u32, name);
    }
    for name in ["a", "b", "b", "c", "a"] {
        bed.message(name, &[b'x'; 30_000]);
        bed.hub.flush(T0);
    }
    assert_eq!(bed.metrics.history_dropped.get(), 2);
    let kept = |bed: &Bed| bed.hub.list(0, 10).channels.iter().map(|channel| channel.history_messages).collect::<Vec<_>>();
    assert_eq!(kept(&bed), [1, 1, 1], "the first of a and of b are gone");
    let raw = bed.metrics.history_bytes.get();
    assert!((90_000..=100_000).contains(&raw));
    bed.got(0);
    bed.join(0, 7, "a");
    assert_eq!(bed.got(0), ["joined 7 at 2 2..3"]);

    // A shard has the newest one encoded: history grows with it, and gives up what was oldest.
    let id = bed.hub.find("a").unwrap() as usize;
    let history = bed.hub.registry[id as u32].history.as_ref().unwrap();
    let batch = bed.hub.histories.batches(history).pop().unwrap();
    batch.frames(Encoding::web_socket(Format::Raw));
    bed.hub.expire(T0 + SWEEP_NS);
    assert_eq!((kept(&bed), bed.metrics.history_dropped.get()), (vec![1, 0, 1], 3));
    assert!(bed.metrics.history_bytes.get() <= 100_000);

    // One that is larger than all of it is not kept, and takes the others along: it is newer than they are.
    bed.message("b", &[b'x'; 100_000]);
    bed.hub.flush(T0 + SWEEP_NS);
    assert_eq!((kept(&bed), bed.metrics.history_bytes.get(), bed.metrics.history_dropped.get()), (vec![0, 0, 0], 0, 6));
    batch.frames(Encoding::web_socket(Format::Json));
    bed.hub.expire(T0 + 2 * SWEEP_NS);
    assert_eq!(bed.metrics.history_bytes.get(), 0, "what others still hold is not history's any more");
    bed.join(0, 8, "b");
    assert_eq!(bed.got(0).pop().unwrap(), "joined 8 at 3", "nothing to resume from, and the numbers go on");
}

#[test]
fn on_the_embedded_bus_channels_go_when_the_bound_takes_their_history() {
    let rule = ChannelRule { history_count: 10, ..rule() };
    let settings = HubSettings { history_bytes_total: 20_000, history_keeps_channels: true, ..settings_of(rule, 100_000) };
    let mut bed = bed_with(settings, &[100]);
    let mut now = T0;
    for number in 0..1000 {
        let (reply, _) = tokio::sync::oneshot::channel();
        let publish = Publish::new(format!("c{number}"), vec![b'x'; 900], Asker::Control(reply));
        Embedded.publish(&mut bed.hub, publish, now);
        bed.hub.flush(now);
        now += LINGER_NS / 100;
        bed.hub.expire(now);
        assert!(bed.metrics.history_bytes.get() <= 20_000);
        assert!(bed.metrics.channels.get() <= 350, "what nobody hears or keeps goes within two lingers");
    }
    now += 3 * LINGER_NS;
    bed.hub.expire(now);
    bed.hub.expire(now + 2 * LINGER_NS);
    let channels = bed.hub.list(0, 1000).channels;
    assert!((10..20).contains(&channels.len()) && channels.iter().all(|channel| channel.history_messages == 1), "{}", channels.len());
    assert_eq!(bed.metrics.history_dropped.get(), 1000 - channels.len() as u64);
}

#[test]
fn batches_are_split_by_bytes() {
    let mut bed = bed(&[100]);
    bed.join(0, 1, "a");
    for _ in 0..5 {
        bed.message("a", &vec![b'x'; BATCH_BYTES_MAX / 2]);
    }
    bed.message("a", &[b'y'; BATCH_BYTES_MAX + 1]);
    bed.message("a", b"z");
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["joined 1 at 0", "batch 1 1..3", "batch 1 3..5", "batch 1 5..6", "batch 1 6..7", "batch 1 7..8"]);
}

#[test]
fn what_is_dropped_is_counted_and_what_is_too_big_is_a_gap() {
    let mut bed = bed_of(ChannelRule { payload: Expect::Json, mismatch: Mismatch::Drop, ..rule() }, &[100], 1000);
    bed.join(0, 1, "a");
    assert_eq!(bed.message("a", b"\xff\xff"), Outcome::Mismatched(Expect::Json));
    assert!(matches!(bed.message("a", b"{\"a\":1}"), Outcome::Numbered(Published { seq: Some(1), .. })));
    assert_eq!(bed.message("a", &[b'x'; 100_001]), Outcome::TooBig);
    bed.message("a", b"[2]");
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["joined 1 at 0", "batch 1 1..2", "gap 1 2..3 dropped", "batch 1 3..4"]);
    assert_eq!((bed.metrics.dropped.get(), bed.metrics.mismatched.get()), (2, 0));

    let mut bed = bed_of(ChannelRule { payload: Expect::Json, ..rule() }, &[100], 1000);
    bed.join(0, 1, "a");
    bed.message("a", b"\xff\xff");
    bed.hub.flush(T0);
    assert_eq!((bed.got(0).len(), bed.metrics.dropped.get(), bed.metrics.mismatched.get()), (2, 0, 1));
}

#[test]
fn payloads_arrive_as_published() {
    let mut bed = bed(&[100]);
    bed.join(0, 1, "a");
    for payload in [b"one".as_slice(), b"", b"three"] {
        bed.message("a", payload);
    }
    bed.hub.flush(T0);
    bed.shards[0].inbox.try_recv();
    let Some(ShardMessage::Batch { batch, .. }) = bed.shards[0].inbox.try_recv() else { panic!() };
    let frames = batch.frames(Encoding::web_socket(Format::Raw));
    let payload = |seq| &frames.bytes[batch.frame_start(frames, seq) + 2..batch.frame_start(frames, seq + 1)];
    assert_eq!([payload(1), payload(2), payload(3)], [b"one".as_slice(), b"", b"three"]);
    assert_eq!((batch.runs().len(), batch.received()), (1, Some(T0)));
}

#[test]
fn the_bound_on_channels_refuses_or_ends_a_linger() {
    let mut bed = bed_of(rule(), &[100], 2);
    bed.join(0, 1, "a");
    bed.join(0, 2, "b");
    bed.join(0, 3, "c");
    assert_eq!(bed.got(0), ["joined 1 at 0", "joined 2 at 0", "refused 3"]);
    bed.hub.leave(0, topic(3), "c", T0); // of a topic that was refused
    bed.hub.leave(0, topic(1), "a", T0);
    bed.join(0, 4, "c");
    assert_eq!(bed.got(0), ["joined 4 at 0"]);
    assert_eq!((bed.hub.find("a"), bed.metrics.channels.get()), (None, 2));
    bed.messages("b", 1);
    assert_eq!(bed.got(0), ["batch 2 1..2"]);
}

/// One connection that subscribes to new names and leaves them pushes out nobody's channels but its own.
#[test]
fn a_flood_of_names_pushes_out_the_floods_own() {
    let mut bed = bed_of(ChannelRule { history_count: 10, ..rule() }, &[100], 100);
    let mut name = 0;
    let mut leave_behind = |bed: &mut Bed, creator: Creator, count: usize| {
        for _ in 0..count {
            name += 1;
            bed.hub.join(0, topic(name), format!("c{name}"), creator, T0 + u64::from(name));
            bed.hub.leave(0, topic(name), &format!("c{name}"), T0 + u64::from(name));
            bed.got(0);
        }
    };
    // Of an address of its own, and of the very address that the flood comes from: a proxy's.
    leave_behind(&mut bed, creator(1, 1), 20);
    leave_behind(&mut bed, creator(2, 2), 5);
    leave_behind(&mut bed, creator(2, 3), 10_000);
    let is_there = |bed: &mut Bed, name: u32| bed.hub.find(&format!("c{name}")).is_some();
    assert!((1..=25).all(|name| is_there(&mut bed, name)), "what others left is there");
    assert_eq!(bed.metrics.channels.get(), 100);
    assert_eq!(bed.metrics.channels_evicted.get(), 10_025 - 100);

    // Nor do many connections of one address that leave one each, when another address needs room.
    for connection in 4..10_000 {
        leave_behind(&mut bed, creator(3, connection), 1);
    }
    leave_behind(&mut bed, creator(1, 1), 1);
    assert!((1..=20).all(|name| is_there(&mut bed, name)), "what another address left is there");
    // Somebody who comes back to a channel does not answer for it.
    bed.hub.join(0, topic(0), "c1", creator(3, 4), T0);
    bed.hub.leave(0, topic(0), "c1", T0);
    leave_behind(&mut bed, creator(3, 4), 200);
    assert!(is_there(&mut bed, 1));
}

/// One address cannot have all channels, and what it has leaves others out of it.
#[test]
fn an_address_has_its_share_of_the_channels() {
    let settings = HubSettings { channels_of_address: 3, ..settings_of(rule(), 5) };
    let mut bed = bed_with(settings, &[100, 100]);
    let join = |bed: &mut Bed, address, index: u32, name: &str| {
        bed.hub.join(0, topic(index), name, creator(address, index), T0);
        bed.hub.flowing(name, Start::Fresh);
        bed.got(0).pop().unwrap()
    };
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(join(&mut bed, 1, index as u32, name), format!("joined {index} at 0"));
    }
    assert_eq!(join(&mut bed, 1, 3, "d"), "refused 3 for its share");
    assert_eq!(join(&mut bed, 1, 4, "a"), "joined 4 at 0", "it is there already");
    assert_eq!(join(&mut bed, 2, 5, "d"), "joined 5 at 0", "another address may have it");
    assert_eq!(join(&mut bed, 1, 6, "d"), "joined 6 at 0", "and then it is there");
    assert_eq!(join(&mut bed, 2, 7, "e"), "joined 7 at 0");
    assert_eq!(join(&mut bed, 2, 8, "f"), "refused 8", "the host is full");
    bed.hub.leave(0, topic(1), "b", T0);
    assert_eq!(join(&mut bed, 1, 9, "f"), "joined 9 at 0", "what nobody hears does not count");
    assert_eq!(join(&mut bed, 1, 10, "g"), "refused 10 for its share");
    for (index, name) in [(0, "a"), (2, "c"), (4, "a"), (5, "d"), (6, "d"), (7, "e"), (9, "f")] {
        bed.hub.leave(0, topic(index), name, T0);
    }
    assert!(bed.hub.registry.heard_by.is_empty());
}

#[test]
fn channels_are_listed_in_pages() {
    let mut bed = bed(&[100]);
    for index in 0..5 {
        bed.join(0, index, &format!("c{index}"));
    }
    bed.hub.leave(0, topic(1), "c1", T0);
    bed.hub.expire(T0 + LINGER_NS);
    let mut names = Vec::new();
    let mut from = Some(0);
    while let Some(start) = from {
        let page = bed.hub.list(start, 2);
        assert!(page.channels.len() <= 2);
        names.extend(page.channels.into_iter().map(|channel| channel.name));
        from = page.next;
    }
    assert_eq!(names, ["c0", "c2", "c3", "c4"]);
}

#[test]
fn the_embedded_bus_numbers_what_somebody_hears_or_history_keeps() {
    fn publish(bed: &mut Bed, channel: &str, now: MonotonicNs) -> Option<u64> {
        let (sender, mut receiver) = tokio::sync::oneshot::channel();
        Embedded.publish(&mut bed.hub, Publish::new(channel, b"x".into(), Asker::Control(sender)), now);
        while let Some(request) = bed.hub.next_request() {
            if let Request::Want(channel) = request {
                Embedded.want(&mut bed.hub, &channel);
            }
        }
        bed.hub.flush(now);
        {
            let Answer::Published { result, .. } = receiver.try_recv().unwrap();
            result.unwrap().seq
        }
    }

    let mut plain = bed(&[100]);
    assert_eq!(publish(&mut plain, "a", T0), None);
    assert_eq!(plain.metrics.unwanted.get(), 1);
    plain.join(0, 1, "a");
    assert_eq!(publish(&mut plain, "a", T0), Some(1));
    assert_eq!(plain.got(0), ["joined 1 at 0", "batch 1 1..2"]);

    let mut kept = bed_of(ChannelRule { history_count: 10, history_age: Duration::from_secs(5), ..rule() }, &[100], 1000);
    kept.hub.settings.history_keeps_channels = true;
    assert_eq!(publish(&mut kept, "a", T0), Some(1));
    let after_linger = T0 + 2 * LINGER_NS;
    kept.hub.expire(after_linger);
    assert_eq!(publish(&mut kept, "a", after_linger), Some(2), "the same run of numbers");
    kept.join(0, 1, "a");
    assert_eq!(kept.got(0), ["joined 1 at 2 1..2 2..3"]);
    kept.hub.leave(0, topic(1), "a", after_linger);
    for step in 0..200 {
        kept.hub.expire(after_linger + step * 100_000_000);
    }
    assert_eq!(kept.metrics.channels.get(), 0, "forgotten when the history is too old");
}

/// Random joins, leaves, messages, outages and stalls; checked against what each shard must have seen.
#[test]
fn whatever_happens_numbers_rise_and_holes_are_announced() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let settings = HubSettings {
            inbox_bytes_total: if random.bool() { 1 << 30 } else { random.usize(0..1 << 19) },
            history_bytes_total: if random.bool() { 1 << 30 } else { random.usize(0..1 << 19) },
            ..settings_of(ChannelRule { history_count: random.usize(0..20), ..rule() }, 1000)
        };
        let mut bed = bed_with(settings, &[random.usize(1..20), 3]);
        let mut topics: Vec<(u16, u32, &str)> = Vec::new();
        let mut next_topic = 0;
        // Per topic: None before Joined, then the last number seen or announced.
        let mut seen: std::collections::HashMap<(usize, u32), u64> = Default::default();
        let mut now = T0;
        let mut heads: std::collections::HashMap<String, u64> = Default::default();
        for _ in 0..400 {
            let name = ["a", "b", "c"][random.usize(0..3)];
            now += random.u64(0..LINGER_NS / 4);
            match random.u32(0..14) {
                0 | 1 => {
                    let shard = random.u16(0..2);
                    bed.hub.join(shard, topic(next_topic), name, somebody(), now);
                    topics.push((shard, next_topic, name));
                    next_topic += 1;
                }
                2 if !topics.is_empty() => {
                    let (shard, index, name) = topics.swap_remove(random.usize(0..topics.len()));
                    bed.hub.leave(shard, topic(index), name, now);
                }
                3 if random.u32(0..4) == 0 => bed.hub.interrupt(),
                4 | 5 => bed.hub.flowing(name, Start::Fresh),
                6 => bed.hub.flush(now),
                7 => bed.hub.expire(now),
                8 => drain(&mut bed, random.usize(0..2), &mut seen, seed),
                9 => bed.hub.refuse(name),
                10 => bed.hub.interrupt_channel(name),
                _ => {
                    if let Some(id) = bed.hub.find(name) {
                        let bytes = if random.u32(0..20) == 0 { 100_001 } else { random.usize(0..BATCH_BYTES_MAX) };
                        bed.hub.message(id, &vec![0; bytes], Receipt { received: now, timestamp_ms: 1 });
                    }
                }
            }
        }
        // In the end everybody hears of everything, or was told at once that there is nothing to hear.
        for name in ["a", "b", "c"] {
            bed.hub.flowing(name, Start::Fresh);
        }
        for _ in 0..10_000 {
            bed.hub.flush(now);
            drain(&mut bed, 0, &mut seen, seed);
            drain(&mut bed, 1, &mut seen, seed);
        }
        assert!(bed.hub.is_drained(), "seed {seed}");
        heads.extend(bed.hub.list(0, 100).channels.into_iter().map(|channel| (channel.name, channel.seq)));
        for (shard, index, name) in topics {
            let seen = seen[&(usize::from(shard), index)];
            assert!(seen == REFUSED || Some(&seen) == heads.get(name), "seed {seed}: topic {index} of shard {shard}: {seen}");
        }
    }

    const REFUSED: u64 = u64::MAX;

    fn drain(bed: &mut Bed, shard: usize, seen: &mut std::collections::HashMap<(usize, u32), u64>, seed: u64) {
        while let Some(message) = bed.take(shard) {
            match message {
                ShardMessage::Joined { topic, seq, history, .. } => {
                    assert!(seen.insert((shard, topic.index), seq).is_none(), "seed {seed}: joined twice");
                    if let Some(last) = history.last() {
                        assert_eq!(last.end() - 1, seq, "seed {seed}");
                    }
                    assert!(history.windows(2).all(|pair| pair[0].end() == pair[1].first()), "seed {seed}: a hole in history");
                }
                ShardMessage::Batch { topic, batch } => {
                    let last = seen.get_mut(&(shard, topic.index)).unwrap_or_else(|| panic!("seed {seed}: a batch before joined"));
                    assert!(batch.first() > *last, "seed {seed}: {} again", batch.first());
                    *last = batch.end() - 1;
                }
                ShardMessage::Head { topic, seq } => {
                    let last = seen.get_mut(&(shard, topic.index)).unwrap();
                    assert!(seq > *last, "seed {seed}: a head behind");
                    *last = seq;
                }
                ShardMessage::Refused { topic, .. } => {
                    assert!(seen.insert((shard, topic.index), REFUSED).is_none(), "seed {seed}: refused after joined");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

// Channels whose source counts.

fn at(epoch: u64, seq: u64) -> Start {
    Start::At { epoch, seq }
}

impl Bed {
    fn join_at(&mut self, index: u32, name: &str, start: Start) {
        self.hub.join(0, topic(index), name, somebody(), T0);
        self.hub.flowing(name, start);
        self.hub.flush(T0);
    }

    fn epoch(&self) -> Option<u64> {
        self.hub.list(0, 1).channels[0].epoch
    }
}

#[test]
fn a_channel_has_an_epoch_when_it_has_flowed() {
    let mut bed = bed(&[100]);
    bed.hub.join(0, topic(1), "a", somebody(), T0);
    assert_eq!(bed.epoch(), None);
    bed.hub.flowing("a", at(7, 40));
    assert_eq!(bed.epoch(), Some(7));
    bed.messages("a", 2);
    assert_eq!(bed.got(0), ["joined 1 at 40", "batch 1 41..43"]);
}

#[test]
fn coming_back_costs_no_number_where_the_source_counts() {
    let mut bed = bed(&[100]);
    bed.join_at(1, "a", at(7, 40));
    bed.messages("a", 1);
    bed.hub.interrupt();
    bed.hub.flowing("a", at(7, 41));
    bed.messages("a", 1);
    bed.hub.interrupt();
    bed.hub.flowing("a", at(7, 50));
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["joined 1 at 40", "batch 1 41..42", "batch 1 42..43", "gap 1 43..51 outage", "batch 1 51..52"]);
    // A number that is not ours is not spent on a refusal: what was missed is known when it flows again.
    bed.hub.refuse("a");
    bed.hub.flowing("a", at(7, 51));
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["batch 1 52..53"]);
}

#[test]
fn while_a_channel_is_repaired_nothing_is_announced_and_who_joins_waits() {
    let mut bed = bed(&[100]);
    bed.join_at(1, "a", at(7, 40));
    bed.hub.interrupt();
    bed.hub.repairing("a");
    bed.hub.join(0, topic(2), "a", somebody(), T0);
    bed.messages("a", 2);
    bed.hub.lose("a", 45, GapReason::Expired);
    bed.hub.lose("a", 45, GapReason::Expired);
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["joined 1 at 40", "batch 1 41..43", "gap 1 43..46 expired", "batch 1 46..47"]);
    bed.hub.flowing("a", at(7, 46));
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["joined 2 at 46", "batch 1 47..48", "batch 2 47..48"]);
    // The connection is lost on the way: that is an outage like any.
    bed.hub.repairing("a");
    bed.hub.interrupt();
    assert_eq!(bed.message("a", b"x"), Outcome::Unwanted);
}

#[test]
fn another_epoch_is_told_to_all_who_have_joined_and_takes_the_history_along() {
    let mut bed = bed_of(ChannelRule { history_count: 10, ..rule() }, &[100, 100], 1000);
    bed.join_at(1, "a", at(7, 40));
    bed.message("a", b"in the same read as the news");
    bed.hub.join(1, topic(2), "a", somebody(), T0);
    bed.hub.flowing("a", at(8, 3));
    bed.messages("a", 1);
    bed.hub.join(1, topic(3), "a", somebody(), T0);
    assert_eq!(bed.got(0), ["joined 1 at 40", "batch 1 41..42", "renumbered 1 at 3", "batch 1 4..5"]);
    assert_eq!(bed.got(1), ["joined 2 at 40", "batch 2 41..42", "renumbered 2 at 3", "batch 2 4..5", "joined 3 at 4 4..5"]);
    assert_eq!(bed.epoch(), Some(8));
    // The source has lost its count.
    bed.hub.interrupt();
    bed.hub.flowing("a", Start::Fresh);
    assert_eq!(bed.got(0), ["renumbered 1 at 0"]);
    assert!(![Some(7), Some(8)].contains(&bed.epoch()));
    // And has it again.
    bed.hub.flowing("a", at(8, 5));
    assert_eq!(bed.got(0), ["renumbered 1 at 5"]);
}

#[test]
fn a_number_that_goes_back_does_not_name_two_messages() {
    let mut bed = bed(&[100]);
    bed.join_at(1, "a", at(7, 40));
    bed.hub.interrupt();
    bed.hub.flowing("a", at(7, 39));
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["joined 1 at 40", "renumbered 1 at 0", "batch 1 1..2"]);
    assert_ne!(bed.epoch(), Some(7));
}

#[test]
fn news_of_another_epoch_that_finds_no_room_is_told_as_of_then() {
    let mut bed = bed(&[2]);
    bed.join_at(1, "a", at(7, 40));
    bed.messages("a", 1);
    bed.messages("a", 1); // lost: the inbox is full
    bed.hub.flowing("a", at(8, 3));
    bed.messages("a", 2);
    assert_eq!(bed.got(0), ["joined 1 at 40", "batch 1 41..42"]);
    bed.messages("a", 1);
    assert_eq!(bed.got(0), ["renumbered 1 at 5", "batch 1 6..7"], "and no head of the old numbers");
    bed.hub.flush(T0);
    assert!(bed.got(0).is_empty() && bed.hub.is_drained());
}

/// A source that counts, loses connections, is caught up with, begins other epochs: everybody ends where it stands, and no position names two messages.
#[test]
fn whatever_a_source_does_everybody_ends_where_it_stands() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let settings = settings_of(ChannelRule { history_count: random.usize(0..20), ..rule() }, 1000);
        let mut bed = bed_with(settings, &[random.usize(1..8), 3]);
        let (mut epoch, mut seq) = (1, random.u64(0..50));
        // What this node has of it: the last number, and whether it comes.
        let (mut had, mut flow) = ((0, 0), Flow::Awaited);
        let mut topics: Vec<(u16, u32)> = Vec::new();
        let mut seen: std::collections::HashMap<(u16, u32), (u64, u64)> = Default::default();
        for next_topic in 0..300 {
            match random.u32(0..12) {
                0 => {
                    let shard = random.u16(0..2);
                    bed.hub.join(shard, topic(next_topic), "a", somebody(), T0);
                    topics.push((shard, next_topic));
                }
                1 if topics.len() > 1 => {
                    let (shard, index) = topics.swap_remove(random.usize(0..topics.len()));
                    bed.hub.leave(shard, topic(index), "a", T0);
                    seen.remove(&(shard, index));
                    (0..2).for_each(|shard| look(&mut bed, shard, &mut seen, &topics, seed));
                }
                2 => {
                    bed.hub.interrupt();
                    flow = Flow::Awaited;
                }
                3 if random.bool() => (epoch, seq) = (epoch + 1, random.u64(0..50)),
                4 | 5 if bed.hub.find("a").is_some() => {
                    // Caught up with from what it had, or what the source still has.
                    if had.0 == epoch && random.bool() {
                        bed.hub.repairing("a");
                        if random.u32(0..3) == 0 {
                            had.1 = random.u64(had.1..=seq);
                            bed.hub.lose("a", had.1, GapReason::Expired);
                        }
                        while had.1 < seq {
                            had.1 += 1;
                            take(&mut bed, had, seed);
                        }
                    }
                    bed.hub.flowing("a", at(epoch, seq));
                    (had, flow) = ((epoch, seq), Flow::Flowing);
                }
                6 => bed.hub.flush(T0),
                7 => look(&mut bed, random.usize(0..2), &mut seen, &topics, seed),
                _ => {
                    seq += 1;
                    if flow == Flow::Flowing && had == (epoch, seq - 1) {
                        had = (epoch, seq);
                        take(&mut bed, had, seed);
                    }
                }
            }
        }
        bed.hub.flowing("a", at(epoch, seq));
        while !topics.is_empty() && (!bed.hub.is_drained() || (0..2).any(|shard| !bed.shards[shard].inbox.is_empty())) {
            bed.hub.flush(T0);
            (0..2).for_each(|shard| look(&mut bed, shard, &mut seen, &topics, seed));
        }
        for at in topics {
            assert_eq!(seen[&at], (epoch, seq), "seed {seed}: {at:?}");
        }
    }

    fn take(bed: &mut Bed, (epoch, seq): (u64, u64), seed: u64) {
        let outcome = bed.message("a", b"x");
        assert_eq!(outcome, Outcome::Numbered(Published { epoch: Some(epoch), seq: Some(seq) }), "seed {seed}");
    }

    fn look(bed: &mut Bed, shard: usize, seen: &mut std::collections::HashMap<(u16, u32), (u64, u64)>, topics: &[(u16, u32)], seed: u64) {
        while let Some(message) = bed.take(shard) {
            let (topic, epoch, from, to) = match &message {
                ShardMessage::Joined { topic, channel, seq, history } => {
                    assert!(history.iter().all(|batch| batch.channel().epoch == channel.epoch), "seed {seed}");
                    assert_eq!(history.last().map_or(*seq, |last| last.end() - 1), *seq, "seed {seed}");
                    (topic, Some(channel.epoch), None, *seq)
                }
                ShardMessage::Renumbered { topic, channel, seq } => (topic, Some(channel.epoch), None, *seq),
                ShardMessage::Batch { topic, batch } => (topic, None, Some((batch.channel().epoch, batch.first())), batch.end() - 1),
                ShardMessage::Head { topic, seq } => (topic, None, None, *seq),
                other => panic!("{other:?}"),
            };
            let at = (shard as u16, topic.index);
            if !topics.contains(&at) {
                continue;
            }
            match (epoch, seen.get_mut(&at)) {
                (Some(epoch), None) => assert!(matches!(message, ShardMessage::Joined { .. }) && seen.insert(at, (epoch, to)).is_none()),
                (Some(epoch), Some(before)) => {
                    assert!(matches!(message, ShardMessage::Renumbered { .. }) && before.0 != epoch, "seed {seed}: {before:?}");
                    *before = (epoch, to);
                }
                (None, Some(before)) => {
                    assert!(from.is_none_or(|from| from.0 == before.0 && from.1 > before.1) && to > before.1, "seed {seed}: {before:?}");
                    before.1 = to;
                }
                (None, None) => panic!("seed {seed}: {message:?} before joined"),
            }
        }
    }
}
