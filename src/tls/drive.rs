//! Takes rustls through a handshake, one record at a time, and makes a compact session of the outcome: what [`super::handshake`] and [`super::initiator`] share.
//!
//! Never more than one record: what stands behind Finished in the same segment must stay ciphertext for the session. Given all at once, rustls would
//! open data that the conversion does not hand over, or answer a KeyUpdate and forget the answer.

use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};
use rustls::{CommonState, ConnectionTrafficSecrets, Error, ExtractedSecrets, ProtocolVersion, SupportedCipherSuite};

use super::Version;
use super::fault::Fault;
use super::keys::{Aead, Suite};
use super::noted::Noted;
use super::record::{self, HEADER_BYTES, RECORD_BYTES_MAX};
use super::session::{Origin, Session, Side};
use crate::limits::tls::{HANDSHAKE_BYTES_MAX, HANDSHAKE_RECORDS_MAX};

/// Either end of rustls.
pub(super) trait Connection {
    type Data;
    const SIDE: Side;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn into_parts(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error>;
}

impl Connection for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    const SIDE: Side = Side::Server;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_parts(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    const SIDE: Side = Side::Client;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_parts(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

/// What has come and rustls has not taken, and what it has told in passing.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub bytes: Vec<u8>,
    /// How much of it rustls may see: records that belong to a message in parts, and the one that is next.
    shown: usize,
    /// How many it has been shown: each costs it a look at all that waits.
    records: u8,
    pub noted: Noted,
}

impl Received {
    /// Goes on as far as there are records; whether the handshake is done.
    pub fn advance<C: Connection>(&mut self, connection: &mut C, out: &mut Vec<u8>) -> Result<bool, Fault> {
        loop {
            let UnbufferedStatus { discard, state, .. } = connection.process(&mut self.bytes[..self.shown]);
            self.noted.take();
            let next = match state {
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, out);
                    Next::Again
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Next::Again
                }
                Ok(ConnectionState::BlockedHandshake) => Next::Blocked,
                Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Next::Failed(Fault::PeerAlert),
                // Neither early data nor data comes before the handshake is done, as no record is shown that could hold them.
                Ok(_) => Next::Failed(Fault::UnexpectedMessage),
                Err(error) => Next::Failed(Fault::of_rustls(&error)),
            };
            self.bytes.drain(..discard);
            self.shown -= discard;
            match next {
                Next::Again => {}
                Next::Blocked if !self.show_next()? => return Ok(false),
                Next::Blocked => {}
                // A part of a message of the old keys.
                Next::Done if self.shown > 0 => return Err(Fault::UnexpectedMessage),
                Next::Done => return Ok(true),
                Next::Failed(fault) => {
                    self.encode_rest(connection, out);
                    return Err(fault);
                }
            }
        }
    }

    /// Shows rustls one record more; false: it is not there.
    fn show_next(&mut self) -> Result<bool, Fault> {
        let bytes = match record::announced(&self.bytes[self.shown..]) {
            // It says itself what is wrong with such a header.
            Some(length) if HEADER_BYTES + length > RECORD_BYTES_MAX => HEADER_BYTES,
            Some(length) if self.bytes.len() >= self.shown + HEADER_BYTES + length => HEADER_BYTES + length,
            _ if self.bytes.len() > HANDSHAKE_BYTES_MAX => return Err(Fault::HandshakeTooLarge),
            _ => return Ok(false),
        };
        self.records += 1;
        if self.records > HANDSHAKE_RECORDS_MAX {
            return Err(Fault::HandshakeTooLarge);
        }
        self.shown += bytes;
        Ok(true)
    }

    /// The alert, after an error. It is not asked for more than there is: it would judge the same bytes again.
    fn encode_rest<C: Connection>(&mut self, connection: &mut C, out: &mut Vec<u8>) {
        while connection.common().wants_write() {
            match connection.process(&mut self.bytes[..self.shown]).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                _ => break,
            }
        }
    }
}

enum Next {
    Again,
    Blocked,
    Done,
    Failed(Fault),
}

/// Puts a record of rustls's behind `out`.
pub(super) fn encode<Data>(mut data: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) {
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut []) {
        let at = out.len();
        out.resize(at + required_size, 0);
        data.encode(&mut out[at..]).expect("there is the room that it asked for");
    }
}

/// The version that was agreed on.
pub(super) fn version_of(common: &CommonState) -> Result<Version, Fault> {
    match common.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => Ok(Version::Tls13),
        Some(ProtocolVersion::TLSv1_2) => Ok(Version::Tls12),
        _ => Err(Fault::Internal),
    }
}

/// Its name, as the standard has it.
pub(super) fn suite_name(suite: SupportedCipherSuite) -> &'static str {
    suite.suite().as_str().unwrap_or("unknown")
}

/// What goes on without rustls, whose keys must be those that come from the secrets it told; and what rustls would go on with.
pub(super) fn session<C: Connection>(connection: C, noted: &Noted) -> Result<(Session, KernelConnection<C::Data>), Fault> {
    let version = version_of(connection.common())?;
    let (secrets, kernel) = connection.into_parts().map_err(|_| Fault::Internal)?;
    let (aead, read) = parts(&secrets.rx.1)?;
    let (_, write) = parts(&secrets.tx.1)?;
    let suite = Suite { version, aead };
    let fixed = |(key, iv)| Origin::Fixed { key, iv };
    let (read_from, write_from) = match (version, C::SIDE) {
        (Version::Tls12, _) => (fixed(read), fixed(write)),
        (Version::Tls13, side) => {
            let (of_client, of_server) = noted.of_client().zip(noted.of_server()).ok_or(Fault::Internal)?;
            match side {
                Side::Server => (Origin::Secret(of_client), Origin::Secret(of_server)),
                Side::Client => (Origin::Secret(of_server), Origin::Secret(of_client)),
            }
        }
    };
    let session = Session::new(C::SIDE, suite, (secrets.rx.0, read_from), (secrets.tx.0, write_from));
    if session.has_keys(read, write) { Ok((session, kernel)) } else { Err(Fault::Internal) }
}

type KeyAndIv<'a> = (&'a [u8], &'a [u8]);

fn parts(secrets: &ConnectionTrafficSecrets) -> Result<(Aead, KeyAndIv<'_>), Fault> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => Ok((Aead::Aes128Gcm, (key.as_ref(), iv.as_ref()))),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => Ok((Aead::Aes256Gcm, (key.as_ref(), iv.as_ref()))),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((Aead::Chacha20Poly1305, (key.as_ref(), iv.as_ref()))),
        _ => Err(Fault::Internal),
    }
}
