//! What connections ask of the bus, and how they are told its answers. [`crate::bus::question`] lists both.

use super::Shard;
use super::net::Network;
use crate::bus::ConnToken;
use crate::bus::question::{Answer, Asker, IdempotencyKey, Publish, PublishError, Published, ReplyTo};
use crate::journal::AppendError;
use crate::wire::command::{self, Asked, ErrorCode, Id};
use crate::wire::event::Event;

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
            Answer::Marks { wanted, result } => self.on_marks(key, id, wanted, result),
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
                    | PublishError::Refused(_)
                    | PublishError::NotKept(AppendError::Failing(_) | AppendError::TooManyChannels)
                    | PublishError::Unsettled => ErrorCode::BusUnavailable,
                    PublishError::Busy | PublishError::NotKept(AppendError::Full) => ErrorCode::Busy,
                    PublishError::RateLimited(_) => ErrorCode::RateLimited,
                    PublishError::TooBig { .. } | PublishError::TooBigForRedis { .. } => ErrorCode::PayloadTooBig,
                    PublishError::Mismatch(_) | PublishError::Unrouted(_) | PublishError::NotDurable => ErrorCode::BadPayload,
                };
                self.reply_error(key, Asked::of(command::PUBLISH, channel, id), code, &error.to_string());
            }
        }
    }
}
