//! Clients that take less than comes, and laps: who is behind, and who is judged for it.

use super::stage::{LOG_BYTES, PLENTY, Stage, frame, settings, settings_with};
use campanile::config::Overrun;
use campanile::limits;
use campanile::wire::frame::Opcode;
use serde_json::json;

#[test]
fn a_client_that_takes_more_than_one_visit_is_not_taken_for_slow() {
    const { assert!(10 * 50_000 > limits::FLUSH_BYTES_PER_VISIT && 10 * 50_000 < LOG_BYTES) };
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(5, "c");
    for _ in 0..10 {
        stage.publish("c", 50_000);
    }
    stage.turns(10);
    assert_eq!((stage.messages(&clients), stage.overruns()), (vec![10; 5], 0));
}

#[test]
fn a_client_that_was_blocked_may_catch_up_with_all_that_the_log_has() {
    let mut stage = Stage::new(settings());
    let client = stage.subscribers(1, "c")[0];
    stage.set_room(client, 10_000);
    for _ in 0..10 {
        stage.publish("c", 50_000);
        stage.turn();
    }
    assert_eq!(stage.rig.metrics.lagging.get(), 1);
    stage.set_room(client, PLENTY);
    stage.turns(10);
    assert_eq!((stage.clients[client].messages, stage.overruns()), (10, 0));
    assert_eq!((stage.rig.metrics.lagging.get(), stage.rig.metrics.log_bytes.get()), (0, 0), "then nothing is kept for it");
}

#[test]
fn one_overrun_does_not_disconnect_the_member_moved_into_its_place() {
    let mut stage = Stage::new(settings());
    let clients: Vec<usize> = (0..3).map(|_| stage.subscribers(1, "c")[0]).collect();
    stage.set_room(clients[1], 0);
    for _ in 0..40 {
        stage.publish("c", 50_000);
        stage.turns(3);
    }
    assert_eq!(stage.overruns(), 1, "of the one that was stalled");
    assert_eq!(stage.messages(&clients), [40, 0, 40]);
}

/// The one that was moved is visited in the next turn, before which as much may come as the log may hold.
#[test]
fn a_member_that_a_lap_has_missed_is_not_overrun_by_a_burst() {
    let mut stage = Stage::new(settings());
    let clients: Vec<usize> = (0..3).map(|_| stage.subscribers(1, "c")[0]).collect();
    stage.set_room(clients[1], 0);
    for _ in 0..8 {
        stage.publish("c", 50_000);
        stage.turn();
    }
    assert_eq!(stage.overruns(), 0);
    for turns in [1, 20] {
        for _ in 0..30 {
            stage.publish("c", 50_000);
        }
        stage.turns(turns);
    }
    assert_eq!(stage.overruns(), 1, "of the one that was stalled");
    assert_eq!(stage.messages(&clients), [68, 0, 68]);
}

