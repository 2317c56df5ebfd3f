//! Where each connection of a shard comes from, and how fast it may have channels made. Asked at accept and by `subscribe`, never on the way of
//! a message; so it lies apart from the connections, by slot.

use hashbrown::HashMap;

use super::rate::{Moment, Rate};
use crate::addresses::Source;
use crate::limits;

#[derive(Debug)]
pub struct Sources {
    /// Each in the same place as its connection.
    origins: Vec<Origin>,
    /// So many channels a connection may have made a second, in the long run,
    per_second: u32,
    /// and this many at once after a rest.
    burst: u32,
    channels: Rate,
    /// Of each connection.
    commands: Option<Rate>,
    /// Of the few that have sent too many: how many were refused, less those that were obeyed since.
    limited: HashMap<u32, u32>,
}

/// What is remembered of the connection in a slot.
#[derive(Debug, Clone, Copy)]
struct Origin {
    source: Source,
    standing: Standing,
    since: Since,
    /// When all its commands, and all channels that it had made, will be as if they had come one interval apart ([`super::rate`]).
    commands_even_at: Moment,
    channels_even_at: Moment,
}

/// Seconds from the shard's start, in the three bytes that would lie idle: half a year, and no more is known of what is older.
#[derive(Debug, Clone, Copy)]
struct Since([u8; 3]);

impl Since {
    const MOST_S: u32 = (1 << 24) - 1;

    fn new(seconds: u32) -> Since {
        let [_, a, b, c] = seconds.min(Since::MOST_S).to_be_bytes();
        Since([a, b, c])
    }

    fn seconds(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_be_bytes([0, a, b, c])
    }
}

const _: () = assert!(size_of::<Origin>() == 20, "every connection has one");

/// What is known of who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Of all that its address may take it has a part.
    Counted,
    /// Nothing was limited when it came.
    Uncounted,
    /// A trusted proxy, or somebody on a unix socket: believed, and not limited itself.
    Trusted,
    /// Its address may take no more: it is told so.
    Refused,
}

impl Sources {
    /// A connection may change all of its subscriptions twice in a row, and then all of them once in a while.
    pub fn new(subscriptions_max: usize, commands_per_second: Option<usize>) -> Sources {
        let mut sources =
            Sources { origins: Vec::new(), per_second: 0, burst: 0, channels: Rate::new(1, 1), commands: None, limited: HashMap::new() };
        sources.set_limits(subscriptions_max, commands_per_second);
        sources
    }

    /// How fast connections may ask from now on.
    pub fn set_limits(&mut self, subscriptions_max: usize, commands_per_second: Option<usize>) {
        // All subscriptions may be left and made anew, twice, beside a second's worth.
        self.commands = commands_per_second.map(|count| Rate::new(count, count + 4 * subscriptions_max));
        let per_second = (subscriptions_max / limits::RESUBSCRIBE_ALL_SECONDS).clamp(limits::CHANNELS_PER_SECOND_MIN, 1000);
        let burst = (2 * subscriptions_max).max(limits::CHANNELS_AT_ONCE_MIN);
        self.channels = Rate::new(per_second, burst);
        (self.per_second, self.burst) = (per_second as u32, burst as u32);
    }

    /// A connection takes its place, `since_s` seconds after the shard has started.
    pub fn enter(&mut self, key: usize, source: Source, standing: Standing, since_s: u32, now: Moment) {
        let since = Since::new(since_s);
        let origin = Origin { source, standing, since, commands_even_at: now, channels_even_at: now };
        self.limited.remove(&(key as u32));
        match self.origins.get_mut(key) {
            Some(before) => *before = origin,
            // Slots are given out from the lowest on.
            None => self.origins.push(origin),
        }
        debug_assert!(key < self.origins.len());
    }

    /// Only so many places are left.
    pub fn keep(&mut self, places: usize) {
        self.origins.truncate(places);
        self.origins.shrink_to_fit();
    }

    pub fn source(&self, key: usize) -> Source {
        self.origins[key].source
    }

    /// When the connection came, in seconds after the shard has started.
    pub fn since_s(&self, key: usize) -> u32 {
        self.origins[key].since.seconds()
    }

    pub fn standing(&self, key: usize) -> Standing {
        self.origins[key].standing
    }

