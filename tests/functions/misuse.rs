//! Calls that are wrong by themselves, and publishers who may do more than they should.

use campanile::bus::redis::call_error::CallError;
use redis::Connection;

use crate::{Channel, ask, connect, server};

const STREAM: &str = "n:{a}:stream";
const META: &str = "n:{a}:meta";

/// `words`: of FCALL after the function's name, in which `-` stands for an empty one.
fn call(redis: &mut Connection, function: &str, words: &str) -> Result<redis::Value, String> {
    let words: Vec<&str> = words.split_whitespace().map(|word| if word == "-" { "" } else { word }).collect();
    ask(redis, &[&["FCALL", function], words.as_slice()].concat())
}

#[test]
fn wrong_calls_are_told_what_is_wrong_and_leave_nothing() {
    let server = server();
    let mut redis = connect(&server);
    let keys = format!("2 {STREAM} {META}");
    let good = "PUBLISH n:a 10 1000 0 x";
    for (code, words) in [
        ("BADKEYS", format!("0 {good}")),
        ("BADKEYS", format!("1 {STREAM} {good}")),
        ("BADKEYS", format!("4 {STREAM} {META} n:{{a}}:once:k n:{{a}}:once:l {good}")),
        ("BADKEYS", format!("2 {META} {STREAM} {good}")),
        ("BADKEYS", format!("2 {STREAM} {STREAM} {good}")),
        ("BADKEYS", format!("2 {STREAM} n:{{b}}:meta {good}")),
        ("BADKEYS", format!("3 {STREAM} {META} {META} {good}")),
        ("BADKEYS", format!("3 {STREAM} {META} n:{{b}}:once:k {good}")),
        ("BADKEYS", format!("2 n:a:stream n:a:meta {good}")),
        ("BADKEYS", format!("2 n:{{}}:stream n:{{}}:meta {good}")),
        ("BADKEYS", format!("2 n:{{a}}b:stream n:{{a}}b:meta {good}")),
        ("BADKEYS", format!("2 {{n}}:{{a}}:stream {{n}}:{{a}}:meta {good}")),
        ("BADKEYS", format!("2 n:{{{{a}}:stream n:{{{{a}}:meta {good}")),
        ("BADKEYS", format!("2 n:{{a}}}}:stream n:{{a}}}}:meta {good}")),
        ("BADKEYS", format!("2 n:{{%61}}:stream n:{{%61}}:meta {good}")),
        ("BADKEYS", format!("2 n:{{%7b}}:stream n:{{%7b}}:meta {good}")),
        ("BADKEYS", format!("2 n:{{%}}:stream n:{{%}}:meta {good}")),
        ("BADARGS", keys.clone()),
        ("BADARGS", format!("{keys} PUBLISH")),
        ("BADARGS", format!("{keys} PUBLISH n:a 10 1000 0")),
        ("BADARGS", format!("{keys} publish n:a 10 1000 0 x")),
        ("BADARGS", format!("{keys} DEL n:a 10 1000 0 x")),
        ("BADARGS", format!("{keys} - n:a 10 1000 0 x")),
        ("BADCHANNEL", format!("{keys} PUBLISH n:b 10 1000 0 x")),
        ("BADCHANNEL", format!("{keys} PUBLISH n:{{a}} 10 1000 0 x")),
        ("BADCHANNEL", format!("{keys} PUBLISH - 10 1000 0 x")),
        ("BADCHANNEL", format!("{keys} SPUBLISH n:a 10 1000 0 x")),
        ("BADCHANNEL", format!("{keys} SPUBLISH a 10 1000 0 x")),
        ("BADARGS", format!("3 {STREAM} {META} n:{{a}}:once:k {good}")),
    ] {
        let error = call(&mut redis, "campanile_publish_1", &words).unwrap_err();
        assert!(error.starts_with(&format!("{code} ")), "{words}: {error}");
        assert_eq!(CallError::of(&error), CallError::Misused);
    }
    let wrong = [
        "-",
        "x",
        "-1",
        "1.5",
        "1e3",
        "0x10",
        "nan",
        "inf",
        "+5",
        "99999999999999999999",
        "99999999999999999999999999999999",
        "1000000000001",
    ];
    for (count, age, window) in
        wrong.iter().flat_map(|text| [(*text, "1000", "0"), ("10", text, "0"), ("10", "1000", text)]).chain([("0", "1", "1")])
    {
        let error = call(&mut redis, "campanile_publish_1", &format!("{keys} PUBLISH n:a {count} {age} {window} x")).unwrap_err();
        assert!(error.starts_with("BADARGS "), "{count} {age} {window}: {error}");
    }
    for (function, words) in [
        ("campanile_open_1", "0".to_owned()),
        ("campanile_open_1", format!("2 {META} {STREAM}")),
        ("campanile_open_1", format!("3 {STREAM} {META} n:{{a}}:once:k")),
        ("campanile_renew_1", "0".to_owned()),
        ("campanile_renew_1", keys.clone()),
        ("campanile_renew_1", format!("{keys} x")),
        ("campanile_renew_1", format!("{keys} 0")),
        ("campanile_renew_1", format!("{keys} -1")),
        ("campanile_renew_1", format!("{keys} 1.5")),
        ("campanile_renew_1", format!("{keys} nan")),
        ("campanile_renew_1", format!("{keys} 9007199254740992")),
        ("campanile_renew_1", format!("{keys} 1 2")),
    ] {
        let error = call(&mut redis, function, &words).unwrap_err();
        assert_eq!(CallError::of(&error), CallError::Misused, "{function} {words}: {error}");
    }
    assert_eq!(ask(&mut redis, &["DBSIZE"]), Ok(redis::Value::Int(0)));
    // After a good one, as what was found good is remembered.
    call(&mut redis, "campanile_publish_1", &format!("{keys} {good}")).unwrap();
    for words in
        ["PUBLISH n:a 10 1000 x x", "PUBLISH n:a 10 -1 0 x", "PUBLISH n:b 10 1000 0 x", "SPUBLISH n:a 10 1000 0 x", "PUBLISH n:a 10 1000 0"]
    {
        call(&mut redis, "campanile_publish_1", &format!("{keys} {words}")).unwrap_err();
    }
    assert!(call(&mut redis, "campanile_publish_1", &format!("3 {STREAM} {META} n:{{a}}:once:k {good}")).is_err(), "a window of 0");
    assert!(call(&mut redis, "campanile_publish_1", &format!("2 {STREAM} n:{{b}}:meta {good}")).is_err());
    assert_eq!(Channel::new("a").say(&mut redis, "y").first, 2);
}

