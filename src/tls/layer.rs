//! What seals and opens a connection's records after the handshake: the compact session, or rustls (`tls_sessions`).
//!
//! The stream over it does not ask which, but for [`Layer::can_take_back`].

use std::io::IoSlice;

use super::fault::Fault;
use super::rustls_session::RustlsSession;
use super::session::{Opened, Sealer, Session};

#[derive(Debug)]
pub enum Layer {
    Compact(Session),
    Rustls(Box<RustlsSession>),
}

const _: () = assert!(size_of::<Layer>() == size_of::<Session>());

impl Layer {
    /// Opens the first record of `input`, which it changes. After an error nothing more is opened: `alert` tells the peer, and the connection ends.
    pub fn open(&mut self, input: &mut [u8]) -> Result<Opened, Fault> {
        match self {
            Layer::Compact(session) => session.open(input),
            Layer::Rustls(session) => session.open(input),
        }
    }

    /// Whether it has something to say: the answer to a KeyUpdate, one of its own that is due, that there is no renegotiation.
    pub fn owes(&self) -> bool {
        match self {
            Layer::Compact(session) => session.owes(),
            Layer::Rustls(session) => session.owes(),
        }
    }

    /// Seals what it owes behind `out`. Of what was sealed before nothing may be taken back from here on.
    pub fn seal_own(&mut self, out: &mut Vec<u8>) {
        match self {
            Layer::Compact(session) => session.seal_own(out),
            Layer::Rustls(session) => session.seal_own(out),
        }
    }

    /// For the records of one visit.
    pub fn sealer(&mut self) -> LayerSealer<'_> {
        match self {
            Layer::Compact(session) => LayerSealer::Compact(session.sealer()),
            Layer::Rustls(session) => LayerSealer::Rustls(session),
        }
    }

    /// Whether what was sealed and not sent may be forgotten. If not, every record that was sealed must be sent.
    pub fn can_take_back(&self) -> bool {
        matches!(self, Layer::Compact(_))
    }

    /// The last `records` that were sealed never left the process. Not across `seal_own`; only where it can.
    pub fn take_back(&mut self, records: u64) {
        match self {
            Layer::Compact(session) => session.take_back(records),
            Layer::Rustls(_) => assert_eq!(records, 0, "rustls takes nothing back"),
        }
    }

    /// Whether nothing more can be sealed but the end ([`Fault::Exhausted`]).
    pub fn is_exhausted(&self) -> bool {
        match self {
            Layer::Compact(session) => session.is_exhausted(),
            Layer::Rustls(session) => session.is_exhausted(),
        }
    }

    /// What a record has beyond its content, at most.
    pub fn overhead(&self) -> usize {
        match self {
            Layer::Compact(session) => session.overhead(),
            Layer::Rustls(session) => session.overhead(),
        }
    }

    /// Tells the peer why the session ends, if that can be told.
    pub fn alert(&mut self, fault: Fault, out: &mut Vec<u8>) {
        match self {
            Layer::Compact(session) => session.alert(fault, out),
            Layer::Rustls(session) => session.alert(fault, out),
        }
    }

    /// The same with an alert that says more, where the session can send any.
    pub(super) fn fatal(&mut self, fault: Fault, description: u8, out: &mut Vec<u8>) {
        match self {
            Layer::Compact(session) => session.fatal(description, out),
            Layer::Rustls(session) => session.alert(fault, out),
        }
    }

    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        match self {
            Layer::Compact(session) => session.close_notify(out),
            Layer::Rustls(session) => session.close_notify(out),
        }
    }
}

/// Seals the records of one visit.
#[derive(Debug)]
pub enum LayerSealer<'a> {
    Compact(Sealer<'a>),
    Rustls(&'a mut RustlsSession),
}

impl LayerSealer<'_> {
    /// Seals up to `content_max` bytes of the slices, from `skip` on, as one record behind `out`; how many went in. 0: nothing was left, or the key
    /// is used up.
    pub fn seal(&mut self, slices: &[IoSlice<'_>], skip: usize, content_max: usize, out: &mut Vec<u8>) -> usize {
        match self {
            LayerSealer::Compact(sealer) => sealer.seal(slices, skip, content_max, out),
            LayerSealer::Rustls(session) => session.seal(slices, skip, content_max, out),
        }
    }

    /// The same at the start of a scratch buffer, whose room bounds it too: (content, record). The cheaper one: what is one slice is not copied.
    pub fn seal_into(&mut self, slices: &[IoSlice<'_>], skip: usize, content_max: usize, out: &mut [u8]) -> (usize, usize) {
        match self {
            LayerSealer::Compact(sealer) => sealer.seal_into(slices, skip, content_max, out),
            LayerSealer::Rustls(session) => session.seal_into(slices, skip, content_max, out),
        }
    }
}
