//! The files of the journal as the thread sees them that owns it: what it appends gets its place at once and goes to the writer in large pieces; what
//! it reads comes back from the reader. Neither ever makes it wait.
//!
//! Invariant: a place is given once, and what has one is written there sooner or later. So nothing is taken back when the disk is full: the queue
//! in between is bounded by [`UNSYNCED_BYTES_MAX`], and beyond it, or while the writer fails, no more is taken ([`Disk::admits`]).

pub mod folder;
pub mod reader;
pub mod recover;
pub mod segments;
pub mod writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use self::folder::{Folder, OpenError, cannot};
use self::reader::{Order, Reply};
use self::segments::{Place, Segments, Ticket};
use self::writer::{Ends, Job, Piece, Progress, Writer};
use super::record::{HEADER_BYTES, Header, Record};
use super::{Fsync, Wake};
use crate::limits::journal::{BUFFER_BYTES, HOLLOW_DIVISOR, JOBS_MAX, SPARE_BUFFERS_MAX, UNSYNCED_BYTES_MAX};

pub struct Disk {
    /// Of the segment that is written to; the next one's is made of it.
    header: Header,
    segment_bytes: u64,
    pub segments: Segments,
    /// Records that the writer has not been given yet, and where in the segment they go.
    open: Vec<u8>,
    open_offset: usize,
    /// Behind the last record.
    head: Ticket,
    /// The largest that was given by then.
    epoch_last: u64,
    /// For the writer when it has room.
    outbox: VecDeque<Piece>,
    jobs: Sender<Job>,
    spare: Receiver<Vec<u8>>,
    progress: Arc<Progress>,
    orders: Sender<Order>,
    replies: Receiver<Reply>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Disk").field("header", &self.header).field("head", &self.head).finish_non_exhaustive()
    }
}

/// What a thread does.
type Body = Box<dyn FnOnce() + Send>;

impl Disk {
    /// Begins the segment that `header` is for; `segments` has those before.
    pub fn start(
        folder: Folder,
        header: Header,
        segment_bytes: usize,
        segments: Segments,
        fsync: Fsync,
        wake: &Wake,
    ) -> Result<Disk, OpenError> {
        let progress = Arc::new(Progress::default());
        let (jobs, writer_jobs) = bounded(JOBS_MAX);
        let (writer_spare, spare) = bounded(SPARE_BUFFERS_MAX);
        let (writer_orders, sync_orders) = bounded(1);
        let (sync_results, writer_results) = bounded(1);
        let (orders, reader_orders) = unbounded();
        let (reader_replies, replies) = unbounded();
        let path = folder.path.clone();
        let ends = Ends { jobs: writer_jobs, spare: writer_spare, orders: writer_orders, results: writer_results };
        let writer = Writer::new(folder, header.boot, fsync, ends, progress.clone(), wake.clone());
        let (reader_path, salt, reader_wake) = (path.clone(), header.salt, wake.clone());
        let bodies: [(&str, Body); 3] = [
            ("journal-write", Box::new(move || writer.run())),
            ("journal-sync", Box::new(move || writer::sync(&sync_orders, &sync_results))),
            ("journal-read", Box::new(move || reader::read(&reader_path, salt, &reader_orders, &reader_replies, &reader_wake))),
        ];
        let start = |(name, body): (&str, Body)| std::thread::Builder::new().name(name.to_owned()).spawn(body);
        let threads = bodies.into_iter().map(start).collect::<Result<_, _>>().map_err(cannot("cannot start a thread for", &path))?;
        let mut disk = Disk {
            header,
            segment_bytes: segment_bytes as u64,
            segments,
            open: Vec::new(),
            open_offset: 0,
            head: 0,
            epoch_last: header.epoch_last,
            outbox: VecDeque::new(),
            jobs,
            spare,
            progress,
            orders,
            replies,
            threads,
        };
        disk.begin_segment();
        Ok(disk)
    }

    fn begin_segment(&mut self) {
        self.segments.begin(self.header.segment, self.head);
        self.header.encode(&mut self.open);
        self.open_offset = 0;
        self.grow(HEADER_BYTES);
    }

    fn grow(&mut self, bytes: usize) {
        self.head += bytes as u64;
        self.segments.grow(self.header.segment, bytes as u64);
    }

