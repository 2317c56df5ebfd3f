//! The commands: what is typed, checked and handed to the one that does it. Called by `main`.
//!
//! Invariants: results go to stdout, everything else to stderr; a closed stdout ends a command quietly; a mistake on the command line
//! exits 2, any other failure 1.

pub mod config;
pub mod doctor;
pub mod flags;
pub mod log;
pub mod output;
pub mod publish;
pub mod serve;
pub mod subscribe;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::config::Host;
use crate::config::problem::{Origin, Problem, Severity};
use output::OutputClosed;

const ABOUT: &str = "Campanile takes each message once, from Redis, and puts it on every subscribed WebSocket.";
const TOUR: &str = "\
A first look, in three terminals:
  campanile serve
  campanile subscribe news
  campanile publish news '{\"hello\":\"world\"}'

With Redis in between, any Redis client publishes:
  campanile serve --redis redis://127.0.0.1:6379
  redis-cli publish notifications:news '{\"hello\":\"world\"}'";

/// The whole command line.
pub fn command() -> Command {
    Command::new("campanile")
        .about(ABOUT)
        .version(version_static())
        .after_help(TOUR)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve::command())
        .subcommand(publish::command())
        .subcommand(subscribe::command())
        .subcommand(config::command())
        .subcommand(doctor::command())
        .subcommand(Command::new("version").about("Print the version"))
}

/// Runs one command line and gives the exit code of the process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Nothing is left to be done about a terminal that is gone.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match matches.subcommand() {
        Some(("serve", matches)) => serve(matches),
        Some(("publish", matches)) => publish::run(matches),
        Some(("subscribe", matches)) => subscribe::run(matches),
        Some(("config", matches)) => config::run(matches),
        Some(("doctor", matches)) => doctor::run(matches),
        Some(("version", _)) => output::line(format_args!("campanile {}", crate::config::start::version())).map(|()| ExitCode::SUCCESS),
        _ => unreachable!("clap takes no other command"),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => match error.downcast::<BadSettings>() {
            Ok(BadSettings(problems)) => report(&problems),
            Err(error) => {
                output::remark(format_args!("error: {error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn serve(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let loaded = crate::config::load(&flags::sources(matches), Some(&Host::detect())).map_err(BadSettings)?;
    for warning in &loaded.warnings {
        output::remark(warning);
    }
    serve::run(loaded.settings)?;
    Ok(ExitCode::SUCCESS)
}

/// Settings that nothing can be started with.
#[derive(Debug, thiserror::Error)]
#[error("the settings are not usable")]
pub struct BadSettings(pub Vec<Problem>);

/// Prints every problem and tells what they come to.
fn report(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        output::remark(format_args!("{problem}\n"));
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    output::remark(format_args!("{errors} error{} in the settings", if errors == 1 { "" } else { "s" }));
    // A mistyped flag is bad usage even where a file is wrong as well.
    let usage = problems.iter().any(|problem| problem.severity == Severity::Error && matches!(problem.origin, Origin::Flag(_)));
    ExitCode::from(if usage { 2 } else { 1 })
}

/// Clap wants its texts for the life of the program; this one is made once.
fn version_static() -> &'static str {
    crate::config::start::version().leak()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
