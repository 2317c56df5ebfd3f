//! Checks of values that are good one by one but do not fit together, or do not fit the host. Called by [`super::layers`].

use tracing::level_filters::STATIC_MAX_LEVEL;

use super::fd_table::ALLOW;
use super::host::Host;
use super::parse::{show_cores, show_size};
use super::problem::{Origin, Problem};
use super::rules::Selector;
use super::{ChannelRule, FdTable, Pin, PubSub, PubSubFrom, RedisSubscribe, RedisTls, Settings, Share, redis_url};
use crate::listen::{Address, Listener};

/// What surprises about `[::]`.
const BOTH: &str = "[::] takes IPv4 as well, unless 0.0.0.0 with the same port is listed beside it";

/// All that does not fit. `origin` tells where a setting's value came from, `rule_origin` where it stands in a
/// `[[channels]]` table.
pub fn check(
    settings: &Settings,
    host: &Host,
    origin: &dyn Fn(&str) -> Origin,
    rule_origin: &dyn Fn(&Selector, &str) -> Origin,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let error = |key: &str, message: String| Problem::error(origin(key), key, message);

    if settings.addresses.listen.is_empty() {
        problems.push(error("listen", "no address is left to listen on".to_owned()).accepted("at least one address"));
    }
    for (index, listener) in settings.addresses.listen.iter().enumerate() {
        let address = &listener.address;
        let is_ipv4 = |address: &Address| address.ip().map(|address| address.is_ipv4());
        if let Some(other) = settings.addresses.listen[..index].iter().find(|other| listener.collides_with(other)) {
            let problem =
                error("listen", format!("{} and {} are the same port of the same address", address.place(), other.address.place()));
            problems.push(if is_ipv4(address) == is_ipv4(&other.address) { problem } else { problem.help(BOTH) });
        }
        if listener.is_proxied && address.ip().is_some() && settings.addresses.trusted_proxies.is_empty() {
            let message = format!("every connection would be closed, as no proxy is trusted: {listener}");
            problems.push(error("listen", message).help("name the proxies' addresses: trusted_proxies = [\"10.0.0.0/8\"]"));
        }
        if listener.collides_with(&Listener::at(settings.addresses.control.clone())) {
            // The flag that somebody just typed is the one to change.
            let key = if matches!(origin("control"), Origin::Default) { "listen" } else { "control" };
            let (public, control) = (address.place(), settings.addresses.control.place());
            let message = format!("the public address {public} and the control address {control} are the same");
            let both = if is_ipv4(address) == is_ipv4(&settings.addresses.control) { String::new() } else { format!("; {BOTH}") };
            problems.push(error(key, message).help(format!("give one of them another port{both}")));
        }
    }

    let control = &settings.addresses.control;
    if control.ip().is_some() && !control.is_loopback() && settings.addresses.control_token.is_none() {
        let message = format!("whoever reaches {} could publish, disconnect and read everything", control.place());
        let help = "set CAMPANILE_CONTROL_TOKEN (openssl rand -base64 24), or bind control to 127.0.0.1 or a unix socket";
        problems.push(error("control", message).help(help));
    }

    let (connections, rate) = (settings.bounds.connections_max, settings.clients.drain_rate);
    let (seconds, deadline) = (connections.div_ceil(rate) as u64, settings.clients.shutdown_timeout.as_secs());
    let was_typed = |key: &str| !matches!(origin(key), Origin::Default);
    if seconds > deadline && (was_typed("drain_rate") || was_typed("shutdown_timeout")) {
        let key = if was_typed("drain_rate") { "drain_rate" } else { "shutdown_timeout" };
        let message =
            format!("{connections} connections (connections_max) take {seconds} s to drain, and shutdown_timeout is {deadline} s");
        let help =
            "whoever is left then is closed at once, with a delay before it comes back; raise one of the two to have all go in order";
        problems.push(Problem::warning(origin(key), key, message).help(help));
    }

    if let Pin::List(cores) = &settings.shards.pin {
        let absent: Vec<usize> = cores.iter().copied().filter(|core| !host.cores.contains(core)).collect();
        if !absent.is_empty() {
            let (word, verb) = if absent.len() == 1 { ("core", "is") } else { ("cores", "are") };
            let message = format!("{word} {} {verb} not among those this process may run on", show_cores(&absent));
            problems.push(error("pin", message).accepted(format!("auto, none, or cores out of {}", show_cores(&host.cores))));
        }
    }

    problems.extend(super::tls::check(settings, origin));
    problems.extend(super::auth::check(settings, origin));
    problems.extend(super::auth::check_rules(settings, origin, rule_origin));

    if let Some(level) = settings.logging.level.beyond(STATIC_MAX_LEVEL) {
        let problem = Problem::warning(
            origin("log_level"),
            "log_level",
            format!("{level} lines are not in this build, which has up to {STATIC_MAX_LEVEL}"),
        );
        problems.push(problem.help("a build without --release has them all"));
    }
    if let (FdTable::Private, Some(refusal)) = (settings.shards.fd_table, &host.private_refused) {
        let problem = error("fd_table", format!("no shard can have a descriptor table of its own: {refusal}"));
        problems.push(problem.accepted("shared, auto").help(ALLOW));
    }
    if settings.redis.urls().any(redis_url::lacks_password) {
        let problem = Problem::warning(origin("redis"), "redis", "it names a user and no password, so nobody is logged in");
        problems.push(problem.help("a password alone is written redis://:PASSWORD@host, with a colon before it"));
    }
    if settings.redis.subscribe == RedisSubscribe::Pattern && settings.redis.prefix.contains(['*', '?', '[', ']', '\\']) {
        let message = format!("{:?} holds a character that a Redis pattern gives a meaning", settings.redis.prefix);
        problems.push(error("prefix", message).help("choose another prefix, or redis_subscribe = \"exact\""));
    }
    problems.extend(check_placement(settings, origin));
    // Such a channel would have two names for clients.
    if let Some(name) =
        settings.redis.channels.iter().find(|name| !settings.redis.prefix.is_empty() && name.starts_with(&settings.redis.prefix))
    {
        let message = format!("{name:?} begins with the prefix {:?}, so it is served already", settings.redis.prefix);
        problems.push(error("redis_channel", message).accepted("Redis channels outside the prefix"));
    }

    let RedisTls { ca, cert, key } = &settings.redis.tls();
    let is_over_tls = settings.redis.urls().any(|url| url.starts_with("rediss"));
    if let Some((setting, _)) =
        [("redis_ca", ca), ("redis_cert", cert), ("redis_key", key)].iter().find(|(_, file)| file.is_some()).filter(|_| !is_over_tls)
    {
        let problem = error(setting, "it is for a Redis over TLS, and redis is no rediss:// URL".to_owned());
        problems.push(problem.help("write rediss:// if the server speaks TLS there, or leave it out"));
    }
    if let (Some(_), None, missing, there) | (None, Some(_), there, missing) = (cert, key, "redis_key", "redis_cert") {
        problems.push(error(there, format!("it is of no use without {missing}")).help("give both, or neither"));
    }
    if settings.redis.url.is_some() && settings.journal.data_dir.is_some() {
        let problem = error("data_dir", "with redis it is Redis that keeps the messages of durable channels".to_owned());
        problems.push(problem.help("leave out data_dir, or redis: then the embedded bus keeps them there"));
    }
    problems.extend(check_durable(settings, origin, rule_origin));
    problems.extend(check_members(settings, origin, rule_origin));

    let logs = std::iter::once((None, &settings.channels.default))
        .chain(settings.channels.tables.iter().map(|(selector, rule)| (Some(selector), rule)));
    for (selector, rule) in logs {
        let (key, origin) = match selector {
            None => ("log_bytes_per_channel", origin("log_bytes_per_channel")),
            Some(selector) => ("channels.log_bytes", rule_origin(selector, "log_bytes_per_channel")),
        };
        // A table that inherits its log inherits the message about it.
        if selector.is_some() && rule.log_bytes == settings.channels.default.log_bytes {
            continue;
        }
        let log = show_size(rule.log_bytes as u64);
        if rule.log_bytes > settings.log_bytes_of_shard() {
            let total = show_share(settings.bounds.log_bytes_total, settings.shards.count);
            let message = format!("one channel's log ({log}) is larger than all logs of a shard together (log_bytes_total, {total})");
            problems.push(Problem::error(origin, key, message));
        } else if rule.log_bytes < settings.bounds.payload_bytes_max {
            let payload = show_size(settings.bounds.payload_bytes_max as u64);
            let message = format!("a payload may be larger ({payload}) than the log it goes through ({log})");
            let help = "such a payload overruns every subscriber that does not take it at once";
            problems.push(Problem::warning(origin, key, message).help(help));
        }
    }
    if let Share::Count(count) = settings.bounds.channels_per_address
        && count < settings.bounds.subscriptions_max
    {
        let subscriptions = settings.bounds.subscriptions_max;
        let message =
            format!("an address may have fewer channels ({count}) than one of its connections (subscriptions_max, {subscriptions})");
        let origin = origin("channels_per_address");
        problems.push(Problem::warning(origin, "channels_per_address", message).help("raise it, or lower subscriptions_max"));
    }
    if settings.bounds.buffer_bytes_total / settings.shards.count < settings.bounds.message_bytes_max {
        let message = format!(
            "the buffers of a shard's connections together ({}) do not hold one message (message_bytes_max, {})",
            show_share(settings.bounds.buffer_bytes_total, settings.shards.count),
            show_size(settings.bounds.message_bytes_max as u64)
        );
        problems.push(error("buffer_bytes_total", message));
    }
    problems
}

