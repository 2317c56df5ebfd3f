//! permessage-deflate: who gets it, what is compressed for whom, and that whoever is in the middle of a frame gets the rest of that one.

use std::sync::Arc;

use campanile::bus::ShardMessage;
use campanile::config::Settings;
use campanile::fanout::batch::{Batch, BatchBuilder};
use campanile::fanout::compressor::Compressor;
use campanile::wire::Format;
use campanile::wire::frame::{Opcode, encode_masked_compressed_frame};
use campanile::wire::framing::Encoding;
use campanile::wire::payload::Kind;

use crate::rig::client::{Client, deflate, payload};
use crate::rig::net::{DEFLATE_OFFER, request_with};
use crate::stage::{PLENTY, Stage, frame, settings};

const JSON: Encoding = Encoding::deflate(Format::Json);

fn stage() -> Stage {
    Stage::new(with_deflate(|_| ()))
}

fn with_deflate(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings();
    settings.clients.deflate = true;
    settings.clients.deflate_min_bytes = 300;
    change(&mut settings);
    settings
}

/// A client that offers it, in this format.
fn offering(stage: &mut Stage, path: &str, format: Format, lines: &str, room: usize) -> usize {
    let client = stage.knock(&request_with(path, format, &format!("{DEFLATE_OFFER}{lines}")), room);
    stage.clients[client] = Client::new(format);
    stage.rig.shard.on_listener();
    client
}

fn offering_crowd(stage: &mut Stage, count: usize) -> Vec<usize> {
    let clients: Vec<usize> = (0..count).map(|_| offering(stage, "/ws/news", Format::Json, "", PLENTY)).collect();
    stage.turns(3);
    assert!(clients.iter().all(|&client| stage.clients[client].deflate));
    clients
}

fn inflated(stage: &Stage, clients: &[usize]) -> Vec<u64> {
    clients.iter().map(|&client| stage.clients[client].inflated).collect()
}

/// A batch of the channel `news`, with messages of these sizes, which is not handed to the shard yet.
fn batch(stage: &mut Stage, sizes: &[usize]) -> Arc<Batch> {
    let known = stage.channels.get_mut("news").unwrap();
    let mut builder = BatchBuilder::new(known.channel.clone(), known.seq + 1);
    for &bytes in sizes {
        known.seq += 1;
        builder.push(Kind::Json, &payload("news", known.channel.epoch, known.seq, bytes), 1, 1);
    }
    builder.seal()
}

fn hand_in(stage: &mut Stage, batch: &Arc<Batch>) {
    let topic = stage.channels["news"].topic;
    stage.rig.to_shard.push(ShardMessage::Batch { topic, batch: batch.clone() }).expect("the inbox has room");
}

#[test]
fn a_message_is_compressed_once_for_all_who_agreed_and_plain_for_the_others() {
    let mut stage = stage();
    let (with, without) = (offering_crowd(&mut stage, 5), stage.subscribers(3, "news"));
    stage.publish("news", 1000);
    stage.turns(2);
    assert_eq!((stage.messages(&with), stage.messages(&without)), (vec![1; 5], vec![1; 3]));
    assert_eq!((inflated(&stage, &with), inflated(&stage, &without)), (vec![1; 5], vec![0; 3]));
    let metrics = stage.rig.metrics.clone();
    assert_eq!((metrics.deflate_agreed.get(), metrics.deflate_messages.get(), metrics.messages_deflated.get()), (5, 1, 5));
    assert!(metrics.deflate_bytes_before.get() > 1000 && metrics.deflate_bytes_after.get() < 300);
    // A short one, and one that is no shorter for it, are sent as they are.
    stage.publish("news", 10);
    stage.turns(2);
    assert_eq!((stage.messages(&with), inflated(&stage, &with)), (vec![2; 5], vec![1; 5]));
    assert_eq!((metrics.messages_sent.get(), metrics.messages_deflated.get(), metrics.deflate_messages.get()), (16, 5, 1));
}

#[test]
fn a_channel_with_too_few_subscribers_is_not_compressed_for() {
    let mut stage = stage();
    let alone = offering_crowd(&mut stage, 1);
    stage.publish("news", 1000);
    stage.turns(2);
    assert_eq!((stage.messages(&alone), inflated(&stage, &alone)), (vec![1], vec![0]));
    // As soon as it has more, the next is.
    stage.subscribers(1, "news");
    stage.publish("news", 1000);
    stage.turns(2);
    assert_eq!((stage.messages(&alone), inflated(&stage, &alone)), (vec![2], vec![1]));
}

