//! What is asked of Redis about durable channels, and what its answers mean: where a stream stands, what of it is missing here, and pages of it.

use std::sync::Arc;

use redis::{ServerError, Value};

use super::envelope::Envelope;
use super::newest::Newest;
use super::reading::{self, Entry, Standing};
use super::{About, Durables, REFUSED_NS, RETRY_NS, State};
use crate::bus::flow::{Count, Counter, Start};
use crate::bus::hub::Hub;
use crate::bus::question::PageWanted;
use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::fault::with_advice;
use crate::bus::redis::link::Link;
use crate::bus::redis::{keys, library};
use crate::clock::MonotonicNs;
use crate::fanout::batch::Channel;
use crate::limits::bus::PAGE_NUMBERS;
use crate::limits::redis::durable::QUESTIONS_MAX;
use crate::sys::monotonic_ns;
use crate::wire::event::GapReason;

/// Asks where a stream stands; one that is new, and has no epoch, gets one.
fn ask_standing(link: &mut Link, asked: Asked, (stream, meta): (&[u8], &[u8]), is_new: bool, now: MonotonicNs) {
    match is_new {
        false => link.ask(asked, &[b"HMGET", meta, b"e", b"n", b"t"], now),
        true => link.ask(asked, &[b"FCALL", library::OPEN.as_bytes(), b"2", stream, meta], now),
    }
}

impl Durables {
    /// Whether answers may be taken in.
    pub fn has_room(&self) -> bool {
        self.read_bytes < self.read_bytes_max
    }

