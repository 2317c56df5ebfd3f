//! Publishes under way through Redis, and how each finds its number. Sans-IO; owned by [`super::server::Server`].
//!
//! PUBLISH goes out on its own connection; its message comes back on the subscribed one, like anybody's. The first message on the channel
//! with the same payload, seen since, is taken for it. When the PUBLISH is answered, the message is on its way to us if
//! ever: a PING sent then on the subscribed connection is answered behind it, so at that pong a publish without a message gets no number.
//!
//! Until then its bytes may lie in what Redis keeps for us. Invariant: they are counted ([`Publishes::returning_bytes`]) from the moment they are
//! sent until their message or that pong has come, or one of the connections is lost; also those of channels that do not flow here: one may have
//! been left a moment ago, and a pattern brings all.

use std::collections::{HashMap, VecDeque};

use crate::bus::question::{Publish, PublishError, Published};

const NO_NUMBER: Published = Published::NOWHERE;

#[derive(Debug, Default)]
pub struct Publishes {
    next: u64,
    under_way: HashMap<u64, UnderWay>,
    /// What may come back to us yet.
    returning_bytes: usize,
    /// Not answered yet, in the order they were sent and will be answered.
    unanswered: VecDeque<u64>,
    /// Answered; waiting for their message or for the pong of this number.
    fenced: VecDeque<(u64, Fenced)>,
    /// By channel: what still looks for its message, oldest first.
    watched: HashMap<Box<str>, VecDeque<u64>>,
}

/// A publish and what became of it.
pub type Done = (Publish, Result<Published, PublishError>);

#[derive(Debug)]
struct UnderWay {
    publish: Publish,
    /// Its part of what may come back; 0 once it cannot.
    returning_bytes: usize,
    is_answered: bool,
    is_watched: bool,
    found: Option<Published>,
}

/// What follows from Redis's answer to a PUBLISH.
#[derive(Debug)]
pub struct Answer {
    pub done: Option<Done>,
    /// A PING on the subscribed connection has to tell; pass its number to [`Publishes::fence`].
    pub needs_fence: Option<Fenced>,
}

/// What a pong tells about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// A publish that waits for its number.
    Publish(u64),
    /// One that is answered; so many bytes may have come back.
    Bytes(usize),
}

impl Publishes {
    /// How many are under way.
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Bytes that Redis may have to keep for our subscribed connection.
    pub fn returning_bytes(&self) -> usize {
        self.returning_bytes
    }

    /// Whether an answer is due.
    pub fn awaits_answer(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// A publish was written to the connection. `is_flowing`: its message will come back to us. `message_bytes`: as which it would.
    pub fn sent(&mut self, publish: Publish, message_bytes: usize, is_flowing: bool) {
        let id = self.next;
        self.next += 1;
        if is_flowing {
            match self.watched.get_mut(&publish.channel) {
                Some(ids) => ids.push_back(id),
                None => drop(self.watched.insert(publish.channel.clone(), VecDeque::from([id]))),
            }
        }
        self.returning_bytes += message_bytes;
        self.unanswered.push_back(id);
        let under_way = UnderWay { publish, returning_bytes: message_bytes, is_answered: false, is_watched: is_flowing, found: None };
        self.under_way.insert(id, under_way);
    }

    /// Whether messages have to be shown to [`Publishes::seen`].
    #[inline]
    pub fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }

    /// A message was numbered. Returns the publish that it completes.
    pub fn seen(&mut self, channel: &str, payload: &[u8], published: Published) -> Option<Done> {
        let ids = self.watched.get_mut(channel)?;
        let index = ids.iter().position(|id| *self.under_way[id].publish.payload == *payload)?;
        let id = ids.remove(index).expect("it was found there");
        if ids.is_empty() {
            self.watched.remove(channel);
        }
        let under_way = self.under_way.get_mut(&id).expect("watched ids are under way");
        under_way.is_watched = false;
        under_way.found = Some(published);
        self.returning_bytes -= std::mem::take(&mut under_way.returning_bytes);
        under_way.is_answered.then(|| self.done(id, Ok(published)))
    }

    /// Redis answered the oldest of them, with a number where it gives one. None: there was none. `is_connected`: the subscribed connection stands, and may bring the message yet.
    pub fn answered(&mut self, answer: Result<Option<Published>, PublishError>, is_connected: bool) -> Option<Answer> {
        let id = self.unanswered.pop_front()?;
        let number = match answer {
            Ok(number) => number,
            Err(error) => return Some(Answer { done: Some(self.done(id, Err(error))), needs_fence: None }),
        };
        let under_way = self.under_way.get_mut(&id).expect("unanswered ids are under way");
        under_way.is_answered = true;
        under_way.found = under_way.found.or(number);
        Some(match under_way.found {
            None if under_way.is_watched => Answer { done: None, needs_fence: Some(Fenced::Publish(id)) },
            found => {
                // The publisher need not wait for it; the bytes count on.
                let bytes = if is_connected { std::mem::take(&mut under_way.returning_bytes) } else { 0 };
                let done = self.done(id, Ok(found.unwrap_or(NO_NUMBER)));
                Answer { done: Some(done), needs_fence: (bytes > 0).then_some(Fenced::Bytes(bytes)) }
            }
        })
    }

