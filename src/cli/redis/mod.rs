//! `campanile redis …`: what is done to a Redis itself.

mod install;
mod servers;

use std::process::ExitCode;

use clap::{ArgMatches, Command};

pub fn command() -> Command {
    Command::new("redis")
        .about("Prepare a Redis for durable channels")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(install::command())
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (_, matches) = matches.subcommand().expect("clap asks for one");
    install::run(matches)
}
