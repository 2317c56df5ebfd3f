//! Channels whose messages a stream keeps: each message has a number of the stream's, and none is missing here that the stream still holds. Sans-IO but
//! for the commands it writes; owned by [`super::server::Server`].
//!
//! ```text
//!  subscribed ──► Asking ──► Repairing ──► Live ──► Repairing: a number is missing
//!                  ▲  │ ▲        │           │
//!                  │  │ └────────┴───────────┴───── another epoch; more came than could be held
//!                  │  └──► Renewing: the stream has gone back behind what was handed out
//!                  └───────────┘
//! ```
//!
//! Where the stream stands is asked after the subscription is confirmed, so whatever is published later comes as a message. What comes before a channel is
//! live is held; what comes and is known already is dropped.
//!
//! A message is not believed to be further than the stream says that it is: a number that it has not given is dropped.
//!
//! Invariants: a channel's numbers go to the hub in order, each once, as a message or as lost; nothing is skipped in silence: what cannot be held is read
//! from the stream again; what is held and what was read and waits for room are bounded.

mod applying;
pub mod envelope;
mod reading;

pub use reading::{is_without_library, published};

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use redis::{ServerError, Value};
use smallvec::{SmallVec, smallvec};

use self::applying::{Applied, apply, put, takes};
use self::envelope::{Bad, Envelope};
use self::reading::{Entry, Standing};
use super::awaiting::Asked;
use super::cluster::Redirect;
use super::cluster::map::Node;
use super::fault::{Refusal, with_advice};
use super::keys;
use super::library;
use super::link::Link;
use super::placement::Part;
use crate::bus::flow::{Count, Counter, Start};
use crate::bus::hub::{Hub, Receipt};
use crate::bus::pages::Pages;
use crate::bus::question::{PageWanted, Publish};
use crate::bus::ration::Ration;
use crate::clock::MonotonicNs;
use crate::config::{ChannelRule, Settings};
use crate::fanout::batch::Channel;
use crate::limits::bus::PAGE_NUMBERS;
use crate::limits::redis::durable::{ENTRY_BYTES, HELD_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, QUESTIONS_MAX, READ_BYTES_MAX};
use crate::sys::monotonic_ns;
use crate::wire::event::GapReason;

/// What Redis does not answer now is asked again after this long.
const RETRY_NS: u64 = 200_000_000;
/// For how long a message is known again by its idempotency key.
const IDEMPOTENCY_WINDOW_MS: &[u8] = b"600000";
/// How soon it is looked again whether there is room in the shards' inboxes.
const ROOM_NS: u64 = 2_000_000;

#[derive(Debug)]
pub struct Durables {
    /// The channels of this server.
    part: Part,
    /// In a Cluster: a stream is not here, and perhaps where it is.
    is_old: Option<Option<Node>>,
    prefix: Box<str>,
    /// Of the stream, asked for at a time: so many of the largest fit what a reply may have.
    page_entries: usize,
    channels: HashMap<Box<str>, Tracked>,
    /// Those with a question to be asked, each once.
    due: VecDeque<Box<str>>,
    /// Those that wait for room, each once.
    stalled: VecDeque<Box<str>>,
    pages: Pages,
    /// Questions that are not answered, by number.
    asked: HashMap<u32, About>,
    next_ticket: u32,
    /// Messages that came before their turn, and entries that wait for room.
    held_bytes: usize,
    read_bytes: usize,
    held_bytes_max: usize,
    read_bytes_max: usize,
    /// Of the servers of the bus together.
    turn_bytes_of_all: usize,
    /// What may be handed on in this turn, in all: whether a shard's inbox has room is known again when the turn is over.
    turn_bytes_max: usize,
    turn_bytes: usize,
    retry_at: Option<MonotonicNs>,
    warnings: Ration,
}

/// What a question is about.
#[derive(Debug)]
enum About {
    Channel(Box<str>),
    Page(Arc<Channel>, u64),
}

