//! The wire code against tungstenite: for the same bytes, split in any way, both must see the same events or both must refuse.
//!
//! Known differences, each with a test of its own here, and kept out of the generated cases or allowed for:
//!
//! - A length that is not minimal: RFC 6455 (5.2) forbids it and `Inbound` refuses it; tungstenite reads it.
//! - Close code 1014: IANA registered it and `Inbound` takes it; tungstenite calls it a protocol violation.
//! - A close code that must not be sent: `Inbound` refuses the frame; tungstenite reports a close with 1002 and a reason of its own.
//! - When a refusal comes: `Inbound` refuses with the first byte that shows the fault, tungstenite once the frame is complete.
//! - Upgrade requests: see [`HeadCase`].

use campanile::wire::frame::{Opcode, Violation, encode_masked_frame};
use campanile::wire::http::head::FieldRoom;
use campanile::wire::http::{self, Outcome, Rules};
use campanile::wire::inbound::{Event, Inbound};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{self, Read, Write};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

/// Small, so that the limit is met often.
const MESSAGE_BYTES_MAX: usize = 400;
/// What a connection may hold for a split message of at most that size: its bytes, those of a control frame, and the box itself.
const HELD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 125 + 128;

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, Vec<u8>),
}

/// How a stream of bytes ended.
#[derive(Debug, Clone, PartialEq)]
enum End {
    /// More bytes could follow.
    Open,
    Closed,
    /// With the close code, where it is known.
    Refused(Option<u16>),
}

/// Feeds pieces of the given sizes, repeated, as reads would bring them.
fn ours(stream: &[u8], piece_sizes: &[usize]) -> (Vec<Seen>, End) {
    let mut inbound = Inbound::default();
    let mut events = Vec::new();
    let mut rest = stream;
    let mut sizes = piece_sizes.iter().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((*sizes.next().expect("a cycle")).clamp(1, rest.len()));
        rest = after;
        let mut scratch = piece.to_vec();
        let mut input = scratch.as_mut_slice();
        loop {
            let event = match inbound.next(&mut input, MESSAGE_BYTES_MAX) {
                Ok(Some(event)) => event,
                Ok(None) => break assert!(input.is_empty()),
                Err(violation) => {
                    assert_eq!(inbound.buffered_bytes(), 0);
                    return (events, End::Refused(violation.close_reason().goodbye().map(|goodbye| goodbye.code)));
                }
            };
            events.push(match event {
                Event::Message { text: true, payload } => Seen::Text(payload.to_vec()),
                Event::Message { text: false, payload } => Seen::Binary(payload.to_vec()),
                Event::Ping(payload) => Seen::Ping(payload.to_vec()),
                Event::Pong(payload) => Seen::Pong(payload.to_vec()),
                Event::Close { code, reason } => {
                    events.push(Seen::Close(code, reason.to_vec()));
                    assert_eq!(inbound.buffered_bytes(), 0);
                    return (events, End::Closed);
                }
            });
        }
        assert!(inbound.buffered_bytes() <= HELD_BYTES_MAX, "{} bytes held", inbound.buffered_bytes());
    }
    (events, End::Open)
}

/// A stream with bytes to read and nowhere to write; reading past the end would block.
struct Bytes<'b>(&'b [u8]);

impl Read for Bytes<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(buf) }
    }
}

