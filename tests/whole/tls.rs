//! TLS on the public port, spoken by OpenSSL, GnuTLS, curl, Python and Node; certificates that change, clients' own, tickets. What attackers send is in
//! [`hostile`].

mod hostile;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::support::certificates::Certificates;
use crate::support::chromium::{self, Browser, Page};
use crate::support::frames;
use crate::support::languages;
use crate::support::redis::PATIENCE;
use crate::support::server::{Launch, Server, wait};

const TLS: [&str; 2] = ["--listen", "tls://127.0.0.1:0"];

/// A root, and a certificate of its for localhost.
fn certificates(test: &str) -> Certificates {
    let certificates = Certificates::new(test);
    certificates.root("root");
    certificates.signed("server", "root", &["localhost"]);
    certificates
}

fn launch(certificates: &Certificates, more: &[&str]) -> Launch {
    let (cert, key) = (certificates.path("server.crt"), certificates.path("server.key"));
    Launch::new(&[&TLS[..], &["--tls-cert", &cert, "--tls-key", &key], more].concat())
}

/// A client's first words, as OpenSSL says them.
fn client_hello() -> Vec<u8> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = std::thread::spawn(move || s_client(port, &[], b""));
    let (mut stream, _) = listener.accept().unwrap();
    let mut hello = vec![0; 4096];
    let count = stream.read(&mut hello).unwrap();
    drop(stream);
    client.join().unwrap();
    hello[..count].to_vec()
}

