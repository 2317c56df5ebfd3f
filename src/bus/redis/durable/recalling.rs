//! What somebody wants of the past of a durable channel, read from its stream: where it stands, unless that is known, then the messages.

use redis::{ServerError, Value};

use super::reading::{self, Entry, Standing};
use super::{About, Durables};
use crate::bus::flow::{Count, Counter};
use crate::bus::hub::{Hub, PageEntry};
use crate::bus::question::HistoryAsked;
use crate::bus::recall::{HistoryError, HistoryPage, Numbers, Recall};
use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::fault::{Refusal, with_advice};
use crate::bus::redis::keys;
use crate::bus::redis::link::Link;
use crate::clock::MonotonicNs;
use crate::limits::redis::durable::QUESTIONS_MAX;
use crate::wire::command::Position;

impl Durables {
    pub fn recall(&mut self, hub: &mut Hub, asked: HistoryAsked) {
        self.recalls.want(hub, asked);
    }

    pub(super) fn ask_recalls(&mut self, link: &mut Link, hub: &mut Hub, now: MonotonicNs) {
        while self.asked.len() < QUESTIONS_MAX
            && let Some((recall, newest)) = self.recalls.take_due()
        {
            let count = hub.count_of(&recall.channel).filter(|count| count.by == Counter::Source);
            let newest = newest.or(count.map(|Count { epoch, seq, .. }| Position { epoch, seq }));
            let Some(position) = newest else {
                let ticket = self.take_ticket();
                link.ask(Asked::Durable(ticket), &[b"HMGET", keys::meta(&self.prefix, &recall.channel).as_bytes(), b"e", b"n"], now);
                self.asked.insert(ticket, About::Recall(recall, None));
                continue;
            };
            let Some(Numbers { from, to }) = recall.numbers(position) else {
                self.recalls.done(hub, &recall, Ok(recall.page(position, Vec::new())));
                continue;
            };
            let stream = keys::stream(&self.prefix, &recall.channel);
            let (first, last) = (format!("{}-{from}", position.epoch), format!("{}-{}", position.epoch, reading::id_max(to)));
            // From the first that is wanted on, so many entries hold all of them: each has one message at least.
            let (count, ticket) = (recall.limit.to_string(), self.take_ticket());
            let command = [b"XRANGE", stream.as_bytes(), first.as_bytes(), last.as_bytes(), b"COUNT", count.as_bytes()];
            link.ask(Asked::Durable(ticket), &command, now);
            self.asked.insert(ticket, About::Recall(recall, newest));
        }
    }

    pub(super) fn recalled(&mut self, hub: &mut Hub, recall: Recall, newest: Option<Position>, answer: Result<&Value, &ServerError>) {
        let result = match (answer, newest) {
            (Ok(value), None) => match Standing::read(value) {
                Some(Standing { epoch, last, .. }) => return self.recalls.put_back(recall, Some(Position { epoch, seq: last })),
                None => Ok(HistoryPage::default()),
            },
            (Ok(value), Some(newest)) => {
                let found: Vec<PageEntry> = reading::entries(value).into_iter().filter_map(Entry::kept).collect();
                Ok(recall.page(newest, found))
            }
            (Err(error), _) if Refusal::of(error) == Refusal::ForNow => Err(HistoryError::Unavailable),
            (Err(error), _) => Err(HistoryError::Refused(with_advice(error))),
        };
        self.recalls.done(hub, &recall, result);
    }
}
