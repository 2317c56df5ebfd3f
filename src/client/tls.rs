//! TLS as a client speaks it: who is believed, and what is said of a server that is not. Called by `target` beside it and by whoever else has a URL to dial:
//! `campanile top`, the load generator.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};

use super::stream::SpeaksTls;
use crate::trust::{self, Roots};

/// The one protocol that is spoken above TLS.
pub const ALPN: &[u8] = b"http/1.1";

/// Whom to believe at the other end of a `wss://` or `https://` URL. By default whomever the system's root certificates vouch for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// A file of certificates in PEM, in place of the system's. Also the server's own, which is then believed as it stands.
    pub ca: Option<PathBuf>,
    /// Whoever answers is believed.
    pub is_insecure: bool,
    /// As whom the server is asked for and checked. None: the URL's host.
    pub server_name: Option<String>,
}

impl Trust {
    pub fn roots(&self) -> Roots<'_> {
        match &self.ca {
            _ if self.is_insecure => Roots::Anybody,
            Some(file) => Roots::File(file),
            None => Roots::System,
        }
    }

    /// What a certificate has to be for, and what is asked for where it may be a host.
    ///
    /// # Errors
    /// No certificate could be for it.
    pub fn name(&self, host: &str) -> Result<ServerName<'static>, String> {
        let (name, given) = match &self.server_name {
            Some(name) => (name.as_str(), "--server-name: "),
            None => (host.trim_matches(['[', ']']), ""),
        };
        ServerName::try_from(name.to_owned()).map_err(|_| format!("{given}{name:?} is no name that a certificate could carry"))
    }
}

/// How servers are spoken to over TLS, and one of them by its name. Sessions are kept, and resumed with it.
#[derive(Debug, Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

impl Tls {
    /// # Errors
    /// A file that cannot be read, no certificates, or a name that can be nobody's.
    pub fn new(host: &str, trust: &Trust) -> Result<Tls, String> {
        let name = trust.name(host)?;
        let builder = trust::builder(trust.roots(), "--ca FILE", Arc::new(aws_lc_rs::default_provider()));
        let mut config = builder.map_err(|error| format!("{error:#}"))?.with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Tls { config: Arc::new(config), name })
    }
}

/// What is wrong with a server that cannot be spoken to, and what to do about it, to stand behind its URL. None: with the way to it, which may be another
/// next time.
pub fn complaint(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?;
    if error.is::<SpeaksTls>() {
        return Some("speaks TLS there: give its URL by wss:// (https://)".to_owned());
    }
    let error = error.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => {
                "shows a certificate that nobody vouches for who is trusted here: give its CA's by --ca FILE".to_owned()
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names = match &presented[..] {
                    [] => "no name at all".to_owned(),
                    // As webpki writes them, with what they are of.
                    names => names.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", "),
                };
                format!(
                    "shows a certificate for {names}, and not for {}: give the URL by such a name, or say by --server-name which is meant",
                    expected.to_str()
                )
            }
            CertificateError::NotValidForName => "shows a certificate for another name: --server-name says which is meant".to_owned(),
            CertificateError::Expired => "shows a certificate that has expired: let it be renewed".to_owned(),
            CertificateError::ExpiredContext { time, not_after } => {
                let days = time.as_secs().saturating_sub(not_after.as_secs()) / 86_400;
                let ago = if days == 0 { "today".to_owned() } else { format!("{days} days ago") };
                format!("shows a certificate that has expired ({ago}): let it be renewed, or the clock of this host be set right")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "shows a certificate that is not valid yet: is the clock of this host right?".to_owned()
            }
            other => format!("shows a certificate that is not good: {other}"),
        },
        Error::InvalidMessage(_) => "does not speak TLS there: is it ws:// (http://), in the clear?".to_owned(),
        Error::PeerIncompatible(why) => format!("has no version or cipher suite of TLS in common with this client: {why:?}"),
        Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
            "has no version or cipher suite of TLS in common with this client, which speaks 1.2 and 1.3".to_owned()
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "has no certificate for that name: say by --server-name which is meant".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "asks its clients for certificates, and this one has none".to_owned()
        }
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => "does not speak HTTP/1.1 over TLS".to_owned(),
        // It may be another time, or only this connection.
        Error::AlertReceived(_) => return None,
        other => format!("cannot be spoken to over TLS: {other}"),
    })
}

/// `DnsName("a.example")`, `IpAddress(127.0.0.1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;
    use rustls::pki_types::UnixTime;

    use super::*;

    #[test]
    fn a_complaint_says_what_to_do() {
        let day = |number: u64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(number * 86_400));
        let expected = ServerName::try_from("a.example").unwrap();
        let certificate = Error::InvalidCertificate;
        for (error, parts) in [
            (certificate(CertificateError::UnknownIssuer), &["--ca FILE"][..]),
            (
                certificate(CertificateError::NotValidForNameContext {
                    expected: expected.clone(),
                    presented: vec!["DnsName(\"b.example\")".to_owned(), "IpAddress(127.0.0.1)".to_owned()],
                }),
                &["for b.example, 127.0.0.1, and not for a.example", "--server-name"],
            ),
            (certificate(CertificateError::NotValidForNameContext { expected, presented: Vec::new() }), &["for no name at all"]),
            (certificate(CertificateError::ExpiredContext { time: day(9), not_after: day(7) }), &["has expired (2 days ago)"]),
            (certificate(CertificateError::ExpiredContext { time: day(9), not_after: day(9) }), &["has expired (today)"]),
            (certificate(CertificateError::NotValidYet), &["the clock"]),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), &["does not speak TLS", "ws://"]),
            (Error::AlertReceived(AlertDescription::UnrecognisedName), &["--server-name"]),
        ] {
            let complaint = complaint(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap();
            assert!(parts.iter().all(|part| complaint.contains(part)), "{complaint}");
        }
        assert_eq!(complaint(&io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(AlertDescription::InternalError))), None);
        assert_eq!(complaint(&io::ErrorKind::ConnectionReset.into()), None);
    }

    #[test]
    fn a_name_is_the_hosts_or_another() {
        let named = |host: &str, other: Option<&str>| {
            Trust { server_name: other.map(str::to_owned), ..Trust::default() }.name(host).map(|name| name.to_str().into_owned())
        };
        assert_eq!(named("a.example", None).unwrap(), "a.example");
        assert_eq!(named("[::1]", None).unwrap(), "::1");
        assert_eq!(named("127.0.0.1", Some("a.example")).unwrap(), "a.example");
        assert!(named("a example", None).unwrap_err().contains("no name that a certificate could carry"));
        assert!(named("a.example", Some("")).unwrap_err().contains("--server-name"));
    }
}