    /// When the pong of this number has come, it is over.
    pub fn fence(&mut self, fenced: Fenced, ping: u64) {
        self.fenced.push_back((ping, fenced));
    }

    /// The pong of this number came on the subscribed connection. Returns one publish that got no number; call it until None.
    pub fn pong(&mut self, ping: u64) -> Option<Done> {
        while let Some(&(fence, fenced)) = self.fenced.front()
            && fence <= ping
        {
            self.fenced.pop_front();
            if let Some(done) = self.past_fence(fenced) {
                return Some(done);
            }
        }
        None
    }

    fn past_fence(&mut self, fenced: Fenced) -> Option<Done> {
        match fenced {
            Fenced::Publish(id) => self.under_way.contains_key(&id).then(|| self.done(id, Ok(NO_NUMBER))),
            Fenced::Bytes(bytes) => {
                self.returning_bytes -= bytes;
                None
            }
        }
    }

    /// The subscribed connection is lost: no message will come back any more. What is answered is published, without a number.
    pub fn subscription_lost(&mut self) -> Vec<Done> {
        self.watched.clear();
        self.under_way.values_mut().for_each(|under_way| under_way.is_watched = false);
        let fenced = std::mem::take(&mut self.fenced);
        // What is not answered may still come back, on the next connection.
        fenced.into_iter().filter_map(|(_, fenced)| self.past_fence(fenced)).collect()
    }

    /// The publishing connection is lost: what is not answered may or may not have been published.
    pub fn connection_lost(&mut self) -> Vec<Done> {
        let unanswered = std::mem::take(&mut self.unanswered);
        unanswered.into_iter().map(|id| self.done(id, Err(PublishError::Unavailable))).collect()
    }

