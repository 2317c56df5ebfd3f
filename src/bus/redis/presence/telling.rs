//! What back ends are told: who was the first anywhere, and who the last.

use redis::Value;

use super::errand::{Beginning, Errand, Look, Looked, Reply, Sweep, names, sums};
use super::ledger::Written;
use super::{Kind, Presence, REFUSED_RETRY_NS};
use crate::bus::hub::Hub;
use crate::limits::redis::presence::NAMES_MAX;
use crate::sys::monotonic_ns;

impl Presence {
    /// What this node counts is written.
    pub(super) fn written(&mut self, kind: Kind, written: Vec<Written>) {
        let ledger = self.ledger(kind);
        written.iter().for_each(|written| ledger.confirm(written));
        // Whether anybody is there can have changed where this node has its first, or no more; or where that is not known.
        let may_matter = |written: &Written| written.before.is_none_or(|before| (before == 0) != (written.now == 0));
        let names = written.into_iter().filter(may_matter).map(|Written { name, now, .. }| Looked::new(name, now)).collect();
        self.look(Look { kind, names, sweep: None });
    }

    /// Some could not be looked at, or told, before.
    pub(super) fn look_again(&mut self, kind: Kind, names: Vec<Box<str>>) {
        let names = self.with_mine(kind, names);
        self.errands.push_back(Errand::Nodes(Beginning::Look(Look { kind, names, sweep: None })));
    }

    fn with_mine(&mut self, kind: Kind, names: Vec<Box<str>>) -> Vec<Looked> {
        let ledger = self.ledger(kind);
        names.into_iter().map(|name| (ledger.look_at(&name), name)).map(|(mine, name)| Looked::new(name, mine)).collect()
    }

    fn look(&mut self, look: Look) {
        if look.names.is_empty() || !self.tells(look.kind) {
            return self.finish(look);
        }
        self.errands.push_back(Errand::Look(look));
    }

    pub(super) fn go_on(&mut self, hub: &mut Hub, beginning: Beginning) {
        match beginning {
            Beginning::Look(look) => self.look(look),
            Beginning::Count(wanted) if self.others.is_empty() => self.counted(hub, wanted, &[]),
            Beginning::Count(wanted) => self.questions.push_back(Errand::Count(wanted)),
        }
    }

    /// What the others have is known, and what was told.
    pub(super) fn looked(&mut self, mut look: Look, replies: &[Reply]) {
        let Some((Ok(Value::Array(scores)), counts)) = replies.split_last() else { return self.finish(look) };
        let others = sums(counts, look.names.len());
        let mut found = others.into_iter().zip(scores);
        look.names.retain_mut(|looked| {
            let Some((others, score)) = found.next() else { return false };
            looked.total = others + u64::from(looked.mine);
            (looked.total > 0) != (*score != Value::Nil)
        });
        if look.names.is_empty() { self.finish(look) } else { self.errands.push_back(Errand::Tell(look)) }
    }

