//! The journal as its owner uses it: in memory and in files, through restarts, crashes and full disks.

mod bounds;
mod crash;
mod disk_full;
mod kill;
mod numbering;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::*;

/// Far longer than anything here takes on a machine that is busy with other work.
const PATIENCE: Duration = Duration::from_secs(120);
const NOW_MS: u64 = 1_800_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

/// A folder of its own for a test; it goes with this.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("campanile-journal-{test}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Place(path)
    }

    fn settings(&self) -> Settings {
        let fsync = Fsync::Interval(Duration::from_millis(1));
        Settings { data_dir: Some(self.0.clone()), fsync, segment_bytes: 4096, boot: 1, ..Settings::default() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A journal and what wakes its owner.
struct Owner {
    journal: Journal,
    bell: Receiver<()>,
    now_ms: u64,
}

impl Owner {
    fn open(settings: Settings, now_ms: u64) -> Result<Owner, OpenError> {
        let (ring, bell) = bounded(1);
        let wake: Wake = Arc::new(move || {
            // Where it has been rung already, that is enough.
            let _ = ring.try_send(());
        });
        Ok(Owner { journal: Journal::open(settings, now_ms, &wake)?, bell, now_ms })
    }

    fn memory() -> Owner {
        Owner::open(Settings::default(), NOW_MS).unwrap()
    }

    fn files(place: &Place) -> Owner {
        Owner::open(place.settings(), NOW_MS).unwrap()
    }

    fn append(&mut self, channel: &str, payload: &[u8], count: usize) -> Appended {
        self.try_append(channel, payload, None, count).unwrap()
    }

    fn try_append(&mut self, channel: &str, payload: &[u8], key: Option<&str>, count: usize) -> Result<Appended, AppendError> {
        let append = Append { channel, payload, timestamp_ms: self.now_ms, idempotency_key: key, history_count: count, history_age: HOUR };
        self.journal.append(&append)
    }

    /// Waits for something that the journal's threads bring about.
    fn until<T>(&mut self, mut what: impl FnMut(&mut Journal) -> Option<T>) -> T {
        loop {
            self.journal.flush();
            if let Some(found) = what(&mut self.journal) {
                return found;
            }
            self.bell.recv_timeout(PATIENCE).expect("it comes to pass");
        }
    }

    fn settle(&mut self) {
        self.until(|journal| (journal.settled() >= journal.head()).then_some(()));
    }

    fn sync(&mut self) {
        self.until(|journal| (journal.synced() >= journal.head()).then_some(()));
    }

    /// Turns until there is nothing to be done.
    fn rest(&mut self) {
        self.now_ms += 2 * crate::limits::journal::SWEEP_EVERY_MS;
        let now_ms = self.now_ms;
        self.until(|journal| {
            while journal.turn(now_ms) {}
            matches!(journal.rewrite, Rewrite::Idle).then_some(())
        });
        self.sync();
        self.journal.turn(now_ms);
    }

    /// Everything that a channel keeps, read page by page.
    fn read_all(&mut self, channel: &str) -> Vec<(u64, Vec<u8>)> {
        let State { epoch, first_kept_seq, .. } = self.journal.state(channel).unwrap();
        let (mut from_seq, mut all) = (first_kept_seq, Vec::new());
        loop {
            let range = Range { channel, epoch, from_seq, count_max: 7, bytes_max: 2000 };
            let page = match self.journal.read(&range).unwrap() {
                Reading::Page(page) => page,
                Reading::Later(id) => {
                    let (answered, page) = self.until(Journal::next_page);
                    assert_eq!(answered, id);
                    page.unwrap()
                }
            };
            all.extend(page.iter().map(|entry| (entry.seq, entry.payload.to_vec())));
            match all.last() {
                Some((last, _)) if !page.is_empty() => from_seq = last + 1,
                _ => return all,
            }
        }
    }

    fn close(self) {
        assert!(self.journal.close(PATIENCE));
    }
}

/// It is opened on one thread and owned by another.
const _: () = {
    const fn goes_to_another_thread<T: Send>() {}
    goes_to_another_thread::<Journal>();
};

fn state(epoch: u64, last_seq: u64, first_kept_seq: u64) -> State {
    State { epoch, last_seq, first_kept_seq }
}

/// Bytes of all segments in a folder.
fn segment_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".journal")).map(|entry| entry.metadata().unwrap().len()).sum()
}
