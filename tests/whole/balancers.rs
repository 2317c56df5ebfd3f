//! Several nodes on one Redis behind a real nginx and a real HAProxy, which run the samples in `deploy/` with other addresses in them: WebSockets pass, a client that
//! comes back after its node has ended finds on another node what it missed, event streams pass too, heartbeats outlast time-outs, and health checks are answered as both ask.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::frames;
use crate::support::redis::{PATIENCE, RedisServer, free_port};
use crate::support::server::{Launch, Server, wait};
use campanile::config::Settings;
use serde_json::{Value, json};

/// The nodes of the samples.
const NODES: [&str; 2] = ["10.0.0.5:8080", "10.0.0.6:8080"];

fn sample(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).unwrap()
}

/// With other words in the places of some, each of which must be there.
fn with(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the sample has no {from:?} any more:\n{text}");
        text.replace(from, to)
    })
}

/// A node with the sample's settings, on other addresses.
fn node(redis: &RedisServer, more: &[&str]) -> Server {
    let url = redis.url();
    let server = Launch::new(&[&["--redis", &url, "--trusted-proxies", "127.0.0.1", "--shards", "2"], more].concat());
    let server = server.file(&sample("node.toml")).start();
    server.eventually("ready", Server::is_ready);
    server
}

/// A proxy in front of the nodes, until it is dropped.
struct Proxy {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
}

impl Proxy {
    fn start(name: &str, directory: PathBuf, port: u16, command: &mut Command) -> Proxy {
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("this test needs {name} ({error}); scripts/test installs it"));
        let mut proxy = Proxy { child, directory, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let begin = Instant::now();
        while TcpStream::connect(proxy.address).is_err() {
            assert!(proxy.child.try_wait().unwrap().is_none(), "{name} does not start");
            assert!(begin.elapsed() < PATIENCE, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(20)); // another program's port has no event
        }
        proxy
    }

