//! Lines on stdout and stderr. Called by every command. Invariant: each line of stdout is flushed as a whole, since its reader may wait
//! for it, and nothing depends on stderr; nothing that others have chosen (names, messages, a server's words) steers the terminal.

use std::fmt::{Arguments, Display};
use std::io::{ErrorKind, IsTerminal, Write};

/// Whoever read stdout has gone: the end of the command, not a failure.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub struct OutputClosed;

/// Whether a letter is for a terminal to obey, or turns the direction of what stands beside it.
fn steers(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A name that somebody else has chosen, as a terminal may be shown it.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if steers(letter) { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

/// Writes one line that holds what others have chosen, with what steers escaped as JSON does it: of JSON it is the same value.
pub fn json(text: &str) -> anyhow::Result<()> {
    let mut line = String::with_capacity(text.len() + 1);
    for letter in text.chars() {
        // Between values there may be a tab, which steers nothing; all of the others are below U+10000.
        match letter {
            letter if steers(letter) && letter != '\t' => line.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => line.push(letter),
        }
    }
    line.push('\n');
    bytes(line.as_bytes())
}

/// Writes one line.
pub fn line(text: Arguments<'_>) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes lines to stderr. What cannot be said there (a full disk, a reader that has gone) is no reason to end, as `eprintln!` would.
pub fn remark(text: impl Display) {
    let lines: Vec<String> = text.to_string().split('\n').map(printable).collect();
    let _ = std::io::stderr().write_all((lines.join("\n") + "\n").as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_name_holds_steers_a_terminal() {
        assert_eq!(printable("größe:🔔 \u{5d0}"), "größe:🔔 \u{5d0}");
        let hostile = "a\x1b[31mb\u{9b}2Jc\r\n\x07\u{202e}d\u{2066}e\u{feff}\u{200f}";
        let shown = printable(hostile);
        assert!(!shown.contains(char::is_control) && shown.starts_with("a\u{fffd}[31mb"), "{shown:?}");
        assert_eq!(shown.chars().filter(|letter| *letter == char::REPLACEMENT_CHARACTER).count(), 9, "{shown:?}");
    }
}
