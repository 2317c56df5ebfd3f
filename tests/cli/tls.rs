//! `campanile subscribe` over TLS: whom it believes and what it says of others, through a real nginx before the real server; goodbyes to a server of our own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::{Message, WebSocket};

use super::support::certificates::Certificates;
use super::support::server::Server;
use super::support::tls::Terminator;
use super::transports::Follower;
use super::{assert_contains, campanile, run};

const TRANSPORTS: [&str; 3] = ["ws", "sse", "poll"];

fn certificates(test: &str) -> Certificates {
    let certificates = Certificates::new(test);
    certificates.root("root");
    certificates.root("other");
    certificates.signed("server", "root", &["localhost"]);
    certificates
}

/// Exit code and stderr of a subscription that is not to come about.
#[track_caller]
fn refused(test: &str, url: &str, further: &[&str]) -> String {
    let (code, stdout, stderr) = run(campanile(test).args(["subscribe", "news", "--count", "1", "--url", url]).args(further));
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    stderr
}

#[test]
fn a_message_comes_over_tls_by_every_transport() {
    let certificates = certificates("tls-transports");
    let server = Server::start(&["--shards", "1", "--history-count", "10"]);
    let nginx = Terminator::nginx(&certificates, "server", server.listen);
    let (ca, pin) = (certificates.path("root.crt"), certificates.path("server.crt"));
    let by_address = format!("wss://{}/ws", nginx.address);
    let ways: [(String, &[&str]); 5] = [
        (nginx.url(), &["--ca", &ca]),
        (by_address.clone(), &["--ca", &ca]),
        // The server's own certificate, whatever it is called by.
        (by_address.clone(), &["--ca", &pin, "--server-name", "elsewhere.example"]),
        (by_address.clone(), &["--ca", &ca, "--server-name", "localhost"]),
        (by_address, &["--insecure", "--server-name", "elsewhere.example"]),
    ];
    let mut followers: Vec<Follower> = Vec::new();
    for transport in TRANSPORTS {
        followers.extend(ways.iter().map(|(url, further)| Follower::start(url, "news", transport, further)));
    }
    for (follower, transport) in followers.iter_mut().zip(TRANSPORTS.iter().flat_map(|transport| [transport; 5])) {
        let scheme = if *transport == "ws" { "wss" } else { "https" };
        follower.remark(&format!("connected to {scheme}://"));
        follower.remark("subscribed to news at 0");
    }
    // Larger than a record.
    let data = json!("x".repeat(100_000));
    server.publish("news", &data);
    for follower in &mut followers {
        assert_eq!(follower.event()["data"], data);
    }
}

#[test]
fn a_server_that_is_not_believed_is_told_with_what_to_do() {
    let test = "tls-beliefs";
    let certificates = certificates(test);
    certificates.signed("elsewhere", "root", &["elsewhere.example"]);
    certificates.signed_for("expired", "/CN=expired", "root", &["localhost"], &["-days", "-1"]);
    let server = Server::start(&["--shards", "1"]);
    let (ca, other) = (certificates.path("root.crt"), certificates.path("other.crt"));
    let good = Terminator::nginx(&certificates, "server", server.listen);
    let elsewhere = Terminator::nginx(&certificates, "elsewhere", server.listen);
    let expired = Terminator::nginx(&certificates, "expired", server.listen);
    // By the roots of a system that has this one.
    let mut command = campanile(test);
    let (code, _, stderr) = run(command.env("SSL_CERT_FILE", &other).args(["subscribe", "news", "--url", &good.url()]));
    assert_eq!(code, 1, "{stderr}");
    assert_contains(&stderr, &["that nobody vouches for", "--ca FILE"]);
    for transport in TRANSPORTS {
        let refused = |url: &str, further: &[&str]| refused(test, url, &[&["--transport", transport], further].concat());
        assert_contains(&refused(&good.url(), &["--ca", &other]), &["that nobody vouches for", "--ca FILE"]);
        assert_contains(
            &refused(&elsewhere.url(), &["--ca", &ca]),
            &["a certificate for ", "elsewhere.example", ", and not for localhost", "--server-name"],
        );
        assert_contains(&refused(&expired.url(), &["--ca", &ca]), &["a certificate that has expired", "let it be renewed"]);
        // TLS where there is none, and none where there is.
        let (clear, secure) = (server.listen.to_string(), good.address.to_string());
        assert_contains(&refused(&format!("wss://{clear}/ws"), &["--ca", &ca]), &["does not speak TLS there", "ws://"]);
        assert_contains(&refused(&format!("ws://{secure}/ws"), &[]), &["sent to HTTPS port", "give it by wss://"]);
    }
}

