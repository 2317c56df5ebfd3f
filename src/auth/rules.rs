//! Who may subscribe and publish to a channel: what a rule says, and whether that lets this client in.

use super::identity::{GROUP_CHANNEL, Identity, USER_CHANNEL};
use super::pattern::{Pattern, User};
use crate::named::named;

named! {
    /// Who may do something with a channel.
    Access {
        /// Nothing is said. Subscribing: everybody where nobody is asked who it is. Else `user:SUB` is for that user, `group:NAME` for those in the group,
        /// and every other channel for everybody who is somebody. Publishing: nobody, unless `allow_client_publish` says otherwise.
        Auto = "auto",
        Nobody = "nobody",
        Anyone = "anyone",
        /// Whoever has said who it is.
        Authenticated = "authenticated",
        /// The user whose name stands at `{sub}` in the pattern.
        Owner = "owner",
        /// Whose token names the channel.
        Token = "token",
    }
}

/// What is asked of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Subscribe,
    Publish,
}

/// What holds for every channel alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Clients are asked who they are.
    pub asks: bool,
    pub allow_client_publish: bool,
}

/// Whether it may; if not, why not, for the client. `pattern` is that of the rule, where it is for one.
pub fn decide(
    access: Access,
    action: Action,
    channel: &str,
    pattern: Option<&Pattern>,
    client: Option<&Identity>,
    defaults: Defaults,
) -> Result<(), &'static str> {
    let named = |is_it: bool, otherwise: &'static str| if is_it { Ok(()) } else { Err(otherwise) };
    match access {
        Access::Auto => decide_unsaid(action, channel, client, defaults),
        Access::Nobody => Err("no client may"),
        Access::Anyone => Ok(()),
        Access::Authenticated => named(client.is_some(), "only clients that have said who they are may"),
        Access::Owner => {
            let is_owner =
                |client: &Identity| pattern.is_some_and(|pattern| pattern.has_user() && pattern.matches(channel, User::Is(client.user())));
            named(client.is_some_and(is_owner), "only the user that it belongs to may")
        }
        Access::Token => {
            let is_named = |client: &Identity| match action {
                Action::Subscribe => client.may_hear(channel) || is_member(client, channel),
                Action::Publish => client.may_publish(channel),
            };
            named(client.is_some_and(is_named), "the token does not name it")
        }
    }
}

fn decide_unsaid(action: Action, channel: &str, client: Option<&Identity>, defaults: Defaults) -> Result<(), &'static str> {
    match (action, defaults.asks) {
        (Action::Publish, _) if !defaults.allow_client_publish => Err("no client may"),
        (_, false) => Ok(()),
        (Action::Publish, true) => decide(Access::Authenticated, action, channel, None, client, defaults),
        (Action::Subscribe, true) => {
            let Some(client) = client else { return Err("only clients that have said who they are may") };
            match channel.strip_prefix(USER_CHANNEL) {
                Some(user) if user != client.user() => Err("only the user that it belongs to may"),
                None if channel.starts_with(GROUP_CHANNEL) && !is_member(client, channel) => Err("only those in the group may"),
                Some(_) | None => Ok(()),
            }
        }
    }
}

fn is_member(client: &Identity, channel: &str) -> bool {
    channel.strip_prefix(GROUP_CHANNEL).is_some_and(|group| client.is_in_group(group))
}

#[cfg(test)]
mod tests {
    use super::super::identity::Claims;
    use super::*;

    fn client() -> Identity {
        let claims = Claims { channels: "room:*\nown:{sub}".into(), publish: "room:1".into(), groups: "admins".into() };
        Identity::new("u1", "", 1, 0, claims)
    }

    const ASKING: Defaults = Defaults { asks: true, allow_client_publish: false };
    const OPEN: Defaults = Defaults { asks: false, allow_client_publish: false };

    fn may(access: Access, action: Action, channel: &str, pattern: Option<&str>, client: Option<&Identity>, defaults: Defaults) -> bool {
        let pattern = pattern.map(|text| Pattern::read(text).unwrap());
        decide(access, action, channel, pattern.as_ref(), client, defaults).is_ok()
    }

    #[test]
    fn without_a_word_said() {
        use Action::{Publish, Subscribe};
        let client = client();
        let auto = |action, channel, client: Option<&Identity>, defaults| may(Access::Auto, action, channel, None, client, defaults);
        for channel in ["news", "user:u2", "group:staff"] {
            assert!(auto(Subscribe, channel, None, OPEN) && !auto(Subscribe, channel, None, ASKING), "{channel}");
            assert!(!auto(Publish, channel, Some(&client), ASKING) && !auto(Publish, channel, None, OPEN), "{channel}");
        }
        for (channel, expected) in [
            ("news", true),
            ("user:u1", true),
            ("user:u2", false),
            ("user:", false),
            ("user:u1:x", false),
            ("users:u2", true),
            ("group:admins", true),
            ("group:staff", false),
            ("group:", false),
        ] {
            assert_eq!(auto(Subscribe, channel, Some(&client), ASKING), expected, "{channel}");
        }
        let publishing = Defaults { allow_client_publish: true, ..ASKING };
        assert!(auto(Publish, "news", Some(&client), publishing) && !auto(Publish, "news", None, publishing));
        assert!(auto(Publish, "news", None, Defaults { allow_client_publish: true, ..OPEN }));
    }

    #[test]
    fn as_a_rule_says() {
        use Action::{Publish, Subscribe};
        let client = client();
        for (access, channel, pattern, hears, publishes) in [
            (Access::Nobody, "room:1", None, false, false),
            (Access::Anyone, "room:1", None, true, true),
            (Access::Authenticated, "room:1", None, true, true),
            (Access::Owner, "own:u1", Some("own:{sub}"), true, true),
            (Access::Owner, "own:u2", Some("own:{sub}"), false, false),
            (Access::Owner, "own:u1", Some("own:*"), false, false),
            (Access::Owner, "own:u1", None, false, false),
            (Access::Token, "room:1", None, true, true),
            (Access::Token, "room:2", None, true, false),
            (Access::Token, "own:u1", None, true, false),
            (Access::Token, "own:u2", None, false, false),
            (Access::Token, "group:admins", None, true, false),
            (Access::Token, "news", None, false, false),
        ] {
            let may = |action, client| may(access, action, channel, pattern, client, ASKING);
            assert_eq!((may(Subscribe, Some(&client)), may(Publish, Some(&client))), (hears, publishes), "{access:?} {channel}");
            let of_nobody = access == Access::Anyone;
            assert_eq!((may(Subscribe, None), may(Publish, None)), (of_nobody, of_nobody), "{access:?} {channel}");
        }
    }
}
