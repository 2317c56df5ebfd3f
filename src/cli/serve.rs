//! `campanile serve`: the server, from its settings to its end.

use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tracing::Level;

use super::{BadSettings, flags, log, output};
use crate::config::layers::log_format;
use crate::config::{Host, Loaded, LogFormat, Sources, load};
use crate::server::start_block::{Started, next_steps, start_block, start_fields};

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
    Command::new("serve").about(ABOUT).long_about(LONG_ABOUT).after_help(AFTER_HELP).args(flags::all()).arg(takeover())
}

fn takeover() -> Arg {
    let help = "Start beside the server that runs with the same addresses, and have that one drain: no client is refused";
    Arg::new(TAKEOVER).long(TAKEOVER).action(ArgAction::SetTrue).help(help)
}

const TAKEOVER: &str = "takeover";

/// Reads the settings and runs the server until it is told to stop.
pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let sources = flags::sources(matches);
    let host = Host::detect();
    let result = match load(&sources, Some(&host)) {
        Ok(loaded) => serve(loaded, sources.clone(), &host, matches.get_flag(TAKEOVER)),
        Err(problems) => Err(BadSettings(problems).into()),
    };
    result.map(|()| ExitCode::SUCCESS).or_else(|error| super::fail(error, log_format(&sources)))
}

fn serve(loaded: Loaded, sources: Sources, host: &Host, takes_over: bool) -> anyhow::Result<()> {
    let Loaded { settings, warnings, origins: _ } = loaded;
    let format = settings.logging.format;
    for warning in &warnings {
        log::say(format, Level::WARN, warning, || log::problem(warning));
    }
    // Kept to the end: what was logged last must still be written.
    let _log = log::start(&settings);
    let config = sources.file.named().map(Path::to_owned);
    let server = crate::server::start(settings.clone(), sources, host, takes_over)?;
    let settings = settings.with(|settings| {
        settings.addresses.listen = server.listen.clone();
        settings.addresses.control = server.control.clone();
    });
    let host = Host { descriptors_soft: server.descriptors, ..host.clone() };
    let started = Started { settings: &settings, host: &host, table: &server.table, config: config.as_deref() };
    let said = match format {
        LogFormat::Text => {
            let program = std::env::args().next().unwrap_or_else(|| "campanile".into());
            format!("{}\n{}", start_block(&started), next_steps(&started, &program))
        }
        LogFormat::Json => {
            let warnings = server.table.warnings().map(|warning| log::warning(warning).json(Level::WARN));
            let block = log::Line::new("started").fields(start_fields(&started)).json(Level::INFO);
            std::iter::once(block).chain(warnings).collect::<Vec<_>>().join("\n")
        }
    };
    // On a thread of its own: a stderr that takes nothing must not keep this one from ending when the server does.
    std::thread::spawn(move || output::remark(said));
    server.wait()
}
