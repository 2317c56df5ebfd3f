//! Messages out of the bytes of a Redis connection: our scan of the buffer beside `redis::Parser`, which makes a value of each.

use std::hint::black_box;
use std::io;

use campanile::bus::redis::resp::{Decoder, Reply, write_command};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod common;

fn resp(criterion: &mut Criterion) {
    const MESSAGES: u64 = 500;
    let mut group = criterion.benchmark_group("RESP");
    for payload_bytes in [128, 2048] {
        for (protocol, mark) in [("RESP2", b'*'), ("RESP3", b'>')] {
            let mut stream = Vec::new();
            for _ in 0..MESSAGES {
                let start = stream.len();
                write_command(&mut stream, [b"message".as_slice(), b"notifications:bench", &vec![b'x'; payload_bytes]].into_iter());
                stream[start] = mark;
            }
            group.throughput(Throughput::Elements(MESSAGES));
            group.bench_function(format!("{protocol} {payload_bytes} B/ours"), |bencher| {
                let mut decoder = Decoder::new(1 << 20);
                bencher.iter(|| {
                    let mut source = black_box(stream.as_slice());
                    let mut found = 0;
                    while decoder.fill(&mut source).unwrap().count > 0 {
                        while let Some(reply) = decoder.next_reply().unwrap() {
                            assert!(matches!(black_box(reply), Reply::Message { .. }));
                            found += 1;
                        }
                    }
                    assert_eq!(found, MESSAGES);
                });
            });
            group.bench_function(format!("{protocol} {payload_bytes} B/redis::Parser"), |bencher| {
                let mut parser = redis::Parser::new();
                bencher.iter(|| {
                    let mut source = io::Cursor::new(black_box(stream.as_slice()));
                    for _ in 0..MESSAGES {
                        black_box(parser.parse_value(&mut source).unwrap());
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = common::short(); targets = resp }
criterion_main!(benches);
