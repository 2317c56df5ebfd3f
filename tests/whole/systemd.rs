//! What systemd sees and gives, against the real program: a notify socket of our own, a watchdog that a stuck shard does not get past,
//! listening sockets handed over as systemd does it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tungstenite::client::client;

use crate::support::redis::PATIENCE;
use crate::support::server::{Launch, Server, wait};

/// Short, so that tests do not wait; a beat is a quarter of it.
const WATCHDOG: Duration = Duration::from_millis(800);

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(test: &str) -> Manager {
        let path = std::env::temp_dir().join(format!("campanile-notify-{}-{test}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager { socket, path }
    }

    /// The next message within that time.
    fn message(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 1024];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8(buffer[..length].to_vec()).unwrap()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads on until a message has all the parts.
    #[track_caller]
    fn until(&self, parts: &[&str]) -> String {
        let begin = Instant::now();
        let mut seen = Vec::new();
        while begin.elapsed() < PATIENCE {
            let Some(message) = self.message(PATIENCE) else { break };
            if parts.iter().all(|part| message.contains(part)) {
                return message;
            }
            seen.push(message);
        }
        panic!("{parts:?} was not told, but {seen:#?}");
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `campanile serve` as systemd starts it: descriptors from 3 on and variables that name its own process id, which the shell that it
/// replaces has.
struct Service {
    command: Command,
    sockets: Vec<OwnedFd>,
}

impl Service {
    fn new(arguments: &[&str]) -> Service {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "LISTEN_PID=$$ exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_campanile"),
            "serve",
            "--control",
            "127.0.0.1:0",
            "--heartbeat",
            "3600",
        ]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CAMPANILE_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Service { command, sockets: Vec::new() }
    }

    fn manager(mut self, manager: &Manager) -> Service {
        self.command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        self
    }

    fn sockets(mut self, sockets: Vec<OwnedFd>) -> Service {
        self.command.env("LISTEN_FDS", sockets.len().to_string());
        self.sockets = sockets;
        self
    }

    fn spawn(mut self) -> Child {
        // Copies high up first: a number from 3 on may be one of the sockets themselves.
        let high: Vec<OwnedFd> = self.sockets.iter().map(|socket| duplicate_above(socket.as_raw_fd(), 200)).collect();
        let numbers: Vec<RawFd> = high.iter().map(AsRawFd::as_raw_fd).collect();
        let place = move || {
            for (index, &number) in numbers.iter().enumerate() {
                // SAFETY: dup2 is async-signal-safe; the numbers are open, and what stood at the target is closed by exec anyway.
                if unsafe { libc::dup2(number, 3 + index as RawFd) } == -1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec it calls dup2 alone and allocates nothing.
        unsafe { self.command.pre_exec(place) };
        let child = self.command.spawn().unwrap();
        drop(high);
        child
    }

    fn start(self) -> Server {
        Launch::adopt(self.spawn())
    }

    /// Exit code and stderr.
    fn fails(self) -> (Option<i32>, String) {
        let mut child = self.spawn();
        let stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || io::read_to_string(stderr).unwrap());
        let status = wait(&mut child, PATIENCE).unwrap_or_else(|| {
            let _ = child.kill();
            panic!("it runs instead of failing")
        });
        (status.code(), reader.join().unwrap())
    }
}

fn duplicate_above(fd: RawFd, least: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: F_DUPFD_CLOEXEC takes numbers alone; the new descriptor is owned by nobody yet.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) };
    assert!(copy >= least);
    // SAFETY: just made.
    unsafe { OwnedFd::from_raw_fd(copy) }
}

/// Listeners on one free port, as `ReusePort=yes` makes them.
fn listeners(count: usize) -> (SocketAddr, Vec<OwnedFd>) {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let sockets = (0..count)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(16).unwrap();
            address = socket.local_addr().unwrap().as_socket().unwrap();
            OwnedFd::from(socket)
        })
        .collect();
    (address, sockets)
}

fn connect(address: SocketAddr) -> tungstenite::WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut socket, _) = client(format!("ws://{address}/ws/news"), stream).expect("a WebSocket");
    assert!(socket.read().unwrap().to_text().unwrap().contains("connected"));
    socket
}

