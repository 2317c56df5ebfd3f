//! The certificate of a server that the run starts (`--tls`): a root that is made for the run, and one that it vouches for, on the curve P-256.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The names of a server on this host.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// In files of PEM, which are removed with it.
#[derive(Debug)]
pub struct Certificate {
    directory: PathBuf,
}

impl Certificate {
    pub fn make() -> anyhow::Result<Certificate> {
        let directory = std::env::temp_dir().join(format!("loadgen-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let certificate = Certificate { directory };
        certificate.write().context("no certificate can be made")?;
        Ok(certificate)
    }

    fn write(&self) -> anyhow::Result<()> {
        let (root_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "loadgen");
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_certificate = root.self_signed(&root_key)?;
        let mut params = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "loadgen's server");
        let signed = params.signed_by(&key, &Issuer::new(root, root_key))?;
        std::fs::write(self.ca(), pem("CERTIFICATE", root_certificate.der()))?;
        std::fs::write(self.directory.join("cert.pem"), pem("CERTIFICATE", signed.der()))?;
        std::fs::write(self.directory.join("key.pem"), pem("PRIVATE KEY", key.serialized_der()))?;
        Ok(())
    }

    /// Whom clients have to believe.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    pub fn hand_to(&self, command: &mut Command) {
        let file = |name: &str| Path::join(&self.directory, name);
        command.arg("--tls-cert").arg(file("cert.pem")).arg("--tls-key").arg(file("key.pem"));
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use campanile::client::tls::{Tls, Trust};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    use super::*;

    #[test]
    fn who_believes_the_root_believes_the_server_by_each_of_its_names() {
        let certificate = Certificate::make().unwrap();
        let mut command = Command::new("campanile");
        certificate.hand_to(&mut command);
        let words: Vec<&str> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        let ["--tls-cert", cert, "--tls-key", key] = words[..] else { panic!("{words:?}") };
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
        let config = Arc::new(builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap());
        let trust = Trust { ca: Some(certificate.ca()), ..Trust::default() };
        for name in NAMES {
            let tls = Tls::new(name, &trust).unwrap();
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            let mut client = ClientConnection::new(tls.config, tls.name).unwrap();
            let mut server = ServerConnection::new(config.clone()).unwrap();
            let answering = std::thread::spawn(move || server.complete_io(&mut theirs).map(drop));
            client.complete_io(&mut ours).unwrap();
            answering.join().unwrap().unwrap();
        }
        let directory = certificate.directory.clone();
        drop(certificate);
        assert!(!directory.exists());
    }
}