#[test]
fn nobody_is_sent_compressed_messages_who_did_not_agree_to_them() {
    let raw_asked = "/ws/news?format=raw&deflate=true";
    for (path, format, lines, deflate, agrees) in [
        ("/ws/news", Format::Json, "", true, true),
        ("/ws/news", Format::Msgpack, "", true, true),
        ("/ws/news", Format::Json, "", false, false),
        ("/ws/news?deflate=false", Format::Json, "", true, false),
        ("/ws/news", Format::Raw, "", true, false),
        (raw_asked, Format::Raw, "", true, true),
        (raw_asked, Format::Raw, "", false, false),
        ("/ws/news", Format::Json, "User-Agent: Mozilla/5.0 (Macintosh) Version/15.6 Safari/605.1.15\r\n", true, false),
        ("/ws/news", Format::Json, "User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 16_4 like Mac OS X)\r\n", true, false),
        ("/ws/news", Format::Json, "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18.1 Safari\r\n", true, true),
    ] {
        let mut stage = Stage::new(with_deflate(|settings| settings.clients.deflate = deflate));
        let client = offering(&mut stage, path, format, lines, PLENTY);
        stage.turns(3);
        stage.subscribers(2, "news");
        stage.publish("news", 1000);
        stage.turns(2);
        let told = &stage.clients[client];
        assert_eq!((told.deflate, told.messages, told.inflated), (agrees, 1, u64::from(agrees)), "{path} {format:?} {lines}");
    }
}

/// What was begun plain is finished plain, whoever has it compressed meanwhile; what was begun compressed is finished so.
#[test]
fn a_frame_is_finished_in_the_form_in_which_it_was_begun() {
    let mut stage = stage();
    let crowd = offering_crowd(&mut stage, 3);
    let slow = crowd[0];
    let mut other = Compressor::new(6, 0).with_subscribers_min(0);
    // Another shard is compressing it, and nobody waits for that.
    let first = batch(&mut stage, &[1000]);
    assert!(first.begin_settling(JSON, &other) && !first.begin_settling(JSON, &other));
    stage.set_room(slow, 50);
    hand_in(&mut stage, &first);
    stage.turns(2);
    assert_eq!((stage.messages(&crowd), inflated(&stage, &crowd)), (vec![0, 1, 1], vec![0; 3]));
    assert_eq!(stage.rig.metrics.deflate_messages.get(), 0, "nor does anybody do it once more");
    // Now it is done, and the client is in the middle of the plain frame.
    first.end_settling(JSON, &mut other);
    assert!(first.settled(JSON).is_some_and(|frames| frames.bytes.len() < 300));
    stage.add_room(slow, 400);
    stage.turns(2);
    assert_eq!(stage.messages(&crowd), [0, 1, 1]);
    stage.set_room(slow, PLENTY);
    stage.turns(2);
    assert_eq!((stage.messages(&crowd), inflated(&stage, &crowd)), (vec![1; 3], vec![0; 3]));
    // The next one is cut in its compressed form.
    stage.set_room(slow, 50);
    stage.publish("news", 1000);
    stage.turns(2);
    assert_eq!((stage.messages(&crowd), inflated(&stage, &crowd)), (vec![1, 2, 2], vec![0, 1, 1]));
    assert!(stage.clients[slow].is_mid_frame());
    stage.set_room(slow, PLENTY);
    stage.turns(2);
    assert_eq!((stage.messages(&crowd), inflated(&stage, &crowd)), (vec![2; 3], vec![1; 3]));
}

