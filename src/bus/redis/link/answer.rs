//! What came in on a connection that is logged in, each thing with the command that it answers.

use std::borrow::Cow;
use std::time::Duration;

use redis::{ServerError, Value};

use super::Link;
use crate::bus::question::Published;
use crate::bus::redis::awaiting::{Asked, Awaiting, Verb};
use crate::bus::redis::durable;
use crate::bus::redis::fault::Fault;
use crate::bus::redis::keeping::Place;
use crate::bus::redis::output_limit::OutputLimit;
use crate::bus::redis::resp::Reply;
use crate::bus::redis::revocations::Question;

/// What Redis said on a connection that is logged in.
#[derive(Debug)]
pub enum Answer<'a> {
    Message {
        channel: &'a [u8],
        payload: &'a [u8],
    },
    /// `was_asked`: otherwise the server did it of its own accord.
    Confirmed {
        verb: Verb,
        name: &'a str,
        was_asked: bool,
    },
    /// An answer to the PING of this number, whatever it says. `lost` was sent before it and will not be answered any more.
    Pong {
        number: u64,
        lost: Vec<Asked>,
    },
    Refused {
        asked: Asked,
        error: &'a ServerError,
    },
    /// The number is None where a message has none, or is found out otherwise.
    Published {
        number: Option<Published>,
    },
    /// To the question of this number about a durable channel.
    Durable {
        ticket: u32,
        value: &'a Value,
    },
    /// To something about users.
    Kept {
        place: Place,
        value: Cow<'a, Value>,
    },
    /// To the question of this number about who is there.
    Presence {
        ticket: u32,
        value: Cow<'a, Value>,
    },
    /// To what was asked about our functions.
    Library {
        value: Cow<'a, Value>,
    },
    /// A probe is taken.
    Probed,
    /// Who the masters are.
    Topology {
        value: &'a Value,
    },
    /// So many replicas have what was published before.
    Waited {
        replicas: usize,
    },
    /// What it is itself.
    Role {
        value: &'a Value,
    },
    /// What it says of its memory.
    Memory {
        value: &'a Value,
    },
    /// What it says of the buffers of subscribers, or its default if it does not tell.
    OutputLimit(OutputLimit),
    /// To something asked about revocations.
    Revocations {
        question: Question,
        value: Option<&'a Value>,
    },
    /// What cannot be understood, as an answer to this command, if to any.
    Odd {
        asked: Option<Asked>,
    },
    /// Dealt with already.
    Nothing,
}

