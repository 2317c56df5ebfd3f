//! What systemd is told (ready, status, alive, stopping) and what it hands over (listening sockets). [`crate::server`] takes both at
//! start, [`crate::control`] tells. Without `NOTIFY_SOCKET` and `LISTEN_FDS` nothing here does anything.
//!
//! Invariant: "alive" is told only if every thread of the data path has turned since it was told last. An idle thread is asleep and does
//! not turn by itself, so each is woken for it ([`Pulses::beat`]): a thread that is asleep wakes and turns, one that is busy turns
//! anyway, and one that is stuck does neither.

use std::env;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use sd_notify::NotifyState;
use socket2::{Domain, SockRef, Type};

use crate::bus::{BusSender, ShardSender};
use crate::listen::unix::UnixPath;
use crate::listen::{Entrance, Handed, Listener, Opening};
use crate::metrics::{BusMetrics, ShardMetrics};
use crate::sys;

/// How often the status is looked at where systemd wants no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Beats in one `WatchdogSec`. A late beat or two must not end a healthy server.
const BEATS_PER_WATCHDOG: u32 = 4;
/// A service manager that takes no datagram for this long is left without it, rather than the control thread without its time.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the service manager.
///
/// The `sd-notify` crate would open a socket for every message. A server at its descriptor limit could then no longer say that it
/// is alive and would be killed for being full; so the socket is made once and kept.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
}

impl Notifier {
    /// None without `NOTIFY_SOCKET`: nobody wants to know.
    pub fn from_environment() -> anyhow::Result<Option<Notifier>> {
        let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return Ok(None) };
        Notifier::connect(path.as_bytes()).map(Some).with_context(|| format!("NOTIFY_SOCKET={} cannot be used", path.display()))
    }

    /// `@` begins a name that is in no directory, see sd_notify(3).
    fn connect(path: &[u8]) -> io::Result<Notifier> {
        let address = match path.strip_prefix(b"@") {
            Some(name) => UnixAddr::from_abstract_name(name)?,
            None => UnixAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Notifier { socket })
    }

    /// Sends the states as one message. A failure is logged: nobody could do more about it.
    pub fn tell(&self, states: &[NotifyState<'_>]) {
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = self.socket.send(message.as_bytes()) {
            tracing::warn!("the service manager could not be told {}: {error}", message.trim_end().replace('\n', ", "));
        }
    }
}

/// Sees that every thread of the data path turns.
#[derive(Debug)]
pub struct Pulses {
    bus: BusSender,
    bus_metrics: Arc<BusMetrics>,
    shards: Vec<(ShardSender, Arc<ShardMetrics>)>,
    /// Turns at the last beat, the bus first; empty before the first.
    turns: Vec<u64>,
}

impl Pulses {
    pub fn new(bus: BusSender, bus_metrics: Arc<BusMetrics>, shards: Vec<(ShardSender, Arc<ShardMetrics>)>) -> Pulses {
        Pulses { bus, bus_metrics, shards, turns: Vec::new() }
    }

    /// The threads that have not turned since the last beat; then wakes them all, for the next.
    pub fn beat(&mut self) -> Vec<String> {
        let turns: Vec<u64> =
            std::iter::once(self.bus_metrics.turns.get()).chain(self.shards.iter().map(|(_, metrics)| metrics.turns.get())).collect();
        let stuck = turns.iter().zip(&self.turns).enumerate().filter(|(_, (now, before))| now == before);
        let stuck = stuck.map(|(index, _)| if index == 0 { "bus".to_owned() } else { format!("shard {}", index - 1) }).collect();
        self.turns = turns;
        // After the counters were read: whoever turns because of this has another number at the next beat.
        self.bus.wake();
        for (shard, _) in &self.shards {
            shard.wake();
        }
        stuck
    }
}

/// What the control thread does for systemd as long as the server runs.
#[derive(Debug)]
pub struct Supervision {
    notifier: Arc<Notifier>,
    pulses: Pulses,
    /// `WatchdogSec`, if systemd asks for signs of life.
    watchdog: Option<Duration>,
    /// As last told.
    status: String,
    was_stuck: bool,
}

impl Supervision {
    pub fn new(notifier: Notifier, pulses: Pulses, watchdog: Option<Duration>) -> Supervision {
        Supervision { notifier: Arc::new(notifier), pulses, watchdog, status: String::new(), was_stuck: false }
    }

    pub fn notifier(&self) -> Arc<Notifier> {
        self.notifier.clone()
    }

    pub fn interval(&self) -> Duration {
        self.watchdog.map_or(STATUS_INTERVAL, |watchdog| (watchdog / BEATS_PER_WATCHDOG).clamp(Duration::from_millis(1), STATUS_INTERVAL))
    }

