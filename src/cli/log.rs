//! Logs of `campanile serve`: to standard error, through a channel, written by a thread of its own.
//!
//! The thread matters: a shard may have a descriptor table of its own and must never wait for a terminal that is slow.

use anyhow::Context;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};

/// Dropping the guard writes what is still in the channel.
pub fn start(settings: &Settings) -> anyhow::Result<WorkerGuard> {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let filter = EnvFilter::try_new(&settings.log_level).with_context(|| format!("log_level `{}` is not a filter", settings.log_level))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    match settings.log_format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
    }
    Ok(guard)
}
