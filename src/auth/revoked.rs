//! Tokens that are honoured no more though they have not expired: by their id, or all that a user was given before a moment. One table for all shards,
//! which ask it once for each token that is brought; whoever revokes writes it.
//!
//! Invariant: it is bounded ([`crate::limits::auth::REVOKED_MAX`]), and what has expired makes room. It lies in parts, each behind a lock that is held for one
//! look-up, so that nobody waits for all of it; as long as nothing is revoked no lock is taken.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashMap;

use super::identity::Identity;
use crate::limits::auth::REVOKED_MAX;

/// Which tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Revocation {
    /// The one with this id (`jti`).
    Token(String),
    /// All of this user that were issued (`iat`) before this second, and those that do not say when they were.
    User { user: String, issued_before_s: u64 },
}

/// What came of revoking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    New,
    /// It was revoked already, at least as widely and for as long.
    Known,
    /// As much is revoked as may be.
    Full,
}

#[derive(Debug)]
pub struct Revoked {
    /// In all parts.
    count: AtomicUsize,
    parts: [RwLock<Part>; PARTS],
    hasher: RandomState,
}

const PARTS: usize = 64;

#[derive(Debug, Default)]
struct Part {
    tokens: HashMap<Box<str>, Kept>,
    users: HashMap<Box<str>, OfUser>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Unix time in seconds: no token that it means is good any more then.
    until_s: u64,
    /// It was asked of this process, and is not known to stand where the others find it.
    is_unstored: bool,
    is_own: bool,
}

#[derive(Debug, Clone, Copy)]
struct OfUser {
    issued_before_s: u64,
    kept: Kept,
}

impl Default for Revoked {
    fn default() -> Revoked {
        Revoked { count: AtomicUsize::new(0), parts: std::array::from_fn(|_| RwLock::default()), hasher: RandomState::new() }
    }
}

impl Revoked {
    fn place(&self, name: &str) -> &RwLock<Part> {
        &self.parts[self.hasher.hash_one(name) as usize % PARTS]
    }

    fn read(&self, name: &str) -> RwLockReadGuard<'_, Part> {
        self.place(name).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, name: &str) -> RwLockWriteGuard<'_, Part> {
        self.place(name).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many revocations are kept.
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether somebody's token is revoked.
    pub fn has(&self, identity: &Identity) -> bool {
        if self.is_empty() {
            return false;
        }
        let (token, user) = (identity.token_id(), identity.user());
        (!token.is_empty() && self.read(token).tokens.contains_key(token))
            || self.read(user).users.get(user).is_some_and(|of_user| identity.issued_s() < of_user.issued_before_s)
    }

    /// From now on it is honoured no more, until this second. `is_own`: it is this process that has to tell the others.
    pub fn enter(&self, revocation: &Revocation, until_s: u64, is_own: bool) -> Entered {
        let name = revocation.name();
        let mut part = self.write(name);
        let kept = Kept { until_s, is_unstored: is_own, is_own };
        let is_full = self.len() >= REVOKED_MAX;
        match revocation {
            Revocation::Token(_) => match part.tokens.get_mut(name) {
                Some(known) => {
                    let is_wider = known.widen(kept);
                    return if is_wider { Entered::New } else { Entered::Known };
                }
                None if is_full => return Entered::Full,
                None => drop(part.tokens.insert(name.into(), kept)),
            },
            Revocation::User { issued_before_s, .. } => match part.users.get_mut(name) {
                Some(known) => {
                    let is_wider = known.kept.widen(kept) | (known.issued_before_s < *issued_before_s);
                    known.issued_before_s = known.issued_before_s.max(*issued_before_s);
                    return if is_wider { Entered::New } else { Entered::Known };
                }
                None if is_full => return Entered::Full,
                None => drop(part.users.insert(name.into(), OfUser { issued_before_s: *issued_before_s, kept })),
            },
        }
        self.count.fetch_add(1, Relaxed);
        Entered::New
    }

    /// Until when it is kept; None: it is not.
    pub fn end_s(&self, revocation: &Revocation) -> Option<u64> {
        let name = revocation.name();
        let part = self.read(name);
        match revocation {
            Revocation::Token(_) => part.tokens.get(name).map(|kept| kept.until_s),
            Revocation::User { .. } => part.users.get(name).map(|of_user| of_user.kept.until_s),
        }
    }

    /// It stands where the others find it.
    pub fn note_stored(&self, revocation: &Revocation) {
        let name = revocation.name();
        let mut part = self.write(name);
        match revocation {
            Revocation::Token(_) => part.tokens.get_mut(name).into_iter().for_each(|kept| kept.is_unstored = false),
            Revocation::User { issued_before_s, .. } => {
                let same = part.users.get_mut(name).filter(|of_user| of_user.issued_before_s == *issued_before_s);
                same.into_iter().for_each(|of_user| of_user.kept.is_unstored = false);
            }
        }
    }

    /// What was stored may be lost with where it was: what this process was asked for is to be stored again.
    pub fn doubt_stored(&self) {
        for part in &self.parts {
            let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
            part.tokens.values_mut().for_each(|kept| kept.is_unstored = kept.is_own);
            part.users.values_mut().for_each(|of_user| of_user.kept.is_unstored = of_user.kept.is_own);
        }
    }

    /// Some of what is still to be stored, with its end.
    pub fn unstored(&self, count_max: usize) -> Vec<(Revocation, u64)> {
        let mut found = Vec::new();
        for part in &self.parts {
            if found.len() >= count_max {
                break;
            }
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            let tokens = part.tokens.iter().filter(|(_, kept)| kept.is_unstored);
            found.extend(tokens.map(|(id, kept)| (Revocation::Token(id.to_string()), kept.until_s)));
            let users = part.users.iter().filter(|(_, of_user)| of_user.kept.is_unstored);
            found.extend(users.map(|(user, of_user)| {
                let revocation = Revocation::User { user: user.to_string(), issued_before_s: of_user.issued_before_s };
                (revocation, of_user.kept.until_s)
            }));
        }
        found.truncate(count_max);
        found
    }

    /// What has expired goes.
    pub fn sweep(&self, now_s: u64) {
        for part in &self.parts {
            let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
            let before = part.tokens.len() + part.users.len();
            part.tokens.retain(|_, kept| now_s < kept.until_s);
            part.users.retain(|_, of_user| now_s < of_user.kept.until_s);
            let left = part.tokens.len() + part.users.len();
            if left < before {
                part.tokens.shrink_to(2 * left);
                part.users.shrink_to(2 * left);
            }
            self.count.fetch_sub(before - left, Relaxed);
        }
    }
}

