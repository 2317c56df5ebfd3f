//! Keys from a URL: a small server of the test's own publishes them, changes them, fails, and is slow; the real server goes by what it got last.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::Client;
use crate::support::frames;
use crate::support::server::{Launch, Server};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

const PRIVATE: [&str; 2] = [include_str!("../keys/p256.private.pem"), include_str!("../keys/other.private.pem")];
const PUBLIC: [&str; 2] = [include_str!("../keys/p256.public.pem"), include_str!("../keys/other.public.pem")];

/// A key of P-256 ends with its point.
fn jwk(key: usize, id: &str) -> Value {
    let body: String = PUBLIC[key].lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).unwrap();
    let (x, y) = der[der.len() - 64..].split_at(32);
    json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": id, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
}

fn token(key: usize, id: &str) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
    encode(&header, &json!({"sub": "u", "exp": now_s + 600}), &EncodingKey::from_ec_pem(PRIVATE[key].as_bytes()).unwrap()).unwrap()
}

/// Answers every request with the same, until it is told another.
struct Publisher {
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
}

impl Publisher {
    fn new(tls: Option<Arc<rustls::ServerConfig>>) -> Publisher {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let publisher = Publisher { address: listener.local_addr().unwrap(), answer: Arc::default(), asked: Arc::default() };
        let (answer, asked) = (publisher.answer.clone(), publisher.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, asked, tls) = (answer.clone(), asked.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &answer, &asked),
                    Some(tls) => serve(rustls::StreamOwned::new(rustls::ServerConnection::new(tls).unwrap(), stream), &answer, &asked),
                });
            }
        });
        publisher.says(404, "", b"nothing yet");
        publisher
    }

    fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    fn says(&self, status: u16, headers: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {status} So\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        *self.answer.lock().unwrap() = [head.as_bytes(), body].concat();
    }

    fn publishes(&self, keys: &[Value]) {
        self.says(200, "Content-Type: application/json\r\n", json!({"keys": keys}).to_string().as_bytes());
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

fn serve(stream: impl Read + Write, answer: &Mutex<Vec<u8>>, asked: &AtomicUsize) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
        line.clear();
    }
    asked.fetch_add(1, SeqCst);
    let answer = answer.lock().unwrap().clone();
    let mut stream = reader.into_inner();
    // What is slow says its head and no more.
    if answer.is_empty() {
        let _ = stream.write_all(b"HTTP/1.1 200 So\r\nContent-Length: 100\r\n\r\n{").and_then(|()| stream.flush());
        std::thread::park();
    }
    let _ = stream.write_all(&answer).and_then(|()| stream.flush());
}

fn start(url: &str) -> Server {
    Launch::new(&[]).file(&format!("auth = \"jwt\"\njwks_url = \"{url}\"\n")).start()
}

fn answer(server: &Server, token: &str) -> (u16, String) {
    let mut client = Client::dial(server.listen);
    client.send(frames::request(&format!("/ws?token={token}"), "").as_bytes());
    let head = client.head();
    let status = frames::status(head.as_bytes());
    (status, if status == 101 { head } else { head + &client.rest() })
}

fn fetches(server: &Server, result: &str) -> f64 {
    server.metric("campanile_jwks_fetches_total", &format!("result=\"{result}\""))
}

