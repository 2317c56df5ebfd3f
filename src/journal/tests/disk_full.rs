//! A disk without room: a small file system in memory, which only root can mount.

use std::process::Command;

use super::*;

/// A file system of so many bytes at this place, until it is dropped.
struct Small<'p>(&'p Place);

impl<'p> Small<'p> {
    fn mount(place: &'p Place, options: &str) -> Small<'p> {
        std::fs::create_dir_all(&place.0).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&place.0).status();
        assert!(status.is_ok_and(|status| status.success()), "this test needs root, to mount a small file system");
        Small(place)
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0.0).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0.0).status();
    }
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room() {
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(50))] {
        let place = Place::new("full");
        let small = Small::mount(&place, "size=400k");
        let settings = Settings { fsync, segment_bytes: 64 << 10, ..place.settings() };
        let mut owner = Owner::open(settings.clone(), NOW_MS).unwrap();
        let mut taken = Vec::new();
        let refused = owner.until(|journal| {
            for _ in 0..4 {
                let payload = vec![taken.len() as u8; 10_000];
                let append = Append {
                    channel: "news",
                    payload: &payload,
                    timestamp_ms: NOW_MS,
                    idempotency_key: None,
                    history_count: 10_000,
                    history_age: HOUR,
                };
                match journal.append(&append) {
                    Ok(appended) => {
                        assert_eq!(appended.seq, taken.len() as u64 + 1);
                        taken.push((appended.seq, payload));
                    }
                    Err(error) => return Some(error),
                }
            }
            None
        });
        assert!(matches!(&refused, AppendError::Failing(text) if text.contains("No space left")), "{refused}");
        assert!(owner.journal.mark_read("u1", "news", 1).is_err() && owner.journal.state("news").is_ok());
        assert!(owner.journal.settled() < owner.journal.head());
        small.remount("size=64m");
        owner.until(|journal| journal.failure().is_none().then_some(()));
        owner.settle();
        assert_eq!(owner.append("news", b"again", 10_000).seq, taken.len() as u64 + 1);
        taken.push((taken.len() as u64 + 1, b"again".to_vec()));
        assert_eq!(owner.read_all("news"), taken);
        owner.close();
        let mut owner = Owner::open(settings, NOW_MS).unwrap();
        assert_eq!(owner.read_all("news"), taken);
        owner.close();
    }
}

/// What has grown too old goes, and its room is what the queue has waited for.
#[test]
fn a_disk_that_is_full_of_what_is_not_wanted_empties_itself() {
    let place = Place::new("full-of-old");
    let _small = Small::mount(&place, "size=400k");
    let mut owner = Owner::open(Settings { segment_bytes: 64 << 10, ..place.settings() }, NOW_MS).unwrap();
    let now_ms = owner.now_ms;
    owner.until(|journal| {
        let append = Append {
            channel: "news",
            payload: &[0; 10_000],
            timestamp_ms: now_ms,
            idempotency_key: None,
            history_count: 10_000,
            history_age: HOUR,
        };
        journal.append(&append).is_err().then_some(())
    });
    owner.now_ms += 3_700_000;
    let now_ms = owner.now_ms;
    owner.until(|journal| {
        while journal.turn(now_ms) {}
        journal.failure().is_none().then_some(())
    });
    owner.settle();
    owner.append("news", b"x", 10);
    owner.close();
}

#[test]
fn it_starts_on_a_full_disk_and_takes_what_comes_when_there_is_room() {
    let place = Place::new("full-start");
    let small = Small::mount(&place, "size=64k");
    let mut owner = Owner::files(&place);
    owner.append("news", b"x", 10);
    owner.close();
    let ballast = place.0.join("ballast");
    let mut bytes = 64 << 10;
    while bytes > 0 {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&ballast).unwrap();
        if std::io::Write::write_all(&mut file, &vec![1; bytes]).is_err() {
            bytes /= 2;
        }
    }
    let mut owner = Owner::open(Settings { boot: 2, ..place.settings() }, NOW_MS).unwrap();
    owner.until(|journal| journal.failure());
    assert!(matches!(owner.try_append("news", b"y", None, 10), Err(AppendError::Failing(_))));
    assert_eq!(owner.read_all("news"), [(1, b"x".to_vec())]);
    small.remount("size=1m");
    owner.until(|journal| journal.failure().is_none().then_some(()));
    assert_eq!(owner.append("news", b"y", 10).seq, 2);
    owner.close();
}
