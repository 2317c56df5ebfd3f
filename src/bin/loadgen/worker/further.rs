//! Channels that a client has beyond its first: asked for once everybody is connected, some at a time, each with a check of its own.

use std::sync::atomic::Ordering::Relaxed;

use super::Worker;
use crate::client::Phase;
use crate::crowd::ChannelRange;
use crate::events::Refusal;
use crate::sequence::Sequence;
use crate::target::Ready;

/// Commands of one client that are under way at once: enough to keep a server busy, few enough that sixteen clients do not fill its queues.
const UNDER_WAY_MAX: u32 = 512;
/// After this the server is asked again for what it was too busy for.
const ASK_AGAIN_US: u32 = 50_000;

/// What one client has beyond its first channel.
#[derive(Debug)]
pub struct Further {
    channels: ChannelRange,
    sequences: Box<[Sequence]>,
    errand: Errand,
    /// Of it, so many commands were sent,
    asked: u32,
    /// and so many of them were confirmed.
    confirmed: u32,
}

/// What is being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    Subscribe,
    /// From all of them, and from the client's first channel in the end.
    Unsubscribe,
}

impl Further {
    pub fn new(channels: ChannelRange) -> Further {
        let sequences = (0..channels.count).map(|_| Sequence::default()).collect();
        Further { channels, sequences, errand: Errand::Subscribe, asked: 0, confirmed: 0 }
    }

    pub fn sequence(&mut self, channel: u32) -> Option<&mut Sequence> {
        self.sequences.get_mut(self.channels.place(channel)? as usize)
    }

    pub fn awaits(&self) -> bool {
        self.asked > self.confirmed
    }

    /// Commands that the errand takes.
    fn commands(&self) -> u32 {
        match self.errand {
            Errand::Subscribe => self.channels.count,
            Errand::Unsubscribe => self.channels.count + 1,
        }
    }

    /// Each channel with its check.
    pub fn sequences(&mut self) -> impl Iterator<Item = (u32, &mut Sequence)> {
        self.channels.iter().zip(&mut self.sequences)
    }
}

impl Worker {
    /// Every client begins to ask for its further channels.
    pub(super) fn subscribe(&mut self) {
        let clients: Vec<u32> = self.further.keys().copied().collect();
        clients.into_iter().for_each(|client| self.ask_on(client as usize));
    }

    /// Every client unsubscribes from all that it has.
    pub(super) fn unsubscribe(&mut self) {
        for index in 0..self.clients.len() {
            if self.clients[index].phase != Phase::Ready {
                continue;
            }
            match self.further.get_mut(&(index as u32)) {
                Some(further) => {
                    (further.errand, further.asked, further.confirmed) = (Errand::Unsubscribe, 0, 0);
                    self.ask_on(index);
                }
                None => self.send(index, &self.plan.target.unsubscribe_frame(self.clients[index].channel)),
            }
        }
    }

    /// Asks for as much as may be under way.
    fn ask_on(&mut self, index: usize) {
        let Worker { further, plan, base, clients, .. } = self;
        let Some(further) = further.get_mut(&(index as u32)) else { return };
        // Where nothing is said of it, it has been asked for, which is all that can be known.
        let is_told = plan.target.ready != Ready::Upgrade;
        let room = if is_told { UNDER_WAY_MAX - (further.asked - further.confirmed) } else { u32::MAX };
        let more = room.min(further.commands() - further.asked);
        let frame = |place| match further.errand {
            Errand::Subscribe => plan.target.subscribe_frame(*base + index as u32, further.channels.at(place)),
            Errand::Unsubscribe if place < further.channels.count => plan.target.unsubscribe_frame(further.channels.at(place)),
            Errand::Unsubscribe => plan.target.unsubscribe_frame(clients[index].channel),
        };
        let frames: Vec<u8> = (further.asked..further.asked + more).flat_map(frame).collect();
        further.asked += more;
        self.send(index, &frames);
        if !is_told {
            (0..more).for_each(|_| self.confirmed(index, None));
        }
    }

    /// The server has confirmed one of them: by its number, or whichever comes next.
    pub(super) fn confirmed(&mut self, index: usize, channel: Option<u32>) {
        let Worker { further, plan, tally, .. } = self;
        let Some(further) = further.get_mut(&(index as u32)) else { return };
        let channel = channel.unwrap_or_else(|| further.channels.at(further.confirmed));
        let Some(sequence) = further.sequence(channel) else {
            tally.counts.foreign += 1;
            return;
        };
        sequence.expect_from(plan.published[channel as usize].load(Relaxed));
        tally.counts.subscribed += 1;
        self.is_done(index);
    }

    /// The server has confirmed that a client has left a channel.
    pub(super) fn unsubscribed(&mut self, index: usize) {
        self.tally.counts.unsubscribed += 1;
        self.is_done(index);
    }

    /// One command more has had its answer.
    fn is_done(&mut self, index: usize) {
        let Some(further) = self.further.get_mut(&(index as u32)) else { return };
        further.confirmed += 1;
        // Half of them at once: a write for each would be most of the work.
        if further.asked < further.commands() && further.asked - further.confirmed <= UNDER_WAY_MAX / 2 {
            self.ask_on(index);
        }
    }

    /// It could not be had now, and will be asked for again. False: it is something else that was refused.
    pub(super) fn was_too_busy(&mut self, index: usize, refusal: &Refusal) -> bool {
        let awaits = self.further.get(&(index as u32)).is_some_and(Further::awaits);
        let Some(channel) = refusal.id.filter(|_| awaits && refusal.is_for_now).and_then(|id| u32::try_from(id).ok()) else {
            return false;
        };
        self.tally.counts.asked_again += 1;
        self.ask_again.push_back((self.now_us() + ASK_AGAIN_US, index as u32, channel));
        true
    }

    pub(super) fn ask_again(&mut self) {
        let now_us = self.now_us();
        while let Some((_, client, channel)) = self.ask_again.front().copied().filter(|(due_us, ..)| *due_us <= now_us) {
            self.ask_again.pop_front();
            let frame = self.plan.target.subscribe_frame(self.base + client, channel);
            self.send(client as usize, &frame);
        }
    }
}
