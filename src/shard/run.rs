//! A shard's thread: pinned, with a descriptor table of its own if wanted, asleep in epoll between turns.
//!
//! The bus may ride on it, where there is one shard only: its turns come before the shard's, so that what it hands out is sent at once.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll, Registry, Token};

use super::net::{Network, Readiness};
use super::secured::Gear;
use super::sockets::{LISTENER_TOKEN, Sockets};
use super::{Parts, Shard, unpack};
use crate::alarm::Alarm;
use crate::bus::subscriber::Subscriber;
use crate::bus::{BusCommand, ShardMessage, upstream};
use crate::clock::MonotonicNs;
use crate::inbox::{Inbox, InboxSender, inbox};
use crate::limits;
use crate::limits::bus::COMMANDS_MAX;
use crate::listen::{Entrance, Handed, Listener, Opening};
use crate::sys;
use crate::tls::acceptor::Acceptor;

const WAKER: Token = Token(usize::MAX);
/// Below those of the listeners.
const ALARM: Token = Token(usize::MAX - 2048);

/// The thread-to-be's epoll, made by its parent so that wakers to it can be handed round first.
#[derive(Debug)]
pub struct Seat {
    poll: Poll,
}

impl Seat {
    pub fn new(inbox_messages: usize) -> io::Result<(Seat, InboxSender<ShardMessage>, Inbox<ShardMessage>)> {
        let poll = Poll::new()?;
        let (sender, receiver) = inbox(inbox_messages, poll.registry(), WAKER)?;
        Ok((Seat { poll }, sender, receiver))
    }

    /// The inbox of a bus that will ride here.
    pub fn bus_inbox(&self) -> io::Result<(InboxSender<BusCommand>, Inbox<BusCommand>)> {
        inbox(COMMANDS_MAX, self.poll.registry(), upstream::WAKER)
    }
}

/// Makes the bus that rides on a shard's thread, there: what is wrong with it is wrong with the start of that thread.
pub type MakeRider = Box<dyn FnOnce(&Registry) -> anyhow::Result<Subscriber> + Send>;

/// How the thread is to be set up.
#[derive(Debug)]
pub struct Placement {
    pub core: Option<core_affinity::CoreId>,
    pub private_descriptors: bool,
    pub entrances: Vec<Entrance>,
    /// How TLS is begun, where a listener speaks it.
    pub acceptor: Option<Arc<Acceptor>>,
}

/// The thread's body. `started` is told the listeners with their ports, or why there are none; then the loop runs until the bus says stop and
/// every connection is gone, or the shutdown deadline has passed.
pub fn run(
    seat: Seat,
    parts: Parts,
    placement: Placement,
    make_rider: Option<MakeRider>,
    started: impl FnOnce(anyhow::Result<Vec<Listener>>),
) {
    let Seat { poll } = seat;
    if let Some(core) = placement.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(shard = parts.index, core = core.id, "cannot pin the shard to its core; it runs unpinned");
    }
    let prepared = prepare(&poll, &parts, placement)
        .map_err(anyhow::Error::from)
        .and_then(|sockets| Ok((sockets, Alarm::new(poll.registry(), ALARM)?, make_rider.map(|make| make(poll.registry())).transpose()?)));
    let (sockets, alarm, rider) = match prepared {
        Ok((sockets, alarm, rider)) => {
            started(Ok(sockets.listeners()));
            (sockets, alarm, rider)
        }
        Err(error) => return started(Err(error)),
    };
    let mut shard = Shard::new(sockets, parts);
    // Connections may have come between listen and the first wait.
    shard.on_listener();
    let mut runner = Runner { poll, events: Events::with_capacity(limits::EVENTS_PER_WAIT), alarm, shard, rider };
    while !runner.shard.is_finished() {
        runner.wait();
        runner.turn();
    }
}

struct Runner {
    poll: Poll,
    events: Events,
    alarm: Alarm,
    shard: Shard<Sockets>,
    rider: Option<Subscriber>,
}

