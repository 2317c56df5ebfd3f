//! A channel's log: a batch appended (and the oldest trimmed), and what one visit to a subscriber asks of it: everything from the cursor to the
//! head as slices, and the cursor moved behind them. Batches of one message are the worst case; the shard merges them
//! once there are more than eight.

use std::hint::black_box;
use std::sync::Arc;

use campanile::fanout::batch::Batch;
use campanile::fanout::cursor::Cursor;
use campanile::fanout::log::{Log, Slices};
use campanile::wire::Format;
use campanile::wire::event::GapReason;
use campanile::wire::framing::Encoding;
use campanile::wire::payload::Kind;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

#[path = "common/batches.rs"]
mod batches;
mod common;

const JSON: Encoding = Encoding::web_socket(Format::Json);

/// One message each, numbered from 1 on, already encoded.
fn singles(count: u64) -> Vec<Arc<Batch>> {
    let (channel, payload) = (batches::channel(), batches::json_payload(1));
    (1..=count)
        .map(|seq| {
            let batch = batches::batch(&channel, seq, 1, Kind::Json, &payload, seq);
            batch.frames(JSON);
            batch
        })
        .collect()
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log append");
    const APPENDS: u64 = 1000;
    group.throughput(Throughput::Elements(APPENDS));
    let batches = singles(APPENDS);
    for (name, bytes_max) in [("all kept", usize::MAX), ("trimmed to ten", 10 * batches[0].bytes_held())] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || (Log::new(bytes_max), batches.clone()),
                |(log, batches)| {
                    for batch in batches.drain(..) {
                        log.append(batch, GapReason::Inbox);
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn visit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log visit");
    for count in [1, 10, 100] {
        for merged in [false, true] {
            if merged && count == 1 {
                continue;
            }
            let mut log = Log::new(usize::MAX);
            for batch in singles(count) {
                log.append(batch, GapReason::Inbox);
            }
            if merged {
                log.merge();
            }
            let name = format!("{count} batches{}", if merged { " merged" } else { "" });
            group.bench_function(format!("{name}/gather"), |bencher| {
                bencher.iter(|| {
                    let mut slices = Slices::new();
                    black_box(log.gather(black_box(Cursor::at(1)), JSON, usize::MAX, &mut slices));
                    black_box(&slices);
                });
            });
            let written = log.gather(Cursor::at(1), JSON, usize::MAX, &mut Slices::new());
            group.bench_function(format!("{name}/advance"), |bencher| {
                bencher.iter(|| log.advance(black_box(Cursor::at(1)), JSON, written, |count, received| _ = black_box((count, received))));
            });
        }
    }
    group.finish();
}

/// Ten and a hundred small batches joined into one: done once per shard, so that every write that follows is one slice.
fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log merge");
    for count in [10, 100] {
        let batches = singles(count);
        group.bench_function(format!("{count} batches"), |bencher| {
            bencher.iter_batched_ref(
                || {
                    let mut log = Log::new(usize::MAX);
                    for batch in &batches {
                        log.append(batch.clone(), GapReason::Inbox);
                    }
                    log
                },
                |log| log.merge(),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = common::short(); targets = append, visit, merge }
criterion_main!(benches);
