//! What the settings of TLS come to: the acceptor that shards begin sessions with, and what is wrong with them together. Read at start, at a reload, and to check the settings.

use std::path::PathBuf;
use std::sync::Arc;

use super::problem::{Origin, Problem};
use super::settings::{Settings, Tls};
use super::words::TlsSessions;
use crate::sys;
use crate::tls::acceptor::{Acceptor, ClientAuth, Wanted};
use crate::tls::tickets::Tickets;

/// The keys of session tickets, for the process.
///
/// # Errors
/// The system has no random bytes.
pub fn tickets() -> anyhow::Result<Arc<Tickets>> {
    Tickets::new(sys::unix_ms() / 1000).map(Arc::new)
}

impl Tls {
    /// None: no certificate is given. Files are read.
    ///
    /// # Errors
    /// One cannot be read, or is not what it should be.
    pub fn acceptor(&self, tickets: &Arc<Tickets>) -> anyhow::Result<Option<Arc<Acceptor>>> {
        if self.certs.is_empty() {
            return Ok(None);
        }
        Acceptor::load(&self.wanted(), tickets, sys::unix_ms() / 1000).map(|acceptor| Some(Arc::new(acceptor)))
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            pairs: self.certs.iter().cloned().zip(self.keys.iter().cloned()).collect(),
            min_version: self.min_version,
            suites: self.suites.clone(),
            client_auth: self.client_auth,
            client_ca: self.client_ca.clone(),
            ticket_keys: self.ticket_keys.clone(),
            is_compact: self.sessions == TlsSessions::Compact,
        }
    }

    /// Those that a change of which is a reason to read all again.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.certs.iter().chain(&self.keys).chain(&self.client_ca).chain(&self.ticket_keys)
    }
}

/// What does not fit together. Files are read: that a certificate has expired should be known before the server is started anew.
pub(super) fn check(settings: &Settings, origin: &dyn Fn(&str) -> Origin) -> Vec<Problem> {
    let tls = &settings.tls;
    let error = |key: &str, message: String| Problem::error(origin(key), key, message);
    let listener = settings.addresses.listen.iter().find(|listener| listener.is_tls);
    if let Some(listener) = listener.filter(|_| tls.certs.is_empty()) {
        let problem = error("listen", format!("{listener} speaks TLS, and there is no certificate for it"));
        return vec![problem.help("give tls_cert and tls_key, or listen with tcp:// behind something that speaks TLS")];
    }
    let (certs, keys) = (tls.certs.len(), tls.keys.len());
    if certs != keys {
        let (key, fewer) = if certs > keys { ("tls_cert", "tls_key") } else { ("tls_key", "tls_cert") };
        let problem = error(key, format!("there are {certs} certificates and {keys} keys"));
        return vec![problem.help(format!("give a {fewer} for each, in the same order; one file may be named twice, for both"))];
    }
    let mut problems = Vec::new();
    match (tls.client_auth, &tls.client_ca) {
        (ClientAuth::No, Some(_)) => {
            problems.push(error("tls_client_ca", "no client is asked for a certificate".to_owned()).help("tls_client_auth = \"required\""));
        }
        (ClientAuth::IfGiven | ClientAuth::Required, None) => {
            let problem = error("tls_client_auth", "there is no root that clients' certificates could come from".to_owned());
            problems.push(problem.help("give tls_client_ca"));
        }
        _ => {}
    }
    if problems.is_empty()
        && let Err(reason) = tickets().and_then(|tickets| tls.acceptor(&tickets))
    {
        problems.push(error("tls_cert", format!("{reason:#}")));
    }
    if problems.is_empty() && listener.is_none() && !tls.certs.is_empty() {
        let problem = Problem::warning(origin("tls_cert"), "tls_cert", "no listener speaks TLS, so nobody gets it");
        problems.push(problem.help("listen = \"tls://0.0.0.0:443\""));
    }
    problems
}
