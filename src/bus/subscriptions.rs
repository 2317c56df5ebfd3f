//! Which Redis channels are subscribed, wanted, or under way between the two (exact mode). Sans-IO; owned by [`super::redis`].
//!
//! Invariant: at most one SUBSCRIBE or UNSUBSCRIBE of a name is unanswered. A wish that comes meanwhile waits for the answer, so
//! subscribe, unsubscribe and subscribe again cannot overtake each other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::resp::write_command;

/// Names in one command: its replies come in one piece, and Redis serves nobody else meanwhile.
pub const COMMAND_NAMES_MAX: usize = 512;
/// Names that may be unanswered: the confirmations must stay far below Redis's output buffer limit for subscribers (8 to 32 MB).
pub const UNANSWERED_MAX: usize = 8192;

/// Names are Redis names, with prefix.
#[derive(Debug, Default)]
pub struct Subscriptions {
    names: HashMap<Arc<str>, Subscription>,
    /// Names whose state and wish differ, each once; they are looked at again when their turn comes.
    queue: VecDeque<Arc<str>>,
    /// Commands sent and not fully answered, oldest first: an error answers the oldest.
    sent: VecDeque<Sent>,
    unanswered: usize,
    /// Names that were wanted when the connection came up, until they are confirmed or refused.
    recovering: usize,
    refused: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Subscription {
    state: State,
    is_wanted: bool,
    is_queued: bool,
    is_recovering: bool,
    /// A command that named it was refused: ask for it alone, to find out which name it was.
    is_alone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Subscribing,
    Subscribed,
    Unsubscribing,
    /// Redis does not allow it to us; asked again from time to time.
    Refused,
}

#[derive(Debug)]
struct Sent {
    names: Vec<Arc<str>>,
    unanswered: usize,
}

impl Subscriptions {
    /// True: it is subscribed already.
    pub fn want(&mut self, name: &str) -> bool {
        let (key, subscription) = match self.names.get_key_value(name) {
            Some((key, _)) => {
                let key = key.clone();
                let subscription = self.names.get_mut(name).expect("it was there");
                (key, subscription)
            }
            None => {
                let key: Arc<str> = name.into();
                let new = Subscription { state: State::Idle, is_wanted: false, is_queued: false, is_recovering: false, is_alone: false };
                (key.clone(), self.names.entry(key).or_insert(new))
            }
        };
        subscription.is_wanted = true;
        enqueue(&mut self.queue, &key, subscription);
        subscription.state == State::Subscribed
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
            // The queue may still hold the name; it is looked up when its turn comes.
            State::Idle | State::Refused => drop(self.names.remove(name)),
            State::Subscribing | State::Unsubscribing => {}
            State::Subscribed => enqueue(&mut self.queue, &key, subscription),
        }
    }

    /// A new connection: nothing is subscribed, everything wanted is to be.
    pub fn restart(&mut self) {
        self.sent.clear();
        self.unanswered = 0;
        self.queue.clear();
        self.refused.clear();
        self.names.retain(|_, subscription| subscription.is_wanted);
        self.recovering = self.names.len();
        for (name, subscription) in &mut self.names {
            *subscription = Subscription { state: State::Idle, is_wanted: true, is_queued: true, is_recovering: true, is_alone: false };
            self.queue.push_back(name.clone());
        }
    }

    /// Whether everything that was wanted when the connection came up is confirmed.
    pub fn is_recovered(&self) -> bool {
        self.recovering == 0
    }

    /// Appends the next command; false: nothing to say, or enough is unanswered.
    pub fn write_next(&mut self, out: &mut Vec<u8>) -> bool {
        let mut names = Vec::new();
        let mut verb: Option<&[u8]> = None;
        while names.len() < COMMAND_NAMES_MAX && self.unanswered + names.len() < UNANSWERED_MAX {
            let Some(name) = self.queue.pop_front() else { break };
            let Some(subscription) = self.names.get_mut(&name) else { continue };
            if !subscription.is_queued {
                continue;
            }
            let (next_verb, next_state): (&[u8], _) = match (subscription.state, subscription.is_wanted) {
                (State::Idle, true) => (b"SUBSCRIBE", State::Subscribing),
                (State::Subscribed, false) => (b"UNSUBSCRIBE", State::Unsubscribing),
                _ => {
                    subscription.is_queued = false;
                    continue;
                }
            };
            if verb.is_some_and(|verb| verb != next_verb || subscription.is_alone) {
                self.queue.push_front(name);
                break;
            }
            verb = Some(next_verb);
            subscription.state = next_state;
            subscription.is_queued = false;
            names.push(name);
            if subscription.is_alone {
                break;
            }
        }
        let Some(verb) = verb else { return false };
        let parts: Vec<&[u8]> = std::iter::once(verb).chain(names.iter().map(|name| name.as_bytes())).collect();
        write_command(out, parts.into_iter());
        self.unanswered += names.len();
        self.sent.push_back(Sent { unanswered: names.len(), names });
        true
    }