impl Write for Bytes<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(stream: &[u8]) -> (Vec<Seen>, End) {
    let config = WebSocketConfig::default()
        .read_buffer_size(512)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let mut stream = Bytes(stream);
    let mut events = Vec::new();
    let end = loop {
        events.push(match context.read(&mut stream) {
            Ok(Message::Text(text)) => Seen::Text(text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => Seen::Binary(bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Seen::Ping(bytes.to_vec()),
            Ok(Message::Pong(bytes)) => Seen::Pong(bytes.to_vec()),
            Ok(Message::Close(None)) => {
                events.push(Seen::Close(None, vec![]));
                break End::Closed;
            }
            // Its answer to a close code that must not be sent.
            Ok(Message::Close(Some(close))) if u16::from(close.code) == 1002 && close.reason == "Protocol violation" => {
                break End::Refused(Some(1002));
            }
            Ok(Message::Close(Some(close))) => {
                events.push(Seen::Close(Some(close.code.into()), close.reason.as_bytes().to_vec()));
                break End::Closed;
            }
            Ok(Message::Frame(frame)) => panic!("a raw frame was read: {frame}"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break End::Open,
            Err(Error::Protocol(_)) => break End::Refused(Some(1002)),
            Err(Error::Utf8(_)) => break End::Refused(Some(1007)),
            Err(Error::Capacity(_)) => break End::Refused(Some(1009)),
            Err(error) => panic!("{error}"),
        });
    };
    (events, end)
}

/// The comparison. `one_fault` when the stream has at most one, so that the close codes can be compared too: of two faults in one
/// frame, each side may name another.
fn compare(stream: &[u8], piece_sizes: &[usize], one_fault: bool) -> Result<(), TestCaseError> {
    let (our_events, our_end) = ours(stream, piece_sizes);
    let (mut their_events, mut their_end) = theirs(stream);
    if matches!(our_end, End::Refused(_)) && their_end == End::Open {
        // We refused a frame that is not complete: complete it, and they must refuse it too. The filler is longer than any
        // frame under the limit; what follows that frame is refused for certain, being unmasked, but events before it would show.
        let filled = [stream, &[0; MESSAGE_BYTES_MAX + 14]].concat();
        (their_events, their_end) = theirs(&filled);
    }
    prop_assert_eq!(&our_events, &their_events);
    match (&our_end, &their_end) {
        (End::Refused(ours), End::Refused(theirs)) => prop_assert!(!one_fault || ours == theirs, "{:?} {:?}", ours, theirs),
        (ours, theirs) => prop_assert_eq!(ours, theirs),
    }
    Ok(())
}

/// A frame of a stream; messages may be fragmented, with control frames between the fragments.
#[derive(Debug, Clone)]
struct Frame {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    payload: Vec<u8>,
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut stream = Vec::new();
    for frame in frames {
        encode_masked_frame(&mut stream, frame.fin, frame.opcode, frame.mask, &frame.payload);
    }
    stream
}

fn any_control_frame() -> impl Strategy<Value = Frame> {
    (prop_oneof![Just(Opcode::Ping), Just(Opcode::Pong)], any::<[u8; 4]>(), vec(any::<u8>(), 0..=125))
        .prop_map(|(opcode, mask, payload)| Frame { fin: true, opcode, mask, payload })
}

fn any_close_frame() -> impl Strategy<Value = Frame> {
    // 1014 is a known difference.
    let code = prop_oneof![1000..=1003u16, 1007..=1013u16, 3000..=4999u16];
    let payload =
        prop_oneof![Just(vec![]), (code, "\\PC{0,30}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),];
    (any::<[u8; 4]>(), payload).prop_map(|(mask, payload)| Frame { fin: true, opcode: Opcode::Close, mask, payload })
}

/// A valid message in one to five fragments, cut anywhere, perhaps within a character.
fn any_message() -> impl Strategy<Value = Vec<Frame>> {
    let content = prop_oneof![
        3 => "\\PC{0,40}".prop_map(|text| (Opcode::Text, text.into_bytes())),
        2 => vec(any::<u8>(), 0..=MESSAGE_BYTES_MAX).prop_map(|bytes| (Opcode::Binary, bytes)),
    ];
    let cuts = prop_oneof![2 => Just(vec![]), 1 => vec(any::<prop::sample::Index>(), 1..5)];
    (content, cuts, any::<[u8; 4]>(), vec(any_control_frame(), 0..3)).prop_map(|((opcode, payload), cuts, mask, controls)| {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(payload.len());
        let mut controls = controls.into_iter();
        let (mut frames, mut from) = (Vec::new(), 0);
        for (at, &to) in cuts.iter().enumerate() {
            let opcode = if at == 0 { opcode } else { Opcode::Continuation };
            frames.push(Frame { fin: at + 1 == cuts.len(), opcode, mask, payload: payload[from..to].to_vec() });
            frames.extend(controls.next());
            from = to;
        }
        frames
    })
}

/// A valid stream, which may end with a close.
fn any_stream() -> impl Strategy<Value = Vec<Frame>> {
    (vec(any_message(), 0..6), proptest::option::of(any_close_frame())).prop_map(|(messages, close)| {
        let mut frames: Vec<Frame> = messages.into_iter().flatten().collect();
        frames.extend(close);
        frames
    })
}

fn any_piece_sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), Just(vec![usize::MAX]), vec(1..20usize, 1..10), vec(1..600usize, 1..10)]
}

/// One thing done to one frame that makes, or may make, the stream invalid.
#[derive(Debug, Clone)]
enum Fault {
    /// Sets bits of the first byte: reserved bits, fin, opcode.
    FirstByte(u8),
    Unmasked,
    Fin,
    Opcode(Opcode),
    /// Replaces a payload byte.
    Payload(prop::sample::Index, u8),
    /// Replaces the payload by this many bytes of `a`, over one limit or the other.
    Length(usize),
    /// Puts a close code in front.
    CloseCode(u16),
    Drop,
    Repeat,
}

fn any_fault() -> impl Strategy<Value = Fault> {
    const OPCODES: &[Opcode] = &[Opcode::Continuation, Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong];
    prop_oneof![
        (1..=255u8).prop_map(Fault::FirstByte),
        Just(Fault::Unmasked),
        Just(Fault::Fin),
        proptest::sample::select(OPCODES).prop_map(Fault::Opcode),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Fault::Payload(at, byte)),
        (0..=2 * MESSAGE_BYTES_MAX).prop_map(Fault::Length),
        any::<u16>().prop_filter("a known difference", |&code| code != 1014).prop_map(Fault::CloseCode),
        Just(Fault::Drop),
        Just(Fault::Repeat),
    ]
}

fn encode_with_fault(mut frames: Vec<Frame>, at: usize, fault: Fault) -> Vec<u8> {
    let start = encode(&frames[..at]).len();
    let frame = &mut frames[at];
    match fault {
        Fault::FirstByte(bits) => {
            let mut stream = encode(&frames);
            stream[start] ^= bits;
            return stream;
        }
        Fault::Unmasked => {
            let mut stream = encode(&frames);
            stream[start + 1] &= 0x7F;
            return stream;
        }
        Fault::Fin => frame.fin = !frame.fin,
        Fault::Opcode(opcode) => frame.opcode = opcode,
        Fault::Payload(at, byte) => {
            let length = frame.payload.len();
            if length > 0 {
                frame.payload[at.index(length)] = byte;
            }
        }
        Fault::Length(length) => frame.payload = vec![b'a'; length],
        Fault::CloseCode(code) => {
            *frame = Frame { fin: true, opcode: Opcode::Close, mask: frame.mask, payload: code.to_be_bytes().to_vec() };
        }
        Fault::Drop => drop(frames.remove(at)),
        Fault::Repeat => frames.insert(at, frames[at].clone()),
    }
    encode(&frames)
}

/// 1014 as a close code is a known difference, which corruption can also produce.
fn closes_with_1014(stream: &[u8]) -> bool {
    matches!(ours(stream, &[usize::MAX]).0.last(), Some(Seen::Close(Some(1014), _)))
}

/// So are lengths that are not minimal. Looks only as far as the first refusal.
fn has_length_not_minimal(stream: &[u8]) -> bool {
    let mut scratch = stream.to_vec();
    let mut input = scratch.as_mut_slice();
    let mut inbound = Inbound::default();
    loop {
        match inbound.next(&mut input, MESSAGE_BYTES_MAX) {
            Ok(Some(Event::Close { .. }) | None) => return false,
            Ok(Some(_)) => {}
            Err(violation) => return violation == Violation::LengthNotMinimal,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_streams_are_read_as_tungstenite_reads_them(frames in any_stream(), sizes in any_piece_sizes()) {
        let stream = encode(&frames);
        prop_assert!(!matches!(ours(&stream, &sizes).1, End::Refused(_)));
        compare(&stream, &sizes, true)?;
    }

    #[test]
    fn truncated_streams_give_the_same_events(frames in any_stream(), cut in any::<prop::sample::Index>(), sizes in any_piece_sizes()) {
        let stream = encode(&frames);
        compare(&stream[..cut.index(stream.len() + 1)], &sizes, true)?;
    }

    #[test]
    fn streams_with_one_fault_are_judged_alike(
        frames in any_stream().prop_filter("a frame to break", |frames| !frames.is_empty()),
        at in any::<prop::sample::Index>(),
        fault in any_fault(),
        sizes in any_piece_sizes(),
    ) {
        let at = at.index(frames.len());
        // A changed first byte, a lost mask or a replaced payload can break several rules at once.
        let one_fault = matches!(fault, Fault::Payload(..) | Fault::CloseCode(_) | Fault::Fin);
        let stream = encode_with_fault(frames, at, fault);
        prop_assume!(!closes_with_1014(&stream) && !has_length_not_minimal(&stream));
        compare(&stream, &sizes, one_fault)?;
    }

    #[test]
    fn streams_with_flipped_bytes_are_judged_alike(
        frames in any_stream(),
        flips in vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        sizes in any_piece_sizes(),
    ) {
        let mut stream = encode(&frames);
        prop_assume!(!stream.is_empty());
        let length = stream.len();
        for (at, bits) in flips {
            stream[at.index(length)] ^= bits;
        }
        prop_assume!(!closes_with_1014(&stream) && !has_length_not_minimal(&stream));
        compare(&stream, &sizes, false)?;
    }

    #[test]
    fn garbage_neither_panics_nor_holds_memory(garbage in vec(any::<u8>(), 0..2000), sizes in any_piece_sizes()) {
        // `ours` checks what is held after every read.
        let whole = ours(&garbage, &[usize::MAX]);
        prop_assert_eq!(ours(&garbage, &sizes), whole);
        prop_assume!(!closes_with_1014(&garbage) && !has_length_not_minimal(&garbage));
        compare(&garbage, &sizes, false)?;
    }

    #[test]
    fn garbage_as_a_head_does_not_panic(garbage in vec(any::<u8>(), 0..200), target in "\\PC{0,60}") {
        let rules = Rules { echo: true, head_bytes_max: 8192 };
        let _ = http::parse(&garbage, &mut FieldRoom::empty(), rules);
        let with_line = [b"GET /ws HTTP/1.1\r\n", &garbage[..], b"\r\n\r\n"].concat();
        let _ = http::parse(&with_line, &mut FieldRoom::empty(), rules);
        let with_target = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let _ = http::parse(with_target.as_bytes(), &mut FieldRoom::empty(), rules);
    }
}

#[test]
fn a_length_that_is_not_minimal_is_refused_where_tungstenite_reads_it() {
    let stream = [0x82, 0xFE, 0, 1, 0, 0, 0, 0, b'x'];
    assert_eq!(ours(&stream, &[1]), (vec![], End::Refused(Some(1002))));
    assert_eq!(theirs(&stream), (vec![Seen::Binary(b"x".to_vec())], End::Open));
}

#[test]
fn close_code_1014_is_taken_where_tungstenite_refuses_it() {
    let stream = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xF6];
    assert_eq!(ours(&stream, &[1]), (vec![Seen::Close(Some(1014), vec![])], End::Closed));
    assert_eq!(theirs(&stream), (vec![], End::Refused(Some(1002))));
}

/// Every close code, and every pair of first two bytes with a payload to match: few enough to try them all.
#[test]
fn every_close_code_and_every_short_header_is_judged_alike() {
    for code in (0..=u16::MAX).filter(|&code| code != 1014) {
        let frame = Frame { fin: true, opcode: Opcode::Close, mask: [1, 2, 3, 4], payload: code.to_be_bytes().to_vec() };
        compare(&encode(&[frame]), &[usize::MAX], true).unwrap();
    }
    for first in 0..=u8::MAX {
        for second in (0..=u8::MAX).filter(|second| !matches!(second & 0x7F, 126 | 127)) {
            let mut stream = vec![first, second, 0, 0, 0, 0];
            stream.resize(stream.len() + (second & 0x7F) as usize, 0x03);
            compare(&stream, &[usize::MAX], false).unwrap();
        }
    }
}

/// A request head in the spellings that clients, proxies and mistakes produce. None leaves the field out.
///
/// Known differences to tungstenite's `create_response`: it looks at the first of several Connection or Upgrade fields only, takes a space
/// for a separator in Connection, an Upgrade field that is exactly `websocket`, the first of several keys or versions, and does not ask
/// for Host or mind a body. So fields are generated once here, and Host is always there.
#[derive(Debug, Clone)]
struct HeadCase {
    method: &'static str,
    version: &'static str,
    connection: Option<&'static str>,
    upgrade: Option<&'static str>,
    websocket_version: Option<&'static str>,
    key: Option<String>,
    more: Vec<&'static str>,
}

impl HeadCase {
    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} /ws {}\r\nhost: example.org\r\n", self.method, self.version);
        let fields = [("Connection", self.connection), ("upgrade", self.upgrade), ("Sec-WebSocket-Version", self.websocket_version)];
        for (name, value) in fields.into_iter().chain([("Sec-WebSocket-Key", self.key.as_deref())]) {
            if let Some(value) = value {
                head += &format!("{name}: {value}\r\n");
            }
        }
        for line in &self.more {
            head += &format!("{line}\r\n");
        }
        (head + "\r\n").into_bytes()
    }
}

