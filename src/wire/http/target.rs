//! The target of a request: which resource, and what its path and query ask of it.

use std::borrow::Cow;

use super::Rules;
use super::refusal::{Refusal, RefusalReason};
use crate::limits::QUERY_CHANNELS_MAX;
use crate::named::Named;
use crate::wire::Format;
use crate::wire::channel_name;

/// What a path names.
pub(super) enum Resource<'p> {
    Health,
    Echo,
    /// `/ws`, or `/ws/NAME` with the name as it was written.
    Ws(Option<&'p str>),
    /// `/sse`, or `/sse/NAME`.
    EventStream(Option<&'p str>),
    Poll,
}

impl<'p> Resource<'p> {
    /// A slash at the end, and several for one before the resource or the name, are what a proxy makes of `location /live/` in front
    /// of `/ws` or `/ws/`. A name that begins with a slash is written `%2F`.
    pub(super) fn at(path: &'p str, rules: Rules) -> Result<Resource<'p>, Refusal> {
        let path = path.trim_start_matches('/');
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        match (first, rest.trim_start_matches('/')) {
            ("healthz", "") => Ok(Resource::Health),
            ("echo", "") if rules.echo => Ok(Resource::Echo),
            ("ws", "") => Ok(Resource::Ws(None)),
            ("ws", name) => Ok(Resource::Ws(Some(name))),
            ("sse", "") => Ok(Resource::EventStream(None)),
            ("sse", name) => Ok(Resource::EventStream(Some(name))),
            ("poll", "") => Ok(Resource::Poll),
            _ => Err(RefusalReason::NotFound.into()),
        }
    }

    /// The methods that it is asked by.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Resource::Health => "GET, HEAD, OPTIONS",
            Resource::Echo | Resource::Ws(_) | Resource::EventStream(_) | Resource::Poll => "GET, OPTIONS",
        }
    }
}

/// The target from its path on; `http://host/ws` (RFC 9112, 3.2.2) is the same as `/ws`.
pub(super) fn origin_form(target: &str) -> Result<&str, Refusal> {
    if target.starts_with('/') {
        return Ok(target);
    }
    let after_scheme = target.split_once("://").and_then(|(scheme, rest)| {
        let known = ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        known.then_some(rest)
    });
    match after_scheme.map(|rest| (rest, rest.find(['/', '?']).unwrap_or(rest.len()))) {
        None | Some((_, 0)) => Err(Refusal::bad("The request target must be a path like /ws, or a URL with a host.")),
        Some((rest, at)) if rest[at..].starts_with('/') => Ok(&rest[at..]),
        Some(_) => Ok("/"),
    }
}

/// What a `/ws` target asks for.
#[derive(Default)]
pub(super) struct Query {
    pub(super) channels: Vec<String>,
    pub(super) format: Option<Format>,
}

impl Query {
    pub(super) fn read(path_name: Option<&str>, query: &str) -> Result<Query, Refusal> {
        let mut read = Query::default();
        if let Some(name) = path_name {
            read.add_channel(decoded(name))?;
        }
        let mut query_channels = 0;
        for pair in pairs(query) {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            let value = || decoded(value);
            match decoded(name).as_deref() {
                Some("channel") => {
                    query_channels += 1;
                    if query_channels > QUERY_CHANNELS_MAX {
                        return Err(Refusal::bad(format!(
                            "At most {QUERY_CHANNELS_MAX} channel parameters are accepted; subscribe to the rest later."
                        )));
                    }
                    read.add_channel(value())?;
                }
                Some("format") => {
                    let format = value().as_deref().and_then(Format::from_name);
                    read.format.get_or_insert(format.ok_or_else(|| Refusal::bad("The format parameter must be msgpack, json or raw."))?);
                }
                // Also a name that is not UTF-8: whoever it is for, it is not for us.
                Some(_) | None => {}
            }
        }
        Ok(read)
    }

    fn add_channel(&mut self, name: Option<Cow<'_, str>>) -> Result<(), Refusal> {
        let name = channel_name(name)?;
        if !self.channels.iter().any(|known| *known == name) {
            self.channels.push(name.into_owned());
        }
        Ok(())
    }
}

/// What stands between the ampersands of a query. Only there does a plus sign stand for a space.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = String> {
    query.split('&').map(|pair| pair.replace('+', " "))
}

pub(super) fn channel_name(name: Option<Cow<'_, str>>) -> Result<Cow<'_, str>, Refusal> {
    let name = name.ok_or_else(|| Refusal::bad("A channel name must be UTF-8."))?;
    channel_name::check(&name).map_err(|name| Refusal::bad(name.accepted()))?;
    Ok(name)
}

/// Percent-decoded; None: not UTF-8.
pub(super) fn decoded(encoded: &str) -> Option<Cow<'_, str>> {
    percent_encoding::percent_decode_str(encoded).decode_utf8().ok()
}