    /// It comes from elsewhere than its socket says.
    pub fn name(&mut self, key: usize, source: Source, standing: Standing) {
        (self.origins[key].source, self.origins[key].standing) = (source, standing);
    }

    /// Whether a command of the connection may be obeyed now; if so, it counts.
    pub fn may_command(&mut self, key: usize, now: Moment) -> bool {
        let Some(rate) = self.commands else { return true };
        let may = rate.take(&mut self.origins[key].commands_even_at, now);
        let slot = key as u32;
        if !may {
            *self.limited.entry(slot).or_default() += 1;
        } else if let Some(count) = self.limited.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.limited.remove(&slot);
            }
        }
        may
    }

    /// Whether it has gone on for so long though it was refused that its answers cost more than they tell.
    pub fn is_flooding(&self, key: usize) -> bool {
        self.limited.get(&(key as u32)).is_some_and(|count| *count >= limits::LIMITED_COMMANDS_MAX)
    }

    /// Whether the connection may have a channel made now; if so, it counts.
    pub fn may_create(&mut self, key: usize, now: Moment) -> bool {
        self.channels.take(&mut self.origins[key].channels_even_at, now)
    }

    pub fn burst(&self) -> u32 {
        self.burst
    }

    pub fn per_second(&self) -> u32 {
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::super::rate::moment;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn peer(number: u8) -> Source {
        Source::of_ip([192, 0, 2, number].into())
    }

    #[test]
    fn a_connection_may_make_a_burst_and_then_some_in_a_while() {
        let mut sources = Sources::new(128, None);
        assert_eq!((sources.burst(), sources.per_second()), (256, 16));
        let start = 1000 * SECOND;
        for key in 0..2 {
            sources.enter(key, peer(key as u8), Standing::Counted, 0, moment(start));
        }
        let made = |sources: &mut Sources, now| (0..1000).filter(|_| sources.may_create(0, moment(now))).count();
        assert_eq!(made(&mut sources, start), 256);
        assert_eq!(made(&mut sources, start + SECOND), 16);
        assert_eq!(made(&mut sources, start + 60 * SECOND), 256, "after a rest, and no more for a long one");
        assert!(sources.may_create(1, moment(start)), "the other one is not concerned");
        assert_ne!(sources.source(0), sources.source(1));
        sources.enter(0, peer(1), Standing::Counted, 0, moment(start));
        assert_eq!(made(&mut sources, start), 256, "who comes into the slot begins anew");
    }

    #[test]
    fn how_long_somebody_is_here_is_kept_for_half_a_year() {
        let mut sources = Sources::new(1, None);
        for (since_s, kept) in [(0, 0), (1, 1), (0x12_3456, 0x12_3456), (u32::MAX, Since::MOST_S)] {
            sources.enter(0, peer(1), Standing::Counted, since_s, 0);
            assert_eq!(sources.since_s(0), kept);
        }
    }

    #[test]
    fn commands_have_a_rate_with_room_for_all_subscriptions() {
        let mut sources = Sources::new(10, Some(5));
        sources.enter(0, peer(1), Standing::Counted, 0, 0);
        sources.enter(1, peer(1), Standing::Counted, 0, 0);
        let obeyed = |sources: &mut Sources, now| (0..1000).filter(|_| sources.may_command(0, now)).count();
        assert_eq!(obeyed(&mut sources, 0), 45);
        assert_eq!(obeyed(&mut sources, moment(2 * SECOND)), 10);
        assert!(sources.may_command(1, 0), "the other connection is not concerned");
    }

    #[test]
    fn many_subscriptions_and_few_have_a_rate_that_serves_them() {
        for (subscriptions_max, burst, per_second) in
            [(1, 64, 16), (5000, 10_000, 500), (limits::SUBSCRIPTIONS_MAX, 2 * limits::SUBSCRIPTIONS_MAX as u32, 1000)]
        {
            let mut sources = Sources::new(subscriptions_max, None);
            assert!((sources.burst(), sources.per_second()) >= (burst, per_second), "{sources:?}");
            sources.enter(0, peer(1), Standing::Counted, 0, 0);
            let made = (0..=sources.burst()).filter(|_| sources.may_create(0, 0)).count();
            assert_eq!(made, sources.burst() as usize, "the whole burst and no more");
        }
    }
}