impl Kept {
    /// Whether the other one is for longer, or has to be stored and this one has not.
    fn widen(&mut self, other: Kept) -> bool {
        let is_wider = self.until_s < other.until_s;
        self.until_s = self.until_s.max(other.until_s);
        self.is_own |= other.is_own;
        self.is_unstored |= other.is_unstored;
        is_wider
    }
}

impl Revocation {
    fn name(&self) -> &str {
        match self {
            Revocation::Token(name) | Revocation::User { user: name, .. } => name,
        }
    }

    /// As one word for other processes: `t:JTI`, or `u:SECONDS:USER`.
    pub fn word(&self) -> String {
        match self {
            Revocation::Token(id) => format!("t:{id}"),
            Revocation::User { user, issued_before_s } => format!("u:{issued_before_s}:{user}"),
        }
    }

    /// None: no process of ours has written it.
    pub fn of_word(word: &str) -> Option<Revocation> {
        match word.split_once(':')? {
            ("t", id) if is_name(id) => Some(Revocation::Token(id.to_owned())),
            ("u", rest) => {
                let (seconds, user) = rest.split_once(':').filter(|(_, user)| is_name(user))?;
                Some(Revocation::User { user: user.to_owned(), issued_before_s: seconds.parse().ok()? })
            }
            _ => None,
        }
    }
}

/// Longest id of a token, or name of a user, that can be revoked.
pub const NAME_BYTES_MAX: usize = 256;

/// Whether there can be such a token or user.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control)
}

