//! The bus thread against a real `redis-server`, with inboxes in place of shards: subscribe, publish, kill, pause, log in.

mod bench;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/certificates.rs"]
mod certificates;
mod durable;
mod fake;
mod login;
mod outages;
mod probing;
mod publishing;
mod refusals;
mod routing;
mod servers;
mod silence;
#[path = "../support/redis.rs"]
mod support;
mod tls;
mod traffic;
