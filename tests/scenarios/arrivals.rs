//! Who connects, from where, and how many may: PROXY headers, `X-Forwarded-For`, limits of addresses. Not bugs of old: what they must not become.

use std::net::SocketAddr;
use std::time::Duration;

use campanile::config::Settings;
use campanile::shard::net::Network;
use campanile::wire::Format;
use campanile::wire::close::CloseReason;
use campanile::wire::http::refusal::RefusalReason;

use crate::rig::client::Client;
use crate::rig::net::request;
use crate::stage::{PLENTY, Stage, settings};

/// The proxy is 10.0.0.1, and is believed.
fn with_proxy(change: impl FnOnce(&mut Settings)) -> Stage {
    Stage::new(settings().with(|settings| {
        settings.addresses.trusted_proxies.add("10.0.0.0/8".parse().unwrap());
        change(settings);
    }))
}

fn knock(stage: &mut Stage, peer: [u8; 4], is_proxied: bool, bytes: &[u8]) -> usize {
    stage.clients.push(Client::new(Format::Json));
    let client = stage.wires.borrow_mut().connect_from(SocketAddr::from((peer, 4000)), "", PLENTY);
    stage.wires.borrow_mut().pipes[client].is_proxied = is_proxied;
    stage.wires.borrow_mut().send(client, bytes);
    stage.rig.shard.on_listener();
    stage.turns(2);
    client
}

fn upgrade() -> String {
    request("/ws", Format::Json)
}

fn forwarded(list: &str) -> String {
    upgrade().replace("Host: sim\r\n", &format!("Host: sim\r\nX-Forwarded-For: {list}\r\n"))
}

fn refused(stage: &Stage, reason: RefusalReason) -> u64 {
    stage.rig.metrics.refused[reason as usize].get()
}

