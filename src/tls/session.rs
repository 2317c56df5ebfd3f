//! The compact session: what a connection keeps of TLS once its handshake is done. 152 bytes, and no heap with AES-128 or TLS 1.2; the other suites
//! of TLS 1.3 keep their secrets, 96 bytes, in a box.
//!
//! Made by [`super::handshake`] and [`super::initiator`], called through [`super::layer`]. Invariants: no number is used twice with one key; a key seals no more than
//! its suite allows (`Suite::records_max`); and whatever a peer may do again and again without sending data is counted.

use std::io::IoSlice;
use std::ops::Range;

use super::Version;
use super::fault::{CLOSE_NOTIFY, Fault, NO_RENEGOTIATION, USER_CANCELED};
use super::keys::{FarSecret, Keys, Suite, needs_far};
use super::record::{self, CONTENT_BYTES_MAX, HEADER_BYTES, Ready, kind};
use crate::limits::tls::{EMPTY_RECORDS_MAX, KEY_UPDATES_MAX, WARNINGS_MAX};

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

/// The first record of what has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It is not there as a whole. `needs`: how long it will be, header included, if the header is there.
    Partial { needs: Option<usize> },
    /// Content lies in `input[content]`; `consumed` bytes of input are done.
    Data { content: Range<usize>, consumed: usize },
    /// It was for the session itself.
    Own { consumed: usize },
    /// close_notify: the peer sends no more.
    End { consumed: usize },
}

/// One end of a TLS connection, after its handshake.
#[derive(Debug)]
pub struct Session {
    read_number: u64,
    write_number: u64,
    read_keys: Keys,
    write_keys: Keys,
    /// Of reading and of writing.
    far: Option<Box<[FarSecret; 2]>>,
    suite: Suite,
    side: Side,
    /// What of a KeyUpdate has come, whose other part is in the next record.
    update_bytes: u8,
    /// Since the last data.
    updates: u8,
    empties: u8,
    warnings: u8,
    owed: Owed,
}

const _: () = assert!(size_of::<Session>() <= 152);

/// What the peer has asked for and not been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// TLS 1.3: keys of ours that are new.
    Update,
    /// TLS 1.2: that there is no renegotiation.
    Refusal,
    /// Nothing; it has been told so once.
    Refused,
}

/// Where a direction's keys come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// TLS 1.3: a traffic secret.
    Secret(&'a [u8]),
    /// TLS 1.2.
    Fixed { key: &'a [u8], iv: &'a [u8] },
}

/// One direction at the end of the handshake: which number its next record has, and its keys.
pub(super) type Direction<'a> = (u64, Origin<'a>);

/// A KeyUpdate up to its value: its type, and its length (RFC 8446, 4.6.3).
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
const NEW_SESSION_TICKET: u8 = 4;
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const FATAL: u8 = 2;
const WARNING: u8 = 1;
/// Records that are left to a key when it counts as used up: for a KeyUpdate, or the alert at the end.
const LAST_RECORDS: u64 = 16;

impl Session {
    pub(super) fn new(side: Side, suite: Suite, read: Direction<'_>, write: Direction<'_>) -> Session {
        let mut far = needs_far(suite).then(|| Box::new([[0; _]; 2]));
        let mut keys = |at: usize, origin| match origin {
            Origin::Secret(secret) => Keys::from_secret(suite, secret, far.as_mut().map(|far| &mut far[at])),
            Origin::Fixed { key, iv } => Keys::fixed(suite, key, iv),
        };
        let (read_keys, write_keys) = (keys(0, read.1), keys(1, write.1));
        Session {
            read_number: read.0,
            write_number: write.0,
            read_keys,
            write_keys,
            far,
            suite,
            side,
            update_bytes: 0,
            updates: 0,
            empties: 0,
            warnings: 0,
            owed: Owed::Nothing,
        }
    }

    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether key and iv are those that rustls tells of its own.
    pub(super) fn has_keys(&self, read: (&[u8], &[u8]), write: (&[u8], &[u8])) -> bool {
        let is = |keys: &Keys, (key, iv)| keys.key(self.suite) == key && keys.iv(self.suite) == iv;
        is(&self.read_keys, read) && is(&self.write_keys, write)
    }

