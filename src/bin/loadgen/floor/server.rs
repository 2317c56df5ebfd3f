//! The kernel's price: a server without a server. Accepts, answers every upgrade with the same 101, and on command sends the same bytes to every
//! socket with one `send` each. Runs as a process of its own (`loadgen floor-server`), driven over stdin by [`super::Floor`].
//!
//! Invariant: between two readings of the CPU clock there is nothing but `send`. What the thread takes besides, to sleep until the next one is due
//! and to wake up, is told apart.

use std::collections::HashMap;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, bail};
use campanile::inbox::{Inbox, InboxSender, inbox};
use campanile::sys;
use campanile::wire::frame::{Opcode, encode_frame, header_len};
use crossbeam_channel::Sender;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::pick::Spread;
use crate::stamp::{STAMP_BYTES, Stamp};
use crate::target::ACCEPT;

const LISTENER: Token = Token(usize::MAX);
const INBOX: Token = Token(usize::MAX - 1);
const BACKLOG: i32 = 65_535;

/// One lap: to every socket the same `burst` frames, in one `send`.
#[derive(Debug, Clone, Copy)]
pub struct Lap {
    pub seq: u64,
    pub burst: u64,
    /// Size of one frame, header included.
    pub frame_bytes: usize,
    pub intended_ns: u64,
    /// How many sends are due in a second, all threads together; 0: all at once.
    pub sends_per_second: u64,
}

/// Laps at a rate, and between their sends, whenever one is due, a message to one client alone.
#[derive(Debug, Clone, Copy)]
pub struct MixedLaps {
    /// The first lap's number on channel 0.
    pub seq: u64,
    pub laps: u64,
    pub laps_per_second: f64,
    pub frame_bytes: usize,
    /// How many have been sent to single clients before.
    pub direct_before: u64,
    pub direct: u64,
    pub direct_per_second: f64,
    pub among: Spread,
}

/// What the driver asks for.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    Lap(Lap),
    Mixed(MixedLaps),
}

impl Order {
    /// As it goes over stdin.
    pub fn line(&self) -> String {
        match self {
            Order::Lap(Lap { seq, burst, frame_bytes, intended_ns, sends_per_second }) => {
                format!("lap {seq} {burst} {frame_bytes} {intended_ns} {sends_per_second}")
            }
            Order::Mixed(MixedLaps { seq, laps, laps_per_second, frame_bytes, direct_before, direct, direct_per_second, among }) => {
                let Spread { chosen, clients } = among;
                format!(
                    "mixed {seq} {laps} {laps_per_second} {frame_bytes} {direct_before} {direct} {direct_per_second} {chosen} {clients}"
                )
            }
        }
    }

    fn parse(line: &str) -> anyhow::Result<Order> {
        let (kind, rest) = line.split_once(' ').unwrap_or_default();
        // All of them are whole but for the rates, and far below what a float counts exactly; times of a boot of a hundred days too.
        let numbers: Vec<f64> = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
        let order = match (kind, &numbers[..]) {
            ("lap", &[seq, burst, frame_bytes, intended_ns, sends_per_second]) => Order::Lap(Lap {
                seq: seq as u64,
                burst: burst as u64,
                frame_bytes: frame_bytes as usize,
                intended_ns: intended_ns as u64,
                sends_per_second: sends_per_second as u64,
            }),
            ("mixed", &[seq, laps, laps_per_second, frame_bytes, direct_before, direct, direct_per_second, chosen, clients]) => {
                Order::Mixed(MixedLaps {
                    seq: seq as u64,
                    laps: laps as u64,
                    laps_per_second,
                    frame_bytes: frame_bytes as usize,
                    direct_before: direct_before as u64,
                    direct: direct as u64,
                    direct_per_second,
                    among: Spread { chosen: chosen as u32, clients: clients as u32 },
                })
            }
            _ => bail!("not an order: {line:?}"),
        };
        let frame_bytes = match order {
            Order::Lap(lap) => lap.frame_bytes,
            Order::Mixed(mixed) => mixed.frame_bytes,
        };
        anyhow::ensure!(frame_bytes >= STAMP_BYTES + 2, "a frame of {frame_bytes} bytes holds no stamp");
        Ok(order)
    }
}

/// What a lap took; of all threads together.
#[derive(Debug, Clone, Copy, Default)]
pub struct LapCost {
    /// Of `send` alone.
    pub cpu_ns: u64,
    /// Of everything that the threads did from begin to end. 0 for a lap without a rate.
    pub whole_cpu_ns: u64,
    pub sends: u64,
    /// How often it has slept until the next one was due.
    pub sleeps: u64,
    /// Sends that the socket did not take at once.
    pub blocked: u64,
    pub deliveries: u64,
    /// Of the slowest thread.
    pub wall_ns: u64,
}