#[test]
fn what_cannot_be_meant_is_a_mistake() {
    let test = "tls-mistakes";
    let certificates = certificates(test);
    let key = certificates.path("server.key");
    for (url, further, part) in [
        ("wss://h/ws", ["--ca", "/no/such/file"], "/no/such/file cannot be read as PEM"),
        ("wss://h/ws", ["--ca", key.as_str()], "there is no certificate in"),
        ("wss://h/ws", ["--server-name", "a b"], "no name that a certificate could carry"),
        ("ws://h/ws", ["--server-name", "a"], "shows no certificate that could be believed: give the URL by wss://"),
    ] {
        let (code, _, stderr) = run(campanile(test).args(["subscribe", "news", "--url", url]).args(further));
        assert_eq!(code, 2, "{stderr}");
        assert_contains(&stderr, &[part]);
    }
    let (code, _, stderr) = run(campanile(test).env("SSL_CERT_FILE", "/no/such/file").env("SSL_CERT_DIR", "").args([
        "subscribe",
        "news",
        "--url",
        "wss://h/ws",
    ]));
    assert_eq!(code, 1, "{stderr}");
    assert_contains(&stderr, &["no root certificates", "--ca FILE"]);
}

#[test]
fn whoever_was_cut_off_by_the_terminator_has_everything_in_the_end() {
    let certificates = certificates("tls-restart");
    let server = Server::start(&["--shards", "1", "--history-count", "100"]);
    let mut nginx = Terminator::nginx(&certificates, "server", server.listen);
    let ca = certificates.path("root.crt");
    let mut followers = TRANSPORTS.map(|transport| Follower::start(&nginx.url(), "news", transport, &["--ca", &ca, "--count", "3"]));
    for follower in &mut followers {
        follower.remark("subscribed to news at 0");
    }
    assert_eq!(server.publish("news", &json!(1)), 1);
    for follower in &mut followers {
        assert_eq!(follower.event()["seq"], 1);
    }
    nginx.kill();
    assert_eq!((server.publish("news", &json!(2)), server.publish("news", &json!(3))), (2, 3));
    for (follower, transport) in followers.iter_mut().zip(TRANSPORTS) {
        // Whoever polls may be between two requests.
        if transport != "poll" {
            follower.remark("reconnecting in");
        }
    }
    nginx.start_again();
    for follower in &mut followers {
        assert_eq!((&follower.event()["seq"], &follower.event()["seq"]), (&json!(2), &json!(3)));
        assert!(follower.child.wait().unwrap().success());
    }
}

/// TLS ends at nginx, in front of the control port.
#[test]
fn a_control_port_behind_a_proxy_is_asked_by_its_url() {
    let test = "tls-control";
    let certificates = certificates(test);
    let server = Server::start(&["--shards", "1", "--history-count", "10"]);
    let nginx = Terminator::nginx(&certificates, "server", server.control);
    let url = format!("https://localhost:{}", nginx.address.port());
    let (ca, other) = (certificates.path("root.crt"), certificates.path("other.crt"));
    let ask = |arguments: &[&str], ca: &str| run(campanile(test).args(arguments).args(["--url", &url, "--ca", ca]));
    let (code, stdout, stderr) = ask(&["health", "--ready"], &ca);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_contains(&stdout, &[&format!("{url}/readyz: ")]);
    let (code, stdout, stderr) = ask(&["publish", "news", "hello"], &ca);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "published to news: seq 1\n", ""));
    let (code, stdout, stderr) = ask(&["top", "--once", "--json"], &ca);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["rates"].is_object(), "{stdout}");
    for arguments in [&["health"][..], &["publish", "news", "hello"], &["top", "--once"]] {
        let (code, _, stderr) = ask(arguments, &other);
        assert_eq!(code, 1, "{stderr}");
        assert_contains(&stderr, &["that nobody vouches for", "--ca FILE"]);
    }
    let (code, _, stderr) = run(campanile(test).args(["top", "--once", "--url", "http://h", "--ca", &ca]));
    assert_eq!(code, 2, "{stderr}");
    assert_contains(&stderr, &["--url: http://h shows no certificate"]);
}

