//! Connections that never come to the end of their handshake, as many as are asked for, each from an address of its own: they say nothing, or a byte of their request at a
//! time, or most of it and then no more. Whoever is closed comes again.
//!
//! Each thread has a descriptor table of its own, as the clients' have. Invariant: what a thread holds open never exceeds its share.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use campanile::sys;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

/// Between two bytes of a request that trickles.
const TRICKLE: Duration = Duration::from_secs(1);
/// How often a thread looks at what is due.
const STEP: Duration = Duration::from_millis(20);
/// Second byte of their addresses in 127.0.0.0/8: behind 0 are the clients' own.
const SECOND_BYTE: u32 = 1;

/// What is to be held.
#[derive(Debug, Clone)]
pub struct Plan {
    pub address: SocketAddr,
    pub connections: u32,
    /// So many are begun in a second, all threads together.
    pub per_second: f64,
    /// A request's head, without its end, for those that say most of it.
    pub head: Arc<[u8]>,
    /// What one thread's descriptor table holds.
    pub per_thread: u32,
}

/// What has become of them, all threads together.
#[derive(Debug, Default)]
pub struct Counts {
    /// Open now.
    pub open: AtomicU64,
    pub begun: AtomicU64,
    /// Closed by the server, whether it said something or not.
    pub closed: AtomicU64,
    /// Of them, with an HTTP answer.
    pub answered: AtomicU64,
    /// The kernel let nothing through.
    pub failed: AtomicU64,
}

