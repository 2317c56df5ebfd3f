//! Which channels have the most to deliver, for whoever watches the server ([`crate::control::stats`]). Counted from the first time that is asked until
//! nobody has asked for a while, and not otherwise. Owned by [`super::hub::Hub`].
//!
//! There may be a million channels, and [`PLACES`] of them have a count: a channel that has none takes the place of the lowest one and goes on from its count
//! (Metwally, Agrawal, El Abbadi: the Space-Saving sketch). So whoever makes more than one delivery in [`PLACES`] is among them for certain. What a channel
//! went on from is known, and is not told as its own: what is told is never too much.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hashbrown::HashMap;

use crate::clock::{MonotonicNs, nanos};
use crate::fanout::batch::Channel;
use crate::limits::bus::{BUSIEST_KEPT, BUSIEST_PLACES as PLACES};

#[derive(Debug)]
pub struct Busiest {
    places: Vec<Place>,
    /// Which place is a channel's, by its address: it is held, so no other has the same.
    index: HashMap<usize, usize>,
    since: MonotonicNs,
}

#[derive(Debug)]
struct Place {
    channel: Arc<Channel>,
    messages: u64,
    /// With what it went on from.
    count: u64,
    went_on_from: u64,
}

/// What has been counted in so long.
#[derive(Debug, Default)]
pub struct Busy {
    pub ns: u64,
    /// The busiest first.
    pub channels: Vec<BusyChannel>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct BusyChannel {
    pub name: String,
    pub messages: u64,
    /// Messages times subscribers.
    pub deliveries: u64,
    pub subscribers: u32,
}

impl Busiest {
    pub fn new(now: MonotonicNs) -> Busiest {
        Busiest { places: Vec::with_capacity(PLACES), index: HashMap::with_capacity(PLACES), since: now }
    }

    /// So many messages go to whoever is subscribed.
    pub fn count(&mut self, channel: &Arc<Channel>, messages: u64) {
        let deliveries = messages.saturating_mul(channel.subscribers.load(Relaxed).into());
        if deliveries == 0 {
            return;
        }
        let address = Arc::as_ptr(channel).addr();
        if let Some(&at) = self.index.get(&address) {
            self.places[at].messages += messages;
            self.places[at].count += deliveries;
            return;
        }
        let place = |from: u64| Place { channel: channel.clone(), messages, count: from + deliveries, went_on_from: from };
        if self.places.len() < PLACES {
            self.index.insert(address, self.places.len());
            self.places.push(place(0));
            return;
        }
        let (at, lowest) = self.places.iter().enumerate().min_by_key(|(_, place)| place.count).expect("all places are taken");
        self.index.remove(&Arc::as_ptr(&lowest.channel).addr());
        self.places[at] = place(lowest.count);
        self.index.insert(address, at);
    }

    /// The busiest since it was last asked, and counts anew.
    pub fn take(&mut self, limit: usize, now: MonotonicNs) -> Busy {
        let ns = now.saturating_sub(std::mem::replace(&mut self.since, now));
        self.index.clear();
        let told = |place: Place| BusyChannel {
            name: place.channel.name.to_string(),
            messages: place.messages,
            deliveries: place.count - place.went_on_from,
            subscribers: place.channel.subscribers.load(Relaxed),
        };
        let mut channels: Vec<BusyChannel> = self.places.drain(..).map(told).collect();
        channels.sort_by(|a, b| b.deliveries.cmp(&a.deliveries).then_with(|| a.name.cmp(&b.name)));
        channels.truncate(limit);
        Busy { ns, channels }
    }

    /// Nobody has asked for so long that nobody will.
    pub fn is_over(&self, now: MonotonicNs) -> bool {
        now.saturating_sub(self.since) > nanos(BUSIEST_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn channel(name: &str, subscribers: u32) -> Arc<Channel> {
        Arc::new(Channel { name: name.into(), epoch: 1, subscribers: AtomicU32::new(subscribers) })
    }

    #[test]
    fn the_busiest_are_told_in_order_and_counting_begins_anew() {
        let mut busiest = Busiest::new(100);
        let [few, many, nobody] = [("few", 2), ("many", 1000), ("nobody", 0)].map(|(name, subscribers)| channel(name, subscribers));
        busiest.count(&few, 30);
        busiest.count(&many, 1);
        busiest.count(&many, 2);
        busiest.count(&nobody, 1000);
        let busy = busiest.take(10, 1100);
        let told = |name: &str, messages, deliveries, subscribers| BusyChannel { name: name.into(), messages, deliveries, subscribers };
        assert_eq!((busy.ns, busy.channels), (1000, vec![told("many", 3, 3000, 1000), told("few", 30, 60, 2)]));
        busiest.count(&few, 1);
        assert_eq!(busiest.take(10, 1200).channels, [told("few", 1, 2, 2)]);
        busiest.count(&few, 1);
        busiest.count(&many, 1);
        assert_eq!(busiest.take(1, 1300).channels, [told("many", 1, 1000, 1000)], "no more than are asked for");
    }

    #[test]
    fn a_busy_channel_is_found_among_very_many_and_never_told_too_much() {
        let mut busiest = Busiest::new(0);
        let crowd: Vec<_> = (0..20 * PLACES).map(|number| channel(&format!("c{number}"), 1)).collect();
        let busy = channel("busy", 1);
        for one in &crowd {
            busiest.count(one, 1);
            busiest.count(&busy, 1);
        }
        assert!(busiest.places.len() == PLACES && busiest.index.len() == PLACES);
        let told = busiest.take(PLACES, 1).channels;
        assert!(told[0].name == "busy" && told[0].deliveries <= 20 * PLACES as u64, "{:?}", told[0]);
        assert!(told[1..].iter().all(|channel| channel.deliveries == 1), "nobody is told what others have delivered");
    }
}
