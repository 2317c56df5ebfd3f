//! Which channels a pattern names. A claim of a token is a list of them, and so may a rule of `[[channels]]` be for one.
//!
//! Invariant: matching costs no more than the length of the pattern times that of the name, whatever they are: clients choose the names.

use std::fmt;

use crate::limits::CHANNEL_NAME_BYTES_MAX;

/// `*` stands for one or more characters but colons, `**` for one or more characters, `{sub}` for a user; everything else for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

const USER: &str = "{sub}";

/// What may stand at `{sub}`.
#[derive(Debug, Clone, Copy)]
pub enum User<'u> {
    /// This one.
    Is(&'u str),
    /// Whoever there is. A user's name may hold colons.
    Any,
}

/// What a pattern is made of, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'p> {
    Text(&'p str),
    /// `*`
    Name,
    /// `**`
    Rest,
    /// `{sub}`
    User,
}

impl Pattern {
    /// The reason of an `Err` says what is wrong with the text.
    pub fn read(text: &str) -> Result<Pattern, String> {
        match text {
            "" => return Err("it is empty".to_owned()),
            _ if text.len() > CHANNEL_NAME_BYTES_MAX => return Err(format!("it is longer than {CHANNEL_NAME_BYTES_MAX} bytes")),
            _ if text.contains(char::is_control) => return Err("it holds a control character".to_owned()),
            _ if text.contains("***") => return Err("it holds three asterisks in a row: * and ** mean something".to_owned()),
            _ => {}
        }
        if text.replace(USER, "").contains(['{', '}']) {
            return Err(format!("it holds a brace that is not part of {USER}"));
        }
        Ok(Pattern(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What every channel of it begins with.
    pub fn beginning(&self) -> &str {
        let special = self.0.find('*').into_iter().chain(self.0.find(USER)).min();
        &self.0[..special.unwrap_or(self.0.len())]
    }

    /// Whether somebody's name stands in it.
    pub fn has_user(&self) -> bool {
        self.0.contains(USER)
    }

    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        parts(&self.0)
    }

    /// Whether this channel is one of those.
    pub fn matches(&self, channel: &str, user: User<'_>) -> bool {
        matches(&self.0, channel, user)
    }
}

/// Whether this channel is one of those of the pattern that [`Pattern::read`] has taken.
pub(super) fn matches(pattern: &str, channel: &str, user: User<'_>) -> bool {
    if channel.len() > CHANNEL_NAME_BYTES_MAX {
        return false;
    }
    let mut reached = Reached::start();
    for part in parts(pattern) {
        reached = match (part, user) {
            (Part::Text(text), _) | (Part::User, User::Is(text)) => reached.over_text(channel.as_bytes(), text.as_bytes()),
            (Part::Name, _) => reached.over_any(channel.as_bytes(), |byte| byte != b':'),
            (Part::Rest, _) | (Part::User, User::Any) => reached.over_any(channel.as_bytes(), |_| true),
        };
    }
    reached.0[channel.len()]
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

fn parts(mut text: &str) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let special = [(USER, Part::User), ("**", Part::Rest), ("*", Part::Name)];
        if let Some((spelling, part)) = special.into_iter().find(|(spelling, _)| text.starts_with(spelling)) {
            text = &text[spelling.len()..];
            return Some(part);
        }
        let (literal, rest) = text.split_at(text.find(['*', '{']).unwrap_or(text.len()));
        text = rest;
        (!literal.is_empty()).then_some(Part::Text(literal))
    })
}

/// The places in a name, up to its end, to which the parts so far may have come. All ways are gone at once, so none is gone twice.
struct Reached([bool; CHANNEL_NAME_BYTES_MAX + 1]);

impl Reached {
    fn start() -> Reached {
        let mut start = Reached::nowhere();
        start.0[0] = true;
        start
    }

    fn nowhere() -> Reached {
        Reached([false; CHANNEL_NAME_BYTES_MAX + 1])
    }

    fn over_text(&self, name: &[u8], text: &[u8]) -> Reached {
        let mut next = Reached::nowhere();
        for at in (0..name.len()).filter(|&at| self.0[at] && name[at..].starts_with(text)) {
            next.0[at + text.len()] = true;
        }
        next
    }

