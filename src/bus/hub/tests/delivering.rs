//! What shards are handed: batches, answers, refusals, and what becomes of them without room.

use super::*;

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
        bed.hub.published(publish, Ok(Published::at(1, seq)));
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
    bed.hub.interrupt(|_| true);
    bed.hub.flush(T0);
    bed.hub.join(0, topic(3), "a", somebody(), T0);
    assert_eq!(bed.got(0), ["joined 1 at 0", "batch 1 1..3", "batch 1 3..4"]);
    bed.hub.interrupt(|_| true); // a second failure on the way back is still the same outage
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
    bed.hub.interrupt(|_| true);
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
    bed.hub.interrupt(|_| true);
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
