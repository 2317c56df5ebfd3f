//! What must not be said to a port that speaks TLS, and who stops in the middle of saying it: closed with the right alert, counted, and nothing of it is kept.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::support::languages;
use crate::support::redis::PATIENCE;
use crate::support::server::Server;
use crate::tls::{Peer, certificates, client_hello, curl, faults, launch, s_client};

/// What a socket brings back that said this.
fn answer(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn what_is_not_tls_is_told_so_and_counted() {
    let certificates = certificates("garbage");
    let server = launch(&certificates, &[]).start();
    let said = answer(&server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400 ") && said.ends_with("This port speaks TLS: use https:// or wss:// in its place.\n"), "{said}");
    let body = said.split("\r\n\r\n").nth(1).unwrap();
    assert!(said.contains(&format!("Content-Length: {}\r\n", body.len())), "{said}");
    for other in [&b"SSH-2.0-x\r\n"[..], b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n", &[0x80, 0x2e, 1, 3, 1], b"\0\0\0\0"] {
        assert!(answer(&server, other).starts_with(b"HTTP/1.1 400 "), "{other:?}");
    }
    assert_eq!(faults(&server, "not_tls"), 5.0);

    // Alerts, in the clear: level fatal and what is wrong.
    let alert = |answer: Vec<u8>| (answer.first().copied(), answer.get(5).copied(), answer.get(6).copied());
    let long = [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 3000]].concat();
    assert_eq!(alert(answer(&server, &long)).0, Some(0x15), "a record that is too long");
    let garbage = [&[0x16, 3, 1, 0, 64][..], &[9; 64]].concat();
    assert_eq!(alert(answer(&server, &garbage)).0, Some(0x15), "no ClientHello");
    let old = s_client(server.listen.port(), &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], b"");
    assert!(old.contains("alert"), "{old}");
    let none = s_client(server.listen.port(), &["-tls1_2", "-cipher", "AES256-SHA"], b"");
    assert!(none.contains("alert handshake failure"), "{none}");
    assert_eq!(faults(&server, "no_shared_suite"), 1.0);
    assert!(server.metric("campanile_tls_faults_total", "") >= 9.0);
    nothing_is_left(&server);
}

/// A crowd of handshakes that are begun and never ended is bounded, and whoever comes meanwhile is served when they have run out of time.
#[test]
fn handshakes_that_do_not_end_make_room() {
    let certificates = certificates("crowd");
    let server = launch(&certificates, &["--shards", "1", "--handshake-timeout", "60"]).start();
    let hello = client_hello();
    // Before them come more who say nothing at all than are looked at together.
    campanile::sys::raise_descriptor_limit().unwrap();
    let dial = |_| TcpStream::connect(server.listen).unwrap();
    let silent: Vec<TcpStream> = (0..4_200).map(dial).collect();
    let crowd: Vec<TcpStream> = (0..700)
        .map(|_| {
            let mut stream = TcpStream::connect(server.listen).unwrap();
            stream.write_all(&hello).unwrap();
            stream
        })
        .collect();
    // Long before they have run out of time somebody has had to make room, so there never were more than may be.
    let made_room = |server: &Server| server.metric("campanile_connections_refused_total", "reason=\"handshakes\"") > 0.0;
    server.eventually("there is no more room", made_room);
    assert!(server.metric("campanile_tls_handshakes_under_way", "") <= 512.0);
    assert_eq!(curl(&certificates, server.listen.port(), &[]).0, "200");
    drop((crowd, silent));
    nothing_is_left(&server);
}