#[test]
fn the_widest_numbers_are_taken() {
    let server = server();
    let mut redis = connect(&server);
    for (count, age, window) in [("1", "0", "0"), ("1", "1", "0"), ("1000000000", "315360000000", "315360000000"), ("0010", "1", "1")] {
        let words = format!("3 {STREAM} {META} n:{{a}}:once:{count} PUBLISH n:a {count} {age} {window} x");
        let result = call(&mut redis, "campanile_publish_1", &words);
        // Redis takes no number that begins with a 0, and with ONCE no window of 0.
        assert_eq!(result.is_ok(), window != "0" && !count.starts_with('0'), "{words}: {result:?}");
    }
    for (count, age) in [("1", "0"), ("1", "1"), ("1000000000", "315360000000"), ("1", "000")] {
        call(&mut redis, "campanile_publish_1", &format!("2 {STREAM} {META} PUBLISH n:a {count} {age} 0 x")).unwrap();
    }
}

/// More channels than are remembered, so that each is found out anew.
#[test]
fn ten_thousand_channels_in_turn() {
    let server = server();
    let mut redis = connect(&server);
    for round in 1..=3_u64 {
        let mut pipe = redis::pipe();
        for n in 0..10_000 {
            let (stream, meta) = (format!("n:{{c{n}}}:stream"), format!("n:{{c{n}}}:meta"));
            pipe.cmd("FCALL")
                .arg("campanile_publish_1")
                .arg(2)
                .arg(stream)
                .arg(meta)
                .arg("PUBLISH")
                .arg(format!("n:c{n}"))
                .arg(&[10, 1000, 0])
                .arg("x");
        }
        let answers: Vec<[u64; 4]> = pipe.query(&mut redis).unwrap();
        assert!(answers.iter().all(|answer| answer[1] == round && answer[2] == round), "{round}");
    }
}

/// In a transaction and from a script, as from anywhere.
#[test]
fn it_can_be_called_within_a_transaction() {
    let server = server();
    let mut redis = connect(&server);
    let mut pipe = redis::pipe();
    pipe.atomic();
    for payload in ["a", "b"] {
        pipe.cmd("FCALL")
            .arg("campanile_publish_1")
            .arg(2)
            .arg(STREAM)
            .arg(META)
            .arg("PUBLISH")
            .arg("n:a")
            .arg(&[10, 1000, 0])
            .arg(payload);
    }
    let answers: Vec<[u64; 4]> = pipe.query(&mut redis).unwrap();
    assert_eq!(answers.iter().map(|answer| answer[1]).collect::<Vec<_>>(), [1, 2]);
}

/// A connection that speaks RESP3 is answered the same.
#[test]
fn resp3_is_answered_alike() {
    let server = server();
    let mut redis = crate::connect_to(&format!("{}?protocol=resp3", server.url()));
    let news = Channel::new("a");
    assert_eq!(news.say(&mut redis, "x").first, 1);
    assert_eq!(news.open(&mut redis).unwrap().1, 1);
}

/// What is remembered of names does not grow with what somebody makes up.
#[test]
fn names_that_are_made_up_fill_no_memory() {
    let server = server();
    let mut redis = connect(&server);
    for (count, bytes) in [(3000, 20_000), (20_000, 900)] {
        let mut pipe = redis::pipe();
        for n in 0..count {
            let name = format!("{n}{}", "x".repeat(bytes));
            pipe.cmd("FCALL").arg("campanile_open_1").arg(2).arg(format!("n:{{{name}}}:stream")).arg("other").ignore();
        }
        let _ = pipe.exec(&mut redis).unwrap_err();
    }
    let info: String = redis::cmd("INFO").arg("memory").query(&mut redis).unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory_vm_functions:")).unwrap().parse::<u64>().unwrap();
    assert!(used < 64 * 1024 * 1024, "{used}");
    assert_eq!(Channel::new("long ".repeat(1000).leak()).say(&mut redis, "x").first, 1);
}
