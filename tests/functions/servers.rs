//! What a server that is killed and comes back, with and without its files, does to numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use campanile::bus::redis::call_error::CallError;

use crate::{Channel, connect, load, server_with};

#[test]
fn killed_with_an_append_only_file_it_loses_nothing_that_it_answered() {
    let mut server = server_with(&["--appendonly", "yes"]);
    let news = Channel { count: 1_000_000, ..Channel::new("news") };
    let epoch = news.say(&mut connect(&server), "0").epoch;
    for round in 0..3 {
        let is_over = Arc::new(AtomicBool::new(false));
        let publishers: Vec<_> = (0..4)
            .map(|_| {
                let mut redis = connect(&server);
                let is_over = is_over.clone();
                std::thread::spawn(move || {
                    let mut last = 0;
                    // Until the server is gone.
                    while let Ok([_, _, number, _]) = redis::cmd("FCALL")
                        .arg(&["campanile_publish_1", "2", &news.stream(), &news.meta(), "PUBLISH", "n:news", "1000000", "300000", "0"])
                        .arg(format!("{last}"))
                        .query::<[u64; 4]>(&mut redis)
                    {
                        last = number;
                        is_over.fetch_or(number > 1000 * (round + 1), Ordering::Relaxed);
                    }
                    last
                })
            })
            .collect();
        crate::eventually("a thousand messages", || is_over.load(Ordering::Relaxed));
        server.kill();
        let answered = publishers.into_iter().map(|publisher| publisher.join().unwrap()).max().unwrap();
        server.restart();
        let mut redis = connect(&server);
        let entries = news.entries(&mut redis);
        let last = news.field(&mut redis, "n");
        assert!(last >= answered, "{last} {answered}");
        // Neither a hole nor a message that the hash does not know of.
        assert_eq!(entries.len() as u64, last);
        assert!(entries.iter().zip(1..).all(|((id, _), number)| *id == format!("{epoch}-{number}")));
        // The functions are in the file, too.
        let next = news.say(&mut redis, "next");
        assert_eq!((next.epoch, next.first), (epoch, last + 1));
    }
}

#[test]
fn killed_without_a_file_it_has_no_functions_and_then_another_epoch() {
    let mut server = crate::server();
    let news = Channel::new("news");
    let before = news.say(&mut connect(&server), "a");
    server.kill();
    server.restart();
    let mut redis = connect(&server);
    assert_eq!(CallError::of(&news.publish(&mut redis, &[b"b"]).unwrap_err()), CallError::NoFunction);
    load(&mut redis);
    let after = news.say(&mut redis, "b");
    assert!(after.epoch > before.epoch && after.first == 1, "{before:?} {after:?}");
}

#[test]
fn flushed_it_keeps_the_functions_and_begins_another_epoch() {
    let server = crate::server();
    let mut redis = connect(&server);
    let news = Channel::new("news");
    let before = news.say(&mut redis, "a");
    crate::ask(&mut redis, &["FLUSHALL"]).unwrap();
    let after = news.say(&mut redis, "b");
    assert!(after.epoch > before.epoch && after.first == 1, "{before:?} {after:?}");
}