#[test]
fn systemd_is_told_ready_then_alive_and_at_the_end_stopping() {
    let manager = Manager::new("life");
    let mut server = Service::new(&["--listen", "127.0.0.1:0", "--shards", "2"]).manager(&manager).start();
    let first = manager.message(PATIENCE).expect("a message");
    assert!(first.starts_with("READY=1\nSTATUS=0 connections, 0 channels"), "{first}");
    assert_eq!(server.get("/healthz").0, 200);

    // Nobody is connected: every thread sleeps, and is proven alive all the same.
    for _ in 0..4 {
        manager.until(&["WATCHDOG=1"]);
    }
    let _clients: Vec<_> = (0..3).map(|_| connect(server.listen)).collect();
    manager.until(&["WATCHDOG=1\n", "STATUS=3 connections, 1 channels\n"]);

    server.terminate();
    manager.until(&["STOPPING=1"]);
    drop(_clients);
    assert_eq!(server.exit_code(), 0);
    assert!(!std::iter::from_fn(|| manager.message(Duration::from_millis(1))).any(|message| message.contains("WATCHDOG=1")));
}

/// The thread is stopped from outside, as if it hung; the others go on.
#[test]
fn a_stuck_shard_lets_the_watchdog_bite() {
    for stuck in ["shard-1", "bus"] {
        let manager = Manager::new(stuck);
        let server = Service::new(&["--listen", "127.0.0.1:0", "--shards", "2"]).manager(&manager).start();
        manager.until(&["WATCHDOG=1"]);

        let stopped = Stopped::thread(server.id(), stuck);
        // On a busy machine another may be late too, for a while.
        let told = manager.until(&[&format!("STATUS=stuck: {};", stuck.replace('-', " "))]);
        assert!(!told.contains("WATCHDOG=1"), "{told}");
        // No sign of life for as long as systemd would wait.
        let begin = Instant::now();
        while let Some(rest) = WATCHDOG.checked_sub(begin.elapsed()).filter(|rest| !rest.is_zero()) {
            let told = manager.message(rest);
            assert!(!told.as_ref().is_some_and(|told| told.contains("WATCHDOG=1")), "{told:?}");
        }
        assert_eq!(server.get("/healthz").0, 200, "the control thread is well");

        drop(stopped);
        manager.until(&["WATCHDOG=1", "STATUS=0 connections"]);
        server.log_when("stuck for");
        server.log_when("turns again");
    }
}

/// One thread of another process, held by ptrace until dropped.
struct Stopped(libc::pid_t);

impl Stopped {
    fn thread(process: u32, name: &str) -> Stopped {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap());
        let task = tasks.into_iter().find(|task| std::fs::read_to_string(task.path().join("comm")).unwrap().trim() == name);
        let thread: libc::pid_t = task.expect(name).file_name().to_str().unwrap().parse().unwrap();
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests read and write no memory of ours; the thread belongs to a child of this process.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, thread, null, null), 0, "{}", io::Error::last_os_error());
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, null, null), 0, "{}", io::Error::last_os_error());
            let mut status = 0;
            assert_eq!(libc::waitpid(thread, &mut status, libc::__WALL), thread, "{}", io::Error::last_os_error());
        }
        Stopped(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above; the thread is stopped, so it may be let go.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null, null) };
    }
}

/// One socket for all shards, so that they take turns at it: with a table in common and with tables of their own.
#[test]
fn shards_share_one_socket_from_systemd_evenly() {
    for table in ["shared", "private"] {
        let (address, sockets) = listeners(1);
        let arguments = ["--shards", "4", "--fd-table", table, "--pin", "none", "--listen", "127.0.0.1:1"];
        let server = Service::new(&arguments).sockets(sockets).start();
        assert_eq!(server.listen, address, "instead of --listen");
        // One after the other, as in a quiet hour: without turns, the first shard would get them all. On a busy host whoever gets no time misses
        // its turn, so it may take more of them than a few.
        let mut clients = Vec::new();
        let of_shard = |shard: usize| server.metric("ws_connections_total", &format!("shard=\"{shard}\""));
        while (0..4).any(|shard| of_shard(shard) < 5.0) {
            assert!(clients.len() < 2000, "{table}: {:?} of 2000", [0, 1, 2, 3].map(of_shard));
            clients.extend((0..40).map(|_| connect(address)));
        }
        assert_eq!(server.publish("news", &serde_json::json!("all")), 1);
        for mut client in clients {
            while !client.read().unwrap().to_text().unwrap().contains("notification") {}
        }
    }
}

