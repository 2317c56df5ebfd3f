//! Flags out of the table of settings, and the sources that a command line names. Called by the commands.
//!
//! Values are read by [`crate::config::layers`] and not by clap, so that every mistake is told at once and a password is never quoted.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use super::BadUsage;
use crate::client::endpoint::Endpoint;
use crate::client::tls::Trust;
use crate::config::layers::{FILE_NAME, FILE_VARIABLE};
use crate::config::problem::Origin;
use crate::config::table::{SETTINGS, Setting, VARIABLE_PREFIX};
use crate::config::{FileChoice, Sources, mask, print};

/// Columns of an explanation, beside clap's indent of ten.
const HELP_WIDTH: usize = 90;

/// What clap knows a setting's flag by. With dashes, so that an argument of a command (`publish CHANNEL PAYLOAD`) is never taken for
/// the setting of that name.
pub fn id(setting: &Setting) -> String {
    format!("--{}", setting.flag())
}

/// The flag of one setting.
pub fn flag(setting: &'static Setting) -> Arg {
    let default = setting.default_texts().join(",");
    let default = if default.is_empty() { "none".to_owned() } else { default };
    // Clap wraps no lines without a further dependency.
    let explained = [print::wrap(setting.help, HELP_WIDTH), print::wrap(&format!("Accepted: {}", setting.accepted), HELP_WIDTH)].concat();
    let (first_sentence, _) = setting.help.split_once(". ").unwrap_or((setting.help.trim_end_matches('.'), ""));
    // Clap wants its texts for the life of the program, and there is one command line in it.
    let id: &'static str = id(setting).leak();
    let arg = Arg::new(id)
        .long(&id[2..])
        .value_name(setting.placeholder)
        .help(format!("{first_sentence} [default: {default}]"))
        .long_help(format!("{}\n[default: {default}] [env: {}]", explained.join("\n"), setting.variable()))
        .help_heading(setting.section.title());
    if setting.is_switch() {
        return arg.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    if setting.is_list() { arg.action(ArgAction::Append) } else { arg }.allow_hyphen_values(true)
}

/// The flags of all settings, and `--config`.
pub fn all() -> Vec<Arg> {
    std::iter::once(file()).chain(SETTINGS.iter().map(flag)).collect()
}

/// [`all`] but those of `except`, out of sight in `--help`: for a command that reads the settings but is not about them.
pub fn all_hidden(except: &[&str]) -> Vec<Arg> {
    let settings = SETTINGS.iter().filter(|setting| !except.contains(&setting.key));
    std::iter::once(file()).chain(settings.map(flag)).map(|arg| arg.hide(true)).collect()
}

/// The flags of some settings.
pub fn some(keys: &[&str]) -> Vec<Arg> {
    SETTINGS.iter().filter(|setting| keys.contains(&setting.key)).map(flag).collect()
}

/// Flags that there are not but that are typed all the same: the command, what other programs call it, what to write.
const MISNAMED: &[(&str, &[&str], &str)] = &[
    ("serve", &["--port", "-p", "--host", "--bind", "--address"], "--listen 127.0.0.1:8080, or 0.0.0.0:8080 for every IPv4 address"),
    ("serve", &["--redis-url", "--url"], "--redis redis://127.0.0.1:6379"),
    ("serve", &["--threads", "--workers"], "--shards 4"),
    ("serve", &["--max-connections"], "--connections-max 100000"),
    ("serve", &["--verbose", "-v"], "--log-level debug"),
    ("publish", &["--port", "-p", "--host", "--server"], "--control 127.0.0.1:9090"),
    ("publish", &["--redis-url"], "--redis redis://127.0.0.1:6379"),
    ("subscribe", &["--port", "-p", "--host", "--server", "--listen"], "--url ws://127.0.0.1:8080/ws"),
    ("subscribe", &["--redis", "--redis-url"], "--url ws://127.0.0.1:8080/ws: a server's address, not that of Redis"),
    ("health", &["--port", "-p", "--host", "--server"], "--control 127.0.0.1:9090, or --public 127.0.0.1:8080"),
    ("redis", &["--redis-url", "--url"], "--redis redis://127.0.0.1:6379"),
    ("top", &["--server", "--host", "--port", "-p", "--listen"], "--control 127.0.0.1:9090: the control address, not the public one"),
    ("subscribe", &["--control"], "--url ws://127.0.0.1:8080/ws: the public address, not the control address"),
];

/// Puts what to write into the error about a flag of `MISNAMED`, in place of whatever flag is spelled alike.
pub fn explain_misnamed(error: &mut clap::Error, command: &str) {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidArg) else { return };
    let known = MISNAMED.iter().find(|(of, names, _)| *of == command && names.contains(&typed.as_str()));
    if let (ErrorKind::UnknownArgument, Some((_, _, write))) = (error.kind(), known) {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![format!("write {write}").into()]));
    }
}

