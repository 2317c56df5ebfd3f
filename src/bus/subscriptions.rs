//! Which Redis names are subscribed, wanted, refused, or under way in between: channels (exact mode), or the pattern and what it does not cover.
//! Sans-IO; owned by [`super::redis`], which tells it what [`super::link`] found answered.
//!
//! Invariant: at most one SUBSCRIBE or UNSUBSCRIBE of a name is unanswered. A wish that comes meanwhile waits for the answer, so
//! subscribe, unsubscribe and subscribe again cannot overtake each other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use indexmap::IndexSet;

use super::awaiting::{Asked, Names, Verb};
use super::fault::Refusal;
use super::resp::write_command;

/// Names in one command: its replies come in one piece, and Redis serves nobody else meanwhile.
pub const COMMAND_NAMES_MAX: usize = 512;
/// Names that may be unanswered: the confirmations must stay far below Redis's output buffer limit for subscribers (8 to 32 MB).
pub const UNANSWERED_MAX: usize = 8192;
/// Names that were refused for good and are asked for again at a time, each alone. If one is allowed now, all are asked for.
pub const REFUSED_RETRIES_MAX: usize = 64;

/// Names are Redis names, with prefix.
#[derive(Debug, Default)]
pub struct Subscriptions {
    names: HashMap<Arc<str>, Subscription>,
    /// Nearly everything hangs on it, if there is one.
    pattern: Option<Arc<str>>,
    is_connected: bool,
    /// Names whose state and wish differ, each once; they are looked at again when their turn comes.
    queue: VecDeque<Arc<str>>,
    unanswered: usize,
    subscribed: usize,
    /// Names that were wanted when the connection came up, until they are confirmed or refused for good.
    recovering: usize,
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
    is_pattern: bool,
    is_wanted: bool,
    is_queued: bool,
    is_recovering: bool,
    /// The operator was told that it is refused.
    is_told: bool,
    /// Names that may stand in one command with it. A command with several names is refused as a whole: halved, until it is known for which.
    together_max: u16,
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
    fn wanted(is_pattern: bool) -> Subscription {
        Subscription {
            state: State::Idle,
            is_pattern,
            is_wanted: true,
            is_queued: false,
            is_recovering: false,
            is_told: false,
            together_max: COMMAND_NAMES_MAX as u16,
        }
    }

    fn verb_due(&self) -> Option<Verb> {
        match (self.state, self.is_wanted) {
            (State::Idle, true) if self.is_pattern => Some(Verb::PatternSubscribe),
            (State::Idle, true) => Some(Verb::Subscribe),
            (State::Subscribed, false) => Some(Verb::Unsubscribe),
            _ => None,
        }
    }
}

impl Subscriptions {
    pub fn want(&mut self, name: &str) -> Standing {
        self.want_as(name, false)
    }

    /// There can be one.
    pub fn want_pattern(&mut self, pattern: &str) {
        self.pattern = Some(pattern.into());
        self.want_as(pattern, true);
    }

    fn want_as(&mut self, name: &str, is_pattern: bool) -> Standing {
        let key: Arc<str> = match self.names.get_key_value(name) {
            Some((key, _)) => key.clone(),
            None => name.into(),
        };
        self.names.entry(key.clone()).or_insert_with(|| Subscription::wanted(is_pattern)).is_wanted = true;
        self.postponed_leaves.names.swap_remove(name);
        self.enqueue(&key);
        // Names that were given up before their turn came are still in it.
        if self.queue.len() > 2 * self.names.len() + COMMAND_NAMES_MAX {
            let names = &self.names;
            self.queue.retain(|name| names.get(name).is_some_and(|subscription| subscription.is_queued));
        }
        self.standing(name)
    }

    pub fn standing(&self, name: &str) -> Standing {
        match self.names.get(name) {
            Some(subscription) if subscription.state == State::Subscribed => Standing::Subscribed,
            _ if self.refused.names.contains(name) => Standing::Refused,
            _ => Standing::Pending,
        }
    }

