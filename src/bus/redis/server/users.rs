//! What a server is asked about users and about who is there.

use super::{Role, Server};
use crate::bus::hub::Hub;
use crate::bus::presence::{self, PresenceAsked, PresenceError, Roster};
use crate::bus::redis::presence::Census;

impl Server {
    /// Whether what is asked on such a connection can be asked in a moment: it is being made. It is opened where there is none yet.
    pub fn is_coming(&mut self, role: Role) -> bool {
        self.open_beside(role);
        match self.link(role) {
            Some(link) => !link.is_ready() && !link.is_backing_off() && self.is_subscribed(),
            None => self.is_at_first_try(),
        }
    }

    /// Whether it can be asked about users, as far as is known. The connection for that may have to be made first.
    pub fn can_keep(&self) -> bool {
        self.is_subscribed()
    }

    pub fn count_channel(&mut self, channel: &str, subscribers: u32) {
        self.presence.count_channel(channel, subscribers);
    }

    pub fn count_user(&mut self, user: &str, connections: u32) {
        self.presence.count_user(user, connections);
    }

    pub fn list_members(&mut self, channel: &str, roster: &Roster) {
        self.presence.list_members(channel, roster);
    }

    /// Whether anything of this node is, or has been, counted here.
    pub fn has_counted(&self) -> bool {
        self.presence.has_counted()
    }

    pub fn presence(&mut self, hub: &mut Hub, asked: PresenceAsked) {
        match self.link(Role::Presence) {
            Some(link) if link.is_ready() => self.presence.ask(hub, asked),
            _ => presence::answer(hub, asked.asker, asked.subject, Err(PresenceError::Unavailable)),
        }
    }

    /// What comes of it is taken by [`Server::take_censuses`].
    pub fn census(&mut self, census: Census) {
        match self.link(Role::Presence) {
            Some(link) if link.is_ready() => self.presence.ask_census(census),
            _ => self.presence.censuses.push(Census::failed(census.number, PresenceError::Unavailable)),
        }
    }

    pub fn take_censuses(&mut self) -> Vec<Census> {
        std::mem::take(&mut self.presence.censuses)
    }
}
