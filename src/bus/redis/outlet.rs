//! What goes out on the publishing connection: how much at once, and what its answers mean for the publishes under way. Sans-IO but for the
//! commands it writes; owned by [`super::server::Server`].

use redis::ServerError;

use super::awaiting::Asked;
use super::cluster::Redirect;
use super::cluster::again::Returned;
use super::durable;
use super::fault::{Fault, text_of};
use super::link::{Answer as Reply, Link};
use super::output_limit::{self, OutputLimit};
use super::publishes::{Answer, Fenced, Publishes};
use crate::bus::hub::Hub;
#[cfg(doc)]
use crate::bus::lane::Lane;
use crate::bus::question::{Publish, PublishError, Published};
use crate::clock::MonotonicNs;
use crate::config::Settings;
use crate::limits::bus::PUBLISHES_MAX;

/// How long a replica may take: less than an answer may.
const WAIT_MS: &[u8] = b"1000";

#[derive(Debug)]
pub struct Outlet {
    /// In a Cluster: what a node has not executed, because it is another's to do or must wait. None: it is answered as it is.
    returned: Option<Vec<Returned>>,
    /// Replicas that must have a durable message before its publisher is answered.
    replicas_wanted: usize,
    /// A durable message was sent, and it was not asked since how many have it.
    is_wait_due: bool,
    /// Which the master has.
    unconfirmed: Vec<(Publish, Published)>,
    limit: OutputLimit,
    /// Redis was asked for it, or cannot be asked.
    was_asked: bool,
    /// And has not answered.
    is_due: bool,
    /// Under way at once. What comes back goes into the shards' inboxes: at most half of one ([`Lane::has_room_for`] leaves it free).
    publishes_max: usize,
    bytes_max: usize,
    /// Of both, each of so many servers has its part.
    servers: usize,
}

impl Outlet {
    /// `servers`: as many have one, and what comes back of all of them goes into the same inboxes.
    pub fn new(settings: &Settings, servers: usize, is_cluster: bool) -> Outlet {
        Outlet {
            returned: is_cluster.then(Vec::new),
            replicas_wanted: settings.redis.durable_wait,
            is_wait_due: false,
            unconfirmed: Vec::new(),
            limit: OutputLimit::default(),
            was_asked: false,
            is_due: false,
            servers,
            publishes_max: PUBLISHES_MAX.min(settings.shards.inbox_messages / 2),
            bytes_max: settings.bounds.inbox_bytes_total / settings.shards.count / 2,
        }
    }

    /// There are so many servers now.
    pub fn share_among(&mut self, servers: usize) {
        self.servers = servers;
    }

    /// What is to be sent again.
    pub fn take_returned(&mut self) -> Vec<Returned> {
        self.returned.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The largest message that Redis can keep for a subscriber.
    pub fn message_bytes_max(&self) -> usize {
        self.limit.message_bytes_max()
    }

    pub fn has_room_for(&self, publishes: &Publishes, message_bytes: usize) -> bool {
        let window = self.limit.window_bytes().min(self.bytes_max / self.servers);
        let publishes_max = (self.publishes_max / self.servers).max(1);
        let returning = publishes.returning_bytes();
        !self.is_due && publishes.len() < publishes_max && (returning == 0 || returning + message_bytes <= window)
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

    /// A message of a durable channel was sent.
    pub fn sent_durable(&mut self) {
        self.is_wait_due = self.replicas_wanted > 0;
    }

    /// Once for all that was sent in this turn.
    pub fn write_wait(&mut self, link: &mut Link, now: MonotonicNs) {
        if link.is_ready() && std::mem::take(&mut self.is_wait_due) {
            link.ask(Asked::Wait, &[b"WAIT", self.replicas_wanted.to_string().as_bytes(), WAIT_MS], now);
        }
    }

    /// So many replicas have what the master has acknowledged, or Redis does not say.
    fn confirm(&mut self, hub: &mut Hub, replicas: Result<usize, &ServerError>) {
        let wanted = self.replicas_wanted;
        for (publish, published) in std::mem::take(&mut self.unconfirmed) {
            let result = match replicas {
                Ok(replicas) if replicas >= wanted => Ok(published),
                Ok(replicas) => Err(PublishError::NotReplicated { replicas, wanted }),
                Err(error) => Err(PublishError::Refused(format!(
                    "the message is published, but whether replicas have it is not known: {}",
                    text_of(error)
                ))),
            };
            hub.published(publish, result);
        }
    }

    /// The subscribed connection was lost, perhaps because the limit was lowered.
    pub fn doubt(&mut self) {
        self.was_asked = false;
    }

    /// The publishing connection is lost: what is not answered may or may not have been published.
    pub fn lose(&mut self, publishes: &mut Publishes, hub: &mut Hub) {
        (self.is_due, self.is_wait_due) = (false, false);
        for (publish, _) in std::mem::take(&mut self.unconfirmed) {
            hub.published(publish, Err(PublishError::Unavailable));
        }
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
        let mut redirect = None;
        let answer = match reply {
            Reply::OutputLimit(limit) => {
                (self.limit, self.is_due) = (limit, false);
                return Ok(None);
            }
            Reply::Waited { replicas } => {
                self.confirm(hub, Ok(replicas));
                return Ok(None);
            }
            Reply::Refused { asked: Asked::Wait, error } => {
                self.confirm(hub, Err(error));
                return Ok(None);
            }
            Reply::Published { number } => Ok(number),
            Reply::Refused { error, .. } if error.code() == "NOAUTH" => return Err(Fault::refused(error)),
            Reply::Refused { error, .. } => {
                redirect = self.returned.as_ref().and_then(|_| Redirect::of(error));
                Err(refusal(error))
            }
            Reply::Pong { .. } | Reply::Nothing => return Ok(None),
            Reply::Odd { asked: None } => {
                hub.metrics().protocol_errors.inc();
                return Ok(None);
            }
            Reply::Odd { .. }
            | Reply::Message { .. }
            | Reply::Confirmed { .. }
            | Reply::Revocations { .. }
            | Reply::Topology { .. }
            | Reply::Role { .. }
            | Reply::Durable { .. }
            | Reply::Kept { .. }
            | Reply::Presence { .. }
            | Reply::Library { .. }
            | Reply::Memory { .. }
            | Reply::Probed => {
                return Err(Fault::new("it answers what was not asked"));
            }
        };
        let awaits_replicas = self.replicas_wanted > 0 && matches!(answer, Ok(Some(_)));
        let Some(Answer { done, needs_fence }) = publishes.answered(answer, is_subscribed) else {
            return Err(Fault::new("it answers what was not asked"));
        };
        match (done, redirect, &mut self.returned) {
            (Some((publish, Err(error))), Some(redirect), Some(returned)) => returned.push(Returned { publish, redirect, error }),
            (Some((publish, Ok(published))), _, _) if awaits_replicas => self.unconfirmed.push((publish, published)),
            (Some((publish, result)), _, _) => hub.published(publish, result),
            (None, _, _) => {}
        }
        Ok(needs_fence)
    }
}

fn refusal(error: &ServerError) -> PublishError {
    if durable::is_without_library(error) { PublishError::NoLibrary } else { PublishError::Refused(text_of(error)) }
}
