//! What a reload changes: the settings in force and those that were found now, held against each other. Called by the control thread, and by
//! `campanile config --check`.

use std::fmt;

use super::table::{SETTINGS, Setting, Value};
use super::{ChannelRule, ChannelRules, Route, Selector, Settings};

/// One difference, as people are told it: secrets are hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting, or which table of `[[channels]]`.
    pub what: String,
    pub from: String,
    pub to: String,
    /// A reload brings it into force; else the next start does.
    pub is_live: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { what, from, to, .. } = self;
        write!(out, "{what}: {from} -> {to}")
    }
}

/// What differs between `running` and `found`, in the order of the table of settings, then of the tables of channels.
pub fn between(running: &Settings, found: &Settings) -> Vec<Change> {
    let differing = SETTINGS.iter().filter(|setting| setting.show(running) != setting.show(found));
    let mut changes: Vec<Change> = differing
        .map(|setting| Change {
            what: setting.key.to_owned(),
            from: shown(setting, running),
            to: shown(setting, found),
            is_live: setting.is_live(),
        })
        .collect();
    tables(&running.channels, &found.channels, &mut changes);
    let route = |route: &Route, from: &str, to: &str| Change {
        what: format!("[[route]] {} {route}", route.from),
        from: from.to_owned(),
        to: to.to_owned(),
        is_live: false,
    };
    let without = |these: &'_ [Route], those: &'_ [Route]| these.iter().filter(|route| !those.contains(route)).cloned().collect::<Vec<_>>();
    changes.extend(without(&running.routes, &found.routes).iter().map(|gone| route(gone, "there", "gone")));
    changes.extend(without(&found.routes, &running.routes).iter().map(|new| route(new, "none", "there")));
    changes
}

/// The settings that are in force after a reload: those of `found` that can be changed while the server runs, and all else as it is.
pub fn apply(running: &Settings, found: &Settings) -> Settings {
    let mut settings = running.clone();
    for setting in SETTINGS.iter().filter(|setting| setting.is_live()) {
        setting.clear(&mut settings);
        for text in setting.show(found).texts() {
            setting.read(&mut settings, &text).expect("what is shown can be read");
        }
    }
    settings.channels = found.channels.clone();
    settings
}

fn shown(setting: &Setting, settings: &Settings) -> String {
    match setting.show_masked(settings).texts().join(", ") {
        text if text.is_empty() => "none".to_owned(),
        text => text,
    }
}

fn tables(running: &ChannelRules, found: &ChannelRules, changes: &mut Vec<Change>) {
    let mut tell = |selector: &Selector, from: &str, to: &str| {
        changes.push(Change { what: format!("[[channels]] {selector}"), from: from.to_owned(), to: to.to_owned(), is_live: true });
    };
    let other = |rules: &ChannelRules, selector: &Selector| rules.tables.iter().position(|(other, _)| other == selector);
    for (selector, _) in running.tables.iter().filter(|(selector, _)| other(found, selector).is_none()) {
        tell(selector, "there", "gone");
    }
    for (selector, rule) in &found.tables {
        match other(running, selector) {
            None => tell(selector, "none", "there"),
            Some(at) => {
                let before = &running.tables[at].1;
                for (key, from, to) in rule_changes(before, rule) {
                    tell(selector, &format!("{key} {from}"), &to);
                }
            }
        }
    }
    // The first that fits counts, so their order does.
    let common = |of: &ChannelRules, with: &ChannelRules| -> Vec<String> {
        let both = of.tables.iter().filter(|(selector, _)| other(with, selector).is_some());
        both.map(|(selector, _)| selector.to_string()).collect()
    };
    let (before, after) = (common(running, found), common(found, running));
    if before != after {
        changes.push(Change { what: "order of [[channels]]".to_owned(), from: before.join("; "), to: after.join("; "), is_live: true });
    }
}

fn rule_changes(from: &ChannelRule, to: &ChannelRule) -> Vec<(&'static str, String, String)> {
    let of = |setting: &'static Setting| match setting.value {
        Value::Rule { rule_key, show, .. } if show(from) != show(to) => {
            Some((rule_key, show(from).texts().join(", "), show(to).texts().join(", ")))
        }
        _ => None,
    };
    SETTINGS.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Layers;

    fn read(file: &str) -> Settings {
        let mut layers = Layers::default();
        layers.file_text("f.toml", file);
        layers.finish(None).unwrap().settings
    }

    fn told(running: &str, found: &str) -> Vec<(String, bool)> {
        between(&read(running), &read(found)).iter().map(|change| (change.to_string(), change.is_live)).collect()
    }

    #[test]
    fn what_counts_at_once_is_told_from_what_waits_for_the_next_start() {
        let secret = |text: &str| format!("token_secret = \"{text} 0123456789abcdef0123456789abcdef\"\n");
        let found =
            told(&(secret("one") + "shards = 2\nheartbeat = 10\n"), &(secret("two") + "shards = 4\norigins = [\"https://a.example\"]\n"));
        let expected = [
            ("shards: 2 -> 4", false),
            ("heartbeat: 10 -> 30", true),
            ("token_secret: *** -> ***", true),
            ("origins: none -> https://a.example", true),
        ];
        assert_eq!(found, expected.map(|(text, is_live)| (text.to_owned(), is_live)));
        assert_eq!(told("heartbeat = 10", "heartbeat = \"10s\""), []);
    }

    #[test]
    fn tables_are_held_against_their_likes() {
        let table = |key: &str, more: &str| format!("[[channels]]\n{key}\n{more}\n");
        let (a, b) = (table("prefix = \"a\"", "overrun = \"skip\""), table("pattern = \"b:*\"", ""));
        let changed = table("prefix = \"a\"", "overrun = \"latest\"");
        let texts = |running: &str, found: &str| told(running, found).into_iter().map(|(text, _)| text).collect::<Vec<_>>();
        assert_eq!(texts(&a, &changed), ["[[channels]] prefix = \"a\": overrun skip -> latest"]);
        assert_eq!(texts(&a, &b), ["[[channels]] prefix = \"a\": there -> gone", "[[channels]] pattern = \"b:*\": none -> there"]);
        let order = texts(&(a.clone() + &b), &(b + &a));
        assert_eq!(order, ["order of [[channels]]: prefix = \"a\"; pattern = \"b:*\" -> pattern = \"b:*\"; prefix = \"a\""]);
    }

    /// Whatever a file may say of what is live comes into force, and nothing else does.
    #[test]
    fn a_reload_takes_over_what_is_live() {
        let running = read("shards = 2\nheartbeat = 10\norigins = [\"https://a.example\"]\n[[channels]]\nprefix = \"a\"\n");
        let found =
            read("shards = 4\nsubscriptions_max = 5\nhistory_count = 3\nchannels_per_address = \"none\"\n[[channels]]\nprefix = \"b\"\n");
        let after = apply(&running, &found);
        assert!(between(&after, &found).iter().all(|change| !change.is_live), "{:?}", between(&after, &found));
        assert!(between(&running, &after).iter().all(|change| change.is_live));
        assert_eq!((after.shards.count, after.bounds.subscriptions_max, after.channels), (2, 5, found.channels));
        assert!(after.auth.origins.is_empty());
    }
}
