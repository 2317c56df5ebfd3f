//! Heartbeats and deadlines: whose silence counts.

use std::time::Duration;

use super::stage::{PLENTY, Stage, frame, settings};
use crate::rig::net::{UNASKED, request};
use campanile::limits;
use campanile::wire::Format;
use campanile::wire::frame::Opcode;
use serde_json::json;

#[test]
fn pongs_that_wait_in_the_socket_count_when_the_thread_was_held_up() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(30);
        settings.clients.pong_timeout = Duration::from_secs(40);
    }));
    let clients: Vec<usize> = (0..4 * limits::READS_PER_TURN).map(|_| stage.connect("/ws", PLENTY)).collect();
    stage.turns(20);
    for _ in 0..310 {
        stage.pass(Duration::from_millis(100));
        stage.turn();
    }
    assert!(clients.iter().all(|&client| stage.clients[client].pings == 1));
    // All but one answer at once, more than are read in a turn; then the host stands still for longer than a pong may take.
    for &client in &clients[1..] {
        stage.send(client, &frame(true, Opcode::Pong, b""));
    }
    stage.pass(Duration::from_secs(41));
    stage.turns(10);
    assert_eq!(stage.closed(), [("heartbeat_timeout", 1)]);
}

/// It is told now and then that the server lives, and has to take that, but it never says anything.
#[test]
fn a_peer_that_cannot_be_pinged_is_closed_for_what_it_does_not_take_and_not_for_its_silence() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(30);
        settings.clients.pong_timeout = Duration::from_secs(10);
    }));
    stage.connect("/ws", PLENTY);
    let unasked: Vec<usize> = (0..2).map(|_| stage.connect(&format!("/ws?{UNASKED}"), PLENTY)).collect();
    for &client in &unasked {
        stage.clients[client].unasked = true;
    }
    let pass = |stage: &mut Stage, seconds: usize| {
        for _ in 0..10 * seconds {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
    };
    pass(&mut stage, 600);
    assert_eq!(stage.closed(), [("heartbeat_timeout", 1)], "only the one that was asked and did not answer");
    for &client in &unasked {
        assert!((20..=21).contains(&stage.clients[client].beats), "{} heartbeats in ten minutes", stage.clients[client].beats);
    }
    // Both take nothing any more; one has room again when that has been noticed.
    let before: Vec<usize> = unasked.iter().map(|&client| stage.clients[client].beats).collect();
    for &client in &unasked {
        stage.set_room(client, 0);
    }
    pass(&mut stage, 31);
    assert!(stage.rig.metrics.buffer_bytes.get() > 0, "a heartbeat waits for room");
    pass(&mut stage, 4);
    stage.set_room(unasked[0], PLENTY);
    pass(&mut stage, 95);
    assert_eq!(stage.closed(), [("heartbeat_timeout", 2)]);
    let after: Vec<usize> = unasked.iter().map(|&client| stage.clients[client].beats).collect();
    assert!(after[0] >= before[0] + 3 && after[1] == before[1], "{before:?}, then {after:?}");
}

#[test]
fn connections_that_came_together_do_not_beat_together() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(30);
        settings.clients.pong_timeout = Duration::from_secs(10);
    }));
    stage.subscribers(300, "c");
    let mut before = vec![0; 300];
    for second in 0..90 {
        for _ in 0..10 {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
        let now: Vec<usize> = stage.clients.iter().map(|client| client.pings).collect();
        let asked: Vec<usize> = (0..300).filter(|&client| now[client] > before[client]).collect();
        assert!(asked.len() <= 25, "{} pings in second {second}, where 10 are even", asked.len());
        for client in asked {
            stage.send(client, &frame(true, Opcode::Pong, b""));
        }
        before = now;
    }
    assert!(before.iter().all(|pings| (2..=3).contains(pings)), "{before:?}");
}

/// Three clients who get a message every five seconds and answer their first ping. Then one goes on, the application of the second hangs while its host
/// acknowledges, and the host of the third is gone.
#[test]
fn whoever_acknowledges_what_it_is_sent_is_asked_at_each_fourth_heartbeat() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(30);
        settings.clients.pong_timeout = Duration::from_secs(10);
    }));
    let [answers, hangs, is_cut] = stage.subscribers(3, "c")[..] else { unreachable!() };
    let mut pings = [0; 3];
    let mut ended = [None; 3];
    for second in 0..1200 {
        stage.wires.borrow_mut().pipes[is_cut].is_cut = second >= 40;
        if second % 5 == 0 {
            stage.publish("c", 20);
        }
        for _ in 0..10 {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
        for client in [answers, hangs, is_cut] {
            if stage.clients[client].pings > pings[client] {
                pings[client] += 1;
                if client == answers || pings[client] == 1 {
                    stage.send(client, &frame(true, Opcode::Pong, b""));
                }
            }
            if ended[client].is_none() && stage.wires.borrow().pipes[client].server_gone {
                ended[client] = Some(second);
            }
        }
    }
    assert!((10..=11).contains(&pings[answers]) && pings[hangs] == 2, "{pings:?} pings in twenty minutes");
    assert_eq!(ended[answers], None);
    assert!(ended[hangs].is_some_and(|second| (129..=161).contains(&second)), "{ended:?}");
    assert!(ended[is_cut].is_some_and(|second| (50..=82).contains(&second)), "{ended:?}");
}

