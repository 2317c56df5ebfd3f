//! The servers of a run: one that takes the place of the first, one that stands beside it.

use anyhow::Context;

use super::Run;
use crate::beside::Open;
use crate::children;
use crate::scenario::floor::Beside;

impl Run {
    /// The server is killed, and another one starts at its addresses.
    pub fn replace_server(&mut self) -> anyhow::Result<()> {
        let mut old = self.server.take().context("there is no server to replace")?;
        old.kill();
        let server = self.another_server(&self.at_the_place_of(&old))?;
        self.server_id = Some(server.id());
        self.server = Some(server);
        Ok(())
    }

    /// The same server once more, with further arguments.
    pub fn another_server(&self, further: &str) -> anyhow::Result<children::Server> {
        let arguments = format!("{} {further}", self.options.serve.as_deref().unwrap_or_default());
        let (gate, certificate) = (self.gate.as_ref(), self.certificate.as_ref());
        children::Server::start(&arguments, self.redis_url.as_deref(), self.options.clients, &self.needs, gate, certificate)
    }

    /// Arguments of a server at another one's addresses.
    pub fn at_the_place_of(&self, old: &children::Server) -> String {
        let scheme = if self.certificate.is_some() { "tls://" } else { "" };
        format!("--listen {scheme}{} --control {}", old.clients, old.control)
    }

    /// Clients bring other tokens from now on, if they bring any.
    pub fn renew_tokens(&mut self) -> anyhow::Result<()> {
        if let Some(gate) = &mut self.gate {
            self.target = self.target.clone().with_tokens(gate.tokens()?);
        }
        Ok(())
    }

    /// The server that stands beside this one (--beside-open, --beside-ws, --beside-plain), to be asked for once.
    pub fn take_open(&mut self) -> anyhow::Result<Open> {
        let mut open = self.open.take().context("there is no server to stand beside")?;
        let target = self.target.clone().with_tokens(None).with_deflate(false).at(open.target.address);
        open.target = match Beside::of(&self.options) {
            Beside::WebSockets => target.over_web_socket(),
            Beside::Plain => target.with_tls(None),
            Beside::Open | Beside::Floor => target,
        };
        Ok(open)
    }

    /// What is published from now on goes through the other server, and its process is looked at; or back again.
    pub fn change_sides(&mut self, open: &mut Open) {
        std::mem::swap(&mut self.target, &mut open.target);
        std::mem::swap(&mut self.redis_url, &mut open.redis_url);
        std::mem::swap(&mut self.options.control, &mut open.control);
        std::mem::swap(&mut self.server_id, &mut open.server_id);
        std::mem::swap(&mut self.server, &mut open.server);
        std::mem::swap(&mut self.redis, &mut open.redis);
        std::mem::swap(&mut self.is_durable, &mut open.is_durable);
    }
}
