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

use super::frame::{CLIENT_HEADER_BYTES_MAX, Header, Opcode, Violation, parse_close, parse_header, unmask};

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
    Ping(Payload<'b>),
    Pong(Payload<'b>),
    /// `code` is None when the close frame was empty. The reason is valid UTF-8. This ends the stream: what follows in the input means
    /// nothing (RFC 6455, 5.5.1), and the caller drops it instead of calling [`Inbound::next`] again.
    Close {
        code: Option<u16>,
        reason: Payload<'b>,
    },
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
    bytes: Vec<u8>,
    /// Text: this many leading bytes are whole characters; at most three more are the start of one.
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
        let result = self.next_event(input, message_bytes_max);
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

    fn next_event<'b>(&mut self, input: &mut &'b mut [u8], message_bytes_max: usize) -> Result<Option<Event<'b>>, Violation> {
        loop {
            let Some((header, received)) = self.header(input, message_bytes_max)? else { return Ok(None) };
            // Fits: the header was checked against the limit, which is a usize.
            let rest = header.payload_len as usize - received;
            let ends = input.len() >= rest;
            let chunk = take(input, rest);
            unmask(chunk, header.mask, received);
            let part = Part { header, chunk, received, ends };
            let event = match header.opcode {
                Opcode::Close | Opcode::Ping | Opcode::Pong => self.control(part)?,
                Opcode::Continuation | Opcode::Text | Opcode::Binary => self.data(part, message_bytes_max)?,
            };
            if event.is_some() || !ends {
                return Ok(event);
            }
        }
    }

    /// The header of the frame that `input` begins in or with, and how much of its payload came before. None when the input ends first.
    #[inline]
    fn header(&mut self, input: &mut &mut [u8], message_bytes_max: usize) -> Result<Option<(Header, usize)>, Violation> {
        let header = match self.spill.as_ref().map_or(Cut::Between, |spill| spill.cut) {
            Cut::Payload { header, received } => return Ok(Some((header, received))),
            Cut::Between => match parse_header(input)? {
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
                match parse_header(&bytes[..filled])? {
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
        self.check_order_and_size(&header, message_bytes_max)?;
        Ok(Some((header, 0)))
    }

    /// The rules that a header alone cannot show: fragments in order, and the message within its limit once this frame is part of it.
    #[inline]
    fn check_order_and_size(&self, header: &Header, message_bytes_max: usize) -> Result<(), Violation> {
        let message = self.spill.as_ref().and_then(|spill| spill.message.as_ref());
        match (header.opcode, message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation, None) => return Err(Violation::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::ExpectedContinuation),
            (Opcode::Continuation, Some(_)) | (Opcode::Text | Opcode::Binary, None) => {}
        }
        let collected = message.map_or(0, |message| message.bytes.len());
        if header.payload_len > message_bytes_max.saturating_sub(collected) as u64 {
            return Err(Violation::MessageTooBig { bytes_max: message_bytes_max });
        }
        Ok(())
    }

    /// A chunk of a text, binary or continuation frame.
    fn data<'b>(&mut self, part: Part<'b>, message_bytes_max: usize) -> Result<Option<Event<'b>>, Violation> {
        let Part { header, chunk, received, ends } = part;
        let begins = header.opcode != Opcode::Continuation && received == 0;
        if begins && ends && header.fin {
            // The whole message lies in the input. A spill is left here only if the header was split.
            self.spill = None;
            let text = header.opcode == Opcode::Text;
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
            spill.message = Some(Message { text: header.opcode == Opcode::Text, bytes: Vec::new(), checked: 0 });
        }
        let message = spill.message.as_mut().expect("a continuation was checked to continue a message");
        // What the message can still grow to: known once its last frame is here.
        let rest = header.payload_len as usize - received;
        let len_max = if header.fin { message.bytes.len() + rest } else { message_bytes_max };
        message.append(chunk, len_max, ends && header.fin)?;
        if !(ends && header.fin) {
            return Ok(None);
        }
        let message = spill.message.take();
        self.spill = None;
        Ok(message.map(|Message { text, bytes, .. }| Event::Message { text, payload: Payload::Owned(bytes) }))
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
        if !self.text {
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

#[cfg(test)]
mod tests {
    use super::Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
    use super::*;
    use crate::wire::frame::{CLOSE_REASON_BYTES_MAX, encode_masked_frame};

    const MASK: [u8; 4] = [0x9A, 0x00, 0x5C, 0xE1];
    const LIMIT: usize = 300;

    /// An event with its bytes copied out, and whether they had to be collected.
    #[derive(Debug, Clone, PartialEq)]
    enum Seen {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
    }

    fn seen(event: &Event<'_>) -> Seen {
        let utf8 = |payload: &[u8]| String::from_utf8(payload.to_vec()).expect("checked by Inbound");
        match event {
            Event::Message { text: true, payload } => Seen::Text(utf8(payload)),
            Event::Message { text: false, payload } => Seen::Binary(payload.to_vec()),
            Event::Ping(payload) => Seen::Ping(payload.to_vec()),
            Event::Pong(payload) => Seen::Pong(payload.to_vec()),
            Event::Close { code, reason } => Seen::Close(*code, utf8(reason)),
        }
    }

    /// Feeds the pieces as reads would bring them, until a close, a violation or the end.
    fn feed<'p>(inbound: &mut Inbound, pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Seen>, Option<Violation>) {
        let mut events = Vec::new();
        for piece in pieces {
            let mut scratch = piece.to_vec();
            let mut input = scratch.as_mut_slice();
            loop {
                match inbound.next(&mut input, LIMIT) {
                    Ok(None) => break assert!(input.is_empty()),
                    Ok(Some(event)) => events.push(seen(&event)),
                    Err(violation) => return (events, Some(violation)),
                }
                if let Some(Seen::Close(..)) = events.last() {
                    return (events, None);
                }
            }
        }
        (events, None)
    }

    /// The same outcome whole, split in two at every byte, and in pieces of every size; nothing is left behind at the end.
    fn check_every_split(stream: &[u8], expected: &[Seen], violation: Option<Violation>) {
        let mut splits: Vec<Vec<&[u8]>> = (0..=stream.len()).map(|at| vec![&stream[..at], &stream[at..]]).collect();
        splits.extend((1..=stream.len()).map(|size| stream.chunks(size).collect()));
        for pieces in splits {
            let lengths: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
            let mut inbound = Inbound::default();
            let outcome = feed(&mut inbound, pieces);
            assert_eq!(outcome, (expected.to_vec(), violation.clone()), "split as {lengths:?}");
            assert_eq!(inbound.buffered_bytes(), 0, "split as {lengths:?}");
        }
    }

    fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_masked_frame(&mut bytes, fin, opcode, MASK, payload);
        bytes
    }

    #[test]
    fn every_kind_of_frame_at_every_split() {
        let long = vec![0xAB; 200];
        let stream = [
            frame(true, Text, b"hello"),
            frame(true, Text, b""),
            frame(true, Binary, &long),
            frame(true, Ping, b"are you there"),
            frame(true, Ping, b""),
            frame(true, Pong, b"x"),
            frame(false, Text, "a€".as_bytes()),
            frame(true, Continuation, "😀".as_bytes()),
            frame(true, Close, b"\x0F\xA0later, caf\xC3\xA9"),
            frame(true, Text, b"after the end"),
        ]
        .concat();
        let expected = [
            Seen::Text("hello".into()),
            Seen::Text(String::new()),
            Seen::Binary(long),
            Seen::Ping(b"are you there".to_vec()),
            Seen::Ping(vec![]),
            Seen::Pong(b"x".to_vec()),
            Seen::Text("a€😀".into()),
            Seen::Close(Some(4000), "later, café".into()),
        ];
        check_every_split(&stream, &expected, None);
    }

    #[test]
    fn control_frames_between_fragments_and_characters_cut_by_fragments_at_every_split() {
        let text = "zażółć 😀".as_bytes();
        let mut stream = frame(false, Text, b"");
        for (at, byte) in text.iter().enumerate() {
            stream.extend(frame(false, Continuation, &[*byte]));
            stream.extend(frame(true, if at % 2 == 0 { Ping } else { Pong }, &[at as u8; 3]));
        }
        stream.extend(frame(false, Continuation, b""));
        stream.extend(frame(true, Continuation, b""));
        stream.extend(frame(true, Close, b""));
        let mut expected: Vec<Seen> =
            (0..text.len()).map(|at| if at % 2 == 0 { Seen::Ping(vec![at as u8; 3]) } else { Seen::Pong(vec![at as u8; 3]) }).collect();
        expected.push(Seen::Text("zażółć 😀".into()));
        expected.push(Seen::Close(None, String::new()));
        check_every_split(&stream, &expected, None);
    }

    #[test]
    fn each_violation_at_every_split() {
        let raw = |bytes: &[u8]| bytes.to_vec();
        let begun = || frame(false, Text, b"begun");
        let cases: Vec<(Vec<u8>, Violation, u16)> = vec![
            (raw(&[0xC1, 0x80, 0, 0, 0, 0]), Violation::ReservedBits, 1002),
            (raw(&[0x83, 0x80, 0, 0, 0, 0]), Violation::ReservedOpcode { opcode: 3 }, 1002),
            (raw(&[0x8B, 0x80, 0, 0, 0, 0]), Violation::ReservedOpcode { opcode: 11 }, 1002),
            (raw(&[0x81, 0x01, b'a']), Violation::Unmasked, 1002),
            (raw(&[0x81, 0xFE, 0, 1, 0, 0, 0, 0, b'a']), Violation::LengthNotMinimal, 1002),
            (raw(&[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0, 126, 0, 0, 0, 0]), Violation::LengthNotMinimal, 1002),
            (raw(&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0]), Violation::LengthTooLong, 1002),
            (frame(false, Ping, b""), Violation::ControlFragmented, 1002),
            ([begun(), frame(false, Close, b"")].concat(), Violation::ControlFragmented, 1002),
            (frame(true, Pong, &[0; 126]), Violation::ControlTooLong, 1002),
            (frame(true, Continuation, b"x"), Violation::UnexpectedContinuation, 1002),
            ([begun(), frame(true, Text, b"x")].concat(), Violation::ExpectedContinuation, 1002),
            ([frame(false, Binary, b""), frame(false, Binary, b"")].concat(), Violation::ExpectedContinuation, 1002),
            (frame(true, Close, &[3]), Violation::CloseTooShort, 1002),
            (frame(true, Close, &[0x03, 0xEE]), Violation::CloseCode { code: 1006 }, 1002),
            ([begun(), frame(true, Close, b"\x03\xE8\xFF")].concat(), Violation::CloseReasonNotUtf8, 1007),
            (frame(true, Text, b"abc\xFFdef"), Violation::TextNotUtf8, 1007),
            (frame(true, Text, b"abc\xE2\x82"), Violation::TextNotUtf8, 1007),
            ([begun(), frame(true, Continuation, b"\xE2\x82")].concat(), Violation::TextNotUtf8, 1007),
            ([frame(false, Text, b"\xE2\x82"), frame(true, Continuation, b"")].concat(), Violation::TextNotUtf8, 1007),
            ([frame(false, Text, b"\xE2\x82"), frame(true, Continuation, b"a")].concat(), Violation::TextNotUtf8, 1007),
            (frame(true, Binary, &[0; LIMIT + 1]), Violation::MessageTooBig { bytes_max: LIMIT }, 1009),
            ([begun(), frame(true, Continuation, &[b'a'; LIMIT - 4])].concat(), Violation::MessageTooBig { bytes_max: LIMIT }, 1009),
        ];
        for (bytes, violation, close_code) in cases {
            assert_eq!(violation.close_reason().goodbye().unwrap().code, close_code);
            let text = violation.to_string();
            assert!(text.len() <= CLOSE_REASON_BYTES_MAX, "{text}");
            let stream = [frame(false, Text, b"go"), frame(true, Continuation, b"od"), bytes].concat();
            check_every_split(&stream, &[Seen::Text("good".into())], Some(violation));
        }
    }

    #[test]
    fn what_came_in_one_piece_is_lent_and_costs_no_heap() {
        let mut scratch = [frame(true, Text, b"one"), frame(true, Binary, &[2; 200]), frame(true, Ping, b"3")].concat();
        let mut input = scratch.as_mut_slice();
        let mut inbound = Inbound::default();
        for _ in 0..3 {
            match inbound.next(&mut input, LIMIT).unwrap().unwrap() {
                Event::Message { payload, .. } | Event::Ping(payload) => assert!(matches!(payload, Payload::Borrowed(_))),
                other => panic!("{other:?}"),
            }
            assert_eq!(inbound.buffered_bytes(), 0);
        }
        assert!(inbound.next(&mut input, LIMIT).unwrap().is_none());
        assert_eq!(inbound.buffered_bytes(), 0);
    }

    #[test]
    fn a_payload_whose_header_alone_was_split_off_is_still_lent() {
        let bytes = frame(true, Text, b"payload in one piece");
        for split in 1..=6 {
            let mut scratch = bytes.clone();
            let (mut head, mut tail) = scratch.split_at_mut(split);
            let mut inbound = Inbound::default();
            assert!(inbound.next(&mut head, LIMIT).unwrap().is_none());
            assert!(inbound.buffered_bytes() > 0);
            let event = inbound.next(&mut tail, LIMIT).unwrap().unwrap();
            assert!(matches!(event, Event::Message { text: true, payload: Payload::Borrowed(b"payload in one piece") }), "{event:?}");
            assert_eq!(inbound.buffered_bytes(), 0);
        }
    }

    #[test]
    fn text_that_can_never_become_utf8_is_refused_before_the_rest_of_it_comes() {
        // Overlong, surrogate, above U+10FFFF, a lone continuation byte, a byte that never occurs, a sequence broken off.
        for bad in [&b"\xC0"[..], b"\xE0\x80", b"\xED\xA0", b"\xF4\x90", b"\xF5", b"\x80", b"\xFF", b"\xE2\x82a"] {
            let payload = [&b"fine so far "[..], bad].concat();
            for (fin, announced) in [(true, 200), (false, 200), (false, payload.len())] {
                let mut whole = payload.clone();
                whole.resize(announced, b'x');
                let bytes = frame(fin, Text, &whole);
                let cut = bytes.len() - announced + payload.len();
                let (events, violation) = feed(&mut Inbound::default(), bytes[..cut].chunks(1));
                assert_eq!((events, violation), (vec![], Some(Violation::TextNotUtf8)), "{bad:x?}");
                // One byte less and it may still be a character.
                let (events, violation) = feed(&mut Inbound::default(), [&bytes[..cut - 1]]);
                assert_eq!((events, violation), (vec![], None), "{bad:x?}");
            }
        }
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_with_its_header() {
        let mut inbound = Inbound::default();
        let header = [0x82, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4];
        assert_eq!(feed(&mut inbound, header.chunks(1)), (vec![], Some(Violation::MessageTooBig { bytes_max: LIMIT })));
        assert_eq!(inbound.buffered_bytes(), 0);
        let full = frame(true, Binary, &[1; LIMIT]);
        assert_eq!(feed(&mut inbound, [&full[..]]), (vec![Seen::Binary(vec![1; LIMIT])], None));
        let fragments = [frame(false, Binary, &[1; LIMIT]), frame(true, Continuation, b"")].concat();
        assert_eq!(feed(&mut inbound, fragments.chunks(7)), (vec![Seen::Binary(vec![1; LIMIT])], None));
    }

    #[test]
    fn memory_follows_the_bytes_that_came() {
        const BIG: usize = 1 << 20;
        for fin in [true, false] {
            let bytes = frame(fin, Binary, &vec![5; BIG]);
            let mut inbound = Inbound::default();
            let mut came = 0;
            for piece in bytes[..bytes.len() - 1].chunks(1000) {
                let mut scratch = piece.to_vec();
                assert!(inbound.next(&mut scratch.as_mut_slice(), BIG).unwrap().is_none());
                came += piece.len();
                let held = inbound.buffered_bytes();
                assert!(held <= size_of::<Spill>() + (2 * came).min(BIG), "{held} bytes held after {came}");
            }
        }
    }

    #[test]
    fn a_violation_or_a_close_gives_the_memory_back() {
        let begun = frame(false, Binary, &[1; 250]);
        for end in [frame(true, Close, b""), frame(true, Text, b"")] {
            let mut inbound = Inbound::default();
            feed(&mut inbound, [&begun[..]]);
            assert!(inbound.buffered_bytes() > 250);
            feed(&mut inbound, [&end[..]]);
            assert_eq!(inbound.buffered_bytes(), 0);
        }
    }
}
