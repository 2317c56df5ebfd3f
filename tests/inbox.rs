//! The inbox between threads: no message may be left behind by a receiver that sleeps. Here the receiver sleeps without a timeout worth
//! the name, so one lost wake-up fails the test.

use std::time::{Duration, Instant};

use campanile::inbox::inbox;
use mio::{Events, Poll, Token};

/// Far longer than nothing happens on a machine that is busy with other work.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn no_wake_up_is_lost() {
    const SENDERS: u64 = 3;
    const MESSAGES: u64 = 60_000;
    let mut poll = Poll::new().unwrap();
    let (sender, inbox) = inbox::<u64>(64, poll.registry(), Token(0)).unwrap();
    let threads: Vec<_> = (0..SENDERS)
        .map(|seed| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut left = MESSAGES;
                while left > 0 {
                    // A burst, one wake for it, and now and then a pause, so that the receiver comes to sleep.
                    for _ in 0..random.u64(1..=8).min(left) {
                        let mut message = left;
                        while let Err(back) = sender.push(message) {
                            message = back;
                            sender.wake();
                            std::thread::yield_now();
                        }
                        left -= 1;
                    }
                    sender.wake();
                    match random.u32(0..20) {
                        0 => std::thread::sleep(Duration::from_micros(random.u64(0..50))),
                        1..=5 => std::thread::yield_now(),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    let mut events = Events::with_capacity(8);
    let mut received = 0;
    while received < SENDERS * MESSAGES {
        while inbox.try_recv().is_some() {
            received += 1;
        }
        if received < SENDERS * MESSAGES && inbox.prepare_sleep() {
            let begin = Instant::now();
            poll.poll(&mut events, Some(PATIENCE)).unwrap();
            assert!(begin.elapsed() < PATIENCE, "slept over {} messages, {received} received", inbox.len());
            inbox.awake();
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn bytes_in_and_out_balance_while_both_sides_run() {
    const MESSAGES: usize = 50_000;
    const BYTES_MAX: usize = 1000;
    let poll = Poll::new().unwrap();
    let (sender, inbox) = inbox::<usize>(64, poll.registry(), Token(0)).unwrap();
    let thread = std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(7);
        for number in 0..MESSAGES {
            // Now and then one that is larger than all that may wait: it goes alone.
            let bytes = if number % 100 == 0 { BYTES_MAX + 1 } else { random.usize(1..300) };
            loop {
                if sender.reserve(bytes, BYTES_MAX) {
                    if sender.push(bytes).is_ok() {
                        break;
                    }
                    sender.unreserve(bytes);
                }
                std::thread::yield_now();
            }
            assert!(sender.bytes() <= BYTES_MAX + 1);
        }
        sender
    });
    let (mut received, mut last) = (0, Instant::now());
    while received < MESSAGES {
        match inbox.try_recv() {
            Some(bytes) => {
                assert!((bytes..=BYTES_MAX + 1).contains(&inbox.bytes()), "{} with {bytes} taken", inbox.bytes());
                inbox.release(bytes);
                (received, last) = (received + 1, Instant::now());
            }
            // Where others run, each yield may be a turn of theirs: slow is not stuck.
            None => std::thread::yield_now(),
        }
        assert!(last.elapsed() < PATIENCE, "stuck at {received}");
    }
    let sender = thread.join().unwrap();
    assert_eq!((sender.bytes(), inbox.bytes()), (0, 0));
}
