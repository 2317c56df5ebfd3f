//! The other end of a control port: asks one, by TCP, unix socket or the URL of a proxy before it, with its token. For the commands, and for a server that takes
//! another one's place.

use std::time::Duration;

use axum::http::StatusCode;

use super::agent::{Way, agent};
use crate::client::endpoint::Endpoint;
use crate::listen::{Address, Listener};

#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    /// Where it asks, as it may be shown.
    place: String,
    /// What paths are appended to.
    base: String,
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
        let (place, config) = (address.to_string(), config(timeout));
        // By a unix socket no host is named.
        let base = format!("http://{}", address.ip().map_or_else(|| "localhost".to_owned(), |address| address.to_string()));
        let agent = match address {
            Address::Ip(_) => config.into(),
            Address::Unix(unix) => agent(config, Way::Unix(unix.path), timeout),
        };
        Client { agent, place, base, token: token.map(str::to_owned) }
    }

    /// The same through whatever stands before a control port.
    pub fn at(endpoint: Endpoint, token: Option<&str>, timeout: Duration) -> Client {
        let (place, base) = (endpoint.shown().to_owned(), endpoint.url("http", ""));
        Client { agent: agent(config(timeout), Way::Url(endpoint), timeout), place, base, token: token.map(str::to_owned) }
    }

    pub fn place(&self) -> &str {
        &self.place
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
        format!("{}{path}", self.base)
    }
}

/// The control address is never behind a proxy of the environment's, whatever that says.
fn config(timeout: Duration) -> ureq::config::Config {
    ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false).proxy(None).build()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn answered(mut response: ureq::http::Response<ureq::Body>) -> Result<Answered, ureq::Error> {
    let body = response.body_mut().read_to_string()?;
    Ok(Answered { status: response.status(), body })
}
