//! Crowds that come, go, return, stall, or never get in, beside clients that must not feel it.

use crate::run;

#[test]
fn a_crowd_arrives_beside_clients() {
    for tls in [&[][..], &["--tls"]] {
        let arguments =
            ["arrivals", "--serve", "--shards 1", "-n", "400", "--stay", "20", "--pairs", "2", "--rate", "100", "--messages", "20"];
        let json = run(&[&arguments[..], tls].concat()).passes();
        assert_eq!(json["connect"]["ready"], 380);
        assert_eq!(json["arrivals"]["seconds"].as_array().unwrap().len(), 2);
        assert!(json["arrivals"]["p99_ratio"]["median"].as_f64().unwrap() > 0.0 && json["messages"]["delivered"].as_u64().unwrap() >= 40);
    }
    let ran = run(&["arrivals", "-n", "10", "--stay", "10"]);
    assert!(ran.code() == 2 && ran.stderr().contains("leaves none to arrive"), "{}", ran.stderr());
}

#[test]
fn handshakes_that_never_end_are_held_beside_clients() {
    let arguments =
        ["handshakes", "--serve", "--shards 1 --handshake-timeout 2", "-n", "50", "--handshakes", "300", "--handshake-rate", "1000"];
    let json = run(&[&arguments[..], &["--rate", "50", "--messages", "150"]].concat()).passes();
    let of = |what: &str| json["handshakes"][what].as_u64().unwrap();
    assert!(of("open") > 0 && of("begun") > 300 && of("closed") > 0 && of("answered") > 0, "{}", json["handshakes"]);
    assert!(of("healthz_answers") > 0 && of("healthz_failures") == 0 && of("memory_bytes_most") > 0, "{}", json["handshakes"]);
}

#[test]
fn clients_come_and_go() {
    let json = run(&["churn", "--serve", "--shards 2", "-n", "300", "--churn", "50", "--rate", "50", "--messages", "100"]).passes();
    assert!(json["churn"]["replaced"].as_u64().unwrap() > 100);
}

#[test]
fn slow_clients_are_reported_apart() {
    // The log holds four seconds of what is sent in six: those who read may be held up for so long, those who do not are overrun.
    let serve = "--shards 1 --log-bytes-per-channel 4M --close-timeout 1";
    let slow = ["slow", "--serve", serve, "-n", "200", "--never", "10", "--slow", "5"];
    let arguments = [&slow[..], &["--payload", "50000", "--rate", "20", "--messages", "120"]].concat();
    let json = run(&arguments).passes();
    assert!((25..=35).contains(&json["slow"]["slow_clients"].as_u64().unwrap()), "{}", json["slow"]);
    assert!(json["slow"]["p99_ratio"].as_f64().unwrap() > 0.0);
    assert!(json["checks"]["slow_closed"].as_u64().unwrap() > 0, "{}", json["checks"]);
}

#[test]
fn a_storm_loses_nothing_with_history_and_is_a_failure_without() {
    // They are back half a second after they have dropped, in which messages come: whoever is not the first misses some.
    let arguments = ["storm", "-n", "100", "--connect-rate", "200", "--rate", "1000", "--messages", "2000", "--serve"];
    let json = run(&[&arguments[..], &["--shards 2 --history-count 2000"]].concat()).passes();
    let without = run(&[&arguments[..], &["--shards 2", "--patience", "5"]].concat());
    without.fails("recovered: false");
    assert_eq!((&json["storm"]["healthz_failures"], &json["messages"]["delivered"]), (&0.into(), &200_000.into()));
    assert!(json["storm"]["back_seconds"].as_f64().unwrap() > 0.0);
}
