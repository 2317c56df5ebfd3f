//! `campanile man`: one manual page for each command, written into a folder. For those who package; `--help` does not list it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};

use super::output;

pub fn command() -> Command {
    Command::new("man").about("Write a manual page for each command into a folder").hide(true).arg(
        Arg::new("directory")
            .value_name("DIR")
            .required(true)
            .value_parser(value_parser!(PathBuf))
            .help("The folder, which must be there; pages of these names in it are replaced"),
    )
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let directory = matches.get_one::<PathBuf>("directory").expect("clap requires it");
    clap_mangen::generate_to(super::command(), directory)
        .with_context(|| format!("no pages can be written into {}", directory.display()))?;
    output::line(format_args!("the manual pages are in {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
