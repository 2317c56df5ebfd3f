//! The server on hosts of every kind: where system calls are forbidden, descriptors few or ports taken, with and without IPv6 beside IPv4,
//! on a terminal, above a log that cannot be written, under signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::crowd::{Crowd, Script};
use crate::support::redis::{PATIENCE, RedisServer, free_port};
use crate::support::seccomp::{self, Verdict};
use crate::support::server::{Launch, Server, wait};

const REFUSED: [(&str, libc::c_long); 2] = [("unshare", libc::SYS_unshare), ("close_range", libc::SYS_close_range)];

/// Settings and a limit that ask for private tables.
fn crowded(flags: &[&str]) -> Launch {
    Launch::new(&[&["--connections-max", "100000", "--shards", "2"], flags].concat()).shell("ulimit -n 2000")
}

/// In a container, or on an old kernel, it ended with "Operation not permitted" and nothing else.
#[test]
fn a_server_that_may_not_unshare_its_descriptors_shares_them() {
    for (name, call) in REFUSED {
        for (verdict, cause) in [
            (Verdict::Fails(libc::EPERM), "seccomp filter"),
            (Verdict::Fails(libc::ENOSYS), "Function not implemented"),
            (Verdict::Kills, "kills the process"),
        ] {
            let launch = crowded(&[]);
            let mut command = launch.command();
            seccomp::forbid(&mut command, call, verdict);
            let server = Launch::adopt(command.stderr(Stdio::piped()).spawn().expect("the program"));
            let log = server.log_when("one shared table needs 100080");
            assert!(log.contains("one shared table for 100000 connections"), "{name} {verdict:?}\n{log}");
            assert!(log.contains("warning: fd_table auto") && log.contains(name) && log.contains(cause), "{name} {verdict:?}\n{log}");
            assert!(!log.contains("--fd-table private"), "advises what is not to be had\n{log}");
            let info: Value = serde_json::from_str(&server.get("/info").1).unwrap();
            assert_eq!(info["fd_table"], "shared");
            connect(server.listen);
            drop(server);
            let _ = std::fs::remove_dir_all(&launch.directory);
        }
    }
}

#[test]
fn private_tables_that_are_forbidden_are_a_setting_that_cannot_be() {
    for (name, call) in REFUSED {
        let launch = crowded(&["--fd-table", "private"]);
        let mut command = launch.command();
        seccomp::forbid(&mut command, call, Verdict::Fails(libc::EPERM));
        let (code, stderr) = fails(command);
        assert_eq!(code, Some(2), "{stderr}");
        for part in ["error: --fd-table: ", "seccomp filter", name, "accepted: shared, auto", "SystemCallFilter="] {
            assert!(stderr.contains(part), "{part} is missing in\n{stderr}");
        }
        let _ = std::fs::remove_dir_all(&launch.directory);
    }
}

/// The soft limit is what holds then.
#[test]
fn a_limit_that_may_not_be_raised_ends_nothing() {
    let launch = Launch::new(&["--connections-max", "500", "--shards", "1"]);
    let mut command = launch.command();
    let limit = libc::rlimit { rlim_cur: 1000, rlim_max: 2000 };
    let lower = move || {
        // SAFETY: setrlimit is async-signal-safe and only reads the limit.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(lower) };
    seccomp::forbid(&mut command, libc::SYS_prlimit64, Verdict::Fails(libc::EPERM));
    let server = Launch::adopt(command.stderr(Stdio::piped()).spawn().expect("the program"));
    let log = server.log_when("limit 1000 soft");
    assert!(log.contains("cannot be raised"), "{log}");
    connect(server.listen);
    drop(server);
    let _ = std::fs::remove_dir_all(&launch.directory);
}

fn connect(address: SocketAddr) {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    tungstenite::client::client(format!("ws://{address}/ws"), stream).unwrap_or_else(|error| panic!("{address}: {error}"));
}

fn both(port: u16) -> [SocketAddr; 2] {
    ["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{port}").parse().unwrap())
}

