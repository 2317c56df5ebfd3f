//! Whether messages really come through: every few seconds one is published to a channel of this node's own, and must come back to the subscribed connection. Where there
//! may be durable channels it is published by their function; elsewhere by PUBLISH, and the server must be a master (ROLE). So a replica, a server that is loading or out of memory, one whose functions are gone, and a
//! subscription that died without a word do not pass for a Redis that works, whatever answers PING. In a Cluster each master has one, on a channel that lies in a
//! slot of its own. Sans-IO but for the command it writes; owned by [`super::feed::Feed`].

use std::sync::Arc;

use redis::{ServerError, Value};

use super::awaiting::Asked;
use super::call_error::CallError;
use super::durable::envelope::Envelope;
use super::fault::text_of;
use super::link::Link;
use super::names::Names;
use super::placement::Part;
use super::role;
use super::timing::Timing;
use super::{keys, library};
use crate::clock::{MonotonicNs, nanos};
use crate::config::Settings;
use crate::metrics::{BusMetrics, Counter};

/// How long its stream is kept when no node probes any more; the function takes no shorter time for it than a minute.
const KEPT_MS: &[u8] = b"60000";

/// Names tried until one lies in a slot of this master: enough for one that has a single slot of all.
const NAMES_MAX: usize = 16 * keys::SLOTS as usize;

/// How soon it is tried again when the functions are not there.
const RETRY_NS: u64 = 200_000_000;

#[derive(Debug)]
pub struct Probe {
    /// As a client would name it, and could not: it is reserved.
    channel: Box<str>,
    redis_channel: Box<str>,
    /// PUBLISH, or its like.
    command: &'static [u8],
    /// Not by the function.
    is_plain: bool,
    prefix: Box<str>,
    timing: Timing,
    /// Of the last one that was sent.
    number: u64,
    sent: Option<Sent>,
    next_at: MonotonicNs,
    verdict: Verdict,
    /// When the last one came back, for whoever watches; 0: none has, or we may not try.
    well_at: Arc<Counter>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: MonotonicNs,
    is_answered: bool,
    has_come: bool,
    /// The PING on the subscribed connection behind which it cannot come any more.
    fence: Option<u64>,
}

impl Sent {
    fn is_overdue(&self, now: MonotonicNs, timing: &Timing) -> bool {
        self.is_answered && !self.has_come && now >= self.at + nanos(timing.probe_patience)
    }
}

/// What the last one told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There was none on this connection.
    Unknown,
    Well,
    /// Redis does not take it, and why: durable messages would fare the same.
    Refused(String),
    /// We may not; then it is not known, and the connection counts as it is.
    NotAllowed,
}

impl Probe {
    pub fn new(settings: &Settings, names: &Names, part: &Part, timing: Timing) -> Probe {
        let (prefix, command) = (settings.redis.prefix.as_str().into(), names.publish_command());
        let mut probe = Probe {
            channel: Box::default(),
            redis_channel: Box::default(),
            command,
            is_plain: !settings.channels.has_durable(),
            prefix,
            timing,
            number: 0,
            sent: None,
            next_at: 0,
            verdict: Verdict::Unknown,
            well_at: Arc::default(),
        };
        probe.move_to(names, part);
        probe
    }

    /// Whether its channel lies where the server's channels do. If not, [`Probe::move_to`].
    pub fn is_in(&self, part: &Part) -> bool {
        part.has(&self.channel)
    }

    /// A channel that does. What was known was of another.
    pub fn move_to(&mut self, names: &Names, part: &Part) {
        let mut name = || format!("__campanile__:probe:{:016x}", fastrand::u64(..));
        // On independent servers what is no client's channel may lie anywhere. A master without slots has no place for one.
        let tries = if part.is_of_cluster() && !part.is_empty() { NAMES_MAX } else { 0 };
        let channel = (0..tries).map(|_| name()).find(|channel| part.has(channel)).unwrap_or_else(&mut name);
        (self.redis_channel, self.channel) = (names.to_redis(&channel).into(), channel.into());
        self.restart();
    }

    pub fn redis_channel(&self) -> &str {
        &self.redis_channel
    }

    /// What was known was of another connection.
    pub fn restart(&mut self) {
        (self.sent, self.next_at, self.verdict) = (None, 0, Verdict::Unknown);
    }

    /// The connection on which it was sent is lost: it is sent again.
    pub fn connection_lost(&mut self) {
        (self.sent, self.next_at) = (None, 0);
    }

    /// What holds now: that all was well does not hold for long.
    pub fn verdict(&mut self, now: MonotonicNs) -> &Verdict {
        if self.verdict == Verdict::Well && now >= self.stale_at() {
            self.verdict = Verdict::Unknown;
        }
        &self.verdict
    }

    /// By then another one has come back, or something is wrong.
    fn stale_at(&self) -> MonotonicNs {
        self.well_at.get() + nanos(self.timing.probe_every) + 2 * nanos(self.timing.probe_patience)
    }

