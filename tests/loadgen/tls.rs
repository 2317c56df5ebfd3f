//! Clients over TLS, through a real HAProxy before the real server: nothing is lost, handshakes are counted, and who is not believed is told.

use std::process::Command;

use crate::run;
use crate::support::certificates::Certificates;
use crate::support::server::Server;
use crate::support::tls::Terminator;

/// A server behind a proxy; how clients and publishers reach it.
struct Behind {
    server: Server,
    proxy: Terminator,
    certificates: Certificates,
}

impl Behind {
    fn start(arguments: &[&str]) -> Behind {
        let server = Server::start(arguments);
        let certificates = Certificates::new("loadgen");
        certificates.root("root");
        certificates.root("other");
        certificates.signed("server", "root", &["localhost"]);
        let proxy = Terminator::haproxy(&certificates, "server", server.listen, 500);
        Behind { server, proxy, certificates }
    }

    /// Arguments of a run against it.
    fn target(&self) -> [String; 6] {
        let (url, control) = (format!("wss://{}", self.proxy.address), self.server.control.to_string());
        ["--url".to_owned(), url, "--ca".to_owned(), self.certificates.path("root.crt"), "--control".to_owned(), control]
    }

    fn run(&self, arguments: &[&str]) -> crate::Ran {
        let target = self.target();
        run(&[arguments, &target.each_ref().map(String::as_str)].concat())
    }
}

#[test]
fn a_broadcast_over_tls_loses_nothing() {
    // Whoever waits for a core is not slow: the log has room for all that is sent.
    let behind = Behind::start(&["--shards", "1", "--log-bytes-per-channel", "16M"]);
    for transport in ["ws", "sse"] {
        let arguments = ["broadcast", "-n", "200", "--threads", "2", "--rate", "50", "--messages", "20", "--transport", transport];
        let json = behind.run(&arguments).passes();
        assert_eq!((&json["messages"]["delivered"], &json["tls"]["full"]), (&4000.into(), &200.into()));
        assert_eq!(json["tls"]["resumed"], 0);
    }
    // Messages of several records, and several of them at once.
    let burst = ["burst", "-n", "50", "--payload", "40000", "--burst", "10", "--messages", "30", "--rate", "200"];
    assert_eq!(behind.run(&burst).passes()["messages"]["delivered"], 1500);
    let mixed = ["channels", "-n", "50", "--channels", "100", "--channels-per-client", "4", "--messages", "200", "--rate", "500"];
    assert_eq!(behind.run(&mixed).passes()["checks"]["lost"], 0);
}

#[test]
fn sessions_are_resumed_where_that_is_asked_for() {
    let behind = Behind::start(&["--shards", "1", "--history-count", "1000"]);
    for suite in ["TLS13_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"] {
        let json = behind.run(&["connect", "-n", "100", "--resume", "--tls-suite", suite]).passes();
        assert_eq!((&json["tls"]["full"], &json["tls"]["resumed"]), (&0.into(), &100.into()), "{suite}");
        assert!(json["tls"]["resumed_per_second"].as_f64().unwrap() > 0.0);
    }
    let json = behind.run(&["storm", "-n", "100", "--resume", "--messages", "30"]).passes();
    assert_eq!((&json["storm_tls"]["full"], &json["storm_tls"]["resumed"]), (&0.into(), &100.into()), "{}", json["storm_tls"]);
    assert_eq!(json["storm"]["healthz_failures"], 0);
    let json = behind.run(&["storm", "-n", "100", "--messages", "30"]).passes();
    assert_eq!((&json["storm_tls"]["full"], &json["storm_tls"]["resumed"]), (&100.into(), &0.into()), "{}", json["storm_tls"]);
}

#[test]
fn a_client_that_publishes_does_so_over_tls() {
    let behind = Behind::start(&["--shards", "1", "--allow-client-publish"]);
    let arguments = ["broadcast", "-n", "20", "--through", "client", "--rate", "500", "--messages", "100", "--payload", "5000"];
    assert_eq!(behind.run(&arguments).passes()["messages"]["delivered"], 2000);
}

