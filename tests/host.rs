//! The server on hosts of every kind: where system calls are forbidden, with and without IPv6 beside IPv4, on a terminal, under signals.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

mod support;

use support::redis::{PATIENCE, free_port};
use support::seccomp::{self, Verdict};
use support::server::{Launch, Server, wait};

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
        let server = Server::start(&["--listen", "[::]:0", "--control", "[::]:0", "--shards", "2", "--fd-table", table]);
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

/// A reload that there is not yet, or a log rotation of somebody else's: all clients lost, and not a word about it.
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
        assert!(server.log().contains("SIGHUP: ignored: the settings are read at start alone"), "{}", server.log());
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
        let last = lines.find(|line| line.contains("SIGTERM: stopping")).expect("the end is said");
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
    told("INFO", "SIGTERM: stopping");
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
