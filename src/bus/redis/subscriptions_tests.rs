//! Subscriptions on a connection to a Redis that answers when it is told to.

use std::collections::BTreeMap;

use super::super::awaiting::Awaiting;
use super::*;

/// Subscriptions, the hub that has their channels, and a connection to a Redis that answers when it is told to.
#[derive(Default)]
struct Rig {
    subscriptions: Subscriptions,
    /// What is wanted, and whether it flows.
    hub: BTreeMap<String, bool>,
    /// Wanted when the connection came up, and not shown yet.
    unshown: Vec<String>,
    awaiting: Awaiting,
}

impl Rig {
    fn connected() -> Rig {
        let mut rig = Rig::default();
        rig.reconnect();
        rig
    }

    fn disconnect(&mut self) {
        self.hub.values_mut().for_each(|is_flowing| *is_flowing = false);
        self.unshown.clear();
        self.subscriptions.disconnect();
    }

    fn reconnect(&mut self) {
        self.disconnect();
        self.awaiting = Awaiting::default();
        self.unshown = self.hub.keys().rev().cloned().collect();
        self.subscriptions.restart(!self.hub.is_empty());
    }

    fn want(&mut self, name: &str) -> Standing {
        let standing = self.subscriptions.want(name);
        self.hub.insert(name.to_owned(), standing == Standing::Subscribed);
        standing
    }

    fn unwant(&mut self, name: &str) {
        let had_come = self.hub.remove(name).expect("it was wanted");
        self.subscriptions.unwant(name, had_come);
    }

    fn commands(&mut self) -> Vec<String> {
        let mut commands = Vec::new();
        let mut out = Vec::new();
        loop {
            let (hub, unshown) = (&self.hub, &mut self.unshown);
            let next = || std::iter::from_fn(|| unshown.pop()).find(|name| hub.get(name) == Some(&false)).map(Arc::from);
            let Some(asked) = self.subscriptions.write_next(&mut out, next) else { return commands };
            self.awaiting.sent(asked, 0);
            let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
            let words: Vec<&str> = text.split("\r\n").skip(2).step_by(2).collect();
            commands.push(words.join(" "));
        }
    }

    fn confirm(&mut self, name: &str) -> bool {
        assert!(self.awaiting.confirmed(Verb::Subscribe, name), "{name}");
        let is_flowing = self.subscriptions.subscribed(name, true);
        if is_flowing && let Some(flows) = self.hub.get_mut(name) {
            *flows = true;
        }
        is_flowing
    }

    fn confirm_end(&mut self, name: &str) {
        assert!(self.awaiting.confirmed(Verb::Unsubscribe, name), "{name}");
        assert!(!self.subscriptions.unsubscribed(name, true, false));
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
    assert_eq!(rig.want("a"), Standing::Pending);
    assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
    assert!(rig.confirm("a"));
    rig.unwant("a");
    assert_eq!(rig.commands(), ["UNSUBSCRIBE a"]);
    assert_eq!(rig.want("a"), Standing::Pending, "it is not subscribed any more as far as Redis is concerned");
    assert_eq!(rig.commands(), [""; 0], "not before the answer");
    rig.confirm_end("a");
    assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
    assert!(rig.confirm("a") && rig.subscriptions.names.is_empty());
}

#[test]
fn unwanted_while_the_subscribe_is_under_way() {
    let mut rig = Rig::connected();
    rig.want("a");
    assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
    rig.unwant("a");
    assert_eq!(rig.commands(), [""; 0]);
    assert!(!rig.confirm("a"));
    assert_eq!(rig.commands(), ["UNSUBSCRIBE a"]);
    rig.confirm_end("a");
    assert!(rig.subscriptions.names.is_empty());
}

#[test]
fn changes_of_mind_before_anything_is_sent_cost_nothing() {
    let mut rig = Rig::connected();
    rig.want("a");
    rig.unwant("a");
    assert!(rig.subscriptions.names.is_empty());
    assert_eq!(rig.commands(), [""; 0]);
    rig.want("a");
    assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
    rig.confirm("a");
    rig.unwant("a");
    assert_eq!(rig.want("a"), Standing::Subscribed);
    assert_eq!(rig.commands(), [""; 0]);
}

#[test]
fn names_that_come_and_go_while_nothing_can_be_sent_are_not_kept() {
    for mut rig in [Rig::default(), Rig::connected()] {
        for number in 0..20_000 {
            let name = number.to_string();
            rig.want(&name);
            rig.unwant(&name);
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
        rig.want(name);
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
        rig.want(name);
    }
    rig.commands();
    rig.confirm("a");
    rig.unwant("b");
    rig.disconnect();
    assert_eq!(rig.subscriptions.readiness(), Readiness::Recovering);
    rig.reconnect();
    let mut names: Vec<_> = rig.commands()[0].split(' ').skip(1).map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["a", "c"]);
    assert!(rig.confirm("c"));
    assert_eq!(rig.subscriptions.readiness(), Readiness::Recovering);
    rig.unwant("a");
    assert_eq!(rig.subscriptions.readiness(), Readiness::Ready);
}

#[test]
fn a_refused_name_does_not_take_the_others_with_it() {
    let mut rig = Rig::default();
    for number in 0..COMMAND_NAMES_MAX - 1 {
        rig.want(&number.to_string());
    }
    rig.want("secret");
    rig.reconnect();
    let (refused, commands) = rig.answer_all(|name| name != "secret");
    assert_eq!(refused, ["secret"]);
    assert!(commands <= 20, "{commands} commands to find one name of {COMMAND_NAMES_MAX}");
    assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.refused_count()), (Readiness::Ready, 1));
    assert_eq!(rig.want("secret"), Standing::Refused);
    assert_eq!(rig.commands(), [""; 0], "not before its time");
    rig.subscriptions.retry_refused();
    assert_eq!(rig.commands(), ["SUBSCRIBE secret"]);
    assert_eq!((rig.refuse(Refusal::ForGood), rig.subscriptions.refused_count()), (vec![], 1), "nothing new");
    rig.unwant("secret");
    assert_eq!(rig.subscriptions.refused_count(), 0);
    rig.subscriptions.retry_refused();
    assert_eq!(rig.commands(), [""; 0]);
}

