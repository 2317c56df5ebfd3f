//! Where a link goes next: the addresses that its server may have, one after the other until one is of use. Owned by [`super::link`]; knows
//! what was wrong with those that were tried, and nothing of sockets or of how one logs in.
//!
//! The URL names the server: its address, or a name that the system's resolver knows the addresses of. Whoever else may be asked for them
//! is asked here: [`Locator::begin`] begins to ask, [`Locator::has_found`] takes the answer, and a link waits for it meanwhile.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, TryRecvError};
use mio::Waker;

use super::fault::{Fault, FaultKind};
use super::socket::resolve;
use super::target::{Address, Target};

/// Addresses of one name whose faults are told.
const FAULTS_TOLD_MAX: usize = 4;

/// Where a server may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
pub struct Locator {
    target: Arc<Target>,
    waker: Arc<Waker>,
    /// Outlives a try that it was too slow for, so that there is never more than one helper thread.
    resolver: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
    /// Not tried yet.
    places: VecDeque<Place>,
    /// The one that is connected or being tried.
    place: Option<Place>,
    /// The address that was of use last, or is to another connection: it is tried first.
    preferred: Option<SocketAddr>,
    /// What was wrong with those that were tried, with their addresses.
    faults: Vec<(String, Fault)>,
}

impl Locator {
    /// `waker`: of the thread that the link belongs to, for when an answer has come.
    pub fn new(target: Arc<Target>, waker: Arc<Waker>) -> Locator {
        let (places, faults) = (VecDeque::new(), Vec::new());
        Locator { target, waker, resolver: None, places, place: None, preferred: None, faults }
    }

    /// Another server is looked for.
    pub fn retarget(&mut self, target: Arc<Target>) {
        self.leave();
        (self.target, self.resolver, self.preferred) = (target, None, None);
    }

    /// A new round of tries begins.
    pub fn begin(&mut self) {
        self.faults.clear();
        match &self.target.address {
            Address::Unix(path) => self.places = VecDeque::from([Place::Unix(path.clone())]),
            Address::Tcp { host, port, .. } => match host.parse() {
                Ok(ip) => self.places = VecDeque::from([Place::Tcp(SocketAddr::new(ip, *port))]),
                Err(_) if self.resolver.is_none() => self.resolver = Some(resolve(host.clone(), *port, self.waker.clone())),
                Err(_) => {}
            },
        }
    }

    /// Whether it is known where the server may be. If not, the thread is woken when there is news of it.
    pub fn has_found(&mut self) -> Result<bool, Fault> {
        let Some(resolver) = &self.resolver else { return Ok(true) };
        let answer = resolver.try_recv();
        if let Err(TryRecvError::Empty) = answer {
            return Ok(false);
        }
        self.resolver = None;
        match answer {
            Ok(Ok(addresses)) => self.choose_among(addresses),
            Ok(Err(error)) => return Err(Fault::new(format!("its name cannot be resolved: {error}"))),
            Err(_) => return Err(Fault::new("its name cannot be resolved")),
        }
        Ok(true)
    }

