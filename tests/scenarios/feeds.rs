//! Event streams and polls: the same logs, read otherwise.

use std::time::Duration;

use campanile::bus::ShardMessage;
use campanile::config::Overrun;
use campanile::limits;
use serde_json::{Value, json};

use super::stage::{PLENTY, Stage, settings, settings_with};

const SECOND: Duration = Duration::from_secs(1);

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: sim\r\n{fields}\r\n")
}

fn ask(stage: &mut Stage, target: &str, fields: &str) -> usize {
    let client = stage.knock(&get(target, fields), PLENTY);
    stage.rig.shard.on_listener();
    stage.turns(4);
    client
}

/// An event stream of several channels, which is told where it stands.
fn stream(stage: &mut Stage, channels: &[&str], fields: &str) -> usize {
    let query: Vec<String> = channels.iter().map(|channel| format!("channel={channel}")).collect();
    let client = stage.knock(&get(&format!("/sse?{}", query.join("&")), fields), PLENTY);
    if channels.len() > 1 {
        let positions = fields.strip_prefix("Last-Event-ID: ").map_or(vec![], |id| id.trim_end().split(',').collect());
        let asked = &mut stage.clients[client];
        asked.streamed = channels.iter().map(|&channel| channel.to_owned()).collect();
        if positions.len() == channels.len() {
            asked.asked.clone_from(&asked.streamed);
            asked.resumed = asked.streamed.iter().cloned().zip(positions.into_iter().map(str::to_owned)).collect();
        }
    }
    stage.rig.shard.on_listener();
    stage.turns(4);
    client
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn an_event_stream_is_told_what_a_web_socket_is_told() {
    let mut stage = Stage::new(settings());
    let web_socket = stage.subscribers(1, "c")[0];
    let one = ask(&mut stage, "/sse/c", "");
    let several = stream(&mut stage, &["d", "c"], "");
    for _ in 0..5 {
        stage.publish("c", 10);
        stage.turns(2);
    }
    stage.lose("c", 3);
    stage.publish("c", 10);
    stage.publish("d", 10);
    stage.aside("c", 1, 10);
    stage.turns(3);
    assert_eq!(stage.messages(&[web_socket, one, several]), [6, 6, 7]);
    assert!([one, several].iter().all(|&client| stage.clients[client].gaps == 1 && stage.clients[client].asides.len() == 1));
    assert_eq!(stage.clients[one].last_event_id, "7:9");
    assert_eq!(stage.clients[several].last_event_id, "7:1,7:9");
    assert!((limits::RETRY_MS_MIN..limits::RETRY_MS_MIN + limits::RETRY_SPREAD_MS).contains(&stage.clients[one].retry_ms.unwrap()));
}

/// What the socket has taken in part is finished before the position is told, which counts it.
#[test]
fn a_position_is_right_however_little_the_socket_takes() {
    let mut stage = Stage::new(settings());
    let client = stream(&mut stage, &["a", "b", "refused", "c"], "");
    for round in 0..200 {
        stage.set_room(client, 0);
        for channel in ["a", "b", "c"] {
            stage.publish(channel, round);
        }
        stage.turn();
        stage.set_room(client, 40 + round);
        stage.turns(2);
        stage.add_room(client, 300);
        stage.turn();
        stage.set_room(client, PLENTY);
        stage.turns(3);
    }
    assert_eq!((stage.messages(&[client]), stage.closed()), (vec![600], vec![]));
    assert_eq!(stage.clients[client].last_event_id, "7:200,7:200,-,7:200");
    assert_eq!(stage.clients[client].errors.len(), 1);
}

/// It may be cut off again before the bus has answered, and then it comes back with what it was told last.
#[test]
fn a_position_outlives_a_bus_that_does_not_answer() {
    for id in ["7:1,-,7:3", "-,7:2,-"] {
        let mut stage = Stage::new(settings());
        let client = stage.knock(&get("/sse?channel=a&channel=b&channel=c", &format!("Last-Event-ID: {id}\r\n")), PLENTY);
        stage.rig.shard.on_listener();
        (0..4).for_each(|_| stage.turn_of_the_shard());
        let wires = stage.wires.borrow();
        let (one, other) = wires.pipes[client].to_client.as_slices();
        let told = String::from_utf8([one, other].concat()).unwrap();
        assert!(told.contains(&format!("event: position\nid: {id}\n")) && !told.contains("subscribed"), "{told}");
    }
}

#[test]
fn whoever_comes_back_goes_on_where_it_was() {
    let mut stage = Stage::new(settings().with(|settings| settings.channels.default.history_count = 100));
    let one = ask(&mut stage, "/sse/a", "");
    let several = stream(&mut stage, &["a", "b"], "");
    stage.publish("a", 10);
    stage.publish("b", 10);
    stage.turns(3);
    let ids = [one, several].map(|client| stage.clients[client].last_event_id.clone());
    assert_eq!(ids, ["7:1", "7:1,7:1"]);
    for client in [one, several] {
        stage.wires.borrow_mut().send_last(client, b"");
    }
    stage.turns(3);
    let stays = stage.subscribers(1, "a")[0];
    for _ in 0..3 {
        stage.publish("a", 10);
    }
    stage.turns(3);
    let again = ask(&mut stage, "/sse/a?since=7:0", "Last-Event-ID: 7:1\r\n");
    let in_query = ask(&mut stage, "/sse/a?last_event_id=7:3", "");
    let both = stream(&mut stage, &["a", "b"], "Last-Event-ID: 7:2,7:1\r\n");
    assert_eq!(stage.messages(&[stays, again, in_query, both]), [3, 3, 1, 2]);
    // What is no position of these channels is said to be none, and the stream begins all the same.
    for id in ["x", "7:1", "7:1,7:1,7:1", "7:1,7:1\r\nLast-Event-ID: 7:2,7:1"] {
        let client = stream(&mut stage, &["a", "b"], &format!("Last-Event-ID: {id}\r\n"));
        assert_eq!(stage.clients[client].errors.len(), 1, "{id}");
        assert_eq!((stage.messages(&[client]), stage.clients[client].subscriptions.len()), (vec![0], 2), "{id}");
    }
    let other_epoch = ask(&mut stage, "/sse/a", "Last-Event-ID: 6:1\r\n");
    assert_eq!(stage.messages(&[other_epoch]), [0]);
}

#[test]
fn a_stream_lives_by_its_socket_alone() {
    let mut stage = Stage::new(settings());
    let client = ask(&mut stage, "/sse/c", "");
    for _ in 0..20 {
        stage.pass(30 * SECOND);
        stage.turns(2);
    }
    assert!(stage.clients[client].beats >= 15 && stage.closed().is_empty(), "{} {:?}", stage.clients[client].beats, stage.closed());
    // It says no more: it is gone.
    stage.send_last(client, b"");
    stage.turns(3);
    assert_eq!(stage.closed(), [("gone", 1)]);
    // Whoever says more than its request has broken the protocol.
    let talker = ask(&mut stage, "/sse/c", "");
    stage.send(talker, b"GET /sse/c HTTP/1.1\r\n\r\n");
    stage.turns(3);
    assert_eq!(stage.clients[talker].close, Some(1002));
    assert_eq!(stage.clients[talker].last_event_id, "never");
}

#[test]
fn the_last_event_says_why_and_whether_to_come_back() {
    let mut stage = Stage::new(settings_with(Overrun::Disconnect));
    let slow = ask(&mut stage, "/sse/c", "");
    stage.set_room(slow, 0);
    for _ in 0..3 {
        for _ in 0..60 {
            stage.publish("c", 20_000);
        }
        stage.turns(3);
    }
    stage.set_room(slow, PLENTY);
    stage.turns(5);
    assert_eq!((stage.clients[slow].close, stage.clients[slow].retry_ms), (Some(4008), Some(500)));
    let told = ask(&mut stage, "/sse/c", "");
    let polls = ask(&mut stage, "/poll?channel=c", "");
    stage.rig.to_shard.send(ShardMessage::Stop).unwrap();
    stage.turns(5);
    assert_eq!((stage.clients[told].close, stage.clients[told].retry_ms), (Some(1001), Some(5000)));
    assert_eq!(stage.clients[polls].close, Some(1001));
    assert!(stage.clients[polls].answered[0].contains("Connection: close\r\n"));
    let never = stage.knock(&get("/sse/c", "Last-Event-ID: never\r\n"), PLENTY);
    assert!(stage.clients[never].answered.is_empty(), "nobody comes in any more");
}

#[test]
fn who_was_told_never_is_told_so_again() {
    let mut stage = Stage::new(settings());
    let client = ask(&mut stage, "/sse/c", "Last-Event-ID: never\r\n");
    assert_eq!(stage.clients[client].refused, Some(204));
}

/// An EventSource takes every status but 200 for the last word.
#[test]
fn come_back_later_is_said_by_a_stream() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.connections_max = 1));
    let _first = stage.subscribers(1, "c");
    let client = ask(&mut stage, "/sse/c", "Origin: http://a.example\r\n");
    assert_eq!((stage.clients[client].close, stage.clients[client].refused), (Some(503), None));
    assert!(stage.clients[client].retry_ms.unwrap() >= 5000);
    let polls = ask(&mut stage, "/poll?channel=c", "Origin: http://a.example\r\n");
    assert_eq!(stage.clients[polls].refused, Some(503));
    let text = &stage.clients[polls].answered[0];
    assert!(text.contains("Retry-After: ") && text.contains("Access-Control-Expose-Headers: Retry-After\r\n"), "{text}");
    // For good it is said plainly.
    let wrong = ask(&mut stage, "/sse/c?format=msgpack", "");
    assert_eq!(stage.clients[wrong].refused, Some(400));
}

