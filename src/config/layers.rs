//! Lays the sources over each other: defaults, then the file, then the environment, then flags; the later wins. Called by
//! [`crate::cli`] through [`load`]. Invariant: a list from a later source replaces the earlier one as a whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::file::{self, FileRule};
use super::host::Host;
use super::problem::{Origin, Place, Problem, Severity};
use super::rules::Selector;
use super::table::{self, SETTINGS, Setting, VARIABLE_PREFIX, Value};
use super::{ChannelRules, LogFormat, Route, Settings, check, routes};
use crate::listen::Address;

/// The file that is read when none is named, if it is there.
pub const FILE_NAME: &str = "campanile.toml";

/// Variables of the prefix that are not settings: the file's name, and what the build was told.
const OTHER_VARIABLES: [&str; 3] = [FILE_VARIABLE, TOKEN_VARIABLE, "CAMPANILE_COMMIT"];
/// Who `campanile subscribe` is.
pub const TOKEN_VARIABLE: &str = "CAMPANILE_TOKEN";
pub const FILE_VARIABLE: &str = "CAMPANILE_CONFIG";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChoice {
    /// `campanile.toml` in the working directory, if present.
    IfPresent,
    /// This one; that it cannot be read is an error. `said_by` is the flag or variable that named it.
    Named {
        path: PathBuf,
        said_by: Origin,
    },
    None,
}

impl FileChoice {
    /// Where somebody has named one.
    pub fn named(&self) -> Option<&Path> {
        match self {
            FileChoice::Named { path, .. } => Some(path),
            FileChoice::IfPresent | FileChoice::None => None,
        }
    }
}

/// Everything that settings come from.
#[derive(Debug, Clone)]
pub struct Sources {
    pub file: FileChoice,
    /// The whole environment; other programs' variables are passed over.
    pub environment: Vec<(String, String)>,
    pub flags: Vec<(&'static Setting, Vec<String>)>,
}

/// Settings that passed every check.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: Settings,
    pub origins: Origins,
    pub warnings: Vec<Problem>,
}

/// Where the values came from.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// Who had the last word on a setting.
    settings: HashMap<&'static str, Origin>,
    /// In the order of the rules.
    tables: Vec<FileRule>,
    routes: Vec<Place>,
}

impl Origins {
    pub fn of(&self, key: &str) -> Origin {
        self.settings.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Where each table of `[[channels]]` stands.
    pub fn tables(&self) -> impl Iterator<Item = &Place> {
        self.tables.iter().map(|table| &table.place)
    }

    /// Where each table of `[[route]]` stands.
    pub fn routes(&self) -> impl Iterator<Item = &Place> {
        self.routes.iter()
    }

    /// Where this table says something about this setting; None: it does not.
    pub fn in_table(&self, at: usize, key: &str) -> Option<&Place> {
        self.tables[at].texts.iter().find(|(setting, ..)| setting.key == key).map(|(.., place)| place)
    }

    /// What is wrong with settings that have come from here, or have been there before.
    pub fn check(&self, settings: &Settings, host: &Host) -> Vec<Problem> {
        check::check(settings, host, &|key| self.of(key), &|selector, key| self.of_rule(selector, key))
    }

    /// The same of the table with this selector, or where the table itself stands.
    fn of_rule(&self, selector: &Selector, key: &str) -> Origin {
        let Some(at) = self.tables.iter().position(|table| table.selector == *selector) else { return Origin::Default };
        Origin::File(self.in_table(at, key).unwrap_or(&self.tables[at].place).clone())
    }
}

/// Reads all sources and checks what they give together on `host`; without one, only each value alone, as for a client that is
/// told where its server is but not how that one is set up. All problems come at once, in order of [`Problem::order`].
pub fn load(sources: &Sources, host: Option<&Host>) -> Result<Loaded, Vec<Problem>> {
    let mut layers = Layers::default();
    layers.all(sources);
    layers.finish(host)
}

/// How to tell what is wrong with the settings: the `log_format` of these sources, as far as they can be read.
pub fn log_format(sources: &Sources) -> LogFormat {
    let mut layers = Layers::default();
    layers.all(sources);
    layers.settings.logging.format
}

/// Where the control port of a server with these sources is, as far as they can be read: a mistake elsewhere in a file, which a server that runs
/// has not taken in, says nothing about that server.
///
/// # Errors
/// What keeps that from being read: a mistake in its value, or in the file as a whole.
pub fn control(sources: &Sources) -> Result<Address, Vec<Problem>> {
    let mut layers = Layers::default();
    layers.all(sources);
    layers.problems.retain(|problem| problem.severity == Severity::Error && ["", "control"].contains(&problem.key.as_str()));
    if layers.problems.is_empty() { Ok(layers.settings.addresses.control) } else { Err(layers.problems) }
}

/// The state between two sources.
#[derive(Debug, Default)]
pub struct Layers {
    settings: Settings,
    origins: Origins,
    routes: Vec<Route>,
    problems: Vec<Problem>,
}

impl Layers {
    fn all(&mut self, sources: &Sources) {
        self.file(&sources.file);
        self.environment(&sources.environment);
        self.flags(&sources.flags);
    }