#[derive(Debug)]
pub struct Holders {
    pub counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Holders {
    pub fn start(plan: &Plan) -> anyhow::Result<Holders> {
        let threads = plan.connections.div_ceil(plan.per_thread.max(1)).max(1);
        let mut holders = Holders { counts: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for index in 0..threads {
            let (first, end) = (share(plan.connections, index, threads), share(plan.connections, index + 1, threads));
            let thread = Thread {
                poll: Poll::new().context("no epoll for a holder")?,
                first,
                slots: (first..end).map(|_| Slot::default()).collect(),
                per_second: plan.per_second / f64::from(threads),
                plan: plan.clone(),
                counts: holders.counts.clone(),
                stop: holders.stop.clone(),
                free: (0..end - first).collect(),
                begun: 0.0,
            };
            holders.threads.push(std::thread::Builder::new().name(format!("holders-{index}")).spawn(move || thread.run())?);
        }
        Ok(holders)
    }

    /// Closes all of them.
    pub fn end(self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// Where the part of so many parts begins.
fn share(count: u32, index: u32, of: u32) -> u32 {
    (u64::from(count) * u64::from(index) / u64::from(of)) as u32
}

/// Where connection number `number` comes from: 62,500 addresses behind each second byte.
fn source(number: u32) -> Ipv4Addr {
    let [_, second, third, fourth] =
        (((SECOND_BYTE + number / 62_500) << 16) | ((number / 250 % 250) << 8) | (number % 250 + 1)).to_be_bytes();
    Ipv4Addr::new(127, second, third, fourth)
}

#[derive(Debug, Default)]
struct Slot {
    stream: Option<TcpStream>,
    /// Bytes of the head that have been said.
    said: u32,
    due: Option<Instant>,
}

struct Thread {
    poll: Poll,
    /// The number of its first connection.
    first: u32,
    slots: Vec<Slot>,
    /// Slots without a connection.
    free: VecDeque<u32>,
    per_second: f64,
    begun: f64,
    plan: Plan,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
}

impl Thread {
    fn run(mut self) {
        // Without a table of its own, the limit of all is the bound.
        let _ = sys::unshare_descriptors(&[self.poll.as_raw_fd()], &[]);
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let mut trickled = start;
        while !self.stop.load(Relaxed) {
            self.begin_due(start.elapsed().as_secs_f64());
            if self.poll.poll(&mut events, Some(STEP)).is_err() {
                continue;
            }
            for event in &events {
                self.on_ready(event.token().0, event.is_writable(), event.is_readable() || event.is_read_closed() || event.is_error());
            }
            let now = Instant::now();
            if now - trickled >= STEP {
                trickled = now;
                self.trickle(now);
            }
        }
        let open = self.slots.iter().filter(|slot| slot.stream.is_some()).count();
        self.counts.open.fetch_sub(open as u64, Relaxed);
    }

    /// As many as the rate has made due. What could not be begun in time is not made up for.
    fn begin_due(&mut self, elapsed_s: f64) {
        let due = elapsed_s * self.per_second;
        self.begun = self.begun.max(due - self.per_second);
        while self.begun < due {
            let Some(index) = self.free.pop_front() else { break };
            self.begun += 1.0;
            match self.dial(index) {
                Ok(stream) => {
                    self.slots[index as usize] = Slot { stream: Some(stream), said: 0, due: None };
                    self.counts.open.fetch_add(1, Relaxed);
                    self.counts.begun.fetch_add(1, Relaxed);
                }
                Err(_) => {
                    self.counts.failed.fetch_add(1, Relaxed);
                    self.free.push_back(index);
                    break;
                }
            }
        }
    }

    fn dial(&self, index: u32) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.plan.address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if self.plan.address.is_ipv4() && self.plan.address.ip().is_loopback() {
            sys::set_bind_address_no_port(&socket)?;
            socket.bind(&SocketAddr::new(IpAddr::V4(source(self.first + index)), 0).into())?;
        }
        match socket.connect(&self.plan.address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(index as usize), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    fn on_ready(&mut self, index: usize, is_writable: bool, is_readable: bool) {
        let kind = (self.first as usize + index) % 3;
        let slot = &mut self.slots[index];
        let Some(stream) = &mut slot.stream else { return };
        if is_writable && slot.said == 0 && kind != 0 {
            // A third says nothing at all; a third nearly everything.
            let bytes = if kind == 2 { &self.plan.head[..] } else { &self.plan.head[..1] };
            slot.said = stream.write(bytes).unwrap_or(0) as u32;
            slot.due = (kind == 1).then(|| Instant::now() + TRICKLE);
        }
        if is_readable {
            let mut answer = [0; 512];
            match stream.read(&mut answer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(1..) => drop(self.counts.answered.fetch_add(1, Relaxed)),
                Ok(0) | Err(_) => {}
            }
            *slot = Slot::default();
            self.free.push_back(index as u32);
            self.counts.open.fetch_sub(1, Relaxed);
            self.counts.closed.fetch_add(1, Relaxed);
        }
    }

    fn trickle(&mut self, now: Instant) {
        for slot in self.slots.iter_mut().filter(|slot| slot.due.is_some_and(|due| due <= now)) {
            let Some(stream) = &mut slot.stream else { continue };
            let at = slot.said as usize;
            if let Some(byte) = self.plan.head.get(at..at + 1)
                && stream.write(byte).is_ok()
            {
                slot.said += 1;
            }
            slot.due = Some(now + TRICKLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_an_address_of_its_own_and_none_is_a_clients() {
        let sources: std::collections::BTreeSet<Ipv4Addr> = (0..200_000).map(source).collect();
        assert_eq!(sources.len(), 200_000);
        assert!(sources.iter().all(|source| source.is_loopback() && source.octets()[1] > 0 && source.octets()[3] > 0));
    }

    #[test]
    fn they_come_and_never_say_all() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let head: Arc<[u8]> = b"GET /ws HTTP/1.1\r\nHost: h\r\n".as_slice().into();
        let plan = Plan { address: listener.local_addr().unwrap(), connections: 6, per_second: 1000.0, head: head.clone(), per_thread: 4 };
        let holders = Holders::start(&plan).unwrap();
        let mut streams: Vec<_> = (0..6).map(|_| listener.accept().unwrap().0).collect();
        assert_eq!(holders.threads.len(), 2);
        // Somebody who is closed comes again.
        drop(streams.pop());
        streams.push(listener.accept().unwrap().0);
        while holders.counts.closed.load(Relaxed) < 1 || holders.counts.open.load(Relaxed) < 6 {
            std::thread::yield_now();
        }
        holders.end();
        for mut stream in streams {
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said);
            assert!(head.starts_with(&said), "{}", said.escape_ascii());
        }
    }
}
