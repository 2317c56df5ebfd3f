//! Through `POST /publish` on the server's control address, one request per message.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Message, Route};
use crate::target::Channels;

pub struct HttpRoute {
    agent: ureq::Agent,
    url: String,
    channels: Channels,
}

impl HttpRoute {
    pub fn new(control: SocketAddr, channels: Channels) -> HttpRoute {
        let config =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).http_status_as_error(false).proxy(None).build();
        HttpRoute { agent: config.into(), url: format!("http://{control}/publish"), channels }
    }
}

impl Route for HttpRoute {
    fn publish(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        for message in messages {
            // A stamp is text without anything that JSON would escape.
            let payload = std::str::from_utf8(&message.payload)?;
            let body = serde_json::json!({ "channel": self.channels.name(message.channel), "payload": payload }).to_string();
            let request = self.agent.post(&self.url).header("content-type", "application/json");
            let mut answer = request.send(body.as_bytes()).with_context(|| format!("{} cannot be reached", self.url))?;
            let text = answer.body_mut().read_to_string()?;
            if !answer.status().is_success() {
                bail!("{} answered {}: {}", self.url, answer.status(), text.trim().chars().take(200).collect::<String>());
            }
        }
        Ok(())
    }
}
