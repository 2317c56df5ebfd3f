//! The chat server of the articles: tokio, tungstenite, one unbounded queue and two tasks per client, one task that reads Redis and puts every
//! message into every queue of its channel. Each message leaves in a `send` of its own.
//!
//! `tokio-queue [PORT [REDIS_URL [PREFIX]]]`; a client of `/ws/NAME` gets what is published on `PREFIX` + `NAME`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Clients = HashMap<u64, UnboundedSender<Message>>;
type Rooms = Arc<Mutex<HashMap<String, Clients>>>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().map_or(Ok(8081), |port| port.parse())?;
    let url = args.next().unwrap_or_else(|| "redis://127.0.0.1:6379".into());
    let prefix = args.next().unwrap_or_else(|| "notifications:".into());

    let rooms = Rooms::default();
    tokio::spawn({
        let rooms = rooms.clone();
        async move {
            let error = publish(&url, &prefix, rooms).await.err().unwrap_or_else(|| "Redis closed the connection".into());
            eprintln!("tokio-queue: {error}");
            std::process::exit(1);
        }
    });
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on 127.0.0.1:{port}");
    for id in 0.. {
        let (stream, _) = listener.accept().await?;
        let rooms = rooms.clone();
        // A client that goes is nothing to report.
        tokio::spawn(async move { serve(stream, id, rooms).await.ok() });
    }
    Ok(())
}

/// Every message from Redis into every queue of its room.
async fn publish(url: &str, prefix: &str, rooms: Rooms) -> Result<(), Error> {
    let mut subscriber = redis::Client::open(url)?.get_async_pubsub().await?;
    subscriber.psubscribe(format!("{prefix}*")).await?;
    let mut messages = subscriber.on_message();
    while let Some(message) = messages.next().await {
        let frame = Message::text(message.get_payload::<String>()?);
        let rooms = rooms.lock().unwrap();
        let Some(clients) = rooms.get(&message.get_channel_name()[prefix.len()..]) else { continue };
        for queue in clients.values() {
            let _ = queue.send(frame.clone());
        }
    }
    Ok(())
}

/// One client: a task that writes what is in its queue, and this one, which reads until the client goes.
async fn serve(stream: TcpStream, id: u64, rooms: Rooms) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut room = String::new();
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let note_room = |request: &Request, response: Response| {
        room = request.uri().path().trim_start_matches("/ws/").to_owned();
        Ok(response)
    };
    let socket = accept_hdr_async(stream, note_room).await?;
    let (mut sink, mut incoming) = socket.split();
    let (queue, mut queued) = unbounded_channel();
    rooms.lock().unwrap().entry(room.clone()).or_default().insert(id, queue);
    let writer = tokio::spawn(async move {
        while let Some(message) = queued.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    while let Some(Ok(_)) = incoming.next().await {}
    if let Some(clients) = rooms.lock().unwrap().get_mut(&room) {
        clients.remove(&id);
    }
    writer.abort();
    Ok(())
}
