//! A socket with TLS over it, or without. [`crate::tls`] knows what the bytes mean; here stands when they are read, sealed and written, and what is kept of
//! those that came or went in part.
//!
//! Invariants: a record that was sealed is spent, so of one that the socket has begun to take the rest is kept and goes before anything else, and one of
//! which it has taken nothing is forgotten and its number given back. What is idle holds no buffer: records are opened where they were read to and
//! sealed into one buffer of the shard. A connection costs a handshake's memory when its first record is whole, and not before there is a place for it.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use smallvec::SmallVec;

use super::net::{Received, Stream};
use crate::limits::tls::{
    CONTENT_BYTES, CONTENT_BYTES_WHEN_BLOCKED, HANDSHAKES_PER_TURN, HANDSHAKES_UNDER_WAY_MAX, READ_BYTES_IN_HANDSHAKE, RECORD_BYTES_MAX,
    SCRATCH_BYTES,
};
use crate::metrics::ShardMetrics;
use crate::tls::acceptor::Acceptor;
use crate::tls::certificate::ClientCertificate;
use crate::tls::fault::Fault;
use crate::tls::handshake::{Established, Handshake, Step};
use crate::tls::layer::Layer;
use crate::tls::session::Opened;

/// A socket, and where the gear has what lies over it.
#[derive(Debug)]
pub struct Secured<S> {
    socket: S,
    place: Place,
}

/// Four bytes, as a million sockets have one each and most have nothing there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u32);

impl Place {
    /// Bytes are what they are.
    const PLAIN: Place = Place(u32::MAX);
    /// TLS will begin with the next byte.
    const FRESH: Place = Place(u32::MAX - 1);
    /// It will begin when the PROXY header has been read.
    const LATER: Place = Place(u32::MAX - 2);
    /// It was broken, or never came about: what is still to be sent cannot be, what still comes means nothing.
    const BROKEN: Place = Place(u32::MAX - 3);
    const HANDSHAKE: u32 = 1 << 31;

    fn handshake(index: usize) -> Place {
        Place(index as u32 | Place::HANDSHAKE)
    }

