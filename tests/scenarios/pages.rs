//! Where subscriptions begin: with the newest message, and beyond the logs, on pages that come late, in any order, with holes, or not at all.

use std::sync::Arc;
use std::time::Duration;

use super::stage::{PLENTY, Stage, settings};
use crate::rig::client::payload;
use campanile::fanout::batch::{Batch, BatchBuilder};
use campanile::limits::bus::PAGE_NUMBERS;
use campanile::wire::event::GapReason;
use campanile::wire::payload::Kind;
use serde_json::{Value, json};

/// Sends a `subscribe` of `c`; its answer comes later.
fn ask(stage: &mut Stage, client: usize, more: &Value) {
    let mut command = json!({"type": "subscribe", "channel": "c", "id": 1});
    command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    stage.text(client, &command.to_string());
}

/// From the log, where it has any; whatever comes meanwhile follows.
#[test]
fn the_newest_message_comes_at_once_and_once() {
    for (history, seq_then, messages_then) in [(5, 2, 1), (0, 3, 0)] {
        let mut settings = settings();
        settings.channels.default.history_count = history;
        let mut stage = Stage::new(settings);
        let present = stage.subscribers(1, "c")[0];
        (0..3).for_each(|_| stage.publish("c", 50));
        stage.turns(2);
        let late = stage.connect("/ws", PLENTY);
        stage.turns(2);
        ask(&mut stage, late, &json!({"latest": true}));
        // In the same turn.
        stage.publish("c", 50);
        stage.turns(2);
        let answer = &stage.clients[late].answers[0];
        assert_eq!((&answer["type"], &answer["recovered"]), (&json!("subscribed"), &json!(false)));
        let seq = answer["seq"].as_u64().unwrap();
        assert!((seq_then..=seq_then + 1).contains(&seq), "{answer}");
        assert_eq!(stage.clients[late].messages, messages_then + 1 - (seq - seq_then) as usize);
        stage.publish("c", 50);
        stage.turns(2);
        assert_eq!((stage.clients[late].got["c"].1, stage.clients[late].gaps), (5, 0));
        assert_eq!(stage.messages(&[present]), [5]);
    }
}

/// Gaps that came after it stand where they belong.
#[test]
fn a_gap_does_not_hide_the_newest_message() {
    let mut settings = settings();
    settings.channels.default.history_count = 5;
    let mut stage = Stage::new(settings);
    stage.subscribers(1, "c");
    (0..3).for_each(|_| stage.publish("c", 50));
    stage.lose("c", 2);
    stage.turns(2);
    let late = stage.connect("/ws", PLENTY);
    stage.turns(2);
    ask(&mut stage, late, &json!({"latest": true}));
    stage.turns(2);
    assert_eq!(stage.clients[late].answers[0]["seq"], 2);
    assert_eq!((stage.clients[late].got["c"], stage.clients[late].gaps), ((1, 3), 1));
}

/// The page of a channel of which everything up to `trimmed` is gone.
fn page(stage: &Stage, from: u64, trimmed: u64) -> Vec<Arc<Batch>> {
    let known = &stage.channels["c"];
    let end = (from + PAGE_NUMBERS).min(known.seq + 1);
    let kept = (trimmed + 1).clamp(from, end);
    let mut batches = Vec::new();
    if kept > from {
        batches.push(Batch::gap(&known.channel, from, kept - 1, GapReason::Expired));
    }
    if kept < end {
        let mut builder = BatchBuilder::new(known.channel.clone(), kept);
        (kept..end).for_each(|seq| builder.push(Kind::Json, &payload("c", known.channel.epoch, seq, 40), 0, 1));
        batches.push(builder.seal());
    }
    batches
}

