//! rustls's own record layer behind the methods of the compact session (`tls_sessions = "rustls"`): 3.5 KB a connection instead of 152 bytes.
//!
//! Differences that [`super::layer`] tells of: what was sealed cannot be taken back; and a handshake message in two records, which nobody sends but to try, ends
//! the session, as rustls would keep the first part in a buffer that is ours.

use std::io::IoSlice;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use super::drive::encode;
use super::fault::{CLOSE_NOTIFY, Fault};
use super::record::{CONTENT_BYTES_MAX, HEADER_BYTES, RECORD_BYTES_MAX, announced, gather, length_of};
use super::session::Opened;

pub struct RustlsSession {
    tls: Box<UnbufferedServerConnection>,
    /// Sealed records of rustls's, which go out before anything that is sealed later.
    own: Vec<u8>,
    state: State,
}

impl std::fmt::Debug for RustlsSession {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("RustlsSession").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// TLS 1.2 has used its key up.
    Exhausted,
    /// Nothing more is asked of rustls.
    Ended,
}

/// The most that a record has beyond its content, in TLS 1.2 with GCM, and an answer to a KeyUpdate, which rustls puts in front of the next record.
const OVERHEAD_BYTES: usize = 29 + 27;

impl RustlsSession {
    pub(super) fn new(tls: Box<UnbufferedServerConnection>) -> RustlsSession {
        RustlsSession { tls, own: Vec::new(), state: State::Open }
    }

    pub fn open(&mut self, input: &mut [u8]) -> Result<Opened, Fault> {
        let Some(length) = announced(input) else { return Ok(Opened::Partial { needs: None }) };
        let consumed = match HEADER_BYTES + length {
            // rustls says what is wrong with such a header.
            bytes if bytes > RECORD_BYTES_MAX => HEADER_BYTES,
            bytes if bytes > input.len() => return Ok(Opened::Partial { needs: Some(bytes) }),
            bytes => bytes,
        };
        let mut start = 0;
        let mut data: Option<Vec<u8>> = None;
        let mut is_end = false;
        loop {
            let UnbufferedStatus { discard, state, .. } = self.tls.process_tls_records(&mut input[start..consumed]);
            let is_done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    if let Some(Ok(record)) = traffic.next_record() {
                        data = Some(record.payload.to_vec());
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(record)) => {
                    encode(record, &mut self.own);
                    false
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    sent.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    is_end = true;
                    false
                }
                Ok(_) => true,
                Err(error) => {
                    self.fail();
                    return Err(Fault::of_rustls(&error));
                }
            };
            start += discard;
            if is_done {
                break;
            }
        }
        if start < consumed {
            self.state = State::Ended;
            return Err(Fault::UnexpectedMessage);
        }
        Ok(match data {
            Some(data) => {
                let content = HEADER_BYTES..HEADER_BYTES + data.len();
                input[content.clone()].copy_from_slice(&data);
                Opened::Data { content, consumed }
            }
            None if is_end => Opened::End { consumed },
            None => Opened::Own { consumed },
        })
    }

    /// Takes rustls's alert, and does not ask it again.
    fn fail(&mut self) {
        self.state = State::Ended;
        while self.tls.wants_write() {
            match self.tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(record)) => encode(record, &mut self.own),
                _ => break,
            }
        }
    }

    pub fn owes(&self) -> bool {
        !self.own.is_empty()
    }

    pub fn seal_own(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.own);
        self.own = Vec::new();
    }

    pub fn seal(&mut self, slices: &[IoSlice<'_>], skip: usize, content_max: usize, out: &mut Vec<u8>) -> usize {
        let length = length_of(slices, skip, content_max.min(CONTENT_BYTES_MAX));
        let at = out.len();
        out.resize(at + self.own.len() + length + OVERHEAD_BYTES, 0);
        let (content, bytes) = self.seal_into(slices, skip, content_max, &mut out[at..]);
        out.truncate(at + bytes);
        content
    }

    /// (content, record): with what it owed in front.
    pub fn seal_into(&mut self, slices: &[IoSlice<'_>], skip: usize, content_max: usize, out: &mut [u8]) -> (usize, usize) {
        let room = out.len().saturating_sub(self.own.len() + OVERHEAD_BYTES);
        let length = length_of(slices, skip, content_max.min(CONTENT_BYTES_MAX).min(room));
        if length == 0 || self.state != State::Open {
            return (0, 0);
        }
        let content = gather(slices, skip, length);
        let (own, place) = out.split_at_mut(self.own.len());
        match self.tls.process_tls_records(&mut []).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => match traffic.encrypt(&content, place) {
                Ok(bytes) => {
                    own.copy_from_slice(&std::mem::take(&mut self.own));
                    (length, own.len() + bytes)
                }
                Err(_) => {
                    self.state = State::Exhausted;
                    (0, 0)
                }
            },
            _ => (0, 0),
        }
    }

    pub fn is_exhausted(&self) -> bool {
        self.state == State::Exhausted
    }

    pub fn overhead(&self) -> usize {
        OVERHEAD_BYTES
    }

    /// rustls has said itself what it found; it takes no other alert than close_notify.
    pub fn alert(&mut self, fault: Fault, out: &mut Vec<u8>) {
        match fault.alert() {
            Some(CLOSE_NOTIFY) => self.close_notify(out),
            _ => self.seal_own(out),
        }
    }

    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        self.seal_own(out);
        if self.state == State::Ended {
            return;
        }
        loop {
            match self.tls.process_tls_records(&mut []).state {
                // As TLS 1.2 has it when its key is used up.
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let mut record = [0; 2 * OVERHEAD_BYTES];
                    let bytes = traffic.queue_close_notify(&mut record).unwrap_or_default();
                    out.extend_from_slice(&record[..bytes]);
                    self.state = State::Ended;
                    return;
                }
                _ => return,
            }
        }
    }
}
