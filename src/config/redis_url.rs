//! Redis URLs, checked once. Called by [`super::table`] and [`super::check`]. How they are shown without their secrets stands in [`super::mask`].

use std::net::Ipv4Addr;

use redis::IntoConnectionInfo;
use rustls::pki_types::ServerName;

use super::mask::is_plain;
use super::settings::Redis;
use crate::limits::redis::{SEEDS_MAX, SERVERS_MAX};

/// What the setting `redis` takes, for messages.
pub const ACCEPTED: &str = "redis://[[user]:password@]host[:6379][/db], rediss://… (TLS), unix:///path/to/redis.sock[?db=0&user=…&pass=…], \
                            redis+cluster://[[user]:password@]host:6379[,host:6379]… or rediss+cluster://… for a Cluster, \
                            redis+sentinel://[[user]:password@]host:26379[,host:26379]…/SERVICE[/db][?sentinel_user=…&sentinel_password=…] or \
                            rediss+sentinel://… for what Sentinels watch, \
                            or \"\" for the embedded bus; a password is percent-encoded";

/// Whether Redis' own client understands the URL. The reason never quotes the text, which may hold a password.
pub fn check(text: &str) -> Result<(), String> {
    let scheme = match text.split_once("://") {
        None if is_host(text) => return Err(format!("not a URL; write redis://{text}")),
        None => return Err("not a URL: there is no redis:// before it".to_owned()),
        Some((scheme, _)) => scheme,
    };
    if let Some(seeds) = seeds(text) {
        return check_seeds(text, &seeds);
    }
    if is_sentinel(scheme) {
        return sentinels(text).and_then(|found| check_sentinels(&found));
    }
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

/// Another server of the list. An empty text is none.
pub fn push(redis: &mut Redis, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    check(text)?;
    if redis.urls().any(|known| place(known) == place(text)) {
        return Err("this server is there already; each has a part of the channels".to_owned());
    }
    if redis.urls().count() == SERVERS_MAX {
        return Err(format!("there may be {SERVERS_MAX} and no more"));
    }
    match redis.url {
        None => redis.url = Some(text.to_owned()),
        Some(_) => redis.beside.push(text.to_owned()),
    }
    Ok(())
}

/// What two URLs of the same server have in common.
fn place(url: &str) -> String {
    match (watched(url), url.into_connection_info()) {
        (Some(Watched { mut sentinels, service, .. }), _) => {
            sentinels.sort();
            format!("{sentinels:?}/{service}")
        }
        (None, Ok(info)) => info.addr().to_string(),
        (None, Err(_)) => url.to_owned(),
    }
}

/// URLs with blanks or commas between. A comma may be a part of one: another one begins only where a scheme does.
pub fn split(text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    for word in text.split_whitespace() {
        let mut rest = word.trim_matches(',');
        while let Some((at, _)) = rest.match_indices(',').find(|(at, _)| begins_url(&rest[at + 1..])) {
            urls.push(&rest[..at]);
            rest = &rest[at + 1..];
        }
        urls.push(rest);
    }
    urls.retain(|url| !url.is_empty());
    urls
}

fn begins_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'+'))
}

/// Of the URL of a Cluster: those of the nodes that it names, each with the log-in. None: it is none of a Cluster.
pub fn seeds(url: &str) -> Option<Vec<String>> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.strip_suffix("+cluster").filter(|scheme| ["redis", "rediss"].contains(scheme))?;
    let (login, places) = rest.rsplit_once('@').map_or(("", rest), |(login, places)| (login, places));
    let at = if rest.contains('@') { "@" } else { "" };
    Some(places.split(',').map(|place| format!("{scheme}://{login}{at}{}", place.trim_end_matches('/'))).collect())
}

fn is_sentinel(scheme: &str) -> bool {
    matches!(scheme, "redis+sentinel" | "rediss+sentinel")
}

/// What Sentinels watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// URLs of the Sentinels, each with the log-in there.
    pub sentinels: Vec<String>,
    /// How one logs in at the master: a URL whose host is of no meaning.
    pub login: String,
    pub service: String,
}

/// Of the URL of a service that Sentinels watch. None: it is none, or cannot be read.
pub fn watched(url: &str) -> Option<Watched> {
    is_sentinel(url.split_once("://")?.0).then(|| sentinels(url).ok()).flatten()
}