/// Of several servers, Clusters, and sharded Pub/Sub.
fn check_placement(settings: &Settings, origin: &dyn Fn(&str) -> Origin) -> Vec<Problem> {
    let redis = &settings.redis;
    let mut problems = Vec::new();
    let is_cluster = redis.urls().any(|url| redis_url::seeds(url).is_some());
    if is_cluster && !redis.beside.is_empty() {
        let problem = Problem::error(origin("redis"), "redis", "a Cluster stands beside other servers");
        problems.push(problem.help("give the Cluster alone; it divides the channels among its masters"));
    }
    if redis.pubsub_from == PubSubFrom::Replica && redis.url.is_some() && !is_cluster {
        let problem = Problem::error(origin("pubsub_from"), "pubsub_from", "only a Redis Cluster says which replicas its masters have");
        problems.push(problem.help("name nodes of a Cluster (redis = \"redis+cluster://HOST:PORT\"), or leave pubsub_from = \"master\""));
    }
    let is_sharded = redis.pubsub == PubSub::Sharded && redis.url.is_some();
    if (is_cluster || is_sharded) && redis.prefix.contains('{') {
        let message = format!("{:?} holds a {{, so that a channel's name would not have the channel's hash slot", redis.prefix);
        problems.push(Problem::error(origin("prefix"), "prefix", message).help("choose a prefix without"));
    }
    if is_sharded && redis.subscribe == RedisSubscribe::Pattern {
        let problem = Problem::error(origin("pubsub"), "pubsub", "sharded Pub/Sub of Redis has no patterns");
        problems.push(problem.help("set redis_subscribe = \"exact\", or pubsub = \"classic\""));
    }
    if is_sharded && let Some(name) = redis.channels.iter().find(|name| name.contains(['{', '}', '%'])) {
        let message = format!("with pubsub = \"sharded\", {name:?} would have another hash slot than its channel");
        problems.push(Problem::error(origin("redis_channel"), "redis_channel", message).help("names without {, } and %"));
    }
    if is_sharded && let Some(name) = redis.channels.iter().find(|name| settings.channels.of(name).durable) {
        let message = format!("with pubsub = \"sharded\", a durable channel cannot lie outside the prefix, and {name:?} is one");
        problems.push(Problem::error(origin("redis_channel"), "redis_channel", message).help("leave it out of redis_channel"));
    }
    problems
}

