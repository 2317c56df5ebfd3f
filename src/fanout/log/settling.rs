//! What of a log is sent compressed, to those who have agreed to that: see [`crate::fanout::compressor`].

use super::{Entry, Log};
use crate::fanout::compressor::Compressor;
use crate::fanout::cursor::Cursor;
use crate::limits::SLICES_PER_WRITE;
use crate::wire::Format;
use crate::wire::framing::Encoding;

impl Log {
    /// Settles what of the next write may be sent compressed to whoever has this encoding, as far as there is time for it.
    pub fn settle(&self, cursor: Cursor, encoding: Encoding, bytes_max: usize, compressor: &mut Compressor) {
        debug_assert!(cursor.seq >= self.tail());
        let mut bytes = 0;
        for Entry { batch, .. } in self.entries.range(self.index_of(cursor.seq)..).take(SLICES_PER_WRITE) {
            if bytes >= bytes_max {
                break;
            }
            batch.settle(encoding, compressor);
            bytes += batch.settled(encoding).map_or_else(|| batch.bytes(), |frames| frames.bytes.len());
        }
    }

    /// Before a merge: where somebody has had batches compressed, the others are as well. What is merged before that stays plain for everybody.
    pub fn settle_all(&self, compressor: &mut Compressor) {
        for encoding in Format::ALL.map(Encoding::deflate) {
            if self.entries.iter().any(|entry| entry.batch.is_compressed(encoding)) {
                self.entries.iter().for_each(|entry| entry.batch.settle(encoding, compressor));
            }
        }
    }

    /// In which of the encodings that whoever has this one understands its next write goes from the cursor on. It is to be gathered and taken off in that one,
    /// whatever others settle meanwhile.
    #[inline]
    pub fn encoding_at(&self, cursor: Cursor, encoding: Encoding) -> Encoding {
        if !encoding.is_deflate() {
            return encoding;
        }
        if cursor.is_mid_frame() {
            return cursor.encoding(encoding);
        }
        let next = self.entries.get(self.index_of(cursor.seq));
        if next.is_some_and(|entry| entry.batch.settled(encoding).is_some()) { encoding } else { encoding.plain() }
    }

    /// How many of the messages that a cursor has passed were compressed in this encoding.
    pub fn compressed_count(&self, from: u64, to: u64, encoding: Encoding) -> u64 {
        let (mut from, mut count) = (from, 0);
        while from < to
            && let Some(batch) = self.find(from)
        {
            let end = batch.end().min(to);
            count += if batch.is_gap() { 0 } else { batch.compressed_count(encoding, from, end) };
            from = batch.end();
        }
        count
    }
}
