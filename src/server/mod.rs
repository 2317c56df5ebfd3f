//! Starts the threads (bus, shards, control) in three steps: `Prepared` is what the host can refuse, `DataPath` what messages go through,
//! `tell` promises it to control port, systemd and caller; every error comes before that. Ends them, too. Called by `campanile serve`;
//! what it then says about itself stands in [`start_block`].

pub mod memory_bound;
pub mod start_block;
mod takeover;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use core_affinity::CoreId;
use tokio::sync::oneshot;

use crate::auth::Gate;
use crate::auth::keys::Keys;
use crate::auth::revoked::Revoked;
use crate::auth::token::Wanted;
use crate::bus::redis::timing::Timing;
use crate::bus::revoke::Revocations;
use crate::bus::subscriber::Subscriber;
use crate::bus::{BusCommand, BusSender, ShardMessage, thread};
use crate::config::{AuthMode, Host, Pin, Resolved, Settings, Sources, resolve_fd_table};
use crate::control::reload::Origin;
use crate::control::{self, Control, Facts};
use crate::inbox::{Inbox, InboxSender};
use crate::journal::disk::folder::Folder;
use crate::life::Life;
use crate::listen::unix::SocketFile;
use crate::listen::{self, Address, ControlSocket, Entrance, Handed, Listener, Opening};
use crate::metrics::{BusMetrics, ShardMetrics};
use crate::shard::Parts;
use crate::shard::by_address::ByAddress;
use crate::shard::depart::Departures;
use crate::shard::load::HostLoad;
use crate::shard::run::{self, MakeRider, Placement, Seat};
use crate::shard::settings::ShardSettings;
use crate::sys;
use crate::systemd::{self, Given, Notifier, Pulses, Supervision};
use crate::tls::acceptor::Acceptor;
use crate::tls::tickets::Tickets;
use crate::wire::peer::Peer;

/// A server whose ports are open.
#[derive(Debug)]
pub struct Server {
    /// What clients connect to, with the ports really bound.
    pub listen: Vec<Listener>,
    pub control: Address,
    pub table: Resolved,
    /// Descriptors that a table may hold now.
    pub descriptors: u64,
    bus: BusSender,
    bus_thread: Option<JoinHandle<()>>,
    shards: Vec<JoinHandle<()>>,
    control_thread: JoinHandle<io::Result<()>>,
    /// Removed when everything has ended.
    opened: Opened,
    ended: oneshot::Sender<()>,
}

/// Opens the ports and starts every thread. Call it on a thread that should not get signals: from here on they go to the control
/// thread.
///
/// `takes_over`: a server that runs with the same addresses drains, and this one takes its place. `sources`: where the settings came from, which a reload reads again.
pub fn start(settings: Settings, sources: Sources, host: &Host, takes_over: bool) -> anyhow::Result<Server> {
    let as_read = settings.clone();
    let mut prepared = Prepared::new(settings, host, takes_over)?;
    let data_path = DataPath::start(&prepared)?;
    let control = match prepared.control.take() {
        Some(control) => control,
        // Clients that the other one sends away are let in from here on.
        None => takeover::control(&prepared.settings)?,
    };
    let origin = Origin {
        sources,
        host: host.clone(),
        settings: as_read,
        keys: prepared.keys.clone(),
        fetched: std::mem::take(&mut prepared.fetched),
        gate: prepared.gate.clone(),
        acceptor: prepared.acceptor.clone(),
        tickets: prepared.tickets.clone(),
        wanted: prepared.wanted.clone(),
        addresses: prepared.addresses.clone(),
    };
    Ok(tell(prepared, data_path, control, origin))
}

/// What the host can refuse, asked before any thread of the data path begins and any client comes in.
struct Prepared {
    settings: Arc<Settings>,
    table: Resolved,
    descriptors: u64,
    notifier: Option<Notifier>,
    /// The sockets from systemd, in place of `listen`.
    given: Option<Given>,
    opened: Opened,
    keys: Keys,
    /// From `jwks_url`: where another server's clients are about to come, there must be keys for them.
    fetched: Keys,
    /// With those keys.
    gate: Gate,
    /// None: no listener speaks TLS.
    acceptor: Option<Arc<Acceptor>>,
    tickets: Arc<Tickets>,
    /// What shards will be told of the host.
    host: Arc<HostLoad>,
    /// Where shards say that a key is missing.
    wanted: Arc<Wanted>,
    /// What addresses take of the process.
    addresses: Arc<ByAddress>,
    /// None: another server has it.
    control: Option<(ControlSocket, Address)>,
    control_thread: ControlThread,
    life: Arc<Life>,
}

