//! `openssl s_client` against a server of some lines, on a loopback socket: what is echoed, which keys are changed, what is resumed.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use super::*;

/// What the server saw of one connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    is_resumed: bool,
    suite: &'static str,
    /// Records for the session itself.
    own: usize,
    has_closed: bool,
}

/// Serves one connection after the other: echoes what comes, and updates its keys when it is told to.
fn serve(acceptor: Arc<Acceptor>, count: usize) -> (u16, JoinHandle<Vec<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || (0..count).map(|_| echo(&acceptor, listener.accept().unwrap().0)).collect());
    (port, thread)
}

fn echo(acceptor: &Arc<Acceptor>, mut socket: TcpStream) -> Seen {
    let mut handshake = Handshake::new(acceptor.clone());
    let mut buffer = vec![0; 32 * 1024];
    let mut established = loop {
        let count = socket.read(&mut buffer).unwrap();
        assert!(count > 0, "it goes before its handshake is done");
        let mut out = Vec::new();
        let step = handshake.advance(&buffer[..count], &mut out);
        socket.write_all(&out).unwrap();
        match step.unwrap() {
            Step::Wants => {}
            Step::Done(established) => break established,
        }
    };
    let mut seen = Seen { is_resumed: established.is_resumed, suite: established.suite, ..Seen::default() };
    let mut have = std::mem::take(&mut established.rest);
    let layer = &mut established.layer;
    loop {
        let mut out = Vec::new();
        let mut at = 0;
        while at < have.len() && !seen.has_closed {
            let opened = match layer.open(&mut have[at..]) {
                // It gives up what it is refused.
                Err(Fault::PeerAlert) => return seen,
                opened => opened.unwrap(),
            };
            match opened {
                Opened::Partial { .. } => break,
                Opened::Data { content, consumed } => {
                    let content = have[at..][content].to_vec();
                    at += consumed;
                    seal(layer, &content, &mut out);
                }
                Opened::Own { consumed } => {
                    seen.own += 1;
                    at += consumed;
                    if layer.owes() {
                        layer.seal_own(&mut out);
                    }
                }
                Opened::End { .. } => {
                    seen.has_closed = true;
                    layer.close_notify(&mut out);
                }
            }
        }
        have.drain(..at);
        // What it gets of that is its own affair once it has closed.
        let is_sent = socket.write_all(&out);
        if seen.has_closed {
            return seen;
        }
        is_sent.unwrap();
        match socket.read(&mut buffer) {
            Ok(count) if count > 0 => have.extend_from_slice(&buffer[..count]),
            _ => return seen,
        }
    }
}

/// `openssl s_client`, whose lines can be sent and awaited.
struct Client {
    child: Child,
    input: ChildStdin,
    /// Both of its outputs.
    output: BufReader<PipeReader>,
    said: String,
}

impl Client {
    fn start(files: &Files, port: u16, arguments: &[&str]) -> Client {
        let at = format!("127.0.0.1:{port}");
        let ca = files.path("ca.crt").display().to_string();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &at, "-CAfile", &ca, "-verify_return_error", "-servername", "localhost"]).args(arguments);
        let (output, pipe) = std::io::pipe().unwrap();
        command.current_dir(files.path("")).stdin(Stdio::piped()).stdout(pipe.try_clone().unwrap()).stderr(pipe);
        let mut child = command.spawn().expect("openssl is needed; scripts/test installs it");
        let input = child.stdin.take().unwrap();
        Client { child, input, output: BufReader::new(output), said: String::new() }
    }

    fn send(&mut self, line: &str) {
        // At once: what is a command is one by the first byte of a read.
        self.input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn await_line(&mut self, words: &str) {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended without {words:?}: {}", self.said);
            self.said.push_str(&line);
            if line.contains(words) {
                return;
            }
        }
    }

    /// Ends it in order; all that it has said.
    fn end(mut self) -> String {
        drop(self.input);
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap();
        self.said + &rest
    }
}

const VERSIONS: [(&str, &str); 2] = [("-tls1_3", "TLS13_AES_128_GCM_SHA256"), ("-tls1_2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")];

#[test]
fn openssl_talks_and_resumes() {
    let files = Files::new();
    for is_compact in [true, false] {
        for (version, suite) in VERSIONS {
            let (port, server) = serve(acceptor(&Wanted { is_compact, ..wanted(&files) }), 3);
            // The last has to say Hello again: its first group is none of ours.
            let arguments: [&[&str]; 3] = [&["-sess_out", "session"], &["-sess_in", "session"], &["-groups", "P-521:P-256"]];
            for arguments in arguments {
                let mut client = Client::start(&files, port, &[&[version], arguments].concat());
                client.send("hello from openssl");
                client.await_line("hello from openssl");
                client.send("Q");
                let said = client.end();
                assert!(said.contains("Verification: OK") || said.contains("Verify return code: 0"), "{said}");
            }
            let seen = server.join().unwrap();
            let expected = |is_resumed| Seen { is_resumed, suite, own: 0, has_closed: true };
            assert_eq!(seen, [expected(false), expected(true), expected(false)], "{version}");
        }
    }
}

/// `K` asks for the server's new keys as well, `k` changes the client's alone.
#[test]
fn openssl_changes_its_keys() {
    let files = Files::new();
    for is_compact in [true, false] {
        for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
            let (port, server) = serve(acceptor(&Wanted { is_compact, ..wanted(&files) }), 1);
            let mut client = Client::start(&files, port, &["-tls1_3", "-ciphersuites", suite]);
            for (round, key) in ["K", "k", "K", "K", "k"].into_iter().enumerate() {
                client.send(key);
                client.await_line("KEYUPDATE");
                client.send(&format!("round {round}"));
                client.await_line(&format!("round {round}"));
            }
            client.send("Q");
            client.end();
            let [seen] = &server.join().unwrap()[..] else { panic!("one came") };
            assert_eq!((seen.own, seen.has_closed), (5, true), "{suite}");
        }
    }
}

#[test]
fn openssl_is_told_that_there_is_no_renegotiation() {
    let files = Files::new();
    let (port, server) = serve(acceptor(&wanted(&files)), 1);
    let mut client = Client::start(&files, port, &["-tls1_2"]);
    client.send("before");
    client.await_line("before");
    client.send("R");
    client.await_line("RENEGOTIATING");
    client.end();
    let [seen] = &server.join().unwrap()[..] else { panic!("one came") };
    assert_eq!(seen.own, 1);
}