#[derive(Debug)]
struct Tracked {
    state: State,
    /// Of the question under way: answers to earlier ones do not count.
    ticket: Option<u32>,
    is_due: bool,
    is_stalled: bool,
    /// Entries of the stream, next ones of the channel.
    read: VecDeque<Entry>,
    /// Came meanwhile, as they came.
    held: VecDeque<Held>,
    /// How many of them had come when it was asked where the stream stands: what it has not given by then nobody has.
    held_when_asked: usize,
    /// Some that came could not be held.
    has_overflowed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is not known where the stream stands. `is_new`: nor has it an epoch, so it is to get one.
    Asking {
        is_new: bool,
    },
    /// The numbers up to `to` are read from the stream.
    Repairing {
        to: u64,
    },
    /// It is to get another epoch than this one.
    Renewing {
        epoch: u64,
    },
    Live,
}

#[derive(Debug)]
struct Held {
    message: Box<[u8]>,
    received: MonotonicNs,
}

impl Held {
    fn bytes(&self) -> usize {
        self.message.len() + size_of::<Held>()
    }
}

impl Durables {
    pub fn new(settings: &Settings, part: Part) -> Durables {
        let (prefix, payload_bytes_max) = (settings.redis.prefix.as_str(), settings.bounds.payload_bytes_max);
        // A quarter of an inbox: there is room while half of it is free.
        let turn_bytes_max = settings.bounds.inbox_bytes_total / settings.shards.count / 4;
        Durables {
            part,
            is_old: None,
            prefix: prefix.into(),
            page_entries: (PAGE_BYTES_MAX / (payload_bytes_max + ENTRY_BYTES)).clamp(1, PAGE_ENTRIES_MAX),
            channels: HashMap::new(),
            due: VecDeque::new(),
            stalled: VecDeque::new(),
            pages: Pages::default(),
            asked: HashMap::new(),
            next_ticket: 0,
            held_bytes: 0,
            read_bytes: 0,
            held_bytes_max: HELD_BYTES_MAX,
            read_bytes_max: READ_BYTES_MAX,
            turn_bytes_of_all: turn_bytes_max,
            turn_bytes_max,
            turn_bytes: 0,
            retry_at: None,
            warnings: Ration::default(),
        }
    }

    /// There are so many of them, of as many servers: what is bounded for all of them is divided.
    pub fn share_among(mut self, servers: usize) -> Durables {
        self.divide(servers);
        self
    }

    /// In a Cluster: other channels are this server's, of so many.
    pub fn set_part(&mut self, part: Part, servers: usize) {
        self.part = part;
        self.divide(servers);
    }

    pub fn take_is_old(&mut self) -> Option<Option<Node>> {
        self.is_old.take()
    }

    /// Pages that wait here though their channels are another server's by now.
    pub fn take_foreign_pages(&mut self) -> Vec<PageWanted> {
        self.pages.take_due_but(|channel| self.part.has(&channel.name))
    }

    fn divide(&mut self, servers: usize) {
        self.turn_bytes_max = self.turn_bytes_of_all / servers;
        (self.held_bytes_max, self.read_bytes_max) = (HELD_BYTES_MAX / servers, READ_BYTES_MAX / servers);
    }

    /// Whether it may be asked again, here or elsewhere; then it is noted whether the map is old.
    fn is_for_now(&mut self, error: &ServerError) -> bool {
        let redirect = Redirect::of(error).filter(|_| self.part.is_of_cluster());
        if let Some(Redirect::Moved(node)) = &redirect {
            self.is_old = Some(node.clone());
        }
        redirect.is_some() || Refusal::of(error) == Refusal::ForNow
    }

    /// What the largest reply may take.
    pub fn reply_bytes_max(payload_bytes_max: usize) -> usize {
        PAGE_BYTES_MAX.max(PAGE_NUMBERS as usize * (payload_bytes_max + ENTRY_BYTES))
    }

    #[inline]
    pub fn has(&self, channel: &str) -> bool {
        !self.channels.is_empty() && self.channels.contains_key(channel)
    }

    // Coming and going.

    /// Its messages come from now on.
    pub fn begin(&mut self, hub: &mut Hub, channel: &str) {
        self.forget(channel);
        // Whoever joins waits until it is known where it stands.
        hub.interrupt_channel(channel);
        let tracked = Tracked {
            state: State::Asking { is_new: false },
            ticket: None,
            is_due: false,
            is_stalled: false,
            read: VecDeque::new(),
            held: VecDeque::new(),
            held_when_asked: 0,
            has_overflowed: false,
        };
        self.channels.insert(channel.into(), tracked);
        self.ask(channel);
    }