    fn what(self) -> What {
        match self {
            Place::PLAIN | Place::LATER => What::Plain,
            Place::FRESH => What::Fresh,
            Place::BROKEN => What::Broken,
            Place(index) if index & Place::HANDSHAKE != 0 => What::Handshake((index & !Place::HANDSHAKE) as usize),
            Place(index) => What::Session(index as usize),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Plain,
    Fresh,
    Handshake(usize),
    Session(usize),
    Broken,
}

/// What the TLS connections of a shard have in common, and what each has of its own.
#[derive(Debug)]
pub struct Gear {
    acceptor: Option<Arc<Acceptor>>,
    metrics: Arc<ShardMetrics>,
    sessions: Slab<Held>,
    handshakes: Slab<Box<UnderWay>>,
    /// Those of them that have an object of rustls's.
    begun: usize,
    /// When this turn began.
    now_ns: u64,
    /// How many more may go a step in this turn.
    steps_left: usize,
    /// Records are sealed here. None, as long as nobody speaks TLS.
    scratch: Box<[u8]>,
}

/// A session, and what it has in hand. Nothing while it is idle.
#[derive(Debug)]
struct Held {
    layer: Layer,
    in_hand: Option<Box<InHand>>,
}

#[derive(Debug, Default)]
struct InHand {
    /// Ciphertext: the beginning of a record, or whole ones where no edge will tell of them.
    came: Vec<u8>,
    /// Sealed bytes that the socket has not taken.
    goes: Vec<u8>,
    /// What lies behind the bytes that were brought last.
    verdict: Option<Verdict>,
    /// `came` may hold a whole record.
    is_pending: bool,
    /// The socket has not taken all of the last write: records are short until it does.
    is_slow: bool,
    /// Our side is shut when the socket has what goes.
    is_shut: bool,
    certificate: Option<Arc<ClientCertificate>>,
}

#[derive(Debug, Clone, Copy)]
enum Verdict {
    End,
    Broken(Fault),
}

#[derive(Debug)]
struct UnderWay {
    handshake: Handshake,
    /// Read, and to be looked at when there is a place for it.
    came: Vec<u8>,
    goes: Vec<u8>,
    /// Since when it has an object of rustls's, or had it until it was done.
    placed_ns: Option<u64>,
}

impl UnderWay {
    fn new(acceptor: &Arc<Acceptor>, came: Vec<u8>) -> Box<UnderWay> {
        Box::new(UnderWay { handshake: Handshake::new(acceptor.clone()), came, goes: Vec::new(), placed_ns: None })
    }
}

impl Gear {
    pub fn new(acceptor: Option<Arc<Acceptor>>, metrics: Arc<ShardMetrics>) -> Gear {
        let (sessions, handshakes) = (Slab::new(), Slab::new());
        Gear { acceptor, metrics, sessions, handshakes, begun: 0, now_ns: 0, steps_left: HANDSHAKES_PER_TURN, scratch: Box::default() }
    }

    /// For the handshakes that begin from now on.
    pub fn set_acceptor(&mut self, acceptor: Option<Arc<Acceptor>>) {
        self.acceptor = acceptor;
    }

    /// `steps`: so many steps of handshakes are for this turn.
    pub fn begin_turn(&mut self, now_ns: u64, steps: usize) {
        self.now_ns = now_ns;
        self.steps_left = steps;
    }

    pub fn is_shaking(&self) -> bool {
        self.steps_left == 0
    }

    /// How many handshakes more may begin.
    pub fn places(&self) -> usize {
        HANDSHAKES_UNDER_WAY_MAX.saturating_sub(self.begun)
    }

    fn count_fault(&self, fault: Fault) {
        self.metrics.tls_faults[fault as usize].inc();
    }

    fn forget_handshake(&mut self, index: usize) -> Box<UnderWay> {
        let under_way = self.handshakes.remove(index);
        self.begun -= usize::from(under_way.placed_ns.is_some());
        self.metrics.tls_under_way.set(self.begun as u64);
        if self.handshakes.is_empty() {
            self.handshakes.shrink_to_fit();
        }
        under_way
    }
}

impl<S> Secured<S> {
    pub fn plain(socket: S) -> Secured<S> {
        Secured { socket, place: Place::PLAIN }
    }

    /// TLS from the first byte, or from behind the PROXY header.
    pub fn tls(socket: S, is_proxied: bool) -> Secured<S> {
        Secured { socket, place: if is_proxied { Place::LATER } else { Place::FRESH } }
    }

    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }
}

impl<S: Stream<Gear = ()>> Secured<S> {
    /// As much of the handshake as the bytes that have come allow.
    fn shake(&mut self, gear: &mut Gear, buffer: &mut [u8]) -> io::Result<Received> {
        let index = match self.place.what() {
            What::Handshake(index) => Some(index),
            _ => None,
        };
        if index.is_none_or(|index| gear.handshakes[index].placed_ns.is_none()) && gear.places() == 0 {
            return Ok(Received::Queued);
        }
        if gear.steps_left == 0 {
            return Ok(Received::Later);
        }
        let held = index.map_or_else(Vec::new, |index| std::mem::take(&mut gear.handshakes[index].came));
        let before = held.len();
        buffer[..before].copy_from_slice(&held);
        let (count, drained) = match self.socket.read(&mut (), &mut buffer[before..], READ_BYTES_IN_HANDSHAKE)? {
            Received::Bytes { count, drained } => (count, drained),
            _ if before > 0 => (0, false),
            _ => return Ok(Received::End),
        };
        let input = &buffer[..before + count];
        if input.is_empty() {
            return Ok(Received::Bytes { count: 0, drained });
        }
        let index = match index {
            Some(index) => index,
            None => {
                let Some(acceptor) = &gear.acceptor else { return Ok(self.break_off(gear, Fault::Handshake, None)) };
                let index = gear.handshakes.insert(UnderWay::new(acceptor, Vec::new()));
                self.place = Place::handshake(index);
                index
            }
        };
        let UnderWay { handshake, goes, placed_ns, .. } = &mut *gear.handshakes[index];
        let step = handshake.advance(input, goes);
        if handshake.has_begun() && placed_ns.is_none() {
            *placed_ns = Some(gear.now_ns);
            gear.begun += 1;
        }
        gear.steps_left -= usize::from(placed_ns.is_some());
        gear.metrics.tls_under_way.set(gear.begun as u64);
        match step {
            Ok(Step::Wants) => {
                self.flush(gear)?;
                Ok(Received::Part { drained })
            }
            Ok(Step::Done(established)) => {
                self.establish(gear, index, *established);
                self.flush(gear)?;
                Ok(Received::Part { drained })
            }
            Err(fault) => {
                let UnderWay { goes, .. } = *gear.forget_handshake(index);
                Ok(self.break_off(gear, fault, Some(&goes)))
            }
        }
    }