/// The public port refused IPv4 where the control port took it.
#[test]
fn every_address_takes_ipv4_and_ipv6_on_both_ports() {
    for table in ["shared", "private"] {
        const TOKEN: &str = "0123456789abcdef";
        let arguments = ["--listen", "[::]:0", "--control", "[::]:0", "--control-token", TOKEN, "--shards", "2", "--fd-table", table];
        let mut server = Server::start(&arguments);
        server.token = Some(TOKEN.to_owned());
        assert!(server.listen.ip().is_unspecified() && server.control.ip().is_unspecified());
        for address in both(server.listen.port()) {
            connect(address);
        }
        for address in both(server.control.port()) {
            assert_eq!(server.get_from(address, "/healthz").unwrap().0, 200, "{address}");
        }
        assert_eq!(server.log_when("descriptors").matches("(every address of this host, IPv4 and IPv6)").count(), 2);
        // And nobody else gets half of it.
        let taken = format!("0.0.0.0:{}", server.listen.port());
        let (code, stderr) = Launch::new(&["--listen", &taken]).fails();
        assert!(code == 1 && stderr.contains("the port is in use"), "{code} {stderr}");
    }
}

#[test]
fn listed_beside_each_other_they_take_one_each() {
    let port = free_port();
    let [four, six] = ["0.0.0.0", "[::]"].map(|ip| format!("{ip}:{port}"));
    for listen in [[&four, &six], [&six, &four]] {
        let server = Server::start(&["--listen", listen[0], "--listen", listen[1], "--shards", "2"]);
        for address in both(port) {
            connect(address);
        }
        assert!(server.log_when("descriptors").contains(&format!("ws://{six}/ws (every IPv6 address of this host)")), "{}", server.log());
    }
}

#[test]
fn an_ipv4_address_in_ipv6_spelling_is_that_address() {
    let server = Server::start(&["--listen", "[::ffff:127.0.0.1]:0", "--control", "[::ffff:127.0.0.1]:0"]);
    assert!(server.listen.is_ipv4() && server.control.is_ipv4());
    connect(server.listen);
    assert_eq!(server.get("/healthz").0, 200);
}

/// A log rotation of somebody else's: all clients lost, and not a word about it.
#[test]
fn signals_that_ask_for_nothing_we_have_are_said_and_ignored() {
    for table in ["shared", "private"] {
        let server = Server::start(&["--shards", "2", "--fd-table", table]);
        for (signal, name) in [(libc::SIGHUP, "SIGHUP"), (libc::SIGUSR1, "SIGUSR1"), (libc::SIGUSR2, "SIGUSR2"), (libc::SIGHUP, "SIGHUP")] {
            let before = server.log().matches(name).count();
            server.signal(signal);
            server.eventually(name, |server| server.log().matches(name).count() > before);
            connect(server.listen);
        }
        assert!(
            server.log().contains("SIGUSR1: ignored") && server.log().contains("reload (SIGHUP): nothing has changed"),
            "{}",
            server.log()
        );
    }
}

/// A terminal of its own for stderr: master and slave.
fn terminal() -> (std::fs::File, OwnedFd) {
    let (mut master, mut slave) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: both numbers are valid for the call to fill; the rest may be null.
    let result = unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), null.cast()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just opened, owned by nobody yet.
    unsafe { (OwnedFd::from_raw_fd(master).into(), OwnedFd::from_raw_fd(slave)) }
}

/// It began with a complaint of the logging library; a debug build did not even start.
#[test]
fn on_a_terminal_the_first_line_is_ours_and_levels_are_colored() {
    for (no_color, is_colored) in [("", true), ("1", false)] {
        let (master, slave) = terminal();
        let launch = Launch::new(&[]);
        let mut child = launch.command().env("NO_COLOR", no_color).stderr(slave).spawn().expect("the program");
        let mut lines = BufReader::new(master).lines().map_while(Result::ok);
        let first = lines.next().expect("a line");
        assert!(first.starts_with("Campanile "), "{first}");
        assert!(lines.any(|line| line.starts_with("To see a message arrive")));
        signal(&child, libc::SIGTERM);
        let last = lines.find(|line| line.contains("SIGTERM: draining")).expect("the end is said");
        assert_eq!(last.contains("\x1b["), is_colored, "{last:?}");
        assert!(wait(&mut child, PATIENCE).expect("its end").success());
        let _ = std::fs::remove_dir_all(&launch.directory);
    }
}