    /// Back ends were told, but for events that Redis could not take; and it may be otherwise by now.
    pub(super) fn told(&mut self, hub: &Hub, mut look: Look, replies: &[Reply]) {
        let Some(Ok(Value::Array(done))) = replies.last() else { return self.look_later(look, REFUSED_RETRY_NS) };
        let Some((enlisted, done)) = done.split_first() else { return self.look_later(look, REFUSED_RETRY_NS) };
        self.enlisted(enlisted);
        self.know_others(done.last());
        let refusal = done.iter().take(look.names.len()).find_map(|answer| match answer {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        if let Some(error) = refusal {
            self.note_refusal(hub, error);
            let mut answers = done.iter();
            let (refused, told) = look.names.into_iter().partition(|_| matches!(answers.next(), Some(Value::ServerError(_))));
            look.names = told;
            let refused = Look { kind: look.kind, names: refused, sweep: None };
            self.put_off(&refused, REFUSED_RETRY_NS);
            self.errands.push_back(Errand::Unnote(refused));
        }
        hub.metrics().presence_events.add(look.names.len() as u64);
        if look.names.is_empty() {
            return self.finish(look);
        }
        for looked in &mut look.names {
            looked.mine = self.ledger(look.kind).look_at(&looked.name);
        }
        self.errands.push_back(Errand::Look(look));
    }

    /// It could not be looked at, or not be told.
    pub(super) fn look_later(&mut self, look: Look, pause_ns: u64) {
        self.put_off(&look, pause_ns);
        self.finish(look);
    }

    fn put_off(&mut self, look: &Look, pause_ns: u64) {
        let at = monotonic_ns() + pause_ns;
        let ledger = self.ledger(look.kind);
        let lost = look.names.iter().filter(|looked| !ledger.put_off(looked.name.clone(), at)).count();
        if lost > 0 && self.warnings.take(monotonic_ns()).is_some() {
            tracing::warn!("back ends are not told of {lost} changes of who is there: too many wait for Redis to take them");
        }
    }

    /// All of it is told.
    fn finish(&mut self, look: Look) {
        match look.sweep {
            None => self.ledger(look.kind).is_busy = false,
            // When it was given up meanwhile, the next beat begins anew.
            Some(_) if !self.is_sweeping => {}
            Some(Sweep { after: None, kind: Kind::Channels }) if self.tells(Kind::Users) => {
                self.errands.push_back(Errand::Page(Sweep { kind: Kind::Users, after: None }));
            }
            Some(Sweep { after: None, .. }) => {
                self.owes_walk = false;
                self.errands.push_back(Errand::Release);
            }
            Some(sweep) => self.errands.push_back(Errand::Page(sweep)),
        }
    }

    // What the dead have left.

    /// Which of the others live is known.
    pub(super) fn rolled(&mut self, replies: &[Reply]) {
        // Of the hash of each: it is gone, or it has no end.
        let of = |answer: i64| {
            let is_it = move |reply: &Reply| matches!(reply, Ok(Value::Int(found)) if *found == answer);
            self.others.iter().zip(replies).filter(|(_, reply)| is_it(reply)).map(|(id, _)| id.clone()).collect::<Vec<_>>()
        };
        let (dead, endless) = (of(-2), of(-1));
        if !endless.is_empty() {
            self.errands.push_back(Errand::Limit { endless });
        }
        if (self.owes_walk || !dead.is_empty()) && !std::mem::replace(&mut self.is_sweeping, true) {
            self.errands.push_back(Errand::Claim { dead });
        }
    }

    pub(super) fn claimed(&mut self, dead: Vec<Box<str>>, replies: &[Reply]) {
        match replies {
            [Ok(Value::Okay)] if dead.is_empty() => self.walk(),
            [Ok(Value::Okay)] => {
                // Before it is known whether they are struck: an answer can be lost.
                self.owes_walk = true;
                self.errands.push_back(Errand::Bury { dead });
            }
            // Another one does it.
            _ => self.is_sweeping = false,
        }
    }

    pub(super) fn buried(&mut self, replies: &[Reply]) {
        if let Some(Ok(Value::Array(done))) = replies.last() {
            done.iter().take(1).for_each(|enlisted| self.enlisted(enlisted));
        }
        self.walk();
    }

    fn walk(&mut self) {
        self.errands.push_back(Errand::Page(Sweep { kind: Kind::Channels, after: None }));
    }

    pub(super) fn paged(&mut self, sweep: Sweep, replies: &[Reply]) {
        let kind = sweep.kind;
        let names = names(replies.get(1));
        let after = names.last().filter(|_| names.len() == NAMES_MAX).cloned();
        let names = self.with_mine(kind, names);
        self.look(Look { kind, names, sweep: Some(Sweep { kind, after }) });
    }

    /// This node had to be on the list, and is.
    pub(super) fn enlisted(&mut self, answer: &Value) {
        if *answer == Value::Int(1) {
            // It was not, so others have not counted what it wrote; and the next beat cannot see that any more.
            (self.beat_at, self.is_doubtful) = (0, true);
        }
    }
}