    /// Ports are open and answered. Also the first beat.
    pub fn ready(&mut self, status: String) {
        self.pulses.beat();
        self.notifier.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// To be called every [`Supervision::interval`].
    pub fn beat(&mut self, status: String) {
        let stuck = self.pulses.beat();
        let mut states = Vec::new();
        if stuck.is_empty() {
            if self.watchdog.is_some() {
                states.push(NotifyState::Watchdog);
            }
            if self.was_stuck {
                tracing::info!("every thread of the data path turns again");
            }
        } else if !self.was_stuck {
            tracing::error!("stuck for {:?}: {}; the watchdog is told nothing until it turns again", self.interval(), stuck.join(", "));
        }
        self.was_stuck = !stuck.is_empty();
        let status = if self.was_stuck { format!("stuck: {}; {status}", stuck.join(", ")) } else { status };
        if status != self.status {
            states.push(NotifyState::Status(&status));
        }
        if !states.is_empty() {
            self.notifier.tell(&states);
        }
        self.status = status;
    }
}

/// `WatchdogSec` of the unit, if it is meant for this process.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Listening sockets from systemd, in place of `listen`.
#[derive(Debug)]
pub struct Given {
    sockets: Vec<(OwnedFd, Listener)>,
}

impl Given {
    /// None without `LISTEN_FDS`. Sockets that clients cannot be accepted from are an error: systemd believes that they are served.
    pub fn from_environment(backlog: u32) -> anyhow::Result<Option<Given>> {
        let sockets = sys::listen_fds()
            .context("LISTEN_FDS cannot be used")?
            .into_iter()
            .map(|socket| {
                let listener = prepare(&socket, backlog).with_context(|| format!("descriptor {} from systemd", socket.as_raw_fd()))?;
                Ok((socket, listener))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Some(Given { sockets }).filter(|given| !given.sockets.is_empty()))
    }

    /// What is marked in the settings is spoken by the socket of the same address.
    pub fn speaking_as(mut self, settings: &[Listener]) -> Given {
        for (_, listener) in &mut self.sockets {
            listener.is_proxied = settings.iter().any(|typed| typed.is_proxied && typed.address.is_at(&listener.address));
        }
        self
    }

    /// Each address once.
    pub fn listeners(&self) -> Vec<Listener> {
        let mut listeners: Vec<Listener> = Vec::new();
        for (_, listener) in &self.sockets {
            if listeners.iter().all(|other| other.address != listener.address) {
                listeners.push(listener.clone());
            }
        }
        listeners
    }

    /// The sockets that one of `shards` shards accepts from. Every socket is somebody's and every shard has one of each address: the
    /// kernel deals connections to each socket of an address, whether anybody accepts from it or not.
    ///
    /// `private`: the shard is about to take a copy of the descriptor table, and finds the sockets there under the same numbers.
    pub fn share(&self, shard: usize, shards: usize, private: bool) -> io::Result<Vec<Entrance>> {
        let mut entrances = Vec::new();
        for listener in self.listeners() {
            let group: Vec<&OwnedFd> =
                self.sockets.iter().filter(|(_, other)| other.address == listener.address).map(|(socket, _)| socket).collect();
            let serves = |shard: usize, index: usize| {
                if group.len() < shards { shard % group.len() == index } else { index % shards == shard }
            };
            for (index, socket) in group.iter().enumerate().filter(|(index, _)| serves(shard, *index)) {
                let is_shared = (0..shards).filter(|&other| serves(other, index)).count() > 1;
                let socket = if private { Handed::Inherited(socket.as_raw_fd()) } else { Handed::Owned(socket.try_clone()?) };
                entrances.push(Entrance { listener: listener.clone(), socket: Opening::Given { socket, is_shared } });
            }
        }
        Ok(entrances)
    }
}

/// Checks one socket and sets what the settings say about it; accepted sockets inherit the rest ([`crate::shard::sockets`]).
fn prepare(socket: &OwnedFd, backlog: u32) -> anyhow::Result<Listener> {
    let socket = SockRef::from(socket);
    let is_stream =
        matches!(socket.domain(), Ok(Domain::IPV4 | Domain::IPV6 | Domain::UNIX)) && matches!(socket.r#type(), Ok(Type::STREAM));
    if !is_stream || !socket.is_listener().unwrap_or(false) {
        bail!("it is no listening TCP or unix socket; campanile.socket takes ListenStream= with an address and a port, or a path");
    }
    socket.set_nonblocking(true)?;
    // systemd's Backlog= held until now.
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let address = socket.local_addr()?;
    if let Some(path) = address.as_pathname() {
        // Its mode and group are the socket unit's.
        return Ok(Listener::unix(UnixPath::new(path)));
    }
    let address = address.as_socket().ok_or_else(|| anyhow!("it has neither an IP address nor a path"))?;
    // The socket unit decides whether IPv4 comes in through `[::]`.
    Ok(Listener { is_ipv6_alone: address.is_ipv6() && socket.only_v6().unwrap_or(false), ..Listener::new(address) })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::RawFd;

    use super::*;

    fn given(addresses: &[&TcpListener]) -> Given {
        let handed = |socket: &&TcpListener| (OwnedFd::from(socket.try_clone().unwrap()), Listener::new(socket.local_addr().unwrap()));
        Given { sockets: addresses.iter().map(handed).collect() }
    }

    /// Whatever the numbers of sockets and shards, no socket is without a shard and no shard without a socket.
    #[test]
    fn every_socket_is_served_and_every_shard_serves() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        for shards in 1..=7 {
            for sockets in 1..=7 {
                let mut all = vec![&socket; sockets];
                all.push(&other);
                let given = given(&all);
                assert_eq!(given.listeners(), [&socket, &other].map(|socket| Listener::new(socket.local_addr().unwrap())));
                let number = |entrance: &Entrance| match entrance.socket {
                    Opening::Given { socket: Handed::Inherited(fd), is_shared } => (fd, is_shared),
                    _ => panic!("asked for numbers"),
                };
                let shares = |shard| given.share(shard, shards, true).unwrap().iter().map(number).collect::<Vec<_>>().into_iter();
                for (fd, _) in &given.sockets {
                    let users: Vec<(RawFd, bool)> = (0..shards).flat_map(shares).filter(|(number, _)| *number == fd.as_raw_fd()).collect();
                    assert!(!users.is_empty(), "{sockets} sockets, {shards} shards: one is not served");
                    assert!(users.iter().all(|(_, is_shared)| *is_shared == (users.len() > 1)), "{sockets} {shards} {users:?}");
                }
                let last = given.sockets[sockets].0.as_raw_fd();
                for shard in 0..shards {
                    let of_group = shares(shard).filter(|(number, _)| *number != last).count();
                    assert!(of_group >= 1 && shares(shard).count() == of_group + 1, "{sockets} sockets, {shards} shards, shard {shard}");
                }
            }
        }
    }

    #[test]
    fn a_given_socket_speaks_what_the_settings_say_of_its_address() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        for is_proxied in [true, false] {
            let typed = Listener { is_proxied, ..Listener::new(socket.local_addr().unwrap()) };
            assert_eq!(given(&[&socket]).speaking_as(std::slice::from_ref(&typed)).listeners(), [typed]);
        }
    }