#[test]
fn the_address_that_a_proxy_names_is_the_one_that_is_limited() {
    let mut stage = with_proxy(|settings| settings.bounds.connections_per_address = Some(2));
    let by_proxy = |address: u8| format!("PROXY TCP4 192.0.2.{address} 10.0.0.1 1 2\r\n{}", upgrade()).into_bytes();
    let served: Vec<usize> = [1, 1, 2].map(|address| knock(&mut stage, [10, 0, 0, 1], true, &by_proxy(address))).into();
    assert!(served.iter().all(|&client| stage.clients[client].is_upgraded()));
    let third = knock(&mut stage, [10, 0, 0, 1], true, &by_proxy(1));
    assert_eq!((stage.clients[third].refused, refused(&stage, RefusalReason::ConnectionsPerAddress)), (Some(429), 1));
    // Its own connections count for the proxy nowhere, and there is room again when one has ended.
    let health = knock(&mut stage, [10, 0, 0, 1], true, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(stage.clients[health].refused, Some(200));
    stage.wires.borrow_mut().pipes[served[0]].reset = true;
    stage.turns(3);
    let again = knock(&mut stage, [10, 0, 0, 1], true, &by_proxy(1));
    assert!(stage.clients[again].is_upgraded());
}

#[test]
fn a_header_from_anybody_else_is_not_even_read() {
    let mut stage = with_proxy(|_| ());
    let client = knock(&mut stage, [192, 0, 2, 1], true, format!("PROXY TCP4 127.0.0.1 10.0.0.1 1 2\r\n{}", upgrade()).as_bytes());
    assert!(stage.wires.borrow().pipes[client].server_gone && stage.wires.borrow().pipes[client].to_client.is_empty());
    assert_eq!((refused(&stage, RefusalReason::ProxyUntrusted), stage.rig.metrics.sockets.get()), (1, 0));
}

#[test]
fn a_broken_header_is_answered_and_nothing_behind_it_is_read() {
    let mut stage = with_proxy(|_| ());
    let headers: [&[u8]; 4] = [
        b"GET /ws HTTP/1.1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF",
        b"\r\n\r\n\0\r\nQUIT\n\x41\x11\0\x0C",
    ];
    for (number, header) in headers.into_iter().enumerate() {
        let client = knock(&mut stage, [10, 0, 0, 1], true, &[header, upgrade().as_bytes()].concat());
        assert_eq!(stage.clients[client].refused, Some(400));
        assert_eq!(refused(&stage, RefusalReason::ProxyHeader), number as u64 + 1);
    }
    // Half of one, and the end.
    let half = knock(&mut stage, [10, 0, 0, 1], true, b"PROXY TCP4 1.2");
    stage.wires.borrow_mut().send_last(half, b"");
    stage.turns(2);
    assert_eq!(stage.clients[half].refused, Some(400));
    // And nothing at all.
    let nobody = knock(&mut stage, [10, 0, 0, 1], true, b"");
    stage.wires.borrow_mut().send_last(nobody, b"");
    stage.turns(2);
    assert_eq!(stage.rig.metrics.closed[CloseReason::Gone as usize].get(), 1);
}

#[test]
fn a_header_where_none_is_expected_is_named_in_the_answer() {
    let mut stage = with_proxy(|_| ());
    let v1 = format!("PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n{}", upgrade()).into_bytes();
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0"[..], upgrade().as_bytes()].concat();
    for header in [&v1, &v2] {
        let plain = knock(&mut stage, [10, 0, 0, 1], false, header);
        let twice = knock(&mut stage, [10, 0, 0, 1], true, &[b"PROXY UNKNOWN\r\n", &header[..]].concat());
        assert_eq!((stage.clients[plain].refused, stage.clients[twice].refused), (Some(400), Some(400)));
    }
    assert_eq!(refused(&stage, RefusalReason::ProxyUnexpected), 4);
}

#[test]
fn header_and_head_have_one_deadline() {
    let mut stage = with_proxy(|_| ());
    let silent = knock(&mut stage, [10, 0, 0, 1], true, b"PROXY TCP4");
    let slow = knock(&mut stage, [10, 0, 0, 1], true, b"PROXY UNKNOWN\r\nGET /ws");
    stage.pass(Duration::from_secs(9));
    stage.send(silent, b" 1.2.3.4");
    stage.turns(1);
    stage.pass(Duration::from_secs(2));
    stage.turns(2);
    // A header that was begun, and a head.
    assert_eq!((stage.clients[silent].refused, stage.clients[slow].refused), (Some(400), Some(408)));
}

/// Each is counted as what it is, once, whatever it says, and whether it says anything.
#[test]
fn who_is_turned_away_is_told_when_it_has_said_what_it_wants() {
    let mut stage = with_proxy(|settings| settings.bounds.connections_per_address = Some(1));
    let from = [192, 0, 2, 1];
    let _first = knock(&mut stage, from, false, upgrade().as_bytes());
    let stream = "GET /sse/c HTTP/1.1\r\nHost: sim\r\n\r\n";
    let told = [upgrade(), "GET / HTTP/1.1\r\n\r\n".to_owned(), "GET /healthz HTTP/1.0\r\n\r\n".to_owned()];
    let told = told.map(|bytes| knock(&mut stage, from, false, bytes.as_bytes()));
    assert_eq!(told.map(|client| stage.clients[client].refused), [Some(429); 3]);
    let streamed = knock(&mut stage, from, false, stream.as_bytes());
    assert_eq!(stage.clients[streamed].close, Some(429), "an EventSource is to come back");
    let [gone, silent] = [(); 2].map(|()| knock(&mut stage, from, false, b""));
    stage.send_last(gone, b"");
    stage.turns(2);
    assert_eq!(refused(&stage, RefusalReason::ConnectionsPerAddress), 6);
    stage.pass(Duration::from_secs(3));
    stage.turns(2);
    assert_eq!(stage.clients[silent].refused, Some(429));
    let counted: u64 = stage.rig.metrics.refused.iter().map(|counter| counter.get()).sum();
    assert_eq!(counted, 6);
}

#[test]
fn the_address_that_was_forwarded_is_the_one_that_is_limited() {
    let mut stage = with_proxy(|settings| settings.bounds.connections_per_address = Some(1));
    let status = |stage: &mut Stage, peer: [u8; 4], list: &str| {
        let client = knock(stage, peer, false, forwarded(list).as_bytes());
        if stage.clients[client].is_upgraded() { 101 } else { stage.clients[client].refused.expect("an answer") }
    };
    assert_eq!(status(&mut stage, [10, 0, 0, 1], "192.0.2.1"), 101);
    assert_eq!(status(&mut stage, [10, 0, 0, 2], "6.6.6.6, 192.0.2.1, 10.0.0.9"), 429, "what the client wrote itself is not believed");
    assert_eq!(status(&mut stage, [10, 0, 0, 1], "192.0.2.2"), 101);
    // Nobody else is believed.
    assert_eq!(status(&mut stage, [192, 0, 2, 7], "192.0.2.8"), 101);
    assert_eq!(status(&mut stage, [192, 0, 2, 7], "192.0.2.9"), 429);
    // A proxy that names nobody is not limited itself.
    for _ in 0..3 {
        assert_eq!(status(&mut stage, [10, 0, 0, 1], "unknown"), 101);
    }
    // And a client that a PROXY header has named is no proxy.
    let named = format!("PROXY TCP4 192.0.2.20 10.0.0.1 1 2\r\n{}", forwarded("192.0.2.21"));
    let twice = [(), ()].map(|()| knock(&mut stage, [10, 0, 0, 1], true, named.as_bytes()));
    assert!(stage.clients[twice[0]].is_upgraded() && stage.clients[twice[1]].refused == Some(429));
}

#[test]
fn who_is_refused_at_the_door_is_told_unless_too_many_are() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.accepts_per_address = Some(5)));
    let clients: Vec<usize> = (0..500).map(|_| knock(&mut stage, [192, 0, 2, 1], false, upgrade().as_bytes())).collect();
    let count = |status: Option<u16>| {
        clients.iter().filter(|&&client| stage.clients[client].refused == status && !stage.clients[client].is_upgraded()).count()
    };
    assert_eq!((count(Some(429)), count(None)), (100, 395), "a hundred answers, the others are dropped");
    assert_eq!(refused(&stage, RefusalReason::AcceptsPerAddress), 495);
    let other = knock(&mut stage, [192, 0, 2, 2], false, upgrade().as_bytes());
    assert!(stage.clients[other].is_upgraded());
    stage.pass(Duration::from_secs(1));
    let later = knock(&mut stage, [192, 0, 2, 1], false, upgrade().as_bytes());
    assert!(stage.clients[later].is_upgraded());
}

