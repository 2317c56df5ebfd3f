//! Scenarios with channels and tenants that are held to less than is published.

use super::run;

/// However much is published, whoever wants five a second is sent five a second, and told of the others.
#[test]
fn a_rate_is_asked_for_and_kept() {
    let arguments = ["broadcast", "--serve", "--shards 2", "-n", "100", "--rate", "200", "--messages", "400", "--max-rate", "5"];
    let json = run(&arguments).passes();
    let (messages, announced) = (&json["messages"], json["checks"]["announced"].as_u64().unwrap());
    let (delivered, seconds) = (messages["delivered"].as_u64().unwrap(), messages["seconds"].as_f64().unwrap());
    assert!(delivered as f64 <= 100.0 * (5.0 * seconds + 2.0) && delivered >= 500, "{delivered} in {seconds} s");
    assert_eq!(delivered + announced, 40_000, "each was sent or announced");
}

#[test]
fn tenants_are_measured_beside_one_that_takes_more() {
    let serve = "--shards 1 --config benches/fair.toml";
    let json = run(&["fair", "--serve", serve, "-n", "100", "--rate", "1000", "--messages", "1000", "--pairs", "2"]).passes();
    let fair = &json["fair"];
    assert_eq!((&fair["tenants"], fair["p99_us_modest"].as_array().unwrap().len()), (&10.into(), 2));
    assert!(fair["p99_ratio"]["median"].as_f64().unwrap() > 0.0 && fair["p99_us_greedy"][1].as_f64().unwrap() > 0.0);
}
