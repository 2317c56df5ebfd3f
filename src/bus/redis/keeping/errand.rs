//! What is to be done when a mark was set and its user has been answered: the other nodes are told, and where a user has too many marks some go. None of it
//! changes what was answered.

use redis::Value;

use super::news::told;
use crate::bus::marks::MarkNews;
use crate::bus::redis::keys;
use crate::limits::redis::keeping::{MARKS_PER_USER_MAX, MARKS_TRIMMED_MORE};

#[derive(Debug)]
pub(super) enum Errand {
    /// The other nodes are told.
    Tell(MarkNews),
    /// There are too many marks: which of them, but this one?
    Look { user: Box<str>, keep: Box<str>, found: Vec<Box<[u8]>> },
    /// These go.
    Drop { user: Box<str>, members: Vec<Box<[u8]>> },
}

impl Errand {
    pub fn user(&self) -> &str {
        match self {
            Errand::Tell(news) => &news.user,
            Errand::Look { user, .. } | Errand::Drop { user, .. } => user,
        }
    }

    /// Writes its one command. `channel`: the one in Redis on which nodes tell each other.
    pub fn write(&self, prefix: &str, channel: &str, ask: &mut dyn FnMut(&[&[u8]])) {
        match self {
            Errand::Tell(news) => ask(&[b"PUBLISH", channel.as_bytes(), told(news).as_bytes()]),
            Errand::Look { user, .. } => {
                let last = (2 * MARKS_PER_USER_MAX).to_string();
                ask(&[b"ZRANGE", keys::marks(prefix, user).as_bytes(), b"0", last.as_bytes()]);
            }
            Errand::Drop { user, members } => {
                let key = keys::marks(prefix, user);
                let mut command = vec![b"ZREM".as_slice(), key.as_bytes()];
                command.extend(members.iter().map(|member| &**member));
                ask(&command);
            }
        }
    }

    /// Redis has answered it.
    pub fn take(&mut self, value: &Value) {
        if let Errand::Look { found, keep, .. } = self {
            *found = too_many(value, keep);
        }
    }

    /// What follows from it.
    pub fn next(self) -> Option<Errand> {
        match self {
            Errand::Look { user, found: members, .. } if !members.is_empty() => Some(Errand::Drop { user, members }),
            Errand::Look { .. } | Errand::Tell(_) | Errand::Drop { .. } => None,
        }
    }
}

/// The members that go, of those that ZRANGE has found, lowest number first: first those of epochs that are over.
fn too_many(value: &Value, keep: &str) -> Vec<Box<[u8]>> {
    let Value::Array(found) = value else { return Vec::new() };
    let text = |member: &'_ Value| if let Value::BulkString(member) = member { Some(member.clone()) } else { None };
    let members: Vec<Vec<u8>> = found.iter().filter_map(text).collect();
    let mut newest = std::collections::HashMap::new();
    for (channel, epoch) in members.iter().filter_map(|member| parts(member)) {
        let known = newest.entry(channel).or_insert(epoch);
        *known = epoch.max(*known);
    }
    // What is not written as ours is nobody's mark.
    let is_over = |member: &[u8]| parts(member).is_none_or(|(channel, epoch)| newest[channel] > epoch);
    let (mut gone, left): (Vec<&[u8]>, Vec<&[u8]>) = members.iter().map(Vec::as_slice).partition(|member| is_over(member));
    if left.len() > MARKS_PER_USER_MAX {
        let more = left.len() - MARKS_PER_USER_MAX + MARKS_TRIMMED_MORE;
        gone.extend(left.into_iter().filter(|member| *member != keep.as_bytes()).take(more));
    }
    gone.into_iter().map(Into::into).collect()
}

/// Channel and epoch of a member.
fn parts(member: &[u8]) -> Option<(&[u8], u64)> {
    let at = member.iter().position(|&byte| byte == b':')?;
    let epoch = std::str::from_utf8(&member[..at]).ok()?.parse().ok()?;
    Some((&member[at + 1..], epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_marks_those_of_past_epochs_go_first_and_the_one_that_was_set_stays() {
        let bulk = |text: String| Value::BulkString(text.into_bytes());
        let few = Value::Array(["4:a", "5:a", "5:b", "nonsense"].map(|text| bulk(text.into())).into());
        assert_eq!(too_many(&few, "5:a"), [b"4:a".as_slice().into(), b"nonsense".as_slice().into()] as [Box<[u8]>; 2]);
        let many = Value::Array((0..=MARKS_PER_USER_MAX).map(|number| bulk(format!("5:c{number}"))).collect());
        let gone = too_many(&many, "5:c0");
        assert_eq!((gone.len(), &*gone[0]), (1 + MARKS_TRIMMED_MORE, &b"5:c1"[..]));
        assert!(too_many(&Value::Nil, "").is_empty());
    }

    #[test]
    fn looking_leads_to_dropping_and_nothing_else_follows() {
        let look = Errand::Look { user: "u".into(), keep: "5:a".into(), found: vec![b"4:a".as_slice().into()] };
        let mut written = Vec::new();
        let drop = look.next().unwrap();
        drop.write("p:", "told", &mut |command| written.push(command.concat()));
        assert_eq!(written, [b"ZREMp:{u}:marks4:a".to_vec()]);
        assert!(drop.next().is_none());
        assert!(Errand::Look { user: "u".into(), keep: "5:a".into(), found: Vec::new() }.next().is_none());
    }
}
