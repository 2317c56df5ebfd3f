//! Durable channels that become another server's, or whose server becomes another: in a Cluster, and where Sentinels name the master.

use redis::ServerError;

use super::{Durables, State, Tracked};
use crate::bus::question::PageWanted;
use crate::bus::redis::cluster::Redirect;
use crate::bus::redis::cluster::map::Node;
use crate::bus::redis::fault::Refusal;
use crate::bus::redis::placement::Part;
use crate::clock::{MonotonicNs, nanos};
use crate::limits::redis::durable::{DOUBT_MAX, HELD_BYTES_MAX, READ_BYTES_MAX};

impl Durables {
    /// There are so many of them, of as many servers: what is bounded for all of them is divided.
    pub fn share_among(mut self, servers: usize) -> Durables {
        self.divide(servers);
        self
    }

    /// In a Cluster: other channels are this server's, of so many.
    pub fn set_part(&mut self, part: Part, servers: usize) {
        self.part = part;
        self.divide(servers);
    }

    fn divide(&mut self, servers: usize) {
        let servers = servers.max(1);
        self.turn_bytes_max = self.turn_bytes_of_all / servers;
        (self.held_bytes_max, self.read_bytes_max) = (HELD_BYTES_MAX / servers, READ_BYTES_MAX / servers);
    }

    /// The master is another: it may not have what the one before has handed out.
    pub fn doubt(&mut self, now: MonotonicNs) {
        self.remembered.values_mut().for_each(|remembered| remembered.is_doubtful = true);
        self.doubt_until = Some(now + nanos(DOUBT_MAX));
    }

    /// Whether the new master may give numbers of this channel that the one before has given, because nobody has looked yet: a publisher would be told a
    /// position that clients have of another message.
    pub fn is_doubtful(&mut self, channel: &str, now: MonotonicNs) -> bool {
        let Some(until) = self.doubt_until else { return false };
        if now >= until {
            self.doubt_until = None;
            return false;
        }
        let is_live = |tracked: &Tracked| tracked.state == State::Live || !tracked.is_doubtful;
        self.channels.get(channel).is_some_and(|tracked| !is_live(tracked))
            || self.remembered.get(channel).is_some_and(|remembered| remembered.is_doubtful)
    }

    pub fn take_is_old(&mut self) -> Option<Option<Node>> {
        self.is_old.take()
    }

    /// Pages that wait here though their channels are another server's by now.
    pub fn take_foreign_pages(&mut self) -> Vec<PageWanted> {
        self.pages.take_due_but(|channel| self.part.has(&channel.name))
    }

    /// Whether it may be asked again, here or elsewhere; then it is noted whether the map is old.
    pub(super) fn is_for_now(&mut self, error: &ServerError) -> bool {
        let redirect = Redirect::of(error).filter(|_| self.part.is_of_cluster());
        if let Some(Redirect::Moved(node)) = &redirect {
            self.is_old = Some(node.clone());
        }
        redirect.is_some() || Refusal::of(error) == Refusal::ForNow
    }
}
