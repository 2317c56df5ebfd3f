//! What one batch has been encoded to: the frames of each encoding that somebody has asked for, and nothing for the others.
//!
//! Shards look and add here at the same time, and none of them ever waits: there is no lock. Two that need the same encoding at once both
//! make it, and the first to finish is kept. Invariant: what is here stays as it is and where it is for as long as the batch lives, and no
//! encoding is here twice.

use once_cell::race::OnceBox;
use smallvec::SmallVec;

use crate::limits::heap_bytes;
use crate::wire::framing::Encoding;

/// The messages of one batch in one encoding, back to back.
#[derive(Debug)]
pub struct Frames {
    pub bytes: Box<[u8]>,
    /// Where each message's frame ends in `bytes`. A gap has one frame, which is empty in raw. Most batches have few messages: their ends
    /// need no memory of their own.
    pub(super) ends: SmallVec<[u32; 4]>,
}

/// A list, of one or two places as a rule; empty it takes one pointer.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    first: OnceBox<Place>,
}

#[derive(Debug)]
struct Place {
    encoding: Encoding,
    frames: Frames,
    next: OnceBox<Place>,
}

impl Frames {
    /// What it takes of the heap once it is kept.
    pub(super) fn bytes_held(&self) -> usize {
        let ends = if self.ends.spilled() { heap_bytes(self.ends.capacity() * size_of::<u32>()) } else { 0 };
        heap_bytes(size_of::<Place>()) + heap_bytes(self.bytes.len()) + ends
    }
}

impl Encoded {
    #[inline]
    pub fn get(&self, encoding: Encoding) -> Option<&Frames> {
        self.places().find(|place| place.encoding == encoding).map(|place| &place.frames)
    }

    /// Those that somebody has asked for.
    pub fn encodings(&self) -> impl Iterator<Item = Encoding> {
        self.places().map(|place| place.encoding)
    }

    /// Keeps these frames, unless somebody was faster: then it is those that are to be used, and these are gone. True: they are kept.
    pub fn keep(&self, encoding: Encoding, frames: Frames) -> (&Frames, bool) {
        let mut new = Box::new(Place { encoding, frames, next: OnceBox::new() });
        let mut place = &self.first;
        loop {
            let ours = place.set(new).err();
            let there = place.get().expect("ours, or whoever was faster");
            match ours {
                None => return (&there.frames, true),
                Some(_) if there.encoding == encoding => return (&there.frames, false),
                Some(ours) => (new, place) = (ours, &there.next),
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::successors(self.first.get(), |place| place.next.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Format;

    const JSON: Encoding = Encoding::web_socket(Format::Json);
    const RAW: Encoding = Encoding::web_socket(Format::Raw);

    fn frames(byte: u8) -> Frames {
        Frames { bytes: Box::new([byte]), ends: SmallVec::from_slice(&[1]) }
    }

    #[test]
    fn whoever_is_second_uses_what_the_first_has_made() {
        let encoded = Encoded::default();
        assert!(encoded.get(JSON).is_none());
        let (first, is_kept) = encoded.keep(JSON, frames(1));
        assert!(is_kept && encoded.get(RAW).is_none());
        // Both had looked before either was done.
        let (second, is_kept) = encoded.keep(JSON, frames(2));
        assert!(!is_kept && std::ptr::eq(first, second) && *first.bytes == [1]);
        // What another encoding adds leaves it where it is.
        assert!(encoded.keep(RAW, frames(3)).1);
        assert!(!encoded.keep(RAW, frames(4)).1);
        assert!(std::ptr::eq(encoded.get(JSON).unwrap(), first) && *encoded.get(RAW).unwrap().bytes == [3]);
        assert_eq!(encoded.encodings().collect::<Vec<_>>(), [JSON, RAW]);
    }

    /// What nobody asks for takes no room, however many encodings there will be.
    #[test]
    fn an_encoding_that_nobody_asked_for_takes_no_room() {
        assert_eq!(size_of::<Encoded>(), size_of::<usize>());
        assert_eq!(size_of::<Place>(), 56, "64 on the heap");
    }
}