    /// They do not come any more.
    pub fn forget(&mut self, channel: &str) {
        if let Some(gone) = self.channels.remove(channel) {
            self.held_bytes -= gone.held.iter().map(Held::bytes).sum::<usize>();
            self.read_bytes -= gone.read.iter().map(Entry::bytes).sum::<usize>();
        }
    }

    /// The subscribed connection is lost: nothing comes. What is still to be answered does not count.
    pub fn forget_all(&mut self) {
        (self.channels, self.due, self.stalled) = Default::default();
        (self.held_bytes, self.read_bytes, self.retry_at) = (0, 0, None);
    }

    /// The connection on which is asked is lost: all that it has not answered is asked again.
    pub fn connection_lost(&mut self) {
        for (ticket, about) in std::mem::take(&mut self.asked) {
            match about {
                About::Channel(channel) => {
                    if self.channels.get(&channel).is_some_and(|tracked| tracked.ticket == Some(ticket)) {
                        self.ask(&channel);
                    }
                }
                About::Page(channel, from) => self.pages.put_back(channel, from),
            }
        }
    }

    // Messages.

    /// A message came that begins as an envelope does. False: it is none.
    pub fn message(&mut self, hub: &mut Hub, channel: &str, message: &[u8], received: MonotonicNs) {
        let envelope = match Envelope::read(message) {
            Some(Ok(envelope)) => envelope,
            Some(Err(bad)) => return self.note_bad(hub, channel, bad),
            None => return hub.metrics().unnumbered.inc(),
        };
        let Some(tracked) = self.channels.get(channel) else { return };
        if tracked.state == State::Live && tracked.held.is_empty() {
            match apply(hub, channel, &envelope, received, &mut self.turn_bytes) {
                Applied::Whole => return,
                stopped => self.stop_at(hub, channel, stopped),
            }
        }
        self.hold(hub, channel, message, received);
    }

    fn note_bad(&mut self, hub: &Hub, channel: &str, bad: Bad) {
        hub.metrics().envelopes_refused.inc();
        if self.warnings.take(monotonic_ns()).is_some() {
            let why = match bad {
                Bad::Version => "it is of another version of the function; upgrade this node",
                Bad::Malformed => "it is cut short or forged; nobody but campanile_publish may publish to a durable channel so",
            };
            tracing::warn!("a message on `{channel}` begins as one of campanile_publish does and is dropped: {why}");
        }
    }

    /// What keeps a live channel from going on.
    fn stop_at(&mut self, hub: &mut Hub, channel: &str, stopped: Applied) {
        match stopped {
            Applied::Whole => {}
            Applied::NoRoom => self.stall(channel),
            Applied::Beyond => self.ask_anew(hub, channel),
        }
    }

    fn hold(&mut self, hub: &Hub, channel: &str, message: &[u8], received: MonotonicNs) {
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        let held = Held { message: message.into(), received };
        if self.held_bytes + held.bytes() > self.held_bytes_max {
            // It is in the stream, and so are those before it.
            self.held_bytes -= tracked.held.drain(..).map(|held| held.bytes()).sum::<usize>();
            tracked.has_overflowed = true;
            hub.metrics().repairs_overflowed.inc();
        } else if !tracked.has_overflowed {
            self.held_bytes += held.bytes();
            tracked.held.push_back(held);
        }
    }

    // Repairing.

    /// Numbers up to this one are missing.
    fn repair(&mut self, hub: &mut Hub, channel: &str, to: u64) {
        hub.repairing(channel);
        hub.metrics().repairs.inc();
        self.set_state(channel, State::Repairing { to });
        self.ask(channel);
    }

    /// It must be known again where the stream stands.
    fn ask_anew(&mut self, hub: &mut Hub, channel: &str) {
        hub.repairing(channel);
        self.set_state(channel, State::Asking { is_new: false });
        self.ask(channel);
    }

    fn set_state(&mut self, channel: &str, state: State) {
        if let Some(tracked) = self.channels.get_mut(channel) {
            (tracked.state, tracked.ticket) = (state, None);
        }
    }

    /// Its question is to be asked.
    fn ask(&mut self, channel: &str) {
        if let Some(tracked) = self.channels.get_mut(channel)
            && !std::mem::replace(&mut tracked.is_due, true)
        {
            tracked.ticket = None;
            self.due.push_back(channel.into());
        }
    }

