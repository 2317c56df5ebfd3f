//! Lines on stdout and stderr. Called by every command. Invariant: each line of stdout is flushed as a whole, since its reader may wait
//! for it, and nothing depends on stderr.

use std::fmt::{Arguments, Display};
use std::io::{ErrorKind, IsTerminal, Write};

/// Whoever read stdout has gone: the end of the command, not a failure.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub struct OutputClosed;

/// Writes one line.
pub fn line(text: Arguments<'_>) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes one line to stderr. What cannot be said there (a full disk, a reader that has gone) is no reason to end, as `eprintln!` would.
pub fn remark(text: impl Display) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Whether what is written there may be colored.
pub fn takes_colors(stream: &impl IsTerminal) -> bool {
    // https://no-color.org
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes bytes as they are.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("stdout cannot be written")),
    }
}