fn signal(child: &Child, number: i32) {
    // SAFETY: a signal to a child that has not been waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
}

#[track_caller]
fn event(line: &str) -> Value {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
    assert!(event["timestamp"].is_string() && event["level"].is_string() && event["fields"]["message"].is_string(), "{line}");
    event
}

#[test]
fn json_logs_are_json_from_the_first_line_to_the_last() {
    let launch = Launch::new(&["--log-format", "json", "--redis", "redis://secret@127.0.0.1:1", "--shards", "2"]).shell("ulimit -n 2000");
    let mut child = launch.command().stderr(Stdio::piped()).spawn().expect("the program");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = Vec::new();
    let started = loop {
        let event = event(&lines.next().expect("a start"));
        seen.push(event.clone());
        if event["fields"]["message"] == "started" {
            break event;
        }
    };
    let fields = &started["fields"];
    let url = fields["clients"][0].as_str().unwrap();
    connect(url.trim_start_matches("ws://").trim_end_matches("/ws").parse().unwrap());
    assert!(fields["memory_bytes_max"].as_u64().unwrap() > 0 && fields["control"].as_str().unwrap().starts_with("http://"));
    signal(&child, libc::SIGHUP);
    signal(&child, libc::SIGTERM);
    seen.extend(lines.map(|line| event(&line)));
    assert!(wait(&mut child, PATIENCE).expect("its end").success());
    let told = |level: &str, part: &str| {
        let is_it = |event: &Value| event["level"] == level && event["fields"]["message"].as_str().unwrap().contains(part);
        assert!(seen.iter().any(is_it), "{level} {part} is missing in {seen:#?}");
    };
    told("WARN", "names a user and no password");
    told("WARN", "too low for connections_max");
    told("INFO", "SIGTERM: draining");
    assert!(!seen.iter().any(|event| event.to_string().contains("secret")), "{seen:#?}");
    let _ = std::fs::remove_dir_all(&launch.directory);
}

#[test]
fn a_start_that_fails_says_so_in_json_too() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (flags, code, part) in [
        (&["--listen", &taken][..], 1, "the port is in use"),
        (&["--shards", "many"], 2, "\"many\" is not a whole number"),
        (&["--config", "nowhere.toml"], 2, "nowhere.toml cannot be read"),
    ] {
        let (exit, stderr) = Launch::new(&[flags, &["--log-format", "json"]].concat()).fails();
        let events: Vec<Value> = stderr.lines().map(event).collect();
        assert_eq!(exit, code, "{stderr}");
        assert!(
            events.iter().any(|event| event["level"] == "ERROR" && event["fields"]["message"].as_str().unwrap().contains(part)),
            "{stderr}"
        );
    }
    let (_, stderr) = Launch::new(&["--listen", "127.0.0.1:0"]).file("log_format = \"json\"\nshards = 0\n").fails();
    let first = event(stderr.lines().next().unwrap());
    assert_eq!((&first["fields"]["setting"], &first["fields"]["place"]), (&"shards".into(), &"campanile.toml:2:10".into()));
}

/// Exit code and stderr.
fn fails(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
    let mut stderr = child.stderr.take().unwrap();
    let status = wait(&mut child, PATIENCE).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("it runs instead of failing")
    });
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    (status.code(), text)
}

