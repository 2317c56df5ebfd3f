//! Writes the table of settings out: as a file with every setting, as markdown, as JSON, and what differs from the defaults. Called
//! by `campanile config` and `/info`.

use std::fmt::Write;

use serde_json::{Map, json};

use super::table::{SETTINGS, Section, Setting, Value};
use super::{ChannelRule, Route, Settings};

/// A `campanile.toml` with every setting at its default, explained. Reading it changes nothing.
pub fn default_file() -> String {
    let mut out = String::from(
        "# Campanile settings. Every setting stands here with its default; delete what you do not change.\n\
         # Environment variables (CAMPANILE_ and the name in capitals) win over this file, and flags (--name) over both.\n\
         # Sizes count in 1024: 64k, 1M, 2G. Durations may carry a unit: 500ms, 10s, 5m, 1h.\n",
    );
    for section in Section::ALL {
        let _ = write!(out, "\n# {} {}\n", section.title(), "-".repeat(100 - section.title().len()));
        for setting in SETTINGS.iter().filter(|setting| setting.section == section) {
            out.push('\n');
            for line in wrap(setting.help, 116) {
                let _ = writeln!(out, "# {line}");
            }
            for (index, line) in wrap(setting.accepted, 106).iter().enumerate() {
                let _ = writeln!(out, "# {} {line}", if index == 0 { "Accepted:" } else { "         " });
            }
            let _ = writeln!(out, "{} = {}", setting.key, toml_value(setting, &setting.default_texts()));
        }
    }
    out.push_str(
        "\n# What differs for channels whose names begin with a prefix, or fit a pattern (pattern = \"room:*:chat\"); the first table that\n\
         # fits counts. What is not named here is as above. These tables must stand below everything else. Delete the # to use one.\n#\n\
         # [[channels]]\n# prefix = \"prices:\"\n",
    );
    let settings = Settings::default();
    for setting in SETTINGS {
        if let Value::Rule { rule_key, .. } = setting.value {
            let _ = writeln!(out, "# {rule_key} = {}", toml_value(setting, &setting.show(&settings).texts()));
        }
    }
    out.push_str(
        "\n# Messages of one channel that go to the channels that a field of theirs names: a text, an integer, or a list of those. What has no\n\
         # such field goes where else says, or nowhere. A field within a map is written user.id.\n#\n\
         # [[route]]\n# from = \"notifications\"\n# field = \"user_id\"\n# to = \"user:{}\"\n# else = \"notifications\"\n",
    );
    out
}

/// The settings as a markdown table, for `docs/settings.md`.
pub fn markdown() -> String {
    let mut out = String::from("| flag | in `campanile.toml` | default | changed by | what it does |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let value = if setting.is_switch() { String::new() } else { format!(" {}", setting.placeholder) };
        let default = setting.default_texts().join(", ");
        let default = if default.is_empty() { "none".to_owned() } else { format!("`{default}`") };
        let changed_by = if setting.is_live() { "reload" } else { "restart" };
        let accepted = setting.accepted.replace('|', "\\|");
        let _ = writeln!(
            out,
            "| `--{}{value}` | `{}` | {default} | {changed_by} | {} Accepted: {accepted}. |",
            setting.flag(),
            setting.key,
            setting.help
        );
    }
    out
}

/// What is not at its default, as lines of a file; passwords hidden.
pub fn differences(settings: &Settings) -> Vec<String> {
    let default = Settings::default();
    let mut lines = Vec::new();
    for setting in SETTINGS {
        if setting.show(settings) != setting.show(&default) {
            lines.push(format!("{} = {}", setting.key, toml_value(setting, &setting.show_masked(settings).texts())));
        }
    }
    for (selector, rule) in &settings.channels.tables {
        let (key, text) = selector.key();
        lines.push("[[channels]]".to_owned());
        lines.push(format!("{key} = {}", toml_string(text)));
        for setting in SETTINGS {
            if let Value::Rule { rule_key, show, .. } = setting.value
                && show(rule) != show(&settings.channels.default)
            {
                lines.push(format!("{rule_key} = {}", toml_value(setting, &show(rule).texts())));
            }
        }
    }
    lines.extend(settings.routes.iter().flat_map(route_lines));
    lines
}

/// As a file has it.
pub(super) fn route_lines(Route { from, field, to, otherwise }: &Route) -> Vec<String> {
    let mut lines = vec!["[[route]]".to_owned(), format!("from = {}", toml_string(from))];
    lines.push(format!("field = {}", toml_string(&field.to_string())));
    lines.push(format!("to = {}", toml_string(&to.to_string())));
    lines.extend(otherwise.iter().map(|channel| format!("else = {}", toml_string(channel))));
    lines
}

pub(super) fn route_json(Route { from, field, to, otherwise }: &Route) -> serde_json::Value {
    json!({"from": from, "field": field.to_string(), "to": to.to_string(), "else": otherwise})
}

