//! For whom a request is meant, and from whose page it comes. Asked before any other work is done for it.
//!
//! Whoever controls a domain can let its name mean 127.0.0.1 (DNS rebinding). To a browser the control port then belongs to the
//! attacker's page, which may read every answer, and the page's `Origin` equals the `Host`. What such a page cannot do is leave its own
//! name out of the request: so names are accepted that nobody else can own (addresses, localhost) and those in `control_hosts`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::State;
use super::answer::Problem;
use crate::listen::Address;

/// The one path that needs no right name: it tells nothing, and probes are set up under any name.
const FOR_ANYBODY: &str = "/healthz";
const HOSTS_ACCEPTED: &str = "an address, localhost, or a name listed in `control_hosts` (--control-hosts NAME)";

#[derive(Debug)]
pub(super) struct Hosts {
    /// Whether a name that is not listed is refused.
    is_checked: bool,
    /// In lower case.
    listed: Vec<String>,
}

impl Hosts {
    /// On loopback names are checked always: only programs of this host come there, a browser among them. On other addresses they are
    /// once a list says which are right; without one a monitoring system could not use any name of the host.
    /// No browser comes to a unix socket.
    pub(super) fn new(control: &Address, listed: &[String]) -> Hosts {
        Hosts { is_checked: control.is_loopback() || !listed.is_empty(), listed: listed.to_vec() }
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let mut hosts = headers.get_all(header::HOST).into_iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(Problem::bad_request("there is more than one Host", "one Host"));
        }
        let host = host.map(|host| host.to_str().unwrap_or("?"));
        // A target with a name of its own counts in place of Host (RFC 9112, 3.2.2). A program may leave both out; no browser does.
        for name in uri.authority().map(Authority::as_str).into_iter().chain(host) {
            if !self.accepts(name) {
                let shown: String = name.chars().take(80).collect();
                let error = format!("the control port does not answer as {shown:?}");
                return Err(Problem::with_accepted(StatusCode::MISDIRECTED_REQUEST, error, HOSTS_ACCEPTED));
            }
        }
        self.check_origin(host, headers)
    }

    /// A page of another site needs nobody's consent for sending a simple POST from an operator's browser. Programs send no `Origin`.
    fn check_origin(&self, host: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
        for origin in headers.get_all(header::ORIGIN) {
            let authority = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
            let is_own = authority.is_some_and(|authority| {
                // An address or localhost does not do here: the page may come from another server there.
                host.is_some_and(|host| authority.eq_ignore_ascii_case(host)) || self.is_listed(name_of(authority))
            });
            if !is_own {
                let error = "a web page of another origin may not use the control port";
                let accepted = "pages of the origin that the request is for, and of names listed in `control_hosts` (--control-hosts NAME)";
                return Err(Problem::with_accepted(StatusCode::FORBIDDEN, error, accepted));
            }
        }
        Ok(())
    }

    fn accepts(&self, authority: &str) -> bool {
        if !self.is_checked {
            return true;
        }
        let name = name_of(authority);
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || self.is_listed(name)
    }

    fn is_listed(&self, name: &str) -> bool {
        self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(name))
    }
}

/// `ops.example:9090` → `ops.example`, `[::1]:9090` → `[::1]`. What is neither stays whole and is accepted by nobody.
fn name_of(authority: &str) -> &str {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    name.strip_suffix('.').unwrap_or(name)
}

pub(super) async fn check(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    if request.uri().path() != FOR_ANYBODY
        && let Err(problem) = state.reload.in_force().hosts.check(request.uri(), request.headers())
    {
        return problem.into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:9090";

    fn hosts(control: &str, listed: &[&str]) -> Hosts {
        let listed: Vec<String> = listed.iter().map(|name| (*name).to_owned()).collect();
        Hosts::new(&Address::Ip(control.parse().unwrap()), &listed)
    }

    fn status(hosts: &Hosts, pairs: &[(header::HeaderName, &'static str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), header::HeaderValue::from_static(value));
        }
        hosts.check(&Uri::from_static("/info"), &headers).map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_name_that_somebody_else_may_own_is_refused_on_loopback() {
        let own = ["127.0.0.1:9090", "127.0.0.1", "[::1]:9090", "[::1]", "192.0.2.7:1", "localhost", "LOCALHOST:9090", "localhost."];
        let foreign =
            ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "1.evil", "[::1].evil", "", ":9090"];
        for control in [LOOPBACK, "[::1]:9090", "[::ffff:127.0.0.1]:9090", "127.0.0.2:9090"] {
            let hosts = hosts(control, &["ops.example"]);
            own.iter().for_each(|host| assert_eq!(status(&hosts, &[(header::HOST, host)]), 200, "{host}"));
            foreign.iter().for_each(|host| assert_eq!(status(&hosts, &[(header::HOST, host)]), 421, "{host}"));
            for host in ["ops.example", "OPS.example:9090", "ops.example.:9090"] {
                assert_eq!(status(&hosts, &[(header::HOST, host)]), 200, "{host} is listed");
            }
        }
    }

    #[test]
    fn other_addresses_are_checked_once_there_is_a_list() {
        let open = hosts("0.0.0.0:9090", &[]);
        assert_eq!(status(&open, &[(header::HOST, "node7:9090")]), 200);
        let listed = hosts("0.0.0.0:9090", &["node7"]);
        assert_eq!(status(&listed, &[(header::HOST, "node7:9090")]), 200);
        assert_eq!(status(&listed, &[(header::HOST, "192.0.2.7:9090")]), 200);
        assert_eq!(status(&listed, &[(header::HOST, "evil.example")]), 421);
    }

    #[test]
    fn a_target_with_a_name_of_its_own_does_not_hide_behind_host() {
        let hosts = hosts(LOOPBACK, &[]);
        let headers = HeaderMap::from_iter([(header::HOST, header::HeaderValue::from_static(LOOPBACK))]);
        assert!(hosts.check(&Uri::from_static("http://evil.example/info"), &headers).is_err());
        assert!(hosts.check(&Uri::from_static("http://localhost:9090/info"), &headers).is_ok());
        assert_eq!(status(&hosts, &[(header::HOST, LOOPBACK), (header::HOST, "evil.example")]), 400);
        assert_eq!(status(&hosts, &[]), 200, "HTTP/1.0 has none");
    }

    #[test]
    fn foreign_pages_are_told_from_programs_and_own_pages() {
        let hosts = hosts(LOOPBACK, &["ops.example"]);
        let from = |host: &'static str, origin: &'static str| status(&hosts, &[(header::HOST, host), (header::ORIGIN, origin)]);
        assert_eq!(from("localhost:9090", "http://LOCALHOST:9090"), 200);
        assert_eq!(from("localhost:9090", "https://elsewhere.example"), 403);
        assert_eq!(from("localhost:9090", "http://localhost:3000"), 403, "another server on this host");
        assert_eq!(from(LOOPBACK, "http://192.0.2.1"), 403, "an address is anybody's");
        assert_eq!(from("localhost:9090", "null"), 403);
        assert_eq!(from(LOOPBACK, "https://ops.example"), 200, "a proxy that does not pass Host on");
        assert_eq!(from("evil.example:9090", "http://evil.example:9090"), 421, "the name is the page's own, but not ours");
    }
}