fn any_head() -> impl Strategy<Value = HeadCase> {
    use base64::Engine as _;
    use proptest::sample::{select, subsequence};
    // Mostly right, or no head would be: six fields must be.
    fn mostly(right: &'static [&'static str], wrong: &'static [Option<&'static str>]) -> impl Strategy<Value = Option<&'static str>> {
        prop_oneof![6 => select(right).prop_map(Some), 1 => select(wrong)]
    }
    let proper_key = any::<[u8; 16]>().prop_map(|key| base64::engine::general_purpose::STANDARD.encode(key));
    let key = prop_oneof![
        6 => proper_key.prop_map(Some),
        1 => prop_oneof![Just(None), "[A-Za-z0-9+/]{22,24}={0,2}".prop_map(Some), "[ -~]{24}".prop_map(Some)],
    ];
    let more =
        vec!["Origin: http://example.org", "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: chat", "Cookie: a=b"];
    (
        mostly(&["GET"], &[Some("POST"), Some("HEAD"), Some("get")]),
        mostly(&["HTTP/1.1"], &[Some("HTTP/1.0"), Some("HTTP/2.0")]),
        mostly(&["Upgrade", "upgrade", "keep-alive, Upgrade", "UPGRADE,close"], &[None, Some("close"), Some("upgraded"), Some("")]),
        mostly(&["websocket", "WebSocket"], &[None, Some("h2c"), Some("web socket"), Some("")]),
        mostly(&["13"], &[None, Some("8"), Some("013"), Some("13, 8"), Some("")]),
        key,
        subsequence(more, 0..=4),
    )
        .prop_map(|(method, version, connection, upgrade, websocket_version, key, more)| HeadCase {
            method: method.unwrap_or("GET"),
            version: version.unwrap_or("HTTP/1.1"),
            connection,
            upgrade,
            websocket_version,
            key,
            more,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn upgrades_are_granted_and_answered_as_tungstenite_does(case in any_head()) {
        let bytes = case.bytes();
        let their_answer = Request::try_parse(&bytes).ok().flatten().and_then(|(consumed, request)| {
            let answer = create_response(&request).ok()?;
            Some((consumed, answer.headers()["sec-websocket-accept"].to_str().ok()?.to_owned()))
        });
        let our_answer = match http::parse(&bytes, &mut FieldRoom::empty(), Rules { echo: false, head_bytes_max: 8192 }) {
            Outcome::Upgrade(upgrade) => Some((upgrade.head.bytes, upgrade.accept_key())),
            Outcome::Refuse(_) | Outcome::Options { .. } => None,
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(our_answer, their_answer);
    }
}