#[test]
fn accepts_of_all_together_have_a_rate() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.accepts_per_second = Some(3)));
    let clients: Vec<usize> = (0..6).map(|number| knock(&mut stage, [192, 0, 2, number], false, upgrade().as_bytes())).collect();
    let served = clients.iter().filter(|&&client| stage.clients[client].is_upgraded()).count();
    assert_eq!((served, refused(&stage, RefusalReason::AcceptsPerSecond)), (3, 3));
    assert!(clients.iter().all(|&client| stage.clients[client].is_upgraded() || stage.clients[client].refused == Some(503)));
}

#[test]
fn commands_beyond_their_rate_are_answered_by_name() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.bounds.subscriptions_max = 1;
        settings.bounds.commands_per_second = Some(2);
    }));
    let flood = stage.connect("/ws", PLENTY);
    let other = stage.connect("/ws", PLENTY);
    stage.turns(2);
    for number in 0..10 {
        stage.text(flood, &format!("{{\"type\":\"unsubscribe\",\"channel\":\"c\",\"id\":{number}}}"));
    }
    stage.text(flood, "{\"type\":\"nonsense\",\"id\":\"n\"}");
    stage.turns(2);
    let codes: Vec<&str> = stage.clients[flood].answers.iter().map(|answer| answer["code"].as_str().unwrap()).collect();
    assert_eq!(codes[..6], ["not_subscribed"; 6]);
    assert_eq!(codes[6..], ["rate_limited"; 5]);
    let last = &stage.clients[flood].answers[9];
    assert_eq!((&last["id"], &last["command"], &last["channel"]), (&9.into(), &"unsubscribe".into(), &"c".into()));
    assert_eq!(stage.rig.metrics.commands_limited.get(), 5);
    stage.text(other, "{\"type\":\"ping\",\"id\":1}");
    stage.pass(Duration::from_secs(1));
    stage.text(flood, "{\"type\":\"ping\",\"id\":2}");
    stage.turns(2);
    assert_eq!(stage.clients[other].answers[0]["type"], "pong");
    assert_eq!(stage.clients[flood].answers[11]["type"], "pong");
}