/// Clients hold the shard to its promises with every frame (order, no number twice, none left out without a gap). At the end all have come to the last number.
#[test]
fn who_goes_on_from_pages_gets_everything_in_order_and_once() {
    let (mut pages, mut resumed, mut newest, mut holes) = (0, 0, 0, 0);
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut settings = settings();
        settings.channels.default.durable = true;
        let mut stage = Stage::new(settings);
        stage.subscribers(1, "c");
        for _ in 0..random.usize(1..150) {
            stage.publish("c", 40);
            stage.turn();
        }
        let trimmed = if random.bool() { random.u64(0..stage.channels["c"].seq) } else { 0 };
        let all_can_be_had = random.bool();
        let mut late = Vec::new();
        for _ in 0..150 {
            match random.u8(..10) {
                0 | 1 if late.len() < 12 => {
                    let client = stage.connect("/ws", PLENTY);
                    stage.turns(2);
                    let (last, epoch) = (stage.channels["c"].seq, stage.channels["c"].channel.epoch);
                    let since = random.bool().then(|| random.u64(0..=last));
                    let is_paced = since.is_none() && random.u8(..3) == 0;
                    let mut more = json!({"latest": since.is_none() || random.bool()});
                    if let Some(seq) = since {
                        more["since"] = json!({"epoch": epoch, "seq": seq});
                    }
                    if is_paced {
                        more["max_rate"] = 1000.into();
                        let now_ns = stage.wires.borrow().now_ns;
                        stage.clients[client].pace("c", 1000, now_ns);
                        // The newest comes besides what the rate allows.
                        stage.pass(Duration::from_millis(2));
                    }
                    stage.set_room(client, random.usize(0..600));
                    ask(&mut stage, client, &more);
                    late.push((client, since, is_paced));
                }
                0..=3 => stage.publish("c", 40),
                4..=6 if !stage.pages_asked.is_empty() => {
                    let (topic, from) = stage.pages_asked.swap_remove(random.usize(0..stage.pages_asked.len()));
                    let is_there = all_can_be_had || random.u8(..5) > 0;
                    let batches = if is_there { page(&stage, from, trimmed) } else { Vec::new() };
                    stage.bring_page(topic, from, batches);
                    pages += 1;
                }
                4..=8 if !late.is_empty() => {
                    let (client, ..) = late[random.usize(0..late.len())];
                    stage.add_room(client, random.usize(1..2000));
                }
                _ => {}
            }
            stage.pass(Duration::from_millis(2));
            stage.turn();
        }
        late.iter().for_each(|&(client, ..)| stage.set_room(client, PLENTY));
        loop {
            stage.turns(4);
            let Some((topic, from)) = stage.pages_asked.pop() else { break };
            let batches = page(&stage, from, trimmed);
            stage.bring_page(topic, from, batches);
        }
        stage.pass(Duration::from_secs(1));
        stage.turns(6);
        let last = stage.channels["c"].seq;
        for (client, since, is_paced) in late {
            let client = &stage.clients[client];
            let answer = &client.answers[0];
            assert_eq!((&answer["type"], client.close), (&json!("subscribed"), None), "seed {seed}");
            assert_eq!(client.subscriptions["c"].seq, last, "seed {seed}: {answer}");
            match since {
                Some(seq) if trimmed == 0 && all_can_be_had => {
                    assert_eq!((answer["recovered"].as_bool(), client.gaps), (Some(true), 0), "seed {seed}: {answer}");
                    assert_eq!(client.messages as u64, last - seq, "seed {seed}");
                    resumed += 1;
                }
                Some(_) => holes += usize::from(client.gaps > 0),
                None => {
                    assert_eq!(answer["recovered"], false, "seed {seed}");
                    let is_there = all_can_be_had && trimmed + 1 < answer["seq"].as_u64().unwrap();
                    assert!(!is_there || client.messages > 0, "seed {seed}: the newest message at least, {answer}");
                    assert!(is_paced || !is_there || client.gaps == 0, "seed {seed}: nothing was asked for that could be missed, {answer}");
                    newest += usize::from(is_there);
                }
            }
        }
    }
    assert!(pages > 1000 && resumed > 100 && newest > 100 && holes > 50, "{pages} {resumed} {newest} {holes}");
}
