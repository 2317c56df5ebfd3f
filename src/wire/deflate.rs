//! permessage-deflate (RFC 7692), one message at a time: both sides begin each message anew ("no context takeover"), so that one compressor and one
//! inflater serve all connections of a thread, and what was compressed once can be sent to everybody.
//!
//! Called by [`crate::fanout::compressor`] for what a channel's subscribers are sent, by the shards for what clients say, and by the load generator. What was
//! agreed stands in [`super::http::extensions`]. Invariants: a compressed message is a DEFLATE stream that a sync flush ends, without its last four bytes and
//! without a final block (one client loses the messages after such a block); it is only used where it is shorter; and what is inflated is bounded before it is made.
//!
//! A dictionary that both sides know would be given to [`Deflater::deflate`] and [`Inflater::inflate`] here, as what each message begins with.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::{Opcode, Violation, encode_compressed_header, encode_frame, parse_server_header};
use crate::limits::DEFLATE_BYTES_MAX;

/// What a sync flush ends with, and messages leave out (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// The window of a compressor whose messages every client can read that has not asked for a smaller one.
pub const WINDOW_BITS: u8 = 15;
/// The smallest that zlib can make; RFC 7692 has 8 as well.
pub const WINDOW_BITS_MIN: u8 = 9;

/// Heap bytes of a compressor and of an inflater, without what they write to; measured with flate2 1.1 and zlib-rs 0.6, and rounded up.
pub const DEFLATER_BYTES: usize = 400 * 1024;
pub const INFLATER_BYTES: usize = 56 * 1024;

/// Room beyond which a sync flush is known to be complete: zlib asks for more than six bytes.
const FLUSH_ROOM: usize = 16;

#[derive(Debug)]
pub struct Deflater {
    compress: Compress,
    level: u32,
    out: Vec<u8>,
}

impl Deflater {
    /// `level`: 1 to 9.
    pub fn new(level: u32) -> Deflater {
        Deflater { compress: Compress::new(Compression::new(level), false), level, out: Vec::new() }
    }

    /// For one client that reads no further back than this, [`WINDOW_BITS_MIN`] to [`WINDOW_BITS`].
    pub fn with_window_bits(level: u32, window_bits: u8) -> Deflater {
        Deflater { compress: Compress::new_with_window_bits(Compression::new(level), false, window_bits), level, out: Vec::new() }
    }

    pub fn level(&self) -> u32 {
        self.level
    }

    /// The body of a message, compressed; None: it would not be shorter, or take too long ([`DEFLATE_BYTES_MAX`]).
    pub fn deflate(&mut self, body: &[u8]) -> Option<&[u8]> {
        if body.len() > DEFLATE_BYTES_MAX {
            return None;
        }
        self.compress.reset();
        self.out.clear();
        self.out.reserve(body.len() + FLUSH_ROOM);
        let status = self.compress.compress_vec(body, &mut self.out, FlushCompress::Sync);
        let is_whole = matches!(status, Ok(Status::Ok)) && self.compress.total_in() == body.len() as u64;
        let compressed = self.out.strip_suffix(&TAIL).filter(|compressed| is_whole && compressed.len() < body.len())?;
        // A flush that has filled its room may not be complete.
        (self.out.len() < body.len() + FLUSH_ROOM).then_some(compressed)
    }

    /// Appends a message as a frame: compressed, if it is shorter so and not too long for that.
    pub fn append_message(&mut self, opcode: Opcode, body: &[u8], out: &mut Vec<u8>) {
        match self.deflate(body) {
            Some(compressed) => {
                encode_compressed_header(out, opcode, compressed.len());
                out.extend_from_slice(compressed);
            }
            None => encode_frame(out, opcode, body),
        }
    }

    /// Appends a server's frame of text or binary, whole and unmasked, in its compressed form; false: that would not be shorter, and nothing was appended.
    pub fn append_frame(&mut self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((opcode, body)) = parts(frame) else { return false };
        let Some(compressed) = self.deflate(body) else { return false };
        encode_compressed_header(out, opcode, compressed.len());
        out.extend_from_slice(compressed);
        true
    }
}

/// Opcode and body of a message that may be compressed: one frame of ours.
pub fn parts(frame: &[u8]) -> Option<(Opcode, &[u8])> {
    let header = parse_server_header(frame).ok()??;
    let is_message = header.fin && matches!(header.opcode, Opcode::Text | Opcode::Binary);
    let body = &frame[header.header_len as usize..];
    (is_message && body.len() as u64 == header.payload_len).then_some((header.opcode, body))
}

#[derive(Debug)]
pub struct Inflater {
    decompress: Decompress,
    out: Vec<u8>,
}

/// What is kept of the room for what was inflated, so that one large message does not stay for ever.
const OUT_BYTES_KEPT: usize = 64 * 1024;