#[test]
fn a_poll_is_answered_when_something_has_come() {
    let mut stage = Stage::new(settings().with(|settings| settings.channels.default.history_count = 10));
    let stays = stage.subscribers(1, "c")[0];
    let client = ask(&mut stage, "/poll?channel=c&channel=d", "");
    stage.pass(5 * SECOND);
    stage.turns(3);
    assert!(stage.clients[client].polled.is_empty(), "nothing has come");
    stage.publish("c", 10);
    stage.publish("c", 10);
    stage.turns(3);
    assert_eq!(types(&stage.clients[client].polled[0]), ["subscribed", "subscribed", "notification", "notification", "position"]);
    let standings = &stage.clients[client].polled[0][4]["channels"];
    assert_eq!(*standings, json!([{"channel": "c", "epoch": 7, "seq": 2}, {"channel": "d", "epoch": 7, "seq": 0}]));
    // The same connection asks again, and gets what came meanwhile at once.
    stage.publish("c", 10);
    stage.turns(2);
    stage.wires.borrow_mut().send(client, get("/poll?channel=c&since=7:2&channel=d&since=7:0", "").as_bytes());
    stage.turns(3);
    assert_eq!(types(&stage.clients[client].polled[1])[2..], ["notification", "position"]);
    assert_eq!((stage.messages(&[stays, client]), stage.closed()), (vec![3, 3], vec![]));
    assert_eq!(stage.rig.metrics.connections.get(), 1, "who is not asking is nobody");
    // Nothing more is asked for.
    for _ in 0..20 {
        stage.pass(SECOND);
        stage.turns(2);
    }
    assert!(stage.closed().contains(&("answered", 1)), "{:?}", stage.closed());
}

