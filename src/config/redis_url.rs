//! Redis URLs: checked once, and shown without their secrets. Called by [`super::table`], [`super::problem`], the start block,
//! `/info` and the commands. Invariant: a text that came through [`masked`] or [`mask_line`] holds no password.

use std::net::Ipv4Addr;

use redis::IntoConnectionInfo;
use rustls::pki_types::ServerName;

/// What the setting `redis` takes, for messages.
pub const ACCEPTED: &str = "redis://[[user]:password@]host[:6379][/db], rediss://… (TLS), unix:///path/to/redis.sock[?db=0&user=…&pass=…], \
                            or \"\" for the embedded bus; a password is percent-encoded";

/// Whether Redis' own client understands the URL. The reason never quotes the text, which may hold a password.
pub fn check(text: &str) -> Result<(), String> {
    let scheme = match text.split_once("://") {
        None if is_host(text) => return Err(format!("not a URL; write redis://{text}")),
        None => return Err("not a URL: there is no redis:// before it".to_owned()),
        Some((scheme, _)) => scheme,
    };
    if !["redis", "rediss", "unix"].contains(&scheme) {
        return Err(format!("`{scheme}://` is not a scheme that Redis is reached by"));
    }
    if redis::parse_redis_url(text).is_none() {
        return Err("not a URL that can be read (is the port a number, is the password percent-encoded?)".to_owned());
    }
    // Only the client's own words, which stand before " - ": the detail behind them may quote a part of the URL.
    let info = text.into_connection_info().map_err(|error| error.to_string().split(" - ").next().unwrap_or_default().to_lowercase())?;
    let db = info.redis_settings().db();
    if !(0..=65_535).contains(&db) {
        return Err(format!("database {db} is not in 0..=65535"));
    }
    match info.addr() {
        redis::ConnectionAddr::TcpTls { insecure: true, .. } => {
            Err("`#insecure` would accept any certificate and is not supported".to_owned())
        }
        redis::ConnectionAddr::TcpTls { host, .. } if ServerName::try_from(host.as_str()).is_err() => {
            Err("its host is no name that a certificate could carry".to_owned())
        }
        _ => Ok(()),
    }
}