impl Default for Inflater {
    fn default() -> Inflater {
        Inflater { decompress: Decompress::new(false), out: Vec::new() }
    }
}

impl Inflater {
    /// The message whose payload this is. No more than `bytes_max` and a byte is made of it (or what is kept of the room, if that is more).
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<&[u8], Violation> {
        self.decompress.reset(false);
        self.out.clear();
        self.out.shrink_to(OUT_BYTES_KEPT);
        if !self.feed(payload, bytes_max)? {
            self.feed(&TAIL, bytes_max)?;
        }
        Ok(&self.out)
    }

    /// The same of a message of which text has to be UTF-8.
    pub fn inflate_message(&mut self, text: bool, payload: &[u8], bytes_max: usize) -> Result<&[u8], Violation> {
        let message = self.inflate(payload, bytes_max)?;
        if text && std::str::from_utf8(message).is_err() {
            return Err(Violation::TextNotUtf8);
        }
        Ok(message)
    }

    /// Takes all of `input`. True: that was the stream's last block.
    fn feed(&mut self, mut input: &[u8], bytes_max: usize) -> Result<bool, Violation> {
        loop {
            if self.out.len() == self.out.capacity() {
                if self.out.len() > bytes_max {
                    return Err(Violation::MessageTooBig { bytes_max });
                }
                // One byte more shows that there are more.
                let room = self.out.len().max(4 * input.len()).max(256).min(bytes_max + 1 - self.out.len());
                self.out.reserve_exact(room);
            }
            let (taken, made) = (self.decompress.total_in(), self.out.len());
            let status = self.decompress.decompress_vec(input, &mut self.out, FlushDecompress::None).map_err(|_| Violation::NotDeflate)?;
            input = &input[(self.decompress.total_in() - taken) as usize..];
            if self.out.len() > bytes_max {
                return Err(Violation::MessageTooBig { bytes_max });
            }
            match status {
                // A final block is allowed, and a byte of zeros may follow it (RFC 7692, 7.2.3.4).
                Status::StreamEnd if matches!(input, [] | [0]) || TAIL.ends_with(input) => return Ok(true),
                Status::StreamEnd => return Err(Violation::NotDeflate),
                Status::Ok | Status::BufError if self.out.len() == self.out.capacity() => {}
                Status::Ok | Status::BufError if input.is_empty() => return Ok(false),
                Status::Ok | Status::BufError if self.decompress.total_in() == taken && self.out.len() == made => {
                    return Err(Violation::NotDeflate);
                }
                Status::Ok | Status::BufError => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 100_000;

    fn text(bytes: usize) -> Vec<u8> {
        "{\"id\":17,\"title\":\"a notification\",\"read\":false},".bytes().cycle().take(bytes).collect()
    }

    #[test]
    fn what_was_deflated_is_inflated_however_often() {
        let (mut deflater, mut inflater) = (Deflater::new(2), Inflater::default());
        for bytes in [100, 1000, 70_000, LIMIT, 100, 1000] {
            let body = text(bytes);
            let compressed = deflater.deflate(&body).expect("it is shorter").to_vec();
            assert!(compressed.len() < bytes && !compressed.ends_with(&TAIL));
            assert_eq!(inflater.inflate(&compressed, LIMIT).unwrap(), body);
            // Nothing is taken over: the same again is the same bytes.
            assert_eq!(deflater.deflate(&body).unwrap(), compressed);
        }
        assert!(inflater.out.capacity() <= 2 * LIMIT);
        assert_eq!(inflater.inflate(&[0], LIMIT).unwrap(), b"", "an empty message (7.2.3.6)");
        assert!(inflater.out.capacity() <= OUT_BYTES_KEPT);
    }

    #[test]
    fn what_does_not_get_shorter_stays_as_it_is() {
        let mut deflater = Deflater::new(2);
        let mut random = fastrand::Rng::with_seed(3);
        for bytes in [0, 1, 2, 10, 1000, 70_000] {
            let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(bytes).collect();
            assert_eq!(deflater.deflate(&body), None, "{bytes}");
            let mut frame = Vec::new();
            encode_frame(&mut frame, Opcode::Binary, &body);
            let mut out = b"before".to_vec();
            assert!(!deflater.append_frame(&frame, &mut out) && out == b"before");
        }
        // What is no single message is left alone.
        for frame in [&[][..], &[0x81], &[0x89, 0], &[0x01, 3, b'a', b'a', b'a'], &[0x81, 4, b'a', b'a', b'a']] {
            assert!(!deflater.append_frame(frame, &mut Vec::new()), "{frame:?}");
        }
    }

    #[test]
    fn a_frame_keeps_its_opcode_and_says_that_it_is_compressed() {
        let mut deflater = Deflater::new(2);
        for (opcode, bytes) in [(Opcode::Text, 100), (Opcode::Binary, 1000), (Opcode::Text, 100_000)] {
            let (mut frame, mut out) = (Vec::new(), Vec::new());
            encode_frame(&mut frame, opcode, &text(bytes));
            assert!(deflater.append_frame(&frame, &mut out) && out.len() < frame.len());
            assert_eq!(out[0], 0xC0 | opcode as u8);
            let header = 2 + match out[1] {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            assert_eq!(Inflater::default().inflate(&out[header..], LIMIT).unwrap(), text(bytes));
        }
    }

    #[test]
    fn a_smaller_window_reads_no_further_back() {
        let mut body = text(60);
        body.extend(std::iter::repeat_n(b'.', 600));
        body.extend(text(60));
        let small = Deflater::with_window_bits(6, WINDOW_BITS_MIN).deflate(&body).unwrap().to_vec();
        // An inflater that knows no more than 512 bytes.
        let (mut decompress, mut out) = (Decompress::new_with_window_bits(false, WINDOW_BITS_MIN), Vec::with_capacity(1000));
        decompress.decompress_vec(&[&small[..], &TAIL].concat(), &mut out, FlushDecompress::Sync).unwrap();
        assert_eq!(out, body);
    }

    #[test]
    fn a_bomb_goes_off_in_a_small_room() {
        let mut bomb = Vec::new();
        let mut compress = Compress::new(Compression::new(9), false);
        bomb.reserve(4000);
        compress.compress_vec(&vec![0; 1 << 20], &mut bomb, FlushCompress::Sync).unwrap();
        let bomb = bomb.strip_suffix(&TAIL).unwrap();
        assert!(bomb.len() < 2000);
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(bomb, LIMIT), Err(Violation::MessageTooBig { bytes_max: LIMIT }));
        assert!(inflater.out.capacity() <= LIMIT + 32);
        // To the byte.
        let exact = Deflater::new(2).deflate(&text(1000)).unwrap().to_vec();
        assert_eq!(inflater.inflate(&exact, 999), Err(Violation::MessageTooBig { bytes_max: 999 }));
        assert_eq!(inflater.inflate(&exact, 1000).unwrap(), text(1000));
    }

    /// RFC 7692, 7.2.3, byte for byte.
    #[test]
    fn the_examples_of_the_rfc() {
        let mut inflater = Inflater::default();
        for (payload, message) in [
            (&[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00][..], &b"Hello"[..]),
            // No compression; a final block, with the byte of zeros behind it; two blocks.
            (&[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00], b"Hello"),
            (&[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00], b"Hello"),
            (&[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00], b"Hello"),
        ] {
            assert_eq!(inflater.inflate(payload, LIMIT).unwrap(), message, "{payload:x?}");
        }
    }

    #[test]
    fn text_is_checked_once_it_is_inflated() {
        let mut body = text(200);
        body[100] = 0xFF;
        let compressed = Deflater::new(2).deflate(&body).unwrap().to_vec();
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate_message(true, &compressed, LIMIT), Err(Violation::TextNotUtf8));
        assert_eq!(inflater.inflate_message(false, &compressed, LIMIT).unwrap(), body);
    }

    #[test]
    fn what_is_no_deflate_is_refused() {
        let mut inflater = Inflater::default();
        // A block type that does not exist, lengths that contradict each other, what follows a final block.
        for garbage in
            [&[0xFF, 0xFF, 0xFF][..], &[0x00, 0x05, 0x00, 0x00, 0x00, 1], &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0xF2, 0x48]]
        {
            assert_eq!(inflater.inflate(garbage, LIMIT), Err(Violation::NotDeflate), "{garbage:x?}");
        }
        assert_eq!(inflater.inflate(&[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00], LIMIT).unwrap(), b"Hello", "and the next is read");
    }

    proptest! {
        #[test]
        fn every_message_comes_back(body in prop::collection::vec(0u8..6, 0..3000), level in 1u32..10) {
            let mut deflater = Deflater::new(level);
            if let Some(compressed) = deflater.deflate(&body) {
                let mut inflater = Inflater::default();
                prop_assert_eq!(inflater.inflate(compressed, 3000).unwrap(), &body);
            }
        }

        #[test]
        fn nothing_that_comes_makes_more_than_it_may(payload in prop::collection::vec(any::<u8>(), 0..300), bytes_max in 0usize..500) {
            let mut inflater = Inflater::default();
            if let Ok(message) = inflater.inflate(&payload, bytes_max) {
                prop_assert!(message.len() <= bytes_max);
            }
            prop_assert!(inflater.out.capacity() <= bytes_max + 256);
        }
    }
}
