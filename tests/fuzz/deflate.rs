//! Compressed messages of clients, in pieces, against flate2 as it is; and what clients offer.

use campanile::wire::deflate::{Deflater, Inflater};
use campanile::wire::frame::{Opcode, Violation, encode_masked_compressed_frame, encode_masked_frame};
use campanile::wire::http::extensions::agree;
use campanile::wire::http::head::FieldRoom;
use campanile::wire::http::{self, Outcome, Rules};
use campanile::wire::inbound::{Event, Inbound, Terms};
use flate2::{Decompress, FlushDecompress, Status};

use crate::mutate::{Mutated, mutated};
use crate::seeds::{texts, vectors};

const MESSAGE_BYTES_MAX: usize = 2000;
const TERMS: Terms = Terms { message_bytes_max: MESSAGE_BYTES_MAX, deflate: true };
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked_frame(&mut out, fin, opcode, MASK, payload);
    out
}

fn compressed(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked_compressed_frame(&mut out, fin, opcode, MASK, payload);
    out
}

fn payloads() -> Vec<Vec<u8>> {
    let mut bodies = vectors(&["command"], "json");
    bodies.extend([vec![b'x'; 1900], vec![0; 100_000], "€uro ".repeat(200).into_bytes()]);
    let mut deflater = Deflater::new(6);
    let mut payloads: Vec<Vec<u8>> = bodies.iter().filter_map(|body| deflater.deflate(body).map(<[u8]>::to_vec)).collect();
    // Stored, with a final block, in two blocks, empty: RFC 7692, 7.2.3.
    payloads.push(b"\x00\x05\x00\xFA\xFFHello\x00".to_vec());
    payloads.push(b"\xF3\x48\xCD\xC9\xC9\x07\x00\x00".to_vec());
    payloads.push(b"\xF2\x48\x05\x00\x00\x00\xFF\xFF\xCA\xC9\xC9\x07\x00".to_vec());
    payloads.push(b"\x00".to_vec());
    payloads
}

const WORDS: &[&[u8]] =
    &[b"\x00\x00\xff\xff", b"\x03\x00", b"\x00", b"\x01\x00\x00\xff\xff", b"\xff\xff\xff", b"\xc1\x80", b"\xc2", b"\x40\x80"];

/// What others make of a payload: all that comes of it and the tail of a sync flush, up to `bytes_max` and a byte. None: it is broken.
fn theirs(payload: &[u8], bytes_max: usize) -> Option<(Vec<u8>, Status)> {
    let mut decompress = Decompress::new(false);
    let mut out = Vec::with_capacity(bytes_max + 1);
    let whole = [payload, b"\x00\x00\xff\xff"].concat();
    let status = decompress.decompress_vec(&whole, &mut out, FlushDecompress::Sync).ok()?;
    Some((out, status))
}

#[test]
fn messages_are_inflated_as_by_others_and_never_beyond_their_bound() {
    let mut inflater = Inflater::default();
    bolero::check!().with_generator(mutated(payloads(), WORDS)).for_each(move |payload: &Vec<u8>| {
        let theirs = theirs(payload, MESSAGE_BYTES_MAX);
        match (inflater.inflate(payload, MESSAGE_BYTES_MAX), theirs) {
            (Ok(message), Some((expected, _))) => assert_eq!(message, expected),
            (Ok(message), None) => panic!("{} bytes of what is broken", message.len()),
            (Err(Violation::MessageTooBig { bytes_max: MESSAGE_BYTES_MAX }), Some((out, _))) => assert!(out.len() > MESSAGE_BYTES_MAX),
            // What is beyond the bound may be broken, too, and what follows a final block is not read.
            (Err(Violation::MessageTooBig { .. }), None) => {}
            (Err(Violation::NotDeflate), Some((_, status))) => assert_eq!(status, Status::StreamEnd),
            (Err(Violation::NotDeflate), None) => {}
            (Err(other), _) => panic!("{other}"),
        }
    });
}

