//! What is asked of Redis in one piece, and by which commands. Each may be done again.

use redis::{ServerError, Value};

use super::Kind;
use super::answering::Census;
use super::keys::Keys;
use super::ledger::Written;
use super::rosters::Listed;
use crate::bus::presence::{Subject, Wanted};
use crate::limits::redis::presence::{EVENTS_KEPT, NAMES_MAX};

pub type Reply = Result<Value, ServerError>;

#[derive(Debug)]
pub enum Errand {
    /// Says that this node lives, and asks which others there are.
    Beat,
    /// Which of them do.
    Roll,
    /// A node died before it had set an end to what it wrote.
    Limit {
        endless: Vec<Box<str>>,
    },
    /// Whether it is for this node to look what the dead have left.
    Claim {
        dead: Vec<Box<str>>,
    },
    /// Strikes them from the list.
    Bury {
        dead: Vec<Box<str>>,
    },
    /// The next ones of those that back ends were told to be there.
    Page(Sweep),
    /// All was looked at: another one may sweep.
    Release,
    /// What has changed; and which nodes there are.
    Write {
        kind: Kind,
        written: Vec<Written>,
    },
    /// Whose members have changed.
    List(Vec<Listed>),
    /// Which nodes there are, for what follows.
    Nodes(Beginning),
    /// What the others have of these, and what back ends were told.
    Look(Look),
    /// Tells them, and notes that they were told.
    Tell(Look),
    /// They were not told after all.
    Unnote(Look),
    /// What the others have, for whoever asks.
    Count(Vec<Wanted>),
    /// Which channels anybody has, and how many.
    Names(Census),
    Counts(Census),
}

#[derive(Debug)]
pub enum Beginning {
    Look(Look),
    Count(Vec<Wanted>),
}

/// A walk through all that back ends were told to be there.
#[derive(Debug)]
pub struct Sweep {
    pub kind: Kind,
    /// Behind this name.
    pub after: Option<Box<str>>,
}

#[derive(Debug)]
pub struct Look {
    pub kind: Kind,
    pub names: Vec<Looked>,
    /// What goes on when it is over; None: what this node counts.
    pub sweep: Option<Sweep>,
}

#[derive(Debug, Clone)]
pub struct Looked {
    pub name: Box<str>,
    /// What this node has.
    pub mine: u32,
    /// All that there are, as they were found.
    pub total: u64,
}

impl Looked {
    pub fn new(name: Box<str>, mine: u32) -> Looked {
        Looked { name, mine, total: 0 }
    }
}

