//! How connections end, and what is still sent then.

use std::time::Duration;

use super::stage::{PLENTY, Stage, frame, settings};
use crate::rig::net::request;
use campanile::bus::ShardMessage;
use campanile::bus::order::Order;
use campanile::life;
use campanile::wire::Format;
use campanile::wire::frame::Opcode;
use serde_json::json;

#[test]
fn requests_at_the_door_when_the_server_stops_are_told_so() {
    let mut stage = Stage::new(settings());
    // One has been let in and has not spoken yet.
    let silent = stage.connect("", PLENTY);
    let _ = std::mem::take(&mut stage.wires.borrow_mut().pipes[silent].to_server);
    stage.turns(2);
    // Nobody has been told of the others; one of them has gone away again.
    let waiting: Vec<usize> = (0..20).map(|_| stage.knock(&request("/ws", Format::Json), PLENTY)).collect();
    stage.wires.borrow_mut().pipes[waiting[7]].reset = true;
    stage.rig.to_shard.push(ShardMessage::Stop).unwrap();
    stage.turn();
    stage.send(silent, request("/ws", Format::Json).as_bytes());
    stage.turns(3);
    for (at, &client) in waiting.iter().enumerate() {
        assert_eq!(stage.clients[client].refused, (at != 7).then_some(503), "client {at}");
    }
    assert_eq!(stage.clients[silent].refused, Some(503));
}

#[test]
fn answers_are_not_lost_when_the_end_of_the_stream_comes_with_the_request() {
    let mut stage = Stage::new(settings());
    let tls_hello = "\u{16}\u{3}\u{1}\u{1}\u{0}";
    let requests = [
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        ("POST /ws HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("nonsense\r\n\r\n", 400),
        (tls_hello, 400),
        ("GET /healthz HTT", 400),
    ];
    for room in [PLENTY, 10] {
        for (request, status) in requests {
            let client = stage.knock("", room);
            stage.send_last(client, request.as_bytes());
            stage.rig.shard.on_listener();
            for _ in 0..100 {
                stage.turn();
                stage.add_room(client, 10);
            }
            assert_eq!(stage.clients[client].refused, Some(status), "{request:?} with room for {room}");
            assert!(stage.wires.borrow().pipes[client].server_gone, "and then it is over");
        }
    }
}

#[test]
fn pongs_and_the_close_frame_are_not_lost_when_the_end_of_the_stream_comes_with_them() {
    for room in [PLENTY, 3] {
        for says_goodbye in [true, false] {
            let mut stage = Stage::new(settings());
            let client = stage.subscribers(1, "c")[0];
            stage.set_room(client, room);
            stage.publish("c", 2_000);
            stage.turn();
            let mut last = frame(true, Opcode::Ping, b"are you there");
            last.extend(frame(true, Opcode::Text, json!({"type": "ping", "id": "last"}).to_string().as_bytes()));
            if says_goodbye {
                last.extend(frame(true, Opcode::Close, &1000u16.to_be_bytes()));
            }
            stage.send_last(client, &last);
            for _ in 0..40 {
                stage.turn();
                stage.add_room(client, 100);
            }
            let (pipes, client_view) = (&stage.wires.borrow().pipes, &stage.clients[client]);
            assert_eq!((client_view.echoes, client_view.answers.len(), client_view.messages), (1, 1, 1), "room for {room}");
            assert_eq!(client_view.close, says_goodbye.then_some(1000));
            assert!(pipes[client].server_gone && !client_view.is_mid_frame());
            assert_eq!(stage.closed(), [(if says_goodbye { "client" } else { "gone" }, 1)]);
        }
    }
}

#[test]
fn a_request_half_sent_when_the_server_stops_is_told_503() {
    let mut stage = Stage::new(settings());
    let half = stage.connect("", PLENTY);
    let _ = std::mem::take(&mut stage.wires.borrow_mut().pipes[half].to_server);
    stage.send(half, &request("/ws", Format::Json).as_bytes()[..30]);
    stage.turns(2);
    stage.rig.to_shard.push(ShardMessage::Stop).unwrap();
    stage.turn();
    stage.pass(Duration::from_secs(2));
    stage.turns(2);
    assert_eq!(stage.clients[half].refused, Some(503));
}

/// At the rate, and each is sent what is due before; whoever comes meanwhile goes as well.
#[test]
fn a_drain_asks_one_after_the_other_to_go() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.drain_rate = 100));
    let clients = stage.subscribers(50, "a");
    let late = stage.knock(&request("/ws/a", Format::Json), PLENTY);
    stage.rig.life.advance(life::Stage::Draining);
    let (reply, _answer) = crossbeam_channel::bounded(1);
    stage.rig.to_shard.push(ShardMessage::Order(Order::Depart { reply })).unwrap();
    let closed = |stage: &Stage| clients.iter().filter(|&&client| stage.clients[client].close == Some(1012)).count();
    let mut before = 0;
    for step in 0..60 {
        stage.publish("a", 100);
        stage.turns(2);
        let now = closed(&stage);
        assert!(now - before <= 11, "a tenth of a second may be made up for, no more: {} at step {step}", now - before);
        before = now;
        let now_ns = stage.wires.borrow().now_ns;
        assert!(stage.rig.shard.wait_ns(now_ns).is_some_and(|wait_ns| wait_ns <= 100_000_000));
        stage.pass(Duration::from_millis(10));
    }
    assert_eq!((closed(&stage), stage.clients[late].close), (50, Some(1012)));
    assert!(stage.clients[clients[49]].messages >= stage.clients[clients[0]].messages);
    assert!(!stage.rig.shard.is_finished(), "that is for the bus to say");
    stage.rig.to_shard.push(ShardMessage::Stop).unwrap();
    for client in clients.into_iter().chain([late]) {
        stage.send_last(client, &frame(true, Opcode::Close, &1012u16.to_be_bytes()));
    }
    stage.turns(3);
    assert!(stage.rig.shard.is_finished());
    assert_eq!(stage.closed(), [("restart", 51)]);
}