/// Under a limit of 64 descriptors, 200 clients come: some are served, the rest learn at once that they are not.
fn survives_few_descriptors(table: &str, shards: &str, served: std::ops::RangeInclusive<usize>) {
    let server = Launch::new(&["--fd-table", table, "--shards", shards, "--pin", "none"]).shell("ulimit -n 64").start();
    assert!(server.log_when("limit 64 soft, 64 hard").contains("too low for connections_max"));
    let mut crowd = Crowd::new(server.listen, (0..200).map(|_| Script::upgrade("/ws/news?format=json")));
    crowd.wait("admission or the end", |member| member.ended || member.events.len() == 2);
    let open: Vec<usize> = (0..200).filter(|&index| !crowd.members()[index].ended).collect();
    assert!(served.contains(&open.len()), "{} are served", open.len());
    // With every place taken, the control port still answers.
    server.eventually_metric("ws_connections_total", "", open.len() as f64);
    for index in &open[..open.len() / 2] {
        crowd.drop_member(*index);
    }
    // Whoever comes while the places of those who left are not yet free may be dropped too; it tries again, as clients do.
    let begin = Instant::now();
    let mut late = loop {
        let mut late = Crowd::new(server.listen, [Script::upgrade("/ws/news?format=json")]);
        late.wait("admission or the end", |member| member.ended || member.events.len() == 2);
        if late.open() == 1 {
            break late;
        }
        assert!(begin.elapsed() < PATIENCE, "nobody is let in again");
    };
    // Every place is one for good: the same number fits again.
    server.eventually_metric("ws_connections_total", "", (open.len() - open.len() / 2 + 1) as f64);
    server.publish("news", &json!("still here"));
    late.wait("the message", |member| member.events.last().is_some_and(|event| event["data"] == "still here"));
    crowd.wait("the message", |member| member.ended || member.events.last().is_some_and(|event| event["data"] == "still here"));
    assert!(server.metric("campanile_connections_refused_total", "reason=\"descriptors\"") >= 1.0);
    assert!(server.metric("campanile_accept_errors_total", "") >= 1.0);
    let log = server.log();
    let told = log.matches("out of descriptors").count();
    assert!((1..=2).contains(&told), "at most a line per shard:\n{log}");
}

#[test]
fn few_descriptors_in_one_table_refuse_the_rest_and_serve_on() {
    survives_few_descriptors("shared", "2", 10..=60);
}

#[test]
fn few_descriptors_in_private_tables_refuse_the_rest_and_serve_on() {
    survives_few_descriptors("private", "2", 60..=120);
}

#[test]
fn a_port_in_use_ends_the_start_with_what_to_do() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    for flag in ["--listen", "--control"] {
        let (code, stderr) = Launch::new(&[flag, &address]).fails();
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(&address) && stderr.contains("the port is in use"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn a_second_server_does_not_share_the_port_of_the_first() {
    let server = Server::start(&[]);
    let (code, stderr) = Launch::new(&["--listen", &server.listen.to_string()]).fails();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("the port is in use"), "{stderr}");
}

#[test]
fn addresses_and_urls_that_cannot_be_are_told() {
    let (code, stderr) = Launch::new(&["--listen", "192.0.2.1:8080"]).fails();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("192.0.2.1") && stderr.contains("ip address"), "{stderr}");
    for url in ["http://127.0.0.1", "redis://127.0.0.1:notaport", "127.0.0.1:6379", "redis://"] {
        let (code, stderr) = Launch::new(&["--redis", url]).fails();
        assert_eq!(code, 2, "{url}: {stderr}");
        assert!(stderr.contains("redis") && stderr.contains("accepted"), "{url}: {stderr}");
    }
}

#[test]
fn sigterm_sends_what_is_due_then_1012_and_exits_0() {
    let redis = RedisServer::start();
    let mut server = Server::start(&["--redis", &redis.url()]);
    server.eventually("ready", Server::is_ready);
    let mut crowd = Crowd::subscribed(server.listen, 200, |_| "last".to_owned());
    let idle = Client::dial(server.listen);
    for number in 1..=20 {
        server.publish("last", &json!({"n": number, "pad": "x".repeat(5000)}));
    }
    server.terminate();
    crowd.wait("the end", |member| member.ended);
    for member in crowd.members().iter() {
        assert_eq!(member.notifications().count(), 20);
        assert_eq!(member.close, Some(Some(1012)));
    }
    assert_eq!(server.exit_code(), 0);
    drop(idle);
    server.log_when("SIGTERM");
}

/// A client that will never read what it is due keeps the end waiting.
fn hold_up_the_end(server: &Server) -> Client {
    let mut stalled = Client::dial_narrow(server.listen, 4096).upgrade("/ws/held?format=json");
    assert_eq!(stalled.event()["type"], "connected");
    assert_eq!(stalled.event()["type"], "subscribed");
    for _ in 0..40 {
        server.publish("held", &Value::from("x".repeat(20_000)));
    }
    stalled
}

