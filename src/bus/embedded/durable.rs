//! Durable channels without Redis: the [`Journal`] numbers and keeps their messages; what it has settled goes on from here, to the hub and to its
//! publishers. Owned by [`super::Embedded`].
//!
//! Everything that shows a number waits in one line, in the order of the journal's tickets: messages, answers, and joins, which are told where a channel
//! stands. So a join is answered between the message before its position and the one behind it, and nobody needs to be held back.
//!
//! Invariants: no number is shown before the journal has settled it; a channel's numbers go to the hub in order, each once. What the hub has no room for
//! holds up the line, and with it publishers: what is settled is not lost to subscribers for want of room.

#[path = "recalling.rs"]
mod recalling;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use self::recalling::Recalling;
use super::marks;
use crate::bus::flow::{Count, Counter, Start};
use crate::bus::hub::{Hub, PageEntry, Receipt};
use crate::bus::marks::{MarkNews, MarksError, MarksQuestion, MarksResult};
use crate::bus::pages::Pages;
use crate::bus::question::{PageWanted, Publish, PublishError, Published};
use crate::bus::ration::Ration;
use crate::bus::recall::Recalls;
use crate::clock::{MonotonicNs, nanos};
use crate::config::{self, ChannelRule, Mismatch};
use crate::fanout::batch::Channel;
use crate::journal::page::{Page, ReadError, ReadId};
use crate::journal::{self, Append, AppendError, Appended, Fsync, Journal, OpenError, Range, Reading, State, Ticket, Wake};
use crate::limits::bus::{IDEMPOTENCY_WINDOW, MARKS_WAIT, PAGE_NUMBERS, TURN_PUBLISH_BYTES, TURN_PUBLISHES};
use crate::limits::journal::{CLOSE_PATIENCE, SYNC_INTERVAL};
use crate::sys::{monotonic_ns, unix_ms};
use crate::wire::payload::Looked;

/// How soon it is looked again whether there is room in the shards' inboxes, or for reading.
const ROOM_NS: MonotonicNs = 2_000_000;
/// How often the journal gets its turn though nothing comes.
const TURN_NS: MonotonicNs = 1_000_000_000;

#[derive(Debug)]
pub struct Durables {
    /// None: it is closed.
    journal: Option<Journal>,
    /// The journal's threads have done something.
    bell: crossbeam_channel::Receiver<()>,
    waiting: VecDeque<Waiting>,
    /// Channels that are wanted and new, and that the journal could not take in yet.
    unopened: VecDeque<Box<str>>,
    pages: Pages,
    recalls: Recalls,
    /// Those of which a part comes from files.
    recalling: HashMap<ReadId, Recalling>,
    /// Those of which a part comes from files.
    reading: HashMap<ReadId, Unread>,
    /// What may be handed on in a turn, as of publishes: whether an inbox has room is known again when the turn is over.
    turn_publishes: usize,
    turn_publish_bytes: usize,
    left: Left,
    /// There is something to forget or to rewrite now and then.
    is_used: bool,
    next_turn_at: MonotonicNs,
    /// When what waits for room is looked at again.
    room_at: Option<MonotonicNs>,
    /// When a question about marks has waited for too long.
    overdue_at: Option<MonotonicNs>,
    warnings: Ration,
}

/// Of a turn.
#[derive(Debug, Clone, Copy)]
struct Left {
    publishes: usize,
    bytes: usize,
}

/// What shows a number, once this ticket is settled.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    what: What,
}

#[derive(Debug)]
enum What {
    /// It flows from this position on.
    Flow { channel: Box<str>, epoch: u64, seq: u64 },
    /// A message, whose publisher is answered.
    Publish { publish: Publish, appended: Appended, receipt: Receipt },
    /// One that a route has brought.
    Routed { channel: Box<str>, payload: Arc<[u8]>, appended: Appended, receipt: Receipt },
    /// The answer to what was asked of marks, a mark that was set for it, and when that has waited for too long.
    Marks { question: Box<MarksQuestion>, result: MarksResult, news: Option<MarkNews>, give_up_at: MonotonicNs },
    /// The answer to whoever has published those.
    Answer { publish: Publish, result: Result<Published, PublishError> },
}

/// A page that is not whole yet.
#[derive(Debug)]
struct Unread {
    channel: Arc<Channel>,
    from: u64,
    /// The number with which the reading goes on.
    next: u64,
    entries: Vec<PageEntry>,
}

