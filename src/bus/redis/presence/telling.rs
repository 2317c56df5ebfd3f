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
        let to_look_at = |Written { name, before, now }: Written| match before {
            Some(before) if (before == 0) == (now == 0) => None,
            Some(_) => Some(Looked { is_turn: true, ..Looked::new(name, now) }),
            None => Some(Looked::new(name, now)),
        };
        let names = written.into_iter().filter_map(to_look_at).collect();
        self.look(Look { kind, names, sweep: None });
    }

    /// Some could not be looked at, or told, before.
    pub(super) fn look_again(&mut self, kind: Kind, names: Vec<Box<str>>) {
        let names = names.into_iter().map(|name| (self.ledger(kind).count(&name), name)).map(|(mine, name)| Looked::new(name, mine));
        let look = Look { kind, names: names.collect(), sweep: None };
        self.errands.push_back(Errand::Nodes(Beginning::Look(look)));
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
        let is_to_be_told = |looked: &mut Looked, others: u64, is_noted: bool| {
            looked.total = others + u64::from(looked.mine);
            let is_there = looked.total > 0;
            match looked.told {
                Some(told) => told != is_there,
                // Whatever is noted may be on its way to be changed; what only this node has it has made so.
                None => is_noted != is_there || (looked.is_turn && others == 0),
            }
        };
        let mut place = 0;
        look.names.retain_mut(|looked| {
            let is_noted = scores.get(place).is_some_and(|score| *score != Value::Nil);
            place += 1;
            is_to_be_told(looked, others[place - 1], is_noted)
        });
        if look.names.is_empty() { self.finish(look) } else { self.errands.push_back(Errand::Tell(look)) }
    }

    /// Back ends were told of those that were not refused.
    pub(super) fn told(&mut self, hub: &Hub, mut look: Look, replies: &[Reply]) {
        let mut refused = Vec::new();
        let mut place = 0;
        look.names.retain_mut(|looked| {
            place += 1;
            looked.told = Some(looked.total > 0);
            let is_told = replies[place - 1].is_ok();
            if !is_told {
                refused.push(looked.name.clone());
            }
            is_told
        });
        if let Some(error) = replies.iter().find_map(|reply| reply.as_ref().err()) {
            self.note_refusal(hub, error);
            self.put_off(look.kind, refused, REFUSED_RETRY_NS);
        }
        hub.metrics().presence_events.add(look.names.len() as u64);
        if look.names.is_empty() { self.finish(look) } else { self.errands.push_back(Errand::Mark(look)) }
    }

    /// It could not be looked at, or not be told.
    pub(super) fn look_later(&mut self, look: Look, pause_ns: u64) {
        self.put_off(look.kind, look.names.iter().map(|looked| looked.name.clone()).collect(), pause_ns);
        self.finish(look);
    }

    fn put_off(&mut self, kind: Kind, names: Vec<Box<str>>, pause_ns: u64) {
        let at = monotonic_ns() + pause_ns;
        let ledger = self.ledger(kind);
        let lost = names.into_iter().filter(|name| !ledger.put_off(name.clone(), at)).count();
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
            Some(Sweep { after: None, kind: Kind::Channels, dead }) if self.tells(Kind::Users) => {
                self.errands.push_back(Errand::Page(Sweep { kind: Kind::Users, after: None, dead }));
            }
            Some(Sweep { after: None, dead, .. }) => self.errands.push_back(Errand::Bury { dead }),
            Some(sweep) => self.errands.push_back(Errand::Page(sweep)),
        }
    }

    // What the dead have left.

    /// Which of the others live is known.
    pub(super) fn rolled(&mut self, replies: &[Reply]) {
        let is_dead = |reply: &Reply| matches!(reply, Ok(Value::Int(0)));
        let dead: Vec<Box<str>> = self.others.iter().zip(replies).filter(|(_, reply)| is_dead(reply)).map(|(id, _)| id.clone()).collect();
        if !dead.is_empty() && !std::mem::replace(&mut self.is_sweeping, true) {
            self.errands.push_back(Errand::Claim { dead });
        }
    }

    pub(super) fn claimed(&mut self, dead: Vec<Box<str>>, replies: &[Reply]) {
        match replies {
            [Ok(Value::Okay)] => self.errands.push_back(Errand::Page(Sweep { kind: Kind::Channels, after: None, dead })),
            // Another one does it.
            _ => self.is_sweeping = false,
        }
    }

    pub(super) fn paged(&mut self, sweep: Sweep, replies: &[Reply]) {
        let Sweep { kind, dead, .. } = sweep;
        let names = names(replies.get(1));
        let after = names.last().filter(|_| names.len() == NAMES_MAX).cloned();
        let names = names.into_iter().map(|name| (self.ledger(kind).count(&name), name)).map(|(mine, name)| Looked::new(name, mine));
        let names: Vec<Looked> = names.collect();
        self.look(Look { kind, names, sweep: Some(Sweep { kind, after, dead }) });
    }
}