impl Prepared {
    fn new(settings: Settings, host: &Host, takes_over: bool) -> anyhow::Result<Prepared> {
        sys::block_signals().context("signals cannot be blocked")?;
        let descriptors = sys::raise_descriptor_limit().map_or_else(
            |error| {
                tracing::warn!("the limit on descriptors stays at {}: it cannot be raised ({error})", host.descriptors_soft);
                host.descriptors_soft
            },
            |limit| limit.soft,
        );
        let table = resolve_fd_table(&settings, descriptors, host.private_refused.as_ref());
        let notifier = Notifier::from_environment()?;
        // First, so that a port in use ends the start before any thread has begun.
        let given = Given::from_environment(settings.shards.backlog)?.map(|given| given.speaking_as(&settings.addresses.listen));
        let settings = match &given {
            Some(given) => settings.with(|settings| settings.addresses.listen = given.listeners()),
            None => settings,
        };
        check_data_dir(&settings, takes_over)?;
        let wanted = Arc::<Wanted>::default();
        let keys = settings.auth.own_keys()?;
        let mut fetched = Keys::default();
        if takes_over {
            takeover::ask_first(&settings)?;
            fetched = fetch_first(&settings, &keys)?;
        }
        let gate = settings.auth.gate_of(&keys, &fetched, wanted.clone())?;
        let tickets = crate::config::tls::tickets()?;
        let acceptor = settings.tls.acceptor(&tickets)?;
        let opened = match given {
            Some(_) => Opened::default(),
            None if takes_over => Opened::beside(&settings)?,
            None => {
                listen::check_unused(&settings.addresses.listen)?;
                Opened::new(&settings)?
            }
        };
        let addresses = Arc::new(ByAddress::new(&settings.bounds));
        let control = if takes_over { None } else { Some(takeover::own_control(&settings)?) };
        let control_thread = ControlThread::start()?;
        Ok(Prepared {
            settings: Arc::new(settings),
            table,
            descriptors,
            notifier,
            given,
            opened,
            keys,
            fetched,
            gate,
            acceptor,
            tickets,
            wanted,
            addresses,
            host: Arc::default(),
            control,
            control_thread,
            life: Arc::default(),
        })
    }
}

/// What lies there is one process's: whoever else has it keeps it until it has ended, and with it all that it was given.
fn check_data_dir(settings: &Settings, takes_over: bool) -> anyhow::Result<()> {
    let Some(data_dir) = &settings.journal.data_dir else { return Ok(()) };
    if takes_over {
        bail!(
            "--takeover: with data_dir ({}) two servers cannot run beside each other, as one process has the messages that are kept there;              restart the server instead: what it had accepted is there when it is back",
            data_dir.display()
        );
    }
    Folder::open(data_dir).context("data_dir").map(drop)
}

/// The keys of `jwks_url`, by which the clients of a server whose place is taken are to be let in.
fn fetch_first(settings: &Settings, own: &Keys) -> anyhow::Result<Keys> {
    let Some(url) = settings.auth.jwks_url.as_deref().filter(|_| settings.auth.mode == AuthMode::Jwt) else { return Ok(Keys::default()) };
    match control::jwks::fetch(url) {
        Ok(fetched) => Ok(fetched.keys),
        Err(error) if own.is_empty() => {
            bail!("jwks_url: no keys can be fetched, and without them no client could be let in; the other server goes on: {error}")
        }
        Err(error) => {
            tracing::warn!("jwks_url: no keys can be fetched: {error}");
            Ok(Keys::default())
        }
    }
}

/// Sockets of the public port that are open before the shards are there.
#[derive(Debug, Default)]
struct Opened {
    /// Unix sockets. A path is one socket, so it is opened once, and every shard accepts from it.
    sockets: Vec<(OwnedFd, Listener)>,
    files: Vec<SocketFile>,
    /// Those of each shard, where another server listens at the same addresses: they take in clients from before that one closes its own.
    of_shards: Vec<Vec<(OwnedFd, Listener)>>,
}