    /// Opens the first record of `input` in place. After an error nothing more is opened: `alert` tells the peer, and the connection ends.
    pub fn open(&mut self, input: &mut [u8]) -> Result<Opened, Fault> {
        self.open_for(input, &mut |_| {})
    }

    /// The same on a client's side, for whoever wants the server's tickets (the body of each NewSessionTicket of TLS 1.3).
    pub fn open_for(&mut self, input: &mut [u8], take_ticket: &mut dyn FnMut(&[u8])) -> Result<Opened, Fault> {
        let Some(header) = input.first_chunk::<HEADER_BYTES>() else { return Ok(Opened::Partial { needs: None }) };
        let length = record::announced(header).expect("a header is there");
        record::check_header(self.suite, header, length)?;
        let consumed = HEADER_BYTES + length;
        let Some(record) = input.get_mut(..consumed) else { return Ok(Opened::Partial { needs: Some(consumed) }) };
        let (kind, content) = Ready::new(self.suite, &self.read_keys).open(self.read_number, record)?;
        self.read_number += 1;
        match kind {
            kind::DATA if self.update_bytes > 0 => Err(Fault::UnexpectedMessage),
            kind::DATA if content.is_empty() => {
                counted(&mut self.empties, EMPTY_RECORDS_MAX, Fault::EmptyFlood)?;
                Ok(Opened::Own { consumed })
            }
            kind::DATA => {
                (self.updates, self.empties) = (0, 0);
                Ok(Opened::Data { content, consumed })
            }
            kind::ALERT => {
                let is_end = self.take_alert(&record[content])?;
                Ok(if is_end { Opened::End { consumed } } else { Opened::Own { consumed } })
            }
            kind::HANDSHAKE => {
                self.take_handshake(&record[content], take_ticket)?;
                Ok(Opened::Own { consumed })
            }
            _ => Err(Fault::UnexpectedMessage),
        }
    }

    /// Whether it is close_notify.
    fn take_alert(&mut self, content: &[u8]) -> Result<bool, Fault> {
        if content.is_empty() || self.update_bytes > 0 {
            return Err(Fault::UnexpectedMessage);
        }
        let &[level, description] = content else { return Err(Fault::DecodeError) };
        match (self.suite.version, level, description) {
            (_, WARNING | FATAL, CLOSE_NOTIFY) => return Ok(true),
            (_, FATAL, _) => return Err(Fault::PeerAlert),
            (Version::Tls13, WARNING, USER_CANCELED) | (Version::Tls12, WARNING, _) => {}
            (Version::Tls13, WARNING, _) => return Err(Fault::DecodeError),
            (Version::Tls12 | Version::Tls13, _, _) => return Err(Fault::IllegalParameter),
        }
        counted(&mut self.warnings, WARNINGS_MAX, Fault::WarningFlood)?;
        Ok(false)
    }

    fn take_handshake(&mut self, content: &[u8], take_ticket: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        if content.is_empty() {
            return Err(Fault::UnexpectedMessage);
        }
        match self.suite.version {
            Version::Tls13 => self.take_messages(content, take_ticket),
            Version::Tls12 => self.take_renegotiation(content),
        }
    }

