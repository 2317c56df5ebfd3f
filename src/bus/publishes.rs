//! Publishes under way through Redis, and how each finds its number. Sans-IO; owned by [`super::redis`].
//!
//! PUBLISH goes out on its own connection; its message comes back on the subscribed one, like anybody's. The first message on the channel
//! with the same payload, seen since, is taken for it. When the PUBLISH is answered, the message is on its way to us if
//! ever: a PING sent then on the subscribed connection is answered behind it, so at that pong a publish without a message gets no number.

use std::collections::{HashMap, VecDeque};

use super::{Publish, PublishError, Published};

const NO_NUMBER: Published = Published { epoch: None, seq: None };

#[derive(Debug, Default)]
pub struct Publishes {
    next: u64,
    under_way: HashMap<u64, UnderWay>,
    /// Of their payloads.
    bytes: usize,
    /// Not answered yet, in the order they were sent and will be answered.
    unanswered: VecDeque<u64>,
    /// Answered; waiting for their message or for the pong of this number.
    fenced: VecDeque<(u64, u64)>,
    /// By channel: what still looks for its message, oldest first.
    watched: HashMap<Box<str>, VecDeque<u64>>,
}

/// A publish and what became of it.
pub type Done = (Publish, Result<Published, PublishError>);

#[derive(Debug)]
struct UnderWay {
    publish: Publish,
    is_answered: bool,
    is_watched: bool,
    found: Option<Published>,
}

/// How Redis answered a PUBLISH.
#[derive(Debug)]
pub enum Answer {
    Done(Done),
    /// A PING on the subscribed connection has to tell; pass its number to [`Publishes::fence`].
    NeedsFence(u64),
}

impl Publishes {
    /// How many are under way, and their payloads' bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.under_way.len(), self.bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// A publish was written to the connection. `is_flowing`: its message will come back to us.
    pub fn sent(&mut self, publish: Publish, is_flowing: bool) {
        let id = self.next;
        self.next += 1;
        if is_flowing {
            match self.watched.get_mut(&publish.channel) {
                Some(ids) => ids.push_back(id),
                None => drop(self.watched.insert(publish.channel.clone(), VecDeque::from([id]))),
            }
        }
        self.bytes += publish.payload.len();
        self.unanswered.push_back(id);
        self.under_way.insert(id, UnderWay { publish, is_answered: false, is_watched: is_flowing, found: None });
    }

