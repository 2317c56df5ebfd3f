//! `campanile config`: checks a file of settings, or prints one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use super::explain::explain;
use super::{BadSettings, flags, output};
use crate::config::changes::{self, Change};
use crate::config::layers::FILE_NAME;
use crate::config::problem::Origin;
use crate::config::{FileChoice, Host, Loaded, Sources, effective, load, print};

const EXAMPLES: &str = "\
Examples:
  campanile config --default > campanile.toml   start from a file with everything explained
  campanile config --check campanile.toml       every mistake with its line, before a restart finds it
  campanile config --check new.toml --against campanile.toml
                                                and what a reload would change, or only a restart
  campanile config --effective                  what is in force here, and where each value comes from
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
        .arg(
            Arg::new("against").long("against").value_name("FILE").requires("check").value_parser(clap::value_parser!(PathBuf)).help(
                "With --check: tell what a reload would change on a server that was started with this file, and what needs a restart",
            ),
        )
        .arg(
            Arg::new("effective").long("effective").action(ArgAction::SetTrue).help(
                "Print what `campanile serve` would go by with the same file, environment and flags, and where each value comes from",
            ),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).requires("effective").help("With --effective: as JSON"))
        .arg(Arg::new("default").long("default").action(ArgAction::SetTrue).help("Print a campanile.toml with every setting explained"))
        .arg(Arg::new("markdown").long("markdown").action(ArgAction::SetTrue).help("Print the table of settings as markdown"))
        .arg(
            Arg::new("explain")
                .long("explain")
                .value_name("CHANNEL")
                .help("Tell which rule decides about a channel, and what follows; settings are read as by `campanile serve`"),
        )
        .arg(Arg::new("token").long("token").value_name("TOKEN").requires("explain").help("With --explain: for the bearer of this token"))
        .arg(
            Arg::new("user")
                .long("user")
                .value_name("NAME")
                .requires("explain")
                .conflicts_with("token")
                .help("With --explain and auth = \"query\": for the user of this name"),
        )
        .args(flags::all_hidden(&[]).into_iter().map(|arg| arg.conflicts_with_all(["check", "default", "markdown"])))
        .group(ArgGroup::new("what").args(["check", "default", "effective", "markdown", "explain"]).required(true))
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    if matches.get_flag("default") {
        output::bytes(print::default_file().as_bytes())?;
    } else if matches.get_flag("markdown") {
        output::bytes(print::markdown().as_bytes())?;
    } else if matches.get_flag("effective") {
        let loaded = read(&flags::sources(matches))?;
        match matches.get_flag("json") {
            true => output::line(format_args!("{:#}", effective::json(&loaded)))?,
            false => output::bytes(effective::text(&loaded).as_bytes())?,
        }
    } else if let Some(channel) = matches.get_one::<String>("explain") {
        let loaded = read(&flags::sources(matches))?;
        let text = |id| matches.get_one::<String>(id).map(String::as_str);
        explain(&loaded, channel, text("token"), text("user"))?;
    } else {
        let path = matches.get_one::<PathBuf>("check").expect("clap takes one of the five");
        check(path, matches.get_one::<PathBuf>("against"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Warnings go to stderr.
fn read(sources: &Sources) -> anyhow::Result<Loaded> {
    let loaded = load(sources, Some(&Host::detect())).map_err(BadSettings)?;
    for warning in &loaded.warnings {
        output::remark(format_args!("{warning}\n"));
    }
    Ok(loaded)
}

/// A file alone, without environment and flags.
fn read_file(path: &Path) -> anyhow::Result<Loaded> {
    let file = FileChoice::Named { path: path.to_owned(), said_by: Origin::Default };
    read(&Sources { file, environment: Vec::new(), flags: Vec::new() })
}

fn check(path: &Path, against: Option<&PathBuf>) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let loaded = read_file(path)?;
    print_differences(&name, &loaded)?;
    match against {
        None => Ok(()),
        Some(other) => print_changes(&other.display().to_string(), &changes::between(&read_file(other)?.settings, &loaded.settings)),
    }
}

/// What a reload would change of what is in force by `other`.
fn print_changes(other: &str, changes: &[Change]) -> anyhow::Result<()> {
    let print = |title: &str, is_live: bool| {
        let mut of_kind = changes.iter().filter(|change| change.is_live == is_live).peekable();
        if of_kind.peek().is_none() {
            return Ok(());
        }
        output::line(format_args!("{title}"))?;
        of_kind.try_for_each(|change| output::line(format_args!("  {change}")))
    };
    if changes.is_empty() {
        return output::line(format_args!("against {other}: nothing changes"));
    }
    print(&format!("against {other}: a reload changes"), true)?;
    print(&format!("against {other}: only a restart changes"), false)
}

fn print_differences(name: &str, loaded: &Loaded) -> anyhow::Result<()> {
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
