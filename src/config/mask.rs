//! What may be shown of a text that may hold a secret: a URL of Redis or of a server, or a line of a file or a message in which one may stand.
//! Used wherever anything is told: problems, start block, `/info`, the commands. Invariant: a text that came through [`url`], [`source`] or
//! [`line()`] holds no password.

use super::table;

/// The URL as it may be shown: what logs in is `***`. It reads texts, not URLs, so that a text which is no URL keeps its secret too, and in
/// doubt hides rather too much: everything up to the last `@`, as an unescaped `/`, `#` or `@` in a password is just what makes a URL
/// unreadable.
pub fn url(text: &str) -> String {
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

pub(super) fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Without a login: `host:port/db`, where that is what it is. `:secret` and `user:secret` are what is left of a login whose host was forgotten.
fn masked_place(place: &str) -> String {
    if place.contains(',') {
        // The nodes of a Cluster.
        return place.split(',').map(masked_place).collect::<Vec<_>>().join(",");
    }
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
        // Of a unix socket that is listened on.
        Some(("mode" | "group", value)) if is_plain(value) => pair.to_owned(),
        Some(("protocol", "2" | "3" | "resp2" | "resp3")) => pair.to_owned(),
        Some(("user", value)) if has_password && is_plain(value) => pair.to_owned(),
        Some((name, _)) if is_plain(name) => format!("{name}=***"),
        _ => "***".to_owned(),
    };
    query.split('&').map(masked).collect::<Vec<_>>().join("&")
}

/// A secret that is nothing but one.
pub fn secret(text: &str) -> String {
    if text.is_empty() { String::new() } else { "***".to_owned() }
}

/// A line of a file of settings. Behind a secret's name nothing is shown, however far the `=` is, or where there is none.
pub fn source(text: &str) -> String {
    let mut at = 0;
    for word in text.split_inclusive(|letter: char| letter.is_whitespace() || letter == '=') {
        at += word.len();
        let rest = &text[at..];
        if is_of_a_secret(word.trim_end_matches('=')) && !rest.trim().is_empty() {
            let shown = if word.ends_with('=') { at } else { rest.find('=').map_or(at, |equals| at + equals + 1) };
            return format!("{} ***", text[..shown].trim_end());
        }
    }
    line(text)
}

/// A line of a message, with the URL in it masked as by [`url`]. Without `://`, what stands before an `@` may be a login all the same.
pub fn line(line: &str) -> String {
    const QUOTES: [char; 3] = ['"', '\'', '`'];
    // Also behind another setting: a line's end may be what is missing.
    let word = |at: usize| line[..at].split_whitespace().next_back().unwrap_or_default();
    if let Some((at, _)) = line.match_indices('=').find(|(at, _)| is_of_a_secret(word(*at))) {
        return format!("{}= ***", &line[..at]);
    }
    let start = match line.find("://") {
        // Behind the letter before it, which may take several bytes.
        Some(at) => {
            line[..at].char_indices().rfind(|(_, letter)| !letter.is_ascii_alphanumeric()).map_or(0, |(at, letter)| at + letter.len_utf8())
        }
        None if line.contains('@') => line.find(QUOTES).or(line.find('=')).map_or(0, |before| before + 1),
        None => return line.to_owned(),
    };
    // A quote before the `@` or in the query may be one of the password's.
    let place = line[start..].rfind('@').map_or(start, |at| start + at);
    let end = if line[place..].contains('?') { line[place..].rfind(QUOTES) } else { line[place..].find(QUOTES) };
    let end = end.map_or(line.len(), |at| place + at);
    format!("{}{}{}", &line[..start], url(&line[start..end]), &line[end..])
}

/// Whether what is called so is a secret, or may be one whose name is misspelt.
fn is_of_a_secret(key: &str) -> bool {
    let key = key.trim().trim_matches(['"', '\'']).replace('-', "_").to_lowercase();
    let is_harmless = table::find(&key).is_some_and(|setting| setting.secret.is_none());
    !is_harmless && ["secr", "tok"].iter().any(|part| key.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(self::url(url), shown);
            assert_eq!(line(&format!("redis = \"{url}\"")), format!("redis = \"{shown}\""));
        }
        for url in ["redis://a:secret@h?x=y@z", "redis://a:secret?@h", "redis://a:sec?pass=ret@h"] {
            assert!(!self::url(url).contains("sec") && !self::url(url).contains("ret"), "{}", self::url(url));
        }
    }

    #[test]
    fn a_line_with_a_secret_is_shown_without_it() {
        assert_eq!(line("token_secret = \"hush\" # 1"), "token_secret = ***");
        assert_eq!(line("Token-Secret=hush"), "Token-Secret= ***");
        assert_eq!(line("token_secre = 'hush"), "token_secre = ***");
        assert_eq!(line("control_token = \"hush\""), "control_token = ***");
        assert_eq!(line("CONTROL-TOKN = hush"), "CONTROL-TOKN = ***");
        assert_eq!(line("token_issuer = 7"), "token_issuer = 7");
        // Found by tests/fuzz: two settings in one line.
        assert_eq!(line("auth = \"jwt\" token_secret = \"hush\""), "auth = \"jwt\" token_secret = ***");
        for (text, shown) in [
            ("token_secret = \"hush\" # 1", "token_secret = ***"),
            ("token_secret=\"hush\"", "token_secret= ***"),
            // Found by tests/fuzz: the name was looked for directly before the `=` only.
            ("token_secret ret ret =00 \"hush\"", "token_secret ret ret = ***"),
            ("token_secret \"hush\"", "token_secret ***"),
            ("token_secret: hush", "token_secret: ***"),
            ("control-token 'hush", "control-token ***"),
            ("x = 1 token_secret hush", "x = 1 token_secret ***"),
            ("token_secret =", "token_secret = ***"),
            ("token_secret", "token_secret"),
            ("auth = \"jwt", "auth = \"jwt"),
            ("redis = \"redis://:hush@h", "redis = \"redis://:***@h"),
        ] {
            assert_eq!(source(text), shown);
        }
        assert_eq!((secret("hush"), secret("")), ("***".to_owned(), String::new()));
    }

    /// Found by tests/fuzz: this ended the program, and so did such a line in a file of settings.
    #[test]
    fn a_letter_of_several_bytes_before_a_url_is_only_a_letter() {
        assert_eq!(line("né://:secret@h"), "né://:***@h");
        assert_eq!(line("redis = é\"x://u:secret@h\""), "redis = é\"x://u:***@h\"");
    }

    #[test]
    fn a_line_keeps_what_is_no_url() {
        assert_eq!(line(r#"redis = "redis://u:se/c@ret@host:6379" # "here""#), r#"redis = "redis://u:***@host:6379" # "here""#);
        assert_eq!(line("redis = \"redis://:secret"), "redis = \"redis://:***");
        assert_eq!(line("shards = 2 # a @ b"), "shards =***@ b", "in doubt too much");
        assert_eq!(line("shards = 2"), "shards = 2");
        let message = "`http://` is not a scheme that Redis is reached by";
        assert_eq!(line(message), message);
    }
}
