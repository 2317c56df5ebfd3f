//! Faults that it must find, in a server that does something wrong.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::{Ran, run};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    /// Drops it too, and says so.
    Announce,
    Double,
    Swap,
    Misroute,
    /// Keeps what is on another channel than the first.
    DropDirect,
    /// Closes every connection.
    Die,
    /// Sends bytes that are no frame.
    Babble,
}

/// Broadcasts what a client sends to all others, but does something wrong with the sixth message.
fn fake(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Arc<Mutex<Vec<(usize, TcpStream)>>> = Arc::default();
    let count = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let (clients, count) = (clients.clone(), count.clone());
            std::thread::spawn(move || serve_one(number, stream, &clients, &count, fault));
        }
    });
    address
}

fn serve_one(
    number: usize,
    mut stream: TcpStream,
    clients: &Mutex<Vec<(usize, TcpStream)>>,
    count: &AtomicUsize,
    fault: Fault,
) -> Option<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let mut read = |bytes: &mut Vec<u8>, stream: &mut TcpStream| {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        Some(())
    };
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        read(&mut bytes, &mut stream)?;
    };
    bytes.drain(..head);
    clients.lock().unwrap().push((number, stream.try_clone().unwrap()));
    stream
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .ok()?;
    let mut held = Vec::new();
    loop {
        // Masked with zeros, 128 bytes: a header of 4 and a mask of 4.
        while bytes.len() < 8 + 128 {
            read(&mut bytes, &mut stream)?;
        }
        let payload: Vec<u8> = bytes.drain(..8 + 128).skip(8).collect();
        let index = count.fetch_add(1, Ordering::Relaxed);
        let frame = frame(&payload);
        let sent = match (fault, index) {
            (Fault::None, _) => frame,
            (Fault::Drop, 5) => Vec::new(),
            (Fault::Announce, 5) => gap(),
            (Fault::Double, 5) => [&frame[..], &frame[..]].concat(),
            (Fault::Swap, 5) => {
                held = frame;
                Vec::new()
            }
            (Fault::Swap, 6) => [frame, std::mem::take(&mut held)].concat(),
            (Fault::Misroute, 5) => {
                // The channel's digits stand after the magic `~cn1`.
                let mut wrong = frame;
                wrong[4 + 4 + 7] = b'9';
                wrong
            }
            (Fault::DropDirect, _) if payload[4..12] != *b"00000000" => Vec::new(),
            (Fault::Die, 5) => {
                clients.lock().unwrap().iter().for_each(|(_, client)| drop(client.shutdown(Shutdown::Both)));
                return None;
            }
            (Fault::Babble, 5) => b"\xFF\xFFnonsense".to_vec(),
            _ => frame,
        };
        for (other, client) in clients.lock().unwrap().iter_mut() {
            if *other != number {
                let _ = client.write_all(&sent);
            }
        }
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81, 126];
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend(payload);
    frame
}

fn gap() -> Vec<u8> {
    frame(format!("{{\"type\":\"gap\",\"channel\":\"bench\",\"from\":6,\"to\":6,\"reason\":\"overrun\"{}}}", " ".repeat(80)).as_bytes())
}

fn run_against_fake(fault: Fault) -> Ran {
    let url = format!("ws://{}/feed", fake(fault));
    let arguments = ["broadcast", "--url", &url, "-n", "5", "--through", "client", "--publish-text", "{payload}"];
    run(&[&arguments[..], &["--rate", "100", "--messages", "20", "--patience", "5"]].concat())
}

#[test]
fn a_server_without_fault_passes() {
    assert_eq!(run_against_fake(Fault::None).passes()["messages"]["delivered"], 100);
}

#[test]
fn a_lost_message_is_found() {
    let ran = run_against_fake(Fault::Drop);
    ran.fails("5 messages were lost without a gap");
    assert_eq!((&ran.json["checks"]["lost"], &ran.json["result"]), (&5.into(), &"failed".into()));
    assert!(ran.stdout().contains("expected 5, got 6"), "{}", ran.stdout());
    assert!(ran.html.contains("What went wrong"));
}

#[test]
fn an_announced_loss_is_none() {
    let json = run_against_fake(Fault::Announce).passes();
    assert_eq!((&json["checks"]["announced"], &json["checks"]["gaps"]), (&5.into(), &5.into()));
}

#[test]
fn a_doubled_message_is_found() {
    let ran = run_against_fake(Fault::Double);
    ran.fails("5 messages came twice");
    assert_eq!((&ran.json["checks"]["duplicates"], &ran.json["checks"]["lost"]), (&5.into(), &0.into()));
}

#[test]
fn reordered_messages_are_found() {
    let ran = run_against_fake(Fault::Swap);
    ran.fails("5 messages came after a later one");
    assert_eq!((&ran.json["checks"]["reordered"], &ran.json["checks"]["lost"]), (&5.into(), &0.into()));
}

#[test]
fn a_message_of_another_channel_is_found() {
    run_against_fake(Fault::Misroute).fails("5 messages came on a channel that was not asked for");
}

#[test]
fn a_direct_message_that_never_comes_is_found() {
    let url = format!("ws://{}/feed", fake(Fault::DropDirect));
    let mixed = ["mixed", "--url", &url, "-n", "5", "--direct", "2", "--subscribe", "{channel}", "--through", "client"];
    let ran =
        run(&[&mixed[..], &["--publish-text", "{payload}", "--messages", "3", "--rate", "30", "--pairs", "1", "--patience", "3"]].concat());
    ran.fails("10 messages were lost without a gap");
    let figures = ["broadcast_delivered", "broadcast_lost", "direct_delivered", "direct_lost"].map(|name| ran.json["mixed"][name].clone());
    assert_eq!(figures, [15, 0, 0, 10]);
    assert!(ran.stdout().contains("channel 1: 0 to 4 never came"), "{}", ran.stdout());
}

#[test]
fn what_is_no_frame_is_found() {
    run_against_fake(Fault::Babble).fails("no WebSocket frames");
}

#[test]
fn a_server_that_dies_leaves_partial_results() {
    let ran = run_against_fake(Fault::Die);
    ran.fails("connections were closed by the server");
    // It is noticed, not waited for.
    ran.fails("the server closed all connections");
    assert_eq!(ran.json["checks"]["closed"], 5);
    assert!(ran.json["messages"]["delivered"].as_u64().unwrap() >= 20, "{}", ran.json["messages"]);
}
