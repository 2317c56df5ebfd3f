//! What goes with time and by number: entries, keys.

use redis::{Connection, Value};

use crate::{Channel, DAY_MS, ask, connect, eventually, number, server};

fn length(redis: &mut Connection, channel: &Channel) -> u64 {
    number(&ask(redis, &["XLEN", &channel.stream()]).unwrap())
}

fn left_ms(redis: &mut Connection, key: &str) -> u64 {
    number(&ask(redis, &["PTTL", key]).unwrap())
}

/// Waits until the server's clock is so far behind this message.
fn wait_for_age(redis: &mut Connection, channel: &Channel, age_ms: u64) {
    let then = channel.field(redis, "t");
    eventually("time passes", || {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(redis).unwrap();
        seconds * 1000 + micros / 1000 > then + age_ms
    });
}

#[test]
fn more_than_the_count_is_trimmed_at_each_call_in_whole_nodes() {
    let server = server();
    let mut redis = connect(&server);
    let short = Channel { count: 10, ..Channel::new("short") };
    for _ in 0..500 {
        short.publish(&mut redis, &[&[b'x'; 128]]).unwrap();
        assert!(length(&mut redis, &short) < 10 + 100, "a node has 100 entries at most");
    }
    assert!(length(&mut redis, &short) >= 10);
    short.publish(&mut redis, &[b"y".as_slice(); 1000]).unwrap();
    let kept = short.entries(&mut redis);
    assert!((10..110).contains(&kept.len()), "{}", kept.len());
    assert!(kept.last().unwrap().0.ends_with("-1500"));
}

#[test]
fn what_is_too_old_goes_with_every_64th_number() {
    let server = server();
    let mut redis = connect(&server);
    let brief = Channel { age_ms: 200, ..Channel::new("brief") };
    for _ in 0..64 {
        brief.say(&mut redis, "old");
    }
    wait_for_age(&mut redis, &brief, 200);
    for _ in 65..128 {
        brief.say(&mut redis, "new");
    }
    let before = brief.entries(&mut redis);
    assert_eq!((before.len(), before[0].1.as_slice()), (127, b"old".as_slice()));
    brief.say(&mut redis, "new");
    let after = brief.entries(&mut redis);
    assert!(after.iter().all(|(_, payload)| payload == b"new"));
    // On a machine that is busy some of the new ones are old by now.
    assert!(after.len() <= 64 && after.last().unwrap().0.ends_with("-128"), "{}", after.len());
}

/// It took 64 with each look, and a stream that had once been long stayed long.
#[test]
fn whatever_is_too_old_goes_at_once() {
    let server = server();
    let mut redis = connect(&server);
    let burst = Channel { age_ms: 300, count: 100_000, ..Channel::new("burst") };
    let first = burst.publish(&mut redis, &[b"old".as_slice(); 5000]).unwrap();
    burst.renew(&mut redis, first.epoch).unwrap();
    burst.publish(&mut redis, &[b"old".as_slice(); 5000]).unwrap();
    wait_for_age(&mut redis, &burst, 300);
    burst.publish(&mut redis, &[b"new".as_slice(); 64]).unwrap();
    assert_eq!(length(&mut redis, &burst), 64);
    // All of them, before the next comes.
    wait_for_age(&mut redis, &burst, 300);
    burst.publish(&mut redis, &[b"newer".as_slice(); 64]).unwrap();
    assert_eq!(length(&mut redis, &burst), 64);
}

#[test]
fn an_entry_that_is_not_ours_is_taken_for_old() {
    let server = server();
    let mut redis = connect(&server);
    let mixed = Channel { age_ms: 3_600_000, ..Channel::new("mixed") };
    ask(&mut redis, &["XADD", &mixed.stream(), "1-1", "foreign", "entry"]).unwrap();
    mixed.publish(&mut redis, &[b"x".as_slice(); 128]).unwrap();
    // The first of ours is young: what stands before it stays.
    assert_eq!(length(&mut redis, &mixed), 129);
    let brief = Channel { age_ms: 50, ..mixed };
    wait_for_age(&mut redis, &brief, 50);
    brief.publish(&mut redis, &[b"y".as_slice(); 64]).unwrap();
    assert_eq!(length(&mut redis, &brief), 64);
}