#[test]
fn a_server_that_is_not_believed_is_told_before_the_run() {
    let behind = Behind::start(&["--shards", "1"]);
    let [url_flag, url, ca_flag, ..] = behind.target();
    let other = behind.certificates.path("other.crt");
    run(&["connect", "-n", "5", &url_flag, &url, &ca_flag, &other]).fails("nobody vouches for who is trusted here");
    let elsewhere = ["--server-name", "elsewhere.example"];
    behind.run(&[&["connect", "-n", "5"][..], &elsewhere].concat()).fails("not for elsewhere.example");
    let insecure = ["connect", "-n", "5", &url_flag, &url, "--insecure"];
    assert_eq!(run(&[&insecure[..], &elsewhere].concat()).passes()["connect"]["ready"], 5);
    let clear = format!("wss://{}", behind.server.listen);
    run(&["connect", "-n", "5", &url_flag, &clear, "--insecure"]).fails("does not speak TLS there");
    behind.run(&["connect", "-n", "5", "--tls-suite", "TLS13_NO_SUCH"]).fails("there are TLS13_AES_256_GCM_SHA384");
}

#[test]
fn what_is_of_tls_alone_is_a_mistake_elsewhere() {
    let mistakes: [&[&str]; 6] = [
        &["connect", "--resume"],
        &["connect", "--ca", "x"],
        &["hold", "--serve", "", "--insecure"],
        &["connect", "--serve", "", "--beside-plain"],
        &["connect", "--serve", "", "--tls", "--ca", "x"],
        &["hold", "--serve", "", "--tls", "--beside-plain"],
    ];
    for arguments in mistakes {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

/// The server's own listener, with a certificate that is made for the run, and the same server in the clear beside it.
#[test]
fn the_servers_own_tls_is_measured() {
    let serve = ["--serve", "--shards 1", "--tls"];
    let json = run(&[&["broadcast", "-n", "200", "--threads", "2", "--rate", "50", "--messages", "20"], &serve[..]].concat()).passes();
    assert_eq!((&json["messages"]["delivered"], &json["tls"]["full"]), (&4000.into(), &200.into()));
    let json = run(&[&["connect", "-n", "100", "--resume", "--beside-plain", "--pairs", "2"], &serve[..]].concat()).passes();
    assert_eq!(json["tls_handshake_cpu_us"].as_array().unwrap().len(), 2);
}

#[test]
fn a_thousand_stay_while_certificates_and_ticket_keys_change() {
    let certificates = Certificates::new("stay");
    certificates.root("root");
    certificates.signed("server", "root", &["localhost"]);
    certificates.signed("next", "root", &["localhost"]);
    let path = |file: &str| certificates.path(file);
    std::fs::write(path("tickets"), [1; 48]).unwrap();
    let listen = ["--shards", "1", "--listen", "tls://127.0.0.1:0"];
    let (cert, key, tickets) = (path("server.crt"), path("server.key"), path("tickets"));
    let server = Server::start(&[&listen[..], &["--tls-cert", &cert, "--tls-key", &key, "--tls-ticket-keys", &tickets]].concat());
    let (url, control) = (format!("wss://{}", server.listen), server.control.to_string());
    let target = ["--url".to_owned(), url, "--ca".to_owned(), path("root.crt"), "--control".to_owned(), control];
    let clients = std::thread::spawn(move || {
        let hold = ["hold", "-n", "1000", "--threads", "2", "--hold", "8", "--messages", "3", "--rate", "10"];
        run(&[&hold[..], &target.each_ref().map(String::as_str)].concat())
    });
    server.eventually_metric("campanile_tls_sessions", "", 1000.0);
    std::fs::copy(path("next.key"), &key).unwrap();
    std::fs::copy(path("next.crt"), &cert).unwrap();
    std::fs::write(&tickets, [2; 48]).unwrap();
    let (status, answer) = server.post("/reload", "");
    assert_eq!(status, 200, "{answer}");
    let json = clients.join().unwrap().passes();
    assert_eq!((&json["messages"]["delivered"], &json["tls"]["full"]), (&3000.into(), &1000.into()));
}
