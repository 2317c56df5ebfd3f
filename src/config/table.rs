//! What a setting is. The settings themselves stand in `rows.rs`, each once. From that table come the flags ([`crate::cli`]), the environment overlay and the reading of the file
//! ([`super::layers`], [`super::file`]), `campanile config --default` and `--markdown` ([`super::print`]).
//!
//! Invariant: for every setting, what `show` writes, `parse` reads back to the same value; defaults stand in `defaults.rs`.

use super::problem::closest;
use super::{ChannelRule, Settings};

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
    /// The default's text where the value depends on the host.
    pub default_text: Option<&'static str>,
    pub value: Value,
}

/// How the texts of a setting are read into [`Settings`] and shown. The reason of an `Err` says what is wrong with the text.
#[derive(Debug)]
pub enum Value {
    One {
        parse: fn(&mut Settings, &str) -> Result<(), String>,
        show: fn(&Settings) -> String,
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
        show: fn(&ChannelRule) -> String,
    },
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

    /// The value's texts, one except for a list.
    pub fn show(&self, settings: &Settings) -> Vec<String> {
        match self.value {
            Value::One { show, .. } => vec![show(settings)],
            Value::Many { show, .. } => show(settings),
            Value::Switch { get, .. } => vec![get(settings).to_string()],
            Value::Rule { show, .. } => vec![show(&settings.channels.default)],
        }
    }

    pub fn default_texts(&self) -> Vec<String> {
        self.default_text.map_or_else(|| self.show(&Settings::default()), |text| vec![text.to_owned()])
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
    use super::super::parse;
    use super::*;

    /// Reads a setting's texts into a copy of the defaults.
    fn read(setting: &Setting, texts: &[String]) -> Settings {
        let mut settings = Settings::default();
        match setting.value {
            Value::One { parse, .. } => parse(&mut settings, &texts[0]).unwrap(),
            Value::Many { clear, push, .. } => {
                clear(&mut settings);
                texts.iter().for_each(|text| push(&mut settings, text).unwrap());
            }
            Value::Switch { set, .. } => set(&mut settings, parse::boolean(&texts[0]).unwrap()),
            Value::Rule { parse, .. } => parse(&mut settings.channels.default, &texts[0]).unwrap(),
        }
        settings
    }

    #[test]
    fn every_default_is_read_back_to_itself() {
        for setting in SETTINGS {
            assert_eq!(read(setting, &setting.default_texts()), Settings::default(), "{}", setting.key);
            assert_eq!(read(setting, &setting.show(&Settings::default())), Settings::default(), "{}", setting.key);
        }
    }

    #[test]
    fn keys_are_distinct_and_every_one_is_spelled_the_same_way() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..index].iter().all(|other| other.key != setting.key), "{} stands twice", setting.key);
            assert!(setting.key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", setting.key);
            assert!(setting.help.ends_with('.'), "{}", setting.key);
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
            if let Value::One { parse, .. } = setting.value {
                parse(&mut all, &text).unwrap();
            }
        }
        // A new field must be named here, and so remembered in the table.
        let Settings {
            listen: _,
            control: _,
            control_hosts: _,
            redis: _,
            prefix: _,
            redis_channels: _,
            redis_subscribe: _,
            linger: _,
            shards: _,
            pin: _,
            fd_table: _,
            format: _,
            coalesce: _,
            heartbeat: _,
            pong_timeout: _,
            handshake_timeout: _,
            close_timeout: _,
            shutdown_timeout: _,
            connections_max: _,
            subscriptions_max: _,
            channels_max: _,
            channels_per_address: _,
            message_bytes_max: _,
            payload_bytes_max: _,
            log_bytes_total: _,
            buffer_bytes_total: _,
            inbox_messages: _,
            inbox_bytes_total: _,
            history_bytes_total: _,
            notsent_bytes: _,
            backlog: _,
            echo: _,
            allow_client_publish: _,
            log_format: _,
            log_level: _,
            channels: _,
        } = all;
        const FIELDS: usize = 35 + 6;
        assert_eq!(SETTINGS.len(), FIELDS, "35 fields of Settings and 6 of ChannelRule");
    }
}
