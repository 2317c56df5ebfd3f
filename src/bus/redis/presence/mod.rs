//! Who is there over all nodes, as one Redis server knows it of its channels (and of the users whose names fall to it). Sans-IO but for the commands it writes, on a
//! connection of its own ([`Role::Presence`](super::server::Role::Presence)); owned by [`super::server::Server`].
//!
//! ```text
//!  PREFIX{presence}:nodes          set     ids of nodes; each process run has one of its own
//!  PREFIX{presence}:channels:ID    hash    channel → subscribers on that node, above 0; and the empty field, so that a node without any has its hash, too
//!  PREFIX{presence}:users:ID       hash    user → connections to that node, above 0
//!  PREFIX{presence}:members:ID     hash    channel → its users on that node, where they are listed
//!  PREFIX{presence}:sweeper        string  who looks for what dead nodes have left
//!  PREFIX{presence}:occupied       zset    channels that back ends were told to be occupied, by name: what is listed
//!  PREFIX{presence}:connected      zset    the same of users
//!  PREFIX{presence}:events         stream  what back ends are told
//! ```
//!
//! * **Numbers.** The hashes are the node's lease: each beat (a third of `presence_lease`) and each write puts off their expiry, so a node that died takes its numbers with it,
//!   whoever looks. Counts are absolute, and so may be written twice. A batch a second of what has changed, nothing of what has come and gone meanwhile. A total is
//!   the sum of one field of each node's hash: a command for each node, whatever the number of channels asked for.
//! * **Events.** Whoever has written a channel's first or last subscriber of its own looks afterwards at what the others have. Of two who write at the same moment one sees
//!   the other, or both say the same. An event is written to the stream in one step with its note in the sorted set, so that the note is what was told last. Then it is
//!   looked at once more: if it is not so any more, that is told as well. So each event is told at least once, and the last one is true.
//! * **The dead.** A node whose hash is gone is missing at the roll that follows each beat. One of the others claims the sweep, strikes the dead from the list,
//!   walks through the sorted sets, and says of what nobody has that it is vacated. In this order, as a node that was taken for dead may still write: it is not counted,
//!   or is on the list again. Whoever tells or strikes puts itself on the list in the same step. So behind each death, also that of whoever swept, there is a walk.
//! * **Doubt.** When a connection was lost, or the node's own hash was gone (an empty Redis, an eviction, a pause longer than the lease), all is written again.
//!
//! All of it has one hash tag: in a Cluster it lies on one master, and goes where its slot goes. Invariants: what back ends are to be told is not lost for a refusal: it is looked at again
//! later. What waits is bounded by what this node counts, by [`LATER_MAX`](crate::limits::redis::presence::LATER_MAX) and by who may ask.

mod answering;
mod errand;
mod keys;
mod ledger;
mod rosters;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use redis::{ServerError, Value};

use self::errand::{Beginning, Errand, Reply};
use self::keys::Keys;
use self::ledger::Ledger;
use self::rosters::Rosters;
use super::awaiting::Asked;
use super::fault::{Refusal, text_of};
use super::link::Link;
use crate::bus::hub::Hub;
use crate::bus::presence::{PresenceError, Roster, Waiting};
use crate::bus::ration::Ration;
use crate::clock::{MonotonicNs, nanos};
use crate::config::Settings;
use crate::limits::redis::OUT_BYTES;
use crate::limits::redis::presence::{NAMES_MAX, NODES_MAX, ROSTERS_MAX};
use crate::sys::monotonic_ns;

pub use answering::Census;
pub use keys::TAG;

/// What Redis does not take now is tried again after this long; what it does not allow, after this long.
const RETRY_NS: u64 = 200_000_000;
const REFUSED_RETRY_NS: u64 = 5_000_000_000;

/// Which of the answers to a beat says whether this node's hash was not there, its members are not, and it was not on the list of nodes.
const HASH_BEAT: usize = 0;
const MEMBERS_BEAT: usize = 4;
const NODE_BEAT: usize = 5;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Channels,
    Users,
}

#[derive(Debug)]
pub struct Presence {
    keys: Keys,
    lease_ns: u64,
    channels: Ledger,
    users: Ledger,
    rosters: Rosters,
    /// Back ends are told of users.
    tells_users: bool,
    /// Rules ask for something to be counted, or something was.
    is_active: bool,
    /// The other nodes, as Redis named them last.
    others: Vec<Box<str>>,
    /// Redis knows of this node, on this connection.
    has_beaten: bool,
    beat_at: MonotonicNs,
    /// A beat was done in part: what would have shown that all is gone may be lost with it.
    is_doubtful: bool,
    is_sweeping: bool,
    /// It may have struck some from the list and not looked at all that they may have left. Kept over lost connections.
    owes_walk: bool,
    /// To be done, one after the other; and what somebody waits for.
    errands: VecDeque<Errand>,
    questions: VecDeque<Errand>,
    waiting: Waiting,
    /// Lists of members are being read: they are long, so it is a few at a time.
    is_listing: bool,
    /// Of which the number is known, and a page of each was read.
    pub censuses: Vec<Census>,
    asked: HashMap<u32, UnderWay>,
    next_ticket: u32,
    /// Errands are not begun before.
    retry_at: Option<MonotonicNs>,
    /// How Redis last refused for good, which is said once.
    refusal: String,
    warnings: Ration,
}

