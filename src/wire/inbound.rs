//! The receive machine of one connection. Skeleton: signatures are fixed, bodies to come.

/// Why the peer's bytes cannot be accepted. Maps to a close code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("message is larger than {bytes_max} bytes")]
    MessageTooBig { bytes_max: usize },
    // … one variant per rule, see RFC 6455
}
impl Violation {
    /// 1002, 1007 or 1009.
    pub fn close_code(&self) -> u16 {
        todo!()
    }
}

/// Bytes of one event: straight from the read scratch (unmasked in place), or owned when they came in pieces.
#[derive(Debug)]
pub enum Payload<'b> {
    Borrowed(&'b [u8]),
    Owned(Vec<u8>),
}
impl std::ops::Deref for Payload<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Owned(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
pub enum Event<'b> {
    /// A whole message, fragments joined; text has been checked to be UTF-8.
    Message {
        text: bool,
        payload: Payload<'b>,
    },
    Ping(Payload<'b>),
    Pong(Payload<'b>),
    /// `code` is None when the close frame was empty. The reason is valid UTF-8.
    Close {
        code: Option<u16>,
        reason: Payload<'b>,
    },
}

/// What a connection must remember between reads; 8 bytes and no heap while nothing is split.
#[derive(Debug, Default)]
pub struct Inbound {
    spill: Option<Box<()>>,
}

impl Inbound {
    /// Takes the next event off `input`, which is advanced past what was consumed. `Ok(None)` means everything was consumed
    /// and more bytes are needed.
    pub fn next<'b>(&mut self, _input: &mut &'b mut [u8], _message_bytes_max: usize) -> Result<Option<Event<'b>>, Violation> {
        let _ = &self.spill;
        todo!()
    }
    /// Heap bytes held for this connection now: 0 between messages.
    pub fn buffered_bytes(&self) -> usize {
        todo!()
    }
}
