//! TLS 1.3 and 1.2 towards clients (RFC 8446, 5246): the handshake by rustls, one record at a time; after it a session of our own, which keeps
//! keys and numbers and nothing else.
//!
//! Called by a shard for each connection of a `tls://` listener, in this order:
//!
//! 1. [`handshake::Handshake`], made with the listener's [`acceptor::Acceptor`]: it is given whatever comes (`advance`) until it is done. Before
//!    `is_ready` it has cost nothing; from then on it costs CPU and memory, so the shard gives it a place first.
//! 2. [`handshake::Established`]: who is there, the layer that seals and opens from now on, and what came behind the handshake in ciphertext
//!    (`rest`), which is to be opened at once.
//! 3. [`layer::Layer`]: `open` for each record that comes; `seal` for what is to be sent; `seal_own` whenever it `owes`. A sealed record is
//!    spent: its number may never carry other bytes, unless none of them has left the process (`take_back`).
//! 4. At the end `close_notify`, or `alert` with the [`fault::Fault`] that `open` told.
//!
//! [`session`] is the compact layer, over [`record`] and [`keys`]; [`rustls_session`] is rustls's own, for whoever would rather have it; [`initiator`] the same
//! handshake from a client's side. [`certificate`] reads X.509, [`tickets`] are what a client resumes by.
//!
//! Invariants: no socket, no thread and no clock of ours is named here (rustls reads the clock to judge certificates); a session owns no buffer.
#![forbid(unsafe_code)]

pub mod acceptor;
pub mod certificate;
mod drive;
pub mod fault;
mod files;
pub mod handshake;
pub mod initiator;
pub mod keys;
pub mod layer;
mod noted;
pub mod record;
pub mod rustls_session;
pub mod session;
#[cfg(test)]
mod tests;
pub mod tickets;

use crate::named::named;

named! {
    /// In order of age.
    Version {
        Tls12 = "1.2",
        Tls13 = "1.3",
    }
}