/// Batches that are merged under a cursor keep the form of each of their messages.
#[test]
fn a_merge_leaves_the_frame_that_a_socket_is_in_the_middle_of() {
    for is_taken in [false, true] {
        let mut stage = stage();
        let crowd = offering_crowd(&mut stage, 3);
        let slow = crowd[0];
        let mut other = Compressor::new(6, 0).with_subscribers_min(0);
        let first = batch(&mut stage, &[1000]);
        if is_taken {
            assert!(first.begin_settling(JSON, &other));
        }
        stage.set_room(slow, 50);
        hand_in(&mut stage, &first);
        stage.turns(2);
        assert!(stage.clients[slow].is_mid_frame());
        // More than a log has without merging, some of them too short.
        for number in 0..20 {
            let next = batch(&mut stage, &[if number % 3 == 0 { 5 } else { 900 }]);
            hand_in(&mut stage, &next);
            stage.turn();
        }
        if is_taken {
            first.end_settling(JSON, &mut other);
        }
        stage.set_room(slow, PLENTY);
        stage.turns(4);
        assert_eq!(stage.messages(&crowd), [21; 3]);
        // The one that another thread was at is plain in what was merged of it.
        let compressed = 13 + u64::from(!is_taken);
        assert_eq!(inflated(&stage, &crowd), [compressed; 3], "{is_taken}");
        let metrics = &stage.rig.metrics;
        assert_eq!((metrics.deflate_messages.get(), metrics.messages_deflated.get()), (compressed, 3 * compressed));
    }
}

#[test]
fn a_channel_that_is_counted_anew_leaves_nobody_in_the_middle_of_a_compressed_frame() {
    let mut stage = stage();
    let crowd = offering_crowd(&mut stage, 3);
    stage.set_room(crowd[0], 30);
    stage.publish("news", 1000);
    stage.turns(2);
    assert!(stage.clients[crowd[0]].is_mid_frame());
    stage.renumber("news", 8, 3);
    stage.turns(2);
    stage.set_room(crowd[0], PLENTY);
    stage.turns(2);
    assert_eq!((stage.messages(&crowd), stage.renumbered(&crowd), inflated(&stage, &crowd)), (vec![1; 3], vec![1; 3], vec![1; 3]));
}

#[test]
fn other_settings_count_from_the_next_message_on() {
    let mut stage = stage();
    let crowd = offering_crowd(&mut stage, 2);
    stage.publish("news", 1000);
    stage.turns(2);
    let (reply, answer) = crossbeam_channel::bounded(1);
    let settings = with_deflate(|settings| (settings.clients.deflate, settings.clients.deflate_min_bytes) = (false, 2000));
    let gate = settings.auth.gate().unwrap();
    let order = campanile::bus::order::Order::Reload { settings: Arc::new(settings), gate, acceptor: None, reply };
    stage.rig.to_shard.push(ShardMessage::Order(order)).expect("the inbox has room");
    stage.turns(2);
    assert!(answer.try_recv().is_ok());
    stage.publish("news", 1000);
    stage.publish("news", 3000);
    stage.turns(2);
    assert_eq!((stage.messages(&crowd), inflated(&stage, &crowd)), (vec![3; 2], vec![2; 2]));
    // Who comes now is not agreed with.
    let late = offering(&mut stage, "/ws/news", Format::Json, "", PLENTY);
    stage.turns(3);
    assert!(stage.clients[late].is_upgraded() && !stage.clients[late].deflate);
}

fn compressed(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_masked_compressed_frame(&mut bytes, fin, opcode, [1, 2, 3, 4], payload);
    bytes
}

