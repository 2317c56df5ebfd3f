//! Numbers, repeats and marks: the same in memory and in files, before and after a restart.

use super::*;

/// Runs a test with each kind of journal.
fn both(test: &str, run: impl Fn(Owner)) {
    run(Owner::memory());
    let place = Place::new(test);
    run(Owner::files(&place));
}

#[test]
fn numbers_go_up_from_one_and_the_oldest_goes_first() {
    both("numbers", |mut owner| {
        assert_eq!(owner.journal.state("news").unwrap(), state(NOW_MS, 0, 1));
        for seq in 1..=30 {
            let appended = owner.append("news", format!("message {seq}").as_bytes(), 20);
            assert_eq!((appended.epoch, appended.seq, appended.is_repeat), (NOW_MS, seq, false));
        }
        assert_eq!(owner.append("other", b"", 1).epoch, NOW_MS + 1, "no two channels have one epoch");
        assert_eq!(owner.journal.state("news").unwrap(), state(NOW_MS, 30, 11));
        let all = owner.read_all("news");
        assert_eq!(all.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (11..=30).collect::<Vec<_>>());
        assert!(all.iter().all(|(seq, payload)| *payload == format!("message {seq}").into_bytes()));
        let mut range = Range { channel: "news", epoch: NOW_MS, from_seq: 31, count_max: 1, bytes_max: 1 };
        assert_eq!(owner.journal.read(&range), Ok(Reading::Page(Page::default())));
        range.epoch = 1;
        assert_eq!(owner.journal.read(&range), Err(ReadError::OtherEpoch { epoch: NOW_MS }));
        range.channel = "nobody's";
        assert_eq!(owner.journal.read(&range), Err(ReadError::Unknown));
    });
}

#[test]
fn what_is_too_old_goes_and_the_channel_keeps_its_numbers() {
    both("age", |mut owner| {
        owner.append("news", b"1", 10);
        owner.now_ms += 1_800_000;
        owner.append("news", b"2", 10);
        owner.now_ms += 1_800_001;
        owner.rest();
        assert_eq!(owner.journal.state("news").unwrap(), state(NOW_MS, 2, 2));
        owner.now_ms += 3_600_000;
        owner.rest();
        assert_eq!(owner.journal.state("news").unwrap(), state(NOW_MS, 2, 3));
        owner.now_ms += millis(Settings::default().channel_age) - 10_000;
        owner.rest();
        assert_eq!(owner.journal.state("news").unwrap(), state(NOW_MS, 2, 3), "quiet for a week");
        owner.now_ms += millis(Settings::default().channel_age) + 10_000;
        owner.rest();
        let epoch = owner.journal.state("news").unwrap().epoch;
        assert!(epoch > NOW_MS && owner.append("news", b"1", 10).seq == 1, "forgotten, and begun anew");
    });
}

#[test]
fn a_channel_without_history_counts() {
    both("counting", |mut owner| {
        for seq in 1..=3 {
            assert_eq!(owner.append("news", b"x", 0).seq, seq);
        }
        assert_eq!(owner.journal.state("news").unwrap(), state(NOW_MS, 3, 4));
    });
}

#[test]
fn a_repeat_gets_the_first_number_while_the_window_is_open() {
    both("repeat", |mut owner| {
        let first = owner.try_append("news", b"1", Some("key"), 1).unwrap();
        owner.append("news", b"2", 1);
        let again = owner.try_append("news", b"1", Some("key"), 1).unwrap();
        assert_eq!((again.epoch, again.seq, again.is_repeat), (first.epoch, 1, true));
        assert!(!owner.try_append("other", b"1", Some("key"), 1).unwrap().is_repeat, "of another channel");
        owner.now_ms += 300_001;
        assert_eq!(owner.try_append("news", b"1", Some("key"), 1).unwrap().seq, 3);
        let long = "k".repeat(256);
        assert_eq!(owner.try_append("news", b"1", Some(&long), 1), Err(AppendError::KeyTooLong));
    });
}

#[test]
fn marks_never_go_back() {
    both("marks", |mut owner| {
        for _ in 0..5 {
            owner.append("news", b"x", 10);
        }
        let mut mark = |user: &str, seq| owner.journal.mark_read(user, "news", seq).unwrap().map(|marked| (marked.seq, marked.has_moved));
        assert_eq!((mark("u1", 3), mark("u1", 2), mark("u1", 99)), (Some((3, true)), Some((3, false)), Some((5, true))));
        assert_eq!(owner.journal.mark_read("u1", "other", 3), Ok(None));
        assert_eq!(owner.journal.marks("u1", ["other", "news"]), [0, 5]);
        assert_eq!(owner.journal.marks("u2", ["news"]), [0]);
    });
}

#[test]
fn everything_is_there_after_a_restart() {
    let place = Place::new("restart");
    let mut owner = Owner::files(&place);
    let quiet = owner.journal.state("quiet").unwrap();
    for seq in 1..=200 {
        let key = format!("key {seq}");
        owner.try_append("news", format!("message {seq}").as_bytes(), Some(&key), 50).unwrap();
        owner.append("counting", b"", 0);
    }
    owner.journal.mark_read("u1", "news", 150).unwrap();
    owner.journal.mark_read("u1", "news", 160).unwrap();
    let before = owner.read_all("news");
    owner.close();
    for _ in 0..3 {
        let mut owner = Owner::open(Settings { boot: 2, ..place.settings() }, NOW_MS + 1000).unwrap();
        assert_eq!(owner.journal.state("quiet").unwrap(), quiet);
        assert_eq!(owner.journal.state("counting").unwrap().last_seq, 200);
        assert_eq!(owner.journal.state("news").unwrap(), state(NOW_MS + 1, 200, 151));
        assert_eq!(owner.read_all("news"), before);
        assert_eq!(owner.journal.marks("u1", ["news"]), [160]);
        assert_eq!(owner.try_append("news", b"", Some("key 1"), 50).unwrap().seq, 1);
        owner.rest();
        owner.close();
    }
    let mut owner = Owner::open(place.settings(), NOW_MS - 100_000).unwrap();
    assert_eq!(owner.append("news", b"", 50).seq, 201);
    assert!(owner.append("new", b"", 50).epoch > NOW_MS, "the clock was set back, epochs go on");
    owner.close();
}

#[test]
fn always_settles_when_the_disk_has_it() {
    let place = Place::new("always");
    let mut owner = Owner::open(Settings { fsync: Fsync::Always, ..place.settings() }, NOW_MS).unwrap();
    for round in 1..=50 {
        let last = (0..round).map(|_| owner.append("news", b"x", 1000).ticket).max().unwrap();
        owner.until(|journal| {
            assert!(journal.settled() <= journal.synced());
            (journal.settled() >= last).then_some(())
        });
    }
    owner.close();
}

#[test]
fn the_second_process_is_refused_and_told_why() {
    let place = Place::new("two");
    let owner = Owner::files(&place);
    let refused = Owner::open(place.settings(), NOW_MS).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("is in use by another process") && refused.contains("set another data_dir"), "{refused}");
    assert!(refused.contains(&format!("({})", std::process::id())), "{refused}");
    owner.close();
    Owner::files(&place).close();
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_changed() {
    let place = Place::new("newer");
    Owner::files(&place).close();
    let path = disk::folder::segment_path(&place.0, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    let sum = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let refused = Owner::open(place.settings(), NOW_MS).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("was written by a later release (format 9") && refused.contains("Nothing was changed"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
