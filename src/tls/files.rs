//! Files of certificates and keys: read with a bound, and what is wrong with one is told with its name.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, bail};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::limits::tls::FILE_BYTES_MAX;

pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Bounded while it is read: a device has no length.
    let opened = std::fs::File::open(file).and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    opened.with_context(|| format!("{} cannot be read", file.display()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!("{} is larger than {FILE_BYTES_MAX} bytes", file.display());
    }
    Ok(bytes)
}

/// In the order in which they stand there; one at least.
pub(super) fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.with_context(|| format!("{} cannot be read as PEM", file.display()))?;
    if found.is_empty() {
        bail!("there is no certificate in {} (a PEM file with BEGIN CERTIFICATE is expected)", file.display());
    }
    Ok(found)
}

pub(super) fn private_key(file: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let bytes = read(file)?;
    let name = file.display();
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if String::from_utf8_lossy(&bytes).contains("BEGIN ENCRYPTED PRIVATE KEY") => {
            bail!("the key in {name} is encrypted; `openssl pkey -in {name} -out KEY` writes it in the clear")
        }
        Err(pem::Error::NoItemsFound) => bail!("there is no private key in {name} (a PEM file with BEGIN PRIVATE KEY is expected)"),
        Err(reason) => Err(reason).with_context(|| format!("{name} cannot be read as PEM")),
    }
}
