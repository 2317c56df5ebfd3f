//! `GET /demo`: a page with a notification bell, for whoever wants to see messages arrive. `clients/bell` is what it is made of; the bundle
//! beside this file is made there, and `tests/whole/clients.rs` says when it is older than its source.
//!
//! Invariant: the page says how the public port is reached and what that asks for, which is nothing that it does not tell by itself. So it is
//! for whoever comes to this port, with a token or without: a browser that opens a page cannot bring one.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use crate::bus::redis::names::Names;
use crate::config::Settings;
use crate::listen::{Address, Listener};
use crate::wire::channel_name;

pub(super) const PATH: &str = "/demo";
/// Which one the page listens to unless another one is asked for.
const CHANNEL: &str = "news";
const PAGE: &str = include_str!("demo/page.html");
/// Where the page is told about its server; browsers do not run a script of this type.
const SERVER: &str = "<script type=\"application/json\" id=\"server\">";
const NOTHING_YET: &str = "null</script>";

/// What the page may do by the hashes of what stands in it: nothing that somebody has written into a message, whatever the page makes of it.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let script = hash_of("<script>", "</script>");
    let style = hash_of("<style>", "</style>");
    format!(
        "default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; connect-src 'self'"
    )
});

fn hash_of(opening: &str, closing: &str) -> String {
    let inner = PAGE.split_once(opening).and_then(|(_, rest)| rest.split_once(closing)).expect("the page has one");
    format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, inner.0.as_bytes())))
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    channel: Option<String>,
}

/// What is asked for wrongly is the page's to tell: it reads its own address.
pub(super) async fn demo(Shared(state): Shared<Arc<State>>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let asked = asked.map(|Query(asked)| asked).unwrap_or_default();
    let listeners = &state.facts.listen;
    // The page may be opened under any name of this host, and a policy cannot name an IPv6 address: so it names ports.
    let ports = listeners.iter().filter(|listener| listener.is_plain()).filter_map(|listener| listener.address.ip());
    let connect: String = ports.map(|address| format!(" ws://*:{port} http://*:{port}", port = address.port())).collect();
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, format!("{}{connect}", *POLICY)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (StatusCode::OK, headers, page(&server(&state, asked.channel.as_deref().unwrap_or(CHANNEL)))).into_response()
}

/// What the page must know of its server.
fn server(state: &State, channel: &str) -> Value {
    let in_force = state.reload.in_force();
    let settings = &*in_force.settings;
    let listen: Vec<Value> = state.facts.listen.iter().filter_map(reached_at).collect();
    json!({
        "version": state.facts.version,
        "listen": listen,
        "auth": settings.auth.mode.name(),
        "origins": !settings.auth.origins.is_empty(),
        "control": Listener::at(state.facts.control.clone()).reachable().address.to_string(),
        "control_token": settings.addresses.control_token.is_some(),
        "redis": redis_publish(settings, channel),
    })
}

/// How a Redis client publishes to the channel, where it is that simple (a durable one is published to by a function) and everybody may know.
fn redis_publish(settings: &Settings, channel: &str) -> Option<Value> {
    let is_told = settings.redis.url.is_some() && settings.addresses.control_token.is_none();
    let is_simple = channel_name::check(channel).is_ok() && !settings.channels.of(channel).durable;
    let names = (is_told && is_simple).then(|| Names::new(&settings.redis))?;
    let command = String::from_utf8_lossy(names.publish_command()).to_lowercase();
    Some(json!({"command": command, "channel": names.to_redis(channel)}))
}

/// Where browsers get in: a host of null is any address of this one.
fn reached_at(listener: &Listener) -> Option<Value> {
    match &listener.address {
        Address::Ip(address) if listener.is_plain() => {
            let ip = address.ip().to_canonical();
            let host = (!ip.is_unspecified()).then(|| ip.to_string());
            Some(json!({"host": host, "port": address.port()}))
        }
        Address::Ip(_) | Address::Unix(_) => None,
    }
}

fn page(server: &Value) -> String {
    let (before, rest) = PAGE.split_once(SERVER).expect("the page has a place for it");
    let after = rest.strip_prefix(NOTHING_YET).expect("nothing stands there yet");
    // In a script's text an angle bracket could end it.
    let server = server.to_string().replace('<', "\\u003c");
    format!("{before}{SERVER}{server}</script>{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second script or style would not run, and a comment that looks like one would be hashed in its place.
    #[test]
    fn the_page_has_one_script_and_one_style() {
        for (tag, count) in [("<script>", 1), ("<script", 2), ("</script", 2), ("<style", 1), ("</style", 1), (SERVER, 1)] {
            assert_eq!(PAGE.matches(tag).count(), count, "{tag}");
        }
        for outside in ["src=", "@import", "url("] {
            assert!(!PAGE.contains(&format!("<link {outside}")) && !PAGE.contains(&format!("<script {outside}")), "{outside}");
        }
    }

    #[test]
    fn what_it_is_told_cannot_leave_its_place() {
        let told = json!({"prefix": "</script><script>alert(1)</script><!--"});
        let page = page(&told);
        assert_eq!(page.matches("<script").count(), 2);
        let (_, rest) = page.split_once(SERVER).unwrap();
        let (inner, _) = rest.split_once("</script>").unwrap();
        assert_eq!(serde_json::from_str::<Value>(inner).unwrap(), told);
    }

    #[test]
    fn of_redis_is_told_what_helps_and_is_no_secret() {
        let mut settings = Settings::default();
        assert_eq!(redis_publish(&settings, "news"), None);
        settings.redis.url = Some("redis://:hush@127.0.0.1".to_owned());
        assert_eq!(redis_publish(&settings, "news"), Some(json!({"command": "publish", "channel": "notifications:news"})));
        assert_eq!(redis_publish(&settings, "a\nb"), None);
        settings.addresses.control_token = Some("hush".to_owned());
        assert_eq!(redis_publish(&settings, "news"), None);
        settings.addresses.control_token = None;
        settings.channels.default.durable = true;
        assert_eq!(redis_publish(&settings, "news"), None);
    }

    #[test]
    fn only_what_a_browser_can_connect_to_is_named() {
        let at = |text: &str| Listener::new(text.parse().unwrap());
        assert_eq!(reached_at(&at("127.0.0.1:8080")), Some(json!({"host": "127.0.0.1", "port": 8080})));
        assert_eq!(reached_at(&at("[::]:8080")), Some(json!({"host": null, "port": 8080})));
        assert_eq!(reached_at(&at("[::1]:8080")), Some(json!({"host": "::1", "port": 8080})));
        assert_eq!(reached_at(&Listener { is_proxied: true, ..at("0.0.0.0:8080") }), None);
    }
}