    fn stall(&mut self, channel: &str) {
        if let Some(tracked) = self.channels.get_mut(channel)
            && !std::mem::replace(&mut tracked.is_stalled, true)
        {
            self.stalled.push_back(channel.into());
        }
    }

    /// A turn begins.
    pub fn begin_turn(&mut self) {
        self.turn_bytes = self.turn_bytes_max.max(1);
    }

    /// There is more to be handed on in the next turn, which is to come at once.
    pub fn is_spent(&self) -> bool {
        self.turn_bytes == 0 && !self.stalled.is_empty()
    }

    /// Goes on with those that have waited for room.
    pub fn go_on(&mut self, hub: &mut Hub) {
        for _ in 0..self.stalled.len() {
            let Some(channel) = self.stalled.pop_front() else { break };
            if let Some(tracked) = self.channels.get_mut(&channel) {
                tracked.is_stalled = false;
                self.advance(hub, &channel);
            }
        }
    }

    /// When [`Durables::go_on`] and [`Durables::write`] are to be called though nothing comes in.
    pub fn deadline(&self) -> Option<MonotonicNs> {
        let room = (!self.stalled.is_empty()).then(|| monotonic_ns() + ROOM_NS);
        let retry = self.retry_at.filter(|_| !self.due.is_empty() || !self.pages.is_idle());
        room.into_iter().chain(retry).min()
    }

    /// Hands on what was read, then what was held, as far as there is room.
    fn advance(&mut self, hub: &mut Hub, channel: &str) {
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        while let Some(entry) = tracked.read.front() {
            if !takes(hub, channel, entry.payload_bytes(), &mut self.turn_bytes) {
                return self.stall(channel);
            }
            self.read_bytes -= entry.bytes();
            let Entry { seq, timestamp_ms, payload } = tracked.read.pop_front().expect("it was shown");
            let Some(Count { seq: last, .. }) = hub.count_of(channel) else { continue };
            if seq > last + 1 {
                hub.lose(channel, seq - 1, GapReason::Expired);
            }
            match payload {
                _ if seq <= last => {}
                Ok(payload) => {
                    put(hub, channel, seq, &payload, Receipt { received: monotonic_ns(), timestamp_ms });
                    hub.metrics().repaired.inc();
                }
                Err(reason) => hub.lose(channel, seq, reason),
            }
        }
        match tracked.state {
            State::Repairing { to } => {
                let Some(Count { epoch, seq, .. }) = hub.count_of(channel) else { return };
                if seq < to {
                    return self.ask(channel);
                }
                hub.flowing(channel, Start::At { epoch, seq });
                tracked.state = State::Live;
                self.advance_held(hub, channel);
            }
            State::Live => self.advance_held(hub, channel),
            State::Asking { .. } | State::Renewing { .. } => {}
        }
    }

    fn advance_held(&mut self, hub: &mut Hub, channel: &str) {
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        if std::mem::take(&mut tracked.has_overflowed) {
            return self.ask_anew(hub, channel);
        }
        while let Some(held) = tracked.held.front() {
            let Some(Ok(envelope)) = Envelope::read(&held.message) else { unreachable!("it was read before it was held") };
            match apply(hub, channel, &envelope, held.received, &mut self.turn_bytes) {
                Applied::Whole => self.held_bytes -= tracked.held.pop_front().expect("it was shown").bytes(),
                stopped => return self.stop_at(hub, channel, stopped),
            }
        }
        tracked.held = VecDeque::new();
    }

    /// Publishes by the function that gives the message its number.
    pub fn publish(
        &self,
        link: &mut Link,
        publish: &Publish,
        (command_within, redis_channel): (&[u8], &str),
        rule: &ChannelRule,
        now: MonotonicNs,
    ) {
        let channel = &publish.channel;
        let (stream, meta) = (keys::stream(&self.prefix, channel), keys::meta(&self.prefix, channel));
        let once = publish.idempotency_key.as_deref().map(|key| keys::once(&self.prefix, channel, key.as_str()));
        let (count, age_ms) = (rule.history_count.to_string(), rule.history_age.as_millis().to_string());
        let keys: &[u8] = if once.is_some() { b"3" } else { b"2" };
        let mut command: SmallVec<[&[u8]; 12]> =
            smallvec![b"FCALL".as_slice(), library::PUBLISH.as_bytes(), keys, stream.as_bytes(), meta.as_bytes()];
        command.extend(once.as_ref().map(String::as_bytes));
        let arguments: [&[u8]; 6] =
            [command_within, redis_channel.as_bytes(), count.as_bytes(), age_ms.as_bytes(), IDEMPOTENCY_WINDOW_MS, &publish.payload];
        command.extend(arguments);
        link.ask(Asked::PublishDurable, &command, now);
    }

