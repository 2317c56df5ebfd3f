//! The receive machine of one connection (RFC 6455, sections 5 and 8.1): bytes in, whole messages and control frames out.
//!
//! Called by a shard for every read: it hands over the scratch buffer and takes events until there are none. Invariants:
//!
//! - Between messages there is no state and no heap: [`Inbound`] is one pointer, and it is null. What came in one piece is unmasked where
//!   it lies and lent out; only what was split over reads or fragments is collected, in a box that goes when the message ends.
//! - Memory follows the bytes that came, never a length that was announced; an announced length over the limit is refused at the header.
//! - A violation is reported with the first bytes that show it: text that can never become UTF-8 is not read to its end.
//!
//! The number of fragments is not limited: an empty fragment costs its sender six bytes and this side nothing that stays.

#[cfg(test)]
mod tests;

use super::frame::{CLIENT_HEADER_BYTES_MAX, Header, Opcode, Violation, parse_agreed_header, parse_close, unmask};

/// Bytes of one event: straight from the read scratch (unmasked in place), or owned when they came in pieces.
#[derive(Debug)]
pub enum Payload<'b> {
    Borrowed(&'b [u8]),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Payload<'_> {
    type Target = [u8];
    #[inline]
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
    /// The same of a compressed message: it has still to be inflated, and then text to be checked.
    Compressed {
        text: bool,
        payload: Payload<'b>,
    },
    Ping(Payload<'b>),
    Pong(Payload<'b>),
    /// `code` is None when the close frame was empty. The reason is valid UTF-8. This ends the stream: what follows in the input means
    /// nothing (RFC 6455, 5.5.1), and the caller drops it instead of calling [`Inbound::next`] again.
    Close {
        code: Option<u16>,
        reason: Payload<'b>,
    },
}

/// By what a connection's frames are read.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub message_bytes_max: usize,
    /// permessage-deflate was agreed.
    pub deflate: bool,
}

impl Terms {
    /// What the payloads of a message may have together. What does not get shorter by compressing gets a little longer (a fifteenth, by the clumsiest that was
    /// measured), and may be as long as any other once it is inflated.
    fn payload_bytes_max(self, compressed: bool) -> usize {
        if compressed { self.message_bytes_max + self.message_bytes_max / 8 + 64 } else { self.message_bytes_max }
    }
}

/// What a connection must remember between reads; 8 bytes and no heap while nothing is split.
#[derive(Debug, Default)]
pub struct Inbound {
    spill: Option<Box<Spill>>,
}

const _: () = assert!(size_of::<Inbound>() == 8);

/// What has come of something that is not whole yet. Never kept when it says nothing: no cut and no message.
#[derive(Debug, Default)]
struct Spill {
    cut: Cut,
    /// Payload bytes of the control frame that the cut is in. Apart from the message: a control frame may stand between its fragments.
    control: Vec<u8>,
    /// The message under way: some of its payload has come, or a fragment that was empty.
    message: Option<Message>,
}

/// Where the last read ended.
#[derive(Debug, Default, Clone, Copy)]
enum Cut {
    /// Between two frames.
    #[default]
    Between,
    /// In a header, of which `len` bytes have come: at least one, not all.
    Header { bytes: [u8; CLIENT_HEADER_BYTES_MAX], len: u8 },
    /// In the payload of the frame with this header, of which `received` bytes have come: not all, perhaps none.
    Payload { header: Header, received: usize },
}

#[derive(Debug)]
struct Message {
    text: bool,
    compressed: bool,
    bytes: Vec<u8>,
    /// Text that is not compressed: this many leading bytes are whole characters; at most three more are the start of one.
    checked: usize,
}

/// A frame, and what of its payload lies in the input.
struct Part<'b> {
    header: Header,
    chunk: &'b mut [u8],
    /// Payload bytes of this frame that came with earlier reads.
    received: usize,
    /// The chunk ends the frame.
    ends: bool,
}

impl Inbound {
    /// Takes the next event off `input`, which is advanced past what was consumed. `Ok(None)` means everything was consumed
    /// and more bytes are needed.
    ///
    /// After [`Event::Close`] or an error the connection has nothing more to say: its memory is gone, and the caller ignores the
    /// rest of the input.
    #[inline]
    pub fn next<'b>(&mut self, input: &mut &'b mut [u8], message_bytes_max: usize) -> Result<Option<Event<'b>>, Violation> {
        self.next_by(input, Terms { message_bytes_max, deflate: false })
    }

    /// The same, with what else was agreed.
    #[inline]
    pub fn next_by<'b>(&mut self, input: &mut &'b mut [u8], terms: Terms) -> Result<Option<Event<'b>>, Violation> {
        let result = self.next_event(input, terms);
        if matches!(result, Err(_) | Ok(Some(Event::Close { .. }))) {
            self.spill = None;
        }
        result
    }

    /// Heap bytes held for this connection now: 0 between messages.
    pub fn buffered_bytes(&self) -> usize {
        match &self.spill {
            None => 0,
            Some(spill) => {
                size_of::<Spill>() + spill.control.capacity() + spill.message.as_ref().map_or(0, |message| message.bytes.capacity())
            }
        }
    }

    /// Whether a message has been begun and not ended. A control frame that was cut is none (RFC 6455, 5.5), and holds a header and 125 bytes at most.
    pub fn is_message_under_way(&self) -> bool {
        let Some(spill) = &self.spill else { return false };
        let opcode = match &spill.cut {
            Cut::Between => None,
            Cut::Header { bytes, .. } => Opcode::from_bits(bytes[0] & 0x0F),
            Cut::Payload { header, .. } => Some(header.opcode),
        };
        spill.message.is_some() || opcode.is_some_and(|opcode| !opcode.is_control())
    }

    fn next_event<'b>(&mut self, input: &mut &'b mut [u8], terms: Terms) -> Result<Option<Event<'b>>, Violation> {
        loop {
            let Some((header, received)) = self.header(input, terms)? else { return Ok(None) };
            // Fits: the header was checked against the limit, which is a usize.
            let rest = header.payload_len as usize - received;
            let ends = input.len() >= rest;
            let chunk = take(input, rest);
            unmask(chunk, header.mask, received);
            let part = Part { header, chunk, received, ends };
            let event = match header.opcode {
                Opcode::Close | Opcode::Ping | Opcode::Pong => self.control(part)?,
                Opcode::Continuation | Opcode::Text | Opcode::Binary => self.data(part, terms)?,
            };
            if event.is_some() || !ends {
                return Ok(event);
            }
        }
    }

    /// The header of the frame that `input` begins in or with, and how much of its payload came before. None when the input ends first.
    #[inline]
    fn header(&mut self, input: &mut &mut [u8], terms: Terms) -> Result<Option<(Header, usize)>, Violation> {
        let header = match self.spill.as_ref().map_or(Cut::Between, |spill| spill.cut) {
            Cut::Payload { header, received } => return Ok(Some((header, received))),
            Cut::Between => match parse_agreed_header(input, terms.deflate)? {
                Some(header) => {
                    take(input, header.header_len as usize);
                    header
                }
                None if input.is_empty() => return Ok(None),
                None => {
                    let mut bytes = [0; CLIENT_HEADER_BYTES_MAX];
                    let len = input.len();
                    bytes[..len].copy_from_slice(take(input, len));
                    self.set_cut(Cut::Header { bytes, len: len as u8 });
                    return Ok(None);
                }
            },
            Cut::Header { mut bytes, len } => {
                let len = len as usize;
                let filled = CLIENT_HEADER_BYTES_MAX.min(len + input.len());
                bytes[len..filled].copy_from_slice(&input[..filled - len]);
                match parse_agreed_header(&bytes[..filled], terms.deflate)? {
                    Some(header) => {
                        take(input, header.header_len as usize - len);
                        self.set_cut(Cut::Between);
                        header
                    }
                    None => {
                        // No header is longer than the array, so what did not fill it was all of the input.
                        take(input, filled - len);
                        self.set_cut(Cut::Header { bytes, len: filled as u8 });
                        return Ok(None);
                    }
                }
            }
        };
        self.check_order_and_size(&header, terms)?;
        Ok(Some((header, 0)))
    }

    /// The rules that a header alone cannot show: fragments in order, and the message within its limit once this frame is part of it.
    #[inline]
    fn check_order_and_size(&self, header: &Header, terms: Terms) -> Result<(), Violation> {
        let message = self.spill.as_ref().and_then(|spill| spill.message.as_ref());
        match (header.opcode, message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation, None) => return Err(Violation::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::ExpectedContinuation),
            (Opcode::Continuation, Some(_)) | (Opcode::Text | Opcode::Binary, None) => {}
        }
        let collected = message.map_or(0, |message| message.bytes.len());
        let bytes_max = terms.payload_bytes_max(message.map_or(header.compressed, |message| message.compressed));
        if header.payload_len > bytes_max.saturating_sub(collected) as u64 {
            return Err(Violation::MessageTooBig { bytes_max: terms.message_bytes_max });
        }
        Ok(())
    }

    /// A chunk of a text, binary or continuation frame.
    fn data<'b>(&mut self, part: Part<'b>, terms: Terms) -> Result<Option<Event<'b>>, Violation> {
        let Part { header, chunk, received, ends } = part;
        let begins = header.opcode != Opcode::Continuation && received == 0;
        if begins && ends && header.fin {
            // The whole message lies in the input. A spill is left here only if the header was split.
            self.spill = None;
            let text = header.opcode == Opcode::Text;
            if header.compressed {
                return Ok(Some(Event::Compressed { text, payload: Payload::Borrowed(chunk) }));
            }
            if text && std::str::from_utf8(chunk).is_err() {
                return Err(Violation::TextNotUtf8);
            }
            return Ok(Some(Event::Message { text, payload: Payload::Borrowed(chunk) }));
        }

        let spill = self.spill.get_or_insert_default();
        spill.cut = if ends { Cut::Between } else { Cut::Payload { header, received: received + chunk.len() } };
        if chunk.is_empty() && !ends {
            return Ok(None);
        }
        if begins {
            let (text, compressed) = (header.opcode == Opcode::Text, header.compressed);
            spill.message = Some(Message { text, compressed, bytes: Vec::new(), checked: 0 });
        }
        let message = spill.message.as_mut().expect("a continuation was checked to continue a message");
        // What the message can still grow to: known once its last frame is here.
        let rest = header.payload_len as usize - received;
        let len_max = if header.fin { message.bytes.len() + rest } else { terms.payload_bytes_max(message.compressed) };
        message.append(chunk, len_max, ends && header.fin)?;
        if !(ends && header.fin) {
            return Ok(None);
        }
        let message = spill.message.take();
        self.spill = None;
        Ok(message.map(|Message { text, compressed, bytes, .. }| {
            let payload = Payload::Owned(bytes);
            if compressed { Event::Compressed { text, payload } } else { Event::Message { text, payload } }
        }))
    }

    /// A chunk of a close, ping or pong frame, perhaps between the fragments of a message, which stays as it is.
    fn control<'b>(&mut self, part: Part<'b>) -> Result<Option<Event<'b>>, Violation> {
        let Part { header, chunk, received, ends } = part;
        if !ends {
            let spill = self.spill.get_or_insert_default();
            spill.cut = Cut::Payload { header, received: received + chunk.len() };
            extend(&mut spill.control, chunk, header.payload_len as usize);
            return Ok(None);
        }
        let payload = match &mut self.spill {
            Some(spill) if !spill.control.is_empty() => {
                let mut bytes = std::mem::take(&mut spill.control);
                bytes.extend_from_slice(chunk);
                Payload::Owned(bytes)
            }
            Some(_) | None => Payload::Borrowed(chunk),
        };
        self.set_cut(Cut::Between);
        Ok(Some(match header.opcode {
            Opcode::Ping => Event::Ping(payload),
            Opcode::Pong => Event::Pong(payload),
            Opcode::Close => close_event(payload)?,
            Opcode::Continuation | Opcode::Text | Opcode::Binary => unreachable!("a data frame"),
        }))
    }

    /// Notes where the input was cut, and lets the spill go when there is nothing to note.
    fn set_cut(&mut self, cut: Cut) {
        match (cut, &mut self.spill) {
            (Cut::Between, None) => {}
            (Cut::Between, Some(spill)) if spill.message.is_none() => self.spill = None,
            (cut, spill) => spill.get_or_insert_default().cut = cut,
        }
    }
}

