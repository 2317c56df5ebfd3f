//! From where pages may connect (RFC 6454). Browsers send `Origin` with every upgrade, whoever made the page, and no script can change it.

use std::fmt;

/// One entry of the list of those allowed: `https://app.example.org`, `https://*.example.org` for every name below, or `null`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin {
    scheme: Box<str>,
    /// In lower case, with the port where it is not the scheme's own; behind a `*` what the host must end with.
    host: Box<str>,
    is_wildcard: bool,
}

impl AllowedOrigin {
    /// The reason of an `Err` says what is wrong with the text.
    pub fn read(text: &str) -> Result<AllowedOrigin, String> {
        if text == "null" {
            return Ok(AllowedOrigin { scheme: "".into(), host: text.into(), is_wildcard: false });
        }
        let Some((scheme, host)) = text.split_once("://") else {
            return Err(format!("{text:?} has no scheme; an origin is written https://host"));
        };
        let (name, port) = split_port(host);
        let (is_wildcard, name) = name.strip_prefix('*').map_or((false, name), |rest| (true, rest));
        match () {
            () if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) || scheme.is_empty() => {
                Err(format!("{text:?} has no scheme"))
            }
            () if host.contains(['/', '?', '#', '@']) => {
                Err(format!("{text:?} is more than an origin; scheme, host and port alone are wanted"))
            }
            () if is_wildcard && !(name.starts_with('.') && name.len() > 1) => {
                Err(format!("{text:?}: a * stands for whole names before a dot, as in https://*.example.org"))
            }
            () if !is_host(name) => Err(format!("{text:?} has no host name")),
            () if port.is_some_and(|port| port.parse::<u16>().is_err()) => Err(format!("{text:?} has no port from 0 to 65535")),
            () => Ok(AllowedOrigin { host: normal(scheme, name, port).into(), scheme: scheme.to_ascii_lowercase().into(), is_wildcard }),
        }
    }

    /// Whether this is the origin, or one of those, that a request names.
    fn holds(&self, scheme: &str, host: &str) -> bool {
        let is_below = |host: &str| host.len() > self.host.len() && host.ends_with(&*self.host);
        self.scheme.eq_ignore_ascii_case(scheme) && if self.is_wildcard { is_below(host) } else { *host == *self.host }
    }
}

/// Whether a page of this `Origin` may connect.
pub fn is_allowed(origin: &[u8], allowed: &[AllowedOrigin]) -> bool {
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    if origin == "null" {
        return allowed.iter().any(|allowed| allowed.holds("", "null"));
    }
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    let (name, port) = split_port(host);
    if scheme.is_empty() || !is_host(name) || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    let host = normal(scheme, name, port);
    allowed.iter().any(|allowed| allowed.holds(scheme, &host))
}

/// As it is written in a URL, in ASCII (RFC 6454, 6.2): a name, or an address; IPv6 in brackets. Found by tests/fuzz: a quote, a brace or a bracket before the dot of a
/// wildcard.
fn is_host(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    is_ipv6(name) || !name.is_empty() && name.bytes().all(is_of_name)
}

/// In brackets, as only such an address stands in a URL.
fn is_ipv6(name: &str) -> bool {
    let inside = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|address| address.parse::<core::net::Ipv6Addr>().is_ok())
}

/// The port behind a host, not a colon within brackets.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// In lower case, without the port that a browser would leave out.
fn normal(scheme: &str, name: &str, port: Option<&str>) -> String {
    let own = match scheme.to_ascii_lowercase().as_str() {
        "http" => "80",
        "https" => "443",
        _ => "",
    };
    let port = port.filter(|&port| port != own).map_or(String::new(), |port| format!(":{port}"));
    format!("{}{port}", name.to_ascii_lowercase())
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.scheme {
            "" => out.write_str(&self.host),
            scheme => write!(out, "{scheme}://{}{}", if self.is_wildcard { "*" } else { "" }, self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: &str, list: &[&str]) -> bool {
        let list: Vec<AllowedOrigin> = list.iter().map(|text| AllowedOrigin::read(text).unwrap()).collect();
        is_allowed(origin.as_bytes(), &list)
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (origin, listed) in [
            ("https://app.example.org", "https://app.example.org"),
            ("https://app.example.org", "HTTPS://App.Example.Org:443"),
            ("https://app.example.org:443", "https://app.example.org"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("https://a.b.example.org", "https://*.example.org"),
            ("null", "null"),
        ] {
            assert!(allowed(origin, &[listed]), "{origin} {listed}");
        }
        for origin in [
            "http://app.example.org",
            "https://app.example.org:8443",
            "https://app.example.org.evil.example",
            "https://evilapp.example.org",
            "https://xapp.example.org",
            "https://app.example.org/",
            "https://app.example.org@evil.example",
            "https://user@app.example.org",
            "app.example.org",
            "://app.example.org",
            "null",
            "",
        ] {
            assert!(!allowed(origin, &["https://app.example.org"]), "{origin}");
        }
        for origin in [
            "https://example.org",
            "https://evilexample.org",
            "https://.example.org",
            "http://a.example.org",
            "https://*.example.org",
            // Found by tests/fuzz: of another host, and what stands for its port ends as it should.
            "https://evil.example:.example.org",
        ] {
            assert!(!allowed(origin, &["https://*.example.org"]), "{origin}");
        }
        assert!(!allowed("https://a.example", &[]) && !is_allowed(b"https://\xff", &[]));
    }

    #[test]
    fn what_is_no_origin_says_why() {
        for (text, words) in [
            ("app.example.org", "no scheme"),
            ("", "no scheme"),
            ("*", "no scheme"),
            ("https://", "no host"),
            ("https://app:x:443", "no host name"),
            ("https://[::443", "no host name"),
            ("https://*", "before a dot"),
            ("https://*example.org", "before a dot"),
            ("https://a.example/path", "more than an origin"),
            ("https://a.*.example", "no host"),
            ("https://a.example:x", "no port"),
        ] {
            let error = AllowedOrigin::read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        for text in ["https://app.example.org", "https://*.example.org:8443", "null"] {
            assert_eq!(AllowedOrigin::read(text).unwrap().to_string(), text);
        }
    }
}
