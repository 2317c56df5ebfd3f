//! The handshake and the sessions against rustls's client, in memory, and against OpenSSL.

mod acceptor;
mod files;
mod handshake;
mod hostile;
mod openssl;
mod session;
mod tickets;

use std::io::{IoSlice, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion};

use super::Version;
use super::acceptor::{Acceptor, ClientAuth, Wanted};
use super::drive::suite_name;
use super::fault::Fault;
use super::handshake::{Established, Handshake, Step};
use super::layer::Layer;
use super::session::Opened;
use super::tickets::Tickets;
use files::{Files, now};

/// What a listener with this certificate wants by default.
fn wanted(files: &Files) -> Wanted {
    Wanted {
        pairs: vec![(files.path("server.crt"), files.path("server.key"))],
        min_version: Version::Tls12,
        suites: Vec::new(),
        client_auth: ClientAuth::No,
        client_ca: None,
        ticket_keys: None,
        is_compact: true,
    }
}

fn acceptor(wanted: &Wanted) -> Arc<Acceptor> {
    let tickets = Arc::new(Tickets::new(now()).unwrap());
    Arc::new(Acceptor::load(wanted, &tickets, now()).unwrap())
}

/// A client that believes the files' CA, and speaks only this suite.
fn client_config(files: &Files, suite: SupportedCipherSuite) -> ClientConfig {
    with_certificate(files, suite, None)
}

fn with_certificate(files: &Files, suite: SupportedCipherSuite, own: Option<&str>) -> ClientConfig {
    with_suites(files, vec![suite], suite.version(), own)
}

fn with_suites(
    files: &Files,
    cipher_suites: Vec<SupportedCipherSuite>,
    version: &'static SupportedProtocolVersion,
    own: Option<&str>,
) -> ClientConfig {
    let provider = CryptoProvider { cipher_suites, ..provider::default_provider() };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(files.path("ca.crt")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::pem_file_iter(files.path(&format!("{name}.crt"))).unwrap().map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_file(files.path(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// Every suite that there is; the files' certificate is of ECDSA, so not those of RSA.
fn suites() -> Vec<SupportedCipherSuite> {
    let suites: Vec<_> = provider::ALL_CIPHER_SUITES.iter().copied().filter(|suite| !suite_name(*suite).contains("_RSA_")).collect();
    assert_eq!(suites.len(), 6);
    suites
}

fn first_suite() -> SupportedCipherSuite {
    provider::cipher_suite::TLS13_AES_128_GCM_SHA256
}

fn suite_of_tls12() -> SupportedCipherSuite {
    provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
}

fn connect(config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    ClientConnection::new(config.clone(), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}

/// What a client has to send now.
fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Hands a client what came.
fn give(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        assert!(client.read_tls(&mut bytes).unwrap() > 0);
        client.process_new_packets()?;
    }
    Ok(())
}

/// What a client has read.
fn read(client: &mut ClientConnection) -> Vec<u8> {
    let mut content = Vec::new();
    let _ = client.reader().read_to_end(&mut content);
    content
}

/// Both ends to the end of the handshake; what the client sends at once goes in the segment of its Finished.
fn shake(acceptor: &Arc<Acceptor>, client: &mut ClientConnection) -> Result<Box<Established>, Fault> {
    let mut handshake = Handshake::new(acceptor.clone());
    loop {
        let mut out = Vec::new();
        let input = sent(client);
        let step = handshake.advance(&input, &mut out);
        let told = give(client, &out);
        match step? {
            Step::Done(established) => return Ok(established),
            Step::Wants => assert!(!input.is_empty() && told.is_ok(), "the handshake stands still: {told:?}"),
        }
    }
}

/// All data in these records, which end with one.
fn opened(layer: &mut Layer, bytes: &mut [u8]) -> Result<Vec<u8>, Fault> {
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let input = &mut bytes[at..];
        match layer.open(input)? {
            Opened::Data { content, consumed } => {
                data.extend_from_slice(&input[content]);
                at += consumed;
            }
            Opened::Own { consumed } | Opened::End { consumed } => at += consumed,
            Opened::Partial { .. } => {
                assert!(input.is_empty(), "a record is not whole");
                return Ok(data);
            }
        }
    }
}

/// One record more for `out`; what it owes goes first.
fn seal(layer: &mut Layer, content: &[u8], out: &mut Vec<u8>) {
    if layer.owes() {
        layer.seal_own(out);
    }
    assert_eq!(layer.sealer().seal(&[IoSlice::new(content)], 0, usize::MAX, out), content.len());
}

fn write(client: &mut ClientConnection, content: &[u8]) -> Vec<u8> {
    client.writer().write_all(content).unwrap();
    sent(client)
}

/// Data in both directions.
fn talk(layer: &mut Layer, client: &mut ClientConnection, round: u8) {
    let content = [round; 100];
    assert_eq!(opened(layer, &mut write(client, &content)).unwrap(), content);
    let mut out = Vec::new();
    seal(layer, &content, &mut out);
    give(client, &out).unwrap();
    assert_eq!(read(client), content);
}

fn read_file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
