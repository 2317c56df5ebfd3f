//! When a new epoch begins, and that no two messages ever stand under one epoch and number.

use std::collections::HashSet;

use crate::{Channel, DAY_MS, ask, connect, number, server, server_with};

const EXACT_MAX: u64 = (1 << 53) - 1;

#[test]
fn all_gone_within_a_millisecond_is_another_epoch() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    let (stream, meta) = (news.stream(), news.meta());
    for delete in [&["FLUSHALL"][..], &["DEL", &stream, &meta]] {
        let mut pipe = redis::pipe();
        for _ in 0..50 {
            pipe.cmd("FCALL")
                .arg("campanile_publish_1")
                .arg(2)
                .arg(&stream)
                .arg(&meta)
                .arg("PUBLISH")
                .arg("n:news")
                .arg(&[10, 1000, 0])
                .arg("x");
            pipe.add_command(redis::Cmd::new().arg(delete).clone()).ignore();
        }
        let answers: Vec<[u64; 4]> = pipe.query(&mut redis).unwrap();
        assert!(answers.iter().all(|answer| answer[1] == 1));
        assert_eq!(answers.iter().map(|answer| answer[0]).collect::<HashSet<_>>().len(), 50);
    }
}

/// The channel after two messages, and what is done to it: whether its epoch ends by the next message, which is taken.
fn ends_by(what: &[&[&str]]) -> bool {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    news.say(&mut redis, "a");
    let before = news.say(&mut redis, "b");
    for command in what {
        let command: Vec<String> = command
            .iter()
            .map(|part| part.replace("STREAM", &news.stream()).replace("META", &news.meta()).replace("EPOCH", &before.epoch.to_string()))
            .collect();
        ask(&mut redis, &command.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    }
    let after = news.say(&mut redis, "c");
    let next = news.publish(&mut redis, &[b"d", b"e"]).unwrap();
    assert_eq!((next.epoch, next.first, next.last), (after.epoch, after.last + 1, after.last + 2), "{what:?}");
    assert_eq!((news.field(&mut redis, "e"), news.field(&mut redis, "n")), (next.epoch, next.last), "{what:?}");
    let last = news.entries(&mut redis).pop().unwrap();
    assert_eq!(last, (format!("{}-{}", next.epoch, next.last), b"e".to_vec()), "{what:?}");
    let is_new = after.epoch != before.epoch;
    assert!(after.epoch >= before.epoch, "{what:?}");
    assert_eq!(after.first == 1, is_new, "{what:?}");
    is_new
}

#[test]
fn an_epoch_ends_where_numbers_could_repeat_or_nothing_could_follow() {
    for what in [
        &["DEL", "META"][..],
        &["DEL", "STREAM", "META"],
        &["XADD", "STREAM", "EPOCH-3", "d", "foreign"],
        &["XADD", "STREAM", "EPOCH-18446744073709551615", "d", "foreign"],
        &["XADD", "STREAM", "4000000000000-7", "d", "foreign"],
        &["XSETID", "STREAM", "EPOCH-900"],
        &["HDEL", "META", "e"],
        &["HDEL", "META", "n"],
        &["HSET", "META", "n", "1"],
        &["HSET", "META", "n", "0"],
        &["HSET", "META", "n", "-1"],
        &["HSET", "META", "n", "9007199254740991"],
        &["HSET", "META", "n", "99999999999999999999"],
        &["HSET", "META", "e", "1"],
        &["HSET", "META", "e", " 12"],
        &["HSET", "META", "e", "1.5"],
    ] {
        assert!(ends_by(&[what]), "{what:?}");
    }
    for (field, text) in
        ["e", "n"].into_iter().flat_map(|field| ["", "x", "nan", "inf", "-inf", "1e400", "1e-3", "\0"].map(|text| (field, text)))
    {
        assert!(ends_by(&[&["HSET", "META", field, text]]), "{field} {text:?}");
    }
}

#[test]
fn an_epoch_goes_on_where_nothing_can_repeat() {
    for what in [
        &["DEL", "STREAM"][..],
        &["XTRIM", "STREAM", "MAXLEN", "0"],
        &["XDEL", "STREAM", "EPOCH-2"],
        &["XTRIM", "STREAM", "MAXLEN", "1"],
        &["HDEL", "META", "t", "x"],
        &["HSET", "META", "x", "nan", "t", "x", "other", "field"],
        &["HSET", "META", "n", "7"],
        &["PERSIST", "STREAM"],
        &["FUNCTION", "LOAD", "REPLACE", campanile::bus::redis::library::SOURCE],
        &["SCRIPT", "FLUSH"],
    ] {
        assert!(!ends_by(&[what]), "{what:?}");
    }
}

#[test]
fn a_clock_that_steps_back_begins_nothing_smaller() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    // As begun by a clock that was a day ahead.
    let ahead = news.say(&mut redis, "a").epoch + DAY_MS;
    ask(&mut redis, &["HSET", &news.meta(), "e", &ahead.to_string()]).unwrap();
    let later = news.say(&mut redis, "b");
    assert_eq!((later.epoch, later.first), (ahead, 2));
    ask(&mut redis, &["DEL", &news.meta()]).unwrap();
    assert_eq!(news.say(&mut redis, "c").epoch, ahead + 1);
    assert_eq!(news.renew(&mut redis, ahead + 1).unwrap(), (ahead + 2, 0));
    let ids: Vec<String> = news.entries(&mut redis).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids[1..], [format!("{ahead}-2"), format!("{}-1", ahead + 1)]);
}

