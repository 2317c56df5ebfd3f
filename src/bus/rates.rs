//! How many messages a second clients may publish: one connection, all connections of one user, all clients to one channel. Asked by [`super::subscriber`]
//! for each publish of a client before it waits for its turn; operators' publishes are not limited.
//!
//! Invariant: whoever has not published for as long as its burst takes is not remembered.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use super::question::{Asker, Publish, ReplyTo};
use crate::clock::MonotonicNs;
use crate::rate::{Moment, Publisher, Rate, moment};

#[derive(Debug, Default)]
pub struct Rates {
    per_connection: Option<usize>,
    per_user: Option<usize>,
    /// By the hash of who it is: a name costs the table nothing.
    buckets: HashMap<u64, Bucket>,
    hasher: RandomState,
    /// Beyond this many, those that do not matter any more are forgotten.
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    even_at: Moment,
}

/// A publish that is one too many: of whom, who may publish so many a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    pub of: Publisher,
    pub per_second: usize,
}

/// Buckets that are not worth a sweep.
const KEPT: usize = 64;

impl Rates {
    pub fn new(per_connection: Option<usize>, per_user: Option<usize>) -> Rates {
        Rates { per_connection, per_user, ..Rates::default() }
    }

    /// Others, from the next publish on.
    pub fn set_limits(&mut self, per_connection: Option<usize>, per_user: Option<usize>) {
        (self.per_connection, self.per_user) = (per_connection, per_user);
    }

    /// Whether a publish of a client may go on; if so, it counts, and nowhere if not. `per_channel`: what the channel's rule says.
    pub fn take(&mut self, publish: &Publish, per_channel: Option<usize>, now: MonotonicNs) -> Result<(), TooMany> {
        let Asker::Client(ReplyTo { shard, conn, .. }) = &publish.asker else { return Ok(()) };
        let connection = self.per_connection.map(|limit| (self.key(Publisher::Connection, (*shard, *conn)), Publisher::Connection, limit));
        let user = publish.client.as_ref().zip(self.per_user);
        let user = user.map(|(client, limit)| (self.key(Publisher::User, client.user()), Publisher::User, limit));
        let channel = per_channel.map(|limit| (self.key(Publisher::Channel, &*publish.channel), Publisher::Channel, limit));
        let (limited, now) = ([connection, user, channel], moment(now));
        for &(key, of, per_second) in limited.iter().flatten() {
            let even_at = self.buckets.get(&key).map_or(now, |bucket| bucket.even_at);
            if !Rate::new(per_second, per_second).may(even_at, now) {
                return Err(TooMany { of, per_second });
            }
        }
        limited.iter().flatten().for_each(|&(key, _, per_second)| self.count(key, per_second, now));
        Ok(())
    }

    fn key(&self, of: Publisher, who: impl Hash) -> u64 {
        self.hasher.hash_one((of as u8, who))
    }

    fn count(&mut self, key: u64, per_second: usize, now: Moment) {
        if self.buckets.len() >= self.sweep_at.max(KEPT) {
            self.buckets.retain(|_, bucket| !bucket.rate.is_even(bucket.even_at, now));
            self.buckets.shrink_to(KEPT.max(2 * self.buckets.len()));
            self.sweep_at = 2 * self.buckets.len();
        }
        // It may be another one since a reload.
        let rate = Rate::new(per_second, per_second);
        let bucket = self.buckets.entry(key).or_insert(Bucket { rate, even_at: now });
        bucket.rate = rate;
        rate.take(&mut bucket.even_at, now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::identity::Identity;
    use crate::bus::ConnToken;

    const SECOND: MonotonicNs = 1_000_000_000;

    fn publish(channel: &str, connection: u32, user: Option<&str>) -> Publish {
        let conn = ConnToken { index: connection, generation: 1 };
        let asker = Asker::Client(ReplyTo { shard: 0, conn, id: None });
        Publish::new(channel, Vec::new(), asker).by(user.map(|user| Arc::new(Identity::of_user(user).unwrap())))
    }

    fn taken(rates: &mut Rates, publish: &Publish, per_channel: Option<usize>, now: MonotonicNs) -> usize {
        (0..1000).take_while(|_| rates.take(publish, per_channel, now).is_ok()).count()
    }

    #[test]
    fn connections_users_and_channels_have_each_their_own() {
        let mut rates = Rates::new(Some(10), Some(25));
        let now = 1000 * SECOND;
        assert_eq!(taken(&mut rates, &publish("a", 1, Some("u")), None, now), 10);
        let refused = rates.take(&publish("a", 1, Some("u")), None, now);
        assert_eq!(refused, Err(TooMany { of: Publisher::Connection, per_second: 10 }));
        assert_eq!(taken(&mut rates, &publish("a", 2, Some("u")), None, now), 10);
        assert_eq!(taken(&mut rates, &publish("a", 3, Some("u")), None, now), 5, "of one user");
        assert_eq!(rates.take(&publish("a", 4, Some("u")), None, now), Err(TooMany { of: Publisher::User, per_second: 25 }));
        assert_eq!(taken(&mut rates, &publish("a", 5, Some("v")), None, now), 10);
        assert_eq!(taken(&mut rates, &publish("b", 6, None), Some(3), now), 3, "to one channel");
        assert_eq!(rates.take(&publish("b", 7, None), Some(3), now), Err(TooMany { of: Publisher::Channel, per_second: 3 }));
        assert_eq!(taken(&mut rates, &publish("b", 1, None), Some(3), now + SECOND), 3, "a second later");
        let control = Publish::new("b", Vec::new(), Asker::Control(tokio::sync::oneshot::channel().0));
        assert_eq!(taken(&mut rates, &control, Some(3), now), 1000);
    }

    /// A channel that is full costs nobody what it may publish elsewhere.
    #[test]
    fn a_publish_that_is_refused_counts_nowhere() {
        let mut rates = Rates::new(Some(10), Some(20));
        let now = 1000 * SECOND;
        let (full, other) = (publish("full", 1, Some("u")), publish("other", 1, Some("u")));
        assert_eq!(taken(&mut rates, &full, Some(2), now), 2);
        for _ in 0..100 {
            assert_eq!(rates.take(&full, Some(2), now), Err(TooMany { of: Publisher::Channel, per_second: 2 }));
        }
        assert_eq!(taken(&mut rates, &other, None, now), 8, "of the connection's ten");
        assert_eq!(taken(&mut rates, &publish("other", 2, Some("u")), None, now), 10, "of the user's twenty");
    }

    #[test]
    fn a_reload_changes_what_may_be_published_from_then_on() {
        let mut rates = Rates::new(None, None);
        let now = 1000 * SECOND;
        assert_eq!(taken(&mut rates, &publish("a", 1, Some("u")), None, now), 1000);
        rates.set_limits(Some(5), Some(7));
        assert_eq!(taken(&mut rates, &publish("a", 1, Some("u")), None, now), 5);
        assert_eq!(taken(&mut rates, &publish("a", 2, Some("u")), None, now), 2);
        rates.set_limits(Some(50), None);
        assert!(taken(&mut rates, &publish("a", 1, Some("u")), None, now) >= 40);
    }

    #[test]
    fn who_has_published_once_is_forgotten() {
        let mut rates = Rates::new(Some(10), None);
        for connection in 0..10_000 {
            rates.take(&publish("a", connection, None), None, u64::from(connection) * SECOND / 1000).unwrap();
        }
        assert!(rates.buckets.len() < 1000 && rates.buckets.capacity() < 4000, "{}", rates.buckets.len());
    }
}