/// What one takes at most: its place in a table that has grown, and its name.
pub const ENTRY_BYTES_MAX: usize = 2 * (16 + size_of::<OfUser>() + 1) + crate::limits::heap_bytes(NAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::super::identity::Claims;
    use super::*;

    fn identity(user: &str, token_id: &str, issued_s: u64) -> Identity {
        Identity::new(user, token_id, u64::MAX, issued_s, Claims::default())
    }

    fn user(user: &str, issued_before_s: u64) -> Revocation {
        Revocation::User { user: user.into(), issued_before_s }
    }

    #[test]
    fn a_token_is_revoked_by_its_id_or_with_its_user() {
        let revoked = Revoked::default();
        let (one, other, old) = (identity("u", "t1", 100), identity("u", "t2", 100), identity("v", "", 0));
        assert!(![&one, &other, &old].into_iter().any(|identity| revoked.has(identity)));
        assert_eq!(revoked.enter(&Revocation::Token("t1".into()), 200, false), Entered::New);
        assert!(revoked.has(&one) && !revoked.has(&other) && !revoked.has(&old), "nobody's empty id is one");
        for (issued_before_s, is_revoked) in [(100, false), (101, true)] {
            revoked.enter(&user("u", issued_before_s), 200, false);
            assert_eq!(revoked.has(&other), is_revoked, "issued before {issued_before_s}");
        }
        assert!(!revoked.has(&identity("u", "", 101)) && revoked.has(&identity("u", "", 0)), "who does not say when was before");
        assert!(!revoked.has(&identity("t1", "u", 0)), "users and tokens are not the same");
        revoked.enter(&user("v", 1), 150, false);
        assert!(revoked.has(&old));
        revoked.sweep(149);
        assert_eq!(revoked.len(), 3);
        revoked.sweep(150);
        assert!(!revoked.has(&old) && revoked.has(&one));
        revoked.sweep(200);
        assert!(revoked.is_empty() && !revoked.has(&one));
    }

    #[test]
    fn the_wider_one_of_two_counts() {
        let revoked = Revoked::default();
        for (issued_before_s, until_s, entered) in [
            (100, 200, Entered::New),
            (100, 200, Entered::Known),
            (90, 150, Entered::Known),
            (110, 150, Entered::New),
            (90, 300, Entered::New),
        ] {
            assert_eq!(revoked.enter(&user("u", issued_before_s), until_s, false), entered, "{issued_before_s} {until_s}");
        }
        assert!(revoked.has(&identity("u", "", 109)) && !revoked.has(&identity("u", "", 110)));
        revoked.sweep(299);
        assert_eq!(revoked.len(), 1);
    }

    #[test]
    fn what_this_process_was_asked_for_is_stored_and_stored_again() {
        let revoked = Revoked::default();
        revoked.enter(&Revocation::Token("theirs".into()), 9, false);
        revoked.enter(&Revocation::Token("ours".into()), 9, true);
        revoked.enter(&user("u", 5), 9, true);
        assert_eq!(revoked.unstored(1).len(), 1);
        let mut unstored = revoked.unstored(10);
        unstored.sort();
        assert_eq!(unstored, [(Revocation::Token("ours".into()), 9), (user("u", 5), 9)]);
        unstored.iter().for_each(|(revocation, _)| revoked.note_stored(revocation));
        assert_eq!(revoked.unstored(10), []);
        // It comes back as another process sees it.
        revoked.enter(&Revocation::Token("ours".into()), 9, false);
        assert_eq!(revoked.unstored(10), []);
        revoked.doubt_stored();
        assert_eq!(revoked.unstored(10).len(), 2);
        revoked.note_stored(&user("u", 4));
        assert_eq!(revoked.unstored(10).len(), 2, "that was another one");
    }

    #[test]
    fn a_flood_of_revocations_ends_at_the_bound() {
        let revoked = Revoked::default();
        let entered =
            (0..REVOKED_MAX + 10).filter(|number| revoked.enter(&Revocation::Token(format!("t{number}")), 1, false) == Entered::New);
        assert_eq!(entered.count(), REVOKED_MAX);
        assert_eq!(revoked.enter(&user("u", 1), 1, false), Entered::Full);
        assert_eq!(revoked.enter(&Revocation::Token("t1".into()), 2, false), Entered::New, "what is there can be widened");
        revoked.sweep(1);
        assert_eq!(revoked.len(), 1);
        assert_eq!(revoked.enter(&user("u", 1), 1, false), Entered::New);
    }

    #[test]
    fn a_revocation_is_read_as_it_is_written() {
        for revocation in [Revocation::Token("a:b c".into()), user("é:1", 17)] {
            assert_eq!(Revocation::of_word(&revocation.word()), Some(revocation));
        }
        let long = "x".repeat(257);
        for word in ["", "t", "t:", "t:a\nb", "u:1", "u:1:", "u::a", "u:-1:a", "x:a", &format!("t:{long}"), &format!("u:1:{long}")] {
            assert_eq!(Revocation::of_word(word), None, "{word:?}");
        }
    }
}
