//! Whom a TLS connection of ours believes, by files of certificates that are read once. Called by [`crate::client`], by the links to Redis, and by the load
//! generator.
//!
//! A file of roots takes the place of the system's. A certificate in it that the server shows as its own is believed as it stands, whatever it says of
//! itself and of its name: that is how a self-signed one is pinned (as a root, rustls refuses one that says that it is a CA, which is what
//! `openssl req -x509` makes).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whose certificates are believed.
#[derive(Debug, Clone, Copy)]
pub enum Roots<'a> {
    System,
    File(&'a Path),
    /// Whoever answers is believed.
    Anybody,
}

/// `setting`: what names a file of roots.
pub fn builder(
    roots: Roots<'_>,
    setting: &str,
    provider: Arc<CryptoProvider>,
) -> anyhow::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let pinned = match roots {
        Roots::Anybody => None,
        Roots::System | Roots::File(_) => {
            let (roots, pinned) = read(roots, setting)?;
            let web_pki = (!roots.is_empty())
                .then(|| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build())
                .transpose();
            // Certificates that are no roots are good as pins alone.
            Some((pinned, web_pki.context("the root certificates")?))
        }
    };
    let verifier = Arc::new(Believing { provider: provider.clone(), pinned });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// Those of the file, and all in it as they stand; or the system's.
fn read(roots: Roots<'_>, setting: &str) -> anyhow::Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let mut store = RootCertStore::empty();
    if let Roots::File(file) = roots {
        let found = certificates(file, setting)?;
        store.add_parsable_certificates(found.iter().cloned());
        return Ok((store, found));
    }
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = store.add_parsable_certificates(found.certs);
    if usable == 0 {
        let error = found.errors.first().map_or_else(|| anyhow::anyhow!("none were found"), |error| anyhow::anyhow!("{error}"));
        return Err(error).context(format!(
            "no root certificates to check the server against; install the system's ca-certificates, set SSL_CERT_FILE to a PEM file, or {setting}"
        ));
    }
    Ok((store, Vec::new()))
}

/// All in a PEM file, of which there must be one.
pub fn certificates(file: &Path, setting: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| format!("{setting}: {} cannot be read as PEM", file.display()))?;
    if found.is_empty() {
        bail!("{setting}: there is no certificate in {} (a PEM file with BEGIN CERTIFICATE is expected)", file.display());
    }
    Ok(found)
}

/// Signatures are always checked, or the handshake itself would mean nothing.
#[derive(Debug)]
struct Believing {
    provider: Arc<CryptoProvider>,
    /// Certificates that are believed as they stand, and who vouches for others. None: everybody is believed.
    pinned: Option<(Vec<CertificateDer<'static>>, Option<Arc<WebPkiServerVerifier>>)>,
}
impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.pinned {
            None => Ok(ServerCertVerified::assertion()),
            Some((pinned, _)) if pinned.contains(end_entity) => Ok(ServerCertVerified::assertion()),
            Some((_, Some(web_pki))) => web_pki.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            Some((_, None)) => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