    fn nginx(test: &str, nodes: [SocketAddr; 2], changes: &[(&str, &str)]) -> Proxy {
        let directory = place(test);
        let (port, places) = (free_port(), nodes.map(|node| node.to_string()));
        let listen = format!("listen 127.0.0.1:{port};");
        let addresses = [(NODES[0], places[0].as_str()), (NODES[1], &places[1]), ("listen 80;", &listen)];
        let sample = with(&sample("nginx/campanile.conf"), &[&addresses[..], changes].concat());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()))
            .collect();
        let file = directory.join("nginx.conf");
        let text = format!(
            "daemon off;\nmaster_process off;\npid {}/pid;\nerror_log stderr crit;\nevents {{ worker_connections 1024; }}\n\
             http {{\naccess_log off;\n{temporary}{sample}\n}}\n",
            directory.display()
        );
        std::fs::write(&file, text).unwrap();
        let nginx = || {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(&directory).arg("-c").arg(&file).args(["-e", "stderr"]);
            command
        };
        let tried = nginx().arg("-t").output().expect("this test needs nginx; scripts/test installs it");
        let said = String::from_utf8_lossy(&tried.stderr).into_owned();
        assert!(tried.status.success() && !said.contains("[warn]"), "{said}");
        Proxy::start("nginx", directory.clone(), port, &mut nginx())
    }

    fn haproxy(test: &str, nodes: [SocketAddr; 2], changes: &[(&str, &str)]) -> Proxy {
        let directory = place(test);
        let (port, places) = (free_port(), nodes.map(|node| node.to_string()));
        let bind = format!("bind 127.0.0.1:{port}");
        // As many descriptors as the sample asks for are not everybody's.
        let limits = format!("maxconn 1000\n    stats socket {}", directory.join("stats").display());
        let addresses = [(NODES[0], places[0].as_str()), (NODES[1], &places[1]), ("bind :80", &bind), ("maxconn 200000", &limits)];
        // The address of a node stands in a comment as well.
        let text = with(&sample("haproxy/haproxy.cfg"), &[&addresses[..], changes].concat());
        let file = directory.join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let tried = Command::new("haproxy").arg("-c").arg("-f").arg(&file).output();
        let tried = tried.expect("this test needs haproxy; scripts/test installs it");
        let said = String::from_utf8_lossy(&tried.stderr).into_owned();
        assert!(tried.status.success() && !said.contains("WARNING"), "{said}");
        Proxy::start("haproxy", directory, port, Command::new("haproxy").arg("-db").arg("-f").arg(&file))
    }

    /// What HAProxy's checks have come to, by node: `L7OK/200`.
    fn checks(&self) -> [String; 2] {
        let mut socket = UnixStream::connect(self.directory.join("stats")).expect("HAProxy's socket");
        socket.write_all(b"show stat\n").unwrap();
        let mut table = String::new();
        socket.read_to_string(&mut table).unwrap();
        let names: Vec<&str> = table.lines().next().unwrap().split(',').collect();
        let column = |name: &str| names.iter().position(|other| *other == name).expect("a column of HAProxy's");
        ["a", "b"].map(|server| {
            let row = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
            let row =
                row.into_iter().find(|row| row.first() == Some(&"campanile") && row.get(1) == Some(&server)).expect("a row for each node");
            format!("{}/{}", row[column("check_status")], row[column("check_code")])
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = wait(&mut self.child, PATIENCE);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn place(test: &str) -> PathBuf {
    let place = std::env::temp_dir().join(format!("campanile-{}-{test}", std::process::id()));
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(&place).unwrap();
    place
}

/// From the network with this number: `ip_hash` takes three octets for one client.
fn source(network: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, network, 1))
}

/// An open WebSocket from there, `connected` being read.
fn connect(network: u8, proxy: &Proxy) -> Client {
    let mut client = Client::dial_from(source(network), proxy.address).upgrade("/ws?format=json");
    assert_eq!(client.event()["type"], "connected");
    client
}

/// The node that has a connection from there, by what the node says of its address.
fn home(network: u8, nodes: &[Server]) -> usize {
    let address = source(network).to_string();
    let has = |node: &Server| {
        let (status, body) = node.get("/connections");
        assert_eq!(status, 200, "{body}");
        body.contains(&format!("\"{address}\""))
    };
    let homes: Vec<usize> = (0..nodes.len()).filter(|&at| has(&nodes[at])).collect();
    assert_eq!(homes.len(), 1, "{address} is at {homes:?}");
    homes[0]
}

fn subscribe(client: &mut Client, since: Value) -> Value {
    let mut command = json!({"type": "subscribe", "channel": "news"});
    if !since.is_null() {
        command["since"] = since;
    }
    client.command(command);
    let event = client.event();
    assert_eq!(event["type"], "subscribed", "{event}");
    event
}

/// The status and text of an HTTP answer.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut client = Client::dial(address);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: live.example.org\r\nConnection: close\r\n\r\n").as_bytes());
    let answer = client.rest();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

/// The picture of the article that this server comes from: nodes behind `ip_hash`, and nobody notices that one has died.
#[test]
fn behind_nginx_a_client_resumes_on_another_node_when_its_own_has_died() {
    let redis = RedisServer::start();
    let mut nodes = [node(&redis, &[]), node(&redis, &[])];
    let nginx = Proxy::nginx("nginx-resume", [nodes[0].listen, nodes[1].listen], &[]);
    assert_eq!(get(nginx.address, "/healthz"), ("200".into(), "ok\n".into()));

    // They spread over the nodes, and each network finds its node again.
    let mut clients: Vec<(u8, Client)> = (1..=8).map(|network| (network, connect(network, &nginx))).collect();
    let homes: Vec<usize> = clients.iter().map(|(network, _)| home(*network, &nodes)).collect();
    assert!(homes.contains(&0) && homes.contains(&1), "{homes:?}");
    let again = connect(1, &nginx);
    assert_eq!(home(1, &nodes), homes[0]);
    drop(again);

    let (dead, alive) = (homes[0], 1 - homes[0]);
    let epochs: Vec<Value> = clients.iter_mut().map(|(_, client)| subscribe(client, Value::Null)["epoch"].clone()).collect();
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0] && epoch.is_u64()), "numbers are Redis's: {epochs:?}");
    let position = json!({"epoch": epochs[0], "seq": nodes[alive].publish("news", &json!("before"))});
    for (_, client) in &mut clients {
        assert_eq!(client.messages(1), [(position["seq"].as_u64().unwrap(), json!("before"))]);
    }

    nodes[dead].kill();
    let orphans = clients.iter_mut().zip(&homes).filter(|(_, home)| **home == dead).map(|((network, client), _)| {
        assert_eq!(client.close_code(), None, "a node that has died says nothing");
        *network
    });
    let orphans: Vec<u8> = orphans.collect();
    nodes[alive].publish("news", &json!("meanwhile"));
    nodes[alive].publish("news", &json!("and then"));
    for network in orphans {
        // In the same request: nginx passes over the node that refuses.
        let mut client = connect(network, &nginx);
        let subscribed = subscribe(&mut client, position.clone());
        assert_eq!((&subscribed["recovered"], &subscribed["epoch"]), (&json!(true), &position["epoch"]), "{subscribed}");
        let missed: Vec<Value> = client.messages(2).into_iter().map(|(_, data)| data).collect();
        assert_eq!(missed, [json!("meanwhile"), json!("and then")]);
        nodes[alive].publish("news", &json!({"for": network}));
        while client.messages(1)[0].1 != json!({"for": network}) {}
    }
    nodes[alive].kill();
    assert_eq!(get(nginx.address, "/healthz").0, "502");
}

