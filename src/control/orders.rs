//! The way of an order to every shard, and of the answers back. Whoever orders waits here, on the control thread's time and with a deadline; a shard whose
//! inbox is full is tried again.

use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use tokio::time::Instant;

use crate::bus::order::{Order, Reply};
use crate::bus::{ShardMessage, ShardSender};

/// A full inbox is tried again, and answers are looked for, after this long; later less often. A shard cannot wake this thread ([`Reply`]).
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(20);

/// The shards' inboxes, as the control thread has them.
#[derive(Debug, Default)]
pub struct Orders {
    shards: Vec<ShardSender>,
}

/// Why a shard has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// Not yet: it may still do what it was told.
    Late,
    /// It has too many orders to take another, or has ended.
    Refused,
}

/// One shard's part.
enum Part<T> {
    /// Its inbox was full.
    Unsent(ShardMessage),
    Awaited,
    Answered(Result<T, NoAnswer>),
}

impl Orders {
    pub fn new(shards: Vec<ShardSender>) -> Orders {
        Orders { shards }
    }

    /// How many there are.
    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Gets every shard up to look around: something that they share has changed.
    pub(super) fn wake(&self) {
        for shard in &self.shards {
            shard.wake();
        }
    }

    /// Orders the same of every shard. One answer for each, in their order.
    pub(super) async fn all<T>(&self, patience: Duration, order: impl Fn(Reply<T>) -> Order) -> Vec<Result<T, NoAnswer>> {
        ask(&self.shards, patience, order).await
    }

    /// Orders something of one shard.
    pub(super) async fn one<T>(&self, shard: usize, patience: Duration, order: impl Fn(Reply<T>) -> Order) -> Result<T, NoAnswer> {
        ask(&self.shards[shard..=shard], patience, order).await.remove(0)
    }
}

async fn ask<T>(shards: &[ShardSender], patience: Duration, order: impl Fn(Reply<T>) -> Order) -> Vec<Result<T, NoAnswer>> {
    let deadline = Instant::now() + patience;
    let (mut parts, answers): (Vec<Part<T>>, Vec<Receiver<T>>) = shards
        .iter()
        .map(|_| {
            let (reply, answer) = bounded(1);
            (Part::Unsent(ShardMessage::Order(order(reply))), answer)
        })
        .unzip();
    let mut pause = LOOK_FIRST;
    loop {
        for ((part, shard), answer) in parts.iter_mut().zip(shards).zip(&answers) {
            go_on(part, shard, answer);
        }
        let is_done = parts.iter().all(|part| matches!(part, Part::Answered(_)));
        if is_done || Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
    let outcome = |part| match part {
        Part::Answered(answer) => answer,
        Part::Awaited => Err(NoAnswer::Late),
        // What was never sent will not be done.
        Part::Unsent(_) => Err(NoAnswer::Refused),
    };
    parts.into_iter().map(outcome).collect()
}

fn go_on<T>(part: &mut Part<T>, shard: &ShardSender, answer: &Receiver<T>) {
    if let Part::Unsent(_) = part {
        let Part::Unsent(message) = std::mem::replace(part, Part::Awaited) else { unreachable!("it is one") };
        if let Err(back) = shard.send(message) {
            *part = Part::Unsent(back);
        }
    }
    if let Part::Awaited = part {
        match answer.try_recv() {
            Ok(answer) => *part = Part::Answered(Ok(answer)),
            Err(TryRecvError::Disconnected) => *part = Part::Answered(Err(NoAnswer::Refused)),
            Err(TryRecvError::Empty) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::order::Who;
    use crate::inbox::{Inbox, inbox};

    fn shards(capacities: &[usize]) -> (mio::Poll, Orders, Vec<Inbox<ShardMessage>>) {
        let poll = mio::Poll::new().unwrap();
        let pairs = capacities.iter().map(|&capacity| inbox(capacity, poll.registry(), mio::Token(0)).unwrap());
        let (senders, inboxes) = pairs.unzip();
        (poll, Orders::new(senders), inboxes)
    }

    fn disconnect(reply: Reply<usize>) -> Order {
        Order::Disconnect { who: Who::User("u".into()), reply }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    #[test]
    fn every_shard_is_asked_once_and_its_answer_awaited() {
        let (_poll, orders, inboxes) = shards(&[4, 4]);
        let shard = std::thread::spawn(move || {
            for (count, inbox) in inboxes.iter().enumerate() {
                let message = loop {
                    if let Some(message) = inbox.try_recv() {
                        break message;
                    }
                    std::thread::yield_now();
                };
                let ShardMessage::Order(Order::Disconnect { reply, .. }) = message else { panic!("an order") };
                reply.send(count).unwrap();
                assert!(inbox.is_empty(), "once");
            }
        });
        assert_eq!(run(orders.all(Duration::from_secs(60), disconnect)), [Ok(0), Ok(1)]);
        shard.join().unwrap();
    }

    #[test]
    fn what_is_full_silent_or_gone_is_told_from_what_answers() {
        let (_poll, orders, mut inboxes) = shards(&[0, 1, 1]);
        let gone = inboxes.pop().unwrap();
        let taker = std::thread::spawn(move || {
            while gone.try_recv().is_none() {
                std::thread::yield_now();
            }
        });
        let answers = run(orders.all(Duration::from_millis(300), disconnect));
        taker.join().unwrap();
        assert_eq!(answers, [Err(NoAnswer::Refused), Err(NoAnswer::Late), Err(NoAnswer::Refused)]);
    }
}