    /// Whether messages have to be shown to [`Publishes::seen`].
    #[inline]
    pub fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }

    /// A message was numbered. Returns the publish that it completes.
    pub fn seen(&mut self, channel: &str, payload: &[u8], published: Published) -> Option<Done> {
        let ids = self.watched.get_mut(channel)?;
        let index = ids.iter().position(|id| self.under_way[id].publish.payload == payload)?;
        let id = ids.remove(index).expect("it was found there");
        if ids.is_empty() {
            self.watched.remove(channel);
        }
        let under_way = self.under_way.get_mut(&id).expect("watched ids are under way");
        under_way.is_watched = false;
        under_way.found = Some(published);
        under_way.is_answered.then(|| self.done(id, Ok(published)))
    }

    /// Redis answered the oldest PUBLISH. None: there was none.
    pub fn answered(&mut self, refusal: Option<String>) -> Option<Answer> {
        let id = self.unanswered.pop_front()?;
        if let Some(reason) = refusal {
            return Some(Answer::Done(self.done(id, Err(PublishError::Refused(reason)))));
        }
        let under_way = self.under_way.get_mut(&id).expect("unanswered ids are under way");
        under_way.is_answered = true;
        Some(match under_way.found {
            None if under_way.is_watched => Answer::NeedsFence(id),
            found => Answer::Done(self.done(id, Ok(found.unwrap_or(NO_NUMBER)))),
        })
    }

    /// When the pong of this number has come, the publish is over.
    pub fn fence(&mut self, id: u64, ping: u64) {
        self.fenced.push_back((ping, id));
    }

    /// The pong of this number came on the subscribed connection. Returns one publish that got no number; call it until None.
    pub fn pong(&mut self, ping: u64) -> Option<Done> {
        while let Some(&(fence, id)) = self.fenced.front()
            && fence <= ping
        {
            self.fenced.pop_front();
            if self.under_way.contains_key(&id) {
                return Some(self.done(id, Ok(NO_NUMBER)));
            }
        }
        None
    }

    /// The subscribed connection is lost: no message will come back any more. What is answered is published, without a number.
    pub fn subscription_lost(&mut self) -> Vec<Done> {
        self.watched.clear();
        self.under_way.values_mut().for_each(|under_way| under_way.is_watched = false);
        let fenced = std::mem::take(&mut self.fenced);
        let mut done = Vec::new();
        for (_, id) in fenced {
            if self.under_way.contains_key(&id) {
                done.push(self.done(id, Ok(NO_NUMBER)));
            }
        }
        done
    }

    /// The publishing connection is lost: what is not answered may or may not have been published.
    pub fn connection_lost(&mut self) -> Vec<Done> {
        let unanswered = std::mem::take(&mut self.unanswered);
        unanswered.into_iter().map(|id| self.done(id, Err(PublishError::Unavailable))).collect()
    }

    fn done(&mut self, id: u64, result: Result<Published, PublishError>) -> Done {
        let UnderWay { publish, is_watched, .. } = self.under_way.remove(&id).expect("it is under way");
        self.bytes -= publish.payload.len();
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
    use super::super::PublishReply;
    use super::*;

    fn publish(channel: &str, payload: &str) -> Publish {
        Publish { channel: channel.into(), payload: payload.into(), reply: PublishReply::Control(tokio::sync::oneshot::channel().0) }
    }

    fn number(seq: u64) -> Published {
        Published { epoch: Some(1), seq: Some(seq) }
    }

    #[test]
    fn the_message_may_come_before_or_after_the_answer() {
        let mut publishes = Publishes::default();
        publishes.sent(publish("a", "x"), true);
        publishes.sent(publish("a", "y"), true);
        assert!(publishes.seen("a", b"other", number(7)).is_none());
        assert!(publishes.seen("b", b"x", number(1)).is_none());
        assert!(publishes.seen("a", b"x", number(8)).is_none(), "not answered yet");
        let Some(Answer::Done((_, result))) = publishes.answered(None) else { panic!() };
        assert_eq!(result, Ok(number(8)));
        let Some(Answer::NeedsFence(id)) = publishes.answered(None) else { panic!() };
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
            publishes.sent(publish("a", "same"), true);
        }
        let numbers: Vec<_> = (1..=3)
            .map(|seq| {
                assert!(publishes.seen("a", b"same", number(seq)).is_none());
                let Some(Answer::Done((_, result))) = publishes.answered(None) else { panic!() };
                result.unwrap().seq
            })
            .collect();
        assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn the_pong_ends_the_wait() {
        let mut publishes = Publishes::default();
        publishes.sent(publish("a", "x"), true);
        publishes.sent(publish("quiet", "x"), false);
        let Some(Answer::NeedsFence(id)) = publishes.answered(None) else { panic!() };
        publishes.fence(id, 4);
        let Some(Answer::Done((_, result))) = publishes.answered(None) else { panic!("nobody listens: nothing to wait for") };
        assert_eq!(result, Ok(NO_NUMBER));
        assert!(publishes.pong(3).is_none());
        assert_eq!(publishes.pong(4).unwrap().1, Ok(NO_NUMBER));
        assert!(publishes.pong(4).is_none() && publishes.is_empty() && !publishes.is_watching());
    }

    #[test]
    fn lost_connections_answer_everybody() {
        let mut publishes = Publishes::default();
        publishes.sent(publish("a", "x"), true);
        publishes.sent(publish("a", "y"), true);
        let Some(Answer::NeedsFence(id)) = publishes.answered(None) else { panic!() };
        publishes.fence(id, 1);
        let lost = publishes.subscription_lost();
        assert_eq!(lost.iter().map(|(_, result)| result.clone()).collect::<Vec<_>>(), [Ok(NO_NUMBER)]);
        let lost = publishes.connection_lost();
        assert_eq!(lost.iter().map(|(_, result)| result.clone()).collect::<Vec<_>>(), [Err(PublishError::Unavailable)]);
        assert!(publishes.is_empty() && publishes.answered(None).is_none());
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let mut publishes = Publishes::default();
        publishes.sent(publish("a", "x"), true);
        let Some(Answer::Done((_, result))) = publishes.answered(Some("NOPERM".into())) else { panic!() };
        assert_eq!(result, Err(PublishError::Refused("NOPERM".into())));
        assert!(!publishes.is_watching());
    }
}