fn streams() -> Mutated {
    let mut seeds: Vec<Vec<u8>> = payloads().iter().map(|payload| compressed(true, Opcode::Text, payload)).collect();
    let payload = &payloads()[0];
    let (begin, end) = payload.split_at(payload.len() / 2);
    seeds.push([compressed(false, Opcode::Text, begin), frame(true, Opcode::Ping, b"p"), frame(true, Opcode::Continuation, end)].concat());
    seeds.push([compressed(false, Opcode::Binary, b""), frame(true, Opcode::Continuation, payload)].concat());
    seeds.push([frame(true, Opcode::Text, b"plain"), compressed(true, Opcode::Binary, payload), frame(true, Opcode::Close, b"")].concat());
    mutated(seeds, WORDS)
}

/// What a connection may hold for it: the payload, which may be longer than the message, those of a control frame, and the box itself.
const HELD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + MESSAGE_BYTES_MAX / 8 + 64 + 125 + 128;

fn read(stream: &[u8], piece: usize) -> Vec<(char, Vec<u8>)> {
    let mut inbound = Inbound::default();
    let mut inflater = Inflater::default();
    let mut events = Vec::new();
    for part in stream.chunks(piece) {
        let mut scratch = part.to_vec();
        let mut input = scratch.as_mut_slice();
        loop {
            let event = match inbound.next_by(&mut input, TERMS) {
                Ok(None) => break assert!(input.is_empty()),
                Ok(Some(event)) => event,
                Err(_) => {
                    assert_eq!(inbound.buffered_bytes(), 0);
                    events.push(('!', Vec::new()));
                    return events;
                }
            };
            events.push(match event {
                Event::Message { text, payload } => (if text { 't' } else { 'b' }, payload.to_vec()),
                Event::Compressed { text, payload } => match inflater.inflate_message(text, &payload, MESSAGE_BYTES_MAX) {
                    Ok(message) => {
                        assert!(message.len() <= MESSAGE_BYTES_MAX && (!text || std::str::from_utf8(message).is_ok()));
                        (if text { 'T' } else { 'B' }, message.to_vec())
                    }
                    Err(_) => ('!', Vec::new()),
                },
                Event::Ping(payload) => ('i', payload.to_vec()),
                Event::Pong(payload) => ('o', payload.to_vec()),
                Event::Close { reason, .. } => ('c', reason.to_vec()),
            });
            if events.last().is_some_and(|(kind, _)| matches!(kind, '!' | 'c')) {
                return events;
            }
        }
        assert!(inbound.buffered_bytes() <= HELD_BYTES_MAX, "{} bytes held", inbound.buffered_bytes());
    }
    events
}

#[test]
fn compressed_messages_come_whole_in_pieces_of_any_size() {
    bolero::check!().with_generator(streams()).for_each(|stream: &Vec<u8>| {
        let seen = read(stream, usize::MAX);
        for piece in [1, 2, 7] {
            let again = read(stream, piece);
            // Plain text that is broken is told as soon as that shows.
            assert!(again == seen || again.last() == seen.last() && again.len() == seen.len(), "in pieces of {piece}: {again:?}, {seen:?}");
        }
    });
}

#[test]
fn offers_of_clients() {
    let offers = texts(&[
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=\"15\"",
        "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=8, permessage-deflate",
    ]);
    let words: &[&[u8]] = &[
        b"permessage-deflate",
        b";",
        b"; ",
        b",",
        b"=",
        b"\"",
        b"server_max_window_bits=",
        b"client_max_window_bits",
        b"8",
        b"9",
        b"15",
        b"16",
    ];
    bolero::check!().with_generator(mutated(offers, words)).for_each(|offer: &Vec<u8>| {
        let head = [
            b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            &b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: "[..],
            offer,
            b"\r\n\r\n",
        ]
        .concat();
        let rules = Rules { echo: false, head_bytes_max: 16 * 1024 };
        let mut room = FieldRoom::empty();
        let Outcome::Upgrade(upgrade) = http::parse(&head, &mut room, rules) else { return };
        let Some(agreed) = agree(&upgrade.head.fields) else { return };
        assert!((9..=15).contains(&agreed.window_bits()));
        // Nothing is in the answer that was not offered, but that no context is taken over, which a server may always ask for.
        let answer = agreed.answer();
        let offered = String::from_utf8_lossy(offer).to_ascii_lowercase();
        assert!(offered.contains("permessage-deflate"), "{offered}");
        if let Some((_, bits)) = answer.split_once("server_max_window_bits=") {
            assert!(offered.contains("server_max_window_bits") && offered.contains(bits), "{offered}: {answer}");
        }
    });
}
