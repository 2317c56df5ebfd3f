//! How often a channel is delivered: to whoever wants less (`max_rate`), and to all (`coalesce`, `broadcast_budget`).

use std::time::Duration;

use super::stage::{self, PLENTY, Stage};
use campanile::config::Settings;

const MS: Duration = Duration::from_millis(1);

/// Nothing is written but what is published.
fn settings() -> Settings {
    stage::settings().with(|settings| settings.clients.heartbeat = Duration::from_secs(3600))
}

fn seqs(stage: &Stage, clients: &[usize], channel: &str) -> Vec<u64> {
    clients.iter().map(|&client| stage.clients[client].subscriptions[channel].seq).collect()
}

/// A thousand messages a second must cost those who want five no more than five.
#[test]
fn whoever_wants_less_gets_the_newest_and_costs_nothing_in_between() {
    const CLIENTS: u64 = 50;
    let mut stage = Stage::new(settings());
    let slow = stage.paced_subscribers(CLIENTS as usize, "c", 5);
    let fast = stage.subscribers(1, "c");
    let (writes, looks) = (stage.rig.metrics.writes.get(), stage.rig.metrics.looks.get());
    for _ in 0..1000 {
        stage.publish("c", 100);
        stage.turn();
        stage.pass(MS);
    }
    assert_eq!(stage.messages(&fast), [1000]);
    assert_eq!(stage.messages(&slow), [5; CLIENTS as usize]);
    assert_eq!(stage.rig.metrics.writes.get() - writes, 1000 + 5 * CLIENTS);
    assert!(stage.rig.metrics.looks.get() - looks <= 1000 + 5 * CLIENTS + 5, "those between cost nobody a look");
    assert_eq!(stage.rig.metrics.log_bytes.get() / 1000, 0, "one message is kept for them, and nothing else");
    // The newest arrives, when it is time, and then nothing is left to be done.
    assert!(stage.has_something_due());
    stage.pass(200 * MS);
    stage.turns(2);
    assert_eq!(seqs(&stage, &slow, "c"), [1000; CLIENTS as usize]);
    assert_eq!(stage.messages(&slow), [6; CLIENTS as usize]);
    assert_eq!(stage.rig.metrics.messages_paced.get(), (1000 - 6) * CLIENTS);
    assert!(!stage.rig.shard.has_log("c"));
    // After a rest it is sent at once.
    stage.pass(300 * MS);
    stage.publish("c", 100);
    stage.turns(2);
    assert_eq!(stage.messages(&slow), [7; CLIENTS as usize]);
}

/// Its turn waits for its socket. What comes meanwhile is neither kept for it nor held against it.
#[test]
fn a_socket_that_takes_nothing_keeps_its_turn_and_nothing_else() {
    let mut stage = Stage::new(settings());
    let member = stage.paced_subscribers(1, "c", 10)[0];
    stage.publish("c", 10);
    stage.turns(2);
    for stuck_within_a_frame in [0, 20] {
        stage.set_room(member, stuck_within_a_frame);
        let (before, seq) = (stage.clients[member].messages, stage.channels["c"].seq);
        for _ in 0..100 {
            stage.pass(50 * MS);
            stage.publish("c", 50_000);
            stage.turn();
        }
        assert!(stage.rig.metrics.log_bytes.get() < 300_000, "a message or two: {}", stage.rig.metrics.log_bytes.get());
        assert_eq!((stage.clients[member].messages, stage.closed()), (before, vec![]));
        stage.add_room(member, PLENTY);
        stage.turns(3);
        stage.pass(200 * MS);
        stage.turns(3);
        assert_eq!(seqs(&stage, &[member], "c"), [seq + 100]);
        // The one that was begun, if it was, and the newest.
        assert_eq!(stage.clients[member].messages - before, 1 + usize::from(stuck_within_a_frame > 0));
        assert!(!stage.rig.shard.has_log("c") && stage.rig.metrics.lagging.get() == 0);
    }
}

