//! Frames: headers out and in, masks, and one inbound message through the receive machine. Beside each, what tungstenite does for the same
//! bytes, in the way that keeps no buffer per connection (a context per thread, fed one frame at a time).

use std::hint::black_box;
use std::io::{self, Cursor, ErrorKind, Read, Write};

use campanile::wire::frame::{self, Opcode};
use campanile::wire::inbound::{Event, Inbound};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tungstenite::Message;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

mod common;

/// One for each length of header.
const LENGTHS: [usize; 3] = [100, 1_000, 100_000];
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
const COMMAND: &[u8] = br#"{"type":"subscribe","channel":"user:123","id":7}"#;

fn header_encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header encode");
    let mut out = Vec::with_capacity(64);
    for length in LENGTHS {
        group.bench_function(BenchmarkId::new("ours", length), |bencher| {
            bencher.iter(|| {
                out.clear();
                frame::encode_header(&mut out, Opcode::Binary, black_box(length));
                black_box(&out);
            });
        });
        group.bench_function(BenchmarkId::new("tungstenite", length), |bencher| {
            let header = FrameHeader { opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
            bencher.iter(|| {
                out.clear();
                header.format(black_box(length) as u64, &mut out).unwrap();
                black_box(&out);
            });
        });
    }
}

fn header_parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header parse");
    for length in LENGTHS {
        let mut frame = Vec::new();
        frame::encode_masked_frame(&mut frame, true, Opcode::Binary, MASK, &vec![0; length]);
        group.bench_function(BenchmarkId::new("ours", length), |bencher| {
            bencher.iter(|| frame::parse_header(black_box(&frame)).unwrap().unwrap());
        });
        group.bench_function(BenchmarkId::new("tungstenite", length), |bencher| {
            bencher.iter(|| FrameHeader::parse(&mut Cursor::new(black_box(frame.as_slice()))).unwrap().unwrap());
        });
    }
}

fn unmask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for length in [16, 64, 256, 1024, 4096, 16_384, 65_536] {
        let mut payload = vec![b'x'; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| frame::unmask(black_box(&mut payload), black_box(MASK), 0));
        });
    }
}

/// A socket that has one frame and takes every answer.
struct OneFrame<'a>(&'a [u8]);

impl Read for OneFrame<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.0.read(out)
    }
}

impl Write for OneFrame<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One masked text message of 48 bytes, whole and in two reads. The bytes are copied first, since unmasking changes them.
fn inbound(criterion: &mut Criterion) {
    const BYTES_MAX: usize = 65_536;
    let mut group = criterion.benchmark_group("inbound message");
    let mut frame = Vec::new();
    frame::encode_masked_frame(&mut frame, true, Opcode::Text, MASK, COMMAND);
    let mut scratch = vec![0; frame.len()];
    group.bench_function("ours", |bencher| {
        let mut inbound = Inbound::default();
        bencher.iter(|| {
            scratch.copy_from_slice(black_box(&frame));
            let mut input = scratch.as_mut_slice();
            match inbound.next(&mut input, BYTES_MAX) {
                Ok(Some(Event::Message { text: true, payload })) => payload.len(),
                other => panic!("{other:?}"),
            }
        });
    });
    group.bench_function("ours, split in two", |bencher| {
        let mut inbound = Inbound::default();
        bencher.iter(|| {
            scratch.copy_from_slice(black_box(&frame));
            let (mut first, mut second) = scratch.split_at_mut(20);
            assert!(inbound.next(&mut first, BYTES_MAX).unwrap().is_none());
            match inbound.next(&mut second, BYTES_MAX) {
                Ok(Some(Event::Message { text: true, payload })) => payload.len(),
                other => panic!("{other:?}"),
            }
        });
    });
    let config = WebSocketConfig::default().read_buffer_size(0).write_buffer_size(0).max_message_size(Some(BYTES_MAX));
    group.bench_function("tungstenite, one context per thread", |bencher| {
        let mut context = WebSocketContext::new(Role::Server, Some(config));
        bencher.iter(|| {
            scratch.copy_from_slice(black_box(&frame));
            match context.read(&mut OneFrame(&scratch)) {
                Ok(Message::Text(text)) => text.len(),
                other => panic!("{other:?}"),
            }
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = common::short(); targets = header_encode, header_parse, unmask, inbound }
criterion_main!(benches);
