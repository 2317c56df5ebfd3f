//! The same server once more, beside the one that is measured (`--beside-open`, `--beside-ws`, `--beside-plain`).

use std::net::SocketAddr;

use anyhow::Context;

use super::args::Options;
use super::target::{Needs, Target};
use super::tls::certificate::Certificate;
use super::{children, preflight};

/// A server beside the one that is measured, and how it is reached.
#[derive(Debug)]
pub struct Open {
    pub target: Target,
    pub redis_url: Option<String>,
    pub control: Option<SocketAddr>,
    pub server_id: Option<u32>,
    pub server: Option<children::Server>,
    pub redis: Option<children::Redis>,
    pub is_durable: bool,
}

impl Open {
    /// The same server once more, without what is asked of clients, and over TLS where it has a certificate.
    pub fn start(options: &Options, target: &Target, needs: &Needs, certificate: Option<&Certificate>) -> anyhow::Result<Open> {
        let priority = options.realtime.then_some(preflight::REDIS_FIRST);
        let redis = (options.redis.as_deref() == Some("own")).then(|| children::Redis::start(priority, false)).transpose()?;
        let redis_url = redis.as_ref().map(children::Redis::url);
        let arguments = options.serve.as_deref().context("a second server needs --serve")?;
        let server = children::Server::start(arguments, redis_url.as_deref(), options.clients, needs, None, certificate)?;
        Ok(Open {
            target: target.clone().at(server.clients),
            redis_url,
            control: Some(server.control),
            server_id: Some(server.id()),
            server: Some(server),
            redis,
            is_durable: false,
        })
    }
}
