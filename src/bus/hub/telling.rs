//! Marks that were set, on this node or another, and whose users' other connections are to be told. Shards know who that is; here the marks of a tenth of a
//! second go to them together, the last one of each user and channel.
//!
//! Invariant: what waits is bounded; what does not fit is counted, and is found by whoever asks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{Hub, RETRY_NS};
use crate::bus::ShardMessage;
use crate::bus::marks::{MarkNews, MarksAnswer, MarksQuestion, MarksResult, MarksWanted};
use crate::bus::question::{Answer, Asker};
use crate::clock::{MonotonicNs, nanos};
use crate::limits::bus::{MARK_NEWS_EVERY, MARK_NEWS_MAX};

#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Those with a connection that has asked about marks, ever.
    shards: Vec<u16>,
    waiting: HashMap<(Box<str>, Box<str>), MarkNews>,
    /// Not before.
    next_at: MonotonicNs,
}

impl Telling {
    pub(super) fn deadline(&self) -> Option<MonotonicNs> {
        (!self.waiting.is_empty()).then_some(self.next_at)
    }
}

impl Hub {
    /// A question about marks has come: connections that ask are told of others' marks.
    pub fn note_marks_asked(&mut self, question: &MarksQuestion) {
        if let Asker::Client(reply_to) = &question.asker
            && !self.telling.shards.contains(&reply_to.shard)
        {
            self.telling.shards.push(reply_to.shard);
        }
    }

    /// The first of its channels that is not durable.
    pub fn not_durable<'q>(&self, wanted: &'q MarksWanted) -> Option<&'q str> {
        wanted.channels().find(|channel| !self.rule_of(channel).durable)
    }

    pub fn answer_marks(&mut self, question: MarksQuestion, result: MarksResult) {
        let metrics = &self.metrics;
        match (&result, &question.wanted) {
            (Err(_), _) => metrics.marks_failed.inc(),
            (Ok(_), MarksWanted::Read { .. }) => metrics.marks_set.inc(),
            (Ok(_), MarksWanted::Unread { .. } | MarksWanted::Begin { .. }) => metrics.marks_counted.inc(),
        }
        let MarksQuestion { asker, wanted, ticket, .. } = question;
        self.answer(asker, Answer::Marks(Box::new(MarksAnswer { wanted, result, ticket })));
    }

    /// A mark was set somewhere.
    pub fn mark_told(&mut self, news: MarkNews) {
        let telling = &mut self.telling;
        if telling.shards.is_empty() {
            return;
        }
        let is_full = telling.waiting.len() >= MARK_NEWS_MAX;
        match telling.waiting.entry((news.user.clone(), news.channel.clone())) {
            Entry::Occupied(mut before) => {
                if (before.get().epoch, before.get().seq) <= (news.epoch, news.seq) {
                    before.insert(news);
                }
            }
            Entry::Vacant(_) if is_full => self.metrics.mark_news_dropped.inc(),
            Entry::Vacant(place) => drop(place.insert(news)),
        }
    }

    /// Hands them to the shards, when it is time and these have room.
    pub(super) fn tell_marks(&mut self, now: MonotonicNs) {
        let telling = &mut self.telling;
        if telling.waiting.is_empty() || now < telling.next_at {
            return;
        }
        if self.delivery.has_backlog() {
            telling.next_at = now + RETRY_NS;
            return;
        }
        telling.next_at = now + nanos(MARK_NEWS_EVERY);
        let news: Arc<[MarkNews]> = std::mem::take(&mut telling.waiting).into_values().collect();
        for &shard in &telling.shards {
            self.delivery.reply(shard, ShardMessage::Marks(news.clone()));
        }
    }
}
