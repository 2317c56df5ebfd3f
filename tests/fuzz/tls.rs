//! What comes on a TLS listener: ClientHellos, changed; and records of a client, changed, left out, in another order.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use campanile::limits::tls::HANDSHAKE_BYTES_MAX;
use campanile::tls::Version;
use campanile::tls::acceptor::{Acceptor, ClientAuth, Wanted};
use campanile::tls::fault::Fault;
use campanile::tls::handshake::{Established, Handshake, Step};
use campanile::tls::initiator::{Initiator, prepare};
use campanile::tls::session::Opened;
use campanile::tls::tickets::Tickets;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::mutate::mutated;

/// A listener, and clients of each version that believe it.
struct Ends {
    acceptor: Arc<Acceptor>,
    clients: [Arc<ClientConfig>; 2],
}

fn ends(test: &str) -> AssertUnwindSafe<Ends> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]);
    openssl.args([
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        "key",
        "-out",
        "cert",
    ]);
    let status = openssl.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("openssl is needed; scripts/test installs it").success());
    let (cert, key) = (folder.join("cert"), folder.join("key"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&cert).unwrap()).unwrap();
    let wanted = Wanted {
        pairs: vec![(cert, key)],
        min_version: Version::Tls12,
        suites: Vec::new(),
        client_auth: ClientAuth::No,
        client_ca: None,
        ticket_keys: None,
        is_compact: true,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let acceptor = Acceptor::load(&wanted, &Arc::new(Tickets::new(now).unwrap()), now).unwrap();
    let client = |version: &'static SupportedProtocolVersion| {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
        prepare(&mut config);
        Arc::new(config)
    };
    let clients = [client(&rustls::version::TLS13), client(&rustls::version::TLS12)];
    AssertUnwindSafe(Ends { acceptor: Arc::new(acceptor), clients })
}

fn initiator(config: &Arc<ClientConfig>) -> (Initiator, Vec<u8>) {
    let mut initiator = Initiator::new(config.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    assert!(initiator.advance(&[], &mut hello).unwrap().is_none());
    (initiator, hello)
}

#[test]
fn client_hellos() {
    let ends = ends("fuzz-client-hellos");
    let seeds = ends.clients.iter().map(|config| initiator(config).1);
    let words: &[&[u8]] = &[
        b"\x16\x03\x01",
        b"\x03\x03",
        b"\x13\x01",
        b"\0\x2B\0\x03\x02",
        b"\0\x33",
        b"\0\x10\0\x05\0\x03\x02h2",
        b"\0\x29",
        b"\x15\x03\x03\0\x02\x02\x28",
    ];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|bytes: &Vec<u8>| {
        let ends: &Ends = &ends;
        let outcome = |split: usize| -> Result<bool, Fault> {
            let mut handshake = Handshake::new(ends.acceptor.clone());
            let mut out = Vec::new();
            let mut step = Ok(false);
            for part in [&bytes[..split], &bytes[split..]] {
                let may_begin = handshake.has_begun() || handshake.is_ready(part);
                step = handshake.advance(part, &mut out).map(|step| matches!(step, Step::Done(_)));
                if step.is_err() {
                    break;
                }
                assert!(may_begin || !handshake.has_begun(), "it costs nothing before it is ready");
                assert!(handshake.buffer_bytes() <= 4 * HANDSHAKE_BYTES_MAX);
            }
            step
        };
        let whole = outcome(bytes.len());
        assert_ne!(whole, Ok(true), "nobody is let in by one flight");
        for split in [1, 5, 9, bytes.len() / 2, bytes.len().saturating_sub(1)] {
            assert_eq!(outcome(split.min(bytes.len())), whole, "split at {split}");
        }
    });
}

/// Both ends, and the records of some data.
fn established(ends: &Ends, config: &Arc<ClientConfig>) -> (Box<Established>, Vec<Vec<u8>>) {
    let (mut initiator, mut to_server) = initiator(config);
    let mut handshake = Handshake::new(ends.acceptor.clone());
    let mut initiated = None;
    loop {
        let mut to_client = Vec::new();
        let step = handshake.advance(&std::mem::take(&mut to_server), &mut to_client).unwrap();
        if initiated.is_none() {
            initiated = initiator.advance(&to_client, &mut to_server).unwrap();
        }
        if let (Step::Done(established), Some(initiated)) = (step, &mut initiated) {
            let records = (0..4).map(|record: u8| {
                let mut out = Vec::new();
                let content = [record; 50];
                initiated.session.sealer().seal(&[std::io::IoSlice::new(&content)], 0, usize::MAX, &mut out);
                out
            });
            return (established, records.collect());
        }
    }
}

#[test]
fn records() {
    let ends = ends("fuzz-records");
    bolero::check!().with_type::<(bool, Vec<(u8, u8, u8)>)>().for_each(|(is_tls13, changes)| {
        let ends: &Ends = &ends;
        let (mut established, records) = established(ends, &ends.clients[usize::from(!is_tls13)]);
        let mut bytes = records.concat();
        for (kind, at, value) in changes {
            let at = usize::from(*at) * bytes.len() / 256;
            match kind % 5 {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..bytes.len().min(at + usize::from(*value)))),
                2 => bytes.insert(at, *value),
                3 if at < bytes.len() => bytes[at] ^= value,
                _ => bytes.extend_from_within(at..),
            }
        }
        // Whatever became of them: what is read is the beginning of what was sent, and each record once.
        let mut at = 0;
        for record in 0.. {
            match established.layer.open(&mut bytes[at..]) {
                Ok(Opened::Data { content, consumed }) => {
                    assert!(record < 4);
                    assert_eq!(bytes[at..][content], [record as u8; 50]);
                    at += consumed;
                }
                Ok(Opened::Own { .. } | Opened::End { .. }) => panic!("none was sent"),
                Ok(Opened::Partial { needs }) => {
                    assert!(needs.is_none_or(|needs| needs > bytes.len() - at));
                    break;
                }
                Err(fault) => {
                    assert!(matches!(fault, Fault::BadRecordMac | Fault::UnexpectedMessage | Fault::RecordOverflow), "{fault}");
                    break;
                }
            }
        }
    });
}