fn sentinels(url: &str) -> Result<Watched, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let scheme = scheme.strip_suffix("+sentinel").unwrap_or(scheme);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (login, rest) = rest.rsplit_once('@').map_or((String::new(), rest), |(login, rest)| (format!("{login}@"), rest));
    let (places, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (service, db) = path.split_once('/').map_or((path, None), |(service, db)| (service, Some(db).filter(|db| !db.is_empty())));
    if service.is_empty() {
        return Err("it does not say which service: redis+sentinel://HOST:26379/SERVICE, as in `sentinel monitor SERVICE …`".to_owned());
    }
    let (mut user, mut password) = ("", None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_user", value)) => user = value,
            Some(("sentinel_password", value)) => password = Some(value),
            _ => return Err("behind its `?` only sentinel_user and sentinel_password may stand".to_owned()),
        }
    }
    let at_sentinel = match password {
        Some(password) => format!("{user}:{password}@"),
        None if user.is_empty() => String::new(),
        None => return Err("there is a sentinel_user without a sentinel_password".to_owned()),
    };
    let with_port = |place: &str| {
        let has_port = place.rsplit_once(':').is_some_and(|(host, _)| !host.starts_with('[') || host.ends_with(']'));
        if has_port { place.to_owned() } else { format!("{place}:26379") }
    };
    Ok(Watched {
        sentinels: places.split(',').map(|place| format!("{scheme}://{at_sentinel}{}", with_port(place))).collect(),
        login: format!("{scheme}://{login}master{}", db.map_or(String::new(), |db| format!("/{db}"))),
        service: service.to_owned(),
    })
}

fn check_sentinels(watched: &Watched) -> Result<(), String> {
    if watched.sentinels.len() > SEEDS_MAX {
        return Err(format!("it names more than {SEEDS_MAX} Sentinels; three are what most have"));
    }
    if watched.sentinels.iter().any(|sentinel| sentinel.contains("://:26379") || sentinel.contains("@:")) {
        return Err("there is a Sentinel without a host".to_owned());
    }
    watched.sentinels.iter().chain([&watched.login]).try_for_each(|url| check(url))
}

/// The URL of another node, `place` being its `host:port`, where one logs in as at this one.
pub fn at(seed: &str, place: &str) -> String {
    let (scheme, rest) = seed.split_once("://").unwrap_or(("redis", seed));
    let login = rest.rsplit_once('@').map_or(String::new(), |(login, _)| format!("{login}@"));
    format!("{scheme}://{login}{place}")
}

/// The URL of the master of what Sentinels watch, `place` being its `host:port`.
pub fn of_master(login: &str, place: &str) -> String {
    let (before, db) = match login.rsplit_once('/') {
        Some((before, db)) if before.contains("://") && !db.contains('@') => (before, format!("/{db}")),
        _ => (login, String::new()),
    };
    at(before, place) + &db
}

pub fn host(url: &str) -> Option<String> {
    match url.into_connection_info().ok()?.addr() {
        redis::ConnectionAddr::Tcp(host, _) | redis::ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
        _ => None,
    }
}

fn check_seeds(url: &str, seeds: &[String]) -> Result<(), String> {
    if seeds.len() > SEEDS_MAX {
        return Err(format!("it names more than {SEEDS_MAX} nodes; a few are enough, as they know of the others"));
    }
    for (seed, place) in seeds.iter().zip(url.trim_end_matches('/').rsplit(['@', '/']).next().unwrap_or_default().split(',')) {
        if place.is_empty() && seeds.len() > 1 {
            return Err("there is a comma with no host beside it".to_owned());
        }
        check(seed)?;
        let info = seed.as_str().into_connection_info().map_err(|_| "a node of it cannot be read".to_owned())?;
        if info.redis_settings().db() != 0 {
            return Err("a Cluster has no databases: leave the number out".to_owned());
        }
    }
    Ok(())
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
    if let Some(seeds) = seeds(url) {
        return seeds.first().is_some_and(|seed| lacks_password(seed));
    }
    if let Some(Watched { login, .. }) = watched(url) {
        return lacks_password(&login);
    }
    url.into_connection_info().is_ok_and(|info| info.redis_settings().username().is_some() && info.redis_settings().password().is_none())
}

