//! What a client says about itself in its request: a token, in one of four places, or a user's name. Nothing is judged here, and nothing copied
//! but a name that is percent-encoded.
//!
//! Called by a shard that asks who its clients are, for an upgrade that is proper otherwise.

use std::borrow::Cow;

use super::head::Head;
use super::target::decoded;

/// The token that a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given<'h> {
    None,
    /// The only one.
    One {
        token: &'h [u8],
        place: Place,
    },
    /// In two places, or twice in one: nobody can tell which is meant.
    Several,
}

/// Where a token stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `Authorization`, or a subprotocol: whoever made the request put it there.
    Header,
    /// `?token=`: a link may hold it.
    Query,
    /// A browser adds it by itself, whoever made the page.
    Cookie,
}

/// The token of `Authorization: Bearer` (RFC 6750, 2.1), `?token=`, the subprotocol entry `bearer.TOKEN`, or the cookie of this name. An empty one
/// is none.
pub fn token<'h>(head: &Head<'h>, cookie: Option<&str>) -> Given<'h> {
    let bearers = head.fields.values("authorization").filter_map(bearer).map(|token| (token, Place::Header));
    let in_query = query(head.target).filter(|(name, _)| is_named(name, "token")).map(|(_, value)| (value.as_bytes(), Place::Query));
    let offered = head.fields.elements("sec-websocket-protocol").filter_map(|entry| entry.strip_prefix(SUBPROTOCOL_PREFIX));
    let offered = offered.map(|token| (token, Place::Header));
    let mut explicit = bearers.chain(in_query).chain(offered).filter(|(token, _)| !token.is_empty());
    let mut cookies = cookie.into_iter().flat_map(|name| cookies(head, name)).filter(|token| !token.is_empty());
    match (explicit.next(), cookies.next()) {
        (None, None) => Given::None,
        (Some((token, place)), None) if explicit.next().is_none() => Given::One { token, place },
        (None, Some(token)) if cookies.next().is_none() => Given::One { token, place: Place::Cookie },
        _ => Given::Several,
    }
}

/// The user that `?user=` names; None: nobody, several, or a name that is not UTF-8.
pub fn user<'h>(head: &Head<'h>) -> Option<Cow<'h, str>> {
    let mut named = query(head.target).filter(|(name, _)| is_named(name, "user"));
    let (_, value) = named.next().filter(|_| named.next().is_none())?;
    if value.contains('+') {
        // Only in a query does a plus sign stand for a space.
        let spaced = value.replace('+', " ");
        return decoded(&spaced).map(|name| Cow::Owned(name.into_owned()));
    }
    decoded(value)
}

/// The entries with this prefix are no subprotocols, and are never confirmed: what stands in the answer may be logged on the way.
const SUBPROTOCOL_PREFIX: &[u8] = b"bearer.";

/// Another scheme is for somebody on the way.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (_, token) = value.split_at_checked(6).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer"))?;
    token.starts_with(b" ").then(|| token.trim_ascii())
}

fn query(target: &str) -> impl Iterator<Item = (&str, &str)> {
    let (_, query) = target.split_once('?').unwrap_or((target, ""));
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// A token holds no character that has to be encoded, but its name may be.
fn is_named(encoded: &str, name: &str) -> bool {
    encoded == name || decoded(encoded).is_some_and(|decoded| decoded == name)
}

/// The values of every cookie of this name (RFC 6265, 4.2.1).
fn cookies<'h>(head: &Head<'h>, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let pairs = head.fields.values("cookie").flat_map(|value| value.split(|&byte| byte == b';')).map(<[u8]>::trim_ascii);
    pairs.filter_map(move |pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::super::head::FieldRoom;
    use super::super::{Outcome, Rules, parse};
    use super::*;

    fn of<R>(target: &str, fields: &[&str], read: impl FnOnce(&Head<'_>) -> R) -> R {
        let more: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let text = format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        match parse(text.as_bytes(), &mut FieldRoom::empty(), Rules { echo: false, head_bytes_max: 8192 }) {
            Outcome::Upgrade(upgrade) => read(&upgrade.head),
            other => panic!("{other:?}"),
        }
    }

    fn given(target: &str, fields: &[&str]) -> Result<Option<(String, bool)>, ()> {
        of(target, fields, |head| match token(head, Some("session")) {
            Given::None => Ok(None),
            Given::One { token, place } => Ok(Some((String::from_utf8(token.to_vec()).unwrap(), place == Place::Cookie))),
            Given::Several => Err(()),
        })
    }

    fn user_of(target: &str) -> Option<String> {
        of(target, &[], |head| user(head).map(Cow::into_owned))
    }

    #[test]
    fn a_token_is_found_wherever_it_is() {
        for (target, fields) in [
            ("/ws", &["Authorization: Bearer T.1-_"][..]),
            ("/ws", &["authorization:bEARER   T.1-_  "]),
            ("/ws?token=T.1-_", &[]),
            ("/ws/a?channel=b&tok%65n=T.1-_", &[]),
            ("/ws", &["Sec-WebSocket-Protocol: campanile.v1.json, bearer.T.1-_"]),
            ("/ws", &["Sec-WebSocket-Protocol: bearer.T.1-_", "Sec-WebSocket-Protocol: campanile.v1.json"]),
            ("/ws?token=&token=T.1-_", &["Authorization: Basic dTpw", "Cookie: session="]),
            ("/ws?token=T.1-_", &["Cookie: other=x; sessions=y"]),
        ] {
            assert_eq!(given(target, fields), Ok(Some(("T.1-_".to_owned(), false))), "{target} {fields:?}");
        }
        for cookie in ["Cookie: session=T", "Cookie: a=b; session=T; c=d", "Cookie: a=b;session=\"T\""] {
            assert_eq!(given("/ws", &[cookie]), Ok(Some(("T".to_owned(), true))), "{cookie}");
        }
    }

    #[test]
    fn two_tokens_are_none() {
        for (target, fields) in [
            ("/ws?token=a", &["Authorization: Bearer a"][..]),
            ("/ws?token=a&token=a", &[]),
            ("/ws", &["Authorization: Bearer a", "Authorization: Bearer b"]),
            ("/ws", &["Sec-WebSocket-Protocol: bearer.a, bearer.b"]),
            ("/ws", &["Cookie: session=a; session=b"]),
            ("/ws?token=a", &["Cookie: session=a"]),
        ] {
            assert_eq!(given(target, fields), Err(()), "{target} {fields:?}");
        }
        for (target, fields) in
            [("/ws", &[][..]), ("/ws?tokens=a&user=u", &["Authorization: Bearera", "Cookie: xsession=a", "Authorization: Bearer"])]
        {
            assert_eq!(given(target, fields), Ok(None), "{target} {fields:?}");
        }
    }

    #[test]
    fn a_user_is_named_once() {
        for (target, user) in [
            ("/ws?user=u123", Some("u123")),
            ("/ws/a?channel=b&user=%C3%A9+x", Some("é x")),
            ("/ws?user=", Some("")),
            ("/ws?user=a&user=b", None),
            ("/ws?user=%FF", None),
            ("/ws", None),
        ] {
            assert_eq!(user_of(target).as_deref(), user, "{target}");
        }
    }
}
