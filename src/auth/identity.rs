//! Who is at the other end of a connection, and what its token lets it have.

use super::pattern::{self, User};
use crate::limits::{CHANNEL_NAME_BYTES_MAX, heap_bytes};

/// How the name of a user's own channel begins.
pub const USER_CHANNEL: &str = "user:";
/// And that of a group's.
pub const GROUP_CHANNEL: &str = "group:";
/// So that the channel of a user has a name.
pub const USER_BYTES_MAX: usize = CHANNEL_NAME_BYTES_MAX - USER_CHANNEL.len();

/// Of a certificate, as groups; whoever has more has the first ones.
const UNITS_MAX: usize = 64;

/// Shared by all connections that brought the same token, and by those who remember it. Laid small: a connection with a token of its own costs little
/// more than one without.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// Unix time in seconds; [`u64::MAX`]: never.
    expires_s: u64,
    /// The user, the token's id, and the claims, one behind the other: one piece of the heap for all of them.
    text: Box<str>,
    /// How long the first ones are; the groups are the rest.
    user_bytes: u16,
    id_bytes: u16,
    channels_bytes: u16,
    publish_bytes: u16,
    /// Unix time in seconds; 0: nobody says.
    issued_s: u32,
}

/// What most tokens do not say: lists of texts without control characters, a line for each, so that a claim takes no more here than in its token.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Patterns of channels that may be subscribed to, by rules that ask the token.
    pub channels: Box<str>,
    /// The same to publish to.
    pub publish: Box<str>,
    /// Each opens the channel `group:NAME`.
    pub groups: Box<str>,
}

impl Identity {
    /// Somebody whose word is believed, for as long as the connection lives.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn of_user(user: &str) -> Result<Identity, &'static str> {
        check_user(user)?;
        Ok(Identity::new(user, "", u64::MAX, 0, Claims::default()))
    }

    /// Somebody whose certificate was believed, until it expires. Its organizational units are groups.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn of_certificate<'a>(user: &str, units: impl Iterator<Item = &'a str>, expires_s: u64) -> Result<Identity, &'static str> {
        check_user(user)?;
        let groups: Vec<&str> = units.filter(|unit| check_user(unit).is_ok()).take(UNITS_MAX).collect();
        Ok(Identity::new(user, "", expires_s, 0, Claims { groups: groups.join("\n").into(), ..Claims::default() }))
    }

    /// The user has passed [`check_user`]; no token is as long as 64 KiB, so neither is what it says.
    pub(super) fn new(user: &str, token_id: &str, expires_s: u64, issued_s: u64, claims: Claims) -> Identity {
        let Claims { channels, publish, groups } = &claims;
        let bytes = |text: &str| u16::try_from(text.len()).expect("a part of a token");
        Identity {
            expires_s,
            user_bytes: bytes(user),
            id_bytes: bytes(token_id),
            channels_bytes: bytes(channels),
            publish_bytes: bytes(publish),
            issued_s: issued_s.min(u32::MAX.into()) as u32,
            text: [user, token_id, channels, publish, groups].concat().into(),
        }
    }

    /// The parts of the text.
    fn parts(&self) -> [&str; 5] {
        let (user, rest) = self.text.split_at(usize::from(self.user_bytes));
        let (id, rest) = rest.split_at(usize::from(self.id_bytes));
        let (channels, rest) = rest.split_at(usize::from(self.channels_bytes));
        let (publish, groups) = rest.split_at(usize::from(self.publish_bytes));
        [user, id, channels, publish, groups]
    }

    pub fn user(&self) -> &str {
        self.parts()[0]
    }

    /// `jti`; empty: it has none.
    pub fn token_id(&self) -> &str {
        self.parts()[1]
    }

    /// Unix time in seconds; None: never.
    pub fn expires_s(&self) -> Option<u64> {
        Some(self.expires_s).filter(|&expires_s| expires_s < u64::MAX)
    }

    /// `iat`, Unix time in seconds; 0: the token does not say.
    pub fn issued_s(&self) -> u64 {
        self.issued_s.into()
    }

    /// Whether the `channels` claim names this channel.
    pub fn may_hear(&self, channel: &str) -> bool {
        self.is_named(self.parts()[2], channel)
    }

    /// Whether the `publish` claim does.
    pub fn may_publish(&self, channel: &str) -> bool {
        self.is_named(self.parts()[3], channel)
    }

    /// Whether the other one may have the same.
    pub fn has_claims_of(&self, other: &Identity) -> bool {
        self.parts()[2..] == other.parts()[2..]
    }

    /// How many patterns its claims have, which a rule that asks the token compares.
    pub fn patterns(&self) -> usize {
        self.parts()[2].lines().count()
    }

    /// The patterns of what it may subscribe to, by rules that ask the token.
    pub fn heard(&self) -> Vec<&str> {
        self.parts()[2].lines().collect()
    }

    /// The same of what it may publish to.
    pub fn published(&self) -> Vec<&str> {
        self.parts()[3].lines().collect()
    }

    pub fn groups(&self) -> Vec<&str> {
        self.parts()[4].lines().collect()
    }

    pub fn is_in_group(&self, group: &str) -> bool {
        self.parts()[4].lines().any(|other| other == group)
    }

    fn is_named(&self, patterns: &str, channel: &str) -> bool {
        patterns.lines().any(|pattern| pattern::matches(pattern, channel, User::Is(self.user())))
    }

    /// What it takes of the heap, its own place included.
    pub fn heap_bytes(&self) -> usize {
        heap_bytes(2 * size_of::<usize>() + size_of::<Identity>()) + heap_bytes(self.text.len())
    }
}

