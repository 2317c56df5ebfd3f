//! The rows of how clients say who they are.

use std::net::IpAddr;
use std::path::PathBuf;

use axum::http::Uri;

use super::{HOUR_S, K, ROW, push_distinct, show_seconds, size};
use crate::auth::keys::check_secret;
use crate::config::mask;
use crate::config::parse;
use crate::config::table::{Section, Setting, Shown, Value};
use crate::config::words::AuthMode;
use crate::named::Named;
use crate::wire::http::origin::AllowedOrigin;

/// A text that may be left out.
fn optional(text: &str) -> Result<Option<String>, String> {
    match text {
        "" => Ok(None),
        _ if text.contains(char::is_control) => Err("it holds a control character".to_owned()),
        _ => Ok(Some(text.to_owned())),
    }
}

fn show_optional(text: &Option<String>) -> Shown {
    Shown::Text(text.clone().unwrap_or_default())
}

/// The name of a cookie (RFC 6265, 4.1.1).
fn cookie_name(text: &str) -> Result<Option<String>, String> {
    let is_token = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if is_token { optional(text) } else { Err(format!("{text:?} is no cookie's name")) }
}

pub const AUTH: Setting = Setting {
    key: "auth",
    section: Section::Identity,
    placeholder: "HOW",
    help: "How clients say who they are. none asks nobody; jwt asks each for a JSON Web Token; certificate knows each by the common name of its certificate (tls_client_auth), with its organizational units as groups; query believes the parameter user, for closed networks.",
    ..word!(auth.mode: AuthMode)
};

pub const TOKEN_SECRET: Setting = Setting {
    key: "token_secret",
    section: Section::Identity,
    placeholder: "SECRET",
    help: "The secret that tokens are signed with (HS256, HS384, HS512). Better in CAMPANILE_TOKEN_SECRET or in the file than as a flag, which every user of the host can see.",
    accepted: "at least 32 bytes without control characters",
    value: Value::One {
        parse: |settings, text| {
            settings.auth.secret = optional(text)?;
            settings.auth.secret.as_ref().map_or(Ok(()), |secret| check_secret(secret.as_bytes())).map_err(|reason| reason.to_string())
        },
        show: |settings| show_optional(&settings.auth.secret),
    },
    secret: Some(mask::secret),
    live: true,
    ..ROW
};

pub const TOKEN_KEYS: Setting = Setting {
    key: "token_keys",
    section: Section::Identity,
    placeholder: "FILE",
    help: "A file of keys that tokens are verified by: public keys in PEM (RSA, P-256, P-384, Ed25519), or a JWKS document. Read at start, and again when it changes. May be given more than once.",
    accepted: "the path of a file",
    value: Value::Many {
        clear: |settings| settings.auth.key_files.clear(),
        push: |settings, text| match text {
            "" => Err("it is empty".to_owned()),
            _ => push_distinct(&mut settings.auth.key_files, PathBuf::from(text)),
        },
        show: |settings| settings.auth.key_files.iter().map(|path| path.display().to_string()).collect(),
    },
    live: true,
    ..ROW
};

/// Whoever could change it on its way could sign tokens: so no plain HTTP, but to this host.
fn jwks_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let url: Uri = text.parse().map_err(|_| "it is not a URL that can be read".to_owned())?;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else { return Err("it is not a whole URL".to_owned()) };
    if authority.as_str().contains('@') {
        return Err("it holds a login, which this server does not use".to_owned());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_here = host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match scheme {
        "https" => Ok(Some(text.to_owned())),
        "http" if is_here => Ok(Some(text.to_owned())),
        "http" => Err("over plain HTTP anybody on the way could put in keys of their own".to_owned()),
        _ => Err(format!("`{scheme}://` is not a scheme that keys are fetched by")),
    }
}