impl Durables {
    /// `wake` gives the bus a turn.
    pub fn open(settings: &config::Settings, wake: &Wake) -> Result<Durables, OpenError> {
        let fsync = match settings.journal.fsync {
            config::Fsync::Always => Fsync::Always,
            config::Fsync::Interval => Fsync::Interval(SYNC_INTERVAL),
        };
        let of_journal = journal::Settings {
            data_dir: settings.journal.data_dir.clone(),
            fsync,
            memory_bytes: settings.bounds.history_bytes_total,
            // One that is subscribed to should not go for another.
            channels_max: settings.bounds.channels_max.saturating_mul(2),
            key_window: IDEMPOTENCY_WINDOW,
            ..journal::Settings::default()
        };
        // A quarter of an inbox: publishes go on while half of it is free.
        let turn_publishes = TURN_PUBLISHES.min(settings.shards.inbox_messages / 4).max(1);
        let turn_publish_bytes = TURN_PUBLISH_BYTES.min(settings.bounds.inbox_bytes_total / settings.shards.count / 4);
        // Whoever closes has no more turns, and waits for this.
        let (ring, bell) = crossbeam_channel::bounded(1);
        let wake = wake.clone();
        let wake: Wake = Arc::new(move || {
            let _ = ring.try_send(());
            wake();
        });
        Ok(Durables {
            is_used: of_journal.data_dir.is_some(),
            journal: Some(Journal::open(of_journal, unix_ms(), &wake)?),
            bell,
            waiting: VecDeque::new(),
            unopened: VecDeque::new(),
            pages: Pages::default(),
            recalls: Recalls::default(),
            recalling: HashMap::new(),
            reading: HashMap::new(),
            turn_publishes,
            turn_publish_bytes,
            left: Left { publishes: turn_publishes, bytes: turn_publish_bytes },
            next_turn_at: 0,
            room_at: None,
            overdue_at: None,
            warnings: Ration::default(),
        })
    }

    /// Whether a message of this size is taken, or refused, at once: else the disk is behind.
    pub fn takes(&self, bytes: usize) -> bool {
        self.journal.as_ref().is_none_or(|journal| journal.has_room(bytes))
    }

    /// Its messages are wanted from now on.
    pub fn want(&mut self, channel: &str) {
        let Some(journal) = &mut self.journal else { return };
        self.is_used = true;
        match journal.state(channel) {
            Ok(State { epoch, last_seq: seq, .. }) => {
                let what = What::Flow { channel: channel.into(), epoch, seq };
                self.waiting.push_back(Waiting { ticket: journal.head(), what });
            }
            // Whoever joins waits until there is room for it, as for a Redis that is away.
            Err(_) => self.unopened.push_back(channel.into()),
        }
    }

    pub fn publish(&mut self, hub: &mut Hub, publish: Publish, receipt: Receipt) {
        let rule = hub.rule_of(&publish.channel);
        if is_dropped(rule, &publish.payload, &mut Looked::default()) {
            let wanted = rule.payload;
            hub.metrics().dropped.inc();
            return hub.published(publish, Err(PublishError::Mismatch(wanted)));
        }
        let key = publish.idempotency_key.as_deref().map(|key| key.as_str());
        match append(&mut self.journal, rule, &publish.channel, &publish.payload, key, receipt) {
            Ok(appended) => {
                self.is_used = true;
                let ticket = appended.ticket;
                self.waiting.push_back(Waiting { ticket, what: What::Publish { publish, appended, receipt } });
            }
            Err(error) => self.not_kept(hub, publish, error),
        }
    }

    /// One that a route has brought to these channels, and perhaps to others; `result` is what its publisher is told when it is kept.
    pub fn publish_routed(
        &mut self,
        hub: &mut Hub,
        publish: Publish,
        channels: Vec<String>,
        receipt: Receipt,
        result: Result<Published, PublishError>,
    ) {
        let (payload, mut looked): (Arc<[u8]>, _) = (publish.payload[..].into(), Looked::default());
        let mut refused = None;
        let mut last = 0;
        for channel in channels {
            let rule = hub.rule_of(&channel);
            if is_dropped(rule, &payload, &mut looked) {
                hub.metrics().dropped.inc();
                continue;
            }
            match append(&mut self.journal, rule, &channel, &payload, None, receipt) {
                Ok(appended) => {
                    self.is_used = true;
                    hub.metrics().routed.inc();
                    last = appended.ticket;
                    let what = What::Routed { channel: channel.into(), payload: payload.clone(), appended, receipt };
                    self.waiting.push_back(Waiting { ticket: last, what });
                }
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) => self.not_kept(hub, publish, error),
            None => self.waiting.push_back(Waiting { ticket: last, what: What::Answer { publish, result } }),
        }
    }

