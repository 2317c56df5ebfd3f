//! Frames of clients, in pieces, against tungstenite.

use std::io::{self, Read, Write};

use campanile::wire::frame::{Opcode, encode_masked_frame, parse_close, parse_header, parse_server_header};
use campanile::wire::inbound::{Event, Inbound};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use crate::mutate::{Mutated, mutated};
use crate::seeds::vectors;

const MESSAGE_BYTES_MAX: usize = 400;
/// What a connection may hold for it: its bytes, those of a control frame, and the box itself.
const HELD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 125 + 128;

fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked_frame(&mut out, fin, opcode, [0x37, 0xFA, 0x21, 0x3D], payload);
    out
}

fn streams() -> Mutated {
    let mut seeds: Vec<Vec<u8>> = vectors(&["command"], "msgpack").iter().map(|payload| frame(true, Opcode::Binary, payload)).collect();
    seeds.push(
        [frame(false, Opcode::Text, "€€".as_bytes()), frame(true, Opcode::Ping, b"p"), frame(true, Opcode::Continuation, b"x")].concat(),
    );
    seeds.push([frame(true, Opcode::Pong, b""), frame(true, Opcode::Close, b"\x03\xe8bye")].concat());
    seeds.push(frame(true, Opcode::Binary, &[7; 300]));
    seeds.push(frame(true, Opcode::Text, &[b'x'; 126]));
    seeds.push(
        [frame(false, Opcode::Binary, &[1; 200]), frame(false, Opcode::Continuation, &[2; 190]), frame(true, Opcode::Continuation, b"")]
            .concat(),
    );
    let words: &[&[u8]] =
        &[b"\x81\x80", b"\x89\x80", b"\x00\x80", b"\x80\x80", b"\xfe", b"\xff", b"\x7f", b"\xed\xa0\x80", b"\xf4\x90", b"\xc0\xaf"];
    mutated(seeds, words)
}

/// What was taken, and whether the rest was refused.
#[derive(Debug, PartialEq)]
struct Seen {
    events: Vec<(char, Vec<u8>)>,
    end: End,
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum End {
    Open,
    Closed,
    Refused,
}

fn ours(stream: &[u8], piece: usize) -> Seen {
    let mut inbound = Inbound::default();
    let mut events = Vec::new();
    for part in stream.chunks(piece) {
        let mut scratch = part.to_vec();
        let mut input = scratch.as_mut_slice();
        loop {
            match inbound.next(&mut input, MESSAGE_BYTES_MAX) {
                Ok(None) => break assert!(input.is_empty()),
                Err(_) => {
                    assert_eq!(inbound.buffered_bytes(), 0);
                    return Seen { events, end: End::Refused };
                }
                Ok(Some(Event::Message { text, payload })) => events.push((if text { 't' } else { 'b' }, payload.to_vec())),
                Ok(Some(Event::Compressed { .. })) => unreachable!("nobody has agreed to that"),
                Ok(Some(Event::Ping(payload))) => events.push(('i', payload.to_vec())),
                Ok(Some(Event::Pong(payload))) => events.push(('o', payload.to_vec())),
                Ok(Some(Event::Close { reason, .. })) => {
                    events.push(('c', reason.to_vec()));
                    return Seen { events, end: End::Closed };
                }
            }
        }
        assert!(inbound.buffered_bytes() <= HELD_BYTES_MAX, "{} bytes held", inbound.buffered_bytes());
    }
    Seen { events, end: End::Open }
}

struct Stream<'a>(&'a [u8]);

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(out) }
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(stream: &[u8]) -> Seen {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .accept_unmasked_frames(false);
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let mut stream = Stream(stream);
    let mut events = Vec::new();
    loop {
        match context.read(&mut stream) {
            Ok(Message::Text(text)) => events.push(('t', text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => events.push(('b', bytes.to_vec())),
            Ok(Message::Ping(bytes)) => events.push(('i', bytes.to_vec())),
            Ok(Message::Pong(bytes)) => events.push(('o', bytes.to_vec())),
            Ok(Message::Close(close)) => {
                events.push(('c', close.map_or(Vec::new(), |close| close.reason.as_bytes().to_vec())));
                return Seen { events, end: End::Closed };
            }
            Ok(Message::Frame(_)) => unreachable!("frames are not handed out"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Seen { events, end: End::Open },
            Err(_) => return Seen { events, end: End::Refused },
        }
    }
}

#[test]
fn frames_of_clients() {
    bolero::check!().with_generator(streams()).for_each(|stream: &Vec<u8>| {
        let seen = ours(stream, usize::MAX);
        for piece in [1, 2, 7] {
            assert_eq!(ours(stream, piece), seen, "in pieces of {piece}");
        }
        let theirs = theirs(stream);
        // They refuse a fault when the frame is whole, and read lengths that are not minimal; `tests/wire_differential.rs` says more.
        assert!(theirs.events.starts_with(&seen.events) || seen.events.ends_with_close(&theirs.events), "{seen:?}\n{theirs:?}");
        if seen.end == End::Open {
            assert_ne!(theirs.end, End::Closed);
            assert!(theirs.end == End::Open || theirs.end == End::Refused && seen.events == theirs.events, "{seen:?}\n{theirs:?}");
        }
        if theirs.end == End::Open {
            assert_ne!(seen.end, End::Closed, "{seen:?}\n{theirs:?}");
        }
    });
}

trait EndsWithClose {
    fn ends_with_close(&self, other: &Self) -> bool;
}

impl EndsWithClose for Vec<(char, Vec<u8>)> {
    /// The same but for the last one, a close that they tell otherwise or not at all (1014, which is registered by now).
    fn ends_with_close(&self, other: &Self) -> bool {
        let before = |events: &Self| events.iter().take_while(|event| event.0 != 'c').cloned().collect::<Vec<_>>();
        self.last().is_some_and(|event| event.0 == 'c') && before(self) == before(other)
    }
}

#[test]
fn headers_of_frames() {
    bolero::check!().with_generator(streams()).for_each(|bytes: &Vec<u8>| {
        if let Ok(Some(header)) = parse_header(bytes) {
            assert!(usize::from(header.header_len) <= bytes.len());
        }
        // What the load generator and `campanile subscribe` read.
        if let Ok(Some(header)) = parse_server_header(bytes) {
            assert!(usize::from(header.header_len) <= bytes.len());
        }
        let _ = parse_close(bytes);
    });
}