    fn establish(&mut self, gear: &mut Gear, index: usize, established: Established) {
        let UnderWay { goes, .. } = *gear.forget_handshake(index);
        let Established { layer, peer, is_resumed, version, rest, .. } = established;
        let counter = if is_resumed { &gear.metrics.tls_resumed } else { &gear.metrics.tls_full };
        counter[version as usize].inc();
        let is_pending = !rest.is_empty();
        let has_any = is_pending || !goes.is_empty() || peer.is_some();
        let in_hand =
            has_any.then(|| Box::new(InHand { came: rest, goes, is_pending, certificate: peer.map(Arc::new), ..InHand::default() }));
        if gear.scratch.is_empty() {
            gear.scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        }
        let index = gear.sessions.insert(Held { layer, in_hand });
        gear.metrics.tls_sessions.inc();
        self.place = Place(index as u32);
    }

    /// Nothing can be said or understood any more. Its last words are sent if the socket takes them at once.
    fn break_off(&mut self, gear: &mut Gear, fault: Fault, last: Option<&[u8]>) -> Received {
        gear.count_fault(fault);
        self.leave(gear);
        self.place = Place::BROKEN;
        // Whoever does not speak TLS is told in the words of those who come by mistake most often.
        let last = if fault == Fault::NotTls { Some(SPEAKS_TLS.as_bytes()) } else { last };
        if let Some(last) = last.filter(|last| !last.is_empty() && !self.socket.wants_write(&())) {
            let _ = self.socket.write(&mut (), &[IoSlice::new(last)]);
        }
        Received::Broken
    }

    /// Gives its place in the gear back.
    fn leave(&mut self, gear: &mut Gear) {
        match self.place.what() {
            What::Handshake(index) if gear.handshakes.contains(index) => drop(gear.forget_handshake(index)),
            What::Session(index) => {
                gear.sessions.remove(index);
                gear.metrics.tls_sessions.dec();
                if gear.sessions.capacity() > crate::limits::SLOTS_KEPT && gear.sessions.len() < gear.sessions.capacity() / 4 {
                    gear.sessions.shrink_to_fit();
                }
            }
            What::Plain | What::Fresh | What::Broken | What::Handshake(_) => {}
        }
        self.place = Place::BROKEN;
    }