#[test]
fn the_shutdown_deadline_holds_even_for_readers_that_stall() {
    let mut server = Server::start(&["--shutdown-timeout", "1"]);
    let stalled = hold_up_the_end(&server);
    let begin = Instant::now();
    server.terminate();
    // With a deadline of an hour it would not: see the next test.
    assert_eq!(server.exit_code(), 0);
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    drop(stalled);
}

#[test]
fn while_it_drains_readyz_says_so_and_a_second_signal_does_not_wait_for_the_deadline() {
    let mut server = Server::start(&["--shutdown-timeout", "3600"]);
    let stalled = hold_up_the_end(&server);
    server.terminate();
    server.eventually("draining", |server| {
        let (status, body) = server.get("/readyz");
        status == 503 && body.contains("draining")
    });
    assert!(server.is_running());
    server.terminate();
    assert_eq!(server.exit_code(), 0);
    drop(stalled);
}

/// Starts a server whose stderr is as given and that has much to say there (a Redis that is not there), checks that it serves, stops it.
fn serves_with_stderr(stderr: Stdio, shell: Option<&str>) {
    let (listen, control) = (free_port(), free_port());
    let redis = format!("redis://127.0.0.1:{}", free_port());
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let (listen, control) = (address(listen), address(control));
    let flags = ["--listen", &listen.to_string(), "--control", &control.to_string(), "--redis", &redis, "--log-level", "debug"];
    let mut launch = Launch::new(&flags);
    if let Some(shell) = shell {
        launch = launch.shell(shell);
    }
    let child = launch.command().stderr(stderr).spawn().expect("the program");
    let mut server = Server::around(child, launch.directory.clone());
    (server.listen, server.control) = (listen, control);
    let begin = Instant::now();
    while server.get_from(control, "/healthz").is_err() {
        assert!(server.is_running(), "it ended: exit code {}", server.exit_code());
        assert!(begin.elapsed() < PATIENCE, "it does not answer");
        std::thread::sleep(Duration::from_millis(20)); // nothing else tells that it has started
    }
    let mut client = Client::connect(listen, "/ws?format=json");
    assert_eq!(client.event()["type"], "connected");
    client.command(json!({"type": "ping"}));
    assert_eq!(client.event()["type"], "pong");
    server.eventually_metric("ws_connections_total", "", 1.0);
    assert!(server.is_running());
    server.terminate();
    assert_eq!(client.close_code(), Some(1012));
    drop(client);
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn a_full_disk_under_the_log_neither_ends_nor_blocks_the_server() {
    serves_with_stderr(std::fs::File::options().write(true).open("/dev/full").unwrap().into(), None);
}

#[test]
fn a_closed_stderr_neither_ends_nor_blocks_the_server() {
    serves_with_stderr(Stdio::null(), Some("exec 2>&-"));
    // Its reader has gone.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    serves_with_stderr(writer.into(), None);
}

#[test]
fn a_stderr_that_nobody_reads_neither_ends_nor_blocks_the_server() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Filled to the brim before the server says its first word.
    let full = Instant::now();
    let filler = writer.try_clone().unwrap();
    set_nonblocking(&filler, true);
    while writer.write(&[b'.'; 4096]).is_ok() {
        assert!(full.elapsed() < PATIENCE);
    }
    while writer.write(b".").is_ok() {}
    set_nonblocking(&filler, false);
    drop(filler);
    serves_with_stderr(writer.into(), None);
    drop(reader);
}

fn set_nonblocking(pipe: &std::io::PipeWriter, on: bool) {
    use std::os::fd::AsRawFd;
    // SAFETY: fcntl on an open descriptor, without pointers.
    let result = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, if on { libc::O_NONBLOCK } else { 0 }) };
    assert_eq!(result, 0);
}

#[test]
fn errors_at_the_start_keep_their_exit_code_when_stderr_is_full() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let code = |flags: &[&str]| {
        let launch = Launch::new(flags);
        let status = launch.command().stderr(full()).status().unwrap();
        let _ = std::fs::remove_dir_all(&launch.directory);
        status.code()
    };
    assert_eq!(code(&["--control", &address]), Some(1));
    assert_eq!(code(&["--redis", "http://127.0.0.1"]), Some(2));
}
