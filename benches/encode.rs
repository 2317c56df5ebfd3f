//! From a payload to the frames of a format: finding out what the payload is, sealing a batch, encoding it. All of it is done once per message
//! (and format), whatever the number of subscribers. Messages have 128 bytes. Beside it, what serde would do.

use std::hint::black_box;

use campanile::wire::Format;
use campanile::wire::framing::Encoding;
use campanile::wire::payload::{Expect, Kind, classify};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

#[path = "common/batches.rs"]
mod batches;
mod common;

/// The payload in MessagePack.
fn packed_payload() -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(&batches::json_payload(1)).unwrap();
    rmp_serde::to_vec(&value).unwrap()
}

fn classifying(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classify");
    let (text, packed) = (batches::json_payload(1), packed_payload());
    let plain = vec![b'x'; batches::PAYLOAD_BYTES];
    let opaque = vec![0xff; batches::PAYLOAD_BYTES];
    for (name, payload, expect) in [
        ("JSON", &text, Expect::Auto),
        ("MessagePack", &packed, Expect::Auto),
        ("text", &plain, Expect::Auto),
        ("bytes", &opaque, Expect::Auto),
        ("raw", &plain, Expect::Raw),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| classify(black_box(payload), expect)));
    }
    group.bench_function("JSON, by serde_json", |bencher| {
        bencher.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(&text)).unwrap());
    });
    group.bench_function("MessagePack, by rmp-serde", |bencher| {
        bencher.iter(|| rmp_serde::from_slice::<IgnoredAny>(black_box(&packed)).unwrap());
    });
    group.finish();
}

fn sealing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    let (channel, payload) = (batches::channel(), batches::json_payload(1));
    for count in [1, 100] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} messages"), |bencher| {
            bencher.iter(|| batches::batch(&channel, 1, count, Kind::Json, black_box(&payload), 1));
        });
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let (channel, text, packed) = (batches::channel(), batches::json_payload(1), packed_payload());
    for (name, kind, payload, format) in [
        ("MessagePack to MessagePack", Kind::Msgpack, &packed, Format::Msgpack),
        ("JSON to JSON", Kind::Json, &text, Format::Json),
        ("JSON to raw", Kind::Json, &text, Format::Raw),
        ("JSON to MessagePack", Kind::Json, &text, Format::Msgpack),
        ("MessagePack to JSON", Kind::Msgpack, &packed, Format::Json),
    ] {
        for count in [1, 100] {
            group.throughput(Throughput::Elements(count));
            group.bench_function(format!("{name}, {count} messages"), |bencher| {
                bencher.iter_batched(
                    || batches::batch(&channel, 1, count, kind, payload, 1),
                    |batch| {
                        black_box(batch.frames(Encoding::web_socket(format)));
                        batch
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.throughput(Throughput::Elements(1));
    // The envelope around a payload that is not looked into, into a buffer that is kept: the least that serde_json can do.
    #[derive(Serialize)]
    struct Envelope<'a> {
        r#type: &'a str,
        channel: &'a str,
        seq: u64,
        data: &'a RawValue,
        timestamp: u64,
    }
    let data: &RawValue = serde_json::from_slice(&text).unwrap();
    let mut out = Vec::with_capacity(1024);
    group.bench_function("JSON to JSON, by serde_json, no frame", |bencher| {
        bencher.iter(|| {
            out.clear();
            let envelope =
                Envelope { r#type: "notification", channel: black_box("bench"), seq: black_box(1), data, timestamp: 1_700_000_000_000 };
            serde_json::to_writer(&mut out, &envelope).unwrap();
            black_box(&out);
        });
    });
    // A transcoding through a tree of values, as one would write it first.
    group.bench_function("JSON to MessagePack, by a serde_json::Value, no frame", |bencher| {
        bencher.iter(|| {
            out.clear();
            let value: serde_json::Value = serde_json::from_slice(black_box(&text)).unwrap();
            rmp_serde::encode::write(&mut out, &value).unwrap();
            black_box(&out);
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = common::short(); targets = classifying, sealing, encoding }
criterion_main!(benches);
