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
    /// A reload brings another value into force; else the next start does. What a table of `[[channels]]` may say always is ([`Setting::is_live`]).
    pub live: bool,
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
    /// Mostly one, which is written as a text, and none as an empty one; several are a list.
    OneOrMore {
        clear: fn(&mut Settings),
        push: fn(&mut Settings, &str) -> Result<(), String>,
        /// Those of a variable of the environment.
        split: fn(&str) -> Vec<&str>,
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
    Tls,
    Redis,
    Shards,
    Clients,
    Identity,
    Channels,
    Bounds,
    Logging,
}

impl Section {
    pub const ALL: [Section; 9] = [
        Section::Addresses,
        Section::Tls,
        Section::Redis,
        Section::Shards,
        Section::Clients,
        Section::Identity,
        Section::Channels,
        Section::Bounds,
        Section::Logging,
    ];

    pub const fn title(self) -> &'static str {
        match self {
            Section::Addresses => "Addresses",
            Section::Tls => "TLS",
            Section::Redis => "Redis",
            Section::Shards => "Shards",
            Section::Clients => "Clients",
            Section::Identity => "Identity",
            Section::Channels => "Channels (each may differ per prefix or pattern, in [[channels]])",
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
            Value::Many { push, .. } | Value::OneOrMore { push, .. } => push(settings, text),
            Value::Switch { set, .. } => parse::boolean(text).map(|on| set(settings, on)),
            Value::Rule { parse, .. } => parse(&mut settings.channels.default, text),
        }
    }

    /// A list is emptied: the next source begins it anew.
    pub fn clear(&self, settings: &mut Settings) {
        if let Value::Many { clear, .. } | Value::OneOrMore { clear, .. } = self.value {
            clear(settings);
        }
    }

    /// The whole value, a password in it too.
    pub fn show(&self, settings: &Settings) -> Shown {
        match self.value {
            Value::One { show, .. } => show(settings),
            Value::Many { show, .. } => Shown::List(show(settings)),
            Value::OneOrMore { show, .. } => match show(settings) {
                mut texts if texts.len() < 2 => Shown::Text(texts.pop().unwrap_or_default()),
                texts => Shown::List(texts),
            },
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
        matches!(self.value, Value::Many { .. } | Value::OneOrMore { .. })
    }

    /// Whether one alone is still written as a list.
    pub fn is_always_list(&self) -> bool {
        matches!(self.value, Value::Many { .. })
    }

    /// The texts in a variable of the environment.
    pub fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        match self.value {
            Value::Many { .. } => text.split(',').map(str::trim).collect(),
            Value::OneOrMore { split, .. } => split(text),
            Value::One { .. } | Value::Switch { .. } | Value::Rule { .. } => vec![text.trim()],
        }
    }

    /// Whether a reload brings another value into force.
    pub fn is_live(&self) -> bool {
        self.live || matches!(self.value, Value::Rule { .. })
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
    ("jwt_secret", "token_secret"),
    ("jwt_keys", "token_keys"),
    ("jwks", "jwks_url"),
    ("jwks_uri", "jwks_url"),
    ("issuer", "token_issuer"),
    ("audience", "token_audience"),
    ("allowed_origins", "origins"),
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
    use std::collections::BTreeMap;

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

    /// The fields of all sections with their values, by their way from the top, as in `bounds.channels_max`. Those of channels' rules are one deeper.
    fn fields(settings: &Settings) -> BTreeMap<String, String> {
        let text = format!("{settings:#?}");
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        let mut way: Vec<&str> = Vec::new();
        for line in text.lines() {
            let depth = (line.len() - line.trim_start().len()) / 4;
            let is_field = depth == 1 || depth == 2 || depth == 3 && way[..2] == ["channels", "default"];
            if let Some((name, _)) = line.trim().split_once(": ").filter(|_| is_field) {
                way.truncate(depth - 1);
                way.push(name);
            }
            fields.entry(way.join(".")).or_default().push_str(line.trim());
        }
        let whole: Vec<String> = fields.keys().filter_map(|way| Some(way.rsplit_once('.')?.0.to_owned())).collect();
        fields.retain(|way, _| way.contains('.') && !whole.contains(way));
        fields
    }

    /// A setting's texts are not known here, so one is found among some of every kind.
    fn other(setting: &Setting) -> Settings {
        let some = ["77", "131072", "true", "false", "0.0.0.0:1", "redis://h", "https://h/", "c", "0123456789abcdef"]
            .into_iter()
            .chain(setting.accepted.split(", "));
        let readable = some.filter_map(|text| {
            let mut settings = Settings::default();
            setting.clear(&mut settings);
            setting.read(&mut settings, text).ok().map(|()| settings)
        });
        readable.into_iter().find(|settings| *settings != Settings::default()).unwrap_or_else(|| panic!("{} changes nothing", setting.key))
    }

    /// A field that no row reads would be a setting that nobody can set.
    #[test]
    fn every_field_has_a_row_and_every_row_a_field() {
        let default = fields(&Settings::default());
        assert!(default.len() > 40 && default.contains_key("channels.default.overrun") && default.contains_key("addresses.listen"));
        // The second and further of `redis` have a field of their own.
        let mut read = BTreeMap::from([("channels.tables".to_owned(), "[[channels]]"), ("redis.beside".to_owned(), "redis")]);
        for setting in SETTINGS {
            let changed: Vec<String> =
                fields(&other(setting)).into_iter().filter(|(way, text)| default[way] != *text).map(|(way, _)| way).collect();
            let [way] = changed.as_slice() else { panic!("{} changes {changed:?}", setting.key) };
            assert_eq!(read.insert(way.clone(), setting.key), None, "{way} is changed by {} as well", setting.key);
        }
        assert_eq!(read.keys().collect::<Vec<_>>(), default.keys().collect::<Vec<_>>());
    }

    #[test]
    fn a_secret_is_masked_for_people_and_programs() {
        let settings = Settings::default().with(|settings| settings.redis.url = Some("redis://:secret@h".to_owned()));
        let shown = find("redis").unwrap().show_masked(&settings);
        assert_eq!(shown.clone().texts(), ["redis://:***@h"]);
        assert_eq!(shown.json("redis"), ("redis".to_owned(), "redis://:***@h".into()));
        // Whatever may log in is marked as such.
        let hidden: Vec<&str> = SETTINGS.iter().filter(|setting| setting.secret.is_some()).map(|setting| setting.key).collect();
        assert_eq!(hidden, ["control_token", "redis", "token_secret", "jwks_url"]);
    }
}
