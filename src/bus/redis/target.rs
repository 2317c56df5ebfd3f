//! Where a Redis is and how to log in there, out of a URL: `redis://`, `rediss://` (TLS), `unix://`. Read once, at start.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use redis::{ConnectionAddr, ConnectionInfo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::tls;
use crate::config::{RedisTls, redis_url};

#[derive(Debug)]
pub struct Target {
    pub address: Address,
    pub username: Option<String>,
    pub password: Option<String>,
    pub db: i64,
    /// The URL says `protocol=2`: HELLO is not tried.
    pub resp2_only: bool,
}

#[derive(Debug)]
pub enum Address {
    Tcp { host: String, port: u16, tls: Option<Tls> },
    Unix(PathBuf),
}

#[derive(Debug, Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

impl Target {
    /// `files`: for `rediss://`.
    pub fn new(url: &str, files: &RedisTls) -> anyhow::Result<Target> {
        // The URL may hold a password: errors must not repeat it.
        let info: ConnectionInfo = url.parse().map_err(|error: redis::RedisError| {
            anyhow!(
                "the Redis URL cannot be used: {}; accepted: {}",
                error.detail().map_or_else(|| error.to_string(), str::to_owned),
                redis_url::ACCEPTED
            )
        })?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host: host.clone(), port: *port, tls: None },
            ConnectionAddr::TcpTls { host, port, insecure, .. } => {
                let name = ServerName::try_from(host.clone()).map_err(|_| anyhow!("`{host}` is no name that a certificate could carry"))?;
                Address::Tcp { host: host.clone(), port: *port, tls: Some(Tls { config: tls::client_config(files, *insecure)?, name }) }
            }
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            other => bail!("Redis at `{other}` is not supported; use redis://, rediss:// or unix://"),
        };
        let login = info.redis_settings();
        Ok(Target {
            address,
            username: login.username().map(str::to_owned),
            password: login.password().map(str::to_owned),
            db: login.db(),
            resp2_only: ["protocol=2", "protocol=resp2"].iter().any(|choice| url.contains(choice)),
        })
    }
}

impl Target {
    /// Another node of the same Cluster: one logs in there as here.
    pub fn at(&self, host: &str, port: u16) -> anyhow::Result<Target> {
        let tls = match self.tls() {
            Some(tls) => {
                let name =
                    ServerName::try_from(host.to_owned()).map_err(|_| anyhow!("`{host}` is no name that a certificate could carry"))?;
                Some(Tls { config: tls.config.clone(), name })
            }
            None => None,
        };
        Ok(Target {
            address: Address::Tcp { host: host.to_owned(), port, tls },
            username: self.username.clone(),
            password: self.password.clone(),
            db: self.db,
            resp2_only: self.resp2_only,
        })
    }

    pub fn is_at(&self, host: &str, port: u16) -> bool {
        matches!(&self.address, Address::Tcp { host: here, port: at, .. } if here == host && *at == port)
    }

    /// Whether both are at the same place.
    pub fn is_where(&self, other: &Target) -> bool {
        matches!(&other.address, Address::Tcp { host, port, .. } if self.is_at(host, *port))
    }

    /// Empty: a unix socket.
    pub fn host(&self) -> &str {
        match &self.address {
            Address::Tcp { host, .. } => host,
            Address::Unix(_) => "",
        }
    }

    /// None: it is spoken to in the clear.
    pub fn tls(&self) -> Option<&Tls> {
        match &self.address {
            Address::Tcp { tls, .. } => tls.as_ref(),
            Address::Unix(_) => None,
        }
    }

    /// None: the URL names nobody.
    pub fn user(&self) -> Option<&str> {
        self.username.as_deref().filter(|user| !user.is_empty())
    }

    /// Whom AUTH with the password alone logs in.
    pub fn is_default_user(&self) -> bool {
        self.user().is_none_or(|user| user == "default")
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.address {
            Address::Tcp { host, port, tls } => write!(f, "{}://{host}:{port}", if tls.is_some() { "rediss" } else { "redis" }),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_url(url: &str) -> anyhow::Result<Target> {
        Target::new(url, &RedisTls::default())
    }

    #[test]
    fn urls_are_read() {
        let target = from_url("redis://me:p%40ss@example.org:7000/3").unwrap();
        assert!(matches!(&target.address, Address::Tcp { host, port: 7000, tls: None } if host == "example.org"));
        assert_eq!((target.username.as_deref(), target.password.as_deref(), target.db), (Some("me"), Some("p@ss"), 3));
        assert_eq!(target.to_string(), "redis://example.org:7000");

        let target = from_url("redis://:secret@[::1]").unwrap();
        assert!(matches!(&target.address, Address::Tcp { host, port: 6379, .. } if host == "::1"));
        assert_eq!((target.username, target.password.as_deref()), (None, Some("secret")));

        let target = from_url("unix:///run/redis.sock?db=2&pass=x").unwrap();
        assert!(matches!(&target.address, Address::Unix(path) if path.to_str() == Some("/run/redis.sock")));
        assert_eq!((target.db, target.password.as_deref()), (2, Some("x")));

        let target = from_url("rediss://example.org#insecure").unwrap();
        assert!(matches!(target.address, Address::Tcp { tls: Some(_), .. }));
        assert!(from_url("redis://h/?protocol=resp2").unwrap().resp2_only);
    }

    #[test]
    fn a_wrong_url_says_what_to_type_and_not_the_password() {
        for url in
            ["localhost:6379", "http://me:hunter2@h", "redis://:hunter2@h/abc", "redis://:hunter2@0.0.0.0", "rediss://:hunter2@h#safe", ""]
        {
            let error = format!("{:#}", from_url(url).unwrap_err());
            assert!(error.contains("redis://") && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
