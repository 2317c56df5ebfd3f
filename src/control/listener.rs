//! The control port's sockets: a bounded number of them, none held for ever. Used by the server in `mod.rs`.
//!
//! Invariant: whatever a client does or omits, its connection ends when no answer was written within the deadline. The server
//! underneath has no timer of its own for a head that trickles in or a connection that is never used.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::Timeouts;

/// Accepts while fewer than the given number of connections are open.
pub(super) struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    timeouts: Timeouts,
}

/// A connection, its place among the permitted ones, and the moment it ends unless an answer is written.
pub(super) struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// The last thing that happened was an answer (or nothing yet): the next byte read begins a request.
    between_requests: bool,
    timeouts: Timeouts,
    _place: OwnedSemaphorePermit,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener, connections_max: usize, timeouts: Timeouts) -> Bounded {
        Bounded { listener, room: Arc::new(Semaphore::new(connections_max)), timeouts }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = self.room.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Answers are written whole; waiting for more helps nobody.
                    let _ = stream.set_nodelay(true);
                    // A client that connects and says nothing gets no longer than one that says something.
                    let deadline = Box::pin(tokio::time::sleep(self.timeouts.exchange));
                    let timeouts = self.timeouts;
                    return (Connection { stream, deadline, between_requests: true, timeouts, _place: place }, peer);
                }
                Err(error) => {
                    // The peer is gone already, or descriptors ran out: neither is mended by trying at once.
                    tracing::debug!("control port: accept failed: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    fn restart(&mut self, timeout: Duration) {
        self.deadline.as_mut().reset(Instant::now() + timeout);
    }

    /// Pending until the deadline, then an error: what a read or write that cannot go on returns.
    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            return self.poll_deadline(cx);
        }
        self.between_requests = true;
        self.restart(self.timeouts.idle);
        written
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() {
            return self.poll_deadline(cx);
        }
        // Only the first byte of a request moves the deadline: a byte a second gains nothing.
        if std::mem::take(&mut self.between_requests) {
            let timeout = self.timeouts.exchange;
            self.restart(timeout);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written, cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