#[test]
fn a_server_starts_without_keys_and_is_ready_when_it_has_some() {
    // Nobody listens there yet.
    let publisher = Publisher::new(None);
    let server = start(&publisher.url());
    server.eventually("a fetch fails", |server| fetches(server, "failed") >= 1.0);
    let (status, body) = server.get("/readyz");
    assert!(status == 503 && body.contains("jwks_url"), "{body}");
    let (status, text) = answer(&server, &token(0, "a"));
    assert!(status == 503 && text.contains("\r\nRetry-After: ") && text.contains("try again"), "{text}");
    assert_eq!(server.metric("campanile_connections_refused_total", "reason=\"key_awaited\""), 1.0);
    server.log_when("jwks_url: no keys can be fetched, 0 keys stay: it is answered 404");
    publisher.publishes(&[jwk(0, "a")]);
    server.eventually("keys are there", Server::is_ready);
    let mut client = Client::connect(server.listen, &format!("/ws?format=json&token={}", token(0, "a")));
    assert_eq!(client.event()["type"], "connected");
    assert_eq!(server.metric("campanile_token_keys", ""), 1.0);
    // It is told when the keys are in force already.
    server.eventually("the fetch is told", |server| {
        let info: Value = serde_json::from_str(&server.get("/info").1).unwrap();
        info["reload"]["jwks_fetched_unix_ms"].is_u64() && info["reload"]["token_keys"] == 1
    });
    // While it cannot be reached, the last ones stay.
    publisher.says(500, "", b"");
    assert_eq!(answer(&server, &token(0, "a")).0, 101);
}

/// A key that is new is asked for at once; whoever makes keys up does not make the server ask again and again.
#[test]
fn an_unknown_key_is_asked_for_and_a_flood_of_them_is_not() {
    let publisher = Publisher::new(None);
    publisher.publishes(&[jwk(0, "a")]);
    let server = start(&publisher.url());
    server.eventually("keys are there", Server::is_ready);
    assert_eq!(publisher.asked(), 1);
    let mut early = Client::connect(server.listen, &format!("/ws?format=json&token={}", token(0, "a")));
    assert_eq!(early.event()["type"], "connected");
    publisher.publishes(&[jwk(1, "b")]);
    let (status, text) = answer(&server, &token(1, "b"));
    assert!(status == 503 && text.contains("Retry-After"), "{text}");
    server.eventually("the new key is fetched", |server| answer(server, &token(1, "b")).0 == 101);
    assert_eq!(publisher.asked(), 2);
    // The old one is published no more: who is here stays, and nobody comes with it.
    early.command(json!({"type": "ping", "id": 1}));
    assert_eq!(early.event()["type"], "pong");
    // Whoever makes names up does not have it fetched again, and nobody else is sent away for good: there may be such a key by the next fetch.
    for number in 0..2000 {
        let (status, text) = answer(&server, &token(0, &format!("made-up-{number}")));
        assert!(status == 503 && text.contains("Retry-After"), "{text}");
    }
    assert_eq!(answer(&server, &token(0, "a")).0, 503);
    early.command(json!({"type": "refresh", "token": token(0, "made-up"), "id": 2}));
    assert_eq!(early.event()["code"], "busy");
    assert_eq!(publisher.asked(), 2, "not again within half a minute");
    // What that fetch does not bring is no key of this server's.
    publisher.publishes(&[jwk(1, "b"), jwk(0, "c")]);
    assert_eq!(answer(&server, &token(0, "c")).0, 503);
    server.eventually("the next fetch brings it", |server| answer(server, &token(0, "c")).0 == 101);
    // Keys are in force before it is known what is not among them.
    server.eventually("what it has not brought is told", |server| {
        let (status, text) = answer(server, &token(0, "made-up-7"));
        status == 401 && text.contains("(unknown_key)")
    });
    assert_eq!(publisher.asked(), 3);
}