    pub fn unwant(&mut self, name: &str) {
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

    /// The connection is lost: nothing is subscribed.
    pub fn disconnect(&mut self) {
        self.is_connected = false;
        self.unanswered = 0;
        self.subscribed = 0;
        self.queue.clear();
        (self.postponed, self.postponed_leaves, self.refused) = Default::default();
        self.names.retain(|_, subscription| subscription.is_wanted);
        self.recovering = self.names.len();
        for subscription in self.names.values_mut() {
            let new = Subscription::wanted(subscription.is_pattern);
            *subscription = Subscription { is_told: subscription.is_told, is_recovering: true, ..new };
        }
    }

    /// A new connection: everything wanted is to be subscribed.
    pub fn restart(&mut self) {
        self.disconnect();
        self.is_connected = true;
        for (name, subscription) in &mut self.names {
            subscription.is_queued = true;
            self.queue.push_back(name.clone());
        }
    }

    pub fn readiness(&self) -> Readiness {
        let is_pattern_refused = self.pattern.as_ref().is_some_and(|pattern| self.refused.names.contains(pattern));
        if !self.is_connected {
            Readiness::Recovering
        } else if !self.postponed.names.is_empty() {
            Readiness::RefusedForNow
        } else if self.recovering > 0 {
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

    /// Appends the next command; None: nothing to say, or enough is unanswered.
    pub fn write_next(&mut self, out: &mut Vec<u8>) -> Option<Asked> {
        let mut names = Names::new();
        let mut verb: Option<Verb> = None;
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
            if verb.is_some_and(|verb| verb != next_verb || names.len() >= together_max) {
                self.queue.push_front(name);
                break;
            }
            verb = Some(next_verb);
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
        let parts: Vec<&[u8]> = std::iter::once(verb.name().as_bytes()).chain(names.iter().map(|name| name.as_bytes())).collect();
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
        is_wanted
    }

    /// Redis confirms an UNSUBSCRIBE, or says unasked that a subscription has ended. True: the name is wanted, its messages have ceased to flow.
    pub fn unsubscribed(&mut self, name: &str, was_asked: bool) -> bool {
        self.unanswered = self.unanswered.saturating_sub(usize::from(was_asked));
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
mod tests {
    use super::super::awaiting::Awaiting;
    use super::*;

    /// Subscriptions on a connection to a Redis that answers when it is told to.
    #[derive(Default)]
    struct Rig {
        subscriptions: Subscriptions,
        awaiting: Awaiting,
    }

    impl Rig {
        fn connected() -> Rig {
            let mut rig = Rig::default();
            rig.reconnect();
            rig
        }

        fn reconnect(&mut self) {
            self.awaiting = Awaiting::default();
            self.subscriptions.restart();
        }

        fn commands(&mut self) -> Vec<String> {
            let mut commands = Vec::new();
            let mut out = Vec::new();
            while let Some(asked) = self.subscriptions.write_next(&mut out) {
                self.awaiting.sent(asked, 0);
                let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
                let words: Vec<&str> = text.split("\r\n").skip(2).step_by(2).collect();
                commands.push(words.join(" "));
            }
            commands
        }

        fn confirm(&mut self, name: &str) -> bool {
            assert!(self.awaiting.confirmed(Verb::Subscribe, name), "{name}");
            self.subscriptions.subscribed(name, true)
        }

        fn confirm_end(&mut self, name: &str) {
            assert!(self.awaiting.confirmed(Verb::Unsubscribe, name), "{name}");
            assert!(!self.subscriptions.unsubscribed(name, true));
        }

        /// An error answers the oldest command; which names are known to be refused then.
        fn refuse(&mut self, refusal: Refusal) -> Vec<String> {
            let Some(Asked::Channels(verb, names)) = self.awaiting.answered() else { panic!("nothing was asked") };
            self.subscriptions.refused(verb, &names, refusal).into_iter().map(|refused| refused.name.to_string()).collect()
        }

        /// Answers as a Redis does that allows these names, until nothing more is asked; which names it refused, and how many commands it took.
        fn answer_all(&mut self, is_allowed: impl Fn(&str) -> bool) -> (Vec<String>, usize) {
            let (mut refused, mut count) = (Vec::new(), 0);
            loop {
                let commands = self.commands();
                if commands.is_empty() {
                    refused.sort();
                    return (refused, count);
                }
                for command in commands {
                    count += 1;
                    let names: Vec<&str> = command.split(' ').skip(1).collect();
                    if names.iter().all(|name| is_allowed(name)) {
                        for name in names {
                            self.confirm(name);
                        }
                    } else {
                        refused.extend(self.refuse(Refusal::ForGood));
                    }
                }
            }
        }
    }

    #[test]
    fn wanted_again_while_the_unsubscribe_is_under_way() {
        let mut rig = Rig::connected();
        assert_eq!(rig.subscriptions.want("a"), Standing::Pending);
        assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
        assert!(rig.confirm("a"));
        rig.subscriptions.unwant("a");
        assert_eq!(rig.commands(), ["UNSUBSCRIBE a"]);
        assert_eq!(rig.subscriptions.want("a"), Standing::Pending, "it is not subscribed any more as far as Redis is concerned");
        assert_eq!(rig.commands(), [""; 0], "not before the answer");
        rig.confirm_end("a");
        assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
        assert!(rig.confirm("a"));
        assert_eq!(rig.subscriptions.want("a"), Standing::Subscribed);
    }

    #[test]
    fn unwanted_while_the_subscribe_is_under_way() {
        let mut rig = Rig::connected();
        rig.subscriptions.want("a");
        assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
        rig.subscriptions.unwant("a");
        assert_eq!(rig.commands(), [""; 0]);
        assert!(!rig.confirm("a"));
        assert_eq!(rig.commands(), ["UNSUBSCRIBE a"]);
        rig.confirm_end("a");
        assert!(rig.subscriptions.names.is_empty());
    }

    #[test]
    fn changes_of_mind_before_anything_is_sent_cost_nothing() {
        let mut rig = Rig::connected();
        rig.subscriptions.want("a");
        rig.subscriptions.unwant("a");
        assert!(rig.subscriptions.names.is_empty());
        assert_eq!(rig.commands(), [""; 0]);
        rig.subscriptions.want("a");
        assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
        rig.confirm("a");
        rig.subscriptions.unwant("a");
        assert_eq!(rig.subscriptions.want("a"), Standing::Subscribed);
        assert_eq!(rig.commands(), [""; 0]);
    }

    #[test]
    fn names_that_come_and_go_while_nothing_can_be_sent_are_not_kept() {
        for mut rig in [Rig::default(), Rig::connected()] {
            for number in 0..20_000 {
                let name = number.to_string();
                rig.subscriptions.want(&name);
                rig.subscriptions.unwant(&name);
            }
            assert!(rig.subscriptions.names.is_empty());
            assert!(rig.subscriptions.queue.len() <= COMMAND_NAMES_MAX + 2, "{}", rig.subscriptions.queue.len());
        }
    }

    #[test]
    fn commands_are_cut_and_the_unanswered_are_bounded() {
        let mut rig = Rig::connected();
        let names: Vec<String> = (0..20_000).map(|number| format!("n{number}")).collect();
        for name in &names {
            rig.subscriptions.want(name);
        }
        let first = rig.commands();
        assert_eq!(first.len(), UNANSWERED_MAX / COMMAND_NAMES_MAX);
        assert!(first.iter().all(|command| command.split(' ').count() == 1 + COMMAND_NAMES_MAX));
        let mut confirmed = 0;
        let mut sent = first;
        while !sent.is_empty() {
            for name in sent.iter().flat_map(|command| command.split(' ').skip(1)) {
                assert!(rig.confirm(name));
                confirmed += 1;
            }
            sent = rig.commands();
        }
        assert_eq!((confirmed, rig.subscriptions.unanswered, rig.subscriptions.subscribed), (20_000, 0, 20_000));
        assert!(rig.awaiting.is_empty());
    }

    #[test]
    fn a_new_connection_subscribes_what_is_wanted_and_recovers() {
        let mut rig = Rig::connected();
        assert_eq!(rig.subscriptions.readiness(), Readiness::Ready);
        for name in ["a", "b", "c"] {
            rig.subscriptions.want(name);
        }
        rig.commands();
        rig.confirm("a");
        rig.subscriptions.unwant("b");
        rig.subscriptions.disconnect();
        assert_eq!(rig.subscriptions.readiness(), Readiness::Recovering);
        rig.reconnect();
        let mut names: Vec<_> = rig.commands()[0].split(' ').skip(1).map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["a", "c"]);
        assert!(rig.confirm("c"));
        assert_eq!(rig.subscriptions.readiness(), Readiness::Recovering);
        rig.subscriptions.unwant("a");
        assert_eq!(rig.subscriptions.readiness(), Readiness::Ready);
    }

    #[test]
    fn a_refused_name_does_not_take_the_others_with_it() {
        let mut rig = Rig::default();
        for number in 0..COMMAND_NAMES_MAX - 1 {
            rig.subscriptions.want(&number.to_string());
        }
        rig.subscriptions.want("secret");
        rig.reconnect();
        let (refused, commands) = rig.answer_all(|name| name != "secret");
        assert_eq!(refused, ["secret"]);
        assert!(commands <= 20, "{commands} commands to find one name of {COMMAND_NAMES_MAX}");
        assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.refused_count()), (Readiness::Ready, 1));
        assert_eq!(rig.subscriptions.want("secret"), Standing::Refused);
        assert_eq!(rig.commands(), [""; 0], "not before its time");
        rig.subscriptions.retry_refused();
        assert_eq!(rig.commands(), ["SUBSCRIBE secret"]);
        assert_eq!((rig.refuse(Refusal::ForGood), rig.subscriptions.refused_count()), (vec![], 1), "nothing new");
        rig.subscriptions.unwant("secret");
        assert_eq!(rig.subscriptions.refused_count(), 0);
        rig.subscriptions.retry_refused();
        assert_eq!(rig.commands(), [""; 0]);
    }

    #[test]
    fn nothing_is_ready_while_everything_is_refused_also_while_it_is_tried_again() {
        let mut rig = Rig::default();
        let names: Vec<String> = (0..1000).map(|number| format!("n{number:03}")).collect();
        for name in &names {
            rig.subscriptions.want(name);
        }
        rig.reconnect();
        let (refused, commands) = rig.answer_all(|_| false);
        assert_eq!(refused, names);
        assert!(commands <= 5 * names.len() / 2, "{commands}");
        assert_eq!(rig.subscriptions.readiness(), Readiness::RefusedForGood);

        // A few are tried at a time, others each time.
        for _ in 0..2 {
            rig.subscriptions.retry_refused();
            let tried = rig.commands();
            assert_eq!(tried.len(), REFUSED_RETRIES_MAX);
            assert_eq!(rig.subscriptions.readiness(), Readiness::RefusedForGood, "while it is asked");
            for _ in tried {
                rig.refuse(Refusal::ForGood);
            }
        }
        assert_eq!(rig.subscriptions.readiness(), Readiness::RefusedForGood);

        // When one is allowed, all are tried; the rest is refused as before.
        rig.subscriptions.retry_refused();
        let (refused, _) = rig.answer_all(|name| name != "n007");
        assert_eq!((refused, rig.subscriptions.refused_count()), (vec![], 1), "nothing new");
        assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.subscribed), (Readiness::Ready, 999));
    }

