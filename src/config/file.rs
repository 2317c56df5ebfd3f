//! Reads `campanile.toml`: text in, values and problems out, no file system. Called by [`super::layers`].
//!
//! Invariant: every problem of the file is reported in one go, each with its place; a value that is reported is not applied.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Place, Problem, closest};
use super::routes::{self, FieldPath, Route, Template};
use super::rules::Selector;
use super::table::{self, SETTINGS, Setting, Value};
use super::{ChannelRule, listen_url, parse};
use crate::auth::pattern::Pattern;

/// What stands in a file, as texts, each read once already and found good.
#[derive(Debug, Default)]
pub struct Contents {
    pub values: Vec<FileValue>,
    pub rules: Vec<FileRule>,
    pub routes: Vec<(Route, Place)>,
    pub problems: Vec<Problem>,
}

#[derive(Debug)]
pub struct FileValue {
    pub setting: &'static Setting,
    pub texts: Vec<(String, Place)>,
    /// The value as a whole.
    pub place: Place,
}

/// One `[[channels]]` table. Its texts are applied when the rule of all other channels is known, which it inherits.
#[derive(Debug, Clone)]
pub struct FileRule {
    pub selector: Selector,
    pub texts: Vec<(&'static Setting, String, Place)>,
    /// Of the prefix or pattern.
    pub place: Place,
}

/// Reads `text`; `name` is what messages call the file.
pub fn read(name: &str, text: &str) -> Contents {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { name, text, unreadable_lines: Vec::new(), contents: Contents::default() };
    for error in syntax_errors {
        let place = reader.place(error.span().unwrap_or(text.len()..text.len()));
        // One slip often gives several errors; the first is the one that helps.
        if !reader.unreadable_lines.contains(&place.line) {
            reader.unreadable_lines.push(place.line);
            reader.problem(Problem::error(Origin::File(place), "", format!("not TOML: {}", error.message())));
        }
    }
    reader.settings(document.get_ref());
    reader.contents
}

const CHANNELS_EXAMPLE: &str =
    "tables headed [[channels]], each with prefix = \"prices:\" or pattern = \"room:*:chat\" and what differs there";

const ROUTE_EXAMPLE: &str = "tables headed [[route]], each with from = \"notifications\", field = \"user_id\" and to = \"user:{}\", and else = \"lost\" where it is wanted";

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    unreadable_lines: Vec<usize>,
    contents: Contents,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.name, self.text, span)
    }

    fn problem(&mut self, problem: Problem) {
        self.contents.problems.push(problem);
    }

    fn at(&self, span: Range<usize>, key: &str, message: impl Into<String>) -> Problem {
        Problem::error(Origin::File(self.place(span)), key, message)
    }

    /// What the parser made up for a line that it could not read says nothing about what was meant there.
    fn is_made_up(&self, key: Range<usize>, value: Range<usize>) -> bool {
        let is_on_such_a_line = |span| self.unreadable_lines.contains(&self.place(span).line);
        value.is_empty() || is_on_such_a_line(key) || is_on_such_a_line(value)
    }

    fn settings(&mut self, document: &DeTable<'_>) {
        for (key, value) in document {
            let name: &str = key.get_ref();
            let is_tables = matches!(name, "channels" | "route");
            if !is_tables && self.is_made_up(key.span(), value.span()) {
                continue;
            }
            if name == "channels" {
                self.rules(key.span(), value);
            } else if name == "route" {
                self.routes(key.span(), value);
            } else if let Some(setting) = table::find(name) {
                self.setting(setting, value);
            } else if matches!(value.get_ref(), DeValue::Table(_)) {
                let problem = self.at(key.span(), name, "there is no table of this name");
                self.problem(
                    problem.help("settings stand at the top of the file, without a [table]; only [[channels]] and [[route]] are tables"),
                );
            } else {
                let problem = self.at(key.span(), name, "there is no setting of this name");
                let setting = table::meant(name).map(|setting| setting.key);
                self.problem(problem.help(suggest(setting.or_else(|| closest(name, ["channels", "route"])))));
            }
        }
    }

    fn setting(&mut self, setting: &'static Setting, value: &Spanned<DeValue<'_>>) {
        let whole = std::slice::from_ref(value);
        let items: &[Spanned<DeValue<'_>>] = match value.get_ref() {
            DeValue::Array(items) if setting.is_list() => items,
            _ => whole,
        };
        let mut scratch = super::Settings::default();
        setting.clear(&mut scratch);
        let mut texts = Vec::new();
        for item in items {
            match self.text(setting, item).and_then(|text| setting.read(&mut scratch, &text).map(|()| text)) {
                Ok(text) => texts.push((text, self.place(item.span()))),
                Err(reason) => {
                    let problem = self.at(item.span(), setting.key, reason);
                    self.problem(problem.accepted(setting.accepted));
                }
            }
        }
        if texts.len() == items.len() {
            let place = self.place(value.span());
            self.contents.values.push(FileValue { setting, texts, place });
        }
    }

    /// An item as the text that a flag would carry. A table, where one may stand for it: a listener in parts.
    fn text(&mut self, setting: &Setting, item: &Spanned<DeValue<'_>>) -> Result<String, String> {
        let entries = match item.get_ref() {
            DeValue::Table(entries) if setting.key == "listen" => entries,
            other => return scalar(other),
        };
        let [mut address, mut mode, mut group] = [None, None, None];
        for (key, value) in entries {
            match key.get_ref().as_ref() {
                "address" => address = Some(scalar(value.get_ref())?),
                "mode" => mode = Some(file_mode(value.get_ref())?),
                "group" => group = Some(scalar(value.get_ref())?),
                other => {
                    return Err(format!("[[listen]] has no {other:?}: it has {}", listen_url::KEYS.join(", ")));
                }
            }
        }
        let address = address.ok_or("address is missing: [[listen]] has address, and for a unix socket mode and group")?;
        listen_url::of_table(&address, mode.as_deref(), group.as_deref())
    }

    fn rules(&mut self, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let DeValue::Array(tables) = value.get_ref() else {
            let problem = self.at(key, "channels", "it is not a list of tables");
            return self.problem(problem.accepted(CHANNELS_EXAMPLE));
        };
        for table in tables {
            match table.get_ref() {
                DeValue::Table(entries) => self.rule(table.span(), entries),
                _ => {
                    let problem = self.at(table.span(), "channels", "it is not a table");
                    self.problem(problem.accepted(CHANNELS_EXAMPLE));
                }
            }
        }
    }

    fn rule(&mut self, table: Range<usize>, entries: &DeTable<'_>) {
        // What is there and cannot be read is not missing.
        let mut selectors: Vec<(Option<Selector>, Place)> = Vec::new();
        let mut texts = Vec::new();
        for (key, value) in entries {
            let name: &str = key.get_ref();
            if self.is_made_up(key.span(), value.span()) {
                // It may have been the prefix.
                selectors.push((None, self.place(key.span())));
                continue;
            }
            if let Some((read, accepted)) = selector_of(name) {
                let selector = scalar(value.get_ref()).and_then(|text| read(&text));
                if let Err(reason) = &selector {
                    let problem = self.at(value.span(), &format!("channels.{name}"), reason.clone());
                    self.problem(problem.accepted(accepted));
                }
                selectors.push((selector.ok(), self.place(value.span())));
            } else if let Some((setting, parse)) = find_rule(name) {
                match scalar(value.get_ref()).and_then(|text| parse(&mut ChannelRule::default(), &text).map(|()| text)) {
                    Ok(text) => texts.push((setting, text, self.place(value.span()))),
                    Err(reason) => {
                        let problem = self.at(value.span(), &format!("channels.{name}"), reason);
                        self.problem(problem.accepted(setting.accepted));
                    }
                }
            } else {
                self.unknown_in_rule(key.span(), name);
            }
        }
        let read = selectors.iter().filter(|(selector, _)| selector.is_some()).count();
        if selectors.is_empty() || read > 1 {
            let message = if read > 1 {
                "it has prefix and pattern; one of them says which channels it is for"
            } else {
                "prefix or pattern is missing"
            };
            let problem = self.at(table, "channels", message);
            return self.problem(problem.accepted(CHANNELS_EXAMPLE));
        }
        let Some((Some(selector), place)) = selectors.into_iter().find(|(selector, _)| selector.is_some()) else { return };
        if self.contents.rules.iter().any(|rule| rule.selector == selector) {
            let (key, text) = selector.key();
            self.problem(Problem::error(Origin::File(place), &format!("channels.{key}"), format!("{text:?} has a table already")));
        } else {
            self.contents.rules.push(FileRule { selector, texts, place });
        }
    }

    fn routes(&mut self, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let DeValue::Array(tables) = value.get_ref() else {
            let problem = self.at(key, "route", "it is not a list of tables");
            return self.problem(problem.accepted(ROUTE_EXAMPLE));
        };
        for table in tables {
            match table.get_ref() {
                DeValue::Table(entries) => self.route(table.span(), entries),
                _ => {
                    let problem = self.at(table.span(), "route", "it is not a table");
                    self.problem(problem.accepted(ROUTE_EXAMPLE));
                }
            }
        }
    }

    fn route(&mut self, table: Range<usize>, entries: &DeTable<'_>) {
        let (mut from, mut field, mut to, mut otherwise) = (None, None, None, None);
        // What is there and cannot be read is not missing.
        let mut named: Vec<String> = Vec::new();
        for (key, value) in entries {
            let name: &str = key.get_ref();
            named.push(name.to_owned());
            if self.is_made_up(key.span(), value.span()) {
                continue;
            }
            let text = scalar(value.get_ref());
            let channel = |text: String| parse::channel_text(&text, false).map(Box::from);
            let read = match name {
                "from" => text.and_then(channel).map(|channel| from = Some(channel)),
                "field" => text.and_then(|text| FieldPath::read(&text)).map(|path| field = Some(path)),
                "to" => text.and_then(|text| Template::read(&text)).map(|template| to = Some(template)),
                "else" => text.and_then(channel).map(|channel| otherwise = Some(channel)),
                _ => {
                    let problem = self.at(key.span(), &format!("route.{name}"), "a route has no setting of this name");
                    let meant = suggest(closest(name, routes::KEYS));
                    self.problem(problem.help(meant).accepted(routes::KEYS.join(", ")));
                    continue;
                }
            };
            if let Err(reason) = read {
                let problem = self.at(value.span(), &format!("route.{name}"), reason);
                self.problem(problem.accepted(ROUTE_EXAMPLE));
            }
        }
        for key in ["from", "field", "to"].into_iter().filter(|key| !named.iter().any(|name| name == key)) {
            let problem = self.at(table.clone(), "route", format!("{key} is missing"));
            self.problem(problem.accepted(ROUTE_EXAMPLE));
        }
        if let (Some(from), Some(field), Some(to)) = (from, field, to) {
            let place = self.place(table);
            self.contents.routes.push((Route { from, field, to, otherwise }, place));
        }
    }

    fn unknown_in_rule(&mut self, span: Range<usize>, name: &str) {
        let keys = || rule_keys().chain(["prefix", "pattern"]);
        let problem = self.at(span, &format!("channels.{name}"), "there is no channel setting of this name");
        let named = table::find(name).map(|setting| match setting.value {
            Value::Rule { rule_key, .. } => format!("in [[channels]] it is called `{rule_key}`"),
            _ => format!("`{name}` holds for the whole server: move it above the first [[channels]]"),
        });
        self.problem(problem.help(named.unwrap_or_else(|| suggest(closest(name, keys())))).accepted(keys().collect::<Vec<_>>().join(", ")));
    }
}

