//! The inbox between threads: what a message costs its sender when the receiver is awake, what a wake costs, and the way there and back between
//! two threads that sleep in epoll. Beside it, a wake for every message, whoever is awake.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use campanile::inbox::{Inbox, InboxSender, inbox};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mio::{Events, Poll, Token};

mod common;

/// Like a batch: a token and a pointer.
type Message = (u64, u64);

struct Sleeper {
    poll: Poll,
    events: Events,
    inbox: Inbox<Message>,
}

impl Sleeper {
    fn new() -> (Sleeper, InboxSender<Message>) {
        let poll = Poll::new().unwrap();
        let (sender, inbox) = inbox(4096, poll.registry(), Token(0)).unwrap();
        (Sleeper { poll, events: Events::with_capacity(8), inbox }, sender)
    }

    /// The next message, asleep until it is there.
    fn next(&mut self) -> Message {
        loop {
            if let Some(message) = self.inbox.try_recv() {
                return message;
            }
            if self.inbox.prepare_sleep() {
                self.poll.poll(&mut self.events, Some(Duration::from_secs(10))).unwrap();
                self.inbox.awake();
            }
        }
    }
}

fn same_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inbox, one thread");
    let (sleeper, sender) = Sleeper::new();
    group.bench_function("nothing there", |bencher| bencher.iter(|| sleeper.inbox.try_recv()));
    group.bench_function("push and receive", |bencher| {
        bencher.iter(|| {
            sender.push(black_box((1, 2))).unwrap();
            sleeper.inbox.try_recv().unwrap()
        });
    });
    group.bench_function("send and receive, awake", |bencher| {
        bencher.iter(|| {
            sender.send(black_box((1, 2))).unwrap();
            sleeper.inbox.try_recv().unwrap()
        });
    });
    group.bench_function("send and receive, announced asleep", |bencher| {
        bencher.iter(|| {
            assert!(sleeper.inbox.prepare_sleep());
            sender.send(black_box((1, 2))).unwrap();
            sleeper.inbox.try_recv().unwrap()
        });
    });
    let poll = Poll::new().unwrap();
    let waker = mio::Waker::new(poll.registry(), Token(0)).unwrap();
    group.bench_function("push, always wake, receive", |bencher| {
        bencher.iter(|| {
            sender.push(black_box((1, 2))).unwrap();
            waker.wake().unwrap();
            sleeper.inbox.try_recv().unwrap()
        });
    });
    group.finish();
}

fn two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inbox, two threads");
    const END: Message = (u64::MAX, 0);
    group.bench_function("there and back, both asleep between", |bencher| {
        let ((mut here, to_here), (mut there, to_there)) = (Sleeper::new(), Sleeper::new());
        let echo = thread::spawn(move || {
            loop {
                match there.next() {
                    END => return,
                    message => to_here.send(message).unwrap(),
                }
            }
        });
        bencher.iter(|| {
            to_there.send((1, 2)).unwrap();
            here.next()
        });
        to_there.send(END).unwrap();
        echo.join().unwrap();
    });
    const STREAM: u64 = 10_000;
    group.throughput(Throughput::Elements(STREAM));
    for burst in [1, 64] {
        group.bench_function(format!("a stream, a wake after each {burst}"), |bencher| {
            bencher.iter_custom(|rounds| {
                let (mut there, to_there) = Sleeper::new();
                let receiver = thread::spawn(move || while there.next() != END {});
                let begin = Instant::now();
                for number in 0..rounds * STREAM {
                    let mut message = (number, 0);
                    while let Err(back) = to_there.push(message) {
                        message = back;
                        to_there.wake();
                        thread::yield_now();
                    }
                    if number % burst == 0 {
                        to_there.wake();
                    }
                }
                while to_there.send(END).is_err() {
                    thread::yield_now();
                }
                receiver.join().unwrap();
                begin.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = common::short(); targets = same_thread, two_threads }
criterion_main!(benches);
