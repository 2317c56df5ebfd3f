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

    /// Whether a publish of a client may go on; if so, it counts. `per_channel`: what the channel's rule says.
    pub fn take(&mut self, publish: &Publish, per_channel: Option<usize>, now: MonotonicNs) -> Result<(), TooMany> {
        let Asker::Client(ReplyTo { shard, conn, .. }) = &publish.asker else { return Ok(()) };
        self.count((Publisher::Connection as u8, (*shard, *conn)), Publisher::Connection, self.per_connection, now)?;
        if let Some(client) = &publish.client {
            self.count((Publisher::User as u8, client.user()), Publisher::User, self.per_user, now)?;
        }
        self.count((Publisher::Channel as u8, &*publish.channel), Publisher::Channel, per_channel, now)
    }

    fn count(&mut self, who: impl Hash, of: Publisher, per_second: Option<usize>, now: MonotonicNs) -> Result<(), TooMany> {
        let Some(per_second) = per_second else { return Ok(()) };
        let (key, now) = (self.hasher.hash_one(who), moment(now));
        if self.buckets.len() >= self.sweep_at.max(KEPT) {
            self.buckets.retain(|_, bucket| !bucket.rate.is_even(bucket.even_at, now));
            self.buckets.shrink_to(KEPT.max(2 * self.buckets.len()));
            self.sweep_at = 2 * self.buckets.len();
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { rate: Rate::new(per_second, per_second), even_at: now });
        // It may be another one since a reload.
        bucket.rate = Rate::new(per_second, per_second);
        if bucket.rate.take(&mut bucket.even_at, now) { Ok(()) } else { Err(TooMany { of, per_second }) }
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

    #[test]
    fn who_has_published_once_is_forgotten() {
        let mut rates = Rates::new(Some(10), None);
        for connection in 0..10_000 {
            rates.take(&publish("a", connection, None), None, u64::from(connection) * SECOND / 1000).unwrap();
        }
        assert!(rates.buckets.len() < 1000 && rates.buckets.capacity() < 4000, "{}", rates.buckets.len());
    }
}
