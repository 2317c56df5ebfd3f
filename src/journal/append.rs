//! What comes in: numbering, and what goes for it.
//!
//! Invariant: a number is used up only by what is taken, and what is taken is indexed and on its way to the disk when its number is told.

use std::sync::Arc;
use std::time::Duration;

use super::disk::segments::{Place, Ticket};
use super::entries::{ChannelId, NO_PLACE};
use super::keys::Key;
use super::record::{ENTRY_BYTES, Entry, Numbers, Record};
use super::{Journal, channel_weight, millis};
use crate::limits::journal::{KEY_BYTES_MAX, SWEEP_MESSAGES};

#[derive(Debug, Clone, Copy)]
pub struct Append<'a> {
    pub channel: &'a str,
    pub payload: &'a [u8],
    /// Of the wall clock, now.
    pub timestamp_ms: u64,
    /// Within the window, a message of the channel with the same key is this one.
    pub idempotency_key: Option<&'a str>,
    /// Messages that the channel keeps; 0: it only counts them.
    pub history_count: usize,
    pub history_age: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub epoch: u64,
    pub seq: u64,
    /// It was there already; nothing is to be sent.
    pub is_repeat: bool,
    /// Not to be shown before [`Journal::settled`] is so far.
    pub ticket: Ticket,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("the idempotency key is longer than {KEY_BYTES_MAX} bytes")]
    KeyTooLong,
    #[error("there are too many durable channels with messages")]
    TooManyChannels,
    /// The disk is slower than what comes; in a moment there is room.
    #[error("too much waits for the disk; try again")]
    Full,
    /// A full disk, say.
    #[error("{0}")]
    Failing(Arc<str>),
}

impl Journal {
    /// Gives a message the next number of its channel. Whatever the error, nothing of it is kept and no number is used up.
    pub fn append(&mut self, append: &Append<'_>) -> Result<Appended, AppendError> {
        let Append { channel, payload, timestamp_ms, idempotency_key: key, history_count, history_age } = *append;
        self.now_ms = timestamp_ms;
        if key.is_some_and(|key| key.len() > KEY_BYTES_MAX) {
            return Err(AppendError::KeyTooLong);
        }
        if let Some(before) = key.and_then(|key| self.repeated(channel, key)) {
            return Ok(before);
        }
        self.admit(ENTRY_BYTES + 2 * channel.len() + 2 * key.map_or(0, str::len) + payload.len())?;
        let id = match self.channels.find(channel) {
            Some(id) => id,
            None => self.create(channel)?,
        };
        let numbers = &mut self.channels[id].numbers;
        *numbers = Numbers { last_seq: numbers.last_seq + 1, count: history_count as u64, age_ms: millis(history_age), ..*numbers };
        let Numbers { epoch, born, last_seq: seq, .. } = *numbers;
        let home = if history_count == 0 {
            self.write_numbers(id);
            key.map(|key| self.write(&Record::Key { channel, key, born, seq, at_ms: timestamp_ms }).segment)
        } else {
            let entry = Entry { channel, seq, timestamp_ms, key, numbers: *numbers, payload };
            let place = self.write(&Record::Entry(entry));
            self.add_wanted(place.segment, u64::from(place.bytes));
            self.set_home(id, place.segment);
            let at = self.entries.push(id, seq, timestamp_ms, place, payload.len() as u32, Some(payload.into()));
            self.channels.rouse(id);
            self.channels[id].entries.push_back(at);
            Some(place.segment)
        };
        if let Some((key, home)) = key.zip(home) {
            let key = Key { channel: self.channels[id].name.clone(), key: key.into(), born, seq, at_ms: timestamp_ms, home };
            self.add_wanted(home, key.weight());
            self.keys.push(key);
            self.forget_keys_and_marks();
        }
        self.trim(id, SWEEP_MESSAGES);
        self.keep_bounds();
        Ok(Appended { epoch, seq, is_repeat: false, ticket: self.head() })
    }

    fn repeated(&self, channel: &str, key: &str) -> Option<Appended> {
        let found = self.keys.find(channel, key)?;
        let numbers = &self.channels[self.channels.find(channel)?].numbers;
        let is_over = self.now_ms.saturating_sub(found.at_ms) > millis(self.settings.key_window);
        if is_over || found.born != numbers.born {
            return None;
        }
        // The first may not be settled yet: nor is this one then.
        Some(Appended { epoch: numbers.epoch, seq: found.seq, is_repeat: true, ticket: self.head() })
    }

    /// Whether a message of this size is not refused for want of room in the queue to the disk.
    pub fn has_room(&self, payload_bytes: usize) -> bool {
        !matches!(self.admit(payload_bytes), Err(AppendError::Full))
    }