    /// On a server's side KeyUpdates, on a client's tickets too, which come whole.
    fn take_messages(&mut self, mut content: &[u8], take_ticket: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        while self.side == Side::Client && self.update_bytes == 0 && content.first() == Some(&NEW_SESSION_TICKET) {
            let &[_, high, middle, low, ref rest @ ..] = content else { return Err(Fault::DecodeError) };
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let ticket;
            (ticket, content) = rest.split_at_checked(length).ok_or(Fault::DecodeError)?;
            take_ticket(ticket);
            if content.is_empty() {
                return Ok(());
            }
        }
        for (index, &byte) in content.iter().enumerate() {
            match KEY_UPDATE.get(usize::from(self.update_bytes)) {
                Some(expected) if *expected == byte => self.update_bytes += 1,
                Some(_) if self.update_bytes == 0 => return Err(Fault::UnexpectedMessage),
                Some(_) => return Err(Fault::DecodeError),
                // What follows would be of the old keys.
                None if index + 1 < content.len() => return Err(Fault::UnexpectedMessage),
                None => self.take_update(byte)?,
            }
        }
        Ok(())
    }

    fn take_update(&mut self, is_requested: u8) -> Result<(), Fault> {
        match is_requested {
            0 => {}
            1 => self.owed = Owed::Update,
            _ => return Err(Fault::IllegalParameter),
        }
        counted(&mut self.updates, KEY_UPDATES_MAX, Fault::KeyUpdateFlood)?;
        self.read_keys = self.read_keys.updated(self.suite, self.far.as_mut().map(|far| &mut far[0]));
        self.read_number = 0;
        self.update_bytes = 0;
        Ok(())
    }

    /// TLS 1.2: there is none, which is told once.
    fn take_renegotiation(&mut self, content: &[u8]) -> Result<(), Fault> {
        let asks = match self.side {
            Side::Server => CLIENT_HELLO,
            Side::Client => HELLO_REQUEST,
        };
        match content {
            &[first, high, middle, low, ref rest @ ..] if first == asks => {
                let is_whole = rest.len() == u32::from_be_bytes([0, high, middle, low]) as usize;
                if !is_whole {
                    return Err(Fault::DecodeError);
                }
            }
            _ => return Err(Fault::UnexpectedMessage),
        }
        if self.owed != Owed::Nothing {
            return Err(Fault::Renegotiation);
        }
        self.owed = Owed::Refusal;
        Ok(())
    }

    /// Whether the session has something to say: a KeyUpdate that was asked for or is due, or that there is no renegotiation.
    pub fn owes(&self) -> bool {
        match self.owed {
            Owed::Update | Owed::Refusal => true,
            Owed::Nothing | Owed::Refused => self.is_update_due(),
        }
    }

    /// Seals what it owes behind `out`. Of what was sealed before nothing may be taken back from here on.
    pub fn seal_own(&mut self, out: &mut Vec<u8>) {
        if self.owed == Owed::Refusal {
            self.owed = Owed::Refused;
            self.seal_one(kind::ALERT, &[WARNING, NO_RENEGOTIATION], out);
        }
        if self.owed == Owed::Update || self.is_update_due() {
            self.owed = Owed::Nothing;
            let [a, b, c, d] = KEY_UPDATE;
            // update_not_requested: the peer looks after its own.
            self.seal_one(kind::HANDSHAKE, &[a, b, c, d, 0], out);
            self.write_keys = self.write_keys.updated(self.suite, self.far.as_mut().map(|far| &mut far[1]));
            self.write_number = 0;
        }
    }

    /// Half of what the key may seal: whoever is late to ask has as much again.
    fn is_update_due(&self) -> bool {
        self.suite.is_tls13() && self.write_number >= self.suite.records_max() / 2
    }

    /// Whether nothing more can be sealed but the end: TLS 1.2 cannot change its keys. The connection is to be closed, [`Fault::Exhausted`].
    pub fn is_exhausted(&self) -> bool {
        !self.suite.is_tls13() && self.is_used_up()
    }

    fn is_used_up(&self) -> bool {
        self.write_number + LAST_RECORDS >= self.suite.records_max()
    }

