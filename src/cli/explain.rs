//! `campanile config --explain`: which rule decides about a channel, and what follows from it. Reads the settings as `campanile serve` would.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{BadUsage, output};
use crate::auth::Gate;
use crate::auth::identity::{Identity, USER_CHANNEL};
use crate::auth::rules::{Action, Defaults, decide};
use crate::config::problem::Place;
use crate::config::table::{SETTINGS, Value};
use crate::config::{AuthMode, Loaded};

/// # Errors
/// The name is none, keys cannot be read, or nobody reads what is printed.
pub fn explain(loaded: &Loaded, channel: &str, token: Option<&str>, user: Option<&str>) -> anyhow::Result<()> {
    super::check_channel(channel)?;
    let settings = &loaded.settings;
    let found = settings.channels.find(channel);
    let rule = settings.channels.of(channel);
    let places: Vec<&Place> = loaded.origins.tables().collect();
    let place = match found {
        Some(at) => {
            format!("{}: [[channels]] {}", places[at], settings.channels.tables[at].0)
        }
        None => "no table of [[channels]] is for it, so what holds for all channels does".to_owned(),
    };
    line("channel", channel)?;
    line("rule", &place)?;
    for (at, (selector, _)) in settings.channels.tables.iter().enumerate().skip(found.map_or(0, |at| at + 1)) {
        if selector.selects(channel) {
            line("not asked", &format!("{}: [[channels]] {selector}: it fits as well, and the first that fits counts", places[at]))?;
        }
    }
    for (at, (route, place)) in settings.routes.iter().zip(loaded.origins.routes()).enumerate() {
        let place = format!("{place}: [[route]]");
        if *route.from == *channel {
            let is_last = settings.routes[at + 1..].iter().all(|later| later.from != route.from);
            let without = match route.otherwise {
                Some(_) => "",
                None if is_last => ", without it nowhere",
                None => ", without it as the next line says",
            };
            line("messages go", &format!("{route}{without} ({place})"))?;
        }
        if route.to.fits(channel) {
            line("messages come", &format!("from {} by {} ({place})", route.from, route.field))?;
        }
        if route.otherwise.as_deref() == Some(channel) {
            line("messages come", &format!("from {} without {} ({place})", route.from, route.field))?;
        }
    }
    let client = match (token, user) {
        (None, None) => None,
        (None, Some(_)) if !matches!(settings.auth.mode, AuthMode::Query | AuthMode::Certificate) => {
            return Err(BadUsage(
                "--user is for auth = \"query\" and auth = \"certificate\", where a name is all that is known".to_owned(),
            )
            .into());
        }
        (None, Some(user)) => {
            line("client", user)?;
            Some(Identity::of_user(user).map_err(|why| BadUsage(format!("--user {user:?}: {why}")))?)
        }
        (Some(token), _) => match bearer(loaded, token)? {
            Ok(identity) => {
                line("client", identity.user())?;
                Some(identity)
            }
            Err(why) => {
                line("client", &format!("nobody: {why}"))?;
                None
            }
        },
    };
    let defaults = Defaults { asks: settings.auth.mode != AuthMode::None, allow_client_publish: settings.clients.allow_client_publish };
    let pattern = found.and_then(|at| settings.channels.tables[at].0.pattern());
    // Without a token nobody is let in: what is told then is of somebody of whom nothing more is known than that.
    let somebody = Identity::of_user("somebody").expect("a good name");
    let asks = settings.auth.mode != AuthMode::None;
    let known = client.as_ref().or(asks.then_some(&somebody));
    for (name, access, action) in [("subscribe", rule.subscribe, Action::Subscribe), ("publish", rule.publish, Action::Publish)] {
        let decided = decide(access, action, channel, pattern, known, defaults);
        let whoever = match settings.auth.mode {
            _ if client.is_some() => "this client",
            AuthMode::None => "every client",
            AuthMode::Query => "a client that has said who it is (--user tells of one)",
            AuthMode::Certificate => "a client with a certificate (--user tells of one by its common name)",
            AuthMode::Jwt => "a client with a token that says nothing of it (--token tells of one)",
        };
        let is_own =
            action == Action::Subscribe && settings.auth.user_channel && client.as_ref().is_some_and(|client| is_own(client, channel));
        let verdict = match decided {
            _ if is_own => "this client has it from the start (user_channel)".to_owned(),
            Ok(()) => format!("{whoever} may"),
            Err(why) if settings.auth.mode == AuthMode::None => why.to_owned(),
            Err(why) => format!("{whoever} may not: {why}"),
        };
        line(name, &format!("{} ({verdict})", access.name()))?;
    }
    for setting in SETTINGS {
        if let Value::Rule { rule_key, show, .. } = setting.value
            && !matches!(rule_key, "subscribe" | "publish")
        {
            line(rule_key, &show(rule).texts().join(", "))?;
        }
    }
    Ok(())
}

fn is_own(client: &Identity, channel: &str) -> bool {
    channel.strip_prefix(USER_CHANNEL) == Some(client.user())
}

/// Whose token it is; or why it is nobody's.
fn bearer(loaded: &Loaded, token: &str) -> anyhow::Result<Result<Identity, String>> {
    let Gate::Tokens(verifier) = super::gate(&loaded.settings)? else {
        return Ok(Err("this server asks for no tokens (auth)".to_owned()));
    };
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let verified = verifier.look(token.trim().as_bytes()).and_then(|signed| signed.verify(now_ms));
    Ok(verified.map_err(|error| format!("{} ({})", error.text, error.reason.name())))
}

fn line(name: &str, text: &str) -> anyhow::Result<()> {
    output::line(format_args!("{name:<16} {text}"))
}