    /// Redis confirms a SUBSCRIBE. True: the name is wanted, its messages flow from now on.
    pub fn subscribed(&mut self, name: &str) -> bool {
        self.answered();
        let Some((key, _)) = self.names.get_key_value(name) else { return false };
        let key = key.clone();
        let subscription = self.names.get_mut(name).expect("it was there");
        subscription.state = State::Subscribed;
        subscription.is_alone = false;
        if std::mem::take(&mut subscription.is_recovering) {
            self.recovering -= 1;
        }
        enqueue(&mut self.queue, &key, subscription);
        subscription.is_wanted
    }

    /// Redis confirms an UNSUBSCRIBE.
    pub fn unsubscribed(&mut self, name: &str) {
        self.answered();
        let Some((key, subscription)) = self.names.get_key_value(name) else { return };
        if !subscription.is_wanted {
            self.names.remove(name);
            return;
        }
        let key = key.clone();
        let subscription = self.names.get_mut(name).expect("it was there");
        subscription.state = State::Idle;
        enqueue(&mut self.queue, &key, subscription);
    }

    fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if let Some(oldest) = self.sent.front_mut() {
            oldest.unanswered -= 1;
            if oldest.unanswered == 0 {
                self.sent.pop_front();
            }
        }
    }

    /// Redis answers the oldest command with an error. None: no command was sent. Else the name, if it is known which one is refused;
    /// of a command with several names each is asked for alone.
    pub fn refused(&mut self) -> Option<Option<Arc<str>>> {
        let sent = self.sent.pop_front()?;
        self.unanswered -= sent.unanswered;
        let is_one = sent.names.len() == 1;
        for name in &sent.names {
            let Some(subscription) = self.names.get_mut(name) else { continue };
            if !subscription.is_wanted {
                // An UNSUBSCRIBE cannot be refused by name; if it was, there is nothing more to be done about it.
                self.names.remove(name);
            } else if is_one {
                subscription.state = State::Refused;
                // A channel that is not allowed does not make the node unready: the others flow.
                if std::mem::take(&mut subscription.is_recovering) {
                    self.recovering -= 1;
                }
                self.refused.push(name.clone());
            } else {
                subscription.state = State::Idle;
                subscription.is_alone = true;
                enqueue(&mut self.queue, name, subscription);
            }
        }
        Some(is_one.then(|| sent.names[0].clone()))
    }

    /// Asks once more for what was refused.
    pub fn retry_refused(&mut self) {
        for name in std::mem::take(&mut self.refused) {
            if let Some(subscription) = self.names.get_mut(&name)
                && subscription.state == State::Refused
            {
                subscription.state = State::Idle;
                enqueue(&mut self.queue, &name, subscription);
            }
        }
    }

    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }
}

