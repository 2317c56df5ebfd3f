//! Numbers, entries, envelopes, batches, repeats.

use std::collections::BTreeSet;

use campanile::bus::redis::library::{self, PAYLOADS_MAX};
use campanile::limits::redis::durable::{PACKED_BYTES_MAX, PACKED_MAX};

use crate::support::redis::RedisServer;
use crate::{Channel, Envelope, PREFIX, ask, connect, opened, server, text};

/// Subscribed when it returns.
fn listener(server: &RedisServer, channel: &str) -> redis::Connection {
    let mut connection = connect(server);
    connection.send_packed_command(&redis::cmd("SUBSCRIBE").arg(channel).get_packed_command()).unwrap();
    connection.recv_response().unwrap();
    connection
}

/// The next message.
fn heard(listener: &mut redis::Connection) -> Envelope {
    loop {
        let value = listener.recv_response().unwrap();
        if let Some(message) = redis::Msg::from_value(&value) {
            return opened(message.get_payload_bytes());
        }
    }
}

#[test]
fn a_message_is_numbered_kept_and_published() {
    let server = server();
    let mut redis = connect(&server);
    let mut listener = listener(&server, "n:news");
    let news = Channel::new("news");
    let first = news.say(&mut redis, "Ding");
    assert_eq!((first.first, first.last, first.is_repeat), (1, 1, false));
    let batch = news.publish(&mut redis, &[b"Dong", b"", b"Ding\n"]).unwrap();
    assert_eq!((batch.epoch, batch.first, batch.last), (first.epoch, 2, 4));

    let epoch = first.epoch;
    let kept: Vec<(String, Vec<u8>)> =
        [(1, "Ding"), (2, "Dong"), (3, ""), (4, "Ding\n")].map(|(n, data)| (format!("{epoch}-{n}"), data.into())).into();
    assert_eq!(news.entries(&mut redis), kept);
    assert_eq!((news.field(&mut redis, "e"), news.field(&mut redis, "n")), (epoch, 4));

    let time_ms = news.field(&mut redis, "t");
    let one = heard(&mut listener);
    assert_eq!((one.epoch, one.first, one.payloads), (epoch, 1, vec![b"Ding".to_vec()]));
    assert!(epoch <= one.time_ms && one.time_ms <= time_ms);
    let several = Envelope { epoch, first: 2, time_ms, payloads: vec![b"Dong".to_vec(), vec![], b"Ding\n".to_vec()] };
    assert_eq!(heard(&mut listener), several);
    let time = ask(&mut redis, &["XREVRANGE", &news.stream(), "+", "-", "COUNT", "1"]).unwrap();
    assert!(format!("{time:?}").contains(&time_ms.to_string()), "{time:?}");
}

#[test]
fn whoever_publishes_at_once_gets_numbers_of_his_own() {
    const PUBLISHERS: u64 = 8;
    const CALLS: u64 = 400;
    let server = server();
    let mut listener = listener(&server, "n:race");
    let race = Channel { count: 100_000, ..Channel::new("race") };
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let mut redis = connect(&server);
            std::thread::spawn(move || {
                let mut numbers = Vec::new();
                for call in 0..CALLS {
                    let size = 1 + (call + publisher) % 3;
                    let payloads: Vec<Vec<u8>> = (0..size).map(|at| format!("{publisher} {call} {at}").into_bytes()).collect();
                    let published = race.publish(&mut redis, &payloads.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
                    assert_eq!(published.last - published.first + 1, size);
                    numbers.extend((published.first..=published.last).zip(payloads));
                }
                numbers
            })
        })
        .collect();
    let given: Vec<(u64, Vec<u8>)> = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
    let last = given.len() as u64;
    assert_eq!(given.iter().map(|(number, _)| *number).collect::<BTreeSet<_>>(), (1..=last).collect());

    let mut redis = connect(&server);
    let epoch = race.field(&mut redis, "e");
    let mut expected: Vec<(String, Vec<u8>)> = given.into_iter().map(|(number, data)| (format!("{epoch}-{number}"), data)).collect();
    expected.sort_by_key(|(id, _)| id.split_once('-').unwrap().1.parse::<u64>().unwrap());
    assert!(race.entries(&mut redis) == expected, "the stream has something else");
    let mut next = 1;
    while next <= last {
        let envelope = heard(&mut listener);
        assert_eq!(envelope.first, next);
        for payload in envelope.payloads {
            assert_eq!(payload, expected[next as usize - 1].1);
            next += 1;
        }
    }
}