    /// Puts a record behind the last one. `epoch_last`: none larger has been given.
    pub fn write(&mut self, record: &Record<'_>, epoch_last: u64) -> Place {
        self.epoch_last = epoch_last;
        let begin = self.open.len();
        let bytes = record.encode(self.header.salt, &mut self.open);
        if (self.open_offset + self.open.len()) as u64 > self.segment_bytes && self.open_offset + begin > HEADER_BYTES {
            let record = self.open.split_off(begin);
            self.seal_buffer();
            self.segments.seal(self.header.segment, self.head);
            self.header = Header { segment: self.header.segment + 1, epoch_last, ..self.header };
            self.begin_segment();
            self.open.extend_from_slice(&record);
        }
        self.grow(bytes);
        let offset = self.open_offset + self.open.len() - bytes;
        if self.open.len() >= BUFFER_BYTES {
            self.seal_buffer();
            self.send();
        }
        Place { segment: self.header.segment, offset: offset as u32, bytes: bytes as u32 }
    }

    fn seal_buffer(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let bytes = std::mem::replace(&mut self.open, self.spare.try_recv().unwrap_or_default());
        let (segment, offset) = (self.header.segment, self.open_offset as u32);
        let piece = Piece { segment, offset, bytes, epoch_last: self.epoch_last, end: self.head };
        self.open_offset += piece.bytes.len();
        self.outbox.push_back(piece);
    }

    fn send(&mut self) {
        while let Some(piece) = self.outbox.pop_front() {
            if let Err(TrySendError::Full(Job::Write(piece)) | TrySendError::Disconnected(Job::Write(piece))) =
                self.jobs.try_send(Job::Write(piece))
            {
                self.outbox.push_front(piece);
                return;
            }
        }
    }

    /// Hands the writer what has come since the last time.
    pub fn flush(&mut self) {
        self.send();
        // While the writer has no room, what comes is better sent in one piece later.
        if self.outbox.is_empty() {
            self.seal_buffer();
            self.send();
        }
    }

    /// Whether there is room for so many bytes more. A single larger record is taken when there is nothing else. While files take far more than is
    /// wanted of them, half of the room is left to rewriting them: a disk that is busy with what comes must not fill up with what has gone.
    pub fn admits(&self, bytes: usize) -> bool {
        let segments = &self.segments;
        let is_bloated = segments.bytes() > (HOLLOW_DIVISOR + 1) * segments.live() + 4 * self.segment_bytes;
        let bytes_max = if is_bloated { UNSYNCED_BYTES_MAX / 2 } else { UNSYNCED_BYTES_MAX };
        let waiting = self.waiting_bytes();
        waiting == 0 || waiting + bytes as u64 <= bytes_max as u64
    }

    /// Whether so little waits that work may be added which nobody waits for.
    pub fn is_at_ease(&self) -> bool {
        !self.progress.is_failing() && self.waiting_bytes() <= UNSYNCED_BYTES_MAX as u64 * 3 / 4
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Behind the last record.
    pub fn head(&self) -> Ticket {
        self.head
    }

    /// The same as segment and offset.
    #[cfg(test)]
    pub fn position(&self) -> (u32, u32) {
        (self.header.segment, (self.open_offset + self.open.len()) as u32)
    }

    pub fn salt(&self) -> u32 {
        self.header.salt
    }

    /// Bytes in the queue, and in memory until they are synced.
    pub fn waiting_bytes(&self) -> u64 {
        self.head - self.progress.synced()
    }

    /// Asks for a sync before the interval is over, where the writer has room for that.
    pub fn ask_sync(&mut self) {
        self.flush();
        let _ = self.jobs.try_send(Job::Sync);
    }

    pub fn order(&self, order: Order) {
        // Without its reader a journal only ends.
        let _ = self.orders.send(order);
    }

    pub fn reply(&self) -> Option<Reply> {
        self.replies.try_recv().ok()
    }

    /// Whether it can be read from its file.
    pub fn is_written(&self, place: Place) -> bool {
        self.segments.end_of(place) <= self.progress.written()
    }

    /// Removes files in which nothing is wanted any more, but for one that is `held`.
    pub fn remove_free(&mut self, synced: Ticket, held: Option<u32>) {
        while let Some(segment) = self.segments.take_free(synced, held) {
            self.order(Order::Remove(segment));
        }
    }

    /// Writes and syncs the rest and ends the threads; whether all of it is on disk.
    pub fn close(mut self, patience: Duration, epoch_last: u64) -> bool {
        let deadline = Instant::now() + patience;
        self.write(&Record::Closed, epoch_last);
        self.seal_buffer();
        let pieces = self.outbox.drain(..).map(Job::Write).chain([Job::Stop(deadline)]);
        for job in pieces {
            if self.jobs.send_deadline(job, deadline).is_err() {
                break;
            }
        }
        let Disk { head, jobs, orders, replies, threads, progress, .. } = self;
        drop((jobs, orders, replies));
        for thread in threads {
            // A disk that does not answer must not keep the process.
            while !thread.is_finished() && Instant::now() < deadline + Duration::from_millis(100) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        progress.synced() == head
    }
}