    fn not_kept(&mut self, hub: &mut Hub, publish: Publish, error: AppendError) {
        hub.metrics().journal_refused.inc();
        hub.published(publish, Err(PublishError::NotKept(error)));
    }

    /// What is kept of how far users have read.
    pub fn marks(&mut self, hub: &mut Hub, question: Box<MarksQuestion>, now: MonotonicNs) {
        let Some(journal) = &mut self.journal else { return hub.answer_marks(*question, Err(MarksError::Stopping)) };
        self.is_used = true;
        let (result, news) = marks::answer(journal, &question);
        if result.is_err() {
            return hub.answer_marks(*question, result);
        }
        // Of a number that is told the journal has what it counts.
        let give_up_at = now + nanos(MARKS_WAIT);
        self.overdue_at.get_or_insert(give_up_at);
        self.waiting.push_back(Waiting { ticket: journal.head(), what: What::Marks { question, result, news, give_up_at } });
    }

    /// Questions about marks that a disk holds up which takes nothing.
    fn give_up_marks(&mut self, hub: &mut Hub, now: MonotonicNs) {
        if self.overdue_at.is_none_or(|overdue_at| now < overdue_at) {
            return;
        }
        self.overdue_at = None;
        for Waiting { ticket, what } in std::mem::take(&mut self.waiting) {
            match what {
                What::Marks { question, give_up_at, .. } if give_up_at <= now => {
                    hub.answer_marks(*question, Err(MarksError::Unsettled));
                }
                what => {
                    if let What::Marks { give_up_at, .. } = what {
                        // They came one after the other.
                        self.overdue_at.get_or_insert(give_up_at);
                    }
                    self.waiting.push_back(Waiting { ticket, what });
                }
            }
        }
    }

    /// A shard wants what is kept of a channel.
    pub fn read_page(&mut self, hub: &mut Hub, wanted: PageWanted) {
        self.pages.want(hub, wanted);
        self.read_pages(hub);
    }