/// Takes one client, over TLS.
fn accept(listener: &TcpListener, config: &Arc<ServerConfig>) -> WebSocket<StreamOwned<ServerConnection, TcpStream>> {
    let stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), listener.accept().unwrap().0);
    #[expect(clippy::result_large_err, reason = "tungstenite's own")]
    let answer = |request: &Request, mut response: Response| {
        let protocol = request.headers()["sec-websocket-protocol"].clone();
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    tungstenite::accept_hdr(stream, answer).unwrap()
}

fn server_config(certificates: &Certificates, name: &str) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(certificates.path(&format!("{name}.crt"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates.path(&format!("{name}.key"))).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
}

#[test]
fn goodbye_is_said_over_tls_too() {
    let certificates = certificates("tls-goodbye");
    let config = server_config(&certificates, "server");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}/ws", listener.local_addr().unwrap());
    let mut follower = Follower::start(&url, "news", "ws", &["--ca", &certificates.path("root.crt")]);
    let mut socket = accept(&listener, &config);
    assert_eq!(socket.read().unwrap().into_text().unwrap().as_str(), r#"{"type":"subscribe","id":1,"channel":"news"}"#);
    socket.send(Message::text(r#"{"type":"notification","channel":"news","seq":1,"data":1}"#)).unwrap();
    assert_eq!(follower.event()["seq"], 1);
    // SAFETY: a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(follower.child.id() as i32, libc::SIGTERM) }, 0);
    let close = socket.read().unwrap();
    assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1000), "{close:?}");
    assert_eq!(follower.child.wait().unwrap().code(), Some(0));
    // close_notify, and not only the end.
    let stream = socket.get_mut();
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
}

/// Who comes back resumes its TLS session as well.
#[test]
fn a_session_is_resumed() {
    let certificates = certificates("tls-session");
    let config = server_config(&certificates, "server");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}/ws", listener.local_addr().unwrap());
    let mut follower = Follower::start(&url, "news", "ws", &["--ca", &certificates.path("root.crt"), "--count", "2"]);
    let mut kinds = Vec::new();
    for seq in 1..=2 {
        let mut socket = accept(&listener, &config);
        kinds.push(socket.get_ref().conn.handshake_kind().unwrap());
        socket.read().unwrap();
        socket.send(Message::text(format!(r#"{{"type":"notification","channel":"news","seq":{seq},"data":1}}"#))).unwrap();
        assert_eq!(follower.event()["seq"], seq);
    }
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
    assert!(follower.child.wait().unwrap().success());
}

/// A server that speaks TLS alone answers who does not with an alert, or with nothing.
#[test]
fn an_alert_is_known_as_an_answer_in_tls() {
    let certificates = certificates("tls-alert");
    let config = server_config(&certificates, "server");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for _ in TRANSPORTS {
            let mut stream = listener.accept().unwrap().0;
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            let error = connection.complete_io(&mut stream).unwrap_err();
            while connection.wants_write() {
                connection.write_tls(&mut stream).unwrap();
            }
            assert!(error.to_string().contains("corrupt message"), "{error}");
            stream.flush().unwrap();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    for transport in TRANSPORTS {
        let said = refused("tls-alert", &format!("ws://{address}/ws"), &["--transport", transport]);
        assert_contains(&said, &["speaks TLS there: give its URL by wss://"]);
    }
    server.join().unwrap();
}