impl Opened {
    fn new(settings: &Settings) -> io::Result<Opened> {
        let mut opened = Opened::default();
        let backlog = i32::try_from(settings.shards.backlog).unwrap_or(i32::MAX);
        for listener in &settings.addresses.listen {
            if let Address::Unix(unix) = &listener.address {
                let (socket, file) = unix.listen(backlog)?;
                opened.sockets.push((socket.into(), listener.clone()));
                opened.files.push(file);
            }
        }
        Ok(opened)
    }

    /// All of them, beside another server's, in whose place they will be.
    fn beside(settings: &Settings) -> io::Result<Opened> {
        let mut opened = Opened::default();
        let backlog = i32::try_from(settings.shards.backlog).unwrap_or(i32::MAX);
        opened.of_shards.resize_with(settings.shards.count, Vec::new);
        for listener in &settings.addresses.listen {
            match &listener.address {
                Address::Unix(unix) => {
                    let (socket, file) = unix.listen_instead(backlog)?;
                    opened.sockets.push((socket.into(), listener.clone()));
                    opened.files.push(file);
                }
                // Another port each time: nobody else's.
                Address::Ip(address) if address.port() == 0 => {}
                Address::Ip(_) => {
                    for of_shard in &mut opened.of_shards {
                        of_shard.push((listener.shared(backlog)?.into(), listener.clone()));
                    }
                }
            }
        }
        Ok(opened)
    }

    /// A shard's way in by this listener. `private`: it is about to take a copy of the descriptor table, and finds the socket there.
    fn entrance(&self, shard: usize, listener: &Listener, is_shared: bool, private: bool) -> io::Result<Entrance> {
        let same = |(_, other): &&(OwnedFd, Listener)| other.address == listener.address;
        let own = self.of_shards.get(shard).and_then(|own| own.iter().find(same));
        let is_shared = is_shared && own.is_none();
        let found = own.or_else(|| self.sockets.iter().find(same));
        let socket = match found {
            Some((socket, _)) if private => Opening::Given { socket: Handed::Inherited(socket.as_raw_fd()), is_shared },
            Some((socket, _)) => Opening::Given { socket: Handed::Owned(socket.try_clone()?), is_shared },
            None => Opening::Bind,
        };
        Ok(Entrance { listener: listener.clone(), socket })
    }
}

/// The control thread as it waits for what it will serve. It has its descriptors before the shards accept: in one descriptor table with it, a
/// rush of clients would leave it nothing to begin with.
struct ControlThread {
    thread: JoinHandle<io::Result<()>>,
    /// Dropped, it ends the thread: the start has failed.
    hand_over: mpsc::Sender<(ControlSocket, Arc<control::State>, Option<Supervision>, BusSender)>,
    ended: oneshot::Sender<()>,
}

impl ControlThread {
    fn start() -> anyhow::Result<ControlThread> {
        let (ended, end) = oneshot::channel();
        let (hand_over, handed_over) = mpsc::channel();
        let (prepared, preparing) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let control = match Control::prepare().and_then(|control| sys::unblock_signals().map(|()| control)) {
                    Ok(control) => control,
                    Err(error) => {
                        let _ = prepared.send(Err(error));
                        return Ok(());
                    }
                };
                let _ = prepared.send(Ok(()));
                let Ok((listener, state, supervision, bus)) = handed_over.recv() else { return Ok(()) };
                control.run(listener, state, supervision, move || stop(bus), end)
            })
            .context("the control thread could not be started")?;
        preparing
            .recv()
            .context("the control thread ended while it started")?
            .context("the control thread needs descriptors; raise `ulimit -n`")?;
        Ok(ControlThread { thread, hand_over, ended })
    }
}

