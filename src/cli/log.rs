//! Logs of `campanile serve`: to standard error, through a channel, written by a thread of its own. And what it says besides, in the
//! same form: whoever asked for JSON gets nothing else, from the settings' mistakes to a panic.
//!
//! The thread matters: a shard may have a descriptor table of its own and must never wait for a terminal that is slow.

use std::fmt::Display;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::output;
use crate::config::problem::{Origin, Problem};
use crate::config::{LogFormat, Settings};

/// Dropping the guard writes what is still in the channel.
pub fn start(settings: &Settings) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let lines = fmt::layer().with_writer(writer).with_target(false).with_ansi(output::takes_colors(&std::io::stderr()));
    let lines = match settings.logging.format {
        LogFormat::Json => {
            panic_in_json();
            lines.json().boxed()
        }
        LogFormat::Text => lines.boxed(),
    };
    tracing_subscriber::registry().with(lines).with(settings.logging.level.targets()).init();
    guard
}

/// What is said besides the log lines: a text for people, or a line like those of the log with `fields`.
pub fn say(format: LogFormat, level: tracing::Level, text: impl Display, fields: impl FnOnce() -> Line) {
    match format {
        LogFormat::Text => output::remark(text),
        LogFormat::Json => output::remark(fields().json(level)),
    }
}

/// A line of the JSON log that does not come out of the log.
#[derive(Debug)]
pub struct Line {
    message: String,
    fields: Map<String, Value>,
}

impl Line {
    pub fn new(message: impl Display) -> Line {
        Line { message: message.to_string(), fields: Map::new() }
    }

    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Line {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    pub fn fields(mut self, fields: Map<String, Value>) -> Line {
        self.fields.extend(fields);
        self
    }

    /// Spelled as tracing-subscriber spells its own.
    pub fn json(self, level: tracing::Level) -> String {
        #[derive(Serialize)]
        struct Fields {
            message: String,
            #[serde(flatten)]
            others: Map<String, Value>,
        }
        #[derive(Serialize)]
        struct Spelled {
            timestamp: String,
            level: &'static str,
            fields: Fields,
        }
        let mut timestamp = String::new();
        // A String takes everything.
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        let fields = Fields { message: self.message, others: self.fields };
        serde_json::to_string(&Spelled { timestamp, level: level.as_str(), fields }).expect("texts and numbers can always be written")
    }
}

/// A warning with what to do about it behind `help:`.
pub fn warning(text: &str) -> Line {
    match text.split_once("\n  help: ") {
        Some((message, help)) => Line::new(message).field("help", help),
        None => Line::new(text),
    }
}

/// What is wrong with a setting.
pub fn problem(problem: &Problem) -> Line {
    let place = match &problem.origin {
        Origin::Default => None,
        Origin::File(place) => Some(format!("{}:{}:{}", place.file, place.line, place.column)),
        Origin::Environment(name) | Origin::Flag(name) => Some(name.clone()),
    };
    let known =
        [("setting", Some(problem.key.clone())), ("place", place), ("accepted", problem.accepted.clone()), ("help", problem.help.clone())];
    known
        .into_iter()
        .filter_map(|(name, text)| Some((name, text.filter(|text| !text.is_empty())?)))
        .fold(Line::new(problem.shown_message()), |line, (name, text)| line.field(name, text))
}

/// Not through the log: a release build ends before the thread that writes it gets to it.
fn panic_in_json() {
    std::panic::set_hook(Box::new(|panic| output::remark(Line::new(panic).json(tracing::Level::ERROR))));
}