impl Message {
    /// Adds bytes that came. `len_max` is what the message can grow to, so that doubling stops there; `last` when these bytes end it.
    fn append(&mut self, chunk: &[u8], len_max: usize, last: bool) -> Result<(), Violation> {
        extend(&mut self.bytes, chunk, len_max);
        if !self.text || self.compressed {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            // The bytes end within a character that may still become one.
            Err(error) if error.error_len().is_none() && !last => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::TextNotUtf8),
        }
        Ok(())
    }
}

/// Appends, growing to twice what came but not past `len_max`: an announced length bounds the memory and never asks for it.
fn extend(bytes: &mut Vec<u8>, chunk: &[u8], len_max: usize) {
    let needed = bytes.len() + chunk.len();
    if needed > bytes.capacity() {
        let capacity = needed.saturating_mul(2).min(len_max).max(needed);
        bytes.reserve_exact(capacity - bytes.len());
    }
    bytes.extend_from_slice(chunk);
}

fn close_event(payload: Payload<'_>) -> Result<Event<'_>, Violation> {
    let Some((code, _)) = parse_close(&payload)? else {
        return Ok(Event::Close { code: None, reason: payload });
    };
    let reason = match payload {
        Payload::Borrowed(bytes) => Payload::Borrowed(&bytes[2..]),
        Payload::Owned(mut bytes) => {
            bytes.drain(..2);
            Payload::Owned(bytes)
        }
    };
    Ok(Event::Close { code: Some(code), reason })
}

/// Takes up to `len` bytes off the front.
#[inline]
fn take<'b>(input: &mut &'b mut [u8], len: usize) -> &'b mut [u8] {
    let len = len.min(input.len());
    let (head, tail) = std::mem::take(input).split_at_mut(len);
    *input = tail;
    head
}
