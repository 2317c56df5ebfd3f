//! Whom a TLS connection to Redis believes ([`crate::trust`]), and as whom it shows itself: files of certificates, read once, at start.

use std::sync::Arc;

use anyhow::Context;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::config::RedisTls;
use crate::trust::{self, Roots};

/// `is_insecure`: whoever answers is believed (`#insecure`).
pub fn client_config(files: &RedisTls, is_insecure: bool) -> anyhow::Result<Arc<ClientConfig>> {
    let roots = match &files.ca {
        _ if is_insecure => Roots::Anybody,
        Some(path) => Roots::File(path),
        None => Roots::System,
    };
    let builder = trust::builder(roots, "redis_ca", Arc::new(aws_lc_rs::default_provider()))?;
    let config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("redis_key: no private key can be read from {}", key.display()))?;
            let own = builder.with_client_auth_cert(trust::certificates(cert, "redis_cert")?, private);
            own.with_context(|| format!("redis_cert and redis_key: {} is not the key of {}", key.display(), cert.display()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}
