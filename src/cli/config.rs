//! `campanile config`: checks a file of settings, or prints one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use super::explain::explain;
use super::{BadSettings, flags, output};
use crate::config::layers::FILE_NAME;
use crate::config::problem::Origin;
use crate::config::{FileChoice, Host, Sources, load, print};

const EXAMPLES: &str = "\
Examples:
  campanile config --default > campanile.toml   start from a file with everything explained
  campanile config --check campanile.toml       every mistake with its line, before a restart finds it
  campanile config --explain user:u1            who may have a channel, and which rule says so";

pub fn command() -> Command {
    Command::new("config")
        .about("Check a file of settings, or print one with every setting")
        .after_help(EXAMPLES)
        .arg(
            Arg::new("check")
                .long("check")
                .value_name("FILE")
                .num_args(0..=1)
                .default_missing_value(FILE_NAME)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Check a file alone, without environment and flags, and print what it changes [default: campanile.toml]"),
        )
        .arg(Arg::new("default").long("default").action(ArgAction::SetTrue).help("Print a campanile.toml with every setting explained"))
        .arg(Arg::new("markdown").long("markdown").action(ArgAction::SetTrue).help("Print the table of settings as markdown"))
        .arg(
            Arg::new("explain")
                .long("explain")
                .value_name("CHANNEL")
                .help("Tell which rule decides about a channel, and what follows; settings are read as by `campanile serve`"),
        )
        .arg(Arg::new("token").long("token").value_name("TOKEN").requires("explain").help("With --explain: for the bearer of this token"))
        .arg(flags::file().requires("explain"))
        .group(ArgGroup::new("what").args(["check", "default", "markdown", "explain"]).required(true))
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    if matches.get_flag("default") {
        output::bytes(print::default_file().as_bytes())?;
    } else if matches.get_flag("markdown") {
        output::bytes(print::markdown().as_bytes())?;
    } else if let Some(channel) = matches.get_one::<String>("explain") {
        let loaded = load(&flags::sources(matches), Some(&Host::detect())).map_err(BadSettings)?;
        explain(&loaded, channel, matches.get_one::<String>("token").map(String::as_str))?;
    } else {
        let path = matches.get_one::<PathBuf>("check").expect("clap takes one of the four");
        check(path.clone())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check(path: PathBuf) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let file = FileChoice::Named { path, said_by: Origin::Default };
    let sources = Sources { file, environment: Vec::new(), flags: Vec::new() };
    let loaded = load(&sources, Some(&Host::detect())).map_err(BadSettings)?;
    for warning in &loaded.warnings {
        output::remark(format_args!("{warning}\n"));
    }
    let differences = print::differences(&loaded.settings);
    if differences.is_empty() {
        return output::line(format_args!("{name}: ok, nothing but defaults"));
    }
    output::line(format_args!("{name}: ok; not at its default:"))?;
    for line in differences {
        output::line(format_args!("  {line}"))?;
    }
    Ok(())
}
