//! Clients that are told of channels otherwise than over a WebSocket. An event stream is one more peer: its events are encoded once for all who read
//! them, and its cursors are like all others. One that has several channels is told by itself where it stands in them, behind what it was sent.
//!
//! A poll is a connection that has subscriptions for as long as it waits. Its events come together in its outbox, which is not sent before something is there
//! that it is answered for, or it has waited long enough; then it leaves its channels, and may ask again.
//!
//! Invariant: of a poll nothing is with the kernel but whole answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::conn::{Flags, Formats, Outbox, Phase};
use super::gather::{Due, Plan};
use super::net::Network;
use super::rate::moment;
use super::timers::Timer;
use crate::auth::identity::Identity;
use crate::fanout::log::Slices;
use crate::limits;
use crate::wire::close::CloseReason;
use crate::wire::command::{self, Asked, ErrorCode, Position};
use crate::wire::event::Event;
use crate::wire::event_stream;
use crate::wire::http::answer::{self, AllowOrigin};
use crate::wire::http::feed::{Feed, Kind, Resume};
use crate::wire::http::head::Head;
use crate::wire::http::origin::is_allowed;
use crate::wire::http::refusal::RefusalReason;
use crate::wire::peer::Peer;
use crate::wire::poll::{Poll, Standing};
use crate::wire::wish::{Begin, Wish};

/// Event streams that have several channels, by slot.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<u32, Stream>);

#[derive(Debug)]
struct Stream {
    /// Topics, in the order in which the channels were asked for. One that it has left names nothing any more: no stream subscribes to more later.
    topics: Box<[Option<u32>]>,
    /// It has been sent something since it was told where it stands.
    is_due: bool,
}

impl Streams {
    pub(super) fn note_sent(&mut self, key: usize) {
        if let Some(stream) = self.0.get_mut(&(key as u32)) {
            stream.is_due = true;
        }
    }

    pub(super) fn forget(&mut self, key: usize) {
        self.0.remove(&(key as u32));
    }
}

impl<N: Network> Shard<N> {
    /// Which pages may read what this request is answered.
    pub(super) fn allow_origin(&self, origin: Option<&[u8]>) -> AllowOrigin {
        let auth = &self.settings.auth;
        match origin.and_then(|origin| std::str::from_utf8(origin).ok()) {
            None => AllowOrigin::Nobody,
            Some(_) if auth.origins.is_empty() => AllowOrigin::Anybody,
            Some(origin) if is_allowed(origin.as_bytes(), &auth.origins) => {
                AllowOrigin::Only { origin: origin.into(), with_cookies: auth.cookie.is_some() }
            }
            Some(_) => AllowOrigin::Nobody,
        }
    }

    /// A client that was told not to come back has come back: it takes this answer for the last word.
    pub(super) fn answer_never(&mut self, key: usize, head: &Head<'_>) {
        let allow = self.allow_origin(head.fields.only("origin"));
        let mut answer = Vec::new();
        answer::never(&mut answer, &allow);
        self.end_with_answer(key, &answer, CloseReason::Answered);
    }

