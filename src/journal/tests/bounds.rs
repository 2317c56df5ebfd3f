//! What memory and disk may take.

use super::*;

#[test]
fn in_memory_the_oldest_message_of_all_goes() {
    let mut owner = Owner::open(Settings { memory_bytes: 50_000, ..Settings::default() }, NOW_MS).unwrap();
    owner.append("first", b"x", 10);
    for _ in 0..1000 {
        owner.append("news", &[7; 500], 1000);
        assert!(owner.journal.counts().memory_bytes <= 50_000);
    }
    assert_eq!(owner.journal.state("first").unwrap(), state(NOW_MS, 1, 2));
    let kept = owner.journal.counts().messages as u64;
    assert!(kept > 50);
    assert_eq!(owner.journal.state("news").unwrap().first_kept_seq, 1001 - kept);
}

#[test]
fn with_files_payloads_leave_memory_and_are_read_from_disk() {
    let place = Place::new("cold");
    let mut owner = Owner::open(Settings { memory_bytes: 200_000, segment_bytes: 100_000, ..place.settings() }, NOW_MS).unwrap();
    for seq in 1..=1000 {
        owner.append("news", &[seq as u8; 1000], 1000);
    }
    owner.sync();
    owner.rest();
    let counts = owner.journal.counts();
    assert!(counts.memory_bytes <= 200_000 && counts.messages == 1000, "{counts:?}");
    let all = owner.read_all("news");
    assert_eq!(all, (1..=1000u64).map(|seq| (seq, vec![seq as u8; 1000])).collect::<Vec<_>>());
    owner.close();
}

#[test]
fn with_files_messages_go_when_even_their_places_take_too_much() {
    let place = Place::new("index");
    let mut owner = Owner::open(Settings { memory_bytes: 100_000, segment_bytes: 100_000, ..place.settings() }, NOW_MS).unwrap();
    for _ in 0..5000 {
        owner.append("news", b"x", 10_000);
    }
    owner.sync();
    owner.rest();
    let counts = owner.journal.counts();
    assert!(counts.memory_bytes <= 100_000 && counts.messages > 100, "{counts:?}");
    owner.close();
}

#[test]
fn disk_use_is_bounded_by_what_is_kept() {
    let place = Place::new("rewrite");
    let segment = 8192;
    let mut owner = Owner::open(Settings { segment_bytes: segment, ..place.settings() }, NOW_MS).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut model = std::collections::BTreeMap::<String, Vec<(u64, Vec<u8>)>>::new();
    for round in 0..40 {
        for _ in 0..200 {
            // Some channels keep much for long, others little, so that files become hollow in the middle.
            let which = random.usize(0..8);
            let (channel, count) = (format!("c{which}"), [100, 1, 2, 3, 1, 2, 5, 1][which]);
            if which == 0 && round % 4 != 0 {
                continue;
            }
            let payload = vec![random.u8(..); random.usize(0..300)];
            let seq = owner.append(&channel, &payload, count).seq;
            let kept = model.entry(channel).or_default();
            kept.push((seq, payload));
            kept.drain(..kept.len().saturating_sub(count));
        }
        owner.journal.mark_read(&format!("u{}", round % 3), "c0", round).unwrap();
        owner.sync();
        owner.rest();
        let counts = owner.journal.counts();
        assert!(counts.disk_bytes <= 2 * counts.disk_bytes_wanted + 4 * segment as u64, "round {round}: {counts:?}");
    }
    for (channel, kept) in &model {
        assert_eq!(owner.read_all(channel), *kept, "{channel}");
    }
    let counts = owner.journal.counts();
    owner.close();
    assert!(segment_bytes(&place.0) <= counts.disk_bytes + 1000);
    let mut owner = Owner::open(place.settings(), NOW_MS).unwrap();
    for (channel, kept) in &model {
        assert_eq!(owner.read_all(channel), *kept, "{channel} after a restart");
    }
    assert_eq!(owner.journal.marks("u0", ["c0"]), [39]);
    owner.close();
}

#[test]
fn kept_messages_take_no_more_of_the_disk_than_they_may() {
    let place = Place::new("disk");
    let mut owner = Owner::open(Settings { disk_bytes: 50_000, ..place.settings() }, NOW_MS).unwrap();
    for _ in 0..2000 {
        owner.append("news", &[1; 200], 10_000);
    }
    owner.sync();
    owner.rest();
    let counts = owner.journal.counts();
    assert!(counts.disk_bytes_wanted <= 50_000 && counts.disk_bytes <= 120_000 && counts.messages > 100, "{counts:?}");
    owner.close();
}

#[test]
fn a_kept_message_takes_what_the_settings_say_beside_its_payload() {
    assert_eq!(entries::KEPT_BYTES, 152);
}

/// However much has grown too old or is not wanted any more, no turn and no message takes long over it.
#[test]
fn much_that_goes_at_once_goes_in_pieces() {
    let mut owner = Owner::memory();
    for _ in 0..3 * SWEEP_MESSAGES {
        owner.append("news", b"x", 1_000_000);
    }
    owner.append("news", b"x", 10);
    assert_eq!(owner.journal.counts().messages, 2 * SWEEP_MESSAGES + 1);
    let now_ms = owner.now_ms + 2 * SWEEP_EVERY_MS;
    let mut turns = 1;
    while owner.journal.turn(now_ms) {
        turns += 1;
    }
    assert_eq!((owner.journal.counts().messages, turns), (10, 2));
}

#[test]
fn a_quiet_channel_goes_for_a_new_one_and_one_with_messages_does_not() {
    let mut owner = Owner::open(Settings { channels_max: 3, ..Settings::default() }, NOW_MS).unwrap();
    owner.append("a", b"x", 1);
    owner.journal.state("b").unwrap();
    owner.journal.state("c").unwrap();
    owner.journal.state("b").unwrap();
    owner.append("d", b"x", 1);
    assert!(owner.journal.channels.find("c").is_none() && owner.journal.channels.find("b").is_some());
    owner.append("e", b"x", 1);
    assert_eq!(owner.try_append("f", b"x", None, 1), Err(AppendError::TooManyChannels));
    assert_eq!(owner.journal.state("f"), Err(AppendError::TooManyChannels));
}
