//! The other end of a control port: asks one, by TCP or unix socket, with its token. For the commands, and for a server that takes another one's place.

use std::time::Duration;

use axum::http::StatusCode;

use super::unix_agent;
use crate::listen::{Address, Listener};

#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    address: Address,
    token: Option<String>,
}

/// What came back, whatever its status.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub body: String,
}

impl Client {
    /// `timeout`: of a whole request.
    pub fn new(control: &Address, token: Option<&str>, timeout: Duration) -> Client {
        let address = Listener::at(control.clone()).reachable().address;
        // The control address is never behind a proxy, whatever the environment says.
        let config = ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false).proxy(None).build();
        let agent = match &address {
            Address::Ip(_) => config.into(),
            Address::Unix(unix) => unix_agent::agent(config, &unix.path, timeout),
        };
        Client { agent, address, token: token.map(str::to_owned) }
    }

    /// Where it asks.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// # Errors
    /// Nobody is there, or the answer broke off.
    pub fn get(&self, path: &str) -> Result<Answered, ureq::Error> {
        let request = self.agent.get(self.url(path));
        answered(match &self.token {
            Some(token) => request.header("authorization", bearer(token)).call()?,
            None => request.call()?,
        })
    }

    /// # Errors
    /// As for [`Client::get`].
    pub fn post(&self, path: &str, body: &[u8]) -> Result<Answered, ureq::Error> {
        let request = self.agent.post(self.url(path)).header("content-type", "application/json");
        answered(match &self.token {
            Some(token) => request.header("authorization", bearer(token)).send(body)?,
            None => request.send(body)?,
        })
    }

    fn url(&self, path: &str) -> String {
        // By a unix socket no host is named.
        let host = self.address.ip().map_or_else(|| "localhost".to_owned(), |address| address.to_string());
        format!("http://{host}{path}")
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn answered(mut response: ureq::http::Response<ureq::Body>) -> Result<Answered, ureq::Error> {
    let body = response.body_mut().read_to_string()?;
    Ok(Answered { status: response.status(), body })
}