#[test]
fn a_poll_waits_no_longer_than_it_wants_to() {
    let mut stage = Stage::new(settings());
    let client = ask(&mut stage, "/poll?channel=c&wait=3", "");
    let at_once = ask(&mut stage, "/poll?channel=c&wait=0", "");
    let of_nothing = ask(&mut stage, "/poll", "");
    // Of a channel that nobody had before it is told where it stands all the same.
    let new = ask(&mut stage, "/poll?channel=new&wait=0", "");
    stage.pass(Duration::from_millis(200));
    stage.turns(3);
    assert_eq!(types(&stage.clients[new].polled[0]), ["subscribed", "position"]);
    stage.pass(SECOND);
    stage.turns(3);
    assert_eq!((stage.clients[client].polled.len(), stage.clients[at_once].polled.len()), (0, 1));
    assert_eq!(types(&stage.clients[of_nothing].polled[0]), ["position"]);
    stage.pass(3 * SECOND);
    stage.turns(3);
    assert_eq!(types(&stage.clients[client].polled[0]), ["subscribed", "position"]);
}

#[test]
fn what_cannot_be_recovered_is_an_answer() {
    let mut stage = Stage::new(settings());
    let client = ask(&mut stage, "/poll?channel=c&since=6:9", "");
    assert_eq!(types(&stage.clients[client].polled[0]), ["subscribed", "position"]);
    let refused = ask(&mut stage, "/poll?channel=refused", "");
    assert_eq!(types(&stage.clients[refused].polled[0]), ["error", "position"]);
}