    /// Asks what is due, as far as there is room. The connection is ready.
    pub fn write(&mut self, link: &mut Link, hub: &mut Hub, now: MonotonicNs) {
        self.ask_refused(link, now);
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        self.retry_at = None;
        self.ask_recalls(link, hub, now);
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
                State::Asking { is_new } => ask_standing(link, asked, (stream, meta), is_new, now),
                State::Renewing { epoch } => {
                    link.ask(asked, &[b"FCALL", library::RENEW.as_bytes(), b"2", stream, meta, epoch.to_string().as_bytes()], now);
                }
                State::Repairing { to } => {
                    let Some(Count { epoch, seq, .. }) = hub.count_of(&channel) else { continue };
                    // With the one before, which must be what was handed out.
                    let first = if tracked.compares_with(epoch, seq).is_some() { seq } else { seq + 1 };
                    let (from, to) = (format!("{epoch}-{first}"), format!("{epoch}-{}", reading::id_max(to)));
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

    pub(super) fn take_ticket(&mut self) -> u32 {
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
                // The first entry may begin before the page.
                let entries = reading::entries(value).into_iter().filter(|entry| entry.seq >= from).filter_map(Entry::kept).collect();
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
            Some(About::Recall(recall, newest)) => return self.recalled(hub, recall, newest, answer),
            Some(About::Refused(channel, is_new)) => return self.answered_after_all(hub, channel, is_new, answer),
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
    fn stands(&mut self, hub: &mut Hub, channel: &str, standing: Standing) {
        let Standing { epoch, last, timestamp_ms } = standing;
        self.drop_forged(hub, channel, standing);
        let count = hub.count_of(channel);
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        match count {
            Some(Count { epoch: before, seq, by: Counter::Source }) if epoch < before || (epoch == before && last < seq) => {
                // It has taken back what it had given: those numbers must not come again for others.
                return self.renew(channel, epoch);
            }
            Some(Count { epoch: before, seq, by: Counter::Source }) if epoch == before && last == seq => {
                let newest = tracked.compares_with(epoch, seq);
                if newest.is_some_and(|newest| timestamp_ms.is_some_and(|timestamp_ms| !newest.is_of_time(timestamp_ms))) {
                    // It has taken it back, and given its number again.
                    return self.renew(channel, epoch);
                }
                if newest.is_some() && tracked.is_doubtful {
                    // Two messages may have one millisecond: what stands there is read.
                    hub.repairing(channel);
                    self.set_state(channel, State::Repairing { to: last });
                    return self.ask(channel);
                }
                (tracked.is_to_be_compared, tracked.is_doubtful) = (false, false);
            }
            Some(Count { epoch: before, by: Counter::Source, .. }) if epoch > before => {
                // From its beginning, so that whoever is subscribed gets all of it.
                hub.flowing(channel, Start::At { epoch, seq: 0 });
                (tracked.newest, tracked.is_to_be_compared, tracked.is_doubtful) = (None, false, false);
            }
            Some(Count { by: Counter::Source, .. }) => {}
            Some(Count { by: Counter::Hub, .. }) | None => {
                // What came while the stream could not be asked was handed on as it came, and what has come since is held.
                let held =
                    tracked.held.iter().find_map(|held| Envelope::read(&held.message)?.ok().filter(|envelope| envelope.epoch == epoch));
                let seq = held.filter(|_| count.is_some()).map_or(last, |held| last.min(held.first - 1));
                hub.flowing(channel, Start::At { epoch, seq });
                tracked.newest = timestamp_ms.filter(|_| seq == last).map(|timestamp_ms| Newest::of_standing(epoch, last, timestamp_ms));
            }
        }
        let seq = hub.count_of(channel).map_or(last, |count| count.seq);
        if seq < last {
            return self.repair(hub, channel, last);
        }
        hub.flowing(channel, Start::At { epoch, seq });
        self.set_state(channel, State::Live);
        self.advance(hub, channel);
    }

    fn renew(&mut self, channel: &str, epoch: u64) {
        self.set_state(channel, State::Renewing { epoch });
        self.ask(channel);
    }

    /// What came before it was asked is in the stream, or is none of its messages.
    fn drop_forged(&mut self, hub: &Hub, channel: &str, standing: Standing) {
        let Some(tracked) = self.channels.get_mut(channel) else { return };
        let count = std::mem::take(&mut tracked.held_when_asked).min(tracked.held.len());
        let later = tracked.held.split_off(count);
        let before = std::mem::replace(&mut tracked.held, later);
        for held in before.into_iter().rev() {
            let is_given = held.is_plain
                || Envelope::read(&held.message).and_then(Result::ok).is_some_and(|envelope| {
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
        let count = hub.count_of(channel);
        let compared = count.and_then(|Count { epoch, seq, .. }| tracked.compares_with(epoch, seq));
        // An entry may hold more than was asked for.
        let first = count.map_or(0, |count| if compared.is_some() { count.seq } else { count.seq + 1 });
        entries.retain(|entry| (first..=to).contains(&entry.seq));
        if let (Some(Count { epoch, seq, .. }), Some(newest)) = (count, compared) {
            let is_other = match entries.first() {
                Some(first) if first.seq == seq => !newest.is(first),
                // It is not there any more, so nobody knows whether it was what was handed out; where it was the last one, its time was.
                _ => tracked.is_doubtful && to > seq,
            };
            if is_other {
                return self.renew(channel, epoch);
            }
            (tracked.is_to_be_compared, tracked.is_doubtful) = (false, false);
        }
        hub.metrics().protocol_errors.add(entries.iter().filter(|entry| entry.payload.is_err()).count() as u64);
        if reading::count(value) < self.page_entries && entries.last().is_none_or(|entry| entry.seq < to) {
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
        self.refused.insert(channel.into());
        self.refused_until.get_or_insert(monotonic_ns() + REFUSED_NS);
        self.advance(hub, channel);
    }

    /// A key may have been deleted meanwhile, and a right be given: asks again of those that were refused, as they are live and their clients need not know.
    fn ask_refused(&mut self, link: &mut Link, now: MonotonicNs) {
        if self.refused_until.is_some_and(|until| until <= now) {
            self.refused_until = None;
            self.refused.retain(|channel| self.channels.contains_key(channel));
            self.to_be_asked.extend(self.refused.iter().map(|channel| (channel.clone(), false)));
        }
        while self.asked.len() < QUESTIONS_MAX
            && let Some((channel, is_new)) = self.to_be_asked.pop_front()
        {
            let ticket = self.take_ticket();
            let (stream, meta) = (keys::stream(&self.prefix, &channel), keys::meta(&self.prefix, &channel));
            ask_standing(link, Asked::Durable(ticket), (stream.as_bytes(), meta.as_bytes()), is_new, now);
            self.asked.insert(ticket, About::Refused(channel, is_new));
        }
    }

    fn answered_after_all(&mut self, hub: &mut Hub, channel: Box<str>, is_new: bool, answer: Result<&Value, &ServerError>) {
        match answer {
            Ok(value) if Standing::read(value).is_some() => {
                if self.refused.remove(&channel) && self.channels.contains_key(&channel) {
                    tracing::info!(
                        "where the durable channel `{channel}` stands can be asked again: its messages have the stream's numbers from now on"
                    );
                    self.ask_anew(hub, &channel);
                }
            }
            Ok(_) if !is_new => self.to_be_asked.push_back((channel, true)),
            Ok(_) | Err(_) => {}
        }
        if !self.refused.is_empty() {
            self.refused_until.get_or_insert(monotonic_ns() + REFUSED_NS);
        }
    }
}
