//! A shard's thread: pinned, with a descriptor table of its own if wanted, asleep in epoll between turns.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::{Events, Poll, Token};

use super::net::{Network, Readiness};
use super::sockets::{LISTENER_TOKEN, Sockets};
use super::{Parts, Shard, unpack};
use crate::bus::ShardMessage;
use crate::inbox::{Inbox, InboxSender, inbox};
use crate::sys;
use crate::systemd::{Share, Socket};

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
    /// The settings' addresses; a port 0 has become the one that the first shard got.
    pub listen: Vec<SocketAddr>,
    /// Listeners from systemd, in place of `listen`.
    pub given: Option<Vec<Share>>,
}

/// The thread's body. `started` is told the bound addresses, or why there are none; then the loop runs until the bus says stop and
/// every connection is gone, or the shutdown deadline has passed.
pub fn run(seat: Seat, parts: Parts, placement: Placement, started: impl FnOnce(io::Result<Vec<SocketAddr>>)) {
    let Seat { mut poll } = seat;
    if let Some(core) = placement.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(shard = parts.index, core = core.id, "cannot pin the shard to its core; it runs unpinned");
    }
    let sockets = prepare(&poll, &parts, placement);
    let sockets = match sockets {
        Ok(sockets) => {
            started(Ok(sockets.addresses()));
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
    let given = placement.given.unwrap_or_default();
    let inherited: Vec<RawFd> = given
        .iter()
        .filter_map(|share| match share.socket {
            Socket::Inherited(fd) => Some(fd),
            Socket::Owned(_) => None,
        })
        .collect();
    let mut taken = Vec::new();
    if placement.private_descriptors {
        taken = sys::unshare_descriptors(&[poll.as_raw_fd(), parts.inbox.wake_fd(), parts.bus.wake_fd()], &inherited)?;
    }
    let registry = poll.registry().try_clone()?;
    let mut sockets = if given.is_empty() {
        Sockets::bind(registry, &placement.listen, &parts.settings)?
    } else {
        let mut taken = taken.into_iter();
        let given = given.into_iter().filter_map(|share| match share.socket {
            Socket::Owned(socket) => Some((socket, share.is_shared)),
            Socket::Inherited(_) => taken.next().map(|socket| (socket, share.is_shared)),
        });
        Sockets::given(registry, given, &parts.settings)?
    };
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
