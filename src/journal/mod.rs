//! Durable channels of the embedded bus: numbers without holes, messages kept by count and age, idempotency keys, read marks. In memory, or with a
//! `data_dir` in files of this process alone, so that all of it outlives a restart and a crash.
//!
//! One thread owns the [`Journal`] (the bus) and never waits for the disk: what it appends is numbered and indexed at once and goes to a thread that
//! writes ([`disk::writer`]); what is not in memory is read by another ([`disk::reader`]), and the answer is fetched with [`Journal::next_page`].
//! Whoever owns it is woken when something has come of it, and calls [`Journal::flush`] at the end of its turn and [`Journal::turn`] at each
//! wake, once a second at least.
//!
//! Invariant: no two messages are ever shown under one number of one epoch, whatever crashes, if nothing is shown (to a publisher or a subscriber)
//! before [`Journal::settled`] has reached its ticket. With [`Fsync::Interval`] that is when the kernel has it, some twenty microseconds later, and after a
//! crash of the host all channels have a new epoch; with [`Fsync::Always`] when the disk has it, and epochs outlive that too.
//!
//! The files are our own. fjall and redb keep a tree for keys that are looked for and commit on the calling thread, which then waits for the disk (fjall
//! also when it compacts, and it asks for a newer Rust than we do); what is here is only appended, found by an index in memory that the bus needs
//! anyway, and dropped from the front, and which numbers may have been shown that a crash took is a question that no store answers.

mod append;
mod channels;
pub mod disk;
mod entries;
mod keys;
mod marks;
pub mod page;
mod reading;
pub mod record;
mod rewrite;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::channels::Channels;
use self::disk::Disk;
use self::disk::folder::Folder;
use self::disk::recover::{Found, FoundChannel, recover};
use self::disk::segments::Segments;
use self::entries::{ChannelId, Entries};
use self::keys::{Key, Keys};
use self::marks::{Mark, Marks};
use self::page::{Page, ReadError, ReadId};
use self::record::{Header, Numbers, Record};
use self::rewrite::Rewrite;
use crate::limits::journal::{SEGMENT_BYTES, SWEEP_CHANNELS, SWEEP_EVERY_MS, SWEEP_MESSAGES};

pub use self::append::{Append, AppendError, Appended};
pub use self::disk::folder::{OpenError, boot};
pub use self::disk::segments::Ticket;
pub use self::reading::{Range, Reading};

/// Wakes the thread that owns the journal; called by the journal's threads.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// When what is written is synced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before it is settled; what comes meanwhile is synced together.
    Always,
    /// So long after it was written, at the latest.
    Interval(Duration),
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// None: in memory alone.
    pub data_dir: Option<PathBuf>,
    pub fsync: Fsync,
    /// What is known of kept messages, 152 bytes each, and payloads. With files, payloads leave memory first, oldest first, then messages go;
    /// without, messages go. What is not written yet stays, whatever this says (`UNSYNCED_BYTES_MAX`).
    pub memory_bytes: usize,
    /// Of files, as far as they hold what is kept; beyond it the oldest message goes. Files may take twice that and two segments.
    pub disk_bytes: u64,
    pub segment_bytes: usize,
    /// Should be more than are subscribed to at once: one that is quiet may go for another.
    pub channels_max: usize,
    /// How long a channel without messages keeps its numbers after it was last asked for.
    pub channel_age: Duration,
    pub keys_bytes: usize,
    pub key_window: Duration,
    pub marks_bytes: usize,
    pub marks_age: Duration,
    /// As [`boot`] says it.
    pub boot: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Settings {
            data_dir: None,
            fsync: Fsync::Interval(Duration::from_secs(1)),
            memory_bytes: 256 << 20,
            disk_bytes: 8 << 30,
            segment_bytes: SEGMENT_BYTES,
            channels_max: 400_000,
            channel_age: 7 * DAY,
            keys_bytes: 64 << 20,
            key_window: Duration::from_secs(300),
            marks_bytes: 64 << 20,
            marks_age: 90 * DAY,
            boot: boot(),
        }
    }
}