    pub fn file(&mut self, choice: &FileChoice) {
        let (path, said_by) = match choice {
            FileChoice::None => return,
            FileChoice::IfPresent => (PathBuf::from(FILE_NAME), Origin::Default),
            FileChoice::Named { path, said_by } => (path.clone(), said_by.clone()),
        };
        let name = path.display().to_string();
        match std::fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) => self.file_text(&name, &text),
            Ok(Err(error)) => {
                let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
                self.problems.push(Problem::error(said_by, "", format!("{name}:{line}: the file is not UTF-8 text")));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && *choice == FileChoice::IfPresent => {}
            Err(error) => {
                let problem = Problem::error(said_by, "", format!("{name} cannot be read: {error}"));
                self.problems.push(problem.help(format!("`campanile config --default > {FILE_NAME}` writes one with every setting")));
            }
        }
    }

    pub fn file_text(&mut self, name: &str, text: &str) {
        let contents = file::read(name, text);
        for value in contents.values {
            let texts: Vec<&str> = value.texts.iter().map(|(text, _)| text.as_str()).collect();
            self.apply(value.setting, &texts, Origin::File(value.place));
        }
        self.origins.tables.extend(contents.rules);
        for (route, place) in contents.routes {
            self.routes.push(route);
            self.origins.routes.push(place);
        }
        self.problems.extend(contents.problems);
    }

    /// A variable that is set but empty counts as not set, as container tools pass on what they were not given.
    pub fn environment(&mut self, variables: &[(String, String)]) {
        for setting in SETTINGS {
            let name = setting.variable();
            let Some((_, text)) = variables.iter().find(|(other, text)| *other == name && !text.is_empty()) else { continue };
            self.apply(setting, &setting.split(text), Origin::Environment(name));
        }
        for (name, text) in variables {
            self.unknown_variable(name, text);
        }
    }

    /// Only what looks meant is worth a word: an orchestrator with services called `campanile` and `campanile-redis` sets names of its own.
    fn unknown_variable(&mut self, name: &str, text: &str) {
        let Some(key) = name.strip_prefix(VARIABLE_PREFIX).map(str::to_lowercase) else { return };
        let is_of_a_service =
            key.contains("service_") || text.starts_with("tcp://") || ["_tcp", "_udp"].iter().any(|part| key.contains(part));
        if table::find(&key).is_some() || OTHER_VARIABLES.contains(&name) || is_of_a_service {
            return;
        }
        if let Some(setting) = table::meant(&key) {
            let problem = Problem::warning(Origin::Environment(name.to_owned()), "", "no setting has this name, so it changes nothing");
            self.problems.push(problem.help(format!("did you mean {}?", setting.variable())));
        }
    }

