//! What one batch has been encoded to: the frames of each encoding that somebody has asked for, and nothing for the others.
//!
//! Shards look and add here at the same time, and none of them ever waits: there is no lock. Two that need the same encoding at once both
//! make it, and the first to finish is kept. What is compressed costs more than that: there it is said here first who makes it, and meanwhile the others
//! send the plain form ([`super::compressor`]). Invariant: what is here stays as it is and where it is for as long as the batch lives, and no
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
    what: What,
    /// None: they are being made, or are the plain ones.
    frames: Option<Frames>,
    next: OnceBox<Place>,
}

/// What a place says of its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Its frames.
    Frames,
    /// Somebody makes them; they come, or [`What::Plain`], at a place behind this one.
    Taken,
    /// They are the frames of the plain encoding.
    Plain,
}

/// What is settled of an encoding that may be compressed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Settled<'a> {
    Frames(&'a Frames),
    Plain,
}

/// What a place takes of the heap without frames.
pub(super) const PLACE_BYTES: usize = heap_bytes(size_of::<Place>());

impl Frames {
    /// What it takes of the heap once it is kept.
    pub(super) fn bytes_held(&self) -> usize {
        let ends = if self.ends.spilled() { heap_bytes(self.ends.capacity() * size_of::<u32>()) } else { 0 };
        PLACE_BYTES + heap_bytes(self.bytes.len()) + ends
    }
}

impl Encoded {
    #[inline]
    pub fn get(&self, encoding: Encoding) -> Option<&Frames> {
        self.places().filter(|place| place.encoding == encoding).find_map(|place| place.frames.as_ref())
    }

    /// None: nothing is settled yet.
    pub fn settled(&self, encoding: Encoding) -> Option<Settled<'_>> {
        self.places().filter(|place| place.encoding == encoding).find_map(|place| match (place.what, &place.frames) {
            (What::Frames, Some(frames)) => Some(Settled::Frames(frames)),
            (What::Plain, _) => Some(Settled::Plain),
            (What::Frames | What::Taken, _) => None,
        })
    }

    /// Those of which something is settled.
    pub fn encodings(&self) -> impl Iterator<Item = Encoding> {
        self.places().filter(|place| place.what != What::Taken).map(|place| place.encoding)
    }

    /// Whether somebody has made these frames, or is about to.
    pub fn is_taken(&self, encoding: Encoding) -> bool {
        self.places().any(|place| place.encoding == encoding)
    }

    /// Keeps these frames, unless somebody was faster: then it is those that are to be used, and these are gone. True: they are kept.
    pub fn keep(&self, encoding: Encoding, frames: Frames) -> (&Frames, bool) {
        let (place, is_ours) = self.put(encoding, What::Frames, Some(frames), |there| there == What::Frames);
        (place.frames.as_ref().expect("it is a place with frames"), is_ours)
    }

    /// Takes it upon the caller to settle this encoding. False: somebody has before.
    pub fn take(&self, encoding: Encoding) -> bool {
        self.put(encoding, What::Taken, None, |_| true).1
    }

    /// Settles that nothing is compressed; said by whoever has taken it, or at once where nobody has. False: it was settled before, or somebody has taken it.
    pub fn keep_plain(&self, encoding: Encoding, has_taken: bool) -> bool {
        self.put(encoding, What::Plain, None, |there| !has_taken || there != What::Taken).1
    }

    /// Adds a place at the end, unless one of this encoding is in its way: then it is that one. True: it was added.
    fn put(&self, encoding: Encoding, what: What, frames: Option<Frames>, is_in_the_way: impl Fn(What) -> bool) -> (&Place, bool) {
        let mut new = Box::new(Place { encoding, what, frames, next: OnceBox::new() });
        let mut place = &self.first;
        loop {
            let ours = place.set(new).err();
            let there = place.get().expect("ours, or whoever was faster");
            match ours {
                None => return (there, true),
                Some(_) if there.encoding == encoding && is_in_the_way(there.what) => return (there, false),
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

    #[test]
    fn one_alone_settles_what_is_compressed() {
        const DEFLATED: Encoding = Encoding::deflate(Format::Json);
        let encoded = Encoded::default();
        encoded.keep(JSON, frames(1));
        assert!(!encoded.is_taken(DEFLATED) && encoded.settled(DEFLATED).is_none());
        assert!(encoded.take(DEFLATED) && !encoded.take(DEFLATED) && !encoded.keep_plain(DEFLATED, false));
        // It is under way: nothing is there for anybody.
        assert!(encoded.is_taken(DEFLATED) && encoded.settled(DEFLATED).is_none() && encoded.get(DEFLATED).is_none());
        assert_eq!(encoded.encodings().collect::<Vec<_>>(), [JSON]);
        assert!(encoded.keep(DEFLATED, frames(2)).1);
        assert!(matches!(encoded.settled(DEFLATED), Some(Settled::Frames(frames)) if *frames.bytes == [2]));
        assert_eq!((encoded.encodings().collect::<Vec<_>>(), &*encoded.get(JSON).unwrap().bytes), (vec![JSON, DEFLATED], &[1][..]));
        // Or it turns out that nothing is shorter; or that was to be seen at once.
        for has_taken in [true, false] {
            let encoded = Encoded::default();
            assert!(!has_taken || encoded.take(DEFLATED));
            assert!(encoded.keep_plain(DEFLATED, has_taken) && !encoded.keep_plain(DEFLATED, false) && !encoded.take(DEFLATED));
            assert!(matches!(encoded.settled(DEFLATED), Some(Settled::Plain)) && encoded.get(DEFLATED).is_none());
        }
    }

    /// What nobody asks for takes no room, however many encodings there will be.
    #[test]
    fn an_encoding_that_nobody_asked_for_takes_no_room() {
        assert_eq!(size_of::<Encoded>(), size_of::<usize>());
        assert_eq!(size_of::<Place>(), 56, "64 on the heap");
    }
}