    #[test]
    fn what_is_refused_for_now_is_not_ready_and_is_tried_again() {
        let mut rig = Rig::default();
        for number in 0..2000 {
            rig.subscriptions.want(&number.to_string());
        }
        rig.reconnect();
        for _ in rig.commands() {
            assert_eq!(rig.refuse(Refusal::ForNow), [""; 0]);
        }
        assert_eq!(rig.subscriptions.readiness(), Readiness::RefusedForNow);
        assert!(rig.subscriptions.has_postponed() && rig.commands().is_empty());
        rig.subscriptions.retry_postponed();
        assert_eq!(rig.commands().len(), 1, "one command is enough to ask whether it is over");
        assert_eq!(rig.refuse(Refusal::ForNow), [""; 0]);
        assert_eq!(rig.subscriptions.readiness(), Readiness::RefusedForNow);
        rig.subscriptions.retry_postponed();
        let (refused, commands) = rig.answer_all(|_| true);
        assert_eq!((refused.len(), commands, rig.subscriptions.subscribed), (0, 4, 2000));
        assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.has_postponed()), (Readiness::Ready, false));
    }

    #[test]
    fn a_refused_unsubscribe_is_tried_again_and_does_not_make_unready() {
        let mut rig = Rig::connected();
        rig.subscriptions.want("a");
        rig.answer_all(|_| true);
        rig.subscriptions.unwant("a");
        assert_eq!(rig.commands(), ["UNSUBSCRIBE a"]);
        rig.refuse(Refusal::ForNow);
        assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.has_postponed()), (Readiness::Ready, true));
        rig.subscriptions.retry_postponed();
        assert_eq!(rig.commands(), ["UNSUBSCRIBE a"]);
        // Wanted again, and the UNSUBSCRIBE is refused or lost: whether it is subscribed is not known, so it is asked for.
        rig.subscriptions.want("a");
        rig.refuse(Refusal::ForNow);
        assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
        assert!(rig.confirm("a"));
        assert!(!rig.subscriptions.has_postponed());
        rig.subscriptions.unwant("a");
        rig.commands();
        rig.refuse(Refusal::ForGood);
        assert!(rig.subscriptions.names.is_empty() && rig.subscriptions.subscribed == 0);
    }

    #[test]
    fn a_subscription_that_ends_unasked_is_asked_for_again() {
        let mut rig = Rig::connected();
        rig.subscriptions.want("a");
        rig.answer_all(|_| true);
        assert!(!rig.subscriptions.unsubscribed("unknown", false));
        assert!(rig.subscriptions.unsubscribed("a", false), "it has ceased to flow");
        assert_eq!(rig.subscriptions.readiness(), Readiness::Recovering);
        rig.answer_all(|_| true);
        assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.subscribed), (Readiness::Ready, 1));
    }

    #[test]
    fn without_its_pattern_nothing_is_ready_and_without_the_rest_it_is() {
        let mut rig = Rig::default();
        rig.subscriptions.want_pattern("p:*");
        rig.subscriptions.want("beside");
        for (refused, readiness) in [("p:*", Readiness::RefusedForGood), ("beside", Readiness::Ready)] {
            rig.reconnect();
            for command in rig.commands() {
                let (verb, name) = command.split_once(' ').unwrap();
                assert_eq!(verb == "PSUBSCRIBE", name == "p:*");
                if name == refused {
                    assert_eq!(rig.refuse(Refusal::ForGood), [refused]);
                } else {
                    let verb = if verb == "PSUBSCRIBE" { Verb::PatternSubscribe } else { Verb::Subscribe };
                    assert!(rig.awaiting.confirmed(verb, name) && rig.subscriptions.subscribed(name, true));
                }
            }
            assert_eq!(rig.subscriptions.readiness(), readiness, "{refused} is refused");
        }
    }

    #[test]
    fn the_operator_hears_of_a_refused_name_once() {
        let mut rig = Rig::default();
        rig.subscriptions.want("a");
        for is_news in [true, false] {
            rig.reconnect();
            rig.commands();
            let Some(Asked::Channels(verb, names)) = rig.awaiting.answered() else { panic!("nothing was asked") };
            let refused = rig.subscriptions.refused(verb, &names, Refusal::ForGood);
            assert_eq!(refused, [Refused { name: "a".into(), is_news }]);
        }
    }
}
