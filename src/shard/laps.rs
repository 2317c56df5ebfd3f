//! The laps of a shard that are under way, each topic once. Short ones come first, for half of a turn: a message for one client does not wait for a lap
//! to everybody, and a flood of such messages does not keep that lap from going on.

use std::collections::VecDeque;

use crate::fanout::topics::TopicToken;
use crate::limits::{QUEUE_KEPT, SHORT_LAP_MEMBERS};

#[derive(Debug, Default)]
pub struct Laps {
    short: VecDeque<TopicToken>,
    long: VecDeque<TopicToken>,
}

impl Laps {
    pub fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    pub fn begin(&mut self, topic: TopicToken, members: usize) {
        let laps = if members <= SHORT_LAP_MEMBERS { &mut self.short } else { &mut self.long };
        laps.push_back(topic);
    }

    /// It is not over, and goes on when the others have had their turn.
    pub fn go_on(&mut self, topic: TopicToken) {
        self.long.push_back(topic);
    }

    /// The topic whose turn it is. Who is not first comes when there is nobody else.
    pub fn next(&mut self, short_first: bool) -> Option<TopicToken> {
        let (first, second) = if short_first { (&mut self.short, &mut self.long) } else { (&mut self.long, &mut self.short) };
        let next = first.pop_front().or_else(|| second.pop_front());
        if next.is_none() && self.short.capacity() + self.long.capacity() > QUEUE_KEPT {
            *self = Laps::default();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_laps_come_first_and_long_ones_are_not_kept_waiting() {
        let topic = |index| TopicToken { index, generation: 1 };
        let mut laps = Laps::default();
        assert!(laps.is_empty());
        laps.begin(topic(0), SHORT_LAP_MEMBERS + 1);
        laps.begin(topic(1), SHORT_LAP_MEMBERS + 1);
        (2..5).for_each(|index| laps.begin(topic(index), 1));
        let next = |laps: &mut Laps, short_first| laps.next(short_first).map(|topic| topic.index);
        assert_eq!((next(&mut laps, true), next(&mut laps, false)), (Some(2), Some(0)));
        laps.go_on(topic(0));
        let order: Vec<Option<u32>> = [true, false, false, false, false].map(|short_first| next(&mut laps, short_first)).to_vec();
        assert_eq!(order, [Some(3), Some(1), Some(0), Some(4), None]);
        assert!(laps.is_empty());
    }
}