/// Many at once, with fewer, as many and more sockets than shards: nobody is left in a backlog that no shard looks at.
#[test]
fn a_crowd_gets_in_whatever_the_number_of_sockets() {
    for (count, table) in [(1, "shared"), (2, "private"), (3, "shared"), (5, "private")] {
        let (address, sockets) = listeners(count);
        let server = Service::new(&["--shards", "3", "--fd-table", table]).sockets(sockets).start();
        let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(move || (0..40).map(|_| connect(address)).collect::<Vec<_>>())).collect();
        let clients: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        server.eventually_metric("ws_connections_total", "", clients.len() as f64);
    }
}

#[test]
fn the_port_outlives_the_server() {
    let (address, sockets) = listeners(1);
    let kept = sockets[0].try_clone().unwrap();
    let mut server = Service::new(&["--shards", "2", "--fd-table", "private"]).sockets(sockets).start();
    drop(connect(address));
    server.terminate();
    assert_eq!(server.exit_code(), 0);
    // systemd still holds the socket: who comes now waits for the next server.
    let waiting = TcpStream::connect(address).unwrap();
    let _next = Service::new(&[]).sockets(vec![kept]).start();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    client(format!("ws://{address}/ws"), waiting).expect("served by the next server");
}

#[test]
fn a_socket_that_clients_cannot_come_through_is_refused() {
    let udp = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let (code, stderr) = Service::new(&[]).sockets(vec![udp]).fails();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("descriptor 3 from systemd: it is no listening TCP or unix socket"), "{stderr}");

    let manager = Manager::new("gone");
    let _ = std::fs::remove_file(&manager.path);
    let (code, stderr) = Service::new(&["--listen", "127.0.0.1:0"]).manager(&manager).fails();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("NOTIFY_SOCKET="), "{stderr}");
}

/// The socket unit decides whether `[::]` takes IPv4; the start block tells what it decided.
#[test]
fn what_a_socket_from_systemd_takes_is_told() {
    for (only_v6, told) in [(true, "(every IPv6 address of this host)"), (false, "(every address of this host, IPv4 and IPv6)")] {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(only_v6).unwrap();
        socket.bind(&SocketAddr::from(([0; 16], 0)).into()).unwrap();
        socket.listen(16).unwrap();
        let server = Service::new(&["--shards", "1"]).sockets(vec![socket.into()]).start();
        let log = server.log_when("To see a message arrive");
        assert!(log.contains(&format!("ws://{}/ws {told}", server.listen)), "{log}");
        let reached = if only_v6 { "[::1]" } else { "127.0.0.1" };
        assert!(log.contains(&format!("subscribe news --url ws://{reached}:{}/ws", server.listen.port())), "{log}");
        drop(connect(format!("{reached}:{}", server.listen.port()).parse().unwrap()));
    }
}

/// Variables meant for a process that we were started by.
#[test]
fn sockets_for_another_process_are_left_alone() {
    let server = Launch::new(&["--shards", "1"]).shell("export LISTEN_PID=1 LISTEN_FDS=1").start();
    drop(connect(server.listen));
}

/// `Type=notify-reload`: systemd sends SIGHUP, waits to be told that a reload begins, and when it is over, good or not.
#[test]
fn a_reload_is_told_from_its_beginning_to_its_end() {
    let manager = Manager::new("reload");
    let server = Service::new(&["--listen", "127.0.0.1:0"]).manager(&manager).start();
    manager.until(&["READY=1"]);
    server.signal(libc::SIGHUP);
    let begun = manager.until(&["RELOADING=1"]);
    let usec = begun.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("the moment, for systemd to tell reloads apart");
    assert!(usec.parse::<u64>().unwrap() > 0, "{begun}");
    manager.until(&["READY=1"]);
}
