//! Which Redis names are subscribed, wanted, refused, or under way in between: channels (exact mode), or the pattern and what it does not cover.
//! Sans-IO; owned by [`super::feed`], which tells it what [`super::link`] found answered.
//!
//! A name that is subscribed and wanted is the rule, and is not remembered here: the hub has its channel, and knows that it flows. Remembered are names on
//! their way in or out, refused ones, and those that are no channels (the pattern and what stands beside it).
//!
//! Invariant: at most one SUBSCRIBE or UNSUBSCRIBE of a name is unanswered. A wish that comes meanwhile waits for the answer, so
//! subscribe, unsubscribe and subscribe again cannot overtake each other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use indexmap::IndexSet;

use super::awaiting::{Asked, Names, Verb};
use super::fault::Refusal;
use super::keys;
use super::resp::write_command;
use crate::limits::redis::{COMMAND_NAMES_MAX, REFUSED_RETRIES_MAX, UNANSWERED_MAX};

/// Names are Redis names, with prefix.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// Unsettled ones, and those that are no channels.
    names: HashMap<Arc<str>, Subscription>,
    /// Nearly everything hangs on it, if there is one.
    pattern: Option<Arc<str>>,
    is_connected: bool,
    /// Channels are subscribed by SSUBSCRIBE. A command then takes names of one slot.
    is_sharded: bool,
    /// Names whose state and wish differ, each once; they are looked at again when their turn comes.
    queue: VecDeque<Arc<str>>,
    unanswered: usize,
    subscribed: usize,
    /// Names that were wanted when the connection came up, until they are confirmed or refused for good: those that were shown
    /// ([`Subscriptions::write_next`]).
    recovering: usize,
    /// Others of them have yet to be.
    has_unshown: bool,
    /// Refused for now.
    postponed: Held,
    /// Names whose UNSUBSCRIBE was.
    postponed_leaves: Held,
    /// Refused for good.
    refused: Held,
}

/// Names that are refused and not queued, until it is their turn to be tried again.
#[derive(Debug, Default)]
struct Held {
    names: IndexSet<Arc<str>>,
    retry_from: usize,
    /// One of them was taken since the last retry: all the others were queued then.
    has_thawed: bool,
}

#[derive(Debug)]
struct Subscription {
    state: State,
    kind: Kind,
    is_wanted: bool,
    is_queued: bool,
    is_recovering: bool,
    /// The operator was told that it is refused.
    is_told: bool,
    /// Names that may stand in one command with it. A command with several names is refused as a whole: halved, until it is known for which.
    together_max: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Known to the hub.
    Channel,
    /// Stands beside the pattern, whether the hub has its channel or not.
    Beside,
    /// The same, and never sharded: it is no channel of clients.
    Classic,
    Pattern,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Subscribing,
    Subscribed,
    Unsubscribing,
}

/// How it stands with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Pending,
    /// Its messages come.
    Subscribed,
    /// For good.
    Refused,
}

/// How it stands with all that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Not everything is confirmed that was wanted when the connection came up.
    Recovering,
    /// Redis does not take subscriptions now.
    RefusedForNow,
    /// Redis allows us nothing of what is wanted.
    RefusedForGood,
}

/// A name that is refused for good, and whether the operator is to hear of it: not at each new try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub name: Arc<str>,
    pub is_news: bool,
}

impl Subscription {
    fn wanted(kind: Kind) -> Subscription {
        Subscription {
            state: State::Idle,
            kind,
            is_wanted: true,
            is_queued: false,
            is_recovering: false,
            is_told: false,
            together_max: COMMAND_NAMES_MAX as u16,
        }
    }

    fn verb_due(&self) -> Option<Verb> {
        match (self.state, self.is_wanted) {
            (State::Idle, true) if self.kind == Kind::Pattern => Some(Verb::PatternSubscribe),
            (State::Idle, true) => Some(Verb::Subscribe),
            (State::Subscribed, false) => Some(Verb::Unsubscribe),
            _ => None,
        }
    }
}

