//! Why a TLS session ends otherwise than by close_notify or the end of the stream, each with its name in the metrics and the alert that the peer
//! is sent (RFC 8446, 6).

use rustls::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use crate::named::named;

macro_rules! faults {
    ($($(#[$meta:meta])* $variant:ident = $name:literal, $alert:expr;)*) => {
        named! {
            /// What a peer did, or could not do.
            Fault { $($(#[$meta])* $variant = $name,)* }
        }

        impl Fault {
            /// The alert that tells the peer so; None: there is nothing to tell, or nobody who would understand it. A handshake that rustls refuses says
            /// more precisely why.
            pub const fn alert(self) -> Option<u8> {
                match self { $(Fault::$variant => $alert,)* }
            }
        }
    };
}

pub(super) const CLOSE_NOTIFY: u8 = 0;
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const HANDSHAKE_FAILURE: u8 = 40;
const BAD_CERTIFICATE: u8 = 42;
pub(super) const CERTIFICATE_EXPIRED: u8 = 45;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
const INTERNAL_ERROR: u8 = 80;
pub(super) const USER_CANCELED: u8 = 90;
pub(super) const NO_RENEGOTIATION: u8 = 100;
const NO_APPLICATION_PROTOCOL: u8 = 120;

faults! {
    /// The first byte does not begin a handshake: plain HTTP, another protocol, SSLv2.
    NotTls = "not_tls", None;
    /// SSLv3 to TLS 1.1, or a version that this listener does not speak.
    Version = "version", Some(PROTOCOL_VERSION);
    /// No cipher suite, group or signature that both know.
    NoSharedSuite = "no_shared_suite", Some(HANDSHAKE_FAILURE);
    /// The client speaks none of our protocols, by ALPN (RFC 7301, 3.2).
    NoSharedProtocol = "no_shared_protocol", Some(NO_APPLICATION_PROTOCOL);
    /// The client's certificate is missing, expired, of another CA, or cannot be read.
    ClientCertificate = "client_certificate", Some(BAD_CERTIFICATE);
    /// Whatever else makes a handshake fail.
    Handshake = "handshake", Some(HANDSHAKE_FAILURE);
    /// More than a handshake needs.
    HandshakeTooLarge = "handshake_too_large", Some(DECODE_ERROR);
    /// It was altered, repeated, or sealed with other keys.
    BadRecordMac = "bad_record_mac", Some(BAD_RECORD_MAC);
    RecordOverflow = "record_overflow", Some(RECORD_OVERFLOW);
    UnexpectedMessage = "unexpected_message", Some(UNEXPECTED_MESSAGE);
    DecodeError = "decode_error", Some(DECODE_ERROR);
    IllegalParameter = "illegal_parameter", Some(ILLEGAL_PARAMETER);
    /// KeyUpdates without data between them.
    KeyUpdateFlood = "key_update_flood", Some(UNEXPECTED_MESSAGE);
    WarningFlood = "warning_flood", Some(UNEXPECTED_MESSAGE);
    /// Records without content.
    EmptyFlood = "empty_flood", Some(UNEXPECTED_MESSAGE);
    /// It was told that there is no renegotiation, and tried again.
    Renegotiation = "renegotiation", Some(HANDSHAKE_FAILURE);
    /// The peer ended the session by an alert of its own.
    PeerAlert = "peer_alert", None;
    /// TLS 1.2 has no other keys to go on with ([`super::session::Session::is_exhausted`]).
    Exhausted = "exhausted", Some(CLOSE_NOTIFY);
    /// Ours, not the peer's.
    Internal = "internal", Some(INTERNAL_ERROR);
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

impl Fault {
    /// Under which name rustls's reason is counted.
    pub(super) fn of_rustls(error: &Error) -> Fault {
        match error {
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => Fault::UnexpectedMessage,
            Error::InvalidMessage(invalid) => match invalid {
                InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::CertificatePayloadTooLarge => Fault::HandshakeTooLarge,
                InvalidMessage::MessageTooLarge => Fault::RecordOverflow,
                _ => Fault::DecodeError,
            },
            Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Fault::ClientCertificate,
            Error::DecryptError => Fault::BadRecordMac,
            Error::PeerIncompatible(incompatible) => match incompatible {
                PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled => Fault::Version,
                PeerIncompatible::NoCipherSuitesInCommon
                | PeerIncompatible::NoKxGroupsInCommon
                | PeerIncompatible::NoSignatureSchemesInCommon => Fault::NoSharedSuite,
                _ => Fault::Handshake,
            },
            Error::PeerMisbehaved(misbehaved) => match misbehaved {
                PeerMisbehaved::TooManyKeyUpdateRequests => Fault::KeyUpdateFlood,
                PeerMisbehaved::TooManyWarningAlertsReceived => Fault::WarningFlood,
                PeerMisbehaved::TooManyEmptyFragments => Fault::EmptyFlood,
                PeerMisbehaved::TooManyRenegotiationRequests => Fault::Renegotiation,
                PeerMisbehaved::IllegalMiddleboxChangeCipherSpec
                | PeerMisbehaved::KeyEpochWithPendingFragment
                | PeerMisbehaved::MessageInterleavedWithHandshakeMessage => Fault::UnexpectedMessage,
                _ => Fault::IllegalParameter,
            },
            Error::AlertReceived(_) => Fault::PeerAlert,
            Error::PeerSentOversizedRecord => Fault::RecordOverflow,
            Error::NoApplicationProtocol => Fault::NoSharedProtocol,
            _ => Fault::Handshake,
        }
    }
}