    fn done(&mut self, id: u64, result: Result<Published, PublishError>) -> Done {
        let UnderWay { publish, is_watched, returning_bytes, .. } = self.under_way.remove(&id).expect("it is under way");
        self.returning_bytes -= returning_bytes;
        if is_watched && let Some(ids) = self.watched.get_mut(&publish.channel) {
            ids.retain(|&other| other != id);
            if ids.is_empty() {
                self.watched.remove(&publish.channel);
            }
        }
        (publish, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::question::Asker;

    fn publish(channel: &str, payload: &str) -> Publish {
        Publish::new(channel, payload.into(), Asker::Control(tokio::sync::oneshot::channel().0))
    }

    const MESSAGE_BYTES: usize = 100;

    fn sent(publishes: &mut Publishes, channel: &str, payload: &str) {
        publishes.sent(publish(channel, payload), MESSAGE_BYTES, true);
    }

    fn done(answer: Option<Answer>) -> (Result<Published, PublishError>, Option<Fenced>) {
        let Some(Answer { done: Some((_, result)), needs_fence }) = answer else { panic!("{answer:?}") };
        (result, needs_fence)
    }

    fn needs_fence(answer: Option<Answer>) -> Fenced {
        let Some(Answer { done: None, needs_fence: Some(fenced @ Fenced::Publish(_)) }) = answer else { panic!("{answer:?}") };
        fenced
    }

    fn number(seq: u64) -> Published {
        Published::at(1, seq)
    }

    #[test]
    fn the_message_may_come_before_or_after_the_answer() {
        let mut publishes = Publishes::default();
        sent(&mut publishes, "a", "x");
        sent(&mut publishes, "a", "y");
        assert!(publishes.seen("a", b"other", number(7)).is_none());
        assert!(publishes.seen("b", b"x", number(1)).is_none());
        assert!(publishes.seen("a", b"x", number(8)).is_none(), "not answered yet");
        let (result, _) = done(publishes.answered(Ok(None), true));
        assert_eq!(result, Ok(number(8)));
        let id = needs_fence(publishes.answered(Ok(None), true));
        publishes.fence(id, 1);
        let (_, result) = publishes.seen("a", b"y", number(9)).unwrap();
        assert_eq!(result, Ok(number(9)));
        assert!(publishes.pong(1).is_none());
        assert!(publishes.is_empty() && !publishes.is_watching());
    }

    #[test]
    fn equal_payloads_get_numbers_in_order() {
        let mut publishes = Publishes::default();
        for _ in 0..3 {
            sent(&mut publishes, "a", "same");
        }
        let numbers: Vec<_> = (1..=3)
            .map(|seq| {
                assert!(publishes.seen("a", b"same", number(seq)).is_none());
                let (result, _) = done(publishes.answered(Ok(None), true));
                result.unwrap().seq
            })
            .collect();
        assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn the_pong_ends_the_wait() {
        let mut publishes = Publishes::default();
        sent(&mut publishes, "a", "x");
        publishes.sent(publish("quiet", "x"), MESSAGE_BYTES, false);
        let id = needs_fence(publishes.answered(Ok(None), true));
        publishes.fence(id, 4);
        let (result, fence) = done(publishes.answered(Ok(None), true));
        assert_eq!(fence, Some(Fenced::Bytes(MESSAGE_BYTES)), "nobody waits for it, but it counts");
        publishes.fence(fence.unwrap(), 4);
        assert_eq!(result, Ok(NO_NUMBER));
        assert!(publishes.pong(3).is_none());
        assert_eq!(publishes.pong(4).unwrap().1, Ok(NO_NUMBER));
        assert!(publishes.pong(4).is_none() && publishes.is_empty() && !publishes.is_watching());
    }

    #[test]
    fn lost_connections_answer_everybody() {
        let mut publishes = Publishes::default();
        sent(&mut publishes, "a", "x");
        sent(&mut publishes, "a", "y");
        let id = needs_fence(publishes.answered(Ok(None), true));
        publishes.fence(id, 1);
        let lost = publishes.subscription_lost();
        assert_eq!(lost.iter().map(|(_, result)| result.clone()).collect::<Vec<_>>(), [Ok(NO_NUMBER)]);
        let lost = publishes.connection_lost();
        assert_eq!(lost.iter().map(|(_, result)| result.clone()).collect::<Vec<_>>(), [Err(PublishError::Unavailable)]);
        assert!(publishes.is_empty() && publishes.answered(Ok(None), true).is_none());
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let mut publishes = Publishes::default();
        sent(&mut publishes, "a", "x");
        let (result, _) = done(publishes.answered(Err(PublishError::Refused("NOPERM".into())), true));
        assert_eq!(result, Err(PublishError::Refused("NOPERM".into())));
        assert!(!publishes.is_watching());
    }

    #[test]
    fn bytes_count_until_they_cannot_come_back() {
        let mut publishes = Publishes::default();
        let returning = |publishes: &Publishes| publishes.returning_bytes() / MESSAGE_BYTES;
        sent(&mut publishes, "a", "seen before the answer");
        sent(&mut publishes, "a", "seen behind the answer");
        sent(&mut publishes, "a", "lost on the way");
        publishes.sent(publish("left a moment ago", "x"), MESSAGE_BYTES, false);
        assert_eq!(returning(&publishes), 4);
        publishes.seen("a", b"seen before the answer", number(1));
        assert_eq!((returning(&publishes), publishes.len()), (3, 4));
        publishes.answered(Ok(None), true).unwrap();
        for fenced in (0..2).map(|_| needs_fence(publishes.answered(Ok(None), true))).collect::<Vec<_>>() {
            publishes.fence(fenced, 1);
        }
        let (_, fenced) = done(publishes.answered(Ok(None), true));
        publishes.fence(fenced.unwrap(), 1);
        assert_eq!((returning(&publishes), publishes.len()), (3, 2), "answered, but not back");
        assert!(publishes.seen("a", b"seen behind the answer", number(2)).is_some());
        assert_eq!(returning(&publishes), 2);
        assert!(publishes.pong(1).is_some() && publishes.pong(1).is_none());
        assert_eq!((returning(&publishes), publishes.len()), (0, 0));

        // A lost connection takes along what it had; what is not answered may come back on the next one.
        publishes.sent(publish("b", "x"), MESSAGE_BYTES, false);
        publishes.sent(publish("b", "y"), MESSAGE_BYTES, false);
        let (_, fenced) = done(publishes.answered(Ok(None), true));
        publishes.fence(fenced.unwrap(), 2);
        assert!(publishes.subscription_lost().is_empty());
        assert_eq!(returning(&publishes), 1);
        let (_, fenced) = done(publishes.answered(Ok(None), false));
        assert_eq!((fenced, returning(&publishes)), (None, 0), "nothing is subscribed");
        sent(&mut publishes, "a", "x");
        publishes.answered(Err(PublishError::Refused("NOPERM".into())), true).unwrap();
        sent(&mut publishes, "a", "x");
        publishes.connection_lost();
        assert_eq!(returning(&publishes), 0);
    }
}
