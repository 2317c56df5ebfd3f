//! Who counts a channel, and what is told when numbers are lost or begin anew.

use super::*;

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
    bed.hub.interrupt(|_| true);
    bed.hub.flowing("a", at(7, 41));
    bed.messages("a", 1);
    bed.hub.interrupt(|_| true);
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
    bed.hub.interrupt(|_| true);
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
    bed.hub.interrupt(|_| true);
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
    bed.hub.interrupt(|_| true);
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
    bed.hub.interrupt(|_| true);
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
                    bed.hub.interrupt(|_| true);
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
        assert_eq!(outcome, Outcome::Numbered(Published::at(epoch, seq)), "seed {seed}");
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

#[test]
fn the_embedded_bus_numbers_what_somebody_hears_or_history_keeps() {
    fn publish(bed: &mut Bed, channel: &str, now: MonotonicNs) -> Option<u64> {
        let (sender, mut receiver) = tokio::sync::oneshot::channel();
        let mut embedded = embedded();
        embedded.publish(&mut bed.hub, Publish::new(channel, b"x".into(), Asker::Control(sender)), now);
        while let Some(request) = bed.hub.next_request() {
            if let Request::Want(channel) = request {
                embedded.want(&mut bed.hub, &channel);
            }
        }
        bed.hub.flush(now);
        {
            let Ok(Answer::Published { result, .. }) = receiver.try_recv() else { panic!("it is answered") };
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
                3 if random.u32(0..4) == 0 => bed.hub.interrupt(|_| true),
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
