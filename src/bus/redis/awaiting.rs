//! Commands on one connection to Redis that are not answered yet, and which of them a reply answers. Sans-IO; owned by [`super::link`].
//!
//! Redis answers the commands of a connection in their order. The confirmations of a subscription stand where its answer would, as pushes (RESP3)
//! or arrays (RESP2), one for each name; if the command is refused, one error stands there, whatever the number of names. So an error
//! answers the oldest command, and the answer to a PING tells that what was sent before it and is not answered never will be.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{keeping, revocations};
use crate::clock::MonotonicNs;

/// What a reply will be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Hello,
    /// With a user's name or with the password alone.
    Auth {
        is_named: bool,
    },
    SetName,
    Select,
    /// After what silence the server closes a connection.
    Timeout,
    /// What it keeps for subscribers.
    OutputLimit,
    /// Numbered from 1 on each connection.
    Ping(u64),
    Publish,
    /// Through the function that gives the message a number.
    PublishDurable,
    /// The question of this number about a durable channel, or the stream of one.
    Durable(u32),
    /// Something about users, on a connection of its own.
    Keeping(keeping::Place),
    /// The question of this number about who is there.
    Presence(u32),
    /// Whether our functions are there.
    Library,
    /// What it does when its memory is full.
    Memory,
    /// A message that is to come back.
    Probe,
    /// On the publishing connection.
    Revocations(revocations::Question),
    /// Who the masters of the Cluster are.
    Slots,
    /// Where the master of a service is, of a Sentinel.
    Master,
    /// Whether it is a master.
    Role,
    /// How many replicas have what was published before.
    Wait,
    /// That the next command is for a slot which is not this node's yet.
    Asking,
    Channels(Verb, Names),
}

/// Of Redis, not confirmed yet, in the order of the command.
pub type Names = VecDeque<Arc<str>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Subscribe,
    Unsubscribe,
    PatternSubscribe,
}

impl Verb {
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Subscribe => "SUBSCRIBE",
            Verb::Unsubscribe => "UNSUBSCRIBE",
            Verb::PatternSubscribe => "PSUBSCRIBE",
        }
    }
}

impl Verb {
    /// As Redis has it.
    pub const fn command(self, is_sharded: bool) -> &'static str {
        match self {
            Verb::Subscribe if is_sharded => "SSUBSCRIBE",
            Verb::Unsubscribe if is_sharded => "SUNSUBSCRIBE",
            Verb::Subscribe | Verb::Unsubscribe | Verb::PatternSubscribe => self.name(),
        }
    }
}

impl Asked {
    /// The command, for the operator.
    pub fn name(&self) -> &'static str {
        match self {
            Asked::Hello => "HELLO",
            Asked::Auth { .. } => "AUTH",
            Asked::SetName => "CLIENT SETNAME",
            Asked::Select => "SELECT",
            Asked::Timeout | Asked::OutputLimit => "CONFIG GET",
            Asked::Ping(_) => "PING",
            Asked::Publish => "PUBLISH",
            Asked::PublishDurable => "FCALL",
            Asked::Durable(_) => "XRANGE",
            Asked::Keeping(_) => "ZMSCORE",
            Asked::Presence(_) => "what is asked of who is there",
            Asked::Library => "FUNCTION LOAD",
            Asked::Memory => "INFO memory",
            Asked::Probe => "FCALL of a probe",
            Asked::Revocations(revocations::Question::Of(_)) => "ZADD",
            Asked::Revocations(revocations::Question::Read) => "ZSCAN",
            Asked::Slots => "CLUSTER SLOTS",
            Asked::Master => "SENTINEL MASTER",
            Asked::Role => "ROLE",
            Asked::Wait => "WAIT",
            Asked::Asking => "ASKING",
            Asked::Channels(verb, _) => verb.name(),
        }
    }
}

#[derive(Debug, Default)]
pub struct Awaiting {
    /// Oldest first.
    commands: VecDeque<Command>,
    pings: u64,
    pings_unanswered: usize,
}

#[derive(Debug)]
struct Command {
    asked: Asked,
    sent_at: MonotonicNs,
}

impl Awaiting {
    pub fn sent(&mut self, asked: Asked, now: MonotonicNs) {
        self.commands.push_back(Command { asked, sent_at: now });
    }

    /// A PING is sent; its number.
    pub fn sent_ping(&mut self, now: MonotonicNs) -> u64 {
        self.pings += 1;
        self.pings_unanswered += 1;
        self.sent(Asked::Ping(self.pings), now);
        self.pings
    }

