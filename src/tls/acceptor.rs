//! Who a listener is, and whom it lets in: certificates by name, versions, cipher suites, clients' certificates, tickets.
//!
//! Made at start, at a reload, and to check the settings; one for all shards. A reload puts another in its place: handshakes under way end with the
//! one that they began with, and sessions need none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use aws_lc_rs::digest::{self, SHA256};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::certificate::{Facts, Name};
use super::drive::suite_name;
use super::noted::{Noting, note_server_name};
use super::tickets::{ListenersTickets, Tickets};
use super::{Version, files};
use crate::named::named;

named! {
    /// Whether clients show certificates.
    ClientAuth {
        No = "no",
        /// One that is shown is verified.
        IfGiven = "if_given",
        Required = "required",
    }
}

/// What a listener is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Certificate chain and key. The first serves whoever asks for no name that another has.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    pub min_version: Version,
    /// By their names in the standards, the one that is liked most first. Empty: all, AES-128 first.
    pub suites: Vec<String>,
    pub client_auth: ClientAuth,
    /// Whose certificates clients show.
    pub client_ca: Option<PathBuf>,
    /// Secrets that other nodes have too.
    pub ticket_keys: Option<PathBuf>,
    /// Sessions of our own, not rustls's.
    pub is_compact: bool,
}

#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    certificates: Vec<Certificate>,
    is_compact: bool,
}

/// One that the listener shows, for whoever asks what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub file: PathBuf,
    pub subject: String,
    pub names: Vec<Name>,
    /// In seconds since 1970.
    pub not_after: u64,
}

impl Acceptor {
    /// What is wrong is told with the file that it is wrong with, and what to do. `tickets` are changed only if all is well.
    pub fn load(wanted: &Wanted, tickets: &Arc<Tickets>, unix_seconds: u64) -> anyhow::Result<Acceptor> {
        let provider = Arc::new(CryptoProvider { cipher_suites: suites(&wanted.suites)?, ..provider::default_provider() });
        let versions = versions(wanted.min_version, &provider.cipher_suites)?;
        let (verifier, context) = client_auth(wanted, &provider)?;
        let mut certificates = Vec::new();
        let mut chosen = Chosen::default();
        for (cert, key) in &wanted.pairs {
            let (certificate, certified) = pair(cert, key, &provider, unix_seconds)?;
            chosen.add(&certificate.names, Arc::new(certified));
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            bail!("TLS needs a certificate and its key");
        }
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions)?;
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(chosen));
        // What clients like most is often what costs us most, and none of it is weaker.
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(ListenersTickets::new(tickets.clone(), context));
        config.enable_secret_extraction = wanted.is_compact;
        config.max_early_data_size = 0;
        if wanted.is_compact {
            config.key_log = Arc::new(Noting);
        }
        tickets.share(wanted.ticket_keys.as_deref(), unix_seconds)?;
        Ok(Acceptor { config: Arc::new(config), certificates, is_compact: wanted.is_compact })
    }

    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    pub(super) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    pub(super) fn is_compact(&self) -> bool {
        self.is_compact
    }

    /// By rustls's clock, which judges certificates.
    pub(super) fn is_past(&self, unix_seconds: u64) -> bool {
        self.config.time_provider.current_time().is_none_or(|now| now.as_secs() > unix_seconds)
    }

    /// The same with another clock.
    #[cfg(test)]
    pub(super) fn test_at(&self, clock: Arc<dyn rustls::time_provider::TimeProvider>) -> Acceptor {
        let mut config = ServerConfig::clone(&self.config);
        config.time_provider = clock;
        Acceptor { config: Arc::new(config), certificates: self.certificates.clone(), is_compact: self.is_compact }
    }
}

/// AES-128 with SHA-256 first: where there are instructions for both, as on any server, a handshake takes two thirds of what SHA-384 does.
fn suites(names: &[String]) -> anyhow::Result<Vec<SupportedCipherSuite>> {
    let there_are = provider::ALL_CIPHER_SUITES;
    if names.is_empty() {
        let mut suites = there_are.to_vec();
        suites.sort_by_key(|suite| !suite_name(*suite).contains("_AES_128_"));
        // A suite of TLS 1.3 before those of 1.2.
        suites.sort_by_key(|suite| suite.tls13().is_none());
        return Ok(suites);
    }
    let find = |name: &String| {
        let found = there_are.iter().find(|suite| suite_name(**suite) == name);
        let known = || there_are.iter().map(|suite| suite_name(*suite)).collect::<Vec<_>>().join(", ");
        found.copied().with_context(|| format!("there is no cipher suite {name:?}; there are {}", known()))
    };
    names.iter().map(find).collect()
}

