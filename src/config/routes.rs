//! What a `[[route]]` says: to which channels a message goes that comes in on one channel, by a field of its own. Read by [`super::file`]; the bus
//! goes by it.

use std::fmt;

use super::parse;
use super::problem::{Origin, Problem};
use super::settings::Settings;
use crate::auth::identity::USER_CHANNEL;
use crate::auth::rules::Access;
use crate::limits::CHANNEL_NAME_BYTES_MAX;
use crate::limits::bus::{ROUTE_BYTES_MAX, ROUTE_CHANNELS_MAX};
use crate::named::named;
use crate::wire::channel_name;

/// The keys of the table.
pub const KEYS: [&str; 4] = ["from", "field", "to", "else"];

named! {
    /// Why a message went nowhere.
    Unrouted {
        /// It has no such field, or is no map; and there is no `else`.
        NoField = "no_field",
        /// What stands there is neither a text nor an integer nor a list of those, or makes no name of a channel.
        NoId = "no_id",
        /// It is for more channels than one message may go to.
        TooMany = "too_many",
    }
}

impl Unrouted {
    /// What such a message is like, for whoever has sent it.
    pub const fn text(self) -> &'static str {
        const _: () = assert!(ROUTE_CHANNELS_MAX == 1000 && ROUTE_BYTES_MAX == 16 << 20, "the text below says so");
        match self {
            Unrouted::NoField => "has no such field",
            Unrouted::NoId => "has there something that names no channel: a text or an integer does, or a list of those",
            Unrouted::TooMany => "is for more channels than a message may be for: 1000, and 16 MiB for all of them together",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The channel whose messages it takes.
    pub from: Box<str>,
    pub field: FieldPath,
    pub to: Template,
    /// The channel of messages without that field; None: they go nowhere.
    pub otherwise: Option<Box<str>>,
}

/// Where a field stands in a message: its name, behind the names of the maps around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath(Box<[Box<str>]>);

/// A channel's name but for what a message has in its field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    before: Box<str>,
    behind: Box<str>,
}

const HOLE: &str = "{}";

impl FieldPath {
    pub fn read(text: &str) -> Result<FieldPath, String> {
        if text.split('.').any(str::is_empty) {
            return Err(format!("{text:?} names no field; a field in a map is written user.id"));
        }
        Ok(FieldPath(text.split('.').map(Into::into).collect()))
    }

    /// From the outermost map inwards.
    pub fn names(&self) -> &[Box<str>] {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("."))
    }
}

impl Template {
    pub fn read(text: &str) -> Result<Template, String> {
        let Some((before, behind)) = text.split_once(HOLE).filter(|(_, behind)| !behind.contains(HOLE)) else {
            return Err(format!("{text:?} has to have {HOLE} once, where the field's value comes"));
        };
        // Whatever comes there has one byte at least.
        parse::channel_text(&format!("{before}x{behind}"), false)?;
        Ok(Template { before: before.into(), behind: behind.into() })
    }

    /// The channel for this value, written over what `name` holds. False: it is none.
    pub fn fill(&self, value: &str, name: &mut String) -> bool {
        name.clear();
        // What is too long is not copied.
        if value.is_empty() || value.len() > CHANNEL_NAME_BYTES_MAX {
            return false;
        }
        [&self.before, value, &self.behind].into_iter().for_each(|part| name.push_str(part));
        channel_name::check(name).is_ok()
    }

    /// Whether it may come to this channel.
    pub fn fits(&self, channel: &str) -> bool {
        let value = channel.strip_prefix(&*self.before).and_then(|rest| rest.strip_suffix(&*self.behind));
        value.is_some_and(|value| !value.is_empty())
    }

    /// A channel that it may come to.
    fn example(&self) -> String {
        format!("{}x{}", self.before, self.behind)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{HOLE}{}", self.before, self.behind)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "by {} to {}", self.field, self.to)?;
        match &self.otherwise {
            Some(channel) => write!(out, ", without it to {channel}"),
            None => Ok(()),
        }
    }
}

/// What is wrong with the routes together, or strange. `origin` tells where a route stands, by its place among them.
pub(super) fn check(settings: &Settings, origin: &dyn Fn(usize) -> Origin) -> Vec<Problem> {
    let mut problems = Vec::new();
    let routes = &settings.routes;
    for (at, route) in routes.iter().enumerate() {
        let earlier = routes[..at].iter().filter(|earlier| earlier.from == route.from);
        if earlier.clone().any(|earlier| earlier.field == route.field) {
            let message = format!("{} is routed by {} already", route.from, route.field);
            problems.push(Problem::error(origin(at), "route", message));
        } else if earlier.clone().any(|earlier| earlier.otherwise.is_some()) {
            let message =
                format!("it never counts: what has not the field of the route of {} before it goes where its else says", route.from);
            problems.push(Problem::error(origin(at), "route", message).help("only the last route of a channel has an else"));
        }
        if let Some(next) =
            routes.iter().find(|next| route.to.fits(&next.from) || route.otherwise.as_ref() == Some(&next.from) && next.from != route.from)
        {
            let message = format!("what it brings to {} stays there: a message is routed once", next.from);
            problems.push(Problem::warning(origin(at), "route", message));
        }
        let example = route.to.example();
        let is_own = settings.auth.user_channel && example.starts_with(USER_CHANNEL);
        if settings.channels.of(&example).subscribe == Access::Nobody && !is_own {
            let message = format!("no client may subscribe to {}, where it brings its messages", route.to);
            problems.push(Problem::warning(origin(at), "route", message).help(format!("`campanile config --explain {example}` tells why")));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, value: &str) -> Option<String> {
        let mut name = "what was there".to_owned();
        Template::read(template).unwrap().fill(value, &mut name).then_some(name)
    }

    #[test]
    fn a_template_makes_names_of_channels() {
        assert_eq!(filled("user:{}", "u1").as_deref(), Some("user:u1"));
        assert_eq!(filled("{}", "u1").as_deref(), Some("u1"));
        assert_eq!(filled("a:{}:b", "é").as_deref(), Some("a:é:b"));
        for value in ["", "a\nb", &"x".repeat(251), &"x".repeat(10_000)] {
            assert_eq!(filled("user:{}", value), None);
        }
        assert!(filled("user:{}", &"x".repeat(250)).is_some());
        for template in ["user:", "{}{}", "", "{}\n", &format!("{}{{}}", "x".repeat(255))] {
            assert!(Template::read(template).is_err(), "{template}");
        }
        let fits = |template: &str, channel: &str| Template::read(template).unwrap().fits(channel);
        assert!(fits("user:{}", "user:a:b") && !fits("user:{}", "user:") && !fits("a:{}:a", "a:a") && fits("{}", "x"));
    }

    #[test]
    fn a_path_names_fields_from_the_outside() {
        assert_eq!(FieldPath::read("user.id").unwrap().names().join(" "), "user id");
        assert_eq!(FieldPath::read("user.id").unwrap().to_string(), "user.id");
        for text in ["", ".", "a.", ".a", "a..b"] {
            assert!(FieldPath::read(text).is_err(), "{text}");
        }
    }
}
