//! How far users have read: what connections ask the bus about that, and which of them are told when another one has set a mark.
//!
//! A connection is told from its first question on: whoever asks for nothing costs nothing and hears nothing that it does not know. A user with many
//! connections here has [`MARK_READERS_PER_USER_MAX`] of them told.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Shard;
use super::net::Network;
use super::subscribe::Wish;
use super::waiters::Beginning;
use crate::auth::identity::Identity;
use crate::auth::rules::Action;
use crate::bus::ConnToken;
use crate::bus::marks::{MarkNews, MarksError, MarksQuestion, MarksResult, MarksWanted, Unread};
use crate::bus::question::Asker;
use crate::journal::AppendError;
use crate::limits::{MARK_READERS_PER_USER_MAX, OUTBOX_PAUSE_BYTES};
use crate::wire::command::{self, Asked, ErrorCode, Id};
use crate::wire::event::{Event, UnreadOf};

/// The connections that are told, by their users.
#[derive(Debug, Default)]
pub(super) struct MarkReaders {
    by_user: HashMap<Box<str>, SmallVec<[ConnToken; 2]>>,
}

impl MarkReaders {
    fn add(&mut self, user: &str, conn: ConnToken) {
        match self.by_user.get_mut(user) {
            Some(readers) if readers.len() >= MARK_READERS_PER_USER_MAX || readers.contains(&conn) => {}
            Some(readers) => readers.push(conn),
            None => drop(self.by_user.insert(user.into(), SmallVec::from_slice(&[conn]))),
        }
    }

    /// The connection ends.
    pub(super) fn remove(&mut self, identity: Option<&Arc<Identity>>, conn: ConnToken) {
        if self.by_user.is_empty() {
            return;
        }
        let Some(user) = identity.map(|identity| identity.user()) else { return };
        let Some(readers) = self.by_user.get_mut(user) else { return };
        readers.retain(|other| *other != conn);
        if readers.is_empty() {
            self.by_user.remove(user);
            if self.by_user.is_empty() {
                self.by_user = HashMap::new();
            }
        }
    }

    fn of(&self, user: &str) -> SmallVec<[ConnToken; 2]> {
        self.by_user.get(user).cloned().unwrap_or_default()
    }
}

impl<N: Network> Shard<N> {
    pub(super) fn mark_read(&mut self, key: usize, channel: &str, epoch: Option<u64>, seq: u64, id: Option<Id>) {
        let asked = Asked::of(command::MARK_READ, channel, id.as_ref());
        let Some(user) = self.marking_user(key, asked, channel) else { return };
        self.ask_marks(key, &user, MarksWanted::Read { channel: channel.into(), epoch, seq }, id);
    }

