//! A Redis (or something before it) that closes connections which are silent for too long.

use std::io::Read;
use std::net::TcpStream;

use crate::bench::{Bench, settings};
use crate::support::{PATIENCE, RedisServer};

// A timeout of 3 s: a PING comes each 1.5 s, and this thread may well sleep for the rest on a busy machine.

/// Returns when Redis has closed a connection that was made now and says nothing: whoever else was silent was closed before.
fn until_the_silent_are_closed(redis: &RedisServer) {
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(stream.read(&mut [0; 16]).expect("the end, within our patience"), 0);
}

#[test]
fn a_timeout_that_redis_tells_costs_no_connection() {
    let redis = RedisServer::with_arguments(&["--timeout", "3"]);
    for protocol in ["resp3", "resp2"] {
        let mut bench = Bench::new(settings(Some(format!("{}/?protocol={protocol}", redis.url()))));
        bench.wait_ready(true);
        bench.publish("nobody", b"opens the other connection").unwrap();
        until_the_silent_are_closed(&redis);
        assert_eq!((bench.metrics.connects.get(), bench.metrics.disconnects.get()), (2, 0), "{protocol}");
    }
}

#[test]
fn a_timeout_that_is_not_told_is_learned() {
    let redis = RedisServer::with_arguments(&["--timeout", "3", "--rename-command", "CONFIG", ""]);
    let mut bench = Bench::new(settings(Some(redis.url())));
    bench.wait_ready(true);
    bench.wait("the end of the silence", |bench| bench.metrics.disconnects.get() == 1);
    bench.wait_ready(true);
    until_the_silent_are_closed(&redis);
    assert_eq!((bench.metrics.connects.get(), bench.metrics.disconnects.get(), bench.metrics.ready.get()), (2, 1, 1));
}
