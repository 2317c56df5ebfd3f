//! The commands: what is typed, checked and handed to the one that does it. Called by `main`.
//!
//! Invariants: results go to stdout, everything else to stderr; a closed stdout ends a command quietly; a mistake on the command line or in
//! the settings, wherever they stand, exits 2, as trying again would end the same; any other failure 1.

pub mod completions;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod flags;
pub mod health;
pub mod log;
pub mod man;
pub mod output;
pub mod publish;
pub mod redis;
pub mod serve;
mod signals;
pub mod subscribe;
pub mod token;
pub mod top;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, Command};
use tracing::Level;

use crate::auth::Gate;
use crate::auth::keys::Keys;
use crate::auth::token::Wanted;
use crate::config::mask;
use crate::config::problem::{Problem, Severity};
use crate::config::{AuthMode, LogFormat, Settings, parse};
use crate::control::jwks;
use output::OutputClosed;

const ABOUT: &str = "Campanile takes each message once, from Redis or by HTTP, and puts it on every connection that has subscribed: WebSockets, event streams, polls.";
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
        .subcommands(COMMANDS.iter().map(|(command, _)| command()))
}

/// What a command is on the command line, and what runs it. In the order in which `--help` lists them.
type Row = (fn() -> Command, fn(&ArgMatches) -> anyhow::Result<ExitCode>);

const COMMANDS: &[Row] = &[
    (serve::command, serve::run),
    (publish::command, publish::run),
    (subscribe::command, subscribe::run),
    (config::command, config::run),
    (token::command, token::run),
    (top::command, top::run),
    (doctor::command, doctor::run),
    (redis::command, redis::run),
    (health::command, health::run),
    (completions::command, completions::run),
    (man::command, man::run),
    (|| Command::new("version").about("Print the version"), |_| version()),
];

fn version() -> anyhow::Result<ExitCode> {
    output::line(format_args!("campanile {}", crate::server::start_block::version())).map(|()| ExitCode::SUCCESS)
}

/// Runs one command line and gives the exit code of the process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = match command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(mut error) => {
            flags::explain_misnamed(&mut error, &arguments.get(1).map_or_else(String::new, |word| word.to_string_lossy().into_owned()));
            print_usage(&error);
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let (name, matches) = matches.subcommand().expect("clap asks for one");
    crate::sys::hide_arguments(&flags::secrets(matches));
    let (_, run) = COMMANDS.iter().find(|(command, _)| command().get_name() == name).expect("clap takes no other");
    run(matches).or_else(|error| fail(error, LogFormat::Text)).unwrap_or(ExitCode::FAILURE)
}

/// Tells why a command failed and gives its exit code.
fn fail(error: anyhow::Error, format: LogFormat) -> anyhow::Result<ExitCode> {
    if error.is::<OutputClosed>() {
        return Ok(ExitCode::SUCCESS);
    }
    let exit_code = if error.is::<BadUsage>() { ExitCode::from(2) } else { ExitCode::FAILURE };
    Ok(match error.downcast::<BadSettings>() {
        Ok(BadSettings(problems)) => report(&problems, format),
        Err(error) => {
            log::say(format, Level::ERROR, format_args!("error: {error:#}"), || log::Line::new(format_args!("{error:#}")));
            exit_code
        }
    })
}

/// Clap quotes what was typed, which may be a URL with a password in the wrong place.
fn print_usage(error: &clap::Error) {
    let plain = error.to_string();
    if error.use_stderr() && plain.contains('@') {
        return output::remark(plain.lines().map(mask::line).collect::<Vec<_>>().join("\n"));
    }
    // Nothing is left to be done about a terminal that is gone.
    let _ = error.print();
}

/// Settings that nothing can be started with.
#[derive(Debug, thiserror::Error)]
#[error("the settings are not usable")]
pub struct BadSettings(pub Vec<Problem>);

/// An argument that is wrong by itself, whatever the settings and the servers are.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadUsage(pub String);

/// The channel that was typed, if it can be one.
fn check_channel(channel: &str) -> Result<(), BadUsage> {
    parse::channel_text(channel, false).map(drop).map_err(|reason| BadUsage(format!("the channel {channel:?} cannot be: {reason}")))
}

/// How clients say who they are, with the keys that a server would have, those of `jwks_url` too.
fn gate(settings: &Settings) -> anyhow::Result<Gate> {
    let auth = &settings.auth;
    let fetched = match auth.jwks_url.as_deref().filter(|_| auth.mode == AuthMode::Jwt) {
        Some(url) => jwks::fetch(url).map_err(|error| anyhow::anyhow!("jwks_url: {error}"))?.keys,
        None => Keys::default(),
    };
    // What is missing now is not asked for again.
    auth.gate_of(&auth.own_keys()?, &fetched, Arc::new(Wanted::for_nothing()))
}

/// Prints every problem and tells what they come to.
fn report(problems: &[Problem], format: LogFormat) -> ExitCode {
    for problem in problems {
        let level = if problem.severity == Severity::Error { Level::ERROR } else { Level::WARN };
        log::say(format, level, format_args!("{problem}\n"), || log::problem(problem));
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let text = format!("{errors} error{} in the settings", if errors == 1 { "" } else { "s" });
    log::say(format, Level::ERROR, &text, || log::Line::new(&text));
    ExitCode::from(2)
}

/// Clap wants its texts for the life of the program; this one is made once.
fn version_static() -> &'static str {
    crate::server::start_block::version().leak()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