/// Of channels whose messages are kept.
fn check_durable(settings: &Settings, origin: &dyn Fn(&str) -> Origin, rule_origin: &dyn Fn(&Selector, &str) -> Origin) -> Option<Problem> {
    let default = &settings.channels.default;
    let (key, origin, rule) = if default.durable {
        ("durable", origin("durable"), default)
    } else {
        let (selector, rule) = settings.channels.tables.iter().find(|(_, rule)| rule.durable)?;
        ("channels.durable", rule_origin(selector, "durable"), rule)
    };
    if rule.history_count == 0 {
        let problem = Problem::error(origin, key, "a durable channel keeps no message, with history_count = 0");
        return Some(problem.help("set history_count beside it: how many messages each channel keeps"));
    }
    settings.redis.url.as_ref()?;
    crate::config::redis_url::check_durable_prefix(&settings.redis.prefix).err().map(|message| Problem::error(origin, key, message))
}

/// Who is listed must be counted.
fn check_members(settings: &Settings, origin: &dyn Fn(&str) -> Origin, rule_origin: &dyn Fn(&Selector, &str) -> Origin) -> Option<Problem> {
    let is_odd = |rule: &ChannelRule| rule.presence_members > 0 && !rule.presence;
    let (key, origin) = if is_odd(&settings.channels.default) {
        ("presence_members", origin("presence_members"))
    } else {
        let (selector, _) = settings.channels.tables.iter().find(|(_, rule)| is_odd(rule))?;
        ("channels.presence_members", rule_origin(selector, "presence_members"))
    };
    let problem = Problem::error(origin, key, "nobody is listed where subscribers are not counted");
    Some(problem.help("set presence = true beside it, or presence_members = 0"))
}

