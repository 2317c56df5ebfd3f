//! One record: its header, and how it is sealed and opened (RFC 8446, 5.2; RFC 5246, 6.2.3.3; RFC 5288; RFC 7905).
//!
//! Used by [`super::session`], which knows the numbers and what the content means.

use std::io::IoSlice;
use std::ops::Range;

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use super::fault::Fault;
use super::keys::{Keys, Suite};

pub const HEADER_BYTES: usize = 5;
/// What one record may carry.
pub const CONTENT_BYTES_MAX: usize = 1 << 14;
/// The longest record of TLS 1.3, with its header. One of TLS 1.2 with these AEADs is shorter.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + CONTENT_BYTES_MAX + 256;

const TAG_BYTES: usize = 16;
/// All versions say so (RFC 8446, 5.1).
const LEGACY_VERSION: [u8; 2] = [3, 3];

/// What a record is about.
pub(super) mod kind {
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const DATA: u8 = 23;
}

/// The length that a header announces, without the header. None: it is not here as a whole.
pub fn announced(input: &[u8]) -> Option<usize> {
    input.first_chunk::<HEADER_BYTES>().map(|header| usize::from(u16::from_be_bytes([header[3], header[4]])))
}

/// What a record of this suite has beyond its content.
pub(super) fn overhead(suite: Suite) -> usize {
    // In TLS 1.3 the kind stands behind the content.
    HEADER_BYTES + suite.explicit_nonce_bytes() + usize::from(suite.is_tls13()) + TAG_BYTES
}

/// Judges a header before what it announces is waited for.
pub(super) fn check_header(suite: Suite, header: &[u8; HEADER_BYTES], length: usize) -> Result<(), Fault> {
    let (length_max, is_known) = match suite.is_tls13() {
        true => (CONTENT_BYTES_MAX + 256, header[0] == kind::DATA),
        false => (CONTENT_BYTES_MAX + suite.explicit_nonce_bytes() + TAG_BYTES, (20..=23).contains(&header[0])),
    };
    match () {
        () if !is_known => Err(Fault::UnexpectedMessage),
        () if length > length_max => Err(Fault::RecordOverflow),
        () if length + HEADER_BYTES < overhead(suite) => Err(Fault::BadRecordMac),
        () => Ok(()),
    }
}

/// The keys of one direction, ready for some records.
pub(super) struct Ready {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    suite: Suite,
}

impl Ready {
    pub fn new(suite: Suite, keys: &Keys) -> Ready {
        Ready { key: keys.aead(suite), iv: keys.iv(suite), suite }
    }

