//! The thread that writes the journal, and the one that syncs it, so that writing goes on meanwhile.
//!
//! What it is handed has its place already and is written there, in order. It is kept until it is synced: where a write or a sync fails (a full
//! disk, say), it is written again to the same place until it is there, and whoever appends is told by [`Progress::is_failing`] that no more is
//! taken. A sync that failed may have dropped what it was to sync from the kernel's cache, so all of that is written anew before the next one.
//!
//! Invariant: [`Progress::settled`] never passes what survives a crash: of this process with [`Fsync::Interval`], of the host with [`Fsync::Always`].

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select};

use super::folder::{Folder, segment_path, sync_folder};
use super::segments::Ticket;
use crate::journal::record::Shown;
use crate::journal::{Fsync, Wake};
use crate::limits::journal::{RETRY_AFTER, SYNC_BYTES};

/// Bytes for a place in a segment.
#[derive(Debug)]
pub struct Piece {
    pub segment: u32,
    pub offset: u32,
    pub bytes: Vec<u8>,
    /// No larger epoch is in it.
    pub epoch_last: u64,
    /// What of the journal is written when this is.
    pub end: Ticket,
}

#[derive(Debug)]
pub enum Job {
    Write(Piece),
    /// Sync now, whatever the interval.
    Sync,
    /// The end, once all is synced; at this time even if it is not.
    Stop(Instant),
}

/// How far the writer is: it writes, all others read.
#[derive(Debug, Default)]
pub struct Progress {
    written: AtomicU64,
    synced: AtomicU64,
    settled: AtomicU64,
    is_failing: AtomicBool,
    /// Why nothing can be written; None: it can.
    failure: Mutex<Option<Arc<str>>>,
}

impl Progress {
    /// The kernel has it.
    pub fn written(&self) -> Ticket {
        self.written.load(Acquire)
    }

    /// The disk has it.
    pub fn synced(&self) -> Ticket {
        self.synced.load(Acquire)
    }

    /// May be shown.
    pub fn settled(&self) -> Ticket {
        self.settled.load(Acquire)
    }

    /// What is handed in now waits until that is mended.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Acquire)
    }

    pub fn failure(&self) -> Option<Arc<str>> {
        self.failure.lock().expect("nobody panics with it").clone()
    }

    /// Returns what was there before.
    fn set_failure(&self, failure: Option<Arc<str>>) -> Option<Arc<str>> {
        self.is_failing.store(failure.is_some(), Release);
        std::mem::replace(&mut *self.failure.lock().expect("nobody panics with it"), failure)
    }
}

/// A sync under way: of the files and, if it has new ones, of the folder.
#[derive(Debug)]
pub struct SyncOrder {
    files: Vec<Arc<File>>,
    folder: Option<PathBuf>,
}

/// The body of the second thread. It ends when the writer does.
pub fn sync(orders: &Receiver<SyncOrder>, results: &Sender<io::Result<()>>) {
    for order in orders {
        let files = order.files.iter().try_for_each(|file| file.sync_data());
        let result = files.and_then(|()| order.folder.map_or(Ok(()), |folder| sync_folder(&folder)));
        if results.send(result).is_err() {
            return;
        }
    }
}

/// What a writer is connected to.
#[derive(Debug)]
pub struct Ends {
    pub jobs: Receiver<Job>,
    /// Empty buffers go back.
    pub spare: Sender<Vec<u8>>,
    pub orders: Sender<SyncOrder>,
    pub results: Receiver<io::Result<()>>,
}