/// The process's whole life: prints the address, then obeys stdin until it ends.
pub fn run(threads: usize, cores: &[usize]) -> anyhow::Result<()> {
    let (costs_in, costs) = crossbeam_channel::unbounded();
    let mut inboxes: Vec<InboxSender<Order>> = Vec::new();
    let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for index in 0..threads.max(1) {
        let poll = Poll::new()?;
        let (sender, receiver) = inbox(4, poll.registry(), INBOX)?;
        let (bound_in, bound) = crossbeam_channel::bounded(1);
        let core = (!cores.is_empty()).then(|| cores[index % cores.len()]);
        let costs = costs_in.clone();
        std::thread::Builder::new()
            .name(format!("floor-{index}"))
            .spawn(move || serve(poll, receiver, address, core, &bound_in, &costs))?;
        address = bound.recv().context("a thread of the floor ended")??;
        inboxes.push(sender);
    }
    // So that a thread that ended is noticed below, not waited for.
    drop(costs_in);
    println!("listening {address}");
    for line in std::io::stdin().lock().lines() {
        let mut order = Order::parse(&line?)?;
        if let Order::Lap(lap) = &mut order {
            lap.sends_per_second = lap.sends_per_second.div_ceil(inboxes.len() as u64);
        }
        for inbox in &inboxes {
            let _ = inbox.send(order);
        }
        let mut sum = LapCost::default();
        for _ in &inboxes {
            let cost: LapCost = costs.recv()?;
            sum.cpu_ns += cost.cpu_ns;
            sum.whole_cpu_ns += cost.whole_cpu_ns;
            sum.sends += cost.sends;
            sum.sleeps += cost.sleeps;
            sum.blocked += cost.blocked;
            sum.deliveries += cost.deliveries;
            sum.wall_ns = sum.wall_ns.max(cost.wall_ns);
        }
        let LapCost { cpu_ns, whole_cpu_ns, sends, sleeps, blocked, deliveries, wall_ns } = sum;
        println!("{cpu_ns} {whole_cpu_ns} {sends} {sleeps} {blocked} {deliveries} {wall_ns}");
    }
    Ok(())
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn serve(
    mut poll: Poll,
    inbox: Inbox<Order>,
    address: SocketAddr,
    core: Option<usize>,
    bound: &Sender<anyhow::Result<SocketAddr>>,
    costs: &Sender<LapCost>,
) {
    if let Some(id) = core {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    let _ = sys::unshare_descriptors(&[poll.as_raw_fd(), inbox.wake_fd()], &[]);
    let listener = listen(address).and_then(|mut listener| {
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(listener)
    });
    let listener = match listener {
        Ok(listener) => {
            let _ = bound.send(listener.local_addr().map_err(Into::into));
            listener
        }
        Err(error) => {
            let _ = bound.send(Err(error));
            return;
        }
    };
    let mut sockets: Vec<Option<TcpStream>> = Vec::new();
    // Those that name their client in the request.
    let mut socket_of: HashMap<u32, usize> = HashMap::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 16 * 1024];
    let answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
    loop {
        let wait = if inbox.prepare_sleep() { Duration::from_secs(1) } else { Duration::ZERO };
        if poll.poll(&mut events, Some(wait)).is_err() {
            events.clear();
        }
        inbox.awake();
        for event in &events {
            match event.token() {
                INBOX => {}
                LISTENER => {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let token = Token(sockets.len());
                        if poll.registry().register(&mut stream, token, Interest::READABLE).is_ok() {
                            sockets.push(Some(stream));
                        }
                    }
                }
                Token(index) => {
                    let Some(stream) = &mut sockets[index] else { continue };
                    match stream.read(&mut buffer) {
                        Ok(0) => sockets[index] = None,
                        Ok(count) if buffer[0] == b'G' => {
                            socket_of.extend(client_of(&buffer[..count]).map(|client| (client, index)));
                            let _ = stream.write(answer.as_bytes());
                        }
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => sockets[index] = None,
                    }
                }
            }
        }
        while let Some(order) = inbox.try_recv() {
            let cost = match order {
                Order::Lap(lap) if lap.sends_per_second > 0 => send_paced(&mut sockets, lap),
                Order::Lap(lap) => send_all(&mut sockets, lap),
                Order::Mixed(mixed) => send_mixed(&mut sockets, &socket_of, mixed),
            };
            let _ = costs.send(cost);
        }
        // Numbers are not used again while anybody is there; when all have gone, they begin anew.
        if !sockets.is_empty() && sockets.iter().all(Option::is_none) {
            sockets.clear();
            socket_of.clear();
        }
    }
}

