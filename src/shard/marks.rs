//! How far users have read: what connections ask the bus about that, and which of them are told when another one has set a mark.
//!
//! A connection is told from its first question on: whoever asks for nothing costs nothing and hears nothing that it does not know. Of a user with many
//! connections here [`MARK_READERS_PER_USER_MAX`] are told.
//!
//! A subscription that wants to be told what is unread waits for the bus to say so (`Counted::Awaited` in [`super::waiters`]); where the bus cannot, it begins
//! without.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Shard;
use super::net::Network;
use super::rate::moment;
use super::waiters::{Counted, Waiter};
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
        if self.may_mark(key, channel, asked) {
            self.ask_marks(key, MarksWanted::Read { channel: channel.into(), epoch, seq }, id);
        }
    }

    /// Each channel counts as a command, the first one with the command itself.
    pub(super) fn count_unread(&mut self, key: usize, channels: &[Cow<'_, str>], id: Option<Id>) {
        if (1..channels.len()).any(|_| !self.sources.may_command(key, moment(self.now_ns))) {
            return self.limit_command(key, Asked { id: id.as_ref(), command: Some(command::UNREAD), channel: None });
        }
        if channels.iter().all(|channel| self.may_mark(key, channel, Asked::of(command::UNREAD, channel, id.as_ref()))) {
            let channels = channels.iter().map(|channel| channel.as_ref().into()).collect();
            self.ask_marks(key, MarksWanted::Unread { channels }, id);
        }
    }

    /// Whoever may subscribe may say what it has read, and ask. False: it may not, and was told so.
    fn may_mark(&mut self, key: usize, channel: &str, asked: Asked<'_>) -> bool {
        if let Err(why) = self.may(key, channel, Action::Subscribe) {
            self.refuse_by_rule(key, asked, ErrorCode::NotAllowed, why);
            return false;
        }
        self.is_counted(key, channel, asked)
    }

    /// Whether it is kept what this connection's user has read of the channel. False: it is not, and was told so.
    pub(super) fn is_counted(&mut self, key: usize, channel: &str, asked: Asked<'_>) -> bool {
        let (code, message) = if !self.rules.of(channel).durable {
            (ErrorCode::NotDurable, "this channel is not durable: only of those that are is it kept who has read what")
        } else if self.conns[key].identity.is_none() {
            let message =
                "this connection is nobody's: what is read is kept for users, so connect with a token (or ?user=, where that is believed)";
            (ErrorCode::NoUser, message)
        } else {
            return true;
        };
        self.reply_error(key, asked, code, message);
        false
    }

    fn ask_marks(&mut self, key: usize, wanted: MarksWanted, id: Option<Id>) {
        let Some(identity) = self.conns[key].identity.clone() else { return };
        let reply_to = self.reply_to(key, id);
        self.mark_readers.add(identity.user(), reply_to.conn);
        let mut question = MarksQuestion::boxed(Asker::Client(reply_to.clone()), identity.user(), wanted);
        question.by = Some(self.client_id(key));
        match self.bus.ask_marks_from(reply_to.conn, &mut self.mark_askers, question) {
            Ok(()) => {
                self.bus.wake();
            }
            Err(question) => self.on_marks(key, reply_to.id.as_ref(), question.wanted, Err(MarksError::Busy)),
        }
    }

    /// The bus has answered.
    pub(super) fn on_marks(&mut self, key: usize, id: Option<&Id>, wanted: MarksWanted, result: MarksResult) {
        match (wanted, result) {
            (MarksWanted::Begin { channels }, Ok(unread)) => {
                channels.iter().zip(&unread).for_each(|(channel, unread)| self.on_counted(key, channel, Counted::After(unread.position())));
            }
            // What cannot be counted keeps nobody from subscribing.
            (MarksWanted::Begin { channels }, Err(_)) => channels.iter().for_each(|channel| self.on_counted(key, channel, Counted::Not)),
            (MarksWanted::Read { channel, .. }, Ok(unread)) => {
                let Unread { epoch, read: seq, .. } = unread.first().copied().unwrap_or_default();
                self.reply(key, &Event::Read { id, channel: &channel, epoch, seq });
            }
            (MarksWanted::Unread { channels }, Ok(unread)) => {
                let of = |(channel, &Unread { epoch, last, read, unread })| UnreadOf { channel, epoch, last, read, unread };
                let channels: Vec<UnreadOf<'_>> = channels.iter().map(|channel| &**channel).zip(&unread).map(of).collect();
                self.reply(key, &Event::Unread { id, channels: &channels });
                self.after_reply(key);
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
            | MarksError::Late(_)
            | MarksError::Unsettled
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

/// Subscriptions that begin with what is unread.
impl<N: Network> Shard<N> {
    /// Asks the bus for those of these channels whose subscription waits for it: one question, however many they are.
    pub(super) fn ask_counts<'c>(&mut self, key: usize, channels: impl Iterator<Item = &'c str>) {
        let channels: Vec<Box<str>> = channels.filter(|channel| self.awaits_count(key, channel).is_some()).map(Into::into).collect();
        if !channels.is_empty() {
            self.ask_marks(key, MarksWanted::Begin { channels }, None);
        }
    }

    /// The subscription of this channel that waits for the bus to say what is unread, and its waiter.
    fn awaits_count(&self, key: usize, channel: &str) -> Option<(usize, u32)> {
        let at = self.find_subscription(key, self.topics.find(channel)?)?;
        let number = self.conns[key].subscriptions[at].waiter()?;
        self.waiters.awaits_count(number).then_some((at, number))
    }

    /// A subscription waits on until the bus has said what is unread. If it need not, or cannot, its waiter comes back.
    pub(super) fn waits_for_count(&mut self, key: usize, at: usize, waiter: Waiter) -> Result<(), Waiter> {
        if waiter.counted() != Counted::Awaited {
            return Err(waiter);
        }
        match self.waiters.insert(waiter) {
            Ok(number) => {
                self.conns[key].subscriptions[at].forget_waiter(number);
                Ok(())
            }
            // Too many wait: nothing is counted.
            Err(waiter) => Err(waiter.uncounted()),
        }
    }

    fn on_counted(&mut self, key: usize, channel: &str, counted: Counted) {
        let Some((at, number)) = self.awaits_count(key, channel) else { return };
        self.waiters.set_counted(number, counted);
        if self.topics[self.conns[key].subscriptions[at].topic].channel().is_some() {
            let waiter = self.take_waiter(key, at);
            self.confirm(key, at, waiter);
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
