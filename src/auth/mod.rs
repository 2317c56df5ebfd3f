//! Who a client is, by the token that it brings: a JSON Web Token (RFC 7519), signed as RFC 7515 has it.
//!
//! [`keys`] reads what tokens are verified by, [`token`] verifies one and judges its claims, [`identity`] is what is known of its bearer
//! then, [`pattern`] says which channels a claim names, [`rules`] who may do what with a channel, [`cache`] knows a token again that was verified before,
//! and [`revoked`] which ones are honoured no more.
//!
//! [`mint`] makes tokens, for the command that does.
//!
//! Called by a shard for a request that asks for an upgrade, and for the command `refresh`. Invariants: no socket, no thread and no clock is
//! named here (`now` is an argument); no bearer is believed before its signature is; and nothing that is told or logged quotes a token, or a
//! secret.

pub mod cache;
pub mod identity;
pub mod keys;
pub mod mint;
pub mod pattern;
pub mod revoked;
pub mod rules;
#[cfg(test)]
mod tests;
pub mod token;

use std::sync::Arc;

use token::Verifier;

/// How clients say who they are. One for all shards.
#[derive(Debug, Clone, Default)]
pub enum Gate {
    /// Nobody is asked.
    #[default]
    Open,
    /// `?user=` is believed: for networks in which nobody lies.
    Query,
    /// By the certificate that their TLS session began with.
    Certificate,
    /// By a token.
    Tokens(Arc<Verifier>),
}