/// By tlslite-ng, which sends any record: each is answered with the alert that RFC 8446 or 5246 has for it, or goes on where they say so.
#[test]
fn hostile_records_are_answered_with_the_right_alert() {
    const EXPECTED: &[(&str, &str)] = &[
        ("1.3 nothing", "alive"),
        ("1.3 a record of 16,384 bytes", "alive"),
        ("1.3 a record of 16,385 bytes", "alert 22"),
        ("1.3 an empty record of data", "alive"),
        ("1.3 33 empty records of data", "alert 10"),
        ("1.3 an empty handshake record", "alert 10"),
        ("1.3 an empty alert", "alert 10"),
        ("1.3 an alert of one byte", "alert 50"),
        ("1.3 two alerts in a record", "alert 50"),
        ("1.3 user_canceled", "alive"),
        ("1.3 a warning of another kind", "alert 50"),
        ("1.3 a fatal alert", "closed"),
        ("1.3 an inner type of 99", "alert 10"),
        ("1.3 an inner change_cipher_spec", "alert 10"),
        ("1.3 a ClientHello", "alert 10"),
        ("1.3 a HelloRequest", "alert 10"),
        ("1.3 a key update", "alive"),
        ("1.3 a key update in two records", "alive"),
        ("1.3 data within a key update", "alert 10"),
        ("1.3 two key updates in a record", "alert 10"),
        ("1.3 a key update with a byte behind", "alert 10"),
        ("1.3 a key update with value 2", "alert 47"),
        ("1.3 a key update of 16 MB", "alert 50"),
        ("1.3 3,000 key updates", "alert 10"),
        ("1.3 a header of 16,641 bytes", "alert 22"),
        ("1.3 a header of 20,000 bytes", "alert 22"),
        ("1.3 an alert in the clear", "alert 10"),
        ("1.3 data in the clear", "alert 20"),
        ("1.3 change_cipher_spec in the clear", "alert 10"),
        ("1.3 a wrong tag", "alert 20"),
        ("1.3 a record again", "alert 20"),
        ("1.2 nothing", "alive"),
        ("1.2 an empty record of data", "alive"),
        ("1.2 33 empty records of data", "alert 10"),
        ("1.2 a warning", "alive"),
        ("1.2 5 warnings", "alert 10"),
        ("1.2 a fatal alert", "closed"),
        ("1.2 an alert of one byte", "alert 50"),
        ("1.2 change_cipher_spec", "alert 10"),
        ("1.2 a Finished", "alert 10"),
        ("1.2 a header of 20,000 bytes", "alert 22"),
        ("1.2 a wrong tag", "alert 20"),
        ("1.2 a record again", "alert 20"),
    ];
    let certificates = certificates("hostile");
    let server = launch(&certificates, &[]).start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python/tls_hostile.py");
    let output = Command::new(languages::python().join("bin/python")).arg(script).arg(server.listen.port().to_string()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let found: Vec<(&str, &str)> = said.lines().filter_map(|line| line.rsplit_once(": ")).collect();
    assert_eq!(found, EXPECTED, "{}", String::from_utf8_lossy(&output.stderr));
    nothing_is_left(&server);
}

#[track_caller]
fn nothing_is_left(server: &Server) {
    for metric in ["campanile_sockets", "campanile_tls_sessions", "campanile_tls_handshakes_under_way", "campanile_buffer_bytes"] {
        server.eventually_metric(metric, "", 0.0);
    }
}

/// Who asks for a name that nobody has gets the first certificate, and says itself what it thinks of it.
#[test]
fn a_name_that_no_certificate_has_is_refused_by_the_client() {
    let certificates = certificates("name");
    let server = launch(&certificates, &[]).start();
    for version in ["1.3", "1.2"] {
        let peer = Peer::start(&certificates, server.listen.port(), &["--version", version, "--name", "elsewhere.example"]);
        let why = peer.told("end ");
        assert!(why.contains("Hostname mismatch"), "{why}");
    }
    server.eventually_metric("campanile_tls_faults_total", "reason=\"peer_alert\"", 2.0);
    nothing_is_left(&server);
}

/// 0-RTT: no ticket allows it, and who sends it all the same is none the wiser.
#[test]
fn early_data_is_not_taken() {
    let certificates = certificates("early");
    let server = launch(&certificates, &[]).start();
    let (port, session, early) = (server.listen.port(), certificates.path("session"), certificates.path("early"));
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    std::fs::write(&early, request).unwrap();
    let first = s_client(port, &["-tls1_3", "-ign_eof", "-sess_out", &session], request);
    assert!(first.contains("Max Early Data: 0"), "{first}");
    let again = s_client(port, &["-tls1_3", "-ign_eof", "-sess_in", &session, "-early_data", &early], request);
    assert!(again.contains("Reused, TLSv1.3") && again.contains("Early data was not sent"), "{again}");
    assert_eq!(again.matches("\nok\n").count(), 1, "{again}");
    nothing_is_left(&server);
}

fn closed(server: &Server, reason: &str) -> f64 {
    server.metric("campanile_connections_closed_total", &format!("reason=\"{reason}\""))
}

/// With a FIN, and with an RST, at every point of a handshake. What ends them is not that time runs out.
#[test]
fn who_leaves_within_a_handshake_leaves_nothing_behind() {
    let certificates = certificates("leaves");
    let server = launch(&certificates, &["--handshake-timeout", "3600"]).start();
    let hello = client_hello();
    for with_reset in [false, true] {
        for part in [0, 1, 4, 5, 6, hello.len() / 2, hello.len() - 1, hello.len()] {
            let mut stream = TcpStream::connect(server.listen).unwrap();
            stream.write_all(&hello[..part]).unwrap();
            if part == hello.len() {
                stream.read_exact(&mut [0; 5]).unwrap();
            }
            if with_reset {
                socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        }
    }
    // Half of it said, no more to come, and still there to read.
    let mut stream = TcpStream::connect(server.listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&hello[..hello.len() / 2]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0);
    nothing_is_left(&server);
    assert_eq!(closed(&server, "gone") + closed(&server, "reset"), 17.0);
    assert_eq!(curl(&certificates, server.listen.port(), &[]).0, "200");
}

/// A chain that is longer than what the socket holds, and nobody who reads it.
#[test]
fn who_never_reads_the_handshake_is_closed_in_time() {
    let certificates = certificates("unread");
    let chain: String = (0..60).map(|_| std::fs::read_to_string(certificates.path("root.crt")).unwrap()).collect();
    let server = std::fs::read_to_string(certificates.path("server.crt")).unwrap();
    std::fs::write(certificates.path("server.crt"), server + &chain).unwrap();
    let server = launch(&certificates, &["--handshake-timeout", "2"]).start();
    let hello = client_hello();
    let _streams: Vec<TcpStream> = (0..20)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(1).unwrap();
            socket.connect(&server.listen.into()).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.write_all(&hello).unwrap();
            stream
        })
        .collect();
    server.eventually_metric("campanile_connections_closed_total", "reason=\"handshake_timeout\"", 20.0);
    nothing_is_left(&server);
    assert_eq!(curl(&certificates, server.listen.port(), &[]).0, "200", "who reads it gets through");
}