    /// Reads, and opens each record that is whole where it lies; their contents are moved together at the front.
    fn read_records(&mut self, gear: &mut Gear, index: usize, buffer: &mut [u8], at_most: usize) -> io::Result<Received> {
        let held = &mut gear.sessions[index];
        let mut before = 0;
        if let Some(in_hand) = &mut held.in_hand {
            match in_hand.verdict {
                Some(Verdict::End) => return Ok(Received::End),
                Some(Verdict::Broken(fault)) => return Ok(self.break_with_alert(gear, index, fault)),
                None => {}
            }
            let came = std::mem::take(&mut in_hand.came);
            in_hand.is_pending = false;
            before = came.len();
            buffer[..before].copy_from_slice(&came);
        }
        let at_most = at_most.max(RECORD_BYTES_MAX.min(before * 2));
        let (count, drained, is_over) = match self.socket.read(&mut (), &mut buffer[before..], at_most)? {
            Received::Bytes { count, drained } => (count, drained, false),
            _ => (0, true, true),
        };
        let input = &mut buffer[..before + count];
        let (mut done, mut brought) = (0, 0);
        let mut verdict = None;
        while done < input.len() && verdict.is_none() {
            match held.layer.open(&mut input[done..]) {
                Ok(Opened::Partial { .. }) => break,
                Ok(Opened::Data { content, consumed }) => {
                    input.copy_within(done + content.start..done + content.end, brought);
                    brought += content.len();
                    done += consumed;
                }
                Ok(Opened::Own { consumed }) => done += consumed,
                Ok(Opened::End { .. }) => verdict = Some(Verdict::End),
                Err(fault) => verdict = Some(Verdict::Broken(fault)),
            }
        }
        if verdict.is_none() && is_over {
            // Whoever leaves without a close_notify has left as well: most do.
            verdict = Some(Verdict::End);
        }
        match verdict {
            Some(Verdict::End) if brought == 0 => {
                held.in_hand.get_or_insert_default().verdict = Some(Verdict::End);
                return Ok(Received::End);
            }
            Some(Verdict::Broken(fault)) if brought == 0 => return Ok(self.break_with_alert(gear, index, fault)),
            None if done == input.len() => held.tidy(),
            None => held.in_hand.get_or_insert_default().came = input[done..].to_vec(),
            verdict => held.in_hand.get_or_insert_default().verdict = verdict,
        }
        Ok(match (brought, count) {
            (0, 1..) => Received::Part { drained },
            _ => Received::Bytes { count: brought, drained },
        })
    }

    fn break_with_alert(&mut self, gear: &mut Gear, index: usize, fault: Fault) -> Received {
        let held = &mut gear.sessions[index];
        let in_hand = held.in_hand.take().unwrap_or_default();
        let mut last = in_hand.goes;
        held.layer.alert(fault, &mut last);
        self.break_off(gear, fault, (!in_hand.is_shut).then_some(&last))
    }

    /// Seals into the scratch buffer and writes that, until all is with the socket or it takes no more.
    fn seal_and_write(&mut self, gear: &mut Gear, index: usize, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let held = &mut gear.sessions[index];
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let is_slow = held.in_hand.as_ref().is_some_and(|in_hand| in_hand.is_slow);
        let content_max = if is_slow { CONTENT_BYTES_WHEN_BLOCKED } else { CONTENT_BYTES };
        let can_take_back = held.layer.can_take_back();
        let mut taken = 0;
        while taken < total {
            // Where each record ends, in what was given and in what goes out.
            let mut ends = SmallVec::<[(usize, usize); 8]>::new();
            let mut sealer = held.layer.sealer();
            let (mut content, mut sealed) = (taken, 0);
            while content < total && (can_take_back || sealed == 0) {
                let (bytes, record) = sealer.seal_into(slices, content, content_max, &mut gear.scratch[sealed..]);
                if bytes == 0 {
                    break;
                }
                (content, sealed) = (content + bytes, sealed + record);
                ends.push((content, sealed));
            }
            if sealed == 0 {
                // Its key is used up, and there is no other.
                self.break_with_alert(gear, index, Fault::Exhausted);
                return Err(io::Error::other("a key of TLS 1.2 is used up"));
            }
            let written = match self.socket.write(&mut (), &[IoSlice::new(&gear.scratch[..sealed])]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            if written == sealed {
                taken = content;
                if self.socket.wants_write(&()) {
                    break;
                }
                continue;
            }
            let begun = if can_take_back { ends.partition_point(|&(_, end)| end < written) + usize::from(written > 0) } else { ends.len() };
            held.layer.take_back((ends.len() - begun) as u64);
            let in_hand = held.in_hand.get_or_insert_default();
            in_hand.is_slow = true;
            if let Some(&(content, end)) = begun.checked_sub(1).map(|last| &ends[last]) {
                in_hand.goes.extend_from_slice(&gear.scratch[written..end]);
                taken = content;
            }
            return if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) };
        }
        if is_slow {
            held.in_hand.get_or_insert_default().is_slow = false;
            held.tidy();
        }
        Ok(taken)
    }
}

