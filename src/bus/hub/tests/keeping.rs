//! How long channels and their history are kept, and whose go when there is no room.

use super::*;

#[test]
fn a_channel_lingers_and_comes_back_as_another() {
    let mut bed = bed(&[100]);
    bed.join(0, 1, "a");
    bed.messages("a", 5);
    let epoch = bed.hub.list(0, 10).channels[0].epoch;
    while bed.hub.next_request().is_some() {}
    bed.hub.leave(0, topic(1), "a", T0);
    bed.hub.expire(T0 + LINGER_NS - 1);
    bed.hub.join(0, topic(2), "a", somebody(), T0 + LINGER_NS - 1);
    bed.hub.expire(T0 + LINGER_NS);
    assert!(bed.hub.next_request().is_none());
    assert_eq!(bed.got(0).last().unwrap(), "joined 2 at 5", "still the same numbers");

    bed.hub.leave(0, topic(2), "a", T0 + LINGER_NS);
    assert_eq!(bed.hub.deadline(T0 + LINGER_NS), Some(T0 + 2 * LINGER_NS));
    bed.messages("a", 1); // nobody listens, but it is numbered
    bed.hub.expire(T0 + 2 * LINGER_NS);
    assert!(matches!(bed.hub.next_request(), Some(Request::Unwant { channel, had_come: true }) if *channel == *"a"));
    assert_eq!((bed.metrics.channels.get(), bed.hub.find("a"), bed.hub.deadline(T0)), (0, None, None));
    bed.join(0, 3, "a");
    assert_eq!(bed.got(0), ["joined 3 at 0"]);
    assert_ne!(bed.hub.list(0, 10).channels[0].epoch, epoch);
}

/// Whoever is away for less than `history_age` misses nothing, whenever it was published and however short the linger.
#[test]
fn history_outlives_the_linger_of_its_channel() {
    const AGE_NS: u64 = 14 * LINGER_NS;
    for keeps_channels in [false, true] {
        let rule = ChannelRule { history_count: 100, history_age: Duration::from_nanos(AGE_NS), ..rule() };
        let mut bed = bed_with(HubSettings { history_keeps_channels: keeps_channels, ..settings_of(rule, 1000) }, &[100]);
        bed.join(0, 1, "heard");
        bed.join(0, 2, "silent");
        bed.messages("heard", 1);
        bed.hub.leave(0, topic(1), "heard", T0);
        bed.hub.leave(0, topic(2), "silent", T0);
        while bed.hub.next_request().is_some() {}
        bed.got(0);
        let away = T0 + AGE_NS - 1;
        bed.hub.expire(away);
        assert!(bed.hub.next_request().is_none(), "both stay subscribed");
        // Nothing had been published on this one: what comes now is missed all the same.
        bed.messages("silent", 1);
        bed.hub.join(0, topic(3), "heard", somebody(), away);
        bed.hub.join(0, topic(4), "silent", somebody(), away);
        assert_eq!(bed.got(0), ["joined 3 at 1 1..2", "joined 4 at 1 1..2"], "the same numbers, and what was missed");

        bed.hub.leave(0, topic(3), "heard", away);
        bed.hub.leave(0, topic(4), "silent", away);
        assert_eq!(bed.hub.deadline(away).map(|due| due <= away + AGE_NS), Some(true));
        bed.hub.expire(away + AGE_NS);
        bed.hub.expire(away + AGE_NS + LINGER_NS);
        bed.hub.expire(away + AGE_NS + 2 * LINGER_NS);
        assert_eq!(bed.metrics.channels.get(), 0, "and not for ever");
    }
}

/// Channels that only their history keeps are no more than `channels_max` allows, with those in use.
#[test]
fn channels_kept_for_their_history_make_room() {
    let mut bed = bed_of(ChannelRule { history_count: 100, ..rule() }, &[100], 10);
    for index in 0..50 {
        let (name, now) = (format!("c{index}"), T0 + u64::from(index));
        bed.hub.join(0, topic(index), name.as_str(), somebody(), now);
        bed.hub.leave(0, topic(index), &name, now);
        assert!(bed.metrics.channels.get() <= 10);
    }
    let names: Vec<String> = bed.hub.list(0, 100).channels.into_iter().map(|channel| channel.name).collect();
    assert_eq!(names.len(), 10);
    assert!((40..50).all(|index| names.contains(&format!("c{index}"))), "the oldest went: {names:?}");
}

