//! The ways in, against the real server: PROXY protocol as curl and HAProxy speak it, `X-Forwarded-For`, unix sockets, and what one address may take.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::frames;
use crate::support::redis::{PATIENCE, free_port};
use crate::support::server::{Launch, Server, wait};
use serde_json::{Value, json};

const PROXIED: [&str; 4] = ["--listen", "proxy+tcp://127.0.0.1:0", "--trusted-proxies", "127.0.0.1"];

fn proxied(more: &[&str]) -> Server {
    Server::start(&[&PROXIED, more].concat())
}

/// What curl prints of an answer, and its status.
fn curl(arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl").args(["-s", "--max-time", "30", "-w", "\n%{http_code}"]).args(arguments).output();
    let output = output.expect("this test needs curl; scripts/test installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').expect("a status behind the body");
    (status.to_owned(), body.to_owned())
}

fn refused(server: &Server, reason: &str) -> f64 {
    server.metric("campanile_connections_refused_total", &format!("reason=\"{reason}\""))
}

/// A directory for sockets, short as their paths must be.
fn place(test: &str) -> PathBuf {
    let place = std::env::temp_dir().join(format!("campanile-{}-{test}", std::process::id()));
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(&place).unwrap();
    place
}

#[test]
fn curl_speaks_proxy_protocol_to_a_listener_that_is_marked_and_is_told_where_it_is_not() {
    let server = proxied(&[]);
    let url = format!("http://{}/healthz", server.listen);
    assert_eq!(curl(&["--haproxy-protocol", &url]), ("200".into(), "ok\n".into()));
    let (status, text) = curl(&[&url]);
    assert_eq!(status, "400");
    assert!(text.contains("must begin with a PROXY protocol header: there is none"), "{text}");
    assert_eq!(refused(&server, "proxy_header"), 1.0);

    let plain = Server::start(&[]);
    let (status, text) = curl(&["--haproxy-protocol", &format!("http://{}/healthz", plain.listen)]);
    assert_eq!(status, "400");
    assert!(text.contains("PROXY protocol header, and none is expected here: mark the listener"), "{text}");
    assert_eq!(refused(&plain, "proxy_unexpected"), 1.0);
}

/// HAProxy in front of a server, until it is dropped.
struct HaProxy {
    child: Child,
    ports: Vec<u16>,
}

impl HaProxy {
    /// A frontend for each of these `server` lines' options, in mode tcp or http.
    fn start(place: &Path, backends: &[(&str, &str, String)]) -> HaProxy {
        let mut config =
            String::from("defaults\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n  timeout tunnel 60s\n");
        let mut ports = Vec::new();
        for (number, (mode, more, target)) in backends.iter().enumerate() {
            let port = free_port();
            config += &format!("listen l{number}\n  mode {mode}\n  bind 127.0.0.1:{port}\n  {more}\n  server s {target}\n");
            ports.push(port);
        }
        let file = place.join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let command = Command::new("haproxy").arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).spawn();
        let mut child = command.expect("this test needs haproxy; scripts/test installs it");
        let begin = Instant::now();
        for &port in &ports {
            while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(child.try_wait().unwrap().is_none(), "haproxy does not start: {}", std::fs::read_to_string(&file).unwrap());
                assert!(begin.elapsed() < PATIENCE, "haproxy does not listen");
                std::thread::sleep(Duration::from_millis(20)); // another program's port has no event
            }
        }
        HaProxy { child, ports }
    }

    fn address(&self, frontend: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[frontend]))
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = wait(&mut self.child, PATIENCE);
    }
}

/// The status of an upgrade from this address of this host, and the connection.
fn upgrade_from(last: u8, address: SocketAddr) -> (String, Client) {
    let mut client = Client::dial_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), address);
    client.send(frames::request("/ws?format=json", "").as_bytes());
    let head = client.head();
    (head.split(' ').nth(1).unwrap().to_owned(), client)
}

