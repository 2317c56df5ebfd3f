//! What is still wanted of a file that is mostly not, written anew behind everything else, so that the file can go.
//!
//! One file at a time, a piece of it each turn, and only while the disk is at ease. Invariant: what is being rewritten is read from where it was until it
//! is synced where it will be, and its file stays as long.

use std::io;

use super::Journal;
use super::disk::Disk;
use super::disk::reader::Order;
use super::disk::segments::{Place, Ticket};
use super::entries::position;
use super::record::{Entry, HEADER_BYTES, Record, Scanned, Scanner};
use crate::limits::journal::REWRITE_BYTES_PER_TURN;

#[derive(Debug, Default)]
pub enum Rewrite {
    /// Until something may have become hollow.
    #[default]
    Idle,
    Looking,
    Loading,
    Writing {
        segment: u32,
        file: Vec<u8>,
        at: usize,
    },
    /// All of it is written; the file goes when that is synced.
    Syncing {
        segment: u32,
        until: Ticket,
    },
}

impl Rewrite {
    /// Whether there is something to be done at once.
    pub fn is_busy(&self, disk: &Disk) -> bool {
        match self {
            Rewrite::Idle | Rewrite::Loading => false,
            Rewrite::Looking | Rewrite::Writing { .. } => disk.is_at_ease(),
            Rewrite::Syncing { until, .. } => *until <= disk.progress().synced(),
        }
    }

    pub fn look(&mut self) {
        if matches!(self, Rewrite::Idle) {
            *self = Rewrite::Looking;
        }
    }

    /// The file that must not go yet.
    fn holds(&self) -> Option<u32> {
        match self {
            Rewrite::Idle | Rewrite::Looking | Rewrite::Loading => None,
            Rewrite::Writing { segment, .. } | Rewrite::Syncing { segment, .. } => Some(*segment),
        }
    }
}

impl Journal {
    /// A piece of the work.
    pub(super) fn rewrite(&mut self) {
        let Some(disk) = &mut self.disk else {
            self.rewrite = Rewrite::Idle;
            return;
        };
        let synced = disk.progress().synced();
        self.rewrite = match std::mem::take(&mut self.rewrite) {
            Rewrite::Looking if !disk.is_at_ease() => Rewrite::Looking,
            Rewrite::Looking => match disk.segments.hollow(synced, self.settings.segment_bytes as u64) {
                Some(segment) => {
                    disk.order(Order::Load(segment));
                    Rewrite::Loading
                }
                None => Rewrite::Idle,
            },
            Rewrite::Writing { segment, file, at } => self.write_anew(segment, file, at),
            Rewrite::Syncing { until, .. } if until <= synced => {
                self.entries.forget_moved();
                Rewrite::Looking
            }
            other @ (Rewrite::Idle | Rewrite::Loading | Rewrite::Syncing { .. }) => other,
        };
        let held = self.rewrite.holds();
        if let Some(disk) = &mut self.disk {
            disk.remove_free(synced, held);
        }
    }

    pub(super) fn rewrite_loaded(&mut self, segment: u32, file: io::Result<Vec<u8>>) {
        self.rewrite = match file {
            Ok(file) => Rewrite::Writing { segment, file, at: HEADER_BYTES },
            Err(error) => {
                tracing::error!(segment, "cannot read a file of the journal that is to be rewritten: {error}");
                self.note_stuck(segment);
                Rewrite::Idle
            }
        };
    }

    fn note_stuck(&mut self, segment: u32) {
        if let Some(disk) = &mut self.disk {
            disk.segments.note_stuck(segment);
        }
    }

    fn write_anew(&mut self, segment: u32, file: Vec<u8>, begin: usize) -> Rewrite {
        let Some(disk) = self.disk.as_ref() else { return Rewrite::Idle };
        if !disk.is_at_ease() {
            return Rewrite::Writing { segment, file, at: begin };
        }
        let mut scanner = Scanner::new(&file, disk.salt(), begin);
        while let Some(scanned) = scanner.next() {
            match scanned {
                Scanned::Record { at, bytes, record } => {
                    self.write_record_anew(Place { segment, offset: at as u32, bytes: bytes as u32 }, &record);
                }
                Scanned::Damage { from, to } => tracing::warn!(segment, from, to, "a damaged place in the journal is left behind"),
            }
            if scanner.at() - begin >= REWRITE_BYTES_PER_TURN && scanner.at() < file.len() {
                let at = scanner.at();
                return Rewrite::Writing { segment, file, at };
            }
        }
        if let Some(disk) = &mut self.disk {
            if disk.segments.live_of(segment) > 0 {
                // Damaged since the start, or said twice; it goes when that is not wanted any more.
                disk.segments.note_stuck(segment);
            }
            disk.ask_sync();
        }
        Rewrite::Syncing { segment, until: self.head() }
    }

    fn write_record_anew(&mut self, place: Place, record: &Record<'_>) {
        match *record {
            Record::Entry(entry) => {
                self.write_entry_anew(place, entry);
                if let Some(key) = entry.key {
                    self.write_key_anew(place.segment, entry.channel, key);
                }
            }
            Record::Channel { channel, .. } => self.write_numbers_anew(place.segment, channel),
            Record::Key { channel, key, .. } => self.write_key_anew(place.segment, channel, key),
            Record::Mark { user, channel, .. } => self.write_mark_anew(place.segment, user, channel),
            Record::Closed => {}
        }
    }

    fn write_entry_anew(&mut self, place: Place, entry: Entry<'_>) {
        let Some(id) = self.channels.find(entry.channel) else { return };
        let channel = &self.channels[id];
        let at = channel.entries.get(position(&self.entries, &channel.entries, entry.seq)).copied();
        match at.filter(|&at| self.entries.get(at).place == place) {
            None => self.write_numbers_anew(place.segment, entry.channel),
            Some(at) => {
                let numbers = channel.numbers;
                let moved = self.write(&Record::Entry(Entry { key: None, numbers, ..entry }));
                self.entries.set_place(at, moved);
                self.add_wanted(moved.segment, u64::from(moved.bytes));
                self.remove_wanted(place.segment, u64::from(place.bytes), self.head());
                self.set_home(id, moved.segment);
            }
        }
    }

    fn write_numbers_anew(&mut self, segment: u32, channel: &str) {
        if let Some(id) = self.channels.find(channel).filter(|&id| self.channels[id].home == segment) {
            self.write_numbers(id);
        }
    }

    fn write_key_anew(&mut self, segment: u32, channel: &str, key: &str) {
        let Some(found) = self.keys.find(channel, key).filter(|found| found.home == segment) else { return };
        let (weight, record) = (found.weight(), Record::Key { channel, key, born: found.born, seq: found.seq, at_ms: found.at_ms });
        let home = self.write(&record).segment;
        if let Some(found) = self.keys.find_mut(channel, key) {
            found.home = home;
        }
        self.add_wanted(home, weight);
        self.remove_wanted(segment, weight, self.head());
    }

    fn write_mark_anew(&mut self, segment: u32, user: &str, channel: &str) {
        let Some(mark) = self.marks.find(user, channel).filter(|mark| mark.home == segment) else { return };
        let (weight, record) = (mark.weight(user), Record::Mark { user, channel, epoch: mark.epoch, seq: mark.seq, at_ms: mark.at_ms });
        let home = self.write(&record).segment;
        self.marks.set_home(user, channel, home);
        self.add_wanted(home, weight);
        self.remove_wanted(segment, weight, self.head());
    }
}
