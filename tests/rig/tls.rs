//! TLS between a simulated client and the shard: the client's end, and a certificate that nobody else believes.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

use campanile::config::{Settings, tls::tickets};
use campanile::tls::acceptor::Acceptor;
use campanile::tls::initiator::{self, Initiator};
use campanile::tls::session::{Opened, Session};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// Of Ed25519, whose signatures are all of one length, so that a seed is the same run each time; good for a hundred years.
const CERTIFICATE: &str = include_str!("tls.crt");
const KEY: &str = include_str!("tls.key");
const NAME: &str = "sim";

/// One for all shards.
pub fn acceptor() -> Arc<Acceptor> {
    static ACCEPTOR: OnceLock<Arc<Acceptor>> = OnceLock::new();
    let make = || {
        let folder = std::env::temp_dir().join(format!("campanile-sim-tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = [("crt", CERTIFICATE), ("key", KEY)].map(|(name, text)| {
            let file = folder.join(name);
            std::fs::write(&file, text).unwrap();
            file
        });
        let [cert, key] = files;
        let settings = Settings::default().with(|settings| (settings.tls.certs, settings.tls.keys) = (vec![cert], vec![key]));
        let acceptor = settings.tls.acceptor(&tickets().unwrap()).unwrap().unwrap();
        let _ = std::fs::remove_dir_all(&folder);
        acceptor
    };
    ACCEPTOR.get_or_init(make).clone()
}

fn client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        initiator::prepare(&mut config);
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}

/// A client's end.
#[derive(Debug)]
pub struct Tls {
    /// Until it is done.
    initiator: Option<Initiator>,
    session: Option<Session>,
    came: Vec<u8>,
    /// To be said when the handshake is done.
    waits: Vec<u8>,
    /// The server has said close_notify.
    pub has_ended: bool,
    /// The client has said what is no TLS, and will be told so.
    pub is_broken: bool,
}

impl Tls {
    /// Its first words go out.
    pub fn new(to_server: &mut VecDeque<u8>) -> Tls {
        let mut initiator = Initiator::new(client_config(), ServerName::try_from(NAME).unwrap()).unwrap();
        let mut hello = Vec::new();
        assert!(initiator.advance(&[], &mut hello).unwrap().is_none());
        to_server.extend(hello);
        Tls { initiator: Some(initiator), session: None, came: Vec::new(), waits: Vec::new(), has_ended: false, is_broken: false }
    }

    pub fn send(&mut self, bytes: &[u8], to_server: &mut VecDeque<u8>) {
        let Some(session) = &mut self.session else { return self.waits.extend(bytes) };
        let mut sealed = Vec::new();
        let mut sealer = session.sealer();
        let mut at = 0;
        while at < bytes.len() {
            at += sealer.seal(&[IoSlice::new(bytes)], at, 16_384, &mut sealed);
        }
        to_server.extend(sealed);
    }

    /// What the server has sent: its contents go on, and what they ask of this end is answered.
    /// Whoever came by a proxy may be refused before.
    pub fn receive(&mut self, bytes: &[u8], may_be_refused: bool, content: &mut VecDeque<u8>, to_server: &mut VecDeque<u8>) {
        if let Some(initiator) = &mut self.initiator {
            let mut out = Vec::new();
            let initiated = match initiator.advance(bytes, &mut out) {
                Ok(initiated) => initiated,
                Err(fault) => {
                    assert!(may_be_refused, "the server shakes hands as it should: {fault}");
                    self.initiator = None;
                    return;
                }
            };
            to_server.extend(out);
            let Some(initiated) = initiated else { return };
            (self.initiator, self.session, self.came) = (None, Some(initiated.session), initiated.rest);
            let waits = std::mem::take(&mut self.waits);
            self.send(&waits, to_server);
        } else {
            self.came.extend(bytes);
        }
        let Some(session) = &mut self.session else { return };
        loop {
            assert!(!self.has_ended || self.came.is_empty(), "nothing follows close_notify");
            let opened = match session.open(&mut self.came) {
                Ok(opened) => opened,
                Err(fault) => {
                    assert!(self.is_broken, "what the server seals can be opened: {fault}");
                    self.session = None;
                    return;
                }
            };
            match opened {
                Opened::Partial { .. } => break,
                Opened::Data { content: place, consumed } => {
                    content.extend(&self.came[place]);
                    self.came.drain(..consumed);
                }
                Opened::Own { consumed } => drop(self.came.drain(..consumed)),
                Opened::End { consumed } => {
                    self.has_ended = true;
                    self.came.drain(..consumed);
                }
            }
        }
        if session.owes() {
            let mut own = Vec::new();
            session.seal_own(&mut own);
            to_server.extend(own);
        }
    }
}
