//! What a certificate (X.509, RFC 5280) says: whose it is, for which names, and from when until when. Whether it is to be believed is rustls's to judge.

use core::net::IpAddr;
use std::fmt;

use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::{DirectoryString, GeneralName};

use crate::limits::tls::IDENTITY_BYTES_MAX;

// RFC 5280, appendix A.1.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const ORGANIZATIONAL_UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");

/// Who is at the other end, as a CA that the listener trusts has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The distinguished name, as RFC 4514 writes it: `CN=device 7,O=Example`. May be empty.
    pub subject: String,
    pub names: Vec<Name>,
    /// The first one; empty: there is none.
    pub common_name: String,
    pub organizational_units: Vec<String>,
    /// In seconds since 1970.
    pub not_after: u64,
}

/// One of the subject's alternative names. Kinds that nobody reads as text are left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    Dns(String),
    Email(String),
    Uri(String),
    Ip(IpAddr),
}

/// As OpenSSL writes them.
impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Dns(name) => write!(out, "DNS:{name}"),
            Name::Email(name) => write!(out, "email:{name}"),
            Name::Uri(name) => write!(out, "URI:{name}"),
            Name::Ip(address) => write!(out, "IP:{address}"),
        }
    }
}

/// Why a certificate is of no use here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is no X.509 certificate: {0}")]
    Der(String),
    #[error("its subject and names are longer than {IDENTITY_BYTES_MAX} bytes")]
    TooLong,
}

/// Whatever is read of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub subject: String,
    pub names: Vec<Name>,
    pub common_name: String,
    pub organizational_units: Vec<String>,
    pub not_before: u64,
    pub not_after: u64,
}

impl Facts {
    pub fn read(der: &[u8]) -> Result<Facts, Unreadable> {
        let error = |reason: x509_cert::der::Error| Unreadable::Der(reason.to_string());
        let certificate = Certificate::from_der(der).map_err(error)?;
        let content = certificate.tbs_certificate();
        let alternative = content.get_extension::<SubjectAltName>().map_err(error)?;
        let names = alternative.map_or_else(Vec::new, |(_, names)| names.0.iter().filter_map(name).collect());
        let all = |kind: ObjectIdentifier| content.subject().iter().filter(move |part| part.oid == kind).filter_map(text);
        Ok(Facts {
            subject: content.subject().to_string(),
            names,
            common_name: all(COMMON_NAME).next().unwrap_or_default(),
            organizational_units: all(ORGANIZATIONAL_UNIT).collect(),
            not_before: content.validity().not_before.to_unix_duration().as_secs(),
            not_after: content.validity().not_after.to_unix_duration().as_secs(),
        })
    }
}

fn text(part: &AttributeTypeAndValue) -> Option<String> {
    DirectoryString::try_from(&part.value).ok().map(String::from)
}

fn name(name: &GeneralName) -> Option<Name> {
    match name {
        GeneralName::DnsName(name) => Some(Name::Dns(name.to_string())),
        GeneralName::Rfc822Name(name) => Some(Name::Email(name.to_string())),
        GeneralName::UniformResourceIdentifier(name) => Some(Name::Uri(name.to_string())),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(Name::Ip)
        }
        GeneralName::OtherName(_) | GeneralName::DirectoryName(_) | GeneralName::EdiPartyName(_) | GeneralName::RegisteredId(_) => None,
    }
}

impl ClientCertificate {
    pub(super) fn read(der: &[u8]) -> Result<ClientCertificate, Unreadable> {
        let Facts { subject, names, common_name, organizational_units, not_after, .. } = Facts::read(der)?;
        let bytes = subject.len() + names.iter().map(|name| name.to_string().len()).sum::<usize>();
        if bytes > IDENTITY_BYTES_MAX {
            return Err(Unreadable::TooLong);
        }
        Ok(ClientCertificate { subject, names, common_name, organizational_units, not_after })
    }
}