#[test]
fn behind_haproxy_the_clients_of_a_node_that_drains_go_to_the_other_one() {
    let redis = RedisServer::start();
    let proxied = ["--listen", "proxy+tcp://127.0.0.1:0", "--drain-rate", "1000"];
    let mut nodes = [node(&redis, &proxied), node(&redis, &proxied)];
    let haproxy = Proxy::haproxy(
        "haproxy-drain",
        [nodes[0].listen, nodes[1].listen],
        &[("inter 2s", "inter 100ms"), ("timeout connect", "timeout check 20s\n    timeout connect")],
    );
    nodes[0].eventually("both pass the check", |_| haproxy.checks() == ["L7OK/200", "L7OK/200"]);

    // The node with the fewest connections gets the next.
    let (mut client, _other) = (connect(1, &haproxy), connect(2, &haproxy));
    let homes = [home(1, &nodes), home(2, &nodes)];
    assert_ne!(homes[0], homes[1]);
    assert_eq!(get(haproxy.address, "/healthz"), ("200".into(), "ok\n".into()));
    let epoch = subscribe(&mut client, Value::Null)["epoch"].clone();
    nodes[homes[1]].publish("news", &json!(1));
    let position = json!({"epoch": epoch, "seq": client.messages(1)[0].0});

    nodes[homes[0]].terminate();
    assert_eq!(client.close_code(), Some(1012));
    drop(client);
    assert_eq!(nodes[homes[0]].exit_code(), 0);
    nodes[homes[1]].publish("news", &json!(2));
    let mut client = connect(1, &haproxy);
    assert_eq!(home(1, &nodes[homes[1]..=homes[1]]), 0);
    assert_eq!(subscribe(&mut client, position)["recovered"], true);
    assert_eq!(client.messages(1)[0].1, json!(2));
    let alive = &nodes[homes[1]];
    alive.eventually("the check fails", |_| haproxy.checks()[homes[0]].starts_with("L4"));
    // While one is under way there is no word of the last.
    alive.eventually("that of the other one does not", |_| haproxy.checks()[homes[1]] == "L7OK/200");
    for reason in ["proxy_header", "proxy_untrusted", "proxy_unexpected"] {
        assert_eq!(alive.metric("campanile_connections_refused_total", &format!("reason=\"{reason}\"")), 0.0, "{reason}");
    }
}

