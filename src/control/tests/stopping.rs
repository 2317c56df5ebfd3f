//! Signals and the end.

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;

use super::{ControlSocket, Options, PATIENCE, Server, TIMEOUTS, Timeouts, agent, answer, fake_bus, settings, state, wait_until};

#[test]
fn the_first_signal_stops_once_and_the_end_can_be_watched() {
    let mut server = Server::start(Options::default());
    server.state.bus_metrics.ready.set(1);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.stops.load(SeqCst), 0);

    server.signals.blocking_send("SIGTERM").unwrap();
    wait_until(|| server.get("/readyz").json()["reason"] == "stopping");
    let answer = server.get("/readyz");
    assert_eq!((answer.status, answer.json()), (503, json!({ "ready": false, "reason": "stopping" })));
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    assert_eq!(server.get("/info").json()["stage"], "stopping");
    let answer = server.publish(r#"{"channel":"a","data":1}"#);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert_eq!(answer.json()["error"], "the server is stopping");

    server.end().unwrap();
    assert_eq!(server.stops.load(SeqCst), 1);
    assert!(server.exits.try_recv().is_err(), "one signal does not exit");
}

#[test]
fn a_signal_while_it_stops_exits_at_once() {
    let server = Server::start(Options::default());
    server.signals.blocking_send("SIGINT").unwrap();
    // Nobody is there who would have to go first.
    wait_until(|| server.stops.load(SeqCst) == 1);
    server.signals.blocking_send("SIGTERM").unwrap();
    assert_eq!(server.exits.recv_timeout(PATIENCE).unwrap(), 130);
    assert_eq!(server.stops.load(SeqCst), 1);
}

#[test]
fn it_ends_when_told_without_a_signal_and_whatever_clients_do() {
    // Deadlines that never come: it must not be one of them that ends it.
    let never = Duration::from_secs(24 * 3600);
    let timeouts = Timeouts { first_byte: never, head: never, request: never, idle: never, ..TIMEOUTS };
    let mut server = Server::start(Options { timeouts, ..Options::default() });
    assert_eq!(server.get("/healthz").status, 200);
    let (mut half, _silent) = (server.connect(), server.connect());
    half.write_all(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{").unwrap();
    server.ended.take().unwrap().send(()).unwrap();
    server.end().expect("unfinished requests do not hold up the end");
    assert_eq!(server.stops.load(SeqCst), 0);
    std::net::TcpStream::connect(server.address).expect_err("the port is free again");
}

/// The one test with a real signal. It is harmless to the others: the handler only takes note.
#[test]
fn a_real_sigterm_reaches_on_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (bus, bus_thread) = fake_bus(8, Default::default());
    let state = Arc::new(state(settings(), address, bus.clone()));
    let (stop, stopped) = mpsc::channel();
    let (ended, until) = oneshot::channel();
    let serving = std::thread::spawn(move || {
        crate::control::Control::prepare()?.run(ControlSocket::Tcp(listener), state, None, move || stop.send(()).unwrap(), until)
    });
    // Once it answers, the handlers stand; before, the signal would end the test.
    assert_eq!(answer(agent().get(format!("http://{address}/healthz")).call()).status, 200);

    let pid = std::process::id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().unwrap().success());
    stopped.recv_timeout(PATIENCE).unwrap();
    let answer = answer(agent().get(format!("http://{address}/readyz")).call());
    assert_eq!((answer.status, &answer.json()["reason"]), (503, &json!("stopping")));

    ended.send(()).unwrap();
    serving.join().unwrap().unwrap();
    bus.send(crate::bus::BusCommand::Stop).unwrap();
    bus_thread.unwrap().join().unwrap();
}
