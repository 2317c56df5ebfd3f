//! What a setting is. The settings themselves stand in `rows.rs`, each once. From that table come the flags ([`crate::cli`]), the environment overlay and the reading of the file
//! ([`super::layers`], [`super::file`]), `campanile config --default` and `--markdown` ([`super::print`]).
//!
//! Invariant: for every setting, what `show` writes, `parse` reads back to the same value; defaults stand in `defaults.rs`.

use std::time::Duration;

use serde_json::json;

use super::parse;
use super::problem::closest;
use super::{ChannelRule, Settings};
use crate::named::Named;

pub use super::rows::SETTINGS;

/// One setting: its names, its texts, and how its text becomes a value.
#[derive(Debug)]
pub struct Setting {
    /// As in the file; [`Setting::flag`] and [`Setting::variable`] are the same word, spelled otherwise.
    pub key: &'static str,
    pub section: Section,
    /// Stands for the value in `--help`.
    pub placeholder: &'static str,
    /// What it does and why one would change it.
    pub help: &'static str,
    /// Every text that is taken.
    pub accepted: &'static str,
    pub value: Value,
    /// The default's text where the value depends on the host.
    pub default_text: Option<&'static str>,
    /// Of a value that may hold a password: what may be shown of its text.
    pub secret: Option<fn(&str) -> String>,
}

/// How the texts of a setting are read into [`Settings`] and shown. The reason of an `Err` says what is wrong with the text.
#[derive(Debug)]
pub enum Value {
    One {
        parse: fn(&mut Settings, &str) -> Result<(), String>,
        show: fn(&Settings) -> Shown,
    },
    /// A later source replaces the whole list.
    Many {
        clear: fn(&mut Settings),
        push: fn(&mut Settings, &str) -> Result<(), String>,
        show: fn(&Settings) -> Vec<String>,
    },
    Switch {
        set: fn(&mut Settings, bool),
        get: fn(&Settings) -> bool,
    },
    /// Also a key of `[[channels]]`, named `rule_key` there. At the top level it is the rule of all other channels.
    Rule {
        rule_key: &'static str,
        parse: fn(&mut ChannelRule, &str) -> Result<(), String>,
        show: fn(&ChannelRule) -> Shown,
    },
}

/// A value on its way out: for people as a text that would be read back to it, for programs as JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    Text(String),
    Number(u64),
    Bytes(u64),
    /// In texts a bare number counts `unit`, in JSON milliseconds.
    Time {
        time: Duration,
        unit: Duration,
    },
    Switch(bool),
    List(Vec<String>),
    /// What JSON says otherwise than a text.
    Both {
        text: String,
        json: serde_json::Value,
    },
}

impl Shown {
    pub fn word(value: impl Named) -> Shown {
        Shown::Text(value.name().to_owned())
    }

    /// One, except for a list.
    pub fn texts(self) -> Vec<String> {
        vec![match self {
            Shown::List(texts) => return texts,
            Shown::Text(text) | Shown::Both { text, .. } => text,
            Shown::Number(number) => number.to_string(),
            Shown::Bytes(bytes) => parse::show_size(bytes),
            Shown::Time { time, unit } => parse::show_duration(time, unit),
            Shown::Switch(on) => on.to_string(),
        }]
    }

    /// With its name, which tells the unit of a time.
    pub fn json(self, key: &str) -> (String, serde_json::Value) {
        let key = key.to_owned();
        match self {
            Shown::Text(text) => (key, text.into()),
            Shown::Number(number) | Shown::Bytes(number) => (key, number.into()),
            Shown::Time { time, .. } => (key + "_ms", json!(time.as_millis() as u64)),
            Shown::Switch(on) => (key, on.into()),
            Shown::List(texts) => (key, texts.into()),
            Shown::Both { json, .. } => (key, json),
        }
    }

