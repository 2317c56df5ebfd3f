//! Rows about when nobody is taken in any more, because there is too much to do already.

use std::time::Duration;

use super::ROW;
use crate::config::parse::{self, MILLISECOND};
use crate::config::table::{Section, Setting, Shown, Value};
use crate::config::words::NONE;

fn show_percent(percent: Option<usize>) -> Shown {
    Shown::Both { text: percent.map_or_else(|| NONE.to_owned(), |percent| percent.to_string()), json: percent.into() }
}

pub(super) const ADMISSION_LAG: Setting = Setting {
    key: "admission_lag",
    section: Section::Bounds,
    placeholder: "MS",
    help: "A shard whose loop keeps what happens waiting for so long, averaged over a second or so, answers new clients 503 until it is half of that. Those who are connected are served on.",
    accepted: "none, or 10 to 60000 milliseconds, or with a unit: 250ms, 2s",
    value: one!(
        bounds.admission_lag,
        text => if text == NONE { Ok(None) } else { parse::duration(text, MILLISECOND, Duration::from_millis(10), Duration::from_secs(60)).map(Some) },
        value => match value {
            None => Shown::Both { text: NONE.to_owned(), json: serde_json::Value::Null },
            Some(lag) => Shown::Both { text: parse::show_duration(*lag, MILLISECOND), json: (lag.as_millis() as u64).into() },
        }
    ),
    ..ROW
};

pub(super) const ADMISSION_LOGS: Setting = Setting {
    key: "admission_logs",
    section: Section::Bounds,
    placeholder: "PERCENT",
    help: "The same for a shard whose logs hold so much of what they may (its part of log_bytes_total), until it is a tenth less. Not to be used where channels have a history: that fills logs on purpose.",
    accepted: "none, or 1 to 100 percent",
    value: one!(bounds.admission_logs, text => parse::limit(text, 100), value => show_percent(*value)),
    ..ROW
};

pub(super) const ADMISSION_MEMORY: Setting = Setting {
    key: "admission_memory",
    section: Section::Bounds,
    placeholder: "PERCENT",
    help: "The same for all shards, while less than so much of the host's memory, or of the control group's limit, is available, until it is a quarter more.",
    accepted: "none, or 1 to 100 percent",
    value: one!(bounds.admission_memory, text => parse::limit(text, 100), value => show_percent(*value)),
    ..ROW
};

pub(super) const ADMISSION_UNREADY: Setting = Setting {
    key: "admission_unready",
    section: Section::Bounds,
    placeholder: "BOOL",
    help: "While a shard takes nobody in for its load, /readyz says that the server is not ready, so that a load balancer sends clients elsewhere.",
    accepted: "true, false",
    value: Value::Switch { set: |settings, on| settings.bounds.admission_unready = on, get: |settings| settings.bounds.admission_unready },
    ..ROW
};