/// It is sent what it missed in the next turn, before which as much may come as the log may hold.
#[test]
fn who_resumes_is_not_overrun_by_what_comes_before_the_first_visit() {
    let mut settings = settings();
    let rule = &mut settings.channels.default;
    (rule.log_bytes, rule.history_count) = (4096, 1000);
    let mut stage = Stage::new(settings);
    stage.subscribers(1, "c");
    for _ in 0..10 {
        stage.publish("c", 200);
        stage.turn();
    }
    let clients: Vec<usize> = (0..500).map(|_| stage.connect("/ws", PLENTY)).collect();
    stage.turns(40);
    for &client in &clients {
        stage.text(client, r#"{"type":"subscribe","channel":"c","since":{"epoch":7,"seq":5}}"#);
    }
    for _ in 0..40 {
        stage.turn();
        for _ in 0..5 {
            stage.publish("c", 200);
        }
    }
    stage.turns(50);
    assert_eq!((stage.closed(), stage.overruns()), (vec![], 0), "nobody is slow");
    assert_eq!(stage.messages(&clients), vec![205; 500]);
}

/// The lap is cut into turns by its budget, so that what arrives before it has been round is more than the log may hold.
#[test]
fn a_lap_slower_than_the_channel_overruns_nobody_who_takes_everything() {
    let mut settings = settings();
    settings.channels.default.log_bytes = 4096;
    let mut stage = Stage::new(settings);
    let clients = stage.subscribers(1000, "c");
    for _ in 0..40 {
        for _ in 0..3 {
            stage.publish("c", 200);
        }
        stage.turn();
    }
    stage.turns(20);
    assert_eq!((stage.overruns(), stage.closed()), (0, vec![]));
    assert_eq!(stage.messages(&clients), vec![120; 1000]);
    assert_eq!(stage.rig.metrics.log_bytes.get(), 0);
}

/// A shard that is held up gets a whole inbox at once. Once it has been to everybody, only the one that is stalled needs it: the log must not wait for
/// the next message to come back within its bound.
#[test]
fn a_log_that_a_burst_filled_is_within_its_bound_when_everybody_has_been_visited() {
    for overrun in [Overrun::Skip, Overrun::Latest] {
        let mut settings = settings_with(overrun);
        settings.channels.default.log_bytes = 64 * 1024;
        let mut stage = Stage::new(settings);
        let clients = stage.subscribers(3, "c");
        stage.set_room(clients[1], 100);
        for _ in 0..50 {
            stage.publish("c", 16_000);
        }
        stage.turns(20);
        assert_eq!(stage.messages(&clients), [50, 0, 50], "{overrun:?}");
        let held = stage.rig.metrics.log_bytes.get();
        // And the message in the middle of which its socket is.
        assert!(held <= 3 * 64 * 1024, "{held} bytes");
        stage.set_room(clients[1], PLENTY);
        stage.turns(5);
        assert_eq!((stage.clients[clients[1]].subscriptions["c"].seq, stage.overruns()), (50, 1));
    }
}

#[test]
fn a_burst_of_more_than_a_visit_and_a_log_overruns_nobody_who_takes_everything() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(3, "c");
    for _ in 0..80 {
        stage.publish("c", 50_000);
    }
    for _ in 0..40 {
        stage.turn();
        stage.publish("c", 100);
    }
    stage.turns(20);
    assert_eq!((stage.messages(&clients), stage.overruns()), (vec![120; 3], 0));
    assert_eq!(stage.rig.metrics.log_bytes.get(), 0);
}

#[test]
fn a_slow_reader_is_told_4008() {
    let mut settings = settings();
    settings.channels.default.log_bytes = 32 * 1024;
    let mut stage = Stage::new(settings);
    let clients = stage.subscribers(30, "c");
    let mut rng = fastrand::Rng::with_seed(1);
    for &client in &clients {
        stage.set_room(client, rng.usize(0..5_000));
    }
    // Everybody reads, at less than half the rate of the channel, so that the log passes most in the middle of a frame.
    for _ in 0..1500 {
        for &client in &clients {
            stage.add_room(client, rng.usize(0..150));
        }
        stage.publish("c", 50);
        stage.turn();
    }
    assert_eq!(stage.overruns(), 30);
    for &client in &clients {
        stage.set_room(client, PLENTY);
    }
    stage.turns(5);
    assert!(clients.iter().all(|&client| stage.clients[client].close == Some(4008)));
}

/// The log of the second channel is as good as empty, whatever the socket is full of.
#[test]
fn a_blocked_client_is_not_overrun_by_a_log_that_has_room() {
    for overrun in [Overrun::Disconnect, Overrun::Skip, Overrun::Latest] {
        for full_of_pongs in [false, true] {
            let mut stage = Stage::new(settings_with(overrun));
            let client = stage.connect("/ws?channel=a&channel=other", PLENTY);
            stage.turns(3);
            stage.set_room(client, 5_000);
            if full_of_pongs {
                stage.send(client, &frame(true, Opcode::Ping, b"are you there").repeat(600));
            } else {
                stage.publish("a", 600_000);
            }
            stage.turns(3);
            for _ in 0..5 {
                stage.publish("other", 10);
                stage.turns(3);
            }
            stage.set_room(client, PLENTY);
            stage.turns(10);
            let messages = if full_of_pongs { 5 } else { 6 };
            assert_eq!((stage.overruns(), stage.closed(), stage.clients[client].gaps), (0, vec![], 0), "{overrun:?}");
            assert_eq!(stage.clients[client].messages, messages);
            assert_eq!((stage.rig.metrics.lagging.get(), stage.rig.metrics.log_bytes.get()), (0, 0), "then nothing is kept for it");
        }
    }
}