/// The number in `GET /floor/NUMBER HTTP/1.1`.
fn client_of(request: &[u8]) -> Option<u32> {
    let path = std::str::from_utf8(request).ok()?.split(' ').nth(1)?;
    path.rsplit_once('/')?.1.parse().ok()
}

fn frames(channel: u32, lap: Lap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(lap.burst as usize * lap.frame_bytes);
    let mut payload = Vec::new();
    // The payload whose frame has the size wanted: the header's length depends on it.
    let header = (2..=10).rev().find(|header| header_len(lap.frame_bytes.saturating_sub(*header)) == *header).unwrap_or(2);
    for number in 0..lap.burst {
        payload.clear();
        Stamp { channel, seq: lap.seq + number, intended_ns: lap.intended_ns }.write(lap.frame_bytes - header, &mut payload);
        encode_frame(&mut bytes, Opcode::Binary, &payload);
    }
    bytes
}

fn send_all(sockets: &mut [Option<TcpStream>], lap: Lap) -> LapCost {
    let bytes = frames(0, lap);
    let mut cost = LapCost::default();
    let mut waiting = Vec::new();
    let (wall_ns, cpu_ns) = (sys::monotonic_ns(), sys::thread_cpu_ns());
    for (index, socket) in sockets.iter_mut().enumerate() {
        send(socket, index, &bytes, lap.burst, &mut cost, &mut waiting);
    }
    send_rest(sockets, &bytes, lap.burst, &mut cost, waiting);
    cost.cpu_ns = sys::thread_cpu_ns() - cpu_ns;
    cost.wall_ns = sys::monotonic_ns() - wall_ns;
    cost
}

/// One socket after the other as its turn is due. Until then the thread sleeps, as any server does that waits for its next message: one that only
/// dozed would find its core awake and its caches warm, and would send several at once where a server is woken for each.
fn send_paced(sockets: &mut [Option<TcpStream>], lap: Lap) -> LapCost {
    let mut cost = LapCost::default();
    let (begin_ns, begin_cpu_ns) = (sys::monotonic_ns(), sys::thread_cpu_ns());
    let due_ns = |index: usize| begin_ns + (index as f64 * 1e9 / lap.sends_per_second as f64) as u64;
    let mut next = 0;
    let mut due = Vec::new();
    while next < sockets.len() {
        let now_ns = sys::monotonic_ns();
        let wait_ns = due_ns(next).saturating_sub(now_ns);
        if wait_ns > 0 {
            std::thread::sleep(Duration::from_nanos(wait_ns));
            cost.sleeps += 1;
            continue;
        }
        let end = (next..sockets.len()).find(|index| due_ns(*index) > now_ns).unwrap_or(sockets.len());
        due.extend((next..end).map(|index| frames(0, Lap { intended_ns: due_ns(index), ..lap })));
        let mut waiting = Vec::new();
        let cpu_ns = sys::thread_cpu_ns();
        for (index, bytes) in (next..end).zip(&due) {
            send(&mut sockets[index], index, bytes, lap.burst, &mut cost, &mut waiting);
        }
        cost.cpu_ns += sys::thread_cpu_ns() - cpu_ns;
        for (index, done) in waiting {
            send_rest(sockets, &due[index - next], lap.burst, &mut cost, vec![(index, done)]);
        }
        due.clear();
        next = end;
    }
    cost.wall_ns = sys::monotonic_ns() - begin_ns;
    cost.whole_cpu_ns = sys::thread_cpu_ns() - begin_cpu_ns;
    cost
}