/// Requests that come together are answered one after the other, and no more is read than that takes.
#[test]
fn requests_may_come_together() {
    let mut stage = Stage::new(settings());
    let many = format!("{}{}{}", get("/healthz", ""), get("/poll?channel=c&wait=1", ""), get("/healthz", "Connection: close\r\n"));
    let client = stage.knock(&many, PLENTY);
    stage.rig.shard.on_listener();
    stage.turns(5);
    assert_eq!(stage.clients[client].answered.len(), 1);
    stage.pass(2 * SECOND);
    stage.turns(5);
    assert_eq!((stage.clients[client].answered.len(), stage.clients[client].polled.len()), (3, 1));
    assert!(stage.clients[client].answered[0].contains("200 OK") && !stage.clients[client].answered[0].contains("Connection: close"));
    // The client's end of the stream may come with them.
    let last = stage.knock("", PLENTY);
    stage.rig.shard.on_listener();
    stage.turn();
    let two = get("/healthz", "").repeat(2);
    stage.send_last(last, two.as_bytes());
    stage.turns(6);
    assert_eq!(stage.clients[last].answered.len(), 2);
    let cut = stage.knock("", PLENTY);
    stage.rig.shard.on_listener();
    stage.turn();
    stage.send_last(cut, &get("/healthz", "").as_bytes()[..20]);
    stage.turns(4);
    assert_eq!(stage.clients[cut].refused, Some(400));
    // One that asks without end, and reads nothing.
    let flood = stage.knock("", 0);
    stage.rig.shard.on_listener();
    stage.turn();
    for _ in 0..200 {
        stage.send(flood, get("/healthz", "").repeat(100).as_bytes());
        stage.turn();
    }
    assert!(stage.rig.metrics.buffer_bytes.get() < 1 << 20, "{}", stage.rig.metrics.buffer_bytes.get());
    let waits = ask(&mut stage, "/poll?channel=c&wait=60", "");
    for _ in 0..200 {
        stage.send(waits, get("/poll?channel=c", "").repeat(100).as_bytes());
        stage.turn();
    }
    assert!(stage.rig.metrics.buffer_bytes.get() < 1 << 20, "{}", stage.rig.metrics.buffer_bytes.get());
}