/// Where a channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub epoch: u64,
    /// 0: it has had no message.
    pub last_seq: u64,
    /// `last_seq + 1`: nothing is kept.
    pub first_kept_seq: u64,
}

/// What a user's mark is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    pub seq: u64,
    /// False: it was so far already.
    pub has_moved: bool,
    pub ticket: Ticket,
}

/// For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub channels: usize,
    pub messages: usize,
    pub memory_bytes: usize,
    pub keys: usize,
    pub keys_bytes: usize,
    /// Keys that went before their window was over.
    pub keys_forgotten: u64,
    pub marks_bytes: usize,
    pub disk_bytes: u64,
    pub disk_bytes_wanted: u64,
    /// Not synced yet.
    pub waiting_bytes: u64,
}

#[derive(Debug)]
pub struct Journal {
    settings: Settings,
    now_ms: u64,
    /// The largest that was ever given.
    epoch_last: u64,
    channels: Channels,
    entries: Entries,
    keys: Keys,
    marks: Marks,
    disk: Option<Disk>,
    /// Answered reads that nobody has fetched, and what they count for in `reads`.
    pages: VecDeque<(ReadId, Result<Page, ReadError>, usize)>,
    reads: reading::Account,
    rewrite: Rewrite,
    /// The next channel to be looked at for what is too old; 0: a new round begins at `sweep_at_ms`.
    sweep: ChannelId,
    sweep_at_ms: u64,
}

impl Journal {
    /// With a `data_dir`, reads what is there: three seconds for four million messages, 700 MB (with two cores busy otherwise).
    pub fn open(settings: Settings, now_ms: u64, wake: &Wake) -> Result<Journal, OpenError> {
        let mut journal = Journal {
            now_ms,
            epoch_last: 0,
            channels: Channels::default(),
            entries: Entries::default(),
            keys: Keys::new(settings.keys_bytes, millis(settings.key_window)),
            marks: Marks::new(settings.marks_bytes, millis(settings.marks_age)),
            disk: None,
            pages: VecDeque::new(),
            reads: reading::Account::default(),
            rewrite: Rewrite::Idle,
            sweep: 0,
            sweep_at_ms: now_ms + SWEEP_EVERY_MS,
            settings,
        };
        let Some(path) = journal.settings.data_dir.clone() else { return Ok(journal) };
        let folder = Folder::open(&path)?;
        let found = recover(&folder, journal.settings.boot, now_ms)?;
        let header = Header {
            segment: found.segment,
            salt: found.salt,
            boot: journal.settings.boot,
            is_interval: matches!(journal.settings.fsync, Fsync::Interval(_)),
            epoch_last: found.epoch_last,
            epoch_floor: found.epoch_floor,
        };
        let (segments, renewed) = journal.take_over(found);
        let (segment_bytes, fsync) = (journal.settings.segment_bytes, journal.settings.fsync);
        journal.disk = Some(Disk::start(folder, header, segment_bytes, segments, fsync, wake)?);
        renewed.into_iter().for_each(|id| journal.write_numbers(id));
        for id in 0..journal.channels.end() {
            journal.trim_old(id, usize::MAX);
        }
        journal.keep_bounds();
        journal.flush();
        Ok(journal)
    }