/// The threads that messages go through: the bus and the shards, which accept from here on.
struct DataPath {
    bus: BusSender,
    /// None: the bus rides on the thread of the only shard.
    bus_thread: Option<JoinHandle<()>>,
    bus_metrics: Arc<BusMetrics>,
    revocations: Revocations,
    shards: Vec<JoinHandle<()>>,
    /// By shard, like the next.
    senders: Vec<InboxSender<ShardMessage>>,
    metrics: Vec<Arc<ShardMetrics>>,
    /// With the ports really bound.
    listen: Vec<Listener>,
}

impl DataPath {
    fn start(prepared: &Prepared) -> anyhow::Result<DataPath> {
        let settings = &prepared.settings;
        let mut seats = Vec::new();
        let mut senders = Vec::new();
        for _ in 0..settings.shards.count {
            let (seat, sender, inbox) =
                Seat::new(settings.shards.inbox_messages).context("a shard needs an epoll descriptor; raise `ulimit -n`")?;
            seats.push((seat, inbox));
            senders.push(sender);
        }
        let bus_metrics = Arc::new(BusMetrics::default());
        let revocations = Revocations::default();
        let (bus, bus_thread, rider) = match &seats[..] {
            [(seat, _)] if !prepared.table.private => {
                let (bus, rider) = make_rider(settings, bus_metrics.clone(), senders.clone(), revocations.clone(), seat)?;
                (bus, None, Some(rider))
            }
            _ => {
                let (bus, thread) = thread::spawn(settings, bus_metrics.clone(), senders.clone(), revocations.clone())?;
                (bus, Some(thread), None)
            }
        };
        let metrics: Vec<Arc<ShardMetrics>> = (0..settings.shards.count).map(|_| Arc::default()).collect();
        let (shards, listen) = start_shards(prepared, seats, &bus, &revocations.table, rider, &metrics)?;
        Ok(DataPath { bus, bus_thread, bus_metrics, revocations, shards, senders, metrics, listen })
    }
}

/// A bus for the thread of the only shard: a message then costs one wake instead of two, and waits for no time slice while the shard is busy. Not where
/// that thread has descriptors of its own: what the bus answers the control thread wakes it by a descriptor of that one's.
fn make_rider(
    settings: &Arc<Settings>,
    metrics: Arc<BusMetrics>,
    shards: Vec<InboxSender<ShardMessage>>,
    revocations: Revocations,
    seat: &Seat,
) -> anyhow::Result<(BusSender, MakeRider)> {
    let (sender, inbox) = seat.bus_inbox().context("the bus needs an eventfd; raise `ulimit -n`")?;
    let bus = BusSender::new(sender, settings.shards.inbox_messages);
    let settings = settings.clone();
    let make: MakeRider = Box::new(move |registry| {
        Subscriber::new(&settings, metrics, shards, revocations, inbox, registry, Timing::default()).map(Subscriber::in_step)
    });
    Ok((bus, make))
}

/// One after the other: a descriptor table of its own is a copy of what is open at that moment, and port 0 is decided by the first. Gives the
/// listeners that they accept from.
fn start_shards(
    prepared: &Prepared,
    seats: Vec<(Seat, Inbox<ShardMessage>)>,
    bus: &BusSender,
    revoked: &Arc<Revoked>,
    mut rider: Option<MakeRider>,
    metrics: &[Arc<ShardMetrics>],
) -> anyhow::Result<(Vec<JoinHandle<()>>, Vec<Listener>)> {
    let Prepared { settings, table, given, opened, gate, addresses, .. } = prepared;
    let shard_settings = Arc::new(ShardSettings::from(&**settings));
    let departures = Arc::new(Departures::new(settings.clients.drain_rate));
    let connections = Arc::new(AtomicUsize::new(0));
    let node_id = fastrand::u32(..);
    let cores = cores(settings);
    let mut listen = settings.addresses.listen.clone();
    let mut shards = Vec::new();
    for (index, (seat, inbox)) in seats.into_iter().enumerate() {
        let parts = Parts {
            index: index as u16,
            settings: shard_settings.clone(),
            metrics: metrics[index].clone(),
            inbox,
            bus: bus.clone(),
            connections: connections.clone(),
            addresses: addresses.clone(),
            host: prepared.host.clone(),
            life: prepared.life.clone(),
            departures: departures.clone(),
            node_id,
            gate: gate.clone(),
            revoked: revoked.clone(),
            peer_of: Peer::of,
        };
        let placement = Placement {
            core: cores[index],
            acceptor: prepared.acceptor.clone(),
            private_descriptors: table.private,
            entrances: match given {
                Some(given) => given.share(index, settings.shards.count, table.private)?,
                None => {
                    let is_shared = settings.shards.count > 1;
                    listen.iter().map(|listener| opened.entrance(index, listener, is_shared, table.private)).collect::<io::Result<_>>()?
                }
            },
        };
        let (started, starting) = mpsc::channel();
        let rider = rider.take();
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || {
                run::run(seat, parts, placement, rider, |result| {
                    let _ = started.send(result);
                });
            })
            .context("a shard's thread could not be started")?;
        shards.push(thread);
        let listeners = starting.recv().context("a shard ended while it started")??;
        if given.is_none() {
            listen = listeners;
        }
    }
    Ok((shards, listen))
}