impl Held {
    /// What it has in hand is given up when there is nothing of it.
    fn tidy(&mut self) {
        if self.in_hand.as_ref().is_some_and(|in_hand| in_hand.is_nothing()) {
            self.in_hand = None;
        }
    }
}

impl InHand {
    fn is_nothing(&self) -> bool {
        self.came.is_empty()
            && self.goes.is_empty()
            && self.verdict.is_none()
            && !self.is_slow
            && !self.is_shut
            && self.certificate.is_none()
    }
}

const SPEAKS_TLS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 59\r\nConnection: close\r\n\r\n\
    This port speaks TLS: use https:// or wss:// in its place.\n";

impl<S: Stream<Gear = ()>> Stream for Secured<S> {
    type Gear = Gear;

    #[inline]
    fn read(&mut self, gear: &mut Gear, buffer: &mut [u8], at_most: usize) -> io::Result<Received> {
        match self.place.what() {
            What::Plain => self.socket.read(&mut (), buffer, at_most),
            What::Fresh | What::Handshake(_) => self.shake(gear, buffer),
            What::Session(index) => self.read_records(gear, index, buffer, at_most),
            What::Broken => Ok(match self.socket.read(&mut (), buffer, at_most)? {
                Received::Bytes { count: 1.., drained } => Received::Part { drained },
                other => other,
            }),
        }
    }

    fn has_pending(&self, gear: &Gear) -> bool {
        let is_held = match self.place.what() {
            What::Session(index) => gear.sessions[index].in_hand.as_ref().is_some_and(|held| held.is_pending || held.verdict.is_some()),
            What::Handshake(index) => !gear.handshakes[index].came.is_empty(),
            What::Plain | What::Fresh | What::Broken => false,
        };
        is_held || self.socket.has_pending(&())
    }

    fn has_part(&self, gear: &Gear) -> bool {
        match self.place.what() {
            What::Session(index) => gear.sessions[index].in_hand.as_ref().is_some_and(|in_hand| !in_hand.came.is_empty()),
            What::Plain | What::Fresh | What::Broken | What::Handshake(_) => false,
        }
    }

    #[inline]
    fn write(&mut self, gear: &mut Gear, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.place.what() {
            What::Plain => self.socket.write(&mut (), slices),
            What::Session(index) => self.seal_and_write(gear, index, slices),
            // It can be told to nobody.
            What::Fresh | What::Handshake(_) | What::Broken => Ok(slices.iter().map(|slice| slice.len()).sum()),
        }
    }

    #[inline]
    fn wants_write(&self, gear: &Gear) -> bool {
        let has_more = match self.place.what() {
            What::Plain | What::Fresh | What::Broken => false,
            What::Handshake(index) => !gear.handshakes[index].goes.is_empty(),
            What::Session(index) => {
                let held = &gear.sessions[index];
                match &held.in_hand {
                    Some(in_hand) => !in_hand.goes.is_empty() || held.layer.owes() && !in_hand.is_shut,
                    None => held.layer.owes(),
                }
            }
        };
        has_more || self.socket.wants_write(&())
    }

