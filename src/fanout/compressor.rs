//! Compressing what a channel's subscribers are sent: each message once, for everybody who has agreed to it (RFC 7692, without context takeover).
//!
//! A thread has one [`Compressor`], and gives it to [`Batch::settle`](super::batch::Batch::settle) before a cursor of such a subscriber enters a batch. How it then stands with a
//! batch and an encoding, and that it never goes back, is what [`super::encoded`] keeps:
//!
//! - nothing is said yet: the batch is sent plain. So it stays where the channel has too few subscribers to pay for it, or this turn has compressed enough;
//! - a thread has taken it upon itself: until it is done the others send the batch plain, and nobody waits;
//! - it is settled, compressed or not: some messages may be in their plain form then, or all, because they would not be shorter.
//!
//! Invariant: a cursor in the middle of a frame knows whether `offset` counts bytes of the settled form or of the plain one
//! ([`Cursor::is_settled`](super::cursor::Cursor::is_settled)), and both stay as they are for as long as the number is in a log: a batch merged of others has
//! the settled form of each, and the plain one where a part had none. A write keeps to one form, which its plan says, from the cursor to where it ends.

use smallvec::SmallVec;

use super::encoded::Frames;
use crate::limits::{DEFLATE_BYTES_MAX, DEFLATE_BYTES_PER_TURN, DEFLATE_SUBSCRIBERS_MIN, heap_bytes};
use crate::wire::deflate::{DEFLATER_BYTES, Deflater, parts};
use crate::wire::frame::COMPRESSED;

#[derive(Debug)]
pub struct Compressor {
    deflater: Deflater,
    /// Shorter messages stay plain.
    bytes_min: usize,
    /// Channels with fewer subscribers stay plain.
    subscribers_min: u32,
    /// What may still be compressed in this turn. A message may go beyond.
    left: usize,
    counts: Counts,
}

/// What was compressed since it was asked last: of messages that are shorter for it, their bytes before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub messages: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Messages that were tried and are no shorter.
    pub in_vain: u64,
}

/// Heap bytes of one, with the longest message it takes.
pub const COMPRESSOR_BYTES: usize = DEFLATER_BYTES + size_of::<Compressor>() + heap_bytes(DEFLATE_BYTES_MAX + 64);

impl Compressor {
    pub fn new(level: u32, bytes_min: usize) -> Compressor {
        Compressor {
            deflater: Deflater::new(level),
            bytes_min,
            subscribers_min: DEFLATE_SUBSCRIBERS_MIN,
            left: DEFLATE_BYTES_PER_TURN,
            counts: Counts::default(),
        }
    }

    /// For tests, whose channels have few.
    pub fn with_subscribers_min(self, subscribers_min: u32) -> Compressor {
        Compressor { subscribers_min, ..self }
    }

    /// From the next message on.
    pub fn set(&mut self, level: u32, bytes_min: usize) {
        if level != self.deflater.level() {
            self.deflater = Deflater::new(level);
        }
        self.bytes_min = bytes_min;
    }

    pub fn begin_turn(&mut self) {
        self.left = DEFLATE_BYTES_PER_TURN;
    }

    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// For what one client alone is sent.
    pub fn deflater(&mut self) -> &mut Deflater {
        &mut self.deflater
    }

    /// Whether a channel with so many subscribers is worth it, and there is time in this turn.
    pub(super) fn takes(&self, subscribers: u32) -> bool {
        subscribers >= self.subscribers_min && self.left > 0
    }

    /// Whether any of these messages is long enough.
    pub(super) fn wants(&self, plain: &Frames) -> bool {
        frames(plain).any(|frame| self.wants_frame(frame))
    }

    fn wants_frame(&self, frame: &[u8]) -> bool {
        parts(frame).is_some_and(|(_, body)| (self.bytes_min..=DEFLATE_BYTES_MAX).contains(&body.len()))
    }

    /// The same messages, compressed where that makes them shorter; None: nowhere.
    pub(super) fn compress(&mut self, plain: &Frames) -> Option<Frames> {
        let mut bytes = Vec::with_capacity(plain.bytes.len());
        let mut ends = SmallVec::with_capacity(plain.ends.len());
        let before = self.counts.messages;
        for frame in frames(plain) {
            let start = bytes.len();
            let is_wanted = self.wants_frame(frame);
            if is_wanted && self.deflater.append_frame(frame, &mut bytes) {
                self.counts.messages += 1;
                self.counts.bytes_before += frame.len() as u64;
                self.counts.bytes_after += (bytes.len() - start) as u64;
            } else {
                self.counts.in_vain += u64::from(is_wanted);
                bytes.extend_from_slice(frame);
            }
            if is_wanted {
                self.left = self.left.saturating_sub(frame.len());
            }
            ends.push(bytes.len() as u32);
        }
        (self.counts.messages > before).then(|| Frames { bytes: bytes.into_boxed_slice(), ends })
    }
}

/// One after the other.
fn frames(frames: &Frames) -> impl Iterator<Item = &[u8]> {
    let starts = std::iter::once(0).chain(frames.ends.iter().map(|&end| end as usize));
    starts.zip(&frames.ends).map(|(start, &end)| &frames.bytes[start..end as usize])
}

/// How many of these frames, counted from the first, are compressed.
pub(super) fn compressed_count(of: &Frames, range: std::ops::Range<usize>) -> u64 {
    let starts = range.map(|at| if at == 0 { 0 } else { of.ends[at - 1] as usize });
    starts.filter(|&start| of.bytes.get(start).is_some_and(|first| first & COMPRESSED != 0)).count() as u64
}
