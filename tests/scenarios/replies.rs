//! What a connection is answered: in what order, to whom, and what waits meanwhile.

use super::stage::{PLENTY, REFUSED, Stage, frame, settings};
use crate::rig::net::request;
use campanile::bus::question::{Answer, Asker, Published, Question, ReplyTo};
use campanile::bus::{BusCommand, ShardMessage};
use campanile::config::Overrun;
use campanile::limits;
use campanile::wire::Format;
use campanile::wire::close::CloseReason;
use campanile::wire::frame::Opcode;
use serde_json::{Value, json};

/// A turn sends fewer writes than it reads connections: what a thousand were answered would lie about until its turn came, and leave holes where it lay.
#[test]
fn many_replies_of_many_connections_do_not_pile_up() {
    const { assert!(limits::FLUSH_UNITS_PER_TURN / limits::FLUSH_UNITS_PER_WRITE < 200 && 200 < limits::READS_PER_TURN) };
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(200, "c");
    for &client in &clients {
        for number in 0..50 {
            let ping = json!({"type": "ping", "id": format!("{number:040}")});
            stage.text(client, &ping.to_string());
        }
    }
    stage.turn();
    assert_eq!(stage.rig.metrics.buffer_bytes.get(), 0);
    stage.turn();
    assert!(clients.iter().all(|&client| stage.clients[client].answers.len() == 50));
}

#[test]
fn a_paused_client_is_read_again_while_its_channel_keeps_it_behind() {
    let mut settings = settings();
    settings.channels.default.overrun = Overrun::Skip;
    let mut stage = Stage::new(settings);
    let client = stage.subscribers(1, "c")[0];
    stage.set_room(client, 20_000);
    // More answers than an outbox may have before its client is read no further.
    for _ in 0..1500 {
        stage.text(client, "{}");
    }
    stage.text(client, &json!({"type": "unsubscribe", "channel": "c", "id": "out"}).to_string());
    for _ in 0..200 {
        stage.add_room(client, 10_000);
        stage.publish("c", 20_000);
        stage.turn();
    }
    assert!(matches!(&stage.clients[client].answers[..], [answer] if answer["type"] == "unsubscribed" && answer["id"] == "out"));
    assert_eq!(stage.rig.metrics.subscriptions.get(), 0);
}

#[test]
fn full_buffers_do_not_refuse_clients_that_hold_nothing() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.buffer_bytes_total = 1 << 20));
    for _ in 0..60 {
        let greedy = stage.connect("/ws", 500);
        for _ in 0..2000 {
            stage.text(greedy, "{}");
        }
    }
    stage.turns(10);
    let greedy_closed = stage.rig.metrics.closed[CloseReason::Buffers as usize].get();
    assert!(greedy_closed > 0, "who fills the buffers pays for it");
    for _ in 0..600 {
        stage.knock(&request("/ws", Format::Json)[..60], 500);
    }
    stage.rig.shard.on_listener();
    stage.turns(10);
    // Many who hold little could fill what is left, so the next to come would have been over the budget.
    stage.subscribers(50, "c");
    assert_eq!(stage.rig.metrics.closed[CloseReason::Buffers as usize].get(), greedy_closed);
}

#[test]
fn an_outbox_that_never_runs_empty_does_not_grow() {
    let mut stage = Stage::new(settings());
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    stage.set_room(client, 0);
    let ping = frame(true, Opcode::Ping, b"are you there");
    // A pong has 15 bytes: the client always takes as many as it causes, and never the last ones.
    stage.send(client, &ping.repeat(50));
    stage.turn();
    let mut most = 0;
    for _ in 0..500 {
        stage.send(client, &ping.repeat(400));
        stage.add_room(client, 400 * 15);
        stage.turn();
        most = most.max(stage.rig.metrics.buffer_bytes.get() as usize);
    }
    assert!(stage.clients[client].echoes > 100_000);
    assert!(most < 4 * limits::OUTBOX_PAUSE_BYTES, "{most} bytes for less than 7 KB unsent");
}

