//! Messages without a number: to whom they go, in which order, and what they cost.

use std::time::Duration;

use super::stage::{PLENTY, Stage, settings};
use campanile::limits;

/// What each has got: the number of a message, and how far the channel had come.
fn asides(stage: &Stage, client: usize) -> &[(u64, u64)] {
    &stage.clients[client].asides
}

fn sent_skipped_dropped(stage: &Stage) -> (u64, u64, u64) {
    let metrics = &stage.rig.metrics;
    (metrics.unnumbered_sent.get(), metrics.unnumbered_skipped.get(), metrics.unnumbered_dropped.get())
}

/// Many more subscribers than a turn has time for, and all comes at once.
#[test]
fn they_stay_between_the_messages_between_which_they_came() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(200, "c");
    let mut expected = Vec::new();
    for number in 1..=10 {
        stage.publish("c", 100);
        stage.aside("c", 2 * number, 100);
        stage.aside("c", 2 * number + 1, 100);
        expected.extend([(2 * number, number), (2 * number + 1, number)]);
    }
    stage.publish("c", 100);
    stage.turns(1000);
    for &client in &clients {
        assert_eq!((asides(&stage, client), stage.clients[client].messages), (&*expected, 11));
    }
    assert_eq!((sent_skipped_dropped(&stage), stage.closed()), ((200 * 20, 0, 0), vec![]));
    let now_ns = stage.wires.borrow().now_ns;
    assert!(stage.rig.shard.wait_ns(now_ns) != Some(0) && stage.rig.metrics.log_bytes.get() == 0, "it rests");
}

#[test]
fn a_socket_that_takes_nothing_costs_nothing_and_is_passed_over() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(3, "c");
    stage.set_room(clients[1], 0);
    // The first shows that it takes nothing, and waits for its socket.
    for number in 1..=1000 {
        stage.aside("c", number, 1000);
        stage.turn();
    }
    stage.publish("c", 100);
    stage.turns(3);
    assert!(stage.rig.metrics.buffer_bytes.get() <= 4096, "{}", stage.rig.metrics.buffer_bytes.get());
    assert_eq!((asides(&stage, clients[0]).len(), asides(&stage, clients[2]).len()), (1000, 1000));
    assert_eq!((sent_skipped_dropped(&stage), stage.closed()), ((2001, 999, 0), vec![]));
    // What has numbers was not touched by it.
    stage.set_room(clients[1], PLENTY);
    stage.turns(3);
    assert_eq!((stage.messages(&clients), asides(&stage, clients[1])), (vec![1; 3], &[(1, 0)][..]));
    stage.aside("c", 1001, 10);
    stage.turns(3);
    assert_eq!(asides(&stage, clients[1]), [(1, 0), (1001, 1)]);
}

/// Buffers have a budget, beyond which whoever holds most is closed: it must not be spent on messages that nobody has asked for.
#[test]
fn nobody_is_closed_for_what_others_publish() {
    let settings = settings().with(|settings| settings.bounds.buffer_bytes_total = 256 * 1024);
    let mut stage = Stage::new(settings);
    let clients = stage.subscribers(20, "c");
    clients.iter().for_each(|&client| stage.set_room(client, 10_000));
    for number in 1..=20 {
        stage.aside("c", number, 50_000);
        stage.turns(3);
    }
    assert_eq!(stage.closed(), []);
    assert!(stage.rig.metrics.buffer_bytes.get() <= 192 * 1024, "{}", stage.rig.metrics.buffer_bytes.get());
    let (sent, skipped, _) = sent_skipped_dropped(&stage);
    assert!(sent > 0 && sent + skipped == 400, "{sent} {skipped}");
}

/// Numbers must not wait for a walk that is as long as this one, and what is too much is dropped.
#[test]
fn a_flood_holds_nothing_up_and_is_bounded() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(100, "c");
    let other = stage.subscribers(1, "other")[0];
    let asides_max = limits::ASIDES_MAX as u64;
    for number in 1..=asides_max + 500 {
        stage.aside("c", number, 100);
        if number % 2 == 0 {
            stage.publish("c", 10);
        }
    }
    stage.publish("other", 10);
    stage.turns(4);
    assert_eq!(stage.messages(&[other]), [1], "others have their turn");
    for _ in 0..20 {
        stage.pass(Duration::from_nanos(limits::ASIDE_HOLD_NS));
        stage.turns(5);
    }
    let numbers = (asides_max + 500) as usize / 2;
    assert!(stage.messages(&clients).iter().all(|&got| got == numbers), "{:?}", stage.messages(&clients[..1]));
    assert!(sent_skipped_dropped(&stage).2 > 0);
}

#[test]
fn who_wants_the_newest_of_a_second_gets_none() {
    let mut stage = Stage::new(settings());
    let paced = stage.paced_subscribers(2, "c", 10);
    let client = stage.subscribers(1, "c")[0];
    stage.publish("c", 10);
    stage.aside("c", 1, 10);
    stage.turns(3);
    assert_eq!((asides(&stage, paced[0]).len(), asides(&stage, client)), (0, &[(1, 1)][..]));
    assert_eq!(sent_skipped_dropped(&stage), (1, 2, 0));
}

/// The channel is counted anew before and after; whoever leaves, comes and moves into the place of another meanwhile loses nothing.
#[test]
fn neither_another_epoch_nor_who_leaves_loses_one() {
    let mut stage = Stage::new(settings());
    let clients = stage.subscribers(300, "c");
    stage.publish("c", 10);
    stage.renumber("c", 8, 0);
    stage.aside("c", 1, 10);
    stage.publish("c", 10);
    stage.renumber("c", 9, 0);
    stage.aside("c", 2, 10);
    stage.turn();
    for &client in clients.iter().step_by(3) {
        stage.text(client, r#"{"type":"unsubscribe","channel":"c"}"#);
    }
    let late = stage.connect("/ws/c", PLENTY);
    stage.turns(200);
    for (at, &client) in clients.iter().enumerate() {
        let expected: &[(u64, u64)] = &[(1, 0), (2, 0)];
        let got = asides(&stage, client);
        assert!(if at % 3 == 0 { expected.starts_with(got) } else { got == expected }, "{at}: {got:?}");
    }
    assert!(asides(&stage, late).len() <= 1);
    stage.pass(Duration::from_secs(1));
    stage.aside("c", 3, 10);
    stage.turns(30);
    assert_eq!(asides(&stage, late).last(), Some(&(3, 0)));
}
