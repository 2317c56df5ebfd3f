//! Revoking tokens: what the control thread asks of the bus, so that other nodes know it too, and how the bus tells what they have revoked.

use std::sync::Arc;

use tokio::sync::{Notify, oneshot};

use crate::auth::revoked::{Revocation, Revoked};

/// What is revoked, and the word that something new is. One of each for the process.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    pub table: Arc<Revoked>,
    /// Told by the bus thread when others have revoked something: connections are to be looked through.
    pub news: Arc<Notify>,
}

/// One that is to be stored for all nodes.
#[derive(Debug)]
pub struct Revoke {
    pub revocation: Revocation,
    /// Unix time in seconds.
    pub until_s: u64,
    pub reply: oneshot::Sender<Result<(), RevokeError>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    #[error("Redis cannot be reached")]
    Unavailable,
    #[error("Redis refused it: {0}")]
    Refused(String),
}

impl Revoke {
    /// Nobody need wait for it any more.
    pub fn answer(self, result: Result<(), RevokeError>) {
        let _ = self.reply.send(result);
    }
}