    pub fn flags(&mut self, flags: &[(&'static Setting, Vec<String>)]) {
        for (setting, texts) in flags {
            // `--redis-channel ""` empties the list.
            let texts: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !(setting.is_list() && text.is_empty())).collect();
            self.apply(setting, &texts, Origin::Flag(format!("--{}", setting.flag())));
        }
    }

    fn apply(&mut self, setting: &'static Setting, texts: &[&str], origin: Origin) {
        setting.clear(&mut self.settings);
        for text in texts {
            if let Err(reason) = setting.read(&mut self.settings, text) {
                let is_unclear = texts.len() > 1 && !reason.contains(text);
                let reason = if is_unclear { format!("{text:?}: {reason}") } else { reason };
                self.problems.push(Problem::error(origin.clone(), setting.key, reason).accepted(setting.accepted));
            }
        }
        self.origins.settings.insert(setting.key, origin);
    }

    /// Gives the rules of prefixes what they inherit, and checks the values together.
    pub fn finish(mut self, host: Option<&Host>) -> Result<Loaded, Vec<Problem>> {
        let default = self.settings.channels.default.clone();
        let mut tables = Vec::new();
        for rule in &self.origins.tables {
            let mut channel_rule = default.clone();
            for (setting, text, _) in &rule.texts {
                let Value::Rule { parse, .. } = setting.value else { unreachable!("the file reader takes only rule settings here") };
                parse(&mut channel_rule, text).expect("the file reader has read this text before");
            }
            tables.push((rule.selector.clone(), channel_rule));
        }
        self.settings.channels = ChannelRules { default, tables };
        self.settings.routes = self.routes;

        let origin = |key: &str| self.origins.of(key);
        let rule_origin = |selector: &Selector, key: &str| self.origins.of_rule(selector, key);
        // A value that could not be read left its default behind: what that does not fit is no news.
        let unread: Vec<&str> = self.problems.iter().map(|problem| problem.key.as_str()).collect();
        let mut found = host.map_or(Vec::new(), |host| check::check(&self.settings, host, &origin, &rule_origin));
        if host.is_some() {
            found.extend(routes::check(&self.settings, &|at| Origin::File(self.origins.routes[at].clone())));
        }
        let is_news = |problem: &Problem| {
            let key = problem.key.as_str();
            let causes = CAUSES.iter().find(|(of, _)| *of == key).map_or(&[][..], |(_, causes)| causes);
            key.is_empty() || !(unread.contains(&key) || causes.iter().any(|cause| unread.contains(cause)))
        };
        let found: Vec<Problem> = found.into_iter().filter(is_news).collect();
        self.problems.extend(found);
        self.problems.sort_by_key(Problem::order);
        if self.problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(self.problems);
        }
        Ok(Loaded { settings: self.settings, origins: self.origins, warnings: self.problems })
    }
}