    pub fn oldest(&self) -> Option<(&Asked, MonotonicNs)> {
        self.commands.front().map(|command| (&command.asked, command.sent_at))
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    pub fn has_ping(&self) -> bool {
        self.pings_unanswered > 0
    }

    /// A reply that is neither confirmation nor pong came: what it answers. None: nothing was asked.
    pub fn answered(&mut self) -> Option<Asked> {
        let asked = self.commands.pop_front()?.asked;
        self.pings_unanswered -= usize::from(matches!(asked, Asked::Ping(_)));
        Some(asked)
    }

    /// A pong came: the number of its PING, and what was sent before it and is lost. None: there was no PING.
    pub fn ponged(&mut self) -> Option<(u64, Vec<Asked>)> {
        let at = self.commands.iter().position(|command| matches!(command.asked, Asked::Ping(_)))?;
        let lost = self.commands.drain(..at).map(|command| command.asked).collect();
        match self.answered() {
            Some(Asked::Ping(number)) => Some((number, lost)),
            other => unreachable!("a PING was found there, not {other:?}"),
        }
    }

    /// Redis confirms that it did this to this name. False: it was not asked to.
    pub fn confirmed(&mut self, verb: Verb, name: &str) -> bool {
        let names_of = |command: &Command| match &command.asked {
            Asked::Channels(asked, names) if *asked == verb => names.front().is_some_and(|next| **next == *name),
            _ => false,
        };
        // In their order; whoever confirms in another one costs a search.
        let at = self.commands.iter().position(names_of).or_else(|| self.commands.iter().position(|command| holds(command, verb, name)));
        let Some(at) = at else { return false };
        let Asked::Channels(_, names) = &mut self.commands[at].asked else { unreachable!("it was found by its names") };
        if names.front().is_some_and(|next| **next == *name) {
            names.pop_front();
        } else {
            names.retain(|other| **other != *name);
        }
        if names.is_empty() {
            self.commands.remove(at);
        }
        true
    }
}

fn holds(command: &Command, verb: Verb, name: &str) -> bool {
    matches!(&command.asked, Asked::Channels(asked, names) if *asked == verb && names.iter().any(|other| **other == *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(verb: Verb, names: &[&str]) -> Asked {
        Asked::Channels(verb, names.iter().map(|&name| name.into()).collect())
    }

    #[test]
    fn an_error_answers_the_oldest_command_and_no_other() {
        let mut awaiting = Awaiting::default();
        assert_eq!(awaiting.sent_ping(1), 1);
        awaiting.sent(channels(Verb::Subscribe, &["a", "b"]), 2);
        assert_eq!(awaiting.answered(), Some(Asked::Ping(1)), "the PING was refused, not the SUBSCRIBE");
        assert!(awaiting.confirmed(Verb::Subscribe, "a") && !awaiting.has_ping());
        assert_eq!(awaiting.oldest(), Some((&channels(Verb::Subscribe, &["b"]), 2)));
        assert_eq!(awaiting.answered(), Some(channels(Verb::Subscribe, &["b"])), "what of it was not confirmed");
        assert_eq!(awaiting.answered(), None);
    }

    #[test]
    fn a_pong_proves_that_what_was_sent_before_is_lost() {
        let mut awaiting = Awaiting::default();
        awaiting.sent(channels(Verb::Subscribe, &["a"]), 1);
        awaiting.sent(channels(Verb::Subscribe, &["b", "c"]), 1);
        assert_eq!(awaiting.sent_ping(2), 1);
        awaiting.sent(channels(Verb::Unsubscribe, &["d"]), 3);
        assert!(awaiting.confirmed(Verb::Subscribe, "a") && awaiting.confirmed(Verb::Subscribe, "b"));
        assert_eq!(awaiting.ponged(), Some((1, vec![channels(Verb::Subscribe, &["c"])])));
        assert_eq!(awaiting.ponged(), None, "a pong that nobody asked for");
        assert!(awaiting.confirmed(Verb::Unsubscribe, "d") && awaiting.is_empty());
    }

    #[test]
    fn confirmations_are_found_by_name_in_whatever_order() {
        let mut awaiting = Awaiting::default();
        awaiting.sent(channels(Verb::Subscribe, &["a", "b"]), 1);
        awaiting.sent(channels(Verb::Subscribe, &["c"]), 1);
        assert!(!awaiting.confirmed(Verb::Unsubscribe, "a") && !awaiting.confirmed(Verb::Subscribe, "x"));
        for name in ["c", "b", "a"] {
            assert!(awaiting.confirmed(Verb::Subscribe, name));
        }
        assert!(awaiting.is_empty());
    }
}