    // Asking Redis.

    /// Whether answers may be taken in.
    pub fn has_room(&self) -> bool {
        self.read_bytes < self.read_bytes_max
    }

    /// Asks what is due, as far as there is room. The connection is ready.
    pub fn write(&mut self, link: &mut Link, hub: &mut Hub, now: MonotonicNs) {
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        self.retry_at = None;
        while self.asked.len() < QUESTIONS_MAX && self.has_room() {
            let Some(channel) = self.due.pop_front() else { break };
            let ticket = self.take_ticket();
            let Some(tracked) = self.channels.get_mut(&channel) else { continue };
            if !std::mem::take(&mut tracked.is_due) {
                continue;
            }
            let asked = Asked::Durable(ticket);
            let (stream, meta) = (keys::stream(&self.prefix, &channel), keys::meta(&self.prefix, &channel));
            let (stream, meta) = (stream.as_bytes(), meta.as_bytes());
            match tracked.state {
                State::Asking { is_new: false } => link.ask(asked, &[b"HMGET", meta, b"e", b"n"], now),
                State::Asking { is_new: true } => link.ask(asked, &[b"FCALL", library::OPEN.as_bytes(), b"2", stream, meta], now),
                State::Renewing { epoch } => {
                    link.ask(asked, &[b"FCALL", library::RENEW.as_bytes(), b"2", stream, meta, epoch.to_string().as_bytes()], now);
                }
                State::Repairing { to } => {
                    let Some(Count { epoch, seq, .. }) = hub.count_of(&channel) else { continue };
                    let (from, to) = (format!("{epoch}-{}", seq + 1), format!("{epoch}-{to}"));
                    let count = self.page_entries.to_string();
                    link.ask(asked, &[b"XRANGE", stream, from.as_bytes(), to.as_bytes(), b"COUNT", count.as_bytes()], now);
                }
                State::Live => continue,
            }
            (tracked.ticket, tracked.held_when_asked) = (Some(ticket), tracked.held.len());
            self.asked.insert(ticket, About::Channel(channel));
        }
        while self.asked.len() < QUESTIONS_MAX
            && self.has_room()
            && let Some((channel, from)) = self.pages.take_due()
        {
            let ticket = self.take_ticket();
            let (stream, first) = (keys::stream(&self.prefix, &channel.name), format!("{}-{from}", channel.epoch));
            // To the end of the epoch: where nothing of the page is left, what comes next says how much is gone.
            let (last, count) = (format!("{}-{}", channel.epoch, u64::MAX), PAGE_NUMBERS.to_string());
            let command = [b"XRANGE", stream.as_bytes(), first.as_bytes(), last.as_bytes(), b"COUNT", count.as_bytes()];
            link.ask(Asked::Durable(ticket), &command, now);
            self.asked.insert(ticket, About::Page(channel, from));
        }
    }

    fn take_ticket(&mut self) -> u32 {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.wrapping_add(1);
        ticket
    }

