//! The bytes of a connection, in the clear or over TLS. Blocking, as long as the socket says. Made by `target` beside it, by `campanile top` and by the load
//! generator.
//!
//! Invariant: whoever reads does not keep others from writing: the session is locked while it works on bytes, never while the socket waits for some.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConnection;

use super::tls::Tls;
use crate::limits::client::READ_BYTES;

/// The type of a record that is an alert, which is how a server of TLS answers who does not speak it.
const ALERT: u8 = 21;

/// It was spoken to in the clear.
#[derive(Debug, thiserror::Error)]
#[error("the server speaks TLS there")]
pub struct SpeaksTls;

#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    /// Nothing has come yet.
    is_fresh: bool,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    tls: Arc<Mutex<ClientConnection>>,
    /// Read, and from `taken` to `end` not deciphered.
    incoming: Box<[u8]>,
    taken: usize,
    end: usize,
}

impl Stream {
    pub fn plain(socket: TcpStream) -> Stream {
        Stream { socket, is_fresh: true, session: None }
    }

    /// The same over TLS, once the handshake is done. It may take so long.
    ///
    /// # Errors
    /// [`complaint`](super::tls::complaint) tells the server's fault from that of the way to it.
    pub fn over_tls(socket: TcpStream, tls: &Tls, patience: Duration) -> io::Result<Stream> {
        let connection = ClientConnection::new(tls.config.clone(), tls.name.clone()).map_err(invalid)?;
        let session = Session { tls: Arc::new(Mutex::new(connection)), incoming: vec![0; READ_BYTES].into(), taken: 0, end: 0 };
        let mut stream = Stream { socket, is_fresh: true, session: Some(session) };
        stream.shake_hands(Instant::now() + patience)?;
        Ok(stream)
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// For another thread to write by. It does not read.
    ///
    /// # Errors
    /// The system's.
    pub fn try_clone(&self) -> io::Result<Stream> {
        let session = self.session.as_ref().map(|session| Session { tls: session.tls.clone(), incoming: Box::default(), taken: 0, end: 0 });
        Ok(Stream { socket: self.socket.try_clone()?, is_fresh: self.is_fresh, session })
    }

    /// Says that nothing more is to come, where there are words for it.
    pub fn say_goodbye(&mut self) {
        if let Some(session) = &mut self.session {
            let mut tls = lock(&session.tls);
            tls.send_close_notify();
            let _ = send(&mut tls, &mut &self.socket);
        }
    }

    fn shake_hands(&mut self, deadline: Instant) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        loop {
            let is_done = {
                let mut tls = lock(&session.tls);
                send(&mut tls, &mut &self.socket)?;
                !tls.is_handshaking()
            };
            if is_done {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            if session.receive(&mut &self.socket)? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "it was closed in the middle of the TLS handshake"));
            }
            session.decipher(&mut &self.socket)?;
        }
    }
}

impl Session {
    /// Reads the socket once. 0: it is the end.
    fn receive(&mut self, socket: &mut impl Read) -> io::Result<usize> {
        let count = loop {
            match socket.read(&mut self.incoming) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        (self.taken, self.end) = (0, count);
        if count == 0 {
            // So that it can tell an end that was announced from one that was not.
            lock(&self.tls).read_tls(&mut io::empty())?;
        }
        Ok(count)
    }

    /// Takes some of what was read; all of it, as long as nothing can be handed on.
    fn decipher(&mut self, socket: &mut impl Write) -> io::Result<()> {
        let mut tls = lock(&self.tls);
        while self.taken < self.end {
            let mut rest = &self.incoming[self.taken..self.end];
            let count = tls.read_tls(&mut rest)?;
            // Behind a farewell nothing counts.
            self.taken = if count == 0 { self.end } else { self.end - rest.len() };
            match tls.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > 0 => break,
                Ok(_) => {}
                Err(error) => {
                    // The alert.
                    let _ = send(&mut tls, socket);
                    return Err(invalid(error));
                }
            }
        }
        send(&mut tls, socket)
    }
}

/// What TLS itself has to say.
fn send(tls: &mut ClientConnection, socket: &mut impl Write) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            written => drop(written?),
        }
    }
    Ok(())
}

/// A thread that panicked while it worked on bytes leaves a session that fails by itself.
fn lock(tls: &Mutex<ClientConnection>) -> MutexGuard<'_, ClientConnection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            let count = self.socket.read(into)?;
            if std::mem::take(&mut self.is_fresh) && count > 0 && into[0] == ALERT {
                return Err(io::Error::new(ErrorKind::InvalidData, SpeaksTls));
            }
            return Ok(count);
        };
        loop {
            let read = lock(&session.tls).reader().read(into);
            match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "it was cut off"));
                }
                read => return read,
            }
            if session.taken == session.end {
                session.receive(&mut &self.socket)?;
            }
            session.decipher(&mut &self.socket)?;
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &self.session else { return self.socket.write(bytes) };
        let mut tls = lock(&session.tls);
        // What stood in the way the last time: the session takes no more than it may keep.
        match send(&mut tls, &mut &self.socket) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        let count = tls.writer().write(bytes)?;
        if count == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        match send(&mut tls, &mut &self.socket) {
            // Taken, but not yet with the kernel: the next write or flush goes on with it.
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(session) = &self.session else { return self.socket.flush() };
        send(&mut lock(&session.tls), &mut &self.socket)
    }
}
