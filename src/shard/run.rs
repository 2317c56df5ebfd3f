//! A shard's thread: pinned, with a descriptor table of its own if wanted, asleep in epoll between turns.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::{Events, Poll, Token};

use super::net::{Network, Readiness};
use super::sockets::{LISTENER_TOKEN, Sockets};
use super::{Parts, Shard, unpack};
use crate::bus::ShardMessage;
use crate::inbox::{Inbox, InboxSender, inbox};
use crate::listen::{Entrance, Handed, Listener, Opening};
use crate::sys;

const WAKER: Token = Token(usize::MAX);
const EVENTS_PER_WAIT: usize = 1024;

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
}

/// How the thread is to be set up.
#[derive(Debug)]
pub struct Placement {
    pub core: Option<core_affinity::CoreId>,
    pub private_descriptors: bool,
    pub entrances: Vec<Entrance>,
}

/// The thread's body. `started` is told the listeners with their ports, or why there are none; then the loop runs until the bus says stop and
/// every connection is gone, or the shutdown deadline has passed.
pub fn run(seat: Seat, parts: Parts, placement: Placement, started: impl FnOnce(io::Result<Vec<Listener>>)) {
    let Seat { mut poll } = seat;
    if let Some(core) = placement.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(shard = parts.index, core = core.id, "cannot pin the shard to its core; it runs unpinned");
    }
    let sockets = prepare(&poll, &parts, placement);
    let sockets = match sockets {
        Ok(sockets) => {
            started(Ok(sockets.listeners()));
            sockets
        }
        Err(error) => return started(Err(error)),
    };
    let mut shard = Shard::new(sockets, parts);
    let mut events = Events::with_capacity(EVENTS_PER_WAIT);
    // Connections may have come between listen and the first wait.
    shard.on_listener();
    while !shard.is_finished() {
        let now_ns = shard.net().now_ns();
        wait(&mut poll, &mut events, &shard, now_ns);
        let woke_ns = shard.net().now_ns();
        for event in &events {
            match event.token() {
                WAKER => {}
                Token(token) if token > LISTENER_TOKEN - 1024 => shard.on_listener(),
                Token(token) => {
                    let readiness = Readiness {
                        readable: event.is_readable(),
                        writable: event.is_writable(),
                        closed: event.is_read_closed() || event.is_error(),
                    };
                    shard.on_ready(unpack(token), readiness);
                }
            }
        }
        shard.turn();
        let busy = shard.net().now_ns() - woke_ns;
        shard.metrics().busy_ns.add(busy);
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
    let mut sockets = Sockets::new(poll.registry().try_clone()?);
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

/// Sleeps until something happens or the shard's next deadline; does not sleep while work remains.
fn wait(poll: &mut Poll, events: &mut Events, shard: &Shard<Sockets>, now_ns: u64) {
    let mut wait_ns = shard.wait_ns(now_ns);
    if wait_ns != Some(0) && !shard.inbox().prepare_sleep() {
        wait_ns = Some(0);
    }
    match poll.poll(events, wait_ns.map(Duration::from_nanos)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
        Err(error) => panic!("epoll_wait failed on an epoll of our own: {error}"),
    }
    shard.inbox().awake();
}