impl Link {
    /// What the last [`Link::fill`] brought, one by one, each with the command that it answers.
    #[inline]
    pub fn next_answer(&mut self) -> Result<Option<Answer<'_>>, Fault> {
        let Some(reply) = self.decoder.next_reply()? else { return Ok(None) };
        Ok(Some(match reply {
            Reply::Message { channel, payload } => Answer::Message { channel, payload },
            Reply::Subscribed { name } => confirmed(&mut self.awaiting, Verb::Subscribe, name),
            Reply::Unsubscribed { name } => confirmed(&mut self.awaiting, Verb::Unsubscribe, name),
            Reply::PatternSubscribed { name } => confirmed(&mut self.awaiting, Verb::PatternSubscribe, name),
            Reply::Push => Answer::Odd { asked: None },
            Reply::Pong => match self.awaiting.ponged() {
                // Which of the answers to come is whose cannot be told any more.
                Some((_, lost)) if lost.iter().any(is_numbered) => {
                    return Err(Fault::new("it did not answer a PUBLISH"));
                }
                Some((number, lost)) => Answer::Pong { number, lost },
                None => return Err(Fault::new("it answers a PING that was not sent")),
            },
            Reply::Integer(_) | Reply::Okay | Reply::Other(_) | Reply::Error(_) => match (self.awaiting.answered(), reply) {
                // Also one that PING is not allowed to us, or is not known: it came back.
                (Some(Asked::Ping(number)), _) => Answer::Pong { number, lost: Vec::new() },
                (Some(Asked::Timeout), Reply::Other(value)) => {
                    if let Some(seconds) = timeout_of(value).filter(|&seconds| seconds > 0) {
                        let silence = Duration::from_secs(seconds);
                        self.silence_max = Some(self.silence_max.map_or(silence, |known| known.min(silence)));
                    }
                    Answer::Nothing
                }
                (Some(Asked::Timeout), _) => Answer::Nothing,
                (Some(Asked::OutputLimit), Reply::Other(value)) => Answer::OutputLimit(OutputLimit::read(value).unwrap_or_default()),
                // Many a server keeps its configuration to itself.
                (Some(Asked::OutputLimit), _) => Answer::OutputLimit(OutputLimit::default()),
                (Some(Asked::Publish), Reply::Integer(_)) => Answer::Published { number: None },
                (Some(Asked::PublishDurable), Reply::Other(value)) => match durable::published(value) {
                    Some(number) => Answer::Published { number: Some(number) },
                    None => Answer::Odd { asked: Some(Asked::PublishDurable) },
                },
                (Some(Asked::Durable(ticket)), Reply::Other(value)) => Answer::Durable { ticket, value },
                (Some(Asked::Keeping(place)), Reply::Other(value)) => Answer::Kept { place, value: Cow::Borrowed(value) },
                (Some(Asked::Keeping(place)), Reply::Integer(number)) => Answer::Kept { place, value: Cow::Owned(Value::Int(number)) },
                (Some(Asked::Keeping(place)), Reply::Okay) => Answer::Kept { place, value: Cow::Owned(Value::Okay) },
                (Some(Asked::Presence(ticket)), Reply::Other(value)) => Answer::Presence { ticket, value: Cow::Borrowed(value) },
                (Some(Asked::Presence(ticket)), Reply::Integer(number)) => {
                    Answer::Presence { ticket, value: Cow::Owned(Value::Int(number)) }
                }
                (Some(Asked::Presence(ticket)), Reply::Okay) => Answer::Presence { ticket, value: Cow::Owned(Value::Okay) },
                (Some(Asked::Probe), Reply::Other(_)) => Answer::Probed,
                (Some(Asked::Memory), Reply::Other(value)) => Answer::Memory { value },
                // Many a server keeps that to itself.
                (Some(Asked::Memory), _) => Answer::Nothing,
                (Some(Asked::Slots | Asked::Master), Reply::Other(value)) => Answer::Topology { value },
                (Some(Asked::Wait), Reply::Integer(replicas)) => Answer::Waited { replicas: replicas.try_into().unwrap_or(0) },
                (Some(Asked::Role), Reply::Other(value)) => Answer::Role { value },
                // Whoever may not ask is not told.
                (Some(Asked::Role), _) => Answer::Role { value: &Value::Nil },
                (Some(Asked::Probe), Reply::Integer(_)) => Answer::Probed,
                // What follows it will be answered, whatever it says.
                (Some(Asked::Asking), _) => Answer::Nothing,
                (Some(Asked::Library), Reply::Other(value)) => Answer::Library { value: Cow::Borrowed(value) },
                (Some(Asked::Library), Reply::Integer(number)) => Answer::Library { value: Cow::Owned(Value::Int(number)) },
                (Some(Asked::Library), Reply::Okay) => Answer::Library { value: Cow::Owned(Value::Okay) },
                (Some(Asked::Revocations(question)), Reply::Integer(_) | Reply::Okay) => Answer::Revocations { question, value: None },
                (Some(Asked::Revocations(question)), Reply::Other(value)) => Answer::Revocations { question, value: Some(value) },
                (Some(asked), Reply::Error(error)) => Answer::Refused { asked, error },
                (None, Reply::Error(error)) => return Err(Fault::refused(error)),
                (asked, _) => Answer::Odd { asked },
            },
        }))
    }
}

/// Commands whose answers are told apart by their order alone.
fn is_numbered(asked: &Asked) -> bool {
    matches!(
        asked,
        Asked::Publish
            | Asked::PublishDurable
            | Asked::Asking
            | Asked::Durable(_)
            | Asked::Keeping(_)
            | Asked::Presence(_)
            | Asked::Library
            | Asked::Slots
            | Asked::Master
            | Asked::Role
            | Asked::Probe
            | Asked::Wait
            | Asked::Revocations(_)
    )
}

fn confirmed<'a>(awaiting: &mut Awaiting, verb: Verb, name: &'a [u8]) -> Answer<'a> {
    match std::str::from_utf8(name) {
        Ok(name) => Answer::Confirmed { verb, name, was_asked: awaiting.confirmed(verb, name) },
        Err(_) => Answer::Odd { asked: None },
    }
}

/// The answer to `CONFIG GET timeout`: a map in RESP3, pairs in an array in RESP2.
fn timeout_of(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Map(pairs) => pairs.first().map(|(_, number)| number),
        Value::Array(items) => items.get(1),
        _ => None,
    };
    match number {
        Some(Value::BulkString(digits)) => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}
