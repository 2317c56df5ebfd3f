//! What one client or one address may take of what belongs to all, against the real server: channels, and the memory that they leave.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use support::client::Client;
use support::crowd::{Crowd, Script};
use support::frames;
use support::server::{Launch, Server};

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