#[test]
fn who_is_late_or_short_of_memory_takes_nobody_in_and_serves_who_is_there() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.admission_logs = Some(50)));
    let inside = stage.subscribers(1, "news")[0];
    let refused_for = |stage: &mut Stage, reason: RefusalReason| {
        let newcomer = stage.connect("/ws", PLENTY);
        stage.turns(2);
        assert_eq!((stage.clients[newcomer].refused, refused(stage, reason)), (Some(503), 1), "{reason:?}");
        // Health checks are answered all the same.
        let probe = stage.knock("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", PLENTY);
        stage.rig.shard.on_listener();
        stage.turns(2);
        assert_eq!(stage.clients[probe].refused, Some(200));
        let before = stage.clients[inside].subscriptions["news"].seq;
        stage.publish("news", 100);
        stage.turns(2);
        assert_eq!(stage.clients[inside].subscriptions["news"].seq, before + 1, "{reason:?}");
    };
    let gets_in = |stage: &mut Stage| {
        let newcomer = stage.connect("/ws", PLENTY);
        stage.turns(2);
        stage.clients[newcomer].is_upgraded()
    };
    let closed = |stage: &Stage| stage.rig.metrics.admission_closed.iter().map(|gauge| gauge.get()).sum::<u64>();

    // Turn after turn the loop is away for long.
    while closed(&stage) == 0 {
        stage.turn();
        stage.rig.shard.note_turn(900_000_000);
        stage.pass(Duration::from_millis(900));
    }
    refused_for(&mut stage, RefusalReason::OverloadedLag);
    assert!(stage.rig.metrics.lag_ns.get() >= 250_000_000);
    // It looks by itself whether it can take somebody in again.
    let now_ns = stage.wires.borrow().now_ns;
    assert!(stage.rig.shard.wait_ns(now_ns).is_some_and(|wait_ns| wait_ns < 1_000_000_000));
    stage.pass(Duration::from_secs(5));
    stage.turn();
    assert_eq!(closed(&stage), 0);
    assert!(gets_in(&mut stage));

    stage.rig.host.note_memory(1.0, 3);
    refused_for(&mut stage, RefusalReason::OverloadedMemory);
    assert_eq!(closed(&stage), 1);
    stage.rig.host.note_memory(50.0, 3);
    assert!(gets_in(&mut stage));
    assert_eq!(closed(&stage), 0);
}

