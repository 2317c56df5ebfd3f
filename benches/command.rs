//! What one client command costs to decode, in both spellings. Beside it, the same bytes through serde into a struct with every field that any
//! command has; that is the lower bound of such a design, for it checks neither channel names nor ranges nor depth.

use std::borrow::Cow;
use std::hint::black_box;

use campanile::wire::command;
use criterion::{Criterion, criterion_group, criterion_main};
use serde::Deserialize;
use serde_json::json;

mod common;

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only the decoding is measured")]
struct Fields<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    since: Option<Since>,
    id: Option<Id>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only the decoding is measured")]
struct Since {
    epoch: u64,
    seq: u64,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "only the decoding is measured")]
enum Id {
    Number(u64),
    Text(String),
}

fn decode(criterion: &mut Criterion) {
    let commands = [
        ("ping", json!({"type": "ping"})),
        ("subscribe", json!({"type": "subscribe", "channel": "user:123", "id": 7})),
        ("resume", json!({"type": "subscribe", "channel": "user:123", "since": {"epoch": 1_700_000_000_123u64, "seq": 4711}, "id": 7})),
    ];
    let mut group = criterion.benchmark_group("command decode");
    for (name, command) in commands {
        let text = command.to_string().into_bytes();
        let packed = rmp_serde::to_vec_named(&command).unwrap();
        group.bench_function(format!("JSON {name}/ours"), |bencher| bencher.iter(|| command::decode(true, black_box(&text)).unwrap()));
        group.bench_function(format!("JSON {name}/serde_json"), |bencher| {
            bencher.iter(|| serde_json::from_slice::<Fields<'_>>(black_box(&text)).unwrap());
        });
        group.bench_function(format!("MessagePack {name}/ours"), |bencher| {
            bencher.iter(|| command::decode(false, black_box(&packed)).unwrap());
        });
        group.bench_function(format!("MessagePack {name}/rmp-serde"), |bencher| {
            bencher.iter(|| rmp_serde::from_slice::<Fields<'_>>(black_box(&packed)).unwrap());
        });
    }
    // What carries a payload: it is checked and lent, not copied.
    let text = json!({"type": "publish", "channel": "room:1", "data": {"text": "x".repeat(100)}}).to_string().into_bytes();
    group.bench_function("JSON publish/ours", |bencher| bencher.iter(|| command::decode(true, black_box(&text)).unwrap()));
    group.finish();
}

criterion_group! { name = benches; config = common::short(); targets = decode }
criterion_main!(benches);