    /// Over one byte or more.
    fn over_any(&self, name: &[u8], may_be: impl Fn(u8) -> bool) -> Reached {
        let mut next = Reached::nowhere();
        let mut under_way = false;
        for (at, &byte) in name.iter().enumerate() {
            under_way = (under_way || self.0[at]) && may_be(byte);
            next.0[at + 1] = under_way;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, channel: &str, user: &str) -> bool {
        Pattern::read(pattern).unwrap().matches(channel, User::Is(user))
    }

    #[test]
    fn patterns_name_channels() {
        for (pattern, channels) in [
            ("news", &["news"][..]),
            ("*", &["news", "é", "*", "a/b"]),
            ("**", &["news", "a:b", ":"]),
            ("room:*:chat", &["room:1:chat", "room:x y:chat"]),
            ("room:**:chat", &["room:1:2:chat", "room:1:chat", "room:a:chat:b:chat"]),
            ("room:**", &["room:1", "room:1:2"]),
            ("user:{sub}", &["user:u1"]),
            ("{sub}:*", &["u1:inbox"]),
            ("a*b*c", &["axbxc", "abbbcc", "a/b/b/c"]),
            ("*é", &["ée\u{301}é", "xé"]),
        ] {
            for channel in channels {
                assert!(matches(pattern, channel, "u1"), "{pattern} is to match {channel}");
            }
        }
        for (pattern, channels) in [
            ("news", &["new", "newss", "News", ""][..]),
            ("*", &["", "a:b", ":"]),
            ("**", &[""]),
            ("room:*:chat", &["room::chat", "room:1:2:chat", "room:1:chat2", "room:1", "xroom:1:chat"]),
            ("room:**", &["room:", "room"]),
            ("user:{sub}", &["user:", "user:u2", "user:u1:x", "user:{sub}", "user:*"]),
            ("a*b*c", &["abc", "axbc", "axbx"]),
        ] {
            for channel in channels {
                assert!(!matches(pattern, channel, "u1"), "{pattern} is not to match {channel}");
            }
        }
    }

    /// A name that looks like a pattern opens nothing.
    #[test]
    fn a_user_stands_for_itself_alone() {
        for user in ["*", "**", "u*", "{sub}"] {
            assert!(matches("user:{sub}", &format!("user:{user}"), user));
            assert!(!matches("user:{sub}", "user:u1", user), "{user}");
        }
        assert!(matches("user:{sub}", "user:urn:x:1", "urn:x:1"));
    }

    #[test]
    fn any_user_may_be_meant() {
        let pattern = Pattern::read("user:{sub}").unwrap();
        assert!(pattern.has_user() && !Pattern::read("user:*").unwrap().has_user());
        for channel in ["user:1", "user:urn:x:1"] {
            assert!(pattern.matches(channel, User::Any), "{channel}");
        }
        assert!(!pattern.matches("user:", User::Any));
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let longest = "x".repeat(CHANNEL_NAME_BYTES_MAX);
        assert!(matches(&longest, &longest, ""));
        for (text, reason) in [
            ("", "empty"),
            (&"x".repeat(256), "longer than 255"),
            ("a\nb", "control character"),
            ("a***", "three asterisks"),
            ("user:{id}", "a brace"),
            ("user:{sub", "a brace"),
            ("{sub}}", "a brace"),
        ] {
            let error = Pattern::read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(!matches("**", &"x".repeat(256), ""), "no channel is that long");
    }

    /// Slow, and right: every way is gone by itself.
    fn slow(parts: &[Part<'_>], name: &[u8]) -> bool {
        let Some((first, rest)) = parts.split_first() else { return name.is_empty() };
        let any =
            |may_be: &dyn Fn(u8) -> bool| (1..=name.len()).take_while(|&end| may_be(name[end - 1])).any(|end| slow(rest, &name[end..]));
        match first {
            Part::Text(text) => name.strip_prefix(text.as_bytes()).is_some_and(|name| slow(rest, name)),
            Part::User => name.strip_prefix(b"u1").is_some_and(|name| slow(rest, name)),
            Part::Name => any(&|byte| byte != b':'),
            Part::Rest => any(&|_| true),
        }
    }

    proptest! {
        #[test]
        fn what_is_fast_is_right(pieces in prop::collection::vec("[ab:]|[*]|[*][*]a|[{]sub[}]", 1..6), name in "[abu1:]{0,9}") {
            let text = pieces.concat();
            prop_assume!(!text.contains("***"));
            let pattern = Pattern::read(&text).unwrap();
            let parts: Vec<Part<'_>> = parts(&text).collect();
            prop_assert_eq!(pattern.matches(&name, User::Is("u1")), slow(&parts, name.as_bytes()), "{} {}", text, name);
        }
    }
}