/// The next event of a stream: its name, its id, its data. Comments and `retry` are passed over.
fn stream_event(stream: &mut BufReader<TcpStream>) -> (String, String, String) {
    let (mut name, mut id, mut data) = (String::new(), String::new(), String::new());
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).expect("a line of the stream"), 0, "the stream has ended");
        match line.trim_end_matches('\n').split_once(": ") {
            Some(("event", value)) => name = value.to_owned(),
            Some(("id", value)) => id = value.to_owned(),
            Some(("data", value)) => data = value.to_owned(),
            _ if line == "\n" && !(name.is_empty() && data.is_empty()) => return (name, id, data),
            _ => {}
        }
    }
}

/// An open stream of the channel, its head being read. HTTP/1.0, so that the proxy puts no chunks around it.
fn stream(address: SocketAddr, last_id: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let last = if last_id.is_empty() { String::new() } else { format!("Last-Event-ID: {last_id}\r\n") };
    stream
        .write_all(format!("GET /sse/news HTTP/1.0\r\nHost: live.example.org\r\nAccept: text/event-stream\r\n{last}\r\n").as_bytes())
        .unwrap();
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "no whole head: {head}");
    }
    assert!(
        head.split("\r\n").next().unwrap().contains(" 200") && head.to_lowercase().contains("content-type: text/event-stream\r\n"),
        "{head}"
    );
    stream
}

#[test]
fn event_streams_pass_both_at_once_and_resume_on_another_node() {
    let redis = RedisServer::start();
    for name in ["nginx", "haproxy"] {
        let is_nginx = name == "nginx";
        let more: &[&str] = if is_nginx { &[] } else { &["--listen", "proxy+tcp://127.0.0.1:0"] };
        let mut nodes = [node(&redis, more), node(&redis, more)];
        let listen = [nodes[0].listen, nodes[1].listen];
        let proxy = match is_nginx {
            true => Proxy::nginx("nginx-stream", listen, &[]),
            false => Proxy::haproxy("haproxy-stream", listen, &[]),
        };
        let mut first = stream(proxy.address, "");
        // Each event is read before the next is published: a proxy that keeps them back ends the test.
        let mut last_id = String::new();
        while stream_event(&mut first).0 != "subscribed" {}
        for number in 1..=3 {
            nodes[0].publish("news", &json!(number));
            let (event, id, data) = stream_event(&mut first);
            let data: Value = serde_json::from_str(&data).unwrap();
            assert!(["", "message"].contains(&event.as_str()), "{name}: {event}");
            assert_eq!(data["data"], number, "{name}");
            last_id = id;
        }
        let home = (0..2).find(|&at| nodes[at].metric("campanile_connections", "") > 0.0).expect("one has it");
        nodes[home].kill();
        nodes[1 - home].publish("news", &json!("missed"));
        let mut again = stream(proxy.address, &last_id);
        let mut event = stream_event(&mut again);
        while !event.0.is_empty() {
            event = stream_event(&mut again);
        }
        assert_eq!(serde_json::from_str::<Value>(&event.2).unwrap()["data"], "missed", "{name}");
    }
}