/// Queues the name unless it is as wished, under way, or queued already.
fn enqueue(queue: &mut VecDeque<Arc<str>>, name: &Arc<str>, subscription: &mut Subscription) {
    let is_due = matches!((subscription.state, subscription.is_wanted), (State::Idle, true) | (State::Subscribed, false));
    if is_due && !subscription.is_queued {
        subscription.is_queued = true;
        queue.push_back(name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(subscriptions: &mut Subscriptions) -> Vec<String> {
        let mut commands = Vec::new();
        let mut out = Vec::new();
        while subscriptions.write_next(&mut out) {
            let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
            let words: Vec<&str> = text.split("\r\n").skip(2).step_by(2).collect();
            commands.push(words.join(" "));
        }
        commands
    }

    #[test]
    fn wanted_again_while_the_unsubscribe_is_under_way() {
        let mut subscriptions = Subscriptions::default();
        assert!(!subscriptions.want("a"));
        assert_eq!(commands(&mut subscriptions), ["SUBSCRIBE a"]);
        assert!(subscriptions.subscribed("a"));
        subscriptions.unwant("a");
        assert_eq!(commands(&mut subscriptions), ["UNSUBSCRIBE a"]);
        assert!(!subscriptions.want("a"), "it is not subscribed any more as far as Redis is concerned");
        assert_eq!(commands(&mut subscriptions), [""; 0], "not before the answer");
        subscriptions.unsubscribed("a");
        assert_eq!(commands(&mut subscriptions), ["SUBSCRIBE a"]);
        assert!(subscriptions.subscribed("a"));
        assert!(subscriptions.want("a"));
    }

    #[test]
    fn unwanted_while_the_subscribe_is_under_way() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want("a");
        assert_eq!(commands(&mut subscriptions), ["SUBSCRIBE a"]);
        subscriptions.unwant("a");
        assert_eq!(commands(&mut subscriptions), [""; 0]);
        assert!(!subscriptions.subscribed("a"));
        assert_eq!(commands(&mut subscriptions), ["UNSUBSCRIBE a"]);
        subscriptions.unsubscribed("a");
        assert!(subscriptions.names.is_empty());
    }

    #[test]
    fn changes_of_mind_before_anything_is_sent_cost_nothing() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want("a");
        subscriptions.unwant("a");
        assert!(subscriptions.names.is_empty());
        assert_eq!(commands(&mut subscriptions), [""; 0]);
        subscriptions.want("a");
        assert_eq!(commands(&mut subscriptions), ["SUBSCRIBE a"]);
        subscriptions.subscribed("a");
        subscriptions.unwant("a");
        assert!(subscriptions.want("a"), "still subscribed");
        assert_eq!(commands(&mut subscriptions), [""; 0]);
    }

    #[test]
    fn commands_are_cut_and_the_unanswered_are_bounded() {
        let mut subscriptions = Subscriptions::default();
        let names: Vec<String> = (0..20_000).map(|number| format!("n{number}")).collect();
        for name in &names {
            subscriptions.want(name);
        }
        let first = commands(&mut subscriptions);
        assert_eq!(first.len(), UNANSWERED_MAX / COMMAND_NAMES_MAX);
        assert!(first.iter().all(|command| command.split(' ').count() == 1 + COMMAND_NAMES_MAX));
        let mut confirmed = 0;
        let mut sent = first;
        while !sent.is_empty() {
            for name in sent.iter().flat_map(|command| command.split(' ').skip(1)) {
                assert!(subscriptions.subscribed(name));
                confirmed += 1;
            }
            sent = commands(&mut subscriptions);
        }
        assert_eq!((confirmed, subscriptions.unanswered, subscriptions.sent.len()), (20_000, 0, 0));
    }

    #[test]
    fn a_new_connection_subscribes_what_is_wanted_and_recovers() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.restart();
        assert!(subscriptions.is_recovered());
        for name in ["a", "b", "c"] {
            subscriptions.want(name);
        }
        commands(&mut subscriptions);
        subscriptions.subscribed("a");
        subscriptions.unwant("b");
        subscriptions.restart();
        let mut names: Vec<_> = commands(&mut subscriptions)[0].split(' ').skip(1).map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["a", "c"]);
        assert!(subscriptions.subscribed("c"));
        assert!(!subscriptions.is_recovered());
        subscriptions.unwant("a");
        assert!(subscriptions.is_recovered());
    }

    #[test]
    fn a_refused_name_does_not_take_the_others_with_it() {
        let mut subscriptions = Subscriptions::default();
        for name in ["a", "secret", "b"] {
            subscriptions.want(name);
        }
        subscriptions.restart();
        commands(&mut subscriptions);
        assert_eq!(subscriptions.refused(), Some(None));
        let alone = commands(&mut subscriptions);
        assert_eq!(alone.len(), 3);
        for command in alone {
            match command.as_str() {
                "SUBSCRIBE secret" => assert_eq!(subscriptions.refused(), Some(Some("secret".into()))),
                other => assert!(subscriptions.subscribed(other.strip_prefix("SUBSCRIBE ").unwrap())),
            }
        }
        assert!(subscriptions.is_recovered() && subscriptions.has_refused());
        assert_eq!(commands(&mut subscriptions), [""; 0]);
        subscriptions.retry_refused();
        assert_eq!(commands(&mut subscriptions), ["SUBSCRIBE secret"]);
        assert_eq!(subscriptions.refused(), Some(Some("secret".into())));
        subscriptions.unwant("secret");
        assert_eq!(subscriptions.refused(), None);
    }
}
