//! Where messages go that a `[[route]]` takes: found in the message itself, by a field of its own. Asked by the hub; sans-IO.
//!
//! Invariant: of a message nothing is decoded but that field. A message whose field is there and names no channel goes nowhere, not where `else`
//! says: it may have been meant for one client, and `else` may be heard by all.

use std::collections::HashMap;

use crate::config::Route;
use crate::config::routes::Unrouted;
use crate::limits::bus::{ROUTE_BYTES_MAX, ROUTE_CHANNELS_MAX};
use crate::wire::payload::Kind;
use crate::wire::spelled::Spelled;

#[derive(Debug, Default)]
pub struct Routes(HashMap<Box<str>, Vec<Route>>);

impl Routes {
    pub fn new(routes: &[Route]) -> Routes {
        let mut by_source: HashMap<Box<str>, Vec<Route>> = HashMap::new();
        for route in routes {
            by_source.entry(route.from.clone()).or_default().push(route.clone());
        }
        Routes(by_source)
    }

    /// Whether messages of this channel are routed.
    #[inline]
    pub fn takes(&self, channel: &str) -> bool {
        !self.0.is_empty() && self.0.contains_key(channel)
    }

    /// The channels that a message of this channel is for, each once; in order of their names. `kind`: what the payload was found to be.
    pub fn channels(&self, channel: &str, kind: Kind, payload: &[u8]) -> Result<Vec<String>, Unrouted> {
        let routes = self.0.get(channel).map_or(&[][..], Vec::as_slice);
        let value = match kind {
            Kind::Json => std::str::from_utf8(payload).ok().map(Spelled::Json),
            Kind::Msgpack => Some(Spelled::Msgpack(payload)),
            Kind::Text | Kind::Bytes => None,
        };
        // Of a channel with several routes the first counts whose field is there.
        let found = value.and_then(|value| routes.iter().find_map(|route| Some((route, field(value, route.field.names())?))));
        match found {
            Some((route, value)) => named_by(route, value, payload.len()),
            None => {
                let otherwise = routes.last().and_then(|route| route.otherwise.as_deref());
                otherwise.map(|channel| vec![channel.to_owned()]).ok_or(Unrouted::NoField)
            }
        }
    }
}

/// The field of this path. A null is no field. Of one given twice the last counts.
fn field<'a>(value: Spelled<'a>, path: &[Box<str>]) -> Option<Spelled<'a>> {
    let (name, rest) = path.split_first()?;
    let mut found = None;
    value
        .fields(&mut |key, value| {
            if *key == **name {
                found = Some(value);
            }
        })
        .ok()?;
    let found = found.filter(|value| !value.is_null())?;
    if rest.is_empty() { Some(found) } else { field(found, rest) }
}