    pub(super) fn count_unread<'c>(&mut self, key: usize, channels: impl Iterator<Item = &'c str>, id: Option<Id>) {
        let mut wanted = Vec::new();
        let mut whose = None;
        for channel in channels {
            let Some(user) = self.marking_user(key, Asked::of(command::UNREAD, channel, id.as_ref()), channel) else { return };
            whose = Some(user);
            wanted.push(channel.into());
        }
        if let Some(user) = whose {
            self.ask_marks(key, &user, MarksWanted::Unread { channels: wanted }, id);
        }
    }

    /// Subscribes when it is known what the user has not read; at once where that cannot be asked.
    pub(super) fn subscribe_and_count(&mut self, key: usize, channel: &str, id: Option<Id>, wish: Wish) {
        let asked = Asked::of(command::SUBSCRIBE, channel, id.as_ref());
        let Some(user) = self.marking_user(key, asked, channel) else { return };
        let Wish { begin: Beginning { since, .. }, max_rate } = wish;
        self.ask_marks(key, &user, MarksWanted::Begin { channel: channel.into(), since, max_rate }, id);
    }

    /// Whose marks of this channel a connection may set and ask for. None: it may not, and was told so.
    fn marking_user(&mut self, key: usize, asked: Asked<'_>, channel: &str) -> Option<Arc<Identity>> {
        if let Err(why) = self.may(key, channel, Action::Subscribe) {
            self.refuse_by_rule(key, asked, ErrorCode::NotAllowed, why);
            return None;
        }
        if !self.rules.of(channel).durable {
            let message = "this channel is not durable: only of those that are it is kept who has read what";
            self.reply_error(key, asked, ErrorCode::NotDurable, message);
            return None;
        }
        let identity = self.conns[key].identity.clone();
        if identity.is_none() {
            let message = "this connection is nobody's: what is read is kept for users, so connect with a token (or ?user=, where that is believed)";
            self.reply_error(key, asked, ErrorCode::NoUser, message);
        }
        identity
    }

    fn ask_marks(&mut self, key: usize, identity: &Identity, wanted: MarksWanted, id: Option<Id>) {
        let reply_to = self.reply_to(key, id);
        self.mark_readers.add(identity.user(), reply_to.conn);
        let mut question = MarksQuestion::new(Asker::Client(reply_to.clone()), identity.user(), wanted);
        question.by = Some(self.client_id(key));
        match self.bus.ask_marks_from(reply_to.conn, &mut self.mark_askers, question) {
            Ok(()) => self.bus.wake(),
            Err(question) => self.on_marks(key, reply_to.id.as_ref(), question.wanted, Err(MarksError::Busy)),
        }
    }

    /// The bus has answered.
    pub(super) fn on_marks(&mut self, key: usize, id: Option<&Id>, wanted: MarksWanted, result: MarksResult) {
        match (wanted, result) {
            (MarksWanted::Begin { channel, since, max_rate }, result) => {
                // A count that cannot be had keeps nobody from subscribing.
                let counted = result.ok().and_then(|unread| unread.first().and_then(Unread::position));
                self.subscribe(key, &channel, id.cloned(), Wish { begin: Beginning { since, counted }, max_rate });
            }
            (MarksWanted::Read { channel, .. }, Ok(unread)) => {
                let Unread { epoch, read: seq, .. } = unread.first().copied().unwrap_or_default();
                self.reply(key, &Event::Read { id, channel: &channel, epoch, seq });
            }
            (MarksWanted::Unread { channels }, Ok(unread)) => {
                let of = |(channel, of): (&Box<str>, Unread)| {
                    let Unread { epoch, last, read, unread } = of;
                    (channel.clone(), epoch, last, read, unread)
                };
                let found: Vec<_> = channels.iter().zip(unread).map(of).collect();
                let channels: Vec<_> = found
                    .iter()
                    .map(|(channel, epoch, last, read, unread)| UnreadOf {
                        channel,
                        epoch: *epoch,
                        last: *last,
                        read: *read,
                        unread: *unread,
                    })
                    .collect();
                self.reply(key, &Event::Unread { id, channels: &channels });
            }
            (MarksWanted::Read { channel, .. }, Err(error)) => self.refuse_marks(key, Asked::of(command::MARK_READ, &channel, id), &error),
            (MarksWanted::Unread { .. }, Err(error)) => {
                self.refuse_marks(key, Asked { id, command: Some(command::UNREAD), channel: None }, &error);
            }
        }
    }

    fn refuse_marks(&mut self, key: usize, asked: Asked<'_>, error: &MarksError) {
        let code = match error {
            MarksError::NotDurable { .. } => ErrorCode::NotDurable,
            MarksError::OtherEpoch { .. } => ErrorCode::OtherEpoch,
            MarksError::Busy | MarksError::NotKept(AppendError::Full) => ErrorCode::Busy,
            MarksError::Unavailable
            | MarksError::Refused(_)
            | MarksError::Stopping
            | MarksError::NotKept(AppendError::KeyTooLong | AppendError::TooManyChannels | AppendError::Failing(_)) => {
                ErrorCode::BusUnavailable
            }
        };
        self.reply_error(key, asked, code, &error.to_string());
    }

    /// Marks were set: the other connections of those users are told. One that does not read what it is sent asks again when it does.
    pub(super) fn on_mark_news(&mut self, news: &[MarkNews]) {
        for MarkNews { user, channel, epoch, seq, by } in news {
            for conn in self.mark_readers.of(user) {
                let Some(key) = self.resolve(conn).filter(|&key| self.conns[key].is_open()) else { continue };
                let knows = by.is_some_and(|by| by == self.client_id(key));
                if knows || self.conns[key].outbox_unsent() > OUTBOX_PAUSE_BYTES || self.may(key, channel, Action::Subscribe).is_err() {
                    continue;
                }
                self.metrics.marks_told.inc();
                self.reply(key, &Event::Read { id: None, channel, epoch: Some(*epoch), seq: *seq });
                self.account_buffers(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_few_for_a_user_and_go_with_their_connections() {
        let mut readers = MarkReaders::default();
        let identity = Arc::new(Identity::of_user("u").unwrap());
        let conn = |index| ConnToken { index, generation: 1 };
        for index in 0..MARK_READERS_PER_USER_MAX as u32 + 5 {
            readers.add("u", conn(index));
            readers.add("u", conn(index));
        }
        assert_eq!((readers.of("u").len(), readers.of("v").len()), (MARK_READERS_PER_USER_MAX, 0));
        for index in 0..MARK_READERS_PER_USER_MAX as u32 + 5 {
            readers.remove(None, conn(index));
            readers.remove(Some(&identity), conn(index));
        }
        assert_eq!((readers.by_user.len(), readers.by_user.capacity()), (0, 0));
    }
}