/// Where commands go; in tests, a Redis that is played.
trait Ask {
    fn has_room(&self) -> bool;
    fn ask(&mut self, ticket: u32, command: &[&[u8]]);
}

/// A connection that is ready.
struct Ready<'a> {
    link: &'a mut Link,
    now: MonotonicNs,
}

impl Ask for Ready<'_> {
    fn has_room(&self) -> bool {
        self.link.out_bytes() < OUT_BYTES
    }

    fn ask(&mut self, ticket: u32, command: &[&[u8]]) {
        self.link.ask(Asked::Presence(ticket), command, self.now);
    }
}

#[derive(Debug)]
struct UnderWay {
    errand: Errand,
    replies: Vec<Reply>,
    left: usize,
}

impl Presence {
    /// `node`: what this process is called among the nodes.
    pub fn new(settings: &Settings, node: &str) -> Presence {
        Presence {
            keys: Keys::new(&settings.redis.prefix, node),
            lease_ns: nanos(settings.redis.presence_lease),
            channels: Ledger::default(),
            users: Ledger::default(),
            rosters: Rosters::default(),
            tells_users: settings.clients.user_presence == crate::config::UserPresence::Events,
            is_active: false,
            others: Vec::new(),
            has_beaten: false,
            beat_at: 0,
            is_doubtful: false,
            is_sweeping: false,
            owes_walk: false,
            errands: VecDeque::new(),
            questions: VecDeque::new(),
            waiting: Waiting::default(),
            is_listing: false,
            censuses: Vec::new(),
            asked: HashMap::new(),
            next_ticket: 0,
            retry_at: None,
            refusal: String::new(),
            warnings: Ration::default(),
        }
    }

    /// What this node has of a channel.
    pub fn count_channel(&mut self, name: &str, subscribers: u32) {
        self.channels.set(name, subscribers);
    }

    /// And of a user.
    pub fn count_user(&mut self, name: &str, connections: u32) {
        self.users.set(name, connections);
    }

    /// And who they are on a channel.
    pub fn list_members(&mut self, channel: &str, roster: &Roster) {
        self.rosters.set(channel, roster);
    }

    /// Whether anything of this node is counted.
    pub fn has_counted(&self) -> bool {
        !self.channels.is_empty() || !self.users.is_empty() || !self.rosters.is_empty()
    }

    /// Whether a connection is needed. `counts`: rules ask for something.
    pub fn is_wanted(&mut self, counts: bool) -> bool {
        self.is_active = counts || self.has_counted();
        self.is_active
    }

    /// When [`Presence::write`] is to be called though nothing comes in; while the connection is ready.
    pub fn deadline(&self) -> Option<MonotonicNs> {
        let beat = self.is_active.then_some(self.beat_at);
        let later = [self.channels.later_at(), self.users.later_at()].into_iter().flatten().filter(|_| self.has_beaten).min();
        self.retry_at.or_else(|| [beat, later].into_iter().flatten().min())
    }

    fn ledger(&mut self, kind: Kind) -> &mut Ledger {
        match kind {
            Kind::Channels => &mut self.channels,
            Kind::Users => &mut self.users,
        }
    }

    /// Whether back ends are told of these.
    fn tells(&self, kind: Kind) -> bool {
        kind == Kind::Channels || self.tells_users
    }

    /// Asks and writes what is due, as far as there is room. The connection is ready.
    pub fn write(&mut self, link: &mut Link, hub: &mut Hub, now: MonotonicNs) {
        self.write_to(&mut Ready { link, now }, hub, now);
    }

    fn write_to(&mut self, redis: &mut impl Ask, hub: &mut Hub, now: MonotonicNs) {
        let listed = if self.is_listing { Vec::new() } else { self.waiting.take_due_with_members(ROSTERS_MAX) };
        self.is_listing |= !listed.is_empty();
        for wanted in [self.waiting.take_due(NAMES_MAX), listed].into_iter().filter(|wanted| !wanted.is_empty()) {
            self.questions.push_back(Errand::Nodes(Beginning::Count(wanted)));
        }
        while redis.has_room()
            && let Some(question) = self.questions.pop_front()
        {
            self.begin(redis, hub, question);
        }
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        self.retry_at = None;
        self.plan(now);
        while redis.has_room()
            && let Some(errand) = self.errands.pop_front()
        {
            self.begin(redis, hub, errand);
        }
    }