/// The address that HAProxy names is the one that is limited: each client may have one connection, and HAProxy as many as it likes.
fn limits_by_haproxy(test: &str, server: &Server, backends: &[(&str, &str, String)]) {
    let haproxy = HaProxy::start(&place(test), backends);
    for (frontend, backend) in backends.iter().enumerate() {
        let address = haproxy.address(frontend);
        let (status, mut first) = upgrade_from(2, address);
        assert_eq!(status, "101", "{backend:?}");
        assert_eq!(first.event()["type"], "connected");
        first.command(json!({"type": "subscribe", "channel": "news"}));
        assert_eq!(first.event()["type"], "subscribed");
        let (status, second) = upgrade_from(2, address);
        assert_eq!(status, "429", "{backend:?}");
        let (status, other) = upgrade_from(3, address);
        assert_eq!(status, "101", "{backend:?}");
        server.publish("news", &json!("through the proxy"));
        assert_eq!(first.event()["data"], "through the proxy");
        drop((first, second, other));
        server.eventually_metric("campanile_connections", "", 0.0);
    }
    assert_eq!(refused(server, "connections_per_address"), backends.len() as f64);
}

#[test]
fn haproxy_names_its_clients_by_both_versions() {
    let server = proxied(&["--connections-per-address", "1", "--shards", "2"]);
    let target = |options: &str| format!("{} {options}", server.listen);
    // The health checks are LOCAL; without them HAProxy would take the server for down.
    limits_by_haproxy(
        "haproxy",
        &server,
        &[
            ("tcp", "", target("send-proxy")),
            ("tcp", "", target("send-proxy-v2")),
            ("tcp", "", target("send-proxy-v2 proxy-v2-options crc32c,ssl check inter 100ms")),
            ("tcp", "option httpchk GET /healthz", target("send-proxy-v2 check-send-proxy check inter 100ms")),
        ],
    );
    assert_eq!(refused(&server, "proxy_header"), 0.0);
    assert_eq!(refused(&server, "proxy_untrusted"), 0.0);
}

#[test]
fn haproxy_names_its_clients_in_x_forwarded_for() {
    let server = Server::start(&["--trusted-proxies", "127.0.0.1", "--connections-per-address", "1"]);
    limits_by_haproxy("forwarded", &server, &[("http", "option forwardfor", server.listen.to_string())]);
}

#[test]
fn haproxy_speaks_proxy_protocol_over_a_unix_socket() {
    let place = place("haproxy-unix");
    let listen = format!("proxy+unix://{}", place.join("public").display());
    let server = Server::start(&["--listen", &listen, "--connections-per-address", "1", "--shards", "2"]);
    limits_by_haproxy("haproxy-unix-config", &server, &[("tcp", "", format!("unix@{} send-proxy-v2", place.join("public").display()))]);
}

#[test]
fn whoever_is_no_trusted_proxy_is_closed_unheard_and_counted() {
    let server = Server::start(&["--listen", "proxy+tcp://127.0.0.1:0", "--trusted-proxies", "127.0.0.9"]);
    let mut stranger = Client::dial(server.listen);
    assert_eq!(stranger.rest_bytes(), b"");
    server.eventually_metric("campanile_connections_refused_total", "reason=\"proxy_untrusted\"", 1.0);
    server.log_when("127.0.0.1 connects to a listener marked proxy+ and is none of trusted_proxies");
    let mut proxy = Client::dial_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), server.listen);
    proxy.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    drop(proxy.upgrade("/ws"));
}

#[test]
fn a_header_that_comes_one_byte_at_a_time_is_a_header() {
    let server = proxied(&[]);
    let mut client = Client::dial(server.listen);
    for byte in b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x01\x7F\0\0\x01\x11\x11\0\x50" {
        client.send(&[*byte]);
    }
    let mut client = client.upgrade("/ws/news?format=json");
    assert_eq!(client.event()["type"], "connected");
}