    fn choose_among(&mut self, addresses: Vec<SocketAddr>) {
        // A stable sort: the others keep the resolver's order. Some resolvers name an address twice.
        let mut places: Vec<Place> = Vec::new();
        for address in addresses {
            let place = Place::Tcp(address);
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places.sort_by_key(|place| !matches!(place, Place::Tcp(address) if Some(*address) == self.preferred));
        self.places = places.into();
    }

    /// The next one to be tried.
    pub fn next_place(&mut self) -> Result<&Place, Fault> {
        self.place = self.places.pop_front();
        self.place.as_ref().ok_or_else(|| Fault::new("its name has no address"))
    }

    /// The place that is tried would be of use to who spoke to it otherwise.
    pub fn try_again(&mut self) {
        if let Some(place) = self.place.take() {
            self.places.push_front(place);
        }
    }

    /// The place that is tried is of no use. Whatever it was that failed before the log-in was over, a name's other addresses are tried. If none
    /// is left, the fault.
    pub fn turn_away(&mut self, fault: Fault) -> Result<(), Fault> {
        self.faults.extend(self.place.take().map(|place| (place.to_string(), fault)));
        if self.places.is_empty() { Err(self.sum_up()) } else { Ok(()) }
    }

    fn sum_up(&mut self) -> Fault {
        let faults = std::mem::take(&mut self.faults);
        let kind = faults.iter().map(|(_, fault)| fault.kind).find(|&kind| kind == FaultKind::Violation);
        match faults.as_slice() {
            [] => Fault::new("its name has no address"),
            [(_, fault)] => fault.clone(),
            several => {
                let told: Vec<String> = several.iter().take(FAULTS_TOLD_MAX).map(|(place, fault)| format!("{place}: {fault}")).collect();
                let more = several.len().saturating_sub(FAULTS_TOLD_MAX);
                let more = if more > 0 { format!("; and {more} more") } else { String::new() };
                let reason = format!("none of its {} addresses is of use. {}{more}", several.len(), told.join("; "));
                Fault { reason, kind: kind.unwrap_or(FaultKind::Other) }
            }
        }
    }

    /// The place that is tried is of use: it will be the first to be tried from now on.
    pub fn prefer(&mut self) {
        self.preferred = self.address().or(self.preferred);
    }

    /// The connection has ended, or none came about.
    pub fn leave(&mut self) {
        self.place = None;
        self.places.clear();
    }

    /// Which addresses of the name were passed over, and why.
    pub fn passed_over(&mut self) -> Vec<(String, Fault)> {
        std::mem::take(&mut self.faults)
    }

    /// Whether a place is tried or connected.
    pub fn is_somewhere(&self) -> bool {
        self.place.is_some()
    }

    /// Of the server that is connected or being tried.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.place {
            Some(Place::Tcp(address)) => Some(address),
            Some(Place::Unix(_)) | None => None,
        }
    }

    /// Takes over what another connection to the same server has learned.
    pub fn learn_from(&mut self, other: &Locator) {
        self.preferred = other.preferred;
    }

    /// The name has these addresses.
    #[cfg(test)]
    fn resolved(&mut self, addresses: &[SocketAddr]) {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        sender.send(Ok(addresses.to_vec())).expect("there is room for one");
        self.resolver = Some(receiver);
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Tcp(address) => address.fmt(f),
            Place::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    use mio::{Events, Poll, Token};

    use super::super::link::Link;
    use super::super::timing::Timing;
    use super::*;
    use crate::sys::monotonic_ns;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// What a server says to whoever connects, and whether it then waits for the other side to end.
    type Says = Option<&'static str>;

    const SILENT: Says = Some("");
    const WORKS: Says = Some("%1\r\n$5\r\nproto\r\n:3\r\n");

    /// Two addresses with one port, and how many connections each has had. None does not listen at all.
    fn two_servers(first: Option<Says>, second: Option<Says>) -> (Vec<SocketAddr>, Arc<[AtomicU32; 2]>) {
        let counts: Arc<[AtomicU32; 2]> = Arc::default();
        let begin = Instant::now();
        let (one, other) = loop {
            let one = TcpListener::bind("127.0.0.1:0").unwrap();
            match TcpListener::bind(("127.0.0.2", one.local_addr().unwrap().port())) {
                Ok(other) => break (one, other),
                Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
            }
        };
        let addresses = vec![one.local_addr().unwrap(), other.local_addr().unwrap()];
        for (number, (listener, says)) in [(one, first), (other, second)].into_iter().enumerate() {
            let (Some(says), counts) = (says, counts.clone()) else { continue };
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    counts[number].fetch_add(1, Relaxed);
                    let Some(text) = says else { continue };
                    std::thread::spawn(move || {
                        let mut buffer = [0; 1024];
                        let _ = stream.read(&mut buffer);
                        let _ = stream.write_all(text.as_bytes());
                        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
                    });
                }
            });
        }
        (addresses, counts)
    }

    struct Rig {
        poll: Poll,
        link: Link,
    }

    impl Rig {
        fn new(connect: Duration) -> Rig {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            let timing = Timing { connect, ..Timing::default() };
            let target = Arc::new(Target::new("redis://redis.example", &Default::default()).unwrap());
            let link = Link::new(target, Token(1), Arc::new(poll.registry().try_clone().unwrap()), waker, timing, 1 << 20);
            Rig { poll, link }
        }

        /// Tries until it is ready or has given up; the name has these addresses.
        fn connect(&mut self, addresses: &[SocketAddr]) -> Result<(), Fault> {
            self.link.locator().resolved(addresses);
            self.link.retry_at_once(0);
            let begin = Instant::now();
            let mut events = Events::with_capacity(8);
            while !self.link.drive(monotonic_ns())? {
                assert!(begin.elapsed() < PATIENCE, "{:?}", self.link);
                let rest = self.link.deadline().saturating_sub(monotonic_ns());
                self.poll.poll(&mut events, Some(Duration::from_nanos(rest))).unwrap();
                events.iter().for_each(|event| self.link.event(event));
            }
            Ok(())
        }
    }

    #[test]
    fn an_address_that_accepts_and_is_of_no_use_is_followed_by_the_next() {
        let useless: [(Option<Says>, &str); 7] = [
            (None, "refused"),
            (Some(None), ""), // closed or reset
            (Some(Some("HTTP/1.1 400 Bad Request\r\n\r\n")), "not the Redis protocol"),
            (Some(Some("-DENIED Redis is running in protected mode\r\n")), "DENIED"),
            (Some(Some("-ERR max number of clients reached\r\n")), "maxclients"),
            (Some(Some("-LOADING Redis is loading\r\n")), "loading"),
            (Some(SILENT), "no answer to the log-in"),
        ];
        for (first, reason) in useless {
            let (addresses, counts) = two_servers(first, Some(WORKS));
            // What is silent is waited for; what works must not be too slow for it on a busy machine.
            let mut rig = Rig::new(if first == Some(SILENT) { Duration::from_secs(3) } else { PATIENCE });
            rig.connect(&addresses).unwrap_or_else(|fault| panic!("{reason}: {fault}"));
            assert_eq!(rig.link.address(), Some(addresses[1]), "{reason}");
            let passed_over = rig.link.passed_over();
            let [(place, fault)] = passed_over.as_slice() else { panic!("{passed_over:?}") };
            assert_eq!(*place, addresses[0].to_string());
            assert!(fault.reason.contains(reason), "{reason}: {fault}");

            // When the connection is lost, the address that was of use is the first to be tried.
            let before = counts[0].load(Relaxed);
            rig.link.fail(&Fault::new("x"), monotonic_ns());
            rig.connect(&addresses).unwrap_or_else(|fault| panic!("{reason}: {fault}"));
            assert_eq!((rig.link.address(), counts[0].load(Relaxed)), (Some(addresses[1]), before), "{reason}");
        }
    }

    #[test]
    fn a_name_without_a_useful_address_tells_what_is_wrong_with_each() {
        let (addresses, _) = two_servers(Some(Some("-DENIED no\r\n")), Some(Some("HTTP/1.1 400 Bad Request\r\n\r\n")));
        let mut rig = Rig::new(PATIENCE);
        let fault = rig.connect(&addresses).unwrap_err();
        for part in [&addresses[0].to_string(), "DENIED", &addresses[1].to_string(), "not the Redis protocol"] {
            assert!(fault.reason.contains(part), "{fault}");
        }
        assert!(fault.is_violation());
        rig.link.fail(&fault, monotonic_ns());
        assert_eq!(rig.connect(&[]).unwrap_err().reason, "its name has no address");
    }
}