#[test]
fn the_keys_expire_the_numbers_long_after_the_messages() {
    let server = server();
    let mut redis = connect(&server);
    let channel = Channel { age_ms: 3_600_000, ..Channel::new("quiet") };
    channel.say(&mut redis, "x");
    let left = left_ms(&mut redis, &channel.stream());
    assert!(channel.age_ms < left && left <= 2 * channel.age_ms, "{left}");
    assert!(left_ms(&mut redis, &channel.meta()) > 30 * DAY_MS + channel.age_ms);
    let expires = channel.field(&mut redis, "x");
    assert_eq!(number(&ask(&mut redis, &["PEXPIRETIME", &channel.stream()]).unwrap()), expires);

    // Not with each message.
    let again = channel.say(&mut redis, "y");
    assert_eq!(channel.field(&mut redis, "x"), expires);
    // Less than its age is left: as if so much time had gone by.
    let soon = (expires - channel.age_ms - 1).to_string();
    ask(&mut redis, &["HSET", &channel.meta(), "x", &soon, "n", "7"]).unwrap();
    ask(&mut redis, &["PEXPIREAT", &channel.stream(), &soon]).unwrap();
    assert_eq!(channel.say(&mut redis, "z").first, 8);
    assert!(left_ms(&mut redis, &channel.stream()) > channel.age_ms);

    // A longer age is in force at once.
    let longer = Channel { age_ms: 5 * 3_600_000, ..channel };
    longer.say(&mut redis, "x");
    assert!(left_ms(&mut redis, &channel.stream()) > longer.age_ms);

    // The history is over: the numbers go on, and the new stream expires as the old one did.
    ask(&mut redis, &["PEXPIRE", &channel.stream(), "1"]).unwrap();
    eventually("the stream expires", || ask(&mut redis, &["EXISTS", &channel.stream()]) == Ok(Value::Int(0)));
    let later = channel.say(&mut redis, "later");
    assert_eq!((later.epoch, later.first), (again.epoch, 10));
}

#[test]
fn a_stream_that_was_deleted_expires_all_the_same() {
    let server = server();
    let mut redis = connect(&server);
    let channel = Channel::new("deleted");
    channel.say(&mut redis, "x");
    ask(&mut redis, &["DEL", &channel.stream()]).unwrap();
    for _ in 2..=64 {
        channel.say(&mut redis, "x");
    }
    assert!(left_ms(&mut redis, &channel.stream()) <= 2 * channel.age_ms);
}

#[test]
fn no_age_is_thirty_days() {
    let server = server();
    let mut redis = connect(&server);
    let long = Channel { age_ms: 0, ..Channel::new("long") };
    long.say(&mut redis, "x");
    assert!(left_ms(&mut redis, &long.stream()) > 30 * DAY_MS);
    assert!(left_ms(&mut redis, &long.meta()) > 60 * DAY_MS);
}

#[test]
fn a_channel_that_is_only_opened_keeps_its_epoch_while_somebody_comes() {
    let server = server();
    let mut redis = connect(&server);
    let silent = Channel::new("silent");
    let (epoch, last, _) = silent.open(&mut redis).unwrap();
    assert_eq!(last, 0);
    assert!(left_ms(&mut redis, &silent.meta()) > 29 * DAY_MS);
    // As if sixteen days had gone by.
    let then = (epoch - 16 * DAY_MS).to_string();
    ask(&mut redis, &["HSET", &silent.meta(), "x", &then]).unwrap();
    ask(&mut redis, &["PEXPIRE", &silent.meta(), &(14 * DAY_MS).to_string()]).unwrap();
    // By somebody who has not seen it yet.
    ask(&mut redis, &["FUNCTION", "LOAD", "REPLACE", campanile::bus::redis::library::SOURCE]).unwrap();
    assert_eq!(silent.open(&mut redis).unwrap().0, epoch);
    assert!(left_ms(&mut redis, &silent.meta()) > 29 * DAY_MS);
}