    /// What has become due.
    fn plan(&mut self, now: MonotonicNs) {
        if self.is_active && now >= self.beat_at {
            self.beat_at = now + self.lease_ns / 3;
            self.errands.push_back(Errand::Beat);
        }
        // Redis must know the node before what it counts.
        if !self.has_beaten {
            return;
        }
        for kind in [Kind::Channels, Kind::Users] {
            if let Some(written) = self.ledger(kind).take(NAMES_MAX) {
                self.errands.push_back(Errand::Write { kind, written });
            } else if let Some(names) = self.ledger(kind).take_later(NAMES_MAX, now) {
                self.look_again(kind, names);
            }
        }
        if let Some(listed) = self.rosters.take() {
            self.errands.push_back(Errand::List(listed));
        }
    }

    fn begin(&mut self, redis: &mut impl Ask, hub: &mut Hub, errand: Errand) {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.wrapping_add(1);
        let mut left = 0;
        errand.write(&self.keys, &self.others, self.lease_ns / 1_000_000, &mut |command| {
            redis.ask(ticket, command);
            left += 1;
        });
        if left == 0 {
            // There are no others to be asked.
            return self.done(hub, errand, Vec::new());
        }
        self.asked.insert(ticket, UnderWay { errand, replies: Vec::with_capacity(left), left });
    }

    /// Redis has answered one of the commands with this number.
    pub fn answered(&mut self, hub: &mut Hub, ticket: u32, answer: Result<&Value, &ServerError>) {
        let Some(under_way) = self.asked.get_mut(&ticket) else { return };
        under_way.replies.push(answer.cloned().map_err(Clone::clone));
        under_way.left -= 1;
        if under_way.left > 0 {
            return;
        }
        let UnderWay { errand, replies, .. } = self.asked.remove(&ticket).expect("it was found");
        let refused = replies.iter().find_map(|reply| reply.as_ref().err());
        match refused {
            Some(error) => {
                let error = error.clone();
                self.refused(hub, errand, &error);
            }
            None => self.done(hub, errand, replies),
        }
    }

    fn done(&mut self, hub: &mut Hub, errand: Errand, replies: Vec<Reply>) {
        match errand {
            Errand::Beat => self.beaten(&replies),
            Errand::Roll => self.rolled(&replies),
            Errand::Limit { .. } => {}
            Errand::Claim { dead } => self.claimed(dead, &replies),
            Errand::Bury { .. } => self.buried(&replies),
            Errand::Release => self.is_sweeping = false,
            Errand::Write { kind, written } => {
                self.know_others(answer_of(replies.last()));
                self.written(kind, written);
            }
            Errand::List(_) => self.rosters.is_busy = false,
            Errand::Nodes(beginning) => {
                self.know_others(answer_of(replies.last()));
                self.go_on(hub, beginning);
            }
            Errand::Page(sweep) => {
                self.know_others(answer_of(replies.first()));
                self.paged(sweep, &replies);
            }
            Errand::Look(look) => self.looked(look, &replies),
            Errand::Tell(look) => self.told(hub, look, &replies),
            Errand::Unnote(_) => answer_of(replies.first()).into_iter().for_each(|enlisted| self.enlisted(enlisted)),
            Errand::Count(wanted) => self.counted(hub, wanted, &replies),
            Errand::Names(census) => {
                self.know_others(answer_of(replies.first()));
                self.named(hub, census, &replies);
            }
            Errand::Counts(census) => self.census_counted(hub, census, &replies),
        }
    }

    // This node among the others.

    fn beaten(&mut self, replies: &[Reply]) {
        let is_new = |at: usize| matches!(replies.get(at), Some(Ok(Value::Int(1))));
        let was_gone = self.has_beaten && (is_new(HASH_BEAT) || is_new(NODE_BEAT));
        if std::mem::take(&mut self.is_doubtful) || was_gone {
            // Redis was emptied, or the lease was over: all that was written is gone, or was told to be gone by others.
            self.doubt();
        }
        if matches!(replies.get(MEMBERS_BEAT), Some(Ok(Value::Int(0)))) && self.has_beaten {
            self.rosters.doubt();
        }
        self.has_beaten = true;
        self.refusal.clear();
        self.know_others(answer_of(replies.last()));
        if self.owes_walk || !self.others.is_empty() {
            self.errands.push_back(Errand::Roll);
        }
    }