    /// A turn begins. True: there is more to be done in the next one, which is to come at once.
    pub fn begin_turn(&mut self, hub: &mut Hub, now: MonotonicNs) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        if !self.is_used {
            return false;
        }
        self.left = Left { publishes: self.turn_publishes, bytes: self.turn_publish_bytes };
        let has_more = journal.turn(unix_ms());
        if now >= self.next_turn_at {
            self.next_turn_at = now + TURN_NS;
            tell(hub, journal);
            for channel in std::mem::take(&mut self.unopened) {
                self.want(&channel);
            }
        }
        while let Some((id, page)) = self.journal.as_mut().and_then(Journal::next_page) {
            if let Some(unread) = self.reading.remove(&id) {
                self.page_read(hub, unread, page);
            } else if let Some(recalling) = self.recalling.remove(&id) {
                self.recall_read(hub, recalling, page);
            }
        }
        self.read_pages(hub);
        self.read_recalls(hub);
        self.settle(hub, now);
        self.give_up_marks(hub, now);
        has_more
    }

    /// A turn ends: what has come goes to the disk.
    pub fn end_turn(&mut self, hub: &mut Hub, now: MonotonicNs) {
        if let Some(journal) = self.journal.as_mut().filter(|_| self.is_used) {
            journal.flush();
            self.settle(hub, now);
        }
    }

    pub fn deadline(&self) -> Option<MonotonicNs> {
        let turn = (self.is_used && self.journal.is_some()).then_some(self.next_turn_at);
        [turn, self.room_at, self.overdue_at].into_iter().flatten().min()
    }

    /// Shows what is settled, as far as there is room for it.
    fn settle(&mut self, hub: &mut Hub, now: MonotonicNs) {
        self.room_at = (!self.pages.is_idle() || !self.recalls.is_idle()).then_some(now + ROOM_NS);
        let Some(settled) = self.journal.as_ref().map(Journal::settled) else { return };
        while let Some(Waiting { what, .. }) = self.waiting.front().filter(|waiting| waiting.ticket <= settled) {
            if let Some((channel, bytes)) = what.message() {
                if hub.is_ahead() || self.left.publishes == 0 || self.left.bytes == 0 {
                    self.room_at = Some(now);
                    return;
                }
                if !hub.has_room_for(channel, bytes) {
                    self.room_at = Some(now + ROOM_NS);
                    return;
                }
                self.left.publishes -= 1;
                self.left.bytes = self.left.bytes.saturating_sub(bytes);
            }
            let Waiting { what, .. } = self.waiting.pop_front().expect("it was shown");
            show(hub, what);
        }
    }

    // Pages.

    fn read_pages(&mut self, hub: &mut Hub) {
        while let Some((channel, from)) = self.pages.take_due() {
            if !self.go_on(hub, Unread { channel, from, next: from, entries: Vec::new() }) {
                self.room_at.get_or_insert(monotonic_ns() + ROOM_NS);
                return;
            }
        }
    }

    /// Reads the rest of a page, as far as it is in memory. False: too much is being read.
    fn go_on(&mut self, hub: &mut Hub, mut unread: Unread) -> bool {
        loop {
            let Some(journal) = &mut self.journal else { return true };
            let Some(last) = last_of(hub, &unread.channel) else {
                self.pages.done(hub, unread.channel, unread.from, Vec::new());
                return true;
            };
            let end = unread.from + PAGE_NUMBERS;
            if unread.next >= end || unread.next > last {
                self.pages.read(hub, unread.channel, unread.from, last, unread.entries);
                return true;
            }
            let Unread { channel, next, .. } = &unread;
            let count_max = (end - next) as usize;
            let range = Range { channel: &channel.name, epoch: channel.epoch, from_seq: *next, count_max, bytes_max: usize::MAX };
            match journal.read(&range) {
                Ok(Reading::Page(page)) if page.is_empty() => {
                    self.pages.read(hub, unread.channel, unread.from, last, unread.entries);
                    return true;
                }
                Ok(Reading::Page(page)) => unread.add(&page),
                Ok(Reading::Later(id)) => {
                    self.reading.insert(id, unread);
                    return true;
                }
                Err(ReadError::Busy) => {
                    self.pages.put_back(unread.channel, unread.from);
                    return false;
                }
                Err(error) => {
                    if !self.pass_over(&mut unread, &error) {
                        self.pages.done(hub, unread.channel, unread.from, Vec::new());
                        return true;
                    }
                }
            }
        }
    }

    /// A part of one came from files.
    fn page_read(&mut self, hub: &mut Hub, mut unread: Unread, page: Result<Page, ReadError>) {
        match page {
            // It was trimmed meanwhile.
            Ok(page) if page.is_empty() => {
                let last = last_of(hub, &unread.channel).unwrap_or(0);
                return self.pages.read(hub, unread.channel, unread.from, last, unread.entries);
            }
            Ok(page) => unread.add(&page),
            Err(error) => {
                if !self.pass_over(&mut unread, &error) {
                    return self.pages.done(hub, unread.channel, unread.from, Vec::new());
                }
            }
        }
        self.go_on(hub, unread);
    }

    /// Goes on behind a message that cannot be read. False: it is not one message.
    fn pass_over(&mut self, unread: &mut Unread, error: &ReadError) -> bool {
        match *error {
            ReadError::Damaged { seq } | ReadError::Failed { seq, .. } => {
                if self.warnings.take(monotonic_ns()).is_some() {
                    tracing::warn!("a message of the durable channel `{}` is lost: {error}", unread.channel.name);
                }
                unread.next = unread.next.max(seq + 1);
                true
            }
            ReadError::Unknown | ReadError::OtherEpoch { .. } | ReadError::Busy => false,
        }
    }

    // The end.

    /// Puts everything on disk, as far as that takes no longer than it may, and answers what waits for it.
    pub fn close(&mut self, hub: &mut Hub) {
        let Some(mut journal) = self.journal.take() else { return };
        let deadline = std::time::Instant::now() + CLOSE_PATIENCE;
        journal.flush();
        let last = self.waiting.back().map_or(0, |waiting| waiting.ticket);
        while journal.settled() < last && self.bell.recv_deadline(deadline).is_ok() {
            journal.flush();
        }
        let settled = journal.settled();
        for Waiting { ticket, what } in std::mem::take(&mut self.waiting) {
            match what {
                what if ticket <= settled => show(hub, what),
                What::Publish { publish, .. } | What::Answer { publish, .. } => hub.published(publish, Err(PublishError::Unsettled)),
                What::Marks { question, .. } => hub.answer_marks(*question, Err(MarksError::Stopping)),
                What::Flow { .. } | What::Routed { .. } => {}
            }
        }
        if self.is_used && !journal.close(deadline.saturating_duration_since(std::time::Instant::now())) {
            tracing::error!("not everything that was published to durable channels is on disk");
        }
    }
}