#[test]
fn a_heartbeat_shorter_than_the_pongs_deadline_is_kept() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.clients.heartbeat = Duration::from_secs(2);
        settings.clients.pong_timeout = Duration::from_secs(10);
    }));
    let client = stage.connect("/ws", PLENTY);
    let mut before = 0;
    for _ in 0..200 {
        stage.pass(Duration::from_millis(100));
        stage.turn();
        if stage.clients[client].pings > before {
            before = stage.clients[client].pings;
            stage.send(client, &frame(true, Opcode::Pong, b""));
        }
    }
    assert!((9..=10).contains(&before), "{before} pings in 20 s");
}

#[test]
fn a_request_that_waits_in_the_socket_counts_when_the_thread_was_held_up() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.handshake_timeout = Duration::from_secs(5)));
    let clients: Vec<usize> = (0..4 * limits::READS_PER_TURN).map(|_| stage.knock("", PLENTY)).collect();
    stage.rig.shard.on_listener();
    stage.turns(20);
    for &client in &clients {
        stage.send(client, request("/ws", Format::Json).as_bytes());
    }
    stage.pass(Duration::from_secs(6));
    stage.turns(clients.len() * limits::FLUSH_UNITS_PER_WRITE / limits::FLUSH_UNITS_PER_TURN + 4);
    assert!(clients.iter().all(|&client| stage.clients[client].is_upgraded()));
}

#[test]
fn a_message_that_is_never_finished_is_closed_after_two_heartbeats() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.heartbeat = Duration::from_secs(30)));
    let endless = stage.connect("/ws", PLENTY);
    let slow = stage.connect("/ws", PLENTY);
    stage.turns(3);
    stage.send(endless, &frame(false, Opcode::Text, b"{\"type\":"));
    let command = frame(true, Opcode::Text, json!({"type": "ping", "id": "slow"}).to_string().as_bytes());
    let pieces: Vec<&[u8]> = command.chunks(command.len().div_ceil(5)).collect();
    for step in 0..60 {
        // Pings between its pieces show that the connection lives, but not that the message will ever end.
        if stage.clients[endless].close.is_none() {
            stage.send(endless, &frame(true, Opcode::Ping, b"are you there"));
        }
        // The other one takes 20 s for each message, one after the other, so that one is always under way.
        stage.send(slow, pieces[step % 5]);
        for _ in 0..50 {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
        if step < 5 {
            assert_eq!(stage.clients[endless].close, None, "not before a whole heartbeat has passed");
        }
        if step == 14 {
            assert_eq!(stage.clients[endless].close, Some(1008));
        }
    }
    assert_eq!(stage.closed(), [("message_timeout", 1)]);
    assert_eq!((stage.clients[slow].close, stage.clients[slow].answers.len()), (None, 12));
}

#[test]
fn pings_that_are_cut_at_each_heartbeat_are_no_message_that_is_never_finished() {
    let mut stage = Stage::new(settings().with(|settings| settings.clients.heartbeat = Duration::from_secs(5)));
    let client = stage.connect("/ws", PLENTY);
    stage.turns(3);
    let ping = frame(true, Opcode::Ping, b"are you there");
    // Within a fragmented message that is finished, too.
    let (begin, end) = (frame(false, Opcode::Text, b"{\"type\":\"ping\""), frame(true, Opcode::Continuation, b",\"id\":1}"));
    for round in 0..40 {
        let message = round % 8 == 7;
        if message {
            stage.send(client, &begin);
        }
        let cut = 1 + round % (ping.len() - 1);
        stage.send(client, &ping[..cut]);
        for _ in 0..50 {
            stage.pass(Duration::from_millis(100));
            stage.turn();
        }
        stage.send(client, &ping[cut..]);
        if message {
            stage.send(client, &end);
        }
        stage.turn();
    }
    assert_eq!((stage.clients[client].close, stage.closed()), (None, vec![]));
    assert_eq!((stage.clients[client].echoes, stage.clients[client].answers.len()), (40, 5));
}