/// A total as the shards get it.
fn show_share(total: usize, shards: usize) -> String {
    let total = show_size(total as u64);
    if shards == 1 { total } else { format!("{total} for {shards} shards") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listen_url;
    use crate::listen::listed;

    fn found(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut settings = Settings::default();
        change(&mut settings);
        let host = Host { cores: vec![0, 1], descriptors_soft: 1024, descriptors_hard: 1024, private_refused: None };
        check(&settings, &host, &|_| Origin::Default, &|_, _| Origin::Default).iter().map(Problem::to_string).collect()
    }

    /// The only problem.
    fn one(change: impl FnOnce(&mut Settings)) -> String {
        let found = found(change);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn the_defaults_fit() {
        assert_eq!(found(|_| ()), [""; 0]);
    }

    fn address(text: &str) -> Address {
        crate::config::listen_url::control(text).unwrap()
    }

    #[test]
    fn proxies_must_be_named_where_they_are_awaited() {
        let proxied =
            |text: &'static str| move |settings: &mut Settings| settings.addresses.listen = vec![listen_url::listener(text).unwrap()];
        let told = one(proxied("proxy+tcp://127.0.0.1:1"));
        assert!(told.contains("as no proxy is trusted: proxy+tcp://127.0.0.1:1\n"), "{told}");
        assert_eq!(found(proxied("proxy+unix:///s")), [""; 0]);
        let both = |settings: &mut Settings| {
            settings.addresses.listen = vec![listen_url::listener("unix:///s").unwrap()];
            settings.addresses.control = address("unix:///s?mode=660");
        };
        assert!(one(both).contains("are the same"));
    }

    #[test]
    fn addresses_must_differ() {
        assert!(one(|settings| settings.addresses.listen.clear()).contains("no address is left"));
        assert!(one(|settings| settings.addresses.control = settings.addresses.listen[0].address.clone()).contains("are the same"));
        assert!(
            one(|settings| {
                settings.addresses.control = address("0.0.0.0:8080");
                settings.addresses.control_token = Some("0123456789abcdef".to_owned());
            })
            .contains("are the same")
        );
        let open = one(|settings| settings.addresses.control = address("0.0.0.0:9090"));
        assert!(open.starts_with("error: control: ") && open.contains("CAMPANILE_CONTROL_TOKEN"), "{open}");
        for fine in ["127.0.0.2:1", "[::1]:1", "unix:///s"] {
            assert_eq!(found(|settings| settings.addresses.control = address(fine)), [""; 0], "{fine}");
        }
        assert_eq!(
            found(|settings| {
                settings.addresses.control = address("192.0.2.1:1");
                settings.addresses.control_token = Some("0123456789abcdef".to_owned());
            }),
            [""; 0]
        );
        assert!(one(|settings| settings.addresses.listen = listed(&["127.0.0.1:8080", "0.0.0.0:8080"])).contains("same port"));
        assert!(one(|settings| settings.addresses.listen = listed(&["127.0.0.1:8080", "[::]:8080"])).contains("[::] takes IPv4 as well"));
        assert!(one(|settings| settings.addresses.listen = listed(&["[::]:9090"])).contains("[::] takes IPv4 as well"));
        assert_eq!(
            found(|settings| settings.addresses.listen = listed(&["0.0.0.0:8080", "[::]:8080", "[::1]:80", "127.0.0.1:80"])).len(),
            0
        );
        assert_eq!(
            found(|settings| {
                settings.addresses.listen = listed(&["127.0.0.1:0"]);
                settings.addresses.control = address("127.0.0.1:0");
            })
            .len(),
            0
        );
    }

    #[test]
    fn what_a_cluster_or_sharded_messages_cannot_have_is_refused() {
        let cluster = |settings: &mut Settings| settings.redis.url = Some("redis+cluster://h:1,i:2".to_owned());
        let sharded = |settings: &mut Settings| {
            cluster(settings);
            settings.redis.pubsub = PubSub::Sharded;
        };
        assert!(found(cluster).is_empty() && found(sharded).is_empty(), "{:?}{:?}", found(cluster), found(sharded));
        let beside = one(|settings| {
            cluster(settings);
            settings.redis.beside = vec!["redis://j".to_owned()];
        });
        assert!(beside.contains("the Cluster alone"), "{beside}");
        let from = one(|settings| {
            settings.redis.url = Some("redis://h:1".to_owned());
            settings.redis.pubsub_from = PubSubFrom::Replica;
        });
        assert!(from.contains("redis+cluster://HOST:PORT"), "{from}");
        let lone = one(|settings| settings.redis.url = Some("redis+cluster://secret@h:1,i:2".to_owned()));
        assert!(lone.contains("redis://:PASSWORD@host") && !lone.contains("secret"), "{lone}");
        for (change, words) in [
            ((|settings| settings.redis.prefix = "a{b}:".to_owned()) as fn(&mut Settings), "hash slot"),
            (|settings| settings.redis.subscribe = RedisSubscribe::Pattern, "no patterns"),
            (|settings| settings.redis.channels = vec!["a{b".to_owned()], "another hash slot"),
            (|settings| (settings.channels.default.durable, settings.channels.default.history_count) = (true, 1), "outside the prefix"),
        ] {
            let problem = one(|settings| {
                sharded(settings);
                change(settings);
            });
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn redis_names_must_be_usable() {
        let lone = one(|settings| settings.redis.url = Some("redis://secret@h".to_owned()));
        assert!(lone.starts_with("warning: redis: ") && lone.contains("redis://:PASSWORD@host") && !lone.contains("secret"), "{lone}");
        assert!(one(|settings| settings.redis.channels = vec!["notifications:a".to_owned()]).contains("served already"));
        assert_eq!(found(|settings| settings.redis.prefix = "a*".to_owned()).len(), 0);
        let pattern = |settings: &mut Settings| {
            settings.redis.prefix = "a*".to_owned();
            settings.redis.subscribe = RedisSubscribe::Pattern;
        };
        assert!(one(pattern).contains("a Redis pattern"));
    }

    #[test]
    fn messages_are_kept_in_one_place() {
        let both = |settings: &mut Settings| {
            settings.redis.url = Some("redis://127.0.0.1:1".to_owned());
            settings.journal.data_dir = Some("/var/lib/campanile".into());
        };
        assert!(one(both).starts_with("error: data_dir: "));
        let durable = |history_count: usize| {
            move |settings: &mut Settings| {
                settings.channels.default.durable = true;
                settings.channels.default.history_count = history_count;
            }
        };
        assert_eq!(found(durable(1)), [""; 0]);
        assert!(one(durable(0)).contains("history_count = 0"));
    }

    #[test]
    fn who_is_listed_is_counted() {
        let listed = |presence: bool| {
            move |settings: &mut Settings| {
                (settings.channels.default.presence, settings.channels.default.presence_members) = (presence, 10);
            }
        };
        assert_eq!(found(listed(true)), [""; 0]);
        assert!(one(listed(false)).contains("presence = true"));
    }

    #[test]
    fn bounds_must_hold_each_other() {
        assert!(one(|settings| settings.bounds.log_bytes_total = 1 << 16).starts_with("error: log_bytes_per_channel"));
        assert!(one(|settings| settings.channels.default.log_bytes = 1 << 16).starts_with("warning: log_bytes_per_channel"));
        assert!(one(|settings| settings.bounds.channels_per_address = Share::Count(127)).starts_with("warning: channels_per_address"));
        assert!(one(|settings| settings.bounds.buffer_bytes_total = 1024).starts_with("error: buffer_bytes_total"));
        let shares = |log_bytes_total, buffer_bytes_total| {
            move |settings: &mut Settings| {
                (settings.shards.count, settings.bounds.log_bytes_total, settings.bounds.buffer_bytes_total) =
                    (4, log_bytes_total, buffer_bytes_total);
            }
        };
        assert_eq!(found(shares(4 << 20, 4 << 16)), [""; 0]);
        assert!(one(shares((4 << 20) - 4, 4 << 16)).starts_with("error: log_bytes_per_channel"));
        assert!(one(shares(4 << 20, (4 << 16) - 4)).contains("for 4 shards) do not hold one message"));
        assert!(one(|settings| settings.shards.pin = Pin::List(vec![0, 2])).contains("core 2 is not"));
    }
}