    fn know_others(&mut self, answer: Option<&Value>) {
        let Some(Value::Array(ids) | Value::Set(ids)) = answer else { return };
        let others = ids.iter().filter_map(|id| match id {
            Value::BulkString(id) => std::str::from_utf8(id).ok(),
            _ => None,
        });
        self.others = others.filter(|id| *id != self.keys.node()).take(NODES_MAX).map(Box::from).collect();
    }

    /// All that is counted is to be written again.
    fn doubt(&mut self) {
        self.channels.doubt();
        self.users.doubt();
        self.rosters.doubt();
    }

    /// It is done again, or given up, as Redis does not take it.
    fn refused(&mut self, hub: &mut Hub, errand: Errand, error: &ServerError) {
        let is_for_now = Refusal::of(error) == Refusal::ForNow;
        if !is_for_now {
            self.note_refusal(hub, error);
        }
        let pause_ns = if is_for_now { RETRY_NS } else { REFUSED_RETRY_NS };
        match errand {
            Errand::Beat => (self.beat_at, self.is_doubtful) = (monotonic_ns() + pause_ns, true),
            Errand::Write { .. } | Errand::List(_) => {
                self.retry_at = Some(monotonic_ns() + pause_ns);
                self.errands.push_front(errand);
            }
            // The next beat finds what is left to be done.
            Errand::Roll | Errand::Limit { .. } | Errand::Unnote(_) => {}
            Errand::Claim { .. } | Errand::Bury { .. } | Errand::Page(_) | Errand::Release => self.is_sweeping = false,
            Errand::Look(look) | Errand::Tell(look) | Errand::Nodes(Beginning::Look(look)) => self.look_later(look, pause_ns),
            Errand::Nodes(Beginning::Count(wanted)) | Errand::Count(wanted) => self.answer_refused(hub, &wanted, error),
            Errand::Names(census) | Errand::Counts(census) => self.census_refused(census, error),
        }
    }

    fn note_refusal(&mut self, hub: &Hub, error: &ServerError) {
        hub.metrics().presence_refused.inc();
        let text = self.advice(error);
        if self.refusal != text && self.warnings.take(monotonic_ns()).is_some() {
            tracing::warn!("who is there (presence) cannot be kept in Redis, or not be read, and is tried again: {text}");
            self.refusal = text;
        }
    }

    fn advice(&self, error: &ServerError) -> String {
        let advice = match error.code() {
            "NOPERM" | "EXECABORT" => format!("; the user needs {} on {}", keys::COMMANDS, self.keys.patterns()),
            "WRONGTYPE" => format!("; one of the keys {} holds something else: delete it", self.keys.patterns()),
            "ERR" if text_of(error).contains("unknown command") => "; presence needs Redis 6.2 or later".to_owned(),
            _ => String::new(),
        };
        format!("{}{advice}", text_of(error))
    }

    /// The connection is lost: what is not answered may have been done or not.
    pub fn connection_lost(&mut self, hub: &mut Hub) {
        let asked = std::mem::take(&mut self.asked).into_values().map(|under_way| under_way.errand);
        let waiting = std::mem::take(&mut self.errands).into_iter().chain(std::mem::take(&mut self.questions));
        self.is_sweeping = false;
        for errand in asked.chain(waiting).collect::<Vec<_>>() {
            match errand {
                Errand::Look(look) | Errand::Tell(look) | Errand::Unnote(look) | Errand::Nodes(Beginning::Look(look)) => {
                    self.look_later(look, 0);
                }
                Errand::Names(census) | Errand::Counts(census) => {
                    self.censuses.push(Census::failed(census.number, PresenceError::Unavailable));
                }
                Errand::List(listed) => self.rosters.put_back(listed),
                // What this node counts is doubted as a whole, and all else begins anew with the next beat.
                _ => {}
            }
        }
        self.waiting.give_up(hub);
        self.doubt();
        (self.channels.is_busy, self.users.is_busy, self.rosters.is_busy) = (false, false, false);
        self.is_listing = false;
        (self.has_beaten, self.beat_at, self.retry_at) = (false, 0, None);
    }

    /// Takes back what this node has said of itself: it ends. The others find that it is gone. The connection is ready.
    pub fn leave(&mut self, link: &mut Link, now: MonotonicNs) {
        if self.has_beaten {
            for own in [self.keys.own(Kind::Channels), self.keys.own(Kind::Users), &self.keys.own_members] {
                link.ask(Asked::Presence(self.next_ticket), &[b"DEL", own.as_bytes()], now);
            }
        }
    }
}

fn answer_of(reply: Option<&Reply>) -> Option<&Value> {
    reply.and_then(|reply| reply.as_ref().ok())
}
