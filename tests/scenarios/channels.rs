//! Channels: their history, whose quota they count in, and what happens when they are counted anew.

use std::time::Duration;

use super::stage::{LOG_BYTES, PLENTY, REFUSED, Stage, settings, settings_with};
use crate::rig::client::Client;
use crate::rig::net::request;
use campanile::addresses::Source;
use campanile::bus::{BusCommand, JoinRefusal, ShardMessage};
use campanile::config::Overrun;
use campanile::wire::Format;
use serde_json::json;

/// NTP, an operator, a machine that was asleep: the wall clock steps by an hour, and history is neither thrown away nor kept too long.
#[test]
fn history_keeps_its_age_when_the_wall_clock_steps() {
    const AGE: Duration = Duration::from_secs(60);
    for step_ms in [3_600_000, -3_600_000] {
        let mut settings = settings();
        (settings.channels.default.history_count, settings.channels.default.history_age) = (100, AGE);
        let mut stage = Stage::new(settings);
        let member = stage.subscribers(1, "c")[0];
        stage.publish("c", 100);
        stage.turns(2);
        assert_eq!(stage.messages(&[member]), [1]);
        let resume = |stage: &mut Stage| {
            let late = stage.connect("/ws", PLENTY);
            stage.turns(2);
            stage.text(late, r#"{"type":"subscribe","channel":"c","since":{"epoch":7,"seq":0},"id":1}"#);
            stage.turns(2);
            stage.clients[late].answers[0]["recovered"].as_bool().expect("it has asked for the past")
        };

        stage.wires.borrow_mut().wall_steps_ms = step_ms;
        stage.pass(AGE / 2);
        assert!(resume(&mut stage), "{step_ms} ms: half of its age has passed");
        stage.pass(AGE / 2);
        assert!(!resume(&mut stage), "{step_ms} ms: all of it has");
    }
}

/// A price, a score: the newest message comes at once, whether it is kept or not nobody is told of a gap, and what follows follows.
#[test]
fn who_wants_the_newest_message_has_it_at_once() {
    let mut settings = settings();
    settings.channels.default.history_count = 100;
    let mut stage = Stage::new(settings);
    stage.subscribers(1, "c");
    (0..5).for_each(|_| stage.publish("c", 50));
    stage.turns(2);
    let newest = |stage: &mut Stage, asked: serde_json::Value| {
        let client = stage.connect("/ws", PLENTY);
        stage.turns(2);
        stage.text(client, &asked.to_string());
        stage.turns(3);
        let subscribed = stage.clients[client].answers[0].clone();
        (client, subscribed["seq"].as_u64(), subscribed["recovered"].as_bool(), stage.messages(&[client])[0])
    };
    let ask =
        |since: serde_json::Value, latest: bool| json!({"type": "subscribe", "channel": "c", "latest": latest, "since": since, "id": 1});
    let (client, seq, recovered, messages) = newest(&mut stage, ask(json!(null), true));
    assert_eq!((seq, recovered, messages), (Some(4), Some(false), 1));
    stage.publish("c", 50);
    stage.turns(2);
    assert_eq!(stage.messages(&[client]), [2]);
    // A position counts as long as its epoch does.
    let (_, seq, recovered, messages) = newest(&mut stage, ask(json!({"epoch": 7, "seq": 2}), true));
    assert_eq!((seq, recovered, messages), (Some(2), Some(true), 4));
    let (_, seq, recovered, messages) = newest(&mut stage, ask(json!({"epoch": 6, "seq": 2}), true));
    assert_eq!((seq, recovered, messages), (Some(5), Some(false), 1));
    let (_, seq, _, messages) = newest(&mut stage, ask(json!({"epoch": 6, "seq": 2}), false));
    assert_eq!((seq, messages), (Some(6), 0));

    // Where nothing is kept, and where there has been nothing.
    let mut stage = Stage::new(self::settings());
    stage.subscribers(1, "c");
    let (_, seq, _, messages) = newest(&mut stage, ask(json!(null), true));
    assert_eq!((seq, messages), (Some(0), 0));
    stage.publish("c", 50);
    stage.turns(2);
    let (client, seq, _, messages) = newest(&mut stage, ask(json!(null), true));
    assert_eq!((seq, messages, stage.clients[client].gaps), (Some(1), 0, 0));
}

/// Each of several channels is answered by itself: what is wrong with one is no matter of the others, and each counts as a command.
#[test]
fn several_channels_are_subscribed_to_at_once() {
    let mut settings = settings();
    settings.bounds.commands_per_second = Some(1000);
    let mut stage = Stage::new(settings);
    let client = stage.connect("/ws", PLENTY);
    stage.turns(2);
    let channels = json!([{"channel": "a"}, {"channel": "a"}, {"channel": "b", "max_rate": 0}, {"channel": "c"}, {}, {"channel": REFUSED}]);
    stage.text(client, &json!({"type": "subscribe", "channels": channels, "id": "all"}).to_string());
    stage.turns(4);
    let answers = &stage.clients[client].answers;
    let mut told: Vec<_> =
        answers.iter().map(|answer| (answer["channel"].as_str(), answer["code"].as_str(), answer["id"].as_str())).collect();
    told.sort();
    let all = Some("all");
    let expected = [
        (None, Some("bad_command"), all),
        (Some("a"), None, all),
        (Some("a"), Some("already_subscribed"), all),
        (Some("b"), Some("bad_command"), all),
        (Some("c"), None, all),
        (Some(REFUSED), Some("too_many_channels"), all),
    ];
    assert_eq!(told, expected);
    assert_eq!(stage.rig.metrics.subscriptions.get(), 2);
}

/// A connection that subscribes to a new name as often as it can keeps the bus busy with nothing else.
#[test]
fn a_connection_that_subscribes_to_ever_new_names_is_slowed_down() {
    let mut stage = Stage::new(settings());
    let flood = stage.connect("/ws", PLENTY);
    stage.turns(2);
    let mut name = 0;
    let mut attempts = |stage: &mut Stage, count: usize| -> (usize, usize) {
        let before = stage.clients[flood].answers.len();
        for _ in 0..count {
            name += 1;
            stage.text(flood, &json!({"type": "subscribe", "channel": format!("n{name}"), "id": name}).to_string());
            stage.turns(2);
            stage.text(flood, &json!({"type": "unsubscribe", "channel": format!("n{name}"), "id": name}).to_string());
            stage.turns(2);
        }
        let answers = &stage.clients[flood].answers[before..];
        let counted = |what: &str| answers.iter().filter(|answer| answer["type"] == what || answer["code"] == what).count();
        (counted("subscribed"), counted("rate_limited"))
    };
    assert_eq!(attempts(&mut stage, 300), (256, 44), "two sets of 128 subscriptions at once");
    stage.pass(Duration::from_secs(1));
    assert_eq!(attempts(&mut stage, 300), (16, 284));
    assert_eq!(stage.rig.metrics.channels_limited.get(), 44 + 284);
    // A channel that somebody has is nobody's burden, and other connections are not concerned.
    stage.subscribers(1, "there");
    stage.text(flood, r#"{"type":"subscribe","channel":"there","id":"there"}"#);
    stage.turns(2);
    assert_eq!(stage.clients[flood].answers.last().unwrap()["type"], "subscribed");
}

/// Two clients wait for the same channel. The first one's address has its share; the other must have it all the same.
#[test]
fn the_share_of_one_address_is_not_held_against_another_that_waits_for_the_same_channel() {
    let mut stage = Stage::new(settings());
    let connect = |stage: &mut Stage, address: u8| {
        stage.clients.push(Client::new(Format::Json));
        let peer = ([192, 0, 2, address], 4000).into();
        let client = stage.wires.borrow_mut().connect_from(peer, &request("/ws", Format::Json), PLENTY);
        stage.rig.shard.on_listener();
        client
    };
    let (greedy, again, other) = (connect(&mut stage, 1), connect(&mut stage, 1), connect(&mut stage, 2));
    stage.turns(2);
    for client in [greedy, again, other] {
        stage.text(client, r#"{"type":"subscribe","channel":"c","id":1}"#);
    }
    stage.turn_of_the_shard();
    let Some(BusCommand::Join { topic, creator, .. }) = stage.rig.from_shard.try_recv() else { panic!("it asks the bus") };
    let of = |address: u8| Source::of(([192, 0, 2, address], 1).into());
    // Edges come in no order: whoever was first is refused.
    let (refused, served) = if creator.source == of(1) { (&[greedy, again][..], other) } else { (&[other][..], greedy) };
    let refusal = JoinRefusal::AddressShare(creator.source);
    stage.rig.to_shard.push(ShardMessage::Refused { topic, refusal }).unwrap();
    stage.turns(3);
    for &client in refused {
        assert_eq!(stage.clients[client].answers[0]["code"], "too_many_channels");
    }
    assert_eq!(stage.clients[served].answers[0]["type"], "subscribed");
    assert_eq!(stage.rig.metrics.channels_refused.get(), refused.len() as u64);
}

#[test]
fn a_frame_that_was_begun_is_finished_though_its_channel_is_counted_anew() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(2, "c");
    stage.set_room(clients[0], 500);
    stage.publish("c", 3000);
    stage.publish("c", 10);
    stage.turn();
    // The same numbers again, in the middle of which one of them stands.
    stage.renumber("c", 8, 0);
    stage.publish("c", 10);
    stage.publish("c", 10);
    stage.turns(2);
    assert_eq!((stage.messages(&clients), stage.renumbered(&clients)), (vec![0, 4], vec![0, 1]));
    stage.text(clients[0], r#"{"type":"ping","id":"reply"}"#);
    stage.set_room(clients[0], PLENTY);
    stage.turns(3);
    assert_eq!(
        (stage.messages(&clients), stage.renumbered(&clients)),
        (vec![3, 4], vec![1, 1]),
        "and the rest of the old ones never comes"
    );
    assert_eq!(stage.clients[clients[0]].answers.len(), 1);
    let metrics = &stage.rig.metrics;
    assert_eq!((metrics.lagging.get(), metrics.log_bytes.get(), metrics.buffer_bytes.get()), (0, 0, 0));
    assert_eq!((stage.overruns(), stage.closed()), (0, vec![]));
}

#[test]
fn a_topic_that_is_counted_anew_keeps_no_log_when_everybody_has_been_told() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(3, "c");
    stage.set_room(clients[1], 0);
    stage.publish("c", 10);
    stage.turns(2);
    stage.renumber("c", 8, 40);
    stage.turns(2);
    assert_eq!(stage.renumbered(&clients), [1, 0, 1]);
    assert!(stage.rig.shard.has_log("c"), "one is behind");
    assert_eq!(stage.rig.metrics.buffer_bytes.get(), 0, "which costs nothing");
    stage.set_room(clients[1], PLENTY);
    stage.turns(2);
    assert_eq!(stage.renumbered(&clients), [1, 1, 1]);
    assert!(!stage.rig.shard.has_log("c") && stage.rig.metrics.lagging.get() == 0);
    stage.publish("c", 10);
    stage.turns(2);
    assert_eq!(stage.messages(&clients), [2, 1, 2]);
    // Nobody is left to be told.
    for &client in &clients {
        stage.wires.borrow_mut().pipes[client].reset = true;
    }
    stage.renumber("c", 9, 0);
    stage.turns(2);
    assert!(!stage.rig.shard.has_log("c"));
}

/// It knows nothing of the new numbers, so a gap would mean nothing to it.
#[test]
fn whoever_has_not_heard_of_the_new_numbers_is_told_them_instead_of_a_gap_in_them() {
    let mut stage = Stage::new(settings_with(Overrun::Skip));
    let client = stage.subscribers(1, "c")[0];
    stage.set_room(client, 0);
    stage.publish("c", 10);
    stage.turn();
    stage.renumber("c", 8, 40);
    for _ in 0..4 {
        stage.publish("c", LOG_BYTES / 2);
        stage.turn();
    }
    stage.set_room(client, PLENTY);
    stage.turns(3);
    assert_eq!((stage.renumbered(&[client]), stage.clients[client].gaps, stage.overruns()), (vec![1], 0, 1));
    assert_eq!(stage.clients[client].subscriptions["c"].seq, 44);
}
