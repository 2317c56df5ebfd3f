//! What one address may take of the whole process: connections at once, and accepts in a while; and accepts of all together.
//!
//! Asked when a connection's address is known and when it has ended, never on the way of a message. The counts are one for all shards, as addresses come to
//! any of them, so they lie behind locks: a table in parts, each locked for one look-up.
//! Where no limit is set, nothing is locked and nothing kept. A reload may set one: who came before is not counted then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::rate::{Moment, Rate, moment};
use crate::addresses::Source;
use crate::clock::MonotonicNs;
use crate::config::Bounds;

/// So many that shards seldom meet at one.
const PARTS: usize = 64;
/// Addresses without a connection that a part remembers for their rate. When it is full, those are forgotten whose rate has had its rest; of a flood from very many
/// addresses no more are remembered, and `accepts_per_second` is what bounds it.
const REMEMBERED_MAX: usize = 4096;

/// 16 microseconds each: a flood does not have a full part searched for every connection.
const SWEEP_PAUSE: Moment = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    ConnectionsPerAddress,
    AcceptsPerAddress,
}

#[derive(Debug)]
pub struct ByAddress {
    /// 0, as below: no limit.
    connections_max: AtomicU32,
    /// A second, and at once.
    accepts_max: AtomicU32,
    /// Nanoseconds between two accepts of all.
    interval_ns: AtomicU64,
    even_at_ns: AtomicU64,
    parts: Vec<Mutex<Part>>,
}

#[derive(Debug, Default)]
struct Part {
    entries: HashMap<Source, Entry>,
    /// Entries without a connection.
    idle: usize,
    /// When it was last looked for those that had their rest.
    swept: Moment,
}

#[derive(Debug, Default)]
struct Entry {
    connections: u32,
    even_at: Moment,
}

impl ByAddress {
    pub fn new(limits: &Bounds) -> ByAddress {
        let table = ByAddress {
            connections_max: AtomicU32::new(0),
            accepts_max: AtomicU32::new(0),
            interval_ns: AtomicU64::new(0),
            even_at_ns: AtomicU64::new(0),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        };
        table.set_limits(limits);
        table
    }

    /// What may be taken from now on.
    pub fn set_limits(&self, limits: &Bounds) {
        self.connections_max.store(limits.connections_per_address.map_or(0, |count| count as u32), Relaxed);
        self.accepts_max.store(limits.accepts_per_address.map_or(0, |count| count as u32), Relaxed);
        self.interval_ns.store(limits.accepts_per_second.map_or(0, |count| (SECOND_NS / count as u64).max(1)), Relaxed);
    }

    fn connections_max(&self) -> Option<u32> {
        Some(self.connections_max.load(Relaxed)).filter(|&max| max > 0)
    }

    fn accepts(&self) -> Option<Rate> {
        let max = self.accepts_max.load(Relaxed) as usize;
        // As many at once as in a second.
        (max > 0).then(|| Rate::new(max, max))
    }