/// `localhost`, `10.0.0.7`, `redis.internal:6379`: nothing that could be a password.
fn is_host(text: &str) -> bool {
    let (name, port) = text.rsplit_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    match port {
        Some(port) => port.parse::<u16>().is_ok() && !name.is_empty() && is_plain(name),
        None => name == "localhost" || name.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Whether a user is named without a password: nobody is logged in then, and most likely it is the password that stands there.
pub fn lacks_password(url: &str) -> bool {
    url.into_connection_info().is_ok_and(|info| info.redis_settings().username().is_some() && info.redis_settings().password().is_none())
}

/// The URL as it may be shown: what logs in is `***`. It reads texts, not URLs, so that a text which is no URL keeps its secret too, and in
/// doubt hides rather too much: everything up to the last `@`, as an unescaped `/`, `#` or `@` in a password is just what makes a URL
/// unreadable.
pub fn masked(text: &str) -> String {
    let (scheme, rest) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
    // A path of the file system has no user part, and may well hold an `@`.
    let is_path = scheme.contains("unix") && rest.starts_with('/');
    let (login, place) = match rest.rfind('@') {
        Some(at) if !is_path => (masked_login(&rest[..at]), &rest[at..]),
        _ => (String::new(), rest),
    };
    let (place, fragment) = match place.split_once('#') {
        Some((place, fragment)) if !is_path => (place, if fragment == "insecure" { "#insecure" } else { "#***" }),
        _ => (place, ""),
    };
    let (place, query) = place.split_once('?').map_or((place, None), |(place, query)| (place, Some(query)));
    let place = if is_path || !login.is_empty() { place.to_owned() } else { masked_place(place) };
    let query = query.map_or(String::new(), |query| format!("?{}", masked_query(query)));
    format!("{scheme}{login}{place}{query}{fragment}")
}

/// The user's name where there is a password behind it. Alone it is more often a password in the wrong place.
fn masked_login(login: &str) -> String {
    match login.split_once(':') {
        Some((user, password)) if is_plain(user) && !password.is_empty() => format!("{user}:***"),
        _ => "***".to_owned(),
    }
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Without a login: `host:port/db`, where that is what it is. `:secret` and `user:secret` are what is left of a login whose host was forgotten.
fn masked_place(place: &str) -> String {
    let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') && port.parse::<u16>().is_err() => format!("{name}:***"),
        Some(("", _)) => ":***".to_owned(),
        _ => format!("{host}{path}"),
    }
}

/// Only what is known to be harmless keeps its value: whatever else stands there may be a misspelt `pass`.
fn masked_query(query: &str) -> String {
    let has_password = query.split('&').any(|pair| matches!(pair.split_once('='), Some(("pass", value)) if !value.is_empty()));
    let masked = |pair: &str| match pair.split_once('=') {
        Some(("db", value)) if value.parse::<u16>().is_ok() => pair.to_owned(),
        Some(("protocol", "2" | "3" | "resp2" | "resp3")) => pair.to_owned(),
        Some(("user", value)) if has_password && is_plain(value) => pair.to_owned(),
        Some((name, _)) if is_plain(name) => format!("{name}=***"),
        _ => "***".to_owned(),
    };
    query.split('&').map(masked).collect::<Vec<_>>().join("&")
}

/// A line of a file or of a message, with the URL in it [`masked`]. Without `://`, what stands before an `@` may be a login all the same.
pub fn mask_line(line: &str) -> String {
    const QUOTES: [char; 3] = ['"', '\'', '`'];
    let start = match line.find("://") {
        Some(at) => line[..at].rfind(|letter: char| !letter.is_ascii_alphanumeric()).map_or(0, |before| before + 1),
        None if line.contains('@') => line.find(QUOTES).or(line.find('=')).map_or(0, |before| before + 1),
        None => return line.to_owned(),
    };
    // A quote before the `@` or in the query may be one of the password's.
    let place = line[start..].rfind('@').map_or(start, |at| start + at);
    let end = if line[place..].contains('?') { line[place..].rfind(QUOTES) } else { line[place..].find(QUOTES) };
    let end = end.map_or(line.len(), |at| place + at);
    format!("{}{}{}", &line[..start], masked(&line[start..end]), &line[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_are_taken() {
        for url in [
            "redis://127.0.0.1",
            "redis://127.0.0.1:6379/3",
            "redis://:pw@host:6379",
            "redis://user:p%40w@[::1]:6379/0",
            "rediss://host",
            "unix:///run/redis.sock?db=1&pass=secret",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn bad_urls_are_refused_without_being_quoted() {
        for url in [
            "secret",
            "http://secret@host",
            "redis://u:secret@host:port",
            "redis://u:secret@host/db",
            "redis://:secret@host/0?protocol=secret",
            "redis://:secret@",
            "redis://u:sec/ret@host:6379",
            "rediss://:secret@host/#insecure",
            "redis://:secret@host/-1",
            "rediss://:secret@a..b",
        ] {
            let reason = check(url).expect_err(url);
            assert!(!reason.contains("secret"), "{reason}");
            assert!(!masked(url).contains("secret@") && !masked(url).contains(":secret"), "{}", masked(url));
        }
    }

    #[test]
    fn a_host_alone_is_told_how_to_become_a_url() {
        for host in ["localhost:6379", "localhost", "127.0.0.1", "10.0.0.7:6380", "redis.internal:6379"] {
            assert!(check(host).unwrap_err().contains(&format!("write redis://{host}")));
        }
        for text in ["secret", ":secret", "user:secret@host:6379", "secret@host:6379"] {
            let reason = check(text).unwrap_err();
            assert!(reason.contains("redis://") && !reason.contains("secret"), "{reason}");
        }
    }

    #[test]
    fn a_user_without_a_password_is_noticed() {
        for (url, lacks) in [
            ("redis://secret@host", true),
            ("unix:///s?user=secret", true),
            ("redis://host", false),
            ("redis://:secret@host", false),
            ("redis://user:secret@host", false),
        ] {
            assert_eq!(lacks_password(url), lacks, "{url}");
        }
    }

    #[test]
    fn no_password_is_ever_shown() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://[::1]:6379", "redis://[::1]:6379"),
            ("redis://[::1]", "redis://[::1]"),
            ("redis://host", "redis://host"),
            ("redis://user:secret@host:6379/2", "redis://user:***@host:6379/2"),
            ("redis://:secret@127.0.0.1/1", "redis://:***@127.0.0.1/1"),
            ("rediss://app:secret@redis.example:6380", "rediss://app:***@redis.example:6380"),
            ("rediss://:secret@host#insecure", "rediss://:***@host#insecure"),
            ("redis://app:se@cr:et/s@host/0", "redis://app:***@host/0"),
            ("redis://host/0?protocol=3&db=2", "redis://host/0?protocol=3&db=2"),
            ("unix:///run/redis.sock?db=1&user=app&pass=secret", "unix:///run/redis.sock?db=1&user=app&pass=***"),
            ("unix:///run/a@b.sock?pass=sec@ret", "unix:///run/a@b.sock?pass=***"),
            ("unix:///run/redis.sock?password=a%40b&protocol=resp3", "unix:///run/redis.sock?password=***&protocol=resp3"),
            ("user:secret@host", "user:***@host"),
            ("", ""),
            // A password in the place of a user's name, or of the host.
            ("redis://secret@host", "redis://***@host"),
            ("redis://secret:@host", "redis://***@host"),
            ("redis://se/cret:x@host", "redis://***@host"),
            ("unix://:secret@/run/redis.sock", "unix://:***@/run/redis.sock"),
            ("unix:///run/redis.sock?user=secret", "unix:///run/redis.sock?user=***"),
            ("redis://:secret", "redis://:***"),
            ("redis://user:secret", "redis://user:***"),
            ("redis://:secret@", "redis://:***@"),
            ("redis://sec#ret@host", "redis://***@host"),
            ("redis://host#secret", "redis://host#***"),
            ("redis://host?secret", "redis://host?***"),
        ] {
            assert_eq!(masked(url), shown);
            assert_eq!(mask_line(&format!("redis = \"{url}\"")), format!("redis = \"{shown}\""));
        }
        for url in ["redis://a:secret@h?x=y@z", "redis://a:secret?@h", "redis://a:sec?pass=ret@h"] {
            assert!(!masked(url).contains("sec") && !masked(url).contains("ret"), "{}", masked(url));
        }
    }

    #[test]
    fn a_line_keeps_what_is_no_url() {
        assert_eq!(mask_line(r#"redis = "redis://u:se/c@ret@host:6379" # "here""#), r#"redis = "redis://u:***@host:6379" # "here""#);
        assert_eq!(mask_line("redis = \"redis://:secret"), "redis = \"redis://:***");
        assert_eq!(mask_line("shards = 2 # a @ b"), "shards =***@ b", "in doubt too much");
        assert_eq!(mask_line("shards = 2"), "shards = 2");
        let message = "`http://` is not a scheme that Redis is reached by";
        assert_eq!(mask_line(message), message);
    }
}
