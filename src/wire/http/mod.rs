//! What the public port hears and says in HTTP (RFC 9112): which resource a request is for, may it be upgraded, and the answers.
//!
//! [`head`] reads the syntax, `target` what is asked of which resource, [`upgrade`] decides by RFC 6455, [`refusal`] says why not,
//! [`extensions`] what may be compressed, [`credentials`] finds what a client says about itself, [`origin`] from where its page is, [`forwarded`] where a request came from, and
//! [`answer`] writes what goes back.
//!
//! Called by a shard with what a new socket has sent so far, again from the start after each read until the outcome is not `Partial`;
//! the shard bounds the time. Invariants: nothing is kept between calls, so a pending handshake costs only the bytes it sent; an outcome
//! does not change when more bytes follow; and a refusal always says what would have been accepted.

pub mod answer;
pub mod credentials;
pub mod extensions;
pub mod forwarded;
pub mod head;
pub mod origin;
pub mod refusal;
mod target;
#[cfg(test)]
mod tests;
pub mod upgrade;

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
    /// Answer with [`answer::refuse`] and close.
    Refuse(Refusal),
    /// `GET` or `HEAD /healthz`: answer with [`answer::health`] and close.
    Health { head_only: bool },
}

/// Reads a request head from the start. `bytes` is everything the peer has sent.
pub fn parse<'h>(bytes: &'h [u8], room: &'h mut FieldRoom<'h>, rules: Rules) -> Outcome<'h> {
    let head = match Head::read(bytes, room, rules.head_bytes_max) {
        Ok(Some(head)) => head,
        Ok(None) => return Outcome::Partial,
        Err(refusal) => return Outcome::Refuse(refusal),
    };
    decide(head, rules).unwrap_or_else(|refusal| Outcome::Refuse(Refusal { head_only: head.method == "HEAD", ..refusal }))
}

/// The rules of a complete head, in the order in which their answers help most: where, how, with what.
fn decide(head: Head<'_>, rules: Rules) -> Result<Outcome<'_>, Refusal> {
    let target = target::origin_form(head.target)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let resource = Resource::at(path, rules)?;

    let head_only = match (head.method, &resource) {
        ("GET", _) => false,
        ("HEAD", Resource::Health) => true,
        (_, Resource::Health) => return Err(Refusal::method_not_allowed("GET, HEAD")),
        (_, Resource::Echo | Resource::Ws(_)) => return Err(Refusal::method_not_allowed("GET")),
    };
    head.check()?;

    let (echo, query) = match resource {
        Resource::Health => return Ok(Outcome::Health { head_only }),
        Resource::Echo => (true, Query::default()),
        Resource::Ws(name) => (false, Query::read(name, query)?),
    };
    Upgrade::of(head, echo, query).map(Outcome::Upgrade)
}