    /// Returns the channels whose numbers must be written as they are now.
    fn take_over(&mut self, found: Found) -> (Segments, Vec<ChannelId>) {
        let mut segments = Segments::default();
        found.segments.iter().for_each(|segment| segments.insert_old(segment.number, segment.bytes, segment.is_damaged));
        self.epoch_last = found.epoch_last;
        let (mut renewed, mut entries) = (Vec::new(), Vec::new());
        for FoundChannel { name, numbers, home, entries: kept, is_renewed, .. } in found.channels {
            let id = self.channels.insert(&name, numbers, home, self.now_ms);
            segments.add(home, channel_weight(&name));
            renewed.extend(is_renewed.then_some(id));
            entries.extend(kept.into_iter().map(|entry| (id, entry)));
        }
        // In the order in which they came, as far as the clock was right.
        entries.sort_by_key(|(_, entry)| entry.timestamp_ms);
        for (id, entry) in entries {
            segments.add(entry.place.segment, u64::from(entry.place.bytes));
            let at = self.entries.push(id, entry.seq, entry.timestamp_ms, entry.place, entry.payload_bytes, None);
            self.channels.rouse(id);
            self.channels[id].entries.push_back(at);
        }
        for id in 0..self.channels.end() {
            if self.channels.get(id).is_some() {
                let entries = &self.entries;
                self.channels[id].entries.make_contiguous().sort_by_key(|&at| entries.get(at).seq);
            }
        }
        let mut keys = found.keys;
        keys.sort_by_key(|key| key.at_ms);
        for key in keys {
            let Some(id) = self.channels.find(&key.channel) else { continue };
            let channel = self.channels[id].name.clone();
            let key = Key { channel, key: key.key.into(), born: key.born, seq: key.seq, at_ms: key.at_ms, home: key.segment };
            segments.add(key.home, key.weight());
            self.keys.push(key);
        }
        let mut marks = found.marks;
        marks.sort_by_key(|mark| mark.at_ms);
        for mark in marks {
            let Some(id) = self.channels.find(&mark.channel) else { continue };
            if self.marks.find(&mark.user, &mark.channel).is_some_and(|other| (other.epoch, other.seq) >= (mark.epoch, mark.seq)) {
                continue;
            }
            let channel = self.channels[id].name.clone();
            let kept = Mark { channel, epoch: mark.epoch, seq: mark.seq, at_ms: mark.at_ms, home: mark.segment };
            segments.add(kept.home, kept.weight(&mark.user));
            for gone in self.marks.set(&mark.user, kept) {
                segments.remove(gone.home, gone.weight(&mark.user), 0);
            }
        }
        segments.note_old_empty();
        (segments, renewed)
    }

    /// Epoch and last number of a channel, if it has any.
    pub fn peek(&self, channel: &str) -> Option<(u64, u64)> {
        let Numbers { epoch, last_seq, .. } = self.channels[self.channels.find(channel)?].numbers;
        Some((epoch, last_seq))
    }

    /// Where a channel stands; from now on it has an epoch.
    pub fn state(&mut self, channel: &str) -> Result<State, AppendError> {
        let id = match self.channels.find(channel) {
            Some(id) => id,
            None => {
                self.admit(channel.len())?;
                let id = self.create(channel)?;
                self.write_numbers(id);
                id
            }
        };
        self.channels.touch(id, self.now_ms);
        Ok(self.state_of(id))
    }

    /// The same of one that is known; it gets no epoch by being looked at.
    pub fn look(&self, channel: &str) -> Option<State> {
        self.channels.find(channel).map(|id| self.state_of(id))
    }

    fn state_of(&self, id: ChannelId) -> State {
        let Numbers { epoch, last_seq, .. } = self.channels[id].numbers;
        let first_kept = self.channels[id].entries.front().map(|&at| self.entries.get(at).seq);
        State { epoch, last_seq, first_kept_seq: first_kept.unwrap_or(last_seq + 1) }
    }

    /// The user has read the channel up to this number, or up to the last if that is less. None: nobody knows the channel.
    pub fn mark_read(&mut self, user: &str, channel: &str, seq: u64) -> Result<Option<Marked>, AppendError> {
        let Some(id) = self.channels.find(channel) else { return Ok(None) };
        let Numbers { epoch, born, last_seq, .. } = self.channels[id].numbers;
        let seq = seq.min(last_seq);
        let before = self.marks.find(user, channel).filter(|mark| mark.epoch >= born).map_or(0, |mark| mark.seq);
        if seq <= before {
            return Ok(Some(Marked { seq: before, has_moved: false, ticket: self.head() }));
        }
        self.admit(user.len() + channel.len())?;
        let home = self.write(&Record::Mark { user, channel, epoch, seq, at_ms: self.now_ms }).segment;
        let mark = Mark { channel: self.channels[id].name.clone(), epoch, seq, at_ms: self.now_ms, home };
        self.add_wanted(home, mark.weight(user));
        for gone in self.marks.set(user, mark) {
            self.remove_wanted(gone.home, gone.weight(user), self.head());
        }
        self.keep_bounds();
        Ok(Some(Marked { seq, has_moved: true, ticket: self.head() }))
    }