/// Who is refused together does not come back together.
#[test]
fn each_is_told_to_wait_for_another_time() {
    let mut stage = Stage::new(settings());
    stage.rig.host.note_memory(0.0, 3);
    let mut waits = Vec::new();
    for _ in 0..52 {
        let newcomer = stage.knock(&request("/ws", Format::Json), PLENTY);
        stage.rig.shard.on_listener();
        stage.turn_of_the_shard();
        stage.turn_of_the_shard();
        let answer: Vec<u8> = stage.wires.borrow_mut().pipes[newcomer].to_client.drain(..).collect();
        let answer = String::from_utf8(answer).unwrap();
        let seconds = answer.split("Retry-After: ").nth(1).unwrap_or_else(|| panic!("{answer}")).split("\r\n").next().unwrap();
        waits.push(seconds.parse::<u32>().unwrap());
    }
    waits.sort_unstable();
    assert!(waits[0] >= 5 && waits[51] <= 30, "{waits:?}");
    // Evenly, so that no second has many more than its share of two.
    assert!(waits.windows(6).all(|window| window[5] > window[0]), "{waits:?}");
}

/// Whoever never comes to the end of its handshake makes room for those who do.
#[test]
fn a_crowd_of_half_open_handshakes_keeps_nobody_out() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.connections_max = 20));
    let most = campanile::limits::HANDSHAKES_MIN;
    let crowd: Vec<usize> =
        (0..most).map(|number| stage.knock(if number % 2 == 0 { "" } else { "GET /ws HTTP/1.1\r\nHost:" }, PLENTY)).collect();
    stage.rig.shard.on_listener();
    stage.turns(most / 100 + 5);
    assert_eq!((stage.rig.metrics.sockets.get(), refused(&stage, RefusalReason::Handshakes)), (most as u64, 0));
    // Nobody goes before it has had its time; whoever comes meanwhile waits outside.
    let early = stage.connect("/ws/news", PLENTY);
    stage.pass(Duration::from_millis(800));
    stage.turns(3);
    assert!(!stage.clients[early].is_upgraded() && !stage.wires.borrow().pipes[early].server_gone);
    stage.pass(Duration::from_millis(300));
    stage.turns(3);
    assert!(stage.clients[early].is_upgraded());
    assert_eq!(refused(&stage, RefusalReason::Handshakes), 1);
    for number in 0..10 {
        let newcomer = stage.connect("/ws/news", PLENTY);
        stage.turns(3);
        assert!(stage.clients[newcomer].is_upgraded());
        // It needed the place of the one that came first; in it there is room for the next.
        assert_eq!(refused(&stage, RefusalReason::Handshakes), 1, "newcomer {number}");
    }
    assert!(stage.wires.borrow().pipes[crowd[0]].server_gone && !stage.wires.borrow().pipes[crowd[1]].server_gone);
    // As many again, and the oldest go, one for each that comes but the first; those who were let in stay.
    for _ in 0..100 {
        stage.knock("", PLENTY);
    }
    stage.rig.shard.on_listener();
    stage.turns(5);
    assert_eq!(refused(&stage, RefusalReason::Handshakes), 100);
    assert_eq!((stage.rig.metrics.connections.get(), stage.rig.metrics.sockets.get()), (11, most as u64 + 11));
    stage.publish("news", 100);
    stage.turns(3);
    let has_news = stage.clients.iter().filter(|client| client.subscriptions.get("news").is_some_and(|view| view.seq == 1));
    assert_eq!(has_news.count(), 11);
}