/// Whoever has more channels than a visit looks at gets what has come for each of them, though their laps have not been there yet.
#[test]
fn whoever_goes_with_many_channels_gets_what_is_due_on_each() {
    const CHANNELS: usize = 50;
    for stops in [false, true] {
        let mut stage = Stage::new(settings());
        let client = stage.connect("/ws", PLENTY);
        for number in 0..CHANNELS {
            stage.text(client, &json!({"type": "subscribe", "channel": format!("c{number}")}).to_string());
        }
        stage.turns(10);
        assert_eq!(stage.clients[client].subscriptions.len(), CHANNELS);
        for number in 0..CHANNELS {
            stage.publish(&format!("c{number}"), 10);
        }
        if stops {
            stage.rig.to_shard.push(ShardMessage::Stop).unwrap();
        } else {
            stage.rig.life.advance(life::Stage::Draining);
            let (reply, _answer) = crossbeam_channel::bounded(1);
            stage.rig.to_shard.push(ShardMessage::Order(Order::Depart { reply })).unwrap();
        }
        stage.turns(5);
        assert_eq!(stage.clients[client].close, Some(if stops { 1001 } else { 1012 }));
        assert_eq!(stage.messages(&[client]), [CHANNELS]);
    }
}

/// However many wait at a door that is about to be closed, a turn takes some; all of them are answered.
#[test]
fn a_crowd_at_a_door_that_is_closed_is_let_in_turn_by_turn() {
    let mut stage = Stage::new(settings());
    let crowd: Vec<usize> = (0..1000).map(|_| stage.knock(&request("/ws", Format::Json), PLENTY)).collect();
    stage.rig.life.advance(life::Stage::Draining);
    stage.turn();
    let accepted = stage.rig.metrics.accepted.get();
    assert!((1..=200).contains(&accepted), "{accepted} in a turn");
    assert_eq!(stage.rig.metrics.stage.get(), life::Stage::Serving as u64, "not before the door is closed");
    stage.turns(20);
    assert_eq!(stage.rig.metrics.stage.get(), life::Stage::Draining as u64);
    assert_eq!(stage.rig.metrics.accepted.get(), 1000);
    assert!(crowd.iter().all(|&client| stage.clients[client].refused.is_none()));
}

/// Somebody who takes nothing cannot be told, and the others do not wait for it beyond the deadline; nor does the thread sleep past it.
#[test]
fn whoever_takes_nothing_is_cut_when_the_time_to_stop_is_over() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.shutdown_timeout = Duration::from_secs(3)));
    let clients = stage.subscribers(2, "a");
    stage.set_room(clients[0], 0);
    stage.publish("a", 100);
    stage.turns(3);
    stage.rig.to_shard.push(ShardMessage::Stop).unwrap();
    stage.turns(3);
    assert_eq!(stage.clients[clients[1]].close, Some(1001));
    assert!(!stage.rig.shard.is_finished());
    let now_ns = stage.wires.borrow().now_ns;
    assert!(stage.rig.shard.wait_ns(now_ns).is_some_and(|wait_ns| wait_ns <= 3_000_000_000));
    stage.pass(Duration::from_secs(3));
    stage.turns(2);
    assert!(stage.rig.shard.is_finished());
    assert_eq!(stage.closed(), [("shutdown", 2)]);
}