impl Subscriptions {
    pub fn new(is_sharded: bool) -> Subscriptions {
        Subscriptions { is_sharded, ..Subscriptions::default() }
    }

    /// A channel's name, which was not wanted.
    pub fn want(&mut self, name: &str) -> Standing {
        self.want_as(name, Kind::Channel)
    }

    /// For good, whether the hub has its channel or not.
    pub fn want_beside(&mut self, name: &str) {
        self.want_as(name, Kind::Beside);
    }

    /// The same of one that is not for clients, and so is never sharded.
    pub fn want_classic(&mut self, name: &str) {
        self.want_as(name, Kind::Classic);
    }

    /// A name that was wanted for good is not any more.
    pub fn unwant_beside(&mut self, name: &str) {
        if self.names.contains_key(name) {
            self.unwant(name, true);
        }
    }

    /// There can be one.
    pub fn want_pattern(&mut self, pattern: &str) {
        self.pattern = Some(pattern.into());
        self.want_as(pattern, Kind::Pattern);
    }

    fn want_as(&mut self, name: &str, kind: Kind) -> Standing {
        if !self.is_connected && kind == Kind::Channel {
            // A new connection asks the hub.
            return Standing::Pending;
        }
        let key: Arc<str> = match self.names.get_key_value(name) {
            Some((key, _)) => key.clone(),
            None => name.into(),
        };
        self.names.entry(key.clone()).or_insert_with(|| Subscription::wanted(kind)).is_wanted = true;
        self.postponed_leaves.names.swap_remove(name);
        self.enqueue(&key);
        // Names that were given up before their turn came are still in it.
        if self.queue.len() > 2 * self.names.len() + COMMAND_NAMES_MAX {
            let names = &self.names;
            self.queue.retain(|name| names.get(name).is_some_and(|subscription| subscription.is_queued));
        }
        let standing = self.standing(name);
        self.settle(name);
        standing
    }