const FILE: &str = "config-file";

/// `--config FILE`.
pub fn file() -> Arg {
    Arg::new(FILE)
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help(format!("The file of settings [default: {FILE_NAME} if present]"))
        .long_help(format!("The file of settings\n[default: {FILE_NAME} in the working directory, if present] [env: {FILE_VARIABLE}]"))
}

/// Whom to believe at the other end of `wss://` or `https://`.
pub fn trust() -> [Arg; 3] {
    let ca = "Who vouches for a server over TLS, in place of the system's root certificates: a PEM file, also with the server's own";
    let name = "As whom a server over TLS is asked for and checked, if not by the URL's host";
    [
        Arg::new("ca").long("ca").value_name("FILE").value_parser(clap::value_parser!(PathBuf)).help(ca),
        Arg::new("server-name").long("server-name").value_name("NAME").help(name),
        Arg::new("insecure")
            .long("insecure")
            .action(ArgAction::SetTrue)
            .conflicts_with("ca")
            .help("Believe whoever answers over TLS: for trying out"),
    ]
    .map(|arg| arg.help_heading("TLS"))
}

/// A control port by its URL, for commands that have `--control` too.
pub fn control_url() -> [Arg; 4] {
    let help = "The control port behind a proxy that speaks TLS, in place of --control: https://HOST[:PORT][/PATH]";
    let url = Arg::new("url").long("url").value_name("URL").conflicts_with("--control").help(help).help_heading("TLS");
    let [ca, name, insecure] = trust();
    [url, ca.requires("url"), name.requires("url"), insecure.requires("url")]
}

/// What `--url` of [`control_url`] names, if it was given.
pub fn endpoint(matches: &ArgMatches) -> Result<Option<Endpoint>, BadUsage> {
    let Some(url) = matches.get_one::<String>("url") else { return Ok(None) };
    Endpoint::read(url, trusted(matches).as_ref()).map(Some).map_err(|why| BadUsage(format!("--url: {why}")))
}

/// None: nothing of it was said.
pub fn trusted(matches: &ArgMatches) -> Option<Trust> {
    let ca = matches.get_one::<PathBuf>("ca").cloned();
    let server_name = matches.get_one::<String>("server-name").cloned();
    let trust = Trust { ca, is_insecure: matches.get_flag("insecure"), server_name };
    (trust != Trust::default()).then_some(trust)
}

/// Where the settings of this command line come from.
pub fn sources(matches: &ArgMatches) -> Sources {
    let named = |path: PathBuf, said_by| FileChoice::Named { path, said_by };
    let file = match matches.try_get_one::<PathBuf>(FILE) {
        Ok(Some(path)) => named(path.clone(), Origin::Flag("--config".to_owned())),
        _ => match std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => named(path.into(), Origin::Environment(FILE_VARIABLE.to_owned())),
            None => FileChoice::IfPresent,
        },
    };
    Sources { file, environment: environment(), flags: typed(matches) }
}

/// The settings that were given as flags, with their texts.
fn typed(matches: &ArgMatches) -> Vec<(&'static Setting, Vec<String>)> {
    SETTINGS
        .iter()
        .map(|setting| (setting, id(setting)))
        .filter(|(_, id)| matches!(matches.try_contains_id(id), Ok(true)))
        .filter(|(_, id)| matches.value_source(id) == Some(ValueSource::CommandLine))
        .map(|(setting, id)| (setting, matches.get_many::<String>(&id).unwrap_or_default().cloned().collect()))
        .collect()
}

/// What is secret of them: texts that should not stay where everybody on the host can read them.
pub fn secrets(matches: &ArgMatches) -> Vec<String> {
    let mut secrets = Vec::new();
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    for (setting, texts) in typed(matches) {
        let Some(mask) = setting.secret else { continue };
        secrets.extend(texts.into_iter().filter(|text| mask(text) != *text));
    }
    // What the commands take beside the settings.
    for (id, mask) in [("token", mask::secret as fn(&str) -> String), ("inspect", mask::secret), ("url", mask::url)] {
        let given = matches.try_get_many::<String>(id).ok().flatten().unwrap_or_default();
        secrets.extend(given.filter(|text| mask(text) != **text).cloned());
    }
    secrets
}

/// Only our own variables; a value that is not UTF-8 is shown as such when it is read.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .collect()
}