/// What a setting lacks that others give: where one of these could not be read, it may lack nothing.
const CAUSES: [(&str, &[&str]); 2] = [("auth", &["token_secret", "token_keys", "jwks_url"]), ("control", &["control_token"])];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrun, Pin};
    use std::time::Duration;

    fn host() -> Host {
        Host { cores: vec![0, 1, 2, 3], descriptors_soft: 1024, descriptors_hard: 1 << 20, private_refused: None }
    }

    fn layers(file: &str, environment: &[(&str, &str)], flags: &[(&str, &[&str])]) -> Result<Loaded, Vec<Problem>> {
        let mut layers = Layers::default();
        layers.file_text("f.toml", file);
        layers.environment(&environment.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect::<Vec<_>>());
        let flags: Vec<_> =
            flags.iter().map(|(key, texts)| (table::find(key).unwrap(), texts.iter().map(|text| text.to_string()).collect())).collect();
        layers.flags(&flags);
        layers.finish(Some(&host()))
    }

    fn texts(problems: Vec<Problem>) -> Vec<String> {
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn the_later_source_wins() {
        let file = "heartbeat = 10\nshards = 2\nlog_level = \"warn\"\n";
        let environment = [("CAMPANILE_HEARTBEAT", "20"), ("CAMPANILE_SHARDS", "3"), ("PATH", "x")];
        let settings = layers(file, &environment, &[("heartbeat", &["25"])]).unwrap().settings;
        assert_eq!(settings.clients.heartbeat, Duration::from_secs(25));
        assert_eq!(settings.shards.count, 3);
        assert_eq!(settings.logging.level.to_string(), "warn");
        assert_eq!(settings.addresses.control, Settings::default().addresses.control);
    }

    #[test]
    fn a_later_list_replaces_the_earlier_one() {
        let file = "redis_channel = [\"a\", \"b\"]\n";
        assert_eq!(layers(file, &[], &[]).unwrap().settings.redis.channels, ["a", "b"]);
        let environment = [("CAMPANILE_REDIS_CHANNEL", "c, d")];
        assert_eq!(layers(file, &environment, &[]).unwrap().settings.redis.channels, ["c", "d"]);
        assert_eq!(layers(file, &environment, &[("redis_channel", &["e"])]).unwrap().settings.redis.channels, ["e"]);
        assert!(layers(file, &environment, &[("redis_channel", &[""])]).unwrap().settings.redis.channels.is_empty());
    }

    #[test]
    fn an_empty_variable_is_not_set_and_an_empty_flag_is() {
        let file = "redis = \"redis://h\"\n";
        assert_eq!(layers(file, &[("CAMPANILE_REDIS", "")], &[]).unwrap().settings.redis.url.as_deref(), Some("redis://h"));
        assert_eq!(layers(file, &[], &[("redis", &[""])]).unwrap().settings.redis.url, None);
    }

    #[test]
    fn a_table_inherits_what_the_last_source_said() {
        let file = "overrun = \"skip\"\n[[channels]]\npattern = \"a:long*\"\noverrun = \"latest\"\n[[channels]]\nprefix = \"a\"\nhistory_count = 5\n";
        let rules = layers(file, &[("CAMPANILE_LOG_BYTES_PER_CHANNEL", "2M")], &[("history_count", &["7"])]).unwrap().settings.channels;
        assert_eq!(rules.tables[0].0.to_string(), "pattern = \"a:long*\"");
        let (short, long, other) = (rules.of("a:x"), rules.of("a:longest"), rules.of("b"));
        assert_eq!((short.overrun, short.history_count, short.log_bytes), (Overrun::Skip, 5, 2 << 20));
        assert_eq!((long.overrun, long.history_count, long.log_bytes), (Overrun::Latest, 7, 2 << 20));
        assert_eq!((other.overrun, other.history_count), (Overrun::Skip, 7));
    }

    #[test]
    fn problems_name_the_variable_or_the_flag() {
        let found =
            texts(layers("", &[("CAMPANILE_SHARDS", "many"), ("CAMPANILE_LISTEN", "127.0.0.1:1,x")], &[("pin", &["9"])]).unwrap_err());
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].starts_with("error: CAMPANILE_LISTEN: \"x\""), "{}", found[0]);
        assert!(
            found[1].starts_with("error: CAMPANILE_SHARDS: \"many\" is not a whole number\n  accepted: auto, or 1 to 1024"),
            "{}",
            found[1]
        );
        assert!(found[2].starts_with("error: --pin: core 9 is not"), "{}", found[2]);
    }

    #[test]
    fn a_misspelt_variable_is_a_warning_and_a_foreign_one_is_not() {
        let foreign = [
            ("CAMPANILE_SERVICE_HOST", "10.0.0.1"),
            ("CAMPANILE_PORT", "tcp://10.0.0.1:8080"),
            ("CAMPANILE_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("CAMPANILE_REDIS_SERVICE_PORT", "6379"),
            ("CAMPANILE_REDIS_PORT", "tcp://10.0.0.2:6379"),
        ];
        let loaded =
            layers("", &[&[("CAMPANILE_HEARTBAET", "1"), ("CAMPANILE_REDIS_URL", "redis://h")], &foreign[..]].concat(), &[]).unwrap();
        assert_eq!(
            texts(loaded.warnings),
            [
                "warning: CAMPANILE_HEARTBAET: no setting has this name, so it changes nothing\n  help: did you mean CAMPANILE_HEARTBEAT?",
                "warning: CAMPANILE_REDIS_URL: no setting has this name, so it changes nothing\n  help: did you mean CAMPANILE_REDIS?"
            ]
        );
    }

    #[test]
    fn pin_is_checked_against_the_host_only_when_it_is_a_list() {
        assert_eq!(layers("pin = \"1-2\"", &[], &[]).unwrap().settings.shards.pin, Pin::List(vec![1, 2]));
        assert_eq!(layers("pin = \"none\"", &[], &[]).unwrap().settings.shards.pin, Pin::None);
        assert!(texts(layers("pin = \"3-5\"", &[], &[]).unwrap_err())[0].contains("cores 4-5 are not"));
    }
}
