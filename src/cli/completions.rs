//! `campanile completions`: what a shell needs to complete the command line. Packages install it; `deploy/` says where.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::output;

const EXAMPLES: &str = "\
Examples:
  campanile completions bash > ~/.local/share/bash-completion/completions/campanile
  campanile completions zsh > \"${fpath[1]}/_campanile\"
  campanile completions fish > ~/.config/fish/completions/campanile.fish";

pub fn command() -> Command {
    Command::new("completions")
        .about("Print what a shell needs to complete this command line")
        .after_help(EXAMPLES)
        .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("The shell that is to complete"))
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let shell = *matches.get_one::<Shell>("shell").expect("clap requires it");
    // Made whole first: the generator takes a reader that goes away for a reason to panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "campanile", &mut script);
    output::bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