    /// Puts a record with `length` bytes of the slices, from `skip` on, at the start of `out`; how long it is.
    pub fn seal(&self, number: u64, kind: u8, slices: &[IoSlice<'_>], skip: usize, length: usize, out: &mut [u8]) -> usize {
        let record_bytes = length + overhead(self.suite);
        let (header, body) = out[..record_bytes].split_at_mut(HEADER_BYTES);
        let is_tls13 = self.suite.is_tls13();
        header[0] = if is_tls13 { kind::DATA } else { kind };
        header[1..3].copy_from_slice(&LEGACY_VERSION);
        header[3..].copy_from_slice(&((record_bytes - HEADER_BYTES) as u16).to_be_bytes());
        let nonce = self.nonce(number);
        let (explicit, body) = body.split_at_mut(self.suite.explicit_nonce_bytes());
        explicit.copy_from_slice(&nonce[NONCE_LEN - explicit.len()..]);
        let (aad, aad_bytes) = self.aad(number, header, kind, length);
        let (aad, nonce) = (Aad::from(&aad[..aad_bytes]), Nonce::assume_unique_for_key(nonce));

        let mut pieces = pieces(slices, skip, length);
        let first = pieces.next().unwrap_or_default();
        let sealed = if first.len() == length {
            let (content, behind) = body.split_at_mut(length);
            let kind: &[u8] = if is_tls13 { &[kind] } else { &[] };
            self.key.seal_out_of_place_scatter(nonce, aad, first, content, kind, behind)
        } else {
            let (inner, tag_place) = body.split_at_mut(body.len() - TAG_BYTES);
            let mut at = 0;
            for piece in std::iter::once(first).chain(pieces) {
                inner[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
            if is_tls13 {
                inner[at] = kind;
            }
            self.key.seal_in_place_separate_tag(nonce, aad, inner).map(|tag| tag_place.copy_from_slice(tag.as_ref()))
        };
        sealed.expect("a record is shorter than any AEAD's bound");
        record_bytes
    }

    /// Opens a whole record whose header is in order, in place: its kind, and where its content lies.
    pub fn open(&self, number: u64, record: &mut [u8]) -> Result<(u8, Range<usize>), Fault> {
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        let explicit_bytes = self.suite.explicit_nonce_bytes();
        let (explicit, body) = body.split_at_mut(explicit_bytes);
        let mut nonce = self.nonce(number);
        // The sender's choice: others do not begin where we do.
        nonce[NONCE_LEN - explicit_bytes..].copy_from_slice(explicit);
        let (aad, aad_bytes) = self.aad(number, header, header[0], body.len() - TAG_BYTES);
        let (aad, nonce) = (Aad::from(&aad[..aad_bytes]), Nonce::assume_unique_for_key(nonce));
        let inner = self.key.open_in_place(nonce, aad, body).map_err(|_| Fault::BadRecordMac)?;
        let start = HEADER_BYTES + explicit_bytes;
        if !self.suite.is_tls13() {
            return if inner.len() > CONTENT_BYTES_MAX { Err(Fault::RecordOverflow) } else { Ok((header[0], start..start + inner.len())) };
        }
        if inner.len() > CONTENT_BYTES_MAX + 1 {
            return Err(Fault::RecordOverflow);
        }
        let length = inner.iter().rposition(|&byte| byte != 0).ok_or(Fault::UnexpectedMessage)?;
        Ok((inner[length], start..start + length))
    }

    fn nonce(&self, number: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        nonce[NONCE_LEN - 8..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, of_number)| *byte ^= of_number);
        nonce
    }

    /// What is authenticated beside the content, which has `length` bytes.
    fn aad(&self, number: u64, header: &[u8], kind: u8, length: usize) -> ([u8; 13], usize) {
        let mut aad = [0; 13];
        if self.suite.is_tls13() {
            aad[..HEADER_BYTES].copy_from_slice(header);
            return (aad, HEADER_BYTES);
        }
        aad[..8].copy_from_slice(&number.to_be_bytes());
        aad[8] = kind;
        aad[9..11].copy_from_slice(&header[1..3]);
        aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
        (aad, 13)
    }
}

/// A fatal alert, before there are keys.
pub(super) fn plain_alert(description: u8) -> [u8; 7] {
    [kind::ALERT, LEGACY_VERSION[0], LEGACY_VERSION[1], 0, 2, 2, description]
}

/// How many bytes the slices have from `skip` on, if that is less than `max`.
pub(super) fn length_of(slices: &[IoSlice<'_>], skip: usize, max: usize) -> usize {
    let mut bytes = 0;
    for slice in slices {
        bytes += slice.len();
        if bytes >= skip + max {
            return max;
        }
    }
    bytes.saturating_sub(skip)
}

/// Those bytes, copied together.
pub(super) fn gather(slices: &[IoSlice<'_>], skip: usize, length: usize) -> Vec<u8> {
    pieces(slices, skip, length).flatten().copied().collect()
}

/// `length` bytes of the slices, from `skip` on.
fn pieces<'a>(slices: &'a [IoSlice<'_>], mut skip: usize, mut length: usize) -> impl Iterator<Item = &'a [u8]> {
    slices.iter().filter_map(move |slice| {
        let rest = &slice[skip.min(slice.len())..];
        skip -= slice.len() - rest.len();
        let piece = &rest[..length.min(rest.len())];
        length -= piece.len();
        (!piece.is_empty()).then_some(piece)
    })
}
