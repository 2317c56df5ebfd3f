//! `campanile serve`: the server, from its settings to its end.

use clap::Command;

use super::{flags, output};
use crate::config::{Host, Settings, next_steps, start_block};

const ABOUT: &str = "Serve WebSocket clients";
const LONG_ABOUT: &str = "\
Serve WebSocket clients.

Settings come from campanile.toml in the working directory (or --config FILE), then from CAMPANILE_
variables, then from flags; the later wins. `campanile config --default` prints a file with every
setting explained, `campanile config --check` checks one.

Without --redis the server is its own bus, and messages come from `campanile publish` or from
POST /publish on the control address.";
const AFTER_HELP: &str = "\
Every flag is also a variable: --redis-channel is CAMPANILE_REDIS_CHANNEL (lists with commas between).
Sizes count in 1024 (64k, 1M, 2G), durations may carry a unit (500ms, 10s, 5m, 1h).
--help tells what each setting accepts.";

pub fn command() -> Command {
    Command::new("serve").about(ABOUT).long_about(LONG_ABOUT).after_help(AFTER_HELP).args(flags::all())
}

/// Runs the server until it is told to stop. The settings have been checked.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    // Kept to the end: what was logged last must still be written.
    let _log = super::log::start(&settings)?;
    let server = crate::server::start(settings.clone())?;
    let settings = Settings { listen: server.listen.clone(), control: server.control, ..settings };
    let program = std::env::args().next().unwrap_or_else(|| "campanile".into());
    let text = format!("{}\n{}", start_block(&settings, &Host::detect()), next_steps(&settings, &program));
    // On a thread of its own: a stderr that takes nothing must not keep this one from ending when the server does.
    std::thread::spawn(move || output::remark(text));
    server.wait()
}