#[test]
fn a_unix_socket_serves_every_shard_and_goes_with_the_server() {
    for table in ["shared", "private"] {
        let place = place(&format!("unix-{table}"));
        let (public, control) = (place.join("public"), place.join("control"));
        let listen = format!("unix://{}?mode=666", public.display());
        let control_url = format!("unix://{}", control.display());
        // Left by a server that was killed.
        drop(std::os::unix::net::UnixListener::bind(&public).unwrap());
        let mut server =
            Launch::new(&["--listen", &listen, "--listen", "127.0.0.1:0", "--control", &control_url, "--shards", "3", "--fd-table", table])
                .start();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&public), mode(&control)), (0o666, 0o600));
        let mut clients: Vec<Client> = (0..20)
            .map(|_| {
                let mut client = Client::dial_unix(&public).upgrade("/ws/news?format=json");
                assert_eq!(client.event()["type"], "connected");
                assert_eq!(client.event()["type"], "subscribed");
                client
            })
            .collect();
        let socket = control.display().to_string();
        let publish = |data: Value| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_campanile"));
            let output = command.args(["publish", "news", &data.to_string(), "--control", &control_url]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(publish(json!("a")), "published to news: seq 1\n");
        // More than a unix socket takes at once.
        let large = "x".repeat(100_000);
        (0..5).for_each(|_| drop(publish(json!(large))));
        for client in &mut clients {
            assert_eq!(client.event()["data"], "a");
            (0..5).for_each(|_| assert_eq!(client.event()["data"], large.as_str()));
        }
        let (status, info) = curl(&["--unix-socket", &socket, "http://localhost/info"]);
        let info: Value = serde_json::from_str(&info).unwrap();
        assert_eq!((status.as_str(), &info["control"]), ("200", &Value::from(control_url.as_str())));
        assert_eq!(info["listen"][0], listen.as_str());
        let (_, metrics) = curl(&["--unix-socket", &socket, "http://localhost/metrics"]);
        assert!(
            metrics.lines().filter(|line| line.starts_with("campanile_connections{")).all(|line| !line.ends_with(" 0")),
            "each shard has some"
        );

        // A second server is told, and the first goes on.
        let (code, error) = Launch::new(&["--listen", &listen]).fails();
        assert!(code == 1 && error.contains("another process listens there"), "{error}");
        publish(json!("b"));
        server.terminate();
        assert_eq!(clients[0].event()["data"], "b");
        assert_eq!(clients[0].close_code(), Some(1012));
        drop(clients);
        assert_eq!(server.exit_code(), 0);
        assert!(!public.exists() && !control.exists());
    }
}

#[test]
fn a_file_that_is_no_socket_of_ours_is_left_alone() {
    let place = place("file");
    let file = place.join("precious");
    std::fs::write(&file, "data").unwrap();
    let url = format!("unix://{}", file.display());
    for flag in ["--listen", "--control"] {
        let (code, error) = Launch::new(&[flag, &url]).fails();
        assert!(code == 1 && error.contains("no socket, and it is left alone"), "{error}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"data");
    let (code, error) = Launch::new(&["--listen", &format!("unix://{}", place.join("no/such").display())]).fails();
    assert!(code == 1 && error.contains("there is no directory"), "{error}");
}

#[test]
fn listeners_stand_in_tables_of_the_file() {
    let place = place("tables");
    let text = format!(
        "trusted_proxies = [\"127.0.0.0/8\"]\ncontrol = \"127.0.0.1:0\"\nheartbeat = 3600\n\
         [[listen]]\naddress = \"proxy+tcp://127.0.0.1:0\"\n[[listen]]\naddress = \"unix://{}\"\nmode = 660\n",
        place.join("s").display()
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_campanile"));
    std::fs::write(place.join("campanile.toml"), text).unwrap();
    let child = command.arg("serve").current_dir(&place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let server = Launch::adopt(child);
    assert!(server.log().contains("(PROXY protocol)  unix://"), "{}", server.log());
    drop(Client::dial_unix(&place.join("s")).upgrade("/ws"));
    let mut client = Client::dial(server.listen);
    client.send(b"PROXY UNKNOWN\r\n");
    drop(client.upgrade("/ws"));
}

#[test]
fn one_address_may_have_so_many_connections() {
    let server = Server::start(&["--connections-per-address", "2", "--shards", "2"]);
    let held = [upgrade_from(2, server.listen), upgrade_from(2, server.listen)];
    assert!(held.iter().all(|(status, _)| status == "101"));
    let mut client = Client::dial_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), server.listen);
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n") && answer.contains("Retry-After: "), "{answer}");
    assert_eq!(upgrade_from(3, server.listen).0, "101");
    drop((held, client));
    server.eventually_metric("campanile_sockets", "", 0.0);
    assert_eq!(upgrade_from(2, server.listen).0, "101");
    assert_eq!(refused(&server, "connections_per_address"), 1.0);
}

#[test]
fn a_head_may_be_as_long_as_is_set() {
    let server = Server::start(&["--head-bytes-max", "20k"]);
    let long = format!("X-Long: {}\r\n", "y".repeat(16 << 10));
    let request = |more: &str| frames::request("/ws", "").replacen("\r\n", &format!("\r\n{more}"), 1);
    let mut client = Client::dial(server.listen);
    client.send(request(&long).as_bytes());
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    let mut client = Client::dial(server.listen);
    client.send(request(&long.repeat(2)).as_bytes());
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("20480 bytes"), "{answer}");
}