    /// Whether one more connection may be accepted now, whoever it is from; if so, it counts. As many at once as in a second.
    pub fn may_accept(&self, now_ns: MonotonicNs) -> bool {
        let interval_ns = self.interval_ns.load(Relaxed);
        if interval_ns == 0 {
            return true;
        }
        let take = |even_at_ns: u64| {
            let next_ns = even_at_ns.max(now_ns) + interval_ns;
            (next_ns <= now_ns + SECOND_NS.max(interval_ns)).then_some(next_ns)
        };
        self.even_at_ns.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// A connection of this address: counted (true) until [`ByAddress::leave`], or refused. False: nothing is limited.
    pub fn enter(&self, source: Source, now_ns: MonotonicNs) -> Result<bool, Refused> {
        let (connections_max, accepts) = (self.connections_max(), self.accepts());
        if connections_max.is_none() && accepts.is_none() {
            return Ok(false);
        }
        let mut part = self.part(source);
        let now = moment(now_ns);
        if part.idle >= REMEMBERED_MAX && now.wrapping_sub(part.swept) > SWEEP_PAUSE {
            part.swept = now;
            part.entries.retain(|_, entry| entry.connections > 0 || accepts.is_some_and(|rate| !rate.is_even(entry.even_at, now)));
            part.idle = part.entries.values().filter(|entry| entry.connections == 0).count();
        }
        let is_full = part.idle >= REMEMBERED_MAX;
        let is_new = !part.entries.contains_key(&source);
        let entry = part.entries.entry(source).or_insert(Entry { connections: 0, even_at: now });
        let was_idle = entry.connections == 0;
        let refused = if connections_max.is_some_and(|max| entry.connections >= max) {
            Some(Refused::ConnectionsPerAddress)
        } else if accepts.is_some_and(|rate| !rate.take(&mut entry.even_at, now)) {
            Some(Refused::AcceptsPerAddress)
        } else {
            entry.connections += 1;
            None
        };
        let is_idle = entry.connections == 0;
        if is_new && is_idle && is_full {
            part.entries.remove(&source);
        } else {
            part.idle = part.idle + usize::from(is_idle) - usize::from(was_idle && !is_new);
        }
        refused.map_or(Ok(true), Err)
    }

    /// The connection has ended.
    pub fn leave(&self, source: Source, now_ns: MonotonicNs) {
        let mut part = self.part(source);
        let now = moment(now_ns);
        let Some(entry) = part.entries.get_mut(&source) else { return };
        debug_assert!(entry.connections > 0);
        entry.connections -= 1;
        if entry.connections > 0 {
            return;
        }
        let is_owed = self.accepts().is_some_and(|rate| !rate.is_even(entry.even_at, now));
        if is_owed && part.idle < REMEMBERED_MAX {
            part.idle += 1;
        } else {
            part.entries.remove(&source);
        }
    }

    fn part(&self, source: Source) -> MutexGuard<'_, Part> {
        self.parts[source.mixed() as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses of which anything is known.
    pub fn remembered(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).entries.len()).sum()
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    fn source(number: u32) -> Source {
        Source::of(SocketAddr::from((Ipv4Addr::from_bits(number), 1)))
    }

    fn limits(connections: Option<usize>, accepts: Option<usize>, all: Option<usize>) -> ByAddress {
        ByAddress::new(&Bounds {
            connections_per_address: connections,
            accepts_per_address: accepts,
            accepts_per_second: all,
            ..Bounds::default()
        })
    }

    #[test]
    fn connections_of_an_address_are_counted_until_they_end() {
        let table = limits(Some(3), None, None);
        for _ in 0..2 {
            (0..3).for_each(|_| assert_eq!(table.enter(source(1), 0), Ok(true)));
            assert_eq!(table.enter(source(1), 0), Err(Refused::ConnectionsPerAddress));
            assert_eq!(table.enter(source(2), 0), Ok(true), "another one is not concerned");
            table.leave(source(1), 0);
            assert_eq!(table.enter(source(1), 0), Ok(true));
            (0..3).for_each(|_| table.leave(source(1), 0));
            table.leave(source(2), 0);
            assert_eq!(table.remembered(), 0);
        }
    }

    #[test]
    fn accepts_of_an_address_have_a_rate_whatever_becomes_of_them() {
        let table = limits(None, Some(5), None);
        let begin = 1 << 40;
        let accepted = |now_ns| (0..100).filter(|_| table.enter(source(1), now_ns).map(|_| table.leave(source(1), now_ns)).is_ok()).count();
        assert_eq!(accepted(begin), 5);
        assert_eq!(table.enter(source(1), begin), Err(Refused::AcceptsPerAddress));
        assert_eq!(accepted(begin + SECOND_NS / 2), 2);
        assert_eq!(accepted(begin + 100 * SECOND_NS), 5);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let table = limits(Some(10), Some(1), None);
        for number in 0..1_000_000 {
            assert_eq!(table.enter(source(number), 0), Ok(true));
            table.leave(source(number), 0);
        }
        assert!(table.remembered() <= PARTS * REMEMBERED_MAX);
        // Those that had their rest make room.
        for number in 1_000_000..1_100_000 {
            assert_eq!(table.enter(source(number), 10 * SECOND_NS), Ok(true));
            table.leave(source(number), 10 * SECOND_NS);
        }
        assert_eq!(table.enter(source(1_050_000), 10 * SECOND_NS), Err(Refused::AcceptsPerAddress));
    }

    #[test]
    fn accepts_of_all_have_a_rate() {
        let table = limits(None, None, Some(1000));
        let begin = 5 * SECOND_NS;
        let accepted = |now_ns| (0..5000).filter(|_| table.may_accept(now_ns)).count();
        assert_eq!(accepted(begin), 1000);
        assert_eq!(accepted(begin + SECOND_NS / 10), 100);
        assert_eq!(accepted(begin + 100 * SECOND_NS), 1000);
        assert!(limits(None, None, None).may_accept(0));
        let slow = limits(None, None, Some(1));
        assert!(slow.may_accept(begin) && !slow.may_accept(begin + SECOND_NS - 1) && slow.may_accept(begin + SECOND_NS));
    }

    #[test]
    fn limits_may_be_set_later_and_taken_back() {
        let table = limits(None, None, None);
        assert_eq!(table.enter(source(1), 0), Ok(false));
        table.set_limits(&Bounds { connections_per_address: Some(1), ..Bounds::default() });
        assert_eq!((table.enter(source(1), 0), table.enter(source(1), 0)), (Ok(true), Err(Refused::ConnectionsPerAddress)));
        table.set_limits(&Bounds::default());
        assert_eq!(table.enter(source(1), 0), Ok(false));
        // Whoever was counted is counted out.
        table.leave(source(1), 0);
        assert_eq!(table.remembered(), 0);
    }

    #[test]
    fn shards_count_together() {
        let table = limits(Some(1000), None, None);
        let accepted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..500).filter(|_| table.enter(source(7), 0).is_ok()).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(accepted, 1000);
    }
}