    /// Up to where the user has read each; 0: nothing.
    pub fn marks<'c>(&self, user: &str, channels: impl IntoIterator<Item = &'c str>) -> Vec<u64> {
        let mark = |channel: &str| {
            let born = self.channels[self.channels.find(channel)?].numbers.born;
            self.marks.find(user, channel).filter(|mark| mark.epoch >= born).map(|mark| mark.seq)
        };
        channels.into_iter().map(|channel| mark(channel).unwrap_or(0)).collect()
    }

    /// Hands to the writer what was appended since the last time.
    pub fn flush(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.flush();
        }
    }

    /// Up to which ticket may be shown.
    pub fn settled(&self) -> Ticket {
        self.disk.as_ref().map_or(Ticket::MAX, |disk| disk.progress().settled())
    }

    /// Up to which ticket the disk has it.
    pub fn synced(&self) -> Ticket {
        self.disk.as_ref().map_or(Ticket::MAX, |disk| disk.progress().synced())
    }

    /// Why nothing is taken at the moment; None: the disk takes what comes.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.disk.as_ref().and_then(|disk| disk.progress().failure())
    }

    /// What is to be done now and then, a piece of it: forgets what is too old, rewrites files. True: there is more at once.
    pub fn turn(&mut self, now_ms: u64) -> bool {
        self.now_ms = now_ms;
        self.flush();
        self.take_replies();
        self.forget_keys_and_marks();
        self.sweep();
        self.keep_bounds();
        self.rewrite();
        self.flush();
        self.sweep != 0 || self.now_ms >= self.sweep_at_ms || self.disk.as_ref().is_some_and(|disk| self.rewrite.is_busy(disk))
    }

    /// Forgets what is too old, of some channels, and channels that are.
    fn sweep(&mut self) {
        if self.sweep == 0 && self.now_ms < self.sweep_at_ms {
            return;
        }
        let end = self.channels.end();
        let until = end.min(self.sweep + SWEEP_CHANNELS);
        let mut left = SWEEP_MESSAGES;
        while self.sweep < until {
            left -= self.trim_old(self.sweep, left);
            if left == 0 {
                return;
            }
            self.sweep += 1;
        }
        if until < end {
            return;
        }
        (self.sweep, self.sweep_at_ms) = (0, self.now_ms + SWEEP_EVERY_MS);
        self.rewrite.look();
        let age_ms = millis(self.settings.channel_age);
        for _ in 0..SWEEP_CHANNELS {
            let quietest = self.channels.quietest().filter(|(_, used_ms)| self.now_ms.saturating_sub(*used_ms) > age_ms);
            let Some((id, _)) = quietest else { return };
            self.forget(id);
        }
    }

    pub fn counts(&self) -> Counts {
        let disk = self.disk.as_ref();
        Counts {
            channels: self.channels.len(),
            messages: self.entries.len(),
            memory_bytes: self.entries.bytes(),
            keys: self.keys.len(),
            keys_bytes: self.keys.bytes(),
            keys_forgotten: self.keys.forgotten_early(),
            marks_bytes: self.marks.bytes(),
            disk_bytes: disk.map_or(0, |disk| disk.segments.bytes()),
            disk_bytes_wanted: disk.map_or(0, |disk| disk.segments.live()),
            waiting_bytes: disk.map_or(0, Disk::waiting_bytes),
        }
    }

    /// Puts everything on disk, if that takes no longer than `patience`, and says so; true: it is there.
    pub fn close(self, patience: Duration) -> bool {
        self.disk.is_none_or(|disk| disk.close(patience, self.epoch_last))
    }
}

/// What a channel's numbers hold of the segment in which they are said.
fn channel_weight(name: &str) -> u64 {
    (name.len() + 48) as u64
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