/// How a text says which channels a table is for, and which texts are taken.
type ReadSelector = fn(&str) -> Result<Selector, String>;

fn selector_of(name: &str) -> Option<(ReadSelector, &'static str)> {
    match name {
        "prefix" => Some((read_prefix, "how the names of these channels begin: 1 to 255 bytes, without the Redis prefix")),
        "pattern" => Some((
            read_pattern,
            "a name of 1 to 255 bytes in which * stands for one or more characters but colons, ** for one or more characters, {sub} for a user",
        )),
        _ => None,
    }
}

fn read_prefix(text: &str) -> Result<Selector, String> {
    parse::channel_text(text, false).map(|prefix| Selector::Prefix(prefix.into()))
}

fn read_pattern(text: &str) -> Result<Selector, String> {
    Pattern::read(text).map(Selector::Pattern)
}

/// Reads a text into a channel rule.
type ParseRule = fn(&mut ChannelRule, &str) -> Result<(), String>;

fn find_rule(key: &str) -> Option<(&'static Setting, ParseRule)> {
    SETTINGS.iter().find_map(|setting| match setting.value {
        Value::Rule { rule_key, parse, .. } if rule_key == key => Some((setting, parse)),
        _ => None,
    })
}

/// The keys of `[[channels]]`, but for `prefix` and `pattern`.
pub fn rule_keys() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().filter_map(|setting| match setting.value {
        Value::Rule { rule_key, .. } => Some(rule_key),
        _ => None,
    })
}