#[test]
fn what_is_published_wrongly_does_not_take_the_keys_away() {
    let publisher = Publisher::new(None);
    publisher.publishes(&[jwk(0, "a")]);
    let server = start(&publisher.url());
    server.eventually("keys are there", Server::is_ready);
    // Each is read because a token asks for it: by another server, as this one waits half a minute before it asks again.
    let secret = json!({"kty": "oct", "kid": "s", "k": URL_SAFE_NO_PAD.encode([7; 32])});
    let many: Vec<Value> = (0..40).map(|number| jwk(0, &number.to_string())).collect();
    let huge = format!("{{\"keys\":[{}],\"pad\":\"{}\"}}", jwk(0, "a"), "x".repeat(10 << 20));
    for (status, headers, body, words) in [
        (200, "", json!({"keys": [secret]}).to_string(), "it is a secret (`oct`)"),
        (200, "", "{\"keys\":[".to_owned(), "it is not JSON"),
        (200, "", json!({"keys": many}).to_string(), "more than 32 keys"),
        (200, "", huge, "the document is larger than 1048576 bytes"),
        (302, "Location: http://192.0.2.1/\r\n", String::new(), "leads elsewhere"),
        (503, "", String::new(), "it is answered 503"),
        (200, "Content-Type: text/html\r\n", "<html>".to_owned(), "it is not JSON"),
    ] {
        let other = Publisher::new(None);
        other.says(status, headers, body.as_bytes());
        let other = start(&other.url());
        other.eventually("it fails", |server| fetches(server, "failed") >= 1.0);
        assert!(other.log_when("no keys can be fetched").contains(words), "{words}: {}", other.log());
        assert_eq!(answer(&other, &token(0, "a")).0, 503);
    }
    publisher.says(200, "", b"{\"keys\":[");
    assert_eq!(answer(&server, &token(1, "b")).0, 503);
    server.eventually("it is asked", |server| fetches(server, "failed") >= 1.0);
    assert_eq!(answer(&server, &token(0, "a")).0, 101, "the last good keys stay");
    // A secret among good keys is left out, one that stands twice serves twice, what is unknown is ignored.
    let mixed = Publisher::new(None);
    mixed.publishes(&[secret, jwk(0, "a"), jwk(1, "a"), json!({"kty": "moon"}), json!(5)]);
    let server = start(&mixed.url());
    server.eventually("keys are there", Server::is_ready);
    assert_eq!((answer(&server, &token(0, "a")).0, answer(&server, &token(1, "a")).0), (101, 101));
    assert_eq!(server.metric("campanile_token_keys", ""), 2.0);
}

#[test]
fn a_publisher_that_never_ends_its_answer_is_given_up() {
    let publisher = Publisher::new(None);
    publisher.answer.lock().unwrap().clear();
    let server = start(&publisher.url());
    // The control thread answers meanwhile.
    server.eventually("it is asked", |_| publisher.asked() == 1);
    assert_eq!(server.get("/healthz").0, 200);
    server.eventually("it is given up", |server| fetches(server, "failed") >= 1.0);
    publisher.publishes(&[jwk(0, "a")]);
    server.eventually("keys are there", Server::is_ready);
}

