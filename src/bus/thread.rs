//! The bus thread: one mio loop over the upstream's sockets and the inbox of commands. Started by `serve`.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use mio::{Events, Poll, Token};

use super::redis::timing::Timing;
use super::revoke::Revocations;
use super::subscriber::Subscriber;
use super::upstream::WAKER;
use super::{BusSender, ShardSender};
use crate::alarm::Alarm;
use crate::config::Settings;
use crate::inbox::inbox;
use crate::limits::bus::COMMANDS_MAX;
use crate::metrics::BusMetrics;
use crate::sys::monotonic_ns;

/// None of the upstream's.
const ALARM: Token = Token(0);

/// Starts the bus thread. `shards[n]` is the inbox of shard `n`. A URL that cannot be used is an error here; a Redis that is away is
/// not: the thread keeps trying. The thread ends after [`super::BusCommand::Stop`].
pub fn spawn(
    settings: &Settings,
    metrics: Arc<BusMetrics>,
    shards: Vec<ShardSender>,
    revocations: Revocations,
) -> anyhow::Result<(BusSender, JoinHandle<()>)> {
    spawn_with_timing(settings, metrics, shards, revocations, Timing::default())
}

/// [`spawn`] with other deadlines than the usual ones, for tests.
pub fn spawn_with_timing(
    settings: &Settings,
    metrics: Arc<BusMetrics>,
    shards: Vec<ShardSender>,
    revocations: Revocations,
    timing: Timing,
) -> anyhow::Result<(BusSender, JoinHandle<()>)> {
    let poll = Poll::new().context("the bus thread needs an epoll descriptor; raise `ulimit -n`")?;
    let (sender, inbox) = inbox(COMMANDS_MAX, poll.registry(), WAKER).context("the bus thread needs an eventfd; raise `ulimit -n`")?;
    let alarm = Alarm::new(poll.registry(), ALARM).context("the bus thread needs a timerfd; raise `ulimit -n`")?;
    let subscriber = Subscriber::new(settings, metrics, shards, revocations, inbox, poll.registry(), timing)?;
    let thread = std::thread::Builder::new()
        .name("bus".into())
        .spawn(move || run(poll, alarm, subscriber))
        .context("the bus thread could not be started")?;
    Ok((BusSender::new(sender, settings.shards.inbox_messages), thread))
}

fn run(mut poll: Poll, mut alarm: Alarm, mut subscriber: Subscriber) {
    let mut events = Events::with_capacity(64);
    while !subscriber.is_over() {
        let slept = wait(&mut poll, &mut alarm, &mut events, &subscriber);
        let woke_ns = monotonic_ns();
        events.iter().filter(|event| event.token() != ALARM).for_each(|event| subscriber.event(event));
        subscriber.turn();
        subscriber.spend(slept, woke_ns);
    }
}

/// Rests as the pace wants it, and sleeps until something happens or is due; whether it may have slept.
fn wait(poll: &mut Poll, alarm: &mut Alarm, events: &mut Events, subscriber: &Subscriber) -> bool {
    let mut now = monotonic_ns();
    let rest_ns = if subscriber.wait_ns(now) == Some(0) { 0 } else { subscriber.rest_ns(now) };
    if rest_ns > 0 {
        std::thread::sleep(Duration::from_nanos(rest_ns));
        now = monotonic_ns();
    }
    let wait_ns = subscriber.wait_ns(now);
    let may_sleep = wait_ns != Some(0) && subscriber.prepare_sleep();
    let timeout = if may_sleep { alarm.timeout(wait_ns, now) } else { Some(Duration::ZERO) };
    if let Err(error) = poll.poll(events, timeout)
        && error.kind() != io::ErrorKind::Interrupted
    {
        panic!("epoll_wait on our own descriptor: {error}");
    }
    subscriber.awake();
    may_sleep
}
