//! The laps of a shard: those under way, each once, and when others may begin. Short ones come first, for half of a turn: a message for one client does
//! not wait for a lap to everybody, and a flood of such messages does not keep that lap from going on. Among short ones as among long ones tenants take
//! turns: the channels of one table of `[[channels]]` are one tenant, so however many of one have news, another one's wait for one of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::clock::MonotonicNs;
use crate::config::ChannelRule;
use crate::fanout::paced::PaceRate;
use crate::fanout::topics::TopicToken;
use crate::limits::{QUEUE_KEPT, SHORT_LAP_MEMBERS};

/// A walk over the members of a topic: over those who want every message, or over those with this rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lap {
    pub topic: TopicToken,
    pub rate: Option<PaceRate>,
}

/// What all channels with the same rule have in common, and no others. It keeps the rule: another one that comes to lie where it was would else be taken for it.
#[derive(Debug, Clone)]
pub struct Tenant(Arc<ChannelRule>);

impl Tenant {
    pub fn of(rule: &Arc<ChannelRule>) -> Tenant {
        Tenant(rule.clone())
    }
}

impl PartialEq for Tenant {
    fn eq(&self, other: &Tenant) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[derive(Debug, Default)]
pub struct Laps {
    short: Ring,
    long: Ring,
    later: Later,
}

/// A queue for each tenant that has laps, or had some.
#[derive(Debug, Default)]
struct Ring {
    queues: Vec<(Tenant, VecDeque<Lap>)>,
    /// Whose turn it is.
    turn: usize,
    len: usize,
}

impl Ring {
    fn push(&mut self, tenant: Tenant, lap: Lap) {
        let own = self.queues.iter().position(|(other, _)| *other == tenant);
        // The place of one that has none at present will do: so there are never more than have some at a time.
        let at = own.or_else(|| self.queues.iter().position(|(_, queue)| queue.is_empty())).unwrap_or_else(|| {
            self.queues.push((tenant.clone(), VecDeque::new()));
            self.queues.len() - 1
        });
        self.queues[at].0 = tenant;
        self.queues[at].1.push_back(lap);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Lap> {
        if self.len == 0 {
            return None;
        }
        loop {
            self.turn = (self.turn + 1) % self.queues.len();
            if let Some(lap) = self.queues[self.turn].1.pop_front() {
                self.len -= 1;
                return Some(lap);
            }
        }
    }

    fn capacity(&self) -> usize {
        self.queues.iter().map(|(_, queue)| queue.capacity()).sum()
    }
}

/// Laps to be looked at when it is time: one entry at most for each topic and rate, and some that are out of date.
#[derive(Debug, Default)]
struct Later(BinaryHeap<Reverse<Due>>);

/// When, and what: index and generation of the topic, and the rate.
type Due = (MonotonicNs, u32, u32, Option<PaceRate>);

impl Laps {
    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.short.len + self.long.len == 0
    }

    pub fn begin(&mut self, lap: Lap, tenant: Tenant, members: usize) {
        let laps = if members <= SHORT_LAP_MEMBERS { &mut self.short } else { &mut self.long };
        laps.push(tenant, lap);
    }

    /// It is not over, and goes on when the others have had their turn.
    pub fn go_on(&mut self, lap: Lap, tenant: Tenant) {
        self.long.push(tenant, lap);
    }

    /// The lap whose turn it is. Who is not first comes when there is nobody else.
    pub fn next(&mut self, short_first: bool) -> Option<Lap> {
        let (first, second) = if short_first { (&mut self.short, &mut self.long) } else { (&mut self.long, &mut self.short) };
        let next = first.pop().or_else(|| second.pop());
        if next.is_none() && self.short.capacity() + self.long.capacity() > QUEUE_KEPT {
            (self.short, self.long) = (Ring::default(), Ring::default());
        }
        next
    }

    // Those that wait.

