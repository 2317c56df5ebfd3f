//! What connections ask of the bus, and how they are told its answers. [`crate::bus::question`] lists both.

use super::Shard;
use super::net::Network;
use crate::bus::hub::PageEntry;
use crate::bus::question::{Answer, Asker, HistoryAsked, IdempotencyKey, Publish, PublishError, Published, Question, ReplyTo};
use crate::bus::recall::{HistoryError, HistoryPage, Recall};
use crate::bus::{BusCommand, ConnToken};
use crate::journal::AppendError;
use crate::wire::command::{self, Asked, ErrorCode, Id};
use crate::wire::event::Event;
use crate::wire::history::{HistoryRange, Message};
use crate::wire::payload::Looked;

impl<N: Network> Shard<N> {
    pub(super) fn publish(&mut self, key: usize, channel: &str, payload: Vec<u8>, idempotency_key: Option<&str>, id: Option<Id>) {
        if !self.may_publish(key, channel, id.as_ref()) {
            return;
        }
        let reply_to = self.reply_to(key, id);
        let client = self.conns[key].identity.clone();
        let mut publish = Publish::new(channel, payload, Asker::Client(reply_to.clone())).by(client);
        publish.idempotency_key = idempotency_key.map(IdempotencyKey::boxed);
        if self.bus.publish_from(reply_to.conn, &mut self.publishers, publish).is_err() {
            let asked = Asked::of(command::PUBLISH, channel, reply_to.id.as_ref());
            return self.reply_error(key, asked, ErrorCode::Busy, "too many publishes are under way; try again");
        }
        self.bus.wake();
    }

    /// Whoever may subscribe may ask for what is kept.
    pub(super) fn recall(&mut self, key: usize, channel: &str, range: HistoryRange, limit: usize, id: Option<Id>) {
        if !self.may_recall(key, channel, id.as_ref()) {
            return;
        }
        let reply_to = self.reply_to(key, id);
        let id = reply_to.id.clone();
        let asked = HistoryAsked { recall: Recall { channel: channel.into(), range, limit }, asker: Asker::Client(reply_to) };
        if self.bus.push(BusCommand::Ask(Question::History(asked))).is_err() {
            let asked = Asked::of(command::HISTORY, channel, id.as_ref());
            return self.reply_error(key, asked, ErrorCode::Busy, "the bus has too much to do; try again");
        }
        self.bus.wake();
    }

    fn on_history(&mut self, key: usize, id: Option<&Id>, channel: &str, result: Result<HistoryPage, HistoryError>) {
        match result {
            Ok(HistoryPage { epoch, messages, has_more, is_recovered: recovered }) => {
                let expect = self.rules.of(channel).payload;
                let told = |entry: &PageEntry| (entry.seq, entry.timestamp_ms, Looked::default().at(&entry.payload, expect).0);
                let messages: Vec<Message<'_>> = messages
                    .iter()
                    .map(|entry| {
                        let (seq, timestamp_ms, kind) = told(entry);
                        Message { seq, timestamp_ms, kind, payload: &entry.payload }
                    })
                    .collect();
                self.metrics.messages_recalled.add(messages.len() as u64);
                self.reply(key, &Event::History { id, channel, epoch, recovered, messages: &messages, has_more });
                self.after_reply(key);
            }
            Err(error) => {
                let code = match error {
                    HistoryError::Busy => ErrorCode::Busy,
                    HistoryError::Unavailable | HistoryError::Refused(_) => ErrorCode::BusUnavailable,
                };
                self.reply_error(key, Asked::of(command::HISTORY, channel, id), code, &error.to_string());
            }
        }
    }

    /// How the answer to a question finds this connection.
    pub(super) fn reply_to(&self, key: usize, id: Option<Id>) -> ReplyTo {
        ReplyTo { shard: self.index, conn: self.token(key), id }
    }

    /// The bus has answered what a connection asked. If it is gone, or no events are sent to it any more, nobody wants to know.
    pub(super) fn on_answer(&mut self, conn: ConnToken, id: Option<&Id>, answer: Answer) {
        let Some(key) = self.resolve(conn) else { return };
        if !self.conns[key].is_open() {
            return;
        }
        match answer {
            Answer::Published { channel, result } => self.on_published(key, id, &channel, result),
            Answer::History { channel, result } => self.on_history(key, id, &channel, result),
            Answer::Marks(answer) => self.on_marks(key, id, answer.wanted, answer.result),
            Answer::Presence { subject, result } => self.on_presence(key, id, subject.name(), result),
            Answer::Census { .. } => unreachable!("only the control port asks for it"),
        }
    }

    fn on_published(&mut self, key: usize, id: Option<&Id>, channel: &str, result: Result<Published, PublishError>) {
        match result {
            Ok(published) => self.reply(key, &Event::Published { id, channel, seq: published.seq, is_repeat: published.is_repeat }),
            Err(error) => {
                let code = match error {
                    PublishError::NotKept(AppendError::KeyTooLong) => ErrorCode::BadPayload,
                    PublishError::Unavailable
                    | PublishError::NoLibrary
                    | PublishError::NotReplicated { .. }
                    | PublishError::Refused(_)
                    | PublishError::NotKept(AppendError::Failing(_) | AppendError::TooManyChannels)
                    | PublishError::Unsettled => ErrorCode::BusUnavailable,
                    PublishError::Busy | PublishError::Late(_) | PublishError::NotKept(AppendError::Full) => ErrorCode::Busy,
                    PublishError::RateLimited(_) => ErrorCode::RateLimited,
                    PublishError::TooBig { .. } | PublishError::TooBigForRedis { .. } => ErrorCode::PayloadTooBig,
                    PublishError::Mismatch(_) | PublishError::Unrouted(_) | PublishError::NotDurable => ErrorCode::BadPayload,
                };
                self.reply_error(key, Asked::of(command::PUBLISH, channel, id), code, &error.to_string());
            }
        }
    }
}