/// Each proxy cuts what is silent for five seconds, five heartbeats; the client says nothing but pongs for longer than that.
#[test]
fn heartbeats_keep_a_silent_connection_through_both() {
    let redis = RedisServer::start();
    let behind_nginx = node(&redis, &["--heartbeat", "1"]);
    let behind_haproxy = node(&redis, &["--heartbeat", "1", "--listen", "proxy+tcp://127.0.0.1:0"]);
    let nginx = Proxy::nginx("nginx-silence", [behind_nginx.listen; 2], &[("75s", "5s")]);
    let haproxy = Proxy::haproxy("haproxy-silence", [behind_haproxy.listen; 2], &[("75s", "5s")]);
    let mut clients = [connect(1, &nginx), connect(1, &haproxy)];
    let mut streams = [stream(nginx.address, ""), stream(haproxy.address, "")];
    let begin = Instant::now();
    for _ in 0..7 {
        for client in &mut clients {
            let frame = client.frame().expect("a ping, not the end");
            assert_eq!(frame.opcode, frames::PING);
            client.send(&frames::frame(frames::PONG, &frame.payload));
        }
        for stream in &mut streams {
            let mut line = String::new();
            while line != ":\n" {
                line.clear();
                assert_ne!(stream.read_line(&mut line).expect("a comment"), 0, "the stream has ended");
            }
        }
    }
    assert!(begin.elapsed() > Duration::from_secs(5), "seven heartbeats are longer than the time-outs");
    for (client, node) in clients.iter_mut().zip([&behind_nginx, &behind_haproxy]) {
        subscribe(client, Value::Null);
        node.publish("news", &json!("still here"));
        assert_eq!(client.messages(1)[0].1, json!("still here"));
    }
}

/// The numbers in the samples, against the defaults of the server.
#[test]
fn the_time_outs_of_the_samples_are_longer_than_any_silence() {
    let settings = Settings::default();
    let silence = settings.clients.heartbeat + settings.clients.pong_timeout;
    for (file, names) in [
        ("nginx/campanile.conf", &["proxy_read_timeout ", "proxy_send_timeout "][..]),
        ("haproxy/haproxy.cfg", &["timeout client ", "timeout server ", "timeout tunnel "]),
    ] {
        let text = sample(file);
        for name in names {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or_else(|| panic!("{file} has no {name}"));
            let seconds: u64 = line.trim_end_matches(';').strip_suffix('s').expect("seconds").parse().unwrap();
            assert!(Duration::from_secs(seconds) > silence, "{file}: {name}{seconds} s, and a connection may be silent for {silence:?}");
        }
    }
}

/// As balancers ask: HTTP/1.0 without Host, behind a PROXY header that says LOCAL, in one segment and in several.
#[test]
fn health_checks_are_answered_as_they_are_asked() {
    let plain = Server::start(&[]);
    let proxied = Server::start(&["--listen", "proxy+tcp://127.0.0.1:0", "--trusted-proxies", "127.0.0.1"]);
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";
    const REQUEST: &[u8] = b"GET /healthz HTTP/1.0\r\n\r\n";
    let is_answered = |server: &Server, pieces: &[&[u8]]| {
        let mut client = Client::dial(server.listen);
        for piece in pieces {
            client.send(piece);
        }
        let answer = client.rest();
        assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 ") && answer.ends_with("\r\n\r\nok\n"), "{pieces:?}: {answer:?}");
    };
    is_answered(&plain, &[REQUEST]);
    is_answered(&proxied, &[&[LOCAL, REQUEST].concat()]);
    is_answered(&proxied, &[LOCAL, REQUEST]);
    let whole = [LOCAL, REQUEST].concat();
    is_answered(&proxied, &whole.chunks(1).collect::<Vec<_>>());
    for server in [&plain, &proxied] {
        assert_eq!(server.metric("campanile_connections_refused_total", "reason=\"proxy"), 0.0);
    }
    // And by the program's own command, as the containers ask; on the control port, and on the public one where no header is awaited.
    let health = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_campanile")).arg("health").args(arguments).env("CAMPANILE_CONTROL", "").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (control, listen) = (plain.control.to_string(), plain.listen.to_string());
    assert_eq!(health(&["--control", &control]), (0, format!("{control}/healthz: ok\n")));
    assert_eq!(health(&["--control", &control, "--ready"]), (0, format!("{control}/readyz: {{\"ready\":true}}\n")));
    assert_eq!(health(&["--public", &listen]), (0, format!("{listen}/healthz: ok\n")));
    plain.eventually("nobody is left", |server| server.metric("campanile_sockets", "") == 0.0);
}