pub const JWKS_URL: Setting = Setting {
    key: "jwks_url",
    section: Section::Identity,
    placeholder: "URL",
    help: "Where the keys that tokens are verified by are fetched from, as a JWKS document: at start, again when the answer's max-age is over, and when a token names a key that is not there. While it cannot be reached, the last keys stay.",
    accepted: "an https:// URL, or http:// on this host",
    value: one!(auth.jwks_url, text => jwks_url(text), value => show_optional(value)),
    secret: Some(mask::url),
    live: true,
    ..ROW
};

pub const TOKEN_ISSUER: Setting = Setting {
    key: "token_issuer",
    section: Section::Identity,
    placeholder: "ISSUER",
    help: "What the claim iss of every token must be. Empty: it is not looked at.",
    accepted: "a text without control characters",
    value: one!(auth.issuer, text => optional(text), value => show_optional(value)),
    live: true,
    ..ROW
};

pub const TOKEN_AUDIENCE: Setting = Setting {
    key: "token_audience",
    section: Section::Identity,
    placeholder: "AUDIENCE",
    help: "What the claim aud of every token must be, or hold where it is a list. Empty: tokens that are for an audience are refused.",
    accepted: "a text without control characters",
    value: one!(auth.audience, text => optional(text), value => show_optional(value)),
    live: true,
    ..ROW
};

pub const TOKEN_LEEWAY: Setting = Setting {
    key: "token_leeway",
    section: Section::Identity,
    placeholder: "SECONDS",
    help: "How far the clocks of whoever signs tokens and of this host may be apart. A token is taken so much sooner than it says, and a connection closed so much later.",
    accepted: "0 to 600, whole seconds",
    value: one!(auth.leeway, text => parse::whole_seconds(text, 0, 600), value => show_seconds(*value)),
    live: true,
    ..ROW
};

pub const TOKEN_WARNING: Setting = Setting {
    key: "token_warning",
    section: Section::Identity,
    placeholder: "SECONDS",
    help: "How long before its token expires a client is told, so that it brings another one. 0 tells nobody.",
    accepted: "0 to 3600, whole seconds",
    value: one!(auth.warning, text => parse::whole_seconds(text, 0, HOUR_S), value => show_seconds(*value)),
    live: true,
    ..ROW
};

pub const TOKEN_BYTES_MAX: Setting = Setting {
    key: "token_bytes_max",
    section: Section::Identity,
    placeholder: "SIZE",
    help: "Longest token that is looked at.",
    accepted: "256 to 8k, as in 2048, 2k",
    value: one!(auth.token_bytes_max, text => size(text, 256, 8 * K), value => Shown::Bytes(*value as u64)),
    live: true,
    ..ROW
};

pub const TOKEN_COOKIE: Setting = Setting {
    key: "token_cookie",
    section: Section::Identity,
    placeholder: "NAME",
    help: "A cookie that may hold the token. Browsers send cookies whoever made the page, so it needs origins.",
    accepted: "the name of a cookie",
    value: one!(auth.cookie, text => cookie_name(text), value => show_optional(value)),
    live: true,
    ..ROW
};

pub const ORIGINS: Setting = Setting {
    key: "origins",
    section: Section::Identity,
    placeholder: "ORIGIN",
    help: "Pages from where browsers may connect, by their origin. Others are answered 403. None listed: from everywhere. Clients that are no browsers send no Origin and are let in. May be given more than once.",
    accepted: "an origin, as in https://app.example.org, https://*.example.org, http://127.0.0.1:3000, or null",
    value: Value::Many {
        clear: |settings| settings.auth.origins.clear(),
        push: |settings, text| push_distinct(&mut settings.auth.origins, AllowedOrigin::read(text)?),
        show: |settings| settings.auth.origins.iter().map(AllowedOrigin::to_string).collect(),
    },
    live: true,
    ..ROW
};

pub const USER_CHANNEL: Setting = Setting {
    key: "user_channel",
    section: Section::Identity,
    placeholder: "BOOL",
    help: "Subscribes every client to its user's own channel, user:SUB, when it connects.",
    accepted: "true, false",
    value: Value::Switch { set: |settings, on| settings.auth.user_channel = on, get: |settings| settings.auth.user_channel },
    live: true,
    ..ROW
};
