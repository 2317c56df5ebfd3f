//! Publishes that wait for the upstream, and whose turn it is. Owned by [`super::subscriber`].
//!
//! Invariant: whoever publishes waits for what the others are entitled to, however much they have sent: sources take turns by bytes
//! (deficit round robin), and the control port has every other turn. The length is bounded by [`super::shares`].

use std::collections::{HashMap, VecDeque};

use super::ConnToken;
use super::question::{Asker, Publish, ReplyTo};
use crate::clock::MonotonicNs;
use crate::limits::bus::{PUBLISH_COST_BYTES, SOURCE_TURN_BYTES};

#[derive(Debug, Default)]
pub struct Queue {
    control: Line,
    clients: HashMap<(u16, ConnToken), Line>,
    /// Every client with a line, the next one first.
    ring: VecDeque<(u16, ConnToken)>,
    is_controls_turn: bool,
    len: usize,
}

/// The publishes of one source.
#[derive(Debug, Default)]
struct Line {
    /// With when each came, the oldest first.
    publishes: VecDeque<(MonotonicNs, Publish)>,
    credit: usize,
}

impl Line {
    fn cost(&self) -> Option<usize> {
        self.publishes.front().map(|(_, publish)| publish.payload.len() + PUBLISH_COST_BYTES)
    }

    fn pop(&mut self) -> Option<Publish> {
        let cost = self.cost()?;
        self.credit = self.credit.saturating_sub(cost);
        let publish = self.publishes.pop_front().map(|(_, publish)| publish);
        if self.publishes.is_empty() {
            // Nobody saves up for a burst, and a burst's room is given back.
            *self = Line::default();
        }
        publish
    }
}

