//! `campanile doctor`: holds what the settings need against what the host has. The reckoning is [`crate::doctor`]'s.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use super::{BadSettings, flags, output};
use crate::config::{Settings, load, parse};
use crate::doctor::host::Facts;
use crate::doctor::{Check, Load, Verdict, count, examine, show_number};
use crate::limits::{CONNECTIONS_MAX, PAYLOAD_BYTES_MAX};

const ABOUT: &str = "Check whether this host has what so many connections need";
const LONG_ABOUT: &str = "\
Check whether this host has what so many connections need: descriptors, memory, backlogs, cores.

Reads the settings as `campanile serve` does (file, CAMPANILE_ variables, and any flag of serve), and
the limits of the process it runs in: run it as the server's user, before the server starts.
Exit code 0: everything is enough. 1: something is too low. 2: the command line or a setting is wrong.";
const EXAMPLES: &str = "\
Examples:
  campanile doctor                                                 what the settings ask for, one message a second
  campanile doctor --connections 1_000_000 --rate 5 --payload 2k   another size
  campanile doctor --connections 200000 --shards 8 --fd-table private --json";

pub fn command() -> Command {
    // Numbers are written as in the settings.
    let number =
        |name: &'static str, placeholder: &'static str, help: &'static str| Arg::new(name).long(name).value_name(placeholder).help(help);
    let connections = |text: &str| parse::number(text, 1, CONNECTIONS_MAX as u64);
    let payload = |text: &str| parse::size(text, 0, PAYLOAD_BYTES_MAX as u64);
    Command::new("doctor")
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .arg(number("connections", "N", "Connections [default: connections_max]").value_parser(connections))
        .arg(number("rate", "R", "Messages a second, each to every connection").default_value("1").value_parser(rate))
        .arg(number("payload", "SIZE", "Bytes of a message, as in 128, 100k, 1M").default_value("128").value_parser(payload))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON"))
        .arg(
            Arg::new("root")
                .long("root")
                .value_name("DIR")
                .default_value("/")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Where the proc and sys to be read are"),
        )
        // What kind of payload a channel takes is of no matter here, and its size is.
        .args(flags::all_hidden(&["payload"]))
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate| (0.0..=1e9).contains(rate)).ok_or_else(|| "a number of messages a second, 0 to 1000000000".into())
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let root = matches.get_one::<PathBuf>("root").expect("it has a default");
    let facts = Facts::read(root);
    let loaded = load(&flags::sources(matches), Some(&facts.host())).map_err(BadSettings)?;
    for warning in &loaded.warnings {
        output::remark(format_args!("{warning}\n"));
    }
    let mut settings = loaded.settings;
    if let Some(&connections) = matches.get_one::<u64>("connections") {
        settings.bounds.connections_max = connections as usize;
    }
    let asked = Load {
        rate: *matches.get_one("rate").expect("it has a default"),
        payload_bytes: *matches.get_one("payload").expect("it has a default"),
    };
    let checks = examine(&settings, asked, &facts);
    let too_low = checks.iter().filter(|check| check.verdict == Verdict::TooLow).count();
    if matches.get_flag("json") {
        let answer = json!({
            "connections": settings.bounds.connections_max,
            "rate": asked.rate,
            "payload_bytes": asked.payload_bytes,
            "shards": settings.shards.count,
            "too_low": too_low,
            "checks": checks,
        });
        output::line(format_args!("{answer:#}"))?;
    } else {
        let colors = output::takes_colors(&std::io::stdout());
        output::bytes(page(&settings, asked, &checks, colors).as_bytes())?;
    }
    Ok(ExitCode::from(u8::from(too_low > 0)))
}

fn page(settings: &Settings, load: Load, checks: &[Check], colors: bool) -> String {
    let (connections, shards) = (settings.bounds.connections_max as u64, settings.shards.count);
    let mut page = format!(
        "{} connections, {} message{}/s of {} B to each, {shards} shard{}\n\n",
        count(connections),
        show_number(load.rate),
        if load.rate == 1.0 { "" } else { "s" },
        count(load.payload_bytes),
        if shards == 1 { "" } else { "s" }
    );
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in checks {
        let verdict = format!("{:<7}", check.verdict.words());
        let color = match check.verdict {
            Verdict::Ok => "32",
            Verdict::Note | Verdict::Unknown => "33",
            Verdict::TooLow => "1;31",
        };
        let verdict = if colors { format!("\x1b[{color}m{verdict}\x1b[0m") } else { verdict };
        page += &format!("{:<width$}  {verdict}  {}\n", check.name, check.text);
        if let Some(fix) = &check.fix {
            page += &format!("{:<width$}  {:<7}  -> {fix}\n", "", "");
        }
    }
    let too_low = checks.iter().filter(|check| check.verdict == Verdict::TooLow).count();
    page + &match too_low {
        0 => "\nnothing is too low\n".to_owned(),
        number => format!("\n{number} of {} too low\n", checks.len()),
    }
}