/// Half a record and the end of the stream, whose edge may be one.
#[test]
fn who_leaves_within_a_record_is_gone_at_once() {
    let certificates = certificates("cut");
    for sessions in ["compact", "rustls"] {
        let server = launch(&certificates, &["--tls-sessions", sessions, "--heartbeat", "3600"]).start();
        for version in ["1.3", "1.2"] {
            let mut peer = Peer::subscribed(&certificates, server.listen.port(), &["--version", version]);
            peer.say("half\nshut");
            peer.told("end ");
        }
        nothing_is_left(&server);
        assert_eq!(closed(&server, "gone"), 2.0);
    }
}

/// Half a record is nothing that was heard, however many bytes of it come.
#[test]
fn half_a_record_for_ever_is_silence() {
    let certificates = certificates("half");
    for sessions in ["compact", "rustls"] {
        let server = launch(&certificates, &["--tls-sessions", sessions, "--heartbeat", "1", "--pong-timeout", "1"]).start();
        for version in ["1.3", "1.2"] {
            let mut peer = Peer::subscribed(&certificates, server.listen.port(), &["--version", version]);
            peer.say("half");
            // It answers pings: into that record, whose end does not come.
            peer.told("end ");
        }
        nothing_is_left(&server);
        assert_eq!(closed(&server, "heartbeat_timeout") + closed(&server, "message_timeout"), 2.0);
    }
}