#[test]
fn history_is_bounded_by_count_and_age() {
    let age = Duration::from_secs(10);
    let mut bed = bed_of(ChannelRule { history_count: 5, history_age: age, ..rule() }, &[100], 1000);
    bed.join(0, 1, "a");
    for _ in 0..4 {
        bed.messages("a", 2);
    }
    bed.join(0, 2, "a");
    let joined = bed.got(0).pop().unwrap();
    assert_eq!(joined, "joined 2 at 8 3..5 5..7 7..9", "whole batches, at least 5 messages");
    assert!(bed.metrics.history_bytes.get() > 0);
    assert_eq!(bed.hub.list(0, 1).channels[0].history_messages, 6);
    let later = T0 + 10_000_000_000;
    let id = bed.hub.find("a").unwrap();
    bed.hub.message(id, b"young", Receipt { received: later, timestamp_ms: 8 });
    bed.hub.flush(later);
    bed.hub.expire(later + 1);
    assert_eq!(bed.hub.list(0, 1).channels[0].history_messages, 1, "the sweep found the old ones though nobody joined");
    bed.hub.leave(0, topic(1), "a", later);
    bed.hub.leave(0, topic(2), "a", later);
    bed.hub.expire(later + 10_000_000_000);
    assert_eq!((bed.metrics.history_bytes.get(), bed.metrics.channels.get()), (0, 0));
}

#[test]
fn all_histories_together_are_bounded_and_the_oldest_go_first() {
    let settings = HubSettings { history_bytes_total: 100_000, ..settings_of(ChannelRule { history_count: 1000, ..rule() }, 1000) };
    let mut bed = bed_with(settings, &[100]);
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        bed.join(0, index as u32, name);
    }
    for name in ["a", "b", "b", "c", "a"] {
        bed.message(name, &[b'x'; 30_000]);
        bed.hub.flush(T0);
    }
    assert_eq!(bed.metrics.history_dropped.get(), 2);
    let kept = |bed: &Bed| bed.hub.list(0, 10).channels.iter().map(|channel| channel.history_messages).collect::<Vec<_>>();
    assert_eq!(kept(&bed), [1, 1, 1], "the first of a and of b are gone");
    let raw = bed.metrics.history_bytes.get();
    assert!((90_000..=100_000).contains(&raw));
    bed.got(0);
    bed.join(0, 7, "a");
    assert_eq!(bed.got(0), ["joined 7 at 2 2..3"]);

    // A shard has the newest one encoded: history grows with it, and gives up what was oldest.
    let id = bed.hub.find("a").unwrap() as usize;
    let history = bed.hub.registry[id as u32].history.as_ref().unwrap();
    let batch = bed.hub.histories.batches(history).pop().unwrap();
    batch.frames(Encoding::web_socket(Format::Raw));
    bed.hub.expire(T0 + SWEEP_NS);
    assert_eq!((kept(&bed), bed.metrics.history_dropped.get()), (vec![1, 0, 1], 3));
    assert!(bed.metrics.history_bytes.get() <= 100_000);

    // One that is larger than all of it is not kept, and takes the others along: it is newer than they are.
    bed.message("b", &[b'x'; 100_000]);
    bed.hub.flush(T0 + SWEEP_NS);
    assert_eq!((kept(&bed), bed.metrics.history_bytes.get(), bed.metrics.history_dropped.get()), (vec![0, 0, 0], 0, 6));
    batch.frames(Encoding::web_socket(Format::Json));
    bed.hub.expire(T0 + 2 * SWEEP_NS);
    assert_eq!(bed.metrics.history_bytes.get(), 0, "what others still hold is not history's any more");
    bed.join(0, 8, "b");
    assert_eq!(bed.got(0).pop().unwrap(), "joined 8 at 3", "nothing to resume from, and the numbers go on");
}

