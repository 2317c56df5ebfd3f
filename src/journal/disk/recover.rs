//! What an earlier process left in the folder, read from the first record to the last.
//!
//! A file's end that cannot be read is cut off: a write was under way. Damage before that costs the records in it and no others. Invariant: two messages
//! are never shown under one number of one epoch. So a channel gets a new epoch wherever numbers may have been shown that are not here:
//!
//! * all channels, if the journal ends before the place up to which numbers were shown, or if the host crashed and numbers were shown before they
//!   were synced ([`Header::is_interval`]);
//! * those of which a record may have lain in the damage: no later one says what the last number was, or one is missing among the numbers kept.
//!
//! Numbers go on behind the last one known, and what is kept keeps its numbers, now in the new epoch.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use super::folder::{Folder, OpenError, cannot};
use super::segments::Place;
use crate::journal::record::{Entry, HEADER_BYTES, Header, HeaderFault, Numbers, Record, Scanned, Scanner, Shown};
use crate::limits::journal::EPOCHS_SKIPPED;

#[derive(Debug)]
pub struct Found {
    pub channels: Vec<FoundChannel>,
    pub keys: Vec<FoundKey>,
    pub marks: Vec<FoundMark>,
    pub segments: Vec<FoundSegment>,
    /// Of the segment that comes next.
    pub segment: u32,
    pub salt: u32,
    pub epoch_last: u64,
    pub epoch_floor: u64,
}