#[test]
fn unsubscribing_in_the_middle_of_a_frame_ends_that_subscription_and_nothing_else() {
    for overrun in [Overrun::Disconnect, Overrun::Skip, Overrun::Latest] {
        let mut stage = Stage::new(settings_with(overrun).with(|settings| settings.bounds.subscriptions_max = 2));
        let client = stage.connect("/ws?channel=a&channel=b", PLENTY);
        stage.turns(3);
        stage.set_room(client, 5_000);
        stage.publish("a", 20_000);
        stage.turn();
        assert!(stage.clients[client].is_mid_frame());
        stage.text(client, &json!({"type": "unsubscribe", "channel": "a", "id": 1}).to_string());
        // What is being left does not count any more, and the same channel can be subscribed to again.
        stage.text(client, &json!({"type": "subscribe", "channel": "c", "id": 2}).to_string());
        stage.text(client, &json!({"type": "unsubscribe", "channel": "b", "id": 3}).to_string());
        stage.text(client, &json!({"type": "subscribe", "channel": "a", "id": 4}).to_string());
        for _ in 0..5 {
            stage.publish("a", 100);
            stage.turns(2);
            stage.publish("c", 100);
            stage.turns(2);
        }
        stage.set_room(client, PLENTY);
        stage.turns(5);
        let mut answers: Vec<(i64, &str)> =
            stage.clients[client].answers.iter().map(|answer| (answer["id"].as_i64().unwrap(), answer["type"].as_str().unwrap())).collect();
        answers.sort_unstable();
        assert_eq!(answers, [(1, "unsubscribed"), (2, "subscribed"), (3, "unsubscribed"), (4, "subscribed")], "{overrun:?}");
        assert_eq!((stage.overruns(), stage.closed(), stage.clients[client].gaps), (0, vec![], 0), "{overrun:?}");
        // The one that was cut, and five of each of the two channels.
        assert_eq!(stage.clients[client].messages, 11, "{overrun:?}");
        assert_eq!((stage.rig.metrics.subscriptions.get(), stage.rig.metrics.log_bytes.get()), (2, 0));
    }
}

/// Every visit once walked all subscriptions several times: 20,000 channels and one outage kept the neighbours waiting for 12 s.
#[test]
fn news_on_many_channels_of_one_connection_cost_what_is_due_and_not_what_is_subscribed() {
    const COUNT: usize = 5_000;
    let mut stage = Stage::new(settings().with(|settings| {
        settings.bounds.subscriptions_max = COUNT;
        settings.bounds.channels_max = 2 * COUNT;
    }));
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    for channel in 0..COUNT {
        stage.text(client, &json!({"type": "subscribe", "channel": format!("c{channel}")}).to_string());
        stage.turns(2);
    }
    stage.turns(10);
    assert_eq!(stage.clients[client].subscriptions.len(), COUNT);
    for room in [PLENTY, 0] {
        let (looks, writes) = (stage.rig.metrics.looks.get(), stage.rig.metrics.writes.get());
        stage.set_room(client, room);
        for channel in 0..COUNT {
            stage.publish(&format!("c{channel}"), 10);
        }
        stage.turns(300);
        stage.set_room(client, PLENTY);
        stage.turns(300);
        let (looks, writes) = (stage.rig.metrics.looks.get() - looks, stage.rig.metrics.writes.get() - writes);
        assert!(looks < 3 * COUNT as u64, "{looks} looks for {COUNT} messages");
        assert!(writes < COUNT as u64 / 8, "{writes} writes: neighbours share them");
    }
    assert_eq!((stage.clients[client].messages, stage.overruns(), stage.closed()), (2 * COUNT, 0, vec![]));
    // One more message costs no more than with few channels.
    let looks = stage.rig.metrics.looks.get();
    stage.publish("c77", 10);
    stage.turns(2);
    assert!(stage.rig.metrics.looks.get() - looks <= 2 * limits::NEIGHBOURS_PER_VISIT as u64);
}

/// A busy channel of the same connection does not keep a quiet one waiting, however little its socket takes.
#[test]
fn a_quiet_channel_has_its_turn_beside_busy_ones() {
    let mut stage = Stage::new(settings_with(Overrun::Skip).with(|settings| settings.bounds.subscriptions_max = 100));
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    for channel in 0..65 {
        stage.text(client, &json!({"type": "subscribe", "channel": format!("c{channel}")}).to_string());
    }
    stage.turns(10);
    stage.set_room(client, 0);
    for round in 0..400 {
        for channel in (0..64).filter(|channel| round > 0 || channel % 2 == 0) {
            stage.publish(&format!("c{channel}"), 3_000);
        }
        if round == 1 {
            stage.publish("c64", 10);
        }
        stage.add_room(client, 3_500);
        stage.turn();
        if stage.clients[client].subscriptions["c64"].seq == 1 {
            assert!(round < 200, "round {round}");
            return;
        }
    }
    panic!("the quiet channel starves");
}
