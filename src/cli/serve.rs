//! `campanile serve`: the server, from its settings to its end.

use clap::Command;

use super::flags;
use crate::config::{Host, Settings, start_block};

const ABOUT: &str = "Serve WebSocket clients";
const LONG_ABOUT: &str = "\
Serve WebSocket clients.

Settings come from campanile.toml in the working directory (or --config FILE), then from CAMPANILE_ variables, then from flags; \
the later wins. `campanile config --default` prints a file with every setting explained, `campanile config --check` checks one.

Without --redis the server is its own bus, and messages come from `campanile publish` or POST /publish on the control address.";

pub fn command() -> Command {
    Command::new("serve").about(ABOUT).long_about(LONG_ABOUT).args(flags::all())
}

/// Runs the server until it is told to stop. The settings have been checked.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    // Kept to the end: what was logged last must still be written.
    let _log = super::log::start(&settings)?;
    let server = crate::server::start(settings.clone())?;
    let settings = Settings { listen: server.listen.clone(), control: server.control, ..settings };
    eprint!("{}", start_block(&settings, &Host::detect()));
    eprint!("{}", next_step(&settings));
    server.wait()
}

/// What to type next to see a message arrive.
fn next_step(settings: &Settings) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "campanile".into());
    let url = match settings.listen.first() {
        Some(address) if *address != Settings::default().listen[0] => format!(" --url ws://{address}/ws"),
        _ => String::new(),
    };
    let publish = match &settings.redis {
        Some(_) => format!("redis-cli publish {}news '{{\"hello\":\"world\"}}'", settings.prefix),
        None if settings.control != Settings::default().control => {
            format!("{program} publish news '{{\"hello\":\"world\"}}' --control {}", settings.control)
        }
        None => format!("{program} publish news '{{\"hello\":\"world\"}}'"),
    };
    format!("\nSee a message arrive: in a second terminal\n  {program} subscribe news{url}\nand in a third\n  {publish}\n\n")
}