/// Every setting for a program, passwords hidden: by its name in the file, behind which times carry their unit (`heartbeat_ms`).
pub fn json(settings: &Settings) -> serde_json::Value {
    let of_all = SETTINGS.iter().filter(|setting| !matches!(setting.value, Value::Rule { .. }));
    let mut all: Map<String, serde_json::Value> = of_all.map(|setting| setting.show_masked(settings).json(setting.key)).collect();
    let tables = settings.channels.tables.iter().map(|(selector, rule)| {
        let mut shown = rule_json(rule);
        let (key, text) = selector.key();
        shown.insert(key.to_owned(), text.into());
        shown.into()
    });
    all.insert("channel_tables".to_owned(), tables.collect::<Vec<serde_json::Value>>().into());
    all.insert("channel_default".to_owned(), rule_json(&settings.channels.default).into());
    let routes = settings.routes.iter().map(route_json);
    all.insert("routes".to_owned(), routes.collect());
    all.into()
}

fn rule_json(rule: &ChannelRule) -> Map<String, serde_json::Value> {
    let shown = |setting: &Setting| match setting.value {
        Value::Rule { rule_key, show, .. } => Some(show(rule).json(rule_key)),
        _ => None,
    };
    SETTINGS.iter().filter_map(shown).collect()
}

pub(super) fn toml_value(setting: &Setting, texts: &[String]) -> String {
    if setting.is_always_list() || texts.len() > 1 {
        let items: Vec<String> = texts.iter().map(|text| toml_string(text)).collect();
        return format!("[{}]", items.join(", "));
    }
    let text = texts.first().map_or("", String::as_str);
    let is_bare = setting.is_switch() || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    if is_bare { text.to_owned() } else { toml_string(text) }
}

/// A basic string. Control characters do not occur: no setting takes them.
pub(super) fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Lines of at most `width` bytes, broken between words.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            let _ = write!(line, " {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::{Layers, Loaded};
    use crate::config::{Host, Overrun};

    fn read(text: &str) -> Loaded {
        let mut layers = Layers::default();
        layers.file_text("default.toml", text);
        layers.finish(Some(&Host { cores: vec![0], descriptors_soft: 1024, descriptors_hard: 1024, private_refused: None })).unwrap_or_else(
            |problems| {
                panic!("{}", problems.iter().map(|problem| format!("{problem}\n")).collect::<String>());
            },
        )
    }

    #[test]
    fn the_default_file_holds_every_setting_and_changes_nothing() {
        let file = default_file();
        let loaded = read(&file);
        assert_eq!(loaded.settings, Settings::default());
        assert_eq!(loaded.warnings, []);
        let table: toml::Table = file.parse().unwrap();
        for setting in SETTINGS {
            assert!(table.contains_key(setting.key), "{}", setting.key);
        }
        assert!(file.lines().all(|line| line.len() <= 140));
    }

    #[test]
    fn the_commented_tables_are_good_too() {
        let file = default_file();
        let (head, tables) = file.split_once("# [[channels]]").unwrap();
        let is_typed = |line: &&str| line.contains(" = ") || line.contains("[[");
        let tables: String = tables.lines().filter(is_typed).map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
        let settings = read(&format!("{head}[[channels]]\n{tables}")).settings;
        assert_eq!(settings.channels.tables, [("prices:".into(), settings.channels.default.clone())]);
        let routes: Vec<String> = settings.routes.iter().map(|route| format!("{} {route}", route.from)).collect();
        assert_eq!(routes, ["notifications by user_id to user:{}, without it to notifications"]);
    }

    #[test]
    fn the_markdown_table_has_a_row_for_each_setting() {
        let markdown = markdown();
        assert_eq!(markdown.lines().count(), SETTINGS.len() + 2);
        assert!(markdown.lines().all(|line| line.matches('|').count() - line.matches("\\|").count() == 6));
        assert!(markdown.contains("| `--redis URL` | `redis` | none | restart |"));
    }

    #[test]
    fn differences_are_lines_that_read_back() {
        let mut settings = Settings::default().with(|settings| {
            settings.shards.count = 999;
            settings.redis.url = Some("redis://:secret@h".to_owned());
            settings.redis.prefix = "a\"b\\".to_owned();
        });
        let rule = crate::config::ChannelRule { overrun: Overrun::Latest, ..settings.channels.default.clone() };
        settings.channels.tables.push(("prices:".into(), rule));
        let lines = differences(&settings);
        assert_eq!(lines[..2], ["redis = \"redis://:***@h\"", "prefix = \"a\\\"b\\\\\""]);
        settings.redis.url = Some("redis://:***@h".to_owned());
        assert_eq!(read(&lines.join("\n")).settings, settings);
        assert_eq!(differences(&Settings::default()), [""; 0]);
    }
}