/// Whether channels with this prefix can be durable.
pub fn check_durable_prefix(prefix: &str) -> Result<(), String> {
    match prefix.contains('{') {
        true => Err(format!(
            "the prefix {prefix:?} holds a {{, so that the keys of a durable channel would not have the channel's hash slot; choose one without"
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mask;
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
            assert!(!mask::url(url).contains("secret@") && !mask::url(url).contains(":secret"), "{}", mask::url(url));
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
    fn several_stand_in_one_variable() {
        for (text, urls) in [
            ("redis://a", &["redis://a"][..]),
            (" redis://a , redis://b ", &["redis://a", "redis://b"]),
            ("redis://:p,w@a,rediss://b unix:///c,d", &["redis://:p,w@a", "rediss://b", "unix:///c,d"]),
            ("a,b", &["a,b"]),
            (",", &[]),
        ] {
            assert_eq!(split(text), urls, "{text}");
        }
    }

    #[test]
    fn several_are_kept_in_their_order_and_none_twice() {
        let mut redis = crate::config::Settings::default().redis;
        for url in ["", "redis://b", "redis://a"] {
            assert_eq!(push(&mut redis, url), Ok(()));
        }
        assert_eq!(redis.urls().collect::<Vec<_>>(), ["redis://b", "redis://a"]);
        for again in ["redis://b", "redis://:secret@b:6379/1"] {
            assert!(push(&mut redis, again).unwrap_err().contains("there already"));
        }
        for number in 2..SERVERS_MAX {
            assert_eq!(push(&mut redis, &format!("redis://h{number}")), Ok(()));
        }
        assert!(push(&mut redis, "redis://one-more").unwrap_err().contains("64 and no more"));
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
    fn a_cluster_is_named_by_some_of_its_nodes() {
        for (url, nodes) in [
            ("redis+cluster://h", &["redis://h"][..]),
            ("redis+cluster://:p%40w@h:1,i:2,[::1]:3", &["redis://:p%40w@h:1", "redis://:p%40w@i:2", "redis://:p%40w@[::1]:3"]),
            ("rediss+cluster://u:p@h:1/", &["rediss://u:p@h:1"]),
        ] {
            assert_eq!(
                (check(url), seeds(url).as_deref()),
                (Ok(()), Some(&nodes.iter().map(|node| node.to_string()).collect::<Vec<_>>()[..]))
            );
        }
        for (url, words) in [
            ("redis+cluster://:secret@h:1,", "comma"),
            ("redis+cluster://:secret@h:1,i:port", "read"),
            ("redis+cluster://:secret@h:1/3", "no databases"),
            ("redis+cluster://:secret@", "read"),
            ("unix+cluster://secret", "not a scheme"),
        ] {
            let reason = check(url).expect_err(url);
            assert!(reason.contains(words) && !reason.contains("secret"), "{url}: {reason}");
        }
        let many = format!("redis+cluster://{}", vec!["h"; SEEDS_MAX + 1].join(","));
        assert!(check(&many).unwrap_err().contains("a few are enough"));
        for (url, shown) in [
            ("redis+cluster://u:secret@h:1,i:2", "redis+cluster://u:***@h:1,i:2"),
            ("redis+cluster://h:1,i:2", "redis+cluster://h:1,i:2"),
            ("redis+cluster://h:1,i", "redis+cluster://h:1,i"),
            ("redis+cluster://h:1,:secret", "redis+cluster://h:1,:***"),
        ] {
            assert_eq!(mask::url(url), shown);
        }
    }

    #[test]
    fn what_sentinels_watch_is_read() {
        let read = |url: &str| {
            assert_eq!(check(url), Ok(()), "{url}");
            let Watched { sentinels, login, service } = watched(url).unwrap();
            (sentinels, login, service)
        };
        let list = |urls: &[&str]| urls.iter().map(|url| url.to_string()).collect::<Vec<_>>();
        assert_eq!(
            read("redis+sentinel://a,b:26380,[::1]/mymaster"),
            (list(&["redis://a:26379", "redis://b:26380", "redis://[::1]:26379"]), "redis://master".to_owned(), "mymaster".to_owned())
        );
        assert_eq!(
            read("rediss+sentinel://app:p%40w@a/m/3?sentinel_user=s&sentinel_password=x%2Fy"),
            (list(&["rediss://s:x%2Fy@a:26379"]), "rediss://app:p%40w@master/3".to_owned(), "m".to_owned())
        );
        for (url, words) in [
            ("redis+sentinel://:secret@a", "which service"),
            ("redis+sentinel://:secret@a/", "which service"),
            ("redis+sentinel://:secret@/m", "without a host"),
            ("redis+sentinel://a,/m", "without a host"),
            ("redis+sentinel://a/m?sentinel_user=secret", "without a sentinel_password"),
            ("redis+sentinel://a/m?sentinel_pass=secret", "only sentinel_user"),
            ("redis+sentinel://a/m/secret", "database"),
            ("unix+sentinel://secret/m", "not a scheme"),
        ] {
            let reason = check(url).expect_err(url);
            assert!(reason.contains(words) && !reason.contains("secret"), "{url}: {reason}");
            assert!(!mask::url(url).contains(":secret") && !mask::url(url).contains("=secret"), "{}", mask::url(url));
        }
        for (login, url) in [
            ("redis://master", "redis://h:1"),
            ("redis://:p%2Fw@master/3", "redis://:p%2Fw@h:1/3"),
            ("rediss://u:p@master", "rediss://u:p@h:1"),
        ] {
            assert_eq!(of_master(login, "h:1"), url);
        }
        let mut redis = crate::config::Settings::default().redis;
        assert_eq!(push(&mut redis, "redis+sentinel://a,b/m"), Ok(()));
        assert_eq!(push(&mut redis, "redis+sentinel://a,b/n"), Ok(()));
        assert!(push(&mut redis, "redis+sentinel://:pw@b,a/m").unwrap_err().contains("there already"));
    }

    #[test]
    fn a_prefix_with_a_brace_is_refused() {
        assert_eq!(check_durable_prefix("notifications:}"), Ok(()));
        assert!(check_durable_prefix("a{b}:").unwrap_err().contains("\"a{b}:\""));
    }
}