pub struct Writer {
    folder: Folder,
    boot: u64,
    fsync: Fsync,
    ends: Ends,
    progress: Arc<Progress>,
    wake: Wake,
    /// The segment that was written to last.
    open: Option<(u32, Arc<File>)>,
    /// What could not be written yet.
    stalled: Option<Piece>,
    /// Written and not synced, in order.
    unsynced: VecDeque<(Arc<File>, Piece)>,
    unsynced_bytes: usize,
    /// Since when there is something in it that no sync under way is for.
    dirty_since: Option<Instant>,
    /// A file was made.
    folder_is_dirty: bool,
    /// What will be synced when the sync under way ends.
    ordered: Option<Ticket>,
    /// The last one failed.
    sync_failed: bool,
    /// What is unsynced must be written again before the next one.
    rewrites: bool,
    /// Nothing is tried before.
    retry_at: Option<Instant>,
    /// Asked for beyond the interval.
    sync_asked: bool,
    /// The first sync was done: before that not even an interval shows anything, or a host that crashes would not know of this run.
    has_begun: bool,
    stop_at: Option<Instant>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Writer").field("unsynced_bytes", &self.unsynced_bytes).finish_non_exhaustive()
    }
}

impl Writer {
    pub fn new(folder: Folder, boot: u64, fsync: Fsync, ends: Ends, progress: Arc<Progress>, wake: Wake) -> Writer {
        Writer {
            folder,
            boot,
            fsync,
            ends,
            progress,
            wake,
            open: None,
            stalled: None,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            dirty_since: None,
            folder_is_dirty: false,
            ordered: None,
            sync_failed: false,
            rewrites: false,
            retry_at: None,
            sync_asked: false,
            has_begun: false,
            stop_at: None,
        }
    }

    /// The body of the thread.
    pub fn run(mut self) {
        loop {
            self.take();
            if self.retry_at.is_none_or(|at| at <= Instant::now()) {
                self.retry_at = None;
                if self.write_again() {
                    self.write_stalled();
                    self.order_sync();
                }
            }
            if let Some(stop_at) = self.stop_at {
                let is_done = self.stalled.is_none() && self.unsynced.is_empty() && self.ends.jobs.is_empty();
                if is_done {
                    return;
                }
                if stop_at <= Instant::now() {
                    let bytes = self.unsynced_bytes + self.stalled.as_ref().map_or(0, |piece| piece.bytes.len());
                    tracing::error!(bytes, folder = %self.folder.path.display(), "the journal ends though not all of it is on disk");
                    return;
                }
            }
        }
    }

    /// The next job or the end of a sync, or nothing when something is due.
    fn take(&mut self) {
        let blocked = never();
        // What comes is written in order, and of what cannot be written one piece is held at most.
        let is_open = self.stalled.is_none() && !self.rewrites && self.stop_at.is_none();
        let jobs = if is_open { &self.ends.jobs } else { &blocked };
        select! {
            recv(self.ends.results) -> result => match result {
                Ok(result) => self.synced(result),
                Err(_) => self.synced(Err(io::Error::other("the thread that syncs has ended"))),
            },
            recv(jobs) -> job => match job {
                Ok(Job::Write(piece)) => self.stalled = Some(piece),
                Ok(Job::Sync) => self.sync_asked = true,
                Ok(Job::Stop(at)) => self.stop_at = Some(at),
                // Whoever owned the journal is gone without a word.
                Err(_) => self.stop_at = Some(self.stop_at.unwrap_or_else(Instant::now)),
            },
            default(self.rest()) => {}
        }
    }