#[test]
fn commands_may_come_compressed_and_in_pieces() {
    let mut stage = stage();
    let client = offering_crowd(&mut stage, 1)[0];
    let command = deflate(br#"{"type":"ping","id":"the first of many pings, which is longer than it need be"}"#);
    stage.send(client, &compressed(true, Opcode::Text, &command));
    // In fragments, with a ping in between; a byte at a time.
    let (begin, end) = command.split_at(20);
    let pieces =
        [compressed(false, Opcode::Text, begin), frame(true, Opcode::Ping, b"are you there"), frame(true, Opcode::Continuation, end)];
    for byte in pieces.concat() {
        stage.send(client, &[byte]);
        stage.turn();
    }
    stage.text(client, r#"{"type":"ping","id":"plain"}"#);
    stage.turns(2);
    let told = &stage.clients[client];
    assert_eq!((told.answers.len(), told.echoes, stage.rig.metrics.messages_inflated.get()), (3, 1, 2));
    assert_eq!(stage.rig.metrics.buffer_bytes.get(), 0, "and nothing of it is held");
}

#[test]
fn what_cannot_be_read_is_closed_with_its_code_and_nobody_else_notices() {
    let bomb = deflate(&vec![0; 1 << 20]);
    assert!(bomb.len() < 20_000, "{}", bomb.len());
    for (bytes, code, reason) in [
        (compressed(true, Opcode::Text, &bomb), 1009, "message_too_big"),
        (compressed(true, Opcode::Text, b"\xFF\xFF\xFF"), 1007, "invalid_deflate"),
        (compressed(true, Opcode::Text, &deflate(b"\xC3\x28")), 1007, "invalid_utf8"),
        // The bit on what is no first frame of a message; another bit.
        ([frame(false, Opcode::Text, b"{"), compressed(true, Opcode::Continuation, b"}")].concat(), 1002, "protocol_error"),
        (compressed(true, Opcode::Ping, b""), 1002, "protocol_error"),
        (vec![0xA1, 0x80, 1, 2, 3, 4], 1002, "protocol_error"),
        (vec![0xE1, 0x80, 1, 2, 3, 4], 1002, "protocol_error"),
        // An announced length beyond all that could be inflated to a message.
        (vec![0xC1, 0xFF, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4], 1009, "message_too_big"),
    ] {
        let mut stage = stage();
        let crowd = offering_crowd(&mut stage, 2);
        stage.send(crowd[0], &bytes);
        stage.turns(2);
        assert_eq!(stage.clients[crowd[0]].close, Some(code), "{bytes:x?}");
        stage.wires.borrow_mut().pipes[crowd[0]].client_closed = true;
        stage.turns(2);
        assert_eq!(stage.closed(), [(reason, 1)]);
        stage.publish("news", 1000);
        stage.text(crowd[1], r#"{"type":"ping","id":1}"#);
        stage.turns(2);
        assert_eq!((stage.clients[crowd[1]].answers.len(), stage.clients[crowd[1]].messages), (1, 1));
    }
    // Where nothing was agreed the bit is a mistake, as it ever was.
    let mut stage = stage();
    let plain = stage.subscribers(1, "news")[0];
    stage.send(plain, &compressed(true, Opcode::Text, &deflate(b"{\"type\":\"ping\"}")));
    stage.turns(2);
    assert_eq!(stage.clients[plain].close, Some(1002));
}

/// Some bytes of a client can be much to inflate: the others do not wait for all of it.
#[test]
fn a_turn_inflates_so_much_and_the_rest_waits_for_the_next() {
    let mut stage = stage();
    let crowd = offering_crowd(&mut stage, 2);
    let large = deflate(format!(r#"{{"type":"ping","id":7,"pad":"{}"}}"#, "x".repeat(60_000)).as_bytes());
    let sent: Vec<u8> = std::iter::repeat_n(compressed(true, Opcode::Text, &large), 60).flatten().collect();
    assert!(sent.len() < 40_000, "{}", sent.len());
    stage.send(crowd[0], &sent);
    stage.turn();
    stage.text(crowd[1], r#"{"type":"ping","id":1}"#);
    let inflated = stage.rig.metrics.messages_inflated.get();
    assert!((1..30).contains(&inflated), "{inflated} in one turn");
    stage.turns(2);
    assert_eq!(stage.clients[crowd[1]].answers.len(), 1, "who comes meanwhile is read");
    assert!(stage.clients[crowd[0]].answers.len() < 60);
    stage.turns(60);
    assert_eq!(stage.clients[crowd[0]].answers.len(), 60);
}

/// A turn compresses so much, and what comes beyond goes out plain at once.
#[test]
fn a_turn_has_its_part_and_the_rest_is_sent_plain() {
    let mut stage = Stage::new(with_deflate(|settings| settings.channels.default.log_bytes = 16 << 20));
    let crowd = offering_crowd(&mut stage, 3);
    for _ in 0..3 {
        let large = batch(&mut stage, &[50_000]);
        hand_in(&mut stage, &large);
    }
    stage.turns(3);
    assert_eq!(stage.messages(&crowd), [3; 3]);
    assert_eq!(inflated(&stage, &crowd), [2; 3], "two go beyond a turn's part together");
    // What takes too long by itself is never compressed.
    let huge = batch(&mut stage, &[200_000]);
    hand_in(&mut stage, &huge);
    stage.turns(3);
    assert_eq!((stage.messages(&crowd), inflated(&stage, &crowd)), (vec![4; 3], vec![2; 3]));
}
