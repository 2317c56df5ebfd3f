//! Whose marks have moved, and which shards hear of it.

use super::*;
use crate::bus::ConnToken;
use crate::bus::marks::{MarkNews, MarksQuestion, MarksWanted};
use crate::bus::question::{Asker, ReplyTo};
use crate::limits::bus::{MARK_NEWS_EVERY, MARK_NEWS_MAX};

fn asks(bed: &mut Bed, shard: u16) {
    let conn = ConnToken { index: 1, generation: 1 };
    let asker = Asker::Client(ReplyTo { shard, conn, id: None });
    let question = MarksQuestion::boxed(asker, "u", MarksWanted::Unread { channels: vec!["c".into()] });
    bed.hub.note_marks_asked(&question);
}

fn mark(bed: &mut Bed, user: &str, epoch: u64, seq: u64) {
    bed.hub.mark_told(MarkNews { user: user.into(), channel: "c".into(), epoch, seq, by: None });
}

/// Users, epochs and numbers that the shard is told.
fn told(bed: &mut Bed, shard: usize) -> Vec<(String, u64, u64)> {
    let mut told = Vec::new();
    while let Some(message) = bed.take(shard) {
        let ShardMessage::Marks(news) = message else { panic!("{message:?}") };
        told.extend(news.iter().map(|news| (news.user.to_string(), news.epoch, news.seq)));
    }
    told.sort();
    told
}

#[test]
fn shards_whose_connections_have_asked_hear_the_highest_mark_of_a_tenth_of_a_second() {
    let mut bed = bed(&[100, 100]);
    mark(&mut bed, "u", 1, 1);
    assert_eq!(bed.hub.deadline(T0), None, "nobody has asked");
    asks(&mut bed, 1);
    asks(&mut bed, 1);
    for (epoch, seq) in [(1, 5), (1, 7), (1, 6)] {
        mark(&mut bed, "u", epoch, seq);
    }
    mark(&mut bed, "v", 2, 1);
    mark(&mut bed, "v", 1, 9);
    assert!(bed.hub.deadline(T0).is_some_and(|deadline| deadline <= T0), "the first go at once");
    bed.hub.expire(T0);
    bed.hub.flush(T0);
    assert_eq!(told(&mut bed, 1), [("u".to_owned(), 1, 7), ("v".to_owned(), 2, 1)]);
    assert!(told(&mut bed, 0).is_empty());
    // The next ones wait for their time.
    mark(&mut bed, "u", 1, 8);
    let next = T0 + crate::clock::nanos(MARK_NEWS_EVERY);
    bed.hub.expire(next - 1);
    bed.hub.flush(next - 1);
    assert!(told(&mut bed, 1).is_empty());
    assert_eq!(bed.hub.deadline(T0), Some(next));
    bed.hub.expire(next);
    bed.hub.flush(next);
    assert_eq!(told(&mut bed, 1), [("u".to_owned(), 1, 8)]);
    assert_eq!(bed.hub.deadline(next), None);
}

#[test]
fn more_marks_than_may_wait_are_counted_and_a_full_inbox_keeps_them() {
    let mut bed = bed(&[1]);
    asks(&mut bed, 0);
    for number in 0..MARK_NEWS_MAX + 10 {
        mark(&mut bed, &format!("u{number}"), 1, 1);
    }
    // One that waits already may move.
    mark(&mut bed, "u0", 1, 2);
    assert_eq!(bed.metrics.mark_news_dropped.get(), 10);
    bed.hub.expire(T0);
    bed.hub.flush(T0);
    let told = told(&mut bed, 0);
    assert_eq!((told.len(), &told[0]), (MARK_NEWS_MAX, &("u0".to_owned(), 1, 2)));
    // The inbox is full: what comes later waits for room, and is told together.
    let step = crate::clock::nanos(MARK_NEWS_EVERY);
    for round in 1..=4 {
        mark(&mut bed, "u", 1, round);
        bed.hub.expire(T0 + round * step);
        bed.hub.flush(T0 + round * step);
    }
    let mut last = Vec::new();
    for round in 5..=9 {
        last.extend(self::told(&mut bed, 0));
        bed.hub.flush(T0 + round * step);
        bed.hub.expire(T0 + round * step);
    }
    assert_eq!(last.last(), Some(&("u".to_owned(), 1, 4)));
    assert!(last.len() < 4, "{last:?}");
}
