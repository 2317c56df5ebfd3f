//! What the settings of tokens come to: the gate that shards ask, and what is wrong with them together. Read at start, and to check the settings.

use std::sync::Arc;

use super::covering::{Found, beyond};
use super::problem::{Origin, Problem};
use super::rules::{ChannelRule, ChannelRules, Selector};
use super::settings::{Auth, Settings};
use super::words::AuthMode;
use crate::auth::Gate;
use crate::auth::keys::{KeyError, Keys};
use crate::auth::pattern::Pattern;
use crate::auth::rules::Access;
use crate::auth::token::{Policy, Verifier, Wanted};
use crate::tls::acceptor::ClientAuth;

/// Why keys cannot be had, and which setting names them.
type Fault = (&'static str, KeyError);

impl Auth {
    /// # Errors
    /// A file of keys cannot be read, or holds none.
    pub fn gate(&self) -> anyhow::Result<Gate> {
        self.gate_of(&self.own_keys()?, &Keys::default(), Arc::default())
    }

    /// Those that the settings hold or name files of, where tokens are asked for.
    ///
    /// # Errors
    /// As of [`Auth::gate`].
    pub fn own_keys(&self) -> anyhow::Result<Keys> {
        match self.mode {
            AuthMode::None | AuthMode::Query | AuthMode::Certificate => Ok(Keys::default()),
            AuthMode::Jwt => self.keys().map_err(|(setting, reason)| anyhow::anyhow!("{setting}: {reason}")),
        }
    }

    /// By those keys and by some that were fetched; that one is missing is told `wanted`.
    ///
    /// # Errors
    /// There are too many together.
    pub fn gate_of(&self, own: &Keys, fetched: &Keys, wanted: Arc<Wanted>) -> anyhow::Result<Gate> {
        Ok(match self.mode {
            AuthMode::None => Gate::Open,
            AuthMode::Query => Gate::Query,
            AuthMode::Certificate => Gate::Certificate,
            AuthMode::Jwt => {
                let mut keys = own.clone();
                keys.add_all(fetched).map_err(|reason| anyhow::anyhow!("jwks_url: {reason}"))?;
                let verifier = Verifier::new(keys, self.policy());
                Gate::Tokens(if self.jwks_url.is_some() { verifier.asking(wanted) } else { verifier }.into())
            }
        })
    }

    fn keys(&self) -> Result<Keys, Fault> {
        let mut keys = Keys::default();
        if let Some(secret) = &self.secret {
            keys.add_secret(secret.as_bytes()).map_err(|reason| ("token_secret", reason))?;
        }
        for file in &self.key_files {
            keys.add_file(file).map_err(|reason| ("token_keys", reason))?;
        }
        Ok(keys)
    }

    fn policy(&self) -> Policy {
        Policy {
            bytes_max: self.token_bytes_max,
            leeway_s: self.leeway.as_secs(),
            warning_s: self.warning.as_secs(),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
        }
    }
}

/// What does not fit together. Files of keys are read: that one is missing should be known before the server is started anew.
pub(super) fn check(settings: &Settings, origin: &dyn Fn(&str) -> Origin) -> Vec<Problem> {
    let auth = &settings.auth;
    let error = |key: &str, message: &str| Problem::error(origin(key), key, message);
    let mut problems = Vec::new();
    match auth.mode {
        AuthMode::Jwt if auth.secret.is_none() && auth.key_files.is_empty() && auth.jwks_url.is_none() => {
            let problem = error("auth", "there is nothing to verify tokens by");
            problems.push(problem.help("give token_secret (HS256), token_keys (files with public keys) or jwks_url"));
        }
        AuthMode::Jwt => match auth.keys() {
            Err((setting, reason)) => problems.push(error(setting, &reason.to_string())),
            Ok(keys) => problems.extend(keys.ignored().iter().map(|ignored| Problem::warning(origin("token_keys"), "token_keys", ignored))),
        },
        AuthMode::None | AuthMode::Query => problems.extend(without_tokens(auth, origin)),
        AuthMode::Certificate => {
            if settings.tls.client_auth == ClientAuth::No {
                let problem = error("auth", "no client is asked for a certificate, so none could come in");
                problems.push(problem.help("tls_client_auth = \"required\", tls_client_ca, and a listener with tls://"));
            }
            problems.extend(without_tokens(auth, origin));
        }
    }
    if auth.user_channel && auth.mode == AuthMode::None {
        problems.push(error("user_channel", "nobody is asked who it is, so no client has a channel of its own").help("auth = \"jwt\""));
    }
    if auth.cookie.is_some() && auth.origins.is_empty() {
        let problem = error("token_cookie", "every page on the web could connect with the cookie of whoever looks at it");
        problems.push(problem.help("list in origins the pages that may"));
    }
    problems
}

/// What is wrong with who may do what.
pub(super) fn check_rules(
    settings: &Settings,
    origin: &dyn Fn(&str) -> Origin,
    rule_origin: &dyn Fn(&Selector, &str) -> Origin,
) -> Vec<Problem> {
    let ChannelRules { default, tables } = &settings.channels;
    let mut problems = Vec::new();
    let of_all = [("subscribe", default.subscribe), ("publish", default.publish)];
    for (key, access) in of_all {
        problems.extend(check_access(settings, access, false, key, origin(key)));
    }
    if default.raw_publish {
        problems.extend(check_raw_publish(settings, default, "raw_publish", origin("raw_publish")));
    }
    for (at, (selector, rule)) in tables.iter().enumerate() {
        let has_user = selector.pattern().is_some_and(Pattern::has_user);
        for ((key, inherited), access) in of_all.into_iter().zip([rule.subscribe, rule.publish]) {
            // What is inherited was said already.
            if access != inherited || (access == Access::Owner && !has_user) {
                let name = format!("channels.{key}");
                problems.extend(check_access(settings, access, has_user, &name, rule_origin(selector, key)));
            }
        }
        if rule.raw_publish && !default.raw_publish {
            problems.extend(check_raw_publish(settings, rule, "channels.raw_publish", rule_origin(selector, "raw_publish")));
        }
        if let Some(whose) = covered_by(&tables[..at], selector) {
            let message = format!("this table never counts: each of its channels is one of {whose}");
            let help = "the first table that fits counts; put the narrower one first";
            problems.push(Problem::warning(rule_origin(selector, ""), &format!("channels.{}", selector.key().0), message).help(help));
        }
        // A pattern that begins with a wildcard is for whatever comes first.
        if !settings.redis.prefix.is_empty() && selector.key().1.starts_with(&settings.redis.prefix) {
            let message = format!(
                "clients name channels without the Redis prefix {:?}, so this is for none that Redis brings",
                settings.redis.prefix
            );
            let problem = Problem::warning(rule_origin(selector, ""), &format!("channels.{}", selector.key().0), message);
            let bare = &selector.key().1[settings.redis.prefix.len()..];
            problems.push(problem.help(format!("{} = {bare:?}", selector.key().0)));
        }
    }
    problems
}

fn check_raw_publish(settings: &Settings, rule: &ChannelRule, key: &str, origin: Origin) -> Option<Problem> {
    let is_closed = match rule.publish {
        Access::Auto => !settings.clients.allow_client_publish,
        Access::Nobody => true,
        Access::Anyone | Access::Authenticated | Access::Owner | Access::Token => false,
    };
    let warning = || Problem::warning(origin, key, "nothing that clients send is published, for none of them may publish there");
    is_closed.then(|| warning().help("publish = \"anyone\", or \"authenticated\""))
}

/// Why this table never counts: those before it are for all of its channels.
fn covered_by(earlier: &[(Selector, ChannelRule)], selector: &Selector) -> Option<String> {
    let is_covered = |earlier: &[&Selector]| beyond(earlier, selector) == Found::Covered;
    let all: Vec<&Selector> = earlier.iter().map(|(selector, _)| selector).collect();
    is_covered(&all).then(|| match all.iter().find(|first| is_covered(&[first])) {
        Some(first) => format!("the table before it with {first}"),
        None => "the tables before it".to_owned(),
    })
}

fn check_access(settings: &Settings, access: Access, has_user: bool, key: &str, origin: Origin) -> Option<Problem> {
    match access {
        Access::Owner if !has_user => {
            let problem = Problem::error(origin, key, "nobody knows whose channel it is");
            Some(problem.help("owner needs a table with a pattern that holds {sub}, as in pattern = \"user:{sub}\""))
        }
        Access::Authenticated | Access::Owner | Access::Token if settings.auth.mode == AuthMode::None => {
            let message = format!("`{}` lets no client in: nobody is asked who it is", access.name());
            Some(Problem::warning(origin, key, message).help("auth = \"jwt\""))
        }
        Access::Token if matches!(settings.auth.mode, AuthMode::Query | AuthMode::Certificate) => {
            let problem = Problem::warning(origin, key, "no client can be named by a token: none is asked for");
            Some(problem.help("auth = \"jwt\", or owner, which goes by the user's name"))
        }
        Access::Auto | Access::Nobody | Access::Anyone | Access::Authenticated | Access::Owner | Access::Token => None,
    }
}

/// What is said about tokens where there are none.
fn without_tokens(auth: &Auth, origin: &dyn Fn(&str) -> Origin) -> Vec<Problem> {
    let given = [
        ("token_secret", auth.secret.is_some()),
        ("token_keys", !auth.key_files.is_empty()),
        ("jwks_url", auth.jwks_url.is_some()),
        ("token_issuer", auth.issuer.is_some()),
        ("token_audience", auth.audience.is_some()),
        ("token_cookie", auth.cookie.is_some()),
    ];
    let mode = auth.mode.name();
    let ignored = |(key, _): (&str, bool)| {
        let message = format!("it changes nothing: with auth = \"{mode}\" no client is asked for a token");
        Problem::warning(origin(key), key, message).help("auth = \"jwt\"")
    };
    given.into_iter().filter(|(_, is_given)| *is_given).map(ignored).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn found(change: impl FnOnce(&mut Auth)) -> Vec<String> {
        let settings = Settings::default().with(|settings| change(&mut settings.auth));
        check(&settings, &|_| Origin::Default).iter().map(Problem::to_string).collect()
    }

    fn one(change: impl FnOnce(&mut Auth)) -> String {
        let found = found(change);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn the_defaults_and_a_secret_fit() {
        assert_eq!(found(|_| ()), [""; 0]);
        let with_secret = |auth: &mut Auth| (auth.mode, auth.secret) = (AuthMode::Jwt, Some(SECRET.to_owned()));
        assert_eq!(found(with_secret), [""; 0]);
        let settings = Settings::default().with(|settings| with_secret(&mut settings.auth));
        assert!(matches!(settings.auth.gate(), Ok(Gate::Tokens(verifier)) if verifier.policy().bytes_max == 4096));
        assert!(matches!(Settings::default().auth.gate(), Ok(Gate::Open)));
    }

    #[test]
    fn tokens_need_something_to_verify_them_by() {
        assert!(one(|auth| auth.mode = AuthMode::Jwt).starts_with("error: auth: there is nothing to verify tokens by"));
        let missing = one(|auth| (auth.mode, auth.key_files) = (AuthMode::Jwt, vec!["/nowhere/keys.pem".into()]));
        assert!(missing.starts_with("error: token_keys: /nowhere/keys.pem cannot be read"), "{missing}");
    }

    #[test]
    fn what_changes_nothing_is_said() {
        let unused = one(|auth| auth.secret = Some(SECRET.to_owned()));
        assert!(unused.starts_with("warning: token_secret: it changes nothing") && !unused.contains(SECRET), "{unused}");
        assert_eq!(found(|auth| (auth.issuer, auth.audience) = (Some("i".to_owned()), Some("a".to_owned()))).len(), 2);
    }

    #[test]
    fn a_cookie_needs_origins_and_a_channel_a_user() {
        let cookie = found(|auth| (auth.mode, auth.secret, auth.cookie) = (AuthMode::Jwt, Some(SECRET.to_owned()), Some("t".to_owned())));
        assert!(cookie[0].starts_with("error: token_cookie: every page") && cookie.len() == 1, "{cookie:?}");
        assert!(one(|auth| auth.user_channel = true).starts_with("error: user_channel"));
        assert_eq!(found(|auth| (auth.mode, auth.user_channel) = (AuthMode::Query, true)), [""; 0]);
    }

    /// What is found in these tables, in the order of the file.
    fn found_in(file: &str) -> Vec<String> {
        let mut layers = crate::config::layers::Layers::default();
        layers.file_text("f.toml", file);
        let host = crate::config::Host { cores: vec![0], descriptors_soft: 1024, descriptors_hard: 1024, private_refused: None };
        let problems = match layers.finish(Some(&host)) {
            Ok(loaded) => loaded.warnings,
            Err(problems) => problems,
        };
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn rules_must_be_such_that_somebody_can_keep_them() {
        let jwt = format!("auth = \"jwt\"\ntoken_secret = \"{SECRET}\"\n");
        let good =
            "[[channels]]\npattern = \"user:{sub}\"\nsubscribe = \"owner\"\n[[channels]]\nprefix = \"room:\"\nsubscribe = \"token\"\n";
        assert_eq!(found_in(&format!("{jwt}{good}")), [""; 0]);
        let found = found_in(good);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].starts_with("f.toml:3:13: warning: channels.subscribe: `owner` lets no client in"), "{}", found[0]);
        let query = found_in(&format!("auth = \"query\"\n{good}"));
        assert!(query.len() == 1 && query[0].contains("no client can be named by a token"), "{query:#?}");
        for (file, words) in [
            ("subscribe = \"owner\"\n", "error: subscribe: nobody knows whose channel it is"),
            ("[[channels]]\nprefix = \"user:\"\npublish = \"owner\"\n", "error: channels.publish: nobody knows whose"),
            ("[[channels]]\nprefix = \"a\"\n[[channels]]\nprefix = \"ab\"\n", "warning: channels.prefix: this table never counts"),
            ("[[channels]]\nprefix = \"a\"\nraw_publish = true\n", "warning: channels.raw_publish: nothing that clients send"),
            ("raw_publish = true\n", "warning: raw_publish: nothing that clients send"),
            ("[[channels]]\npattern = \"**\"\n[[channels]]\npattern = \"a*\"\n", "before it with pattern = \"**\""),
            ("[[channels]]\npattern = \"a:*\"\n[[channels]]\nprefix = \"a:b\"\n[[channels]]\nprefix = \"a:bc\"\n", "with prefix = \"a:b\""),
            ("[[channels]]\nprefix = \"notifications:a\"\n", "without the Redis prefix \"notifications:\""),
        ] {
            let found = found_in(&format!("{jwt}{file}"));
            assert!(found.len() == 1 && found[0].contains(words), "{file}: {found:#?}");
        }
    }
}
