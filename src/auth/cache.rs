//! Tokens that were verified before, known again by their hash: a crowd that comes back does not pay for its signatures twice, and those who bring the
//! same token share what is known of its bearer. One for each shard.
//!
//! Invariant: what it holds is bounded; the oldest goes first. Only what a key of ours has signed comes in, so nobody fills it at will.

use std::collections::VecDeque;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use hashbrown::HashTable;

use super::identity::Identity;

/// Half of a SHA-256: nobody finds another token with the hash of one that was verified.
pub type Hash = [u8; 16];

/// An entry besides what it points to: its place in a table that has grown, and in the order.
const ENTRY_BYTES: usize = 128;

#[derive(Debug)]
pub struct Cache {
    /// Placed by a part of their hash, which is as good as any hash of it.
    known: HashTable<(Hash, Arc<Identity>)>,
    /// As they came, by that part.
    order: VecDeque<u64>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Cache {
        Cache { known: HashTable::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Whose token this is, if it was verified before. Whether it has expired since is the caller's to ask.
    pub fn find(&self, hash: &Hash) -> Option<&Arc<Identity>> {
        self.known.find(place(hash), |(other, _)| other == hash).map(|(_, identity)| identity)
    }

    pub fn insert(&mut self, hash: Hash, identity: Arc<Identity>) {
        let cost = cost(&identity);
        if cost > self.bytes_max || self.find(&hash).is_some() {
            return;
        }
        while self.bytes + cost > self.bytes_max {
            let oldest = self.order.pop_front().expect("something takes those bytes");
            // Should two be alike, each goes once.
            let Ok(found) = self.known.find_entry(oldest, |(other, _)| place(other) == oldest) else {
                unreachable!("what is in order is known")
            };
            let ((_, gone), _) = found.remove();
            self.bytes -= self::cost(&gone);
        }
        self.bytes += cost;
        self.order.push_back(place(&hash));
        self.known.insert_unique(place(&hash), (hash, identity), |(other, _)| place(other));
    }

    /// Forgets everything. To free it is the caller's, when there is time.
    pub fn take(&mut self) -> Cache {
        std::mem::replace(self, Cache::new(self.bytes_max))
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// The half of it by which it is found.
fn place(hash: &Hash) -> u64 {
    u64::from_ne_bytes(*hash.first_chunk().expect("it has 16 bytes"))
}

fn cost(identity: &Identity) -> usize {
    ENTRY_BYTES + identity.heap_bytes()
}

/// What a token is known by.
pub fn hash(token: &[u8]) -> Hash {
    *digest(&SHA256, token).as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(user: &str) -> Arc<Identity> {
        Arc::new(Identity::of_user(user).unwrap())
    }

    #[test]
    fn a_token_is_known_again_and_shared() {
        let mut cache = Cache::new(10_000);
        assert!(cache.find(&hash(b"a")).is_none());
        cache.insert(hash(b"a"), identity("u"));
        let (first, second) = (cache.find(&hash(b"a")).unwrap().clone(), cache.find(&hash(b"a")).unwrap());
        assert!(Arc::ptr_eq(&first, second) && first.user() == "u");
        assert!(cache.find(&hash(b"b")).is_none());
        cache.insert(hash(b"a"), identity("other"));
        assert_eq!((cache.find(&hash(b"a")).unwrap().user(), cache.len()), ("u", 1), "the first stays");
    }

    #[test]
    fn the_oldest_makes_room() {
        let each = cost(&identity("user-0"));
        let mut cache = Cache::new(3 * each);
        for user in 0..10 {
            cache.insert(hash(format!("{user}").as_bytes()), identity(&format!("user-{user}")));
            assert!(cache.bytes <= 3 * each && cache.order.len() == cache.len());
        }
        assert_eq!(cache.len(), 3);
        assert!(cache.find(&hash(b"6")).is_none() && cache.find(&hash(b"7")).is_some() && cache.find(&hash(b"9")).is_some());
        let mut none = Cache::new(each - 1);
        none.insert(hash(b"a"), identity("user-0"));
        assert!(none.is_empty());
    }
}
