//! What every payload begins with: `~cn1`, channel, sequence and intended send time, in hex. Written by the publishers and the floor, found by
//! the clients in whatever a server wraps around a payload (JSON, MessagePack, nothing).
//!
//! Invariant: only characters that JSON carries as they are, so a payload reads the same in every encoding.

/// Marks the begin of a stamp.
const MAGIC: &[u8; 4] = b"~cn1";
const CHANNEL_DIGITS: usize = 8;
const SEQ_DIGITS: usize = 10;
const TIME_DIGITS: usize = 16;
/// Shortest payload: one that is only the stamp.
pub const STAMP_BYTES: usize = MAGIC.len() + CHANNEL_DIGITS + SEQ_DIGITS + TIME_DIGITS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub channel: u32,
    pub seq: u64,
    /// When the message was due to be sent, [`campanile::sys::monotonic_ns`]: a sender that is late does not hide it.
    pub intended_ns: u64,
}

impl Stamp {
    /// Appends a payload of `bytes` bytes (at least [`STAMP_BYTES`]).
    pub fn write(self, bytes: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(MAGIC);
        push_hex(out, u64::from(self.channel), CHANNEL_DIGITS);
        push_hex(out, self.seq, SEQ_DIGITS);
        push_hex(out, self.intended_ns, TIME_DIGITS);
        out.resize(begin + bytes.max(STAMP_BYTES), b'x');
    }

    /// Finds the stamp in a frame's payload and says where it begins. `hint` is where the last one stood: nearly always right, so most frames cost no search.
    #[inline]
    pub fn find(payload: &[u8], hint: &mut usize) -> Option<(Stamp, usize)> {
        if let Some(stamp) = payload.get(*hint..).and_then(Stamp::read) {
            return Some((stamp, *hint));
        }
        let mut from = 0;
        while let Some(at) = payload[from..].iter().position(|&byte| byte == MAGIC[0]) {
            if let Some(stamp) = Stamp::read(&payload[from + at..]) {
                *hint = from + at;
                return Some((stamp, *hint));
            }
            from += at + 1;
        }
        None
    }

    #[inline]
    fn read(bytes: &[u8]) -> Option<Stamp> {
        let bytes = bytes.first_chunk::<STAMP_BYTES>()?;
        if bytes.first_chunk() != Some(MAGIC) {
            return None;
        }
        let (channel, rest) = bytes[MAGIC.len()..].split_at(CHANNEL_DIGITS);
        let (seq, time) = rest.split_at(SEQ_DIGITS);
        Some(Stamp { channel: hex(channel)? as u32, seq: hex(seq)?, intended_ns: hex(time)? })
    }
}

fn push_hex(out: &mut Vec<u8>, number: u64, digits: usize) {
    out.extend((0..digits).rev().map(|digit| b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15]));
}

/// Values of the hex digits; 0xFF for every other byte.
const DIGITS: [u8; 256] = {
    let mut table = [0xFF; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    table
};

#[inline]
fn hex(digits: &[u8]) -> Option<u64> {
    let mut number = 0;
    let mut seen = 0;
    for &digit in digits {
        let value = DIGITS[digit as usize];
        seen |= value;
        number = number << 4 | u64::from(value & 15);
    }
    (seen < 16).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_every_wrapping() {
        let stamp = Stamp { channel: 99_999, seq: 1 << 33, intended_ns: 123_456_789_012_345 };
        for around in [("", ""), (r#"{"type":"notification","channel":"~c","data":""#, r#"","timestamp":1}"#)] {
            for bytes in [0, STAMP_BYTES, 128, 5000] {
                let mut frame = around.0.as_bytes().to_vec();
                stamp.write(bytes, &mut frame);
                assert_eq!(frame.len(), around.0.len() + bytes.max(STAMP_BYTES));
                frame.extend_from_slice(around.1.as_bytes());
                for mut hint in [0, 3, around.0.len(), 10_000] {
                    assert_eq!(Stamp::find(&frame, &mut hint), Some((stamp, around.0.len())));
                    assert_eq!(hint, around.0.len());
                }
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_stamp_is_none() {
        for text in ["", "~", "~cn1", &format!("~cn1{}", "g".repeat(40)), &format!("~cn2{}", "0".repeat(40))] {
            assert_eq!(Stamp::find(text.as_bytes(), &mut 0), None);
        }
    }
}