    /// Whoever it is may come in; `may_ask_again`: on the same connection.
    pub(super) fn open_feed(&mut self, key: usize, feed: &Feed<'_>, identity: Option<Arc<Identity>>, may_ask_again: bool) {
        self.metrics.connections.inc();
        let allow_origin = self.allow_origin(feed.head.fields.only("origin"));
        let format = feed.format;
        let conn = &mut self.conns[key];
        conn.flags.set(Flags::COUNTED);
        conn.formats = Formats::fixed(format);
        conn.identity = identity;
        let (wishes, is_resumed) = self.wishes_of(key, feed);
        let is_of_one = wishes.len() == 1;
        let peer = match feed.kind {
            Kind::EventStream => Peer::EventStream { is_of_one },
            Kind::Poll { .. } => Peer::Poll(Box::new(Poll {
                format,
                keeps_alive: may_ask_again,
                allow_origin: allow_origin.clone(),
                has_news: false,
                is_late: false,
                is_overdue: false,
                is_answered: false,
                next: Vec::new(),
            })),
        };
        let identity = self.conns[key].identity.take();
        self.conns[key].open(peer, identity);
        self.count_user(key, 1);
        match feed.kind {
            Kind::EventStream => {
                self.metrics.event_streams.inc();
                let retry_ms = u64::from(self.conns[key].generation.wrapping_mul(0x9E37_79B9) >> 8) % limits::RETRY_SPREAD_MS;
                let out = self.conns[key].outbox();
                answer::event_stream(out, &allow_origin);
                event_stream::write_retry(out, limits::RETRY_MS_MIN + retry_ms);
                self.start_heartbeat(key);
                self.send_connected(key);
            }
            Kind::Poll { wait } => {
                self.metrics.polls.inc();
                self.set_timer(key, Timer::Poll, wait);
            }
        }
        if feed.resume != Resume::Nothing && !is_resumed {
            let text = "Last-Event-ID is none that this server has given for these channels; what was missed since is not known";
            self.reply_error(key, Asked { id: None, command: Some(command::SUBSCRIBE), channel: None }, ErrorCode::BadCommand, text);
        }
        let own = self.own_channel(key);
        for (channel, wish) in &wishes {
            if Some(channel) == own.as_ref() {
                self.subscribe_unasked(key, channel, None, *wish);
            } else {
                self.subscribe(key, channel, None, *wish);
            }
        }
        if feed.kind == Kind::EventStream && wishes.len() > 1 {
            let topic_of = |(channel, _): &(String, Wish)| {
                let topic = self.topics.find(channel)?;
                self.find_subscription(key, topic).map(|_| topic)
            };
            let topics = wishes.iter().map(topic_of).collect();
            self.streams.0.insert(key as u32, Stream { topics, is_due: true });
        }
        self.mark_ready(key);
    }

    /// The channels of a feed, the user's own before all others, and where each begins; whether that is where the last event ended.
    fn wishes_of(&self, key: usize, feed: &Feed<'_>) -> (Vec<(String, Wish)>, bool) {
        let own = self.own_channel(key).filter(|own| feed.channels.iter().all(|entry| entry.channel != *own));
        let mut wishes: Vec<(String, Wish)> = own.into_iter().map(|own| (own, Wish::default())).collect();
        wishes.extend(feed.channels.iter().map(|entry| (entry.channel.clone(), entry.wish())));
        let positions = match &feed.resume {
            // Of other channels than these, if it has more or fewer.
            Resume::At(positions) if positions.len() == wishes.len() => Some(positions),
            _ => None,
        };
        if let Some(positions) = positions {
            for ((_, wish), position) in wishes.iter_mut().zip(positions) {
                let is_of_latest = matches!(wish.begin, Begin::Newest | Begin::SinceOrNewest(_));
                wish.begin = Begin::of(*position, is_of_latest);
            }
        }
        (wishes, positions.is_some())
    }

    /// Tells an event stream of several channels where it stands in each, if it has been sent something since it was told last. False: nothing is to be said.
    pub(super) fn append_positions(&mut self, key: usize) -> bool {
        let conn = &self.conns[key];
        if !matches!(conn.peer, Peer::EventStream { is_of_one: false }) || !conn.is_open() || conn.outbox_unsent() > 0 {
            return false;
        }
        let Some(stream) = self.streams.0.get_mut(&(key as u32)).filter(|stream| stream.is_due) else { return false };
        // A channel that is counted anew is told first.
        if conn.subscriptions.iter().any(|subscription| subscription.is_untold()) {
            return false;
        }
        stream.is_due = false;
        let mut out = std::mem::take(self.conns[key].outbox());
        let topics = self.streams.0[&(key as u32)].topics.iter();
        event_stream::write_positions(&mut out, (0..).zip(topics).map(|(at, topic)| self.stands_at(key, at, (*topic)?)));
        *self.conns[key].outbox() = out;
        true
    }

    /// Where a client stands in a channel; `guess`: as a rule its subscriptions are in the order in which it asked.
    fn stands_at(&self, key: usize, guess: usize, topic: u32) -> Option<Position> {
        let subscriptions = &self.conns[key].subscriptions;
        let is_it =
            |at: &usize| subscriptions.get(*at).is_some_and(|subscription| subscription.topic == topic && !subscription.is_leaving());
        let at = Some(guess).filter(is_it).or_else(|| (0..subscriptions.len()).find(is_it))?;
        let subscription = &subscriptions[at];
        if subscription.is_untold() {
            // It is counted anew: where its client stands in that it has still to be told.
            return None;
        }
        if let Some(waiter) = subscription.waiter() {
            // Whoever comes back before it is confirmed has still to be sent what came after that.
            return self.waiters.begin(waiter).position();
        }
        let topic = &self.topics[topic];
        let channel = topic.channel()?;
        let mut cursor = subscription.cursor();
        if cursor.is_mid_frame() {
            // What is told comes behind that frame.
            cursor = topic.log()?.boundary_after(cursor);
        }
        Some(Position { epoch: channel.epoch, seq: cursor.seq - 1 })
    }