#[derive(Debug, Default)]
pub struct FoundChannel {
    pub name: String,
    pub numbers: Numbers,
    /// Where it is said last.
    pub home: u32,
    /// In the order of their numbers, each once.
    pub entries: Vec<FoundEntry>,
    /// Its numbers are said nowhere yet as they are now.
    pub is_renewed: bool,
    /// Damaged places before its last record.
    damages: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct FoundEntry {
    pub seq: u64,
    pub timestamp_ms: u64,
    pub place: Place,
    pub payload_bytes: u32,
}

#[derive(Debug)]
pub struct FoundKey {
    pub channel: String,
    pub key: String,
    pub born: u64,
    pub seq: u64,
    pub at_ms: u64,
    pub segment: u32,
}

#[derive(Debug)]
pub struct FoundMark {
    pub user: String,
    pub channel: String,
    pub epoch: u64,
    pub seq: u64,
    pub at_ms: u64,
    pub segment: u32,
}

#[derive(Debug)]
pub struct FoundSegment {
    pub number: u32,
    pub bytes: u64,
    pub is_damaged: bool,
}

/// Reads the folder, cuts what was being written, and says in the log what is damaged.
pub fn recover(folder: &Folder, boot: u64, now_ms: u64) -> Result<Found, OpenError> {
    let numbers = folder.segments()?;
    let headers = headers(folder, &numbers)?;
    let salt = headers.iter().flatten().map(|header| header.salt).next_back();
    let mut replay = Replay::default();
    let mut found = Found {
        channels: Vec::new(),
        keys: Vec::new(),
        marks: Vec::new(),
        segments: Vec::new(),
        segment: numbers.last().map_or(1, |last| last + 1),
        salt: salt.unwrap_or_else(|| fastrand::u32(1..)),
        epoch_last: headers.iter().flatten().map(|header| header.epoch_last.max(header.epoch_floor)).max().unwrap_or(0),
        epoch_floor: headers.iter().flatten().map(|header| header.epoch_floor).max().unwrap_or(0),
    };
    for (&number, header) in numbers.iter().zip(&headers) {
        let is_last = numbers.last() == Some(&number);
        match (header, salt) {
            (None, None) => set_aside(&folder.segment(number))?,
            _ => found.segments.extend(replay.segment(folder, number, header.is_some(), found.salt, is_last)?),
        }
    }
    folder.sync()?;
    let end = found.segments.last().map_or((0, 0), |segment| (segment.number, segment.bytes));
    let last_header = headers.iter().flatten().next_back();
    let shown = folder.read_shown();
    let is_lost = was_lost(shown, boot, end, last_header, replay.is_closed);
    let epoch_shown = shown.map_or(0, |shown| shown.epoch_last);
    found.epoch_last = found.epoch_last.max(replay.epoch_last).max(epoch_shown);
    if is_lost || replay.damages > 0 {
        // Epochs that were given and are not known any more are smaller than this.
        found.epoch_last = found.epoch_last.max(now_ms) + EPOCHS_SKIPPED;
    }
    if is_lost {
        found.epoch_floor = found.epoch_last;
        let channels = replay.channels.len();
        tracing::warn!(
            folder = %folder.path.display(),
            channels,
            "numbers may have been shown that are not in the journal: all its channels have a new epoch"
        );
    }
    found.channels = replay.finish(&mut found.epoch_last, found.epoch_floor, is_lost);
    (found.keys, found.marks) = (replay.keys, replay.marks);
    Ok(found)
}

/// None for one that is damaged. A newer format ends the start before anything is changed.
fn headers(folder: &Folder, numbers: &[u32]) -> Result<Vec<Option<Header>>, OpenError> {
    let header = |&number: &u32| {
        let path = folder.segment(number);
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        let file = std::fs::File::open(&path).map_err(cannot("cannot open", &path))?;
        io::Read::read_to_end(&mut io::Read::take(file, HEADER_BYTES as u64), &mut bytes).map_err(cannot("cannot read", &path))?;
        match Header::decode(&bytes) {
            Ok(header) => Ok(Some(header)),
            Err(HeaderFault::Damaged) => Ok(None),
            Err(HeaderFault::Newer { version }) => Err(OpenError::Newer { path, version }),
        }
    };
    numbers.iter().map(header).collect()
}

/// Nothing in it can be read, for no file here says with which salt.
fn set_aside(path: &Path) -> Result<(), OpenError> {
    let aside = path.with_extension("unreadable");
    tracing::error!(file = %path.display(), aside = %aside.display(), "the head of this file is damaged, and so nothing in it can be read: set aside");
    std::fs::rename(path, &aside).map_err(cannot("cannot rename", path))
}

/// Whether numbers may have been shown behind the end of what is here.
fn was_lost(shown: Option<Shown>, boot: u64, end: (u32, u64), last: Option<&Header>, is_closed: bool) -> bool {
    match shown {
        Some(shown) if (shown.segment, u64::from(shown.offset)) > end => true,
        // A process that was killed leaves what it wrote; a host that crashes leaves what was synced, and `shown` may be as it was earlier.
        Some(shown) => shown.boot != boot && !is_closed && last.is_some_and(|header| header.is_interval),
        None => !is_closed && last.is_some(),
    }
}

#[derive(Debug, Default)]
struct Replay {
    channels: Vec<FoundChannel>,
    by_name: HashMap<String, usize>,
    keys: Vec<FoundKey>,
    marks: Vec<FoundMark>,
    epoch_last: u64,
    /// Damaged places so far.
    damages: usize,
    /// The last record says that nothing was under way.
    is_closed: bool,
}

impl Replay {
    /// None: nothing was in it, and it is gone.
    fn segment(
        &mut self,
        folder: &Folder,
        number: u32,
        has_header: bool,
        salt: u32,
        is_last: bool,
    ) -> Result<Option<FoundSegment>, OpenError> {
        let path = folder.segment(number);
        let file = std::fs::read(&path).map_err(cannot("cannot read", &path))?;
        if is_last && file.len() <= HEADER_BYTES && !has_header {
            tracing::warn!(file = %path.display(), "a file of the journal was just being made: removed");
            std::fs::remove_file(&path).map_err(cannot("cannot remove", &path))?;
            return Ok(None);
        }
        let mut is_damaged = !has_header;
        let mut bytes = file.len().max(HEADER_BYTES);
        if is_damaged {
            tracing::error!(file = %path.display(), bytes = file.len(), "the head of a file of the journal is damaged: what else is missing of it is lost");
            self.damages += 1;
        }
        for scanned in Scanner::new(&file, salt, HEADER_BYTES) {
            match scanned {
                Scanned::Record { at, bytes, record } => {
                    let place = Place { segment: number, offset: at as u32, bytes: bytes as u32 };
                    self.record(place, record);
                }
                Scanned::Damage { from, to } if is_last && to == file.len() => {
                    let cut = to - from;
                    tracing::warn!(file = %path.display(), offset = from, bytes = cut, "the end of the journal is not whole: cut off");
                    bytes = from;
                }
                Scanned::Damage { from, to } => {
                    tracing::error!(file = %path.display(), offset = from, bytes = to - from, "a damaged place in the journal: what was there is lost");
                    is_damaged = true;
                    self.damages += 1;
                    self.is_closed = false;
                }
            }
        }
        let write = OpenOptions::new().write(true).open(&path).map_err(cannot("cannot open", &path))?;
        if bytes < file.len() {
            write.set_len(bytes as u64).map_err(cannot("cannot cut", &path))?;
        }
        // The process before may have been killed before it did.
        write.sync_data().map_err(cannot("cannot sync", &path))?;
        Ok(Some(FoundSegment { number, bytes: bytes as u64, is_damaged }))
    }

