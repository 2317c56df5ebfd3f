//! How many publishes may be under way, and whose. Asked by shards and by the control thread when they hand one to the bus thread;
//! a [`Ticket`] goes with the publish and gives its part back when the publish is answered, or dropped.
//!
//! Invariants: what is under way is bounded in number and bytes, for clients and for the control port apart, so neither can take the
//! other's room. A client may have as much under way as is still free of all clients' room: one that floods finds half of it taken (by
//! itself) and is told `busy`, two find a third taken each, and one that did not publish before always finds some.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::ConnToken;

/// Publishes and the bytes of their payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub count: usize,
    pub bytes: usize,
}

/// What is under way of a share. Counted apart from each other: a reader may see the one without the other for a moment.
#[derive(Debug, Default)]
struct Account {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

impl Account {
    /// False: it does not fit. One larger than all there is fits when there is no other.
    fn add(&self, bytes: usize, most: Share) -> bool {
        let before = Share { count: self.count.fetch_add(1, Relaxed), bytes: self.bytes.fetch_add(bytes, Relaxed) };
        let fits = before.count < most.count && (before.bytes == 0 || before.bytes.saturating_add(bytes) <= most.bytes);
        if !fits {
            self.take_off(bytes);
        }
        fits
    }

    fn take_off(&self, bytes: usize) {
        self.count.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    fn held(&self) -> Share {
        Share { count: self.count.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }
}

/// The accounts of all.
#[derive(Debug)]
pub struct Shares {
    clients: Arc<Account>,
    clients_max: Share,
    control: Arc<Account>,
    control_max: Share,
}

/// A publish's part of the accounts. The default is part of none.
#[derive(Debug, Default)]
pub struct Ticket {
    bytes: usize,
    accounts: [Option<Arc<Account>>; 2],
}

impl Drop for Ticket {
    fn drop(&mut self) {
        for account in self.accounts.iter().flatten() {
            account.take_off(self.bytes);
        }
    }
}

impl Shares {
    pub fn new(clients_max: Share, control_max: Share) -> Shares {
        Shares { clients: Arc::default(), clients_max, control: Arc::default(), control_max }
    }

    /// None: too much is under way.
    pub fn for_control(&self, bytes: usize) -> Option<Ticket> {
        self.control.add(bytes, self.control_max).then(|| Ticket { bytes, accounts: [Some(self.control.clone()), None] })
    }

    fn for_client(&self, bytes: usize, own: &Arc<Account>) -> Option<Ticket> {
        if !self.clients.add(bytes, self.clients_max) {
            return None;
        }
        // From here on the ticket gives everything back.
        let ticket = Ticket { bytes, accounts: [Some(self.clients.clone()), Some(own.clone())] };
        let all = self.clients.held();
        own.count.fetch_add(1, Relaxed);
        own.bytes.fetch_add(bytes, Relaxed);
        let own = own.held();
        let is_fair = own.count <= self.clients_max.count.saturating_sub(all.count) + 1;
        let is_fair_in_bytes = own.bytes == bytes || own.bytes <= self.clients_max.bytes.saturating_sub(all.bytes);
        (is_fair && is_fair_in_bytes).then_some(ticket)
    }

    /// Under way, of clients and of the control port together.
    pub fn held(&self) -> Share {
        let (clients, control) = (self.clients.held(), self.control.held());
        Share { count: clients.count + control.count, bytes: clients.bytes + control.bytes }
    }
}

/// The accounts of one shard's connections that publish.
#[derive(Debug, Default)]
pub struct Publishers {
    accounts: HashMap<ConnToken, Arc<Account>>,
    /// Beyond this many, those that have nothing under way are forgotten.
    sweep_at: usize,
}

/// Accounts that are not worth a sweep.
const IDLE_ACCOUNTS: usize = 64;

impl Publishers {
    /// None: this connection has too much under way, or all of them have.
    pub fn ticket(&mut self, conn: ConnToken, bytes: usize, shares: &Shares) -> Option<Ticket> {
        if self.accounts.len() >= self.sweep_at.max(IDLE_ACCOUNTS) {
            // A ticket holds its account.
            self.accounts.retain(|_, account| Arc::strong_count(account) > 1);
            self.accounts.shrink_to(IDLE_ACCOUNTS.max(2 * self.accounts.len()));
            self.sweep_at = 2 * self.accounts.len();
        }
        shares.for_client(bytes, self.accounts.entry(conn).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Share = Share { count: 16, bytes: 1600 };

    fn conn(index: u32) -> ConnToken {
        ConnToken { index, generation: 1 }
    }

    fn shares() -> Shares {
        Shares::new(MOST, Share { count: 4, bytes: 400 })
    }

    /// As many tickets as this connection gets.
    fn flood(publishers: &mut Publishers, index: u32, bytes: usize, shares: &Shares) -> Vec<Ticket> {
        std::iter::from_fn(|| publishers.ticket(conn(index), bytes, shares)).take(1000).collect()
    }

    #[test]
    fn a_flood_leaves_room_for_everybody_else() {
        let (shares, mut publishers) = (shares(), Publishers::default());
        let first = flood(&mut publishers, 1, 10, &shares);
        assert_eq!(first.len(), 8, "half of it, by number");
        let second = flood(&mut publishers, 2, 10, &shares);
        assert_eq!(second.len(), 4, "half of the rest");
        assert!(publishers.ticket(conn(1), 10, &shares).is_none());
        assert!(publishers.ticket(conn(3), 10, &shares).is_some(), "whoever comes finds room");
        // Fair after a while: what is given back goes to whoever has less.
        drop(first);
        assert_eq!(flood(&mut publishers, 3, 10, &shares).len(), 6);

        let mut publishers = Publishers::default();
        let shares = self::shares();
        assert_eq!(flood(&mut publishers, 1, 200, &shares).len(), 4, "half of it, by bytes");
    }

    #[test]
    fn clients_and_the_control_port_do_not_take_each_others_room() {
        let (shares, mut publishers) = (shares(), Publishers::default());
        let floods: Vec<_> = (0..100).map(|index| flood(&mut publishers, index, 10, &shares)).collect();
        assert_eq!(floods.iter().map(Vec::len).sum::<usize>(), MOST.count);
        assert!(publishers.ticket(conn(200), 10, &shares).is_none(), "all of it is taken");
        let control: Vec<_> = std::iter::from_fn(|| shares.for_control(10)).take(100).collect();
        assert_eq!(control.len(), 4);
        assert_eq!(shares.held(), Share { count: MOST.count + 4, bytes: 10 * (MOST.count + 4) });
        drop((floods, control));
        assert_eq!(shares.held(), Share { count: 0, bytes: 0 });
    }

    #[test]
    fn one_larger_than_all_there_is_passes_alone() {
        let (shares, mut publishers) = (shares(), Publishers::default());
        let alone = publishers.ticket(conn(1), 10_000, &shares).unwrap();
        assert!(publishers.ticket(conn(2), 1, &shares).is_none());
        drop(alone);
        let _small = publishers.ticket(conn(2), 1, &shares).unwrap();
        assert!(publishers.ticket(conn(1), 10_000, &shares).is_none());
        assert!(shares.for_control(10_000).is_some());
    }

    #[test]
    fn connections_that_published_once_are_forgotten() {
        let (shares, mut publishers) = (shares(), Publishers::default());
        for index in 0..10_000 {
            publishers.ticket(conn(index), 1, &shares).unwrap();
        }
        assert!(publishers.accounts.len() <= IDLE_ACCOUNTS && publishers.accounts.capacity() < 4 * IDLE_ACCOUNTS);
    }
}
