//! Who may subscribe and publish: a channel's rule, asked when a client asks, and again ([`super::recheck`]) when its token or the rules have changed.

use super::Shard;
use super::net::Network;
use super::waiters::Waiter;
use crate::auth::Gate;
use crate::auth::rules::{Access, Action, Defaults, decide};
use crate::config::Selector;
use crate::config::rules::Found;
use crate::wire::command::{self, Asked, ErrorCode, Id};
use crate::wire::event::Event;

/// What is said of a subscription that ends because its client may not have it any more.
pub(super) const NOT_ALLOWED: &str = "not_allowed";

impl<N: Network> Shard<N> {
    /// Whether a client may do that with a channel; if not, why not.
    pub(super) fn may(&self, key: usize, channel: &str, action: Action) -> Result<(), &'static str> {
        self.may_by(self.rules.find(channel), key, channel, action)
    }

    /// The same, by the rule that was found for it.
    pub(super) fn may_by(&self, (selector, rule): Found<'_>, key: usize, channel: &str, action: Action) -> Result<(), &'static str> {
        let access = match action {
            Action::Subscribe => rule.subscribe,
            Action::Publish => rule.publish,
        };
        self.may_if(access, selector, key, channel, action)
    }

    fn may_if(&self, access: Access, selector: Option<&Selector>, key: usize, channel: &str, action: Action) -> Result<(), &'static str> {
        let defaults =
            Defaults { asks: !matches!(self.door.gate(), Gate::Open), allow_client_publish: self.settings.clients.allow_client_publish };
        decide(access, action, channel, selector.and_then(|selector| selector.pattern()), self.conns[key].identity.as_deref(), defaults)
    }

    /// False: it may not, and was told so.
    pub(super) fn may_subscribe(&mut self, key: usize, channel: &str, id: Option<&Id>) -> bool {
        let Err(why) = self.may(key, channel, Action::Subscribe) else { return true };
        self.refuse_by_rule(key, Asked::of(command::SUBSCRIBE, channel, id), ErrorCode::NotAllowed, why);
        false
    }

    /// The same of reading what is kept.
    pub(super) fn may_recall(&mut self, key: usize, channel: &str, id: Option<&Id>) -> bool {
        let Err(why) = self.may(key, channel, Action::Subscribe) else { return true };
        self.refuse_by_rule(key, Asked::of(command::HISTORY, channel, id), ErrorCode::NotAllowed, why);
        false
    }

    /// The same of asking how many subscribers a channel has.
    pub(super) fn may_ask_presence(&mut self, key: usize, channel: &str, has_members: bool, id: Option<&Id>) -> bool {
        let found = self.rules.find(channel);
        let result = match found.1.presence_ask {
            _ if !found.1.presence => Err("nobody is told how many subscribers it has"),
            _ if has_members && found.1.presence_members == 0 => Err("nobody is told who its subscribers are"),
            Access::Auto => self.may_by(found, key, channel, Action::Subscribe),
            access => self.may_if(access, found.0, key, channel, Action::Subscribe),
        };
        let Err(why) = result else { return true };
        self.refuse_by_rule(key, Asked::of(command::PRESENCE, channel, id), ErrorCode::NotAllowed, why);
        false
    }

    /// The same of publishing.
    pub(super) fn may_publish(&mut self, key: usize, channel: &str, id: Option<&Id>) -> bool {
        let Err(why) = self.may(key, channel, Action::Publish) else { return true };
        let is_off = self.rules.of(channel).publish == Access::Auto && !self.settings.clients.allow_client_publish;
        let asked = Asked::of(command::PUBLISH, channel, id);
        let why =
            if is_off { "no rule lets clients publish there, and this server does not in general (allow_client_publish)" } else { why };
        self.refuse_by_rule(key, asked, ErrorCode::NotAllowed, why);
        false
    }

    pub(super) fn refuse_by_rule(&mut self, key: usize, asked: Asked<'_>, code: ErrorCode, why: &str) {
        self.metrics.not_allowed.inc();
        self.reply_error(key, asked, code, &format!("the channel's rule does not allow it: {why}"));
    }

    /// A subscription that its client may not have any more ends, and it is told so; one that still waits for the bus is refused.
    pub(super) fn end_forbidden(&mut self, key: usize, at: usize, name: &str, why: &str) {
        if self.conns[key].subscriptions[at].waiter().is_some() {
            let Waiter { id, .. } = self.take_waiter(key, at);
            self.remove_subscription(key, at);
            return self.refuse_by_rule(key, Asked::of(command::SUBSCRIBE, name, id.as_ref()), ErrorCode::NotAllowed, why);
        }
        self.metrics.not_allowed.inc();
        self.leave(key, at);
        self.reply(key, &Event::Unsubscribed { id: None, channel: name, reason: Some(NOT_ALLOWED) });
    }
}
