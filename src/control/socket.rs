//! What the control port is accepted from and spoken over: TCP, or a unix socket. `listener.rs` does not care.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::listen::ControlSocket;
use crate::listen::unix::SocketFile;

#[derive(Debug)]
pub(super) enum Door {
    Tcp(TcpListener),
    /// The file goes with it, and before it.
    Unix(#[allow(dead_code, reason = "held to be dropped")] SocketFile, UnixListener),
}

impl Door {
    /// Must be called in a runtime.
    pub(super) fn new(socket: ControlSocket) -> io::Result<Door> {
        match socket {
            ControlSocket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket).map(Door::Tcp)
            }
            ControlSocket::Unix(file, socket) => {
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(|socket| Door::Unix(file, socket))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Door::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                // Answers are written whole; waiting for more helps nobody.
                let _ = stream.set_nodelay(true);
                Ok(Socket::Tcp(stream))
            }
            Door::Unix(_, socket) => socket.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! each {
    ($socket:expr, $stream:ident => $done:expr) => {
        match $socket {
            Socket::Tcp($stream) => $done,
            Socket::Unix($stream) => $done,
        }
    };
}

impl Socket {
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_write(bytes))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