#[test]
fn on_the_embedded_bus_channels_go_when_the_bound_takes_their_history() {
    let rule = ChannelRule { history_count: 10, ..rule() };
    let settings = HubSettings { history_bytes_total: 20_000, history_keeps_channels: true, ..settings_of(rule, 100_000) };
    let (mut bed, mut embedded) = (bed_with(settings, &[100]), embedded());
    let mut now = T0;
    for number in 0..1000 {
        let (reply, _) = tokio::sync::oneshot::channel();
        let publish = Publish::new(format!("c{number}"), vec![b'x'; 900], Asker::Control(reply));
        embedded.publish(&mut bed.hub, publish, now);
        bed.hub.flush(now);
        now += LINGER_NS / 100;
        bed.hub.expire(now);
        assert!(bed.metrics.history_bytes.get() <= 20_000);
        assert!(bed.metrics.channels.get() <= 350, "what nobody hears or keeps goes within two lingers");
    }
    now += 3 * LINGER_NS;
    bed.hub.expire(now);
    bed.hub.expire(now + 2 * LINGER_NS);
    let channels = bed.hub.list(0, 1000).channels;
    assert!((10..20).contains(&channels.len()) && channels.iter().all(|channel| channel.history_messages == 1), "{}", channels.len());
    assert_eq!(bed.metrics.history_dropped.get(), 1000 - channels.len() as u64);
}

#[test]
fn the_bound_on_channels_refuses_or_ends_a_linger() {
    let mut bed = bed_of(rule(), &[100], 2);
    bed.join(0, 1, "a");
    bed.join(0, 2, "b");
    bed.join(0, 3, "c");
    assert_eq!(bed.got(0), ["joined 1 at 0", "joined 2 at 0", "refused 3"]);
    bed.hub.leave(0, topic(3), "c", T0); // of a topic that was refused
    bed.hub.leave(0, topic(1), "a", T0);
    bed.join(0, 4, "c");
    assert_eq!(bed.got(0), ["joined 4 at 0"]);
    assert_eq!((bed.hub.find("a"), bed.metrics.channels.get()), (None, 2));
    bed.messages("b", 1);
    assert_eq!(bed.got(0), ["batch 2 1..2"]);
}

/// One connection that subscribes to new names and leaves them pushes out nobody's channels but its own.
#[test]
fn a_flood_of_names_pushes_out_the_floods_own() {
    let mut bed = bed_of(ChannelRule { history_count: 10, ..rule() }, &[100], 100);
    let mut name = 0;
    let mut leave_behind = |bed: &mut Bed, creator: Creator, count: usize| {
        for _ in 0..count {
            name += 1;
            bed.hub.join(0, topic(name), format!("c{name}"), creator, T0 + u64::from(name));
            bed.hub.leave(0, topic(name), &format!("c{name}"), T0 + u64::from(name));
            bed.got(0);
        }
    };
    // Of an address of its own, and of the very address that the flood comes from: a proxy's.
    leave_behind(&mut bed, creator(1, 1), 20);
    leave_behind(&mut bed, creator(2, 2), 5);
    leave_behind(&mut bed, creator(2, 3), 10_000);
    let is_there = |bed: &mut Bed, name: u32| bed.hub.find(&format!("c{name}")).is_some();
    assert!((1..=25).all(|name| is_there(&mut bed, name)), "what others left is there");
    assert_eq!(bed.metrics.channels.get(), 100);
    assert_eq!(bed.metrics.channels_evicted.get(), 10_025 - 100);

    // Nor do many connections of one address that leave one each, when another address needs room.
    for connection in 4..10_000 {
        leave_behind(&mut bed, creator(3, connection), 1);
    }
    leave_behind(&mut bed, creator(1, 1), 1);
    assert!((1..=20).all(|name| is_there(&mut bed, name)), "what another address left is there");
    // Somebody who comes back to a channel does not answer for it.
    bed.hub.join(0, topic(0), "c1", creator(3, 4), T0);
    bed.hub.leave(0, topic(0), "c1", T0);
    leave_behind(&mut bed, creator(3, 4), 200);
    assert!(is_there(&mut bed, 1));
}

