//! A subscription's place in its channel's log.

use crate::wire::framing::Encoding;

/// The next byte to send: in the frame that carries `seq`, `offset` bytes are already with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub seq: u64,
    /// 0: at a frame boundary. More: mid-frame, and nothing else may be written to the socket before this frame's end.
    pub offset: u32,
    /// In the middle of a frame: it is one of those that were settled for an encoding which may be compressed ([`super::compressor`]), not of the plain ones.
    pub is_settled: bool,
}

impl Cursor {
    pub const fn at(seq: u64) -> Cursor {
        Cursor { seq, offset: 0, is_settled: false }
    }

    pub fn is_mid_frame(self) -> bool {
        self.offset > 0
    }

    /// Of which of its encodings the frame is that a subscriber with this one is in the middle of.
    pub fn encoding(self, encoding: Encoding) -> Encoding {
        if self.is_settled { encoding } else { encoding.plain() }
    }
}
