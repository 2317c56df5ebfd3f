//! A subscription's place in its channel's log.

/// The next byte to send: in the frame that carries `seq`, `offset` bytes are already with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub seq: u64,
    /// 0: at a frame boundary. More: mid-frame, and nothing else may be written to the socket before this frame's end.
    pub offset: u32,
}

impl Cursor {
    pub const fn at(seq: u64) -> Cursor {
        Cursor { seq, offset: 0 }
    }

    pub fn is_mid_frame(self) -> bool {
        self.offset > 0
    }
}
