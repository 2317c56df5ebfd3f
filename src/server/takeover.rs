//! Taking the place of a server that runs with the same addresses: this one's public sockets are open and served by then, so that it is asked to drain, and
//! gives the control port up, without a moment in which clients are refused. A server that drains already gives the control port to whoever comes.
//!
//! Only a server of the same user lets another one in beside it (SO_REUSEPORT); a plain second start is refused while the first one serves.
//!
//! Invariants: whatever can be found out beforehand is, so that a takeover that cannot be ends before anything was changed ([`ask_first`]); and the control
//! token goes to no other user's program.

use std::io::{self, ErrorKind};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::config::Settings;
use crate::control::client::{Answered, Client};
use crate::life::Stage;
use crate::listen::{self, Address, ControlSocket, owner};
use crate::sys;

/// How long the other server may take to answer, and to give the port up then.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(5);

/// Whether there is a server that would give its place up; nothing is asked of it yet.
pub fn ask_first(settings: &Settings) -> anyhow::Result<()> {
    let client = trusted(settings)?;
    let Some(answer) = answer_of(&client, client.get("/info"))? else { return Ok(()) };
    ensure!(answer.status.is_success(), refusal(&client, &answer));
    Ok(())
}

/// The control port of this server, in the place of another one's.
pub fn control(settings: &Settings) -> anyhow::Result<(ControlSocket, Address)> {
    let client = trusted(settings)?;
    match ask_to_drain(&client)? {
        true => tracing::info!("the server at {} drains, and this one takes its place", client.place()),
        false => tracing::warn!("no server answers at {}: there is none whose place could be taken", client.place()),
    }
    wait_for(&settings.addresses.control).context("the control port")
}

/// The same where nobody has said that there is one: only of a server that drains already.
pub fn own_control(settings: &Settings) -> anyhow::Result<(ControlSocket, Address)> {
    let address = &settings.addresses.control;
    match listen::control(address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_draining(address) && ask_to_drain(&trusted(settings)?)? => {
            wait_for(address).context("the control port")
        }
        result => result.context("the control port"),
    }
}

/// A client of whoever is at the control port, who is us or may read our memory anyway.
fn trusted(settings: &Settings) -> anyhow::Result<Client> {
    let address = &settings.addresses.control;
    let ours = sys::user_id();
    if let Some(other) = owner::of(address).into_iter().find(|&user| user != ours && user != 0) {
        bail!(
            "the control port {address} is another user's (uid {other}, not {ours}), who is not told our control_token; choose another port"
        );
    }
    Ok(Client::new(address, settings.addresses.control_token.as_deref(), PATIENCE))
}

/// Whether the other one is on its way out already.
fn is_draining(address: &Address) -> bool {
    let answer = Client::new(address, None, PATIENCE).get("/readyz").ok();
    let answer = answer.and_then(|answer| serde_json::from_str::<Value>(&answer.body).ok());
    answer.is_some_and(|answer| answer["reason"] == Stage::Draining.name() || answer["reason"] == Stage::Stopping.name())
}

/// False: nobody is there.
fn ask_to_drain(client: &Client) -> anyhow::Result<bool> {
    let Some(answer) = answer_of(client, client.post("/drain", br#"{"handover": true}"#))? else { return Ok(false) };
    ensure!(answer.status.is_success(), refusal(client, &answer));
    Ok(true)
}

fn refusal(client: &Client, answer: &Answered) -> String {
    format!("the server at {} does not give its place up ({}): {}", client.place(), answer.status, answer.body.trim())
}

/// None: nobody is there.
fn answer_of(client: &Client, answer: Result<Answered, ureq::Error>) -> anyhow::Result<Option<Answered>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ureq::Error::Io(error)) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(None),
        Err(ureq::Error::ConnectionFailed) => Ok(None),
        Err(error) => bail!("the server at {} does not answer, and may still serve clients: {error}; end it first", client.place()),
    }
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