    fn flush(&mut self, gear: &mut Gear) -> io::Result<()> {
        self.socket.flush(&mut ())?;
        let goes = match self.place.what() {
            What::Plain | What::Fresh | What::Broken => return Ok(()),
            What::Handshake(index) => &mut gear.handshakes[index].goes,
            What::Session(index) => {
                let Held { layer, in_hand } = &mut gear.sessions[index];
                // Nothing follows close_notify.
                if layer.owes() && !in_hand.as_ref().is_some_and(|in_hand| in_hand.is_shut) {
                    layer.seal_own(&mut in_hand.get_or_insert_default().goes);
                }
                let Some(in_hand) = in_hand else { return Ok(()) };
                &mut in_hand.goes
            }
        };
        while !goes.is_empty() && !self.socket.wants_write(&()) {
            match self.socket.write(&mut (), &[IoSlice::new(goes)]) {
                Ok(written) if written == goes.len() => *goes = Vec::new(),
                Ok(written) => drop(goes.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if let What::Session(index) = self.place.what() {
            let held = &mut gear.sessions[index];
            if held.in_hand.as_ref().is_some_and(|in_hand| in_hand.is_shut && in_hand.goes.is_empty()) {
                self.socket.shutdown_write(&mut ());
            }
            held.tidy();
        }
        Ok(())
    }

    fn acknowledged_ago(&self) -> Option<Duration> {
        self.socket.acknowledged_ago()
    }

    fn shutdown_write(&mut self, gear: &mut Gear) {
        match self.place.what() {
            What::Session(index) => {
                let Held { layer, in_hand } = &mut gear.sessions[index];
                let in_hand = in_hand.get_or_insert_default();
                layer.close_notify(&mut in_hand.goes);
                in_hand.is_shut = true;
                // What comes of it the next read tells.
                let _ = self.flush(gear);
            }
            What::Plain | What::Broken => self.socket.shutdown_write(&mut ()),
            // Nothing comes of it any more.
            What::Fresh | What::Handshake(_) => {
                self.leave(gear);
                self.socket.shutdown_write(&mut ());
            }
        }
    }

    fn buffer_bytes(&self, gear: &Gear) -> usize {
        let own = match self.place.what() {
            What::Plain | What::Fresh | What::Broken => 0,
            What::Handshake(index) => {
                let UnderWay { handshake, came, goes, .. } = &*gear.handshakes[index];
                handshake.buffer_bytes() + came.capacity() + goes.capacity()
            }
            What::Session(index) => {
                gear.sessions[index].in_hand.as_ref().map_or(0, |in_hand| in_hand.came.capacity() + in_hand.goes.capacity())
            }
        };
        own + self.socket.buffer_bytes(&())
    }

    fn begin(&mut self, gear: &mut Gear, input: &[u8]) -> bool {
        if self.place != Place::LATER {
            return false;
        }
        self.place = Place::FRESH;
        if let Some(acceptor) = gear.acceptor.as_ref().filter(|_| !input.is_empty()) {
            self.place = Place::handshake(gear.handshakes.insert(UnderWay::new(acceptor, input.to_vec())));
        }
        true
    }

    fn has_place_for(&self, gear: &Gear) -> Option<Duration> {
        let What::Handshake(index) = self.place.what() else { return None };
        let since_ns = gear.handshakes[index].placed_ns?;
        Some(Duration::from_nanos(gear.now_ns.saturating_sub(since_ns)))
    }

    fn certificate(&self, gear: &Gear) -> Option<Arc<ClientCertificate>> {
        match self.place.what() {
            What::Session(index) => gear.sessions[index].in_hand.as_ref().and_then(|in_hand| in_hand.certificate.clone()),
            What::Plain | What::Fresh | What::Broken | What::Handshake(_) => None,
        }
    }

    fn release(&mut self, gear: &mut Gear) {
        self.leave(gear);
    }
}