impl Queue {
    pub fn push(&mut self, publish: Publish, now: MonotonicNs) {
        self.len += 1;
        match &publish.asker {
            Asker::Control(_) => self.control.publishes.push_back((now, publish)),
            Asker::Client(ReplyTo { shard, conn, .. }) => {
                let source = (*shard, *conn);
                let line = self.clients.entry(source).or_insert_with(|| {
                    self.ring.push_back(source);
                    Line::default()
                });
                line.publishes.push_back((now, publish));
            }
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many have something to send: as often [`Queue::pass`] leads to another one.
    pub fn sources(&self) -> usize {
        self.ring.len() + usize::from(!self.control.publishes.is_empty())
    }

    /// The publish whose turn it is.
    pub fn front(&mut self) -> Option<&Publish> {
        if self.is_empty() {
            return None;
        }
        loop {
            let line = self.current();
            let cost = line.cost().expect("lines in turn are not empty");
            if line.credit >= cost {
                break;
            }
            line.credit += SOURCE_TURN_BYTES;
            self.pass();
        }
        self.current().publishes.front().map(|(_, publish)| publish)
    }

    /// Takes out those that came before this moment, whose ever turn it is.
    pub fn overdue(&mut self, before: MonotonicNs) -> Vec<Publish> {
        let mut overdue = Vec::new();
        let mut take = |line: &mut Line| {
            while line.publishes.front().is_some_and(|(came, _)| *came < before) {
                overdue.extend(line.pop());
            }
            line.publishes.is_empty()
        };
        take(&mut self.control);
        self.ring.retain(|source| {
            let is_empty = take(self.clients.get_mut(source).expect("the ring names lines"));
            if is_empty {
                self.clients.remove(source);
            }
            !is_empty
        });
        self.len -= overdue.len();
        overdue
    }

    /// Takes out what [`Queue::front`] showed.
    pub fn pop(&mut self) -> Option<Publish> {
        if self.is_empty() {
            return None;
        }
        self.len -= 1;
        let is_control = self.is_current_control();
        let line = self.current();
        let publish = line.pop();
        if !is_control && line.publishes.is_empty() {
            let source = self.ring.pop_front().expect("it was its turn");
            self.clients.remove(&source);
            self.is_controls_turn = true;
        }
        publish
    }

    /// It is somebody else's turn.
    pub fn pass(&mut self) {
        let was_control = self.is_current_control();
        if !was_control && !self.ring.is_empty() {
            self.ring.rotate_left(1);
        }
        self.is_controls_turn = !was_control;
    }

    fn is_current_control(&self) -> bool {
        !self.control.publishes.is_empty() && (self.is_controls_turn || self.ring.is_empty())
    }

    fn current(&mut self) -> &mut Line {
        if self.is_current_control() {
            return &mut self.control;
        }
        let source = self.ring.front().expect("somebody has something to send");
        self.clients.get_mut(source).expect("the ring names lines")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(index: u32, payload_bytes: usize) -> Publish {
        let asker = Asker::Client(ReplyTo { shard: 0, conn: ConnToken { index, generation: 0 }, id: None });
        Publish::new("c", vec![index as u8; payload_bytes], asker)
    }

    fn control(payload_bytes: usize) -> Publish {
        Publish::new("c", vec![0xcc; payload_bytes], Asker::Control(tokio::sync::oneshot::channel().0))
    }

    /// Whose publishes come out, in order, and how many bytes.
    fn drain(queue: &mut Queue) -> Vec<(u8, usize)> {
        std::iter::from_fn(|| {
            queue.front()?;
            let publish = queue.pop().unwrap();
            Some((publish.payload[0], publish.payload.len()))
        })
        .collect()
    }

    #[test]
    fn one_behind_a_flood_waits_for_a_turn_and_not_for_the_flood() {
        let mut queue = Queue::default();
        (0..1000).for_each(|_| queue.push(client(1, 60_000), 0));
        queue.push(client(2, 10), 0);
        queue.push(control(10), 0);
        assert_eq!((queue.len(), queue.sources()), (1002, 3));
        let order = drain(&mut queue);
        let place = |who: u8| order.iter().position(|&(from, _)| from == who).unwrap();
        assert!(place(2) <= 2 && place(0xcc) <= 2, "{:?}", &order[..5]);
        assert_eq!(order.len(), 1002);
        assert!(queue.is_empty() && queue.front().is_none() && queue.pop().is_none());
        assert!(queue.clients.is_empty() && queue.ring.is_empty());
    }

    #[test]
    fn turns_are_measured_in_bytes_and_the_control_port_has_every_other() {
        let mut queue = Queue::default();
        (0..100).for_each(|_| queue.push(client(1, 100_000), 0));
        (0..10_000).for_each(|_| queue.push(client(2, 1000), 0));
        (0..1000).for_each(|_| queue.push(control(10_000), 0));
        let mut bytes = HashMap::new();
        for (who, payload_bytes) in drain(&mut queue) {
            *bytes.entry(who).or_insert(0) += payload_bytes;
            if bytes.values().sum::<usize>() > 8_000_000 {
                break;
            }
        }
        assert!((3_500_000..=4_500_000).contains(&bytes[&0xcc]), "{bytes:?}");
        assert!((1_500_000..=2_500_000).contains(&bytes[&1]) && (1_300_000..=2_500_000).contains(&bytes[&2]), "{bytes:?}");
    }

    #[test]
    fn passing_leads_to_everybody() {
        let mut queue = Queue::default();
        (1..=3).for_each(|index| queue.push(client(index, 10), 0));
        queue.push(control(10), 0);
        let mut met = std::collections::HashSet::new();
        for _ in 0..2 * queue.sources() {
            met.insert(queue.front().unwrap().payload[0]);
            queue.pass();
        }
        assert_eq!(met.len(), 4);
    }

    #[test]
    fn the_control_port_alone_and_last_of_all() {
        let mut queue = Queue::default();
        (0..3).for_each(|_| queue.push(control(10), 0));
        assert_eq!(drain(&mut queue).len(), 3);
        queue.push(client(1, 10), 0);
        queue.push(control(100_000), 0);
        queue.push(control(100_000), 0);
        assert_eq!(drain(&mut queue).len(), 3);
        queue.push(client(1, 100_000), 0);
        queue.push(control(10), 0);
        assert_eq!(drain(&mut queue).len(), 2);
        assert!(queue.is_empty() && queue.sources() == 0);
    }

    #[test]
    fn order_within_a_source_is_kept() {
        let mut queue = Queue::default();
        (1..=50).for_each(|size| queue.push(client(1, size * 3000), 0));
        let sizes: Vec<usize> = drain(&mut queue).into_iter().map(|(_, size)| size).collect();
        assert!(sizes.is_sorted() && sizes.len() == 50);
    }

    /// Whoever has waited for too long is answered, in whose turn it never was.
    #[test]
    fn what_waits_for_too_long_is_taken_out_of_every_line() {
        let mut queue = Queue::default();
        for now in [10, 20, 30] {
            queue.push(client(1, 10), now);
            queue.push(control(10), now);
        }
        queue.push(client(2, 10), 10);
        assert!(queue.overdue(10).is_empty());
        assert_eq!((queue.overdue(11).len(), queue.len(), queue.sources()), (3, 4, 2));
        assert_eq!((queue.overdue(30).len(), queue.len()), (2, 2));
        assert_eq!((drain(&mut queue).len(), queue.len(), queue.clients.len()), (2, 0, 0));
    }
}
