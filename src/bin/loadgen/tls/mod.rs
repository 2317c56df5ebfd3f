//! TLS as the clients speak it: whom they believe, and what they keep of earlier sessions. Made by [`mod@super::run`], used by the workers and by [`super::publish`].

pub mod certificate;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use campanile::client::tls::{ALPN, Tls, Trust};
use campanile::trust;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, NamedGroup};

use super::args::Options;

/// Of a run by these options. `ca`: of a server that the run has started.
pub fn of(options: &Options, host: &str, ca: Option<&Path>) -> anyhow::Result<Tls> {
    let asked = &options.tls;
    let ca = ca.map(Path::to_owned).or_else(|| asked.ca.clone());
    let trust = Trust { ca, is_insecure: asked.insecure, server_name: asked.server_name.clone() };
    let name = trust.name(host).map_err(anyhow::Error::msg)?;
    let builder = trust::builder(trust.roots(), "--ca FILE", Arc::new(provider(asked.tls_suite.as_deref())?))?;
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = match asked.resume {
        true => Resumption::store(Arc::new(Tickets { kept_max: options.clients as usize * 2, ..Tickets::default() })),
        false => Resumption::disabled(),
    };
    Ok(Tls { config: Arc::new(config), name })
}

/// With all that it has, or with one suite of it.
fn provider(suite: Option<&str>) -> anyhow::Result<CryptoProvider> {
    let all = aws_lc_rs::default_provider();
    let Some(wanted) = suite else { return Ok(all) };
    let named = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite());
    let suites: Vec<_> = all.cipher_suites.iter().copied().filter(|suite| named(suite).eq_ignore_ascii_case(wanted)).collect();
    if suites.is_empty() {
        let names: Vec<String> = all.cipher_suites.iter().map(named).collect();
        bail!("--tls-suite: there is no {wanted}; there are {}", names.join(", "));
    }
    Ok(CryptoProvider { cipher_suites: suites, ..all })
}

/// The first bytes that a client says.
pub fn client_hello(tls: &Tls) -> anyhow::Result<Vec<u8>> {
    let mut hello = Vec::new();
    ClientConnection::new(tls.config.clone(), tls.name.clone())?.write_tls(&mut hello)?;
    Ok(hello)
}

/// What servers have given for the next time, of all clients together: whoever connects takes the oldest ticket, and brings new ones. There is one server, so
/// nobody asks for which.
#[derive(Debug, Default)]
struct Tickets {
    kept: Mutex<Kept>,
    kept_max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    /// Good for any number of connections.
    tls12: Option<Tls12ClientSessionValue>,
    /// Good for one each.
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Tickets {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.kept().tls12 = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        if kept.tls13.len() >= self.kept_max {
            kept.tls13.pop_front();
        }
        kept.tls13.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().tls13.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_suite_may_be_asked_for() {
        let suites = |suite: Option<&str>| provider(suite).map(|provider| provider.cipher_suites.len());
        assert_eq!(suites(Some("tls13_chacha20_poly1305_sha256")).unwrap(), 1);
        assert_eq!(suites(Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")).unwrap(), 1);
        assert!(suites(None).unwrap() > 5);
        let error = suites(Some("TLS_RSA_WITH_RC4_128_MD5")).unwrap_err().to_string();
        assert!(error.contains("there are TLS13_AES_256_GCM_SHA384, "), "{error}");
    }
}
