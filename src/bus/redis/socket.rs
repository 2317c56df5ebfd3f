//! What a [`super::link`] talks through: a TCP or unix socket, with TLS over it or not, and the name server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use crossbeam_channel::Receiver;
use mio::Waker;
use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use rustls::ClientConnection;

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Not an error: the kernel has nothing now, or takes nothing now.
pub fn is_flow(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Makes the call again when a signal cut it short.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Asks the system's resolver, which may block for seconds, on a thread of its own.
pub fn resolve(host: String, port: u16, waker: Arc<Waker>) -> Receiver<io::Result<Vec<SocketAddr>>> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    // A thread that cannot be started drops the sender: the link then sees a failed resolution.
    let _ = std::thread::Builder::new().name("resolve".into()).spawn(move || {
        let _ = sender.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect));
        let _ = waker.wake();
    });
    receiver
}

impl Socket {
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Socket::Tcp(socket) => socket,
            Socket::Unix(socket) => socket,
        }
    }

    /// Whether the non-blocking connect has ended, and how.
    pub fn connected(&self) -> io::Result<bool> {
        let (error, peer) = match self {
            Socket::Tcp(socket) => (socket.take_error(), socket.peer_addr().map(drop)),
            Socket::Unix(socket) => (socket.take_error(), socket.peer_addr().map(drop)),
        };
        match (error?, peer) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(true),
            (None, Err(error)) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            (None, Err(error)) => Err(error),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.read(buffer),
            Socket::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what TLS decrypts.
#[derive(Debug)]
pub struct TlsReader<'a> {
    pub session: &'a mut ClientConnection,
    pub socket: &'a mut Socket,
}

impl Read for TlsReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Also the peer's orderly end (0), or its end without a goodbye (UnexpectedEof).
                result => return result,
            }
            if self.session.read_tls(self.socket)? == 0 {
                return Ok(0);
            }
            self.session.process_new_packets().map_err(io::Error::other)?;
        }
    }
}
