//! The function library for durable publishing: its source, and what to do about a server that has none, an older or a newer one. Depends on
//! replies alone: whoever holds a connection, blocking or not, asks [`Install::command`] what to send, and tells [`Install::answered`] what came back.
//!
//! Invariant: FUNCTION LOAD says REPLACE only where an older library of ours is known to stand, or two versions would replace each other for ever.

use redis::Value;

use super::call_error::CallError;

/// As it is loaded; `docs/durable.md` says how it is called.
pub const SOURCE: &str = include_str!("functions.lua");
/// What `campanile_version` answers of this source.
pub const VERSION: i64 = 2;
pub const NAME: &str = "campanile";
/// Of a single message, it does the same in every version of the library.
pub const PUBLISH: &str = "campanile_publish_1";
/// Messages of one call lie together in an entry: for whoever publishes many.
pub const PUBLISH_PACKED: &str = "campanile_publish_2";
pub const OPEN: &str = "campanile_open_1";
pub const RENEW: &str = "campanile_renew_1";
const VERSION_FUNCTION: &str = "campanile_version";
/// Payloads that one call takes.
pub const PAYLOADS_MAX: usize = 10_000;

/// What is wanted of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Look,
    Load,
}

/// What stands on the server in the end, and can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It has none, and was only looked at.
    Nothing,
    Loaded,
    /// This version, since before.
    Same,
    Replaced {
        older: i64,
    },
    /// An older one, that was only looked at.
    Older {
        version: i64,
    },
    /// It has the functions that we call.
    Newer {
        version: i64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error(
        "it has the library `campanile` {version}, which has no {missing} any more: upgrade this Campanile, which knows version {VERSION}"
    )]
    TooNew { version: i64, missing: &'static str },
    #[error("it has a library `campanile` that is not ours: it answers no {VERSION_FUNCTION}. FUNCTION DELETE campanile removes it")]
    Foreign,
    #[error("{}", with_advice(.0))]
    Refused(String),
    #[error("it answers to {0} what cannot be understood")]
    Odd(&'static str),
}

fn with_advice(error: &str) -> String {
    match CallError::of(error).advice() {
        "" => error.to_owned(),
        advice => format!("{error}; {advice}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Load,
    AskVersion,
    /// Which functions it has: of a newer version, or of a library that answers no version.
    List {
        version: Option<i64>,
    },
    Replace {
        older: i64,
    },
}

/// One server on its way to the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    goal: Goal,
    step: Step,
}

impl Install {
    pub fn new(goal: Goal) -> Install {
        Install { goal, step: if goal == Goal::Load { Step::Load } else { Step::AskVersion } }
    }

    /// What is to be sent next; every part is text.
    pub fn command(&self) -> Vec<&'static str> {
        match self.step {
            Step::Load => vec!["FUNCTION", "LOAD", SOURCE],
            Step::AskVersion => vec!["FCALL", VERSION_FUNCTION, "0"],
            Step::List { .. } => vec!["FUNCTION", "LIST", "LIBRARYNAME", NAME],
            Step::Replace { .. } => vec!["FUNCTION", "LOAD", "REPLACE", SOURCE],
        }
    }

    /// What was answered to it, an error by its text without the `-`. None: there is more to be sent.
    pub fn answered(&mut self, reply: Result<&Value, &str>) -> Option<Result<Found, Failure>> {
        let next = match (self.step, reply) {
            (Step::Load, Ok(_)) => return Some(Ok(Found::Loaded)),
            (Step::Load, Err(error)) if is_taken(error) => Step::AskVersion,
            (Step::AskVersion, Ok(Value::Int(version))) => match version.cmp(&VERSION) {
                std::cmp::Ordering::Equal => return Some(Ok(Found::Same)),
                std::cmp::Ordering::Less if self.goal == Goal::Look => return Some(Ok(Found::Older { version: *version })),
                std::cmp::Ordering::Less => Step::Replace { older: *version },
                std::cmp::Ordering::Greater => Step::List { version: Some(*version) },
            },
            (Step::AskVersion, Err(error)) if CallError::of(error) == CallError::NoFunction => Step::List { version: None },
            (Step::List { version }, Ok(value)) => return Some(self.listed(version, value)),
            (Step::Replace { older }, Ok(_)) => return Some(Ok(Found::Replaced { older })),
            (_, Err(error)) => return Some(Err(Failure::Refused(error.to_owned()))),
            (Step::AskVersion, Ok(_)) => return Some(Err(Failure::Odd(VERSION_FUNCTION))),
        };
        self.step = next;
        None
    }

    fn listed(&self, version: Option<i64>, value: &Value) -> Result<Found, Failure> {
        let Value::Array(libraries) = value else { return Err(Failure::Odd("FUNCTION LIST")) };
        match version {
            None if libraries.is_empty() && self.goal == Goal::Look => Ok(Found::Nothing),
            // Gone since it was loaded, or there are two libraries called by one name.
            None if libraries.is_empty() => Err(Failure::Odd("FUNCTION LOAD")),
            None => Err(Failure::Foreign),
            Some(version) => match [PUBLISH, OPEN, RENEW].into_iter().find(|name| !libraries.iter().any(|library| names(library, name))) {
                Some(missing) => Err(Failure::TooNew { version, missing }),
                None => Ok(Found::Newer { version }),
            },
        }
    }
}

/// FUNCTION LOAD found a library of the name.
fn is_taken(error: &str) -> bool {
    // `ERR Function … already exists` is another's that has one of our functions.
    error.starts_with("ERR Library ") && error.contains("already exists")
}

/// Whether the name stands anywhere in the description of a library, which RESP2 and RESP3 nest differently.
fn names(value: &Value, name: &str) -> bool {
    match value {
        Value::Array(items) | Value::Set(items) => items.iter().any(|item| names(item, name)),
        Value::Map(pairs) => pairs.iter().any(|(_, item)| names(item, name)),
        Value::BulkString(bytes) => bytes == name.as_bytes(),
        Value::SimpleString(text) => text == name,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::redis::durable::{PACKED_BYTES_MAX, PACKED_MAX};

    /// Plays a server that answers one thing after the other, and returns what was sent, by its first words.
    fn play(goal: Goal, replies: &[Result<Value, &str>]) -> (Vec<String>, Option<Result<Found, Failure>>) {
        let mut install = Install::new(goal);
        let mut sent = Vec::new();
        for reply in replies {
            sent.push(install.command().into_iter().filter(|part| *part != SOURCE).collect::<Vec<_>>().join(" "));
            if let Some(end) = install.answered(reply.as_ref().map_err(|error| *error)) {
                return (sent, Some(end));
            }
        }
        (sent, None)
    }

    fn library(functions: &[&str]) -> Result<Value, &'static str> {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let functions = functions.iter().map(|name| Value::Array(vec![text("name"), text(name)])).collect();
        Ok(Value::Array(vec![Value::Map(vec![(text("library_name"), text("campanile")), (text("functions"), Value::Array(functions))])]))
    }

    const TAKEN: Result<Value, &str> = Err("ERR Library 'campanile' already exists");
    const ALL: &[&str] = &[PUBLISH, PUBLISH_PACKED, "campanile_publish_3", OPEN, RENEW, VERSION_FUNCTION];

    #[test]
    fn the_source_is_of_this_version() {
        assert!(SOURCE.starts_with(&format!("#!lua name={NAME}\n")));
        assert!(SOURCE.contains(&format!("callback = function() return {VERSION} end")));
        assert!(SOURCE.contains(&format!("PAYLOADS_MAX = {} * 1000", PAYLOADS_MAX / 1000)));
        assert!(SOURCE.contains(&format!("PACKED_MAX = {PACKED_MAX}\n")));
        assert!(SOURCE.contains(&format!("PACKED_BYTES_MAX = {} * 1024\n", PACKED_BYTES_MAX / 1024)));
        for name in [PUBLISH, PUBLISH_PACKED, OPEN, RENEW, VERSION_FUNCTION] {
            assert!(SOURCE.contains(&format!("'{name}'")), "{name}");
        }
    }

    #[test]
    fn what_stands_decides_what_is_sent() {
        let version = |version| Ok(Value::Int(version));
        for (goal, replies, sent, end) in [
            (Goal::Load, vec![Ok(Value::Okay)], "FUNCTION LOAD", Ok(Found::Loaded)),
            (Goal::Load, vec![TAKEN, version(2)], "FUNCTION LOAD, FCALL campanile_version 0", Ok(Found::Same)),
            (
                Goal::Load,
                vec![TAKEN, version(0), Ok(Value::Okay)],
                "FUNCTION LOAD, FCALL campanile_version 0, FUNCTION LOAD REPLACE",
                Ok(Found::Replaced { older: 0 }),
            ),
            (
                Goal::Load,
                vec![TAKEN, version(3), library(ALL)],
                "FUNCTION LOAD, FCALL campanile_version 0, FUNCTION LIST LIBRARYNAME campanile",
                Ok(Found::Newer { version: 3 }),
            ),
            (
                Goal::Load,
                vec![TAKEN, version(3), library(&["campanile_publish_3", OPEN, RENEW])],
                "FUNCTION LOAD, FCALL campanile_version 0, FUNCTION LIST LIBRARYNAME campanile",
                Err(Failure::TooNew { version: 3, missing: PUBLISH }),
            ),
            (
                Goal::Load,
                vec![TAKEN, Err("ERR Function not found"), library(&["other"])],
                "FUNCTION LOAD, FCALL campanile_version 0, FUNCTION LIST LIBRARYNAME campanile",
                Err(Failure::Foreign),
            ),
            (Goal::Look, vec![version(2)], "FCALL campanile_version 0", Ok(Found::Same)),
            (Goal::Look, vec![version(0)], "FCALL campanile_version 0", Ok(Found::Older { version: 0 })),
            (
                Goal::Look,
                vec![Err("ERR Function not found"), Ok(Value::Array(vec![]))],
                "FCALL campanile_version 0, FUNCTION LIST LIBRARYNAME campanile",
                Ok(Found::Nothing),
            ),
        ] {
            let (asked, ended) = play(goal, &replies);
            assert_eq!((asked.join(", ").as_str(), ended), (sent, Some(end)), "{replies:?}");
        }
    }

    #[test]
    fn what_is_refused_says_what_to_do() {
        for (error, part) in [
            ("READONLY You can't write against a read only replica.", "use its master"),
            ("ERR unknown command 'FUNCTION', with args beginning with: 'LOAD' ", "Redis 7.0"),
            ("NOPERM this user has no permissions to run the 'function|load' command", "docs/durable.md"),
            ("ERR Function campanile_open_1 already exists", "campanile_open_1"),
        ] {
            let (_, end) = play(Goal::Load, &[Err(error)]);
            let failure = end.expect("it ends").unwrap_err();
            assert!(failure.to_string().contains(part), "{failure}");
        }
    }
}