impl What {
    /// The number that a message of this channel has.
    fn number_of(&self, of: &str) -> Option<u64> {
        match self {
            What::Publish { publish, appended, .. } if !appended.is_repeat && &*publish.channel == of => Some(appended.seq),
            What::Routed { channel, appended, .. } if &**channel == of => Some(appended.seq),
            What::Publish { .. } | What::Routed { .. } | What::Flow { .. } | What::Answer { .. } | What::Marks { .. } => None,
        }
    }

    /// Of a message that goes to the hub: its channel and its size.
    fn message(&self) -> Option<(&str, usize)> {
        match self {
            What::Publish { publish, appended, .. } if !appended.is_repeat => Some((&publish.channel, publish.payload.len())),
            What::Routed { channel, payload, .. } => Some((channel, payload.len())),
            What::Publish { .. } | What::Flow { .. } | What::Answer { .. } | What::Marks { .. } => None,
        }
    }
}

impl Unread {
    fn add(&mut self, page: &Page) {
        let entries =
            page.iter().map(|entry| PageEntry { seq: entry.seq, timestamp_ms: entry.timestamp_ms, payload: entry.payload.into() });
        self.entries.extend(entries);
        self.next = self.entries.last().map_or(self.next, |last| last.seq + 1);
    }
}

/// Whether a payload is no message of a channel with this rule.
fn is_dropped(rule: &ChannelRule, payload: &[u8], looked: &mut Looked) -> bool {
    rule.mismatch == Mismatch::Drop && !looked.at(payload, rule.payload).1
}

fn append(
    journal: &mut Option<Journal>,
    rule: &ChannelRule,
    channel: &str,
    payload: &[u8],
    idempotency_key: Option<&str>,
    receipt: Receipt,
) -> Result<Appended, AppendError> {
    let ChannelRule { history_count, history_age, .. } = *rule;
    let append = Append { channel, payload, timestamp_ms: receipt.timestamp_ms, idempotency_key, history_count, history_age };
    journal.as_mut().ok_or_else(|| AppendError::Failing("the server is stopping".into()))?.append(&append)
}

/// The last number of a channel that was shown, if it is counted as then.
fn last_of(hub: &mut Hub, channel: &Channel) -> Option<u64> {
    hub.count_of(&channel.name).filter(|count| count.epoch == channel.epoch).map(|count| count.seq)
}

fn show(hub: &mut Hub, what: What) {
    match what {
        What::Flow { channel, epoch, seq } => hub.flowing(&channel, Start::At { epoch, seq }),
        What::Publish { publish, appended, receipt } => {
            let Appended { epoch, seq, is_repeat, .. } = appended;
            if !is_repeat {
                hand_out(hub, &publish.channel, &publish.payload, appended, receipt);
            }
            hub.published(publish, Ok(Published { is_repeat, ..Published::at(epoch, seq) }));
        }
        What::Routed { channel, payload, appended, receipt } => hand_out(hub, &channel, &payload, appended, receipt),
        What::Answer { publish, result } => hub.published(publish, result),
        What::Marks { question, result, news, .. } => {
            news.into_iter().for_each(|news| hub.mark_told(news));
            hub.answer_marks(*question, result);
        }
    }
}

/// The next message of a channel, for whoever hears it.
fn hand_out(hub: &mut Hub, channel: &str, payload: &[u8], Appended { epoch, seq, .. }: Appended, receipt: Receipt) {
    let Some(id) = hub.find(channel) else { return hub.count_unwanted(payload.len()) };
    // After a reload, or when the journal has forgotten the channel, it is counted otherwise. One that does not flow yet is told later where it stands.
    let is_next = hub.count_of(channel).is_some_and(|count| count == Count { epoch, seq: seq - 1, by: Counter::Source });
    if !is_next && hub.is_flowing(channel) {
        hub.flowing(channel, Start::At { epoch, seq: seq - 1 });
    }
    hub.message(id, payload, receipt);
}

/// For `/metrics`.
fn tell(hub: &Hub, journal: &Journal) {
    let (counts, metrics) = (journal.counts(), hub.metrics());
    metrics.journal_messages.set(counts.messages as u64);
    metrics.journal_memory_bytes.set((counts.memory_bytes + counts.keys_bytes) as u64);
    metrics.journal_disk_bytes.set(counts.disk_bytes);
    metrics.journal_unsynced_bytes.set(counts.waiting_bytes);
    metrics.journal_failing.set(u64::from(journal.failure().is_some()));
}