    #[test]
    fn a_unix_socket_is_taken_as_it_is() {
        let path = std::env::temp_dir().join(format!("campanile-given-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(prepare(&socket.into(), 16).unwrap(), Listener::unix(UnixPath::new(&path)));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_listener_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(prepare(&listener.try_clone().unwrap().into(), 16).unwrap(), Listener::new(listener.local_addr().unwrap()));
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let unix = UnixDatagram::unbound().unwrap();
        for socket in [OwnedFd::from(stream), udp.into(), unix.into(), std::fs::File::open("/dev/null").unwrap().into()] {
            assert!(prepare(&socket, 16).unwrap_err().to_string().contains("no listening TCP or unix socket"));
        }
    }

    #[test]
    fn a_message_is_one_datagram_with_a_line_for_each_state() {
        let name = format!("campanile-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::connect(format!("@{name}").as_bytes()).unwrap();
        notifier.tell(&[NotifyState::Ready, NotifyState::Status("3 connections")]);
        let mut message = [0; 256];
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1\nSTATUS=3 connections\n");
        assert!(Notifier::connect(b"/nowhere/at/all").is_err());
    }

    /// The threads are played: `turns` moves when a thread would have turned.
    #[test]
    fn a_thread_that_does_not_turn_is_named_until_it_does() {
        let poll = mio::Poll::new().unwrap();
        let (bus, bus_inbox) = crate::inbox::inbox(1, poll.registry(), mio::Token(0)).unwrap();
        let bus = BusSender::new(bus, 1);
        let shards: Vec<_> = (1..3).map(|token| crate::inbox::inbox(1, poll.registry(), mio::Token(token)).unwrap()).collect();
        let bus_metrics = Arc::new(BusMetrics::default());
        let metrics: Vec<Arc<ShardMetrics>> = vec![Arc::default(), Arc::default()];
        let senders = shards.iter().map(|(sender, _)| sender.clone()).zip(metrics.iter().cloned()).collect();
        let mut pulses = Pulses::new(bus, bus_metrics.clone(), senders);
        assert!(bus_inbox.prepare_sleep() && shards[1].1.prepare_sleep());
        assert!(pulses.beat().is_empty(), "nothing to compare with yet");
        let mut events = mio::Events::with_capacity(8);
        let mut poll = poll;
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        let woken: Vec<usize> = events.iter().map(|event| event.token().0).collect();
        assert_eq!((woken.len(), woken.contains(&0), woken.contains(&2)), (2, true, true), "those asleep are woken: {woken:?}");
        bus_metrics.turns.inc();
        metrics[0].turns.inc();
        assert_eq!(pulses.beat(), ["shard 1"]);
        assert_eq!(pulses.beat(), ["bus", "shard 0", "shard 1"]);
        bus_metrics.turns.inc();
        metrics.iter().for_each(|metrics| metrics.turns.inc());
        assert!(pulses.beat().is_empty());
    }
}
