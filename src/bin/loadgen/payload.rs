//! What a payload has behind its stamp: letters that mean nothing, or JSON like that of others, where it matters how well it compresses.
//!
//! Invariant: the same message has the same bytes whoever makes it; what is in it is drawn by its number.

use clap::ValueEnum;
use fastrand::Rng;

use super::stamp::{STAMP_BYTES, Stamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PayloadKind {
    /// The letter x: what a server does not look at
    #[default]
    Filler,
    /// JSON: a list of rows of one shape, with numbers and a name each
    Rows,
    /// JSON: a text in words, with ids and times around it
    Text,
}

/// Shortest JSON that holds a stamp: `{"s":"","p":""}`.
const FRAME_BYTES: usize = 15;

impl PayloadKind {
    /// Appends a payload of `bytes` bytes; a shorter one than JSON needs is the stamp and letters.
    pub fn write(self, stamp: Stamp, bytes: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        let Some(room) = bytes.checked_sub(STAMP_BYTES + FRAME_BYTES).filter(|_| self != PayloadKind::Filler) else {
            return stamp.write(bytes, out);
        };
        out.extend_from_slice(b"{\"s\":\"");
        stamp.write(STAMP_BYTES, out);
        out.push(b'"');
        let mut rng = Rng::with_seed(stamp.seq << 32 | u64::from(stamp.channel));
        match self {
            PayloadKind::Filler => {}
            PayloadKind::Rows => rows(&mut rng, room, out),
            PayloadKind::Text => text(&mut rng, room, out),
        }
        // To the byte; what fills up rows is no part of their shape, and should not count.
        out.extend_from_slice(b",\"p\":\"");
        let pad = (begin + bytes).saturating_sub(out.len() + 2);
        let letter = |rng: &mut Rng| if self == PayloadKind::Rows { b'-' } else { rng.lowercase() as u8 };
        out.extend(std::iter::repeat_with(|| letter(&mut rng)).take(pad));
        out.extend_from_slice(b"\"}");
    }
}

/// As many as fit, as a board of prices has them; volumes are in thousands.
fn rows(rng: &mut Rng, room: usize, out: &mut Vec<u8>) {
    const BEGIN: &[u8] = b",\"rows\":[";
    let end = out.len() + room;
    if room < BEGIN.len() + 1 {
        return;
    }
    out.extend_from_slice(BEGIN);
    let first = out.len();
    loop {
        let name: String = std::iter::repeat_with(|| rng.uppercase()).take(4).collect();
        let row = format!(
            "{{\"id\":{},\"name\":\"{name}\",\"price\":{}.{:02},\"change\":{}.{:02},\"volume\":{}}}",
            rng.u32(10_000..100_000),
            rng.u32(10..1000),
            rng.u32(..20) * 5,
            rng.i32(-9..10),
            rng.u32(..100),
            rng.u32(1..100) * 1000
        );
        if out.len() + row.len() + 2 > end {
            break;
        }
        if out.len() > first {
            out.push(b',');
        }
        out.extend_from_slice(row.as_bytes());
    }
    out.push(b']');
}

const WORDS: &str = "the of and to in is that for it was on are as with his they at be this from have or by one had not but what all were when we there can an \
    your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time could no make \
    than first been its who now people my made over did down only way find use may water long little very after words called just where most know get through \
    back much before go good new write our used me man too any day same right look think also around another came come work three word must because does part";

/// What somebody wrote, in what a feed puts around it.
fn text(rng: &mut Rng, room: usize, out: &mut Vec<u8>) {
    let end = out.len() + room;
    let head = format!(
        ",\"id\":\"{:08x}-{:04x}-4{:03x}\",\"user\":{{\"id\":{},\"name\":\"user{}\"}},\"at\":\"2026-{:02}-{:02}T{:02}:{:02}:{:02}Z\",\"text\":\"",
        rng.u32(..),
        rng.u16(..),
        rng.u16(..4096),
        rng.u32(1_000_000..9_000_000),
        rng.u32(..100_000),
        rng.u32(1..13),
        rng.u32(1..29),
        rng.u32(..24),
        rng.u32(..60),
        rng.u32(..60)
    );
    if head.len() + 1 > room {
        return;
    }
    out.extend_from_slice(head.as_bytes());
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    while let Some(word) = rng.choice(&words).filter(|word| out.len() + word.len() + 2 <= end) {
        out.extend_from_slice(word.as_bytes());
        out.push(b' ');
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use campanile::wire::deflate::Deflater;

    use super::*;

    #[test]
    fn payloads_are_json_with_a_stamp_and_as_long_as_asked_for() {
        let stamp = Stamp { channel: 3, seq: 77, intended_ns: 123_456 };
        for kind in [PayloadKind::Rows, PayloadKind::Text] {
            for bytes in (STAMP_BYTES..400).chain([1000, 5000]) {
                let mut payload = Vec::new();
                kind.write(stamp, bytes, &mut payload);
                assert_eq!(payload.len(), bytes, "{kind:?}");
                assert_eq!(Stamp::find(&payload, &mut 0).map(|(found, _)| found), Some(stamp));
                if bytes >= STAMP_BYTES + FRAME_BYTES {
                    serde_json::from_slice::<serde_json::Value>(&payload).unwrap_or_else(|error| panic!("{kind:?} {bytes}: {error}"));
                }
            }
        }
    }

    /// As what was measured for the choice of level: rows to 0.38, text to 0.53.
    #[test]
    fn they_compress_as_what_they_stand_for() {
        for (kind, range) in [(PayloadKind::Rows, 0.36..0.40), (PayloadKind::Text, 0.51..0.55)] {
            let mut deflater = Deflater::new(2);
            let ratios = (0..50).map(|seq| {
                let mut payload = Vec::new();
                kind.write(Stamp { channel: 0, seq, intended_ns: seq * 1_000_000 }, 1000, &mut payload);
                deflater.deflate(&payload).expect("it is shorter").len() as f64 / 1000.0
            });
            let mean = ratios.sum::<f64>() / 50.0;
            println!("{kind:?}: {mean:.3}");
            assert!(range.contains(&mean), "{kind:?}: {mean:.3}");
        }
    }
}
