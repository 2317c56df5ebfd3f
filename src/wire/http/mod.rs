//! What the public port hears and says in HTTP (RFC 9112): which resource a request is for, may it be upgraded, and the answers.
//!
//! [`head`] reads the syntax, `target` what is asked of which resource, [`upgrade`] decides by RFC 6455, [`feed`] reads what is asked of a feed, [`refusal`] says why not,
//! [`credentials`] finds what a client says about itself, [`origin`] from where its page is, [`forwarded`] where a request came from, and
//! [`answer`] writes what goes back.
//!
//! Called by a shard with what a new socket has sent so far, again from the start after each read until the outcome is not `Partial`;
//! the shard bounds the time. Invariants: nothing is kept between calls, so a pending handshake costs only the bytes it sent; an outcome
//! does not change when more bytes follow; and a refusal always says what would have been accepted.

pub mod answer;
pub mod credentials;
pub mod feed;
pub mod forwarded;
pub mod head;
pub mod origin;
pub mod refusal;
mod target;
#[cfg(test)]
mod tests;
pub mod upgrade;

use self::feed::Feed;
use self::head::{FieldRoom, Head};
use self::refusal::Refusal;
use self::target::{Query, Resource};
use self::upgrade::Upgrade;

/// What the server allows, checked while the head is read.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `/echo` is served.
    pub echo: bool,
    /// A longer head is refused.
    pub head_bytes_max: usize,
}

#[derive(Debug)]
pub enum Outcome<'h> {
    /// More bytes are needed.
    Partial,
    /// A valid upgrade: answer with [`answer::switch_protocols`].
    Upgrade(Upgrade<'h>),
    /// Answer with [`answer::event_stream`], or when something has come with [`answer::events`].
    Feed(Feed<'h>),
    /// Answer with [`answer::refuse`] and close.
    Refuse(Refusal),
    /// `GET` or `HEAD /healthz`: answer with [`answer::health`].
    Health { head: Head<'h>, head_only: bool },
    /// `OPTIONS`: answer with [`answer::options`].
    Options { head: Head<'h>, methods: &'static str },
}

/// Reads a request head from the start. `bytes` is everything the peer has sent.
pub fn parse<'h>(bytes: &'h [u8], room: &'h mut FieldRoom<'h>, rules: Rules) -> Outcome<'h> {
    let head = match Head::read(bytes, room, rules.head_bytes_max) {
        Ok(Some(head)) => head,
        Ok(None) => return Outcome::Partial,
        Err(refusal) => return Outcome::Refuse(refusal),
    };
    decide(head, rules).unwrap_or_else(|refusal| Outcome::Refuse(Refusal { head_only: head.method == "HEAD", ..refusal }.asked_by(&head)))
}

/// Whether a request is for an event stream, whatever else may be wrong with it. Its client takes any status but 200 for the last word.
fn is_event_stream(head: &Head<'_>) -> bool {
    let path = target::origin_form(head.target).unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    matches!(Resource::at(path, Rules { echo: false, head_bytes_max: 0 }), Ok(Resource::EventStream(_)))
}

/// The rules of a complete head, in the order in which their answers help most: where, how, with what.
fn decide(head: Head<'_>, rules: Rules) -> Result<Outcome<'_>, Refusal> {
    if (head.method, head.target) == ("OPTIONS", "*") {
        head.check()?;
        return Ok(Outcome::Options { head, methods: "GET, HEAD, OPTIONS" });
    }
    let target = target::origin_form(head.target)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let resource = Resource::at(path, rules)?;

    let methods = resource.methods();
    if !methods.split(", ").any(|method| method == head.method) {
        return Err(Refusal::method_not_allowed(methods));
    }
    head.check()?;
    if head.method == "OPTIONS" {
        return Ok(Outcome::Options { head, methods });
    }

    let (echo, query) = match resource {
        Resource::Health => return Ok(Outcome::Health { head, head_only: head.method == "HEAD" }),
        Resource::EventStream(name) => return Feed::of(head, true, name, query, rules).map(Outcome::Feed),
        Resource::Poll => return Feed::of(head, false, None, query, rules).map(Outcome::Feed),
        Resource::Echo => (true, Query::default()),
        Resource::Ws(name) => (false, Query::read(name, query)?),
    };
    Upgrade::of(head, echo, query).map(Outcome::Upgrade)
}
