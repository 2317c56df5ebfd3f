//! Messages of one Redis channel that go to the channels they name themselves.

use campanile::bus::question::{PublishError, Published};
use campanile::config::routes::{FieldPath, Template, Unrouted};
use campanile::config::{RedisSubscribe, Route, Settings};

use crate::bench::{Bench, settings};
use crate::support::RedisServer;

fn routed(redis: Option<String>) -> Settings {
    let route = |from: &str, field: &str, to: &str, otherwise: Option<&str>| Route {
        from: from.into(),
        field: FieldPath::read(field).unwrap(),
        to: Template::read(to).unwrap(),
        otherwise: otherwise.map(Into::into),
    };
    let routes = vec![
        route("notifications", "user_id", "user:{}", None),
        route("orders", "buyer.id", "user:{}", Some("orders")),
        route("user:circle", "user_id", "user:{}", None),
    ];
    settings(redis).with(|settings| settings.routes = routes)
}

#[test]
fn a_message_goes_where_it_says_and_nowhere_else() {
    for subscribe in [RedisSubscribe::Exact, RedisSubscribe::Pattern] {
        let redis = RedisServer::start();
        let mut bench = Bench::new(routed(Some(redis.url())).with(|settings| settings.redis.subscribe = subscribe));
        bench.wait_ready(true);
        for (index, channel) in ["user:1", "user:2", "notifications", "orders", "user:circle"].into_iter().enumerate() {
            bench.join(index as u32, channel);
            bench.wait_for(index as u32, &["joined@0"]);
        }
        let mut publisher = redis.publisher();
        let to = |ids: &str| format!(r#"{{"user_id":{ids}}}"#);
        publisher.publish("notifications", to("\"1\"").as_bytes());
        publisher.publish("notifications", to("[2,1,\"nobody here\"]").as_bytes());
        publisher.publish("notifications", to("\"nobody here\"").as_bytes());
        publisher.publish("notifications", b"no map");
        publisher.publish("notifications", to("{}").as_bytes());
        publisher.publish("notifications", format!(r#"{{"user_id":{:?}}}"#, (0..100_000).collect::<Vec<_>>()).as_bytes());
        publisher.publish("notifications:orders", br#"{"buyer":{"id":1}}"#);
        publisher.publish("notifications:orders", b"for whoever looks at all of them");
        publisher.publish("notifications", to("\"circle\"").as_bytes());
        publisher.publish("notifications:user:1", b"straight");
        let (one, both) = ("m:{\"user_id\":\"1\"}#1", "m:{\"user_id\":[2,1,\"nobody here\"]}");
        bench.wait_for(0, &["joined@0", one, &format!("{both}#2"), "m:{\"buyer\":{\"id\":1}}#3", "m:straight#4"]);
        bench.wait_for(1, &["joined@0", &format!("{both}#1")]);
        bench.wait_for(3, &["joined@0", "m:for whoever looks at all of them#1"]);
        // Routed once: it stays in a channel that has a route of its own.
        bench.wait_for(4, &["joined@0", "m:{\"user_id\":\"circle\"}#1"]);
        assert_eq!(bench.words(2), ["joined@0"], "none of its messages names it");
        let metrics = &bench.metrics;
        assert_eq!((metrics.messages.get(), metrics.routed.get(), metrics.unwanted.get()), (10, 6, 1));
        assert_eq!(Unrouted::ALL.map(|reason| metrics.unrouted[reason as usize].get()), [1, 1, 1]);
    }
}

#[test]
fn a_channel_with_a_route_is_always_subscribed() {
    let mut redis = RedisServer::start();
    let mut bench = Bench::new(routed(Some(redis.url())));
    bench.wait_ready(true);
    assert!(redis.is_subscribed("notifications") && redis.is_subscribed("notifications:orders"));
    bench.join(1, "notifications");
    bench.join(2, "user:1");
    bench.wait_for(1, &["joined@0"]);
    bench.wait_for(2, &["joined@0"]);
    bench.leave(1, "notifications");
    bench.wait("the end of the linger", |bench| bench.metrics.channels.get() == 1);
    bench.join(3, "notifications");
    bench.wait_for(3, &["joined@0"]);
    redis.publisher().publish("notifications", br#"{"user_id":1}"#);
    bench.wait_for(2, &["joined@0", "m:{\"user_id\":1}#1"]);
    redis.kill();
    bench.wait_ready(false);
    redis.restart();
    // Whoever has the channels is told of the outage as ever, and then what is routed comes.
    bench.wait_ready(true);
    bench.wait("the gap", |bench| bench.words(2).len() == 3);
    redis.publisher().publish("notifications", br#"{"user_id":1}"#);
    bench.wait_for(2, &["joined@0", "m:{\"user_id\":1}#1", "gap#2..3", "m:{\"user_id\":1}#3"]);
    // One that is published here comes back by the same way, and has no number of its own.
    assert_eq!(bench.publish("notifications", br#"{"user_id":1,"x":2}"#), Ok(Published::NOWHERE));
    bench.wait("it", |bench| bench.words(2).len() == 5);
}

#[test]
fn the_embedded_bus_routes_as_well() {
    let mut settings = routed(None);
    settings
        .channels
        .tables
        .push(("user:kept".into(), campanile::config::ChannelRule { history_count: 10, ..settings.channels.default.clone() }));
    let mut bench = Bench::new(settings);
    bench.wait_ready(true);
    bench.join(1, "user:1");
    bench.wait_for(1, &["joined@0"]);
    assert_eq!(bench.publish("notifications", br#"{"user_id":["1","kept","x"]}"#), Ok(Published::NOWHERE));
    assert_eq!(bench.publish("notifications", b"x"), Err(PublishError::Unrouted(Unrouted::NoField)));
    bench.wait_for(1, &["joined@0", "m:{\"user_id\":[\"1\",\"kept\",\"x\"]}#1"]);
    // History is kept for whoever comes later.
    bench.join(2, "user:kept");
    bench.wait("the history", |bench| bench.words(2).len() == 2);
    // However many are published at once, nothing is lost for one that goes to many.
    let ids: Vec<u32> = (0..1000).collect();
    let payload = format!(r#"{{"user_id":{ids:?},"pad":"{}"}}"#, "x".repeat(400));
    let later: Vec<_> = (0..300).map(|_| bench.publish_later("notifications", payload.as_bytes())).collect();
    assert!(later.into_iter().all(|result| result() == Ok(Published::NOWHERE)));
    bench.wait("all of them", |bench| bench.words(1).len() == 302);
}
