//! Who is subscribed to which channel on this node, as it is written to Redis. A list is one text: `=` or `+` (there are others), then a user on each line.
//!
//! Invariant: a list that is not known to be written, or to be gone, is due.

use std::collections::{HashMap, HashSet};

use crate::bus::presence::Roster;
use crate::limits::redis::presence::{NAMES_MAX, ROSTER_BYTES};

#[derive(Debug, Default)]
pub struct Rosters {
    /// Those that have anybody.
    texts: HashMap<Box<str>, Box<str>>,
    due: HashSet<Box<str>>,
    /// Some are being written.
    pub is_busy: bool,
}

/// A channel and its list; None: it has none any more.
pub type Listed = (Box<str>, Option<Box<str>>);

impl Rosters {
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.due.is_empty()
    }

    pub fn set(&mut self, channel: &str, roster: &Roster) {
        let before = if roster.is_empty() { self.texts.remove(channel) } else { self.texts.insert(channel.into(), written(roster)) };
        if self.texts.get(channel) != before.as_ref() {
            self.due.insert(channel.into());
        }
    }

    /// All of them are to be written again.
    pub fn doubt(&mut self) {
        self.due.extend(self.texts.keys().cloned());
    }

    pub fn put_back(&mut self, listed: Vec<Listed>) {
        self.due.extend(listed.into_iter().map(|(channel, _)| channel));
    }

    /// The next ones to be written, if none are being written and any are due.
    pub fn take(&mut self) -> Option<Vec<Listed>> {
        if self.is_busy {
            return None;
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for channel in &self.due {
            let text = self.texts.get(channel);
            bytes += text.map_or(0, |text| text.len());
            if taken.len() == NAMES_MAX || (!taken.is_empty() && bytes > ROSTER_BYTES) {
                break;
            }
            taken.push((channel.clone(), text.cloned()));
        }
        for (channel, _) in &taken {
            self.due.remove(channel);
        }
        self.is_busy = !taken.is_empty();
        self.is_busy.then_some(taken)
    }
}

fn written(roster: &Roster) -> Box<str> {
    let mut text = String::from(if roster.is_partial { "+" } else { "=" });
    for user in &roster.users {
        text.push('\n');
        text.push_str(user);
    }
    text.into()
}

/// A text of another node; what cannot be understood lists nobody.
pub fn read(text: &[u8]) -> Roster {
    let Ok(text) = std::str::from_utf8(text) else { return Roster::default() };
    let mut lines = text.split('\n');
    let is_partial = lines.next() == Some("+");
    Roster { users: lines.map(Box::from).collect(), is_partial }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(users: &[&str], is_partial: bool) -> Roster {
        Roster { users: users.iter().map(|&user| user.into()).collect(), is_partial }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for roster in [roster(&["ann"], false), roster(&["ann", "b ö", "+"], true), roster(&[], true)] {
            assert_eq!(read(written(&roster).as_bytes()), roster);
        }
        assert_eq!((read(b""), read(b"\xff"), read(b"=")), (Roster::default(), Roster::default(), Roster::default()));
    }

    #[test]
    fn what_has_changed_is_due_once() {
        let mut rosters = Rosters::default();
        rosters.set("a", &Roster::default());
        assert_eq!(rosters.take(), None);
        rosters.set("a", &roster(&["ann"], false));
        assert_eq!(rosters.take(), Some(vec![("a".into(), Some("=\nann".into()))]));
        rosters.set("a", &Roster::default());
        assert_eq!(rosters.take(), None, "one after the other");
        rosters.is_busy = false;
        let gone = rosters.take().unwrap();
        assert_eq!(gone, [("a".into(), None)]);
        // It was not answered.
        (rosters.is_busy, _) = (false, rosters.put_back(gone));
        rosters.doubt();
        assert!(rosters.take().is_some() && rosters.is_empty());
    }
}
