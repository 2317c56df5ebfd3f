//! Why connections end: each reason with its name in the metrics, the close code and the words that the client gets, and what the client should
//! do then. A new reason is one row here and, if it has a close code, one in section 11 of `docs/protocol.md`, which a test holds against this table.
//!
//! The shards end connections with a reason; [`crate::metrics`] counts by it. How a close frame is written stands in [`super::frame`].

use crate::named::named;

named! {
    /// What a client should do after its connection has ended. Named as in `docs/protocol.md`.
    Reconnect {
        /// After a short random time, and resume: nothing is wrong with the server.
        AtOnce = "at once",
        /// After a random time that grows with each failure, and resume.
        Later = "later",
        /// It would end the same way, or it was the client's own wish.
        Not = "not",
    }
}

/// What a close frame of ours says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goodbye {
    /// RFC 6455, section 7.4, or one of ours from 4000 on.
    pub code: u16,
    pub reconnect: Reconnect,
    /// For whoever reads the client's log. Empty where only the occasion has the words.
    pub text: &'static str,
}

macro_rules! close_reasons {
    ($($(#[$meta:meta])* $variant:ident = $name:literal, $goodbye:expr;)*) => {
        named! {
            /// Why a connection that had been accepted came to its end. Each is counted in `campanile_connections_closed_total`.
            CloseReason { $($(#[$meta])* $variant = $name,)* }
        }

        impl CloseReason {
            /// What our close frame says; None where there is none.
            pub const fn goodbye(self) -> Option<Goodbye> {
                match self { $(CloseReason::$variant => $goodbye,)* }
            }
        }
    };
}

const fn goodbye(code: u16, reconnect: Reconnect, text: &'static str) -> Option<Goodbye> {
    Some(Goodbye { code, reconnect, text })
}

/// The connection ends without a close frame of ours. Whoever had a WebSocket sees code 1006.
const WITHOUT: Option<Goodbye> = None;

use Reconnect::{AtOnce, Later, Not};

close_reasons! {
    /// The client sent a close frame; its own code goes back.
    Client = "client", WITHOUT;
    /// The client closed the TCP connection without a close frame.
    Gone = "gone", WITHOUT;
    /// The socket reported an error (reset, broken pipe).
    Reset = "reset", WITHOUT;
    /// The client broke TLS, or never came to speak it. `campanile_tls_faults_total` says how.
    Tls = "tls", WITHOUT;
    /// An HTTP answer other than 101 was sent.
    Refused = "refused", WITHOUT;
    /// A request was answered, and the connection was not kept, or not used again.
    Answered = "answered", WITHOUT;
    /// No complete request head within the handshake deadline.
    HandshakeTimeout = "handshake_timeout", WITHOUT;
    /// No byte came back within the pong deadline.
    HeartbeatTimeout = "heartbeat_timeout", WITHOUT;
    /// The channel's log passed this connection's cursor and the policy is `disconnect`. The words name the channel.
    Overrun = "overrun", goodbye(4008, AtOnce, "");
    /// RFC 6455 was violated. The words say how.
    ProtocolError = "protocol_error", goodbye(1002, Not, "");
    /// A text message or close reason was not UTF-8. The words say which.
    InvalidUtf8 = "invalid_utf8", goodbye(1007, Not, "");
    /// A compressed message could not be inflated.
    InvalidDeflate = "invalid_deflate", goodbye(1007, Not, "");
    /// A message was larger than the limit. The words name it.
    MessageTooBig = "message_too_big", goodbye(1009, Not, "");
    /// A message was not finished within two heartbeats.
    MessageTimeout = "message_timeout", goodbye(1008, Not, "a message was not finished within two heartbeats");
    /// The token has expired, and no other took its place.
    TokenExpired = "token_expired", goodbye(4001, AtOnce, "the token has expired; reconnect with a new one");
    /// The token has been revoked.
    TokenRevoked = "token_revoked", goodbye(4001, AtOnce, "the token has been revoked; reconnect with a new one");
    /// An operator has closed it.
    Disconnected = "disconnected", goodbye(4002, Not, "disconnected by the operator of this server");
    /// It went on sending commands that were refused for their rate.
    Flooding = "flooding", goodbye(4029, Later, "too many commands, though they were refused; slow down");
    /// The shard's budget for per-connection buffers was used up.
    Buffers = "buffers", goodbye(1013, Later, "the server's buffers are full; try again later");
    /// The server restarts, or sheds load: the words say after what time to come back.
    Restart = "restart", goodbye(1012, Later, "");
    /// The server is stopping.
    Shutdown = "shutdown", goodbye(1001, Later, "the server is stopping; reconnect");
}

/// The words of [`CloseReason::Restart`], with the delay after which this client should come back.
pub fn reconnect_in(delay_ms: u64) -> String {
    format!("{RECONNECT_IN}{delay_ms} ms")
}

/// The delay in those words; None: there is none.
pub fn reconnect_delay_ms(text: &str) -> Option<u64> {
    text.strip_prefix(RECONNECT_IN)?.strip_suffix(" ms")?.parse().ok()
}

const RECONNECT_IN: &str = "reconnect in ";

impl CloseReason {
    /// The reason behind a close frame of ours, as a client reads it; one of them, where two have one code.
    pub fn of_code(code: u16) -> Option<CloseReason> {
        CloseReason::ALL.into_iter().find(|reason| reason.goodbye().is_some_and(|goodbye| goodbye.code == code))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::frame::{CLOSE_REASON_BYTES_MAX, is_close_code};

    #[test]
    fn every_close_code_may_be_sent_and_means_one_thing() {
        let goodbyes: Vec<Goodbye> = CloseReason::ALL.iter().filter_map(|reason| reason.goodbye()).collect();
        for Goodbye { code, text, .. } in &goodbyes {
            assert!(is_close_code(*code) && text.len() <= CLOSE_REASON_BYTES_MAX, "{code}: {text}");
        }
        // Two reasons may have one code, where the client should do the same.
        let meanings: BTreeSet<(u16, &str)> = goodbyes.iter().map(|goodbye| (goodbye.code, goodbye.reconnect.name())).collect();
        let codes: BTreeSet<u16> = goodbyes.iter().map(|goodbye| goodbye.code).collect();
        assert_eq!(codes.len(), meanings.len());
        for goodbye in goodbyes {
            let found = CloseReason::of_code(goodbye.code).and_then(CloseReason::goodbye).expect("it is one of ours");
            assert_eq!((found.code, found.reconnect), (goodbye.code, goodbye.reconnect));
        }
        assert_eq!(CloseReason::of_code(1006), None);
    }

    #[test]
    fn the_delay_is_read_as_it_is_written() {
        for delay_ms in [0, 3140, u64::MAX] {
            let text = reconnect_in(delay_ms);
            assert!(text.len() <= CLOSE_REASON_BYTES_MAX);
            assert_eq!(reconnect_delay_ms(&text), Some(delay_ms));
        }
        for text in ["", "reconnect in ms", "reconnect in -1 ms", "reconnect in 5 s", "please reconnect in 5 ms"] {
            assert_eq!(reconnect_delay_ms(text), None, "{text}");
        }
    }

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = CloseReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), CloseReason::ALL.len());
    }
}