/// What curl prints of an answer, and its status; 000: there was none.
fn curl(certificates: &Certificates, port: u16, arguments: &[&str]) -> (String, String) {
    let url = format!("https://localhost:{port}/healthz");
    let ca = certificates.path("root.crt");
    let always = ["-s", "--max-time", "30", "-w", "\n%{http_code}", "--cacert", &ca, "--resolve"];
    let output = Command::new("curl").args(always).arg(format!("localhost:{port}:127.0.0.1")).args(arguments).arg(url).output();
    let output = output.expect("this test needs curl; scripts/test installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').expect("a status behind the body");
    (status.to_owned(), body.to_owned())
}

/// What `openssl s_client` says while this goes in.
fn s_client(port: u16, arguments: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("openssl");
    command.arg("s_client").args(["-connect", &format!("127.0.0.1:{port}")]).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("this test needs openssl");
    // Whoever was refused does not read it.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn faults(server: &Server, reason: &str) -> f64 {
    server.metric("campanile_tls_faults_total", &format!("reason=\"{reason}\""))
}

fn handshakes(server: &Server, version: &str, resumed: &str) -> f64 {
    server.metric("campanile_tls_handshakes_total", &format!("version=\"{version}\",resumed=\"{resumed}\""))
}

/// `tests/clients/python/tls_peer.py`, until it is dropped.
struct Peer {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Peer {
    fn start(certificates: &Certificates, port: u16, arguments: &[&str]) -> Peer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python/tls_peer.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(port.to_string()).arg(certificates.path("root.crt")).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Peer { stdin: child.stdin.take().unwrap(), child, lines }
    }

    /// Subscribed to `news`.
    fn subscribed(certificates: &Certificates, port: u16, arguments: &[&str]) -> Peer {
        let mut peer = Peer::start(certificates, port, arguments);
        peer.say(r#"{"type":"subscribe","channel":"news"}"#);
        while peer.event()["type"] != "subscribed" {}
        peer
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it says something")
    }

    /// The rest of the first line from here on that begins so.
    #[track_caller]
    fn told(&self, word: &str) -> String {
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
            assert!(!line.starts_with("end"), "{line}");
        }
    }

    #[track_caller]
    fn event(&self) -> Value {
        serde_json::from_str(&self.told("event ")).unwrap()
    }

    /// The number of the next message.
    #[track_caller]
    fn message(&self) -> u64 {
        let event = self.event();
        assert_eq!(event["type"], "notification", "{event}");
        event["seq"].as_u64().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = wait(&mut self.child, PATIENCE);
    }
}

/// Every peer, every version and suite, with either of the two record layers.
#[test]
fn foreign_clients_are_served() {
    let certificates = certificates("foreign");
    for sessions in ["compact", "rustls"] {
        let server = launch(&certificates, &["--tls-sessions", sessions]).start();
        let port = server.listen.port();
        for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
            assert_eq!(curl(&certificates, port, &["--tls13-ciphers", suite]), ("200".into(), "ok\n".into()), "{suite}");
        }
        for suite in ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"] {
            assert_eq!(curl(&certificates, port, &["--tls-max", "1.2", "--ciphers", suite]), ("200".into(), "ok\n".into()), "{suite}");
        }
        assert_eq!((handshakes(&server, "1.3", "no"), handshakes(&server, "1.2", "no")), (3.0, 3.0));

        for version in ["1.3", "1.2"] {
            let mut peer = Peer::subscribed(&certificates, port, &["--version", version]);
            for bytes in [1, 130, 16_300, 16_384, 40_000] {
                let seq = server.publish("news", &json!("x".repeat(bytes)));
                assert_eq!(peer.message(), seq, "{version}, {bytes}");
            }
            // A burst is several records.
            let burst: Vec<u64> =
                (0..300).map(|number| server.publish("news", &json!({"number": number, "text": "y".repeat(500)}))).collect();
            assert_eq!(burst.iter().map(|_| peer.message()).collect::<Vec<_>>(), burst, "{version}");
            // What it sends may be large, too.
            peer.say(&format!(r#"{{"type":"ping","id":"{}"}}"#, "z".repeat(3000)));
            assert!(peer.event()["type"] == "error", "an id of 3,000 bytes is too long");
            peer.say("unwrap");
            assert_eq!(peer.told("end"), "1000");
            assert_eq!(peer.told("closed"), "", "it was told close_notify");
        }

        let ca = certificates.path("root.crt");
        let output = Command::new("gnutls-cli")
            .args(["--x509cafile", &ca, "--port", &port.to_string(), "localhost"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .and_then(|mut child| {
                child.stdin.take().unwrap().write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
                child.wait_with_output()
            })
            .expect("this test needs gnutls-cli; scripts/test installs it");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
        server.eventually_metric("campanile_tls_sessions", "", 0.0);
    }
}

#[test]
fn node_hears_what_it_subscribed_to() {
    let certificates = certificates("node");
    let server = launch(&certificates, &[]).start();
    let script = "const WebSocket = require('ws'); const socket = new WebSocket(process.argv[1]); \
        socket.on('open', () => socket.send(JSON.stringify({type: 'subscribe', channel: 'news'}))); \
        socket.on('message', (data) => { console.log(String(data)); if (String(data).includes('notification')) socket.close(); });";
    let mut child = Command::new("node")
        .args(["-e", script, &format!("wss://localhost:{}/ws?format=json", server.listen.port())])
        .env("NODE_EXTRA_CA_CERTS", certificates.path("root.crt"))
        .current_dir(languages::node())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until =
        |part: &str| lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(part))).unwrap_or_else(|| panic!("no {part}"));
    until("subscribed").unwrap();
    server.publish("news", &json!("over TLS"));
    assert!(until("notification").unwrap().contains("over TLS"));
    assert!(wait(&mut child, PATIENCE).expect("it ends").success());
}

/// A browser, whose user has given it a CA. It has the page and the messages over TLS, and leaves without a close_notify.
#[test]
fn chromium_believes_a_ca_of_its_users() {
    let certificates = certificates("chromium");
    let server = launch(&certificates, &[]).start();
    let home = certificates.path("browser");
    chromium::trust(Path::new(&home), &certificates.path("root.crt"));
    let port = server.listen.port();
    let (browser, mut page, console) = Page::open(&format!("https://localhost:{port}/healthz"), Path::new(&home));
    let browser = Browser(browser);
    page.evaluate(&format!(
        "const socket = new WebSocket('wss://localhost:{port}/ws?format=json&channel=news');
         socket.onmessage = (event) => console.log(event.data);
         socket.onclose = (event) => console.log('closed', event.code);"
    ));
    let event = || serde_json::from_str::<Value>(&console.recv_timeout(PATIENCE).expect("the page prints")).unwrap();
    while event()["type"] != "subscribed" {}
    let seq = server.publish("news", &json!("hello"));
    assert_eq!((event()["seq"].as_u64(), handshakes(&server, "1.3", "no") > 0.0), (Some(seq), true));
    drop(browser);
    server.eventually_metric("campanile_tls_sessions", "", 0.0);
    assert_eq!(server.metric("campanile_tls_faults_total", ""), 0.0);
}

/// s_client takes `k` and `K` at the beginning of what it reads for a change of keys, with and without the wish that we change ours.
#[test]
fn keys_change_while_messages_flow() {
    let certificates = certificates("keys");
    let server = launch(&certificates, &[]).start();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-brief", "-connect", &server.listen.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("this test needs openssl");
    let (mut stdin, stdout, stderr) = (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (sender, chunks) = channel();
    for mut pipe in [Box::new(stdout) as Box<dyn Read + Send>, Box::new(stderr)] {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let _ = sender.send(buffer[..count].to_vec());
            }
        });
    }
    let mut came = Vec::new();
    let mut until = |part: &str| {
        while !came.windows(part.len()).any(|window| window == part.as_bytes()) {
            let chunk = chunks.recv_timeout(PATIENCE);
            came.extend(chunk.unwrap_or_else(|_| panic!("no {part:?}: {}", String::from_utf8_lossy(&came))));
        }
        came.clear();
    };
    stdin.write_all(frames::request("/ws/news?format=json", "").as_bytes()).unwrap();
    until("subscribed");
    for (number, key) in ["k", "K", "K", "k"].iter().enumerate() {
        stdin.write_all(format!("{key}\n").as_bytes()).unwrap();
        // What is typed is a command only by itself.
        until("KEYUPDATE");
        stdin.write_all(&frames::frame(0x1, format!(r#"{{"type":"ping","id":{number}}}"#).as_bytes())).unwrap();
        until(&format!(r#""id":{number}"#));
        server.publish("news", &json!(format!("after {number}")));
        until(&format!("after {number}"));
    }
    drop(stdin);
    let _ = wait(&mut child, PATIENCE);
    assert_eq!(server.metric("campanile_tls_faults_total", ""), 0.0);
}

#[test]
fn sessions_are_taken_up_again_here_and_on_another_node() {
    let certificates = certificates("tickets");
    let keys = certificates.path("tickets");
    std::fs::write(&keys, [7; 48]).unwrap();
    let nodes = [0, 1].map(|_| launch(&certificates, &["--tls-ticket-keys", &keys]).start());
    let alone = launch(&certificates, &[]).start();
    let session = certificates.path("session");
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (flag, name) in [("-tls1_3", "1.3"), ("-tls1_2", "1.2")] {
        let ask = |server: &Server, how: &str| s_client(server.listen.port(), &[flag, "-ign_eof", how, &session], request);
        let said = ask(&nodes[0], "-sess_out");
        assert!(said.contains("200 OK"), "{said}");
        for node in &nodes {
            let said = ask(node, "-sess_in");
            assert!(said.contains("Reused, TLSv1") && said.contains("200 OK"), "{name}: {said}");
            assert_eq!(handshakes(node, name, "yes"), 1.0);
        }
        let said = ask(&alone, "-sess_in");
        assert!(said.contains("New, TLSv1") && said.contains("200 OK"), "its keys are its own: {said}");
    }
}

/// Which certificate a client is shown that asks for this name.
fn shown(server: &Server, name: &str) -> String {
    let said = s_client(server.listen.port(), &["-servername", name], b"");
    said.lines().find_map(|line| line.strip_prefix("subject=")).unwrap_or_else(|| panic!("{said}")).trim().replace(' ', "")
}

#[test]
fn certificates_change_and_nobody_is_cut() {
    let certificates = certificates("reload");
    certificates.signed("other", "root", &["other.example"]);
    let path = |file: &str| certificates.path(file);
    let (other_cert, other_key) = (path("other.crt"), path("other.key"));
    let server = launch(&certificates, &["--tls-cert", &other_cert, "--tls-key", &other_key]).start();
    assert_eq!(
        [shown(&server, "localhost"), shown(&server, "other.example"), shown(&server, "third")],
        ["CN=server", "CN=other", "CN=server"]
    );

    let peers: Vec<Peer> =
        ["1.2", "1.3"].iter().map(|version| Peer::subscribed(&certificates, server.listen.port(), &["--version", version])).collect();
    certificates.signed("new", "root", &["localhost"]);
    std::fs::copy(path("new.key"), path("server.key")).unwrap();
    std::fs::copy(path("new.crt"), path("server.crt")).unwrap();
    server.eventually("a change of the files is seen", |server| shown(server, "localhost") == "CN=new");
    assert_eq!(shown(&server, "other.example"), "CN=other");

    // What does not fit together changes nothing.
    std::fs::copy(path("other.key"), path("server.key")).unwrap();
    let (status, answer) = server.post("/reload", "");
    assert_eq!(status, 422, "{answer}");
    assert!(answer.to_string().contains("is not the key of"), "{answer}");
    assert_eq!(shown(&server, "localhost"), "CN=new");

    let seq = server.publish("news", &json!("to those who came before"));
    assert!(peers.iter().all(|peer| peer.message() == seq));
}

#[test]
fn files_that_are_of_no_use_end_the_start_and_are_named() {
    let certificates = certificates("files");
    let path = |file: &str| certificates.path(file);
    certificates.signed_for("expired", "/CN=expired", "root", &["localhost"], &["-days", "-1"]);
    certificates.signed("other", "root", &["localhost"]);
    let fails = |arguments: &[&str]| {
        let (code, said) = Launch::new(&[&TLS[..], arguments].concat()).fails();
        assert_eq!(code, 2, "{said}");
        said
    };
    let with = |cert: &str, key: &str| fails(&["--tls-cert", &path(cert), "--tls-key", &path(key)]);
    for (said, part) in [
        (fails(&[]), "there is no certificate for it"),
        (fails(&["--tls-cert", &path("server.crt")]), "there are 1 certificates and 0 keys"),
        (with("none.crt", "server.key"), "none.crt"),
        (with("server.key", "server.key"), "no certificate"),
        (with("server.crt", "root.crt"), "no private key"),
        (with("server.crt", "other.key"), "is not the key of"),
        (with("expired.crt", "expired.key"), "expired"),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn clients_show_certificates_of_their_own() {
    let certificates = certificates("clients");
    certificates.root("stranger");
    certificates.signed_for("pump", "/O=Works/OU=plant/CN=pump-7", "root", &[], &["-days", "2"]);
    certificates.signed("mallory", "stranger", &[]);
    certificates.signed_for("old", "/CN=old", "root", &[], &["-days", "-1"]);
    let ca = certificates.path("root.crt");
    let own = |name: &str| [certificates.path(&format!("{name}.crt")), certificates.path(&format!("{name}.key"))];
    let asks = |how: &str, file: &str| launch(&certificates, &["--tls-client-auth", how, "--tls-client-ca", &ca]).file(file).start();

    let server = asks("required", "");
    let port = server.listen.port();
    let [cert, key] = own("pump");
    assert_eq!(curl(&certificates, port, &["--cert", &cert, "--key", &key]).0, "200");
    for (name, flags) in [("nobody", Vec::new()), ("mallory", own("mallory").to_vec()), ("old", own("old").to_vec())] {
        let flags: Vec<&str> = flags.iter().zip(["--cert", "--key"]).flat_map(|(file, flag)| [flag, file.as_str()]).collect();
        for version in [&[][..], &["--tls-max", "1.2"]] {
            assert_eq!(curl(&certificates, port, &[&flags, version].concat()).0, "000", "{name}");
        }
    }
    server.eventually_metric("campanile_tls_faults_total", "reason=\"client_certificate\"", 6.0);

    // By their names, whoever has one.
    let rules = "auth = \"certificate\"\nuser_channel = true\n";
    let server = asks("if_given", rules);
    let port = server.listen.port();
    for version in ["1.3", "1.2"] {
        let mut peer = Peer::start(&certificates, port, &["--version", version, "--cert", &cert, "--key", &key]);
        assert_eq!(peer.event()["type"], "connected");
        assert_eq!(peer.event()["channel"], "user:pump-7");
        peer.say(r#"{"type":"subscribe","channel":"group:plant"}"#);
        assert_eq!(peer.event()["type"], "subscribed");
        peer.say(r#"{"type":"subscribe","channel":"group:other"}"#);
        assert_eq!(peer.event()["code"], "not_allowed");
    }
    let nobody = Peer::start(&certificates, port, &[]);
    assert!(nobody.line().starts_with("tls") && nobody.line().starts_with("subject"));
    let end = nobody.line();
    assert!(end.contains("401") && end.contains("knows clients by their certificates"), "{end}");
}

/// Behind what a proxy says of the client, which curl puts before TLS.
#[test]
fn a_proxy_header_comes_before_tls() {
    let certificates = certificates("proxy");
    let (cert, key) = (certificates.path("server.crt"), certificates.path("server.key"));
    let listen = ["--listen", "proxy+tls://127.0.0.1:0", "--trusted-proxies", "127.0.0.1", "--tls-cert", &cert, "--tls-key", &key];
    let server = Server::start(&listen);
    let port = server.listen.port();
    assert_eq!(curl(&certificates, port, &["--haproxy-protocol"]), ("200".into(), "ok\n".into()));
    assert_eq!(curl(&certificates, port, &[]).0, "000", "a header is expected");

    // In one segment with the first words of TLS, and byte by byte: the handshake is not over, but it goes on.
    let hello = client_hello();
    let whole = [b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 443\r\n".to_vec(), hello].concat();
    for size in [whole.len(), 1] {
        let mut stream = TcpStream::connect(server.listen).unwrap();
        stream.set_nodelay(true).unwrap();
        whole.chunks(size).for_each(|part| stream.write_all(part).unwrap());
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..3], [0x16, 3, 3], "a ServerHello");
    }
}

/// A reader that stalls in the middle of a record gets the rest of it, and then everything else.
#[test]
fn a_reader_that_stalls_misses_nothing() {
    let certificates = certificates("stalls");
    for sessions in ["compact", "rustls"] {
        let limits = ["--tls-sessions", sessions, "--log-bytes-per-channel", "16m", "--history-count", "0"];
        let server = launch(&certificates, &limits[..4]).start();
        for version in ["1.3", "1.2"] {
            let mut peer = Peer::subscribed(&certificates, server.listen.port(), &["--version", version, "--narrow"]);
            peer.say("stop");
            peer.told("stopped");
            let published: Vec<u64> = (0..700).map(|number| server.publish("news", &json!([number, "x".repeat(9_000)]))).collect();
            server.eventually("its socket is full", |server| server.metric("campanile_lagging_subscriptions", "") > 0.0);
            peer.say("go");
            assert_eq!(published.iter().map(|_| peer.message()).collect::<Vec<_>>(), published, "{sessions} {version}");
        }
        assert_eq!(server.metric("campanile_tls_faults_total", ""), 0.0);
    }
}