/// The most that is kept of a token of this length: the texts of its claims, which are three quarters of it in base64, and what lies around them.
pub const fn heap_bytes_max(token_bytes: usize) -> usize {
    heap_bytes(token_bytes / 4 * 3) + heap_bytes(2 * size_of::<usize>() + size_of::<Identity>())
}

/// A user's name is part of channels' names.
pub fn check_user(user: &str) -> Result<(), &'static str> {
    const _: () = assert!(USER_BYTES_MAX == 250, "the message below names it");
    match user {
        "" => Err("a user's name must not be empty"),
        _ if user.len() > USER_BYTES_MAX => Err("a user's name must not be longer than 250 bytes"),
        _ if user.contains(char::is_control) => Err("a user's name must not contain control characters"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_somebody_takes_little() {
        assert_eq!(size_of::<Identity>(), 40);
        let identity = Identity::new("user-123456", "0123456789", 1, 7, Claims::default());
        assert_eq!(identity.heap_bytes(), 64 + 32);
        assert_eq!(
            (identity.user(), identity.token_id(), identity.expires_s(), identity.issued_s()),
            ("user-123456", "0123456789", Some(1), 7)
        );
    }

    #[test]
    fn a_believed_user_never_expires_and_has_no_claims() {
        let identity = Identity::of_user("u").unwrap();
        assert_eq!((identity.user(), identity.token_id(), identity.expires_s()), ("u", "", None));
        assert!(!identity.may_hear("a") && !identity.may_publish("a") && !identity.is_in_group("g"));
        for (user, words) in [("", "empty"), (&*"x".repeat(251), "250 bytes"), ("a\nb", "control")] {
            assert!(Identity::of_user(user).unwrap_err().contains(words), "{user}");
        }
        assert!(Identity::of_user(&"x".repeat(250)).is_ok());
    }

    #[test]
    fn a_certificate_is_somebody_in_its_units_until_it_expires() {
        let identity = Identity::of_certificate("pump-7", ["staff", "", "plant 2"].into_iter(), 99).unwrap();
        assert_eq!((identity.user(), identity.groups(), identity.expires_s()), ("pump-7", vec!["staff", "plant 2"], Some(99)));
        assert!(identity.is_in_group("plant 2") && !identity.may_hear("pump-7"));
        assert!(Identity::of_certificate("", [].into_iter(), 99).is_err());
    }

    #[test]
    fn claims_name_channels() {
        let claims = Claims { channels: "room:*\nuser:{sub}".into(), publish: "room:1".into(), groups: "admins\nstaff".into() };
        let identity = Identity::new("u", "", 1, 0, claims);
        assert!(identity.may_hear("room:7") && identity.may_hear("user:u") && !identity.may_hear("user:v"));
        assert!(identity.may_publish("room:1") && !identity.may_publish("room:7"));
        assert!(identity.is_in_group("admins") && identity.is_in_group("staff") && !identity.is_in_group("admin"));
        assert_eq!(identity.heap_bytes(), 64 + 48);
        assert!(!identity.may_hear("admins") && !identity.is_in_group("room:1") && identity.user() == "u");
    }
}
