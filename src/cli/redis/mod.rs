//! `campanile redis …`: what is done to a Redis itself.

mod install;
pub(super) mod servers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::config::RedisTls;

/// For a URL, with the files that a Redis over TLS needs.
pub(super) fn client(url: &str, files: &RedisTls) -> redis::RedisResult<redis::Client> {
    let read = |file: &Option<PathBuf>| file.as_ref().map(std::fs::read).transpose();
    let (root_cert, cert, key) = (read(&files.ca)?, read(&files.cert)?, read(&files.key)?);
    if root_cert.is_none() && cert.is_none() {
        return redis::Client::open(url);
    }
    let client_tls = cert.zip(key).map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
    redis::Client::build_with_tls(url, redis::TlsCertificates { client_tls, root_cert })
}

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