    /// Sends the next one when it is time. The connection is ready, and messages of the channel come.
    pub fn write(&mut self, link: &mut Link, now: MonotonicNs) {
        if self.sent.is_some() || now < self.next_at {
            return;
        }
        self.number += 1;
        if self.is_plain {
            let payload = self.number.to_string();
            link.ask(Asked::Probe, &[self.command, self.redis_channel.as_bytes(), payload.as_bytes()], now);
            link.ask(Asked::Role, &[b"ROLE"], now);
            return self.sent(now);
        }
        let (stream, meta) = (keys::stream(&self.prefix, &self.channel), keys::meta(&self.prefix, &self.channel));
        let payload = self.number.to_string();
        let keys: [&[u8]; 5] = [b"FCALL", library::PUBLISH.as_bytes(), b"2", stream.as_bytes(), meta.as_bytes()];
        let arguments: [&[u8]; 6] = [self.command, self.redis_channel.as_bytes(), b"1", KEPT_MS, b"0", payload.as_bytes()];
        link.ask(Asked::Probe, &[&keys[..], &arguments].concat(), now);
        self.sent(now);
    }

    fn sent(&mut self, now: MonotonicNs) {
        self.sent = Some(Sent { at: now, is_answered: false, has_come: false, fence: None });
        self.next_at = now + nanos(self.timing.probe_every);
    }

    /// When the last one came back.
    pub fn well_at(&self) -> &Arc<Counter> {
        &self.well_at
    }

    /// On which connection it is sent: that of publishes, or that of streams.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// A message came on the channel.
    pub fn came(&mut self, message: &[u8], metrics: &BusMetrics, now: MonotonicNs) {
        let is_it = |payload: &[u8]| payload == self.number.to_string().as_bytes();
        let has_it = match Envelope::read(message) {
            Some(Ok(envelope)) => envelope.payloads().any(is_it),
            None => self.is_plain && is_it(message),
            Some(Err(_)) => false,
        };
        if has_it && let Some(sent) = &mut self.sent {
            sent.has_come = true;
            self.conclude(metrics, now);
        }
    }

    /// Redis has taken it, or not.
    pub fn answered(&mut self, answer: Result<(), &ServerError>, metrics: &BusMetrics, now: MonotonicNs) {
        let Some(sent) = &mut self.sent else { return };
        let error = match answer {
            // ROLE is still to be answered.
            Ok(()) if self.is_plain => return,
            Ok(()) => {
                sent.is_answered = true;
                return self.conclude(metrics, now);
            }
            Err(error) => error,
        };
        self.sent = None;
        metrics.probes_refused.inc();
        let text = text_of(error);
        let verdict = match CallError::of(&text) {
            CallError::Forbidden => Verdict::NotAllowed,
            // They are loaded anew, if they can be.
            CallError::NoFunction => {
                self.next_at = self.next_at.min(now + RETRY_NS);
                Verdict::Refused(text)
            }
            _ => Verdict::Refused(text),
        };
        if verdict == Verdict::NotAllowed && self.verdict != verdict {
            let (what, rights) = match self.is_plain {
                true => ("messages", "+publish and &PREFIX*"),
                false => ("durable messages", "the rights of docs/durable.md, with ~PREFIX* and &PREFIX*"),
            };
            tracing::warn!(
                "whether {what} come through Redis cannot be tried, so /readyz says only that we are connected: {}. Give the user {rights}",
                text_of(error)
            );
        }
        if verdict == Verdict::NotAllowed {
            self.well_at.set(0);
        }
        self.verdict = verdict;
    }

    /// What the server says that it is.
    pub fn role_told(&mut self, value: &Value, metrics: &BusMetrics, now: MonotonicNs) {
        let Some(sent) = &mut self.sent else { return };
        sent.is_answered = true;
        match role::no_master(value) {
            Some(why) => {
                self.sent = None;
                metrics.probes_refused.inc();
                self.verdict = Verdict::Refused(why);
            }
            None => self.conclude(metrics, now),
        }
    }

    fn conclude(&mut self, metrics: &BusMetrics, now: MonotonicNs) {
        if self.sent.is_some_and(|sent| sent.is_answered && sent.has_come) {
            (self.sent, self.verdict) = (None, Verdict::Well);
            self.well_at.set(now);
            metrics.probes_good.inc();
        }
    }

    /// Redis has taken one long ago, and it has not come: a PING on the subscribed connection is to tell whether it will.
    pub fn needs_fence(&self, now: MonotonicNs) -> bool {
        self.sent.is_some_and(|sent| sent.is_overdue(now, &self.timing) && sent.fence.is_none())
    }

    pub fn fence(&mut self, ping: u64) {
        self.sent.iter_mut().for_each(|sent| sent.fence = Some(ping));
    }

    /// The pong of this number came, and what was taken before it has not: what we have subscribed to does not come.
    pub fn is_lost(&self, pong: u64) -> bool {
        self.sent.is_some_and(|sent| !sent.has_come && sent.fence.is_some_and(|fence| pong >= fence))
    }

    /// When something is to be looked at. `is_sendable`: [`Probe::write`] would be called.
    pub fn deadline(&self, is_sendable: bool) -> Option<MonotonicNs> {
        let next = match self.sent {
            None => is_sendable.then_some(self.next_at),
            Some(sent) => {
                (sent.is_answered && !sent.has_come && sent.fence.is_none()).then_some(sent.at + nanos(self.timing.probe_patience))
            }
        };
        let stale = (self.verdict == Verdict::Well).then_some(self.stale_at());
        next.into_iter().chain(stale).min()
    }
}