/// They come and go in the middle of a lap, and from the middle of a connection's list.
#[test]
fn nobody_loses_its_turn_because_others_leave() {
    let mut stage = Stage::new(settings());
    let slow = stage.paced_subscribers(200, "c", 5);
    let also = stage.paced_subscribers(20, "d", 7);
    for &client in &also {
        stage.clients[client].pace("c", 5, stage.wires.borrow().now_ns);
        stage.text(client, r#"{"type":"subscribe","channel":"c","max_rate":5,"id":2}"#);
    }
    stage.turns(3);
    for round in 0..6 {
        stage.publish("c", 100);
        stage.publish("d", 100);
        // A lap to so many takes more than a turn.
        stage.turn();
        for client in slow.iter().skip(round).step_by(7) {
            stage.text(*client, r#"{"type":"unsubscribe","channel":"c"}"#);
        }
        for client in also.iter().skip(round).step_by(6) {
            stage.text(*client, r#"{"type":"unsubscribe","channel":"d"}"#);
        }
        stage.turns(20);
        stage.pass(250 * MS);
    }
    stage.turns(20);
    for &client in slow.iter().chain(&also) {
        for (channel, view) in &stage.clients[client].subscriptions {
            assert_eq!(view.seq, stage.channels[channel].seq, "{channel}");
        }
    }
    let left: usize = slow.iter().chain(&also).map(|&client| stage.clients[client].subscriptions.len()).sum();
    assert_eq!(stage.rig.metrics.subscriptions.get(), left as u64);
    assert!(left > 20 && !stage.rig.shard.has_log("c"));
    // Whoever comes back with a position gets the newest, not all that it has missed.
    let back = slow[0];
    stage.clients[back].pace("c", 3, stage.wires.borrow().now_ns);
    stage.publish("c", 100);
    stage.turns(20);
    stage.text(back, r#"{"type":"subscribe","channel":"c","since":{"epoch":7,"seq":1},"max_rate":3,"id":9}"#);
    stage.pass(400 * MS);
    stage.turns(20);
    assert_eq!(stage.clients[back].subscriptions["c"].seq, stage.channels["c"].seq);
}

#[test]
fn a_rule_has_a_rate_too_and_the_smaller_counts() {
    let mut settings = settings();
    settings.channels.default.max_rate = Some(10);
    let mut stage = Stage::new(settings);
    let client = stage.connect("/ws", PLENTY);
    stage.turns(2);
    for (channel, asked, told) in [("a", "", 10), ("b", r#","max_rate":3"#, 3), ("c", r#","max_rate":100"#, 10)] {
        stage.text(client, &format!(r#"{{"type":"subscribe","channel":"{channel}","id":1{asked}}}"#));
        stage.turns(2);
        assert_eq!(stage.clients[client].answers.last().unwrap()["max_rate"], told, "{channel}");
    }
}

#[test]
fn coalescing_begins_with_the_second_message() {
    let mut settings = settings();
    settings.channels.tables = vec![("calm".into(), settings.channels.default.clone())];
    settings.channels.tables[0].1.coalesce = 50 * MS;
    let mut stage = Stage::new(settings);
    let (calm, eager) = (stage.subscribers(2, "calm"), stage.subscribers(1, "eager"));
    let writes = stage.rig.metrics.writes.get();
    stage.publish("calm", 100);
    stage.turn();
    assert_eq!(stage.messages(&calm), [1, 1], "it was quiet");
    for _ in 0..10 {
        stage.pass(4 * MS);
        stage.publish("calm", 100);
        stage.publish("eager", 100);
        stage.turn();
    }
    assert_eq!((stage.messages(&calm), stage.messages(&eager)), (vec![1, 1], vec![10]), "a channel of its own");
    assert!(stage.rig.shard.wait_ns(stage.wires.borrow().now_ns).is_some_and(|wait_ns| (1..=10_000_000).contains(&wait_ns)));
    stage.pass(10 * MS);
    stage.turn();
    assert_eq!(stage.messages(&calm), [11, 11]);
    assert_eq!(stage.rig.metrics.writes.get() - writes, 10 + 2 * 2);
    stage.pass(51 * MS);
    stage.turn();
    assert!(!stage.rig.shard.has_log("calm"));
    stage.publish("calm", 100);
    stage.turn();
    assert_eq!(stage.messages(&calm), [12, 12]);
}

/// More than its budget: the channel waits, and what does not fit into a second is passed over. Nobody is closed for it.
#[test]
fn a_channel_delivers_no_more_than_its_budget() {
    let mut settings = settings();
    settings.channels.default.broadcast_budget = Some(100);
    let mut stage = Stage::new(settings);
    let all = stage.subscribers(10, "c");
    stage.publish("c", 100);
    stage.turn();
    assert_eq!(stage.messages(&all), [1; 10], "at once");
    for _ in 0..50 {
        stage.publish("c", 100);
    }
    stage.turn();
    assert_eq!(stage.messages(&all), [1; 10], "ten deliveries are worth a tenth of a second");
    stage.pass(100 * MS);
    stage.turns(2);
    assert_eq!((stage.messages(&all), seqs(&stage, &all, "c")), (vec![11; 10], vec![51; 10]), "the newest that a second can carry");
    assert_eq!(stage.rig.metrics.messages_over_budget.get(), 40 * 10);
    // Ten seconds of twenty times as much as may be.
    for _ in 0..1000 {
        stage.pass(10 * MS);
        stage.publish("c", 100);
        stage.publish("c", 100);
        stage.turn();
    }
    let came = stage.clients[all[0]].messages - 11;
    assert!((80..=110).contains(&came), "{came} in ten seconds");
    stage.pass(1000 * MS);
    stage.turns(3);
    assert_eq!(seqs(&stage, &all, "c"), [2051; 10], "and in the end the newest");
    assert_eq!((stage.closed(), stage.overruns()), (vec![], 0));
}
