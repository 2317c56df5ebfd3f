//! Redis URLs: checked once, and shown without their secrets. Called by [`super::table`], [`super::start`], [`super::problem`] and
//! the commands. Invariant: a text that came through [`masked`] or [`mask_line`] holds no password.

use redis::IntoConnectionInfo;

/// What the setting `redis` takes, for messages.
pub const ACCEPTED: &str = "redis://[[user]:password@]host[:6379][/db], rediss://… (TLS), unix:///path/to/redis.sock[?db=0&user=…&pass=…], \
                            or \"\" for the embedded bus; a password is percent-encoded";

/// Whether Redis' own client understands the URL. The reason never quotes the text, which may hold a password.
pub fn check(text: &str) -> Result<(), String> {
    let scheme = match text.split_once("://") {
        None => return Err("not a URL".to_owned()),
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
    if let redis::ConnectionAddr::TcpTls { insecure: true, .. } = info.addr() {
        return Err("`#insecure` would accept any certificate and is not supported".to_owned());
    }
    Ok(())
}

/// The URL as it may be shown: every password replaced by `***`.
pub fn masked(text: &str) -> String {
    let Some(mut url) = redis::parse_redis_url(text) else { return mask_line(text) };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return mask_line(text);
    }
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let shown: Vec<String> =
            pairs.iter().map(|(name, value)| if is_harmless(name) { format!("{name}={value}") } else { format!("{name}=***") }).collect();
        url.set_query(Some(&shown.join("&")));
    }
    url.to_string()
}

/// The parameters that Redis' client reads, but for the password; whatever else stands there may be a misspelt `pass`.
fn is_harmless(name: &str) -> bool {
    matches!(name, "db" | "user" | "protocol")
}

/// A line of a file, or a URL that does not parse, with whatever could be a password replaced. Rather too much is hidden than too little:
/// from `://` to the last `@`, since an unescaped `/`, `#` or `@` in a password is just what makes a URL unreadable.
pub fn mask_line(line: &str) -> String {
    let Some(scheme_end) = line.find("://").map(|at| at + 3) else { return line.to_owned() };
    let (head, rest) = line.split_at(scheme_end);
    let rest = match rest.rfind('@') {
        Some(at) => format!("***{}", &rest[at..]),
        // `redis://:secret` with the host forgotten.
        None if rest.starts_with(':') => "***".to_owned(),
        None => rest.to_owned(),
    };
    let rest = match rest.find('?') {
        Some(query) if rest[query..].contains('=') => format!("{}?***", &rest[..query]),
        _ => rest,
    };
    format!("{head}{rest}")
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
        ] {
            let reason = check(url).expect_err(url);
            assert!(!reason.contains("secret"), "{reason}");
            assert!(!masked(url).contains("secret@") && !masked(url).contains(":secret"), "{}", masked(url));
        }
    }

    #[test]
    fn no_password_is_ever_shown() {
        assert_eq!(masked("redis://user:secret@host:6379/2"), "redis://user:***@host:6379/2");
        assert_eq!(masked("redis://:secret@host"), "redis://:***@host");
        assert_eq!(masked("redis://host:6379"), "redis://host:6379");
        assert_eq!(masked("unix:///run/redis.sock?db=1&pass=secret"), "unix:///run/redis.sock?db=1&pass=***");
        assert_eq!(mask_line(r#"redis = "redis://u:se/c@ret@host:6379""#), r#"redis = "redis://***@host:6379""#);
        assert_eq!(mask_line(r#"redis = "unix:///run/x?pass=secret""#), r#"redis = "unix:///run/x?***"#);
        assert_eq!(mask_line("redis = \"redis://:secret"), "redis = \"redis://***");
        assert_eq!(mask_line("shards = 2"), "shards = 2");
    }
}
