//! What is in force, and where each value came from: `campanile config --effective`. Secrets are hidden.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};

use super::layers::Loaded;
use super::print::{route_json, route_lines, toml_string, toml_value};
use super::problem::{Origin, Place};
use super::table::{SETTINGS, Value};

/// Where the comments stand, if a line is not longer than that.
const COMMENT_COLUMN: usize = 44;

/// As a file that could be read back, with the origin of each value behind it.
pub fn text(loaded: &Loaded) -> String {
    let settings = &loaded.settings;
    let mut out = String::new();
    for setting in SETTINGS {
        let value = toml_value(setting, &setting.show_masked(settings).texts());
        line(&mut out, &format!("{} = {value}", setting.key), &loaded.origins.of(setting.key).to_string());
    }
    for (at, ((selector, rule), place)) in settings.channels.tables.iter().zip(loaded.origins.tables()).enumerate() {
        let (key, text) = selector.key();
        out.push('\n');
        line(&mut out, "[[channels]]", &place.to_string());
        let _ = writeln!(out, "{key} = {}", toml_string(text));
        for setting in SETTINGS {
            if let (Value::Rule { rule_key, show, .. }, Some(place)) = (&setting.value, loaded.origins.in_table(at, setting.key)) {
                line(&mut out, &format!("{rule_key} = {}", toml_value(setting, &show(rule).texts())), &place.to_string());
            }
        }
    }
    for (route, place) in settings.routes.iter().zip(loaded.origins.routes()) {
        out.push('\n');
        let mut lines = route_lines(route).into_iter();
        line(&mut out, &lines.next().unwrap_or_default(), &place.to_string());
        lines.for_each(|line| out.push_str(&(line + "\n")));
    }
    out
}

fn line(out: &mut String, text: &str, comment: &str) {
    let _ = writeln!(out, "{text:<COMMENT_COLUMN$} # {comment}");
}

/// The same for programs; names and values are those of `/info`.
pub fn json(loaded: &Loaded) -> Json {
    let settings = &loaded.settings;
    let of_all = SETTINGS.iter().map(|setting| {
        let (name, value) = setting.show_masked(settings).json(setting.key);
        (name, json!({"value": value, "from": from(&loaded.origins.of(setting.key)), "live": setting.is_live()}))
    });
    let tables = settings.channels.tables.iter().zip(loaded.origins.tables()).enumerate().map(|(at, ((selector, rule), place))| {
        let of_table = SETTINGS.iter().filter_map(|setting| {
            let Value::Rule { rule_key, show, .. } = setting.value else { return None };
            let (name, value) = show(rule).json(rule_key);
            let place = loaded.origins.in_table(at, setting.key);
            let from = place.map_or_else(|| from(&loaded.origins.of(setting.key)), in_file);
            Some((name, json!({"value": value, "from": from, "inherited": place.is_none()})))
        });
        let (key, text) = selector.key();
        json!({key: text, "from": in_file(place), "settings": of_table.collect::<Map<String, Json>>()})
    });
    let routes = settings.routes.iter().zip(loaded.origins.routes()).map(|(route, place)| {
        let mut told = route_json(route);
        told["place"] = in_file(place);
        told
    });
    let (of_all, tables, routes): (Map<String, Json>, Vec<Json>, Vec<Json>) = (of_all.collect(), tables.collect(), routes.collect());
    json!({"settings": of_all, "channel_tables": tables, "routes": routes})
}

fn from(origin: &Origin) -> Json {
    match origin {
        Origin::Default => json!({"source": "default"}),
        Origin::File(place) => in_file(place),
        Origin::Environment(name) => json!({"source": "environment", "name": name}),
        Origin::Flag(name) => json!({"source": "flag", "name": name}),
    }
}

fn in_file(place: &Place) -> Json {
    json!({"source": "file", "file": place.file, "line": place.line})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;
    use crate::config::layers::Layers;
    use crate::config::table;

    fn loaded() -> Loaded {
        let file = "heartbeat = 10\ntoken_secret = \"a secret of the tests: 0123456789abcdef\"\nauth = \"jwt\"\n\
                    [[channels]]\npattern = \"room:*\"\noverrun = \"latest\"\n";
        let mut layers = Layers::default();
        layers.file_text("f.toml", file);
        layers.environment(&[("CAMPANILE_SUBSCRIPTIONS_MAX".to_owned(), "7".to_owned())]);
        layers.flags(&[(table::find("shards").unwrap(), vec!["1".to_owned()])]);
        layers.finish(Some(&Host { cores: vec![0], descriptors_soft: 1024, descriptors_hard: 1024, private_refused: None })).unwrap()
    }

    #[test]
    fn every_value_says_where_it_is_from_and_no_secret() {
        let text = text(&loaded());
        for expected in [
            "heartbeat = 10                               # f.toml:1\n",
            "token_secret = \"***\"                         # f.toml:2\n",
            "subscriptions_max = 7                        # CAMPANILE_SUBSCRIPTIONS_MAX\n",
            "shards = 1                                   # --shards\n",
            "pong_timeout = 10                            # default\n",
            "\n[[channels]]                                 # f.toml:5\npattern = \"room:*\"\noverrun = \"latest\"                           # f.toml:6\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(SETTINGS.iter().all(|setting| text.contains(&format!("\n{} = ", setting.key)) || text.starts_with(setting.key)));
        assert!(!text.contains("a secret"));
    }

    #[test]
    fn programs_are_told_the_same() {
        let told = json(&loaded());
        assert_eq!(
            told["settings"]["heartbeat_ms"],
            json!({"value": 10_000, "from": {"source": "file", "file": "f.toml", "line": 1}, "live": true})
        );
        assert_eq!(told["settings"]["shards"]["from"], json!({"source": "flag", "name": "--shards"}));
        assert_eq!(told["settings"]["token_secret"]["value"], "***");
        let table = &told["channel_tables"][0];
        assert_eq!((&table["pattern"], &table["from"]["line"]), (&json!("room:*"), &json!(5)));
        assert_eq!(
            table["settings"]["overrun"],
            json!({"value": "latest", "from": {"source": "file", "file": "f.toml", "line": 6}, "inherited": false})
        );
        assert_eq!(table["settings"]["history_count"], json!({"value": 0, "from": {"source": "default"}, "inherited": true}));
    }
}
