//! What is wrong with the settings, where it stands, and what would be right. Made by [`super::file`], [`super::layers`] and
//! [`super::check`], printed by [`crate::cli`]. Invariant: a problem never shows a password.

use std::fmt;

use super::mask;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(Place),
    /// The variable's name.
    Environment(String),
    /// The flag's name with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("default"),
            Origin::File(place) => place.fmt(out),
            Origin::Environment(name) | Origin::Flag(name) => out.write_str(name),
        }
    }
}

/// A place in a file; line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: usize,
    pub column: usize,
    /// The line as it may be shown.
    source: String,
    /// Characters to underline.
    width: usize,
}

impl Place {
    /// The place of a byte range of `text`, the content of `file`.
    pub fn new(file: &str, text: &str, range: std::ops::Range<usize>) -> Place {
        let start = floor_boundary(text, range.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let source = text[line_start..line_end].trim_end();
        let end = floor_boundary(text, range.end.clamp(start, line_end));
        let shown = if is_inside_of_lines(&text[..line_start]) { "***".to_owned() } else { mask::source(source) };
        // A mark under a line with a hidden part would point beside it.
        let width = if shown == source { text[start..end].chars().count().max(1) } else { 0 };
        Place {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            source: shown,
            width,
        }
    }
}

/// Whether a text of several lines is open behind this: whose it is does not stand in the line.
fn is_inside_of_lines(before: &str) -> bool {
    ["\"\"\"", "'''"].iter().any(|quotes| before.matches(quotes).count() % 2 == 1)
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file, self.line)
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing starts.
    Error,
    /// Said at start, then taken as it is.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub origin: Origin,
    /// The setting's TOML key; empty where no setting is meant (a syntax error, a file that cannot be read).
    pub key: String,
    pub message: String,
    pub accepted: Option<String>,
    pub help: Option<String>,
}

impl Problem {
    pub fn error(origin: Origin, key: &str, message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Error, origin, key: key.to_owned(), message: message.into(), accepted: None, help: None }
    }

    pub fn warning(origin: Origin, key: &str, message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(origin, key, message) }
    }

    pub fn accepted(self, accepted: impl Into<String>) -> Problem {
        Problem { accepted: Some(accepted.into()), ..self }
    }

    pub fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }

    /// A value that was typed in the wrong place may be quoted in it, a URL with a password too.
    pub fn shown_message(&self) -> String {
        mask::line(&self.message)
    }

    /// In one line, for the log of a server that goes on.
    pub fn line(&self) -> String {
        let place = match &self.origin {
            Origin::File(_) if self.key.is_empty() => format!("{}: ", self.origin),
            Origin::File(_) => format!("{}: {}: ", self.origin, self.key),
            Origin::Environment(name) | Origin::Flag(name) => format!("{name}: "),
            Origin::Default if self.key.is_empty() => String::new(),
            Origin::Default => format!("{}: ", self.key),
        };
        let right = self.accepted.as_ref().map(|accepted| format!("; accepted: {accepted}"));
        format!("{place}{}{}", self.shown_message(), right.unwrap_or_default())
    }

    /// Where it stands in the order of the report: the file from top to bottom, then environment, then flags, then the rest.
    pub fn order(&self) -> (u8, usize, usize) {
        match &self.origin {
            Origin::File(place) => (0, place.line, place.column),
            Origin::Environment(_) => (1, 0, 0),
            Origin::Flag(_) => (2, 0, 0),
            Origin::Default => (3, 0, 0),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (place, key) = match &self.origin {
            Origin::File(place) => (format!("{}:{}:{}: ", place.file, place.line, place.column), self.key.as_str()),
            Origin::Environment(name) => (String::new(), name.as_str()),
            Origin::Flag(name) => (String::new(), name.as_str()),
            Origin::Default => (String::new(), self.key.as_str()),
        };
        let colon = if key.is_empty() { "" } else { ": " };
        write!(out, "{place}{word}: {key}{colon}{}", self.shown_message())?;
        if let Origin::File(place) = &self.origin {
            let number = place.line.to_string();
            write!(out, "\n  {number} | {}", place.source)?;
            if place.width > 0 {
                // Tabs are kept, so that the mark stands under what it marks.
                let indent: String =
                    place.source.chars().take(place.column - 1).map(|letter| if letter == '\t' { letter } else { ' ' }).collect();
                let beyond = (place.column - 1).saturating_sub(place.source.chars().count());
                write!(out, "\n  {:1$} | {indent}{2:3$}{4}", "", number.len(), "", beyond, "^".repeat(place.width))?;
            }
        }
        if let Some(accepted) = &self.accepted {
            write!(out, "\n  accepted: {accepted}")?;
        }
        if let Some(help) = &self.help {
            write!(out, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// The candidate that was probably meant, if one is close enough.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace('-', "_");
    let far = (typed.chars().count() / 3).max(1);
    let scored = candidates.into_iter().map(|candidate| (distance(&typed, candidate), candidate));
    let best = scored.min_by_key(|&(distance, candidate)| (distance, candidate.len()))?;
    (best.0 <= far).then_some(best.1)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let text = "a = 1\nüü = bad\n";
        let start = text.find("bad").unwrap();
        let place = Place::new("f.toml", text, start..start + 3);
        assert_eq!((place.line, place.column, place.width), (2, 6, 3));
        let problem = Problem::error(Origin::File(place), "üü", "is bad").accepted("good").to_string();
        assert_eq!(problem, "f.toml:2:6: error: üü: is bad\n  2 | üü = bad\n    |      ^^^\n  accepted: good");
    }

    #[test]
    fn places_survive_any_range() {
        let text = "üa\nb";
        for start in 0..8 {
            for end in 0..8 {
                let _ = Problem::error(Origin::File(Place::new("f", text, start..end)), "", "x").to_string();
            }
        }
    }

    #[test]
    fn a_line_with_a_password_is_shown_without_it() {
        let text = "redis = \"redis://:secret@host:port\"";
        let problem = Problem::error(Origin::File(Place::new("f", text, 8..20)), "redis", "x").to_string();
        assert!(!problem.contains("secret") && problem.contains("redis://:***@host:port"), "{problem}");
        let text = "token_secret = \"\"\"\nhush\\q\"\"\"\nshards = 2\n";
        let at = |range| Problem::error(Origin::File(Place::new("f", text, range)), "", "x").to_string();
        assert!(!at(23..25).contains("hush") && at(31..33).contains("shards = 2"), "{} {}", at(23..25), at(31..33));
        let message = "\"redis://:secret@host\" is not a size";
        let problem = Problem::error(Origin::Flag("--backlog".to_owned()), "backlog", message).to_string();
        assert_eq!(problem, "error: --backlog: \"redis://:***@host\" is not a size");
    }

    #[test]
    fn suggestions_are_near() {
        let keys = ["heartbeat", "shards", "log_bytes_per_channel", "redis_channel", "redis"];
        assert_eq!(closest("hearbeat", keys), Some("heartbeat"));
        assert_eq!(closest("shrads", keys), Some("shards"));
        assert_eq!(closest("redis-channel", keys), Some("redis_channel"));
        assert_eq!(closest("log_byte_per_channel", keys), Some("log_bytes_per_channel"));
        assert_eq!(closest("colour", keys), None);
    }
}