    fn record(&mut self, place: Place, record: Record<'_>) {
        self.is_closed = matches!(record, Record::Closed);
        let segment = place.segment;
        match record {
            Record::Entry(Entry { channel, seq, timestamp_ms, key, numbers, payload }) => {
                if let Some(key) = key {
                    let (channel, key) = (channel.to_owned(), key.to_owned());
                    self.keys.push(FoundKey { channel, key, born: numbers.born, seq, at_ms: timestamp_ms, segment });
                }
                if let Some(channel) = self.numbers(channel, numbers, segment) {
                    channel.entries.push(FoundEntry { seq, timestamp_ms, place, payload_bytes: payload.len() as u32 });
                }
            }
            Record::Channel { channel, numbers } => {
                self.numbers(channel, numbers, segment);
            }
            Record::Key { channel, key, born, seq, at_ms } => {
                self.keys.push(FoundKey { channel: channel.to_owned(), key: key.to_owned(), born, seq, at_ms, segment });
            }
            Record::Mark { user, channel, epoch, seq, at_ms } => {
                self.marks.push(FoundMark { user: user.to_owned(), channel: channel.to_owned(), epoch, seq, at_ms, segment });
            }
            Record::Closed => {}
        }
    }

    /// Takes over what is said about a channel's numbers. None: they are of a time before it was forgotten.
    fn numbers(&mut self, name: &str, numbers: Numbers, home: u32) -> Option<&mut FoundChannel> {
        let at = match self.by_name.get(name) {
            Some(&at) => at,
            None => {
                self.by_name.insert(name.to_owned(), self.channels.len());
                self.channels.push(FoundChannel { name: name.to_owned(), numbers, ..FoundChannel::default() });
                self.channels.len() - 1
            }
        };
        let channel = &mut self.channels[at];
        if numbers.born < channel.numbers.born {
            return None;
        }
        if numbers.born > channel.numbers.born {
            *channel = FoundChannel { name: std::mem::take(&mut channel.name), numbers, ..FoundChannel::default() };
        }
        channel.numbers = Numbers {
            epoch: channel.numbers.epoch.max(numbers.epoch),
            last_seq: channel.numbers.last_seq.max(numbers.last_seq),
            has_holes: channel.numbers.has_holes | numbers.has_holes,
            ..numbers
        };
        (channel.home, channel.damages) = (home, self.damages);
        self.epoch_last = self.epoch_last.max(numbers.epoch);
        Some(channel)
    }

    /// `is_lost`: all channels have the new epoch of the floor, and of any the end may be missing.
    fn finish(&mut self, epoch_last: &mut u64, epoch_floor: u64, is_lost: bool) -> Vec<FoundChannel> {
        let mut channels = std::mem::take(&mut self.channels);
        for channel in &mut channels {
            channel.numbers.epoch = channel.numbers.epoch.max(epoch_floor);
            // What was rewritten stands there twice: the later one counts.
            channel.entries.reverse();
            channel.entries.sort_by_key(|entry| entry.seq);
            channel.entries.dedup_by_key(|entry| entry.seq);
            let whole = channel.whole_from();
            let has_new_hole = whole > 0 && !channel.numbers.has_holes;
            if is_lost {
                channel.numbers.has_holes |= has_new_hole;
                channel.is_renewed = has_new_hole;
            } else if self.damages > 0 && (channel.damages < self.damages || has_new_hole) {
                *epoch_last += 1;
                channel.numbers.epoch = *epoch_last;
                channel.numbers.has_holes |= has_new_hole;
                channel.is_renewed = true;
                let (channel, epoch) = (&channel.name, channel.numbers.epoch);
                tracing::warn!(%channel, epoch, "messages of this channel may have been lost by damage: it has a new epoch");
            } else if has_new_hole {
                // They were not wanted any more, and stand in files that have not gone yet.
                channel.entries.drain(..whole);
            }
        }
        channels
    }
}

impl FoundChannel {
    /// The first entry behind which no number is missing, up to the last.
    fn whole_from(&self) -> usize {
        let mut expected = self.numbers.last_seq;
        let mut from = self.entries.len();
        for entry in self.entries.iter().rev() {
            if entry.seq != expected {
                break;
            }
            expected -= 1;
            from -= 1;
        }
        from
    }
}