    /// Answers a poll that waits, if it is time. False: it waits on, and nothing is to be sent.
    pub(super) fn answer_poll(&mut self, key: usize) -> bool {
        let conn = &mut self.conns[key];
        let Some(poll) = conn.peer.waiting_poll() else { return true };
        let (is_overdue, has_news) = (poll.is_overdue, poll.has_news || poll.is_late);
        let is_confirmed = conn.subscriptions.iter().all(|subscription| subscription.waiter().is_none());
        let has_something = has_news || conn.has_behind() || conn.subscriptions.is_empty();
        if !(is_overdue || is_confirmed && has_something) {
            return false;
        }
        let before = conn.outbox_unsent();
        if !self.copy_due(key) {
            return true;
        }
        let conn = &self.conns[key];
        if !(is_overdue || has_news || conn.subscriptions.is_empty() || conn.outbox_unsent() > before) {
            // What it is behind in is still being read.
            return false;
        }
        self.append_standings(key);
        for at in (0..self.conns[key].subscriptions.len()).rev() {
            self.leave(key, at);
        }
        self.wrap_poll(key);
        if self.conns[key].is_open() {
            self.start_heartbeat(key);
        }
        true
    }

    /// Copies what is due from the logs behind what has come together. False: the connection is closing now.
    fn copy_due(&mut self, key: usize) -> bool {
        while self.conns[key].outbox_unsent() < limits::POLL_ANSWER_BYTES {
            let Some(picked) = self.pick(key) else { return false };
            let mut out = std::mem::take(self.conns[key].outbox());
            let conn = &self.conns[key];
            let (encoding, bytes_max) = (conn.encoding(), limits::POLL_ANSWER_BYTES.saturating_sub(out.len()).max(1));
            let due =
                Due { outbox: &[], subscriptions: &conn.subscriptions, picked: &picked, mid_frame: None, encoding, encoding_ends: false };
            let (mut slices, mut plan) = (Slices::new(), Plan::new());
            let total = due.gather(&self.topics, &self.replays, bytes_max, &mut slices, &mut plan);
            slices.iter().for_each(|slice| out.extend_from_slice(slice));
            drop(slices);
            *self.conns[key].outbox() = out;
            if plan.is_empty() {
                break;
            }
            self.take_off(key, &plan, total);
        }
        true
    }

    fn append_standings(&mut self, key: usize) {
        let subscriptions = &self.conns[key].subscriptions;
        let stands: Vec<_> = (0..subscriptions.len())
            .filter_map(|at| {
                let topic = subscriptions[at].topic;
                Some((self.topics[topic].name().clone(), self.stands_at(key, at, topic)?))
            })
            .collect();
        let standings: Vec<Standing<'_>> = stands.iter().map(|(channel, position)| Standing { channel, position: *position }).collect();
        self.append(key, &Event::Position { channels: &standings });
    }

    /// Makes the answer of what has come together for a poll that waits.
    fn wrap_poll(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        let Some(poll) = conn.peer.waiting_poll() else { return };
        let mut bytes = conn.outbox.take().map_or_else(Vec::new, |outbox| outbox.bytes);
        poll.wrap(&mut bytes);
        conn.outbox = Some(Box::new(Outbox { bytes, sent: 0 }));
        self.account_buffers(key);
    }

    /// The same for one that ends: what it was told last is in the answer.
    pub(super) fn wrap_last(&mut self, key: usize) {
        if let Some(poll) = self.conns[key].peer.waiting_poll() {
            poll.keeps_alive = false;
            self.wrap_poll(key);
        }
    }

