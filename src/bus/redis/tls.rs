//! Whom a TLS connection to Redis believes, and as whom it shows itself: files of certificates, read once, at start.
//!
//! `redis_ca` takes the place of the system's root certificates. A certificate in it that the server shows as its own is believed as it stands, whatever it says
//! of itself and of its name: that is how a self-signed one is pinned (as a root, rustls refuses one that says that it is a CA, which is what
//! `openssl req -x509` makes).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::RedisTls;

/// `is_insecure`: whoever answers is believed (`#insecure`).
pub fn client_config(files: &RedisTls, is_insecure: bool) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if is_insecure {
        Arc::new(Believing { provider: provider.clone(), pinned: None })
    } else {
        let (roots, pinned) = roots(files.ca.as_deref())?;
        let web_pki =
            (!roots.is_empty()).then(|| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()).transpose();
        // Certificates that are no roots are good as pins alone.
        let web_pki = web_pki.context("the root certificates for the Redis server")?;
        Arc::new(Believing { provider: provider.clone(), pinned: Some((pinned, web_pki)) })
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("redis_key: no private key can be read from {}", key.display()))?;
            let own = builder.with_client_auth_cert(certificates(cert, "redis_cert")?, private);
            own.with_context(|| format!("redis_cert and redis_key: {} is not the key of {}", key.display(), cert.display()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Those of the file, and all in it as they stand; or the system's.
fn roots(file: Option<&Path>) -> anyhow::Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        let found = certificates(file, "redis_ca")?;
        roots.add_parsable_certificates(found.iter().cloned());
        return Ok((roots, found));
    }
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let error = found.errors.first().map_or_else(|| anyhow::anyhow!("none were found"), |error| anyhow::anyhow!("{error}"));
        return Err(error).context(
            "no root certificates to check the Redis server against; install the system's ca-certificates, set SSL_CERT_FILE to a PEM file, or redis_ca",
        );
    }
    Ok((roots, Vec::new()))
}

fn certificates(file: &Path, setting: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
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
