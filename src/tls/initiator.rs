//! A client's side of the handshake, which comes to the same session: for the load generator, which holds tens of thousands of them.
//!
//! Tickets of TLS 1.3 come after it: whoever wants to resume by one keeps [`Tickets`] until it is there, others drop it.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};

use super::Version;
use super::drive::{Received, session, suite_name, version_of};
use super::fault::Fault;
use super::noted::Noting;
use super::session::Session;

pub struct Initiator {
    received: Received,
    tls: Option<Box<UnbufferedClientConnection>>,
}

/// What a handshake came to.
#[derive(Debug)]
pub struct Initiated {
    pub session: Session,
    pub tickets: Tickets,
    pub version: Version,
    /// As the standard calls it.
    pub suite: &'static str,
    pub is_resumed: bool,
    /// What came behind the handshake, still sealed.
    pub rest: Vec<u8>,
}

/// Where a server's tickets go (`Session::open_for`), so that the next connection of the same configuration resumes. Some 700 bytes.
pub struct Tickets(KernelConnection<ClientConnectionData>);

impl Tickets {
    /// Keeps one for the next connection.
    pub fn take(&mut self, ticket: &[u8]) -> Result<(), rustls::Error> {
        self.0.handle_new_session_ticket(ticket)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Tickets")
    }
}

/// Lets connections of this configuration be taken over when their handshake is done.
pub fn prepare(config: &mut ClientConfig) {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Noting);
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Initiator").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Initiator {
    /// `config` is prepared.
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Initiator, rustls::Error> {
        Ok(Initiator { received: Received::default(), tls: Some(Box::new(UnbufferedClientConnection::new(config, name)?)) })
    }

    /// Takes all of `input`, which is empty the first time. What is to be sent is appended to `out`. None: more must come.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<Box<Initiated>>, Fault> {
        self.received.bytes.extend_from_slice(input);
        let tls = self.tls.as_mut().ok_or(Fault::Internal)?;
        if !self.received.advance(&mut **tls, out)? {
            return Ok(None);
        }
        let tls = self.tls.take().expect("the handshake is done");
        let version = version_of(&tls)?;
        let suite = suite_name(tls.negotiated_cipher_suite().ok_or(Fault::Internal)?);
        let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let (session, kernel) = session(*tls, &self.received.noted)?;
        let tickets = Tickets(kernel);
        Ok(Some(Box::new(Initiated { session, tickets, version, suite, is_resumed, rest: std::mem::take(&mut self.received.bytes) })))
    }
}