/// Those from the lowest on. Each must have a suite, or clients of it would be refused for a reason that nobody sees.
fn versions(lowest: Version, suites: &[SupportedCipherSuite]) -> anyhow::Result<Vec<&'static SupportedProtocolVersion>> {
    let has = |wanted: &SupportedProtocolVersion| suites.iter().any(|suite| suite.version() == wanted);
    match (lowest, has(&TLS12), has(&TLS13)) {
        (Version::Tls12, true, true) => Ok(vec![&TLS13, &TLS12]),
        (Version::Tls12, true, false) => Ok(vec![&TLS12]),
        (_, _, true) => Ok(vec![&TLS13]),
        (Version::Tls13, _, false) => {
            bail!("none of the cipher suites is one of TLS 1.3 (they begin with TLS13_), and nothing lower is allowed")
        }
        (Version::Tls12, false, false) => bail!("there is no cipher suite"),
    }
}

/// The chain and its key, if they belong together and may be shown today.
fn pair(cert: &Path, key: &Path, provider: &CryptoProvider, unix_seconds: u64) -> anyhow::Result<(Certificate, CertifiedKey)> {
    let chain = files::certificates(cert)?;
    let name = cert.display();
    let facts = Facts::read(&chain[0]).with_context(|| format!("the first certificate in {name}"))?;
    if facts.not_after < unix_seconds {
        bail!("the certificate in {name} has expired {}; get a new one", ago(unix_seconds - facts.not_after));
    }
    if facts.not_before > unix_seconds {
        bail!("the certificate in {name} is not valid yet, it begins in {}; is the clock right?", span(facts.not_before - unix_seconds));
    }
    let private = files::private_key(key)?;
    let certified = match CertifiedKey::from_der(chain, private, provider) {
        Ok(certified) => certified,
        Err(Error::InconsistentKeys(_)) => bail!(
            "{} is not the key of the first certificate in {name}; the server's own certificate comes first, then those that vouch for it",
            key.display()
        ),
        Err(reason) => return Err(reason).with_context(|| format!("{} with {name}", key.display())),
    };
    let certificate = Certificate { file: cert.to_owned(), subject: facts.subject, names: facts.names, not_after: facts.not_after };
    Ok((certificate, certified))
}

fn ago(seconds: u64) -> String {
    format!("{} ago", span(seconds))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{seconds} seconds"),
        3600..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// Who verifies clients, and what stands for that in tickets.
fn client_auth(wanted: &Wanted, provider: &Arc<CryptoProvider>) -> anyhow::Result<(Arc<dyn ClientCertVerifier>, Vec<u8>)> {
    let mut context = wanted.client_auth.name().as_bytes().to_vec();
    if wanted.client_auth == ClientAuth::No {
        return Ok((WebPkiClientVerifier::no_client_auth(), context));
    }
    let Some(file) = &wanted.client_ca else {
        bail!("clients' certificates cannot be verified without a file of the CAs that they are from");
    };
    let authorities = files::certificates(file)?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).with_context(|| format!("{}: a certificate in it is none that vouches for others", file.display()))?;
    }
    context.extend_from_slice(digest_of(authorities).as_ref());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if wanted.client_auth == ClientAuth::IfGiven {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build();
    Ok((verifier.with_context(|| format!("{}", file.display()))?, context))
}

/// Of the set: the order in the file means nothing.
fn digest_of(mut authorities: Vec<CertificateDer<'static>>) -> digest::Digest {
    authorities.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
    let mut context = digest::Context::new(&SHA256);
    for authority in &authorities {
        context.update(&(authority.len() as u64).to_be_bytes());
        context.update(authority);
    }
    context.finish()
}

/// Which certificate a client is shown.
#[derive(Debug, Default)]
struct Chosen {
    /// As they were given.
    keys: Vec<Arc<CertifiedKey>>,
    /// For everybody else: the first, and those for the same names.
    others: Vec<usize>,
    names_of_first: Vec<Name>,
    /// In lower case, `*.example.org` as it stands. Several where a name has keys of several kinds.
    by_name: HashMap<String, Vec<usize>>,
}

impl Chosen {
    fn add(&mut self, names: &[Name], key: Arc<CertifiedKey>) {
        for name in names {
            if let Name::Dns(name) = name {
                self.by_name.entry(name.to_ascii_lowercase()).or_default().push(self.keys.len());
            }
        }
        if self.keys.is_empty() {
            self.names_of_first = names.to_vec();
        }
        if names == self.names_of_first {
            self.others.push(self.keys.len());
        }
        self.keys.push(key);
    }

    /// A name itself before a wildcard, which stands for one label.
    fn named(&self, name: &str) -> Option<&[usize]> {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        note_server_name(hello.server_name());
        let named = hello.server_name().and_then(|name| self.named(name)).unwrap_or(&self.others);
        let fits = |at: &&usize| self.keys[**at].key.choose_scheme(hello.signature_schemes()).is_some();
        named.iter().find(fits).or_else(|| named.first()).map(|at| self.keys[*at].clone())
    }
}