    fn masked(self, mask: fn(&str) -> String) -> Shown {
        match self {
            Shown::List(texts) => Shown::List(texts.iter().map(|text| mask(text)).collect()),
            other => Shown::Text(other.texts().iter().map(|text| mask(text)).collect()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Addresses,
    Redis,
    Shards,
    Clients,
    Channels,
    Bounds,
    Logging,
}

impl Section {
    pub const ALL: [Section; 7] =
        [Section::Addresses, Section::Redis, Section::Shards, Section::Clients, Section::Channels, Section::Bounds, Section::Logging];

    pub const fn title(self) -> &'static str {
        match self {
            Section::Addresses => "Addresses",
            Section::Redis => "Redis",
            Section::Shards => "Shards",
            Section::Clients => "Clients",
            Section::Channels => "Channels (each may differ per prefix, in [[channels]])",
            Section::Bounds => "Bounds",
            Section::Logging => "Logging",
        }
    }
}

impl Setting {
    /// `redis_channel`: `redis-channel`.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// `redis_channel`: `CAMPANILE_REDIS_CHANNEL`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.to_uppercase())
    }

    /// Reads one text: the value, or another item of a list.
    pub fn read(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        match self.value {
            Value::One { parse, .. } => parse(settings, text),
            Value::Many { push, .. } => push(settings, text),
            Value::Switch { set, .. } => parse::boolean(text).map(|on| set(settings, on)),
            Value::Rule { parse, .. } => parse(&mut settings.channels.default, text),
        }
    }

    /// A list is emptied: the next source begins it anew.
    pub fn clear(&self, settings: &mut Settings) {
        if let Value::Many { clear, .. } = self.value {
            clear(settings);
        }
    }

    /// The whole value, a password in it too.
    pub fn show(&self, settings: &Settings) -> Shown {
        match self.value {
            Value::One { show, .. } => show(settings),
            Value::Many { show, .. } => Shown::List(show(settings)),
            Value::Switch { get, .. } => Shown::Switch(get(settings)),
            Value::Rule { show, .. } => show(&settings.channels.default),
        }
    }

    /// The value without its secret.
    pub fn show_masked(&self, settings: &Settings) -> Shown {
        let shown = self.show(settings);
        match self.secret {
            Some(mask) => shown.masked(mask),
            None => shown,
        }
    }

    pub fn default_texts(&self) -> Vec<String> {
        self.default_text.map_or_else(|| self.show(&Settings::default()).texts(), |text| vec![text.to_owned()])
    }

    pub fn is_list(&self) -> bool {
        matches!(self.value, Value::Many { .. })
    }

    pub fn is_switch(&self) -> bool {
        matches!(self.value, Value::Switch { .. })
    }
}

pub const VARIABLE_PREFIX: &str = "CAMPANILE_";

pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// What other programs call these settings.
pub const SYNONYMS: &[(&str, &str)] = &[
    ("port", "listen"),
    ("host", "listen"),
    ("bind", "listen"),
    ("address", "listen"),
    ("addr", "listen"),
    ("redis_url", "redis"),
    ("admin", "control"),
    ("control_port", "control"),
    ("threads", "shards"),
    ("workers", "shards"),
    ("max_connections", "connections_max"),
    ("max_subscriptions", "subscriptions_max"),
    ("max_channels", "channels_max"),
    ("max_payload", "payload_bytes_max"),
    ("ping_interval", "heartbeat"),
    ("ping_timeout", "pong_timeout"),
    ("loglevel", "log_level"),
    ("verbosity", "log_level"),
];

/// The setting that was probably meant: a synonym, a slip of the finger, or a setting's name with something behind it.
pub fn meant(typed: &str) -> Option<&'static Setting> {
    let typed = typed.to_lowercase().replace('-', "_");
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == typed).map(|(_, key)| *key);
    let keys = || SETTINGS.iter().map(|setting| setting.key);
    let is_begun = |key: &&str| typed.strip_prefix(*key).is_some_and(|rest| rest.starts_with('_'));
    synonym.or_else(|| closest(&typed, keys())).or_else(|| keys().filter(is_begun).max_by_key(|key| key.len())).and_then(find)
}

#[cfg(test)]
mod tests {
    use super::super::ChannelRules;
    use super::super::settings::{Addresses, Bounds, Clients, Logging, Redis, Shards};
    use super::*;

    /// Reads a setting's texts into a copy of the defaults.
    fn read(setting: &Setting, texts: &[String]) -> Settings {
        let mut settings = Settings::default();
        setting.clear(&mut settings);
        texts.iter().for_each(|text| setting.read(&mut settings, text).unwrap());
        settings
    }

    #[test]
    fn every_default_is_read_back_to_itself() {
        for setting in SETTINGS {
            assert_eq!(read(setting, &setting.default_texts()), Settings::default(), "{}", setting.key);
            assert_eq!(read(setting, &setting.show(&Settings::default()).texts()), Settings::default(), "{}", setting.key);
        }
    }