#[test]
fn keys_come_over_tls_from_whom_the_host_trusts() {
    let certificates = vec![CertificateDer::from_pem_slice(include_bytes!("../keys/tls.cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../keys/tls.private.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let publisher = Publisher::new(Some(Arc::new(builder.with_no_client_auth().with_single_cert(certificates, key).unwrap())));
    publisher.publishes(&[jwk(0, "a")]);
    let url = format!("https://localhost:{}/jwks.json", publisher.address.port());
    let launch = |trusted: &str| {
        let launch = Launch::new(&[]).file(&format!("auth = \"jwt\"\njwks_url = \"{url}\"\n"));
        let trusted = format!("{}/tests/keys/{trusted}", env!("CARGO_MANIFEST_DIR"));
        let child = launch.command().env("SSL_CERT_FILE", trusted).stderr(Stdio::piped()).spawn().unwrap();
        Launch::adopt(child)
    };
    let server = launch("tls.ca.pem");
    server.eventually("keys are there", Server::is_ready);
    server.eventually("its shards have them", |server| answer(server, &token(0, "a")).0 == 101);
    // Whom nobody trusts publishes nothing.
    let server = launch("p256.public.pem");
    server.eventually("it fails", |server| fetches(server, "failed") >= 1.0);
    assert_eq!(server.get("/readyz").0, 503);
    assert_eq!(fetches(&server, "good"), 0.0);
}

/// An operator who has taken a key back does not wait until the others have grown old.
#[test]
fn a_reload_fetches_the_keys_again() {
    let publisher = Publisher::new(None);
    publisher.says(200, "Cache-Control: max-age=86400\r\n", json!({"keys": [jwk(0, "a"), jwk(1, "b")]}).to_string().as_bytes());
    let server = start(&publisher.url());
    server.eventually("keys are there", Server::is_ready);
    assert_eq!(answer(&server, &token(0, "a")).0, 101);
    publisher.publishes(&[jwk(1, "b")]);
    assert_eq!(server.post("/reload", "").0, 200);
    server.eventually("the key is taken back", |server| answer(server, &token(0, "a")).0 == 401);
    assert_eq!(answer(&server, &token(1, "b")).0, 101);
    // The same ones in other words change nothing.
    let before = server.log().matches("keys verify tokens now").count();
    publisher.says(200, "", format!("{{ \"x\": 1,\n\"keys\" : [ {} ] }}", jwk(1, "b")).as_bytes());
    let asked = publisher.asked();
    assert_eq!(server.post("/reload", "").0, 200);
    server.eventually("it is asked", |server| publisher.asked() > asked && fetches(server, "good") >= 3.0);
    assert_eq!(server.log().matches("keys verify tokens now").count(), before);
}

/// Clients of the one whose place is taken are let in, so there must be keys for them first.
#[test]
fn nobody_takes_a_place_without_keys() {
    let publisher = Publisher::new(None);
    publisher.publishes(&[jwk(0, "a")]);
    let mut first = start(&publisher.url());
    first.eventually("keys are there", Server::is_ready);
    publisher.says(500, "", b"");
    let (listen, control) = (first.listen.to_string(), first.control.to_string());
    let next = || {
        let file = format!("auth = \"jwt\"\njwks_url = \"{}\"\n", publisher.url());
        Launch::new(&["--listen", &listen, "--control", &control, "--takeover"]).file(&file)
    };
    let (code, told) = next().fails();
    assert!(code == 1 && told.contains("jwks_url: no keys can be fetched"), "{told}");
    assert!(first.is_ready(), "it goes on");
    assert_eq!(answer(&first, &token(0, "a")).0, 101);
    publisher.publishes(&[jwk(0, "a")]);
    let second = next().start();
    assert_eq!(answer(&second, &token(0, "a")).0, 101, "from the first moment on");
    assert_eq!(first.exit_code(), 0);
}

/// The command goes by the keys that a server would fetch.
#[test]
fn a_token_is_explained_by_fetched_keys() {
    let publisher = Publisher::new(None);
    publisher.publishes(&[jwk(0, "a")]);
    let folder = std::env::temp_dir().join(format!("campanile-jwks-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("campanile.toml"), format!("auth = \"jwt\"\njwks_url = \"{}\"\n", publisher.url())).unwrap();
    let inspect = |token: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_campanile"));
        let output = command.current_dir(&folder).args(["token", "--inspect", token]).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    assert!(inspect(&token(0, "a")).contains("taken: user u"), "{}", inspect(&token(0, "a")));
    assert!(inspect(&token(1, "b")).contains("(unknown_key)"), "{}", inspect(&token(1, "b")));
    publisher.says(500, "", b"");
    assert!(inspect(&token(0, "a")).contains("jwks_url: it is answered 500"), "{}", inspect(&token(0, "a")));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_url_for_keys_is_told() {
    for (url, words) in [
        ("http://keys.example/jwks.json", "anybody on the way could put in keys"),
        ("ftp://keys.example/", "`ftp://` is not a scheme"),
        ("keys.example", "it is not a whole URL"),
        ("https://user:hush@keys.example/", "it holds a login"),
    ] {
        let (code, told) = Launch::new(&[]).file(&format!("auth = \"jwt\"\njwks_url = \"{url}\"\n")).fails();
        assert!(code == 2 && told.contains("jwks_url") && told.contains(words) && !told.contains("hush"), "{told}");
    }
    // Somebody else's answer is none.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(TcpStream::connect(closed).is_err());
    let server = start(&format!("http://{closed}/"));
    server.eventually("it fails", |server| fetches(server, "failed") >= 1.0);
}
