use super::Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
use super::*;
use crate::wire::frame::{CLOSE_REASON_BYTES_MAX, encode_masked_compressed_frame, encode_masked_frame};

const MASK: [u8; 4] = [0x9A, 0x00, 0x5C, 0xE1];
const LIMIT: usize = 300;

/// An event with its bytes copied out, and whether they had to be collected.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Compressed(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

fn seen(event: &Event<'_>) -> Seen {
    let utf8 = |payload: &[u8]| String::from_utf8(payload.to_vec()).expect("checked by Inbound");
    match event {
        Event::Message { text: true, payload } => Seen::Text(utf8(payload)),
        Event::Message { text: false, payload } => Seen::Binary(payload.to_vec()),
        Event::Compressed { text, payload } => Seen::Compressed(*text, payload.to_vec()),
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

/// Feeds a stream as by somebody with whom permessage-deflate was agreed, in pieces of this size.
fn feed_agreed(stream: &[u8], piece: usize) -> (Vec<Seen>, Option<Violation>, usize) {
    let mut inbound = Inbound::default();
    let mut events = Vec::new();
    for part in stream.chunks(piece) {
        let mut scratch = part.to_vec();
        let mut input = scratch.as_mut_slice();
        loop {
            match inbound.next_by(&mut input, Terms { message_bytes_max: LIMIT, deflate: true }) {
                Ok(None) => break assert!(input.is_empty()),
                Ok(Some(event)) => events.push(seen(&event)),
                Err(violation) => return (events, Some(violation), inbound.buffered_bytes()),
            }
        }
    }
    (events, None, inbound.buffered_bytes())
}

fn compressed(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_masked_compressed_frame(&mut bytes, fin, opcode, MASK, payload);
    bytes
}

#[test]
fn compressed_messages_are_handed_on_as_they_came() {
    // No text is checked before it is inflated.
    let stream = [
        compressed(true, Text, b"\xFFa"),
        frame(true, Text, b"plain"),
        compressed(false, Binary, b"\xC0"),
        frame(true, Ping, b"p"),
        frame(false, Continuation, b""),
        frame(true, Continuation, b"\xAF"),
        compressed(false, Text, b""),
        frame(true, Continuation, b"\xED"),
        compressed(true, Text, b""),
    ]
    .concat();
    let expected = vec![
        Seen::Compressed(true, b"\xFFa".to_vec()),
        Seen::Text("plain".into()),
        Seen::Ping(b"p".to_vec()),
        Seen::Compressed(false, b"\xC0\xAF".to_vec()),
        Seen::Compressed(true, b"\xED".to_vec()),
        Seen::Compressed(true, vec![]),
    ];
    for piece in 1..=stream.len() {
        assert_eq!(feed_agreed(&stream, piece), (expected.clone(), None, 0), "in pieces of {piece}");
    }
}

#[test]
fn the_bit_is_for_the_first_frame_of_a_message_alone() {
    for bytes in [
        [frame(false, Text, b"a"), compressed(true, Continuation, b"b")].concat(),
        [compressed(false, Text, b"a"), compressed(true, Continuation, b"b")].concat(),
        compressed(true, Ping, b""),
        compressed(true, Close, b""),
        vec![0xB1, 0x80, 0, 0, 0, 0],
    ] {
        for piece in 1..=bytes.len() {
            let (events, violation, held) = feed_agreed(&bytes, piece);
            assert_eq!((events, violation, held), (vec![], Some(Violation::ReservedBits), 0), "{bytes:x?}");
        }
    }
}

#[test]
fn a_compressed_message_may_be_a_little_longer_than_it_will_be() {
    let most = LIMIT + LIMIT / 8 + 64;
    assert_eq!(feed_agreed(&compressed(true, Binary, &vec![1; most]), 100).0, [Seen::Compressed(false, vec![1; most])]);
    let fragments = [compressed(false, Binary, &vec![1; most]), frame(true, Continuation, b"x")].concat();
    for bytes in [compressed(true, Binary, &vec![1; most + 1]), fragments, frame(true, Binary, &[1; LIMIT + 1])] {
        let (events, violation, held) = feed_agreed(&bytes, 100);
        assert_eq!((events, violation, held), (vec![], Some(Violation::MessageTooBig { bytes_max: LIMIT }), 0));
    }
}