/// Laps, each to every socket, and direct messages whenever one is due: between two sends of a lap, or after a sleep. A lap bears the time at which it
/// was due, a direct message the time right before its `send`: what is measured of it is how long its reader takes to be woken and to come to it.
fn send_mixed(sockets: &mut [Option<TcpStream>], socket_of: &HashMap<u32, usize>, mixed: MixedLaps) -> LapCost {
    let mut cost = LapCost::default();
    let begin_ns = sys::monotonic_ns();
    let lap_due_ns = |lap: u64| begin_ns + (lap as f64 * 1e9 / mixed.laps_per_second) as u64;
    let direct_due_ns = |number: u64| begin_ns + (number as f64 * 1e9 / mixed.direct_per_second) as u64;
    let (mut lap, mut direct) = (0, 0);
    let of_lap = |lap: u64| Lap {
        seq: mixed.seq + lap,
        burst: 1,
        frame_bytes: mixed.frame_bytes,
        intended_ns: lap_due_ns(lap),
        sends_per_second: 0,
    };
    // Of each thread the same: it sends those whose client is one of its own.
    let mut send_direct = |sockets: &mut [Option<TcpStream>], cost: &mut LapCost| {
        while direct < mixed.direct && direct_due_ns(direct) <= sys::monotonic_ns() {
            let number = mixed.direct_before + direct;
            let place = (number % u64::from(mixed.among.chosen)) as u32;
            direct += 1;
            let Some(&index) = socket_of.get(&mixed.among.client(place)) else { continue };
            let (channel, seq) = (1 + place, number / u64::from(mixed.among.chosen));
            let bytes = frames(channel, Lap { seq, intended_ns: sys::monotonic_ns(), ..of_lap(0) });
            let mut waiting = Vec::new();
            send(&mut sockets[index], index, &bytes, 1, cost, &mut waiting);
            send_rest(sockets, &bytes, 1, cost, waiting);
        }
        (direct < mixed.direct).then(|| direct_due_ns(direct))
    };
    loop {
        let next_direct_ns = send_direct(sockets, &mut cost);
        let next_lap_ns = (lap < mixed.laps).then(|| lap_due_ns(lap));
        let Some(next_ns) = [next_direct_ns, next_lap_ns].into_iter().flatten().min() else { break };
        let wait_ns = next_ns.saturating_sub(sys::monotonic_ns());
        if wait_ns > 0 {
            std::thread::sleep(Duration::from_nanos(wait_ns));
        } else if next_lap_ns == Some(next_ns) {
            let bytes = frames(0, of_lap(lap));
            let mut waiting = Vec::new();
            for index in 0..sockets.len() {
                send(&mut sockets[index], index, &bytes, 1, &mut cost, &mut waiting);
                send_direct(sockets, &mut cost);
            }
            send_rest(sockets, &bytes, 1, &mut cost, waiting);
            lap += 1;
        }
    }
    cost.wall_ns = sys::monotonic_ns() - begin_ns;
    cost
}

/// One `send`. Who does not take all of it is put down in `waiting`, with what it took.
fn send(
    socket: &mut Option<TcpStream>,
    index: usize,
    bytes: &[u8],
    deliveries: u64,
    cost: &mut LapCost,
    waiting: &mut Vec<(usize, usize)>,
) {
    let Some(stream) = socket else { return };
    cost.sends += 1;
    match stream.write(bytes) {
        Ok(count) if count == bytes.len() => cost.deliveries += deliveries,
        Ok(count) => waiting.push((index, count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => waiting.push((index, 0)),
        Err(_) => *socket = None,
    }
}

fn send_rest(sockets: &mut [Option<TcpStream>], bytes: &[u8], deliveries: u64, cost: &mut LapCost, mut waiting: Vec<(usize, usize)>) {
    while !waiting.is_empty() {
        cost.blocked += waiting.len() as u64;
        std::thread::sleep(Duration::from_micros(500));
        waiting.retain_mut(|(index, done)| {
            let Some(stream) = &mut sockets[*index] else { return false };
            cost.sends += 1;
            match stream.write(&bytes[*done..]) {
                Ok(count) => *done += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    sockets[*index] = None;
                    return false;
                }
            }
            if *done == bytes.len() {
                cost.deliveries += deliveries;
            }
            *done < bytes.len()
        });
    }
}

/// Reads what [`run`] prints after a lap.
pub fn parse_cost(line: &str) -> anyhow::Result<LapCost> {
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [cpu_ns, whole_cpu_ns, sends, sleeps, blocked, deliveries, wall_ns] = numbers[..] else { bail!("the floor says {line:?}") };
    Ok(LapCost { cpu_ns, whole_cpu_ns, sends, sleeps, blocked, deliveries, wall_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_back() {
        let lap = Order::Lap(Lap { seq: 7, burst: 100, frame_bytes: 130, intended_ns: 8_640_000_123_456_789, sends_per_second: 3 });
        let among = Spread { chosen: 3, clients: 9 };
        let (laps_per_second, direct_per_second) = (0.1, 97.5);
        let mixed = MixedLaps { seq: 1, laps: 2, laps_per_second, frame_bytes: 130, direct_before: 4, direct: 5, direct_per_second, among };
        for order in [lap, Order::Mixed(mixed)] {
            assert_eq!(Order::parse(&order.line()).unwrap().line(), order.line());
        }
        for line in ["", "lap", "lap 1 2 3", "lap 1 1 10 1 1", "mixed 1 2 3"] {
            assert!(Order::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_request_may_name_its_client() {
        assert_eq!(client_of(b"GET /floor/17 HTTP/1.1\r\n"), Some(17));
        assert_eq!(client_of(b"GET /floor HTTP/1.1\r\n"), None);
    }

    #[test]
    fn frames_have_the_size_asked_for() {
        for frame_bytes in [60, 127, 130, 200, 5000, 65_530, 65_546, 80_000] {
            let lap = Lap { seq: 0, burst: 3, frame_bytes, intended_ns: 0, sends_per_second: 0 };
            assert_eq!(frames(0, lap).len(), 3 * frame_bytes, "{frame_bytes}");
        }
    }
}