    /// A shard wants what is kept of a channel.
    pub fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted) {
        self.pages.want(hub, wanted);
    }

    /// A page came, or is refused.
    fn page_read(&mut self, hub: &mut Hub, channel: Arc<Channel>, from: u64, answer: Result<&Value, &ServerError>) {
        let last = hub.count_of(&channel.name).filter(|count| count.epoch == channel.epoch).map(|count| count.seq);
        match (answer, last) {
            (Ok(value), Some(last)) => {
                let entries = reading::entries(value).into_iter().filter_map(Entry::kept).collect();
                self.pages.read(hub, channel, from, last, entries);
            }
            (Err(error), Some(_)) if self.is_for_now(error) => {
                self.retry_at = Some(monotonic_ns() + RETRY_NS);
                self.pages.put_back(channel, from);
            }
            (Ok(_) | Err(_), _) => self.pages.done(hub, channel, from, Vec::new()),
        }
    }

    /// Redis has answered one of them.
    pub fn answered(&mut self, hub: &mut Hub, ticket: u32, answer: Result<&Value, &ServerError>) {
        let channel = match self.asked.remove(&ticket) {
            Some(About::Channel(channel)) => channel,
            Some(About::Page(channel, from)) => return self.page_read(hub, channel, from, answer),
            None => return,
        };
        let Some(tracked) = self.channels.get_mut(&channel).filter(|tracked| tracked.ticket == Some(ticket)) else { return };
        tracked.ticket = None;
        let state = tracked.state;
        match (state, answer) {
            (_, Err(error)) => self.refused(hub, &channel, error),
            (State::Asking { .. } | State::Renewing { .. }, Ok(value)) => match Standing::read(value) {
                Some(standing) => self.stands(hub, &channel, standing),
                None => {
                    self.set_state(&channel, State::Asking { is_new: true });
                    self.ask(&channel);
                }
            },
            (State::Repairing { to }, Ok(value)) => self.read(hub, &channel, to, value),
            (State::Live, Ok(_)) => {}
        }
    }

    /// The stream stands there.
    fn stands(&mut self, hub: &mut Hub, channel: &str, Standing { epoch, last }: Standing) {
        self.drop_forged(hub, channel, Standing { epoch, last });
        match hub.count_of(channel) {
            Some(Count { epoch: before, seq, by: Counter::Source }) if epoch < before || (epoch == before && last < seq) => {
                // It has taken back what it had given: those numbers must not come again for others.
                self.set_state(channel, State::Renewing { epoch });
                return self.ask(channel);
            }
            Some(Count { epoch: before, by: Counter::Source, .. }) if epoch > before => {
                // From its beginning, so that whoever is subscribed gets all of it.
                hub.flowing(channel, Start::At { epoch, seq: 0 });
            }
            Some(Count { by: Counter::Source, .. }) => {}
            Some(Count { by: Counter::Hub, .. }) | None => hub.flowing(channel, Start::At { epoch, seq: last }),
        }
        let seq = hub.count_of(channel).map_or(last, |count| count.seq);
        if seq < last {
            return self.repair(hub, channel, last);
        }
        hub.flowing(channel, Start::At { epoch, seq });
        self.set_state(channel, State::Live);
        self.advance(hub, channel);
    }

    /// What came before it was asked is in the stream, or is none of its messages.
    fn drop_forged(&mut self, hub: &Hub, channel: &str, standing: Standing) {
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        let count = std::mem::take(&mut tracked.held_when_asked).min(tracked.held.len());
        let later = tracked.held.split_off(count);
        let before = std::mem::replace(&mut tracked.held, later);
        for held in before.into_iter().rev() {
            let is_given = Envelope::read(&held.message).and_then(Result::ok).is_some_and(|envelope| {
                envelope.epoch < standing.epoch || (envelope.epoch == standing.epoch && envelope.last() <= standing.last)
            });
            if is_given {
                tracked.held.push_front(held);
            } else {
                self.held_bytes -= held.bytes();
                hub.metrics().envelopes_refused.inc();
            }
        }
    }

    /// A page of the stream came.
    fn read(&mut self, hub: &mut Hub, channel: &str, to: u64, value: &Value) {
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        let mut entries = reading::entries(value);
        hub.metrics().protocol_errors.add(entries.iter().filter(|entry| entry.payload.is_err()).count() as u64);
        if entries.len() < self.page_entries && entries.last().is_none_or(|entry| entry.seq < to) {
            // There is nothing more: what is missing then is lost.
            entries.push(Entry { seq: to, timestamp_ms: 0, payload: Err(GapReason::Expired) });
        }
        self.read_bytes += entries.iter().map(Entry::bytes).sum::<usize>();
        tracked.read.extend(entries);
        self.advance(hub, channel);
    }

    fn refused(&mut self, hub: &mut Hub, channel: &str, error: &ServerError) {
        if self.is_for_now(error) || reading::is_without_library(error) {
            self.retry_at = Some(monotonic_ns() + RETRY_NS);
            return self.ask(channel);
        }
        if self.warnings.take(monotonic_ns()).is_some() {
            tracing::warn!(
                "where the durable channel `{channel}` stands cannot be asked, so that nothing of it can be recovered: {}",
                with_advice(error)
            );
        }
        // What comes is delivered all the same; what is missing is said.
        hub.flowing(channel, Start::Fresh);
        self.set_state(channel, State::Live);
        self.advance(hub, channel);
    }
}
