//! What rustls tells only in passing: the traffic secrets of TLS 1.3, by its key log, and the name that a client asks for, when the certificate is chosen.
//!
//! Both are told from within `process_tls_records`, to an object that all connections share. So they are laid down for this thread, and taken away after each call:
//! another handshake under way would lay its own over them.

use std::cell::RefCell;

use rustls::KeyLog;

use super::keys::SECRET_BYTES_MAX;

thread_local! {
    static LAID_DOWN: RefCell<Noted> = const { RefCell::new(Noted { of_client: None, of_server: None, server_name: None }) };
}

/// Of one handshake.
#[derive(Default)]
pub(super) struct Noted {
    of_client: Option<Secret>,
    of_server: Option<Secret>,
    pub server_name: Option<String>,
}

#[derive(Clone, Copy)]
struct Secret {
    bytes: [u8; SECRET_BYTES_MAX],
    length: usize,
}

impl Noted {
    /// Takes what was laid down since the last call.
    pub fn take(&mut self) {
        let new = LAID_DOWN.take();
        self.of_client = new.of_client.or(self.of_client);
        self.of_server = new.of_server.or(self.of_server);
        if new.server_name.is_some() {
            self.server_name = new.server_name;
        }
    }

    pub fn of_client(&self) -> Option<&[u8]> {
        self.of_client.as_ref().map(|secret| &secret.bytes[..secret.length])
    }

    pub fn of_server(&self) -> Option<&[u8]> {
        self.of_server.as_ref().map(|secret| &secret.bytes[..secret.length])
    }
}

impl std::fmt::Debug for Noted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Noted").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Lays down the name that a client asks for.
pub(super) fn note_server_name(name: Option<&str>) {
    LAID_DOWN.with_borrow_mut(|noted| noted.server_name = name.map(str::to_owned));
}

const OF_CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const OF_SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// Lays down secrets.
#[derive(Debug)]
pub(super) struct Noting;

impl KeyLog for Noting {
    fn will_log(&self, label: &str) -> bool {
        label == OF_CLIENT || label == OF_SERVER
    }

    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut bytes = [0; SECRET_BYTES_MAX];
        let Some(place) = bytes.get_mut(..secret.len()) else { return };
        place.copy_from_slice(secret);
        let secret = Some(Secret { bytes, length: secret.len() });
        LAID_DOWN.with_borrow_mut(|noted| match label {
            OF_CLIENT => noted.of_client = secret,
            OF_SERVER => noted.of_server = secret,
            _ => {}
        });
    }
}