    /// How long nothing is due by itself.
    fn rest(&self) -> Duration {
        let sync_at = match self.fsync {
            Fsync::Interval(interval) if self.ordered.is_none() => self.dirty_since.map(|since| since + interval),
            _ => None,
        };
        let due = [self.retry_at, self.retry_at.is_none().then_some(sync_at).flatten(), self.stop_at].into_iter().flatten().min();
        due.map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()))
    }

    fn write_stalled(&mut self) {
        let Some(piece) = self.stalled.take() else { return };
        let file = match self.file(piece.segment).and_then(|file| file.write_all_at(&piece.bytes, u64::from(piece.offset)).map(|()| file)) {
            Ok(file) => file,
            Err(error) => {
                self.stalled = Some(piece);
                return self.fail("write", &error);
            }
        };
        self.recovered();
        self.progress.written.store(piece.end, Release);
        self.unsynced_bytes += piece.bytes.len();
        self.dirty_since.get_or_insert_with(Instant::now);
        let (end, shown) = (piece.end, self.behind(&piece));
        self.unsynced.push_back((file, piece));
        if self.has_begun && matches!(self.fsync, Fsync::Interval(_)) {
            self.settle(end, shown);
        }
    }

    fn file(&mut self, segment: u32) -> io::Result<Arc<File>> {
        match &self.open {
            Some((open, file)) if *open == segment => Ok(file.clone()),
            _ => {
                let path = segment_path(&self.folder.path, segment);
                let file = Arc::new(OpenOptions::new().write(true).create(true).truncate(false).open(path)?);
                self.folder_is_dirty = true;
                self.open = Some((segment, file.clone()));
                Ok(file)
            }
        }
    }

    fn behind(&self, piece: &Piece) -> Shown {
        let offset = piece.offset + piece.bytes.len() as u32;
        Shown { boot: self.boot, epoch_last: piece.epoch_last, segment: piece.segment, offset }
    }

    /// Everything up to here may be shown. That is written down first, so that whoever finds less here knows that numbers were lost.
    fn settle(&mut self, end: Ticket, shown: Shown) {
        if let Err(error) = self.folder.write_shown(shown) {
            // Overwriting bytes needs no room. Without it, a journal that is cut off afterwards would not be noticed; what is there is right.
            tracing::warn!(%error, folder = %self.folder.path.display(), "cannot write down up to where numbers were shown");
        }
        self.progress.settled.store(end, Release);
        (self.wake)();
    }

    fn order_sync(&mut self) {
        let Some((_, newest)) = self.unsynced.back() else {
            self.sync_asked = false;
            return;
        };
        let Some(since) = self.dirty_since.filter(|_| self.ordered.is_none() && !self.rewrites) else { return };
        let is_due = match self.fsync {
            Fsync::Always => true,
            Fsync::Interval(interval) => since.elapsed() >= interval || !self.has_begun,
        };
        if !is_due && !self.sync_asked && self.stop_at.is_none() && self.unsynced_bytes < SYNC_BYTES {
            return;
        }
        self.sync_asked = false;
        let end = newest.end;
        let mut files: Vec<Arc<File>> = Vec::new();
        for (file, _) in &self.unsynced {
            if files.last().is_none_or(|last| !Arc::ptr_eq(last, file)) {
                files.push(file.clone());
            }
        }
        let folder = self.folder_is_dirty.then(|| self.folder.path.clone());
        if self.ends.orders.send(SyncOrder { files, folder }).is_err() {
            return self.fail("sync", &io::Error::other("the thread that syncs has ended"));
        }
        self.folder_is_dirty = false;
        self.dirty_since = None;
        self.ordered = Some(end);
    }

    fn synced(&mut self, result: io::Result<()>) {
        let ordered = self.ordered.take();
        if let Err(error) = result {
            self.dirty_since.get_or_insert_with(Instant::now);
            self.folder_is_dirty = true;
            (self.sync_failed, self.rewrites) = (true, true);
            return self.fail("sync", &error);
        }
        self.sync_failed = false;
        let Some(end) = ordered else { return };
        let mut last = None;
        while self.unsynced.front().is_some_and(|(_, piece)| piece.end <= end) {
            let (_, piece) = self.unsynced.pop_front().expect("it was looked at");
            self.unsynced_bytes -= piece.bytes.len();
            last = Some(self.behind(&piece));
            let mut buffer = piece.bytes;
            buffer.clear();
            // Whoever has enough of them gets no more.
            let _ = self.ends.spare.try_send(buffer);
        }
        self.recovered();
        self.progress.synced.store(end, Release);
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if let Some(shown) = last.filter(|_| is_first || matches!(self.fsync, Fsync::Always)) {
            // With an interval, what was written in the meantime has waited for the first sync too.
            let newest = self.unsynced.back().filter(|_| matches!(self.fsync, Fsync::Interval(_)));
            let (end, shown) = newest.map_or((end, shown), |(_, newest)| (newest.end, self.behind(newest)));
            self.settle(end, shown);
        }
        (self.wake)();
    }

    /// After a failed sync; whether that is done.
    fn write_again(&mut self) -> bool {
        if !self.rewrites {
            return true;
        }
        for (file, piece) in &self.unsynced {
            if let Err(error) = file.write_all_at(&piece.bytes, u64::from(piece.offset)) {
                self.fail("write", &error);
                return false;
            }
        }
        self.rewrites = false;
        self.sync_asked = true;
        true
    }

    fn fail(&mut self, what: &str, error: &io::Error) {
        self.retry_at = Some(Instant::now() + RETRY_AFTER);
        let text: Arc<str> = format!("cannot {what} the journal in {}: {error}", self.folder.path.display()).into();
        let before = self.progress.set_failure(Some(text.clone()));
        if before.as_ref() != Some(&text) {
            tracing::error!("{text}; no durable message is taken until that is mended. What was taken is not lost: it is tried again");
            (self.wake)();
        }
    }

    fn recovered(&mut self) {
        if self.sync_failed || self.stalled.is_some() || !self.progress.is_failing() {
            return;
        }
        self.progress.set_failure(None);
        tracing::warn!(folder = %self.folder.path.display(), "the journal can be written again");
        (self.wake)();
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    /// The kernel marks what it could not sync as clean, so a second sync succeeds and the bytes are not there. Here they are taken away.
    #[test]
    fn what_a_failed_sync_has_dropped_is_written_again() {
        let path = std::env::temp_dir().join(format!("campanile-journal-writer-{}", std::process::id()));
        let folder = Folder::open(&path).unwrap();
        let progress = Arc::new(Progress::default());
        let ((jobs, writer_jobs), (spare, _spare)) = (bounded(8), bounded(8));
        let ((writer_orders, orders), (results, writer_results)) = (bounded(1), bounded(1));
        let (ring, bell) = bounded(100);
        let ends = Ends { jobs: writer_jobs, spare, orders: writer_orders, results: writer_results };
        let wake: Wake = Arc::new(move || ring.send(()).unwrap());
        let writer = Writer::new(folder, 1, Fsync::Always, ends, progress.clone(), wake);
        let thread = std::thread::spawn(move || writer.run());
        let piece = |offset: u32, byte: u8| {
            let end = Ticket::from(offset) + 100;
            Job::Write(Piece { segment: 1, offset, bytes: vec![byte; 100], epoch_last: 0, end })
        };
        jobs.send(piece(0, 1)).unwrap();
        let order = orders.recv_timeout(PATIENCE).unwrap();
        assert_eq!((order.files.len(), order.folder.is_some(), progress.synced()), (1, true, 0));
        jobs.send(piece(100, 2)).unwrap();
        while progress.written() < 200 {
            std::thread::yield_now();
        }
        let file = OpenOptions::new().write(true).open(segment_path(&path, 1)).unwrap();
        file.set_len(0).unwrap();
        results.send(Err(io::Error::from_raw_os_error(5))).unwrap();
        bell.recv_timeout(PATIENCE).unwrap();
        assert!(progress.failure().is_some_and(|failure| failure.contains("cannot sync") && failure.contains("Input/output error")));
        let order = orders.recv_timeout(PATIENCE).unwrap();
        assert!(order.folder.is_some() && progress.is_failing());
        assert_eq!(std::fs::read(segment_path(&path, 1)).unwrap(), [[1; 100], [2; 100]].concat());
        results.send(Ok(())).unwrap();
        while progress.settled() < 200 {
            bell.recv_timeout(PATIENCE).unwrap();
        }
        assert!(!progress.is_failing() && progress.synced() == 200);
        jobs.send(Job::Stop(Instant::now() + PATIENCE)).unwrap();
        thread.join().unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
}
