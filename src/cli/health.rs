//! `campanile health`: whether a server lives, or is ready, by its exit code. For containers, which have no curl, and for scripts.
//!
//! Invariant: 0 says that it is, 1 that it is not or cannot be found out; a container's health check knows no third number. Of the settings only where the
//! server is matters: what is wrong with the rest of a file, a server that runs has told and has not taken in.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{flags, output, report};
use crate::config::layers::control;
use crate::config::{FileChoice, LogFormat, Sources, listen_url, parse};
use crate::control::client::{Answered, Client};
use crate::listen::Address;

const ABOUT: &str = "Ask whether a server lives, or is ready";
const LONG_ABOUT: &str = "\
Ask the control address of a server whether it lives (/healthz), or with --ready whether messages
flow and it takes clients in (/readyz). With --public its public address is asked instead.

Where it is says --control (or --url, through a proxy), else CAMPANILE_CONTROL, else the file of settings.
Exit code 0: it is. 1: it is not, or nobody answers in time. 2: the command line is wrong.";
const EXAMPLES: &str = "\
Examples:
  campanile health                              for HEALTHCHECK in a container
  campanile health --ready && echo takes clients in
  campanile health --control unix:///run/campanile/control.sock
  campanile health --public 127.0.0.1:8080
  campanile health --url https://ops.example.org/campanile";

/// Of an answer so much is shown: it may be that of another program.
const SHOWN_CHARS: usize = 200;

pub fn command() -> Command {
    let timeout = |text: &str| parse::duration(text, parse::SECOND, Duration::from_millis(1), Duration::from_secs(60));
    let public = Arg::new("public").long("public").value_name("ADDR").value_parser(listen_url::control);
    let ready = Arg::new("ready").long("ready").action(ArgAction::SetTrue).conflicts_with("public");
    Command::new("health")
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .arg(ready.help("Ask whether it is ready, not only whether it lives"))
        .arg(public.help("Ask the public port here, which knows only whether the server lives; none that is marked proxy+"))
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .default_value("3")
                .value_parser(timeout)
                .help("How long the answer is waited for, 60 at most"),
        )
        .arg(flags::file())
        .args(flags::some(&["control"]))
        .args(flags::control_url())
        .mut_arg("url", |arg| arg.conflicts_with("public"))
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let timeout = *matches.get_one::<Duration>("timeout").expect("it has a default");
    let client = match (flags::endpoint(matches)?, matches.get_one::<Address>("public")) {
        (Some(endpoint), _) => Client::at(endpoint, None, timeout),
        (None, Some(address)) => Client::new(address, None, timeout),
        (None, None) => match control(&where_said(flags::sources(matches))) {
            Ok(address) => Client::new(&address, None, timeout),
            Err(problems) => {
                report(&problems, LogFormat::Text);
                return Ok(ExitCode::FAILURE);
            }
        },
    };
    let path = if matches.get_flag("ready") { "/readyz" } else { "/healthz" };
    let place = client.place().to_owned();
    match client.get(path) {
        Ok(Answered { status, body }) if status.as_u16() == 200 => {
            output::line(format_args!("{place}{path}: {}", shown(&body)))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Answered { status, body }) => {
            output::remark(format_args!("error: {place}{path} answers {status}: {}", shown(&body)));
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            output::remark(format_args!(
                "error: {place}{path}: {error}; is `campanile serve` running, with its control address there? (--control ADDR asks another)"
            ));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Whoever says by flag or variable where the server is needs no file for it, nor that the file can be read.
fn where_said(sources: Sources) -> Sources {
    let is_said_by_flag = sources.flags.iter().any(|(setting, _)| setting.key == "control");
    let is_said = is_said_by_flag || sources.environment.iter().any(|(name, text)| name == "CAMPANILE_CONTROL" && !text.is_empty());
    if is_said { Sources { file: FileChoice::None, ..sources } } else { sources }
}

/// One line, without what a terminal would obey.
fn shown(body: &str) -> String {
    body.trim().chars().filter(|letter| !letter.is_control()).take(SHOWN_CHARS).collect()
}