#[test]
fn nothing_is_ready_while_everything_is_refused_also_while_it_is_tried_again() {
    let mut rig = Rig::default();
    let names: Vec<String> = (0..1000).map(|number| format!("n{number:03}")).collect();
    for name in &names {
        rig.want(name);
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
        rig.want(&number.to_string());
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
    rig.want("a");
    rig.answer_all(|_| true);
    rig.unwant("a");
    assert_eq!(rig.commands(), ["UNSUBSCRIBE a"]);
    rig.refuse(Refusal::ForNow);
    assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.has_postponed()), (Readiness::Ready, true));
    rig.subscriptions.retry_postponed();
    assert_eq!(rig.commands(), ["UNSUBSCRIBE a"]);
    // Wanted again, and the UNSUBSCRIBE is refused or lost: whether it is subscribed is not known, so it is asked for.
    rig.want("a");
    rig.refuse(Refusal::ForNow);
    assert_eq!(rig.commands(), ["SUBSCRIBE a"]);
    assert!(rig.confirm("a"));
    assert!(!rig.subscriptions.has_postponed());
    rig.unwant("a");
    rig.commands();
    rig.refuse(Refusal::ForGood);
    assert!(rig.subscriptions.names.is_empty() && rig.subscriptions.subscribed == 0);
}

#[test]
fn a_subscription_that_ends_unasked_is_asked_for_again() {
    let mut rig = Rig::connected();
    rig.want("a");
    rig.answer_all(|_| true);
    assert!(!rig.subscriptions.unsubscribed("unknown", false, false));
    assert!(rig.subscriptions.unsubscribed("a", false, true), "it has ceased to flow");
    rig.hub.insert("a".to_owned(), false);
    assert_eq!(rig.subscriptions.readiness(), Readiness::Recovering);
    rig.answer_all(|_| true);
    assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.subscribed), (Readiness::Ready, 1));
}

#[test]
fn without_its_pattern_nothing_is_ready_and_without_the_rest_it_is() {
    let mut rig = Rig::default();
    rig.subscriptions.want_pattern("p:*");
    rig.subscriptions.want_beside("beside");
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
    rig.want("a");
    for is_news in [true, false] {
        rig.reconnect();
        rig.commands();
        let Some(Asked::Channels(verb, names)) = rig.awaiting.answered() else { panic!("nothing was asked") };
        let refused = rig.subscriptions.refused(verb, &names, Refusal::ForGood);
        assert_eq!(refused, [Refused { name: "a".into(), is_news }]);
    }
}

/// What is subscribed and wanted is known by the hub: a million channels leave nothing here.
#[test]
fn settled_names_are_not_kept_and_a_new_connection_is_shown_them_in_pieces() {
    let mut rig = Rig::connected();
    for number in 0..100_000 {
        rig.want(&number.to_string());
    }
    rig.answer_all(|_| true);
    assert_eq!((rig.subscriptions.names.len(), rig.subscriptions.subscribed), (0, 100_000));
    rig.reconnect();
    assert_eq!(rig.subscriptions.readiness(), Readiness::Recovering);
    let first = rig.commands();
    assert!(rig.subscriptions.names.len() <= UNANSWERED_MAX, "{}", rig.subscriptions.names.len());
    // Some leave before they are shown, some come, and some of these in the place of others.
    for number in 90_000..95_000 {
        rig.unwant(&number.to_string());
    }
    for number in 94_000..95_000 {
        assert_eq!(rig.want(&number.to_string()), Standing::Pending);
    }
    for name in first.iter().flat_map(|command| command.split(' ').skip(1)) {
        assert!(rig.confirm(name));
    }
    rig.answer_all(|_| true);
    assert_eq!((rig.subscriptions.readiness(), rig.subscriptions.recovering), (Readiness::Ready, 0));
    assert_eq!((rig.subscriptions.names.len(), rig.subscriptions.subscribed), (0, 96_000));
    assert!(rig.subscriptions.names.capacity() <= 2 * COMMAND_NAMES_MAX && rig.subscriptions.queue.capacity() <= COMMAND_NAMES_MAX);
    assert!(rig.hub.values().all(|is_flowing| *is_flowing));
}
