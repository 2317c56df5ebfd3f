//! Which log lines are written: a level, or levels for modules. Read by [`super::table`], obeyed by [`crate::cli::log`].
//!
//! Invariant: a word that would silence the log without being meant to (`warning`, a module that is not there) is no filter.

use std::fmt;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::problem::closest;

const LEVELS: &[(&str, LevelFilter)] = &[
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// What other programs call these levels.
const SYNONYMS: &[(&str, &str)] = &[
    ("none", "off"),
    ("critical", "error"),
    ("fatal", "error"),
    ("err", "error"),
    ("warning", "warn"),
    ("notice", "info"),
    ("information", "info"),
    ("verbose", "debug"),
    ("all", "trace"),
];

/// The modules of this crate: whatever is logged comes from one of them.
const MODULES: &[&str] = &[
    "addresses",
    "alarm",
    "auth",
    "bus",
    "by_name",
    "cli",
    "client",
    "clock",
    "config",
    "control",
    "doctor",
    "fanout",
    "few",
    "inbox",
    "journal",
    "life",
    "limits",
    "listen",
    "metrics",
    "named",
    "paged",
    "rate",
    "release",
    "server",
    "shard",
    "sys",
    "systemd",
    "tls",
    "trust",
    "wire",
];

const CRATE: &str = "campanile";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    /// Of modules that are not named.
    level: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
}

impl Default for LogFilter {
    fn default() -> LogFilter {
        LogFilter { level: LevelFilter::INFO, modules: Vec::new() }
    }
}

impl LogFilter {
    /// `info`, or `warn,campanile::bus=info`.
    pub fn parse(text: &str) -> Result<LogFilter, String> {
        let mut filter = LogFilter::default();
        let mut has_level = false;
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                _ if part.is_empty() => return Err("it is empty; off logs nothing".to_owned()),
                Some((module, word)) => filter.modules.push((module_path(module.trim())?, level(word.trim())?)),
                None if has_level => return Err(format!("{text:?} has two levels for the same modules")),
                None => {
                    filter.level = level(part)?;
                    has_level = true;
                }
            }
        }
        Ok(filter)
    }

    pub fn targets(&self) -> Targets {
        Targets::new().with_default(self.level).with_targets(self.modules.iter().cloned())
    }

    /// The level that asks for the most, if that is more than a build has (`max`).
    pub fn beyond(&self, max: LevelFilter) -> Option<LevelFilter> {
        let most = self.modules.iter().map(|(_, level)| *level).fold(self.level, LevelFilter::max);
        (most > max).then_some(most)
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.level)?;
        self.modules.iter().try_for_each(|(module, level)| write!(out, ",{module}={level}"))
    }
}

fn level(word: &str) -> Result<LevelFilter, String> {
    let word = word.to_lowercase();
    match SYNONYMS.iter().find(|(other, _)| *other == word) {
        Some((other, ours)) => Err(format!("{other:?} is not a level; did you mean {ours}?")),
        None => LEVELS.iter().find(|(name, _)| *name == word).map(|(_, level)| *level).ok_or_else(|| {
            let close = closest(&word, LEVELS.iter().map(|(name, _)| *name));
            format!("{word:?} is not a level{}", close.map_or(String::new(), |name| format!("; did you mean {name}?")))
        }),
    }
}

/// A module of ours, or one in it.
fn module_path(text: &str) -> Result<String, String> {
    let name = match text.split_once("::") {
        None if text == CRATE => return Ok(text.to_owned()),
        Some((CRATE, inside)) => inside.split("::").next().unwrap_or(inside),
        _ => return Err(format!("nothing is logged by a module {text:?}: ours begin with {CRATE}::, as in {CRATE}::bus")),
    };
    if MODULES.contains(&name) {
        return Ok(text.to_owned());
    }
    let close = closest(name, MODULES.iter().copied());
    let close = close.map_or_else(|| format!("there are {}", MODULES.join(", ")), |name| format!("did you mean {CRATE}::{name}?"));
    Err(format!("there is no module {text:?}; {close}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_modules_are_read_and_shown() {
        for (text, shown) in [
            ("off", "off"),
            ("WARN", "warn"),
            (" info ", "info"),
            ("warn, campanile::bus=info", "warn,campanile::bus=info"),
            ("campanile::bus::link=debug", "info,campanile::bus::link=debug"),
            ("error,campanile=trace", "error,campanile=trace"),
        ] {
            let filter = LogFilter::parse(text).unwrap();
            assert_eq!(filter.to_string(), shown);
            assert_eq!(LogFilter::parse(shown), Ok(filter));
        }
        let beyond = |text| LogFilter::parse(text).unwrap().beyond(LevelFilter::INFO);
        assert_eq!(beyond("warn,campanile::bus=debug"), Some(LevelFilter::DEBUG));
        assert_eq!(beyond("warn,campanile::bus=info"), None);
    }

    /// It was taken for the name of a module, and nothing was logged.
    #[test]
    fn a_word_that_is_no_level_silences_nothing() {
        for (text, hint) in [
            ("warning", "did you mean warn?"),
            ("wran", "did you mean warn?"),
            ("loud", "is not a level"),
            ("", "off logs nothing"),
            ("info,", "off logs nothing"),
            ("info,debug", "two levels"),
            ("campanile=loud", "is not a level"),
            ("campanile::bus=verbose", "did you mean debug?"),
            ("campanile::buss=debug", "did you mean campanile::bus?"),
            ("tokio=debug", "ours begin with campanile::"),
            ("bus=debug", "campanile::bus"),
            ("=debug", "ours begin with"),
            ("info,[span]=debug", "ours begin with"),
        ] {
            let reason = LogFilter::parse(text).unwrap_err();
            assert!(reason.contains(hint), "{text}: {reason}");
        }
    }

    #[test]
    fn the_modules_are_those_of_the_crate() {
        let source = include_str!("../lib.rs");
        let modules: Vec<&str> = source.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
        assert_eq!(modules, MODULES);
    }
}
