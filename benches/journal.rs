//! What a durable message costs the thread that appends it: in memory, and with files synced at an interval or always. Each run ends when all of it is
//! settled, so that what the other threads and the disk take is in it. Pages are read from memory and from files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use campanile::journal::{Append, AppendError, Fsync, Journal, Range, Reading, Settings, Ticket, Wake};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, bounded};

mod common;

/// As long as one of the load generator's.
const PAYLOAD: [u8; 128] = [b'x'; 128];
const CHANNELS: usize = 1000;
/// What a turn of the bus takes up when there is much to do.
const TURN: usize = 256;
const NOW_MS: u64 = 1_800_000_000_000;

struct Owner {
    journal: Journal,
    bell: Receiver<()>,
    names: Vec<String>,
    sent: usize,
    folder: Option<std::path::PathBuf>,
}

impl Owner {
    fn open(fsync: Option<Fsync>, memory_bytes: usize) -> Owner {
        let folder = fsync.map(|_| {
            let place = std::env::var_os("CAMPANILE_BENCH_FOLDER").map_or_else(std::env::temp_dir, Into::into);
            place.join(format!("campanile-bench-{}", std::process::id()))
        });
        let settings = Settings { data_dir: folder.clone(), fsync: fsync.unwrap_or(Fsync::Always), memory_bytes, ..Settings::default() };
        let (ring, bell) = bounded(1);
        let wake: Wake = Arc::new(move || {
            let _ = ring.try_send(());
        });
        let journal = Journal::open(settings, NOW_MS, &wake).unwrap();
        let names = (0..CHANNELS).map(|at| format!("room:{at}")).collect();
        Owner { journal, bell, names, sent: 0, folder }
    }

    fn wait(&self) {
        self.bell.recv_timeout(Duration::from_secs(60)).expect("the disk gets on");
    }

    /// As the bus does: a turn's messages, then a flush. Where the queue is full it waits.
    fn append(&mut self, messages: u64) -> Ticket {
        let mut ticket = 0;
        for _ in 0..messages {
            let append = Append {
                channel: &self.names[self.sent * 31 % CHANNELS],
                payload: &PAYLOAD,
                timestamp_ms: NOW_MS,
                idempotency_key: None,
                history_count: 100,
                history_age: Duration::from_secs(3600),
            };
            ticket = loop {
                match self.journal.append(&append) {
                    Ok(appended) => break appended.ticket,
                    Err(AppendError::Full) => {
                        self.journal.flush();
                        self.wait();
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            self.sent += 1;
            if self.sent.is_multiple_of(TURN) {
                self.journal.turn(NOW_MS);
            }
        }
        self.journal.flush();
        ticket
    }

    fn settle(&mut self, ticket: Ticket) {
        while self.journal.settled() < ticket {
            self.wait();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal append");
    group.throughput(Throughput::Elements(1));
    let second = Fsync::Interval(Duration::from_secs(1));
    for (name, fsync) in [("in memory", None), ("interval", Some(second)), ("always", Some(Fsync::Always))] {
        group.bench_function(name, |bencher| {
            let mut owner = Owner::open(fsync, 256 << 20);
            bencher.iter_custom(|messages| {
                let begin = Instant::now();
                let ticket = owner.append(messages);
                owner.settle(ticket);
                begin.elapsed()
            });
        });
    }
    // One that waits for each, and many that wait for theirs together.
    for (name, fsync, together) in [
        ("interval", second, 1),
        ("interval", second, 64),
        ("always", Fsync::Always, 1),
        ("always", Fsync::Always, 64),
        ("always", Fsync::Always, 4096),
    ] {
        group.bench_function(format!("{name}, {together} wait at a time"), |bencher| {
            let mut owner = Owner::open(Some(fsync), 256 << 20);
            bencher.iter_custom(|messages| {
                let begin = Instant::now();
                let mut left = messages;
                while left > 0 {
                    let now = left.min(together);
                    let ticket = owner.append(now);
                    owner.settle(ticket);
                    left -= now;
                }
                begin.elapsed()
            });
        });
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal, a page of 100");
    for (name, memory_bytes) in [("from memory", 256 << 20), ("from files", 0)] {
        group.bench_function(name, |bencher| {
            let mut owner = Owner::open(Some(Fsync::Interval(Duration::from_secs(1))), 64 << 20);
            let ticket = owner.append(100 * CHANNELS as u64);
            owner.settle(ticket);
            if memory_bytes == 0 {
                owner = owner.reopened();
            }
            let names = owner.names.clone();
            let epochs: Vec<u64> = names.iter().map(|name| owner.journal.state(name).unwrap().epoch).collect();
            let mut at = 0;
            bencher.iter(|| {
                at = (at + 1) % CHANNELS;
                let range = Range { channel: &names[at], epoch: epochs[at], from_seq: 0, count_max: 100, bytes_max: 1 << 20 };
                match owner.journal.read(&range).unwrap() {
                    Reading::Page(page) => page,
                    Reading::Later(_) => loop {
                        if let Some((_, page)) = owner.journal.next_page() {
                            break page.unwrap();
                        }
                        owner.wait();
                    },
                }
            });
        });
    }
    group.finish();
}

impl Owner {
    /// The same files after a restart: nothing is in memory.
    fn reopened(mut self) -> Owner {
        let (ring, bell) = bounded(1);
        let wake: Wake = Arc::new(move || {
            let _ = ring.try_send(());
        });
        let folder = self.folder.take();
        let nothing = Journal::open(Settings::default(), NOW_MS, &wake).unwrap();
        assert!(std::mem::replace(&mut self.journal, nothing).close(Duration::from_secs(60)));
        let settings = Settings { data_dir: folder.clone(), ..Settings::default() };
        let journal = Journal::open(settings, NOW_MS, &wake).unwrap();
        Owner { journal, bell, names: std::mem::take(&mut self.names), sent: self.sent, folder }
    }
}

criterion_group! { name = benches; config = common::short(); targets = append, read }
criterion_main!(benches);
