//! The whole server with durable channels and no Redis: what is there after a restart and after a crash, and who may have a `data_dir`.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::server::{Launch, Server};
use campanile::addresses::Source;
use campanile::bus::question::{Answer, Asker, Publish};
use campanile::bus::{BusCommand, Creator, ShardMessage};
use campanile::config::{ChannelRule, Fsync, Settings};
use campanile::fanout::topics::TopicToken;
use campanile::inbox::inbox;
use mio::{Poll, Token};
use serde_json::{Value, json};

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        Folder(std::env::temp_dir().join(format!("campanile-data-{}-{name}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const RULES: &str = "log_bytes_per_channel = \"4k\"\npayload_bytes_max = \"4k\"\n[[channels]]\nprefix = \"feed:\"\ndurable = true\n\
                     history_count = 100000\nhistory_age = 3600\nsubscribe = \"anyone\"\npublish = \"anyone\"\n";

/// Logs of the smallest kind, so that what is older is read from the journal.
fn launch(folder: &Folder, arguments: &[&str]) -> Launch {
    Launch::new(arguments).file(&format!("data_dir = \"{}\"\n{RULES}", folder.0.display()))
}

fn publish(server: &Server, channel: &str, data: &Value) -> (u64, u64) {
    let (status, answer) = server.post("/publish", json!({"channel": channel, "data": data}).to_string());
    assert_eq!(status, 200, "{answer}");
    (answer["epoch"].as_u64().unwrap(), answer["seq"].as_u64().unwrap())
}

/// A client that has subscribed, and its `subscribed`.
fn subscribe(server: &Server, channel: &str, since: Option<(u64, u64)>) -> (Client, Value) {
    let mut client = Client::connect(server.listen, "/ws?format=json");
    let since = since.map_or(Value::Null, |(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
    client.command(json!({"type": "subscribe", "channel": channel, "since": since}));
    loop {
        let event = client.event();
        if event["type"] != "connected" {
            assert_eq!(event["type"], "subscribed", "{event}");
            return (client, event);
        }
    }
}

#[test]
fn everything_goes_on_after_a_restart() {
    for shards in ["1", "2"] {
        let folder = Folder::new(&format!("restart-{shards}"));
        let mut first = launch(&folder, &["--shards", shards]).start();
        let (mut present, subscribed) = subscribe(&first, "feed:a", None);
        assert_eq!(subscribed["seq"], 0);
        let epoch = subscribed["epoch"].as_u64().unwrap();
        for number in 1..=300 {
            assert_eq!(publish(&first, "feed:a", &json!(number)), (epoch, number));
        }
        let expected: Vec<(u64, Value)> = (1..=300).map(|number| (number, json!(number))).collect();
        assert_eq!(present.messages(300), expected);
        // A channel that nobody hears is numbered too.
        let quiet = publish(&first, "feed:quiet", &json!("x"));
        assert_eq!(quiet.1, 1);
        let once = json!({"channel": "feed:a", "data": "once", "idempotency_key": "order-7"}).to_string();
        let (_, told) = first.post("/publish", &once);
        assert_eq!((&told["seq"], &told["repeated"]), (&json!(301), &json!(false)));
        assert!(first.metric("campanile_bus_journal_messages", "") >= 0.0);
        drop(present);
        first.terminate();
        assert_eq!(first.exit_code(), 0, "{}", first.log());

        let second = launch(&folder, &["--shards", shards]).start();
        let (status, again) = second.post("/publish", &once);
        assert_eq!((status, &again["seq"], &again["repeated"]), (200, &json!(301), &json!(true)), "{again}");
        for since in [0, 1, 31, 32, 33, 250, 299, 300] {
            let (mut back, subscribed) = subscribe(&second, "feed:a", Some((epoch, since)));
            assert_eq!((&subscribed["recovered"], &subscribed["seq"]), (&json!(true), &json!(since)), "{subscribed}");
            let got = back.messages(301 - since as usize);
            assert_eq!(got[..got.len() - 1], expected[since as usize..]);
            assert_eq!(got.last(), Some(&(301, json!("once"))));
        }
        let (mut back, _) = subscribe(&second, "feed:a", Some((epoch, 301)));
        assert_eq!(publish(&second, "feed:a", &json!("new")), (epoch, 302));
        assert_eq!(back.messages(1), [(302, json!("new"))]);
        assert_eq!(publish(&second, "feed:quiet", &json!("y")), (quiet.0, 2));
        assert_eq!(subscribe(&second, "feed:a", Some((epoch - 1, 3))).1["recovered"], json!(false));
        assert!(second.metric("campanile_messages_replayed_total", "") > 0.0);
        second.eventually("its counts", |server| server.metric("campanile_bus_journal_messages", "") == 304.0);
        // And what clients may do.
        assert_eq!(second.post("/publish", json!({"channel": "plain", "data": 1, "idempotency_key": "k"}).to_string()).0, 400);
    }
}

/// Whatever was acknowledged is there, in order and once; what was heard has the number that it had.
#[test]
fn a_server_that_is_killed_has_what_it_acknowledged() {
    for (fsync, shards) in [("interval", "1"), ("interval", "2"), ("always", "2")] {
        let folder = Folder::new(&format!("kill-{fsync}-{shards}"));
        let mut known: HashMap<u64, Value> = HashMap::new();
        let mut epoch = None;
        let tried = AtomicU64::new(0);
        for round in 0..3 {
            let mut server = launch(&folder, &["--shards", shards, "--fsync", fsync]).start();
            let (mut present, subscribed) = subscribe(&server, "feed:a", epoch.map(|epoch| (epoch, 0)));
            let now = subscribed["epoch"].as_u64().unwrap();
            assert_eq!(
                (now, &subscribed["recovered"]),
                (*epoch.get_or_insert(now), if round == 0 { &json!(false) } else { &json!(true) }),
                "{subscribed}"
            );
            let deadline = Instant::now() + Duration::from_millis(500);
            let mut heard = HashMap::new();
            let acknowledged: Vec<(u64, Value)> = std::thread::scope(|scope| {
                let publishers: Vec<_> = (0..4)
                    .map(|_| {
                        let (tried, control) = (&tried, server.control);
                        scope.spawn(move || {
                            let agent: ureq::Agent =
                                ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
                            let mut told = Vec::new();
                            loop {
                                let data = json!(tried.fetch_add(1, Ordering::Relaxed));
                                let body = json!({"channel": "feed:a", "data": data}).to_string();
                                let Ok(mut answer) = agent.post(format!("http://{control}/publish")).send(&body) else { return told };
                                let Ok(text) = answer.body_mut().read_to_string() else { return told };
                                let answer: Value = serde_json::from_str(&text).unwrap();
                                told.push((answer["seq"].as_u64().unwrap(), data));
                            }
                        })
                    })
                    .collect();
                // What a subscriber has seen counts as well.
                while Instant::now() < deadline {
                    let event = present.event();
                    assert_eq!(event["type"], "notification", "{event}");
                    let (seq, data) = (event["seq"].as_u64().unwrap(), event["data"].clone());
                    assert_eq!(heard.insert(seq, data), None, "number {seq} was heard twice");
                }
                server.kill();
                publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect()
            });
            assert!(acknowledged.len() > 20, "{}", acknowledged.len());
            for (seq, data) in acknowledged {
                assert_eq!(known.insert(seq, data), None, "number {seq} was given twice");
            }
            for (seq, data) in heard {
                assert_eq!(known.entry(seq).or_insert_with(|| data.clone()), &data, "number {seq}");
            }
        }
        let server = launch(&folder, &["--shards", shards]).start();
        let epoch = epoch.unwrap();
        let (end_epoch, end) = publish(&server, "feed:a", &json!("end"));
        assert_eq!(end_epoch, epoch);
        let (mut back, subscribed) = subscribe(&server, "feed:a", Some((epoch, 0)));
        assert_eq!(subscribed["recovered"], json!(true), "{subscribed}");
        let all = back.messages(end as usize);
        assert_eq!(all.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=end).collect::<Vec<_>>());
        for (seq, data) in &known {
            assert_eq!(&all[*seq as usize - 1].1, data, "number {seq}");
        }
        let mut once: Vec<&Value> = all.iter().map(|(_, data)| data).collect();
        once.sort_by_key(|data| data.as_u64());
        once.dedup();
        assert_eq!(once.len(), all.len(), "each is there once");
    }
}

#[test]
fn a_folder_is_one_process_s() {
    let folder = Folder::new("twice");
    let server = launch(&folder, &[]).start();
    let (code, told) = launch(&folder, &[]).fails();
    assert!(
        code == 1 && told.contains("data_dir") && told.contains(&format!("in use by another process ({})", server.id())),
        "{code} {told}"
    );
    let (code, told) = launch(&folder, &["--takeover", "--control", &server.control.to_string()]).fails();
    assert!(code == 1 && told.contains("restart the server instead"), "{code} {told}");
    assert!(server.is_ready());
    let (code, told) = launch(&folder, &["--redis", "redis://127.0.0.1:1"]).fails();
    assert!(code == 2 && told.contains("it is Redis that keeps"), "{code} {told}");
    let (code, told) = Launch::new(&["--data-dir", "/proc/no-such"]).fails();
    assert!(code == 1 && told.contains("cannot make /proc/no-such"), "{code} {told}");
}

/// Without a folder it is the same until the process ends; what a route brings is numbered and kept like any other.
#[test]
fn in_memory_and_by_a_route() {
    let file = format!("{RULES}[[route]]\nfrom = \"all\"\nfield = \"to\"\nto = \"feed:{{}}\"\nelse = \"rest\"\n");
    let server = Launch::new(&["--shards", "2"]).file(&file).start();
    let (mut rest, _) = subscribe(&server, "rest", None);
    let (status, told) = server.post("/publish", json!({"channel": "all", "data": {"to": ["a", "b"], "n": 1}}).to_string());
    assert_eq!((status, &told["seq"]), (200, &Value::Null), "{told}");
    let (epoch, seq) = publish(&server, "feed:a", &json!(2));
    assert_eq!(seq, 2);
    let (_, first) = server.post("/publish", json!({"channel": "all", "data": {"n": 3}}).to_string());
    assert_eq!(first["seq"], Value::Null);
    assert_eq!(rest.messages(1), [(1, json!({"n": 3}))]);
    let (mut back, subscribed) = subscribe(&server, "feed:a", Some((epoch, 0)));
    assert_eq!(subscribed["recovered"], json!(true));
    server.post("/publish", json!({"channel": "all", "data": {"to": "a", "n": 4}}).to_string());
    let got = back.messages(3);
    assert_eq!(got.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((&got[0].1["n"], &got[1].1, &got[2].1["n"]), (&json!(1), &json!(2), &json!(4)));
    assert_eq!(publish(&server, "feed:b", &json!(5)).1, 2);
}

/// Messages a second through the bus, from a publisher that has 500 under way to a shard that hears them.
fn rate(settings: &Settings) -> f64 {
    const COUNT: usize = 300_000;
    const UNDER_WAY: usize = 500;
    let poll = Poll::new().unwrap();
    let (sender, shard) = inbox(settings.shards.inbox_messages, poll.registry(), Token(0)).unwrap();
    let (bus, thread) = campanile::bus::thread::spawn(settings, Arc::default(), vec![sender], Default::default()).unwrap();
    let creator = Creator { source: Source::of(([127, 0, 0, 1], 40_000).into()), shard: 0, connection: 1 };
    bus.push(BusCommand::Join { shard: 0, topic: TopicToken { index: 1, generation: 1 }, channel: "feed:a".into(), creator }).unwrap();
    bus.wake();
    let hearing = std::thread::spawn(move || {
        let mut heard = 0;
        loop {
            match shard.try_recv() {
                Some(ShardMessage::Batch { batch, .. }) => {
                    heard += (batch.end() - batch.first()) as usize;
                    shard.release(batch.bytes());
                }
                Some(ShardMessage::Stop) => return heard,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    });
    let mut awaited = VecDeque::new();
    let begin = Instant::now();
    for _ in 0..COUNT {
        if awaited.len() == UNDER_WAY {
            bus.wake();
            for _ in 0..UNDER_WAY / 2 {
                let answer: tokio::sync::oneshot::Receiver<Answer> = awaited.pop_front().unwrap();
                assert!(matches!(answer.blocking_recv(), Ok(Answer::Published { result: Ok(_), .. })));
            }
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        bus.publish(Publish::new("feed:a", vec![b'x'; 128], Asker::Control(reply))).unwrap();
        awaited.push_back(answer);
    }
    bus.wake();
    awaited.into_iter().for_each(|answer| drop(answer.blocking_recv().unwrap()));
    let rate = COUNT as f64 / begin.elapsed().as_secs_f64();
    bus.push(BusCommand::Stop).unwrap();
    bus.wake();
    thread.join().unwrap();
    assert_eq!(hearing.join().unwrap(), COUNT);
    rate
}

/// `cargo test --release --test whole durable_embedded -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for a machine that does nothing else"]
fn what_keeping_messages_costs() {
    let folder = Folder::new("rate");
    let settings = |durable: bool, fsync: Option<Fsync>| {
        Settings::default().with(|settings| {
            settings.shards.count = 1;
            settings.channels.default = ChannelRule { durable, history_count: 10_000, ..ChannelRule::default() };
            settings.journal.data_dir = fsync.map(|_| folder.0.clone());
            settings.journal.fsync = fsync.unwrap_or(Fsync::Interval);
        })
    };
    let ways = [
        ("not durable", settings(false, None)),
        ("durable, in memory", settings(true, None)),
        ("data_dir, interval", settings(true, Some(Fsync::Interval))),
        ("data_dir, always", settings(true, Some(Fsync::Always))),
    ];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    for _ in 0..5 {
        for ((_, settings), rates) in ways.iter().zip(&mut rates) {
            rates.push(rate(settings));
        }
    }
    let medians: Vec<f64> = rates
        .iter_mut()
        .map(|rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        })
        .collect();
    for ((name, _), median) in ways.iter().zip(&medians) {
        println!("{name:<20} {median:>10.0} messages a second, {:.2} of in memory", median / medians[1]);
    }
    assert!(medians[2] >= 0.5 * medians[1], "{medians:?}");
}