/// Through pauses, drained outboxes and frames that the socket takes in pieces.
#[test]
fn commands_are_answered_in_their_order() {
    let mut settings = settings();
    settings.channels.default.overrun = Overrun::Skip;
    settings.channels.default.log_bytes = 16 * 1024;
    // More than a client may send in no time at all.
    settings.bounds.commands_per_second = None;
    let mut stage = Stage::new(settings);
    stage.subscribers(1, "c");
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    stage.set_room(client, 0);
    let mut commands = (0..3000).map(|id| match id % 10 {
        2 => (json!({"type": "subscribe", "channel": "c", "id": id}), id, "subscribed"),
        8 => (json!({"type": "unsubscribe", "channel": "c", "id": id}), id, "unsubscribed"),
        5 => (json!({"type": "nonsense", "id": id}), id, "error"),
        _ => (json!({"type": "ping", "id": id}), id, "pong"),
    });
    let mut expected = Vec::new();
    let mut rng = fastrand::Rng::with_seed(1);
    for turn in 0..=1000 {
        // A thousand at once, more than are read before the first have been answered; then two by two.
        for (command, id, answer) in commands.by_ref().take(if turn == 0 { 1000 } else { 2 }) {
            stage.text(client, &command.to_string());
            expected.push((id, answer));
        }
        stage.add_room(client, rng.usize(0..1500));
        stage.publish("c", 300);
        stage.turn();
    }
    stage.set_room(client, PLENTY);
    stage.turns(20);
    let client = &stage.clients[client];
    let answers: Vec<(i64, &str)> =
        client.answers.iter().map(|answer| (answer["id"].as_i64().unwrap(), answer["type"].as_str().unwrap())).collect();
    assert_eq!(answers, expected);
    assert!(client.messages > 100, "with messages between them");
}

/// A client that sends no ids must know which of its commands failed.
#[test]
fn an_error_without_an_id_says_what_it_answers() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.subscriptions_max = 2));
    stage.subscribers(1, "a");
    let client = stage.connect("/ws?channel=a&channel=b&channel=full", PLENTY);
    stage.turns(3);
    for command in [
        json!({"type": "subscribe", "channel": "a"}),
        json!({"type": "subscribe", "channel": "c"}),
        json!({"type": "unsubscribe", "channel": "c"}),
        json!({"type": "publish", "channel": "p", "data": 1}),
        json!({"type": "subscribe", "channel": ""}),
        json!({"type": "subscribe", "channel": "s", "since": 1}),
        json!({"type": "nonsense", "channel": "n"}),
    ] {
        stage.text(client, &command.to_string());
    }
    stage.text(client, r#"{"type":"subscribe","channel":"x","id":1"#);
    stage.turns(3);
    let late = stage.connect(&format!("/ws/{REFUSED}"), PLENTY);
    stage.turns(4);
    let named = |client: usize| -> Vec<String> {
        let text = |event: &Value, field: &str| event[field].as_str().map_or_else(|| "-".to_owned(), |text| format!("{text:?}"));
        stage.clients[client]
            .errors
            .iter()
            .map(|event| format!("{} {} {}", text(event, "code"), text(event, "command"), text(event, "channel")).replace('"', ""))
            .collect()
    };
    assert_eq!(
        named(client),
        [
            "too_many_subscriptions subscribe full",
            "already_subscribed subscribe a",
            "too_many_subscriptions subscribe c",
            "not_subscribed unsubscribe c",
            "not_allowed publish p",
            "bad_channel subscribe ",
            "bad_command subscribe s",
            "unknown_type nonsense n",
            "bad_command - -",
        ]
    );
    assert_eq!(named(late), ["too_many_channels subscribe refused"]);
    assert!(stage.clients[client].answers.is_empty(), "no id was given");
}

/// The bus takes its time, and the connection's slot has another user by then.
#[test]
fn an_answer_finds_whoever_has_asked_and_nobody_else() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.allow_client_publish = true));
    let asks = |stage: &mut Stage| {
        let client = stage.connect("/ws", PLENTY);
        stage.turns(2);
        stage.text(client, r#"{"type":"publish","channel":"c","data":1,"id":"mine"}"#);
        stage.turn_of_the_shard();
        let Some(BusCommand::Ask(Question::Publish(publish))) = stage.rig.from_shard.try_recv() else { panic!("it asks the bus") };
        let Asker::Client(reply_to) = publish.asker else { panic!("it is a client") };
        (client, reply_to)
    };
    let answer = |stage: &mut Stage, ReplyTo { conn, id, .. }: ReplyTo| {
        let answer = Answer::Published { channel: "c".into(), result: Ok(Published::at(7, 1)) };
        stage.rig.to_shard.push(ShardMessage::Answer { conn, id, answer }).unwrap();
        stage.turns(2);
    };
    let (gone, to_gone) = asks(&mut stage);
    stage.wires.borrow_mut().pipes[gone].reset = true;
    stage.turns(2);
    let (stays, to_stays) = asks(&mut stage);
    assert_eq!(to_gone.conn.index, to_stays.conn.index, "the slot is used again");
    answer(&mut stage, to_gone);
    assert!(stage.clients[stays].answers.is_empty(), "it is not for this one");
    answer(&mut stage, to_stays);
    assert_eq!(stage.clients[stays].answers, [json!({"type": "published", "id": "mine", "channel": "c", "seq": 1})]);
}