    /// A poll has waited as long as it wants to. Whoever does not want to wait wants to be told where it stands all the same.
    pub(super) fn on_poll_late(&mut self, key: usize) {
        let Some(poll) = self.conns[key].peer.waiting_poll() else { return };
        if std::mem::replace(&mut poll.is_late, true) {
            return self.end_wait(key, true);
        }
        self.set_timer(key, Timer::Poll, limits::POLL_CONFIRM_WAIT);
        self.mark_ready(key);
    }

    /// The client of a poll that waits has said that it will say no more: it is told what there is, as if it did not want to wait. False: it is no such poll.
    pub(super) fn hurry_poll(&mut self, key: usize) -> bool {
        let Some(poll) = self.conns[key].peer.waiting_poll() else { return false };
        poll.keeps_alive = false;
        if !poll.is_late {
            self.on_poll_late(key);
        }
        true
    }

    /// It is answered with what is there: it has waited as long as it may, or its client is gone.
    pub(super) fn end_wait(&mut self, key: usize, may_ask_again: bool) {
        if let Some(poll) = self.conns[key].peer.waiting_poll() {
            poll.is_overdue = true;
            poll.keeps_alive &= may_ask_again;
            self.answer_poll(key);
            self.mark_ready(key);
        }
    }

    /// The answer to a poll is with the kernel: the connection is a stranger's again, or ends.
    pub(super) fn after_answer(&mut self, key: usize) {
        let is_serving = self.is_serving();
        let conn = &mut self.conns[key];
        let Peer::Poll(poll) = &mut conn.peer else { return };
        if poll.is_waiting() || conn.outbox.as_ref().is_some_and(|outbox| !outbox.unsent().is_empty()) {
            return;
        }
        conn.outbox = None;
        conn.reason = CloseReason::Answered;
        if !poll.keeps_alive || conn.flags.has(Flags::ENDED) || !is_serving {
            let conn = &mut self.conns[key];
            conn.enter(Phase::Ending);
            self.set_timer(key, Timer::Close, self.settings.clients.close_timeout);
            return self.shut(key);
        }
        let next = std::mem::take(&mut poll.next);
        self.count_user(key, -1);
        self.metrics.connections.dec();
        self.connections.fetch_sub(1, Relaxed);
        let format = self.settings.clients.format;
        let conn = &mut self.conns[key];
        for flag in [Flags::COUNTED, Flags::PINGED, Flags::BEATS, Flags::SENT, Flags::WARNED] {
            conn.flags.clear(flag);
        }
        conn.identity = None;
        conn.formats = Formats::open(format);
        conn.enter(Phase::Handshake);
        conn.peer = Peer::Unknown(None);
        let token = self.token(key);
        self.note_stranger(token);
        self.await_request(key, &next);
        self.resume_reading(key);
    }

    /// A request was answered at once and another one may follow: what has come of it waits until the answer is sent.
    pub(super) fn await_request(&mut self, key: usize, next: &[u8]) {
        self.set_timer(key, Timer::Handshake, self.settings.clients.handshake_timeout);
        if !next.is_empty() {
            self.conns[key].peer = Peer::Unknown(Some(Box::new(next.to_vec())));
            self.mark_ready(key);
        }
        self.account_buffers(key);
    }

    /// Everything due is sent to a connection whose next request is awaited: has it come already?
    pub(super) fn read_next_request(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if conn.flags.has(Flags::VERIFYING) || conn.outbox_unsent() > 0 {
            return;
        }
        let has_ended = conn.flags.has(Flags::ENDED);
        if let Peer::Unknown(head) = &mut conn.peer
            && let Some(mut whole) = head.take()
        {
            self.read_head(key, &mut whole);
            self.account_buffers(key);
            let conn = &self.conns[key];
            if !has_ended || conn.phase != Phase::Handshake || conn.outbox_unsent() > 0 || conn.flags.has(Flags::VERIFYING) {
                return;
            }
        }
        if has_ended {
            self.conns[key].enter(Phase::Ending);
            self.set_timer(key, Timer::Close, self.settings.clients.close_timeout);
            self.shut(key);
        }
    }

    /// Whoever polls asks as often as others may send commands. False: it has been refused.
    pub(super) fn may_poll(&mut self, key: usize, head: &Head<'_>) -> bool {
        let may = self.sources.may_command(key, moment(self.now_ns));
        if !may {
            self.metrics.commands_limited.inc();
            self.refuse_request(key, RefusalReason::Polls.into(), head);
        }
        may
    }
}
