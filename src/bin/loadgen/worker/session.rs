//! TLS below what clients say and hear. Called by [`super::receive`] and [`super::connect`].
//!
//! Invariant: what a session has deciphered is handed on by the read that deciphered it, so that an edge-triggered socket that was read to its end says
//! everything.

use std::io::{self, Read, Write};

use campanile::client::tls::Tls;
use mio::net::TcpStream;
use rustls::{ClientConnection, HandshakeKind};

/// What one read brings, before it is deciphered: a few records.
const CIPHER_BYTES: usize = 64 * 1024;

/// What a read of a socket has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    Bytes {
        count: usize,
        /// As much as was asked for: more may wait.
        is_filled: bool,
    },
    Blocked,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shaken {
    UnderWay,
    Done { is_resumed: bool },
}

/// One client's session. It takes 7 to 8 KB; whatever takes its place has to do this much.
#[derive(Debug)]
pub(super) struct Session(Box<ClientConnection>);

/// The sessions of a worker.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// By the client's number within the worker. Empty: all speak in the clear.
    by_client: Vec<Option<Session>>,
    cipher: Vec<u8>,
}

impl Sessions {
    pub fn begin(&mut self, index: usize, tls: &Tls) -> io::Result<()> {
        if self.by_client.len() <= index {
            self.by_client.resize_with(index + 1, || None);
            self.cipher.resize(CIPHER_BYTES, 0);
        }
        let session = ClientConnection::new(tls.config.clone(), tls.name.clone()).map_err(io::Error::other)?;
        self.by_client[index] = Some(Session(Box::new(session)));
        Ok(())
    }

    pub fn end(&mut self, index: usize) {
        if let Some(session) = self.by_client.get_mut(index) {
            *session = None;
        }
    }

    /// None: the client speaks in the clear.
    pub fn of(&mut self, index: usize) -> Option<&mut Session> {
        self.by_client.get_mut(index)?.as_mut()
    }

    /// Something of it waits for the socket.
    pub fn is_blocked(&self, index: usize) -> bool {
        self.by_client.get(index).and_then(Option::as_ref).is_some_and(|session| session.0.wants_write())
    }

    /// Takes a handshake on as far as the socket lets it.
    pub fn shake_hands(&mut self, index: usize, stream: &mut TcpStream) -> io::Result<Shaken> {
        let Sessions { by_client, cipher } = self;
        let session = by_client[index].as_mut().expect("it was begun when the client was connected");
        session.shake_hands(stream, cipher)
    }

    /// Reads the socket once, at most so many bytes of it, and puts what they say into `room`, which has space for a buffer of ciphertext and a record.
    pub fn read(&mut self, index: usize, stream: &mut TcpStream, room: &mut [u8], bytes_max: usize) -> io::Result<Came> {
        let Sessions { by_client, cipher } = self;
        match by_client.get_mut(index).and_then(Option::as_mut) {
            Some(session) => session.read(stream, &mut cipher[..bytes_max.min(CIPHER_BYTES)], room),
            None => {
                let end = room.len().min(bytes_max);
                match stream.read(&mut room[..end]) {
                    Ok(0) => Ok(Came::End),
                    Ok(count) => Ok(Came::Bytes { count, is_filled: count == end }),
                    Err(error) if is_blocked(&error) => Ok(Came::Blocked),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

impl Session {
    fn shake_hands(&mut self, stream: &mut TcpStream, cipher: &mut [u8]) -> io::Result<Shaken> {
        loop {
            self.flush(stream)?;
            if !self.0.is_handshaking() {
                return Ok(Shaken::Done { is_resumed: self.0.handshake_kind() == Some(HandshakeKind::Resumed) });
            }
            match stream.read(cipher) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed in the middle of the TLS handshake")),
                Ok(count) => drop(self.decipher(stream, &cipher[..count], &mut [])?),
                Err(error) if is_blocked(&error) => return Ok(Shaken::UnderWay),
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self, stream: &mut TcpStream, cipher: &mut [u8], room: &mut [u8]) -> io::Result<Came> {
        match stream.read(cipher) {
            Ok(0) => Ok(Came::End),
            Ok(count) => {
                let is_filled = count == cipher.len();
                let count = self.decipher(stream, &cipher[..count], room)?;
                self.flush(stream)?;
                Ok(Came::Bytes { count, is_filled })
            }
            // What came with the end of the handshake.
            Err(error) if is_blocked(&error) => match self.take(room)? {
                0 => Ok(Came::Blocked),
                count => Ok(Came::Bytes { count, is_filled: false }),
            },
            Err(error) => Err(error),
        }
    }

    /// What these bytes say, as far as `room` is given for it. rustls takes 4 KB at a time, and keeps no more than 16 KB that nobody has taken.
    fn decipher(&mut self, stream: &mut TcpStream, mut cipher: &[u8], room: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while !cipher.is_empty() {
            // Behind a farewell nothing counts.
            if self.0.read_tls(&mut cipher)? == 0 {
                break;
            }
            if let Err(error) = self.0.process_new_packets() {
                // The alert.
                let _ = self.flush(stream);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            count += self.take(&mut room[count..])?;
        }
        Ok(count)
    }

    fn take(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < room.len() {
            match self.0.reader().read(&mut room[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Sends, and keeps itself what the socket does not take. How much of `bytes` it has taken.
    pub fn write(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.writer().write(bytes)?;
        self.flush(stream)?;
        Ok(count)
    }

    pub fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_blocked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