impl Runner {
    /// Sleeps until something happens or the next deadline; does not sleep while work remains.
    fn wait(&mut self) {
        let mut now_ns = self.shard.net().now_ns();
        let mut wait_ns = self.wait_ns(now_ns);
        let rest_ns = self.rider.as_ref().map_or(0, |rider| rider.rest_ns(now_ns));
        if rest_ns > 0 && wait_ns != Some(0) {
            std::thread::sleep(Duration::from_nanos(rest_ns));
            now_ns = self.shard.net().now_ns();
            wait_ns = self.wait_ns(now_ns);
        }
        if wait_ns != Some(0) && !(self.shard.inbox().prepare_sleep() && self.rider.as_ref().is_none_or(Subscriber::prepare_sleep)) {
            wait_ns = Some(0);
        }
        match self.poll.poll(&mut self.events, self.alarm.timeout(wait_ns, now_ns)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            Err(error) => panic!("epoll_wait failed on an epoll of our own: {error}"),
        }
        self.shard.inbox().awake();
        self.rider.iter().for_each(Subscriber::awake);
    }

    fn wait_ns(&self, now_ns: MonotonicNs) -> Option<u64> {
        [self.shard.wait_ns(now_ns), self.rider.as_ref().and_then(|rider| rider.wait_ns(now_ns))].into_iter().flatten().min()
    }

    fn turn(&mut self) {
        let woke_ns = self.shard.net().now_ns();
        let mut for_rider = false;
        for event in &self.events {
            match event.token() {
                // What is due is found by whoever it is due for.
                WAKER | ALARM => {}
                token if upstream::is_ours(token) => {
                    for_rider = true;
                    self.rider.iter_mut().for_each(|rider| rider.event(event));
                }
                Token(token) if token > LISTENER_TOKEN - 1024 => self.shard.on_listener(),
                Token(token) => {
                    let readiness = Readiness {
                        readable: event.is_readable(),
                        writable: event.is_writable(),
                        closed: event.is_read_closed() || event.is_error(),
                    };
                    self.shard.on_ready(unpack(token), readiness);
                }
            }
        }
        if let Some(rider) = &mut self.rider {
            rider.turn();
            rider.spend(for_rider, woke_ns);
            if rider.is_over() {
                self.rider = None;
            }
        }
        self.shard.turn();
        let busy = self.shard.net().now_ns() - woke_ns;
        let metrics = self.shard.metrics();
        metrics.busy_ns.add(busy);
        metrics.turn.record(busy / 1000, 1);
        self.shard.note_turn(busy);
        if self.shard.lets_others_go_first() {
            std::thread::yield_now();
        }
    }
}

fn prepare(poll: &Poll, parts: &Parts, placement: Placement) -> io::Result<Sockets> {
    let inherited: Vec<RawFd> = placement
        .entrances
        .iter()
        .filter_map(|entrance| match entrance.socket {
            Opening::Given { socket: Handed::Inherited(fd), .. } => Some(fd),
            Opening::Given { socket: Handed::Owned(_), .. } | Opening::Bind => None,
        })
        .collect();
    let mut taken = Vec::new();
    if placement.private_descriptors {
        taken = sys::unshare_descriptors(&[poll.as_raw_fd(), parts.inbox.wake_fd(), parts.bus.wake_fd()], &inherited)?;
    }
    let mut taken = taken.into_iter();
    let gear = Gear::new(placement.acceptor, parts.metrics.clone());
    let mut sockets = Sockets::new(poll.registry().try_clone()?, gear);
    for Entrance { listener, socket } in placement.entrances {
        match socket {
            Opening::Bind => sockets.bind(listener, &parts.settings)?,
            Opening::Given { socket, is_shared } => {
                let socket = match socket {
                    Handed::Owned(socket) => socket,
                    Handed::Inherited(_) => taken.next().expect("one for each that was asked for"),
                };
                sockets.take(listener, socket, is_shared, &parts.settings)?;
            }
        }
    }
    if !placement.private_descriptors {
        sockets.leave_some_free();
    }
    Ok(sockets)
}