    /// For the records of one visit: the cipher is made ready once.
    pub fn sealer(&mut self) -> Sealer<'_> {
        Sealer { ready: Ready::new(self.suite, &self.write_keys), session: self }
    }

    /// The last `records` that were sealed never left the process: their numbers are free again. Not across `seal_own`.
    pub fn take_back(&mut self, records: u64) {
        self.write_number = self.write_number.checked_sub(records).expect("no more is taken back than was sealed with this key");
    }

    /// What a record has beyond its content.
    pub fn overhead(&self) -> usize {
        record::overhead(self.suite)
    }

    /// Tells the peer why the session ends, if that can be told.
    pub fn alert(&mut self, fault: Fault, out: &mut Vec<u8>) {
        match fault.alert() {
            None => {}
            Some(CLOSE_NOTIFY) => self.close_notify(out),
            Some(description) => self.fatal(description, out),
        }
    }

    /// An alert that says more than a [`Fault`] does.
    pub(super) fn fatal(&mut self, description: u8, out: &mut Vec<u8>) {
        self.seal_one(kind::ALERT, &[FATAL, description], out);
    }

    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        self.seal_one(kind::ALERT, &[WARNING, CLOSE_NOTIFY], out);
    }

    fn seal_one(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + content.len() + self.overhead(), 0);
        let ready = Ready::new(self.suite, &self.write_keys);
        ready.seal(self.write_number, kind, &[IoSlice::new(content)], 0, content.len(), &mut out[at..]);
        self.write_number += 1;
    }
}

fn counted(count: &mut u8, max: u8, fault: Fault) -> Result<(), Fault> {
    *count += 1;
    if *count > max { Err(fault) } else { Ok(()) }
}

/// Seals the records of one visit.
pub struct Sealer<'a> {
    ready: Ready,
    session: &'a mut Session,
}

impl std::fmt::Debug for Sealer<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sealer").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Sealer<'_> {
    /// Seals up to `content_max` bytes of the slices, from `skip` on, as one record behind `out`; how many went in. 0: nothing was left, or the key
    /// is used up.
    pub fn seal(&mut self, slices: &[IoSlice<'_>], skip: usize, content_max: usize, out: &mut Vec<u8>) -> usize {
        let length = self.length(slices, skip, content_max);
        if length > 0 {
            let at = out.len();
            out.resize(at + length + self.session.overhead(), 0);
            self.put(slices, skip, length, &mut out[at..]);
        }
        length
    }

    /// The same at the start of a scratch buffer, whose rest decides too how much goes in: (content, record). Content that is one slice is not
    /// copied, and nothing is zeroed before.
    pub fn seal_into(&mut self, slices: &[IoSlice<'_>], skip: usize, content_max: usize, out: &mut [u8]) -> (usize, usize) {
        let room = out.len().saturating_sub(self.session.overhead());
        let length = self.length(slices, skip, content_max.min(room));
        if length == 0 { (0, 0) } else { (length, self.put(slices, skip, length, out)) }
    }

    fn length(&self, slices: &[IoSlice<'_>], skip: usize, content_max: usize) -> usize {
        if self.session.is_used_up() {
            return 0;
        }
        record::length_of(slices, skip, content_max.min(CONTENT_BYTES_MAX))
    }

    fn put(&mut self, slices: &[IoSlice<'_>], skip: usize, length: usize, out: &mut [u8]) -> usize {
        let bytes = self.ready.seal(self.session.write_number, kind::DATA, slices, skip, length, out);
        self.session.write_number += 1;
        bytes
    }
}

#[cfg(test)]
impl Session {
    /// A record of any kind, with anything in it.
    pub(super) fn test_seal(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        self.seal_one(kind, content, out);
    }

    /// A KeyUpdate that nobody asked for.
    pub(super) fn test_update(&mut self, is_requested: bool, out: &mut Vec<u8>) {
        let [a, b, c, d] = KEY_UPDATE;
        self.seal_one(kind::HANDSHAKE, &[a, b, c, d, u8::from(is_requested)], out);
        self.write_keys = self.write_keys.updated(self.suite, self.far.as_mut().map(|far| &mut far[1]));
        self.write_number = 0;
    }
}
