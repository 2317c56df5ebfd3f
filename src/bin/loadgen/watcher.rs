//! Somebody who looks at the dashboard: the WebSocket of its page, read and thrown away.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use campanile::wire::Format;
use campanile::wire::http::upgrade::subprotocol;
use tungstenite::client::ClientRequestBuilder;

/// A snapshot comes once a second.
const SILENCE_MAX: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Watcher {
    socket: TcpStream,
    reader: JoinHandle<u64>,
}

impl Watcher {
    pub fn open(control: SocketAddr) -> Result<Watcher> {
        let socket = TcpStream::connect(control).with_context(|| format!("the control port {control} cannot be reached"))?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        let request = ClientRequestBuilder::new(format!("ws://{control}/stats").parse()?).with_sub_protocol(subprotocol(Format::Json));
        let (mut dashboard, _) =
            tungstenite::client(request, socket.try_clone()?).with_context(|| format!("{control}/stats did not take the connection"))?;
        let reader = std::thread::Builder::new().name("watcher".to_owned()).spawn(move || {
            let mut count = 0;
            while let Ok(message) = dashboard.read() {
                count += u64::from(message.is_text());
            }
            count
        })?;
        Ok(Watcher { socket, reader })
    }

    /// How many events it was told.
    pub fn close(self) -> u64 {
        let _ = self.socket.shutdown(Shutdown::Both);
        self.reader.join().unwrap_or(0)
    }
}
