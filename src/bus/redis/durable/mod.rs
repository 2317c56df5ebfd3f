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
//! A message is not believed to be further than the stream says that it is: a number that it has not given is dropped. A stream that cannot be asked about, until an
//! operator has changed something, is live by the hub's numbers, and asked about again every few seconds.
//!
//! Invariants: a channel's numbers go to the hub in order, each once, as a message or as lost; nothing is skipped in silence: what cannot be held is read
//! from the stream again; what is held and what was read and waits for room are bounded.

mod applying;
mod asking;
pub mod envelope;
mod moving;
mod newest;
mod publishing;
mod reading;
mod recalling;

pub use reading::{entry_bytes_max, first, is_without_library, published};

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use self::applying::{Applied, apply, put, put_plain, takes};
use self::envelope::{Bad, Envelope};
use self::newest::Newest;
use self::reading::Entry;
use super::cluster::map::Node;
use super::placement::Part;
use crate::bus::flow::{Count, Start};
use crate::bus::hub::{Hub, Receipt};
use crate::bus::pages::Pages;
use crate::bus::ration::Ration;
use crate::bus::recall::{Recall, Recalls};
use crate::clock::MonotonicNs;
use crate::config::Settings;
use crate::fanout::batch::Channel;
use crate::limits::bus::PAGE_NUMBERS;
use crate::limits::redis::durable::{HELD_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, READ_BYTES_MAX};
use crate::sys::monotonic_ns;
use crate::wire::command::Position;
use crate::wire::event::GapReason;

/// What Redis does not answer now is asked again after this long.
const RETRY_NS: u64 = 200_000_000;
/// What it refuses for good, until an operator has changed something, is asked again after this long.
const REFUSED_NS: u64 = 5_000_000_000;
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
    /// What was handed out last of those that do not come now.
    remembered: HashMap<Box<str>, Remembered>,
    /// Those with a question to be asked, each once.
    due: VecDeque<Box<str>>,
    /// Those that wait for room, each once.
    stalled: VecDeque<Box<str>>,
    /// Those that are live though it is not known where they stand, which may be asked again then; and those whose turn it is.
    refused: BTreeSet<Box<str>>,
    refused_until: Option<MonotonicNs>,
    to_be_asked: VecDeque<(Box<str>, bool)>,
    pages: Pages,
    recalls: Recalls,
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
    /// The master is another, and until then what is published to a channel waits for what is compared.
    doubt_until: Option<MonotonicNs>,
    warnings: Ration,
}

/// What a question is about.
#[derive(Debug)]
enum About {
    Channel(Box<str>),
    Page(Arc<Channel>, u64),
    /// Where its channel stands; known where its messages are asked for.
    Recall(Recall, Option<Position>),
    /// Whether a channel that was refused still is; and whether its stream is to get an epoch.
    Refused(Box<str>, bool),
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
    newest: Option<Newest>,
    /// Whether that is still what it was, is not known; and whether that must be known, because the master is another.
    is_to_be_compared: bool,
    is_doubtful: bool,
}

#[derive(Debug)]
struct Remembered {
    newest: Newest,
    is_doubtful: bool,
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
    receipt: Receipt,
    /// It has no number: no stream has it.
    is_plain: bool,
}