impl Errand {
    /// Writes its commands; none, where it is about the others and there are none.
    pub fn write(&self, keys: &Keys, others: &[Box<str>], lease_ms: u64, ask: &mut dyn FnMut(&[&[u8]])) {
        let nodes = keys.nodes.as_bytes();
        let lease = lease_ms.to_string();
        match self {
            Errand::Beat => {
                for kind in [Kind::Channels, Kind::Users] {
                    let own = keys.own(kind).as_bytes();
                    ask(&[b"HSET", own, b"", b"1"]);
                    ask(&[b"PEXPIRE", own, lease.as_bytes()]);
                }
                ask(&[b"PEXPIRE", keys.own_members.as_bytes(), lease.as_bytes()]);
                // Behind its hash, without which it would count as dead.
                ask(&[b"SADD", nodes, keys.node().as_bytes()]);
                ask(&[b"SMEMBERS", nodes]);
            }
            Errand::Roll => others.iter().for_each(|other| ask(&[b"PTTL", keys.of(Kind::Channels, other).as_bytes()])),
            Errand::Limit { endless } => {
                endless.iter().for_each(|node| ask(&[b"PEXPIRE", keys.of(Kind::Channels, node).as_bytes(), lease.as_bytes()]));
            }
            Errand::Claim { .. } => ask(&[b"SET", keys.sweeper.as_bytes(), keys.node().as_bytes(), b"NX", b"PX", lease.as_bytes()]),
            Errand::Bury { dead } => {
                // One step: from here on, the walk is owed by whoever strikes them, and by its own death if it does not come to it.
                ask(&[b"MULTI"]);
                enlist(keys, ask);
                let mut strike: Vec<&[u8]> = vec![b"SREM", nodes];
                strike.extend(dead.iter().map(|node| node.as_bytes()));
                ask(&strike);
                for node in dead {
                    for key in [keys.of(Kind::Channels, node), keys.of(Kind::Users, node), keys.members_of(node)] {
                        ask(&[b"DEL", key.as_bytes()]);
                    }
                }
                ask(&[b"EXEC"]);
            }
            Errand::Page(Sweep { kind, after }) => {
                ask(&[b"SMEMBERS", nodes]);
                ask_names(keys.told(*kind), after.as_deref(), NAMES_MAX, ask);
            }
            Errand::Release => ask(&[b"DEL", keys.sweeper.as_bytes()]),
            Errand::Write { kind, written } => {
                let own = keys.own(*kind).as_bytes();
                let counts: Vec<String> = written.iter().map(|written| written.now.to_string()).collect();
                let (mut there, mut gone): (Vec<&[u8]>, Vec<&[u8]>) = (vec![b"HSET", own], vec![b"HDEL", own]);
                for (Written { name, now, .. }, count) in written.iter().zip(&counts) {
                    if *now > 0 {
                        there.extend([name.as_bytes(), count.as_bytes()]);
                    } else {
                        gone.push(name.as_bytes());
                    }
                }
                [there, gone].iter().filter(|command| command.len() > 2).for_each(|command| ask(command));
                // Should the lease have been over, what was made just now has one as well.
                ask(&[b"PEXPIRE", own, lease.as_bytes()]);
                ask(&[b"SMEMBERS", nodes]);
            }
            Errand::List(listed) => {
                let own = keys.own_members.as_bytes();
                let (mut there, mut gone): (Vec<&[u8]>, Vec<&[u8]>) = (vec![b"HSET", own], vec![b"HDEL", own]);
                for (channel, text) in listed {
                    match text {
                        Some(text) => there.extend([channel.as_bytes(), text.as_bytes()]),
                        None => gone.push(channel.as_bytes()),
                    }
                }
                [there, gone].iter().filter(|command| command.len() > 2).for_each(|command| ask(command));
                ask(&[b"PEXPIRE", own, lease.as_bytes()]);
            }
            Errand::Nodes(_) => ask(&[b"SMEMBERS", nodes]),
            Errand::Look(Look { kind, names, .. }) => {
                let names: Vec<&str> = names.iter().map(|looked| &*looked.name).collect();
                ask_counts(keys, *kind, others, &names, ask);
                let mut told: Vec<&[u8]> = vec![b"ZMSCORE", keys.told(*kind).as_bytes()];
                told.extend(names.iter().map(|name| name.as_bytes()));
                ask(&told);
            }
            Errand::Tell(look) => {
                // One step, so that the last event of each is what is noted, whoever else tells at the same moment.
                ask(&[b"MULTI"]);
                enlist(keys, ask);
                look.names.iter().for_each(|looked| ask_event(keys, look.kind, looked, ask));
                note(keys, look, |looked| looked.total > 0, ask);
                ask(&[b"SMEMBERS", nodes]);
                ask(&[b"EXEC"]);
            }
            Errand::Unnote(look) => {
                enlist(keys, ask);
                note(keys, look, |looked| looked.total == 0, ask);
            }
            Errand::Count(wanted) => {
                let Groups { channels, users, listed } = Groups::of(wanted);
                ask_counts(keys, Kind::Channels, others, &channels, ask);
                ask_counts(keys, Kind::Users, others, &users, ask);
                ask_fields(others.iter().map(|other| keys.members_of(other)), &listed, ask);
            }
            Errand::Names(census) => {
                ask(&[b"SMEMBERS", nodes]);
                ask_names(keys.told(Kind::Channels), census.after.as_deref(), census.limit, ask);
            }
            Errand::Counts(census) => {
                let names: Vec<&str> = census.channels.iter().map(|(name, _)| &**name).collect();
                ask_counts(keys, Kind::Channels, others, &names, ask);
            }
        }
    }
}

/// In which order they are asked for: each group, if there is any of it, of each of the others.
#[derive(Debug)]
pub struct Groups<'a> {
    pub channels: Vec<&'a str>,
    pub users: Vec<&'a str>,
    /// Channels whose members are.
    pub listed: Vec<&'a str>,
}

