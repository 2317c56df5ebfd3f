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
    let also = stage.paced_subscribers(20, "d", 8);
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
    // What clients ask for is rounded down, so that a channel has few groups.
    let asked = [("a", "", 10), ("b", r#","max_rate":3"#, 3), ("c", r#","max_rate":100"#, 10), ("d", r#","max_rate":9"#, 8)];
    for (channel, asked, told) in asked {
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

/// A budget of a tenth of what comes.
fn with_budget(budget: u64, change: impl FnOnce(&mut campanile::config::ChannelRule)) -> Settings {
    let mut settings = settings();
    let rule = &mut settings.channels.default;
    rule.broadcast_budget = Some(budget);
    change(rule);
    settings.channels.tables = vec![("c".into(), rule.clone())];
    settings.channels.default = Settings::default().channels.default;
    settings
}

/// Between two laps of a resting channel its members are visited for other channels, and move when others leave: they are sent nothing before its time, and
/// told of no loss of what they have had.
#[test]
fn a_busy_neighbour_brings_nothing_of_a_channel_that_rests() {
    let mut stage = Stage::new(with_budget(100, |_| ()));
    let all = stage.subscribers(10, "c");
    for &client in &all {
        stage.text(client, r#"{"type":"subscribe","channel":"beside"}"#);
    }
    stage.turns(3);
    stage.publish("c", 100);
    stage.turn();
    for round in 0..50 {
        stage.publish("c", 100);
        stage.publish("beside", 100);
        if round == 20 {
            stage.text(all[0], r#"{"type":"unsubscribe","channel":"c"}"#);
        }
        stage.turn();
    }
    assert!(all.iter().all(|&client| stage.clients[client].got["c"] == (1, 1)), "the rest is not over");
    stage.pass(100 * MS);
    stage.turns(3);
    assert!(all[1..].iter().all(|&client| stage.clients[client].got["c"].1 == 51 && stage.clients[client].got["c"].0 <= 12));
    assert_eq!(stage.closed(), []);
}

/// Who asks for a thousand a second has the channel's budget like everybody else, and pays from it.
#[test]
fn a_rate_of_its_own_leads_nobody_out_of_the_budget() {
    let mut stage = Stage::new(with_budget(100, |_| ()));
    let eager = stage.paced_subscribers(10, "c", 1000);
    let others = stage.subscribers(10, "c");
    let start = stage.wires.borrow().now_ns;
    for _ in 0..1000 {
        stage.pass(10 * MS);
        stage.publish("c", 100);
        stage.turn();
    }
    let seconds = (stage.wires.borrow().now_ns - start) / 1_000_000_000;
    let delivered: usize = stage.messages(&eager).iter().chain(&stage.messages(&others)).sum();
    assert!(delivered as u64 <= 100 * seconds + 200, "{delivered} in {seconds} s");
    assert!(stage.messages(&others).iter().all(|&messages| messages >= 40), "{:?}", stage.messages(&others));
    // Those with a rate take no part that they do not use: a hundred of them who want one message a second leave the others theirs.
    let mut stage = Stage::new(with_budget(200, |_| ()));
    let slow = stage.paced_subscribers(100, "c", 1);
    let others = stage.subscribers(1, "c");
    for _ in 0..1000 {
        stage.pass(10 * MS);
        stage.publish("c", 100);
        stage.turn();
    }
    assert!(stage.messages(&others)[0] >= 400, "{:?}", stage.messages(&others));
    assert!(stage.messages(&slow).iter().all(|&messages| messages >= 5), "{:?}", stage.messages(&slow));
}

/// What waits for a rest is not in the log, so it fills none: nobody is taken for slow because the server waited.
#[test]
fn nobody_is_closed_because_the_server_waits() {
    for (budget, coalesce) in [(Some(1_000), Duration::ZERO), (None, 100 * MS)] {
        let mut stage = Stage::new(with_budget(1, |rule| {
            (rule.broadcast_budget, rule.coalesce, rule.log_bytes) = (budget, coalesce, 10_000);
        }));
        let all = stage.subscribers(100, "c");
        for _ in 0..300 {
            stage.publish("c", 3000);
            stage.pass(3 * MS);
            stage.turn();
        }
        stage.pass(2000 * MS);
        stage.turns(10);
        assert_eq!((stage.closed(), stage.overruns()), (vec![], 0), "{budget:?}");
        assert_eq!(seqs(&stage, &all, "c"), [300; 100]);
        // Without a budget nothing is passed over.
        assert!(budget.is_some() || stage.messages(&all) == [300; 100]);
    }
}

/// The newest message comes, though an outage was announced after it.
#[test]
fn a_gap_that_comes_last_does_not_hide_the_newest_message() {
    let mut settings = settings();
    settings.channels.default.overrun = campanile::config::Overrun::Latest;
    settings.channels.default.log_bytes = 20_000;
    let mut stage = Stage::new(settings);
    let slow = stage.paced_subscribers(3, "c", 2);
    let latest = stage.subscribers(1, "c")[0];
    stage.set_room(latest, 0);
    for round in 0..40 {
        stage.publish("c", 5000);
        if round % 2 == 1 {
            stage.lose("c", 3);
            stage.lose("c", 1);
        }
        stage.turn();
    }
    let newest = stage.channels["c"].seq - 4;
    stage.add_room(latest, PLENTY);
    stage.turns(3);
    stage.pass(1000 * MS);
    stage.turns(3);
    for client in slow.into_iter().chain([latest]) {
        assert_eq!(stage.clients[client].got["c"].1, newest);
        assert_eq!(stage.clients[client].subscriptions["c"].seq, stage.channels["c"].seq);
    }
    assert!(!stage.rig.shard.has_log("c"));
}

/// A history for those who want the newest alone is as long as for others.
#[test]
fn a_channel_of_paced_members_keeps_no_more_than_its_log_may_hold() {
    let mut settings = settings();
    let rule = &mut settings.channels.default;
    (rule.history_count, rule.log_bytes) = (10_000, 20_000);
    let mut stage = Stage::new(settings);
    stage.paced_subscribers(3, "c", 5);
    for _ in 0..500 {
        stage.publish("c", 1000);
        stage.pass(MS);
        stage.turn();
        let log_bytes = stage.rig.metrics.log_bytes.get();
        assert!(log_bytes < 40_000, "{log_bytes}");
    }
}

/// Who comes while a channel rests gets what comes after it, and is told of no more than that, even if some of it is passed over with what came before.
#[test]
fn who_comes_while_a_channel_rests_begins_where_it_came() {
    let mut stage = Stage::new(with_budget(20, |_| ()));
    let first = stage.subscribers(10, "c");
    stage.publish("c", 10);
    stage.turn();
    (0..20).for_each(|_| stage.publish("c", 10));
    stage.turn();
    let late = stage.connect("/ws", PLENTY);
    stage.turns(2);
    // It has had them elsewhere.
    stage.text(late, r#"{"type":"subscribe","channel":"c","since":{"epoch":7,"seq":19},"id":1}"#);
    stage.turns(2);
    let answer = stage.clients[late].answers.last().unwrap();
    assert_eq!((&answer["recovered"], &answer["seq"]), (&true.into(), &19.into()));
    (0..20).for_each(|_| stage.publish("c", 10));
    stage.turn();
    stage.pass(1000 * MS);
    stage.turns(3);
    assert_eq!(seqs(&stage, &first, "c"), [41; 10]);
    let (messages, last) = stage.clients[late].got["c"];
    assert!(last == 41 && messages <= 2 && stage.clients[late].gaps == 1, "{messages}");
}

/// When everybody goes, what a channel holds back goes with it.
#[test]
fn what_waits_is_sent_before_the_end() {
    for rule in [(Some(100), Duration::ZERO), (None, 100 * MS)] {
        let mut stage = Stage::new(with_budget(1, |own| (own.broadcast_budget, own.coalesce) = rule));
        let all = stage.subscribers(10, "c");
        stage.publish("c", 10);
        stage.turn();
        (0..3).for_each(|_| stage.publish("c", 10));
        stage.turn();
        assert_eq!(stage.messages(&all), [1; 10]);
        stage.rig.to_shard.send(campanile::bus::ShardMessage::Stop).expect("the inbox has room");
        stage.turns(5);
        assert!(all.iter().all(|&client| stage.clients[client].close == Some(1001)));
        assert_eq!(stage.messages(&all), [4; 10]);
    }
}

/// A reload that takes the budget away lets what waits go with the next message.
#[test]
fn a_rest_goes_by_the_rule_that_holds() {
    let mut settings = with_budget(1, |_| ());
    let mut stage = Stage::new(settings.clone());
    let all = stage.subscribers(100, "c");
    stage.publish("c", 10);
    stage.turns(5);
    stage.publish("c", 10);
    stage.pass(1000 * MS);
    stage.turns(5);
    assert_eq!(stage.messages(&all), [1; 100], "a hundred deliveries are worth a hundred seconds");
    settings.channels.tables[0].1.broadcast_budget = None;
    let (reply, _answer) = crossbeam_channel::bounded(1);
    let gate = settings.auth.gate().unwrap();
    let order = campanile::bus::order::Order::Reload { settings: std::sync::Arc::new(settings), gate, acceptor: None, reply };
    stage.rig.to_shard.send(campanile::bus::ShardMessage::Order(order)).expect("the inbox has room");
    stage.turns(5);
    stage.publish("c", 10);
    stage.turns(10);
    assert_eq!(stage.messages(&all), [3; 100]);
    stage.publish("c", 10);
    stage.turns(10);
    assert_eq!(stage.messages(&all), [4; 100]);
}

/// The socket takes the message and not the gap behind it. A message that has come meanwhile is not sent before its time because of that.
#[test]
fn a_gap_that_is_still_to_be_told_brings_no_message_before_its_time() {
    let mut cut_between = 0;
    for room in 100..200 {
        let mut stage = Stage::new(settings());
        let slow = stage.paced_subscribers(1, "c", 1)[0];
        stage.publish("c", 10);
        stage.turns(2);
        assert_eq!(stage.messages(&[slow]), [1]);
        stage.pass(2000 * MS);
        stage.publish("c", 10);
        stage.lose("c", 1);
        stage.set_room(slow, room);
        stage.turns(2);
        cut_between += usize::from(stage.messages(&[slow]) == [2] && stage.clients[slow].gaps == 0);
        stage.publish("c", 10);
        stage.turns(2);
        stage.set_room(slow, PLENTY);
        stage.turns(3);
        assert_eq!(stage.messages(&[slow]), [2], "with room for {room} bytes");
        stage.pass(1000 * MS);
        stage.turns(3);
        assert_eq!(stage.messages(&[slow]), [3]);
        assert_eq!(seqs(&stage, &[slow], "c"), [4]);
    }
    assert!(cut_between > 0, "no room was just enough");
}