/// In a storm of TLS clients most wait for a place to begin in; the time that each has for its handshake begins when it has one.
#[test]
fn waiting_for_a_place_takes_nothing_off_the_time_in_it() {
    const PLACES: usize = campanile::limits::tls::HANDSHAKES_UNDER_WAY_MAX;
    let mut stage = Stage::new(settings());
    // None of them is told anything at first.
    let come = |stage: &mut Stage, count: usize| -> Vec<usize> {
        let crowd: Vec<usize> = (0..count).map(|_| stage.connect("/ws/news", 0)).collect();
        crowd.iter().for_each(|&client| stage.wires.borrow_mut().secure(client));
        stage.turns(count / 4);
        crowd
    };
    let first = come(&mut stage, PLACES);
    assert_eq!(stage.rig.shard.net().places(), 0);
    let second = come(&mut stage, PLACES);
    stage.pass(Duration::from_millis(900));
    first.iter().for_each(|&client| stage.set_room(client, PLENTY));
    stage.turns(PLACES);
    assert!(first.iter().all(|&client| stage.clients[client].is_upgraded()));
    let third = come(&mut stage, 100);
    stage.pass(Duration::from_millis(500));
    stage.turns(10);
    assert_eq!((stage.rig.shard.net().places(), refused(&stage, RefusalReason::Handshakes)), (0, 0));
    second.iter().chain(&third).for_each(|&client| stage.set_room(client, PLENTY));
    stage.turns(PLACES);
    assert!(second.iter().chain(&third).all(|&client| stage.clients[client].is_upgraded()));
    assert_eq!(refused(&stage, RefusalReason::Handshakes), 0);
}

/// More TLS clients arrive at once than may be arriving, and each handshake takes turns: those who are too many wait outside, and nobody is sent away to come
/// again, which would take the place of somebody who is nearly through.
#[test]
fn a_storm_of_handshakes_comes_through() {
    const MOST: usize = campanile::limits::HANDSHAKES_MIN;
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.connections_max = 4 * MOST));
    let crowd: Vec<usize> = (0..3 * MOST).map(|_| stage.connect("/ws/news", PLENTY)).collect();
    crowd.iter().for_each(|&client| stage.wires.borrow_mut().secure(client));
    // Somebody among them says nothing, which is no reason for anybody to wait.
    stage.wires.borrow_mut().pipes[crowd[0]].to_server.clear();
    for _ in 0..100 {
        stage.turns(MOST / 8);
        assert!(stage.rig.metrics.sockets.get() - stage.rig.metrics.connections.get() <= MOST as u64);
        stage.pass(Duration::from_millis(100));
    }
    assert!(crowd[1..].iter().all(|&client| stage.clients[client].is_upgraded()));
    assert!(refused(&stage, RefusalReason::Handshakes) <= 1);
}

/// A crowd that is being taken out of its channels, which takes turns, makes no more room for those who are arriving than there is.
#[test]
fn a_mass_of_dead_connections_lets_no_more_strangers_wait() {
    const STRANGERS: usize = campanile::limits::HANDSHAKES_MIN;
    let mut stage = Stage::new(settings().with(|settings| {
        settings.bounds.connections_max = 1000;
        settings.clients.handshake_timeout = Duration::from_secs(60);
        (settings.bounds.subscriptions_max, settings.bounds.commands_per_second) = (1000, None);
    }));
    let crowd: Vec<usize> = (0..100).map(|_| stage.connect("/ws", PLENTY)).collect();
    stage.turns(10);
    for &client in &crowd {
        for channel in 0..400 {
            stage.text(client, &format!(r#"{{"type":"subscribe","channel":"c{channel}"}}"#));
        }
        stage.turns(5);
    }
    stage.turns(50);
    assert!(stage.rig.metrics.subscriptions.get() > 20_000, "{}", stage.rig.metrics.subscriptions.get());
    for round in 0..2 * STRANGERS / 16 {
        if round == STRANGERS / 16 - 1 {
            // Now they are as many as there may be.
            for &client in &crowd {
                let pipe = &mut stage.wires.borrow_mut().pipes[client];
                (pipe.reset, pipe.readable_edge) = (true, true);
            }
        }
        for _ in 0..16 {
            stage.knock("GET ", PLENTY);
        }
        stage.rig.shard.on_listener();
        stage.pass(Duration::from_millis(100));
        stage.turn();
        let waiting = stage.rig.metrics.sockets.get() - stage.rig.metrics.connections.get();
        assert!(waiting as usize <= STRANGERS + 16, "{waiting}");
    }
    assert!(refused(&stage, RefusalReason::Handshakes) as usize >= STRANGERS - 200);
}
