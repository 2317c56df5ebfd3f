//! Options of connections over TLS.

use std::path::PathBuf;

use clap::Args;

use super::Options;

#[derive(Debug, Clone, Args)]
pub struct TlsOptions {
    /// The server that is started listens over TLS, with a certificate that is made for the run and checked by every client
    #[arg(long, requires = "serve", help_heading = "TLS")]
    pub tls: bool,
    /// Who vouches for the server of a wss:// URL, in place of the system's root certificates: a PEM file
    #[arg(long, value_name = "FILE", conflicts_with = "tls", help_heading = "TLS")]
    pub ca: Option<PathBuf>,
    /// Believe whoever answers
    #[arg(long, conflicts_with = "ca", help_heading = "TLS")]
    pub insecure: bool,
    /// As whom the server is asked for and checked, if not by the URL's host
    #[arg(long, value_name = "NAME", conflicts_with = "tls", help_heading = "TLS")]
    pub server_name: Option<String>,
    /// Sessions are resumed: `connect` brings everybody in once before, for their tickets; in a `storm` all have some
    #[arg(long, help_heading = "TLS")]
    pub resume: bool,
    /// Clients offer this cipher suite alone, by rustls's name, and with it the one version of TLS that has it
    #[arg(long, value_name = "SUITE", help_heading = "TLS")]
    pub tls_suite: Option<String>,
    /// With --tls: start the same server once more for clients in the clear, take turns with it, and print the ratio (connect, broadcast, burst)
    #[arg(long, requires = "tls", conflicts_with_all = ["floor", "beside_open", "beside_ws", "auth", "rules", "durable"], help_heading = "TLS")]
    pub beside_plain: bool,
}

impl TlsOptions {
    pub fn problem(&self, options: &Options) -> Option<String> {
        let is_secure = self.tls || options.url.starts_with("wss://") && options.serve.is_none();
        let given = [
            ("--ca", self.ca.is_some()),
            ("--insecure", self.insecure),
            ("--server-name", self.server_name.is_some()),
            ("--resume", self.resume),
            ("--tls-suite", self.tls_suite.is_some()),
        ];
        let useless = given.iter().find(|(_, is_given)| *is_given && !is_secure)?.0;
        Some(format!("{useless} is for connections over TLS: give --tls with --serve, or a wss:// URL"))
    }
}