    #[test]
    fn keys_are_distinct_and_every_one_is_spelled_the_same_way() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..index].iter().all(|other| other.key != setting.key), "{} stands twice", setting.key);
            assert!(setting.key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", setting.key);
            assert!(setting.help.ends_with('.') && !setting.accepted.is_empty() && !setting.placeholder.is_empty(), "{}", setting.key);
        }
        assert_eq!(find("redis_channel").unwrap().flag(), "redis-channel");
        assert_eq!(find("redis_channel").unwrap().variable(), "CAMPANILE_REDIS_CHANNEL");
    }

    #[test]
    fn what_was_meant_is_found() {
        for (typed, key) in [
            ("port", "listen"),
            ("redis_url", "redis"),
            ("redis-url", "redis"),
            ("redis_password", "redis"),
            ("redis_chanel", "redis_channel"),
            ("control_port", "control"),
            ("hearbeat", "heartbeat"),
            ("max-connections", "connections_max"),
        ] {
            assert_eq!(meant(typed).map(|setting| setting.key), Some(key), "{typed}");
        }
        assert!(meant("colour").is_none());
        assert!(SYNONYMS.iter().all(|(other, key)| find(key).is_some() && find(other).is_none()));
    }

    /// A field that no row reads would be a setting that nobody can set.
    #[test]
    fn every_field_can_be_set() {
        let other = [
            ("listen", "0.0.0.0:1"),
            ("control", "0.0.0.0:2"),
            ("control_hosts", "ops.example"),
            ("redis", "redis://h"),
            ("prefix", "p:"),
            ("redis_channel", "c"),
            ("redis_subscribe", "pattern"),
            ("shards", "777"),
            ("pin", "none"),
            ("fd_table", "private"),
            ("format", "raw"),
            ("payload", "json"),
            ("payload_mismatch", "drop"),
            ("overrun", "latest"),
            ("echo", "true"),
            ("allow_client_publish", "true"),
            ("log_format", "json"),
            ("log_level", "warn"),
        ];
        let mut all = Settings::default();
        for setting in SETTINGS {
            let small = matches!(setting.placeholder, "SECONDS" | "MS") || matches!(setting.key, "backlog" | "subscriptions_max");
            let other = other.iter().find(|(key, _)| *key == setting.key).map(|(_, text)| *text);
            let text = other.unwrap_or(if small { "77" } else { "131072" }).to_owned();
            let changed = read(setting, std::slice::from_ref(&text));
            assert_ne!(changed, Settings::default(), "{} changes nothing", setting.key);
            if matches!(setting.value, Value::One { .. }) {
                setting.read(&mut all, &text).unwrap();
            }
        }
        // A new field must be named here, and so remembered in the table.
        let Settings { addresses, redis, shards, clients, channels: ChannelRules { default, by_prefix: _ }, bounds, logging } = all;
        let Addresses { listen: _, control: _, control_hosts: _ } = addresses;
        let Redis { url: _, prefix: _, channels: _, subscribe: _, linger: _ } = redis;
        let Shards { count: _, pin: _, fd_table: _, coalesce: _, inbox_messages: _, backlog: _, notsent_bytes: _ } = shards;
        let Clients {
            format: _,
            heartbeat: _,
            pong_timeout: _,
            handshake_timeout: _,
            close_timeout: _,
            shutdown_timeout: _,
            echo: _,
            allow_client_publish: _,
        } = clients;
        let ChannelRule { overrun: _, payload: _, mismatch: _, log_bytes: _, history_count: _, history_age: _ } = default;
        let Bounds {
            connections_max: _,
            subscriptions_max: _,
            channels_max: _,
            channels_per_address: _,
            message_bytes_max: _,
            payload_bytes_max: _,
            log_bytes_total: _,
            buffer_bytes_total: _,
            inbox_bytes_total: _,
            history_bytes_total: _,
        } = bounds;
        let Logging { format: _, level: _ } = logging;
        assert_eq!(SETTINGS.len(), 3 + 5 + 7 + 8 + 6 + 10 + 2, "a row for each of them");
    }

    #[test]
    fn a_secret_is_masked_for_people_and_programs() {
        let settings = Settings::default().with(|settings| settings.redis.url = Some("redis://:secret@h".to_owned()));
        let shown = find("redis").unwrap().show_masked(&settings);
        assert_eq!(shown.clone().texts(), ["redis://:***@h"]);
        assert_eq!(shown.json("redis"), ("redis".to_owned(), "redis://:***@h".into()));
        // Whatever may log in is marked as such.
        let hidden: Vec<&str> = SETTINGS.iter().filter(|setting| setting.secret.is_some()).map(|setting| setting.key).collect();
        assert_eq!(hidden, ["redis"]);
    }
}