    pub fn look_at(&mut self, lap: Lap, due: MonotonicNs) {
        self.later.0.push(Reverse((due, lap.topic.index, lap.topic.generation, lap.rate)));
    }

    /// When to look at the next one.
    pub fn due(&self) -> Option<MonotonicNs> {
        self.later.0.peek().map(|Reverse((due, ..))| *due)
    }

    /// One that is to be looked at now.
    pub fn next_due(&mut self, now: MonotonicNs) -> Option<Lap> {
        let is_due = self.due().is_some_and(|due| due <= now);
        if !is_due {
            return None;
        }
        let Reverse((_, index, generation, rate)) = self.later.0.pop()?;
        if self.later.0.is_empty() && self.later.0.capacity() > QUEUE_KEPT {
            self.later = Later::default();
        }
        Some(Lap { topic: TopicToken { index, generation }, rate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn lap(index: u32) -> Lap {
        Lap { topic: TopicToken { index, generation: 1 }, rate: None }
    }

    fn tenants<const N: usize>() -> [Tenant; N] {
        std::array::from_fn(|_| Tenant::of(&Arc::new(Settings::default().channels.default)))
    }

    /// However many channels of a tenant have news, those of the others wait for one of them each.
    #[test]
    fn tenants_take_turns() {
        let [one, two, three, four] = tenants();
        for members in [1, SHORT_LAP_MEMBERS + 1] {
            let mut laps = Laps::default();
            (0..1000).for_each(|index| laps.begin(lap(index), one.clone(), members));
            (1000..1003).for_each(|index| laps.begin(lap(index), two.clone(), members));
            laps.begin(lap(2000), three.clone(), members);
            let order: Vec<u32> = std::iter::from_fn(|| laps.next(true)).map(|lap| lap.topic.index).collect();
            let place = |index: u32| order.iter().position(|other| *other == index).unwrap();
            assert!(place(1000) < 3 && place(1001) < 6 && place(1002) < 9 && place(2000) < 3, "{:?}", &order[..10]);
            assert!(order.len() == 1004 && laps.is_empty());
            // A tenant that has had none for a while is no worse off for it.
            (0..100).for_each(|index| laps.begin(lap(index), four.clone(), members));
            laps.begin(lap(200), one.clone(), members);
            assert!((0..2).any(|_| laps.next(true).is_some_and(|lap| lap.topic.index == 200)));
        }
    }

    #[test]
    fn short_laps_come_first_and_long_ones_are_not_kept_waiting() {
        let [one] = tenants();
        let mut laps = Laps::default();
        assert!(laps.is_empty());
        laps.begin(lap(0), one.clone(), SHORT_LAP_MEMBERS + 1);
        laps.begin(lap(1), one.clone(), SHORT_LAP_MEMBERS + 1);
        (2..5).for_each(|index| laps.begin(lap(index), one.clone(), 1));
        let next = |laps: &mut Laps, short_first| laps.next(short_first).map(|lap| lap.topic.index);
        assert_eq!((next(&mut laps, true), next(&mut laps, false)), (Some(2), Some(0)));
        laps.go_on(lap(0), one.clone());
        let order: Vec<Option<u32>> = [true, false, false, false, false].map(|short_first| next(&mut laps, short_first)).to_vec();
        assert_eq!(order, [Some(3), Some(1), Some(0), Some(4), None]);
        assert!(laps.is_empty());
    }

    #[test]
    fn laps_that_wait_come_when_they_are_due() {
        let mut laps = Laps::default();
        for (index, due) in [(1, 30), (2, 10), (3, 20)] {
            laps.look_at(Lap { rate: Some(5), ..lap(index) }, due);
        }
        assert_eq!((laps.due(), laps.next_due(9)), (Some(10), None));
        let order: Vec<Option<u32>> = (0..3).map(|_| laps.next_due(20).map(|lap| lap.topic.index)).collect();
        assert_eq!((order, laps.due(), laps.is_empty()), (vec![Some(2), Some(3), None], Some(30), true));
    }
}
