//! How far users have read, for back ends.

use serde_json::json;

use super::{Options, Server};

#[test]
fn marks_are_set_and_counts_are_told() {
    let server = Server::start(Options::default());
    let answer = server.post("/mark_read", r#"{"user": "u", "channel": "feed", "seq": 7, "epoch": 77}"#);
    assert_eq!((answer.status, answer.json()), (200, json!({"user": "u", "channel": "feed", "epoch": 77, "seq": 7})));
    let answer = server.get("/unread?user=u&channel=feed&channel=none&channel=feed");
    let feed = json!({"channel": "feed", "epoch": 77, "last": 9, "read": 7, "unread": 2});
    let none = json!({"channel": "none", "epoch": null, "last": 0, "read": 0, "unread": 0});
    assert_eq!((answer.status, answer.json()), (200, json!({"user": "u", "channels": [feed, none, feed]})));
}

#[test]
fn what_goes_wrong_with_them_has_a_status_and_words() {
    let server = Server::start(Options::default());
    for (channel, status, words) in [
        ("plain", 400, "the channel plain is not durable"),
        ("renewed", 409, "nothing was marked"),
        ("forbidden", 502, "Redis refused it: NOPERM"),
        ("away", 503, "Redis cannot be reached"),
        ("stalled", 504, "within 4 seconds: it did not answer"),
    ] {
        for answer in [
            server.post("/mark_read", json!({"user": "u", "channel": channel, "seq": 7}).to_string()),
            server.get(&format!("/unread?user=u&channel=feed&channel={channel}")),
        ] {
            assert_eq!(answer.status, status, "{}", answer.body);
            assert!(answer.json()["error"].as_str().unwrap().contains(words), "{}", answer.body);
        }
    }
    let full = Server::start(Options { inbox_capacity: 0, ..Options::default() });
    let answer = full.get("/unread?user=u&channel=feed");
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
}

#[test]
fn what_is_not_accepted_is_told_what_is() {
    let server = Server::start(Options::default());
    for body in [
        "",
        "{}",
        r#"{"user": "u", "channel": "feed"}"#,
        r#"{"user": "", "channel": "feed", "seq": 1}"#,
        r#"{"user": "u\n", "channel": "feed", "seq": 1}"#,
        r#"{"user": "u", "channel": "", "seq": 1}"#,
        r#"{"user": "u", "channel": "feed", "seq": -1}"#,
        r#"{"user": "u", "channel": "feed", "seq": 9007199254740992}"#,
        r#"{"user": "u", "channel": "feed", "seq": 1, "epoch": 9007199254740992}"#,
        r#"{"user": "u", "channel": "feed", "seq": 1, "more": 1}"#,
        r#"["u", "feed", 1]"#,
    ] {
        let answer = server.post("/mark_read", body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        assert!(answer.json()["accepted"].as_str().unwrap().contains("\"user\": NAME"), "{}", answer.body);
    }
    let many = "&channel=feed".repeat(129);
    for query in [
        "",
        "?user=u",
        "?channel=feed",
        "?user=u&user=v&channel=feed",
        "?user=u&channel=feed&limit=1",
        "?user=%0A&channel=feed",
        "?user=u&channel=",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("?user=u{many}")])
    {
        let answer = server.get(&format!("/unread{query}"));
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        assert!(answer.json()["accepted"].as_str().unwrap().contains("1 to 128 times channel=NAME"), "{}", answer.body);
    }
}