#[test]
fn the_last_number_is_used_and_the_next_one_begins_anew() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    let first = news.say(&mut redis, "a");
    ask(&mut redis, &["HSET", &news.meta(), "n", &(EXACT_MAX - 3).to_string()]).unwrap();
    let batch = news.publish(&mut redis, &[b"b", b"c"]).unwrap();
    assert_eq!((batch.epoch, batch.first, batch.last), (first.epoch, EXACT_MAX - 2, EXACT_MAX - 1));
    let last = news.say(&mut redis, "d");
    assert_eq!((last.epoch, last.first), (first.epoch, EXACT_MAX));
    assert_eq!(news.field(&mut redis, "n"), EXACT_MAX);
    assert_eq!(news.entries(&mut redis).pop().unwrap().0, format!("{}-{EXACT_MAX}", first.epoch));
    let next = news.say(&mut redis, "e");
    assert!(next.epoch > first.epoch && next.first == 1);
}

#[test]
fn beyond_all_epochs_it_says_what_to_delete() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    news.say(&mut redis, "a");
    ask(&mut redis, &["XADD", &news.stream(), "18446744073709551615-18446744073709551615", "d", "x"]).unwrap();
    let before = news.state(&mut redis);
    let error = news.publish(&mut redis, &[b"b"]).unwrap_err();
    assert!(error.starts_with("BADSTREAM ") && error.contains("n:{news}:stream") && error.contains("n:{news}:meta"), "{error}");
    let epoch = news.field(&mut redis, "e");
    assert!(news.renew(&mut redis, epoch).unwrap_err().starts_with("BADSTREAM "));
    assert_eq!(news.state(&mut redis), before);
    ask(&mut redis, &["DEL", &news.stream(), &news.meta()]).unwrap();
    assert_eq!(news.say(&mut redis, "b").first, 1);
}

#[test]
fn opening_gives_a_position_before_the_first_message_and_writes_nothing_more() {
    let server = server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    let (epoch, last, time_ms) = news.open(&mut redis).unwrap();
    assert!(last == 0 && time_ms <= epoch);
    let before = news.state(&mut redis);
    assert_eq!(news.open(&mut redis), Ok((epoch, 0, time_ms)));
    assert_eq!(news.state(&mut redis), before);
    let first = news.say(&mut redis, "a");
    assert_eq!((first.epoch, first.first), (epoch, 1));
    assert_eq!(news.open(&mut redis), Ok((epoch, 1, news.field(&mut redis, "t"))));
    assert!(number(&ask(&mut redis, &["PTTL", &news.stream()]).unwrap()) > 0);
}

#[test]
fn of_many_who_ask_for_another_epoch_one_begins_it() {
    let server = server();
    let news = Channel::new("news");
    let mut redis = connect(&server);
    let old = news.say(&mut redis, "a").epoch;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let mut redis = connect(&server);
            std::thread::spawn(move || news.renew(&mut redis, old).unwrap())
        })
        .collect();
    let answers: HashSet<(u64, u64)> = asking.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(answers.len(), 1);
    let (epoch, last) = answers.into_iter().next().unwrap();
    assert!(epoch > old && last == 0);
    assert_eq!(news.open(&mut redis).map(|(epoch, last, _)| (epoch, last)), Ok((epoch, 0)));
    assert_eq!(news.say(&mut redis, "b").epoch, epoch);
    assert_eq!(news.renew(&mut redis, old), Ok((epoch, 1)), "it is not the current one");
    // Where there is none, one is begun that is larger than what was expected.
    ask(&mut redis, &["FLUSHALL"]).unwrap();
    assert!(news.renew(&mut redis, epoch + DAY_MS).unwrap().0 > epoch + DAY_MS);
}

/// A server that is full evicts streams and meta hashes one by one.
#[test]
fn whatever_is_evicted_no_number_is_given_twice() {
    let server = server_with(&["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-random"]);
    let mut redis = connect(&server);
    let mut seen = HashSet::new();
    let evicted = |redis: &mut redis::Connection| {
        let stats: String = redis::cmd("INFO").arg("stats").query(redis).unwrap();
        stats.lines().find_map(|line| line.strip_prefix("evicted_keys:")).unwrap().parse::<u64>().unwrap()
    };
    let names: Vec<&'static str> = (0..300).map(|n| &*format!("c{n}").leak()).collect();
    while evicted(&mut redis) < 2000 {
        for name in &names {
            let published = Channel::new(name).publish(&mut redis, &[&[b'x'; 1000], &[b'y'; 1000]]).unwrap();
            assert!(seen.insert((*name, published.epoch, published.first)), "{name} {published:?}");
        }
    }
}

/// Two databases of a server have the same names.
#[test]
fn databases_do_not_take_each_others_numbers() {
    let server = server();
    let mut zero = connect(&server);
    let mut one = crate::connect_to(&format!("{}/1", server.url()));
    let news = Channel::new("news");
    for round in 1..=3 {
        let published = [&mut zero, &mut one].map(|redis| news.say(redis, "x"));
        assert_eq!(published.map(|published| published.first), [round; 2]);
        assert_ne!(published[0].epoch, published[1].epoch);
    }
}