/// Everything runs: the control port answers, systemd is told, and so is the caller.
fn tell(prepared: Prepared, data_path: DataPath, (listener, control): (ControlSocket, Address), origin: Origin) -> Server {
    let Prepared { settings, table, descriptors, notifier, given, mut opened, host, control_thread, life, .. } = prepared;
    let DataPath { bus, bus_thread, bus_metrics, revocations, shards, senders, metrics, listen } = data_path;
    // Every shard has its own by now.
    drop(given);
    opened.sockets.clear();
    opened.of_shards.clear();
    let config = origin.sources.file.named().map(Path::to_owned);
    let bound_to = Settings::clone(&settings).with(|settings| {
        settings.addresses.listen = listen.clone();
        settings.addresses.control = control.clone();
    });
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION"),
        fd_table: table.table(),
        listen: listen.clone(),
        control: control.clone(),
        memory_bytes_max: |settings| memory_bound::memory_bound(settings).total(),
        first_commands: start_block::first_commands(&bound_to, config.as_deref(), "campanile"),
    };
    let orders = control::Orders::new(senders.clone());
    let pulses = Pulses::new(bus.clone(), bus_metrics.clone(), senders.into_iter().zip(metrics.iter().cloned()).collect());
    let supervision = notifier.map(|notifier| Supervision::new(notifier, pulses, systemd::watchdog()));
    let shared = control::Shared { orders, host, revocations, life };
    let state = Arc::new(control::State::new(settings, facts, metrics, bus_metrics, bus.clone(), shared, origin));
    let ControlThread { thread, hand_over, ended } = control_thread;
    let _ = hand_over.send((listener, state, supervision, bus.clone()));
    Server { listen, control, table, descriptors, bus, bus_thread, shards, control_thread: thread, opened, ended }
}

impl Server {
    /// Asks for a clean end: what is due is sent, connections are closed with 1001.
    pub fn stop(&self) {
        stop(self.bus.clone());
    }

    /// Returns when every connection has ended, or the shutdown deadline has passed.
    pub fn wait(self) -> anyhow::Result<()> {
        let ended = |thread: JoinHandle<()>| {
            thread.join().map_err(|_| anyhow!("a thread of the data path panicked; this is a bug, please report it"))
        };
        self.bus_thread.map_or(Ok(()), ended)?;
        self.shards.into_iter().try_for_each(ended)?;
        drop(self.opened);
        drop(self.ended);
        self.control_thread.join().map_err(|_| anyhow!("the control thread panicked; this is a bug, please report it"))??;
        Ok(())
    }
}

/// Gets the stop into the bus thread's inbox, whatever it is doing, without holding up the caller.
fn stop(bus: BusSender) {
    if bus.send(BusCommand::Stop).is_ok() {
        return;
    }
    std::thread::spawn(move || {
        while bus.send(BusCommand::Stop).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// The core of each shard. Asked on the starting thread: a pinned one sees only its own core.
fn cores(settings: &Settings) -> Vec<Option<CoreId>> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let chosen: Vec<CoreId> = match &settings.shards.pin {
        Pin::None => Vec::new(),
        Pin::Auto => allowed,
        Pin::List(ids) => ids.iter().map(|&id| CoreId { id }).collect(),
    };
    (0..settings.shards.count).map(|shard| chosen.get(shard % chosen.len().max(1)).copied()).collect()
}
