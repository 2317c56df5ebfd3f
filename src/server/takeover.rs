//! Taking the place of a server that runs with the same addresses: this one's public sockets are open by then, so that it is asked to drain, and gives
//! the control port up, without a moment in which clients are refused. A server that drains already gives the control port to whoever comes.
//!
//! Only a server of the same user lets another one in beside it (SO_REUSEPORT); a plain second start is refused while the first one serves.

use std::io::{self, ErrorKind};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::config::Settings;
use crate::control::client::Client;
use crate::life::Stage;
use crate::listen::{self, Address, ControlSocket};

/// How long the other server may take to answer, and to give the port up then.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(5);

/// The control port of this server, if need be in the place of another one's.
pub fn control(settings: &Settings, takes_over: bool) -> anyhow::Result<(ControlSocket, Address)> {
    let address = &settings.addresses.control;
    let client = Client::new(address, settings.addresses.control_token.as_deref(), PATIENCE);
    if takes_over {
        match ask_to_drain(&client)? {
            true => tracing::info!("the server at {} drains, and this one takes its place", client.address()),
            false => tracing::warn!("no server answers at {}: there is none whose place could be taken", client.address()),
        }
    }
    match listen::control(address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && (takes_over || (is_draining(&client) && ask_to_drain(&client)?)) => {
            wait_for(address).context("the control port")
        }
        result => result.context("the control port"),
    }
}

/// Whether the other one is on its way out already.
fn is_draining(client: &Client) -> bool {
    let answer = client.get("/readyz").ok().and_then(|answer| serde_json::from_str::<Value>(&answer.body).ok());
    answer.is_some_and(|answer| answer["reason"] == Stage::Draining.name() || answer["reason"] == Stage::Stopping.name())
}

/// False: nobody is there.
fn ask_to_drain(client: &Client) -> anyhow::Result<bool> {
    let Ok(answer) = client.post("/drain", br#"{"handover": true}"#) else { return Ok(false) };
    if !answer.status.is_success() {
        bail!("the server at {} does not give its place up ({}): {}", client.address(), answer.status, answer.body.trim());
    }
    Ok(true)
}

/// The other one closes the port when it has answered.
fn wait_for(address: &Address) -> io::Result<(ControlSocket, Address)> {
    let begin = Instant::now();
    loop {
        match listen::control(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begin.elapsed() < PATIENCE => sleep(RETRY),
            result => return result,
        }
    }
}