fn named_by(route: &Route, value: Spelled<'_>, payload_bytes: usize) -> Result<Vec<String>, Unrouted> {
    let mut channels = Vec::new();
    let mut result = Ok(());
    let mut add = |value: Spelled<'_>| {
        let mut name = String::new();
        match value.identifier() {
            _ if result.is_err() => {}
            Some(id) if route.to.fill(&id, &mut name) => {
                channels.push(name);
                if channels.len() > ROUTE_CHANNELS_MAX {
                    result = Err(Unrouted::TooMany);
                }
            }
            _ => result = Err(Unrouted::NoId),
        }
    };
    if value.elements(&mut add).is_err() {
        add(value);
    }
    result?;
    if channels.is_empty() {
        return Err(Unrouted::NoId);
    }
    channels.sort_unstable();
    channels.dedup();
    if channels.len() > 1 && channels.len() * payload_bytes > ROUTE_BYTES_MAX {
        return Err(Unrouted::TooMany);
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::routes::{FieldPath, Template};
    use crate::wire::payload::{Expect, classify};

    fn route(from: &str, field: &str, to: &str, otherwise: Option<&str>) -> Route {
        let (field, to) = (FieldPath::read(field).unwrap(), Template::read(to).unwrap());
        Route { from: from.into(), field, to, otherwise: otherwise.map(Into::into) }
    }

    fn channels(routes: &[Route], payload: &[u8]) -> Result<Vec<String>, Unrouted> {
        Routes::new(routes).channels("notifications", classify(payload, Expect::Auto).0, payload)
    }

    #[test]
    fn a_field_names_the_channels() {
        let routes = [route("notifications", "user_id", "user:{}", None), route("other", "x", "y:{}", Some("z"))];
        let of = |payload: &[u8]| channels(&routes, payload).map(|channels| channels.join(" "));
        let named = |names: &str| Ok(names.to_owned());
        assert_eq!(of(br#"{"title":"Ding","user_id":"u123","message":"x"}"#), named("user:u123"));
        assert_eq!(of(br#"{"user_id":17}"#), named("user:17"));
        assert_eq!(of(br#"{"user_id":-17}"#), named("user:-17"));
        assert_eq!(of(br#"{"user_id":18446744073709551615}"#), named("user:18446744073709551615"));
        assert_eq!(of(br#"{"user_id":"u1","user_id":"u2"}"#), named("user:u2"), "as every reader of JSON has it");
        assert_eq!(of(br#"{"user_id":["b",1,"a","b"]}"#), named("user:1 user:a user:b"), "each once");
        assert_eq!(of(b"\x82\xa1t\xa1x\xa7user_id\xa2u1"), named("user:u1"));
        assert_eq!(of(b"\x81\xa7user_id\x93\xa2u1\x07\xd0\xf0"), named("user:-16 user:7 user:u1"));
    }

    #[test]
    fn what_names_no_channel_goes_nowhere() {
        for otherwise in [None, Some("rest")] {
            let routes = [route("notifications", "user_id", "user:{}", otherwise)];
            let without = || otherwise.map(|channel| vec![channel.to_owned()]).ok_or(Unrouted::NoField);
            for payload in [
                &b"hello"[..],
                b"",
                b"\xff",
                b"[1]",
                b"7",
                b"{}",
                br#"{"user_id":null}"#,
                br#"{"a":{"user_id":"u"}}"#,
                br#"{"user_id":"u1""#,
            ] {
                assert_eq!(channels(&routes, payload), without(), "{payload:?}");
            }
            let long = format!(r#"{{"user_id":"{}"}}"#, "x".repeat(10_000));
            for payload in [
                r#"{"user_id":{"id":1}}"#,
                r#"{"user_id":true}"#,
                r#"{"user_id":1.5}"#,
                r#"{"user_id":""}"#,
                r#"{"user_id":"a\nb"}"#,
                r#"{"user_id":[]}"#,
                r#"{"user_id":["u1",{}]}"#,
                r#"{"user_id":["u1",["u2"]]}"#,
                r#"{"user_id":1e300}"#,
                &long,
            ] {
                assert_eq!(channels(&routes, payload.as_bytes()), Err(Unrouted::NoId), "{payload}");
            }
        }
    }

    #[test]
    fn a_message_is_for_so_many_channels_and_no_more() {
        let routes = [route("notifications", "user_id", "user:{}", Some("rest"))];
        let list = |count: usize| format!(r#"{{"user_id":{:?}}}"#, (0..count).collect::<Vec<_>>());
        assert_eq!(channels(&routes, list(ROUTE_CHANNELS_MAX).as_bytes()).unwrap().len(), ROUTE_CHANNELS_MAX);
        for count in [ROUTE_CHANNELS_MAX + 1, 100_000] {
            assert_eq!(channels(&routes, list(count).as_bytes()), Err(Unrouted::TooMany));
        }
        let large = |ids: &str| format!(r#"{{"user_id":{ids},"x":"{}"}}"#, "x".repeat(ROUTE_BYTES_MAX / 2));
        assert_eq!(channels(&routes, large("[1,2]").as_bytes()), Err(Unrouted::TooMany));
        assert_eq!(channels(&routes, large("[1,1]").as_bytes()).unwrap(), ["user:1"]);
    }

    #[test]
    fn fields_lie_in_maps_and_the_first_that_is_there_counts() {
        let routes = [route("notifications", "user.id", "user:{}", None), route("notifications", "room", "room:{}", Some("notifications"))];
        let of = |payload: &[u8]| channels(&routes, payload).unwrap().join(" ");
        assert_eq!(of(br#"{"room":"r","user":{"name":"x","id":"u1"}}"#), "user:u1");
        assert_eq!(of(br#"{"room":"r","user":{"name":"x"}}"#), "room:r");
        assert_eq!(of(br#"{"room":"r","user":"u1"}"#), "room:r");
        assert_eq!(of(br#"{"user":["id"]}"#), "notifications", "it may stay where it came in");
        assert!(Routes::new(&routes).takes("notifications") && !Routes::new(&routes).takes("user:u1") && !Routes::default().takes("a"));
    }
}