/// Closing one's own side says that no more will be asked for, not that nothing is to be answered.
#[test]
fn a_poll_whose_client_says_no_more_is_answered_with_what_is_there() {
    let mut stage = Stage::new(settings().with(|settings| settings.channels.default.history_count = 10));
    stage.subscribers(1, "c");
    (0..3).for_each(|_| stage.publish("c", 10));
    stage.turns(3);
    for (target, told) in [
        ("/poll?channel=c&since=7:1", &["subscribed", "notification", "notification", "position"][..]),
        ("/poll?channel=c", &["subscribed", "position"]),
        // One that the bus has still to confirm.
        ("/poll?channel=new&wait=60", &["subscribed", "position"]),
        ("/poll", &["position"]),
    ] {
        for comes_later in [false, true] {
            let client = stage.knock("", PLENTY);
            stage.rig.shard.on_listener();
            stage.turn();
            let request = get(&target.replace("new", &format!("new{comes_later}")), "");
            if comes_later {
                stage.send(client, request.as_bytes());
                stage.turn();
                stage.send_last(client, b"");
            } else {
                stage.send_last(client, request.as_bytes());
            }
            stage.turns(6);
            assert_eq!(types(&stage.clients[client].polled[0]), told, "{target}, the end later: {comes_later}");
            assert!(stage.wires.borrow().pipes[client].server_gone, "{target}, the end later: {comes_later}");
        }
    }
}

/// Whoever polls as fast as it can is told to slow down.
#[test]
fn polling_has_a_rate() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.commands_per_second = Some(10)));
    let client = ask(&mut stage, "/poll", "");
    for _ in 0..2000 {
        stage.send(client, get("/poll", "").as_bytes());
        stage.turns(2);
    }
    assert_eq!(stage.clients[client].refused, Some(429));
    assert!(stage.clients[client].polled.len() > 10);
}

#[test]
fn a_page_may_read_what_it_is_answered() {
    let mut stage = Stage::new(settings());
    let allowed = |stage: &Stage, client: usize| {
        let answer = &stage.clients[client].answered[0];
        answer.lines().find_map(|line| line.strip_prefix("Access-Control-Allow-Origin: ")).map(str::to_owned)
    };
    let client = ask(&mut stage, "/poll", "Origin: http://a.example\r\n");
    assert_eq!(allowed(&stage, client).as_deref(), Some("*"));
    let client = ask(&mut stage, "/poll", "");
    assert_eq!(allowed(&stage, client), None);
    let origins = vec![campanile::wire::http::origin::AllowedOrigin::read("http://a.example").unwrap()];
    let mut stage = Stage::new(settings().with(|settings| settings.auth.origins = origins));
    let client = ask(&mut stage, "/poll", "Origin: http://a.example\r\n");
    assert_eq!(allowed(&stage, client).as_deref(), Some("http://a.example"));
    let client = ask(&mut stage, "/poll", "Origin: http://b.example\r\n");
    assert_eq!((stage.clients[client].refused, allowed(&stage, client)), (Some(403), None));
    for path in ["/poll", "/sse", "/sse/c"] {
        let request =
            format!("OPTIONS {path} HTTP/1.1\r\nHost: h\r\nOrigin: http://a.example\r\nAccess-Control-Request-Method: GET\r\n\r\n");
        let asks = stage.knock(&request, PLENTY);
        stage.rig.shard.on_listener();
        stage.turns(3);
        let answer = &stage.clients[asks].answered[0];
        assert!(
            answer.starts_with("HTTP/1.1 204 ") && answer.contains("Access-Control-Allow-Headers: authorization, last-event-id"),
            "{path}: {answer}"
        );
    }
    for (method, path, allow) in [
        ("PUT", "/sse/c", "GET, OPTIONS"),
        ("POST", "/sse/c", "GET, OPTIONS"),
        ("POST", "/poll", "GET, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ] {
        let client = stage.knock(&format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n"), PLENTY);
        stage.rig.shard.on_listener();
        stage.turns(3);
        assert_eq!(stage.clients[client].refused, Some(405));
        assert!(stage.clients[client].answered[0].contains(&format!("Allow: {allow}\r\n")), "{path}");
    }
}
