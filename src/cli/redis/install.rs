//! `campanile redis install`: loads the functions for durable publishing into every master it is shown the way to. What is sent to one, and what
//! its answers mean, is [`library`]'s.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::servers::{self, Server};
use crate::bus::redis::library::{self, Found, Goal, Install};
use crate::cli::{BadSettings, BadUsage, flags, output};
use crate::config::{RedisTls, load, mask, redis_url};

const LONG_ABOUT: &str = "\
Load the functions by which durable messages are published.

A Redis server needs them once: it keeps them with its data. One that has none, or an older version,
is given this program's; a newer one is left as it is. Of a Cluster every master is seen to, whichever
of its servers is named. Without --redis it is the Redis of the settings.

Exit code 0: every server has them. 1: one has not. 2: the command line or a setting is wrong.";
const EXAMPLES: &str = "\
Examples:
  campanile redis install --redis redis://127.0.0.1:6379
  campanile redis install --redis redis://10.0.0.1 --redis redis://10.0.0.2   several servers
  campanile redis install --check                                             only look
  campanile redis install --print | redis-cli -x FUNCTION LOAD REPLACE        by other means";

pub fn command() -> Command {
    let switch = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("install")
        .about("Load the functions by which durable messages are published")
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .args(flags::some(&["redis"]))
        .mut_arg("--redis", |arg| {
            let help = "The server, or one of a Cluster. May be given more than once [default: that of the settings]";
            let long_help = format!("{help}:\nredis://[[user]:password@]host[:6379], rediss://… (TLS), unix:///path");
            arg.action(ArgAction::Append).help_heading(None::<&str>).help(help).long_help(long_help)
        })
        .arg(switch("check", "Only look: exit code 1 if a server has not this version or a newer one"))
        .arg(switch("print", "Print the source of the functions").conflicts_with_all(["--redis", "check"]))
        .arg(flags::file())
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    if matches.get_flag("print") {
        output::bytes(library::SOURCE.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let goal = if matches.get_flag("check") { Goal::Look } else { Goal::Load };
    let mut found: Vec<Server> = Vec::new();
    let (urls, files) = urls(matches)?;
    for url in urls {
        for server in servers::reached_by(&url, &files) {
            if !found.iter().any(|known| known.name == server.name) {
                found.push(server);
            }
        }
    }
    let width = found.iter().map(|server| server.name.len()).max().unwrap_or(0);
    let colors = output::takes_colors(&std::io::stdout());
    let (all, mut missing) = (found.len(), 0);
    for server in found {
        let name = server.name.clone();
        let result = server.connection.and_then(|mut connection| install(&mut connection, goal));
        let is_ready = result.as_ref().is_ok_and(|found| is_ready(*found));
        missing += usize::from(!is_ready);
        let (verdict, text) = match &result {
            Ok(found) => words(*found),
            Err(reason) => ("failed", reason.clone()),
        };
        let color = if is_ready { "32" } else { "1;31" };
        let verdict = format!("{verdict:<8}");
        let verdict = if colors { format!("\x1b[{color}m{verdict}\x1b[0m") } else { verdict };
        output::line(format_args!("{name:<width$}  {verdict}  {text}"))?;
    }
    let servers = if all == 1 { "server" } else { "servers" };
    match missing {
        0 => output::line(format_args!("\n{all} {servers} ready for durable channels"))?,
        _ => output::line(format_args!("\n{missing} of {all} {servers} not ready for durable channels"))?,
    }
    Ok(ExitCode::from(u8::from(missing > 0)))
}

/// Those that were typed. Only without them are the settings read.
fn urls(matches: &ArgMatches) -> anyhow::Result<(Vec<String>, RedisTls)> {
    let typed: Vec<String> = matches.get_many::<String>("--redis").unwrap_or_default().filter(|url| !url.is_empty()).cloned().collect();
    if typed.is_empty() {
        let settings = load(&flags::sources(matches), None).map_err(BadSettings)?.settings;
        if settings.redis.url.is_none() {
            return Err(BadUsage("which Redis? Give --redis URL, or set redis in the file (CAMPANILE_REDIS)".to_owned()).into());
        }
        return Ok((settings.redis.urls().map(str::to_owned).collect(), settings.redis.tls()));
    }
    for url in &typed {
        redis_url::check(url).map_err(|reason| BadUsage(format!("--redis {}: {reason}", mask::url(url))))?;
    }
    Ok((typed, RedisTls::default()))
}

fn install(connection: &mut redis::Connection, goal: Goal) -> Result<Found, String> {
    let mut install = Install::new(goal);
    loop {
        let reply: redis::RedisResult<redis::Value> = redis::Cmd::new().arg(install.command()).query(connection);
        let ended = match &reply {
            Ok(value) => install.answered(Ok(value)),
            Err(error) => install.answered(Err(&servers::error_text(error).ok_or_else(|| servers::reason(error))?)),
        };
        if let Some(ended) = ended {
            return ended.map_err(|failure| failure.to_string());
        }
    }
}

fn is_ready(found: Found) -> bool {
    match found {
        Found::Loaded | Found::Same | Found::Replaced { .. } | Found::Newer { .. } => true,
        Found::Nothing | Found::Older { .. } => false,
    }
}

fn words(found: Found) -> (&'static str, String) {
    let ours = library::VERSION;
    match found {
        Found::Loaded => ("loaded", format!("version {ours}; it had none")),
        Found::Same => ("is there", format!("version {ours}")),
        Found::Replaced { older } => ("replaced", format!("version {ours}; it had {older}")),
        Found::Newer { version } => ("is there", format!("version {version}, newer than ours ({ours}), with all that we call")),
        Found::Nothing => ("none", "`campanile redis install` without --check loads it".to_owned()),
        Found::Older { version } => {
            ("older", format!("version {version}; `campanile redis install` without --check replaces it by {ours}"))
        }
    }
}