/// One address cannot have all channels, and what it has leaves others out of it.
#[test]
fn an_address_has_its_share_of_the_channels() {
    let settings = HubSettings { channels_of_address: 3, ..settings_of(rule(), 5) };
    let mut bed = bed_with(settings, &[100, 100]);
    let join = |bed: &mut Bed, address, index: u32, name: &str| {
        bed.hub.join(0, topic(index), name, creator(address, index), T0);
        bed.hub.flowing(name, Start::Fresh);
        bed.got(0).pop().unwrap()
    };
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(join(&mut bed, 1, index as u32, name), format!("joined {index} at 0"));
    }
    assert_eq!(join(&mut bed, 1, 3, "d"), "refused 3 for its share");
    assert_eq!(join(&mut bed, 1, 4, "a"), "joined 4 at 0", "it is there already");
    assert_eq!(join(&mut bed, 2, 5, "d"), "joined 5 at 0", "another address may have it");
    assert_eq!(join(&mut bed, 1, 6, "d"), "joined 6 at 0", "and then it is there");
    assert_eq!(join(&mut bed, 2, 7, "e"), "joined 7 at 0");
    assert_eq!(join(&mut bed, 2, 8, "f"), "refused 8", "the host is full");
    bed.hub.leave(0, topic(1), "b", T0);
    assert_eq!(join(&mut bed, 1, 9, "f"), "joined 9 at 0", "what nobody hears does not count");
    assert_eq!(join(&mut bed, 1, 10, "g"), "refused 10 for its share");
    for (index, name) in [(0, "a"), (2, "c"), (4, "a"), (5, "d"), (6, "d"), (7, "e"), (9, "f")] {
        bed.hub.leave(0, topic(index), name, T0);
    }
    assert!(bed.hub.registry.heard_by.is_empty());
}

#[test]
fn channels_are_listed_in_pages() {
    let mut bed = bed(&[100]);
    for index in 0..5 {
        bed.join(0, index, &format!("c{index}"));
    }
    bed.hub.leave(0, topic(1), "c1", T0);
    bed.hub.expire(T0 + LINGER_NS);
    let mut names = Vec::new();
    let mut from = Some(0);
    while let Some(start) = from {
        let page = bed.hub.list(start, 2);
        assert!(page.channels.len() <= 2);
        names.extend(page.channels.into_iter().map(|channel| channel.name));
        from = page.next;
    }
    assert_eq!(names, ["c0", "c2", "c3", "c4"]);
}

/// Channels that are there go by the rules of a reload, some in each turn: what they keep, and what they take.
#[test]
fn channels_that_are_there_go_by_other_rules_after_a_reload() {
    const COUNT: usize = 5000;
    let mut bed = bed_of(rule(), &[100_000], 2 * COUNT);
    for number in 0..COUNT {
        bed.join(0, number as u32, &format!("c{number}"));
    }
    bed.messages("c7", 2);
    let keeping = |channels_max| settings_of(ChannelRule { history_count: 10, ..rule() }, channels_max);
    bed.hub.reload(keeping(COUNT));
    let turns = 1 + std::iter::from_fn(|| bed.hub.take_over_rules().then_some(())).count();
    assert!(turns > 2, "not all in one turn");
    assert!(!bed.hub.take_over_rules());
    bed.messages("c7", 3);
    bed.messages(&format!("c{}", COUNT - 1), 1);
    bed.got(0);
    bed.hub.join(0, topic(900_000), "c7", somebody(), T0);
    bed.hub.join(0, topic(900_001), format!("c{}", COUNT - 1), somebody(), T0);
    bed.hub.join(0, topic(900_002), "new", somebody(), T0);
    assert_eq!(
        bed.got(0),
        ["joined 900000 at 5 3..6", "joined 900001 at 1 1..2", "refused 900002"],
        "kept from the reload on; and no more channels"
    );
    // Nothing is kept any more, also of what is there.
    bed.hub.reload(settings_of(rule(), 2 * COUNT));
    while bed.hub.take_over_rules() {}
    (0..3).for_each(|round| bed.hub.expire(T0 + round * 1_000_000_000));
    assert_eq!(bed.metrics.history_bytes.get(), 0);
    bed.hub.join(0, topic(900_003), "new", somebody(), T0);
    bed.hub.flowing("new", Start::Fresh);
    assert_eq!(bed.got(0), ["joined 900003 at 0"]);
}
