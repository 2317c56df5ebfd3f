//! Scenarios with durable channels: whatever breaks, nothing is missing.

use super::{directory, run};

#[test]
fn nothing_is_lost_whatever_breaks() {
    for (breaks, every) in [("pubsub", "0.3"), ("redis", "1.5"), ("server", "1.5")] {
        let arguments = ["outages", "--serve", "--shards 2", "-n", "60", "--channels", "6", "--breaks", breaks, "--every", every];
        let json = run(&[&arguments[..], &["--rate", "500", "--messages", "2000", "--patience", "30"]].concat()).passes();
        assert!(json["outages"]["count"].as_u64().unwrap() > 0, "{breaks}: {}", json["outages"]);
        assert_eq!((&json["messages"]["published"], &json["messages"]["delivered"]), (&2000.into(), &20_000.into()), "{breaks}");
    }
}

#[test]
fn nothing_is_lost_when_masters_are_replaced() {
    for breaks in ["master", "node"] {
        let arguments = ["outages", "--serve", "--shards 2", "-n", "60", "--channels", "6", "--breaks", breaks, "--every", "2"];
        let json = run(&[&arguments[..], &["--rate", "500", "--messages", "2000"]].concat()).passes();
        assert!(json["outages"]["count"].as_u64().unwrap() > 0, "{breaks}: {}", json["outages"]);
        let again = json["checks"]["again"].as_u64().unwrap();
        assert_eq!(json["messages"]["delivered"], 20_000 + again, "{breaks}: {}", json["checks"]);
    }
}

#[test]
fn a_folder_stands_beside_memory() {
    let folder = directory();
    let serve = "--shards 1 --allow-client-publish --commands-per-second none";
    let arguments =
        ["publishers", "--serve", serve, "-n", "4", "--messages", "2000", "--pairs", "2", "--data-dir", folder.to_str().unwrap()];
    let ran = run(&arguments);
    assert_eq!(ran.code(), 0, "{}{}", ran.stdout(), ran.stderr());
    assert_eq!(ran.json["data_dir"]["per_second"].as_array().unwrap().len(), 2);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "what was made is gone");
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn what_was_missed_is_repaired_and_what_was_subscribed_is_again() {
    let arguments = ["repair", "--serve", "--shards 2", "-n", "40", "--patience", "30", "--pairs", "2"];
    let json = run(&[&arguments[..], &["--channels", "40", "--missed", "20"]].concat()).passes();
    assert_eq!(json["repair"]["repaired_seconds"].as_array().unwrap().len(), 2);
    for cluster in [&[][..], &["--cluster"]] {
        let many = ["--channels", "4000", "--channels-per-client", "100", "--missed", "0"];
        let json = run(&[&arguments[..], &many, cluster].concat()).passes();
        assert_eq!(json["repair"]["subscribed_seconds"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn who_was_away_gets_what_it_missed() {
    let arguments = [
        "return",
        "--serve",
        "--shards 2",
        "-n",
        "150",
        "--stay",
        "50",
        "--channels",
        "2",
        "--missed",
        "100",
        "--rate",
        "20",
        "--pairs",
        "2",
    ];
    let json = run(&arguments).passes();
    let found = &json["return"];
    assert_eq!((&found["clients"], &found["missed"]), (&100.into(), &100.into()));
    // However many ask for a page, it is read once: 100 messages are a handful of pages of each channel.
    assert!(found["redis_reads"].as_u64().unwrap() <= 20, "{found}");
    assert_eq!(found["p99_ratios"].as_array().unwrap().len(), 2);
}

#[test]
fn durable_channels_stand_beside_plain_ones() {
    let arguments = ["broadcast", "--serve", "--shards 1", "-n", "20", "--redis", "own", "--durable", "--beside-open"];
    let json = run(&[&arguments[..], &["--rate", "100", "--messages", "50", "--pairs", "2"]].concat()).passes();
    assert_eq!(json["open"]["p50_us"].as_array().unwrap().len(), 2);
}

#[test]
fn what_cannot_be_is_told() {
    let cases: [(&[&str], &str); 6] = [
        (&["outages"], "give --serve ARGS"),
        (&["repair", "--serve", "", "--redis", "redis://127.0.0.1:1"], "leave --redis and --through away"),
        (&["outages", "--serve", "", "-n", "10", "--channels", "11"], "no more than as many channels"),
        (&["return", "--serve", "", "-n", "10", "--stay", "10"], "fewer than --channels 1 to come back"),
        (&["repair", "--serve", "", "--cluster"], "give --missed 0"),
        (&["broadcast", "--serve", "", "--durable"], "give --redis URL or --redis own"),
    ];
    for (arguments, why) in cases {
        let ran = run(arguments);
        assert_eq!(ran.code(), 2, "{arguments:?}: {}", ran.stderr());
        assert!(ran.stderr().contains(why), "{arguments:?}: {}", ran.stderr());
    }
}
