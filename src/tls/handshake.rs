//! A server's side of the handshake, from the first byte to the session. RFC 8446, 4; RFC 5246, 7.
//!
//! Owned by a connection of a shard, boxed, while it is under way. rustls is not asked, and takes no memory, before the first record is here as a
//! whole and could be a ClientHello. What is kept of what has come is bounded by [`HANDSHAKE_BYTES_MAX`].

use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::server::UnbufferedServerConnection;

use super::Version;
use super::acceptor::Acceptor;
use super::certificate::ClientCertificate;
use super::drive::{Received, session, suite_name, version_of};
use super::fault::{CERTIFICATE_EXPIRED, Fault};
use super::layer::Layer;
use super::record::{CONTENT_BYTES_MAX, HEADER_BYTES, announced, kind, plain_alert};
use super::rustls_session::RustlsSession;
use crate::limits::tls::HANDSHAKE_BYTES_MAX;

pub struct Handshake {
    acceptor: Arc<Acceptor>,
    received: Received,
    tls: Option<Box<UnbufferedServerConnection>>,
    /// Something was sent: what follows may have to be sealed.
    has_answered: bool,
}

#[derive(Debug)]
pub enum Step {
    /// More must come. What is to be sent was appended.
    Wants,
    Done(Box<Established>),
}

/// What a handshake came to.
#[derive(Debug)]
pub struct Established {
    pub layer: Layer,
    /// Whose certificate was verified.
    pub peer: Option<ClientCertificate>,
    /// What the client asked for (SNI).
    pub server_name: Option<String>,
    pub version: Version,
    /// As the standard calls it.
    pub suite: &'static str,
    pub is_resumed: bool,
    /// What came behind the handshake, still sealed: no edge will announce it.
    pub rest: Vec<u8>,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Handshake").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Handshake {
    pub fn new(acceptor: Arc<Acceptor>) -> Handshake {
        Handshake { acceptor, received: Received::default(), tls: None, has_answered: false }
    }

    /// Whether the first record is whole with these bytes: with them it begins to cost CPU and memory. False too if they are no ClientHello, which
    /// [`Handshake::advance`] says at no cost.
    pub fn is_ready(&self, input: &[u8]) -> bool {
        let have = &self.received.bytes;
        let mut start = [0; START_BYTES];
        let start_bytes = START_BYTES.min(have.len() + input.len());
        have.iter().chain(input).zip(&mut start).for_each(|(byte, place)| *place = *byte);
        matches!(first_record(&start[..start_bytes]), Ok(Some(bytes)) if have.len() + input.len() >= bytes)
    }

    /// Whether rustls is at work.
    pub fn has_begun(&self) -> bool {
        self.tls.is_some()
    }

    /// What it holds of the heap, beside itself: what has come, and rustls's state, of which only a measure is known.
    pub fn buffer_bytes(&self) -> usize {
        let rustls_bytes = if self.tls.is_some() { RUSTLS_BYTES } else { 0 };
        self.received.bytes.capacity() + rustls_bytes
    }

    /// Takes all of `input`. What is to be sent is appended to `out`, before an error too: the alert.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, Fault> {
        let before = out.len();
        self.received.bytes.extend_from_slice(input);
        let step = self.step(out);
        self.has_answered |= out.len() > before;
        if let Err(fault) = &step
            && let Some(alert) = fault.alert()
            && !self.has_answered
        {
            out.extend_from_slice(&plain_alert(alert));
        }
        step
    }

    fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, Fault> {
        let tls = match &mut self.tls {
            Some(tls) => tls,
            None => {
                let is_whole = first_record(&self.received.bytes)?.is_some_and(|bytes| self.received.bytes.len() >= bytes);
                if !is_whole {
                    return Ok(Step::Wants);
                }
                let tls = UnbufferedServerConnection::new(self.acceptor.config().clone()).map_err(|_| Fault::Internal)?;
                self.tls.insert(Box::new(tls))
            }
        };
        match self.received.advance(&mut **tls, out)? {
            false => Ok(Step::Wants),
            true => self.establish(out).map(|established| Step::Done(Box::new(established))),
        }
    }

    fn establish(&mut self, out: &mut Vec<u8>) -> Result<Established, Fault> {
        let tls = self.tls.take().expect("the handshake is done");
        let version = version_of(&tls)?;
        let suite = suite_name(tls.negotiated_cipher_suite().ok_or(Fault::Internal)?);
        let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let leaf = tls.peer_certificates().and_then(|chain| chain.first()).map(|leaf| ClientCertificate::read(leaf));
        let mut layer = match self.acceptor.is_compact() {
            true => Layer::Compact(session(*tls, &self.received.noted)?.0),
            false => Layer::Rustls(Box::new(RustlsSession::new(tls))),
        };
        let peer = match leaf {
            None => None,
            // A ticket's certificate was verified when the ticket was made, and not since.
            Some(Ok(peer)) if is_resumed && self.acceptor.is_past(peer.not_after) => {
                layer.fatal(Fault::ClientCertificate, CERTIFICATE_EXPIRED, out);
                return Err(Fault::ClientCertificate);
            }
            Some(Ok(peer)) => Some(peer),
            Some(Err(_)) => {
                layer.alert(Fault::ClientCertificate, out);
                return Err(Fault::ClientCertificate);
            }
        };
        let rest = std::mem::take(&mut self.received.bytes);
        Ok(Established { layer, peer, server_name: self.received.noted.server_name.take(), version, suite, is_resumed, rest })
    }
}

/// What rustls holds between two flights of a handshake: 4.7 KB were counted with one short certificate, 6.2 KB with three.
const RUSTLS_BYTES: usize = 6 * 1024;

/// Up to the version in a ClientHello: header, type and length of the message, `legacy_version`.
const START_BYTES: usize = HEADER_BYTES + 4 + 2;
const CLIENT_HELLO: u8 = 1;
const TLS12: [u8; 2] = [3, 3];

/// How long the first record will be, if its header is here. What cannot begin a ClientHello that we could answer is refused as soon as that shows.
fn first_record(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let handshake = match bytes {
        [] => return Ok(None),
        [first, ..] if *first != kind::HANDSHAKE => return Err(Fault::NotTls),
        [_, major, ..] if *major != TLS12[0] => return Err(Fault::DecodeError),
        [_, _, _, _, _, handshake @ ..] => handshake,
        [..] => return Ok(None),
    };
    let length = announced(bytes).expect("a header is there");
    if length > CONTENT_BYTES_MAX {
        return Err(Fault::RecordOverflow);
    }
    if length == 0 || handshake.first().is_some_and(|first| *first != CLIENT_HELLO) {
        return Err(Fault::UnexpectedMessage);
    }
    if let &[_, high, middle, low, ..] = handshake
        && u32::from_be_bytes([0, high, middle, low]) as usize > CONTENT_BYTES_MAX
    {
        return Err(Fault::HandshakeTooLarge);
    }
    // What a client of old has; since TLS 1.2 it says no more than that (RFC 8446, 4.1.2).
    if let Some(version) = handshake.get(4..6)
        && length >= 6
        && version < &TLS12[..]
    {
        return Err(Fault::Version);
    }
    Ok(Some(HEADER_BYTES + length))
}

const _: () = assert!(HANDSHAKE_BYTES_MAX > HEADER_BYTES + CONTENT_BYTES_MAX, "a record fits");