impl Tracked {
    /// What stands under this number must be this, if that is to be looked at.
    fn compares_with(&self, epoch: u64, seq: u64) -> Option<Newest> {
        self.newest.filter(|newest| self.is_to_be_compared && (newest.epoch, newest.seq) == (epoch, seq) && seq > 0)
    }
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
            page_entries: (PAGE_BYTES_MAX / entry_bytes_max(payload_bytes_max)).clamp(1, PAGE_ENTRIES_MAX),
            channels: HashMap::new(),
            remembered: HashMap::new(),
            due: VecDeque::new(),
            stalled: VecDeque::new(),
            refused: BTreeSet::new(),
            refused_until: None,
            to_be_asked: VecDeque::new(),
            pages: Pages::default(),
            recalls: Recalls::default(),
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
            doubt_until: None,
            warnings: Ration::default(),
        }
    }

    /// What the largest reply may take.
    pub fn reply_bytes_max(payload_bytes_max: usize) -> usize {
        PAGE_BYTES_MAX.max(PAGE_NUMBERS as usize * entry_bytes_max(payload_bytes_max))
    }

    #[inline]
    pub fn has(&self, channel: &str) -> bool {
        !self.channels.is_empty() && self.channels.contains_key(channel)
    }

    // Coming and going.

    /// Its messages come from now on.
    pub fn begin(&mut self, hub: &mut Hub, channel: &str) {
        self.suspend(channel);
        self.refused.remove(channel);
        let remembered = self.remembered.remove(channel);
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
            newest: remembered.as_ref().map(|remembered| remembered.newest),
            is_to_be_compared: remembered.is_some(),
            is_doubtful: remembered.is_some_and(|remembered| remembered.is_doubtful),
        };
        self.channels.insert(channel.into(), tracked);
        self.ask(channel);
    }

    /// Nobody wants them any more.
    pub fn forget(&mut self, channel: &str) {
        self.suspend(channel);
        self.remembered.remove(channel);
    }

    /// They do not come for now.
    pub fn suspend(&mut self, channel: &str) {
        if let Some((channel, gone)) = self.channels.remove_entry(channel) {
            self.held_bytes -= gone.held.iter().map(Held::bytes).sum::<usize>();
            self.read_bytes -= gone.read.iter().map(Entry::bytes).sum::<usize>();
            self.remember(channel, &gone);
        }
    }

    fn remember(&mut self, channel: Box<str>, gone: &Tracked) {
        if let Some(newest) = gone.newest {
            self.remembered.insert(channel, Remembered { newest, is_doubtful: gone.is_doubtful });
        }
    }

    /// The subscribed connection is lost: nothing comes. What is still to be answered does not count.
    pub fn suspend_all(&mut self) {
        for (channel, gone) in std::mem::take(&mut self.channels) {
            self.remember(channel, &gone);
        }
        (self.due, self.stalled) = Default::default();
        (self.refused, self.to_be_asked, self.refused_until) = Default::default();
        (self.held_bytes, self.read_bytes, self.retry_at) = (0, 0, None);
    }

    /// The connection on which is asked is lost: all that it has not answered is asked again.
    pub fn connection_lost(&mut self, hub: &mut Hub) {
        self.recalls.give_up(hub);
        for (ticket, about) in std::mem::take(&mut self.asked) {
            match about {
                About::Channel(channel) => {
                    if self.channels.get(&channel).is_some_and(|tracked| tracked.ticket == Some(ticket)) {
                        self.ask(&channel);
                    }
                }
                About::Page(channel, from) => self.pages.put_back(channel, from),
                About::Recall(..) | About::Refused(..) => {}
            }
        }
        // As soon as there is one again; until then there is nothing to wake for.
        self.to_be_asked = self.refused.iter().map(|channel| (channel.clone(), false)).collect();
        self.refused_until = None;
    }

    // Messages.

    /// A message came, with numbers or without.
    pub fn message(&mut self, hub: &mut Hub, channel: &str, message: &[u8], receipt: Receipt) {
        let envelope = match Envelope::read(message) {
            Some(Ok(envelope)) => Some(envelope),
            Some(Err(bad)) => return self.note_bad(hub, channel, bad),
            None => None,
        };
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        if tracked.state == State::Live && tracked.held.is_empty() {
            let Some(envelope) = &envelope else { return put_plain(hub, channel, message, receipt) };
            match apply(hub, channel, envelope, receipt.received, &mut self.turn_bytes, &mut tracked.newest) {
                Applied::Whole => return,
                Applied::Doubled => return self.suspect(hub, channel),
                stopped => self.stop_at(hub, channel, stopped),
            }
        }
        self.hold(hub, channel, Held { message: message.into(), receipt, is_plain: envelope.is_none() });
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
            Applied::Doubled => self.suspect(hub, channel),
        }
    }

    /// Two have come under one number, and the stream has one of them: it is compared with what was handed out.
    fn suspect(&mut self, hub: &mut Hub, channel: &str) {
        hub.metrics().envelopes_refused.inc();
        if self.warnings.take(monotonic_ns()).is_some() {
            tracing::warn!(
                "two messages have come on `{channel}` under one number, one of them forged; nobody but campanile_publish may publish to a durable channel so"
            );
        }
        self.ask_anew(hub, channel);
        if let Some(tracked) = self.channels.get_mut(channel) {
            tracked.is_doubtful = tracked.newest.is_some();
        }
    }

    fn hold(&mut self, hub: &Hub, channel: &str, held: Held) {
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        if held.is_plain && (tracked.has_overflowed || self.held_bytes + held.bytes() > self.held_bytes_max / 2) {
            // Those with numbers have the rest of the room.
            hub.metrics().unnumbered.inc();
            hub.metrics().unnumbered_dropped.inc();
        } else if self.held_bytes + held.bytes() > self.held_bytes_max {
            // It is in the stream, and so are those before it that have numbers.
            let plain = tracked.held.iter().filter(|held| held.is_plain).count() as u64;
            hub.metrics().unnumbered.add(plain);
            hub.metrics().unnumbered_dropped.add(plain);
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
        if let Some(tracked) = self.channels.get_mut(channel) {
            tracked.is_to_be_compared = tracked.newest.is_some();
        }
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
        let retry = self.retry_at.filter(|_| !self.due.is_empty() || !self.pages.is_idle() || !self.recalls.is_idle());
        room.into_iter().chain(retry).chain(self.refused_until).min()
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
            let Some(Count { epoch, seq: last, .. }) = hub.count_of(channel) else { continue };
            if seq > last + 1 {
                hub.lose(channel, seq - 1, GapReason::Expired);
            }
            match payload {
                _ if seq <= last => {}
                Ok(payload) => {
                    tracked.newest = Some(Newest::of_message(epoch, seq, timestamp_ms, &payload));
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
            if held.is_plain {
                put_plain(hub, channel, &held.message, held.receipt);
                self.held_bytes -= tracked.held.pop_front().expect("it was shown").bytes();
                continue;
            }
            let Some(Ok(envelope)) = Envelope::read(&held.message) else { unreachable!("it was read before it was held") };
            match apply(hub, channel, &envelope, held.receipt.received, &mut self.turn_bytes, &mut tracked.newest) {
                Applied::Whole => self.held_bytes -= tracked.held.pop_front().expect("it was shown").bytes(),
                stopped => {
                    if stopped == Applied::Doubled {
                        self.held_bytes -= tracked.held.pop_front().expect("it was shown").bytes();
                    }
                    return self.stop_at(hub, channel, stopped);
                }
            }
        }
        tracked.held = VecDeque::new();
    }
}