fn suggest(meant: Option<&str>) -> String {
    match meant {
        Some(key) => format!("did you mean `{key}`?"),
        None => "`campanile config --default` prints every setting".to_owned(),
    }
}

/// The digits of a mode, which are octal: `0o660` is the number, `660` and `"660"` are how one says it.
fn file_mode(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::Integer(number) if number.radix() == 8 => Ok(number.as_str().to_owned()),
        other => scalar(other),
    }
}

/// A single value as the text that a flag would carry.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(i128::from_str_radix(number.as_str(), number.radix()).map_or(number.to_string(), |n| n.to_string())),
        DeValue::Float(number) => Ok(number.to_string()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        DeValue::Datetime(_) => Err("a date stands where a value is expected".to_owned()),
        DeValue::Array(_) => Err("a list stands where one value is expected".to_owned()),
        DeValue::Table(_) => Err("a table stands where a value is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut problems = read("f.toml", text).problems;
        problems.sort_by_key(Problem::order);
        problems.iter().map(Problem::to_string).collect()
    }

    /// The only problem of a text.
    fn problem(text: &str) -> String {
        let problems = problems(text);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.into_iter().next().unwrap()
    }

    #[test]
    fn values_of_every_type_are_read() {
        let text = "shards = 2\nheartbeat = \"15s\"\necho = true\nlisten = \"[::1]:1\"\nredis_channel = [\"a\", \"b\"]\npin = 0\nlog_bytes_total = 0x40000000\n";
        let contents = read("f.toml", text);
        assert_eq!(contents.problems, []);
        let texts = |key| contents.values.iter().find(|value| value.setting.key == key).unwrap().texts.iter().map(|(text, _)| text.clone());
        assert_eq!(texts("shards").collect::<Vec<_>>(), ["2"]);
        assert_eq!(texts("redis_channel").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(texts("echo").collect::<Vec<_>>(), ["true"]);
        assert_eq!(texts("log_bytes_total").collect::<Vec<_>>(), ["1073741824"]);
    }

    #[test]
    fn all_problems_come_at_once_in_the_order_of_the_file() {
        let found = problems("shards = 0\nhearbeat = 3\nlisten = [\"127.0.0.1:1\", \"nowhere\"]\n[[channels]]\noverrun = \"lates\"\n");
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(
            found[0]
                .starts_with("f.toml:1:10: error: shards: 0 is less than 1\n  1 | shards = 0\n    |          ^\n  accepted: auto, or 1"),
            "{}",
            found[0]
        );
        assert!(found[1].starts_with("f.toml:2:1: ") && found[1].contains("did you mean `heartbeat`?"), "{}", found[1]);
        assert!(found[2].starts_with("f.toml:3:26: error: listen: \"nowhere\""), "{}", found[2]);
        assert!(found[3].starts_with("f.toml:4:1: error: channels: prefix or pattern is missing"), "{}", found[3]);
        assert!(found[4].contains("did you mean latest?") && found[4].contains("accepted: disconnect, skip, latest"), "{}", found[4]);
    }

    #[test]
    fn syntax_errors_do_not_hide_the_rest() {
        let found = problems("shards = \nheartbeat = 0\n");
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].starts_with("f.toml:1:") && found[0].contains("not TOML"), "{}", found[0]);
        assert!(found[1].starts_with("f.toml:2:13: error: heartbeat: 0s is less than 1s"), "{}", found[1]);
        assert!(problem("shards = 2\nheartbeat = = 3\n").contains("f.toml:2:13: error: not TOML"));
        assert!(problem("[[channels]]\nprefix = \noverrun = \"skip\"\n").contains("f.toml:2:"));
        assert!(problem("shards = 1\nshards = 2\n").contains("f.toml:2:1: error: not TOML: duplicate key"));
        assert!(problem("redis = \"redis://:secret@host").contains("redis://:***@host"));
    }

    #[test]
    fn misplaced_tables_and_keys_are_explained() {
        assert!(problem("[server]\nshards = 2\n").contains("without a [table]"));
        assert!(problem("[channels]\nprefix = \"a\"\n").contains("headed [[channels]]"));
        assert!(problem("channels = [1]\n").contains("it is not a table"));
        assert!(problem("[[channels]]\nprefix = \"a\"\nshards = 2\n").contains("move it above the first [[channels]]"));
        assert!(problem("[[channels]]\nprefix = \"a\"\nlog_bytes_per_channel = 2\n").contains("it is called `log_bytes`"));
        assert!(problem("[[channels]]\nprefix = \"a\"\n[[channels]]\nprefix = \"a\"\n").starts_with("f.toml:4:10: "));
        assert!(problem("[[channels]]\nprefix = \"\"\n").contains("it is empty"));
        assert!(problem("[[channels]]\npattern = \"a{b}\"\n").contains("a brace that is not part of {sub}"));
        assert!(problem("[[channels]]\nprefix = \"a\"\npattern = \"a*\"\n").contains("it has prefix and pattern"));
        assert!(problem("[[channels]]\npattern = \"a*\"\n[[channels]]\npattern = \"a*\"\n").contains("has a table already"));
        assert!(problem("[[channels]]\npatern = \"a*\"\nprefix = \"a\"\n").contains("did you mean `pattern`?"));
    }

    #[test]
    fn routes_are_tables() {
        let contents = read(
            "f.toml",
            "[[route]]\nfrom = \"n\"\nfield = \"user.id\"\nto = \"user:{}\"\nelse = \"n\"\n[[route]]\nfrom = \"m\"\nfield = \"x\"\nto = \"{}\"\n",
        );
        assert_eq!(contents.problems, []);
        let read: Vec<String> = contents.routes.iter().map(|(route, place)| format!("{}: {} {route}", place.line, route.from)).collect();
        assert_eq!(read, ["1: n by user.id to user:{}, without it to n", "6: m by x to {}"]);
        let route = |rest: &str| problem(&format!("[[route]]\nfrom = \"n\"\nfield = \"a\"\n{rest}"));
        assert!(route("").starts_with("f.toml:1:1: error: route: to is missing\n"), "{}", route(""));
        assert!(route("to = \"user:\"\n").starts_with("f.toml:4:6: error: route.to: \"user:\" has to have {} once"));
        assert!(route("to = \"{}\"\nelse = \"\"\n").contains("route.else: it is empty"));
        assert!(route("to = \"{}\"\nels = \"x\"\n").contains("did you mean `else`?"));
        assert!(problem("[[route]]\nfrom = \"n\"\nfield = \"a.\"\nto = \"{}\"\n").contains("names no field"));
        assert!(problem("route = 3\n").contains("it is not a list of tables") && problem("route = [3]\n").contains("it is not a table"));
        assert!(problem("[[routes]]\nfrom = \"n\"\n").contains("did you mean `route`?"));
    }

    #[test]
    fn a_listener_may_be_a_table() {
        let text = "[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"unix:///s\"\nmode = 660\ngroup = \"root\"\n";
        let contents = read("f.toml", text);
        assert_eq!(contents.problems, []);
        let texts: Vec<&str> = contents.values[0].texts.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["127.0.0.1:1", "unix:///s?mode=660&group=root"]);
        let octal = read("f.toml", "listen = [\"[::1]:1\", { address = \"proxy+unix:///s\", mode = 0o666 }]\n");
        assert_eq!(octal.values[0].texts[1].0, "proxy+unix:///s?mode=666");
        assert!(problem("[[listen]]\nmode = 660\n").contains("address is missing"));
        assert!(problem("[[listen]]\naddress = \"127.0.0.1:1\"\nmode = 660\n").contains("no unix socket"));
        assert!(problem("[[listen]]\naddress = \"unix:///s\"\nowner = \"root\"\n").contains("it has address, mode, group"));
        assert!(problem("[[listen]]\naddress = \"unix:///s\"\nmode = 999\n").contains("no mode of a file"));
        assert!(problem("[[redis]]\nurl = 1\n").contains("a table stands"));
    }

    #[test]
    fn types_that_no_setting_has_are_named() {
        assert!(problem("shards = [1, 2]\n").contains("a list stands where one value is expected"));
        assert!(problem("shards = 1.5\n").contains("\"1.5\" is not a whole number"));
        assert!(problem("shards = 2020-01-01\n").contains("a date stands"));
        assert!(problem("echo = 3\n").contains("neither true nor false"));
    }
}
