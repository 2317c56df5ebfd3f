//! What one client or one address may take of what belongs to all, against the real server: channels, and the memory that they leave.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::support::client::Client;
use crate::support::crowd::{Crowd, Script};
use crate::support::frames;
use crate::support::server::{Launch, Server};
use serde_json::{Value, json};

fn subscribe(channel: &str) -> Value {
    json!({"type": "subscribe", "channel": channel})
}

/// Subscribes and unsubscribes, one new name after the other, as fast as the answers come.
#[test]
fn a_connection_that_runs_through_names_takes_nobodys_history() {
    let server = Server::start(&["--history-count", "10", "--channels-max", "400", "--channels-per-address", "none"]);
    let mut client = Client::subscribed(server.listen, "kept");
    server.publish("kept", &json!(1));
    assert_eq!(client.event()["seq"], 1);
    drop(client);
    server.eventually_metric("campanile_channels", "", 0.0);

    // Three of them: each may leave 256 behind at once, and that is more than there is room for.
    for flood in 0..3 {
        let mut flooder = Client::connect(server.listen, "/ws?format=json");
        flooder.event();
        for name in 0..10_000 {
            let channel = format!("f{flood}-{name}");
            flooder.command(subscribe(&channel));
            let answer = flooder.event();
            if answer["code"] == "rate_limited" {
                assert!(name >= 256, "{answer} for name {name}");
                break;
            }
            assert_eq!(answer["type"], "subscribed", "{answer}");
            flooder.command(json!({"type": "unsubscribe", "channel": channel}));
            assert_eq!(flooder.event()["type"], "unsubscribed");
        }
    }
    assert_eq!(server.metric("campanile_channels_limited_total", ""), 3.0);
    let evicted = |server: &Server| server.metric("campanile_bus_channels_evicted_total", "");
    server.eventually("room made", |server| evicted(server) >= 3.0 * 256.0 - 400.0);

    let mut client = Client::connect(server.listen, "/ws/kept?format=json");
    client.event();
    assert_eq!(client.event()["seq"], 1, "the numbers went on");
    drop(client);
}

/// Connects from an address of its own; every address of 127.0.0.0/8 is this host.
fn dial_from(source: [u8; 4], listen: SocketAddr) -> Client {
    Client::dial_from(IpAddr::V4(Ipv4Addr::from(source)), listen)
}

#[test]
fn one_address_does_not_take_all_channels() {
    let server = Server::start(&["--channels-max", "400", "--subscriptions-max", "50"]);
    let scripts = (0..10).map(|client| {
        let commands: Vec<u8> = (0..50)
            .flat_map(|channel| frames::frame(frames::TEXT, subscribe(&format!("c{client}-{channel}")).to_string().as_bytes()))
            .collect();
        Script { then: commands, ..Script::upgrade("/ws?format=json") }
    });
    let mut greedy = Crowd::new(server.listen, scripts);
    greedy.wait("an answer to each", |member| member.events.len() == 51);
    let answers = |what: &str| {
        let is_it = |event: &&Value| event["type"] == what || event["code"] == what;
        greedy.members().iter().flat_map(|member| &member.events).filter(is_it).count()
    };
    assert_eq!((answers("subscribed"), answers("too_many_channels")), (200, 300), "half of all channels");
    let members = greedy.members();
    let told = members.iter().flat_map(|member| &member.events).find(|event| event["type"] == "error").unwrap();
    assert!(told["message"].as_str().unwrap().contains("200 channels to your address"), "{told}");
    assert_eq!(server.metric("campanile_channels_refused_total", ""), 300.0);

    let mut other = dial_from([127, 0, 0, 2], server.listen).upgrade("/ws?format=json");
    other.event();
    for channel in 0..50 {
        other.command(subscribe(&format!("other-{channel}")));
        assert_eq!(other.event()["type"], "subscribed");
    }
}

/// What the channels of a crowd held goes back to the system when they are gone.
#[test]
fn the_memory_of_a_flood_of_channels_is_given_back() {
    let server = Launch::new(&["--linger", "0", "--channels-per-address", "none", "--shards", "2"]).start();
    let held = || server.metric("process_resident_memory_bytes", "");
    let path = |client: usize| {
        let names: Vec<String> = (0..125).map(|channel| format!("channel=a-name-of-some-length-{client}-{channel}")).collect();
        format!("/ws?format=json&{}", names.join("&"))
    };
    let before = held();
    let mut crowd = Crowd::new(server.listen, (0..480).map(|client| Script::upgrade(&path(client))));
    crowd.wait("every channel", |member| member.events.len() == 126);
    let grown = held() - before;
    assert!(grown > 15e6, "{grown} bytes for 60,000 channels");
    drop(crowd);
    server.eventually_metric("campanile_bus_channels", "", 0.0);
    server.eventually("most of it is given back", |_| held() - before < grown / 3.0);
}

