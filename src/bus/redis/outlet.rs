//! What goes out on the publishing connection: how much at once, and what its answers mean for the publishes under way. Sans-IO but for the
//! commands it writes; owned by [`super::server::Server`].

use redis::ServerError;

use super::awaiting::Asked;
use super::durable;
use super::fault::{Fault, text_of};
use super::link::{Answer as Reply, Link};
use super::output_limit::{self, OutputLimit};
use super::publishes::{Answer, Fenced, Publishes};
use crate::bus::hub::Hub;
#[cfg(doc)]
use crate::bus::lane::Lane;
use crate::bus::question::PublishError;
use crate::clock::MonotonicNs;
use crate::config::Settings;
use crate::limits::bus::PUBLISHES_MAX;

#[derive(Debug)]
pub struct Outlet {
    limit: OutputLimit,
    /// Redis was asked for it, or cannot be asked.
    was_asked: bool,
    /// And has not answered.
    is_due: bool,
    /// Under way at once. What comes back goes into the shards' inboxes: at most half of one ([`Lane::has_room_for`] leaves it free).
    publishes_max: usize,
    bytes_max: usize,
}

impl Outlet {
    /// `servers`: as many have one, and what comes back of all of them goes into the same inboxes.
    pub fn new(settings: &Settings, servers: usize) -> Outlet {
        Outlet {
            limit: OutputLimit::default(),
            was_asked: false,
            is_due: false,
            publishes_max: (PUBLISHES_MAX.min(settings.shards.inbox_messages / 2) / servers).max(1),
            bytes_max: settings.bounds.inbox_bytes_total / settings.shards.count / 2 / servers,
        }
    }

    /// The largest message that Redis can keep for a subscriber.
    pub fn message_bytes_max(&self) -> usize {
        self.limit.message_bytes_max()
    }

    pub fn has_room_for(&self, publishes: &Publishes, message_bytes: usize) -> bool {
        let window = self.limit.window_bytes().min(self.bytes_max);
        let returning = publishes.returning_bytes();
        !self.is_due && publishes.len() < self.publishes_max && (returning == 0 || returning + message_bytes <= window)
    }

    /// Asks how much Redis keeps for subscribers. The connection is ready.
    pub fn ask(&mut self, link: &mut Link, now: MonotonicNs) {
        (self.was_asked, self.is_due) = (true, true);
        link.ask(Asked::OutputLimit, &[b"CONFIG", b"GET", output_limit::PARAMETER.as_bytes()], now);
    }

    /// The same, unless that is known or under way.
    pub fn ask_anew(&mut self, link: &mut Link, now: MonotonicNs) {
        if link.is_ready() && !self.was_asked && !self.is_due {
            self.ask(link, now);
        }
    }

    /// The subscribed connection was lost, perhaps because the limit was lowered.
    pub fn doubt(&mut self) {
        self.was_asked = false;
    }

    /// The publishing connection is lost: what is not answered may or may not have been published.
    pub fn lose(&mut self, publishes: &mut Publishes, hub: &mut Hub) {
        self.is_due = false;
        for (publish, result) in publishes.connection_lost() {
            hub.published(publish, result);
        }
    }

    /// One answer of Redis. Returns what a PING on the subscribed connection has to prove. `is_subscribed`: that one stands.
    pub fn take(
        &mut self,
        publishes: &mut Publishes,
        hub: &mut Hub,
        reply: Reply<'_>,
        is_subscribed: bool,
    ) -> Result<Option<Fenced>, Fault> {
        let answer = match reply {
            Reply::OutputLimit(limit) => {
                (self.limit, self.is_due) = (limit, false);
                return Ok(None);
            }
            Reply::Published { number } => Ok(number),
            Reply::Refused { error, .. } if error.code() == "NOAUTH" => return Err(Fault::refused(error)),
            Reply::Refused { error, .. } => Err(refusal(error)),
            Reply::Pong { .. } | Reply::Nothing => return Ok(None),
            Reply::Odd { asked: None } => {
                hub.metrics().protocol_errors.inc();
                return Ok(None);
            }
            Reply::Odd { .. }
            | Reply::Message { .. }
            | Reply::Confirmed { .. }
            | Reply::Revocations { .. }
            | Reply::Durable { .. }
            | Reply::Presence { .. }
            | Reply::Library { .. }
            | Reply::Memory { .. }
            | Reply::Probed => {
                return Err(Fault::new("it answers what was not asked"));
            }
        };
        let Some(Answer { done, needs_fence }) = publishes.answered(answer, is_subscribed) else {
            return Err(Fault::new("it answers what was not asked"));
        };
        if let Some((publish, result)) = done {
            hub.published(publish, result);
        }
        Ok(needs_fence)
    }
}

fn refusal(error: &ServerError) -> PublishError {
    if durable::is_without_library(error) { PublishError::NoLibrary } else { PublishError::Refused(text_of(error)) }
}
