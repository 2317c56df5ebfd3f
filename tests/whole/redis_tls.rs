//! The whole server with Redis over TLS where the URL does not name the masters: a Cluster, and what Sentinels watch.

use std::process::Command;

use crate::support::certificates::Certificates;
use crate::support::client::Client;
use crate::support::redis::{RedisServer, free_port};
use crate::support::server::{Launch, Server};
use crate::support::topology::{Sentinel, eventually};
use serde_json::json;

/// A root of its own, and a server's certificate; whoever connects must have one of that root, too.
fn certificates() -> Certificates {
    let certificates = Certificates::new("redis-tls");
    certificates.root("root");
    certificates.signed("server", "root", &[]);
    certificates.signed("client", "root", &[]);
    certificates
}

/// Options of Redis, by name and value.
fn tls(certificates: &Certificates, port: u16) -> Vec<[String; 2]> {
    [
        ("tls-port", port.to_string()),
        ("tls-cert-file", certificates.path("server.crt")),
        ("tls-key-file", certificates.path("server.key")),
        ("tls-ca-cert-file", certificates.path("root.crt")),
        ("tls-replication", "yes".to_owned()),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .into()
}

fn arguments(options: &[[String; 2]]) -> Vec<String> {
    options.iter().flat_map(|[name, value]| [format!("--{name}"), value.clone()]).collect()
}

fn launch(certificates: &Certificates, url: &str) -> Launch {
    let [ca, cert, key] = ["root.crt", "client.crt", "client.key"].map(|file| certificates.path(file));
    let file = format!(
        "redis = \"{url}\"\nredis_ca = \"{ca}\"\nredis_cert = \"{cert}\"\nredis_key = \"{key}\"\nshards = 1\n\
         [[channels]]\nprefix = \"feed:\"\ndurable = true\nhistory_count = 100\n"
    );
    Launch::new(&[]).file(&file)
}

/// Messages of channels on all masters come with their numbers.
fn serves(server: &Server) {
    server.eventually("ready", Server::is_ready);
    for name in (0..6).flat_map(|number| [format!("feed:{number}"), format!("plain:{number}")]) {
        let mut client = Client::connect(server.listen, "/ws?format=json");
        client.command(json!({"type": "subscribe", "channel": name}));
        while client.event()["type"] != "subscribed" {}
        let (status, answer) = server.post("/publish", json!({"channel": name, "data": 7}).to_string());
        assert_eq!((status, &answer["seq"]), (200, &json!(1)), "{name}: {answer}");
        let event = client.event();
        assert_eq!((&event["channel"], &event["seq"], &event["data"]), (&json!(name), &json!(1), &json!(7)), "{event}");
    }
}

#[test]
fn a_cluster_over_tls() {
    let certificates = certificates();
    let ports = [free_port(), free_port(), free_port()];
    let servers = ports.map(|port| {
        let bus = free_port().to_string();
        let mut options = arguments(&tls(&certificates, port));
        options.extend(["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", &bus].map(str::to_owned));
        RedisServer::with_arguments(&options.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let places = ports.map(|port| format!("127.0.0.1:{port}"));
    let output = Command::new("redis-cli")
        .args(["--tls", "--cacert", &certificates.path("root.crt"), "--cert", &certificates.path("client.crt")])
        .args(["--key", &certificates.path("client.key"), "--cluster", "create"])
        .args(&places)
        .arg("--cluster-yes")
        .output()
        .expect("redis-cli");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for server in &servers {
        eventually("the Cluster is up", || server.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    }
    // Of one node that is named; the others are found, and spoken to as that one.
    serves(&launch(&certificates, &format!("rediss+cluster://{}", places[0])).start());
}

#[test]
fn sentinels_over_tls() {
    let certificates = certificates();
    let (port, at) = (free_port(), free_port());
    let options = arguments(&tls(&certificates, port));
    let _master = RedisServer::with_arguments(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let further: Vec<String> = tls(&certificates, at).into_iter().map(|[name, value]| format!("{name} {value}")).collect();
    let _sentinel = Sentinel::start(port, 1, &further.join("\n"));
    serves(&launch(&certificates, &format!("rediss+sentinel://127.0.0.1:{at}/{}", Sentinel::SERVICE)).start());
}