    /// Not to be remembered any longer, if it is as the hub wants it.
    fn settle(&mut self, name: &str) {
        let is_settled =
            |found: &Subscription| found.state == State::Subscribed && found.is_wanted && found.kind == Kind::Channel && !found.is_told;
        if self.names.get(name).is_some_and(is_settled) {
            self.names.remove(name);
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.names.capacity() > COMMAND_NAMES_MAX && self.names.len() < self.names.capacity() / 4 {
            self.names.shrink_to(2 * self.names.len());
        }
        if self.queue.is_empty() && self.queue.capacity() > COMMAND_NAMES_MAX {
            self.queue = VecDeque::new();
        }
    }

    pub fn standing(&self, name: &str) -> Standing {
        match self.names.get(name) {
            Some(subscription) if subscription.state == State::Subscribed => Standing::Subscribed,
            _ if self.refused.names.contains(name) => Standing::Refused,
            _ => Standing::Pending,
        }
    }

    /// `had_come`: its messages came until now.
    pub fn unwant(&mut self, name: &str, had_come: bool) {
        if !self.names.contains_key(name) {
            if !had_come {
                // It has not been shown since the connection came up.
                debug_assert!(self.has_unshown || !self.is_connected, "{name} was neither settled nor remembered");
                return;
            }
            self.names.insert(name.into(), Subscription { state: State::Subscribed, ..Subscription::wanted(Kind::Channel) });
        }
        let Some((key, _)) = self.names.get_key_value(name) else { return };
        let key = key.clone();
        let subscription = self.names.get_mut(name).expect("it was there");
        subscription.is_wanted = false;
        if std::mem::take(&mut subscription.is_recovering) {
            self.recovering -= 1;
        }
        match subscription.state {
            State::Idle => self.forget(name),
            State::Subscribing | State::Unsubscribing => {}
            State::Subscribed => self.enqueue(&key),
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(gone) = self.names.remove(name) {
            self.subscribed -= usize::from(gone.state == State::Subscribed);
        }
        for held in [&mut self.postponed, &mut self.postponed_leaves, &mut self.refused] {
            held.names.swap_remove(name);
        }
        self.shrink();
    }

    /// Queues the name unless it is as wished, under way, refused, or queued already. Without a connection nothing is queued: a new one queues all.
    fn enqueue(&mut self, name: &Arc<str>) {
        let Some(subscription) = self.names.get_mut(name) else { return };
        let is_due = self.is_connected && subscription.verb_due().is_some() && !subscription.is_queued;
        if is_due && !self.refused.names.contains(name) && !self.postponed.names.contains(name) {
            subscription.is_queued = true;
            self.queue.push_back(name.clone());
        }
    }

    /// The connection is lost: nothing is subscribed. Of the channels that are wanted those are remembered whose refusal the operator was told.
    pub fn disconnect(&mut self) {
        (self.is_connected, self.has_unshown) = (false, false);
        self.unanswered = 0;
        self.subscribed = 0;
        self.queue = VecDeque::new();
        (self.postponed, self.postponed_leaves, self.refused) = Default::default();
        self.names.retain(|_, subscription| subscription.is_wanted && (subscription.is_told || subscription.kind != Kind::Channel));
        for subscription in self.names.values_mut() {
            let new = Subscription::wanted(subscription.kind);
            *subscription = Subscription { is_told: subscription.is_told, is_recovering: true, ..new };
        }
        self.recovering = self.names.len();
        self.shrink();
    }

    /// A new connection: everything wanted is to be subscribed. `has_unshown`: channels of the hub among it.
    pub fn restart(&mut self, has_unshown: bool) {
        self.disconnect();
        (self.is_connected, self.has_unshown) = (true, has_unshown);
        for (name, subscription) in &mut self.names {
            subscription.is_queued = true;
            self.queue.push_back(name.clone());
        }
    }

    /// A channel that was wanted when the connection came up, and does not flow.
    fn recover(&mut self, name: Arc<str>) {
        if self.is_connected && !self.names.contains_key(&name) {
            self.names.insert(name.clone(), Subscription { is_recovering: true, is_queued: true, ..Subscription::wanted(Kind::Channel) });
            self.recovering += 1;
            self.queue.push_back(name);
        }
    }

    pub fn readiness(&self) -> Readiness {
        let is_pattern_refused = self.pattern.as_ref().is_some_and(|pattern| self.refused.names.contains(pattern));
        if !self.is_connected {
            Readiness::Recovering
        } else if !self.postponed.names.is_empty() {
            Readiness::RefusedForNow
        } else if self.recovering > 0 || self.has_unshown {
            Readiness::Recovering
        } else if is_pattern_refused || (!self.refused.names.is_empty() && self.subscribed == 0) {
            Readiness::RefusedForGood
        } else {
            Readiness::Ready
        }
    }

    /// How many names are refused for good.
    pub fn refused_count(&self) -> usize {
        self.refused.names.len()
    }

    /// Appends the next command; None: nothing to say, or enough is unanswered. `unshown` gives, one after the other, the names of channels that were wanted
    /// when the connection came up and do not flow; so many of them wait as Redis answers at a time, and the rest cost nothing here.
    pub fn write_next(&mut self, out: &mut Vec<u8>, mut unshown: impl FnMut() -> Option<Arc<str>>) -> Option<Asked> {
        while self.has_unshown && self.queue.len() < COMMAND_NAMES_MAX && self.unanswered + self.queue.len() < UNANSWERED_MAX {
            match unshown() {
                Some(name) => self.recover(name),
                None => self.has_unshown = false,
            }
        }
        let mut names = Names::new();
        let mut verb: Option<Verb> = None;
        // Of a sharded command, else None.
        let mut slot = None;
        let mut names_max = COMMAND_NAMES_MAX;
        while names.len() < names_max && self.unanswered + names.len() < UNANSWERED_MAX {
            let Some(name) = self.queue.pop_front() else { break };
            let Some(subscription) = self.names.get_mut(&name) else { continue };
            if !subscription.is_queued {
                continue;
            }
            let Some(next_verb) = subscription.verb_due() else {
                subscription.is_queued = false;
                continue;
            };
            let together_max = names_max.min(subscription.together_max.into());
            let is_sharded = self.is_sharded && matches!(subscription.kind, Kind::Channel | Kind::Beside);
            let next_slot = is_sharded.then(|| keys::slot(name.as_bytes()));
            if verb.is_some_and(|verb| verb != next_verb || slot != next_slot || names.len() >= together_max) {
                self.queue.push_front(name);
                break;
            }
            (verb, slot) = (Some(next_verb), next_slot);
            names_max = together_max;
            subscription.is_queued = false;
            subscription.state = match next_verb {
                Verb::Subscribe | Verb::PatternSubscribe => State::Subscribing,
                Verb::Unsubscribe => {
                    self.subscribed -= 1;
                    State::Unsubscribing
                }
            };
            names.push_back(name);
        }
        let verb = verb?;
        let parts: Vec<&[u8]> =
            std::iter::once(verb.command(slot.is_some()).as_bytes()).chain(names.iter().map(|name| name.as_bytes())).collect();
        write_command(out, parts.into_iter());
        self.unanswered += names.len();
        Some(Asked::Channels(verb, names))
    }

    /// Redis confirms a SUBSCRIBE. True: the name is wanted, its messages flow from now on.
    pub fn subscribed(&mut self, name: &str, was_asked: bool) -> bool {
        self.unanswered = self.unanswered.saturating_sub(usize::from(was_asked));
        let Some((key, _)) = self.names.get_key_value(name) else { return false };
        let key = key.clone();
        let subscription = self.names.get_mut(name).expect("it was there");
        if subscription.state != State::Subscribed {
            subscription.state = State::Subscribed;
            self.subscribed += 1;
        }
        subscription.together_max = COMMAND_NAMES_MAX as u16;
        subscription.is_told = false;
        if std::mem::take(&mut subscription.is_recovering) {
            self.recovering -= 1;
        }
        let is_wanted = subscription.is_wanted;
        // Something has changed, perhaps for the others too.
        if self.postponed.thaws(name) {
            retry(&mut self.names, &mut self.queue, &mut self.postponed, usize::MAX);
        }
        if self.refused.thaws(name) {
            for name in &self.refused.names {
                self.names.get_mut(name).expect("what is refused is wanted").together_max = COMMAND_NAMES_MAX as u16;
            }
            retry(&mut self.names, &mut self.queue, &mut self.refused, usize::MAX);
        }
        self.enqueue(&key);
        self.settle(name);
        is_wanted
    }

    /// Redis confirms an UNSUBSCRIBE, or says unasked that a subscription has ended; `had_come`: of a channel whose messages came until now. True: the
    /// name is wanted, its messages have ceased to flow.
    pub fn unsubscribed(&mut self, name: &str, was_asked: bool, had_come: bool) -> bool {
        self.unanswered = self.unanswered.saturating_sub(usize::from(was_asked));
        if !was_asked && had_come && !self.names.contains_key(name) {
            self.names.insert(name.into(), Subscription { state: State::Subscribed, ..Subscription::wanted(Kind::Channel) });
        }
        let Some((key, _)) = self.names.get_key_value(name) else { return false };
        let key = key.clone();
        let subscription = self.names.get_mut(name).expect("it was there");
        let is_current = if was_asked { State::Unsubscribing } else { State::Subscribed };
        if subscription.state != is_current {
            return false;
        }
        self.subscribed -= usize::from(!was_asked);
        subscription.state = State::Idle;
        if !subscription.is_wanted {
            if self.postponed_leaves.thaws(name) {
                retry(&mut self.names, &mut self.queue, &mut self.postponed_leaves, usize::MAX);
            }
            self.forget(name);
            return false;
        }
        if !was_asked {
            subscription.is_recovering = true;
            self.recovering += 1;
        }
        self.enqueue(&key);
        !was_asked
    }

    /// A command was refused for these names, or is lost: then it counts as refused for now. Returns the names that are known to be refused for good;
    /// of a command with several names it has yet to be found out.
    pub fn refused(&mut self, verb: Verb, names: &Names, refusal: Refusal) -> Vec<Refused> {
        self.unanswered = self.unanswered.saturating_sub(names.len());
        let mut refused = Vec::new();
        for name in names {
            match verb {
                Verb::Unsubscribe => self.leave_refused(name, refusal),
                Verb::Subscribe | Verb::PatternSubscribe => refused.extend(self.name_refused(name, refusal, names.len())),
            }
        }
        refused
    }

    fn leave_refused(&mut self, name: &Arc<str>, refusal: Refusal) {
        let Some(subscription) = self.names.get_mut(name) else { return };
        match refusal {
            // Subscribed or not (if the command was lost): asked for again, it is.
            _ if subscription.is_wanted => {
                subscription.state = State::Idle;
                self.enqueue(name);
            }
            Refusal::ForNow => {
                subscription.state = State::Subscribed;
                self.subscribed += 1;
                self.postponed_leaves.names.insert(name.clone());
            }
            // There is nothing more to be done about it; messages that come all the same are unwanted.
            Refusal::ForGood => self.forget(name),
        }
    }

    fn name_refused(&mut self, name: &Arc<str>, refusal: Refusal, together: usize) -> Option<Refused> {
        let subscription = self.names.get_mut(name)?;
        subscription.state = State::Idle;
        if !subscription.is_wanted {
            self.forget(name);
            return None;
        }
        match refusal {
            Refusal::ForNow => {
                self.postponed.names.insert(name.clone());
                None
            }
            Refusal::ForGood if together > 1 => {
                subscription.together_max = together.div_ceil(2) as u16;
                self.postponed.names.swap_remove(name);
                subscription.is_queued = true;
                self.queue.push_back(name.clone());
                None
            }
            Refusal::ForGood => {
                if std::mem::take(&mut subscription.is_recovering) {
                    self.recovering -= 1;
                }
                let is_news = !std::mem::replace(&mut subscription.is_told, true);
                self.postponed.names.swap_remove(name);
                let is_new = self.refused.names.insert(name.clone());
                is_new.then(|| Refused { name: name.clone(), is_news })
            }
        }
    }

    pub fn has_postponed(&self) -> bool {
        !self.postponed.names.is_empty() || !self.postponed_leaves.names.is_empty()
    }

    /// Asks again for some of what was refused for now. They count as refused until they are answered; if one is confirmed, all are asked for.
    pub fn retry_postponed(&mut self) {
        for held in [&mut self.postponed, &mut self.postponed_leaves] {
            retry(&mut self.names, &mut self.queue, held, COMMAND_NAMES_MAX);
            held.has_thawed = false;
        }
    }

    /// The same for what was refused for good.
    pub fn retry_refused(&mut self) {
        retry(&mut self.names, &mut self.queue, &mut self.refused, REFUSED_RETRIES_MAX);
        self.refused.has_thawed = false;
    }
}

impl Held {
    /// The name is held no more. True: it is the first since the last retry.
    fn thaws(&mut self, name: &str) -> bool {
        self.names.swap_remove(name) && !std::mem::replace(&mut self.has_thawed, true)
    }
}

/// Queues up to `count` of the names, others each time.
fn retry(names: &mut HashMap<Arc<str>, Subscription>, queue: &mut VecDeque<Arc<str>>, held: &mut Held, count: usize) {
    for _ in 0..count.min(held.names.len()) {
        held.retry_from = (held.retry_from + 1) % held.names.len();
        let name = &held.names[held.retry_from];
        if let Some(subscription) = names.get_mut(name)
            && subscription.verb_due().is_some()
            && !std::mem::replace(&mut subscription.is_queued, true)
        {
            queue.push_back(name.clone());
        }
    }
}

#[cfg(test)]
#[path = "subscriptions_tests.rs"]
mod tests;