#[test]
fn payloads_are_any_bytes_of_any_length_and_many_in_a_call() {
    let server = server();
    let mut redis = connect(&server);
    let mut listener = listener(&server, "n:any");
    let any = Channel { count: 100_000, ..Channel::new("any") };
    let every_byte: Vec<u8> = (0..=255).collect();
    let megabyte: Vec<u8> = every_byte.iter().copied().cycle().take(1024 * 1024).collect();
    let mut all: Vec<Vec<u8>> = Vec::new();
    let singles: Vec<Vec<u8>> =
        vec![every_byte.clone(), vec![], vec![0], vec![0xC1, b'1', b' ', b'\n'], b"\r\n".to_vec(), megabyte, b"\0\0\0".to_vec()];
    for single in singles {
        any.publish(&mut redis, &[&single]).unwrap();
        assert_eq!(heard(&mut listener).payloads, [single.as_slice()]);
        all.push(single);
    }
    let thousand: Vec<Vec<u8>> = (0..1000).map(|n: usize| every_byte.iter().copied().cycle().skip(n).take(n % 300).collect()).collect();
    let most = vec![b"x".to_vec(); PAYLOADS_MAX];
    for batch in [thousand, most] {
        let published = any.publish(&mut redis, &batch.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        assert_eq!((published.first, published.last), (all.len() as u64 + 1, (all.len() + batch.len()) as u64));
        assert!(heard(&mut listener).payloads == batch);
        all.extend(batch);
    }
    assert!(any.entries(&mut redis).into_iter().map(|(_, payload)| payload).eq(all.iter().cloned()), "the stream has something else");
    let too_many = any.publish(&mut redis, &vec![b"x".as_slice(); PAYLOADS_MAX + 1]).unwrap_err();
    assert!(too_many.starts_with("BADARGS ") && too_many.contains("at most 10000 payloads"), "{too_many}");
    assert_eq!(any.say(&mut redis, "after").first, all.len() as u64 + 1);
}

/// Ids and fields, oldest first.
fn fields(redis: &mut redis::Connection, channel: &Channel) -> Vec<(String, Vec<String>)> {
    redis::cmd("XRANGE").arg(channel.stream()).arg("-").arg("+").query(redis).unwrap()
}

fn pack(redis: &mut redis::Connection, channel: &Channel, payloads: &[&str]) -> Result<[u64; 4], String> {
    let mut command = redis::cmd("FCALL");
    command.arg(library::PUBLISH_PACKED).arg(2).arg(channel.stream()).arg(channel.meta()).arg("PUBLISH");
    command.arg(format!("{PREFIX}{}", channel.name)).arg(channel.count).arg(channel.age_ms).arg(0).arg(payloads).query(redis).map_err(text)
}

#[test]
fn those_of_one_call_are_packed_and_each_has_its_number() {
    let server = server();
    let mut redis = connect(&server);
    let mut listener = listener(&server, "n:packed");
    let packed = Channel { count: 100, ..Channel::new("packed") };
    let [epoch, first, last, repeat] = pack(&mut redis, &packed, &["alone"]).unwrap();
    assert_eq!((first, last, repeat), (1, 1, 0));
    assert_eq!(pack(&mut redis, &packed, &["ab", "", "c\n"]).unwrap(), [epoch, 2, 4, 0]);
    let time = packed.field(&mut redis, "t").to_string();
    let kept = fields(&mut redis, &packed);
    assert_eq!(kept[0].1[..2], ["d", "alone"]);
    assert_eq!(kept[1], (format!("{epoch}-4"), ["l", "2 0 2", "p", "abc\n", "t", &time].map(str::to_owned).to_vec()));
    // Subscribers see nothing of it.
    heard(&mut listener);
    let several = Envelope { epoch, first: 2, time_ms: time.parse().unwrap(), payloads: vec![b"ab".into(), vec![], b"c\n".into()] };
    assert_eq!(heard(&mut listener), several);

    // An entry holds so many, and so many bytes; one that is larger is alone.
    let large = "x".repeat(PACKED_BYTES_MAX + 1);
    let mut payloads = vec!["y"; PACKED_MAX + 1];
    payloads.extend([&large[..PACKED_BYTES_MAX - 1], "z", "z", &large, "end"]);
    pack(&mut redis, &packed, &payloads).unwrap();
    let ids = [1, 4, 4 + 64, 4 + 66, 4 + 68, 4 + 69, 4 + 70].map(|number: u64| format!("{epoch}-{number}"));
    let kept: Vec<(String, Vec<String>)> = fields(&mut redis, &packed);
    assert_eq!(kept.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ids);
    assert_eq!((&*kept[3].1[1], &*kept[5].1[0]), (&*format!("1 {}", PACKED_BYTES_MAX - 1), "d"));
}

/// `history_count` counts messages, whatever form they came in.
#[test]
fn what_is_packed_counts_as_what_it_holds() {
    let server = server();
    let mut redis = connect(&server);
    let counted = Channel { count: 100, ..Channel::new("counted") };
    let of_call = vec!["x".repeat(128); 32];
    let of_call: Vec<&str> = of_call.iter().map(String::as_str).collect();
    for call in 1..=50 {
        let [_, _, last, _] = pack(&mut redis, &counted, &of_call).unwrap();
        let kept = 32 * fields(&mut redis, &counted).len() as u64;
        assert!((last.min(100)..=100 + 2 * 64).contains(&kept), "call {call}: {kept} of {last}");
    }
    // The same by the function that does not pack, and for messages that come one by one.
    for _ in 0..500 {
        counted.say(&mut redis, "single");
    }
    let kept = fields(&mut redis, &counted);
    assert!((100..=230).contains(&kept.len()) && kept.iter().all(|(_, fields)| fields[0] == "d"), "{}", kept.len());
    // A new epoch does not keep what the ones before have left beside as much of its own for ever.
    for _ in 0..20 {
        let epoch = counted.field(&mut redis, "e");
        counted.renew(&mut redis, epoch).unwrap();
        for _ in 0..50 {
            counted.say(&mut redis, "again");
        }
    }
    assert!(fields(&mut redis, &counted).len() <= 100 + 50 + 100, "{}", fields(&mut redis, &counted).len());
}

#[test]
fn a_packed_call_that_is_refused_leaves_nothing() {
    let server = server();
    let mut redis = connect(&server);
    let channel = Channel::new("other");
    pack(&mut redis, &channel, &["a", "b"]).unwrap();
    ask(&mut redis, &["RENAME", &channel.stream(), "away"]).unwrap();
    ask(&mut redis, &["SET", &channel.stream(), "text"]).unwrap();
    let before = channel.state(&mut redis);
    assert!(pack(&mut redis, &channel, &["c", "d"]).unwrap_err().starts_with("WRONGTYPE"));
    assert_eq!(channel.state(&mut redis), before);
    ask(&mut redis, &["RENAME", "away", &channel.stream()]).unwrap();
    assert_eq!(pack(&mut redis, &channel, &["c", "d"]).unwrap()[1..3], [3, 4]);
}

#[test]
fn a_repeat_is_answered_as_the_first_was_and_published_once() {
    let server = server();
    let mut redis = connect(&server);
    let orders = Channel::new("orders");
    let paid = Channel { once: Some(("k", 600_000)), ..orders };
    let first = paid.publish(&mut redis, &[b"a", b"b"]).unwrap();
    orders.say(&mut redis, "between");
    let repeat = paid.say(&mut redis, "another text");
    assert_eq!((repeat.epoch, repeat.first, repeat.last, repeat.is_repeat), (first.epoch, 1, 2, true));
    // Also when its epoch is over.
    orders.renew(&mut redis, first.epoch).unwrap();
    assert_eq!(paid.say(&mut redis, "a"), repeat);
    let other = Channel { once: Some(("other", 600_000)), ..orders };
    assert_eq!((other.say(&mut redis, "c").first, other.say(&mut redis, "c").is_repeat), (1, true));
    assert_eq!(orders.entries(&mut redis).len(), 4);
    // Of another channel it is another key.
    assert!(!Channel { name: "more orders", ..paid }.say(&mut redis, "a").is_repeat);
}

#[test]
fn of_those_who_repeat_at_once_one_publishes() {
    let server = server();
    let once = Channel { once: Some(("k", 600_000)), ..Channel::new("once") };
    let publishers: Vec<_> = (0..8)
        .map(|_| {
            let mut redis = connect(&server);
            std::thread::spawn(move || (0..50).map(|_| once.say(&mut redis, "x")).collect::<Vec<_>>())
        })
        .collect();
    let repeats: Vec<_> = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
    assert_eq!(repeats.iter().filter(|published| !published.is_repeat).count(), 1);
    assert!(repeats.iter().all(|published| (published.first, published.last) == (1, 1)));
}

#[test]
fn a_repeat_after_its_window_is_a_message() {
    let server = server();
    let mut redis = connect(&server);
    let brief = Channel { once: Some(("k", 50)), ..Channel::new("brief") };
    assert_eq!(brief.say(&mut redis, "x").first, 1);
    crate::eventually("the key is forgotten", || {
        ask(&mut redis, &["EXISTS", &campanile::bus::redis::keys::once(PREFIX, "brief", "k")]) == Ok(redis::Value::Int(0))
    });
    let again = brief.say(&mut redis, "x");
    assert_eq!((again.first, again.is_repeat), (2, false));
}

#[test]
fn names_with_braces_and_percent_signs_have_keys_of_their_own() {
    let server = server();
    let mut redis = connect(&server);
    for name in ["{}", "%7B", "a{b}c", "%", "}", "ü:{%25}", "::stream"] {
        let mut listener = listener(&server, &format!("n:{name}"));
        assert_eq!(Channel::new(name).say(&mut redis, name).first, 1, "{name}");
        assert_eq!(heard(&mut listener).payloads, [name.as_bytes()]);
    }
}

/// A channel that a server has as `redis_channel` stands outside of the prefix in Pub/Sub, and inside with its keys.
#[test]
fn a_channel_outside_the_prefix_is_published_under_its_name_alone() {
    let server = server();
    let mut redis = connect(&server);
    let mut listener = listener(&server, "alerts");
    let call = |redis: &mut redis::Connection, channel: &str| {
        ask(redis, &["FCALL", "campanile_publish_1", "2", "n:{alerts}:stream", "n:{alerts}:meta", "PUBLISH", channel, "10", "0", "0", "x"])
    };
    call(&mut redis, "alerts").unwrap();
    assert_eq!(heard(&mut listener).first, 1);
    call(&mut redis, "n:alerts").unwrap();
    assert_eq!(Channel::new("alerts").entries(&mut redis).len(), 2);
}