#[test]
fn clients_publish_as_much_as_they_may() {
    let file = "auth = \"query\"\npublishes_per_connection = 20\npublishes_per_user = 30\n\
                [[channels]]\nprefix = \"crowded\"\npublish = \"anyone\"\nsubscribe = \"anyone\"\npublishes_per_second = 5\n\
                [[channels]]\nprefix = \"open\"\npublish = \"anyone\"\nsubscribe = \"anyone\"\n";
    let server = Launch::new(&[]).file(file).start();
    let connect = |user: &str| {
        let mut client = Client::connect(server.listen, &format!("/ws?format=json&user={user}"));
        client.event();
        client
    };
    // So many at once that no second passes: how many are published, and what the others are told.
    let publish = |client: &mut Client, channel: &str, count: usize| {
        let command = |id: usize| json!({"type": "publish", "channel": channel, "data": id, "id": id}).to_string();
        let commands: Vec<u8> = (0..count).flat_map(|id| frames::frame(frames::TEXT, command(id).as_bytes())).collect();
        client.send(&commands);
        let answers: Vec<Value> = (0..count).map(|_| client.event()).collect();
        let refused = answers.iter().filter(|answer| answer["code"] == "rate_limited").cloned().collect::<Vec<_>>();
        assert!(
            refused.iter().all(|answer| answer["channel"] == channel && answer["command"] == "publish" && answer["id"].is_u64()),
            "{refused:?}"
        );
        (count - refused.len(), refused)
    };
    let (published, refused) = publish(&mut connect("u1"), "open", 500);
    // A slow machine may take more than an instant for that.
    assert!(published >= 20, "{published}");
    assert!(refused[0]["message"].as_str().unwrap().contains("this connection publishes more than 20"), "{}", refused[0]);
    let (_, refused) = publish(&mut connect("u1"), "open", 500);
    assert!(refused.iter().any(|answer| answer["message"].as_str().unwrap().contains("of this user")), "{}", refused[0]);
    let (published, refused) = publish(&mut connect("u2"), "crowded", 300);
    assert!(published >= 5 && refused[0]["message"].as_str().unwrap().contains("to this channel"), "{published} {}", refused[0]);
    for of in ["connection", "user", "channel"] {
        assert!(server.metric("campanile_publishes_limited_total", &format!("of=\"{of}\"")) > 0.0, "{of}");
    }
    // An operator is not limited.
    let mut hears = connect("u3");
    hears.command(subscribe("crowded"));
    assert_eq!(hears.event()["type"], "subscribed");
    for number in 0..50 {
        server.publish("crowded", &json!(number));
    }
}

/// With a rate of its own each time, as fast as the answers come: groups, laps and timers come to nothing again.
#[test]
fn who_subscribes_with_ever_other_rates_leaves_nothing_behind() {
    let server = Server::start(&["--commands-per-second", "none", "--shards", "1"]);
    let mut others = Client::subscribed(server.listen, "busy");
    let mut client = Client::connect(server.listen, "/ws?format=json");
    client.event();
    for round in 0..600 {
        client.command(json!({"type": "subscribe", "channel": "busy", "max_rate": 1 + round % 1000}));
        server.publish("busy", &json!(round));
        client.command(json!({"type": "unsubscribe", "channel": "busy"}));
        while client.event()["type"] != "unsubscribed" {}
        assert_eq!(others.event()["data"], round);
    }
    for rate in [json!(0), json!(-5), json!(1001), json!(1e300), json!("5"), json!(2.5)] {
        client.command(json!({"type": "subscribe", "channel": "busy", "max_rate": rate, "id": 1}));
        let error = client.event();
        assert_eq!((&error["code"], &error["channel"], &error["id"]), (&json!("bad_command"), &json!("busy"), &json!(1)));
    }
    server.eventually_metric("campanile_log_bytes", "", 0.0);
    assert_eq!(server.metric("campanile_subscriptions", ""), 1.0);
}