    /// Whether so many bytes more are taken.
    pub(super) fn admit(&self, bytes: usize) -> Result<(), AppendError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        if disk.progress().is_failing()
            && let Some(failure) = disk.progress().failure()
        {
            return Err(AppendError::Failing(failure));
        }
        if disk.admits(bytes) { Ok(()) } else { Err(AppendError::Full) }
    }

    /// A channel with an epoch larger than any before; nothing of it is written yet.
    pub(super) fn create(&mut self, name: &str) -> Result<ChannelId, AppendError> {
        while self.channels.len() >= self.settings.channels_max {
            let (quietest, _) = self.channels.quietest().ok_or(AppendError::TooManyChannels)?;
            self.forget(quietest);
        }
        self.epoch_last = (self.epoch_last + 1).max(self.now_ms);
        let numbers = Numbers { epoch: self.epoch_last, born: self.epoch_last, ..Numbers::default() };
        Ok(self.channels.insert(name, numbers, 0, self.now_ms))
    }

    pub(super) fn forget(&mut self, id: ChannelId) {
        let channel = self.channels.remove(id);
        self.remove_wanted(channel.home, channel_weight(&channel.name), 0);
    }

    /// Behind everything that was taken.
    pub fn head(&self) -> Ticket {
        self.disk.as_ref().map_or(0, |disk| disk.head())
    }

    pub(super) fn write(&mut self, record: &Record<'_>) -> Place {
        self.disk.as_mut().map_or(NO_PLACE, |disk| disk.write(record, self.epoch_last))
    }

    pub(super) fn add_wanted(&mut self, segment: u32, bytes: u64) {
        if let Some(disk) = &mut self.disk {
            disk.segments.add(segment, bytes);
        }
    }

    /// Segment 0 is none.
    pub(super) fn remove_wanted(&mut self, segment: u32, bytes: u64, cause: Ticket) {
        if let Some(disk) = self.disk.as_mut().filter(|_| segment != 0) {
            disk.segments.remove(segment, bytes, cause);
        }
    }

    /// The channel's numbers are said in this segment now.
    pub(super) fn set_home(&mut self, id: ChannelId, home: u32) {
        let channel = &mut self.channels[id];
        if channel.home == home {
            return;
        }
        let (before, weight) = (std::mem::replace(&mut channel.home, home), channel_weight(&channel.name));
        self.add_wanted(home, weight);
        self.remove_wanted(before, weight, self.head());
    }

    /// Says a channel's numbers where no entry does.
    pub(super) fn write_numbers(&mut self, id: ChannelId) {
        let (channel, numbers) = (self.channels[id].name.clone(), self.channels[id].numbers);
        let home = self.write(&Record::Channel { channel: &channel, numbers }).segment;
        self.set_home(id, home);
    }

    /// Drops what the channel's rule no longer wants, so many messages at most; returns how many.
    pub(super) fn trim(&mut self, id: ChannelId, messages_max: usize) -> usize {
        for trimmed in 0..messages_max {
            let channel = &self.channels[id];
            let Some(&oldest) = channel.entries.front() else { return trimmed };
            if channel.entries.len() as u64 > channel.numbers.count {
                self.drop_oldest(id, self.head());
            } else if self.now_ms.saturating_sub(self.entries.get(oldest).timestamp_ms) > channel.numbers.age_ms {
                self.drop_oldest(id, 0);
            } else {
                return trimmed;
            }
        }
        messages_max
    }

    /// The same, if there is such a channel.
    pub(super) fn trim_old(&mut self, id: ChannelId, messages_max: usize) -> usize {
        if self.channels.get(id).is_some() { self.trim(id, messages_max) } else { 0 }
    }

    fn drop_oldest(&mut self, id: ChannelId, cause: Ticket) {
        let channel = &mut self.channels[id];
        let Some(at) = channel.entries.pop_front() else { return };
        if channel.entries.is_empty() {
            channel.entries = std::collections::VecDeque::new();
            self.channels.hush(id, self.now_ms);
        }
        let place = self.entries.remove(at).place;
        self.remove_wanted(place.segment, u64::from(place.bytes), cause);
    }

    /// Drops what is beyond the bounds of all: payloads that are on disk leave memory first.
    pub(super) fn keep_bounds(&mut self) {
        loop {
            let is_over_disk = self.disk.as_ref().is_some_and(|disk| disk.segments.live() > self.settings.disk_bytes);
            if !is_over_disk {
                if self.entries.bytes() <= self.settings.memory_bytes {
                    return;
                }
                if let Some((disk, warm)) = self.disk.as_ref().zip(self.entries.oldest_warm()) {
                    if !disk.is_written(warm.place) {
                        return;
                    }
                    self.entries.cool();
                    continue;
                }
            }
            let Some(id) = self.entries.oldest_channel() else { return };
            self.drop_oldest(id, 0);
        }
    }

    pub(super) fn forget_keys_and_marks(&mut self) {
        while let Some(key) = self.keys.pop(self.now_ms) {
            self.remove_wanted(key.home, key.weight(), 0);
        }
        while let Some(user) = self.marks.pop(self.now_ms) {
            user.marks.iter().for_each(|mark| self.remove_wanted(mark.home, mark.weight(&user.name), 0));
        }
    }
}