impl Groups<'_> {
    pub fn of(wanted: &[Wanted]) -> Groups<'_> {
        let mut groups = Groups { channels: Vec::new(), users: Vec::new(), listed: Vec::new() };
        for Wanted { subject, has_members } in wanted {
            match subject {
                Subject::Channel(name) => {
                    groups.channels.push(&**name);
                    groups.listed.extend(has_members.then_some(&**name));
                }
                Subject::User(name) => groups.users.push(name),
            }
        }
        groups
    }

    pub fn count(&self) -> usize {
        [&self.channels, &self.users, &self.listed].into_iter().filter(|group| !group.is_empty()).count()
    }
}

/// Whoever is to be followed by a walk when it dies must be on the list, from which it may be gone: Redis was emptied, or others took it for dead.
fn enlist(keys: &Keys, ask: &mut dyn FnMut(&[&[u8]])) {
    ask(&[b"SADD", keys.nodes.as_bytes(), keys.node().as_bytes()]);
}

/// What each of the others has of these: as many commands as there are others, or none.
fn ask_counts(keys: &Keys, kind: Kind, others: &[Box<str>], names: &[&str], ask: &mut dyn FnMut(&[&[u8]])) {
    ask_fields(others.iter().map(|other| keys.of(kind, other)), names, ask);
}

fn ask_fields(of_others: impl Iterator<Item = String>, names: &[&str], ask: &mut dyn FnMut(&[&[u8]])) {
    if names.is_empty() {
        return;
    }
    for key in of_others {
        let mut command: Vec<&[u8]> = vec![b"HMGET", key.as_bytes()];
        command.extend(names.iter().map(|name| name.as_bytes()));
        ask(&command);
    }
}

/// The next ones of a sorted set whose members all have the same score.
fn ask_names(key: &str, after: Option<&str>, limit: usize, ask: &mut dyn FnMut(&[&[u8]])) {
    let begin = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
    ask(&[b"ZRANGE", key.as_bytes(), begin.as_bytes(), b"+", b"BYLEX", b"LIMIT", b"0", limit.to_string().as_bytes()]);
}

/// Which of them back ends were told to be there, and which not.
fn note(keys: &Keys, look: &Look, is_there: impl Fn(&Looked) -> bool, ask: &mut dyn FnMut(&[&[u8]])) {
    let key = keys.told(look.kind).as_bytes();
    let (mut there, mut gone): (Vec<&[u8]>, Vec<&[u8]>) = (vec![b"ZADD", key], vec![b"ZREM", key]);
    for looked in &look.names {
        if is_there(looked) {
            there.extend([b"0".as_slice(), looked.name.as_bytes()]);
        } else {
            gone.push(looked.name.as_bytes());
        }
    }
    [there, gone].iter().filter(|command| command.len() > 2).for_each(|command| ask(command));
}

fn ask_event(keys: &Keys, kind: Kind, looked: &Looked, ask: &mut dyn FnMut(&[&[u8]])) {
    let (event, subject, counted): (&[u8], &[u8], &[u8]) = match (kind, looked.total > 0) {
        (Kind::Channels, true) => (b"occupied", b"channel", b"subscribers"),
        (Kind::Channels, false) => (b"vacated", b"channel", b"subscribers"),
        (Kind::Users, true) => (b"connected", b"user", b"connections"),
        (Kind::Users, false) => (b"disconnected", b"user", b"connections"),
    };
    let (kept, total) = (EVENTS_KEPT.to_string(), looked.total.to_string());
    ask(&[
        b"XADD",
        keys.events().as_bytes(),
        b"MAXLEN",
        b"~",
        kept.as_bytes(),
        b"*",
        b"type",
        event,
        subject,
        looked.name.as_bytes(),
        counted,
        total.as_bytes(),
        b"node",
        keys.node().as_bytes(),
    ]);
}

/// The sums of what the nodes have, each of whose answers is one array.
pub fn sums(replies: &[Reply], count: usize) -> Vec<u64> {
    let mut sums = vec![0; count];
    for reply in replies {
        let Ok(Value::Array(fields)) = reply else { continue };
        for (sum, field) in sums.iter_mut().zip(fields) {
            *sum += match field {
                Value::BulkString(digits) => {
                    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(0).into()
                }
                _ => 0u64,
            };
        }
    }
    sums
}

/// The names that a command has brought.
pub fn names(reply: Option<&Reply>) -> Vec<Box<str>> {
    let Some(Ok(Value::Array(names))) = reply else { return Vec::new() };
    let text = |name: &Value| match name {
        Value::BulkString(name) => std::str::from_utf8(name).ok().map(Box::from),
        _ => None,
    };
    names.iter().filter_map(text).collect()
}
